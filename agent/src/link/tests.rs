//! The link against a small hub of its own: real TLS, real gRPC, scripted answers.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use moorline_common::fault::Code;
use moorline_common::id::{Generation, TopologyId};
use moorline_common::observe::EngineState;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::ObservedReport;
use moorline_proto::transport::{HUB_SERVER_NAME, spki_sha256};
use moorline_proto::v1::agent_gateway_server::{AgentGateway, AgentGatewayServer};
use moorline_proto::v1::agent_message::Kind as Up;
use moorline_proto::v1::hub_message::Kind as Down;
use moorline_proto::{PROTOCOL_MIN, PROTOCOL_VERSION, v1 as pb};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::db::Db;
use crate::identity::Transport;
use crate::journal::memory::MemoryJournal;
use crate::lane::Lanes;
use crate::ops::{self, Ops};
use crate::reconcile::Reconciler;
use crate::testing::{FakeDriver, Operator, enrolment, services, until};

const WAIT: Duration = Duration::from_secs(20);

/// A hub's certificate authority and server certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_der: Vec<u8>,
    /// How long issued certificates have lived and will live, in days.
    life_days: Mutex<(i64, i64)>,
    serial: AtomicU64,
    /// The protocol version that Welcome names.
    version: AtomicU32,
    /// A certificate that no longer opens sessions.
    expired: Mutex<Option<Vec<u8>>>,
    /// From the first renewal on, sessions end before they begin.
    is_lost: AtomicBool,
    /// The certificates of all sessions that were asked for.
    shown: Mutex<Vec<Vec<u8>>>,
    /// The serials by which renewals were asked for.
    renewals: Mutex<Vec<u64>>,
}

impl Authority {
    fn new() -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_der = params.self_signed(&key).unwrap().der().to_vec();
        Arc::new(Self {
            issuer: Issuer::new(params, key),
            ca_der,
            life_days: Mutex::new((0, 1)),
            serial: AtomicU64::new(0),
            version: AtomicU32::new(PROTOCOL_VERSION),
            expired: Mutex::default(),
            is_lost: AtomicBool::new(false),
            shown: Mutex::default(),
            renewals: Mutex::default(),
        })
    }

    fn spki(&self) -> String {
        spki_sha256(&CertificateDer::from(self.ca_der.as_slice())).unwrap()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![HUB_SERVER_NAME.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let chain = vec![leaf.der().clone(), CertificateDer::from(self.ca_der.clone())];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.ca_der.clone())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn certify(&self, csr_der: &[u8]) -> (Vec<Vec<u8>>, u64) {
        let mut request = CertificateSigningRequestParams::from_der(&csr_der.into()).unwrap();
        let (lived, left) = *self.life_days.lock().unwrap();
        let now = std::time::SystemTime::now();
        let day = |n: i64| Duration::from_secs(u64::try_from(n).unwrap() * 86_400);
        request.params.not_before = (now - day(lived)).into();
        request.params.not_after = (now + day(left)).into();
        let leaf = request.signed_by(&self.issuer).unwrap();
        let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        (vec![leaf.der().to_vec(), self.ca_der.clone()], serial)
    }
}

/// One accepted TLS connection.
struct Tls(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = Option<Vec<u8>>;
    fn connect_info(&self) -> Option<Vec<u8>> {
        self.0.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec())
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One session as the hub sees it.
struct AtHub {
    certificate: Vec<u8>,
    from_agent: Streaming<pb::AgentMessage>,
    to_agent: mpsc::Sender<Result<pb::HubMessage, Status>>,
}

impl AtHub {
    async fn next(&mut self) -> Up {
        let message = tokio::time::timeout(WAIT, self.from_agent.message()).await.expect("the agent is silent");
        message.unwrap().unwrap().kind.unwrap()
    }

    async fn heartbeat(&mut self, is_so: impl Fn(&pb::Heartbeat) -> bool) -> pb::Heartbeat {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "no such heartbeat");
            if let Up::Heartbeat(beat) = self.next().await
                && is_so(&beat)
            {
                return beat;
            }
        }
    }

    async fn receipt(&mut self) -> pb::Envelope {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "no receipt");
            if let Up::Receipt(receipt) = self.next().await {
                return receipt;
            }
        }
    }

    async fn send(&self, kind: Down) {
        self.to_agent.send(Ok(pb::HubMessage { kind: Some(kind) })).await.unwrap();
    }

    async fn slice(&self, json: Vec<u8>) {
        self.send(Down::Slice(pb::Envelope { json })).await;
    }
}

