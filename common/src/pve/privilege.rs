//! What of a guest's config reaches past the guest's walls: into the node, its devices and folders, or the disks of other guests.

use std::collections::BTreeSet;

use super::formats;
use super::guest::Config;
use super::keys::{self, GuestKind, Shape};
use super::property::Whose;
use super::value::{self, Normal};
use super::volume::{IMPORT, Source, Volume};
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
        (GuestKind::Qemu, "usb") => formats::USB.read(text, Whose::Ours).is_ok_and(|usb| {
            let is_spice = usb.get("host").is_some_and(|host| host.eq_ignore_ascii_case("spice"));
            !is_spice || usb.contains_key("mapping")
        }),
        // Without a user namespace its root is the node's.
        (GuestKind::Lxc, "unprivileged") => !scalar::boolean(text.trim()).unwrap_or(false),
        (GuestKind::Lxc, "features") => features(text),
        (_, _) => volume(kind, key, text).is_some_and(|volume| matches!(volume.source, Source::Cdrom | Source::Path(_))),
    }
}

/// Nesting alone is of the guest's own.
fn features(text: &str) -> bool {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "1"))).any(|(key, value)| key != "nesting" && value != "0")
}

fn volume(kind: GuestKind, key: &str, text: &str) -> Option<Volume> {
    let shape = keys::find(kind, key).ok().map(|known| known.shape).filter(|shape| matches!(shape, Shape::Volume(_)))?;
    match value::normal(shape, text, Whose::Ours) {
        Ok(Some(Normal::Volume(volume))) => Some(volume),
        Ok(_) | Err(_) => None,
    }
}

/// The other guests whose disks `config` names for `vmid`, as its own or to be copied, by the names that Proxmox VE gives to disks.
#[must_use]
pub fn others_disks(kind: GuestKind, vmid: Vmid, config: &Config) -> BTreeSet<Vmid> {
    let named = |(key, text): (&String, &String)| {
        let Volume { source, mut options, .. } = volume(kind, key, text)?;
        let used = if let Source::Existing { name, .. } = source { Some(name) } else { None };
        Some(used.into_iter().chain(options.remove(IMPORT)))
    };
    let names = config.iter().filter_map(named).flatten();
    names.filter_map(|name| owner(name.split_once(':').map_or(name.as_str(), |(_, name)| name))).filter(|owner| *owner != vmid).collect()
}

/// The guest of which an archive is a backup, by its name: `local:backup/vzdump-qemu-101-2026_11_23-10_00_00.vma.zst`, or on a backup
/// server `pbs:backup/vm/101/…`.
///
/// Source: `parse_volname` of `PVE::Storage::Plugin` and `PVE::Storage::PBSPlugin`.
#[must_use]
pub fn archived(archive: &str) -> Option<(GuestKind, Vmid)> {
    let path = archive.split_once(':').map_or(archive, |(_, path)| path);
    let path = path.strip_prefix("backup/").unwrap_or(path);
    let (word, rest) = match path.split_once('/') {
        Some((word @ ("vm" | "ct"), rest)) => (word, rest.split('/').next()?),
        Some(_) | None => {
            let (word, rest) = path.rsplit('/').next()?.strip_prefix("vzdump-")?.split_once('-')?;
            (word, rest.split('-').next()?)
        }
    };
    let kind = match word {
        "vm" | "qemu" => GuestKind::Qemu,
        "ct" | "lxc" => GuestKind::Lxc,
        _ => return None,
    };
    Some((kind, Vmid::parse(rest).ok()?))
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
            (Qemu, "usb0", "spice,mapping=key"),
            (Qemu, "usb0", "mapping=key"),
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
            ("local-lvm:0,import-from=local-lvm:vm-102-disk-0", Some("102")),
            ("local-lvm:0,import-from=local:102/vm-102-disk-0.qcow2", Some("102")),
            ("local-lvm:0, import-from = local-lvm:vm-102-disk-0", Some("102")),
            ("local:iso/debian.iso", None),
        ] {
            let found = others_disks(GuestKind::Qemu, own, &config("scsi1", text));
            assert_eq!(found.iter().map(Vmid::to_string).collect::<Vec<_>>(), other.into_iter().collect::<Vec<_>>(), "{text}");
        }
        let mut all = config("scsi1", "local-lvm:vm-102-disk-0");
        all.extend(config("scsi2", "local-lvm:vm-103-disk-0"));
        let found = others_disks(GuestKind::Qemu, own, &all);
        assert_eq!(found.iter().map(Vmid::to_string).collect::<Vec<_>>(), ["102", "103"], "one hides no other");
    }

    #[test]
    fn the_guest_of_a_backup_is_told_by_the_archives_name() {
        for (archive, of) in [
            ("local:backup/vzdump-qemu-101-2026_11_23-10_00_00.vma.zst", Some((GuestKind::Qemu, "101"))),
            ("nas:backup/vzdump-lxc-205-2026_11_23-10_00_00.tar.zst", Some((GuestKind::Lxc, "205"))),
            ("pbs:backup/vm/101/2026-11-23T10:00:00Z", Some((GuestKind::Qemu, "101"))),
            ("pbs:backup/ct/205/2026-11-23T10:00:00Z", Some((GuestKind::Lxc, "205"))),
            // A storage may bear any name.
            ("vm:backup/vzdump-qemu-102-2026_11_23-10_00_00.vma.zst", Some((GuestKind::Qemu, "102"))),
            ("ct:backup/ct/102/2026-11-23T10:00:00Z", Some((GuestKind::Lxc, "102"))),
            ("local:backup/mine.vma.zst", None),
        ] {
            let found = archived(archive).map(|(kind, vmid)| (kind, vmid.to_string()));
            assert_eq!(found.as_ref().map(|(kind, vmid)| (*kind, vmid.as_str())), of, "{archive}");
        }
    }
}
