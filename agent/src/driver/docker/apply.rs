//! One step → the engine's calls. "Already so" is success, and each may be repeated after a crash at any point.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateResponse, ContainerInspectResponse, EndpointSettings, Ipam as EngineIpam, IpamConfig, Mount, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, InspectNetworkOptions, ListNetworksOptions, RemoveContainerOptions,
    RenameContainerOptions, StartContainerOptions, StopContainerOptions,
};
use moorline_common::fault::{Code, cut};
use moorline_common::observe::Owner;
use moorline_common::plan::adoption::{self, NotAdopted};
use moorline_common::plan::{Action, ContainerTarget, NetworkTarget, Step, VolumeTarget, model, volume_key};
use moorline_common::topology::PullPolicy;

use super::super::{DriverError, DriverErrorKind, Ownership};
use super::body::{self, Carried};
use super::error::{from_engine, image_unavailable, not_owned, status, words};
use super::pull::{Wanted, pull};
use super::{Engine, observe, patiently, sealed, twins};
use crate::lane::aside;
use crate::limits::REQUEST_TIMEOUT;

/// The engine's grace period for a container without one, in seconds.
const DEFAULT_GRACE_S: u64 = 10;

/// Makes `step` so.
pub(super) async fn apply(engine: &Engine, owned: &Ownership, step: &Step) -> Result<(), DriverError> {
    let hands = Hands { engine, docker: &engine.docker, owned };
    match &step.action {
        Action::CreateNetwork(target) => hands.create_network(target).await,
        Action::ReplaceNetwork { old_id, target } => {
            hands.remove_network(old_id).await?;
            hands.create_network(target).await
        }
        Action::RemoveNetwork { id } => hands.remove_network(id).await,
        Action::CreateVolume(target) => hands.create_volume(target).await,
        Action::CreateContainer(target) => {
            let id = hands.make(target, &target.name, &Carried::new()).await?;
            hands.start(&id, &target.name).await
        }
        Action::StartContainer { id } => hands.start(id, step.resource.name()).await,
        Action::UnpauseContainer { id } => hands.unpause(id, step.resource.name()).await,
        Action::UpdateContainer { id, target, changes } => hands.update_container(id, target, changes).await,
        Action::AdoptContainer { .. } | Action::AdoptNetwork { .. } | Action::AdoptVolume(_) => {
            // Seen now: it may have changed, or nobody may have looked closely before.
            let seen = observe::observe(engine, owned).await?;
            adoption::check(&step.action, &seen).map_err(|cause| not_adopted(step.resource.name(), &cause))
        }
        Action::ReplaceContainer { old_id, target } => hands.replace_container(old_id, target).await,
        Action::RemoveContainer { id } => match hands.inspect(id).await? {
            Some(live) if hands.owner(&live).is_some() => hands.remove_container(id, &live, step.resource.name()).await,
            Some(_) => Err(not_owned(&format!("a container named `{}`", step.resource.name()))),
            None => Ok(()),
        },
        Action::Guest(_) => Err(DriverError::no_such_step(step, "docker")),
    }
}

pub(super) struct Hands<'a> {
    pub(super) engine: &'a Engine,
    pub(super) docker: &'a Docker,
    pub(super) owned: &'a Ownership,
}

