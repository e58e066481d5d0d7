//! What a step changes, field by field, for those who review it.
//!
//! It speaks the words of [`compare`], and says for each field what the host has and what it gets. Nothing decides by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compare::{self, Difference};
use super::lower::LoweredSpec;
use super::{Action, ContainerTarget, NetworkTarget, Step, in_place};
use crate::id::ResourceId;
use crate::observe::{ContainerConfig, ContainerState, LABEL_SPEC, Observed, ObservedContainer, ObservedNetwork, ObservedVolume};
use crate::topology::Options;

/// One field, or one entry of a field that is a list or a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldChange {
    /// The field, in the topology file's words, such as `image` or `environment.HOST`.
    pub field: String,
    /// What the host has; `None` for nothing.
    pub live: Option<String>,
    /// What it gets; `None` when the file names it no longer.
    pub wanted: Option<String>,
}

/// A step in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// Why it is done, without what the fields say anyway.
    pub why: String,
    /// What it changes, by field.
    pub fields: Vec<FieldChange>,
}

/// What `step` of a plan for `observed` changes. `before` is what the revision before wanted of the host, as far as that is known:
/// by it alone can be told what the file no longer names.
#[must_use]
pub fn of(step: &Step, observed: &Observed, before: &LoweredSpec) -> Detail {
    let created = |fields: Vec<Difference>| Detail { why: step.reason.clone(), fields: told(fields) };
    match &step.action {
        Action::CreateNetwork(target) => created(compare::network(&target.spec, &ObservedNetwork::default())),
        Action::CreateVolume(target) => created(compare::volume(&target.spec, &ObservedVolume::default())),
        Action::CreateContainer(target) => created(compare::container(target, &bare())),
        Action::ReplaceNetwork { old_id, target } => {
            let live = observed.networks.get(&target.name).filter(|live| live.id == *old_id);
            live.map_or_else(|| created(Vec::new()), |live| replaced_network(step, target, live, before))
        }
        Action::ReplaceContainer { old_id, target } => {
            let named = observed.containers.get(&target.name).filter(|live| live.id == *old_id);
            let live = named.or_else(|| observed.containers.values().find(|live| live.id == *old_id));
            live.map_or_else(|| created(Vec::new()), |live| replaced_container(step, target, live, before))
        }
        Action::StartContainer { id } | Action::UnpauseContainer { id } => Detail { why: step.reason.clone(), fields: begun(id, observed) },
        Action::UpdateContainer { id, target, .. } => {
            let live = observed.containers.values().find(|live| live.id == *id);
            live.map_or_else(|| created(Vec::new()), |live| updated_container(step, target, live))
        }
        Action::Guest(guest) => {
            created(super::guest::fields(guest, observed.guests().find(|(id, _)| *id == guest.vmid).map(|(_, live)| live)))
        }
        Action::AdoptContainer { .. }
        | Action::AdoptNetwork { .. }
        | Action::AdoptVolume(_)
        | Action::RemoveNetwork { .. }
        | Action::RemoveContainer { .. } => Detail { why: step.reason.clone(), fields: Vec::new() },
    }
}

fn replaced_network(step: &Step, target: &NetworkTarget, live: &ObservedNetwork, before: &LoweredSpec) -> Detail {
    let named = |target: &NetworkTarget| compare::network(&target.spec, &ObservedNetwork::default());
    let differences = compare::network(&target.spec, live);
    let spec = live.owner.as_ref().map(|o| o.spec.as_str());
    let old = before.networks.get(&step.resource).filter(|old| Some(old.hash.as_str()) == spec).map(|old| &old.target);
    let dropped = old.map(|old| dropped(named(old), &named(target), compare::network(&old.spec, live)));
    Detail {
        why: why(step, &target.labels, spec, &differences),
        fields: told(differences.into_iter().chain(dropped.into_iter().flatten())),
    }
}

fn replaced_container(step: &Step, target: &ContainerTarget, live: &ObservedContainer, before: &LoweredSpec) -> Detail {
    let named = |target: &ContainerTarget| compare::container(target, &bare());
    let differences = compare::container(target, live);
    let owner = live.owner.as_ref();
    let spec = owner.map(|o| o.spec.as_str());
    let resource: &ResourceId = owner.map_or(&step.resource, |o| &o.resource);
    let old = before.containers.get(resource).filter(|old| Some(old.lowered.hash.as_str()) == spec).map(|old| &old.lowered.target);
    let dropped = old.map(|old| dropped(named(old), &named(target), compare::container(old, live)));
    Detail {
        why: why(step, &target.labels, spec, &differences),
        fields: told(differences.into_iter().chain(dropped.into_iter().flatten())),
    }
}

