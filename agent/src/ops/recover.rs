//! After a start: every open operation goes on. What had not begun takes its place in its lane again, in the order in which
//! it was accepted; what had begun holds its lane and looks for evidence.

use moorline_common::op::{OpEntry, Origin, State};

use super::{Op, Ops};
use crate::driver::Driver;
use crate::journal::{Journal, JournalError};
use crate::plant::planted;

impl<D: Driver, J: Journal> Ops<D, J> {
    /// Puts all open operations back. To be called before anything else takes places in the lanes.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn recover(&self) -> Result<(), JournalError> {
        crate::crash::point("op.recover.before");
        let shared = &self.shared;
        let mut open: Vec<OpEntry> =
            shared.parts.journal.read(|book| book.open().filter(|e| e.first.origin() == Origin::Operator).cloned().collect());
        open.sort_by_key(|e| if planted("any order after a start") { u64::MAX - e.first.seq } else { e.first.seq });
        let mut found = Vec::with_capacity(open.len());
        for entry in open {
            let envelope = entry.first.grant.as_ref().map(|g| g.envelope.as_str()).unwrap_or_default();
            match Op::read(envelope) {
                Ok(op) => found.push((op, entry)),
                // It was read when it was accepted: only a newer agent's order can be unknown to this one.
                Err(fault) => {
                    tracing::error!(op = entry.first.op_id, %fault, "an open operation cannot be read; it waits for an agent that can")
                }
            }
        }
        let unqueued: Vec<_> = found.iter().filter(|(_, e)| e.state() == State::Accepted).map(|(op, _)| op.entry(State::Queued)).collect();
        if !unqueued.is_empty() {
            shared.append(unqueued).await?;
        }
        for (op, entry) in found {
            if !op.order.act.takes_a_lane() {
                // Recorded whole or not at all: only its last records can be missing.
                shared.finish_about(&op, &entry).await?;
                continue;
            }
            let place = shared.parts.lanes.place_again(op.resource());
            crate::crash::point("op.recover.place");
            let begun = entry.state().has_begun().then_some(entry);
            tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), begun = begun.is_some(), "goes on with an operation");
            shared.spawn(op, place, begun);
            crate::crash::point("op.recover.begun");
        }
        Ok(())
    }
}
