//! What sagas go by: the receipts of operations on guests, also where the agent died in the middle.

use moorline_common::op::guest::Output;
use moorline_pve_sim::Sim;
use moorline_pve_sim::world::faults::{CallFault, Wrong};
use moorline_pve_sim::world::guest::Config;
use moorline_pve_sim::world::hand::Hand;

use super::*;
use crate::driver::pve::tests as pve;
use crate::driver::pve::tests::machine::Host;
use crate::driver::pve::tests::ops::{MACHINE, setup};
use crate::ops::model::world::World as _;
use crate::testing::NOW;

/// A simulated host, and its agent as often as it is started.
struct Site {
    operator: Operator,
    intake: Intake,
    journal: MemoryJournal,
    machine: Host,
    agent: Option<Agent>,
    _clocks: set::Clocks,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn new(running: bool) -> Self {
        let clocks = set::Clocks::new(UnixSeconds(NOW + 1000));
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        let intake = operator.ready_intake(&Db::in_memory()).await;
        let journal = MemoryJournal::new(operator.keys.epoch.clone());
        let mut machine: Host = Host::new();
        machine.sim = Sim::new(setup(running));
        let mut site = Self { operator, intake, journal, machine, agent: None, _clocks: clocks, _dir: dir };
        site.start().await;
        site
    }

    async fn start(&mut self) {
        let (driver, lanes) = (Arc::new(self.machine.line()), Lanes::new(4));
        let (reconciler, handle) = Reconciler::new(reconcile::Parts {
            driver: driver.clone(),
            journal: self.journal.clone(),
            ledger: self.intake.gate().ledger().clone(),
            lanes: lanes.clone(),
            target: self.intake.target(),
        });
        let state = handle.state();
        let (journal, gate) = (self.journal.clone(), self.intake.gate());
        let (ops, ops_handle) = Ops::new(Parts { driver, journal, lanes: lanes.clone(), gate, reconciler: handle });
        ops.recover().await.unwrap();
        ops_handle.records_are_current();
        let stop = CancellationToken::new();
        let (reconcile_stop, ops_stop) = (stop.clone(), stop.clone());
        let tasks = [
            tokio::spawn(async move { reconciler.run(reconcile_stop).await.unwrap() }),
            tokio::spawn(async move { ops.run(ops_stop).await }),
        ];
        self.agent = Some(Agent { ops: ops_handle, state, lanes, stop, tasks });
    }

    /// As `kill -9` does it.
    async fn kill(&mut self) {
        self.machine.hang_up();
        for task in self.agent.take().unwrap().tasks {
            task.abort();
            let _ = task.await;
        }
        self.journal = self.journal.cut();
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// Hands an order in.
    async fn order(&self, number: u32, kind: &str, params: Value, incarnation: Option<&str>) -> OpId {
        let json = self.operator.order(kind, &format!("pve/guest/{number}"), params, |order| {
            order.incarnation = incarnation.map(str::to_owned);
        });
        let Some(Answer::Known(id)) = self.agent().ops.take(json, None).await else { panic!("{kind} is not taken") };
        id
    }

    fn state(&self, id: &OpId) -> Option<State> {
        self.journal.read(|book| book.ops().get(id.as_str()).map(|e| e.state()))
    }

    async fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..4000 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("never {what}");
    }

