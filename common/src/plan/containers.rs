//! The planner's part for containers: what each needs, what gates it, and what frees its ports first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::compare::{self, Difference};
use super::docker::{changed, not_owned, unasked};
use super::draft::Draft;
use super::gates::{gate, networks_first};
use super::lower::{self, LoweredContainer};
use super::scene::Scene;
use super::{Action, ContainerTarget, InPlace, adoption, api, in_place};
use crate::fault::Code;
use crate::id::ResourceId;
use crate::observe::{ContainerConfig, ContainerState, ObservedContainer, Owner};
use crate::topology::{Attachment, Protocol};

/// Plans all containers of the topology.
pub(super) fn plan(scene: &Scene<'_>, draft: &mut Draft) {
    plan_removals(scene, draft);
    let order = by_dependency(scene, draft);
    for resource in &order {
        if let Some(wanted) = scene.lowered.containers.get(resource) {
            plan_one(scene, resource, wanted, draft);
        }
    }
    order_by_names(scene, draft);
    order_by_claims(scene, draft);
}

/// The resources of the wanted containers, each behind those that it depends on. Those in a circle are blocked.
fn by_dependency(scene: &Scene<'_>, draft: &mut Draft) -> Vec<ResourceId> {
    let all = &scene.lowered.containers;
    let mut order: Vec<ResourceId> = Vec::with_capacity(all.len());
    let mut placed: BTreeSet<&ResourceId> = BTreeSet::new();
    loop {
        let ready = |c: &LoweredContainer| c.depends_on.keys().all(|d| placed.contains(d) || !all.contains_key(d));
        let next: Vec<&ResourceId> = all.iter().filter(|(r, c)| !placed.contains(r) && ready(c)).map(|(r, _)| r).collect();
        if next.is_empty() {
            break;
        }
        order.extend(next.iter().map(|r| (*r).clone()));
        placed.extend(next);
    }
    for resource in all.keys().filter(|r| !placed.contains(r)) {
        draft.block(resource, Some(Code::BadContent), "its depends_on leads back to itself, or to services that do so".to_owned());
    }
    order
}

/// Removes our containers that the slice doesn't want, and what interrupted replacements and renames left beside
/// their successors.
fn plan_removals(scene: &Scene<'_>, draft: &mut Draft) {
    for (name, live, owner) in scene.own_containers() {
        if is_successor(scene, name, owner) {
            continue;
        }
        let reason = if !scene.wants(&owner.resource) {
            "not in the slice"
        } else if owner.resource.name() != name && !is_heir(scene, name, &owner.resource) {
            "left beside its successor"
        } else {
            continue;
        };
        let by_name = lower::container_resource(name);
        let is_left = if scene.wants(&owner.resource) {
            scene.had(&owner.resource) && scene.is_left(&owner.resource) && scene.mend(&by_name).is_none()
        } else {
            // It may bear another name than it was given: what the slice drops goes all the same.
            scene.is_left_unwanted(&owner.resource) && scene.is_left_unwanted(&by_name)
        };
        if is_left && !is_own_leftover(name, &owner.resource) {
            draft.drift(&by_name, vec![Difference::unwanted()]);
            continue;
        }
        let lane = if scene.mend(&by_name).is_some() { by_name } else { lane_of(scene, name, live, owner, draft) };
        draft.step(&lane, Action::RemoveContainer { id: live.id.clone() }, reason.to_owned());
    }
}

/// Whether a container of this name was left by a replacement that was cut short.
fn is_own_leftover(name: &str, resource: &ResourceId) -> bool {
    name.strip_prefix(resource.name()).is_some_and(|rest| rest.starts_with(lower::BESIDE))
}

/// Whether it is as wanted and was made to replace the container that has its name: the replacement, once cut short, goes on with it.
fn is_successor(scene: &Scene<'_>, name: &str, owner: &Owner) -> bool {
    let Some(wanted) = scene.lowered.containers.get(&owner.resource) else { return false };
    let occupant = scene.observed.containers.get(owner.resource.name()).filter(|o| scene.is(o.owner.as_ref(), &owner.resource));
    occupant.is_some_and(|old| {
        let is_old = old.owner.as_ref().is_some_and(|o| o.spec != wanted.lowered.hash.as_str());
        is_old && owner.spec == wanted.lowered.hash.as_str() && name == lower::beside_name(owner.resource.name(), &old.id)
    })
}

