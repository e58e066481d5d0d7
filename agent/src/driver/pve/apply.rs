//! Steps on guests. Each looks once more at what it is about: nothing is done to a guest that is another one by now, or that somebody
//! else works on.

use std::time::Duration;

use moorline_common::fault::{Code, cut};
use moorline_common::observe::{BURIED_TAG, GuestStatus, TAG};
use moorline_common::plan::guest::{GuestAct, GuestAction, marker, note_key};
use moorline_common::pve::guest::{Config, ConfigChange};
use moorline_common::pve::keys::{self, Shape};
use moorline_common::pve::{GuestKind, incarnation, lenient, scalar, tags};
use moorline_common::topology::GuestSource;
use serde_json::Value;

use super::super::{DriverError, DriverErrorKind, Ownership, Taker, Tasks};
use super::client::{CallError, Client, GuestAt, Params, Transport, Verb, params};
use super::forms::{clone_params, create_params, name_key, resized};
use super::observe::{incarnation_of, is_on, read_config, status_of};
use super::op::Live;
use super::task;
use crate::lane::aside;
use crate::limits::{PVE_MAKE_TIMEOUT, PVE_STOP_MARGIN, PVE_TASK_TIMEOUT};

/// Makes `action` so.
pub(super) async fn apply<T: Transport>(
    client: &Client<T>,
    owned: &Ownership,
    action: &GuestAction,
    tasks: Tasks,
) -> Result<(), DriverError> {
    let hands = Hands { client, owned, at: GuestAt { kind: action.kind, vmid: action.vmid }, action, tasks };
    match &action.act {
        GuestAct::Create { from, config, marker } => hands.create(from.as_ref(), config, marker).await,
        GuestAct::Adopt => hands.look().await.map(drop),
        GuestAct::Update { change, digest } => hands.update(change, digest.as_deref()).await,
        GuestAct::Start => hands.power("start", GuestStatus::Running, Params::new(), PVE_TASK_TIMEOUT).await,
        GuestAct::Resume => hands.power("resume", GuestStatus::Running, Params::new(), PVE_TASK_TIMEOUT).await,
        GuestAct::Shutdown { timeout_s, force } => {
            let asked = params([("timeout", timeout_s.to_string().as_str()), ("forceStop", scalar::flag(*force))]);
            hands.power("shutdown", GuestStatus::Stopped, asked, patience(*timeout_s)).await
        }
        GuestAct::Purge => hands.purge().await,
        GuestAct::Reboot { timeout_s } => {
            hands.look().await?;
            let asked = params([("timeout", timeout_s.to_string().as_str())]);
            hands.order(Verb::Post, &["status", "reboot"], &asked, patience(*timeout_s)).await
        }
    }
}

fn patience(timeout_s: u32) -> Duration {
    Duration::from_secs(timeout_s.into()) + PVE_STOP_MARGIN
}

struct Hands<'a, T> {
    client: &'a Client<T>,
    owned: &'a Ownership,
    at: GuestAt,
    action: &'a GuestAction,
    tasks: Tasks,
}

