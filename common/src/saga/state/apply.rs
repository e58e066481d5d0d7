//! What may follow what.

use super::{Cause, End, Event, Final, Phase, State};
use crate::fault::{Code, Fault};
use crate::saga::plan::{Plan, Side, StepNumber, Task};
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
        if line.fault.as_ref() != Some(fault) {
            line.fault = Some(fault.clone());
            line.at_ms = now_ms;
        }
        if line.due_ms <= now_ms {
            line.due_ms = now_ms.saturating_add(task.timeout_s.saturating_mul(1000));
        }
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
                line.signed = *signed;
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
            Phase::Idle | Phase::Again if waits && line.fault.is_some() => {
                line.phase = Phase::Failed;
                line.at_ms = now_ms;
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
        // The tries that are left of those before are used up: their orders stand before the new ones.
        line.more = line.attempt.max(task.attempts).saturating_sub(task.attempts).saturating_add(more);
        let kept = usize::try_from(line.attempt.saturating_sub(task.attempts)).unwrap_or(usize::MAX);
        line.orders.truncate(kept);
        line.orders.extend(orders.iter().cloned());
        line.attempt = line.attempt.max(task.attempts);
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
            if self.cause.is_none() {
                self.cause = self.reason_to_turn(plan);
            } else if self.aborted && !self.is_past_return(plan) {
                self.cause = Some(Cause::Abort);
            }
            self.end = self.over(plan);
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
        best.map(|(step, state)| Cause::Failure { step, signed: state.run.signed })
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
