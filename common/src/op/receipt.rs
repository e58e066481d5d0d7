//! The receipt: a host's signed word on an operation.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::Fault;
use crate::id::{ClusterId, HostEpoch, HostId, OpId, ResourceId};
use crate::sign::{PayloadType, Statement};

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done.
    Succeeded,
    /// It has ended otherwise.
    Failed,
    /// Its last moment passed before it began.
    Expired,
    /// It was taken back before it began.
    Cancelled,
    /// It began, and nothing proves how it ended.
    Indeterminate,
    /// It was not accepted, or accepted and at its turn not begun.
    Refused,
}

/// A host's signed word on what became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host that speaks.
    pub host_id: HostId,
    /// The life of the host.
    pub host_epoch: HostEpoch,
    /// The order that it is about.
    pub op_id: OpId,
    /// Lowercase hex SHA-256 of that order's payload.
    pub payload_sha256: String,
    /// The order that was done in its place: of the same key and intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<OpId>,
    /// The resource.
    pub resource: ResourceId,
    /// What was ordered, such as `stop`.
    pub kind: String,
    /// What became of it.
    pub outcome: Outcome,
    /// When, in milliseconds since 1970 by the host's clock.
    pub at: u64,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What came of it, such as an exit code and output.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// The number of the journal's record that says so; 0 for what was not accepted.
    pub journal_seq: u64,
}

impl Statement for Receipt {
    const TYPE: PayloadType = PayloadType::Receipt;
}

impl Outcome {
    /// The outcome as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Expired => "expired",
            Outcome::Cancelled => "cancelled",
            Outcome::Indeterminate => "indeterminate",
            Outcome::Refused => "refused",
        }
    }
}
