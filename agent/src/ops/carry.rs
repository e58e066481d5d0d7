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
use moorline_common::id::Generation;
use moorline_common::op::{Act, HoldEffect, OpEntry, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Op, Shared};
use crate::clock::{BootTime, Clock};
use crate::db::blocking;
use crate::driver::{Begun, Driver, DriverError, DriverErrorKind, Found, OpOrder, OpResult};
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::{Place, Turn, within};
use crate::limits::{ENGINE_RETRY, OP_CALL_TIMEOUT, OP_EXPIRY_SLACK};
use crate::plant::planted;

/// What an operation begins with, kept in its `started` record.
struct Begin {
    order: OpOrder,
    evidence: Value,
    hold: Option<HoldEffect>,
    since: Since,
}

/// When an operation began, by the kernel's own time: the wall clock may be set while its request is still with the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Since {
    boot_id: String,
    uptime_s: u64,
}

impl Since {
    fn now() -> Self {
        let BootTime { boot_id, uptime_s, .. } = Clock.boot();
        Self { boot_id, uptime_s }
    }

    /// How long ago that was. No request outlives the machine's boot.
    fn age(&self) -> Duration {
        let now = Self::now();
        if now.boot_id == self.boot_id && !planted("no margin") {
            Duration::from_secs(now.uptime_s.saturating_sub(self.uptime_s))
        } else {
            Duration::MAX
        }
    }
}

/// Where an operation is between its beginning and its end.
enum Stage {
    /// To be started.
    Start,
    /// The engine knows it by this name.
    Resume(String),
    /// Nobody knows whether it began, or how far it came.
    Doubt(Option<String>),
}

