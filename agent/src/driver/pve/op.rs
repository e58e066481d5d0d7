//! Operations on guests: what must hold when they begin, and what proves them.
//!
//! A task bears the name of who began it, what it does and to which guest, and a host lists it from the moment on in which it begins. The
//! names of those that were there before are noted, so that one whose answer was lost is found again: it is the only new one of its
//! kind. Where there is none for long enough, nothing has happened. Who else works with the agent's own token spoils that.
//!
//! | the host shows | so it is |
//! |---|---|
//! | the task, running or ended | the task |
//! | no new task, and the guest as the operation makes it (a config that was written without a task) | done |
//! | no new task, before the margin is over | not known yet |
//! | no new task afterwards | absent |
//! | a task whose worker died, or that is listed no more | unknown: nobody can say how far it came |

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::OpId;
use moorline_common::observe::{GuestStatus, ObservedSnapshot, TAG};
use moorline_common::op::guest::{Destroy, GuestOp};
use moorline_common::plan::guest::note_key;
use moorline_common::pve::answer::ErrorKind;
use moorline_common::pve::guest::Config;
use moorline_common::pve::upid::Upid;
use moorline_common::pve::{GuestKind, Vmid, incarnation, lenient, privilege, tags};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::super::{Begun, DriverError, DriverErrorKind, Found, OpOrder, OpResult, Ownership, Taker};
use super::check;
use super::client::{CallError, Client, GuestAt, Params, Transport, Verb, params};
use super::observe::{incarnation_of, is_on, read_config, snapshots, status_of};
use super::run::Run;
use super::stage::{Stage, stages};
use super::task;
use crate::lane::aside;
use crate::limits::{OP_LOOK, PVE_ASK_WITHIN, PVE_DOUBTS_MAX, PVE_MARGIN, PVE_OP_TIMEOUT};

/// A guest as it was before an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// Which one it was; `None` for one that is to be made, or whose ids the token may not see.
    pub incarnation: Option<String>,
    /// Whether it ran.
    pub status: GuestStatus,
    /// The version of its file.
    pub digest: Option<String>,
    /// Tasks about it that the host knew.
    pub tasks: Vec<String>,
}

impl Before {
    fn read(value: &Value) -> Result<Self, DriverError> {
        serde_json::from_value(value.clone()).map_err(|e| DriverError {
            kind: DriverErrorKind::Permanent,
            code: Code::Internal,
            message: cut(&format!("what was noted before an operation on a guest cannot be read: {e}")),
        })
    }
}

/// Since when this process has been in doubt about operations of several stages: a request for the next one may still be under way.
#[derive(Default)]
pub(super) struct Doubts(Mutex<BTreeMap<OpId, Instant>>);

impl Doubts {
    /// Its task is at hand: what is in doubt later is another doubt.
    pub(super) fn resolved(&self, op_id: &OpId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(op_id);
    }

    fn since(&self, op_id: &OpId) -> Instant {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *known.entry(op_id.clone()).or_insert_with(Instant::now);
        while known.len() > PVE_DOUBTS_MAX {
            known.pop_first();
        }
        since
    }
}

/// A guest as it is.
pub(super) struct Live {
    pub at: GuestAt,
    pub status: GuestStatus,
    pub config: Config,
    pub digest: Option<String>,
    pub incarnation: Option<String>,
    pub lock: Option<String>,
    pub is_ha_managed: bool,
    pub is_template: bool,
    /// For how long it runs, in seconds.
    pub uptime_s: Option<u64>,
    /// Whether its config has a guest agent.
    pub has_agent: bool,
}

impl Live {
    /// Whether it says of itself that Moorline made it, or is noted as taken over.
    pub(super) fn is_ours(&self, owned: &Ownership) -> bool {
        let says = self.config.get("tags").is_some_and(|text| tags::has(text, TAG));
        let note = owned.known.owner(&note_key(self.at.vmid));
        says || note.is_some_and(|owner| Some(owner.base.as_str()) == self.incarnation.as_deref().map(incarnation::lasting))
    }

