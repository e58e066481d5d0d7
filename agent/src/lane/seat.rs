//! Room at the driver: how many jobs run at once, and which of their time counts.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::id::ResourceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A job panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it panicked")]
pub struct Panicked;

/// Room at the driver, until it is dropped: between two parts of the work that share it nobody is waited for.
pub struct Seat {
    share: Arc<Share>,
    resource: ResourceId,
}

impl Seat {
    /// Waits for it.
    pub(super) async fn take(permits: Arc<Semaphore>, resource: ResourceId) -> Self {
        let share = Share { permits, held: Mutex::default(), away: Mutex::default() };
        share.take().await;
        Self { share: Arc::new(share), resource }
    }

    /// Runs a part of the work as a task of its own: one that panics takes nobody with it.
    ///
    /// # Errors
    /// [`Panicked`].
    pub async fn work<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> Result<T, Panicked> {
        let done = tokio::spawn(SHARE.scope(self.share.clone(), job)).await;
        done.map_err(|_| {
            tracing::error!(resource = %self.resource, "a job panicked");
            Panicked
        })
    }
}

/// A job's share of the driver's limit.
struct Share {
    permits: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    away: Mutex<Away>,
}

/// How long a job was aside.
#[derive(Debug, Clone, Copy, Default)]
struct Away {
    before: Duration,
    since: Option<Instant>,
}

impl Share {
    async fn take(&self) {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.ok();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    fn give_back(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn away(&self) -> Duration {
        let away = *self.lock_away();
        away.before + away.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock_away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

tokio::task_local! {
    static SHARE: Arc<Share>;
}

/// Runs a part of a job that merely waits for something outside the engine, such as a registry: meanwhile it counts
/// against no limit of the lanes, so that others go on, and [`within`] does not count the time. Its lane stays taken.
pub async fn aside<T>(waiting: impl Future<Output = T>) -> T {
    let Ok(share) = SHARE.try_with(Arc::clone) else { return waiting.await };
    share.give_back();
    share.lock_away().since = Some(Instant::now());
    let result = waiting.await;
    share.take().await;
    let before = share.away();
    *share.lock_away() = Away { before, since: None };
    result
}

/// Runs a job's work for at most `limit`, without the time that it spends [`aside`]. `None`: it was given up.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (begun, away) = (Instant::now(), || SHARE.try_with(|share| share.away()).unwrap_or_default());
    let before = away();
    let over = async {
        loop {
            let end = begun + limit + away().saturating_sub(before);
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    };
    tokio::select! {
        biased;
        result = work => Some(result),
        () = over => None,
    }
}
