//! The hosts as they are now: sessions, last heartbeats, last reports. Memory only; what changed is
//! kept by the store.
//!
//! Nothing here waits: each method takes the lock, reads or writes a few fields, and returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::convergence::{Reported, Target};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, ResourceId, TopologyId, VersionHash};
use moorline_common::observe::EngineState;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::store::{HostRecord, HostState, RefusalRecord, RefusedKind, TargetRecord};

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
    fn differs(&self, other: &Beat) -> bool {
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
    /// The last error of the last apply.
    pub last_error: Option<Fault>,
    /// The first resource that is not as wanted.
    pub first_trouble: Option<Fault>,
    /// The error of the last failed observation.
    pub observe_error: Option<String>,
}

/// A session's hold on its host.
#[derive(Debug, Clone)]
pub struct SessionHold {
    /// Tells sessions apart.
    pub id: u64,
    /// Ends the session.
    pub cut: CancellationToken,
}

struct Session {
    id: u64,
    tx: mpsc::Sender<Outgoing>,
    cut: CancellationToken,
    /// When the last message came, by the monotonic clock.
    heard_ms: u64,
    /// Whether a heartbeat came in this session.
    beat_seen: bool,
    /// From then on the certificate that it came by is expired, in seconds since 1970.
    not_after_s: u64,
}

#[derive(Default)]
struct Live {
    name: String,
    known: bool,
    bound: bool,
    host_key: Option<[u8; 32]>,
    binding_serial: u64,
    session: Option<Session>,
    beat: Option<Beat>,
    beat_unix_ms: u64,
    report: Option<ReportBrief>,
    target: Option<Arc<TargetRecord>>,
    done: Option<(TopologyId, Generation)>,
    refusals: BTreeMap<RefusedKind, RefusalRecord>,
    /// The last error that was recorded as an event, and when.
    error_told: Option<(String, u64)>,
    /// A new error code whose words have not come yet.
    error_due: Option<String>,
}

/// A host as the convergence driver sees it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The session.
    pub session: u64,
    /// The host's name for events.
    pub name: String,
    /// Whether the store knows it.
    pub known: bool,
    /// What it said last, in this session.
    pub beat: Beat,
    /// The serial of the binding that the hub holds.
    pub binding_serial: u64,
    /// What it should have.
    pub target: Option<Arc<TargetRecord>>,
    /// What it has, if its report is of its newest observation.
    pub present: Option<BTreeSet<ResourceId>>,
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

