//! `retag-droplet`: a droplet bears these tags of operators' and no others, and is wanted so from then on.

use std::collections::BTreeSet;

use moorline_common::cloud::is_own_tag;
use moorline_common::saga::{CloudWork, Kind};
use serde_json::json;

use super::droplets::{SHORT_S, desire, droplet, list, task, undo, unknown};
use super::{Definition, Given, Input, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::Builder;

pub(super) static DEFINITION: Definition = Definition {
    name: "retag-droplet",
    about: "Give a droplet these tags and no others of operators', and want it so from then on; Moorline's own stay",
    kind: Kind::Update,
    target: "DROPLET",
    place: Place::Cloud,
    inputs: &[
        Input { name: "tags", about: "The tags, parted by commas; none when left empty" },
        Input { name: "from", about: "The tags that it goes back to [default: as the hub knows it]" },
        Input { name: "cloud", about: "The cloud [default: digitalocean]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let droplet = droplet(given)?;
    let wanted: BTreeSet<String> = list(given.required("tags")?).collect();
    let known = || {
        let tags = droplet.known?.value.get("tags")?.as_array()?;
        Some(tags.iter().filter_map(|tag| tag.as_str()).filter(|tag| !is_own_tag(tag)).map(str::to_owned).collect())
    };
    let from: Option<BTreeSet<String>> = given.input("from").map(|text| list(text).collect()).or_else(known);
    let from = from.ok_or_else(|| unknown(&droplet, "tags"))?;
    let (mut plan, meant) = (Builder::default(), || droplet.meant());
    for (at, tag) in wanted.difference(&from).enumerate() {
        let (tag, untag) = (CloudWork::Tag { droplet: meant(), tag: tag.clone() }, CloudWork::Untag { droplet: meant(), tag: tag.clone() });
        plan.step(Step::new(format!("tag-{}", at + 1), task(given, tag, SHORT_S)).undone_by(undo(given, untag, SHORT_S)));
    }
    for (at, tag) in from.difference(&wanted).enumerate() {
        let (tag, untag) = (CloudWork::Tag { droplet: meant(), tag: tag.clone() }, CloudWork::Untag { droplet: meant(), tag: tag.clone() });
        plan.step(Step::new(format!("untag-{}", at + 1), task(given, untag, SHORT_S)).undone_by(undo(given, tag, SHORT_S)));
    }
    plan.then();
    let want = task(given, desire(&droplet, "tags", json!(wanted)), SHORT_S);
    plan.step(Step::new("want", want).undone_by(undo(given, desire(&droplet, "tags", json!(from)), SHORT_S)));
    Ok(plan.steps())
}