fn updated_container(step: &Step, target: &ContainerTarget, live: &ObservedContainer) -> Detail {
    let spec = live.owner.as_ref().map(|o| o.spec.as_str());
    let is_changed = target.labels.get(LABEL_SPEC).map(String::as_str) != spec;
    let differences = if is_changed { in_place::differences(target, live) } else { compare::container(target, live) };
    Detail { why: why(step, &target.labels, spec, &differences), fields: told(differences) }
}

/// The reason of a replacement without the fields that it lists.
fn why(step: &Step, labels: &BTreeMap<String, String>, spec: Option<&str>, differences: &[Difference]) -> String {
    if labels.get(LABEL_SPEC).map(String::as_str) != spec && step.reason == super::docker::changed(differences) {
        return "its specification changed".to_owned();
    }
    if !differences.is_empty() && step.reason == compare::reasons(differences) {
        return "it is not as the file says".to_owned();
    }
    step.reason.clone()
}

/// What `old` names and `new` does not, with what the host has of it.
fn dropped(old: Vec<Difference>, new: &[Difference], drifted: Vec<Difference>) -> Vec<Difference> {
    let mut live: BTreeMap<String, Option<String>> = drifted.into_iter().map(|d| (d.field, d.actual)).collect();
    let gone = old.into_iter().filter(|d| !new.iter().any(|n| n.field == d.field));
    gone.map(|d| Difference { actual: live.remove(&d.field).unwrap_or(d.expected), expected: None, field: d.field }).collect()
}

fn begun(id: &str, observed: &Observed) -> Vec<FieldChange> {
    let Some(live) = observed.containers.values().find(|c| c.id == id) else { return Vec::new() };
    let state = match live.state {
        ContainerState::Created => "created".to_owned(),
        ContainerState::Running => "running".to_owned(),
        ContainerState::Paused => "paused".to_owned(),
        ContainerState::Restarting => "restarting".to_owned(),
        ContainerState::Removing => "removing".to_owned(),
        ContainerState::Exited => live.exit_code.map_or_else(|| "exited".to_owned(), |_| format!("exited ({})", live.exit_words())),
        ContainerState::Dead => "dead".to_owned(),
    };
    vec![FieldChange { field: "state".to_owned(), live: Some(state), wanted: Some("running".to_owned()) }]
}

/// A container of which nothing was said.
fn bare() -> ObservedContainer {
    ObservedContainer { config: Some(Box::new(ContainerConfig::default())), ..ObservedContainer::default() }
}

/// One line per field, lists and maps entry by entry.
fn told(differences: impl IntoIterator<Item = Difference>) -> Vec<FieldChange> {
    let mut fields: Vec<FieldChange> = differences.into_iter().flat_map(entries).collect();
    fields.sort();
    fields.dedup();
    fields
}

fn entries(difference: Difference) -> Vec<FieldChange> {
    let Difference { field, expected, actual } = difference;
    // Of these, nothing is a value as well.
    let may_be_empty = ["environment.", "labels.", "driver_opts."].iter().any(|of| field.starts_with(of));
    let says = |t: &String| (may_be_empty || !t.is_empty()) && !(field.starts_with("networks.") && t == "not attached");
    let attached = |text: Option<String>| text.filter(says);
    let whole = FieldChange { live: attached(actual), wanted: attached(expected), field };
    if whole.field == "ports" {
        let split = |text: Option<&String>| -> Vec<String> { text.into_iter().flat_map(|t| t.split(", ")).map(str::to_owned).collect() };
        return list_entries(&whole, &split(whole.live.as_ref()), &split(whole.wanted.as_ref()));
    }
    if !Options::KEYS.contains(&whole.field.as_str()) {
        return vec![whole];
    }
    let value = |text: Option<&String>| text.and_then(|t| serde_json::from_str::<Value>(t).ok());
    match (value(whole.live.as_ref()), value(whole.wanted.as_ref())) {
        (live @ (None | Some(Value::Array(_))), wanted @ (None | Some(Value::Array(_)))) if live.is_some() || wanted.is_some() => {
            list_entries(&whole, &items(live), &items(wanted))
        }
        (live @ (None | Some(Value::Object(_))), Some(wanted @ Value::Object(_))) => map_entries(&whole.field, live.as_ref(), &wanted),
        (None, Some(_)) | (Some(_), Some(_) | None) | (None, None) => vec![whole],
    }
}

