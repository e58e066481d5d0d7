//! What of a guest's config reaches past the guest's walls: into the node, its devices and folders, or the disks of other guests.

use super::guest::Config;
use super::keys::{self, GuestKind, Shape};
use super::property::Whose;
use super::value::{self, Normal};
use super::volume::Source;
use super::{Vmid, scalar};

/// The first thing in `config` that makes a guest more of its node than guests are, in words.
#[must_use]
pub fn asked_for(kind: GuestKind, config: &Config) -> Option<String> {
    config.iter().find_map(|(key, text)| asks(kind, key, text).then(|| format!("`{key}: {}`", crate::fault::cut(text))))
}

fn asks(kind: GuestKind, key: &str, text: &str) -> bool {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    match (kind, stem) {
        // Devices and folders of the node.
        (GuestKind::Qemu, "hostpci" | "virtiofs") => true,
        (GuestKind::Qemu, "usb") => !text.split(',').any(|part| matches!(part.trim(), "spice" | "host=spice")),
        // Without a user namespace its root is the node's.
        (GuestKind::Lxc, "unprivileged") => !scalar::boolean(text.trim()).unwrap_or(false),
        (GuestKind::Lxc, "features") => features(text),
        (_, _) => volume(kind, key, text).is_some_and(|source| matches!(source, Source::Cdrom | Source::Path(_))),
    }
}

/// Nesting alone is of the guest's own.
fn features(text: &str) -> bool {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "1"))).any(|(key, value)| key != "nesting" && value != "0")
}

fn volume(kind: GuestKind, key: &str, text: &str) -> Option<Source> {
    let shape = keys::find(kind, key).ok().map(|known| known.shape).filter(|shape| matches!(shape, Shape::Volume(_)))?;
    match value::normal(shape, text, Whose::Ours) {
        Ok(Some(Normal::Volume(volume))) => Some(volume.source),
        Ok(_) | Err(_) => None,
    }
}

/// Another guest whose disk `config` names for `vmid`, by the names that Proxmox VE gives to disks.
#[must_use]
pub fn others_disk(kind: GuestKind, vmid: Vmid, config: &Config) -> Option<Vmid> {
    config.iter().find_map(|(key, text)| match volume(kind, key, text)? {
        Source::Existing { name, .. } => owner(&name).filter(|owner| *owner != vmid),
        Source::None | Source::Cdrom | Source::New { .. } | Source::CloudInit { .. } | Source::Path(_) => None,
    })
}

/// The guest that a disk of this name belongs to: `vm-101-disk-0`, `101/vm-101-disk-0.qcow2`, `base-9000-disk-0/vm-101-disk-0`.
fn owner(name: &str) -> Option<Vmid> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let rest = ["vm-", "subvol-", "base-", "basevol-"].iter().find_map(|prefix| file.strip_prefix(prefix))?;
    Vmid::parse(rest.split('-').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(key: &str, text: &str) -> Config {
        Config::from([(key.to_owned(), text.to_owned())])
    }

    #[test]
    fn what_is_of_the_node_is_told_from_what_is_of_the_guest() {
        use GuestKind::{Lxc, Qemu};
        for (kind, key, text) in [
            (Qemu, "hostpci0", "mapping=gpu"),
            (Qemu, "virtiofs0", "share"),
            (Qemu, "usb0", "host=1-1"),
            (Qemu, "ide2", "cdrom"),
            (Lxc, "unprivileged", "0"),
            (Lxc, "features", "nesting=1,keyctl=1"),
            (Lxc, "features", "mount=nfs"),
        ] {
            assert!(asked_for(kind, &config(key, text)).is_some(), "{key}: {text}");
        }
        for (kind, key, text) in [
            (Qemu, "usb0", "spice,usb3=1"),
            (Qemu, "ide2", "local:iso/d.iso,media=cdrom"),
            (Qemu, "scsi0", "local-lvm:8"),
            (Qemu, "memory", "2048"),
            (Lxc, "unprivileged", "1"),
            (Lxc, "features", "nesting=1,keyctl=0"),
            (Lxc, "rootfs", "local-lvm:8"),
        ] {
            assert_eq!(asked_for(kind, &config(key, text)), None, "{key}: {text}");
        }
    }

    #[test]
    fn the_disk_of_another_guest_is_told_by_its_name() {
        let own = Vmid::parse("101").unwrap();
        for (text, other) in [
            ("local-lvm:vm-102-disk-0", Some("102")),
            ("local:102/vm-102-disk-0.qcow2", Some("102")),
            ("local-lvm:base-9000-disk-0/vm-101-disk-0", None),
            ("local-lvm:vm-101-disk-3,size=8G", None),
            ("local-lvm:8", None),
            ("local:iso/debian.iso", None),
        ] {
            let found = others_disk(GuestKind::Qemu, own, &config("scsi1", text));
            assert_eq!(found.map(|vmid| vmid.to_string()).as_deref(), other, "{text}");
        }
    }
}
