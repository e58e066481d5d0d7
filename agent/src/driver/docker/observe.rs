//! Lists and inspections, as the planner's plain data.
//!
//! Three lists tell everything about networks, volumes and strangers; only our own containers are inspected. Of
//! strange containers and volumes only those are kept whose names could be wanted: what else comes and goes on the host
//! is not our business.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, EndpointSettings, HealthConfig,
    HealthStatusEnum, HostConfig, Mount, MountPoint, Network, RestartPolicyNameEnum, Volume,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use moorline_common::observe::{
    ContainerConfig, ContainerState, EngineState, Health, Observed, ObservedContainer, ObservedNetwork, ObservedVolume, Owner,
};
use moorline_common::plan::compare::clean_path;
use moorline_common::plan::lower::{could_be_container, could_be_volume};
use moorline_common::plan::model::own_labels;
use moorline_common::plan::volume_key;
use moorline_common::topology::{
    Attachment, Healthcheck, Ipam, IpamPool, MountKind, MountOptions, MountSpec, Nanos, PortSpec, Protocol, RestartPolicy,
};

use super::super::{DriverError, Ownership};
use super::{Engine, error, options, sealed};
use crate::limits::DOCKER_PARALLELISM;

/// Digits of the short container id that old engines add as an alias.
const SHORT_ID: usize = 12;
/// Nanoseconds in a second.
const SECOND_NANOS: u64 = 1_000_000_000;

/// Looks at the engine.
pub(super) async fn observe(engine: &Engine, owned: &Ownership) -> Result<Observed, DriverError> {
    let docker = &engine.docker;
    let all = ListContainersOptions { all: true, ..Default::default() };
    let (containers, networks, volumes) = tokio::try_join!(
        docker.list_containers(Some(all)),
        docker.list_networks(None::<ListNetworksOptions>),
        docker.list_volumes(None::<ListVolumesOptions>),
    )
    .map_err(|e| error::from_engine(&e, "observing the engine"))?;
    let mut networks = networks_of(networks, owned);
    note_guests(&mut networks, &containers, owned);
    let volumes = volumes.volumes.unwrap_or_default().into_iter().filter_map(|v| volume_of(v, owned)).collect();
    let names: BTreeMap<String, String> = containers.iter().filter_map(|c| Some((c.id.clone()?, name_of(c)?))).collect();
    let containers = stream::iter(containers.into_iter().map(|summary| container_of(engine, owned, &networks, &names, summary)))
        .buffer_unordered(DOCKER_PARALLELISM)
        .try_filter_map(|found| std::future::ready(Ok(found)))
        .try_collect::<Vec<(String, ObservedContainer, String)>>()
        .await?;
    let containers = without_stale_shares(containers);
    let (engine_version, engine_api) = (Some(engine.version.clone()), Some(engine.api.clone()));
    Ok(Observed {
        engine: EngineState::Ready,
        error: None,
        engine_version,
        engine_api,
        networks,
        volumes,
        containers,
        pve: None,
        trimmed: false,
    })
}

/// Notes which strangers are on networks of ours.
fn note_guests(networks: &mut BTreeMap<String, ObservedNetwork>, containers: &[ContainerSummary], owned: &Ownership) {
    for summary in containers {
        let id = summary.id.as_deref().unwrap_or_default();
        if owned.of(id, summary.labels.iter().flatten()).is_some() || owned.known.is_adopted(id) {
            continue;
        }
        let joined = summary.network_settings.iter().flat_map(|s| s.networks.iter().flatten());
        for (network, _) in joined {
            if let Some(network) = networks.get_mut(network).filter(|n| n.owner.is_some()) {
                network.guests.insert(name_of(summary).unwrap_or_else(|| id.to_owned()));
            }
        }
    }
}

