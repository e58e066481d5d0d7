//! Which calls there are.
//!
//! Source: the API's description; the same tables of calls in `PVE::API2`.

use std::collections::BTreeMap;

use super::{Call, Outcome, backup, cluster, config, create, disks, power, snapshots, status, tasks};
use crate::world::World;
use crate::world::guest::Kind;

/// What a call needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Needs {
    /// Nothing but somebody who calls; what else it needs, it finds out itself.
    Login,
    /// All privileges at a path.
    All(&'static str, &'static [&'static str]),
    /// One of the privileges at a path.
    Any(&'static str, &'static [&'static str]),
    /// What a clone needs.
    Clone,
}

/// A call.
pub(crate) struct Route {
    pub verb: &'static str,
    pub path: &'static str,
    pub needs: Needs,
    /// Its parameters: `name`, with `!` behind it when it must be there, then `:i` for a whole number, `:b` for yes or no, `:n` for a number.
    pub params: &'static [&'static str],
    /// Whether the keys of a guest's config may stand beside them, and of which kind.
    pub config: Option<Kind>,
    pub run: fn(&mut World, &Call) -> Outcome,
}

/// Finds a call, and the names in its path.
pub(crate) fn find(verb: &str, parts: &[String]) -> Option<(&'static Route, BTreeMap<String, String>)> {
    ROUTES.iter().filter(|route| route.verb == verb).find_map(|route| Some((route, names(route.path, parts)?)))
}

fn names(pattern: &str, parts: &[String]) -> Option<BTreeMap<String, String>> {
    let wanted: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let rest;
    let parts = if wanted.last() == Some(&"{volume}") {
        rest = with_volume(&wanted, parts);
        rest.as_slice()
    } else {
        parts
    };
    if wanted.len() != parts.len() {
        return None;
    }
    let mut names = BTreeMap::new();
    for (wanted, part) in wanted.iter().zip(parts) {
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some("kind") if part == "qemu" || part == "lxc" => {}
            Some("kind") => return None,
            Some(name) => drop(names.insert(name.to_owned(), part.clone())),
            None if wanted == part => {}
            None => return None,
        }
    }
    Some(names)
}

/// A volume is all that is left of a path, slashes and all. Source: `fragmentDelimiter` in `PVE::API2::Storage::Status`.
pub(crate) fn with_volume(wanted: &[&str], parts: &[String]) -> Vec<String> {
    let last = wanted.len().saturating_sub(1);
    let (before, after) = parts.split_at(last.min(parts.len()));
    let volume = (!after.is_empty()).then(|| after.join("/"));
    before.iter().cloned().chain(volume).collect()
}

const fn get(path: &'static str, needs: Needs, params: &'static [&'static str], run: fn(&mut World, &Call) -> Outcome) -> Route {
    Route { verb: "GET", path, needs, params, config: None, run }
}

const fn post(path: &'static str, needs: Needs, params: &'static [&'static str], run: fn(&mut World, &Call) -> Outcome) -> Route {
    Route { verb: "POST", path, needs, params, config: None, run }
}

const fn put(path: &'static str, needs: Needs, params: &'static [&'static str], run: fn(&mut World, &Call) -> Outcome) -> Route {
    Route { verb: "PUT", path, needs, params, config: None, run }
}

const fn delete(path: &'static str, needs: Needs, params: &'static [&'static str], run: fn(&mut World, &Call) -> Outcome) -> Route {
    Route { verb: "DELETE", path, needs, params, config: None, run }
}

const fn with_config(route: Route, kind: Kind) -> Route {
    Route { config: Some(kind), ..route }
}

const AUDIT: Needs = Needs::All("/vms/{vmid}", &["VM.Audit"]);
const POWER: Needs = Needs::All("/vms/{vmid}", &["VM.PowerMgmt"]);
const SNAPSHOT: Needs = Needs::All("/vms/{vmid}", &["VM.Snapshot"]);
const ROLLBACK: Needs = Needs::Any("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback"]);
const SNAPSHOT_READ: Needs = Needs::Any("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"]);
const AGENT: Needs = Needs::Any("/vms/{vmid}", &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"]);
const DISK: Needs = Needs::All("/vms/{vmid}", &["VM.Config.Disk"]);
const ALLOCATE: Needs = Needs::All("/vms/{vmid}", &["VM.Allocate"]);
const MIGRATE: Needs = Needs::All("/vms/{vmid}", &["VM.Migrate"]);
const QEMU_CONFIG: Needs = Needs::Any(
    "/vms/{vmid}",
    &[
        "VM.Config.Disk",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Cloudinit",
    ],
);
const LXC_CONFIG: Needs =
    Needs::Any("/vms/{vmid}", &["VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"]);
const STORAGE: Needs = Needs::Any("/storage/{storage}", &["Datastore.Audit", "Datastore.AllocateSpace"]);
const CLUSTER: Needs = Needs::All("/", &["Sys.Audit"]);

const CONFIG: &[&str] = &["digest", "delete", "revert", "force:b", "skiplock:b"];
const CONFIG_LATER: &[&str] = &["digest", "delete", "revert", "force:b", "skiplock:b", "background_delay:i", "import-working-storage"];
const CREATE: &[&str] = &[
    "vmid!:i",
    "archive",
    "storage",
    "force:b",
    "unique:b",
    "live-restore:b",
    "pool",
    "bwlimit:i",
    "start:b",
    "ha-managed:b",
    "import-working-storage",
];
const CREATE_LXC: &[&str] = &[
    "vmid!:i",
    "ostemplate!",
    "password",
    "storage",
    "force:b",
    "restore:b",
    "unique:b",
    "pool",
    "ignore-unpack-errors:b",
    "ssh-public-keys",
    "bwlimit:n",
    "start:b",
    "ha-managed:b",
];
const BACKUP: &[&str] = &[
    "vmid",
    "all:b",
    "bwlimit:i",
    "compress",
    "dumpdir",
    "exclude",
    "exclude-path",
    "fleecing",
    "ionice:i",
    "job-id",
    "lockwait:i",
    "mailnotification",
    "mailto",
    "maxfiles:i",
    "mode",
    "node",
    "notes-template",
    "notification-mode",
    "pbs-change-detection-mode",
    "performance",
    "pigz:i",
    "pool",
    "protected:b",
    "prune-backups",
    "quiet:b",
    "remove:b",
    "script",
    "stdexcludes:b",
    "stdout:b",
    "stop:b",
    "stopwait:i",
    "storage",
    "tmpdir",
    "zstd:i",
];
const QEMU_START: &[&str] = &[
    "force-cpu",
    "machine",
    "migratedfrom",
    "migration_network",
    "migration_type",
    "nets-host-mtu",
    "skiplock:b",
    "stateuri",
    "targetstorage",
    "timeout:i",
    "with-conntrack-state:b",
];
const QEMU_MIGRATE: &[&str] = &[
    "target!",
    "bwlimit:i",
    "force:b",
    "migration_network",
    "migration_type",
    "online:b",
    "targetstorage",
    "with-conntrack-state:b",
    "with-local-disks:b",
];
const TASKS: &[&str] =
    &["errors:b", "limit:i", "since:i", "source", "start:i", "statusfilter", "typefilter", "until:i", "userfilter", "vmid:i"];
const QEMU_CLONE: &[&str] = &["newid!:i", "bwlimit:i", "description", "format", "full:b", "name", "pool", "snapname", "storage", "target"];
const LXC_CLONE: &[&str] = &["newid!:i", "bwlimit:n", "description", "full:b", "hostname", "pool", "snapname", "storage", "target"];
const MOVE_DISK: &[&str] =
    &["disk!", "bwlimit:i", "delete:b", "digest", "format", "storage", "target-digest", "target-disk", "target-vmid:i"];
const MOVE_VOLUME: &[&str] = &["volume!", "bwlimit:n", "delete:b", "digest", "storage", "target-digest", "target-vmid:i", "target-volume"];

/// Every call.
static ROUTES: &[Route] = &[
    get("/version", Needs::Login, &[], cluster::version),
    post(
        "/access/ticket",
        Needs::Login,
        &["username!", "password!", "otp", "path", "privs", "realm", "new-format:b", "tfa-challenge"],
        cluster::ticket,
    ),
    get("/access/permissions", Needs::Login, &["path", "userid"], cluster::permissions),
    get("/nodes", Needs::Login, &[], cluster::nodes),
    get("/nodes/{node}/status", Needs::All("/nodes/{node}", &["Sys.Audit"]), &[], cluster::node_status),
    get("/nodes/{node}/version", Needs::Login, &[], cluster::version),
    get("/cluster/resources", Needs::Login, &["type"], cluster::resources),
    get("/cluster/nextid", Needs::Login, &["vmid:i"], cluster::nextid),
    get("/cluster/status", CLUSTER, &[], cluster::status),
    get("/cluster/ha/resources", CLUSTER, &["type"], cluster::ha_resources),
    get("/cluster/tasks", Needs::Login, &[], tasks::of_cluster),
    get("/nodes/{node}/tasks", Needs::Login, TASKS, tasks::list),
    get("/nodes/{node}/tasks/{upid}/status", Needs::Login, &[], tasks::status),
    get("/nodes/{node}/tasks/{upid}/log", Needs::Login, &["download:b", "limit:i", "start:i"], tasks::log),
    delete("/nodes/{node}/tasks/{upid}", Needs::Login, &[], tasks::stop),
    get("/nodes/{node}/qemu", Needs::Login, &["full:b"], status::list),
    get("/nodes/{node}/lxc", Needs::Login, &[], status::list),
    get("/nodes/{node}/{kind}/{vmid}/status/current", AUDIT, &[], status::current),
    get("/nodes/{node}/{kind}/{vmid}/config", AUDIT, &["current:b", "snapshot"], config::read),
    get("/nodes/{node}/{kind}/{vmid}/pending", AUDIT, &[], config::pending),
    get("/nodes/{node}/qemu/{vmid}/cloudinit", AUDIT, &[], config::cloudinit),
    put("/nodes/{node}/qemu/{vmid}/cloudinit", Needs::All("/vms/{vmid}", &["VM.Config.Cloudinit"]), &[], config::renew_cloudinit),
    with_config(post("/nodes/{node}/qemu/{vmid}/config", QEMU_CONFIG, CONFIG_LATER, config::change_later), Kind::Qemu),
    with_config(put("/nodes/{node}/qemu/{vmid}/config", QEMU_CONFIG, CONFIG, config::change), Kind::Qemu),
    with_config(put("/nodes/{node}/lxc/{vmid}/config", LXC_CONFIG, &["digest", "delete", "revert"], config::change), Kind::Lxc),
    put("/nodes/{node}/qemu/{vmid}/unlink", DISK, &["idlist!", "force:b"], config::unlink),
    with_config(post("/nodes/{node}/qemu", Needs::Login, CREATE, create::create), Kind::Qemu),
    with_config(post("/nodes/{node}/lxc", Needs::Login, CREATE_LXC, create::create), Kind::Lxc),
    post("/nodes/{node}/qemu/{vmid}/clone", Needs::Clone, QEMU_CLONE, create::clone),
    post("/nodes/{node}/lxc/{vmid}/clone", Needs::Clone, LXC_CLONE, create::clone),
    delete("/nodes/{node}/qemu/{vmid}", ALLOCATE, &["purge:b", "skiplock:b", "destroy-unreferenced-disks:b"], create::destroy),
    delete("/nodes/{node}/lxc/{vmid}", ALLOCATE, &["purge:b", "force:b", "destroy-unreferenced-disks:b"], create::destroy),
    post("/nodes/{node}/qemu/{vmid}/status/start", POWER, QEMU_START, power::start),
    post("/nodes/{node}/lxc/{vmid}/status/start", POWER, &["debug:b", "skiplock:b"], power::start),
    post(
        "/nodes/{node}/qemu/{vmid}/status/stop",
        POWER,
        &["keepActive:b", "migratedfrom", "overrule-shutdown:b", "skiplock:b", "timeout:i"],
        power::stop,
    ),
    post("/nodes/{node}/lxc/{vmid}/status/stop", POWER, &["overrule-shutdown:b", "skiplock:b"], power::stop),
    post("/nodes/{node}/qemu/{vmid}/status/shutdown", POWER, &["forceStop:b", "keepActive:b", "skiplock:b", "timeout:i"], power::shutdown),
    post("/nodes/{node}/lxc/{vmid}/status/shutdown", POWER, &["forceStop:b", "timeout:i"], power::shutdown),
    post("/nodes/{node}/{kind}/{vmid}/status/reboot", POWER, &["timeout:i"], power::reboot),
    post("/nodes/{node}/qemu/{vmid}/status/reset", POWER, &["skiplock:b"], power::reset),
    post("/nodes/{node}/qemu/{vmid}/status/suspend", POWER, &["skiplock:b", "statestorage", "todisk:b"], power::suspend),
    post("/nodes/{node}/lxc/{vmid}/status/suspend", POWER, &[], power::suspend),
    post("/nodes/{node}/qemu/{vmid}/status/resume", POWER, &["nocheck:b", "skiplock:b"], power::resume),
    post("/nodes/{node}/lxc/{vmid}/status/resume", POWER, &[], power::resume),
    post("/nodes/{node}/qemu/{vmid}/agent/ping", AGENT, &[], status::ping),
    get("/nodes/{node}/{kind}/{vmid}/snapshot", AUDIT, &[], snapshots::list),
    post("/nodes/{node}/qemu/{vmid}/snapshot", SNAPSHOT, &["snapname!", "description", "vmstate:b"], snapshots::make),
    post("/nodes/{node}/lxc/{vmid}/snapshot", SNAPSHOT, &["snapname!", "description"], snapshots::make),
    get("/nodes/{node}/{kind}/{vmid}/snapshot/{snapname}/config", SNAPSHOT_READ, &[], snapshots::config),
    put("/nodes/{node}/{kind}/{vmid}/snapshot/{snapname}/config", SNAPSHOT, &["description"], snapshots::describe),
    delete("/nodes/{node}/{kind}/{vmid}/snapshot/{snapname}", SNAPSHOT, &["force:b"], snapshots::delete),
    post("/nodes/{node}/{kind}/{vmid}/snapshot/{snapname}/rollback", ROLLBACK, &["start:b"], snapshots::rollback),
    put("/nodes/{node}/qemu/{vmid}/resize", DISK, &["disk!", "size!", "digest", "skiplock:b"], disks::resize),
    put("/nodes/{node}/lxc/{vmid}/resize", DISK, &["disk!", "size!", "digest"], disks::resize),
    post("/nodes/{node}/qemu/{vmid}/move_disk", DISK, MOVE_DISK, disks::move_disk),
    post("/nodes/{node}/lxc/{vmid}/move_volume", DISK, MOVE_VOLUME, disks::move_disk),
    post("/nodes/{node}/qemu/{vmid}/template", ALLOCATE, &["disk"], disks::template),
    post("/nodes/{node}/lxc/{vmid}/template", ALLOCATE, &[], disks::template),
    get("/nodes/{node}/{kind}/{vmid}/feature", AUDIT, &["feature!", "snapname"], disks::feature),
    post("/nodes/{node}/qemu/{vmid}/migrate", MIGRATE, QEMU_MIGRATE, create::migrate),
    post(
        "/nodes/{node}/lxc/{vmid}/migrate",
        MIGRATE,
        &["target!", "bwlimit:n", "online:b", "restart:b", "target-storage", "timeout:i"],
        create::migrate,
    ),
    post("/nodes/{node}/vzdump", Needs::Login, BACKUP, backup::vzdump),
    get("/nodes/{node}/storage", Needs::Login, &["content", "enabled:b", "format:b", "storage", "target"], backup::storages),
    get("/nodes/{node}/storage/{storage}/status", STORAGE, &[], backup::storage_status),
    get("/nodes/{node}/storage/{storage}/content", STORAGE, &["content", "vmid:i"], backup::content),
    get("/nodes/{node}/storage/{storage}/content/{volume}", Needs::Login, &[], backup::volume),
    put("/nodes/{node}/storage/{storage}/content/{volume}", Needs::Login, &["notes", "protected:b"], backup::note),
    delete("/nodes/{node}/storage/{storage}/content/{volume}", Needs::Login, &["delay:i"], backup::remove),
];
