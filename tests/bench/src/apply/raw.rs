//! The bare engine calls as a contender: what it takes at least, eight at once, with nothing looked at or kept.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, EndpointSettings, HostConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkingConfig};
use bollard::query_parameters::CreateContainerOptions;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::scene::{self, Scene};
use super::{CONCURRENCY, Sample, Witness, now};

/// See the module.
pub struct Raw {
    scene: Scene,
    docker: Docker,
}

impl Raw {
    /// A contender on `docker`.
    #[must_use]
    pub fn new(scene: Scene, docker: &Docker) -> Self {
        Self { scene, docker: docker.clone() }
    }

    /// Everything once; it knows no re-application.
    ///
    /// # Errors
    /// When the engine fails a call.
    pub async fn round(&self, marker: &str) -> Result<Sample> {
        let cold = timed(self.up(marker)).await?;
        let change = timed(self.replace(scene::CHOSEN, &format!("{marker}-changed"))).await?;
        let heal = self.start_again().await?;
        let down = timed(self.down()).await?;
        Ok(Sample { cold: Some(cold), noop: None, change: Some(change), heal: Some(heal), down: Some(down) })
    }

    async fn up(&self, marker: &str) -> Result<()> {
        side_by_side((0..scene::NETWORKS).map(|n| async move {
            let request = NetworkCreateRequest {
                name: self.network(n),
                driver: Some("bridge".to_owned()),
                labels: Some(self.labels()),
                ..Default::default()
            };
            self.docker.create_network(request).await.map(drop).context("creating a network")
        }))
        .await?;
        side_by_side((0..scene::SERVICES).map(|n| self.run(n, marker))).await
    }

    async fn run(&self, n: usize, marker: &str) -> Result<()> {
        let joined = scene::joins(n);
        let mut endpoints = joined.iter().map(|at| {
            let endpoint = EndpointSettings { aliases: Some(vec![scene::service(n)]), ..Default::default() };
            (self.network(*at), endpoint)
        });
        let first = endpoints.next().context("a service without a network")?;
        let body = ContainerCreateBody {
            image: Some(self.scene.image.clone()),
            cmd: Some(vec!["sleep".to_owned()]),
            env: Some(scene::environment(n, marker).into_iter().map(|(k, v)| format!("{k}={v}")).collect()),
            labels: Some(self.labels()),
            host_config: Some(HostConfig { network_mode: Some(first.0.clone()), ..Default::default() }),
            networking_config: Some(NetworkingConfig { endpoints_config: Some([first].into_iter().collect()) }),
            ..Default::default()
        };
        let options = CreateContainerOptions { name: Some(self.container(n)), platform: String::new() };
        let id = self.docker.create_container(Some(options), body).await.context("creating a container")?.id;
        for (network, endpoint) in endpoints {
            let request = NetworkConnectRequest { container: id.clone(), endpoint_config: Some(endpoint) };
            self.docker.connect_network(&network, request).await.context("connecting a container")?;
        }
        self.docker.start_container(&id, None).await.context("starting a container")
    }

    async fn replace(&self, n: usize, marker: &str) -> Result<()> {
        self.remove(n).await?;
        self.run(n, marker).await
    }

    async fn remove(&self, n: usize) -> Result<()> {
        let name = self.container(n);
        self.docker.stop_container(&name, None).await.context("stopping a container")?;
        self.docker.remove_container(&name, None).await.context("removing a container")
    }

    async fn down(&self) -> Result<()> {
        side_by_side((0..scene::SERVICES).map(|n| self.remove(n))).await?;
        side_by_side(
            (0..scene::NETWORKS).map(|n| async move { self.docker.remove_network(&self.network(n)).await.context("removing a network") }),
        )
        .await
    }

    /// From the call that starts a dead container to its start.
    async fn start_again(&self) -> Result<Duration> {
        let id = self.docker.inspect_container(&self.container(scene::CHOSEN), None).await?.id.context("a container without an id")?;
        let witness = Witness::new(&self.docker);
        self.docker.kill_container(&id, None).await?;
        witness.moment(&id, "die").await?;
        let begin = now();
        self.docker.start_container(&id, None).await?;
        Ok(witness.moment(&id, "start").await?.saturating_sub(begin))
    }

    fn network(&self, n: usize) -> String {
        format!("{}_{}", self.scene.name, scene::network(n))
    }

    fn container(&self, n: usize) -> String {
        format!("{}-{}-1", self.scene.name, scene::service(n))
    }

    fn labels<M: FromIterator<(String, String)>>(&self) -> M {
        [("moorline.bench".to_owned(), self.scene.name.clone())].into_iter().collect()
    }
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let begin = Instant::now();
    work.await?;
    Ok(begin.elapsed())
}

async fn side_by_side<F: Future<Output = Result<()>>>(work: impl Iterator<Item = F>) -> Result<()> {
    stream::iter(work).buffer_unordered(CONCURRENCY).try_collect::<()>().await
}
