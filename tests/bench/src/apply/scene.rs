//! What every contender makes: three networks and twenty containers, each on one or two of them.

use anyhow::Result;
use bollard::Docker;
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions};
use serde_json::{Map, Value, json};

/// Networks.
pub const NETWORKS: usize = 3;
/// Containers.
pub const SERVICES: usize = 20;
/// The service that is changed and killed.
pub const CHOSEN: usize = 7;

/// The things that one contender makes.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The prefix of every name; nobody else uses it.
    pub name: String,
    /// The image of every container.
    pub image: String,
}

/// The name of the `n`th network in the file.
#[must_use]
pub fn network(n: usize) -> String {
    format!("net{n}")
}

/// The name of the `n`th service in the file.
#[must_use]
pub fn service(n: usize) -> String {
    format!("s{n:02}")
}

/// The networks of the `n`th service: every fourth one joins two.
#[must_use]
pub fn joins(n: usize) -> Vec<usize> {
    let mut joined = vec![n % NETWORKS];
    if n.is_multiple_of(4) {
        joined.push((n + 1) % NETWORKS);
    }
    joined.sort_unstable();
    joined
}

/// The environment of the `n`th service.
#[must_use]
pub fn environment(n: usize, marker: &str) -> Vec<(String, String)> {
    let mut variables = vec![("NUMBER".to_owned(), n.to_string())];
    if n == CHOSEN {
        variables.push(("MARKER".to_owned(), marker.to_owned()));
    }
    variables
}

impl Scene {
    /// The content of the slice.
    #[must_use]
    pub fn content(&self, marker: &str) -> Value {
        let networks: Map<String, Value> = (0..NETWORKS).map(|n| (network(n), json!({}))).collect();
        let services: Map<String, Value> = (0..SERVICES).map(|n| (service(n), self.service(n, marker))).collect();
        json!({ "docker": { "networks": networks, "services": services } })
    }

    /// Removes whatever bears the scene's name: a contender that failed cleans up nothing.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn sweep(&self, docker: &Docker) -> Result<()> {
        let all = ListContainersOptions { all: true, ..Default::default() };
        for container in docker.list_containers(Some(all)).await? {
            let ours = container.names.iter().flatten().any(|n| n.trim_start_matches('/').starts_with(&self.name));
            if let Some(id) = container.id.filter(|_| ours) {
                let force = RemoveContainerOptions { force: true, v: true, ..Default::default() };
                // One that is being removed already is no trouble.
                let _ = docker.remove_container(&id, Some(force)).await;
            }
        }
        for network in docker.list_networks(None).await? {
            if let Some(name) = network.name.filter(|n| n.starts_with(&self.name)) {
                docker.remove_network(&name).await?;
            }
        }
        Ok(())
    }

    fn service(&self, n: usize, marker: &str) -> Value {
        let networks: Map<String, Value> = joins(n).into_iter().map(|at| (network(at), json!({}))).collect();
        let environment: Map<String, Value> = environment(n, marker).into_iter().map(|(k, v)| (k, Value::String(v))).collect();
        json!({ "image": self.image, "command": ["sleep"], "environment": environment, "networks": networks })
    }

    /// The same as a file for docker-compose.
    #[must_use]
    pub fn compose_file(&self, marker: &str) -> Value {
        let content = self.content(marker);
        let part = |name: &str| content.pointer(&format!("/docker/{name}"));
        json!({ "version": "3.8", "networks": part("networks"), "services": part("services") })
    }
}
