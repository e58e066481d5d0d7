//! `moorctl drift accept`: the topology says from now on what the host has.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, TopologyId};
use moorline_common::plan::compare::PRESENCE;
use moorline_common::plan::docker::plan_given;
use moorline_common::plan::{Given, Identity};
use moorline_common::topology::HostSpec;

use super::{AcceptArgs, Case};
use crate::client::Client;
use crate::client::drift::Shown;
use crate::cmd::Env;
use crate::cmd::deploy::{self, Aim, Base, Order, Scene, Verb};
use crate::desired::{self, Source};
use crate::error::Failure;
use crate::home::files;
use crate::overrides::{self, Override};
use crate::render::{Ui, diff};

/// How long the slices of the new revision may wait for delivery: as a push that says nothing.
const DELIVER_WITHIN: std::time::Duration = std::time::Duration::from_secs(moorline_common::statement::DELIVER_WITHIN_DEFAULT_S);

/// Runs it.
///
/// # Errors
/// `drift_moved`, `drift_resolved`, `invalid_argument` for what no file can say; what a push can fail with.
pub async fn run(args: AcceptArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    client.require_signable()?;
    let case = Case::of(&client, client.drift(args.id).await?).await?;
    let drift = case.signed()?;
    let identity = case.identity(&client)?;
    if args.file == std::path::Path::new("-") {
        return Err(Failure::usage("the topology file is edited, and standard input cannot be", "name the file with -f"));
    }
    let mut source = desired::read(ui, &args.file, &args.inputs)?;
    if source.file.topology != identity.topology {
        let message = format!(
            "{} describes topology `{}`, host `{}` follows `{}`",
            source.name, source.file.topology, case.host.name, identity.topology
        );
        return Err(Fault::new(Code::InvalidArgument, message).into());
    }
    let current = client.current(&identity.topology, true).await?;
    let scene = deploy::scene(&client, ui, &identity.topology, current).await?;
    take_along(&mut source, &client, &scene)?;
    let before = scene.previous.spec_of(&case.host.host_id);
    let before = before.ok_or_else(|| Fault::new(Code::NotFound, format!("no slice of host `{}` verifies", case.host.name)))?;
    let over = overrides::of(drift, &identity.topology, &before)?;
    let path = place(&source, &case, &args, &over)?;
    let edited = overrides::edit(&source.text, &path, &over.value)?;
    require_newest(&scene, &source, &edited, &path, &over)?;
    let mut after = desired::read_as(ui, &args.file, edited.as_bytes(), &args.inputs)?;
    take_along(&mut after, &client, &scene)?;
    require_only(&after, &scene, &case, args.in_profile.is_some(), ui)?;
    require_agreed(&identity, &after, &scene, &before, &case)?;
    let difference = diff::unified(&source.text, &edited, &source.name, "with what the host has");
    ui.note(diff::coloured(&difference).trim_end());
    ui.note(&format!(
        "{} {} on `{}` is {}, by the report that the host signed {} ago",
        drift.resource,
        drift.field,
        case.host.name,
        drift.actual,
        case.age()
    ));
    ui.confirm(&format!("Write this into {} and push it?", source.name))?;
    let old = source.text.clone();
    // First the file: a push that this machine does not have in its file would be undone by the next one.
    files::replace(&args.file, edited.as_bytes())?;
    let message = if args.message.is_empty() { format!("accept drift {}: {}", args.id, over.words()) } else { args.message.clone() };
    let aim = Aim {
        verb: Verb::Push,
        topology: identity.topology.clone(),
        source: Some(after),
        accept_older_hub: false,
        no_rollout: false,
        wait: args.wait.limit(),
        accepts: vec![Shown { id: args.id, actual: drift.actual.clone() }],
    };
    let base = Base::Generation(scene.previous.generation);
    let order =
        Order { aim, message, deliver_within: DELIVER_WITHIN, base, reviewed: None, earlier: None, terms: None, force: true, save: None };
    let pushed = deploy::run(&client, ui, order).await;
    if let Err(failure) = &pushed {
        put_back(&client, ui, &identity.topology, &args, [&old, &edited], failure).await;
    }
    pushed
}

/// Its secrets as they are here, its images as the newest generation pinned them.
fn take_along(source: &mut Source, client: &Client, scene: &Scene) -> Result<(), Failure> {
    source.read_secrets(&client.context, &deploy::bound(&scene.hosts))?;
    source.inputs.pins.clone_from(&scene.previous.inputs.pins);
    Ok(())
}

