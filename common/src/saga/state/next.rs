//! Whose turn it is, and why nobody's.

use super::{Cause, Phase, State};
use crate::saga::plan::{Plan, Side, Step, StepNumber};

/// What a saga does next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// What may begin now.
    pub begin: Vec<(StepNumber, Side)>,
    /// When to ask again at the latest, in milliseconds since 1970; `None` when only an event changes anything.
    pub wake_ms: Option<u64>,
    /// Whose answer is late.
    pub late: Vec<(StepNumber, Side)>,
}

/// Why a saga goes on by itself no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// Why.
    pub why: StuckWhy,
    /// The step that it is about.
    pub step: StepNumber,
    /// Which side of it.
    pub side: Side,
}

/// See [`Stuck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StuckWhy {
    /// A host cannot tell how a try ended.
    Doubt,
    /// A host has not answered in time.
    Silent,
    /// A step failed after one that cannot be undone.
    PastReturn,
    /// What undoes a step failed for good.
    Undo,
    /// A host is to undo something, and there is neither a failure that a host signed nor an abort that an operator did.
    Unproven,
}

impl StuckWhy {
    /// The reason as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StuckWhy::Doubt => "doubt",
            StuckWhy::Silent => "silent",
            StuckWhy::PastReturn => "past_return",
            StuckWhy::Undo => "undo",
            StuckWhy::Unproven => "unproven",
        }
    }
}

impl State {
    /// What is next at `now_ms`.
    #[must_use]
    pub fn next(&self, plan: &Plan, now_ms: u64) -> Next {
        let mut next = Next::default();
        if self.end.is_some() {
            return next;
        }
        let mut wake = |at: u64| next.wake_ms = Some(next.wake_ms.map_or(at, |wake| wake.min(at)));
        for (step, side, line) in self.lines() {
            if line.phase == Phase::Under {
                if line.due_ms <= now_ms {
                    next.late.push((step, side));
                } else {
                    wake(line.due_ms);
                }
            }
        }
        for (step, side) in self.turns(plan) {
            let Some(line) = self.line(step, side) else { continue };
            match line.phase {
                Phase::Idle => {
                    next.begin.push((step, side));
                    if line.fault.is_some() {
                        if line.due_ms <= now_ms {
                            next.late.push((step, side));
                        } else {
                            wake(line.due_ms);
                        }
                    }
                }
                Phase::Again if line.due_ms <= now_ms => next.begin.push((step, side)),
                Phase::Again => wake(line.due_ms),
                Phase::Under | Phase::Silent | Phase::Doubt | Phase::Done | Phase::Failed | Phase::Skipped => {}
            }
        }
        next
    }

    /// What could begin, were it not for the time.
    fn turns(&self, plan: &Plan) -> Vec<(StepNumber, Side)> {
        match self.cause {
            None if self.aborted => Vec::new(),
            None => self.forward(plan),
            Some(cause) => self.back(plan, cause),
        }
    }

    fn forward(&self, plan: &Plan) -> Vec<(StepNumber, Side)> {
        let group = plan.steps.iter().zip(&self.steps).find(|(_, state)| !state.run.is_settled()).map(|(step, _)| step.group);
        let Some(group) = group else { return Vec::new() };
        let members = || plan.group(group).filter_map(|(number, _)| Some((number, self.steps.get(number)?)));
        // One that failed, or of which nobody can tell, lets nothing further begin.
        if members().any(|(_, state)| matches!(state.run.phase, Phase::Failed | Phase::Doubt | Phase::Silent)) {
            return Vec::new();
        }
        let waits = members().filter(|(_, state)| matches!(state.run.phase, Phase::Idle | Phase::Again));
        waits.map(|(number, _)| (number, Side::Do)).collect()
    }