/// The resource under which a container is removed: its own, when no other step needs that.
fn lane_of(scene: &Scene<'_>, name: &str, live: &ObservedContainer, owner: &Owner, draft: &Draft) -> ResourceId {
    let free = |r: &ResourceId| !scene.wants(r) && !draft.has_step(r);
    let by_name = lower::container_resource(name);
    [owner.resource.clone(), by_name].into_iter().find(free).unwrap_or_else(|| lower::container_resource(&format!("{name}-{}", live.id)))
}

/// The container that stands for `resource` under another name, when none of ours has the right one.
fn heir<'a>(scene: &Scene<'a>, resource: &ResourceId) -> Option<(&'a str, &'a ObservedContainer)> {
    let hash = scene.lowered.containers.get(resource).map(|c| c.lowered.hash.as_str())?;
    let claimants = scene.own_containers().filter(|(_, _, owner)| owner.resource == *resource);
    let best = claimants.max_by_key(|(name, live, owner)| {
        let right_name = *name == resource.name();
        (right_name, live.state == ContainerState::Running, owner.spec == hash, std::cmp::Reverse(*name))
    });
    best.filter(|(name, _, _)| *name != resource.name()).map(|(name, live, _)| (name, live))
}

fn is_heir(scene: &Scene<'_>, name: &str, resource: &ResourceId) -> bool {
    // Nothing is removed of a resource whose spec cannot be lowered.
    !scene.lowered.containers.contains_key(resource) || heir(scene, resource).is_some_and(|(heir, _)| heir == name)
}

/// What a wanted container needs.
enum Need {
    Nothing,
    /// It waits for the engine.
    Wait(String),
    /// Nobody asked for what it takes.
    Refuse(String),
    /// A step that makes or starts a process: dependencies gate it.
    Begin(Action, String),
    /// It is changed while it runs.
    Change(Action, String),
    /// It is only resumed.
    Resume(Action, String),
}

fn plan_one(scene: &Scene<'_>, resource: &ResourceId, wanted: &LoweredContainer, draft: &mut Draft) {
    let target = &wanted.lowered.target;
    let occupant = scene.observed.containers.get(&target.name);
    if let Some(stranger) = occupant.filter(|o| o.owner.is_none() && target.adopt.as_ref() == Some(&o.id)) {
        let action = Action::AdoptContainer { id: stranger.id.clone(), target: Arc::clone(target) };
        return adoption::plan(resource, action, &compare::container(target, stranger), draft);
    }
    if let Some((name, _)) =
        target.adopt.as_ref().and_then(|id| scene.observed.containers.iter().find(|(_, c)| c.owner.is_none() && c.id == *id))
    {
        let reason = format!("the container that is to be taken over is named `{name}`; add `container_name: {name}` to the service");
        draft.block(resource, Some(Code::AdoptDiffers), reason);
        return;
    }
    if let Some(stranger) = occupant.filter(|o| o.owner.as_ref().is_none_or(|owner| owner.topology != scene.topology.as_str())) {
        draft.block(resource, Some(Code::NotOwned), not_owned("container", &target.name, stranger.owner.as_ref()));
        draft.drift(resource, vec![Difference::usurped("container")]);
        return;
    }
    if let Some((key, needs)) = api::beyond(target, scene.observed.engine_api.as_deref()) {
        let has = scene.observed.engine_api.as_deref().unwrap_or_default();
        draft.block(
            resource,
            Some(Code::EngineTooOld),
            format!("`{key}` needs version {needs} of the engine's API; this engine has {has}"),
        );
        return;
    }
    let (need, differs) = match occupant.filter(|o| scene.is(o.owner.as_ref(), resource)) {
        // Nothing is changed about what could not be seen.
        Some(live) if live.config.is_none() => {
            draft.block(resource, Some(Code::StepFailed), "the engine lists it, but fails to inspect it".to_owned());
            return;
        }
        Some(live) => need_of(scene, resource, wanted, live, draft),
        None => match heir(scene, resource) {
            // Left as it is, it may differ in more than its name.
            Some((name, live)) if scene.is_left(resource) && scene.had(resource) && live.config.is_some() => {
                draft.drift(resource, vec![Difference::renamed(&target.name, name)]);
                need_of(scene, resource, wanted, live, draft)
            }
            Some((name, live)) => {
                let action = Action::ReplaceContainer { old_id: live.id.clone(), target: Arc::clone(target) };
                (Need::Begin(action, format!("stands under the name `{name}`")), vec![Difference::renamed(&target.name, name)])
            }
            None => (Need::Begin(Action::CreateContainer(Arc::clone(target)), "does not exist".to_owned()), vec![Difference::missing()]),
        },
    };
    let healed = scene.healed(resource, differs);
    let is_left = healed.iter().any(|d| scene.is_field_left(resource, &d.field));
    if !healed.is_empty() && (is_left || !scene.is_meant(resource, &healed)) {
        return leave(resource, healed, draft);
    }
    // Whatever the reason: who orders a change in place has not agreed to more.
    let need = match (need, unasked(scene, resource, &healed)) {
        (Need::Begin(Action::ReplaceContainer { .. }, _), Some(reason)) => Need::Refuse(reason),
        (need, _) => need,
    };
    begin(scene, resource, wanted, need, draft);
    draft.heal(resource, healed);
}

