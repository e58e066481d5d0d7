//! Drift: one field of one resource whose live value differs from the slice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{ResourceId, sha256_hex};
use crate::plan::Fields;
use crate::plan::compare::{NAME, PRESENCE, STATE};

/// A field that was healed so often within [`LOOP_WINDOW`] is left to an operator.
pub const LOOP_HEALS: usize = 3;
/// See [`LOOP_HEALS`].
pub const LOOP_WINDOW: Duration = Duration::from_secs(600);
/// The most characters of a value that a report and the inbox show. Of a longer one they show the beginning and its SHA-256: two that
/// differ still do.
pub const VALUE_MAX: usize = 1024;

/// A difference between the slice and the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// The resource.
    pub resource: ResourceId,
    /// The field, in the topology file's words, such as `restart` or `environment.HOST`.
    pub field: String,
    /// What the slice says, for people.
    pub expected: String,
    /// What the host has, for people.
    pub actual: String,
}

impl Drift {
    /// As a report shows it.
    #[must_use]
    pub fn shown(&self) -> Drift {
        let Drift { resource, field, expected, actual } = self;
        Drift { resource: resource.clone(), field: shown(field), expected: shown(expected), actual: shown(actual) }
    }

    /// Whether it says that an object of ours is not there under its name, or does not run.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        match self.field.as_str() {
            PRESENCE => self.actual == "missing",
            field => field == STATE || field == NAME,
        }
    }

    /// Whether it cannot have come by itself, as the end of a container's process can.
    #[must_use]
    pub fn is_somebodys_doing(&self) -> bool {
        // Killed or asked to stop: what fails by itself, or is out of memory, ends otherwise.
        self.field != STATE || ["paused", "exited (137)", "exited (143)"].contains(&self.actual.as_str())
    }
}

/// `value` as a report and the inbox show it.
#[must_use]
pub fn shown(value: &str) -> String {
    if value.chars().count() <= VALUE_MAX {
        return value.to_owned();
    }
    let digest = format!("… sha256:{}", sha256_hex(value.as_bytes()));
    let room = VALUE_MAX.saturating_sub(digest.chars().count());
    value.chars().take(room).chain(digest.chars()).collect()
}

/// The loop breaker: which fields were healed so often that somebody else keeps changing them. What time it is the caller says.
///
/// Whether a process ends by itself again and again is another question: that is tried again with growing waits, for ever.
#[derive(Debug, Default)]
pub struct Breaker {
    tracks: BTreeMap<(ResourceId, String), Track>,
}

#[derive(Debug, Default)]
struct Track {
    /// When it was healed, in seconds; at most [`LOOP_HEALS`].
    healed: VecDeque<u64>,
    /// It differs, and nobody heals it any more.
    is_open: bool,
}

impl Track {
    fn is_tripped(&self, now_s: u64) -> bool {
        let since = now_s.saturating_sub(LOOP_WINDOW.as_secs());
        self.is_open || self.healed.iter().filter(|at| **at >= since).count() >= LOOP_HEALS
    }
}

impl Breaker {
    /// A new slice: everything may be healed again.
    pub fn reset(&mut self) {
        self.tracks.clear();
    }

    /// Takes note of what was healed.
    pub fn healed(&mut self, drift: &[Drift], now_s: u64) {
        for one in drift.iter().filter(|d| d.field != STATE || d.actual == "paused") {
            let track = self.tracks.entry((one.resource.clone(), one.field.clone())).or_default();
            track.healed.push_back(now_s);
            if track.healed.len() > LOOP_HEALS {
                track.healed.pop_front();
            }
        }
    }

    /// What is left to an operator.
    #[must_use]
    pub fn left(&self, now_s: u64) -> Fields {
        let mut left = Fields::new();
        for (resource, field) in self.tracks.iter().filter(|(_, track)| track.is_tripped(now_s)).map(|(key, _)| key) {
            left.entry(resource.clone()).or_default().insert(field.clone());
        }
        left
    }

    /// Takes note of what differs and is left so. What was left before and is as wanted again may be healed anew; what has held for long
    /// is forgotten.
    pub fn seen(&mut self, drift: &[Drift], now_s: u64) {
        let differs: BTreeSet<(&ResourceId, &str)> = drift.iter().map(|d| (&d.resource, d.field.as_str())).collect();
        let since = now_s.saturating_sub(LOOP_WINDOW.as_secs());
        self.tracks.retain(|(resource, field), track| {
            let is_open = differs.contains(&(resource, field.as_str()));
            let was_open = std::mem::replace(&mut track.is_open, is_open);
            is_open || (!was_open && track.healed.back().is_some_and(|at| *at >= since))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift(field: &str, actual: &str) -> Drift {
        let resource = ResourceId::parse("docker/container/edge-site-1").unwrap();
        Drift { resource, field: field.to_owned(), expected: "running".to_owned(), actual: actual.to_owned() }
    }

    fn left(breaker: &Breaker, now_s: u64) -> Vec<String> {
        breaker.left(now_s).into_values().flatten().collect()
    }

    #[test]
    fn a_field_that_was_healed_three_times_in_ten_minutes_is_left_until_it_is_as_wanted_again() {
        let (mut breaker, limit) = (Breaker::default(), [drift("mem_limit", "1")]);
        for at in [0, 300, 599] {
            assert!(left(&breaker, at).is_empty(), "{at}");
            breaker.healed(&limit, at);
            breaker.seen(&[], at);
        }
        assert_eq!(left(&breaker, 600), ["mem_limit"]);
        assert!(left(&breaker, 601).is_empty(), "the first one is ten minutes ago, and nothing differs");
        breaker.seen(&limit, 600);
        assert_eq!(left(&breaker, 99_999), ["mem_limit"], "it differs, and nobody heals it");
        breaker.seen(&[], 100_000);
        assert!(left(&breaker, 100_000).is_empty());
        breaker.healed(&limit, 100_000);
        assert!(left(&breaker, 100_000).is_empty(), "the count begins anew");
    }

    #[test]
    fn what_ends_by_itself_is_no_loop_and_what_somebody_pauses_is() {
        let mut breaker = Breaker::default();
        for at in 0..9 {
            breaker.healed(&[drift("state", "exited (1)"), drift("state", "exited (137, out of memory)"), drift("state", "dead")], at);
        }
        assert!(left(&breaker, 9).is_empty());
        (0..3).for_each(|at| breaker.healed(&[drift("state", "paused")], at));
        assert_eq!(left(&breaker, 9), ["state"]);
        breaker.reset();
        assert!(left(&breaker, 9).is_empty());
    }

    #[test]
    fn what_has_held_is_forgotten() {
        let mut breaker = Breaker::default();
        breaker.healed(&[drift("mem_limit", "1")], 0);
        breaker.seen(&[], 600);
        assert_eq!(breaker.tracks.len(), 1);
        breaker.seen(&[], 601);
        assert!(breaker.tracks.is_empty());
    }

    #[test]
    fn long_values_are_cut_and_still_differ() {
        let long = |end: &str| shown(&format!("{}{end}", "ä".repeat(5000)));
        assert_eq!(long("a").chars().count(), VALUE_MAX);
        assert_ne!(long("a"), long("b"));
        assert_eq!(shown("short"), "short");
    }
}
