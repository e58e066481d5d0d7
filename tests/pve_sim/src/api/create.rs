//! Guests come, are copied, move and go.
//!
//! Source: `create_vm`, `clone_vm`, `destroy_vm` and `migrate_vm` in `PVE::API2::Qemu` and `PVE::API2::LXC`.

use super::{Call, Fail, Outcome, check_lock, check_protection, config, permissions};
use crate::normal::drive::Drive;
use crate::work::{Clone, Create, Restore, Work};
use crate::world::World;
use crate::world::guest::{Config, Guest, Kind};

const NOT_CONFIG: [&str; 20] = [
    "vmid",
    "archive",
    "storage",
    "force",
    "unique",
    "live-restore",
    "pool",
    "bwlimit",
    "start",
    "ha-managed",
    "import-working-storage",
    "ostemplate",
    "password",
    "restore",
    "ignore-unpack-errors",
    "ssh-public-keys",
    "node",
    "digest",
    "delete",
    "revert",
];

/// `POST /nodes/{node}/qemu` and `lxc`: a new guest, or one from a backup.
pub(crate) fn create(world: &mut World, call: &Call) -> Outcome {
    let vmid = call.number("vmid").and_then(|vmid| u32::try_from(vmid).ok()).unwrap_or(0);
    let call =
        &Call { vmid, names: call.names.clone(), params: call.params.clone(), who: call.who.clone(), node: call.node.clone(), ..*call };
    let archive = match call.kind {
        Kind::Qemu => call.get("archive").map(str::to_owned),
        Kind::Lxc => call.get("ostemplate").filter(|_| call.is("restore")).map(str::to_owned),
    };
    let (pool, default) = (call.get("pool").map(str::to_owned), call.get("storage").map(str::to_owned));
    check_allocate(world, call, archive.is_some(), pool.as_deref())?;
    let given: Config =
        call.params.iter().filter(|(key, _)| !NOT_CONFIG.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    config::check_keys(&call.params)?;
    let mut set = config::kept(call.kind, &given)?;
    if let (Some(_), Some(key)) = (&archive, set.keys().find(|key| call.kind == Kind::Qemu && call.kind.is_drive(key))) {
        return Err(Fail::bad(key, "option conflicts with option 'archive'"));
    }
    match call.kind {
        Kind::Qemu => {
            config::alias_cdrom(&mut set);
            config::normalise_machine(world, &mut set)?;
            permissions::check_machine_keys(world, &call.who, vmid, pool.as_deref(), set.keys())?;
            permissions::check_devices(world, &call.who, vmid, pool.as_deref(), &set)?;
        }
        Kind::Lxc => {
            let is_unprivileged = set.get("unprivileged").is_none_or(|yes| yes == "1");
            permissions::check_container_keys(world, &call.who, vmid, pool.as_deref(), &set, &[], is_unprivileged)?;
            check_container_storages(world, call, &set, default.as_deref())?;
        }
    }
    permissions::check_storages(world, call, call.kind, &set, default.as_deref())?;
    permissions::check_bridges(world, &call.who, &set)?;
    if let Some(volid) = &archive {
        check_archive(world, call, volid)?;
    }
    reserve(world, call, archive.is_some())?;
    let (start, force) = (call.is("start"), call.is("force"));
    let (node, kind) = (call.node.clone(), call.kind);
    let (name, work) = match archive {
        Some(archive) => {
            let restore = Restore { vmid, kind, archive, storage: default, unique: call.is("unique"), set, start, force };
            ("restore", Work::Restore(Box::new(restore)))
        }
        None => {
            let template = call.get("ostemplate").map(str::to_owned);
            let ha = call.is("ha-managed");
            ("create", Work::Create(Box::new(Create { vmid, kind, node, set, storage: default, template, pool, start, ha })))
        }
    };
    world.fork(call, &format!("{}{name}", kind.prefix()), &vmid.to_string(), work)
}

fn check_allocate(world: &World, call: &Call, is_restore: bool, pool: Option<&str>) -> Result<(), Fail> {
    if let Some(pool) = pool
        && !world.setup.pools.contains_key(pool)
    {
        return Err(Fail::die(format!("pool '{pool}' does not exist")));
    }
    if let Some(storage) = call.get("storage") {
        world.check(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    if call.is("ha-managed") {
        world.check(&call.who, "/", &["Sys.Console"])?;
    }
    if call.is("start") {
        permissions::check_vm(world, &call.who, call.vmid, pool, &["VM.PowerMgmt"])?;
    }
    let is_overwritten = is_restore && call.is("force") && world.guests.contains_key(&call.vmid);
    let is_allowed = world.may(&call.who, &call.vm_path(), "VM.Allocate")
        || pool.is_some_and(|pool| world.may(&call.who, &format!("/pool/{pool}"), "VM.Allocate"))
        || (is_overwritten && world.may(&call.who, &call.vm_path(), "VM.Backup"));
    if is_allowed { Ok(()) } else { Err(Fail::denied("")) }
}

fn check_container_storages(world: &World, call: &Call, set: &Config, default: Option<&str>) -> Result<(), Fail> {
    if set.contains_key("rootfs") {
        return Ok(());
    }
    if set.keys().any(|key| key.starts_with("mp")) {
        return Err(Fail::die("mount points configured, but 'rootfs' not set - aborting"));
    }
    let storage = default.unwrap_or("local");
    permissions::check_content(world, Kind::Lxc, storage)?;
    world.check(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    let template = call.text("ostemplate");
    if !call.is("restore") && super::drives::size_of(world, &template).is_none() {
        return Err(Fail::die(format!("volume '{template}' does not exist")));
    }
    Ok(())
}

/// Source: `PVE::Storage::check_volume_access` for a backup.
fn check_archive(world: &World, call: &Call, volid: &str) -> Result<(), Fail> {
    let Some((storage, name)) = volid.split_once(':') else { return Err(Fail::die(format!("unable to parse volume ID '{volid}'"))) };
    let found = world.storages.get(storage).ok_or_else(|| Fail::die(format!("storage '{storage}' does not exist")))?;
    let Some(volume) = found.volumes.get(name) else { return Err(Fail::die(format!("volume '{volid}' does not exist"))) };
    let path = format!("/storage/{storage}");
    if world.may(&call.who, &path, "Datastore.Allocate") {
        return Ok(());
    }
    world.check(&call.who, &path, &["Datastore.AllocateSpace"])?;
    let owner = volume.vmid.unwrap_or(call.vmid);
    world.check(&call.who, &format!("/vms/{owner}"), &["VM.Backup"])
}

/// Takes the number, by a config that is locked. Source: `PVE::AbstractConfig::create_and_lock_config`.
fn reserve(world: &mut World, call: &Call, is_restore: bool) -> Result<(), Fail> {
    let (kind, vmid) = (call.kind, call.vmid);
    let what = if is_restore { "restore" } else { "create" };
    let words = |why: &str| Fail::die(format!("unable to {what} {} {vmid} - {why}", kind.word()));
    world.take_file(vmid)?;
    if let Some(there) = world.guests.get(&vmid) {
        let exists = format!("{} {vmid} already exists on node '{}'", there.kind.word(), there.node);
        let is_other = there.kind != kind || there.node != call.node;
        if !(is_restore && call.is("force")) || is_other {
            return Err(words(&exists));
        }
        check_lock(there).map_err(|why| words(&why))?;
        world.edit(vmid, |guest| guest.conf.insert("lock".to_owned(), "create".to_owned()));
        return Ok(());
    }
    world.place(kind, vmid, &call.node, Config::from([("lock".to_owned(), "create".to_owned())]));
    Ok(())
}

/// `POST …/clone`
pub(crate) fn clone(world: &mut World, call: &Call) -> Outcome {
    let newid = call.number("newid").and_then(|vmid| u32::try_from(vmid).ok()).unwrap_or(0);
    let target = call.get("target").filter(|target| *target != call.node).map(str::to_owned);
    let clone = Clone {
        vmid: call.vmid,
        newid,
        kind: call.kind,
        node: call.node.clone(),
        name: call.get("name").or_else(|| call.get("hostname")).map(str::to_owned),
        description: call.get("description").map(str::to_owned),
        snapshot: call.get("snapname").map(str::to_owned),
        storage: call.get("storage").map(str::to_owned),
        format: call.get("format").map(str::to_owned),
        full: call.get("full").map(crate::normal::property::is_yes),
        pool: call.get("pool").map(str::to_owned),
        target,
        was_running: world.guest_of(call).is_ok_and(Guest::is_running),
    };
    check_clone(world, call, &clone)?;
    if call.kind == Kind::Lxc {
        // A container's copy is reserved, and its source locked, before there is a worker.
        world.place(Kind::Lxc, newid, &call.node, Config::from([("lock".to_owned(), "create".to_owned())]));
        world.edit(call.vmid, |guest| guest.conf.insert("lock".to_owned(), "disk".to_owned()));
    }
    world.fork(call, &format!("{}clone", call.kind.prefix()), &call.vmid.to_string(), Work::Clone(Box::new(clone)))
}

fn check_clone(world: &World, call: &Call, clone: &Clone) -> Result<(), Fail> {
    if let Some(pool) = &clone.pool
        && !world.setup.pools.contains_key(pool)
    {
        return Err(Fail::die(format!("pool '{pool}' does not exist")));
    }
    if let Some(target) = &clone.target
        && !world.setup.nodes.contains(target)
    {
        return Err(Fail::die(format!("no such cluster node '{target}'")));
    }
    if let Some(storage) = &clone.storage {
        permissions::check_content(world, call.kind, storage)?;
    }
    world.check_clone(clone).map_err(Fail::die)?;
    let guest = world.guest_of(call)?;
    let config = clone.snapshot.as_ref().and_then(|name| guest.snapshots.get(name)).unwrap_or(&guest.conf);
    for (_, value) in config.iter().filter(|(key, _)| call.kind.is_drive(key)) {
        let Some(drive) = Drive::parse(value).filter(|drive| !drive.is_cdrom()) else { continue };
        if let Some((storage, _)) = drive.volume() {
            let storage = clone.storage.as_deref().unwrap_or(storage);
            world.check(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        }
    }
    permissions::check_bridges(world, &call.who, config)
}

/// `DELETE /nodes/{node}/{kind}/{vmid}`
pub(crate) fn destroy(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock"])?;
    let (purge, force) = (call.is("purge"), call.is("force"));
    check_destroy(world, call.kind, &call.node, call.vmid, purge, force).map_err(Fail::die)?;
    if call.kind == Kind::Lxc {
        check_lock(world.guest_of(call)?).map_err(Fail::die)?;
    }
    let work = Work::Destroy {
        vmid: call.vmid,
        kind: call.kind,
        node: call.node.clone(),
        purge,
        force,
        all_disks: call.is("destroy-unreferenced-disks"),
        skiplock: call.is("skiplock"),
    };
    world.fork(call, &format!("{}destroy", call.kind.prefix()), &call.vmid.to_string(), work)
}

/// What is checked at once, and again by the worker.
pub(crate) fn check_destroy(world: &World, kind: Kind, node: &str, vmid: u32, purge: bool, force: bool) -> Result<(), String> {
    let guest = world.config_of(kind, node, vmid)?;
    let word = kind.word();
    check_protection(guest, &format!("can't remove {word} {vmid}"))?;
    if !purge && world.setup.ha.contains(&vmid) {
        return Err(format!("unable to remove {word} {vmid} - used in HA resources and purge parameter not set."));
    }
    if !purge && world.setup.replicated.contains(&vmid) {
        return Err(format!("There is a replication job '{vmid}-0' for guest '{vmid}' - Please remove that first."));
    }
    if guest.is_running() {
        return match kind {
            Kind::Qemu => Err(format!("VM {vmid} is running - destroy failed")),
            Kind::Lxc if force => Ok(()),
            Kind::Lxc => Err(format!("unable to destroy CT {vmid} - container is running")),
        };
    }
    Ok(())
}

/// `POST …/migrate`
pub(crate) fn migrate(world: &mut World, call: &Call) -> Outcome {
    let target = call.text("target");
    if target == call.node {
        return Err(Fail::bad("target", "target is local node."));
    }
    if !world.setup.nodes.contains(&target) {
        return Err(Fail::die(format!("no such cluster node '{target}'")));
    }
    call.only_root(&["force"])?;
    let guest = world.guest_of(call)?;
    check_lock(guest).map_err(Fail::die)?;
    let is_running = guest.is_running();
    if is_running && call.kind == Kind::Qemu && !call.is("online") {
        return Err(Fail::die("can't migrate running VM without --online"));
    }
    if is_running && call.kind == Kind::Lxc && !call.is("restart") {
        let words = if call.is("online") {
            "live migration of containers is not supported"
        } else {
            "can't migrate running container without --online or --restart"
        };
        return Err(Fail::die(words));
    }
    if world.setup.ha.contains(&call.vmid) {
        return world.fork(call, "hamigrate", &call.vmid.to_string(), Work::HaMigrate { vmid: call.vmid, target });
    }
    let work =
        Work::Migrate { vmid: call.vmid, kind: call.kind, node: call.node.clone(), target, local_disks: call.is("with-local-disks") };
    let kind = if call.kind == Kind::Qemu { "qmigrate" } else { "vzmigrate" };
    world.fork(call, kind, &call.vmid.to_string(), work)
}
