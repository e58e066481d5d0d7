//! An engine as plain data: what each step does to it.
//!
//! The planner's properties are tested against it, and the simulated driver keeps one in a file. It is stricter
//! than a real engine: a step on an object that is not ours is an error here, never an effect.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::adoption::{self, NotAdopted};
use super::compare::is_reset;
use super::{Action, ContainerTarget, InPlace, NetworkTarget, Step, VolumeTarget};
use crate::id::{ResourceId, sha256_hex};
use crate::observe::{
    ContainerConfig, ContainerState, EngineState, Health, LABEL_BASE, LABEL_PREFIX, LABEL_RESOURCE, LABEL_SPEC, LABEL_TOPOLOGY, Observed,
    ObservedContainer, ObservedNetwork, ObservedPve, ObservedVolume, Owner,
};
use crate::topology::{Attachment, Healthcheck, IpamPool, MountKind, MountSpec, RestartPolicy};

mod guests;

/// The variable that every simulated image brings along.
const IMAGE_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// An object that the step needs is not there.
    #[error("{0} does not exist")]
    NotFound(String),
    /// An object is in the way, or not ours.
    #[error("{0}")]
    Conflict(String),
}

/// The engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engine {
    /// Ids given so far.
    pub last_id: u64,
    /// Networks by name.
    pub networks: BTreeMap<String, ObservedNetwork>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, ObservedVolume>,
    /// Containers by name.
    pub containers: BTreeMap<String, ObservedContainer>,
    /// Proxmox VE, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pve: Option<ObservedPve>,
}

impl Engine {
    /// What there is.
    #[must_use]
    pub fn observed(&self) -> Observed {
        Observed {
            engine: EngineState::Ready,
            error: None,
            engine_version: Some("sim".to_owned()),
            engine_api: None,
            networks: self.networks.clone(),
            volumes: self.volumes.clone(),
            containers: self.containers.clone(),
            pve: self.pve.as_ref().map(|pve| ObservedPve { engine: EngineState::Ready, ..pve.clone() }),
            trimmed: false,
        }
    }

    /// Makes `step` so; "already so" is success.
    ///
    /// # Errors
    /// [`ModelError`] when something is missing, in the way or not ours; nothing has changed then, save that a
    /// replacement may have taken its predecessor away.
    pub fn apply(&mut self, step: &Step) -> Result<(), ModelError> {
        match &step.action {
            Action::CreateNetwork(target) => self.create_network(target),
            Action::ReplaceNetwork { old_id, target } => {
                self.remove_network(old_id)?;
                self.create_network(target)
            }
            Action::RemoveNetwork { id } => self.remove_network(id),
            Action::CreateVolume(target) => self.create_volume(target),
            Action::CreateContainer(target) => self.create_container(target, None),
            Action::StartContainer { id } => {
                let name = self.container_name(id)?;
                self.start(&name)
            }
            Action::UnpauseContainer { id } => {
                let name = self.container_name(id)?;
                self.set_state(&name, ContainerState::Running);
                Ok(())
            }
            Action::UpdateContainer { id, target, changes } => self.update_container(id, target, changes),
            Action::AdoptContainer { target, .. } => {
                let owner = self.adopted(&step.action)?;
                self.containers.entry(target.name.clone()).and_modify(|live| live.owner = owner);
                Ok(())
            }
            Action::AdoptNetwork { target, .. } => {
                let owner = self.adopted(&step.action)?;
                self.networks.entry(target.name.clone()).and_modify(|live| live.owner = owner);
                Ok(())
            }
            Action::AdoptVolume(target) => {
                let owner = self.adopted(&step.action)?;
                self.volumes.entry(target.name.clone()).and_modify(|live| live.owner = owner);
                Ok(())
            }
            Action::ReplaceContainer { old_id, target } => self.replace_container(old_id, target),
            Action::RemoveContainer { id } => match self.container_name(id) {
                Ok(name) => {
                    self.containers.remove(&name);
                    Ok(())
                }
                Err(ModelError::NotFound(_)) => Ok(()),
                Err(error @ ModelError::Conflict(_)) => Err(error),
            },
            Action::Guest(action) => self.apply_guest(action),
        }
    }

    fn fresh_id(&mut self) -> String {
        self.last_id += 1;
        sha256_hex(&self.last_id.to_be_bytes())
    }

