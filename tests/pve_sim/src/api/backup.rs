//! Backups, storages and what is in them.
//!
//! Source: `PVE::API2::VZDump`, `PVE::API2::Storage::Status`, `PVE::API2::Storage::Content`.

use serde_json::{Value, json};

use super::{Call, Fail, Outcome};
use crate::setup::StorageKind;
use crate::work::{Backup, Work};
use crate::world::World;
use crate::world::access::is_root;
use crate::world::storage::{Storage, Volume};

/// `POST /nodes/{node}/vzdump`
pub(crate) fn vzdump(world: &mut World, call: &Call) -> Outcome {
    let root_only = ["tmpdir", "dumpdir", "script", "job-id"];
    if let Some(key) = root_only.iter().find(|key| call.get(key).is_some() && !is_root(&call.who)) {
        return Err(Fail::bad(key, "Only root may set this option."));
    }
    if call.params.is_empty() {
        return Err(Fail::die("no options specified"));
    }
    let all: Vec<u32> = world.guests.values().filter(|guest| guest.node == call.node).map(|guest| guest.vmid).collect();
    let named = call.get("vmid").map(|list| list.split([',', ';', ' ']).filter_map(|word| word.parse().ok()).collect::<Vec<u32>>());
    let vmids = match named {
        Some(vmids) => vmids,
        None if call.is("all") => all,
        None => return Err(Fail::die("no virtual machines or containers selected for backup job - missing vmid parameter")),
    };
    for vmid in &vmids {
        world.check(&call.who, &format!("/vms/{vmid}"), &["VM.Backup"])?;
    }
    let name = call.get("storage").unwrap_or("local").to_owned();
    world.check(&call.who, &format!("/storage/{name}"), &["Datastore.AllocateSpace"])?;
    let storage = world.storages.get(&name).ok_or_else(|| Fail::die(format!("storage '{name}' does not exist")))?;
    if !storage.content.contains("backup") {
        return Err(Fail::bad("storage", format!("Can't use storage '{name}' for backup - wrong content type")));
    }
    let backup = Backup {
        node: call.node.clone(),
        storage: name,
        mode: call.get("mode").unwrap_or("snapshot").to_owned(),
        compress: call.get("compress").unwrap_or("0").to_owned(),
        notes: call.get("notes-template").map(str::to_owned),
        protected: call.is("protected"),
        // Unless told otherwise it prunes.
        remove: call.get("remove").is_none_or(crate::normal::property::is_yes),
        vmids,
    };
    let id = match backup.vmids.as_slice() {
        [one] => one.to_string(),
        _ => String::new(),
    };
    world.fork(call, "vzdump", &id, Work::Backup(Box::new(backup)))
}

fn numbers(storage: &Storage) -> Value {
    let used = storage.used();
    json!({
        "active": 1, "enabled": 1, "shared": u8::from(storage.shared), "type": storage.kind.as_str(), "total": storage.total, "used": used,
        "avail": storage.total - used, "content": storage.content.iter().cloned().collect::<Vec<_>>().join(","),
    })
}

/// `GET /nodes/{node}/storage`
pub(crate) fn storages(world: &mut World, call: &Call) -> Outcome {
    let wanted: Vec<&str> = call.get("content").map(|list| list.split(',').collect()).unwrap_or_default();
    let mut all = Vec::new();
    for storage in world.storages.values() {
        let path = format!("/storage/{}", storage.name);
        let is_seen = world.may(&call.who, &path, "Datastore.Audit") || world.may(&call.who, &path, "Datastore.AllocateSpace");
        let is_wanted = wanted.is_empty() || wanted.iter().any(|word| storage.content.contains(*word));
        if !is_seen || !is_wanted || call.get("storage").is_some_and(|name| name != storage.name) {
            continue;
        }
        let mut item = numbers(storage);
        if let Some(object) = item.as_object_mut() {
            object.insert("storage".to_owned(), json!(storage.name));
            // The one place of the API where a fraction is one.
            let fraction = storage.used().saturating_mul(10_000).checked_div(storage.total).unwrap_or(0);
            object.insert(
                "used_fraction".to_owned(),
                format!("{}.{:04}", fraction / 10_000, fraction % 10_000).parse::<f64>().map_or(Value::Null, |n| json!(n)),
            );
        }
        all.push(item);
    }
    Ok(Value::Array(all))
}

fn storage_of<'w>(world: &'w World, call: &Call) -> Result<&'w Storage, Fail> {
    let name = call.text("storage");
    world.storages.get(&name).ok_or_else(|| Fail::die(format!("storage '{name}' does not exist")))
}

/// `GET /nodes/{node}/storage/{storage}/status`
pub(crate) fn storage_status(world: &mut World, call: &Call) -> Outcome {
    Ok(numbers(storage_of(world, call)?))
}

/// Whether somebody sees a volume in lists. Source: `PVE::Storage::check_volume_access`.
fn sees(world: &World, who: &str, storage: &str, volume: &Volume) -> bool {
    let path = format!("/storage/{storage}");
    if world.may(who, &path, "Datastore.Allocate") {
        return true;
    }
    let at_guest = |privilege: &str| volume.vmid.is_some_and(|vmid| world.may(who, &format!("/vms/{vmid}"), privilege));
    match volume.content.as_str() {
        "backup" => world.may(who, &path, "Datastore.AllocateSpace") && at_guest("VM.Backup"),
        "images" | "rootdir" => at_guest("VM.Config.Disk"),
        _ => world.may(who, &path, "Datastore.Audit") || world.may(who, &path, "Datastore.AllocateSpace"),
    }
}

