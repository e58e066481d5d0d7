//! From desired states to a signed revision: the source and one slice per host, an empty one for each
//! host that leaves. Decides who leaves and what changed; asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::canonical::version_hash;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, HostName, TopologyId, UnixSeconds, VersionHash};
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::{Fallback, HostBinding, Sealed, SliceStatement, TopologyStatement};
use moorline_common::topology::{HostSpec, Inputs};
use moorline_common::trust::TrustRoot;
use serde::{Deserialize, Serialize};

use crate::client::{HostView, RevisionView};
use crate::error::Failure;
use crate::parallel;
use crate::signers::Signers;

/// A revision, ready to be pushed.
#[derive(Debug, Clone)]
pub struct SignedRevision {
    /// The topology.
    pub topology: TopologyId,
    /// Its generation.
    pub generation: Generation,
    /// The signed source.
    pub source: Envelope,
    /// The signed slices.
    pub slices: BTreeMap<HostId, SignedSlice>,
}

/// One host's signed slice.
#[derive(Debug, Clone)]
pub struct SignedSlice {
    /// The envelope.
    pub envelope: Envelope,
    /// The hash of its content.
    pub hash: VersionHash,
}

/// What a revision is made of.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The topology.
    pub topology: TopologyId,
    /// The generation it will have.
    pub generation: Generation,
    /// The file's text.
    pub source: String,
    /// What it takes from elsewhere.
    pub inputs: Inputs,
    /// Whether it tears the topology down.
    pub down: bool,
    /// Why, in the operator's words.
    pub message: String,
    /// How long its slices may wait for delivery, in seconds.
    pub deliver_within_s: u64,
    /// What each host shall have; empty for one that leaves.
    pub hosts: BTreeMap<HostId, HostSpec>,
    /// The values of their secrets and configs, sealed to each.
    pub sealed: BTreeMap<HostId, Sealed>,
    /// What may come back by itself; see [`crate::fallback`].
    pub fallbacks: BTreeMap<HostId, Fallback>,
    /// Hosts that do not wait for their maintenance windows.
    pub at_once: BTreeSet<HostId>,
}

/// The revision that a new one follows.
#[derive(Debug, Clone, Default)]
pub struct Previous {
    /// Its generation; 0 when there is none.
    pub generation: Generation,
    /// Whether it tore the topology down.
    pub down: bool,
    /// Its text, when the source verified.
    pub source: Option<String>,
    /// What that took from elsewhere.
    pub inputs: Inputs,
    /// Its slices; `None` for one that did not verify.
    pub slices: BTreeMap<HostId, Option<SliceStatement>>,
}

/// What a revision changes for one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostChange {
    /// The host's name.
    pub host: String,
    /// The host's id.
    pub host_id: HostId,
    /// What happens to it.
    pub change: ChangeKind,
    /// The hash that it has by the revision before.
    pub from: Option<VersionHash>,
    /// The hash that it gets.
    pub to: VersionHash,
}

/// See [`HostChange::change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It had no slice of this topology, or an empty one.
    Added,
    /// Its content differs.
    Changed,
    /// Its content is the same.
    Unchanged,
    /// It is torn down.
    Leaves,
}

/// The hash of a slice that tears down.
///
/// # Errors
/// Never in practice: an empty object has a canonical form.
pub fn empty_hash() -> Result<VersionHash, Failure> {
    content_hash(&HostSpec::default())
}

/// The hash of a host's desired state.
///
/// # Errors
/// [`Code::InvalidArgument`] for a number that canonical content cannot hold.
pub fn content_hash(spec: &HostSpec) -> Result<VersionHash, Failure> {
    version_hash(spec).map_err(|e| Fault::new(Code::InvalidArgument, e.to_string()).into())
}

