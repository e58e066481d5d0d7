//! One record of the journal.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Event, Origin, State};
use crate::fault::Fault;
use crate::id::{Generation, HostEpoch, UnixSeconds};

/// One record, as a line of the journal holds it. The line adds a checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts all records of this host, from 1, without gaps.
    pub seq: u64,
    /// The first `seq` that was made durable by the same flush: tells whoever audits which records came to the disk together,
    /// and that all before them were there already. Nothing is decided by it, not what is torn either; see
    /// [`crate::journal::Rest`].
    pub batch: u64,
    /// When, in milliseconds since 1970 by the wall clock.
    pub at: u64,
    /// The life of the host in which it was written.
    pub epoch: HostEpoch,
    /// The operation's id; a fresh one for each step of a reconcile pass.
    pub op_id: String,
    /// The resource, and so the lane.
    pub resource: String,
    /// What is done, such as `create-container`.
    pub kind: String,
    /// Details for people and for recovery. Never a secret.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
    /// The engine's name for the running work, such as a Proxmox UPID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Where it is now.
    pub state: State,
    /// Empty for the steps of a reconcile pass: they are never deduplicated.
    pub idempotency_key: String,
    /// What the order's signature grants; with `accepted` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// What its success means for the reconcile pass; with `started` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldEffect>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What came of it, such as an exit code; with how it ended alone.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Says nothing new but that the hub has the receipt of how it ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acknowledged: bool,
    /// Lowercase hex SHA-256 of the previous line, without its line feed; empty for the first.
    pub prev: String,
}

/// What must be kept of a signed order until it has ended, and its nonce and key after that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The signed envelope, as it came: it is checked again before it begins after a restart.
    pub envelope: String,
    /// Lowercase hex SHA-256 of what is to be done: two orders of one key and one intent are the same order.
    pub intent: String,
    /// Used once.
    pub nonce: String,
    /// Until when the nonce must be remembered, by the time floor.
    pub nonce_until: UnixSeconds,
    /// Which of the resource's incarnations alone is meant, by this host's own record of the saga's step that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// It undoes what never began: it is done with its acceptance, and the engine has no part in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing: bool,
}

/// What the success of an operation means for the reconcile pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldEffect {
    /// The resource is left unlike its slice: reconcile leaves it alone until a generation after this one, and of other content, is
    /// accepted.
    Place(Generation),
    /// The same of what differs in nothing but whether it runs.
    PlacePower(Generation),
    /// Reconcile may have it again.
    Lift,
    /// The same, unless it differs in more than whether it runs.
    LiftPower,
}

impl Record {
    /// What happened.
    #[must_use]
    pub const fn event(&self) -> Event {
        if self.acknowledged { Event::Acknowledge } else { self.state.event() }
    }

    /// Whose rules apply to it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        if self.idempotency_key.is_empty() { Origin::Slice } else { Origin::Operator }
    }
}
