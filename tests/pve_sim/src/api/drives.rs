//! Making and attaching volumes for keys of a config.
//!
//! Source: `create_disks` in `PVE::API2::Qemu` and in `PVE::LXC`.

use crate::normal::drive::Drive;
use crate::normal::property;
use crate::setup::StorageKind;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::{Config, Kind};
use crate::world::storage::NewDisk;

/// The value of a drive's key as it is kept: a volume that is to be made is made, one that is there gets its true size.
pub(crate) fn make_drive(
    world: &mut World,
    vmid: u32,
    kind: Kind,
    key: &str,
    value: &str,
    default: Option<&str>,
) -> Result<String, String> {
    let mut drive = Drive::parse(value).ok_or("unable to parse drive options")?;
    if drive.file.starts_with('/') {
        return Ok(drive.print());
    }
    if drive.file == "none" || drive.file == "cdrom" {
        drive.rest.remove("size");
        return Ok(drive.print());
    }
    if drive.file == "cloudinit" || drive.file.ends_with(":cloudinit") {
        return cloudinit(world, vmid, key, drive, default);
    }
    let Some(wish) = drive.wish() else { return attach(world, drive) };
    let storage = wish.storage.or_else(|| default.map(str::to_owned)).ok_or("no storage ID specified (and no default storage)")?;
    let kind_of = world.storages.get(&storage).map(|storage| storage.kind).ok_or_else(|| format!("storage '{storage}' does not exist"))?;
    let import = drive.rest.remove("import-from");
    let imported = import
        .as_deref()
        .map(|from| size_of(world, from).ok_or_else(|| format!("cannot import from '{from}' - volume {from} does not exist")));
    let bytes = match (key, imported) {
        (_, Some(size)) => size?,
        ("efidisk0", None) => efi_size(kind_of, &drive),
        ("tpmstate0", None) => 4 << 20,
        (_, None) => wish.bytes,
    };
    if key == "efidisk0" && import.is_none() && drive.rest.get("pre-enrolled-keys").is_some_and(|yes| yes == "1") {
        // What it enrolled, it notes. Source: `PVE::QemuServer::OVMF::create_efidisk`.
        drive.rest.insert("ms-cert".to_owned(), "2023k".to_owned());
    }
    let format = drive.rest.remove("format");
    let volid = make_volume(world, vmid, kind, &storage, bytes, format.as_deref(), None)?;
    drive.file = volid;
    drive.set_size(bytes);
    Ok(drive.print())
}

/// The variables of the firmware are 528 KiB, rounded up to what the storage counts in.
fn efi_size(storage: StorageKind, drive: &Drive) -> u64 {
    let is_large = drive.rest.get("efitype").is_some_and(|kind| kind == "4m");
    match storage {
        StorageKind::Lvm | StorageKind::LvmThin => 4 << 20,
        StorageKind::ZfsPool => 1 << 20,
        StorageKind::Dir => (if is_large { 528 } else { 128 }) << 10,
    }
}

/// Makes a volume and returns its full name.
pub(crate) fn make_volume(
    world: &mut World,
    vmid: u32,
    kind: Kind,
    storage: &str,
    bytes: u64,
    format: Option<&str>,
    label: Option<&str>,
) -> Result<String, String> {
    let is_full = world.faults.storage_full.contains(storage);
    let node = world.guests.get(&vmid).map_or_else(|| world.first_node(), |guest| guest.node.clone());
    let now_s = world.now_ms / 1000;
    let found = world.storages.get_mut(storage).ok_or_else(|| format!("storage '{storage}' does not exist"))?;
    let name = found.make(&NewDisk { vmid, kind, node: &node, bytes, format, label, now_s }, is_full)?;
    let volid = format!("{storage}:{name}");
    world.effect(vmid, EffectKind::VolumeMade, &volid);
    Ok(volid)
}

fn cloudinit(world: &mut World, vmid: u32, key: &str, mut drive: Drive, default: Option<&str>) -> Result<String, String> {
    let storage = drive.volume().map(|(storage, _)| storage.to_owned()).or_else(|| default.map(str::to_owned));
    let storage = storage.ok_or("no storage ID specified (and no default storage)")?;
    let guest = world.guests.get(&vmid);
    let is_other = |(other, value): (&String, &String)| {
        let is_it = other != key && Kind::Qemu.is_drive(other) && Drive::parse(value).is_some_and(|drive| drive.is_cloudinit());
        is_it.then(|| other.clone())
    };
    let there = guest.and_then(|guest| guest.conf.iter().chain(&guest.pending).find_map(is_other));
    if let Some(other) = there {
        return Err(format!("{key} - cloud-init drive is already attached at '{other}'"));
    }
    let format = drive.rest.remove("format");
    drive.file = make_volume(world, vmid, Kind::Qemu, &storage, 4 << 20, format.as_deref(), Some("cloudinit"))?;
    drive.rest.insert("media".to_owned(), "cdrom".to_owned());
    Ok(drive.print())
}

fn attach(world: &World, mut drive: Drive) -> Result<String, String> {
    let Some((storage, name)) = drive.volume() else { return Err(format!("unable to parse volume ID '{}'", drive.file)) };
    let known = world.storages.get(storage).ok_or_else(|| format!("storage '{storage}' does not exist"))?;
    let Some(volume) = known.volumes.get(name) else {
        return Err(match known.kind {
            StorageKind::Lvm | StorageKind::LvmThin => format!("no such logical volume pve/{name}"),
            StorageKind::Dir | StorageKind::ZfsPool => format!("volume '{}' does not exist", drive.file),
        });
    };
    drive.rest.remove("format");
    drive.set_size(volume.bytes);
    Ok(drive.print())
}

/// The size of a volume.
pub(crate) fn size_of(world: &World, volid: &str) -> Option<u64> {
    let (storage, name) = volid.split_once(':')?;
    world.storages.get(storage)?.volumes.get(name).map(|volume| volume.bytes)
}

/// The devices from which a new machine starts: its first disk, its first drive with a medium, its first card.
/// Source: `PVE::QemuServer::get_default_bootdevices`.
pub(crate) fn default_boot(config: &Config) -> Option<String> {
    let families = [("ide", 4), ("scsi", 31), ("virtio", 16), ("sata", 6)];
    let all = || families.iter().flat_map(|(stem, count)| (0..*count).map(move |n| format!("{stem}{n}")));
    let is = |key: &String, wants_medium: bool| {
        config.get(key).and_then(|value| Drive::parse(value)).is_some_and(|drive| drive.is_cdrom() == wants_medium && !drive.is_cloudinit())
    };
    let devices = [
        all().find(|key| is(key, false)),
        all().find(|key| is(key, true)),
        (0..32).map(|n| format!("net{n}")).find(|key| config.contains_key(key)),
    ];
    let devices: Vec<String> = devices.into_iter().flatten().collect();
    (!devices.is_empty()).then(|| format!("order={}", devices.join(";")))
}

/// The devices of a boot order.
pub(crate) fn boot_devices(boot: &str) -> Vec<String> {
    let order = property::map(boot, "legacy").get("order").cloned().unwrap_or_default();
    order.split(';').filter(|device| !device.is_empty()).map(str::to_owned).collect()
}