impl Previous {
    /// Reads a revision whose slices came along; each is verified with its host's binding.
    #[must_use]
    pub fn of(view: Option<&RevisionView>, hosts: &[HostView], root: &TrustRoot) -> Self {
        let Some(view) = view else { return Self::default() };
        let bindings = bindings(hosts);
        let verify = |(host, envelope): &(HostId, Envelope)| {
            let signed = Signed::new(envelope.clone()).ok()?;
            let slice = root.verify_slice(signed, bindings.get(host)?).ok()?.into_statement();
            (slice.topology == view.facts.topology && slice.generation == view.facts.generation).then_some(slice)
        };
        let slices = parallel::map(&view.slices, verify);
        Self {
            generation: view.facts.generation,
            down: view.source.as_ref().map_or(view.facts.down, |s| s.statement().down),
            source: view.source.as_ref().map(|s| s.statement().source.clone()),
            inputs: view.source.as_ref().map(|s| s.statement().inputs.clone()).unwrap_or_default(),
            slices: view.slices.iter().map(|(host, _)| host.clone()).zip(slices).collect(),
        }
    }

    /// What this revision wants of `host`, as far as it can be read.
    #[must_use]
    pub fn spec_of(&self, host: &HostId) -> Option<HostSpec> {
        self.content_of(host)?.spec().ok()
    }

    /// What `host` has by this revision: nothing when its slice is empty or unknown.
    pub(crate) fn content_of(&self, host: &HostId) -> Option<&SliceStatement> {
        self.slices.get(host).and_then(Option::as_ref).filter(|s| !s.content.as_object().is_some_and(serde_json::Map::is_empty))
    }
}

/// The hosts that follow the topology and are no longer meant: each gets an empty slice. And the names of
/// those that keep what they have because the hub shows no binding that verifies.
#[must_use]
pub fn leaving(
    topology: &TopologyId,
    wanted: &BTreeMap<HostId, HostSpec>,
    previous: &Previous,
    hosts: &[HostView],
    empty: &VersionHash,
) -> (Vec<HostId>, Vec<String>) {
    let mut leaves = Vec::new();
    let mut stuck = Vec::new();
    for host in hosts.iter().filter(|h| !wanted.contains_key(&h.host_id)) {
        let unread = matches!(previous.slices.get(&host.host_id), Some(None));
        let follows = host.target.as_ref().is_some_and(|t| t.topology == *topology && !(t.hash.as_ref() == Some(empty) && host.converged));
        if !(follows || unread || previous.content_of(&host.host_id).is_some()) {
            continue;
        }
        if host.bound().is_some() { leaves.push(host.host_id.clone()) } else { stuck.push(host.name.to_string()) }
    }
    let listed: BTreeSet<&HostId> = hosts.iter().map(|h| &h.host_id).collect();
    stuck.extend(previous.slices.keys().filter(|id| !listed.contains(id) && !wanted.contains_key(id)).map(ToString::to_string));
    (leaves, stuck)
}

/// What `hosts` (empty for those that leave) changes against `previous`, sorted by name.
///
/// # Errors
/// As [`content_hash`].
pub fn changes(wanted: &BTreeMap<HostId, HostSpec>, previous: &Previous, hosts: &[HostView]) -> Result<Vec<HostChange>, Failure> {
    let names: BTreeMap<&HostId, &HostName> = hosts.iter().map(|h| (&h.host_id, &h.name)).collect();
    let mut changes = Vec::with_capacity(wanted.len());
    let wanted: Vec<(&HostId, &HostSpec)> = wanted.iter().collect();
    let hashes = parallel::map(&wanted, |(_, spec)| content_hash(spec));
    for ((host_id, spec), to) in wanted.into_iter().zip(hashes) {
        let to = to?;
        let from = previous.content_of(host_id).map(|s| s.version_hash.clone());
        let change = match &from {
            _ if *spec == HostSpec::default() => ChangeKind::Leaves,
            None => ChangeKind::Added,
            Some(from) if *from == to => ChangeKind::Unchanged,
            Some(_) => ChangeKind::Changed,
        };
        let host = names.get(host_id).map_or_else(|| host_id.to_string(), ToString::to_string);
        changes.push(HostChange { host, host_id: host_id.clone(), change, from, to });
    }
    changes.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(changes)
}

