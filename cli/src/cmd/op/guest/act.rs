//! From the words of the command line to what is ordered of a guest.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use moorline_common::observe::Observed;
use moorline_common::op::guest::{
    Backup, Check, CloneTo, Create, Destroy, Migrate, Resize, Restore, SetConfig, SnapshotCreate, SnapshotDelete, SnapshotRollback, Stop,
    Suspend,
};
use moorline_common::op::{Act, GuestOp};
use moorline_common::pve::guest::Config;
use moorline_common::pve::{GuestKind, Vmid, privilege};

use super::meant::{self, Named};
use super::{CloneArgs, CreateArgs, DestroyArgs, GuestVerb, OnGuest, RestoreArgs, SetConfigArgs, SnapshotVerb, kind_words};
use crate::cmd::op::OnOne;
use crate::cmd::op::act::{Wish, seconds};
use crate::error::Failure;

/// A change of a config, as far as the command line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigWish {
    set: Config,
    delete: BTreeSet<String>,
    kind: Option<GuestKind>,
    digest: Option<String>,
    any_version: bool,
}

impl ConfigWish {
    /// The order, with what the host's report says of the guest: its kind, and the version of its config.
    ///
    /// # Errors
    /// When neither the command line nor the report says it, or they say otherwise.
    pub fn act(self, resource: &ResourceId, observed: Option<&Observed>) -> Result<Act, Failure> {
        let vmid = Vmid::of(resource).ok_or_else(|| Failure::local(format!("{resource} is no guest")))?;
        let guest = meant::find(observed, vmid);
        let kind = match (self.kind, guest) {
            (Some(said), Some(guest)) if said != guest.kind => {
                let message = format!("guest {vmid} is a {} by the host's last report", kind_words(guest.kind));
                return Err(Failure::usage(message, format!("leave `--type` out, or write `--type {}`", guest.kind.as_str())));
            }
            (Some(kind), _) => kind,
            (None, Some(guest)) => guest.kind,
            (None, None) => {
                let or = ", or, for one that is newer than the report, say `--type qemu` or `--type lxc`, `--any-version` and `--incarnation any`";
                return Err(meant::missing(vmid, observed, or));
            }
        };
        if let Some(guest) = guest {
            meant::require_ours(vmid, guest)?;
        }
        let seen = guest.and_then(|g| g.digest.clone());
        let digest = self.digest.or(seen.filter(|_| !self.any_version));
        if digest.is_none() && !self.any_version {
            let message = format!("the host's last report does not say which version the config of guest {vmid} is");
            return Err(Failure::from(Fault::new(Code::NotFound, message))
                .with_remedy("name the version with `--digest DIGEST`, or add `--any-version`: then it is done whatever the config is"));
        }
        Ok(Act::Guest(GuestOp::SetConfig(SetConfig { set: self.set, delete: self.delete, digest, kind })))
    }
}

/// What is ordered of a guest, and of which.
///
/// # Errors
/// A usage failure for what is no guest, with the verb for what it is.
pub fn read(verb: GuestVerb) -> Result<(Wish, OnOne), Failure> {
    let (op, on) = match verb {
        GuestVerb::Shutdown { on, timeout, force } => (GuestOp::Shutdown(Stop { timeout_s: timeout.map(seconds), force }), on),
        GuestVerb::Reboot { on, timeout } => (GuestOp::Reboot(Stop { timeout_s: timeout.map(seconds), force: false }), on),
        GuestVerb::Suspend { on, to_disk } => (GuestOp::Suspend(Suspend { to_disk }), on),
        GuestVerb::Resume(on) => (GuestOp::Resume, on),
        GuestVerb::Reset(on) => (GuestOp::Reset, on),
        GuestVerb::SetConfig(args) => return set_config(args),
        GuestVerb::Resize { on, disk, size } => (GuestOp::Resize(Resize { disk, size }), on),
        GuestVerb::Snapshot(verb) => snapshot(verb),
        GuestVerb::Clone(args) => clone(args),
        GuestVerb::Create(args) => create(args)?,
        GuestVerb::Backup { on, storage, mode, notes, protected } => (GuestOp::Backup(Backup { storage, mode, notes, protected }), on),
        GuestVerb::Restore(args) => restore(args)?,
        GuestVerb::Migrate { on, to, online, with_local_disks, target_storage } => {
            (GuestOp::Migrate(Migrate { target: to, online, with_local_disks, target_storage }), on)
        }
        GuestVerb::Check { on, span, timeout } => (GuestOp::Check(Check { for_s: seconds(span), timeout_s: seconds(timeout) }), on),
    };
    let named = require(op.kind(), &on.target)?;
    if let (Named::Name(name), Some(_)) = (&named, op.makes()) {
        let remedy = "write the number that it shall have, such as pve-1/205";
        return Err(Failure::usage(format!("`guest/{name}` is a name, and what is made gets a number"), remedy));
    }
    Ok((Wish::Act(Act::Guest(op)), on.into()))
}

