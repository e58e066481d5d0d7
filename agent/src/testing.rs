//! What the agent's own tests share: an engine in memory that can fail and hang, and an operator who signs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use moorline_common::canonical::version_hash;
use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, Generation, HostName, IdempotencyKey, Nonce, OpId, ResourceId, TopologyId, UnixSeconds};
use moorline_common::observe::{ContainerState, Observed, ObservedContainer};
use moorline_common::op::{Act, OpStatement};
use moorline_common::plan::model::{Engine, owner_of};
use moorline_common::plan::{Action, ContainerTarget, Step};
use moorline_common::sign::{PrivateKey, Signed, Statement};
use moorline_common::statement::{HostBinding, Sealed, SliceStatement};
use moorline_common::topology::HostSpec;
use moorline_common::trust::TrustRoot;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::config::{Config, DriverKind, LogFormat, Offline, Policy};
use crate::db::Db;
use crate::driver::{Begun, Driver, DriverError, DriverErrorKind, Found, KINDS, Known, OpOrder, OpResult, Taker};
use crate::identity::{Enrolment, HostKeys, StateDir};
use crate::intake::{Intake, Parts};

mod admission;

pub use admission::{admission, boot, topology};

/// How long a condition may take to come true.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a watched value satisfies `is_so`.
pub async fn until<T: Clone>(receiver: &mut watch::Receiver<T>, what: &str, is_so: impl FnMut(&T) -> bool) -> T {
    match tokio::time::timeout(DEADLINE, receiver.wait_for(is_so)).await {
        Ok(value) => value.unwrap().clone(),
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// An engine in memory.
#[derive(Clone, Default)]
pub struct FakeDriver {
    inner: Arc<Mutex<Fake>>,
    events: Arc<Notify>,
    observing: Arc<Notify>,
    stuck: Arc<watch::Sender<bool>>,
    halfway: Arc<watch::Sender<bool>>,
    op_stuck: Arc<watch::Sender<bool>>,
    op_begun: Arc<Notify>,
    adopted: Arc<Notify>,
    known: Arc<Known>,
}

/// What happens when a step begins.
type AtBegin = Box<dyn FnMut(&Step) + Send>;

/// What an operation does to the engine.
type OpEffect = Box<dyn FnMut(&mut Fake) + Send>;

/// What a test may look at and change.
#[derive(Default)]
pub struct Fake {
    pub engine: Engine,
    /// Every mutating call: resource names in the order of their beginnings.
    pub calls: Vec<String>,
    /// Resource name → the error of its steps.
    pub fail: BTreeMap<String, DriverErrorKind>,
    pub unreachable: bool,
    /// Called when a step begins, before it has an effect.
    pub at_begin: Option<AtBegin>,
    /// Resource name → what `adopt` finds, instead of nothing.
    pub found: BTreeMap<String, Found>,
    /// Called when an operation takes effect.
    pub op_at_begin: Option<OpEffect>,
    /// The next operation takes effect, and nobody hears of it.
    pub lose_answer: bool,
    /// What was wanted when the newest operation took effect, by its order.
    pub wanted: BTreeSet<ResourceId>,
    /// Called when an operation is prepared.
    pub at_prepare: Option<Box<dyn FnMut() + Send>>,
    /// How long ago each operation had begun whose evidence was looked for.
    pub ages: Vec<Duration>,
    /// How often one was prepared.
    pub prepared: usize,
    /// Resource name → which incarnation bears it, where that matters.
    pub incarnations: BTreeMap<String, String>,
}

impl FakeDriver {
    pub fn with<T>(&self, look: impl FnOnce(&mut Fake) -> T) -> T {
        look(&mut self.lock())
    }

    /// Makes a change as someone else would, and lets the engine tell of it.
    pub fn by_hand(&self, change: impl FnOnce(&mut Engine)) {
        change(&mut self.lock().engine);
        self.events.notify_one();
    }

    pub fn kill(&self, name: &str) {
        self.by_hand(|engine| {
            let container = engine.containers.get_mut(name).unwrap();
            (container.state, container.exit_code) = (ContainerState::Exited, Some(137));
        });
    }

    /// From now on observations hang until `false` is set.
    pub fn hang(&self, hang: bool) {
        self.stuck.send_replace(hang);
    }

    /// From now on operations take effect and do not end, until `false` is set.
    pub fn hang_ops(&self, hang: bool) {
        self.op_stuck.send_replace(hang);
    }

    /// Returns when an operation has taken effect.
    pub async fn op_begun(&self) {
        tokio::time::timeout(DEADLINE, self.op_begun.notified()).await.unwrap();
    }

    /// Returns when somebody has looked for an operation's evidence.
    pub async fn adopted(&self) {
        tokio::time::timeout(DEADLINE, self.adopted.notified()).await.unwrap();
    }

    /// From now on replacements stop when the successor stands beside the old container, until `false` is set.
    pub fn stop_halfway(&self, stop: bool) {
        self.halfway.send_replace(stop);
    }

    /// As an engine does it: beside the old one first.
    async fn stand_beside(&self, old_id: &str, target: &ContainerTarget) -> Result<(), DriverError> {
        let mut halfway = self.halfway.subscribe();
        if !*halfway.borrow_and_update() {
            return Ok(());
        }
        let beside = format!("{}-new-{old_id}", target.name);
        let owner = owner_of(&target.labels);
        let successor = ObservedContainer { id: beside.clone(), owner, state: ContainerState::Created, ..Default::default() };
        self.by_hand(|engine| drop(engine.containers.insert(beside.clone(), successor)));
        halfway.wait_for(|stop| !stop).await.unwrap();
        match self.lock().engine.containers.remove(&beside) {
            Some(_) => Ok(()),
            None => Err(error(DriverErrorKind::Conflict, "the successor is gone")),
        }
    }

    /// Returns once an observation has begun after the call.
    pub async fn observed_again(&self) {
        tokio::time::timeout(DEADLINE, self.observing.notified()).await.unwrap();
    }

    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Fake> {
        self.inner.lock().unwrap()
    }
}

fn error(kind: DriverErrorKind, message: &str) -> DriverError {
    let code = if kind == DriverErrorKind::Unreachable { Code::EngineUnreachable } else { Code::StepFailed };
    DriverError { kind, code, message: message.to_owned() }
}

impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn known(&self) -> Arc<Known> {
        self.known.clone()
    }

    fn parallelism(&self) -> usize {
        8
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        self.observing.notify_waiters();
        let mut stuck = self.stuck.subscribe();
        stuck.wait_for(|stuck| !stuck).await.unwrap();
        let fake = self.lock();
        if fake.unreachable {
            return Err(error(DriverErrorKind::Unreachable, "nobody answers"));
        }
        let mut observed = fake.engine.observed();
        self.known.show(&mut observed);
        Ok(observed)
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        tokio::task::yield_now().await;
        if let Action::ReplaceContainer { old_id, target } = &step.action {
            self.stand_beside(old_id, target).await?;
        }
        let mut fake = self.lock();
        fake.calls.push(step.resource.name().to_owned());
        if let Some(begin) = &mut fake.at_begin {
            begin(step);
        }
        if fake.unreachable {
            return Err(error(DriverErrorKind::Unreachable, "nobody answers"));
        }
        if let Some(kind) = fake.fail.get(step.resource.name()).copied() {
            return Err(error(kind, "no space left"));
        }
        let result = fake.engine.apply(step);
        self.events.notify_one();
        result.map_err(|e| error(DriverErrorKind::Conflict, &e.to_string()))
    }

    async fn next_event(&self) {
        self.events.notified().await;
    }

    fn capabilities(&self) -> &'static [&'static str] {
        static ALL: LazyLock<Vec<&'static str>> = LazyLock::new(|| [KINDS, &["set-config"]].concat());
        &ALL
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        let mut fake = self.lock();
        fake.prepared += 1;
        fake.op_error(order)?;
        let is = fake.incarnations.get(order.resource.name());
        if order.incarnation.as_ref().zip(is).is_some_and(|(wanted, is)| wanted != is) {
            let changed = error(DriverErrorKind::Permanent, "another one bears the name now");
            return Err(DriverError { code: Code::IncarnationChanged, ..changed });
        }
        if let Some(prepare) = &mut fake.at_prepare {
            prepare();
        }
        Ok(serde_json::json!({ "resource": order.resource }))
    }

    /// A command becomes a task; everything else is done at once.
    async fn start(&self, order: &OpOrder, _evidence: &Value) -> Result<Begun, DriverError> {
        tokio::task::yield_now().await;
        if matches!(order.act, Act::Exec(_)) {
            self.lock().op_error(order)?;
            return Ok(Begun::Task(format!("task-{}", order.op_id)));
        }
        let result = self.lock().take_effect(order);
        let is = self.lock().incarnations.get(order.resource.name()).cloned();
        self.op_begun.notify_one();
        let mut stuck = self.op_stuck.subscribe();
        stuck.wait_for(|stuck| !stuck).await.unwrap();
        self.events.notify_one();
        let told = is.map(|incarnation| serde_json::json!({ "incarnation": incarnation })).unwrap_or_default();
        result.map(|()| Begun::Done(OpResult { result: told, ..OpResult::default() }))
    }

    async fn resume(&self, order: &OpOrder, _evidence: &Value, _task: &str, _taker: Taker) -> Result<Begun, DriverError> {
        tokio::task::yield_now().await;
        let mut fake = self.lock();
        fake.calls.push(format!("op:{}:{}", order.act.kind(), order.resource));
        fake.op_error(order)?;
        Ok(Begun::Done(OpResult::default()))
    }

    async fn adopt(&self, order: &OpOrder, _evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        self.adopted.notify_one();
        let mut fake = self.lock();
        fake.ages.push(age);
        fake.op_error(order)?;
        let found = fake.found.get(order.resource.name()).cloned();
        Ok(found.unwrap_or_else(|| task.map_or(Found::Absent, |task| Found::Task(task.to_owned()))))
    }
}

