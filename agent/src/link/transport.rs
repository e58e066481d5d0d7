//! Reaching the hub: which address, which certificate, and how both change over time.

use std::collections::BTreeSet;
use std::sync::Arc;

use moorline_common::enrol::renew_message;
use moorline_common::fault::Fault;
use moorline_proto::convert::from_status;
use moorline_proto::transport::{ClientIdentity, TransportError, client_config, connect};
use moorline_proto::v1::agent_gateway_client::AgentGatewayClient;
use moorline_proto::{PROTOCOL_MIN, PROTOCOL_VERSION, v1 as pb};
use tonic::transport::Channel;

use crate::db::{DbError, blocking};
use crate::identity::{Enrolment, HostKeys, IdentityError, StateDir, Transport};
use crate::limits::{HUB_ANSWER_TIMEOUT, MESSAGE_MAX};
use crate::trust::Trust;

/// A client of the hub's agent service.
pub type Gateway = AgentGatewayClient<Channel>;

/// Why the hub was not reached, or the session ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers, or not our hub.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The hub refused.
    #[error("the hub refused: {0}")]
    Refused(Fault),
    /// The hub knows the certificate, but it has expired.
    #[error("the hub does not accept this host's certificate: {0}")]
    Unauthenticated(String),
    /// The hub went away or did not answer in time.
    #[error("the connection to the hub ended: {0}")]
    Ended(String),
    /// The hub speaks another protocol.
    #[error("the hub speaks protocol version {0}, this agent {PROTOCOL_MIN} to {PROTOCOL_VERSION}; update the older side")]
    Version(u32),
    /// The host's records are older than what the hub has seen of them.
    #[error("{0}")]
    Behind(String),
}

/// TLS alerts by which a hub says that the client's certificate is not good enough, as rustls words them.
const CERTIFICATE_ALERTS: [&str; 8] = [
    "received fatal alert: AccessDenied",
    "received fatal alert: BadCertificate",
    "received fatal alert: CertificateExpired",
    "received fatal alert: CertificateRevoked",
    "received fatal alert: CertificateUnknown",
    "received fatal alert: DecryptError",
    "received fatal alert: UnknownCA",
    "received fatal alert: UnsupportedCertificate",
];

impl LinkError {
    /// Whether the certificate that was dialled with can never work. Silence, a lost connection and a hub that isn't there
    /// say nothing of it.
    #[must_use]
    pub fn rejects_certificate(&self) -> bool {
        let is_alert = |text: &str| CERTIFICATE_ALERTS.iter().any(|alert| text.contains(alert));
        match self {
            LinkError::Identity(IdentityError::Crypto(_))
            | LinkError::Unauthenticated(_)
            | LinkError::Transport(TransportError::Identity(_)) => true,
            LinkError::Transport(TransportError::Unreachable { reason, .. }) | LinkError::Ended(reason) => is_alert(reason),
            LinkError::Identity(_)
            | LinkError::Transport(TransportError::Address(_))
            | LinkError::Refused(_)
            | LinkError::Version(_)
            | LinkError::Behind(_) => false,
        }
    }
}

impl From<DbError> for LinkError {
    fn from(error: DbError) -> Self {
        LinkError::Ended(error.to_string())
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => {
                LinkError::Ended(moorline_proto::transport::error_chain(&status))
            }
            tonic::Code::Unauthenticated => LinkError::Unauthenticated(status.message().to_owned()),
            tonic::Code::Ok
            | tonic::Code::InvalidArgument
            | tonic::Code::NotFound
            | tonic::Code::AlreadyExists
            | tonic::Code::PermissionDenied
            | tonic::Code::ResourceExhausted
            | tonic::Code::FailedPrecondition
            | tonic::Code::Aborted
            | tonic::Code::OutOfRange
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::DataLoss => LinkError::Refused(from_status(&status)),
        }
    }
}

/// Opens one connection to `address`, trusting only CAs with these SPKI hashes.
///
/// # Errors
/// [`LinkError::Transport`].
pub async fn open(address: &str, pins: BTreeSet<String>, identity: Option<ClientIdentity>) -> Result<Gateway, LinkError> {
    let config = client_config(pins, identity)?;
    let channel = connect(address, Arc::new(config)).await?;
    Ok(AgentGatewayClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX))
}

/// The hub CAs that may be dialled: those of the trust root, or that of the join token before there is one.
#[must_use]
pub fn pins(trust: &Trust, enrolment: &Enrolment) -> BTreeSet<String> {
    match &trust.root {
        Some(root) if !root.statement().hub_ca_spki.is_empty() => root.statement().hub_ca_spki.clone(),
        Some(_) | None => BTreeSet::from([enrolment.ca_spki.clone()]),
    }
}

/// Which of the two certificates a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one in use.
    Current,
    /// A renewed one that has not been used yet.
    Next,
}

/// The certificate to dial with: a renewed one, unless the hub has just rejected it.
///
/// # Errors
/// [`IdentityError`].
pub fn choose(state: &StateDir, skip_next: bool) -> Result<(Transport, Which), IdentityError> {
    let current = state.transport()?;
    let next = state.next_transport()?.filter(|t| !t.chain.is_empty());
    match (current, next) {
        (_, Some(next)) if !skip_next => Ok((next, Which::Next)),
        (Some(current), _) => Ok((current, Which::Current)),
        (None, Some(next)) => Ok((next, Which::Next)),
        (None, None) => Err(IdentityError::NotJoined),
    }
}

/// Puts the renewed certificate in the place of the old one.
///
/// # Errors
/// [`LinkError`].
pub async fn promote(state: &StateDir) -> Result<(), LinkError> {
    let state = state.clone();
    blocking(move || Ok::<_, LinkError>(state.promote_transport()?)).await
}

/// Asks for a fresh certificate by the one with `serial`, which `gateway` was opened with, and stores it beside
/// the one in use. The key is stored first, so that a lost reply can be asked for again.
///
/// # Errors
/// [`LinkError`].
pub async fn renew(mut gateway: Gateway, state: StateDir, keys: Arc<HostKeys>, serial: u64) -> Result<u64, LinkError> {
    let store = state.clone();
    let keep_key = move || {
        let pending = match store.next_transport()? {
            Some(pending) if pending.chain.is_empty() => pending,
            Some(_) | None => Transport::generate()?,
        };
        store.put_next_transport(&pending)?;
        Ok::<_, LinkError>(pending)
    };
    let pending = blocking(keep_key).await?;
    let csr_der = pending.csr_der()?;
    let host_signature = keys.host_key.sign_raw(&renew_message(serial, &csr_der));
    let request = pb::RenewRequest { csr_der, certificate_serial: serial, host_signature };
    let answer = tokio::time::timeout(HUB_ANSWER_TIMEOUT, gateway.renew(request)).await;
    let response = answer.map_err(|_| LinkError::Ended("no answer to the renewal".to_owned()))??.into_inner();
    let renewed = pending.with_certificate(&response.certificate_chain, response.certificate_serial)?;
    let serial = renewed.serial;
    blocking(move || Ok::<_, LinkError>(state.put_next_transport(&renewed)?)).await?;
    Ok(serial)
}
