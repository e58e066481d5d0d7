//! What a plan says, in the one form that is shown to programs and kept in a saved plan.
//!
//! The form is a promise: docs/operator-guide.md names its keys. So it is spelled out here and follows no type of the planner's.

use std::collections::BTreeSet;

use moorline_common::drift::Drift;
use moorline_common::fault::Code;
use moorline_common::id::{HostId, ResourceId, VersionHash};
use moorline_common::observe::Observed;
use moorline_common::plan::fields::{self, FieldChange};
use moorline_common::plan::lower::LoweredSpec;
use moorline_common::plan::{Blocked, Effect, Plan, Step};
use moorline_common::statement::Held;
use serde::{Deserialize, Serialize};

use crate::revision::{ChangeKind, HostChange};

/// A plan of a whole topology.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The topology.
    pub topology: String,
    /// The newest generation: the one that a push would follow.
    pub base_generation: u64,
    /// Whether pushing the file would change anything.
    pub changes: bool,
    /// The hosts that the file means or that leave, by name.
    pub hosts: Vec<HostPlan>,
    /// Entries whose hosts are not bound yet.
    pub awaiting: Vec<String>,
}

/// What becomes of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPlan {
    /// The host's name.
    pub host: String,
    /// The host's id.
    pub host_id: HostId,
    /// What happens to it.
    pub change: ChangeKind,
    /// The hash of the slice that it has by the newest revision.
    pub from: Option<VersionHash>,
    /// The hash of the slice that it gets.
    pub to: VersionHash,
    /// How old its report is, in seconds; none when there is none that counts.
    pub report_age_s: Option<u64>,
    /// What stands in the way of a plan that can be relied on.
    pub notes: Vec<String>,
    /// What an operation keeps unlike the topology, by the host's report.
    pub held: Vec<Held>,
    /// What its agent would do.
    pub plan: Steps,
}

/// What an agent would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// Changes, in an order that respects `after`.
    pub steps: Vec<PlannedStep>,
    /// Differences that no step mends.
    pub drift: Vec<Drift>,
    /// Resources that cannot be brought further now, and why.
    pub blocked: Vec<Blocked>,
}

/// One change to one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// The resource.
    pub resource: ResourceId,
    /// What is done, in a word.
    pub verb: String,
    /// What becomes of the object.
    pub effect: Effect,
    /// Why.
    pub reason: String,
    /// What changes about it.
    pub fields: Vec<FieldChange>,
    /// Resources whose steps come first.
    pub after: BTreeSet<ResourceId>,
}

impl Steps {
    /// `plan` for what was `observed`; `before` is what the newest revision wants of the host.
    #[must_use]
    pub fn of(plan: Plan, observed: &Observed, before: &LoweredSpec) -> Self {
        let Plan { steps, drift, blocked } = plan;
        Self { steps: steps.into_iter().map(|step| PlannedStep::of(step, observed, before)).collect(), drift, blocked }
    }
}

impl PlannedStep {
    fn of(step: Step, observed: &Observed, before: &LoweredSpec) -> Self {
        let detail = fields::of(&step, observed, before);
        let Step { resource, action, after, .. } = step;
        Self { resource, verb: action.verb().to_owned(), effect: action.effect(), reason: detail.why, fields: detail.fields, after }
    }
}

impl HostPlan {
    /// A plan of the host of `change` of which nothing else is known yet.
    #[must_use]
    pub fn new(change: HostChange, plan: Steps) -> Self {
        let HostChange { host, host_id, change, from, to } = change;
        Self { host, host_id, change, from, to, report_age_s: None, notes: Vec::new(), held: Vec::new(), plan }
    }

    /// Says what is held. Other content lifts all holds of its host; without that the agent leaves alone what is held.
    pub fn tell_held(&mut self) {
        let is_lifted = self.change != ChangeKind::Unchanged;
        for held in &self.held {
            let (resource, op) = (&held.resource, &held.op_id);
            let then = match is_lifted {
                true => "the new content lifts that".to_owned(),
                false => format!("it stays so until other content is pushed or `moorctl op release {}/{resource}`", self.host),
            };
            self.notes.push(format!("{resource} is held by op {op}: {then}"));
        }
        if !is_lifted {
            self.plan.steps.retain(|step| !self.held.iter().any(|held| held.resource == step.resource));
        }
    }

    /// Whether a push or the agent by itself would change something, or something is wrong.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.change != ChangeKind::Unchanged || !self.plan.steps.is_empty() || !self.plan.blocked.iter().all(only_waits)
    }

    /// Whether there is nothing to say about it.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.change == ChangeKind::Unchanged && self.notes.is_empty() && self.plan == Steps::default()
    }
}

/// Whether nothing is wrong: the resource follows by itself.
#[must_use]
pub fn only_waits(blocked: &Blocked) -> bool {
    blocked.code.is_none_or(|code| code == Code::Waiting)
}
