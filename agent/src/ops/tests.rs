//! Operations on an engine in memory.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, IdempotencyKey, OpId, UnixSeconds};
use moorline_common::op::{OpStatement, Outcome, Precondition, Receipt, Record, State};
use moorline_common::sign::{Envelope, Signed};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::db::Db;
use crate::driver::{DriverErrorKind, Found};
use crate::intake::Intake;
use crate::intake::judge::Own;
use crate::journal::memory::MemoryJournal;
use crate::limits::LANE_DEPTH_MAX;
use crate::reconcile::Reconciler;
use crate::testing::{FakeDriver, Operator, services, until};

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
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        let db = Db::open(dir.path()).unwrap();
        let intake = operator.ready_intake(&db).await;
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
        Own {
            host_id: self.operator.keys.host_id(),
            epoch: self.operator.keys.epoch.clone(),
            sealing_key: self.operator.keys.sealing_key(),
        }
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
    bench.agent().ops.acknowledge(id.clone(), "failed".to_owned()).await;
    bench.heard(&id, "succeeded").await;
    let Answer::Settled(again) = bench.take(&json).await else { panic!("it has ended") };
    assert_eq!((again.outcome, again.same_as.clone()), (Outcome::Succeeded, None));
    assert_eq!(bench.effects().len(), 1, "it was done once");
}

