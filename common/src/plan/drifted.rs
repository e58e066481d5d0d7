//! What drifted, what changed, and what is left to an operator.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::model::Engine;
use super::plan_given;
use super::testing::{any_damage, any_spec, damage, full, id, identity, settled, spec, verbs};
use super::{Fields, Given, Mend, Plan};
use crate::observe::{ContainerState, Observed};
use crate::topology::{DriftPolicy, HostSpec, Policy};

fn inbox(mut desired: HostSpec) -> HostSpec {
    desired.policy = Some(Policy { drift: DriftPolicy::Inbox, ..Policy::default() });
    desired
}

/// The plan for a host on which `applied` was applied last.
fn replan(desired: &HostSpec, applied: &HostSpec, observed: &Observed) -> Plan {
    plan_given(&identity(), desired, observed, Given { applied: Some(applied), ..Given::default() })
}

fn mended(desired: &HostSpec, engine: &Engine, resource: &str, fields: &[&str], replaces: bool) -> Plan {
    let fields: BTreeSet<String> = fields.iter().map(|f| (*f).to_owned()).collect();
    let mend = Mend { resource: id(resource), fields, replaces };
    let given = Given { applied: Some(desired), mend: Some(&mend), ..Given::default() };
    plan_given(&identity(), desired, &engine.observed(), given)
}

fn rows(plan: &Plan) -> Vec<String> {
    plan.drift.iter().map(|d| format!("{} {}: {} -> {}", d.resource.name(), d.field, d.expected, d.actual)).collect()
}

/// What happens to an engine on which everything of [`full`] runs.
fn harmed() -> Engine {
    let mut engine = settled(&full());
    engine.containers.remove("edge-probe-1");
    let db = engine.containers.get_mut("edge-db-1").unwrap();
    (db.state, db.exit_code) = (ContainerState::Exited, Some(137));
    let mut site = engine.containers.remove("edge-site-1").unwrap();
    site.state = ContainerState::Paused;
    engine.containers.insert("elsewhere".to_owned(), site);
    engine.networks.get_mut("edge_back").unwrap().guests.insert("spy".to_owned());
    engine.networks.remove("edge_default");
    engine
}

#[test]
fn in_inbox_everything_that_differs_is_a_row_and_nothing_is_done() {
    let desired = inbox(full());
    let plan = replan(&desired, &desired, &harmed().observed());
    assert_eq!(verbs(&plan), [""; 0]);
    assert!(plan.is_settled(), "{plan:?}");
    assert_eq!(
        rows(&plan),
        [
            "edge-db-1 state: running -> exited (137)",
            "edge-probe-1 presence: present -> missing",
            "edge-site-1 container_name: edge-site-1 -> elsewhere",
            "edge-site-1 state: running -> paused",
            "edge_back containers.spy: not attached -> attached",
            "edge_default presence: present -> missing",
        ]
    );
}

#[test]
fn in_heal_each_step_says_what_it_heals_and_strangers_are_only_told() {
    let plan = replan(&full(), &full(), &harmed().observed());
    let healed: Vec<String> =
        plan.steps.iter().flat_map(|s| s.heals.iter().map(|d| format!("{} {}", d.resource.name(), d.field))).collect();
    assert_eq!(
        healed,
        ["edge_default presence", "edge-db-1 state", "edge-probe-1 presence", "edge-site-1 container_name"],
        "{:?}",
        verbs(&plan)
    );
    assert_eq!(rows(&plan), ["edge_back containers.spy: not attached -> attached"]);
}