/// Done above the driver.
pub(super) const fn is_own(act: &Act) -> bool {
    matches!(act, Act::Converge | Act::Release | Act::TimeReset | Act::Cancel { .. } | Act::Resolve { .. })
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// Waits for the turn of `op` and carries it out.
    pub(super) async fn carry(self: Arc<Self>, op: Op, mut place: Place, begun: Option<OpEntry>) {
        let turn = loop {
            let wait = self.until_expiry(&op, begun.is_some()).await;
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                turn = &mut place => match turn {
                    Some(turn) => break turn,
                    None => return,
                },
                // It is taken out of the line when its time is over, not when its turn comes.
                () = tokio::time::sleep(wait) => {
                    if self.end_if_expired(&op).await {
                        return;
                    }
                }
            }
        };
        let result = match begun {
            Some(entry) => self.carry_on(&op, &turn, &entry).await,
            None => self.begin(&op, &turn).await,
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
        self.parts.reconciler.look();
        drop(turn);
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
        match self.parts.gate.recheck(op.envelope.clone()).await {
            Err(fault) if fault.code == Code::Expired => self.refuse(op, fault).await.is_ok(),
            Ok(_) | Err(_) => false,
        }
    }

    /// Ends an operation that has not begun.
    async fn refuse(&self, op: &Op, fault: Fault) -> Result<(), JournalError> {
        tracing::info!(op = %op.id(), code = %fault.code, error = %fault.message, "an operation is not begun");
        let state = if fault.code == Code::Expired { State::Expired } else { State::Cancelled };
        crate::crash::point("op.refuse.before");
        self.append(vec![Entry { fault: Some(fault), ..op.entry(state) }]).await
    }

    /// The turn of an operation that has not begun.
    async fn begin(&self, op: &Op, turn: &Turn) -> Result<(), JournalError> {
        crate::crash::point("op.turn");
        let mut failures = 0_u32;
        let begin = loop {
            match self.prepare(op, turn).await {
                Ok(begin) => break begin,
                Err(Refused::ForGood(fault)) => return self.refuse(op, fault).await,
                Err(Refused::ForNow(fault)) => {
                    tracing::warn!(op = %op.id(), error = %fault.message, "waits for the engine");
                    failures = failures.saturating_add(1);
                    self.pause(ENGINE_RETRY.wait(failures, getrandom::u64().unwrap_or(0))).await;
                }
            }
            if self.stopping.is_cancelled() || self.state(op.id()) != Some(State::Queued) {
                return Ok(());
            }
        };
        if self.stopping.is_cancelled() {
            return Ok(());
        }
        crate::crash::point("op.started.before");
        let record = if planted("effect before its record") { Vec::new() } else { vec![started(op, &begin)] };
        match self.append(record).await {
            Err(error @ (JournalError::Full(_) | JournalError::Busy)) => {
                let code = if matches!(error, JournalError::Full(_)) { Code::DiskFull } else { Code::Busy };
                return self.refuse(op, Fault::new(code, error.to_string())).await;
            }
            recorded => recorded?,
        }
        crate::crash::point("op.started.after");
        tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), "begins");
        self.advance(op, turn, begin, Stage::Start).await
    }

    /// An operation that had begun before this start.
    async fn carry_on(&self, op: &Op, turn: &Turn, entry: &OpEntry) -> Result<(), JournalError> {
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

    async fn advance(&self, op: &Op, turn: &Turn, mut begin: Begin, mut stage: Stage) -> Result<(), JournalError> {
        let (mut failures, mut restarts) = (0_u32, 0_u32);
        loop {
            let doubt = |task| Stage::Doubt(task);
            if self.stopping.is_cancelled() && matches!(stage, Stage::Doubt(_)) {
                // The next start goes on.
                return Ok(());
            }
            stage = match stage {
                Stage::Start => {
                    crate::crash::point("op.effect.before");
                    let begun = self.start(op, turn, &begin).await;
                    crate::crash::point("op.effect.after");
                    match begun {
                        Ok(Begun::Done(result)) => return self.end(op, result).await,
                        Ok(Begun::Task(task)) => {
                            crate::crash::point("op.task.before");
                            self.append(vec![Entry { task: Some(task.clone()), ..op.entry(State::TaskRunning) }]).await?;
                            crate::crash::point("op.task.after");
                            Stage::Resume(task)
                        }
                        Err(error) if error.kind == DriverErrorKind::Unreachable => doubt(None),
                        Err(error) => return self.end(op, failed(&error)).await,
                    }
                }
                Stage::Resume(task) => match self.resume(turn, &begin, &task).await {
                    Ok(result) => return self.end(op, result).await,
                    Err(error) if error.kind == DriverErrorKind::Unreachable => doubt(Some(task)),
                    Err(error) => return self.end(op, failed(&error)).await,
                },
                Stage::Doubt(task) => match self.look_for_evidence(op, turn, &begin, task.as_deref()).await {
                    Ok(Found::Done(result)) => return self.end(op, result).await,
                    Ok(Found::Task(found)) => {
                        crate::crash::point("op.found-task");
                        if task.as_ref() != Some(&found) {
                            self.append(vec![Entry { task: Some(found.clone()), ..op.entry(State::TaskRunning) }]).await?;
                        }
                        Stage::Resume(found)
                    }
                    Ok(Found::Made(found)) => match self.recheck(op).await {
                        Ok(()) => {
                            crate::crash::point("op.found-made");
                            Stage::Resume(found)
                        }
                        Err(fault) => return self.too_late(op, &fault).await,
                    },
                    Ok(Found::Absent) if task.is_none() => match self.recheck(op).await {
                        Ok(()) => {
                            tracing::info!(op = %op.id(), "it did not happen; it begins again");
                            crate::crash::point("op.again.before");
                            self.pause(ENGINE_RETRY.wait(restarts, getrandom::u64().unwrap_or(0))).await;
                            restarts = restarts.saturating_add(1);
                            begin.since = Since::now();
                            match self.append(vec![started(op, &begin)]).await {
                                Ok(()) => {
                                    // What the engine may still be doing counts from here.
                                    begin.since = Since::now();
                                    crate::crash::point("op.again.after");
                                    Stage::Start
                                }
                                Err(error @ (JournalError::Full(_) | JournalError::Busy)) => {
                                    tracing::warn!(op = %op.id(), %error, "waits for room in the journal to begin again");
                                    doubt(None)
                                }
                                Err(error) => return Err(error),
                            }
                        }
                        Err(fault) => return self.too_late(op, &fault).await,
                    },
                    Ok(Found::Absent) => return self.lose(op, "the engine no longer knows its task").await,
                    Ok(Found::NotYet(wait)) => {
                        self.pause(wait).await;
                        doubt(task)
                    }
                    Ok(Found::Unknown(looked)) => return self.lose(op, &looked).await,
                    Err(error) if error.kind == DriverErrorKind::Unreachable => {
                        failures = failures.saturating_add(1);
                        self.pause(ENGINE_RETRY.wait(failures, getrandom::u64().unwrap_or(0))).await;
                        doubt(task)
                    }
                    Err(error) => return self.lose(op, &error.message).await,
                },
            };
        }
    }

    /// Waits, or less when the agent stops.
    async fn pause(&self, wait: Duration) {
        self.stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
    }

    /// Its beginning was recorded, it was proven not to have happened, and it may not any more.
    async fn too_late(&self, op: &Op, fault: &Fault) -> Result<(), JournalError> {
        let message = format!("interrupted, and did not happen: {}", fault.message);
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
        self.append(vec![Entry { fault, result: result.result, ..op.entry(state) }]).await?;
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
        self.append(vec![Entry { fault: Some(fault), ..op.entry(State::Indeterminate) }]).await?;
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
    async fn recheck(&self, op: &Op) -> Result<(), Fault> {
        if planted("no recheck") {
            return Ok(());
        }
        self.parts.gate.recheck(op.envelope.clone()).await?;
        self.check_generation(&op.order.statement)
    }

    async fn prepare(&self, op: &Op, turn: &Turn) -> Result<Begin, Refused> {
        self.recheck(op).await.map_err(Refused::ForGood)?;
        let order = self.order(op).await.map_err(Refused::ForGood)?;
        let hold = op.order.act.hold(self.generation().await);
        if is_own(&op.order.act) {
            return Ok(Begin { order, evidence: Value::Null, hold, since: Since::now() });
        }
        let (driver, asked) = (self.parts.driver.clone(), order.clone());
        crate::crash::point("op.prepare.before");
        let prepared =
            turn.work(async move { within(OP_CALL_TIMEOUT, driver.prepare(&asked)).await.unwrap_or_else(|| Err(no_end())) }).await;
        match prepared.unwrap_or_else(|_| Err(no_end())) {
            Ok(evidence) => Ok(Begin { order, evidence, hold, since: Since::now() }),
            Err(error) if error.kind == DriverErrorKind::Unreachable => Err(Refused::ForNow(Fault::new(error.code, cut(&error.message)))),
            Err(error) => Err(Refused::ForGood(Fault::new(error.code, cut(&error.message)))),
        }
    }

    async fn start(&self, op: &Op, turn: &Turn, begin: &Begin) -> Result<Begun, DriverError> {
        let act = &op.order.act;
        if *act == Act::Release {
            return Ok(Begun::Done(OpResult::default()));
        } else if *act == Act::TimeReset {
            return self.reset_time(op).await.map(Begun::Done);
        } else if *act == Act::Converge {
            return self.converge(op).await.map(Begun::Done);
        }
        let (driver, order, evidence) = (self.parts.driver.clone(), begin.order.clone(), begin.evidence.clone());
        let job = async move { within(OP_CALL_TIMEOUT, driver.start(&order, &evidence)).await };
        match turn.work(job).await {
            Ok(Some(begun)) => begun,
            Ok(None) | Err(_) => Err(no_end()),
        }
    }

    async fn resume(&self, turn: &Turn, begin: &Begin, task: &str) -> Result<OpResult, DriverError> {
        let (driver, order, evidence, task) = (self.parts.driver.clone(), begin.order.clone(), begin.evidence.clone(), task.to_owned());
        let resumed = turn.work(async move { driver.resume(&order, &evidence, &task).await }).await;
        resumed.unwrap_or_else(|_| Err(no_end()))
    }

    async fn look_for_evidence(&self, op: &Op, turn: &Turn, begin: &Begin, task: Option<&str>) -> Result<Found, DriverError> {
        if is_own(&op.order.act) || planted("blind retry") {
            // Each may be done again.
            return Ok(Found::Absent);
        }
        let (driver, order, evidence, task) =
            (self.parts.driver.clone(), begin.order.clone(), begin.evidence.clone(), task.map(str::to_owned));
        let age = begin.since.age();
        crate::crash::point("op.doubt");
        let job = async move { within(OP_CALL_TIMEOUT, driver.adopt(&order, &evidence, task.as_deref(), age)).await };
        match turn.work(job).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(_) => Err(no_end()),
        }
    }

    async fn reset_time(&self, op: &Op) -> Result<OpResult, DriverError> {
        let (ledger, to) = (self.parts.gate.ledger().clone(), op.order.statement.not_before);
        let reset = blocking(move || ledger.reset_time(to, &Clock.boot())).await;
        reset.map(|()| OpResult::default()).map_err(|e| DriverError {
            kind: DriverErrorKind::Permanent,
            code: Code::Internal,
            message: e.to_string(),
        })
    }

    /// The newest generation that the host has accepted.
    async fn generation(&self) -> Generation {
        if let Some(desired) = self.parts.gate.target().desired {
            return desired.admission.generation;
        }
        let ledger = self.parts.gate.ledger().clone();
        blocking(move || ledger.standing()).await.map(|s| s.generation).unwrap_or_default()
    }

    /// The operation as the driver takes it.
    async fn order(&self, op: &Op) -> Result<OpOrder, Fault> {
        let wanted = if matches!(op.order.act, Act::Prune { .. }) { self.wanted().await? } else { Default::default() };
        Ok(OpOrder { wanted, ..plain(op) })
    }

    /// Ends an operation about another one that was recorded without its last records.
    pub(super) async fn finish_about(&self, op: &Op, entry: &OpEntry) -> Result<(), JournalError> {
        let fault = Fault::new(Code::OpFailed, "the agent stopped before this was recorded; sign it again");
        if !entry.state().has_begun() {
            let end = Entry { fault: Some(Fault::new(Code::Cancelled, fault.message)), ..op.entry(State::Cancelled) };
            return self.append(vec![end]).await;
        }
        let (Act::Cancel { op_id } | Act::Resolve { op_id, .. }) = &op.order.act else { return Ok(()) };
        // Its own last record was torn off.
        let is_done = self.state(op_id).is_none_or(State::is_terminal);
        self.end(op, OpResult { fault: (!is_done).then_some(fault), result: Value::Null }).await
    }
}

