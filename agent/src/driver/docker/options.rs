//! A container's options, to the engine and back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{
    ContainerConfig as EngineConfig, DeviceMapping, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, ResourcesUlimits,
};
use moorline_common::topology::Options;
use moorline_common::topology::options::{Device, Exposed, Logging, SecurityOpts, Swappiness, Ulimit};

/// The settings of the host side; what is not named stays the engine's.
pub(super) fn host_config(options: &Options) -> HostConfig {
    let wanted = options.clone();
    HostConfig {
        cgroupns_mode: wanted
            .cgroup
            .map(|mode| if mode == "host" { HostConfigCgroupnsModeEnum::HOST } else { HostConfigCgroupnsModeEnum::PRIVATE }),
        cgroup_parent: wanted.cgroup_parent,
        cap_add: wanted.cap_add.map(list),
        cap_drop: wanted.cap_drop.map(list),
        cpu_period: wanted.cpu_period.map(signed),
        cpu_quota: wanted.cpu_quota,
        cpu_shares: wanted.cpu_shares.map(signed),
        nano_cpus: wanted.cpus.map(signed),
        cpuset_cpus: wanted.cpuset,
        device_cgroup_rules: wanted.device_cgroup_rules.map(list),
        devices: wanted.devices.map(|devices| devices.into_iter().map(device).collect()),
        dns: wanted.dns,
        dns_options: wanted.dns_opt,
        dns_search: wanted.dns_search,
        extra_hosts: wanted.extra_hosts,
        group_add: wanted.group_add.map(list),
        init: wanted.init,
        ipc_mode: wanted.ipc,
        log_config: wanted
            .logging
            .map(|logging| HostConfigLogConfig { typ: logging.driver, config: Some(logging.options.into_iter().collect()) }),
        memory: wanted.mem_limit.map(signed),
        memory_reservation: wanted.mem_reservation.map(signed),
        memory_swappiness: wanted.mem_swappiness.map(|swappiness| signed(swappiness.0)),
        memory_swap: wanted.memswap_limit,
        network_mode: wanted.network_mode,
        oom_kill_disable: wanted.oom_kill_disable,
        oom_score_adj: wanted.oom_score_adj,
        pid_mode: wanted.pid,
        pids_limit: wanted.pids_limit,
        privileged: wanted.privileged,
        readonly_rootfs: wanted.read_only,
        runtime: wanted.runtime,
        security_opt: wanted.security_opt.map(|opts| list(opts.0)),
        shm_size: wanted.shm_size.map(signed),
        storage_opt: wanted.storage_opt.map(|map| map.into_iter().collect()),
        sysctls: wanted.sysctls.map(|map| map.into_iter().collect()),
        tmpfs: wanted.tmpfs.map(|map| map.into_iter().collect()),
        ulimits: wanted.ulimits.map(|limits| limits.into_iter().map(limit).collect()),
        userns_mode: wanted.userns_mode,
        uts_mode: wanted.uts,
        ..HostConfig::default()
    }
}

