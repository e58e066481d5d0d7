//! What a host really has, as plain data: the observation that planner and hub compare with.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::canonical::to_canonical;
use crate::id::{ResourceId, sha256_hex};
use crate::pve::Vmid;
use crate::topology::{Attachment, Healthcheck, Ipam, MountSpec, Nanos, Options, PortSpec, RestartPolicy, SealedFile};

mod guest;

pub use guest::{BURIED_TAG, GuestStatus, ObservedGuest, ObservedPve, ObservedSnapshot, TAG};

/// The label that holds the cluster of an owned object.
pub const LABEL_CLUSTER: &str = "moorline.cluster";
/// The label that holds the host id of an owned object.
pub const LABEL_HOST: &str = "moorline.host";
/// The label that holds the topology of an owned object.
pub const LABEL_TOPOLOGY: &str = "moorline.topology";
/// The label that holds the resource id of an owned object.
pub const LABEL_RESOURCE: &str = "moorline.resource";
/// The label that holds the hash of the spec that was last applied to the object.
pub const LABEL_SPEC: &str = "moorline.spec";
/// The label that holds the hash of that part of a container's spec that only another container can have.
pub const LABEL_BASE: &str = "moorline.base";
/// The prefix that operators' own labels may not use.
pub const LABEL_PREFIX: &str = "moorline.";

/// Whether the engine could be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It answered.
    Ready,
    /// It could not be reached. The rest of the observation is the last one that succeeded.
    Unreachable,
}

/// One observation of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Whether the engine could be asked.
    pub engine: EngineState,
    /// The error of the last failed observation, cut to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The engine's name and version, such as `docker 20.10.24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    /// The newest version of its API that the engine speaks, such as `1.41`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_api: Option<String>,
    /// Networks by their engine names.
    pub networks: BTreeMap<String, ObservedNetwork>,
    /// Volumes by their engine names.
    pub volumes: BTreeMap<String, ObservedVolume>,
    /// Containers by their engine names (without the leading slash).
    pub containers: BTreeMap<String, ObservedContainer>,
    /// What Proxmox VE has; `None` when the agent is not connected to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve: Option<ObservedPve>,
    /// Whether something was left out, so that the rest fits into one report.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trimmed: bool,
}

impl Observed {
    /// The owned resources that are there, sorted: networks, volumes and guests that exist, containers that run.
    #[must_use]
    pub fn present(&self) -> BTreeSet<ResourceId> {
        let networks = self.networks.values().filter_map(|n| n.owner.as_ref());
        let volumes = self.volumes.values().filter_map(|v| v.owner.as_ref());
        let containers = self.containers.values().filter(|c| c.state.is_present()).filter_map(|c| c.owner.as_ref());
        let guests = self.guests().filter_map(|(_, guest)| guest.owner.as_ref());
        networks.chain(volumes).chain(containers).chain(guests).map(|o| o.resource.clone()).collect()
    }

    /// The guests that are there, by their numbers.
    pub fn guests(&self) -> impl Iterator<Item = (Vmid, &ObservedGuest)> {
        self.pve.iter().flat_map(|pve| &pve.guests).map(|(vmid, guest)| (*vmid, guest))
    }

    /// Lowercase hex SHA-256 of the canonical JSON: equal observations, equal digest.
    #[must_use]
    pub fn digest(&self) -> String {
        // Plain data of strings and bounded integers; were it not canonical, an empty text never
        // equals the digest that the hub holds, and the full report is sent.
        to_canonical(self).map(|bytes| sha256_hex(&bytes)).unwrap_or_default()
    }
}

/// The labels by which we know an object as ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The topology that made it.
    pub topology: String,
    /// The resource that it is.
    pub resource: ResourceId,
    /// The hash of the spec that was last applied.
    pub spec: String,
    /// Of a container: the hash of that part of it that only another container can have.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// Whether it was made otherwise and taken over as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Of a guest: the hash of what was written into it last and its host does not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
}

/// A network on the engine. Only `id` and `owner: None` are filled for one that is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedNetwork {
    /// The engine's id.
    pub id: String,
    /// Ours, when it bears our labels for this cluster and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The driver.
    pub driver: String,
    /// The driver's options.
    pub driver_opts: BTreeMap<String, String>,
    /// Whether containers that are none of a swarm's may join it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attachable: bool,
    /// Whether it has IPv6 addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enable_ipv6: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Address management as the engine reports it.
    pub ipam: Ipam,
    /// Labels, ours left out.
    pub labels: BTreeMap<String, String>,
    /// Containers on it that are not ours, by their names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub guests: BTreeSet<String>,
}

/// A volume on the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedVolume {
    /// Ours, when it bears our labels for this cluster and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The driver.
    pub driver: String,
    /// The driver's options.
    pub driver_opts: BTreeMap<String, String>,
    /// Labels, ours left out.
    pub labels: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, never started.
    #[default]
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// The engine is about to start it again.
    Restarting,
    /// The engine is removing it.
    Removing,
    /// Ended.
    Exited,
    /// The engine could not stop or remove it.
    Dead,
}

impl ContainerState {
    /// Only a running container counts as present.
    #[must_use]
    pub const fn is_present(self) -> bool {
        matches!(self, ContainerState::Running)
    }
}

/// What the healthcheck says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// There is no healthcheck.
    #[default]
    None,
    /// It has not decided yet.
    Starting,
    /// It succeeds.
    Healthy,
    /// It fails.
    Unhealthy,
}

/// A container on the engine. Only id, image and state are filled for one that is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: String,
    /// Ours, when it bears our labels for this cluster and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The image as it was asked for.
    pub image: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// The last exit code, when it has exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Whether it has ended because it was out of memory, which is nobody's doing although its exit code is that of a kill.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// What the healthcheck says.
    pub health: Health,
    /// The configuration that can be compared with a service's; `None` for a stranger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<ContainerConfig>>,
}

impl ObservedContainer {
    /// How it has exited, for people.
    #[must_use]
    pub fn exit_words(&self) -> String {
        let code = self.exit_code.unwrap_or_default();
        if self.out_of_memory { format!("{code}, out of memory") } else { code.to_string() }
    }
}

/// A container's live configuration in the model's own types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerConfig {
    /// The command, as created.
    pub command: Vec<String>,
    /// The entrypoint, as created.
    pub entrypoint: Vec<String>,
    /// The environment, the image's own variables included.
    pub environment: BTreeMap<String, String>,
    /// Published ports as asked for.
    pub ports: BTreeSet<PortSpec>,
    /// Attachments by the networks' engine names.
    pub networks: BTreeMap<String, Attachment>,
    /// Mounts by target; named volumes by their engine names.
    pub volumes: BTreeMap<String, MountSpec>,
    /// Secrets and configs by target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, SealedFile>,
    /// The restart policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Labels, ours left out, the image's own included.
    pub labels: BTreeMap<String, String>,
    /// The healthcheck as created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The host name.
    pub hostname: String,
    /// The user.
    pub user: String,
    /// The working directory.
    pub working_dir: String,
    /// The stop signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The stop timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<Nanos>,
    /// What it may do and use, without what every container has.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options,
}
