//! The pure planner: what must change so that a host matches its slice.
//!
//! `plan(desired, observed)` is total and deterministic, and gives a reason for each step. Three
//! properties hold and are tested: planning after an apply is empty; planning what is already so
//! is empty; no step touches an object without our labels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::drift::Drift;
use crate::id::{ClusterId, HostId, ResourceId, TopologyId};
use crate::observe::Observed;
use crate::pve::Vmid;
use crate::topology::{HostSpec, NetworkSpec, PullPolicy, SealedFile, ServiceSpec, Update, VolumeSpec};
use draft::Draft;
use scene::Scene;

pub mod adoption;
pub mod api;
pub mod compare;
mod containers;
mod docker;
mod draft;
#[cfg(test)]
mod drifted;
pub mod fields;
mod gates;
pub mod guest;
mod in_place;
pub mod lower;
pub mod model;
mod scene;
#[cfg(test)]
mod testing;

/// Who plans for whom: goes into names and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host.
    pub host_id: HostId,
    /// The topology.
    pub topology: TopologyId,
}

/// What must change so that a host of which nothing more is known matches `desired`.
#[must_use]
pub fn plan(identity: &Identity, desired: &HostSpec, observed: &Observed) -> Plan {
    plan_given(identity, desired, observed, Given::default())
}

/// What must change so that the host matches `desired`, and what is left as it is though it differs. Total and deterministic.
#[must_use]
pub fn plan_given(identity: &Identity, desired: &HostSpec, observed: &Observed, given: Given<'_>) -> Plan {
    let lowered = lower::lower(identity, desired);
    let scene = Scene::new(identity, desired, &lowered, observed, given);
    let mut draft = Draft::default();
    docker::plan(&scene, &mut draft);
    guest::plan(&scene, &mut draft);
    draft.finish()
}

/// What must be present once `desired` is applied: every network, volume and guest, and the containers that run for good.
#[must_use]
pub fn desired_resources(topology: &TopologyId, desired: &HostSpec) -> BTreeSet<ResourceId> {
    let mut resources = docker::desired_resources(topology, desired);
    resources.extend(desired.guests().map(|(vmid, _)| vmid.resource()));
    resources
}

/// What to do, what differs without being mended, and why things are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Changes, in an order that respects `after`.
    pub steps: Vec<Step>,
    /// Differences that no step mends.
    pub drift: Vec<Drift>,
    /// Resources that cannot be brought further now, and why.
    pub blocked: Vec<Blocked>,
}

impl Plan {
    /// Whether the host is as wanted.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty()
    }
}

/// One change to one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The resource, and so the lane.
    pub resource: ResourceId,
    /// The change.
    pub action: Action,
    /// Why, for people.
    pub reason: String,
    /// Resources whose steps in this plan must have succeeded before.
    pub after: BTreeSet<ResourceId>,
    /// Of these, what it waits for and begins without when it has failed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tolerates: BTreeSet<ResourceId>,
    /// What had been as the slice says and is so again by it; nothing when it is the slice that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heals: Vec<Drift>,
}

/// What the planner goes by besides the slice and what it sees.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// The slice that was applied last. What is otherwise than in that has drifted; what that says otherwise is a change. Without one
    /// nothing has drifted that is not there.
    pub applied: Option<&'a HostSpec>,
    /// Fields that are left as they are for an operator to decide, whatever the policy.
    pub left: Option<&'a Fields>,
    /// What is mended whatever the policy.
    pub mend: Option<&'a Mend>,
    /// Whether one of the host's maintenance windows is open, if it has any.
    pub in_window: bool,
    /// Guests that were destroyed and kept for a while, and whose time is over, with what of their incarnations stays.
    pub due: Option<&'a BTreeMap<Vmid, String>>,
}

/// Fields of resources.
pub type Fields = BTreeMap<ResourceId, BTreeSet<String>>;

/// What an operator wants to be as the slice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mend {
    /// The resource.
    pub resource: ResourceId,
    /// These fields of it alone; all of them, if empty.
    pub fields: BTreeSet<String>,
    /// Whether another object may take its place, and so all its fields are reset.
    pub replaces: bool,
}

impl Mend {
    /// Whether `field` is one of those that are wanted.
    pub(crate) fn covers(&self, field: &str) -> bool {
        self.fields.is_empty() || self.fields.contains(field)
    }
}

/// A resource that waits for something outside this plan, or can't be mended without an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The resource.
    pub resource: ResourceId,
    /// What kind of trouble; `None` when it only waits (a dependency's health).
    pub code: Option<crate::fault::Code>,
    /// What it waits for, or what an operator must do.
    pub reason: String,
}

