//! What has happened to a saga, what is next, and why nothing is.
//!
//! [`State::apply`] is the only place that knows what may follow what; [`State::next`] the only one that knows whose turn it
//! is. Both are pure: the hub asks them before it writes, and again after it has read what it wrote.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Plan, Side, Step, StepNumber, Task};
use super::word::Verb;
use crate::fault::Fault;

mod apply;
mod next;

pub use apply::Illegal;
pub use next::{Next, Stuck, StuckWhy};

/// Where a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing has begun.
    Pending,
    /// Its steps are being done.
    Running,
    /// What was done is being undone.
    Compensating,
    /// All is done.
    Completed,
    /// All that was done is undone.
    RolledBack,
    /// It goes on by itself no more, or only when something outside of it changes.
    Stuck,
    /// It was taken back before anything began.
    Cancelled,
    /// An operator left it as it was.
    Abandoned,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 8] = [
        Status::Pending,
        Status::Running,
        Status::Compensating,
        Status::Completed,
        Status::RolledBack,
        Status::Stuck,
        Status::Cancelled,
        Status::Abandoned,
    ];

    /// The status as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Compensating => "compensating",
            Status::Completed => "completed",
            Status::RolledBack => "rolled_back",
            Status::Stuck => "stuck",
            Status::Cancelled => "cancelled",
            Status::Abandoned => "abandoned",
        }
    }

    /// The status behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Status::Completed | Status::RolledBack | Status::Cancelled | Status::Abandoned => true,
            Status::Pending | Status::Running | Status::Compensating | Status::Stuck => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Its turn has not come.
    Pending,
    /// It is being done, or being undone, or nobody knows how that ended.
    Running,
    /// It is done.
    Completed,
    /// It ended otherwise, for good.
    Failed,
    /// It is undone.
    Compensated,
    /// An operator took it out.
    Skipped,
}

impl StepStatus {
    /// The status as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StepStatus::Pending => "pending",
            StepStatus::Running => "running",
            StepStatus::Completed => "completed",
            StepStatus::Failed => "failed",
            StepStatus::Compensated => "compensated",
            StepStatus::Skipped => "skipped",
        }
    }
}

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a saga ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Final {
    /// All is done.
    Completed,
    /// All that was done is undone.
    RolledBack,
    /// Nothing had begun.
    Cancelled,
    /// An operator left it as it was.
    Abandoned,
}

/// Why a saga goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Cause {
    /// A step failed for good.
    Failure {
        /// Which.
        step: StepNumber,
        /// Whether its host signed that.
        signed: bool,
    },
    /// An operator said so.
    Abort,
}

/// Where one side of a step is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has not begun.
    #[default]
    Idle,
    /// A try is under way: it may have an effect any moment.
    Under,
    /// A try has had no answer in time. It may come yet.
    Silent,
    /// A try began, and its host cannot tell how it ended. An operator must say so.
    Doubt,
    /// A try failed, and another one follows.
    Again,
    /// It is done.
    Done,
    /// Its last try failed.
    Failed,
    /// An operator took it out.
    Skipped,
}

impl Phase {
    /// The phase as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Under => "under",
            Phase::Silent => "silent",
            Phase::Doubt => "doubt",
            Phase::Again => "again",
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Skipped => "skipped",
        }
    }
}

/// One side of a step so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Where it is.
    pub phase: Phase,
    /// How many tries have begun.
    #[serde(default)]
    pub attempt: u32,
    /// How many tries operators have allowed beyond the plan's.
    #[serde(default)]
    pub more: u32,
    /// The hashes of the orders for these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// Whether a try may have had an effect.
    #[serde(default)]
    pub effect: bool,
    /// Whether one before this one may have had.
    #[serde(default)]
    pub before: bool,
    /// How many tries their host signed that it did not begin.
    #[serde(default)]
    pub unbegun: u32,
    /// When the first try began, in milliseconds since 1970 by the hub's clock; 0 before that.
    #[serde(default)]
    pub began_ms: u64,
    /// When this last changed, the same.
    #[serde(default)]
    pub at_ms: u64,
    /// When the next try may begin, or the answer to this one is late; the same.
    #[serde(default)]
    pub due_ms: u64,
    /// Why it did not succeed, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Whether a host signed how the last try ended, and others believe by that how the step did.
    #[serde(default)]
    pub signed: bool,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
}

/// A step so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepState {
    /// What it does.
    pub run: Line,
    /// What undoes it.
    pub undo: Line,
}

/// A saga so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Its steps, as in the plan.
    pub steps: Vec<StepState>,
    /// Why it goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// An operator wants it to go back as soon as no try is under way.
    #[serde(default)]
    pub aborted: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Final>,
}

/// How a try ended, or that nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is done.
    Succeeded {
        /// What came of it.
        output: Value,
    },
    /// It ended otherwise.
    Failed {
        /// Why.
        fault: Fault,
        /// Whether it may have had an effect nevertheless.
        effect: bool,
        /// Whether its host signed that.
        signed: bool,
        /// Whether another try makes sense.
        again: bool,
    },
    /// Its host cannot tell.
    Doubt {
        /// In its words.
        fault: Fault,
    },
}

