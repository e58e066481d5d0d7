//! The conformance suite against the simulated engine, and what only it can show: how often something happened.

use std::sync::Arc;

use moorline_common::id::{ClusterId, HostId, TopologyId};
use moorline_common::observe::{ContainerState, ObservedContainer, ObservedNetwork, ObservedVolume};
use moorline_common::plan::model::Engine;
use moorline_common::plan::{Action, ContainerTarget, Identity};

use super::*;
use crate::driver::conformance::{self, Bench, ByHand};

struct SimBench {
    folder: tempfile::TempDir,
    away: tempfile::TempDir,
    driver: SimDriver,
}

fn owned() -> Ownership {
    Ownership { cluster: ClusterId::parse("home").unwrap(), host_id: HostId::of_key(&[1; 32]), known: Default::default() }
}

impl SimBench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let driver = SimDriver::new(folder.path(), owned());
        faults(&folder, r#"{"missing_images": ["localhost:1/moorline/no-such-image:1"]}"#);
        Self { folder, away: tempfile::tempdir().unwrap(), driver }
    }

    fn edit(&self, change: impl FnOnce(&mut Engine)) {
        let file = self.folder.path().join("sim/engine.json");
        let mut world: World = std::fs::read(&file).map(|b| serde_json::from_slice(&b).unwrap()).unwrap_or_default();
        change(&mut world.engine);
        std::fs::write(file, serde_json::to_vec(&world).unwrap()).unwrap();
    }
}

fn faults(folder: &tempfile::TempDir, text: &str) {
    std::fs::create_dir_all(folder.path().join("sim")).unwrap();
    std::fs::write(folder.path().join("sim/faults.json"), text).unwrap();
}

/// Made, joined to its first network, never started.
fn half_made(engine: &mut Engine, target: &ContainerTarget, name: &str) {
    let target = ContainerTarget { name: name.to_owned(), ..target.clone() };
    let resource = moorline_common::plan::lower::container_resource(name);
    let action = Action::CreateContainer(Arc::new(target));
    engine
        .apply(&Step { resource, action, reason: String::new(), after: BTreeSet::new(), tolerates: BTreeSet::new(), heals: Vec::new() })
        .unwrap();
    let container = engine.containers.get_mut(name).unwrap();
    container.state = ContainerState::Created;
    let config = container.config.as_mut().unwrap();
    config.networks = config.networks.clone().into_iter().take(1).collect();
}

