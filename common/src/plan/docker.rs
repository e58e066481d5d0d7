//! The planner for Docker networks, volumes and containers.
//!
//! | caller does IO | this decides |
//! |---|---|
//! | observes the engine, applies steps | what is missing, too much, or otherwise than named, and in which order it is mended |
//!
//! Containers and networks that we own are cattle: they are replaced when the slice says otherwise. Volumes hold
//! data: they are made, and never replaced or removed. What bears other labels than ours is never touched.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{self, Difference};
use super::draft::Draft;
use super::lower::{self, Lowered};
use super::scene::Scene;
use super::{Action, NetworkTarget, VolumeTarget, adoption, containers};
use crate::fault::Code;
use crate::id::{ResourceId, TopologyId};
use crate::observe::{EngineState, ObservedNetwork, ObservedVolume, Owner};
use crate::topology::HostSpec;

/// Drafts the steps for networks, volumes and containers.
pub(super) fn plan(scene: &Scene<'_>, draft: &mut Draft) {
    if scene.observed.engine == EngineState::Unreachable {
        return plan_nothing(scene, draft);
    }
    for blocked in &scene.lowered.blocked {
        draft.block(&blocked.resource, blocked.code, blocked.reason.clone());
    }
    let removed = removed_networks(scene);
    for (resource, network) in &scene.lowered.networks {
        plan_network(scene, resource, network, draft);
    }
    for (resource, volume) in &scene.lowered.volumes {
        plan_volume(scene, resource, volume, draft);
    }
    containers::plan(scene, draft);
    plan_network_order(scene, &removed, draft);
}

/// Of an engine that cannot be asked nothing is known, and nothing is done.
fn plan_nothing(scene: &Scene<'_>, draft: &mut Draft) {
    let why = scene.observed.error.as_deref().unwrap_or("it does not answer");
    let lowered = scene.lowered;
    for resource in lowered.networks.keys().chain(lowered.volumes.keys()).chain(lowered.containers.keys()) {
        draft.block(resource, Some(Code::EngineUnreachable), format!("the engine cannot be asked: {why}"));
    }
}

/// What must be present on the engine once `desired` is applied: every network and volume, and the containers that run for good.
pub(super) fn desired_resources(topology: &TopologyId, desired: &HostSpec) -> BTreeSet<ResourceId> {
    let Some(docker) = &desired.docker else { return BTreeSet::new() };
    let networks = lower::needed_networks(docker).into_iter().filter(|(_, spec)| spec.is_none_or(|spec| !spec.external));
    let networks = networks.map(|(name, spec)| lower::network_resource(&lower::network_name(topology, name, spec)));
    let volumes = docker.volumes.iter().filter(|(_, spec)| !spec.external);
    let volumes = volumes.map(|(name, spec)| lower::volume_resource(&lower::volume_name(topology, name, spec)));
    let lasting = docker.services.iter().filter(|(name, _)| !lower::may_complete(docker, name));
    let names = lasting.flat_map(|(name, spec)| lower::container_names(topology, name, spec));
    let containers = names.map(|name| lower::container_resource(&name));
    networks.chain(volumes).chain(containers).collect()
}

/// Says why an object with a wanted name is left alone.
pub(super) fn not_owned(kind: &str, name: &str, owner: Option<&Owner>) -> String {
    match owner {
        None => format!("a {kind} named `{name}` exists that Moorline did not make; rename or remove it by hand"),
        Some(owner) => format!("the {kind} `{name}` is `{}` of the topology `{}`", owner.resource, owner.topology),
    }
}

/// Says why an external object cannot be used.
fn not_there(kind: &str, name: &str) -> String {
    format!("there is no {kind} `{name}` on this host, and the topology calls it external; make it by hand, or leave `external` out")
}

