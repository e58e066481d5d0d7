//! An order comes in: what it is about is known, or it is refused, or accepted and put in its lane.

use std::future::Future;
use std::sync::Arc;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{OpId, ResourceId};
use moorline_common::op::{Act, Ended, Grant, KeyUse, OpEntry, OpStatement, Origin, Outcome, Receipt, State};
use moorline_common::saga::Turn;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::Evidence;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::carry::{Came, doubt_in_the_way};
use super::receipt;
use super::{Alias, Answer, Op, Shared, saga};
use crate::driver::Driver;
use crate::intake::gate::read_envelope;
use crate::journal::{Entry, Head, Journal, JournalError};
use crate::lane::Place;
use crate::ledger::FloorState;
use crate::limits::{ALIASES_MAX, OPS_KEPT_MAX};
use crate::plant::planted;

/// Why an order that is new is not taken.
pub(super) enum No {
    /// To be recorded.
    ForGood(Fault),
    /// There is no room, in the lane or in the journal: nothing is kept.
    Unrecorded(Fault),
}

impl No {
    fn of(error: &JournalError) -> Self {
        let fault = Fault::from(error);
        // The operation that it is about moved at the same moment.
        if fault.code == Code::TooLate { No::ForGood(fault) } else { No::Unrecorded(fault) }
    }
}

/// How an order stands to those that were accepted before.
enum Before {
    /// It is one of them.
    Same,
    /// One with the same key and intent is under way.
    Under(OpId),
    /// One with the same key and intent has ended.
    Over(OpId, Ended),
    /// It is new.
    Not,
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// Takes an order in, with what was shown with it.
    pub(super) async fn take(self: &Arc<Self>, json: &[u8], evidence: Option<Box<Evidence>>) -> Answer {
        crate::crash::point("op.take");
        let envelope = match read_envelope(json) {
            Ok(envelope) => envelope,
            Err(fault) => return Answer::Refused(fault),
        };
        if let Some(op_id) = self.redelivered(&envelope) {
            return Answer::Known(op_id);
        }
        self.admit(envelope, evidence).await.unwrap_or_else(|fault| {
            tracing::warn!(code = %fault.code, error = %fault.message, "refused an order");
            Answer::Refused(fault)
        })
    }

    /// The id of the very same order, if it was accepted and is still of interest.
    fn redelivered(&self, envelope: &Envelope) -> Option<OpId> {
        let op_id = Signed::<OpStatement>::new(envelope.clone()).and_then(|signed| signed.peek()).ok()?.op_id;
        let accepted = self.parts.journal.read(|book| {
            let grant = book.ops().get(op_id.as_str()).and_then(|e| e.first.grant.as_ref());
            grant.map(|g| g.envelope.clone())
        })?;
        let accepted = Envelope::from_json(accepted.as_bytes()).ok()?;
        (accepted.payload == envelope.payload).then_some(op_id)
    }

    async fn admit(self: &Arc<Self>, envelope: Envelope, evidence: Option<Box<Evidence>>) -> Result<Answer, Fault> {
        // What was done is told for ever, also past its time: a refusal would say that it was not.
        let (order, by) = self.parts.gate.read(envelope.clone()).await?;
        let mut op = Op::new(order, envelope, Some(by))?;
        if let Some((other, ended)) = self.done_before(&op) {
            return Ok(Answer::Settled(Box::new(self.receipt_again(&op, other, ended))));
        }
        self.parts.gate.admit(&op.order).await?;
        if let Ok((clocks, _)) = self.parts.gate.clocks().await {
            self.parts.journal.set_time_floor(if planted("nonces by the wall clock") { clocks.wall } else { clocks.saved });
        }
        crate::crash::point("op.verified");
        loop {
            match self.before(&op)? {
                Before::Same => return Ok(Answer::Known(op.id().clone())),
                Before::Under(other) => {
                    if self.follow(&op, &other)? {
                        return Ok(Answer::Known(other));
                    }
                    // That one has ended at this very moment.
                }
                Before::Over(other, ended) => return Ok(Answer::Settled(Box::new(self.receipt_again(&op, other, ended)))),
                Before::Not => break,
            }
        }
        // Before all that refuses for good: whoever hands an order in before its turn gets no receipt of that, which would pass
        // for a failure. Orders are taken one after the other, so that nothing is accepted between this and its acceptance.
        match self.turn(&op, evidence)? {
            None => {}
            Some(Turn::Nothing) => return self.nothing(&op).await,
            Some(Turn::Go { incarnation }) => op.bound = incarnation,
        }
        if let Err(fault) = saga::check_bound(&op) {
            return self.refuse_for_good(&op, fault).await;
        }
        if let Err(fault) = self.check_generation(&op.order.statement).await.and_then(|()| self.parts.gate.allows(&op.order)) {
            return self.refuse_for_good(&op, fault).await;
        }
        let done = if let Act::Cancel { op_id } = &op.order.act {
            self.cancel(&op, op_id).await
        } else if let Act::Resolve { op_id, outcome } = &op.order.act {
            self.resolve(&op, op_id, *outcome).await
        } else {
            self.accept(&op).await
        };
        match done {
            Ok(()) => Ok(Answer::Known(op.id().clone())),
            Err(No::ForGood(fault)) => self.refuse_for_good(&op, fault).await,
            Err(No::Unrecorded(fault)) => Err(fault),
        }
    }

