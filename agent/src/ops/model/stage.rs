//! The stage: the agent as often as it is started, its disk, what it drives, the operators, and what may happen to them.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::id::{Generation, HostEpoch, IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds};
use moorline_common::op::{Class, OpStatement, Precondition};
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::trust::RootKey;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reference::{Paper, Reference, Signer};
use super::steps::{Draft, Step};
use super::world::World;
use crate::clock::set::Clocks;
use crate::config::Policy;
use crate::db::Db;
use crate::intake::Intake;
use crate::journal::Journal as _;
use crate::journal::memory::MemoryJournal;
use crate::lane::Lanes;
use crate::ledger::Ledger;
use crate::ops::{Handle, Ops, Parts};
use crate::reconcile::{self, Reconciler};
use crate::testing::{NOW, Operator};

mod rest;

/// When it all begins.
const BEGINNING: u64 = NOW + 1000;

/// The cluster's keys and the host's, made once: their bytes do not matter.
static CLUSTER: LazyLock<Operator> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    Operator::with_root(dir.path(), |root| {
        let public = bob().public();
        root.keys.insert(bob().id(), RootKey { name: "bob".to_owned(), public });
        root.roles.get_mut("operator").unwrap().keys.insert(bob().id());
        root.class_thresholds = [(Class::R3, 2), (Class::R4, 2)].into();
    })
});

fn bob() -> PrivateKey {
    PrivateKey::from_seed(&[3; 32])
}

/// The whole stage: machine, disk, operators, and the agent as often as it is started.
pub struct Stage<W> {
    clocks: Clocks,
    begin: Instant,
    /// By how much the operators' clocks are fast, in seconds.
    ahead: u64,
    machine: W,
    db: Db,
    journal: MemoryJournal,
    reference: Arc<Mutex<Reference>>,
    intake: Intake,
    /// The policy after the next start.
    deny: bool,
    signed: Vec<Paper>,
    agent: Option<Agent>,
}

struct Agent {
    ops: Handle,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

/// Others have their turns.
async fn turns(n: u32) {
    for _ in 0..n {
        yield_now().await;
    }
}

fn policy(deny: bool) -> Policy {
    let ops_denied = if deny { Reference::denied_kinds().map(str::to_owned).into() } else { Vec::new() };
    Policy { ops_denied, ..Policy::default() }
}

impl<W: World> Stage<W> {
    pub async fn new() -> Self {
        let clocks = Clocks::new(UnixSeconds(BEGINNING));
        let db = Db::in_memory();
        let journal = MemoryJournal::new(CLUSTER.keys.epoch.clone());
        let reference = Arc::new(Mutex::new(Reference::new(journal.clone(), Ledger::new(db.clone()))));
        let machine = W::new();
        let watched = reference.clone();
        machine.watch(move |event| watched.lock().unwrap_or_else(PoisonError::into_inner).seen(event));
        let intake = CLUSTER.ready_intake(&db).await;
        let begin = Instant::now();
        let mut stage =
            Self { clocks, begin, ahead: 0, machine, db, journal, reference, intake, deny: false, signed: Vec::new(), agent: None };
        stage.start().await;
        stage.slice(true).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage
    }

    pub fn known(&self) -> MutexGuard<'_, Reference> {
        self.reference.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn machine(&self) -> &W {
        &self.machine
    }

    pub fn journal(&self) -> &MemoryJournal {
        &self.journal
    }

    /// The time that the operators go by.
    fn now(&self) -> u64 {
        BEGINNING + self.begin.elapsed().as_secs() + self.ahead
    }

    /// Something changes by which orders are judged: what was checked a moment before counts.
    fn changes(&self, change: impl FnOnce(&mut Reference)) {
        let mut known = self.known();
        let facts = known.facts();
        known.before.push(facts);
        change(&mut known);
    }

    async fn start(&mut self) {
        // From here on the time that passes in this boot counts.
        Ledger::new(self.db.clone()).advance_time_floor(UnixSeconds(0), &crate::clock::Clock.boot()).unwrap();
        let driver = Arc::new(self.machine.line());
        let lanes = Lanes::new(4);
        let (reconciler, handle) = Reconciler::new(reconcile::Parts {
            driver: driver.clone(),
            journal: self.journal.clone(),
            ledger: Ledger::new(self.db.clone()),
            lanes: lanes.clone(),
            target: self.intake.target(),
        });
        let (ops, ops_handle) =
            Ops::new(Parts { driver, journal: self.journal.clone(), lanes, gate: self.intake.gate(), reconciler: handle });
        ops.recover().await.unwrap();
        ops_handle.records_are_current();
        let stop = CancellationToken::new();
        let (reconcile_stop, ops_stop) = (stop.clone(), stop.clone());
        let tasks = [
            tokio::spawn(async move { reconciler.run(reconcile_stop).await.unwrap() }),
            tokio::spawn(async move { ops.run(ops_stop).await }),
        ];
        self.agent = Some(Agent { ops: ops_handle, stop, tasks });
    }

