//! What it takes to run or not to run.

use super::super::adoption;
use super::super::compare::{self, Difference};
use super::super::draft::Draft;
use super::config::wanted;
use super::{Case, GuestAct, SHUTDOWN_S, away, unreadable, unusable};
use crate::fault::Code;
use crate::observe::{GuestStatus, ObservedGuest};
use crate::pve::guest::{self, GuestConfig};
use crate::topology::{Power, Reboot};

/// Whether a machine was put to disk with its memory.
pub(super) fn is_suspended(live: &ObservedGuest) -> bool {
    live.lock.as_deref() == Some("suspended") && live.task.is_none()
}

/// Drafts what it takes to run or not to run; returns whether a step was drafted.
pub(super) fn plan_power(case: &Case<'_>, live: &ObservedGuest, draft: &mut Draft) -> bool {
    let Some(wanted) = case.spec.state else { return false };
    let act = match (wanted, live.status) {
        (Power::Running, GuestStatus::Stopped) => GuestAct::Start,
        (Power::Running, GuestStatus::Paused) => GuestAct::Resume,
        (Power::Stopped, GuestStatus::Running | GuestStatus::Paused) => case.shutdown(case.spec),
        (Power::Running, GuestStatus::Running) | (Power::Stopped, GuestStatus::Stopped) => return false,
    };
    let (expected, actual) = (wanted.as_str().to_owned(), live.status.as_str().to_owned());
    let difference = Difference { field: compare::STATE.to_owned(), expected: Some(expected), actual: Some(actual) };
    if live.owner.is_none() && case.is_adopted(live) {
        draft.block(&case.resource, Some(Code::AdoptDiffers), adoption::differs(&[difference]));
        return true;
    }
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

/// Drafts a start for changes that wait for one, if that may be. It would bring everything that waits: also what somebody else set, or what
/// differs and is left to an operator. So it is left to an operator, too.
pub(super) fn plan_reboot(case: &Case<'_>, live: &ObservedGuest, config: &GuestConfig, draft: &mut Draft) -> bool {
    let may = match case.spec.reboot.unwrap_or(Reboot::Never) {
        Reboot::Never => false,
        Reboot::Window => case.scene.given.in_window,
        Reboot::Now => true,
    };
    let waiting = live.pending();
    if !may || waiting.is_empty() || live.status != GuestStatus::Running || case.scene.mend(&case.resource).is_some() {
        return false;
    }
    let differs = guest::change(&wanted(case, live, config), None, config).map(|change| change.keys()).unwrap_or_default();
    let is_asked_for = |key: &&str| case.spec.config.contains_key(*key) && !differs.contains(*key);
    if live.owner.is_none() || !waiting.iter().all(is_asked_for) {
        return false;
    }
    let keys = waiting.into_iter().collect::<Vec<_>>().join(", ");
    let timeout_s = case.spec.shutdown.as_ref().and_then(|shutdown| shutdown.timeout_s).unwrap_or(SHUTDOWN_S);
    draft.step(&case.resource, case.action(GuestAct::Reboot { timeout_s }), format!("{keys} wait for its next start"));
    true
}

/// A guest that the slice names no more: it is stopped and stays, with all that it holds.
pub(super) fn plan_removed(case: &Case<'_>, draft: &mut Draft) {
    if let Some((code, reason)) = away(case) {
        return draft.block(&case.resource, Some(code), reason);
    }
    let Some(live) = case.live.filter(|live| live.status != GuestStatus::Stopped) else { return };
    if live.config.is_none() && live.is_marked {
        return draft.block(&case.resource, Some(Code::PermissionDenied), unreadable(case.vmid));
    }
    if !case.is_ours(live) {
        return;
    }
    if let Some((code, reason)) = unusable(case, live) {
        return draft.block(&case.resource, code, reason);
    }
    draft.step(&case.resource, case.action(case.shutdown(case.spec)), "not in the slice: it is stopped, and stays".to_owned());
}
