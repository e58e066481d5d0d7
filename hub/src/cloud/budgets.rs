//! How long, how often and how much: every bound of what is done in clouds.

use std::time::Duration;

use moorline_common::backoff::Backoff;

/// So many looks, so far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The looks; the first one is at once.
    pub looks: u32,
    /// Between two of them.
    pub every: Duration,
}

impl Budget {
    /// The time that passes when nothing is ever found.
    #[must_use]
    pub fn whole(&self) -> Duration {
        self.every.saturating_mul(self.looks)
    }
}

const fn budget(looks: u32, every_s: u64) -> Budget {
    Budget { looks, every: Duration::from_secs(every_s) }
}

/// Until a new droplet is active.
pub const ACTIVE: Budget = budget(96, 5);
/// Until an active droplet has an address.
pub const ADDRESS: Budget = budget(12, 5);
/// So many looks in a row must miss a droplet before it counts as gone: a lone 404 proves nothing.
pub const VANISHED_LOOKS: u32 = 12;
/// Until a snapshot's action is over.
pub const SNAPSHOT_ACTION: Budget = budget(72, 5);
/// Until a finished snapshot is found by its name.
pub const SNAPSHOT_LOOKUP: Budget = budget(12, 5);
/// Until a resize is over: a disk is copied.
pub const RESIZE_ACTION: Budget = budget(240, 5);
/// Until what switches or renames is over.
pub const POWER_ACTION: Budget = budget(36, 5);
/// Until a droplet shows what an action did to it.
pub const SHOWN: Budget = budget(12, 5);
/// Until what an event of another's keeps from beginning may begin.
pub const PENDING: Budget = budget(72, 5);
/// After a creation whose answer was lost: until it counts as never begun. Listings lag behind.
pub const CREATE_RECHECK: Budget = budget(14, 5);
/// After an action whose answer was lost: until it counts as never begun.
pub const ACTION_RECHECK: Budget = budget(6, 5);
/// Until a droplet that should be there counts as not there, or a cloud that does not answer as away.
pub const SEEN: Budget = budget(3, 5);
/// How often one call of a step sends the same creation or action at most, when answers are lost.
pub const POSTS: u32 = 2;
/// For so long after a droplet was made a 404 to its deletion does not say that it is gone.
pub const YOUNG: Duration = Duration::from_secs(60);
/// Between two deletions of a young droplet.
pub const YOUNG_EVERY: Duration = Duration::from_secs(5);
/// How far the hub's clock and a cloud's may be apart.
pub const CLOUD_SKEW: Duration = Duration::from_secs(60);

/// Until a connection stands.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until a call is answered, whole.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What is idle for longer is not used again: the other side may be closing it.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a call that may be repeated is sent at most.
pub const CALL_TRIES: u32 = 4;
/// The waits in between.
pub const CALL_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(15) };
/// How long one call waits in all because there were too many; beyond that it fails as `cloud_rate_limited`.
pub const RATE_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often one call is sent again because there were too many.
pub const RATE_TRIES: u32 = 6;
/// The wait after a 429 that does not say how long.
pub const RATE_WAIT_UNSAID: Duration = Duration::from_secs(15);

/// The largest answer, in bytes.
pub const ANSWER_MAX: usize = 8 << 20;
/// Things on one page of a listing: the most that there can be.
pub const PER_PAGE: u32 = 200;
/// Pages of one listing.
pub const PAGES_MAX: usize = 500;
/// The longest token, in bytes.
pub const TOKEN_MAX: usize = 512;
/// The largest authorities' file, in bytes.
pub const CA_MAX: u64 = 1 << 20;
/// The longest name of a droplet, in characters.
pub const NAME_MAX: usize = 255;
/// The longest tag, in characters.
pub const TAG_MAX: usize = 255;
/// The longest text for a first boot, in bytes.
pub const USER_DATA_MAX: usize = 64 << 10;

/// Between two syncs of the inventory when the configuration says nothing, in seconds.
pub const SYNC_DEFAULT_S: u64 = 300;
/// The shortest interval that may be configured, in seconds.
pub const SYNC_MIN_S: u64 = 30;
/// The longest interval that may be configured, in seconds.
pub const SYNC_MAX_S: u64 = 24 * 3600;

/// A time of these as it passes here.
#[cfg(not(test))]
pub(crate) const fn paced(time: Duration) -> Duration {
    time
}

#[cfg(test)]
tokio::task_local! {
    /// How much faster than the real one a test's cloud is.
    pub(crate) static PACE: u32;
}

/// A time of these as it passes here: tests may have a cloud that is faster.
#[cfg(test)]
pub(crate) fn paced(time: Duration) -> Duration {
    time / PACE.try_with(|pace| *pace).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_in_doubt_is_looked_for_for_a_minute_at_least() {
        assert!(CREATE_RECHECK.every * (CREATE_RECHECK.looks - 1) >= Duration::from_secs(60));
        assert_eq!(ACTIVE.whole(), Duration::from_secs(480));
    }
}
