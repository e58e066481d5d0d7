//! What every driver must do with operations.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_common::id::{OpId, ResourceId};
use moorline_common::op::{Act, Exec};
use moorline_common::plan::lower::{container_resource, volume_resource};
use moorline_common::topology::VolumeSpec;

use super::*;
use crate::driver::{Begun, Found, OpOrder, OpResult, Taker};

/// Longer than any request of before a crash can still be at work.
const LATER: Duration = Duration::from_secs(3600);
const DONE: Found = Found::Done(OpResult { result: Value::Null, fault: None });

/// Every check, one after the other.
pub async fn all(bench: &impl Bench) {
    the_kinds_of_a_container_do_what_they_say_and_prove_it(bench).await;
    what_did_not_happen_is_absent_after_a_while(bench).await;
    what_happened_in_another_life_proves_nothing(bench).await;
    what_cannot_begin_is_refused(bench).await;
    an_old_incarnation_hits_no_successor(bench).await;
    strangers_are_not_operated(bench).await;
    a_command_has_its_input_output_and_exit_code(bench).await;
    a_command_is_started_once_and_waited_for(bench).await;
    volumes_are_destroyed_for_good_and_only_the_one_that_was_meant(bench).await;
    pruning_removes_what_its_evidence_lists(bench).await;
    an_image_that_cannot_be_pulled_is_said(bench).await;
    an_engine_that_is_away_is_unreachable(bench).await;
}

fn order(resource: ResourceId, act: Act) -> OpOrder {
    let op_id = OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap();
    OpOrder { op_id, resource, incarnation: None, state: None, act, wanted: BTreeSet::new() }
}

fn exec(argv: &[&str], stdin: &str, timeout_s: u32) -> Act {
    Act::Exec(Exec {
        argv: argv.iter().map(|w| (*w).to_owned()).collect(),
        stdin: Some(STANDARD.encode(stdin)),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        user: None,
        workdir: None,
        privileged: false,
        stream: false,
        timeout_s,
    })
}

/// A topology of its own with one service that runs, and that service's container.
struct Scene<'a, B> {
    renamed: Renamed<'a, B>,
    desired: HostSpec,
    name: String,
}

impl<'a, B: Bench> Scene<'a, B> {
    async fn new(bench: &'a B, suffix: &str) -> Self {
        let renamed = Renamed { bench, topology: TopologyId::parse(format!("{}-{suffix}", bench.identity().topology)).unwrap() };
        let mut desired = one(bench, json!({ "volumes": { "/v": { "type": "volume", "source": "v" } } }));
        desired.docker.as_mut().unwrap().volumes.insert("v".to_owned(), VolumeSpec::default());
        let name = name(&renamed, "one");
        let scene = Self { renamed, desired, name };
        scene.settle().await;
        scene
    }

    fn driver(&self) -> &B::D {
        self.renamed.bench.driver()
    }

    async fn settle(&self) {
        settle(&self.renamed, &self.desired).await;
    }

    async fn end(self) {
        settle(&self.renamed, &HostSpec::default()).await;
    }

    fn on(&self, act: Act) -> OpOrder {
        order(container_resource(&self.name), act)
    }

    async fn live(&self) -> Option<ObservedContainer> {
        look(&self.renamed, &self.desired).await.0.containers.get(&self.name).cloned()
    }

    async fn state(&self) -> Option<ContainerState> {
        self.live().await.map(|c| c.state)
    }

    async fn prepare(&self, order: &OpOrder) -> Value {
        self.driver().prepare(order).await.unwrap_or_else(|e| panic!("{order:?}: {e:?}"))
    }

    /// Prepares and does it; returns its evidence, too.
    async fn run(&self, order: &OpOrder) -> (Value, OpResult) {
        let evidence = self.prepare(order).await;
        let begun = self.driver().start(order, &evidence).await.unwrap_or_else(|e| panic!("{order:?}: {e:?}"));
        let result = match begun {
            Begun::Done(result) => result,
            Begun::Task(task) => self.driver().resume(order, &evidence, &task, Taker::nobody()).await.unwrap().done(),
        };
        (evidence, result)
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, age: Duration) -> Found {
        self.driver().adopt(order, evidence, None, age).await.unwrap()
    }

    async fn refusal(&self, order: &OpOrder) -> (DriverErrorKind, Code) {
        let error = self.driver().prepare(order).await.unwrap_err();
        assert!(error.message.chars().count() <= 200, "{error:?}");
        (error.kind, error.code)
    }
}