fn snapshot(verb: SnapshotVerb) -> (GuestOp, OnGuest) {
    match verb {
        SnapshotVerb::Create { on, name, description, memory } => {
            (GuestOp::SnapshotCreate(SnapshotCreate { name, description, memory }), on)
        }
        SnapshotVerb::Delete { on, name, force } => (GuestOp::SnapshotDelete(SnapshotDelete { name, force }), on),
        SnapshotVerb::Rollback { on, name, start } => (GuestOp::SnapshotRollback(SnapshotRollback { name, start }), on),
        SnapshotVerb::List(on) => (GuestOp::SnapshotList, on),
    }
}

fn set_config(args: SetConfigArgs) -> Result<(Wish, OnOne), Failure> {
    let SetConfigArgs { on, set, delete, kind, digest, any_version } = args;
    require("set-config", &on.target)?;
    let wish = ConfigWish { set: config(set)?, delete: delete.into_iter().collect(), kind, digest, any_version };
    // What is wrong in itself needs no report to be told.
    if let Some(kind) = kind {
        let change = SetConfig { set: wish.set.clone(), delete: wish.delete.clone(), digest: wish.digest.clone(), kind };
        GuestOp::SetConfig(change).check(None)?;
    }
    Ok((Wish::Config(wish), on.into()))
}

fn config(pairs: Vec<(String, String)>) -> Result<Config, Failure> {
    let mut config = Config::new();
    for (key, value) in pairs {
        if config.contains_key(&key) {
            return Err(Failure::usage(format!("`{key}` is given twice"), "give each key once"));
        }
        config.insert(key, value);
    }
    Ok(config)
}

fn clone(args: CloneArgs) -> (GuestOp, OnGuest) {
    let CloneArgs { on, newid, name, full, linked, snapshot, storage, pool } = args;
    let full = (full || linked).then_some(full);
    (GuestOp::Clone(CloneTo { newid, name, full, snapshot, storage, pool }), on)
}

fn create(args: CreateArgs) -> Result<(GuestOp, OnGuest), Failure> {
    let CreateArgs { on, kind, config: pairs, ostemplate, storage, pool, start } = args;
    Ok((GuestOp::Create(Create { kind, config: config(pairs)?, ostemplate, storage, pool, start }), on))
}

fn restore(args: RestoreArgs) -> Result<(GuestOp, OnGuest), Failure> {
    let RestoreArgs { on, archive, kind, storage, unique, over, start } = args;
    let kind = match (kind, privilege::archived(&archive).map(|(kind, _)| kind)) {
        (Some(said), Some(is)) if said != is => {
            let message = format!("the backup `{archive}` is of a {} by its name", kind_words(is));
            return Err(Failure::usage(message, format!("leave `--type` out, or write `--type {}`", is.as_str())));
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) => {
            let message = format!("the name of the backup `{archive}` does not tell what kind of guest it holds");
            return Err(Failure::usage(message, "say `--type qemu` for a virtual machine, or `--type lxc` for a container"));
        }
    };
    Ok((GuestOp::Restore(Restore { kind, archive, storage, unique, over, start }), on))
}

