//! From a container's target to the engine's creation request. Pure.

use std::collections::BTreeMap;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, Mount, MountBindOptions, MountTmpfsOptions,
    MountType, MountVolumeOptions, NetworkingConfig, PortBinding, RestartPolicy as EngineRestartPolicy, RestartPolicyNameEnum,
};
use moorline_common::plan::ContainerTarget;
use moorline_common::plan::compare::{is_reset, whole_seconds};
use moorline_common::topology::{Attachment, Healthcheck, MountKind, MountOptions, MountSpec, Nanos, PortSpec, RestartPolicy};

use super::options;

/// Volumes without a name that a container takes over from its predecessor: path → the engine's volume name.
pub(super) type Carried = BTreeMap<String, String>;

/// The request that makes `target`. Engines before API 1.44 attach only the first network; see [`further_networks`].
pub(super) fn body(target: &ContainerTarget, carried: &Carried, many_endpoints: bool) -> ContainerCreateBody {
    let spec = &target.spec;
    let at_once = if many_endpoints { spec.networks.len() } else { 1 };
    let endpoints = spec.networks.iter().take(at_once).map(|(name, a)| (name.clone(), endpoint(&target.service, a)));
    let offered = spec.options.expose.iter().flat_map(|exposed| &exposed.0);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: spec.hostname.clone(),
        domainname: spec.options.domainname.clone(),
        tty: spec.options.tty,
        open_stdin: spec.options.stdin_open,
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone().map(|e| if is_reset(&e) { Vec::new() } else { e }),
        env: Some(spec.environment.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        exposed_ports: Some(spec.ports.iter().map(port_key).chain(offered.cloned()).collect()),
        labels: Some(target.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_grace_period.and_then(|g| i64::try_from(whole_seconds(g)).ok()),
        host_config: Some(host_config(target, carried)),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints.collect()) }),
        ..Default::default()
    }
}

/// The networks that [`body`] leaves for after the creation.
pub(super) fn further_networks(target: &ContainerTarget, many_endpoints: bool) -> Vec<(&str, EndpointSettings)> {
    let skip = if many_endpoints { target.spec.networks.len() } else { 1 };
    target.spec.networks.iter().skip(skip).map(|(name, a)| (name.as_str(), endpoint(&target.service, a))).collect()
}

pub(super) fn endpoint(service: &str, attachment: &Attachment) -> EndpointSettings {
    let mut aliases = attachment.aliases.clone();
    aliases.insert(service.to_owned());
    let text = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string());
    let address = attachment.addresses().next().map(|_| EndpointIpamConfig {
        ipv4_address: text(attachment.ipv4_address.map(Into::into)),
        ipv6_address: text(attachment.ipv6_address.map(Into::into)),
        ..Default::default()
    });
    EndpointSettings { aliases: Some(aliases.into_iter().collect()), ipam_config: address, ..Default::default() }
}

fn host_config(target: &ContainerTarget, carried: &Carried) -> HostConfig {
    let spec = &target.spec;
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in &spec.ports {
        let binding = PortBinding {
            host_ip: Some(port.host_ip.map(|ip| ip.to_string()).unwrap_or_default()),
            host_port: Some(port.published.map(|p| p.to_string()).unwrap_or_default()),
        };
        bindings.entry(port_key(port)).or_default().push(binding);
    }
    let (binds, mut mounts) = split_mounts(&spec.volumes, carried);
    let unnamed = carried.iter().filter(|(path, _)| !spec.volumes.contains_key(*path));
    mounts.extend(unnamed.map(|(path, volume)| volume_mount(path, Some(volume.clone()), false)));
    HostConfig {
        network_mode: spec.options.network_mode.clone().or_else(|| spec.networks.keys().next().cloned()),
        port_bindings: Some(bindings.into_iter().map(|(port, list)| (port, Some(list))).collect()),
        restart_policy: spec.restart.map(restart_policy),
        binds: Some(binds),
        mounts: Some(mounts),
        ..options::host_config(&spec.options)
    }
}

/// Host paths go as binds, which the engine makes when they are missing, as Compose does; all else as mounts.
fn split_mounts(volumes: &BTreeMap<String, MountSpec>, carried: &Carried) -> (Vec<String>, Vec<Mount>) {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    for (path, mount) in volumes {
        let (source, options) = (mount.source.clone(), &mount.options);
        match mount.kind {
            MountKind::Bind => {
                let source = source.unwrap_or_default();
                // Labels are made for binds alone.
                let must_be_there = options.create_host_path == Some(false) && options.selinux.is_none();
                if source.contains(':') || path.contains(':') || must_be_there {
                    let propagation = options.propagation.as_deref().and_then(|p| p.parse().ok());
                    let bind_options = propagation.map(|p| MountBindOptions { propagation: Some(p), ..Default::default() });
                    mounts.push(Mount { bind_options, ..plain_mount(MountType::BIND, path, Some(source), mount.read_only) });
                } else {
                    let words = [mount.read_only.then_some("ro"), options.selinux.as_deref(), options.propagation.as_deref()];
                    let words: Vec<&str> = words.into_iter().flatten().collect();
                    binds.push(format!("{source}:{path}{}{}", if words.is_empty() { "" } else { ":" }, words.join(",")));
                }
            }
            MountKind::Volume => {
                let MountOptions { nocopy, subpath, .. } = options.clone();
                let asked = nocopy.is_some() || subpath.is_some();
                let volume_options = asked.then(|| MountVolumeOptions { no_copy: nocopy, subpath, ..Default::default() });
                let plain = volume_mount(path, source.or_else(|| carried.get(path).cloned()), mount.read_only);
                mounts.push(Mount { volume_options, ..plain });
            }
            MountKind::Tmpfs => {
                let size_bytes = options.size.and_then(|size| i64::try_from(size).ok());
                let asked = size_bytes.is_some() || options.mode.is_some();
                let tmpfs_options =
                    asked.then(|| MountTmpfsOptions { size_bytes, mode: options.mode.map(i64::from), ..Default::default() });
                mounts.push(Mount { tmpfs_options, ..plain_mount(MountType::TMPFS, path, None, mount.read_only) });
            }
        }
    }
    (binds, mounts)
}

fn volume_mount(path: &str, source: Option<String>, read_only: bool) -> Mount {
    plain_mount(MountType::VOLUME, path, source, read_only)
}

fn plain_mount(typ: MountType, path: &str, source: Option<String>, read_only: bool) -> Mount {
    Mount { typ: Some(typ), target: Some(path.to_owned()), source, read_only: Some(read_only), ..Default::default() }
}

fn port_key(port: &PortSpec) -> String {
    format!("{}/{}", port.target, port.protocol.as_str())
}

pub(super) fn restart_policy(policy: RestartPolicy) -> EngineRestartPolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        RestartPolicy::OnFailure(retries) => (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(retries))),
    };
    EngineRestartPolicy { name: Some(name), maximum_retry_count: retries }
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let span = |n: Option<Nanos>| n.and_then(|n| i64::try_from(n.0).ok());
    HealthConfig {
        test: Some(check.test.clone()).filter(|t| !t.is_empty()),
        interval: span(check.interval),
        timeout: span(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
    }
}
