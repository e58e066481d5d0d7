//! Snapshots.
//!
//! Source: the `snapshot` calls of `PVE::API2::Qemu` and `PVE::API2::LXC::Snapshot`.

use serde_json::{Value, json};

use super::{Call, Fail, Outcome, check_lock, config};
use crate::work::Work;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::Kind;

/// `GET …/snapshot`: those that there are, and where the guest is now.
pub(crate) fn list(world: &mut World, call: &Call) -> Outcome {
    let guest = world.guest_of(call)?;
    let mut all = Vec::new();
    for (name, section) in &guest.snapshots {
        let time: u64 = section.get("snaptime").and_then(|time| time.parse().ok()).unwrap_or(0);
        let description = section.get("description").cloned().unwrap_or_default();
        let mut item = json!({ "name": name, "snaptime": time, "description": description });
        if let Some(object) = item.as_object_mut() {
            if guest.kind == Kind::Qemu {
                object.insert("vmstate".to_owned(), json!(u8::from(section.contains_key("vmstate"))));
            }
            for key in ["parent", "snapstate"] {
                if let Some(value) = section.get(key) {
                    object.insert(key.to_owned(), json!(value));
                }
            }
        }
        all.push(item);
    }
    let mut now =
        json!({ "name": "current", "digest": guest.digest(), "running": u8::from(guest.is_running()), "description": "You are here!" });
    if let (Some(parent), Some(object)) = (guest.conf.get("parent"), now.as_object_mut()) {
        object.insert("parent".to_owned(), json!(parent));
    }
    all.push(now);
    Ok(Value::Array(all))
}

/// `POST …/snapshot`
pub(crate) fn make(world: &mut World, call: &Call) -> Outcome {
    let name = call.text("snapname");
    let is_reserved = name == "current" || name.to_lowercase() == "pending" || (call.kind == Kind::Lxc && name == "vzdump");
    if is_reserved {
        return Err(Fail::die(format!("unable to use snapshot name '{name}' (reserved name)")));
    }
    if call.kind == Kind::Qemu {
        world.guest_of(call)?;
    }
    let (description, vmstate) = (call.get("description").map(str::to_owned), call.is("vmstate"));
    let work = Work::Snapshot { vmid: call.vmid, kind: call.kind, node: call.node.clone(), name, description, vmstate };
    world.fork(call, &format!("{}snapshot", call.kind.prefix()), &call.vmid.to_string(), work)
}

/// `GET …/snapshot/{snapname}/config`
pub(crate) fn config(world: &mut World, call: &Call) -> Outcome {
    let name = call.text("snapname");
    let guest = world.guest_of(call)?;
    let section = guest.snapshots.get(&name).ok_or_else(|| Fail::die(format!("snapshot '{name}' does not exist")))?;
    Ok(Value::Object(config::to_json(call.kind, section)))
}

/// `PUT …/snapshot/{snapname}/config`
pub(crate) fn describe(world: &mut World, call: &Call) -> Outcome {
    let Some(text) = call.get("description").map(str::to_owned) else { return Ok(Value::Null) };
    world.take_file(call.vmid)?;
    let name = call.text("snapname");
    let guest = world.guest_of(call)?;
    check_lock(guest).map_err(Fail::die)?;
    let described = guest.described(&text);
    let found = world.edit(call.vmid, |guest| {
        let section = guest.snapshots.get_mut(&name)?;
        match described {
            Some(text) => drop(section.insert("description".to_owned(), text)),
            None => drop(section.remove("description")),
        }
        Some(())
    });
    found.flatten().ok_or_else(|| Fail::die(format!("snapshot '{name}' does not exist")))?;
    world.effect(call.vmid, EffectKind::ConfigSet, &format!("{name}/description"));
    Ok(Value::Null)
}

/// `DELETE …/snapshot/{snapname}`
pub(crate) fn delete(world: &mut World, call: &Call) -> Outcome {
    let work = Work::DeleteSnapshot {
        vmid: call.vmid,
        kind: call.kind,
        node: call.node.clone(),
        name: call.text("snapname"),
        force: call.is("force"),
    };
    world.fork(call, &format!("{}delsnapshot", call.kind.prefix()), &call.vmid.to_string(), work)
}

/// `POST …/snapshot/{snapname}/rollback`
pub(crate) fn rollback(world: &mut World, call: &Call) -> Outcome {
    let start = call.is("start");
    if start {
        world.check(&call.who, &call.vm_path(), &["VM.PowerMgmt"])?;
    }
    let work = Work::Rollback { vmid: call.vmid, kind: call.kind, node: call.node.clone(), name: call.text("snapname"), start };
    world.fork(call, &format!("{}rollback", call.kind.prefix()), &call.vmid.to_string(), work)
}
