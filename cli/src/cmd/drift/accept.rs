//! `moorctl drift accept`: the topology says from now on what the host has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, ResourceId, TopologyId};
use moorline_common::plan::lower::{self, LoweredSpec};
use moorline_common::plan::plan_given;
use moorline_common::plan::{Effect, Given, Identity};
use moorline_common::topology::{BoundHost, DriftPolicy, Entry, HostSpec, Policy};

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

/// What is accepted together: drifts of one resource, and where each is to stand in the file.
struct Accepted {
    cases: Vec<Case>,
    edits: Vec<(Vec<String>, Override)>,
}

impl Accepted {
    /// `text` with all of it.
    fn written_into(&self, text: &str) -> Result<String, Failure> {
        self.edits.iter().try_fold(text.to_owned(), |text, (path, over)| overrides::edit(&text, path, &over.value))
    }

    fn drifts(&self) -> impl Iterator<Item = &Drift> {
        self.cases.iter().map(|case| &case.facts.drift)
    }

    /// Why the file changes, for its history.
    fn words(&self) -> String {
        let ids: Vec<String> = self.cases.iter().map(|case| case.facts.id.to_string()).collect();
        let said: Vec<String> = self.edits.iter().map(|(_, over)| over.words()).collect();
        format!("accept drift {}: {}", ids.join(", "), said.join("; "))
    }
}

/// Runs it.
///
/// # Errors
/// `drift_moved`, `drift_resolved`, `invalid_argument` for what no file can say; what a push can fail with.
pub async fn run(args: &AcceptArgs, file: &Path, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    client.require_signable()?;
    let cases = Case::of_one_resource(&client, &args.ids, "accept").await?;
    let Some(case) = cases.first() else { return Err(Failure::usage("no drift is named", "name at least one")) };
    let identity = case.identity(&client)?;
    if file == Path::new("-") {
        return Err(Failure::usage("the topology file is edited, and standard input cannot be", "name the file with -f"));
    }
    let mut source = desired::read(ui, file, &args.inputs)?;
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
    require_shown(&identity, &before, &cases)?;
    let mut edits = Vec::new();
    for case in &cases {
        let over = overrides::of(case.signed_lately()?, &identity.topology, &before)?;
        for edit in placed(&source, case, args, &before, over)? {
            if !edits.contains(&edit) {
                edits.push(edit);
            }
        }
    }
    let accepted = Accepted { edits, cases };
    let edited = accepted.written_into(&source.text)?;
    require_newest(&scene, &source, &edited, &accepted)?;
    let mut after = desired::read_as(ui, file, edited.as_bytes(), &args.inputs)?;
    take_along(&mut after, &client, &scene)?;
    let replaces = agree(ui, &identity, (&source, &edited, &after), &scene, &before, (&accepted, args.in_profile.is_some()))?;
    require_unmoved(&client, &accepted.cases).await?;
    push(&client, ui, (args, file), &accepted, (&source, &edited, after), (&scene, replaces)).await
}

/// Shows what is written, and asks; whether the object is made anew for it, which waits for a maintenance window as ever.
fn agree(
    ui: &mut Ui,
    identity: &Identity,
    (source, edited, after): (&Source, &str, &Source),
    scene: &Scene,
    before: &HostSpec,
    (accepted, in_profile): (&Accepted, bool),
) -> Result<bool, Failure> {
    let Some(case) = accepted.cases.first() else { return Ok(false) };
    require_only(after, scene, case, in_profile, ui)?;
    let anew = require_agreed(identity, after, scene, before, accepted)?;
    let difference = diff::unified(&source.text, edited, &source.name, "with what the host has");
    let difference: String = difference.lines().map(|line| visible(line) + "\n").collect();
    ui.note(diff::coloured(&difference).trim_end());
    for drift in accepted.drifts() {
        ui.note(&format!(
            "{} {} on `{}` is {}, by the report that the host signed {} ago",
            drift.resource,
            visible(&drift.field),
            case.host.name,
            visible(&drift.actual),
            case.age()
        ));
    }
    if let Some(anew) = &anew {
        ui.warn(anew);
    }
    ui.confirm(&format!("Write this into {} and push it?", source.name))?;
    Ok(anew.is_some())
}

