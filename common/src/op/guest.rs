//! Operations on Proxmox VE's guests: their kinds and parameters, read strictly.
//!
//! Each is what the API's call of that name does; see the API viewer below `/nodes/{node}/qemu/{vmid}` and `/nodes/{node}/lxc/{vmid}`.

use serde_json::{Value, json};

use super::act::{Nothing, params_of, written};
use super::{Class, HoldEffect};
use crate::fault::{Code, Fault};
use crate::id::{Generation, ResourceId};
use crate::pve::guest::{self, Config};
use crate::pve::{GuestKind, Vmid, names, privilege, scalar};

mod output;
mod params;

pub use output::Output;
pub use params::{
    Backup, BackupMode, Check, CloneTo, Create, Destroy, Migrate, Resize, Restore, SetConfig, SnapshotCreate, SnapshotDelete,
    SnapshotRollback, Stop, Suspend, snapshot_name,
};

/// The longest that a guest may take to stop, in seconds.
pub const STOP_MAX_S: u32 = 3600;
/// The longest that a guest is watched, in seconds.
pub const CHECK_MAX_S: u32 = 3600;
/// The most bytes of a text that an operator gives.
const TEXT_MAX: usize = 1024;
/// The most bytes of a backup's notes: of the 1024 that the API takes some are for the operation's own mark.
const NOTES_MAX: usize = 960;
/// What a host fills in in a backup's notes. Source: the API page `POST …/vzdump`.
const NOTE_VARIABLES: [&str; 4] = ["cluster", "guestname", "node", "vmid"];
/// How long a guest that was destroyed is kept when nobody says otherwise, in seconds: a week.
pub const PURGE_AFTER_S: u32 = 7 * 24 * 3600;
/// The longest that it is kept.
const PURGE_AFTER_MAX_S: u32 = 365 * 24 * 3600;

/// What to do with a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestOp {
    /// Starts it.
    Start,
    /// Cuts its power.
    Stop,
    /// Lets it end by itself.
    Shutdown(Stop),
    /// Lets it end by itself and starts it, with what waited for that.
    Reboot(Stop),
    /// Freezes it.
    Suspend(Suspend),
    /// Lets a frozen one go on.
    Resume,
    /// Presses its reset button.
    Reset,
    /// Changes its config.
    SetConfig(SetConfig),
    /// Grows one of its disks.
    Resize(Resize),
    /// Makes a snapshot.
    SnapshotCreate(SnapshotCreate),
    /// Removes a snapshot.
    SnapshotDelete(SnapshotDelete),
    /// Brings it back to a snapshot.
    SnapshotRollback(SnapshotRollback),
    /// Lists its snapshots.
    SnapshotList,
    /// Makes another guest of it.
    Clone(CloneTo),
    /// Makes it.
    Create(Create),
    /// Removes it for good.
    Destroy(Destroy),
    /// Makes a backup.
    Backup(Backup),
    /// Makes it from a backup, in its own place if need be.
    Restore(Restore),
    /// Brings it to another node of its cluster.
    Migrate(Migrate),
    /// Watches whether it runs, and goes on to.
    Check(Check),
}