fn kill(signal: &str) -> Act {
    Act::Kill { signal: signal.to_owned() }
}

async fn the_kinds_of_a_container_do_what_they_say_and_prove_it(bench: &impl Bench) {
    let scene = Scene::new(bench, "oa").await;
    let first = scene.live().await.unwrap().id;
    let (stop, restart) = (Act::Stop { timeout_s: Some(5) }, Act::Restart { timeout_s: None });
    let (running, exited, paused) = (Some(ContainerState::Running), Some(ContainerState::Exited), Some(ContainerState::Paused));
    for (act, repeats, then) in [
        (stop.clone(), true, exited),
        (Act::Start, true, running),
        (restart.clone(), false, running),
        (Act::Pause, true, paused),
        (restart.clone(), false, running),
        (Act::Pause, false, paused),
        (Act::Unpause, true, running),
        (kill("SIGHUP"), false, running),
        (kill("SIGKILL"), false, exited),
        (restart, false, running),
        (Act::Pause, false, paused),
        (stop, false, exited),
        (Act::Destroy { volumes: true }, false, None),
    ] {
        let ordered = scene.on(act.clone());
        let (evidence, result) = scene.run(&ordered).await;
        assert_eq!((result, scene.state().await), (OpResult::default(), then), "{act:?}");
        let trace = if act == kill("SIGHUP") { None } else { Some(DONE) };
        let found = scene.adopt(&ordered, &evidence, Duration::ZERO).await;
        assert!(trace.map_or(matches!(found, Found::Unknown(_)), |trace| found == trace), "{act:?}: {found:?}");
        if repeats {
            let (_, again) = scene.run(&scene.on(act.clone())).await;
            assert_eq!((again, scene.state().await), (OpResult::default(), then), "{act:?} again");
        }
    }
    scene.settle().await;
    assert_ne!(scene.live().await.unwrap().id, first);
    scene.end().await;
}

async fn what_did_not_happen_is_absent_after_a_while(bench: &impl Bench) {
    let scene = Scene::new(bench, "ob").await;
    let waits = [
        (Act::Stop { timeout_s: Some(60) }, true),
        (Act::Restart { timeout_s: Some(60) }, true),
        (kill("SIGKILL"), true),
        (Act::Destroy { volumes: false }, true),
        (Act::Pause, false),
        (exec(&["true"], "", 5), false),
    ];
    for (act, waits) in waits {
        let ordered = scene.on(act);
        let evidence = scene.prepare(&ordered).await;
        let at_once = scene.adopt(&ordered, &evidence, Duration::ZERO).await;
        let expected = if waits { matches!(at_once, Found::NotYet(_)) } else { at_once == Found::Absent };
        assert!(expected, "{ordered:?}: {at_once:?}");
        assert_eq!(scene.adopt(&ordered, &evidence, LATER).await, Found::Absent, "{ordered:?}");
    }
    let soon = scene.on(Act::Stop { timeout_s: Some(60) });
    let evidence = scene.prepare(&soon).await;
    let found = scene.adopt(&soon, &evidence, Duration::from_secs(60)).await;
    assert!(matches!(found, Found::NotYet(_)), "the grace period is over, the margin is not: {found:?}");
    scene.run(&scene.on(Act::Stop { timeout_s: None })).await;
    let start = scene.on(Act::Start);
    let evidence = scene.prepare(&start).await;
    assert!(matches!(scene.adopt(&start, &evidence, Duration::ZERO).await, Found::NotYet(_)));
    assert_eq!(scene.adopt(&start, &evidence, LATER).await, Found::Absent);
    // A restart that was cut short between its halves is finished by the same one.
    let restart = scene.on(Act::Restart { timeout_s: None });
    let evidence = scene.prepare(&restart).await;
    assert_eq!(scene.adopt(&restart, &evidence, LATER).await, Found::Absent);
    scene.end().await;
}