/// A change, with all that the driver needs to make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Make a network.
    CreateNetwork(NetworkTarget),
    /// Remove an owned network and make it anew; its containers are replaced by their own steps.
    ReplaceNetwork {
        /// The engine's id of the old one.
        old_id: String,
        /// The new one.
        target: NetworkTarget,
    },
    /// Remove an owned network.
    RemoveNetwork {
        /// The engine's id.
        id: String,
    },
    /// Make a volume.
    CreateVolume(VolumeTarget),
    /// Make and start a container, pulling its image when it is not there.
    CreateContainer(Arc<ContainerTarget>),
    /// Start an owned container that exists and is as wanted otherwise.
    StartContainer {
        /// The engine's id.
        id: String,
    },
    /// Resume an owned container that is frozen.
    UnpauseContainer {
        /// The engine's id.
        id: String,
    },
    /// Change about an owned container what can be changed while it runs.
    UpdateContainer {
        /// The engine's id.
        id: String,
        /// What it shall be.
        target: Arc<ContainerTarget>,
        /// What of that differs.
        changes: InPlace,
    },
    /// Take a container over that was made otherwise, as it is.
    AdoptContainer {
        /// The engine's id.
        id: String,
        /// What it is, and what its successors shall be.
        target: Arc<ContainerTarget>,
    },
    /// Take a network over that was made otherwise, as it is.
    AdoptNetwork {
        /// The engine's id.
        id: String,
        /// What it is.
        target: NetworkTarget,
    },
    /// Take a volume over that was made otherwise, as it is.
    AdoptVolume(VolumeTarget),
    /// Make the successor of an owned container, with the same anonymous volumes, and remove the old one once that is good; when it
    /// is not, the old one comes back.
    ReplaceContainer {
        /// The engine's id of the old one.
        old_id: String,
        /// The new one.
        target: Arc<ContainerTarget>,
    },
    /// Stop and remove an owned container.
    RemoveContainer {
        /// The engine's id.
        id: String,
    },
    /// Something about a guest.
    Guest(Box<guest::GuestAction>),
}

/// What changes about a container while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// What it may use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resources: bool,
    /// When the engine starts it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
    /// Networks that it leaves, by their engine names; those that it joins otherwise among them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub detach: BTreeSet<String>,
    /// Networks that it joins, by their engine names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub attach: BTreeSet<String>,
}

/// What becomes of the object that a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is made.
    Create,
    /// It stays the same object.
    InPlace,
    /// Another one takes its place.
    Replace,
    /// It goes.
    Remove,
}

