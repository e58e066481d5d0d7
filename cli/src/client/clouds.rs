//! What clouds have, as the hub heard it from them. Nothing here has authority.

use moorline_common::fault::{Code, Fault};
use moorline_proto::v1 as pb;
use serde::Serialize;
use serde_json::Value;

use super::Client;
use crate::clock;
use crate::error::Failure;

/// Something in a cloud; keys are stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceFacts {
    /// The cloud.
    pub cloud: String,
    /// `droplet` or `snapshot`.
    pub kind: String,
    /// Its number there.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// When it was seen first, by the hub's clock.
    pub first_seen: String,
    /// When it was seen last, by the hub's clock.
    pub seen: String,
    /// When it was deleted or found gone, by the hub's clock; empty while it is there.
    pub deleted: String,
    /// The saga that made or deleted it; empty for none.
    pub saga_id: String,
    /// What it should be like; none when nothing is expected of it.
    pub spec: Option<SpecFacts>,
    /// What the cloud said of it last.
    pub value: Value,
    /// Milliseconds since 1970 of `seen`.
    #[serde(skip)]
    pub seen_unix_ms: u64,
}

/// What a droplet should be like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpecFacts {
    /// The fields.
    pub fields: Value,
    /// Counts how often that was changed, from 1.
    pub version: u64,
    /// When it was provisioned, by the hub's clock.
    pub provisioned: String,
    /// Who provisioned it.
    pub provisioned_by: String,
    /// The saga that did; empty for none.
    pub saga_id: String,
}

/// What a look at a cloud found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScanFacts {
    /// The cloud.
    pub cloud: String,
    /// Droplets that were compared with what they should be like.
    pub checked: u64,
    /// Fields that differ.
    pub drifted_fields: u64,
    /// Those that were not in the inbox.
    pub new_drift: u64,
    /// Those that were, and differ no more.
    pub resolved_stale: u64,
}

fn json(text: &str) -> Result<Value, Fault> {
    let malformed = |e: serde_json::Error| Fault::new(Code::BadEnvelope, format!("the hub sent a malformed resource: {e}"));
    serde_json::from_str(text).map_err(malformed)
}

impl TryFrom<pb::Resource> for ResourceFacts {
    type Error = Fault;
    fn try_from(one: pb::Resource) -> Result<Self, Fault> {
        let moment = |ms: u64| if ms == 0 { String::new() } else { clock::rfc3339(ms) };
        let spec = one.spec.map(|spec| {
            Ok::<_, Fault>(SpecFacts {
                fields: json(&spec.fields_json)?,
                version: spec.version,
                provisioned: moment(spec.provisioned_unix_ms),
                provisioned_by: spec.provisioned_by,
                saga_id: spec.saga_id,
            })
        });
        Ok(Self {
            cloud: one.cloud,
            kind: one.kind,
            number: one.number,
            name: one.name,
            first_seen: moment(one.first_seen_unix_ms),
            seen: moment(one.seen_unix_ms),
            deleted: moment(one.deleted_unix_ms),
            saga_id: one.saga_id,
            spec: spec.transpose()?,
            value: json(&one.value_json)?,
            seen_unix_ms: one.seen_unix_ms,
        })
    }
}

impl From<pb::CloudScan> for ScanFacts {
    fn from(scan: pb::CloudScan) -> Self {
        let pb::CloudScan { cloud, checked, drifted_fields, new_drift, resolved_stale } = scan;
        Self { cloud, checked, drifted_fields, new_drift, resolved_stale }
    }
}

pub(super) fn unknown_to(failure: Failure) -> Failure {
    if failure.is(Code::UnsupportedVersion) { failure.with_remedy("the hub is older than clouds: update it") } else { failure }
}

impl Client {
    /// What clouds have, sorted, and whether there is more than one answer holds.
    ///
    /// # Errors
    /// [`Code::CloudUnconfigured`] for a cloud that the hub does not have; when the call fails or the answer is malformed.
    pub async fn resources(&self, cloud: &str, kind: &str, all: bool) -> Result<(Vec<ResourceFacts>, bool), Failure> {
        let request = pb::ListResourcesRequest { cloud: cloud.to_owned(), kind: kind.to_owned(), all };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_resources(request).await }).await.map_err(unknown_to)?;
        let resources = answer.resources.into_iter().map(ResourceFacts::try_from).collect::<Result<_, _>>()?;
        Ok((resources, answer.truncated))
    }

    /// Has the hub look at its clouds now.
    ///
    /// # Errors
    /// Those of the cloud.
    pub async fn scan_drift(&self, cloud: &str) -> Result<Vec<ScanFacts>, Failure> {
        let request = pb::ScanDriftRequest { cloud: cloud.to_owned() };
        let answer = self.hub.call(|mut rpc| async move { rpc.scan_drift(request).await }).await.map_err(unknown_to)?;
        Ok(answer.scans.into_iter().map(ScanFacts::from).collect())
    }
}
