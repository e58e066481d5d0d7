//! The hub's clocks: what records, limits and waits go by. Certificates are made and checked by the machine's own time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use moorline_common::id::UnixSeconds;

/// Wall time for records, monotonic time for waits. Clones share their offset.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    /// Added to both; only tests move it.
    ahead_ms: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), ahead_ms: Arc::default() }
    }
}

impl Clock {
    /// Milliseconds since 1970, by the machine's wall clock.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(self.ahead())
    }

    /// Seconds since 1970, by the machine's wall clock.
    #[must_use]
    pub fn unix_s(&self) -> UnixSeconds {
        UnixSeconds(self.unix_ms() / 1000)
    }

    /// Milliseconds that never go back, from an arbitrary origin.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(self.ahead())
    }

    fn ahead(&self) -> u64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    /// Moves the clock forward, for tests of expiry.
    #[cfg(test)]
    pub(crate) fn advance(&self, by: std::time::Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