    fn create_network(&mut self, target: &NetworkTarget) -> Result<(), ModelError> {
        let owner = owner_of(&target.labels);
        if let Some(live) = self.networks.get(&target.name) {
            return already_so(live.owner.as_ref(), owner.as_ref(), &target.name);
        }
        let wanted: Vec<&IpamPool> = target.spec.ipam.iter().flat_map(|i| &i.config).collect();
        for pool in &wanted {
            if let Some((name, _)) = self.networks.iter().find(|(_, n)| n.ipam.config.iter().any(|p| p.subnet == pool.subnet)) {
                return Err(ModelError::Conflict(format!("the pool {} overlaps with that of `{name}`", pool.subnet)));
            }
        }
        let id = self.fresh_id();
        let mut ipam = target.spec.ipam.clone().unwrap_or_default();
        ipam.driver.get_or_insert_with(|| "default".to_owned());
        if ipam.config.is_empty() {
            let subnet = format!("10.{}.{}.0/24", 128 + (self.last_id / 256) % 128, self.last_id % 256);
            ipam.config.push(IpamPool { subnet, ip_range: None, gateway: None });
        }
        let network = ObservedNetwork {
            id,
            owner,
            driver: target.spec.driver.clone().unwrap_or_else(|| "bridge".to_owned()),
            driver_opts: target.spec.driver_opts.clone(),
            attachable: target.spec.attachable.unwrap_or_default(),
            enable_ipv6: target.spec.enable_ipv6.unwrap_or_default(),
            internal: target.spec.internal.unwrap_or_default(),
            ipam,
            labels: own_labels(&target.labels),
            guests: BTreeSet::new(),
        };
        self.networks.insert(target.name.clone(), network);
        Ok(())
    }

    fn remove_network(&mut self, id: &str) -> Result<(), ModelError> {
        let found = self.networks.iter().find(|(_, n)| n.id == id).map(|(name, n)| (name.clone(), n.owner.is_some()));
        let Some((name, owned)) = found else { return Ok(()) };
        if !owned {
            return Err(ModelError::Conflict(format!("the network `{name}` is not ours")));
        }
        for container in self.containers.values_mut().filter_map(|c| c.config.as_mut()) {
            container.networks.remove(&name);
        }
        self.networks.remove(&name);
        Ok(())
    }

    fn create_volume(&mut self, target: &VolumeTarget) -> Result<(), ModelError> {
        let owner = owner_of(&target.labels);
        if let Some(live) = self.volumes.get(&target.name) {
            return already_so(live.owner.as_ref(), owner.as_ref(), &target.name);
        }
        let volume = ObservedVolume {
            owner,
            driver: target.spec.driver.clone().unwrap_or_else(|| "local".to_owned()),
            driver_opts: target.spec.driver_opts.clone(),
            labels: own_labels(&target.labels),
        };
        self.volumes.insert(target.name.clone(), volume);
        Ok(())
    }

    fn create_container(&mut self, target: &ContainerTarget, old: Option<&ObservedContainer>) -> Result<(), ModelError> {
        let owner = owner_of(&target.labels);
        if let Some(live) = self.containers.get(&target.name) {
            already_so(live.owner.as_ref(), owner.as_ref(), &target.name)?;
            self.attach(target);
            return self.start(&target.name);
        }
        if let Some(missing) = target.spec.networks.keys().find(|n| !self.networks.contains_key(*n)) {
            return Err(ModelError::NotFound(format!("the network `{missing}`")));
        }
        let named = target.spec.volumes.values().filter(|m| m.kind == MountKind::Volume).filter_map(|m| m.source.as_ref());
        if let Some(missing) = named.into_iter().find(|v| !self.volumes.contains_key(*v)) {
            return Err(ModelError::NotFound(format!("the volume `{missing}`")));
        }
        let id = self.fresh_id();
        let config = config_of(target, &id, old.and_then(|o| o.config.as_deref()));
        let container = ObservedContainer {
            id,
            owner,
            image: target.spec.image.clone(),
            state: ContainerState::Created,
            exit_code: None,
            out_of_memory: false,
            health: Health::None,
            config: Some(Box::new(config)),
        };
        self.containers.insert(target.name.clone(), container);
        self.start(&target.name)
    }

