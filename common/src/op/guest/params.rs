//! The parameters of operations on guests.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{CHECK_MAX_S, PURGE_AFTER_S, all_right, named};
use crate::id::OpId;
use crate::pve::guest::{Config, rootless};
use crate::pve::keys::{self, Shape};
use crate::pve::{GuestKind, Vmid, names, scalar};
use crate::topology::GuestSource;

/// The most keys of one `set-config`.
const KEYS_MAX: usize = 64;
/// The most digits of a config's digest. Source: the API page `PUT …/config`.
const DIGEST_MAX: usize = 40;

/// How it is told to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// How long it may take, in seconds; the host's own default when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Whether its power is cut when it takes longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// How it is frozen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspend {
    /// Whether its memory is written to a disk, and its power cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_disk: bool,
}

/// What changes about its config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Values by their keys.
    #[serde(default, skip_serializing_if = "Config::is_empty")]
    pub set: Config,
    /// Keys to take out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub delete: BTreeSet<String>,
    /// The version of its file that this is meant for; any, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What kind of guest it is: its keys are checked by that.
    #[serde(rename = "type")]
    pub kind: GuestKind,
}

/// How a disk grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Its key, such as `scsi0`.
    pub disk: String,
    /// Its size then, such as `32G`. Not by how much it grows: that would be done twice by mistake.
    pub size: String,
}

/// A snapshot to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCreate {
    /// Its name; one with the operation's id, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it has the machine's memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
}

impl SnapshotCreate {
    /// The name of the snapshot that the operation `op_id` makes.
    #[must_use]
    pub fn name(&self, op_id: &OpId) -> String {
        self.name.clone().unwrap_or_else(|| snapshot_name(op_id))
    }
}

/// The name of a snapshot that an operation makes for itself: a repeat finds it. An id fits whole.
#[must_use]
pub fn snapshot_name(op_id: &OpId) -> String {
    format!("op-{op_id}")
}

/// A snapshot to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotDelete {
    /// Its name.
    pub name: String,
    /// Whether it goes out of the config also when its disks cannot be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A snapshot to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRollback {
    /// Its name.
    pub name: String,
    /// Whether it is started afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

/// The guest that a clone becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneTo {
    /// Its number.
    pub newid: Vmid,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it has copies of all disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<bool>,
    /// The snapshot that it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The storage for its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The pool that it is put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

impl CloneTo {
    /// How it is made of its source, whose number is the operation's own.
    #[must_use]
    pub fn source(&self) -> GuestSource {
        GuestSource {
            full: self.full,
            snapshot: self.snapshot.clone(),
            storage: self.storage.clone(),
            pool: self.pool.clone(),
            ..GuestSource::default()
        }
    }
}

/// A guest to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// What kind.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Its config.
    #[serde(default, skip_serializing_if = "Config::is_empty")]
    pub config: Config,
    /// The template of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ostemplate: Option<String>,
    /// The storage for disks whose own is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The pool that it is put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether it is started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

impl Create {
    /// What it is made of.
    #[must_use]
    pub fn source(&self) -> GuestSource {
        GuestSource {
            ostemplate: self.ostemplate.clone(),
            storage: self.storage.clone(),
            pool: self.pool.clone(),
            ..GuestSource::default()
        }
    }
}

/// How a guest is destroyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// Whether a running one is stopped first; else it is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop: bool,
    /// Whether a snapshot is made first. It goes with the guest when that is purged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot_first: bool,
    /// The storage that a backup is made to first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_first: Option<String>,
    /// Whether it is removed at once, instead of being kept for a while under another name, stopped and protected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// How long it is kept, in seconds; a week when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after_s: Option<u32>,
}

impl Destroy {
    /// How long it is kept, in seconds; `None` when it is removed at once.
    #[must_use]
    pub fn kept_s(&self) -> Option<u32> {
        (!self.now).then(|| self.purge_after_s.unwrap_or(PURGE_AFTER_S))
    }
}

/// A backup to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Where to.
    pub storage: String,
    /// How a running guest is treated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<BackupMode>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Whether nothing may remove it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// How a running guest is treated while its backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMode {
    /// It runs on.
    Snapshot,
    /// It is frozen for a while.
    Suspend,
    /// It is stopped for a while.
    Stop,
}

impl BackupMode {
    /// The word in a call.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            BackupMode::Snapshot => "snapshot",
            BackupMode::Suspend => "suspend",
            BackupMode::Stop => "stop",
        }
    }
}

