//! Operations and journals for operators. What has authority is signed: it is checked here so that nonsense is refused
//! early, by the same codes; the agents remain the judges.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, OpId};
use moorline_common::op::{Act, OP_ENVELOPE_MAX, OP_SKEW_S, OpStatement, Order};
use moorline_common::sign::Signed;
use moorline_common::statement::HostBinding;
use moorline_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{drift, fault_status, store_status, wire};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::fleet::{Outgoing, Way};
use crate::hub::Hub;
use crate::limits;
use crate::ops::{self, Log, Reading, Wanted, Watch};
use crate::store::{NewOp, OpQuery, OpRecord, ShownDrift, StoreError};

/// One operation's news for one caller.
pub type OpStream = Pin<Box<dyn Stream<Item = Result<pb::Op, Status>> + Send>>;
/// A log for one caller.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<pb::GetLogsResponse, Status>> + Send>>;
/// A journal for one caller.
pub type JournalStream = Pin<Box<dyn Stream<Item = Result<pb::GetJournalResponse, Status>> + Send>>;

/// Stores an operation and lets it go out.
pub(super) async fn submit(hub: &Hub, actor: &Actor, json: &[u8]) -> Result<pb::SubmitOpResponse, Fault> {
    let (op, known) = submit_with(hub, actor, json, None).await?;
    Ok(pb::SubmitOpResponse { op: Some(op), known })
}

/// Stores an operation, one that `reverts` drifts with these, and lets it go out; gives it back, and whether it was stored before.
pub(super) async fn submit_with(hub: &Hub, actor: &Actor, json: &[u8], reverts: Option<Vec<ShownDrift>>) -> Result<(pb::Op, bool), Fault> {
    let Checked { op, event, order } = check(hub, actor, json).await?;
    if order.statement.saga.is_some() {
        return Err(Fault::new(Code::BadSaga, "the order belongs to a saga, which hands it to its host in its turn"));
    }
    let host = op.host_id.clone();
    let stored = match reverts {
        Some(drifts) => {
            drift::require_converge(&order.act)?;
            hub.store.revert_drift(drifts, op, event).await
        }
        None => hub.store.submit_op(op, event).await,
    };
    let (record, known) = stored.map_err(StoreError::into_fault)?;
    if !known {
        tracing::info!(actor = actor.subject, op_id = %record.op_id, kind = record.kind, resource = record.resource, "operation submitted");
        ops::submitted(hub, &host);
    }
    Ok((shown(hub, record), known))
}

/// An order that its host would accept, as far as the hub can tell.
pub(crate) struct Checked {
    /// As it is stored.
    pub op: NewOp,
    /// Of its submission.
    pub event: NewEvent,
    /// What was signed.
    pub order: Order,
}

/// Checks an order as its host would.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub(crate) async fn check(hub: &Hub, actor: &Actor, json: &[u8]) -> Result<Checked, Fault> {
    if json.len() > OP_ENVELOPE_MAX {
        return Err(Fault::new(Code::TooLarge, format!("the order has {} bytes; at most {OP_ENVELOPE_MAX} are taken", json.len())));
    }
    let root = hub.newest_root().await?;
    let signed = Signed::<OpStatement>::from_json(json)?;
    let host = signed.peek()?.host_id;
    let record = hub.store.host(host.clone()).await.map_err(StoreError::into_fault)?;
    let Some((record, binding)) = record.and_then(|r| r.binding.clone().map(|b| (r, b))) else {
        return Err(Fault::new(Code::NotFound, format!("host {host} is not bound; `moorctl host approve` binds it")));
    };
    let binding = Signed::<HostBinding>::from_json(&binding)?.peek()?;
    let envelope = signed.envelope().clone();
    let order = root.verify_op(signed, &binding)?;
    let statement = &order.statement;
    if record.host_epoch != binding.host_epoch.as_str() {
        return Err(Fault::new(
            Code::NotApproved,
            format!("host `{}` has begun a new life; `moorctl host approve {}` binds it anew", record.name, record.name),
        ));
    }
    let now = hub.clock.unix_s();
    if now > root.expires {
        return Err(Fault::new(Code::RootExpired, "the trust root has expired: hosts accept nothing new but its successor"));
    }
    if now > statement.expires_at.plus(OP_SKEW_S) {
        return Err(Fault::new(Code::Expired, "the order's last moment has passed; sign it anew"));
    }
    if statement.not_before > now.plus(OP_SKEW_S) {
        return Err(Fault::new(Code::NotYetValid, "the order was signed in the future; check this machine's clock and the hub's"));
    }
    let payload_sha256 = envelope.payload_sha256();
    let reason = if statement.reason.is_empty() { String::new() } else { format!(": {}", statement.reason) };
    let words = format!("{} `{}` on {} ({}){reason}", statement.op_id, statement.kind, statement.resource, order.class);
    let event = NewEvent::new(Kind::OpSubmitted, actor.clone(), words).host(record.name.as_str()).body(&payload_sha256);
    let op = NewOp {
        op_id: statement.op_id.clone(),
        host_id: host,
        host_epoch: statement.host_epoch.clone(),
        resource: statement.resource.clone(),
        kind: statement.kind.clone(),
        class: order.class,
        envelope: envelope.to_json(),
        payload_sha256,
        root_version: statement.root_version,
        expires_at: statement.expires_at,
        reason: statement.reason.clone(),
        submitted_by: actor.subject.clone(),
        is_remedy: matches!(order.act, Act::Cancel { .. } | Act::Resolve { .. }),
    };
    Ok(Checked { op, event, order })
}