/// The engine allows several networks of one name: then ours counts.
fn networks_of(found: Vec<Network>, owned: &Ownership) -> BTreeMap<String, ObservedNetwork> {
    let mut networks: BTreeMap<String, ObservedNetwork> = BTreeMap::new();
    for network in found {
        let name = network.name.clone().unwrap_or_default();
        let network = network_of(network, owned);
        if networks.get(&name).is_none_or(|known| known.owner.is_none() && network.owner.is_some()) {
            networks.insert(name, network);
        }
    }
    networks
}

fn network_of(network: Network, owned: &Ownership) -> ObservedNetwork {
    let id = network.id.clone().unwrap_or_default();
    let owner = owned.of(&id, network.labels.iter().flatten());
    if owner.is_none() && !owned.known.is_adopted(&id) {
        return ObservedNetwork { id, ..Default::default() };
    }
    network_in_full(network, owner)
}

/// All that the engine tells of a network.
pub(super) fn network_in_full(network: Network, owner: Option<Owner>) -> ObservedNetwork {
    let labels: BTreeMap<String, String> = network.labels.unwrap_or_default().into_iter().collect();
    let ipam = network.ipam.unwrap_or_default();
    let pools = ipam.config.unwrap_or_default().into_iter().map(|pool| IpamPool {
        subnet: pool.subnet.unwrap_or_default(),
        ip_range: pool.ip_range.filter(|r| !r.is_empty()),
        gateway: pool.gateway.filter(|g| !g.is_empty()),
    });
    ObservedNetwork {
        id: network.id.unwrap_or_default(),
        owner,
        driver: network.driver.unwrap_or_default(),
        driver_opts: network.options.unwrap_or_default().into_iter().collect(),
        attachable: network.attachable.unwrap_or_default(),
        enable_ipv6: network.enable_ipv6.unwrap_or_default(),
        internal: network.internal.unwrap_or_default(),
        ipam: Ipam { driver: ipam.driver, config: pools.collect() },
        labels: own_labels(&labels),
        guests: BTreeSet::new(),
    }
}

fn volume_of(volume: Volume, owned: &Ownership) -> Option<(String, ObservedVolume)> {
    let labels: BTreeMap<String, String> = volume.labels.into_iter().collect();
    let key = volume_key(&volume.name);
    let observed = match owned.of(&key, &labels) {
        None if !could_be_volume(&volume.name) && !owned.known.is_named(&volume.name) => return None,
        None if !owned.known.is_adopted(&key) => ObservedVolume::default(),
        owner => {
            ObservedVolume { owner, driver: volume.driver, driver_opts: volume.options.into_iter().collect(), labels: own_labels(&labels) }
        }
    };
    Some((volume.name, observed))
}

/// A name with two slashes is a legacy link, not the container's own.
pub(super) fn name_of(summary: &ContainerSummary) -> Option<String> {
    summary.names.iter().flatten().map(|n| n.trim_start_matches('/')).find(|n| !n.contains('/')).map(str::to_owned)
}

