//! Hands the store what hosts say: heartbeats and reports that changed.
//!
//! A host's first word after a quiet time is kept at once; while it goes on talking, only its newest
//! words, once in a while. So no host, however talkative, keeps the store's one writer from the others.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::id::HostId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fleet::Unkept;
use crate::hub::Hub;
use crate::limits;
use crate::store::Result;

/// Wakes the keeper. Clones share it.
#[derive(Clone, Default)]
pub struct Handle(Arc<Notify>);

impl Handle {
    /// Lets the keeper look for what is to be kept.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// The keeper.
pub struct Service {
    hub: Hub,
}

impl Service {
    /// The keeper of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// Runs until `shutdown`. What came last is then [`flush`]'s to keep.
    pub async fn run(self, shutdown: CancellationToken) {
        let handle = self.hub.keeper.clone();
        let mut more = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = handle.0.notified() => {}
                () = tokio::time::sleep(limits::KEEP_INTERVAL), if more => {}
            }
            more = keep(&self.hub, limits::KEEP_INTERVAL).await;
        }
    }
}

/// Keeps all that is left.
pub async fn flush(hub: &Hub) {
    keep(hub, Duration::ZERO).await;
}

/// Keeps what is due; gives back whether there is more to come.
async fn keep(hub: &Hub, interval: Duration) -> bool {
    let now_ms = hub.clock.monotonic_ms();
    loop {
        let said = hub.fleet.unkept(limits::KEEP_BATCH, interval, now_ms);
        let last = said.len() < limits::KEEP_BATCH;
        // All at once: they share a commit.
        let kept = said.into_iter().map(async |(host, said)| match keep_one(hub, &host, said).await {
            Ok(()) => hub.fleet.kept(&host),
            Err(error) => {
                tracing::error!(%error, %host, "what the host said could not be kept; it is tried again");
                hub.fleet.keep(&host, Unkept::default());
            }
        });
        futures_util::future::join_all(kept).await;
        if last {
            return hub.fleet.has_unkept();
        }
    }
}

async fn keep_one(hub: &Hub, host: &HostId, said: Unkept) -> Result<()> {
    if let Some((json, at_ms)) = said.beat {
        hub.store.keep_heartbeat(host.clone(), json, at_ms, hub.fleet.witness(host)).await?;
    }
    if let Some(report) = said.report {
        hub.store.keep_report(host.clone(), *report).await?;
    }
    if let Some((drift, events)) = said.drift {
        let (name, _) = hub.fleet.name(host);
        hub.store.report_drift(host.clone(), name, *drift, events).await?;
    }
    Ok(())
}
