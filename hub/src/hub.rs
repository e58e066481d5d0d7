//! What every part of a running hub shares.

use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ClusterId, HostId};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::TrustRoot;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::convergence;
use crate::events::NewEvent;
use crate::fleet::Fleet;
use crate::limits;
use crate::pki::Pki;
use crate::store::{self, Store};

/// The parts of a running hub. Clones share them.
#[derive(Clone)]
pub struct Hub(Arc<Parts>);

/// See [`Hub`].
pub struct Parts {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its memory.
    pub store: Arc<dyn Store>,
    /// Its certificate authority.
    pub pki: Pki,
    /// Its hosts as they are now.
    pub fleet: Fleet,
    /// Its clocks.
    pub clock: Clock,
    /// Wakes the convergence driver.
    pub convergence: convergence::Handle,
    /// Addresses to hand out.
    pub advertise: Vec<String>,
    /// Milliseconds between two heartbeats.
    pub heartbeat_interval_ms: u32,
    /// Ends sessions and streams when the hub stops.
    pub stopping: CancellationToken,
    /// Bounds joins under way.
    pub joins: Semaphore,
    /// Bounds the events that refused joins write.
    pub join_refusals: RateLimit,
}

impl std::ops::Deref for Hub {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Hub {
    /// Puts the parts together and fills the fleet from the store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn start(parts: Parts) -> store::Result<Self> {
        let hub = Self(Arc::new(parts));
        for record in hub.store.hosts().await? {
            hub.fleet.load(&record);
        }
        for (host, target) in hub.store.targets(Vec::new()).await? {
            hub.fleet.set_target(&host, Some(target));
        }
        let newest = hub.store.roots().await?.len();
        hub.fleet.set_root_version(u64::try_from(newest).unwrap_or(u64::MAX));
        for (host, refusal) in hub.store.refusals().await? {
            hub.fleet.set_refusal(&host, &refusal);
        }
        // Refusals of payloads that are no longer the target are past.
        for (host, target) in hub.store.targets(Vec::new()).await? {
            hub.fleet.set_target(&host, Some(target));
        }
        Ok(hub)
    }

    /// The newest trust root, as far as the hub can tell: its own store is not an authority.
    ///
    /// # Errors
    /// [`Code::NoTrustRoot`] without one; [`Code::Internal`] when the store fails.
    pub async fn newest_root(&self) -> Result<TrustRoot, Fault> {
        let roots = self.store.roots().await.map_err(store::StoreError::into_fault)?;
        let Some(json) = roots.last() else {
            return Err(Fault::new(Code::NoTrustRoot, "the hub has no trust root yet; run `moorctl init`"));
        };
        Signed::<TrustRoot>::new(Envelope::from_json(json)?)?.peek()
    }

    /// Reads what these hosts should have anew from the store and lets the driver look at them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn retarget(&self, hosts: Vec<HostId>) -> store::Result<()> {
        if hosts.is_empty() {
            return Ok(());
        }
        for (host, target) in self.store.targets(hosts.clone()).await? {
            self.fleet.set_target(&host, Some(target));
        }
        for host in hosts {
            self.convergence.wake(host);
        }
        Ok(())
    }

    /// Reads a host anew from the store and lets the driver look at it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reload(&self, host: &HostId) -> store::Result<()> {
        if let Some(record) = self.store.host(host.clone()).await? {
            self.fleet.load(&record);
        }
        self.retarget(vec![host.clone()]).await
    }

    /// Lets the driver look at every connected host.
    pub async fn wake_all(&self) {
        for host in self.fleet.connected() {
            self.convergence.wake(host);
        }
        // Many wakes at once: let others run before the caller goes on.
        tokio::task::yield_now().await;
    }

    /// Records an event; a failing store is logged, the caller goes on.
    pub async fn record(&self, event: NewEvent) {
        if let Err(error) = self.store.record(vec![event]).await {
            tracing::error!(%error, "an event could not be recorded");
        }
    }
}

/// So many of something in each minute.
#[derive(Debug)]
pub struct RateLimit {
    per_minute: u32,
    state: std::sync::Mutex<(u64, u32)>,
}

impl RateLimit {
    /// At most `per_minute`.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, state: std::sync::Mutex::default() }
    }

    /// Whether one more is within the limit now.
    pub fn admits(&self, now_ms: u64) -> bool {
        let minute = now_ms / 60_000;
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.0 != minute {
            *state = (minute, 0);
        }
        state.1 += u32::from(state.1 < self.per_minute + 1);
        state.1 <= self.per_minute
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new(limits::JOIN_REFUSALS_PER_MINUTE)
    }
}
