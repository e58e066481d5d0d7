//! `moorctl drift accept`: the topology says from now on what the host has.

use std::collections::BTreeSet;

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, TopologyId};
use moorline_common::plan::docker::plan_given;
use moorline_common::plan::lower::{self, LoweredSpec};
use moorline_common::plan::{Effect, Given, Identity};
use moorline_common::topology::{DriftPolicy, HostSpec, Policy};

use super::{AcceptArgs, Case};
use crate::client::Client;
use crate::client::drift::Shown;
use crate::cmd::Env;
use crate::cmd::deploy::{self, Aim, AtOnce, Base, Order, Scene, Verb};
use crate::desired::{self, Source};
use crate::error::Failure;
use crate::home::files;
use crate::overrides::{self, Override};
use crate::render::{Ui, diff, visible};

/// Runs it.
///
/// # Errors
/// `drift_moved`, `drift_resolved`, `invalid_argument` for what no file can say; what a push can fail with.
pub async fn run(args: AcceptArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    client.require_signable()?;
    let case = Case::of(&client, client.drift(args.id).await?).await?;
    let drift = case.signed_lately()?;
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
    require_shown(&identity, &before, &case, drift)?;
    let over = overrides::of(drift, &identity.topology, &before)?;
    let path = place(&source, &case, &args, &over)?;
    let edited = overrides::edit(&source.text, &path, &over.value)?;
    require_newest(&scene, &source, &edited, &path, &over)?;
    let mut after = desired::read_as(ui, &args.file, edited.as_bytes(), &args.inputs)?;
    take_along(&mut after, &client, &scene)?;
    require_only(&after, &scene, &case, args.in_profile.is_some(), ui)?;
    let anew = require_agreed(&identity, &after, &scene, &before, &case)?;
    let difference = diff::unified(&source.text, &edited, &source.name, "with what the host has");
    let difference: String = difference.lines().map(|line| visible(line) + "\n").collect();
    ui.note(diff::coloured(&difference).trim_end());
    ui.note(&format!(
        "{} {} on `{}` is {}, by the report that the host signed {} ago",
        drift.resource,
        visible(&drift.field),
        case.host.name,
        visible(&drift.actual),
        case.age()
    ));
    if let Some(anew) = anew {
        ui.warn(&anew);
    }
    ui.confirm(&format!("Write this into {} and push it?", source.name))?;
    require_unmoved(&client, &case).await?;
    let old = source.text.clone();
    // First the file: a push that this machine does not have in its file would be undone by the next one.
    files::replace(&args.file, source.text.as_bytes(), edited.as_bytes())?;
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
    let order = Order { base, at_once: at_once(&case, &scene), force: true, ..Order::plain(aim, message) };
    let pushed = deploy::run(&client, ui, order).await;
    if let Err(failure) = &pushed {
        put_back(&client, ui, &identity.topology, &args, [&old, &edited], failure).await;
    }
    pushed
}

/// What the host has already waits for no window, unless it waits with more than that.
fn at_once(case: &Case, scene: &Scene) -> AtOnce {
    let has_all = case.report.report.statement().apply.generation == scene.previous.generation;
    if has_all { AtOnce::One(case.host.host_id.clone()) } else { AtOnce::Nobody }
}