/// Why an operation does not begin at its turn.
enum Refused {
    ForGood(Fault),
    /// To be tried again.
    ForNow(Fault),
}

/// The record that must be durable before the effect begins, with what is compared with after a crash.
fn started(op: &Op, begin: &Begin) -> Entry {
    Entry { hold: begin.hold, params: json!({ "evidence": begin.evidence, "since": begin.since }), ..op.entry(State::Started) }
}

fn plain(op: &Op) -> OpOrder {
    let statement = &op.order.statement;
    OpOrder {
        op_id: statement.op_id.clone(),
        resource: statement.resource.clone(),
        incarnation: statement.incarnation.clone(),
        state: statement.precondition.as_ref().and_then(|p| p.state),
        act: op.order.act.clone(),
        wanted: Default::default(),
    }
}

fn failed(error: &DriverError) -> OpResult {
    let code = if error.code == Code::StepFailed { Code::OpFailed } else { error.code };
    OpResult { fault: Some(Fault::new(code, cut(&error.message))), result: Value::Null }
}

/// Nobody knows what a call did that did not end.
fn no_end() -> DriverError {
    DriverError {
        kind: DriverErrorKind::Unreachable,
        code: Code::EngineUnreachable,
        message: "the engine did not answer in time".to_owned(),
    }
}
