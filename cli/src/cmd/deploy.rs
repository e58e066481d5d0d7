//! What `push`, `rollback` and `down` share: slice, compare, sign, hand in, wait.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use moorline_common::topology::HostSpec;
use moorline_common::trust::TrustRoot;
use owo_colors::OwoColorize;
use serde::Serialize;

use super::revision_file;
use crate::approve;
use crate::client::{Client, HostView, RevisionView};
use crate::clock;
use crate::desired::{Desired, Source};
use crate::error::Failure;
use crate::limits::ERROR_DIFF_LINES;
use crate::progress::{self, Goal, HostStanding};
use crate::render::{Format, Ui, diff};
use crate::revision::{self, ChangeKind, Draft, HostChange, Previous, SignedRevision};
use crate::signers::Signers;

/// What a new revision is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Whatever is the newest.
    Newest,
    /// This generation.
    Generation(Generation),
    /// Not known: this machine never pushed the topology.
    Unknown,
}

/// What shall become the newest revision.
pub struct Order {
    /// The topology.
    pub topology: TopologyId,
    /// The file; `None` tears the topology down.
    pub source: Option<Source>,
    /// Why, in the operator's words.
    pub message: String,
    /// How long its slices may wait for delivery.
    pub deliver_within: Duration,
    /// The generation that the file was made from.
    pub base: Base,
    /// Whether to push although no host changes.
    pub force: bool,
    /// Whether to go on from what the hub shows although this machine has seen a newer revision.
    pub accept_older_hub: bool,
    /// How long to wait until every host is there; `None` does not wait.
    pub wait: Option<Duration>,
    /// Where to write the signed revision instead of handing it in.
    pub save: Option<PathBuf>,
}

impl Order {
    /// The newest revision as the hub shows it, checked against what this machine has seen unless the order accepts less.
    async fn newest(&self, client: &Client, with_slices: bool) -> Result<Option<RevisionView>, Failure> {
        if self.accept_older_hub {
            client.shown(&self.topology, with_slices).await
        } else {
            client.current(&self.topology, with_slices).await
        }
    }
}

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    topology: String,
    generation: u64,
    base_generation: u64,
    /// Whether a new revision was made.
    pushed: bool,
    down: bool,
    hosts: Vec<HostChange>,
    /// Entries whose hosts are not bound yet.
    awaiting: Vec<String>,
    /// Hosts that were approved during the push and could not be given their slices.
    without_slice: Vec<String>,
    /// Where each host was when the wait ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited: Option<Vec<HostStanding>>,
}

/// A topology as the hub has it, with the hosts.
pub struct Scene {
    /// The newest revision, if there is one.
    pub current: Option<RevisionView>,
    /// What it says per host.
    pub previous: Previous,
    /// All hosts.
    pub hosts: Vec<HostView>,
}

/// Fetches and verifies the hosts for which a new revision is compared with `current`.
///
/// # Errors
/// What calls can fail with.
pub async fn scene(client: &Client, ui: &mut Ui, topology: &TopologyId, current: Option<RevisionView>) -> Result<Scene, Failure> {
    let hosts = client.hosts(None).await?;
    for host in hosts.iter().filter(|h| h.doubt.is_some()) {
        ui.warn(&format!("host `{}` is left out: {}", host.name, host.doubt.as_ref().map(ToString::to_string).unwrap_or_default()));
    }
    if let Some(fault) = current.as_ref().and_then(|c| c.doubt.as_ref()) {
        ui.warn(&format!("the newest revision of `{topology}` does not verify and cannot be compared: {fault}"));
    }
    let previous = Previous::of(current.as_ref(), &hosts, &client.root);
    Ok(Scene { current, previous, hosts })
}

