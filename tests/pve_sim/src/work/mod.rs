//! What workers do: first what is to be seen while they work (locks, new configs), then, when their time is over, what they were to do.
//!
//! | module | what it does |
//! |---|---|
//! | `power` | starting and stopping |
//! | `snapshot` | snapshots |
//! | `make` | new guests, from nothing, from others and from backups |
//! | `disk` | growing, moving and converting disks |
//! | `backup` | backups |
//! | `leave` | guests that move or go |

use serde::{Deserialize, Serialize};

use crate::api::Change;
use crate::world::World;
use crate::world::guest::Kind;
use crate::world::task::Span;

mod backup;
mod disk;
mod leave;
mod make;
mod power;
mod snapshot;

pub use backup::Backup;
pub use make::{Clone, Create, Restore};

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the fields are the parameters of the calls, under their names")]
pub enum Work {
    /// Nothing: it fails, or others do it.
    Nothing,
    /// Start a guest.
    Start { vmid: u32, kind: Kind, node: String },
    /// Stop one at once.
    Stop { vmid: u32, kind: Kind, node: String },
    /// Ask one to stop.
    Shutdown { vmid: u32, kind: Kind, node: String, timeout_s: u64, force: bool },
    /// Ask one to stop, and start it again.
    Reboot { vmid: u32, kind: Kind, timeout_s: u64 },
    /// Press its button.
    Reset { vmid: u32 },
    /// Halt its processors, or put its state on disk.
    Suspend { vmid: u32, is_disk: bool, storage: Option<String> },
    /// Let it go on.
    Resume { vmid: u32 },
    /// Change a config.
    Config { vmid: u32, change: Change },
    /// Make a snapshot.
    Snapshot { vmid: u32, kind: Kind, node: String, name: String, description: Option<String>, vmstate: bool },
    /// Delete one.
    DeleteSnapshot { vmid: u32, kind: Kind, node: String, name: String, force: bool },
    /// Go back to one.
    Rollback { vmid: u32, kind: Kind, node: String, name: String, start: bool },
    /// Make a guest.
    Create(Box<Create>),
    /// Make one from another.
    Clone(Box<Clone>),
    /// Make one from a backup.
    Restore(Box<Restore>),
    /// Remove one.
    Destroy { vmid: u32, kind: Kind, node: String, purge: bool, force: bool, all_disks: bool, skiplock: bool },
    /// Move one to another node.
    Migrate { vmid: u32, kind: Kind, node: String, target: String, local_disks: bool },
    /// Grow a disk.
    Resize { vmid: u32, kind: Kind, node: String, disk: String, size: String, digest: Option<String>, who: String },
    /// Move a disk to another storage.
    Move { vmid: u32, kind: Kind, node: String, disk: String, storage: String, format: Option<String>, delete: bool },
    /// Give a disk to another guest.
    Reassign { vmid: u32, kind: Kind, disk: String, target: u32, target_disk: String },
    /// Make a template of a guest.
    Template { vmid: u32, kind: Kind, node: String, disk: Option<String> },
    /// Make backups.
    Backup(Box<Backup>),
    /// Remove a volume.
    Remove { volid: String },
    /// Ask the cluster to start a guest.
    HaStart { vmid: u32 },
    /// Ask the cluster to stop one.
    HaStop { vmid: u32, timeout_s: u64 },
    /// Ask the cluster to move one.
    HaMigrate { vmid: u32, target: String },
}

impl Work {
    /// Whose files it holds while it works: alone, and together with others.
    #[must_use]
    pub fn holds(&self) -> (Vec<u32>, Vec<u32>) {
        match self {
            Work::Start { vmid, .. }
            | Work::Stop { vmid, .. }
            | Work::Shutdown { vmid, .. }
            | Work::Reboot { vmid, .. }
            | Work::Config { vmid, .. }
            | Work::Destroy { vmid, .. }
            | Work::Resize { vmid, .. }
            | Work::Move { vmid, .. }
            | Work::Template { vmid, .. } => (vec![*vmid], Vec::new()),
            Work::Reassign { vmid, target, .. } => (vec![*vmid, *target], Vec::new()),
            Work::Create(create) => (vec![create.vmid], Vec::new()),
            Work::Restore(restore) => (vec![restore.vmid], Vec::new()),
            // Of a machine that does not run, many copies may be made at once.
            Work::Clone(clone) if clone.was_running => (vec![clone.vmid, clone.newid], Vec::new()),
            Work::Clone(clone) => (vec![clone.newid], vec![clone.vmid]),
            Work::Nothing
            | Work::Reset { .. }
            | Work::Suspend { .. }
            | Work::Resume { .. }
            | Work::Snapshot { .. }
            | Work::DeleteSnapshot { .. }
            | Work::Rollback { .. }
            | Work::Migrate { .. }
            | Work::Backup(_)
            | Work::Remove { .. }
            | Work::HaStart { .. }
            | Work::HaStop { .. }
            | Work::HaMigrate { .. } => (Vec::new(), Vec::new()),
        }
    }

