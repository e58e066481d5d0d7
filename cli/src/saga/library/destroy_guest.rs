//! `destroy-guest`: each guest goes for good, once all are backed up and stopped.

use moorline_common::op::guest::{Backup, Destroy};
use moorline_common::op::{Act, GuestOp};
use moorline_common::saga::Kind;

use super::suspend_guest::{shutdown, timeout};
use super::{Definition, Given, Input, LONG_S, Place, Pushes, Step, named};
use crate::error::Failure;
use crate::saga::draft::{Builder, Patience, Task, description};

pub(super) static DEFINITION: Definition = Definition {
    name: "destroy-guest",
    about: "Back each guest up if asked to, end it, and destroy it; nothing is destroyed before all are backed up and ended",
    kind: Kind::Offboard,
    target: "HOST/GUEST …",
    place: Place::Hosts,
    inputs: &[
        Input {
            name: "backup",
            about: "The storage that a backup goes to first, which stays whatever becomes of the saga [default: no backup]",
        },
        Input { name: "timeout", about: "How long a guest may take to end by itself [default: 3m]" },
        Input { name: "force", about: "Cut its power when it takes longer: yes or no [default: yes]" },
        Input {
            name: "keep",
            about: "How long it is kept, renamed and protected, before it is removed; 0s removes it at once [default: 1w]",
        },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let (guests, force, timeout_s) = (given.guests()?, given.flag("force", true)?, timeout(given)?);
    let storage = given.input("backup");
    let destroy = match given.input("keep") {
        None => Destroy::default(),
        Some(_) => match u32::try_from(given.span_s("keep", 0)?).unwrap_or(u32::MAX) {
            0 => Destroy { now: true, ..Destroy::default() },
            kept_s => Destroy { purge_after_s: Some(kept_s), ..Destroy::default() },
        },
    };
    let mut plan = Builder::default();
    for (at, guest) in guests.iter().enumerate() {
        let Some(storage) = storage else { break };
        let notes = Some(description(given.saga_id, plan.next()));
        let backup = Backup { storage: storage.to_owned(), mode: None, notes, protected: false };
        let run = Task::on_host(&guest.on, Act::Guest(GuestOp::Backup(backup)), Patience { backoff_s: 60, ..Patience::usual(LONG_S) });
        plan.step(Step::new(named("backup", at, &guests), run));
    }
    plan.then();
    for (at, guest) in guests.iter().enumerate().filter(|(_, guest)| guest.runs()) {
        plan.step(shutdown(named("shutdown", at, &guests), guest, timeout_s, force));
    }
    plan.then();
    for (at, guest) in guests.iter().enumerate() {
        let run = Task::on_host(&guest.on, Act::Guest(GuestOp::Destroy(destroy.clone())), Patience::usual(LONG_S));
        plan.step(Step::new(named("destroy", at, &guests), run).irreversible());
    }
    Ok(plan.steps())
}
