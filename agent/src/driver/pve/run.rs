//! An operation on a guest that is carried out, stage by stage. Each can be begun again without doing anything twice, since it first
//! looks whether it is done, or its task is there.

use std::sync::Mutex;

use moorline_common::fault::{Code, cut};
use moorline_common::id::OpId;
use moorline_common::observe::{BURIED_TAG, GuestStatus, TAG};
use moorline_common::op::guest::{Backup, CloneTo, Destroy, GuestOp, Output, SetConfig, SnapshotDelete, SnapshotRollback, snapshot_name};
use moorline_common::pve::answer::ErrorKind;
use moorline_common::pve::guest::{self, Config, GuestConfig};
use moorline_common::pve::upid::{TaskEnd, Upid};
use moorline_common::pve::{GuestKind, Vmid, incarnation, lenient, tags};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::super::{Begun, DriverError, DriverErrorKind, OpOrder, OpResult};
use super::client::{CallError, Client, GuestAt, Params, Transport, Verb, params};
use super::forms::name_key;
use super::observe::{incarnation_of, is_on, read_config, snapshots};
use super::op::{Before, Live, Trace, cannot_go, one, trace};
use super::stage::Stage;
use super::task;
use crate::limits::{PVE_BUSY_TRIES, PVE_TASK_LOOK};

/// Before the name of such a guest.
const BURIED_NAME: &str = "deleted-";

/// What an operation is carried out with, and what has come of it.
pub(super) struct Run<'a, T> {
    pub client: &'a Client<T>,
    pub order: &'a OpOrder,
    pub stages: Vec<Stage>,
    pub(super) op: &'a GuestOp,
    pub(super) at: GuestAt,
    pub(super) before: Before,
    /// Until when its first call must have left: who looks for it after a crash counts from its record.
    pub(super) ask_by: Option<Instant>,
    result: Mutex<Map<String, Value>>,
}

/// A call that begins a stage; nothing when it is done already.
pub(super) struct Ask {
    pub(super) verb: Verb,
    pub(super) path: Vec<String>,
    pub(super) asked: Params,
}

impl<'a, T: Transport> Run<'a, T> {
    pub(super) fn new(client: &'a Client<T>, order: &'a OpOrder, op: &'a GuestOp, vmid: Vmid, before: Before, stages: Vec<Stage>) -> Self {
        Self { client, order, stages, op, at: GuestAt { kind: before.kind, vmid }, before, ask_by: None, result: Mutex::default() }
    }

    /// Begins the stages from the one at `from` on, until one goes on as a task. `is_late`: the answers of some of them may
    /// have been lost before.
    pub(super) async fn from(&self, from: usize, is_late: bool) -> Result<Begun, DriverError> {
        for stage in self.stages.iter().skip(from) {
            if is_late && let Some(found) = self.new_task(stage).await? {
                return Ok(Begun::Task(found.to_string()));
            }
            if let Some(upid) = self.begin(*stage).await? {
                return Ok(Begun::Task(upid.to_string()));
            }
        }
        self.tell().await?;
        Ok(Begun::Done(self.result()))
    }

    /// A task of `stage` that was not there before.
    pub(super) async fn new_task(&self, stage: &Stage) -> Result<Option<Upid>, DriverError> {
        let kinds = stage.task_kinds(self.op);
        if kinds.is_empty() {
            return Ok(None);
        }
        let tasks = task::about(self.client, self.at.vmid).await.map_err(|e| self.failed(e))?;
        let is_new = |task: &Upid| !self.before.tasks.iter().any(|known| known == task.as_str());
        let mut new = tasks.into_iter().filter(|task| is_new(task) && kinds.contains(&task.kind.as_str()) && self.client.is_me(&task.user));
        let Some(found) = new.next() else { return Ok(None) };
        if let (Stage::Own, GuestOp::Clone(to)) = (stage, self.op) {
            return self.task_of_clone(to.newid, found, new.collect()).await;
        }
        Ok(Some(found))
    }