/// What every host gets: what the file says, nothing for hosts that leave.
///
/// # Errors
/// When the file has problems with these hosts.
pub fn wanted(ui: &mut Ui, topology: &TopologyId, source: Option<&Source>, scene: &Scene) -> Result<Desired, Failure> {
    let mut desired = match source {
        Some(source) => source.slice(&scene.hosts)?,
        None => Desired::default(),
    };
    let (leaves, kept) = revision::leaving(topology, &desired.hosts, &scene.previous, &scene.hosts, &revision::empty_hash()?);
    desired.hosts.extend(leaves.into_iter().map(|host| (host, HostSpec::default())));
    for host in kept {
        ui.warn(&format!("host `{host}` keeps what it has: the hub shows no binding of it that verifies"));
    }
    Ok(desired)
}

/// Makes the new revision and hands it in.
///
/// # Errors
/// [`Code::BaseMoved`] with the difference; what signing, pushing and waiting can fail with.
pub async fn run(client: &Client, ui: &mut Ui, order: Order) -> Result<u8, Failure> {
    client.require_signable()?;
    let signers = Signers::of(client)?;
    let current = order.newest(client, true).await?;
    let scene = scene(client, ui, &order.topology, current).await?;
    let desired = wanted(ui, &order.topology, order.source.as_ref(), &scene)?;
    let changes = revision::changes(&desired.hosts, &scene.previous, &scene.hosts)?;
    let newest = scene.previous.generation;
    if !order.force && is_unchanged(&order, &scene.previous, &changes) {
        let sha = scene.current.as_ref().and_then(|c| c.source.as_ref()).map(|s| s.envelope().payload_sha256()).unwrap_or_default();
        client.note_pushed(&order.topology, newest, &sha, order.accept_older_hub)?;
        let outcome = outcome(&order, newest, newest, desired.pending, changes);
        return finish(client, ui, &order, outcome).await;
    }
    require_signed(&order, &scene)?;
    let base = match (order.base, &scene.current) {
        (Base::Generation(base), _) => base,
        // What was torn down leaves nothing to overwrite.
        (Base::Unknown, Some(current)) if !is_torn_down(current) => return Err(never_pushed(client, &order, current)),
        (Base::Newest | Base::Unknown, _) => newest,
    };
    if base != newest {
        return Err(base_moved(client, &order, base, scene.current.as_ref()).await);
    }
    let draft = Draft {
        topology: order.topology.clone(),
        generation: base.next(),
        source: order.source.as_ref().map_or_else(|| scene.previous.source.clone().unwrap_or_default(), |s| s.text.clone()),
        down: order.source.is_none(),
        message: order.message.clone(),
        deliver_within_s: order.deliver_within.as_secs(),
        hosts: desired.hosts.clone(),
    };
    let signed = revision::seal(&client.root, &signers, &draft, &scene.hosts, clock::now())?;
    let verified = revision::verify(&client.root, &signed, &revision::bindings(&scene.hosts));
    if let Some(file) = &order.save {
        return revision_file::write(client, ui, file, base, &signed, &scene, verified);
    }
    verified?;
    hand_in(client, &order, base, &signed).await?;
    let mut outcome = outcome(&order, base, draft.generation, desired.pending, changes);
    if order.source.is_some() {
        outcome.without_slice = late_hosts(client, ui, &signers, &scene).await;
    }
    finish(client, ui, &order, outcome).await
}

/// Hands in a revision that has all its signatures.
///
/// # Errors
/// [`Code::BaseMoved`] with the difference; whatever else the hub refuses.
async fn hand_in(client: &Client, order: &Order, base: Generation, signed: &SignedRevision) -> Result<(), Failure> {
    let Err(failure) = client.push(base, signed, order.accept_older_hub).await else { return Ok(()) };
    let moved = match failure.is(Code::BaseMoved) {
        true => order.newest(client, false).await.ok().flatten().filter(|c| c.facts.generation != base),
        false => None,
    };
    Err(match moved {
        Some(current) => base_moved(client, order, base, Some(&current)).await,
        None => not_taken(failure, order, signed.generation),
    })
}

