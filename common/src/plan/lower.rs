//! Lowering: from a host's slice, in the file's names, to what the engine shall have, in the engine's names.
//!
//! Total: a spec that cannot be lowered (an undefined network, a name that no engine takes) becomes a
//! [`Blocked`], the rest goes on. It looks at nothing but the slice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::in_place::Changeable;
use super::{Blocked, ContainerTarget, Identity, NetworkTarget, VolumeTarget};
use crate::canonical::version_hash;
use crate::fault::Code;
use crate::id::{ResourceId, TopologyId, VersionHash, sha256_hex};
use crate::observe::{LABEL_BASE, LABEL_CLUSTER, LABEL_HOST, LABEL_RESOURCE, LABEL_SPEC, LABEL_TOPOLOGY};
use crate::topology::limits::REPLICAS_MAX;
use crate::topology::{
    DEFAULT_NETWORK, Dependency, DependencyCondition, DockerSpec, DriftPolicy, HostSpec, MountKind, MountSpec, NetworkSpec, Options,
    RestartPolicy, SealedFile, SealedKind, ServiceSpec, VolumeSpec,
};

/// What stands between a container's name and its predecessor's id in [`beside_name`].
pub(super) const BESIDE: &str = "-new-";
/// Digits of the predecessor's id in the name that its successor bears.
const ID_IN_NAME: usize = 12;

/// A resource with the hash of its own spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered<T> {
    /// What it shall be.
    pub target: T,
    /// The hash that its `moorline.spec` label bears.
    pub hash: VersionHash,
}

/// A host's slice in the engine's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoweredSpec {
    /// Networks, the implicit `default` one included when a service needs it.
    pub networks: BTreeMap<ResourceId, Lowered<NetworkTarget>>,
    /// Named volumes.
    pub volumes: BTreeMap<ResourceId, Lowered<VolumeTarget>>,
    /// Containers, as many for each service as it says.
    pub containers: BTreeMap<ResourceId, LoweredContainer>,
    /// What to do when one of these is not as wanted, where the slice says so of it.
    pub policies: BTreeMap<ResourceId, DriftPolicy>,
    /// What cannot be lowered.
    pub blocked: Vec<Blocked>,
}

impl LoweredSpec {
    /// The hash of what `resource` shall be; `None` when it is not wanted.
    #[must_use]
    pub fn hash_of(&self, resource: &ResourceId) -> Option<&VersionHash> {
        let networks = || self.networks.get(resource).map(|n| &n.hash);
        let volumes = || self.volumes.get(resource).map(|v| &v.hash);
        self.containers.get(resource).map(|c| &c.lowered.hash).or_else(networks).or_else(volumes)
    }
}

/// A container with what the planner must know beside its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoweredContainer {
    /// The target and the hash of its spec.
    pub lowered: Lowered<Arc<ContainerTarget>>,
    /// The hash of that part of its spec that only another container can have.
    pub base: VersionHash,
    /// The networks that it joins.
    pub networks: BTreeSet<ResourceId>,
    /// The named volumes that it mounts.
    pub volumes: BTreeSet<ResourceId>,
    /// The containers whose namespaces it shares: it is made anew with them.
    pub joins: BTreeSet<ResourceId>,
    /// The containers that must be so far before it starts.
    pub depends_on: BTreeMap<ResourceId, Wait>,
    /// Whether an exit may be its end: see [`may_complete`].
    pub may_complete: bool,
    /// Whether any exit is its end, a failed one too.
    pub runs_once: bool,
}

/// What a container waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// How far the other one must be.
    pub condition: DependencyCondition,
    /// Whether it begins all the same when the other one has failed.
    pub optional: bool,
}

/// The engine's name of a network.
#[must_use]
pub fn network_name(topology: &TopologyId, name: &str, spec: Option<&NetworkSpec>) -> String {
    let (named, external) = spec.map_or((None, false), |spec| (spec.name.as_deref(), spec.external));
    object_name(topology, name, named, external)
}

/// The engine's name of a volume.
#[must_use]
pub fn volume_name(topology: &TopologyId, name: &str, spec: &VolumeSpec) -> String {
    object_name(topology, name, spec.name.as_deref(), spec.external)
}

fn object_name(topology: &TopologyId, name: &str, named: Option<&str>, external: bool) -> String {
    match named {
        Some(named) => named.to_owned(),
        None if external => name.to_owned(),
        None => format!("{topology}_{name}"),
    }
}

