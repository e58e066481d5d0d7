//! Looking at the host: one observation under way at a time, and what the engine tells meanwhile.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use moorline_common::fault::Code;
use moorline_common::id::ResourceId;
use moorline_common::observe::Observed;
use moorline_common::plan::Step;
use tokio::sync::Notify;

use crate::driver::{Driver, DriverError, DriverErrorKind};
use crate::limits::{EVENT_DEBOUNCE, OBSERVE_TIMEOUT};

/// An observation under way.
pub(super) type Look = Pin<Box<dyn Future<Output = Result<Observed, DriverError>> + Send>>;

/// Begins one.
pub(super) fn look<D: Driver>(driver: Arc<D>) -> Look {
    Box::pin(async move {
        tokio::time::timeout(OBSERVE_TIMEOUT, driver.observe()).await.unwrap_or_else(|_| {
            let message = format!("the engine did not answer within {} s", OBSERVE_TIMEOUT.as_secs());
            Err(DriverError { kind: DriverErrorKind::Unreachable, code: Code::EngineUnreachable, message })
        })
    })
}

/// The end of the observation under way, if there is one.
pub(super) async fn finished(look: &mut Option<Look>) -> Result<Observed, DriverError> {
    match look {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}

/// Turns engine events into looks. The first of a burst counts at once; the rest of it is one look more.
pub(super) async fn listen<D: Driver>(driver: Arc<D>, events: Arc<Notify>) {
    loop {
        driver.next_event().await;
        events.notify_one();
        tokio::time::sleep(EVENT_DEBOUNCE).await;
    }
}

/// Whether what `step` was planned on was seen at rest. Of a resource that was worked on meanwhile nothing counts, whatever
/// name its containers bear: the successor that a running step makes is no leftover.
pub(super) fn is_believed(step: &Step, observed: &Observed, touched: &BTreeSet<ResourceId>) -> bool {
    let id = step.action.container_id();
    if touched.iter().any(ResourceId::is_host) {
        return false;
    }
    let live = id.and_then(|id| observed.containers.values().find(|c| c.id == id));
    let owner = live.and_then(|c| c.owner.as_ref()).map(|o| &o.resource);
    !touched.contains(&step.resource) && owner.is_none_or(|resource| !touched.contains(resource))
}