fn items(value: Option<Value>) -> Vec<String> {
    let Some(Value::Array(items)) = value else { return Vec::new() };
    items.iter().map(plain).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is gone and what is new; the whole when only the order differs.
fn list_entries(whole: &FieldChange, live: &[String], wanted: &[String]) -> Vec<FieldChange> {
    // Engines add labels of their own to these.
    let is_ours = |item: &&String| whole.field != "security_opt" || !item.starts_with("label=");
    let gone = live.iter().filter(is_ours).filter(|i| !wanted.contains(i)).map(|i| (Some(i.clone()), None));
    let new = wanted.iter().filter(|i| !live.contains(i)).map(|i| (None, Some(i.clone())));
    let all: Vec<FieldChange> = gone.chain(new).map(|(live, wanted)| FieldChange { field: whole.field.clone(), live, wanted }).collect();
    if all.is_empty() { vec![whole.clone()] } else { all }
}

/// The entries that are wanted and not there; others of the host are not the file's business.
fn map_entries(field: &str, live: Option<&Value>, wanted: &Value) -> Vec<FieldChange> {
    let Value::Object(map) = wanted else { return Vec::new() };
    let differs =
        map.iter().filter_map(|(key, wanted)| Some((key, live.and_then(|l| l.get(key)), wanted)).filter(|(_, l, w)| *l != Some(*w)));
    differs
        .flat_map(|(key, live, wanted)| {
            let field = format!("{field}.{key}");
            // A limit's soft and hard are read together.
            if wanted.as_object().is_some_and(|o| !o.contains_key("soft")) {
                return map_entries(&field, live, wanted);
            }
            vec![FieldChange { field, live: live.map(plain), wanted: Some(plain(wanted)) }]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::lower::lower;
    use super::super::plan;
    use super::super::testing::{full, id, identity, settled, spec};
    use super::*;
    use crate::topology::HostSpec;

    fn lines(detail: &Detail) -> Vec<String> {
        let words = |text: &Option<String>| text.clone().unwrap_or_else(|| "∅".to_owned());
        detail.fields.iter().map(|f| format!("{}: {} → {}", f.field, words(&f.live), words(&f.wanted))).collect()
    }

    fn site(value: serde_json::Value) -> HostSpec {
        spec(json!({ "docker": { "services": { "site": value } } }))
    }

    /// What replacing `old` by `new` changes about its one container.
    fn change(old: &HostSpec, new: &HostSpec, resource: &str) -> Detail {
        let observed = settled(old).observed();
        let plan = plan(&identity(), new, &observed);
        let step = plan.steps.iter().find(|s| s.resource == id(resource)).unwrap();
        of(step, &observed, &lower(&identity(), old))
    }

    #[test]
    fn a_replacement_tells_each_field_and_entry_and_what_is_no_longer_named() {
        let old = site(json!({ "image": "site:1", "environment": { "A": "1", "B": "nothing", "GONE": "x" }, "labels": { "team": "web" },
            "ports": [{ "target": 80, "protocol": "tcp", "published": 8080 }, { "target": 81, "protocol": "tcp", "published": 8081 }],
            "options": { "cap_add": ["CAP_CHOWN", "CAP_KILL"], "sysctls": { "a": "1", "b": "2" }, "tty": true } }));
        let new = site(json!({ "image": "site:2", "environment": { "A": "1", "B": "2", "C": "3" },
            "ports": [{ "target": 80, "protocol": "tcp", "published": 8080 }, { "target": 82, "protocol": "tcp", "published": 8082 }],
            "restart": "always", "options": { "cap_add": ["CAP_CHOWN", "CAP_SYS_TIME"],
                "sysctls": { "a": "1", "b": "3", "c": "4" }, "logging": { "driver": "local", "options": { "max-size": "1m" } } } }));
        let detail = change(&old, &new, "docker/container/edge-site-1");
        assert_eq!(detail.why, "its specification changed");
        assert_eq!(
            lines(&detail),
            [
                "cap_add: ∅ → CAP_SYS_TIME",
                "cap_add: CAP_KILL → ∅",
                "environment.B: nothing → 2",
                "environment.C: ∅ → 3",
                "environment.GONE: x → ∅",
                "image: site:1 → site:2",
                "labels.team: web → ∅",
                "logging.driver: ∅ → local",
                "logging.options.max-size: ∅ → 1m",
                "ports: ∅ → 8082:82/tcp",
                "ports: 8081:81/tcp → ∅",
                "restart: ∅ → always",
                "sysctls.b: 2 → 3",
                "sysctls.c: ∅ → 4",
                "tty: true → ∅",
            ]
        );
    }

    #[test]
    fn a_rotated_secret_is_told_by_its_name_alone_and_is_no_change_when_it_is_the_same() {
        let with = |digest: &str, mode: u32| {
            let objects = json!({ "db": { "digest": digest.repeat(32) }, "old": { "digest": "aa".repeat(32) } });
            let mounts = json!({ "/run/secrets/db": { "source": "db", "mode": mode }, "/run/secrets/old": { "source": "old" } });
            spec(json!({ "docker": { "secrets": objects, "services": { "site": { "image": "i", "secrets": mounts } } } }))
        };
        let old = with("0f", 0o444);
        assert!(plan(&identity(), &old, &settled(&old).observed()).is_settled());
        let rotated = change(&old, &with("1f", 0o444), "docker/container/edge-site-1");
        assert_eq!(lines(&rotated), ["secrets.db: another value → changed"]);
        let closed = change(&old, &with("0f", 0o400), "docker/container/edge-site-1");
        assert_eq!(lines(&closed), ["secrets.db: -:- 0444 → -:- 0400"]);
        let mut limited = with("1f", 0o444);
        limited.docker.as_mut().unwrap().services.get_mut("site").unwrap().options.cpu_shares = Some(5);
        let verbs: Vec<_> = plan(&identity(), &limited, &settled(&old).observed()).steps.iter().map(|s| s.action.verb()).collect();
        assert_eq!(verbs, ["replace"], "what changes in place besides does not keep it in place");
        let without = change(&old, &site(json!({ "image": "i" })), "docker/container/edge-site-1");
        assert_eq!(lines(&without), ["secrets.db: at /run/secrets/db → ∅", "secrets.old: at /run/secrets/old → ∅"]);
        let reasons: Vec<String> =
            plan(&identity(), &with("1f", 0o444), &settled(&old).observed()).steps.into_iter().map(|s| s.reason).collect();
        assert!(reasons.iter().all(|r| !r.contains("1f1f") && !r.contains("0f0f")), "{reasons:?}");
    }

    #[test]
    fn what_was_changed_by_hand_is_told_as_that_and_not_as_a_change_of_the_file() {
        let wanted = site(json!({ "image": "site:1", "environment": { "A": "1" } }));
        let mut engine = settled(&wanted);
        engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap().environment.insert("A".into(), "by hand".into());
        let observed = engine.observed();
        let healed = plan(&identity(), &wanted, &observed);
        let detail = of(&healed.steps[0], &observed, &LoweredSpec::default());
        assert_eq!((detail.why.as_str(), lines(&detail)), ("it is not as the file says", vec!["environment.A: by hand → 1".to_owned()]));
    }

    #[test]
    fn what_is_made_is_told_in_full_and_what_is_started_by_its_state() {
        let observed = Observed::default();
        let made = plan(&identity(), &full(), &observed);
        let step = |resource: &str| made.steps.iter().find(|s| s.resource == id(resource)).unwrap();
        let front = of(step("docker/network/edge_front"), &observed, &LoweredSpec::default());
        assert_eq!(
            lines(&front),
            ["driver: ∅ → bridge", "ipam.config.subnet: ∅ → 10.40.0.0/24", "labels.a: ∅ → b"],
            "the gateway goes with its pool"
        );
        let db = of(step("docker/container/edge-db-1"), &observed, &LoweredSpec::default());
        assert_eq!(db.why, "does not exist");
        assert!(lines(&db).contains(&"healthcheck.interval: ∅ → 5s".to_owned()), "{db:?}");
        assert!(lines(&db).contains(&"networks.edge_back: ∅ → attached".to_owned()), "{db:?}");
        let mut engine = settled(&full());
        let live = engine.containers.get_mut("edge-db-1").unwrap();
        (live.state, live.exit_code) = (ContainerState::Exited, Some(137));
        let observed = engine.observed();
        let started = plan(&identity(), &full(), &observed);
        assert_eq!(lines(&of(&started.steps[0], &observed, &LoweredSpec::default())), ["state: exited (137) → running"]);
    }

    #[test]
    fn a_container_that_follows_its_network_says_so_and_lists_nothing() {
        let mut changed = full();
        changed.docker.as_mut().unwrap().networks.get_mut("front").unwrap().labels.clear();
        let network = change(&full(), &changed, "docker/network/edge_front");
        assert_eq!((network.why.as_str(), lines(&network)), ("its specification changed", vec!["labels.a: b → ∅".to_owned()]));
        let container = change(&full(), &changed, "docker/container/edge-site-1");
        assert!(container.fields.is_empty() && container.why == "its specification changed", "{container:?}");
    }
}
