//! A storm: somebody kills, removes, pauses, updates, renames and disconnects whatever a topology has on the real engine, at random and
//! without end. Under `heal` the host must be as wanted soon after; under `inbox` nothing may have been changed, and every difference has
//! exactly one open row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use bollard::query_parameters as query;
use moorline_proto::v1 as pb;

use crate::crash::rounds::Dice;
use crate::engine::Engine;
use crate::fleet::{Drive, Fleet};
use crate::image::{self, IMAGE};
use crate::limits::SOON;
use crate::operator::Operator;
use crate::proxy::Proxy;
use crate::wait::{check_interrupt, wait_for};

const HOST: &str = "shop-1";
/// With the volumes and the networks thirty resources.
const SERVICES: usize = 24;
const NETWORKS: usize = 4;
/// What the file says, in MiB.
const MEMORY: i64 = 64;
/// Acts a second.
const RATE: f64 = 5.0;

/// What kind of storm.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long it lasts.
    pub span: Duration,
    /// Makes the same acts again, though not the same moments.
    pub seed: u64,
    /// Whether the topology leaves all differences to an operator.
    pub inbox: bool,
}

/// What came of a storm.
#[derive(Debug)]
pub struct Calm {
    /// Acts that the engine took.
    pub acts: u64,
    /// How long the host took to be as wanted after the last of them; `None` under `inbox`.
    pub after: Option<Duration>,
    /// Differences, and so open rows, at the end.
    pub differences: usize,
}

/// Lets a storm go over a host; `None` without an engine.
///
/// # Errors
/// What did not hold.
pub fn run(options: Options) -> Result<Option<Calm>> {
    let Some(engine) = Engine::system()? else { return Ok(None) };
    image::ensure(&engine)?;
    let mut fleet = Fleet::start(if options.inbox { "storminbox" } else { "stormheal" })?;
    let proxy = Proxy::start(&fleet.root().join("engine.sock"), engine.socket())?;
    fleet.add_host(HOST, Drive::Docker(proxy.socket().to_owned()), &[])?;
    let operator = fleet.operator()?;
    let storm = Storm { cluster: fleet.cluster().to_owned(), engine: &engine };
    fleet.push(&storm.topology(options.inbox), &["--wait"])?.ok()?;
    fleet.wait_converged(&operator, HOST, &storm.cluster, 1)?;
    let stranger = Stranger::start(&storm)?;
    let outcome = storm.rage(options, &operator, &proxy, &stranger);
    stranger.end(&storm);
    outcome.map(Some)
}

struct Storm<'e> {
    cluster: String,
    engine: &'e Engine,
}

/// A field of a resource that is not as the file says.
type Difference = (String, String);

