//! The driver of rollouts: one task that looks at what hosts say, asks the pure core whom to release and what to stop,
//! and has the store make it so.
//!
//! It is woken with the convergence driver, by changes of rollouts, and by its own timer. It remembers nothing that the
//! store does not have but since when hosts are away or released: the time in which the hub is down counts for neither,
//! as no host can say anything then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moorline_common::fallback::HEALTHY_FOR_DEFAULT;
use moorline_common::fault::{Code, cut};
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::rollout::{OnFailure, Sight, Standing, State, Step};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::events::{Kind, NewEvent};
use crate::fleet::Said;
use crate::hub::Hub;
use crate::limits;
use crate::store::{Result, RolloutChange, RolloutHost, RolloutRecord};

/// Wakes the driver. Clones share it.
#[derive(Clone, Default)]
pub struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    changed: AtomicBool,
    notify: Notify,
}

impl Handle {
    /// Lets the driver look at what hosts say.
    pub fn wake(&self) {
        self.0.notify.notify_one();
    }

    /// The store has other rollouts, or other hosts in them, than the driver knows of.
    pub fn changed(&self) {
        self.0.changed.store(true, Ordering::Release);
        self.wake();
    }
}

/// The driver.
pub struct Service {
    hub: Hub,
    open: BTreeMap<(TopologyId, Generation), Open>,
}

/// A rollout in which something can still happen.
struct Open {
    record: RolloutRecord,
    /// Since when hosts are away, by the monotonic clock.
    away: BTreeMap<HostId, u64>,
    /// Since when hosts have it, by the monotonic clock.
    released: BTreeMap<HostId, u64>,
    /// Since when hosts that have it say that they are healthy and nothing is wrong, by the monotonic clock.
    healthy: BTreeMap<HostId, u64>,
}

impl Service {
    /// The driver of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub, open: BTreeMap::new() }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let handle = self.hub.rollouts.clone();
        handle.changed();
        let mut look_in = None;
        loop {
            let pause = look_in.map_or(limits::ROLLOUT_LOOK_MAX, |ms| Duration::from_millis(ms).min(limits::ROLLOUT_LOOK_MAX));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = handle.0.notify.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            look_in = match self.round().await {
                Ok(look_in) => look_in,
                Err(error) => {
                    tracing::error!(%error, "rollouts cannot go on; it is tried again");
                    handle.0.changed.store(true, Ordering::Release);
                    Some(u64::try_from(limits::STORE_RETRY.as_millis()).unwrap_or(u64::MAX))
                }
            };
            // Heartbeats come in crowds: one look serves many.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(limits::ROLLOUT_LOOK_MIN) => {}
            }
        }
    }

    /// Looks at every open rollout; gives back in how many milliseconds to look again.
    async fn round(&mut self) -> Result<Option<u64>> {
        if self.hub.rollouts.0.changed.swap(false, Ordering::AcqRel) {
            self.load().await?;
        }
        let mut look_in = None;
        for open in self.open.values_mut() {
            let next = open.look(&self.hub).await?;
            look_in = [look_in, next].into_iter().flatten().min();
        }
        Ok(look_in)
    }

    /// Takes over what the store has; what is remembered of hosts stays.
    async fn load(&mut self) -> Result<()> {
        let records = self.hub.store.open_rollouts().await?;
        // Also after a failure between a release and the fleet's word of it: what was given is given.
        let given = records.iter().flat_map(|r| &r.hosts).filter(|h| h.standing == Standing::Released).map(|h| h.host_id.clone());
        self.hub.retarget(given.collect()).await?;
        let mut known = std::mem::take(&mut self.open);
        for record in records {
            let key = (record.topology.clone(), record.generation);
            let open = match known.remove(&key) {
                Some(open) => Open { record, ..open },
                None => Open { record, away: BTreeMap::new(), released: BTreeMap::new(), healthy: BTreeMap::new() },
            };
            self.open.insert(key, open);
        }
        Ok(())
    }
}

