//! The planner for Proxmox VE's guests.
//!
//! Guests hold data: they are made once, changed in place, started and stopped, and never replaced or removed. One that is gone though
//! it had been made is told, and not made again: a list that leaves it out proves nothing, and its data would not come back. What is
//! neither marked as ours nor named by `adopt` is never touched.

use std::collections::BTreeMap;

use super::compare::{self, Difference};
use super::draft::Draft;
use super::scene::Scene;
use super::{Action, adoption};
use crate::canonical::version_hash;
use crate::drift::shown;
use crate::fault::Code;
use crate::id::{HostId, ResourceId};
use crate::observe::{BURIED_TAG, EngineState, GuestStatus, ObservedGuest, TAG};
use crate::pve::guest::{self, Config, GuestConfig};
use crate::pve::keys::{self, Shape};
use crate::pve::{GuestKind, Vmid, incarnation};
use crate::topology::{GuestSpec, Power, Reboot, Shutdown};

mod action;

pub use action::{GuestAct, GuestAction};

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
    format!("moorline is making this guest: host {host}, {}", vmid.resource())
}

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
            act,
        }))
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
        let reason = format!("its config cannot be read: give the agent's token `VM.Audit` on `/vms/{}`", case.vmid);
        return draft.block(&case.resource, Some(Code::PermissionDenied), reason);
    };
    if plan_config(case, live, config, draft) || plan_power(case, live, draft) || plan_reboot(case, live, draft) {
        return;
    }
    if live.owner.is_none() {
        draft.step(&case.resource, case.action(GuestAct::Adopt), "is taken over as it is".to_owned());
    }
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
    if case.spec.adopt.is_some() {
        let reason = "it is to be taken over, and is not on this host; or its token may not see it";
        return draft.block(resource, Some(Code::NotThere), reason.to_owned());
    }
    let is_asked_for = case.scene.mend(resource).is_some() && case.is_asked_for(compare::PRESENCE);
    if case.applied.is_some() && !is_asked_for {
        return draft.leave_missing(resource);
    }
    let mut config = case.spec.config.clone();
    config.insert("tags".to_owned(), with_tag(config.get("tags").map(String::as_str)));
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
    let lock = live.lock.as_ref()?;
    let remedy = "if nothing works on it any more, an administrator unlocks it on its node";
    Some((None, format!("it is locked ({lock}): waits for that to end; {remedy}")))
}

/// Drafts what its config needs; returns whether there is nothing more to be drafted before that is done.
fn plan_config(case: &Case<'_>, live: &ObservedGuest, config: &GuestConfig, draft: &mut Draft) -> bool {
    let resource = &case.resource;
    let wanted = wanted(case, live, config);
    let applied = case.applied.map(|spec| &spec.config);
    let mut change = match guest::change(&wanted, applied, config) {
        Ok(change) => change,
        Err(wrong) => {
            draft.block(resource, Some(Code::BadContent), format!("its config is none: {wrong}"));
            return false;
        }
    };
    let (mut healed, mut changed) = (Vec::new(), Vec::new());
    for key in change.keys() {
        let difference = difference(case.spec.kind, &key, &wanted, config);
        let is_making = key == "description" && is_made(case, config);
        let has_drifted = !is_making && case.had(|before| before.config.get(&key) == case.spec.config.get(&key));
        if has_drifted && (case.is_left(&difference.field) || change.refused.contains_key(&key)) {
            draft.drift(resource, vec![difference]);
            change.leave(&key);
        } else if let Some(why) = change.refused.get(&key) {
            draft.block(resource, Some(Code::PreconditionFailed), format!("{key}: {why}"));
            change.leave(&key);
        } else if !case.is_asked_for(&difference.field) {
            change.leave(&key);
        } else if has_drifted {
            healed.push(difference);
        } else {
            changed.push(difference);
        }
    }
    if change.is_empty() {
        return false;
    }
    let all: Vec<Difference> = changed.iter().chain(&healed).cloned().collect();
    if live.owner.is_none() && case.is_adopted(live) {
        draft.block(resource, Some(Code::AdoptDiffers), adoption::differs(&all));
        return true;
    }
    draft.step(resource, case.action(GuestAct::Update { change, digest: live.digest.clone() }), compare::reasons(&all));
    draft.heal(resource, healed);
    true
}

