//! What the reconciler tells everyone else: the apply report, resource by resource.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{OpId, ResourceId};
use moorline_common::op::{Origin, State};
use moorline_common::statement::{ApplyReport, DRIFT_MAX, HELD_MAX, Held, Trouble};

use super::{Health, Reconciler};
use crate::driver::Driver;
use crate::intake::Desired;
use crate::journal::Journal;
use crate::ledger::trial::TrialRow;
use crate::limits::{DRIFT_BYTES_MAX, TROUBLES_MAX};
use crate::report::HostState;

/// As much of `drift`, in its order, as a report has room for.
fn fitting(drift: &[Drift]) -> Vec<Drift> {
    let mut room = DRIFT_BYTES_MAX;
    let shown = drift.iter().take(DRIFT_MAX).map(Drift::shown);
    let fits = shown.take_while(|d| {
        let bytes = [d.resource.as_str(), &d.field, &d.expected, &d.actual].iter().map(|text| text.len()).sum();
        room.checked_sub(bytes).map(|left| room = left).is_some()
    });
    fits.collect()
}

impl<D: Driver, J: Journal> Reconciler<D, J> {
    /// Records the first trouble, and shows observation and apply report together to everyone else.
    pub(super) async fn publish(&mut self) {
        let (mut report, mut health) = (ApplyReport::default(), Health::Unknown);
        if let Some(desired) = self.desired.clone() {
            report.topology = Some(desired.admission.topology.clone());
            report.generation = desired.accepted;
            report.held = self.held(&desired);
            // What an operation left so waits for nothing.
            let held: BTreeSet<ResourceId> = report.held.iter().map(|held| held.resource.clone()).collect();
            report.troubles = self.troubles();
            report.troubles.retain(|t| t.code != Code::Waiting || !held.contains(&t.resource));
            report.drift = fitting(&self.drift);
            // What was not compared yet is not as wanted for that.
            report.drift_cut = self.drift.len() > report.drift.len() || !self.compared;
            let waits = self.blocked.iter().any(|b| b.code.is_none() && !held.contains(&b.resource));
            report.converging =
                !self.work.is_idle() || waits || (self.settled_push.is_none() && self.engine_failures == 0 && report.troubles.is_empty());
            if let Some(first) = report.troubles.iter().find(|t| t.code != Code::Waiting && t.code != Code::DependencyFailed) {
                let fault = Fault::new(first.code, cut(&format!("{}: {}", first.resource, first.message)));
                self.books.failed(&desired, &fault).await;
            }
            let standing = self.books.standing().await;
            report.applied = standing.applied;
            report.last_error = standing.last_error;
            health = self.health(&desired, &report);
            tell_of_trial(&mut report, standing.trial);
        }
        let (settled_push, observed) = (self.settled_push, self.unpublished.take());
        self.state.send_if_modified(|state| {
            let facts = |s: &HostState| (s.observed_digest.clone(), s.apply_digest.clone(), s.settled_push, s.health.clone());
            let before = facts(state);
            if let Some((observed, taken_at)) = observed {
                state.set_observed(observed, taken_at);
            }
            state.set_apply(report);
            state.settled_push = settled_push;
            state.health = health;
            facts(state) != before
        });
    }

    /// What operations left unlike the slice, to stay so.
    fn held(&self, desired: &Desired) -> Vec<Held> {
        let since = desired.admission.content_since;
        self.journal.read(|book| {
            let held = book.holds(since).filter_map(|(resource, hold)| {
                let (resource, op_id) = (ResourceId::parse(resource).ok()?, OpId::parse(hold.op_id.as_str()).ok()?);
                Some(Held { resource, op_id })
            });
            held.take(HELD_MAX).collect()
        })
    }

    /// What would be changed, but for an operation that is at work on it.
    fn occupied(&self) -> Vec<(ResourceId, Trouble)> {
        self.journal.read(|book| {
            let begun = book.open().filter(|e| e.first.origin() == Origin::Operator && e.state().has_begun());
            let concerned = begun.filter_map(|e| self.unsure.iter().find(|r| r.as_str() == e.first.resource).map(|resource| (resource, e)));
            let told = concerned.map(|(resource, e)| {
                let (id, state) = (&e.first.op_id, e.state());
                let (code, message) = if state == State::Indeterminate {
                    (Code::Indeterminate, format!("operation {id} may or may not have happened: `moorctl op resolve {id}`"))
                } else {
                    (Code::Waiting, format!("operation {id} ({}) comes first: it is {state}", e.first.kind))
                };
                (resource.clone(), Trouble { resource: resource.clone(), code, message })
            });
            told.collect()
        })
    }

    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles: BTreeMap<ResourceId, Trouble> = BTreeMap::new();
        for blocked in &self.blocked {
            let code = blocked.code.unwrap_or(Code::Waiting);
            let trouble = Trouble { resource: blocked.resource.clone(), code, message: cut(&blocked.reason) };
            troubles.insert(blocked.resource.clone(), trouble);
        }
        troubles.extend(self.occupied());
        for (resource, fault) in self.work.failed() {
            let trouble = Trouble { resource: resource.clone(), code: fault.code, message: cut(&fault.message) };
            troubles.insert(resource.clone(), trouble);
        }
        troubles.into_values().take(TROUBLES_MAX).collect()
    }
}

/// How the accepted slice stands. That nothing can come back for it keeps nobody from applying it.
fn tell_of_trial(report: &mut ApplyReport, row: Option<TrialRow>) {
    let Some(row) = row else { return };
    (report.trial, report.rolled_back) = (row.trial(), row.rolled_back());
    if let Some(fault) = row.unusable().filter(|_| report.troubles.len() < TROUBLES_MAX) {
        report.troubles.push(Trouble { resource: ResourceId::host(), code: fault.code, message: cut(&fault.message) });
        report.troubles.sort_by(|a, b| a.resource.cmp(&b.resource));
    }
}