#[test]
fn what_the_slice_changes_is_done_in_inbox_too_and_what_needs_the_missing_says_so() {
    let before = inbox(full());
    let mut after = before.clone();
    let docker = after.docker.as_mut().unwrap();
    docker.services.get_mut("db").unwrap().image = "postgres:17".to_owned();
    docker.services.get_mut("probe").unwrap().image = "busybox:2".to_owned();
    docker.networks.insert("new".to_owned(), Default::default());
    let plan = replan(&after, &before, &harmed().observed());
    assert_eq!(verbs(&plan), ["create docker/network/edge_new", "replace docker/container/edge-db-1"]);
    assert!(plan.steps.iter().all(|s| s.heals.is_empty()));
    let probe = plan.blocked.iter().find(|b| b.resource == id("docker/container/edge-probe-1")).unwrap();
    assert!(probe.reason.contains("edge_default") && probe.reason.contains("drift ls"), "{}", probe.reason);
    // What leaves the slice goes; what nobody ever wanted stays and is told.
    let mut engine = settled(&before);
    let mut copy = engine.containers["edge-db-1"].clone();
    copy.id = "c0".repeat(32);
    copy.owner.as_mut().unwrap().resource = id("docker/container/edge-other-1");
    engine.containers.insert("edge-other-1".to_owned(), copy);
    let mut less = before.clone();
    less.docker.as_mut().unwrap().services.remove("probe");
    let plan = replan(&less, &before, &engine.observed());
    assert!(verbs(&plan).contains(&"remove docker/container/edge-probe-1".to_owned()), "{:?}", verbs(&plan));
    assert_eq!(rows(&plan), ["edge-other-1 presence: absent -> present"]);
}

#[test]
fn a_first_apply_is_no_drift_whatever_the_policy() {
    let plan = plan_given(&identity(), &inbox(full()), &Observed::default(), Given::default());
    assert!(plan.drift.is_empty() && plan.steps.len() == 7 && plan.steps.iter().all(|s| s.heals.is_empty()), "{plan:?}");
}

#[test]
fn a_resource_has_its_own_policy_and_what_is_given_up_is_left() {
    let mut desired = full();
    desired.docker.as_mut().unwrap().services.get_mut("db").unwrap().drift = Some(DriftPolicy::Inbox);
    assert_eq!(settled(&desired), settled(&full()), "the policy is nothing that an engine knows of");
    let engine = harmed();
    let told = rows(&replan(&desired, &desired, &engine.observed()));
    assert_eq!(told, ["edge-db-1 state: running -> exited (137)", "edge_back containers.spy: not attached -> attached"]);
    let left = Fields::from([(id("docker/container/edge-db-1"), BTreeSet::from(["state".to_owned()]))]);
    let given = Given { applied: Some(&full()), left: Some(&left), ..Given::default() };
    assert_eq!(rows(&plan_given(&identity(), &full(), &engine.observed(), given)), told);
}

#[test]
fn a_field_that_is_given_up_keeps_no_other_from_being_healed_unless_that_resets_it() {
    let wanted = spec(json!({ "docker": { "services": { "site": { "image": "i", "environment": { "A": "1" },
        "options": { "mem_limit": 64 << 20, "cpu_shares": 512 } } } } }));
    let (site, mut engine) = ("docker/container/edge-site-1", settled(&wanted));
    let config = engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap();
    (config.options.mem_limit, config.options.cpu_shares) = (Some(1 << 30), Some(2));
    let left = Fields::from([(id(site), BTreeSet::from(["mem_limit".to_owned()]))]);
    let replan = |engine: &Engine| {
        let given = Given { applied: Some(&wanted), left: Some(&left), ..Given::default() };
        plan_given(&identity(), &wanted, &engine.observed(), given)
    };
    let plan = replan(&engine);
    assert_eq!((verbs(&plan), rows(&plan)), (vec![format!("update {site}")], vec!["edge-site-1 mem_limit: 64m -> 1g".to_owned()]));
    assert_eq!(plan.steps[0].heals.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), ["cpu_shares"]);
    engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap().environment.insert("A".to_owned(), "2".to_owned());
    let plan = replan(&engine);
    assert_eq!((verbs(&plan), rows(&plan).len()), (vec![], 3), "{plan:?}");
    engine.containers.get_mut("edge-site-1").unwrap().state = ContainerState::Paused;
    assert_eq!(verbs(&replan(&engine)), [format!("unpause {site}")]);
}

