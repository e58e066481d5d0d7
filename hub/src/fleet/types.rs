//! Plain data about hosts: what they say, what is sent to them, how they are seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moorline_common::convergence::{Reported, Target};
use moorline_common::drift::Drift;
use moorline_common::fault::{Fault, cut};
use moorline_common::id::{Generation, HostEpoch, OpId, ResourceId, TopologyId, VersionHash};
use moorline_common::observe::EngineState;
use moorline_common::op::Outcome;
use moorline_common::pulling::Pulling;
use moorline_common::statement::{HELD_MAX, ObservedReport, RolledBack};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;
use crate::ops::Wanted;
use crate::store::{DriftReport, RefusalRecord, RefusedKind, ReportRecord, SagaEvidence, TargetRecord, Witness};

/// What the hub sends to an agent.
#[derive(Debug)]
pub enum Outgoing {
    /// A trust root's envelope.
    Root(Vec<u8>),
    /// A binding's envelope.
    Binding(Vec<u8>),
    /// A slice's envelope.
    Slice(Vec<u8>),
    /// A wish for what the agent holds.
    QueryHeld,
    /// A wish for a fresh report.
    QueryReport,
    /// A wish for the journal from a record on; the answer names the request.
    QueryJournal {
        /// The request.
        request_id: u64,
        /// The first record that is wanted.
        from_seq: u64,
    },
    /// A wish for a log, or for a command's output.
    QueryLogs {
        /// The request.
        request_id: u64,
        /// What is wanted.
        wanted: Wanted,
    },
    /// One more part of a log may be under way.
    MoreLogs {
        /// The request.
        request_id: u64,
    },
    /// Nobody wants the rest of a log any more.
    EndLogs {
        /// The request.
        request_id: u64,
    },
    /// An operation's envelope.
    Op(Vec<u8>),
    /// An order of a saga, with what its host is shown.
    SagaOrder {
        /// Its envelope.
        op: Vec<u8>,
        /// The rest.
        evidence: Box<SagaEvidence>,
    },
    /// The receipt of an operation is kept.
    OpAck {
        /// The operation.
        op_id: OpId,
        /// The outcome in the receipt.
        outcome: Outcome,
    },
}

/// What an agent said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Counts the heartbeats of one session.
    pub sequence: u64,
    /// The version of its newest trust root.
    pub root_version: u64,
    /// The serial of its binding.
    pub binding_serial: u64,
    /// The topology that it follows or has torn down.
    pub topology: Option<TopologyId>,
    /// The generation of the accepted slice.
    pub generation: Generation,
    /// The hash of what is applied.
    pub applied: Option<VersionHash>,
    /// The generation whose apply last succeeded.
    #[serde(default)]
    pub applied_generation: Generation,
    /// The accepted generation once the host has found it healthy for long enough, or it was confirmed; 0 before.
    #[serde(default)]
    pub healthy_generation: Generation,
    /// The accepted generation if the host has gone back from it to its signed fallback; 0 otherwise.
    #[serde(default)]
    pub rolled_back_generation: Generation,
    /// The digest of its newest observation.
    pub observed_digest: String,
    /// Its engine.
    pub engine: EngineState,
    /// Whether an apply is under way.
    pub converging: bool,
    /// Its newest journal record.
    pub journal_seq: u64,
    /// The head of its journal's chain.
    pub journal_head: Vec<u8>,
    /// Operations accepted and not ended.
    pub open_ops: u32,
    /// Operations whose outcome is unknown.
    pub indeterminate_ops: u32,
    /// The code of its last error; empty without one.
    pub last_error_code: String,
    /// Whether its newest observation failed.
    pub observe_error: bool,
    /// Whether it can accept slices.
    pub ready: bool,
    /// Whether it enforces its slice.
    pub enforcing: bool,
}

impl Beat {
    /// Whether it says anything else than `other`, the counting left out.
    pub(super) fn differs(&self, other: &Beat) -> bool {
        let mut same_sequence = other.clone();
        same_sequence.sequence = self.sequence;
        *self != same_sequence
    }
}

/// The part of a host's report that the hub needs at hand.
#[derive(Debug, Clone, Default)]
pub struct ReportBrief {
    /// The digest of the observation.
    pub digest: String,
    /// What is present.
    pub present: BTreeSet<ResourceId>,
    /// What an operation keeps unlike the slice, and which.
    pub held: BTreeMap<ResourceId, OpId>,
    /// What is not there, or does not run, and is left so to an operator.
    pub drifted: BTreeSet<ResourceId>,
    /// The last error of the last apply.
    pub last_error: Option<Fault>,
    /// The first resource that is not as wanted.
    pub first_trouble: Option<Fault>,
    /// The error of the last failed observation.
    pub observe_error: Option<String>,
    /// What the host went back from, and why.
    pub rolled_back: Option<RolledBack>,
}

