//! What a container may do and use: the Compose keys that become the engine's settings of one container, each in one spelling.
//!
//! One type says what a slice wants and what a container has. `None` is *not named* on the one side, and on the other a value that
//! says nothing, or the one that nearly every container has: those are left out of observations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Bytes of shared memory that an engine gives a container without being told.
const SHM_USUAL: u64 = 64 << 20;
/// The unit of `cpus` in one processor.
const NANO_CPUS: u64 = 1_000_000_000;

/// One setting.
trait Setting: Serialize + PartialEq {
    /// Whether it says nothing, which the engine takes for what it does without being told.
    fn is_usual(&self) -> bool;

    /// Whether a container that has `live` has what this says. Keys that a map does not name are not its business.
    fn agrees(&self, live: &Self) -> bool {
        self == live
    }

    /// Takes in what a later part of the file says: maps merge key by key, everything else is replaced.
    fn take_in(&mut self, later: Self);

    /// What it says, for people.
    fn shown(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(text)) => text,
            Ok(value) => value.to_string(),
            Err(_) => String::new(),
        }
    }
}

macro_rules! scalar_setting {
    ($($type:ty: $usual:expr),+ $(,)?) => {
        $(impl Setting for $type {
            fn is_usual(&self) -> bool {
                *self == $usual
            }
            fn take_in(&mut self, later: Self) {
                *self = later;
            }
        })+
    };
}

scalar_setting!(bool: false, u64: 0, i64: 0, String: "");

impl<T: Serialize + PartialEq> Setting for Vec<T> {
    fn is_usual(&self) -> bool {
        self.is_empty()
    }
    fn take_in(&mut self, later: Self) {
        *self = later;
    }
}

impl<T: Serialize + Ord> Setting for BTreeSet<T> {
    fn is_usual(&self) -> bool {
        self.is_empty()
    }
    fn take_in(&mut self, later: Self) {
        *self = later;
    }
}

impl<T: Serialize + PartialEq> Setting for BTreeMap<String, T> {
    fn is_usual(&self) -> bool {
        self.is_empty()
    }
    fn agrees(&self, live: &Self) -> bool {
        self.iter().all(|(key, value)| live.get(key) == Some(value))
    }
    fn take_in(&mut self, later: Self) {
        self.extend(later);
    }
}

impl Setting for SecurityOpts {
    fn is_usual(&self) -> bool {
        self.0.is_empty()
    }
    fn agrees(&self, live: &Self) -> bool {
        // Engines add labels of their own, by what else the container shares.
        self.0.is_subset(&live.0) && live.0.difference(&self.0).all(|opt| opt.starts_with("label="))
    }
    fn take_in(&mut self, later: Self) {
        *self = later;
    }
}

impl Setting for Exposed {
    fn is_usual(&self) -> bool {
        self.0.is_empty()
    }
    fn agrees(&self, live: &Self) -> bool {
        // The image's own are among them.
        self.0.is_subset(&live.0)
    }
    fn take_in(&mut self, later: Self) {
        self.0.extend(later.0);
    }
}

impl Setting for Swappiness {
    fn is_usual(&self) -> bool {
        // 0 says: never.
        false
    }
    fn take_in(&mut self, later: Self) {
        *self = later;
    }
}

impl Setting for Logging {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
    fn agrees(&self, live: &Self) -> bool {
        self.driver.as_ref().is_none_or(|driver| Some(driver) == live.driver.as_ref()) && self.options.agrees(&live.options)
    }
    fn take_in(&mut self, later: Self) {
        if later.driver.is_some() && later.driver != self.driver {
            // Another driver's options mean nothing to this one.
            *self = later;
        } else {
            self.options.extend(later.options);
        }
    }
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// The key.
    pub key: &'static str,
    /// What the slice says, for people.
    pub wanted: String,
    /// What the container has, for people; `None` for nothing.
    pub live: Option<String>,
}

