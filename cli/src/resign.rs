//! Signing anew what only a key had signed that counts no more: the bindings of hosts, then the newest revision of each
//! topology, each with the same content and the next number.
//!
//! What the key signed is read under the trust root under which it still counted, and only as long as this machine has not
//! seen anything newer. What is done already is not found again, so that an interrupted run goes on where it was cut off.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::sign::Verified;
use moorline_common::statement::{Fallback, HostBinding, Sealed, TopologyStatement};
use moorline_common::topology::HostSpec;
use moorline_common::trust::TrustRoot;
use serde::Serialize;

use crate::approve;
use crate::client::{Client, HostView, walk};
use crate::clock;
use crate::error::Failure;
use crate::limits::RETRIES;
use crate::progress::Goal;
use crate::render::Ui;
use crate::revision::{self, Draft, Pen, Previous};
use crate::signers::Signers;

/// The trust root under which a key counted last, and the one in force.
pub struct Roots {
    /// For signing, and for what stands without the key.
    pub now: Client,
    /// For reading what the key signed.
    pub then: Client,
}

/// What stands only by keys that count no more.
#[derive(Default)]
pub struct Held {
    hosts: Vec<(HostView, HostBinding)>,
    revisions: Vec<HeldRevision>,
}

struct HeldRevision {
    topology: TopologyId,
    generation: Generation,
    source: TopologyStatement,
    hosts: BTreeMap<HostId, HostSpec>,
    sealed: BTreeMap<HostId, Sealed>,
    fallbacks: BTreeMap<HostId, Fallback>,
    at_once: BTreeSet<HostId>,
    stuck: Vec<String>,
}

/// What was signed anew.
#[derive(Debug, Default, Serialize)]
pub struct Resigned {
    /// Hosts that were bound anew, by name.
    pub hosts: Vec<String>,
    /// Topologies with their new generations.
    pub revisions: Vec<ResignedRevision>,
}

/// One topology that was signed anew.
#[derive(Debug, Serialize)]
pub struct ResignedRevision {
    /// The topology.
    pub topology: String,
    /// Its new generation, with the content of the one before.
    pub generation: u64,
    /// What hosts get there.
    #[serde(skip)]
    pub goal: Goal,
}

impl Held {
    /// Whether nothing stands by those keys alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.revisions.is_empty()
    }

    /// Refuses when the signatures of `signers` are not enough for it by `root`.
    ///
    /// # Errors
    /// [`Code::ThresholdNotMet`] and the other codes of what would not stand.
    pub fn require(&self, root: &TrustRoot, signers: &Signers) -> Result<(), Fault> {
        for (_, binding) in &self.hosts {
            root.verify_binding(signers.seal(binding)?, Some(&binding.host_id))?;
        }
        for revision in &self.revisions {
            root.verify_topology(signers.seal(&revision.source)?)?;
        }
        Ok(())
    }

    /// What it is, line by line.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.hosts.iter().map(|(host, _)| format!("the binding of host `{}`", host.name)).collect();
        lines.extend(self.revisions.iter().map(|r| {
            let why = if r.source.message.is_empty() { String::new() } else { format!(": “{}”", r.source.message) };
            format!("`{}` generation {} on {} host(s){why}", r.topology, r.generation, r.hosts.len())
        }));
        lines
    }
}

/// The newest of the context's trust roots under which `key` counted.
///
/// # Errors
/// [`Code::NotFound`] when none ever listed it.
pub fn last_root_with(client: &Client, key: &moorline_common::id::KeyId) -> Result<TrustRoot, Failure> {
    let roots = walk::versions(&client.context.facts.root_pin, &client.context.roots()?)?;
    let counted = roots.into_iter().rev().find(|root| root.keys.contains_key(key) && !root.revoked.contains(key));
    counted.ok_or_else(|| Fault::new(Code::NotFound, format!("no trust root that this machine has seen lists the key {key}")).into())
}

