//! An operation that has begun: from its `started` record to its end, through the engine's answers and, where there is none,
//! its evidence.

use std::sync::Arc;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::observe::Owner;
use moorline_common::op::{Act, GuestOp, State};
use moorline_common::plan::guest::{may_change_hidden, note_key};
use moorline_common::pve::{Vmid, incarnation};
use serde_json::Value;
use tokio::sync::oneshot;

use super::call::{Begin, Refused, Since, failed, is_own, may_mend};
use super::carry::started;
use super::{Op, Shared};
use crate::clock::Clock;
use crate::db::{DbError, blocking};
use crate::driver::{Begun, Driver, DriverErrorKind, Found, OpResult};
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::{Seat, Turn};
use crate::ledger::Ledger;
use crate::ledger::buried::Buried;
use crate::limits::EVIDENCE_LOOKS;
use crate::plant::planted;

/// Where an operation is between its beginning and its end.
pub(super) enum Stage {
    /// To be started, at the seat at which that was recorded: what waits for another one in between would begin past its last
    /// moment, and count as long begun after a crash.
    Start(Seat),
    /// The engine knows it by this name.
    Resume(String, Seat),
    /// Nobody knows whether it began, or how far it came.
    Doubt(Option<String>),
}

/// Where it goes next; `None` when its task is over.
type Next = Result<Option<Stage>, JournalError>;

/// How often something was tried in vain.
#[derive(Default)]
struct Tries {
    /// Looks in a row at an engine that could not be reached.
    unreachable: u32,
    /// Looks in a row that an engine answered with an error of its own.
    errors: u32,
    /// Beginnings that were put off, and tasks whose end was not heard.
    waits: u32,
    /// Beginnings.
    restarts: u32,
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// Goes on from `stage` to the end.
    pub(super) async fn advance(self: &Arc<Self>, op: &Op, turn: &Turn, mut begin: Begin, mut stage: Stage) -> Result<(), JournalError> {
        let mut tries = Tries::default();
        loop {
            let next = match stage {
                Stage::Start(seat) => self.set_off(op, &mut begin, seat).await?,
                Stage::Resume(task, seat) => match self.resume(&seat, &begin, &task).await {
                    Ok(Begun::Done(result)) => self.over(op, result).await?,
                    Ok(Begun::Task(next)) => self.go_on_as(op, next, seat).await?,
                    Err(error) if error.kind == DriverErrorKind::Unreachable => {
                        drop(seat);
                        self.wait_more(&mut tries.waits).await;
                        Some(Stage::Doubt(Some(task)))
                    }
                    Err(error) => self.over(op, failed(&error)).await?,
                },
                // The next start goes on.
                Stage::Doubt(_) if self.stopping.is_cancelled() => None,
                Stage::Doubt(task) => self.look(op, turn, &mut begin, &mut tries, task).await?,
            };
            let Some(next) = next else { return Ok(()) };
            stage = next;
        }
    }

    async fn set_off(self: &Arc<Self>, op: &Op, begin: &mut Begin, seat: Seat) -> Next {
        crate::crash::point("op.effect.before");
        let begun = self.start(op, &seat, begin).await;
        crate::crash::point("op.effect.after");
        match begun {
            Ok(Begun::Done(result)) => self.over(op, result).await,
            Ok(Begun::Task(task)) => self.go_on_as(op, task, seat).await,
            Err(error) if error.kind == DriverErrorKind::Unreachable => {
                // The request may lie with an engine that stands still, and be read when that goes on.
                begin.since = Since::now();
                Ok(Some(Stage::Doubt(None)))
            }
            Err(error) => self.over(op, failed(&error)).await,
        }
    }

    /// The engine knows it by this name, which is recorded before anything goes by it.
    async fn go_on_as(&self, op: &Op, task: String, seat: Seat) -> Next {
        crate::crash::point("op.task.before");
        self.record(Entry { task: Some(task.clone()), ..op.entry(State::TaskRunning) }).await?;
        crate::crash::point("op.task.after");
        Ok(Some(Stage::Resume(task, seat)))
    }