fn shown(hub: &Hub, record: OpRecord) -> pb::Op {
    let (name, known) = hub.fleet.name(&record.host_id);
    wire::op(record, if known { name } else { String::new() })
}

/// Lists operations.
pub(super) async fn list(hub: &Hub, wanted: pb::ListOpsRequest) -> Result<pb::ListOpsResponse, Status> {
    let host = (!wanted.host_id.is_empty()).then(|| HostId::parse(wanted.host_id)).transpose();
    let query = OpQuery {
        host: host.map_err(|e| fault_status(wire::invalid(e.to_string())))?,
        open: wanted.open,
        before: (wanted.before > 0).then_some(wanted.before),
        limit: if wanted.limit == 0 { limits::OPS_DEFAULT } else { wanted.limit.min(limits::OPS_MAX) },
    };
    let records = hub.store.ops(query).await.map_err(store_status)?;
    Ok(pb::ListOpsResponse { ops: records.into_iter().map(|record| shown(hub, record)).collect() })
}

/// One operation.
pub(super) async fn get(hub: &Hub, op_id: &OpId) -> Result<pb::Op, Status> {
    let record = hub.store.op(op_id.clone()).await.map_err(store_status)?;
    let record = record.ok_or_else(|| fault_status(Fault::new(Code::NotFound, format!("there is no operation {op_id}"))))?;
    Ok(shown(hub, record))
}

/// An operation's id as a caller gave it.
pub(super) fn op_id(text: String) -> Result<OpId, Status> {
    OpId::parse(text).map_err(|e| fault_status(wire::invalid(e.to_string())))
}

/// Follows one operation.
pub(super) async fn watch(hub: &Hub, op_id: OpId, not_after_s: u64) -> Result<OpStream, Status> {
    // Followed before it is read: no change falls in between.
    let watch = hub.ops.watches.follow(&op_id).map_err(fault_status)?;
    let now = get(hub, &op_id).await?;
    let (tx, rx) = mpsc::channel(1);
    tokio::spawn(follow(hub.clone(), op_id, watch, now, not_after_s, tx));
    Ok(Box::pin(ReceiverStream::new(rx)))
}

/// Sends an operation as it is and at each change, until it has ended, the caller is gone or its certificate ends.
async fn follow(hub: Hub, op_id: OpId, mut watch: Watch, mut op: pb::Op, not_after_s: u64, tx: mpsc::Sender<Result<pb::Op, Status>>) {
    loop {
        let is_settled = moorline_common::op::Stage::parse(&op.state).is_none_or(|s| s.is_settled());
        let last = op.clone();
        if tx.send(Ok(op)).await.is_err() || is_settled {
            return;
        }
        op = loop {
            tokio::select! {
                () = tx.closed() => return,
                () = hub.stopping.cancelled() => {
                    let _ = tx.send(Err(Status::unavailable("the hub is stopping"))).await;
                    return;
                }
                () = tokio::time::sleep(Duration::from_secs(not_after_s.saturating_sub(hub.clock.unix_s().0))) => {
                    let _ = tx.send(Err(Status::unauthenticated("the client certificate has expired; renew it"))).await;
                    return;
                }
                () = watch.next() => {}
            }
            match get(&hub, &op_id).await {
                Ok(op) if op == last => {}
                Ok(op) => break op,
                Err(status) => {
                    let _ = tx.send(Err(status)).await;
                    return;
                }
            }
        };
    }
}

/// Asks a connected host for its journal.
pub(super) async fn journal(hub: &Hub, actor: &Actor, wanted: pb::GetJournalRequest) -> Result<JournalStream, Status> {
    let host = HostId::parse(wanted.host_id).map_err(|e| fault_status(wire::invalid(e.to_string())))?;
    let (name, known) = hub.fleet.name(&host);
    if !known {
        return Err(fault_status(Fault::new(Code::NotFound, format!("there is no host {host}"))));
    }
    let absent = || {
        Fault::new(Code::Waiting, format!("host `{name}` is not connected; its journal is on the host itself (`moorline-agent journal`)"))
    };
    let way = hub.fleet.way(&host).ok_or_else(|| fault_status(absent()))?;
    let reading = hub.ops.journals.begin(&host, way.session).map_err(fault_status)?;
    let query = Outgoing::QueryJournal { request_id: reading.request_id(), from_seq: wanted.from_seq };
    if !hub.fleet.send(&host, way.session, query) {
        return Err(fault_status(Fault::new(Code::Busy, format!("much waits to be sent to host `{name}`; try again"))));
    }
    hub.record(
        NewEvent::new(Kind::JournalRead, actor.clone(), format!("asked for its journal from record {}", wanted.from_seq)).host(&name),
    )
    .await;
    let (tx, rx) = mpsc::channel(1);
    tokio::spawn(pass_on(hub.clone(), reading, tx));
    Ok(Box::pin(ReceiverStream::new(rx)))
}

