//! The Operator service, called as an operator's machine does: over mutual TLS with the bundle that
//! the hub handed out.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use moorline_proto::transport::{self, ClientIdentity};
use moorline_proto::v1 as pb;
use moorline_proto::v1::operator_client::OperatorClient;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tonic::transport::Channel;

const MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// What a hub hands to an operator: transport, never authority.
#[derive(Clone, Deserialize)]
pub struct Bundle {
    /// The cluster's name.
    pub cluster: String,
    /// The operator's name.
    pub name: String,
    /// Hub addresses.
    pub hubs: Vec<String>,
    /// The hash of the hub CA's public key.
    pub ca_spki: String,
    /// The operator's certificate, then the CA's.
    pub certificate_chain_pem: String,
    /// The operator's transport key.
    pub key_pem: String,
}

impl Bundle {
    /// Reads a bundle file.
    ///
    /// # Errors
    /// When it is not there or malformed.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
    }

    /// The bundle as a TLS client's identity.
    ///
    /// # Errors
    /// When certificate or key are malformed.
    pub fn identity(&self) -> Result<ClientIdentity> {
        let chain = CertificateDer::pem_slice_iter(self.certificate_chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        Ok(ClientIdentity {
            chain: chain.map_err(|e| anyhow!("the bundle's certificates: {e}"))?,
            key: key.map_err(|e| anyhow!("the bundle's key: {e}"))?,
        })
    }
}

/// A connection to the Operator service, with calls that block.
pub struct Operator {
    runtime: tokio::runtime::Runtime,
    client: OperatorClient<Channel>,
}

impl Operator {
    /// Connects with `bundle`.
    ///
    /// # Errors
    /// When the hub is not reachable.
    pub fn connect(bundle: &Bundle) -> Result<Self> {
        // Calls come from the test's thread; this worker keeps the connection going between them.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let config = transport::client_config(BTreeSet::from([bundle.ca_spki.clone()]), Some(bundle.identity()?))?;
        let address = bundle.hubs.first().context("the bundle names no hub")?.clone();
        let channel = runtime.block_on(transport::connect(&address, Arc::new(config)))?;
        let client = OperatorClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        Ok(Self { runtime, client })
    }

    /// Makes one call: `operator.call(|mut c| async move { c.list_hosts(…).await })`.
    ///
    /// # Errors
    /// The hub's answer, as a gRPC status.
    pub fn call<T, F: Future<Output = Result<tonic::Response<T>, tonic::Status>>>(
        &self,
        call: impl FnOnce(OperatorClient<Channel>) -> F,
    ) -> Result<T, tonic::Status> {
        self.runtime.block_on(call(self.client.clone())).map(tonic::Response::into_inner)
    }

    /// Every host.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn hosts(&self) -> Result<Vec<pb::Host>> {
        Ok(self.call(|mut c| async move { c.list_hosts(pb::ListHostsRequest::default()).await })?.hosts)
    }

    /// One host by name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn host(&self, name: &str) -> Result<pb::Host> {
        self.hosts()?.into_iter().find(|h| h.name == name).with_context(|| format!("the hub knows no host `{name}`"))
    }

    /// The newest revision of every topology.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn topologies(&self) -> Result<Vec<pb::Revision>> {
        Ok(self.call(|mut c| async move { c.list_topologies(pb::ListTopologiesRequest {}).await })?.revisions)
    }

    /// One revision (0: the newest) with its slices.
    ///
    /// # Errors
    /// When the hub does not have it.
    pub fn revision(&self, topology: &str, generation: u64) -> Result<pb::GetRevisionResponse> {
        let request = pb::GetRevisionRequest { topology: topology.to_owned(), generation, with_slices: true };
        Ok(self.call(|mut c| async move { c.get_revision(request).await })?)
    }

    /// Every event of the past, oldest first.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn events(&self) -> Result<Vec<pb::Event>> {
        let mut client = self.client.clone();
        self.runtime.block_on(async {
            let request = pb::EventsRequest { after: 0, limit: 1000, follow: false };
            let mut stream = client.events(request).await?.into_inner();
            let mut events = Vec::new();
            while let Some(event) = stream.message().await? {
                events.push(event);
            }
            Ok(events)
        })
    }
}
