//! The operators' service. Whatever has authority comes as a signed envelope, which is checked here so
//! that rubbish is refused early; the agents remain the judges.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use moorline_common::fault::{Fault, cut};
use moorline_common::id::{Generation, HostId};
use moorline_proto::PROTOCOL_VERSION;
use moorline_proto::v1 as pb;
use moorline_proto::v1::operator_server::Operator;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{checks, clouds, drift, fault_status, ops, permitted, push, rollouts, sagas, store_status, to_its_end, wire};
use crate::auth::{Actor, Peer};
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::store::{HostState, StoreError};

/// The service.
#[derive(Clone)]
pub struct OperatorService {
    hub: Hub,
}

impl OperatorService {
    /// The operators' service of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// Lets only operators in; gives back who it is.
    async fn admit(&self, peer: Result<Peer, Status>) -> Result<Actor, Status> {
        let peer = peer?;
        permitted(&self.hub, &peer, peer.operator(self.hub.clock.unix_s().0)).await?;
        Ok(peer.actor())
    }

    /// Lets only those operators in who decide about drift.
    async fn admit_admin(&self, peer: Result<Peer, Status>) -> Result<Actor, Status> {
        let peer = peer?;
        permitted(&self.hub, &peer, peer.admin(self.hub.clock.unix_s().0)).await?;
        Ok(peer.actor())
    }

    /// Makes a change, whatever becomes of the caller; a refusal is recorded as `refused`.
    async fn change<T: Send + 'static>(
        &self,
        refused: NewEvent,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let hub = self.hub.clone();
        let change = async move {
            match work.await {
                Ok(done) => Ok(Response::new(done)),
                Err(fault) => Err(refuse(&hub, refused, fault).await),
            }
        };
        to_its_end(&self.hub.changes, change).await
    }
}

/// Records a refusal and gives it back as a status.
async fn refuse(hub: &Hub, event: NewEvent, fault: Fault) -> Status {
    tracing::warn!(actor = event.actor.subject, kind = event.kind.as_str(), %fault, "refused");
    if hub.refusals.admits(hub.clock.monotonic_ms()) {
        hub.record(NewEvent { message: fault.message.clone(), code: Some(fault.code), ..event }).await;
    }
    fault_status(fault)
}

