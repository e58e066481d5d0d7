//! Operations as the hub shows them, and the receipts that hosts signed.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, OpId, UnixSeconds};
use moorline_common::op::{OpStatement, Receipt, Stage, State};
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::HostBinding;
use moorline_proto::v1 as pb;
use serde::Serialize;

use super::{Client, Hub};
use crate::clock;
use crate::error::Failure;

/// One operation as the hub shows it. Only the envelopes have authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpFacts {
    /// Its id.
    pub op_id: OpId,
    /// The host's name; empty when the hub does not know the host any more.
    pub host: String,
    /// The host.
    pub host_id: HostId,
    /// What is ordered.
    pub kind: String,
    /// The resource.
    pub resource: String,
    /// How much that can do.
    pub class: String,
    /// How far it is.
    #[serde(serialize_with = "as_text")]
    pub state: Stage,
    /// What it waits for or works on.
    pub message: String,
    /// The operation that is done in its place; empty for none.
    pub same_as: String,
    /// Why it did not succeed.
    pub fault: Option<Fault>,
    /// Whether there is a receipt: without one the state is the hub's word only.
    pub has_receipt: bool,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who submitted it.
    pub submitted_by: String,
    /// When, by the hub's clock.
    pub submitted: String,
    /// When its state changed, by the hub's clock.
    pub updated: String,
    /// The last moment at which it may begin; empty when the hub lost the order.
    pub expires: String,
    /// Counts all operations of the hub.
    pub sequence: u64,
    /// `expires` in seconds since 1970; 0 when unknown.
    #[serde(skip)]
    pub expires_at: UnixSeconds,
    /// Milliseconds since 1970 of `updated`.
    #[serde(skip)]
    pub updated_unix_ms: u64,
    /// The signed order; not in listings.
    #[serde(skip)]
    pub order: Option<Envelope>,
    /// The signed receipt; not in listings.
    #[serde(skip)]
    pub receipt: Option<Envelope>,
}

impl OpFacts {
    /// Whether its last moment has passed without its beginning, as far as the hub has heard.
    #[must_use]
    pub fn is_overdue(&self, now: UnixSeconds) -> bool {
        let waits = matches!(self.state, Stage::Submitted | Stage::Sent | Stage::At(State::Accepted | State::Queued));
        waits && self.expires_at.0 > 0 && now > self.expires_at
    }
}

fn as_text<S: serde::Serializer>(stage: &Stage, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(stage.as_str())
}

impl TryFrom<pb::Op> for OpFacts {
    type Error = Fault;
    fn try_from(op: pb::Op) -> Result<Self, Fault> {
        let malformed = |e: &dyn std::fmt::Display| Fault::new(Code::BadEnvelope, format!("the hub sent a malformed operation: {e}"));
        let envelope = |e: Option<pb::Envelope>| e.filter(|e| !e.json.is_empty()).map(Envelope::try_from).transpose();
        let state = Stage::parse(&op.state).ok_or_else(|| {
            Fault::new(Code::UnsupportedVersion, format!("the hub calls an operation `{}`, which is not known here", op.state))
        })?;
        Ok(Self {
            op_id: OpId::parse(op.op_id).map_err(|e| malformed(&e))?,
            host: op.host,
            host_id: HostId::parse(op.host_id).map_err(|e| malformed(&e))?,
            kind: op.kind,
            resource: op.resource,
            class: op.class,
            state,
            message: op.message,
            same_as: op.same_as,
            fault: op.fault.filter(|f| !f.code.is_empty()).map(Fault::from),
            has_receipt: op.has_receipt,
            reason: op.reason,
            submitted_by: op.submitted_by,
            submitted: clock::rfc3339(op.submitted_unix_ms),
            updated: clock::rfc3339(op.updated_unix_ms),
            expires: if op.expires_at == 0 { String::new() } else { clock::rfc3339(op.expires_at.saturating_mul(1000)) },
            expires_at: UnixSeconds(op.expires_at),
            sequence: op.sequence,
            updated_unix_ms: op.updated_unix_ms,
            order: envelope(op.order)?,
            receipt: envelope(op.receipt)?,
        })
    }
}

