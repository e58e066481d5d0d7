//! What may follow what.

use super::{Cause, End, Event, Final, Phase, State};
use crate::fault::{Code, Fault};
use crate::saga::answer::is_beyond_mending;
use crate::saga::check::is_hash;
use crate::saga::plan::{ATTEMPTS_MAX, Plan, Side, StepNumber, TRIES_MAX, Task};
use crate::saga::word::Verb;

/// The longest wait between two tries, in milliseconds: an hour.
const BACKOFF_MAX_MS: u64 = 3_600_000;

/// An event that cannot happen to a saga as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Illegal(pub String);

impl From<Illegal> for Fault {
    fn from(illegal: Illegal) -> Self {
        Fault::new(Code::PreconditionFailed, illegal.0)
    }
}

fn illegal<T>(what: impl Into<String>) -> Result<T, Illegal> {
    Err(Illegal(what.into()))
}

impl State {
    /// Takes in what happened at `now_ms`. On an error nothing is changed.
    ///
    /// # Errors
    /// [`Illegal`] for what cannot happen.
    pub fn apply(&mut self, plan: &Plan, event: &Event, now_ms: u64) -> Result<(), Illegal> {
        if self.end.is_some() {
            return illegal(format!("the saga is {}: nothing about it changes any more", self.status(plan)));
        }
        match event {
            Event::Begin { step, side } => self.begin(plan, *step, *side, now_ms)?,
            Event::Wait { step, fault } => self.wait(plan, *step, fault, now_ms)?,
            Event::Ended { step, side, attempt, end } => self.ended(plan, (*step, *side, *attempt), end, now_ms)?,
            Event::Late { step, side } => self.late(plan, *step, *side, now_ms)?,
            Event::Said(verb) => self.said(plan, verb, now_ms)?,
        }
        self.turn(plan);
        Ok(())
    }

    fn begin(&mut self, plan: &Plan, step: StepNumber, side: Side, now_ms: u64) -> Result<(), Illegal> {
        if !self.next(plan, now_ms).begin.contains(&(step, side)) {
            return illegal(format!("it is not the turn of step {}, {side}", step + 1));
        }
        let (task, line) = self.side(plan, step, side)?;
        line.phase = Phase::Under;
        if line.attempt == 0 {
            line.began_ms = now_ms;
        }
        line.attempt = line.attempt.saturating_add(1);
        line.before = line.effect;
        line.effect = true;
        line.at_ms = now_ms;
        line.due_ms = now_ms.saturating_add(task.timeout_s.saturating_mul(1000));
        line.fault = None;
        line.signed = false;
        Ok(())
    }

    /// Notes what a step waits for; its time for an answer runs from the first such note.
    fn wait(&mut self, plan: &Plan, step: StepNumber, fault: &Fault, now_ms: u64) -> Result<(), Illegal> {
        if !self.next(plan, now_ms).begin.contains(&(step, Side::Do)) {
            return illegal(format!("it is not the turn of step {}", step + 1));
        }
        let (task, line) = self.side(plan, step, Side::Do)?;
        let is_first = line.phase == Phase::Again || line.fault.is_none();
        if is_first {
            line.due_ms = now_ms.saturating_add(task.timeout_s.saturating_mul(1000));
        }
        if is_first || line.fault.as_ref() != Some(fault) {
            line.fault = Some(fault.clone());
            line.at_ms = now_ms;
        }
        // Its pause is over: what it waits for now is not the clock.
        line.phase = Phase::Idle;
        Ok(())
    }

    fn ended(&mut self, plan: &Plan, of: (StepNumber, Side, u32), end: &End, now_ms: u64) -> Result<(), Illegal> {
        let (step, side, attempt) = of;
        let (task, line) = self.side(plan, step, side)?;
        let is_open = matches!(line.phase, Phase::Under | Phase::Silent | Phase::Doubt);
        if !is_open || line.attempt != attempt {
            return illegal(format!("try {attempt} of step {}, {side}, is not under way", step + 1));
        }
        line.at_ms = now_ms;
        match end {
            End::Succeeded { output } => {
                line.phase = Phase::Done;
                line.output = output.clone();
                line.fault = None;
                line.signed = true;
            }
            End::Failed { fault, effect, signed, again } => {
                let is_last = !again || attempt >= line.allowed(task);
                line.phase = if is_last { Phase::Failed } else { Phase::Again };
                line.due_ms = now_ms.saturating_add(backoff_ms(task, attempt));
                line.fault = Some(fault.clone());
                // Hosts believe that a step has failed for good when all tries of one signature are used up, or another cannot mend it.
                line.signed = *signed && (attempt >= line.allowed(task) || is_beyond_mending(fault.code));
                line.unbegun = line.unbegun.saturating_add(u32::from(*signed && !effect));
                // What an earlier try may have done stays possible.
                line.effect = *effect || line.before;
            }
            End::Doubt { fault } => {
                line.phase = Phase::Doubt;
                line.fault = Some(fault.clone());
            }
        }
        Ok(())
    }

