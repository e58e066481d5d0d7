//! Starting, stopping and the like.
//!
//! Source: the `status` calls of `PVE::API2::Qemu` and `PVE::API2::LXC::Status`: what is said at once, and what only by the worker, differs
//! between virtual machines and containers.

use super::{Call, Fail, Outcome};
use crate::work::Work;
use crate::world::World;
use crate::world::guest::{Guest, Kind, Power};

/// The guest of a call, if it is there.
fn guest<'w>(world: &'w World, call: &Call) -> Option<&'w Guest> {
    world.config_of(call.kind, &call.node, call.vmid).ok()
}

fn is_running(world: &World, call: &Call) -> bool {
    guest(world, call).is_some_and(Guest::is_running)
}

fn is_paused(world: &World, call: &Call) -> bool {
    guest(world, call).is_some_and(|guest| matches!(guest.power, Power::Paused { .. }))
}

/// Refuses what does not run. Source: `PVE::QemuServer::check_running`, which looks for the config; that of containers does not.
fn check_running(world: &World, call: &Call) -> Result<(), Fail> {
    if call.kind == Kind::Qemu && guest(world, call).is_none() {
        return Err(Fail::die(format!("unable to find configuration file for VM {} on node '{}'", call.vmid, call.node)));
    }
    if is_running(world, call) {
        return Ok(());
    }
    Err(Fail::die(format!("{} {} not running", call.kind.word(), call.vmid)))
}

fn fork(world: &mut World, call: &Call, kind: &str, work: Work) -> Outcome {
    world.fork(call, kind, &call.vmid.to_string(), work)
}

/// A guest that the cluster keeps available is not touched: the cluster is asked to.
fn is_managed(world: &World, call: &Call) -> bool {
    world.setup.ha.contains(&call.vmid)
}

/// `POST …/status/start`
pub(crate) fn start(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock", "stateuri", "migratedfrom"])?;
    if call.kind == Kind::Lxc && is_running(world, call) {
        return Err(Fail::die(format!("CT {} already running", call.vmid)));
    }
    if is_managed(world, call) {
        return fork(world, call, "hastart", Work::HaStart { vmid: call.vmid });
    }
    let work = Work::Start { vmid: call.vmid, kind: call.kind, node: call.node.clone() };
    fork(world, call, &format!("{}start", call.kind.prefix()), work)
}

/// `POST …/status/stop`
pub(crate) fn stop(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock", "keepActive", "migratedfrom"])?;
    if call.kind == Kind::Lxc {
        check_running(world, call)?;
    }
    if is_managed(world, call) {
        if call.is("overrule-shutdown") {
            return Err(Fail::bad("overrule-shutdown", "Not applicable for HA resources."));
        }
        return fork(world, call, "hastop", Work::HaStop { vmid: call.vmid, timeout_s: 0 });
    }
    if call.is("overrule-shutdown") {
        world.abort_shutdowns(call.vmid, call.kind);
    }
    let work = Work::Stop { vmid: call.vmid, kind: call.kind, node: call.node.clone() };
    fork(world, call, &format!("{}stop", call.kind.prefix()), work)
}

/// `POST …/status/shutdown`
pub(crate) fn shutdown(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock", "keepActive"])?;
    let force = call.is("forceStop");
    if call.kind == Kind::Lxc {
        check_running(world, call)?;
    } else if is_paused(world, call) && !force {
        return Err(Fail::die("VM is paused - cannot shutdown"));
    }
    let timeout_s = call.number("timeout").unwrap_or(60);
    if is_managed(world, call) {
        return fork(world, call, "hastop", Work::HaStop { vmid: call.vmid, timeout_s });
    }
    let work = Work::Shutdown { vmid: call.vmid, kind: call.kind, node: call.node.clone(), timeout_s, force };
    fork(world, call, &format!("{}shutdown", call.kind.prefix()), work)
}

/// `POST …/status/reboot`
pub(crate) fn reboot(world: &mut World, call: &Call) -> Outcome {
    if is_paused(world, call) {
        return Err(Fail::die("VM is paused - cannot shutdown"));
    }
    if call.kind == Kind::Lxc && !is_running(world, call) {
        // It says VM, also of a container.
        return Err(Fail::die(format!("VM {} not running", call.vmid)));
    }
    check_running(world, call)?;
    let timeout_s = call.number("timeout").unwrap_or(60);
    let work = Work::Reboot { vmid: call.vmid, kind: call.kind, timeout_s };
    fork(world, call, &format!("{}reboot", call.kind.prefix()), work)
}

/// `POST …/status/reset`
pub(crate) fn reset(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock"])?;
    check_running(world, call)?;
    fork(world, call, "qmreset", Work::Reset { vmid: call.vmid })
}

/// `POST …/status/suspend`
pub(crate) fn suspend(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock"])?;
    check_running(world, call)?;
    let is_disk = call.is("todisk");
    if is_disk && is_managed(world, call) {
        return Err(Fail::die("Cannot suspend HA managed VM to disk"));
    }
    let kind = match (call.kind, is_disk) {
        (Kind::Qemu, true) => "qmsuspend",
        (Kind::Qemu, false) => "qmpause",
        (Kind::Lxc, _) => "vzsuspend",
    };
    let storage = call.get("statestorage").map(str::to_owned);
    fork(world, call, kind, Work::Suspend { vmid: call.vmid, is_disk, storage })
}

/// `POST …/status/resume`
pub(crate) fn resume(world: &mut World, call: &Call) -> Outcome {
    call.only_root(&["skiplock", "nocheck"])?;
    match call.kind {
        Kind::Lxc if is_running(world, call) => return Err(Fail::die(format!("CT {} already running", call.vmid))),
        Kind::Lxc => {}
        Kind::Qemu => {
            let is_on_disk = guest(world, call).is_some_and(|guest| guest.lock() == Some("suspended"));
            if !is_on_disk {
                check_running(world, call)?;
            }
        }
    }
    fork(world, call, &format!("{}resume", call.kind.prefix()), Work::Resume { vmid: call.vmid })
}

impl World {
    /// Ends tasks that wait for a guest to shut down.
    fn abort_shutdowns(&mut self, vmid: u32, kind: Kind) {
        let kind = format!("{}shutdown", kind.prefix());
        let id = vmid.to_string();
        let all: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.is_running() && task.kind == kind && task.id == id).map(|(n, _)| *n).collect();
        for number in all {
            self.abort(number);
        }
    }
}