/// What signs: whose keys, by which trust root, and when.
#[derive(Clone, Copy)]
pub struct Pen<'a> {
    /// The trust root in force.
    pub root: &'a TrustRoot,
    /// Whose keys.
    pub signers: &'a Signers,
    /// The time that statements are signed at.
    pub now: UnixSeconds,
}

impl Pen<'_> {
    /// Signs a revision. More keys may have to sign it before agents take it: see [`verify`].
    ///
    /// # Errors
    /// A host without a verified binding; content without a canonical form.
    pub fn seal(&self, draft: &Draft, hosts: &[HostView]) -> Result<SignedRevision, Failure> {
        let statement = TopologyStatement {
            cluster: self.root.cluster.clone(),
            topology: draft.topology.clone(),
            generation: draft.generation,
            source: draft.source.clone(),
            inputs: draft.inputs.clone(),
            down: draft.down,
            issued_at: self.now,
            deliver_within_s: draft.deliver_within_s,
            message: draft.message.clone(),
        };
        let source = self.signers.seal(&statement)?.envelope().clone();
        let bindings = bindings(hosts);
        let mut slices = BTreeMap::new();
        for (host_id, spec) in &draft.hosts {
            slices.insert(host_id.clone(), self.seal_slice(draft, bound(&bindings, host_id)?, spec)?);
        }
        Ok(SignedRevision { topology: draft.topology.clone(), generation: draft.generation, source, slices })
    }

    /// Signs a revision, and verifies every statement as agents will.
    ///
    /// # Errors
    /// What agents would refuse it with; a host without a verified binding.
    pub fn sign(&self, draft: &Draft, hosts: &[HostView]) -> Result<SignedRevision, Failure> {
        let signed = self.seal(draft, hosts)?;
        verify(self.root, &signed, &bindings(hosts))?;
        Ok(signed)
    }

    /// Signs one slice, and verifies it as the host's agent will.
    ///
    /// # Errors
    /// [`Code::OutOfScope`] and other codes that the agent would refuse it with.
    pub fn sign_slice(&self, draft: &Draft, binding: &HostBinding, spec: &HostSpec) -> Result<SignedSlice, Failure> {
        let slice = self.seal_slice(draft, binding, spec)?;
        verify_slice(self.root, &slice, binding)?;
        Ok(slice)
    }

    fn seal_slice(&self, draft: &Draft, binding: &HostBinding, spec: &HostSpec) -> Result<SignedSlice, Failure> {
        let content = serde_json::to_value(spec).map_err(|e| Fault::new(Code::InvalidArgument, e.to_string()))?;
        let hash = content_hash(spec)?;
        let statement = SliceStatement {
            cluster: self.root.cluster.clone(),
            topology: draft.topology.clone(),
            generation: draft.generation,
            host_id: binding.host_id.clone(),
            content,
            version_hash: hash.clone(),
            issued_at: self.now,
            deliver_by: self.now.plus(draft.deliver_within_s),
            sealed: draft.sealed.get(&binding.host_id).cloned().unwrap_or_default(),
            fallback: draft.fallbacks.get(&binding.host_id).cloned(),
            // Said only where it means something: agents of before do not know it.
            at_once: has_windows(spec) && draft.at_once.contains(&binding.host_id),
        };
        Ok(SignedSlice { envelope: self.signers.seal(&statement)?.envelope().clone(), hash })
    }
}

/// Whether a host takes other content at some times only.
pub fn has_windows(spec: &HostSpec) -> bool {
    spec.policy.as_ref().is_some_and(|policy| !policy.maintenance.is_empty())
}

/// Verifies a signed slice as the agent of the host of `binding` will.
fn verify_slice(root: &TrustRoot, slice: &SignedSlice, binding: &HostBinding) -> Result<SliceStatement, Failure> {
    let verified = Signed::new(slice.envelope.clone()).and_then(|signed| root.verify_slice(signed, binding));
    verified
        .map(Verified::into_statement)
        .map_err(|f| Failure::from(f).while_doing(format_args!("signing the slice of host `{}`", binding.name)))
}

