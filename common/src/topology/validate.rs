//! What only the whole of a host's state shows: undefined names, cycles, ports published twice. Pure.

mod guests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::limits::{CYCLE_SHOWN_MAX, CYCLES_MAX, PROBLEMS_KEPT_MAX};
use super::parse::{port_mark, undefined};
use super::problem::Problem;
use super::slice::is_enabled;
use super::{
    DEFAULT_NETWORK, DependencyCondition, DockerSpec, Entry, HostEntry, HostSpec, MountKind, Options, Position, Protocol, SealedKind,
    ServiceSpec, TopologyFile, UpdateOrder,
};
use crate::id::TopologyId;
use crate::plan::lower::{container_names, needed_networks, network_name, volume_name};

impl TopologyFile {
    /// Checks everything that can be checked without the hosts.
    pub(crate) fn validate(&self, problems: &mut Vec<Problem>) {
        let mut seen: BTreeSet<&[String]> = BTreeSet::new();
        for (key, entry) in &self.hosts {
            for name in entry.uses.iter().filter(|name| !self.profiles.contains_key(*name)) {
                let at = entry.own.source.marks.get(&format!("use.{name}")).copied().unwrap_or(entry.at);
                let problem = Problem::new(at, format!("hosts.{key}.use"), format!("there is no profile `{name}`"));
                problems.push(undefined(problem, name, self.profiles.keys()));
            }
            // Entries that only use the same profiles have the same problems.
            let says_nothing = entry.own.docker.is_none() && entry.own.proxmox.is_none() && entry.own.policy.is_none();
            if says_nothing && !seen.insert(entry.uses.as_slice()) {
                continue;
            }
            self.check_entry(key, entry, problems);
        }
    }

    fn check_entry(&self, key: &str, entry: &HostEntry, problems: &mut Vec<Problem>) {
        let parts = self.parts(entry);
        let spec = self.merged(&parts, None, problems);
        check_spec(self, &spec, &parts, key, problems);
    }
}

/// Checks one host's state. `parts` tell where things stand; `key` names the entry.
pub(crate) fn check_spec(file: &TopologyFile, spec: &HostSpec, parts: &[&Entry], key: &str, problems: &mut Vec<Problem>) {
    let at = file.hosts.get(key).map(|entry| entry.at).unwrap_or_default();
    let mut places = Places { parts, key, at, problems };
    guests::check(spec, &mut places);
    let Some(docker) = &spec.docker else { return };
    let mut check = Check { docker, places };
    for (name, service) in &docker.services {
        check.service(name, service);
    }
    check.engine_names(&file.topology);
    check.cycles();
    check.ports();
    check.addresses();
}

/// Where the parts of a host's state stand in the file.
struct Places<'c> {
    parts: &'c [&'c Entry],
    key: &'c str,
    at: Position,
    problems: &'c mut Vec<Problem>,
}

impl Places<'_> {
    fn is_marked(&self, mark: &str) -> bool {
        self.parts.iter().any(|part| part.source.marks.contains_key(mark))
    }

    /// Reports at `mark`, where the last part that has it says it.
    fn report(&mut self, mark: &str, make: impl FnOnce(Problem) -> Problem) {
        if self.problems.len() >= PROBLEMS_KEPT_MAX {
            return;
        }
        let found = self.parts.iter().rev().find_map(|part| part.source.marks.get(mark).map(|at| (*at, &part.source.prefix)));
        // A port has no name of its own in the file.
        let shown = mark.find(".ports.").and_then(|at| mark.get(..at + ".ports".len())).unwrap_or(mark);
        let problem = match found {
            Some((at, prefix)) => Problem::new(at, format!("{prefix}.{shown}"), ""),
            None => Problem::new(self.at, format!("hosts.{}.{shown}", self.key), ""),
        };
        self.problems.push(make(problem));
    }
}

struct Check<'c> {
    docker: &'c DockerSpec,
    places: Places<'c>,
}

