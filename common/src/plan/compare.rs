//! Field by field: what a live object has otherwise than its slice names.
//!
//! Only fields that the slice names are compared. Both sides are brought to one normal form first, so that what
//! the engine makes of a value (a cleaned path, a spelled-out signal, whole seconds) never reads as drift.

use std::collections::BTreeMap;

use super::ContainerTarget;
use crate::drift::Drift;
use crate::id::ResourceId;
use crate::observe::{ContainerConfig, ObservedContainer, ObservedNetwork, ObservedVolume};
use crate::topology::{
    Attachment, Healthcheck, MountKind, MountOptions, MountSpec, Nanos, NetworkSpec, PortSpec, RestartPolicy, SealedFile, VolumeSpec,
};

/// Nanoseconds in a second: the engine keeps stop timeouts in whole seconds.
const SECOND_NANOS: u64 = 1_000_000_000;

/// The word for what is not there.
pub const NOTHING: &str = "nothing";

/// What a secret or config gets whose value is another one; nobody shows which.
pub const SEALED_CHANGED: &str = "changed";
/// What it has until then.
pub(super) const SEALED_BEFORE: &str = "another value";

/// The field that says whether an object is there at all.
pub const PRESENCE: &str = "presence";
/// The field that says whether a container runs.
pub const STATE: &str = "state";
/// The field that says what a container is called on the engine.
pub const NAME: &str = "container_name";

/// One named field with another live value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field in the file's words.
    pub field: String,
    /// What the slice says, for people; `None` for nothing.
    pub expected: Option<String>,
    /// What the host has, for people; `None` for nothing.
    pub actual: Option<String>,
}

impl Difference {
    fn new(field: impl Into<String>, expected: impl Into<Option<String>>, actual: impl Into<Option<String>>) -> Self {
        Self { field: field.into(), expected: expected.into(), actual: actual.into() }
    }

    /// Something that shall be there is not.
    pub(super) fn missing() -> Self {
        Self::new(PRESENCE, "present".to_owned(), "missing".to_owned())
    }

    /// Something is there that the slice does not want.
    pub(super) fn unwanted() -> Self {
        Self::new(PRESENCE, "absent".to_owned(), "present".to_owned())
    }

    /// Somebody else's object has the name of one that shall be there.
    pub(super) fn usurped(kind: &str) -> Self {
        Self::new(PRESENCE, "present".to_owned(), format!("another {kind} of that name"))
    }

    /// A container that shall run does not.
    pub(super) fn not_running(state: String) -> Self {
        Self::new(STATE, "running".to_owned(), state)
    }

    /// A container is called otherwise on the engine.
    pub(super) fn renamed(wanted: &str, live: &str) -> Self {
        Self::new(NAME, wanted.to_owned(), live.to_owned())
    }

    /// Somebody else's container is on a network of ours.
    pub(super) fn guest(name: &str) -> Self {
        Self::new(format!("containers.{name}"), "not attached".to_owned(), "attached".to_owned())
    }

    /// What the slice says, in words.
    fn wanted(&self) -> &str {
        self.expected.as_deref().unwrap_or(NOTHING)
    }

    /// What the host has, in words.
    fn live(&self) -> &str {
        self.actual.as_deref().unwrap_or(NOTHING)
    }

    /// As a drift of `resource`.
    #[must_use]
    pub fn into_drift(self, resource: &ResourceId) -> Drift {
        let (expected, actual) = (self.wanted().to_owned(), self.live().to_owned());
        Drift { resource: resource.clone(), field: self.field, expected, actual }
    }

    /// For a step's reason. Values of environment variables stay out of it: reasons go to logs.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.field.starts_with("environment.") || self.expected.as_deref() == Some(SEALED_CHANGED) {
            return format!("{} differs", self.field);
        }
        format!("{} is {}, should be {}", self.field, self.live(), self.wanted())
    }
}

/// The reasons of all `differences` in one line.
#[must_use]
pub fn reasons(differences: &[Difference]) -> String {
    differences.iter().map(Difference::reason).collect::<Vec<_>>().join("; ")
}

