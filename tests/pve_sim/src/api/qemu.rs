//! Changing the config of a virtual machine.
//!
//! Source: `update_vm_api` in `PVE::API2::Qemu`; `vmconfig_hotplug_pending`, `vmconfig_apply_pending` in `PVE::QemuServer`.

use std::collections::BTreeMap;

use super::drives::{boot_devices, make_drive};
use super::{Change, Fail, check_lock, check_protection, pending, permissions};
use crate::normal::drive::{Drive, is_machine_drive, is_unused, split};
use crate::normal::net::Card;
use crate::normal::property;
use crate::world::World;
use crate::world::access::is_root;
use crate::world::effects::EffectKind;
use crate::world::guest::{Config, Guest, Kind};

/// What is checked early, and again when the file is held.
pub(crate) fn check(guest: &Guest, change: &Change) -> Result<(), Fail> {
    if change.digest.as_ref().is_some_and(|digest| !digest.is_empty() && *digest != guest.digest()) {
        return Err(Fail::die("checksum mismatch (file change by other user?)"));
    }
    if !change.skiplock {
        check_lock(guest).map_err(Fail::die)?;
    }
    let now = guest.merged();
    let wanted = |key: &str| change.set.get(key).or_else(|| now.get(key)).map(|text| megabytes(text));
    if (change.set.contains_key("memory") || change.set.contains_key("balloon"))
        && wanted("balloon").is_some_and(|balloon| balloon > wanted("memory").unwrap_or(512))
    {
        return Err(Fail::die("balloon value too large (must be smaller than assigned memory)"));
    }
    Ok(())
}

fn megabytes(text: &str) -> u64 {
    property::map(text, "current").get("current").and_then(|n| n.parse().ok()).unwrap_or(512)
}

/// Applies a change, in the time and with the file of who asks.
pub(crate) fn apply(world: &mut World, vmid: u32, change: &Change) -> Result<(), Fail> {
    let Some(guest) = world.guests.get(&vmid) else { return Err(Fail::die(format!("no such VM ('{vmid}')"))) };
    check(guest, change)?;
    let (mut set, mut delete) = (change.set.clone(), change.delete.clone());
    for key in &change.revert {
        if let Some(value) = guest.conf.get(key) {
            set.insert(key.clone(), value.clone());
        } else if guest.pending.contains_key(key) {
            delete.push(key.clone());
        }
    }
    for key in &delete {
        delete_key(world, vmid, key, change)?;
    }
    for (key, value) in &set {
        set_key(world, vmid, key, value, &set, change)?;
    }
    let is_running = world.edit(vmid, |guest| {
        pending::clean_up(guest);
        guest.is_running()
    });
    let errors = if is_running == Some(true) { plug(world, vmid, &set, &delete) } else { apply_pending(world, vmid) };
    world.tidy(vmid);
    if errors.is_empty() { Ok(()) } else { Err(Fail::bads(errors)) }
}

fn delete_key(world: &mut World, vmid: u32, key: &str, change: &Change) -> Result<(), Fail> {
    let Some(guest) = world.guests.get_mut(&vmid) else { return Ok(()) };
    let is_pending = guest.pending.contains_key(key);
    let Some(value) = guest.conf.get(key).or_else(|| guest.pending.get(key)).cloned() else {
        // It only warns: "cannot delete 'x' - not set in current configuration!".
        return Ok(());
    };
    guest.pending.remove(key);
    let boot = guest.conf.get("boot").map(|boot| boot_devices(boot)).unwrap_or_default();
    if boot.iter().any(|device| device == key) {
        let rest: Vec<String> = boot.into_iter().filter(|device| device != key).collect();
        guest.pending.insert("boot".to_owned(), format!("order={}", rest.join(";")));
    }
    if is_unused(key) {
        check_protection(guest, &format!("can't remove unused disk '{value}'")).map_err(Fail::die)?;
        permissions::check_vm(world, &change.who, vmid, None, &["VM.Config.Disk"])?;
        return free_unused(world, vmid, key, &value, &change.who);
    }
    if is_machine_drive(key) {
        check_protection(guest, &format!("can't remove drive '{key}'")).map_err(Fail::die)?;
        permissions::check_drive(world, &change.who, vmid, &value)?;
        if is_pending && let Some(drive) = Drive::parse(&value) {
            world.let_go(vmid, &drive);
        }
    } else if key == "tags" {
        permissions::check_vm(world, &change.who, vmid, None, &["VM.Config.Options"])?;
        world.edit(vmid, |guest| guest.conf.remove("tags"));
        world.effect(vmid, EffectKind::ConfigDeleted, key);
        return Ok(());
    } else {
        let one = Config::from([(key.to_owned(), value)]);
        permissions::check_devices(world, &change.who, vmid, None, &one)?;
        permissions::check_bridges(world, &change.who, &one)?;
    }
    world.edit(vmid, |guest| pending::add_delete(guest, key, change.force));
    world.effect(vmid, EffectKind::ConfigDeleted, key);
    Ok(())
}

