//! The agents' gateway: joining, renewing, and the session.

use std::pin::Pin;
use std::time::SystemTime;

use futures_util::Stream;
use moorline_common::enrol::{HostClaim, join_message, renew_message};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostEpoch, HostId, HostName, sha256_hex};
use moorline_common::sign::verify_raw;
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_gateway_server::AgentGateway;
use tonic::{Request, Response, Status, Streaming};

use super::{fault_status, permitted, session, store_status, to_its_end};
use crate::auth::{Actor, Peer};
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::pki::RequestedKey;
use crate::store::{JoinAttempt, JoinOutcome, RenewOutcome};

/// The service.
#[derive(Clone)]
pub struct Gateway {
    hub: Hub,
}

impl Gateway {
    /// The gateway of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }

    async fn admit(&self, request: pb::JoinRequest, actor: Actor) -> Result<pb::JoinResponse, Status> {
        let checked = check_join(&request);
        let (attempt, key) = match checked {
            Ok(checked) => checked,
            Err(cause) => return Err(self.refuse(cause, false, &request, actor).await),
        };
        let name = attempt.name.to_string();
        let host_id = attempt.host_id.clone();
        let claim = HostClaim {
            host_key: attempt.host_key,
            sealing_key: attempt.sealing_key,
            host_epoch: attempt.host_epoch.clone(),
            name: attempt.name.clone(),
        };
        let event = NewEvent::new(
            Kind::HostJoined,
            actor.clone(),
            format!("joined with fingerprint {}; it awaits its binding", claim.fingerprint()),
        )
        .host(&name)
        .body(host_id.as_str());
        let outcome = self.hub.store.join(attempt, event).await.map_err(store_status)?;
        let number = match outcome {
            JoinOutcome::Joined { certificate, .. } => certificate,
            JoinOutcome::Refused { cause, alarm } => return Err(self.refuse(cause, alarm, &request, actor).await),
        };
        self.hub.reload(&host_id).await.map_err(store_status)?;
        let chain = self.hub.pki.agent_certificate(&host_id, &key, number, SystemTime::now()).map_err(internal)?;
        let roots = self.hub.store.roots().await.map_err(store_status)?;
        tracing::info!(host = name, %host_id, number, "host joined");
        Ok(pb::JoinResponse {
            certificate_chain: chain,
            roots: roots.into_iter().map(|json| pb::Envelope { json }).collect(),
            certificate_serial: number,
        })
    }

    /// The one answer to every refused join; the cause goes to the operator only.
    async fn refuse(&self, cause: &str, alarm: bool, request: &pb::JoinRequest, actor: Actor) -> Status {
        tracing::warn!(origin = actor.origin, cause, alarm, "join refused");
        let limit = if alarm { &self.hub.alarms } else { &self.hub.strangers };
        if limit.admits(self.hub.clock.monotonic_ms()) {
            let message = if alarm { format!("ALARM: {cause}; somebody may have copied it") } else { cause.to_owned() };
            // The name is the stranger's claim: only a well-formed one is shown.
            let name = HostName::parse(request.name.as_str()).map(String::from).unwrap_or_default();
            self.hub.record(NewEvent::new(Kind::JoinRefused, actor, message).host(name).code(Code::JoinRefused)).await;
        }
        fault_status(Fault::new(Code::JoinRefused, "the hub did not accept this join; ask the operator for a fresh token"))
    }

