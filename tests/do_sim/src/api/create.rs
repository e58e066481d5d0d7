//! Making droplets.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::tags::is_tag;
use super::{Call, Fail, Served, shape};
use crate::request::Response;
use crate::world::World;
use crate::world::droplet::Wanted;

/// Longer words for a first boot are not taken, in bytes.
const USER_DATA_MAX: usize = 64 << 10;
/// So many droplets are made by one call.
const NAMES_MAX: usize = 10;

#[allow(clippy::expect_used, reason = "a fixed pattern")]
static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]$").expect("a pattern"));

/// Whether a droplet may be called so.
pub(crate) fn check_name(name: &str) -> Result<(), Fail> {
    if name.len() > 255 || !NAME.is_match(name) {
        return Err(Fail::unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)"));
    }
    Ok(())
}

/// `POST /v2/droplets`. That it answers 202 says nothing of what becomes of them.
pub(crate) fn create(call: &mut Call<'_>, _: &[&str]) -> Served {
    let body = call.object()?;
    let (names, is_one) = names(&body)?;
    let wanted = wanted(call.world, &body)?;
    if call.world.living().len() + names.len() > call.world.setup.droplet_limit {
        return Err(Fail::unprocessable("creating this/these droplet(s) will exceed your droplet limit"));
    }
    let (mut droplets, mut links) = (Vec::new(), Vec::new());
    for name in names {
        let (id, action) = call.world.begin_droplet(Wanted { name, ..wanted.clone() }, &call.token);
        // Tags come later, but the answer names what was asked for.
        if let Some(droplet) = call.world.droplets.get(&id) {
            let mut droplet = shape::droplet(call.world, droplet);
            if let Some(tags) = droplet.get_mut("tags") {
                *tags = json!(wanted.tags);
            }
            droplets.push(droplet);
        }
        links.push(json!({ "id": action, "rel": "create", "href": format!("{}/v2/actions/{action}", call.base) }));
    }
    let links = json!({ "actions": links });
    let answer = match (droplets.first(), is_one) {
        (Some(droplet), true) => json!({ "droplet": droplet, "links": links }),
        _ => json!({ "droplets": droplets, "links": links }),
    };
    Ok(Response::json(202, &answer))
}

fn names(body: &Map<String, Value>) -> Result<(Vec<String>, bool), Fail> {
    let (names, is_one) = match (body.get("name"), body.get("names")) {
        (Some(Value::String(name)), None) => (vec![name.clone()], true),
        (None, Some(Value::Array(names))) => (names.iter().filter_map(Value::as_str).map(str::to_owned).collect(), false),
        _ => return Err(Fail::unprocessable("Name can't be blank")),
    };
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(Fail::unprocessable("You can only create up to 10 droplets at a time."));
    }
    names.iter().try_for_each(|name| check_name(name))?;
    Ok((names, is_one))
}

fn wanted(world: &World, body: &Map<String, Value>) -> Result<Wanted, Fail> {
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    let bad = |what: &str| Fail::unprocessable(&format!("You specified an invalid {what} for Droplet creation."));
    let size = world.setup.sizes.iter().find(|size| text("size") == Some(size.slug.as_str())).ok_or_else(|| bad("size"))?;
    let regions = world.setup.regions.iter().map(|(slug, _)| slug.as_str());
    let is_sold = |region: &&str| size.regions.is_empty() || size.regions.iter().any(|known| known == region);
    let region = match body.get("region").filter(|region| !region.is_null()) {
        Some(region) => regions.into_iter().find(|known| region.as_str() == Some(*known)).ok_or_else(|| bad("region"))?,
        None => regions.into_iter().find(is_sold).ok_or_else(|| bad("region"))?,
    };
    if !is_sold(&region) {
        return Err(Fail::unprocessable("Size is not available in this region."));
    }
    let image = image(world, body.get("image").unwrap_or(&Value::Null), region).ok_or_else(|| bad("image"))?;
    if image.1 > size.disk {
        return Err(Fail::unprocessable("Image is too large for this size: it needs a larger disk."));
    }
    let user_data = text("user_data").unwrap_or_default();
    if user_data.len() > USER_DATA_MAX {
        return Err(Fail::unprocessable("User data is too long (maximum is 64KB)"));
    }
    if body.get("volumes").and_then(Value::as_array).is_some_and(|volumes| !volumes.is_empty()) {
        return Err(Fail::unprocessable("A volume that was specified does not exist."));
    }
    Ok(Wanted {
        name: String::new(),
        region: region.to_owned(),
        size: size.slug.clone(),
        disk: size.disk,
        image: image.0,
        tags: tags(body)?,
        ssh_keys: ssh_keys(world, body)?,
        user_data: user_data.to_owned(),
        vpc: text("vpc_uuid").map(str::to_owned),
        features: features(body),
    })
}

/// The number of an image, and the disk that it needs, if a droplet can be made from it there.
fn image(world: &World, wanted: &Value, region: &str) -> Option<(u64, u64)> {
    let id = wanted.as_u64().or_else(|| wanted.as_str()?.parse().ok());
    let public = world.setup.images.iter().find(|image| wanted.as_str() == Some(image.slug.as_str()) || id == Some(image.id));
    let own = || id.and_then(|id| world.found_snapshot(id)).filter(|own| own.region == region).map(|own| (own.id, own.min_disk));
    public.map(|image| (image.id, image.min_disk)).or_else(own)
}

fn tags(body: &Map<String, Value>) -> Result<Vec<String>, Fail> {
    let tags = body.get("tags").and_then(Value::as_array).into_iter().flatten();
    let tags: Vec<String> = tags.filter_map(Value::as_str).map(str::to_owned).collect();
    match tags.iter().find(|tag| !is_tag(tag)) {
        Some(tag) => Err(Fail::unprocessable(&format!("Tag name {tag} is not valid"))),
        None => Ok(tags),
    }
}

fn ssh_keys(world: &World, body: &Map<String, Value>) -> Result<Vec<String>, Fail> {
    let keys = body.get("ssh_keys").and_then(Value::as_array).into_iter().flatten();
    let keys: Vec<String> = keys.map(|key| key.as_str().map_or_else(|| key.to_string(), str::to_owned)).collect();
    let is_known = |wanted: &str| world.setup.keys.iter().any(|key| key.fingerprint == wanted || key.id.to_string() == wanted);
    match keys.iter().find(|key| !is_known(key)) {
        Some(key) => Err(Fail::unprocessable(&format!("{key} are invalid key identifiers for Droplet creation."))),
        None => Ok(keys),
    }
}

fn features(body: &Map<String, Value>) -> Vec<String> {
    let is_on = |key: &str| body.get(key) == Some(&Value::Bool(true));
    let mut features: Vec<String> = vec!["droplet_agent".to_owned(), "private_networking".to_owned()];
    if body.get("with_droplet_agent") == Some(&Value::Bool(false)) {
        features.remove(0);
    }
    features.extend(["backups", "ipv6", "monitoring"].into_iter().filter(|key| is_on(key)).map(str::to_owned));
    features
}
