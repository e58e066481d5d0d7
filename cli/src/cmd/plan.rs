//! `moorctl plan`: what a topology file would change on each host, judged by the host's last signed report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use moorline_common::fault::Code;
use moorline_common::id::UnixSeconds;
use moorline_common::observe::{EngineState, Observed};
use moorline_common::plan::{Action, Blocked, Identity, Plan, docker};
use moorline_common::statement::Held;
use moorline_common::topology::HostSpec;
use owo_colors::OwoColorize;
use serde::Serialize;

use super::{Env, deploy};
use crate::client::{HostView, ReportView};
use crate::clock;
use crate::desired;
use crate::error::{EXIT_CHANGES, Failure};
use crate::inputs::InputArgs;
use crate::render::Ui;
use crate::revision::{self, ChangeKind, HostChange};

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The topology file; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// What the file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
}

#[derive(Serialize)]
struct Outcome {
    topology: String,
    base_generation: u64,
    /// Whether pushing the file would change anything.
    changes: bool,
    hosts: Vec<HostPlan>,
    /// Entries whose hosts are not bound yet.
    awaiting: Vec<String>,
}

#[derive(Serialize)]
struct HostPlan {
    #[serde(flatten)]
    change: HostChange,
    /// How old the report is; none when the host never sent one.
    report_age_s: Option<u64>,
    /// What stands in the way of a plan that can be relied on.
    notes: Vec<String>,
    /// What an operation keeps unlike the topology, by the host's report.
    held: Vec<Held>,
    plan: Plan,
}

impl HostPlan {
    /// Says what is held. Other content lifts all holds of its host; without that the agent leaves alone what is held.
    fn tell_held(&mut self) {
        let is_lifted = self.change.change != ChangeKind::Unchanged;
        for held in &self.held {
            let (resource, op) = (&held.resource, &held.op_id);
            let then = match is_lifted {
                true => "the new content lifts that".to_owned(),
                false => format!("it stays so until other content is pushed or `moorctl op release {}/{resource}`", self.change.host),
            };
            self.notes.push(format!("{resource} is held by op {op}: {then}"));
        }
        if !is_lifted {
            self.plan.steps.retain(|step| !self.held.iter().any(|held| held.resource == step.resource));
        }
    }

    fn has_changes(&self) -> bool {
        self.change.change != ChangeKind::Unchanged || !self.plan.steps.is_empty() || !self.plan.blocked.iter().all(only_waits)
    }
}

/// Runs it; exit 2 when something would change.
///
/// # Errors
/// `bad_topology`; what calls can fail with.
pub async fn run(args: PlanArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let source = desired::read(ui, &args.file, &args.inputs)?;
    let topology = source.file.topology.clone();
    let client = env.client(ui).await?;
    let current = client.current(&topology, true).await?;
    let scene = deploy::scene(&client, ui, &topology, current).await?;
    let desired = deploy::wanted(ui, &topology, Some(&source), &scene)?;
    let known: BTreeMap<_, _> = scene.hosts.iter().map(|h| (&h.host_id, h)).collect();
    let mut planned = Vec::with_capacity(desired.hosts.len());
    for change in revision::changes(&desired.hosts, &scene.previous, &scene.hosts)? {
        if let (Some(host), Some(spec)) = (known.get(&change.host_id), desired.hosts.get(&change.host_id)) {
            planned.push((*host, spec, change));
        }
    }
    let reports = client.reports(&planned.iter().map(|(host, _, _)| *host).collect::<Vec<_>>()).await;
    let now = clock::now();
    let mut hosts = Vec::with_capacity(planned.len());
    for ((host, spec, change), report) in planned.into_iter().zip(reports) {
        let identity = Identity { cluster: client.root.cluster.clone(), host_id: host.host_id.clone(), topology: topology.clone() };
        hosts.push(plan_host(now, &identity, host, spec, (change, report))?);
    }
    let same = source.means_the_same_as(scene.previous.source.as_deref().unwrap_or_default(), &scene.previous.inputs);
    hosts.iter_mut().for_each(HostPlan::tell_held);
    let changes = hosts.iter().any(HostPlan::has_changes) || (!desired.pending.is_empty() && !same);
    let outcome =
        Outcome { topology: topology.to_string(), base_generation: scene.previous.generation.0, changes, hosts, awaiting: desired.pending };
    ui.result(&outcome, || words(&outcome))?;
    Ok(if changes { EXIT_CHANGES } else { 0 })
}