    /// Which task made the clone `newid`: clones bear the number of what they are made of, and others are made of the same.
    async fn task_of_clone(&self, newid: Vmid, found: Upid, others: Vec<Upid>) -> Result<Option<Upid>, DriverError> {
        let made = match read_config(self.client, GuestAt { vmid: newid, ..self.at }).await {
            Ok((config, _)) => config,
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        if others.is_empty() {
            return Ok(Some(found));
        }
        let is_whole = self.is_made_by_this(&made).is_ok();
        for task in std::iter::once(found).chain(others) {
            let ended = task::stage(self.client, &task).await.map_err(|e| self.failed(e))?;
            if ended == task::Stage::Running {
                let why = "several clones of its source are being made; which one is this operation's is told when they have ended";
                return Err(self.conflict(DriverErrorKind::Unreachable, why.to_owned()));
            }
            // A whole one was made by one that went well, and a part by one that did not.
            if task::outcome(&ended).is_ok() == is_whole {
                return Ok(Some(task));
            }
        }
        Ok(None)
    }

    /// Whether a stage that needs no task is done.
    pub(super) async fn is_done_without_a_task(&self, stage: &Stage) -> Result<bool, DriverError> {
        match (stage, self.op) {
            // A machine's begins a task whatever it changes.
            (Stage::Own, GuestOp::SetConfig(change)) if self.at.kind == GuestKind::Lxc => {
                let (config, digest) = read_config(self.client, self.at).await.map_err(|e| self.failed(e))?;
                Ok(digest != self.before.digest && self.is_met(change, &config))
            }
            (Stage::Bury, _) => {
                let (config, digest) = read_config(self.client, self.at).await.map_err(|e| self.failed(e))?;
                Ok(digest != self.before.digest && is_buried(&config))
            }
            _ => Ok(false),
        }
    }

    fn is_met(&self, change: &SetConfig, config: &Config) -> bool {
        let live = GuestConfig { kind: self.at.kind, set: config.clone(), running: Default::default() };
        let is_same = guest::change(&change.set, None, &live).is_ok_and(|left| left.is_empty() && left.refused.is_empty());
        is_same && change.delete.iter().all(|key| !config.contains_key(key))
    }

    /// Notes what a task that has ended has to say.
    pub(super) fn ended(&self, upid: &Upid, ended: &task::Stage) {
        self.note("task", Value::from(upid.as_str()));
        if let task::Stage::Ended(TaskEnd::Warnings(n)) = ended {
            self.note("warnings", Value::from(*n));
        }
    }

    pub(super) fn note(&self, key: &str, value: Value) {
        self.result.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key.to_owned(), value);
    }

    /// What has come of it.
    pub(super) fn result(&self) -> OpResult {
        let result = self.result.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let result = if result.is_empty() { Value::Null } else { Value::Object(result) };
        OpResult { result, fault: None }
    }

    /// Notes what later steps may go by.
    async fn tell(&self) -> Result<(), DriverError> {
        match self.op {
            GuestOp::SnapshotCreate(make) => self.note(Output::SNAPSHOT, Value::from(make.name(&self.order.op_id))),
            GuestOp::SnapshotDelete(SnapshotDelete { name, .. }) | GuestOp::SnapshotRollback(SnapshotRollback { name, .. }) => {
                self.note(Output::SNAPSHOT, Value::from(name.as_str()));
            }
            GuestOp::Clone(CloneTo { newid, .. }) => self.tell_made(*newid).await?,
            GuestOp::Create(_) | GuestOp::Restore(_) => self.tell_made(self.at.vmid).await?,
            GuestOp::Backup(Backup { storage, .. }) => self.tell_backup(storage).await,
            GuestOp::Destroy(Destroy { backup_first: Some(storage), .. }) => self.tell_backup(storage).await,
            GuestOp::Start
            | GuestOp::Stop
            | GuestOp::Shutdown(_)
            | GuestOp::Reboot(_)
            | GuestOp::Suspend(_)
            | GuestOp::Resume
            | GuestOp::Reset
            | GuestOp::SetConfig(_)
            | GuestOp::Resize(_)
            | GuestOp::SnapshotList
            | GuestOp::Destroy(_)
            | GuestOp::Migrate(_)
            | GuestOp::Check(_) => {}
        }
        Ok(())
    }

    /// Which guest was made: what undoes it names its incarnation, and so another one of the number is left alone.
    ///
    /// # Errors
    /// When the host cannot be asked now: it is asked again. What the token may not see is left out.
    async fn tell_made(&self, vmid: Vmid) -> Result<(), DriverError> {
        self.note(Output::VMID, Value::from(vmid.to_string()));
        match self.incarnation_made(GuestAt { vmid, ..self.at }).await.map_err(|error| self.failed(error)) {
            Ok(incarnation) => {
                if let Some(incarnation) = incarnation {
                    self.note(Output::INCARNATION, Value::from(incarnation));
                }
                Ok(())
            }
            Err(error) if error.kind == DriverErrorKind::Unreachable => Err(error),
            // It is made nevertheless.
            Err(_) => Ok(()),
        }
    }

