//! Orders of sagas. The hub says when the turn of one has come; this host believes what operators and hosts have signed, and its
//! own journal.

use moorline_common::fault::{Code, Fault};
use moorline_common::op::{Book, OpEntry, State};
use moorline_common::saga::{OfSaga, Own, Turn};
use moorline_common::trust::Evidence;
use serde_json::{Value, json};

use super::admit::{No, accepted};
use super::{Answer, Op, Shared};
use crate::driver::Driver;
use crate::journal::{Entry, Journal, JournalError};

impl<D: Driver, J: Journal> Shared<D, J> {
    /// What the turn of an order amounts to that is new; `None` for one that is no saga's.
    ///
    /// What speaks against it is never recorded, and no receipt tells of it: the hub chooses what it shows and when, and a signed
    /// refusal of a step lets the steps before it be undone.
    pub(super) fn turn(&self, op: &Op, evidence: Option<Box<Evidence>>) -> Result<Option<Turn>, Fault> {
        let order = &op.order;
        let (of, evidence) = match (&order.statement.saga, evidence) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(Fault::new(Code::BadSaga, "a plan was shown with an order that is no saga's")),
            (Some(of), None) => {
                let what = format!("the order is a step of saga {}, and its plan was not shown with it", of.saga_id);
                return Err(Fault::new(Code::SagaUnproven, what));
            }
            (Some(of), Some(evidence)) => (of, evidence),
        };
        let shown = self.parts.gate.shown(*evidence, order, op.by.as_ref())?;
        let sha256 = op.envelope.payload_sha256();
        let turn = self.parts.journal.read(|book| shown.judge(order, &sha256, |of| own(book, of)))?;
        tracing::debug!(op = %op.id(), saga = %of.saga_id, step = of.step, side = %of.side, "its turn in the saga has come");
        Ok(Some(turn))
    }

    /// Records the undoing of what never began, whole or not at all. Its key is used up, so that what it would undo does not begin
    /// after it.
    pub(super) async fn nothing(&self, op: &Op) -> Result<Answer, Fault> {
        let mut entries = accepted(op);
        for grant in entries.iter_mut().filter_map(|entry| entry.grant.as_mut()) {
            grant.nothing = true;
        }
        entries.extend([op.entry(State::Started), nothing_done(op)]);
        match self.promise(self.parts.journal.append(entries)).await {
            Ok(()) => {}
            Err(No::ForGood(fault) | No::Unrecorded(fault)) => return Err(fault),
        }
        tracing::info!(op = %op.id(), resource = %op.resource(), kind = op.order.act.kind(), "there is nothing to undo");
        Ok(Answer::Known(op.id().clone()))
    }

    /// Ends the same one whose last records were torn off.
    pub(super) async fn finish_nothing(&self, op: &Op, entry: &OpEntry) -> Result<(), JournalError> {
        let begins = (!entry.state().has_begun()).then(|| op.entry(State::Started));
        self.append(begins.into_iter().chain([nothing_done(op)]).collect()).await
    }
}

/// An order that names an incarnation itself means the one that the saga has made.
pub(super) fn check_bound(op: &Op) -> Result<(), Fault> {
    match (&op.bound, &op.order.statement.incarnation) {
        (Some(made), Some(named)) if made != named => {
            let what = format!("the order is for {named}; what the saga has made there is {made}");
            Err(Fault::new(Code::IncarnationChanged, what))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

fn nothing_done(op: &Op) -> Entry {
    Entry { result: json!({ "nothing_to_undo": true }), ..op.entry(State::Succeeded) }
}

/// What the journal says of a try: its key is known from its acceptance on, and free again if it ended before it began.
fn own(book: &Book, of: &OfSaga) -> Option<Own> {
    let key = book.key(of.key().ok()?.as_str())?;
    let Some(ended) = &key.ended else { return Some(Own::Open) };
    if ended.state != State::Succeeded {
        return Some(Own::Failed);
    }
    // Beside the key stands only what is short.
    let told = book.ops().get(&key.op_id).map(|entry| &entry.last.result);
    let result = told.filter(|result| !result.is_null()).unwrap_or(&ended.result);
    Some(Own::Succeeded { result: Value::clone(result) })
}
