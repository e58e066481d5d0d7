//! Lists of guests, and how each is.
//!
//! Source: `PVE::QemuServer::vmstatus`, `PVE::LXC::vmstatus`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Call, Fail, Outcome};
use crate::normal::drive::Drive;
use crate::world::World;
use crate::world::guest::{Guest, Kind, Power};

/// `GET /nodes/{node}/qemu` and `lxc`: those guests that the caller may look at.
pub(crate) fn list(world: &mut World, call: &Call) -> Outcome {
    let guests = world.guests.values().filter(|guest| {
        guest.kind == call.kind && guest.node == call.node && world.may(&call.who, &format!("/vms/{}", guest.vmid), "VM.Audit")
    });
    let is_full = call.is("full");
    let listed = |guest: &Guest| {
        let mut all = entry(world, guest);
        // What a machine's monitor says is asked for a full list alone.
        if is_full && guest.kind == Kind::Qemu {
            all.insert("qmpstatus".to_owned(), json!(qmp_status(guest)));
        }
        Value::Object(all)
    };
    let all: Vec<Value> = guests.map(listed).collect();
    Ok(Value::Array(all))
}

/// `GET /nodes/{node}/{kind}/{vmid}/status/current`
pub(crate) fn current(world: &mut World, call: &Call) -> Outcome {
    let guest = world.guest_of(call)?;
    let mut all = entry(world, guest);
    let is_managed = world.setup.ha.contains(&guest.vmid);
    let ha = if is_managed {
        json!({ "managed": 1, "state": if guest.is_running() { "started" } else { "stopped" } })
    } else {
        json!({ "managed": 0 })
    };
    all.insert("ha".to_owned(), ha);
    if guest.kind == Kind::Qemu {
        all.insert("qmpstatus".to_owned(), json!(qmp_status(guest)));
        if guest.is_running() {
            all.insert("running-machine".to_owned(), json!("pc-i440fx-9.2+pve1"));
            all.insert("running-qemu".to_owned(), json!("9.2.0"));
        }
        if has_agent(guest) {
            all.insert("agent".to_owned(), json!(1));
        }
    }
    Ok(Value::Object(all))
}

/// `POST /nodes/{node}/qemu/{vmid}/agent/ping`. Source: `PVE::QemuServer::Agent::assert_agent_available`.
pub(crate) fn ping(world: &mut World, call: &Call) -> Outcome {
    let guest = world.guest_of(call)?;
    if !has_agent(guest) {
        return Err(Fail::die("No QEMU guest agent configured"));
    }
    if !guest.is_running() {
        return Err(Fail::die(format!("VM {} is not running", guest.vmid)));
    }
    // What is frozen answers nobody.
    if world.faults.mute.contains(&guest.vmid) || matches!(guest.power, Power::Paused { .. }) {
        return Err(Fail::die("QEMU guest agent is not running"));
    }
    Ok(json!({ "result": {} }))
}

fn has_agent(guest: &Guest) -> bool {
    guest.conf.get("agent").is_some_and(|agent| agent.starts_with('1') || agent.starts_with("enabled=1"))
}

const fn qmp_status(guest: &Guest) -> &'static str {
    match guest.power {
        Power::Stopped => "stopped",
        Power::Running { .. } => "running",
        Power::Paused { .. } => "paused",
    }
}

fn entry(world: &World, guest: &Guest) -> Map<String, Value> {
    let mut all: Map<String, Value> = counters(guest).into_iter().collect();
    // Containers' numbers are texts: they were the keys of a hash.
    let vmid = if guest.kind == Kind::Lxc || world.setup.old_numbers { json!(guest.vmid.to_string()) } else { json!(guest.vmid) };
    all.insert("vmid".to_owned(), vmid);
    all.insert("name".to_owned(), json!(guest.name()));
    all.insert("status".to_owned(), json!(if guest.is_running() { "running" } else { "stopped" }));
    let uptime = match guest.power {
        Power::Stopped => 0,
        Power::Running { since_ms } | Power::Paused { since_ms } => world.now_ms.saturating_sub(since_ms) / 1000,
    };
    all.insert("uptime".to_owned(), json!(uptime));
    if let (Power::Running { .. } | Power::Paused { .. }, Kind::Qemu) = (guest.power, guest.kind) {
        all.insert("pid".to_owned(), json!(100_000 + guest.vmid));
    }
    if guest.kind == Kind::Lxc {
        all.insert("type".to_owned(), json!("lxc"));
    }
    for key in ["lock", "tags"] {
        if let Some(value) = guest.conf.get(key) {
            all.insert(key.to_owned(), json!(value));
        }
    }
    if guest.is_template() {
        all.insert("template".to_owned(), json!(1));
    }
    if world.setup.old_numbers {
        for (key, value) in &mut all {
            if value.is_number() && key != "template" {
                *value = json!(value.to_string());
            }
        }
        all.entry("template".to_owned()).or_insert(json!(""));
    }
    all
}

/// What is counted of a guest.
pub(crate) fn counters(guest: &Guest) -> BTreeMap<String, Value> {
    let number = |key: &str, default: u64| {
        let text = guest.conf.get(key).map(|text| text.trim_start_matches("current="));
        text.and_then(|text| text.split(',').next()?.parse().ok()).unwrap_or(default)
    };
    let memory = number("memory", 512) << 20;
    let cpus = match guest.kind {
        Kind::Qemu => number("cores", 1) * number("sockets", 1),
        Kind::Lxc => number("cores", 8),
    };
    let disk_key = match guest.kind {
        Kind::Qemu => guest.conf.get("boot").and_then(|boot| boot.strip_prefix("order=")?.split(';').next().map(str::to_owned)),
        Kind::Lxc => Some("rootfs".to_owned()),
    };
    let disk = disk_key.and_then(|key| Drive::parse(guest.conf.get(&key)?)?.size()).unwrap_or(0);
    let used = if guest.is_running() { memory / 4 } else { 0 };
    let mut all = BTreeMap::new();
    for (key, value) in [("cpus", json!(cpus)), ("maxmem", json!(memory)), ("mem", json!(used)), ("maxdisk", json!(disk))] {
        all.insert(key.to_owned(), value);
    }
    for key in ["cpu", "disk", "diskread", "diskwrite", "netin", "netout"] {
        all.insert(key.to_owned(), json!(0));
    }
    if guest.kind == Kind::Lxc {
        all.insert("maxswap".to_owned(), json!(number("swap", 512) << 20));
        all.insert("swap".to_owned(), json!(0));
    }
    all
}
