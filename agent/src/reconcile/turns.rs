//! The reconciler's turns in the lanes. A step whose lane is taken keeps one place there; when the turn comes, the host is
//! looked at and planned anew, and the turn is used for what that plan says, or given back.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::ResourceId;
use tokio::sync::mpsc;

use crate::lane::{Lanes, Slot, Turn};

pub(super) struct Turns {
    lanes: Lanes,
    /// Turns that came after a wait. Bounded by the lanes: one for each.
    came: (mpsc::UnboundedSender<Turn>, mpsc::UnboundedReceiver<Turn>),
    /// Turns to plan anew for, and whether the look under way began after they came.
    granted: BTreeMap<ResourceId, (Turn, bool)>,
}

impl Turns {
    pub(super) fn new(lanes: Lanes) -> Self {
        Self { lanes, came: mpsc::unbounded_channel(), granted: BTreeMap::new() }
    }

    /// Returns when a turn has come for which the host is to be looked at. Cancel-safe.
    pub(super) async fn came(&mut self) {
        if let Some(turn) = self.came.1.recv().await {
            self.granted.insert(turn.resource().clone(), (turn, false));
        }
    }

    pub(super) fn look_begins(&mut self) {
        self.lanes.look_begins();
        self.granted.values_mut().for_each(|(_, is_fresh)| *is_fresh = true);
    }

    /// What operations have worked on since the look began: it may have been seen in any state.
    pub(super) fn worked(&self) -> BTreeSet<ResourceId> {
        self.lanes.worked()
    }

    /// The turn for a step of the newest plan; `None` when it comes later.
    pub(super) fn take(&mut self, resource: &ResourceId) -> Option<Turn> {
        match self.granted.remove(resource) {
            Some((turn, true)) => return Some(turn),
            Some(early) => {
                self.granted.insert(resource.clone(), early);
                return None;
            }
            None => {}
        }
        match self.lanes.slot(resource) {
            Ok(Slot::Now(turn)) => Some(turn),
            Ok(Slot::Later(place)) => {
                let came = self.came.0.clone();
                tokio::spawn(async move {
                    if let Some(turn) = place.await {
                        // The reconciler is gone only when the agent stops.
                        let _ = came.send(turn);
                    }
                });
                None
            }
            Ok(Slot::Taken) => None,
            Err(busy) => {
                tracing::warn!(%busy, "a step finds no lane");
                None
            }
        }
    }

    /// Gives back those for which the newest plan had no step.
    pub(super) fn give_back(&mut self) {
        self.granted.retain(|_, (_, is_fresh)| !*is_fresh);
    }
}
