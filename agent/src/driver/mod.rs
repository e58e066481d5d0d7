//! Drivers: the few verbs by which the agent touches an engine.
//!
//! A driver never decides: it observes, and it makes one step so. "Already so" is success. It knows
//! nothing of slices, journals or the hub. One conformance suite runs against every driver.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, HostId};
use moorline_common::observe::Observed;
use moorline_common::plan::Step;
use serde_json::Value;

#[cfg(test)]
mod conformance;
pub mod docker;
pub mod engine;
mod evidence;
pub mod host;
mod known;
pub mod logs;
mod op;
mod output;
mod prune;
pub mod pulls;
pub mod pve;
pub mod sim;
mod survey;
mod tasks;

pub use known::Known;
pub use logs::Taker;
#[cfg(test)]
pub(crate) use op::KINDS;
pub use op::{Begun, Found, OpOrder, OpResult};
pub use pve::Finding;
pub use tasks::Tasks;

/// Whose objects a driver counts as owned: those whose labels name this cluster and this host, and those that were taken over.
#[derive(Debug, Clone)]
pub struct Ownership {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host.
    pub host_id: HostId,
    /// What labels do not tell.
    pub known: Arc<Known>,
}

/// What went wrong in a driver, and what the engine's caller may do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct DriverError {
    /// What may be done.
    pub kind: DriverErrorKind,
    /// The code to report.
    pub code: Code,
    /// The engine's words.
    pub message: String,
}

/// The classes of [`DriverError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverErrorKind {
    /// May succeed when tried again.
    Retryable,
    /// Will fail again until the slice or the host changes.
    Permanent,
    /// The object is not in the state that the step was planned on: observe and plan anew.
    Conflict,
    /// The object is gone: observe and plan anew.
    NotFound,
    /// The engine does not let us.
    Unauthorized,
    /// The engine cannot be reached: nothing is known.
    Unreachable,
}

/// An engine on this host.
pub trait Driver: Send + Sync + 'static {
    /// A short name for logs and status, such as `docker`.
    fn name(&self) -> &'static str;

    /// How many steps may run at once.
    fn parallelism(&self) -> usize;

    /// What it knows of objects beside their labels. The ledger keeps it.
    fn known(&self) -> Arc<Known>;

    /// Looks at everything that bears our labels, and at strangers enough to see name conflicts.
    /// Never mutates.
    fn observe(&self) -> impl Future<Output = Result<Observed, DriverError>> + Send;

    /// What it takes to work besides that it answers: what was looked at, and what was found or is wrong. Never mutates.
    fn examine(&self) -> impl Future<Output = Vec<Finding>> + Send {
        std::future::ready(Vec::new())
    }

    /// How far its pulls are.
    fn pulls(&self) -> pulls::View {
        pulls::View::empty()
    }

    /// Begins to read what a container of ours writes. Never mutates.
    fn logs(&self, wish: &logs::LogWish) -> impl Future<Output = Result<logs::LogStream, DriverError>> + Send {
        std::future::ready(Err(DriverError::no_logs(self.name(), wish)))
    }

    /// Makes one step so. Safe to repeat after a crash at any point within. What may take long outside the engine (a
    /// pull, a container that takes its time to stop) runs [`crate::lane::aside`], within a limit of its own.
    fn apply(&self, step: &Step) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// As [`Self::apply`]; `tasks` is told of what goes on in the engine under a name, before it is waited for.
    fn apply_told(&self, step: &Step, tasks: Tasks) -> impl Future<Output = Result<(), DriverError>> + Send {
        drop(tasks);
        self.apply(step)
    }

    /// Waits until something that may be ours changed, or the engine went away; reconnects by itself with backoff, and
    /// then tells of what it may have missed. Cancel-safe.
    fn next_event(&self) -> impl Future<Output = ()> + Send;

    /// The kinds of operation that this driver does.
    fn capabilities(&self) -> &'static [&'static str];

    /// Checks that an operation can begin now (the resource is there, is ours, is the one that was meant, is in the state
    /// that was asked for), and notes what is to be compared with after a crash. Changes nothing.
    fn prepare(&self, order: &OpOrder) -> impl Future<Output = Result<Value, DriverError>> + Send;

    /// Begins an operation after its `started` record, which holds `evidence`, is durable. [`DriverErrorKind::Unreachable`]
    /// means that nobody knows whether it began; every other error that it did not happen.
    fn start(&self, order: &OpOrder, evidence: &Value) -> impl Future<Output = Result<Begun, DriverError>> + Send;

    /// Goes on with `task`, or waits for it, until the operation has ended, or goes on under another name, which has to be durable
    /// before it is resumed; `taker` gets what it says meanwhile, and may hold it up. Errors are as for [`Self::start`].
    fn resume(
        &self,
        order: &OpOrder,
        evidence: &Value,
        task: &str,
        taker: Taker,
    ) -> impl Future<Output = Result<Begun, DriverError>> + Send;

    /// Looks for evidence of an operation that began `age` ago. Changes nothing.
    fn adopt(
        &self,
        order: &OpOrder,
        evidence: &Value,
        task: Option<&str>,
        age: Duration,
    ) -> impl Future<Output = Result<Found, DriverError>> + Send;
}
