//! What people are told of a saga.

use super::plan::{Act, HubAct, NewHost, Plan, Side, StepNumber, Task};
use super::state::{Cause, End, Event, Phase, State, Stuck, StuckWhy};
use super::word::Verb;

impl Act {
    /// What is done, in a line.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Act::Host(act) => {
                let made = act.made_by.as_ref().map_or(String::new(), |by| format!(" (the one that `{by}` made)"));
                let is_plain = act.params.is_null() || act.params.as_object().is_some_and(serde_json::Map::is_empty);
                let params = if is_plain { String::new() } else { format!(" {}", act.params) };
                format!("{} {} on {}{params}{made}", act.kind, act.resource, act.host)
            }
            Act::Hub(HubAct::Push { topology, generation, .. }) => format!("push {topology} generation {generation}"),
            Act::Hub(HubAct::Applied { topology, generation, hosts }) => {
                let hosts: Vec<&str> = hosts.iter().map(crate::id::HostName::as_str).collect();
                format!("wait until {} has applied {topology} generation {generation}", hosts.join(", "))
            }
            Act::Hub(HubAct::Joined(NewHost { host, converged: false, .. })) => format!("host {host} joins and is bound"),
            Act::Hub(HubAct::Joined(NewHost { host, converged: true, .. })) => format!("host {host} applies its topology"),
            Act::Hub(HubAct::Expect { host, .. }) => format!("see that no other host is called {host}"),
            Act::Hub(HubAct::Forget { host, .. }) => format!("remove host {host}"),
            Act::Cloud(act) => act.words(),
        }
    }
}

impl Task {
    /// What is done and how patiently, in a line.
    #[must_use]
    pub fn words(&self) -> String {
        let tries =
            if self.attempts == 1 { "once".to_owned() } else { format!("up to {} times, {} s apart", self.attempts, self.backoff_s) };
        format!("{} [{tries}, an answer within {} s]", self.act.words(), self.timeout_s)
    }
}

impl Event {
    /// What happened, in a line; `state` is what came of it.
    #[must_use]
    pub fn words(&self, plan: &Plan, state: &State) -> String {
        let named = |step: StepNumber, side: Side| {
            let name = plan.steps.get(step).map_or("", |step| step.name.as_str());
            let undo = if side == Side::Undo { ", undo" } else { "" };
            format!("step {} (`{name}`{undo})", step.saturating_add(1))
        };
        let line = |step: StepNumber, side: Side| state.line(step, side);
        match self {
            Event::Begin { step, side } => {
                format!("{}: try {} begins", named(*step, *side), line(*step, *side).map_or(0, |line| line.attempt))
            }
            Event::Wait { step, fault } => format!("{} waits: {}", named(*step, Side::Do), fault.message),
            Event::Ended { step, side, end, .. } => match end {
                End::Succeeded { .. } => format!("{}: done", named(*step, *side)),
                End::Failed { fault, .. } if line(*step, *side).is_some_and(|line| line.phase == Phase::Again) => {
                    format!("{}: failed, and is tried again: {fault}", named(*step, *side))
                }
                End::Failed { fault, .. } => format!("{}: failed: {fault}", named(*step, *side)),
                End::Doubt { fault } => format!("{}: its host cannot tell how it ended: {fault}", named(*step, *side)),
            },
            Event::Late { step, side } => format!("{}: no answer in its time", named(*step, *side)),
            Event::Said(Verb::Retry { step, side, .. }) => format!("an operator has {} tried again", named(*step, *side)),
            Event::Said(Verb::Skip { step, side }) => format!("an operator takes {} out", named(*step, *side)),
            Event::Said(Verb::Abort { .. }) => "an operator aborts it".to_owned(),
            Event::Said(Verb::Abandon) => "an operator abandons it".to_owned(),
        }
    }
}

impl Stuck {
    /// What is left, and why.
    #[must_use]
    pub fn words(&self, plan: &Plan, state: &State) -> String {
        let name = plan.steps.get(self.step).map_or("", |step| step.name.as_str());
        let line = state.line(self.step, self.side);
        let why = line.and_then(|line| line.fault.as_ref()).map_or(String::new(), |fault| format!(": {fault}"));
        let number = self.step.saturating_add(1);
        match self.why {
            StuckWhy::Doubt => format!("step {number} (`{name}`, {}): its host cannot tell how it ended{why}", self.side),
            StuckWhy::Silent => {
                format!("step {number} (`{name}`, {}): its host has not answered in time; it goes on when it does{why}", self.side)
            }
            StuckWhy::PastReturn => format!("step {number} (`{name}`) failed after one that cannot be undone{why}"),
            StuckWhy::Undo => format!("what undoes step {number} (`{name}`) failed for good{why}; left: {}", left(plan, state).join(", ")),
            StuckWhy::Unproven => {
                let cause = match state.cause {
                    Some(Cause::Failure { step, .. }) => plan.steps.get(step).map_or("", |step| step.name.as_str()),
                    Some(Cause::Abort) | None => "",
                };
                format!("step `{cause}` failed and no host signed that, so no host undoes anything; left: {}", left(plan, state).join(", "))
            }
        }
    }

    /// The command that resolves it.
    #[must_use]
    pub fn remedy(&self, plan: &Plan) -> String {
        let id = &plan.saga_id;
        let name = plan.steps.get(self.step).map_or("", |step| step.name.as_str());
        match (self.why, self.side) {
            (StuckWhy::Doubt, _) => {
                format!("moorctl op ls --open, then moorctl op resolve; or moorctl saga skip {id} {name}{}", side_flag(self.side))
            }
            // It has no way back when what is silent cannot be undone.
            (StuckWhy::Silent, Side::Do) if plan.steps.get(self.step).is_some_and(|step| step.irreversible) => {
                format!("moorctl saga skip {id} {name}")
            }
            (StuckWhy::Silent, Side::Do) => format!("moorctl saga abort {id}"),
            (StuckWhy::Silent, Side::Undo) => format!("moorctl saga skip {id} {name} --undo"),
            (StuckWhy::PastReturn, _) => format!("moorctl saga retry {id} {name}"),
            (StuckWhy::Undo, _) => format!("moorctl saga retry {id} {name} --undo"),
            (StuckWhy::Unproven, _) => format!("moorctl saga abort {id}"),
        }
    }
}

const fn side_flag(side: Side) -> &'static str {
    match side {
        Side::Do => "",
        Side::Undo => " --undo",
    }
}

/// What is done, or may be, and is not undone.
fn left(plan: &Plan, state: &State) -> Vec<String> {
    let owing = plan.steps.iter().zip(&state.steps).filter(|(step, state)| state.owes(step));
    owing.map(|(step, _)| format!("`{}` ({})", step.name, step.run.act.words())).collect()
}

/// A step as commands name it: by its number from 1, or its name.
#[must_use]
pub fn step_by_words(plan: &Plan, text: &str) -> Option<StepNumber> {
    let by_number = || text.parse::<StepNumber>().ok()?.checked_sub(1).filter(|number| *number < plan.steps.len());
    plan.step_named(text).or_else(by_number)
}