/// Leaves a container as it is that was as wanted before.
fn leave(resource: &ResourceId, differences: Vec<Difference>, draft: &mut Draft) {
    if differences.contains(&Difference::missing()) {
        draft.leave_missing(resource);
    } else {
        draft.drift(resource, differences);
    }
}

fn begin(scene: &Scene<'_>, resource: &ResourceId, wanted: &LoweredContainer, need: Need, draft: &mut Draft) {
    match need {
        Need::Nothing => {}
        Need::Wait(reason) => draft.block(resource, None, reason),
        Need::Refuse(reason) => draft.block(resource, Some(Code::PreconditionFailed), reason),
        Need::Resume(action, reason) => draft.step(resource, action, reason),
        Need::Change(action, reason) => match networks_first(wanted, draft) {
            Ok(after) => step_after(resource, action, reason, after, draft),
            Err((code, reason)) => draft.block(resource, code, reason),
        },
        Need::Begin(action, reason) => match gate(scene, wanted, draft) {
            Ok(after) => {
                step_after(resource, action, reason, after, draft);
                for (other, _) in wanted.depends_on.iter().filter(|(_, wait)| wait.optional) {
                    draft.tolerate(resource, other);
                }
            }
            Err((code, reason)) => draft.block(resource, code, reason),
        },
    }
}

fn step_after(resource: &ResourceId, action: Action, reason: String, after: Vec<ResourceId>, draft: &mut Draft) {
    draft.step(resource, action, reason);
    for first in after {
        draft.order(resource, &first);
    }
}

/// What an existing container needs, and what of it had been as wanted.
fn need_of(
    scene: &Scene<'_>,
    resource: &ResourceId,
    wanted: &LoweredContainer,
    live: &ObservedContainer,
    draft: &mut Draft,
) -> (Need, Vec<Difference>) {
    let target = &wanted.lowered.target;
    let replace = |reason: String| {
        let action = Action::ReplaceContainer { old_id: live.id.clone(), target: Arc::clone(target) };
        Need::Begin(action, reason)
    };
    if live.state == ContainerState::Removing {
        return (Need::Wait("the engine is removing its predecessor".to_owned()), Vec::new());
    }
    let mut differences = compare::container(target, live);
    let owner = live.owner.as_ref();
    let is_changed = owner.is_none_or(|o| o.spec != wanted.lowered.hash.as_str());
    if is_changed && owner.is_none_or(|o| o.base != wanted.base.as_str()) {
        return (replace(changed(&differences)), Vec::new());
    }
    if live.state == ContainerState::Dead {
        return (replace("the engine calls it dead".to_owned()), vec![Difference::not_running("dead".to_owned())]);
    }
    if let Some(other) = wanted.joins.iter().find(|other| draft.renews(other)) {
        return (replace(format!("`{other}`, whose namespaces it shares, begins anew")), Vec::new());
    }
    let is_gone = |d: &Difference| matches!(d.field.as_str(), "network_mode" | "ipc" | "pid");
    if let Some(gone) = differences.iter().find(|d| !wanted.joins.is_empty() && is_gone(d)) {
        return (replace(gone.reason()), differences);
    }
    let renewed: Vec<&ResourceId> = wanted.networks.iter().filter(|n| draft.has_step(n) && scene_has(scene, n)).collect();
    if is_changed || !renewed.is_empty() {
        return (update_of(target, live, &differences, &renewed, is_changed), Vec::new());
    }
    let extra = compare::extra_attachments(target, live);
    match scene.mend(resource) {
        Some(mend) => {
            differences.extend(extra.into_iter().map(|extra| Difference { expected: None, ..extra }));
            differences.retain(|d| mend.covers(&d.field));
        }
        None => draft.drift(resource, extra),
    }
    // One that never ran was left half-made: nothing is lost by making it anew.
    if live.state == ContainerState::Created && !differences.is_empty() {
        return (mend_of(target, live, &differences), Vec::new());
    }
    let (left, mended): (Vec<_>, Vec<_>) = differences.into_iter().partition(|d| scene.is_field_left(resource, &d.field));
    let need = (!mended.is_empty()).then(|| mend_of(target, live, &mended));
    match need {
        // To be made anew would reset what is left, too.
        Some(need @ (Need::Change(..) | Need::Begin(..))) if left.is_empty() || matches!(need, Need::Change(..)) => {
            draft.drift(resource, left);
            (need, mended)
        }
        Some(_) | None => {
            draft.drift(resource, left.into_iter().chain(mended).collect());
            need_of_state(wanted, live)
        }
    }
}

