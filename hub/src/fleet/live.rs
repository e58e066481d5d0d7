//! One host's live state, and what it means: converged or not, and the error to show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostEpoch, ResourceId, TopologyId};
use moorline_common::observe::EngineState;
use moorline_common::pulling::Pulling;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;
use super::types::{Beat, Outgoing, ReportBrief, Unkept, reported, target};
use crate::limits;
use crate::rate::Minute;
use crate::store::{DriftReport, RefusalRecord, RefusedKind, TargetRecord, Witness};

/// An open session.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) tx: mpsc::Sender<Outgoing>,
    pub(super) cut: CancellationToken,
    /// When the last message came, by the monotonic clock.
    pub(super) heard_ms: u64,
    /// Whether a heartbeat came in this session.
    pub(super) beat_seen: bool,
    /// From then on the certificate that it came by is expired, in seconds since 1970.
    pub(super) not_after_s: u64,
    /// The life of the host that speaks.
    pub(super) epoch: HostEpoch,
    /// How far the host has its operations.
    pub(super) delivery: Arc<Delivery>,
}

/// One host.
#[derive(Default)]
pub(super) struct Live {
    pub(super) name: String,
    pub(super) known: bool,
    pub(super) bound: bool,
    /// What is pushed is kept from it.
    pub(super) is_cordoned: bool,
    pub(super) host_key: Option<[u8; 32]>,
    pub(super) binding_serial: u64,
    pub(super) session: Option<Session>,
    pub(super) beat: Option<Beat>,
    pub(super) beat_unix_ms: u64,
    pub(super) report: Option<ReportBrief>,
    pub(super) target: Option<Arc<TargetRecord>>,
    pub(super) done: Option<(TopologyId, Generation)>,
    pub(super) refusals: BTreeMap<RefusedKind, RefusalRecord>,
    /// Events that it caused lately.
    pub(super) events: Minute,
    /// Certificates and sessions that it asked for lately.
    pub(super) renewals: Minute,
    pub(super) sessions: Minute,
    /// What it said of operations lately, and of which that nobody here knows.
    pub(super) op_words: Minute,
    pub(super) unknown_receipts: Minute,
    /// Beginnings and ends of drifts that it caused events of lately.
    pub(super) drift_events: Minute,
    /// What it said of its drift last, in this run of the hub.
    pub(super) drift: Option<DriftReport>,
    /// What it pulls now, by the word of its open session.
    pub(super) pulls: Vec<Pulling>,
    /// The newest journal record that its heartbeats named.
    pub(super) witness: Witness,
    /// What it said and the store does not have yet.
    pub(super) unkept: Unkept,
    /// When the store was last handed anything of it, by the monotonic clock.
    pub(super) kept_ms: Option<u64>,
    /// The last error that was recorded as an event, and when.
    pub(super) error_told: Option<Told>,
    /// A new error code whose words have not come yet.
    pub(super) error_due: Option<String>,
}

impl Live {
    /// What the host has, if its report is of its newest observation.
    pub(super) fn present(&self) -> Option<BTreeSet<ResourceId>> {
        let digest = &self.beat.as_ref()?.observed_digest;
        self.report.as_ref().filter(|r| r.digest == *digest).map(|r| r.present.clone())
    }

    /// What an operation keeps unlike the slice, and what is left to an operator: sending the slice again mends neither.
    pub(super) fn held(&self) -> BTreeSet<ResourceId> {
        self.report.as_ref().map(|r| r.held.keys().chain(&r.drifted).cloned().collect()).unwrap_or_default()
    }

    pub(super) fn is_converged(&self) -> bool {
        let Some(beat) = &self.beat else { return false };
        match &self.target {
            Some(record) => moorline_common::convergence::mismatch(&target(record), &reported(beat, self.present(), self.held())).is_none(),
            None => self.bound && beat.topology.is_none(),
        }
    }

