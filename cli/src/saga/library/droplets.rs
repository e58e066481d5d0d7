//! What definitions of droplets share.

use moorline_common::saga::{CloudWork, DropletRef};
use serde_json::Value;

use super::Given;
use crate::client::clouds::ResourceFacts;
use crate::error::Failure;
use crate::saga::draft::{Patience, Task};

/// The cloud when nobody says otherwise.
const CLOUD: &str = "digitalocean";
/// How long making one may take, in seconds: one whose answer was lost is looked for for more than a minute.
pub(super) const MAKE_S: u64 = 15 * 60;
/// How long it may take until one is active.
pub(super) const ACTIVE_S: u64 = 15 * 60;
/// How long what copies a disk may take.
pub(super) const DISK_S: u64 = 2 * 3600;
/// How long anything else may take.
pub(super) const SHORT_S: u64 = 10 * 60;

/// A droplet that is there.
pub(super) struct Droplet<'a> {
    /// Its number.
    pub number: u64,
    /// As the hub knows it, if it does.
    pub known: Option<&'a ResourceFacts>,
}

impl Droplet<'_> {
    /// As plans name it.
    pub(super) fn meant(&self) -> DropletRef {
        DropletRef::Number(self.number)
    }

    /// A field that is a text, as the cloud said it last.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.known?.value.get(field)?.as_str()
    }
}

/// The cloud that is meant.
pub(super) fn cloud<'a>(given: &Given<'a>) -> &'a str {
    given.input("cloud").unwrap_or(CLOUD)
}

/// The droplet that a definition is about: by its number, or by a name that only one has.
///
/// # Errors
/// A usage failure.
pub(super) fn droplet<'a>(given: &Given<'a>) -> Result<Droplet<'a>, Failure> {
    let [target] = given.targets else {
        return Err(Failure::usage("it is about one droplet", "name it by its number; `moorctl get resources` lists them"));
    };
    let text = target.to_string();
    if let Ok(number) = text.parse::<u64>() {
        return Ok(Droplet { number, known: given.droplets.iter().find(|known| known.number == number) });
    }
    let mut named = given.droplets.iter().filter(|known| known.name == text);
    match (named.next(), named.next()) {
        (Some(known), None) => Ok(Droplet { number: known.number, known: Some(known) }),
        (None, _) => Err(Failure::usage(
            format!("the hub knows no droplet `{text}`"),
            "`moorctl drift scan` lets it look; or name the droplet by its number",
        )),
        (Some(_), Some(_)) => Err(Failure::usage(format!("several droplets are called `{text}`"), "name the one by its number")),
    }
}

/// Something in the cloud, tried a few times.
pub(super) fn task(given: &Given<'_>, work: CloudWork, timeout_s: u64) -> Task {
    Task::in_cloud(cloud(given), work, Patience::usual(timeout_s))
}

/// The same to undo something.
pub(super) fn undo(given: &Given<'_>, work: CloudWork, timeout_s: u64) -> Task {
    Task::in_cloud(cloud(given), work, Patience::undo(timeout_s))
}

/// From now on a field is to be like this.
pub(super) fn desire(droplet: &Droplet<'_>, field: &str, value: impl Into<Value>) -> CloudWork {
    CloudWork::Desire { droplet: droplet.meant(), spec: [(field.to_owned(), value.into())].into() }
}

/// Words of an input, parted by commas.
pub(super) fn list(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned)
}

/// What the hub must know to take a change back.
pub(super) fn unknown(droplet: &Droplet<'_>, field: &str) -> Failure {
    Failure::usage(
        format!("the hub does not know the {field} of droplet {}, which would be needed to go back", droplet.number),
        format!("let the hub look with `moorctl drift scan`, or say `--set from={}`", field.to_uppercase()),
    )
}