    /// The guest at `at`.
    ///
    /// # Errors
    /// [`CallError`]; [`ErrorKind::NotFound`] when its node has none.
    pub(super) async fn read<T: Transport>(client: &Client<T>, at: GuestAt) -> Result<Self, CallError> {
        let (config, digest) = read_config(client, at).await?;
        let current = client.of_guest(Verb::Get, at, &["status", "current"], &Params::new()).await?;
        let incarnation = incarnation_of(client, at, &config).await?;
        let ha = current.get("ha");
        Ok(Self {
            at,
            status: status_of(&current),
            digest,
            incarnation,
            lock: lenient::text(current.get("lock")),
            is_ha_managed: lenient::flag(ha.and_then(|ha| ha.get("managed"))),
            is_template: lenient::flag(current.get("template")),
            uptime_s: current.get("uptime").and_then(lenient::uint),
            has_agent: lenient::flag(current.get("agent")),
            config,
        })
    }
}

/// The guest `vmid` on the node, if the token may see it there.
pub(super) async fn find<T: Transport>(client: &Client<T>, vmid: Vmid) -> Result<Option<Live>, CallError> {
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        let list = client.of_node(Verb::Get, &[kind.as_str()], &Params::new()).await?;
        let is_it = |entry: &&Value| entry.get("vmid").and_then(lenient::uint) == Some(vmid.get().into());
        if let Some(entry) = list.as_array().into_iter().flatten().find(is_it) {
            let live = Live::read(client, GuestAt { kind, vmid }).await?;
            let is_template = live.is_template || lenient::flag(entry.get("template"));
            return Ok(Some(Live { is_template, ..live }));
        }
    }
    Ok(None)
}

/// Checks and notes; changes nothing.
pub(super) async fn prepare<T: Transport>(
    client: &Client<T>,
    owned: &Ownership,
    order: &OpOrder,
    op: &GuestOp,
) -> Result<Value, DriverError> {
    let vmid = vmid(order)?;
    let failed = |e: CallError| e.into_driver(Code::PreconditionFailed, &format!("looking at guest {vmid}"));
    let live = find(client, vmid).await.map_err(failed)?;
    let tasks = task::about(client, vmid).await.map_err(failed)?.iter().map(Upid::to_string).collect();
    if let Some(other) = op.config().and_then(|(kind, config)| privilege::others_disks(kind, vmid, config).pop_first()) {
        return Err(refused(
            order,
            Code::NotOwned,
            format!("it names a disk of guest {other}; only a topology may, where the host's policy does"),
        ));
    }
    if let GuestOp::Restore(restore) = op
        && let Some((_, other)) = privilege::archived(&restore.archive).filter(|(_, other)| *other != vmid)
        && !find(client, other).await.map_err(failed)?.is_some_and(|guest| guest.is_ours(owned))
    {
        return Err(refused(
            order,
            Code::NotOwned,
            format!("the backup is of guest {other}, which is not Moorline's here; only a topology may, where the host's policy does"),
        ));
    }
    if let Some(kind) = op.makes() {
        return match live {
            Some(_) => Err(refused(order, Code::AlreadyExists, format!("a guest {vmid} is there already"))),
            None => Ok(written(&Before { kind, incarnation: None, status: GuestStatus::Stopped, digest: None, tasks })),
        };
    }
    let Some(live) = live else {
        return Err(missing(client, order, vmid).await.unwrap_or_else(failed));
    };
    admit(owned, order, op, &live)?;
    if let GuestOp::SnapshotRollback(_) | GuestOp::SnapshotCreate(_) | GuestOp::SnapshotDelete(_) = op {
        let there = snapshots(&client.of_guest(Verb::Get, live.at, &["snapshot"], &Params::new()).await.map_err(failed)?);
        admit_snapshot(order, op, &there)?;
    }
    Ok(written(&Before { kind: live.at.kind, incarnation: live.incarnation, status: live.status, digest: live.digest, tasks }))
}

/// Where a guest is that its node does not list.
pub(super) enum Trace {
    /// There nevertheless.
    There,
    /// On this other node.
    Elsewhere(String),
    /// Nowhere.
    Gone,
}

