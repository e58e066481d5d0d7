//! The life of an operation: its states, what may follow what, and what a journal says about all of them.
//!
//! ```text
//! accepted → queued → started → task_running → succeeded | failed
//!     └─ expired | cancelled ─┘    └──── indeterminate ──── resolved by an operator
//! ```
//!
//! [`State::after`] is the only place that knows what is legal. The agent asks it before a record is written, and
//! [`Book::fold`] asks it again for each record that is read back: live and replayed histories cannot differ.

use std::fmt;

use serde::{Deserialize, Serialize};

mod act;
mod book;
mod class;
pub mod guest;
mod order;
mod receipt;
mod record;
mod stage;

pub use act::{Act, Confirm, Converge, Exec, GRACE_MAX_S, Survey};
pub use book::{Book, BookError, Ended, Hold, KeyUse, OpEntry, Part};
pub use class::Class;
pub use guest::GuestOp;
pub use order::{OP_ENVELOPE_MAX, OP_SKEW_S, OP_WINDOW_MAX_S, OpStatement, Order, Precondition};
pub use receipt::{Outcome, Receipt};
pub use record::{Grant, HoldEffect, Record};
pub use stage::Stage;

/// Where an operation or a step of a reconcile pass is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its signed order was checked and is kept.
    Accepted,
    /// It waits in its lane.
    Queued,
    /// Its side effect may begin any moment.
    Started,
    /// The engine works on it, under a name that survives the agent.
    TaskRunning,
    /// It is done.
    Succeeded,
    /// It has ended otherwise.
    Failed,
    /// Its last moment passed before it began.
    Expired,
    /// It was taken back, or refused at its turn, before it began.
    Cancelled,
    /// It began, and nothing proves how it ended. An operator must look.
    Indeterminate,
}

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A signed order passed every check.
    Accept,
    /// It was put in its lane.
    Queue,
    /// Its side effect begins: for the first time, or again after its absence was proven.
    Start,
    /// The engine named its running work.
    Run,
    /// It is done, or an operator found that it was.
    Succeed,
    /// It ended otherwise, or an operator found that it had.
    Fail,
    /// Its last moment passed.
    Expire,
    /// An operator took it back, or it was refused at its turn.
    Cancel,
    /// Nothing proves how it ended.
    Lose,
    /// The hub has the receipt of how it ended.
    Acknowledge,
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot happen to an operation that is {}", from.map_or("not known", State::as_str))]
pub struct Illegal {
    /// The state that it is in; `None` for one that nobody has heard of.
    pub from: Option<State>,
    /// What was to happen.
    pub event: Event,
}

