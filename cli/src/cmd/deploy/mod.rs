//! What `push`, `rollback` and `down` share: slice, compare, sign, hand in, wait.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::maintenance;
use moorline_common::rollout::{OnFailure, Plan};
use moorline_common::statement::DELIVER_WITHIN_DEFAULT_S;
use moorline_common::topology::{BoundHost, HostSpec};
use serde::Serialize;

use super::plan::saved::Reviewed;
use super::revision_file;
use crate::approve;
use crate::client::drift::Shown;
use crate::client::facts::Beat;
use crate::client::{Client, HostView, RevisionView};
use crate::clock;
use crate::desired::{Desired, Source};
use crate::error::Failure;
use crate::fallback::{self, Terms};
use crate::progress::{self, Goal, HostStanding};
use crate::render::{Format, Ui};
use crate::revision::{self, ChangeKind, Draft, HostChange, Pen, Previous, SignedRevision};
use crate::secrets::{Sealer, Values};
use crate::signers::Signers;

#[cfg(test)]
mod tests;
mod told;

pub use told::author;
use told::{base_moved, never_pushed, not_taken};

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

/// By which verb a revision comes to the hub: what an operator does when that is refused depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `push`, of a file of the operator's.
    Push,
    /// `push --plan`, of a plan that was reviewed.
    PushPlan,
    /// `rollback`, to what stood before.
    Rollback,
    /// `down`.
    Down,
    /// `revision submit`, of what was signed before.
    Submit,
}

/// What handing in a signed revision is about.
pub struct Aim {
    /// The verb.
    pub verb: Verb,
    /// The topology.
    pub topology: TopologyId,
    /// The file; `None` tears the topology down.
    pub source: Option<Source>,
    /// Whether to go on from what the hub shows although this machine has seen a newer revision.
    pub accept_older_hub: bool,
    /// Whether all hosts get it at once, whatever the file says.
    pub no_rollout: bool,
    /// How long to wait until every host is there; `None` does not wait.
    pub wait: Option<Duration>,
    /// The drifts whose live values it takes over.
    pub accepts: Vec<Shown>,
}

/// Hosts that do not wait for their maintenance windows.
pub enum AtOnce {
    /// None.
    Nobody,
    /// This one.
    One(HostId),
    /// Whichever get it.
    All,
}

impl AtOnce {
    fn of(&self, hosts: &BTreeMap<HostId, HostSpec>) -> BTreeSet<HostId> {
        match self {
            AtOnce::Nobody => BTreeSet::new(),
            AtOnce::One(host) => BTreeSet::from([host.clone()]),
            AtOnce::All => hosts.keys().cloned().collect(),
        }
    }
}

/// What shall become the newest revision.
pub struct Order {
    /// What it is about.
    pub aim: Aim,
    /// Why, in the operator's words.
    pub message: String,
    /// How long its slices may wait for delivery.
    pub deliver_within: Duration,
    /// The generation that the file was made from.
    pub base: Base,
    /// What was reviewed: then exactly that is made, from the generation that it names.
    pub reviewed: Option<Reviewed>,
    /// The revision that is gone back to: what it sealed to the hosts is taken over.
    pub earlier: Option<Previous>,
    /// When the hosts that it changes go back by themselves.
    pub terms: Option<Terms>,
    /// Which hosts do not wait for their maintenance windows.
    pub at_once: AtOnce,
    /// Whether to push although no host changes.
    pub force: bool,
    /// Where to write the signed revision instead of handing it in.
    pub save: Option<PathBuf>,
}

impl Order {
    /// One like any other, of `aim`, from the newest generation.
    pub const fn plain(aim: Aim, message: String) -> Self {
        Self {
            aim,
            message,
            deliver_within: Duration::from_secs(DELIVER_WITHIN_DEFAULT_S),
            base: Base::Newest,
            reviewed: None,
            earlier: None,
            terms: None,
            at_once: AtOnce::Nobody,
            force: false,
            save: None,
        }
    }
}

impl Aim {
    /// How it spreads; `None` when all hosts get it at once.
    pub fn plan(&self) -> Option<&Plan> {
        self.source.as_ref().and_then(|source| source.file.rollout.as_ref()).filter(|_| !self.no_rollout)
    }

    /// When a host that fails in the rollout goes back by itself.
    fn terms(&self) -> Option<Terms> {
        let plan = self.plan().filter(|plan| plan.on_failure == OnFailure::Rollback)?;
        Some(Terms { within_s: plan.deadline_s, healthy_for_s: plan.healthy_for_s, needs_confirm: false })
    }

