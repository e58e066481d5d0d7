//! Whether a newly accepted slice stays, or the fallback that an operator signed into it comes back. Pure.
//!
//! | caller (agent) does IO | this decides |
//! |---|---|
//! | keeps the time that the host has run since the slice was accepted, looks at its containers, hears confirmations | it stays for good, it is given up, or look again then |
//!
//! Time is what the host has run: no clock that somebody sets shortens it or draws it out, and nobody's absence does.

use std::fmt;
use std::time::Duration;

use crate::id::ResourceId;
use crate::observe::{ContainerState, GuestStatus, Health, Observed};
use crate::plan::Identity;
use crate::plan::lower::lower;
use crate::statement::Fallback;
use crate::topology::{HostSpec, Power};

/// How long a host has to be healthy without a break before a slice without a fallback counts as healthy.
pub const HEALTHY_FOR_DEFAULT: Duration = Duration::from_secs(10);
/// The shortest and the longest time that an operator gives a trial.
pub const TTL_S: std::ops::RangeInclusive<u64> = 30..=24 * 3600;
/// After an agent's start a host is looked at for this much longer than it has to be healthy, before that it is not counts: its
/// containers may be starting, too.
pub const JUDGE_GRACE: Duration = Duration::from_secs(20);

/// What is known of the host and its newest slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// How long the host has run since it accepted the slice.
    pub elapsed: Duration,
    /// How long this run of the agent has been able to see whether it is healthy.
    pub watched: Duration,
    /// How long it has been healthy without a break; `None` when it is not.
    pub healthy: Option<Duration>,
    /// An operator has confirmed it.
    pub confirmed: bool,
    /// An operation keeps something unlike the slice: how healthy that is, is no matter of the slice.
    pub held: bool,
}

/// What becomes of the slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet: look again after this time, or when something has changed.
    Keep(Option<Duration>),
    /// It stays, and its fallback can never be used again.
    Lapse,
    /// It is given up.
    GoBack(Reason),
}

/// Why a slice is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody confirmed it in time.
    NotConfirmed {
        /// The time.
        within_s: u64,
    },
    /// The host was not healthy for long enough in time.
    NotHealthy {
        /// How long it had to be.
        healthy_for_s: u64,
        /// The time.
        within_s: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotConfirmed { within_s } => write!(f, "not confirmed within {within_s} s"),
            Reason::NotHealthy { healthy_for_s, within_s } => write!(f, "not healthy for {healthy_for_s} s within {within_s} s"),
        }
    }
}

/// Decides for a slice on `terms`; `None` for one without a fallback, which lapses into being healthy and never goes.
#[must_use]
pub fn decide(terms: Option<&Fallback>, known: Known) -> Verdict {
    let Some(terms) = terms else { return by_health(HEALTHY_FOR_DEFAULT, known).unwrap_or_else(Verdict::Keep) };
    if known.confirmed {
        return Verdict::Lapse;
    }
    let left = Duration::from_secs(terms.within_s).saturating_sub(known.elapsed);
    if terms.needs_confirm {
        let over = Verdict::GoBack(Reason::NotConfirmed { within_s: terms.within_s });
        return if left.is_zero() { over } else { Verdict::Keep(Some(left)) };
    }
    let healthy_for = Duration::from_secs(terms.healthy_for_s);
    let until_healthy = match by_health(healthy_for, known) {
        Ok(verdict) => return verdict,
        Err(wait) => wait,
    };
    if known.held {
        return Verdict::Keep(None);
    }
    let left = left.max((healthy_for + JUDGE_GRACE).saturating_sub(known.watched));
    if left.is_zero() {
        return Verdict::GoBack(Reason::NotHealthy { healthy_for_s: terms.healthy_for_s, within_s: terms.within_s });
    }
    Verdict::Keep(Some(until_healthy.map_or(left, |wait| wait.min(left))))
}

/// Healthy for long enough, or how long that still takes if it stays so.
fn by_health(healthy_for: Duration, known: Known) -> Result<Verdict, Option<Duration>> {
    match known.healthy.filter(|_| !known.held) {
        Some(healthy) if healthy >= healthy_for => Ok(Verdict::Lapse),
        Some(healthy) => Err(Some(healthy_for - healthy)),
        None => Err(None),
    }
}