macro_rules! options {
    ($($(#[$about:meta])+ $key:ident: $type:ty $(= $usual:expr)?),+ $(,)?) => {
        /// See the module.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Options {
            $(
                $(#[$about])+
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )+
        }

        impl Options {
            /// Every key.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];

            /// Whether nothing is named.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                $(self.$key.is_none())&&+
            }

            /// Takes in what a later part of the file says.
            pub fn merge(&mut self, later: Self) {
                $(match (&mut self.$key, later.$key) {
                    (Some(base), Some(later)) => base.take_in(later),
                    (base @ None, later) => *base = later,
                    (Some(_), None) => {}
                })+
            }

            /// Leaves out what `other` names.
            pub fn unname(&mut self, other: &Self) {
                $(self.$key = self.$key.take().filter(|_| other.$key.is_none());)+
            }

            /// What `live` has otherwise than this names.
            #[must_use]
            pub fn differences(&self, live: &Self) -> Vec<Differs> {
                let mut out = Vec::new();
                $(
                    let is_usual = |setting: &$type| setting.is_usual() $(|| *setting == $usual)?;
                    differ(&mut out, stringify!($key), self.$key.as_ref(), live.$key.as_ref(), is_usual);
                )+
                out
            }

            /// The same without what says nothing.
            #[must_use]
            pub fn without_usual(mut self) -> Self {
                $(self.$key = self.$key.filter(|setting| !(setting.is_usual() $(|| *setting == $usual)?));)+
                self
            }
        }
    };
}

impl Options {
    /// The limits that an engine changes while a container runs.
    pub const LIMITS: [&str; 7] = ["cpu_shares", "cpus", "cpuset", "mem_limit", "mem_reservation", "memswap_limit", "pids_limit"];

    /// Takes [`Self::LIMITS`] out of these.
    #[must_use]
    pub fn take_limits(&mut self) -> Self {
        Self {
            cpu_shares: self.cpu_shares.take(),
            cpus: self.cpus.take(),
            cpuset: self.cpuset.take(),
            mem_limit: self.mem_limit.take(),
            mem_reservation: self.mem_reservation.take(),
            memswap_limit: self.memswap_limit.take(),
            pids_limit: self.pids_limit.take(),
            ..Self::default()
        }
    }

    /// The `memswap_limit` that an engine gives a container with this `mem_limit` without being told: as much swap as memory. Where
    /// the kernel cannot limit swap, it says -1 all the same.
    #[must_use]
    pub fn usual_swap(&self) -> i64 {
        self.mem_limit.and_then(|memory| i64::try_from(memory.checked_mul(2)?).ok()).unwrap_or(-1)
    }
}

fn differ<T: Setting>(out: &mut Vec<Differs>, key: &'static str, wanted: Option<&T>, live: Option<&T>, is_usual: impl Fn(&T) -> bool) {
    let Some(wanted) = wanted else { return };
    if live.map_or_else(|| is_usual(wanted), |live| wanted.agrees(live)) {
        return;
    }
    out.push(Differs { key, wanted: in_units(key, wanted.shown()), live: live.map(|live| in_units(key, live.shown())) });
}

/// A number as the file would have it: bytes as `64m`, processors as `0.5`.
fn in_units(key: &str, shown: String) -> String {
    match (key, shown.parse::<u64>()) {
        ("mem_limit" | "mem_reservation" | "memswap_limit" | "shm_size", Ok(bytes)) => {
            let units = [(30, "g"), (20, "m"), (10, "k")];
            let whole = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
            whole.map_or(shown, |(shift, unit)| format!("{}{unit}", bytes >> shift))
        }
        ("cpus", Ok(nanos)) => {
            let (whole, part) = (nanos / NANO_CPUS, nanos % NANO_CPUS);
            format!("{whole}.{part:09}").trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => shown,
    }
}

options! {
    /// The control group namespace: `host` or `private`.
    cgroup: String,
    /// The control group above the container's.
    cgroup_parent: String,
    /// Capabilities besides the usual ones, each `CAP_…` or `ALL`.
    cap_add: BTreeSet<String>,
    /// Capabilities that are taken away.
    cap_drop: BTreeSet<String>,
    /// Microseconds of a period of the processor's scheduler.
    cpu_period: u64,
    /// Microseconds of processor time in a period.
    cpu_quota: i64,
    /// Its weight beside other containers.
    cpu_shares: u64,
    /// Billionths of a processor.
    cpus: u64,
    /// The processors that it may use: `0-2,5`.
    cpuset: String,
    /// Rules of the control group for devices.
    device_cgroup_rules: BTreeSet<String>,
    /// Devices of the host.
    devices: BTreeSet<Device>,
    /// Name servers, in their order.
    dns: Vec<String>,
    /// Options of the resolver.
    dns_opt: Vec<String>,
    /// Domains in which names are searched.
    dns_search: Vec<String>,
    /// The domain of its host name.
    domainname: String,
    /// Ports that it offers to other containers, each `80/tcp`.
    expose: Exposed,
    /// `name:address` each, in their order.
    extra_hosts: Vec<String>,
    /// Groups of the main process besides its user's.
    group_add: BTreeSet<String>,
    /// Whether a small init reaps its orphans.
    init: bool,
    /// Whose shared memory it sees.
    ipc: String = "private",
    /// Where its output goes.
    logging: Logging = Logging::usual(),
    /// Bytes of memory that it may use.
    mem_limit: u64,
    /// Bytes of memory that it may use when memory is short.
    mem_reservation: u64,
    /// How willing its memory is swapped, 0 to 100.
    mem_swappiness: Swappiness,
    /// Bytes of memory and swap together; -1 is without limit.
    memswap_limit: i64,
    /// `host`, `none` or `container:NAME`, instead of networks.
    network_mode: String,
    /// Whether the kernel does not kill it for want of memory.
    oom_kill_disable: bool,
    /// How soon the kernel kills it for want of memory, -1000 to 1000.
    oom_score_adj: i64,
    /// Whose processes it sees.
    pid: String,
    /// How many processes it may have; -1 is without limit.
    pids_limit: i64 = -1,
    /// Whether it has all that the host has.
    privileged: bool,
    /// Whether its root file system cannot be written.
    read_only: bool,
    /// The program that runs containers.
    runtime: String = "runc",
    /// Labels and profiles of the host's security modules, each `name=value` or a bare name.
    security_opt: SecurityOpts,
    /// Bytes of shared memory.
    shm_size: u64 = SHM_USUAL,
    /// Whether its standard input stays open.
    stdin_open: bool,
    /// Options of the storage driver.
    storage_opt: BTreeMap<String, String>,
    /// Parameters of the kernel.
    sysctls: BTreeMap<String, String>,
    /// Memory, by the path in the container, with the options of the mount.
    tmpfs: BTreeMap<String, String>,
    /// Whether it has a terminal.
    tty: bool,
    /// Limits of its processes by name.
    ulimits: BTreeMap<String, Ulimit>,
    /// The user namespace: `host`.
    userns_mode: String,
    /// Whose host name it has: `host`.
    uts: String,
}

/// A device of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its path on the host.
    pub source: String,
    /// Its path in the container.
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// A limit of processes; -1 is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// That processes may raise up to `hard`.
    pub soft: i64,
    /// That they may not pass.
    pub hard: i64,
}

/// Labels and profiles of the host's security modules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecurityOpts(pub BTreeSet<String>);

/// Ports that a container offers to others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exposed(pub BTreeSet<String>);

/// How willing memory is swapped, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Swappiness(pub u64);

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// The logging driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Its options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl Logging {
    fn usual() -> Self {
        Self { driver: Some("json-file".to_owned()), options: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_the_file_would_have_them() {
        let shown = |key: &str, number: i64| in_units(key, number.to_string());
        assert_eq!(
            [64 << 20, 3 << 30, 1536 << 10, 1000, 0, -1].map(|n| shown("memswap_limit", n)),
            ["64m", "3g", "1536k", "1000", "0", "-1"]
        );
        assert_eq!([500_000_000, 2_000_000_000, 1_250_000_000, 1].map(|n| shown("cpus", n)), ["0.5", "2", "1.25", "0.000000001"]);
        assert_eq!(shown("pids_limit", 1024), "1024");
    }

    #[test]
    fn what_is_not_named_never_differs_and_what_the_engine_does_anyway_neither() {
        let ipc = |mode: &str| Options { ipc: Some(mode.to_owned()), ..Options::default() };
        assert_eq!(ipc("private").without_usual(), Options::default());
        assert_eq!((ipc("private").differences(&Options::default()), ipc("private").differences(&ipc("shareable")).len()), (vec![], 1));
        let live = Options { privileged: Some(true), shm_size: Some(1 << 27), ..Options::default() };
        assert_eq!(Options::default().differences(&live), []);
        assert_eq!(Options { init: Some(false), cap_add: Some(BTreeSet::new()), ..Options::default() }.differences(&live), []);
        let wanted = Options { privileged: Some(false), tty: Some(true), ..Options::default() };
        let differs = wanted.differences(&live);
        assert_eq!(
            differs.iter().map(|d| (d.key, d.wanted.as_str(), d.live.as_deref())).collect::<Vec<_>>(),
            [("privileged", "false", Some("true")), ("tty", "true", None)]
        );
    }

    #[test]
    fn maps_merge_key_by_key_and_everything_else_is_replaced() {
        let map = |key: &str, value: &str| Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        let mut base = Options { sysctls: map("a", "1"), dns: Some(vec!["1.1.1.1".into()]), tty: Some(true), ..Options::default() };
        base.merge(Options { sysctls: map("b", "2"), dns: Some(vec!["9.9.9.9".into()]), ..Options::default() });
        assert_eq!(base.sysctls.as_ref().map(BTreeMap::len), Some(2));
        assert_eq!((base.dns, base.tty), (Some(vec!["9.9.9.9".to_owned()]), Some(true)));
    }

    #[test]
    fn another_logging_driver_takes_no_options_over() {
        let logging = |driver: &str, key: &str| Logging {
            driver: Some(driver.to_owned()).filter(|d| !d.is_empty()),
            options: BTreeMap::from([(key.to_owned(), "x".to_owned())]),
        };
        let mut base = logging("json-file", "max-size");
        base.take_in(logging("", "max-file"));
        assert_eq!(base.options.len(), 2);
        base.take_in(logging("syslog", "tag"));
        assert_eq!(base, logging("syslog", "tag"));
    }
}