/// Its config with what Moorline needs beside what the slice says.
fn wanted(case: &Case<'_>, live: &ObservedGuest, config: &GuestConfig) -> Config {
    let mut wanted = case.spec.config.clone();
    if !case.is_adopted(live) {
        let tags = wanted.get("tags").or_else(|| config.set.get("tags"));
        wanted.insert("tags".to_owned(), with_tag(tags.map(String::as_str)));
    }
    if is_made(case, config) {
        wanted.entry("description".to_owned()).or_default();
    }
    wanted
}

/// Whether it still says that it is being made.
fn is_made(case: &Case<'_>, config: &GuestConfig) -> bool {
    let said = config.set.get("description");
    said.is_some_and(|text| text.trim_end() == marker(&case.scene.identity.host_id, case.vmid))
}

fn with_tag(tags: Option<&str>) -> String {
    match tags.filter(|tags| !tags.trim().is_empty()) {
        Some(tags) => format!("{tags};{TAG}"),
        None => TAG.to_owned(),
    }
}

/// A key that differs, in words. What nobody may see is not shown.
fn difference(kind: GuestKind, key: &str, wanted: &Config, config: &GuestConfig) -> Difference {
    let is_hidden = keys::find(kind, key).is_ok_and(|known| matches!(known.shape, Shape::PasswordHash));
    let word = |text: Option<&String>, hidden: &str| text.map(|text| if is_hidden { hidden.to_owned() } else { shown(text.trim_end()) });
    let expected = word(wanted.get(key).filter(|text| !text.is_empty()), compare::SEALED_CHANGED);
    let actual = word(config.set.get(key), compare::SEALED_BEFORE);
    Difference { field: format!("{CONFIG}{key}"), expected, actual }
}

/// Drafts what it takes to run or not to run; returns whether a step was drafted.
fn plan_power(case: &Case<'_>, live: &ObservedGuest, draft: &mut Draft) -> bool {
    let Some(wanted) = case.spec.state else { return false };
    let act = match (wanted, live.status) {
        (Power::Running, GuestStatus::Stopped) => GuestAct::Start,
        (Power::Running, GuestStatus::Paused) => GuestAct::Resume,
        (Power::Stopped, GuestStatus::Running | GuestStatus::Paused) => case.shutdown(case.spec),
        (Power::Running, GuestStatus::Running) | (Power::Stopped, GuestStatus::Stopped) => return false,
    };
    let (expected, actual) = (wanted.as_str().to_owned(), live.status.as_str().to_owned());
    let difference = Difference { field: compare::STATE.to_owned(), expected: Some(expected), actual: Some(actual) };
    let has_drifted = case.had(|before| before.state == case.spec.state);
    if has_drifted && case.is_left(compare::STATE) {
        draft.drift(&case.resource, vec![difference]);
        return false;
    }
    if !case.is_asked_for(compare::STATE) {
        return false;
    }
    draft.step(&case.resource, case.action(act), difference.reason());
    draft.heal(&case.resource, if has_drifted { vec![difference] } else { Vec::new() });
    true
}

/// Drafts a start for changes that wait for one, if that may be.
fn plan_reboot(case: &Case<'_>, live: &ObservedGuest, draft: &mut Draft) -> bool {
    let may = match case.spec.reboot.unwrap_or(Reboot::Never) {
        Reboot::Never => false,
        Reboot::Window => case.scene.given.in_window,
        Reboot::Now => true,
    };
    let waiting = live.pending();
    if !may || waiting.is_empty() || live.status != GuestStatus::Running || case.scene.mend(&case.resource).is_some() {
        return false;
    }
    let keys = waiting.into_iter().collect::<Vec<_>>().join(", ");
    let timeout_s = case.spec.shutdown.as_ref().and_then(|shutdown| shutdown.timeout_s).unwrap_or(SHUTDOWN_S);
    draft.step(&case.resource, case.action(GuestAct::Reboot { timeout_s }), format!("{keys} wait for its next start"));
    true
}