/// Events for one caller.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<pb::Event, Status>> + Send>>;

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn get_cluster(&self, request: Request<pb::GetClusterRequest>) -> Result<Response<pb::GetClusterResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let roots = self.hub.store.roots().await.map_err(store_status)?;
        Ok(Response::new(pb::GetClusterResponse {
            cluster: self.hub.cluster.to_string(),
            hub_version: env!("CARGO_PKG_VERSION").to_owned(),
            roots: roots.into_iter().map(|json| pb::Envelope { json }).collect(),
            agent_addresses: self.hub.advertise.clone(),
            now_unix_ms: self.hub.clock.unix_ms(),
            protocol_version: PROTOCOL_VERSION,
        }))
    }

    async fn put_root(&self, request: Request<pb::PutRootRequest>) -> Result<Response<pb::PutRootResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let root = request.into_inner().root;
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::RootRefused, actor, ""), async move {
            let root = checks::root(&hub, &wire::json(root, "trust root")?).await?;
            let version = root.version;
            let event = NewEvent::new(Kind::RootStored, by, format!("trust root {version} stored")).body(&root.payload_sha256);
            hub.store.put_root(root, event).await.map_err(StoreError::into_fault)?;
            hub.reload_roots().await.map_err(StoreError::into_fault)?;
            hub.wake_all().await;
            Ok(pb::PutRootResponse { version })
        })
        .await
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::TokenRefused, actor, ""), async move {
            let token = checks::token(wanted, hub.clock.unix_s())?;
            let event =
                NewEvent::new(Kind::TokenCreated, by, format!("join token {} registered", token.token_id)).host(token.name.as_str());
            hub.store.create_token(token, event).await.map_err(StoreError::into_fault)?;
            Ok(pb::CreateJoinTokenResponse {})
        })
        .await
    }

    async fn list_hosts(&self, request: Request<pb::ListHostsRequest>) -> Result<Response<pb::ListHostsResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let state = pb::HostState::try_from(wanted.state).map_err(|_| fault_status(wire::invalid("unknown host state")))?;
        let in_state = |s: HostState| match (state, s) {
            (pb::HostState::Unspecified, _) => true,
            (pb::HostState::Pending, s) => s == HostState::Pending,
            (pb::HostState::Bound, s) => s == HostState::Bound,
        };
        let records = self.hub.store.hosts().await.map_err(store_status)?;
        let hosts = records
            .into_iter()
            .filter(|r| (wanted.name.is_empty() || r.name.as_str() == wanted.name) && in_state(r.state))
            .map(|record| {
                let view = self.hub.fleet.view(&record.host_id);
                wire::host(record, view)
            })
            .collect();
        Ok(Response::new(pb::ListHostsResponse { hosts }))
    }

    async fn put_binding(&self, request: Request<pb::PutBindingRequest>) -> Result<Response<pb::PutBindingResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let binding = request.into_inner().binding;
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::BindingRefused, actor, ""), async move {
            let binding = checks::binding(&hub, &wire::json(binding, "binding")?).await?;
            let host = binding.host_id.clone();
            let event = NewEvent::new(Kind::HostBound, by, format!("bound, serial {}", binding.serial))
                .host(binding.name.as_str())
                .body(&binding.payload_sha256);
            hub.store.put_binding(binding, event).await.map_err(StoreError::into_fault)?;
            hub.reload(&host).await.map_err(StoreError::into_fault)?;
            Ok(pb::PutBindingResponse {})
        })
        .await
    }

    async fn cordon_host(&self, request: Request<pb::CordonHostRequest>) -> Result<Response<pb::CordonHostResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let host = HostId::parse(wanted.host_id).map_err(|e| fault_status(wire::invalid(e.to_string())))?;
        let (name, _) = self.hub.fleet.name(&host);
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::CordonRefused, actor, "").host(&name), async move {
            let reason = cut(&wanted.reason);
            let (kind, words) = match (wanted.cordoned, reason.is_empty()) {
                (true, true) => (Kind::HostCordoned, "cordoned: what is pushed from now on is kept from it".to_owned()),
                (true, false) => (Kind::HostCordoned, format!("cordoned: {reason}")),
                (false, _) => (Kind::HostUncordoned, "no longer cordoned: it gets what is pushed".to_owned()),
            };
            let event = NewEvent::new(kind, by, words).host(&name).body(host.as_str());
            hub.store.cordon(host.clone(), wanted.cordoned.then_some(reason), event).await.map_err(StoreError::into_fault)?;
            hub.reload(&host).await.map_err(StoreError::into_fault)?;
            hub.rollouts.wake();
            Ok(pb::CordonHostResponse {})
        })
        .await
    }

    async fn remove_host(&self, request: Request<pb::RemoveHostRequest>) -> Result<Response<pb::RemoveHostResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let host = HostId::parse(request.into_inner().host_id).map_err(|e| fault_status(wire::invalid(e.to_string())))?;
        let (name, _) = self.hub.fleet.name(&host);
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::RemovalRefused, actor, "").host(&name), async move {
            let event = NewEvent::new(Kind::HostRemoved, by, "removed; its name is free").host(&name).body(host.as_str());
            hub.forget(&host, event).await.map_err(StoreError::into_fault)?;
            Ok(pb::RemoveHostResponse {})
        })
        .await
    }

    async fn add_slices(&self, request: Request<pb::AddSlicesRequest>) -> Result<Response<pb::AddSlicesResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let (topology, generation) = (wire::topology(&wanted.topology).map_err(fault_status)?, Generation(wanted.generation));
        let (hub, by) = (self.hub.clone(), actor.clone());
        let refused = NewEvent::new(Kind::PushRefused, actor, "").revision(&topology, generation);
        self.change(refused, async move {
            let slices = checks::slices(&hub, &topology, generation, wanted.slices).await?;
            let hosts: Vec<HostId> = slices.iter().map(|s| s.host_id.clone()).collect();
            let event =
                NewEvent::new(Kind::SlicesAdded, by, format!("slices for {} more hosts", hosts.len())).revision(&topology, generation);
            hub.store.add_slices(topology, generation, slices, event).await.map_err(StoreError::into_fault)?;
            hub.rollouts.changed();
            hub.retarget(hosts).await.map_err(StoreError::into_fault)?;
            Ok(pb::AddSlicesResponse {})
        })
        .await
    }

    async fn push(&self, request: Request<pb::PushRequest>) -> Result<Response<pb::PushResponse>, Status> {
        let peer = Peer::of(&request);
        let wanted = request.into_inner();
        let actor = if wanted.accepts.is_empty() { self.admit(peer).await? } else { self.admit_admin(peer).await? };
        let topology = wire::topology(&wanted.topology).map_err(fault_status)?;
        let base = Generation(wanted.base_generation);
        let (hub, by) = (self.hub.clone(), actor.clone());
        let refused = NewEvent::new(Kind::PushRefused, actor, "").revision(&topology, base.next());
        self.change(refused, async move { push::push(&hub, by, wanted).await }).await
    }

    async fn get_rollout(&self, request: Request<pb::GetRolloutRequest>) -> Result<Response<pb::GetRolloutResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        rollouts::get(&self.hub, request.into_inner()).await.map(Response::new)
    }

    async fn list_rollouts(&self, request: Request<pb::ListRolloutsRequest>) -> Result<Response<pb::ListRolloutsResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        rollouts::list(&self.hub, request.into_inner()).await.map(Response::new)
    }

    async fn act_on_rollout(&self, request: Request<pb::ActOnRolloutRequest>) -> Result<Response<pb::ActOnRolloutResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let (topology, generation) = (wire::topology(&wanted.topology).map_err(fault_status)?, Generation(wanted.generation));
        let (hub, by) = (self.hub.clone(), actor.clone());
        let refused = NewEvent::new(Kind::RolloutActRefused, actor, "").revision(&topology, generation);
        self.change(refused, async move { rollouts::act(&hub, by, topology, generation, wanted.act).await }).await
    }

    async fn list_topologies(&self, request: Request<pb::ListTopologiesRequest>) -> Result<Response<pb::ListTopologiesResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let revisions = self.hub.store.topologies().await.map_err(store_status)?;
        Ok(Response::new(pb::ListTopologiesResponse { revisions: revisions.into_iter().map(wire::revision).collect() }))
    }

    async fn list_revisions(&self, request: Request<pb::ListRevisionsRequest>) -> Result<Response<pb::ListRevisionsResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let topology = wire::topology(&wanted.topology).map_err(fault_status)?;
        let limit = if wanted.limit == 0 { limits::REVISIONS_DEFAULT } else { wanted.limit.min(limits::REVISIONS_MAX) };
        let revisions = self.hub.store.revisions(topology, limit).await.map_err(store_status)?;
        Ok(Response::new(pb::ListRevisionsResponse { revisions: revisions.into_iter().map(wire::revision).collect() }))
    }

    async fn get_revision(&self, request: Request<pb::GetRevisionRequest>) -> Result<Response<pb::GetRevisionResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let topology = wire::topology(&wanted.topology).map_err(fault_status)?;
        let found =
            self.hub.store.revision(topology.clone(), Generation(wanted.generation), wanted.with_slices).await.map_err(store_status)?;
        let Some(found) = found else {
            return Err(fault_status(checks::no_revision(&topology, wanted.generation)));
        };
        let slices = found.slices.into_iter();
        Ok(Response::new(pb::GetRevisionResponse {
            revision: Some(wire::revision(found.record)),
            source: found.source.map(|json| pb::Envelope { json }),
            slices: slices.map(|(host, json)| pb::HostSlice { host_id: host.into(), slice: Some(pb::Envelope { json }) }).collect(),
        }))
    }

    async fn get_report(&self, request: Request<pb::GetReportRequest>) -> Result<Response<pb::GetReportResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let host = HostId::parse(wanted.host_id).map_err(|e| fault_status(wire::invalid(e.to_string())))?;
        let report = if wanted.anew { checks::report_anew(&self.hub, &host).await } else { checks::report(&self.hub, &host).await };
        let report = report.map_err(store_status)?.ok_or_else(|| fault_status(checks::no_report(&host)))?;
        Ok(Response::new(pb::GetReportResponse {
            report: Some(pb::Envelope { json: report.envelope }),
            received_unix_ms: report.received_ms,
        }))
    }

    type EventsStream = EventStream;

    async fn events(&self, request: Request<pb::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        self.admit(Peer::of(&request)).await?;
        let not_after_s = Peer::of(&request)?.not_after_s();
        let wanted = request.into_inner();
        let (tx, rx) = mpsc::channel(limits::EVENTS_QUEUE);
        tokio::spawn(tail(self.hub.clone(), wanted, not_after_s, tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn submit_op(&self, request: Request<pb::SubmitOpRequest>) -> Result<Response<pb::SubmitOpResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let op = request.into_inner().op;
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::OpRefused, actor, ""), async move { ops::submit(&hub, &by, &wire::json(op, "operation")?).await })
            .await
    }

    async fn list_ops(&self, request: Request<pb::ListOpsRequest>) -> Result<Response<pb::ListOpsResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        ops::list(&self.hub, request.into_inner()).await.map(Response::new)
    }

    async fn get_op(&self, request: Request<pb::GetOpRequest>) -> Result<Response<pb::GetOpResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let op = ops::get(&self.hub, &ops::op_id(request.into_inner().op_id)?).await?;
        Ok(Response::new(pb::GetOpResponse { op: Some(op) }))
    }

    type WatchOpStream = ops::OpStream;

    async fn watch_op(&self, request: Request<pb::WatchOpRequest>) -> Result<Response<Self::WatchOpStream>, Status> {
        self.admit(Peer::of(&request)).await?;
        let not_after_s = Peer::of(&request)?.not_after_s();
        ops::watch(&self.hub, ops::op_id(request.into_inner().op_id)?, not_after_s).await.map(Response::new)
    }

    type GetLogsStream = ops::LogStream;

    async fn get_logs(&self, request: Request<pb::GetLogsRequest>) -> Result<Response<Self::GetLogsStream>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let not_after_s = Peer::of(&request)?.not_after_s();
        ops::logs(&self.hub, &actor, request.into_inner(), not_after_s).await.map(Response::new)
    }

    async fn list_drift(&self, request: Request<pb::ListDriftRequest>) -> Result<Response<pb::ListDriftResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        drift::list(&self.hub, request.into_inner()).await.map(Response::new)
    }

    async fn get_drift(&self, request: Request<pb::GetDriftRequest>) -> Result<Response<pb::GetDriftResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        drift::get(&self.hub, request.into_inner().id).await.map(Response::new)
    }

    async fn ignore_drift(&self, request: Request<pb::IgnoreDriftRequest>) -> Result<Response<pb::IgnoreDriftResponse>, Status> {
        let actor = self.admit_admin(Peer::of(&request)).await?;
        let (hub, by, wanted) = (self.hub.clone(), actor.clone(), request.into_inner());
        self.change(NewEvent::new(Kind::DriftRefused, actor, ""), async move { drift::ignore(&hub, by, wanted).await }).await
    }

    async fn revert_drift(&self, request: Request<pb::RevertDriftRequest>) -> Result<Response<pb::RevertDriftResponse>, Status> {
        let actor = self.admit_admin(Peer::of(&request)).await?;
        let (hub, by, wanted) = (self.hub.clone(), actor.clone(), request.into_inner());
        self.change(NewEvent::new(Kind::DriftRefused, actor, ""), async move { drift::revert(&hub, &by, wanted).await }).await
    }

    async fn list_resources(&self, request: Request<pb::ListResourcesRequest>) -> Result<Response<pb::ListResourcesResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        clouds::list(&self.hub, request.into_inner()).await.map(Response::new).map_err(fault_status)
    }

    async fn scan_drift(&self, request: Request<pb::ScanDriftRequest>) -> Result<Response<pb::ScanDriftResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let (hub, wanted) = (self.hub.clone(), request.into_inner());
        self.change(NewEvent::new(Kind::DriftRefused, actor, ""), async move { clouds::scan(&hub, &wanted.cloud).await }).await
    }

    async fn accept_cloud_drift(
        &self,
        request: Request<pb::AcceptCloudDriftRequest>,
    ) -> Result<Response<pb::AcceptCloudDriftResponse>, Status> {
        let actor = self.admit_admin(Peer::of(&request)).await?;
        let (hub, by, wanted) = (self.hub.clone(), actor.clone(), request.into_inner());
        self.change(NewEvent::new(Kind::DriftRefused, actor, ""), async move { clouds::accept(&hub, by, wanted).await }).await
    }

    async fn start_saga(&self, request: Request<pb::StartSagaRequest>) -> Result<Response<pb::StartSagaResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::SagaRefused, actor, ""), async move { sagas::start(&hub, &by, wanted).await }).await
    }

    async fn list_sagas(&self, request: Request<pb::ListSagasRequest>) -> Result<Response<pb::ListSagasResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        sagas::list(&self.hub, request.into_inner()).await.map(Response::new)
    }

    async fn get_saga(&self, request: Request<pb::GetSagaRequest>) -> Result<Response<pb::GetSagaResponse>, Status> {
        self.admit(Peer::of(&request)).await?;
        let saga_id = sagas::id(request.into_inner().saga_id)?;
        let saga = sagas::get(&self.hub, &saga_id).await.map_err(fault_status)?;
        Ok(Response::new(pb::GetSagaResponse { saga: Some(saga) }))
    }

    type WatchSagaStream = sagas::SagaStream;

    async fn watch_saga(&self, request: Request<pb::WatchSagaRequest>) -> Result<Response<Self::WatchSagaStream>, Status> {
        let peer = Peer::of(&request);
        let not_after_s = peer.as_ref().map_or(0, Peer::not_after_s);
        self.admit(peer).await?;
        let saga_id = sagas::id(request.into_inner().saga_id)?;
        sagas::watch(&self.hub, saga_id, not_after_s).await.map(Response::new)
    }

    async fn act_on_saga(&self, request: Request<pb::ActOnSagaRequest>) -> Result<Response<pb::ActOnSagaResponse>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        let wanted = request.into_inner();
        let (hub, by) = (self.hub.clone(), actor.clone());
        self.change(NewEvent::new(Kind::SagaRefused, actor, ""), async move { sagas::act(&hub, &by, wanted).await }).await
    }

    type GetJournalStream = ops::JournalStream;

    async fn get_journal(&self, request: Request<pb::GetJournalRequest>) -> Result<Response<Self::GetJournalStream>, Status> {
        let actor = self.admit(Peer::of(&request)).await?;
        ops::journal(&self.hub, &actor, request.into_inner()).await.map(Response::new)
    }
}

