//! What the hub needs to know about a slice: which resources must be there once it is applied. Pure.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ResourceId, TopologyId};
use moorline_common::sign::Verified;
use moorline_common::statement::SliceStatement;
use moorline_common::topology::{DockerSpec, HostSpec, MountKind, RestartPolicy, ServiceSpec};

use crate::store::NewSlice;

/// The network of services that name none.
const DEFAULT_NETWORK: &str = "default";

/// A verified slice as the store wants it.
///
/// # Errors
/// As [`SliceStatement::spec`].
pub fn from_verified(slice: &Verified<SliceStatement>) -> Result<NewSlice, Fault> {
    let statement = slice.statement();
    let spec = statement.spec()?;
    Ok(NewSlice {
        host_id: statement.host_id.clone(),
        version_hash: statement.version_hash.clone(),
        payload_sha256: slice.envelope().payload_sha256(),
        empty: spec.is_empty(),
        resources: resources(&statement.topology, &spec)?,
        envelope: slice.envelope().to_json(),
    })
}

/// The resources that must be present once `spec` is applied: the containers that run for good, and the
/// networks and volumes that they use. One that ends by itself is not missing when it has ended.
///
/// # Errors
/// [`Code::BadContent`] when a name gives no resource id.
pub fn resources(topology: &TopologyId, spec: &HostSpec) -> Result<BTreeSet<ResourceId>, Fault> {
    let Some(docker) = &spec.docker else { return Ok(BTreeSet::new()) };
    let mut wanted = BTreeSet::new();
    for (name, service) in &docker.services {
        if runs_for_good(service) {
            wanted.insert(format!("docker/container/{topology}-{name}-1"));
        }
        used_networks(service).for_each(|n| {
            wanted.insert(format!("docker/network/{topology}_{n}"));
        });
        used_volumes(docker, service).for_each(|v| {
            wanted.insert(format!("docker/volume/{topology}_{v}"));
        });
    }
    wanted.into_iter().map(|id| ResourceId::parse(id).map_err(|e| Fault::new(Code::BadContent, e.to_string()))).collect()
}

fn runs_for_good(service: &ServiceSpec) -> bool {
    match service.restart {
        Some(RestartPolicy::No | RestartPolicy::OnFailure(_)) => false,
        Some(RestartPolicy::Always | RestartPolicy::UnlessStopped) | None => true,
    }
}

fn used_networks(service: &ServiceSpec) -> impl Iterator<Item = &str> {
    let implicit = service.networks.is_empty().then_some(DEFAULT_NETWORK);
    service.networks.keys().map(String::as_str).chain(implicit)
}

fn used_volumes<'s>(docker: &'s DockerSpec, service: &'s ServiceSpec) -> impl Iterator<Item = &'s str> {
    let named = service.volumes.values().filter(|m| m.kind == MountKind::Volume).filter_map(|m| m.source.as_deref());
    named.filter(|name| docker.volumes.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_that_ends_by_itself_is_not_missing_when_it_has_ended() {
        let spec: HostSpec = serde_json::from_value(json!({"docker": {
            "networks": {"front": {}, "unused": {}},
            "volumes": {"data": {}},
            "services": {
                "web": {"image": "x", "networks": {"front": {}}, "volumes": {"/d": {"type": "volume", "source": "data"}}},
                "once": {"image": "x", "restart": "no"},
            }
        }}))
        .unwrap();
        let ids: Vec<String> = resources(&TopologyId::parse("t").unwrap(), &spec).unwrap().into_iter().map(String::from).collect();
        assert_eq!(ids, ["docker/container/t-web-1", "docker/network/t_default", "docker/network/t_front", "docker/volume/t_data"]);
    }
}