/// It may have moved while the question stood there.
async fn require_unmoved(client: &Client, shown: &Case) -> Result<(), Failure> {
    let now = Case::of(client, client.drift(shown.facts.id).await?).await?;
    let (was, is) = (&shown.facts.drift, &now.signed_lately()?.actual);
    if *is != was.actual {
        let message = format!("{} was shown for {}, the host has {} by now", visible(&was.actual), visible(&was.field), visible(is));
        return Err(Fault::new(Code::DriftMoved, message).into());
    }
    Ok(())
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
        Ok(_) => match files::replace(&args.file, edited.as_bytes(), old.as_bytes()) {
            Ok(()) => ui.note(&format!("{name} is as it was before")),
            Err(broken) => ui.warn(&format!("{name} has the new value, which is not pushed, and could not be put back: {broken}")),
        },
        Err(_) => {
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

/// The same content, of which nothing is mended: what differs is told, all of it.
fn left(spec: &HostSpec) -> HostSpec {
    let mut spec = spec.clone();
    spec.policy = Some(Policy { drift: DriftPolicy::Inbox, loop_breaker: None, maintenance: Vec::new() });
    if let Some(docker) = &mut spec.docker {
        docker.services.values_mut().for_each(|service| service.drift = None);
        docker.networks.values_mut().for_each(|network| network.drift = None);
        docker.volumes.values_mut().for_each(|volume| volume.drift = None);
    }
    spec
}

/// What this machine finds different on the host by what that signed. The words of fields are ours then, whatever a host calls them.
fn found(identity: &Identity, spec: &HostSpec, case: &Case) -> Vec<Drift> {
    let spec = left(spec);
    let given = Given { applied: Some(&spec), ..Given::default() };
    plan_given(identity, &spec, case.observed(), given).drift.iter().map(Drift::shown).collect()
}

/// The host's report must show the difference by itself, and not only say it.
fn require_shown(identity: &Identity, before: &HostSpec, case: &Case, drift: &Drift) -> Result<(), Failure> {
    let found = found(identity, before, case);
    if !found.iter().any(|d| d.resource == drift.resource && d.field == drift.field && d.actual == drift.actual) {
        let message = format!(
            "what host `{}` signed of {} does not show {} for {}",
            case.host.name,
            drift.resource,
            visible(&drift.actual),
            visible(&drift.field)
        );
        return Err(Failure::from(Fault::new(Code::DriftMoved, message)).with_remedy("edit the topology file by hand and push it"));
    }
    let others: Vec<String> =
        found.iter().filter(|d| d.resource == drift.resource && d.field != drift.field).map(|d| d.field.clone()).collect();
    if others.is_empty() {
        return Ok(());
    }
    let message = format!("{} differs in {}, too, and a push for it would set that back", drift.resource, others.join(", "));
    Err(Failure::from(Fault::new(Code::PreconditionFailed, message))
        .with_remedy("revert these first, or write them into the file by hand and push it"))
}

/// With the new file the host has what it shall have in that field, and nothing else becomes another one by it. Gives what is made anew
/// for it all the same.
fn require_agreed(identity: &Identity, after: &Source, scene: &Scene, before: &HostSpec, case: &Case) -> Result<Option<String>, Failure> {
    let drift = &case.facts.drift;
    let by_hand = |message: String| {
        Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy("edit the topology file by hand and push it")
    };
    let wanted = after.slice(&scene.hosts)?;
    let spec = wanted.hosts.get(&case.host.host_id);
    let spec = spec.ok_or_else(|| by_hand(format!("the edited file says nothing for host `{}`", case.host.name)))?;
    if found(identity, spec, case).iter().any(|d| d.resource == drift.resource && d.field == drift.field) {
        return Err(by_hand(format!(
            "the edited file still does not say {} for {} of {}",
            visible(&drift.actual),
            drift.field,
            drift.resource
        )));
    }
    let (old, new) = (lower::lower(identity, before), lower::lower(identity, spec));
    let all = |spec: &LoweredSpec| {
        spec.networks.keys().chain(spec.volumes.keys()).chain(spec.containers.keys()).cloned().collect::<BTreeSet<_>>()
    };
    let changed = all(&old).union(&all(&new)).find(|r| **r != drift.resource && old.hash_of(r) != new.hash_of(r)).cloned();
    if let Some(other) = changed {
        return Err(by_hand(format!("the edited file would change {other}, too")));
    }
    let plan = plan_given(identity, spec, case.observed(), Given { applied: Some(before), ..Given::default() });
    if let Some(blocked) = plan.blocked.iter().find(|b| b.resource == drift.resource) {
        return Err(by_hand(format!("with the edited file {} could not be brought further: {}", drift.resource, blocked.reason)));
    }
    let step = plan.steps.iter().find(|s| s.resource == drift.resource && s.action.effect() != Effect::InPlace);
    Ok(step.map(|step| {
        format!("the push will {} {}: only another object can say of itself that this is meant", step.action.verb(), step.resource)
    }))
}