fn free_unused(world: &mut World, vmid: u32, key: &str, volid: &str, who: &str) -> Result<(), Fail> {
    let Some((storage, name)) = volid.split_once(':') else { return Ok(()) };
    let owner = world.storages.get(storage).and_then(|storage| storage.volumes.get(name)).and_then(|volume| volume.vmid);
    if owner == Some(vmid) {
        world.check(who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        if world.is_in_use(vmid, key, volid) {
            return Err(Fail::die(format!("unable to delete '{volid}' - volume is still in use (snapshot?)")));
        }
        world.free(vmid, volid);
    }
    world.edit(vmid, |guest| guest.conf.remove(key));
    world.effect(vmid, EffectKind::ConfigDeleted, key);
    Ok(())
}

fn set_key(world: &mut World, vmid: u32, key: &str, value: &str, set: &Config, change: &Change) -> Result<(), Fail> {
    let Some(guest) = world.guests.get(&vmid) else { return Ok(()) };
    if guest.pending.get(key).is_some_and(|pending| pending == value) {
        return Ok(());
    }
    let before = guest.conf.get(key).cloned();
    let mut kept = value.to_owned();
    if is_machine_drive(key) {
        kept = set_drive(world, vmid, key, value, before.as_deref(), change)?;
    } else if matches!(split(key), ("serial" | "usb" | "hostpci" | "virtiofs", Some(_))) {
        let old = before.map(|before| Config::from([(key.to_owned(), before)])).unwrap_or_default();
        permissions::check_devices(world, &change.who, vmid, None, &old)?;
        permissions::check_devices(world, &change.who, vmid, None, &Config::from([(key.to_owned(), value.to_owned())]))?;
    } else if key == "tags" {
        permissions::check_vm(world, &change.who, vmid, None, &["VM.Config.Options"])?;
        kept = world.tags(value);
    } else if key == "cipassword" {
        // Kept as a hash, and never shown.
        let hash = if value.starts_with('$') { value.to_owned() } else { format!("$5$simulated${:016x}", world.random.number()) };
        world.edit(vmid, |guest| guest.conf.insert(key.to_owned(), hash));
        world.effect(vmid, EffectKind::ConfigSet, key);
        return Ok(());
    } else if key == "boot" {
        check_boot(guest, value, set, &change.delete)?;
    } else if key == "description" {
        kept = guest.described(value).unwrap_or_default();
    } else if is_unused(key) && !is_root(&change.who) && super::drives::size_of(world, value).is_none() {
        return Err(Fail::bad(key, format!("not a valid volid: {value}")));
    }
    world.edit(vmid, |guest| {
        if kept.is_empty() {
            // What reads the file finds nothing behind such a key.
            guest.pending.remove(key);
            guest.conf.remove(key);
        } else {
            guest.pending.insert(key.to_owned(), kept);
        }
        pending::drop_delete(guest, key);
    });
    world.effect(vmid, EffectKind::ConfigSet, key);
    Ok(())
}

fn set_drive(world: &mut World, vmid: u32, key: &str, value: &str, before: Option<&str>, change: &Change) -> Result<String, Fail> {
    if let Some(before) = before {
        permissions::check_drive(world, &change.who, vmid, before)?;
    }
    permissions::check_drive(world, &change.who, vmid, value)?;
    let waiting = world.guests.get(&vmid).and_then(|guest| guest.pending.get(key)).and_then(|value| Drive::parse(value));
    if let Some(drive) = waiting {
        world.let_go(vmid, &drive);
    }
    let kept = make_drive(world, vmid, Kind::Qemu, key, value, None).map_err(Fail::die)?;
    let is_medium = Drive::parse(&kept).is_some_and(|drive| drive.is_cdrom() && !drive.is_cloudinit());
    world.edit(vmid, |guest| {
        let mut order = guest.conf.get("boot").map(|boot| boot_devices(boot)).unwrap_or_default();
        // A new drive with a medium can be started from.
        if is_medium && !order.is_empty() && !order.iter().any(|device| device == key) {
            order.push(key.to_owned());
            guest.pending.insert("boot".to_owned(), format!("order={}", order.join(";")));
        }
    });
    Ok(kept)
}

fn check_boot(guest: &Guest, value: &str, set: &Config, deleted: &[String]) -> Result<(), Fail> {
    for device in boot_devices(value) {
        let is_there = guest.conf.contains_key(&device) || guest.pending.contains_key(&device) || set.contains_key(&device);
        if !is_there || deleted.contains(&device) {
            return Err(Fail::die(format!("invalid bootorder: device '{device}' does not exist'")));
        }
    }
    Ok(())
}

/// Keys that a running machine does not notice.
const FAST: [&str; 19] = [
    "description",
    "hookscript",
    "lock",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "protection",
    "shares",
    "startup",
    "tags",
    "vmstatestorage",
    "cicustom",
    "cipassword",
    "citype",
    "ciuser",
    "ciupgrade",
    "sshkeys",
    "nameserver",
];

fn is_fast(key: &str) -> bool {
    FAST.contains(&key) || key == "searchdomain" || matches!(split(key), ("ipconfig", Some(_)))
}

/// Applies to a running machine what it takes while it runs; the rest waits.
fn plug(world: &mut World, vmid: u32, set: &Config, delete: &[String]) -> BTreeMap<String, String> {
    let Some(guest) = world.guests.get(&vmid) else { return BTreeMap::new() };
    let features = guest.conf.get("hotplug").cloned().unwrap_or_else(|| "1".to_owned());
    let features = if features == "1" { "network,disk,usb".to_owned() } else { features };
    let has = |feature: &str| features.split(',').any(|word| word == feature);
    let waiting: Vec<(String, String)> =
        guest.pending.iter().filter(|(key, _)| *key != "delete").map(|(k, v)| (k.clone(), v.clone())).collect();
    let deletes = guest.pending_deletes();
    for (key, force) in deletes.into_iter().filter(|(key, _)| delete.contains(key)) {
        let Some(guest) = world.guests.get(&vmid) else { continue };
        let is_taken = match split(&key) {
            _ if is_fast(&key) => true,
            ("usb", Some(_)) => has("usb") && guest.conf.get("ostype").is_some_and(|os| os == "l26"),
            ("net", Some(_)) => has("network"),
            ("scsi" | "virtio", Some(_)) => has("disk"),
            ("tablet", None) => has("usb"),
            ("vcpus", None) => has("cpu"),
            ("memory", None) => has("memory"),
            ("cpuunits" | "cpulimit", None) => true,
            ("balloon", None) => guest.conf.get("balloon").is_none_or(|balloon| balloon != "0"),
            ("hotplug", None) => !features.contains("cpu") && !features.contains("memory"),
            _ => false,
        };
        if is_taken {
            take_away(world, vmid, &key, force);
        }
    }
    let mut errors = BTreeMap::new();
    for (key, value) in waiting {
        let is_selected = is_fast(&key) || set.contains_key(&key) || key == "boot";
        let Some(guest) = world.guests.get(&vmid).filter(|_| is_selected) else { continue };
        match takes(guest, &key, &value, &has) {
            Ok(true) => swap(world, vmid, &key, &value),
            Ok(false) => {}
            Err(words) => drop(errors.insert(key, format!("hotplug problem - {words}"))),
        }
    }
    errors
}

/// Whether a running machine takes a new value.
fn takes(guest: &Guest, key: &str, value: &str, has: &impl Fn(&str) -> bool) -> Result<bool, String> {
    let old = guest.conf.get(key);
    Ok(match split(key) {
        _ if is_fast(key) => true,
        ("net", Some(_)) => {
            let cards = old.and_then(|old| Card::parse(old)).zip(Card::parse(value));
            has("network") || cards.is_some_and(|(old, new)| old.is_changed_in_place_by(&new))
        }
        ("usb", Some(_)) => has("usb") && guest.conf.get("ostype").is_some_and(|os| os == "l26"),
        ("efidisk" | "tpmstate", Some(_)) => false,
        _ if is_machine_drive(key) => takes_drive(old, key, value, has("disk"))?,
        ("tablet", None) => has("usb"),
        ("vcpus", None) => has("cpu"),
        ("memory", None) => has("memory"),
        ("cpuunits" | "cpulimit", None) => true,
        // Its driver cannot come or go.
        ("balloon", None) => old.is_none_or(|old| old != "0") == (value != "0"),
        ("hotplug", None) => !value.contains("memory") && !value.contains("cpu") && !has("memory") && !has("cpu"),
        ("agent", None) => old.is_some_and(|old| {
            let but_trim = |text: &str| {
                let mut all = property::map(text, "enabled");
                all.remove("fstrim_cloned_disks");
                all
            };
            but_trim(old) == but_trim(value)
        }),
        _ => false,
    })
}

/// Options of a disk that only a new start changes.
const COLD: [&str; 9] = ["aio", "discard", "iothread", "queues", "product", "cache", "ssd", "vendor", "ro"];

fn takes_drive(old: Option<&String>, key: &str, value: &str, can_plug: bool) -> Result<bool, String> {
    let Some(new) = Drive::parse(value) else { return Ok(false) };
    let is_slow = matches!(split(key).0, "ide" | "sata");
    let Some(old) = old.and_then(|old| Drive::parse(old)) else { return Ok(can_plug && !is_slow) };
    if old.is_cdrom() != new.is_cdrom() {
        return Err("unable to change media type\n".trim_end().to_owned());
    }
    if old.is_cdrom() {
        return Ok(true);
    }
    if old.file != new.file {
        return Ok(can_plug && !is_slow);
    }
    Ok(COLD.iter().all(|option| old.rest.get(*option) == new.rest.get(*option)))
}

fn swap(world: &mut World, vmid: u32, key: &str, value: &str) {
    let before =
        world.guests.get(&vmid).and_then(|guest| guest.conf.get(key)).filter(|_| is_machine_drive(key)).and_then(|old| Drive::parse(old));
    let is_same = before.as_ref().zip(Drive::parse(value)).is_some_and(|(old, new)| old.file == new.file);
    if let Some(before) = before.filter(|_| !is_same) {
        world.let_go(vmid, &before);
    }
    world.edit(vmid, |guest| {
        guest.pending.remove(key);
        guest.conf.insert(key.to_owned(), value.to_owned());
    });
}

fn take_away(world: &mut World, vmid: u32, key: &str, force: bool) {
    let drive = world
        .guests
        .get(&vmid)
        .and_then(|guest| guest.conf.get(key))
        .filter(|_| is_machine_drive(key))
        .and_then(|value| Drive::parse(value));
    world.edit(vmid, |guest| {
        guest.conf.remove(key);
        pending::drop_delete(guest, key);
    });
    if let Some(drive) = drive {
        if force && !drive.is_cdrom() && !world.is_in_use(vmid, key, &drive.file) {
            world.free(vmid, &drive.file);
        } else {
            world.let_go(vmid, &drive);
        }
    }
}

/// Applies everything that waits. Also done when a machine starts.
pub(crate) fn apply_pending(world: &mut World, vmid: u32) -> BTreeMap<String, String> {
    let Some(guest) = world.guests.get(&vmid) else { return BTreeMap::new() };
    for (key, force) in guest.pending_deletes() {
        take_away(world, vmid, &key, force);
    }
    world.edit(vmid, pending::clean_up);
    let waiting: Vec<(String, String)> = match world.guests.get(&vmid) {
        Some(guest) => guest.pending.iter().filter(|(key, _)| *key != "delete").map(|(k, v)| (k.clone(), v.clone())).collect(),
        None => Vec::new(),
    };
    for (key, value) in waiting {
        swap(world, vmid, &key, &value);
    }
    BTreeMap::new()
}
