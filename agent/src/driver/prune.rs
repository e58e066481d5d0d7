//! What `prune` removes: ours, not wanted, and not running. Pure; the drivers bring the lists and do the removals.
//!
//! What runs is left: it may be all that is left of a host whose records were lost. What the accepted slice wants is left whatever
//! its state, by its name on the engine and by the name in its label.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::ResourceId;
use moorline_common::observe::{ContainerState, Owner};
use moorline_common::plan::lower::{container_resource, network_resource, volume_resource};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::OpResult;
use super::evidence::Birth;
use crate::limits::PRUNE_MAX;

/// The very objects that one `prune` removes, at most [`PRUNE_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Debris {
    /// Containers.
    pub containers: Vec<Named>,
    /// Networks.
    pub networks: Vec<Named>,
    /// Volumes.
    pub volumes: Vec<Birth>,
    /// So many more there are.
    pub more: u64,
}

/// An object with the engine's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Named {
    /// The engine's id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
}

impl Debris {
    /// As many as one operation removes; the rest is counted. Containers come first, as networks and volumes wait for them.
    pub fn bounded(mut containers: Vec<Named>, mut networks: Vec<Named>, mut volumes: Vec<Birth>) -> Self {
        let all = containers.len() + networks.len() + volumes.len();
        let by_name = |a: &Named, b: &Named| a.name.cmp(&b.name);
        containers.sort_by(by_name);
        networks.sort_by(by_name);
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        containers.truncate(PRUNE_MAX);
        networks.truncate(PRUNE_MAX - containers.len());
        volumes.truncate(PRUNE_MAX - containers.len() - networks.len());
        let more = all - containers.len() - networks.len() - volumes.len();
        Self { containers, networks, volumes, more: u64::try_from(more).unwrap_or(u64::MAX) }
    }

    /// All but what is wanted when it begins: after a crash that may be more than when it was listed.
    pub fn leaving(mut self, wanted: &BTreeSet<ResourceId>) -> Self {
        self.containers.retain(|c| !wanted.contains(&container_resource(&c.name)));
        self.networks.retain(|n| !wanted.contains(&network_resource(&n.name)));
        self.volumes.retain(|v| !wanted.contains(&volume_resource(&v.name)));
        self
    }
}

/// Whether something of ours may go.
pub(super) fn is_debris(wanted: &BTreeSet<ResourceId>, on_engine: &ResourceId, owner: &Owner) -> bool {
    !wanted.contains(on_engine) && !wanted.contains(&owner.resource)
}

/// Whether a container in this state may go.
pub(super) const fn is_at_rest(state: ContainerState) -> bool {
    matches!(state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead)
}

/// How far a `prune` came.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    removed: Vec<String>,
    left: Vec<(String, String)>,
}

impl Sweep {
    /// Notes what became of one object; `Err` holds the engine's words.
    pub fn note(&mut self, kind: &str, name: &str, outcome: Result<(), String>) {
        let resource = format!("docker/{kind}/{name}");
        match outcome {
            Ok(()) => self.removed.push(resource),
            Err(why) => self.left.push((resource, cut(&why))),
        }
    }

    /// The result; what had to be left makes it a failure, so that nobody overlooks it.
    pub fn result(self, more: u64) -> OpResult {
        let fault = self.left.first().map(|(resource, why)| {
            let message =
                format!("{} of {} could not be removed; {resource}: {why}", self.left.len(), self.left.len() + self.removed.len());
            Fault::new(Code::OpFailed, cut(&message))
        });
        let left: Vec<_> = self.left.iter().map(|(resource, why)| json!({ "resource": resource, "why": why })).collect();
        OpResult { result: json!({ "removed": self.removed, "left": left, "more": more }), fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_by_the_time_it_begins_is_left() {
        let named = |name: &str| Named { id: format!("id-{name}"), name: name.to_owned() };
        let born = |name: &str| Birth { name: name.to_owned(), created_at: "1".to_owned() };
        let debris = Debris::bounded(vec![named("a"), named("b")], vec![named("a"), named("n")], vec![born("a"), born("v")]);
        let wanted = [container_resource("b"), network_resource("n"), volume_resource("v")].into();
        let left = debris.leaving(&wanted);
        assert_eq!((left.containers, left.networks, left.volumes), (vec![named("a")], vec![named("a")], vec![born("a")]));
    }

    #[test]
    fn one_prune_removes_so_many_and_tells_how_many_are_left() {
        let named =
            |prefix: &str, n: usize| (0..n).map(|n| Named { id: n.to_string(), name: format!("{prefix}{n:04}") }).collect::<Vec<_>>();
        let births = vec![Birth { name: "v".to_owned(), created_at: "1".to_owned() }];
        let all = Debris::bounded(named("c", 2), named("n", 1), births.clone());
        assert_eq!((all.containers.len(), all.networks.len(), all.volumes.len(), all.more), (2, 1, 1, 0));
        let cut = Debris::bounded(named("c", PRUNE_MAX - 1), named("n", 5), births);
        assert_eq!((cut.containers.len(), cut.networks.len(), cut.volumes.len(), cut.more), (PRUNE_MAX - 1, 1, 0, 5));
        // Its record fits into a line of the journal.
        let long = "x".repeat(200);
        let full = (0..PRUNE_MAX).map(|_| Named { id: "0".repeat(64), name: long.clone() }).collect();
        assert!(serde_json::to_string(&Debris::bounded(full, Vec::new(), Vec::new())).unwrap().len() < crate::limits::JOURNAL_LINE_MAX / 2);
        let mut sweep = Sweep::default();
        (0..PRUNE_MAX).for_each(|_| sweep.note("container", &long, Err(long.clone())));
        assert!(sweep.result(0).result.to_string().len() < crate::limits::JOURNAL_LINE_MAX);
    }
}