/// Looks for a guest. A list that leaves it out proves nothing; but who may not see a guest hears that before anything is said of it.
///
/// # Errors
/// [`CallError`]; [`ErrorKind::Forbidden`] when the token may not see it.
pub(super) async fn trace<T: Transport>(client: &Client<T>, at: GuestAt) -> Result<Trace, CallError> {
    match read_config(client, at).await {
        Ok(_) => return Ok(Trace::There),
        Err(error) if error.kind() == Some(ErrorKind::NotFound) => {}
        Err(error) => return Err(error),
    }
    let all = client.call(Verb::Get, &["cluster", "resources"], &params([("type", "vm")])).await?;
    let is_it = |entry: &&Value| entry.get("vmid").and_then(lenient::uint) == Some(at.vmid.get().into());
    let node = all.as_array().into_iter().flatten().find(is_it).and_then(|entry| lenient::text(entry.get("node")));
    Ok(node.filter(|node| node != client.node()).map_or(Trace::Gone, Trace::Elsewhere))
}

/// Why an operation does not find its guest. It is `not_found` only where that is proven: who undoes something is done then.
async fn missing<T: Transport>(client: &Client<T>, order: &OpOrder, vmid: Vmid) -> Result<DriverError, CallError> {
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        match trace(client, GuestAt { kind, vmid }).await? {
            Trace::There => return Ok(refused(order, Code::PreconditionFailed, "it was not listed, and is there by now".to_owned())),
            Trace::Elsewhere(node) => return Ok(refused(order, Code::PreconditionFailed, format!("it is on the node {node}"))),
            Trace::Gone => {}
        }
    }
    let why = format!("there is no guest {vmid} on {}", client.node());
    Ok(DriverError { kind: DriverErrorKind::NotFound, ..refused(order, Code::NotFound, why) })
}

/// Whether an operation on snapshots can begin where these are `there`. To go back to nothing is never what was wanted; to remove it may be.
fn admit_snapshot(order: &OpOrder, op: &GuestOp, there: &BTreeMap<String, ObservedSnapshot>) -> Result<(), DriverError> {
    let absent = |name: &str, code: Code| {
        let known: Vec<&str> = there.keys().map(String::as_str).collect();
        let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(refused(order, code, format!("it has no snapshot `{name}`; it has {has}")))
    };
    if let GuestOp::SnapshotRollback(to) = op {
        return if there.contains_key(&to.name) { Ok(()) } else { absent(&to.name, Code::NoSnapshot) };
    }
    if let GuestOp::SnapshotDelete(delete) = op {
        return if there.contains_key(&delete.name) { Ok(()) } else { absent(&delete.name, Code::NotFound) };
    }
    if let GuestOp::SnapshotCreate(make) = op
        && there.contains_key(&make.name(&order.op_id))
    {
        return Err(refused(order, Code::AlreadyExists, format!("it has a snapshot `{}` already", make.name(&order.op_id))));
    }
    Ok(())
}

fn written(before: &Before) -> Value {
    // A struct of strings always serialises.
    serde_json::to_value(before).unwrap_or_default()
}

/// Whether the guest that is there is the one that an order names. A rollback gives the same guest a new incarnation, and leaves its snapshots
/// as they are: the one that it went back to can then be deleted.
fn is_meant(op: &GuestOp, wanted: &str, is: &str) -> bool {
    let is_same = matches!(op, GuestOp::SnapshotDelete(_)) && incarnation::lasting(wanted) == incarnation::lasting(is);
    is_same || wanted == is
}

/// Whether the operation can begin on the guest that is there.
fn admit(owned: &Ownership, order: &OpOrder, op: &GuestOp, live: &Live) -> Result<(), DriverError> {
    let (only_looks, is_ours) = (op.only_looks(live.is_template), live.is_ours(owned));
    let meant = order.incarnation.as_ref().zip(live.incarnation.as_ref());
    if let Some((wanted, is)) = meant
        && !is_meant(op, wanted, is)
        && !crate::plant::planted("incarnation not checked")
    {
        // Whosever the other one is: the one that was meant is not there.
        let is = if is_ours { is.as_str() } else { "another, and not Moorline's" };
        return Err(refused(order, Code::IncarnationChanged, format!("the order is for {wanted}; what bears the number now is {is}")));
    }
    if !is_ours && !only_looks {
        return Err(refused(order, Code::NotOwned, "Moorline did not make it; `moorctl import proxmox` takes it over".to_owned()));
    }
    match (&order.incarnation, &live.incarnation) {
        (None, _) if op.needs_incarnation() => {
            return Err(refused(
                order,
                Code::BadParams,
                "the order does not say which one of those it means that have borne its number".to_owned(),
            ));
        }
        (Some(_), None) => {
            let why = "what tells it from others of its number cannot be seen: give the agent's token `Datastore.Audit` on its root volume's storage";
            return Err(refused(order, Code::PermissionDenied, why.to_owned()));
        }
        (Some(_) | None, Some(_) | None) => {}
    }
    if order.state.is_some() {
        return Err(refused(order, Code::BadParams, "only a container of Docker's is in such a state".to_owned()));
    }
    let wakes = |lock: &str| lock == "suspended" && matches!(op, GuestOp::Resume | GuestOp::Start);
    let lock = live.lock.as_deref().filter(|lock| !only_looks && !wakes(lock));
    if let Some(lock) = lock {
        return Err(refused(order, Code::PreconditionFailed, format!("it is locked ({lock}): order it again when that has ended")));
    }
    unfit(op, live).map_or(Ok(()), |why| Err(refused(order, Code::PreconditionFailed, why)))
}