    /// The newest revision as the hub shows it, checked against what this machine has seen unless the operator accepts less.
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
    #[serde(skip)]
    verb: Verb,
    topology: String,
    generation: u64,
    base_generation: u64,
    /// Whether the hub took a new revision.
    pushed: bool,
    down: bool,
    hosts: Vec<HostChange>,
    /// How it spreads; absent when all hosts get it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<Plan>,
    /// Entries whose hosts are not bound yet.
    awaiting: Vec<String>,
    /// Hosts that were approved too late to get their slices of it.
    without_slice: Vec<String>,
    /// What goes back by itself unless it is confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<OnTrial>,
    /// Where each host was when the wait ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited: Option<Vec<HostStanding>>,
}

/// A revision that hosts only try.
#[derive(Serialize)]
struct OnTrial {
    /// How many hosts.
    hosts: usize,
    /// How long after they have accepted it.
    within_s: u64,
    /// When that is at the earliest, by this machine's clock.
    until: String,
    /// What lets it stay.
    confirm: String,
}

impl OnTrial {
    fn of(aim: &Aim, draft: &Draft) -> Option<Self> {
        let within_s = draft.fallbacks.values().find(|f| f.needs_confirm)?.within_s;
        Some(Self {
            hosts: draft.fallbacks.len(),
            within_s,
            until: clock::rfc3339(clock::now().plus(within_s).0.saturating_mul(1000)),
            confirm: format!("moorctl confirm {}", aim.topology),
        })
    }
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

/// The hosts whose bindings count.
#[must_use]
pub fn bound(hosts: &[HostView]) -> Vec<BoundHost> {
    hosts.iter().filter_map(HostView::bound).map(BoundHost::from).collect()
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
pub async fn run(client: &Client, ui: &mut Ui, mut order: Order) -> Result<u8, Failure> {
    client.require_signable()?;
    let signers = Signers::of(client)?;
    let current = order.aim.newest(client, true).await?;
    let scene = scene(client, ui, &order.aim.topology, current).await?;
    if let Some(source) = &mut order.aim.source {
        source.read_secrets(&client.context, &bound(&scene.hosts))?;
    }
    let aim = &order.aim;
    let desired = wanted(ui, &aim.topology, aim.source.as_ref(), &scene)?;
    let changes = revision::changes(&desired.hosts, &scene.previous, &scene.hosts)?;
    let newest = scene.previous.generation;
    if let Some(reviewed) = &order.reviewed {
        if reviewed.base != newest {
            return Err(base_moved(client, aim, reviewed.base, scene.current.as_ref()).await);
        }
        reviewed.require_same(&changes)?;
    }
    if !order.force && is_unchanged(aim.source.as_ref(), &scene.previous, &changes) && !hurries(&order.at_once, &scene) {
        if let Some(file) = &order.save {
            return Err(told::nothing_to_sign(aim, newest, file));
        }
        let sha = scene.current.as_ref().and_then(|c| c.source.as_ref()).map(|s| s.envelope().payload_sha256()).unwrap_or_default();
        client.note_pushed(&aim.topology, newest, &sha, aim.accept_older_hub)?;
        let outcome = Outcome { pushed: false, ..outcome(aim, newest, newest, desired.pending, changes) };
        return finish(client, ui, aim, outcome).await;
    }
    require_signed(&order, &scene)?;
    let base = match (order.base, &scene.current) {
        (Base::Generation(base), _) => base,
        // What was torn down leaves nothing to overwrite.
        (Base::Unknown, Some(current)) if !is_torn_down(current) => return Err(never_pushed(client, aim, current)),
        (Base::Newest | Base::Unknown, _) => newest,
    };
    if base != newest {
        return Err(base_moved(client, aim, base, scene.current.as_ref()).await);
    }
    require_windows(&order, &desired, &changes)?;
    let bindings = revision::bindings(&scene.hosts);
    let draft = Draft {
        topology: aim.topology.clone(),
        generation: base.next(),
        source: aim.source.as_ref().map_or_else(|| scene.previous.source.clone().unwrap_or_default(), |s| s.text.clone()),
        inputs: aim.source.as_ref().map_or_else(|| scene.previous.inputs.clone(), |s| s.inputs.clone()),
        down: aim.source.is_none(),
        message: order.message.clone(),
        deliver_within_s: order.deliver_within.as_secs(),
        hosts: desired.hosts.clone(),
        sealed: sealer(client, &order, &scene).seal(&desired.hosts, &bindings)?,
        fallbacks: match order.terms.or_else(|| aim.terms()) {
            Some(terms) => fallback::fallbacks(terms, &changes, &scene.previous, &scene.hosts)?,
            None => BTreeMap::new(),
        },
        at_once: order.at_once.of(&desired.hosts),
    };
    let signed = Pen { root: &client.root, signers: &signers, now: clock::now() }.seal(&draft, &scene.hosts)?;
    let verified = revision::verify(&client.root, &signed, &bindings);
    if let Some(file) = &order.save {
        note_place(client, aim)?;
        return revision_file::write(client, ui, file, base, &signed, &scene, verified);
    }
    verified?;
    hand_in(client, ui, aim, base, &signed).await?;
    let mut outcome = outcome(aim, base, draft.generation, desired.pending, changes);
    outcome.trial = OnTrial::of(aim, &draft);
    if aim.source.is_some() {
        outcome.without_slice = late_hosts(client, ui, &signers, &scene).await;
    }
    finish(client, ui, aim, outcome).await
}

/// What seals the values that the hosts of `order` need.
fn sealer<'a>(client: &'a Client, order: &'a Order, scene: &'a Scene) -> Sealer<'a> {
    static NONE: Values = Values::none();
    let earlier = order.earlier.iter().chain([&scene.previous]).flat_map(|previous| previous.slices.values().flatten());
    Sealer {
        context: &client.context,
        topology: &order.aim.topology,
        values: order.aim.source.as_ref().map_or(&NONE, |source| &source.values),
        earlier: earlier.collect(),
    }
}

