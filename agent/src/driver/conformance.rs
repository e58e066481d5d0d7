//! What every driver must do, as checks that run against each of them.
//!
//! A [`Bench`] brings one driver with a fresh topology, and the hands of somebody who changes the engine behind its back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::TopologyId;
use moorline_common::observe::{ContainerState, Observed, ObservedContainer};
use moorline_common::plan::{Action, ContainerTarget, Identity, InPlace, Plan, Step};
use moorline_common::plan::{desired_resources, plan};
use moorline_common::topology::HostSpec;
use serde_json::{Value, json};

use super::{Driver, DriverError, DriverErrorKind};

pub mod ops;

/// Until an event or a state must have come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rounds of planning and applying until nothing is left to do.
const ROUNDS: usize = 40;

/// One driver to be checked.
pub trait Bench: Sync {
    /// The driver's type.
    type D: Driver;
    /// The driver.
    fn driver(&self) -> &Self::D;
    /// Whose objects it makes; a topology of its own.
    fn identity(&self) -> Identity;
    /// An image that is there, and a second name of it.
    fn images(&self) -> [String; 2];
    /// A free /24 and a folder on the host that may be mounted.
    fn subnet(&self) -> String;
    /// A folder on the host.
    fn folder(&self) -> String;
    /// A driver whose engine does not answer.
    fn away(&self) -> Self::D;
    /// Told of each observation, so that it can clean up what nothing names any more.
    fn note(&self, _observed: &Observed) {}
    /// Changes the engine behind the driver's back.
    fn by_hand(&self, act: ByHand<'_>) -> impl Future<Output = ()> + Send;
}

/// What people and crashes do to an engine. Names are the engine's.
pub enum ByHand<'a> {
    /// `docker kill`.
    Kill(&'a str),
    /// `docker rm -f`.
    Remove(&'a str),
    /// `docker pause`.
    Pause(&'a str),
    /// `docker rename`.
    Rename(&'a str, &'a str),
    /// `docker network disconnect -f` for all, and `docker network rm`.
    DropNetwork(&'a str),
    /// A container of somebody else.
    Stranger(&'a str),
    /// A network of somebody else.
    StrangeNetwork(&'a str),
    /// A volume of somebody else.
    StrangeVolume(&'a str),
    /// What a crash leaves in the middle of making a container: it is there under the name, joined to one network only.
    HalfMade(&'a ContainerTarget, &'a str),
}

/// Every check, one after the other.
pub async fn all(bench: &impl Bench) {
    every_field_survives_the_round_trip(bench).await;
    repeating_every_step_changes_nothing(bench).await;
    what_is_stopped_removed_or_paused_by_hand_is_mended(bench).await;
    a_replacement_keeps_volumes_without_a_name(bench).await;
    what_a_crash_left_is_finished(bench).await;
    an_image_that_cannot_be_had_stops_nothing(bench).await;
    strangers_are_left_alone(bench).await;
    a_changed_network_takes_its_containers_along(bench).await;
    a_network_that_was_removed_comes_back_with_its_containers(bench).await;
    changes_are_told(bench).await;
    an_engine_that_is_away_is_said_to_be(bench).await;
    a_teardown_leaves_only_volumes(bench).await;
}

fn spec(value: Value) -> HostSpec {
    serde_json::from_value(value).unwrap()
}

/// A slice in which every field that is supported has a value.
fn every_field(bench: &impl Bench) -> HostSpec {
    let [image, _] = bench.images();
    let subnet = bench.subnet();
    let at = |last: &str| subnet.replace("0/24", last);
    spec(json!({ "docker": {
        "networks": {
            "front": {
                "driver": "bridge", "driver_opts": { "com.docker.network.bridge.enable_icc": "true" }, "labels": { "purpose": "front" },
                "ipam": { "driver": "default", "config": [{ "subnet": subnet, "ip_range": at("128/25"), "gateway": at("1") }] }
            },
            "back": { "internal": true }
        },
        "volumes": { "data": { "driver": "local", "labels": { "keep": "yes" } } },
        "services": {
            "all": {
                "image": image, "command": ["sleep 1000000"], "entrypoint": ["/bin/sh", "-c"],
                "environment": { "EMPTY": "", "HOST": "a=b c" },
                "ports": [{ "target": 80, "protocol": "tcp" }, { "target": 81, "protocol": "udp", "host_ip": "127.0.0.1" }],
                "networks": { "front": { "aliases": ["www"], "ipv4_address": at("200") }, "back": {} },
                "volumes": {
                    "/data/": { "type": "volume", "source": "data" }, "/anon": { "type": "volume" }, "/mem": { "type": "tmpfs" },
                    "/host": { "type": "bind", "source": bench.folder(), "read_only": true }
                },
                "restart": "unless-stopped", "labels": { "team": "web" },
                "healthcheck": { "test": ["CMD", "/bin/true"], "interval": 1_000_000_000, "timeout": 2_000_000_000, "retries": 2, "start_period": 1_000_000 },
                "hostname": "every", "user": "0:0", "working_dir": "/data/../data/", "stop_signal": "KILL", "stop_grace_period": 1_500_000_000
            },
            "after": { "image": image, "depends_on": { "all": { "condition": "service_healthy" } }, "stop_signal": "SIGKILL", "restart": { "on-failure": 2 } },
            "checked-not": { "image": image, "healthcheck": { "test": ["NONE"] }, "stop_signal": "9", "entrypoint": [] }
        }
    }}))
}

/// A slice of one small service.
fn one(bench: &impl Bench, change: Value) -> HostSpec {
    let mut service = json!({ "image": bench.images()[0], "stop_signal": "KILL", "networks": { "n": {}, "m": {} }, "volumes": { "/anon": { "type": "volume" } } });
    for (key, value) in change.as_object().unwrap() {
        service[key] = value.clone();
    }
    spec(json!({ "docker": { "networks": { "n": {}, "m": {} }, "services": { "one": service } } }))
}

async fn look(bench: &impl Bench, desired: &HostSpec) -> (Observed, Plan) {
    let observed = bench.driver().observe().await.unwrap();
    bench.note(&observed);
    let plan = plan(&bench.identity(), desired, &observed);
    (observed, plan)
}

/// Without what others have on the same engine: they come and go.
fn ours(mut observed: Observed) -> Observed {
    observed.networks.retain(|_, n| n.owner.is_some());
    observed.volumes.retain(|_, v| v.owner.is_some());
    observed.containers.retain(|_, c| c.owner.is_some());
    observed
}

/// Makes `step` so and notes what labels do not tell, as the reconciler does.
pub async fn carry_out(driver: &impl Driver, step: &Step) -> Result<(), DriverError> {
    driver.apply(step).await?;
    if let Some((key, owner)) = step.action.note() {
        let owner = driver.known().heir(&key, owner);
        driver.known().note(key, owner);
    }
    Ok(())
}

/// Observes, plans and applies until the host is as wanted; returns all steps that it took.
async fn settle(bench: &impl Bench, desired: &HostSpec) -> Vec<Step> {
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        let (_, plan) = look(bench, desired).await;
        if plan.is_settled() {
            return taken;
        }
        for step in &plan.steps {
            carry_out(bench.driver(), step).await.unwrap_or_else(|e| panic!("{step}: {e:?}"));
        }
        if plan.steps.is_empty() {
            // Somebody's health: nothing but time helps.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        taken.extend(plan.steps);
    }
    panic!("does not settle: {:#?}", look(bench, desired).await.1);
}

fn name(bench: &impl Bench, service: &str) -> String {
    format!("{}-{service}-1", bench.identity().topology)
}

fn container(observed: &Observed, name: &str) -> ObservedContainer {
    observed.containers.get(name).unwrap_or_else(|| panic!("no `{name}` in {:?}", observed.containers.keys())).clone()
}

fn verbs(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|s| s.action.verb()).collect()
}

async fn every_field_survives_the_round_trip(bench: &impl Bench) {
    let desired = every_field(bench);
    settle(bench, &desired).await;
    let (observed, plan) = look(bench, &desired).await;
    assert_eq!(plan, Plan::default());
    assert_eq!(desired_resources(&bench.identity().topology, &desired).difference(&observed.present()).next(), None);
    let live = container(&observed, &name(bench, "all"));
    let config = live.config.unwrap();
    assert_eq!(config.environment.get("HOST").map(String::as_str), Some("a=b c"));
    assert!(config.volumes["/anon"].source.is_some());
}

async fn repeating_every_step_changes_nothing(bench: &impl Bench) {
    settle(bench, &HostSpec::default()).await;
    let desired = one(bench, json!({}));
    let steps = settle(bench, &desired).await;
    let before = ours(look(bench, &desired).await.0);
    for step in &steps {
        bench.driver().apply(step).await.unwrap_or_else(|e| panic!("repeating {step}: {e:?}"));
    }
    let (after, plan) = look(bench, &desired).await;
    assert_eq!((ours(after), plan), (before, Plan::default()));
}

async fn what_is_stopped_removed_or_paused_by_hand_is_mended(bench: &impl Bench) {
    let desired = one(bench, json!({}));
    let one = name(bench, "one");
    settle(bench, &desired).await;
    bench.by_hand(ByHand::Kill(&one)).await;
    let (observed, _) = look(bench, &desired).await;
    assert_eq!(container(&observed, &one).state, ContainerState::Exited);
    assert!(observed.present().iter().all(|r| r.name() != one));
    assert_eq!(verbs(&settle(bench, &desired).await), ["start"]);
    bench.by_hand(ByHand::Pause(&one)).await;
    assert_eq!(verbs(&settle(bench, &desired).await), ["unpause"]);
    bench.by_hand(ByHand::Rename(&one, &format!("{one}-renamed"))).await;
    let id = container(&look(bench, &desired).await.0, &format!("{one}-renamed")).id;
    assert_eq!(verbs(&settle(bench, &desired).await), ["replace"]);
    assert_eq!(container(&look(bench, &desired).await.0, &one).id, id, "one that was renamed gets its name back, and runs on");
    bench.by_hand(ByHand::Remove(&one)).await;
    assert_eq!(verbs(&settle(bench, &desired).await), ["create"]);
}

async fn a_replacement_keeps_volumes_without_a_name(bench: &impl Bench) {
    let volume = |observed: &Observed| container(observed, &name(bench, "one")).config.unwrap().volumes["/anon"].source.clone();
    settle(bench, &one(bench, json!({}))).await;
    let before = look(bench, &one(bench, json!({}))).await.0;
    let changed = one(bench, json!({ "image": bench.images()[1], "environment": { "A": "1" } }));
    assert_eq!(verbs(&settle(bench, &changed).await), ["replace"]);
    let after = look(bench, &changed).await.0;
    assert_eq!(volume(&after), volume(&before));
    assert_ne!(container(&after, &name(bench, "one")).id, container(&before, &name(bench, "one")).id);
}

fn target(plan: &Plan) -> ContainerTarget {
    plan.steps.iter().find_map(|s| s.action.container_target()).unwrap().clone()
}

async fn what_a_crash_left_is_finished(bench: &impl Bench) {
    let desired = one(bench, json!({}));
    let one_name = name(bench, "one");
    settle(bench, &desired).await;
    bench.by_hand(ByHand::Remove(&one_name)).await;
    let (_, planned) = look(bench, &desired).await;
    bench.by_hand(ByHand::HalfMade(&target(&planned), &one_name)).await;
    // The same step again, as after a crash with the plan still in hand; and a new plan.
    for step in &planned.steps {
        bench.driver().apply(step).await.unwrap();
    }
    assert_eq!(look(bench, &desired).await.1, Plan::default());
    bench.by_hand(ByHand::Remove(&one_name)).await;
    bench.by_hand(ByHand::HalfMade(&target(&planned), &one_name)).await;
    settle(bench, &desired).await;
    // In the middle of a replacement, before and after the predecessor is gone.
    for predecessor_gone in [false, true] {
        let (observed, _) = look(bench, &desired).await;
        let changed = one(bench, json!({ "environment": { "ROUND": predecessor_gone.to_string() } }));
        let (_, planned) = look(bench, &changed).await;
        let short: String = container(&observed, &one_name).id.chars().take(12).collect();
        bench.by_hand(ByHand::HalfMade(&target(&planned), &format!("{one_name}-new-{short}"))).await;
        if predecessor_gone {
            bench.by_hand(ByHand::Remove(&one_name)).await;
        } else {
            // With the plan still in hand.
            bench.driver().apply(&planned.steps[0]).await.unwrap();
        }
        settle(bench, &changed).await;
        let (observed, _) = look(bench, &changed).await;
        let ours = observed.containers.values().filter(|c| c.owner.is_some()).count();
        assert_eq!(ours, 1, "{:?}", observed.containers.keys());
        assert_eq!(container(&observed, &one_name).state, ContainerState::Running);
    }
}

async fn an_image_that_cannot_be_had_stops_nothing(bench: &impl Bench) {
    let desired = one(bench, json!({}));
    settle(bench, &desired).await;
    let before = container(&look(bench, &desired).await.0, &name(bench, "one"));
    let missing = one(bench, json!({ "image": "localhost:1/moorline/no-such-image:1" }));
    let (_, planned) = look(bench, &missing).await;
    let error = bench.driver().apply(&planned.steps[0]).await.unwrap_err();
    assert_eq!(error.code, Code::ImageUnavailable, "{error:?}");
    assert!(error.message.contains("no-such-image") && error.message.chars().count() <= 200, "{error:?}");
    let after = container(&look(bench, &missing).await.0, &name(bench, "one"));
    assert_eq!((after.id, after.state), (before.id, ContainerState::Running));
}

async fn strangers_are_left_alone(bench: &impl Bench) {
    settle(bench, &HostSpec::default()).await;
    let topology = bench.identity().topology;
    let desired = one(bench, json!({ "volumes": { "/v": { "type": "volume", "source": "v" } } }));
    let mut desired = desired;
    desired.docker.as_mut().unwrap().volumes.insert("v".to_owned(), moorline_common::topology::VolumeSpec::default());
    let (_, planned) = look(bench, &desired).await;
    let (one_name, network, volume) = (name(bench, "one"), format!("{topology}_n"), format!("{topology}_v"));
    bench.by_hand(ByHand::Stranger(&one_name)).await;
    bench.by_hand(ByHand::StrangeNetwork(&network)).await;
    bench.by_hand(ByHand::StrangeVolume(&volume)).await;
    let (before, blocked) = look(bench, &desired).await;
    assert!(blocked.blocked.iter().all(|b| matches!(b.code, Some(Code::NotOwned | Code::DependencyFailed))), "{blocked:#?}");
    assert_eq!(blocked.blocked.len(), 3);
    // Even with a plan from before they came, and with their very ids.
    for step in &planned.steps {
        let expected = [&one_name, &network, &volume].into_iter().any(|n| step.resource.name() == n);
        let outcome = bench.driver().apply(step).await;
        assert_eq!(outcome.is_err(), expected, "{step}: {outcome:?}");
    }
    let stranger = container(&before, &one_name);
    for action in [
        Action::RemoveContainer { id: stranger.id.clone() },
        Action::ReplaceContainer { old_id: stranger.id.clone(), target: Arc::new(target(&planned)) },
        Action::UpdateContainer {
            id: stranger.id.clone(),
            target: Arc::new(target(&planned)),
            changes: InPlace { restart: true, ..InPlace::default() },
        },
        Action::RemoveNetwork { id: before.networks[&network].id.clone() },
    ] {
        let step = Step { action, ..planned.steps[0].clone() };
        let error = bench.driver().apply(&step).await.unwrap_err();
        assert_eq!(error.kind, DriverErrorKind::Conflict, "{step}: {error:?}");
    }
    let (after, _) = look(bench, &desired).await;
    assert_eq!((container(&after, &one_name), &after.networks[&network]), (stranger, &before.networks[&network]));
    settle(bench, &HostSpec::default()).await;
}

async fn a_changed_network_takes_its_containers_along(bench: &impl Bench) {
    // A topology of its own: the strangers of the check before still stand in the way of the other one.
    let renamed = Renamed { bench, topology: TopologyId::parse(format!("{}-x", bench.identity().topology)).unwrap() };
    let before = one(bench, json!({}));
    settle(&renamed, &before).await;
    let mut changed = before.clone();
    changed.docker.as_mut().unwrap().networks.get_mut("m").unwrap().labels.insert("a".to_owned(), "b".to_owned());
    assert_eq!(verbs(&settle(&renamed, &changed).await), ["replace", "update"]);
    // Cut short right after the network.
    let (_, planned) = look(&renamed, &before).await;
    bench.driver().apply(&planned.steps[0]).await.unwrap();
    assert_eq!(verbs(&settle(&renamed, &before).await), ["update"]);
    settle(&renamed, &HostSpec::default()).await;
}

async fn a_network_that_was_removed_comes_back_with_its_containers(bench: &impl Bench) {
    let renamed = Renamed { bench, topology: TopologyId::parse(format!("{}-w", bench.identity().topology)).unwrap() };
    let desired = one(bench, json!({}));
    let (one_name, network) = (name(&renamed, "one"), format!("{}_n", renamed.topology));
    settle(&renamed, &desired).await;
    for stopped_first in [false, true] {
        if stopped_first {
            bench.by_hand(ByHand::Kill(&one_name)).await;
        }
        bench.by_hand(ByHand::DropNetwork(&network)).await;
        assert_eq!(verbs(&settle(&renamed, &desired).await), ["create", if stopped_first { "replace" } else { "update" }]);
        let (observed, _) = look(&renamed, &desired).await;
        assert!(container(&observed, &one_name).config.unwrap().networks.contains_key(&network));
    }
    settle(&renamed, &HostSpec::default()).await;
}

/// The same bench under another topology.
struct Renamed<'a, B> {
    bench: &'a B,
    topology: TopologyId,
}

impl<B: Bench> Bench for Renamed<'_, B> {
    type D = B::D;
    fn driver(&self) -> &B::D {
        self.bench.driver()
    }
    fn identity(&self) -> Identity {
        Identity { topology: self.topology.clone(), ..self.bench.identity() }
    }
    fn images(&self) -> [String; 2] {
        self.bench.images()
    }
    fn subnet(&self) -> String {
        self.bench.subnet()
    }
    fn folder(&self) -> String {
        self.bench.folder()
    }
    fn away(&self) -> B::D {
        self.bench.away()
    }
    fn note(&self, observed: &Observed) {
        self.bench.note(observed);
    }
    async fn by_hand(&self, act: ByHand<'_>) {
        self.bench.by_hand(act).await;
    }
}

async fn changed(driver: &impl Driver) {
    tokio::time::timeout(PATIENCE, driver.next_event()).await.expect("an event in time");
}

/// Takes the events that are already there.
async fn drain(driver: &impl Driver) {
    while tokio::time::timeout(Duration::from_millis(700), driver.next_event()).await.is_ok() {}
}

async fn changes_are_told(bench: &impl Bench) {
    let renamed = Renamed { bench, topology: TopologyId::parse(format!("{}-y", bench.identity().topology)).unwrap() };
    let desired = one(bench, json!({}));
    settle(&renamed, &desired).await;
    let one_name = name(&renamed, "one");
    drain(bench.driver()).await;
    bench.by_hand(ByHand::Kill(&one_name)).await;
    changed(bench.driver()).await;
    settle(&renamed, &desired).await;
    drain(bench.driver()).await;
    bench.by_hand(ByHand::Remove(&one_name)).await;
    changed(bench.driver()).await;
    settle(&renamed, &HostSpec::default()).await;
}

async fn an_engine_that_is_away_is_said_to_be(bench: &impl Bench) {
    let away = bench.away();
    let step = Step {
        resource: moorline_common::plan::lower::container_resource("x"),
        action: Action::StartContainer { id: "x".to_owned() },
        reason: String::new(),
        after: std::collections::BTreeSet::new(),
        tolerates: std::collections::BTreeSet::new(),
        heals: Vec::new(),
    };
    for error in [away.observe().await.unwrap_err(), away.apply(&step).await.unwrap_err()] {
        assert_eq!((error.kind, error.code), (DriverErrorKind::Unreachable, Code::EngineUnreachable), "{error:?}");
    }
}

async fn a_teardown_leaves_only_volumes(bench: &impl Bench) {
    let renamed = Renamed { bench, topology: TopologyId::parse(format!("{}-z", bench.identity().topology)).unwrap() };
    settle(&renamed, &every_field(bench)).await;
    settle(&renamed, &HostSpec::default()).await;
    let (observed, plan) = look(&renamed, &HostSpec::default()).await;
    assert!(plan.is_settled());
    let prefix = format!("docker/volume/{}_", renamed.topology);
    let left: Vec<String> =
        observed.present().into_iter().map(|r| r.to_string()).filter(|r| r.contains(renamed.topology.as_str())).collect();
    assert_eq!(left, [format!("{prefix}data")]);
}
