//! Drivers: the few verbs by which the agent touches an engine.
//!
//! A driver never decides: it observes, and it makes one step so. "Already so" is success. It knows
//! nothing of slices, journals or the hub. One conformance suite runs against every driver.

use std::future::Future;

use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, HostId};
use moorline_common::observe::Observed;
use moorline_common::plan::Step;

#[cfg(test)]
mod conformance;
pub mod docker;
pub mod sim;

/// Whose objects a driver counts as owned: those whose labels name this cluster and this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host.
    pub host_id: HostId,
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

    /// Looks at everything that bears our labels, and at strangers enough to see name conflicts.
    /// Never mutates.
    fn observe(&self) -> impl Future<Output = Result<Observed, DriverError>> + Send;

    /// Makes one step so. Safe to repeat after a crash at any point within. What may take long outside the engine (a
    /// pull, a container that takes its time to stop) runs [`crate::lane::aside`], within a limit of its own.
    fn apply(&self, step: &Step) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Waits until something that may be ours changed, or the engine went away; reconnects by itself with backoff, and
    /// then tells of what it may have missed. Cancel-safe.
    fn next_event(&self) -> impl Future<Output = ()> + Send;
}
