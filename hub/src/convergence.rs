//! The driver of convergence: one task that asks the pure core what to do for each host, and does it.
//!
//! It is woken by heartbeats, refusals, new targets and its own timers. Wakes for one host coalesce;
//! the task drains all that are due, acts, and writes the events of one round together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moorline_common::convergence::{Decision, History, PUSH_BACKOFF, decide, is_definite};
use moorline_common::fault::Code;
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::sign::Envelope;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, NewEvent};
use crate::fleet::{self, Outgoing, Snapshot};
use crate::hub::Hub;
use crate::limits;
use crate::store::{RefusedKind, Result, TargetRecord};

/// Wakes the driver. Clones share it.
#[derive(Clone, Default)]
pub struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// At most one entry per host.
    due: Mutex<BTreeSet<HostId>>,
    notify: Notify,
}

impl Handle {
    /// Lets the driver look at a host soon.
    pub fn wake(&self, host: HostId) {
        self.0.due.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
        self.0.notify.notify_one();
    }

    fn take(&self) -> BTreeSet<HostId> {
        std::mem::take(&mut self.0.due.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The driver.
pub struct Service {
    hub: Hub,
    /// Per connected host; dropped with its session.
    drives: BTreeMap<HostId, Drive>,
    /// When to look at which host again, by the monotonic clock.
    timers: BTreeSet<(u64, HostId)>,
}

/// What the driver remembers of one session of a host.
struct Drive {
    session: u64,
    /// The payload that `history` is about.
    payload: String,
    history: History,
    /// Spreads the waits; kept for as long as `history` stays the same.
    random: u64,
    /// Of sending trust: the versions of the newest root here and there, the serials of the binding here and there.
    trust: Attempts<[u64; 4]>,
    /// Of asking what it holds: root version, binding serial and generation there.
    held: Attempts<[u64; 3]>,
    timer: Option<u64>,
    /// Since when the host is as wanted.
    calm_since_ms: Option<u64>,
}

/// Tries of one thing that is sent again with growing waits.
#[derive(Default)]
struct Attempts<About> {
    about: About,
    count: u32,
    last_ms: u64,
    random: u64,
}

impl<About: Default + PartialEq> Attempts<About> {
    /// Whether a try is due now; otherwise when. A new subject starts afresh.
    fn due(&mut self, about: About, now_ms: u64) -> std::result::Result<(), u64> {
        if self.about != about {
            *self = Self { about, ..Self::default() };
        }
        let earliest = after(self.last_ms, PUSH_BACKOFF.wait(self.count, self.random));
        if self.count > 0 && now_ms < earliest {
            return Err(earliest);
        }
        self.count = self.count.saturating_add(1);
        self.last_ms = now_ms;
        self.random = random();
        Ok(())
    }
}

/// What one round wants to write.
#[derive(Default)]
struct Round {
    events: Vec<NewEvent>,
    applied: Vec<(HostId, TopologyId, Generation, NewEvent)>,
}

impl Service {
    /// The driver of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub, drives: BTreeMap::new(), timers: BTreeSet::new() }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let handle = self.hub.convergence.clone();
        let mut sweep = tokio::time::interval(limits::SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = self.hub.clock.monotonic_ms();
            let next = self.timers.first().map(|(at, _)| Duration::from_millis(at.saturating_sub(now)));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = handle.0.notify.notified() => {}
                () = sleep_until_due(next) => {}
                _ = sweep.tick() => self.cut_silent(),
            }
            let mut due = handle.take();
            let now = self.hub.clock.monotonic_ms();
            while self.timers.first().is_some_and(|(at, _)| *at <= now) {
                due.extend(self.timers.pop_first().map(|(_, host)| host));
            }
            self.round(due).await;
        }
    }

    fn cut_silent(&self) {
        let interval = Duration::from_millis(u64::from(self.hub.heartbeat_interval_ms));
        let silence = (interval * limits::SILENT_INTERVALS).max(limits::SILENT_MIN);
        self.hub.fleet.cut_silent(silence, self.hub.clock.monotonic_ms());
    }

    async fn round(&mut self, due: BTreeSet<HostId>) {
        let mut round = Round::default();
        for host in due {
            let Some(snapshot) = self.hub.fleet.snapshot(&host) else {
                self.forget(&host);
                continue;
            };
            match self.look(&host, &snapshot, &mut round).await {
                Ok(wake) => self.set_timer(&host, wake),
                Err(error) => {
                    tracing::error!(%error, host = snapshot.name, "convergence cannot go on for this host; it is tried again");
                    self.set_timer(&host, Some(after(self.hub.clock.monotonic_ms(), limits::STORE_RETRY)));
                }
            }
        }
        self.write(round).await;
        // Whatever was worth a look here may be news of a rollout.
        self.hub.rollouts.wake();
    }

    fn forget(&mut self, host: &HostId) {
        if let Some(at) = self.drives.remove(host).and_then(|d| d.timer) {
            self.timers.remove(&(at, host.clone()));
        }
    }

    fn set_timer(&mut self, host: &HostId, wake: Option<u64>) {
        let Some(drive) = self.drives.get_mut(host) else { return };
        if let Some(old) = std::mem::replace(&mut drive.timer, wake) {
            self.timers.remove(&(old, host.clone()));
        }
        if let Some(at) = wake {
            self.timers.insert((at, host.clone()));
        }
    }

    /// Looks at one host; gives back when to look again.
    async fn look(&mut self, host: &HostId, snapshot: &Snapshot, round: &mut Round) -> Result<Option<u64>> {
        let now = self.hub.clock.monotonic_ms();
        let payload = snapshot.target.as_ref().map_or("", |t| t.payload_sha256.as_str());
        let fresh = self.drives.get(host).is_none_or(|d| d.session != snapshot.session);
        if fresh {
            self.forget(host);
        }
        let drive = self.drives.entry(host.clone()).or_insert_with(|| Drive::new(snapshot.session, payload));
        if drive.payload != payload {
            payload.clone_into(&mut drive.payload);
            drive.history = History::default();
        }
        drive.history.refusal = snapshot.refusals.get(&RefusedKind::Slice).filter(|r| r.payload_sha256 == payload).map(|r| r.fault.code);
        if is_behind(&self.hub, snapshot).await? {
            return Ok(ask_held(&self.hub, host, snapshot, drive, now));
        }
        let trust = send_trust(&self.hub, host, snapshot, drive, now).await?;
        let Some(target) = &snapshot.target else { return Ok(trust) };
        let reported = fleet::reported(&snapshot.beat, snapshot.present.clone(), snapshot.held.clone());
        if moorline_common::convergence::mismatch(&fleet::target(target), &reported).is_some() {
            drive.stir(now);
        }
        let slice = match decide(&fleet::target(target), &reported, &drive.history, now, drive.random) {
            Decision::Converged => {
                drive.rest(now);
                if snapshot.done.as_ref() != Some(&(target.topology.clone(), target.generation)) {
                    round.applied.push(applied(host, snapshot, target));
                }
                None
            }
            Decision::Push(reason) => push(&self.hub, host, snapshot, target, drive, reason, now, round).await?,
            Decision::Wait(until) => Some(until),
            Decision::Adopt => ask_held(&self.hub, host, snapshot, drive, now),
            Decision::Alarm(_) => None,
        };
        Ok([trust, slice].into_iter().flatten().min())
    }

    async fn write(&self, round: Round) {
        if !round.events.is_empty()
            && let Err(error) = self.hub.store.record(round.events).await
        {
            tracing::error!(%error, "events could not be recorded");
        }
        if round.applied.is_empty() {
            return;
        }
        let done: Vec<_> = round.applied.iter().map(|(h, t, g, _)| (h.clone(), t.clone(), *g)).collect();
        let retargeted = match self.hub.store.applied(round.applied).await {
            Ok(retargeted) => retargeted,
            Err(error) => {
                tracing::error!(%error, "the store could not record what was applied; the next heartbeat tries again");
                return;
            }
        };
        for (host, topology, generation) in done {
            self.hub.fleet.set_done(&host, &topology, generation);
        }
        if let Err(error) = self.hub.retarget(retargeted).await {
            tracing::error!(%error, "new targets could not be read");
        }
    }
}

impl Drive {
    fn new(session: u64, payload: &str) -> Self {
        Self {
            session,
            payload: payload.to_owned(),
            history: History::default(),
            random: random(),
            trust: Attempts::default(),
            held: Attempts::default(),
            timer: None,
            calm_since_ms: None,
        }
    }

