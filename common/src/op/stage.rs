//! How far an operation is as the hub knows it: its way to the host, then the host's own [`State`].

use std::fmt;

use super::{Outcome, State};

/// How far an operation is, seen from the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The hub keeps it; it was never sent.
    Submitted,
    /// It was sent; the host has not answered.
    Sent,
    /// The host is at it, or has ended it.
    At(State),
    /// The host did not accept it, or did not begin it at its turn.
    Refused,
}

impl Stage {
    /// Every stage, in the order in which they are reached.
    pub const ALL: [Stage; 12] = [
        Stage::Submitted,
        Stage::Sent,
        Stage::At(State::Accepted),
        Stage::At(State::Queued),
        Stage::At(State::Started),
        Stage::At(State::TaskRunning),
        Stage::At(State::Succeeded),
        Stage::At(State::Failed),
        Stage::At(State::Expired),
        Stage::At(State::Cancelled),
        Stage::At(State::Indeterminate),
        Stage::Refused,
    ];

    /// The stage as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Submitted => "submitted",
            Stage::Sent => "sent",
            Stage::At(state) => state.as_str(),
            Stage::Refused => "refused",
        }
    }

    /// The stage behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether the host may still have to be told of it.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Stage::Submitted | Stage::Sent => true,
            Stage::At(state) => !state.is_terminal() && !matches!(state, State::Indeterminate),
            Stage::Refused => false,
        }
    }

    /// Whether nothing more is expected to happen to it by itself.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        !self.is_open()
    }

    /// Whether `next` can be news to somebody who knows of `self`. `by_receipt`: the host signed that. What the host signed
    /// last counts unless it had ended before, by its own signed word (`proven`); what nobody signed never leads back.
    #[must_use]
    pub fn leads_to(self, proven: bool, next: Stage, by_receipt: bool) -> bool {
        match self {
            Stage::Submitted | Stage::Sent | Stage::At(State::Accepted | State::Queued | State::Started | State::TaskRunning) => {
                next > self
            }
            // An operator found out how it ended, or the host knows after all.
            Stage::At(State::Indeterminate) => matches!(next, Stage::At(end) if end.is_terminal()) && by_receipt,
            // What was refused was not done: a host that says later how it ended knows better.
            Stage::Refused => matches!(next, Stage::At(end) if end.is_terminal() || end == State::Indeterminate) && by_receipt,
            // The hub's own word is a guess that the host may correct.
            Stage::At(_) => !proven && by_receipt && next != self && next.is_settled(),
        }
    }
}

impl From<Outcome> for Stage {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Stage::At(State::Succeeded),
            Outcome::Failed => Stage::At(State::Failed),
            Outcome::Expired => Stage::At(State::Expired),
            Outcome::Cancelled => Stage::At(State::Cancelled),
            Outcome::Indeterminate => Stage::At(State::Indeterminate),
            Outcome::Refused => Stage::Refused,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_read_back_as_it_is_written() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.as_str()), Some(stage));
        }
        assert_eq!(Stage::parse("done"), None);
    }

    #[test]
    fn an_operation_goes_forward_and_ends_once() {
        let at = Stage::At;
        let open: Vec<Stage> = Stage::ALL.into_iter().filter(|s| s.is_open()).collect();
        assert_eq!(open.len(), 6);
        for (n, from) in open.iter().enumerate() {
            for (m, to) in Stage::ALL.iter().enumerate() {
                assert_eq!(from.leads_to(false, *to, false), m > n, "{from} to {to}");
            }
        }
        for end in [State::Succeeded, State::Failed, State::Expired, State::Cancelled] {
            for to in Stage::ALL {
                assert!(!at(end).leads_to(true, to, true), "{end} to {to}");
                assert!(!at(end).leads_to(false, to, false), "{end} to {to}");
                assert_eq!(at(end).leads_to(false, to, true), to.is_settled() && to != at(end), "{end} to {to}");
            }
        }
        let ways = |from: Stage| Stage::ALL.into_iter().filter(|to| from.leads_to(true, *to, true)).map(Stage::as_str).collect::<Vec<_>>();
        assert_eq!(ways(at(State::Indeterminate)), ["succeeded", "failed", "expired", "cancelled"]);
        assert_eq!(ways(Stage::Refused), ["succeeded", "failed", "expired", "cancelled", "indeterminate"]);
    }
}