/// What happens to a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next try of one side of a step is about to begin.
    Begin {
        /// The step.
        step: StepNumber,
        /// Which side of it.
        side: Side,
    },
    /// A condition of a step does not hold yet.
    Wait {
        /// The step.
        step: StepNumber,
        /// What it waits for.
        fault: Fault,
    },
    /// How a try ended is known.
    Ended {
        /// The step.
        step: StepNumber,
        /// Which side of it.
        side: Side,
        /// Which try.
        attempt: u32,
        /// How.
        end: End,
    },
    /// A try has no answer in its time, or a condition did not come to hold.
    Late {
        /// The step.
        step: StepNumber,
        /// Which side of it.
        side: Side,
    },
    /// An operator has spoken.
    Said(Verb),
}

impl Line {
    /// Whether nothing more will be done for it.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        match self.phase {
            Phase::Done | Phase::Skipped => true,
            Phase::Idle | Phase::Under | Phase::Silent | Phase::Doubt | Phase::Again | Phase::Failed => false,
        }
    }

    /// How many tries are allowed.
    #[must_use]
    pub fn allowed(&self, task: &Task) -> u32 {
        task.attempts.saturating_add(self.more)
    }

    /// The hash of the order for a try, from 1, if it is done on a host.
    #[must_use]
    pub fn order<'a>(&'a self, task: &'a Task, attempt: u32) -> Option<&'a str> {
        let signed = task.act.host().map_or(&[][..], |act| act.orders.as_slice());
        let at = usize::try_from(attempt.checked_sub(1)?).ok()?;
        signed.get(at).or_else(|| self.orders.get(at.checked_sub(signed.len())?)).map(String::as_str)
    }
}

impl StepState {
    /// One side of it.
    #[must_use]
    pub const fn line(&self, side: Side) -> &Line {
        match side {
            Side::Do => &self.run,
            Side::Undo => &self.undo,
        }
    }

    fn line_mut(&mut self, side: Side) -> &mut Line {
        match side {
            Side::Do => &mut self.run,
            Side::Undo => &mut self.undo,
        }
    }

    /// Whether there is something to undo that is not undone.
    #[must_use]
    pub fn owes(&self, step: &Step) -> bool {
        step.undo.is_some() && self.run.effect && !self.undo.is_settled()
    }

    /// Whether its host has signed for every order that it did not begin.
    #[must_use]
    pub fn can_show_no_effect(&self, step: &Step) -> bool {
        !self.run.effect && step.run.act.host().is_some() && self.run.unbegun >= self.run.allowed(&step.run)
    }

    /// Where the step stands.
    #[must_use]
    pub const fn status(&self) -> StepStatus {
        // Where nothing was done, nothing was undone: its host only said so.
        let undo = if matches!(self.undo.phase, Phase::Done) && !self.run.effect { Phase::Idle } else { self.undo.phase };
        match (undo, self.run.phase) {
            (Phase::Done, _) => StepStatus::Compensated,
            (Phase::Skipped, _) | (Phase::Idle, Phase::Skipped) => StepStatus::Skipped,
            (Phase::Failed, _) | (Phase::Idle, Phase::Failed) => StepStatus::Failed,
            (Phase::Under | Phase::Silent | Phase::Doubt | Phase::Again, _) => StepStatus::Running,
            (Phase::Idle, Phase::Idle) => StepStatus::Pending,
            (Phase::Idle, Phase::Under | Phase::Silent | Phase::Doubt | Phase::Again) => StepStatus::Running,
            (Phase::Idle, Phase::Done) => StepStatus::Completed,
        }
    }
}

impl State {
    /// A saga of which nothing has begun.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { steps: vec![StepState::default(); plan.steps.len()], ..Self::default() }
    }

    /// One side of a step.
    #[must_use]
    pub fn line(&self, step: StepNumber, side: Side) -> Option<&Line> {
        self.steps.get(step).map(|state| state.line(side))
    }

    /// Every side of every step, in order.
    pub fn lines(&self) -> impl Iterator<Item = (StepNumber, Side, &Line)> {
        self.steps.iter().enumerate().flat_map(|(number, step)| [(number, Side::Do, &step.run), (number, Side::Undo, &step.undo)])
    }

    /// Whether some side of a step is in this phase.
    #[must_use]
    pub fn any(&self, phase: Phase) -> bool {
        self.lines().any(|(_, _, line)| line.phase == phase)
    }

    /// Whether anything has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.steps.iter().any(|step| step.run.attempt > 0)
    }

    /// How many groups have begun.
    #[must_use]
    pub fn groups_begun(&self, plan: &Plan) -> u32 {
        let begun = plan.steps.iter().zip(&self.steps).filter(|(_, state)| state.run.attempt > 0);
        begun.map(|(step, _)| step.group.saturating_add(1)).max().unwrap_or(0)
    }

    /// Whether a step that cannot be undone may have had its effect.
    #[must_use]
    pub fn is_past_return(&self, plan: &Plan) -> bool {
        plan.steps.iter().zip(&self.steps).any(|(step, state)| step.irreversible && state.run.effect)
    }

    /// Where the saga stands.
    #[must_use]
    pub fn status(&self, plan: &Plan) -> Status {
        match self.end {
            Some(Final::Completed) => Status::Completed,
            Some(Final::RolledBack) => Status::RolledBack,
            Some(Final::Cancelled) => Status::Cancelled,
            Some(Final::Abandoned) => Status::Abandoned,
            None if self.stuck(plan).is_some() => Status::Stuck,
            None if self.cause.is_some() => Status::Compensating,
            None if self.has_begun() => Status::Running,
            None => Status::Pending,
        }
    }
}
