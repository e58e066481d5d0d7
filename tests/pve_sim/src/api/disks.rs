//! Growing, moving and converting disks; what a storage can.
//!
//! Source: `resize_vm`, `move_vm_disk`, `template` and `vm_feature` in `PVE::API2::Qemu` and `PVE::API2::LXC`.

use serde_json::{Value, json};

use super::permissions::{check_content, check_vm};
use super::{Call, Fail, Outcome, check_lock};
use crate::normal::drive::Drive;
use crate::work::Work;
use crate::world::World;
use crate::world::guest::Kind;

/// `PUT …/resize`. A machine's is checked by the worker, a container's before there is one.
pub(crate) fn resize(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock"])?;
    let (disk, size) = (call.text("disk"), call.text("size"));
    let is_size = crate::normal::text::bytes(size.trim_start_matches('+')).is_some();
    if !is_size {
        return Err(Fail::bad("size", "value does not match the regex pattern"));
    }
    if !call.kind.is_drive(&disk) {
        return Err(Fail::bad("disk", format!("value '{disk}' does not have a value in the enumeration")));
    }
    let digest = call.get("digest").map(str::to_owned);
    if call.kind == Kind::Lxc {
        world.take_file(call.vmid)?;
        let checked = world.check_resize(call.vmid, call.kind, &call.node, &disk, &size, digest.as_deref());
        checked.map_err(Fail::die)?;
    }
    let work = Work::Resize { vmid: call.vmid, kind: call.kind, node: call.node.clone(), disk, size, digest, who: call.who.clone() };
    world.fork(call, "resize", &call.vmid.to_string(), work)
}

/// `POST …/move_disk` and `…/move_volume`
pub(crate) fn move_disk(world: &mut World, call: &Call) -> Outcome {
    let disk = call.get("disk").or_else(|| call.get("volume")).unwrap_or_default().to_owned();
    let name = if call.kind == Kind::Qemu { "qmmove" } else { "move_volume" };
    let storage = call.get("storage").map(str::to_owned);
    let target = call.number("target-vmid").and_then(|vmid| u32::try_from(vmid).ok());
    match (storage, target) {
        (Some(_), Some(_)) => Err(Fail::bad("target-vmid", "either set 'storage' or 'target-vmid', but not both")),
        (None, None) => Err(Fail::bad("target-vmid", "please specify either 'storage' or 'target-vmid'")),
        (None, Some(target)) => {
            if target == call.vmid {
                return Err(Fail::bad("target-vmid", "must be different than source VMID to reassign disk to another VM"));
            }
            check_vm(world, &call.who, target, None, &["VM.Config.Disk"])?;
            let target_disk = call.get("target-disk").or_else(|| call.get("target-volume")).unwrap_or(&disk).to_owned();
            world.check_reassign(call.vmid, &disk, target, &target_disk).map_err(Fail::die)?;
            world.fork(call, name, &call.vmid.to_string(), Work::Reassign { vmid: call.vmid, kind: call.kind, disk, target, target_disk })
        }
        (Some(storage), None) => {
            world.check(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            check_move(world, call, &disk, &storage)?;
            let format = call.get("format").map(str::to_owned);
            let (node, delete) = (call.node.clone(), call.is("delete"));
            let work = Work::Move { vmid: call.vmid, kind: call.kind, node, disk, storage, format, delete };
            world.fork(call, name, &call.vmid.to_string(), work)
        }
    }
}

fn check_move(world: &World, call: &Call, disk: &str, storage: &str) -> Result<(), Fail> {
    let guest = world.guest_of(call)?;
    check_lock(guest).map_err(Fail::die)?;
    if call.get("digest").is_some_and(|digest| digest != guest.digest()) {
        return Err(Fail::die("detected modified configuration - file changed by other user? Try again."));
    }
    let value = guest.conf.get(disk).ok_or_else(|| Fail::die(format!("disk '{disk}' does not exist")))?;
    let drive = Drive::parse(value).ok_or_else(|| Fail::die(format!("disk '{disk}' has no associated volume")))?;
    if drive.is_cdrom() {
        return Err(Fail::die("you can't move a cdrom"));
    }
    if drive.volume().is_some_and(|(old, _)| old == storage) && call.get("format").is_none() {
        return Err(Fail::die("you can't move to the same storage with same format"));
    }
    check_content(world, call.kind, storage)?;
    let is_snapshot = guest
        .snapshots
        .values()
        .any(|section| section.values().any(|value| Drive::parse(value).is_some_and(|other| other.file == drive.file)));
    if is_snapshot && call.is("delete") {
        return Err(Fail::die("you can't move a disk with snapshots and delete the source"));
    }
    if call.kind == Kind::Lxc && guest.is_running() {
        return Err(Fail::die(format!("cannot move volumes of a running container ({})", call.vmid)));
    }
    Ok(())
}

/// `POST …/template`
pub(crate) fn template(world: &mut World, call: &Call) -> Outcome {
    let disk = call.get("disk").map(str::to_owned);
    world.check_template(call.vmid, call.kind, &call.node, disk.as_deref()).map_err(Fail::die)?;
    let work = Work::Template { vmid: call.vmid, kind: call.kind, node: call.node.clone(), disk };
    let upid = world.fork(call, &format!("{}template", call.kind.prefix()), &call.vmid.to_string(), work)?;
    // Of a container, nothing comes back.
    Ok(if call.kind == Kind::Qemu { upid } else { Value::Null })
}

/// `GET …/feature`
pub(crate) fn feature(world: &mut World, call: &Call) -> Outcome {
    let guest = world.guest_of(call)?;
    let config = match call.get("snapname") {
        Some(name) => guest.snapshots.get(name).ok_or_else(|| Fail::die(format!("snapshot '{name}' does not exist")))?,
        None => &guest.conf,
    };
    let has = match call.get("feature") {
        Some("snapshot") => world.can_snapshot(config, call.kind),
        Some("clone") => guest.is_template(),
        Some("copy") => call.kind == Kind::Qemu || !guest.is_running() || call.get("snapname").is_some(),
        Some(other) => {
            return Err(Fail::bad("feature", format!("value '{other}' does not have a value in the enumeration 'snapshot, clone, copy'")));
        }
        None => false,
    };
    let mut answer = json!({ "hasFeature": u8::from(has) });
    if let (Kind::Qemu, Some(object)) = (call.kind, answer.as_object_mut()) {
        object.insert("nodes".to_owned(), json!([guest.node]));
    }
    Ok(answer)
}
