//! What an operator says of a saga that is under way.

use serde::{Deserialize, Serialize};

use super::plan::{Side, StepNumber};
use crate::id::{ClusterId, Nonce, SagaId, UnixSeconds};
use crate::sign::{PayloadType, Statement};

/// An operator's signed word on a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The saga.
    pub saga_id: SagaId,
    /// What is to happen.
    pub verb: Verb,
    /// When it was signed, by the operator's clock.
    pub issued_at: UnixSeconds,
    /// Tells two words apart that say the same.
    pub nonce: Nonce,
    /// The trust root that the operator signed under.
    pub root_version: u64,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

impl Statement for Word {
    const TYPE: PayloadType = PayloadType::SagaWord;
}

/// What is to happen with a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Verb {
    /// One side of a step is tried again.
    Retry {
        /// The step.
        step: StepNumber,
        /// Which side of it.
        side: Side,
        /// The payload hashes of the further orders, one for each try; none for what is not done on a host.
        orders: Vec<String>,
    },
    /// One side of a step is not done by the saga: it is not needed, or an operator has seen to it.
    Skip {
        /// The step.
        step: StepNumber,
        /// Which side of it.
        side: Side,
    },
    /// Nothing further begins, and what was done is undone.
    Abort {
        /// How many groups have begun, as the operator was shown: what is in these is undone in its order, and nothing of the
        /// others was done.
        begun: u32,
    },
    /// Nothing further is done, and what was done stays.
    Abandon,
}

impl Verb {
    /// The verb as it is shown.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Verb::Retry { .. } => "retry",
            Verb::Skip { .. } => "skip",
            Verb::Abort { .. } => "abort",
            Verb::Abandon => "abandon",
        }
    }
}
