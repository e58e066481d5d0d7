//! The inbox as the hub shows it. Nothing here has authority: what a host has its signed report says.

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, ResourceId};
use moorline_common::sign::Envelope;
use moorline_proto::v1 as pb;
use serde::Serialize;

use super::Client;
use crate::clock;
use crate::error::Failure;

/// One drift as the hub shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriftFacts {
    /// Counts all drifts of the hub.
    pub id: u64,
    /// The host's name; empty when the hub does not know the host any more, and in a cloud.
    pub host: String,
    /// The host; none in a cloud.
    pub host_id: Option<HostId>,
    /// The cloud that it is in; empty on a host.
    pub cloud: String,
    /// What differs.
    #[serde(flatten)]
    pub drift: Drift,
    /// `open`, `accepted`, `reverted`, `stale` or `ignored`.
    pub status: String,
    /// The topology that the host followed when it was seen first; empty in a cloud.
    pub topology: String,
    /// Its generation; in a cloud the version of the spec.
    pub generation: u64,
    /// When it was seen first, by the hub's clock.
    pub detected: String,
    /// When the live value changed last, by the hub's clock.
    pub changed: String,
    /// When it was resolved, by the hub's clock; empty while it is not.
    pub resolved: String,
    /// Who resolved it, or ordered it reverted; empty while nobody did.
    pub resolved_by: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Until when it is ignored; empty for not.
    pub ignored_until: String,
    /// The generation, or the version of the spec, that took the live value over; 0 for none.
    pub accepted_generation: u64,
    /// The operation that reverts it; empty for none.
    pub op_id: String,
    /// Milliseconds since 1970 of `detected`.
    #[serde(skip)]
    pub detected_unix_ms: u64,
}

impl DriftFacts {
    /// Whether an operator may still decide about it.
    #[must_use]
    pub fn is_unresolved(&self) -> bool {
        matches!(self.status.as_str(), "open" | "ignored")
    }

    /// What should be, for people.
    #[must_use]
    pub fn expected(&self) -> String {
        self.plain(&self.drift.expected)
    }

    /// What is, for people.
    #[must_use]
    pub fn actual(&self) -> String {
        self.plain(&self.drift.actual)
    }

    /// Values in clouds come as JSON.
    fn plain(&self, value: &str) -> String {
        let text = if self.cloud.is_empty() { None } else { serde_json::from_str::<String>(value).ok() };
        text.unwrap_or_else(|| value.to_owned())
    }
}

impl TryFrom<pb::Drift> for DriftFacts {
    type Error = Fault;
    fn try_from(drift: pb::Drift) -> Result<Self, Fault> {
        let malformed = |e: &dyn std::fmt::Display| Fault::new(Code::BadEnvelope, format!("the hub sent a malformed drift: {e}"));
        let moment = |ms: u64| if ms == 0 { String::new() } else { clock::rfc3339(ms) };
        let host_id = (!drift.host_id.is_empty()).then(|| HostId::parse(drift.host_id)).transpose().map_err(|e| malformed(&e))?;
        if host_id.is_some() != drift.cloud.is_empty() {
            return Err(malformed(&"it is on a host or in a cloud, and not both"));
        }
        Ok(Self {
            id: drift.id,
            host: drift.host,
            host_id,
            cloud: drift.cloud,
            drift: Drift {
                resource: ResourceId::parse(drift.resource).map_err(|e| malformed(&e))?,
                field: drift.field,
                expected: drift.expected,
                actual: drift.actual,
            },
            status: drift.status,
            topology: drift.topology,
            generation: drift.generation,
            detected: clock::rfc3339(drift.detected_unix_ms),
            changed: clock::rfc3339(drift.changed_unix_ms),
            resolved: moment(drift.resolved_unix_ms),
            resolved_by: drift.resolved_by,
            reason: drift.reason,
            ignored_until: moment(drift.ignored_until_unix_ms),
            accepted_generation: drift.accepted_generation,
            op_id: drift.op_id,
            detected_unix_ms: drift.detected_unix_ms,
        })
    }
}

/// A drift as it was shown to the operator who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: u64,
    /// What there was.
    pub actual: String,
}

impl From<&Shown> for pb::ShownDrift {
    fn from(shown: &Shown) -> Self {
        Self { id: shown.id, actual: shown.actual.clone() }
    }
}

fn required(drift: Option<pb::Drift>) -> Result<DriftFacts, Failure> {
    let missing = || Fault::new(Code::BadEnvelope, "the hub's answer holds no drift");
    Ok(DriftFacts::try_from(drift.ok_or_else(missing)?)?)
}

impl Client {
    /// Drifts, newest first; those that are not open only with `all`.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn drifts(&self, host: Option<&HostId>, all: bool, limit: u32) -> Result<Vec<DriftFacts>, Failure> {
        let host_id = host.map(ToString::to_string).unwrap_or_default();
        let request = pb::ListDriftRequest { host_id, all, limit, before: 0 };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_drift(request).await }).await?;
        Ok(answer.drifts.into_iter().map(DriftFacts::try_from).collect::<Result<_, _>>()?)
    }

    /// One drift.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the hub has none of this id.
    pub async fn drift(&self, id: u64) -> Result<DriftFacts, Failure> {
        let request = pb::GetDriftRequest { id };
        let answer = self
            .hub
            .call(|mut rpc| async move { rpc.get_drift(request).await })
            .await
            .map_err(|f| if f.is(Code::NotFound) { f.with_remedy("list what there is with `moorctl drift ls --all`") } else { f })?;
        required(answer.drift)
    }

    /// Leaves a drift alone until `until_unix_ms`.
    ///
    /// # Errors
    /// [`Code::DriftResolved`] and whatever else the hub refuses.
    pub async fn ignore_drift(&self, id: u64, until_unix_ms: u64, reason: &str) -> Result<DriftFacts, Failure> {
        let request = pb::IgnoreDriftRequest { id, until_unix_ms, reason: reason.to_owned() };
        required(self.hub.call(|mut rpc| async move { rpc.ignore_drift(request).await }).await?.drift)
    }

    /// What a drift in a cloud shows is what should be from now on.
    ///
    /// # Errors
    /// [`Code::DriftMoved`], [`Code::DriftResolved`] and whatever else the hub refuses.
    pub async fn accept_cloud_drift(&self, drift: &Shown, reason: &str) -> Result<DriftFacts, Failure> {
        let request = pb::AcceptCloudDriftRequest { drift: Some(drift.into()), reason: reason.to_owned() };
        let answer = self.hub.call(|mut rpc| async move { rpc.accept_cloud_drift(request).await }).await;
        required(answer.map_err(super::clouds::unknown_to)?.drift)
    }

    /// Hands in the operation that reverts `drifts`.
    ///
    /// # Errors
    /// [`Code::DriftMoved`], [`Code::DriftResolved`] and whatever else the hub refuses.
    pub async fn revert_drift(&self, drifts: &[Shown], op: &Envelope) -> Result<(), Failure> {
        let request = pb::RevertDriftRequest { drifts: drifts.iter().map(Into::into).collect(), op: Some(op.into()) };
        self.hub.call(|mut rpc| async move { rpc.revert_drift(request).await }).await.map(drop)
    }
}