impl Action {
    /// What it does, in one word for people: such as `create`, `update`, `replace` or `start`.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Action::CreateNetwork(_) | Action::CreateVolume(_) | Action::CreateContainer(_) => "create",
            Action::ReplaceNetwork { .. } | Action::ReplaceContainer { .. } => "replace",
            Action::UpdateContainer { .. } => "update",
            Action::AdoptContainer { .. } | Action::AdoptNetwork { .. } | Action::AdoptVolume(_) => "adopt",
            Action::RemoveNetwork { .. } | Action::RemoveContainer { .. } => "remove",
            Action::StartContainer { .. } => "start",
            Action::UnpauseContainer { .. } => "unpause",
            Action::Guest(guest) => guest.act.verb(),
        }
    }

    /// What becomes of the object.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Action::CreateNetwork(_) | Action::CreateVolume(_) | Action::CreateContainer(_) => Effect::Create,
            Action::StartContainer { .. }
            | Action::UnpauseContainer { .. }
            | Action::UpdateContainer { .. }
            | Action::AdoptContainer { .. }
            | Action::AdoptNetwork { .. }
            | Action::AdoptVolume(_) => Effect::InPlace,
            Action::ReplaceNetwork { .. } | Action::ReplaceContainer { .. } => Effect::Replace,
            Action::RemoveNetwork { .. } | Action::RemoveContainer { .. } => Effect::Remove,
            Action::Guest(guest) => guest.act.effect(),
        }
    }

    /// The engine's id of the container that it acts on, if that exists already.
    #[must_use]
    pub fn container_id(&self) -> Option<&str> {
        match self {
            Action::StartContainer { id }
            | Action::UnpauseContainer { id }
            | Action::UpdateContainer { id, .. }
            | Action::AdoptContainer { id, .. }
            | Action::RemoveContainer { id } => Some(id),
            Action::ReplaceContainer { old_id, .. } => Some(old_id),
            Action::AdoptNetwork { .. }
            | Action::AdoptVolume(_)
            | Action::CreateNetwork(_)
            | Action::ReplaceNetwork { .. }
            | Action::RemoveNetwork { .. }
            | Action::CreateVolume(_)
            | Action::CreateContainer(_)
            | Action::Guest(_) => None,
        }
    }

    /// The container that it makes.
    #[must_use]
    pub fn container_target(&self) -> Option<&ContainerTarget> {
        match self {
            Action::CreateContainer(target) | Action::ReplaceContainer { target, .. } => Some(target),
            Action::CreateNetwork(_)
            | Action::ReplaceNetwork { .. }
            | Action::RemoveNetwork { .. }
            | Action::CreateVolume(_)
            | Action::StartContainer { .. }
            | Action::UnpauseContainer { .. }
            | Action::UpdateContainer { .. }
            | Action::AdoptContainer { .. }
            | Action::AdoptNetwork { .. }
            | Action::AdoptVolume(_)
            | Action::RemoveContainer { .. }
            | Action::Guest(_) => None,
        }
    }

    /// Whether it ends what an operation has begun, and so is done also when that holds the resource.
    #[must_use]
    pub fn ends_an_operation(&self) -> bool {
        matches!(self, Action::Guest(action) if action.act == guest::GuestAct::Purge)
    }

    /// What is known of an object from now on though its labels do not tell: its engine's id (of a volume: [`volume_key`]), and
    /// what it is.
    #[must_use]
    pub fn note(&self) -> Option<(String, crate::observe::Owner)> {
        let (key, labels) = match self {
            Action::UpdateContainer { id, target, .. } | Action::AdoptContainer { id, target } => (id.clone(), &target.labels),
            Action::AdoptNetwork { id, target } => (id.clone(), &target.labels),
            Action::AdoptVolume(target) => (volume_key(&target.name), &target.labels),
            Action::Guest(guest) => return guest.note(),
            Action::CreateNetwork(_)
            | Action::ReplaceNetwork { .. }
            | Action::RemoveNetwork { .. }
            | Action::CreateVolume(_)
            | Action::CreateContainer(_)
            | Action::StartContainer { .. }
            | Action::UnpauseContainer { .. }
            | Action::ReplaceContainer { .. }
            | Action::RemoveContainer { .. } => return None,
        };
        let adopted = !matches!(self, Action::UpdateContainer { .. });
        Some((key, crate::observe::Owner { adopted, ..model::owner_of(labels)? }))
    }

    /// Where it stands among steps that do not wait for each other.
    const fn phase(&self) -> u8 {
        match self {
            Action::RemoveContainer { .. } => 0,
            Action::RemoveNetwork { .. } => 1,
            Action::CreateNetwork(_) | Action::ReplaceNetwork { .. } | Action::AdoptNetwork { .. } => 2,
            Action::CreateVolume(_) | Action::AdoptVolume(_) => 3,
            Action::CreateContainer(_)
            | Action::UpdateContainer { .. }
            | Action::AdoptContainer { .. }
            | Action::StartContainer { .. }
            | Action::UnpauseContainer { .. }
            | Action::ReplaceContainer { .. } => 4,
            Action::Guest(_) => 5,
        }
    }
}

/// What a volume is known by beside the engine's ids of other objects.
#[must_use]
pub fn volume_key(engine_name: &str) -> String {
    format!("volume/{engine_name}")
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.action.verb(), self.resource, self.reason)
    }
}

/// A network to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTarget {
    /// Its engine name.
    pub name: String,
    /// What it shall be.
    pub spec: NetworkSpec,
    /// The engine's id of the network that is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// Our labels and the operator's.
    pub labels: BTreeMap<String, String>,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeTarget {
    /// Its engine name.
    pub name: String,
    /// What it shall be.
    pub spec: VolumeSpec,
    /// The name of the volume that is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// Our labels and the operator's.
    pub labels: BTreeMap<String, String>,
}

/// A container to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTarget {
    /// Its engine name.
    pub name: String,
    /// The service's name in the file: an alias on each network.
    pub service: String,
    /// What it shall be; networks and named volumes by their engine names, the implicit `default`
    /// network filled in.
    pub spec: ServiceSpec,
    /// The secrets and configs that it mounts, by the path in the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, SealedFile>,
    /// When its image is pulled.
    #[serde(default)]
    pub pull: PullPolicy,
    /// How it takes the place of its predecessor.
    #[serde(default, skip_serializing_if = "Update::is_usual")]
    pub update: Update,
    /// The engine's id of the container that is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// Whether an exit may be its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
    /// Whether its predecessor goes first, for better or worse: another container of the topology waits for what that has, and has what
    /// this one needs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gives_way: bool,
    /// Our labels and the operator's.
    pub labels: BTreeMap<String, String>,
}
