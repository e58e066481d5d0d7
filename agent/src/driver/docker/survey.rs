//! What is on the engine besides ours: inspected in full, without what images say, and sealed to the one who asked.

use std::collections::BTreeMap;

use bollard::errors::Error;
use bollard::models::{ContainerSummary, Network, Volume};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use moorline_common::observe::{ContainerConfig, ObservedContainer, ObservedNetwork, ObservedVolume};
use moorline_common::op::Survey as Asked;
use moorline_common::plan::model::own_labels;
use moorline_common::plan::volume_key;
use moorline_common::survey::{Around, Inherited, Page, Users, said};
use moorline_common::topology::options::Exposed;

use super::super::survey::sealed;
use super::super::{DriverError, DriverErrorKind, OpResult, Ownership};
use super::Engine;
use super::error::{from_engine, from_engine_op, status};
use super::observe::{config_of, healthcheck_of, inspected_state, is_current, name_of, network_in_full, pair};

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
    let networks = networks.into_iter().filter_map(|n| network(n, owned)).collect();
    let volumes = volumes.volumes.unwrap_or_default().into_iter().map(|v| volume(v, owned)).collect();
    let users = users(&listed, &networks);
    let usual = Inherited {
        cgroup: Some(if info.cgroup_version.is_some_and(|v| v.as_ref() == "1") { "host" } else { "private" }.to_owned()),
        log_driver: info.logging_driver,
        ..Inherited::default()
    };
    let is_stranger =
        |summary: &ContainerSummary| owned.of(summary.id.as_deref().unwrap_or_default(), summary.labels.iter().flatten()).is_none();
    let strangers = listed.into_iter().filter(is_stranger).filter_map(|summary| Some((name_of(&summary)?, summary.id?)));
    let strangers: BTreeMap<String, String> = strangers.filter(|(name, _)| asked.after.as_ref().is_none_or(|after| name > after)).collect();
    let mut page = Page::new(Around { networks: networks.clone(), volumes, users });
    for (name, id) in strangers {
        let has_room = match stranger(engine, (&networks, &names), &usual, id).await {
            Ok(Some(found)) => page.add(name, found),
            Ok(None) => true,
            Err(error) => page.leave_out(name, why_not(&error)?),
        };
        if !has_room {
            break;
        }
    }
    sealed(&page.into_survey(), asked)
}

/// Counts the containers of the whole host, ours too: the list tells what each uses.
fn users(listed: &[ContainerSummary], networks: &BTreeMap<String, ObservedNetwork>) -> Users {
    let mut users = Users::default();
    for summary in listed {
        let joined = summary.network_settings.iter().filter_map(|settings| settings.networks.as_ref()).flatten();
        let joined = joined.filter(|(name, endpoint)| is_current(endpoint, networks.get(*name))).map(|(name, _)| name.clone());
        let mounted = summary.mounts.iter().flatten().filter(|mount| mount.typ.as_deref() == Some("volume"));
        users.count(joined, mounted.filter_map(|mount| mount.name.clone()));
    }
    users
}

/// Why one container is left out. An error that is not about it alone fails the whole look.
fn why_not(error: &Error) -> Result<String, DriverError> {
    let failed = from_engine(error, "it cannot be inspected");
    match failed.kind {
        DriverErrorKind::Unreachable | DriverErrorKind::Unauthorized => Err(from_engine_op(error, WHAT)),
        DriverErrorKind::Retryable | DriverErrorKind::Permanent | DriverErrorKind::Conflict | DriverErrorKind::NotFound => {
            Ok(failed.message)
        }
    }
}

/// `None` when it went away in between.
async fn stranger(
    engine: &Engine,
    (networks, names): (&BTreeMap<String, ObservedNetwork>, &BTreeMap<String, String>),
    usual: &Inherited,
    id: String,
) -> Result<Option<ObservedContainer>, Error> {
    let live = match engine.docker.inspect_container(&id, None::<InspectContainerOptions>).await {
        Ok(live) => live,
        Err(e) if status(&e) == Some(404) => return Ok(None),
        Err(e) => return Err(e),
    };
    let image = live.config.as_ref().and_then(|c| c.image.clone()).unwrap_or_default();
    let state = live.state.as_ref().and_then(|s| s.status).map_or_else(Default::default, inspected_state);
    let inherited = inherited(engine, live.image.as_deref().unwrap_or(&image), usual).await?;
    let config = said(config_of(&id, live, networks, names), &id, &inherited);
    Ok(Some(ObservedContainer { id, image, state, config: Some(Box::new(config)), ..Default::default() }))
}

