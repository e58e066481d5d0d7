//! What concerns the cluster as a whole: versions, nodes, resources, who may what.
//!
//! Source: `PVE::API2::Cluster`, `PVE::API2::Nodes`, `PVE::API2::AccessControl`, `PVE::API2Tools::extract_vm_stats`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Call, Fail, Outcome, status};
use crate::world::World;
use crate::world::access::{Session, TICKET_MS, user_of};
use crate::world::guest::{Kind, Power};

/// `GET /version`
pub(crate) fn version(world: &mut World, _call: &Call) -> Outcome {
    let release = world.setup.version.rsplit_once('.').map_or(world.setup.version.as_str(), |(release, _)| release);
    Ok(json!({ "release": release, "repoid": "6839d46b9e41f3a5", "version": world.setup.version }))
}

/// `GET /nodes`
pub(crate) fn nodes(world: &mut World, call: &Call) -> Outcome {
    let first = world.first_node();
    let node = |node: &String| {
        let own = world.fingerprint.clone().filter(|_| *node == first);
        let is_off = world.faults.nodes_off.contains(node);
        let mut item = json!({
            "node": node, "id": format!("node/{node}"), "type": "node", "status": if is_off { "offline" } else { "online" },
            "level": "", "ssl_fingerprint": own.unwrap_or_else(|| world.setup.made_up_fingerprint(node)),
        });
        if let (false, true, Some(item)) = (is_off, world.may(&call.who, &format!("/nodes/{node}"), "Sys.Audit"), item.as_object_mut()) {
            let more = json!({ "cpu": 0.02, "maxcpu": 8, "mem": 4_294_967_296_u64, "maxmem": 34_359_738_368_u64, "disk": 5_368_709_120_u64,
                "maxdisk": 107_374_182_400_u64, "uptime": (world.now_ms - world.setup.begins_at_ms) / 1000 + 86_400 });
            item.extend(more.as_object().cloned().unwrap_or_default());
        }
        item
    };
    Ok(world.setup.nodes.iter().map(node).collect())
}

/// `GET /nodes/{node}/status`
pub(crate) fn node_status(world: &mut World, _call: &Call) -> Outcome {
    Ok(json!({
        "boot-info": { "mode": "efi", "secureboot": 0 },
        "cpu": 0.02,
        "cpuinfo": { "cores": 8, "cpus": 8, "flags": "fpu", "hvm": "1", "mhz": "3000.000", "model": "QEMU Virtual CPU", "sockets": 1, "user_hz": 100 },
        "current-kernel": { "machine": "x86_64", "release": "6.17.2-1-pve", "sysname": "Linux", "version": "#1 SMP PREEMPT_DYNAMIC" },
        "kversion": "Linux 6.17.2-1-pve",
        "loadavg": ["0.02", "0.03", "0.00"],
        "memory": { "available": 30_064_771_072_u64, "free": 29_064_771_072_u64, "total": 34_359_738_368_u64, "used": 4_294_967_296_u64 },
        "pveversion": format!("pve-manager/{}/6839d46b9e41f3a5", world.setup.version),
        "rootfs": { "avail": 95_000_000_000_u64, "free": 100_000_000_000_u64, "total": 107_374_182_400_u64, "used": 5_368_709_120_u64 },
        "swap": { "free": 0, "total": 0, "used": 0 },
        "uptime": (world.now_ms - world.setup.begins_at_ms) / 1000 + 86_400,
    }))
}

/// `GET /cluster/status`
pub(crate) fn status(world: &mut World, _call: &Call) -> Outcome {
    let count = world.setup.nodes.len();
    let node = |(index, node): (usize, &String)| {
        json!({ "type": "node", "id": format!("node/{node}"), "name": node, "nodeid": index + 1, "ip": format!("192.0.2.{}", index + 1),
            "local": u8::from(index == 0), "online": u8::from(!world.faults.nodes_off.contains(node)), "level": "" })
    };
    let mut all: Vec<Value> = world.setup.nodes.iter().enumerate().map(node).collect();
    if count > 1 {
        all.insert(0, json!({ "type": "cluster", "id": "cluster", "name": "moorline", "nodes": count, "quorate": 1, "version": count }));
    }
    Ok(Value::Array(all))
}

/// `GET /cluster/nextid`: the next number that is free, or whether one is. It reserves nothing.
pub(crate) fn nextid(world: &mut World, call: &Call) -> Outcome {
    if let Some(vmid) = call.number("vmid").and_then(|vmid| u32::try_from(vmid).ok()) {
        if let Some(guest) = world.guests.get(&vmid) {
            let _ = guest;
            return Err(Fail::bad("vmid", format!("VM {vmid} already exists")));
        }
        return Ok(json!(vmid.to_string()));
    }
    let free = (100_u32..1_000_000).find(|vmid| !world.guests.contains_key(vmid));
    free.map(|vmid| json!(vmid.to_string())).ok_or_else(|| Fail::die("unable to get any free VMID in range [100, 1000000]"))
}

