//! What clouds have, for operators, and what they decide about it.

use std::collections::BTreeMap;

use moorline_common::fault::{Code, Fault, cut};
use moorline_proto::v1 as pb;

use super::{drift, wire};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::inventory;
use crate::limits;
use crate::store::{CloudKind, CloudSweep, ProvisionedRecord, ResourceRecord, ShownDrift, StoreError};

/// The names of the clouds that are asked for: all for an empty one.
fn named(hub: &Hub, cloud: &str) -> Result<Vec<String>, Fault> {
    if cloud.is_empty() {
        let all: Vec<String> = hub.clouds.all().map(|provider| provider.name().to_owned()).collect();
        return Ok(all);
    }
    let provider = hub.clouds.get(cloud).map_err(|error| Fault::new(error.code(), error.to_string()))?;
    Ok(vec![provider.name().to_owned()])
}

fn wired(record: ResourceRecord, wanted: Option<&ProvisionedRecord>) -> pb::Resource {
    let saga = |id: &Option<_>| id.as_ref().map(ToString::to_string).unwrap_or_default();
    pb::Resource {
        cloud: record.cloud,
        kind: record.kind.as_str().to_owned(),
        number: record.number,
        name: record.name,
        value_json: record.value.to_string(),
        first_seen_unix_ms: record.first_seen_ms,
        seen_unix_ms: record.seen_ms,
        deleted_unix_ms: record.deleted_ms,
        saga_id: saga(&record.saga_id),
        spec: wanted.map(|wanted| pb::ResourceSpec {
            fields_json: wanted.spec.to_string(),
            version: wanted.spec_version,
            provisioned_unix_ms: wanted.provisioned_ms,
            provisioned_by: wanted.provisioned_by.clone(),
            saga_id: saga(&wanted.saga_id),
        }),
    }
}

pub(super) async fn list(hub: &Hub, asked: pb::ListResourcesRequest) -> Result<pb::ListResourcesResponse, Fault> {
    let kind = match asked.kind.as_str() {
        "" => None,
        text => {
            let lacks = || wire::invalid(format!("`{}` is no kind of resource; there are `droplet` and `snapshot`", cut(text)));
            Some(CloudKind::parse(text).ok_or_else(lacks)?)
        }
    };
    let mut resources = Vec::new();
    for cloud in named(hub, &asked.cloud)? {
        let wanted = hub.store.provisioned(cloud.clone()).await.map_err(StoreError::into_fault)?;
        let wanted: BTreeMap<u64, ProvisionedRecord> = wanted.into_iter().map(|one| (one.number, one)).collect();
        // Droplets that are gone and still expected are shown: somebody has to decide about them.
        let found = hub.store.resources(cloud, true).await.map_err(StoreError::into_fault)?;
        let spec = |record: &ResourceRecord| wanted.get(&record.number).filter(|_| record.kind == CloudKind::Droplet);
        let is_asked = |record: &ResourceRecord| {
            kind.is_none_or(|kind| kind == record.kind) && (asked.all || record.deleted_ms == 0 || spec(record).is_some())
        };
        resources.extend(found.into_iter().filter(is_asked).map(|record| {
            let spec = spec(&record);
            wired(record, spec)
        }));
    }
    let truncated = resources.len() > limits::RESOURCES_MAX;
    resources.truncate(limits::RESOURCES_MAX);
    Ok(pb::ListResourcesResponse { resources, truncated })
}

/// Looks at clouds now.
pub(super) async fn scan(hub: &Hub, cloud: &str) -> Result<pb::ScanDriftResponse, Fault> {
    let clouds = named(hub, cloud)?;
    if clouds.is_empty() {
        let message = "this hub has no cloud: write its section [cloud.digitalocean] in hub.toml; hosts tell of their drift by themselves";
        return Err(Fault::new(Code::CloudUnconfigured, message));
    }
    let mut scans = Vec::new();
    for cloud in clouds {
        let provider = hub.clouds.get(&cloud).map_err(|error| Fault::new(error.code(), error.to_string()))?;
        let CloudSweep { checked, drifted_fields, new_drift, resolved_stale } = inventory::sync(hub, provider.as_ref()).await?;
        scans.push(pb::CloudScan { cloud, checked, drifted_fields, new_drift, resolved_stale });
    }
    Ok(pb::ScanDriftResponse { scans })
}

/// What a drift in a cloud shows is what should be.
pub(super) async fn accept(hub: &Hub, by: Actor, asked: pb::AcceptCloudDriftRequest) -> Result<pb::AcceptCloudDriftResponse, Fault> {
    let shown = asked.drift.ok_or_else(|| wire::invalid("the request names no drift"))?;
    let shown = ShownDrift { id: shown.id, actual: shown.actual };
    let reason = cut(&asked.reason);
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let words = format!("drift {} is accepted, {} is wanted from now on{why}", shown.id, cut(&shown.actual));
    let event = NewEvent::new(Kind::CloudDriftAccepted, by.clone(), words);
    let record = hub.store.accept_cloud_drift(shown, by, reason, event).await.map_err(StoreError::into_fault)?;
    Ok(pb::AcceptCloudDriftResponse { drift: Some(drift::wired(hub, record)) })
}
