//! The planner for Proxmox VE's guests.
//!
//! Guests hold data: they are made once, changed in place, started and stopped, and never replaced or removed. One that is gone though
//! it had been made is told, and not made again: a list that leaves it out proves nothing, and its data would not come back. What is
//! neither marked as ours nor named by `adopt` is never touched.

use super::Action;
use super::compare::{self, Difference};
use super::draft::Draft;
use super::scene::Scene;
use crate::canonical::version_hash;
use crate::fault::Code;
use crate::id::{HostId, ResourceId};
use crate::observe::{EngineState, ObservedGuest, TAG};
use crate::pve::tags;
use crate::pve::{Vmid, incarnation};
use crate::topology::{GuestSpec, Shutdown};

mod action;
mod config;
mod power;
mod purge;
#[cfg(test)]
mod tests;

pub use action::{GuestAct, GuestAction};
pub(super) use config::fields;
pub use config::may_change_hidden;
use config::plan_config;
use power::{is_suspended, plan_power, plan_reboot, plan_removed};
pub use purge::is_buried;
use purge::plan_purge;

/// How long a guest may take to stop when nobody says otherwise, in seconds: as a host's own `shutdown` gives it.
pub const SHUTDOWN_S: u32 = 180;

/// Before the key in the field of a drift of a guest's config.
pub const CONFIG: &str = "config.";

/// What a guest is known by beside the engine's ids of other objects.
#[must_use]
pub fn note_key(vmid: Vmid) -> String {
    format!("guest/{vmid}")
}

/// Whether a note is about a guest.
#[must_use]
pub fn is_note(key: &str) -> bool {
    key.starts_with("guest/")
}

/// What a guest says of itself, in its description, from its making until it is known: a reply that is lost, or a crash in between,
/// makes no stranger of it.
#[must_use]
pub fn marker(host: &HostId, vmid: Vmid) -> String {
    format!("{MAKING}host {host}, {}", vmid.resource())
}

/// How a [`marker`] begins.
pub(in crate::plan) const MAKING: &str = "moorline is making this guest: ";

/// Drafts the steps for guests.
pub(super) fn plan(scene: &Scene<'_>, draft: &mut Draft) {
    let due = scene.given.due.into_iter().flatten();
    for (vmid, lasting) in due {
        plan_purge(scene, *vmid, lasting, draft);
    }
    for (vmid, spec) in scene.desired.guests().filter(|(vmid, _)| !draft.has_step(&vmid.resource())).collect::<Vec<_>>() {
        plan_guest(&Case::new(scene, vmid, spec), draft);
    }
    let Some(applied) = scene.given.applied else { return };
    for (vmid, spec) in applied.guests().filter(|(vmid, _)| scene.desired.guests().all(|(wanted, _)| wanted != *vmid)) {
        plan_removed(&Case::new(scene, vmid, spec), draft);
    }
}

/// One guest as the planner sees it.
struct Case<'a> {
    scene: &'a Scene<'a>,
    vmid: Vmid,
    resource: ResourceId,
    spec: &'a GuestSpec,
    /// What was applied last.
    applied: Option<&'a GuestSpec>,
    live: Option<&'a ObservedGuest>,
}

impl<'a> Case<'a> {
    fn new(scene: &'a Scene<'a>, vmid: Vmid, spec: &'a GuestSpec) -> Self {
        let applied = scene.given.applied.and_then(|applied| applied.proxmox.as_ref()?.guests.get(&vmid));
        let live = scene.observed.pve.as_ref().and_then(|pve| pve.guests.get(&vmid));
        Self { scene, vmid, resource: vmid.resource(), spec, applied, live }
    }

    fn action(&self, act: GuestAct) -> Action {
        let live = self.live;
        Action::Guest(Box::new(GuestAction {
            vmid: self.vmid,
            kind: self.spec.kind,
            topology: self.scene.topology.as_str().to_owned(),
            spec: hash(self.spec),
            incarnation: live.and_then(|live| live.incarnation.clone()),
            adopted: live.is_some_and(|live| self.is_adopted(live)),
            hidden: if act == GuestAct::Adopt || config::writes_hidden(self.spec, &act) {
                config::hidden(self.spec)
            } else {
                self.written()
            },
            act,
        }))
    }

    /// What of the guest nobody is shown, as it was written last.
    fn written(&self) -> Option<String> {
        self.live?.owner.as_ref()?.hidden.clone()
    }

    /// Whether the guest was made otherwise, and is ours as it was.
    fn is_adopted(&self, live: &ObservedGuest) -> bool {
        match &live.owner {
            Some(owner) => owner.adopted,
            None => !live.is_marked,
        }
    }

    /// Whether the guest is ours, or is to be by what the slice says.
    fn is_ours(&self, live: &ObservedGuest) -> bool {
        if live.owner.is_some() {
            return self.scene.is(live.owner.as_ref(), &self.resource);
        }
        let wanted = self.spec.adopt.as_deref().map(incarnation::lasting);
        live.is_marked || (wanted.is_some() && wanted == live.lasting())
    }

    /// Whether `field` is as it was applied: then it is not the slice that changed.
    fn had(&self, is_same: impl FnOnce(&GuestSpec) -> bool) -> bool {
        self.applied.is_some_and(is_same)
    }

    /// Whether a difference in `field` that has drifted is left to an operator.
    fn is_left(&self, field: &str) -> bool {
        let scene = self.scene;
        match scene.mend(&self.resource) {
            Some(_) => !self.is_asked_for(field),
            None => self.spec.drift.map_or_else(
                || scene.is_field_left(&self.resource, field),
                |policy| policy == crate::topology::DriftPolicy::Inbox || scene.is_field_given_up(&self.resource, field),
            ),
        }
    }

