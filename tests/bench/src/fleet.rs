//! A real hub with simulated agents: each joins over TLS of its own, has its own key and certificate, and keeps a session open.
//!
//! What an agent reports is its benchmark's: see [`Life`].

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::stream;
use moorline_common::enrol::{HostClaim, JoinToken, TokenParts, join_message};
use moorline_common::id::{ClusterId, Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds};
use moorline_common::op::{OpStatement, Receipt};
use moorline_common::sign::{Envelope, PrivateKey, Signed, Statement};
use moorline_common::statement::{HostBinding, ObservedReport, SliceStatement, TopologyStatement};
use moorline_common::trust::TrustRoot;
use moorline_proto::transport::{self, ClientIdentity};
use moorline_proto::v1::agent_gateway_client::AgentGatewayClient;
use moorline_proto::v1::operator_client::OperatorClient;
use moorline_proto::v1::{self as pb};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::transport::Channel;

/// What an agent says about its host.
pub trait Life: Sync {
    /// What it reports once it has `slice`, if it reports at all.
    ///
    /// # Errors
    /// When the slice cannot be applied.
    fn applied(&self, slice: &SliceStatement) -> Result<Option<ObservedReport>>;

    /// What it says of an order of a saga, whenever it does.
    fn ordered(&self, _order: OpStatement, _payload_sha256: String) -> impl Future<Output = Option<Receipt>> + Send {
        std::future::ready(None)
    }
}

/// An agent that reports nothing.
pub struct Quiet;

impl Life for Quiet {
    fn applied(&self, _slice: &SliceStatement) -> Result<Option<ObservedReport>> {
        Ok(None)
    }
}

/// Chooses the process's cryptography.
pub fn init_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(bytes)
}

/// What the kernel says about a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Its memory.
    pub rss_kib: u64,
    /// Its processor time so far.
    pub cpu_ms: u64,
}

/// A real hub in a folder of its own; killed when dropped.
pub struct Hub {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// The hashes of its CA's key.
    pub pins: BTreeSet<String>,
    bundle: serde_json::Value,
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Hub {
    /// Starts `program` with all that it keeps in `folder`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(program: &Path, folder: &Path) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let dir = folder.join("hub");
        let init = Command::new(program)
            .args(["init", "--cluster", "bench", "--listen", &address, "--advertise", &address, "--dir"])
            .arg(&dir)
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {}; build it with `cargo build --release -p moorline-hub`", program.display()))?;
        ensure!(init.success(), "moorline-hub init failed");
        let child = Command::new(program).arg("serve").arg("--dir").arg(&dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let bundle: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("operators/admin.json"))?)?;
        let pin = bundle.get("ca_spki").and_then(|v| v.as_str()).context("the bundle has no ca_spki")?.to_owned();
        let mut hub = Self { child, address, pins: BTreeSet::from([pin]), bundle };
        let deadline = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(&hub.address).await.is_err() {
            hub.check_alive()?;
            ensure!(Instant::now() < deadline, "the hub does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(hub)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the hub has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the hub ended with {status}"),
            None => Ok(()),
        }
    }

    /// What it takes of the machine.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn usage(&self) -> Result<Usage> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next()).context("no VmRSS")?;
        Ok(Usage { rss_kib: rss.parse()?, cpu_ms: cpu_ms(&self.child.id().to_string())? })
    }
}

/// The processor time of a process so far, in milliseconds; `self` is this one.
///
/// # Errors
/// When the kernel does not say.
pub fn cpu_ms(process: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
    // proc(5): utime and stime are fields 14 and 15, in ticks of 10 ms.
    let ticks = fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
    Ok(ticks * 10)
}

/// The operator's side, in this process.
pub struct Operator {
    client: OperatorClient<Channel>,
    key: PrivateKey,
    cluster: ClusterId,
    root_pin: String,
}

