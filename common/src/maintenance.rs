//! When a host may be given other content: what stands under `policy.maintenance` in a topology file. Pure.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZoneDatabase;
use jiff::{SignedDuration, Span, Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::id::UnixSeconds;

/// The most windows of one policy.
pub const WINDOWS_MAX: usize = 32;
/// The longest window, in seconds: a week.
pub const WINDOW_MAX_S: u64 = 7 * DAY_S;

const DAY_S: u64 = 24 * 3600;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// Every one.
    pub const ALL: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

    /// The word in a file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Day::Mon => "mon",
            Day::Tue => "tue",
            Day::Wed => "wed",
            Day::Thu => "thu",
            Day::Fri => "fri",
            Day::Sat => "sat",
            Day::Sun => "sun",
        }
    }

    const fn is(self, weekday: Weekday) -> bool {
        matches!(
            (self, weekday),
            (Day::Mon, Weekday::Monday)
                | (Day::Tue, Weekday::Tuesday)
                | (Day::Wed, Weekday::Wednesday)
                | (Day::Thu, Weekday::Thursday)
                | (Day::Fri, Weekday::Friday)
                | (Day::Sat, Weekday::Saturday)
                | (Day::Sun, Weekday::Sunday)
        )
    }
}

/// A time that comes again each week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it opens; every day, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// When it opens, by the clocks of its time zone: `02:00`.
    pub start: String,
    /// How long it is open, in seconds.
    pub duration_s: u64,
    /// The zone, by its name in the IANA database: `Europe/Berlin`.
    pub timezone: String,
}

impl Window {
    /// Its beginnings around `now`, the first that may still be open first.
    fn starts(&self, now: Timestamp) -> Result<Vec<Timestamp>, Fault> {
        let wrong = |what: &str, e: jiff::Error| Fault::new(Code::BadContent, format!("`maintenance`: {what}: {e}"));
        // Not the machine's own, so that it means the same everywhere.
        let zone = TimeZoneDatabase::bundled().get(&self.timezone);
        let zone = zone.map_err(|e| wrong("`timezone` is a name such as `Europe/Berlin` or `UTC`", e))?;
        let start = Time::strptime("%H:%M", &self.start).map_err(|e| wrong("`start` is a time such as `02:00`", e))?;
        let today = Zoned::new(now, zone.clone()).date();
        let before = i64::try_from(self.duration_s / DAY_S).unwrap_or(7) + 1;
        let mut starts = Vec::new();
        for offset in -before..=8 {
            let Ok(date) = today.checked_add(Span::new().days(offset)) else { continue };
            if !self.days.is_empty() && !self.days.iter().any(|day| day.is(date.weekday())) {
                continue;
            }
            // A time that the clocks leave out is as much later as they jump; of one that comes twice it is the first.
            if let Ok(at) = date.to_datetime(start).to_zoned(zone.clone()) {
                starts.push(at.timestamp());
            }
        }
        Ok(starts)
    }

    fn ends(&self, start: Timestamp) -> Timestamp {
        let lasts = SignedDuration::from_secs(i64::try_from(self.duration_s).unwrap_or(i64::MAX));
        start.checked_add(lasts).unwrap_or(Timestamp::MAX)
    }
}

/// Checks what windows must be, wherever they come from.
///
/// # Errors
/// [`Code::BadContent`], with what is wrong.
pub fn require_sound(windows: &[Window]) -> Result<(), Fault> {
    let wrong = |message: String| Err(Fault::new(Code::BadContent, message));
    if windows.len() > WINDOWS_MAX {
        return wrong(format!("`maintenance` has {} windows; at most {WINDOWS_MAX} are kept apart", windows.len()));
    }
    for window in windows {
        if window.duration_s < 60 || window.duration_s > WINDOW_MAX_S {
            return wrong("`duration` of a maintenance window is from 1 minute to 7 days".to_owned());
        }
        window.starts(Timestamp::UNIX_EPOCH)?;
    }
    Ok(())
}

/// A moment for people: RFC 3339 in UTC.
#[must_use]
pub fn moment(at: UnixSeconds) -> String {
    let shown = i64::try_from(at.0).ok().and_then(|s| Timestamp::from_second(s).ok());
    shown.map_or_else(|| at.0.to_string(), |at| at.to_string())
}

