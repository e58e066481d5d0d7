//! Merging the parts of a host: profiles in order, then the entry itself.
//!
//! One rule at every level: **maps merge key by key, everything else is replaced by the later one.**
//! What the Compose Specification lets one write as a list or as a map counts as a map (environment,
//! labels, a service's networks, `depends_on`; mounts, secrets and configs by their target). Lists (ports, command,
//! entrypoint, a healthcheck's test, address pools, aliases) are replaced whole; `ports: []` takes
//! away the ports that came before. What a guest is made of (`from`) and how it is told to stop (`shutdown`) each are said in one
//! place, and replaced whole.

use std::collections::BTreeMap;

use super::{Attachment, DockerSpec, GuestSpec, Healthcheck, HostSpec, Ipam, NetworkSpec, ProxmoxSpec, ServiceSpec, Update, VolumeSpec};

/// Merges a later part into `spec`. `empties_ports` says which services have an empty list of ports there.
pub(crate) fn docker(spec: &mut HostSpec, part: DockerSpec, empties_ports: impl Fn(&str) -> bool) {
    let base = spec.docker.get_or_insert_default();
    by_key(&mut base.networks, part.networks, network);
    by_key(&mut base.volumes, part.volumes, volume);
    // Each has one value, from one place.
    base.secrets.extend(part.secrets);
    base.configs.extend(part.configs);
    for (name, later) in part.services {
        let empties = empties_ports(&name);
        match base.services.entry(name) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(later);
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                if empties {
                    occupied.get_mut().ports.clear();
                }
                service(occupied.get_mut(), later);
            }
        }
    }
}

/// Merges a later part into `spec`.
pub(crate) fn proxmox(spec: &mut HostSpec, part: ProxmoxSpec) {
    let base = spec.proxmox.get_or_insert_default();
    by_key(&mut base.guests, part.guests, guest);
}

fn guest(base: &mut GuestSpec, later: GuestSpec) {
    let GuestSpec { kind, state, config, from, adopt, drift, shutdown, reboot } = later;
    // Two parts that do not agree about it are told of.
    base.kind = kind;
    replace(&mut base.state, state);
    base.config.extend(config);
    replace(&mut base.from, from);
    replace(&mut base.adopt, adopt);
    replace(&mut base.drift, drift);
    replace(&mut base.shutdown, shutdown);
    replace(&mut base.reboot, reboot);
}

fn by_key<K: Ord, T>(base: &mut BTreeMap<K, T>, later: BTreeMap<K, T>, merge: fn(&mut T, T)) {
    for (key, value) in later {
        match base.entry(key) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(value);
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => merge(occupied.get_mut(), value),
        }
    }
}

fn replace<T>(base: &mut Option<T>, later: Option<T>) {
    if later.is_some() {
        *base = later;
    }
}

fn network(base: &mut NetworkSpec, later: NetworkSpec) {
    let NetworkSpec { name, external, adopt, drift, driver, driver_opts, attachable, enable_ipv6, internal, ipam, labels } = later;
    replace(&mut base.name, name);
    base.external |= external;
    replace(&mut base.adopt, adopt);
    replace(&mut base.drift, drift);
    replace(&mut base.driver, driver);
    base.driver_opts.extend(driver_opts);
    replace(&mut base.attachable, attachable);
    replace(&mut base.enable_ipv6, enable_ipv6);
    replace(&mut base.internal, internal);
    if let Some(Ipam { driver, config }) = ipam {
        let base = base.ipam.get_or_insert_default();
        replace(&mut base.driver, driver);
        if !config.is_empty() {
            base.config = config;
        }
    }
    base.labels.extend(labels);
}

fn volume(base: &mut VolumeSpec, later: VolumeSpec) {
    let VolumeSpec { name, external, adopt, drift, driver, driver_opts, labels } = later;
    replace(&mut base.name, name);
    base.external |= external;
    replace(&mut base.adopt, adopt);
    replace(&mut base.drift, drift);
    replace(&mut base.driver, driver);
    base.driver_opts.extend(driver_opts);
    base.labels.extend(labels);
}

fn service(base: &mut ServiceSpec, later: ServiceSpec) {
    let ServiceSpec {
        container_name,
        adopt,
        drift,
        image,
        platform,
        pull_policy,
        command,
        entrypoint,
        environment,
        ports,
        networks,
        volumes,
        secrets,
        configs,
        restart,
        labels,
        healthcheck,
        depends_on,
        hostname,
        user,
        working_dir,
        stop_signal,
        stop_grace_period,
        replicas,
        update: Update { order, monitor },
        options,
    } = later;
    replace(&mut base.container_name, container_name);
    replace(&mut base.adopt, adopt);
    replace(&mut base.drift, drift);
    if !image.is_empty() {
        base.image = image;
    }
    replace(&mut base.platform, platform);
    replace(&mut base.pull_policy, pull_policy);
    replace(&mut base.command, command);
    replace(&mut base.entrypoint, entrypoint);
    base.environment.extend(environment);
    if !ports.is_empty() {
        base.ports = ports;
    }
    by_key(&mut base.networks, networks, attachment);
    base.volumes.extend(volumes);
    base.secrets.extend(secrets);
    base.configs.extend(configs);
    replace(&mut base.restart, restart);
    base.labels.extend(labels);
    if let Some(later) = healthcheck {
        check(base.healthcheck.get_or_insert_default(), later);
    }
    base.depends_on.extend(depends_on);
    replace(&mut base.hostname, hostname);
    replace(&mut base.user, user);
    replace(&mut base.working_dir, working_dir);
    replace(&mut base.stop_signal, stop_signal);
    replace(&mut base.stop_grace_period, stop_grace_period);
    replace(&mut base.replicas, replicas);
    replace(&mut base.update.order, order);
    replace(&mut base.update.monitor, monitor);
    base.options.merge(options);
}

fn attachment(base: &mut Attachment, later: Attachment) {
    let Attachment { aliases, ipv4_address, ipv6_address } = later;
    if !aliases.is_empty() {
        base.aliases = aliases;
    }
    replace(&mut base.ipv4_address, ipv4_address);
    replace(&mut base.ipv6_address, ipv6_address);
}

fn check(base: &mut Healthcheck, later: Healthcheck) {
    let Healthcheck { test, interval, timeout, retries, start_period, start_interval } = later;
    if !test.is_empty() {
        base.test = test;
    }
    replace(&mut base.interval, interval);
    replace(&mut base.timeout, timeout);
    replace(&mut base.retries, retries);
    replace(&mut base.start_period, start_period);
    replace(&mut base.start_interval, start_interval);
}
