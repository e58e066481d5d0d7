//! A plan while it is made: one step per resource, edges that never close a circle, and the final order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compare::Difference;
use super::{Action, Blocked, Plan, Step};
use crate::drift::Drift;
use crate::fault::Code;
use crate::id::ResourceId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Draft {
    steps: BTreeMap<ResourceId, Step>,
    /// Engine id of a container → the resource whose step acts on it.
    acts_on: BTreeMap<String, ResourceId>,
    blocked: BTreeMap<ResourceId, Blocked>,
    drift: Vec<Drift>,
    /// What is left as missing as it is.
    missing: BTreeSet<ResourceId>,
    /// Blocked resources that others cannot use as they are.
    pub unusable: BTreeSet<ResourceId>,
}

impl Draft {
    /// Adds the step of `resource`.
    pub fn step(&mut self, resource: &ResourceId, action: Action, reason: String) {
        if let Some(id) = action.container_id() {
            self.acts_on.insert(id.to_owned(), resource.clone());
        }
        let step =
            Step { resource: resource.clone(), action, reason, after: BTreeSet::new(), tolerates: BTreeSet::new(), heals: Vec::new() };
        self.steps.insert(resource.clone(), step);
    }

    /// Notes why `resource` cannot be brought further. The first reason stays.
    pub fn block(&mut self, resource: &ResourceId, code: Option<Code>, reason: String) {
        let blocked = Blocked { resource: resource.clone(), code, reason };
        self.blocked.entry(resource.clone()).or_insert(blocked);
    }

    /// Withdraws the step of `resource`: something is in its way.
    pub fn withdraw(&mut self, resource: &ResourceId, code: Option<Code>, reason: String) {
        self.steps.remove(resource);
        self.acts_on.retain(|_, actor| actor != resource);
        self.block(resource, code, reason);
    }

    /// Notes differences that no step mends.
    pub fn drift(&mut self, resource: &ResourceId, differences: Vec<Difference>) {
        self.drift.extend(differences.into_iter().map(|d| d.into_drift(resource)));
    }

    /// Notes that `resource` is not there and is left so.
    pub fn leave_missing(&mut self, resource: &ResourceId) {
        self.drift(resource, vec![Difference::missing()]);
        self.missing.insert(resource.clone());
    }

    /// Whether `resource` is not there and is left so.
    pub fn stays_missing(&self, resource: &ResourceId) -> bool {
        self.missing.contains(resource)
    }

    /// Notes what the step of `resource` mends.
    pub fn heal(&mut self, resource: &ResourceId, differences: Vec<Difference>) {
        if let Some(step) = self.steps.get_mut(resource) {
            step.heals = differences.into_iter().map(|d| d.into_drift(resource)).collect();
        }
    }

    /// Makes the step of `resource` wait for that of `first`, unless that one already waits for it. Resources without
    /// a step are nothing to wait for.
    pub fn order(&mut self, resource: &ResourceId, first: &ResourceId) {
        if resource == first || !self.has_step(first) || self.waits_for(first, resource) {
            return;
        }
        if let Some(step) = self.steps.get_mut(resource) {
            step.after.insert(first.clone());
        }
    }

    /// The same for what `first` frees. When that one already waits for `resource`, `resource` cannot have it before it has given up
    /// what it has itself.
    pub fn order_by_claim(&mut self, resource: &ResourceId, first: &ResourceId) {
        self.order(resource, first);
        if resource != first
            && self.waits_for(first, resource)
            && let Some(Action::ReplaceContainer { target, .. }) = self.steps.get_mut(resource).map(|step| &mut step.action)
        {
            Arc::make_mut(target).gives_way = true;
        }
    }

    /// Lets the step of `resource` begin also when that of `first`, which it waits for, has failed.
    pub fn tolerate(&mut self, resource: &ResourceId, first: &ResourceId) {
        if let Some(step) = self.steps.get_mut(resource).filter(|step| step.after.contains(first)) {
            step.tolerates.insert(first.clone());
        }
    }

    /// Whether `resource` has a step.
    pub fn has_step(&self, resource: &ResourceId) -> bool {
        self.steps.contains_key(resource)
    }

    /// Whether the step of `resource` makes or starts a container, so that its namespaces are new.
    pub fn renews(&self, resource: &ResourceId) -> bool {
        let renews = |action: &Action| matches!(action, Action::StartContainer { .. }) || action.container_target().is_some();
        self.action(resource).is_some_and(renews)
    }

    /// What the step of `resource` does.
    pub fn action(&self, resource: &ResourceId) -> Option<&Action> {
        self.steps.get(resource).map(|s| &s.action)
    }

    /// The resource whose step acts on the container with this engine id.
    pub fn step_on(&self, container_id: &str) -> Option<ResourceId> {
        self.acts_on.get(container_id).cloned()
    }

    /// Whether the step of `resource` removes a container for good.
    pub fn removes(&self, resource: &ResourceId) -> bool {
        matches!(self.steps.get(resource).map(|s| &s.action), Some(Action::RemoveContainer { .. }))
    }

    /// Why `resource` is blocked, if it is.
    pub fn blocked(&self, resource: &ResourceId) -> Option<&Blocked> {
        self.blocked.get(resource)
    }

    /// Whether the step of `resource` waits for that of `other`, through however many others.
    fn waits_for(&self, resource: &ResourceId, other: &ResourceId) -> bool {
        let mut open = vec![resource];
        let mut seen = BTreeSet::new();
        while let Some(at) = open.pop() {
            if at == other {
                return true;
            }
            if seen.insert(at) {
                open.extend(self.steps.get(at).into_iter().flat_map(|s| &s.after));
            }
        }
        false
    }

    /// The plan, its steps in an order that respects `after` and else goes by kind and name.
    pub fn finish(mut self) -> Plan {
        let known: BTreeSet<ResourceId> = self.steps.keys().cloned().collect();
        for step in self.steps.values_mut() {
            step.after.retain(|r| known.contains(r));
            step.tolerates.retain(|r| known.contains(r));
        }
        let mut waiting: BTreeMap<(u8, ResourceId), Step> =
            self.steps.into_values().map(|s| ((s.action.phase(), s.resource.clone()), s)).collect();
        let mut done: BTreeSet<ResourceId> = BTreeSet::new();
        let mut steps = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let free = waiting.iter().find(|(_, s)| s.after.is_subset(&done)).or_else(|| waiting.iter().next());
            let Some(key) = free.map(|(key, _)| key.clone()) else { break };
            let Some(step) = waiting.remove(&key) else { break };
            done.insert(step.resource.clone());
            steps.push(step);
        }
        self.drift.sort();
        self.drift.dedup();
        Plan { steps, drift: self.drift, blocked: self.blocked.into_values().collect() }
    }
}
