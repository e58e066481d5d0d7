//! How things are written in answers.

use serde_json::{Value, json};

use crate::setup::{Image, Size};
use crate::world::World;
use crate::world::action::Action;
use crate::world::droplet::{Droplet, Status};
use crate::world::snapshot::Snapshot;

/// A time as the API writes it.
pub(crate) fn time(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// A price of thousandths of a cent, in dollars.
fn dollars(price: u64) -> Value {
    format!("{}.{:05}", price / 100_000, price % 100_000).parse::<f64>().map_or(Value::Null, Value::from)
}

fn region_slugs(world: &World) -> Vec<&str> {
    world.setup.regions.iter().map(|(slug, _)| slug.as_str()).collect()
}

pub(crate) fn region(world: &World, slug: &str) -> Value {
    let name = world.setup.regions.iter().find(|(known, _)| known == slug).map_or(slug, |(_, name)| name.as_str());
    let sizes = world.setup.sizes.iter().filter(|size| size.regions.is_empty() || size.regions.iter().any(|known| known == slug));
    let sizes: Vec<&str> = sizes.map(|size| size.slug.as_str()).collect();
    json!({
        "name": name, "slug": slug, "available": true, "sizes": sizes,
        "features": ["backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer"],
    })
}

pub(crate) fn size(world: &World, size: &Size) -> Value {
    let regions: Vec<&str> = match size.regions.as_slice() {
        [] => region_slugs(world),
        own => own.iter().map(String::as_str).collect(),
    };
    json!({
        "slug": size.slug, "memory": size.memory, "vcpus": size.vcpus, "disk": size.disk, "transfer": size.vcpus,
        "price_monthly": dollars(size.hourly * 672), "price_hourly": dollars(size.hourly), "regions": regions, "available": true,
        "description": "Basic", "disk_info": [{ "type": "local", "size": { "amount": size.disk, "unit": "gib" } }],
    })
}

pub(crate) fn image(world: &World, image: &Image) -> Value {
    json!({
        "id": image.id, "name": image.name, "type": "base", "distribution": image.distribution, "slug": image.slug, "public": true,
        "regions": region_slugs(world), "created_at": time(world.setup.begins_at_ms.saturating_sub(90 * 86_400_000)), "min_disk_size": image.min_disk,
        "size_gigabytes": 0.63, "description": image.name, "tags": [], "status": "available",
    })
}

/// A snapshot as the image that it is.
pub(crate) fn snapshot_image(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id, "name": snapshot.name, "type": "snapshot", "distribution": snapshot.distribution, "slug": null, "public": false,
        "regions": [snapshot.region], "created_at": time(snapshot.created_ms), "min_disk_size": snapshot.min_disk,
        "size_gigabytes": 2.34, "description": "", "tags": snapshot.tags, "status": "available",
    })
}

/// What a droplet was made from: also when that is gone.
fn made_from(world: &World, id: u64) -> Value {
    let public = world.setup.images.iter().find(|image| image.id == id).map(|found| image(world, found));
    public.or_else(|| world.snapshots.get(&id).map(snapshot_image)).unwrap_or(Value::Null)
}

/// A snapshot as listings of snapshots write it: its number is text.
pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id.to_string(), "name": snapshot.name, "created_at": time(snapshot.created_ms), "regions": [snapshot.region],
        "min_disk_size": snapshot.min_disk, "size_gigabytes": 2.34, "resource_id": snapshot.droplet.to_string(),
        "resource_type": "droplet", "tags": snapshot.tags,
    })
}

/// A snapshot as a droplet's own listing writes it: its number is a number.
pub(crate) fn droplet_snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id, "name": snapshot.name, "type": "snapshot", "created_at": time(snapshot.created_ms),
        "regions": [snapshot.region], "min_disk_size": snapshot.min_disk, "size_gigabytes": 2.34, "distribution": snapshot.distribution,
        "slug": null, "public": false,
    })
}

pub(crate) fn action(world: &World, action: &Action) -> Value {
    let slug = world.droplets.get(&action.droplet).map_or("", |droplet| droplet.region.as_str());
    json!({
        "id": action.id, "status": action.progress.as_str(), "type": action.change.kind(), "started_at": time(action.started_ms),
        "completed_at": action.ended_ms.map(time), "resource_id": action.droplet, "resource_type": "droplet",
        "region": region(world, slug), "region_slug": slug,
    })
}

pub(crate) fn droplet(world: &World, droplet: &Droplet) -> Value {
    let plan = world.setup.sizes.iter().find(|size| size.slug == droplet.size);
    let (memory, vcpus) = plan.map_or((0, 0), |size| (size.memory, size.vcpus));
    let own = world.listed_snapshots();
    let snapshots: Vec<u64> = own.iter().filter(|snapshot| snapshot.droplet == droplet.id).map(|snapshot| snapshot.id).collect();
    let networks = match droplet.status {
        Status::New => json!({ "v4": [], "v6": [] }),
        Status::Active | Status::Off => json!({ "v4": [
            { "ip_address": droplet.private_ip(), "netmask": "255.255.240.0", "gateway": "10.108.0.1", "type": "private" },
            { "ip_address": droplet.ip(), "netmask": "255.255.240.0", "gateway": "203.0.0.1", "type": "public" },
        ], "v6": [] }),
    };
    let mut written = json!({
        "id": droplet.id, "name": droplet.name, "memory": memory, "vcpus": vcpus, "disk": droplet.disk,
        "disk_info": [{ "type": "local", "size": { "amount": droplet.disk, "unit": "gib" } }],
        "locked": droplet.is_locked(), "status": droplet.shows(world.now_ms).as_str(), "kernel": null,
        "created_at": time(droplet.created_ms), "features": droplet.features, "backup_ids": [], "next_backup_window": null,
        "snapshot_ids": snapshots, "image": made_from(world, droplet.image), "volume_ids": [],
        "size": plan.map(|plan| size(world, plan)), "size_slug": droplet.size, "networks": networks,
        "region": region(world, &droplet.region), "tags": droplet.shown_tags(world.now_ms),
    });
    if let Some(object) = written.as_object_mut() {
        object.insert("vpc_uuid".to_owned(), json!(droplet.vpc));
    }
    written
}
