//! Changing the config of a container.
//!
//! Source: `update_pct_config`, `vmconfig_hotplug_pending` and `vmconfig_apply_pending` in `PVE::LXC::Config`.

use std::collections::{BTreeMap, BTreeSet};

use super::drives::{make_drive, size_of};
use super::{Change, Fail, check_lock, check_protection, pending};
use crate::normal::drive::{Drive, is_container_drive, is_unused, split};
use crate::normal::net;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::{Guest, Kind};

/// What is checked when the file is held; a worker is never asked.
pub(crate) fn check(guest: &Guest, change: &Change) -> Result<(), Fail> {
    check_lock(guest).map_err(Fail::die)?;
    if change.digest.as_ref().is_some_and(|digest| !digest.is_empty() && *digest != guest.digest()) {
        return Err(Fail::die("detected modified configuration - file changed by other user? Try again."));
    }
    Ok(())
}

/// Applies a change.
pub(crate) fn apply(world: &mut World, vmid: u32, change: &Change) -> Result<(), Fail> {
    let Some(guest) = world.guests.get(&vmid) else { return Err(Fail::die(format!("no such CT ('{vmid}')"))) };
    check(guest, change)?;
    let mut next = guest.clone();
    for key in &change.revert {
        next.pending.remove(key);
        pending::drop_delete(&mut next, key);
    }
    let mut modified = BTreeSet::new();
    for key in &change.delete {
        if next.conf.contains_key(key) || next.pending.contains_key(key) {
            modified.insert(key.clone());
            delete_key(&mut next, key)?;
        }
    }
    for (key, value) in &change.set {
        modified.insert(key.clone());
        let value = value_of(world, &next, key, value)?;
        if value.is_empty() {
            next.conf.remove(key);
        } else {
            next.pending.insert(key.clone(), value);
        }
        pending::drop_delete(&mut next, key);
    }
    pending::clean_up(&mut next);
    let is_running = next.is_running();
    world.guests.insert(vmid, next);
    for key in &change.delete {
        if modified.contains(key) {
            world.effect(vmid, EffectKind::ConfigDeleted, key);
        }
    }
    for key in change.set.keys() {
        world.effect(vmid, EffectKind::ConfigSet, key);
    }
    let errors = apply_pending(world, vmid, Some(&modified), is_running);
    world.tidy(vmid);
    if errors.is_empty() { Ok(()) } else { Err(Fail::bads(errors)) }
}

fn delete_key(guest: &mut Guest, key: &str) -> Result<(), Fail> {
    let vmid = guest.vmid;
    match key {
        "memory" | "rootfs" | "ostype" => return Err(Fail::die(format!("unable to delete required option '{key}'"))),
        "unprivileged" => return Err(Fail::die(format!("unable to delete read-only option: '{key}'"))),
        _ => {}
    }
    if is_unused(key) || is_container_drive(key) {
        check_protection(guest, &format!("can't remove CT {vmid} drive '{key}'")).map_err(Fail::die)?;
    }
    pending::add_delete(guest, key, false);
    Ok(())
}

