//! `snapshot-guest`: a snapshot of each guest, or of none.

use moorline_common::op::guest::SnapshotCreate;
use moorline_common::op::{Act, GuestOp};
use moorline_common::saga::Kind;

use super::{Definition, Given, Input, LONG_S, Place, Pushes, SHORT_S, Step, named};
use crate::error::Failure;
use crate::saga::draft::{Builder, OnHost, Patience, Task, description, mark};

pub(super) static DEFINITION: Definition = Definition {
    name: "snapshot-guest",
    about: "Make a snapshot of each guest, or of none",
    kind: Kind::Update,
    target: "HOST/GUEST …",
    place: Place::Hosts,
    inputs: &[Input { name: "memory", about: "With the memory of virtual machines that run: yes or no [default: no]" }],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let (guests, memory) = (given.guests()?, given.flag("memory", false)?);
    let mut plan = Builder::default();
    for (at, guest) in guests.iter().enumerate() {
        let number = plan.next();
        plan.step(snapshot(named("snapshot", at, &guests), given, &guest.on, number, memory).1);
    }
    Ok(plan.steps())
}

/// A step that makes a snapshot, undone by its removal; and the snapshot's name.
pub(super) fn snapshot(name: String, given: &Given<'_>, on: &OnHost, number: usize, memory: bool) -> (String, Step) {
    let mark = mark(given.saga_id, number);
    let make = SnapshotCreate { name: Some(mark.clone()), description: Some(description(given.saga_id, number)), memory };
    let run = Task::on_host(on, Act::Guest(GuestOp::SnapshotCreate(make)), Patience::usual(LONG_S));
    let undo = Task::on_host(on, delete(&mark), Patience::undo(SHORT_S));
    (mark, Step::new(name, run).undone_by(undo))
}

/// The removal of a snapshot.
pub(super) fn delete(name: &str) -> Act {
    let name = name.to_owned();
    Act::Guest(GuestOp::SnapshotDelete(moorline_common::op::guest::SnapshotDelete { name, force: false }))
}