    fn late(&mut self, plan: &Plan, step: StepNumber, side: Side, now_ms: u64) -> Result<(), Illegal> {
        let waits = self.next(plan, now_ms).begin.contains(&(step, side));
        let (_, line) = self.side(plan, step, side)?;
        match line.phase {
            Phase::Under => {
                line.phase = Phase::Silent;
                line.at_ms = now_ms;
                Ok(())
            }
            Phase::Idle if waits && line.fault.is_some() => {
                line.phase = Phase::Failed;
                line.at_ms = now_ms;
                line.signed = false;
                Ok(())
            }
            Phase::Idle | Phase::Again | Phase::Silent | Phase::Doubt | Phase::Done | Phase::Failed | Phase::Skipped => {
                illegal(format!("step {}, {side}, waits for no answer", step + 1))
            }
        }
    }

    fn said(&mut self, plan: &Plan, verb: &Verb, now_ms: u64) -> Result<(), Illegal> {
        match verb {
            Verb::Retry { step, side, orders } => self.retry(plan, *step, *side, orders, now_ms),
            Verb::Skip { step, side } => self.skip(plan, *step, *side, now_ms),
            Verb::Abort { .. } if self.aborted || self.cause == Some(Cause::Abort) => illegal("the saga goes back already"),
            Verb::Abort { .. } if self.is_past_return(plan) => illegal(
                "a step that cannot be undone may have been done: `moorctl saga retry` goes on, `moorctl saga abandon` leaves all as it is",
            ),
            Verb::Abort { begun } if *begun != self.groups_begun(plan) => {
                illegal(format!("{} groups have begun by now, not {begun} as the word says: sign it anew", self.groups_begun(plan)))
            }
            Verb::Abort { .. } => {
                self.aborted = true;
                Ok(())
            }
            Verb::Abandon => {
                self.end = Some(Final::Abandoned);
                Ok(())
            }
        }
    }

    /// Another try of what has failed for good.
    fn retry(&mut self, plan: &Plan, step: StepNumber, side: Side, orders: &[String], now_ms: u64) -> Result<(), Illegal> {
        self.check_side(step, side, "tried again")?;
        let (task, line) = self.side(plan, step, side)?;
        if line.phase != Phase::Failed {
            return illegal(format!("step {}, {side}, has not failed for good: only what has is tried again", step + 1));
        }
        let more = match task.act.host() {
            Some(_) => u32::try_from(orders.len()).unwrap_or(u32::MAX),
            None => task.attempts,
        };
        if more == 0 || task.act.host().is_none() != orders.is_empty() {
            return illegal("a try on a host needs an order, and one of the hub's none");
        }
        let used = line.allowed(task);
        if more > ATTEMPTS_MAX || used.saturating_add(more) > TRIES_MAX {
            return illegal(format!(
                "one word allows at most {ATTEMPTS_MAX} tries, and {TRIES_MAX} are the most of all: {used} are used up"
            ));
        }
        if !orders.iter().all(|hash| is_hash(hash)) {
            return illegal("an order is named by its payload's hash: 64 of 0-9 and a-f");
        }
        // The tries that are left of those before are used up: hosts count the new orders behind all that were signed before.
        line.attempt = used;
        line.more = line.more.saturating_add(more);
        line.orders.extend(orders.iter().cloned());
        line.phase = Phase::Idle;
        line.fault = None;
        line.at_ms = now_ms;
        line.due_ms = now_ms;
        self.forward_again(side);
        Ok(())
    }