    async fn again(&mut self) {
        let denied = self.deny;
        let journal = self.journal.clone();
        self.changes(|known| (known.journal, known.denied) = (journal, denied));
        self.intake = CLUSTER.intake_with(&self.db, policy(denied));
        self.start().await;
        let generation = self.known().generation;
        // The hub sends the slice again.
        self.send_slice(generation).await;
    }

    async fn crash(&mut self, kept: usize) {
        // From here on it does nothing, though its tasks live on for a moment.
        self.machine.hang_up();
        self.journal = self.journal.crash(kept);
        let agent = self.agent.take().unwrap();
        for task in &agent.tasks {
            task.abort();
        }
        for task in agent.tasks {
            let ended = task.await;
            assert!(ended.map_or_else(|e| e.is_cancelled(), |()| false), "the agent had ended");
        }
        self.again().await;
    }

    async fn restart(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.stop.cancel();
        for task in agent.tasks {
            task.await.unwrap();
        }
        self.journal = self.journal.crash(usize::MAX);
        self.again().await;
    }

    async fn slice(&mut self, other: bool) {
        let generation = self.known().generation + 1;
        self.changes(|known| {
            known.generation = generation;
            if other {
                known.content_since = generation;
                known.contents += 1;
            }
        });
        self.send_slice(generation).await;
    }

    async fn send_slice(&mut self, generation: u64) {
        let content = W::content(self.known().contents);
        self.intake.slice(CLUSTER.slice(generation, content)).await.unwrap();
    }

    async fn revoke(&mut self) {
        if self.known().revoked {
            return;
        }
        self.changes(|known| known.revoked = true);
        let next = CLUSTER.next_root(|root| {
            root.revoked = [bob().id()].into();
            root.roles.get_mut("operator").unwrap().keys.remove(&bob().id());
            root.class_thresholds.clear();
        });
        self.intake.root(next).await.unwrap();
    }

    /// Signs an order; its numbers follow from how many were signed before.
    fn sign(&mut self, kind: &str, resource: &str, params: Value, draft: &Draft) -> usize {
        let number = self.signed.len();
        let now = self.now();
        let (from, until) = match draft.window {
            1 => (now - 2000, now - 1),
            2 => (now + 400, now + 1300),
            3 => (now + 3 * 86400, now + 4 * 86400),
            4 => (now, now + 1),
            5 => (now, now + 10),
            6 => (now - 200, now + 30),
            7 => (now + 250, now + 900),
            _ => (now, now + 900),
        };
        let epoch = CLUSTER.keys.epoch.to_string();
        let wrong = HostEpoch::parse(format!("bad{}", epoch.get(3..).unwrap_or_default())).unwrap();
        let nonce = draft.nonce_of.and_then(|n| self.pick(n)).map(|p| p.statement.nonce.clone());
        let generation = self.known().generation;
        let precondition = match draft.generation {
            0 => None,
            1 => Some(Precondition { generation: Some(Generation(generation)), state: None }),
            _ => Some(Precondition { generation: Some(Generation(generation + 1)), state: None }),
        };
        let root_version = if self.known().revoked { 2 } else { 1 };
        let statement = OpStatement {
            cluster: CLUSTER.cluster(),
            op_id: OpId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{number:012x}")).unwrap(),
            idempotency_key: IdempotencyKey::parse(draft.key.map_or_else(|| format!("own-{number}"), |k| format!("key-{k}"))).unwrap(),
            host_id: CLUSTER.keys.host_id(),
            host_epoch: if draft.wrong_epoch { wrong } else { CLUSTER.keys.epoch.clone() },
            resource: ResourceId::parse(resource).unwrap(),
            incarnation: None,
            kind: kind.to_owned(),
            params,
            precondition,
            not_before: UnixSeconds(from),
            expires_at: UnixSeconds(until),
            nonce: nonce.unwrap_or_else(|| Nonce::parse(format!("{number:032x}")).unwrap()),
            root_version,
            reason: String::new(),
            saga: None,
        };
        let class = statement.act().unwrap().class(&statement.resource);
        let signers = match draft.signers {
            0 if class >= Class::R3 && root_version == 1 => vec![Signer::Ann, Signer::Bob],
            0 | 1 => vec![Signer::Ann],
            2 => vec![Signer::Bob],
            3 => vec![Signer::Ann, Signer::Ann],
            4 => vec![Signer::Ann, Signer::Bob],
            _ => vec![Signer::Eve],
        };
        let (bob, eve) = (bob(), PrivateKey::from_seed(&[9; 32]));
        let key = |signer: &Signer| match signer {
            Signer::Ann => &CLUSTER.key,
            Signer::Bob => &bob,
            Signer::Eve => &eve,
        };
        let keys: Vec<&PrivateKey> = signers.iter().map(key).collect();
        let json = Signed::seal(&statement, &keys).unwrap().envelope().to_json();
        assert!(Envelope::from_json(&json).is_ok() || signers.len() > 1);
        let paper = Paper { intent: statement.intent().unwrap(), class, signers, json, statement };
        self.known().papers.insert(paper.statement.op_id.to_string(), paper.clone());
        self.signed.push(paper);
        number
    }

