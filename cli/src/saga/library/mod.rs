//! The definitions that come with `moorctl`, one a file. Each makes steps of what it is given and asks nobody.

use moorline_common::saga::Kind;
use moorline_common::topology::nearest;

use super::draft::{Draft, Step};
use super::given::{Given, Guest};
use crate::error::Failure;

mod change_with_snapshot;
mod destroy_droplet;
mod destroy_guest;
mod droplets;
mod offboard_host;
mod provision_droplet;
mod provision_guest;
mod rename_droplet;
mod resize_droplet;
mod retag_droplet;
mod snapshot_droplet;
mod snapshot_guest;
mod suspend_guest;
#[cfg(test)]
mod tests;

/// How long an answer to a short operation may take, in seconds: a host may be away for a while.
const SHORT_S: u64 = 15 * 60;
/// The same for one that copies disks.
const LONG_S: u64 = 6 * 3600;

/// A definition.
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// What it is about, as it is written on the command line.
    pub target: &'static str,
    /// Where that is.
    pub place: Place,
    /// What else it may be given.
    pub inputs: &'static [Input],
    /// What it pushes.
    pub pushes: Pushes,
    /// Its steps.
    steps: fn(&Given<'_>) -> Result<Vec<Step>, Failure>,
}

/// Something that a definition may be given with `--set`.
pub struct Input {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
}

/// Where a definition does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On hosts that are there.
    Hosts,
    /// In a cloud.
    Cloud,
}

/// Whether a definition pushes a revision, of the file that `--topology` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushes {
    /// Never.
    Never,
    /// When a file is named.
    MayBe,
    /// Always.
    Always,
}

/// Every definition, by their names.
pub static ALL: [&Definition; 12] = [
    &change_with_snapshot::DEFINITION,
    &destroy_droplet::DEFINITION,
    &destroy_guest::DEFINITION,
    &offboard_host::DEFINITION,
    &provision_droplet::DEFINITION,
    &provision_guest::DEFINITION,
    &rename_droplet::DEFINITION,
    &resize_droplet::DEFINITION,
    &retag_droplet::DEFINITION,
    &snapshot_droplet::DEFINITION,
    &snapshot_guest::DEFINITION,
    &suspend_guest::DEFINITION,
];

/// The definition of that name.
///
/// # Errors
/// A usage failure with the nearest one.
pub fn find(name: &str) -> Result<&'static Definition, Failure> {
    let found = ALL.iter().find(|definition| definition.name == name).copied();
    found.ok_or_else(|| {
        let remedy = match nearest(name, ALL.iter().map(|definition| definition.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`moorctl saga library` lists them; one of your own is named with -f FILE".to_owned(),
        };
        Failure::usage(format!("there is no definition `{name}`"), remedy)
    })
}

impl Definition {
    /// The saga that it makes of what it is given.
    ///
    /// # Errors
    /// When something is missing, or the hosts' reports say that it cannot be.
    pub fn draft(&self, given: &Given<'_>) -> Result<Draft, Failure> {
        let steps = (self.steps)(given)?;
        given.all_asked()?;
        let mut inputs = given.set.clone();
        for (number, target) in given.targets.iter().enumerate() {
            let key = if given.targets.len() == 1 { "target".to_owned() } else { format!("target-{}", number + 1) };
            inputs.insert(key, target.to_string());
        }
        let mut draft =
            Draft { saga_id: given.saga_id.clone(), name: self.name.to_owned(), kind: self.kind, inputs, steps, boots: given.boots() };
        given.aim(&mut draft)?;
        Ok(draft)
    }
}

/// The name of a step on one of `guests`: they are numbered where there are several.
fn named(step: &str, at: usize, guests: &[Guest<'_>]) -> String {
    if guests.len() == 1 { step.to_owned() } else { format!("{step}-{}", at + 1) }
}
