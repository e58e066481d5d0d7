//! Operations: what operators order once. Each is accepted by a durable record, takes its turn in its lane, is started at
//! most once for its key, and ends with a receipt that the hub acknowledges.
//!
//! ```text
//! turn → checked again → prepared → `started` durable → begun ─┬─ done → its end durable → the next one's turn
//!                                        ▲                     ├─ task: its name durable → resumed ─┘
//!                                        └── proven absent ── in doubt ──► indeterminate: holds its lane
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `admit` | an order that came in: known, refused, or accepted and put in its lane |
//! | `saga` | whether it is the turn of an order of a saga |
//! | `carry` | one operation from its place in the line to its `started` record |
//! | `advance` | from there to its end, by answers or evidence |
//! | `call` | what it asks of the engine on the way |
//! | `wanted` | what needs the slice: `converge`, and what `prune` leaves |
//! | [`recover`] | after a start: every open operation goes on where its evidence says |
//! | [`receipt`] | what the hub is told |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{OpId, ResourceId};
use moorline_common::op::{Act, Grant, OP_ENVELOPE_MAX, OpStatement, Order, Origin, Outcome, Receipt, State};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::Evidence;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::Driver;
use crate::intake::gate::Gate;
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::Lanes;
use crate::limits::{DRAIN_TIMEOUT, OPS_QUEUE};
use crate::reconcile;
use crate::trust::Trust;

use self::outputs::Outputs;

mod admit;
mod advance;
mod call;
mod carry;
pub mod outputs;
pub mod receipt;
pub mod recover;
mod saga;
mod wanted;

pub use receipt::{Standing, Standings};

/// What operations are made of.
pub struct Parts<D, J> {
    /// The engine.
    pub driver: Arc<D>,
    /// Where they are recorded.
    pub journal: J,
    /// The lanes of the engine.
    pub lanes: Lanes,
    /// The door for orders.
    pub gate: Gate,
    /// To look at the host when one has ended.
    pub reconciler: reconcile::Handle,
}

/// What became of an order that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is accepted, or was before: [`Standings`] tell where it stands.
    Known(OpId),
    /// It, or one of the same key, ended before.
    Settled(Box<Receipt>),
    /// It is refused, and nothing is kept of that. No receipt says so: the same bytes may be taken another time, and the
    /// host signs only what stays true.
    Refused(Fault),
}

enum Command {
    Take { json: Vec<u8>, evidence: Option<Box<Evidence>>, reply: oneshot::Sender<Answer> },
    Acknowledge { op_id: OpId, outcome: String },
}

/// Hands orders in and hears of them. Cloned freely.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    news: watch::Receiver<u64>,
    aliases: Arc<Aliases>,
    current: CancellationToken,
    outputs: Outputs,
}

impl Handle {
    /// The hub has seen no more of this host's records than there is: nothing was done that they do not tell. Until then
    /// nothing begins.
    pub fn records_are_current(&self) {
        self.current.cancel();
    }

    /// Takes an order in, with what was shown with it if it is a saga's. `None` when the agent is stopping.
    pub async fn take(&self, json: Vec<u8>, evidence: Option<Evidence>) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        let evidence = evidence.map(Box::new);
        self.commands.send(Command::Take { json, evidence, reply }).await.ok()?;
        answer.await.ok()
    }

    /// The hub has kept a receipt.
    pub async fn acknowledge(&self, op_id: OpId, outcome: String) {
        // Without a listener the agent is stopping; the receipt is sent again after its next start.
        let _ = self.commands.send(Command::Acknowledge { op_id, outcome }).await;
    }

    /// What commands say while they run.
    #[must_use]
    pub const fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Changes whenever an operation moved.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.clone()
    }
}

/// Orders that are answered by what becomes of another one of the same key and intent. Bounded.
#[derive(Default)]
struct Aliases(Mutex<BTreeMap<OpId, Vec<Alias>>>);

/// An order in whose place another one is done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alias {
    op_id: OpId,
    payload_sha256: String,
}