    /// Refuses an order that was verified and is new: recorded with its nonce, so that these bytes are never taken again and
    /// what the receipt says stays true.
    async fn refuse_for_good(&self, op: &Op, fault: Fault) -> Result<Answer, Fault> {
        tracing::warn!(op = %op.id(), code = %fault.code, error = %fault.message, "refused an order for good");
        let mut entries = accepted(op);
        entries.push(Entry { fault: Some(Fault::new(fault.code, cut(&fault.message))), ..op.entry(State::Cancelled) });
        crate::crash::point("op.refuse-for-good");
        match self.promise(self.parts.journal.append(entries)).await {
            Ok(()) => Ok(Answer::Known(op.id().clone())),
            Err(No::ForGood(error) | No::Unrecorded(error)) => {
                tracing::warn!(op = %op.id(), %error, "the refusal could not be recorded");
                Err(fault)
            }
        }
    }

    /// The end of this order, or of one of the same key and intent, if it has come.
    fn done_before(&self, op: &Op) -> Option<(OpId, Ended)> {
        self.parts.journal.read(|book| {
            let key = book.key(op.order.statement.idempotency_key.as_str()).filter(|key| key.intent == op.order.intent)?;
            let is_told = !book.ops().contains_key(&key.op_id);
            Some((OpId::parse(key.op_id.as_str()).ok()?, key.ended.clone().filter(|_| is_told)?))
                .filter(|_| !planted("no dedupe") && (!planted("dedupe by op id") || key.op_id == op.id().as_str()))
        })
    }

    fn before(&self, op: &Op) -> Result<Before, Fault> {
        let statement = &op.order.statement;
        self.parts.journal.read(|book| {
            let key = book.key(statement.idempotency_key.as_str());
            let key = key.filter(|key| !planted("dedupe by op id") || key.op_id == statement.op_id.as_str());
            match key.filter(|_| !planted("no dedupe")) {
                Some(KeyUse { intent, op_id, .. }) if *intent != op.order.intent && !planted("any intent") => {
                    let what =
                        format!("the idempotency key `{}` belongs to operation {op_id}, which is another order", statement.idempotency_key);
                    return Err(Fault::new(Code::Conflict, what));
                }
                Some(KeyUse { op_id, .. }) if *op_id == statement.op_id.as_str() && book.ops().contains_key(op_id) => {
                    return Ok(Before::Same);
                }
                Some(KeyUse { op_id, ended, .. }) => {
                    let other = OpId::parse(op_id.as_str()).map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
                    return Ok(match ended {
                        Some(ended) => Before::Over(other, ended.clone()),
                        None => Before::Under(other),
                    });
                }
                None => {}
            }
            if book.knows_nonce(statement.nonce.as_str()) {
                return Err(Fault::new(Code::NonceUsed, "an order with this nonce was accepted before; sign it again"));
            }
            if book.ops().contains_key(statement.op_id.as_str()) {
                return Err(Fault::new(Code::Conflict, format!("operation {} was accepted with other content before", statement.op_id)));
            }
            let kept = book.ops().values().filter(|e| e.first.origin() == Origin::Operator).count();
            // What mends that is always taken.
            let limit = if op.order.act.takes_a_lane() { OPS_KEPT_MAX } else { 2 * OPS_KEPT_MAX };
            if kept >= limit {
                return Err(Fault::new(
                    Code::Busy,
                    format!("{kept} operations wait, run, or have ended unheard by the hub; try again later"),
                ));
            }
            Ok(Before::Not)
        })
    }

    /// The order gets the answer of another one, if that is still to be told.
    fn follow(&self, op: &Op, other: &OpId) -> Result<bool, Fault> {
        let alias = Alias { op_id: op.id().clone(), payload_sha256: op.envelope.payload_sha256() };
        let mut aliases = self.aliases.lock();
        if aliases.values().map(Vec::len).sum::<usize>() >= ALIASES_MAX {
            return Err(Fault::new(Code::Busy, "too many repeated orders wait for their first one; try again later"));
        }
        let followers = aliases.entry(other.clone()).or_default();
        if !followers.contains(&alias) {
            followers.push(alias);
        }
        let is_kept = self.state(other).is_some();
        if !is_kept {
            aliases.remove(other);
        }
        Ok(is_kept)
    }

