//! `offboard-host`: a host leaves its topology. What it leaves running or lying there, nobody destroys here.

use moorline_common::saga::{Condition, Kind};

use super::{Definition, Given, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::Builder;

pub(super) static DEFINITION: Definition = Definition {
    name: "offboard-host",
    about: "Push a topology without the host, and wait until the host has applied that; its volumes and guests stay. `moorctl host rm` forgets it then",
    kind: Kind::Offboard,
    target: "HOST",
    place: Place::Hosts,
    inputs: &[],
    pushes: Pushes::Always,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let [target] = given.targets else {
        return Err(Failure::usage("it is about one host", "name it, such as shop-17"));
    };
    if target.guest.is_some() {
        return Err(Failure::usage(format!("`{target}` is a guest, and it is about a whole host"), format!("write {}", target.host)));
    }
    let pushed = given.revision()?;
    let known = given.host(&target.host)?;
    if !pushed.leaves(&known.binding.host_id) {
        let message = format!("host {} does not leave `{}` by this file", target.host, pushed.topology);
        return Err(Failure::usage(message, "take the host out of the file, or name the topology that it follows"));
    }
    let mut plan = Builder::default();
    // A host that is away is not rid of anything.
    plan.step(pushed.push("push").when(Condition::Connected(target.host.clone())));
    plan.then();
    plan.step(pushed.applied("applied", &target.host));
    Ok(plan.steps())
}
