//! Pushes: an operator's, or that of a saga whose plan names the revision.

use moorline_common::fault::Fault;
use moorline_common::id::{Generation, HostId};
use moorline_proto::v1 as pb;

use super::{checks, drift, rollouts, wire};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::store::StoreError;

/// Stores a revision, and lets it spread.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub(crate) async fn push(hub: &Hub, by: Actor, wanted: pb::PushRequest) -> Result<pb::PushResponse, Fault> {
    let topology = wire::topology(&wanted.topology)?;
    let base = Generation(wanted.base_generation);
    let mut revision = checks::revision(hub, &topology, base, wanted.source, wanted.slices, wanted.accepts, &by).await?;
    revision.rollout = rollouts::spread(hub, &revision, wanted.rollout)?;
    drift::catch_up(hub, &revision.accepts).await?;
    let hosts: Vec<HostId> = revision.slices.iter().map(|s| s.host_id.clone()).collect();
    let words = if revision.down { "teardown" } else { "revision" };
    let message = if revision.message.is_empty() { String::new() } else { format!(": {}", revision.message) };
    let event = NewEvent::new(Kind::Pushed, by.clone(), format!("{words} for {} hosts{message}", hosts.len()))
        .revision(&topology, base.next())
        .body(&revision.source_sha256);
    let generation = hub.store.push(revision, event).await.map_err(StoreError::into_fault)?;
    hub.rollouts.changed();
    hub.retarget(hosts).await.map_err(StoreError::into_fault)?;
    tracing::info!(actor = by.subject, %topology, generation = generation.0, "pushed");
    Ok(pb::PushResponse { generation: generation.0 })
}