    /// Whether it says that it has accepted this revision.
    pub(super) fn has_accepted(&self, topology: &TopologyId, generation: Generation) -> bool {
        self.beat.as_ref().is_some_and(|b| b.topology.as_ref() == Some(topology) && b.generation == generation)
    }

    /// Whether it has accepted its target meanwhile, for which it waited.
    fn has_waited(&self) -> bool {
        let refusal = self.refusals.get(&RefusedKind::Slice);
        let has_target = self.target.as_deref().is_some_and(|t| self.has_accepted(&t.topology, t.generation));
        has_target && refusal.is_some_and(|r| r.fault.code == Code::OutsideMaintenance)
    }

    pub(super) fn last_error(&self, root_version: u64) -> Option<Fault> {
        let beat = self.beat.as_ref()?;
        let stands = |kind: RefusedKind| match kind {
            RefusedKind::Slice => !self.is_converged() && !self.has_waited(),
            RefusedKind::Root => beat.root_version < root_version,
            RefusedKind::Binding => beat.binding_serial < self.binding_serial,
        };
        if let Some(refusal) = self.refusals.values().find(|r| stands(r.kind)) {
            return Some(refusal.fault.clone());
        }
        let report = self.report.as_ref();
        if beat.engine == EngineState::Unreachable {
            let words = report.and_then(|r| r.observe_error.clone()).unwrap_or_else(|| "the engine cannot be reached".to_owned());
            return Some(Fault::new(Code::EngineUnreachable, words));
        }
        if let Some(fault) = report.and_then(ReportBrief::fault) {
            return Some(fault.clone());
        }
        if beat.observe_error {
            let words = report.and_then(|r| r.observe_error.clone()).unwrap_or_else(|| "the last observation failed".to_owned());
            return Some(Fault::new(Code::StepFailed, words));
        }
        Code::parse(&beat.last_error_code).map(|code| Fault::new(code, "the agent's report will say more"))
    }

    /// Notes what a heartbeat says of errors; gives back one to record. A new code waits for its words until the
    /// next heartbeat.
    pub(super) fn error_of_beat(&mut self, beat: &Beat, now_ms: u64) -> Option<(String, String)> {
        let unreachable = |b: &Beat| b.engine == EngineState::Unreachable;
        if unreachable(beat) && !self.beat.as_ref().is_some_and(unreachable) {
            let words = self.report.as_ref().and_then(|r| r.observe_error.clone());
            return self.tell_error(
                Code::EngineUnreachable.as_str(),
                &words.unwrap_or_else(|| "the engine cannot be reached".to_owned()),
                now_ms,
            );
        }
        let code = beat.last_error_code.as_str();
        let before = self.beat.as_ref().map_or("", |b| b.last_error_code.as_str());
        let has_words = self.report.as_ref().and_then(ReportBrief::fault).is_some_and(|f| f.code.as_str() == code);
        if code.is_empty() || has_words {
            self.error_due = None;
            return None;
        }
        if code != before {
            self.error_due = Some(code.to_owned());
            return None;
        }
        let due = self.error_due.take()?;
        self.tell_error(&due, "the agent reports an error", now_ms)
    }

    /// Whether this error is to be recorded: not when it was recorded not long ago, nor when only its words
    /// change all the time.
    pub(super) fn tell_error(&mut self, code: &str, words: &str, now_ms: u64) -> Option<(String, String)> {
        // What merely waits its turn is no error.
        if code == Code::Waiting.as_str() {
            return None;
        }
        if let Some(told) = &self.error_told
            && told.code == code
        {
            let interval = if told.words == words { limits::ERROR_EVENT_INTERVAL } else { limits::ERROR_WORDS_INTERVAL };
            if u128::from(now_ms.saturating_sub(told.at_ms)) < interval.as_millis() {
                return None;
            }
        }
        self.error_told = Some(Told { code: code.to_owned(), words: words.to_owned(), at_ms: now_ms });
        Some((code.to_owned(), words.to_owned()))
    }
}

/// An error that was recorded as an event.
pub(super) struct Told {
    code: String,
    words: String,
    at_ms: u64,
}
