//! The services as agents and operators meet them: over real TLS, on a real store, in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moorline_common::canonical::version_hash;
use moorline_common::enrol::{HostClaim, JoinToken, TokenParts, join_message, renew_message};
use moorline_common::id::{ClusterId, Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds};
use moorline_common::op::Class;
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::{HostBinding, SliceStatement, TopologyStatement};
use moorline_common::trust::{Role, RootKey, TrustRoot};
use moorline_proto::transport::{self, ClientIdentity};
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_gateway_client::AgentGatewayClient;
use moorline_proto::v1::operator_client::OperatorClient;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::clock::Clock;
use crate::cloud::Clouds;
use crate::cmd::init::{self, InitArgs};
use crate::config::Config;
use crate::hub::Hub;
use crate::pki::OperatorBundle;
use crate::server::Server;

mod changes;
mod clouds;
mod join;
mod ops;
mod restore;
mod rollouts;
mod sagas;
mod sessions;

/// Nothing here takes as long; a test that waits for more than this has failed.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Operator = OperatorClient<Channel>;
pub(crate) type Gateway = AgentGatewayClient<Channel>;

/// A hub in a temporary folder, with an operator's keys.
pub(crate) struct Kit {
    pub home: tempfile::TempDir,
    pub bundle: OperatorBundle,
    pub clock: Clock,
    pub key: PrivateKey,
    recovery: PrivateKey,
    root: Option<pb::Envelope>,
    pub clouds: Clouds,
    running: Option<Running>,
}

struct Running {
    address: SocketAddr,
    hub: Hub,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), crate::server::ServeError>>,
}

pub(crate) fn seed(n: u8) -> PrivateKey {
    PrivateKey::from_seed(&[n; 32])
}

