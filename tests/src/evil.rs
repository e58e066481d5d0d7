//! A hub that sends whatever a test tells it to: it holds the real hub's CA (as a thief of the hub
//! would) and serves at its address, but no signature of an operator is its own to make.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use moorline_common::id::sha256_hex;
use moorline_common::op::Receipt;
use moorline_common::sign::{Envelope, Signed};
use moorline_proto::transport::HUB_SERVER_NAME;
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_gateway_server::{AgentGateway, AgentGatewayServer};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::Fleet;
use crate::limits::SOON;
use crate::wait::wait_for;

const QUEUE: usize = 64;
const PIPE: usize = 64 * 1024;
const HEARTBEAT_MS: u32 = 200;

/// A serving evil hub; ends with its value.
pub struct EvilHub {
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    /// Number and hash of the newest record of the agent's journal that this hub claims to have seen.
    witnessed: (u64, Vec<u8>),
    session: Mutex<Session>,
}

#[derive(Default)]
struct Session {
    /// What the reader of one with a lower number still has is of no interest.
    number: u64,
    /// `None` when there is none.
    outbound: Option<mpsc::Sender<Result<pb::HubMessage, Status>>>,
    /// What came since the hub hung up, oldest first.
    received: Vec<pb::agent_message::Kind>,
}

impl EvilHub {
    /// Serves in the place of the hub of `fleet`, with a certificate by that one's CA.
    ///
    /// # Errors
    /// When the CA cannot be read or the address is taken: the hub must have ended.
    pub fn start(fleet: &Fleet) -> Result<Self> {
        Self::start_claiming(fleet, 0, &[])
    }

    /// The same; each session begins with this claim about the agent's journal: that its record `seq` is `head`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_claiming(fleet: &Fleet, seq: u64, head: &[u8]) -> Result<Self> {
        let (hub_dir, address) = (fleet.hub_dir(), fleet.address());
        let tls = TlsAcceptor::from(Arc::new(server_config(&hub_dir)?));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(&address)).with_context(|| format!("listening at {address}"))?;
        let shared = Arc::new(Shared { witnessed: (seq, head.to_owned()), session: Mutex::default() });
        let service = AgentGatewayServer::new(Gateway(shared.clone()));
        let (streams, incoming) = mpsc::channel(QUEUE);
        runtime.spawn(accept(listener, tls, streams));
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(incoming)));
        Ok(Self { shared, _runtime: runtime })
    }

    /// Ends the hub of `fleet`, serves in its place, and waits until the agent has come over.
    ///
    /// # Errors
    /// When the hub does not end, or the agent does not come.
    pub fn take_over(fleet: &mut Fleet) -> Result<Self> {
        fleet.stop_hub()?;
        let evil = Self::start(fleet)?;
        evil.wait_for_agent()?;
        Ok(evil)
    }

    /// Waits until an agent has opened a session and sent a heartbeat.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_for_agent(&self) -> Result<pb::Heartbeat> {
        wait_for("an agent sends a heartbeat to the evil hub", SOON, || Ok(self.heartbeat()))
    }

    /// Sends `message` in the newest session.
    ///
    /// # Errors
    /// When there is no session.
    pub fn send(&self, message: pb::hub_message::Kind) -> Result<()> {
        let session = self.session().outbound.clone().context("no agent has a session")?;
        session.blocking_send(Ok(pb::HubMessage { kind: Some(message) })).map_err(|_| anyhow!("the session has ended"))
    }

    /// Sends `envelope` as a slice.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_slice(&self, envelope: &Envelope) -> Result<()> {
        self.send(pb::hub_message::Kind::Slice(envelope.into()))
    }

    /// Sends `message`, a signed statement or what passes for one, and waits until that is refused.
    ///
    /// # Errors
    /// When the agent does not refuse it in time.
    pub fn refusal_of(&self, message: pb::hub_message::Kind) -> Result<pb::Refusal> {
        let (kind, sha256) = named(&message).context("only what is signed is refused")?;
        self.answer_to(message, "the agent refuses", |answer| {
            let pb::agent_message::Kind::Refusal(refusal) = answer else { return None };
            Some(refusal.clone()).filter(|refusal| (refusal.kind.as_str(), &refusal.payload_sha256) == (kind, &sha256))
        })
    }

    /// Sends `envelope` as a slice and waits for the refusal; returns its code.
    ///
    /// # Errors
    /// As [`Self::refusal_of`].
    pub fn refusal_of_slice(&self, envelope: Vec<u8>) -> Result<String> {
        let refusal = self.refusal_of(pb::hub_message::Kind::Slice(pb::Envelope { json: envelope }))?;
        Ok(refusal.fault.unwrap_or_default().code)
    }

    /// Sends `envelope` as an order and waits for what the agent answers: the code of its refusal, or what became of it.
    /// A receipt that `host_key` has not signed counts as none, and what is about another order as no answer.
    ///
    /// # Errors
    /// When the agent does not answer in time.
    pub fn answer_to_order(&self, envelope: Vec<u8>, host_key: &[u8; 32]) -> Result<String> {
        self.end_of(pb::hub_message::Kind::Op(pb::Envelope { json: envelope }), host_key)
    }

    /// The same of an order of a saga, with what is shown with it.
    ///
    /// # Errors
    /// When the agent does not answer in time.
    pub fn answer_to_saga_order(&self, order: pb::SagaOrder, host_key: &[u8; 32]) -> Result<String> {
        self.end_of(pb::hub_message::Kind::SagaOrder(order), host_key)
    }

    fn end_of(&self, order: pb::hub_message::Kind, host_key: &[u8; 32]) -> Result<String> {
        let (kind, sha256) = named(&order).context("an order")?;
        self.answer_to(order, "the agent answers an order", |answer| {
            if let pb::agent_message::Kind::Refusal(refusal) = answer {
                let is_of_it = (refusal.kind.as_str(), &refusal.payload_sha256) == (kind, &sha256);
                return refusal.fault.clone().filter(|_| is_of_it).map(|f| f.code);
            }
            let pb::agent_message::Kind::Receipt(receipt) = answer else { return None };
            let signed = Signed::<Receipt>::from_json(&receipt.json).ok()?;
            let receipt = signed.verify_by_host(host_key).ok()?.into_statement();
            (receipt.payload_sha256 == sha256).then(|| receipt.fault.map_or(receipt.outcome.as_str(), |f| f.code.as_str()).to_owned())
        })
    }

    /// Sends `message` and waits for something that `is_answer`.
    fn answer_to<T>(
        &self,
        message: pb::hub_message::Kind,
        what: &str,
        is_answer: impl Fn(&pb::agent_message::Kind) -> Option<T>,
    ) -> Result<T> {
        let before = self.session().received.len();
        self.send(message)?;
        wait_for(what, SOON, || Ok(self.session().received.iter().skip(before).find_map(&is_answer)))
    }

    /// Ends the session and forgets what came in it; the agent dials anew.
    pub fn hang_up(&self) {
        let mut session = self.session();
        *session = Session { number: session.number + 1, ..Session::default() };
    }

    /// The newest heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> Option<pb::Heartbeat> {
        let session = self.session();
        let mut newest_first = session.received.iter().rev();
        newest_first.find_map(|kind| if let pb::agent_message::Kind::Heartbeat(h) = kind { Some(h.clone()) } else { None })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.shared.session()
    }
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As what a statement is refused, and the hash that names it in the refusal: of the payload, or of all when there is none.
fn named(message: &pb::hub_message::Kind) -> Option<(&'static str, String)> {
    let (kind, envelope) = match message {
        pb::hub_message::Kind::Slice(envelope) => ("slice", envelope),
        pb::hub_message::Kind::Root(envelope) => ("root", envelope),
        pb::hub_message::Kind::Binding(envelope) => ("host-binding", envelope),
        pb::hub_message::Kind::Op(envelope) => ("op", envelope),
        pb::hub_message::Kind::SagaOrder(order) => ("op", order.op.as_ref()?),
        pb::hub_message::Kind::Welcome(_) | pb::hub_message::Kind::Query(_) | pb::hub_message::Kind::OpAck(_) => return None,
    };
    let sha256 = Envelope::from_json(&envelope.json).map_or_else(|_| sha256_hex(&envelope.json), |e| e.payload_sha256());
    Some((kind, sha256))
}