/// The engine's names of all containers that a service shall have, counted from 1. Only the first one can have a name that is given.
pub fn container_names<'a>(topology: &'a TopologyId, service: &'a str, spec: &'a ServiceSpec) -> impl Iterator<Item = String> + use<'a> {
    let number = spec.replicas.unwrap_or(1).min(u32::try_from(REPLICAS_MAX).unwrap_or(u32::MAX));
    let given = spec.container_name.as_ref();
    (1..=number).map(move |n| given.filter(|_| n == 1).cloned().unwrap_or_else(|| format!("{topology}-{service}-{n}")))
}

/// The name that a container's successor bears until that is known to be good: two pushes of one content mean the same one.
#[must_use]
pub fn beside_name(engine_name: &str, predecessor_id: &str) -> String {
    let short: String = predecessor_id.chars().take(ID_IN_NAME).collect();
    format!("{engine_name}{BESIDE}{short}")
}

/// Whether a volume of some topology could have this name. Others are nothing to a driver.
#[must_use]
pub fn could_be_volume(engine_name: &str) -> bool {
    engine_name.split_once('_').is_some_and(|(topology, _)| TopologyId::parse(topology).is_ok())
}

/// Whether a container of some topology could have this name.
#[must_use]
pub fn could_be_container(engine_name: &str) -> bool {
    let Some((stem, number)) = engine_name.rsplit_once('-') else { return false };
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number && stem.split_once('-').is_some_and(|(topology, _)| TopologyId::parse(topology).is_ok())
}

/// The resource of an engine object. A name that no engine would take is replaced by its digest, so that this is total.
fn resource(kind: &str, name: &str) -> ResourceId {
    let digest = || ResourceId::parse(format!("docker/{kind}/{}", sha256_hex(name.as_bytes())));
    // The fallback is hex behind a fixed prefix, which always is a valid id.
    #[allow(clippy::expect_used)]
    ResourceId::parse(format!("docker/{kind}/{name}")).or_else(|_| digest()).expect("a digest is a valid name")
}

/// The resource of a network on the engine.
#[must_use]
pub fn network_resource(engine_name: &str) -> ResourceId {
    resource("network", engine_name)
}

/// The resource of a volume on the engine.
#[must_use]
pub fn volume_resource(engine_name: &str) -> ResourceId {
    resource("volume", engine_name)
}

/// The resource of a container on the engine.
#[must_use]
pub fn container_resource(engine_name: &str) -> ResourceId {
    resource("container", engine_name)
}

/// The names of the networks that a host needs, by their names in the file.
pub fn needed_networks(docker: &DockerSpec) -> BTreeMap<&str, Option<&NetworkSpec>> {
    let mut needed: BTreeMap<&str, Option<&NetworkSpec>> = docker.networks.iter().map(|(name, spec)| (name.as_str(), Some(spec))).collect();
    if docker.services.values().any(|s| s.networks.is_empty() && s.options.network_mode.is_none()) {
        needed.entry(DEFAULT_NETWORK).or_insert(None);
    }
    needed
}

/// Whether any exit of `service` is its end: `restart: "no"` is named, or nothing is named and another
/// service waits for its success.
#[must_use]
pub fn runs_once(docker: &DockerSpec, service: &str) -> bool {
    let awaited = || {
        docker
            .services
            .values()
            .any(|other| other.depends_on.get(service).is_some_and(|d| d.condition == DependencyCondition::ServiceCompletedSuccessfully))
    };
    match docker.services.get(service).and_then(|s| s.restart) {
        Some(RestartPolicy::No) => true,
        Some(RestartPolicy::Always | RestartPolicy::UnlessStopped | RestartPolicy::OnFailure(_)) => false,
        None => awaited(),
    }
}

/// Whether an exit of `service` can be its end, so that its absence is no fault by itself.
#[must_use]
pub fn may_complete(docker: &DockerSpec, service: &str) -> bool {
    let on_failure = matches!(docker.services.get(service).and_then(|s| s.restart), Some(RestartPolicy::OnFailure(_)));
    on_failure || runs_once(docker, service)
}