impl GuestOp {
    /// Reads kind and parameters of an operation on `resource`.
    ///
    /// # Errors
    /// [`Code::UnknownKind`] or [`Code::BadParams`].
    pub fn read(kind: &str, params: &Value, resource: &ResourceId) -> Result<Self, Fault> {
        let op = match kind {
            "start" => none(kind, params, GuestOp::Start)?,
            "stop" => none(kind, params, GuestOp::Stop)?,
            "shutdown" => GuestOp::Shutdown(params_of(kind, params)?),
            "reboot" => GuestOp::Reboot(params_of(kind, params)?),
            "suspend" => GuestOp::Suspend(params_of(kind, params)?),
            "resume" => none(kind, params, GuestOp::Resume)?,
            "reset" => none(kind, params, GuestOp::Reset)?,
            "set-config" => GuestOp::SetConfig(params_of(kind, params)?),
            "resize" => GuestOp::Resize(params_of(kind, params)?),
            "snapshot-create" => GuestOp::SnapshotCreate(params_of(kind, params)?),
            "snapshot-delete" => GuestOp::SnapshotDelete(params_of(kind, params)?),
            "snapshot-rollback" => GuestOp::SnapshotRollback(params_of(kind, params)?),
            "snapshot-list" => none(kind, params, GuestOp::SnapshotList)?,
            "clone" => GuestOp::Clone(params_of(kind, params)?),
            "create" => GuestOp::Create(params_of(kind, params)?),
            "destroy" => GuestOp::Destroy(params_of(kind, params)?),
            "backup" => GuestOp::Backup(params_of(kind, params)?),
            "restore" => GuestOp::Restore(params_of(kind, params)?),
            "migrate" => GuestOp::Migrate(params_of(kind, params)?),
            "check" => GuestOp::Check(params_of(kind, params)?),
            other => {
                return Err(Fault::new(Code::UnknownKind, format!("there is no operation `{}` on guests", crate::fault::cut(other))));
            }
        };
        op.check(Vmid::of(resource))?;
        Ok(op)
    }

    /// Whether it leaves a guest as it is, and works on anybody's: a template is there to be copied.
    #[must_use]
    pub fn only_looks(&self, is_template: bool) -> bool {
        matches!(self, GuestOp::SnapshotList | GuestOp::Check(_)) || (is_template && matches!(self, GuestOp::Clone(_)))
    }

    /// Checks its parameters, for the guest `on`, if that is known.
    ///
    /// # Errors
    /// [`Code::BadParams`].
    pub fn check(&self, on: Option<Vmid>) -> Result<(), Fault> {
        self.try_check(on).map_err(|why| Fault::new(Code::BadParams, format!("`{}`: {why}", self.kind())))
    }

    fn try_check(&self, on: Option<Vmid>) -> Result<(), String> {
        match self {
            GuestOp::Start | GuestOp::Stop | GuestOp::Suspend(_) | GuestOp::Resume | GuestOp::Reset | GuestOp::SnapshotList => Ok(()),
            GuestOp::Shutdown(stop) | GuestOp::Reboot(stop) => match stop.timeout_s {
                Some(s) if s == 0 || s > STOP_MAX_S => Err(format!("`timeout_s` is 1 to {STOP_MAX_S}")),
                Some(_) | None if matches!(self, GuestOp::Reboot(_)) && stop.force => Err("`force` is for `shutdown`".to_owned()),
                Some(_) | None => Ok(()),
            },
            GuestOp::SetConfig(change) => change.check(),
            GuestOp::Resize(resize) => resize.check(),
            GuestOp::SnapshotCreate(SnapshotCreate { name, description, .. }) => {
                named("name", name.as_deref(), names::snapshot)?;
                text("description", description.as_deref(), TEXT_MAX)
            }
            GuestOp::SnapshotDelete(SnapshotDelete { name, .. }) | GuestOp::SnapshotRollback(SnapshotRollback { name, .. }) => {
                named("name", Some(name), names::snapshot)
            }
            GuestOp::Clone(to) => to.check(on),
            GuestOp::Create(make) => make.check(),
            GuestOp::Destroy(destroy) => {
                if destroy.now && destroy.purge_after_s.is_some() {
                    return Err("`now` and `purge_after_s` exclude each other".to_owned());
                }
                if destroy.purge_after_s.is_some_and(|s| s > PURGE_AFTER_MAX_S) {
                    return Err(format!("`purge_after_s` is at most {PURGE_AFTER_MAX_S}"));
                }
                named("backup_first", destroy.backup_first.as_deref(), names::storage)
            }
            GuestOp::Backup(backup) => {
                named("storage", Some(&backup.storage), names::storage)?;
                backup.notes.as_deref().map_or(Ok(()), notes)
            }
            GuestOp::Restore(restore) => {
                named("archive", Some(&restore.archive), |text| names::volume(text, "backup"))?;
                named("storage", restore.storage.as_deref(), names::storage)
            }
            GuestOp::Migrate(to) => {
                if !crate::pve::upid::is_node(&to.target) {
                    return Err(format!("`{}` is no name of a node", crate::fault::cut(&to.target)));
                }
                named("target_storage", to.target_storage.as_deref(), names::storage)
            }
            GuestOp::Check(check) => check.check(),
        }
    }

