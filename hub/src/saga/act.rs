//! What the hub does itself for a saga. Each can be done again after a crash: what is done already is found.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, HostName, SagaId, TopologyId, UnixSeconds};
use moorline_common::saga::{Act, Condition, End, HubAct, NewHost, Plan, Side, State, StepNumber};
use moorline_common::sign::Signed;
use moorline_common::statement::{SliceStatement, TopologyStatement};
use moorline_proto::v1 as pb;
use prost::Message as _;
use serde_json::{Value, json};

use super::cloud;
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::service;
use crate::store::{HostRecord, HostState, StoreError};

/// One try of something that the hub does itself.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The saga when it began.
    pub state: State,
    /// The step.
    pub step: StepNumber,
    /// Which side of it.
    pub side: Side,
    /// Which try.
    pub attempt: u32,
    /// Whether it began before, under this runner or another: it may have done anything of it.
    pub is_resumed: bool,
}

impl Job {
    /// How long it may take.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.plan.task(self.step, self.side).map_or(0, |task| task.timeout_s))
    }

    /// Does it; gives back how that ended.
    pub(super) async fn perform(&self, hub: &Hub) -> End {
        match self.plan.task(self.step, self.side).map(|task| &task.act) {
            Some(Act::Hub(act)) => perform(hub, &self.plan, act).await,
            Some(Act::Cloud(act)) => cloud::perform(hub, self, act).await,
            Some(Act::Host(_)) | None => {
                let fault = Fault::new(Code::Internal, "the hub was to do what is a host's");
                End::Failed { fault, effect: false, signed: false, again: false }
            }
        }
    }
}

async fn perform(hub: &Hub, plan: &Plan, act: &HubAct) -> End {
    let done = match act {
        HubAct::Push { topology, generation, source } => push(hub, &plan.saga_id, topology, *generation, source).await,
        HubAct::Applied { topology, generation, hosts } => applied(hub, plan, topology, *generation, hosts).await,
        HubAct::Expect { host, token } => expect(hub, host, token).await,
        HubAct::Joined(new) => joined(hub, new).await,
        HubAct::Forget { host, token } => forget(hub, &plan.saga_id, host, token.as_deref()).await,
    };
    match done {
        Ok(output) => End::Succeeded { output },
        // Another push in between stays; a store that failed may do better, and a host may come back.
        Err(fault) => End::Failed { again: matches!(fault.code, Code::Internal | Code::Waiting), effect: false, signed: false, fault },
    }
}

async fn push(hub: &Hub, saga_id: &SagaId, topology: &TopologyId, generation: Generation, source: &str) -> Result<Value, Fault> {
    let pushed = || json!({ "topology": topology, "generation": generation });
    let stored = hub.store.revision(topology.clone(), generation, false).await.map_err(StoreError::into_fault)?;
    if let Some(stored) = stored {
        return if stored.record.source_sha256 == source { Ok(pushed()) } else { Err(moved(topology, generation)) };
    }
    let body = hub.store.saga_part(saga_id.clone(), source.to_owned()).await.map_err(StoreError::into_fault)?;
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

/// The host that joined by a token, if it did.
async fn newcomer(hub: &Hub, name: &HostName, token: Option<&str>) -> Result<Option<HostRecord>, StoreError> {
    let hosts = hub.store.hosts().await?;
    let is_meant = |host: &HostRecord| host.name == *name && token.is_none_or(|token| host.token_id == token);
    Ok(hosts.into_iter().find(is_meant))
}

/// Why a new host is not where it should be yet, and who can do what about it.
async fn not_yet(hub: &Hub, new: &NewHost) -> Result<Option<String>, StoreError> {
    let name = &new.host;
    let Some(host) = newcomer(hub, name, Some(&new.token)).await? else {
        return Ok(Some(format!("host {name} has not joined yet")));
    };
    if host.state == HostState::Pending {
        return Ok(Some(format!("host {name} has joined and waits for an operator: `moorctl host approve {name}`")));
    }
    let view = hub.fleet.view(&host.host_id);
    if !view.connected || view.beat.is_none() {
        return Ok(Some(format!("host {name} is bound and is not connected")));
    }
    Ok(match view.target {
        _ if !new.converged => None,
        None => Some(format!("host {name} stands in no topology: write it in one, then `moorctl push`")),
        Some(_) if view.converged => None,
        Some(target) => Some(format!("host {name} has not applied {} generation {} yet", target.topology, target.generation)),
    })
}

async fn expect(hub: &Hub, name: &HostName, token: &str) -> Result<Value, Fault> {
    let hosts = hub.store.hosts().await.map_err(StoreError::into_fault)?;
    let is_taken = |host: &HostRecord| host.name == *name && host.state == HostState::Bound && host.token_id != token;
    if hosts.iter().any(is_taken) {
        return Err(Fault::new(Code::AlreadyExists, format!("another host is called {name}: free the name with `moorctl host rm {name}`")));
    }
    Ok(json!({ "host": name }))
}

async fn joined(hub: &Hub, new: &NewHost) -> Result<Value, Fault> {
    if let Some(why) = not_yet(hub, new).await.map_err(StoreError::into_fault)? {
        return Err(Fault::new(Code::Waiting, why));
    }
    let host = newcomer(hub, &new.host, Some(&new.token)).await.map_err(StoreError::into_fault)?;
    Ok(json!({ "host": new.host, "host_id": host.map(|host| host.host_id) }))
}

async fn forget(hub: &Hub, saga_id: &SagaId, name: &HostName, token: Option<&str>) -> Result<Value, Fault> {
    let Some(host) = newcomer(hub, name, token).await.map_err(StoreError::into_fault)? else {
        return Ok(json!({ "removed": false }));
    };
    let words = format!("removed by saga {saga_id}; its name is free");
    let event = NewEvent::new(Kind::HostRemoved, Actor::saga(saga_id), words).host(name.as_str()).body(host.host_id.as_str());
    match hub.forget(&host.host_id, event).await.map_err(StoreError::into_fault) {
        Ok(()) => Ok(json!({ "removed": true })),
        Err(fault) if fault.code == Code::NotFound => Ok(json!({ "removed": false })),
        Err(fault) => Err(fault),
    }
}

/// What does not hold of what a step waits for.
pub(super) async fn unmet(hub: &Hub, plan: &Plan, conditions: &[Condition]) -> Result<Option<Fault>, StoreError> {
    for condition in conditions {
        let why = match condition {
            Condition::Connected(host) if plan.host_id(host).is_some_and(|id| hub.fleet.view(&id).connected) => continue,
            Condition::Connected(host) => format!("host {host} is not connected"),
            Condition::Joined(new) => match not_yet(hub, new).await? {
                None => continue,
                Some(why) => why,
            },
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