impl Fake {
    fn take_effect(&mut self, order: &OpOrder) -> Result<(), DriverError> {
        self.calls.push(format!("op:{}:{}", order.act.kind(), order.resource));
        self.wanted.clone_from(&order.wanted);
        if let Some(mut effect) = self.op_at_begin.take() {
            effect(self);
            self.op_at_begin = Some(effect);
        }
        self.op_error(order)?;
        if std::mem::take(&mut self.lose_answer) { Err(error(DriverErrorKind::Unreachable, "the answer was lost")) } else { Ok(()) }
    }

    fn op_error(&self, order: &OpOrder) -> Result<(), DriverError> {
        if self.unreachable {
            return Err(error(DriverErrorKind::Unreachable, "nobody answers"));
        }
        self.fail.get(order.resource.name()).map_or(Ok(()), |kind| Err(error(*kind, "no space left")))
    }
}

/// The configuration of an agent whose state is in `dir`.
pub fn config(dir: &Path) -> Config {
    Config {
        state: dir.to_owned(),
        driver: DriverKind::Sim,
        proxmox: None,
        docker_socket: "/nowhere".into(),
        policy: Policy::default(),
        secrets_dir: "/dev/shm/moorline-tests-of-the-agent".into(),
        registries: crate::registries::Registries::default(),
        offline: Offline::Wait,
        log: LogFormat::Text,
        log_level: "info".to_owned(),
    }
}

