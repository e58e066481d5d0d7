//! What the account has from the start: regions, sizes, images, keys.

use serde_json::{Value, json};

use super::page::page;
use super::{Call, Fail, Served, shape};
use crate::request::Response;
use crate::setup::Key;

pub(crate) fn account(call: &mut Call<'_>, _: &[&str]) -> Served {
    let account = json!({
        "droplet_limit": call.world.setup.droplet_limit, "floating_ip_limit": 5, "email": "operator@example.com", "name": "Operator",
        "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef", "email_verified": true, "status": "active", "status_message": " ",
        "team": { "uuid": "5df3e3004a17e242b7c20ca6c9fc25b701a47ece", "name": "Operator" },
    });
    Ok(Response::json(200, &json!({ "account": account })))
}

fn key_json(key: &Key) -> Value {
    json!({ "id": key.id, "name": key.name, "fingerprint": key.fingerprint, "public_key": key.public_key })
}

pub(crate) fn keys(call: &mut Call<'_>, _: &[&str]) -> Served {
    let all = call.world.setup.keys.iter().map(key_json).collect();
    Ok(page(call, "ssh_keys", all))
}

pub(crate) fn key(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let wanted = parts.last().copied().unwrap_or_default();
    let key = call.world.setup.keys.iter().find(|key| key.fingerprint == wanted || key.id.to_string() == wanted);
    Ok(Response::json(200, &json!({ "ssh_key": key_json(key.ok_or_else(Fail::not_found)?) })))
}

pub(crate) fn regions(call: &mut Call<'_>, _: &[&str]) -> Served {
    let all = call.world.setup.regions.iter().map(|(slug, _)| shape::region(call.world, slug)).collect();
    Ok(page(call, "regions", all))
}

pub(crate) fn sizes(call: &mut Call<'_>, _: &[&str]) -> Served {
    let all = call.world.setup.sizes.iter().map(|size| shape::size(call.world, size)).collect();
    Ok(page(call, "sizes", all))
}

pub(crate) fn images(call: &mut Call<'_>, _: &[&str]) -> Served {
    let world = &*call.world;
    let own = world.listed_snapshots().into_iter().map(shape::snapshot_image);
    let public = world.setup.images.iter().map(|image| shape::image(world, image));
    let tag = call.param("tag_name").map(str::to_lowercase);
    let is_private = call.param("private") == Some("true");
    let all = match (call.param("type"), tag) {
        (Some("distribution"), _) => public.collect(),
        (Some(_), _) => Vec::new(),
        (None, Some(tag)) => own.filter(|image| has_tag(image, &tag)).collect(),
        (None, None) if is_private => own.collect(),
        (None, None) => public.chain(own).collect(),
    };
    Ok(page(call, "images", all))
}

fn has_tag(image: &Value, tag: &str) -> bool {
    image["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).any(|own| own.to_lowercase() == tag)
}

pub(crate) fn image(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let wanted = parts.last().copied().unwrap_or_default();
    let world = &*call.world;
    let public = world.setup.images.iter().find(|image| image.slug == wanted || image.id.to_string() == wanted);
    let own = || wanted.parse().ok().and_then(|id| world.found_snapshot(id)).map(shape::snapshot_image);
    let image = public.map(|image| shape::image(world, image)).or_else(own).ok_or_else(Fail::not_found)?;
    Ok(Response::json(200, &json!({ "image": image })))
}
