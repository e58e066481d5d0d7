//! How far one session has come with a host's operations. One task at a time works on it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use moorline_common::id::OpId;
use moorline_common::op::Outcome;

use crate::limits;

/// The state of delivery in one session.
#[derive(Debug, Default)]
pub struct Delivery(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether a task is at it.
    running: bool,
    /// Whether there may be more than that task has seen.
    again: bool,
    /// Whether all was sent that there was.
    drained: bool,
    /// The last operation that was sent in this session, by its place in the order of submission.
    cursor: u64,
    /// Receipts that are kept, and of which the host is to be told.
    acks: VecDeque<(OpId, Outcome)>,
}

impl Delivery {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there is a new operation for the host.
    pub fn news(&self) {
        self.lock().drained = false;
    }

    /// Notes an acknowledgement. `false` when too many wait.
    pub fn ack(&self, op_id: OpId, outcome: Outcome) -> bool {
        let mut inner = self.lock();
        if inner.acks.len() >= limits::OP_ACKS_MAX {
            return false;
        }
        inner.acks.push_back((op_id, outcome));
        true
    }

    /// Whether the caller is to begin: there is work, and nobody is at it.
    #[must_use]
    pub fn begin(&self) -> bool {
        let mut inner = self.lock();
        if inner.running {
            // It may have looked before what the caller knows of.
            inner.again = true;
            return false;
        }
        if inner.drained && inner.acks.is_empty() {
            return false;
        }
        inner.running = true;
        true
    }

    /// Whether there is work at which nobody is.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let inner = self.lock();
        !(inner.running || inner.drained && inner.acks.is_empty())
    }

    /// The next acknowledgement.
    #[must_use]
    pub fn next_ack(&self) -> Option<(OpId, Outcome)> {
        self.lock().acks.pop_front()
    }

    /// The last operation that was sent.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.lock().cursor
    }

    /// An operation was sent, or is not to be.
    pub fn passed(&self, sequence: u64) {
        self.lock().cursor = sequence;
    }

    /// All is about to be looked at: what comes from now on is news. `true` when there may be operations that were not sent.
    #[must_use]
    pub fn look(&self) -> bool {
        let mut inner = self.lock();
        inner.again = false;
        !std::mem::replace(&mut inner.drained, true)
    }

    /// Ends the caller's turn, with something left to be done at a later one or not. `false` when it is to go on.
    #[must_use]
    pub fn end(&self, is_left: bool) -> bool {
        let mut inner = self.lock();
        inner.drained &= !is_left;
        let is_over = is_left || inner.acks.is_empty() && inner.drained;
        if inner.again || !is_over {
            return false;
        }
        inner.running = false;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_looked_at_again_also_when_more_was_asked_for_meanwhile() {
        let delivery = Delivery::default();
        assert!(delivery.begin() && delivery.look());
        assert!(!delivery.begin());
        assert!(!delivery.end(true) && delivery.look());
        assert!(delivery.end(true) && delivery.is_waiting());
        assert!(delivery.begin() && delivery.look() && delivery.end(false));
    }

    #[test]
    fn an_acknowledgement_alone_is_no_operation() {
        let delivery = Delivery::default();
        assert!(delivery.begin() && delivery.look() && delivery.end(false));
        assert!(delivery.ack(OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap(), Outcome::Succeeded));
        assert!(delivery.begin() && !delivery.look());
        delivery.news();
        assert!(delivery.next_ack().is_some() && !delivery.end(false) && delivery.look());
    }
}
