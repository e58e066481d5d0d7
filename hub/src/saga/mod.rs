//! Sagas under way: each is run by one task of one hub, as the core says.
//!
//! ```text
//! claim ──► read ──► what is next? ──► intent stored, with the orders for hosts ──► done or sent
//!             ▲                                                                        │
//!             └──────────────── outcome stored ◄── receipt, own work, word, time ◄─────┘
//! ```
//!
//! Nothing is remembered that the store does not have. A claim ends by itself when its runner gives no sign of life; every
//! write names the claim that it was decided under, so that a runner that was taken for dead changes nothing any more.
//!
//! | module | what it does |
//! |---|---|
//! | `run` | one saga, from its claim to its end |
//! | `host` | what a host's word on an order means for its step |
//! | `act` | what the hub does itself |
//! | `cloud` | what it does in clouds |
//! | `leftovers` | what sagas that are over made there and do not have |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::SagaId;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hub::Hub;
use crate::limits;
use crate::store::Result;

pub(crate) mod act;
mod cloud;
mod host;
pub(crate) mod leftovers;
mod run;

pub(crate) use run::news;

/// Wakes the runners, and tells those who follow sagas. Clones share it.
#[derive(Clone, Default)]
pub struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    started: Notify,
    /// By saga, the newest revision that was told of.
    followed: Mutex<BTreeMap<SagaId, watch::Sender<u64>>>,
    #[cfg(test)]
    deaths: Mutex<BTreeMap<SagaId, Death>>,
    #[cfg(test)]
    pace: std::sync::atomic::AtomicU32,
}

/// At which of its writes a runner dies.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Death {
    /// Counts from 0.
    pub write: u32,
    /// Whether the store still takes that one.
    pub is_written: bool,
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SagaId, watch::Sender<u64>>> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn started(&self) {
        self.0.started.notified().await;
    }

    /// There is a saga that nobody runs.
    pub fn wake(&self) {
        self.0.started.notify_one();
    }

    /// How much faster than the real one its cloud is.
    #[cfg(test)]
    pub(crate) fn set_pace(&self, pace: u32) {
        self.0.pace.store(pace, std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(test)]
    fn pace(&self) -> u32 {
        self.0.pace.load(std::sync::atomic::Ordering::Relaxed).max(1)
    }

    /// Lets a saga's runner die at one of its writes.
    #[cfg(test)]
    pub(crate) fn dies(&self, saga_id: &SagaId, death: Death) {
        self.0.deaths.lock().unwrap_or_else(PoisonError::into_inner).insert(saga_id.clone(), death);
    }

    /// A write of a saga's runner begins: gives back whether it still happens, if the runner dies by it.
    #[cfg(test)]
    fn death(&self, saga_id: &SagaId) -> Option<bool> {
        let mut deaths = self.0.deaths.lock().unwrap_or_else(PoisonError::into_inner);
        let death = deaths.get_mut(saga_id)?;
        if death.write > 0 {
            death.write -= 1;
            return None;
        }
        deaths.remove(saga_id).map(|death| death.is_written)
    }

    /// A saga has this revision now.
    pub fn changed(&self, saga_id: &SagaId, revision: u64) {
        if let Some(changes) = self.lock().get(saga_id) {
            changes.send_if_modified(|newest| {
                let is_newer = revision > *newest;
                *newest = revision.max(*newest);
                is_newer
            });
        }
    }

    /// Follows a saga from now on, until what is given back is dropped.
    ///
    /// # Errors
    /// [`Code::Busy`] when too many sagas are followed.
    pub fn follow(&self, saga_id: &SagaId) -> std::result::Result<watch::Receiver<u64>, Fault> {
        let mut followed = self.lock();
        if followed.len() >= limits::SAGA_WATCHES_MAX + usize::try_from(limits::SAGAS_OPEN_MAX).unwrap_or(usize::MAX) {
            followed.retain(|_, changes| changes.receiver_count() > 0);
            if followed.len() >= limits::SAGA_WATCHES_MAX + usize::try_from(limits::SAGAS_OPEN_MAX).unwrap_or(usize::MAX) {
                return Err(Fault::new(Code::Busy, format!("{} sagas are followed already; try again later", followed.len())));
            }
        }
        let changes = followed.entry(saga_id.clone()).or_insert_with(|| watch::channel(0).0);
        let mut receiver = changes.subscribe();
        receiver.mark_unchanged();
        Ok(receiver)
    }
}

/// Runs the sagas that this hub has claimed.
pub struct Service {
    hub: Hub,
    /// Names this service among all that share the store.
    runner: String,
    running: TaskTracker,
}

impl Service {
    /// The one of `hub`.
    ///
    /// # Errors
    /// [`Code::Internal`] when the system has no randomness to name it by.
    pub fn new(hub: Hub) -> std::result::Result<Self, Fault> {
        let unnamed = |error| Fault::new(Code::Internal, format!("the system has no randomness: {error}"));
        let runner = format!("{:016x}{:016x}", getrandom::u64().map_err(unnamed)?, getrandom::u64().map_err(unnamed)?);
        Ok(Self { hub, runner, running: TaskTracker::new() })
    }

    /// Runs until `shutdown`; then each saga goes on with whoever claims it next.
    pub async fn run(self, shutdown: CancellationToken) {
        let handle = self.hub.sagas.clone();
        let mut renewal = tokio::time::interval(limits::SAGA_RENEWAL);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = handle.started() => {}
                _ = renewal.tick() => {
                    if let Err(error) = self.renew(limits::SAGA_LEASE).await {
                        tracing::error!(%error, "the claims on sagas could not be renewed; it is tried again");
                    }
                }
            }
            if let Err(error) = self.claim(&shutdown).await {
                tracing::error!(%error, "sagas could not be claimed; it is tried again");
            }
        }
        self.running.close();
        self.running.wait().await;
        // The next one need not wait.
        if let Err(error) = self.renew(std::time::Duration::ZERO).await {
            tracing::warn!(%error, "the claims on sagas end by themselves");
        }
    }

    fn until_ms(&self, lease: std::time::Duration) -> u64 {
        self.hub.clock.unix_ms().saturating_add(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX))
    }

    async fn renew(&self, lease: std::time::Duration) -> Result<()> {
        self.hub.store.renew_sagas(self.runner.clone(), self.until_ms(lease)).await
    }

    async fn claim(&self, shutdown: &CancellationToken) -> Result<()> {
        while self.hub.store.has_unclaimed_sagas(self.hub.clock.unix_ms()).await? {
            let until_ms = self.until_ms(limits::SAGA_LEASE);
            let claimed = self.hub.store.claim_sagas(self.runner.clone(), until_ms, limits::SAGAS_CLAIMED_BATCH).await?;
            if claimed.is_empty() {
                return Ok(());
            }
            for (saga_id, fence) in claimed {
                let one = run::Runner::new(self.hub.clone(), saga_id, fence);
                self.running.spawn(shutdown.clone().run_until_cancelled_owned(one.run()));
            }
        }
        Ok(())
    }
}