impl Hands<'_> {
    async fn create_network(&self, target: &NetworkTarget) -> Result<(), DriverError> {
        let what = format!("creating the network `{}`", target.name);
        // Engines allow several networks of one name, so a repeated request would make a second one.
        let filters = [("name".to_owned(), vec![target.name.clone()])].into_iter().collect();
        let same_name = self.docker.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
        let same_name = same_name.map_err(|e| from_engine(&e, &what))?;
        if let Some(live) = same_name.iter().find(|n| n.name.as_deref() == Some(target.name.as_str())) {
            let owner = self.owned.of(live.id.as_deref().unwrap_or_default(), live.labels.iter().flatten());
            return already_so(owner.as_ref(), &target.labels, &format!("a network named `{}`", target.name));
        }
        let ipam = target.spec.ipam.as_ref().map(|ipam| EngineIpam {
            driver: Some(ipam.driver.clone().unwrap_or_else(|| "default".to_owned())),
            config: Some(
                ipam.config
                    .iter()
                    .map(|pool| IpamConfig {
                        subnet: Some(pool.subnet.clone()),
                        ip_range: pool.ip_range.clone(),
                        gateway: pool.gateway.clone(),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        });
        let request = NetworkCreateRequest {
            name: target.name.clone(),
            driver: Some(target.spec.driver.clone().unwrap_or_else(|| "bridge".to_owned())),
            attachable: target.spec.attachable,
            enable_ipv6: target.spec.enable_ipv6,
            internal: target.spec.internal,
            ipam,
            options: Some(target.spec.driver_opts.clone().into_iter().collect()),
            labels: Some(target.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        crate::crash::point("docker.network.before");
        self.docker.create_network(request).await.map(drop).map_err(|e| from_engine(&e, &what))
    }

    async fn remove_network(&self, id: &str) -> Result<(), DriverError> {
        match self.docker.inspect_network(id, None::<InspectNetworkOptions>).await {
            Ok(live) if self.owned.of(id, live.labels.iter().flatten()).is_some() => {}
            Ok(live) => return Err(not_owned(&format!("a network named `{}`", live.name.unwrap_or_default()))),
            Err(e) => return gone(Err(e), "inspecting a network"),
        }
        crate::crash::point("docker.network-gone.before");
        match self.docker.remove_network(id).await {
            Err(e) if status(&e) == Some(403) && words(&e).contains("active endpoints") => {
                self.detach_all(id).await?;
                gone(self.docker.remove_network(id).await, "removing a network")
            }
            other => gone(other, "removing a network"),
        }
    }

    /// Detaches our containers from one of our networks; those that are not ours are left, and then so is the network.
    async fn detach_all(&self, network: &str) -> Result<(), DriverError> {
        let what = "detaching containers from a network";
        let live = match self.docker.inspect_network(network, None::<InspectNetworkOptions>).await {
            Ok(live) => live,
            Err(e) if status(&e) == Some(404) => return Ok(()),
            Err(e) => return Err(from_engine(&e, what)),
        };
        let ids: Vec<String> = live.containers.unwrap_or_default().into_keys().collect();
        // All are looked at first: as long as the network stays, ours stay on it.
        for id in &ids {
            let Some(container) = self.inspect(id).await? else { continue };
            if self.owner(&container).is_none() {
                let name = container.name.unwrap_or_default();
                let message = format!("the container `{}` is not ours and still uses the network; detach it", name.trim_start_matches('/'));
                return Err(DriverError { message: cut(&message), ..not_owned("") });
            }
        }
        for id in ids {
            let request = NetworkDisconnectRequest { container: id, force: Some(true) };
            gone(self.docker.disconnect_network(network, request).await, what)?;
        }
        Ok(())
    }

    async fn create_volume(&self, target: &VolumeTarget) -> Result<(), DriverError> {
        let request = VolumeCreateRequest {
            name: Some(target.name.clone()),
            driver: target.spec.driver.clone(),
            driver_opts: Some(target.spec.driver_opts.clone().into_iter().collect()),
            labels: Some(target.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        crate::crash::point("docker.new-volume.before");
        let made = self.docker.create_volume(request).await;
        crate::crash::point("docker.new-volume.after");
        let made = made.map_err(|e| from_engine(&e, &format!("creating the volume `{}`", target.name)))?;
        // The engine answers with the volume that is there, whoever made it.
        already_so(
            self.owned.of(&volume_key(&made.name), &made.labels).as_ref(),
            &target.labels,
            &format!("a volume named `{}`", target.name),
        )
    }

    /// Makes the container `target` under `name` without starting it; one of the same spec that is there already is
    /// finished. Returns its id.
    pub(super) async fn make(&self, target: &ContainerTarget, name: &str, carried: &Carried) -> Result<String, DriverError> {
        let what = format!("creating the container `{}`", target.name);
        let (image, platform) = (target.spec.image.as_str(), target.spec.platform.as_deref());
        let pulled = |is_here| aside(pull(self.docker, &self.engine.access, Wanted { image, platform, is_here }));
        if target.pull == PullPolicy::Always {
            // It may be here already.
            pulled(true).await?;
        }
        // Nothing is swept away until the container is there.
        let sealed = sealed::mounted(self.engine, target).await?;
        let made = match self.create(target, name, carried, &sealed.mounts).await {
            Err(e) if status(&e) == Some(404) && words(&e).to_ascii_lowercase().contains("no such image") => {
                if target.pull == PullPolicy::Never {
                    return Err(image_unavailable(image, false, DriverErrorKind::Permanent, "its `pull_policy` is `never`"));
                }
                pulled(false).await?;
                self.create(target, name, carried, &sealed.mounts).await
            }
            other => other,
        };
        drop(sealed);
        crate::crash::point("docker.create.after");
        let id = match made {
            Ok(made) => self.as_asked(made, &what).await?,
            Err(e) if status(&e) == Some(409) => match self.adopt(target, name).await? {
                Some(id) => id,
                None => return Err(from_engine(&e, &what)),
            },
            Err(e) => return Err(from_engine(&e, &what)),
        };
        for (network, endpoint) in body::further_networks(target, self.engine.many_endpoints) {
            self.attach(&id, &target.name, network, endpoint).await?;
        }
        Ok(id)
    }

    pub(super) async fn attach(&self, id: &str, name: &str, network: &str, endpoint: EndpointSettings) -> Result<(), DriverError> {
        let request = NetworkConnectRequest { container: id.to_owned(), endpoint_config: Some(endpoint) };
        let connected = match self.docker.connect_network(network, request.clone()).await {
            Err(e) if twins::is_cause(words(&e)) => {
                twins::unify(self.docker, self.owned, network).await?;
                self.docker.connect_network(network, request).await
            }
            other => other,
        };
        match connected {
            Ok(()) => Ok(()),
            Err(e) if words(&e).contains("already exists in network") => Ok(()),
            Err(e) => Err(from_engine(&e, &format!("attaching `{name}` to `{network}`"))),
        }
    }

    /// The id of a container that was made as it was asked for. One of which the engine left something out, for its machine or
    /// its kernel cannot do it, would never be as wanted: it is removed, and what it should have replaced stays.
    async fn as_asked(&self, made: ContainerCreateResponse, what: &str) -> Result<String, DriverError> {
        let Some(warning) = made.warnings.iter().find(|w| w.to_ascii_lowercase().contains("discarded")) else { return Ok(made.id) };
        gone(self.docker.remove_container(&made.id, None::<RemoveContainerOptions>).await, what)?;
        let message = cut(&format!("{what}: the engine cannot do all of it: {warning}"));
        Err(DriverError { kind: DriverErrorKind::Permanent, code: Code::StepFailed, message })
    }

    async fn create(
        &self,
        target: &ContainerTarget,
        name: &str,
        carried: &Carried,
        sealed: &[Mount],
    ) -> Result<ContainerCreateResponse, Error> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), platform: target.spec.platform.clone().unwrap_or_default() };
        let mut body = body::body(target, carried, self.engine.many_endpoints);
        if let Some(mounts) = body.host_config.as_mut().and_then(|host| host.mounts.as_mut()) {
            mounts.extend(sealed.iter().cloned());
        }
        crate::crash::point("docker.create.before");
        self.docker.create_container(Some(options), body).await
    }

    /// The id of the container that has `name`, if it is ours and was made for the very same spec.
    async fn adopt(&self, target: &ContainerTarget, name: &str) -> Result<Option<String>, DriverError> {
        let Some(live) = self.inspect(name).await? else { return Ok(None) };
        let what = format!("a container named `{name}`");
        already_so(self.owner(&live).as_ref(), &target.labels, &what)?;
        Ok(live.id)
    }

    pub(super) async fn start(&self, id: &str, name: &str) -> Result<(), DriverError> {
        sealed::put_back(self.engine, id, name).await?;
        crate::crash::point("docker.start.before");
        let started = self.docker.start_container(id, None::<StartContainerOptions>).await;
        crate::crash::point("docker.start.after");
        let started = match started {
            Err(e) if twins::is_cause(words(&e)) => {
                twins::unify_of(self.docker, self.owned, id).await?;
                self.docker.start_container(id, None::<StartContainerOptions>).await
            }
            other => other,
        };
        started.map_err(|e| from_engine(&e, &format!("starting `{name}`")))
    }

    async fn unpause(&self, id: &str, name: &str) -> Result<(), DriverError> {
        let Err(e) = self.docker.unpause_container(id).await else { return Ok(()) };
        let live = self.inspect(id).await?.and_then(|c| c.state);
        let runs = live.is_some_and(|s| s.running == Some(true) && s.paused != Some(true));
        if runs { Ok(()) } else { Err(from_engine(&e, &format!("resuming `{name}`"))) }
    }

    pub(super) async fn rename(&self, id: &str, name: &str) -> Result<(), DriverError> {
        let renamed = self.docker.rename_container(id, RenameContainerOptions { name: name.to_owned() }).await;
        renamed.map_err(|e| from_engine(&e, &format!("naming a container `{name}`")))
    }

    /// Stops and removes; its volumes stay, those without a name, too.
    pub(super) async fn remove_container(&self, id: &str, live: &ContainerInspectResponse, name: &str) -> Result<(), DriverError> {
        self.stop(id, live, name).await?;
        crate::crash::point("docker.remove.stopped");
        gone(self.docker.remove_container(id, None::<RemoveContainerOptions>).await, &format!("removing `{name}`"))
    }

    /// Lets it stop by itself, for as long as it may take. What is gone has stopped.
    pub(super) async fn stop(&self, id: &str, live: &ContainerInspectResponse, name: &str) -> Result<(), DriverError> {
        let grace = live.config.as_ref().and_then(|c| c.stop_timeout).and_then(|s| u64::try_from(s).ok()).unwrap_or(DEFAULT_GRACE_S);
        let patient = self.docker.clone().with_timeout(Duration::from_secs(grace).saturating_add(REQUEST_TIMEOUT));
        match patiently(patient.stop_container(id, None::<StopContainerOptions>)).await {
            Ok(()) => Ok(()),
            Err(e) if status(&e) == Some(404) => Ok(()),
            Err(e) => Err(from_engine(&e, &format!("stopping `{name}`"))),
        }
    }

    pub(super) async fn inspect(&self, id: &str) -> Result<Option<ContainerInspectResponse>, DriverError> {
        match self.docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(live) => Ok(Some(live)),
            Err(e) if status(&e) == Some(404) => Ok(None),
            Err(e) => Err(from_engine(&e, "inspecting a container")),
        }
    }

    pub(super) fn owner(&self, live: &ContainerInspectResponse) -> Option<Owner> {
        let labels = live.config.as_ref().and_then(|c| c.labels.as_ref());
        self.owned.of(live.id.as_deref().unwrap_or_default(), labels.into_iter().flatten())
    }
}

/// Why `name` was not taken over; the host is looked at and planned for anew.
fn not_adopted(name: &str, cause: &NotAdopted) -> DriverError {
    let (kind, code) = match cause {
        NotAdopted::Gone => (DriverErrorKind::NotFound, Code::StepFailed),
        NotAdopted::Unseen => (DriverErrorKind::Retryable, Code::StepFailed),
        NotAdopted::Taken(_) => (DriverErrorKind::Conflict, Code::NotOwned),
        NotAdopted::Differs(_) => (DriverErrorKind::Conflict, Code::AdoptDiffers),
    };
    DriverError { kind, code, message: cut(&format!("`{name}`: {cause}")) }
}

/// What does not exist any more is removed.
pub(super) fn gone(result: Result<(), Error>, what: &str) -> Result<(), DriverError> {
    match result {
        Ok(()) => Ok(()),
        Err(e) if status(&e) == Some(404) => Ok(()),
        Err(e) => Err(from_engine(&e, what)),
    }
}

/// Success when the object that is there was made by us for the very same spec.
fn already_so(live: Option<&Owner>, wanted: &std::collections::BTreeMap<String, String>, what: &str) -> Result<(), DriverError> {
    if live.is_some() && live == model::owner_of(wanted).as_ref() { Ok(()) } else { Err(not_owned(what)) }
}
