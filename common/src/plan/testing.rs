//! Fixtures and generators for the planner's tests.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::model::Engine;
use super::plan;
use super::{Identity, Plan};
use crate::id::{ClusterId, HostId, ResourceId, TopologyId};
use crate::observe::{ContainerConfig, ContainerState, ObservedContainer, ObservedNetwork};
use crate::topology::HostSpec;

pub fn identity() -> Identity {
    Identity { cluster: ClusterId::parse("home").unwrap(), host_id: HostId::of_key(&[7; 32]), topology: TopologyId::parse("edge").unwrap() }
}

pub fn spec(value: serde_json::Value) -> HostSpec {
    serde_json::from_value(value).unwrap()
}

pub fn id(text: &str) -> ResourceId {
    ResourceId::parse(text).unwrap()
}

/// A slice with every kind of thing in it.
pub fn full() -> HostSpec {
    spec(json!({ "docker": {
        "networks": {
            "front": { "driver": "bridge", "ipam": { "config": [{ "subnet": "10.40.0.0/24", "gateway": "10.40.0.1" }] }, "labels": { "a": "b" } },
            "back": { "internal": true }
        },
        "volumes": { "data": { "driver": "local", "labels": { "keep": "yes" } } },
        "services": {
            "db": {
                "image": "postgres:16", "environment": { "POSTGRES_DB": "shop" }, "networks": { "back": {} },
                "volumes": { "/var/lib/db": { "type": "volume", "source": "data" }, "/scratch": { "type": "volume" } },
                "healthcheck": { "test": ["CMD", "true"], "interval": 5_000_000_000_u64 }, "stop_grace_period": 1_500_000_000_u64
            },
            "site": {
                "image": "nginx:1.27", "command": ["serve"], "entrypoint": ["/bin/sh", "-c"], "networks": { "front": { "aliases": ["www"] }, "back": {} },
                "ports": [{ "target": 80, "protocol": "tcp", "published": 8080 }], "restart": "unless-stopped",
                "volumes": { "/etc/site/": { "type": "bind", "source": "/srv/moorline/site", "read_only": true }, "/tmp": { "type": "tmpfs" } },
                "labels": { "team": "web" }, "depends_on": { "db": { "condition": "service_started" } }, "hostname": "site", "user": "1000",
                "working_dir": "/srv/", "stop_signal": "TERM"
            },
            "probe": { "image": "busybox" }
        }
    }}))
}

/// Plans and applies until nothing changes any more; returns the steps of each round.
pub fn settle(engine: &mut Engine, desired: &HostSpec) -> Vec<Plan> {
    let mut rounds = Vec::new();
    for _ in 0..10 {
        let next = plan(&identity(), desired, &engine.observed());
        if next.steps.is_empty() {
            return rounds;
        }
        for step in &next.steps {
            engine.apply(step).unwrap_or_else(|error| panic!("{step}: {error}"));
        }
        rounds.push(next);
    }
    panic!("does not settle: {:#?}", rounds.last());
}

/// An engine on which `desired` has been applied.
pub fn settled(desired: &HostSpec) -> Engine {
    let mut engine = Engine::default();
    settle(&mut engine, desired);
    engine
}

/// What containers are, without what every one of them has for itself; what the engine does without being told is left out.
pub fn essence(engine: &Engine) -> BTreeMap<String, ContainerConfig> {
    let config = |live: &ObservedContainer| {
        let mut config = *live.config.clone().unwrap();
        config.hostname.clear();
        let by_itself = config.options.usual_swap();
        config.options.memswap_limit = config.options.memswap_limit.filter(|swap| *swap != by_itself);
        config.volumes.values_mut().for_each(|mount| mount.source = mount.source.take().filter(|source| source.len() < 64));
        config
    };
    engine.containers.iter().map(|(name, live)| (name.clone(), config(live))).collect()
}

pub fn verbs(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|s| format!("{} {}", s.action.verb(), s.resource)).collect()
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

prop_compose! {
    fn service()(
        image in 0..3u8,
        networks in proptest::collection::btree_set(0..3usize, 0..3),
        volume in proptest::option::of(0..2usize),
        anonymous in any::<bool>(),
        port in proptest::option::of(8000..8004u16),
        env in proptest::option::of("[a-z]{1,3}"),
        depends in proptest::collection::btree_set(0..4usize, 0..3),
        restart in proptest::option::of(prop_oneof![Just(json!("always")), Just(json!("unless-stopped")), Just(json!({ "on-failure": 3 }))]),
        stop in proptest::option::of(0..4_000_000_000u64),
        memory in proptest::option::of((64..66u64, proptest::option::of(prop_oneof![Just(-1), Just(128_i64), Just(200)]))),
        processes in proptest::option::of(prop_oneof![Just(-1_i64), Just(100)]),
    ) -> (serde_json::Value, BTreeSet<usize>, Option<u16>) {
        let mut volumes = serde_json::Map::new();
        if let Some(v) = volume { volumes.insert("/data".into(), json!({ "type": "volume", "source": NAMES[v] })); }
        if anonymous { volumes.insert("/anon".into(), json!({ "type": "volume" })); }
        let networks: BTreeMap<&str, serde_json::Value> = networks.into_iter().map(|n| (NAMES[n], json!({}))).collect();
        let environment: BTreeMap<&str, String> = env.into_iter().map(|v| ("X", v)).collect();
        let mut value = json!({ "image": format!("image:{image}"), "networks": networks, "volumes": volumes, "environment": environment });
        if let Some(restart) = restart { value["restart"] = restart; }
        if let Some(stop) = stop { value["stop_grace_period"] = json!(stop); }
        let mut options = serde_json::Map::new();
        if let Some((memory, swap)) = memory {
            options.insert("mem_limit".into(), json!(memory << 20));
            if let Some(swap) = swap { options.insert("memswap_limit".into(), json!(if swap < 0 { swap } else { swap << 20 })); }
        }
        if let Some(processes) = processes { options.insert("pids_limit".into(), json!(processes)); }
        value["options"] = json!(options);
        (value, depends, port)
    }
}

