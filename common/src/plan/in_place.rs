//! What the engine changes about a container while it runs: what it may use, its restart policy, its networks.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::compare::{self, Difference};
use super::{ContainerTarget, InPlace};
use crate::observe::{ContainerConfig, ObservedContainer};
use crate::topology::{Attachment, Options, RestartPolicy, ServiceSpec};

/// The part of a service that can be changed while its container runs.
#[derive(Debug, Serialize)]
pub(super) struct Changeable {
    restart: Option<RestartPolicy>,
    networks: BTreeMap<String, Attachment>,
    limits: Options,
}

impl Changeable {
    /// Takes that part out of `spec`.
    pub fn take(spec: &mut ServiceSpec) -> Self {
        Self { restart: spec.restart.take(), networks: std::mem::take(&mut spec.networks), limits: spec.options.take_limits() }
    }

    /// Puts it back.
    pub fn put_back(self, spec: &mut ServiceSpec) {
        (spec.restart, spec.networks) = (self.restart, self.networks);
        spec.options.merge(self.limits);
    }
}

/// Whether a difference in `field` can be mended while the container runs.
pub(super) fn is_changeable(field: &str) -> bool {
    field == "restart" || field.starts_with("networks.") || Options::LIMITS.contains(&field)
}

/// What has to change about a container so that it has no `differences` from `target` any more; or the limit that the engine
/// cannot take away again.
pub(super) fn changes(target: &ContainerTarget, differences: &[Difference]) -> Result<InPlace, String> {
    let mut changes = InPlace::default();
    for difference in differences {
        let Some(network) = difference.field.strip_prefix("networks.") else {
            changes.restart |= difference.field == "restart";
            changes.resources |= Options::LIMITS.contains(&difference.field.as_str());
            continue;
        };
        // Names may have dots, too.
        let is_whole = target.spec.networks.contains_key(network);
        match network.rsplit_once('.').filter(|_| !is_whole) {
            _ if difference.expected.is_none() => drop(changes.detach.insert(network.to_owned())),
            // What it is called there, or its address: it leaves and joins again.
            Some((network, _)) if target.spec.networks.contains_key(network) => {
                changes.detach.insert(network.to_owned());
                changes.attach.insert(network.to_owned());
            }
            _ => drop(changes.attach.insert(network.to_owned())),
        }
    }
    let named = named(&target.spec.options);
    match differences.iter().find(|d| Options::LIMITS.contains(&d.field.as_str()) && !named.contains(d.field.as_str())) {
        Some(limit) => Err(format!("{}, which the engine cannot take from a container", limit.reason())),
        None => Ok(changes),
    }
}

/// The limits that say something. What is said of memory goes for swap, too.
fn named(options: &Options) -> BTreeSet<&'static str> {
    let all_processes = options.pids_limit.map(|_| "pids_limit");
    let swap = options.mem_limit.filter(|memory| *memory != 0).map(|_| "memswap_limit");
    options.differences(&Options::default()).iter().map(|d| d.key).chain(all_processes).chain(swap).collect()
}

/// What a container of the same base has otherwise than a changed `target` says, also by what that no longer names.
pub(super) fn differences(target: &ContainerTarget, live: &ObservedContainer) -> Vec<Difference> {
    let Some(config) = &live.config else { return Vec::new() };
    let mut out: Vec<Difference> = compare::container(target, live).into_iter().filter(|d| is_changeable(&d.field)).collect();
    if target.spec.restart.is_none() {
        out.extend(compare::restart_left_over(config.restart));
    }
    out.extend(compare::extra_attachments(target, live).into_iter().map(|extra| Difference { expected: None, ..extra }));
    out.extend(left_over(&target.spec.options, config));
    out
}