impl Kit {
    /// A new hub, serving, without a trust root.
    pub async fn bare() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("hub");
        let args = InitArgs {
            cluster: ClusterId::parse("one").unwrap(),
            listen: "127.0.0.1:0".to_owned(),
            advertise: Vec::new(),
            operator: "ann".to_owned(),
        };
        let bundle = init::create(&dir, &args).unwrap();
        let bundle: OperatorBundle = serde_json::from_slice(&std::fs::read(bundle).unwrap()).unwrap();
        let mut kit = Self {
            home,
            bundle,
            clock: Clock::default(),
            key: seed(1),
            recovery: seed(2),
            root: None,
            clouds: Clouds::default(),
            running: None,
        };
        kit.start().await;
        kit
    }

    /// A new hub, serving, with trust root 1.
    pub async fn new() -> Self {
        let mut kit = Self::bare().await;
        let root = kit.trust_root();
        kit.operator().await.put_root(pb::PutRootRequest { root: Some(root) }).await.unwrap();
        kit
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    pub async fn start(&mut self) {
        self.start_in(&self.dir()).await;
    }

    pub async fn start_in(&mut self, dir: &Path) {
        let mut config = Config::load(dir, Some("127.0.0.1:0")).unwrap();
        config.heartbeat_interval_ms = 100;
        let server = Server::bind_with(config, self.clock.clone(), self.clouds.clone()).await.unwrap();
        let (address, hub, shutdown) = (server.address(), server.hub(), CancellationToken::new());
        let task = tokio::spawn(server.run(shutdown.clone()));
        self.running = Some(Running { address, hub, shutdown, task });
    }

    pub async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.shutdown.cancel();
        running.task.await.unwrap().unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address
    }

    pub fn hub(&self) -> &Hub {
        &self.running.as_ref().unwrap().hub
    }

    /// How an agent reaches this hub when the kit is elsewhere.
    pub fn dial(&self) -> Dial {
        Dial { address: self.address(), ca_spki: self.bundle.ca_spki.clone() }
    }

    pub async fn channel(&self, identity: Option<ClientIdentity>) -> Channel {
        let pins = BTreeSet::from([self.bundle.ca_spki.clone()]);
        let config = Arc::new(transport::client_config(pins, identity).unwrap());
        transport::connect(&self.running.as_ref().unwrap().address.to_string(), config).await.unwrap()
    }

    pub async fn operator(&self) -> Operator {
        OperatorClient::new(self.channel(Some(self.identity())).await)
    }

    /// The operator's.
    pub fn identity(&self) -> ClientIdentity {
        let chain = CertificateDer::pem_slice_iter(self.bundle.certificate_chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.bundle.key_pem.as_bytes()).unwrap();
        ClientIdentity { chain, key }
    }

    pub async fn stranger(&self) -> Channel {
        self.channel(None).await
    }

    fn now(&self) -> UnixSeconds {
        self.clock.unix_s()
    }

    /// Trust root 1, the same at each call.
    pub fn trust_root(&mut self) -> pb::Envelope {
        let made = self.root.take().unwrap_or_else(|| self.sealed_root(1));
        self.root.insert(made).clone()
    }

    /// A trust root of any version.
    pub fn sealed_root(&self, version: u64) -> pb::Envelope {
        let role = |key: &PrivateKey, hosts: &[&str], kinds: &[&str]| Role {
            keys: BTreeSet::from([key.id()]),
            threshold: 1,
            hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
            kinds: kinds.iter().map(|&k| k.to_owned()).collect(),
            max_class: Class::R4,
        };
        let named = |name: &str, key: &PrivateKey| (key.id(), RootKey { name: name.to_owned(), public: key.public() });
        let root = TrustRoot {
            cluster: ClusterId::parse("one").unwrap(),
            version,
            issued_at: self.now(),
            expires: self.now().plus(1_000_000),
            keys: BTreeMap::from([named("ann", &self.key), named("recovery", &self.recovery)]),
            roles: BTreeMap::from([
                ("root".to_owned(), role(&self.recovery, &[], &[])),
                ("operator".to_owned(), role(&self.key, &["*"], &["slice", "topology", "host-binding", "op"])),
            ]),
            hub_ca_spki: BTreeSet::from([self.bundle.ca_spki.clone()]),
            revoked: BTreeSet::new(),
            class_thresholds: BTreeMap::new(),
        };
        pb::Envelope::from(Signed::seal(&root, &[&self.recovery]).unwrap().envelope())
    }

    /// A join token for `name`, registered.
    pub async fn token(&self, name: &str) -> JoinToken {
        let mut random = [0; 48];
        getrandom::fill(&mut random).unwrap();
        let parts = TokenParts {
            id: hex::encode(&random[32..]),
            cluster: ClusterId::parse("one").unwrap(),
            name: HostName::parse(name).unwrap(),
            hubs: Vec::new(),
            ca_spki: self.bundle.ca_spki.clone(),
            root_pin: String::new(),
            expires: self.now().plus(600),
        };
        let token = JoinToken::new(parts, random[..32].try_into().unwrap());
        let request = pb::CreateJoinTokenRequest {
            token_id: token.id.clone(),
            join_key_hash: token.join_key_hash(),
            name: name.to_owned(),
            expires: token.expires.0,
        };
        self.operator().await.create_join_token(request).await.unwrap();
        token
    }

    /// A joined, still pending agent.
    pub async fn joined(&self, name: &str, n: u8) -> Agent {
        let token = self.token(name).await;
        let mut agent = Agent::new(n);
        agent.join(self, &token).await.unwrap();
        agent
    }

    /// A joined and bound agent.
    pub async fn bound(&self, name: &str, n: u8) -> Agent {
        let agent = self.joined(name, n).await;
        self.bind(&agent, name, 1).await.unwrap();
        agent
    }

    pub async fn bind(&self, agent: &Agent, name: &str, serial: u64) -> Result<(), Status> {
        let binding = Some(self.binding(agent, name, serial));
        self.operator().await.put_binding(pb::PutBindingRequest { binding }).await.map(|_| ())
    }

    pub fn binding(&self, agent: &Agent, name: &str, serial: u64) -> pb::Envelope {
        self.binding_of(agent, name, serial, &epoch())
    }

    pub fn binding_of(&self, agent: &Agent, name: &str, serial: u64, epoch: &HostEpoch) -> pb::Envelope {
        let binding = HostBinding {
            cluster: ClusterId::parse("one").unwrap(),
            host_id: agent.id(),
            host_key: agent.host.public(),
            sealing_key: [9; 32],
            host_epoch: epoch.clone(),
            name: HostName::parse(name).unwrap(),
            labels: BTreeMap::new(),
            generation_floors: BTreeMap::new(),
            serial,
            issued_at: self.now(),
        };
        pb::Envelope::from(Signed::seal(&binding, &[&self.key]).unwrap().envelope())
    }

    pub fn slice(&self, agent: &Agent, topology: &str, generation: u64, content: Value) -> SliceStatement {
        SliceStatement {
            cluster: ClusterId::parse("one").unwrap(),
            topology: TopologyId::parse(topology).unwrap(),
            generation: Generation(generation),
            host_id: agent.id(),
            version_hash: version_hash(&content).unwrap(),
            content,
            issued_at: self.now(),
            deliver_by: self.now().plus(3600),
            sealed: Default::default(),
            fallback: None,
            at_once: false,
        }
    }

    pub fn sealed(&self, slice: &SliceStatement) -> pb::HostSlice {
        let signed = Signed::seal(slice, &[&self.key]).unwrap();
        pb::HostSlice { host_id: slice.host_id.to_string(), slice: Some(pb::Envelope::from(signed.envelope())) }
    }

    /// Pushes `slices` as the revision after `base`.
    pub async fn push(&self, topology: &str, base: u64, slices: &[SliceStatement]) -> Result<u64, Status> {
        self.operator().await.push(self.push_request(topology, base, slices)).await.map(|r| r.into_inner().generation)
    }

    pub fn push_request(&self, topology: &str, base: u64, slices: &[SliceStatement]) -> pb::PushRequest {
        let source = TopologyStatement {
            cluster: ClusterId::parse("one").unwrap(),
            topology: TopologyId::parse(topology).unwrap(),
            generation: Generation(base + 1),
            source: "topology: x".to_owned(),
            inputs: moorline_common::topology::Inputs::default(),
            down: slices.iter().all(|s| s.content == json!({})),
            issued_at: self.now(),
            deliver_within_s: 3600,
            message: "why".to_owned(),
        };
        let source = Some(pb::Envelope::from(Signed::seal(&source, &[&self.key]).unwrap().envelope()));
        let slices = slices.iter().map(|s| self.sealed(s)).collect();
        pb::PushRequest { topology: topology.to_owned(), base_generation: base, source, slices, rollout: None, accepts: Vec::new() }
    }

    /// Pushes `content` for `agent` as the first revision of `edge`.
    pub async fn pushed(&self, agent: &Agent, content: Value) -> SliceStatement {
        let slice = self.slice(agent, "edge", 1, content);
        self.push("edge", 0, std::slice::from_ref(&slice)).await.unwrap();
        slice
    }

    pub async fn host(&self, name: &str) -> pb::Host {
        let request = pb::ListHostsRequest { name: name.to_owned(), state: 0 };
        let mut hosts = self.operator().await.list_hosts(request).await.unwrap().into_inner().hosts;
        assert_eq!(hosts.len(), 1, "one host is named {name}");
        hosts.remove(0)
    }

    /// Waits until the host looks so.
    pub async fn until_host(&self, name: &str, so: impl Fn(&pb::Host) -> bool) -> pb::Host {
        let mut last = None;
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                let host = self.host(name).await;
                if so(&host) {
                    return host;
                }
                last = Some(host);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("the host never looked so; it is {last:?}"))
    }

    pub async fn events(&self) -> Vec<pb::Event> {
        let request = pb::EventsRequest { after: 0, limit: 10_000, follow: false };
        let mut stream = self.operator().await.events(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.push(event);
        }
        events
    }

    pub async fn kinds(&self, kind: &str) -> Vec<pb::Event> {
        self.events().await.into_iter().filter(|e| e.kind == kind).collect()
    }

    /// Waits until `count` events of `kind` are recorded, and no more: of kinds that are told once.
    pub async fn until_kinds(&self, kind: &str, count: usize) -> Vec<pb::Event> {
        let found = self.until_at_least(kind, count).await;
        assert_eq!(found.len(), count, "{found:?}");
        found
    }

    /// Waits until `count` events of `kind` are recorded, or more: what is tried again after a while is told again, and a busy machine may
    /// take that long.
    pub async fn until_at_least(&self, kind: &str, count: usize) -> Vec<pb::Event> {
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                let found = self.kinds(kind).await;
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("never {count} events `{kind}`"))
    }
}