fn plan_host(
    now: UnixSeconds,
    identity: &Identity,
    host: &HostView,
    spec: &HostSpec,
    (change, report): (HostChange, Result<Option<ReportView>, Failure>),
) -> Result<HostPlan, Failure> {
    let mut notes = Vec::new();
    let report = match report {
        Ok(report) => report,
        Err(failure) => {
            notes.push(format!("its report does not count: {failure}"));
            None
        }
    };
    let report_age_s = report.as_ref().map(|r| r.age_s(now));
    let observed = match &report {
        Some(report) => report.report.statement().observed.clone(),
        None => Observed::default(),
    };
    let blind = observed.engine == EngineState::Unreachable
        && observed.networks.is_empty()
        && observed.volumes.is_empty()
        && observed.containers.is_empty();
    if report.is_none() {
        notes.push("no report yet: planned for an empty host".to_owned());
    } else if blind {
        notes.push("unknown: engine unreachable, nothing seen yet".to_owned());
    } else if observed.engine == EngineState::Unreachable {
        notes.push("its engine was unreachable: planned with what was seen before".to_owned());
    }
    if observed.trimmed {
        notes.push("its report was too large and came cut: the agent, which sees everything, may plan other steps".to_owned());
    }
    if !host.connected {
        notes.push("offline: it gets the change when it connects".to_owned());
    }
    let empty = revision::empty_hash()?;
    if let Some(other) = host.target.as_ref().filter(|t| t.topology != identity.topology && t.hash.as_ref() != Some(&empty)) {
        notes.push(format!("it follows topology `{}`: a push is refused until that one is down", other.topology));
    }
    let plan = if blind { Plan::default() } else { docker::plan(identity, spec, &observed) };
    let held = report.map(|r| r.report.statement().apply.held.clone()).unwrap_or_default();
    Ok(HostPlan { plan, change, report_age_s, notes, held })
}

fn words(outcome: &Outcome) -> String {
    let mut text = String::new();
    for host in &outcome.hosts {
        text.push_str(&host_words(host));
    }
    let steps = outcome.hosts.iter().flat_map(|h| &h.plan.steps);
    let wait = outcome.hosts.iter().flat_map(|h| &h.plan.blocked).filter(|b| only_waits(b)).count();
    let wait = if wait == 0 { String::new() } else { format!(", {wait} to follow when others are so far") };
    let (mut create, mut replace, mut remove) = (0, 0, 0);
    for step in steps {
        match sign(&step.action) {
            Sign::Plus => create += 1,
            Sign::Tilde => replace += 1,
            Sign::Minus => remove += 1,
        }
    }
    if !outcome.awaiting.is_empty() {
        text.push_str(&format!("not joined yet: {}\n", outcome.awaiting.join(", ")));
    }
    text.push_str(&match (outcome.changes, create + replace + remove) {
        (false, _) => match outcome.hosts.iter().map(|h| h.plan.drift.len()).sum::<usize>() {
            0 => format!("no changes: `{}` is as the file says\n", outcome.topology),
            1 => "nothing to push; 1 difference waits for an operator\n".to_owned(),
            n => format!("nothing to push; {n} differences wait for an operator\n"),
        },
        (true, 0) => "a new generation; nothing to do on the hosts now\n".to_owned(),
        (true, _) => {
            format!("{create} to create or start, {replace} to replace, {remove} to remove on {} host(s){wait}\n", outcome.hosts.len())
        }
    });
    text
}

