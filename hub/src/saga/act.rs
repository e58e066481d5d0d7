//! What the hub does itself for a saga. Each can be done again after a crash: what is done already is found.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, HostName, SagaId, TopologyId, UnixSeconds};
use moorline_common::saga::{Condition, End, HubAct, Plan};
use moorline_common::sign::Signed;
use moorline_common::statement::{SliceStatement, TopologyStatement};
use moorline_proto::v1 as pb;
use prost::Message as _;
use serde_json::{Value, json};

use crate::auth::Actor;
use crate::hub::Hub;
use crate::limits;
use crate::service;
use crate::store::StoreError;

/// Does it; gives back how that ended.
pub(super) async fn perform(hub: &Hub, plan: &Plan, act: &HubAct) -> End {
    let done = match act {
        HubAct::Push { topology, generation, source } => push(hub, &plan.saga_id, topology, *generation, source).await,
        HubAct::Applied { topology, generation, hosts } => applied(hub, plan, topology, *generation, hosts).await,
    };
    match done {
        Ok(output) => End::Succeeded { output },
        // Another push in between stays; a store that failed may do better.
        Err(fault) => End::Failed { again: fault.code == Code::Internal, effect: false, signed: false, fault },
    }
}

async fn push(hub: &Hub, saga_id: &SagaId, topology: &TopologyId, generation: Generation, source: &str) -> Result<Value, Fault> {
    let pushed = || json!({ "topology": topology, "generation": generation });
    let stored = hub.store.revision(topology.clone(), generation, false).await.map_err(StoreError::into_fault)?;
    if let Some(stored) = stored {
        return if stored.record.source_sha256 == source { Ok(pushed()) } else { Err(moved(topology, generation)) };
    }
    let body = hub.store.saga_revision(saga_id.clone(), source.to_owned()).await.map_err(StoreError::into_fault)?;
    let body = body.ok_or_else(|| Fault::new(Code::Internal, "the store lacks the revision that the saga pushes"))?;
    let revision = pb::SagaRevision::decode(body.as_slice()).map_err(|e| Fault::new(Code::Internal, e.to_string()))?;
    let request = request(revision)?;
    match service::push(hub, Actor::saga(saga_id), request).await {
        Ok(_) => Ok(pushed()),
        Err(fault) if fault.code == Code::BaseMoved => Err(moved(topology, generation)),
        Err(fault) => Err(fault),
    }
}

fn moved(topology: &TopologyId, generation: Generation) -> Fault {
    Fault::new(
        Code::BaseMoved,
        format!("`{topology}` has another revision by now: generation {generation} of this saga does not follow it"),
    )
}

/// The push that a revision of a saga is.
///
/// # Errors
/// [`Code::BadEnvelope`] or [`Code::InvalidArgument`] for what is none.
pub(crate) fn request(revision: pb::SagaRevision) -> Result<pb::PushRequest, Fault> {
    let source = revision.source.ok_or_else(|| Fault::new(Code::InvalidArgument, "a revision has no source"))?;
    let statement = Signed::<TopologyStatement>::from_json(&source.json)?.peek()?;
    let slice = |envelope: pb::Envelope| {
        let host = Signed::<SliceStatement>::from_json(&envelope.json)?.peek()?.host_id;
        Ok(pb::HostSlice { host_id: host.into(), slice: Some(envelope) })
    };
    Ok(pb::PushRequest {
        topology: statement.topology.to_string(),
        base_generation: statement.generation.0.saturating_sub(1),
        source: Some(source),
        slices: revision.slices.into_iter().map(slice).collect::<Result<_, Fault>>()?,
        rollout: None,
        accepts: Vec::new(),
    })
}

/// Waits until all of them have it. The caller's patience is the step's.
async fn applied(
    hub: &Hub,
    plan: &Plan,
    topology: &TopologyId,
    generation: Generation,
    hosts: &BTreeSet<HostName>,
) -> Result<Value, Fault> {
    loop {
        let lacks = |host: &&HostName| plan.host_id(host).is_none_or(|id| !has_applied(hub, &id, topology, generation));
        if hosts.iter().find(lacks).is_none() {
            return Ok(json!({ "generation": generation }));
        }
        tokio::time::sleep(limits::SAGA_LOOK).await;
    }
}

fn has_applied(hub: &Hub, host: &HostId, topology: &TopologyId, generation: Generation) -> bool {
    let view = hub.fleet.view(host);
    view.connected
        && view
            .beat
            .is_some_and(|beat| beat.topology.as_ref() == Some(topology) && beat.applied_generation >= generation && !beat.converging)
}

/// What does not hold of what a step waits for.
pub(super) async fn unmet(hub: &Hub, plan: &Plan, conditions: &[Condition]) -> Result<Option<Fault>, StoreError> {
    for condition in conditions {
        let why = match condition {
            Condition::Connected(host) if plan.host_id(host).is_some_and(|id| hub.fleet.view(&id).connected) => continue,
            Condition::Connected(host) => format!("host {host} is not connected"),
            Condition::After(UnixSeconds(at)) if hub.clock.unix_s().0 >= *at => continue,
            Condition::After(_) => "its time has not come".to_owned(),
            Condition::Newest { topology, generation } => {
                let newest = hub.store.revision(topology.clone(), Generation(0), false).await?;
                match newest.map(|newest| newest.record.generation) {
                    Some(newest) if newest == *generation => continue,
                    Some(newest) => format!("the newest revision of `{topology}` is {newest}, and not {generation}"),
                    None => format!("there is no topology `{topology}`"),
                }
            }
        };
        return Ok(Some(Fault::new(Code::Waiting, why)));
    }
    Ok(None)
}
