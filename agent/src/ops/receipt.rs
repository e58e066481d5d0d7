//! What the hub is told: where each operation stands, and what became of it.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ClusterId, OpId, ResourceId};
use moorline_common::op::{Book, OpEntry, Origin, Outcome, Receipt, State};
use moorline_common::sign::{Envelope, PayloadType};
use serde_json::Value;

use super::{Alias, Handle};
use crate::intake::judge::Own;
use crate::journal::Journal;
use crate::plant::planted;

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is under way.
    UnderWay {
        /// Which.
        op_id: OpId,
        /// Its state.
        state: State,
        /// Since when, in milliseconds since 1970.
        at: u64,
        /// The one that is done in its place.
        same_as: Option<OpId>,
    },
    /// It has ended, or is in doubt: to be signed and sent.
    Over(Box<Receipt>),
    /// It is refused, and nothing is kept of that; see [`super::Answer::Refused`].
    Refused {
        /// The order.
        payload_sha256: String,
        /// Why.
        fault: Fault,
    },
}

/// All that is new since a point in the journal.
#[derive(Debug, Default)]
pub struct Standings {
    /// In the order in which it happened.
    pub list: Vec<Standing>,
    /// The point up to which it tells.
    pub seq: u64,
}

/// What a state means to the one who ordered; `None` while it is under way. Only an operator cancels: what ended before it
/// began for any other reason was refused at its turn.
pub(super) fn outcome(state: State, fault: Option<&Fault>) -> Option<Outcome> {
    match state {
        State::Succeeded => Some(Outcome::Succeeded),
        State::Failed => Some(Outcome::Failed),
        State::Expired => Some(Outcome::Expired),
        State::Cancelled if fault.is_some_and(|f| f.code != Code::Cancelled) => Some(Outcome::Refused),
        State::Cancelled => Some(Outcome::Cancelled),
        State::Indeterminate => Some(Outcome::Indeterminate),
        State::Accepted | State::Queued | State::Started | State::TaskRunning => None,
    }
}

/// Operations that have not ended, and how many of those are in doubt.
#[must_use]
pub fn counts(book: &Book) -> (u32, u32) {
    let open = || book.open().filter(|e| e.first.origin() == Origin::Operator);
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (number(open().count()), number(open().filter(|e| e.state() == State::Indeterminate).count()))
}

impl Handle {
    /// Where every operation stands that moved after record `after`; with 0 every one of which the hub may not know.
    #[must_use]
    pub fn standings<J: Journal>(&self, journal: &J, own: &Own, after: u64) -> Standings {
        let mut moved = journal.read(|book| {
            let ops = book.ops().values();
            ops.filter(|e| e.first.origin() == Origin::Operator && e.last.seq > after && !(planted("receipt once") && after == 0))
                .cloned()
                .collect::<Vec<_>>()
        });
        moved.sort_by_key(|e| e.last.seq);
        let seq = moved.last().map_or(after, |e| e.last.seq);
        let list = moved.iter().flat_map(|entry| self.of_entry(entry, own)).collect();
        Standings { list, seq }
    }

    /// Where one operation stands, and those that it is done in place of.
    #[must_use]
    pub fn standing<J: Journal>(&self, journal: &J, own: &Own, op_id: &OpId) -> Vec<Standing> {
        let entry = journal.read(|book| book.ops().get(op_id.as_str()).cloned());
        entry.map(|entry| self.of_entry(&entry, own)).unwrap_or_default()
    }

    fn of_entry(&self, entry: &OpEntry, own: &Own) -> Vec<Standing> {
        let Some(first) = standing(entry, own) else { return Vec::new() };
        let (Ok(op_id), is_over) = (OpId::parse(entry.first.op_id.as_str()), entry.state().is_terminal()) else { return vec![first] };
        let mut aliases = self.aliases.lock();
        let followers = if is_over { aliases.remove(&op_id) } else { aliases.get(&op_id).cloned() };
        let has_begun = !is_over || entry.state().has_begun();
        let mut all = vec![first.clone()];
        let told = followers.unwrap_or_default().into_iter().map(|alias| instead(&first, &op_id, alias));
        all.extend(told.map(|standing| if has_begun { standing } else { not_in_its_place(standing) }));
        all
    }
}

/// What `alias` is told when `first` is where the other one stands.
fn instead(first: &Standing, other: &OpId, alias: Alias) -> Standing {
    let same_as = Some(other.clone());
    match first.clone() {
        Standing::UnderWay { state, at, .. } => Standing::UnderWay { op_id: alias.op_id, state, at, same_as },
        Standing::Over(receipt) => {
            Standing::Over(Box::new(Receipt { op_id: alias.op_id, payload_sha256: alias.payload_sha256, same_as, ..*receipt }))
        }
        refused @ Standing::Refused { .. } => refused,
    }
}

/// The first order of a key ended before it began: that says nothing about another one with a window of its own.
fn not_in_its_place(standing: Standing) -> Standing {
    let Standing::Over(receipt) = standing else { return standing };
    let fault = Fault::new(Code::Busy, "the order of the same key, which it waited for, ended before it began; sign it again");
    Standing::Refused { payload_sha256: receipt.payload_sha256, fault }
}

fn standing(entry: &OpEntry, own: &Own) -> Option<Standing> {
    let (first, last) = (&entry.first, &entry.last);
    let op_id = OpId::parse(first.op_id.as_str()).ok()?;
    let Some(outcome) = outcome(last.state, last.fault.as_ref()) else {
        return Some(Standing::UnderWay { op_id, state: last.state, at: last.at, same_as: None });
    };
    let order = read(&first.grant.as_ref()?.envelope);
    let unread = |error: &_| tracing::error!(op = %op_id, %error, "a journaled {} cannot be read", PayloadType::Op.word());
    let (cluster, payload_sha256) = order.inspect_err(unread).ok()?;
    Some(Standing::Over(Box::new(Receipt {
        cluster,
        host_id: own.host_id.clone(),
        host_epoch: last.epoch.clone(),
        op_id,
        payload_sha256,
        same_as: None,
        resource: ResourceId::parse(first.resource.as_str()).ok()?,
        kind: first.kind.clone(),
        outcome,
        at: last.at,
        fault: last.fault.clone().or_else(|| default_fault(last.state)),
        result: if last.state.is_terminal() { last.result.clone() } else { Value::Null },
        journal_seq: last.seq,
    })))
}

/// What a receipt says of an order; also of one that only another version of the agent understands.
fn read(envelope: &str) -> Result<(ClusterId, String), Fault> {
    #[derive(serde::Deserialize)]
    struct Addressed {
        cluster: ClusterId,
    }
    let envelope = Envelope::from_json(envelope.as_bytes())?;
    let order: Addressed = serde_json::from_slice(&envelope.payload).map_err(|e| Fault::new(Code::BadEnvelope, e.to_string()))?;
    Ok((order.cluster, envelope.payload_sha256()))
}

fn default_fault(state: State) -> Option<Fault> {
    (state == State::Indeterminate).then(|| Fault::new(Code::Indeterminate, "nothing proves how it ended"))
}