async fn inherited(engine: &Engine, image: &str, usual: &Inherited) -> Result<Inherited, Error> {
    let found = match engine.docker.inspect_image(image).await {
        Ok(found) => found.config.unwrap_or_default(),
        // Removed by force under its container: then everything counts as said.
        Err(e) if status(&e) == Some(404) => return Ok(usual.clone()),
        Err(e) => return Err(e),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use age::x25519::Identity;
    use base64::Engine as _;
    use moorline_common::survey::Survey;
    use serde_json::{Value, json};

    use super::super::DockerDriver;
    use super::super::stalls::{Answer, driver, labels, now};
    use super::*;

    fn endpoint(network: &str) -> Value {
        json!({ network: { "NetworkID": network } })
    }

    /// How an engine answers that has these containers, each with the network that it is on; that of `ours` is Moorline's own.
    fn engine(request: &str, containers: &[(&str, &str)], environment: &str) -> Answer {
        let listed = containers.iter().map(|(name, network)| {
            let labels = if *name == "ours" { labels() } else { json!({}) };
            let mounts = json!([{ "Type": "volume", "Name": "data", "Destination": "/data" }]);
            json!({ "Id": format!("id-{name}"), "Names": [format!("/{name}")], "Labels": labels, "Mounts": mounts,
                "NetworkSettings": { "Networks": endpoint(network) } })
        });
        let body = match request {
            "GET /containers/json" => Value::Array(listed.collect()),
            "GET /networks" => json!([{ "Name": "front", "Id": "front", "Driver": "bridge" }, { "Name": "back", "Id": "back" }]),
            "GET /volumes" => {
                json!({ "Volumes": [{ "Name": "data", "Driver": "local", "Mountpoint": "/m", "Labels": {}, "Options": {}, "Scope": "local" }] })
            }
            "GET /info" => json!({ "LoggingDriver": "json-file", "CgroupVersion": "2" }),
            "GET /images/good/json" => json!({ "Config": {} }),
            "GET /images/bad/json" => return now(500, json!({ "message": "layer is damaged" })),
            _ => {
                let id = request.strip_prefix("GET /containers/")?.strip_suffix("/json")?;
                let (name, network) = containers.iter().find(|(name, _)| id.strip_prefix("id-") == Some(name))?;
                if *name == "broken" {
                    return now(500, json!({ "message": "getting the final child's pid from pipe caused EOF" }));
                }
                let image = if *name == "imageless" { "bad" } else { "good" };
                json!({ "Id": id, "Name": format!("/{name}"), "Image": image, "Config": { "Image": "demo:1", "Env": [environment] },
                    "HostConfig": {}, "State": { "Status": "running" }, "NetworkSettings": { "Networks": endpoint(network) },
                    "Mounts": [{ "Type": "volume", "Name": "data", "Destination": "/data", "RW": true }] })
            }
        };
        now(200, body)
    }

    async fn ask(driver: &DockerDriver, after: Option<&str>) -> Survey {
        let identity = Identity::generate();
        let asked = Asked { recipient: identity.to_public().to_string(), after: after.map(str::to_owned), guests: None };
        let answer = survey(&driver.engine().await.unwrap(), &driver.owned, &asked).await.unwrap();
        let sealed = base64::engine::general_purpose::STANDARD.decode(answer.result["sealed"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&age::decrypt(&identity, &sealed).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_cannot_be_inspected_is_left_out_with_its_reason_and_counts_as_a_user_all_the_same() {
        let containers = [("app", "front"), ("broken", "front"), ("imageless", "back"), ("ours", "front"), ("web", "back")];
        let (driver, _folder) = driver(move |request| engine(request, &containers, "A=1"));
        let found = ask(&driver, None).await;
        assert_eq!(found.containers.keys().collect::<Vec<_>>(), ["app", "web"]);
        let why: Vec<(&str, &str)> = found.left_out.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        assert_eq!(
            why,
            [
                ("broken", "it cannot be inspected: getting the final child's pid from pipe caused EOF"),
                ("imageless", "it cannot be inspected: layer is damaged")
            ]
        );
        assert_eq!((found.users.networks["front"], found.users.networks["back"], found.users.volumes["data"]), (3, 2, 5));
        assert_eq!(found.next, None);
    }

    #[tokio::test]
    async fn no_more_is_inspected_than_an_answer_holds() {
        let names: Vec<String> = (0..60).map(|n| format!("c{n:02}")).collect();
        let looks = Arc::new(AtomicUsize::new(0));
        let (counted, environment) = (looks.clone(), format!("A={}", "x".repeat(3_000)));
        let (driver, _folder) = driver(move |request| {
            let containers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "front")).collect();
            counted.fetch_add(usize::from(request.starts_with("GET /containers/id-")), Ordering::SeqCst);
            engine(request, &containers, &environment)
        });
        let first = ask(&driver, None).await;
        let held = first.containers.len();
        assert!((5..10).contains(&held), "{held}");
        assert_eq!(looks.swap(0, Ordering::SeqCst), held + 1);
        let second = ask(&driver, first.next.as_deref()).await;
        assert!(second.containers.keys().next() > first.containers.keys().last(), "{:?}", second.containers.keys());
        assert_eq!(looks.load(Ordering::SeqCst), second.containers.len() + 1);
    }
}
