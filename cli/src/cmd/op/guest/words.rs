//! What an order for a guest will do, and what came of it, in words.

use moorline_common::fault::Code;
use moorline_common::id::{HostName, UnixSeconds};
use moorline_common::observe::{ObservedGuest, ObservedSnapshot};
use moorline_common::op::guest::{
    Backup, BackupMode, Check, CloneTo, Create, Destroy, Migrate, Restore, SetConfig, SnapshotCreate, SnapshotRollback, Stop,
};
use moorline_common::op::{Class, GuestOp, OpStatement, Receipt};
use moorline_common::pve::Vmid;
use moorline_common::pve::guest::Config;
use serde_json::Value;

use super::{kind_words, meant};
use crate::clock;
use crate::limits::FIELD_SHOWN;
use crate::render::{Table, Tone, or_dash, plain, shorten, visible};

/// What an order says, for the person who is asked whether to sign it.
#[must_use]
pub fn of_order(statement: &OpStatement, op: &GuestOp, class: Class, host: &HostName, guest: Option<&ObservedGuest>) -> String {
    let vmid = Vmid::of(&statement.resource);
    let title = vmid.map_or_else(|| statement.resource.to_string(), |vmid| format!("guest {}", meant::title(vmid, guest)));
    let which = statement.incarnation.as_deref().map(|id| format!(" [{}]", visible(&short(id)))).unwrap_or_default();
    let does = does(op, clock::now());
    let does = if does.is_empty() { String::new() } else { format!(": {}", visible(&does)) };
    format!("{} {title}{which} on host {host}, class {class}{does}", statement.kind)
}

/// An incarnation as people compare it: the beginnings of a machine's ids.
fn short(incarnation: &str) -> String {
    match incarnation.strip_prefix("vm:") {
        Some(ids) => format!("vm:{}", ids.split(':').map(|id| id.get(..8).unwrap_or(id)).collect::<Vec<_>>().join(":")),
        None => incarnation.to_owned(),
    }
}

/// What it does, where its name alone does not say so.
fn does(op: &GuestOp, now: UnixSeconds) -> String {
    match op {
        GuestOp::Start | GuestOp::Resume | GuestOp::SnapshotList => String::new(),
        GuestOp::Stop => "its power is cut, and what it has not written is lost".to_owned(),
        GuestOp::Reset => "as by its reset button: what it has not written is lost".to_owned(),
        GuestOp::Shutdown(stop) => shutdown(stop),
        GuestOp::Reboot(_) => "it ends by itself and starts again, with what waited for that".to_owned(),
        GuestOp::Suspend(how) if how.to_disk => "its memory is written to a disk, and its power cut".to_owned(),
        GuestOp::Suspend(_) => "it is frozen".to_owned(),
        GuestOp::SetConfig(change) => set_config(change),
        GuestOp::Resize(resize) => format!("{} grows to {}, and never shrinks again", resize.disk, resize.size),
        GuestOp::SnapshotCreate(make) => snapshot(make),
        GuestOp::SnapshotDelete(delete) => {
            let force = if delete.force { ", also when its disks cannot be removed" } else { "" };
            format!("snapshot `{}` is removed for good{force}", delete.name)
        }
        GuestOp::SnapshotRollback(SnapshotRollback { name, start }) => {
            let start = if *start { ", and it is started" } else { "" };
            format!("it goes back to snapshot `{name}`: what was written since is lost{start}")
        }
        GuestOp::Clone(to) => copy(to),
        GuestOp::Create(make) => create(make),
        GuestOp::Destroy(destroy) => gone(destroy, now),
        GuestOp::Backup(backup) => dump(backup),
        GuestOp::Restore(restore) => back(restore),
        GuestOp::Migrate(to) => moved(to),
        GuestOp::Check(check) => watched(check),
    }
}

fn shutdown(stop: &Stop) -> String {
    let within = stop.timeout_s.map(|s| format!(" within {}", clock::span_words(s.into()))).unwrap_or_default();
    let then = if stop.force { ", else its power is cut" } else { "" };
    format!("it is to end by itself{within}{then}")
}

fn pairs(config: &Config) -> String {
    config.iter().map(|(key, value)| shorten(&format!("{key}={value}"), FIELD_SHOWN)).collect::<Vec<_>>().join(", ")
}

fn set_config(SetConfig { set, delete, digest, .. }: &SetConfig) -> String {
    let gone = delete.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let gone = if gone.is_empty() { None } else { Some(format!("without {gone}")) };
    let set = if set.is_empty() { None } else { Some(pairs(set)) };
    let when = match digest {
        Some(digest) => format!("only if its config is still version {}", digest.get(..12).unwrap_or(digest)),
        None => "whatever its config is then".to_owned(),
    };
    set.into_iter().chain(gone).chain([when]).collect::<Vec<_>>().join("; ")
}

