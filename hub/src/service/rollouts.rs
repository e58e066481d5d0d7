//! Rollouts for operators, and which hosts of a push take part in one.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use moorline_common::rollout::{Act, Plan, Standing};
use moorline_proto::v1 as pb;
use tonic::Status;

use super::{fault_status, store_status, wire};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::store::{NewRevision, NewRollout, RolloutRecord, StoreError};

/// How a revision spreads: over the hosts that it gives something that they do not have, by their own last word. What
/// changes nothing on a host can do no harm there, and a host that leaves is not to wait for others.
pub(super) fn spread(hub: &Hub, revision: &NewRevision, plan: Option<pb::RolloutPlan>) -> Result<Option<NewRollout>, Fault> {
    let Some(plan) = plan else { return Ok(None) };
    let changed = revision.slices.iter().filter(|s| !s.empty && !hub.fleet.has_applied(&s.host_id, &revision.topology, &s.version_hash));
    Ok(Some(NewRollout { plan: Plan::try_from(plan)?, hosts: changed.map(|s| s.host_id.clone()).collect() }))
}

/// One rollout.
pub(super) async fn get(hub: &Hub, wanted: pb::GetRolloutRequest) -> Result<pb::GetRolloutResponse, Status> {
    let topology = wire::topology(&wanted.topology).map_err(fault_status)?;
    let found = hub.store.rollout(topology.clone(), Generation(wanted.generation)).await.map_err(store_status)?;
    let mut record = found.ok_or_else(|| fault_status(none(&topology, wanted.generation)))?;
    for host in record.hosts.iter_mut().filter(|h| h.standing == Standing::RolledBack) {
        // Its report may have come after its heartbeat.
        if let Some(why) = hub.fleet.why_back(&host.host_id, record.generation) {
            host.reason = why;
        }
    }
    Ok(pb::GetRolloutResponse { rollout: Some(shown(record)) })
}

/// Rollouts.
pub(super) async fn list(hub: &Hub, wanted: pb::ListRolloutsRequest) -> Result<pb::ListRolloutsResponse, Status> {
    let topology = (!wanted.topology.is_empty()).then(|| wire::topology(&wanted.topology)).transpose().map_err(fault_status)?;
    let limit = if wanted.limit == 0 { limits::ROLLOUTS_DEFAULT } else { wanted.limit.min(limits::ROLLOUTS_MAX) };
    let records = hub.store.rollouts(topology, limit).await.map_err(store_status)?;
    Ok(pb::ListRolloutsResponse { rollouts: records.into_iter().map(shown).collect() })
}

/// Acts on a rollout.
pub(super) async fn act(
    hub: &Hub,
    actor: Actor,
    topology: TopologyId,
    generation: Generation,
    act: i32,
) -> Result<pb::ActOnRolloutResponse, Fault> {
    let act = pb::RolloutAct::try_from(act).map_err(|_| wire::invalid("unknown act on a rollout")).and_then(Act::try_from)?;
    let (kind, word) = match act {
        Act::Pause => (Kind::RolloutPaused, "paused"),
        Act::Resume => (Kind::RolloutResumed, "resumed"),
        Act::Abort => (Kind::RolloutAborted, "aborted"),
    };
    let words = format!("{word} by {}", actor.subject);
    let event = NewEvent::new(kind, actor, words);
    let record = hub.store.act_on_rollout(topology, generation, act, event).await.map_err(StoreError::into_fault)?;
    hub.rollouts.changed();
    Ok(pb::ActOnRolloutResponse { rollout: Some(shown(record)) })
}

fn none(topology: &TopologyId, generation: u64) -> Fault {
    let which = if generation == 0 { "no rollout".to_owned() } else { format!("no rollout of generation {generation}") };
    Fault::new(Code::NotFound, format!("`{topology}` has {which}; one begins with a push of a file that has `rollout`"))
}

fn shown(record: RolloutRecord) -> pb::Rollout {
    let counts = record.counts.into_iter().map(|(standing, hosts)| pb::RolloutCount { standing: standing.as_str().to_owned(), hosts });
    let hosts = record.hosts.into_iter().map(|host| pb::RolloutHost {
        host_id: host.host_id.into(),
        host: host.name,
        standing: host.standing.as_str().to_owned(),
        reason: host.reason,
        released_unix_ms: host.released_ms,
        changed_unix_ms: host.changed_ms,
    });
    pb::Rollout {
        topology: record.topology.into(),
        generation: record.generation.0,
        plan: Some(pb::RolloutPlan::from(&record.plan)),
        state: record.state.as_str().to_owned(),
        reason: record.reason,
        started_unix_ms: record.started_ms,
        started_by: record.started_by,
        changed_unix_ms: record.changed_ms,
        counts: counts.collect(),
        hosts: hosts.collect(),
    }
}