    /// Finishes a container that was left half-made.
    fn attach(&mut self, target: &ContainerTarget) {
        let known = self.networks.keys();
        let missing: Vec<&String> = known.filter(|n| target.spec.networks.contains_key(*n)).collect();
        let Some(config) = self.containers.get_mut(&target.name).and_then(|c| c.config.as_mut()) else { return };
        for name in missing {
            if let Some(attachment) = target.spec.networks.get(name) {
                config.networks.entry(name.clone()).or_insert_with(|| attach(target, attachment));
            }
        }
    }

    fn replace_container(&mut self, old_id: &str, target: &ContainerTarget) -> Result<(), ModelError> {
        let name = match self.container_name(old_id) {
            Ok(name) => name,
            Err(ModelError::NotFound(_)) => return self.create_container(target, None),
            Err(error @ ModelError::Conflict(_)) => return Err(error),
        };
        if name != target.name && self.containers.contains_key(&target.name) {
            return Err(ModelError::Conflict(format!("the name `{}` is in use", target.name)));
        }
        let Some(old) = self.containers.remove(&name) else { return Ok(()) };
        let same_spec = old.owner.is_some() && old.owner == owner_of(&target.labels);
        if name != target.name && same_spec {
            self.containers.insert(target.name.clone(), old);
            return if self.containers.get(&target.name).is_some_and(|c| c.state == ContainerState::Running) {
                Ok(())
            } else {
                self.start(&target.name)
            };
        }
        self.create_container(target, Some(&old))
    }

    fn update_container(&mut self, id: &str, target: &ContainerTarget, changes: &InPlace) -> Result<(), ModelError> {
        let name = self.container_name(id)?;
        if let Some(missing) = changes.attach.iter().find(|n| !self.networks.contains_key(*n)) {
            return Err(ModelError::NotFound(format!("the network `{missing}`")));
        }
        let Some(container) = self.containers.get_mut(&name) else { return Ok(()) };
        container.owner = owner_of(&target.labels);
        let Some(config) = container.config.as_mut() else { return Ok(()) };
        config.networks.retain(|network, _| !changes.detach.contains(network));
        for (network, attachment) in target.spec.networks.iter().filter(|(network, _)| changes.attach.contains(*network)) {
            config.networks.insert(network.clone(), attach(target, attachment));
        }
        if changes.restart {
            config.restart = target.spec.restart;
        }
        if changes.resources {
            let mut limits = target.spec.options.clone().take_limits();
            if limits.mem_limit.is_some() {
                limits.memswap_limit.get_or_insert(limits.usual_swap());
            }
            // What is not said stays as it is.
            config.options.merge(limits);
            config.options = std::mem::take(&mut config.options).without_usual();
        }
        Ok(())
    }

    /// Whose what is taken over is from now on.
    fn adopted(&self, action: &Action) -> Result<Option<Owner>, ModelError> {
        match adoption::check(action, &self.observed()) {
            Ok(()) => Ok(action.note().map(|(_, owner)| owner)),
            Err(NotAdopted::Gone) => Err(ModelError::NotFound("what is to be adopted".to_owned())),
            Err(cause) => Err(ModelError::Conflict(cause.to_string())),
        }
    }

    /// The name of our container with this id.
    fn container_name(&self, id: &str) -> Result<String, ModelError> {
        match self.containers.iter().find(|(_, c)| c.id == id) {
            Some((name, container)) if container.owner.is_some() => Ok(name.clone()),
            Some((name, _)) => Err(ModelError::Conflict(format!("the container `{name}` is not ours"))),
            None => Err(ModelError::NotFound(format!("the container {id}"))),
        }
    }

    fn start(&mut self, name: &str) -> Result<(), ModelError> {
        let ports = |c: &ObservedContainer| -> Vec<(crate::topology::Protocol, u16)> {
            c.config.iter().flat_map(|c| &c.ports).filter_map(|p| p.published.map(|n| (p.protocol, n))).collect()
        };
        let Some(container) = self.containers.get(name) else { return Err(ModelError::NotFound(format!("the container `{name}`"))) };
        let wanted = ports(container);
        let running = self.containers.iter().filter(|(other, c)| *other != name && c.state == ContainerState::Running);
        for (other, container) in running {
            if let Some((_, port)) = ports(container).into_iter().find(|p| wanted.contains(p)) {
                return Err(ModelError::Conflict(format!("the port {port} is taken by `{other}`")));
            }
        }
        self.set_state(name, ContainerState::Running);
        Ok(())
    }