impl Bench for SimBench {
    type D = SimDriver;
    fn driver(&self) -> &SimDriver {
        &self.driver
    }
    fn identity(&self) -> Identity {
        let owned = owned();
        Identity { cluster: owned.cluster, host_id: owned.host_id, topology: TopologyId::parse("edge").unwrap() }
    }
    fn images(&self) -> [String; 2] {
        ["demo:1".to_owned(), "demo:2".to_owned()]
    }
    fn subnet(&self) -> String {
        "10.40.0.0/24".to_owned()
    }
    fn folder(&self) -> String {
        "/srv/moorline".to_owned()
    }
    fn away(&self) -> SimDriver {
        faults(&self.away, r#"{"unreachable": true}"#);
        SimDriver::new(self.away.path(), owned())
    }
    async fn by_hand(&self, act: ByHand<'_>) {
        self.edit(|engine| match act {
            ByHand::Kill(name) => {
                let container = engine.containers.get_mut(name).unwrap();
                (container.state, container.exit_code) = (ContainerState::Exited, Some(137));
            }
            ByHand::Remove(name) => drop(engine.containers.remove(name)),
            ByHand::Pause(name) => engine.containers.get_mut(name).unwrap().state = ContainerState::Paused,
            ByHand::Rename(from, to) => {
                let container = engine.containers.remove(from).unwrap();
                engine.containers.insert(to.to_owned(), container);
            }
            ByHand::DropNetwork(name) => {
                engine.networks.remove(name);
                engine.containers.values_mut().filter_map(|c| c.config.as_mut()).for_each(|c| drop(c.networks.remove(name)));
            }
            ByHand::Stranger(name) => {
                let stranger = ObservedContainer { id: "stranger".to_owned(), state: ContainerState::Running, ..Default::default() };
                engine.containers.insert(name.to_owned(), stranger);
            }
            ByHand::StrangeNetwork(name) => {
                engine.networks.insert(name.to_owned(), ObservedNetwork { id: "strange".to_owned(), ..Default::default() });
            }
            ByHand::StrangeVolume(name) => drop(engine.volumes.insert(name.to_owned(), ObservedVolume::default())),
            ByHand::HalfMade(target, name) => half_made(engine, target, name),
        });
    }
}

#[tokio::test]
async fn the_simulated_engine_conforms() {
    conformance::all(&SimBench::new()).await;
}

#[tokio::test]
async fn the_simulated_engine_conforms_in_operations() {
    conformance::ops::all(&SimBench::new()).await;
}

#[test]
fn an_incarnation_that_is_not_checked_is_noticed() {
    let _planted = crate::plant::plant("incarnation not checked");
    let conforms =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(conformance::ops::all(&SimBench::new()));
    assert!(std::panic::catch_unwind(conforms).is_err());
}

#[tokio::test]
async fn it_outlives_its_driver_and_says_when_it_goes_and_comes() {
    let bench = SimBench::new();
    bench.edit(|engine| drop(engine.volumes.insert("v".to_owned(), ObservedVolume::default())));
    let again = SimDriver::new(bench.folder.path(), owned());
    assert!(again.observe().await.unwrap().volumes.contains_key("v"));
    again.next_event().await;
    faults(&bench.folder, r#"{"unreachable": true}"#);
    again.next_event().await;
    faults(&bench.folder, "{}");
    again.next_event().await;
}

#[tokio::test]
async fn faults_fail_the_named_step_with_their_words() {
    let bench = SimBench::new();
    faults(&bench.folder, r#"{"fail": {"docker/container/x": "no space left"}}"#);
    let resource = moorline_common::plan::lower::container_resource("x");
    let step = Step {
        resource,
        action: Action::StartContainer { id: "x".to_owned() },
        reason: String::new(),
        after: BTreeSet::new(),
        tolerates: BTreeSet::new(),
        heals: Vec::new(),
    };
    assert_eq!(bench.driver.apply(&step).await.unwrap_err().message, "no space left");
}

fn order(resource: &str, act: Act) -> OpOrder {
    OpOrder {
        op_id: moorline_common::id::OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap(),
        resource: moorline_common::id::ResourceId::parse(resource).unwrap(),
        incarnation: None,
        state: None,
        act,
        wanted: BTreeSet::new(),
    }
}

impl SimBench {
    /// With one container of ours that runs.
    async fn with_container() -> Self {
        let bench = Self::new();
        let identity = bench.identity();
        let content = serde_json::json!({ "docker": { "services": { "a": { "image": "demo:1" } } } });
        let desired = serde_json::from_value(content).unwrap();
        let plan = moorline_common::plan::plan(&identity, &desired, &bench.driver.observe().await.unwrap());
        for step in plan.steps {
            bench.driver.apply(&step).await.unwrap();
        }
        bench
    }

    /// How often an operation had an effect, as the file says.
    fn times(&self, order: &OpOrder) -> u64 {
        let text = std::fs::read(self.folder.path().join("sim/engine.json")).unwrap();
        let file: Value = serde_json::from_slice(&text).unwrap();
        file["effects"][order.op_id.as_str()]["times"].as_u64().unwrap_or(0)
    }
}

#[tokio::test]
async fn an_effect_without_an_answer_has_happened_once_and_is_found() {
    let bench = SimBench::with_container().await;
    let silent = order("docker/container/edge-a-1", Act::Restart { timeout_s: None });
    let evidence = bench.driver.prepare(&silent).await.unwrap();
    assert_eq!(bench.times(&silent), 0);
    faults(&bench.folder, r#"{"silent": ["docker/container/edge-a-1"]}"#);
    let error = bench.driver.start(&silent, &evidence).await.unwrap_err();
    assert_eq!(error.kind, DriverErrorKind::Unreachable);
    // Another agent, after a crash.
    let again = SimDriver::new(bench.folder.path(), owned());
    let found = again.adopt(&silent, &evidence, None, Duration::ZERO).await.unwrap();
    assert_eq!((found, bench.times(&silent)), (Found::Done(crate::driver::OpResult::default()), 1));
    faults(&bench.folder, r#"{"fail": {"docker/container/edge-a-1": "no space left"}}"#);
    let failing = order("docker/container/edge-a-1", Act::Stop { timeout_s: None });
    let evidence = again.prepare(&failing).await.unwrap();
    let error = again.start(&failing, &evidence).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str(), bench.times(&failing)), (Code::OpFailed, "no space left", 0));
}

#[tokio::test]
async fn an_engine_that_was_started_again_has_forgotten_its_commands() {
    let bench = SimBench::with_container().await;
    let exec = serde_json::from_value(serde_json::json!({ "argv": ["sleep", "1000"], "timeout_s": 60 })).unwrap();
    let command = order("docker/container/edge-a-1", Act::Exec(exec));
    let evidence = bench.driver.prepare(&command).await.unwrap();
    let Begun::Task(task) = bench.driver.start(&command, &evidence).await.unwrap() else { panic!("a command is a task") };
    assert_eq!(bench.times(&command), 0, "making it starts nothing");
    let begun = async {
        while bench.times(&command) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = bench.driver.resume(&command, &evidence, &task, Taker::nobody()) => panic!("a command of 1000 s has ended: {ended:?}"),
        begun = tokio::time::timeout(Duration::from_secs(20), begun) => begun.expect("begun in time"),
    }
    assert_eq!(bench.times(&command), 1);
    // Frozen and stopped: what ran in it has ended with it.
    let stop = order("docker/container/edge-a-1", Act::Stop { timeout_s: None });
    let noted = bench.driver.prepare(&stop).await.unwrap();
    bench.driver.start(&stop, &noted).await.unwrap();
    let found = bench.driver.adopt(&command, &evidence, Some(&task), Duration::ZERO).await.unwrap();
    assert!(matches!(found, Found::Unknown(_)), "{found:?}");
    assert_eq!(
        bench.driver.resume(&command, &evidence, &task, Taker::nobody()).await.unwrap().done().fault.unwrap().code,
        Code::Indeterminate
    );
    assert_eq!(bench.times(&command), 1);
}

#[tokio::test]
async fn images_come_and_changes_by_hand_are_still_told() {
    let bench = SimBench::with_container().await;
    while tokio::time::timeout(Duration::from_millis(500), bench.driver.next_event()).await.is_ok() {}
    bench.edit(|engine| drop(engine.containers.remove("edge-a-1")));
    let pull = order("docker/image/demo:2", Act::Pull);
    let evidence = bench.driver.prepare(&pull).await.unwrap();
    let Begun::Done(done) = bench.driver.start(&pull, &evidence).await.unwrap() else { panic!("a pull is no task") };
    assert_eq!((done.fault, bench.times(&pull)), (None, 1));
    tokio::time::timeout(Duration::from_secs(20), bench.driver.next_event()).await.unwrap();
}