pub(crate) fn epoch() -> HostEpoch {
    HostEpoch::parse("e".repeat(32)).unwrap()
}

pub(crate) fn web(image: &str) -> Value {
    json!({"docker": {"services": {"web": {"image": image}}}})
}

/// An agent as the hub sees one; it applies nothing.
pub(crate) struct Agent {
    pub host: PrivateKey,
    pub tls: KeyPair,
    pub chain: Vec<Vec<u8>>,
    pub certificate_serial: u64,
    pub roots: Vec<pb::Envelope>,
}

impl Agent {
    pub fn new(n: u8) -> Self {
        let tls = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { host: seed(100 + n), tls, chain: Vec::new(), certificate_serial: 0, roots: Vec::new() }
    }

    pub fn id(&self) -> HostId {
        HostId::of_key(&self.host.public())
    }

    pub fn csr(&self) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["whatever.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        params.serialize_request(&self.tls).unwrap().der().to_vec()
    }

    pub fn join_request(&self, token: &JoinToken) -> pb::JoinRequest {
        let csr_der = self.csr();
        let claim = HostClaim { host_key: self.host.public(), sealing_key: [9; 32], host_epoch: epoch(), name: token.name.clone() };
        let host_signature = self.host.sign_raw(&join_message(&csr_der));
        pb::JoinRequest {
            token_id: token.id.clone(),
            join_key: token.join_key().to_vec(),
            name: token.name.to_string(),
            csr_der,
            host_key: self.host.public().to_vec(),
            sealing_key: vec![9; 32],
            host_epoch: epoch().to_string(),
            claim_mac: claim.mac(&token.mac_key()).to_vec(),
            host_signature,
        }
    }