prop_compose! {
    /// Any valid slice of a few small services.
    pub fn any_spec()(
        services in proptest::collection::vec(service(), 0..4),
        labels in proptest::collection::vec(proptest::option::of("[a-z]{1,2}"), 3),
    ) -> HostSpec {
        let mut ports = BTreeSet::new();
        let mut map = serde_json::Map::new();
        for (at, (mut value, depends, port)) in services.into_iter().enumerate() {
            // Only on earlier ones: no circles.
            let depends: BTreeMap<&str, serde_json::Value> =
                depends.into_iter().filter(|d| *d < at).map(|d| (NAMES[d], json!({ "condition": "service_started" }))).collect();
            value["depends_on"] = json!(depends);
            if let Some(port) = port.filter(|p| ports.insert(*p)) {
                value["ports"] = json!([{ "target": 80, "protocol": "tcp", "published": port }]);
            }
            map.insert(NAMES[at].to_owned(), value);
        }
        let network = |l: &Option<String>| l.as_ref().map_or(json!({}), |l| json!({ "labels": { "l": l } }));
        let networks: BTreeMap<&str, serde_json::Value> = labels.iter().enumerate().map(|(at, l)| (NAMES[at], network(l))).collect();
        spec(json!({ "docker": { "networks": networks, "volumes": { "a": {}, "b": {} }, "services": map } }))
    }
}

prop_compose! {
    /// Any valid slice that gives some of its objects the names that [`Damage::Stranger`] gives to strangers' ones.
    pub fn any_named_spec()(
        mut desired in any_spec(),
        containers in proptest::collection::vec(any::<bool>(), 4),
        network in proptest::option::of(any::<bool>()),
        volume in proptest::option::of(any::<bool>()),
    ) -> HostSpec {
        let docker = desired.docker.as_mut().unwrap();
        for (name, _) in NAMES.iter().zip(containers).filter(|(_, named)| *named) {
            if let Some(service) = docker.services.get_mut(*name) { service.container_name = Some(format!("given-{name}")); }
        }
        if let Some(external) = network {
            let spec = docker.networks.get_mut("a").unwrap();
            (spec.name, spec.external) = (Some("given".to_owned()), external);
            if external { spec.labels.clear(); }
        }
        if let Some(external) = volume {
            let spec = docker.volumes.get_mut("a").unwrap();
            (spec.name, spec.external) = (Some("given".to_owned()), external);
        }
        desired
    }
}

/// What people and crashes do to a host behind our back.
#[derive(Debug, Clone)]
pub enum Damage {
    Remove(usize),
    State(usize, ContainerState),
    Rename(usize),
    Detach(usize),
    DropNetwork(usize),
    Stranger(usize),
}

pub fn any_damage() -> impl Strategy<Value = Damage> {
    let state =
        prop_oneof![Just(ContainerState::Exited), Just(ContainerState::Paused), Just(ContainerState::Created), Just(ContainerState::Dead)];
    prop_oneof![
        (0..4usize).prop_map(Damage::Remove),
        (0..4usize, state).prop_map(|(at, state)| Damage::State(at, state)),
        (0..4usize).prop_map(Damage::Rename),
        (0..4usize).prop_map(Damage::Detach),
        (0..3usize).prop_map(Damage::DropNetwork),
        (0..4usize).prop_map(Damage::Stranger),
    ]
}

pub fn damage(engine: &mut Engine, what: &Damage) {
    let name = |at: usize| format!("edge-{}-1", NAMES[at]);
    match what {
        Damage::Remove(at) => drop(engine.containers.remove(&name(*at))),
        Damage::State(at, state) => {
            if let Some(container) = engine.containers.get_mut(&name(*at)) {
                container.state = *state;
                container.exit_code = Some(137);
            }
        }
        Damage::Rename(at) => {
            if let Some(container) = engine.containers.remove(&name(*at)) {
                engine.containers.insert(format!("renamed-{at}"), container);
            }
        }
        Damage::Detach(at) => {
            if let Some(config) = engine.containers.get_mut(&name(*at)).and_then(|c| c.config.as_mut()) {
                config.networks.clear();
            }
        }
        Damage::DropNetwork(at) => {
            let network = format!("edge_{}", NAMES[*at]);
            for config in engine.containers.values_mut().filter_map(|c| c.config.as_mut()) {
                config.networks.remove(&network);
            }
            engine.networks.remove(&network);
        }
        Damage::Stranger(at) => {
            let stranger = ObservedContainer { id: format!("stranger-{at}"), state: ContainerState::Running, ..Default::default() };
            engine.containers.entry(format!("stranger-{at}")).or_insert(stranger);
            let network = ObservedNetwork { id: format!("strange-net-{at}"), ..Default::default() };
            engine.networks.entry(format!("edge_strange{at}")).or_insert(network);
            engine.volumes.entry(format!("edge_strange{at}")).or_default();
            let given = ObservedContainer { id: format!("given-{at}"), ..Default::default() };
            engine.containers.entry(format!("given-{}", NAMES[*at])).or_insert(given);
            engine.networks.entry("given".to_owned()).or_insert(ObservedNetwork { id: "given".to_owned(), ..Default::default() });
            engine.volumes.entry("given".to_owned()).or_default();
        }
    }
}
