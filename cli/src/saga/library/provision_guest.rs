//! `provision-guest`: a guest is made, runs, and stands in a topology; or there is none.

use moorline_common::op::guest::{Create, Destroy, Restore};
use moorline_common::op::{Act, GuestOp};
use moorline_common::pve::GuestKind;
use moorline_common::saga::Kind;
use moorline_common::topology::{GuestSource, GuestSpec, Power};

use super::change_with_snapshot::check;
use super::{Definition, Given, Guest, Input, LONG_S, Place, Pushes, SHORT_S, Step};
use crate::error::Failure;
use crate::saga::draft::{Builder, Patience, Task};

/// How long a new guest must run when nobody says otherwise, in seconds.
const CHECK_FOR_S: u64 = 10;
/// How long it may take to get there.
const CHECK_TIMEOUT_S: u64 = 300;
/// The step that makes it: what comes later is for that very guest.
const CREATE: &str = "create";

pub(super) static DEFINITION: Definition = Definition {
    name: "provision-guest",
    about: "Make a guest as the inputs or the topology file say, start it, see that it runs, and push the topology that has it; else nothing of it stays",
    kind: Kind::Provision,
    target: "HOST/NUMBER",
    place: Place::Hosts,
    inputs: &[
        Input { name: "type", about: "qemu or lxc [default: as in the topology file]" },
        Input { name: "config.KEY", about: "A key of its config with its value [default: as in the topology file]" },
        Input { name: "ostemplate", about: "The template of a container" },
        Input { name: "archive", about: "The backup that it is restored from" },
        Input { name: "storage", about: "The storage for disks whose own is not said" },
        Input { name: "pool", about: "The pool that it is put in" },
        Input { name: "start", about: "Whether it is started: yes or no [default: yes, or as in the topology file]" },
        Input { name: "check-for", about: "How long it must run before it counts [default: 10s]" },
        Input { name: "check-timeout", about: "How long it may take to get there [default: 5m]" },
    ],
    pushes: Pushes::MayBe,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let guest = given.new_guest()?;
    let spec = spec(given, &guest)?;
    let mut plan = Builder::default();
    let make = Task::on_host(&guest.on, make(&guest, &spec)?, Patience::usual(LONG_S));
    let gone = Act::Guest(GuestOp::Destroy(Destroy { stop: true, now: true, ..Destroy::default() }));
    let undo = Task::on_host(&guest.on, gone, Patience::undo(SHORT_S)).made_by(CREATE);
    plan.step(Step::new(CREATE, make).undone_by(undo));
    if spec.state != Some(Power::Stopped) {
        plan.then();
        let start = Task::on_host(&guest.on, Act::Guest(GuestOp::Start), Patience::usual(SHORT_S)).made_by(CREATE);
        let stop = Task::on_host(&guest.on, Act::Guest(GuestOp::Stop), Patience::undo(SHORT_S)).made_by(CREATE);
        plan.step(Step::new("start", start).undone_by(stop));
        plan.then();
        plan.step(Step::new("check", check(given, &guest, CHECK_FOR_S, CHECK_TIMEOUT_S)?.made_by(CREATE)));
    }
    if let Some(pushed) = given.pushed {
        plan.then();
        plan.step(pushed.push("push"));
        plan.then();
        plan.step(pushed.applied("applied", &guest.on.host));
    }
    Ok(plan.steps())
}

/// What the guest is to be: the topology file says it, and inputs over that.
fn spec(given: &Given<'_>, guest: &Guest<'_>) -> Result<GuestSpec, Failure> {
    let known = given.host(&guest.on.host)?;
    let planned = given.pushed.map(|pushed| pushed.guest(&known.binding.host_id, guest.vmid));
    let planned = match planned {
        Some(None) => {
            let message = format!("the topology file has no guest {} on host {}", guest.vmid, guest.on.host);
            return Err(Failure::usage(message, "write it below `proxmox: guests:` of the host, or leave --topology out"));
        }
        Some(Some(spec)) => Some(spec.clone()),
        None => None,
    };
    let kind = match (given.input("type"), &planned) {
        (Some("qemu"), _) => GuestKind::Qemu,
        (Some("lxc"), _) => GuestKind::Lxc,
        (None, Some(planned)) => planned.kind,
        (Some(_) | None, _) => {
            return Err(Failure::usage("what kind of guest it is is not said", "say `--set type=qemu` or `--set type=lxc`"));
        }
    };
    let mut spec = planned.unwrap_or_else(|| GuestSpec::of(kind));
    spec.kind = kind;
    spec.config.extend(given.inputs_below("config."));
    let mut from = spec.from.unwrap_or_default();
    for (key, place) in
        [("ostemplate", &mut from.ostemplate), ("archive", &mut from.archive), ("storage", &mut from.storage), ("pool", &mut from.pool)]
    {
        if let Some(value) = given.input(key) {
            *place = Some(value.to_owned());
        }
    }
    spec.from = Some(from);
    let runs = given.flag("start", spec.state != Some(Power::Stopped))?;
    spec.state = Some(if runs { Power::Running } else { Power::Stopped });
    Ok(spec)
}

fn make(guest: &Guest<'_>, spec: &GuestSpec) -> Result<Act, Failure> {
    let from = spec.from.clone().unwrap_or_default();
    if let GuestSource { clone: Some(source), .. } = &from {
        let message = format!("guest {} is to be a clone of {source}, which is an operation on that guest", guest.vmid);
        let remedy =
            format!("push the topology: its host clones it; or `moorctl op clone {}/{source} --newid {}`", guest.on.host, guest.vmid);
        return Err(Failure::usage(message, remedy));
    }
    if from.iso.is_some() {
        return Err(Failure::usage("`from.iso` is for guests that their host makes", "push the topology, or say `--set config.ide2=…`"));
    }
    let GuestSource { ostemplate, archive, storage, pool, unique, .. } = from;
    let op = match archive {
        Some(archive) if spec.config.is_empty() => {
            let unique = unique.unwrap_or(false);
            GuestOp::Restore(Restore { kind: spec.kind, archive, storage, unique, over: false, start: false })
        }
        Some(_) => {
            let message = "a guest that is restored has the config of its backup";
            return Err(Failure::usage(
                message,
                "leave `config` out, or push the topology: its host restores it and changes its config then",
            ));
        }
        None => GuestOp::Create(Create { kind: spec.kind, config: spec.config.clone(), ostemplate, storage, pool, start: false }),
    };
    Ok(Act::Guest(op))
}
