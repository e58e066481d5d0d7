//! Measures what one connected agent costs a hub: starts a real hub, lets simulated agents join over
//! TLS of their own, binds them, pushes them a slice, keeps their sessions open, and reads the hub's
//! memory and CPU time from the kernel.
//!
//! The agents are simulated in this process; each has its own key, certificate and TLS connection.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use moorline_common::enrol::{HostClaim, JoinToken, TokenParts, join_message};
use moorline_common::id::{ClusterId, Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds};
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::statement::{HostBinding, SliceStatement, TopologyStatement};
use moorline_common::trust::TrustRoot;
use moorline_proto::transport::{self, ClientIdentity};
use moorline_proto::v1::agent_gateway_client::AgentGatewayClient;
use moorline_proto::v1::operator_client::OperatorClient;
use moorline_proto::v1::{self as pb};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Measures the cost of connected agents to one hub.
#[derive(Parser)]
struct Args {
    /// How many agents to connect.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// The hub's program.
    #[arg(long, default_value = "target/release/moorline-hub")]
    hub: PathBuf,
    /// Milliseconds between two heartbeats of one agent.
    #[arg(long, default_value_t = 5000)]
    heartbeat_ms: u64,
    /// Seconds to measure the hub at rest, with all agents connected.
    #[arg(long, default_value_t = 20)]
    rest_s: u64,
    /// Most KiB of hub memory per agent; more is an error.
    #[arg(long, default_value_t = 60)]
    limit_kib: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let args = Args::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::start(&args, folder.path()).await?;
    let operator = Operator::init(&hub).await?;

    let before_join = hub.usage()?;
    let agents: Vec<Agent> = stream::iter(0..args.agents)
        .map(|n| operator.enrol(&hub, n))
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    operator.push(&agents).await?;
    let before = hub.usage()?;
    say(&format!("{} agents enrolled and bound; hub {} KiB (empty: {} KiB)", agents.len(), before.rss_kib, before_join.rss_kib))?;

    let settled = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    // Dropped before the hub, so that its end is no news to anybody.
    let mut sessions = JoinSet::new();
    for agent in agents {
        let (settled, address, pins) = (settled.clone(), hub.address.clone(), hub.pins.clone());
        let every = Duration::from_millis(args.heartbeat_ms);
        sessions.spawn(async move { agent.live(&address, pins, every, &settled).await });
    }
    let deadline = Instant::now() + Duration::from_secs(180);
    let all = u64::try_from(args.agents)?;
    while settled.load(Ordering::Relaxed) < all {
        let so_far = || format!("{} of {all} agents had got their slice", settled.load(Ordering::Relaxed));
        ensure!(Instant::now() < deadline, "after 180 s only {}", so_far());
        hub.check_alive().with_context(so_far)?;
        go_on(&mut sessions, Duration::from_millis(50)).await.with_context(so_far)?;
    }
    say(&format!("all connected and served with their slice in {:.1} s", started.elapsed().as_secs_f64()))?;

    let rest_from = hub.usage()?;
    go_on(&mut sessions, Duration::from_secs(args.rest_s)).await?;
    hub.check_alive()?;
    let rest_to = hub.usage()?;
    let per_agent = rest_to.rss_kib.saturating_sub(before.rss_kib) / all;
    let per_agent_all = rest_to.rss_kib.saturating_sub(before_join.rss_kib) / all;
    let cpu_ms = rest_to.cpu_ms - rest_from.cpu_ms;
    say(&format!(
        "hub with all connected: {} KiB, {per_agent} KiB per session, {per_agent_all} KiB per agent with its records (limit {})",
        rest_to.rss_kib, args.limit_kib
    ))?;
    let share = Duration::from_millis(cpu_ms).div_duration_f64(Duration::from_secs(args.rest_s));
    say(&format!("hub at rest: {cpu_ms} ms of CPU in {} s, {:.3} % of a core", args.rest_s, share * 100.0))?;
    if per_agent_all > args.limit_kib {
        bail!("{per_agent_all} KiB per agent is over the limit of {} KiB", args.limit_kib);
    }
    Ok(())
}