/// What a live network has otherwise.
#[must_use]
pub fn network(spec: &NetworkSpec, live: &ObservedNetwork) -> Vec<Difference> {
    let mut out = Vec::new();
    if let Some(driver) = &spec.driver {
        scalar(&mut out, "driver", driver, &live.driver);
    }
    let truths = [
        ("attachable", spec.attachable, live.attachable),
        ("enable_ipv6", spec.enable_ipv6, live.enable_ipv6),
        ("internal", spec.internal, live.internal),
    ];
    for (key, wanted, live) in truths {
        if let Some(wanted) = wanted {
            scalar(&mut out, key, &wanted.to_string(), &live.to_string());
        }
    }
    map(&mut out, "driver_opts", &spec.driver_opts, &live.driver_opts);
    map(&mut out, "labels", &spec.labels, &live.labels);
    let Some(ipam) = &spec.ipam else { return out };
    if let Some(driver) = &ipam.driver {
        scalar(&mut out, "ipam.driver", driver, live.ipam.driver.as_deref().unwrap_or("default"));
    }
    for pool in &ipam.config {
        let subnet = cidr(&pool.subnet);
        let Some(found) = live.ipam.config.iter().find(|p| cidr(&p.subnet) == subnet) else {
            let has = live.ipam.config.iter().map(|p| p.subnet.as_str()).collect::<Vec<_>>().join(", ");
            out.push(Difference::new("ipam.config.subnet", subnet, filled(&has)));
            continue;
        };
        if let Some(range) = &pool.ip_range {
            scalar(&mut out, "ipam.config.ip_range", &cidr(range), &found.ip_range.as_deref().map(cidr).unwrap_or_default());
        }
        if let Some(gateway) = &pool.gateway {
            scalar(&mut out, "ipam.config.gateway", gateway, found.gateway.as_deref().unwrap_or_default());
        }
    }
    out
}

/// What a live volume has otherwise.
#[must_use]
pub fn volume(spec: &VolumeSpec, live: &ObservedVolume) -> Vec<Difference> {
    let mut out = Vec::new();
    if let Some(driver) = &spec.driver {
        scalar(&mut out, "driver", driver, &live.driver);
    }
    map(&mut out, "driver_opts", &spec.driver_opts, &live.driver_opts);
    map(&mut out, "labels", &spec.labels, &live.labels);
    out
}

/// Options and labels that a live volume has and the slice no longer names.
#[must_use]
pub fn volume_leftovers(spec: &VolumeSpec, live: &ObservedVolume) -> Vec<Difference> {
    let opts = live.driver_opts.iter().filter(|(k, _)| !spec.driver_opts.contains_key(*k)).map(|(k, v)| ("driver_opts", k, v));
    let labels = live.labels.iter().filter(|(k, _)| !spec.labels.contains_key(*k)).map(|(k, v)| ("labels", k, v));
    opts.chain(labels).map(|(field, key, value)| Difference::new(format!("{field}.{key}"), None, value.clone())).collect()
}

/// What a live container has otherwise. Its state is not looked at.
#[must_use]
pub fn container(target: &ContainerTarget, live: &ObservedContainer) -> Vec<Difference> {
    let mut out = Vec::new();
    let spec = &target.spec;
    let Some(config) = &live.config else {
        return out;
    };
    if image(&spec.image) != image(&live.image) {
        out.push(Difference::new("image", spec.image.clone(), live.image.clone()));
    }
    process(&mut out, target, config);
    map(&mut out, "environment", &spec.environment, &config.environment);
    if !spec.ports.is_empty() && spec.ports != config.ports {
        out.push(Difference::new("ports", list(spec.ports.iter().map(port)), list(config.ports.iter().map(port))));
    }
    // What was made otherwise is not called there as its service.
    let is_ours = live.owner.as_ref().is_some_and(|owner| !owner.adopted);
    attachments(&mut out, target, &config.networks, is_ours);
    mounts(&mut out, &spec.volumes, &config.volumes);
    sealed(&mut out, &target.sealed, &config.sealed);
    if let Some(restart) = spec.restart
        && config.restart != Some(restart)
    {
        out.push(Difference::new("restart", restart_words(spec.restart), restart_words(config.restart)));
    }
    map(&mut out, "labels", &spec.labels, &config.labels);
    let options = spec.options.differences(&config.options);
    out.extend(options.into_iter().map(|d| Difference::new(d.key, d.wanted, d.live)));
    if let Some(check) = &spec.healthcheck {
        healthcheck(&mut out, check, &config.healthcheck.clone().unwrap_or_default());
    }
    out
}

