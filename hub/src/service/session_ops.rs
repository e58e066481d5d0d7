//! What an agent says of its operations: how far they are, and its signed word on how they ended.

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{HostId, OpId, sha256_hex};
use moorline_common::op::{Outcome, Receipt, Stage};
use moorline_common::sign::{Signed, Verified};
use moorline_proto::v1 as pb;

use super::wire;
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::ops;
use crate::store::{Advance, OpChange, StoreError, UnknownOp};

/// Notes how far an operation is. Nothing here has authority: what makes no sense is dropped.
pub(super) async fn event(hub: &Hub, host: &HostId, event: pb::OpEvent) {
    if !hub.fleet.admits_op_words(host, hub.clock.monotonic_ms()) {
        return;
    }
    let Some(stage) = Stage::parse(&event.state).filter(|s| matches!(s, Stage::At(_)) && s.is_open()) else {
        return tracing::debug!(%host, state = event.state, "an operation's state that is none");
    };
    let Ok(op_id) = OpId::parse(event.op_id) else { return };
    let same_as = OpId::parse(event.same_as).ok();
    let change = OpChange { stage, message: cut(&event.message), same_as, fault: None, receipt: None };
    match hub.store.advance_op(host.clone(), op_id.clone(), change, None).await {
        Ok(Advance::Changed) => hub.ops.watches.is_further(&op_id),
        Ok(Advance::Known | Advance::Contradicts(_) | Advance::Unknown) => {}
        Err(error) => tracing::error!(%error, %host, %op_id, "how far an operation is could not be stored"),
    }
}

/// Keeps a receipt that is the host's, and then acknowledges it.
pub(super) async fn receipt(hub: &Hub, host: &HostId, session: u64, actor: &Actor, envelope: pb::Envelope) {
    if !hub.fleet.admits_op_words(host, hub.clock.monotonic_ms()) {
        // Not acknowledged: it comes again.
        return;
    }
    let body = sha256_hex(&envelope.json);
    let kept = match verified(hub, host, &envelope.json) {
        Ok(receipt) => keep(hub, host, actor, &receipt).await.map(|()| receipt),
        Err(fault) => Err(fault),
    };
    match kept {
        Ok(receipt) => {
            let statement = receipt.statement();
            hub.ops.watches.changed(&statement.op_id);
            if let Some(way) = hub.fleet.way(host).filter(|w| w.session == session)
                && !way.delivery.ack(statement.op_id.clone(), statement.outcome)
            {
                tracing::warn!(%host, op_id = %statement.op_id, "too many acknowledgements wait; the host will send this receipt again");
            }
            ops::wake(hub, host);
        }
        Err(fault) => {
            let (name, _) = hub.fleet.name(host);
            tracing::warn!(host = name, %fault, "receipt refused");
            let event = NewEvent::new(Kind::ReceiptRefused, actor.clone(), fault.message).host(name).code(fault.code).body(body);
            hub.record_of(host, event).await;
        }
    }
}

/// A receipt that the host of this session signed, about itself.
fn verified(hub: &Hub, host: &HostId, json: &[u8]) -> Result<Verified<Receipt>, Fault> {
    if json.len() > limits::RECEIPT_MAX {
        return Err(Fault::new(Code::TooLarge, format!("a receipt of {} bytes; at most {} are kept", json.len(), limits::RECEIPT_MAX)));
    }
    let Some(host_key) = hub.fleet.host_key(host) else {
        return Err(Fault::new(Code::NotFound, "this hub does not know the host's key"));
    };
    let receipt = Signed::<Receipt>::from_json(json)?.verify_by_host(&host_key)?;
    let statement = receipt.statement();
    if statement.host_id != *host {
        return Err(Fault::new(Code::WrongHost, "the receipt is of another host"));
    }
    if statement.cluster != hub.cluster {
        return Err(Fault::new(Code::WrongCluster, format!("the receipt is for cluster `{}`", statement.cluster)));
    }
    Ok(receipt)
}