impl Operator {
    /// One who makes the cluster's trust root.
    ///
    /// # Errors
    /// When the hub does not take it.
    pub async fn init(hub: &Hub) -> Result<Self> {
        let client = connect(hub).await?;
        let (key, recovery) = (PrivateKey::from_seed(&random()?), PrivateKey::from_seed(&random()?));
        let cluster = ClusterId::parse("bench")?;
        let operators = [("operator".to_owned(), key.public())];
        let root = TrustRoot {
            hub_ca_spki: hub.pins.clone(),
            ..TrustRoot::first(cluster.clone(), &operators, &recovery.public(), now(), now().plus(86_400))
        };
        let signed = Signed::seal(&root, &[&recovery])?;
        let root_pin = TrustRoot::pin(signed.envelope());
        client.clone().put_root(pb::PutRootRequest { root: Some(signed.envelope().into()) }).await?;
        Ok(Self { client, key, cluster, root_pin })
    }

    /// One whose key was made by `moorctl init`, as was the trust root that the hub has.
    ///
    /// # Errors
    /// When the hub has no root.
    pub async fn with_key(hub: &Hub, key: PrivateKey) -> Result<Self> {
        let client = connect(hub).await?;
        let roots = client.clone().get_cluster(pb::GetClusterRequest {}).await?.into_inner().roots;
        let first = Envelope::try_from(roots.into_iter().next().context("the hub has no trust root")?)?;
        Ok(Self { client, key, cluster: ClusterId::parse("bench")?, root_pin: TrustRoot::pin(&first) })
    }

    /// Lets agent `n` join, and binds it with `labels`.
    ///
    /// # Errors
    /// What the hub refuses.
    pub async fn enrol(&self, hub: &Hub, n: usize, labels: BTreeMap<String, String>) -> Result<Agent> {
        let name = HostName::parse(format!("host-{n}"))?;
        let token = JoinToken::new(
            TokenParts {
                id: hex::encode(random::<16>()?),
                cluster: self.cluster.clone(),
                name: name.clone(),
                hubs: vec![hub.address.clone()],
                ca_spki: hub.pins.first().cloned().unwrap_or_default(),
                root_pin: self.root_pin.clone(),
                expires: now().plus(3600),
            },
            random()?,
        );
        let mut operator = self.client.clone();
        operator
            .create_join_token(pb::CreateJoinTokenRequest {
                token_id: token.id.clone(),
                join_key_hash: token.join_key_hash(),
                name: name.to_string(),
                expires: token.expires.0,
            })
            .await?;
        let agent = Agent::join(hub, &token).await?;
        let binding = HostBinding {
            cluster: self.cluster.clone(),
            host_id: agent.host_id.clone(),
            host_key: agent.claim.host_key,
            sealing_key: agent.claim.sealing_key,
            host_epoch: agent.claim.host_epoch.clone(),
            name,
            labels,
            generation_floors: BTreeMap::new(),
            serial: 1,
            issued_at: now(),
        };
        let signed = Signed::seal(&binding, &[&self.key])?;
        operator.put_binding(pb::PutBindingRequest { binding: Some(signed.envelope().into()) }).await?;
        Ok(agent)
    }

    /// A statement as this operator signs it.
    ///
    /// # Errors
    /// When it has no canonical form.
    pub fn seal<T: Statement>(&self, statement: &T) -> Result<Envelope> {
        Ok(Signed::seal(statement, &[&self.key])?.envelope().clone())
    }

    /// The connection, for calls that are not wrapped here.
    #[must_use]
    pub fn client(&self) -> OperatorClient<Channel> {
        self.client.clone()
    }