/// Networks that a live container has joined beyond those that the slice names. Nothing is mended for their sake.
#[must_use]
pub fn extra_attachments(target: &ContainerTarget, live: &ObservedContainer) -> Vec<Difference> {
    let Some(config) = &live.config else { return Vec::new() };
    // The engine shows `host`, `none` and `bridge` as networks, too.
    let is_mode = |name: &String| config.options.network_mode.as_ref() == Some(name);
    let extra = config.networks.keys().filter(|name| !target.spec.networks.contains_key(*name) && !is_mode(name));
    extra.map(|name| Difference::new(format!("networks.{name}"), "not attached".to_owned(), "attached".to_owned())).collect()
}

/// How the main process runs and ends.
fn process(out: &mut Vec<Difference>, target: &ContainerTarget, config: &ContainerConfig) {
    let spec = &target.spec;
    let own_entrypoint = spec.entrypoint.as_ref().filter(|e| !is_reset(e));
    if let Some(entrypoint) = own_entrypoint {
        words(out, "entrypoint", entrypoint, &config.entrypoint);
    }
    // An empty command is the image's on the engine, unless the entrypoint is overridden.
    if let Some(command) = spec.command.as_ref().filter(|c| !c.is_empty() || own_entrypoint.is_some()) {
        words(out, "command", command, &config.command);
    }
    if let Some(hostname) = &spec.hostname {
        scalar(out, "hostname", hostname, &config.hostname);
    }
    if let Some(user) = &spec.user {
        scalar(out, "user", user, &config.user);
    }
    if let Some(dir) = &spec.working_dir {
        scalar(out, "working_dir", &clean_path(dir), &clean_path(&config.working_dir));
    }
    if let Some(stop) = &spec.stop_signal {
        let live = config.stop_signal.as_deref().unwrap_or_default();
        if signal(stop) != signal(live) {
            out.push(Difference::new("stop_signal", stop.clone(), filled(live)));
        }
    }
    if let Some(grace) = spec.stop_grace_period {
        let live = config.stop_grace_period.map(whole_seconds);
        if live != Some(whole_seconds(grace)) {
            let live = live.map(|s| format!("{s}s"));
            out.push(Difference::new("stop_grace_period", format!("{}s", whole_seconds(grace)), live));
        }
    }
}

fn attachments(out: &mut Vec<Difference>, target: &ContainerTarget, live: &BTreeMap<String, Attachment>, by_service: bool) {
    for (name, wanted) in &target.spec.networks {
        let field = format!("networks.{name}");
        let Some(has) = live.get(name) else {
            out.push(Difference::new(field, "attached".to_owned(), "not attached".to_owned()));
            continue;
        };
        let missing = wanted.aliases.iter().chain(Some(&target.service).filter(|_| by_service)).find(|alias| !has.aliases.contains(*alias));
        if let Some(alias) = missing {
            out.push(Difference::new(format!("{field}.aliases"), alias.clone(), list(has.aliases.iter().cloned())));
        }
        for address in wanted.addresses() {
            let same_kind = || has.addresses().find(|live| live.is_ipv4() == address.is_ipv4());
            if same_kind() != Some(address) {
                let key = if address.is_ipv4() { "ipv4_address" } else { "ipv6_address" };
                let live = same_kind().map(|a| a.to_string());
                out.push(Difference::new(format!("{field}.{key}"), address.to_string(), live));
            }
        }
    }
}

