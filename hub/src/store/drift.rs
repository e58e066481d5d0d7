//! The inbox as the store keeps it.

use moorline_common::drift::Drift;
use moorline_common::id::{Generation, HostId, TopologyId};

/// What became of a drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftStatus {
    /// An operator has to decide.
    Open,
    /// The topology says now what the host has.
    Accepted,
    /// The host has again what the topology says, by an operator's order.
    Reverted,
    /// The host has again what the topology says, and no operator decided anything.
    Stale,
    /// It is left alone for a time.
    Ignored,
}

impl DriftStatus {
    const ALL: [DriftStatus; 5] =
        [DriftStatus::Open, DriftStatus::Accepted, DriftStatus::Reverted, DriftStatus::Stale, DriftStatus::Ignored];

    /// The status as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DriftStatus::Open => "open",
            DriftStatus::Accepted => "accepted",
            DriftStatus::Reverted => "reverted",
            DriftStatus::Stale => "stale",
            DriftStatus::Ignored => "ignored",
        }
    }

    /// The status behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// What a host said of its drift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftReport {
    /// The topology that it follows.
    pub topology: TopologyId,
    /// The generation that it compared with.
    pub generation: Generation,
    /// What differs, each field of a resource once.
    pub drift: Vec<Drift>,
    /// Whether nothing else does: what is not in it is as wanted.
    pub is_whole: bool,
}

/// Where something differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// On a host, by its own signed word.
    Host(HostId),
    /// In a cloud, as far as the hub sees it.
    Cloud(String),
}

impl Scope {
    /// As it is stored.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Scope::Host(host) => host.to_string(),
            Scope::Cloud(cloud) => format!("{CLOUD}{cloud}"),
        }
    }

    /// The scope behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(CLOUD) {
            Some(cloud) => Some(Scope::Cloud(cloud.to_owned())),
            None => HostId::parse(text).ok().map(Scope::Host),
        }
    }

    /// The host, if it is one.
    #[must_use]
    pub const fn host(&self) -> Option<&HostId> {
        match self {
            Scope::Host(host) => Some(host),
            Scope::Cloud(_) => None,
        }
    }
}

/// Before a cloud's name.
const CLOUD: &str = "cloud:";

/// A stored drift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftRecord {
    /// Counts all drifts.
    pub id: u64,
    /// Where it is.
    pub scope: Scope,
    /// What differs.
    pub drift: Drift,
    /// What became of it.
    pub status: DriftStatus,
    /// The topology that the host followed.
    pub topology: String,
    /// Its generation.
    pub generation: Generation,
    /// When it was seen first, in milliseconds since 1970.
    pub detected_ms: u64,
    /// When the live value changed last, in milliseconds since 1970.
    pub changed_ms: u64,
    /// When it was resolved, in milliseconds since 1970; 0 while it is not.
    pub resolved_ms: u64,
    /// Who resolved it, or ordered it reverted.
    pub resolved_by: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Until when it is ignored, in milliseconds since 1970.
    pub ignored_until_ms: u64,
    /// The generation that took the live value over; 0 for none.
    pub accepted_generation: Generation,
    /// The operation that reverts it; empty for none.
    pub op_id: String,
}

/// A drift as an operator saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownDrift {
    /// The drift.
    pub id: u64,
    /// What the host had.
    pub actual: String,
}

/// What a look at a cloud's droplets found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloudSweep {
    /// Droplets that were compared with their specs.
    pub checked: u64,
    /// Fields that differ.
    pub drifted_fields: u64,
    /// Those that did not before.
    pub new_drift: u64,
    /// Those that did, and do not any more.
    pub resolved_stale: u64,
}

/// Which drifts are asked for.
#[derive(Debug, Clone, Default)]
pub struct DriftQuery {
    /// Only those on this host.
    pub host: Option<HostId>,
    /// Those that are not open, too.
    pub all: bool,
    /// Only those with a lower id.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}