/// Notes where the secrets of what is pushed are on this machine.
fn note_place(client: &Client, aim: &Aim) -> Result<(), Failure> {
    aim.source.as_ref().map_or(Ok(()), |source| source.note_place(&client.context))
}

/// Hands in a revision that has all its signatures, and notes that this machine did, and from where.
///
/// # Errors
/// [`Code::BaseMoved`] with the difference; whatever else the hub refuses.
async fn hand_in(client: &Client, ui: &mut Ui, aim: &Aim, base: Generation, signed: &SignedRevision) -> Result<(), Failure> {
    let Err(failure) = client.push(base, signed, aim.plan(), &aim.accepts).await else {
        let (generation, sha) = (signed.generation, signed.source.payload_sha256());
        if let Err(failure) = client.note_pushed(&aim.topology, generation, &sha, aim.accept_older_hub) {
            // The hub has it: nothing that is wrong here may hide that.
            ui.warn(&format!("pushed, but this machine could not note it, and its next push needs `--base {generation}`: {failure}"));
        }
        if let Err(failure) = note_place(client, aim) {
            ui.warn(&format!("pushed, but this machine could not note where the secrets are, and will not look for them: {failure}"));
        }
        return Ok(());
    };
    let moved = match failure.is(Code::BaseMoved) {
        true => aim.newest(client, false).await.ok().flatten().filter(|c| c.facts.generation != base),
        false => None,
    };
    Err(match moved {
        Some(current) => base_moved(client, aim, base, Some(&current)).await,
        None => not_taken(failure, aim, signed.generation),
    })
}

/// Hands in a revision that was signed before, on whichever machines: what its hosts get is `desired`.
///
/// # Errors
/// As [`run`].
pub async fn submit(
    client: &Client,
    ui: &mut Ui,
    aim: &Aim,
    base: Generation,
    signed: &SignedRevision,
    desired: Desired,
) -> Result<u8, Failure> {
    let current = aim.newest(client, true).await?;
    let known = current.as_ref().filter(|c| c.facts.generation == signed.generation).and_then(|c| c.source.as_ref());
    let is_known = known.is_some_and(|s| s.envelope().payload == signed.source.payload);
    if !is_known && current.as_ref().map_or(Generation(0), |c| c.facts.generation) != base {
        return Err(base_moved(client, aim, base, current.as_ref()).await);
    }
    let scene = scene(client, ui, &aim.topology, current).await?;
    revision::verify(&client.root, signed, &revision::bindings(&scene.hosts))?;
    let changes = revision::changes(&desired.hosts, &scene.previous, &scene.hosts)?;
    // Before it is handed in: after that, nothing that is wrong here may hide that it was.
    let mut late = late_names(aim.source.as_ref(), &scene.hosts, &desired)?;
    if is_known {
        // The answer to an earlier try was lost, or another machine handed it in: what this one pushes next is made from it.
        client.note_pushed(&aim.topology, signed.generation, &signed.source.payload_sha256(), aim.accept_older_hub)?;
    } else {
        hand_in(client, ui, aim, base, signed).await?;
        late = later_names(client, aim, &desired).await.unwrap_or(late);
    }
    let made = outcome(aim, base, signed.generation, desired.pending, changes);
    finish(client, ui, aim, Outcome { pushed: !is_known, without_slice: late, ..made }).await
}