    /// The host is as wanted. The waits between pushes stay as long as they have grown until it was so for a
    /// while: one that wavers is not sent its slice each time.
    fn rest(&mut self, now_ms: u64) {
        self.calm_since_ms.get_or_insert(now_ms);
        self.history.mismatch_since_ms = None;
    }

    /// The host is not as wanted.
    fn stir(&mut self, now_ms: u64) {
        let calm = self.calm_since_ms.take().map_or(0, |since| now_ms.saturating_sub(since));
        if u128::from(calm) >= limits::CALM.as_millis() {
            self.history = History { refusal: self.history.refusal, ..History::default() };
        }
        self.history.mismatch_since_ms.get_or_insert(now_ms);
    }
}

async fn sleep_until_due(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// The moment `wait` after `now_ms`.
fn after(now_ms: u64, wait: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness waits are merely not spread.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Whether the host holds something signed that this hub lacks: the hub was restored from a backup.
async fn is_behind(hub: &Hub, snapshot: &Snapshot) -> Result<bool> {
    let beat = &snapshot.beat;
    if beat.root_version > hub.fleet.root_version() || beat.binding_serial > snapshot.binding_serial {
        return Ok(true);
    }
    let Some(topology) = &beat.topology else { return Ok(false) };
    let target = snapshot.target.as_ref();
    if target.is_some_and(|t| t.topology == *topology) {
        // Behind or not within one topology is the core's to decide.
        return Ok(false);
    }
    let newest = hub.store.revisions(topology.clone(), 1).await?;
    Ok(newest.first().is_none_or(|r| r.generation < beat.generation))
}

fn ask_held(hub: &Hub, host: &HostId, snapshot: &Snapshot, drive: &mut Drive, now: u64) -> Option<u64> {
    let about = [snapshot.beat.root_version, snapshot.beat.binding_serial, snapshot.beat.generation.0];
    match drive.held.due(about, now) {
        Ok(()) => {
            let _ = hub.fleet.send(host, snapshot.session, Outgoing::QueryHeld);
            Some(after(now, limits::SENT_RETRY))
        }
        Err(at) => Some(at),
    }
}

/// Sends the trust roots and the binding that the host lacks.
async fn send_trust(hub: &Hub, host: &HostId, snapshot: &Snapshot, drive: &mut Drive, now: u64) -> Result<Option<u64>> {
    let (roots_behind, binding_behind) =
        (snapshot.beat.root_version < hub.fleet.root_version(), snapshot.beat.binding_serial < snapshot.binding_serial);
    if !roots_behind && !binding_behind {
        return Ok(None);
    }
    let about = [hub.fleet.root_version(), snapshot.beat.root_version, snapshot.binding_serial, snapshot.beat.binding_serial];
    if let Err(at) = drive.trust.due(about, now) {
        return Ok(Some(at));
    }
    let refused = |kind, json: &[u8]| {
        let payload = Envelope::from_json(json).map(|e| e.payload_sha256()).unwrap_or_default();
        snapshot.refusals.get(&kind).is_some_and(|r| r.payload_sha256 == payload && is_definite(r.fault.code))
    };
    if roots_behind {
        let have = usize::try_from(snapshot.beat.root_version).unwrap_or(usize::MAX);
        for json in hub.store.roots().await?.into_iter().skip(have) {
            if refused(RefusedKind::Root, &json) || !hub.fleet.send(host, snapshot.session, Outgoing::Root(json)) {
                break;
            }
        }
    }
    if binding_behind
        && let Some(json) = hub.store.host(host.clone()).await?.and_then(|h| h.binding)
        && !refused(RefusedKind::Binding, &json)
    {
        let _ = hub.fleet.send(host, snapshot.session, Outgoing::Binding(json));
    }
    Ok(Some(after(now, limits::SENT_RETRY)))
}

fn applied(host: &HostId, snapshot: &Snapshot, target: &TargetRecord) -> (HostId, TopologyId, Generation, NewEvent) {
    let words = if target.empty { "torn down" } else { "applied" };
    let event = NewEvent::hub(Kind::Applied, format!("{words}: {}", target.version_hash.short()))
        .host(&snapshot.name)
        .revision(&target.topology, target.generation)
        .body(&target.payload_sha256);
    (host.clone(), target.topology.clone(), target.generation, event)
}

#[allow(clippy::too_many_arguments, reason = "one call site; the arguments are one round's state")]
async fn push(
    hub: &Hub,
    host: &HostId,
    snapshot: &Snapshot,
    target: &TargetRecord,
    drive: &mut Drive,
    reason: &str,
    now: u64,
    round: &mut Round,
) -> Result<Option<u64>> {
    let Some(json) = hub.store.slice(target.topology.clone(), target.generation, host.clone()).await? else {
        tracing::error!(host = snapshot.name, topology = %target.topology, "the store has no slice for its own target");
        return Ok(None);
    };
    if !hub.fleet.send(host, snapshot.session, Outgoing::Slice(json)) {
        // The session's queue is full or it is ending: look again when it has drained.
        return Ok(Some(after(now, limits::SENT_RETRY)));
    }
    drive.history.pushes = drive.history.pushes.saturating_add(1);
    drive.history.last_push_ms = Some(now);
    drive.random = random();
    let pushes = drive.history.pushes;
    tracing::info!(host = snapshot.name, topology = %target.topology, generation = target.generation.0, pushes, reason, "slice sent");
    // A host that never gets there is told of ever more rarely.
    if pushes.is_power_of_two() {
        let event = NewEvent::hub(Kind::SliceSent, format!("sent because: {reason} (try {pushes})"))
            .host(&snapshot.name)
            .revision(&target.topology, target.generation)
            .body(&target.payload_sha256);
        let unreachable = snapshot.beat.engine == moorline_common::observe::EngineState::Unreachable;
        let event = if unreachable { event.code(Code::EngineUnreachable) } else { event };
        round.events.extend(hub.within_limit(host, event));
    }
    Ok(Some(after(now, PUSH_BACKOFF.wait(pushes, drive.random))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_wavers_is_pushed_to_with_growing_waits() {
        let mut drive = Drive::new(1, "payload");
        for second in 0..5 {
            drive.stir(second * 1000);
            drive.history.pushes += 1;
            drive.history.last_push_ms = Some(second * 1000);
            drive.rest(second * 1000 + 500);
        }
        drive.stir(5_000);
        assert_eq!((drive.history.pushes, drive.history.mismatch_since_ms), (5, Some(5_000)));
    }

    #[test]
    fn a_host_that_was_calm_for_long_starts_afresh() {
        let mut drive = Drive::new(1, "payload");
        drive.history = History { pushes: 5, last_push_ms: Some(1), refusal: Some(Code::PolicyDenied), mismatch_since_ms: Some(1) };
        drive.rest(1_000);
        drive.rest(200_000);
        drive.stir(301_000);
        let fresh = History { refusal: Some(Code::PolicyDenied), mismatch_since_ms: Some(301_000), ..History::default() };
        assert_eq!(drive.history, fresh);
        drive.stir(302_000);
        assert_eq!(drive.history, fresh, "still the same mismatch");
    }
}
