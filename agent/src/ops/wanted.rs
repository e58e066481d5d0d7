//! What needs the slice: making one resource as it says, and knowing what it wants.

use std::collections::BTreeSet;
use std::sync::Arc;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::ResourceId;
use moorline_common::op::Converge;
use moorline_common::plan::{Action, Given, Mend, Plan, Step, lower, plan_given};
use moorline_common::topology::{DriftPolicy, HostSpec};

use super::{Op, Shared};
use crate::driver::{Driver, DriverError, DriverErrorKind, OpResult};
use crate::intake::Desired;
use crate::journal::Journal;
use crate::ledger::FloorState;
use crate::limits::CONVERGE_ROUNDS_MAX;
use crate::reconcile::Notes;

impl<D: Driver, J: Journal> Shared<D, J> {
    /// What the accepted slice wants; nothing once everything was taken down by an operator's word.
    pub(super) async fn wanted(&self) -> Result<BTreeSet<ResourceId>, Fault> {
        if let Some(desired) = self.parts.gate.target().desired {
            let lowered = lower::lower(&desired.identity, &desired.spec);
            let mut wanted: BTreeSet<ResourceId> = lowered.networks.into_keys().chain(lowered.volumes.into_keys()).collect();
            wanted.extend(lowered.containers.into_keys());
            wanted.extend(lowered.blocked.into_iter().map(|b| b.resource));
            wanted.extend(desired.spec.guests().map(|(vmid, _)| vmid.resource()));
            return Ok(wanted);
        }
        match self.accepted_floor().await?.map(|floor| floor.state) {
            Some(FloorState::TornDown) => Ok(BTreeSet::new()),
            Some(_) => Err(no_slice("this host does not enforce its slice yet; try again when the hub has sent it")),
            None => Err(no_slice("this host has never had a slice: nothing says what is not wanted")),
        }
    }

    fn desired(&self) -> Result<Arc<Desired>, Fault> {
        let desired = self.parts.gate.target().desired;
        desired.ok_or_else(|| no_slice("this host enforces no slice at present: nothing says how it should be"))
    }

    /// Makes the resource of `op` as the slice says, whatever its policy for drift.
    pub(super) async fn converge(&self, op: &Op, what: Converge) -> Result<OpResult, DriverError> {
        let mend = Mend { resource: op.resource().clone(), fields: what.fields, replaces: !what.in_place };
        let notes = Notes::new(self.parts.gate.ledger().clone(), self.parts.driver.known());
        let mut steps = 0_u32;
        for _ in 0..CONVERGE_ROUNDS_MAX {
            let desired = match self.desired() {
                Ok(desired) => desired,
                Err(fault) => return Ok(OpResult { fault: Some(fault), ..OpResult::default() }),
            };
            let observed = self.parts.driver.observe().await?;
            // Whoever orders this knows what there was: nothing is told from what was applied before.
            let given = Given { applied: Some(&desired.spec), mend: Some(&mend), ..Given::default() };
            let plan = plan_given(&desired.identity, &desired.spec, &observed, given);
            if let Some(blocked) = plan.blocked.iter().find(|b| b.resource == *op.resource()) {
                let fault = Fault::new(blocked.code.unwrap_or(Code::Waiting), cut(&blocked.reason));
                return Ok(OpResult { fault: Some(fault), ..OpResult::default() });
            }
            let Some(step) = plan.steps.iter().find(|s| s.resource == *op.resource()) else {
                if steps == 0 && !self.wanted().await.is_ok_and(|wanted| wanted.contains(op.resource())) {
                    let fault = Fault::new(Code::PreconditionFailed, format!("the slice says nothing of {}", op.resource()));
                    return Ok(OpResult { fault: Some(fault), ..OpResult::default() });
                }
                return Ok(OpResult { result: serde_json::json!({ "steps": steps }), fault: None });
            };
            if let Some(other) = cut_off(&desired.spec, step, &plan) {
                let message = format!(
                    "{other} and whatever else is on this network would be cut from it, and the policy leaves that so; push it with `drift: heal`"
                );
                let fault = Fault::new(Code::PreconditionFailed, message);
                return Ok(OpResult { fault: Some(fault), ..OpResult::default() });
            }
            if let Some(needed) = step.after.iter().find(|r| *r != op.resource() && plan.steps.iter().any(|s| s.resource == **r)) {
                let fault = Fault::new(Code::DependencyFailed, format!("it needs {needed}, which is not as the slice says"));
                return Ok(OpResult { fault: Some(fault), ..OpResult::default() });
            }
            let made = async {
                notes.begin(&step.action).await?;
                self.parts.driver.apply(step).await?;
                notes.end(&step.action).await
            };
            match made.await {
                Ok(()) => steps += 1,
                Err(error) if matches!(error.kind, DriverErrorKind::Conflict | DriverErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let fault = Fault::new(Code::OpFailed, format!("it is not as the slice says after {CONVERGE_ROUNDS_MAX} tries"));
        Ok(OpResult { fault: Some(fault), ..OpResult::default() })
    }
}

/// A container that loses its network by `step`, and that nobody joins to it again as the policy leaves all differences to an operator.
fn cut_off<'p>(spec: &HostSpec, step: &Step, plan: &'p Plan) -> Option<&'p ResourceId> {
    let is_inbox = |policy: Option<DriftPolicy>| policy == Some(DriftPolicy::Inbox);
    let services = spec.docker.iter().flat_map(|docker| docker.services.values());
    let leaves = is_inbox(spec.policy.as_ref().map(|p| p.drift)) || services.into_iter().any(|service| is_inbox(service.drift));
    let renews = leaves && matches!(step.action, Action::ReplaceNetwork { .. });
    plan.steps.iter().find(|other| renews && other.after.contains(&step.resource)).map(|other| &other.resource)
}

fn no_slice(what: &str) -> Fault {
    Fault::new(Code::PreconditionFailed, what)
}