    fn receipt_again(&self, op: &Op, other: OpId, ended: Ended) -> Receipt {
        let (own, statement) = (self.parts.gate.own(), &op.order.statement);
        Receipt {
            cluster: statement.cluster.clone(),
            host_id: own.host_id.clone(),
            host_epoch: own.epoch.clone(),
            op_id: statement.op_id.clone(),
            payload_sha256: op.envelope.payload_sha256(),
            same_as: Some(other).filter(|other| other != op.id()),
            resource: statement.resource.clone(),
            kind: statement.kind.clone(),
            outcome: receipt::outcome(ended.state, None).unwrap_or(Outcome::Failed),
            at: ended.at,
            fault: ended.fault,
            result: ended.result,
            journal_seq: 0,
        }
    }

    /// Whether the host has accepted the generation that the order asks for.
    pub(super) async fn check_generation(&self, statement: &OpStatement) -> Result<(), Fault> {
        let Some(wanted) = statement.precondition.as_ref().and_then(|p| p.generation) else { return Ok(()) };
        let accepted = match self.parts.gate.target().desired {
            Some(desired) => Some(desired.accepted),
            // After a start the slice comes again; which one was accepted is known before.
            None => self.accepted_floor().await?.filter(|floor| floor.state == FloorState::Active).map(|floor| floor.generation),
        };
        if accepted == Some(wanted) || planted("no precondition") {
            return Ok(());
        }
        let has = accepted.map_or("enforces none".to_owned(), |g| format!("has accepted {g}"));
        Err(Fault::new(Code::PreconditionFailed, format!("the order is for generation {wanted}; this host {has}")))
    }

