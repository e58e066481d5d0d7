//! What the hub says, in the core's types. Facts have no authority; what is signed is kept apart and verified.

use moorline_common::enrol::HostClaim;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{Generation, HostEpoch, HostId, HostName, IdError, TopologyId, UnixSeconds, VersionHash};
use moorline_common::observe::EngineState;
use moorline_common::pulling::Pulling;
use moorline_common::sign::{Envelope, Verified};
use moorline_common::statement::{HostBinding, ObservedReport, TopologyStatement};
use moorline_proto::v1 as pb;

use crate::clock;
use crate::limits::{PULLS_MAX, REPORT_OLD_S};
use crate::render::visible;

/// One host: the hub's facts, and the binding if it verified.
#[derive(Debug, Clone)]
pub struct HostView {
    /// The hash of its key.
    pub host_id: HostId,
    /// Its name: in its binding, or in its token while pending.
    pub name: HostName,
    /// Whether it awaits approval. The hub's word.
    pub pending: bool,
    /// Whether the hub keeps it out because two holders used its identity.
    pub locked: bool,
    /// Its verified binding.
    pub binding: Option<Verified<HostBinding>>,
    /// Why its binding does not count.
    pub doubt: Option<Fault>,
    /// What it claimed when it joined.
    pub claim: Option<Claim>,
    /// Whether a session is open.
    pub connected: bool,
    /// Its newest heartbeat.
    pub heartbeat: Option<Beat>,
    /// When that came, by the hub's clock.
    pub heartbeat_unix_ms: u64,
    /// What it should have, in the hub's view.
    pub target: Option<TargetFacts>,
    /// Whether it has that, in the hub's view.
    pub converged: bool,
    /// Its last refusal or error.
    pub last_error: Option<Fault>,
    /// When it joined, by the hub's clock.
    pub joined_unix_ms: u64,
    /// The agent's version.
    pub agent_version: String,
    /// The newest journal record that the hub has seen of its present life; `None` for none.
    pub witness: Option<Witness>,
    /// What it pulls now. The hub's word.
    pub pulls: Vec<Pulling>,
    /// Whether the hub keeps what is pushed from it.
    pub cordon: Option<Cordon>,
}

/// What is pushed is kept from a host. The hub's word.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cordon {
    /// Since when, in milliseconds since 1970 by the hub's clock.
    pub since_unix_ms: u64,
    /// Who ordered it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A journal record that a heartbeat named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The life of the host that it is of.
    pub epoch: String,
    /// Its number.
    pub seq: u64,
    /// The first bytes of its hash.
    pub head: Vec<u8>,
}

/// Where a host is in its enrolment, as far as this machine can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// It joined and awaits approval.
    Pending,
    /// The hub says that it is bound, and shows no binding that verifies.
    Unverified,
    /// Bound, and kept out by the hub because two holders used its identity.
    Locked,
    /// Bound.
    Bound,
}

impl Enrolment {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Enrolment::Pending => "pending",
            Enrolment::Unverified => "unverified",
            Enrolment::Locked => "locked",
            Enrolment::Bound => "bound",
        }
    }
}

/// What a joined host said about itself.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The claim.
    pub claim: HostClaim,
    /// The MAC over it, which only the maker of the token can check.
    pub mac: Vec<u8>,
    /// The token's public id.
    pub token_id: String,
}

/// A heartbeat, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// The topology of the accepted slice, or of the one just torn down.
    pub topology: Option<TopologyId>,
    /// Its generation.
    pub generation: Generation,
    /// The hash of what is applied.
    pub applied: Option<VersionHash>,
    /// The generation whose apply last succeeded.
    pub applied_generation: Generation,
    /// The accepted generation once the host has found it healthy for long enough, or it was confirmed; 0 before.
    pub healthy_generation: Generation,
    /// The accepted generation if the host has gone back from it to its signed fallback; 0 otherwise.
    pub rolled_back_generation: Generation,
    /// The digest of its newest observation.
    pub observed_digest: String,
    /// The engine.
    pub engine: EngineState,
    /// Whether an apply is under way.
    pub converging: bool,
    /// Whether the newest observation failed.
    pub observe_error: bool,
    /// The code of the last error; empty for none.
    pub last_error_code: String,
    /// Whether the agent has a root and a binding.
    pub ready: bool,
    /// Whether it enforces its slice.
    pub enforcing: bool,
}

/// What a host should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts {
    /// The topology.
    pub topology: TopologyId,
    /// Its generation.
    pub generation: Generation,
    /// The hash of the host's slice; `None` when the hub sent none.
    pub hash: Option<VersionHash>,
}

/// One revision as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionFacts {
    /// The topology.
    pub topology: TopologyId,
    /// The generation.
    pub generation: Generation,
    /// Hosts with a slice in it.
    pub hosts: u32,
    /// Whether it tears the topology down.
    pub down: bool,
    /// When the hub stored it, by its clock.
    pub pushed_unix_ms: u64,
    /// Who pushed it: a certificate's subject.
    pub pushed_by: String,
    /// The operator's message.
    pub message: String,
}