/// Lets `sessions` go on for `span`.
///
/// # Errors
/// When one of them ends meanwhile: fewer agents than were asked for would be measured.
async fn go_on(sessions: &mut JoinSet<Result<Infallible>>, span: Duration) -> Result<()> {
    let Ok(Some(ended)) = tokio::time::timeout(span, sessions.join_next()).await else { return Ok(()) };
    match ended.context("a session's task")?.context("an agent's session ended")? {}
}

fn say(line: &str) -> Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{line}").context("writing to standard output")
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
#[derive(Clone, Copy)]
struct Usage {
    rss_kib: u64,
    cpu_ms: u64,
}

/// A real hub in a folder of its own; killed when dropped.
struct Hub {
    child: Child,
    address: String,
    pins: BTreeSet<String>,
    bundle: serde_json::Value,
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Hub {
    async fn start(args: &Args, folder: &Path) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let dir = folder.join("hub");
        let init = Command::new(&args.hub)
            .args(["init", "--cluster", "bench", "--listen", &address, "--advertise", &address, "--dir"])
            .arg(&dir)
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {}; build it with `cargo build --release -p moorline-hub`", args.hub.display()))?;
        ensure!(init.success(), "moorline-hub init failed");
        let child = Command::new(&args.hub).arg("serve").arg("--dir").arg(&dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
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

    /// # Errors
    /// When the hub has ended.
    fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the hub ended with {status}"),
            None => Ok(()),
        }
    }

    fn usage(&self) -> Result<Usage> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next()).context("no VmRSS")?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
        // proc(5): utime and stime are fields 14 and 15, in ticks of 10 ms.
        let ticks = fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
        Ok(Usage { rss_kib: rss.parse()?, cpu_ms: ticks * 10 })
    }
}

/// The operator's side, in this process.
struct Operator {
    client: OperatorClient<Channel>,
    key: PrivateKey,
    cluster: ClusterId,
    root_pin: String,
}

impl Operator {
    async fn init(hub: &Hub) -> Result<Self> {
        let text = |name: &str| {
            hub.bundle.get(name).and_then(|v| v.as_str()).map(str::to_owned).with_context(|| format!("the bundle has no {name}"))
        };
        let chain = CertificateDer::pem_slice_iter(text("certificate_chain_pem")?.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let identity = ClientIdentity { chain, key: PrivateKeyDer::from_pem_slice(text("key_pem")?.as_bytes())? };
        let config = Arc::new(transport::client_config(hub.pins.clone(), Some(identity))?);
        let client = OperatorClient::new(transport::connect(&hub.address, config).await?);
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

    async fn enrol(&self, hub: &Hub, n: usize) -> Result<Agent> {
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
            labels: BTreeMap::new(),
            generation_floors: BTreeMap::new(),
            serial: 1,
            issued_at: now(),
        };
        let signed = Signed::seal(&binding, &[&self.key])?;
        operator.put_binding(pb::PutBindingRequest { binding: Some(signed.envelope().into()) }).await?;
        Ok(agent)
    }

    /// One revision with a small slice for every agent.
    async fn push(&self, agents: &[Agent]) -> Result<()> {
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
                    fallback: None,
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
            .push(pb::PushRequest { topology: topology.to_string(), base_generation: 0, source: Some(signed.envelope().into()), slices })
            .await?;
        Ok(())
    }
}

/// One simulated agent.
struct Agent {
    host_id: HostId,
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
            claim,
            chain: answer.certificate_chain.into_iter().map(CertificateDer::from).collect(),
            key_der: tls_key.serialize_der(),
        })
    }

    /// Keeps a session open: heartbeats, and takes the slice as applied. Counts itself in `settled` then.
    async fn live(self, address: &str, pins: BTreeSet<String>, every: Duration, settled: &AtomicU64) -> Result<Infallible> {
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
                        if heartbeat.applied_hash.is_empty() {
                            settled.fetch_add(1, Ordering::Relaxed);
                        }
                        heartbeat.topology = slice.topology.to_string();
                        heartbeat.generation = slice.generation.0;
                        heartbeat.applied_hash = slice.version_hash.to_string();
                        heartbeat.applied_generation = slice.generation.0;
                        heartbeat.enforcing = true;
                    }
                    Some(_) | None => continue,
                },
            }
            heartbeat.sequence += 1;
            send.send(message(pb::agent_message::Kind::Heartbeat(heartbeat.clone()))).await?;
        }
    }
}