/// What a container needs whose slice is the same, and that is otherwise.
fn mend_of(target: &Arc<ContainerTarget>, live: &ObservedContainer, differences: &[Difference]) -> Need {
    let changeable = differences.iter().all(|d| in_place::is_changeable(&d.field));
    let reason = match in_place::changes(target, differences) {
        Ok(changes) if changeable && can_change(live, &changes) => {
            return change(target, live, changes, compare::reasons(differences));
        }
        Ok(_) => compare::reasons(differences),
        Err(reason) => reason,
    };
    Need::Begin(Action::ReplaceContainer { old_id: live.id.clone(), target: Arc::clone(target) }, reason)
}

/// What a container needs whose slice changed in what the engine changes while it runs, or whose networks are `renewed`.
fn update_of(
    target: &Arc<ContainerTarget>,
    live: &ObservedContainer,
    differences: &[Difference],
    renewed: &[&ResourceId],
    is_changed: bool,
) -> Need {
    let replace = |reason: String| Need::Begin(Action::ReplaceContainer { old_id: live.id.clone(), target: Arc::clone(target) }, reason);
    let whole = if is_changed { in_place::differences(target, live) } else { differences.to_vec() };
    let reason = match renewed.first() {
        Some(network) if !is_changed => format!("`{network}` is replaced"),
        _ => changed(&whole),
    };
    if differences.iter().any(|d| !in_place::is_changeable(&d.field)) {
        return replace(changed(differences));
    }
    match in_place::changes(target, &whole) {
        Ok(mut changes) => {
            changes.attach.extend(renewed.iter().map(|network| network.name().to_owned()));
            if can_change(live, &changes) { change(target, live, changes, reason) } else { replace(reason) }
        }
        Err(reason) => replace(reason),
    }
}

/// Whether the engine makes the changes in the state that the container is in. One that never ran was left half-made, and one that
/// does not run keeps what it had of networks that are gone.
fn can_change(live: &ObservedContainer, changes: &InPlace) -> bool {
    let networks = !changes.attach.is_empty() || !changes.detach.is_empty();
    match live.state {
        ContainerState::Running => true,
        ContainerState::Paused | ContainerState::Exited | ContainerState::Restarting => !networks,
        ContainerState::Created | ContainerState::Removing | ContainerState::Dead => false,
    }
}

fn change(target: &Arc<ContainerTarget>, live: &ObservedContainer, changes: InPlace, reason: String) -> Need {
    Need::Change(Action::UpdateContainer { id: live.id.clone(), target: Arc::clone(target), changes }, reason)
}

/// Whether the network exists, so that a step on it is a replacement.
fn scene_has(scene: &Scene<'_>, network: &ResourceId) -> bool {
    scene.observed.networks.contains_key(network.name())
}

fn need_of_state(wanted: &LoweredContainer, live: &ObservedContainer) -> (Need, Vec<Difference>) {
    let start = |reason: String| Need::Begin(Action::StartContainer { id: live.id.clone() }, reason);
    let exit = live.exit_words();
    let differs = |state: String| vec![Difference::not_running(state)];
    match live.state {
        ContainerState::Running | ContainerState::Removing | ContainerState::Dead => (Need::Nothing, Vec::new()),
        ContainerState::Paused => {
            (Need::Resume(Action::UnpauseContainer { id: live.id.clone() }, "is paused".to_owned()), differs("paused".to_owned()))
        }
        ContainerState::Restarting => (Need::Wait(format!("it exited with code {exit}; the engine starts it again")), Vec::new()),
        ContainerState::Created => (start("was never started".to_owned()), Vec::new()),
        ContainerState::Exited if is_complete(wanted, live) => (Need::Nothing, Vec::new()),
        ContainerState::Exited => (start(format!("exited with code {exit}")), differs(format!("exited ({exit})"))),
    }
}