    /// One revision with a small slice for every agent.
    ///
    /// # Errors
    /// What the hub refuses.
    pub async fn push(&self, agents: &[Agent]) -> Result<()> {
        let topology = TopologyId::parse("bench")?;
        let content = serde_json::json!({"docker": {"services": {"site": {"image": "bench:1", "restart": "unless-stopped"}}}});
        let version_hash = moorline_common::canonical::version_hash(&content)?;
        let slices = agents
            .iter()
            .map(|agent| {
                let statement = SliceStatement {
                    cluster: self.cluster.clone(),
                    topology: topology.clone(),
                    generation: Generation(1),
                    host_id: agent.host_id.clone(),
                    content: content.clone(),
                    version_hash: version_hash.clone(),
                    issued_at: now(),
                    deliver_by: now().plus(3600),
                    sealed: Default::default(),
                    fallback: None,
                    at_once: false,
                };
                let signed = Signed::seal(&statement, &[&self.key])?;
                Ok(pb::HostSlice { host_id: agent.host_id.to_string(), slice: Some(signed.envelope().into()) })
            })
            .collect::<Result<Vec<_>>>()?;
        let source = TopologyStatement {
            cluster: self.cluster.clone(),
            topology: topology.clone(),
            generation: Generation(1),
            source: "topology: bench\n".to_owned(),
            inputs: moorline_common::topology::Inputs::default(),
            down: false,
            issued_at: now(),
            deliver_within_s: 3600,
            message: String::new(),
        };
        let signed = Signed::seal(&source, &[&self.key])?;
        self.client
            .clone()
            .push(pb::PushRequest {
                topology: topology.to_string(),
                base_generation: 0,
                source: Some(signed.envelope().into()),
                slices,
                rollout: None,
                accepts: Vec::new(),
            })
            .await?;
        Ok(())
    }
}

