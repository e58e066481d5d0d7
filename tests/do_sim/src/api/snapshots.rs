//! Snapshots that there are.

use serde_json::json;

use super::droplets::found;
use super::page::page;
use super::{Call, Fail, Served, number, shape};
use crate::request::Response;

pub(crate) fn list(call: &mut Call<'_>, _: &[&str]) -> Served {
    let all = match call.param("resource_type") {
        None | Some("droplet") => call.world.listed_snapshots().into_iter().map(shape::snapshot).collect(),
        Some(_) => Vec::new(),
    };
    Ok(page(call, "snapshots", all))
}

pub(crate) fn of_droplet(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let id = found(call.world, parts)?.id;
    let all = call.world.listed_snapshots();
    let own = all.into_iter().filter(|snapshot| snapshot.droplet == id).map(shape::droplet_snapshot).collect();
    Ok(page(call, "snapshots", own))
}

pub(crate) fn one(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let snapshot = call.world.found_snapshot(number(parts, 1)?).ok_or_else(Fail::not_found)?;
    Ok(Response::json(200, &json!({ "snapshot": shape::snapshot(snapshot) })))
}

pub(crate) fn delete(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let id = number(parts, 1)?;
    if call.world.setup.images.iter().any(|image| image.id == id) {
        return Err(Fail::bad("the resource is not a snapshot"));
    }
    delete_image(call, parts)
}

pub(crate) fn delete_image(call: &mut Call<'_>, parts: &[&str]) -> Served {
    let id = number(parts, 1)?;
    if call.world.setup.images.iter().any(|image| image.id == id) {
        return Err(Fail { status: 403, id: "forbidden", message: "You do not have access for the attempted action.".to_owned() });
    }
    if call.world.snapshots.get(&id).is_none_or(|snapshot| snapshot.deleted_ms.is_some()) {
        return Err(Fail::not_found());
    }
    call.world.end_snapshot(id);
    Ok(Response::empty())
}