/// Lowers a slice.
#[must_use]
pub fn lower(identity: &Identity, desired: &HostSpec) -> LoweredSpec {
    let mut out = LoweredSpec::default();
    let Some(docker) = &desired.docker else {
        return out;
    };
    for (name, spec) in needed_networks(docker) {
        lower_network(identity, name, spec, &mut out);
    }
    for (name, spec) in &docker.volumes {
        lower_volume(identity, name, spec, &mut out);
    }
    lower_services(identity, docker, &mut out);
    out
}

/// Each service behind those that it is made anew with.
fn lower_services(identity: &Identity, docker: &DockerSpec, out: &mut LoweredSpec) {
    let mut left: BTreeMap<&str, &ServiceSpec> = docker.services.iter().map(|(name, spec)| (name.as_str(), spec)).collect();
    loop {
        let is_ready = |spec: &ServiceSpec| !spec.depends_on.iter().any(|(other, d)| d.restart && left.contains_key(other.as_str()));
        let ready: Vec<(&str, &ServiceSpec)> = left.iter().filter(|(_, spec)| is_ready(spec)).map(|(name, spec)| (*name, *spec)).collect();
        if ready.is_empty() {
            break;
        }
        for (name, spec) in ready {
            lower_service(identity, docker, name, spec, out);
            left.remove(name);
        }
    }
    for (name, spec) in left {
        for resource in container_names(&identity.topology, name, spec).map(|name| container_resource(&name)) {
            out.blocked.push(bad(&resource, "its depends_on leads back to itself, or to services that do so".to_owned()));
        }
    }
}

fn lower_network(identity: &Identity, name: &str, spec: Option<&NetworkSpec>, out: &mut LoweredSpec) {
    let engine_name = network_name(&identity.topology, name, spec);
    let resource = network_resource(&engine_name);
    let mut spec = spec.cloned().unwrap_or_default();
    spec.name = None;
    let adopt = spec.adopt.take();
    out.policies.extend(spec.drift.take().map(|policy| (resource.clone(), policy)));
    match hash_of(&resource, &engine_name, &spec) {
        Ok(_) if out.networks.contains_key(&resource) => {
            out.blocked.push(bad(&resource, format!("two networks would be named `{engine_name}`")))
        }
        Ok(hash) => {
            let labels = labels(identity, &resource, &hash, &spec.labels);
            out.networks.insert(resource, Lowered { target: NetworkTarget { name: engine_name, spec, adopt, labels }, hash });
        }
        Err(blocked) => out.blocked.push(blocked),
    }
}

fn lower_volume(identity: &Identity, name: &str, spec: &VolumeSpec, out: &mut LoweredSpec) {
    let engine_name = volume_name(&identity.topology, name, spec);
    let resource = volume_resource(&engine_name);
    let adopt = spec.adopt.clone();
    out.policies.extend(spec.drift.map(|policy| (resource.clone(), policy)));
    let spec = VolumeSpec { name: None, adopt: None, drift: None, ..spec.clone() };
    match hash_of(&resource, &engine_name, &spec) {
        Ok(_) if out.volumes.contains_key(&resource) => {
            out.blocked.push(bad(&resource, format!("two volumes would be named `{engine_name}`")))
        }
        Ok(hash) => {
            let labels = labels(identity, &resource, &hash, &spec.labels);
            out.volumes.insert(resource, Lowered { target: VolumeTarget { name: engine_name, spec, adopt, labels }, hash });
        }
        Err(blocked) => out.blocked.push(blocked),
    }
}

/// What a container's `moorline.base` label is the hash of: what only another container can have. The hashes of the containers that
/// it is made anew with are part of it: it must be replaced with them, also when the replacement was cut short. What it depends on
/// otherwise is not, nor when its image is pulled and how it is replaced: they are about how it is made, and no reason to make it anew.
#[derive(Serialize)]
struct BaseContent<'a> {
    spec: &'a ServiceSpec,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sealed: &'a BTreeMap<String, SealedFile>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    renewed_with: BTreeMap<String, &'a VersionHash>,
}

/// What a container's `moorline.spec` label is the hash of: the base, and what can be changed.
#[derive(Serialize)]
struct ContainerContent<'a> {
    base: &'a VersionHash,
    changeable: &'a Changeable,
    /// Hashes of the networks that it joins, in the order of their names.
    networks: Vec<&'a VersionHash>,
}