async fn connect(hub: &Hub) -> Result<OperatorClient<Channel>> {
    let text =
        |name: &str| hub.bundle.get(name).and_then(|v| v.as_str()).map(str::to_owned).with_context(|| format!("the bundle has no {name}"));
    let chain = CertificateDer::pem_slice_iter(text("certificate_chain_pem")?.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let identity = ClientIdentity { chain, key: PrivateKeyDer::from_pem_slice(text("key_pem")?.as_bytes())? };
    let config = Arc::new(transport::client_config(hub.pins.clone(), Some(identity))?);
    Ok(OperatorClient::new(transport::connect(&hub.address, config).await?))
}

/// One simulated agent.
pub struct Agent {
    /// The hash of its key.
    pub host_id: HostId,
    key: PrivateKey,
    claim: HostClaim,
    chain: Vec<CertificateDer<'static>>,
    key_der: Vec<u8>,
}

impl Agent {
    async fn join(hub: &Hub, token: &JoinToken) -> Result<Self> {
        let host_key = PrivateKey::from_seed(&random()?);
        let tls_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let csr = rcgen::CertificateParams::default().serialize_request(&tls_key)?;
        let csr_der = csr.der().to_vec();
        let claim = HostClaim {
            host_key: host_key.public(),
            sealing_key: random()?,
            host_epoch: HostEpoch::parse(hex::encode(random::<16>()?))?,
            name: token.name.clone(),
        };
        let config = Arc::new(transport::client_config(hub.pins.clone(), None)?);
        let mut gateway = AgentGatewayClient::new(transport::connect(&hub.address, config).await?);
        let answer = gateway
            .join(pb::JoinRequest {
                token_id: token.id.clone(),
                join_key: token.join_key().to_vec(),
                name: token.name.to_string(),
                host_signature: host_key.sign_raw(&join_message(&csr_der)),
                csr_der,
                host_key: claim.host_key.to_vec(),
                sealing_key: claim.sealing_key.to_vec(),
                host_epoch: claim.host_epoch.to_string(),
                claim_mac: claim.mac(&token.mac_key()).to_vec(),
            })
            .await?
            .into_inner();
        Ok(Self {
            host_id: HostId::of_key(&claim.host_key),
            key: host_key,
            claim,
            chain: answer.certificate_chain.into_iter().map(CertificateDer::from).collect(),
            key_der: tls_key.serialize_der(),
        })
    }

    /// The public half of its key.
    #[must_use]
    pub fn host_key(&self) -> [u8; 32] {
        self.claim.host_key
    }

    /// The life of its host.
    #[must_use]
    pub fn epoch(&self) -> HostEpoch {
        self.claim.host_epoch.clone()
    }

    /// Keeps a session open: heartbeats, takes the slice as applied, and reports by `life`. Counts itself in `settled` then.
    ///
    /// # Errors
    /// When the session ends.
    pub async fn live(
        self,
        address: &str,
        pins: BTreeSet<String>,
        every: Duration,
        settled: &AtomicU64,
        life: &impl Life,
    ) -> Result<Infallible> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key_der));
        let config = Arc::new(transport::client_config(pins, Some(ClientIdentity { chain: self.chain, key }))?);
        let mut gateway = AgentGatewayClient::new(transport::connect(address, config).await?);
        let (send, receive) = tokio::sync::mpsc::channel::<pb::AgentMessage>(8);
        let message = |kind| pb::AgentMessage { kind: Some(kind) };
        send.send(message(pb::agent_message::Kind::Hello(pb::Hello {
            protocol_version: moorline_proto::PROTOCOL_VERSION,
            agent_version: "bench".to_owned(),
            host_epoch: self.claim.host_epoch.to_string(),
            boot_id: "bench".to_owned(),
            drivers: vec!["sim".to_owned()],
        })))
        .await?;
        let receive = stream::unfold(receive, |mut receive| async { receive.recv().await.map(|m| (m, receive)) });
        let mut incoming = gateway.session(receive).await?.into_inner();
        let mut heartbeat =
            pb::Heartbeat { root_version: 1, ready: true, engine: pb::EngineState::Ready.into(), binding_serial: 1, ..Default::default() };
        let mut ticks = tokio::time::interval(every);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                got = incoming.message() => match got?.context("the hub closed the session")?.kind {
                    Some(pb::hub_message::Kind::Slice(envelope)) => {
                        let slice = Signed::<SliceStatement>::from_json(&envelope.json)?.peek()?;
                        if let Some(report) = life.applied(&slice)? {
                            let said = observed(&self.key, &report)?;
                            heartbeat.observed_digest.clone_from(&said.digest);
                            send.send(message(pb::agent_message::Kind::Observed(said))).await?;
                        }
                        if heartbeat.applied_hash.is_empty() {
                            settled.fetch_add(1, Ordering::Relaxed);
                        }
                        heartbeat.topology = slice.topology.to_string();
                        heartbeat.generation = slice.generation.0;
                        heartbeat.applied_hash = slice.version_hash.to_string();
                        heartbeat.applied_generation = slice.generation.0;
                        heartbeat.enforcing = true;
                    }
                    Some(pb::hub_message::Kind::SagaOrder(order)) => {
                        let signed = Signed::<OpStatement>::from_json(&order.op.context("an order without its envelope")?.json)?;
                        if let Some(receipt) = life.ordered(signed.peek()?, signed.envelope().payload_sha256()).await {
                            let signed = Signed::seal(&receipt, &[&self.key])?;
                            send.send(message(pb::agent_message::Kind::Receipt(signed.envelope().into()))).await?;
                        }
                        continue;
                    }
                    Some(_) | None => continue,
                },
            }
            heartbeat.sequence += 1;
            send.send(message(pb::agent_message::Kind::Heartbeat(heartbeat.clone()))).await?;
        }
    }
}

fn observed(key: &PrivateKey, report: &ObservedReport) -> Result<pb::Observed> {
    let signed = Signed::seal(report, &[key])?;
    let apply = moorline_common::canonical::to_canonical(&report.apply)?;
    Ok(pb::Observed {
        report: Some(signed.envelope().into()),
        digest: report.observed.digest(),
        apply_digest: moorline_common::id::sha256_hex(&apply),
    })
}