fn item(storage: &Storage, name: &str, volume: &Volume) -> Value {
    let mut item =
        json!({ "volid": format!("{}:{name}", storage.name), "content": volume.content, "format": volume.format, "size": volume.bytes });
    let Some(object) = item.as_object_mut() else { return item };
    // ZFS does not tell when a volume was made. Source: `list_images` in `PVE::Storage::ZFSPoolPlugin`.
    if storage.kind != StorageKind::ZfsPool {
        object.insert("ctime".to_owned(), json!(volume.ctime_s));
    }
    if let Some(vmid) = volume.vmid {
        object.insert("vmid".to_owned(), json!(vmid));
    }
    match (&volume.backup, volume.content.as_str()) {
        (Some(backup), _) => {
            object.insert("subtype".to_owned(), json!(backup.kind.as_str()));
            if let Some(notes) = &volume.notes {
                object.insert("notes".to_owned(), json!(notes));
            }
            if volume.protected {
                object.insert("protected".to_owned(), json!(1));
            }
        }
        (None, "images" | "rootdir") => {
            object.insert("used".to_owned(), json!(volume.bytes / 4));
            object.insert("parent".to_owned(), json!(volume.parent));
        }
        (None, _) => {}
    }
    item
}

/// `GET /nodes/{node}/storage/{storage}/content`
pub(crate) fn content(world: &mut World, call: &Call) -> Outcome {
    let storage = storage_of(world, call)?;
    let wanted = call.get("content");
    let vmid = call.number("vmid").and_then(|vmid| u32::try_from(vmid).ok());
    let all = storage.volumes.iter().filter(|(_, volume)| {
        let is_here = volume.node.as_ref().is_none_or(|node| *node == call.node);
        is_here
            && wanted.is_none_or(|wanted| wanted == volume.content)
            && (vmid.is_none() || volume.vmid == vmid)
            && sees(world, &call.who, &storage.name, volume)
    });
    let all: Vec<Value> = all.map(|(name, volume)| item(storage, name, volume)).collect();
    Ok(Value::Array(all))
}

/// The storage and name of a call's volume: a full name, or one within the storage.
fn named(call: &Call) -> (String, String) {
    let (storage, volume) = (call.text("storage"), call.text("volume"));
    match volume.split_once(':') {
        Some((storage, name)) => (storage.to_owned(), name.to_owned()),
        None => (storage, volume),
    }
}

fn find<'w>(world: &'w World, call: &Call) -> Result<(String, String, &'w Volume), Fail> {
    let (storage, name) = named(call);
    let known = world.storages.get(&storage).ok_or_else(|| Fail::die(format!("storage '{storage}' does not exist")))?;
    let volume = known.volumes.get(&name).ok_or_else(|| Fail::die(format!("volume '{storage}:{name}' does not exist")))?;
    Ok((storage, name, volume))
}

/// `GET /nodes/{node}/storage/{storage}/content/{volume}`
pub(crate) fn volume(world: &mut World, call: &Call) -> Outcome {
    let (storage, name, volume) = find(world, call)?;
    if !sees(world, &call.who, &storage, volume) {
        return Err(Fail::denied(&format!("/storage/{storage}, Datastore.AllocateSpace")));
    }
    let Some(known) = world.storages.get(&storage) else { return Err(Fail::die(format!("storage '{storage}' does not exist"))) };
    let mut item = item(known, &name, volume);
    if let Some(object) = item.as_object_mut() {
        object.insert("path".to_owned(), json!(format!("/var/lib/vz/{name}")));
    }
    Ok(item)
}

/// `PUT …/content/{volume}`: notes and protection of a backup.
pub(crate) fn note(world: &mut World, call: &Call) -> Outcome {
    let (storage, name, volume) = find(world, call)?;
    if !sees(world, &call.who, &storage, volume) {
        return Err(Fail::denied(&format!("/storage/{storage}, Datastore.AllocateSpace")));
    }
    let (notes, protected) = (call.get("notes").map(str::to_owned), call.get("protected").map(crate::normal::property::is_yes));
    if let Some(volume) = world.volume_mut(&format!("{storage}:{name}")) {
        volume.notes = notes.or_else(|| volume.notes.take());
        volume.protected = protected.unwrap_or(volume.protected);
    }
    Ok(Value::Null)
}

/// `DELETE …/content/{volume}`
pub(crate) fn remove(world: &mut World, call: &Call) -> Outcome {
    let (storage, name, volume) = find(world, call)?;
    let path = format!("/storage/{storage}");
    let volid = format!("{storage}:{name}");
    let owner = volume.vmid.unwrap_or(0);
    let is_backup = volume.content == "backup";
    let is_owner =
        is_backup && world.may(&call.who, &path, "Datastore.AllocateSpace") && world.may(&call.who, &format!("/vms/{owner}"), "VM.Backup");
    if !is_owner {
        world.check(&call.who, &path, &["Datastore.Allocate"])?;
    }
    if volume.protected {
        return Err(Fail::die(format!("cannot remove protected archive '{volid}'")));
    }
    if matches!(volume.content.as_str(), "images" | "rootdir") && world.guests.contains_key(&owner) {
        let words =
            format!("Cannot remove image, a guest with VMID '{owner}' exists!\nYou can delete the image from the guest's hardware pane");
        return Err(Fail::die(words));
    }
    let upid = world.spawn(&call.node, "imgdel", &format!("{}@{storage}", owner), &call.who, Work::Remove { volid });
    let Some(delay_s) = call.number("delay") else { return Ok(json!(upid)) };
    Err(Fail::Await { upid, until_ms: world.now_ms.saturating_add(delay_s.saturating_mul(1000)) })
}
