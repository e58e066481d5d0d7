//! What one operation asks of the engine, or of the agent itself: to prepare, to start, to go on, and what there is of it
//! after a crash.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::Generation;
use moorline_common::op::{Act, Confirm, HoldEffect};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Op, Shared};
use crate::clock::{BootTime, Clock};
use crate::db::blocking;
use crate::driver::{Begun, Driver, DriverError, DriverErrorKind, Found, OpOrder, OpResult};
use crate::journal::Journal;
use crate::lane::{Seat, Turn, within};
use crate::ledger::trial::Confirmed;
use crate::ledger::{Floor, FloorState};
use crate::limits::{OP_CALL_TIMEOUT, OP_START_SLACK};
use crate::plant::planted;

/// What an operation begins with, kept in its `started` record.
pub(super) struct Begin {
    pub(super) order: OpOrder,
    pub(super) evidence: Value,
    pub(super) hold: Option<HoldEffect>,
    pub(super) since: Since,
}

impl Begin {
    /// Whether its record came to the disk so late that a crash right behind it would leave evidence too little time: then it
    /// is looked for before anything begins.
    pub(super) fn is_late(&self) -> bool {
        self.since.elapsed() > OP_START_SLACK
    }
}

/// When an operation began, by the kernel's own time: the wall clock may be set while its request is still with the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Since {
    boot_id: String,
    uptime_s: u64,
}

impl Since {
    pub(super) fn now() -> Self {
        let BootTime { boot_id, uptime_s, .. } = Clock.boot();
        Self { boot_id, uptime_s }
    }

    /// How long ago that was. No request outlives the machine's boot.
    fn elapsed(&self) -> Duration {
        let now = Self::now();
        if now.boot_id == self.boot_id { Duration::from_secs(now.uptime_s.saturating_sub(self.uptime_s)) } else { Duration::MAX }
    }
}

