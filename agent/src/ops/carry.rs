//! One operation, from its place in the line to its `started` record.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::op::{Act, OpEntry, State};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::advance::Stage;
use super::call::{Begin, Refused, Since, may_mend, plain};
use super::{Op, Shared};
use crate::clock::Clock;
use crate::driver::{Driver, OpResult};
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::{Place, Seat, Turn};
use crate::limits::{ENGINE_RETRY, OP_EXPIRY_SLACK};
use crate::plant::planted;

/// How far an operation has come when its task begins.
pub(super) enum Came {
    /// Its acceptance is being recorded; the sender is dropped if that fails.
    New(oneshot::Receiver<()>),
    /// It is accepted, and had not begun before this start.
    Accepted,
    /// It had begun before this start, as its records say.
    Begun(Box<OpEntry>),
}

/// Whether an operation is on record, which may still be under way.
struct Acceptance(Option<oneshot::Receiver<()>>);

impl Acceptance {
    fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until that is known. Not to be asked again after `false`.
    async fn holds(&mut self) -> bool {
        let Some(recorded) = &mut self.0 else { return true };
        let holds = recorded.await.is_ok();
        self.0 = None;
        holds
    }
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// Waits for the turn of `op` and carries it out.
    pub(super) async fn carry(self: Arc<Self>, op: Op, mut place: Place, came: Came, taken_back: CancellationToken) {
        let (begun, mut acceptance) = match came {
            Came::New(recorded) => (None, Acceptance(Some(recorded))),
            Came::Accepted => (None, Acceptance(None)),
            Came::Begun(entry) => (Some(entry), Acceptance(None)),
        };
        let turn = loop {
            let wait = self.until_expiry(&op, begun.is_some()).await;
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = taken_back.cancelled() => return,
                turn = &mut place => match turn {
                    Some(turn) => break turn,
                    None => return,
                },
                holds = acceptance.holds(), if acceptance.is_open() => if !holds {
                    self.waiting().remove(op.id());
                    return;
                },
                doubtful = self.in_doubt_at_last(), if op.lane().is_host() && begun.is_none() && !acceptance.is_open() => {
                    let fault = Fault::new(Code::Busy, format!("{}; then sign it again", doubt_in_the_way(&doubtful)));
                    return self.leave_the_line(&op, fault).await;
                }
                // It is taken out of the line when its time is over, not when its turn comes.
                () = tokio::time::sleep(wait), if !acceptance.is_open() => {
                    if self.end_if_expired(&op).await {
                        return;
                    }
                }
            }
        };
        self.waiting().remove(op.id());
        let result = match begun {
            Some(entry) => self.carry_on(&op, &turn, &entry).await,
            None => self.begin(&op, &turn, acceptance).await,
        };
        self.outputs.ended(op.id());
        match result {
            // It was cancelled at the same moment: whoever is first in the journal is right.
            Ok(()) | Err(JournalError::Refused(_)) => {}
            Err(error) => {
                tracing::error!(op = %op.id(), %error, "an operation could not be recorded");
                // Its effect may be there: nothing else touches the resource before the next start.
                self.stopping.cancelled().await;
            }
        }
        // A look that begins before the turn is over would take the resource for worked on.
        drop(turn);
        self.parts.reconciler.look();
    }

    /// Waits until an operation is indeterminate, and tells which.
    async fn in_doubt_at_last(&self) -> String {
        let mut news = self.news.subscribe();
        loop {
            if let Some(doubtful) = self.in_doubt() {
                return doubtful;
            }
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) async fn until_expiry(&self, op: &Op, has_begun: bool) -> Duration {
        if has_begun {
            return Duration::MAX / 4;
        }
        let from = op.order.statement.not_before;
        let now = self.parts.gate.clocks().await.map_or_else(|_| Clock.wall(), |(clocks, _)| clocks.now(from));
        Duration::from_secs(op.order.statement.expires_at.0.saturating_sub(now.0)) + OP_EXPIRY_SLACK
    }

    /// Whether the time is over in which what speaks against an operation could be mended.
    pub(super) async fn is_over(&self, op: &Op, fault: &Fault) -> bool {
        may_mend(fault.code) && self.until_expiry(op, false).await <= OP_EXPIRY_SLACK
    }

    /// Whether the operation waits no longer.
    async fn end_if_expired(&self, op: &Op) -> bool {
        match self.parts.gate.recheck(&op.order, op.by.as_ref(), &op.envelope).await {
            // A wrong clock may be mended before the order's time is over.
            Err(fault) if !may_mend(fault.code) || self.is_over(op, &fault).await => {
                self.leave_the_line(op, fault).await;
                true
            }
            Ok(_) | Err(_) => self.state(op.id()) != Some(State::Queued),
        }
    }

    /// Ends an operation before its turn has come.
    async fn leave_the_line(&self, op: &Op, fault: Fault) {
        let refused = self.refuse(op, fault).await;
        self.waiting().remove(op.id());
        match refused {
            // What cannot follow was taken back at the same moment.
            Ok(()) | Err(JournalError::Refused(_)) => {}
            Err(error) => tracing::error!(op = %op.id(), %error, "the end of an operation could not be recorded"),
        }
    }

    /// Tells when an operation that waits is taken back.
    pub(super) fn waits(&self, op: &Op) -> CancellationToken {
        self.waiting().entry(op.id().clone()).or_default().clone()
    }

    /// Ends an operation that has not begun.
    async fn refuse(&self, op: &Op, fault: Fault) -> Result<(), JournalError> {
        tracing::info!(op = %op.id(), code = %fault.code, error = %fault.message, "an operation is not begun");
        let state = if fault.code == Code::Expired { State::Expired } else { State::Cancelled };
        crate::crash::point("op.refuse.before");
        self.record(Entry { fault: Some(fault), ..op.entry(state) }).await
    }

    /// Records what a lane waits for, however long a full queue takes.
    pub(super) async fn record(&self, entry: Entry) -> Result<(), JournalError> {
        loop {
            match self.append(vec![entry.clone()]).await {
                Err(JournalError::Busy) if !self.stopping.is_cancelled() => self.pause(ENGINE_RETRY.base).await,
                recorded => return recorded,
            }
        }
    }

    /// The turn of an operation that has not begun.
    async fn begin(self: &Arc<Self>, op: &Op, turn: &Turn, mut acceptance: Acceptance) -> Result<(), JournalError> {
        crate::crash::point("op.turn");
        let mut failures = 0_u32;
        let (begin, seat) = loop {
            let Some(seat) = self.seat(turn).await else { return Ok(()) };
            let prepared = self.prepare(op, &seat).await;
            if prepared.is_err() && !acceptance.holds().await {
                return Ok(());
            }
            match prepared {
                Ok(begin) => break (begin, seat),
                Err(Refused::ForGood(fault)) => return self.refuse(op, fault).await,
                Err(Refused::ForNow(fault)) if self.is_over(op, &fault).await => return self.refuse(op, fault).await,
                Err(Refused::ForNow(fault)) => {
                    tracing::warn!(op = %op.id(), error = %fault.message, "waits");
                    drop(seat);
                    failures = failures.saturating_add(1);
                    self.back_off(failures).await;
                }
            }
            if self.state(op.id()) != Some(State::Queued) {
                return Ok(());
            }
        };
        if self.stopping.is_cancelled() {
            return Ok(());
        }
        crate::crash::point("op.started.before");
        if !planted("effect before its record") {
            match self.record(started(op, &begin)).await {
                Err(error @ (JournalError::Full(_) | JournalError::TooLarge(_))) => {
                    return self.refuse(op, Fault::from(&error)).await;
                }
                recorded => recorded?,
            }
        }
        crate::crash::point("op.started.after");
        tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), "begins");
        let stage = if begin.is_late() { Stage::Doubt(None) } else { Stage::Start(seat) };
        self.advance(op, turn, begin, stage).await
    }

    /// An operation that had begun before this start.
    async fn carry_on(self: &Arc<Self>, op: &Op, turn: &Turn, entry: &OpEntry) -> Result<(), JournalError> {
        let started = entry.started.as_ref().unwrap_or(&entry.last);
        let evidence = started.params.get("evidence").cloned().unwrap_or_default();
        let order = self.order(op).await.unwrap_or_else(|_| plain(op));
        // A record that does not say it is from another version: counted from now, which errs on the safe side.
        let since = started.params.get("since").and_then(|since| Since::deserialize(since).ok()).unwrap_or_else(Since::now);
        let begin = Begin { order, evidence, hold: started.hold, since };
        crate::crash::point("op.carry-on");
        if entry.state() == State::Indeterminate {
            return self.wait_for_a_word(op).await;
        }
        self.advance(op, turn, begin, Stage::Doubt(entry.last.task.clone())).await
    }

    /// Room at the driver; `None` when the agent stops.
    pub(super) async fn seat(&self, turn: &Turn) -> Option<Seat> {
        self.stopping.run_until_cancelled(turn.seat()).await.filter(|_| !self.stopping.is_cancelled())
    }

    /// Waits the longer the more often something has failed, or less when the agent stops.
    pub(super) async fn back_off(&self, failures: u32) {
        self.pause(ENGINE_RETRY.wait(failures, getrandom::u64().unwrap_or(0))).await;
    }

    /// Waits, or less when the agent stops.
    pub(super) async fn pause(&self, wait: Duration) {
        self.stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
    }

    /// Whether what was accepted may still begin.
    pub(super) async fn recheck(&self, op: &Op) -> Result<(), Fault> {
        if planted("no recheck") {
            return Ok(());
        }
        self.parts.gate.recheck(&op.order, op.by.as_ref(), &op.envelope).await?;
        self.check_generation(&op.order.statement).await
    }

    /// Ends an operation about another one that was recorded without its last records.
    pub(super) async fn finish_about(&self, op: &Op, entry: &OpEntry) -> Result<(), JournalError> {
        let fault = Fault::new(Code::OpFailed, "the agent stopped before this was recorded; sign it again");
        if !entry.state().has_begun() {
            let end = Entry { fault: Some(Fault::new(Code::Busy, fault.message)), ..op.entry(State::Cancelled) };
            return self.append(vec![end]).await;
        }
        let (Act::Cancel { op_id } | Act::Resolve { op_id, .. }) = &op.order.act else { return Ok(()) };
        // Its own last record was torn off.
        let is_done = self.state(op_id).is_none_or(State::is_terminal);
        self.end(op, OpResult { fault: (!is_done).then_some(fault), result: Value::Null }).await
    }
}

/// What an operation for the whole host does not wait for: it would hold up all that comes after it.
pub(super) fn doubt_in_the_way(doubtful: &str) -> String {
    format!("operation {doubtful} is indeterminate, and what is for the whole host waits for all before it; resolve that one first")
}

/// The record that must be durable before the effect begins, with what is compared with after a crash.
pub(super) fn started(op: &Op, begin: &Begin) -> Entry {
    Entry { hold: begin.hold, params: json!({ "evidence": begin.evidence, "since": begin.since }), ..op.entry(State::Started) }
}
