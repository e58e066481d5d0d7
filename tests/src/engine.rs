//! The Docker Engine as a test sees it: what bears a fleet's labels, and cleaning up behind it.
//!
//! Never touches an object without the `moorline.cluster` label of the fleet that asks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters as query;
use moorline_common::observe::{LABEL_CLUSTER, LABEL_RESOURCE};

use crate::inspect;

/// The socket of the system's engine.
pub const SOCKET: &str = "/var/run/docker.sock";
/// When set to 1, a missing engine, or what else a test needs of the machine, fails it instead of skipping it.
pub const REQUIRE: &str = "MOORLINE_REQUIRE_DOCKER";
const TIMEOUT_S: u64 = 60;

/// A connection to an engine, with calls that block.
pub struct Engine {
    runtime: tokio::runtime::Runtime,
    docker: Docker,
    socket: PathBuf,
}

/// One container in the words that tests need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// Its name without the slash.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// When it was last started, as the engine writes it.
    pub started_at: String,
    /// Its environment.
    pub environment: BTreeSet<String>,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// The engine behind `socket`, if it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path = socket.to_str().context("socket path")?;
        let docker = Docker::connect_with_unix(path, TIMEOUT_S, bollard::API_DEFAULT_VERSION)?;
        let docker = runtime.block_on(async {
            let docker = docker.negotiate_version().await?;
            docker.ping().await?;
            Ok::<_, bollard::errors::Error>(docker)
        });
        Ok(Self { runtime, docker: docker.context("no Docker Engine answers")?, socket: socket.to_owned() })
    }

    /// The system's engine; `None` when there is none and none is required.
    ///
    /// # Errors
    /// When none answers and `MOORLINE_REQUIRE_DOCKER=1`.
    pub fn system() -> Result<Option<Self>> {
        match Self::connect(Path::new(SOCKET)) {
            Ok(engine) => Ok(Some(engine)),
            Err(error) if is_required() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The socket that it was reached at.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The client, for a call that is not wrapped here.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Runs a call of [`Self::docker`].
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The engine's version.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn version(&self) -> Result<String> {
        Ok(self.block_on(self.docker.version())?.version.unwrap_or_default())
    }

    fn summaries(&self, cluster: &str) -> Result<Vec<ContainerSummary>> {
        let filters = by_cluster(cluster);
        let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        Ok(self.block_on(self.docker.list_containers(Some(options)))?)
    }

    /// Every container of `cluster`, running or not, by name.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn containers(&self, cluster: &str) -> Result<BTreeMap<String, Container>> {
        let mut all = BTreeMap::new();
        for summary in self.summaries(cluster)? {
            let id = summary.id.unwrap_or_default();
            match self.block_on(self.docker.inspect_container(&id, None::<query::InspectContainerOptions>)) {
                Ok(inspected) => {
                    let container = container(inspected);
                    all.insert(container.name.clone(), container);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    /// The names of the containers of `cluster` that run.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn running(&self, cluster: &str) -> Result<BTreeSet<String>> {
        Ok(self.containers(cluster)?.into_values().filter(|c| c.running).map(|c| c.name).collect())
    }

    /// The names of the networks of `cluster`.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn networks(&self, cluster: &str) -> Result<BTreeSet<String>> {
        let options = query::ListNetworksOptionsBuilder::new().filters(&by_cluster(cluster)).build();
        let networks = self.block_on(self.docker.list_networks(Some(options)))?;
        Ok(networks.into_iter().filter_map(|n| n.name).collect())
    }

    /// The names of the volumes of `cluster`.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn volumes(&self, cluster: &str) -> Result<BTreeSet<String>> {
        let options = query::ListVolumesOptionsBuilder::new().filters(&by_cluster(cluster)).build();
        let volumes = self.block_on(self.docker.list_volumes(Some(options)))?;
        Ok(volumes.volumes.unwrap_or_default().into_iter().map(|v| v.name).collect())
    }

    /// Removes a container as `docker rm -f` does. Only one that bears `cluster`'s label.
    ///
    /// # Errors
    /// When it is not `cluster`'s, or the engine refuses.
    pub fn remove_container(&self, cluster: &str, name: &str) -> Result<()> {
        self.own(cluster, name)?;
        let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        Ok(self.block_on(self.docker.remove_container(name, Some(options)))?)
    }

    /// Kills a container as `docker kill` does. Only one that bears `cluster`'s label.
    ///
    /// # Errors
    /// When it is not `cluster`'s, or the engine refuses.
    pub fn kill_container(&self, cluster: &str, name: &str) -> Result<()> {
        self.own(cluster, name)?;
        Ok(self.block_on(self.docker.kill_container(name, None::<query::KillContainerOptions>))?)
    }

    fn own(&self, cluster: &str, name: &str) -> Result<()> {
        let found = self.block_on(self.docker.inspect_container(name, None::<query::InspectContainerOptions>))?;
        if container(found).labels.get(LABEL_CLUSTER).is_none_or(|c| c != cluster) {
            bail!("container `{name}` is not of cluster `{cluster}`: left alone");
        }
        Ok(())
    }

    /// Removes every object that bears `cluster`'s label. What is gone already is fine.
    ///
    /// # Errors
    /// When the engine refuses; the rest is removed all the same.
    pub fn clean(&self, cluster: &str) -> Result<()> {
        let mut trouble = Vec::new();
        let mut note = |what: &str, result: Result<(), bollard::errors::Error>| {
            if let Err(error) = result
                && !is_gone(&error)
            {
                trouble.push(format!("{what}: {error}"));
            }
        };
        for summary in self.summaries(cluster)? {
            let id = summary.id.unwrap_or_default();
            let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            note(&id, self.block_on(self.docker.remove_container(&id, Some(options))));
        }
        // By id: two networks may bear one name, and then the name stands for neither.
        let options = query::ListNetworksOptionsBuilder::new().filters(&by_cluster(cluster)).build();
        let networks = self.block_on(self.docker.list_networks(Some(options)))?.into_iter().filter_map(|n| n.id);
        let stay: Vec<_> = networks.filter_map(|id| inspect::delete(&self.socket, &format!("/networks/{id}")).err()).collect();
        for name in self.volumes(cluster)? {
            note(&name, self.block_on(self.docker.remove_volume(&name, None::<query::RemoveVolumeOptions>)));
        }
        trouble.extend(stay.iter().map(|error| format!("{error:#}")));
        if !trouble.is_empty() {
            bail!("cleaning up behind cluster `{cluster}`: {}", trouble.join("; "));
        }
        Ok(())
    }
}