impl Aliases {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OpId, Vec<Alias>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An order with its bytes.
#[derive(Debug, Clone)]
struct Op {
    order: Order,
    envelope: Envelope,
    /// The trust by which it was verified; `None` for one that was read from the journal.
    by: Option<Arc<Trust>>,
    op_id: uuid::Uuid,
    /// See [`Grant::bound`].
    bound: Option<String>,
}

impl Op {
    /// Reads an order that was verified, and judged to have its turn, when it was accepted.
    fn read(grant: &Grant) -> Result<Self, Fault> {
        let envelope = Envelope::from_json(grant.envelope.as_bytes())?;
        let statement = Signed::<OpStatement>::new(envelope.clone())?.peek()?;
        let act = statement.act()?;
        let order = Order { class: act.class(&statement.resource), intent: statement.intent()?, act, statement };
        Ok(Self { bound: grant.bound.clone(), ..Self::new(order, envelope, None)? })
    }

    fn new(order: Order, envelope: Envelope, by: Option<Arc<Trust>>) -> Result<Self, Fault> {
        let op_id = order.statement.op_id.as_str().parse();
        let op_id = op_id.map_err(|_| Fault::new(Code::BadEnvelope, "the operation's id is no UUID"))?;
        Ok(Self { order, envelope, by, op_id, bound: None })
    }

    fn resource(&self) -> &ResourceId {
        &self.order.statement.resource
    }

    /// Where it has its turn. A reset of the time touches no resource and waits for none: it may be what ends a doubt. Nor does a
    /// confirmation, whose time is short.
    fn lane(&self) -> ResourceId {
        match &self.order.act {
            Act::TimeReset => ResourceId::clock(),
            Act::Confirm(_) => ResourceId::trial(),
            Act::Start
            | Act::Stop { .. }
            | Act::Restart { .. }
            | Act::Kill { .. }
            | Act::Pause
            | Act::Unpause
            | Act::Exec(_)
            | Act::Pull
            | Act::Destroy { .. }
            | Act::Prune { .. }
            | Act::Converge(_)
            | Act::Release
            | Act::Survey(_)
            | Act::Guest(_)
            | Act::Cancel { .. }
            | Act::Resolve { .. } => self.resource().clone(),
        }
    }

    fn id(&self) -> &OpId {
        &self.order.statement.op_id
    }

    /// Which one alone is meant of those that have borne the resource's name: as it was signed, or as this host knows from the
    /// saga's step that made it.
    fn incarnation(&self) -> Option<&String> {
        self.bound.as_ref().or(self.order.statement.incarnation.as_ref())
    }

    fn entry(&self, state: State) -> Entry {
        Entry {
            kind: self.order.act.kind().into(),
            idempotency_key: self.order.statement.idempotency_key.to_string(),
            ..Entry::step(self.op_id, self.resource().clone(), "", state)
        }
    }
}

/// See the module.
pub struct Ops<D, J> {
    shared: Arc<Shared<D, J>>,
    commands: mpsc::Receiver<Command>,
}

/// What every operation under way needs.
struct Shared<D, J> {
    parts: Parts<D, J>,
    news: watch::Sender<u64>,
    aliases: Arc<Aliases>,
    outputs: Outputs,
    /// Indeterminate operations that hold their lanes until an operator has said how they ended.
    blocked: Mutex<BTreeMap<OpId, oneshot::Sender<()>>>,
    /// Operations that wait for their turns, to be told when they are taken back.
    waiting: Mutex<BTreeMap<OpId, CancellationToken>>,
    /// Operations that had not begun before this start, in their order: they take their places when the records are current,
    /// so that meanwhile nothing waits behind what may not begin.
    recovered: Mutex<Vec<Op>>,
    /// Operations whose acknowledgement is being recorded.
    acknowledging: Mutex<BTreeSet<OpId>>,
    running: TaskTracker,
    /// See [`Handle::records_are_current`].
    current: CancellationToken,
    /// No operation begins any more.
    stopping: CancellationToken,
    /// Nothing is recorded any more: the next start looks for evidence.
    over: CancellationToken,
}

impl<D: Driver, J: Journal> Ops<D, J> {
    /// Operations that have not been looked at since the start; see [`Self::recover`].
    #[must_use]
    pub fn new(parts: Parts<D, J>) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(OPS_QUEUE);
        let (news, news_rx) = watch::channel(0);
        let aliases = Arc::new(Aliases::default());
        let current = CancellationToken::new();
        let outputs = Outputs::default();
        let shared = Shared {
            parts,
            news,
            aliases: aliases.clone(),
            outputs: outputs.clone(),
            blocked: Mutex::default(),
            waiting: Mutex::default(),
            recovered: Mutex::default(),
            acknowledging: Mutex::default(),
            running: TaskTracker::new(),
            current: current.clone(),
            stopping: CancellationToken::new(),
            over: CancellationToken::new(),
        };
        (Self { shared: Arc::new(shared), commands }, Handle { commands: sender, news: news_rx, aliases, current, outputs })
    }