impl<T: Transport> Hands<'_, T> {
    /// The guest's config and its digest, if it is still the one that was planned for, and nobody works on it.
    async fn look(&self) -> Result<(Config, Option<String>), DriverError> {
        let vmid = self.action.vmid;
        let failed = |e: CallError| failed(e, &format!("reading guest {vmid}"));
        let (config, digest) = read_config(self.client, self.at).await.map_err(failed)?;
        let is = incarnation_of(self.client, self.at, &config).await.map_err(failed)?;
        if is.as_deref().map(incarnation::lasting) != self.action.incarnation.as_deref().map(incarnation::lasting) {
            return Err(conflict(format!("guest {vmid} is another one than was looked at")));
        }
        let is_marked = config.get("tags").is_some_and(|text| tags::has(text, TAG))
            || config.get("description").map(|text| text.trim_end()) == Some(marker(&self.owned.host_id, vmid).as_str());
        let is_noted = self.owned.known.owner(&note_key(vmid)).is_some();
        if !is_marked && !is_noted && !self.action.adopted {
            let message = format!("guest {vmid} is not Moorline's");
            return Err(DriverError { kind: DriverErrorKind::Permanent, code: Code::NotOwned, message });
        }
        Ok((config, digest))
    }

    /// How it is now.
    async fn current(&self) -> Result<Value, DriverError> {
        let answer = self.client.of_guest(Verb::Get, self.at, &["status", "current"], &Params::new()).await;
        answer.map_err(|e| failed(e, &format!("asking for guest {}", self.at.vmid)))
    }

    /// Whether it runs.
    async fn status(&self) -> Result<GuestStatus, DriverError> {
        Ok(status_of(&self.current().await?))
    }

    /// Brings it to run or not to run.
    async fn power(&self, verb: &str, wanted: GuestStatus, asked: Params, limit: Duration) -> Result<(), DriverError> {
        self.look().await?;
        if self.status().await? == wanted {
            return Ok(());
        }
        match self.order(Verb::Post, &["status", verb], &asked, limit).await {
            // Somebody else was quicker.
            Err(error) if error.kind == DriverErrorKind::Conflict && self.status().await? == wanted => Ok(()),
            ended => ended,
        }
    }

    /// Makes a call, and waits for the task that it may begin.
    async fn order(&self, verb: Verb, path: &[&str], asked: &Params, limit: Duration) -> Result<(), DriverError> {
        let what = format!("{} of guest {}", path.join(" "), self.at.vmid);
        self.finish(self.client.of_guest(verb, self.at, path, asked).await, &what, limit).await
    }

    /// Waits for the task in an answer.
    async fn finish(&self, answer: Result<Value, CallError>, what: &str, limit: Duration) -> Result<(), DriverError> {
        crate::crash::point("pve.step.asked");
        let answer = answer.map_err(|e| failed(e, what))?;
        let Some(upid) = task::of_answer(&answer, what)? else { return Ok(()) };
        self.tasks.begun(upid.as_str()).await;
        let ended = aside(task::wait(self.client, &upid, limit, Taker::nobody())).await?;
        let Some(ended) = ended else {
            let message = format!("{what}: the task {upid} still runs after {} s", limit.as_secs());
            return Err(DriverError { kind: DriverErrorKind::Retryable, code: Code::StepFailed, message: cut(&message) });
        };
        task::outcome(&ended).map_err(|e| failed(CallError::Api(e), what))
    }

    async fn create(&self, from: Option<&GuestSource>, config: &Config, marker: &str) -> Result<(), DriverError> {
        let nothing = GuestSource::default();
        let from = from.unwrap_or(&nothing);
        let what = format!("making guest {}", self.at.vmid);
        let answer = match from.clone {
            Some(source) => {
                self.may_be_cloned(GuestAt { vmid: source, ..self.at }).await?;
                let asked =
                    clone_params(self.action.kind, self.at.vmid, config.get(name_key(self.action.kind)).map(String::as_str), from, marker);
                self.client.of_guest(Verb::Post, GuestAt { vmid: source, ..self.at }, &["clone"], &asked).await
            }
            None => {
                let asked = create_params(self.action.kind, self.at.vmid, from, config, marker)?;
                self.client.of_node(Verb::Post, &[self.action.kind.as_str()], &asked).await
            }
        };
        self.finish(answer, &what, PVE_MAKE_TIMEOUT).await
    }

    /// A clone has all that its source has: of what is neither a template nor Moorline's nobody gets one.
    async fn may_be_cloned(&self, source: GuestAt) -> Result<(), DriverError> {
        let what = format!("reading guest {}, of which {} is to be a clone", source.vmid, self.at.vmid);
        let source_is = Live::read(self.client, source).await.map_err(|e| failed(e, &what))?;
        if source_is.is_template || source_is.is_ours(self.owned) {
            return Ok(());
        }
        let message = format!("guest {} is neither a template nor Moorline's: make it a template, or take it over", source.vmid);
        Err(DriverError { kind: DriverErrorKind::Permanent, code: Code::NotOwned, message })
    }

    /// Removes a guest that was destroyed and kept for a while, if it still is that one.
    async fn purge(&self) -> Result<(), DriverError> {
        let (config, digest) = match self.look().await {
            Err(error) if error.kind == DriverErrorKind::NotFound => return Ok(()),
            seen => seen?,
        };
        let is_buried = config.get("tags").is_some_and(|text| tags::has(text, BURIED_TAG));
        let current = self.current().await?;
        if lenient::flag(current.get("ha").and_then(|ha| ha.get("managed"))) {
            return Err(conflict(format!("guest {} is kept after all: the cluster's resource manager has it", self.at.vmid)));
        }
        if !is_buried || status_of(&current) != GuestStatus::Stopped {
            return Err(conflict(format!("guest {} is kept after all: it runs, or bears the tag `{BURIED_TAG}` no more", self.at.vmid)));
        }
        if is_on(&config, "protection") {
            let mut asked = params([("protection", "0")]);
            asked.extend(digest.map(|digest| ("digest".to_owned(), digest)));
            self.order(Verb::Put, &["config"], &asked, PVE_TASK_TIMEOUT).await?;
        }
        self.order(Verb::Delete, &[], &params([("purge", "1")]), PVE_TASK_TIMEOUT).await
    }

    async fn update(&self, change: &ConfigChange, digest: Option<&str>) -> Result<(), DriverError> {
        let (_, now) = self.look().await?;
        if digest.is_some() && now.as_deref() != digest {
            return Err(conflict(format!("guest {} was changed since it was looked at", self.at.vmid)));
        }
        let mut asked: Params = change.set.clone();
        if !change.delete.is_empty() {
            asked.insert("delete".to_owned(), change.delete.iter().cloned().collect::<Vec<_>>().join(","));
        }
        if !asked.is_empty() {
            asked.extend(now.map(|now| ("digest".to_owned(), now)));
            let verb = config_verb(self.action.kind, change);
            self.order(verb, &["config"], &asked, PVE_TASK_TIMEOUT).await?;
        }
        for (disk, bytes) in &change.grow {
            let asked = params([("disk", disk.as_str()), ("size", resized(*bytes).as_str())]);
            self.order(Verb::Put, &["resize"], &asked, PVE_TASK_TIMEOUT).await?;
        }
        Ok(())
    }
}

/// How a config is written: what may take long (a disk is made, a card is plugged) goes by a task where there is one.
fn config_verb(kind: GuestKind, change: &ConfigChange) -> Verb {
    let takes_long =
        |key: &String| keys::find(GuestKind::Qemu, key).is_ok_and(|known| matches!(known.shape, Shape::Volume(_) | Shape::Card(..)));
    let is_long = change.set.keys().chain(&change.delete).any(takes_long);
    if kind == GuestKind::Qemu && is_long { Verb::Post } else { Verb::Put }
}

/// What a call's error means for a step. Where a host that answers does not say what has come of it, the next look tells.
fn failed(error: CallError, what: &str) -> DriverError {
    let is_answered = matches!(error, CallError::Api(_));
    match error.into_driver(Code::StepFailed, what) {
        unknown if is_answered && unknown.kind == DriverErrorKind::Unreachable => {
            DriverError { kind: DriverErrorKind::Retryable, code: Code::StepFailed, ..unknown }
        }
        failed => failed,
    }
}

fn conflict(message: String) -> DriverError {
    DriverError { kind: DriverErrorKind::Conflict, code: Code::StepFailed, message }
}