impl ReportBrief {
    /// The brief of a report whose observation has this digest.
    #[must_use]
    pub fn new(report: ObservedReport, digest: String) -> Self {
        let first = report.apply.troubles.into_iter().next();
        Self {
            digest,
            present: report.observed.present(),
            drifted: report.apply.drift.into_iter().filter(Drift::is_absence).map(|d| d.resource).collect(),
            held: report.apply.held.into_iter().take(HELD_MAX).map(|h| (h.resource, h.op_id)).collect(),
            last_error: report.apply.last_error.map(|f| Fault::new(f.code, cut(&f.message))),
            first_trouble: first.map(|t| Fault::new(t.code, cut(&format!("{}: {}", t.resource, t.message)))),
            observe_error: report.observed.error.map(|e| cut(&e)),
            rolled_back: report.apply.rolled_back.map(|r| RolledBack { reason: cut(&r.reason), ..r }),
        }
    }

    /// The error to show: the last one of the apply, else the first resource's trouble.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.last_error.as_ref().or(self.first_trouble.as_ref())
    }
}

/// A session's hold on its host.
#[derive(Debug, Clone)]
pub struct SessionHold {
    /// Tells sessions apart.
    pub id: u64,
    /// Ends the session.
    pub cut: CancellationToken,
}

/// The way to a connected host, for its operations.
#[derive(Debug, Clone)]
pub struct Way {
    /// The session.
    pub session: u64,
    /// What is sent.
    pub tx: mpsc::Sender<Outgoing>,
    /// Ends the session.
    pub cut: CancellationToken,
    /// The life of the host that speaks.
    pub epoch: HostEpoch,
    /// How far it is.
    pub delivery: Arc<Delivery>,
}

/// A host as the convergence driver sees it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The session.
    pub session: u64,
    /// The host's name for events.
    pub name: String,
    /// What it said last, in this session.
    pub beat: Beat,
    /// The serial of the binding that the hub holds.
    pub binding_serial: u64,
    /// What it should have.
    pub target: Option<Arc<TargetRecord>>,
    /// What it has, if its report is of its newest observation.
    pub present: Option<BTreeSet<ResourceId>>,
    /// What an operation keeps unlike the slice on it, and what is left to an operator.
    pub held: BTreeSet<ResourceId>,
    /// What it refused.
    pub refusals: BTreeMap<RefusedKind, RefusalRecord>,
    /// The newest revision that it reported applied.
    pub done: Option<(TopologyId, Generation)>,
}

/// A host as operators see it.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Whether a session is open.
    pub connected: bool,
    /// What it said last.
    pub beat: Option<Beat>,
    /// When, in milliseconds since 1970.
    pub beat_unix_ms: u64,
    /// What it should have.
    pub target: Option<Arc<TargetRecord>>,
    /// Whether it has that.
    pub converged: bool,
    /// Its last refusal or error.
    pub last_error: Option<Fault>,
    /// What operations keep unlike the slice.
    pub held: BTreeMap<ResourceId, OpId>,
    /// The newest journal record that its heartbeats named.
    pub witness: Witness,
    /// What it pulls now.
    pub pulls: Vec<Pulling>,
}

/// What a host said and the store does not have yet; newest wins.
#[derive(Debug, Clone, Default)]
pub struct Unkept {
    /// A heartbeat as JSON, and when it came, in milliseconds since 1970.
    pub beat: Option<(Vec<u8>, u64)>,
    /// A report.
    pub report: Option<Box<ReportRecord>>,
    /// What it said of its drift, when that is another than before, and how many events that may cause.
    pub drift: Option<(Box<DriftReport>, u32)>,
}

/// What came of a heartbeat.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BeatOutcome {
    /// Whether it said anything new.
    pub changed: bool,
    /// An error to record: its code and words.
    pub error: Option<(String, String)>,
}

/// A session that may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Another session of the same host took its place, or it was cut.
    #[error("another session of this host has taken its place")]
    Replaced,
    /// Its certificate has run out.
    #[error("the certificate that opened this session has expired; connect again by the new one")]
    Expired,
}

/// A stored target as the core's decision wants it.
#[must_use]
pub fn target(record: &TargetRecord) -> Target {
    Target {
        topology: record.topology.clone(),
        generation: record.generation,
        version_hash: record.version_hash.clone(),
        payload_sha256: record.payload_sha256.clone(),
        resources: record.resources.clone(),
    }
}

/// A heartbeat as the core's decision wants it.
#[must_use]
pub fn reported(beat: &Beat, present: Option<BTreeSet<ResourceId>>, held: BTreeSet<ResourceId>) -> Reported {
    Reported {
        topology: beat.topology.clone(),
        generation: beat.generation,
        applied: beat.applied.clone(),
        applied_generation: beat.applied_generation,
        healthy_generation: beat.healthy_generation,
        rolled_back_generation: beat.rolled_back_generation,
        converging: beat.converging,
        engine: beat.engine,
        observe_error: beat.observe_error,
        present,
        held,
        ready: beat.ready,
        enforcing: beat.enforcing,
    }
}
