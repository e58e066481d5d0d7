//! The planner for Docker networks, volumes and containers.

use std::collections::BTreeSet;

use super::{Identity, Plan};
use crate::id::{ResourceId, TopologyId};
use crate::observe::Observed;
use crate::topology::HostSpec;

/// What must change so that the host matches `desired`. Total and deterministic.
#[must_use]
pub fn plan(identity: &Identity, desired: &HostSpec, observed: &Observed) -> Plan {
    let _ = (identity, desired, observed);
    Plan::default()
}

/// What must be present once `desired` is applied.
#[must_use]
pub fn desired_resources(topology: &TopologyId, desired: &HostSpec) -> BTreeSet<ResourceId> {
    let _ = (topology, desired);
    BTreeSet::new()
}
