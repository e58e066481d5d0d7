//! What is on the engine besides ours: inspected in full, without what images say, and sealed to the one who asked.

use std::collections::BTreeMap;

use bollard::models::{ContainerSummary, Network, Volume};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use moorline_common::observe::{ContainerConfig, ObservedContainer, ObservedNetwork, ObservedVolume};
use moorline_common::op::Survey as Asked;
use moorline_common::plan::model::own_labels;
use moorline_common::plan::volume_key;
use moorline_common::survey::{Inherited, Survey, said};
use moorline_common::topology::options::Exposed;

use super::super::survey::sealed;
use super::super::{DriverError, OpResult, Ownership};
use super::Engine;
use super::error::{from_engine_op, status};
use super::observe::{config_of, healthcheck_of, inspected_state, name_of, network_in_full, pair};

/// The engine's own networks, which everybody has.
const OWN_NETWORKS: [&str; 3] = ["bridge", "host", "none"];
const WHAT: &str = "looking at what is on the host";

/// Looks at strangers behind the one that `asked` names.
pub(super) async fn survey(engine: &Engine, owned: &Ownership, asked: &Asked) -> Result<OpResult, DriverError> {
    let docker = &engine.docker;
    let all = ListContainersOptions { all: true, ..Default::default() };
    let (listed, networks, volumes, info) = tokio::try_join!(
        docker.list_containers(Some(all)),
        docker.list_networks(None::<ListNetworksOptions>),
        docker.list_volumes(None::<ListVolumesOptions>),
        docker.info(),
    )
    .map_err(|e| from_engine_op(&e, WHAT))?;
    let names: BTreeMap<String, String> = listed.iter().filter_map(|c| Some((c.id.clone()?, name_of(c)?))).collect();
    let networks: BTreeMap<String, ObservedNetwork> = networks.into_iter().filter_map(|n| network(n, owned)).collect();
    let volumes = volumes.volumes.unwrap_or_default().into_iter().map(|v| volume(v, owned)).collect();
    let usual = Inherited {
        cgroup: Some(if info.cgroup_version.is_some_and(|v| v.as_ref() == "1") { "host" } else { "private" }.to_owned()),
        log_driver: info.logging_driver,
        ..Inherited::default()
    };
    let mut containers = BTreeMap::new();
    for summary in listed {
        let Some(name) = name_of(&summary).filter(|name| asked.after.as_ref().is_none_or(|after| name > after)) else { continue };
        if let Some(found) = stranger(engine, owned, (&networks, &names), &usual, summary).await? {
            containers.insert(name, found);
        }
    }
    sealed(&Survey::of(containers, &networks, &volumes, asked.after.as_deref()), asked)
}

async fn stranger(
    engine: &Engine,
    owned: &Ownership,
    (networks, names): (&BTreeMap<String, ObservedNetwork>, &BTreeMap<String, String>),
    usual: &Inherited,
    summary: ContainerSummary,
) -> Result<Option<ObservedContainer>, DriverError> {
    let id = summary.id.unwrap_or_default();
    if owned.of(&id, summary.labels.iter().flatten()).is_some() {
        return Ok(None);
    }
    let live = match engine.docker.inspect_container(&id, None::<InspectContainerOptions>).await {
        Ok(live) => live,
        Err(e) if status(&e) == Some(404) => return Ok(None),
        Err(e) => return Err(from_engine_op(&e, WHAT)),
    };
    let image = live.config.as_ref().and_then(|c| c.image.clone()).unwrap_or_default();
    let state = live.state.as_ref().and_then(|s| s.status).map_or_else(Default::default, inspected_state);
    let inherited = inherited(engine, live.image.as_deref().unwrap_or(&image), usual).await?;
    let config = said(config_of(&id, live, networks, names), &id, &inherited);
    Ok(Some(ObservedContainer { id, image, state, config: Some(Box::new(config)), ..Default::default() }))
}

async fn inherited(engine: &Engine, image: &str, usual: &Inherited) -> Result<Inherited, DriverError> {
    let found = match engine.docker.inspect_image(image).await {
        Ok(found) => found.config.unwrap_or_default(),
        // Removed by force under its container: then everything counts as said.
        Err(e) if status(&e) == Some(404) => return Ok(usual.clone()),
        Err(e) => return Err(from_engine_op(&e, WHAT)),
    };
    let mut config = ContainerConfig {
        command: found.cmd.unwrap_or_default(),
        entrypoint: found.entrypoint.unwrap_or_default(),
        environment: found.env.unwrap_or_default().iter().map(|entry| pair(entry)).collect(),
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        healthcheck: found.healthcheck.map(healthcheck_of),
        user: found.user.unwrap_or_default(),
        working_dir: found.working_dir.unwrap_or_default(),
        stop_signal: found.stop_signal.filter(|signal| !signal.is_empty()),
        ..ContainerConfig::default()
    };
    config.options.expose = Some(Exposed(found.exposed_ports.unwrap_or_default().into_iter().collect()));
    Ok(Inherited { image: config, volumes: found.volumes.unwrap_or_default().into_iter().collect(), ..usual.clone() })
}

fn network(network: Network, owned: &Ownership) -> Option<(String, ObservedNetwork)> {
    let name = network.name.clone().filter(|name| !OWN_NETWORKS.contains(&name.as_str()))?;
    let (id, labels) = (network.id.clone().unwrap_or_default(), network.labels.clone().unwrap_or_default());
    let owner = owned.of(&id, &labels);
    Some((name, network_in_full(network, owner)))
}

fn volume(volume: Volume, owned: &Ownership) -> (String, ObservedVolume) {
    let labels: BTreeMap<String, String> = volume.labels.into_iter().collect();
    let owner = owned.of(&volume_key(&volume.name), &labels);
    let observed =
        ObservedVolume { owner, driver: volume.driver, driver_opts: volume.options.into_iter().collect(), labels: own_labels(&labels) };
    (volume.name, observed)
}
