//! What the planner looks at: the slice, what was applied before it, what the host has, and whose word counts.

use std::cell::OnceCell;

use super::compare::Difference;
use super::lower::{self, LoweredSpec};
use super::{Given, Identity, Mend};
use crate::id::{ResourceId, TopologyId, VersionHash};
use crate::observe::{Observed, ObservedContainer, Owner};
use crate::topology::{DriftPolicy, HostSpec};

/// What the planner looks at.
pub(super) struct Scene<'a> {
    pub topology: &'a TopologyId,
    pub lowered: &'a LoweredSpec,
    pub observed: &'a Observed,
    pub desired: &'a HostSpec,
    pub given: Given<'a>,
    pub identity: &'a Identity,
    policy: DriftPolicy,
    /// What was applied last, once somebody has asked for it; `None` when that is the same slice.
    before: OnceCell<Option<LoweredSpec>>,
}

impl<'a> Scene<'a> {
    /// What the planner looks at for `desired`, which was lowered.
    pub fn new(identity: &'a Identity, desired: &'a HostSpec, lowered: &'a LoweredSpec, observed: &'a Observed, given: Given<'a>) -> Self {
        let policy = desired.policy.as_ref().map_or_else(DriftPolicy::default, |p| p.drift);
        Self { topology: &identity.topology, lowered, observed, desired, given, identity, policy, before: OnceCell::new() }
    }

    /// What `resource` was to be by the slice that was applied last.
    fn before(&self, resource: &ResourceId) -> Option<&VersionHash> {
        let applied = self.given.applied?;
        let other = || (applied != self.desired).then(|| lower::lower(self.identity, applied));
        self.before.get_or_init(other).as_ref().unwrap_or(self.lowered).hash_of(resource)
    }

    /// Whether `resource` was applied just as it is wanted now: then it is not the slice that changed.
    pub fn had(&self, resource: &ResourceId) -> bool {
        self.before(resource).is_some_and(|hash| self.lowered.hash_of(resource) == Some(hash))
    }

    /// Whether what differs about `resource` is left for an operator to decide.
    pub fn is_left(&self, resource: &ResourceId) -> bool {
        let policy = self.lowered.policies.get(resource).copied().unwrap_or(self.policy);
        self.mend(resource).is_none() && policy == DriftPolicy::Inbox
    }

    /// Whether one field of `resource` is left for an operator to decide.
    pub fn is_field_left(&self, resource: &ResourceId, field: &str) -> bool {
        self.is_left(resource) || (self.mend(resource).is_none() && self.is_field_given_up(resource, field))
    }

    /// Whether a field was healed too often to be healed again.
    pub fn is_field_given_up(&self, resource: &ResourceId, field: &str) -> bool {
        self.given.left.and_then(|left| left.get(resource)).is_some_and(|fields| fields.contains(field))
    }

    /// Whether `resource`, which the slice does not want, is left as it is: it had no place in what was applied last either.
    pub fn is_left_unwanted(&self, resource: &ResourceId) -> bool {
        self.given.applied.is_some() && self.before(resource).is_none() && self.is_left(resource)
    }

    /// What an operator wants mended of `resource`.
    pub fn mend(&self, resource: &ResourceId) -> Option<&'a Mend> {
        self.given.mend.filter(|mend| mend.resource == *resource)
    }

    /// Whether any of `differences` is what an operator wants mended, where one wants anything of `resource`.
    pub fn is_meant(&self, resource: &ResourceId, differences: &[Difference]) -> bool {
        self.mend(resource).is_none_or(|mend| differences.iter().any(|d| mend.covers(&d.field)))
    }

    /// What a step on `resource` heals: nothing when the slice is new to it.
    pub fn healed(&self, resource: &ResourceId, differences: Vec<Difference>) -> Vec<Difference> {
        if self.had(resource) { differences } else { Vec::new() }
    }

    /// Whether `owner` is this very resource of this topology.
    pub fn is(&self, owner: Option<&Owner>, resource: &ResourceId) -> bool {
        owner.is_some_and(|o| o.topology == self.topology.as_str() && o.resource == *resource)
    }

    /// Whether the slice wants `resource`, even if it cannot be lowered.
    pub fn wants(&self, resource: &ResourceId) -> bool {
        let lowered = self.lowered;
        lowered.networks.contains_key(resource)
            || lowered.volumes.contains_key(resource)
            || lowered.containers.contains_key(resource)
            || lowered.blocked.iter().any(|b| b.resource == *resource)
    }

    /// This topology's containers on the engine, by engine name.
    pub fn own_containers(&self) -> impl Iterator<Item = (&'a str, &'a ObservedContainer, &'a Owner)> {
        let topology = self.topology.as_str();
        let all = self.observed.containers.iter().filter_map(|(name, c)| c.owner.as_ref().map(|o| (name.as_str(), c, o)));
        all.filter(move |(_, _, owner)| owner.topology == topology)
    }
}