/// Gives the file back as it was when nothing came of it.
async fn put_back(client: &Client, ui: &mut Ui, topology: &TopologyId, args: &AcceptArgs, [old, edited]: [&str; 2], failure: &Failure) {
    let name = args.file.display();
    let newest = client.current(topology, false).await.map(|current| current.and_then(|c| c.source).map(|s| s.into_statement().source));
    match newest {
        Ok(Some(pushed)) if pushed == edited => {}
        Ok(_) if std::fs::read(&args.file).is_ok_and(|now| now == edited.as_bytes()) => match files::replace(&args.file, old.as_bytes()) {
            Ok(()) => ui.note(&format!("{name} is as it was before")),
            Err(broken) => ui.warn(&format!("{name} has the new value, which is not pushed, and could not be put back: {broken}")),
        },
        Ok(_) | Err(_) => {
            ui.warn(&format!("{name} has the new value, and whether it was pushed is not known ({failure}): run the same again"));
        }
    }
}

/// Where the value stands in the file.
fn place(source: &Source, case: &Case, args: &AcceptArgs, over: &Override) -> Result<Vec<String>, Failure> {
    let name = case.host.name.as_str();
    let entry = match &args.in_profile {
        Some(profile) if source.file.profiles.contains_key(profile) => ["profiles", profile.as_str()],
        Some(profile) => {
            let known: Vec<&str> = source.file.profiles.keys().map(String::as_str).collect();
            let message = format!("{} has no profile `{profile}`", source.name);
            return Err(Failure::usage(message, format!("it has {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })));
        }
        None if source.file.hosts.contains_key(name) => ["hosts", name],
        None => {
            let message = format!("{} has no entry of its own for host `{name}`: it is one of those that a selector means", source.name);
            return Err(Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy(format!(
                "give `{name}` an entry, and take it out of the selector's; or write it into a profile with --in-profile"
            )));
        }
    };
    Ok(entry.iter().map(|part| (*part).to_owned()).chain(over.path.iter().cloned()).collect())
}

/// The file must say what the newest generation says, or that with the value: nothing else is pushed along unseen.
fn require_newest(scene: &Scene, source: &Source, edited: &str, path: &[String], over: &Override) -> Result<(), Failure> {
    let newest = scene.previous.source.as_deref().unwrap_or_default();
    let was_written =
        || overrides::edit(newest, path, &over.value).is_ok_and(|newest| source.means_the_same_as(&newest, &scene.previous.inputs));
    if source.means_the_same_as(newest, &scene.previous.inputs) || (source.text == edited && was_written()) {
        return Ok(());
    }
    let message = format!("{} says something else than generation {}, which would be pushed along", source.name, scene.previous.generation);
    Err(Failure::from(Fault::new(Code::BaseMoved, message))
        .with_remedy(format!("look at `moorctl diff -f {}`, push or undo that first, then accept", source.name)))
}

/// No other host may change, but for those that use the profile: these are named.
fn require_only(after: &Source, scene: &Scene, case: &Case, in_profile: bool, ui: &mut Ui) -> Result<(), Failure> {
    let wanted = after.slice(&scene.hosts)?;
    let is_other = |host: &HostId, spec: &HostSpec| *host != case.host.host_id && scene.previous.spec_of(host).as_ref() != Some(spec);
    let others = wanted.hosts.iter().filter(|(host, spec)| is_other(host, spec)).map(|(host, _)| host);
    let names: Vec<String> =
        others.map(|id| scene.hosts.iter().find(|h| h.host_id == *id).map_or_else(|| id.to_string(), |h| h.name.to_string())).collect();
    if names.is_empty() {
        return Ok(());
    }
    if in_profile {
        ui.warn(&format!("the profile is also that of {}: they get the value, too", names.join(", ")));
        return Ok(());
    }
    let message = format!("the edited file would change {}, too", names.join(", "));
    Err(Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy("edit the topology file by hand and push it"))
}

/// With the new file the host has what it shall have in that field.
fn require_agreed(identity: &Identity, after: &Source, scene: &Scene, before: &HostSpec, case: &Case) -> Result<(), Failure> {
    let wanted = after.slice(&scene.hosts)?;
    let drift = &case.facts.drift;
    let agrees = wanted.hosts.get(&case.host.host_id).is_some_and(|spec| {
        let plan = plan_given(identity, spec, case.observed(), Given { applied: Some(before), ..Given::default() });
        let differs = plan.drift.iter().any(|d| d.resource == drift.resource && d.field == drift.field);
        let comes_back = drift.field == PRESENCE && plan.steps.iter().any(|s| s.resource == drift.resource);
        !differs && !comes_back
    });
    if agrees {
        return Ok(());
    }
    let message = format!("the edited file still does not say {} for {} of {}", drift.actual, drift.field, drift.resource);
    Err(Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy("edit the topology file by hand and push it"))
}
