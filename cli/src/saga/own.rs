//! The operator's own definitions, in YAML; see docs/sagas.md. Read strictly: what is not known is told with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostName, ResourceId, SagaId, TopologyId, UnixSeconds};
use moorline_common::op::Act;
use moorline_common::saga::{ATTEMPTS_MAX, Condition, HubAct, Kind, PLAN_MAX, Side};
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::draft::{Builder, Draft, OnHost, Patience, Step, Task, description, mark};
use super::given::Given;
use crate::clock;
use crate::cmd::op::draft as order;
use crate::cmd::op::guest::meant::{self, Named};
use crate::error::Failure;

/// How long a try may take when nobody says otherwise, in seconds.
const TIMEOUT_S: u64 = 15 * 60;

/// A definition as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    kind: Kind,
    steps: Vec<StepText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepText {
    name: Spanned<String>,
    on: Option<String>,
    op: Option<String>,
    params: Option<Value>,
    made_by: Option<String>,
    applied: Option<AppliedText>,
    retry: Option<RetryText>,
    timeout: Option<String>,
    group: Option<u32>,
    #[serde(default)]
    irreversible: bool,
    #[serde(default)]
    when: Vec<WhenText>,
    undo: Option<UndoText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoText {
    op: Spanned<String>,
    on: Option<String>,
    params: Option<Value>,
    made_by: Option<String>,
    retry: Option<RetryText>,
    timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryText {
    attempts: Option<u32>,
    backoff: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppliedText {
    topology: String,
    generation: u64,
    hosts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WhenText {
    Connected(String),
    After(String),
    Newest { topology: String, generation: u64 },
}

/// A definition of the operator's own.
#[derive(Debug)]
pub struct Own {
    file: String,
    text: Text,
}

/// One side of a step as it stands in a file.
struct SideText<'t> {
    side: Side,
    line: u64,
    on: &'t str,
    op: &'t str,
    params: Option<&'t Value>,
    made_by: Option<&'t String>,
    patience: (Option<&'t RetryText>, Option<&'t String>),
}

impl Own {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Code::BadSaga`] with the line; when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |e: &std::io::Error| Failure::file("read", path, e).with_remedy("check the path that -f names");
        let most = u64::try_from(PLAN_MAX).unwrap_or(u64::MAX);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
        file.take(most.saturating_add(1)).read_to_string(&mut text).map_err(|e| failed(&e))?;
        if text.len() > PLAN_MAX {
            return Err(Fault::new(Code::TooLarge, format!("{} has more than {PLAN_MAX} bytes", path.display())).into());
        }
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`Code::BadSaga`] with the line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Failure> {
        let text = serde_saphyr::from_str::<Text>(text).map_err(|e| bad(file, vec![e.to_string()]))?;
        Ok(Self { file: file.to_owned(), text })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text.name
    }

    /// The hosts that it has operations on.
    ///
    /// # Errors
    /// [`Code::BadSaga`] with the lines of those that are none.
    pub fn hosts(&self, saga_id: &SagaId, set: &BTreeMap<String, String>) -> Result<BTreeSet<HostName>, Failure> {
        let (mut hosts, mut wrong) = (BTreeSet::new(), Vec::new());
        let fill = Fill { saga_id, steps: &self.text.steps, set, step: 0, asked: &|_| {} };
        for step in &self.text.steps {
            let on = step.on.iter().chain(step.undo.iter().filter_map(|undo| undo.on.as_ref()));
            for text in on {
                match fill.text(text).and_then(|on| Ok(order::target(&on).map_err(|e| e.message)?.0)) {
                    Ok(host) => {
                        hosts.insert(host);
                    }
                    Err(why) => wrong.push(at(line(&step.name), &why)),
                }
            }
        }
        if wrong.is_empty() { Ok(hosts) } else { Err(bad(&self.file, wrong)) }
    }

    /// The saga that it makes of what it is given.
    ///
    /// # Errors
    /// [`Code::BadSaga`] with the line of everything that is wrong.
    pub fn draft(&self, given: &Given<'_>) -> Result<Draft, Failure> {
        let (mut plan, mut wrong) = (Builder::default(), Vec::new());
        let mut groups = Vec::new();
        for (number, text) in self.text.steps.iter().enumerate() {
            groups.push(text.group.unwrap_or_else(|| groups.last().map_or(0, |group: &u32| group.saturating_add(1))));
            match self.step(given, number, text) {
                Ok(step) => plan.step(step),
                Err(why) => wrong.extend(why),
            }
        }
        if !wrong.is_empty() {
            return Err(bad(&self.file, wrong));
        }
        given.all_asked()?;
        let steps = plan.steps().into_iter().zip(groups).map(|(step, group)| Step { group, ..step }).collect();
        let inputs = given.set.clone();
        let mut draft =
            Draft { saga_id: given.saga_id.clone(), name: self.text.name.clone(), kind: self.text.kind, inputs, steps, boots: Vec::new() };
        given.aim(&mut draft)?;
        Ok(draft)
    }

    fn step(&self, given: &Given<'_>, number: usize, text: &StepText) -> Result<Step, Vec<String>> {
        let line = line(&text.name);
        let mut wrong = Vec::new();
        let ask = |key: &str| {
            let _ = given.input(key);
        };
        let fill = Fill { saga_id: given.saga_id, steps: &self.text.steps, set: given.set, step: number, asked: &ask };
        let patience = (text.retry.as_ref(), text.timeout.as_ref());
        let run = match (&text.on, &text.op, &text.applied) {
            (Some(on), Some(op), None) => {
                let (params, made_by) = (text.params.as_ref(), text.made_by.as_ref());
                task(given, &fill, &SideText { side: Side::Do, line, on, op, params, made_by, patience })
            }
            (None, None, Some(applied)) => applied_task(applied, line, patience),
            (_, _, _) => Err(at(line, "a step has `on` and `op`, or `applied` alone")),
        };
        let undo = text.undo.as_ref().map(|undo| {
            let line = self::line(&undo.op);
            let Some(on) = undo.on.as_ref().or(text.on.as_ref()) else {
                return Err(at(line, "what is undone on a host was done there: the step has no `on`"));
            };
            let (params, made_by, patience) = (undo.params.as_ref(), undo.made_by.as_ref(), (undo.retry.as_ref(), undo.timeout.as_ref()));
            task(given, &fill, &SideText { side: Side::Undo, line, on, op: &undo.op.value, params, made_by, patience })
        });
        let when = text.when.iter().map(|when| condition(when).map_err(|why| at(line, &why)));
        let when: Vec<Condition> = when.filter_map(|when| when.map_err(|why| wrong.push(why)).ok()).collect();
        let undo = undo.transpose().map_err(|why| wrong.push(why)).ok().flatten();
        let run = run.map_err(|why| wrong.push(why)).ok();
        match run.filter(|_| wrong.is_empty()) {
            Some(run) => Ok(Step { undo, irreversible: text.irreversible, when, ..Step::new(text.name.value.clone(), run) }),
            None => Err(wrong),
        }
    }
}

fn task(given: &Given<'_>, fill: &Fill<'_>, text: &SideText<'_>) -> Result<Task, String> {
    let wrong = |why: &str| at(text.line, why);
    let on = fill.text(text.on).map_err(|why| wrong(&why))?;
    let (host, rest) = order::target(&on).map_err(|e| wrong(&e.message))?;
    let resource = resource(given, &host, text.op, rest).map_err(|e| wrong(&format!("{}; {}", e.message, e.remedy)))?;
    let params = text.params.map_or_else(|| Ok(Value::Object(serde_json::Map::new())), |params| fill.value(params));
    let act = params.and_then(|params| Act::read(text.op, &params, &resource).map_err(|fault| fault.message));
    let act = act.map_err(|why| wrong(&why))?;
    let on = OnHost { host, resource, act, incarnation: None, made_by: text.made_by.cloned() };
    let patience = patience(text.side, text.patience).map_err(|why| wrong(&why))?;
    Ok(Task { what: super::What::Host(Box::new(on)), patience })
}

/// The resource that stands behind the host's name.
fn resource(given: &Given<'_>, host: &HostName, op: &str, text: Option<&str>) -> Result<ResourceId, Failure> {
    // How a resource is named depends on what is done: to images, to the host as a whole, or to anything else.
    let like = match op {
        "pull" => Act::Pull,
        "prune" | "time-reset" | "confirm" | "survey" => Act::TimeReset,
        _ => Act::Start,
    };
    let named = text.filter(|_| like == Act::Start).map(meant::named).transpose()?.flatten();
    match named {
        Some(Named::Name(name)) => Ok(meant::by_name(&name, given.host(host)?.observed.as_ref())?.resource()),
        Some(Named::Number(_)) | None => order::resource(&like, text),
    }
}

fn applied_task(text: &AppliedText, line: u64, patience: (Option<&RetryText>, Option<&String>)) -> Result<Task, String> {
    let read = || -> Result<Task, String> {
        let act = HubAct::Applied {
            topology: TopologyId::parse(text.topology.clone()).map_err(|e| e.to_string())?,
            generation: Generation(text.generation),
            hosts: text.hosts.iter().map(|host| HostName::parse(host).map_err(|e| e.to_string())).collect::<Result<_, _>>()?,
        };
        Ok(Task::of_hub(act, self::patience(Side::Do, patience)?))
    };
    read().map_err(|why| at(line, &why))
}

fn patience(side: Side, (retry, timeout): (Option<&RetryText>, Option<&String>)) -> Result<Patience, String> {
    let usual = match side {
        Side::Do => Patience { backoff_s: 10, ..Patience::once(TIMEOUT_S) },
        Side::Undo => Patience::undo(TIMEOUT_S),
    };
    let span = |text: &String| clock::parse_span(text).map(|span| span.as_secs());
    let attempts = retry.and_then(|retry| retry.attempts).unwrap_or(usual.attempts);
    if attempts == 0 || attempts > ATTEMPTS_MAX {
        return Err(format!("`attempts` is 1 to {ATTEMPTS_MAX}"));
    }
    Ok(Patience {
        attempts,
        backoff_s: retry.and_then(|retry| retry.backoff.as_ref()).map_or(Ok(usual.backoff_s), span)?,
        timeout_s: timeout.map_or(Ok(usual.timeout_s), span)?,
    })
}

fn condition(text: &WhenText) -> Result<Condition, String> {
    Ok(match text {
        WhenText::Connected(host) => Condition::Connected(HostName::parse(host).map_err(|e| e.to_string())?),
        WhenText::After(text) => {
            let moment: jiff::Timestamp = text.parse().map_err(|_| format!("`{text}` is no moment such as 2026-11-23T10:00:00Z"))?;
            Condition::After(UnixSeconds(u64::try_from(moment.as_second()).map_err(|_| format!("`{text}` is before 1970"))?))
        }
        WhenText::Newest { topology, generation } => Condition::Newest {
            topology: TopologyId::parse(topology.clone()).map_err(|e| e.to_string())?,
            generation: Generation(*generation),
        },
    })
}

/// What stands for something else in a file: `${saga}`, `${mark}`, `${mark:STEP}`, `${description}`, and inputs by their names.
struct Fill<'f> {
    saga_id: &'f SagaId,
    steps: &'f [StepText],
    set: &'f BTreeMap<String, String>,
    step: usize,
    asked: &'f dyn Fn(&str),
}

impl Fill<'_> {
    fn text(&self, text: &str) -> Result<String, String> {
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, behind)) = after.split_once('}') else {
                return Err(format!("`${{{after}` has no end"));
            };
            filled.push_str(before);
            filled.push_str(&self.named(name)?);
            rest = behind;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn named(&self, name: &str) -> Result<String, String> {
        match name {
            "saga" => return Ok(self.saga_id.to_string()),
            "mark" => return Ok(mark(self.saga_id, self.step)),
            "description" => return Ok(description(self.saga_id, self.step)),
            _ => {}
        }
        if let Some(step) = name.strip_prefix("mark:") {
            let number = self.steps.iter().position(|text| text.name.value == step);
            return number.map(|number| mark(self.saga_id, number)).ok_or_else(|| format!("there is no step `{step}`"));
        }
        (self.asked)(name);
        let value = self.set.get(name).cloned();
        value.ok_or_else(|| format!("nothing is said for `${{{name}}}`: say `--set {name}=…`"))
    }

    fn value(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(values) => Value::Array(values.iter().map(|value| self.value(value)).collect::<Result<_, _>>()?),
            Value::Object(values) => {
                let filled = values.iter().map(|(key, value)| Ok((key.clone(), self.value(value)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }
}

fn line<T>(spanned: &Spanned<T>) -> u64 {
    spanned.referenced.line()
}

fn at(line: u64, why: &str) -> String {
    format!("line {line}: {why}")
}

/// The refusal of a file, with a line for everything that is wrong.
fn bad(file: &str, wrong: Vec<String>) -> Failure {
    let count = wrong.len();
    let details = wrong.into_iter().map(|why| format!("{file}: {why}")).collect();
    let message = format!("{file} has {count} problem{}", if count == 1 { "" } else { "s" });
    Failure::from(Fault::new(Code::BadSaga, message))
        .with_remedy("mend the file; docs/sagas.md says how one is written")
        .with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::testing::{self, assert_orders_are_the_plans, hosts, id, sealed, set};

    const FILE: &str = r#"
name: grow-disk
kind: update
steps:
  - name: snapshot
    on: pve-1/${guest}
    op: snapshot-create
    params: { name: "${mark}", description: "${description}" }
    retry: { attempts: 2, backoff: 30s }
    timeout: 1h
    undo: { op: snapshot-delete, params: { name: "${mark}" } }
  - name: grow
    on: pve-1/${guest}
    op: resize
    params: { disk: scsi0, size: 64G }
    when: [ { connected: pve-1 }, { newest: { topology: edge, generation: 3 } } ]
    undo:
      op: snapshot-rollback
      params: { name: "${mark:snapshot}", start: true }
      retry: { attempts: 9 }
  - name: seen
    applied: { topology: edge, generation: 3, hosts: [pve-1] }
  - name: other
    group: 2
    on: pve-2/guest/cache
    op: start
  - name: last
    irreversible: true
    on: pve-1/101
    op: start
"#;

    fn read(text: &str, pairs: &[(&str, &str)]) -> Result<Draft, Failure> {
        let own = Own::parse("own.yaml", text)?;
        let (id, hosts, set) = (id(), hosts(), set(pairs));
        own.hosts(&id, &set)?;
        own.draft(&Given::new(&id, &hosts, &[], &set))
    }

    #[test]
    fn a_file_becomes_a_plan_like_any_other() {
        let own = Own::parse("own.yaml", FILE).unwrap();
        let names: Vec<String> = own.hosts(&id(), &set(&[("guest", "101")])).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["pve-1", "pve-2"]);
        let draft = read(FILE, &[("guest", "101")]).unwrap();
        assert_eq!(draft.steps.iter().map(|step| step.group).collect::<Vec<_>>(), [0, 1, 2, 2, 3]);
        let snapshot = &draft.steps[0];
        assert_eq!(snapshot.run.patience, Patience { attempts: 2, backoff_s: 30, timeout_s: 3600 });
        assert_eq!(snapshot.run.host().unwrap().act.params()["name"], "m0197a2b41c3d7e5f8a6b0123456789ab_0");
        let grow = &draft.steps[1];
        assert_eq!(grow.when.len(), 2);
        let back = grow.undo.as_ref().unwrap();
        assert_eq!((back.patience.attempts, back.host().unwrap().incarnation.as_deref()), (9, Some(testing::MACHINE)));
        assert_eq!(back.host().unwrap().act.params()["name"], "m0197a2b41c3d7e5f8a6b0123456789ab_0");
        assert_eq!(draft.steps[3].run.host().unwrap().resource.to_string(), "pve/guest/205");
        let sealed = sealed(&draft);
        assert_eq!(sealed.plan.inputs, set(&[("guest", "101")]));
        assert_orders_are_the_plans(&sealed);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        let step = |lines: &str| format!("name: a\nkind: test\nsteps:\n  - name: one\n{lines}");
        for (text, says) in [
            ("name: a\nkind: tset\nsteps: []\n".to_owned(), "line 2"),
            ("name: a\nkind: test\nstep: []\n".to_owned(), "line 3"),
            (step("    on: pve-1/101\n    op: explode\n"), "line 4: there is no operation `explode`"),
            (step("    on: pve-1/101\n    op: start\n    param: {}\n"), "line 7"),
            (step("    on: pve-1/101\n    op: shutdown\n    params: { timeout: 3 }\n"), "line 4: the parameters of `shutdown`"),
            (step("    on: pve-1/101\n    op: start\n    undo:\n      op: sotp\n"), "line 8: there is no operation `sotp`"),
            (step("    on: pve-1/${nmae}\n    op: start\n"), "--set nmae="),
            (step("    on: pve-1/101\n    op: snapshot-delete\n    params: { name: \"${mark:two}\" }\n"), "there is no step `two`"),
            (step("    op: start\n"), "`on` and `op`"),
            (step("    on: pve-1/101\n    op: start\n    retry: { attempts: 17 }\n"), "1 to 16"),
            (step("    on: pve-1/101\n    op: start\n    timeout: soon\n"), "span of time"),
            (step("    on: pve-1/101\n    op: start\n    when: [ { after: tomorrow } ]\n"), "no moment"),
        ] {
            let failure = read(&text, &[]).unwrap_err();
            let told = format!("{}\n{}", failure.message, failure.details.join("\n"));
            assert!(failure.is(Code::BadSaga) && told.contains(says), "`{says}` in {told}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let text =
            "name: a\nkind: test\nsteps:\n  - { name: one, on: pve-1/101, op: explode }\n  - { name: two, on: pve-1/101, op: sotp }\n";
        assert_eq!(read(text, &[]).unwrap_err().details.len(), 2);
    }

    #[test]
    fn the_order_of_a_files_steps_is_checked_as_any_plans() {
        let text = "name: a\nkind: test\nsteps:\n  - { name: one, on: pve-1/101, op: destroy, irreversible: true }\n  - { name: two, on: pve-1/101, op: start }\n";
        let draft = read(text, &[]).unwrap();
        let root = crate::revision::tests::trust();
        let refused = testing::terms(&root).plan(&draft, &hosts(), |_, _| Ok("0".repeat(64))).unwrap_err();
        assert!(refused.is(Code::BadSaga) && refused.message.contains("step 2 (`two`)"), "{refused:?}");
    }
}