#[tokio::test]
async fn one_key_is_one_order() {
    let bench = Bench::new().await;
    let key = |order: &mut OpStatement| order.idempotency_key = IdempotencyKey::parse("nightly").unwrap();
    let turn = bench.in_the_way(WEB).await;
    let first = bench.accepted("restart", WEB, key).await;
    let (second_json, second) = bench.order("restart", WEB, key);
    assert_eq!(bench.take(&second_json).await, Answer::Known(first.clone()), "the first one is done in its place");
    assert_eq!(bench.refused(&bench.order("stop", WEB, key).0).await, Code::Conflict);
    assert_eq!(bench.refused(&bench.order("restart", DB, key).0).await, Code::Conflict);
    drop(turn);
    bench.reached(&first, State::Succeeded).await;
    let told = bench.agent().ops.standing(&bench.journal, &bench.own(), &first);
    let Some(Standing::Over(follower)) = told.get(1) else { panic!("{told:?}") };
    assert_eq!((follower.op_id.clone(), follower.same_as.clone(), follower.outcome), (second, Some(first.clone()), Outcome::Succeeded));
    let Answer::Settled(third) = bench.take(&bench.order("restart", WEB, key).0).await else { panic!("it has ended") };
    assert_eq!((third.outcome, third.same_as.clone()), (Outcome::Succeeded, Some(first)));
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn a_failed_key_is_used_up_and_one_that_never_began_is_free() {
    let bench = Bench::new().await;
    let key = |order: &mut OpStatement| order.idempotency_key = IdempotencyKey::parse("k").unwrap();
    let turn = bench.in_the_way(WEB).await;
    let (json, first) = bench.order("restart", WEB, key);
    assert_eq!(bench.take(&json).await, Answer::Known(first.clone()));
    let cancel = bench.operator.order("cancel", WEB, json!({ "op_id": first }), |_| {});
    assert!(matches!(bench.take(&cancel).await, Answer::Known(_)));
    assert_eq!(bench.receipt(&first).outcome, Outcome::Cancelled);
    drop(turn);
    bench.driver.with(|fake| fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent));
    let second = bench.accepted("restart", WEB, key).await;
    bench.reached(&second, State::Cancelled).await;
    bench.driver.with(|fake| {
        fake.fail.clear();
        fake.op_at_begin = Some(Box::new(|fake| {
            fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent);
        }));
    });
    let third = bench.accepted("restart", WEB, key).await;
    bench.reached(&third, State::Failed).await;
    assert_eq!(bench.receipt(&third).fault.unwrap().code, Code::OpFailed);
    let Answer::Settled(again) = bench.take(&bench.order("restart", WEB, key).0).await else { panic!("its key has an end") };
    assert_eq!((again.outcome, again.same_as.clone()), (Outcome::Failed, Some(third)));
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn a_nonce_counts_once() {
    let bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let (json, first) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.take(&json).await, Answer::Known(first.clone()));
    let nonce = Signed::<OpStatement>::from_json(&json).unwrap().peek().unwrap().nonce;
    assert_eq!(bench.refused(&bench.order("restart", WEB, |o| o.nonce = nonce).0).await, Code::NonceUsed);
    let cancel = bench.operator.order("cancel", WEB, json!({ "op_id": first }), |_| {});
    bench.take(&cancel).await;
    bench.heard(&first, "cancelled").await;
    assert_eq!(bench.refused(&json).await, Code::NonceUsed, "a replay of what was taken back");
    drop(turn);
    assert_eq!(bench.effects(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_for_this_host_now_is_refused_each_with_its_code() {
    let mut bench = Bench::new().await;
    let now = crate::clock::Clock.wall();
    let past = |order: &mut OpStatement| (order.not_before, order.expires_at) = (UnixSeconds(now.0 - 1000), UnixSeconds(now.0 - 1));
    let future = |order: &mut OpStatement| (order.not_before, order.expires_at) = (now.plus(400), now.plus(500));
    let other = |order: &mut OpStatement| order.precondition = Some(Precondition { generation: Some(Generation(7)), state: None });
    for (json, code) in [
        (bench.order("restart", WEB, past).0, Code::Expired),
        (bench.order("restart", WEB, future).0, Code::NotYetValid),
        (bench.order("restart", WEB, other).0, Code::PreconditionFailed),
        (bench.order("restart", WEB, |o| o.root_version = 2).0, Code::RootBehind),
        (bench.order("explode", WEB, |_| {}).0, Code::UnknownKind),
        (bench.order("stop", WEB, |o| o.params = json!({ "x": 1 })).0, Code::BadParams),
        (bench.operator.order("exec", WEB, json!({ "argv": ["a"], "privileged": true }), |_| {}), Code::ClassDenied),
        (bench.operator.slice(1, json!({})), Code::WrongType),
        (b"{}".to_vec(), Code::BadEnvelope),
        (vec![b' '; OP_ENVELOPE_MAX + 1], Code::TooLarge),
    ] {
        assert_eq!(bench.refused(&json).await, code);
    }
    let records = bench.journal.records().len();
    bench.stop().await;
    assert_eq!((bench.journal.records().len(), bench.effects().len()), (records, 0));
}

#[tokio::test]
async fn only_what_has_not_begun_is_cancelled_and_only_what_is_in_doubt_is_resolved() {
    let bench = Bench::new().await;
    let done = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&done, State::Succeeded).await;
    let about = |kind: &str, resource: &str, params: Value| bench.operator.order(kind, resource, params, |_| {});
    assert_eq!(bench.refused(&about("cancel", WEB, json!({ "op_id": done }))).await, Code::TooLate);
    assert_eq!(bench.refused(&about("resolve", WEB, json!({ "op_id": done, "outcome": "failed" }))).await, Code::TooLate);
    assert_eq!(bench.refused(&about("cancel", DB, json!({ "op_id": done }))).await, Code::BadParams);
    let nobody = "0197a2b4-1c3d-7e5f-8a6b-0123456789ab";
    assert_eq!(bench.refused(&about("cancel", WEB, json!({ "op_id": nobody }))).await, Code::NotFound);
    bench.heard(&done, "succeeded").await;
    for word in [about("cancel", WEB, json!({ "op_id": done })), about("resolve", WEB, json!({ "op_id": done, "outcome": "failed" }))] {
        let Answer::Known(id) = bench.take(&word).await else { panic!("it is kept") };
        let fault = bench.receipt(&id).fault.unwrap();
        assert_eq!(fault.code, Code::TooLate);
        assert!(fault.message.contains("is succeeded"), "{}", fault.message);
    }
}

#[tokio::test]
async fn what_is_refused_at_its_turn_is_told_as_refused_until_the_hub_has_heard() {
    let bench = Bench::new().await;
    bench.driver.with(|fake| fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent));
    let refused = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&refused, State::Cancelled).await;
    let receipt = bench.receipt(&refused);
    assert_eq!((receipt.outcome, receipt.fault.unwrap().code), (Outcome::Refused, Code::StepFailed));
    bench.agent().ops.acknowledge(refused.clone(), "cancelled".to_owned()).await;
    bench.heard(&refused, "refused").await;
}