    /// What it says when it is told to end.
    #[must_use]
    pub fn interrupted(&self) -> &'static str {
        match self {
            Work::Clone(_) => "clone failed: interrupted by signal",
            Work::Move { .. } => "storage migration failed: interrupted by signal",
            Work::Nothing
            | Work::Start { .. }
            | Work::Stop { .. }
            | Work::Shutdown { .. }
            | Work::Reboot { .. }
            | Work::Reset { .. }
            | Work::Suspend { .. }
            | Work::Resume { .. }
            | Work::Config { .. }
            | Work::Snapshot { .. }
            | Work::DeleteSnapshot { .. }
            | Work::Rollback { .. }
            | Work::Create(_)
            | Work::Restore(_)
            | Work::Destroy { .. }
            | Work::Migrate { .. }
            | Work::Resize { .. }
            | Work::Reassign { .. }
            | Work::Template { .. }
            | Work::Backup(_)
            | Work::Remove { .. }
            | Work::HaStart { .. }
            | Work::HaStop { .. }
            | Work::HaMigrate { .. } => "received interrupt",
        }
    }
}

/// What is wrong, in the words of a task's end.
pub(crate) type Done = Result<(), String>;

impl World {
    /// What is seen at once.
    pub(crate) fn begin_work(&mut self, work: &Work, task: u64) -> Result<Span, String> {
        match work {
            Work::Start { vmid, kind, node } => self.begin_start(*vmid, *kind, node),
            Work::Stop { vmid, kind, node } => self.begin_stop(*vmid, *kind, node),
            Work::Shutdown { vmid, kind, node, timeout_s, force } => self.begin_shutdown(*vmid, *kind, node, *timeout_s, *force, task),
            Work::Reboot { vmid, kind, timeout_s } => {
                let node = self.guests.get(vmid).map(|guest| guest.node.clone()).unwrap_or_default();
                self.begin_shutdown(*vmid, *kind, &node, *timeout_s, false, task)
            }
            Work::Suspend { vmid, is_disk, .. } => self.begin_suspend(*vmid, *is_disk),
            Work::Snapshot { vmid, kind, node, name, description, vmstate } => {
                self.begin_snapshot(*vmid, *kind, node, name, description.as_deref(), *vmstate)
            }
            Work::DeleteSnapshot { vmid, kind, node, name, .. } => self.begin_delete_snapshot(*vmid, *kind, node, name),
            Work::Rollback { vmid, kind, node, name, .. } => self.begin_rollback(*vmid, *kind, node, name, task),
            Work::Create(create) => self.begin_create(create),
            Work::Clone(clone) => self.begin_clone(clone, task),
            Work::Restore(restore) => self.begin_restore(restore),
            Work::Destroy { vmid, kind, node, purge, force, skiplock, .. } => {
                self.begin_destroy(*vmid, *kind, node, *purge, *force, *skiplock)
            }
            Work::Migrate { vmid, kind, node, target, local_disks } => self.begin_migrate(*vmid, *kind, node, target, *local_disks),
            Work::Backup(backup) => self.begin_backup(backup, task),
            Work::Template { vmid, kind, node, disk } => self.begin_template(*vmid, *kind, node, disk.as_deref()),
            Work::Nothing
            | Work::Reset { .. }
            | Work::Resume { .. }
            | Work::Config { .. }
            | Work::Resize { .. }
            | Work::Move { .. }
            | Work::Reassign { .. }
            | Work::Remove { .. }
            | Work::HaStart { .. }
            | Work::HaStop { .. }
            | Work::HaMigrate { .. } => Ok(Span::usual()),
        }
    }