async fn what_happened_in_another_life_proves_nothing(bench: &impl Bench) {
    let scene = Scene::new(bench, "oc").await;
    let orders = [Act::Stop { timeout_s: None }, kill("SIGUSR1"), Act::Pause].map(|act| scene.on(act));
    let mut noted = Vec::new();
    for ordered in orders {
        noted.push((scene.prepare(&ordered).await, ordered));
    }
    // Stopped and started by somebody else.
    scene.run(&scene.on(Act::Restart { timeout_s: None })).await;
    for (evidence, ordered) in &noted {
        let found = scene.adopt(ordered, evidence, LATER).await;
        assert!(matches!(found, Found::Unknown(_)), "{ordered:?}: {found:?}");
    }
    // And gone for good: what is to be gone or to end has its end.
    let more = [Act::Restart { timeout_s: None }, Act::Start, kill("SIGKILL"), Act::Destroy { volumes: false }].map(|act| scene.on(act));
    for ordered in more {
        noted.push((scene.prepare(&ordered).await, ordered));
    }
    bench.by_hand(ByHand::Remove(&scene.name)).await;
    for (evidence, ordered) in &noted {
        let found = scene.adopt(ordered, evidence, Duration::ZERO).await;
        let ends = matches!(ordered.act, Act::Stop { .. } | Act::Destroy { .. }) || ordered.act == kill("SIGKILL");
        assert!(if ends { found == DONE } else { matches!(found, Found::Unknown(_)) }, "{ordered:?}: {found:?}");
    }
    scene.end().await;
}

async fn what_cannot_begin_is_refused(bench: &impl Bench) {
    const UNFIT: (DriverErrorKind, Code) = (DriverErrorKind::Conflict, Code::PreconditionFailed);
    let scene = Scene::new(bench, "od").await;
    let absent = |act: Act| order(container_resource("moorline-nothing-1"), act);
    for act in [Act::Start, Act::Destroy { volumes: false }, exec(&["true"], "", 5)] {
        assert_eq!(scene.refusal(&absent(act)).await, (DriverErrorKind::NotFound, Code::PreconditionFailed));
    }
    let id = scene.live().await.unwrap().id;
    // The engine would take the beginning of an id for a name.
    let short: String = id.chars().take(12).collect();
    assert_eq!(scene.refusal(&order(container_resource(&short), Act::Start)).await.0, DriverErrorKind::NotFound);
    let other = OpOrder { incarnation: Some("0".repeat(64)), ..scene.on(Act::Stop { timeout_s: None }) };
    assert_eq!(scene.refusal(&other).await, (DriverErrorKind::Conflict, Code::IncarnationChanged));
    let meant = OpOrder { incarnation: Some(id), state: Some(ContainerState::Running), ..other };
    scene.prepare(&meant).await;
    assert_eq!(scene.refusal(&OpOrder { state: Some(ContainerState::Paused), ..meant }).await, UNFIT);
    scene.run(&scene.on(Act::Pause)).await;
    for act in [Act::Start, exec(&["true"], "", 5)] {
        assert_eq!(scene.refusal(&scene.on(act)).await, UNFIT);
    }
    scene.run(&scene.on(Act::Stop { timeout_s: None })).await;
    for act in [Act::Pause, Act::Unpause, kill("SIGKILL"), exec(&["true"], "", 5)] {
        assert_eq!(scene.refusal(&scene.on(act)).await, UNFIT);
    }
    // Ready when it was looked at, and stopped since: the engine's refusal is an answer.
    scene.run(&scene.on(Act::Start)).await;
    for act in [Act::Pause, kill("SIGTERM"), exec(&["true"], "", 5)] {
        let ordered = scene.on(act);
        let evidence = scene.prepare(&ordered).await;
        scene.run(&scene.on(Act::Stop { timeout_s: None })).await;
        let error = scene.driver().start(&ordered, &evidence).await.unwrap_err();
        assert_eq!((error.kind, error.code), (DriverErrorKind::Conflict, Code::OpFailed), "{ordered:?}: {error:?}");
        scene.run(&scene.on(Act::Start)).await;
    }
    let unknown = scene.on(Act::Release);
    assert_eq!(scene.refusal(&unknown).await, (DriverErrorKind::Permanent, Code::UnknownKind));
    assert!(!scene.driver().capabilities().contains(&"release") && scene.driver().capabilities().contains(&"exec"));
    scene.end().await;
}

async fn an_old_incarnation_hits_no_successor(bench: &impl Bench) {
    let scene = Scene::new(bench, "oe").await;
    let acts = [
        Act::Stop { timeout_s: None },
        Act::Restart { timeout_s: None },
        kill("SIGKILL"),
        Act::Pause,
        Act::Destroy { volumes: true },
        exec(&["true"], "", 5),
    ];
    let mut noted = Vec::new();
    for act in acts {
        let ordered = scene.on(act);
        noted.push((scene.prepare(&ordered).await, ordered));
    }
    bench.by_hand(ByHand::Remove(&scene.name)).await;
    scene.settle().await;
    let successor = scene.live().await;
    for (evidence, ordered) in &noted {
        match (&ordered.act, scene.driver().start(ordered, evidence).await) {
            (Act::Destroy { .. }, begun) => assert_eq!(begun.unwrap(), Begun::Done(OpResult::default())),
            (_, begun) => assert_eq!(begun.unwrap_err().kind, DriverErrorKind::NotFound, "{ordered:?}"),
        }
    }
    assert_eq!(scene.live().await, successor);
    assert_eq!(successor.unwrap().state, ContainerState::Running);
    scene.end().await;
}

