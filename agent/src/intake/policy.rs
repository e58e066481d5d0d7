//! What a slice may take from the host: paths below the allowed folders, and never the engine itself.
//!
//! Pure but for [`Resolve`], which is handed in. A list of what is allowed: whatever it doesn't know is denied.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::TopologyId;
use moorline_common::plan::guest::note_key;
use moorline_common::plan::lower::{container_names, network_name, volume_name};
use moorline_common::pve::{Vmid, privilege};
use moorline_common::topology::options::Logging;
use moorline_common::topology::{GuestSpec, HostSpec, MountKind, MountOptions, Options, ServiceSpec, VolumeSpec};

use crate::config::Policy;

/// Tells where a path leads when symbolic links are followed, as far as it exists; `None` when that cannot be told.
pub type Resolve = fn(&Path) -> Option<PathBuf>;

/// [`Resolve`] by the file system of this host.
///
/// The engine follows links that the agent may not look at. So only what is surely not there yet may be missing.
#[must_use]
pub fn resolve(path: &Path) -> Option<PathBuf> {
    let mut rest = Vec::new();
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(real) => return Some(rest.iter().rev().fold(real, |path: PathBuf, name| path.join(name))),
            Err(error) if error.kind() != ErrorKind::NotFound => return None,
            // A link to what does not exist yet: it may exist when the engine follows it.
            Err(_) if existing.symlink_metadata().is_ok() => return None,
            Err(_) => {}
        }
        rest.push(existing.file_name()?.to_owned());
        existing = existing.parent()?;
    }
}

/// What no container gets, unless the policy file names that very path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guarded {
    /// The paths of the engine's socket, symbolic links resolved and not.
    pub engine_sockets: Vec<PathBuf>,
    /// The agent's own folders: its state, and the files with secrets.
    pub folders: Vec<PathBuf>,
}

/// Checks everything that `spec` would take from the host.
///
/// # Errors
/// [`Code::PolicyDenied`] with what would have to stand in the policy file.
pub fn check(topology: &TopologyId, spec: &HostSpec, policy: &Policy, guarded: &Guarded, resolve: Resolve) -> Result<(), Fault> {
    let check = Check { policy, guarded, resolve };
    for (vmid, guest) in spec.guests() {
        check.guest(vmid, guest)?;
    }
    let Some(docker) = &spec.docker else { return Ok(()) };
    for (name, network) in docker.networks.iter().filter(|(_, network)| network.external || network.adopt.is_some()) {
        let on_engine = network_name(topology, name, Some(network));
        // By these names an engine means namespaces: the host's among them.
        if ENGINE_NETWORKS.contains(&on_engine.as_str()) {
            let why = format!("network `{name}`: `{on_engine}` is a network of the engine's own, which no slice uses by its name");
            return Err(Fault::new(Code::PolicyDenied, why));
        }
        check.outside(&on_engine, &format!("network `{name}`"))?;
    }
    for (name, volume) in docker.volumes.iter().filter(|(_, volume)| volume.external || volume.adopt.is_some()) {
        check.outside(&volume_name(topology, name, volume), &format!("volume `{name}`"))?;
    }
    for (name, service) in &docker.services {
        for on_engine in container_names(topology, name, service).filter(|_| service.adopt.is_some()) {
            check.outside(&on_engine, &format!("service `{name}`"))?;
        }
        check.options(&docker.services, &service.options, &format!("service `{name}`"))?;
        for mount in service.volumes.values().filter(|m| m.kind == MountKind::Bind) {
            check.path(mount.source.as_deref().unwrap_or_default(), &format!("service `{name}`"))?;
            check.mount_options(&mount.options, &format!("service `{name}`"))?;
        }
    }
    for (name, volume) in &docker.volumes {
        check.volume(volume, &format!("volume `{name}`"))?;
    }
    Ok(())
}

/// Names that are no networks of anybody's.
const ENGINE_NETWORKS: [&str; 4] = ["bridge", "default", "host", "none"];

struct Check<'a> {
    policy: &'a Policy,
    guarded: &'a Guarded,
    resolve: Resolve,
}

