//! Storages and their volumes.
//!
//! Source of the names: the plugins below `PVE::Storage`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::guest::{Config, Kind};
use crate::setup::{StorageKind, StorageSetup};

/// A storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Storage {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: StorageKind,
    /// What it may hold.
    pub content: BTreeSet<String>,
    /// How large it is, in bytes.
    pub total: u64,
    /// Whether all nodes see the same.
    pub shared: bool,
    /// How many backups of a guest are kept.
    pub keep_last: Option<u32>,
    /// What is in it, by the name behind the `:`.
    pub volumes: BTreeMap<String, Volume>,
}

/// A volume: a disk, a file or a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The node on which it is; everywhere when `None`.
    pub node: Option<String>,
    /// `images`, `rootdir`, `iso`, `vztmpl`, `backup` or `snippets`.
    pub content: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whose it is.
    pub vmid: Option<u32>,
    /// Its format.
    pub format: String,
    /// Of what it is a linked copy.
    pub parent: Option<String>,
    /// Its snapshots, the oldest one first.
    pub snapshots: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub ctime_s: u64,
    /// What was noted on it.
    pub notes: Option<String>,
    /// Whether it must not be removed.
    pub protected: bool,
    /// The guest in it, of a backup.
    pub backup: Option<Backup>,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// What the guest was.
    pub kind: Kind,
    /// Its config.
    pub conf: Config,
}

/// A disk that is to be made.
pub struct NewDisk<'a> {
    /// For whom.
    pub vmid: u32,
    /// What that one is.
    pub kind: Kind,
    /// Where.
    pub node: &'a str,
    /// How large.
    pub bytes: u64,
    /// In which format, if that is asked for.
    pub format: Option<&'a str>,
    /// What stands in its name instead of `disk-0`, such as `cloudinit`.
    pub label: Option<&'a str>,
    /// When, in seconds since 1970.
    pub now_s: u64,
}

impl Storage {
    /// One as it begins.
    #[must_use]
    pub fn new(setup: &StorageSetup, now_s: u64) -> Self {
        let file = |(name, bytes): (&String, &u64)| {
            let (content, rest) = name.split_once('/').unwrap_or(("images", name));
            let format = rest.rsplit_once('.').map_or("raw", |(_, end)| end);
            let format = if content == "vztmpl" { "tzst" } else { format };
            (name.clone(), Volume::file(content, *bytes, format, now_s))
        };
        Self {
            name: setup.name.clone(),
            kind: setup.kind,
            content: setup.content.clone(),
            total: setup.total,
            shared: setup.shared,
            keep_last: setup.keep_last,
            volumes: setup.files.iter().map(file).collect(),
        }
    }

    /// How much of it is used, in bytes. A thin pool and a folder of sparse files use a quarter of what they promise.
    #[must_use]
    pub fn used(&self) -> u64 {
        let volumes = self.volumes.values().map(|volume| match (self.kind, volume.content.as_str()) {
            (StorageKind::LvmThin, _) | (StorageKind::Dir, "images" | "rootdir") => volume.bytes / 4,
            (StorageKind::Dir | StorageKind::Lvm | StorageKind::ZfsPool, _) => volume.bytes,
        });
        volumes.sum::<u64>().min(self.total)
    }

    /// Makes a disk. Its name is the first that is free.
    ///
    /// # Errors
    /// When there is no room, in the words of the tool that the host would have called.
    pub fn make(&mut self, disk: &NewDisk<'_>, is_full: bool) -> Result<String, String> {
        let format = self.format(disk);
        let name = match disk.label {
            Some(label) => self.named("vm", disk.vmid, label, &format),
            None => self.free_name(disk.vmid, disk.kind, &format),
        };
        if self.volumes.contains_key(&name) {
            return Err(format!("disk image '{}' already exists", self.path(&name)));
        }
        let is_reserved = matches!(self.kind, StorageKind::Lvm | StorageKind::ZfsPool);
        if is_full || (is_reserved && disk.bytes > self.total.saturating_sub(self.used())) {
            return Err(self.full(&name));
        }
        let content = match disk.kind {
            Kind::Qemu => "images",
            Kind::Lxc => "rootdir",
        };
        let mut volume = Volume::file(content, disk.bytes, &format, disk.now_s);
        volume.vmid = Some(disk.vmid);
        volume.node = (!self.shared).then(|| disk.node.to_owned());
        self.volumes.insert(name.clone(), volume);
        Ok(name)
    }

    fn format(&self, disk: &NewDisk<'_>) -> String {
        match (self.kind, disk.kind) {
            (StorageKind::Dir, Kind::Qemu) => {
                disk.format.unwrap_or(if disk.label == Some("cloudinit") { "qcow2" } else { "raw" }).to_owned()
            }
            (StorageKind::ZfsPool, Kind::Lxc) => "subvol".to_owned(),
            (StorageKind::Dir | StorageKind::Lvm | StorageKind::LvmThin | StorageKind::ZfsPool, Kind::Qemu | Kind::Lxc) => "raw".to_owned(),
        }
    }

    fn named(&self, prefix: &str, vmid: u32, label: &str, format: &str) -> String {
        match self.kind {
            StorageKind::Dir => format!("{vmid}/{prefix}-{vmid}-{label}.{format}"),
            StorageKind::Lvm | StorageKind::LvmThin | StorageKind::ZfsPool => format!("{prefix}-{vmid}-{label}"),
        }
    }