impl Storm<'_> {
    fn topology(&self, inbox: bool) -> String {
        let policy = if inbox { "{ drift: inbox }" } else { "{ drift: heal, loop_breaker: false }" };
        let mut yaml = format!("topology: {}\npolicy: {policy}\nhosts:\n  {HOST}:\n    docker:\n      networks:\n", self.cluster);
        (0..NETWORKS).for_each(|n| yaml.push_str(&format!("        n{n}: {{}}\n")));
        yaml.push_str("      volumes: { a: {}, b: {} }\n      services:\n");
        for n in 0..SERVICES {
            yaml.push_str(&format!(
                "        s{n}: {{ image: {IMAGE}, networks: [{}], mem_limit: {MEMORY}m, cpu_shares: 512, stop_grace_period: 1s }}\n",
                network_of(n)
            ));
        }
        yaml
    }

    fn container(&self, n: usize) -> String {
        format!("{}-s{n}-1", self.cluster)
    }

    fn rage(&self, options: Options, operator: &Operator, proxy: &Proxy, stranger: &Stranger) -> Result<Calm> {
        proxy.forget();
        let mut dice = Dice(options.seed);
        let (begun, mut acts) = (Instant::now(), 0_u64);
        for n in 0.. {
            let due = begun + Duration::from_secs_f64(f64::from(n) / RATE);
            if due >= begun + options.span {
                break;
            }
            // The script's own rhythm, not a wait for anything.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            check_interrupt()?;
            acts += u64::from(self.act(&mut dice)?);
        }
        let ended = Instant::now();
        stranger.check(self)?;
        let touched = |request: &&crate::proxy::Request| stranger.names.iter().any(|name| request.path.contains(name.as_str()));
        if let Some(request) = proxy.mutations().iter().find(touched) {
            bail!("the agent touched what is not its own: {request:?}");
        }
        if options.inbox {
            let found = self.settled_rows(operator)?;
            ensure!(proxy.mutations().is_empty(), "changed under `inbox`: {:?}", proxy.mutations());
            return Ok(Calm { acts, after: None, differences: found });
        }
        wait_for("the host is as wanted", SOON, || Ok(self.differences()?.is_empty().then_some(())))
            .with_context(|| format!("seed {}: {:?}", options.seed, self.differences()))?;
        let after = Some(ended.elapsed());
        wait_for("the hub sees it", SOON, || Ok((operator.host(HOST)?.converged && rows(operator)?.is_empty()).then_some(())))?;
        stranger.check(self)?;
        Ok(Calm { acts, after, differences: 0 })
    }

    /// Waits until the open rows are those that the engine itself shows, each once; gives their number.
    fn settled_rows(&self, operator: &Operator) -> Result<usize> {
        let mut last = (BTreeSet::new(), Vec::new());
        let same = wait_for("every difference has one open row", SOON, || {
            last = (self.differences()?, rows(operator)?);
            let open: BTreeSet<Difference> = last.1.iter().cloned().collect();
            Ok((open == last.0 && open.len() == last.1.len()).then_some(open.len()))
        });
        same.with_context(|| format!("the engine shows {:#?}, the inbox {:#?}", last.0, last.1))
    }

    /// One act; whether the engine took it.
    fn act(&self, dice: &mut Dice) -> Result<bool> {
        let docker = self.engine.docker();
        let kind = dice.below(8);
        let n = usize::try_from(dice.below(u64::try_from(SERVICES)?))?;
        let resource = format!("docker/container/{}", self.container(n));
        if kind == 6 {
            return self.remove_network(n % NETWORKS);
        }
        let Some(id) = self.containers()?.remove(&resource).and_then(|c| c.id) else { return Ok(false) };
        let taken = self.engine.block_on(async {
            match kind {
                0 => docker.kill_container(&id, None::<query::KillContainerOptions>).await,
                1 => {
                    let force = query::RemoveContainerOptionsBuilder::new().force(true).build();
                    docker.remove_container(&id, Some(force)).await
                }
                2 => docker.pause_container(&id).await,
                3 => {
                    let memory = (MEMORY + 1 + i64::try_from(dice.below(64)).unwrap_or(0)) << 20;
                    let body = ContainerUpdateBody { memory: Some(memory), memory_swap: Some(memory * 2), ..Default::default() };
                    docker.update_container(&id, body).await
                }
                4 => {
                    let body =
                        ContainerUpdateBody { cpu_shares: Some(2 + i64::try_from(dice.below(500)).unwrap_or(0)), ..Default::default() };
                    docker.update_container(&id, body).await
                }
                5 => {
                    let name = format!("{}-moved-{}", self.container(n), dice.below(1 << 30));
                    docker.rename_container(&id, query::RenameContainerOptionsBuilder::new().name(&name).build()).await
                }
                _ => {
                    let body = NetworkDisconnectRequest { container: id.clone(), force: Some(true) };
                    docker.disconnect_network(&format!("{}_{}", self.cluster, network_of(n)), body).await
                }
            }
        });
        Ok(taken.is_ok())
    }

    /// Cuts everybody from a network and removes it.
    fn remove_network(&self, n: usize) -> Result<bool> {
        let (docker, name) = (self.engine.docker(), format!("{}_n{n}", self.cluster));
        self.engine.block_on(async {
            let Ok(network) = docker.inspect_network(&name, None::<query::InspectNetworkOptions>).await else { return Ok(false) };
            for id in network.containers.unwrap_or_default().into_keys() {
                let body = NetworkDisconnectRequest { container: id, force: Some(true) };
                let _ = docker.disconnect_network(&name, body).await;
            }
            Ok(docker.remove_network(&name).await.is_ok())
        })
    }

    /// Every container of ours by the resource that it is.
    fn containers(&self) -> Result<BTreeMap<String, ContainerInspectResponse>> {
        let docker = self.engine.docker();
        self.engine.block_on(async {
            let filters = [("label".to_owned(), vec![format!("moorline.cluster={}", self.cluster)])].into();
            let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
            let mut found = BTreeMap::new();
            for summary in docker.list_containers(Some(options)).await? {
                let id = summary.id.unwrap_or_default();
                let Ok(live) = docker.inspect_container(&id, None::<query::InspectContainerOptions>).await else { continue };
                let label = live.config.as_ref().and_then(|c| c.labels.as_ref()?.get("moorline.resource").cloned());
                found.insert(label.unwrap_or_default(), live);
            }
            Ok(found)
        })
    }

    /// What the engine itself shows otherwise than the file says.
    fn differences(&self) -> Result<BTreeSet<Difference>> {
        let mut out = BTreeSet::new();
        let mut networks = BTreeMap::new();
        for n in 0..NETWORKS {
            let name = format!("{}_n{n}", self.cluster);
            let found = self.engine.block_on(self.engine.docker().inspect_network(&name, None::<query::InspectNetworkOptions>));
            match found {
                Ok(network) => {
                    networks.insert(name, network.id.unwrap_or_default());
                }
                Err(_) => {
                    out.insert((format!("docker/network/{name}"), "presence".to_owned()));
                }
            }
        }
        let live = self.containers()?;
        for n in 0..SERVICES {
            let resource = format!("docker/container/{}", self.container(n));
            let mut differs = |field: &str| {
                out.insert((resource.clone(), field.to_owned()));
            };
            let Some(live) = live.get(&resource) else {
                differs("presence");
                continue;
            };
            let (state, host) = (live.state.clone().unwrap_or_default(), live.host_config.clone().unwrap_or_default());
            if live.name.as_deref().unwrap_or_default().trim_start_matches('/') != self.container(n) {
                differs("container_name");
            }
            if state.running != Some(true) || state.paused == Some(true) {
                differs("state");
            }
            if host.memory != Some(MEMORY << 20) {
                differs("mem_limit");
            }
            if host.cpu_shares != Some(512) {
                differs("cpu_shares");
            }
            let name = format!("{}_{}", self.cluster, network_of(n));
            let joined = live.network_settings.iter().flat_map(|s| s.networks.iter().flatten()).find(|(joined, _)| **joined == name);
            let is_current = joined.is_some_and(|(_, endpoint)| endpoint.network_id.as_ref() == networks.get(&name));
            if !is_current {
                differs(&format!("networks.{name}"));
            }
        }
        Ok(out)
    }
}

