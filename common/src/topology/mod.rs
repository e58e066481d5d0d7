//! The topology model: what an operator wants, in the Compose Specification's words.
//!
//! - [`parse`] reads YAML or JSON into a [`TopologyFile`], with every problem at its line, and
//!   checks what only the whole file shows (cycles, undefined names).
//! - [`inputs`] are what the file takes from the operator's machine: variables and other files.
//! - [`slice`](mod@slice) turns the file and the host-bindings into one hydrated [`HostSpec`] per host.
//!
//! A [`HostSpec`] is normalised (one spelling for each meaning) and holds no defaults: a field that
//! the file doesn't name is `None`, stays out of the canonical JSON and is not managed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

mod credentials;
pub mod dotenv;
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
pub mod slice;
mod validate;
mod vars;

pub use inputs::{Asked, Inputs, Reading};
pub use options::Options;
pub use parse::{load, load_bytes, read};
pub use problem::{Problem, nearest, render_all};
pub use schema::json_schema;
pub use slice::{BoundHost, Slices};

use crate::id::TopologyId;

/// The network that a service without `networks` is in, by its name in the file.
pub const DEFAULT_NETWORK: &str = "default";

/// A parsed topology file: profiles and host entries are still apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyFile {
    /// The topology's name.
    pub topology: TopologyId,
    /// Policy for all hosts.
    pub policy: Option<Policy>,
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
    /// Objects that hold variables: [`Entry::docker`] has them as far as they are known without a host.
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

/// What an object under `docker` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// A service.
    Service,
}

impl ObjectKind {
    /// The key that such objects stand under.
    pub(crate) const fn section(self) -> &'static str {
        match self {
            ObjectKind::Network => "networks",
            ObjectKind::Volume => "volumes",
            ObjectKind::Service => "services",
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
    /// What to do about drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

impl HostSpec {
    /// Whether this asks for nothing to exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.docker.as_ref().is_none_or(DockerSpec::is_empty)
    }
}

/// What to do when a live value differs from the slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `heal` mends reversible differences at once; `inbox` waits for an operator.
    pub drift: DriftPolicy,
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
    /// The network driver; the engine's default is `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Options for the driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
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

/// A service. <https://github.com/compose-spec/compose-spec/blob/main/05-services.md>
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The image, as `docker run` would take it.
    pub image: String,
    /// What the image is made for: `linux/arm64`; the engine's own platform when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// When the image is pulled; when it is missing, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Overrides the image's command; a string form was split as a shell splits words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Overrides the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Published ports, sorted, ranges expanded.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<PortSpec>,
    /// Networks by their names in the file; empty means the topology's `default` network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Attachment>,
    /// Mounts, sorted by target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, MountSpec>,
    /// When the engine restarts the container by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Labels of the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How the engine finds out whether the container is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Services that must be so far before this one starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<String, Dependency>,
    /// The container's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// User (and group) of the main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory of the main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The signal that stops the main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How long the main process may take to stop before it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<Nanos>,
    /// What its container may do and use.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options,
}

impl ServiceSpec {
    /// The services whose namespaces it shares, by the keys that say so.
    pub fn joins(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Options { network_mode, ipc, pid, .. } = &self.options;
        let modes = [("network_mode", network_mode), ("ipc", ipc), ("pid", pid)];
        modes.into_iter().filter_map(|(key, mode)| Some((key, mode.as_deref()?.strip_prefix("service:")?)))
    }
}

/// When an image is pulled for a container that is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// When it is not on the host.
    #[default]
    Missing,
    /// Not at all.
    Never,
}

/// A span of time in nanoseconds, as the engine counts it; at most 2^53.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The port in the container.
    pub target: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: Protocol,
    /// The port on the host; `None` lets the engine choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u16>,
    /// The host's address to listen on; `None` means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<std::net::IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol as the engine writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// How a service is attached to one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Further names on that network, besides the service's own.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// A fixed IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<std::net::Ipv4Addr>,
}

/// One mount, keyed by its target path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// What is mounted.
    #[serde(rename = "type")]
    pub kind: MountKind,
    /// A volume's name in the file, or an absolute path on the host; `None` for an anonymous volume
    /// and for memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether the container may only read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A named volume of the topology; or, without a source, a volume without a name that is kept
    /// with the container and carried over when it is replaced.
    Volume,
    /// A path on the host, inside a root that the agent's local policy allows.
    Bind,
    /// Memory.
    Tmpfs,
}

/// `restart` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Runs once: an exit is an end, not a fault.
    No,
    /// Always, also after a stop by hand and an engine restart.
    Always,
    /// Always, save after a stop by hand.
    UnlessStopped,
    /// After a non-zero exit, at most so often (0: without limit).
    OnFailure(u32),
}

/// `healthcheck` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`; empty keeps the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Nanos>,
    /// For one check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Nanos>,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// At the start, when failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Nanos>,
}

/// One entry of `depends_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// How far the other service must be.
    pub condition: DependencyCondition,
}

/// How far a dependency must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// Its container runs.
    ServiceStarted,
    /// Its healthcheck succeeds.
    ServiceHealthy,
    /// Its container has exited with code 0.
    ServiceCompletedSuccessfully,
}
