//! `change-with-snapshot`: a change of each guest's config, which stays when they keep running, or is as if it had never been.

use std::collections::BTreeSet;

use moorline_common::op::guest::{SetConfig, SnapshotRollback};
use moorline_common::op::{Act, GuestOp};
use moorline_common::saga::Kind;
use serde_json::json;

use super::snapshot_guest::{delete, snapshot};
use super::{Definition, Given, Guest, Input, LONG_S, Place, Pushes, SHORT_S, Step, named};
use crate::error::Failure;
use crate::saga::draft::{Builder, Patience, Task};

/// How long a guest must run when nobody says otherwise, in seconds.
const CHECK_FOR_S: u64 = 30;
/// How long it may take to get there.
const CHECK_TIMEOUT_S: u64 = 300;

pub(super) static DEFINITION: Definition = Definition {
    name: "change-with-snapshot",
    about: "Make a snapshot of each guest, change its config, and remove the snapshot once all run on; else go back to the snapshots: what was written since is lost",
    kind: Kind::Update,
    target: "HOST/GUEST …",
    place: Place::Hosts,
    inputs: &[
        Input { name: "config.KEY", about: "A key of its config with its new value, such as --set config.memory=4096" },
        Input { name: "delete", about: "Keys to take out of its config, parted by commas" },
        Input { name: "check-for", about: "How long a guest that ran must run on after the change [default: 30s]" },
        Input { name: "check-timeout", about: "How long it may take to get there [default: 5m]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let guests = given.guests()?;
    let set = given.inputs_below("config.");
    let delete_keys: BTreeSet<String> = given.input("delete").unwrap_or_default().split(',').map(str::trim).map(str::to_owned).collect();
    let delete_keys: BTreeSet<String> = delete_keys.into_iter().filter(|key| !key.is_empty()).collect();
    if set.is_empty() && delete_keys.is_empty() {
        return Err(Failure::usage("it changes nothing", "say `--set config.KEY=VALUE`, such as `--set config.memory=4096`"));
    }
    let mut plan = Builder::default();
    let mut marks = Vec::new();
    for (at, guest) in guests.iter().enumerate() {
        let (mark, step) = snapshot(named("snapshot", at, &guests), given, &guest.on, plan.next(), false);
        plan.step(step);
        marks.push(mark);
    }
    plan.then();
    for ((at, guest), mark) in guests.iter().enumerate().zip(&marks) {
        let kind = guest.seen.map_or(moorline_common::pve::GuestKind::Qemu, |seen| seen.kind);
        // The snapshot is in the config's file: which version it is then, nobody knows yet.
        let change = SetConfig { set: set.clone(), delete: delete_keys.clone(), digest: None, kind };
        let run = Task::on_host(&guest.on, Act::Guest(GuestOp::SetConfig(change)), Patience::usual(SHORT_S));
        let back = SnapshotRollback { name: mark.clone(), start: guest.runs() };
        let undo = Task::on_host(&guest.on, Act::Guest(GuestOp::SnapshotRollback(back)), Patience::undo(LONG_S));
        plan.step(Step::new(named("change", at, &guests), run).undone_by(undo));
    }
    plan.then();
    for (at, guest) in guests.iter().enumerate().filter(|(_, guest)| guest.runs()) {
        plan.step(Step::new(named("check", at, &guests), check(given, guest, CHECK_FOR_S, CHECK_TIMEOUT_S)?));
    }
    plan.then();
    for ((at, guest), mark) in guests.iter().enumerate().zip(&marks) {
        let run = Task::on_host(&guest.on, delete(mark), Patience::undo(SHORT_S));
        plan.step(Step::new(named("forget", at, &guests), run).irreversible());
    }
    Ok(plan.steps())
}

/// What looks whether a guest keeps running.
pub(super) fn check(given: &Given<'_>, guest: &Guest<'_>, for_s: u64, timeout_s: u64) -> Result<Task, Failure> {
    let (for_s, timeout_s) = (given.span_s("check-for", for_s)?, given.span_s("check-timeout", timeout_s)?);
    let act = Act::read("check", &json!({ "for_s": for_s, "timeout_s": timeout_s }), &guest.on.resource)?;
    Ok(Task::on_host(&guest.on, act, Patience::once(SHORT_S.saturating_add(timeout_s))))
}
