//! From a topology file and the bound hosts to one hydrated [`HostSpec`] for each host. Pure.
//!
//! | caller does IO | this decides |
//! |---|---|
//! | verifies the host-bindings and hands them in | which entry is for which host |
//! | signs what comes out | what each host shall have, in one spelling and without defaults |

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{Hydrated, hydrate};
use super::problem::{Problem, tidy};
use super::validate::check_spec;
use super::{
    Attachment, DEFAULT_NETWORK, DockerSpec, Entry, HostEntry, HostSpec, NetworkSpec, ObjectKind, ProxmoxSpec, SealedKind, TopologyFile,
    Varying, merge,
};
use crate::id::{HostId, HostName};
use crate::statement::HostBinding;

/// A bound host, as far as slicing needs it. Made from a [`HostBinding`] that the caller has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundHost {
    /// The host's id: `${host.id}`.
    pub host_id: HostId,
    /// The host's name: `${host.name}`.
    pub name: HostName,
    /// The host's labels: `${host.labels.x}` and `label=value` entries.
    pub labels: BTreeMap<String, String>,
}

impl From<&HostBinding> for BoundHost {
    fn from(binding: &HostBinding) -> Self {
        Self { host_id: binding.host_id.clone(), name: binding.name.clone(), labels: binding.labels.clone() }
    }
}

/// What a file means for the bound hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slices {
    /// What each host that an entry names shall have. A host that no entry names is not in here.
    pub hosts: BTreeMap<HostId, HostSpec>,
    /// Entries that name a host which is not bound (yet), sorted. No error: they get their slices when it is.
    pub pending: Vec<String>,
}

impl TopologyFile {
    /// Slices the file for `hosts`.
    ///
    /// # Errors
    /// Every problem that only shows with the hosts at hand: two entries for one host, a label that a host lacks,
    /// a filled-in value that is not valid where it stands.
    pub fn slice(&self, hosts: &[BoundHost]) -> Result<Slices, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut out = Slices::default();
        // Entries without variables are merged once, however many hosts they match.
        let mut plain: BTreeMap<&str, HostSpec> = BTreeMap::new();
        for host in hosts {
            let mut matching: Vec<(&str, &HostEntry)> = self.entries_for(host).collect();
            if matching.len() > 1 {
                matching.sort_by_key(|(_, entry)| entry.at);
                problems.push(several(host, &matching));
                continue;
            }
            let Some((key, entry)) = matching.pop() else { continue };
            let parts = self.parts(entry);
            let spec = if parts.iter().any(|part| !part.source.varying.is_empty()) {
                let mut spec = self.merged(&parts, Some(host), &mut problems);
                finish(&mut spec);
                check_spec(self, &spec, &parts, key, &mut problems);
                spec
            } else {
                plain
                    .entry(key)
                    .or_insert_with(|| {
                        let mut spec = self.merged(&parts, None, &mut problems);
                        finish(&mut spec);
                        spec
                    })
                    .clone()
            };
            out.hosts.insert(host.host_id.clone(), spec);
        }
        let bound: BTreeSet<&str> = hosts.iter().map(|h| h.name.as_str()).collect();
        out.pending = self.hosts.keys().filter(|key| !key.contains('=') && !bound.contains(key.as_str())).cloned().collect();
        if problems.is_empty() { Ok(out) } else { Err(tidy(problems, &self.files)) }
    }

    /// Whether any part of it has secrets or configs.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        let of = |entry: &Entry| {
            let varies = entry.source.varying.iter().any(|v| matches!(v.kind, ObjectKind::Sealed(_)));
            varies || entry.docker.iter().any(|docker| docker.sealed().next().is_some())
        };
        self.profiles.values().chain(self.hosts.values().map(|host| &host.own)).any(of)
    }

    /// The entry that is for `host`.
    #[must_use]
    pub fn entry_for(&self, host: &BoundHost) -> Option<&HostEntry> {
        self.entries_for(host).next().map(|(_, entry)| entry)
    }

    /// The entries that are for `host`, by name first.
    fn entries_for<'f>(&'f self, host: &BoundHost) -> impl Iterator<Item = (&'f str, &'f HostEntry)> {
        let by_name = self.hosts.get_key_value(host.name.as_str());
        let by_label = host.labels.iter().filter_map(|(label, value)| self.hosts.get_key_value(&format!("{label}={value}")));
        by_name.into_iter().chain(by_label).map(|(key, entry)| (key.as_str(), entry))
    }

    /// The profiles of an entry in order, then the entry itself. Unknown profiles are left out.
    pub(crate) fn parts<'f>(&'f self, entry: &'f HostEntry) -> Vec<&'f Entry> {
        entry.uses.iter().filter_map(|name| self.profiles.get(name)).chain([&entry.own]).collect()
    }

    /// All parts merged; with a host, its variables filled in.
    pub(crate) fn merged(&self, parts: &[&Entry], host: Option<&BoundHost>, problems: &mut Vec<Problem>) -> HostSpec {
        let mut spec = HostSpec { policy: self.policy.clone(), ..HostSpec::default() };
        for part in parts {
            let (docker, proxmox) = match host {
                Some(host) => filled(part, host, problems),
                None => (part.docker.clone(), part.proxmox.clone()),
            };
            if let Some(docker) = docker {
                let empties = |service: &str| part.source.marks.contains_key(&format!("docker.services.{service}.ports"));
                merge::docker(&mut spec, docker, empties);
            }
            if let Some(proxmox) = proxmox {
                merge::proxmox(&mut spec, proxmox);
            }
            if part.policy.is_some() {
                spec.policy.clone_from(&part.policy);
            }
        }
        if let Some(docker) = &mut spec.docker {
            docker.services.retain(|name, _| is_enabled(parts, name));
        }
        spec
    }
}