    async fn incarnation_made(&self, at: GuestAt) -> Result<Option<String>, CallError> {
        let (config, _) = read_config(self.client, at).await?;
        if self.is_made_by_this(&config).is_err() {
            return Ok(None);
        }
        incarnation_of(self.client, at, &config).await
    }

    async fn tell_backup(&self, storage: &str) {
        if let Ok(Some(volid)) = self.backup_of_ours(storage).await {
            self.note(Output::ARCHIVE, Value::from(volid));
        }
    }

    /// The backup that this operation has made, by what it says of itself.
    async fn backup_of_ours(&self, storage: &str) -> Result<Option<String>, CallError> {
        let asked = params([("content", "backup"), ("vmid", self.at.vmid.to_string().as_str())]);
        let contents = self.client.of_node(Verb::Get, &["storage", storage, "content"], &asked).await?;
        let mark = mark(&self.order.op_id);
        let is_ours = |entry: &&Value| lenient::text(entry.get("notes")).is_some_and(|notes| notes.contains(&mark));
        Ok(contents.as_array().into_iter().flatten().find(is_ours).and_then(|entry| lenient::text(entry.get("volid"))))
    }

    pub(super) fn failed(&self, error: CallError) -> DriverError {
        error.into_driver(Code::OpFailed, &format!("`{}` on {}", self.op.kind(), self.order.resource))
    }

    /// Begins a stage: the task that it goes on as, or nothing when it is done.
    async fn begin(&self, stage: Stage) -> Result<Option<Upid>, DriverError> {
        let mut tries = 0;
        let answer = loop {
            let Some(Ask { verb, path, asked }) = self.ask(stage).await? else { return Ok(None) };
            if self.ask_by.is_some_and(|by| Instant::now() > by) {
                let why = "the host took too long to show how the guest is, and was asked for nothing";
                return Err(self.conflict(DriverErrorKind::Unreachable, why.to_owned()));
            }
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let answer = self.client.of_node(verb, &path, &asked).await;
            crate::crash::point("pve.op.asked");
            match answer {
                Ok(answer) => break answer,
                // Somebody held the guest's file for a moment or changed it, and nothing was done.
                Err(error) if tries < PVE_BUSY_TRIES && is_passing(stage, &error) => {
                    tries += 1;
                    tokio::time::sleep(PVE_TASK_LOOK.ceiling(tries)).await;
                }
                Err(error) if stage == Stage::Remove && error.kind() == Some(ErrorKind::NotFound) && self.is_gone().await? => {
                    return Ok(None);
                }
                Err(error) if self.is_so_already(stage, &error) => return Ok(None),
                Err(error) => {
                    let may_have_begun = matches!(error.kind(), Some(ErrorKind::Failed | ErrorKind::Invalid));
                    let failed = match error.kind() {
                        Some(ErrorKind::NotFound) => DriverError { code: self.why(ErrorKind::NotFound).await, ..self.failed(error) },
                        _ => self.failed(error),
                    };
                    let had = asked.get("digest").map(String::as_str);
                    let in_part = if may_have_begun { self.in_part(had).await } else { "" };
                    return Err(DriverError { message: cut(&format!("{in_part}{}", failed.message)), ..failed });
                }
            }
        };
        task::of_answer(&answer, &format!("`{}` on {}", self.op.kind(), self.order.resource))
    }