#[test]
fn an_operators_word_mends_the_fields_that_it_names_and_replaces_only_when_it_says_so() {
    let wanted = inbox(spec(json!({ "docker": { "networks": { "a": {} },
        "services": { "site": { "image": "i", "networks": { "a": {} }, "environment": { "A": "1" }, "options": { "mem_limit": 64 << 20, "cpu_shares": 512 } } } } })));
    let (site, mut engine) = ("docker/container/edge-site-1", settled(&wanted));
    let config = engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap();
    (config.options.mem_limit, config.options.cpu_shares) = (Some(1 << 30), Some(2));
    config.networks.insert("bridge".to_owned(), Default::default());
    let one = mended(&wanted, &engine, site, &["mem_limit"], false);
    assert_eq!((verbs(&one), one.steps[0].reason.contains("cpu_shares")), (vec![format!("update {site}")], false), "{one:?}");
    let net = mended(&wanted, &engine, site, &["networks.bridge"], false);
    assert_eq!(verbs(&net), [format!("update {site}")]);
    let mut after = engine.clone();
    for step in mended(&wanted, &engine, site, &[], false).steps {
        after.apply(&step).unwrap();
    }
    assert_eq!(rows(&replan(&wanted, &wanted, &after.observed())), [""; 0]);
    // What only another container can have.
    engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap().environment.insert("A".to_owned(), "2".to_owned());
    let refused = mended(&wanted, &engine, site, &["environment.A"], false);
    assert!(refused.steps.is_empty() && refused.blocked[0].reason.contains("resets all its fields"), "{refused:?}");
    assert_eq!(verbs(&mended(&wanted, &engine, site, &["environment.A"], true)), [format!("replace {site}")]);
    // Another field than what is amiss now.
    engine.containers.remove("edge-site-1");
    let gone = mended(&wanted, &engine, site, &["mem_limit"], true);
    assert_eq!((verbs(&gone), rows(&gone)), (vec![], vec!["edge-site-1 presence: present -> missing".to_owned()]));
    assert_eq!(verbs(&mended(&wanted, &engine, site, &["presence"], false)), [format!("create {site}")]);
}

proptest! {
    #[test]
    fn whatever_happens_in_inbox_it_is_told_once_and_nothing_is_changed(
        desired in any_spec(), harm in proptest::collection::vec(any_damage(), 0..6),
    ) {
        let desired = inbox(desired);
        let mut engine = settled(&desired);
        let (before, rest) = (engine.clone(), replan(&desired, &desired, &engine.observed()));
        prop_assert_eq!(rest, Plan::default());
        harm.iter().for_each(|what| damage(&mut engine, what));
        let plan = replan(&desired, &desired, &engine.observed());
        // One that never ran is half-made, and no operator's doing.
        let half_made = |name: &str| engine.containers.values().any(|c| c.state == ContainerState::Created && c.owner.as_ref().is_some_and(|o| o.resource.name() == name));
        prop_assert!(plan.steps.iter().all(|s| half_made(s.resource.name())), "{:?}", verbs(&plan));
        let keys: BTreeSet<_> = plan.drift.iter().map(|d| (&d.resource, &d.field)).collect();
        prop_assert_eq!(keys.len(), plan.drift.len());
        let harmed = |name: &String| before.containers.get(name) != engine.containers.get(name) && !half_made(name);
        for name in before.containers.keys().filter(|name| harmed(name)) {
            prop_assert!(plan.drift.iter().any(|d| d.resource.name() == name), "{name}: {:?}", rows(&plan));
        }
        for name in before.networks.keys().filter(|name| !engine.networks.contains_key(*name)) {
            prop_assert!(plan.drift.iter().any(|d| d.resource.name() == name), "{name}: {:?}", rows(&plan));
        }
    }
}

#[test]
fn what_a_slice_drops_goes_under_whatever_name_and_a_copy_of_what_it_wants_is_left() {
    let before = inbox(full());
    let mut engine = settled(&before);
    let probe = engine.containers.remove("edge-probe-1").unwrap();
    engine.containers.insert("elsewhere".to_owned(), probe);
    let mut less = before.clone();
    less.docker.as_mut().unwrap().services.remove("probe");
    let plan = replan(&less, &before, &engine.observed());
    assert!(verbs(&plan).iter().any(|verb| verb.starts_with("remove")), "{plan:?}");

    let mut engine = settled(&before);
    let mut copy = engine.containers["edge-db-1"].clone();
    copy.id = "c0".repeat(32);
    engine.containers.insert("copy".to_owned(), copy);
    let plan = replan(&before, &before, &engine.observed());
    assert_eq!((verbs(&plan), rows(&plan)), (vec![], vec!["copy presence: absent -> present".to_owned()]));
}