    /// Sets the state; one that runs once has ended as soon as it started, and a healthcheck succeeds at once.
    fn set_state(&mut self, name: &str, state: ContainerState) {
        let Some(container) = self.containers.get_mut(name) else { return };
        let config = container.config.as_deref();
        let once = config.is_some_and(|c| c.restart == Some(RestartPolicy::No));
        let checked =
            config.and_then(|c| c.healthcheck.as_ref()).is_some_and(|h: &Healthcheck| h.test.first().is_some_and(|t| t != "NONE"));
        container.state = if once { ContainerState::Exited } else { state };
        container.exit_code = once.then_some(0);
        container.health = if checked && !once { Health::Healthy } else { Health::None };
    }
}

fn already_so(live: Option<&Owner>, wanted: Option<&Owner>, name: &str) -> Result<(), ModelError> {
    if live.is_some() && live == wanted {
        return Ok(());
    }
    Err(ModelError::Conflict(format!("the name `{name}` is in use")))
}

/// The owner that labels name.
#[must_use]
pub fn owner_of(labels: &BTreeMap<String, String>) -> Option<Owner> {
    Some(Owner {
        topology: labels.get(LABEL_TOPOLOGY)?.clone(),
        resource: ResourceId::parse(labels.get(LABEL_RESOURCE)?.as_str()).ok()?,
        spec: labels.get(LABEL_SPEC)?.clone(),
        base: labels.get(LABEL_BASE).cloned().unwrap_or_default(),
        adopted: false,
        hidden: None,
    })
}

/// Labels without ours.
#[must_use]
pub fn own_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().filter(|(k, _)| !k.starts_with(LABEL_PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn config_of(target: &ContainerTarget, id: &str, old: Option<&ContainerConfig>) -> ContainerConfig {
    let spec = &target.spec;
    let mut environment = BTreeMap::from([("PATH".to_owned(), IMAGE_PATH.to_owned())]);
    environment.extend(spec.environment.clone());
    let own_entrypoint = spec.entrypoint.clone().filter(|e| !is_reset(e));
    let image_command = || if own_entrypoint.is_some() { Vec::new() } else { vec!["/app".to_owned()] };
    ContainerConfig {
        command: spec.command.clone().filter(|c| !c.is_empty()).unwrap_or_else(image_command),
        entrypoint: own_entrypoint.clone().unwrap_or_default(),
        environment,
        ports: spec.ports.clone(),
        networks: spec.networks.iter().map(|(name, a)| (name.clone(), attach(target, a))).collect(),
        volumes: spec.volumes.iter().map(|(path, m)| (path.clone(), mount_of(path, m, id, old))).collect(),
        sealed: target.sealed.clone(),
        restart: Some(spec.restart.unwrap_or(RestartPolicy::No)).filter(|_| spec.restart.is_some()),
        labels: own_labels(&target.labels),
        healthcheck: spec.healthcheck.clone(),
        hostname: spec.hostname.clone().unwrap_or_else(|| id.chars().take(12).collect()),
        user: spec.user.clone().unwrap_or_default(),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        stop_signal: spec.stop_signal.clone(),
        stop_grace_period: spec.stop_grace_period.map(|n| crate::topology::Nanos(super::compare::whole_seconds(n) * 1_000_000_000)),
        options: spec.options.clone().without_usual(),
    }
}

fn attach(target: &ContainerTarget, attachment: &Attachment) -> Attachment {
    let mut attachment = attachment.clone();
    attachment.aliases.insert(target.service.clone());
    attachment
}

/// A mount; a volume without a name is the predecessor's, or a new one.
fn mount_of(path: &str, mount: &MountSpec, id: &str, old: Option<&ContainerConfig>) -> MountSpec {
    let mut mount = mount.clone();
    if mount.kind == MountKind::Volume && mount.source.is_none() {
        let carried = old.and_then(|o| o.volumes.get(path)).filter(|m| m.kind == MountKind::Volume).and_then(|m| m.source.clone());
        mount.source = Some(carried.unwrap_or_else(|| sha256_hex(format!("{id}{path}").as_bytes())));
    }
    mount
}