    /// The first name that no volume of the guest has, whatever its prefix.
    #[must_use]
    pub fn free_name(&self, vmid: u32, kind: Kind, format: &str) -> String {
        let prefix = if kind == Kind::Lxc && format == "subvol" { "subvol" } else { "vm" };
        let taken: BTreeSet<u32> = self.volumes.keys().filter_map(|name| number(name, vmid)).collect();
        let free = (0..).find(|n| !taken.contains(n)).unwrap_or(0);
        self.named(prefix, vmid, &format!("disk-{free}"), format)
    }

    /// The words of a tool that finds no room.
    #[must_use]
    pub fn full(&self, name: &str) -> String {
        match self.kind {
            StorageKind::Dir => {
                format!("unable to create image: qemu-img: {}: Could not resize file: No space left on device", self.path(name))
            }
            StorageKind::Lvm => {
                format!("lvcreate 'pve/{name}' error:   Volume group \"pve\" has insufficient free space (0 extents): 1 required.")
            }
            StorageKind::LvmThin => {
                format!("lvcreate 'pve/{name}' error:   Cannot create new thin volume, free space in thin pool pve/data reached threshold.")
            }
            StorageKind::ZfsPool => format!("zfs error: cannot create '{}/{name}': out of space", self.name),
        }
    }

    fn path(&self, name: &str) -> String {
        match self.kind {
            StorageKind::Dir => format!("/var/lib/vz/images/{name}"),
            StorageKind::Lvm | StorageKind::LvmThin => format!("/dev/pve/{name}"),
            StorageKind::ZfsPool => format!("/dev/zvol/{}/{name}", self.name),
        }
    }

    /// Makes a linked copy of a base. Source: `clone_image` of each plugin: only a thin pool's copy does not bear its base's name.
    pub fn link(&mut self, base: &str, vmid: u32, kind: Kind, now_s: u64) -> Option<String> {
        let of = self.volumes.get(base)?.clone();
        let name = match self.kind {
            StorageKind::Dir => format!("{base}/{}", self.free_name(vmid, kind, "qcow2")),
            StorageKind::ZfsPool => format!("{base}/{}", self.free_name(vmid, kind, &of.format)),
            StorageKind::Lvm | StorageKind::LvmThin => self.free_name(vmid, kind, &of.format),
        };
        let has_parent = matches!(self.kind, StorageKind::Dir | StorageKind::ZfsPool);
        let parent = has_parent.then(|| base.to_owned());
        let volume = Volume { vmid: Some(vmid), parent, snapshots: Vec::new(), ctime_s: now_s, ..of };
        self.volumes.insert(name.clone(), volume);
        Some(name)
    }

    /// Makes a base of a disk: it gets another name.
    pub fn make_base(&mut self, name: &str) -> Option<String> {
        let volume = self.volumes.remove(name)?;
        let base = name.replace("vm-", "base-").replace("subvol-", "basevol-");
        self.volumes.insert(base.clone(), volume);
        Some(base)
    }

    /// Which volume is a linked copy of this one.
    #[must_use]
    pub fn linked_to(&self, base: &str) -> Option<&String> {
        self.volumes.iter().find(|(_, volume)| volume.parent.as_deref() == Some(base)).map(|(name, _)| name)
    }

    /// Whether volumes of this format can be snapshot here.
    #[must_use]
    pub fn can_snapshot(&self, format: &str) -> bool {
        match self.kind {
            StorageKind::LvmThin | StorageKind::ZfsPool => true,
            StorageKind::Dir => format == "qcow2",
            StorageKind::Lvm => false,
        }
    }
}

impl Volume {
    fn file(content: &str, bytes: u64, format: &str, ctime_s: u64) -> Self {
        Self {
            node: None,
            content: content.to_owned(),
            bytes,
            vmid: None,
            format: format.to_owned(),
            parent: None,
            snapshots: Vec::new(),
            ctime_s,
            notes: None,
            protected: false,
            backup: None,
        }
    }

    /// A backup.
    #[must_use]
    pub fn of_backup(backup: Backup, vmid: u32, bytes: u64, format: &str, ctime_s: u64) -> Self {
        Self { vmid: Some(vmid), backup: Some(backup), ..Self::file("backup", bytes, format, ctime_s) }
    }

    /// A disk that is there from the start.
    #[must_use]
    pub fn of_disk(kind: Kind, node: &str, vmid: u32, bytes: u64, format: &str, ctime_s: u64) -> Self {
        let content = match kind {
            Kind::Qemu => "images",
            Kind::Lxc => "rootdir",
        };
        Self { node: Some(node.to_owned()), vmid: Some(vmid), ..Self::file(content, bytes, format, ctime_s) }
    }
}

/// The number of a disk of a guest.
fn number(name: &str, vmid: u32) -> Option<u32> {
    let last = name.rsplit('/').next()?;
    let rest = ["vm", "base", "subvol", "basevol"].iter().find_map(|prefix| last.strip_prefix(&format!("{prefix}-{vmid}-disk-")))?;
    rest.split('.').next()?.parse().ok()
}
