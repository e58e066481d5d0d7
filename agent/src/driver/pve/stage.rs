//! The stages of an operation on a guest. Each is one call and the task that it may begin.

use moorline_common::observe::GuestStatus;
use moorline_common::op::guest::{Create, Destroy, GuestOp, Restore};

use super::op::Before;

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The operation's own call.
    Own,
    /// A backup before the guest goes.
    BackupFirst,
    /// A snapshot before the guest goes.
    SnapshotFirst,
    /// Its power is cut.
    Stop,
    /// It is kept for a while: under another name, protected.
    Bury,
    /// It goes.
    Remove,
    /// It is marked as Moorline's.
    Mark,
    /// It is started.
    Start,
}

impl Stage {
    /// The kinds of the tasks that it begins, as a stage of `op`.
    pub(super) const fn task_kinds(self, op: &GuestOp) -> &'static [&'static str] {
        match self {
            Stage::Own => own_kinds(op),
            Stage::BackupFirst => &["vzdump"],
            Stage::SnapshotFirst => &["qmsnapshot", "vzsnapshot"],
            Stage::Stop => &["qmstop", "vzstop", "hastop"],
            Stage::Bury | Stage::Mark => &[],
            Stage::Remove => &["qmdestroy", "vzdestroy"],
            Stage::Start => &["qmstart", "vzstart", "hastart"],
        }
    }
}

/// The kinds of the tasks that an operation's own call begins. A clone bears the number of what it is made of, and others may make
/// clones of that meanwhile: see [`super::run::Run::task_of_clone`].
const fn own_kinds(op: &GuestOp) -> &'static [&'static str] {
    match op {
        GuestOp::Start => &["qmstart", "vzstart", "hastart"],
        GuestOp::Stop => &["qmstop", "vzstop", "hastop"],
        GuestOp::Shutdown(_) => &["qmshutdown", "vzshutdown", "hastop"],
        GuestOp::Reboot(_) => &["qmreboot", "vzreboot"],
        GuestOp::Suspend(_) => &["qmsuspend", "qmpause"],
        GuestOp::Resume => &["qmresume", "vzresume", "qmstart"],
        GuestOp::Reset => &["qmreset"],
        GuestOp::SetConfig(_) => &["qmconfig"],
        GuestOp::Resize(_) => &["resize"],
        GuestOp::SnapshotCreate(_) => &["qmsnapshot", "vzsnapshot"],
        GuestOp::SnapshotDelete(_) => &["qmdelsnapshot", "vzdelsnapshot"],
        GuestOp::SnapshotRollback(_) => &["qmrollback", "vzrollback"],
        GuestOp::Clone(_) => &["qmclone", "vzclone"],
        GuestOp::Create(_) => &["qmcreate", "vzcreate"],
        GuestOp::Restore(_) => &["qmrestore", "vzrestore"],
        GuestOp::Backup(_) => &["vzdump"],
        GuestOp::Migrate(_) => &["qmigrate", "vzmigrate", "hamigrate"],
        GuestOp::SnapshotList | GuestOp::Destroy(_) | GuestOp::Check(_) => &[],
    }
}

/// The stages of an operation on a guest that was so before.
pub(super) fn stages(op: &GuestOp, before: &Before) -> Vec<Stage> {
    match op {
        GuestOp::Destroy(destroy) => {
            let Destroy { stop, snapshot_first, backup_first, .. } = destroy;
            let mut stages = Vec::new();
            stages.extend(backup_first.is_some().then_some(Stage::BackupFirst));
            stages.extend(snapshot_first.then_some(Stage::SnapshotFirst));
            stages.extend((*stop && before.status != GuestStatus::Stopped).then_some(Stage::Stop));
            stages.push(if destroy.kept_s().is_some() { Stage::Bury } else { Stage::Remove });
            stages
        }
        GuestOp::Clone(_) => vec![Stage::Own, Stage::Mark],
        GuestOp::Create(Create { start, .. }) | GuestOp::Restore(Restore { start, .. }) => {
            let mut stages = vec![Stage::Own, Stage::Mark];
            stages.extend(start.then_some(Stage::Start));
            stages
        }
        GuestOp::Start
        | GuestOp::Stop
        | GuestOp::Shutdown(_)
        | GuestOp::Reboot(_)
        | GuestOp::Suspend(_)
        | GuestOp::Resume
        | GuestOp::Reset
        | GuestOp::SetConfig(_)
        | GuestOp::Resize(_)
        | GuestOp::SnapshotCreate(_)
        | GuestOp::SnapshotDelete(_)
        | GuestOp::SnapshotRollback(_)
        | GuestOp::SnapshotList
        | GuestOp::Backup(_)
        | GuestOp::Migrate(_)
        | GuestOp::Check(_) => vec![Stage::Own],
    }
}
