//! Disks and mount points: `volume,option=…`.

use std::collections::BTreeMap;

use super::property::{flag, map, print};
use super::text;

const FLAGS: [&str; 13] = [
    "backup",
    "replicate",
    "ssd",
    "iothread",
    "snapshot",
    "detect_zeroes",
    "ro",
    "shared",
    "pre-enrolled-keys",
    "quota",
    "acl",
    "scsiblock",
    "keepattrs",
];

/// One of them, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drive {
    /// The volume; `none`, `cdrom`, a path, or a form that makes a new one.
    pub file: String,
    /// The options.
    pub rest: BTreeMap<String, String>,
}

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where; the default storage when empty.
    pub storage: Option<String>,
    /// How large, in bytes.
    pub bytes: u64,
}

impl Drive {
    /// Reads one; nothing without a volume.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = map(text, "file");
        // `volume` is the same of a container's.
        let volume = rest.remove("volume");
        let file = rest.remove("file").or(volume).filter(|file| !file.is_empty())?;
        for key in FLAGS {
            if let Some(value) = rest.get_mut(key) {
                *value = flag(value);
            }
        }
        if let Some(bytes) = rest.get("size").and_then(|size| text::bytes(size)) {
            rest.insert("size".to_owned(), text::size(bytes));
        }
        Some(Self { file, rest })
    }

    /// Writes it, as a disk of a virtual machine or a mount point of a container.
    #[must_use]
    pub fn print(&self) -> String {
        print(&self.file, &["mp"], &self.rest)
    }

    /// Storage and name of its volume.
    #[must_use]
    pub fn volume(&self) -> Option<(&str, &str)> {
        if self.file.starts_with('/') {
            return None;
        }
        self.file.split_once(':').filter(|(_, name)| !name.is_empty())
    }

    /// What is to be made for it: `storage:8`. Source: `PVE::QemuServer::Drive::NEW_DISK_RE`.
    #[must_use]
    pub fn wish(&self) -> Option<Wish> {
        let (storage, gib) = match self.file.split_once(':') {
            Some((storage, gib)) => (Some(storage.to_owned()), gib),
            None => (None, self.file.as_str()),
        };
        let bytes = text::scaled(gib, 1 << 30)?;
        // Allocation counts in KiB.
        Some(Wish { storage, bytes: bytes.div_ceil(1024) * 1024 })
    }

    /// Whether it is a drive with a medium in it.
    #[must_use]
    pub fn is_cdrom(&self) -> bool {
        self.rest.get("media").is_some_and(|media| media == "cdrom") || self.file == "none" || self.file == "cdrom"
    }

    /// Whether it is the drive of cloud-init, there or to be made.
    #[must_use]
    pub fn is_cloudinit(&self) -> bool {
        self.volume().is_some_and(|(_, name)| {
            let last = name.rsplit('/').next().unwrap_or(name);
            last == "cloudinit" || (last.starts_with("vm-") && last.contains("-cloudinit"))
        })
    }

    /// The size that is written on it, in bytes.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.rest.get("size").and_then(|size| text::bytes(size))
    }

    /// The same with a size.
    pub fn set_size(&mut self, bytes: u64) {
        self.rest.insert("size".to_owned(), text::size(bytes));
    }
}

/// Whether a key of a virtual machine is a drive's.
#[must_use]
pub fn is_machine_drive(key: &str) -> bool {
    let (stem, number) = split(key);
    match stem {
        "ide" => number.is_some_and(|n| n < 4),
        "sata" => number.is_some_and(|n| n < 6),
        "scsi" => number.is_some_and(|n| n < 31),
        "virtio" => number.is_some_and(|n| n < 16),
        "efidisk" | "tpmstate" => number == Some(0),
        _ => false,
    }
}

/// Whether a key of a container is a volume's.
#[must_use]
pub fn is_container_drive(key: &str) -> bool {
    key == "rootfs" || matches!(split(key), ("mp", Some(n)) if n < 256)
}

/// Whether a key is that of a volume that nothing uses any more.
#[must_use]
pub fn is_unused(key: &str) -> bool {
    matches!(split(key), ("unused", Some(n)) if n < 256)
}

/// A key's family and number.
#[must_use]
pub fn split(key: &str) -> (&str, Option<u32>) {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, key.get(stem.len()..).and_then(|number| number.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_written_with_the_volume_first_and_sizes_in_the_largest_unit() {
        let drive = Drive::parse("ssd=on,file=local-lvm:vm-101-disk-0,size=8192M,discard=on").unwrap();
        assert_eq!(drive.print(), "local-lvm:vm-101-disk-0,discard=on,size=8G,ssd=1");
        let mount = Drive::parse("local-lvm:vm-205-disk-1,size=4G,backup=yes,mp=/data").unwrap();
        assert_eq!(mount.print(), "local-lvm:vm-205-disk-1,mp=/data,backup=1,size=4G");
    }

    #[test]
    fn what_is_to_be_made_is_told_from_what_is_there() {
        let wish = |text: &str| Drive::parse(text).unwrap().wish();
        assert_eq!(wish("local-lvm:8,ssd=1"), Some(Wish { storage: Some("local-lvm".into()), bytes: 8 << 30 }));
        assert_eq!(wish("0.5"), Some(Wish { storage: None, bytes: 512 << 20 }));
        assert_eq!(wish("local-lvm:vm-101-disk-0"), None);
        assert_eq!(wish("none,media=cdrom"), None);
        assert!(Drive::parse("local-lvm:cloudinit").unwrap().is_cloudinit());
        assert!(Drive::parse("local:101/vm-101-cloudinit.qcow2,media=cdrom").unwrap().is_cloudinit());
        assert!(is_machine_drive("scsi30") && !is_machine_drive("scsi31") && !is_machine_drive("scsihw") && !is_machine_drive("ide4"));
        assert!(is_container_drive("rootfs") && is_container_drive("mp9") && is_unused("unused0"));
    }
}
