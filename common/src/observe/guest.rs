//! What a Proxmox VE host has.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{EngineState, Owner};
use crate::pve::guest::{self, GuestConfig};
use crate::pve::{GuestKind, Vmid, incarnation};

/// The tag of guests that Moorline made.
pub const TAG: &str = "moorline";

/// The tag of a guest that was destroyed and is kept for a while: who takes it away keeps the guest.
pub const BURIED_TAG: &str = "moorline-deleted";

/// One observation of Proxmox VE on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedPve {
    /// Whether its API could be asked.
    pub engine: EngineState,
    /// The error of the last failed observation, cut to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its version, such as `9.1.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The node that this host is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The node's guests, as far as its token may see them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guests: BTreeMap<Vmid, ObservedGuest>,
}

/// A guest on its node. Only what its node lists is filled for one that is neither ours nor named by the slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedGuest {
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it runs.
    pub status: GuestStatus,
    /// Ours, when it is noted as such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether it says of itself that Moorline made it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_marked: bool,
    /// Which one of those it is that have borne its number; see [`incarnation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Whether it is a template.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
    /// What works on it, such as `backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// The kind of a task that runs on it now, such as `qmshutdown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Whether the cluster's resource manager starts and stops it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_ha_managed: bool,
    /// Its snapshots, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<String, ObservedSnapshot>,
    /// Its config, and what tells one version of its file from another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<GuestConfig>>,
    /// See `config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl ObservedGuest {
    /// What of its incarnation stays as long as it is the same guest.
    #[must_use]
    pub fn lasting(&self) -> Option<&str> {
        self.incarnation.as_deref().map(incarnation::lasting)
    }

    /// The keys of its config whose values count from its next start on; none of one that is off.
    #[must_use]
    pub fn pending(&self) -> BTreeSet<&str> {
        let config = self.config.as_deref().filter(|_| self.status != GuestStatus::Stopped);
        config.map(guest::pending).unwrap_or_default()
    }
}

/// A snapshot of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedSnapshot {
    /// The snapshot before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When it was made, in seconds since 1970 by the node's clock.
    pub at: u64,
    /// Whether it has the machine's memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_memory: bool,
}

/// Whether a guest runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestStatus {
    /// It does not.
    #[default]
    Stopped,
    /// It does.
    Running,
    /// It is frozen.
    Paused,
}

impl GuestStatus {
    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            GuestStatus::Stopped => "stopped",
            GuestStatus::Running => "running",
            GuestStatus::Paused => "paused",
        }
    }
}