    /// What it was to do.
    pub(crate) fn finish_work(&mut self, work: &Work, task: u64) -> Done {
        match work {
            Work::Nothing => Ok(()),
            Work::Start { vmid, .. } => self.finish_start(*vmid, task),
            Work::Stop { vmid, .. } | Work::Shutdown { vmid, .. } => self.finish_stop(*vmid),
            Work::Reboot { vmid, .. } => self.finish_reboot(*vmid, task),
            Work::Reset { vmid } => self.finish_reset(*vmid),
            Work::Suspend { vmid, is_disk, storage } => self.finish_suspend(*vmid, *is_disk, storage.as_deref()),
            Work::Resume { vmid } => self.finish_resume(*vmid, task),
            Work::Config { vmid, change } => {
                self.log(task, &format!("update VM {vmid}: {}", shown(change)));
                crate::api::apply_qemu(self, *vmid, change).map_err(crate::api::Fail::words)
            }
            Work::Snapshot { vmid, name, vmstate, .. } => self.finish_snapshot(*vmid, name, *vmstate),
            Work::DeleteSnapshot { vmid, name, .. } => self.finish_delete_snapshot(*vmid, name),
            Work::Rollback { vmid, name, start, .. } => self.finish_rollback(*vmid, name, *start, task),
            Work::Create(create) => self.finish_create(create, task),
            Work::Clone(clone) => self.finish_clone(clone, task),
            Work::Restore(restore) => self.finish_restore(restore, task),
            Work::Destroy { vmid, purge, all_disks, .. } => self.finish_destroy(*vmid, *purge, *all_disks, task),
            Work::Migrate { vmid, target, .. } => self.finish_migrate(*vmid, target, task),
            Work::Resize { vmid, kind, node, disk, size, digest, who } => {
                self.resize(*vmid, *kind, node, disk, size, digest.as_deref(), who)
            }
            Work::Move { vmid, disk, storage, format, delete, .. } => {
                self.move_disk(*vmid, disk, storage, format.as_deref(), *delete, task)
            }
            Work::Reassign { vmid, disk, target, target_disk, .. } => self.reassign(*vmid, disk, *target, target_disk, task),
            Work::Template { vmid, disk, .. } => self.finish_template(*vmid, disk.as_deref()),
            Work::Backup(backup) => self.finish_backup(backup, task),
            Work::Remove { volid } => self.remove_volume(volid),
            Work::HaStart { vmid } => self.ask_ha(*vmid, None, task),
            Work::HaStop { vmid, timeout_s } => self.ask_ha(*vmid, Some(*timeout_s), task),
            Work::HaMigrate { vmid, target } => self.ask_ha_to_move(*vmid, target, task),
        }
    }

    /// Takes back what was seen at once: the worker failed, or was told to end.
    pub(crate) fn undo_work(&mut self, work: &Work) {
        match work {
            Work::Snapshot { vmid, name, .. } => self.undo_snapshot(*vmid, name),
            Work::Rollback { vmid, .. } | Work::Migrate { vmid, .. } | Work::Suspend { vmid, .. } => self.unlock(*vmid),
            Work::Create(create) => self.undo_create(create.vmid),
            Work::Clone(clone) => self.undo_clone(clone),
            Work::Restore(restore) => self.unlock(restore.vmid),
            Work::Backup(backup) => self.undo_backup(backup),
            // A snapshot that is half deleted stays locked: a person has to look.
            Work::DeleteSnapshot { .. }
            | Work::Nothing
            | Work::Start { .. }
            | Work::Stop { .. }
            | Work::Shutdown { .. }
            | Work::Reboot { .. }
            | Work::Reset { .. }
            | Work::Resume { .. }
            | Work::Config { .. }
            | Work::Destroy { .. }
            | Work::Resize { .. }
            | Work::Move { .. }
            | Work::Reassign { .. }
            | Work::Template { .. }
            | Work::Remove { .. }
            | Work::HaStart { .. }
            | Work::HaStop { .. }
            | Work::HaMigrate { .. } => {}
        }
    }

    /// Takes a guest's lock off.
    pub(crate) fn unlock(&mut self, vmid: u32) {
        self.edit(vmid, |guest| guest.conf.remove("lock"));
    }

    /// Locks a guest that is not locked.
    pub(crate) fn lock(&mut self, vmid: u32, lock: &str) {
        self.edit(vmid, |guest| guest.conf.insert("lock".to_owned(), lock.to_owned()));
    }
}

fn shown(change: &Change) -> String {
    let set = change.set.iter().map(|(key, value)| {
        let value = if key == "cipassword" { "<hidden>" } else { value };
        format!("-{key} {value}")
    });
    let delete = (!change.delete.is_empty()).then(|| format!("-delete {}", change.delete.join(",")));
    set.chain(delete).collect::<Vec<_>>().join(" ")
}