/// The records of an order that only another version of the agent can read.
async fn foreign(bench: &Bench, resource: &str, begun: bool) -> OpId {
    let (json, id) = bench.order("start", resource, |order| order.kind = "levitate".to_owned());
    let statement = Signed::<OpStatement>::from_json(&json).unwrap().peek().unwrap();
    let grant = moorline_common::op::Grant {
        envelope: String::from_utf8(json).unwrap(),
        intent: statement.intent().unwrap(),
        nonce: statement.nonce.to_string(),
        nonce_until: statement.nonce_until(),
    };
    let step = |state| Entry {
        kind: "levitate".into(),
        idempotency_key: statement.idempotency_key.to_string(),
        ..Entry::step(id.as_str().parse().unwrap(), statement.resource.clone(), "", state)
    };
    let mut entries = vec![Entry { grant: Some(grant), ..step(State::Accepted) }, step(State::Queued)];
    entries.extend(begun.then(|| step(State::Started)));
    bench.journal.append(entries).await.unwrap();
    id
}

#[tokio::test]
async fn an_open_operation_that_this_agent_cannot_read_lets_none_pass_before_an_operator_has_spoken() {
    let mut bench = Bench::new().await;
    bench.stop().await;
    let (begun, waiting) = (foreign(&bench, WEB, true).await, foreign(&bench, DB, false).await);
    bench.start().await;
    assert_eq!((bench.state(&begun), bench.state(&waiting)), (Some(State::Indeterminate), Some(State::Cancelled)));
    let refused = bench.receipt(&waiting);
    assert_eq!((refused.outcome, refused.fault.unwrap().code), (Outcome::Refused, Code::UnknownKind));
    assert_eq!(bench.receipt(&begun).outcome, Outcome::Indeterminate);
    bench.heard(&waiting, "refused").await;
    // Nor does the next start forget it.
    bench.kill().await;
    bench.start().await;
    let (behind, beside) = (bench.accepted("restart", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await);
    bench.reached(&beside, State::Succeeded).await;
    assert_eq!(bench.state(&behind), Some(State::Queued));
    let word = bench.operator.order("resolve", WEB, json!({ "op_id": begun, "outcome": "succeeded" }), |_| {});
    assert!(matches!(bench.take(&word).await, Answer::Known(_)));
    bench.reached(&behind, State::Succeeded).await;
    assert_eq!(bench.receipt(&begun).outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn what_is_in_doubt_holds_its_lane_alone_until_an_operator_has_spoken() {
    let mut bench = Bench::new().await;
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Unknown("nobody can tell".to_owned())));
    bench.driver.with(|fake| fake.lose_answer = true);
    let lost = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&lost, State::Indeterminate).await;
    let receipt = bench.receipt(&lost);
    assert_eq!((receipt.outcome, receipt.fault.unwrap().code), (Outcome::Indeterminate, Code::Indeterminate));
    let (behind, beside) = (bench.accepted("stop", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await);
    bench.reached(&beside, State::Succeeded).await;
    assert_eq!(bench.state(&behind), Some(State::Queued));
    // Nor does a restart of the agent forget it.
    bench.kill().await;
    bench.start().await;
    let (again, beside) = (bench.accepted("start", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await);
    bench.reached(&beside, State::Succeeded).await;
    assert_eq!((bench.state(&lost), bench.state(&behind)), (Some(State::Indeterminate), Some(State::Queued)));
    let word = bench.operator.order("resolve", WEB, json!({ "op_id": lost, "outcome": "failed" }), |_| {});
    assert!(matches!(bench.take(&word).await, Answer::Known(_)));
    bench.reached(&again, State::Succeeded).await;
    assert_eq!(bench.receipt(&lost).outcome, Outcome::Failed);
    let web: Vec<String> = bench.effects().into_iter().filter(|e| e.ends_with(WEB)).collect();
    assert_eq!(web, [format!("op:restart:{WEB}"), format!("op:stop:{WEB}"), format!("op:start:{WEB}")], "in the order of acceptance");
}

#[tokio::test]
async fn after_a_crash_each_goes_on_where_its_evidence_says() {
    for (found, outcome, effects) in [
        (Found::Done(crate::driver::OpResult::default()), State::Succeeded, 1),
        (Found::Absent, State::Succeeded, 2),
        (Found::Unknown("nobody can tell".to_owned()), State::Indeterminate, 1),
    ] {
        let mut bench = Bench::new().await;
        bench.driver.hang_ops(true);
        let begun = bench.accepted("restart", WEB, |_| {}).await;
        bench.reached(&begun, State::Started).await;
        let waiting = bench.accepted("stop", WEB, |_| {}).await;
        bench.driver.op_begun().await;
        bench.kill().await;
        bench.driver.hang_ops(false);
        bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), found.clone()));
        bench.start().await;
        bench.reached(&begun, outcome).await;
        if outcome == State::Succeeded {
            bench.reached(&waiting, State::Succeeded).await;
        }
        let restarts = bench.effects().iter().filter(|e| e.starts_with("op:restart")).count();
        assert_eq!(restarts, effects, "{found:?}");
        drop(bench.dir);
    }
}

