//! What every part of a running hub shares.

use std::sync::{Arc, PoisonError};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ClusterId, HostId};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::ObservedReport;
use moorline_common::trust::TrustRoot;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cloud::Clouds;
use crate::convergence;
use crate::events::NewEvent;
use crate::fleet::{Fleet, ReportBrief};
use crate::inventory;
use crate::keeper;
use crate::ops;
use crate::pki::Pki;
use crate::rate::RateLimit;
use crate::rollout;
use crate::saga;
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
    /// Wakes the driver of rollouts.
    pub rollouts: rollout::Handle,
    /// Wakes the runners of sagas, and tells those who follow them.
    pub sagas: saga::Handle,
    /// Its clouds.
    pub clouds: Clouds,
    /// Whose turn it is to ask them what they have.
    pub inventory: inventory::Handle,
    /// Wakes the keeper.
    pub keeper: keeper::Handle,
    /// Who waits for news of operations and for journals.
    pub ops: ops::Ops,
    /// Addresses to hand out.
    pub advertise: Vec<String>,
    /// Milliseconds between two heartbeats.
    pub heartbeat_interval_ms: u32,
    /// Ends sessions and streams when the hub stops.
    pub stopping: CancellationToken,
    /// The trust root as it was read last.
    pub root: RootRead,
    /// Held while something is read from the store into the fleet.
    pub loading: Mutex<()>,
    /// Bounds joins under way.
    pub joins: Arc<Semaphore>,
    /// Bounds operators' changes under way.
    pub changes: Arc<Semaphore>,
    /// Bounds the events of what is refused to operators.
    pub refusals: RateLimit,
    /// Bounds the events of calls that are not the caller's to make.
    pub denials: RateLimit,
    /// Bounds the events that strangers can make the hub write.
    pub strangers: RateLimit,
    /// Bounds the alarms among them: a flood of the former must not hide one.
    pub alarms: RateLimit,
}

/// A trust root, and the bytes that it was read from: others are read anew.
#[derive(Default)]
pub struct RootRead(std::sync::Mutex<Option<(Vec<u8>, Arc<TrustRoot>)>>);

impl RootRead {
    fn of(&self, json: &[u8]) -> Result<Arc<TrustRoot>, Fault> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, root)) = read.as_ref().filter(|(bytes, _)| bytes == json) {
            return Ok(root.clone());
        }
        let root = Arc::new(Signed::<TrustRoot>::new(Envelope::from_json(json)?)?.peek()?);
        *read = Some((json.to_vec(), root.clone()));
        Ok(root)
    }
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
        hub.reload_roots().await?;
        for (host, refusal) in hub.store.refusals().await? {
            hub.fleet.set_refusal(&host, &refusal);
        }
        // Refusals of payloads that are no longer the target are past.
        for (host, target) in hub.store.targets(Vec::new()).await? {
            hub.fleet.set_target(&host, Some(target));
        }
        Ok(hub)
    }

    /// Reads the kept reports into the fleet, for hosts that have not come back yet.
    pub async fn load_reports(self) {
        let hosts = match self.store.hosts().await {
            Ok(hosts) => hosts,
            Err(error) => return tracing::error!(%error, "the kept reports cannot be read"),
        };
        for host in hosts.into_iter().map(|record| record.host_id) {
            let Ok(Some(kept)) = self.store.report(host.clone()).await else { continue };
            // Its signature was checked when it was kept.
            let report = Signed::<ObservedReport>::from_json(&kept.envelope).and_then(|signed| signed.peek());
            if let Ok(report) = report {
                self.fleet.load_report(&host, ReportBrief::new(report, kept.digest));
            }
        }
    }

    /// The newest trust root, as far as the hub can tell: its own store is not an authority.
    ///
    /// # Errors
    /// [`Code::NoTrustRoot`] without one; [`Code::Internal`] when the store fails.
    pub async fn newest_root(&self) -> Result<Arc<TrustRoot>, Fault> {
        let roots = self.store.roots().await.map_err(store::StoreError::into_fault)?;
        let Some(json) = roots.last() else {
            return Err(Fault::new(Code::NoTrustRoot, "the hub has no trust root yet; run `moorctl init`"));
        };
        self.root.of(json)
    }

    /// Reads anew from the store which trust root is the newest.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reload_roots(&self) -> store::Result<()> {
        let _turn = self.loading.lock().await;
        let newest = self.store.roots().await?.len();
        self.fleet.set_root_version(u64::try_from(newest).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Reads what these hosts should have anew from the store and lets the driver look at them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn retarget(&self, hosts: Vec<HostId>) -> store::Result<()> {
        if hosts.is_empty() {
            return Ok(());
        }
        // One at a time, or what was read first could be written last.
        let _turn = self.loading.lock().await;
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
        {
            let _turn = self.loading.lock().await;
            if let Some(record) = self.store.host(host.clone()).await? {
                self.fleet.load(&record);
            }
        }
        self.retarget(vec![host.clone()]).await
    }

    /// Forgets a host: in the store, then in the fleet, which ends its session.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forget(&self, host: &HostId, event: NewEvent) -> store::Result<()> {
        let _turn = self.loading.lock().await;
        self.store.remove_host(host.clone(), event).await?;
        self.fleet.forget(host);
        self.rollouts.changed();
        Ok(())
    }

    /// Lets the driver look at every connected host.
    pub async fn wake_all(&self) {
        for host in self.fleet.connected() {
            self.convergence.wake(host);
        }
        // Many wakes at once: let others run before the caller goes on.
        tokio::task::yield_now().await;
    }

    /// Records an event that a host caused, unless it caused too many lately.
    pub async fn record_of(&self, host: &HostId, event: NewEvent) {
        if let Some(event) = self.within_limit(host, event) {
            self.record(event).await;
        }
    }

    /// The event, unless the host caused too many lately.
    #[must_use]
    pub fn within_limit(&self, host: &HostId, event: NewEvent) -> Option<NewEvent> {
        if self.fleet.admits_event(host, self.clock.monotonic_ms()) {
            return Some(event);
        }
        tracing::warn!(%host, kind = event.kind.as_str(), message = event.message, "too many events of this host; not recorded");
        None
    }

    /// Records an event; a failing store is logged, the caller goes on.
    pub async fn record(&self, event: NewEvent) {
        if let Err(error) = self.store.record(vec![event]).await {
            tracing::error!(%error, "an event could not be recorded");
        }
    }
}