impl Open {
    /// Looks at the hosts once, and does what follows; gives back in how many milliseconds to look again.
    async fn look(&mut self, hub: &Hub) -> Result<Option<u64>> {
        let hosts = self.record.hosts.iter().map(|h| &h.host_id);
        let said = hub.fleet.said(hosts, &self.record.topology, self.record.generation);
        let (sights, until_healthy) = self.sights(&said, hub.clock.monotonic_ms());
        let step = self.record.core().step(&sights);
        let look_in_ms = [step.look_in_ms, until_healthy].into_iter().flatten().min();
        if step.moved.is_empty() && (step.state, step.forgiven) == (self.record.state, self.record.forgiven) {
            return Ok(look_in_ms);
        }
        let moved = self.moved(hub, &step, &said);
        let reason = (step.state != self.record.state).then(|| self.reason(&step));
        let change = RolloutChange {
            topology: self.record.topology.clone(),
            generation: self.record.generation,
            seen: (self.record.state, self.record.forgiven),
            state: step.state,
            reason: reason.clone(),
            forgiven: step.forgiven,
            moved: moved.clone(),
        };
        let events = self.events(&step, &moved, reason.as_deref());
        if !hub.store.change_rollout(change, events).await? {
            // An operator was faster: what the store has counts.
            hub.rollouts.changed();
            return Ok(None);
        }
        let given = self.take(&step, moved, hub.clock.monotonic_ms());
        let (topology, generation) = (&self.record.topology, self.record.generation.0);
        tracing::info!(%topology, generation, state = step.state.as_str(), released = given.len(), "rollout goes on");
        hub.retarget(given).await?;
        Ok(look_in_ms)
    }