/// Sends the past events that were asked for and, to a follower, what comes until the certificate ends that it asked by.
async fn tail(hub: Hub, wanted: pb::EventsRequest, not_after_s: u64, tx: mpsc::Sender<Result<pb::Event, Status>>) {
    let mut newest = hub.store.newest_event();
    newest.mark_unchanged();
    let limit = if wanted.limit == 0 { limits::EVENTS_DEFAULT } else { wanted.limit.min(limits::EVENTS_MAX) };
    let mut cursor = wanted.after;
    let mut page = hub.store.events(wanted.after, limit, true).await;
    loop {
        let events = match page {
            Ok(events) => events,
            Err(error) => {
                let _ = tx.send(Err(store_status(error))).await;
                return;
            }
        };
        let idle = events.is_empty();
        for event in events {
            cursor = event.sequence;
            if tx.send(Ok(wire::event(event))).await.is_err() {
                return;
            }
        }
        if !wanted.follow {
            return;
        }
        if idle {
            tokio::select! {
                () = tx.closed() => return,
                () = hub.stopping.cancelled() => {
                    let _ = tx.send(Err(Status::unavailable("the hub is stopping"))).await;
                    return;
                }
                changed = newest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_secs(not_after_s.saturating_sub(hub.clock.unix_s().0))) => {}
            }
        }
        page = hub.store.events(cursor, limits::EVENTS_PAGE, false).await;
        // What was read since is not for who may no longer read.
        if not_after_s <= hub.clock.unix_s().0 {
            let _ = tx.send(Err(Status::unauthenticated("the client certificate has expired; renew it"))).await;
            return;
        }
    }
}