    pub async fn join(&mut self, kit: &Kit, token: &JoinToken) -> Result<(), Status> {
        let answer = Gateway::new(kit.stranger().await).join(self.join_request(token)).await?.into_inner();
        (self.chain, self.certificate_serial, self.roots) = (answer.certificate_chain, answer.certificate_serial, answer.roots);
        Ok(())
    }

    pub fn identity(&self) -> ClientIdentity {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        ClientIdentity { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.tls.serialize_der())) }
    }

    pub async fn gateway(&self, kit: &Kit) -> Gateway {
        Gateway::new(kit.channel(Some(self.identity())).await)
    }

    pub async fn renew(&self, kit: &Kit, serial: u64) -> Result<pb::RenewResponse, Status> {
        let csr_der = self.csr();
        let message = renew_message(serial, &csr_der);
        let request = pb::RenewRequest { csr_der, certificate_serial: serial, host_signature: self.host.sign_raw(&message) };
        self.gateway(kit).await.renew(request).await.map(tonic::Response::into_inner)
    }

    pub async fn open(&self, kit: &Kit) -> Result<Link, Status> {
        self.open_as(kit, &epoch()).await.map(|(link, _)| link)
    }

    pub async fn open_as(&self, kit: &Kit, epoch: &HostEpoch) -> Result<(Link, pb::Welcome), Status> {
        self.open_by(self.gateway(kit).await, epoch).await
    }

    /// The same on a connection that is there.
    pub async fn open_by(&self, mut client: Gateway, epoch: &HostEpoch) -> Result<(Link, pb::Welcome), Status> {
        let (tx, rx) = mpsc::channel(16);
        let hello = pb::Hello {
            protocol_version: 1,
            agent_version: "0.0.1".to_owned(),
            host_epoch: epoch.to_string(),
            boot_id: "boot".to_owned(),
            drivers: vec!["sim".to_owned()],
        };
        let link = |inbound| Link { tx: tx.clone(), inbound, sequence: 0 };
        tx.send(pb::AgentMessage { kind: Some(pb::agent_message::Kind::Hello(hello)) }).await.unwrap();
        let inbound = client.session(Request::new(ReceiverStream::new(rx))).await?.into_inner();
        let mut link = link(inbound);
        let next = link.next().await;
        let pb::hub_message::Kind::Welcome(welcome) = next else { panic!("expected a welcome, got {next:?}") };
        assert_eq!(welcome.heartbeat_interval_ms, 100);
        Ok((link, welcome))
    }
}