async fn strangers_are_not_operated(bench: &impl Bench) {
    let scene = Scene::new(bench, "of").await;
    settle(&scene.renamed, &HostSpec::default()).await;
    bench.by_hand(ByHand::Stranger(&scene.name)).await;
    let volume = format!("{}_w", scene.renamed.topology);
    bench.by_hand(ByHand::StrangeVolume(&volume)).await;
    let before = look(&scene.renamed, &HostSpec::default()).await.0;
    let not_ours = (DriverErrorKind::Permanent, Code::NotOwned);
    for act in [Act::Start, Act::Stop { timeout_s: None }, kill("SIGKILL"), Act::Destroy { volumes: true }, exec(&["true"], "", 5)] {
        assert_eq!(scene.refusal(&scene.on(act)).await, not_ours);
    }
    assert_eq!(scene.refusal(&order(volume_resource(&volume), Act::Destroy { volumes: false })).await, not_ours);
    let (evidence, _) =
        scene.run(&OpOrder { wanted: every_other(&scene, &before), ..order(ResourceId::host(), Act::Prune { volumes: true }) }).await;
    assert!(!evidence.to_string().contains(&scene.name) && !evidence.to_string().contains(&volume), "{evidence}");
    let after = look(&scene.renamed, &HostSpec::default()).await.0;
    assert_eq!(
        (&after.containers[&scene.name], after.volumes.get(&volume)),
        (&before.containers[&scene.name], before.volumes.get(&volume))
    );
    bench.by_hand(ByHand::Remove(&scene.name)).await;
    scene.end().await;
}

/// Everything that other checks have left on the engine: wanted, as far as this one is concerned.
fn every_other<B: Bench>(scene: &Scene<'_, B>, observed: &Observed) -> BTreeSet<ResourceId> {
    let mine = scene.renamed.topology.to_string();
    let containers = observed.containers.keys().map(|n| container_resource(n));
    let networks = observed.networks.keys().map(|n| moorline_common::plan::lower::network_resource(n));
    let volumes = observed.volumes.keys().map(|n| volume_resource(n));
    containers.chain(networks).chain(volumes).filter(|r| !r.name().starts_with(&mine)).collect()
}

