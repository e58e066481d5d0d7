//! What really happened to guests, in order and never forgotten: by it tests count that nothing happened twice.

use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// To which guest.
    pub vmid: u32,
    /// What.
    pub kind: EffectKind,
    /// Which one of them: the key, the snapshot, the volume.
    pub what: String,
    /// The task that did it, or `request 12`, or empty.
    pub cause: String,
    /// For whom that was, see [`Request::on_behalf`](crate::Request::on_behalf).
    pub on_behalf: String,
    /// Who did.
    pub by: By,
}

/// Kinds of what can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectKind {
    /// It came to be.
    Created,
    /// It came to be as a copy.
    Cloned,
    /// It came to be, or was overwritten, from a backup.
    Restored,
    /// It is gone.
    Destroyed,
    /// It began to run.
    Started,
    /// It ceased to run.
    Stopped,
    /// It was reset.
    Reset,
    /// Its processors were halted, or its state was put on disk.
    Suspended,
    /// They go on.
    Resumed,
    /// A key got a value, or a value that waits for the next start.
    ConfigSet,
    /// A key went away, or will at the next start.
    ConfigDeleted,
    /// A volume was made.
    VolumeMade,
    /// A volume is gone.
    VolumeFreed,
    /// A volume grew.
    VolumeGrown,
    /// A volume went to another storage or guest.
    VolumeMoved,
    /// A volume is no longer attached.
    VolumeDetached,
    /// There is a snapshot.
    SnapshotMade,
    /// There was one.
    SnapshotDeleted,
    /// It is again what it was at a snapshot.
    RolledBack,
    /// It is a template.
    Templated,
    /// It is on another node.
    Migrated,
    /// There is a backup.
    BackedUp,
    /// There was one.
    BackupDeleted,
    /// Its config was locked from outside.
    LockSet,
    /// It was unlocked from outside.
    LockCleared,
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A call of the API.
    Api,
    /// Somebody on the host, or the test.
    Hand,
    /// The guest, or the cluster.
    Itself,
}