    /// How much longer than by its own word a host has to be healthy, in milliseconds: without a fallback it goes by
    /// [`HEALTHY_FOR_DEFAULT`], as its slice does not name the plan's time.
    fn more_ms(&self) -> u64 {
        let wanted = Duration::from_secs(self.record.plan.healthy_for_s);
        match self.record.plan.on_failure {
            OnFailure::Rollback => 0,
            OnFailure::Pause => u64::try_from(wanted.saturating_sub(HEALTHY_FOR_DEFAULT).as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// What is seen of each host, with since when; and in how many milliseconds one that is healthy is so for long enough.
    fn sights(&mut self, said: &[Said], now_ms: u64) -> (BTreeMap<HostId, Sight>, Option<u64>) {
        let more_ms = self.more_ms();
        let mut sights = BTreeMap::new();
        let (mut away, mut released, mut healthy) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut until_healthy = None;
        for (host, said) in self.record.hosts.iter().zip(said) {
            let id = &host.host_id;
            let since = |kept: &BTreeMap<HostId, u64>| kept.get(id).copied().unwrap_or(now_ms);
            // What is not to have it is not waited for, as if it were away.
            let is_there = said.connected && (!said.is_cordoned || !host.standing.waits());
            let mut sight = Sight {
                connected: is_there,
                accepted: said.accepted,
                healthy: said.healthy && more_ms == 0,
                rolled_back: said.rolled_back,
                refused: said.refused.is_some(),
                ..Sight::default()
            };
            if !is_there {
                let at = since(&self.away);
                sight.away_ms = now_ms.saturating_sub(at);
                away.insert(id.clone(), at);
            }
            if host.standing == Standing::Released {
                // Its time begins when it may have it: when its window opens, or its cordon is lifted.
                let at = if said.is_kept_out { now_ms } else { since(&self.released) };
                sight.released_ms = now_ms.saturating_sub(at);
                released.insert(id.clone(), at);
            }
            if more_ms > 0 && said.healthy && said.well {
                let at = self.healthy.get(id).copied().unwrap_or(now_ms);
                let left = more_ms.saturating_sub(now_ms.saturating_sub(at));
                sight.healthy = left == 0;
                until_healthy = [until_healthy, (left > 0).then_some(left)].into_iter().flatten().min();
                healthy.insert(id.clone(), at);
            }
            sights.insert(id.clone(), sight);
        }
        (self.away, self.released, self.healthy) = (away, released, healthy);
        (sights, until_healthy)
    }

    /// The hosts that stand elsewhere now, and why.
    fn moved(&self, hub: &Hub, step: &Step, said: &[Said]) -> Vec<(HostId, Standing, String)> {
        let why = |host: &RolloutHost, said: &Said, standing: Standing| match standing {
            Standing::Offline if said.is_cordoned => "cordoned".to_owned(),
            Standing::Pending | Standing::Offline | Standing::Released | Standing::Healthy => String::new(),
            Standing::RolledBack => {
                let why = hub.fleet.why_back(&host.host_id, self.record.generation);
                why.unwrap_or_else(|| "went back to what it had before".to_owned())
            }
            Standing::Failed => match &said.refused {
                Some(fault) => format!("refused it: {fault}"),
                None => self.late(hub, host, said),
            },
        };
        let hosts = self.record.hosts.iter().zip(said);
        let moved = hosts.filter_map(|(host, said)| step.moved.get(&host.host_id).map(|standing| (host, said, *standing)));
        moved.map(|(host, said, standing)| (host.host_id.clone(), standing, cut(&why(host, said, standing)))).collect()
    }

    /// Why a host is too late.
    fn late(&self, hub: &Hub, host: &RolloutHost, said: &Said) -> String {
        let within = self.record.plan.deadline_s;
        let state = match (said.connected, said.accepted) {
            (false, _) => "it is away".to_owned(),
            (true, false) => "it has not accepted it".to_owned(),
            (true, true) => hub.fleet.trouble(&host.host_id).unwrap_or_else(|| "what runs is not healthy".to_owned()),
        };
        format!("not healthy within {within} s: {state}")
    }

    fn names(&self, is: impl Fn(&RolloutHost) -> bool) -> Vec<&str> {
        self.record.hosts.iter().filter(|h| is(h)).map(|h| h.name.as_str()).collect()
    }

    /// Where a host stands after `step`.
    fn standing(step: &Step, host: &RolloutHost) -> Standing {
        step.moved.get(&host.host_id).copied().unwrap_or(host.standing)
    }

    /// Why the rollout is what it becomes.
    fn reason(&self, step: &Step) -> String {
        let total = self.record.core().total();
        let failed = self.names(|h| Self::standing(step, h).failed());
        match step.state {
            State::Failed | State::Paused => {
                let budget = self.record.plan.failure_budget.at_most(total);
                format!("{} of {total} hosts failed, and {budget} may: {}", failed.len(), listed(&failed))
            }
            State::Completed => {
                let healthy = self.names(|h| Self::standing(step, h) == Standing::Healthy).len();
                let away = self.names(|h| Self::standing(step, h) == Standing::Offline).len();
                let away = if away == 0 { String::new() } else { format!(", {away} away until they come") };
                format!("{healthy} of {total} hosts healthy, {} failed{away}", failed.len())
            }
            State::Running | State::Aborted | State::Superseded => String::new(),
        }
    }

    /// What is recorded of it.
    fn events(&self, step: &Step, moved: &[(HostId, Standing, String)], reason: Option<&str>) -> Vec<NewEvent> {
        let of_it = |event: NewEvent| event.revision(&self.record.topology, self.record.generation);
        let mut events = Vec::new();
        let names: BTreeMap<&HostId, &str> = self.record.hosts.iter().map(|h| (&h.host_id, h.name.as_str())).collect();
        let name = |host: &HostId| names.get(host).copied().unwrap_or_default();
        let given: Vec<&str> = moved.iter().filter(|(_, s, _)| *s == Standing::Released).map(|(h, ..)| name(h)).collect();
        if !given.is_empty() {
            events.push(of_it(NewEvent::hub(Kind::RolloutReleased, format!("released to {} hosts: {}", given.len(), listed(&given)))));
        }
        for (host, standing, why) in moved.iter().filter(|(_, standing, _)| standing.failed()) {
            let code = if *standing == Standing::RolledBack { Code::RolledBack } else { Code::RolloutFailed };
            events.push(of_it(NewEvent::hub(Kind::RolloutHostFailed, why.clone()).host(name(host)).code(code)));
        }
        let reason = reason.unwrap_or_default();
        let alarm = |kind, then: &str| of_it(NewEvent::hub(kind, format!("ALARM: {reason}; {then}")).code(Code::RolloutFailed));
        match step.state {
            state if state == self.record.state => {}
            State::Failed => events.push(alarm(Kind::RolloutFailed, "no other host gets this revision")),
            State::Paused => events.push(alarm(Kind::RolloutPaused, "no other host gets it before it is resumed")),
            State::Completed => events.push(of_it(NewEvent::hub(Kind::RolloutCompleted, reason))),
            State::Running | State::Aborted | State::Superseded => {}
        }
        events
    }

    /// Takes over what the store has now; gives back the hosts that were given their slices.
    fn take(&mut self, step: &Step, moved: Vec<(HostId, Standing, String)>, now_ms: u64) -> Vec<HostId> {
        (self.record.state, self.record.forgiven) = (step.state, step.forgiven);
        let mut given = Vec::new();
        let mut moved: BTreeMap<HostId, (Standing, String)> = moved.into_iter().map(|(h, s, w)| (h, (s, w))).collect();
        for host in &mut self.record.hosts {
            let Some((standing, why)) = moved.remove(&host.host_id) else { continue };
            if host.standing.waits() && !standing.waits() {
                given.push(host.host_id.clone());
                self.released.insert(host.host_id.clone(), now_ms);
            }
            (host.standing, host.reason) = (standing, why);
        }
        given
    }
}

/// The first names, and how many more there are.
fn listed(names: &[&str]) -> String {
    let shown: Vec<&str> = names.iter().copied().take(limits::NAMES_SHOWN).collect();
    let more = names.len().saturating_sub(shown.len());
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