fn plan_network(scene: &Scene<'_>, resource: &ResourceId, lowered: &Lowered<NetworkTarget>, draft: &mut Draft) {
    let target = &lowered.target;
    if target.spec.external {
        if !scene.observed.networks.contains_key(&target.name) {
            draft.block(resource, Some(Code::NotThere), not_there("network", &target.name));
        }
        return;
    }
    let Some(live) = scene.observed.networks.get(&target.name) else {
        return plan_missing(scene, resource, Action::CreateNetwork(target.clone()), draft);
    };
    let Some(owner) = live.owner.as_ref().filter(|o| scene.is(Some(o), resource)) else {
        if live.owner.is_none() && target.adopt.as_ref() == Some(&live.id) {
            // Of a stranger that nobody asked about yet no more than the id is known.
            let differences = if live.driver.is_empty() { Vec::new() } else { compare::network(&target.spec, live) };
            let action = Action::AdoptNetwork { id: live.id.clone(), target: target.clone() };
            return adoption::plan(resource, action, &differences, draft);
        }
        draft.block(resource, Some(Code::NotOwned), not_owned("network", &target.name, live.owner.as_ref()));
        draft.drift(resource, vec![Difference::usurped("network")]);
        return;
    };
    draft.drift(resource, live.guests.iter().map(|name| Difference::guest(name)).collect());
    let differences = compare::network(&target.spec, live);
    let replace = || Action::ReplaceNetwork { old_id: live.id.clone(), target: target.clone() };
    if owner.spec != lowered.hash.as_str() {
        draft.step(resource, replace(), changed(&differences));
    } else if differences.is_empty() {
    } else if differences.iter().any(|d| scene.is_field_left(resource, &d.field)) || !scene.is_meant(resource, &differences) {
        draft.drift(resource, differences);
    } else if let Some(reason) = unasked(scene, resource, &differences) {
        draft.block(resource, Some(Code::PreconditionFailed), reason);
    } else {
        draft.step(resource, replace(), compare::reasons(&differences));
        draft.heal(resource, scene.healed(resource, differences));
    }
}

/// Makes what is not there, unless it went after it had been made and is left so.
fn plan_missing(scene: &Scene<'_>, resource: &ResourceId, create: Action, draft: &mut Draft) {
    let missing = [Difference::missing()];
    if scene.had(resource) && (scene.is_field_left(resource, compare::PRESENCE) || !scene.is_meant(resource, &missing)) {
        return draft.leave_missing(resource);
    }
    draft.step(resource, create, "does not exist".to_owned());
    draft.heal(resource, scene.healed(resource, missing.to_vec()));
}

/// Why `resource` is not made anew, though an operator asked for it to be mended: nobody said that all its fields may be reset.
pub(super) fn unasked(scene: &Scene<'_>, resource: &ResourceId, differences: &[Difference]) -> Option<String> {
    let mend = scene.mend(resource)?;
    let reset = compare::reasons(differences);
    (!mend.replaces).then(|| format!("to mend it, it must be made anew, which resets all its fields ({reset}); order it with that allowed"))
}

/// Why an object whose label bears another hash is made anew.
pub(super) fn changed(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "its specification changed".to_owned();
    }
    format!("its specification changed: {}", compare::reasons(differences))
}

fn plan_volume(scene: &Scene<'_>, resource: &ResourceId, lowered: &Lowered<VolumeTarget>, draft: &mut Draft) {
    let target = &lowered.target;
    if target.spec.external {
        if !scene.observed.volumes.contains_key(&target.name) {
            draft.block(resource, Some(Code::NotThere), not_there("volume", &target.name));
            draft.unusable.insert(resource.clone());
        }
        return;
    }
    let Some(live) = scene.observed.volumes.get(&target.name) else {
        plan_missing(scene, resource, Action::CreateVolume(target.clone()), draft);
        return;
    };
    let Some(owner) = live.owner.as_ref().filter(|o| scene.is(Some(o), resource)) else {
        if live.owner.is_none() && target.adopt.as_ref() == Some(&target.name) {
            let differences = if live.driver.is_empty() { Vec::new() } else { compare::volume(&target.spec, live) };
            if !differences.is_empty() {
                draft.unusable.insert(resource.clone());
            }
            return adoption::plan(resource, Action::AdoptVolume(target.clone()), &differences, draft);
        }
        draft.block(resource, Some(Code::NotOwned), not_owned("volume", &target.name, live.owner.as_ref()));
        draft.drift(resource, vec![Difference::usurped("volume")]);
        draft.unusable.insert(resource.clone());
        return;
    };
    let differences = volume_differences(target, live, owner.spec != lowered.hash.as_str());
    if differences.is_empty() {
        return;
    }
    let reason = format!(
        "a volume's settings cannot change while it holds data ({}); set them back, name another volume, or move the data and remove `{}` by hand",
        compare::reasons(&differences),
        target.name
    );
    draft.block(resource, Some(Code::StepFailed), reason);
    draft.drift(resource, differences);
}

