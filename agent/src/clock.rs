//! The agent's clocks: the time of day and the boot. What is judged by them is handed a time; what merely waits uses
//! tokio's, which tests can set.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use moorline_common::id::UnixSeconds;

use crate::limits::ISSUED_AHEAD_MAX_S;

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
        UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    /// The wall clock in milliseconds, for records.
    #[must_use]
    pub fn wall_ms(self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// Boot id and uptime; an empty id when the kernel does not tell.
    #[must_use]
    pub fn boot(self) -> BootTime {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime_s = uptime.split(['.', ' ']).next().and_then(|s| s.parse().ok()).unwrap_or(0);
        BootTime { boot_id, uptime_s, wall: self.wall() }
    }
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
    fn this_machine_tells_its_boot() {
        let boot = Clock.boot();
        assert_eq!(boot.boot_id.len(), 36);
        assert!(boot.uptime_s > 0);
    }
}