/// Done above the driver.
pub(super) const fn is_own(act: &Act) -> bool {
    matches!(act, Act::Converge(_) | Act::Release | Act::TimeReset | Act::Confirm(_) | Act::Cancel { .. } | Act::Resolve { .. })
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// What it begins with, if it may still begin once the engine has answered.
    pub(super) async fn prepare(&self, op: &Op, seat: &Seat) -> Result<Begin, Refused> {
        self.recheck(op).await.map_err(Refused::by)?;
        let begin = self.ask(op, seat).await?;
        // Time has passed with the engine.
        self.recheck(op).await.map_err(Refused::by)?;
        Ok(begin)
    }

    async fn ask(&self, op: &Op, seat: &Seat) -> Result<Begin, Refused> {
        self.has_slice(op).await?;
        let order = self.order(op).await.map_err(Refused::by)?;
        let hold = match op.order.act.hold(Generation(0)) {
            Some(HoldEffect::Place(_) | HoldEffect::PlacePower(_)) => {
                match op.order.act.hold(self.generation().await.map_err(Refused::ForNow)?) {
                    // What differs in more than its power still does once it is stopped.
                    Some(HoldEffect::PlacePower(now)) if self.differs(op).await.map_err(Refused::ForNow)? => Some(HoldEffect::Place(now)),
                    placed => placed,
                }
            }
            other @ (Some(HoldEffect::Lift | HoldEffect::LiftPower) | None) => other,
        };
        if is_own(&op.order.act) {
            return Ok(Begin { order, evidence: Value::Null, hold, since: Since::now() });
        }
        let (driver, asked) = (self.parts.driver.clone(), order.clone());
        crate::crash::point("op.prepare.before");
        let prepared =
            seat.work(async move { within(OP_CALL_TIMEOUT, driver.prepare(&asked)).await.unwrap_or_else(|| Err(no_end())) }).await;
        match prepared.unwrap_or_else(|_| Err(no_end())) {
            Ok(evidence) => Ok(Begin { order, evidence, hold, since: Since::now() }),
            Err(error) if error.kind == DriverErrorKind::Unreachable => Err(Refused::ForNow(Fault::new(error.code, cut(&error.message)))),
            Err(error) => Err(Refused::ForGood(Fault::new(error.code, cut(&error.message)))),
        }
    }

    pub(super) async fn start(self: &Arc<Self>, op: &Op, seat: &Seat, begin: &Begin) -> Result<Begun, DriverError> {
        let act = &op.order.act;
        if *act == Act::Release {
            let is_held = self.parts.journal.read(|book| book.hold(op.resource().as_str(), Generation(0)).is_some());
            let fault = (!is_held).then(|| Fault::new(Code::PreconditionFailed, format!("no operation holds {}", op.resource())));
            return Ok(Begun::Done(OpResult { fault, ..OpResult::default() }));
        } else if *act == Act::TimeReset {
            return self.reset_time(op).await.map(Begun::Done);
        } else if let Act::Confirm(confirm) = act {
            return self.confirm(confirm).await.map(Begun::Done);
        } else if let Act::Converge(what) = act {
            let (shared, op, what) = (self.clone(), op.clone(), what.clone());
            let job = async move { within(OP_CALL_TIMEOUT, shared.converge(&op, what)).await };
            // It may be done again.
            return seat.work(job).await.ok().flatten().unwrap_or_else(|| Err(no_end())).map(Begun::Done);
        }
        let (driver, order, evidence) = (self.parts.driver.clone(), begin.order.clone(), begin.evidence.clone());
        let job = async move { within(OP_CALL_TIMEOUT, driver.start(&order, &evidence)).await };
        match seat.work(job).await {
            Ok(Some(begun)) => begun,
            Ok(None) | Err(_) => Err(no_end()),
        }
    }

    pub(super) async fn resume(&self, seat: &Seat, begin: &Begin, task: &str) -> Result<Begun, DriverError> {
        let (driver, order, evidence, task) = (self.parts.driver.clone(), begin.order.clone(), begin.evidence.clone(), task.to_owned());
        let taker = self.outputs.taker(&order);
        let resumed = seat.work(async move { driver.resume(&order, &evidence, &task, taker).await }).await;
        resumed.unwrap_or_else(|_| Err(no_end()))
    }

    pub(super) async fn look_for_evidence(&self, op: &Op, turn: &Turn, begin: &Begin, task: Option<&str>) -> Result<Found, DriverError> {
        if op.order.act == Act::TimeReset && self.is_reset(op).await {
            return Ok(Found::Done(OpResult::default()));
        }
        if is_own(&op.order.act) || planted("blind retry") {
            // Each may be done again.
            return Ok(Found::Absent);
        }
        let (driver, order, evidence, task) =
            (self.parts.driver.clone(), begin.order.clone(), begin.evidence.clone(), task.map(str::to_owned));
        let age = if planted("no margin") { Duration::MAX } else { begin.since.elapsed() };
        crate::crash::point("op.doubt");
        let job = async move { within(OP_CALL_TIMEOUT, driver.adopt(&order, &evidence, task.as_deref(), age)).await };
        match turn.work(job).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(_) => Err(no_end()),
        }
    }

    /// Whether the time floor was set by this very order, or a later one.
    async fn is_reset(&self, op: &Op) -> bool {
        let clocks = self.parts.gate.clocks().await;
        clocks.is_ok_and(|(clocks, _)| clocks.reset >= op.order.statement.not_before)
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

    async fn confirm(&self, Confirm { topology, generation }: &Confirm) -> Result<OpResult, DriverError> {
        let confirmed = self.parts.gate.confirm(topology.clone(), *generation).await;
        let confirmed =
            confirmed.map_err(|e| DriverError { kind: DriverErrorKind::Permanent, code: Code::Internal, message: e.to_string() })?;
        // The report tells.
        self.parts.reconciler.look();
        let fault = match confirmed {
            Confirmed::Stays => None,
            Confirmed::TooLate(back) => {
                Some(Fault::new(Code::RolledBack, format!("too late: the host has given generation {generation} up ({})", back.reason)))
            }
            Confirmed::Other(accepted) => {
                let has =
                    accepted.map_or_else(|| "none".to_owned(), |(topology, generation)| format!("generation {generation} of `{topology}`"));
                let what = format!("the order is for generation {generation} of `{topology}`; this host has accepted {has}");
                Some(Fault::new(Code::PreconditionFailed, what))
            }
        };
        Ok(OpResult { fault, ..OpResult::default() })
    }

    /// The newest generation that the host has accepted.
    async fn generation(&self) -> Result<Generation, Fault> {
        if let Some(desired) = self.parts.gate.target().desired {
            return Ok(desired.accepted);
        }
        let ledger = self.parts.gate.ledger().clone();
        let standing = blocking(move || ledger.standing()).await.map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
        Ok(standing.generation)
    }

    /// Whether an operation left the resource unlike its slice in more than whether it runs.
    async fn differs(&self, op: &Op) -> Result<bool, Fault> {
        let since = self.accepted_floor().await?.map_or(Generation(0), |floor| floor.content_since);
        Ok(self.parts.journal.read(|book| book.hold(op.resource().as_str(), since).is_some_and(|hold| !hold.is_power)))
    }

    pub(super) async fn accepted_floor(&self) -> Result<Option<Floor>, Fault> {
        let ledger = self.parts.gate.ledger().clone();
        blocking(move || ledger.accepted()).await.map_err(|e| Fault::new(Code::Internal, e.to_string()))
    }

    /// After a start the slice comes again from the hub: what depends on it waits for that.
    async fn has_slice(&self, op: &Op) -> Result<(), Refused> {
        let needs = matches!(op.order.act, Act::Prune { .. } | Act::Converge(_));
        if !needs || self.parts.gate.target().desired.is_some() {
            return Ok(());
        }
        if let Some(fault) = self.parts.gate.frozen() {
            return Err(Refused::ForGood(fault));
        }
        let accepted = self.accepted_floor().await.map_err(Refused::ForNow)?;
        if accepted.is_some_and(|floor| floor.state == FloorState::Active) {
            return Err(Refused::ForNow(Fault::new(Code::Waiting, "the hub has not sent this host's slice again since the start")));
        }
        Ok(())
    }

    /// The operation as the driver takes it.
    pub(super) async fn order(&self, op: &Op) -> Result<OpOrder, Fault> {
        let wanted = if matches!(op.order.act, Act::Prune { .. }) { self.wanted().await? } else { Default::default() };
        Ok(OpOrder { wanted, ..plain(op) })
    }
}