/// All hosts. Clones share them.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    hosts: BTreeMap<HostId, Live>,
    next_session: u64,
    root_version: u64,
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves plain fields behind, none half-written in a way that matters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the store says about a host.
    pub fn load(&self, record: &HostRecord) {
        let mut inner = self.lock();
        let live = inner.hosts.entry(record.host_id.clone()).or_default();
        record.name.as_str().clone_into(&mut live.name);
        live.known = true;
        live.bound = record.state == HostState::Bound;
        live.host_key = Some(record.host_key);
        if live.binding_serial != record.binding_serial {
            live.binding_serial = record.binding_serial;
            live.refusals.remove(&RefusedKind::Binding);
        }
        live.done.clone_from(&record.done);
        if live.beat.is_none()
            && let Some((json, at_ms)) = &record.heartbeat
        {
            live.beat = serde_json::from_slice(json).ok();
            live.beat_unix_ms = *at_ms;
        }
    }

    /// Takes over a host's target; a refusal of an earlier payload is past.
    pub fn set_target(&self, host: &HostId, target: Option<TargetRecord>) {
        let mut inner = self.lock();
        let live = inner.hosts.entry(host.clone()).or_default();
        let payload = target.as_ref().map(|t| t.payload_sha256.as_str());
        if live.refusals.get(&RefusedKind::Slice).is_some_and(|r| Some(r.payload_sha256.as_str()) != payload) {
            live.refusals.remove(&RefusedKind::Slice);
        }
        live.target = target.map(Arc::new);
    }

    /// Takes over the newest trust root's version.
    pub fn set_root_version(&self, version: u64) {
        let mut inner = self.lock();
        inner.root_version = version;
        for live in inner.hosts.values_mut() {
            live.refusals.remove(&RefusedKind::Root);
        }
    }

    /// The newest trust root's version; 0 without one.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.lock().root_version
    }

    /// Keeps a host's refusal. `false` when it said the same before.
    pub fn set_refusal(&self, host: &HostId, refusal: &RefusalRecord) -> bool {
        let mut inner = self.lock();
        let Some(live) = inner.hosts.get_mut(host) else { return false };
        live.refusals.insert(refusal.kind, refusal.clone()).as_ref() != Some(refusal)
    }

    /// Marks a revision as reported applied.
    pub fn set_done(&self, host: &HostId, topology: &TopologyId, generation: Generation) {
        if let Some(live) = self.lock().hosts.get_mut(host) {
            live.done = Some((topology.clone(), generation));
        }
    }

    /// Opens a session; an older one of the same host ends.
    #[must_use]
    pub fn open(&self, host: &HostId, tx: mpsc::Sender<Outgoing>, not_after_s: u64, now_ms: u64) -> SessionHold {
        let mut inner = self.lock();
        inner.next_session += 1;
        let (id, cut) = (inner.next_session, CancellationToken::new());
        let live = inner.hosts.entry(host.clone()).or_default();
        if live.name.is_empty() {
            host.as_str().clone_into(&mut live.name);
        }
        let session = Session { id, tx, cut: cut.clone(), heard_ms: now_ms, beat_seen: false, not_after_s };
        if let Some(old) = live.session.replace(session) {
            old.cut.cancel();
        }
        SessionHold { id, cut }
    }

    /// Closes a session; `false` when another had taken its place.
    pub fn close(&self, host: &HostId, session: u64) -> bool {
        let mut inner = self.lock();
        let Some(live) = inner.hosts.get_mut(host) else { return false };
        if live.session.as_ref().is_some_and(|s| s.id == session) {
            live.session = None;
            return true;
        }
        false
    }

    /// Checks that a session may go on, and notes that it lives. To be called for every message.
    ///
    /// # Errors
    /// [`Cut`] when it may not.
    pub fn touch(&self, host: &HostId, session: u64, now_ms: u64, now_s: u64) -> Result<(), Cut> {
        let mut inner = self.lock();
        let current = inner.hosts.get_mut(host).and_then(|l| l.session.as_mut()).filter(|s| s.id == session && !s.cut.is_cancelled());
        let Some(current) = current else { return Err(Cut::Replaced) };
        if current.not_after_s <= now_s {
            return Err(Cut::Expired);
        }
        current.heard_ms = now_ms;
        Ok(())
    }

    /// Takes a heartbeat in.
    pub fn beat(&self, host: &HostId, beat: Beat, unix_ms: u64, now_ms: u64) -> BeatOutcome {
        let mut inner = self.lock();
        let Some(live) = inner.hosts.get_mut(host) else { return BeatOutcome::default() };
        let first = live.session.as_mut().is_some_and(|s| !std::mem::replace(&mut s.beat_seen, true));
        let changed = first || live.beat.as_ref().is_none_or(|old| beat.differs(old));
        let error = live.error_of_beat(&beat, now_ms);
        live.beat = Some(beat);
        live.beat_unix_ms = unix_ms;
        BeatOutcome { changed, error }
    }

    /// Takes a verified report in; gives back an error to record.
    pub fn report(&self, host: &HostId, brief: ReportBrief, now_ms: u64) -> Option<(String, String)> {
        let mut inner = self.lock();
        let live = inner.hosts.get_mut(host)?;
        let fault = brief.last_error.clone().or_else(|| brief.first_trouble.clone());
        live.report = Some(brief);
        let fault = fault?;
        live.error_due = None;
        live.tell_error(fault.code.as_str(), &fault.message, now_ms)
    }

    /// The key by which a host signs its reports.
    #[must_use]
    pub fn host_key(&self, host: &HostId) -> Option<[u8; 32]> {
        self.lock().hosts.get(host).and_then(|l| l.host_key)
    }

    /// A host's name, and whether the store knows the host.
    #[must_use]
    pub fn name(&self, host: &HostId) -> (String, bool) {
        self.lock().hosts.get(host).map_or_else(|| (host.to_string(), false), |l| (l.name.clone(), l.known))
    }

    /// A connected host that has sent a heartbeat in its session.
    #[must_use]
    pub fn snapshot(&self, host: &HostId) -> Option<Snapshot> {
        let inner = self.lock();
        let live = inner.hosts.get(host)?;
        let session = live.session.as_ref().filter(|s| s.beat_seen && !s.cut.is_cancelled())?;
        Some(Snapshot {
            session: session.id,
            name: live.name.clone(),
            known: live.known,
            beat: live.beat.clone()?,
            binding_serial: live.binding_serial,
            target: live.target.clone(),
            present: live.present(),
            refusals: live.refusals.clone(),
            done: live.done.clone(),
        })
    }

    /// Queues a message for a session. `false` when its queue is full or it has ended.
    #[must_use]
    pub fn send(&self, host: &HostId, session: u64, message: Outgoing) -> bool {
        let inner = self.lock();
        let current = inner.hosts.get(host).and_then(|l| l.session.as_ref()).filter(|s| s.id == session);
        current.is_some_and(|s| s.tx.try_send(message).is_ok())
    }

    /// Hosts with an open session.
    #[must_use]
    pub fn connected(&self) -> Vec<HostId> {
        self.lock().hosts.iter().filter(|(_, l)| l.session.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Ends a host's session.
    pub fn cut(&self, host: &HostId) {
        if let Some(session) = self.lock().hosts.get(host).and_then(|l| l.session.as_ref()) {
            session.cut.cancel();
        }
    }

    /// Ends sessions from which nothing came for `silence`.
    pub fn cut_silent(&self, silence: Duration, now_ms: u64) {
        let silence = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let inner = self.lock();
        for session in inner.hosts.values().filter_map(|l| l.session.as_ref()) {
            if now_ms.saturating_sub(session.heard_ms) > silence {
                session.cut.cancel();
            }
        }
    }

    /// A host as operators see it.
    #[must_use]
    pub fn view(&self, host: &HostId) -> View {
        let inner = self.lock();
        let Some(live) = inner.hosts.get(host) else { return View::default() };
        View {
            connected: live.session.as_ref().is_some_and(|s| !s.cut.is_cancelled()),
            beat: live.beat.clone(),
            beat_unix_ms: live.beat_unix_ms,
            target: live.target.clone(),
            converged: live.is_converged(),
            last_error: live.last_error(inner.root_version),
        }
    }
}

impl Live {
    /// What the host has, if its report is of its newest observation.
    fn present(&self) -> Option<BTreeSet<ResourceId>> {
        let digest = &self.beat.as_ref()?.observed_digest;
        self.report.as_ref().filter(|r| r.digest == *digest).map(|r| r.present.clone())
    }

    fn is_converged(&self) -> bool {
        let Some(beat) = &self.beat else { return false };
        match &self.target {
            Some(record) => moorline_common::convergence::mismatch(&target(record), &reported(beat, self.present())).is_none(),
            None => self.bound && beat.topology.is_none(),
        }
    }

    fn last_error(&self, root_version: u64) -> Option<Fault> {
        let beat = self.beat.as_ref()?;
        let stands = |kind: RefusedKind| match kind {
            RefusedKind::Slice => !self.is_converged(),
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
        if let Some(fault) = report.and_then(|r| r.last_error.clone().or_else(|| r.first_trouble.clone())) {
            return Some(fault);
        }
        if beat.observe_error {
            let words = report.and_then(|r| r.observe_error.clone()).unwrap_or_else(|| "the last observation failed".to_owned());
            return Some(Fault::new(Code::StepFailed, words));
        }
        Code::parse(&beat.last_error_code).map(|code| Fault::new(code, "the agent's report will say more"))
    }

    /// Notes a new error code; records it without words when none came by the next heartbeat.
    fn error_of_beat(&mut self, beat: &Beat, now_ms: u64) -> Option<(String, String)> {
        let code = beat.last_error_code.as_str();
        let before = self.beat.as_ref().map_or("", |b| b.last_error_code.as_str());
        if code.is_empty() {
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

    /// Whether this error is to be recorded: not when it is the one recorded last and not long ago.
    fn tell_error(&mut self, code: &str, words: &str, now_ms: u64) -> Option<(String, String)> {
        let text = format!("{code}: {words}");
        let interval = u64::try_from(limits::ERROR_EVENT_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        if self.error_told.as_ref().is_some_and(|(told, at)| *told == text && now_ms.saturating_sub(*at) < interval) {
            return None;
        }
        self.error_told = Some((text, now_ms));
        Some((code.to_owned(), words.to_owned()))
    }
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
pub fn reported(beat: &Beat, present: Option<BTreeSet<ResourceId>>) -> Reported {
    Reported {
        topology: beat.topology.clone(),
        generation: beat.generation,
        applied: beat.applied.clone(),
        converging: beat.converging,
        engine: beat.engine,
        observe_error: beat.observe_error,
        present,
        ready: beat.ready,
        enforcing: beat.enforcing,
    }
}
