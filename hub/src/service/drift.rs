//! The inbox for operators. What a drift is worth the host's signed report says; the hub keeps what was decided.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostId;
use moorline_common::op::Act;
use moorline_proto::v1 as pb;
use tonic::Status;

use super::{fault_status, ops, store_status, wire};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::store::{DriftQuery, DriftRecord, Scope, ShownDrift, StoreError};

pub(super) fn wired(hub: &Hub, record: DriftRecord) -> pb::Drift {
    let name = record.scope.host().map(|host| hub.fleet.name(host));
    pb::Drift {
        id: record.id,
        host_id: record.scope.host().map(ToString::to_string).unwrap_or_default(),
        host: name.filter(|(_, known)| *known).map(|(name, _)| name).unwrap_or_default(),
        resource: record.drift.resource.into(),
        field: record.drift.field,
        expected: record.drift.expected,
        actual: record.drift.actual,
        status: record.status.as_str().to_owned(),
        topology: record.topology,
        generation: record.generation.0,
        detected_unix_ms: record.detected_ms,
        changed_unix_ms: record.changed_ms,
        resolved_unix_ms: record.resolved_ms,
        resolved_by: record.resolved_by,
        reason: record.reason,
        ignored_until_unix_ms: record.ignored_until_ms,
        accepted_generation: record.accepted_generation.0,
        op_id: record.op_id,
        cloud: match record.scope {
            Scope::Host(_) => String::new(),
            Scope::Cloud(cloud) => cloud,
        },
    }
}

/// What an operator was shown, at most [`limits::DRIFTS_DECIDED_MAX`].
pub(super) fn shown(drifts: Vec<pb::ShownDrift>) -> Result<Vec<ShownDrift>, Fault> {
    if drifts.len() > limits::DRIFTS_DECIDED_MAX {
        let message = format!("{} drifts at once; at most {} are taken", drifts.len(), limits::DRIFTS_DECIDED_MAX);
        return Err(Fault::new(Code::TooLarge, message));
    }
    Ok(drifts.into_iter().map(|d| ShownDrift { id: d.id, actual: d.actual }).collect())
}

/// Lets the rows have what their hosts said last: what is decided is decided about that.
pub(super) async fn catch_up(hub: &Hub, drifts: &[ShownDrift]) -> Result<(), Fault> {
    let mut hosts = BTreeSet::new();
    for one in drifts {
        hosts.extend(hub.store.drift(one.id).await.map_err(StoreError::into_fault)?.and_then(|row| row.scope.host().cloned()));
    }
    for host in hosts {
        if let Some((report, events)) = hub.fleet.unkept_drift(&host) {
            let (name, _) = hub.fleet.name(&host);
            hub.store.report_drift(host, name, report, events).await.map_err(StoreError::into_fault)?;
        }
    }
    Ok(())
}

pub(super) async fn list(hub: &Hub, wanted: pb::ListDriftRequest) -> Result<pb::ListDriftResponse, Status> {
    let host = (!wanted.host_id.is_empty()).then(|| HostId::parse(wanted.host_id)).transpose();
    let query = DriftQuery {
        host: host.map_err(|e| fault_status(wire::invalid(e.to_string())))?,
        all: wanted.all,
        before: (wanted.before > 0).then_some(wanted.before),
        limit: if wanted.limit == 0 { limits::DRIFTS_DEFAULT } else { wanted.limit.min(limits::DRIFTS_MAX) },
    };
    let drifts = hub.store.drifts(query).await.map_err(store_status)?;
    Ok(pb::ListDriftResponse { drifts: drifts.into_iter().map(|record| wired(hub, record)).collect() })
}

pub(super) async fn get(hub: &Hub, id: u64) -> Result<pb::GetDriftResponse, Status> {
    let found = hub.store.drift(id).await.map_err(store_status)?;
    let missing = || fault_status(Fault::new(Code::NotFound, format!("there is no drift {id}; list them with `moorctl drift ls`")));
    Ok(pb::GetDriftResponse { drift: Some(wired(hub, found.ok_or_else(missing)?)) })
}

pub(super) async fn ignore(hub: &Hub, by: Actor, wanted: pb::IgnoreDriftRequest) -> Result<pb::IgnoreDriftResponse, Fault> {
    let now_ms = hub.clock.unix_ms();
    let latest = now_ms.saturating_add(u64::try_from(limits::DRIFT_IGNORED_MAX.as_millis()).unwrap_or(u64::MAX));
    if wanted.until_unix_ms <= now_ms || wanted.until_unix_ms > latest {
        return Err(wire::invalid("a drift is ignored until a moment in the future, at most a year ahead; check this machine's clock"));
    }
    let reason = moorline_common::fault::cut(&wanted.reason);
    let words =
        format!("drift {} is ignored until {} ms{}{reason}", wanted.id, wanted.until_unix_ms, if reason.is_empty() { "" } else { ": " });
    let host =
        hub.store.drift(wanted.id).await.map_err(StoreError::into_fault)?.and_then(|d| d.scope.host().map(|host| hub.fleet.name(host).0));
    let event = NewEvent::new(Kind::DriftIgnored, by.clone(), words).host(host.unwrap_or_default());
    let record = hub.store.ignore_drift(wanted.id, wanted.until_unix_ms, reason, by, event).await.map_err(StoreError::into_fault)?;
    Ok(pb::IgnoreDriftResponse { drift: Some(wired(hub, record)) })
}

pub(super) async fn revert(hub: &Hub, by: &Actor, wanted: pb::RevertDriftRequest) -> Result<pb::RevertDriftResponse, Fault> {
    let drifts = shown(wanted.drifts)?;
    if drifts.is_empty() {
        return Err(wire::invalid("the request names no drift"));
    }
    let json = wire::json(wanted.op, "operation")?;
    catch_up(hub, &drifts).await?;
    let (op, _) = ops::submit_with(hub, by, &json, Some(drifts)).await?;
    Ok(pb::RevertDriftResponse { op: Some(op) })
}

/// Whether an order is one that reverts.
pub(super) fn require_converge(act: &Act) -> Result<(), Fault> {
    if matches!(act, Act::Converge(_)) { Ok(()) } else { Err(wire::invalid(format!("`{}` reverts no drift; `converge` does", act.kind()))) }
}