    /// Whether an operator wants `field` mended, where one wants anything of the guest. Who wants it to be there wants all of it.
    fn is_asked_for(&self, field: &str) -> bool {
        self.scene.mend(&self.resource).is_none_or(|mend| mend.covers(field) || mend.covers(compare::PRESENCE))
    }

    fn shutdown(&self, spec: &GuestSpec) -> GuestAct {
        let Shutdown { timeout_s, force } = spec.shutdown.clone().unwrap_or_default();
        GuestAct::Shutdown { timeout_s: timeout_s.unwrap_or(SHUTDOWN_S), force }
    }
}

/// The hash of what a guest shall be.
fn hash(spec: &GuestSpec) -> String {
    let plain = GuestSpec { from: None, adopt: None, drift: None, ..spec.clone() };
    // Plain data of texts and bounded numbers; were it not canonical, the note would say nothing.
    version_hash(&plain).map(|hash| hash.as_str().to_owned()).unwrap_or_default()
}

fn plan_guest(case: &Case<'_>, draft: &mut Draft) {
    if let Some((code, reason)) = away(case) {
        return draft.block(&case.resource, Some(code), reason);
    }
    let Some(live) = case.live else { return plan_missing(case, draft) };
    if let Some((code, reason)) = unusable(case, live) {
        if code == Some(Code::NotOwned) {
            draft.drift(&case.resource, vec![Difference::usurped("guest")]);
        }
        return draft.block(&case.resource, code, reason);
    }
    let Some(config) = &live.config else {
        return draft.block(&case.resource, Some(Code::PermissionDenied), unreadable(case.vmid));
    };
    if is_suspended(live) {
        // Its memory is on a disk: to start it is what brings that back, and everything else waits for it.
        plan_power(case, live, draft);
        return;
    }
    if plan_config(case, live, config, draft) || plan_power(case, live, draft) || plan_reboot(case, live, config, draft) {
        return;
    }
    if live.owner.is_none() {
        draft.step(&case.resource, case.action(GuestAct::Adopt), "is taken over as it is".to_owned());
    }
}

/// What keeps the agent from knowing a guest.
fn unreadable(vmid: Vmid) -> String {
    format!(
        "its config, or the storage of its root volume, cannot be read: give the agent's token `VM.Audit` on `/vms/{vmid}`, and \
         `Datastore.Audit` on the storage"
    )
}

/// Why nothing is known of any guest.
fn away(case: &Case<'_>) -> Option<(Code, String)> {
    let Some(pve) = &case.scene.observed.pve else {
        // Nobody has looked yet, or nobody can.
        let reason = "the host's agent is not connected to Proxmox VE: write `[proxmox]` in its agent.toml";
        return Some((Code::NotThere, reason.to_owned()));
    };
    let why = || pve.error.clone().unwrap_or_else(|| "it was not asked yet".to_owned());
    (pve.engine != EngineState::Ready).then(|| (Code::EngineUnreachable, format!("Proxmox VE cannot be asked: {}", why())))
}

fn plan_missing(case: &Case<'_>, draft: &mut Draft) {
    let resource = &case.resource;
    if case.spec.adopt.is_some() && case.applied.is_none() {
        let reason = "it is to be taken over, and is not on this host; or its token may not see it";
        return draft.block(resource, Some(Code::NotThere), reason.to_owned());
    }
    let is_asked_for = case.scene.mend(resource).is_some() && case.is_asked_for(compare::PRESENCE);
    if case.applied.is_some() && !is_asked_for {
        return draft.leave_missing(resource);
    }
    let mut config = case.spec.config.clone();
    config.insert("tags".to_owned(), tags::with(config.get("tags").map_or("", String::as_str), TAG));
    let act = GuestAct::Create { from: case.spec.from.clone(), config, marker: marker(&case.scene.identity.host_id, case.vmid) };
    draft.step(resource, case.action(act), "does not exist".to_owned());
    if case.applied.is_some() {
        draft.heal(resource, vec![Difference::missing()]);
    }
}

/// Why a guest that is there cannot be worked on.
fn unusable(case: &Case<'_>, live: &ObservedGuest) -> Option<(Option<Code>, String)> {
    let vmid = case.vmid;
    let is_being_made = live.owner.is_none() && live.lock.as_deref().is_some_and(|lock| matches!(lock, "create" | "clone"));
    if is_being_made {
        return Some((None, format!("a guest {vmid} is being made: waits for that to end")));
    }
    if !case.is_ours(live) {
        let reason = match &live.owner {
            Some(owner) => format!("guest {vmid} is `{}` of the topology `{}`", owner.resource, owner.topology),
            None => {
                format!(
                    "a guest {vmid} exists that Moorline did not make: `moorctl import proxmox` takes it over, or choose another number"
                )
            }
        };
        return Some((Some(Code::NotOwned), reason));
    }
    if live.kind != case.spec.kind {
        let (has, wanted) = (live.kind.as_str(), case.spec.kind.as_str());
        return Some((Some(Code::PreconditionFailed), format!("it is of the type {has}, and the topology says {wanted}")));
    }
    if live.is_template {
        return Some((Some(Code::PreconditionFailed), "it is a template, which never runs and never changes".to_owned()));
    }
    if let Some(task) = live.task.as_ref().filter(|_| live.lock.is_none()) {
        return Some((None, format!("waits for a task that runs on it ({task})")));
    }
    let lock = live.lock.as_ref().filter(|_| !is_suspended(live))?;
    let remedy = "if nothing works on it any more, an administrator unlocks it on its node";
    Some((None, format!("it is locked ({lock}): waits for that to end; {remedy}")))
}