    /// Takes orders until `shutdown`, then lets what has begun end for a while. What waits goes on after the next start.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(Command::Take { json, evidence, reply }) => {
                        // One after the other: the order of acceptance is the order in the lanes.
                        // A journal that has failed lets it wait for the end. What is on record nevertheless the next start puts back.
                        let Some(answer) = shutdown.run_until_cancelled(self.shared.take(&json, evidence)).await else { break };
                        let _ = reply.send(answer);
                    }
                    Some(Command::Acknowledge { op_id, outcome }) => self.shared.acknowledge(&op_id, &outcome),
                    None => break,
                },
            }
        }
        self.shared.stopping.cancel();
        self.shared.running.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.shared.running.wait()).await.is_err() {
            tracing::warn!("operations still run; their evidence is looked for after the next start");
            self.shared.over.cancel();
            self.shared.running.wait().await;
        }
    }
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// Everyone who watches is told that something moved.
    fn tell(&self) {
        self.news.send_modify(|n| *n = n.wrapping_add(1));
    }

    async fn append(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        let result = self.parts.journal.append(entries).await;
        self.tell();
        result.map(drop)
    }

    /// Where an operation is; `None` once it has ended and that is acknowledged, or when nobody has heard of it.
    fn state(&self, op_id: &OpId) -> Option<State> {
        self.parts.journal.read(|book| book.ops().get(op_id.as_str()).map(|e| e.state()))
    }

    /// Takes the hub's word that it has kept a receipt, if that was how it ended.
    fn acknowledge(self: &Arc<Self>, op_id: &OpId, outcome: &str) {
        let found = self.parts.journal.read(|book| book.ops().get(op_id.as_str()).cloned());
        let Some(entry) = found.filter(|e| e.first.origin() == Origin::Operator && e.state().is_terminal()) else { return };
        if receipt::outcome(entry.state(), entry.last.fault.as_ref()).map(Outcome::as_str) != Some(outcome) {
            return;
        }
        let Ok(ended) = admit::entry_of(&entry, entry.state()) else { return };
        if !self.acknowledging().insert(op_id.clone()) {
            return;
        }
        crate::crash::point("op.ack.before");
        let told = self.parts.journal.append(vec![Entry { acknowledged: true, ..ended }]);
        let (shared, op_id) = (self.clone(), op_id.clone());
        self.running.spawn(async move {
            if let Err(error) = told.await {
                tracing::debug!(op = %op_id, %error, "an acknowledgement was not recorded; the receipt is sent again");
            }
            shared.acknowledging().remove(&op_id);
        });
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<OpId, CancellationToken>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recovered(&self) -> MutexGuard<'_, Vec<Op>> {
        self.recovered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledging(&self) -> MutexGuard<'_, BTreeSet<OpId>> {
        self.acknowledging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocked(&self) -> MutexGuard<'_, BTreeMap<OpId, oneshot::Sender<()>>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// An order's envelope, escaped inside of a record, fits into one line of the journal with room for the rest.
const _: () = assert!(2 * OP_ENVELOPE_MAX + 32 * 1024 <= crate::limits::JOURNAL_LINE_MAX);

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