/// Writes the file and pushes it.
async fn push(
    client: &Client,
    ui: &mut Ui,
    (args, file): (&AcceptArgs, &Path),
    accepted: &Accepted,
    (source, edited, after): (&Source, &str, Source),
    (scene, replaces): (&Scene, bool),
) -> Result<u8, Failure> {
    let topology = source.file.topology.clone();
    // First the file: a push that this machine does not have in its file would be undone by the next one.
    files::replace(file, source.text.as_bytes(), edited.as_bytes())?;
    let message = if args.message.is_empty() { accepted.words() } else { args.message.clone() };
    let aim = Aim {
        verb: Verb::Push,
        topology: topology.clone(),
        source: Some(after),
        accept_older_hub: false,
        no_rollout: false,
        wait: args.wait.limit(),
        accepts: accepted.cases.iter().map(|c| Shown { id: c.facts.id, actual: c.facts.drift.actual.clone() }).collect(),
    };
    let base = Base::Generation(scene.previous.generation);
    let at_once = accepted.cases.first().filter(|_| !replaces).map_or(AtOnce::Nobody, |case| at_once(case, scene));
    let order = Order { base, at_once, force: true, ..Order::plain(aim, message) };
    let pushed = deploy::run(client, ui, order).await;
    if let Err(failure) = &pushed {
        put_back(client, ui, &topology, file, [&source.text, edited], failure).await;
    }
    pushed
}

/// What the host has already waits for no window, unless it waits with more than that.
fn at_once(case: &Case, scene: &Scene) -> AtOnce {
    let has_all = case.report.report.statement().apply.generation == scene.previous.generation;
    if has_all { AtOnce::One(case.host.host_id.clone()) } else { AtOnce::Nobody }
}

