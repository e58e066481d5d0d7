//! Why a call to a cloud did not succeed.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::UnixSeconds;

/// Why a call to a cloud did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// The cloud understood, and will not. Nothing was done.
    #[error("the cloud refuses ({status} {id}): {message}")]
    Refused {
        /// The status.
        status: u16,
        /// Its short word.
        id: String,
        /// Its words.
        message: String,
    },
    /// There is no such thing, or not yet.
    #[error("the cloud does not have it: {message}")]
    NotFound {
        /// What was asked for.
        message: String,
    },
    /// Another event is under way on the droplet. Nothing was done.
    #[error("the droplet has another event under way: {message}")]
    Pending {
        /// The cloud's words.
        message: String,
    },
    /// There were too many calls. Nothing was done.
    #[error("too many calls with this token; the next one is answered at {} (seconds since 1970)", until.0)]
    RateLimited {
        /// When there may be another one.
        until: UnixSeconds,
    },
    /// The token is not valid (any more).
    #[error("the {role} token is not taken: {message}")]
    Unauthorized {
        /// Which of the tokens.
        role: &'static str,
        /// The cloud's words.
        message: String,
    },
    /// The token is valid and may not do this.
    #[error("the {role} token lacks the scope for this: {message}")]
    Forbidden {
        /// Which of the tokens.
        role: &'static str,
        /// The cloud's words.
        message: String,
    },
    /// No answer, or only one that says that there is none.
    #[error("{message}")]
    Unreachable {
        /// What happened.
        message: String,
        /// Whether the request may have had its effect.
        maybe_done: bool,
    },
    /// What came back is no answer of this API.
    #[error("what came back is not what this API says: {message}")]
    Garbled {
        /// What is wrong with it.
        message: String,
        /// Whether the request may have had its effect.
        maybe_done: bool,
    },
    /// The hub's configuration lacks what is needed, or it cannot be used.
    #[error("{message}")]
    Unconfigured {
        /// What, and what to do.
        message: String,
    },
}

impl CloudError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            CloudError::Refused { .. } => Code::CloudRefused,
            CloudError::NotFound { .. } => Code::CloudNotFound,
            CloudError::Pending { .. } => Code::CloudPending,
            CloudError::RateLimited { .. } => Code::CloudRateLimited,
            CloudError::Unauthorized { .. } | CloudError::Forbidden { .. } => Code::CloudUnauthorized,
            CloudError::Unreachable { .. } => Code::CloudUnreachable,
            CloudError::Garbled { .. } => Code::CloudGarbled,
            CloudError::Unconfigured { .. } => Code::CloudUnconfigured,
        }
    }

    /// Whether the request may have had its effect nevertheless.
    #[must_use]
    pub const fn maybe_done(&self) -> bool {
        match self {
            CloudError::Unreachable { maybe_done, .. } | CloudError::Garbled { maybe_done, .. } => *maybe_done,
            CloudError::Refused { .. }
            | CloudError::NotFound { .. }
            | CloudError::Pending { .. }
            | CloudError::RateLimited { .. }
            | CloudError::Unauthorized { .. }
            | CloudError::Forbidden { .. }
            | CloudError::Unconfigured { .. } => false,
        }
    }

    /// Whether the same may go well a little later, though nobody does anything.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            CloudError::Pending { .. } | CloudError::RateLimited { .. } | CloudError::Unreachable { .. } | CloudError::Garbled { .. } => {
                true
            }
            CloudError::Refused { .. }
            | CloudError::NotFound { .. }
            | CloudError::Unauthorized { .. }
            | CloudError::Forbidden { .. }
            | CloudError::Unconfigured { .. } => false,
        }
    }

    /// The same for people, while doing `what`.
    #[must_use]
    pub fn fault(&self, what: &str) -> Fault {
        Fault::new(self.code(), format!("{what}: {self}"))
    }
}
