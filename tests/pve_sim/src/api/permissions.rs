//! What callers must be granted: per call, and per key of a guest's config.
//!
//! Source: `PVE::RPCEnvironment::exec_api2_perm_check`, `check_vm_modify_config_perm`, `PVE::LXC::check_ct_modify_config_perm`.

use super::routes::Needs;
use super::{Call, Fail};
use crate::normal::drive::{Drive, is_machine_drive, is_unused, split};
use crate::normal::property;
use crate::world::World;
use crate::world::access::is_root;
use crate::world::guest::{Config, Kind};

/// Checks what a call needs.
pub(crate) fn check(world: &World, needs: Needs, call: &Call) -> Result<(), Fail> {
    match needs {
        Needs::Login => Ok(()),
        Needs::All(path, privileges) => world.check(&call.who, &filled(path, call), privileges),
        Needs::Any(path, privileges) => world.check_any(&call.who, &filled(path, call), privileges),
        Needs::Clone => {
            world.check(&call.who, &call.vm_path(), &["VM.Clone"])?;
            let is_new = world.may(&call.who, &format!("/vms/{}", call.text("newid")), "VM.Allocate");
            let is_pool = call.get("pool").is_some_and(|pool| world.may(&call.who, &format!("/pool/{pool}"), "VM.Allocate"));
            if is_new || is_pool { Ok(()) } else { Err(Fail::denied("")) }
        }
    }
}

fn filled(path: &str, call: &Call) -> String {
    call.names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
}

/// Checks at a guest, or at the pool into which it is to come.
pub(crate) fn check_vm(world: &World, who: &str, vmid: u32, pool: Option<&str>, privileges: &[&str]) -> Result<(), Fail> {
    if let Some(pool) = pool
        && world.check(who, &format!("/pool/{pool}"), privileges).is_ok()
    {
        return Ok(());
    }
    world.check(who, &format!("/vms/{vmid}"), privileges)
}

/// Which privilege a key of a virtual machine needs; nothing for those whose value decides, or whose change is checked elsewhere.
enum Rule {
    Elsewhere,
    One(&'static str),
    Either(&'static str, &'static str),
    Root,
}

fn machine_rule(key: &str) -> Rule {
    if is_machine_drive(key) || is_unused(key) || key == "cdrom" || key == "tags" {
        return Rule::Elsewhere;
    }
    let (stem, number) = split(key);
    match key {
        "cores" | "cpu" | "runningcpu" | "cpulimit" | "cpuunits" | "numa" | "smp" | "sockets" | "vcpus" => {
            return Rule::One("VM.Config.CPU");
        }
        "memory" | "balloon" | "shares" | "allow-ksm" => return Rule::One("VM.Config.Memory"),
        "acpi" | "hotplug" | "kvm" | "machine" | "runningmachine" | "scsihw" | "smbios1" | "tablet" | "vga" | "watchdog" | "audio0"
        | "rng0" => return Rule::One("VM.Config.HWType"),
        "agent" | "autostart" | "bios" | "description" | "keyboard" | "localtime" | "migrate_downtime" | "migrate_speed" | "name"
        | "onboot" | "ostype" | "protection" | "reboot" | "startdate" | "startup" | "tdf" | "template" => {
            return Rule::One("VM.Config.Options");
        }
        "freeze" => return Rule::One("VM.PowerMgmt"),
        "boot" | "bootdisk" | "vmstatestorage" | "vmstate" => return Rule::One("VM.Config.Disk"),
        "cicustom" | "cipassword" | "citype" | "ciuser" | "ciupgrade" | "nameserver" | "searchdomain" | "sshkeys" => {
            return Rule::Either("VM.Config.Cloudinit", "VM.Config.Network");
        }
        _ => {}
    }
    match (stem, number) {
        ("numa", Some(_)) => Rule::One("VM.Config.CPU"),
        ("net", Some(_)) => Rule::One("VM.Config.Network"),
        ("ipconfig", Some(_)) => Rule::Either("VM.Config.Cloudinit", "VM.Config.Network"),
        ("serial" | "usb" | "hostpci" | "virtiofs", Some(_)) => Rule::Elsewhere,
        // `args`, `lock` and what has come since.
        _ => Rule::Root,
    }
}

/// Checks the keys of a virtual machine that are set or deleted.
pub(crate) fn check_machine_keys<'k>(
    world: &World,
    who: &str,
    vmid: u32,
    pool: Option<&str>,
    keys: impl Iterator<Item = &'k String>,
) -> Result<(), Fail> {
    if is_root(who) {
        return Ok(());
    }
    for key in keys {
        match machine_rule(key) {
            Rule::Elsewhere => {}
            Rule::One(privilege) => check_vm(world, who, vmid, pool, &[privilege])?,
            Rule::Either(one, other) => {
                let path = format!("/vms/{vmid}");
                let is_pool = pool.is_some_and(|pool| world.check_any(who, &format!("/pool/{pool}"), &[one, other]).is_ok());
                if !is_pool {
                    world.check_any(who, &path, &[one, other])?;
                }
            }
            Rule::Root => return Err(Fail::die(format!("only root can set '{key}' config"))),
        }
        if key == "startup" {
            // It changes what the host does.
            world.check(who, "/", &["Sys.Modify"])?;
        }
    }
    Ok(())
}