/// What a container has. `names` are those of all containers by their ids.
pub(super) fn observed(config: &EngineConfig, host: &HostConfig, names: &BTreeMap<String, String>) -> Options {
    let logging = host.log_config.clone().map(|log| Logging { driver: log.typ, options: ordered(log.config) });
    let options = Options {
        cgroup: host.cgroupns_mode.map(|mode| mode.to_string()),
        cgroup_parent: host.cgroup_parent.clone(),
        cap_add: host.cap_add.clone().map(capabilities),
        cap_drop: host.cap_drop.clone().map(capabilities),
        cpu_period: unsigned(host.cpu_period),
        cpu_quota: host.cpu_quota,
        cpu_shares: unsigned(host.cpu_shares),
        cpus: unsigned(host.nano_cpus),
        cpuset: host.cpuset_cpus.clone(),
        device_cgroup_rules: host.device_cgroup_rules.clone().map(set),
        devices: host.devices.clone().map(|devices| devices.into_iter().map(observed_device).collect()),
        dns: host.dns.clone(),
        dns_opt: host.dns_options.clone(),
        dns_search: host.dns_search.clone(),
        domainname: config.domainname.clone(),
        expose: config.exposed_ports.clone().map(|ports| Exposed(set(ports))),
        extra_hosts: host.extra_hosts.clone(),
        group_add: host.group_add.clone().map(set),
        init: host.init,
        ipc: named(host.ipc_mode.as_deref(), names),
        logging,
        mem_limit: unsigned(host.memory),
        mem_reservation: unsigned(host.memory_reservation),
        mem_swappiness: unsigned(host.memory_swappiness).map(Swappiness),
        memswap_limit: host.memory_swap,
        network_mode: named(host.network_mode.as_deref().filter(|mode| is_no_network(mode)), names),
        oom_kill_disable: host.oom_kill_disable,
        oom_score_adj: host.oom_score_adj,
        pid: named(host.pid_mode.as_deref(), names),
        pids_limit: host.pids_limit,
        privileged: host.privileged,
        read_only: host.readonly_rootfs,
        runtime: host.runtime.clone(),
        security_opt: host.security_opt.clone().map(|opts| SecurityOpts(opts.iter().map(|opt| security_opt(opt)).collect())),
        shm_size: unsigned(host.shm_size),
        stdin_open: config.open_stdin,
        storage_opt: host.storage_opt.clone().map(|opts| ordered(Some(opts))),
        sysctls: host.sysctls.clone().map(|sysctls| ordered(Some(sysctls))),
        tmpfs: host.tmpfs.clone().map(|tmpfs| ordered(Some(tmpfs))),
        tty: config.tty,
        ulimits: host.ulimits.clone().map(|limits| limits.into_iter().map(observed_limit).collect()),
        userns_mode: host.userns_mode.clone(),
        uts: host.uts_mode.clone(),
    };
    options.without_usual()
}

/// Whether a network mode is not the name of a network.
fn is_no_network(mode: &str) -> bool {
    matches!(mode, "host" | "none" | "bridge") || mode.starts_with("container:")
}

/// A mode, with the name of the container whose namespace it is.
fn named(mode: Option<&str>, names: &BTreeMap<String, String>) -> Option<String> {
    let mode = mode?;
    let name = mode.strip_prefix("container:").and_then(|id| names.get(id));
    Some(name.map_or_else(|| mode.to_owned(), |name| format!("container:{name}")))
}

fn list(set: BTreeSet<String>) -> Vec<String> {
    set.into_iter().collect()
}

fn set(list: Vec<String>) -> BTreeSet<String> {
    list.into_iter().collect()
}

fn ordered(map: Option<impl IntoIterator<Item = (String, String)>>) -> BTreeMap<String, String> {
    map.into_iter().flatten().collect()
}

/// Each number that a file may name fits.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: Option<i64>) -> Option<u64> {
    number.and_then(|n| u64::try_from(n).ok())
}

/// Engines write capabilities with and without their prefix.
fn capabilities(list: Vec<String>) -> BTreeSet<String> {
    let one = |name: String| if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    list.into_iter().map(one).collect()
}

/// In the spelling of the file's reader.
fn security_opt(text: &str) -> String {
    match if text.contains('=') { text.to_owned() } else { text.replacen(':', "=", 1) } {
        bare if bare == "no-new-privileges" => "no-new-privileges=true".to_owned(),
        text => text,
    }
}

fn device(device: Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.source),
        path_in_container: Some(device.target),
        cgroup_permissions: Some(device.permissions),
    }
}

fn observed_device(device: DeviceMapping) -> Device {
    Device {
        source: device.path_on_host.unwrap_or_default(),
        target: device.path_in_container.unwrap_or_default(),
        permissions: device.cgroup_permissions.unwrap_or_default(),
    }
}

fn limit((name, limit): (String, Ulimit)) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name), soft: Some(limit.soft), hard: Some(limit.hard) }
}

fn observed_limit(limit: ResourcesUlimits) -> (String, Ulimit) {
    (limit.name.unwrap_or_default(), Ulimit { soft: limit.soft.unwrap_or_default(), hard: limit.hard.unwrap_or_default() })
}