fn said(result: &OpResult, stream: &str) -> String {
    let text = result.result[stream].as_str().unwrap();
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

async fn a_command_has_its_input_output_and_exit_code(bench: &impl Bench) {
    let scene = Scene::new(bench, "og").await;
    let (_, good) = scene.run(&scene.on(exec(&["cat"], "in and out\n", 20))).await;
    assert_eq!((good.fault.as_ref(), said(&good, "stdout").as_str(), said(&good, "stderr").as_str()), (None, "in and out\n", ""));
    assert_eq!((&good.result["exit_code"], &good.result["stdout_bytes"], good.result.get("output_lost")), (&json!(0), &json!(11), None));
    let (_, bad) = scene.run(&scene.on(exec(&["sh", "-c", "echo out; echo err >&2; exit 3"], "nobody reads this", 20))).await;
    assert_eq!((bad.fault.as_ref().unwrap().code, &bad.result["exit_code"]), (Code::OpFailed, &json!(3)));
    assert_eq!((said(&bad, "stdout"), said(&bad, "stderr")), ("out\n".to_owned(), "err\n".to_owned()));
    let long = "0123456789abcdef".repeat(1200);
    let (_, cut) = scene.run(&scene.on(exec(&["cat"], &long, 20))).await;
    assert_eq!((said(&cut, "stdout").len(), &cut.result["stdout_bytes"]), (crate::limits::EXEC_OUTPUT_MAX, &json!(long.len())));
    let (_, absent) = scene.run(&scene.on(exec(&["/no/such/program"], "", 20))).await;
    assert!(absent.fault.as_ref().unwrap().code == Code::OpFailed && absent.result["exit_code"].as_i64() > Some(0), "{absent:?}");
    scene.end().await;
}

async fn a_command_is_started_once_and_waited_for(bench: &impl Bench) {
    let scene = Scene::new(bench, "oh").await;
    let driver = scene.driver();
    let ordered = scene.on(exec(&["sh", "-c", "sleep 4; exit 5"], "", 20));
    let evidence = scene.prepare(&ordered).await;
    let Begun::Task(task) = driver.start(&ordered, &evidence).await.unwrap() else { panic!("a command is a task") };
    let adopt = async |age: Duration| driver.adopt(&ordered, &evidence, Some(&task), age).await.unwrap();
    assert_eq!(adopt(LATER).await, Found::Made(task.clone()), "made, and never started");
    // The agent ends while it runs: what runs for longer than it may is unknown.
    let runs = async {
        while !matches!(adopt(LATER).await, Found::Unknown(_)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        ended = driver.resume(&ordered, &evidence, &task, Taker::nobody()) => panic!("it lasts longer: {ended:?}"),
        begun = tokio::time::timeout(PATIENCE, runs) => begun.unwrap(),
    }
    assert_eq!(adopt(Duration::ZERO).await, Found::Task(task.clone()));
    let hasty = OpOrder { act: exec(&["sh", "-c", "sleep 4; exit 5"], "", 0), ..ordered.clone() };
    let still = driver.resume(&hasty, &evidence, &task, Taker::nobody()).await.unwrap();
    assert_eq!(still.done().fault.unwrap().code, Code::Indeterminate);
    let ended = driver.resume(&ordered, &evidence, &task, Taker::nobody()).await.unwrap().done();
    assert_eq!((&ended.result["exit_code"], &ended.result["output_lost"]), (&json!(5), &json!(true)), "{ended:?}");
    assert_eq!(adopt(LATER).await, Found::Task(task.clone()), "ended");
    assert_eq!(driver.resume(&ordered, &evidence, &task, Taker::nobody()).await.unwrap().done(), ended, "nothing runs again");
    // Gone with its container.
    bench.by_hand(ByHand::Remove(&scene.name)).await;
    assert!(matches!(adopt(Duration::ZERO).await, Found::Unknown(_)));
    let lost = driver.resume(&ordered, &evidence, &task, Taker::nobody()).await.unwrap();
    assert_eq!(lost.done().fault.unwrap().code, Code::Indeterminate);
    scene.end().await;
}

async fn volumes_are_destroyed_for_good_and_only_the_one_that_was_meant(bench: &impl Bench) {
    let scene = Scene::new(bench, "oi").await;
    let volume = format!("{}_v", scene.renamed.topology);
    let destroy = || order(volume_resource(&volume), Act::Destroy { volumes: false });
    let evidence = scene.prepare(&destroy()).await;
    let error = scene.driver().start(&destroy(), &evidence).await.unwrap_err();
    assert_eq!((error.kind, error.code), (DriverErrorKind::Conflict, Code::OpFailed), "in use: {error:?}");
    assert!(matches!(scene.adopt(&destroy(), &evidence, Duration::ZERO).await, Found::NotYet(_)));
    assert_eq!(scene.adopt(&destroy(), &evidence, LATER).await, Found::Absent);
    let born = |evidence: &Value| evidence["created_at"].as_str().unwrap().to_owned();
    let first = born(&evidence);
    // Destroyed and made again, until engines that tell time in seconds tell another one.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let second = loop {
        bench.by_hand(ByHand::Remove(&scene.name)).await;
        let (evidence, result) = scene.run(&destroy()).await;
        assert_eq!((result, scene.adopt(&destroy(), &evidence, Duration::ZERO).await), (OpResult::default(), DONE));
        scene.settle().await;
        let second = born(&scene.prepare(&destroy()).await);
        if second != first {
            break second;
        }
        assert!(tokio::time::Instant::now() < deadline, "time stands still");
    };
    assert_eq!(scene.adopt(&destroy(), &evidence, Duration::ZERO).await, DONE, "the one that was meant is gone");
    bench.by_hand(ByHand::Remove(&scene.name)).await;
    assert_eq!(scene.driver().start(&destroy(), &evidence).await.unwrap(), Begun::Done(OpResult::default()));
    let old = OpOrder { incarnation: Some(first), ..destroy() };
    assert_eq!(scene.refusal(&old).await, (DriverErrorKind::Conflict, Code::IncarnationChanged));
    let stateful = OpOrder { state: Some(ContainerState::Running), ..destroy() };
    assert_eq!(scene.refusal(&stateful).await, (DriverErrorKind::Conflict, Code::PreconditionFailed));
    let meant = OpOrder { incarnation: Some(second), ..destroy() };
    scene.run(&meant).await;
    assert_eq!(scene.refusal(&meant).await, (DriverErrorKind::NotFound, Code::PreconditionFailed));
    scene.end().await;
}

async fn pruning_removes_what_its_evidence_lists(bench: &impl Bench) {
    let scene = Scene::new(bench, "oj").await;
    let observed = look(&scene.renamed, &scene.desired).await.0;
    let wanted = every_other(&scene, &observed);
    let mine = desired_resources(&scene.renamed.topology, &scene.desired);
    let prune = |volumes: bool, more: &BTreeSet<ResourceId>| OpOrder {
        wanted: wanted.union(more).cloned().collect(),
        ..order(ResourceId::host(), Act::Prune { volumes })
    };
    let removed = |result: &OpResult| -> BTreeSet<String> {
        result.result["removed"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned()).collect()
    };
    // All is wanted; and what runs is left, whoever wants it.
    let (_, nothing) = scene.run(&prune(true, &mine)).await;
    assert_eq!((removed(&nothing), nothing.fault.as_ref()), (BTreeSet::new(), None), "{nothing:?}");
    let (_, in_use) = scene.run(&prune(true, &BTreeSet::new())).await;
    assert_eq!((removed(&in_use), in_use.fault.unwrap().code), (BTreeSet::new(), Code::OpFailed));
    assert_eq!(scene.state().await, Some(ContainerState::Running));
    scene.run(&scene.on(Act::Stop { timeout_s: None })).await;
    // Noted while it was stopped; it runs again before the first try.
    let ordered = prune(false, &BTreeSet::new());
    let evidence = scene.prepare(&ordered).await;
    assert_eq!(scene.adopt(&ordered, &evidence, Duration::ZERO).await, Found::Absent);
    scene.run(&scene.on(Act::Start)).await;
    let Begun::Done(left) = scene.driver().start(&ordered, &evidence).await.unwrap() else { panic!("a prune is no task") };
    assert_eq!((removed(&left), scene.state().await), (BTreeSet::new(), Some(ContainerState::Running)), "{left:?}");
    scene.run(&scene.on(Act::Stop { timeout_s: None })).await;
    let Begun::Done(done) = scene.driver().start(&ordered, &evidence).await.unwrap() else { panic!("a prune is no task") };
    let volume: BTreeSet<String> = mine.iter().map(ToString::to_string).filter(|r| r.starts_with("docker/volume/")).collect();
    let all: BTreeSet<String> = mine.iter().map(ToString::to_string).collect();
    assert_eq!((removed(&done), done.fault.as_ref()), (all.difference(&volume).cloned().collect(), None));
    assert_eq!(scene.driver().start(&ordered, &evidence).await.unwrap(), Begun::Done(done), "what is gone is removed");
    let (_, volumes) = scene.run(&prune(true, &BTreeSet::new())).await;
    assert_eq!((removed(&volumes), volumes.fault), (volume, None));
    scene.end().await;
}

async fn an_image_that_cannot_be_pulled_is_said(bench: &impl Bench) {
    let scene = Scene::new(bench, "ok").await;
    let image = |name: &str| ResourceId::parse(format!("docker/image/{name}")).unwrap();
    let pull = order(image("localhost:1/moorline/no-such-image:1"), Act::Pull);
    let evidence = scene.prepare(&pull).await;
    assert_eq!(scene.adopt(&pull, &evidence, Duration::ZERO).await, Found::Absent);
    let error = scene.driver().start(&pull, &evidence).await.unwrap_err();
    assert_eq!(error.code, Code::ImageUnavailable, "{error:?}");
    assert!(error.kind != DriverErrorKind::Unreachable && error.message.contains("no-such-image"), "{error:?}");
    scene.end().await;
}

async fn an_engine_that_is_away_is_unreachable(bench: &impl Bench) {
    let scene = Scene::new(bench, "ol").await;
    let ordered = scene.on(exec(&["true"], "", 5));
    let evidence = scene.prepare(&ordered).await;
    let away = bench.away();
    for error in [
        away.prepare(&ordered).await.unwrap_err(),
        away.start(&ordered, &evidence).await.unwrap_err(),
        away.resume(&ordered, &evidence, "task", Taker::nobody()).await.unwrap_err(),
        away.adopt(&ordered, &evidence, None, LATER).await.unwrap_err(),
    ] {
        assert_eq!((error.kind, error.code), (DriverErrorKind::Unreachable, Code::EngineUnreachable), "{error:?}");
    }
    scene.end().await;
}
