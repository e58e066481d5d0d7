//! `suspend-guest`: each guest that runs ends by itself, or they all run on.

use moorline_common::op::guest::{STOP_MAX_S, Stop};
use moorline_common::op::{Act, GuestOp};
use moorline_common::saga::Kind;

use super::{Definition, Given, Guest, Input, Place, Pushes, SHORT_S, Step, named};
use crate::error::Failure;
use crate::saga::draft::{Builder, Patience, Task};

/// How long a guest may take to end by itself when nobody says otherwise, in seconds.
pub(super) const SHUTDOWN_S: u64 = 180;

pub(super) static DEFINITION: Definition = Definition {
    name: "suspend-guest",
    about: "Let each guest that runs end by itself; when one does not, those that did are started again",
    kind: Kind::Suspend,
    target: "HOST/GUEST …",
    place: Place::Hosts,
    inputs: &[
        Input { name: "timeout", about: "How long it may take to end by itself [default: 3m]" },
        Input { name: "force", about: "Cut its power when it takes longer: yes or no [default: no]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let (guests, force) = (given.guests()?, given.flag("force", false)?);
    let timeout_s = timeout(given)?;
    let mut plan = Builder::default();
    for (at, guest) in guests.iter().enumerate().filter(|(_, guest)| guest.runs()) {
        plan.step(shutdown(named("shutdown", at, &guests), guest, timeout_s, force));
    }
    let steps = plan.steps();
    if steps.is_empty() {
        return Err(Failure::usage("no guest that is named runs, by the hosts' last reports", "there is nothing to do"));
    }
    Ok(steps)
}

/// The input `timeout`, in seconds.
pub(super) fn timeout(given: &Given<'_>) -> Result<u32, Failure> {
    let span = given.span_s("timeout", SHUTDOWN_S)?;
    u32::try_from(span)
        .ok()
        .filter(|s| (1..=STOP_MAX_S).contains(s))
        .ok_or_else(|| Failure::usage(format!("the input `timeout` is 1 to {STOP_MAX_S} seconds"), "say `--set timeout=10m`"))
}

/// A step that ends a guest that runs, undone by its start.
pub(super) fn shutdown(name: String, guest: &Guest<'_>, timeout_s: u32, force: bool) -> Step {
    let stop = Act::Guest(GuestOp::Shutdown(Stop { timeout_s: Some(timeout_s), force }));
    let run = Task::on_host(&guest.on, stop, Patience { attempts: 2, backoff_s: 30, timeout_s: SHORT_S + u64::from(timeout_s) });
    let undo = Task::on_host(&guest.on, Act::Guest(GuestOp::Start), Patience::undo(SHORT_S));
    Step::new(name, run).undone_by(undo)
}
