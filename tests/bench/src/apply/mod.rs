//! How long it takes to bring a host to its slice: Moorline beside raw engine calls and docker-compose.
//!
//! In each round every contender makes the same things, one after the other in turning order, and takes them away
//! again. What is compared is the time within one round; what is printed are medians and the spread.
//!
//! - [`scene`]: what is made.
//! - [`agent`]: the agent's own intake, ledger, journal, lanes, reconciler and driver, in this process.
//! - [`raw`]: the engine calls that it takes at least, eight at once, by this very program.
//! - [`compose`]: docker-compose, when it is installed.
//! - [`table`]: medians and ratios for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;

pub mod agent;
pub mod compose;
pub mod raw;
pub mod scene;
pub mod table;

/// Engine calls at once, as the agent's Docker driver makes them.
pub const CONCURRENCY: usize = 8;
/// Until a step of the benchmark must have ended.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// One round of one contender. `None` where it does not do that.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// From nothing to everything running.
    pub cold: Option<Duration>,
    /// The same again.
    pub noop: Option<Duration>,
    /// One service's environment changed.
    pub change: Option<Duration>,
    /// From the death of one container to its start.
    pub heal: Option<Duration>,
    /// Everything gone.
    pub down: Option<Duration>,
}

/// When the engine says that something happened to a container.
pub struct Witness {
    docker: Docker,
    since: Duration,
}

impl Witness {
    /// Notes what happens from now on.
    #[must_use]
    pub fn new(docker: &Docker) -> Self {
        Self { docker: docker.clone(), since: now() }
    }

    /// When `action` happened to the container `id`, on the engine's clock, which is this machine's.
    ///
    /// # Errors
    /// When it does not happen in time.
    pub async fn moment(&self, id: &str, action: &str) -> Result<Duration> {
        let filters = [("container".to_owned(), vec![id.to_owned()]), ("event".to_owned(), vec![action.to_owned()])];
        let since = format!("{}.{:09}", self.since.as_secs(), self.since.subsec_nanos());
        let options = EventsOptions { since: Some(since), until: None, filters: Some(filters.into_iter().collect()) };
        let mut events = std::pin::pin!(self.docker.events(Some(options)));
        let event: EventMessage = tokio::time::timeout(PATIENCE, events.next())
            .await
            .with_context(|| format!("no `{action}` of {id} in time"))?
            .context("the event stream ended")??;
        let nanos = event.time_nano.and_then(|n| u64::try_from(n).ok()).context("an event without a time")?;
        Ok(Duration::from_nanos(nanos))
    }
}

/// Now, on the clock that the engine's events bear.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
