//! Guests of a Proxmox VE host, as a slice has them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::DriftPolicy;
use crate::pve::guest::Config;
use crate::pve::{GuestKind, Vmid};

/// A host's guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxmoxSpec {
    /// Guests by their numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guests: BTreeMap<Vmid, GuestSpec>,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSpec {
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Whether it runs; left as it is, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Power>,
    /// Its config, in Proxmox VE's own keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: Config,
    /// What it is made of when it is not there. It says nothing about a guest that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<GuestSource>,
    /// The incarnation of the guest that is taken over as it is; see [`crate::pve::incarnation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// What to do when it is not as the slice says; what the host's policy says, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftPolicy>,
    /// How it is told to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
    /// When it may be started anew for changes that wait for that; never, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
}

impl GuestSpec {
    /// A guest of this kind of which nothing else is said.
    #[must_use]
    pub const fn of(kind: GuestKind) -> Self {
        Self { kind, state: None, config: Config::new(), from: None, adopt: None, drift: None, shutdown: None, reboot: None }
    }
}

/// Whether a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It does.
    Running,
    /// It does not.
    Stopped,
}

impl Power {
    /// The word in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Power::Running => "running",
            Power::Stopped => "stopped",
        }
    }
}

/// When a guest may be started anew for changes that wait for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reboot {
    /// Never: the changes wait until somebody does it.
    Never,
    /// In one of the host's maintenance windows.
    Window,
    /// At once.
    Now,
}

/// How a guest is told to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long it may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Whether its power is cut when it takes longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What a guest is made of: one of `clone`, `ostemplate`, `archive` and `iso`; an empty machine without any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSource {
    /// The guest or template that it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<Vmid>,
    /// Of a clone: whether it has copies of all disks, instead of sharing those of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// Of a clone: the snapshot that it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The template of a container, such as `local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ostemplate: Option<String>,
    /// The backup that it is restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Of a restored one: whether it gets addresses and ids of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<bool>,
    /// The image that a machine starts from at first, as a disc in `ide2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<String>,
    /// The storage for its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The pool that it is put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// As `key=value`, parted by commas.
impl fmt::Display for GuestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |vmid: &Option<Vmid>| vmid.map(|vmid| vmid.to_string());
        let flag = |flag: Option<bool>| flag.map(|flag| flag.to_string());
        let pairs = [
            ("clone", number(&self.clone)),
            ("full", flag(self.full)),
            ("snapshot", self.snapshot.clone()),
            ("ostemplate", self.ostemplate.clone()),
            ("archive", self.archive.clone()),
            ("unique", flag(self.unique)),
            ("iso", self.iso.clone()),
            ("storage", self.storage.clone()),
            ("pool", self.pool.clone()),
        ];
        let said = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        f.write_str(&said.collect::<Vec<_>>().join(","))
    }
}