    async fn next_certificate(&self, request: pb::RenewRequest, peer: &Peer) -> Result<pb::RenewResponse, Status> {
        let (host, shown) = permitted(&self.hub, peer, peer.agent_to_renew()).await?;
        let (name, _) = self.hub.fleet.name(&host);
        let record = self.hub.store.host(host.clone()).await.map_err(store_status)?;
        let Some(record) = record else {
            return Err(fault_status(Fault::new(
                Code::NotFound,
                "this hub does not know the host; open a session so that it can take over what the host holds",
            )));
        };
        let message = renew_message(request.certificate_serial, &request.csr_der);
        let refused = |code, words: &str| fault_status(Fault::new(code, words));
        if !verify_raw(&record.host_key, &message, &request.host_signature) {
            self.hub
                .record_of(
                    &host,
                    NewEvent::new(Kind::RenewRefused, peer.actor(), "not signed by the host key").host(&name).code(Code::BadSignature),
                )
                .await;
            return Err(refused(Code::BadSignature, "the renewal is not signed by the host key"));
        }
        if !self.hub.fleet.admits_renewal(&host, self.hub.clock.monotonic_ms()) {
            return Err(refused(Code::Busy, "this host got many certificates lately; it may have another one in a minute"));
        }
        let key = RequestedKey::from_der(&request.csr_der).map_err(|e| fault_status(Fault::new(Code::InvalidArgument, e.to_string())))?;
        // Neither the number that is claimed nor the one that is shown may lie behind.
        let presented = request.certificate_serial.min(shown);
        let event = NewEvent::new(Kind::Renewed, peer.actor(), "certificate renewed").host(&name);
        let event = self.hub.within_limit(&host, event);
        match self.hub.store.renew(host.clone(), presented, event).await.map_err(store_status)? {
            RenewOutcome::Next(number) => {
                let chain = self.hub.pki.agent_certificate(&host, &key, number, SystemTime::now()).map_err(internal)?;
                Ok(pb::RenewResponse { certificate_chain: chain, certificate_serial: number })
            }
            RenewOutcome::Conflict => {
                let words = "ALARM: a certificate older than the one in use was shown: two holders of one identity; the host is locked";
                // Counted as an alarm, not as the host's: whoever floods the record cannot hide it.
                if self.hub.alarms.admits(self.hub.clock.monotonic_ms()) {
                    self.hub.record(NewEvent::new(Kind::RenewRefused, peer.actor(), words).host(&name).code(Code::RenewalConflict)).await;
                }
                self.hub.fleet.cut(&host);
                Err(refused(Code::RenewalConflict, "an older certificate than the one in use; the host is locked until an operator acts"))
            }
        }
    }
}

fn internal(error: crate::pki::PkiError) -> Status {
    tracing::error!(%error, "a certificate could not be made");
    fault_status(Fault::new(Code::Internal, "the hub could not make a certificate; its log has more"))
}

/// Checks all of a join that needs no store. The cause of a refusal is for the operator.
fn check_join(request: &pb::JoinRequest) -> Result<(JoinAttempt, RequestedKey), &'static str> {
    if request.token_id.len() != 32 || request.join_key.len() != 32 || request.claim_mac.len() != 32 {
        return Err("malformed request");
    }
    let name = HostName::parse(request.name.as_str()).map_err(|_| "malformed name")?;
    let host_key: [u8; 32] = request.host_key.as_slice().try_into().map_err(|_| "malformed host key")?;
    let sealing_key: [u8; 32] = request.sealing_key.as_slice().try_into().map_err(|_| "malformed sealing key")?;
    let host_epoch = HostEpoch::parse(request.host_epoch.as_str()).map_err(|_| "malformed epoch")?;
    let key = RequestedKey::from_der(&request.csr_der).map_err(|_| "malformed certificate request")?;
    if !verify_raw(&host_key, &join_message(&request.csr_der), &request.host_signature) {
        return Err("the request is not signed by the host key");
    }
    let attempt = JoinAttempt {
        token_id: request.token_id.clone(),
        join_key_hash: sha256_hex(&request.join_key),
        name,
        spki: key.spki.clone(),
        host_id: HostId::of_key(&host_key),
        host_key,
        sealing_key,
        host_epoch,
        claim_mac: request.claim_mac.clone(),
    };
    Ok((attempt, key))
}

/// What the hub sends on a session.
pub type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::HubMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentGateway for Gateway {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let actor = Peer::of(&request)?.actor();
        let (gateway, request) = (self.clone(), request.into_inner());
        let joining = async move { gateway.admit(request, actor).await };
        to_its_end(&self.hub.joins, joining).await.map(Response::new)
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let peer = Peer::of(&request)?;
        self.next_certificate(request.into_inner(), &peer).await.map(Response::new)
    }

    type SessionStream = SessionStream;

    async fn session(&self, request: Request<Streaming<pb::AgentMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = Peer::of(&request)?;
        session::open(&self.hub, peer, request.into_inner()).await.map(Response::new)
    }
}
