//! `rename-droplet`: a droplet gets another name, and is wanted so from then on.

use moorline_common::saga::{CloudWork, Kind};

use super::droplets::{SHORT_S, desire, droplet, task, undo, unknown};
use super::{Definition, Given, Input, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::Builder;

pub(super) static DEFINITION: Definition = Definition {
    name: "rename-droplet",
    about: "Give a droplet another name, and want it so from then on; the name of its host stays",
    kind: Kind::Update,
    target: "DROPLET",
    place: Place::Cloud,
    inputs: &[
        Input { name: "name", about: "The name" },
        Input { name: "from", about: "The name that it goes back to [default: as the hub knows it]" },
        Input { name: "cloud", about: "The cloud [default: digitalocean]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let droplet = droplet(given)?;
    let name = given.required("name")?.to_owned();
    let from = given.input("from").or_else(|| droplet.text("name")).ok_or_else(|| unknown(&droplet, "name"))?.to_owned();
    let rename = |name: &str| CloudWork::Rename { droplet: droplet.meant(), name: name.to_owned() };
    let mut plan = Builder::default();
    plan.step(Step::new("rename", task(given, rename(&name), SHORT_S)).undone_by(undo(given, rename(&from), SHORT_S)));
    plan.then();
    let want = task(given, desire(&droplet, "name", name), SHORT_S);
    plan.step(Step::new("want", want).undone_by(undo(given, desire(&droplet, "name", from), SHORT_S)));
    Ok(plan.steps())
}
