//! Droplets that there are.

use serde_json::json;

use super::page::page;
use super::{Call, Fail, Served, number, shape};
use crate::request::Response;
use crate::world::World;
use crate::world::droplet::Droplet;

pub(crate) fn list(call: &mut Call<'_>, _: &[&str]) -> Served {
    let world = &*call.world;
    let (tag, name) = (call.param("tag_name"), call.param("name"));
    if tag.is_some() && (name.is_some() || call.param("type").is_some()) {
        return Err(Fail::unprocessable("tag_name cannot be combined with name or type."));
    }
    let is_wanted = |droplet: &&&Droplet| {
        let has_tag = |tag: &str| droplet.shown_tags(world.now_ms).iter().any(|own| own.to_lowercase() == tag.to_lowercase());
        tag.is_none_or(has_tag) && name.is_none_or(|name| droplet.name.to_lowercase() == name.to_lowercase())
    };
    let all = world.listed_droplets();
    let all = match call.param("type") {
        Some("gpus") => Vec::new(),
        _ => all.iter().filter(is_wanted).map(|droplet| shape::droplet(world, droplet)).collect(),
    };
    Ok(page(call, "droplets", all))
}

/// One that is found.
pub(crate) fn found<'w>(world: &'w World, parts: &[&str]) -> Result<&'w Droplet, Fail> {
    world.found_droplet(number(parts, 1)?).ok_or_else(Fail::not_found)
}

pub(crate) fn one(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let world = &*call.world;
    Ok(Response::json(200, &json!({ "droplet": shape::droplet(world, found(world, parts)?) })))
}

/// Whether an action keeps a droplet from being deleted. One that should long have ended does not.
fn is_kept(droplet: &Droplet, now_ms: u64) -> bool {
    droplet.pending.is_some_and(|pending| now_ms < pending.until_ms)
}

pub(crate) fn delete(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let id = number(parts, 1)?;
    let now_ms = call.world.now_ms;
    let born_ms = |droplet: &Droplet| droplet.created_ms.saturating_add(call.world.setup.latencies.undeletable);
    let droplet = call.world.droplets.get(&id).filter(|droplet| droplet.deleted_ms.is_none() && now_ms >= born_ms(droplet));
    if is_kept(droplet.ok_or_else(Fail::not_found)?, now_ms) {
        return Err(Fail::pending());
    }
    call.world.end_droplet(id);
    Ok(Response::empty())
}

/// Deletes all that bear a tag. There is nobody who should do this: what bears it by mistake goes as well.
pub(crate) fn delete_by_tag(call: &mut Call<'_>, _: &[&str]) -> Served {
    let Some(tag) = call.param("tag_name").map(str::to_owned) else { return Err(Fail::bad("tag_name is missing")) };
    let now_ms = call.world.now_ms;
    let bears = |droplet: &&&Droplet| droplet.shown_tags(now_ms).iter().any(|own| own.to_lowercase() == tag.to_lowercase());
    let living = call.world.living();
    let ids: Vec<u64> = living.iter().filter(bears).filter(|droplet| !is_kept(droplet, now_ms)).map(|droplet| droplet.id).collect();
    call.world.deleted_by_tag.push(tag);
    ids.into_iter().for_each(|id| call.world.end_droplet(id));
    Ok(Response::empty())
}
