//! Networks of one name: an agent that was killed while the engine made a network, and its successor, can have two made between
//! them, as engines do not rule that out. Then no container can be attached by that name.

use bollard::Docker;
use bollard::models::Network;
use bollard::query_parameters::{InspectContainerOptions, ListNetworksOptions};

use super::super::{DriverError, Ownership};
use super::error::{from_engine, status};

/// Whether the engine refused for that reason. Error texts are all that it gives.
pub(super) fn is_cause(words: &str) -> bool {
    words.contains("is ambiguous") && words.contains("network")
}

/// Leaves one network of each name that the container `id` is to be attached to.
pub(super) async fn unify_of(docker: &Docker, owned: &Ownership, id: &str) -> Result<(), DriverError> {
    let live = docker.inspect_container(id, None::<InspectContainerOptions>).await;
    let live = live.map_err(|e| from_engine(&e, "inspecting a container"))?;
    for name in live.network_settings.and_then(|s| s.networks).unwrap_or_default().into_keys() {
        unify(docker, owned, &name).await?;
    }
    Ok(())
}

/// Leaves one of our networks called `name`: what is in use stays, or else any one. Those of others are left alone.
pub(super) async fn unify(docker: &Docker, owned: &Ownership, name: &str) -> Result<(), DriverError> {
    let what = format!("removing all but one of the networks `{name}`");
    let filters = [("name".to_owned(), vec![name.to_owned()])].into_iter().collect();
    let all = docker.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await.map_err(|e| from_engine(&e, &what))?;
    let is_ours = |n: &Network| owned.of(n.id.as_deref().unwrap_or_default(), n.labels.iter().flatten()).is_some();
    let ours = all.into_iter().filter(|n| n.name.as_deref() == Some(name) && is_ours(n));
    let mut left: Vec<String> = ours.filter_map(|n| n.id).collect();
    let mut is_kept = false;
    while let Some(id) = left.pop() {
        if left.is_empty() && !is_kept {
            return Ok(());
        }
        match docker.remove_network(&id).await {
            Ok(()) => tracing::warn!(network = name, id, "removed a second network of that name"),
            Err(e) if status(&e) == Some(404) => {}
            // Something is attached to it.
            Err(e) if status(&e) == Some(403) => is_kept = true,
            Err(e) => return Err(from_engine(&e, &what)),
        }
    }
    Ok(())
}
