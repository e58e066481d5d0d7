//! Keeps the inventory: asks each cloud in turns what it has, hands the store whole listings, and lets it compare droplets with what they
//! should be like.
//!
//! A cloud that does not answer is told of once, and once when it does again; nothing that is known is forgotten meanwhile. It changes
//! nothing in a cloud.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use moorline_common::fault::{Code, Fault};
use tokio_util::sync::CancellationToken;

use crate::cloud::{CloudError, Droplet, Provider, Snapshot};
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::store::{CloudKind, CloudSweep, SeenResource, StoreError};

/// What the schedule and operators share. Clones share it.
#[derive(Clone, Default)]
pub struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Held through a sync: what was listed first is taken over first.
    turn: tokio::sync::Mutex<()>,
    /// The clouds whose last sync failed.
    failing: Mutex<BTreeSet<String>>,
}

impl Handle {
    /// Whether that is news.
    fn note(&self, cloud: &str, is_failing: bool) -> bool {
        let mut failing = self.0.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_failing { failing.insert(cloud.to_owned()) } else { failing.remove(cloud) }
    }
}

/// The schedule.
pub struct Service {
    hub: Hub,
}

impl Service {
    /// The schedule of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let clouds = self.hub.clouds.synced();
        let all = join_all(clouds.map(|(provider, every)| keep(&self.hub, provider.as_ref(), every)));
        shutdown.run_until_cancelled(all).await;
        shutdown.cancelled().await;
    }
}

async fn keep(hub: &Hub, provider: &dyn Provider, every: Duration) {
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        // It was told, and the next turn may do better.
        let _ = sync(hub, provider).await;
    }
}

/// Takes over what a cloud has, and compares it with what it should have.
///
/// # Errors
/// Those of the cloud, `cloud_timeout`, and those of the store.
pub(crate) async fn sync(hub: &Hub, provider: &dyn Provider) -> Result<CloudSweep, Fault> {
    let done = {
        let _turn = hub.inventory.0.turn.lock().await;
        synced(hub, provider).await
    };
    let cloud = provider.name();
    match &done {
        Ok(CloudSweep { checked, drifted_fields, new_drift, resolved_stale }) => {
            tracing::debug!(cloud, checked, drifted_fields, new_drift, resolved_stale, "synced the inventory");
            if hub.inventory.note(cloud, false) {
                tracing::info!(cloud, "the inventory is synced again");
                hub.record(NewEvent::hub(Kind::CloudSyncWorks, format!("the inventory of `{cloud}` is synced again"))).await;
            }
        }
        Err(fault) => {
            if hub.inventory.note(cloud, true) {
                tracing::warn!(cloud, %fault, "the inventory cannot be synced; it is tried again");
                // Without a token nobody wants an inventory.
                if fault.code != Code::CloudUnconfigured {
                    hub.record(NewEvent::hub(Kind::CloudSyncFailed, fault.message.clone()).code(fault.code)).await;
                }
            } else {
                tracing::debug!(cloud, %fault, "the inventory cannot be synced yet");
            }
        }
    }
    done
}

async fn synced(hub: &Hub, provider: &dyn Provider) -> Result<CloudSweep, Fault> {
    let cloud = provider.name();
    let droplets = listed(cloud, "droplets", provider.inventory()).await?;
    take_over(hub, cloud, CloudKind::Droplet, droplets.iter().map(droplet).collect()).await?;
    let snapshots = listed(cloud, "snapshots", provider.snapshots()).await;
    if let Ok(snapshots) = &snapshots {
        take_over(hub, cloud, CloudKind::Snapshot, snapshots.iter().map(snapshot).collect()).await?;
    }
    // What droplets are like has nothing to do with snapshots.
    let sweep = hub.store.sweep_cloud(cloud.to_owned()).await.map_err(StoreError::into_fault)?;
    snapshots.map(|_| sweep)
}

async fn listed<T>(cloud: &str, what: &str, listing: impl Future<Output = Result<T, CloudError>>) -> Result<T, Fault> {
    let what = format!("listing the {what} of `{cloud}`");
    match tokio::time::timeout(limits::CLOUD_LISTING_TIME, listing).await {
        Ok(listed) => listed.map_err(|error| error.fault(&what)),
        Err(_) => Err(Fault::new(Code::CloudTimeout, format!("{what}: not done in {} s", limits::CLOUD_LISTING_TIME.as_secs()))),
    }
}

async fn take_over(hub: &Hub, cloud: &str, kind: CloudKind, seen: Vec<SeenResource>) -> Result<(), Fault> {
    hub.store.sync_resources(cloud.to_owned(), kind, seen).await.map_err(StoreError::into_fault)
}

fn droplet(one: &Droplet) -> SeenResource {
    SeenResource { number: one.id.0, name: one.name.clone(), value: one.to_value() }
}

fn snapshot(one: &Snapshot) -> SeenResource {
    SeenResource { number: one.id.0, name: one.name.clone(), value: serde_json::to_value(one).unwrap_or_default() }
}