/// The names of the hosts that `source` means and `desired` does not have: they were approved after the revision was saved.
fn late_names(source: Option<&Source>, hosts: &[HostView], desired: &Desired) -> Result<Vec<String>, Failure> {
    let Some(source) = source else { return Ok(Vec::new()) };
    let late = source.slice(hosts)?.hosts.into_keys().filter(|host| !desired.hosts.contains_key(host));
    let named = |id| hosts.iter().find(|h| h.host_id == id).map(|h| h.name.to_string());
    Ok(late.filter_map(named).collect())
}

/// The same by what the hub shows now: some may have been approved while the revision was handed in.
async fn later_names(client: &Client, aim: &Aim, desired: &Desired) -> Result<Vec<String>, Failure> {
    late_names(aim.source.as_ref(), &client.hosts(None).await?, desired)
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

fn outcome(aim: &Aim, base: Generation, generation: Generation, awaiting: Vec<String>, hosts: Vec<HostChange>) -> Outcome {
    Outcome {
        verb: aim.verb,
        topology: aim.topology.to_string(),
        generation: generation.0,
        base_generation: base.0,
        pushed: true,
        down: aim.source.is_none(),
        hosts,
        rollout: aim.plan().cloned(),
        awaiting,
        without_slice: Vec::new(),
        trial: None,
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
    let message = format!("the hub shows generation {newest} of `{}`, and nothing of it that verifies", order.aim.topology);
    Err(Failure::from(Fault::new(Code::UnknownKey, message))
        .with_remedy(format!("if you know why (its signer left the trust root), push with --base {newest}")))
}

/// Whether a new revision would say what the newest says already, to every host and to those to come.
fn is_unchanged(source: Option<&Source>, previous: &Previous, changes: &[HostChange]) -> bool {
    if previous.generation == Generation(0) {
        return false;
    }
    let same_hosts = changes.iter().all(|c| c.change == ChangeKind::Unchanged);
    match (source, &previous.source) {
        (Some(source), Some(text)) => same_hosts && !previous.down && source.means_the_same_as(text, &previous.inputs),
        // Torn down already; hosts that are still at it are on their way.
        (None, _) => previous.down,
        (Some(_), None) => false,
    }
}

/// Every host that waits for a maintenance window has one before its slice expires.
fn require_windows(order: &Order, desired: &Desired, changes: &[HostChange]) -> Result<(), Failure> {
    let (now, at_once) = (clock::now(), order.at_once.of(&desired.hosts));
    let expires = now.plus(order.deliver_within.as_secs());
    for change in changes.iter().filter(|c| c.change == ChangeKind::Changed && !at_once.contains(&c.host_id)) {
        let policy = desired.hosts.get(&change.host_id).and_then(|spec| spec.policy.as_ref());
        let opens = maintenance::opens_at(policy.map(|p| p.maintenance.as_slice()).unwrap_or_default(), now)?;
        if let Some(at) = opens.filter(|at| *at > expires) {
            let (at, until) = (maintenance::moment(at), maintenance::moment(expires));
            let message =
                format!("the maintenance window of `{}` opens at {at}, and what is pushed to it expires before, at {until}", change.host);
            let remedy = "give it more time (--deliver-within), or do not wait for the window (--now)";
            return Err(Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy(remedy));
        }
    }
    Ok(())
}

/// Whether somebody who was to wait for a maintenance window, and has not taken the newest revision in yet, does not wait any longer.
fn hurries(at_once: &AtOnce, scene: &Scene) -> bool {
    let AtOnce::All = at_once else { return false };
    scene.hosts.iter().any(|host| {
        let Some(slice) = scene.previous.content_of(&host.host_id) else { return false };
        let has_it = |beat: &Beat| (beat.topology.as_ref(), beat.generation) == (Some(&slice.topology), slice.generation);
        let may_wait = !slice.at_once && slice.spec().is_ok_and(|spec| revision::has_windows(&spec));
        may_wait && !host.heartbeat.as_ref().is_some_and(has_it)
    })
}

/// Shows what came of it, and waits if that is asked for.
async fn finish(client: &Client, ui: &mut Ui, aim: &Aim, mut outcome: Outcome) -> Result<u8, Failure> {
    if ui.format == Format::Table {
        ui.text(&told::words(&outcome))?;
    }
    let mut failure = None;
    if let Some(timeout) = aim.wait {
        let hosts: BTreeMap<_, _> = outcome.hosts.iter().map(|c| (c.host_id.clone(), c.to.clone())).collect();
        let goal = Goal { topology: aim.topology.clone(), generation: Generation(outcome.generation), hosts };
        match progress::wait(client, ui, &goal, timeout).await {
            Ok(waited) => {
                if ui.format == Format::Table {
                    ui.text(&told::standing_words(&waited.standings))?;
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

/// Whether an operator signed that it is torn down.
fn is_torn_down(current: &RevisionView) -> bool {
    current.source.as_ref().is_some_and(|s| s.statement().down)
}