/// Passes on what a container of a connected host, or a command there, writes.
pub(super) async fn logs(hub: &Hub, actor: &Actor, request: pb::GetLogsRequest, not_after_s: u64) -> Result<LogStream, Status> {
    let host = HostId::parse(&request.host_id).map_err(|e| fault_status(wire::invalid(e.to_string())))?;
    let wanted = wanted(request)?;
    let (name, known) = hub.fleet.name(&host);
    if !known {
        return Err(fault_status(Fault::new(Code::NotFound, format!("there is no host {host}"))));
    }
    let absent = || Fault::new(Code::Waiting, format!("host `{name}` is not connected, and what it writes is there alone"));
    let way = hub.fleet.way(&host).ok_or_else(|| fault_status(absent()))?;
    let is_output = matches!(wanted, Wanted::Output(_));
    let log = hub.ops.logs.begin(&host, way.session, is_output).map_err(fault_status)?;
    let query = Outgoing::QueryLogs { request_id: log.request_id(), wanted: wanted.clone() };
    if !hub.fleet.send(&host, way.session, query) {
        return Err(fault_status(Fault::new(Code::Busy, format!("much waits to be sent to host `{name}`; try again"))));
    }
    // Of a command its order tells.
    if let Wanted::Log { container, .. } = &wanted {
        hub.record(NewEvent::new(Kind::LogsRead, actor.clone(), format!("asked for the log of {container}")).host(&name)).await;
    }
    let (tx, rx) = mpsc::channel(1);
    let hub = hub.clone();
    tokio::spawn(async move {
        let mut log = log;
        pass_log_on(&hub, &mut log, &way, not_after_s, &tx).await;
        // Before its place is given to another: until then the host keeps one for it, and a command may wait for its reader.
        let end = way.tx.send(Outgoing::EndLogs { request_id: log.request_id() });
        let _ = way.cut.run_until_cancelled(end).await;
    });
    Ok(Box::pin(ReceiverStream::new(rx)))
}

fn wanted(request: pb::GetLogsRequest) -> Result<Wanted, Status> {
    let pb::GetLogsRequest { container, follow, tail, since_unix_s, op_id: id, .. } = request;
    match (container.is_empty(), id.is_empty()) {
        (false, true) if wire::short(&container) == container => Ok(Wanted::Log { container, follow, tail, since_s: since_unix_s }),
        (true, false) => op_id(id).map(Wanted::Output),
        (true | false, _) => Err(fault_status(wire::invalid("the request names no container, or more than that"))),
    }
}

/// Passes a log on until it ends; after each part its host may send one more.
async fn pass_log_on(hub: &Hub, log: &mut Log, way: &Way, not_after_s: u64, tx: &mpsc::Sender<Result<pb::GetLogsResponse, Status>>) {
    loop {
        let left = Duration::from_secs(not_after_s.saturating_sub(hub.clock.unix_s().0));
        let request_id = log.request_id();
        let next = async {
            let Some(chunk) = log.next().await.map_err(fault_status)? else { return Ok(false) };
            let part = Ok(pb::GetLogsResponse { data: chunk.data, stderr: chunk.is_stderr });
            // An ordinary crowd of orders fills a session's queue: that is waited for.
            let goes_on = tx.send(part).await.is_ok() && way.tx.send(Outgoing::MoreLogs { request_id }).await.is_ok();
            Ok(goes_on)
        };
        let next = tokio::select! {
            () = tx.closed() => return,
            () = hub.stopping.cancelled() => Err(Status::unavailable("the hub is stopping")),
            () = tokio::time::sleep(left) => Err(Status::unauthenticated("the client certificate has expired; renew it")),
            next = next => next,
        };
        match next {
            Ok(true) => {}
            Ok(false) => return,
            Err(status) => {
                // Who does not read it in time does not get it.
                let _ = tx.send_timeout(Err(status), limits::LAST_WORD).await;
                return;
            }
        }
    }
}

async fn pass_on(hub: Hub, mut reading: Reading, tx: mpsc::Sender<Result<pb::GetJournalResponse, Status>>) {
    loop {
        let next = tokio::select! {
            () = tx.closed() => return,
            () = hub.stopping.cancelled() => {
                let _ = tx.send(Err(Status::unavailable("the hub is stopping"))).await;
                return;
            }
            next = reading.next() => next,
        };
        let sent = match next {
            Ok(Some(lines)) => tx.send(Ok(pb::GetJournalResponse { lines })).await,
            Ok(None) => return,
            Err(fault) => {
                let _ = tx.send(Err(fault_status(fault))).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