    /// The receipt, when it has ended.
    async fn receipt(&self, id: &OpId) -> Receipt {
        self.wait("at its end", || self.state(id).is_some_and(State::is_terminal)).await;
        match self.agent().ops.standing(&self.journal, &Own::of(&self.operator.keys), id).first() {
            Some(Standing::Over(receipt)) => (**receipt).clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn done(&self, number: u32, kind: &str, params: Value, incarnation: Option<&str>) -> Receipt {
        let id = self.order(number, kind, params, incarnation).await;
        let receipt = self.receipt(&id).await;
        assert_eq!((receipt.outcome, &receipt.fault), (Outcome::Succeeded, &None), "{kind}");
        receipt
    }

    async fn incarnation(&self, number: u32) -> Option<String> {
        pve::Bench::on(self.machine.sim.clone(), Arc::default()).guest(number).await.incarnation
    }

    /// What operations have done to guests.
    fn effects(&self) -> Vec<String> {
        self.machine.sim.inspect(|world| {
            let ours = world.effects.iter().filter(|effect| !effect.on_behalf.is_empty());
            ours.map(|effect| format!("{} {:?} {}", effect.vmid, effect.kind, effect.on_behalf)).collect()
        })
    }
}

/// Where the agent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Nowhere.
    None,
    /// After it has accepted the order.
    Accepted,
    /// After the record of its beginning, and before its request has reached the host.
    Begun,
}

/// What each compensation relies on: what came in between, and how an operation then ends that was refused, and one that had begun.
#[tokio::test(start_paused = true)]
async fn an_operation_on_what_is_not_there_ends_with_a_code_of_its_own_and_does_nothing_wherever_the_agent_dies() {
    let other: Config = MACHINE.iter().map(|(key, value)| ((*key).to_owned(), value.replace("6e3c4af2", "11111111"))).collect();
    let mut strangers = other.clone();
    strangers.remove("tags");
    for (kind, params, by_hand, code) in [
        ("destroy", json!({ "now": true }), Hand::Destroy { vmid: 101 }, Some(Code::NotFound)),
        ("destroy", json!({}), Hand::Destroy { vmid: 101 }, Some(Code::NotFound)),
        ("destroy", json!({ "now": true }), Hand::Recreate { vmid: 101, config: other }, Some(Code::IncarnationChanged)),
        ("destroy", json!({}), Hand::Recreate { vmid: 101, config: strangers }, Some(Code::IncarnationChanged)),
        (
            "snapshot-delete",
            json!({ "name": "before" }),
            Hand::DeleteSnapshot { vmid: 101, name: "before".to_owned() },
            Some(Code::NotFound),
        ),
        (
            "snapshot-rollback",
            json!({ "name": "before" }),
            Hand::DeleteSnapshot { vmid: 101, name: "before".to_owned() },
            Some(Code::NoSnapshot),
        ),
        ("stop", json!({}), Hand::Stop { vmid: 101 }, None),
    ] {
        for death in [Death::None, Death::Accepted, Death::Begun] {
            let mut site = Site::new(kind == "stop").await;
            site.machine.sim.hand(&Hand::Snapshot { vmid: 101, name: "before".to_owned() }).unwrap();
            let meant = site.incarnation(101).await;
            let order = async |site: &Site| site.order(101, kind, params.clone(), meant.as_deref()).await;
            let id = match death {
                Death::None => {
                    site.machine.sim.hand(&by_hand).unwrap();
                    order(&site).await
                }
                Death::Accepted => {
                    let turn = site.agent().lanes.place(&ResourceId::parse("pve/guest/101").unwrap()).unwrap().await.unwrap();
                    let id = order(&site).await;
                    site.kill().await;
                    drop(turn);
                    id
                }
                Death::Begun => {
                    for method in ["POST", "PUT", "DELETE"] {
                        let lost =
                            CallFault { method: Some(method.to_owned()), path: String::new(), next: Some(1), then: Wrong::LoseRequest };
                        site.machine.sim.change(|world| world.faults.calls.push(lost));
                    }
                    let id = order(&site).await;
                    let is_lost =
                        || site.machine.sim.inspect(|world| world.faults.calls.iter().filter(|fault| fault.next == Some(1)).count() < 3);
                    site.wait("asked for", is_lost).await;
                    assert_eq!(site.state(&id), Some(State::Started));
                    site.kill().await;
                    site.machine.sim.change(|world| world.faults.calls.clear());
                    id
                }
            };
            if death != Death::None {
                site.machine.sim.hand(&by_hand).unwrap();
                site.start().await;
            }
            let receipt = site.receipt(&id).await;
            let outcome = match (code, death) {
                (None, _) => Outcome::Succeeded,
                (Some(_), Death::Begun) => Outcome::Failed,
                (Some(_), Death::None | Death::Accepted) => Outcome::Refused,
            };
            assert_eq!((receipt.outcome, receipt.fault.map(|fault| fault.code)), (outcome, code), "{kind} {death:?}");
            assert_eq!(site.effects(), Vec::<String>::new(), "{kind} {death:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_tells_which_guest_was_made_so_that_this_one_alone_is_undone_also_after_a_crash() {
    for dies in [false, true] {
        let mut site = Site::new(false).await;
        let archive = Output::of(&site.done(101, "backup", json!({ "storage": "local" }), None).await).archive.unwrap();
        for (on, kind, params, made) in [
            (500, "create", json!({ "type": "qemu", "config": { "name": "new", "scsi0": "local-lvm:1" }, "start": true }), 500),
            (101, "clone", json!({ "newid": "400" }), 400),
            (205, "clone", json!({ "newid": "405" }), 405),
            (600, "restore", json!({ "type": "qemu", "archive": archive, "unique": true }), 600),
        ] {
            let id = site.order(on, kind, params, None).await;
            if dies {
                site.wait("known as a task", || site.state(&id) == Some(State::TaskRunning)).await;
                site.kill().await;
                site.start().await;
            }
            let receipt = site.receipt(&id).await;
            let output = Output::of(&receipt);
            assert_eq!(output.vmid.map(moorline_common::pve::Vmid::get), Some(made), "{kind}: {receipt:?}");
            assert!(output.incarnation.is_some() && output.incarnation == site.incarnation(made).await, "{kind}: {receipt:?}");
            site.done(made, "destroy", json!({ "now": true, "stop": true }), output.incarnation.as_deref()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_names_the_snapshot() {
    let site = Site::new(false).await;
    let made = site.done(101, "snapshot-create", json!({}), None).await;
    let name = Output::of(&made).snapshot.unwrap();
    assert_eq!(name, format!("op-{}", made.op_id));
    for kind in ["snapshot-rollback", "snapshot-delete"] {
        let meant = site.incarnation(101).await;
        let receipt = site.done(101, kind, json!({ "name": name }), meant.as_deref()).await;
        assert_eq!(Output::of(&receipt).snapshot.as_ref(), Some(&name), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_is_looked_at_anew_by_the_next_life_also_past_its_orders_last_moment() {
    let mut site = Site::new(true).await;
    let json = site.operator.order("check", "pve/guest/101", json!({ "for_s": 30, "timeout_s": 300 }), |order| {
        order.expires_at = order.not_before.plus(60);
    });
    let Some(Answer::Known(id)) = site.agent().ops.take(json, None).await else { panic!("it is not taken") };
    site.wait("under way", || site.state(&id) == Some(State::TaskRunning)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    site.kill().await;
    site.machine.sim.hand(&Hand::Stop { vmid: 101 }).unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    site.start().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(site.state(&id), Some(State::TaskRunning), "it does not run");
    site.machine.sim.hand(&Hand::Start { vmid: 101 }).unwrap();
    let receipt = site.receipt(&id).await;
    assert_eq!((receipt.outcome, &receipt.result["agent"]), (Outcome::Succeeded, &json!(false)));
    assert_eq!(site.effects(), Vec::<String>::new());

    site.machine.sim.hand(&Hand::Stop { vmid: 101 }).unwrap();
    let id = site.order(101, "check", json!({ "for_s": 5, "timeout_s": 20 }), None).await;
    let receipt = site.receipt(&id).await;
    assert_eq!((receipt.outcome, receipt.fault.unwrap().code), (Outcome::Failed, Code::NotHealthy));
}
