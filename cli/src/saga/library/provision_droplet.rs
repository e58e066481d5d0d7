//! `provision-droplet`: a droplet is made, its agent joins and heartbeats, and the inventory has it; or there is none.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::sha256_hex;
use moorline_common::saga::{CloudDroplet, CloudWork, Condition, DropletRef, HubAct, Kind, NewHost};
use serde_json::{Value, json};

use super::droplets::{ACTIVE_S, MAKE_S, SHORT_S, list, task, undo};
use super::{Definition, Given, Input, Place, Pushes, Step};
use crate::error::Failure;
use crate::saga::draft::{Builder, Patience, Task};
use crate::saga::joining::Joining;

/// The step that makes it.
const CREATE: &str = "create";
/// How long it may take to join, and to be bound by an operator, in seconds.
const JOIN_S: u64 = 3600;

pub(super) static DEFINITION: Definition = Definition {
    name: "provision-droplet",
    about: "Make a droplet whose agent joins by itself, wait until it heartbeats and follows its topology, and register it; else nothing of it stays",
    kind: Kind::Provision,
    target: "NAME",
    place: Place::Cloud,
    inputs: &[
        Input { name: "region", about: "The region's slug, such as fra1" },
        Input { name: "size", about: "The size's slug, such as s-1vcpu-1gb" },
        Input { name: "image", about: "The image's slug or number, such as debian-12-x64" },
        Input { name: "tags", about: "Tags, parted by commas" },
        Input { name: "ssh-keys", about: "Numbers or fingerprints of keys that may log in, parted by commas" },
        Input { name: "vpc", about: "Its network [default: the region's own]" },
        Input { name: "monitoring", about: "Whether the cloud's own monitoring is put in: yes or no [default: no]" },
        Input { name: "ipv6", about: "Whether it has an address of IPv6: yes or no [default: no]" },
        Input { name: "join", about: "Whether it becomes a host: yes or no [default: yes]" },
        Input { name: "agent-url", about: "Where its first boot gets the agent's program" },
        Input { name: "agent-sha256", about: "The SHA-256 of that program: no other is installed" },
        Input { name: "driver", about: "What its agent drives: docker, none or sim [default: docker, which is installed]" },
        Input { name: "label.KEY", about: "A label of the host" },
        Input { name: "converge", about: "Whether it must have applied its topology: yes or no [default: yes]" },
        Input { name: "join-timeout", about: "How long it may take to join and to be bound, and to apply its topology [default: 1h]" },
        Input { name: "cloud", about: "The cloud [default: digitalocean]" },
    ],
    pushes: Pushes::Never,
    steps,
};

fn steps(given: &Given<'_>) -> Result<Vec<Step>, Failure> {
    let new = wanted(given)?;
    let spec = spec(&new);
    let made = || DropletRef::MadeBy(CREATE.to_owned());
    let mut plan = Builder::default();
    let joining = given.joining.filter(|_| given.flag("join", true) != Ok(false));
    if let Some(joining) = joining {
        plan.step(expect(joining));
        plan.then();
    }
    let make = task(given, CloudWork::CreateDroplet(Box::new(new)), MAKE_S);
    plan.step(Step::new(CREATE, make).undone_by(undo(given, CloudWork::Unmake, MAKE_S)));
    plan.then();
    plan.step(Step::new("active", task(given, CloudWork::WaitActive { droplet: made() }, ACTIVE_S)));
    plan.then();
    let register = task(given, CloudWork::Register { droplet: made(), spec }, SHORT_S);
    plan.step(Step::new("register", register).undone_by(undo(given, CloudWork::Unmake, SHORT_S)));
    // These stand in what the first boot is told, and in the binding.
    drop((given.input("agent-url"), given.input("agent-sha256"), given.input("driver"), given.inputs_below("label.")));
    let (converge, join_s) = (given.flag("converge", true)?, given.span_s("join-timeout", JOIN_S)?);
    if let Some(joining) = joining {
        plan.then();
        plan.step(join(joining, join_s));
        if converge {
            plan.then();
            plan.step(converged(joining, join_s));
        }
    }
    Ok(plan.steps())
}

fn wanted(given: &Given<'_>) -> Result<CloudDroplet, Failure> {
    let [target] = given.targets else {
        return Err(Failure::usage("it makes one droplet", "name it: the host will have the same name"));
    };
    let all = |key: &str| list(given.input(key).unwrap_or_default());
    Ok(CloudDroplet {
        name: target.to_string(),
        region: given.required("region")?.to_owned(),
        size: given.required("size")?.to_owned(),
        image: given.required("image")?.to_owned(),
        tags: all("tags").collect::<BTreeSet<_>>(),
        ssh_keys: all("ssh-keys").collect(),
        vpc: given.input("vpc").map(str::to_owned),
        monitoring: given.flag("monitoring", false)?,
        ipv6: given.flag("ipv6", false)?,
        boot: given.joining.map(|joining| sha256_hex(joining.boot.as_bytes())),
    })
}

/// What the droplet is to be like from now on.
fn spec(new: &CloudDroplet) -> BTreeMap<String, Value> {
    let mut spec = BTreeMap::from([
        ("name".to_owned(), json!(new.name)),
        ("region".to_owned(), json!(new.region)),
        ("size".to_owned(), json!(new.size)),
        ("image".to_owned(), json!(new.image)),
    ]);
    if !new.tags.is_empty() {
        spec.insert("tags".to_owned(), json!(new.tags));
    }
    spec
}

fn host(joining: &Joining, converged: bool) -> NewHost {
    NewHost { host: joining.host.clone(), token: joining.token_id.clone(), converged }
}

/// First, and so undone last: a droplet that is gone does not join again.
fn expect(joining: &Joining) -> Step {
    let (host, token) = (joining.host.clone(), joining.token_id.clone());
    let run = Task::of_hub(HubAct::Expect { host: host.clone(), token: token.clone() }, Patience::usual(SHORT_S));
    let undo = Task::of_hub(HubAct::Forget { host, token: Some(token) }, Patience::undo(SHORT_S));
    Step::new("expect", run).undone_by(undo)
}

fn join(joining: &Joining, timeout_s: u64) -> Step {
    let run = Task::of_hub(HubAct::Joined(host(joining, false)), Patience::usual(timeout_s));
    Step::new("join", run).when(Condition::Joined(host(joining, false)))
}

fn converged(joining: &Joining, timeout_s: u64) -> Step {
    let run = Task::of_hub(HubAct::Joined(host(joining, true)), Patience::usual(timeout_s));
    Step::new("converge", run).when(Condition::Joined(host(joining, true)))
}