/// Checks the values of a virtual machine that stand for a device of the host.
pub(crate) fn check_devices(world: &World, who: &str, vmid: u32, pool: Option<&str>, config: &Config) -> Result<(), Fail> {
    if is_root(who) {
        return Ok(());
    }
    for (key, value) in config {
        let device = property::map(value, "host");
        match split(key) {
            ("serial", Some(_)) if value == "socket" => check_vm(world, who, vmid, pool, &["VM.Config.HWType"])?,
            ("serial", Some(_)) => return Err(Fail::die(format!("only root can set '{key}' config for real devices"))),
            ("usb", Some(_)) => {
                check_vm(world, who, vmid, pool, &["VM.Config.HWType"])?;
                match (device.get("host"), device.get("mapping")) {
                    (Some(host), _) if host.eq_ignore_ascii_case("spice") => {}
                    (Some(_), _) => return Err(Fail::die(format!("only root can set '{key}' config for real devices"))),
                    (None, Some(mapping)) => world.check(who, &format!("/mapping/usb/{mapping}"), &["Mapping.Use"])?,
                    (None, None) => return Err(Fail::die("either 'host' or 'mapping' must be set.")),
                }
            }
            ("hostpci", Some(_)) => match (device.get("host"), device.get("mapping")) {
                (Some(_), _) => return Err(Fail::die(format!("only root can set '{key}' config for non-mapped devices"))),
                (None, Some(mapping)) => {
                    world.check(who, &format!("/mapping/pci/{mapping}"), &["Mapping.Use"])?;
                    check_vm(world, who, vmid, pool, &["VM.Config.HWType"])?;
                }
                (None, None) => return Err(Fail::die("either 'host' or 'mapping' must be set.")),
            },
            ("virtiofs", Some(_)) => {
                check_vm(world, who, vmid, pool, &["VM.Config.Disk"])?;
                let shared = property::map(value, "dirid").get("dirid").cloned().unwrap_or_default();
                world.check(who, &format!("/mapping/dir/{shared}"), &["Mapping.Use"])?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks a drive of a virtual machine: what stood there, or what is to.
pub(crate) fn check_drive(world: &World, who: &str, vmid: u32, value: &str) -> Result<(), Fail> {
    let Some(drive) = Drive::parse(value) else { return Ok(()) };
    let privileges: &[&str] = if drive.is_cloudinit() {
        &["VM.Config.Cloudinit", "VM.Config.CDROM"]
    } else if drive.is_cdrom() {
        &["VM.Config.CDROM"]
    } else {
        &["VM.Config.Disk"]
    };
    check_vm(world, who, vmid, None, privileges)
}

/// Checks the storages of drives that are to be made or attached. Source: `check_storage_access`.
pub(crate) fn check_storages(world: &World, call: &Call, kind: Kind, config: &Config, default: Option<&str>) -> Result<(), Fail> {
    for (key, value) in config.iter().filter(|(key, _)| kind.is_drive(key)) {
        let Some(drive) = Drive::parse(value) else { continue };
        if drive.file == "none" || drive.is_cloudinit() {
            continue;
        }
        if drive.is_cdrom() && drive.file == "cdrom" {
            world.check(&call.who, "/", &["Sys.Console"])?;
            continue;
        }
        if let Some(wish) = drive.wish().filter(|_| !drive.is_cdrom()) {
            let storage =
                wish.storage.as_deref().or(default).ok_or_else(|| Fail::die("no storage ID specified (and no default storage)"))?;
            world.check(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            check_content(world, kind, storage)?;
        } else {
            check_volume(world, &call.who, call.vmid, key, &drive)?;
        }
    }
    if let Some(storage) = config.get("vmstatestorage") {
        world.check(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    Ok(())
}

/// Whether a storage is there and holds disks of this kind of guest.
pub(crate) fn check_content(world: &World, kind: Kind, name: &str) -> Result<(), Fail> {
    let storage = world.storages.get(name).ok_or_else(|| Fail::die(format!("storage '{name}' does not exist")))?;
    match kind {
        Kind::Qemu if !storage.content.contains("images") => {
            Err(Fail::bad("storage", format!("storage '{name}' does not support vm images")))
        }
        Kind::Lxc if !storage.content.contains("rootdir") => {
            Err(Fail::bad("storage", format!("storage '{name}' does not support container directories")))
        }
        Kind::Qemu | Kind::Lxc => Ok(()),
    }
}

/// Whether somebody may use a volume that is there. Source: `PVE::Storage::check_volume_access`.
pub(crate) fn check_volume(world: &World, who: &str, vmid: u32, key: &str, drive: &Drive) -> Result<(), Fail> {
    let Some((storage, name)) = drive.volume() else {
        let words = "Only root can pass arbitrary filesystem paths.";
        return if is_root(who) { Ok(()) } else { Err(Fail::die(words)) };
    };
    let known = world.storages.get(storage).ok_or_else(|| Fail::die(format!("storage '{storage}' does not exist")))?;
    let path = format!("/storage/{storage}");
    let is_iso = name.starts_with("iso/");
    if is_iso && !drive.is_cdrom() && key != "cdrom" {
        return Err(Fail::bad(key, "explicit 'media=cdrom' is required for iso images"));
    }
    if is_iso || name.starts_with("vztmpl/") {
        return world.check_any(who, &path, &["Datastore.AllocateSpace", "Datastore.Audit"]);
    }
    let owner = known.volumes.get(name).and_then(|volume| volume.vmid);
    match owner {
        Some(owner) if owner == vmid => Ok(()),
        Some(owner) => {
            world.check(who, &format!("/vms/{owner}"), &["VM.Config.Disk"]).or_else(|_| world.check(who, &path, &["Datastore.Allocate"]))
        }
        None if name.starts_with("snippets/") => world.check(who, &path, &["Datastore.Audit"]),
        None => Ok(()),
    }
}

/// Bridges have to be allowed, too. Source: `PVE::QemuServer::check_bridge_access`.
pub(crate) fn check_bridges(world: &World, who: &str, config: &Config) -> Result<(), Fail> {
    if is_root(who) {
        return Ok(());
    }
    for (_, value) in config.iter().filter(|(key, _)| matches!(split(key), ("net", Some(_)))) {
        let card = property::map(value, "model");
        let Some(bridge) = card.get("bridge") else { continue };
        let path = format!("/sdn/zones/localnetwork/{bridge}");
        let path = card.get("tag").map_or_else(|| path.clone(), |tag| format!("{path}/{tag}"));
        world.check(who, &path, &["SDN.Use"])?;
    }
    Ok(())
}

/// Checks the keys of a container that are set (with values) or deleted (without).
pub(crate) fn check_container_keys(
    world: &World,
    who: &str,
    vmid: u32,
    pool: Option<&str>,
    set: &Config,
    deleted: &[String],
    is_unprivileged: bool,
) -> Result<(), Fail> {
    if is_root(who) {
        return Ok(());
    }
    for key in set.keys().chain(deleted) {
        let (stem, _) = split(key);
        match (key.as_str(), stem) {
            ("cores" | "cpuunits" | "cpulimit", _) => check_vm(world, who, vmid, pool, &["VM.Config.CPU"])?,
            ("rootfs", _) | (_, "mp") => check_mount(world, who, vmid, pool, set.get(key))?,
            ("memory" | "swap", _) => check_vm(world, who, vmid, pool, &["VM.Config.Memory"])?,
            ("nameserver" | "searchdomain" | "hostname", _) | (_, "net") => check_vm(world, who, vmid, pool, &["VM.Config.Network"])?,
            ("features", _) => check_features(world, who, vmid, pool, set.get("features"), is_unprivileged)?,
            ("hookscript", _) => return Err(Fail::denied("configuring a hookscript is only allowed for root@pam")),
            ("lock", _) => return Err(Fail::denied("changing the lock is only allowed for root@pam")),
            (_, "dev") => return Err(Fail::denied("configuring device passthrough is only allowed for root@pam")),
            ("tags" | "unprivileged", _) => {}
            ("startup", _) => {
                check_vm(world, who, vmid, pool, &["VM.Config.Options"])?;
                world.check(who, "/", &["Sys.Modify"])?;
            }
            _ => check_vm(world, who, vmid, pool, &["VM.Config.Options"])?,
        }
    }
    Ok(())
}

/// Only volumes are for everybody, and new ones need room on their storage.
fn check_mount(world: &World, who: &str, vmid: u32, pool: Option<&str>, value: Option<&String>) -> Result<(), Fail> {
    check_vm(world, who, vmid, pool, &["VM.Config.Disk"])?;
    let Some(drive) = value.and_then(|value| Drive::parse(value)) else { return Ok(()) };
    if drive.file.starts_with('/') {
        let kind = if drive.file.starts_with("/dev/") { "device" } else { "bind" };
        return Err(Fail::denied(&format!("mount point type {kind} is only allowed for root@pam")));
    }
    match drive.wish() {
        Some(wish) => match wish.storage {
            Some(storage) => world.check(who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"]),
            None => Ok(()),
        },
        None => check_volume(world, who, vmid, "", &drive),
    }
}

fn check_features(
    world: &World,
    who: &str,
    vmid: u32,
    pool: Option<&str>,
    value: Option<&String>,
    is_unprivileged: bool,
) -> Result<(), Fail> {
    if !is_unprivileged {
        return Err(Fail::denied("changing feature flags for privileged container is only allowed for root@pam"));
    }
    let now = world.guests.get(&vmid).and_then(|guest| guest.conf.get("features")).map(|text| property::map(text, "")).unwrap_or_default();
    let new = value.map(|text| property::map(text, "")).unwrap_or_default();
    let is_changed = |key: &String| now.get(key).map(|v| property::flag(v)) != new.get(key).map(|v| property::flag(v));
    if now.keys().chain(new.keys()).any(|key| key != "nesting" && is_changed(key)) {
        return Err(Fail::denied("changing feature flags (except nesting) is only allowed for root@pam"));
    }
    check_vm(world, who, vmid, pool, &["VM.Allocate"])
}