/// One revision with what was signed.
#[derive(Debug, Clone)]
pub struct RevisionView {
    /// The hub's facts.
    pub facts: RevisionFacts,
    /// The verified source; `None` when the hub has none (it was restored) or it does not verify.
    pub source: Option<Verified<TopologyStatement>>,
    /// Why the source does not count.
    pub doubt: Option<Fault>,
    /// The slices as they came: verify each with its host's binding.
    pub slices: Vec<(HostId, Envelope)>,
}

/// A host's report, signed by its own key.
#[derive(Debug, Clone)]
pub struct ReportView {
    /// The report.
    pub report: Verified<ObservedReport>,
    /// When the hub got it, by the hub's clock.
    pub received_unix_ms: u64,
}

impl ReportView {
    /// How old it is, in seconds, by the time that its host signed: a hub can send an old report as a new one. A
    /// host whose clock is ahead made it just now.
    #[must_use]
    pub fn age_s(&self, now: UnixSeconds) -> u64 {
        now.0.saturating_sub(self.report.statement().taken_at.0)
    }

    /// Why it does not tell what its host has now, if it does not: it is old, or was signed while the engine could not be asked.
    #[must_use]
    pub fn doubt(&self, now: UnixSeconds) -> Option<String> {
        let observed = &self.report.statement().observed;
        let age = self.age_s(now);
        if age > REPORT_OLD_S {
            return Some(format!("its newest report is {} old", clock::span_words(age)));
        }
        match (&observed.error, observed.engine) {
            (None, EngineState::Ready) => None,
            (Some(error), _) => Some(format!("its engine could not be asked: {}", visible(error))),
            (None, _) => Some("its engine could not be asked".to_owned()),
        }
    }

    /// `error` with the whole text of the trouble that it was made from: an error is cut for its place in the
    /// heartbeat, and what to do next stands at the end of it.
    #[must_use]
    pub fn in_full(&self, error: Fault) -> Fault {
        let begin = error.message.trim_end_matches('…');
        let troubles = self.report.statement().apply.troubles.iter().filter(|t| t.code == error.code);
        let whole = troubles.map(|t| format!("{}: {}", t.resource, t.message)).find(|text| visible(text).starts_with(begin));
        match whole {
            Some(message) => shown(Fault { message, ..error }),
            None => error,
        }
    }
}

/// A fault in others' words, as it can be shown.
fn shown(fault: Fault) -> Fault {
    Fault { message: visible(&fault.message), ..fault }
}

/// Something that happened, as the hub recorded it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EventFacts {
    /// Counts all events of the hub.
    pub sequence: u64,
    /// When, by the hub's clock.
    pub at: String,
    /// What.
    pub kind: String,
    /// Who.
    pub actor: String,
    /// The host's name, if it concerns one.
    pub host: String,
    /// The topology, if it concerns one.
    pub topology: String,
    /// The generation, if it concerns one.
    pub generation: u64,
    /// The code, if something was refused or failed.
    pub code: String,
    /// Words for people.
    pub message: String,
}

fn malformed(what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(Code::BadEnvelope, format!("the hub sent a malformed {what}: {error}"))
}

fn optional<T>(text: String, parse: impl FnOnce(String) -> Result<T, IdError>, what: &str) -> Result<Option<T>, Fault> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some).map_err(|e| malformed(what, &e)) }
}

impl Claim {
    /// The claim inside a host's facts; `None` when the hub has none (it was restored).
    fn of(host: &pb::Host, name: &HostName) -> Option<Self> {
        Some(Self {
            claim: HostClaim {
                host_key: host.host_key.as_slice().try_into().ok()?,
                sealing_key: host.sealing_key.as_slice().try_into().ok()?,
                host_epoch: HostEpoch::parse(host.host_epoch.clone()).ok()?,
                name: name.clone(),
            },
            mac: host.claim_mac.clone(),
            token_id: host.token_id.clone(),
        })
    }
}

impl TryFrom<pb::Heartbeat> for Beat {
    type Error = Fault;
    fn try_from(beat: pb::Heartbeat) -> Result<Self, Fault> {
        let engine = beat.engine().into();
        Ok(Self {
            topology: optional(beat.topology, TopologyId::parse, "heartbeat")?,
            generation: Generation(beat.generation),
            applied: optional(beat.applied_hash, VersionHash::parse, "heartbeat")?,
            applied_generation: Generation(beat.applied_generation),
            healthy_generation: Generation(beat.healthy_generation),
            rolled_back_generation: Generation(beat.rolled_back_generation),
            observed_digest: beat.observed_digest,
            engine,
            converging: beat.converging,
            observe_error: beat.observe_error,
            last_error_code: beat.last_error_code,
            ready: beat.ready,
            enforcing: beat.enforcing,
        })
    }
}