/// What a host of `operator` has joined; it knows no hub.
pub fn enrolment(operator: &Operator) -> Enrolment {
    Enrolment {
        cluster: operator.cluster(),
        name: HostName::parse("shop-1").unwrap(),
        hubs: Vec::new(),
        ca_spki: String::new(),
        root_pin: operator.pin(),
        token_id: String::new(),
        joined: true,
    }
}

/// Makes the host in `dir` one that has joined.
pub fn enrol(dir: &Path, operator: &Operator) {
    StateDir(dir.to_owned()).put_enrolment(&enrolment(operator)).unwrap();
}

/// An operator with a trust root, and the host that it governs.
pub struct Operator {
    pub key: PrivateKey,
    pub root: Signed<TrustRoot>,
    pub keys: HostKeys,
    root_key: PrivateKey,
}

/// When everything was signed.
pub const NOW: u64 = 1_700_000_000;

impl Operator {
    /// A fresh cluster and a host whose keys are in `state`.
    pub fn new(state: &Path) -> Self {
        Self::with_root(state, |_| {})
    }

    /// The same; the first root is as `change` makes it.
    pub fn with_root(state: &Path, change: impl FnOnce(&mut TrustRoot)) -> Self {
        let (key, root_key) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
        let mut root = root_of(&key, &root_key);
        change(&mut root);
        let root = Signed::seal(&root, &[&root_key]).unwrap();
        Self { key, root, keys: StateDir(state.to_owned()).ensure_keys().unwrap(), root_key }
    }

    pub fn cluster(&self) -> ClusterId {
        ClusterId::parse("home").unwrap()
    }

    /// The next root, after `change`, signed by the root key.
    pub fn next_root(&self, change: impl FnOnce(&mut TrustRoot)) -> Vec<u8> {
        let mut root = self.root.peek().unwrap();
        root.version += 1;
        change(&mut root);
        self.seal_with(&root, &self.root_key)
    }

    /// A binding for the host, after `change`.
    pub fn binding(&self, change: impl FnOnce(&mut HostBinding)) -> Vec<u8> {
        let mut binding = HostBinding {
            cluster: self.cluster(),
            host_id: self.keys.host_id(),
            host_key: self.keys.host_key.public(),
            sealing_key: self.keys.sealing_key(),
            host_epoch: self.keys.epoch.clone(),
            name: HostName::parse("shop-1").unwrap(),
            labels: BTreeMap::new(),
            generation_floors: BTreeMap::new(),
            serial: 1,
            issued_at: UnixSeconds(NOW),
        };
        change(&mut binding);
        self.seal(&binding)
    }