/// What keeps a host that is as `spec` says from being healthy, if anything: each container that shall run for good has to run, and
/// what has a healthcheck has to pass it (to be starting is not enough); each guest that shall run has to run.
#[must_use]
pub fn ailing(identity: &Identity, spec: &HostSpec, observed: &Observed) -> Option<(ResourceId, String)> {
    let mut guests = spec.guests().filter(|(_, guest)| guest.state == Some(Power::Running));
    let ailing = guests.find_map(|(vmid, _)| {
        let why = match observed.guests().find(|(live, _)| *live == vmid).map(|(_, live)| live.status) {
            Some(GuestStatus::Running) => return None,
            Some(GuestStatus::Stopped | GuestStatus::Paused) => "does not run",
            None => "does not exist",
        };
        Some((vmid.resource(), why.to_owned()))
    });
    if ailing.is_some() {
        return ailing;
    }
    let lowered = lower(identity, spec);
    lowered.containers.into_iter().find_map(|(resource, wanted)| {
        let ends = wanted.may_complete || wanted.runs_once;
        let why = match observed.containers.get(&wanted.lowered.target.name) {
            None => "does not exist".to_owned(),
            Some(live) => match live.state {
                ContainerState::Running => match live.health {
                    Health::None | Health::Healthy => return None,
                    Health::Starting => "its healthcheck has not passed yet".to_owned(),
                    Health::Unhealthy => "its healthcheck fails".to_owned(),
                },
                // A pass that is content has judged by which code it may.
                ContainerState::Exited if ends => return None,
                ContainerState::Exited => format!("exited with code {}", live.exit_code.unwrap_or_default()),
                ContainerState::Restarting => {
                    format!("exited with code {}; the engine starts it again", live.exit_code.unwrap_or_default())
                }
                ContainerState::Created | ContainerState::Paused | ContainerState::Removing | ContainerState::Dead => {
                    "does not run".to_owned()
                }
            },
        };
        Some((resource, why))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{Generation, VersionHash};

    fn terms(needs_confirm: bool) -> Fallback {
        let version_hash = VersionHash::of_bytes(b"before");
        Fallback { generation: Generation(4), version_hash, within_s: 600, healthy_for_s: 30, needs_confirm }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// A host whose agent has been looking since it accepted the slice.
    fn known(elapsed: u64, healthy: Option<u64>) -> Known {
        Known { elapsed: secs(elapsed), watched: secs(elapsed), healthy: healthy.map(secs), ..Known::default() }
    }

    #[test]
    fn a_trial_ends_by_a_confirmation_or_by_its_time_and_by_nothing_else() {
        let trial = terms(true);
        assert_eq!(decide(Some(&trial), known(0, Some(0))), Verdict::Keep(Some(secs(600))));
        assert_eq!(decide(Some(&trial), known(599, Some(599))), Verdict::Keep(Some(secs(1))), "however healthy");
        let over = Verdict::GoBack(Reason::NotConfirmed { within_s: 600 });
        for known in [known(600, Some(600)), known(9_999, None), Known { held: true, ..known(600, None) }] {
            assert_eq!(decide(Some(&trial), known), over);
            assert_eq!(decide(Some(&trial), Known { confirmed: true, ..known }), Verdict::Lapse);
        }
    }

    #[test]
    fn what_is_healthy_for_long_enough_in_time_stays_and_nothing_else_does() {
        let by_health = terms(false);
        let of = |known| decide(Some(&by_health), known);
        assert_eq!(of(known(100, Some(30))), Verdict::Lapse);
        assert_eq!(of(known(100, Some(12))), Verdict::Keep(Some(secs(18))));
        assert_eq!(of(known(100, None)), Verdict::Keep(Some(secs(500))));
        assert_eq!(of(known(590, Some(12))), Verdict::Keep(Some(secs(10))), "the end of the time comes first");
        let failed = Verdict::GoBack(Reason::NotHealthy { healthy_for_s: 30, within_s: 600 });
        assert_eq!(of(known(600, Some(29))), failed);
        assert_eq!(of(known(600, None)), failed);
        assert_eq!(of(known(700, Some(30))), Verdict::Lapse, "both at once: it is good");
        assert_eq!(of(Known { held: true, ..known(700, Some(90)) }), Verdict::Keep(None), "an operator is at it");
        assert_eq!(of(Known { confirmed: true, ..known(700, None) }), Verdict::Lapse);
    }

    #[test]
    fn an_agent_that_has_just_begun_to_look_does_not_judge_by_what_it_has_not_seen() {
        let by_health = terms(false);
        let late = |watched, healthy: Option<u64>| Known { watched: secs(watched), healthy: healthy.map(secs), ..known(5_000, None) };
        assert_eq!(decide(Some(&by_health), late(0, None)), Verdict::Keep(Some(secs(50))));
        assert_eq!(decide(Some(&by_health), late(35, Some(30))), Verdict::Lapse);
        assert!(matches!(decide(Some(&by_health), late(50, Some(20))), Verdict::GoBack(_)));
        assert!(matches!(decide(Some(&terms(true)), late(0, None)), Verdict::GoBack(_)), "a confirmation needs no eyes");
    }

    #[test]
    fn without_a_fallback_there_is_nothing_but_to_be_healthy() {
        assert_eq!(decide(None, known(9_999, None)), Verdict::Keep(None));
        assert_eq!(decide(None, known(9, Some(4))), Verdict::Keep(Some(secs(6))));
        assert_eq!(decide(None, known(10, Some(10))), Verdict::Lapse);
    }

    proptest! {
        #[test]
        fn it_is_decided_in_time_and_goes_back_only_when_it_is_over(
            needs_confirm: bool, elapsed in 0..2_000u64, watched in 0..2_000u64, healthy in proptest::option::of(0..2_000u64), held: bool,
        ) {
            let terms = terms(needs_confirm);
            let known = Known { elapsed: secs(elapsed), watched: secs(watched), healthy: healthy.map(secs), confirmed: false, held };
            match decide(Some(&terms), known) {
                Verdict::GoBack(_) => prop_assert!(elapsed >= 600),
                Verdict::Lapse => prop_assert!(!needs_confirm && healthy >= Some(30)),
                Verdict::Keep(Some(wait)) => {
                    prop_assert!(!wait.is_zero());
                    // With nothing but time passing it is over then, or sooner.
                    let healthy = known.healthy.map(|h| h + secs(700));
                    let later = Known { elapsed: known.elapsed + secs(700), watched: known.watched + secs(700), healthy, ..known };
                    prop_assert!(!matches!(decide(Some(&terms), later), Verdict::Keep(Some(_))));
                }
                Verdict::Keep(None) => prop_assert!(held && !needs_confirm),
            }
        }
    }
}