fn snapshot(make: &SnapshotCreate) -> String {
    let memory = if make.memory { " with its memory" } else { "" };
    match &make.name {
        Some(name) => format!("snapshot `{name}` is made{memory}"),
        None => format!("a snapshot is made{memory}, named by this operation"),
    }
}

fn copy(CloneTo { newid, name, full, snapshot, storage, .. }: &CloneTo) -> String {
    let name = name.as_ref().map(|name| format!(" (`{name}`)")).unwrap_or_default();
    let how = match full {
        Some(true) => ", with copies of all disks",
        Some(false) => ", with disks that go on from its own",
        None => "",
    };
    let of = snapshot.as_ref().map(|snapshot| format!(", of snapshot `{snapshot}`")).unwrap_or_default();
    let to = storage.as_ref().map(|storage| format!(", on storage `{storage}`")).unwrap_or_default();
    format!("guest {newid}{name} is made of it{how}{of}{to}")
}

fn create(make: &Create) -> String {
    let of = make.ostemplate.as_ref().map(|template| format!(" of {template}")).unwrap_or_default();
    let with = if make.config.is_empty() { String::new() } else { format!(" with {}", pairs(&make.config)) };
    let start = if make.start { ", and started" } else { "" };
    format!("a {} is made{of}{with}{start}", kind_words(make.kind))
}

/// What becomes of a guest that is destroyed, and when.
fn gone(destroy: &Destroy, now: UnixSeconds) -> String {
    let mut parts = Vec::new();
    if let Some(storage) = &destroy.backup_first {
        parts.push(format!("a backup is made to `{storage}` first, and stays"));
    }
    if destroy.snapshot_first {
        parts.push("a snapshot is made first, and goes with it in the end".to_owned());
    }
    parts.push(if destroy.stop { "its power is cut if it runs" } else { "it must be stopped already" }.to_owned());
    parts.push(match destroy.kept_s() {
        None => "it is removed AT ONCE, with its disks and snapshots".to_owned(),
        Some(s) => {
            let until = clock::rfc3339(now.plus(s.into()).0.saturating_mul(1000));
            let span = clock::span_words(s.into());
            format!("it is kept for {span} (until about {until}), renamed, protected and never started; then it is removed with its disks and snapshots")
        }
    });
    parts.join("; ")
}

fn dump(backup: &Backup) -> String {
    let meanwhile = match backup.mode.unwrap_or(BackupMode::Snapshot) {
        BackupMode::Snapshot => "it runs on meanwhile",
        BackupMode::Suspend => "it is frozen meanwhile",
        BackupMode::Stop => "it is stopped meanwhile",
    };
    let protected = if backup.protected { ", which nothing removes" } else { "" };
    format!("a backup is made to `{}`{protected}; {meanwhile}", backup.storage)
}

fn back(restore: &Restore) -> String {
    let start = if restore.start { ", and started" } else { "" };
    let unique = if restore.unique { ", with addresses and ids of its own" } else { "" };
    let over = if restore.over { "; WHAT THE GUEST HOLDS NOW IS LOST" } else { "" };
    format!("a {} is made from `{}`{unique}{start}{over}", kind_words(restore.kind), restore.archive)
}

fn moved(to: &Migrate) -> String {
    let how = if to.online { "while it runs (a container is started anew there)" } else { "while it is stopped" };
    let disks = if to.with_local_disks { ", with disks that only this node has" } else { "" };
    format!("it goes to node `{}` {how}{disks}", to.target)
}

fn watched(check: &Check) -> String {
    let within = clock::span_words(check.timeout_s.into());
    match check.for_s {
        0 => format!("it must run within {within}"),
        s => format!("it must run for {} without a break, within {within}", clock::span_words(s.into())),
    }
}