struct Service {
    authority: Arc<Authority>,
    sessions: mpsc::Sender<AtHub>,
}

#[tonic::async_trait]
impl AgentGateway for Service {
    type SessionStream = ReceiverStream<Result<pb::HubMessage, Status>>;

    async fn join(&self, _: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        *self.authority.life_days.lock().unwrap() = (0, 1);
        let request = request.into_inner();
        self.authority.renewals.lock().unwrap().push(request.certificate_serial);
        let (certificate_chain, certificate_serial) = self.authority.certify(&request.csr_der);
        Ok(Response::new(pb::RenewResponse { certificate_chain, certificate_serial }))
    }

    async fn session(&self, request: Request<Streaming<pb::AgentMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let certificate = request.extensions().get::<Option<Vec<u8>>>().cloned().flatten().unwrap_or_default();
        self.authority.shown.lock().unwrap().push(certificate.clone());
        if self.authority.is_lost.load(Ordering::SeqCst) && !self.authority.renewals.lock().unwrap().is_empty() {
            return Err(Status::unavailable("lost on the way"));
        }
        if self.authority.expired.lock().unwrap().as_ref() == Some(&certificate) {
            return Err(Status::unauthenticated("the client certificate has expired; renew it"));
        }
        let (to_agent, receiver) = mpsc::channel(16);
        let protocol_version = self.authority.version.load(Ordering::SeqCst);
        let welcome = pb::Welcome { protocol_version, heartbeat_interval_ms: 50, hub_version: "test".to_owned(), ..pb::Welcome::default() };
        to_agent.send(Ok(pb::HubMessage { kind: Some(Down::Welcome(welcome)) })).await.unwrap();
        let _ = self.sessions.send(AtHub { certificate, from_agent: request.into_inner(), to_agent }).await;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A hub that runs until it is dropped.
struct TestHub {
    address: String,
    sessions: mpsc::Receiver<AtHub>,
    task: JoinHandle<()>,
}

impl TestHub {
    async fn start(authority: &Arc<Authority>, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, sessions) = mpsc::channel(16);
        let service = AgentGatewayServer::new(Service { authority: authority.clone(), sessions: sender });
        let (accepted, incoming) = mpsc::channel(16);
        let acceptor = authority.acceptor();
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(incoming));
            let accept = async {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        let _ = accepted.send(Ok::<_, io::Error>(Tls(tls))).await;
                    }
                }
            };
            tokio::select! { result = server => result.unwrap(), () = accept => {} }
        });
        Self { address, sessions, task }
    }

    /// The next session, past its Hello.
    async fn session(&mut self) -> AtHub {
        let mut session = tokio::time::timeout(WAIT, self.sessions.recv()).await.expect("nobody dials").unwrap();
        assert!(matches!(session.next().await, Up::Hello(hello) if hello.protocol_version == PROTOCOL_VERSION));
        session
    }

    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A joined host with its link and reconciler running.
struct Agent {
    dir: tempfile::TempDir,
    operator: Operator,
    driver: FakeDriver,
    ledger: Ledger,
    link: watch::Receiver<LinkState>,
    reconciler: reconcile::Handle,
    stop: CancellationToken,
}