    fn back(&self, plan: &Plan, cause: Cause) -> Vec<(StepNumber, Side)> {
        let Some(group) = self.owing_group(plan) else { return Vec::new() };
        let owing = plan.group(group).filter(|(number, _)| self.must_undo(plan, *number));
        let provable = owing.filter(|(_, step)| is_proof(cause) || step.undo.as_ref().is_none_or(|undo| undo.act.host().is_none()));
        provable.map(|(number, _)| (number, Side::Undo)).collect()
    }

    /// The last group in which there is something to undo.
    fn owing_group(&self, plan: &Plan) -> Option<u32> {
        plan.steps.iter().enumerate().rev().find(|(number, _)| self.must_undo(plan, *number)).map(|(_, step)| step.group)
    }

    /// Whether what undoes a step is to be done: because there is something to undo, or because hosts that undo earlier steps must
    /// be shown that there is nothing. Where a step never began its host says just that.
    fn must_undo(&self, plan: &Plan, number: StepNumber) -> bool {
        let (Some(step), Some(state)) = (plan.steps.get(number), self.steps.get(number)) else { return false };
        let by_host = |step: &Step| step.undo.as_ref().is_some_and(|undo| undo.act.host().is_some());
        let is_asked_for = || {
            let mut earlier = plan.steps.iter().zip(&self.steps).filter(|(earlier, _)| earlier.group < step.group);
            earlier.any(|(earlier, state)| by_host(earlier) && state.owes(earlier))
        };
        state.owes(step)
            || by_host(step)
                && !state.undo.is_settled()
                && step.group < self.groups_begun(plan)
                && !state.can_show_no_effect(step)
                && is_asked_for()
    }

    /// Why it goes on by itself no more; `None` while it does, or has ended.
    #[must_use]
    pub fn stuck(&self, plan: &Plan) -> Option<Stuck> {
        if self.end.is_some() || self.any(Phase::Under) || !self.waiting(plan).is_empty() {
            return None;
        }
        let find = |side: Side, phase: Phase| self.lines().find(|(_, s, line)| *s == side && line.phase == phase).map(|(step, ..)| step);
        let found = |side: Side, why: StuckWhy, phase: Phase| find(side, phase).map(|step| Stuck { why, step, side });
        if self.cause.is_none() {
            return found(Side::Do, StuckWhy::Doubt, Phase::Doubt)
                .or_else(|| found(Side::Do, StuckWhy::Silent, Phase::Silent))
                .or_else(|| found(Side::Do, StuckWhy::PastReturn, Phase::Failed));
        }
        let silent = || {
            let stuck = found(Side::Undo, StuckWhy::Silent, Phase::Silent)?;
            // It may wait on its host until an operator has said how that ended which it undoes.
            let is_behind = self.line(stuck.step, Side::Do).is_some_and(|line| line.phase == Phase::Doubt);
            Some(if is_behind { Stuck { why: StuckWhy::Doubt, ..stuck } } else { stuck })
        };
        found(Side::Undo, StuckWhy::Doubt, Phase::Doubt)
            .or_else(silent)
            .or_else(|| found(Side::Undo, StuckWhy::Undo, Phase::Failed))
            .or_else(|| {
                let owing = plan.steps.iter().zip(&self.steps).rposition(|(step, state)| state.owes(step))?;
                Some(Stuck { why: StuckWhy::Unproven, step: owing, side: Side::Undo })
            })
    }

    /// What is about to begin, now or after a wait.
    fn waiting(&self, plan: &Plan) -> Vec<(StepNumber, Side)> {
        let waits = |(step, side): &(StepNumber, Side)| {
            self.line(*step, *side).is_some_and(|line| matches!(line.phase, Phase::Idle | Phase::Again))
        };
        self.turns(plan).into_iter().filter(waits).collect()
    }
}

/// Whether hosts undo something for it.
const fn is_proof(cause: Cause) -> bool {
    match cause {
        Cause::Failure { signed, .. } => signed,
        Cause::Abort => true,
    }
}