impl HostView {
    /// What it pulls and how far that is, for people; `None` while it pulls nothing.
    #[must_use]
    pub fn pull_words(&self) -> Option<String> {
        let words: Vec<String> = self.pulls.iter().map(|p| visible(&p.to_string())).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// The facts; the binding is left for the caller to verify and comes back beside them.
    ///
    /// # Errors
    /// [`Code::BadEnvelope`] for what is not well formed.
    pub fn from_wire(mut host: pb::Host) -> Result<(Self, Option<pb::Envelope>), Fault> {
        let name = HostName::parse(host.name.clone()).map_err(|e| malformed("host", &e))?;
        let claim = Claim::of(&host, &name);
        let topology = optional(std::mem::take(&mut host.target_topology), TopologyId::parse, "target")?;
        let hash = optional(std::mem::take(&mut host.target_hash), VersionHash::parse, "target")?;
        let pending = match host.state() {
            pb::HostState::Pending => true,
            pb::HostState::Bound => false,
            pb::HostState::Unspecified => return Err(malformed("host", &"no state")),
        };
        let binding = host.binding.take();
        let view = Self {
            host_id: HostId::parse(host.host_id).map_err(|e| malformed("host", &e))?,
            name,
            pending,
            locked: host.locked,
            binding: None,
            doubt: None,
            claim,
            connected: host.connected,
            heartbeat: host.heartbeat.map(Beat::try_from).transpose()?,
            heartbeat_unix_ms: host.heartbeat_unix_ms,
            target: topology.map(|topology| TargetFacts { topology, generation: Generation(host.target_generation), hash }),
            converged: host.converged,
            last_error: host.last_error.filter(|f| !f.code.is_empty()).map(|f| shown(Fault::from(f))),
            joined_unix_ms: host.joined_unix_ms,
            agent_version: host.agent_version,
            witness: (host.witnessed_journal_seq > 0).then_some(Witness {
                epoch: host.witnessed_epoch,
                seq: host.witnessed_journal_seq,
                head: host.witnessed_journal_head,
            }),
            pulls: host.pulls.into_iter().take(PULLS_MAX).map(Pulling::from).collect(),
            cordon: host.cordon.map(|c| {
                let line = |text: &str| visible(&cut(text));
                Cordon { since_unix_ms: c.since_unix_ms, by: line(&c.by), reason: line(&c.reason) }
            }),
        };
        Ok((view, binding))
    }

    /// The fingerprint of the host's keys: by its verified binding if there is one, else as the hub shows its claim.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let bound = self.bound().map(|b| HostClaim {
            host_key: b.host_key,
            sealing_key: b.sealing_key,
            host_epoch: b.host_epoch.clone(),
            name: b.name.clone(),
        });
        bound.as_ref().or(self.claim.as_ref().map(|c| &c.claim)).map(HostClaim::fingerprint).unwrap_or_default()
    }

    /// Where it is in its enrolment.
    #[must_use]
    pub fn enrolment(&self) -> Enrolment {
        match (self.pending, self.bound()) {
            (true, _) => Enrolment::Pending,
            (false, None) => Enrolment::Unverified,
            (false, Some(_)) if self.locked => Enrolment::Locked,
            (false, Some(_)) => Enrolment::Bound,
        }
    }

    /// The verified binding.
    #[must_use]
    pub fn bound(&self) -> Option<&HostBinding> {
        self.binding.as_ref().map(Verified::statement)
    }

    /// The verified binding of a host that must have one.
    ///
    /// # Errors
    /// Why what the hub shows does not verify; [`Code::NotApproved`] when it shows none.
    pub fn require_bound(&self) -> Result<&HostBinding, Fault> {
        self.verified().map(Verified::statement)
    }

    /// The same, with its envelope.
    ///
    /// # Errors
    /// As [`Self::require_bound`].
    pub fn verified(&self) -> Result<&Verified<HostBinding>, Fault> {
        self.binding.as_ref().ok_or_else(|| {
            let doubt = self.doubt.clone();
            doubt.unwrap_or_else(|| Fault::new(Code::NotApproved, format!("host `{}` has no verified binding", self.name)))
        })
    }
}

impl TryFrom<pb::Revision> for RevisionFacts {
    type Error = Fault;
    fn try_from(revision: pb::Revision) -> Result<Self, Fault> {
        Ok(Self {
            topology: TopologyId::parse(revision.topology).map_err(|e| malformed("revision", &e))?,
            generation: Generation(revision.generation),
            hosts: revision.hosts,
            down: revision.down,
            pushed_unix_ms: revision.pushed_unix_ms,
            pushed_by: revision.pushed_by,
            message: revision.message,
        })
    }
}

impl From<pb::Event> for EventFacts {
    fn from(event: pb::Event) -> Self {
        Self {
            sequence: event.sequence,
            at: crate::clock::rfc3339(event.at_unix_ms),
            kind: event.kind,
            actor: event.actor,
            host: event.host,
            topology: event.topology,
            generation: event.generation,
            code: event.code,
            message: event.message,
        }
    }
}
