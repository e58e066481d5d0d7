//! After a start: every open operation goes on. What had not begun takes its place in its lane again, in the order in which
//! it was accepted; what had begun holds its lane and looks for evidence.

use std::sync::Arc;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{OpId, ResourceId};
use moorline_common::op::{OpEntry, Origin, State};
use tokio::sync::oneshot;

use super::admit::entry_of;
use super::carry::Came;
use super::{Op, Ops, Shared};
use crate::driver::Driver;
use crate::journal::{Entry, Journal, JournalError};
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
        let no_grant = || Fault::new(Code::BadEnvelope, "its acceptance has no order");
        let read = |e: &OpEntry| e.first.grant.as_ref().ok_or_else(no_grant).and_then(Op::read);
        let found: Vec<(Result<Op, Fault>, OpEntry)> = open.into_iter().map(|e| (read(&e), e)).collect();
        let accepted = found.iter().filter(|(_, e)| e.state() == State::Accepted);
        let unqueued: Vec<_> = accepted.filter_map(|(op, _)| op.as_ref().ok()).map(|op| op.entry(State::Queued)).collect();
        if !unqueued.is_empty() {
            shared.append(unqueued).await?;
        }
        for (op, entry) in found {
            let op = match op {
                Ok(op) => op,
                Err(fault) => {
                    shared.recover_unread(&entry, &fault).await?;
                    continue;
                }
            };
            if entry.first.grant.as_ref().is_some_and(|grant| grant.nothing) {
                shared.finish_nothing(&op, &entry).await?;
                continue;
            }
            if !op.order.act.takes_a_lane() {
                // Recorded whole or not at all: only its last records can be missing.
                shared.finish_about(&op, &entry).await?;
                continue;
            }
            let has_begun = entry.state().has_begun();
            tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), has_begun, "goes on with an operation");
            if has_begun {
                let place = shared.parts.lanes.place_again(&op.lane());
                crate::crash::point("op.recover.place");
                shared.spawn(op, place, Came::Begun(Box::new(entry)));
                crate::crash::point("op.recover.begun");
            } else {
                shared.recovered().push(op);
            }
        }
        let waiting = shared.clone();
        shared.running.spawn(async move {
            if waiting.stopping.run_until_cancelled(waiting.current.cancelled()).await.is_some() {
                waiting.place_recovered();
            }
        });
        Ok(())
    }
}

impl<D: Driver, J: Journal> Shared<D, J> {
    /// What had not begun before this start takes its place again, before anything newer does.
    pub(super) fn place_recovered(self: &Arc<Self>) {
        let mut recovered = self.recovered();
        // What was taken back meanwhile needs no place.
        for op in recovered.drain(..).filter(|op| self.state(op.id()) == Some(State::Queued)) {
            let place = self.parts.lanes.place_again(&op.lane());
            self.spawn(op, place, Came::Accepted);
        }
    }

    /// An order that was accepted by another version of the agent, and that this one cannot read. What had not begun is refused,
    /// as it would be at the door. What had begun is in doubt: it holds its lane until an operator has resolved it.
    async fn recover_unread(self: &Arc<Self>, entry: &OpEntry, fault: &Fault) -> Result<(), JournalError> {
        tracing::error!(op = entry.first.op_id, resource = entry.first.resource, %fault, "an open operation cannot be read");
        let (wake, woken) = oneshot::channel();
        let state = if entry.state().has_begun() { State::Indeterminate } else { State::Cancelled };
        let resource = match entry_of(entry, state) {
            Ok(end) if !entry.state().has_begun() => {
                let what =
                    format!("accepted by another version of the agent, and this one cannot read it: {}; sign it again", fault.message);
                return self.append(vec![Entry { fault: Some(Fault::new(fault.code, cut(&what))), ..end }]).await;
            }
            Ok(end) => {
                if let Ok(op_id) = OpId::parse(entry.first.op_id.as_str()) {
                    // Before it can be resolved.
                    self.blocked().insert(op_id, wake);
                }
                let resource = end.resource.clone();
                if entry.state() != State::Indeterminate {
                    let what = format!("begun by another version of the agent, and this one cannot read it: {}", fault.message);
                    let end = Entry { fault: Some(Fault::new(Code::Indeterminate, cut(&what))), ..end };
                    self.append(vec![end]).await?;
                }
                resource
            }
            // Nobody knows what it is about: only an agent that can read it goes on, with anything.
            Err(_) => ResourceId::host(),
        };
        let (shared, place) = (self.clone(), self.parts.lanes.place_again(&resource));
        self.running.spawn(async move {
            let turn = shared.stopping.run_until_cancelled(place).await;
            // An error says that nobody can resolve it.
            if shared.stopping.run_until_cancelled(woken).await.is_some_and(|word| word.is_err()) {
                shared.stopping.cancelled().await;
            }
            drop(turn);
            shared.parts.reconciler.look();
        });
        Ok(())
    }
}
