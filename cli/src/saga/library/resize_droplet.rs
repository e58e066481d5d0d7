//! `resize-droplet`: a droplet gets another size, and is wanted so from then on.

use moorline_common::saga::{CloudWork, Kind};

use super::droplets::{DISK_S, SHORT_S, desire, droplet, task, undo, unknown};
use super::{Definition, Given, Input, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::Builder;

pub(super) static DEFINITION: Definition = Definition {
    name: "resize-droplet",
    about: "Switch a droplet off, give it another size, switch it on again if it was on, and want it so from then on; else it keeps its size",
    kind: Kind::Update,
    target: "DROPLET",
    place: Place::Cloud,
    inputs: &[
        Input { name: "size", about: "The size's slug" },
        Input { name: "disk", about: "Whether its disk grows too, which cannot be undone: yes or no [default: no]" },
        Input { name: "from", about: "The size that it goes back to [default: as the hub knows it]" },
        Input { name: "cloud", about: "The cloud [default: digitalocean]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let droplet = droplet(given)?;
    let (size, disk) = (given.required("size")?.to_owned(), given.flag("disk", false)?);
    let from = given.input("from").or_else(|| droplet.text("size"));
    let mut plan = Builder::default();
    let run = task(given, CloudWork::Resize { droplet: droplet.meant(), size: size.clone(), disk }, DISK_S);
    let want = Step::new("want", task(given, desire(&droplet, "size", size), SHORT_S));
    if disk {
        plan.step(Step::new("resize", run).irreversible());
        plan.then();
        plan.step(want.irreversible());
        return Ok(plan.steps());
    }
    let from = from.ok_or_else(|| unknown(&droplet, "size"))?.to_owned();
    let back = CloudWork::Resize { droplet: droplet.meant(), size: from.clone(), disk: false };
    plan.step(Step::new("resize", run).undone_by(undo(given, back, DISK_S)));
    plan.then();
    plan.step(want.undone_by(undo(given, desire(&droplet, "size", from), SHORT_S)));
    Ok(plan.steps())
}