/// Why an operation does not begin at its turn.
pub(super) enum Refused {
    ForGood(Fault),
    /// To be tried again.
    ForNow(Fault),
}

impl Refused {
    /// A clock that is wrong may be mended, and a ledger that cannot be read, too; until the order's time is over.
    pub(super) fn by(fault: Fault) -> Self {
        if may_mend(fault.code) { Refused::ForNow(fault) } else { Refused::ForGood(fault) }
    }
}

/// Whether what speaks against an order may be over before the order's time is.
pub(super) const fn may_mend(code: Code) -> bool {
    matches!(code, Code::ClockUnsound | Code::NotYetValid | Code::Internal)
}

pub(super) fn plain(op: &Op) -> OpOrder {
    let statement = &op.order.statement;
    OpOrder {
        op_id: statement.op_id.clone(),
        resource: statement.resource.clone(),
        incarnation: op.incarnation().cloned(),
        state: statement.precondition.as_ref().and_then(|p| p.state),
        act: op.order.act.clone(),
        wanted: Default::default(),
    }
}

pub(super) fn failed(error: &DriverError) -> OpResult {
    let code = if error.code == Code::StepFailed { Code::OpFailed } else { error.code };
    OpResult { fault: Some(Fault::new(code, cut(&error.message))), result: Value::Null }
}

/// Nobody knows what a call did that did not end.
pub(super) fn no_end() -> DriverError {
    DriverError {
        kind: DriverErrorKind::Unreachable,
        code: Code::EngineUnreachable,
        message: "the engine did not answer in time".to_owned(),
    }
}
