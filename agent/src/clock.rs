//! The agent's clocks: the time of day and the boot. What is judged by them is handed a time; what merely waits uses
//! tokio's, which tests can set.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_common::id::UnixSeconds;
use nix::time::{ClockId, clock_gettime};

use crate::limits::{CLOCK_SKEW_ALARM_S, ISSUED_AHEAD_MAX_S};

/// Reads the clocks. Copied freely.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

/// Where the kernel is in its life: tells how much time has passed even when the wall clock is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTime {
    /// The kernel's boot id.
    pub boot_id: String,
    /// Seconds since it booted, time asleep included.
    pub uptime_s: u64,
    /// The wall clock at that moment: bounds how far a statement may raise the time floor, and never raises it itself.
    pub wall: UnixSeconds,
}

impl Clock {
    /// The wall clock in seconds.
    #[must_use]
    pub fn wall(self) -> UnixSeconds {
        UnixSeconds(since_1970().as_secs())
    }

    /// The wall clock in milliseconds, for records.
    #[must_use]
    pub fn wall_ms(self) -> u64 {
        u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
    }

    /// Boot id and uptime; an empty id when the kernel does not tell.
    #[must_use]
    pub fn boot(self) -> BootTime {
        #[cfg(test)]
        if let Some(boot) = set::boot() {
            return boot;
        }
        // No process outlives its boot.
        static BOOT_ID: LazyLock<String> =
            LazyLock::new(|| fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned());
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(|t| t.tv_sec()).unwrap_or_default();
        BootTime { boot_id: BOOT_ID.clone(), uptime_s: u64::try_from(uptime).unwrap_or_default(), wall: self.wall() }
    }
}

/// How the wall clock contradicts what the host knows about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skew {
    /// It is wrong.
    #[error("the clock is {by_s} s behind what operators signed; set it")]
    Behind {
        /// Seconds.
        by_s: u64,
    },
    /// It is wrong, or the host was off for long.
    #[error(
        "the clock is {by_s} s ahead of what this host knows about time; if it is right, the next order or push tells the host, and if not, set it"
    )]
    Ahead {
        /// Seconds.
        by_s: u64,
    },
}

impl Skew {
    /// What is worth an alarm; a host that has never heard of the time knows nothing.
    #[must_use]
    pub fn of(floor: UnixSeconds, wall: UnixSeconds) -> Option<Self> {
        let by_s = floor.0.abs_diff(wall.0);
        let is_wide = floor.0 > 0 && by_s > CLOCK_SKEW_ALARM_S;
        is_wide.then_some(if wall < floor { Skew::Behind { by_s } } else { Skew::Ahead { by_s } })
    }
}