/// A guest that the slice names no more: it is stopped and stays, with all that it holds.
fn plan_removed(case: &Case<'_>, draft: &mut Draft) {
    let Some(live) = case.live.filter(|live| case.is_ours(live) && live.status != GuestStatus::Stopped) else { return };
    if let Some((code, reason)) = away(case).map(|(code, reason)| (Some(code), reason)).or_else(|| unusable(case, live)) {
        return draft.block(&case.resource, code, reason);
    }
    draft.step(&case.resource, case.action(case.shutdown(case.spec)), "not in the slice: it is stopped, and stays".to_owned());
}

/// Whether a guest is the one that was destroyed and is kept: who takes the tag away, or puts another guest in its place, keeps it.
#[must_use]
pub fn is_buried(live: &ObservedGuest, lasting: &str) -> bool {
    let tags = live.config.as_ref().and_then(|config| config.set.get("tags"));
    live.lasting() == Some(lasting) && tags.is_some_and(|tags| tags.split([';', ',', ' ']).any(|tag| tag == BURIED_TAG))
}

/// A guest whose time is over goes.
fn plan_purge(scene: &Scene<'_>, vmid: Vmid, lasting: &str, draft: &mut Draft) {
    let live = scene.observed.guests().find(|(id, _)| *id == vmid).map(|(_, live)| live);
    let Some(live) = live.filter(|live| is_buried(live, lasting)) else { return };
    let resource = vmid.resource();
    if let Some(work) = live.lock.as_ref().or(live.task.as_ref()) {
        return draft.block(&resource, None, format!("it was destroyed, and something works on it ({work}): waits for that to end"));
    }
    let action = GuestAction {
        vmid,
        kind: live.kind,
        topology: scene.topology.as_str().to_owned(),
        spec: String::new(),
        incarnation: live.incarnation.clone(),
        adopted: false,
        act: GuestAct::Purge,
    };
    draft.step(&resource, Action::Guest(Box::new(action)), "it was destroyed, and the time for which it was kept is over".to_owned());
}

