//! Operations on an engine in memory.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, IdempotencyKey, OpId, UnixSeconds};
use moorline_common::op::{Class, OpStatement, Outcome, Precondition, Receipt, Record, State};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::TrustRoot;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::{Clock, set};
use crate::config::Policy;
use crate::db::Db;
use crate::driver::{DriverErrorKind, Found};
use crate::intake::Intake;
use crate::intake::judge::Own;
use crate::journal::memory::MemoryJournal;
use crate::limits::LANE_DEPTH_MAX;
use crate::reconcile::Reconciler;
use crate::testing::{FakeDriver, Operator, services, until};

mod crash;
mod door;
mod doubt;
mod guests;
mod turn;

const DEADLINE: Duration = Duration::from_secs(20);

/// An agent without a link, as often as it is started.
struct Bench {
    dir: tempfile::TempDir,
    operator: Operator,
    intake: Intake,
    driver: FakeDriver,
    journal: MemoryJournal,
    db: Db,
    seats: usize,
    agent: Option<Agent>,
}

struct Agent {
    ops: Handle,
    state: tokio::sync::watch::Receiver<crate::report::HostState>,
    lanes: Lanes,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl Bench {
    /// A host that is as generation 1 says: `db` and `web`.
    async fn new() -> Self {
        Self::under(|_| {}, Policy::default()).await
    }

    /// The same, of a cluster whose first root is as `change` makes it, and of a host with a policy.
    async fn under(change: impl FnOnce(&mut TrustRoot), policy: Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::with_root(dir.path(), change);
        let db = Db::open(dir.path()).unwrap();
        let mut intake = operator.intake_with(&db, policy);
        operator.introduce(&mut intake).await;
        let mut bench =
            Self { dir, operator, intake, driver: FakeDriver::default(), journal: MemoryJournal::default(), db, seats: 8, agent: None };
        bench.start().await;
        bench.slice(1).await;
        bench
    }

    async fn start(&mut self) {
        self.start_apart().await;
        self.agent().ops.records_are_current();
    }

    /// Starts an agent that has not heard of its hub.
    async fn start_apart(&mut self) {
        let lanes = Lanes::new(self.seats);
        let (reconciler, handle) = Reconciler::new(reconcile::Parts {
            driver: Arc::new(self.driver.clone()),
            journal: self.journal.clone(),
            ledger: crate::ledger::Ledger::new(self.db.clone()),
            lanes: lanes.clone(),
            target: self.intake.target(),
        });
        let (ops, ops_handle) = Ops::new(Parts {
            driver: Arc::new(self.driver.clone()),
            journal: self.journal.clone(),
            lanes: lanes.clone(),
            gate: self.intake.gate(),
            reconciler: handle.clone(),
        });
        ops.recover().await.unwrap();
        let stop = CancellationToken::new();
        let (reconcile_stop, ops_stop) = (stop.clone(), stop.clone());
        let tasks = [
            tokio::spawn(async move { reconciler.run(reconcile_stop).await.unwrap() }),
            tokio::spawn(async move { ops.run(ops_stop).await }),
        ];
        self.agent = Some(Agent { ops: ops_handle, state: handle.state(), lanes, stop, tasks });
    }

    /// As `kill -9` does it: nothing more is recorded.
    async fn kill(&mut self) {
        let agent = self.agent.take().unwrap();
        for task in agent.tasks {
            task.abort();
            let _ = task.await;
        }
        // Tasks of operations live on in this process; they are cut off by the journal that the next life has for itself.
        self.journal = self.journal.cut();
    }

    /// The same, and the next life reads again what was accepted; the hub has not sent the slice yet.
    async fn die(&mut self) {
        self.kill().await;
        self.intake = self.operator.intake(&self.db);
    }

    async fn stop(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.stop.cancel();
        for task in agent.tasks {
            tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
        }
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    async fn slice(&mut self, generation: u64) {
        self.slice_with(generation, "").await;
    }

    /// A slice of other content if it has another volume.
    async fn slice_with(&mut self, generation: u64, volume: &str) {
        let mut content = services(&["db", "web"], false);
        if !volume.is_empty() {
            content["docker"]["volumes"] = json!({ volume: {} });
        }
        self.intake.slice(self.operator.slice(generation, content)).await.unwrap();
        let pushes = self.intake.target().borrow().pushes;
        until(&mut self.agent().state.clone(), "settled", |s| s.settled_push == Some(pushes)).await;
    }

    fn own(&self) -> Own {
        Own::of(&self.operator.keys)
    }

    fn order(&self, kind: &str, resource: &str, change: impl FnOnce(&mut OpStatement)) -> (Vec<u8>, OpId) {
        let json = self.operator.order(kind, resource, json!({}), change);
        let id = Signed::<OpStatement>::from_json(&json).unwrap().peek().unwrap().op_id;
        (json, id)
    }

    async fn take(&self, json: &[u8]) -> Answer {
        tokio::time::timeout(DEADLINE, self.agent().ops.take(json.to_vec())).await.unwrap().unwrap()
    }

    /// Hands an order in that is accepted.
    async fn accepted(&self, kind: &str, resource: &str, change: impl FnOnce(&mut OpStatement)) -> OpId {
        let (json, id) = self.order(kind, resource, change);
        assert_eq!(self.take(&json).await, Answer::Known(id.clone()));
        id
    }

    /// Hands an order in whose effect is there then; it does not end before the driver no longer hangs.
    async fn begun(&self, kind: &str, resource: &str, change: impl FnOnce(&mut OpStatement)) -> OpId {
        self.driver.hang_ops(true);
        let id = self.accepted(kind, resource, change).await;
        self.driver.op_begun().await;
        id
    }

    /// The agent is killed while a restart of WEB has begun; the next life finds an engine that hangs no more.
    async fn begun_and_killed(&mut self, change: impl FnOnce(&mut OpStatement)) -> OpId {
        let id = self.begun("restart", WEB, change).await;
        self.kill().await;
        self.driver.hang_ops(false);
        id
    }

    /// Hands an order in that is not.
    async fn refused(&self, json: &[u8]) -> Code {
        match self.take(json).await {
            Answer::Refused(fault) => fault.code,
            Answer::Known(id) => {
                let receipt = self.receipt(&id);
                assert_eq!(receipt.outcome, Outcome::Refused);
                receipt.fault.unwrap().code
            }
            Answer::Settled(receipt) => panic!("{receipt:?}"),
        }
    }

    fn state(&self, id: &OpId) -> Option<State> {
        self.journal.read(|book| book.ops().get(id.as_str()).map(|e| e.state()))
    }

    async fn reached(&self, id: &OpId, state: State) {
        let reached = async {
            let mut news = self.agent().ops.news();
            while self.state(id) != Some(state) {
                news.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(DEADLINE, reached).await.is_err() {
            panic!("{id} is {:?}, not {state}", self.state(id));
        }
    }

    /// The hub says that it has a receipt of another outcome: there is none, and this one is told on.
    async fn misheard(&self, id: &OpId, outcome: &str) {
        let state = self.state(id);
        assert!(state.is_some_and(State::is_terminal), "{id} is {state:?}");
        self.agent().ops.acknowledge(id.clone(), outcome.to_owned()).await;
        // One is looked at after the other, and recorded after the other.
        let (json, later) =
            self.order("restart", DB, |o| o.precondition = Some(Precondition { generation: Some(Generation(99)), state: None }));
        assert_eq!(self.refused(&json).await, Code::PreconditionFailed);
        assert!(!self.records(&later).is_empty());
        assert_eq!(self.state(id), state);
        assert!(self.records(id).iter().all(|record| !record.acknowledged));
    }

    /// The hub says that it has the receipt.
    async fn heard(&self, id: &OpId, outcome: &str) {
        self.agent().ops.acknowledge(id.clone(), outcome.to_owned()).await;
        let gone = async {
            while self.state(id).is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.unwrap();
    }

    fn receipt(&self, id: &OpId) -> Receipt {
        let standings = self.agent().ops.standing(&self.journal, &self.own(), id);
        match standings.first() {
            Some(Standing::Over(receipt)) => (**receipt).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn records(&self, id: &OpId) -> Vec<Record> {
        self.journal.records().into_iter().filter(|r| r.op_id == id.as_str()).collect()
    }

    fn states(&self, id: &OpId) -> Vec<State> {
        self.records(id).iter().map(|r| r.state).collect()
    }

    fn effects(&self) -> Vec<String> {
        self.driver.calls().into_iter().filter(|call| call.starts_with("op:")).collect()
    }

    /// A turn on a resource that holds up what comes after it.
    async fn in_the_way(&self, resource: &str) -> crate::lane::Turn {
        self.agent().lanes.place(&ResourceId::parse(resource).unwrap()).unwrap().await.unwrap()
    }
}

const DB: &str = "docker/container/edge-db-1";
const WEB: &str = "docker/container/edge-web-1";

#[tokio::test]
async fn an_order_is_accepted_begun_and_ended_and_told_until_the_hub_has_heard() {
    let bench = Bench::new().await;
    let (json, id) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.take(&json).await, Answer::Known(id.clone()));
    bench.reached(&id, State::Succeeded).await;
    assert_eq!(bench.states(&id), [State::Accepted, State::Queued, State::Started, State::Succeeded]);
    assert_eq!(bench.effects(), [format!("op:restart:{WEB}")]);
    let receipt = bench.receipt(&id);
    assert_eq!((receipt.outcome, &receipt.op_id, receipt.kind.as_str()), (Outcome::Succeeded, &id, "restart"));
    assert_eq!(receipt.payload_sha256, Envelope::from_json(&json).unwrap().payload_sha256());
    let signed = Signed::seal(&receipt, &[&bench.operator.keys.host_key]).unwrap();
    assert!(signed.verify_by_host(&bench.operator.keys.host_key.public()).is_ok());

    assert_eq!(bench.take(&json).await, Answer::Known(id.clone()), "the very same order is known");
    bench.misheard(&id, "failed").await;
    bench.heard(&id, "succeeded").await;
    let Answer::Settled(again) = bench.take(&json).await else { panic!("it has ended") };
    assert_eq!((again.outcome, again.same_as.clone()), (Outcome::Succeeded, None));
    assert_eq!(bench.effects().len(), 1, "it was done once");
}