/// One container; `None` when it went away in between, or is a stranger that cannot be in anybody's way.
async fn container_of(
    engine: &Engine,
    owned: &Ownership,
    networks: &BTreeMap<String, ObservedNetwork>,
    names: &BTreeMap<String, String>,
    summary: ContainerSummary,
) -> Result<Option<(String, ObservedContainer, String)>, DriverError> {
    let name = name_of(&summary);
    let id = summary.id.unwrap_or_default();
    let name = name.unwrap_or_else(|| id.clone());
    let labels: BTreeMap<String, String> = summary.labels.unwrap_or_default().into_iter().collect();
    let owner = owned.of(&id, &labels);
    if owner.is_none() && !owned.known.is_adopted(&id) {
        if !could_be_container(&name) && !owned.known.is_named(&name) {
            return Ok(None);
        }
        let state = summary.state.map_or_else(ContainerState::default, summary_state);
        let stranger = ObservedContainer { id, image: summary.image.unwrap_or_default(), state, ..Default::default() };
        return Ok(Some((name, stranger, String::new())));
    }
    let live = match engine.docker.inspect_container(&id, None::<InspectContainerOptions>).await {
        Ok(live) => live,
        Err(e) if error::status(&e) == Some(404) => return Ok(None),
        // It is there, though nothing more is known: that one container must not hide all the others.
        Err(e) if error::status(&e).is_some() => {
            tracing::warn!(container = id, error = %e, "the engine fails to inspect a container");
            let state = summary.state.map_or_else(ContainerState::default, summary_state);
            let image = summary.image.unwrap_or_default();
            let unseen = ObservedContainer { owner, id, image, state, ..Default::default() };
            return Ok(Some((name, unseen, String::new())));
        }
        Err(e) => return Err(error::from_engine(&e, "inspecting a container")),
    };
    let name = live.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    let state = live.state.clone().unwrap_or_default();
    let is = state.status.map_or_else(ContainerState::default, inspected_state);
    let started_at = state.started_at.clone().unwrap_or_default();
    // What the agent itself mounts is no volume of the service's.
    let (mut live, mut secrets) = (live, BTreeMap::new());
    live.mounts.iter_mut().for_each(|mounts| {
        mounts.retain(|mount| match sealed::file_of(engine, mount) {
            Some(file) => {
                secrets.insert(mount.destination.clone().unwrap_or_default(), file);
                false
            }
            None => true,
        });
    });
    let observed = ObservedContainer {
        owner,
        image: live.config.as_ref().and_then(|c| c.image.clone()).unwrap_or_default(),
        state: is,
        exit_code: state.exit_code.filter(|_| matches!(is, ContainerState::Exited | ContainerState::Restarting | ContainerState::Dead)),
        out_of_memory: is == ContainerState::Exited && state.oom_killed == Some(true),
        health: health_of(state.health.and_then(|h| h.status)),
        config: Some(Box::new(ContainerConfig { sealed: secrets, ..config_of(&id, live, networks, names) })),
        id,
    };
    Ok(Some((name, observed, started_at)))
}

/// A container that was started again has other namespaces than those that others have joined: what they say they share is gone.
fn without_stale_shares(seen: Vec<(String, ObservedContainer, String)>) -> BTreeMap<String, ObservedContainer> {
    let started: BTreeMap<String, (u64, String)> = seen.iter().map(|(name, _, at)| (name.clone(), instant(at))).collect();
    let mut containers = BTreeMap::new();
    for (name, mut live, at) in seen {
        if let Some(config) = live.config.as_mut().filter(|_| live.state == ContainerState::Running) {
            let options = &mut config.options;
            for mode in [&mut options.network_mode, &mut options.ipc, &mut options.pid].into_iter().flatten() {
                let other = mode.strip_prefix("container:").and_then(|other| started.get(other));
                if other.is_some_and(|other| *other > instant(&at)) {
                    *mode = format!("{mode}, as it was before its last start");
                }
            }
        }
        containers.insert(name, live);
    }
    containers
}

/// A point in time as the engine writes it (RFC 3339, zeros at the end left out), so that later ones are greater.
fn instant(text: &str) -> (u64, String) {
    let (seconds, fraction) = text.trim_end_matches('Z').split_once('.').unwrap_or((text.trim_end_matches('Z'), ""));
    let digits: String = seconds.chars().filter(char::is_ascii_digit).collect();
    (digits.parse().unwrap_or_default(), format!("{fraction:0<9}"))
}

pub(super) fn summary_state(state: ContainerSummaryStateEnum) -> ContainerState {
    match state {
        ContainerSummaryStateEnum::EMPTY | ContainerSummaryStateEnum::CREATED => ContainerState::Created,
        ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::STOPPING => ContainerState::Running,
        ContainerSummaryStateEnum::PAUSED => ContainerState::Paused,
        ContainerSummaryStateEnum::RESTARTING => ContainerState::Restarting,
        ContainerSummaryStateEnum::REMOVING => ContainerState::Removing,
        ContainerSummaryStateEnum::EXITED => ContainerState::Exited,
        ContainerSummaryStateEnum::DEAD => ContainerState::Dead,
    }
}