/// It may have moved while the question stood there.
async fn require_unmoved(client: &Client, shown: &[Case]) -> Result<(), Failure> {
    let ids: Vec<u64> = shown.iter().map(|case| case.facts.id).collect();
    let now = Case::of_one_resource(client, &ids, "accept").await?;
    for (shown, now) in shown.iter().zip(&now) {
        let (was, is) = (&shown.facts.drift, &now.signed_lately()?.actual);
        if *is != was.actual {
            let message = format!("{} was shown for {}, the host has {} by now", visible(&was.actual), visible(&was.field), visible(is));
            return Err(Fault::new(Code::DriftMoved, message).into());
        }
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
async fn put_back(client: &Client, ui: &mut Ui, topology: &TopologyId, file: &Path, [old, edited]: [&str; 2], failure: &Failure) {
    let name = file.display();
    let newest = client.current(topology, false).await.map(|current| current.and_then(|c| c.source).map(|s| s.into_statement().source));
    match newest {
        Ok(Some(pushed)) if pushed == edited => {}
        Ok(_) => match files::replace(file, edited.as_bytes(), old.as_bytes()) {
            Ok(()) => ui.note(&format!("{name} is as it was before")),
            Err(broken) => ui.warn(&format!("{name} has the new value, which is not pushed, and could not be put back: {broken}")),
        },
        Err(_) => {
            ui.warn(&format!("{name} has the new value, and whether it was pushed is not known ({failure}): run the same again"));
        }
    }
}

/// What is written where.
fn placed(
    source: &Source,
    case: &Case,
    args: &AcceptArgs,
    before: &HostSpec,
    over: Override,
) -> Result<Vec<(Vec<String>, Override)>, Failure> {
    let guest = before.guests().find(|(vmid, _)| vmid.resource() == case.facts.drift.resource).map(|(_, guest)| guest);
    let overs = match guest {
        Some(guest) => {
            let (target, others) = parts(source, case, args);
            overrides::written(&over, guest, target.unwrap_or(&Entry::default()), &others)?
        }
        None => vec![over],
    };
    overs.into_iter().map(|over| Ok((place(source, case, args, &over)?, over))).collect()
}

/// The part of the file that is written into, and the others that the host has.
fn parts<'s>(source: &'s Source, case: &Case, args: &AcceptArgs) -> (Option<&'s Entry>, Vec<&'s Entry>) {
    let file = &source.file;
    let entry = case.host.binding.as_ref().and_then(|binding| file.entry_for(&BoundHost::from(binding.statement())));
    let profiles = entry.iter().flat_map(|entry| &entry.uses).filter_map(|name| Some((Some(name), file.profiles.get(name)?)));
    let all = profiles.chain(entry.iter().map(|entry| (None, &entry.own)));
    let target = args.in_profile.as_ref();
    let others = all.filter(|(name, _)| *name != target).map(|(_, part)| part).collect();
    (target.map_or(entry.map(|entry| &entry.own), |profile| file.profiles.get(profile)), others)
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
fn require_newest(scene: &Scene, source: &Source, edited: &str, accepted: &Accepted) -> Result<(), Failure> {
    let newest = scene.previous.source.as_deref().unwrap_or_default();
    let was_written = || accepted.written_into(newest).is_ok_and(|newest| source.means_the_same_as(&newest, &scene.previous.inputs));
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
    spec.policy = Some(Policy { drift: DriftPolicy::Inbox, ..Policy::default() });
    if let Some(docker) = &mut spec.docker {
        docker.services.values_mut().for_each(|service| service.drift = None);
        docker.networks.values_mut().for_each(|network| network.drift = None);
        docker.volumes.values_mut().for_each(|volume| volume.drift = None);
    }
    if let Some(proxmox) = &mut spec.proxmox {
        proxmox.guests.values_mut().for_each(|guest| guest.drift = None);
    }
    spec
}

/// What this machine finds different on the host by what that signed. The words of fields are ours then, whatever a host calls them.
fn found(identity: &Identity, spec: &HostSpec, case: &Case) -> Vec<Drift> {
    let spec = left(spec);
    let given = Given { applied: Some(&spec), ..Given::default() };
    plan_given(identity, &spec, case.observed(), given).drift.iter().map(Drift::shown).collect()
}

/// The host's report must show the differences by itself, and not only say them; and no others of the resource.
fn require_shown(identity: &Identity, before: &HostSpec, cases: &[Case]) -> Result<(), Failure> {
    let Some(first) = cases.first() else { return Ok(()) };
    let found = found(identity, before, first);
    let mut others: BTreeSet<&str> = found.iter().filter(|d| d.resource == first.facts.drift.resource).map(|d| d.field.as_str()).collect();
    for case in cases {
        let drift = case.signed_lately()?;
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
        others.remove(drift.field.as_str());
    }
    if others.is_empty() {
        return Ok(());
    }
    let others: Vec<&str> = others.into_iter().collect();
    let message = format!("{} differs in {}, too, and a push would set that back", first.facts.drift.resource, others.join(", "));
    Err(Failure::from(Fault::new(Code::PreconditionFailed, message))
        .with_remedy("accept these together (`moorctl drift accept ID ID …`), or revert those that are not to stay"))
}

/// A guest that is otherwise in the two, besides the one that has drifted.
fn other_guest(old: &HostSpec, new: &HostSpec, drift: &Drift) -> Option<ResourceId> {
    let of = |spec: &HostSpec| spec.guests().map(|(vmid, guest)| (vmid.resource(), guest.clone())).collect::<BTreeMap<_, _>>();
    let (old, new) = (of(old), of(new));
    let mut all = old.keys().chain(new.keys());
    all.find(|resource| **resource != drift.resource && old.get(*resource) != new.get(*resource)).cloned()
}

/// With the new file the host has what it shall have in these fields, and nothing else becomes another one by it. Gives what is made anew
/// for it all the same.
fn require_agreed(
    identity: &Identity,
    after: &Source,
    scene: &Scene,
    before: &HostSpec,
    accepted: &Accepted,
) -> Result<Option<String>, Failure> {
    let Some(case) = accepted.cases.first() else { return Ok(None) };
    let drift = &case.facts.drift;
    let by_hand = |message: String| {
        Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy("edit the topology file by hand and push it")
    };
    let wanted = after.slice(&scene.hosts)?;
    let spec = wanted.hosts.get(&case.host.host_id);
    let spec = spec.ok_or_else(|| by_hand(format!("the edited file says nothing for host `{}`", case.host.name)))?;
    let still = found(identity, spec, case);
    if let Some(drift) = accepted.drifts().find(|drift| still.iter().any(|d| d.resource == drift.resource && d.field == drift.field)) {
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
    if let Some(other) = changed.or_else(|| other_guest(before, spec, drift)) {
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