    fn skip(&mut self, plan: &Plan, step: StepNumber, side: Side, now_ms: u64) -> Result<(), Illegal> {
        self.check_side(step, side, "skipped")?;
        let (_, line) = self.side(plan, step, side)?;
        match line.phase {
            Phase::Under => return illegal(format!("step {}, {side}, is under way: wait until it has ended", step + 1)),
            Phase::Done | Phase::Skipped => return illegal(format!("step {}, {side}, needs no more", step + 1)),
            Phase::Idle | Phase::Again | Phase::Silent | Phase::Doubt | Phase::Failed => {}
        }
        line.phase = Phase::Skipped;
        line.at_ms = now_ms;
        self.forward_again(side);
        Ok(())
    }

    /// What is done goes forward, what undoes it back: a saga that cannot prove its failure may still go forward.
    fn check_side(&self, step: StepNumber, side: Side, what: &str) -> Result<(), Illegal> {
        let turned = match self.cause {
            None => false,
            Some(Cause::Abort) => true,
            Some(Cause::Failure { .. }) => self.steps.iter().any(|step| step.undo.attempt > 0),
        };
        match side {
            Side::Do if turned || self.aborted => illegal(format!("the saga goes back: what step {} does is not {what}", step + 1)),
            Side::Undo if self.cause.is_none() => illegal(format!("the saga goes forward: what undoes step {} is not {what}", step + 1)),
            Side::Do | Side::Undo => Ok(()),
        }
    }

    fn forward_again(&mut self, side: Side) {
        if side == Side::Do {
            self.cause = None;
        }
    }

    fn side<'s, 'p>(&'s mut self, plan: &'p Plan, step: StepNumber, side: Side) -> Result<(&'p Task, &'s mut super::Line), Illegal> {
        match (plan.task(step, side), self.steps.get_mut(step)) {
            (Some(task), Some(state)) => Ok((task, state.line_mut(side))),
            _ => illegal(format!("the saga has no step {}, {side}", step.saturating_add(1))),
        }
    }

    /// Turns back, or ends, if that is what comes of what happened.
    fn turn(&mut self, plan: &Plan) {
        if self.end.is_none() && !self.any(Phase::Under) {
            match self.cause {
                // A late answer may bring the signature that was missing.
                None | Some(Cause::Failure { signed: false, .. }) => self.cause = self.reason_to_turn(plan).or(self.cause),
                Some(Cause::Failure { signed: true, .. }) if self.aborted => self.cause = Some(Cause::Abort),
                Some(Cause::Failure { signed: true, .. } | Cause::Abort) => {}
            }
            self.end = self.over(plan);
        }
        if self.end.is_some() {
            self.give_up();
        }
    }

    /// What would have been tried again is not.
    fn give_up(&mut self) {
        for line in self.steps.iter_mut().flat_map(|step| [&mut step.run, &mut step.undo]).filter(|line| line.phase == Phase::Again) {
            line.phase = Phase::Failed;
        }
    }

    fn reason_to_turn(&self, plan: &Plan) -> Option<Cause> {
        if self.is_past_return(plan) {
            return None;
        }
        if self.aborted {
            return Some(Cause::Abort);
        }
        let failed = self.steps.iter().enumerate().filter(|(_, step)| step.run.phase == Phase::Failed);
        let best = failed.max_by_key(|(number, step)| (step.run.signed, std::cmp::Reverse(*number)));
        best.map(|(step, state)| Cause::Failure { step, signed: state.run.signed && self.can_show_no_return(plan) })
    }

    /// Whether hosts have signed that no step that cannot be undone, of the groups that have begun, has had an effect.
    fn can_show_no_return(&self, plan: &Plan) -> bool {
        let begun = self.groups_begun(plan);
        let mut steps = plan.steps.iter().zip(&self.steps).filter(|(step, _)| step.irreversible && step.group < begun);
        steps.all(|(step, state)| state.can_show_no_effect(step))
    }

    fn over(&self, plan: &Plan) -> Option<Final> {
        match self.cause {
            None => self.steps.iter().all(|step| step.run.is_settled()).then_some(Final::Completed),
            Some(Cause::Abort) if !self.has_begun() => Some(Final::Cancelled),
            Some(_) => {
                let owed = plan.steps.iter().zip(&self.steps).any(|(step, state)| state.owes(step));
                // What nobody can tell of may still come to be, where nothing undoes it.
                (!owed).then_some(Final::RolledBack)
            }
        }
    }
}

/// How long to wait after a try, from 1, before the next.
fn backoff_ms(task: &Task, attempt: u32) -> u64 {
    let factor = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    task.backoff_s.saturating_mul(1000).saturating_mul(factor).min(BACKOFF_MAX_MS)
}