fn network_of(service: usize) -> String {
    format!("n{}", service % NETWORKS)
}

/// The open rows, newest first.
fn rows(operator: &Operator) -> Result<Vec<Difference>> {
    let request = pb::ListDriftRequest { limit: 1000, ..Default::default() };
    let answer = operator.call(|mut c| async move { c.list_drift(request).await })?;
    Ok(answer.drifts.into_iter().map(|d| (d.resource, d.field)).collect())
}

/// What belongs to somebody else on the same engine.
struct Stranger {
    names: Vec<String>,
    before: String,
}

impl Stranger {
    fn start(storm: &Storm<'_>) -> Result<Self> {
        let (docker, name) = (storm.engine.docker(), format!("stranger-{}", storm.cluster));
        let network = NetworkCreateRequest { name: name.clone(), ..Default::default() };
        let id = storm.engine.block_on(async {
            docker.create_network(network).await?;
            let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), ..Default::default() };
            let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
            let id = docker.create_container(Some(options), body).await?.id;
            docker.connect_network(&name, NetworkConnectRequest { container: id.clone(), ..Default::default() }).await?;
            docker.start_container(&id, None::<query::StartContainerOptions>).await?;
            Ok::<_, bollard::errors::Error>(id)
        });
        let mut stranger = Self { names: vec![name], before: String::new() };
        match id.map_err(Into::into).and_then(|id| Ok((stranger.seen(storm)?, id))) {
            Ok((before, id)) => {
                stranger.before = before;
                stranger.names.push(id);
                Ok(stranger)
            }
            Err(error) => {
                stranger.end(storm);
                Err(error)
            }
        }
    }

    fn seen(&self, storm: &Storm<'_>) -> Result<String> {
        let name = self.names.first().context("it has a name")?;
        let docker = storm.engine.docker();
        storm.engine.block_on(async {
            let live = docker.inspect_container(name, None::<query::InspectContainerOptions>).await?;
            let network = docker.inspect_network(name, None::<query::InspectNetworkOptions>).await?;
            let joined: Vec<String> = live
                .network_settings
                .and_then(|s| s.networks)
                .unwrap_or_default()
                .into_keys()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            Ok(format!(
                "{:?} {:?} {:?} {:?} {joined:?}",
                live.id,
                live.state.and_then(|s| s.started_at),
                live.host_config.map(|h| h.memory),
                network.id
            ))
        })
    }

    /// Nothing of it may have changed.
    fn check(&self, storm: &Storm<'_>) -> Result<()> {
        let now = self.seen(storm)?;
        ensure!(now == self.before, "what is not ours was touched: {} became {now}", self.before);
        Ok(())
    }

    fn end(&self, storm: &Storm<'_>) {
        let Some(name) = self.names.first() else { return };
        let force = query::RemoveContainerOptionsBuilder::new().force(true).build();
        let docker = storm.engine.docker();
        storm.engine.block_on(async {
            let _ = docker.remove_container(name, Some(force)).await;
            let _ = docker.remove_network(name).await;
        });
    }
}