pub(super) fn inspected_state(state: ContainerStateStatusEnum) -> ContainerState {
    match state {
        ContainerStateStatusEnum::EMPTY | ContainerStateStatusEnum::CREATED => ContainerState::Created,
        ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::STOPPING => ContainerState::Running,
        ContainerStateStatusEnum::PAUSED => ContainerState::Paused,
        ContainerStateStatusEnum::RESTARTING => ContainerState::Restarting,
        ContainerStateStatusEnum::REMOVING => ContainerState::Removing,
        ContainerStateStatusEnum::EXITED => ContainerState::Exited,
        ContainerStateStatusEnum::DEAD => ContainerState::Dead,
    }
}

fn health_of(status: Option<HealthStatusEnum>) -> Health {
    match status {
        None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => Health::None,
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
    }
}

pub(super) fn config_of(
    id: &str,
    live: ContainerInspectResponse,
    networks: &BTreeMap<String, ObservedNetwork>,
    names: &BTreeMap<String, String>,
) -> ContainerConfig {
    let config = live.config.unwrap_or_default();
    let host = live.host_config.unwrap_or_default();
    let options = options::observed(&config, &host, names);
    let endpoints = live.network_settings.and_then(|s| s.networks).unwrap_or_default();
    let attached = endpoints.into_iter().filter(|(name, endpoint)| is_current(endpoint, networks.get(name)));
    let labels: BTreeMap<String, String> = config.labels.unwrap_or_default().into_iter().collect();
    ContainerConfig {
        command: config.cmd.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        environment: config.env.unwrap_or_default().iter().map(|e| pair(e)).collect(),
        ports: ports_of(&host),
        networks: attached.map(|(name, endpoint)| (name, attachment_of(id, endpoint))).collect(),
        volumes: mounts_of(live.mounts.unwrap_or_default(), &host),
        sealed: BTreeMap::new(),
        restart: host.restart_policy.and_then(|r| restart_of(r.name?, r.maximum_retry_count)),
        labels: own_labels(&labels),
        healthcheck: config.healthcheck.map(healthcheck_of),
        hostname: config.hostname.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        stop_signal: config.stop_signal.filter(|s| !s.is_empty()),
        options,
        stop_grace_period: config.stop_timeout.and_then(|s| u64::try_from(s).ok()).map(|s| Nanos(s.saturating_mul(SECOND_NANOS))),
    }
}

/// Whether an endpoint is on the network that bears its name today: a stopped container keeps those of networks
/// that were removed since. One that never ran knows no id yet.
pub(super) fn is_current(endpoint: &EndpointSettings, network: Option<&ObservedNetwork>) -> bool {
    let id = endpoint.network_id.as_deref().unwrap_or_default();
    network.is_some_and(|n| id.is_empty() || n.id == id)
}

fn attachment_of(container: &str, endpoint: EndpointSettings) -> Attachment {
    let short: String = container.chars().take(SHORT_ID).collect();
    let fixed = endpoint.ipam_config.unwrap_or_default();
    Attachment {
        aliases: endpoint.aliases.unwrap_or_default().into_iter().filter(|a| *a != short).collect(),
        ipv4_address: fixed.ipv4_address.and_then(|a| a.parse().ok()),
        ipv6_address: fixed.ipv6_address.and_then(|a| a.parse().ok()),
    }
}

pub(super) fn pair(entry: &str) -> (String, String) {
    entry.split_once('=').map_or_else(|| (entry.to_owned(), String::new()), |(k, v)| (k.to_owned(), v.to_owned()))
}