/// `GET /cluster/resources`. Which guests there are is always right; whether they run is what each node last told of them.
pub(crate) fn resources(world: &mut World, call: &Call) -> Outcome {
    let wanted = call.get("type").unwrap_or_default();
    let wants = |kind: &str| wanted.is_empty() || wanted == kind;
    let mut all = Vec::new();
    if wants("vm") {
        all.extend(world.guests.keys().copied().collect::<Vec<_>>().into_iter().filter_map(|vmid| guest_resource(world, call, vmid)));
    }
    if wants("node")
        && let Value::Array(nodes) = nodes(world, call)?
    {
        all.extend(nodes.into_iter().filter(|node| wanted.is_empty() || node["type"] == "node"));
    }
    if wants("storage") {
        let storages = world.setup.nodes.iter().flat_map(|node| world.storages.values().map(move |storage| (node, storage)));
        for (node, storage) in storages {
            let path = format!("/storage/{}", storage.name);
            if world.may(&call.who, &path, "Datastore.Audit") {
                all.push(
                    json!({ "id": format!("storage/{node}/{}", storage.name), "type": "storage", "node": node, "storage": storage.name,
                    "status": "available", "disk": storage.used(), "maxdisk": storage.total, "shared": u8::from(storage.shared),
                    "plugintype": storage.kind.as_str(), "content": storage.content.iter().cloned().collect::<Vec<_>>().join(",") }),
                );
            }
        }
    }
    Ok(Value::Array(all))
}

fn guest_resource(world: &World, call: &Call, vmid: u32) -> Option<Value> {
    let guest = world.guests.get(&vmid)?;
    if !world.may(&call.who, &format!("/vms/{vmid}"), "VM.Audit") {
        return None;
    }
    let mut item = json!({
        "id": format!("{}/{vmid}", guest.kind.as_str()), "type": guest.kind.as_str(), "vmid": vmid, "node": guest.node,
        "template": u8::from(guest.is_template()),
    });
    let object = item.as_object_mut()?;
    match world.seen.get(&vmid) {
        // A node that is off no longer tells of its guests.
        Some((power, name)) if !world.faults.nodes_off.contains(&guest.node) => {
            let (status, uptime) = match power {
                Power::Stopped => ("stopped", 0),
                Power::Running { since_ms } | Power::Paused { since_ms } => ("running", world.now_ms.saturating_sub(*since_ms) / 1000),
            };
            object.insert("status".to_owned(), json!(status));
            object.insert("name".to_owned(), json!(name));
            object.insert("uptime".to_owned(), json!(uptime));
            for (key, value) in status::counters(guest) {
                object.insert(key, value);
            }
        }
        Some(_) | None => drop(object.insert("status".to_owned(), json!("unknown"))),
    }
    for key in ["lock", "tags"] {
        if let Some(value) = guest.conf.get(key) {
            object.insert(key.to_owned(), json!(value));
        }
    }
    if let Some((pool, _)) = world.setup.pools.iter().find(|(_, guests)| guests.contains(&vmid)) {
        object.insert("pool".to_owned(), json!(pool));
    }
    if world.setup.ha.contains(&vmid) {
        object.insert("hastate".to_owned(), json!(if guest.is_running() { "started" } else { "stopped" }));
    }
    Some(item)
}

/// `GET /cluster/ha/resources`
pub(crate) fn ha_resources(world: &mut World, _call: &Call) -> Outcome {
    let digest = "0000000000000000000000000000000000000000";
    let resource = |vmid: &u32| {
        let kind = world.guests.get(vmid).map_or(Kind::Qemu, |guest| guest.kind);
        let kind = if kind == Kind::Qemu { "vm" } else { "ct" };
        let is_running = world.guests.get(vmid).is_some_and(|guest| guest.is_running());
        json!({ "sid": format!("{kind}:{vmid}"), "type": kind, "state": if is_running { "started" } else { "stopped" }, "digest": digest })
    };
    Ok(world.setup.ha.iter().map(resource).collect())
}

/// `POST /access/ticket`
pub(crate) fn ticket(world: &mut World, call: &Call) -> Outcome {
    let mut user = call.text("username");
    if !user.contains('@') {
        user = format!("{user}@{}", call.get("realm").unwrap_or("pam"));
    }
    let password = call.text("password");
    let is_known = world.setup.users.iter().any(|known| known.id == user && !known.password.is_empty() && known.password == password);
    if !is_known {
        return Err(Fail::Unauthorized("authentication failure".to_owned()));
    }
    let ticket = format!("PVE:{user}:{:08X}::{:016x}{:016x}", world.now_ms / 1000, world.random.number(), world.random.number());
    let csrf = format!("{:08X}:{:016x}", world.now_ms / 1000, world.random.number());
    let until_ms = world.now_ms + TICKET_MS;
    world.sessions.insert(ticket.clone(), Session { user: user.clone(), csrf: csrf.clone(), until_ms });
    Ok(json!({ "username": user, "ticket": ticket, "CSRFPreventionToken": csrf, "clustername": "moorline", "cap": {} }))
}

/// `GET /access/permissions`
pub(crate) fn permissions(world: &mut World, call: &Call) -> Outcome {
    let who = call.get("userid").unwrap_or(&call.who).to_owned();
    let is_own = who == call.who || user_of(&who) == call.who;
    if !is_own {
        world.check(&call.who, "/access", &["Sys.Audit"])?;
    }
    let mut paths: Vec<String> =
        vec!["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"].into_iter().map(str::to_owned).collect();
    if let Some(path) = call.get("path") {
        paths = vec![path.to_owned()];
    } else {
        let tokens = world.setup.tokens.iter().filter(|token| token.id == who).flat_map(|token| &token.grants);
        let users = world.setup.users.iter().filter(|user| user.id == user_of(&who)).flat_map(|user| &user.grants);
        paths.extend(tokens.chain(users).map(|grant| grant.path.clone()));
    }
    let mut all = BTreeMap::new();
    for path in paths {
        let here: BTreeMap<String, u8> = world.privileges(&who, &path).into_iter().map(|privilege| (privilege, 1)).collect();
        if !here.is_empty() || call.get("path").is_some() {
            all.insert(path, here);
        }
    }
    Ok(json!(all))
}