impl Check<'_> {
    /// What is there without Moorline is somebody else's: a slice uses or takes over only what the host gives away.
    fn outside(&self, on_engine: &str, who: &str) -> Result<(), Fault> {
        let allows = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => on_engine.starts_with(beginning),
            None => on_engine == pattern,
        };
        if self.policy.outside.iter().any(allows) {
            return Ok(());
        }
        let why = format!("{who}: `{}` is not Moorline's, and not among the names in `outside` of this host's policy file", cut(on_engine));
        Err(Fault::new(Code::PolicyDenied, why))
    }

    /// What makes a guest more of its node than guests are: class P. Disks of other guests are theirs.
    fn guest(&self, vmid: Vmid, guest: &GuestSpec) -> Result<(), Fault> {
        let who = format!("guest {vmid}");
        if guest.adopt.is_some() {
            self.outside(&note_key(vmid), &who)?;
        }
        for other in privilege::others_disks(guest.kind, vmid, &guest.config) {
            self.outside(&note_key(other), &format!("{who}, for a disk of guest {other}"))?;
        }
        let archived = guest.from.as_ref().and_then(|from| privilege::archived(from.archive.as_deref()?));
        if let Some((_, other)) = archived.filter(|(_, other)| *other != vmid) {
            self.outside(&note_key(other), &format!("{who}, for a backup of guest {other}"))?;
        }
        match privilege::asked_for(guest.kind, &guest.config) {
            Some(what) if !self.policy.privileged => denied(&who, &what, "privileged = true"),
            Some(_) | None => Ok(()),
        }
    }

    /// The engine's `local` driver hands its options to mount(2): they can reach anything on the host.
    fn volume(&self, volume: &VolumeSpec, who: &str) -> Result<(), Fault> {
        let denied = |why: String| Err(Fault::new(Code::PolicyDenied, format!("{who}: {why}")));
        if let Some(driver) = volume.driver.as_deref().filter(|d| !d.is_empty() && *d != "local") {
            if self.policy.volume_drivers.iter().any(|d| d == driver) {
                return Ok(());
            }
            return denied(format!("driver `{driver}` is not among the `volume_drivers` of this host's policy file"));
        }
        let option = |key: &str| volume.driver_opts.get(key).map_or("", String::as_str);
        if let Some(key) = volume.driver_opts.keys().find(|k| !["type", "o", "device", "size"].contains(&k.as_str())) {
            return denied(format!("this host does not know the option `{key}` of the `local` driver"));
        }
        let (kind, device) = (option("type"), option("device"));
        let flags: Vec<&str> = option("o").split(',').map(str::trim).collect();
        if let Some(flag) = flags.iter().find(|f| ["remount", "move"].contains(f)) {
            return denied(format!("a volume may not be mounted with `{flag}`"));
        }
        if flags.iter().any(|f| ["bind", "rbind"].contains(f)) {
            // Whatever the type says, the kernel binds the device.
            return self.path(device, who);
        }
        let allowed = match kind {
            "" => device.is_empty() && option("o").is_empty(),
            "tmpfs" => true,
            "none" | "bind" => return denied(format!("type `{kind}` needs `bind` among the options `o`")),
            other => self.policy.volume_types.iter().any(|t| t == other),
        };
        if allowed {
            return Ok(());
        }
        denied(format!("type `{kind}` is not among the `volume_types` of this host's policy file"))
    }

    /// What makes a container more of the host, or of another's containers, than containers are: class P. A slice need not come
    /// from our own reader: a word that is not known here is denied.
    fn options(&self, services: &BTreeMap<String, ServiceSpec>, options: &Options, who: &str) -> Result<(), Fault> {
        self.rights(options, who)?;
        let none = &[][..];
        let modes = [
            Namespace { name: "network", key: "network_mode", mode: &options.network_mode, harmless: &["none", "bridge"], may_join: true },
            Namespace { name: "pid", key: "pid", mode: &options.pid, harmless: none, may_join: true },
            Namespace { name: "ipc", key: "ipc", mode: &options.ipc, harmless: &["private", "shareable", "none"], may_join: true },
            Namespace { name: "uts", key: "uts", mode: &options.uts, harmless: none, may_join: false },
            Namespace { name: "user", key: "userns_mode", mode: &options.userns_mode, harmless: none, may_join: false },
            Namespace { name: "cgroup", key: "cgroup", mode: &options.cgroup, harmless: &["private"], may_join: false },
        ];
        for Namespace { name, key, mode, harmless, may_join } in modes {
            let Some(mode) = mode.as_deref() else { continue };
            let is_own = may_join && mode.strip_prefix("service:").is_some_and(|service| services.contains_key(service));
            if is_own || harmless.contains(&mode) {
                continue;
            }
            if mode != "host" {
                return Err(Fault::new(Code::PolicyDenied, format!("{who} asks for `{key}: {}`, which no host allows", cut(mode))));
            }
            if !self.policy.host_namespaces.iter().any(|own| own == name) {
                return denied(who, &format!("the host's {name} namespace"), &format!("host_namespaces = [\"{name}\"]"));
            }
        }
        if options.cgroup_parent.is_some() && !self.policy.host_namespaces.iter().any(|own| own == "cgroup") {
            return denied(who, "a control group of the host's", "host_namespaces = [\"cgroup\"]");
        }
        self.logging(options.logging.as_ref(), who)
    }

    /// Capabilities, devices and what the host's security modules do.
    fn rights(&self, options: &Options, who: &str) -> Result<(), Fault> {
        let policy = self.policy;
        if options.privileged == Some(true) && !policy.privileged {
            return denied(who, "`privileged`", "privileged = true");
        }
        let added = options.cap_add.iter().flatten().map(|cap| bare(cap)).filter(|cap| !is_usual(cap));
        // The kernel, too, asks for that capability.
        let spared = options.oom_kill_disable == Some(true) || options.oom_score_adj.is_some_and(|score| score < 0);
        let spared = spared.then(|| "SYS_RESOURCE".to_owned());
        let allowed = |cap: &str| policy.capabilities.iter().map(|own| bare(own)).any(|own| own == "ALL" || own == cap);
        if let Some(cap) = added.chain(spared).find(|cap| !allowed(cap)) {
            return denied(who, &format!("the capability {cap}"), &format!("capabilities = [\"{cap}\"]"));
        }
        if let Some(device) = options.devices.iter().flatten().find(|d| !policy.devices.iter().any(|own| own == Path::new(&d.source))) {
            return denied(who, &format!("the device `{}`", device.source), &format!("devices = [\"{}\"]", device.source));
        }
        if let Some(rule) = options.device_cgroup_rules.iter().flatten().find(|_| !policy.privileged) {
            return denied(who, &format!("the device rule `{rule}`"), "privileged = true");
        }
        let allowed = |opt: &String| {
            policy.security_opts.iter().any(|own| *opt == if own.contains('=') { own.clone() } else { own.replacen(':', "=", 1) })
        };
        let opts = options.security_opt.iter().flat_map(|opts| &opts.0);
        if let Some(opt) = opts.into_iter().find(|opt| *opt != "no-new-privileges=true" && !allowed(opt)) {
            return denied(who, &format!("the security option `{opt}`"), &format!("security_opts = [\"{opt}\"]"));
        }
        match options.runtime.as_ref().filter(|runtime| !policy.runtimes.contains(runtime)) {
            Some(runtime) => denied(who, &format!("the runtime `{runtime}`"), &format!("runtimes = [\"{runtime}\"]")),
            None => Ok(()),
        }
    }

    /// The engine itself writes and dials where a logging driver is told to, with the rights of the host's root.
    fn logging(&self, logging: Option<&Logging>, who: &str) -> Result<(), Fault> {
        let Some(Logging { driver, options }) = logging else { return Ok(()) };
        let name = driver.as_deref().unwrap_or("json-file");
        if self.policy.log_drivers.iter().any(|own| own == name) {
            return Ok(());
        }
        let remedy = format!("log_drivers = [\"{name}\"]");
        if !["json-file", "local", "none"].contains(&name) {
            return denied(who, &format!("the logging driver `{name}`"), &remedy);
        }
        match options.keys().find(|key| !LOG_OPTIONS.contains(&key.as_str())) {
            Some(key) => denied(who, &format!("the option `{key}` of the logging driver `{name}`"), &remedy),
            None => Ok(()),
        }
    }

    /// What is mounted below a shared path in a container is mounted on the host as well.
    fn mount_options(&self, options: &MountOptions, who: &str) -> Result<(), Fault> {
        let propagation = options.propagation.as_deref().unwrap_or("rprivate");
        let is_shared = matches!(propagation, "shared" | "rshared");
        if is_shared && !self.policy.host_namespaces.iter().any(|own| own == "mount") {
            return denied(who, &format!("a mount with the propagation `{propagation}`"), "host_namespaces = [\"mount\"]");
        }
        // They become words of one text for the engine.
        let is_known = is_shared || matches!(propagation, "private" | "rprivate" | "slave" | "rslave");
        match options.selinux.as_deref() {
            None | Some("z" | "Z") if is_known => Ok(()),
            label => {
                let what = label.unwrap_or(propagation);
                Err(Fault::new(Code::PolicyDenied, format!("{who} asks for a mount with `{}`, which no host allows", cut(what))))
            }
        }
    }

    fn path(&self, source: &str, who: &str) -> Result<(), Fault> {
        let denied = |why: &str| Err(Fault::new(Code::PolicyDenied, format!("{who} may not mount `{source}`: {why}")));
        let source = Path::new(source);
        let plain = source.is_absolute() && source.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !plain {
            return denied("it is no plain absolute path");
        }
        let Some(real) = (self.resolve)(source) else {
            return denied("the agent cannot tell where it leads; let it see every folder above and give links a target");
        };
        let is_engine = |path: &Path| {
            self.guarded.engine_sockets.iter().any(|s| s.starts_with(path) || (self.resolve)(s).is_some_and(|s| s.starts_with(path)))
                || path.file_name().is_some_and(|n| n == "docker.sock")
        };
        if (is_engine(source) || is_engine(&real)) && !self.policy.bind_roots.iter().any(|root| root == source) {
            return denied("it holds the engine's socket");
        }
        // What is in them, and what they are in.
        let meets = |path: &Path, own: &Path| own.starts_with(path) || path.starts_with(own);
        let is_own = |path: &Path| {
            self.guarded.folders.iter().any(|own| meets(path, own) || (self.resolve)(own).is_some_and(|own| meets(path, &own)))
        };
        if (is_own(source) || is_own(&real)) && !self.policy.bind_roots.iter().any(|root| root == source) {
            return denied("it holds the agent's own files, or is one of them");
        }
        if !self.policy.bind_roots.iter().any(|root| (self.resolve)(root).is_some_and(|root| real.starts_with(root))) {
            return denied("it is outside the `bind_roots` of this host's policy file");
        }
        Ok(())
    }
}