/// Whether no test may be skipped because the machine lacks something: [`REQUIRE`].
#[must_use]
pub fn is_required() -> bool {
    std::env::var(REQUIRE).is_ok_and(|v| v == "1")
}

/// The client's calls take filters in this type.
#[allow(clippy::disallowed_types)]
fn by_cluster(cluster: &str) -> std::collections::HashMap<String, Vec<String>> {
    [("label".to_owned(), vec![format!("{LABEL_CLUSTER}={cluster}")])].into_iter().collect()
}

fn is_gone(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. })
}

fn container(inspected: ContainerInspectResponse) -> Container {
    let state = inspected.state.unwrap_or_default();
    let config = inspected.config.unwrap_or_default();
    Container {
        id: inspected.id.unwrap_or_default(),
        name: inspected.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        running: state.running.unwrap_or_default() && !state.restarting.unwrap_or_default(),
        started_at: state.started_at.unwrap_or_default(),
        environment: config.env.unwrap_or_default().into_iter().collect(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    }
}

/// The resources that containers carry in their labels; a resource that stands here twice has a duplicate.
#[must_use]
pub fn resources(containers: &BTreeMap<String, Container>) -> Vec<String> {
    let mut all: Vec<String> = containers.values().filter_map(|c| c.labels.get(LABEL_RESOURCE).cloned()).collect();
    all.sort();
    all
}
