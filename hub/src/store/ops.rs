//! Operations as the store keeps them.

use moorline_common::fault::Fault;
use moorline_common::id::{HostEpoch, HostId, OpId, ResourceId, SagaId, UnixSeconds};
use moorline_common::op::{Class, Stage};

/// An operation to be stored; what the hub can check of it has been checked.
#[derive(Debug, Clone)]
pub struct NewOp {
    /// Its id.
    pub op_id: OpId,
    /// The host that it is for.
    pub host_id: HostId,
    /// The life of that host.
    pub host_epoch: HostEpoch,
    /// The resource.
    pub resource: ResourceId,
    /// What is ordered.
    pub kind: String,
    /// How much that can do.
    pub class: Class,
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// The trust root that it was signed under.
    pub root_version: u64,
    /// The last moment at which it may begin.
    pub expires_at: UnixSeconds,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who submitted it.
    pub submitted_by: String,
    /// Whether it makes room for others: it is taken when there is none.
    pub is_remedy: bool,
}

/// A receipt of an order that the store does not have: the hub was restored from a backup.
#[derive(Debug, Clone)]
pub struct UnknownOp {
    /// The order's id.
    pub op_id: OpId,
    /// The host that says so.
    pub host_id: HostId,
    /// Its life.
    pub host_epoch: HostEpoch,
    /// The resource.
    pub resource: ResourceId,
    /// What was ordered.
    pub kind: String,
    /// The order's payload hash.
    pub payload_sha256: String,
    /// What became of it.
    pub change: OpChange,
}

/// A stored operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpRecord {
    /// Counts all operations in the order of their submission.
    pub sequence: u64,
    /// Its id.
    pub op_id: OpId,
    /// The host that it is for.
    pub host_id: HostId,
    /// The life of that host.
    pub host_epoch: String,
    /// The resource.
    pub resource: String,
    /// What is ordered.
    pub kind: String,
    /// How much that can do; empty for one of which only its receipt is known.
    pub class: String,
    /// The envelope's JSON; `None` in listings, and for one of which only its receipt is known.
    pub envelope: Option<Vec<u8>>,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// The last moment at which it may begin.
    pub expires_at: UnixSeconds,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted_ms: u64,
    /// Who submitted it.
    pub submitted_by: String,
    /// How far it is.
    pub stage: Stage,
    /// When that changed, in milliseconds since 1970.
    pub updated_ms: u64,
    /// What it waits for or works on.
    pub message: String,
    /// The operation that is done in its place; empty for none.
    pub same_as: String,
    /// Why it did not succeed.
    pub fault: Option<Fault>,
    /// Whether its host signed how it ended.
    pub has_receipt: bool,
    /// The receipt's JSON; `None` in listings.
    pub receipt: Option<Vec<u8>>,
}

/// Which operations to list.
#[derive(Debug, Clone, Default)]
pub struct OpQuery {
    /// Only those for this host.
    pub host: Option<HostId>,
    /// Only those that have not ended, and those that are indeterminate.
    pub open: bool,
    /// Only those with a lower sequence.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// An operation that its host is to be sent.
#[derive(Debug, Clone)]
pub struct DueOp {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// Its id.
    pub op_id: OpId,
    /// The life of the host that it is for.
    pub host_epoch: String,
    /// The trust root that it was signed under.
    pub root_version: u64,
    /// The last moment at which it may begin.
    pub expires_at: UnixSeconds,
    /// How far it is.
    pub stage: Stage,
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
    /// The saga that it is an order of.
    pub saga_id: Option<SagaId>,
}

/// What became of an operation.
#[derive(Debug, Clone)]
pub struct OpChange {
    /// How far it is.
    pub stage: Stage,
    /// What it waits for or works on.
    pub message: String,
    /// The operation that is done in its place.
    pub same_as: Option<OpId>,
    /// Why it did not succeed.
    pub fault: Option<Fault>,
    /// The host's signed word, as JSON.
    pub receipt: Option<Vec<u8>>,
}

/// What the store did with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// The row says so now.
    Changed,
    /// It said so before.
    Known,
    /// The row says something that this cannot follow.
    Contradicts(Stage),
    /// There is no such operation of this host.
    Unknown,
}

/// The newest journal record of a host's life that a heartbeat named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witness {
    /// The life of the host.
    pub epoch: String,
    /// The record's number.
    pub seq: u64,
    /// The first 16 bytes of its hash.
    pub head: Vec<u8>,
}

impl Witness {
    /// Takes in what a heartbeat names: never backwards within one life.
    pub fn see(&mut self, epoch: &str, seq: u64, head: &[u8]) {
        if seq > 0 && !head.is_empty() && (self.epoch != epoch || seq > self.seq) {
            *self = Self { epoch: epoch.to_owned(), seq, head: head.to_vec() };
        }
    }
}