/// Why the operation cannot be done on a guest like this.
fn unfit(op: &GuestOp, live: &Live) -> Option<String> {
    let is_machine = live.at.kind == GuestKind::Qemu;
    let (runs, paused) = (live.status != GuestStatus::Stopped, live.status == GuestStatus::Paused);
    let only = |fits: bool, why: &str| (!fits).then(|| why.to_owned());
    match op {
        GuestOp::Start | GuestOp::Check(_) if live.is_template => Some("it is a template, which never runs".to_owned()),
        GuestOp::Start => only(!paused, "it is frozen: order `resume`"),
        GuestOp::Reset | GuestOp::Suspend(_) if !is_machine => Some(format!("a container has no `{}`", op.kind())),
        GuestOp::Reboot(_) | GuestOp::Reset => only(runs, "it does not run"),
        GuestOp::Suspend(_) => only(runs && !paused, "it does not run"),
        GuestOp::Resume => only(paused || live.lock.as_deref() == Some("suspended"), "it is not frozen"),
        GuestOp::SetConfig(change) if change.kind != live.at.kind => Some(format!("it is of the type {}", live.at.kind.as_str())),
        GuestOp::SetConfig(change) => {
            let is_same = change.digest.is_none() || change.digest == live.digest;
            only(is_same, "its config was changed since the order was signed; look at it and sign again")
        }
        GuestOp::SnapshotCreate(make) if make.memory => only(is_machine && runs, "only a machine that runs has memory to keep"),
        GuestOp::Destroy(destroy) => cannot_go(destroy, live),
        GuestOp::Restore(_) if runs => Some("it runs: stop it first".to_owned()),
        GuestOp::Restore(_) if is_on(&live.config, "protection") => Some("it is protected: take its `protection` away first".to_owned()),
        GuestOp::Stop
        | GuestOp::Shutdown(_)
        | GuestOp::Resize(_)
        | GuestOp::SnapshotCreate(_)
        | GuestOp::SnapshotDelete(_)
        | GuestOp::SnapshotRollback(_)
        | GuestOp::SnapshotList
        | GuestOp::Clone(_)
        | GuestOp::Create(_)
        | GuestOp::Backup(_)
        | GuestOp::Restore(_)
        | GuestOp::Migrate(_)
        | GuestOp::Check(_) => None,
    }
}

/// Why a guest cannot be destroyed.
pub(super) fn cannot_go(destroy: &Destroy, live: &Live) -> Option<String> {
    if is_on(&live.config, "protection") {
        return Some("it is protected: take its `protection` away first, by `set-config` or in the topology".to_owned());
    }
    if live.is_ha_managed {
        return Some("the cluster's resource manager has it: take it out of that first".to_owned());
    }
    (live.status != GuestStatus::Stopped && !destroy.stop).then(|| "it runs: stop it first, or order it with `--stop`".to_owned())
}

/// Begins the first stage.
pub(super) async fn start<T: Transport>(mut run: Run<'_, T>) -> Result<Begun, DriverError> {
    if let GuestOp::Check(_) = run.op {
        return Ok(Begun::Task(check::TASK.to_owned()));
    }
    run.ask_by = Some(Instant::now() + PVE_ASK_WITHIN);
    run.from(0, false).await
}

