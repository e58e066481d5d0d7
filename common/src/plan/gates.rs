//! What a container waits for before it begins: the networks and volumes that it needs, and how far those are that it depends on.

use super::draft::Draft;
use super::lower::{LoweredContainer, Wait};
use super::scene::Scene;
use crate::fault::Code;
use crate::id::ResourceId;
use crate::observe::{ContainerState, Health, ObservedContainer};
use crate::topology::DependencyCondition;

/// The networks and volumes whose steps must come first; or why one of them keeps the container from being as wanted.
pub(super) fn networks_first(wanted: &LoweredContainer, draft: &Draft) -> Result<Vec<ResourceId>, (Option<Code>, String)> {
    let mut after: Vec<ResourceId> = Vec::new();
    for part in wanted.networks.iter().chain(&wanted.volumes) {
        if draft.has_step(part) {
            after.push(part.clone());
        } else if draft.stays_missing(part) {
            return Err(left_missing(part));
        } else if let Some(blocked) = draft.blocked(part).filter(|_| part.kind() == "docker/network" || draft.unusable.contains(part)) {
            return Err((Some(Code::DependencyFailed), format!("needs `{part}`: {}", blocked.reason)));
        }
    }
    Ok(after)
}

/// The resources whose steps must come first; or why the container cannot begin.
pub(super) fn gate(scene: &Scene<'_>, wanted: &LoweredContainer, draft: &Draft) -> Result<Vec<ResourceId>, (Option<Code>, String)> {
    let mut after = networks_first(wanted, draft)?;
    for (other, Wait { condition, optional }) in &wanted.depends_on {
        if draft.has_step(other) && *condition == DependencyCondition::ServiceStarted {
            after.push(other.clone());
            continue;
        }
        match condition_met(scene, other, *condition, draft) {
            Err(_) if *optional && has_failed(scene, other, draft) => {}
            met => met?,
        }
    }
    Ok(after)
}

/// Whether nothing is to be expected of it before somebody mends it.
fn has_failed(scene: &Scene<'_>, other: &ResourceId, draft: &Draft) -> bool {
    if draft.blocked(other).is_some_and(|blocked| blocked.code.is_some()) {
        return true;
    }
    let live = scene.observed.containers.get(other.name()).filter(|_| !draft.has_step(other));
    live.is_some_and(|live| match live.state {
        ContainerState::Exited => live.exit_code != Some(0),
        ContainerState::Running => matches!(live.health, Health::Unhealthy | Health::None),
        ContainerState::Created | ContainerState::Paused | ContainerState::Restarting | ContainerState::Removing | ContainerState::Dead => {
            false
        }
    })
}

fn condition_met(
    scene: &Scene<'_>,
    other: &ResourceId,
    condition: DependencyCondition,
    draft: &Draft,
) -> Result<(), (Option<Code>, String)> {
    if let Some(blocked) = draft.blocked(other) {
        let code = blocked.code.map(|_| Code::DependencyFailed);
        return Err((code, format!("waits for `{}`: {}", other.name(), blocked.reason)));
    }
    if draft.stays_missing(other) {
        return Err(left_missing(other));
    }
    let wanted = scene.lowered.containers.get(other);
    let live = scene.observed.containers.get(other.name()).filter(|_| !draft.has_step(other));
    let runs_once = wanted.is_some_and(|w| w.runs_once);
    match condition {
        DependencyCondition::ServiceStarted => Ok(()),
        DependencyCondition::ServiceHealthy => healthy(other, live),
        DependencyCondition::ServiceCompletedSuccessfully => completed(other, live, runs_once),
    }
}

/// Why what needs `missing` cannot begin.
fn left_missing(missing: &ResourceId) -> (Option<Code>, String) {
    let reason = format!("needs `{missing}`, which somebody removed and the policy leaves so; decide by `moorctl drift ls`");
    (Some(Code::DependencyFailed), reason)
}

fn healthy(other: &ResourceId, live: Option<&ObservedContainer>) -> Result<(), (Option<Code>, String)> {
    let name = other.name();
    match live.filter(|l| l.state == ContainerState::Running).map(|l| l.health) {
        Some(Health::Healthy) => Ok(()),
        Some(Health::None) => {
            Err((Some(Code::DependencyFailed), format!("waits for `{name}` to be healthy, but that has no healthcheck; give it one")))
        }
        Some(Health::Unhealthy) => Err((None, format!("waits for `{name}` to be healthy; it is unhealthy now"))),
        Some(Health::Starting) | None => Err((None, format!("waits for `{name}` to be healthy"))),
    }
}

fn completed(other: &ResourceId, live: Option<&ObservedContainer>, runs_once: bool) -> Result<(), (Option<Code>, String)> {
    let name = other.name();
    match live.filter(|l| l.state == ContainerState::Exited).map(|l| l.exit_code.unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(code) if runs_once => Err((Some(Code::DependencyFailed), format!("needs `{name}` to succeed, which exited with code {code}"))),
        Some(_) | None => Err((None, format!("waits for `{name}` to complete"))),
    }
}