fn lower_service(identity: &Identity, docker: &DockerSpec, service: &str, spec: &ServiceSpec, out: &mut LoweredSpec) {
    for engine_name in container_names(&identity.topology, service, spec) {
        let resource = container_resource(&engine_name);
        if out.containers.contains_key(&resource) {
            out.blocked.push(bad(&resource, format!("two containers would be named `{engine_name}`")));
            continue;
        }
        match lower_container(identity, docker, (service, engine_name), spec, &resource, out) {
            Ok(container) => {
                out.policies.extend(spec.drift.map(|policy| (resource.clone(), policy)));
                out.containers.insert(resource, container);
            }
            Err(blocked) => out.blocked.push(blocked),
        }
    }
}

fn lower_container(
    identity: &Identity,
    docker: &DockerSpec,
    (service, engine_name): (&str, String),
    spec: &ServiceSpec,
    resource: &ResourceId,
    done: &LoweredSpec,
) -> Result<LoweredContainer, Blocked> {
    let mut lowered = spec.clone();
    let joins = lower_namespaces(identity, docker, resource, &mut lowered)?;
    let sealed = lower_sealed(docker, resource, &mut lowered)?;
    if lowered.networks.is_empty() && lowered.options.network_mode.is_none() {
        lowered.networks.insert(DEFAULT_NETWORK.to_owned(), crate::topology::Attachment::default());
    }
    let engine_name_of = |name: &str| network_name(&identity.topology, name, docker.networks.get(name));
    lowered.networks = lowered.networks.into_iter().map(|(n, a)| (engine_name_of(&n), a)).collect();
    let networks: BTreeSet<ResourceId> = lowered.networks.keys().map(|n| network_resource(n)).collect();
    let mut hashes = Vec::new();
    for (name, network) in lowered.networks.keys().map(|n| (n, network_resource(n))) {
        let known = done.networks.get(&network);
        let Some(known) = known else {
            return Err(bad(resource, format!("it joins the network `{name}`, which the slice does not define")));
        };
        hashes.push(&known.hash);
    }
    let volumes = lower_mounts(identity, docker, resource, &mut lowered.volumes)?;
    let started = Wait { condition: DependencyCondition::ServiceStarted, optional: false };
    let mut depends_on: BTreeMap<ResourceId, Wait> = joins.iter().map(|other| (other.clone(), started)).collect();
    let mut renewed_with = BTreeMap::new();
    for (other, Dependency { condition, optional, restart }) in std::mem::take(&mut lowered.depends_on) {
        let Some(spec) = docker.services.get(&other) else {
            if optional {
                continue;
            }
            return Err(bad(resource, format!("it depends on the service `{other}`, which the slice does not define")));
        };
        for name in container_names(&identity.topology, &other, spec) {
            let other = container_resource(&name);
            if let Some(known) = done.containers.get(&other).filter(|_| restart) {
                renewed_with.insert(name, &known.lowered.hash);
            }
            depends_on.insert(other, Wait { condition, optional });
        }
    }
    let pull = lowered.pull_policy.take().unwrap_or_default();
    let update = std::mem::take(&mut lowered.update);
    (lowered.replicas, lowered.container_name, lowered.drift) = (None, None, None);
    let adopt = lowered.adopt.take();
    let changeable = Changeable::take(&mut lowered);
    let base = hash_of(resource, &engine_name, &BaseContent { spec: &lowered, sealed: &sealed, renewed_with })?;
    let hash = hash_of(resource, &engine_name, &ContainerContent { base: &base, changeable: &changeable, networks: hashes })?;
    changeable.put_back(&mut lowered);
    let mut labels = labels(identity, resource, &hash, &spec.labels);
    labels.insert(LABEL_BASE.to_owned(), base.to_string());
    let (may_complete, runs_once) = (may_complete(docker, service), runs_once(docker, service));
    let target = ContainerTarget {
        name: engine_name,
        service: service.to_owned(),
        spec: lowered,
        sealed,
        pull,
        update,
        adopt,
        ends: may_complete,
        gives_way: false,
        labels,
    };
    let lowered = Lowered { target: Arc::new(target), hash };
    Ok(LoweredContainer { lowered, base, networks, volumes, joins, depends_on, may_complete, runs_once })
}