    /// The kind's word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            GuestOp::Start => "start",
            GuestOp::Stop => "stop",
            GuestOp::Shutdown(_) => "shutdown",
            GuestOp::Reboot(_) => "reboot",
            GuestOp::Suspend(_) => "suspend",
            GuestOp::Resume => "resume",
            GuestOp::Reset => "reset",
            GuestOp::SetConfig(_) => "set-config",
            GuestOp::Resize(_) => "resize",
            GuestOp::SnapshotCreate(_) => "snapshot-create",
            GuestOp::SnapshotDelete(_) => "snapshot-delete",
            GuestOp::SnapshotRollback(_) => "snapshot-rollback",
            GuestOp::SnapshotList => "snapshot-list",
            GuestOp::Clone(_) => "clone",
            GuestOp::Create(_) => "create",
            GuestOp::Destroy(_) => "destroy",
            GuestOp::Backup(_) => "backup",
            GuestOp::Restore(_) => "restore",
            GuestOp::Migrate(_) => "migrate",
            GuestOp::Check(_) => "check",
        }
    }

    /// The parameters, as [`GuestOp::read`] takes them.
    #[must_use]
    pub fn params(&self) -> Value {
        match self {
            GuestOp::Start | GuestOp::Stop | GuestOp::Resume | GuestOp::Reset | GuestOp::SnapshotList => json!({}),
            GuestOp::Shutdown(params) | GuestOp::Reboot(params) => written(params),
            GuestOp::Suspend(params) => written(params),
            GuestOp::SetConfig(params) => written(params),
            GuestOp::Resize(params) => written(params),
            GuestOp::SnapshotCreate(params) => written(params),
            GuestOp::SnapshotDelete(params) => written(params),
            GuestOp::SnapshotRollback(params) => written(params),
            GuestOp::Clone(params) => written(params),
            GuestOp::Create(params) => written(params),
            GuestOp::Destroy(params) => written(params),
            GuestOp::Backup(params) => written(params),
            GuestOp::Restore(params) => written(params),
            GuestOp::Migrate(params) => written(params),
            GuestOp::Check(params) => written(params),
        }
    }

    /// How much it can do.
    #[must_use]
    pub fn class(&self) -> Class {
        if self.config().is_some_and(|(kind, config)| privilege::asked_for(kind, config).is_some()) {
            return Class::P;
        }
        match self {
            GuestOp::SnapshotList | GuestOp::Check(_) => Class::R0,
            GuestOp::Start
            | GuestOp::Shutdown(Stop { force: false, .. })
            | GuestOp::Reboot(_)
            | GuestOp::Suspend(_)
            | GuestOp::Resume
            | GuestOp::SnapshotCreate(_)
            | GuestOp::Clone(_)
            | GuestOp::Create(_)
            | GuestOp::Backup(_)
            | GuestOp::Restore(Restore { over: false, .. }) => Class::R2,
            GuestOp::Stop
            | GuestOp::Shutdown(Stop { force: true, .. })
            | GuestOp::Reset
            | GuestOp::SetConfig(_)
            | GuestOp::Resize(_)
            | GuestOp::SnapshotRollback(_)
            | GuestOp::Restore(Restore { over: true, .. })
            | GuestOp::Migrate(_) => Class::R3,
            GuestOp::SnapshotDelete(_) | GuestOp::Destroy(_) => Class::R4,
        }
    }

    /// The config that it sets, and of which kind of guest.
    #[must_use]
    pub fn config(&self) -> Option<(GuestKind, &Config)> {
        if let GuestOp::SetConfig(change) = self {
            return Some((change.kind, &change.set));
        }
        if let GuestOp::Create(make) = self { Some((make.kind, &make.config)) } else { None }
    }

    /// What its success means for the reconcile pass towards `generation`.
    #[must_use]
    pub const fn hold(&self, generation: Generation) -> Option<HoldEffect> {
        match self {
            GuestOp::Stop | GuestOp::Shutdown(_) | GuestOp::Suspend(_) => Some(HoldEffect::PlacePower(generation)),
            GuestOp::SetConfig(_)
            | GuestOp::Resize(_)
            | GuestOp::SnapshotRollback(_)
            | GuestOp::Restore(_)
            | GuestOp::Destroy(_)
            | GuestOp::Migrate(_) => Some(HoldEffect::Place(generation)),
            GuestOp::Start | GuestOp::Resume => Some(HoldEffect::LiftPower),
            GuestOp::Reboot(_)
            | GuestOp::Reset
            | GuestOp::SnapshotCreate(_)
            | GuestOp::SnapshotDelete(_)
            | GuestOp::SnapshotList
            | GuestOp::Clone(_)
            | GuestOp::Create(_)
            | GuestOp::Backup(_)
            | GuestOp::Check(_) => None,
        }
    }

    /// Whether it is ordered for exactly one of those that have borne the guest's number.
    #[must_use]
    pub const fn needs_incarnation(&self) -> bool {
        matches!(
            self,
            GuestOp::Destroy(_) | GuestOp::SnapshotDelete(_) | GuestOp::SnapshotRollback(_) | GuestOp::Restore(Restore { over: true, .. })
        )
    }

    /// What kind of guest it makes that is not there before it.
    #[must_use]
    pub const fn makes(&self) -> Option<GuestKind> {
        match self {
            GuestOp::Create(make) => Some(make.kind),
            GuestOp::Restore(Restore { over: false, kind, .. }) => Some(*kind),
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
            | GuestOp::Clone(_)
            | GuestOp::Destroy(_)
            | GuestOp::Backup(_)
            | GuestOp::Restore(_)
            | GuestOp::Migrate(_)
            | GuestOp::Check(_) => None,
        }
    }
}