fn ports_of(host: &HostConfig) -> BTreeSet<PortSpec> {
    let mut ports = BTreeSet::new();
    for (port, bindings) in host.port_bindings.iter().flatten() {
        let (target, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let protocol = match protocol {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        let Ok(target) = target.parse() else { continue };
        for binding in bindings.iter().flatten() {
            ports.insert(PortSpec {
                target,
                protocol,
                published: binding.host_port.as_deref().and_then(|p| p.parse().ok()).filter(|p| *p != 0),
                host_ip: binding.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            });
        }
    }
    ports
}

fn mounts_of(mounts: Vec<MountPoint>, host: &HostConfig) -> BTreeMap<String, MountSpec> {
    let mut found = BTreeMap::new();
    for mount in mounts {
        let path = mount.destination.clone().unwrap_or_default();
        let asked = host.mounts.iter().flatten().find(|m| m.target.as_deref().map(clean_path).as_ref() == Some(&path));
        let options = mount_options(&mount, asked);
        let (kind, source) = match mount.typ.as_deref() {
            Some("bind") => (MountKind::Bind, mount.source),
            Some("tmpfs") => (MountKind::Tmpfs, None),
            Some("volume") => (MountKind::Volume, mount.name),
            Some(_) | None => continue,
        };
        found.insert(path, MountSpec { kind, source, read_only: mount.rw == Some(false), options });
    }
    found
}

/// What the engine tells of a mount itself, and of how it was asked for.
fn mount_options(live: &MountPoint, asked: Option<&Mount>) -> MountOptions {
    let volume = asked.and_then(|m| m.volume_options.clone()).unwrap_or_default();
    let tmpfs = asked.and_then(|m| m.tmpfs_options.clone()).unwrap_or_default();
    let label = |mode: &str| mode.split(',').find(|word| matches!(*word, "z" | "Z")).map(str::to_owned);
    let is_bind = live.typ.as_deref() == Some("bind");
    MountOptions {
        create_host_path: None,
        propagation: live.propagation.clone().filter(|p| is_bind && !p.is_empty() && p != "rprivate"),
        selinux: live.mode.as_deref().filter(|_| is_bind).and_then(label),
        nocopy: volume.no_copy.filter(|nocopy| *nocopy),
        subpath: volume.subpath.filter(|path| !path.is_empty()),
        mode: tmpfs.mode.and_then(|mode| u32::try_from(mode).ok()).filter(|mode| *mode != 0),
        size: tmpfs.size_bytes.and_then(|size| u64::try_from(size).ok()).filter(|size| *size != 0),
    }
}

fn restart_of(name: RestartPolicyNameEnum, retries: Option<i64>) -> Option<RestartPolicy> {
    Some(match name {
        RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO => RestartPolicy::No,
        RestartPolicyNameEnum::ALWAYS => RestartPolicy::Always,
        RestartPolicyNameEnum::UNLESS_STOPPED => RestartPolicy::UnlessStopped,
        RestartPolicyNameEnum::ON_FAILURE => RestartPolicy::OnFailure(retries.and_then(|r| u32::try_from(r).ok()).unwrap_or_default()),
    })
}

pub(super) fn healthcheck_of(check: HealthConfig) -> Healthcheck {
    let span = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n != 0).map(Nanos);
    Healthcheck {
        test: check.test.unwrap_or_default(),
        interval: span(check.interval),
        timeout: span(check.timeout),
        retries: check.retries.and_then(|n| u32::try_from(n).ok()).filter(|n| *n != 0),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_is_greater_however_the_engine_writes_it() {
        let starts = [
            "",
            "0001-01-01T00:00:00Z",
            "2026-11-22T05:00:00Z",
            "2026-11-22T05:00:00.1Z",
            "2026-11-22T05:00:00.12Z",
            "2026-11-22T05:00:01Z",
        ];
        assert!(starts.map(instant).is_sorted());
        assert!(instant(starts[3]) < instant(starts[4]));
    }
}