/// Whose rules apply: what an operator orders is accepted first; what a slice implies just begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A signed one-shot operation.
    Operator,
    /// A step of a reconcile pass.
    Slice,
}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Accepted,
        State::Queued,
        State::Started,
        State::TaskRunning,
        State::Succeeded,
        State::Failed,
        State::Expired,
        State::Cancelled,
        State::Indeterminate,
    ];

    /// The state after `event` in the state `from`.
    ///
    /// # Errors
    /// [`Illegal`] for what cannot happen.
    pub const fn after(from: Option<State>, event: Event, origin: Origin) -> Result<State, Illegal> {
        let next = match (origin, from, event) {
            (Origin::Operator, None, Event::Accept) => Some(State::Accepted),
            (Origin::Operator, Some(State::Accepted), Event::Queue) => Some(State::Queued),
            (Origin::Operator, Some(State::Accepted | State::Queued), Event::Expire) => Some(State::Expired),
            (Origin::Operator, Some(State::Accepted | State::Queued), Event::Cancel) => Some(State::Cancelled),
            (Origin::Operator, Some(State::Queued | State::Started), Event::Start) | (Origin::Slice, None, Event::Start) => {
                Some(State::Started)
            }
            (_, Some(State::Started | State::TaskRunning), Event::Run) => Some(State::TaskRunning),
            (_, Some(State::Started | State::TaskRunning), Event::Succeed) => Some(State::Succeeded),
            (_, Some(State::Started | State::TaskRunning), Event::Fail) => Some(State::Failed),
            (Origin::Operator, Some(State::Started | State::TaskRunning), Event::Lose) => Some(State::Indeterminate),
            (Origin::Operator, Some(State::Indeterminate), Event::Succeed) => Some(State::Succeeded),
            (Origin::Operator, Some(State::Indeterminate), Event::Fail) => Some(State::Failed),
            (Origin::Operator, Some(state), Event::Acknowledge) if state.is_terminal() => Some(state),
            _ => None,
        };
        match next {
            Some(state) => Ok(state),
            None => Err(Illegal { from, event }),
        }
    }

    /// The event that leads to this state.
    #[must_use]
    pub const fn event(self) -> Event {
        match self {
            State::Accepted => Event::Accept,
            State::Queued => Event::Queue,
            State::Started => Event::Start,
            State::TaskRunning => Event::Run,
            State::Succeeded => Event::Succeed,
            State::Failed => Event::Fail,
            State::Expired => Event::Expire,
            State::Cancelled => Event::Cancel,
            State::Indeterminate => Event::Lose,
        }
    }

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            State::Succeeded | State::Failed | State::Expired | State::Cancelled => true,
            State::Accepted | State::Queued | State::Started | State::TaskRunning | State::Indeterminate => false,
        }
    }

    /// Whether its effect may have begun.
    #[must_use]
    pub const fn has_begun(self) -> bool {
        match self {
            State::Started | State::TaskRunning | State::Succeeded | State::Failed | State::Indeterminate => true,
            State::Accepted | State::Queued | State::Expired | State::Cancelled => false,
        }
    }

    /// The state as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Accepted => "accepted",
            State::Queued => "queued",
            State::Started => "started",
            State::TaskRunning => "task_running",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Expired => "expired",
            State::Cancelled => "cancelled",
            State::Indeterminate => "indeterminate",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Event::Accept => "accept",
            Event::Queue => "queue",
            Event::Start => "start",
            Event::Run => "run",
            Event::Succeed => "succeed",
            Event::Fail => "fail",
            Event::Expire => "expire",
            Event::Cancel => "cancel",
            Event::Lose => "lose track",
            Event::Acknowledge => "acknowledge",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table for operations: rows are states, columns events in the order of [`State::ALL`].
    const TABLE: [(&str, &str); 10] = [
        ("none", "accepted . . . . . . . ."),
        ("accepted", ". queued . . . . expired cancelled ."),
        ("queued", ". . started . . . expired cancelled ."),
        ("started", ". . started task_running succeeded failed . . indeterminate"),
        ("task_running", ". . . task_running succeeded failed . . indeterminate"),
        ("succeeded", ". . . . . . . . ."),
        ("failed", ". . . . . . . . ."),
        ("expired", ". . . . . . . . ."),
        ("cancelled", ". . . . . . . . ."),
        ("indeterminate", ". . . . succeeded failed . . ."),
    ];

    fn row(from: Option<State>, origin: Origin) -> String {
        let cell = |to: State| State::after(from, to.event(), origin).map_or(".", State::as_str);
        State::ALL.map(cell).join(" ")
    }

    #[test]
    fn what_may_follow_what_is_this_table() {
        for (n, (name, expected)) in TABLE.iter().enumerate() {
            let from = n.checked_sub(1).map(|n| State::ALL[n]);
            assert_eq!(from.map_or("none", State::as_str), *name);
            assert_eq!(row(from, Origin::Operator), *expected, "from {name}");
        }
    }

    #[test]
    fn a_step_of_a_slice_just_begins_and_is_never_in_doubt() {
        assert_eq!(row(None, Origin::Slice), ". . started . . . . . .");
        assert_eq!(row(Some(State::Started), Origin::Slice), ". . . task_running succeeded failed . . .");
        assert_eq!(row(Some(State::TaskRunning), Origin::Slice), ". . . task_running succeeded failed . . .");
    }

    #[test]
    fn only_how_an_operation_ended_is_acknowledged_and_that_ends_nothing_anew() {
        for state in State::ALL {
            let acknowledged = State::after(Some(state), Event::Acknowledge, Origin::Operator);
            assert_eq!(acknowledged.ok(), state.is_terminal().then_some(state));
            assert!(State::after(Some(state), Event::Acknowledge, Origin::Slice).is_err());
        }
    }

    #[test]
    fn nothing_follows_an_end_and_what_is_refused_says_why() {
        for state in State::ALL.into_iter().filter(|s| s.is_terminal()) {
            assert_eq!(row(Some(state), Origin::Operator), ". . . . . . . . .");
        }
        let refused = State::after(Some(State::Succeeded), Event::Start, Origin::Operator).unwrap_err();
        assert_eq!(refused.to_string(), "`start` cannot happen to an operation that is succeeded");
        assert_eq!(
            State::after(None, Event::Queue, Origin::Operator).unwrap_err().to_string(),
            "`queue` cannot happen to an operation that is not known"
        );
    }
}