/// Whether a service is there, by Compose's `profiles` in any of its host's parts.
pub(crate) fn is_enabled(parts: &[&Entry], service: &str) -> bool {
    let mut gates = parts.iter().filter_map(|part| part.source.gates.get(service)).peekable();
    gates.peek().is_none() || gates.any(|enabled| *enabled)
}

/// More than one entry is for one host.
fn several(host: &BoundHost, entries: &[(&str, &HostEntry)]) -> Problem {
    let names: Vec<String> = entries.iter().map(|(key, entry)| format!("`{key}` (line {})", entry.at.line)).collect();
    let (last, before) = names.split_last().map(|(last, before)| (last.as_str(), before.join(", "))).unwrap_or_default();
    let count = if entries.len() == 2 { "two".to_owned() } else { entries.len().to_string() };
    let (key, at) = entries.last().map(|(key, entry)| (*key, entry.at)).unwrap_or_default();
    Problem::new(at, format!("hosts.{key}"), format!("{count} entries are for host {}: {before} and {last}", host.name))
        .help("name the host in one entry only; what entries have in common belongs into a profile")
}

/// What `part` says for `host`: objects that hold variables are read again.
fn filled(part: &Entry, host: &BoundHost, problems: &mut Vec<Problem>) -> (Option<DockerSpec>, Option<ProxmoxSpec>) {
    let varying = &part.source.varying;
    let mut docker = part.docker.as_ref().map(|docker| DockerSpec {
        networks: same(&docker.networks, ObjectKind::Network, varying),
        volumes: same(&docker.volumes, ObjectKind::Volume, varying),
        secrets: same(&docker.secrets, ObjectKind::Sealed(SealedKind::Secret), varying),
        configs: same(&docker.configs, ObjectKind::Sealed(SealedKind::Config), varying),
        services: same(&docker.services, ObjectKind::Service, varying),
    });
    let mut proxmox = part.proxmox.as_ref().map(|proxmox| ProxmoxSpec { guests: same(&proxmox.guests, ObjectKind::Guest, varying) });
    for varying in varying {
        let name = varying.name.clone();
        let Some(object) = hydrate(varying, &part.source.prefix, host, problems) else { continue };
        match object {
            Hydrated::Network(network) => drop(docker.get_or_insert_default().networks.insert(name, network)),
            Hydrated::Volume(volume) => drop(docker.get_or_insert_default().volumes.insert(name, volume)),
            Hydrated::Sealed(SealedKind::Secret, spec) => drop(docker.get_or_insert_default().secrets.insert(name, spec)),
            Hydrated::Sealed(SealedKind::Config, spec) => drop(docker.get_or_insert_default().configs.insert(name, spec)),
            Hydrated::Service(service) => drop(docker.get_or_insert_default().services.insert(name, *service)),
            Hydrated::Guest(vmid, guest) => drop(proxmox.get_or_insert_default().guests.insert(vmid, *guest)),
        }
    }
    (docker, proxmox)
}

/// The objects that are the same on every host.
fn same<K: Clone + Ord + ToString, T: Clone>(objects: &BTreeMap<K, T>, kind: ObjectKind, varying: &[Varying]) -> BTreeMap<K, T> {
    let varies: BTreeSet<&str> = varying.iter().filter(|v| v.kind == kind).map(|v| v.name.as_str()).collect();
    let is_same = |name: &K| varies.is_empty() || !varies.contains(name.to_string().as_str());
    objects.iter().filter(|(name, _)| is_same(name)).map(|(name, object)| (name.clone(), object.clone())).collect()
}

/// Brings what can be said in two ways into one.
fn finish(spec: &mut HostSpec) {
    if spec.docker.as_ref().is_some_and(DockerSpec::is_empty) {
        spec.docker = None;
    }
    if spec.proxmox.as_ref().is_some_and(|proxmox| proxmox.guests.is_empty()) {
        spec.proxmox = None;
    }
    let Some(docker) = &mut spec.docker else { return };
    docker.drop_unused_sealed();
    let mut names_default = false;
    for service in docker.services.values_mut() {
        // `networks: [default]` is what no `networks` means.
        if service.networks.len() == 1 && service.networks.get(DEFAULT_NETWORK) == Some(&Attachment::default()) {
            service.networks.clear();
        }
        names_default |= service.networks.contains_key(DEFAULT_NETWORK);
    }
    if names_default {
        docker.networks.entry(DEFAULT_NETWORK.to_owned()).or_insert_with(NetworkSpec::default);
    }
}