/// When the next of `windows` opens; `None` when one is open, or there are none at all.
///
/// # Errors
/// As [`require_sound`].
pub fn opens_at(windows: &[Window], now: UnixSeconds) -> Result<Option<UnixSeconds>, Fault> {
    let now = i64::try_from(now.0).ok().and_then(|s| Timestamp::from_second(s).ok());
    let now = now.ok_or_else(|| Fault::new(Code::BadContent, "the time is beyond what clocks can show"))?;
    let mut next: Option<Timestamp> = None;
    for window in windows {
        for start in window.starts(now)? {
            if start <= now && now < window.ends(start) {
                return Ok(None);
            }
            if start > now {
                next = Some(next.map_or(start, |earlier| earlier.min(start)));
            }
        }
    }
    Ok(next.and_then(|at| u64::try_from(at.as_second()).ok()).map(UnixSeconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Day], start: &str, duration_s: u64, timezone: &str) -> Window {
        Window { days: days.to_vec(), start: start.to_owned(), duration_s, timezone: timezone.to_owned() }
    }

    fn at(text: &str) -> UnixSeconds {
        UnixSeconds(u64::try_from(text.parse::<Timestamp>().unwrap().as_second()).unwrap())
    }

    /// When it opens from a moment on; `None`: it is open.
    fn opens(window: &Window, now: &str) -> Option<UnixSeconds> {
        opens_at(std::slice::from_ref(window), at(now)).unwrap()
    }

    #[test]
    fn a_window_is_open_from_its_start_until_it_is_over_and_no_longer() {
        // 2026-11-21 is a Saturday.
        let night = window(&[Day::Sat], "02:00", 3 * 3600, "UTC");
        for (now, expected) in [
            ("2026-11-21T01:59:59Z", Some("2026-11-21T02:00:00Z")),
            ("2026-11-21T02:00:00Z", None),
            ("2026-11-21T04:59:59Z", None),
            ("2026-11-21T05:00:00Z", Some("2026-11-28T02:00:00Z")),
            ("2026-11-22T03:00:00Z", Some("2026-11-28T02:00:00Z")),
        ] {
            assert_eq!(opens(&night, now), expected.map(at), "{now}");
        }
        let over_midnight = window(&[Day::Sun], "23:00", 2 * 3600, "UTC");
        assert_eq!(opens(&over_midnight, "2026-11-23T00:30:00Z"), None, "Monday, and it is Sunday's");
        let week = window(&[Day::Mon], "00:00", WINDOW_MAX_S, "UTC");
        assert_eq!(opens(&week, "2026-11-22T23:59:59Z"), None);
        assert_eq!(opens(&window(&[], "12:00", 60, "UTC"), "2026-11-21T12:01:00Z"), Some(at("2026-11-22T12:00:00Z")));
        assert_eq!(opens_at(&[], at("2026-11-21T00:00:00Z")).unwrap(), None, "without windows it is always time");
        let both = [night, window(&[Day::Sat], "05:00", 3600, "UTC")];
        assert_eq!(opens_at(&both, at("2026-11-21T05:10:00Z")).unwrap(), None);
        assert_eq!(opens_at(&both, at("2026-11-21T06:10:00Z")).unwrap(), Some(at("2026-11-28T02:00:00Z")));
    }

    #[test]
    fn it_goes_by_the_clocks_of_its_place_through_their_changes() {
        let berlin = window(&[], "02:30", 3600, "Europe/Berlin");
        assert_eq!(opens(&berlin, "2026-07-01T00:00:00Z"), Some(at("2026-07-01T00:30:00Z")));
        assert_eq!(opens(&berlin, "2026-12-01T00:00:00Z"), Some(at("2026-12-01T01:30:00Z")));
        // On 2026-03-29 there is no 02:30: it is 03:30. On 2026-10-25 there are two: the first counts.
        assert_eq!(opens(&berlin, "2026-03-29T00:45:00Z"), Some(at("2026-03-29T01:30:00Z")));
        assert_eq!(opens(&berlin, "2026-10-25T00:00:00Z"), Some(at("2026-10-25T00:30:00Z")));
        assert_eq!(opens(&berlin, "2026-10-25T01:15:00Z"), None);
        assert_eq!(opens(&berlin, "2026-10-25T01:30:00Z"), Some(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn what_no_clock_shows_is_refused() {
        for (wrong, says) in [
            (window(&[], "25:00", 60, "UTC"), "02:00"),
            (window(&[], "2", 60, "UTC"), "02:00"),
            (window(&[], "02:00", 60, "Europe/Nowhere"), "Europe/Berlin"),
            (window(&[], "02:00", 59, "UTC"), "1 minute"),
            (window(&[], "02:00", WINDOW_MAX_S + 1, "UTC"), "7 days"),
        ] {
            let fault = require_sound(std::slice::from_ref(&wrong)).unwrap_err();
            assert!(fault.code == Code::BadContent && fault.message.contains(says), "{wrong:?}: {fault}");
        }
        require_sound(&vec![window(&[], "02:00", 60, "UTC"); WINDOWS_MAX]).unwrap();
        require_sound(&vec![window(&[], "02:00", 60, "UTC"); WINDOWS_MAX + 1]).unwrap_err();
    }
}