    /// Looks for what it left behind, and goes by that.
    async fn look(&self, op: &Op, turn: &Turn, begin: &mut Begin, tries: &mut Tries, task: Option<String>) -> Next {
        let found = self.look_for_evidence(op, turn, begin, task.as_deref()).await;
        let failed = found.as_ref().err().map(|e| e.kind);
        if failed != Some(DriverErrorKind::Unreachable) {
            tries.unreachable = 0;
        }
        if failed != Some(DriverErrorKind::Retryable) {
            tries.errors = 0;
        }
        match found {
            Ok(Found::Done(result)) => self.over(op, result).await,
            Ok(Found::Task(found)) => {
                crate::crash::point("op.found-task");
                if task.as_ref() != Some(&found) {
                    self.record(Entry { task: Some(found.clone()), ..op.entry(State::TaskRunning) }).await?;
                }
                Ok(self.seat(turn).await.map(|seat| Stage::Resume(found, seat)))
            }
            Ok(Found::Made(found)) => self.go_on_with(op, turn, tries, found, task).await,
            Ok(Found::Absent) if task.is_none() => self.begin_again(op, turn, begin, tries).await,
            Ok(Found::Absent) => self.lose(op, "the engine no longer knows its task").await.map(|()| None),
            Ok(Found::NotYet(wait)) => {
                self.pause(wait).await;
                Ok(Some(Stage::Doubt(task)))
            }
            Ok(Found::Unknown(looked)) => self.lose(op, &looked).await.map(|()| None),
            Err(error) if error.kind == DriverErrorKind::Unreachable => {
                self.wait_more(&mut tries.unreachable).await;
                // A request may have lain with an engine that stood still: it has its time from when that answers.
                if task.is_none() {
                    begin.since = Since::now();
                }
                Ok(Some(Stage::Doubt(task)))
            }
            // An engine that answers with an error this time may tell the next time.
            Err(error) if error.kind == DriverErrorKind::Retryable && tries.errors < EVIDENCE_LOOKS => {
                self.wait_more(&mut tries.errors).await;
                Ok(Some(Stage::Doubt(task)))
            }
            Err(error) => self.lose(op, &error.message).await.map(|()| None),
        }
    }

    async fn wait_more(&self, tries: &mut u32) {
        *tries = tries.saturating_add(1);
        self.back_off(*tries).await;
    }

    /// The engine knows it by its name, and has not begun it: it begins if it still may.
    async fn go_on_with(&self, op: &Op, turn: &Turn, tries: &mut Tries, found: String, task: Option<String>) -> Next {
        self.until_current(op).await;
        let Some(seat) = self.seat(turn).await else { return Ok(None) };
        match self.recheck(op).await.map_err(Refused::by) {
            Ok(()) => {
                crate::crash::point("op.found-made");
                Ok(Some(Stage::Resume(found, seat)))
            }
            Err(Refused::ForNow(fault)) if !self.is_over(op, &fault).await => {
                tracing::warn!(op = %op.id(), error = %fault.message, "waits to begin");
                drop(seat);
                self.wait_more(&mut tries.waits).await;
                Ok(Some(Stage::Doubt(task)))
            }
            Err(Refused::ForGood(fault) | Refused::ForNow(fault)) => self.too_late(op, &fault).await,
        }
    }