/// Limits that the container has and nobody names.
fn left_over(wanted: &Options, config: &ContainerConfig) -> Vec<Difference> {
    let mut live = config.options.clone();
    let by_itself = live.usual_swap();
    live.memswap_limit = live.memswap_limit.filter(|swap| *swap != by_itself);
    let wanted = wanted.clone().take_limits();
    let mut has = live.take_limits();
    has.unname(&wanted);
    has.differences(&Options::default())
        .into_iter()
        .map(|d| Difference { field: d.key.to_owned(), expected: None, actual: Some(d.wanted) })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::plan;
    use super::super::testing::{essence, identity, settle, settled, spec, verbs};
    use super::super::{Action, Effect};
    use crate::topology::HostSpec;

    fn site(service: serde_json::Value) -> HostSpec {
        let mut service = service;
        service["image"] = json!("site:1");
        spec(json!({ "docker": { "networks": { "a": {}, "b": {}, "a.b": { "name": "edge_a.b" } }, "services": { "site": service } } }))
    }

    /// The verbs by which a host with `before` comes to `after`, whether its container stayed the same, and why.
    fn way(before: serde_json::Value, after: serde_json::Value) -> (Vec<String>, bool, String) {
        let (before, after) = (site(before), site(after));
        let mut engine = settled(&before);
        let id = engine.containers["edge-site-1"].id.clone();
        let plan = plan(&identity(), &after, &engine.observed());
        settle(&mut engine, &after);
        assert_eq!(essence(&engine), essence(&settled(&after)));
        let reason = plan.steps.first().map(|s| s.reason.clone()).unwrap_or_default();
        (verbs(&plan), engine.containers["edge-site-1"].id == id, reason)
    }

    #[test]
    fn limits_restart_policy_and_networks_change_while_the_container_runs() {
        let cases = [
            (json!({}), json!({ "options": { "mem_limit": 64 << 20 } })),
            (
                json!({ "options": { "mem_limit": 64 << 20, "cpus": 500_000_000 } }),
                json!({ "options": { "mem_limit": 128 << 20, "cpus": 1_000_000_000 } }),
            ),
            (json!({ "options": { "pids_limit": 100 } }), json!({ "options": { "pids_limit": -1 } })),
            (json!({ "restart": "always" }), json!({})),
            (json!({}), json!({ "restart": "unless-stopped" })),
            (json!({ "networks": { "a": {} } }), json!({ "networks": { "a": {}, "b": { "aliases": ["www"] } } })),
            (json!({ "networks": { "a": {} } }), json!({ "networks": { "a": {}, "a.b": {} } })),
            // Without a word about swap it has what a new container would have.
            (json!({ "options": { "mem_limit": 64 << 20, "memswap_limit": -1 } }), json!({ "options": { "mem_limit": 64 << 20 } })),
            (json!({ "options": { "mem_limit": 64 << 20, "memswap_limit": 96 << 20 } }), json!({ "options": { "mem_limit": 65 << 20 } })),
            (json!({ "networks": { "a": {}, "b": {} } }), json!({ "networks": { "b": {} } })),
            (json!({ "networks": { "a": { "aliases": ["old"] } } }), json!({ "networks": { "a": { "aliases": ["new"] } } })),
        ];
        for (before, after) in cases {
            let (verbs, same, reason) = way(before.clone(), after.clone());
            assert_eq!((verbs, same), (vec!["update docker/container/edge-site-1".to_owned()], true), "{before} -> {after}: {reason}");
            assert!(!reason.is_empty());
        }
    }

    #[test]
    fn every_limit_is_changed_while_the_container_runs() {
        for key in crate::topology::Options::LIMITS {
            let limit =
                |n: u32| if key == "cpuset" { json!({ "options": { key: n.to_string() } }) } else { json!({ "options": { key: n } }) };
            let (verbs, same, reason) = way(limit(64), limit(65));
            assert_eq!((verbs, same), (vec!["update docker/container/edge-site-1".to_owned()], true), "{key}: {reason}");
            assert!(reason.contains(key), "{key}: {reason}");
        }
    }

    #[test]
    fn what_the_engine_cannot_take_away_and_everything_else_makes_another_container() {
        let limited = json!({ "options": { "mem_limit": 64 << 20 } });
        for after in [json!({}), json!({ "options": { "mem_limit": 0 } })] {
            let (verbs, same, reason) = way(limited.clone(), after);
            assert_eq!((verbs, same), (vec!["replace docker/container/edge-site-1".to_owned()], false));
            assert!(reason.contains("mem_limit") && reason.contains("cannot take"), "{reason}");
        }
        let (verbs, same, _) = way(limited, json!({ "user": "7", "options": { "mem_limit": 65 << 20 } }));
        assert_eq!((verbs, same), (vec!["replace docker/container/edge-site-1".to_owned()], false));
        let (verbs, same, _) = way(json!({ "user": "7", "restart": "always" }), json!({}));
        assert_eq!((verbs, same), (vec!["replace docker/container/edge-site-1".to_owned()], false), "a key was dropped as well");
    }

    #[test]
    fn what_somebody_changed_is_changed_back_while_it_runs_and_in_inbox_it_is_left() {
        let wanted = site(json!({ "networks": { "a": {} }, "options": { "mem_limit": 64 << 20 } }));
        let mut engine = settled(&wanted);
        let live = engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap();
        live.options.mem_limit = Some(1 << 30);
        live.networks.clear();
        let healed = plan(&identity(), &wanted, &engine.observed());
        assert_eq!(verbs(&healed), ["update docker/container/edge-site-1"]);
        assert_eq!(healed.steps[0].action.effect(), Effect::InPlace);
        let mut inbox = wanted;
        inbox.policy = Some(crate::topology::Policy { drift: crate::topology::DriftPolicy::Inbox, ..crate::topology::Policy::default() });
        let left = plan(&identity(), &inbox, &engine.observed());
        assert!(left.steps.is_empty() && left.drift.len() == 2, "{left:?}");
        // What the operator changes is changed, whatever the policy.
        let mut changed = site(json!({ "networks": { "a": {} }, "options": { "mem_limit": 32 << 20 } }));
        changed.policy.clone_from(&inbox.policy);
        let plan = plan(&identity(), &changed, &engine.observed());
        let Action::UpdateContainer { changes, .. } = &plan.steps[0].action else { panic!("{plan:?}") };
        assert!(changes.resources && changes.attach.contains("edge_a"), "{changes:?}");
    }
}