/// Hands in a revision that was signed before, on whichever machines: what its hosts get is `desired`.
///
/// # Errors
/// As [`run`].
pub async fn submit(
    client: &Client,
    ui: &mut Ui,
    order: Order,
    base: Generation,
    signed: &SignedRevision,
    desired: Desired,
) -> Result<u8, Failure> {
    let current = order.newest(client, true).await?;
    let known = current.as_ref().filter(|c| c.facts.generation == signed.generation).and_then(|c| c.source.as_ref());
    let is_known = known.is_some_and(|s| s.envelope().payload == signed.source.payload);
    if !is_known && current.as_ref().map_or(Generation(0), |c| c.facts.generation) != base {
        return Err(base_moved(client, &order, base, current.as_ref()).await.with_remedy(
            "merge the difference above into your file, then save and sign it anew: what was signed names the generation it follows",
        ));
    }
    let scene = scene(client, ui, &order.topology, current).await?;
    revision::verify(&client.root, signed, &revision::bindings(&scene.hosts))?;
    let changes = revision::changes(&desired.hosts, &scene.previous, &scene.hosts)?;
    if is_known {
        // The answer to an earlier try was lost, or another machine handed it in: what this one pushes next is made from it.
        let generation = signed.generation;
        client.note_pushed(&order.topology, generation, &signed.source.payload_sha256(), order.accept_older_hub)?;
        let outcome = outcome(&order, generation, generation, desired.pending, changes);
        return finish(client, ui, &order, outcome).await;
    }
    // Before it is handed in: after that, nothing that is wrong here may hide that it was.
    let late = late_names(order.source.as_ref(), &scene, &desired)?;
    hand_in(client, &order, base, signed).await?;
    let outcome = Outcome { without_slice: late, ..outcome(&order, base, signed.generation, desired.pending, changes) };
    finish(client, ui, &order, outcome).await
}

/// The names of the hosts that `source` means and `desired` does not have: they were approved after the revision was saved.
fn late_names(source: Option<&Source>, scene: &Scene, desired: &Desired) -> Result<Vec<String>, Failure> {
    let Some(source) = source else { return Ok(Vec::new()) };
    let late = source.slice(&scene.hosts)?.hosts.into_keys().filter(|host| !desired.hosts.contains_key(host));
    let named = |id| scene.hosts.iter().find(|h| h.host_id == id).map(|h| h.name.to_string());
    Ok(late.filter_map(named).collect())
}

/// Hosts that were bound between our look at them and the push: their approval saw the revision before, so
/// they are given their slices of this one here. The push stands whatever becomes of them: gives the names of
/// those that could not be given theirs.
async fn late_hosts(client: &Client, ui: &mut Ui, signers: &Signers, scene: &Scene) -> Vec<String> {
    let known: BTreeSet<_> = scene.hosts.iter().filter(|h| h.bound().is_some()).map(|h| &h.host_id).collect();
    let hosts = match client.hosts(None).await {
        Ok(hosts) => hosts,
        Err(failure) => {
            ui.warn(&format!("pushed; whether hosts were approved meanwhile could not be seen: {failure}"));
            return Vec::new();
        }
    };
    let mut without = Vec::new();
    for host in hosts.iter().filter(|h| h.bound().is_some() && !known.contains(&h.host_id)) {
        if let Err(failure) = approve::give_slices(client, ui, signers, host).await {
            ui.warn(&format!("pushed, but host `{}`, approved meanwhile, did not get its slice: {failure}", host.name));
            without.push(host.name.to_string());
        }
    }
    without
}

fn outcome(order: &Order, base: Generation, generation: Generation, awaiting: Vec<String>, hosts: Vec<HostChange>) -> Outcome {
    Outcome {
        topology: order.topology.to_string(),
        generation: generation.0,
        base_generation: base.0,
        pushed: generation != base,
        down: order.source.is_none(),
        hosts,
        awaiting,
        without_slice: Vec::new(),
        waited: None,
    }
}