fn since_1970() -> Duration {
    #[cfg(test)]
    if let Some(wall) = set::wall() {
        return wall;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The lowest moment that it can be now: advanced by verified statements and by elapsed boot time,
/// never by the wall clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimeFloor {
    /// The floor when it was saved.
    pub at: UnixSeconds,
    /// The boot in which it was saved.
    pub boot_id: String,
    /// The uptime when it was saved, in seconds.
    pub uptime_s: u64,
}

impl TimeFloor {
    /// The floor at `boot`: time that passed in the same boot counts.
    #[must_use]
    pub fn now(&self, boot: &BootTime) -> UnixSeconds {
        if !self.boot_id.is_empty() && self.boot_id == boot.boot_id {
            self.at.plus(boot.uptime_s.saturating_sub(self.uptime_s))
        } else {
            self.at
        }
    }

    /// The latest moment at which a statement can have been signed, clocks being what they are.
    #[must_use]
    pub fn horizon(&self, boot: &BootTime) -> UnixSeconds {
        self.now(boot).max(boot.wall).plus(ISSUED_AHEAD_MAX_S)
    }

    /// The floor after a verified statement of `issued_at` was accepted at `boot`. One that was signed in the far future
    /// raises it no further than the horizon: else everything would be expired for ever.
    #[must_use]
    pub fn advanced(&self, issued_at: UnixSeconds, boot: &BootTime) -> Self {
        let at = self.now(boot).max(issued_at.min(self.horizon(boot)));
        Self { at, boot_id: boot.boot_id.clone(), uptime_s: boot.uptime_s }
    }
}

/// Clocks that a test sets, for its own thread. They go with tokio's.
#[cfg(test)]
pub mod set {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    #[derive(Clone, Copy)]
    struct Set {
        since: Instant,
        wall: Duration,
        boot: u32,
        uptime: Duration,
    }

    thread_local! {
        static SET: RefCell<Option<Set>> = const { RefCell::new(None) };
    }

    /// Until it is dropped, this thread has clocks of its own.
    pub struct Clocks(());

    impl Clocks {
        /// A machine that has just booted at `wall`.
        pub fn new(wall: UnixSeconds) -> Self {
            let set = Set { since: Instant::now(), wall: Duration::from_secs(wall.0), boot: 1, uptime: Duration::ZERO };
            SET.replace(Some(set));
            Self(())
        }

        /// Someone sets the wall clock.
        pub fn set_wall(&self, wall: UnixSeconds) {
            Self::change(|set, passed| set.wall = Duration::from_secs(wall.0).saturating_sub(passed));
        }

        /// The machine boots. Its wall clock goes on.
        pub fn reboot(&self) {
            Self::change(|set, passed| {
                set.boot += 1;
                set.wall += passed;
                (set.since, set.uptime) = (Instant::now(), Duration::ZERO);
            });
        }

        fn change(change: impl FnOnce(&mut Set, Duration)) {
            SET.with_borrow_mut(|set| set.as_mut().map(|set| change(set, set.since.elapsed())));
        }
    }

    impl Drop for Clocks {
        fn drop(&mut self) {
            SET.replace(None);
        }
    }

    /// Whether this thread has clocks of its own.
    pub fn is_set() -> bool {
        SET.with_borrow(Option::is_some)
    }

    pub(super) fn wall() -> Option<Duration> {
        SET.with_borrow(|set| set.map(|set| set.wall + set.since.elapsed()))
    }

    pub(super) fn boot() -> Option<BootTime> {
        let set = SET.with_borrow(|set| *set)?;
        let uptime_s = (set.uptime + set.since.elapsed()).as_secs();
        Some(BootTime { boot_id: format!("boot {}", set.boot), uptime_s, wall: Clock.wall() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(id: &str, uptime_s: u64) -> BootTime {
        BootTime { boot_id: id.to_owned(), uptime_s, wall: UnixSeconds(900) }
    }

    #[test]
    fn the_floor_rises_with_statements_and_boot_time_and_never_falls() {
        let floor = TimeFloor::default().advanced(UnixSeconds(1000), &boot("a", 10));
        assert_eq!(floor.now(&boot("a", 70)), UnixSeconds(1060));
        assert_eq!(floor.now(&boot("b", 5)), UnixSeconds(1000), "another boot: unknown time passed");
        let older = floor.advanced(UnixSeconds(500), &boot("a", 70));
        assert_eq!(older.now(&boot("a", 70)), UnixSeconds(1060));
    }

    #[test]
    fn a_statement_from_the_far_future_raises_the_floor_by_a_day_at_most() {
        let floor = TimeFloor::default().advanced(UnixSeconds(u64::MAX), &boot("a", 10));
        assert_eq!(floor.at, UnixSeconds(900 + ISSUED_AHEAD_MAX_S));
        assert_eq!(floor.horizon(&boot("a", 10)), UnixSeconds(900 + 2 * ISSUED_AHEAD_MAX_S));
    }

    #[test]
    fn a_clock_a_day_from_the_floor_is_worth_an_alarm() {
        let skew = |floor: u64, wall: u64| Skew::of(UnixSeconds(floor), UnixSeconds(wall));
        let day = CLOCK_SKEW_ALARM_S;
        assert_eq!([skew(0, 10 * day), skew(day, 2 * day), skew(2 * day, day)], [None; 3]);
        assert_eq!(skew(day, 2 * day + 1), Some(Skew::Ahead { by_s: day + 1 }));
        assert_eq!(skew(2 * day + 1, day), Some(Skew::Behind { by_s: day + 1 }));
    }

    #[test]
    fn this_machine_tells_its_boot() {
        let boot = Clock.boot();
        assert_eq!(boot.boot_id.len(), 36);
        assert!(boot.uptime_s > 0);
    }
}
