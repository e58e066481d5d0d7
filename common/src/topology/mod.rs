//! The topology model: what an operator wants, in the Compose Specification's words.
//!
//! - [`parse`] reads YAML or JSON into a [`TopologyFile`], with every problem at its line, and
//!   checks what only the whole file shows (cycles, undefined names).
//! - [`inputs`] are what the file takes from the operator's machine: variables and other files.
//! - [`slice`](mod@slice) turns the file and the host-bindings into one hydrated [`HostSpec`] per host.
//!
//! A [`HostSpec`] is normalised (one spelling for each meaning) and holds no defaults: a field that
//! the file doesn't name is `None`, stays out of the canonical JSON and is not managed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod adopt;
mod credentials;
pub mod dotenv;
mod guests;
pub mod import;
pub mod inputs;
mod interpolate;
mod keys;
pub mod limits;
mod merge;
mod node;
pub mod options;
pub mod parse;
pub mod problem;
mod resolve;
pub mod schema;
pub mod sealed;
mod service;
pub mod slice;
mod validate;
mod vars;
mod write;

pub use guests::{GuestSource, GuestSpec, Power, ProxmoxSpec, Reboot, Shutdown};
pub use inputs::{Asked, Inputs, Reading};
pub use options::Options;
pub use parse::{load, load_bytes, read};
pub use problem::{Problem, nearest, render_all};
pub use schema::json_schema;
pub use sealed::{Origin, SealedFile, SealedKind, SealedMount, SealedSpec};
pub use service::{
    Attachment, Dependency, DependencyCondition, Healthcheck, MountKind, MountOptions, MountSpec, Nanos, PortSpec, Protocol, PullPolicy,
    RestartPolicy, ServiceSpec, Update, UpdateOrder,
};
pub use slice::{BoundHost, Slices};

use crate::id::TopologyId;
use crate::maintenance::Window;
use crate::pve::Vmid;
use crate::rollout::Plan;

/// The network that a service without `networks` is in, by its name in the file.
pub const DEFAULT_NETWORK: &str = "default";

/// A parsed topology file: profiles and host entries are still apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyFile {
    /// The topology's name.
    pub topology: TopologyId,
    /// Policy for all hosts.
    pub policy: Option<Policy>,
    /// How a push spreads; `None` when all hosts get it at once. No part of what a host gets.
    pub rollout: Option<Plan>,
    /// Named parts that hosts may `use`.
    pub profiles: BTreeMap<String, Entry>,
    /// Host name or `label=value` selector → what it gets.
    pub hosts: BTreeMap<String, HostEntry>,
    /// The files that it takes, for problems that only show with the hosts at hand.
    pub(crate) files: Vec<String>,
}

/// A profile: a part of a host's desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// What Docker shall have.
    pub docker: Option<DockerSpec>,
    /// What Proxmox VE shall have.
    pub proxmox: Option<ProxmoxSpec>,
    /// Policy of this part.
    pub policy: Option<Policy>,
    /// Where its parts stand, and which of them differ from host to host.
    pub(crate) source: Source,
}

/// What an [`Entry`] keeps of the file besides its meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// The entry's path in the file: `profiles.web`.
    pub(crate) prefix: String,
    /// Path below the entry → where it stands, for what the checks may refer to.
    pub(crate) marks: BTreeMap<String, Position>,
    /// Objects that hold variables: [`Entry::docker`] and [`Entry::proxmox`] have them as far as they are known without a host.
    pub(crate) varying: Vec<Varying>,
    /// Services with Compose's `profiles`, and whether one of them is enabled.
    pub(crate) gates: BTreeMap<String, bool>,
}

/// An object that differs from host to host, because it holds variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Varying {
    /// What it is.
    pub(crate) kind: ObjectKind,
    /// Its name in the file.
    pub(crate) name: String,
    /// What stands in the file.
    pub(crate) node: node::Node,
}

/// What an object under `docker` or `proxmox` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// A service.
    Service,
    /// A secret or config.
    Sealed(SealedKind),
    /// A guest.
    Guest,
}