fn value_of(world: &World, guest: &Guest, key: &str, value: &str) -> Result<String, Fail> {
    if is_container_drive(key) {
        check_protection(guest, &format!("can't update CT {} drive '{key}'", guest.vmid)).map_err(Fail::die)?;
        let drive = Drive::parse(value).ok_or_else(|| Fail::die(format!("unable to parse '{value}'")))?;
        let storage = drive.wish().and_then(|wish| wish.storage).or_else(|| drive.volume().map(|(storage, _)| storage.to_owned()));
        if let Some(name) = storage {
            let known = world.storages.get(&name).ok_or_else(|| Fail::die(format!("storage '{name}' does not exist")))?;
            if !known.content.contains("rootdir") {
                return Err(Fail::die(format!("storage '{name}' does not allow content type 'rootdir' (Container)")));
            }
        }
        return Ok(value.to_owned());
    }
    match key {
        "unprivileged" => Err(Fail::die(format!("unable to modify read-only option: '{key}'"))),
        "tags" => Ok(world.tags(value)),
        "description" => Ok(guest.described(value).unwrap_or_default()),
        "nameserver" | "searchdomain" => Ok(value.split([',', ';', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")),
        _ => Ok(value.to_owned()),
    }
}

/// Keys that a running container does not notice, or takes at once.
const FAST: [&str; 9] = ["description", "onboot", "startup", "protection", "hostname", "hookscript", "cores", "tags", "lock"];

/// Applies what waits: all of it to a container that is stopped, and to one that runs what it takes.
pub(crate) fn apply_pending(world: &mut World, vmid: u32, only: Option<&BTreeSet<String>>, is_running: bool) -> BTreeMap<String, String> {
    let is_wanted = |key: &String| only.is_none_or(|only| only.contains(key));
    let deletes = world.guests.get(&vmid).map(Guest::pending_deletes).unwrap_or_default();
    let mut errors = BTreeMap::new();
    for key in deletes.into_keys().filter(is_wanted) {
        let is_taken = !is_running
            || FAST.contains(&key.as_str())
            || matches!(key.as_str(), "swap" | "cpulimit" | "cpuunits")
            || is_unused(&key)
            || matches!(split(&key), ("net", Some(n)) if n < 10);
        if is_taken {
            take_away(world, vmid, &key);
        }
    }
    world.edit(vmid, pending::clean_up);
    let waiting: Vec<(String, String)> = match world.guests.get(&vmid) {
        Some(guest) => {
            guest.pending.iter().filter(|(key, _)| *key != "delete" && is_wanted(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        None => Vec::new(),
    };
    for (key, value) in waiting {
        let is_new = world.guests.get(&vmid).is_some_and(|guest| !guest.conf.contains_key(&key));
        let is_taken = !is_running
            || FAST.contains(&key.as_str())
            || matches!(key.as_str(), "cpulimit" | "cpuunits" | "memory" | "swap")
            || matches!(split(&key), ("net", Some(_)))
            || (matches!(split(&key), ("mp" | "dev", Some(_))) && is_new);
        if !is_taken {
            continue;
        }
        if let Err(words) = take(world, vmid, &key, &value) {
            let what = if is_running {
                format!("unable to hotplug {key}: {words}")
            } else {
                format!("unable to apply pending change {key} : {words}")
            };
            errors.insert(key, what);
        }
    }
    errors
}

fn take(world: &mut World, vmid: u32, key: &str, value: &str) -> Result<(), String> {
    let mut kept = value.to_owned();
    match split(key) {
        ("net", Some(_)) => kept = net::interface(value, || world.random.mac()),
        ("mp", Some(_)) => {
            let is_there = Drive::parse(value).is_some_and(|drive| drive.wish().is_none() && size_of(world, &drive.file).is_none());
            kept = if is_there {
                Drive::parse(value).map(|drive| drive.print()).unwrap_or_default()
            } else {
                make_drive(world, vmid, Kind::Lxc, key, value, None)?
            };
            let before = world.guests.get(&vmid).and_then(|guest| guest.conf.get(key)).and_then(|old| Drive::parse(old));
            let is_same = before.as_ref().zip(Drive::parse(&kept)).is_some_and(|(old, new)| old.file == new.file);
            if let Some(before) = before.filter(|_| !is_same) {
                world.let_go(vmid, &before);
            }
        }
        _ => {}
    }
    world.edit(vmid, |guest| {
        guest.pending.remove(key);
        guest.conf.insert(key.to_owned(), kept);
    });
    Ok(())
}

fn take_away(world: &mut World, vmid: u32, key: &str) {
    let value = world.edit(vmid, |guest| {
        pending::drop_delete(guest, key);
        guest.conf.remove(key)
    });
    let Some(value) = value.flatten() else { return };
    if is_unused(key) {
        if !world.is_in_use(vmid, key, &value) {
            world.free(vmid, &value);
        }
    } else if is_container_drive(key)
        && let Some(drive) = Drive::parse(&value)
    {
        world.let_go(vmid, &drive);
    }
}