    async fn accept(self: &Arc<Self>, op: &Op) -> Result<(), No> {
        if !super::call::is_own(&op.order.act) && !self.parts.driver.capabilities().contains(&op.order.act.kind()) {
            let what = format!("the {} driver of this host does no `{}`", self.parts.driver.name(), op.order.act.kind());
            return Err(No::ForGood(Fault::new(Code::UnknownKind, what)));
        }
        if let Some(doubtful) = op.lane().is_host().then(|| self.in_doubt()).flatten() {
            return Err(No::Unrecorded(Fault::new(Code::Busy, doubt_in_the_way(&doubtful))));
        }
        self.place_recovered();
        // The place comes first: what is full says so before anything is promised.
        let place = self.parts.lanes.place(&op.lane()).map_err(|busy| No::Unrecorded(Fault::new(Code::Busy, busy.to_string())))?;
        crate::crash::point("op.accept.before");
        let recorded = self.parts.journal.append(accepted(op));
        // Its first steps do not wait for the disk: what they record comes after its acceptance, and is nothing without that.
        let (is_accepted, acceptance) = oneshot::channel();
        let task = self.spawn(op.clone(), place, Came::New(acceptance));
        if let Err(no) = self.promise(recorded).await {
            // Gone before anybody hears of the refusal: it holds no lane, and does not begin under a later acceptance.
            task.abort();
            let _ = task.await;
            self.waiting().remove(op.id());
            return Err(no);
        }
        // One that was taken back meanwhile does not listen.
        let _ = is_accepted.send(());
        crate::crash::point("op.accept.after");
        tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), class = %op.order.class, "accepted an order");
        Ok(())
    }

    /// Records what is answered for. After a failed write nobody knows whether the next start finds the record: a refusal
    /// could be wrong, so there is no answer, and the agent is about to stop.
    pub(super) async fn promise(&self, recorded: impl Future<Output = Result<Head, JournalError>>) -> Result<(), No> {
        let recorded = recorded.await;
        self.tell();
        match recorded {
            Err(JournalError::Failed(_)) => std::future::pending().await,
            recorded => recorded.map(drop).map_err(|e| No::of(&e)),
        }
    }

    /// An operation that holds its lane until an operator has spoken.
    pub(super) fn in_doubt(&self) -> Option<String> {
        let is_doubtful = |e: &&OpEntry| e.state() == State::Indeterminate;
        self.parts.journal.read(|book| book.open().find(is_doubtful).map(|e| e.first.op_id.clone()))
    }

    /// Lets an operation wait for its turn, and carries it out.
    pub(super) fn spawn(self: &Arc<Self>, op: Op, place: Place, came: Came) -> JoinHandle<Option<()>> {
        let (shared, over, taken_back) = (self.clone(), self.over.clone(), self.waits(&op));
        self.running.spawn(async move { over.run_until_cancelled(shared.carry(op, place, came, taken_back)).await })
    }

    /// Takes back an operation that has not begun. All in one append: it is recorded whole or not at all.
    async fn cancel(&self, op: &Op, target: &OpId) -> Result<(), No> {
        let aimed = self.aimed_at(op, target).map_err(No::ForGood)?;
        if !matches!(aimed.state(), State::Accepted | State::Queued) {
            return Err(No::ForGood(too_late(target, aimed.state(), "it can no longer be cancelled")));
        }
        let fault = Fault::new(Code::Cancelled, format!("taken back by operation {}", op.id()));
        let end = Entry { fault: Some(fault), ..entry_of(&aimed, State::Cancelled).map_err(No::ForGood)? };
        self.about(op, end).await?;
        if let Some(waiting) = self.waiting().remove(target) {
            waiting.cancel();
        }
        Ok(())
    }

    /// Takes an operator's word on how an indeterminate operation ended.
    async fn resolve(&self, op: &Op, target: &OpId, outcome: State) -> Result<(), No> {
        let aimed = self.aimed_at(op, target).map_err(No::ForGood)?;
        if aimed.state() != State::Indeterminate {
            return Err(No::ForGood(too_late(target, aimed.state(), "only what is indeterminate is resolved")));
        }
        let fault = (outcome == State::Failed)
            .then(|| Fault::new(Code::OpFailed, format!("an operator found that it had not been done (operation {})", op.id())));
        let end = Entry { fault, result: json!({ "resolved_by": op.id() }), ..entry_of(&aimed, outcome).map_err(No::ForGood)? };
        self.about(op, end).await?;
        if let Some(wake) = self.blocked().remove(target) {
            // Its lane may be gone with a panic; then nobody waits.
            let _ = wake.send(());
        }
        self.parts.reconciler.look();
        Ok(())
    }

    /// Records an operation about another one, with what it means for that.
    async fn about(&self, op: &Op, end: Entry) -> Result<(), No> {
        let mut entries = accepted(op);
        entries.extend([op.entry(State::Started), end, op.entry(State::Succeeded)]);
        crate::crash::point("op.about.before");
        self.promise(self.parts.journal.append(entries)).await?;
        crate::crash::point("op.about.after");
        tracing::info!(op = %op.id(), kind = op.order.act.kind(), "done");
        Ok(())
    }

    fn aimed_at(&self, op: &Op, target: &OpId) -> Result<OpEntry, Fault> {
        let found = self.parts.journal.read(|book| match book.ops().get(target.as_str()) {
            Some(entry) => Ok(entry.clone()),
            None => Err(book.ended(target.as_str()).map(|ended| ended.state)),
        });
        let entry = match found {
            Ok(entry) if entry.first.origin() == Origin::Operator => entry,
            Err(Some(state)) => return Err(too_late(target, state, "nothing about it can be changed")),
            Ok(_) | Err(None) => {
                let what = format!("this host knows of no operation {target}, or only that it ended before it began");
                return Err(Fault::new(Code::NotFound, what));
            }
        };
        if entry.first.resource != op.resource().as_str() {
            return Err(Fault::new(Code::BadParams, format!("operation {target} is about {}", entry.first.resource)));
        }
        Ok(entry)
    }
}

/// The records of acceptance: kept, and in its lane.
pub(super) fn accepted(op: &Op) -> Vec<Entry> {
    let statement = &op.order.statement;
    let grant = Grant {
        // JSON is text.
        envelope: String::from_utf8_lossy(&op.envelope.to_json()).into_owned(),
        intent: op.order.intent.clone(),
        nonce: statement.nonce.to_string(),
        nonce_until: statement.nonce_until(),
        bound: op.bound.clone(),
        nothing: false,
    };
    let first = Entry { grant: Some(grant), params: op.order.act.params(), ..op.entry(State::Accepted) };
    vec![first, op.entry(State::Queued)]
}

/// An entry about an operation as its first record names it, whether this agent can read its order or not.
pub(super) fn entry_of(entry: &OpEntry, state: State) -> Result<Entry, Fault> {
    let first = &entry.first;
    let broken =
        |what: &str, why: String| Fault::new(Code::Internal, format!("the {what} of operation {} cannot be read: {why}", first.op_id));
    let op_id = first.op_id.parse().map_err(|e: uuid::Error| broken("id", e.to_string()))?;
    let resource = ResourceId::parse(first.resource.as_str()).map_err(|e| broken("resource", e.to_string()))?;
    let idempotency_key = first.idempotency_key.clone();
    Ok(Entry { kind: first.kind.clone().into(), idempotency_key, ..Entry::step(op_id, resource, "", state) })
}

fn too_late(target: &OpId, state: State, what: &str) -> Fault {
    Fault::new(Code::TooLate, format!("operation {target} is {state}: {what}"))
}