/// A TLS server that passes for the hub: its certificate is by the hub's own CA.
fn server_config(hub_dir: &Path) -> Result<rustls::ServerConfig> {
    let ca_pem = std::fs::read_to_string(hub_dir.join("ca/ca.crt.pem")).context("reading the CA's certificate")?;
    let key_pem = std::fs::read_to_string(hub_dir.join("ca/ca.key.pem")).context("reading the CA's key")?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, KeyPair::from_pem(&key_pem)?)?;
    let mut params = CertificateParams::new(vec![HUB_SERVER_NAME.to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &issuer)?;
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| anyhow!("the CA's certificate: {e}"))?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow!("{e}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), ca], private)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, streams: mpsc::Sender<std::io::Result<DuplexStream>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, streams) = (tls.clone(), streams.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(tcp).await else { return };
            // The server takes plain streams: what it writes goes through this pipe into TLS.
            let (near, mut far) = tokio::io::duplex(PIPE);
            if streams.send(Ok(near)).await.is_ok() {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
            }
        });
    }
}

struct Gateway(Arc<Shared>);

#[tonic::async_trait]
impl AgentGateway for Gateway {
    async fn join(&self, _: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        Err(Status::unimplemented("the evil hub takes no joins"))
    }

    async fn renew(&self, _: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        Err(Status::unavailable("the evil hub renews nothing"))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::HubMessage, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<pb::AgentMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (witnessed_journal_seq, witnessed_journal_head) = self.0.witnessed.clone();
        let welcome = pb::Welcome {
            protocol_version: 1,
            heartbeat_interval_ms: HEARTBEAT_MS,
            hub_version: "0.1.0".to_owned(),
            witnessed_journal_seq,
            witnessed_journal_head,
        };
        let welcome = pb::HubMessage { kind: Some(pb::hub_message::Kind::Welcome(welcome)) };
        sender.send(Ok(welcome)).await.map_err(|_| Status::internal("session"))?;
        let shared = self.0.clone();
        let number = {
            let mut session = shared.session();
            session.number += 1;
            session.outbound = Some(sender);
            session.number
        };
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let mut session = shared.session();
                if session.number != number {
                    break;
                }
                session.received.extend(message.kind);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
