//! What changes about a container while it runs: its networks, limits and restart policy.

use bollard::models::{ContainerUpdateBody, NetworkDisconnectRequest};
use moorline_common::fault::{Code, cut};
use moorline_common::plan::{ContainerTarget, InPlace};
use moorline_common::topology::RestartPolicy;

use super::super::{DriverError, DriverErrorKind};
use super::apply::{Hands, gone};
use super::body;
use super::error::{from_engine, not_owned};

impl Hands<'_> {
    /// Makes `changes` so. Each may be made already.
    pub(super) async fn update_container(&self, id: &str, target: &ContainerTarget, changes: &InPlace) -> Result<(), DriverError> {
        let name = &target.name;
        match self.inspect(id).await? {
            Some(live) if self.owner(&live).is_some() => {}
            Some(_) => return Err(not_owned(&format!("a container named `{name}`"))),
            None => return Err(vanished(name)),
        }
        crate::crash::point("docker.update.before");
        // New ones first: it is never without a network that it keeps or gets, but for those that it joins otherwise.
        for (network, attachment) in target.spec.networks.iter().filter(|(n, _)| changes.attach.contains(*n)) {
            if changes.detach.contains(network) {
                self.detach(id, name, network).await?;
            }
            self.attach(id, name, network, body::endpoint(&target.service, attachment)).await?;
        }
        for network in changes.detach.difference(&changes.attach) {
            self.detach(id, name, network).await?;
        }
        crate::crash::point("docker.update.networks");
        if changes.resources || changes.restart {
            let updated = self.docker.update_container(id, update(target, changes)).await;
            updated.map_err(|e| from_engine(&e, &format!("changing `{name}`")))?;
        }
        crate::crash::point("docker.update.after");
        Ok(())
    }

    async fn detach(&self, id: &str, name: &str, network: &str) -> Result<(), DriverError> {
        let request = NetworkDisconnectRequest { container: id.to_owned(), force: None };
        match self.docker.disconnect_network(network, request).await {
            Err(e) if super::error::words(&e).contains("is not connected to") => Ok(()),
            other => gone(other, &format!("detaching `{name}` from `{network}`")),
        }
    }
}

fn vanished(name: &str) -> DriverError {
    let message = cut(&format!("`{name}` is gone, which was to be changed"));
    DriverError { kind: DriverErrorKind::NotFound, code: Code::StepFailed, message }
}

/// What the engine is asked for. What is left out stays as it is.
fn update(target: &ContainerTarget, changes: &InPlace) -> ContainerUpdateBody {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let restart = || body::restart_policy(target.spec.restart.unwrap_or(RestartPolicy::No));
    let mut asked = ContainerUpdateBody { restart_policy: changes.restart.then(restart), ..Default::default() };
    if changes.resources {
        let limits = target.spec.options.clone().take_limits();
        // As much as a new container gets without being told.
        asked.memory_swap = limits.memswap_limit.or_else(|| limits.mem_limit.map(|_| limits.usual_swap()));
        asked.cpu_shares = limits.cpu_shares.map(signed);
        asked.nano_cpus = limits.cpus.map(signed);
        asked.cpuset_cpus = limits.cpuset;
        asked.memory = limits.mem_limit.map(signed);
        asked.memory_reservation = limits.mem_reservation.map(signed);
        asked.pids_limit = limits.pids_limit;
    }
    asked
}