fn mounts(out: &mut Vec<Difference>, wanted: &BTreeMap<String, MountSpec>, live: &BTreeMap<String, MountSpec>) {
    let live: BTreeMap<String, &MountSpec> = live.iter().map(|(target, mount)| (clean_path(target), mount)).collect();
    for (path, wanted) in wanted {
        let path = clean_path(path);
        let found = live.get(&path);
        if found.is_some_and(|has| same_mount(wanted, has)) {
            continue;
        }
        out.push(Difference::new(format!("volumes.{path}"), mount(wanted), found.map(|m| mount(m))));
    }
}

/// What differs of secrets and configs, without anything of their values: digests are nothing to look at.
fn sealed(out: &mut Vec<Difference>, wanted: &BTreeMap<String, SealedFile>, live: &BTreeMap<String, SealedFile>) {
    let live: BTreeMap<String, &SealedFile> = live.iter().map(|(target, file)| (clean_path(target), file)).collect();
    let rights = |file: &SealedFile| {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        format!("{}:{} {:04o}", id(file.uid), id(file.gid), file.mode)
    };
    for (path, wanted) in wanted {
        let path = clean_path(path);
        let field = wanted.field();
        match live.get(&path).filter(|has| has.field() == field) {
            None => out.push(Difference::new(field, format!("at {path}"), live.get(&path).map(|other| other.field()))),
            Some(has) if has.digest != wanted.digest => {
                out.push(Difference::new(field, SEALED_CHANGED.to_owned(), SEALED_BEFORE.to_owned()))
            }
            Some(has) if *has != wanted => out.push(Difference::new(field, rights(wanted), rights(has))),
            Some(_) => {}
        }
    }
}

fn same_mount(wanted: &MountSpec, has: &MountSpec) -> bool {
    let same_source = match (wanted.kind, &wanted.source) {
        // Any volume will do for one without a name, and memory has no source.
        (MountKind::Volume, None) | (MountKind::Tmpfs, _) => true,
        (MountKind::Bind, Some(source)) => has.source.as_deref().map(clean_path) == Some(clean_path(source)),
        (MountKind::Volume, Some(_)) | (MountKind::Bind, None) => wanted.source == has.source,
    };
    wanted.kind == has.kind && wanted.read_only == has.read_only && same_source && same_options(&wanted.options, &has.options)
}

/// Whether a mount has the options that are named. Whether its path was made first is no longer seen.
fn same_options(wanted: &MountOptions, has: &MountOptions) -> bool {
    let MountOptions { create_host_path: _, propagation, selinux, nocopy, subpath, mode, size } = wanted;
    let usual = |propagation: &Option<String>| propagation.clone().unwrap_or_else(|| "rprivate".to_owned());
    (propagation.is_none() || usual(propagation) == usual(&has.propagation))
        && (selinux.is_none() || *selinux == has.selinux)
        && nocopy.is_none_or(|nocopy| nocopy == has.nocopy.unwrap_or_default())
        && (subpath.is_none() || *subpath == has.subpath)
        && mode.is_none_or(|mode| mode == has.mode.unwrap_or_default())
        && size.is_none_or(|size| size == has.size.unwrap_or_default())
}

fn healthcheck(out: &mut Vec<Difference>, wanted: &Healthcheck, live: &Healthcheck) {
    if !wanted.test.is_empty() {
        words(out, "healthcheck.test", &wanted.test, &live.test);
    }
    let mut span = |field: &str, wanted: Option<Nanos>, live: Option<Nanos>| {
        if let Some(wanted) = wanted
            && live.unwrap_or_default() != wanted
        {
            out.push(Difference::new(format!("healthcheck.{field}"), span_words(wanted), live.map(span_words)));
        }
    };
    span("interval", wanted.interval, live.interval);
    span("timeout", wanted.timeout, live.timeout);
    span("start_period", wanted.start_period, live.start_period);
    span("start_interval", wanted.start_interval, live.start_interval);
    if let Some(retries) = wanted.retries {
        scalar(out, "healthcheck.retries", &retries.to_string(), &live.retries.unwrap_or_default().to_string());
    }
}