/// Verifies a receipt: signed by the host of `binding`, about this very order. Without the order (the hub lost it) only what
/// the receipt says of itself is known.
///
/// # Errors
/// [`Code::BadSignature`] and the other codes of a receipt that is not the host's, or not this order's.
pub fn verify_receipt(
    receipt: &Envelope,
    op_id: &OpId,
    order: Option<&Envelope>,
    binding: &HostBinding,
) -> Result<Verified<Receipt>, Fault> {
    let receipt = Signed::<Receipt>::new(receipt.clone())?.verify_by_host(&binding.host_key)?;
    let statement = receipt.statement();
    if statement.host_id != binding.host_id || statement.cluster != binding.cluster {
        return Err(Fault::new(Code::WrongHost, "the receipt is of another host"));
    }
    if statement.op_id != *op_id {
        return Err(Fault::new(Code::HashMismatch, format!("the receipt is for operation {}", statement.op_id)));
    }
    if order.is_some_and(|order| order.payload_sha256() != statement.payload_sha256) {
        return Err(Fault::new(Code::HashMismatch, "the receipt is about an order of the same id with other content"));
    }
    if let Some(order) = order {
        let meant = Signed::<OpStatement>::new(order.clone())?.peek()?.host_epoch;
        if meant != statement.host_epoch {
            return Err(Fault::new(Code::WrongEpoch, "the receipt is of another life of the host than the order was for"));
        }
    }
    Ok(receipt)
}

impl Client {
    /// Hands in an operation; gives it back as it is now, and whether the hub had it before.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn submit_op(&self, order: &Envelope) -> Result<(OpFacts, bool), Failure> {
        let request = pb::SubmitOpRequest { op: Some(order.into()) };
        let answer = self.hub.call(|mut rpc| async move { rpc.submit_op(request).await }).await?;
        Ok((required(answer.op)?, answer.known))
    }

    /// One operation with its envelopes.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the hub has none of this id.
    pub async fn op(&self, op_id: &OpId) -> Result<OpFacts, Failure> {
        let request = pb::GetOpRequest { op_id: op_id.to_string() };
        let answer = self.hub.call(|mut rpc| async move { rpc.get_op(request).await }).await.map_err(|f| {
            if f.is(Code::NotFound) { f.with_remedy("list what there is with `moorctl op ls`; ids are never shortened") } else { f }
        })?;
        Ok(asked_for(required(answer.op)?, op_id)?)
    }

    /// Operations, newest first, without their envelopes.
    ///
    /// # Errors
    /// When the call fails or the answer is malformed.
    pub async fn ops(&self, host: Option<&HostId>, open: bool, limit: u32) -> Result<Vec<OpFacts>, Failure> {
        let request = pb::ListOpsRequest { host_id: host.map(ToString::to_string).unwrap_or_default(), open, limit, before: 0 };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_ops(request).await }).await?;
        Ok(answer.ops.into_iter().map(OpFacts::try_from).collect::<Result<_, _>>()?)
    }

    /// One operation as it is now, then at each change until it has ended.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn watch_op(&self, op_id: &OpId) -> Result<OpWatch, Failure> {
        let request = pb::WatchOpRequest { op_id: op_id.to_string() };
        let stream = self.hub.call(|mut rpc| async move { rpc.watch_op(request).await }).await?;
        Ok(OpWatch { op_id: op_id.clone(), stream, hub: self.hub.clone() })
    }

    /// A connected host's journal from a record on, as the host sends it.
    ///
    /// # Errors
    /// When the host is not connected or the call fails.
    pub async fn journal(&self, host: &HostId, from_seq: u64) -> Result<JournalStream, Failure> {
        let request = pb::GetJournalRequest { host_id: host.to_string(), from_seq };
        let stream = self.hub.call(|mut rpc| async move { rpc.get_journal(request).await }).await?;
        Ok(JournalStream { stream, hub: self.hub.clone() })
    }
}

fn required(op: Option<pb::Op>) -> Result<OpFacts, Failure> {
    let op = op.ok_or_else(|| Fault::new(Code::BadEnvelope, "the hub answered without the operation"))?;
    Ok(OpFacts::try_from(op)?)
}

/// `op`, if it is the one that was asked for: another one's genuine receipt must not stand for this one's.
fn asked_for(op: OpFacts, op_id: &OpId) -> Result<OpFacts, Fault> {
    if op.op_id == *op_id {
        return Ok(op);
    }
    Err(Fault::new(Code::BadEnvelope, format!("asked the hub for operation {op_id}, got {}", op.op_id)))
}

/// An operation's news as they come.
pub struct OpWatch {
    op_id: OpId,
    stream: tonic::Streaming<pb::Op>,
    hub: Hub,
}

impl OpWatch {
    /// The next; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<OpFacts>, Failure> {
        match self.stream.message().await {
            Ok(Some(op)) => Ok(Some(asked_for(OpFacts::try_from(op)?, &self.op_id)?)),
            Ok(None) => Ok(None),
            Err(status) => Err(self.hub.failure(&status)),
        }
    }
}

/// A journal as it comes.
pub struct JournalStream {
    stream: tonic::Streaming<pb::GetJournalResponse>,
    hub: Hub,
}

impl JournalStream {
    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self.stream.message().await {
            Ok(part) => Ok(part.map(|p| p.lines)),
            Err(status) => Err(self.hub.failure(&status)),
        }
    }
}
