//! What clouds have, and what droplets should be like, as the store keeps it.

use std::fmt;

use moorline_common::id::SagaId;
use serde_json::Value;

/// What something in a cloud is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloudKind {
    /// A machine.
    Droplet,
    /// A snapshot of one.
    Snapshot,
}

impl CloudKind {
    const ALL: [CloudKind; 2] = [CloudKind::Droplet, CloudKind::Snapshot];

    /// The kind as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            CloudKind::Droplet => "droplet",
            CloudKind::Snapshot => "snapshot",
        }
    }

    /// The kind behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for CloudKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A droplet with what it should be like.
#[derive(Debug, Clone, PartialEq)]
pub struct NewProvisioned {
    /// Its cloud.
    pub cloud: String,
    /// Its number there.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// As it is.
    pub live: Value,
    /// What it should be like, by field.
    pub spec: Value,
    /// Who made it.
    pub by: String,
    /// The saga that did.
    pub saga_id: Option<SagaId>,
}

/// Something in a cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceRecord {
    /// Its cloud.
    pub cloud: String,
    /// What it is.
    pub kind: CloudKind,
    /// Its number there.
    pub number: u64,
    /// Its name; empty when nothing but its end is known.
    pub name: String,
    /// As it was seen last; null the same.
    pub value: Value,
    /// When it was seen first, in milliseconds since 1970.
    pub first_seen_ms: u64,
    /// When it was seen last, the same.
    pub seen_ms: u64,
    /// When it was deleted, the same; 0 while it is not.
    pub deleted_ms: u64,
    /// The saga that made or deleted it.
    pub saga_id: Option<SagaId>,
}

/// What a droplet should be like.
#[derive(Debug, Clone, PartialEq)]
pub struct ProvisionedRecord {
    /// Its cloud.
    pub cloud: String,
    /// Its number there.
    pub number: u64,
    /// The fields.
    pub spec: Value,
    /// Counts how often that was changed, from 1.
    pub spec_version: u64,
    /// When it was made, in milliseconds since 1970.
    pub provisioned_ms: u64,
    /// Who made it.
    pub provisioned_by: String,
    /// The saga that did.
    pub saga_id: Option<SagaId>,
}

/// Something that happened in a cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceEvent {
    /// Counts all of them.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub what: String,
    /// The saga that did it.
    pub saga_id: Option<SagaId>,
}

/// Something that a listing shows.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenResource {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// As it is.
    pub value: Value,
}