/// The guest that `target` names.
fn require(verb: &str, target: &str) -> Result<Named, Failure> {
    let example = "write HOST and the guest's number, such as pve-1/101";
    let Some((_, text)) = target.split_once('/').filter(|(_, text)| !text.is_empty()) else {
        return Err(Failure::usage(format!("`op {verb}` needs to know on which guest"), example));
    };
    if let Some(named) = meant::named(text)? {
        return Ok(named);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        // Its bounds are told.
        Vmid::parse(text).map_err(|e| Failure::usage(e.to_string(), example))?;
    }
    let message = format!("`op {verb}` is for guests of Proxmox VE, and `{text}` is none");
    Err(Failure::usage(message, format!("{}; a guest is named by its number, such as pve-1/101", instead_of(verb))))
}

/// What does to a container what `verb` does to a guest.
fn instead_of(verb: &str) -> &'static str {
    match verb {
        "shutdown" => "a container is stopped with `moorctl op stop --timeout SPAN`",
        "reboot" => "a container is restarted with `moorctl op restart`",
        "suspend" => "a container is frozen with `moorctl op pause`",
        "resume" => "a frozen container goes on with `moorctl op unpause`",
        "check" => "how a container is doing stands in `moorctl status`",
        "reset" => "a container is killed with `moorctl op kill`, and started with `moorctl op start`",
        "snapshot-create" | "snapshot-delete" | "snapshot-rollback" | "snapshot-list" | "backup" | "restore" => {
            "containers have no snapshots and backups of their own: what they keep is in volumes"
        }
        _ => "what a container is made of stands in its topology: `moorctl push`",
    }
}

/// What a verb for containers is for a guest.
///
/// # Errors
/// A usage failure that says what does the same to a guest.
pub fn refuse_on_guest(verb: &str, target: &str, says: &str) -> Result<(), Failure> {
    match guest_in(target)? {
        Some(_) => Err(Failure::usage(format!("`op {verb}` is for containers, and `{target}` is a guest of Proxmox VE"), says)),
        None => Ok(()),
    }
}

/// The guest that the target of a verb for all kinds of resources means, if it means one.
///
/// # Errors
/// As [`meant::named`].
pub fn guest_in(target: &str) -> Result<Option<Named>, Failure> {
    target.split_once('/').map_or(Ok(None), |(_, text)| meant::named(text))
}