/// See [`Kit::dial`].
#[derive(Clone)]
pub(crate) struct Dial {
    address: SocketAddr,
    ca_spki: String,
}

impl Dial {
    /// A connection of `agent`'s; `None` when the hub is not there.
    pub async fn gateway(&self, agent: &Agent) -> Option<Gateway> {
        let config = transport::client_config(BTreeSet::from([self.ca_spki.clone()]), Some(agent.identity())).unwrap();
        transport::connect(&self.address.to_string(), Arc::new(config)).await.ok().map(Gateway::new)
    }
}

/// An agent's session.
pub(crate) struct Link {
    tx: mpsc::Sender<pb::AgentMessage>,
    pub inbound: Streaming<pb::HubMessage>,
    sequence: u64,
}

impl Link {
    pub async fn say(&self, kind: pb::agent_message::Kind) {
        self.tx.send(pb::AgentMessage { kind: Some(kind) }).await.unwrap();
    }

    /// The same, unless the hub has ended the session.
    pub async fn say_if_open(&self, kind: pb::agent_message::Kind) -> bool {
        self.tx.send(pb::AgentMessage { kind: Some(kind) }).await.is_ok()
    }

    pub async fn try_beat(&mut self, beat: pb::Heartbeat) -> bool {
        self.sequence += 1;
        self.say_if_open(pb::agent_message::Kind::Heartbeat(pb::Heartbeat { sequence: self.sequence, ..beat })).await
    }

    pub async fn beat(&mut self, beat: pb::Heartbeat) {
        self.sequence += 1;
        self.say(pb::agent_message::Kind::Heartbeat(pb::Heartbeat { sequence: self.sequence, ..beat })).await;
    }

    pub async fn next(&mut self) -> pb::hub_message::Kind {
        let message = tokio::time::timeout(DEADLINE, self.inbound.message()).await.expect("the hub says nothing");
        message.unwrap().expect("the hub ended the session").kind.unwrap()
    }

    /// The next slice; anything else before it is a failure.
    pub async fn slice(&mut self) -> SliceStatement {
        let next = self.next().await;
        let pb::hub_message::Kind::Slice(envelope) = next else { panic!("expected a slice, got {next:?}") };
        Signed::<SliceStatement>::from_json(&envelope.json).unwrap().peek().unwrap()
    }

    /// Refuses the next slice; gives back its payload's hash.
    pub async fn refuse(&mut self, code: &str, words: &str) -> String {
        let next = self.next().await;
        let pb::hub_message::Kind::Slice(envelope) = next else { panic!("expected a slice, got {next:?}") };
        let payload_sha256 = Envelope::from_json(&envelope.json).unwrap().payload_sha256();
        let fault = Some(pb::Fault { code: code.to_owned(), message: words.to_owned() });
        let refusal = pb::Refusal { fault, payload_sha256: payload_sha256.clone(), kind: "slice".to_owned() };
        self.say(pb::agent_message::Kind::Refusal(refusal)).await;
        payload_sha256
    }
}

/// The heartbeat of an agent that has root 1 and binding 1 and nothing else.
pub(crate) fn ready() -> pb::Heartbeat {
    pb::Heartbeat { root_version: 1, binding_serial: 1, ready: true, engine: pb::EngineState::Ready.into(), ..Default::default() }
}

/// The heartbeat of an agent that has applied `slice`.
pub(crate) fn applied(slice: &SliceStatement) -> pb::Heartbeat {
    pb::Heartbeat {
        topology: slice.topology.to_string(),
        generation: slice.generation.0,
        applied_hash: slice.version_hash.to_string(),
        applied_generation: slice.generation.0,
        enforcing: true,
        ..ready()
    }
}