    /// It is proven not to have happened.
    async fn begin_again(&self, op: &Op, turn: &Turn, begin: &mut Begin, tries: &mut Tries) -> Next {
        self.until_current(op).await;
        self.back_off(tries.restarts).await;
        tries.restarts = tries.restarts.saturating_add(1);
        let Some(seat) = self.seat(turn).await else { return Ok(None) };
        match self.again(op, &seat, begin).await? {
            Ok(()) if begin.is_late() => Ok(Some(Stage::Doubt(None))),
            Ok(()) => Ok(Some(Stage::Start(seat))),
            Err(Refused::ForNow(fault)) if !self.is_over(op, &fault).await => {
                tracing::warn!(op = %op.id(), error = %fault.message, "waits to begin again");
                Ok(Some(Stage::Doubt(None)))
            }
            Err(Refused::ForGood(fault) | Refused::ForNow(fault)) => self.too_late(op, &fault).await,
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
                return Ok(Err(Refused::ForNow(Fault::from(&error))));
            }
            Err(error) => return Err(error),
        }
        crate::crash::point("op.again.after");
        Ok(Ok(()))
    }

    /// Waits until the hub has said that it has seen no more than the records tell (those of a snapshot would lead to a second
    /// time), or the operation's time is over.
    async fn until_current(&self, op: &Op) {
        while !self.current.is_cancelled() && !self.stopping.is_cancelled() {
            let wait = self.until_expiry(op, false).await;
            tokio::select! {
                () = self.current.cancelled() => {}
                () = self.stopping.cancelled() => {}
                () = tokio::time::sleep(wait) => if let Err(fault) = self.recheck(op).await
                    && (!may_mend(fault.code) || self.is_over(op, &fault).await)
                {
                    return;
                }
            }
        }
    }

    /// Its beginning was recorded, it was proven not to have happened, and it may not any more.
    async fn too_late(&self, op: &Op, fault: &Fault) -> Next {
        let may_be_repeated = matches!(op.order.act, Act::Prune { .. } | Act::Pull) || is_own(&op.order.act);
        let how = if may_be_repeated { "interrupted, and nobody knows how far it came" } else { "interrupted, and did not happen" };
        let message = format!("{how}: {}", fault.message);
        self.over(op, OpResult { fault: Some(Fault::new(fault.code, message)), result: Value::Null }).await
    }

    async fn over(&self, op: &Op, result: OpResult) -> Next {
        self.end(op, result).await.map(|()| None)
    }

    /// Records how it ended.
    pub(super) async fn end(&self, op: &Op, result: OpResult) -> Result<(), JournalError> {
        self.forget_hidden(op).await?;
        if let Some(fault) = result.fault.as_ref().filter(|f| f.code == Code::Indeterminate) {
            return self.lose(op, &fault.message).await;
        }
        let state = if result.fault.is_some() { State::Failed } else { State::Succeeded };
        if op.order.act == Act::TimeReset && state == State::Succeeded {
            self.parts.journal.set_time_floor(op.order.statement.not_before);
        }
        if state == State::Succeeded {
            self.bury(op).await?;
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

    /// Notes when a guest goes that was destroyed and is kept for a while.
    async fn bury(&self, op: &Op) -> Result<(), JournalError> {
        let Act::Guest(GuestOp::Destroy(destroy)) = &op.order.act else { return Ok(()) };
        let (Some(kept_s), Some(vmid)) = (destroy.kept_s(), Vmid::of(op.resource())) else { return Ok(()) };
        let Some(incarnation) = op.incarnation() else { return Ok(()) };
        let (lasting, op_id) = (incarnation::lasting(incarnation).to_owned(), op.id().clone());
        // It is stopped and protected already: it waits until that is noted, or for the next start.
        self.write(move |ledger| {
            let purge_at = ledger.time_floor()?.now(&Clock.boot()).plus(kept_s.into());
            ledger.bury(&Buried { vmid, lasting: lasting.clone(), op_id: op_id.clone(), purge_at })
        })
        .await
    }

    /// What a host does not show is compared with what was written last, which this may have changed.
    async fn forget_hidden(&self, op: &Op) -> Result<(), JournalError> {
        let Act::Guest(act) = &op.order.act else { return Ok(()) };
        let Some(vmid) = Vmid::of(op.resource()).filter(|_| may_change_hidden(act)) else { return Ok(()) };
        let (key, known) = (note_key(vmid), self.parts.driver.known());
        let Some(owner) = known.owner(&key).filter(|owner| owner.hidden.is_some()) else { return Ok(()) };
        let owner = Owner { hidden: None, ..owner };
        let (name, noted) = (key.clone(), owner.clone());
        self.write(move |ledger| ledger.note(&name, &noted)).await?;
        known.note(key, owner);
        Ok(())
    }

    /// Writes into the ledger, for as long as that takes.
    async fn write(&self, write: impl Fn(&Ledger) -> Result<(), DbError> + Clone + Send + 'static) -> Result<(), JournalError> {
        let mut failures = 0_u32;
        loop {
            let (ledger, write) = (self.parts.gate.ledger().clone(), write.clone());
            match blocking(move || write(&ledger)).await {
                Ok(()) => return Ok(()),
                Err(error) if self.stopping.is_cancelled() => return Err(JournalError::Failed(error.to_string())),
                Err(error) => {
                    tracing::error!(%error, "the ledger does not take what an operation has done");
                    failures = failures.saturating_add(1);
                    self.back_off(failures).await;
                }
            }
        }
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

    /// The same for one that was in doubt before this start.
    pub(super) async fn wait_for_a_word(&self, op: &Op) -> Result<(), JournalError> {
        let (wake, woken) = oneshot::channel();
        self.blocked().insert(op.id().clone(), wake);
        if self.state(op.id()) == Some(State::Indeterminate) {
            self.stopping.run_until_cancelled(woken).await;
        }
        Ok(())
    }
}