impl Roots {
    /// Finds what stands under `then` and not under `now`.
    ///
    /// # Errors
    /// What calls can fail with.
    pub async fn held(&self, ui: &mut Ui) -> Result<Held, Failure> {
        let (before, after) = (self.then.hosts(None).await?, self.now.hosts(None).await?);
        let stands: BTreeSet<&HostId> = after.iter().filter(|h| h.bound().is_some()).map(|h| &h.host_id).collect();
        let hosts = before.iter().filter(|h| !stands.contains(&h.host_id)).filter_map(|h| Some((h.clone(), h.bound()?.clone()))).collect();
        let mut revisions = Vec::new();
        for facts in self.now.topologies().await? {
            revisions.extend(self.held_revision(ui, &facts.topology, &before, &after).await?);
        }
        Ok(Held { hosts, revisions })
    }

    async fn held_revision(
        &self,
        ui: &mut Ui,
        topology: &TopologyId,
        before: &[HostView],
        after: &[HostView],
    ) -> Result<Option<HeldRevision>, Failure> {
        let (then, now) = (self.then.current(topology, true).await?, self.now.current(topology, true).await?);
        let (Some(then), Some(now)) = (then, now) else { return Ok(None) };
        if then.facts.generation != now.facts.generation {
            // Pushed this moment, and so by a key that counts.
            return Ok(None);
        }
        // A binding that no longer stands says all the same whose slice it is.
        let all: Vec<HostView> = known(before, after);
        let (old, new) = (Previous::of(Some(&then), &all, &self.then.root), Previous::of(Some(&now), &all, &self.now.root));
        let lost = old.slices.iter().any(|(host, slice)| slice.is_some() && new.slices.get(host).is_none_or(Option::is_none));
        if !lost && now.source.is_some() {
            return Ok(None);
        }
        let Some(source) = then.source.or(now.source).map(Verified::into_statement) else {
            let why = now.doubt.map_or_else(|| "the hub has no source of it".to_owned(), |f| f.to_string());
            ui.warn(&format!("topology `{topology}` generation {} is left out: {why}; push it again", now.facts.generation));
            return Ok(None);
        };
        let empty = revision::empty_hash()?;
        let (mut hosts, mut sealed, mut fallbacks, mut stuck) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut at_once = BTreeSet::new();
        for (host_id, slice) in &old.slices {
            let view = all.iter().find(|h| h.host_id == *host_id);
            let name = || view.map_or_else(|| host_id.to_string(), |h| h.name.to_string());
            let Some(slice) = new.slices.get(host_id).and_then(Option::as_ref).or(slice.as_ref()) else {
                stuck.push(name());
                continue;
            };
            let follows = view.and_then(|h| h.target.as_ref()).is_some_and(|t| t.topology == *topology);
            let is_gone = slice.version_hash == empty && (!follows || view.is_some_and(|h| h.converged));
            if view.is_some_and(|h| h.bound().is_some()) && !is_gone {
                hosts.insert(host_id.clone(), slice.spec()?);
                sealed.insert(host_id.clone(), slice.sealed.clone());
                at_once.extend(slice.at_once.then(|| host_id.clone()));
                // Nobody has confirmed anything by this: a host goes on with its trial.
                fallbacks.extend(slice.fallback.clone().map(|fallback| (host_id.clone(), fallback)));
            } else if !is_gone {
                stuck.push(name());
            }
        }
        Ok(Some(HeldRevision {
            topology: topology.clone(),
            generation: now.facts.generation,
            source,
            hosts,
            sealed,
            fallbacks,
            at_once,
            stuck,
        }))
    }

