//! A hub that was dialled: its connection and its calls, before anything it says is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::sign::Envelope;
use moorline_proto::convert;
use moorline_proto::transport::{self, ClientIdentity};
use moorline_proto::v1 as pb;
use moorline_proto::v1::operator_client::OperatorClient;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::Channel;

use crate::clock;
use crate::error::{Failure, LocalCode};
use crate::home::Bundle;
use crate::limits::{CALL_TIMEOUT, MESSAGE_MAX};

/// A hub that was dialled, before anything it says is believed.
#[derive(Clone)]
pub struct Hub {
    rpc: OperatorClient<Channel>,
    /// The address that answered.
    pub address: String,
}

/// What the hub says about itself.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// The cluster's name.
    pub cluster: String,
    /// The hub's version.
    pub hub_version: String,
    /// Trust roots, version 1 first; not verified.
    pub roots: Vec<Envelope>,
    /// Addresses that agents should dial.
    pub agent_addresses: Vec<String>,
    /// The hub's clock less ours, in milliseconds.
    pub clock_offset_ms: i64,
}

impl Hub {
    /// Dials the hubs of `bundle` in order until one answers.
    ///
    /// # Errors
    /// The last hub's, when none answers; or when the bundle's certificate is unusable.
    pub async fn dial(bundle: &Bundle, pins: BTreeSet<String>) -> Result<Self, Failure> {
        let bad = |what: String| {
            Failure::local(format!("the operator bundle of `{}` {what}", bundle.name))
                .with_remedy("make a new one with `moorline-hub operator add`")
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(bundle.certificate_chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| bad(format!("has an unreadable certificate: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(bundle.key_pem.expose().as_bytes()).map_err(|_| bad("has an unreadable key".to_owned()))?;
        let config = Arc::new(transport::client_config(pins, Some(ClientIdentity { chain, key }))?);
        let mut last = bad("names no hub".to_owned());
        for address in &bundle.hubs {
            match transport::connect(address, config.clone()).await {
                Ok(channel) => {
                    let rpc = OperatorClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
                    return Ok(Self { rpc, address: address.clone() });
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// A connection that is there already.
    #[cfg(test)]
    pub(super) fn over(rpc: OperatorClient<Channel>, address: &str) -> Self {
        Self { rpc, address: address.to_owned() }
    }

    /// Makes one call; `call` gets the client and sends the request.
    pub(super) async fn call<T, F>(&self, call: impl FnOnce(OperatorClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        match tokio::time::timeout(CALL_TIMEOUT, call(self.rpc.clone())).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Failure::new(
                LocalCode::HubUnreachable,
                format!("the hub at {} did not answer within {} s", self.address, CALL_TIMEOUT.as_secs()),
                "check its load and its log, and try again",
            )),
        }
    }

    /// What a status means: the hub's own fault if it carries one, else what happened to the call.
    pub(super) fn failure(&self, status: &tonic::Status) -> Failure {
        if status.metadata().contains_key(convert::CODE_METADATA) {
            return convert::from_status(status).into();
        }
        let message = status_words(status);
        match status.code() {
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
                Fault::new(Code::PermissionDenied, format!("the hub at {} refuses this certificate: {message}", self.address)).into()
            }
            tonic::Code::Unimplemented => {
                Fault::new(Code::UnsupportedVersion, format!("the hub at {} does not know this call", self.address)).into()
            }
            tonic::Code::OutOfRange => {
                Fault::new(Code::TooLarge, format!("the message to the hub at {} is larger than it takes: {message}", self.address)).into()
            }
            tonic::Code::Ok
            | tonic::Code::Cancelled
            | tonic::Code::Unknown
            | tonic::Code::InvalidArgument
            | tonic::Code::DeadlineExceeded
            | tonic::Code::NotFound
            | tonic::Code::AlreadyExists
            | tonic::Code::ResourceExhausted
            | tonic::Code::FailedPrecondition
            | tonic::Code::Aborted
            | tonic::Code::Internal
            | tonic::Code::Unavailable
            | tonic::Code::DataLoss => Failure::new(
                LocalCode::HubUnreachable,
                format!("the call to the hub at {} failed: {message}", self.address),
                "check that the hub still runs, read its log, and try again",
            ),
        }
    }

    /// Who the hub is.
    ///
    /// # Errors
    /// When the call fails or the answer is malformed.
    pub async fn cluster(&self) -> Result<ClusterFacts, Failure> {
        let sent = clock::now_ms();
        let answer = self.call(|mut rpc| async move { rpc.get_cluster(pb::GetClusterRequest {}).await }).await?;
        let ours = i64::try_from(sent / 2 + clock::now_ms() / 2).unwrap_or(i64::MAX);
        Ok(ClusterFacts {
            cluster: answer.cluster,
            hub_version: answer.hub_version,
            roots: answer.roots.into_iter().map(Envelope::try_from).collect::<Result<_, _>>()?,
            agent_addresses: answer.agent_addresses,
            clock_offset_ms: i64::try_from(answer.now_unix_ms).unwrap_or(i64::MAX).saturating_sub(ours),
        })
    }

    /// Hands in a trust root.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn put_root(&self, root: &Envelope) -> Result<u64, Failure> {
        let request = pb::PutRootRequest { root: Some(root.into()) };
        Ok(self.call(|mut rpc| async move { rpc.put_root(request).await }).await?.version)
    }
}

/// What a status says, without the names of the parts that it went through.
fn status_words(status: &tonic::Status) -> String {
    let said = status.message();
    let said = said.strip_prefix("transport error").map_or(said, |rest| rest.trim_start_matches(": "));
    let cause = std::error::Error::source(status).map(transport::error_chain).unwrap_or_default();
    match (said.is_empty(), cause.is_empty()) {
        (true, true) => status.code().description().to_owned(),
        (true, false) => cause,
        (false, _) if cause.is_empty() || said.contains(&cause) => said.to_owned(),
        (false, _) if cause.contains(said) => cause,
        (false, _) => format!("{said}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_call_is_told_without_the_transports_own_words() {
        assert_eq!(status_words(&tonic::Status::unavailable("tcp connect error")), "tcp connect error");
        assert_eq!(status_words(&tonic::Status::unknown("transport error")), tonic::Code::Unknown.description());
    }
}
