//! The hosts as they are now: sessions, last heartbeats, last reports. Memory only; what changed is
//! kept by the store.
//!
//! Nothing here waits: each method takes the lock, reads or writes a few fields, and returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::id::{Generation, HostEpoch, HostId, TopologyId};
use moorline_common::pulling::Pulling;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

mod delivery;
mod live;
mod sight;
mod types;

pub use delivery::Delivery;
use live::{Live, Session};
pub use sight::Said;
pub use types::{Beat, BeatOutcome, Cut, Outgoing, ReportBrief, SessionHold, Snapshot, Unkept, View, Way, reported, target};

use crate::limits;
use crate::store::{DriftReport, HostRecord, HostState, RefusalRecord, RefusedKind, ReportRecord, TargetRecord, Witness};

/// All hosts. Clones share them.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    hosts: BTreeMap<HostId, Live>,
    next_session: u64,
    root_version: u64,
    /// Hosts that said something which the store does not have yet.
    unkept: BTreeSet<HostId>,
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
        live.is_cordoned = record.cordon.is_some();
        live.host_key = Some(record.host_key);
        if live.binding_serial != record.binding_serial {
            live.binding_serial = record.binding_serial;
            live.refusals.remove(&RefusedKind::Binding);
        }
        live.done.clone_from(&record.done);
        live.witness.see(&record.witness.epoch, record.witness.seq, &record.witness.head);
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
        if live.target.as_ref().map(|t| t.payload_sha256.as_str()) != payload {
            // The same error on a new revision is news.
            live.error_told = None;
        }
        if live.refusals.get(&RefusedKind::Slice).is_some_and(|r| Some(r.payload_sha256.as_str()) != payload) {
            live.refusals.remove(&RefusedKind::Slice);
        }
        live.target = target.map(Arc::new);
    }

    /// Takes over the newest trust root's version.
    pub fn set_root_version(&self, version: u64) {
        let mut inner = self.lock();
        if version == inner.root_version {
            return;
        }
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
    pub fn open(&self, host: &HostId, epoch: HostEpoch, tx: mpsc::Sender<Outgoing>, not_after_s: u64, now_ms: u64) -> SessionHold {
        let mut inner = self.lock();
        inner.next_session += 1;
        let (id, cut) = (inner.next_session, CancellationToken::new());
        let live = inner.hosts.entry(host.clone()).or_default();
        if live.name.is_empty() {
            host.as_str().clone_into(&mut live.name);
        }
        let session =
            Session { id, tx, cut: cut.clone(), heard_ms: now_ms, beat_seen: false, not_after_s, epoch, delivery: Arc::default() };
        live.pulls.clear();
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
            live.pulls.clear();
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

    /// Whether one more event that this host causes is within its limit.
    pub fn admits_event(&self, host: &HostId, now_ms: u64) -> bool {
        self.lock().hosts.entry(host.clone()).or_default().events.admits(limits::HOST_EVENTS_PER_MINUTE, now_ms)
    }

    /// Whether one more certificate for this host is within its limit.
    pub fn admits_renewal(&self, host: &HostId, now_ms: u64) -> bool {
        self.lock().hosts.get_mut(host).is_none_or(|l| l.renewals.admits(limits::RENEWALS_PER_MINUTE, now_ms))
    }

    /// Whether one more session of this host is within its limit.
    pub fn admits_session(&self, host: &HostId, now_ms: u64) -> bool {
        self.lock().hosts.get_mut(host).is_none_or(|l| l.sessions.admits(limits::SESSIONS_PER_MINUTE, now_ms))
    }

    /// Notes what the store is to have of a host soon.
    pub fn keep(&self, host: &HostId, said: Unkept) {
        let mut inner = self.lock();
        let Some(live) = inner.hosts.get_mut(host) else { return };
        live.unkept.beat = said.beat.or(live.unkept.beat.take());
        live.unkept.report = said.report.or(live.unkept.report.take());
        live.unkept.drift = match (said.drift, live.unkept.drift.take()) {
            (Some((newest, more)), Some((_, before))) => Some((newest, more.saturating_add(before))),
            (newest, before) => newest.or(before),
        };
        inner.unkept.insert(host.clone());
    }

    /// A report that the store does not have yet.
    #[must_use]
    pub fn unkept_report(&self, host: &HostId) -> Option<ReportRecord> {
        self.lock().hosts.get(host).and_then(|l| l.unkept.report.as_deref().cloned())
    }

    /// What a host said of its drift that the store may not have yet.
    #[must_use]
    pub fn unkept_drift(&self, host: &HostId) -> Option<(DriftReport, u32)> {
        let inner = self.lock();
        inner.hosts.get(host)?.unkept.drift.as_ref().map(|(report, events)| (DriftReport::clone(report), *events))
    }

    /// What the store is to have now: of at most `limit` hosts, none of which was asked for in the last `interval`.
    #[must_use]
    pub fn unkept(&self, limit: usize, interval: Duration, now_ms: u64) -> Vec<(HostId, Unkept)> {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        let kept_ms = |host: &HostId| inner.hosts.get(host).and_then(|l| l.kept_ms);
        let is_due = |host: &&HostId| kept_ms(host).is_none_or(|at| now_ms.saturating_sub(at) >= interval);
        let due: Vec<HostId> = inner.unkept.iter().filter(is_due).take(limit).cloned().collect();
        let mut said = Vec::new();
        for host in due {
            inner.unkept.remove(&host);
            if let Some(live) = inner.hosts.get_mut(&host) {
                live.kept_ms = Some(now_ms);
                // It stays readable here until the store has it.
                said.push((host, live.unkept.clone()));
            }
        }
        said
    }

    /// Whether there is anything that the store does not have yet and was not asked for.
    #[must_use]
    pub fn has_unkept(&self) -> bool {
        !self.lock().unkept.is_empty()
    }

    /// The store has what [`Fleet::unkept`] gave out of this host. Newer words that came since stay.
    pub fn kept(&self, host: &HostId) {
        let mut inner = self.lock();
        if inner.unkept.contains(host) {
            return;
        }
        if let Some(live) = inner.hosts.get_mut(host) {
            live.unkept = Unkept::default();
        }
    }

    /// Takes a heartbeat in.
    pub fn beat(&self, host: &HostId, beat: Beat, unix_ms: u64, now_ms: u64) -> BeatOutcome {
        let mut inner = self.lock();
        let Some(live) = inner.hosts.get_mut(host) else { return BeatOutcome::default() };
        let first = live.session.as_mut().is_some_and(|s| !std::mem::replace(&mut s.beat_seen, true));
        let changed = first || live.beat.as_ref().is_none_or(|old| beat.differs(old));
        let error = live.error_of_beat(&beat, now_ms);
        if let Some(session) = &live.session {
            live.witness.see(session.epoch.as_str(), beat.journal_seq, &beat.journal_head);
        }
        live.beat = Some(beat);
        live.beat_unix_ms = unix_ms;
        BeatOutcome { changed, error }
    }

    /// Takes over what a host pulls now, in place of what it said before.
    pub fn set_pulls(&self, host: &HostId, pulls: Vec<Pulling>) {
        if let Some(live) = self.lock().hosts.get_mut(host) {
            live.pulls = pulls;
        }
    }

    /// Takes a verified report in; gives back an error to record.
    pub fn report(&self, host: &HostId, brief: ReportBrief, now_ms: u64) -> Option<(String, String)> {
        let mut inner = self.lock();
        let live = inner.hosts.get_mut(host)?;
        let fault = brief.fault().cloned();
        live.report = Some(brief);
        let fault = fault?;
        live.error_due = None;
        live.tell_error(fault.code.as_str(), &fault.message, now_ms)
    }

    /// Takes over what a host said of its drift; gives it back when that is news, with how many events it may cause.
    pub fn drift(&self, host: &HostId, report: DriftReport, now_ms: u64) -> Option<(DriftReport, u32)> {
        let mut inner = self.lock();
        let live = inner.hosts.get_mut(host)?;
        let before = live.drift.replace(report.clone());
        if before.as_ref() == Some(&report) {
            return None;
        }
        let keys = |report: &DriftReport| report.drift.iter().map(|d| (d.resource.clone(), d.field.clone())).collect::<BTreeSet<_>>();
        let (old, new) = (before.as_ref().map(keys).unwrap_or_default(), keys(&report));
        let begun_or_ended = old.symmetric_difference(&new).count();
        let admitted = (0..begun_or_ended).take_while(|_| live.drift_events.admits(limits::DRIFT_EVENTS_PER_MINUTE, now_ms)).count();
        Some((report, u32::try_from(admitted).unwrap_or(u32::MAX)))
    }

    /// Takes over a report that was kept by an earlier run, unless a newer one has come.
    pub fn load_report(&self, host: &HostId, brief: ReportBrief) {
        if let Some(live) = self.lock().hosts.get_mut(host)
            && live.report.is_none()
        {
            live.report = Some(brief);
        }
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
            beat: live.beat.clone()?,
            binding_serial: live.binding_serial,
            target: live.target.clone(),
            present: live.present(),
            held: live.held(),
            refusals: live.refusals.clone(),
            done: live.done.clone(),
        })
    }

    /// Whether what a host says of an operation is within its limit.
    pub fn admits_op_words(&self, host: &HostId, now_ms: u64) -> bool {
        self.lock().hosts.get_mut(host).is_none_or(|l| l.op_words.admits(limits::OP_WORDS_PER_MINUTE, now_ms))
    }

    /// Whether a receipt for an order that nobody here knows is within its host's limit.
    pub fn admits_unknown_receipt(&self, host: &HostId, now_ms: u64) -> bool {
        self.lock().hosts.get_mut(host).is_none_or(|l| l.unknown_receipts.admits(limits::RECEIPTS_UNKNOWN_PER_MINUTE, now_ms))
    }

    /// The newest journal record that a host's heartbeats named.
    #[must_use]
    pub fn witness(&self, host: &HostId) -> Witness {
        self.lock().hosts.get(host).map(|l| l.witness.clone()).unwrap_or_default()
    }

    /// The way to a host that has sent a heartbeat in its session.
    #[must_use]
    pub fn way(&self, host: &HostId) -> Option<Way> {
        let inner = self.lock();
        let session = inner.hosts.get(host)?.session.as_ref().filter(|s| s.beat_seen && !s.cut.is_cancelled())?;
        Some(Way {
            session: session.id,
            tx: session.tx.clone(),
            cut: session.cut.clone(),
            epoch: session.epoch.clone(),
            delivery: session.delivery.clone(),
        })
    }

    /// Hosts for which there is something about operations at which nobody is.
    #[must_use]
    pub fn waiting_for_ops(&self) -> Vec<HostId> {
        let inner = self.lock();
        let is_waiting = |l: &Live| l.session.as_ref().is_some_and(|s| s.beat_seen && s.delivery.is_waiting());
        inner.hosts.iter().filter(|(_, l)| is_waiting(l)).map(|(id, _)| id.clone()).collect()
    }

    /// The version of the trust root by which a host judges orders; `None` while it lacks roots or a binding that it may get.
    #[must_use]
    pub fn judges_orders_by(&self, host: &HostId, session: u64) -> Option<u64> {
        let inner = self.lock();
        let live = inner.hosts.get(host)?;
        live.session.as_ref().filter(|s| s.id == session && s.beat_seen)?;
        let beat = live.beat.as_ref()?;
        let has_roots = beat.root_version >= inner.root_version || live.refusals.contains_key(&RefusedKind::Root);
        let has_binding = beat.binding_serial >= live.binding_serial || live.refusals.contains_key(&RefusedKind::Binding);
        (beat.ready && has_roots && has_binding).then_some(beat.root_version)
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

    /// Forgets a host, and ends its session.
    pub fn forget(&self, host: &HostId) {
        let mut inner = self.lock();
        inner.unkept.remove(host);
        if let Some(session) = inner.hosts.remove(host).and_then(|l| l.session) {
            session.cut.cancel();
        }
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
            held: live.report.as_ref().map(|r| r.held.clone()).unwrap_or_default(),
            witness: live.witness.clone(),
            pulls: live.pulls.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_pulls_is_shown_while_its_session_is_open_and_no_longer() {
        let (fleet, host) = (Fleet::default(), HostId::of_key(&[1; 32]));
        let epoch = || HostEpoch::parse("0".repeat(32)).unwrap();
        let (tx, _rx) = mpsc::channel(1);
        let hold = fleet.open(&host, epoch(), tx.clone(), 0, 0);
        let pulling = |image: &str| vec![Pulling { image: image.to_owned(), ..Pulling::default() }];
        fleet.set_pulls(&host, pulling("a"));
        fleet.set_pulls(&host, pulling("b"));
        assert_eq!(fleet.view(&host).pulls, pulling("b"), "the newest counts");
        let next = fleet.open(&host, epoch(), tx, 0, 0);
        assert_eq!(fleet.view(&host).pulls, []);
        fleet.set_pulls(&host, pulling("c"));
        assert!(!fleet.close(&host, hold.id) && fleet.view(&host).pulls == pulling("c"), "an older session's end is no matter");
        assert!(fleet.close(&host, next.id) && fleet.view(&host).pulls.is_empty());
        assert!(!fleet.has_unkept(), "nothing of it is kept");
    }

    #[test]
    fn of_what_a_talkative_host_says_only_the_newest_is_kept_once_in_a_while() {
        let (fleet, host, second) = (Fleet::default(), HostId::of_key(&[1; 32]), Duration::from_secs(1));
        let (tx, _rx) = mpsc::channel(1);
        let _hold = fleet.open(&host, HostEpoch::parse("0".repeat(32)).unwrap(), tx, 0, 0);
        let say = |n: u64| fleet.keep(&host, Unkept { beat: Some((Vec::new(), n)), ..Unkept::default() });
        let ask = |now_ms| fleet.unkept(9, second, now_ms).into_iter().map(|(_, said)| said.beat.map(|b| b.1)).collect::<Vec<_>>();
        say(1);
        assert_eq!(ask(5_000), [Some(1)], "the first word at once");
        say(2);
        fleet.kept(&host);
        say(3);
        assert_eq!(ask(5_999), []);
        assert!(fleet.has_unkept());
        assert_eq!(ask(6_000), [Some(3)]);
        fleet.kept(&host);
        assert!(!fleet.has_unkept());
        assert_eq!(ask(9_000), []);
    }
}