    fn draft(&mut self, draft: &Draft) -> usize {
        let (kind, resource, params) = W::order(draft, self.signed.len());
        self.sign(kind, &resource, params, draft)
    }

    fn pick(&self, n: u8) -> Option<&Paper> {
        // The newer, the more interesting.
        let back = usize::from(n) % self.signed.len().max(1);
        self.signed.iter().rev().nth(back)
    }

    /// Hands an order in, and leaves it to the agent when it answers.
    fn hand_in(&self, paper: &Paper) {
        let Some(agent) = &self.agent else { return };
        let (ops, reference, paper) = (agent.ops.clone(), self.reference.clone(), paper.clone());
        tokio::spawn(async move {
            let with = |look: &mut dyn FnMut(&mut Reference)| look(&mut reference.lock().unwrap_or_else(PoisonError::into_inner));
            let (mut known, mut due) = (false, false);
            with(&mut |r| (known, due) = (r.accepted(paper.statement.op_id.as_str()), r.must_be_taken(&paper)));
            let asked = Instant::now();
            let life = { reference.lock().unwrap_or_else(PoisonError::into_inner).journal.clone() };
            if let Some(answer) = ops.take(paper.json.clone(), None).await {
                with(&mut |r| {
                    let calm = r.before.is_empty() && asked.elapsed() < Duration::from_secs(2) && life.is_same(&r.journal);
                    r.answered(&paper, &answer, known, due && calm);
                });
            }
        });
    }

    async fn heard(&self, n: u8, right: bool) {
        let (Some(agent), Some(paper)) = (&self.agent, self.pick(n)) else { return };
        let id = paper.statement.op_id.clone();
        let state = self.journal.read(|book| book.ops().get(id.as_str()).map(|e| e.state()));
        let Some(state) = state else { return };
        let outcome = if right { self.known().outcome(id.as_str(), state) } else { "nothing" };
        agent.ops.acknowledge(id, outcome.to_owned()).await;
    }

    pub async fn step(&mut self, step: &Step) {
        match step {
            Step::Sign(draft) => {
                let number = self.draft(draft);
                if draft.now {
                    self.hand_in(&self.signed[number]);
                }
            }
            Step::Deliver(n) => {
                if let Some(paper) = self.pick(*n) {
                    self.hand_in(paper);
                }
            }
            Step::Cancel(n) => self.about(*n, "cancel", json!({})),
            Step::Resolve(n, done) => self.about(*n, "resolve", json!({ "outcome": if *done { "succeeded" } else { "failed" } })),
            Step::Heard(n, right) => self.heard(*n, *right).await,
            Step::Slice(other) => self.slice(*other).await,
            Step::Crash(kept) => self.crash(usize::from(*kept)).await,
            Step::Restart => self.restart().await,
            Step::Pass(s) if *s < 50 => {
                tokio::time::sleep(Duration::from_secs((*s).into())).await;
                if *s > 0 {
                    // Time passes only when everyone has done what could be done.
                    self.known().before.clear();
                }
            }
            Step::Pass(s) => {
                self.changes(|_| ());
                tokio::time::advance(Duration::from_secs((*s).into())).await;
            }
            Step::SetClock(offset) => {
                self.changes(|_| ());
                self.clocks.set_wall(UnixSeconds(self.now().saturating_add_signed(*offset)));
                self.changes(|_| ());
            }
            Step::Reboot => {
                self.machine.reboot();
                self.changes(Reference::rebooted);
                self.clocks.reboot();
                self.crash(0).await;
            }
            Step::Unreachable(so) => self.machine.unreachable(*so),
            Step::Deafen => self.machine.deafen(1),
            Step::Late => self.machine.delay(1),
            Step::Slow(n) => self.machine.slow((*n).into()),
            Step::SlowDisk(n) => self.journal.delay((*n).into()),
            Step::FullDisk(full) => {
                self.changes(|known| known.full = *full);
                self.journal.fill(*full);
            }
            Step::Forget => self.machine.forget(),
            Step::Revoke => self.revoke().await,
            Step::Deny(deny) => self.deny = *deny,
            Step::Turns(n) => {
                turns((*n).into()).await;
                if *n > 60 {
                    self.known().before.clear();
                }
            }
        }
        self.known().take_resets();
    }

    fn about(&mut self, n: u8, kind: &str, mut params: Value) {
        let Some(target) = self.pick(n).map(|p| p.statement.clone()) else { return };
        params["op_id"] = json!(target.op_id);
        let plain =
            Draft { kind: 0, resource: 0, key: None, nonce_of: None, window: 0, signers: 1, wrong_epoch: false, generation: 0, now: true };
        let number = self.sign(kind, target.resource.as_str(), params, &plain);
        self.hand_in(&self.signed[number]);
    }
}