/// How `target` is destroyed.
///
/// # Errors
/// A usage failure for options that are for the other kind of resource.
pub fn destroy(target: &str, volumes: bool, args: DestroyArgs) -> Result<Act, Failure> {
    let DestroyArgs { stop, snapshot_first, backup_first, now, keep } = args;
    if guest_in(target)?.is_some() {
        if volumes {
            let message = "`--volumes` is for containers: a guest's disks always go with it when it is removed";
            return Err(Failure::usage(
                message,
                "leave it out; `--keep SPAN` and `--now` say when they go, `--backup-first STORAGE` saves them",
            ));
        }
        return Ok(Act::Guest(GuestOp::Destroy(Destroy { stop, snapshot_first, backup_first, now, purge_after_s: keep.map(seconds) })));
    }
    let given = [
        ("--stop", stop),
        ("--snapshot-first", snapshot_first),
        ("--backup-first", backup_first.is_some()),
        ("--now", now),
        ("--keep", keep.is_some()),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
        let message = format!("`{flag}` is for guests of Proxmox VE, and `{target}` is none");
        let remedy = "leave it out: a container is stopped and removed at once, and its named volumes stay; a guest is named by its number, \
                      such as pve-1/101";
        return Err(Failure::usage(message, remedy));
    }
    Ok(Act::Destroy { volumes })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::args::{Cli, Verb};
    use crate::cmd::op::act::read as read_verb;
    use crate::cmd::op::guest::meant::tests::observed;

    fn wish(line: &[&str]) -> Result<(Wish, OnOne), Failure> {
        let cli = Cli::try_parse_from(["moorctl", "op"].iter().chain(line)).unwrap();
        let Verb::Op(verb) = cli.verb else { panic!("not an operation") };
        read_verb(*verb)
    }

    fn resource(target: &str) -> ResourceId {
        crate::cmd::op::draft::resource(&Act::Guest(GuestOp::Start), target.split_once('/').map(|(_, text)| text)).unwrap()
    }

    /// What `line` orders, as its host reads it.
    fn order(line: &[&str]) -> (&'static str, Value) {
        let (wish, on) = wish(line).unwrap();
        let act = match wish {
            Wish::Act(act) => act,
            Wish::Config(wish) => wish.act(&resource(&on.target), Some(&observed())).unwrap(),
        };
        assert_eq!(Act::read(act.kind(), &act.params(), &resource(&on.target)), Ok(act.clone()), "{line:?}");
        (act.kind(), act.params())
    }

    #[test]
    fn the_target_decides_what_a_verb_orders() {
        for (line, kind, params) in [
            (&["start", "h/101"][..], "start", json!({})),
            (&["stop", "h/guest/101"], "stop", json!({})),
            (&["destroy", "h/pve/guest/101", "--keep", "1d", "--stop"], "destroy", json!({ "stop": true, "purge_after_s": 86_400 })),
            (
                &["destroy", "h/101", "--now", "--snapshot-first", "--backup-first", "pbs"],
                "destroy",
                json!({ "now": true, "snapshot_first": true, "backup_first": "pbs" }),
            ),
        ] {
            assert_eq!(order(line), (kind, params), "{line:?}");
        }
        for line in
            [&["start", "h/99"][..], &["start", "h/container/101"], &["stop", "h/0101", "--timeout", "1m"], &["destroy", "h/volume/101"]]
        {
            let (Wish::Act(act), _) = wish(line).unwrap() else { panic!("not said in full") };
            assert!(!matches!(act, Act::Guest(_)), "{line:?}");
        }
        let (Wish::Act(act), _) = wish(&["pull", "h/guest/101"]).unwrap() else { panic!("not said in full") };
        assert_eq!(act, Act::Pull, "an image may be called so");
    }

    #[test]
    fn what_fits_only_the_other_kind_is_refused_with_the_word_for_this_one() {
        for (line, says) in [
            (&["stop", "h/101", "--timeout", "30s"][..], "moorctl op shutdown h/101 --timeout 30s"),
            (&["destroy", "h/101", "--volumes"], "--backup-first"),
            (&["destroy", "h/c", "--snapshot-first"], "named volumes stay"),
            (&["destroy", "h/c", "--keep", "1d"], "named volumes stay"),
            (&["restart", "h/101"], "op reboot"),
            (&["kill", "h/101"], "op stop"),
            (&["pause", "h/101"], "op suspend"),
            (&["unpause", "h/101"], "op resume"),
            (&["exec", "h/101", "--", "true"], "log in"),
            (&["shutdown", "h/c"], "op stop --timeout"),
            (&["reboot", "h/c"], "op restart"),
            (&["snapshot", "list", "h/c"], "no snapshots"),
            (&["set-config", "h/c", "memory=1"], "its topology"),
            (&["reset", "h"], "such as pve-1/101"),
            (&["reset", "h/99"], "such as pve-1/101"),
            (&["reset", "h/guest/99"], "such as pve-1/101"),
            (&["create", "h/guest/db", "--type", "qemu"], "the number"),
            (&["restore", "h/102", "--archive", "nas:backup/x.vma"], "--type qemu"),
            (&["restore", "h/102", "--archive", "nas:backup/vzdump-lxc-102-2026_11_23-10_00_00.tar", "--type", "qemu"], "--type lxc"),
            (&["set-config", "h/101", "memory=1", "memory=2"], "once"),
        ] {
            let failure = wish(line).unwrap_err();
            assert!(failure.exit == 64 && failure.remedy.contains(says), "{line:?}: {failure:?}");
        }
    }

    #[test]
    fn the_words_of_the_command_line_become_an_order_for_a_guest() {
        let archive = "local:backup/vzdump-qemu-101-2026_11_23-10_00_00.vma.zst";
        for (line, kind, params) in [
            (&["shutdown", "h/101", "--timeout", "1m", "--force"][..], "shutdown", json!({ "timeout_s": 60, "force": true })),
            (&["reboot", "h/101"], "reboot", json!({})),
            (&["suspend", "h/101", "--to-disk"], "suspend", json!({ "to_disk": true })),
            (&["resume", "h/101"], "resume", json!({})),
            (&["reset", "h/101"], "reset", json!({})),
            (&["resize", "h/101", "scsi0", "32G"], "resize", json!({ "disk": "scsi0", "size": "32G" })),
            (&["snapshot", "create", "h/101", "--memory"], "snapshot-create", json!({ "memory": true })),
            (&["snapshot", "delete", "h/101", "old", "--force"], "snapshot-delete", json!({ "name": "old", "force": true })),
            (&["snapshot", "rollback", "h/101", "old", "--start"], "snapshot-rollback", json!({ "name": "old", "start": true })),
            (&["snapshot", "list", "h/101"], "snapshot-list", json!({})),
            (&["clone", "h/101", "--newid", "300"], "clone", json!({ "newid": "300" })),
            (
                &["clone", "h/101", "--newid", "300", "--linked", "--name", "x"],
                "clone",
                json!({ "newid": "300", "full": false, "name": "x" }),
            ),
            (
                &["create", "h/205", "--type", "lxc", "--ostemplate", "local:vztmpl/d.tar.zst", "--config", "hostname=a", "--start"],
                "create",
                json!({ "type": "lxc", "config": { "hostname": "a" }, "ostemplate": "local:vztmpl/d.tar.zst", "start": true }),
            ),
            (&["backup", "h/101", "--storage", "pbs", "--mode", "stop"], "backup", json!({ "storage": "pbs", "mode": "stop" })),
            (&["restore", "h/102", "--archive", archive], "restore", json!({ "type": "qemu", "archive": archive })),
            (
                &["restore", "h/102", "--archive", "pbs:backup/ct/205/2026-11-23T10:00:00Z", "--over"],
                "restore",
                json!({ "type": "lxc", "archive": "pbs:backup/ct/205/2026-11-23T10:00:00Z", "over": true }),
            ),
            (&["check", "h/101"], "check", json!({ "for_s": 30, "timeout_s": 300 })),
            (&["check", "h/guest/101", "--for", "1m", "--timeout", "10m"], "check", json!({ "for_s": 60, "timeout_s": 600 })),
            (&["migrate", "h/101", "--to", "pve-2", "--online"], "migrate", json!({ "target": "pve-2", "online": true })),
            (
                &["set-config", "h/101", "memory=2048", "net0=virtio,bridge=vmbr0", "--delete", "balloon"],
                "set-config",
                json!({
                    "type": "qemu", "set": { "memory": "2048", "net0": "virtio,bridge=vmbr0" }, "delete": ["balloon"],
                    "digest": "0123456789abcdef0123456789abcdef01234567",
                }),
            ),
            (
                &["set-config", "h/101", "--delete", "balloon", "--any-version"],
                "set-config",
                json!({ "type": "qemu", "delete": ["balloon"] }),
            ),
        ] {
            assert_eq!(order(line), (kind, params), "{line:?}");
        }
        let (Wish::Act(act), on) = wish(&["resume", "h/guest/db"]).unwrap() else { panic!("not said in full") };
        assert_eq!((act.kind(), on.target.as_str()), ("resume", "h/guest/db"));
        let small = wish(&["set-config", "h/300", "memory=1", "--type", "lxc"]).unwrap_err();
        assert!(small.is(Code::BadParams) && small.message.contains("memory"), "{small:?}");
    }

    #[test]
    fn a_change_of_a_config_is_for_the_guest_and_the_version_that_were_seen() {
        let change = |line: &[&str]| {
            let (Wish::Config(wish), on) = wish(line).unwrap() else { panic!("no change of a config") };
            wish.act(&resource(&on.target), Some(&observed()))
        };
        for (line, says) in [
            (&["set-config", "h/101", "memory=2048", "--type", "lxc"][..], "is a virtual machine"),
            (&["set-config", "h/300", "memory=2048"], "no guest 300"),
            (&["set-config", "h/900", "memory=2048"], "not one of ours"),
            (&["set-config", "h/205", "memory=2048"], "which version"),
        ] {
            let failure = change(line).unwrap_err();
            assert!(failure.message.contains(says), "{line:?}: {failure:?}");
        }
        assert!(change(&["set-config", "h/205", "memory=2048", "--any-version"]).is_ok());
        assert!(change(&["set-config", "h/300", "memory=2048", "--any-version", "--type", "qemu"]).is_ok());
    }
}