/// What came of an operation on a guest, line by line: what is worth knowing of its result.
#[must_use]
pub fn of_result(receipt: &Receipt) -> String {
    let result = &receipt.result;
    let text = |name: &str| result.get(name).and_then(Value::as_str).map(visible);
    let mut lines = Vec::new();
    lines.extend(text("vmid").map(|vmid| format!("guest {vmid} is made")));
    lines.extend(text("incarnation").map(|id| format!("incarnation {id}")));
    lines.extend(text("snapshot").map(|name| snapshot_line(&receipt.kind, &name)));
    if let Some(uptime_s) = result.get("uptime_s").and_then(Value::as_u64) {
        let agent = result.get("agent").and_then(Value::as_bool).unwrap_or_default();
        lines.push(format!("runs for {}{}", clock::span_words(uptime_s), if agent { ", and its guest agent answers" } else { "" }));
    }
    lines.extend(text("archive").map(|volid| format!("backup {volid}")));
    if let Some(count) = result.get("warnings").and_then(Value::as_u64).filter(|n| *n > 0) {
        let task = text("task").map(|task| format!(": look at the task {task}")).unwrap_or_default();
        lines.push(format!("ENDED WITH {count} WARNING(S){task}"));
    }
    let log = result.get("log").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !log.is_empty() {
        lines.push(text("task").map_or_else(|| "the end of its log:".to_owned(), |task| format!("the end of the log of {task}:")));
        lines.extend(log.iter().filter_map(Value::as_str).map(|line| format!("  | {}", visible(line))));
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn snapshot_line(kind: &str, name: &str) -> String {
    match kind {
        "snapshot-delete" => format!("snapshot {name} is removed"),
        "snapshot-rollback" => format!("it is back at snapshot {name}"),
        _ => format!("snapshot {name}"),
    }
}

/// The snapshots in the receipt of `snapshot-list`, each after those before it in time; `None` for what is none.
#[must_use]
pub fn snapshots(receipt: &Receipt, now: UnixSeconds) -> Option<String> {
    let listed = receipt.result.get("snapshots").filter(|_| receipt.kind == "snapshot-list")?.as_object()?;
    let read = |value: &Value| serde_json::from_value::<ObservedSnapshot>(value.clone()).ok();
    let mut all: Vec<(&String, ObservedSnapshot)> = listed.iter().filter_map(|(name, value)| Some((name, read(value)?))).collect();
    all.sort_by(|(name, a), (other, b)| (a.at, name).cmp(&(b.at, other)));
    if all.is_empty() {
        return Some("no snapshots\n".to_owned());
    }
    let mut table = Table::new(&["NAME", "PARENT", "AGE", "MEMORY"]);
    for (name, snapshot) in all {
        table.row(vec![
            plain(visible(name)),
            plain(or_dash(&visible(snapshot.parent.as_deref().unwrap_or_default()))),
            (clock::span_words(now.0.saturating_sub(snapshot.at)), Tone::Dim),
            plain(if snapshot.has_memory { "yes" } else { "-" }),
        ]);
    }
    Some(table.text())
}

/// What to do about a refused or failed order for a guest, where that is another thing than for a container.
#[must_use]
pub fn remedy(code: Code) -> Option<&'static str> {
    if code == Code::NotOwned {
        Some("take the guest over with `moorctl import proxmox`, or act on it in Proxmox VE itself")
    } else if code == Code::NoSnapshot || code == Code::NotFound {
        Some("look at what the host has with `moorctl get guests HOST`, and at `moorctl op snapshot list HOST/GUEST`")
    } else if code == Code::IncarnationChanged {
        Some("another guest bears the number now, or it went back to a snapshot: look at it, and sign the order anew if it is still meant")
    } else if code == Code::PreconditionFailed {
        Some("mend what the message names, look with `moorctl get guests HOST`, and sign the order anew")
    } else if code == Code::PermissionDenied {
        Some("give the agent's token what it lacks: `moorline-agent doctor` on the host tells")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use moorline_common::id::ResourceId;
    use moorline_common::op::Act;
    use serde_json::json;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    fn said(kind: &str, params: &Value) -> String {
        does(&GuestOp::read(kind, params, &ResourceId::parse("pve/guest/101").unwrap()).unwrap(), NOW)
    }

    #[test]
    fn who_is_asked_whether_to_destroy_a_guest_is_told_what_becomes_of_it_and_when() {
        let kept = said("destroy", &json!({ "stop": true, "backup_first": "pbs", "snapshot_first": true }));
        assert_eq!(
            kept,
            "a backup is made to `pbs` first, and stays; a snapshot is made first, and goes with it in the end; its power is cut if it runs; \
             it is kept for 7d (until about 2023-11-21T22:13:20Z), renamed, protected and never started; then it is removed with its disks and \
             snapshots"
        );
        let now = said("destroy", &json!({ "now": true }));
        assert_eq!(now, "it must be stopped already; it is removed AT ONCE, with its disks and snapshots");
    }

    #[test]
    fn each_operation_that_disrupts_or_loses_says_so() {
        let archive = "nas:backup/vzdump-qemu-1.vma";
        for (kind, params, says) in [
            ("stop", json!({}), "power is cut"),
            ("reset", json!({}), "is lost"),
            ("shutdown", json!({ "timeout_s": 60, "force": true }), "within 60s, else its power is cut"),
            ("suspend", json!({ "to_disk": true }), "written to a disk"),
            (
                "set-config",
                json!({ "type": "qemu", "set": { "cores": "4" }, "delete": ["balloon"], "digest": "0123456789abcdef" }),
                "cores=4; without balloon; only if its config is still version 0123456789ab",
            ),
            ("set-config", json!({ "type": "qemu", "set": { "cores": "4" } }), "whatever its config is then"),
            ("resize", json!({ "disk": "scsi0", "size": "32G" }), "scsi0 grows to 32G"),
            ("snapshot-delete", json!({ "name": "old" }), "`old` is removed for good"),
            (
                "snapshot-rollback",
                json!({ "name": "old", "start": true }),
                "back to snapshot `old`: what was written since is lost, and it is started",
            ),
            ("snapshot-create", json!({ "memory": true }), "with its memory, named by this operation"),
            ("clone", json!({ "newid": "300", "full": true, "name": "x" }), "guest 300 (`x`) is made of it, with copies of all disks"),
            (
                "create",
                json!({ "type": "qemu", "config": { "cores": "4" }, "start": true }),
                "a virtual machine is made with cores=4, and started",
            ),
            ("backup", json!({ "storage": "pbs", "mode": "stop" }), "made to `pbs`; it is stopped meanwhile"),
            ("restore", json!({ "type": "qemu", "archive": archive, "over": true }), "WHAT THE GUEST HOLDS NOW IS LOST"),
            ("migrate", json!({ "target": "pve-2" }), "to node `pve-2` while it is stopped"),
            ("check", json!({ "for_s": 30, "timeout_s": 300 }), "run for 30s without a break, within 5m"),
        ] {
            assert!(said(kind, &params).contains(says), "{kind}: {}", said(kind, &params));
        }
        assert_eq!(said("start", &json!({})), "");
    }

    #[test]
    fn an_incarnation_is_shortened_so_that_people_can_compare_it() {
        assert_eq!(short("vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e:0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e"), "vm:6e3c4af2:0f6a1d6f");
        assert_eq!(short("ct:local-lvm:vm-205-disk-0@1732351234"), "ct:local-lvm:vm-205-disk-0@1732351234");
    }

    fn receipt(kind: &str, result: Value) -> Receipt {
        let value = json!({
            "cluster": "acme", "host_id": "a".repeat(64), "host_epoch": "e".repeat(32), "op_id": "0197a2b4-1c3d-7e5f-8a6b-0123456789ab",
            "payload_sha256": "", "resource": "pve/guest/101", "kind": kind, "outcome": "succeeded", "at": 1, "result": result, "journal_seq": 1,
        });
        let receipt: Receipt = serde_json::from_value(value).unwrap();
        assert!(Act::KINDS.contains(&kind) && receipt.resource == ResourceId::parse("pve/guest/101").unwrap());
        receipt
    }

    #[test]
    fn what_matters_of_a_result_is_told() {
        let upid = "UPID:pve-1:0000C530:001C9BEC:677E934A:vzdump:101:root@pam!m:";
        let done = of_result(&receipt("backup", json!({ "archive": "pbs:backup/x", "warnings": 2, "task": upid })));
        assert_eq!(done, format!("  backup pbs:backup/x\n  ENDED WITH 2 WARNING(S): look at the task {upid}\n"));
        let failed = of_result(&receipt("backup", json!({ "task": upid, "log": ["one", "two\u{1b}[2J"] })));
        assert_eq!(failed, format!("  the end of the log of {upid}:\n    | one\n    | two\\u{{1b}}[2J\n"));
        assert_eq!(of_result(&receipt("clone", json!({ "vmid": "300" }))), "  guest 300 is made\n");
        assert_eq!(of_result(&receipt("snapshot-create", json!({ "snapshot": "op-1" }))), "  snapshot op-1\n");
        assert_eq!(of_result(&receipt("start", Value::Null)), "");
    }

    #[test]
    fn snapshots_are_listed_in_the_order_of_their_making() {
        let result = json!({ "snapshots": { "b": { "at": 1000, "parent": "c", "has_memory": true }, "c": { "at": 940 } } });
        let text = snapshots(&receipt("snapshot-list", result.clone()), UnixSeconds(1000)).unwrap();
        let text = anstream::adapter::strip_str(&text).to_string();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [vec!["NAME", "PARENT", "AGE", "MEMORY"], vec!["c", "-", "60s", "-"], vec!["b", "c", "0s", "yes"]]);
        assert_eq!(snapshots(&receipt("snapshot-list", json!({ "snapshots": {} })), NOW).unwrap(), "no snapshots\n");
        assert_eq!(snapshots(&receipt("backup", result), NOW), None);
        assert_eq!(snapshots(&receipt("snapshot-list", Value::Null), NOW), None);
    }
}