/// Whether the container has ended and shall stay so.
fn is_complete(wanted: &LoweredContainer, live: &ObservedContainer) -> bool {
    live.state == ContainerState::Exited && (wanted.runs_once || wanted.may_complete && live.exit_code == Some(0))
}

/// Lets a container whose name is still borne by another one of ours wait until that has given it up.
fn order_by_names(scene: &Scene<'_>, draft: &mut Draft) {
    for (resource, wanted) in &scene.lowered.containers {
        let Some(occupant) = scene.observed.containers.get(&wanted.lowered.target.name) else { continue };
        if scene.is(occupant.owner.as_ref(), resource) || !draft.has_step(resource) {
            continue;
        }
        match draft.step_on(&occupant.id) {
            Some(first) => draft.order(resource, &first),
            None => {
                let reason = not_owned("container", &wanted.lowered.target.name, occupant.owner.as_ref());
                draft.withdraw(resource, Some(Code::NotOwned), reason);
            }
        }
    }
    order_heirs(scene, draft);
}

/// What was left beside a container is gone before that is replaced, so that the two steps cannot meet.
fn order_heirs(scene: &Scene<'_>, draft: &mut Draft) {
    for (name, live, owner) in scene.own_containers() {
        if name != owner.resource.name()
            && let Some(lane) = draft.step_on(&live.id)
        {
            draft.order(&owner.resource, &lane);
        }
    }
}

/// Something on the host that only one running container can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Port(Protocol, u16),
    Address(String, IpAddr),
}

/// Lets a container that needs a port or address wait for the step that frees it.
fn order_by_claims(scene: &Scene<'_>, draft: &mut Draft) {
    let mut freed: BTreeMap<Claim, BTreeSet<ResourceId>> = BTreeMap::new();
    for (_, live, _) in scene.own_containers() {
        let Some((lane, action)) = draft.step_on(&live.id).and_then(|lane| draft.action(&lane).map(|a| (lane.clone(), a))) else {
            continue;
        };
        let kept = match action {
            Action::ReplaceContainer { target, .. } | Action::UpdateContainer { target, .. } => wanted_claims(&target.spec),
            Action::RemoveContainer { .. } => Vec::new(),
            Action::StartContainer { .. }
            | Action::UnpauseContainer { .. }
            | Action::AdoptContainer { .. }
            | Action::AdoptNetwork { .. }
            | Action::AdoptVolume(_)
            | Action::CreateContainer(_)
            | Action::CreateNetwork(_)
            | Action::ReplaceNetwork { .. }
            | Action::RemoveNetwork { .. }
            | Action::CreateVolume(_)
            | Action::Guest(_) => continue,
        };
        for claim in live.config.iter().flat_map(|c| claims(c)).filter(|c| !kept.contains(c)) {
            freed.entry(claim).or_default().insert(lane.clone());
        }
    }
    for (resource, wanted) in scene.lowered.containers.iter().filter(|_| !freed.is_empty()) {
        for first in wanted_claims(&wanted.lowered.target.spec).iter().filter_map(|c| freed.get(c)).flatten() {
            draft.order_by_claim(resource, first);
        }
    }
}

fn claims(config: &ContainerConfig) -> Vec<Claim> {
    let ports = config.ports.iter().filter_map(|p| p.published.map(|n| Claim::Port(p.protocol, n)));
    ports.chain(addresses(&config.networks)).collect()
}

fn addresses(networks: &BTreeMap<String, Attachment>) -> impl Iterator<Item = Claim> {
    networks.iter().flat_map(|(network, attachment)| attachment.addresses().map(|ip| Claim::Address(network.clone(), ip)))
}

fn wanted_claims(spec: &crate::topology::ServiceSpec) -> Vec<Claim> {
    let ports = spec.ports.iter().filter_map(|p| p.published.map(|n| Claim::Port(p.protocol, n)));
    ports.chain(addresses(&spec.networks)).collect()
}