async fn keep(hub: &Hub, host: &HostId, actor: &Actor, receipt: &Verified<Receipt>) -> Result<(), Fault> {
    let statement = receipt.statement();
    let stored = hub.store.op(statement.op_id.clone()).await.map_err(StoreError::into_fault)?;
    let fault = statement.fault.as_ref().map(|f| Fault::new(f.code, cut(&f.message)));
    let change = OpChange {
        stage: Stage::from(statement.outcome),
        message: String::new(),
        same_as: statement.same_as.clone(),
        fault: fault.clone(),
        receipt: Some(receipt.envelope().to_json()),
    };
    let event = ended(hub, host, actor, receipt, fault.as_ref());
    match stored {
        Some(op) if op.host_id != *host => Err(Fault::new(Code::WrongHost, format!("operation {} is another host's", op.op_id))),
        Some(op) if op.payload_sha256 != statement.payload_sha256 => {
            Err(Fault::new(Code::HashMismatch, format!("the receipt for operation {} is about another order", op.op_id)))
        }
        Some(op) => {
            match hub.store.advance_op(host.clone(), op.op_id.clone(), change, Some(event)).await.map_err(StoreError::into_fault)? {
                Advance::Changed | Advance::Known => Ok(()),
                Advance::Contradicts(stage) => Err(Fault::new(
                    Code::Conflict,
                    format!(
                        "ALARM: operation {} is {stage} by an earlier receipt, now the host says {}",
                        op.op_id,
                        statement.outcome.as_str()
                    ),
                )),
                Advance::Unknown => Err(Fault::new(Code::NotFound, format!("there is no operation {}", op.op_id))),
            }
        }
        None => {
            if !hub.fleet.admits_unknown_receipt(host, hub.clock.monotonic_ms()) {
                return Err(Fault::new(Code::Busy, "too many receipts for orders that this hub does not know"));
            }
            let unknown = UnknownOp {
                op_id: statement.op_id.clone(),
                host_id: host.clone(),
                host_epoch: statement.host_epoch.clone(),
                resource: statement.resource.clone(),
                kind: statement.kind.clone(),
                payload_sha256: statement.payload_sha256.clone(),
                change,
            };
            let message = format!("{}; this hub does not have the order, and keeps the receipt", event.message);
            hub.store.recover_op(unknown, NewEvent { message, ..event }).await.map_err(StoreError::into_fault)
        }
    }
}

/// The event of how an operation ended.
fn ended(hub: &Hub, host: &HostId, actor: &Actor, receipt: &Verified<Receipt>, fault: Option<&Fault>) -> NewEvent {
    let statement = receipt.statement();
    let (kind, alarm) = match statement.outcome {
        Outcome::Refused => (Kind::OpRefused, ""),
        Outcome::Indeterminate => (Kind::OpIndeterminate, "ALARM: "),
        Outcome::Succeeded | Outcome::Failed | Outcome::Expired | Outcome::Cancelled => (Kind::OpEnded, ""),
    };
    let why = fault.map(|f| format!(": {}", f.message)).unwrap_or_default();
    let words = format!(
        "{alarm}{} `{}` on {} {}{why}",
        statement.op_id,
        wire::short(&statement.kind),
        statement.resource,
        statement.outcome.as_str()
    );
    let (name, _) = hub.fleet.name(host);
    let event = NewEvent::new(kind, actor.clone(), words).host(name).body(&statement.payload_sha256);
    match fault {
        Some(fault) => event.code(fault.code),
        None => event,
    }
}

/// Ends an order whose envelope the host could not even read. `false` when it is none that the host was sent.
pub(super) async fn refused(hub: &Hub, host: &HostId, actor: &Actor, payload_sha256: &str, fault: &Fault) -> bool {
    let found = hub.store.op_of_payload(host.clone(), payload_sha256.to_owned()).await;
    let Ok(Some(op_id)) = found else { return false };
    let (name, _) = hub.fleet.name(host);
    let event = NewEvent::new(Kind::OpRefused, actor.clone(), format!("{op_id}: {}", fault.message))
        .host(name)
        .code(fault.code)
        .body(payload_sha256);
    let change = OpChange { stage: Stage::Refused, message: String::new(), same_as: None, fault: Some(fault.clone()), receipt: None };
    match hub.store.advance_op(host.clone(), op_id.clone(), change, Some(event)).await {
        Ok(_) => hub.ops.watches.changed(&op_id),
        Err(error) => tracing::error!(%error, %host, %op_id, "a refusal could not be stored"),
    }
    true
}