impl ObjectKind {
    /// The key that the section of such objects stands under.
    pub(crate) const fn driver(self) -> &'static str {
        match self {
            ObjectKind::Network | ObjectKind::Volume | ObjectKind::Service | ObjectKind::Sealed(_) => "docker",
            ObjectKind::Guest => "proxmox",
        }
    }

    /// The key that such objects stand under.
    pub(crate) const fn section(self) -> &'static str {
        match self {
            ObjectKind::Network => "networks",
            ObjectKind::Volume => "volumes",
            ObjectKind::Service => "services",
            ObjectKind::Sealed(kind) => kind.section(),
            ObjectKind::Guest => "guests",
        }
    }
}

/// One entry under `hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostEntry {
    /// Profiles to merge, in order; later ones win.
    pub uses: Vec<String>,
    /// What the entry says itself; wins over every profile.
    pub own: Entry,
    /// Where the entry begins in the file.
    pub at: Position,
}

/// A place in a file. Lines and columns are counted from 1; line 0 is no place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// 0 is the topology file; others are those that it takes ([`Inputs::files`]), in order, counted from 1.
    pub file: u16,
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// The content of one host's slice. Empty means: tear down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// What Docker shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerSpec>,
    /// What Proxmox VE shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxmox: Option<ProxmoxSpec>,
    /// What to do about drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

impl HostSpec {
    /// Whether this asks for nothing to exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.docker.as_ref().is_none_or(DockerSpec::is_empty) && self.guests().next().is_none()
    }

    /// Its guests, by their numbers.
    pub fn guests(&self) -> impl Iterator<Item = (Vmid, &GuestSpec)> {
        self.proxmox.iter().flat_map(|proxmox| &proxmox.guests).map(|(vmid, guest)| (*vmid, guest))
    }
}

/// What to do when a live value differs from the slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `heal` mends reversible differences at once; `inbox` waits for an operator.
    pub drift: DriftPolicy,
    /// Whether a field that was healed again and again is left to an operator from then on; it is, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loop_breaker: Option<bool>,
    /// When the host may be given other content; at any time, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<Window>,
}

impl Policy {
    /// Whether a field that was healed again and again is left to an operator from then on.
    #[must_use]
    pub fn breaks_loops(&self) -> bool {
        self.loop_breaker.unwrap_or(true)
    }
}

/// See [`Policy::drift`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftPolicy {
    /// Mend reversible differences at once.
    #[default]
    Heal,
    /// Change nothing; tell the operator.
    Inbox,
}

/// A host's Docker objects, by their names in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerSpec {
    /// Networks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, NetworkSpec>,
    /// Named volumes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SealedSpec>,
    /// Configs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, SealedSpec>,
    /// Services; each is one container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceSpec>,
}

impl DockerSpec {
    /// Whether this asks for nothing to exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.volumes.is_empty() && self.services.is_empty()
    }
}

/// A network. <https://github.com/compose-spec/compose-spec/blob/main/06-networks.md>
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name on the engine, instead of the topology's and its own together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is there without Moorline, and only used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// The engine's id of the network that is taken over as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// What to do when it is not as the slice says; what the host's policy says, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftPolicy>,
    /// The network driver; the engine's default is `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Options for the driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
    /// Whether containers that are none of a swarm's may join it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachable: Option<bool>,
    /// Whether it has IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_ipv6: Option<bool>,
    /// Whether it has no way out of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<bool>,
    /// Address management.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// Labels of the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Address management of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipam {
    /// The IPAM driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Address pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<IpamPool>,
}

/// One address pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpamPool {
    /// In CIDR form, host bits zero.
    pub subnet: String,
    /// Where containers' addresses come from, in CIDR form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
    /// The gateway's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A named volume. <https://github.com/compose-spec/compose-spec/blob/main/07-volumes.md>
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Its name on the engine, instead of the topology's and its own together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is there without Moorline, and only used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// The name of the volume that is taken over as it is: its name on the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// What to do when it is not as the slice says; what the host's policy says, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftPolicy>,
    /// The volume driver; the engine's default is `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Options for the driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
    /// Labels of the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