    /// What to say of a write that has failed: a host notes key by key what it was told, and fails over what cannot be taken at once.
    /// `had`: the version of the guest's file before it.
    pub(super) async fn in_part(&self, had: Option<&str>) -> &'static str {
        let GuestOp::SetConfig(_) = self.op else { return "" };
        match read_config(self.client, self.at).await {
            Ok((_, has)) if has.as_deref() != had => "some of it may be written nevertheless, for the guest's config has changed: ",
            Ok(_) | Err(_) => "",
        }
    }

    /// What a failure of `kind` is called. That something was not there may be said of a disk too: only a look tells of the snapshot.
    pub(super) async fn why(&self, kind: ErrorKind) -> Code {
        let (name, code) = match (kind, self.op) {
            (ErrorKind::NotFound, GuestOp::SnapshotDelete(delete)) => (&delete.name, Code::NotFound),
            (ErrorKind::NotFound, GuestOp::SnapshotRollback(to)) => (&to.name, Code::NoSnapshot),
            _ => return Code::OpFailed,
        };
        match self.client.of_guest(Verb::Get, self.at, &["snapshot"], &Params::new()).await {
            Ok(list) if !snapshots(&list).contains_key(name) => code,
            Ok(_) | Err(_) => Code::OpFailed,
        }
    }

    /// Whether an error says that there is nothing to do.
    fn is_so_already(&self, stage: Stage, error: &CallError) -> bool {
        match (stage, error.kind()) {
            (Stage::Own | Stage::Start, Some(ErrorKind::AlreadyRunning)) => stage == Stage::Start || matches!(self.op, GuestOp::Start),
            (Stage::Own | Stage::Stop, Some(ErrorKind::NotRunning)) => {
                stage == Stage::Stop || matches!(self.op, GuestOp::Stop | GuestOp::Shutdown(_))
            }
            _ => false,
        }
    }

    /// The guest, which must still be the one that was looked at.
    pub(super) async fn live(&self) -> Result<Live, DriverError> {
        let live = match Live::read(self.client, self.at).await {
            Ok(live) => live,
            Err(error) if error.kind() == Some(ErrorKind::NotFound) && self.is_gone().await? => {
                let gone = self.conflict(DriverErrorKind::NotFound, "it is gone".to_owned());
                return Err(DriverError { code: Code::NotFound, ..gone });
            }
            Err(error) => return Err(self.failed(error)),
        };
        let lasting = |text: &Option<String>| text.as_deref().map(incarnation::lasting).map(str::to_owned);
        // What has come of a backup is another one than was there before.
        let is_replaced = matches!(self.op, GuestOp::Restore(_));
        if !is_replaced && self.before.incarnation.is_some() && lasting(&live.incarnation) != lasting(&self.before.incarnation) {
            return Err(self.other("it is another one than was looked at"));
        }
        Ok(live)
    }

    /// The guest, if nothing has come in the way of its end since that was ordered: what comes first may take hours.
    async fn live_to_go(&self) -> Result<Live, DriverError> {
        let live = self.live().await?;
        if live.incarnation != self.before.incarnation {
            return Err(self.other("its content is another one than was ordered to go"));
        }
        let why = if let GuestOp::Destroy(destroy) = self.op { cannot_go(destroy, &live) } else { None };
        let runs = || (live.status != GuestStatus::Stopped).then(|| "it runs again".to_owned());
        match why.or_else(runs) {
            Some(why) => Err(self.conflict(DriverErrorKind::Conflict, why)),
            None => Ok(live),
        }
    }

    /// Whether the guest is proven to be gone.
    async fn is_gone(&self) -> Result<bool, DriverError> {
        match trace(self.client, self.at).await.map_err(|e| self.failed(e))? {
            Trace::There => Ok(false),
            Trace::Elsewhere(node) => Err(self.conflict(DriverErrorKind::Conflict, format!("it is on the node {node} by now"))),
            Trace::Gone => Ok(true),
        }
    }

    /// Another one has the number.
    fn other(&self, why: &str) -> DriverError {
        DriverError { code: Code::IncarnationChanged, ..self.conflict(DriverErrorKind::Conflict, why.to_owned()) }
    }

    pub(super) fn conflict(&self, kind: DriverErrorKind, why: String) -> DriverError {
        let message = cut(&format!("`{}` on {}: {why}", self.op.kind(), self.order.resource));
        DriverError { kind, code: Code::OpFailed, message }
    }

    pub(super) fn guest(&self, verb: Verb, path: &[&str], asked: Params) -> Option<Ask> {
        self.guest_at(self.at, verb, path, asked)
    }

    fn guest_at(&self, at: GuestAt, verb: Verb, path: &[&str], asked: Params) -> Option<Ask> {
        let path = [at.kind.as_str().to_owned(), at.vmid.to_string()].into_iter().chain(path.iter().map(|part| (*part).to_owned()));
        Some(Ask { verb, path: path.collect(), asked })
    }

    /// The call of a stage; `None` when there is nothing to do.
    async fn ask(&self, stage: Stage) -> Result<Option<Ask>, DriverError> {
        match stage {
            // Somebody was quicker.
            Stage::SnapshotFirst | Stage::Stop | Stage::Bury | Stage::Remove if self.is_gone().await? => Ok(None),
            Stage::Own => self.ask_own().await,
            Stage::BackupFirst => {
                let GuestOp::Destroy(Destroy { backup_first: Some(storage), .. }) = self.op else { return Ok(None) };
                if self.backup_of_ours(storage).await.map_err(|e| self.failed(e))?.is_some() {
                    return Ok(None);
                }
                let backup = Backup { storage: storage.clone(), mode: None, notes: None, protected: true };
                Ok(self.dump(&backup))
            }
            Stage::SnapshotFirst => {
                let name = snapshot_name(&self.order.op_id);
                let there = self.client.of_guest(Verb::Get, self.at, &["snapshot"], &Params::new()).await.map_err(|e| self.failed(e))?;
                if snapshots(&there).contains_key(&name) {
                    return Ok(None);
                }
                let asked = params([("snapname", name.as_str()), ("description", mark(&self.order.op_id).as_str())]);
                Ok(self.guest(Verb::Post, &["snapshot"], asked))
            }
            Stage::Stop => {
                let is_stopped = self.live().await?.status == GuestStatus::Stopped;
                Ok(if is_stopped { None } else { self.guest(Verb::Post, &["status", "stop"], Params::new()) })
            }
            Stage::Bury => self.ask_to_bury().await,
            Stage::Remove => {
                self.live_to_go().await?;
                Ok(self.guest(Verb::Delete, &[], one("purge", "1")))
            }
            Stage::Mark => self.ask_to_mark().await,
            Stage::Start => {
                let live = self.live().await?;
                self.is_made_by_this(&live.config)?;
                let runs = live.status != GuestStatus::Stopped;
                Ok(if runs { None } else { self.guest(Verb::Post, &["status", "start"], Params::new()) })
            }
        }
    }

    /// Keeps the guest for a while: it never starts by itself, nobody removes it by mistake, and its name is free.
    async fn ask_to_bury(&self) -> Result<Option<Ask>, DriverError> {
        if is_buried(&self.live().await?.config) {
            return Ok(None);
        }
        let live = self.live_to_go().await?;
        let said = live.config.get("tags").map_or("", String::as_str);
        let key = name_key(self.at.kind);
        let name = live.config.get(key).cloned().unwrap_or_else(|| format!("guest-{}", self.at.vmid));
        let name: String = format!("{BURIED_NAME}{name}").chars().take(60).collect();
        let tags = tags::with(&tags::with(said, TAG), BURIED_TAG);
        let mut asked = params([(key, name.trim_end_matches(['-', '.'])), ("tags", tags.as_str()), ("protection", "1"), ("onboot", "0")]);
        asked.extend(live.digest.map(|digest| ("digest".to_owned(), digest)));
        Ok(self.guest(Verb::Put, &["config"], asked))
    }

    /// Whether a guest with this config is the one that this operation has made. What comes of a backup has the backup's description.
    fn is_made_by_this(&self, config: &Config) -> Result<(), DriverError> {
        let says = || config.get("description").is_some_and(|text| text.contains(&mark(&self.order.op_id)));
        if matches!(self.op, GuestOp::Clone(_) | GuestOp::Create(_)) && !says() {
            let why = "what it has made is gone, and another guest bears the number".to_owned();
            return Err(self.conflict(DriverErrorKind::Conflict, why));
        }
        Ok(())
    }

    /// Marks a guest that this operation has made.
    async fn ask_to_mark(&self) -> Result<Option<Ask>, DriverError> {
        let vmid = if let GuestOp::Clone(CloneTo { newid, .. }) = self.op { *newid } else { self.at.vmid };
        let at = GuestAt { vmid, ..self.at };
        let (config, digest) = read_config(self.client, at).await.map_err(|e| self.failed(e))?;
        self.is_made_by_this(&config)?;
        let said = config.get("tags").map_or("", String::as_str);
        if tags::has(said, TAG) {
            return Ok(None);
        }
        let mut asked = one("tags", &tags::with(said, TAG));
        asked.extend(digest.map(|digest| ("digest".to_owned(), digest)));
        Ok(self.guest_at(at, Verb::Put, &["config"], asked))
    }
}

/// Whether a guest is kept for a while after its end.
fn is_buried(config: &Config) -> bool {
    let is_tagged = config.get("tags").is_some_and(|text| tags::has(text, BURIED_TAG));
    is_tagged && is_on(config, "protection")
}

/// Whether the same may be asked again at once.
fn is_passing(stage: Stage, error: &CallError) -> bool {
    // To mark a guest is right whatever else of it was changed meanwhile.
    let kind = error.kind();
    kind == Some(ErrorKind::Busy) || (stage == Stage::Mark && matches!(kind, Some(ErrorKind::Conflict | ErrorKind::Locked)))
}

/// What an operation leaves in the description of what it makes.
pub(super) fn mark(op_id: &OpId) -> String {
    format!("moorline.op={op_id}")
}