/// Waits for a task, and begins what comes after it.
pub(super) async fn resume<T: Transport>(run: &Run<'_, T>, task: &str, taker: Taker) -> Result<Begun, DriverError> {
    if let GuestOp::Check(check) = run.op {
        return Ok(Begun::Done(aside(check::watch(run, check)).await));
    }
    let upid: Upid = match task.parse() {
        Ok(upid) => upid,
        Err(e) => return Ok(Begun::Done(lost(&format!("{e}")))),
    };
    let ended = aside(task::wait(run.client, &upid, PVE_OP_TIMEOUT, taker)).await?;
    let Some(ended) = ended else {
        return Ok(Begun::Done(lost(&format!("the task {upid} still runs after {} s", PVE_OP_TIMEOUT.as_secs()))));
    };
    if let Err(error) = task::outcome(&ended) {
        let log = task::last_lines(run.client, &upid).await;
        let result = serde_json::json!({ "task": upid.as_str(), "log": log });
        let code = if error.kind == ErrorKind::UnknownOutcome { Code::Indeterminate } else { run.why(error.kind).await };
        let words = if code == Code::Indeterminate {
            format!("the worker of {upid} has died ({})", error.message)
        } else {
            format!("{}{}", run.in_part(run.before.digest.as_deref()).await, error.message)
        };
        return Ok(Begun::Done(OpResult { result, fault: Some(Fault::new(code, words)) }));
    }
    let Some(done) = run.stages.iter().rposition(|stage| stage.task_kinds(run.op).contains(&upid.kind.as_str())) else {
        return Ok(Begun::Done(lost(&format!("{upid} is no task of a `{}`", run.op.kind()))));
    };
    run.ended(&upid, &ended);
    run.from(done + 1, true).await
}

/// Looks for evidence. Changes nothing.
pub(super) async fn adopt<T: Transport>(
    run: &Run<'_, T>,
    doubts: &Doubts,
    task: Option<&str>,
    age: Duration,
) -> Result<Found, DriverError> {
    if let GuestOp::Check(_) = run.op {
        // It changes nothing: whatever became of it, it is looked at anew.
        return Ok(Found::Task(check::TASK.to_owned()));
    }
    if let Some(task) = task {
        // The next stage may have been asked for, and be under way.
        let waited = doubts.since(&run.order.op_id).elapsed();
        return Ok(match PVE_MARGIN.checked_sub(waited) {
            Some(left) if run.stages.len() > 1 && !left.is_zero() => Found::NotYet(left.min(OP_LOOK)),
            Some(_) | None => Found::Task(task.to_owned()),
        });
    }
    let Some(first) = run.stages.first() else { return Ok(Found::Absent) };
    if let Some(found) = run.new_task(first).await? {
        return Ok(Found::Task(found.to_string()));
    }
    if run.is_done_without_a_task(first).await? {
        return Ok(Found::Done(run.result()));
    }
    Ok(match PVE_MARGIN.checked_sub(age) {
        Some(left) if !left.is_zero() => Found::NotYet(left.min(OP_LOOK)),
        Some(_) | None => Found::Absent,
    })
}

/// What an operation is carried out with.
pub(super) fn run<'a, T: Transport>(
    client: &'a Client<T>,
    order: &'a OpOrder,
    op: &'a GuestOp,
    evidence: &Value,
) -> Result<Run<'a, T>, DriverError> {
    let before = Before::read(evidence)?;
    let stages: Vec<Stage> = stages(op, &before);
    Ok(Run::new(client, order, op, vmid(order)?, before, stages))
}

fn lost(why: &str) -> OpResult {
    OpResult { result: Value::Null, fault: Some(Fault::new(Code::Indeterminate, cut(why))) }
}

fn vmid(order: &OpOrder) -> Result<Vmid, DriverError> {
    Vmid::of(&order.resource).ok_or_else(|| DriverError::no_such_operation(order))
}

fn refused(order: &OpOrder, code: Code, why: String) -> DriverError {
    let message = cut(&format!("`{}` on {}: {why}", order.act.kind(), order.resource));
    DriverError { kind: DriverErrorKind::Conflict, code, message }
}

/// A parameter of a call that stands alone.
pub(super) fn one(key: &str, value: &str) -> Params {
    params([(key, value)])
}