#[tokio::test]
async fn what_is_proven_absent_after_its_window_is_not_begun_again() {
    let mut bench = Bench::new().await;
    bench.driver.hang_ops(true);
    let now = crate::clock::Clock.wall();
    let begun = bench.accepted("restart", WEB, |o| (o.not_before, o.expires_at) = (UnixSeconds(now.0 - 60), now.plus(1))).await;
    bench.driver.op_begun().await;
    bench.kill().await;
    bench.driver.hang_ops(false);
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Absent));
    // The floor is a verified statement's: here, one of a minute later.
    crate::ledger::Ledger::new(bench.db.clone()).advance_time_floor(now.plus(60), &crate::clock::Clock.boot()).unwrap();
    bench.start().await;
    bench.reached(&begun, State::Failed).await;
    assert_eq!(bench.receipt(&begun).fault.unwrap().code, Code::Expired);
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn a_stopped_container_stays_stopped_until_other_content_or_a_release() {
    let mut bench = Bench::new().await;
    let stop = async |bench: &Bench| {
        bench.driver.with(|fake| {
            fake.op_at_begin = Some(Box::new(|fake| {
                fake.engine.containers.get_mut("edge-web-1").unwrap().state = moorline_common::observe::ContainerState::Exited;
            }))
        });
        let id = bench.accepted("stop", WEB, |_| {}).await;
        bench.reached(&id, State::Succeeded).await;
        bench.driver.with(|fake| fake.op_at_begin = None);
        let held = id.clone();
        until(&mut bench.agent().state.clone(), "held", |s| s.apply.held.iter().any(|h| h.op_id == held) && s.settled_push.is_some()).await;
        id
    };
    let is_running = |bench: &Bench| bench.driver.with(|fake| fake.engine.containers["edge-web-1"].state.is_present());
    stop(&bench).await;
    assert!(!is_running(&bench));
    bench.stop().await;
    bench.start().await;
    let pushes = bench.intake.target().borrow().pushes;
    until(&mut bench.agent().state.clone(), "settled", |s| s.settled_push == Some(pushes) && !s.apply.held.is_empty()).await;
    assert!(!is_running(&bench), "nor does a restart undo it");
    let release = bench.accepted("release", WEB, |_| {}).await;
    bench.reached(&release, State::Succeeded).await;
    until(&mut bench.agent().state.clone(), "healed", |s| s.apply.held.is_empty() && s.settled_push.is_some() && is_running(&bench)).await;

    stop(&bench).await;
    bench.slice(2).await;
    assert!(!is_running(&bench), "what is merely signed anew orders nothing new");
    bench.die().await;
    bench.start().await;
    bench.slice(2).await;
    bench.slice(3).await;
    assert!(!is_running(&bench), "nor does a restart in between forget it");
    bench.slice_with(4, "other").await;
    assert!(is_running(&bench), "other content counts more");
    bench.driver.kill("edge-web-1");
    bench.slice(5).await;
    until(&mut bench.agent().state.clone(), "healed", |s| s.apply.held.is_empty() && is_running(&bench)).await;
}

