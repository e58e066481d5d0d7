//! From the death of a container to its start, by the engine's own events: Moorline beside a client that listens for that very
//! death and starts the container at once.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest};
use bollard::query_parameters::{CreateContainerOptions, EventsOptions, RemoveContainerOptions};
use futures_util::StreamExt as _;
use serde_json::json;

use super::{Aim, Row};
use crate::apply::agent::Agent;
use crate::apply::scene::{self, Scene};
use crate::apply::{PATIENCE, Witness, now};

const MOST: f64 = 1.2;

/// Kills one container of each, `rounds` times, in turning order.
///
/// # Errors
/// When the engine fails a call.
pub async fn measure(own: &Scene, bare: &Scene, docker: &Docker, socket: &Path, rounds: u32) -> Result<Vec<Row>> {
    let mut agent = Agent::start(own.clone(), docker, socket).await?;
    let (mut healed, mut started) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let content = json!({ "docker": { "services": { (scene::service(scene::CHOSEN)): {
            "image": own.image, "command": ["sleep"], "environment": { "MARKER": round.to_string() },
        } } } });
        // Another container each time: one that dies again and again is rightly started later and later.
        agent.push(content).await?;
        let id = begin_bare(bare, docker, round).await?;
        for turn in 0..2 {
            match (turn + round) % 2 {
                0 => healed.push(agent.heal().await?.as_secs_f64() * 1e3),
                _ => started.push(start_at_once(docker, &id).await?.as_secs_f64() * 1e3),
            }
        }
        docker.remove_container(&id, Some(RemoveContainerOptions { force: true, v: true, ..Default::default() })).await?;
    }
    agent.push(json!({})).await?;
    let ratios = healed.iter().zip(&started).map(|(own, bare)| own / bare).collect();
    Ok(vec![
        Row { name: "death to start, bare client".to_owned(), values: started, unit: "ms", aim: None },
        Row { name: "death to start, Moorline".to_owned(), values: healed, unit: "ms", aim: None },
        Row { name: "death to start, Moorline : bare client".to_owned(), values: ratios, unit: "×", aim: Some(Aim::AtMost(MOST)) },
    ])
}

/// A container like the other one, on a network like the other's.
async fn begin_bare(scene: &Scene, docker: &Docker, round: u32) -> Result<String> {
    let network = format!("{}_default", scene.name);
    if round == 0 {
        docker.create_network(NetworkCreateRequest { name: network.clone(), ..Default::default() }).await.context("creating a network")?;
    }
    let body = ContainerCreateBody {
        image: Some(scene.image.clone()),
        cmd: Some(vec!["sleep".to_owned()]),
        env: Some(vec![format!("MARKER={round}")]),
        host_config: Some(HostConfig { network_mode: Some(network), ..Default::default() }),
        ..Default::default()
    };
    let options = CreateContainerOptions { name: Some(format!("{}-1", scene.name)), platform: String::new() };
    let id = docker.create_container(Some(options), body).await.context("creating a container")?.id;
    docker.start_container(&id, None).await.context("starting a container")?;
    Ok(id)
}

/// Kills `id`, which a listener starts again at the engine's word.
async fn start_at_once(docker: &Docker, id: &str) -> Result<Duration> {
    let witness = Witness::new(docker);
    let begin = now();
    let filters = [("container".to_owned(), vec![id.to_owned()]), ("event".to_owned(), vec!["die".to_owned()])];
    let since = format!("{}.{:09}", begin.as_secs(), begin.subsec_nanos());
    let options = EventsOptions { since: Some(since), until: None, filters: Some(filters.into_iter().collect()) };
    let (docker_too, id_too) = (docker.clone(), id.to_owned());
    let listener = tokio::spawn(async move {
        let mut events = std::pin::pin!(docker_too.events(Some(options)));
        tokio::time::timeout(PATIENCE, events.next()).await?.context("the event stream ended")??;
        docker_too.start_container(&id_too, None).await.context("starting a container")
    });
    docker.kill_container(id, None).await?;
    listener.await??;
    let (died, started) = (witness.moment(id, "die").await?, witness.moment(id, "start").await?);
    Ok(started.saturating_sub(died))
}