    /// Signs `held` anew with `signers`, under the trust root in force.
    ///
    /// # Errors
    /// What signing and handing in can fail with; what was done before stands.
    pub async fn sign(&self, ui: &mut Ui, signers: &Signers, mut held: Held, why: &str) -> Result<Resigned, Failure> {
        let mut done = Resigned::default();
        for (host, binding) in &held.hosts {
            approve::renew_binding(&self.now, &self.then, ui, signers, host, binding)
                .await
                .map_err(|f| f.while_doing(format_args!("binding host `{}` anew", host.name)))?;
            crate::crash::point("resign.binding");
            done.hosts.push(host.name.to_string());
        }
        for tries in 1.. {
            let hosts = self.now.hosts(None).await?;
            let mut moved = false;
            for revision in std::mem::take(&mut held.revisions) {
                match self.push(ui, signers, &revision, &hosts, why).await {
                    Ok(resigned) => done.revisions.push(resigned),
                    // Somebody pushed meanwhile: what stands now is looked at again.
                    Err(failure) if failure.is(Code::BaseMoved) && tries < RETRIES => moved = true,
                    Err(failure) => return Err(failure.while_doing(format_args!("signing `{}` anew", revision.topology))),
                }
                crate::crash::point("resign.revision");
            }
            if !moved {
                break;
            }
            held = self.held(ui).await?;
        }
        Ok(done)
    }

    async fn push(
        &self,
        ui: &mut Ui,
        signers: &Signers,
        held: &HeldRevision,
        hosts: &[HostView],
        why: &str,
    ) -> Result<ResignedRevision, Failure> {
        for host in &held.stuck {
            ui.warn(&format!("host `{host}` gets no slice of `{}`: the hub shows none, or no binding, that verifies", held.topology));
        }
        let draft = Draft {
            topology: held.topology.clone(),
            generation: held.generation.next(),
            source: held.source.source.clone(),
            inputs: held.source.inputs.clone(),
            down: held.source.down,
            message: why.to_owned(),
            deliver_within_s: held.source.deliver_within_s,
            hosts: held.hosts.clone(),
            sealed: held.sealed.clone(),
            fallbacks: held.fallbacks.clone(),
            at_once: held.at_once.clone(),
        };
        let signed = Pen { root: &self.now.root, signers, now: clock::now() }.sign(&draft, hosts)?;
        self.now.push_the_same(held.generation, &signed).await?;
        let goal = Goal {
            topology: draft.topology,
            generation: draft.generation,
            hosts: signed.slices.iter().map(|(host, slice)| (host.clone(), slice.hash.clone())).collect(),
        };
        Ok(ResignedRevision { topology: goal.topology.to_string(), generation: goal.generation.0, goal })
    }
}

/// Every host, with the binding that stands, or else the one that stood.
fn known(before: &[HostView], after: &[HostView]) -> Vec<HostView> {
    let stood = |host: &HostView| before.iter().find(|h| h.host_id == host.host_id).cloned();
    after.iter().map(|host| if host.bound().is_some() { host.clone() } else { stood(host).unwrap_or_else(|| host.clone()) }).collect()
}

/// The bindings and revisions that were signed anew, line by line.
#[must_use]
pub fn words(done: &Resigned) -> String {
    let mut text = String::new();
    if !done.hosts.is_empty() {
        text.push_str(&format!("  bound anew: {}\n", done.hosts.join(", ")));
    }
    for revision in &done.revisions {
        text.push_str(&format!("  signed anew: `{}`, now generation {}\n", revision.topology, revision.generation));
    }
    text
}

/// Waits until every host has what was signed anew.
///
/// # Errors
/// `not_converged`; what calls can fail with.
pub async fn wait(client: &Client, ui: &mut Ui, done: &Resigned, limit: std::time::Duration) -> Result<(), Failure> {
    for revision in &done.revisions {
        let waited = crate::progress::wait(client, ui, &revision.goal, limit).await?;
        if let Some(failure) = waited.failure {
            return Err(failure);
        }
    }
    Ok(())
}

/// The clients for a root in force and one before it.
#[must_use]
pub fn roots(client: &Client, then: TrustRoot) -> Roots {
    Roots { now: client.clone(), then: client.under(then) }
}