/// Names the containers whose namespaces it shares as the engine does; says which they are.
fn lower_namespaces(
    identity: &Identity,
    docker: &DockerSpec,
    resource: &ResourceId,
    spec: &mut ServiceSpec,
) -> Result<BTreeSet<ResourceId>, Blocked> {
    let Options { network_mode, ipc, pid, .. } = &mut spec.options;
    let mut joins = BTreeSet::new();
    for mode in [network_mode, ipc, pid].into_iter().flatten() {
        let Some(service) = mode.strip_prefix("service:") else { continue };
        let Some(name) = docker.services.get(service).and_then(|spec| container_names(&identity.topology, service, spec).next()) else {
            return Err(bad(resource, format!("it shares with the service `{service}`, of which the slice has no container")));
        };
        joins.insert(container_resource(&name));
        *mode = format!("container:{name}");
    }
    Ok(joins)
}

/// Gives named volumes their engine names; says which volumes they are.
fn lower_mounts(
    identity: &Identity,
    docker: &DockerSpec,
    resource: &ResourceId,
    mounts: &mut BTreeMap<String, MountSpec>,
) -> Result<BTreeSet<ResourceId>, Blocked> {
    let mut named = BTreeSet::new();
    for mount in mounts.values_mut() {
        let MountKind::Volume = mount.kind else { continue };
        let Some(source) = &mut mount.source else { continue };
        let Some(spec) = docker.volumes.get(source) else {
            return Err(bad(resource, format!("it mounts the volume `{source}`, which the slice does not define")));
        };
        *source = volume_name(&identity.topology, source, spec);
        named.insert(volume_resource(source));
    }
    Ok(named)
}

/// The files of a service's secrets and configs, by the path in the container; the service itself names them no longer.
fn lower_sealed(docker: &DockerSpec, resource: &ResourceId, spec: &mut ServiceSpec) -> Result<BTreeMap<String, SealedFile>, Blocked> {
    let mut files = BTreeMap::new();
    for kind in SealedKind::ALL {
        for (target, mount) in kind.mounts(spec) {
            let (word, name) = (kind.word(), &mount.source);
            let Some(object) = docker.sealed_of(kind, name) else {
                return Err(bad(resource, format!("it has the {word} `{name}`, which the slice does not define")));
            };
            let Some(file) = SealedFile::new(kind, mount, object) else {
                return Err(bad(resource, format!("its {word} `{name}` cannot be a file")));
            };
            if files.insert(target.clone(), file).is_some() || spec.volumes.contains_key(target) {
                return Err(bad(resource, format!("two things are mounted at `{target}`")));
            }
        }
    }
    (spec.secrets, spec.configs) = Default::default();
    Ok(files)
}

fn labels(identity: &Identity, resource: &ResourceId, hash: &VersionHash, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = own.clone();
    for (key, value) in [
        (LABEL_CLUSTER, identity.cluster.as_str()),
        (LABEL_HOST, identity.host_id.as_str()),
        (LABEL_TOPOLOGY, identity.topology.as_str()),
        (LABEL_RESOURCE, resource.as_str()),
        (LABEL_SPEC, hash.as_str()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn hash_of<T: Serialize>(resource: &ResourceId, engine_name: &str, content: &T) -> Result<VersionHash, Blocked> {
    if resource.name() != engine_name {
        return Err(bad(resource, format!("`{engine_name}` cannot be a name on the engine")));
    }
    version_hash(content).map_err(|error| bad(resource, format!("its specification cannot be hashed: {error}")))
}

fn bad(resource: &ResourceId, reason: String) -> Blocked {
    Blocked { resource: resource.clone(), code: Some(Code::BadContent), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_slice_makes_containers_without_end() {
        let spec = ServiceSpec { replicas: Some(u32::MAX), ..ServiceSpec::default() };
        assert_eq!(container_names(&TopologyId::parse("edge").unwrap(), "a", &spec).count(), 100);
    }

    #[test]
    fn every_name_that_a_topology_gives_is_recognised_as_one() {
        for topology in ["a", "edge", "edge-2"] {
            let topology = TopologyId::parse(topology).unwrap();
            for name in ["a", "b_c", "db-1"] {
                assert!(could_be_volume(&network_name(&topology, name, None)));
                assert!(could_be_volume(&volume_name(&topology, name, &VolumeSpec::default())));
                assert!(container_names(&topology, name, &ServiceSpec::default()).all(|name| could_be_container(&name)));
            }
        }
        assert!(!could_be_volume("data") && !could_be_volume(&"0f".repeat(32)));
        assert!(!could_be_container("eager_wozniak") && !could_be_container("redis") && !could_be_container("a-b-c"));
    }
}