/// Refuses to build on a generation behind which nothing verifies, unless the operator names it: a hub that is
/// not honest could burn through the numbers.
fn require_signed(order: &Order, scene: &Scene) -> Result<(), Failure> {
    let newest = scene.previous.generation;
    let signed = newest == Generation(0) || scene.previous.source.is_some() || scene.previous.slices.values().any(Option::is_some);
    if signed || order.base == Base::Generation(newest) {
        return Ok(());
    }
    let message = format!("the hub shows generation {newest} of `{}`, and nothing of it that verifies", order.topology);
    Err(Failure::from(Fault::new(Code::UnknownKey, message))
        .with_remedy(format!("if you know why (its signer left the trust root), push with --base {newest}")))
}

/// Whether a new revision would say what the newest says already, to every host and to those to come.
fn is_unchanged(order: &Order, previous: &Previous, changes: &[HostChange]) -> bool {
    if previous.generation == Generation(0) {
        return false;
    }
    let same_hosts = changes.iter().all(|c| c.change == ChangeKind::Unchanged);
    match (&order.source, &previous.source) {
        (Some(source), Some(text)) => same_hosts && !previous.down && source.means_the_same_as(text),
        // Torn down already; hosts that are still at it are on their way.
        (None, _) => previous.down,
        (Some(_), None) => false,
    }
}

/// Shows what came of it, and waits if the order says so.
async fn finish(client: &Client, ui: &mut Ui, order: &Order, mut outcome: Outcome) -> Result<u8, Failure> {
    if ui.format == Format::Table {
        ui.text(&words(&outcome))?;
    }
    let mut failure = None;
    if let Some(timeout) = order.wait {
        let hosts: BTreeMap<_, _> = outcome.hosts.iter().map(|c| (c.host_id.clone(), c.to.clone())).collect();
        let goal = Goal { topology: order.topology.clone(), generation: Generation(outcome.generation), hosts };
        match progress::wait(client, ui, &goal, timeout).await {
            Ok(waited) => {
                if ui.format == Format::Table {
                    ui.text(&standing_words(&waited.standings))?;
                }
                outcome.waited = Some(waited.standings);
                failure = waited.failure;
            }
            // What was pushed is pushed: the result says so, whatever ended the wait.
            Err(broken) => failure = Some(broken.while_doing("waiting for the hosts")),
        }
    }
    if ui.format != Format::Table {
        ui.result(&outcome, String::new)?;
    }
    for host in &outcome.without_slice {
        ui.warn(&format!("host `{host}` has no slice of this generation yet: `moorctl host approve {host}` gives it one"));
    }
    failure.map_or(Ok(0), Err)
}

fn count(changes: &[HostChange], kind: ChangeKind) -> usize {
    changes.iter().filter(|c| c.change == kind).count()
}

fn words(outcome: &Outcome) -> String {
    let name = outcome.topology.bold();
    let mut text = if outcome.pushed {
        let verb = if outcome.down { "tearing down" } else { "pushed" };
        format!("{verb} {name} generation {}\n", outcome.generation)
    } else if outcome.down {
        format!("{name} generation {} is down already\n", outcome.generation)
    } else {
        format!("nothing changed: {name} generation {} says the same (--force pushes all the same)\n", outcome.generation)
    };
    let counts: Vec<String> = [
        (ChangeKind::Added, "added"),
        (ChangeKind::Changed, "changed"),
        (ChangeKind::Unchanged, "unchanged"),
        (ChangeKind::Leaves, "torn down"),
    ]
    .into_iter()
    .map(|(kind, word)| (count(&outcome.hosts, kind), word))
    .filter(|(n, _)| *n > 0)
    .map(|(n, word)| format!("{n} {word}"))
    .collect();
    if !counts.is_empty() && (outcome.pushed || !outcome.down) {
        text.push_str(&format!("  hosts: {}\n", counts.join(", ")));
    }
    if !outcome.awaiting.is_empty() {
        text.push_str(&format!("  not joined yet, they get it when they are approved: {}\n", outcome.awaiting.join(", ")));
    }
    text
}

