//! `destroy-droplet`: a droplet goes, with its place in the inventory and the host that it was.

use moorline_common::id::HostName;
use moorline_common::saga::{CloudWork, HubAct, Kind};

use super::droplets::{SHORT_S, droplet, task};
use super::{Definition, Given, Input, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::{Builder, Patience, Task};

pub(super) static DEFINITION: Definition = Definition {
    name: "destroy-droplet",
    about: "Delete a droplet for good, take it out of the inventory, and remove the host that it was",
    kind: Kind::Offboard,
    target: "DROPLET",
    place: Place::Cloud,
    inputs: &[
        Input {
            name: "host",
            about: "The host that it was; `none` leaves that one [default: the one that joined when a saga made the droplet]",
        },
        Input { name: "cloud", about: "The cloud [default: digitalocean]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let droplet = droplet(given)?;
    let mut plan = Builder::default();
    plan.step(Step::new("destroy", task(given, CloudWork::Destroy { droplet: droplet.meant() }, SHORT_S)).irreversible());
    // A host of the droplet's name may be another machine: the token says which one it was.
    let forget = match given.input("host") {
        Some("none") => None,
        Some(host) => Some(HubAct::Forget { host: HostName::parse(host)?, token: None }),
        None => given.was_host.map(|was| HubAct::Forget { host: was.host.clone(), token: Some(was.token.clone()) }),
    };
    let Some(forget) = forget else { return Ok(plan.steps()) };
    plan.then();
    plan.step(Step::new("forget", Task::of_hub(forget, Patience::usual(SHORT_S))).irreversible());
    Ok(plan.steps())
}
