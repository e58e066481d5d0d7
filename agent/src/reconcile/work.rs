//! The open work of a reconcile pass: which steps may run now. Pure.
//!
//! A step is handed out only when the steps that it needs have succeeded. What depends on a failed step
//! is skipped, and says why.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use moorline_common::plan::Step;

/// See the module.
#[derive(Debug, Default)]
pub struct Work {
    waiting: Vec<Step>,
    in_flight: BTreeSet<ResourceId>,
    failed: BTreeMap<ResourceId, Fault>,
}

impl Work {
    /// Replaces what waits by a new plan. Steps on resources that are being worked on are left out: the
    /// next plan sees how that ended. `held` resources are not touched now, for the given reasons.
    pub fn replan(&mut self, steps: Vec<Step>, held: BTreeMap<ResourceId, Fault>) {
        self.waiting = steps.into_iter().filter(|s| !self.in_flight.contains(&s.resource) && !held.contains_key(&s.resource)).collect();
        self.failed = held;
        self.skip_dependants();
    }

    /// Forgets what waits; what runs goes on.
    pub fn stop(&mut self) {
        self.waiting.clear();
        self.failed.clear();
    }

    /// Hands out every step that may run now, in plan order, as long as no more than `at_once` are in flight. The caller
    /// reports each through [`Self::finish`], after which more may be ready.
    pub fn take_ready(&mut self, at_once: usize) -> Vec<Step> {
        let room = at_once.saturating_sub(self.in_flight.len());
        let mut unfinished: BTreeSet<ResourceId> = self.in_flight.clone();
        unfinished.extend(self.waiting.iter().map(|s| s.resource.clone()));
        let mut ahead: BTreeSet<ResourceId> = self.in_flight.clone();
        let mut ready = Vec::new();
        let mut waiting = Vec::new();
        for step in self.waiting.drain(..) {
            // Two steps on one resource keep their order.
            let is_next = ahead.insert(step.resource.clone());
            if ready.len() < room && is_next && step.after.iter().all(|r| *r == step.resource || !unfinished.contains(r)) {
                ready.push(step);
            } else {
                waiting.push(step);
            }
        }
        self.waiting = waiting;
        self.in_flight.extend(ready.iter().map(|s| s.resource.clone()));
        ready
    }

    /// Takes the end of a step that was handed out.
    pub fn finish(&mut self, resource: &ResourceId, result: Result<(), Fault>) {
        self.in_flight.remove(resource);
        if let Err(fault) = result {
            self.waiting.retain(|s| s.resource != *resource);
            self.failed.insert(resource.clone(), fault);
            self.skip_dependants();
        }
    }

    /// Whether nothing runs and nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    /// The resources that are worked on now.
    #[must_use]
    pub fn in_flight(&self) -> &BTreeSet<ResourceId> {
        &self.in_flight
    }

    /// Whether something runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// What failed or was skipped since the last plan, and why.
    #[must_use]
    pub fn failed(&self) -> &BTreeMap<ResourceId, Fault> {
        &self.failed
    }

    fn skip_dependants(&mut self) {
        loop {
            let failed = &self.failed;
            // What only waits for its turn has not failed for those who would begin without it.
            let keeps = |step: &Step, needs: &ResourceId| {
                failed.get(needs).is_some_and(|fault| fault.code == Code::Waiting || !step.tolerates.contains(needs))
            };
            let skipped = self.waiting.iter().find_map(|s| s.after.iter().find(|r| keeps(s, r)).map(|r| (s.resource.clone(), r.clone())));
            let Some((resource, needs)) = skipped else { return };
            let root = self.failed.get(&needs).map(root_cause).unwrap_or_default();
            let fault = Fault::new(Code::DependencyFailed, format!("skipped: it needs {needs}, which is not ready: {root}"));
            self.waiting.retain(|s| s.resource != resource);
            self.failed.insert(resource, fault);
        }
    }
}

