//! Tags, and what bears them.

use serde_json::{Value, json};

use super::page::page;
use super::{Call, Fail, Served};
use crate::request::Response;
use crate::world::World;

const TAG_MAX: usize = 255;

/// Whether something may be tagged so.
pub(crate) fn is_tag(tag: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_');
    !tag.is_empty() && tag.len() <= TAG_MAX && tag.chars().all(is_good)
}

fn written(world: &World, tag: &str) -> Value {
    let droplets = world.living().into_iter().filter(|droplet| droplet.shown_tags(world.now_ms).contains(&tag)).count();
    let images = world.listed_snapshots().into_iter().filter(|snapshot| snapshot.tags.iter().any(|own| own == tag)).count();
    json!({ "name": tag, "resources": {
        "count": droplets + images, "droplets": { "count": droplets }, "images": { "count": images }, "volumes": { "count": 0 },
        "volume_snapshots": { "count": 0 }, "databases": { "count": 0 },
    } })
}

pub(crate) fn list(call: &mut Call<'_>, _: &[&str]) -> Served {
    let all = call.world.tags.values().map(|tag| written(call.world, tag)).collect();
    Ok(page(call, "tags", all))
}

/// Makes one; also when there is one of that name.
pub(crate) fn create(call: &mut Call<'_>, _: &[&str]) -> Served {
    let body = call.object()?;
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
    if !is_tag(name) {
        let body = json!({ "error": "invalid tag name", "messages": [format!("{name} is not valid")], "root_causes": [] });
        return Ok(Response::json(400, &body));
    }
    let tag = call.world.canonical_tag(name);
    Ok(Response::json(201, &json!({ "tag": written(call.world, &tag) })))
}

fn known(world: &World, parts: &[&str]) -> Result<String, Fail> {
    let name = parts.get(1).map(|name| name.to_lowercase()).unwrap_or_default();
    world.tags.get(&name).cloned().ok_or_else(Fail::not_found)
}

pub(crate) fn one(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let tag = known(call.world, parts)?;
    Ok(Response::json(200, &json!({ "tag": written(call.world, &tag) })))
}

pub(crate) fn delete(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let tag = known(call.world, parts)?;
    call.world.tags.remove(&tag.to_lowercase());
    for droplet in call.world.droplets.values_mut() {
        droplet.tags.remove(&tag);
    }
    call.world.snapshots.values_mut().for_each(|snapshot| snapshot.tags.retain(|own| *own != tag));
    Ok(Response::empty())
}

enum Resource {
    Droplet(u64),
    Image(u64),
}

/// What a body names, all of which has to be there.
fn resources(call: &Call<'_>) -> Result<Vec<Resource>, Fail> {
    let body = call.object()?;
    let list = body.get("resources").and_then(Value::as_array).ok_or_else(|| Fail::unprocessable("resources is missing"))?;
    let mut found = Vec::new();
    for resource in list {
        let id = resource["resource_id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default();
        let living = |id: &u64| call.world.droplets.get(id).is_some_and(|droplet| droplet.deleted_ms.is_none());
        found.push(match resource["resource_type"].as_str() {
            Some("droplet") if living(&id) => Resource::Droplet(id),
            Some("image") if call.world.found_snapshot(id).is_some() => Resource::Image(id),
            _ => return Err(Fail::not_found()),
        });
    }
    Ok(found)
}

pub(crate) fn put(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let tag = known(call.world, parts)?;
    let seen_ms = call.world.now_ms.saturating_add(call.world.setup.latencies.tagged);
    for resource in resources(call)? {
        match resource {
            Resource::Droplet(id) => {
                if let Some(droplet) = call.world.droplets.get_mut(&id) {
                    droplet.tags.entry(tag.clone()).or_insert(seen_ms);
                }
            }
            Resource::Image(id) => {
                if let Some(snapshot) = call.world.snapshots.get_mut(&id).filter(|snapshot| !snapshot.tags.contains(&tag)) {
                    snapshot.tags.push(tag.clone());
                }
            }
        }
    }
    Ok(Response::empty())
}

pub(crate) fn take(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let tag = known(call.world, parts)?;
    for resource in resources(call)? {
        match resource {
            Resource::Droplet(id) => {
                if let Some(droplet) = call.world.droplets.get_mut(&id) {
                    droplet.tags.remove(&tag);
                }
            }
            Resource::Image(id) => {
                if let Some(snapshot) = call.world.snapshots.get_mut(&id) {
                    snapshot.tags.retain(|own| *own != tag);
                }
            }
        }
    }
    Ok(Response::empty())
}
