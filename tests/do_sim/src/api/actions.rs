//! What is done to droplets.

use serde_json::{Map, Value, json};

use super::create::check_name;
use super::droplets::found;
use super::page::page;
use super::{Call, Fail, Served, number, shape};
use crate::request::Response;
use crate::world::World;
use crate::world::action::{Action, Change};
use crate::world::droplet::{Droplet, Status};

fn written(world: &World, action: &Action) -> Value {
    json!({ "action": shape::action(world, action) })
}

pub(crate) fn all(call: &mut Call<'_>, _: &[&str]) -> Served {
    let world = &*call.world;
    let all = world.actions.values().rev().map(|action| shape::action(world, action)).collect();
    Ok(page(call, "actions", all))
}

pub(crate) fn one(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let action = call.world.actions.get(&number(parts, 1)?).ok_or_else(Fail::not_found)?;
    Ok(Response::json(200, &written(call.world, action)))
}

pub(crate) fn of_droplet(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let world = &*call.world;
    let id = found(world, parts)?.id;
    let own = world.actions.values().rev().filter(|action| action.droplet == id);
    let own = own.map(|action| shape::action(world, action)).collect();
    Ok(page(call, "actions", own))
}

pub(crate) fn one_of_droplet(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let id = found(call.world, parts)?.id;
    let action = call.world.actions.get(&number(parts, 3)?).filter(|action| action.droplet == id).ok_or_else(Fail::not_found)?;
    Ok(Response::json(200, &written(call.world, action)))
}

/// `POST /v2/droplets/{id}/actions`.
pub(crate) fn begin(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let droplet = found(call.world, parts)?;
    if droplet.deleted_ms.is_some() {
        return Err(Fail::not_found());
    }
    let id = droplet.id;
    let body = call.object()?;
    let change = change(call.world, droplet, &body)?;
    if droplet.pending.is_some() || droplet.status == Status::New {
        return Err(Fail::pending());
    }
    check_state(droplet, &change)?;
    let action = call.world.begin_action(id, change, &call.token);
    let action = call.world.actions.get(&action).ok_or_else(Fail::not_found)?;
    Ok(Response::json(201, &written(call.world, action)))
}

fn change(world: &World, droplet: &Droplet, body: &Map<String, Value>) -> Result<Change, Fail> {
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    match text("type").unwrap_or_default() {
        "snapshot" => {
            let name = text("name").map_or_else(|| format!("{}-{}", droplet.name, world.now_ms / 1000), str::to_owned);
            Ok(Change::Snapshot { name })
        }
        "resize" => {
            let with_disk = body.get("disk") == Some(&Value::Bool(true));
            resize(world, droplet, text("size").unwrap_or_default(), with_disk)
        }
        "rename" => {
            let name = text("name").unwrap_or_default();
            check_name(name)?;
            Ok(Change::Rename { name: name.to_owned() })
        }
        "power_on" => Ok(Change::PowerOn),
        "power_off" => Ok(Change::PowerOff),
        "shutdown" => Ok(Change::Shutdown),
        "reboot" => Ok(Change::Reboot),
        "power_cycle" => Ok(Change::PowerCycle),
        _ => Err(Fail::unprocessable("Type is not included in the list")),
    }
}

fn resize(world: &World, droplet: &Droplet, size: &str, with_disk: bool) -> Result<Change, Fail> {
    let Some(found) = world.setup.sizes.iter().find(|known| known.slug == size) else {
        return Err(Fail::unprocessable("You specified an invalid size for Droplet resize."));
    };
    if !found.regions.is_empty() && !found.regions.contains(&droplet.region) {
        return Err(Fail::unprocessable("Size is not available in this region."));
    }
    if found.disk < droplet.disk {
        return Err(Fail::unprocessable("Size can not decrease size of Droplet's disk image"));
    }
    if found.slug == droplet.size && (!with_disk || found.disk == droplet.disk) {
        return Err(Fail::unprocessable("Droplet is already this size."));
    }
    Ok(Change::Resize { size: size.to_owned(), disk: with_disk })
}

/// Whether a droplet that is on, or off, can be changed so.
fn check_state(droplet: &Droplet, change: &Change) -> Result<(), Fail> {
    let is_on = droplet.status == Status::Active;
    match change {
        Change::Resize { .. } if is_on => Err(Fail::unprocessable("Droplet must be powered off before it is resized.")),
        Change::PowerOn if is_on => Err(Fail::unprocessable("Droplet is already powered on.")),
        Change::PowerOff | Change::Shutdown | Change::Reboot if !is_on => Err(Fail::unprocessable("Droplet is already powered off.")),
        Change::Create
        | Change::Snapshot { .. }
        | Change::Resize { .. }
        | Change::Rename { .. }
        | Change::PowerOn
        | Change::PowerOff
        | Change::Shutdown
        | Change::Reboot
        | Change::PowerCycle => Ok(()),
    }
}
