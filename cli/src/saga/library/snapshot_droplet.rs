//! `snapshot-droplet`: a snapshot of a droplet, whose number is known.

use moorline_common::saga::{CloudWork, Kind};

use super::droplets::{DISK_S, droplet, task, undo};
use super::{Definition, Given, Input, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::Builder;

pub(super) static DEFINITION: Definition = Definition {
    name: "snapshot-droplet",
    about: "Make a snapshot of a droplet; its name bears the saga's id",
    kind: Kind::Update,
    target: "DROPLET",
    place: Place::Cloud,
    inputs: &[
        Input { name: "prefix", about: "What the snapshot's name begins with [default: moorline]" },
        Input { name: "cloud", about: "The cloud [default: digitalocean]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let mut plan = Builder::default();
    let prefix = given.input("prefix").unwrap_or("moorline");
    let name = format!("{prefix}-{}-{}", given.saga_id, plan.next());
    let run = task(given, CloudWork::Snapshot { droplet: droplet(given)?.meant(), name }, DISK_S);
    plan.step(Step::new("snapshot", run).undone_by(undo(given, CloudWork::Unmake, DISK_S)));
    Ok(plan.steps())
}
