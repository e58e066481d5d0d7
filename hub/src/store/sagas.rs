//! Sagas as the store keeps them.

use moorline_common::id::{OpId, SagaId};
use moorline_common::saga::{Kind, State, Status};

use super::NewOp;
use crate::events::NewEvent;

/// A saga to be stored; its signatures have been checked.
#[derive(Debug, Clone)]
pub struct NewSaga {
    /// Its id.
    pub saga_id: SagaId,
    /// The definition that it was built from.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// What it belongs to.
    pub deployment: String,
    /// `operator`, or `system:` and a reason.
    pub triggered_by: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// The plan's envelope as JSON.
    pub plan: Vec<u8>,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// How it begins.
    pub state: State,
    /// Who hands it in.
    pub started_by: String,
    /// The orders that it names.
    pub orders: Vec<SagaOrder>,
    /// What its steps need beside the plan, by the hash that the plan names it by: revisions, and what first boots are told. Forgotten when
    /// the saga has ended.
    pub parts: Vec<(String, Vec<u8>)>,
}

/// An order of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaOrder {
    /// Its payload's hash.
    pub payload_sha256: String,
    /// Its id.
    pub op_id: OpId,
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
}

/// A stored saga.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaRecord {
    /// Counts all sagas in the order of their start.
    pub sequence: u64,
    /// Its id.
    pub saga_id: SagaId,
    /// The definition that it was built from.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// What it belongs to.
    pub deployment: String,
    /// `operator`, or `system:` and a reason.
    pub triggered_by: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// The plan's envelope as JSON.
    pub plan: Vec<u8>,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// What the core made of all that happened.
    pub state: State,
    /// Where it stood when that was stored.
    pub status: Status,
    /// Counts its changes.
    pub revision: u64,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Who handed it in.
    pub started_by: String,
    /// When it last changed, in milliseconds since 1970.
    pub changed_ms: u64,
}

/// Which sagas to list.
#[derive(Debug, Clone, Default)]
pub struct SagaQuery {
    /// Only those that stand so.
    pub status: Option<Status>,
    /// Only those of this kind.
    pub kind: Option<Kind>,
    /// Only those of this deployment.
    pub deployment: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// What becomes of a saga, and what comes with it: all of it is stored, or nothing.
#[derive(Debug, Clone)]
pub struct SagaChange {
    /// The saga.
    pub saga_id: SagaId,
    /// The claim of who changes it; `None` for an operator's word.
    pub fence: Option<u64>,
    /// Its revision when this was decided.
    pub seen: u64,
    /// What it is now.
    pub state: State,
    /// Where it stands now.
    pub status: Status,
    /// What happened, for people.
    pub facts: Vec<String>,
    /// Orders that are to go to their hosts from now on.
    pub submit: Vec<(NewOp, NewEvent)>,
    /// An operator's word as JSON.
    pub word: Option<Vec<u8>>,
    /// Further orders.
    pub orders: Vec<SagaOrder>,
    /// To be recorded with it.
    pub events: Vec<NewEvent>,
}

/// What the store did with a change of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaAdvance {
    /// It is so now.
    Done {
        /// The saga's revision by it.
        revision: u64,
    },
    /// The saga is another one by now than when that was decided: decide again.
    Moved,
    /// Somebody else runs the saga by now: leave it alone.
    Lost,
}

/// What hosts are shown with an order of a saga, as JSON envelopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SagaEvidence {
    /// The plan.
    pub plan: Vec<u8>,
    /// What hosts signed of its orders.
    pub receipts: Vec<Vec<u8>>,
    /// What operators signed of it.
    pub words: Vec<Vec<u8>>,
}