fn standing_words(standings: &[HostStanding]) -> String {
    let done = standings.iter().filter(|s| s.standing == progress::Standing::Done).count();
    let offline: Vec<&str> = standings.iter().filter(|s| s.standing == progress::Standing::Offline).map(|s| s.host.as_str()).collect();
    let mut text = format!("  {done} of {} hosts have it\n", standings.len());
    if !offline.is_empty() {
        text.push_str(&format!("  offline, pending until they connect: {}\n", offline.join(", ")));
    }
    text
}

/// Why the hub took no push, in its own words.
fn not_taken(failure: Failure, order: &Order, generation: Generation) -> Failure {
    let stands = failure.is(Code::BaseMoved);
    let failure = failure.while_doing(format_args!("pushing `{}` generation {generation}", order.topology));
    if stands { failure.with_remedy("nobody pushed meanwhile: look at the hosts with `moorctl status`, then push again") } else { failure }
}

/// Whether an operator signed that it is torn down.
fn is_torn_down(current: &RevisionView) -> bool {
    current.source.as_ref().is_some_and(|s| s.statement().down)
}

/// By whom and when a revision was pushed, and why.
fn pushed_by(client: &Client, view: &RevisionView) -> String {
    let age = clock::age(view.facts.pushed_unix_ms, client.hub_now_ms());
    let why = if view.facts.message.is_empty() { String::new() } else { format!(": “{}”", view.facts.message) };
    format!("pushed by {} {age} ago{why}", author(view, &client.root))
}

fn text_of(view: &RevisionView) -> Option<&str> {
    view.source.as_ref().map(|s| s.statement().source.as_str())
}

fn no_text(generation: Generation) -> Vec<String> {
    vec![format!("the hub has no source of generation {generation}: `moorctl get slice HOST` shows what each host has of it")]
}

fn difference(old: &str, new: &str, old_name: &str, new_name: &str) -> Vec<String> {
    diff::first_lines(&diff::coloured(&diff::unified(old, new, old_name, new_name)), ERROR_DIFF_LINES)
}

/// Refuses to replace a revision that this machine's file was not made from, and shows what the file would change.
fn never_pushed(client: &Client, order: &Order, current: &RevisionView) -> Failure {
    let generation = current.facts.generation;
    let topology = &order.topology;
    let message = format!(
        "`{topology}` is at generation {generation}, {}, and this machine has not pushed it before; nothing was pushed",
        pushed_by(client, current)
    );
    let details = match (text_of(current), &order.source) {
        (Some(old), Some(new)) => difference(old, &new.text, &format!("generation {generation}"), &new.name),
        (Some(_), None) => Vec::new(),
        (None, _) => no_text(generation),
    };
    Failure::from(Fault::new(Code::BaseMoved, message))
        .with_details(details)
        .with_remedy(format!("look at the difference, then push with `--base {generation}`"))
}

/// Says who moved the base, and shows what they changed.
async fn base_moved(client: &Client, order: &Order, base: Generation, current: Option<&RevisionView>) -> Failure {
    let Some(current) = current else {
        return Fault::new(Code::BaseMoved, format!("`{}` has no generation {base}; the hub has none at all", order.topology)).into();
    };
    let generation = current.facts.generation;
    let message = format!(
        "`{}` has moved from generation {base} to {generation}, {}; nothing was pushed",
        order.topology,
        pushed_by(client, current)
    );
    let old = match base {
        Generation(0) => Some(String::new()),
        base => client.revision(&order.topology, base, false).await.ok().as_ref().and_then(text_of).map(str::to_owned),
    };
    let details = match (old, text_of(current)) {
        (Some(old), Some(new)) => difference(&old, new, &format!("generation {base}"), &format!("generation {generation}")),
        (None, _) => vec![format!("the hub has no source of generation {base} to compare with")],
        (Some(_), None) => no_text(generation),
    };
    let file = order.source.as_ref().map_or("FILE", |s| s.name.as_str());
    Failure::from(Fault::new(Code::BaseMoved, message))
        .with_details(details)
        .with_remedy(format!(
            "merge the difference above into your file, then `moorctl push -f {file} --base {generation}` (`moorctl diff {} -f {file}` shows what that would change)",
            order.topology
        ))
}

