//! A guest: its config in all its sections, and whether it runs.
//!
//! Source of the file's form: `PVE::QemuServer::write_vm_config`, `PVE::LXC::Config::write_pct_config`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::normal::{drive, property, text};

/// A config, or a section of one.
pub type Config = BTreeMap<String, String>;

/// What a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl Kind {
    /// Its name in paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Qemu => "qemu",
            Kind::Lxc => "lxc",
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Qemu => "VM",
            Kind::Lxc => "CT",
        }
    }

    /// What its tasks' types begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Qemu => "qm",
            Kind::Lxc => "vz",
        }
    }

    /// The folder of configs.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Qemu => "qemu-server",
            Kind::Lxc => "lxc",
        }
    }

    /// The file that is held while a config is changed.
    #[must_use]
    pub fn lock_file(self, vmid: u32) -> String {
        match self {
            Kind::Qemu => format!("/var/lock/qemu-server/lock-{vmid}.conf"),
            Kind::Lxc => format!("/run/lock/lxc/pve-config-{vmid}.lock"),
        }
    }

    /// Whether a key is that of a volume in use.
    #[must_use]
    pub fn is_drive(self, key: &str) -> bool {
        match self {
            Kind::Qemu => drive::is_machine_drive(key),
            Kind::Lxc => drive::is_container_drive(key),
        }
    }
}

/// Whether it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It does not.
    Stopped,
    /// It does, since then.
    Running {
        /// In milliseconds since 1970.
        since_ms: u64,
    },
    /// A virtual machine whose processors were halted.
    Paused {
        /// Since when it runs, in milliseconds since 1970.
        since_ms: u64,
    },
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its number.
    pub vmid: u32,
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub node: String,
    /// Its config. While it runs, this is what it runs with.
    pub conf: Config,
    /// What will be when it starts anew. Under `delete` stands what will be gone.
    pub pending: Config,
    /// Its snapshots.
    pub snapshots: BTreeMap<String, Config>,
    /// Whether it runs.
    pub power: Power,
    /// How long it takes to shut down when it is asked to; never when `None`.
    pub shutdown_ms: Option<u64>,
    /// Counts guests, so that a new one of the same number is told from the old one.
    pub incarnation: u64,
}

impl Guest {
    /// A machine with Windows gets the version of what it runs on, unless one was named. Source: `windows_get_pinned_machine_version`.
    pub fn pin_machine(&mut self) {
        if !self.conf.get("ostype").is_some_and(|os| os.starts_with('w')) {
            return;
        }
        let mut all = property::map(self.conf.get("machine").map_or("", String::as_str), "type");
        let kind = all.remove("type").unwrap_or_else(|| "pc".to_owned());
        let pinned = match kind.as_str() {
            "pc" => "pc-i440fx-9.2+pve1",
            "q35" => "pc-q35-9.2+pve1",
            "virt" => "virt-9.2+pve1",
            other => other,
        };
        self.conf.insert("machine".to_owned(), property::print(pinned, &[], &all));
    }

    /// Whether it runs, paused or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match self.power {
            Power::Stopped => false,
            Power::Running { .. } | Power::Paused { .. } => true,
        }
    }

    /// Whether it is a template.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.is_set("template")
    }

    /// Whether a key says yes.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.conf.get(key).is_some_and(|value| value == "1")
    }

    /// Its lock.
    #[must_use]
    pub fn lock(&self) -> Option<&str> {
        self.conf.get("lock").map(String::as_str)
    }

    /// What is to be deleted, and whether by force.
    #[must_use]
    pub fn pending_deletes(&self) -> BTreeMap<String, bool> {
        let list = self.pending.get("delete").map(String::as_str).unwrap_or_default();
        let words = list.split([',', ';', ' ']).filter(|word| !word.is_empty());
        words.map(|word| word.strip_prefix('!').map_or((word.to_owned(), false), |key| (key.to_owned(), true))).collect()
    }

    /// The same, written.
    pub fn set_pending_deletes(&mut self, all: &BTreeMap<String, bool>) {
        if all.is_empty() {
            self.pending.remove("delete");
        } else {
            let words = all.iter().map(|(key, force)| if *force { format!("!{key}") } else { key.clone() });
            self.pending.insert("delete".to_owned(), words.collect::<Vec<_>>().join(","));
        }
    }

    /// The config with what is pending taken in. Source: `PVE::AbstractConfig::load_current_config`.
    #[must_use]
    pub fn merged(&self) -> Config {
        let mut all = self.conf.clone();
        all.extend(self.pending.iter().filter(|(key, _)| *key != "delete").map(|(key, value)| (key.clone(), value.clone())));
        for key in self.pending_deletes().keys() {
            // What is false in Perl's eyes is left there.
            if all.get(key).is_some_and(|value| value != "0") {
                all.remove(key);
            }
        }
        all
    }

    /// What changes whenever anything of the file does: config, pending changes and snapshots.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hex = hex::encode(Sha256::digest(self.file().as_bytes()));
        hex.truncate(40);
        hex
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> String {
        let mut all = section(&self.conf);
        if !self.pending.is_empty() {
            all.push_str(match self.kind {
                Kind::Qemu => "\n[PENDING]\n",
                Kind::Lxc => "\n[pve:pending]\n",
            });
            all.push_str(&section(&self.pending));
        }
        for (name, snapshot) in &self.snapshots {
            all.push_str(&format!("\n[{name}]\n{}", section(snapshot)));
        }
        all
    }

    /// A description as it is read back, or nothing.
    #[must_use]
    pub fn described(&self, description: &str) -> Option<String> {
        match self.kind {
            Kind::Qemu => text::machine_description(description),
            Kind::Lxc => text::container_description(description),
        }
    }

    /// Its name, or what stands for one. Source: `PVE::QemuServer::vmstatus`, `PVE::LXC::vmstatus`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Qemu => self.conf.get("name").cloned().unwrap_or_else(|| format!("VM {}", self.vmid)),
            Kind::Lxc => self.conf.get("hostname").cloned().unwrap_or_else(|| format!("CT{}", self.vmid)),
        }
    }

    /// Every volume that its config names, in any section, with the key.
    pub fn volumes(&self) -> impl Iterator<Item = (String, String)> {
        let sections = std::iter::once(&self.conf).chain(std::iter::once(&self.pending)).chain(self.snapshots.values());
        let kind = self.kind;
        let volumes = sections.flat_map(move |section| {
            section.iter().filter_map(move |(key, value)| {
                let is_volume = kind.is_drive(key) || drive::is_unused(key) || key == "vmstate";
                let drive = is_volume.then(|| drive::Drive::parse(value)).flatten()?;
                drive.volume()?;
                (!drive.is_cdrom() || drive.is_cloudinit()).then(|| (key.clone(), drive.file.clone()))
            })
        });
        volumes.collect::<Vec<_>>().into_iter()
    }
}

fn section(config: &Config) -> String {
    let mut text = String::new();
    for line in config.get("description").map(String::as_str).unwrap_or_default().split('\n') {
        text.push_str(&format!("#{}\n", line.replace('%', "%25").replace(':', "%3A")));
    }
    for (key, value) in config.iter().filter(|(key, _)| *key != "description") {
        text.push_str(&format!("{key}: {value}\n"));
    }
    text
}