/// A volume that was made for another spec is compared in full: what the slice no longer names is a change, too.
fn volume_differences(target: &VolumeTarget, live: &ObservedVolume, spec_changed: bool) -> Vec<Difference> {
    let mut differences = compare::volume(&target.spec, live);
    if spec_changed {
        differences.extend(compare::volume_leftovers(&target.spec, live));
    }
    differences
}

/// This topology's networks that the slice no longer wants, by the resource that they are.
fn removed_networks<'a>(scene: &Scene<'a>) -> BTreeMap<ResourceId, (&'a str, &'a ObservedNetwork)> {
    let own = scene.observed.networks.iter().filter_map(|(name, n)| n.owner.as_ref().map(|o| (name.as_str(), n, o)));
    own.filter(|(_, _, owner)| owner.topology == scene.topology.as_str() && !scene.wants(&owner.resource))
        .map(|(name, network, _)| (lower::network_resource(name), (name, network)))
        .filter(|(resource, _)| !scene.wants(resource))
        .collect()
}

/// Removes unwanted networks behind their containers' steps, and new networks behind old ones in the same subnet.
fn plan_network_order(scene: &Scene<'_>, removed: &BTreeMap<ResourceId, (&str, &ObservedNetwork)>, draft: &mut Draft) {
    let mut pools: BTreeMap<ResourceId, Vec<ipnet::IpNet>> = BTreeMap::new();
    for (resource, network) in &scene.lowered.networks {
        if draft.has_step(resource) {
            let config = network.target.spec.ipam.iter().flat_map(|i| &i.config);
            pools.insert(resource.clone(), config.filter_map(|p| p.subnet.parse().ok()).collect());
        }
    }
    for (resource, (name, network)) in removed {
        if scene.is_left_unwanted(resource) {
            draft.drift(resource, vec![Difference::unwanted()]);
            continue;
        }
        let taken = subnets(network);
        let wanted: Vec<&ResourceId> = pools.iter().filter(|(_, p)| overlap(p, &taken)).map(|(r, _)| r).collect();
        draft.step(resource, Action::RemoveNetwork { id: network.id.clone() }, "not in the slice".to_owned());
        for container in attached(scene, name, draft) {
            // Its subnet is needed at once: then the driver detaches those that are replaced afterwards.
            if wanted.is_empty() || draft.removes(&container) {
                draft.order(resource, &container);
            }
        }
        for next in wanted {
            draft.order(next, resource);
        }
    }
    for (resource, network) in &scene.lowered.networks {
        let Some(live) = scene.observed.networks.get(&network.target.name).filter(|_| draft.has_step(resource)) else { continue };
        for container in attached(scene, &network.target.name, draft) {
            if draft.removes(&container) {
                draft.order(resource, &container);
            }
        }
        let taken = subnets(live);
        for (next, _) in pools.iter().filter(|(next, p)| *next != resource && overlap(p, &taken)) {
            draft.order(next, resource);
        }
    }
}

fn subnets(network: &ObservedNetwork) -> Vec<ipnet::IpNet> {
    network.ipam.config.iter().filter_map(|p| p.subnet.parse().ok()).collect()
}

fn overlap(a: &[ipnet::IpNet], b: &[ipnet::IpNet]) -> bool {
    a.iter().any(|x| b.iter().any(|y| x.contains(y) || y.contains(x)))
}

