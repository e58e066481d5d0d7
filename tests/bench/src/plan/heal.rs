//! From the death of a container to its start, by the engine's own events: Moorline beside a client that listens for that very
//! death and starts the container at once.
//!
//! The engine tells of a death before it has cleaned up behind it, and starts nothing before it has: nobody can be as fast as the
//! start of a container that has been dead for a while. That is shown too.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest};
use bollard::query_parameters::{CreateContainerOptions, EventsOptions, RemoveContainerOptions, WaitContainerOptions};
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
    let (mut healed, mut started, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let content = json!({ "docker": { "services": { (scene::service(scene::CHOSEN)): {
            "image": own.image, "command": ["sleep"], "environment": { "MARKER": round.to_string() },
        } } } });
        // Another container each time: one that dies again and again is rightly started later and later.
        agent.push(content).await?;
        let id = begin_bare(bare, docker, round).await?;
        for turn in 0..3 {
            let (times, time) = match (turn + round) % 3 {
                0 => (&mut healed, agent.heal().await?),
                1 => (&mut started, start_at_once(docker, &id).await?),
                _ => (&mut alone, start_alone(docker, &id).await?),
            };
            times.push(time.as_secs_f64() * 1e3);
        }
        docker.remove_container(&id, Some(RemoveContainerOptions { force: true, v: true, ..Default::default() })).await?;
    }
    agent.push(json!({})).await?;
    let ratios = |of: &[f64]| healed.iter().zip(of).map(|(own, bare)| own / bare).collect();
    let (to_client, to_start) = (ratios(&started), ratios(&alone));
    Ok(vec![
        Row { name: "start of a stopped container".to_owned(), values: alone, unit: "ms", aim: None },
        Row { name: "death to start, bare client".to_owned(), values: started, unit: "ms", aim: None },
        Row { name: "death to start, Moorline".to_owned(), values: healed, unit: "ms", aim: None },
        Row { name: "death to start, Moorline : bare start".to_owned(), values: to_start, unit: "×", aim: None },
        Row { name: "death to start, Moorline : bare client".to_owned(), values: to_client, unit: "×", aim: Some(Aim::AtMost(MOST)) },
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

/// Kills `id`, and starts it when the engine has done with its death; how long the start takes.
async fn start_alone(docker: &Docker, id: &str) -> Result<Duration> {
    docker.kill_container(id, None).await?;
    let mut end = std::pin::pin!(docker.wait_container(id, None::<WaitContainerOptions>));
    // An exit code other than 0 is told as an error.
    let _ = tokio::time::timeout(PATIENCE, end.next()).await?.context("no end of the container")?;
    // It is answered once the engine has let go of the container.
    docker.inspect_container(id, None).await?;
    let witness = Witness::new(docker);
    let begin = now();
    docker.start_container(id, None).await.context("starting a container")?;
    Ok(witness.moment(id, "start").await?.saturating_sub(begin))
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