/// Verifies every statement of a revision as agents will.
///
/// # Errors
/// What agents would refuse it with: [`Code::ThresholdNotMet`] when more keys must sign; a host without a verified binding.
pub fn verify(root: &TrustRoot, signed: &SignedRevision, bindings: &BTreeMap<&HostId, &HostBinding>) -> Result<(), Failure> {
    root.verify_topology(Signed::new(signed.source.clone())?).map_err(|f| Failure::from(f).while_doing("signing the topology"))?;
    for (host_id, slice) in &signed.slices {
        let statement = verify_slice(root, slice, bound(bindings, host_id)?)?;
        if statement.topology != signed.topology || statement.generation != signed.generation || statement.version_hash != slice.hash {
            let message = format!("the slice of host {host_id} belongs to another revision");
            return Err(Fault::new(Code::HashMismatch, message).into());
        }
    }
    Ok(())
}

/// The verified bindings of `hosts`.
#[must_use]
pub fn bindings(hosts: &[HostView]) -> BTreeMap<&HostId, &HostBinding> {
    hosts.iter().filter_map(|h| Some((&h.host_id, h.bound()?))).collect()
}

fn bound<'b>(bindings: &BTreeMap<&HostId, &'b HostBinding>, host: &HostId) -> Result<&'b HostBinding, Failure> {
    let found = bindings.get(host).copied();
    found.ok_or_else(|| Fault::new(Code::NotApproved, format!("host {host} has no verified binding")).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::client::facts::{RevisionFacts, TargetFacts};
    use crate::client::walk::tests::root as root_envelope;
    use moorline_common::id::{ClusterId, HostEpoch};
    use moorline_common::sign::PrivateKey;

    pub(crate) fn keys() -> (PrivateKey, PrivateKey) {
        (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]))
    }

    pub(crate) fn trust() -> TrustRoot {
        let (recovery, operator) = keys();
        let envelope = root_envelope(1, &recovery, &operator);
        TrustRoot::verify_first(envelope.clone(), &TrustRoot::pin(&envelope)).unwrap().into_statement()
    }

    /// Of the host with the key of that seed.
    pub(crate) fn host_binding(seed: u8, name: &str) -> HostBinding {
        let key = PrivateKey::from_seed(&[seed; 32]);
        HostBinding {
            cluster: ClusterId::parse("acme").unwrap(),
            host_id: HostId::of_key(&key.public()),
            host_key: key.public(),
            sealing_key: [seed; 32],
            host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
            name: HostName::parse(name).unwrap(),
            labels: BTreeMap::new(),
            generation_floors: BTreeMap::new(),
            serial: 1,
            issued_at: UnixSeconds(1),
        }
    }

    pub(crate) fn host(seed: u8, name: &str) -> HostView {
        let binding = host_binding(seed, name);
        let signed = Signed::seal(&binding, &[&keys().1]).unwrap();
        HostView {
            host_id: binding.host_id,
            name: binding.name,
            pending: false,
            locked: false,
            binding: Some(trust().verify_binding(signed, None).unwrap()),
            doubt: None,
            claim: None,
            connected: true,
            heartbeat: None,
            heartbeat_unix_ms: 0,
            target: None,
            converged: false,
            last_error: None,
            joined_unix_ms: 0,
            agent_version: String::new(),
            witness: None,
            pulls: Vec::new(),
            cordon: None,
        }
    }

    pub(crate) fn pen<'a>(root: &'a TrustRoot, signers: &'a Signers) -> Pen<'a> {
        Pen { root, signers, now: UnixSeconds(100) }
    }

    pub(crate) fn spec(image: &str) -> HostSpec {
        serde_json::from_value(serde_json::json!({"docker": {"services": {"site": {"image": image}}}})).unwrap()
    }

    pub(crate) fn draft(generation: u64, hosts: BTreeMap<HostId, HostSpec>) -> Draft {
        Draft {
            topology: TopologyId::parse("edge").unwrap(),
            generation: Generation(generation),
            source: "topology: edge".into(),
            inputs: Inputs::default(),
            down: false,
            message: String::new(),
            deliver_within_s: 60,
            hosts,
            sealed: BTreeMap::new(),
            fallbacks: BTreeMap::new(),
            at_once: BTreeSet::new(),
        }
    }

    pub(crate) fn previous(revision: &SignedRevision, hosts: &[HostView]) -> Previous {
        let view = RevisionView {
            facts: RevisionFacts {
                topology: revision.topology.clone(),
                generation: revision.generation,
                hosts: 0,
                down: false,
                pushed_unix_ms: 0,
                pushed_by: String::new(),
                message: String::new(),
            },
            source: None,
            doubt: None,
            slices: revision.slices.iter().map(|(h, s)| (h.clone(), s.envelope.clone())).collect(),
        };
        Previous::of(Some(&view), hosts, &trust())
    }

    #[test]
    fn a_revision_tells_apart_who_joins_changes_stays_and_leaves() {
        let hosts = [host(10, "a"), host(11, "b"), host(12, "c"), host(13, "d")];
        let id = |n: usize| hosts[n].host_id.clone();
        let first = draft(1, BTreeMap::from([(id(0), spec("x")), (id(1), spec("x")), (id(2), spec("x"))]));
        let signed = pen(&trust(), &keys().1.into()).sign(&first, &hosts).unwrap();
        let before = previous(&signed, &hosts);
        let mut wanted = BTreeMap::from([(id(0), spec("x")), (id(1), spec("y")), (id(3), spec("x"))]);
        let (leaves, stuck) = leaving(&first.topology, &wanted, &before, &hosts, &empty_hash().unwrap());
        assert_eq!((leaves.clone(), stuck), (vec![id(2)], vec![]));
        wanted.extend(leaves.into_iter().map(|h| (h, HostSpec::default())));
        let kinds: Vec<_> = changes(&wanted, &before, &hosts).unwrap().into_iter().map(|c| (c.host, c.change)).collect();
        let expected = [("a", ChangeKind::Unchanged), ("b", ChangeKind::Changed), ("c", ChangeKind::Leaves), ("d", ChangeKind::Added)];
        assert_eq!(kinds, expected.map(|(n, k)| (n.to_owned(), k)));
    }

    #[test]
    fn a_host_whose_binding_the_hub_withholds_is_not_torn_down() {
        let mut hosts = vec![host(10, "a"), host(11, "b")];
        let first = draft(1, hosts.iter().map(|h| (h.host_id.clone(), spec("x"))).collect());
        let signed = pen(&trust(), &keys().1.into()).sign(&first, &hosts).unwrap();
        let before = previous(&signed, &hosts);
        hosts[0].binding = None;
        let gone = hosts.remove(1).host_id;
        let (leaves, stuck) = leaving(&first.topology, &BTreeMap::new(), &before, &hosts, &empty_hash().unwrap());
        assert!(leaves.is_empty());
        assert_eq!(stuck, ["a".to_owned(), gone.to_string()]);
    }

    #[test]
    fn an_unfinished_teardown_is_carried_into_the_next_revision() {
        let mut left = host(10, "a");
        let empty = empty_hash().unwrap();
        let topology = TopologyId::parse("edge").unwrap();
        left.target = Some(TargetFacts { topology: topology.clone(), generation: Generation(2), hash: Some(empty.clone()) });
        let all = |h: &HostView| leaving(&topology, &BTreeMap::new(), &Previous::default(), std::slice::from_ref(h), &empty).0.len();
        assert_eq!(all(&left), 1);
        left.converged = true;
        assert_eq!(all(&left), 0);
    }

    #[test]
    fn what_agents_would_refuse_is_not_signed() {
        let hosts = [host(10, "a")];
        let draft = draft(1, BTreeMap::from([(hosts[0].host_id.clone(), spec("x"))]));
        let stranger = PrivateKey::from_seed(&[9; 32]).into();
        assert_eq!(pen(&trust(), &stranger).sign(&draft, &hosts).unwrap_err().code, "unknown_key");
        let recovery = keys().0.into();
        assert_eq!(pen(&trust(), &recovery).sign(&draft, &hosts).unwrap_err().code, "out_of_scope");
    }
}
