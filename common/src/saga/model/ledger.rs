//! What was tried and what came of it, by nothing but the tries and words themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A try: step, side and number.
pub type Try = (StepNumber, Side, u32);

/// What is known of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet, or not for sure.
    Open,
    Done,
    /// It failed, and may have done something.
    Failed,
    /// It failed, and did nothing.
    Nothing,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub tries: BTreeMap<Try, Fate>,
    pub skipped: BTreeSet<(StepNumber, Side)>,
    /// Tries that words allow, for each side of a step.
    pub more: BTreeMap<(StepNumber, Side), u32>,
}

impl Ledger {
    fn fates(&self, step: StepNumber, side: Side) -> impl Iterator<Item = Fate> {
        self.tries.iter().filter(move |((s, d, _), _)| (*s, *d) == (step, side)).map(|(_, fate)| *fate)
    }

    pub fn is_done(&self, step: StepNumber, side: Side) -> bool {
        self.fates(step, side).any(|fate| fate == Fate::Done)
    }

    pub fn may_be_done(&self, step: StepNumber) -> bool {
        self.fates(step, Side::Do).any(|fate| fate != Fate::Nothing)
    }

    pub fn is_over(&self, step: StepNumber, side: Side) -> bool {
        self.is_done(step, side) || self.skipped.contains(&(step, side))
    }

    /// Something is left that can be undone.
    pub fn owes(&self, plan: &Plan, step: StepNumber) -> bool {
        plan.steps[step].undo.is_some() && self.may_be_done(step) && !self.is_over(step, Side::Undo)
    }

    /// A try begins: is that right?
    pub fn begin(&mut self, plan: &Plan, of: Try) {
        let (step, side, attempt) = of;
        let group = plan.steps[step].group;
        for (number, other) in plan.steps.iter().enumerate() {
            match side {
                Side::Do => {
                    assert!(other.group >= group || self.is_over(number, Side::Do), "{of:?} begins before step {number} is done");
                    assert!(self.tries.keys().all(|(_, side, _)| *side == Side::Do), "{of:?} begins although something was undone");
                }
                Side::Undo => {
                    assert!(other.group <= group || !self.owes(plan, number), "{of:?} is undone before step {number} is");
                    assert!(!other.irreversible || !self.may_be_done(number), "{of:?} is undone past the point of return");
                }
            }
        }
        let task = plan.task(step, side).unwrap();
        let allowed = task.attempts + self.more.get(&(step, side)).copied().unwrap_or(0);
        assert!((1..=allowed).contains(&attempt), "{of:?}: {allowed} are allowed");
        assert!(!self.is_done(step, side), "{of:?} is done already");
        assert!(self.fates(step, side).all(|fate| fate != Fate::Open), "{of:?} begins while another is under way");
        assert_eq!(self.tries.insert(of, Fate::Open), None, "{of:?} begins twice");
    }

    /// The saga ended so: is that right?
    pub fn end(&self, plan: &Plan, status: Status) {
        let steps = 0..plan.steps.len();
        match status {
            Status::Completed => {
                for step in steps {
                    assert!(self.is_over(step, Side::Do), "completed, but step {step} is not done");
                }
            }
            Status::RolledBack => {
                for step in steps {
                    assert!(!self.owes(plan, step), "rolled back, but step {step} is left");
                    assert!(!plan.steps[step].irreversible || !self.may_be_done(step), "rolled back past the point of return");
                }
            }
            Status::Cancelled => assert!(self.tries.is_empty(), "cancelled after something began"),
            Status::Abandoned => {}
            Status::Pending | Status::Running | Status::Compensating | Status::Stuck => panic!("{status} is no end"),
        }
    }
}