/// Who made a revision: by the signature if it verifies, else the hub's word.
#[must_use]
pub fn author(view: &RevisionView, root: &TrustRoot) -> String {
    let source = match (&view.source, &view.doubt) {
        (Some(source), _) => source,
        (None, Some(_)) => return format!("{} (the hub says)", view.facts.pushed_by),
        // A restored hub took it over from what agents hold.
        (None, None) => return "recovered".to_owned(),
    };
    let names: Vec<String> = source.signers().iter().map(|id| root.name_of(id)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::{binding, client, shown_down, shown_host, shown_revision};
    use crate::desired;
    use crate::home::write_key;
    use crate::revision::tests::{host, keys};
    use moorline_common::id::VersionHash;

    const FILE: &str = "topology: edge\nhosts:\n  a: { docker: { services: { site: { image: x } } } }\n";

    fn order(text: Option<&str>) -> Order {
        Order {
            topology: TopologyId::parse("edge").unwrap(),
            source: text.map(|t| desired::parse("edge.yaml", t.as_bytes()).unwrap()),
            message: String::new(),
            deliver_within: Duration::from_secs(60),
            base: Base::Newest,
            force: false,
            accept_older_hub: false,
            wait: None,
            save: None,
        }
    }

    fn previous(down: bool) -> Previous {
        Previous { generation: Generation(3), down, source: Some(FILE.into()), slices: BTreeMap::new() }
    }

    fn change(kind: ChangeKind) -> HostChange {
        let hash = VersionHash::of_bytes(b"x");
        HostChange { host: "a".into(), host_id: host(10, "a").host_id, change: kind, from: Some(hash.clone()), to: hash }
    }

    #[test]
    fn comments_and_key_order_alone_make_no_new_generation() {
        let reordered = "# said otherwise\nhosts: { a: { docker: { services: { site: { image: x } } } } }\ntopology: edge\n";
        assert!(is_unchanged(&order(Some(reordered)), &previous(false), &[change(ChangeKind::Unchanged)]));
        assert!(!is_unchanged(&order(Some(reordered)), &previous(false), &[change(ChangeKind::Changed)]));
        assert!(!is_unchanged(&order(Some(reordered)), &previous(true), &[]), "what is down comes up again");
        assert!(!is_unchanged(&order(Some(reordered)), &Previous::default(), &[]), "a first push is always one");
    }

    #[test]
    fn a_file_that_names_hosts_to_come_otherwise_is_a_new_generation() {
        let more = format!("{FILE}  not-here-yet: {{ docker: {{ services: {{ site: {{ image: x }} }} }} }}\n");
        assert!(!is_unchanged(&order(Some(&more)), &previous(false), &[change(ChangeKind::Unchanged)]));
    }

    #[test]
    fn what_is_down_is_not_torn_down_again() {
        assert!(is_unchanged(&order(None), &previous(true), &[change(ChangeKind::Leaves)]));
        assert!(!is_unchanged(&order(None), &previous(false), &[change(ChangeKind::Leaves)]));
    }

    #[test]
    fn a_generation_that_nobody_signed_is_built_on_only_when_named() {
        let unsigned = Previous { generation: Generation(999), ..Previous::default() };
        let scene = Scene { current: None, previous: unsigned, hosts: Vec::new() };
        let mut order = order(Some(FILE));
        assert!(require_signed(&order, &scene).unwrap_err().remedy.contains("--base 999"));
        order.base = Base::Generation(Generation(999));
        assert!(require_signed(&order, &scene).is_ok());
    }

    #[test]
    fn the_outcome_says_what_happens_to_how_many_hosts() {
        let changes = vec![change(ChangeKind::Changed), change(ChangeKind::Leaves), change(ChangeKind::Unchanged)];
        let outcome = outcome(&order(Some(FILE)), Generation(3), Generation(4), vec!["b".into()], changes);
        let text = anstream::adapter::strip_str(&words(&outcome)).to_string();
        assert_eq!(
            text,
            "pushed edge generation 4\n  hosts: 1 changed, 1 unchanged, 1 torn down\n  not joined yet, they get it when they are approved: b\n"
        );
    }

    #[tokio::test]
    async fn an_older_hub_is_accepted_only_by_a_push_that_succeeds() {
        let (client, shown, _dir) = client().await;
        write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
        let edge = TopologyId::parse("edge").unwrap();
        client.note_pushed(&edge, Generation(9), "seen", false).unwrap();
        shown.lock().unwrap().revision = Some(shown_revision(2, 2, "topology: edge\n", &keys().1));
        let mut ui = Ui::new(Format::Json, false);
        let floor = || client.context.floors().unwrap().topologies[&edge].clone();
        assert_eq!(run(&client, &mut ui, order(Some(FILE))).await.unwrap_err().code, "generation_regressed");

        let older = || Order { accept_older_hub: true, ..order(Some(FILE)) };
        assert!(run(&client, &mut ui, older()).await.is_err(), "the hub takes no push");
        assert_eq!((floor().generation, floor().source_sha256.as_str()), (Generation(9), "seen"));

        shown.lock().unwrap().takes_pushes = true;
        run(&client, &mut ui, older()).await.unwrap();
        assert_eq!((floor().generation, floor().pushed), (Generation(3), Generation(3)));
        assert_ne!(floor().source_sha256, "seen");
    }

    #[tokio::test]
    async fn a_machine_that_never_pushed_a_topology_overwrites_it_only_by_naming_its_generation() {
        let (client, shown, _dir) = client().await;
        write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
        let edge = TopologyId::parse("edge").unwrap();
        shown.lock().unwrap().takes_pushes = true;
        shown.lock().unwrap().revision = Some(shown_revision(3, 3, "topology: edge\nhosts: {}\n", &keys().1));
        let mut ui = Ui::new(Format::Json, false);
        let unknown = || Order { base: Base::Unknown, ..order(Some(FILE)) };
        let refused = run(&client, &mut ui, unknown()).await.unwrap_err();
        assert!(refused.is(Code::BaseMoved), "{refused}");
        assert!(refused.message.contains("generation 3, pushed by ann") && refused.remedy.contains("--base 3"), "{refused:?}");
        assert!(refused.details.iter().any(|l| l.contains("image: x")), "{refused:?}");
        assert_eq!(client.context.floors().unwrap().topologies[&edge].pushed, Generation(0));

        run(&client, &mut ui, Order { base: Base::Generation(Generation(3)), ..unknown() }).await.unwrap();
        assert_eq!(client.context.floors().unwrap().topologies[&edge].pushed, Generation(4));
    }

    #[tokio::test]
    async fn what_is_not_there_or_torn_down_is_pushed_by_any_machine() {
        for down in [None, Some(2)] {
            let (client, shown, _dir) = client().await;
            write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
            shown.lock().unwrap().takes_pushes = true;
            shown.lock().unwrap().revision = down.map(|generation| shown_down(generation, "topology: edge\nhosts: {}\n", &keys().1));
            let order = Order { base: Base::Unknown, ..order(Some(FILE)) };
            run(&client, &mut Ui::new(Format::Json, false), order).await.unwrap();
            let pushed = client.context.floors().unwrap().topologies[&TopologyId::parse("edge").unwrap()].pushed;
            assert_eq!(pushed, Generation(down.unwrap_or(0) + 1));
        }
    }

    #[tokio::test]
    async fn a_refusal_at_the_same_generation_is_told_in_the_hubs_words() {
        let (client, shown, _dir) = client().await;
        write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
        shown.lock().unwrap().revision = Some(shown_revision(3, 3, "topology: edge\nhosts: {}\n", &keys().1));
        shown.lock().unwrap().refuses_pushes = Some(Fault::new(Code::BaseMoved, "host `b` has no slice in this push"));
        let refused = run(&client, &mut Ui::new(Format::Json, false), order(Some(FILE))).await.unwrap_err();
        assert!(refused.is(Code::BaseMoved) && refused.message.contains("host `b` has no slice"), "{refused}");
        assert!(!refused.message.contains("has moved") && refused.remedy.contains("moorctl status"), "{refused:?}");
    }

    /// What `order` would hand in for no host, signed elsewhere.
    fn signed_elsewhere(client: &Client, order: &Order) -> SignedRevision {
        let draft = Draft {
            topology: order.topology.clone(),
            generation: Generation(1),
            source: order.source.as_ref().unwrap().text.clone(),
            down: false,
            message: String::new(),
            deliver_within_s: 60,
            hosts: BTreeMap::new(),
        };
        revision::seal(&client.root, &keys().1.into(), &draft, &[], clock::now()).unwrap()
    }

    #[tokio::test]
    async fn a_saved_revision_that_fits_a_late_host_twice_is_refused_before_it_is_handed_in() {
        let (client, shown, _dir) = client().await;
        let mut late = binding(1);
        late.labels.insert("site".into(), "sydney".into());
        shown.lock().unwrap().takes_pushes = true;
        shown.lock().unwrap().hosts = vec![shown_host(&late, &keys().1)];
        let entry = "{ docker: { services: { site: { image: x } } } }";
        let twice = format!("topology: edge\nhosts:\n  shop-17: {entry}\n  site=sydney: {entry}\n");
        let order = order(Some(&twice));
        let signed = signed_elsewhere(&client, &order);
        let mut ui = Ui::new(Format::Json, false);
        let refused = submit(&client, &mut ui, order, Generation(0), &signed, Desired::default()).await.unwrap_err();
        assert_eq!(refused.code, "bad_topology", "{refused}");
        assert!(client.context.floors().unwrap().topologies.is_empty(), "nothing was handed in");
    }

    #[tokio::test]
    async fn a_saved_revision_that_the_hub_has_already_is_what_the_next_push_is_made_from() {
        let (client, shown, _dir) = client().await;
        let order = order(Some(FILE));
        let signed = signed_elsewhere(&client, &order);
        let mut ui = Ui::new(Format::Json, false);
        let mut known = shown_revision(1, 1, FILE, &keys().1);
        known.source = Some((&signed.source).into());
        shown.lock().unwrap().revision = Some(known);
        let edge = order.topology.clone();
        assert_eq!(submit(&client, &mut ui, order, Generation(0), &signed, Desired::default()).await.unwrap(), 0);
        assert_eq!(client.context.floors().unwrap().topologies[&edge].pushed, Generation(1));
    }

    #[tokio::test]
    async fn a_late_host_that_gets_no_slice_is_named_and_the_push_stands() {
        let (client, shown, _dir) = client().await;
        shown.lock().unwrap().hosts = vec![shown_host(&binding(1), &keys().1)];
        let mut ui = Ui::new(Format::Json, false);
        let scene = |hosts| Scene { current: None, previous: Previous::default(), hosts };
        assert!(late_hosts(&client, &mut ui, &keys().1.into(), &scene(Vec::new())).await.is_empty());
        shown.lock().unwrap().broken = true;
        assert_eq!(late_hosts(&client, &mut ui, &keys().1.into(), &scene(Vec::new())).await, ["shop-17"]);
        let known = client.hosts(None).await.unwrap();
        assert!(late_hosts(&client, &mut ui, &keys().1.into(), &scene(known)).await.is_empty());
    }
}