    /// A slice of topology `edge` for the host.
    pub fn slice(&self, generation: u64, content: Value) -> Vec<u8> {
        self.slice_with(generation, content, |_| {})
    }

    /// The same, after `change`.
    pub fn slice_with(&self, generation: u64, content: Value, change: impl FnOnce(&mut SliceStatement)) -> Vec<u8> {
        let mut slice = SliceStatement {
            cluster: self.cluster(),
            topology: TopologyId::parse("edge").unwrap(),
            generation: Generation(generation),
            host_id: self.keys.host_id(),
            version_hash: version_hash(&content).unwrap(),
            content,
            issued_at: UnixSeconds(NOW),
            deliver_by: UnixSeconds(u64::from(u32::MAX)),
            sealed: Sealed::default(),
            fallback: None,
            at_once: false,
        };
        change(&mut slice);
        self.seal(&slice)
    }

    /// An order for the host, valid from now on for 15 minutes, after `change`. Each has an id, key and nonce of its own.
    pub fn order(&self, kind: &str, resource: &str, params: Value, change: impl FnOnce(&mut OpStatement)) -> Vec<u8> {
        let now = crate::clock::Clock.wall();
        let op_id = OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap();
        let mut order = OpStatement {
            cluster: self.cluster(),
            idempotency_key: IdempotencyKey::parse(op_id.as_str()).unwrap(),
            nonce: Nonce::parse(uuid::Uuid::now_v7().simple().to_string()).unwrap(),
            op_id,
            host_id: self.keys.host_id(),
            host_epoch: self.keys.epoch.clone(),
            resource: ResourceId::parse(resource).unwrap(),
            incarnation: None,
            kind: kind.to_owned(),
            params,
            precondition: None,
            not_before: now,
            expires_at: now.plus(900),
            root_version: 1,
            reason: String::new(),
            saga: None,
        };
        change(&mut order);
        self.seal(&order)
    }

    pub fn seal<T: Statement>(&self, statement: &T) -> Vec<u8> {
        self.seal_with(statement, &self.key)
    }

    pub fn seal_with<T: Statement>(&self, statement: &T, key: &PrivateKey) -> Vec<u8> {
        Signed::seal(statement, &[key]).unwrap().envelope().to_json()
    }

    /// The pin of the first root.
    pub fn pin(&self) -> String {
        TrustRoot::pin(self.root.envelope())
    }

    /// An intake on `db` that has accepted nothing yet.
    pub fn intake(&self, db: &Db) -> Intake {
        self.intake_with(db, Policy::default())
    }

    /// The same, of a host with a policy.
    pub fn intake_with(&self, db: &Db, policy: Policy) -> Intake {
        Intake::open(Parts { policy, ..self.intake_parts(db) }).unwrap()
    }

    /// An intake that has accepted root and binding.
    pub async fn ready_intake(&self, db: &Db) -> Intake {
        let mut intake = self.intake(db);
        self.introduce(&mut intake).await;
        intake
    }

    /// Hands root and binding in.
    pub async fn introduce(&self, intake: &mut Intake) {
        intake.root(self.root.envelope().to_json()).await.unwrap();
        intake.binding(self.binding(|_| {})).await.unwrap();
    }
}

fn root_of(key: &PrivateKey, root_key: &PrivateKey) -> TrustRoot {
    let operators = [("ann".to_owned(), key.public())];
    let forever = UnixSeconds(u64::from(u32::MAX));
    TrustRoot::first(ClusterId::parse("home").unwrap(), &operators, &root_key.public(), UnixSeconds(NOW), forever)
}

/// A host's content: `services` on the default network, each depending on the one before when `chained`.
pub fn services(names: &[&str], chained: bool) -> Value {
    let mut services = serde_json::Map::new();
    for (n, name) in names.iter().enumerate() {
        let mut service = serde_json::json!({ "image": "demo:1" });
        if let Some(before) = names.get(n.wrapping_sub(1)).filter(|_| chained) {
            service["depends_on"] = serde_json::json!({ *before: { "condition": "service_started" } });
        }
        services.insert((*name).to_owned(), service);
    }
    let content = serde_json::json!({ "docker": { "services": services } });
    // It must be what agents understand.
    serde_json::from_value::<HostSpec>(content.clone()).unwrap();
    content
}