fn none(kind: &str, params: &Value, op: GuestOp) -> Result<GuestOp, Fault> {
    params_of::<Nothing>(kind, params).map(|_| op)
}

fn all_right(kind: GuestKind, config: &Config) -> Result<(), String> {
    guest::check(kind, config).map_err(|wrong| {
        let words: Vec<String> = wrong.iter().map(|(key, why)| format!("{key}: {why}")).collect();
        words.join("; ")
    })
}

/// Checks the name that a parameter is.
fn named(what: &str, name: Option<&str>, check: impl FnOnce(&str) -> Result<(), scalar::Wrong>) -> Result<(), String> {
    name.map_or(Ok(()), check).map_err(|wrong| format!("`{what}`: {wrong}"))
}

fn text(what: &str, text: Option<&str>, most: usize) -> Result<(), String> {
    if text.is_none_or(|text| text.len() <= most) { Ok(()) } else { Err(format!("`{what}` has at most {most} bytes")) }
}

/// Checks a backup's notes, which are a template. Source: `PVE::VZDump::verify_notes_template`.
fn notes(notes: &str) -> Result<(), String> {
    text("notes", Some(notes), NOTES_MAX)?;
    if notes.chars().any(|c| c.is_control() || c == '\\') {
        return Err("`notes` are one line, without backslashes: Proxmox VE reads them as a template".to_owned());
    }
    let variables = notes.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0));
    let is_strange = |name: &&str| !NOTE_VARIABLES.contains(name) && !name.contains(|c: char| c.is_whitespace() || matches!(c, '{' | '}'));
    match variables.into_iter().find(is_strange) {
        Some(strange) => Err(format!(
            "`notes`: `{{{{{}}}}}` is nothing that Proxmox VE fills in: it is one of {}",
            crate::fault::cut(strange),
            NOTE_VARIABLES.join(", ")
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OpId;

    fn read(kind: &str, params: &Value) -> Result<GuestOp, Fault> {
        GuestOp::read(kind, params, &Vmid::parse("101").unwrap().resource())
    }

    #[test]
    fn each_kind_has_its_class_and_is_read_back_as_it_was_written() {
        let archive = "local:backup/vzdump-qemu-101-2026_11_23-10_00_00.vma.zst";
        for (kind, params, class) in [
            ("start", json!({}), Class::R2),
            ("stop", json!({}), Class::R3),
            ("shutdown", json!({ "timeout_s": 60 }), Class::R2),
            ("shutdown", json!({ "force": true }), Class::R3),
            ("reboot", json!({}), Class::R2),
            ("suspend", json!({ "to_disk": true }), Class::R2),
            ("resume", json!({}), Class::R2),
            ("reset", json!({}), Class::R3),
            ("set-config", json!({ "type": "qemu", "set": { "memory": "2048" }, "delete": ["onboot"] }), Class::R3),
            ("set-config", json!({ "type": "qemu", "set": { "virtiofs0": "share" } }), Class::P),
            ("create", json!({ "type": "qemu", "config": { "hostpci0": "mapping=gpu" } }), Class::P),
            ("resize", json!({ "disk": "scsi0", "size": "32G" }), Class::R3),
            ("snapshot-create", json!({ "name": "before", "memory": true }), Class::R2),
            ("snapshot-delete", json!({ "name": "before" }), Class::R4),
            ("snapshot-rollback", json!({ "name": "before", "start": true }), Class::R3),
            ("snapshot-list", json!({}), Class::R0),
            ("clone", json!({ "newid": "102", "full": true }), Class::R2),
            ("create", json!({ "type": "lxc", "ostemplate": "local:vztmpl/d.tar.zst", "config": { "hostname": "a" } }), Class::R2),
            ("destroy", json!({ "stop": true, "backup_first": "local" }), Class::R4),
            ("backup", json!({ "storage": "local", "mode": "suspend" }), Class::R2),
            ("backup", json!({ "storage": "local", "notes": "{{guestname}} on {{node}}, before { }" }), Class::R2),
            ("resize", json!({ "disk": "mp0", "size": "32G" }), Class::R3),
            ("restore", json!({ "type": "qemu", "archive": archive }), Class::R2),
            ("restore", json!({ "type": "qemu", "archive": archive, "over": true }), Class::R3),
            ("migrate", json!({ "target": "pve-2", "online": true }), Class::R3),
            ("check", json!({ "for_s": 30, "timeout_s": 300 }), Class::R0),
        ] {
            let op = read(kind, &params).unwrap();
            assert_eq!((op.kind(), op.params(), op.class()), (kind, params, class));
            assert!(crate::op::Act::KINDS.contains(&kind));
        }
    }

    #[test]
    fn what_the_host_would_not_take_is_refused_before_it_is_signed() {
        for (kind, params, says) in [
            ("explode", json!({}), "no operation"),
            ("start", json!({ "now": true }), "unknown field"),
            ("shutdown", json!({ "timeout_s": 0 }), "1 to 3600"),
            ("reboot", json!({ "force": true }), "`shutdown`"),
            ("set-config", json!({ "type": "qemu" }), "changes nothing"),
            ("set-config", json!({ "type": "qemu", "set": { "args": "-x" } }), "only root"),
            ("set-config", json!({ "type": "qemu", "set": { "cores": "0" } }), "cores"),
            ("set-config", json!({ "type": "lxc", "set": { "scsi0": "local:8" } }), "no key of a container"),
            ("set-config", json!({ "type": "qemu", "set": { "memory": "1024" }, "delete": ["memory"] }), "set and taken out"),
            ("resize", json!({ "disk": "scsi0", "size": "+4G" }), "no size"),
            ("snapshot-create", json!({ "name": "current" }), "something else"),
            ("snapshot-create", json!({ "name": "1st" }), "a letter"),
            ("snapshot-rollback", json!({}), "missing field"),
            ("clone", json!({ "newid": "99" }), "guest's number"),
            ("create", json!({ "type": "lxc" }), "ostemplate"),
            ("destroy", json!({ "now": true, "purge_after_s": 5 }), "exclude"),
            ("migrate", json!({ "target": "a/b" }), "no name of a node"),
            ("check", json!({ "for_s": 30 }), "missing field"),
            ("check", json!({ "for_s": 30, "timeout_s": 3601 }), "1 to 3600"),
            ("check", json!({ "for_s": 0, "timeout_s": 0 }), "1 to 3600"),
            ("check", json!({ "for_s": 30, "timeout_s": 30 }), "less than `timeout_s`"),
            ("check", json!({ "for_s": -1, "timeout_s": 30 }), "invalid value"),
            ("check", json!({ "for_s": 1, "timeout_s": 30, "agent": true }), "unknown field"),
            ("migrate", json!({ "target": "pve-2", "target_storage": "a/b" }), "no storage's name"),
            ("clone", json!({ "newid": "101" }), "its own number"),
            ("clone", json!({ "newid": "102", "name": "a_b" }), "`name`: `a_b` is no name as in DNS"),
            ("clone", json!({ "newid": "102", "storage": "a!" }), "no storage's name"),
            ("clone", json!({ "newid": "102", "pool": "a b" }), "no pool's name"),
            ("clone", json!({ "newid": "102", "full": false, "storage": "local" }), "where those are"),
            ("clone", json!({ "newid": "102", "snapshot": "current" }), "something else"),
            ("restore", json!({ "type": "qemu", "archive": "/var/lib/vz/dump/a.vma" }), "STORAGE:backup/NAME"),
            ("restore", json!({ "type": "qemu", "archive": "local:iso/a.iso" }), "STORAGE:backup/NAME"),
            ("resize", json!({ "disk": "net0", "size": "32G" }), "no disk"),
            ("resize", json!({ "disk": "scsi31", "size": "32G" }), "no disk"),
            ("set-config", json!({ "type": "lxc", "delete": ["memory"] }), "never taken out"),
            ("set-config", json!({ "type": "lxc", "delete": ["rootfs"] }), "never taken out"),
            ("set-config", json!({ "type": "lxc", "delete": ["unprivileged"] }), "when the guest is made"),
            ("set-config", json!({ "type": "lxc", "set": { "unprivileged": "0" } }), "when the guest is made"),
            ("set-config", json!({ "type": "qemu", "delete": ["smbios1"] }), "never taken out"),
            ("set-config", json!({ "type": "qemu", "delete": ["vmgenid"] }), "no key that"),
            ("set-config", json!({ "type": "qemu", "delete": ["onboot"], "digest": "x" }), "40 hex digits"),
            ("create", json!({ "type": "lxc", "ostemplate": "local:iso/d.iso" }), "STORAGE:vztmpl/NAME"),
            (
                "create",
                json!({ "type": "lxc", "ostemplate": "local:vztmpl/d.tar.zst", "config": { "mp0": "local-lvm:8,mp=/srv" } }),
                "needs `rootfs`",
            ),
            ("create", json!({ "type": "qemu", "storage": "a/b" }), "no storage's name"),
            ("destroy", json!({ "backup_first": "a b" }), "no storage's name"),
            ("backup", json!({ "storage": "a b" }), "no storage's name"),
            ("backup", json!({ "storage": "local", "notes": "a\nb" }), "one line"),
            ("backup", json!({ "storage": "local", "notes": "a\\b" }), "backslashes"),
            ("backup", json!({ "storage": "local", "notes": "of {{name}}" }), "`{{name}}` is nothing"),
            ("backup", json!({ "storage": "local", "notes": "a".repeat(961) }), "at most 960"),
        ] {
            let fault = read(kind, &params).unwrap_err();
            assert!(fault.message.contains(says), "{kind} {params}: {fault}");
        }
    }

    #[test]
    fn a_snapshot_of_its_own_bears_the_whole_id_of_its_operation() {
        let op_id = OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap();
        let name = SnapshotCreate::default().name(&op_id);
        assert_eq!(names::snapshot(&name), Ok(()));
        assert!(name.ends_with(op_id.as_str()));
    }
}
