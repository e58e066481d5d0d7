//! What sagas do in clouds. Each is one function of a provider, its inputs and an [`Attempt`], and can be called again after a crash at any
//! place: it looks first at what an earlier call did, and goes on from there.
//!
//! | module | what it does | what undoes it |
//! |---|---|---|
//! | [`mod@create`] | makes a droplet, once | [`undo_create`] |
//! | [`mod@wait_active`] | waits until it is active | - |
//! | [`mod@snapshot`] | makes a snapshot, once, and finds its number | [`undo_snapshot`] |
//! | [`mod@resize`] | gives a droplet another size | the same, back |
//! | [`alter`] | switches, renames and tags | the same, back |
//! | [`mod@destroy`] | deletes a droplet or a snapshot | nothing can |
//!
//! | module | what they share |
//! |---|---|
//! | [`mark`] | the names and tags by which what was made is found again |
//! | `action` | begins an action once, and follows it to its end |
//! | `looks` | looks again and again, within a budget |

use std::future::Future;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::UnixSeconds;
use tokio::time::Instant;

use super::CloudError;

mod action;
pub mod alter;
pub mod create;
pub mod destroy;
mod looks;
pub mod mark;
pub mod resize;
pub mod snapshot;
pub mod wait_active;

pub use create::{Create, Created, create, sweep, undo_create};
pub use destroy::{Destroy, delete_snapshot, destroy};
pub use mark::Mark;
pub use resize::{Resize, Resized, resize};
pub use snapshot::{TakeSnapshot, snapshot, undo_snapshot};
pub use wait_active::{Active, WaitActive, wait_active};

/// One try of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Whether a try of this step began before: it may have done anything of it.
    pub tried_before: bool,
    /// When the first try began, by the hub's clock.
    pub began_at: UnixSeconds,
    /// Now, by the hub's clock.
    pub now: UnixSeconds,
    /// When it is over, whatever it is doing.
    pub deadline: Instant,
}

/// Why a step did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct StepError {
    /// What is wrong.
    pub fault: Fault,
    /// Whether another try may do better, though nobody does anything.
    pub again: bool,
    /// Whether it may have had an effect, so that it has to be undone.
    pub effect: bool,
}

impl StepError {
    pub(crate) fn new(code: Code, message: impl Into<String>, again: bool, effect: bool) -> Self {
        Self { fault: Fault::new(code, message), again, effect }
    }

    /// A call that failed while doing `what`. `effect`: whether something was, or may have been, done before.
    pub(crate) fn call(error: &CloudError, what: &str, effect: bool) -> Self {
        Self { fault: error.fault(what), again: error.passes(), effect: effect || error.maybe_done() }
    }

    /// An input without which nothing is sent.
    fn input(message: impl Into<String>) -> Self {
        Self::new(Code::CloudMissingInput, message, false, false)
    }
}

/// Does `what` until the try is over. What an earlier try may have done counts for this one's failure.
async fn within<T>(attempt: &Attempt, what: &str, doing: impl Future<Output = Result<T, StepError>>) -> Result<T, StepError> {
    let over = || StepError::new(Code::CloudTimeout, format!("{what}: the step's time is over"), true, true);
    let ended = tokio::time::timeout_at(attempt.deadline, doing).await.unwrap_or_else(|_| Err(over()));
    ended.map_err(|error| StepError { effect: error.effect || attempt.tried_before, ..error })
}
