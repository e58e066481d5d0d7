//! One operation, from its turn to its end.
//!
//! ```text
//! turn → checked again → prepared → `started` durable → begun ─┬─ done → its end durable → the next one's turn
//!                                        ▲                     ├─ task: its name durable → resumed ─┘
//!                                        └── proven absent ── in doubt ──► indeterminate: holds its lane
//! ```

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::op::{Act, OpEntry, State};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::call::{Begin, Refused, Since, failed, is_own, may_mend, plain};
use super::{Op, Shared};
use crate::clock::Clock;
use crate::driver::{Begun, Driver, DriverErrorKind, Found, OpResult};
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::{Place, Seat, Turn};
use crate::limits::{ENGINE_RETRY, OP_EXPIRY_SLACK};
use crate::plant::planted;

/// Where an operation is between its beginning and its end.
enum Stage {
    /// To be started, at the seat at which that was recorded: what waits for another one in between would begin past its last
    /// moment, and count as long begun after a crash.
    Start(Seat),
    /// The engine knows it by this name.
    Resume(String, Seat),
    /// Nobody knows whether it began, or how far it came.
    Doubt(Option<String>),
}

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
    pub(super) async fn carry(self: Arc<Self>, op: Op, mut place: Place, came: Came) {
        let (begun, mut acceptance) = match came {
            Came::New(recorded) => (None, Acceptance(Some(recorded))),
            Came::Accepted => (None, Acceptance(None)),
            Came::Begun(entry) => (Some(entry), Acceptance(None)),
        };
        let taken_back = self.waits(&op);
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

    async fn until_expiry(&self, op: &Op, has_begun: bool) -> Duration {
        if has_begun {
            return Duration::MAX / 4;
        }
        let now = self.parts.gate.clocks().await.map_or_else(|_| Clock.wall(), |(clocks, _)| clocks.wall.max(clocks.floor));
        Duration::from_secs(op.order.statement.expires_at.0.saturating_sub(now.0)) + OP_EXPIRY_SLACK
    }

    /// Whether the operation waits no longer.
    async fn end_if_expired(&self, op: &Op) -> bool {
        let refused = match self.parts.gate.recheck(&op.order, op.by.as_ref(), &op.envelope).await {
            // A wrong clock may be mended before the order's time is over.
            Err(fault) if !may_mend(fault.code) => self.refuse(op, fault).await,
            Ok(_) | Err(_) => return self.state(op.id()) != Some(State::Queued),
        };
        self.waiting().remove(op.id());
        // What cannot follow was taken back at the same moment.
        matches!(refused, Ok(()) | Err(JournalError::Refused(_)))
    }

    /// Tells when an operation that waits is taken back.
    fn waits(&self, op: &Op) -> CancellationToken {
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
    async fn record(&self, entry: Entry) -> Result<(), JournalError> {
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
                Err(Refused::ForNow(fault)) if may_mend(fault.code) && self.until_expiry(op, false).await <= OP_EXPIRY_SLACK => {
                    return self.refuse(op, fault).await;
                }
                Err(Refused::ForNow(fault)) => {
                    tracing::warn!(op = %op.id(), error = %fault.message, "waits");
                    drop(seat);
                    failures = failures.saturating_add(1);
                    self.pause(ENGINE_RETRY.wait(failures, getrandom::u64().unwrap_or(0))).await;
                }
            }
            if self.state(op.id()) != Some(State::Queued) {
                return Ok(());
            }
        };
        // Time has passed with the engine.
        if let Err(fault) = self.recheck(op).await {
            return self.refuse(op, fault).await;
        }
        if self.stopping.is_cancelled() {
            return Ok(());
        }
        crate::crash::point("op.started.before");
        if !planted("effect before its record") {
            match self.record(started(op, &begin)).await {
                Err(error @ (JournalError::Full(_) | JournalError::TooLarge(_))) => {
                    return self.refuse(op, super::admit::refusal(&error)).await;
                }
                recorded => recorded?,
            }
        }
        crate::crash::point("op.started.after");
        tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), "begins");
        self.advance(op, turn, begin, Stage::Start(seat)).await
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

    async fn advance(self: &Arc<Self>, op: &Op, turn: &Turn, mut begin: Begin, mut stage: Stage) -> Result<(), JournalError> {
        let (mut failures, mut restarts) = (0_u32, 0_u32);
        loop {
            let doubt = Stage::Doubt;
            if self.stopping.is_cancelled() && matches!(stage, Stage::Doubt(_)) {
                // The next start goes on.
                return Ok(());
            }
            stage = match stage {
                Stage::Start(seat) => {
                    crate::crash::point("op.effect.before");
                    let begun = self.start(op, &seat, &begin).await;
                    crate::crash::point("op.effect.after");
                    match begun {
                        Ok(Begun::Done(result)) => return self.end(op, result).await,
                        Ok(Begun::Task(task)) => {
                            crate::crash::point("op.task.before");
                            self.record(Entry { task: Some(task.clone()), ..op.entry(State::TaskRunning) }).await?;
                            crate::crash::point("op.task.after");
                            Stage::Resume(task, seat)
                        }
                        Err(error) if error.kind == DriverErrorKind::Unreachable => {
                            // The request may lie with an engine that stands still, and be read when that goes on.
                            begin.since = Since::now();
                            doubt(None)
                        }
                        Err(error) => return self.end(op, failed(&error)).await,
                    }
                }
                Stage::Resume(task, seat) => match self.resume(&seat, &begin, &task).await {
                    Ok(result) => return self.end(op, result).await,
                    Err(error) if error.kind == DriverErrorKind::Unreachable => doubt(Some(task)),
                    Err(error) => return self.end(op, failed(&error)).await,
                },
                Stage::Doubt(task) => match self.look_for_evidence(op, turn, &begin, task.as_deref()).await {
                    Ok(Found::Done(result)) => return self.end(op, result).await,
                    Ok(Found::Task(found)) => {
                        crate::crash::point("op.found-task");
                        if task.as_ref() != Some(&found) {
                            self.record(Entry { task: Some(found.clone()), ..op.entry(State::TaskRunning) }).await?;
                        }
                        let Some(seat) = self.seat(turn).await else { return Ok(()) };
                        Stage::Resume(found, seat)
                    }
                    Ok(Found::Made(found)) => {
                        let Some(seat) = self.seat(turn).await else { return Ok(()) };
                        if let Err(fault) = self.recheck(op).await {
                            return self.too_late(op, &fault).await;
                        }
                        crate::crash::point("op.found-made");
                        Stage::Resume(found, seat)
                    }
                    Ok(Found::Absent) if task.is_none() => {
                        self.until_current(op).await;
                        self.pause(ENGINE_RETRY.wait(restarts, getrandom::u64().unwrap_or(0))).await;
                        restarts = restarts.saturating_add(1);
                        let Some(seat) = self.seat(turn).await else { return Ok(()) };
                        match self.again(op, &seat, &mut begin).await? {
                            Ok(()) => Stage::Start(seat),
                            Err(Refused::ForGood(fault)) => return self.too_late(op, &fault).await,
                            Err(Refused::ForNow(fault))
                                if may_mend(fault.code) && self.until_expiry(op, false).await <= OP_EXPIRY_SLACK =>
                            {
                                return self.too_late(op, &fault).await;
                            }
                            Err(Refused::ForNow(fault)) => {
                                tracing::warn!(op = %op.id(), error = %fault.message, "waits to begin again");
                                doubt(None)
                            }
                        }
                    }
                    Ok(Found::Absent) => return self.lose(op, "the engine no longer knows its task").await,
                    Ok(Found::NotYet(wait)) => {
                        self.pause(wait).await;
                        doubt(task)
                    }
                    Ok(Found::Unknown(looked)) => return self.lose(op, &looked).await,
                    Err(error) if error.kind == DriverErrorKind::Unreachable => {
                        failures = failures.saturating_add(1);
                        self.pause(ENGINE_RETRY.wait(failures, getrandom::u64().unwrap_or(0))).await;
                        // A request may have lain with an engine that stood still: it has its time from when that answers.
                        if task.is_none() {
                            begin.since = Since::now();
                        }
                        doubt(task)
                    }
                    Err(error) => return self.lose(op, &error.message).await,
                },
            };
        }
    }

    /// Records that it begins again: what it was to do is proven not to have happened, and everything that spoke for it is
    /// looked at anew.
    async fn again(&self, op: &Op, seat: &Seat, begin: &mut Begin) -> Result<Result<(), Refused>, JournalError> {
        tracing::info!(op = %op.id(), "it did not happen; it begins again");
        crate::crash::point("op.again.before");
        let hold = begin.hold;
        *begin = match self.prepare(op, seat).await {
            Ok(anew) => Begin { hold, ..anew },
            Err(refused) => return Ok(Err(refused)),
        };
        match self.record(started(op, begin)).await {
            Ok(()) => {}
            Err(error @ (JournalError::Full(_) | JournalError::Busy)) => {
                return Ok(Err(Refused::ForNow(super::admit::refusal(&error))));
            }
            Err(error) => return Err(error),
        }
        // What the engine may still be doing counts from here.
        begin.since = Since::now();
        crate::crash::point("op.again.after");
        Ok(Ok(()))
    }

    /// Room at the driver; `None` when the agent stops.
    async fn seat(&self, turn: &Turn) -> Option<Seat> {
        self.stopping.run_until_cancelled(turn.seat()).await.filter(|_| !self.stopping.is_cancelled())
    }

    /// Waits until the hub has said that it has seen no more than the records tell (those of a snapshot would lead to a second
    /// time), or the operation's time is over.
    async fn until_current(&self, op: &Op) {
        while !self.current.is_cancelled() && !self.stopping.is_cancelled() {
            let wait = self.until_expiry(op, false).await;
            tokio::select! {
                () = self.current.cancelled() => {}
                () = self.stopping.cancelled() => {}
                () = tokio::time::sleep(wait) => if self.recheck(op).await.is_err_and(|fault| !may_mend(fault.code)) {
                    return;
                }
            }
        }
    }

    /// Waits, or less when the agent stops.
    async fn pause(&self, wait: Duration) {
        self.stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
    }

    /// Its beginning was recorded, it was proven not to have happened, and it may not any more.
    async fn too_late(&self, op: &Op, fault: &Fault) -> Result<(), JournalError> {
        let may_be_repeated = matches!(op.order.act, Act::Prune { .. } | Act::Pull) || is_own(&op.order.act);
        let how = if may_be_repeated { "interrupted, and nobody knows how far it came" } else { "interrupted, and did not happen" };
        let message = format!("{how}: {}", fault.message);
        self.end(op, OpResult { fault: Some(Fault::new(fault.code, message)), result: Value::Null }).await
    }

    async fn end(&self, op: &Op, result: OpResult) -> Result<(), JournalError> {
        if let Some(fault) = result.fault.as_ref().filter(|f| f.code == Code::Indeterminate) {
            return self.lose(op, &fault.message).await;
        }
        let state = if result.fault.is_some() { State::Failed } else { State::Succeeded };
        if op.order.act == Act::TimeReset && state == State::Succeeded {
            self.parts.journal.set_time_floor(op.order.statement.not_before);
        }
        crate::crash::point("op.end.before");
        let fault = result.fault.map(|f| Fault::new(f.code, cut(&f.message)));
        if planted("end without a record") {
            return Ok(());
        }
        let ended = Entry { fault, result: result.result, ..op.entry(state) };
        match self.record(ended.clone()).await {
            Err(JournalError::TooLarge(_)) => self.record(Entry { result: Value::Null, ..ended }).await?,
            recorded => recorded?,
        }
        crate::crash::point("op.end.after");
        tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), %state, "ended");
        Ok(())
    }

    /// Nothing proves how it ended: its lane stops until an operator has looked.
    async fn lose(&self, op: &Op, looked: &str) -> Result<(), JournalError> {
        tracing::error!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), looked, "indeterminate");
        let fault = Fault::new(Code::Indeterminate, cut(looked));
        let (wake, woken) = oneshot::channel();
        // Before it can be resolved.
        self.blocked().insert(op.id().clone(), wake);
        crate::crash::point("op.lost.before");
        self.record(Entry { fault: Some(fault), ..op.entry(State::Indeterminate) }).await?;
        crate::crash::point("op.lost.after");
        if !planted("doubt frees the lane") {
            self.stopping.run_until_cancelled(woken).await;
        }
        Ok(())
    }

    async fn wait_for_a_word(&self, op: &Op) -> Result<(), JournalError> {
        let (wake, woken) = oneshot::channel();
        self.blocked().insert(op.id().clone(), wake);
        if self.state(op.id()) == Some(State::Indeterminate) {
            self.stopping.run_until_cancelled(woken).await;
        }
        Ok(())
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

/// The record that must be durable before the effect begins, with what is compared with after a crash.
fn started(op: &Op, begin: &Begin) -> Entry {
    Entry { hold: begin.hold, params: json!({ "evidence": begin.evidence, "since": begin.since }), ..op.entry(State::Started) }
}