/// Whether nothing is wrong: the resource follows by itself.
fn only_waits(blocked: &Blocked) -> bool {
    blocked.code.is_none_or(|code| code == Code::Waiting)
}

enum Sign {
    Plus,
    Tilde,
    Minus,
}

const fn sign(action: &Action) -> Sign {
    match action {
        Action::CreateNetwork(_)
        | Action::CreateVolume(_)
        | Action::CreateContainer(_)
        | Action::StartContainer { .. }
        | Action::UnpauseContainer { .. } => Sign::Plus,
        Action::ReplaceNetwork { .. } | Action::ReplaceContainer { .. } => Sign::Tilde,
        Action::RemoveNetwork { .. } | Action::RemoveContainer { .. } => Sign::Minus,
    }
}

fn host_words(host: &HostPlan) -> String {
    let seen = match host.report_age_s {
        Some(seconds) => format!("verified report, {} old", clock::span_words(seconds)),
        None => "no report".to_owned(),
    };
    let what = match host.change.change {
        ChangeKind::Added => "is added",
        ChangeKind::Changed => "changes",
        ChangeKind::Unchanged => "has the same content",
        ChangeKind::Leaves => "leaves and is torn down; volumes stay",
    };
    let mut text = format!("{} {what} {}\n", host.change.host.bold(), format!("({seen})").dimmed());
    for note in &host.notes {
        text.push_str(&format!("    {}: {note}\n", "note".yellow()));
    }
    for step in &host.plan.steps {
        let line = format!("{} {} — {}", step.action.verb(), step.resource, step.reason);
        let line = match sign(&step.action) {
            Sign::Plus => format!("+ {line}").green().to_string(),
            Sign::Tilde => format!("~ {line}").yellow().to_string(),
            Sign::Minus => format!("- {line}").red().to_string(),
        };
        text.push_str(&format!("  {line}\n"));
    }
    for blocked in &host.plan.blocked {
        let line = match blocked.code.filter(|_| !only_waits(blocked)) {
            None => format!("… {} — {}", blocked.resource, blocked.reason).dimmed().to_string(),
            Some(code) => format!("! {} — {} [{code}]", blocked.resource, blocked.reason).red().to_string(),
        };
        text.push_str(&format!("  {line}\n"));
    }
    for drift in &host.plan.drift {
        text.push_str(&format!(
            "  {} {} {}: is {}, should be {}\n",
            "≠".yellow(),
            drift.resource,
            drift.field,
            drift.actual,
            drift.expected
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::host;
    use moorline_common::drift::Drift;
    use moorline_common::id::{ClusterId, TopologyId};
    use moorline_common::sign::{PrivateKey, Signed};
    use moorline_common::statement::{ApplyReport, ObservedReport};
    use serde_json::json;

    fn host_plan(spec: serde_json::Value) -> HostPlan {
        let view = host(10, "shop-17");
        let spec: HostSpec = serde_json::from_value(spec).unwrap();
        let identity = Identity {
            cluster: ClusterId::parse("acme").unwrap(),
            host_id: view.host_id.clone(),
            topology: TopologyId::parse("edge").unwrap(),
        };
        let to = revision::content_hash(&spec).unwrap();
        let change = HostChange { host: "shop-17".into(), host_id: view.host_id, change: ChangeKind::Added, from: None, to };
        let plan = docker::plan(&identity, &spec, &Observed::default());
        HostPlan { change, report_age_s: None, notes: vec!["no report yet: planned for an empty host".into()], held: Vec::new(), plan }
    }

    #[test]
    fn a_plan_reads_as_what_happens_and_why() {
        let healthy = json!({"condition": "service_healthy"});
        let plan = host_plan(json!({"docker": {"services": {
            "db": {"image": "db:1", "healthcheck": {"test": ["CMD", "true"]}},
            "site": {"image": "site:1", "depends_on": {"db": healthy}},
        }}}));
        assert!(plan.has_changes());
        let outcome =
            Outcome { topology: "edge".into(), base_generation: 0, changes: true, hosts: vec![plan], awaiting: vec!["shop-18".into()] };
        let text = anstream::adapter::strip_str(&words(&outcome)).to_string();
        let expected = "shop-17 is added (no report)\n    note: no report yet: planned for an empty host\n  \
                        + create docker/network/edge_default — does not exist\n  \
                        + create docker/container/edge-db-1 — does not exist\n  \
                        … docker/container/edge-site-1 — waits for `edge-db-1` to be healthy\n\
                        not joined yet: shop-18\n\
                        2 to create or start, 0 to replace, 0 to remove on 1 host(s), 1 to follow when others are so far\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_host_that_only_waits_has_no_changes() {
        let mut plan = host_plan(json!({}));
        plan.change.change = ChangeKind::Unchanged;
        assert!(!plan.has_changes());
        let resource = moorline_common::id::ResourceId::parse("docker/container/edge-site-1").unwrap();
        plan.plan.blocked.push(Blocked { resource: resource.clone(), code: Some(Code::Waiting), reason: String::new() });
        assert!(!plan.has_changes());
        plan.plan.blocked.push(Blocked { resource, code: Some(Code::NotOwned), reason: String::new() });
        assert!(plan.has_changes());
    }

    #[test]
    fn a_plan_with_differences_that_wait_does_not_say_that_all_is_as_the_file_says() {
        let mut plan = host_plan(json!({}));
        plan.change.change = ChangeKind::Unchanged;
        let outcome =
            |hosts: Vec<HostPlan>| Outcome { topology: "edge".into(), base_generation: 3, changes: false, hosts, awaiting: Vec::new() };
        assert!(words(&outcome(Vec::new())).contains("no changes: `edge` is as the file says"));
        let resource = moorline_common::id::ResourceId::parse("docker/network/edge_default").unwrap();
        plan.plan.drift.push(Drift { resource, field: "driver".into(), expected: "bridge".into(), actual: "macvlan".into() });
        assert!(!plan.has_changes());
        let text = words(&outcome(vec![plan]));
        assert!(text.ends_with("nothing to push; 1 difference waits for an operator\n") && !text.contains("as the file says"), "{text}");
    }

    #[test]
    fn nothing_is_made_up_for_a_host_of_which_nothing_was_seen() {
        let view = host(10, "shop-17");
        let spec: HostSpec = serde_json::from_value(json!({"docker": {"services": {"site": {"image": "site:1"}}}})).unwrap();
        let identity = Identity {
            cluster: ClusterId::parse("acme").unwrap(),
            host_id: view.host_id.clone(),
            topology: TopologyId::parse("edge").unwrap(),
        };
        let plan = |observed: Observed| {
            let report =
                ObservedReport { host_id: view.host_id.clone(), taken_at: UnixSeconds(1), observed, apply: ApplyReport::default() };
            let key = PrivateKey::from_seed(&[10; 32]);
            let report = Signed::seal(&report, &[&key]).unwrap().verify_by_host(&key.public()).unwrap();
            let to = revision::content_hash(&spec).unwrap();
            let change = HostChange { host: "shop-17".into(), host_id: view.host_id.clone(), change: ChangeKind::Added, from: None, to };
            plan_host(UnixSeconds(61), &identity, &view, &spec, (change, Ok(Some(ReportView { report, received_unix_ms: 61_000 }))))
                .unwrap()
        };
        let blind = plan(Observed { engine: EngineState::Unreachable, ..Observed::default() });
        assert_eq!(blind.report_age_s, Some(60), "by the time that the host signed, not the hub's");
        assert!(blind.plan.steps.is_empty());
        assert_eq!(blind.notes, ["unknown: engine unreachable, nothing seen yet"]);
        assert!(!plan(Observed { engine: EngineState::Ready, ..Observed::default() }).plan.steps.is_empty());
    }
}
