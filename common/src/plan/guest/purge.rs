//! Guests that were destroyed and are kept for a while.

use super::super::Action;
use super::super::draft::Draft;
use super::super::scene::Scene;
use super::{GuestAct, GuestAction};
use crate::fault::Code;
use crate::observe::{BURIED_TAG, GuestStatus, ObservedGuest};
use crate::pve::{Vmid, tags};

/// How a guest that was destroyed is kept.
const DIG_OUT: &str = "take its tag `moorline-deleted` away to keep it, or let it go";

/// Whether a guest is the one that was destroyed and is kept: who takes the tag away, or puts another guest in its place, keeps it.
#[must_use]
pub fn is_buried(live: &ObservedGuest, lasting: &str) -> bool {
    let tags = live.config.as_ref().and_then(|config| config.set.get("tags"));
    live.lasting() == Some(lasting) && tags.is_some_and(|tags| tags::has(tags, BURIED_TAG))
}

/// A guest whose time is over goes.
pub(super) fn plan_purge(scene: &Scene<'_>, vmid: Vmid, lasting: &str, draft: &mut Draft) {
    let live = scene.observed.guests().find(|(id, _)| *id == vmid).map(|(_, live)| live);
    let Some(live) = live.filter(|live| is_buried(live, lasting)) else { return };
    let resource = vmid.resource();
    if let Some(work) = live.lock.as_ref().or(live.task.as_ref()) {
        return draft.block(&resource, None, format!("it was destroyed, and something works on it ({work}): waits for that to end"));
    }
    let in_the_way = match live.status {
        _ if live.is_ha_managed => Some("the cluster's resource manager has it"),
        GuestStatus::Running | GuestStatus::Paused => Some("it runs"),
        GuestStatus::Stopped => None,
    };
    if let Some(why) = in_the_way {
        return draft.block(
            &resource,
            Some(Code::PreconditionFailed),
            format!("it was destroyed, and its time is over, but {why}: {DIG_OUT}"),
        );
    }
    let action = GuestAction {
        vmid,
        kind: live.kind,
        topology: scene.topology.as_str().to_owned(),
        spec: String::new(),
        incarnation: live.incarnation.clone(),
        adopted: false,
        hidden: None,
        act: GuestAct::Purge,
    };
    draft.step(&resource, Action::Guest(Box::new(action)), "it was destroyed, and the time for which it was kept is over".to_owned());
}