/// What a service says about one of its namespaces.
struct Namespace<'a> {
    /// As the policy file calls it.
    name: &'static str,
    key: &'static str,
    mode: &'a Option<String>,
    /// Words that concern nobody else.
    harmless: &'static [&'static str],
    /// Whether it may be that of another service of the slice.
    may_join: bool,
}

fn denied(who: &str, what: &str, remedy: &str) -> Result<(), Fault> {
    let message = format!("{who} asks for {what}; this host's policy file would have to say `{remedy}`");
    Err(Fault::new(Code::PolicyDenied, message))
}

/// What the drivers `json-file` and `local` can be told; nothing of it leads elsewhere.
const LOG_OPTIONS: [&str; 10] =
    ["compress", "env", "env-regex", "labels", "labels-regex", "max-buffer-size", "max-file", "max-size", "mode", "tag"];

/// A capability without its prefix.
fn bare(cap: &str) -> String {
    let upper = cap.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

/// Whether the engine gives every container this capability.
/// <https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities>
fn is_usual(cap: &str) -> bool {
    const USUAL: [&str; 14] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    USUAL.contains(&cap)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HOST_NAMESPACES;

    fn edge() -> TopologyId {
        TopologyId::parse("edge").unwrap()
    }

    fn denies(policy: &Policy, volume: Value) -> bool {
        let spec: HostSpec = serde_json::from_value(json!({ "docker": { "volumes": { "v": volume } } })).unwrap();
        check(&edge(), &spec, policy, &Guarded { engine_sockets: vec!["/run/docker.sock".into()], ..Guarded::default() }, resolve)
            .is_err_and(|f| f.code == Code::PolicyDenied)
    }

    #[test]
    fn what_is_not_moorlines_is_used_and_taken_over_only_when_the_host_gives_it_away() {
        let ask = |docker: Value, outside: &[&str]| {
            let policy = Policy { outside: outside.iter().map(|name| (*name).to_owned()).collect(), ..Policy::default() };
            let spec = serde_json::from_value(json!({ "docker": docker })).unwrap();
            check(&edge(), &spec, &policy, &Guarded::default(), resolve).map_err(|fault| fault.code)
        };
        let id = "a".repeat(64);
        let asked = [
            (json!({ "networks": { "shop": { "external": true } } }), "shop"),
            (json!({ "networks": { "front": { "external": true, "name": "shop" } } }), "shop"),
            (json!({ "networks": { "front": { "adopt": id, "name": "shop" } } }), "shop"),
            (json!({ "volumes": { "shop": { "external": true } } }), "shop"),
            (json!({ "volumes": { "data": { "adopt": "shop", "name": "shop" } } }), "shop"),
            (json!({ "services": { "web": { "image": "i", "container_name": "shop", "adopt": id } } }), "shop"),
            // Without a name of their own they bear the topology's, and that is what counts.
            (json!({ "networks": { "shop": { "adopt": id } } }), "edge_shop"),
            (json!({ "volumes": { "shop": { "adopt": "edge_shop" } } }), "edge_shop"),
            (json!({ "services": { "shop": { "image": "i", "adopt": id } } }), "edge-shop-1"),
        ];
        for (docker, name) in asked {
            let is_prefixed = name.starts_with("edge");
            let (beginning, longer) = if is_prefixed { ("edg*", "shop") } else { ("sh*", "shops") };
            for outside in [&[][..], &["sho"], &[longer], &["sh"], &["aaa*"]] {
                assert_eq!(ask(docker.clone(), outside), Err(Code::PolicyDenied), "{docker} with {outside:?}");
            }
            for outside in [&[name][..], &["*"], &[beginning], &["x", beginning]] {
                assert_eq!(ask(docker.clone(), outside), Ok(()), "{docker} with {outside:?}");
            }
        }
        let own = json!({ "networks": { "a": { "name": "shop" } }, "volumes": { "a": { "name": "shop" } },
            "services": { "web": { "image": "i", "container_name": "shop" } } });
        assert_eq!(ask(own, &[]), Ok(()), "a name is no right to what bears it");
        let several = json!({ "services": { "web": { "image": "i", "container_name": "shop", "replicas": 2, "adopt": id } } });
        assert_eq!(ask(several.clone(), &["shop"]), Err(Code::PolicyDenied), "every container counts");
        assert_eq!(ask(several, &["shop", "edge-web-2"]), Ok(()));
        for own in ["host", "none", "bridge", "default"] {
            let network = json!({ "networks": { "x": { "external": true, "name": own } } });
            assert_eq!(ask(network, &["*"]), Err(Code::PolicyDenied), "{own} is a namespace and no network");
        }
    }

    #[test]
    fn a_guest_is_no_more_of_its_node_or_of_other_guests_than_the_policy_says() {
        let asks = |policy: &Policy, guest: Value| {
            let spec = serde_json::from_value(json!({ "proxmox": { "guests": { "101": guest } } })).unwrap();
            check(&edge(), &spec, policy, &Guarded::default(), resolve).map_err(|fault| fault.message)
        };
        let wide = Policy { privileged: true, outside: vec!["guest/10*".to_owned()], ..Policy::default() };
        for (guest, remedy) in [
            (json!({ "type": "qemu", "config": { "hostpci0": "mapping=gpu" } }), "privileged = true"),
            (json!({ "type": "lxc", "config": { "unprivileged": "0" } }), "privileged = true"),
            (json!({ "type": "qemu", "adopt": "vm:x" }), "`guest/101`"),
            (json!({ "type": "qemu", "config": { "scsi1": "local-lvm:vm-102-disk-0" } }), "`guest/102`"),
            (json!({ "type": "qemu", "config": { "scsi1": "local-lvm:0,import-from=local-lvm:vm-102-disk-0" } }), "`guest/102`"),
            (json!({ "type": "qemu", "from": { "archive": "local:backup/vzdump-qemu-102-2026_11_23-10_00_00.vma.zst" } }), "`guest/102`"),
        ] {
            let refused = asks(&Policy::default(), guest.clone()).unwrap_err();
            assert!(refused.contains(remedy), "{guest}: {refused}");
            assert_eq!(asks(&wide, guest), Ok(()));
        }
        let own = json!({ "type": "qemu", "config": { "scsi0": "local-lvm:8", "ide2": "local:iso/d.iso,media=cdrom" } });
        assert_eq!(asks(&Policy::default(), own), Ok(()));
    }

    #[test]
    fn a_container_is_no_more_of_the_host_than_the_policy_says() {
        let asks = |policy: &Policy, options: Value| {
            let services = json!({ "s": { "image": "i", "options": options }, "db": { "image": "i" } });
            let spec = serde_json::from_value(json!({ "docker": { "services": services } })).unwrap();
            check(&edge(), &spec, policy, &Guarded::default(), resolve)
        };
        let wide = Policy {
            privileged: true,
            capabilities: vec!["net_admin".to_owned(), "CAP_ALL".to_owned()],
            log_drivers: vec!["syslog".to_owned(), "json-file".to_owned()],
            devices: vec!["/dev/kvm".into()],
            host_namespaces: HOST_NAMESPACES.map(str::to_owned).into(),
            security_opts: vec!["seccomp:unconfined".to_owned()],
            runtimes: vec!["runsc".to_owned()],
            ..Policy::default()
        };
        let device = |source: &str| json!({ "devices": [{ "source": source, "target": "/dev/x", "permissions": "r" }] });
        for options in [
            json!({ "privileged": true }),
            json!({ "cap_add": ["CAP_CHOWN", "CAP_NET_ADMIN"] }),
            json!({ "cap_add": ["ALL"] }),
            device("/dev/kvm"),
            json!({ "device_cgroup_rules": ["a *:* rwm"] }),
            json!({ "network_mode": "host" }),
            json!({ "pid": "host" }),
            json!({ "ipc": "host" }),
            json!({ "uts": "host" }),
            json!({ "userns_mode": "host" }),
            json!({ "cgroup": "host" }),
            json!({ "cgroup_parent": "system.slice" }),
            json!({ "security_opt": ["seccomp=unconfined"] }),
            json!({ "runtime": "runsc" }),
            json!({ "oom_score_adj": -1 }),
            json!({ "oom_kill_disable": true }),
            json!({ "logging": { "driver": "syslog", "options": { "syslog-address": "unix:///run/any.sock" } } }),
            json!({ "logging": { "options": { "anything": "x" } } }),
        ] {
            let refused = asks(&Policy::default(), options.clone()).unwrap_err();
            assert_eq!(refused.code, Code::PolicyDenied, "{options}");
            assert!(refused.message.contains("service `s` asks for") && refused.message.contains(" = "), "{refused:?}");
            assert_eq!(asks(&wide, options.clone()), Ok(()), "{options}");
        }
        // No policy allows what is not of this slice, or not known.
        for key in ["network_mode", "pid", "ipc", "uts", "userns_mode", "cgroup"] {
            for mode in ["container:portainer", "service:nobody", "another_network", "", "Host", "service:"] {
                assert!(asks(&wide, json!({ key: mode })).is_err(), "{key}: {mode}");
            }
        }
        for options in [device("/dev/mem"), json!({ "security_opt": ["label=disable"] }), json!({ "runtime": "kata" })] {
            assert!(asks(&wide, options.clone()).is_err(), "{options}");
        }
        for options in [
            json!({ "privileged": false, "cap_drop": ["ALL"], "cap_add": ["CAP_NET_BIND_SERVICE"], "ipc": "shareable", "oom_score_adj": 9 }),
            json!({ "logging": { "driver": "local", "options": { "max-size": "1m" } } }),
            json!({ "network_mode": "service:db", "security_opt": ["no-new-privileges=true"], "cgroup": "private" }),
        ] {
            assert_eq!(asks(&Policy::default(), options), Ok(()));
        }
    }

    #[test]
    fn what_is_mounted_in_a_container_shows_up_on_the_host_only_where_the_policy_says_so() {
        let asks = |policy: &Policy, options: Value| {
            let mount = json!({ "type": "bind", "source": "/srv/moorline/a", "options": options });
            let spec = json!({ "docker": { "services": { "s": { "image": "i", "volumes": { "/a": mount } } } } });
            check(&edge(), &serde_json::from_value(spec).unwrap(), policy, &Guarded::default(), resolve)
        };
        let wide = Policy { host_namespaces: vec!["mount".to_owned()], ..Policy::default() };
        for word in ["shared", "rshared"] {
            let refused = asks(&Policy::default(), json!({ "propagation": word })).unwrap_err();
            assert!(refused.message.contains("host_namespaces = [\"mount\"]"), "{refused}");
            assert_eq!(asks(&wide, json!({ "propagation": word })), Ok(()));
        }
        for options in [json!({ "propagation": "z,rshared" }), json!({ "propagation": "" }), json!({ "selinux": "z,rshared" })] {
            assert!(asks(&wide, options.clone()).is_err(), "{options}");
        }
        for options in [json!({}), json!({ "propagation": "rslave", "selinux": "Z" }), json!({ "create_host_path": false })] {
            assert_eq!(asks(&Policy::default(), options), Ok(()));
        }
    }

    #[test]
    fn a_volume_mounts_nothing_that_the_policy_does_not_name() {
        let policy = Policy::default();
        for allowed in [
            json!({}),
            json!({ "driver": "local" }),
            json!({ "driver_opts": { "type": "tmpfs", "device": "tmpfs", "o": "size=10m,uid=7" } }),
            json!({ "driver_opts": { "type": "none", "o": "ro,bind", "device": "/srv/moorline/data" } }),
        ] {
            assert!(!denies(&policy, allowed.clone()), "{allowed}");
        }
        for denied in [
            json!({ "driver": "sshfs" }),
            json!({ "driver_opts": { "type": "overlay", "device": "overlay", "o": "lowerdir=/etc" } }),
            json!({ "driver_opts": { "type": "proc", "device": "proc" } }),
            json!({ "driver_opts": { "type": "ext4", "device": "/dev/sda1" } }),
            json!({ "driver_opts": { "type": "none", "o": "bind", "device": "etc" } }),
            json!({ "driver_opts": { "type": "none", "o": "bind", "device": "/srv/moorline/../etc" } }),
            json!({ "driver_opts": { "type": "none", "o": "rbind", "device": "/etc" } }),
            json!({ "driver_opts": { "type": "tmpfs", "o": "bind", "device": "/etc" } }),
            json!({ "driver_opts": { "o": "bind", "device": "/etc" } }),
            json!({ "driver_opts": { "type": "none", "o": "remount,bind", "device": "/srv/moorline/data" } }),
            json!({ "driver_opts": { "type": "none", "device": "/srv/moorline/data" } }),
            json!({ "driver_opts": { "device": "/etc" } }),
            json!({ "driver_opts": { "type": "nfs", "o": "addr=10.0.0.1", "device": ":/export" } }),
            json!({ "driver_opts": { "mountpoint": "/etc" } }),
        ] {
            assert!(denies(&policy, denied.clone()), "{denied}");
        }
        let wider = Policy { volume_drivers: vec!["sshfs".to_owned()], volume_types: vec!["nfs".to_owned()], ..policy };
        assert!(!denies(&wider, json!({ "driver": "sshfs", "driver_opts": { "sshcmd": "x" } })));
        assert!(!denies(&wider, json!({ "driver_opts": { "type": "nfs", "o": "addr=10.0.0.1", "device": ":/export" } })));
        assert!(denies(&wider, json!({ "driver_opts": { "type": "nfs", "o": "bind", "device": "/etc" } })));
    }

    #[test]
    fn a_symbolic_link_leads_nowhere_outside_the_allowed_folders() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("allowed");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::os::unix::fs::symlink(&root, dir.path().join("link")).unwrap();
        let policy = Policy { bind_roots: vec![dir.path().join("link")], ..Policy::default() };
        let bind = |path: PathBuf| json!({ "driver_opts": { "type": "none", "o": "bind", "device": path } });
        assert!(denies(&policy, bind(root.join("out/ssh"))));
        assert!(!denies(&policy, bind(root.join("not/there/yet"))));
        assert!(!denies(&policy, bind(dir.path().join("link/data"))), "the allowed folder may itself be a link");
        assert!(denies(&policy, bind(root.join("docker.sock"))));
    }
    #[test]
    fn a_path_that_cannot_be_followed_is_denied() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("allowed");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        symlink("/nowhere/at/all", root.join("dangling")).unwrap();
        symlink(root.join("loop"), root.join("loop")).unwrap();
        let policy = Policy { bind_roots: vec![root.clone()], ..Policy::default() };
        let bind = |name: &str| json!({ "driver_opts": { "type": "none", "o": "bind", "device": root.join(name) } });
        assert!(!denies(&policy, bind("new/data")));
        let long = "x".repeat(300);
        for name in ["dangling", "dangling/data", "loop", "loop/data", "file/data", long.as_str()] {
            assert!(denies(&policy, bind(name)), "{name}");
        }
        let loose = Policy { bind_roots: vec![root.join("dangling")], ..policy };
        assert!(denies(&loose, bind("dangling/data")), "an allowed folder that leads nowhere allows nothing");
    }

    /// What an agent that is not root sees of a folder of root's, with a link in it that only the engine can follow.
    #[test]
    fn a_link_in_a_folder_that_the_agent_may_not_enter_is_denied() {
        fn forbidden(path: &Path) -> Option<PathBuf> {
            if path.ends_with("secret/out") { None } else { resolve(path) }
        }
        let spec = json!({ "docker": { "volumes": { "v": { "driver_opts": { "o": "bind", "device": "/srv/moorline/secret/out" } } } } });
        let spec: HostSpec = serde_json::from_value(spec).unwrap();
        let fault = check(&edge(), &spec, &Policy::default(), &Guarded::default(), forbidden).unwrap_err();
        assert!(fault.code == Code::PolicyDenied && fault.message.contains("cannot tell"), "{fault}");
    }

    #[test]
    fn no_container_gets_the_agents_own_files_by_a_path_or_a_volume() {
        fn same(path: &Path) -> Option<PathBuf> {
            Some(if path.starts_with("/link") {
                Path::new("/run/agent").join(path.strip_prefix("/link").unwrap())
            } else {
                path.to_owned()
            })
        }
        let guarded = Guarded { folders: vec!["/run/agent/secrets".into(), "/var/lib/agent".into()], ..Guarded::default() };
        let policy = Policy { bind_roots: vec!["/run".into(), "/var".into(), "/link".into()], ..Policy::default() };
        let asks = |policy: &Policy, source: &str| {
            let spec = serde_json::json!({ "docker": { "services": { "a": { "image": "i", "volumes": { "/x": { "type": "bind", "source": source } } } } } });
            let volume = serde_json::json!({ "docker": { "volumes": { "v": { "driver_opts": { "type": "none", "o": "bind", "device": source } } } } });
            [spec, volume].map(|spec| check(&edge(), &serde_json::from_value(spec).unwrap(), policy, &guarded, same).map_err(|f| f.message))
        };
        for source in
            ["/run/agent", "/run/agent/secrets", "/run/agent/secrets/h/f", "/var/lib", "/var/lib/agent/identity.json", "/link/secrets"]
        {
            for asked in asks(&policy, source) {
                assert!(
                    asked.as_ref().is_err_and(|why| why.contains("the agent's own files") || why.contains("bind_roots")),
                    "{source}: {asked:?}"
                );
            }
        }
        assert!(asks(&policy, "/run/agent/secrets-of-another").iter().all(Result::is_ok));
        let named = Policy { bind_roots: vec!["/run/agent/secrets".into()], ..policy };
        assert!(asks(&named, "/run/agent/secrets").iter().all(Result::is_ok), "an administrator may name that very path");
    }
}
