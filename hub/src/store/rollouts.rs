//! Rollouts as the store keeps them.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::rollout::{Plan, Rollout, Standing, State};

/// How a new revision is to spread.
#[derive(Debug, Clone)]
pub struct NewRollout {
    /// The plan.
    pub plan: Plan,
    /// The hosts that take part; the others get their slices at once.
    pub hosts: BTreeSet<HostId>,
}

/// A stored rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRecord {
    /// The topology.
    pub topology: TopologyId,
    /// The generation that spreads.
    pub generation: Generation,
    /// How.
    pub plan: Plan,
    /// What it is.
    pub state: State,
    /// Why, in words; empty when there is nothing to say.
    pub reason: String,
    /// Failures that an operator has forgiven.
    pub forgiven: u32,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// Who pushed.
    pub started_by: String,
    /// When it last became what it is, in milliseconds since 1970.
    pub changed_ms: u64,
    /// How many hosts stand where.
    pub counts: BTreeMap<Standing, u32>,
    /// The hosts that take part, sorted by name, when asked for.
    pub hosts: Vec<RolloutHost>,
}

/// One host that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutHost {
    /// The host.
    pub host_id: HostId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub standing: Standing,
    /// Why, in words; empty when there is nothing to say.
    pub reason: String,
    /// When it got the revision, in milliseconds since 1970; 0 before.
    pub released_ms: u64,
    /// Since when it stands there, in milliseconds since 1970.
    pub changed_ms: u64,
}

/// What becomes of a rollout.
#[derive(Debug, Clone)]
pub struct RolloutChange {
    /// The topology.
    pub topology: TopologyId,
    /// The generation.
    pub generation: Generation,
    /// What it was when this was decided, and the failures that were forgiven then: otherwise nothing is changed.
    pub seen: (State, u32),
    /// What it is now.
    pub state: State,
    /// Why, when that is news.
    pub reason: Option<String>,
    /// The failures that stay forgiven.
    pub forgiven: u32,
    /// Hosts that stand elsewhere now, and why. One that no longer waits is given its slice.
    pub moved: Vec<(HostId, Standing, String)>,
}

impl RolloutRecord {
    /// It as the core decides by.
    #[must_use]
    pub fn core(&self) -> Rollout {
        Rollout {
            plan: self.plan.clone(),
            state: self.state,
            forgiven: self.forgiven,
            members: self.hosts.iter().map(|h| (h.host_id.clone(), h.standing)).collect(),
        }
    }
}