/// What is made from a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// What kind of guest it holds.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// The backup, such as `local:backup/vzdump-qemu-101-2026_11_23-10_00_00.vma.zst`.
    pub archive: String,
    /// The storage for its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Whether it gets addresses and ids of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unique: bool,
    /// Whether a guest of this number is overwritten: what it holds is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
    /// Whether it is started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

impl Restore {
    /// What it is made of.
    #[must_use]
    pub fn source(&self) -> GuestSource {
        GuestSource {
            archive: Some(self.archive.clone()),
            unique: self.unique.then_some(true),
            storage: self.storage.clone(),
            ..GuestSource::default()
        }
    }
}

/// Where a guest goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// The node.
    pub target: String,
    /// Whether it goes while it runs; a container is started anew there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub online: bool,
    /// Whether disks of the node itself go with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_local_disks: bool,
    /// The storage for them there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_storage: Option<String>,
}

/// How long a guest must run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// So long it is seen to run without a break, in seconds, from when it is looked at; one look is enough when 0.
    pub for_s: u32,
    /// Within so long, in seconds.
    pub timeout_s: u32,
}

impl Check {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.timeout_s == 0 || self.timeout_s > CHECK_MAX_S {
            return Err(format!("`timeout_s` is 1 to {CHECK_MAX_S}"));
        }
        // It counts from the first look, which takes its time.
        if self.for_s >= self.timeout_s { Err("`for_s` is less than `timeout_s`".to_owned()) } else { Ok(()) }
    }
}

impl SetConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.set.is_empty() && self.delete.is_empty() {
            return Err("it changes nothing".to_owned());
        }
        if self.set.len() + self.delete.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        if let Some(both) = self.delete.iter().find(|key| self.set.contains_key(*key)) {
            return Err(format!("`{both}` is set and taken out"));
        }
        for key in &self.delete {
            match keys::find(self.kind, key) {
                Err(_) => return Err(format!("`{key}` is no key that can be taken out")),
                Ok(known) if known.is_fixed => return Err(fixed(key)),
                Ok(known) if known.stays() => return Err(format!("`{key}` is never taken out: give it another value")),
                Ok(_) => {}
            }
        }
        if let Some(key) = self.set.keys().find(|key| keys::find(self.kind, key).is_ok_and(|known| known.is_fixed)) {
            return Err(fixed(key));
        }
        if self.digest.as_ref().is_some_and(|digest| digest.len() > DIGEST_MAX || !digest.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(format!("`digest` is none: it has at most {DIGEST_MAX} hex digits"));
        }
        all_right(self.kind, &self.set)
    }
}

fn fixed(key: &str) -> String {
    format!("`{key}` can only be said when the guest is made")
}

impl Resize {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_disk = |kind| keys::find(kind, &self.disk).is_ok_and(|known| matches!(known.shape, Shape::Volume(_)));
        if !is_disk(GuestKind::Qemu) && !is_disk(GuestKind::Lxc) {
            return Err(format!("`{}` is no disk, such as scsi0", crate::fault::cut(&self.disk)));
        }
        scalar::size(&self.size).map(drop).map_err(|wrong| wrong.to_string())
    }
}

impl CloneTo {
    pub(super) fn check(&self, of: Option<Vmid>) -> Result<(), String> {
        if of == Some(self.newid) {
            return Err("`newid` is its own number: a clone is another guest".to_owned());
        }
        if self.full == Some(false) && self.storage.is_some() {
            return Err("a clone that shares the disks of its template has them where those are: leave `storage` out".to_owned());
        }
        named("snapshot", self.snapshot.as_deref(), names::snapshot)?;
        named("name", self.name.as_deref(), names::dns)?;
        named("storage", self.storage.as_deref(), names::storage)?;
        named("pool", self.pool.as_deref(), names::pool)
    }
}

impl Create {
    pub(super) fn check(&self) -> Result<(), String> {
        if (self.kind == GuestKind::Lxc) != self.ostemplate.is_some() {
            return Err("a container has an `ostemplate`, and a virtual machine has none".to_owned());
        }
        all_right(self.kind, &self.config)?;
        if let Some(mount) = rootless(self.kind, &self.config) {
            return Err(format!(
                "`{mount}` needs `rootfs` beside it: Proxmox VE makes a root by itself only where no other volume is named"
            ));
        }
        named("ostemplate", self.ostemplate.as_deref(), |text| names::volume(text, "vztmpl"))?;
        named("storage", self.storage.as_deref(), names::storage)?;
        named("pool", self.pool.as_deref(), names::pool)
    }
}