#[tokio::test]
async fn converge_makes_one_resource_as_the_slice_says_and_lifts_its_hold() {
    let bench = Bench::new().await;
    bench.driver.with(|fake| {
        fake.op_at_begin = Some(Box::new(|fake| {
            fake.engine.containers.remove("edge-web-1");
        }))
    });
    let destroy = bench.accepted("destroy", WEB, |_| {}).await;
    bench.reached(&destroy, State::Succeeded).await;
    bench.driver.with(|fake| fake.op_at_begin = None);
    until(&mut bench.agent().state.clone(), "held", |s| !s.apply.held.is_empty() && !s.observed.containers.contains_key("edge-web-1"))
        .await;
    let converge = bench.accepted("converge", WEB, |_| {}).await;
    bench.reached(&converge, State::Succeeded).await;
    assert_eq!(bench.receipt(&converge).result, json!({ "steps": 1 }));
    until(&mut bench.agent().state.clone(), "released", |s| s.apply.held.is_empty() && s.observed.containers.contains_key("edge-web-1"))
        .await;
}

#[tokio::test]
async fn a_full_lane_refuses_before_it_promises() {
    let bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    for _ in 0..LANE_DEPTH_MAX {
        bench.accepted("restart", WEB, |_| {}).await;
    }
    let (json, id) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.refused(&json).await, Code::Busy);
    assert_eq!(bench.state(&id), None);
    drop(turn);
    let done = async {
        while bench.effects().len() < LANE_DEPTH_MAX {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.unwrap();
    assert_eq!(bench.take(&json).await, Answer::Known(id), "a refused key is free, and so is its nonce");
}

#[tokio::test]
async fn an_order_that_waits_past_its_last_moment_ends_before_its_turn() {
    let bench = Bench::new().await;
    let _turn = bench.in_the_way(WEB).await;
    let now = crate::clock::Clock.wall();
    let late = bench.accepted("restart", WEB, |o| (o.not_before, o.expires_at) = (UnixSeconds(now.0 - 60), now)).await;
    bench.reached(&late, State::Expired).await;
    assert_eq!(bench.receipt(&late).fault.unwrap().code, Code::Expired);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_its_order_waits_no_longer_counts() {
    let mut bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let waiting = bench.accepted("restart", WEB, |_| {}).await;
    let key = bench.operator.key.id();
    let next = bench.operator.next_root(|root| root.revoked = [key].into());
    bench.intake.root(next).await.unwrap();
    drop(turn);
    bench.reached(&waiting, State::Cancelled).await;
    let receipt = bench.receipt(&waiting);
    assert_eq!(receipt.outcome, Outcome::Refused, "nobody has taken it back");
    assert!(matches!(receipt.fault.unwrap().code, Code::RevokedKey | Code::NotApproved));
    assert_eq!(bench.effects(), Vec::<String>::new());
}

#[tokio::test]
async fn a_time_reset_sets_the_floor_and_outdates_what_was_signed_before() {
    let bench = Bench::new().await;
    let ledger = crate::ledger::Ledger::new(bench.db.clone());
    let now = crate::clock::Clock.wall();
    let far = crate::clock::BootTime { wall: UnixSeconds(now.0 + 3000 * 86400), ..crate::clock::Clock.boot() };
    ledger.advance_time_floor(far.wall, &far).unwrap();
    let (early, _) = bench.order("start", WEB, |o| o.not_before = UnixSeconds(now.0 - 10));
    assert_eq!(bench.refused(&bench.order("kill", WEB, |o| o.params = json!({ "signal": "SIGKILL" })).0).await, Code::ClockUnsound);
    let reset = bench.accepted("time-reset", "host", |_| {}).await;
    bench.reached(&reset, State::Succeeded).await;
    let floor = ledger.time_floor().unwrap().now(&crate::clock::Clock.boot());
    assert!(floor.0.abs_diff(now.0) < 60, "{floor:?}");
    let kill = bench.accepted("kill", WEB, |o| {
        o.params = json!({ "signal": "SIGKILL" });
        o.not_before = o.not_before.plus(1);
    });
    let kill = kill.await;
    bench.reached(&kill, State::Succeeded).await;
    assert_eq!(bench.refused(&early).await, Code::Expired);
}

#[tokio::test]
async fn what_is_recorded_as_begun_waits_for_no_other_before_it_begins() {
    let mut bench = Bench::new().await;
    bench.stop().await;
    bench.seats = 1;
    bench.start().await;
    bench.driver.hang_ops(true);
    let turns = [bench.in_the_way(WEB).await, bench.in_the_way(DB).await];
    let orders = [bench.accepted("restart", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await];
    bench.journal.delay(300);
    drop(turns);
    bench.driver.op_begun().await;
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    let begun = orders.iter().filter(|id| bench.state(id) == Some(State::Started)).count();
    assert_eq!((begun, bench.effects().len()), (1, 1), "the other one has not begun, and does not look so");
    bench.driver.hang_ops(false);
    for id in &orders {
        bench.reached(id, State::Succeeded).await;
    }
}

#[tokio::test]
async fn what_begins_again_goes_by_what_is_wanted_now() {
    let mut bench = Bench::new().await;
    bench.driver.hang_ops(true);
    let first = |order: &mut OpStatement| order.precondition = Some(Precondition { generation: Some(Generation(1)), state: None });
    let restart = bench.accepted("restart", WEB, first).await;
    bench.driver.op_begun().await;
    bench.die().await;
    bench.driver.hang_ops(false);
    bench.start().await;
    bench.reached(&restart, State::Succeeded).await;
    bench.slice(1).await;

    bench.driver.hang_ops(true);
    let prune = bench.accepted("prune", "host", |order| order.params = json!({ "volumes": true })).await;
    bench.driver.op_begun().await;
    bench.die().await;
    bench.driver.hang_ops(false);
    let data = ResourceId::parse("docker/volume/edge_data").unwrap();
    assert!(!bench.driver.with(|fake| fake.wanted.contains(&data)));
    bench.start().await;
    let mut content = services(&["db", "web"], false);
    content["docker"]["volumes"] = json!({ "data": {} });
    bench.intake.slice(bench.operator.slice(2, content)).await.unwrap();
    bench.reached(&prune, State::Succeeded).await;
    assert!(bench.driver.with(|fake| fake.wanted.contains(&data)), "what is wanted by now is left");
}

#[tokio::test]
async fn a_revocation_before_a_crash_counts_for_what_waits_and_for_what_would_begin_again() {
    let mut bench = Bench::new().await;
    bench.driver.hang_ops(true);
    let begun = bench.accepted("restart", WEB, |_| {}).await;
    bench.driver.op_begun().await;
    let waiting = bench.accepted("stop", WEB, |_| {}).await;
    let key = bench.operator.key.id();
    bench.intake.root(bench.operator.next_root(|root| root.revoked = [key].into())).await.unwrap();
    bench.die().await;
    bench.driver.hang_ops(false);
    bench.start().await;
    bench.reached(&begun, State::Failed).await;
    bench.reached(&waiting, State::Cancelled).await;
    let (begun, waiting) = (bench.receipt(&begun), bench.receipt(&waiting));
    assert_eq!(waiting.outcome, Outcome::Refused);
    for receipt in [begun, waiting] {
        assert!(matches!(receipt.fault.unwrap().code, Code::RevokedKey | Code::NotApproved));
    }
    assert_eq!(bench.effects().len(), 1, "nothing by the revoked key after the start");
}

#[tokio::test(start_paused = true)]
async fn a_stop_begins_nothing_lets_what_runs_end_and_leaves_the_rest_to_the_next_start() {
    let mut bench = Bench::new().await;
    bench.driver.hang_ops(true);
    let running = bench.accepted("restart", WEB, |_| {}).await;
    bench.driver.op_begun().await;
    let behind = bench.accepted("stop", WEB, |_| {}).await;
    bench.driver.with(|fake| fake.unreachable = true);
    let untried = bench.accepted("restart", DB, |_| {}).await;
    bench.agent().stop.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    bench.driver.hang_ops(false);
    bench.stop().await;
    let states = [&running, &behind, &untried].map(|id| bench.state(id).unwrap());
    assert_eq!(states, [State::Succeeded, State::Queued, State::Queued]);
    assert_eq!(bench.effects().len(), 1);

    bench.driver.with(|fake| fake.unreachable = false);
    bench.driver.hang_ops(true);
    bench.start().await;
    while bench.effects().len() < 3 {
        bench.driver.op_begun().await;
    }
    // They do not end within their grace.
    bench.stop().await;
    bench.driver.hang_ops(false);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!([&behind, &untried].map(|id| bench.state(id).unwrap()), [State::Started; 2], "whoever still waits for it records nothing");
    for name in ["edge-web-1", "edge-db-1"] {
        bench.driver.with(|fake| fake.found.insert(name.to_owned(), Found::Done(crate::driver::OpResult::default())));
    }
    bench.start().await;
    for id in [&behind, &untried] {
        bench.reached(id, State::Succeeded).await;
    }
    assert_eq!(bench.effects().len(), 3, "each once");
}

#[tokio::test]
async fn a_signed_refusal_stays_true_and_what_may_change_is_not_signed() {
    let mut bench = Bench::new().await;
    let for_two = |o: &mut OpStatement| o.precondition = Some(Precondition { generation: Some(Generation(2)), state: None });
    let (json, id) = bench.order("restart", WEB, for_two);
    assert_eq!(bench.refused(&json).await, Code::PreconditionFailed);
    assert_eq!(bench.receipt(&id).outcome, Outcome::Refused);
    bench.heard(&id, "refused").await;
    // Whoever has the bytes may hand them in again when it would fit.
    bench.slice(2).await;
    let Answer::Refused(fault) = bench.take(&json).await else { panic!("it was refused for good") };
    assert_eq!((fault.code, bench.effects().len()), (Code::NonceUsed, 0));
    // What a host does not know yet is no reason to sign that it will never be done.
    let (early, _) = bench.order("restart", WEB, |o| o.root_version = 2);
    assert!(matches!(bench.take(&early).await, Answer::Refused(Fault { code: Code::RootBehind, .. })));
}

#[tokio::test]
async fn a_refusal_after_the_end_is_never_signed() {
    let mut bench = Bench::new().await;
    let (json, id) = bench.order("restart", WEB, |_| {});
    bench.take(&json).await;
    bench.reached(&id, State::Succeeded).await;
    bench.heard(&id, "succeeded").await;
    let root = bench.operator.next_root(|root| root.expires = UnixSeconds(1));
    bench.intake.root(root).await.unwrap();
    let Answer::Refused(fault) = bench.take(&json).await else { panic!("a receipt about what was done") };
    assert_eq!(fault.code, Code::RootExpired);
}

#[tokio::test]
async fn without_a_hub_what_waits_keeps_nobody_from_healing() {
    let mut bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let waiting = bench.accepted("prune", "host", |o| o.expires_at = o.not_before.plus(3600)).await;
    bench.kill().await;
    drop(turn);
    bench.start_apart().await;
    // The slice that it has is enforced by an operator's word, and nobody has seen a hub yet.
    bench.driver.kill("edge-web-1");
    bench.slice(2).await;
    let is_up = || bench.driver.with(|fake| fake.engine.containers["edge-web-1"].state.is_present());
    until(&mut bench.agent().state.clone(), "healed", |s| s.settled_push.is_some() && is_up()).await;
    assert_eq!(bench.state(&waiting), Some(State::Queued));
    bench.agent().ops.records_are_current();
    bench.reached(&waiting, State::Succeeded).await;
}

#[tokio::test]
async fn a_time_reset_waits_for_no_operation_in_doubt() {
    let bench = Bench::new().await;
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Unknown("nobody can tell".to_owned())));
    bench.driver.with(|fake| fake.lose_answer = true);
    let lost = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&lost, State::Indeterminate).await;
    let reset = bench.accepted("time-reset", "host", |_| {}).await;
    bench.reached(&reset, State::Succeeded).await;
}
