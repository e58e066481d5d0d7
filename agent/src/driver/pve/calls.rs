//! The calls of operations on guests, with what each is asked for.

use moorline_common::observe::{GuestStatus, TAG};
use moorline_common::op::guest::{Backup, BackupMode, GuestOp, Migrate, Resize, Restore, SetConfig, Stop};
use moorline_common::pve::keys::{self, Shape};
use moorline_common::pve::property::Whose;
use moorline_common::pve::value::{self, Need, Normal};
use moorline_common::pve::{GuestKind, scalar, tags};
use serde_json::json;

use super::super::{DriverError, DriverErrorKind};
use super::client::{Params, Transport, Verb, params};
use super::forms::{clone_params, create_params, resized, source_params};
use super::observe::snapshots;
use super::op::one;
use super::run::{Ask, Run, mark};

impl<T: Transport> Run<'_, T> {
    pub(super) fn dump(&self, backup: &Backup) -> Option<Ask> {
        let mode = backup.mode.unwrap_or(BackupMode::Snapshot).as_str();
        let mark = mark(&self.order.op_id);
        let notes = backup.notes.as_ref().map_or_else(|| mark.clone(), |notes| format!("{notes} {mark}"));
        let asked = params([
            ("vmid", self.at.vmid.to_string().as_str()),
            ("storage", &backup.storage),
            ("mode", mode),
            ("compress", "zstd"),
            // By itself it would remove older ones.
            ("remove", "0"),
            ("notes-template", &notes),
            ("protected", scalar::flag(backup.protected)),
        ]);
        Some(Ask { verb: Verb::Post, path: vec!["vzdump".to_owned()], asked })
    }

    /// The call of the operation itself.
    pub(super) async fn ask_own(&self) -> Result<Option<Ask>, DriverError> {
        let status = |verb: &str, asked: Params| Ok(self.guest(Verb::Post, &["status", verb], asked));
        match self.op {
            GuestOp::Start if self.before.status == GuestStatus::Running => Ok(None),
            GuestOp::Stop | GuestOp::Shutdown(_) if self.before.status == GuestStatus::Stopped => Ok(None),
            GuestOp::Start => status("start", Params::new()),
            GuestOp::Stop => status("stop", Params::new()),
            GuestOp::Shutdown(Stop { timeout_s, force }) => {
                let mut asked = one("forceStop", scalar::flag(*force));
                asked.extend(timeout_s.map(|s| ("timeout".to_owned(), s.to_string())));
                status("shutdown", asked)
            }
            GuestOp::Reboot(Stop { timeout_s, .. }) => {
                status("reboot", timeout_s.map(|s| one("timeout", &s.to_string())).unwrap_or_default())
            }
            GuestOp::Suspend(how) => status("suspend", if how.to_disk { one("todisk", "1") } else { Params::new() }),
            GuestOp::Resume => status("resume", Params::new()),
            GuestOp::Reset => status("reset", Params::new()),
            GuestOp::SetConfig(change) => self.ask_to_set(change).await,
            GuestOp::Resize(resize) => self.ask_to_resize(resize).await,
            GuestOp::SnapshotCreate(make) => {
                let mark = mark(&self.order.op_id);
                let description = make.description.as_ref().map_or_else(|| mark.clone(), |said| format!("{said}\n{mark}"));
                let mut asked = params([("snapname", make.name(&self.order.op_id).as_str()), ("description", description.as_str())]);
                if make.memory {
                    asked.insert("vmstate".to_owned(), "1".to_owned());
                }
                Ok(self.guest(Verb::Post, &["snapshot"], asked))
            }
            GuestOp::SnapshotDelete(delete) => {
                let asked = if delete.force { one("force", "1") } else { Params::new() };
                Ok(self.guest(Verb::Delete, &["snapshot", &delete.name], asked))
            }
            GuestOp::SnapshotRollback(to) => {
                let asked = if to.start { one("start", "1") } else { Params::new() };
                Ok(self.guest(Verb::Post, &["snapshot", &to.name, "rollback"], asked))
            }
            GuestOp::SnapshotList => {
                let list = self.client.of_guest(Verb::Get, self.at, &["snapshot"], &Params::new()).await.map_err(|e| self.failed(e))?;
                self.note("snapshots", json!(snapshots(&list)));
                Ok(None)
            }
            GuestOp::Clone(to) => {
                let asked = clone_params(self.at.kind, to.newid, to.name.as_deref(), &to.source(), &mark(&self.order.op_id));
                Ok(self.guest(Verb::Post, &["clone"], asked))
            }
            GuestOp::Create(make) => {
                let mut asked = create_params(make.kind, self.at.vmid, &make.source(), &make.config, &mark(&self.order.op_id))?;
                asked.insert("tags".to_owned(), tags::with(make.config.get("tags").map_or("", String::as_str), TAG));
                if let Some(said) = make.config.get("description") {
                    asked.insert("description".to_owned(), format!("{said}\n{}", mark(&self.order.op_id)));
                }
                Ok(Some(Ask { verb: Verb::Post, path: vec![make.kind.as_str().to_owned()], asked }))
            }
            GuestOp::Restore(restore) => Ok(Some(self.restore(restore))),
            GuestOp::Backup(backup) => Ok(self.dump(backup)),
            GuestOp::Migrate(to) => Ok(self.guest(Verb::Post, &["migrate"], self.migrate_params(to))),
            // It has stages of its own, and what watches asks for nothing.
            GuestOp::Destroy(_) | GuestOp::Check(_) => Ok(None),
        }
    }

    async fn ask_to_set(&self, change: &SetConfig) -> Result<Option<Ask>, DriverError> {
        let live = self.live().await?;
        let mut asked = Params::new();
        for (key, text) in &change.set {
            let known = keys::find(self.at.kind, key).map_err(|why| self.conflict(DriverErrorKind::Permanent, format!("{key}: {why}")))?;
            let has = live.config.get(key).map(String::as_str);
            let wrong = |why: String| self.conflict(DriverErrorKind::Permanent, format!("{key}: {why}"));
            if let Ok(Need::Grow { bytes, .. }) = value::need(known, text, has) {
                let size = scalar::size_text(bytes);
                return Err(wrong(format!("it is smaller than {size}, and a disk grows by an operation of its own: order `resize`")));
            }
            let sent = value::written(known.shape, text, has);
            asked.insert(key.clone(), sent.map_err(|e| wrong(e.to_string()))?);
        }
        let delete: Vec<&str> = change.delete.iter().filter(|key| live.config.contains_key(*key)).map(String::as_str).collect();
        if !delete.is_empty() {
            asked.insert("delete".to_owned(), delete.join(","));
        }
        if asked.is_empty() {
            return Ok(None);
        }
        // Who named a version meant that one alone; else it is what was looked at.
        asked.extend(change.digest.clone().or(live.digest).map(|digest| ("digest".to_owned(), digest)));
        let verb = if self.at.kind == GuestKind::Qemu { Verb::Post } else { Verb::Put };
        Ok(self.guest(verb, &["config"], asked))
    }

    async fn ask_to_resize(&self, resize: &Resize) -> Result<Option<Ask>, DriverError> {
        let live = self.live().await?;
        let wanted = scalar::size(&resize.size).map_err(|e| self.conflict(DriverErrorKind::Permanent, e.to_string()))?;
        let shape = keys::find(self.at.kind, &resize.disk).map(|key| key.shape).unwrap_or(Shape::Text(None));
        let has = live.config.get(&resize.disk).and_then(|text| value::normal(shape, text, Whose::Theirs).ok().flatten());
        let Some(Normal::Volume(disk)) = has else {
            return Err(self.conflict(DriverErrorKind::NotFound, format!("it has no disk `{}`", resize.disk)));
        };
        match disk.size {
            Some(has) if has == wanted => Ok(None),
            Some(has) if has > wanted => {
                let why = format!("`{}` has {} already, and a disk never shrinks", resize.disk, scalar::size_text(has));
                Err(self.conflict(DriverErrorKind::Permanent, why))
            }
            Some(_) | None => {
                let asked = params([("disk", resize.disk.as_str()), ("size", resized(wanted).as_str())]);
                Ok(self.guest(Verb::Put, &["resize"], asked))
            }
        }
    }

    fn restore(&self, restore: &Restore) -> Ask {
        let mut asked = source_params(restore.kind, self.at.vmid, &restore.source());
        asked.extend(restore.over.then(|| ("force".to_owned(), "1".to_owned())));
        Ask { verb: Verb::Post, path: vec![restore.kind.as_str().to_owned()], asked }
    }

    fn migrate_params(&self, to: &Migrate) -> Params {
        let mut asked = one("target", &to.target);
        let is_machine = self.at.kind == GuestKind::Qemu;
        if to.online {
            // A container cannot move while it runs: it is started anew.
            asked.insert(if is_machine { "online" } else { "restart" }.to_owned(), "1".to_owned());
        }
        if to.with_local_disks && is_machine {
            asked.insert("with-local-disks".to_owned(), "1".to_owned());
        }
        let key = if is_machine { "targetstorage" } else { "target-storage" };
        asked.extend(to.target_storage.iter().map(|storage| (key.to_owned(), storage.clone())));
        asked
    }
}