impl Agent {
    async fn start(authority: &Authority, hubs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (operator, state_dir) = (Operator::new(dir.path()), StateDir(dir.path().to_owned()));
        let transport = Transport::generate().unwrap();
        let (chain, serial) = authority.certify(&transport.csr_der().unwrap());
        state_dir.put_transport(&transport.with_certificate(&chain, serial).unwrap()).unwrap();
        let db = Db::open(dir.path()).unwrap();
        let intake = operator.ready_intake(&db).await;
        let (ledger, journal, driver) = (Ledger::new(db.clone()), MemoryJournal::default(), FakeDriver::default());
        let lanes = Lanes::new(8);
        let (reconciler, handle) = Reconciler::new(reconcile::Parts {
            driver: Arc::new(driver.clone()),
            journal: journal.clone(),
            ledger: ledger.clone(),
            lanes: lanes.clone(),
            target: intake.target(),
        });
        let (ops, ops_handle) = Ops::new(ops::Parts {
            driver: Arc::new(driver.clone()),
            journal: journal.clone(),
            lanes,
            gate: intake.gate(),
            reconciler: handle.clone(),
        });
        let own = Own::of(&operator.keys);
        let hubs = hubs.iter().map(|h| (*h).to_owned()).collect();
        let enrolment = Enrolment { hubs, ca_spki: authority.spki(), ..enrolment(&operator) };
        let keys = Arc::new(state_dir.keys().unwrap().unwrap());
        let (link, link_state) = Link::new(Parts {
            state_dir,
            enrolment,
            keys,
            intake,
            ledger: ledger.clone(),
            trust_store: TrustStore::new(db),
            journal,
            reconciler: handle.clone(),
            pulls: crate::driver::pulls::View::empty(),
            ops: ops_handle,
            own,
            logs: Some(Arc::new(driver.clone())),
            driver: "fake",
            quarantine: None,
        });
        let stop = CancellationToken::new();
        tokio::spawn(link.run(stop.clone()));
        tokio::spawn(ops.run(stop.clone()));
        tokio::spawn(reconciler.run(stop.clone()));
        Self { dir, operator, driver, ledger, link: link_state, reconciler: handle, stop }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn connected() -> (Arc<Authority>, TestHub, Agent, AtHub) {
    let authority = Authority::new();
    let mut hub = TestHub::start(&authority, "127.0.0.1:0").await;
    let agent = Agent::start(&authority, &[&hub.address]).await;
    let session = hub.session().await;
    (authority, hub, agent, session)
}

#[tokio::test]
async fn a_slice_goes_down_and_its_hash_and_a_signed_report_come_up() {
    let (_authority, _hub, agent, mut session) = connected().await;
    let first = session.heartbeat(|_| true).await;
    assert_eq!((first.sequence, first.ready, first.enforcing, first.root_version, first.binding_serial), (1, true, false, 1, 1));
    let slice = agent.operator.slice(3, services(&["web"], false));
    let hash = Signed::<moorline_common::statement::SliceStatement>::from_json(&slice).unwrap().peek().unwrap().version_hash;
    session.slice(slice).await;
    let beat = session.heartbeat(|b| !b.applied_hash.is_empty() && !b.converging).await;
    assert_eq!((beat.topology.as_str(), beat.generation, beat.applied_hash.as_str()), ("edge", 3, hash.as_str()));
    assert!(beat.enforcing && beat.last_error_code.is_empty() && beat.engine() == pb::EngineState::Ready);
    assert!(prost::Message::encoded_len(&beat) <= 200, "a heartbeat is small");

    session.send(Down::Query(pb::Query { what: pb::query::What::Report.into(), ..pb::Query::default() })).await;
    let report = loop {
        if let Up::Observed(observed) = session.next().await {
            break observed;
        }
    };
    let signed = Signed::<ObservedReport>::new(Envelope::try_from(report.report.unwrap()).unwrap()).unwrap();
    let verified = signed.verify_by_host(&agent.operator.keys.host_key.public()).unwrap();
    assert_eq!(verified.statement().observed.digest(), report.digest);
    assert!(verified.statement().observed.containers.contains_key("edge-web-1"));
    assert_eq!(verified.statement().apply.applied.as_ref(), Some(&hash));
}

#[tokio::test]
async fn a_refused_slice_is_answered_with_its_code_and_the_session_goes_on() {
    let (_authority, _hub, agent, mut session) = connected().await;
    let mut envelope = Envelope::from_json(&agent.operator.slice(1, services(&["web"], false))).unwrap();
    envelope.payload[10] ^= 1;
    session.slice(envelope.to_json()).await;
    let refusal = loop {
        if let Up::Refusal(refusal) = session.next().await {
            break refusal;
        }
    };
    assert_eq!(refusal.fault.unwrap().code, Code::BadSignature.as_str());
    assert_eq!((refusal.payload_sha256, refusal.kind.as_str()), (envelope.payload_sha256(), "slice"));
    session.heartbeat(|_| true).await;
    assert_eq!(agent.link.borrow().last_refusal.as_ref().unwrap().fault.code, Code::BadSignature);
    assert!(agent.driver.calls().is_empty());
}

#[tokio::test]
async fn an_observation_that_no_report_can_hold_goes_cut_and_heartbeats_go_on() {
    let (_authority, _hub, agent, mut session) = connected().await;
    let stranger = moorline_common::observe::ObservedContainer { image: "i".repeat(2000), ..Default::default() };
    agent.driver.by_hand(|engine| engine.containers.extend((0..3000).map(|n| (format!("other-{n}"), stranger.clone()))));
    agent.reconciler.look();
    let report = loop {
        if let Up::Observed(observed) = session.next().await {
            let signed = Signed::<ObservedReport>::new(Envelope::try_from(observed.report.unwrap()).unwrap()).unwrap();
            let report = signed.verify_by_host(&agent.operator.keys.host_key.public()).unwrap().into_statement();
            if report.observed.trimmed {
                break report.observed;
            }
        }
    };
    assert!(report.containers.is_empty() && report.engine == EngineState::Ready);
    session.heartbeat(|b| b.observed_digest == report.digest()).await;
    assert_eq!(agent.reconciler.state().borrow().observed.containers.len(), 3000, "the agent itself knows all");
}

#[tokio::test]
async fn a_receipt_that_the_hub_took_and_did_not_acknowledge_comes_again_in_the_same_session() {
    let (_authority, _hub, agent, mut session) = connected().await;
    let order = agent.operator.order("restart", "docker/container/edge-web-1", serde_json::json!({}), |_| {});
    session.send(Down::Op(pb::Envelope { json: order })).await;
    let first = session.receipt().await;
    // As if so much time had passed.
    tokio::time::pause();
    tokio::time::advance(crate::limits::RECEIPTS_AGAIN).await;
    tokio::time::resume();
    assert_eq!(session.receipt().await, first);
}

#[tokio::test]
async fn heartbeats_go_on_while_the_engine_hangs() {
    let (_authority, _hub, agent, mut session) = connected().await;
    until(&mut agent.reconciler.state(), "a first look", |s| s.engine() == EngineState::Ready).await;
    agent.driver.hang(true);
    agent.reconciler.look();
    agent.driver.observed_again().await;
    let from = session.heartbeat(|_| true).await.sequence;
    session.heartbeat(|b| b.sequence >= from + 5).await;
    agent.driver.hang(false);
}

#[tokio::test]
async fn a_lost_hub_changes_nothing_and_is_found_again() {
    let (authority, hub, agent, mut session) = connected().await;
    session.slice(agent.operator.slice(1, services(&["web"], false))).await;
    session.heartbeat(|b| !b.applied_hash.is_empty() && !b.converging).await;
    let (address, calls) = (hub.address.clone(), agent.driver.calls());
    drop(session);
    hub.stop().await;
    until(&mut agent.link.clone(), "the loss is known", |l| l.hub.is_none() && l.last_error.is_some()).await;
    agent.driver.kill("edge-web-1");
    let mut state = agent.reconciler.state();
    until(&mut state, "healed without a hub", |s| {
        s.settled_push.is_some() && s.observed.containers["edge-web-1"].state == moorline_common::observe::ContainerState::Running
    })
    .await;
    let mut again = TestHub::start(&authority, &address).await;
    let mut session = again.session().await;
    let beat = session.heartbeat(|_| true).await;
    assert_eq!((beat.sequence, beat.generation, beat.enforcing), (1, 1, true));
    assert!(agent.driver.calls().len() <= calls.len() + 1);
}

#[tokio::test]
async fn an_address_that_is_dead_is_passed_over() {
    let authority = Authority::new();
    let mut hub = TestHub::start(&authority, "127.0.0.1:0").await;
    let agent = Agent::start(&authority, &["127.0.0.1:1", &hub.address]).await;
    hub.session().await.heartbeat(|_| true).await;
    assert_eq!(agent.link.borrow().hub.as_deref(), Some(hub.address.as_str()));
}

#[tokio::test]
async fn a_hub_of_another_authority_is_not_spoken_to() {
    let authority = Authority::new();
    let mut hub = TestHub::start(&Authority::new(), "127.0.0.1:0").await;
    let agent = Agent::start(&authority, &[&hub.address]).await;
    let state = until(&mut agent.link.clone(), "an error", |l| l.last_error.is_some()).await;
    assert!(state.last_error.unwrap().contains("pinned"));
    assert!(hub.sessions.try_recv().is_err());
}

#[tokio::test]
async fn a_ledger_edited_by_hand_shows_in_the_next_heartbeat() {
    let (_authority, _hub, agent, mut session) = connected().await;
    session.slice(agent.operator.slice(1, services(&["web"], false))).await;
    session.heartbeat(|b| !b.applied_hash.is_empty() && !b.converging).await;
    let by_hand = rusqlite::Connection::open(agent.dir.path().join(crate::db::FILE_NAME)).unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    by_hand.execute("UPDATE current SET version_hash = ?1", [&other]).unwrap();
    // What the agent did not write itself is not known to be applied.
    session.heartbeat(|b| b.generation == 1 && b.applied_hash.is_empty()).await;
}

#[tokio::test]
async fn a_hub_that_lost_everything_is_given_what_operators_signed() {
    let (_authority, _hub, agent, mut session) = connected().await;
    let slice = agent.operator.slice(7, services(&["web"], false));
    session.slice(slice.clone()).await;
    session.heartbeat(|b| b.generation == 7).await;
    session.send(Down::Query(pb::Query { what: pb::query::What::Held.into(), ..pb::Query::default() })).await;
    let held = loop {
        if let Up::Held(held) = session.next().await {
            break held;
        }
    };
    assert_eq!(held.roots.len(), 1);
    assert_eq!(held.roots[0].json, agent.operator.root.envelope().to_json());
    assert!(held.binding.is_some());
    assert_eq!(held.slice.unwrap().json, slice);
}

#[tokio::test]
async fn a_torn_down_host_says_so() {
    let (_authority, _hub, agent, mut session) = connected().await;
    session.slice(agent.operator.slice(1, services(&["web"], false))).await;
    session.heartbeat(|b| !b.applied_hash.is_empty()).await;
    session.slice(agent.operator.slice(2, json!({}))).await;
    let empty = moorline_common::canonical::version_hash(&json!({})).unwrap();
    let beat = session.heartbeat(|b| b.generation == 2 && b.applied_hash == empty.as_str()).await;
    assert_eq!(beat.topology, "edge");
    assert_eq!(agent.ledger.current().unwrap(), None);
    let edge = TopologyId::parse("edge").unwrap();
    assert_eq!(agent.ledger.floor(&edge).unwrap().unwrap().generation, Generation(2));
}

#[tokio::test]
async fn a_certificate_past_its_half_life_is_renewed_and_the_old_one_kept_until_the_new_one_works() {
    let authority = Authority::new();
    *authority.life_days.lock().unwrap() = (9, 3);
    let mut hub = TestHub::start(&authority, "127.0.0.1:0").await;
    let agent = Agent::start(&authority, &[&hub.address]).await;
    let old = hub.session().await;
    let state_dir = StateDir(agent.dir.path().to_owned());
    let mut renewed = hub.session().await;
    renewed.heartbeat(|_| true).await;
    assert_ne!(old.certificate, renewed.certificate);
    assert_eq!(state_dir.transport().unwrap().unwrap().serial, 2);
    assert!(state_dir.next_transport().unwrap().is_none());
    assert_eq!(BTreeSet::from([old.certificate.is_empty(), renewed.certificate.is_empty()]), BTreeSet::from([false]));
}

#[tokio::test]
async fn a_lost_welcome_never_leads_back_to_the_certificate_before_a_renewal() {
    let authority = Authority::new();
    *authority.life_days.lock().unwrap() = (9, 3);
    authority.is_lost.store(true, Ordering::SeqCst);
    let mut hub = TestHub::start(&authority, "127.0.0.1:0").await;
    // The dead address is tried before each dial of the other: it says nothing of the certificate either.
    let agent = Agent::start(&authority, &["127.0.0.1:1", &hub.address]).await;
    let session = hub.session().await;
    let first = session.certificate.clone();
    *authority.expired.lock().unwrap() = Some(first.clone());
    let deadline = tokio::time::Instant::now() + WAIT;
    while authority.shown.lock().unwrap().len() < 5 {
        assert!(tokio::time::Instant::now() < deadline, "the agent no longer dials");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    authority.is_lost.store(false, Ordering::SeqCst);
    let mut again = hub.session().await;
    again.heartbeat(|_| true).await;
    assert!(authority.shown.lock().unwrap().iter().skip(1).all(|c| *c != first), "the old certificate was shown again");
    assert_eq!(*authority.renewals.lock().unwrap(), [1]);
    assert_eq!(StateDir(agent.dir.path().to_owned()).transport().unwrap().unwrap().serial, 2);
}

#[test]
fn only_a_certificate_alert_speaks_against_a_certificate() {
    let ended = |reason: &str| LinkError::Ended(reason.to_owned()).rejects_certificate();
    assert!(ended("transport error: received fatal alert: CertificateExpired"));
    assert!(!ended("transport error: received fatal alert: InternalError") && !ended("no Welcome"));
    let reason = "tcp connect error: Connection refused".to_owned();
    let unreachable = moorline_proto::transport::TransportError::Unreachable { address: "h:1".to_owned(), reason };
    assert!(!LinkError::Transport(unreachable).rejects_certificate());
}

#[tokio::test]
async fn a_host_that_was_away_for_longer_than_its_certificate_lived_renews_it_first() {
    let authority = Authority::new();
    let mut hub = TestHub::start(&authority, "127.0.0.1:0").await;
    let agent = Agent::start(&authority, &[&hub.address]).await;
    let first = hub.session().await;
    *authority.expired.lock().unwrap() = Some(first.certificate.clone());
    drop(first);
    let mut again = hub.session().await;
    again.heartbeat(|_| true).await;
    let state_dir = StateDir(agent.dir.path().to_owned());
    assert_eq!(state_dir.transport().unwrap().unwrap().serial, 2);
}

#[tokio::test]
async fn only_a_protocol_that_both_understand_makes_a_session() {
    let authority = Authority::new();
    authority.version.store(PROTOCOL_VERSION + 1, Ordering::SeqCst);
    let hub = TestHub::start(&authority, "127.0.0.1:0").await;
    let agent = Agent::start(&authority, &[&hub.address]).await;
    let says = |version: u32| {
        let words = format!("protocol version {version}, this agent {PROTOCOL_MIN} to {PROTOCOL_VERSION}");
        move |l: &LinkState| l.last_error.as_ref().is_some_and(|e| e.contains(&words))
    };
    until(&mut agent.link.clone(), "a newer one is refused", says(PROTOCOL_VERSION + 1)).await;
    authority.version.store(PROTOCOL_MIN - 1, Ordering::SeqCst);
    until(&mut agent.link.clone(), "an older one is refused", says(PROTOCOL_MIN - 1)).await;
    authority.version.store(PROTOCOL_MIN, Ordering::SeqCst);
    until(&mut agent.link.clone(), "the oldest that is understood is spoken", |l| l.hub.is_some()).await;
}

#[test]
fn redials_come_quickly_at_first_and_then_rarely() {
    assert!((1..=REDIAL_QUICK_TRIES).all(|n| redial_wait(n, u64::MAX) <= Duration::from_secs(1)));
    assert!(redial_wait(REDIAL_QUICK_TRIES + 20, 0) >= Duration::from_secs(15));
}
