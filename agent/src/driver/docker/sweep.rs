//! What is ours and no longer wanted: found, and removed by its ids.

use std::collections::{BTreeMap, BTreeSet};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions};
use moorline_common::id::ResourceId;
use moorline_common::observe::{ContainerState, LABEL_CLUSTER};
use moorline_common::plan::lower::{container_resource, network_resource, volume_resource};
use moorline_common::plan::volume_key;

use super::super::evidence::Birth;
use super::super::prune::{Debris, Named, Sweep, is_at_rest, is_debris};
use super::super::{DriverError, DriverErrorKind, OpResult, Ownership};
use super::error::{from_engine_op, status, words};
use super::observe::summary_state;
use super::op::{VolumeError, birth_of, remove_volume};

/// What one `prune` would remove now.
pub(super) async fn find(docker: &Docker, owned: &Ownership, wanted: &BTreeSet<ResourceId>, volumes: bool) -> Result<Debris, DriverError> {
    let what = "looking for what may go";
    let filters = || Some([("label".to_owned(), vec![format!("{LABEL_CLUSTER}={}", owned.cluster)])].into_iter().collect());
    let may_go = |key: &str, labels: Option<BTreeMap<String, String>>, on_engine: &ResourceId| {
        labels.and_then(|l| owned.of(key, &l)).is_some_and(|owner| is_debris(wanted, on_engine, &owner))
    };
    let all = ListContainersOptions { all: true, filters: filters(), ..Default::default() };
    let found = docker.list_containers(Some(all)).await.map_err(|e| from_engine_op(&e, what))?;
    let mut containers = Vec::new();
    for live in found {
        let id = live.id.unwrap_or_default();
        let names = live.names.unwrap_or_default();
        let name = names.iter().map(|n| n.trim_start_matches('/')).find(|n| !n.contains('/')).unwrap_or(&id).to_owned();
        let labels = live.labels.map(|l| l.into_iter().collect());
        if is_at_rest(live.state.map_or(ContainerState::Running, summary_state)) && may_go(&id, labels, &container_resource(&name)) {
            containers.push(Named { id, name });
        }
    }
    let networks = docker.list_networks(Some(ListNetworksOptions { filters: filters() })).await.map_err(|e| from_engine_op(&e, what))?;
    let networks = networks.into_iter().filter_map(|live| {
        let name = live.name.unwrap_or_default();
        let id = live.id.unwrap_or_default();
        may_go(&id, live.labels.map(|l| l.into_iter().collect()), &network_resource(&name)).then_some(Named { id, name })
    });
    let mut births = Vec::new();
    if volumes {
        let found = docker.list_volumes(Some(ListVolumesOptions { filters: filters() })).await.map_err(|e| from_engine_op(&e, what))?;
        for live in found.volumes.unwrap_or_default() {
            if may_go(&volume_key(&live.name), Some(live.labels.into_iter().collect()), &volume_resource(&live.name)) {
                births.push(birth_of(live.name, live.created_at));
            }
        }
    }
    Ok(Debris::bounded(containers, networks.collect(), births))
}

/// Removes what `debris` lists, as far as nothing uses it. What is gone is removed.
pub(super) async fn remove(docker: &Docker, owned: &Ownership, debris: &Debris, volumes: bool) -> Result<OpResult, DriverError> {
    let mut sweep = Sweep::default();
    crate::crash::point("docker.prune.before");
    for Named { id, name } in &debris.containers {
        // Without force: one that runs again is left.
        let options = RemoveContainerOptions { v: volumes, ..Default::default() };
        sweep.note("container", name, refusal(docker.remove_container(id, Some(options)).await)?);
    }
    for Named { id, name } in &debris.networks {
        sweep.note("network", name, refusal(docker.remove_network(id).await)?);
    }
    for was @ Birth { name, .. } in &debris.volumes {
        let removed = match remove_volume(docker, owned, was).await {
            Ok(()) => Ok(()),
            Err(VolumeError::Engine(e)) => Err(e),
            Err(VolumeError::Driver(e)) if e.kind == DriverErrorKind::Unreachable => return Err(e),
            Err(VolumeError::Driver(e)) => {
                sweep.note("volume", name, Err(e.message));
                continue;
            }
        };
        sweep.note("volume", name, refusal(removed)?);
    }
    crate::crash::point("docker.prune.after");
    Ok(sweep.result(debris.more))
}

/// The engine's words when it refused; `Err` when it did not answer.
fn refusal(removed: Result<(), Error>) -> Result<Result<(), String>, DriverError> {
    match removed {
        Ok(()) => Ok(Ok(())),
        Err(e) if status(&e) == Some(404) => Ok(Ok(())),
        Err(e) if status(&e).is_some() => Ok(Err(words(&e).to_owned())),
        Err(e) => Err(from_engine_op(&e, "removing what may go")),
    }
}
