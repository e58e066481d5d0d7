//! When a token may be used again.
//!
//! An hour's calls are counted in a window that slides: with none left there is another one at `ratelimit-reset`. A burst is refused with
//! `retry-after`, which says how long; a refusal without one is by the hour.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::id::UnixSeconds;
use tokio::time::Instant;

use super::super::CloudError;
use super::super::budgets::{RATE_WAIT_UNSAID, paced};
use super::client::Reply;

/// The longest wait that is believed: an hour's window has slid by then.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Whose turn it is with one token.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Nothing is sent before.
    closed_until: Mutex<Option<Instant>>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.closed_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before the next call; nothing when it may be made now.
    pub(super) fn wait(&self) -> Option<Duration> {
        let mut closed = self.lock();
        let wait = closed.map(|until| until.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero());
        if wait.is_none() {
            *closed = None;
        }
        wait
    }

    /// What an answer says of the next calls.
    pub(super) fn heard(&self, reply: &Reply, now_s: u64) {
        let until_reset = || reply.reset.map(|reset| Duration::from_secs(reset.saturating_sub(now_s).max(1)));
        let wait = if reply.status == 429 {
            reply.retry_after.map(|after| Duration::from_secs(after.max(1))).or_else(until_reset).unwrap_or(RATE_WAIT_UNSAID)
        } else if reply.remaining == Some(0) {
            match until_reset() {
                Some(wait) => wait,
                None => return,
            }
        } else {
            return;
        };
        let until = Instant::now() + paced(wait.min(WAIT_MAX));
        let mut closed = self.lock();
        *closed = Some(closed.map_or(until, |earlier| earlier.max(until)));
    }

    /// The error for who does not wait so long.
    pub(super) fn limited(&self, now_s: u64) -> CloudError {
        let wait = self.wait().unwrap_or_default();
        CloudError::RateLimited { until: UnixSeconds(now_s).plus(wait.as_secs().max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, remaining: Option<u64>, reset: Option<u64>, retry_after: Option<u64>) -> Reply {
        Reply { status, remaining, reset, retry_after, body: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_as_long_as_said_and_an_hour_until_its_reset() {
        let after = |reply| {
            let turns = Turns::default();
            turns.heard(&reply, 1000);
            turns.wait().map(|wait| wait.as_secs())
        };
        assert_eq!(after(reply(429, Some(4000), Some(1600), Some(7))), Some(7));
        assert_eq!(after(reply(429, Some(0), Some(1600), None)), Some(600));
        assert_eq!(after(reply(429, None, None, None)), Some(RATE_WAIT_UNSAID.as_secs()));
        assert_eq!(after(reply(200, Some(0), Some(1030), None)), Some(30));
        assert_eq!(after(reply(200, Some(1), Some(1030), None)), None);
        assert_eq!(after(reply(200, Some(0), None, None)), None);
        // A clock that is off does not stop it for ever.
        assert_eq!(after(reply(429, Some(0), Some(9_000_000), None)), Some(3600));
        assert_eq!(after(reply(429, Some(0), Some(5), None)), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_and_a_shorter_word_does_not_shorten_it() {
        let turns = Turns::default();
        turns.heard(&reply(429, None, Some(1600), None), 1000);
        turns.heard(&reply(429, None, None, Some(3)), 1000);
        assert_eq!(turns.wait(), Some(Duration::from_secs(600)));
        assert_eq!(turns.limited(1000), CloudError::RateLimited { until: UnixSeconds(1600) });
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(turns.wait(), None);
    }
}