/// The words of the failure at the beginning of a chain of skipped steps.
fn root_cause(fault: &Fault) -> String {
    match fault.message.rsplit_once("which is not ready: ") {
        Some((_, root)) => root.to_owned(),
        None => fault.message.clone(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use moorline_common::plan::{Action, NetworkTarget};

    pub(crate) fn resource(name: &str) -> ResourceId {
        ResourceId::parse(format!("docker/network/{name}")).unwrap()
    }

    pub(crate) fn step(name: &str, after: &[&str]) -> Step {
        let target = NetworkTarget { name: name.to_owned(), spec: Default::default(), adopt: None, labels: BTreeMap::new() };
        Step {
            resource: resource(name),
            action: Action::CreateNetwork(target),
            reason: "it is absent".to_owned(),
            after: after.iter().map(|n| resource(n)).collect(),
            tolerates: BTreeSet::new(),
            heals: Vec::new(),
        }
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|s| s.resource.name()).collect()
    }

    #[test]
    fn a_step_waits_for_what_it_needs_and_for_nothing_else() {
        let mut work = Work::default();
        work.replan(vec![step("a", &[]), step("b", &["a"]), step("c", &["a", "gone"]), step("d", &[])], BTreeMap::new());
        assert_eq!(names(&work.take_ready(9)), ["a", "d"]);
        assert!(work.take_ready(9).is_empty());
        work.finish(&resource("a"), Ok(()));
        assert_eq!(names(&work.take_ready(9)), ["b", "c"], "d still runs; a resource outside the plan is no reason to wait");
    }

    #[test]
    fn what_depends_on_a_failure_is_skipped_and_names_the_cause_and_the_rest_goes_on() {
        let mut work = Work::default();
        work.replan(vec![step("a", &[]), step("b", &["a"]), step("c", &["b"]), step("d", &[])], BTreeMap::new());
        work.take_ready(9);
        work.finish(&resource("a"), Err(Fault::new(Code::StepFailed, "no space")));
        work.finish(&resource("d"), Ok(()));
        assert!(work.is_idle());
        assert_eq!(work.failed()[&resource("b")].code, Code::DependencyFailed);
        assert!(work.failed()[&resource("c")].message.ends_with("no space"), "{}", work.failed()[&resource("c")].message);
        assert_eq!(work.failed().len(), 3);
    }

    #[test]
    fn what_tolerates_a_failure_waits_for_it_and_begins_then() {
        for (code, begins) in [(Code::StepFailed, true), (Code::Waiting, false)] {
            let mut work = Work::default();
            let patient = Step { tolerates: [resource("a")].into(), ..step("b", &["a"]) };
            work.replan(vec![step("a", &[]), patient, step("c", &["a"])], BTreeMap::new());
            assert_eq!(names(&work.take_ready(9)), ["a"]);
            work.finish(&resource("a"), Err(Fault::new(code, "no")));
            assert_eq!(names(&work.take_ready(9)) == ["b"], begins, "{code}");
            assert!(work.failed().contains_key(&resource("c")));
        }
    }

    #[test]
    fn a_new_plan_leaves_running_work_alone() {
        let mut work = Work::default();
        work.replan(vec![step("a", &[]), step("b", &["a"])], BTreeMap::new());
        work.take_ready(9);
        work.replan(vec![step("a", &[]), step("c", &["a"]), step("d", &[])], BTreeMap::new());
        assert_eq!(names(&work.take_ready(9)), ["d"]);
        work.finish(&resource("a"), Ok(()));
        assert_eq!(names(&work.take_ready(9)), ["c"]);
    }

    #[test]
    fn what_finds_no_room_waits_for_the_next_end() {
        let mut work = Work::default();
        work.replan(vec![step("a", &[]), step("b", &[]), step("c", &[])], BTreeMap::new());
        assert_eq!(names(&work.take_ready(2)), ["a", "b"]);
        assert!(work.take_ready(2).is_empty() && !work.is_idle());
        work.finish(&resource("a"), Ok(()));
        assert_eq!(names(&work.take_ready(2)), ["c"]);
    }

    #[test]
    fn held_resources_are_not_touched() {
        let mut work = Work::default();
        let held = BTreeMap::from([(resource("a"), Fault::new(Code::StepFailed, "it fails"))]);
        work.replan(vec![step("a", &[]), step("b", &["a"])], held);
        assert!(work.take_ready(9).is_empty());
        assert!(work.is_idle());
        assert_eq!(work.failed().len(), 2);
    }
}
