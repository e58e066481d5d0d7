//! Limits per minute, for what others can make the hub do.

use std::sync::{Mutex, PoisonError};

/// So many of something in each minute. Counted by the caller's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Minute {
    number: u64,
    count: u32,
}

impl Minute {
    /// Whether one more is within `limit` at this moment, in milliseconds.
    pub fn admits(&mut self, limit: u32, now_ms: u64) -> bool {
        let number = now_ms / 60_000;
        if self.number != number {
            *self = Self { number, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }
}

/// A [`Minute`] that several tasks share.
#[derive(Debug)]
pub struct RateLimit {
    limit: u32,
    minute: Mutex<Minute>,
}

impl RateLimit {
    /// At most `limit` in each minute.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, minute: Mutex::default() }
    }

    /// Whether one more is within the limit now.
    pub fn admits(&self, now_ms: u64) -> bool {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner).admits(self.limit, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_admits_its_share() {
        let limit = RateLimit::new(2);
        let admitted: Vec<bool> = [0, 1, 59_999, 60_000, 60_001, 119_999, 120_000].iter().map(|ms| limit.admits(*ms)).collect();
        assert_eq!(admitted, [true, true, false, true, true, false, true]);
    }
}
