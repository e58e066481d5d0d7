//! A service as it is wanted: the Compose Specification's keys, normalised.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{DriftPolicy, Options, SealedMount};

/// A service. <https://github.com/compose-spec/compose-spec/blob/main/05-services.md>
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its container's name on the engine, instead of the topology's, its own and a number together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// The engine's id of the container that is taken over as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// What to do when its containers are not as the slice says; what the host's policy says, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftPolicy>,
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
    /// Secrets, by the path in the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SealedMount>,
    /// Configs, by the path in the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, SealedMount>,
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
    /// How many containers it has; one, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How a container is replaced.
    #[serde(default, skip_serializing_if = "Update::is_usual")]
    pub update: Update,
    /// What its container may do and use.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options,
}

/// `deploy.update_config` of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Which of the two goes first; the old one, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<UpdateOrder>,
    /// How long the successor must run, or have to become healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Nanos>,
}

impl Update {
    /// Whether nothing is named.
    #[must_use]
    pub const fn is_usual(&self) -> bool {
        self.order.is_none() && self.monitor.is_none()
    }
}

/// See [`Update::order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old container stops before the new one starts.
    StopFirst,
    /// The new container runs before the old one stops.
    StartFirst,
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
    /// A fixed IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<std::net::Ipv6Addr>,
}

impl Attachment {
    /// Its fixed addresses.
    pub fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> + use<> {
        let (v4, v6) = (self.ipv4_address, self.ipv6_address);
        v4.map(std::net::IpAddr::V4).into_iter().chain(v6.map(std::net::IpAddr::V6))
    }
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
    /// How it is mounted.
    #[serde(default, skip_serializing_if = "MountOptions::is_empty")]
    pub options: MountOptions,
}

/// How something is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountOptions {
    /// Of a path on the host: whether it is made when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_host_path: Option<bool>,
    /// Of a path on the host: whether mounts below it are seen on the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<String>,
    /// Of a path on the host: `z` or `Z`, how it is labelled anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<String>,
    /// Of a volume: whether it does not get what the image has there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nocopy: Option<bool>,
    /// Of a volume: the folder in it that is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
    /// Of memory: permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Of memory: the bytes that it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl MountOptions {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
    /// Between two checks at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<Nanos>,
}

/// One entry of `depends_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    /// How far the other service must be.
    pub condition: DependencyCondition,
    /// Whether this service begins all the same when the other one is not defined or has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Whether this service's container is made anew when the other's is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

impl Dependency {
    /// One that says no more than how far the other must be.
    #[must_use]
    pub const fn on(condition: DependencyCondition) -> Self {
        Self { condition, optional: false, restart: false }
    }
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