fn scalar(out: &mut Vec<Difference>, field: &str, wanted: &str, live: &str) {
    if wanted != live {
        out.push(Difference::new(field, wanted.to_owned(), filled(live)));
    }
}

fn words(out: &mut Vec<Difference>, field: &str, wanted: &[String], live: &[String]) {
    if wanted != live {
        out.push(Difference::new(field, text(wanted), (!live.is_empty()).then(|| text(live))));
    }
}

fn map(out: &mut Vec<Difference>, field: &str, wanted: &BTreeMap<String, String>, live: &BTreeMap<String, String>) {
    for (key, value) in wanted {
        let has = live.get(key);
        if has != Some(value) {
            out.push(Difference::new(format!("{field}.{key}"), value.clone(), has.cloned()));
        }
    }
}

/// Whether an entrypoint only takes the image's own away.
#[must_use]
pub fn is_reset(entrypoint: &[String]) -> bool {
    entrypoint.iter().all(String::is_empty)
}

/// A span in whole seconds, rounded up, as the engine keeps stop timeouts.
#[must_use]
pub fn whole_seconds(span: Nanos) -> u64 {
    span.0.div_ceil(SECOND_NANOS)
}

/// A path without empty and `.` parts and without a trailing slash, as the engine cleans it.
#[must_use]
pub fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// An image's name with the parts that may be left out left out.
fn image(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

/// A signal's number or bare name.
fn signal(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    match bare {
        "1" => "HUP".to_owned(),
        "2" => "INT".to_owned(),
        "3" => "QUIT".to_owned(),
        "9" => "KILL".to_owned(),
        "10" => "USR1".to_owned(),
        "12" => "USR2".to_owned(),
        "15" => "TERM".to_owned(),
        other => other.to_owned(),
    }
}

/// A network in CIDR form with its host bits zero; what cannot be read stays as it is.
fn cidr(text: &str) -> String {
    text.parse::<ipnet::IpNet>().map_or_else(|_| text.to_owned(), |net| net.trunc().to_string())
}

fn port(port: &PortSpec) -> String {
    let host = port.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
    let published = port.published.map(|p| format!("{p}:")).unwrap_or_default();
    format!("{host}{published}{}/{}", port.target, port.protocol.as_str())
}

fn mount(mount: &MountSpec) -> String {
    let kind = match mount.kind {
        MountKind::Volume => "volume",
        MountKind::Bind => "bind",
        MountKind::Tmpfs => "tmpfs",
    };
    let source = mount.source.as_deref().map(|s| format!(" {s}")).unwrap_or_default();
    let options = if mount.options.is_empty() { String::new() } else { format!(" {}", text(&mount.options)) };
    format!("{kind}{source}{}{options}", if mount.read_only { " read-only" } else { "" })
}

/// A restart policy that a container has and nobody names.
pub(super) fn restart_left_over(live: Option<RestartPolicy>) -> Option<Difference> {
    let has = live.filter(|policy| *policy != RestartPolicy::No)?;
    Some(Difference::new("restart", None, restart_words(Some(has))))
}

fn restart_words(policy: Option<RestartPolicy>) -> Option<String> {
    let policy = policy?;
    let plain = serde_json::to_value(policy).ok().and_then(|v| v.as_str().map(str::to_owned));
    Some(plain.unwrap_or_else(|| text(&policy)))
}

/// A span in the largest unit that says it exactly.
pub(crate) fn span_words(span: Nanos) -> String {
    let units = [(SECOND_NANOS, "s"), (1_000_000, "ms"), (1_000, "us")];
    let exact = units.into_iter().find(|(unit, _)| span.0.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{}ns", span.0), |(unit, name)| format!("{}{name}", span.0 / unit))
}

fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<String> = items.collect();
    filled(&items.join(", "))
}

/// `text`, unless it is empty.
fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn text<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