/// The config of a guest as fields, for those who review a step.
pub(super) fn fields(action: &GuestAction, live: Option<&ObservedGuest>) -> Vec<Difference> {
    let state = |wanted: &str| {
        let actual = live.map(|live| live.status.as_str().to_owned());
        vec![Difference { field: compare::STATE.to_owned(), expected: Some(wanted.to_owned()), actual }]
    };
    let nothing = GuestConfig { kind: action.kind, set: Config::new(), running: BTreeMap::new() };
    match &action.act {
        GuestAct::Create { from, config, .. } => {
            let keys = config.keys().map(|key| difference(action.kind, key, config, &nothing));
            let from = from.as_ref().map(|from| Difference { field: "from".to_owned(), expected: Some(from.to_string()), actual: None });
            keys.chain(from).collect()
        }
        GuestAct::Update { change, .. } => {
            let mut wanted = change.set.clone();
            for (key, bytes) in &change.grow {
                wanted.entry(key.clone()).or_insert_with(|| format!("size={}", crate::pve::scalar::size_text(*bytes)));
            }
            let config = live.and_then(|live| live.config.as_deref()).unwrap_or(&nothing);
            change.keys().into_iter().map(|key| difference(action.kind, &key, &wanted, config)).collect()
        }
        GuestAct::Start | GuestAct::Resume => state("running"),
        GuestAct::Shutdown { .. } => state("stopped"),
        GuestAct::Adopt | GuestAct::Reboot { .. } | GuestAct::Purge => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::Engine;
    use super::super::testing::{identity, settle, spec, verbs};
    use super::super::{Given, Mend, Plan, plan, plan_given};
    use super::*;
    use crate::observe::ObservedPve;
    use crate::topology::HostSpec;

    fn vmid(number: u32) -> Vmid {
        Vmid::parse(&number.to_string()).unwrap()
    }

    fn host() -> Engine {
        Engine { pve: Some(ObservedPve { node: "pve-1".to_owned(), ..ObservedPve::default() }), ..Engine::default() }
    }

    fn one(guest: serde_json::Value) -> HostSpec {
        spec(json!({ "proxmox": { "guests": { "101": guest } } }))
    }

    fn db() -> HostSpec {
        one(json!({ "type": "qemu", "state": "running", "config": { "name": "db", "memory": "4096", "tags": "prod" } }))
    }

    fn live(engine: &mut Engine) -> &mut ObservedGuest {
        engine.pve.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap()
    }

    fn set(engine: &mut Engine, key: &str, text: &str) {
        live(engine).config.as_mut().unwrap().set.insert(key.to_owned(), text.to_owned());
    }

    fn settled(desired: &HostSpec) -> Engine {
        let mut engine = host();
        settle(&mut engine, desired);
        engine
    }

    /// As on a host where `applied` was applied before.
    fn again(engine: &Engine, desired: &HostSpec, applied: &HostSpec) -> Plan {
        plan_given(&identity(), desired, &engine.observed(), Given { applied: Some(applied), ..Given::default() })
    }

    fn rows(plan: &Plan) -> Vec<(String, String, String)> {
        plan.drift.iter().map(|d| (d.field.clone(), d.expected.clone(), d.actual.clone())).collect()
    }

    #[test]
    fn a_guest_is_made_named_and_started_and_then_at_rest() {
        let mut engine = host();
        let steps: Vec<String> = settle(&mut engine, &db()).iter().flat_map(verbs).collect();
        assert_eq!(steps, ["create pve/guest/101", "update pve/guest/101", "start pve/guest/101"]);
        let guest = live(&mut engine).clone();
        let config = &guest.config.unwrap().set;
        assert_eq!((config["tags"].as_str(), config["memory"].as_str()), ("prod;moorline", "4096"));
        assert!(!config.contains_key("description"), "what it said of itself while it was made is gone");
        assert_eq!(guest.owner.unwrap().base, incarnation::lasting(guest.incarnation.as_ref().unwrap()));
        assert!(again(&engine, &db(), &db()).is_settled());
    }

    #[test]
    fn what_a_crash_left_is_ours_by_what_it_says_of_itself() {
        let mut engine = host();
        let marker = marker(&identity().host_id, vmid(101));
        engine.make_guest(vmid(101), GuestKind::Qemu, Config::from([("description".to_owned(), marker)]));
        live(&mut engine).is_marked = true;
        let steps: Vec<String> = settle(&mut engine, &db()).iter().flat_map(verbs).collect();
        assert_eq!(steps, ["update pve/guest/101", "start pve/guest/101"]);
    }

    #[test]
    fn strangers_templates_and_locked_guests_are_left_alone() {
        let mut engine = settled(&db());
        type Change = fn(&mut ObservedGuest);
        let cases: [(Change, Option<Code>); 6] = [
            (|live| (live.owner, live.is_marked) = (None, false), Some(Code::NotOwned)),
            (|live| live.kind = GuestKind::Lxc, Some(Code::PreconditionFailed)),
            (|live| live.is_template = true, Some(Code::PreconditionFailed)),
            (|live| live.lock = Some("backup".to_owned()), None),
            (|live| live.task = Some("qmshutdown".to_owned()), None),
            (|live| live.config = None, Some(Code::PermissionDenied)),
        ];
        for (change, code) in cases {
            let before = engine.clone();
            change(live(&mut engine));
            let plan = again(&engine, &one(json!({ "type": "qemu", "state": "stopped" })), &db());
            assert_eq!((plan.steps.len(), plan.blocked.len()), (0, 1), "{plan:?}");
            assert_eq!(plan.blocked[0].code, code, "{plan:?}");
            engine = before;
        }
    }

    #[test]
    fn one_that_was_taken_over_gets_no_tag_and_nothing_of_it_changes() {
        let mut engine = host();
        engine.make_guest(vmid(101), GuestKind::Qemu, Config::from([("name".to_owned(), "old".to_owned())]));
        let guest = live(&mut engine);
        guest.is_marked = false;
        let incarnation = guest.incarnation.clone().unwrap();
        let desired = one(json!({ "type": "qemu", "adopt": incarnation, "config": { "name": "old" } }));
        let other = one(json!({ "type": "qemu", "adopt": "vm:00000000-0000-4000-8000-000000000099", "config": { "name": "old" } }));
        assert_eq!(plan(&identity(), &other, &engine.observed()).blocked[0].code, Some(Code::NotOwned));
        let mut unlike = desired.clone();
        unlike.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().config.insert("name".to_owned(), "new".to_owned());
        let plan = plan(&identity(), &unlike, &engine.observed());
        assert_eq!((plan.steps.len(), plan.blocked[0].code), (0, Some(Code::AdoptDiffers)));
        let steps: Vec<String> = settle(&mut engine, &desired).iter().flat_map(verbs).collect();
        assert_eq!(steps, ["adopt pve/guest/101"]);
        assert!(!live(&mut engine).config.as_ref().unwrap().set.contains_key("tags"));
        assert!(live(&mut engine).owner.as_ref().unwrap().adopted);
    }

    #[test]
    fn one_that_is_gone_is_told_and_not_made_again_unless_somebody_asks_for_it() {
        let mut engine = settled(&db());
        engine.pve.as_mut().unwrap().guests.clear();
        let plan = again(&engine, &db(), &db());
        assert!(plan.steps.is_empty() && plan.blocked.is_empty());
        assert_eq!(rows(&plan), [("presence".to_owned(), "present".to_owned(), "missing".to_owned())]);
        let mend = Mend { resource: vmid(101).resource(), fields: ["presence".to_owned()].into(), replaces: false };
        let given = Given { applied: Some(&db()), mend: Some(&mend), ..Given::default() };
        assert_eq!(verbs(&plan_given(&identity(), &db(), &engine.observed(), given)), ["create pve/guest/101"]);
    }

    #[test]
    fn what_has_drifted_is_mended_or_told_and_what_the_slice_changes_is_done() {
        let mut engine = settled(&db());
        set(&mut engine, "memory", "1024");
        set(&mut engine, "cores", "7");
        let healed = again(&engine, &db(), &db());
        assert_eq!(verbs(&healed), ["update pve/guest/101"]);
        assert_eq!(healed.steps[0].heals.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), ["config.memory"]);
        let mut inbox = db();
        inbox.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().drift = Some(crate::topology::DriftPolicy::Inbox);
        let told = again(&engine, &inbox, &inbox);
        assert!(told.is_settled());
        assert_eq!(rows(&told), [("config.memory".to_owned(), "4096".to_owned(), "1024".to_owned())]);
        let mut renamed = inbox.clone();
        renamed.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().config.insert("name".to_owned(), "db2".to_owned());
        let both = again(&engine, &renamed, &inbox);
        let Action::Guest(action) = &both.steps[0].action else { panic!("{both:?}") };
        let GuestAct::Update { change, .. } = &action.act else { panic!("{both:?}") };
        assert_eq!(change.keys(), ["name".to_owned()].into());
        assert_eq!(both.drift.len(), 1);
        live(&mut engine).status = GuestStatus::Stopped;
        assert_eq!(again(&engine, &inbox, &inbox).drift.len(), 2);
    }

    #[test]
    fn what_a_slice_names_no_more_is_stopped_and_stays() {
        let mut engine = settled(&db());
        let none = HostSpec::default();
        let plan = again(&engine, &none, &db());
        assert_eq!(verbs(&plan), ["shutdown pve/guest/101"]);
        plan.steps.iter().for_each(|step| engine.apply(step).unwrap());
        assert!(again(&engine, &none, &db()).is_settled() && engine.pve.as_ref().unwrap().guests.len() == 1);
        live(&mut engine).status = GuestStatus::Running;
        assert!(again(&engine, &none, &none).is_settled(), "who starts it later has it");
    }

    #[test]
    fn a_disk_that_was_moved_is_told_and_one_that_is_wanted_elsewhere_is_refused() {
        let disk = |place: &str| one(json!({ "type": "qemu", "config": { "scsi0": format!("{place}:8") } }));
        let mut engine = settled(&disk("local-lvm"));
        set(&mut engine, "scsi0", "other:vm-101-disk-0,size=8G");
        let moved = again(&engine, &disk("local-lvm"), &disk("local-lvm"));
        assert!(moved.is_settled() && moved.drift[0].field == "config.scsi0", "{moved:?}");
        set(&mut engine, "scsi0", "local-lvm:vm-101-disk-0,size=8G");
        let wanted = again(&engine, &disk("other"), &disk("local-lvm"));
        assert_eq!((wanted.steps.len(), wanted.blocked[0].code), (0, Some(Code::PreconditionFailed)));
        let grown = again(&engine, &disk("local-lvm"), &disk("local-lvm"));
        assert!(grown.is_settled());
    }

    #[test]
    fn changes_that_wait_for_a_start_get_one_only_when_that_may_be() {
        let mut engine = settled(&db());
        live(&mut engine).config.as_mut().unwrap().running.insert("memory".to_owned(), Some("1024".to_owned()));
        let with = |reboot: &str| {
            let mut spec = db();
            spec.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().reboot = serde_json::from_value(json!(reboot)).unwrap();
            spec
        };
        for (reboot, in_window, reboots) in [("never", true, false), ("window", false, false), ("window", true, true), ("now", false, true)]
        {
            let given = Given { applied: None, in_window, ..Given::default() };
            let plan = plan_given(&identity(), &with(reboot), &engine.observed(), given);
            assert_eq!(plan.steps.iter().any(|s| s.action.verb() == "reboot"), reboots, "{reboot} {in_window}");
        }
        assert!(again(&engine, &db(), &db()).is_settled(), "what waits is no drift");
    }

    #[test]
    fn nothing_is_known_of_guests_where_nobody_can_be_asked() {
        let mut engine = settled(&db());
        let mut observed = engine.observed();
        observed.pve.as_mut().unwrap().engine = EngineState::Unreachable;
        observed.pve.as_mut().unwrap().guests.clear();
        let plan = plan_given(&identity(), &db(), &observed, Given { applied: Some(&db()), ..Given::default() });
        assert_eq!((plan.steps.len(), plan.drift.len(), plan.blocked[0].code), (0, 0, Some(Code::EngineUnreachable)));
        engine.pve = None;
        assert_eq!(super::super::plan(&identity(), &db(), &engine.observed()).blocked[0].code, Some(Code::NotThere));
    }

    #[test]
    fn one_that_was_destroyed_goes_when_its_time_is_over_and_stays_when_its_tag_is_taken_away() {
        let mut engine = settled(&db());
        let lasting = live(&mut engine).lasting().unwrap().to_owned();
        let due = BTreeMap::from([(vmid(101), lasting)]);
        let none = HostSpec::default();
        let plan = |engine: &Engine| {
            let given = Given { applied: Some(&none), due: Some(&due), ..Given::default() };
            verbs(&plan_given(&identity(), &none, &engine.observed(), given))
        };
        assert!(plan(&engine).is_empty(), "it bears no such tag");
        set(&mut engine, "tags", "prod;moorline;moorline-deleted");
        assert_eq!(plan(&engine), ["purge pve/guest/101"]);
        live(&mut engine).incarnation = Some("vm:00000000-0000-4000-8000-000000000099:-".to_owned());
        assert!(plan(&engine).is_empty(), "it is another guest");
    }

    #[test]
    fn a_password_is_never_shown() {
        let mut engine = settled(&one(json!({ "type": "qemu", "config": { "cipassword": "$6$salt$old" } })));
        set(&mut engine, "cipassword", "**********");
        let changed = one(json!({ "type": "qemu", "config": { "cipassword": "$6$salt$new" } }));
        let plan = again(&engine, &changed, &one(json!({ "type": "qemu", "config": { "cipassword": "$6$salt$old" } })));
        assert!(!format!("{:?}", plan.steps[0].reason).contains("salt"), "{}", plan.steps[0].reason);
    }
}
