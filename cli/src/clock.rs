//! The only place where `moorctl` reads the clock, and how it reads and writes spans of time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_common::id::UnixSeconds;

/// Now, by this machine's clock.
#[must_use]
pub fn now() -> UnixSeconds {
    UnixSeconds(now_ms() / 1000)
}

/// Now, in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a span such as `90s`, `10m`, `1h30m`, `30d` or `2w`.
///
/// # Errors
/// What was expected.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a span of time; write it like 90s, 10m, 1h30m or 30d");
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).and_then(|d| d.parse().ok()).ok_or_else(wrong)?;
        rest = rest.get(digits..).unwrap_or("");
        let unit = rest.chars().next().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            'w' => 7 * 24 * 3600,
            _ => return Err(wrong()),
        };
        total = number.checked_mul(seconds).and_then(|s| total.checked_add(s)).ok_or_else(wrong)?;
        rest = rest.get(unit.len_utf8()..).unwrap_or("");
    }
    Ok(Duration::from_secs(total))
}

/// How long ago `then_ms` was at `now_ms`, for people: `3s`, `4m`, `2h`, `5d`.
#[must_use]
pub fn age(then_ms: u64, now_ms: u64) -> String {
    span_words(now_ms.saturating_sub(then_ms) / 1000)
}

/// `seconds` in its largest fitting unit.
#[must_use]
pub fn span_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A moment as RFC 3339 in UTC, to the second.
#[must_use]
pub fn rfc3339(unix_ms: u64) -> String {
    i64::try_from(unix_ms / 1000).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()).map_or_else(|| "-".to_owned(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_span("30d"), Ok(Duration::from_secs(2_592_000)));
        for bad in ["", "10", "m", "1y", "-1s", "1 h", "99999999999999999999w", "1é"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(age(0, 3_000), "3s");
        assert_eq!(age(0, 600_000), "10m");
        assert_eq!(age(0, 86_400_000), "24h");
        assert_eq!(age(9_000, 1_000), "0s");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    }
}