/// The steps of those of our containers that are attached to the network `name`.
fn attached(scene: &Scene<'_>, name: &str, draft: &Draft) -> Vec<ResourceId> {
    let joined = scene.own_containers().filter(|(_, c, _)| c.config.as_ref().is_some_and(|config| config.networks.contains_key(name)));
    joined.filter_map(|(_, container, _)| draft.step_on(&container.id)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::testing::{
        Damage, any_damage, any_named_spec, any_spec, damage, essence, full, id, identity, settle, settled, spec, verbs,
    };
    use super::super::{Blocked, Plan, model::Engine};
    use super::*;
    use crate::observe::{ContainerState, Health};
    use crate::topology::DriftPolicy;

    fn replan(engine: &Engine, desired: &HostSpec) -> Plan {
        crate::plan::plan(&identity(), desired, &engine.observed())
    }

    fn blocked<'a>(plan: &'a Plan, resource: &str) -> &'a Blocked {
        plan.blocked.iter().find(|b| b.resource == id(resource)).unwrap()
    }

    #[test]
    fn a_first_apply_makes_networks_then_volumes_then_containers_by_dependency() {
        let plan = replan(&Engine::default(), &full());
        assert_eq!(
            verbs(&plan),
            [
                "create docker/network/edge_back",
                "create docker/network/edge_default",
                "create docker/network/edge_front",
                "create docker/volume/edge_data",
                "create docker/container/edge-db-1",
                "create docker/container/edge-probe-1",
                "create docker/container/edge-site-1",
            ]
        );
        let site = plan.steps.last().unwrap();
        assert!(site.after.contains(&id("docker/container/edge-db-1")) && site.after.contains(&id("docker/network/edge_front")));
        assert!(plan.steps.iter().all(|s| !s.reason.is_empty()));
    }

    #[test]
    fn after_an_apply_the_plan_is_empty_and_what_is_wanted_is_present() {
        let engine = settled(&full());
        let plan = replan(&engine, &full());
        assert_eq!(plan, Plan::default());
        assert_eq!(desired_resources(&identity().topology, &full()), engine.observed().present());
    }

    #[test]
    fn a_killed_container_is_started_and_a_removed_one_made_anew() {
        let mut engine = settled(&full());
        let db = engine.containers.get_mut("edge-db-1").unwrap();
        (db.state, db.exit_code) = (ContainerState::Exited, Some(137));
        engine.containers.remove("edge-probe-1");
        engine.containers.get_mut("edge-site-1").unwrap().state = ContainerState::Paused;
        assert_eq!(
            verbs(&replan(&engine, &full())),
            ["start docker/container/edge-db-1", "create docker/container/edge-probe-1", "unpause docker/container/edge-site-1"]
        );
    }

    #[test]
    fn a_changed_service_is_replaced_and_its_volume_without_a_name_is_kept() {
        let mut engine = settled(&full());
        let scratch = |engine: &Engine| engine.containers["edge-db-1"].config.clone().unwrap().volumes["/scratch"].source.clone();
        let before = scratch(&engine);
        let mut changed = full();
        changed.docker.as_mut().unwrap().services.get_mut("db").unwrap().image = "postgres:17".to_owned();
        let plan = replan(&engine, &changed);
        assert_eq!(verbs(&plan), ["replace docker/container/edge-db-1"]);
        assert!(plan.steps[0].reason.contains("postgres:16") && plan.steps[0].reason.contains("postgres:17"), "{}", plan.steps[0].reason);
        settle(&mut engine, &changed);
        assert_eq!(scratch(&engine), before);
        assert!(before.is_some());
    }

    #[test]
    fn a_successor_as_wanted_is_left_for_the_replacement_to_go_on_with_and_any_other_goes() {
        let (before, name) = (full(), "edge-db-1");
        let mut after = before.clone();
        after.docker.as_mut().unwrap().services.get_mut("db").unwrap().user = Some("7".to_owned());
        let mut engine = settled(&before);
        let old = engine.containers[name].clone();
        let hash = |spec: &HostSpec| lower::lower(&identity(), spec).containers[&id("docker/container/edge-db-1")].lowered.hash.to_string();
        let mut new = old.clone();
        (new.id, new.owner.as_mut().unwrap().spec) = ("f".repeat(64), hash(&after));
        engine.containers.insert(lower::beside_name(name, &old.id), new.clone());
        let verbs = |engine: &Engine, spec: &HostSpec| replan(engine, spec).steps.iter().map(|s| s.action.verb()).collect::<Vec<_>>();
        assert_eq!(verbs(&engine, &after), ["replace"]);
        assert_eq!(verbs(&engine, &before), ["remove"], "the topology is as before");
        // Of another predecessor, or not as wanted.
        engine.containers.insert(lower::beside_name(name, &"0".repeat(64)), new.clone());
        assert_eq!(verbs(&engine, &after), ["remove", "replace"]);
        engine.containers.retain(|name, _| !name.contains("-new-"));
        new.owner.as_mut().unwrap().spec = "sha256:0".to_owned();
        engine.containers.insert(lower::beside_name(name, &old.id), new);
        assert_eq!(verbs(&engine, &after), ["remove", "replace"]);
    }

    #[test]
    fn depends_on_alone_restarts_nothing() {
        let engine = settled(&full());
        let mut changed = full();
        changed.docker.as_mut().unwrap().services.get_mut("site").unwrap().depends_on.clear();
        assert!(replan(&engine, &changed).is_settled());
    }

    #[test]
    fn a_dropped_key_is_a_change() {
        let engine = settled(&full());
        let mut changed = full();
        changed.docker.as_mut().unwrap().services.get_mut("site").unwrap().labels.clear();
        assert_eq!(verbs(&replan(&engine, &changed)), ["replace docker/container/edge-site-1"]);
    }

    #[test]
    fn a_changed_network_is_replaced_with_its_containers_and_also_when_that_was_cut_short() {
        let mut engine = settled(&full());
        let mut changed = full();
        changed.docker.as_mut().unwrap().networks.get_mut("front").unwrap().labels.clear();
        let plan = replan(&engine, &changed);
        assert_eq!(verbs(&plan), ["replace docker/network/edge_front", "update docker/container/edge-site-1"]);
        assert!(plan.steps[1].after.contains(&plan.steps[0].resource));
        engine.apply(&plan.steps[0]).unwrap();
        assert_eq!(verbs(&replan(&engine, &changed)), ["update docker/container/edge-site-1"]);
        let mut stopped = engine.clone();
        stopped.containers.get_mut("edge-site-1").unwrap().state = ContainerState::Exited;
        assert_eq!(verbs(&replan(&stopped, &changed)), ["replace docker/container/edge-site-1"], "it keeps what it had of the old one");
        for engine in [&mut engine, &mut stopped] {
            settle(engine, &changed);
            assert!(replan(engine, &changed).is_settled());
        }
    }

    #[test]
    fn a_network_that_takes_over_a_subnet_waits_for_the_old_one() {
        let net = |name: &str| {
            spec(json!({ "docker": { "networks": { name: { "ipam": { "config": [{ "subnet": "10.9.0.0/24" }] } } },
                "services": { "a": { "image": "i", "networks": { name: {} } } } } }))
        };
        let mut engine = settled(&net("old"));
        let plan = replan(&engine, &net("new"));
        assert_eq!(verbs(&plan), ["remove docker/network/edge_old", "create docker/network/edge_new", "update docker/container/edge-a-1"]);
        settle(&mut engine, &net("new"));
        assert!(!engine.networks.contains_key("edge_old"));
    }

    #[test]
    fn who_shares_a_namespace_is_made_behind_its_host_and_anew_with_it() {
        let shared = |limit: i64| {
            spec(json!({ "docker": { "services": {
                "app": { "image": "i", "options": { "network_mode": "service:proxy" } },
                "proxy": { "image": "i", "options": { "oom_score_adj": limit } }
            } } }))
        };
        let mut engine = Engine::default();
        let (network, app, proxy) = ("docker/network/edge_default", "docker/container/edge-app-1", "docker/container/edge-proxy-1");
        let first = replan(&engine, &shared(1));
        assert_eq!(verbs(&first), [network, proxy, app].map(|what| format!("create {what}")));
        settle(&mut engine, &shared(1));
        let again = replan(&engine, &shared(2));
        assert_eq!(verbs(&again), [proxy, app].map(|what| format!("replace {what}")));
        assert!(again.steps[1].after.contains(&id(proxy)), "{again:?}");

        // Also when the proxy was made anew by somebody else: the app holds on to a namespace that is gone.
        let app = engine.containers.get_mut("edge-app-1").unwrap().config.as_mut().unwrap();
        app.options.network_mode = Some("container:0123".to_owned());
        assert_eq!(verbs(&replan(&engine, &shared(1))), ["replace docker/container/edge-app-1"]);
        let engine_with = |state: ContainerState| {
            let mut engine = settled(&shared(1));
            engine.containers.get_mut("edge-proxy-1").unwrap().state = state;
            engine
        };
        let begun = replan(&engine_with(ContainerState::Exited), &shared(1));
        assert_eq!(verbs(&begun), [format!("start {proxy}"), "replace docker/container/edge-app-1".to_owned()]);
        let mut careful = shared(1);
        careful.policy = Some(crate::topology::Policy { drift: DriftPolicy::Inbox, ..crate::topology::Policy::default() });
        let mut engine = settled(&careful);
        engine.containers.get_mut("edge-app-1").unwrap().config.as_mut().unwrap().options.network_mode = Some("container:0123".to_owned());
        assert_eq!(verbs(&replan(&engine, &careful)), ["replace docker/container/edge-app-1"]);
        let nobody = spec(json!({ "docker": { "services": { "a": { "image": "i", "options": { "pid": "service:b" } } } } }));
        assert!(blocked(&replan(&Engine::default(), &nobody), "docker/container/edge-a-1").reason.contains("service `b`"));
    }

    #[test]
    fn a_port_is_freed_before_it_is_taken() {
        let service = |name: &str| {
            spec(
                json!({ "docker": { "services": { name: { "image": "i", "ports": [{ "target": 1, "protocol": "tcp", "published": 80 }] } } } }),
            )
        };
        let mut engine = settled(&service("old"));
        let plan = replan(&engine, &service("a-new"));
        assert_eq!(verbs(&plan), ["remove docker/container/edge-old-1", "create docker/container/edge-a-new-1"]);
        assert!(plan.steps[1].after.contains(&id("docker/container/edge-old-1")));
        settle(&mut engine, &service("a-new"));
    }

    #[test]
    fn a_changed_volume_is_never_replaced_and_says_what_to_do() {
        let engine = settled(&full());
        let mut changed = full();
        changed.docker.as_mut().unwrap().volumes.get_mut("data").unwrap().labels.insert("keep".into(), "no".into());
        let plan = replan(&engine, &changed);
        assert!(plan.steps.is_empty() && !plan.is_settled());
        assert_eq!(plan.drift[0].field, "labels.keep");
        assert!(blocked(&plan, "docker/volume/edge_data").reason.contains("by hand"));
    }

    #[test]
    fn volumes_are_left_when_the_slice_no_longer_wants_them() {
        let mut engine = settled(&full());
        settle(&mut engine, &HostSpec::default());
        assert!(engine.containers.is_empty() && engine.networks.is_empty());
        assert!(engine.volumes.contains_key("edge_data"));
        assert!(replan(&engine, &HostSpec::default()).is_settled());
    }

    #[test]
    fn a_stranger_with_our_name_blocks_and_so_do_its_dependants() {
        let mut engine = Engine::default();
        engine.networks.insert("edge_back".to_owned(), ObservedNetwork { id: "x".to_owned(), ..Default::default() });
        let plan = replan(&engine, &full());
        assert_eq!(blocked(&plan, "docker/network/edge_back").code, Some(Code::NotOwned));
        assert_eq!(blocked(&plan, "docker/container/edge-db-1").code, Some(Code::DependencyFailed));
        assert_eq!(blocked(&plan, "docker/container/edge-site-1").code, Some(Code::DependencyFailed));
        assert!(verbs(&plan).contains(&"create docker/container/edge-probe-1".to_owned()));
    }

    #[test]
    fn what_the_engine_fails_to_inspect_is_neither_gone_nor_changed() {
        let mut engine = settled(&full());
        engine.containers.get_mut("edge-site-1").unwrap().config = None;
        let plan = replan(&engine, &full());
        assert!(plan.steps.is_empty(), "{plan:?}");
        let blocked = plan.blocked.iter().find(|b| b.resource.name() == "edge-site-1").unwrap();
        assert_eq!(blocked.code, Some(Code::StepFailed));
    }

    #[test]
    fn inbox_changes_nothing_and_tells() {
        let mut engine = settled(&full());
        let mut inbox = full();
        inbox.policy = Some(crate::topology::Policy { drift: DriftPolicy::Inbox, ..crate::topology::Policy::default() });
        engine.containers.get_mut("edge-site-1").unwrap().config.as_mut().unwrap().restart = None;
        let plan = replan(&engine, &inbox);
        assert!(plan.steps.is_empty());
        assert_eq!((plan.drift[0].field.as_str(), plan.drift[0].actual.as_str()), ("restart", "nothing"));
        assert_eq!(verbs(&replan(&engine, &full())), ["update docker/container/edge-site-1"]);
    }

    #[test]
    fn a_network_joined_by_hand_is_told_and_restarts_nothing() {
        let mut engine = settled(&full());
        let config = engine.containers.get_mut("edge-probe-1").unwrap().config.as_mut().unwrap();
        config.networks.insert("debug".to_owned(), crate::topology::Attachment::default());
        let plan = replan(&engine, &full());
        assert!(plan.is_settled());
        assert_eq!(plan.drift[0].field, "networks.debug");
    }

    fn gated(condition: &str, restart: Option<&str>) -> HostSpec {
        let mut db = json!({ "image": "db", "healthcheck": { "test": ["CMD", "true"] } });
        if let Some(restart) = restart {
            db["restart"] = json!(restart);
        }
        spec(
            json!({ "docker": { "services": { "db": db, "app": { "image": "app", "depends_on": { "db": { "condition": condition } } } } } }),
        )
    }

    #[test]
    fn a_dependant_waits_until_its_dependency_is_healthy() {
        let desired = gated("service_healthy", None);
        let mut engine = Engine::default();
        let first = replan(&engine, &desired);
        assert_eq!(verbs(&first), ["create docker/network/edge_default", "create docker/container/edge-db-1"]);
        let waits = blocked(&first, "docker/container/edge-app-1");
        assert_eq!((waits.code, waits.reason.as_str()), (None, "waits for `edge-db-1` to be healthy"));
        for step in &first.steps {
            engine.apply(step).unwrap();
        }
        engine.containers.get_mut("edge-db-1").unwrap().health = Health::Starting;
        assert!(replan(&engine, &desired).steps.is_empty());
        engine.containers.get_mut("edge-db-1").unwrap().health = Health::Healthy;
        assert_eq!(verbs(&replan(&engine, &desired)), ["create docker/container/edge-app-1"]);
        engine.containers.get_mut("edge-db-1").unwrap().health = Health::None;
        assert_eq!(blocked(&replan(&engine, &desired), "docker/container/edge-app-1").code, Some(Code::DependencyFailed));
    }

    #[test]
    fn a_dependant_waits_for_success_and_what_ran_once_stays_ended() {
        for restart in [None, Some("no")] {
            let desired = gated("service_completed_successfully", restart);
            let mut engine = Engine::default();
            for step in &replan(&engine, &desired).steps {
                engine.apply(step).unwrap();
            }
            let db = engine.containers.get_mut("edge-db-1").unwrap();
            (db.state, db.exit_code) = (ContainerState::Exited, Some(1));
            assert_eq!(blocked(&replan(&engine, &desired), "docker/container/edge-app-1").code, Some(Code::DependencyFailed));
            engine.containers.get_mut("edge-db-1").unwrap().exit_code = Some(0);
            assert_eq!(verbs(&replan(&engine, &desired)), ["create docker/container/edge-app-1"]);
            settle(&mut engine, &desired);
            assert!(!desired_resources(&identity().topology, &desired).contains(&id("docker/container/edge-db-1")));
        }
    }

    #[test]
    fn on_failure_is_complete_after_success_only() {
        let desired = spec(json!({ "docker": { "services": { "job": { "image": "i", "restart": { "on-failure": 2 } } } } }));
        let mut engine = settled(&desired);
        let job = engine.containers.get_mut("edge-job-1").unwrap();
        (job.state, job.exit_code) = (ContainerState::Exited, Some(0));
        assert!(replan(&engine, &desired).is_settled());
        engine.containers.get_mut("edge-job-1").unwrap().exit_code = Some(3);
        assert_eq!(verbs(&replan(&engine, &desired)), ["start docker/container/edge-job-1"]);
    }

    #[test]
    fn what_a_cut_short_replacement_left_behind_is_finished_or_removed() {
        let mut engine = settled(&full());
        // Beside its successor: removed, and nothing else changes.
        let mut aside = engine.containers["edge-db-1"].clone();
        (aside.id, aside.state) = ("aside".to_owned(), ContainerState::Created);
        engine.containers.insert("edge-db-1-new-123".to_owned(), aside);
        let plan = replan(&engine, &full());
        assert_eq!(verbs(&plan), ["remove docker/container/edge-db-1-new-123"]);
        // In its place: it becomes the container.
        engine.containers.remove("edge-db-1");
        let plan = replan(&engine, &full());
        assert_eq!(verbs(&plan), ["replace docker/container/edge-db-1"]);
        settle(&mut engine, &full());
        assert_eq!(engine.containers["edge-db-1"].id, "aside");
    }

    #[test]
    fn another_topologys_objects_are_left_alone() {
        let mut engine = settled(&full());
        for container in engine.containers.values_mut() {
            container.owner.as_mut().unwrap().topology = "other".to_owned();
        }
        let plan = replan(&engine, &full());
        assert!(plan.steps.is_empty());
        assert_eq!(blocked(&plan, "docker/container/edge-site-1").code, Some(Code::NotOwned));
    }

    #[test]
    fn a_slice_that_makes_no_sense_is_blocked_and_never_a_panic() {
        let desired = spec(json!({ "docker": { "services": {
            "a": { "image": "i", "networks": { "nowhere": {} } }, "b": { "image": "i", "depends_on": { "c": { "condition": "service_started" } } },
            "c": { "image": "i", "depends_on": { "b": { "condition": "service_started" } } }, "d d": { "image": "i" },
            "e": { "image": "i", "volumes": { "/x": { "type": "volume", "source": "nowhere" } } } } } }));
        let plan = replan(&Engine::default(), &desired);
        assert_eq!(plan.blocked.len(), 5);
        assert!(plan.blocked.iter().all(|b| b.code == Some(Code::BadContent)), "{:?}", plan.blocked);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        #[test]
        fn planning_after_an_apply_is_empty(before in any_spec(), after in any_spec(), harm in proptest::collection::vec(any_damage(), 0..4)) {
            let mut engine = settled(&before);
            prop_assert!(replan(&engine, &before).is_settled());
            for what in &harm {
                damage(&mut engine, what);
            }
            // The model fails on any step that touches what is not ours.
            settle_leniently(&mut engine, &after);
            let plan = replan(&engine, &after);
            prop_assert!(plan.is_settled(), "{plan:#?}");
            prop_assert!(desired_resources(&identity().topology, &after).is_subset(&engine.observed().present()));
        }

        #[test]
        fn a_change_leaves_what_a_fresh_host_gets(before in any_spec(), after in any_spec()) {
            let mut changed = settled(&before);
            settle_leniently(&mut changed, &after);
            prop_assert_eq!(essence(&changed), essence(&settled(&after)));
        }

        #[test]
        fn no_step_touches_a_stranger(desired in any_spec(), harm in proptest::collection::vec(any_damage(), 0..6)) {
            let mut engine = settled(&desired);
            for what in &harm {
                damage(&mut engine, what);
            }
            let strangers = |e: &Engine| -> Vec<String> {
                e.containers.values().filter(|c| c.owner.is_none()).map(|c| c.id.clone()).chain(
                e.networks.values().filter(|n| n.owner.is_none()).map(|n| n.id.clone())).collect()
            };
            let before = strangers(&engine);
            settle_leniently(&mut engine, &HostSpec::default());
            prop_assert_eq!(strangers(&engine), before);
            prop_assert!(engine.containers.values().all(|c| c.owner.is_none()));
        }

        #[test]
        fn names_that_a_slice_gives_are_no_right_to_what_bears_them(desired in any_named_spec(), strangers in proptest::collection::vec(0..4usize, 0..4)) {
            let mut engine = Engine::default();
            strangers.iter().for_each(|at| damage(&mut engine, &Damage::Stranger(*at)));
            let before = engine.clone();
            settle_leniently(&mut engine, &desired);
            for spec in [&desired, &HostSpec::default()] {
                settle_leniently(&mut engine, spec);
                prop_assert!(before.containers.iter().all(|(name, live)| engine.containers.get(name) == Some(live)));
                prop_assert!(before.networks.iter().all(|(name, live)| engine.networks.get(name) == Some(live)));
                prop_assert!(before.volumes.iter().all(|(name, live)| engine.volumes.get(name) == Some(live)));
            }
            prop_assert!(engine.containers.values().all(|live| live.owner.is_none()), "what is ours goes, under any name");
        }

        #[test]
        fn every_step_stands_behind_those_that_it_waits_for(before in any_spec(), after in any_spec()) {
            let plan = replan(&settled(&before), &after);
            let mut done = BTreeSet::new();
            for step in &plan.steps {
                prop_assert!(step.after.is_subset(&done), "{step}");
                prop_assert!(done.insert(step.resource.clone()), "two steps for {}", step.resource);
            }
        }
    }

    /// As the executor: a failed step leaves the others alone and is planned again in the next round.
    fn settle_leniently(engine: &mut Engine, desired: &HostSpec) {
        for _ in 0..10 {
            let next = replan(engine, desired);
            if next.steps.is_empty() {
                return;
            }
            for step in &next.steps {
                let conflict = engine.apply(step).err();
                assert!(!conflict.as_ref().is_some_and(|e| e.to_string().contains("not ours")), "{step}: {conflict:?}");
            }
        }
    }
}