impl Check<'_> {
    fn is_marked(&self, mark: &str) -> bool {
        self.places.is_marked(mark)
    }

    fn report(&mut self, mark: &str, make: impl FnOnce(Problem) -> Problem) {
        self.places.report(mark, make);
    }

    fn say(&mut self, mark: &str, message: String) {
        self.report(mark, |p| Problem { message, ..p });
    }

    fn service(&mut self, name: &str, service: &ServiceSpec) {
        let docker = self.docker;
        let here = || format!("docker.services.{name}");
        if service.image.is_empty() && !self.is_marked(&format!("{}.image", here())) {
            let message = format!("service `{name}` has no image");
            self.report(&here(), |p| Problem { message, ..p }.help("name it here or in a profile that the host uses"));
        }
        for (network, attachment) in &service.networks {
            let mark = || format!("{}.networks.{network}", here());
            let spec = docker.networks.get(network);
            if spec.is_none() && network != DEFAULT_NETWORK {
                let message = format!("service `{name}` is on network `{network}`, which is not defined");
                let problem = |p: Problem| {
                    undefined(Problem { message, ..p }, network, docker.networks.keys())
                        .help(format!("define it under `docker.networks`, as in `{network}: {{}}`"))
                };
                self.report(&mark(), problem);
            }
            for address in attachment.addresses() {
                let pools = spec.and_then(|n| n.ipam.as_ref()).map(|ipam| ipam.config.as_slice()).unwrap_or_default();
                let inside = pools.iter().filter_map(|p| p.subnet.parse::<IpNet>().ok()).any(|net| net.contains(&address));
                // A network with variables has its pools only when it is known for a host.
                if !inside && (!pools.is_empty() || !self.varies(network)) {
                    self.say(
                        &format!("{}.{}", mark(), address_key(address)),
                        format!("the address {address} is in no subnet of network `{network}`"),
                    );
                }
            }
        }
        for (target, mount) in &service.volumes {
            let Some(source) = mount.source.as_ref().filter(|_| mount.kind == MountKind::Volume) else { continue };
            if !docker.volumes.contains_key(source) {
                let message = format!("service `{name}` mounts volume `{source}`, which is not defined");
                let problem = |p: Problem| {
                    undefined(Problem { message, ..p }, source, docker.volumes.keys())
                        .help(format!("define it under `docker.volumes`, as in `{source}: {{}}`"))
                };
                self.report(&format!("{}.volumes.{target}", here()), problem);
            }
        }
        self.sealed(name, service);
        for path in service.options.tmpfs.iter().flatten().map(|(path, _)| path).filter(|path| service.volumes.contains_key(*path)) {
            self.say(&format!("{}.tmpfs.{path}", here()), format!("something is mounted at `{path}` already"));
        }
        self.namespaces(name, service);
        self.replicas(name, service);
        for (other, dependency) in &service.depends_on {
            let mark = || format!("{}.depends_on.{other}", here());
            match docker.services.get(other) {
                None if dependency.optional => {}
                None => {
                    let message = format!("service `{name}` depends on service `{other}`, which is {}", self.absence(other));
                    self.report(&mark(), |p| undefined(Problem { message, ..p }, other, docker.services.keys()));
                }
                Some(spec) => {
                    let none = spec.healthcheck.as_ref().and_then(|h| h.test.first()).is_some_and(|word| word == "NONE");
                    if none && dependency.condition == DependencyCondition::ServiceHealthy {
                        self.say(&mark(), format!("service `{name}` waits for `{other}` to be healthy, but its healthcheck is disabled"));
                    }
                }
            }
        }
    }

    /// Secrets and configs: that they are defined, and that nothing else is at their place.
    fn sealed(&mut self, name: &str, service: &ServiceSpec) {
        let docker = self.docker;
        let mut taken: BTreeSet<&str> = service.volumes.keys().map(String::as_str).collect();
        taken.extend(service.options.tmpfs.iter().flatten().map(|(path, _)| path.as_str()));
        for kind in SealedKind::ALL {
            let (section, word) = (kind.section(), kind.word());
            for (target, mount) in kind.mounts(service) {
                let mark = format!("docker.services.{name}.{section}.{target}");
                if docker.sealed_of(kind, &mount.source).is_none() {
                    let message = format!("service `{name}` has the {word} `{}`, which is not defined", mount.source);
                    let known = docker.sealed().filter(|(k, ..)| *k == kind).map(|(_, known, _)| known);
                    let problem = |p: Problem| {
                        undefined(Problem { message, ..p }, &mount.source, known)
                            .help(format!("define it under `docker.{section}`, as in `{}: {{ file: ./{0} }}`", mount.source))
                    };
                    self.report(&mark, problem);
                }
                if !taken.insert(target) {
                    self.say(&mark, format!("something is mounted at `{target}` already"));
                }
            }
        }
    }

    /// What only one of several containers could have, or of an old one and its successor.
    fn replicas(&mut self, name: &str, service: &ServiceSpec) {
        let number = service.replicas.unwrap_or(1);
        let names = [("container_name", service.container_name.is_some()), ("adopt", service.adopt.is_some())];
        for (key, _) in names.into_iter().filter(|(_, is_named)| *is_named && number > 1) {
            let message = format!("service `{name}` has {number} containers, and `{key}` is about one");
            self.report(&format!("docker.services.{name}"), |p| Problem { message, ..p }.help(format!("leave `{key}` out, or `scale`")));
        }
        let of: Box<dyn Fn(String) -> String> = if number > 1 {
            Box::new(move |what| format!("service `{name}` has {number} containers, and only one of them can have {what}"))
        } else if service.update.order == Some(UpdateOrder::StartFirst) {
            Box::new(move |what| format!("service `{name}` starts its successor first, and only one of the two can have {what}"))
        } else {
            return;
        };
        for port in service.ports.iter().filter(|port| port.published.is_some()) {
            let message = of(format!("port {} of the host", port.published.unwrap_or_default()));
            self.report(&format!("docker.services.{name}.ports.{}", port_mark(port)), |p| {
                Problem { message, ..p }.help("let the engine choose the ports of the host, as in `ports: [80]`")
            });
        }
        for (network, attachment) in &service.networks {
            for address in attachment.addresses() {
                let mark = format!("docker.services.{name}.networks.{network}.{}", address_key(address));
                self.say(&mark, of(format!("the address {address}")));
            }
        }
    }

    /// What a service shares with others, and what it cannot have then.
    fn namespaces(&mut self, name: &str, service: &ServiceSpec) {
        for (key, other) in service.joins() {
            let mark = format!("docker.services.{name}.{key}");
            if self.docker.services.get(other).is_some_and(|spec| spec.replicas == Some(0)) {
                self.say(&mark, format!("service `{name}` has the `{key}` of service `{other}`, which has no container"));
            }
            if !self.docker.services.contains_key(other) {
                let message = format!("service `{name}` has the `{key}` of service `{other}`, which is {}", self.absence(other));
                let services = &self.docker.services;
                self.report(&mark, |p| undefined(Problem { message, ..p }, other, services.keys()));
            }
        }
        let Some(mode) = service.options.network_mode.as_deref() else { return };
        let mark = format!("docker.services.{name}.network_mode");
        if !service.networks.is_empty() {
            self.say(&mark, format!("service `{name}` has both `networks` and `network_mode: {mode}`; only one of them can be"));
        }
        if !service.ports.is_empty() && mode != "bridge" {
            let help = if mode.starts_with("service:") { "publish them at that service" } else { "leave `ports` out" };
            let message = format!("service `{name}` publishes ports, and `network_mode: {mode}` has none of its own");
            self.report(&mark, |p| Problem { message, ..p }.help(help));
        }
        let Options { dns, domainname, extra_hosts, .. } = &service.options;
        let own = [
            ("hostname", service.hostname.is_some()),
            ("domainname", domainname.is_some()),
            ("dns", dns.as_ref().is_some_and(|d| !d.is_empty())),
            ("extra_hosts", extra_hosts.as_ref().is_some_and(|h| !h.is_empty())),
        ];
        for (key, _) in own.into_iter().filter(|(_, is_named)| *is_named && mode.starts_with("service:")) {
            let message = format!("service `{name}` has a `{key}`, and with `network_mode: {mode}` it has that of the other");
            self.report(&mark, |p| Problem { message, ..p }.help(format!("name the `{key}` at that service")));
        }
    }

    /// Why there is no such service.
    fn absence(&self, service: &str) -> &'static str {
        if is_enabled(self.places.parts, service) { "not defined" } else { "not enabled: `COMPOSE_PROFILES` has none of its `profiles`" }
    }

    fn varies(&self, network: &str) -> bool {
        let varying = self.places.parts.iter().flat_map(|part| &part.source.varying);
        varying.into_iter().any(|v| v.kind == super::ObjectKind::Network && v.name == network)
    }

    /// Names on the engine that several would have.
    fn engine_names(&mut self, topology: &TopologyId) {
        let docker = self.docker;
        let mut taken: BTreeMap<(&str, String), &str> = BTreeMap::new();
        let networks = needed_networks(docker).into_iter().map(|(key, spec)| ("networks", key, network_name(topology, key, spec)));
        let volumes = docker.volumes.iter().map(|(key, spec)| ("volumes", key.as_str(), volume_name(topology, key, spec)));
        let containers = docker
            .services
            .iter()
            .flat_map(|(key, spec)| container_names(topology, key, spec).map(move |name| ("services", key.as_str(), name)));
        for (section, key, name) in networks.chain(volumes).chain(containers) {
            // Of two that cannot be told apart here the later one is told of.
            if let Some(other) = taken.insert((section, name.clone()), key) {
                let message = format!("`{key}` and `{other}` would both be named `{name}` on the engine");
                self.report(&format!("docker.{section}.{key}"), |p| Problem { message, ..p }.help("give one of them another name"));
            }
        }
        for (key, volume) in &docker.volumes {
            let name = volume_name(topology, key, volume);
            if let Some(adopted) = volume.adopt.as_ref().filter(|adopted| **adopted != name) {
                let message = format!("volume `{key}` takes over `{adopted}`, and is named `{name}` on the engine");
                self.report(&format!("docker.volumes.{key}"), |p| Problem { message, ..p }.help(format!("add `name: {adopted}`")));
            }
        }
    }

    /// Depth first, without recursion: a chain of services may be as long as the file.
    fn cycles(&mut self) {
        let services = &self.docker.services;
        let mut done: BTreeSet<&str> = BTreeSet::new();
        let mut found: Vec<Vec<&str>> = Vec::new();
        'roots: for root in services.keys() {
            let mut path: Vec<&str> = Vec::new();
            let mut on_path: BTreeSet<&str> = BTreeSet::new();
            // (service, true) enters it, (service, false) leaves it.
            let mut work = vec![(root.as_str(), true)];
            while let Some((name, enter)) = work.pop() {
                if !enter {
                    path.pop();
                    on_path.remove(name);
                    done.insert(name);
                    continue;
                }
                if on_path.contains(name) {
                    let from = path.iter().position(|n| *n == name).unwrap_or(0);
                    found.push(path.get(from..).unwrap_or_default().to_vec());
                    if found.len() >= CYCLES_MAX {
                        break 'roots;
                    }
                    continue;
                }
                let Some(service) = services.get(name).filter(|_| !done.contains(name)) else { continue };
                path.push(name);
                on_path.insert(name);
                work.push((name, false));
                work.extend(service.depends_on.keys().rev().map(|other| (other.as_str(), true)));
                work.extend(service.joins().map(|(_, other)| (other, true)));
            }
        }
        for cycle in found {
            let (first, second) = (cycle.first().copied().unwrap_or(""), cycle.get(1).or(cycle.first()).copied().unwrap_or(""));
            let mut names: Vec<String> = cycle.iter().map(|n| format!("`{n}`")).collect();
            if names.len() > CYCLE_SHOWN_MAX {
                names.truncate(CYCLE_SHOWN_MAX);
                names.push("…".to_owned());
            }
            names.push(format!("`{first}`"));
            let message = if cycle.len() == 1 {
                format!("service {} depends on itself", names.first().cloned().unwrap_or_default())
            } else {
                format!("services depend on each other in a circle: {}", names.join(" → "))
            };
            let joined = services.get(first).and_then(|s| s.joins().find(|(_, other)| *other == second));
            let key = joined.map_or_else(|| format!("depends_on.{second}"), |(key, _)| key.to_owned());
            self.say(&format!("docker.services.{first}.{key}"), message);
        }
    }

    fn ports(&mut self) {
        let mut taken: BTreeMap<(Protocol, u16), BTreeMap<Option<IpAddr>, &str>> = BTreeMap::new();
        let mut clashes: Vec<(String, String)> = Vec::new();
        for (name, service) in &self.docker.services {
            for port in &service.ports {
                let Some(published) = port.published else { continue };
                let others = taken.entry((port.protocol, published)).or_default();
                if let Some(other) = clash(others, port.host_ip) {
                    let what = format!("{published}/{}", port.protocol.as_str());
                    let message = if other == name {
                        format!("service `{name}` publishes port {what} twice")
                    } else {
                        format!("services `{other}` and `{name}` both publish port {what}")
                    };
                    clashes.push((format!("docker.services.{name}.ports.{}", port_mark(port)), message));
                }
                others.insert(port.host_ip, name);
            }
        }
        for (mark, message) in clashes {
            self.say(&mark, message);
        }
    }

    fn addresses(&mut self) {
        let mut taken: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
        let mut clashes: Vec<(String, String)> = Vec::new();
        for (name, service) in &self.docker.services {
            for (network, attachment) in &service.networks {
                for address in attachment.addresses() {
                    if let Some(other) = taken.insert((network, address), name) {
                        let message = format!("services `{other}` and `{name}` both want the address {address} on network `{network}`");
                        clashes.push((format!("docker.services.{name}.networks.{network}.{}", address_key(address)), message));
                    }
                }
            }
        }
        for (mark, message) in clashes {
            self.say(&mark, message);
        }
    }
}

/// The key of a fixed address.
const fn address_key(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4_address" } else { "ipv6_address" }
}

/// Who has an address to listen on that can't be had besides `ip`. No address and the unspecified one mean all.
fn clash<'t>(taken: &BTreeMap<Option<IpAddr>, &'t str>, ip: Option<IpAddr>) -> Option<&'t str> {
    let Some(ip) = ip else { return taken.values().next().copied() };
    let all = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let same = [None, Some(all), Some(ip)].iter().find_map(|key| taken.get(key));
    let any = || taken.iter().find(|(other, _)| other.is_none_or(|o| o.is_ipv4() == ip.is_ipv4())).map(|(_, name)| name);
    same.or_else(|| if ip == all { any() } else { None }).copied()
}
