//! How a revision is to spread: what stands under `rollout` in a topology file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fault::{Code, Fault};

/// The longest span of a plan, in seconds: a day.
pub const SPAN_MAX_S: u64 = 24 * 3600;
/// The most hosts that a share may count: more than one push has.
pub const COUNT_MAX: u32 = 1_000_000;

/// How many of the hosts that take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Share {
    /// How many of `total` it is; a part of a host counts as one.
    #[must_use]
    pub fn at_least(self, total: u32) -> u32 {
        match self {
            Share::Count(count) => count,
            Share::Percent(percent) => hundredths(total, percent, 99),
        }
    }

    /// How many of `total` it is; a part of a host does not count.
    #[must_use]
    pub fn at_most(self, total: u32) -> u32 {
        match self {
            Share::Count(count) => count,
            Share::Percent(percent) => hundredths(total, percent, 0),
        }
    }

    /// Whether it is none, whatever the total.
    #[must_use]
    pub fn is_none(self) -> bool {
        matches!(self, Share::Count(0) | Share::Percent(0))
    }
}

fn hundredths(total: u32, percent: u32, and: u64) -> u32 {
    let hosts = u64::from(total).saturating_mul(u64::from(percent)).saturating_add(and) / 100;
    u32::try_from(hosts).unwrap_or(u32::MAX)
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Count(count) => write!(f, "{count}"),
            Share::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Share {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let wrong = || Fault::new(Code::InvalidArgument, "expected a number of hosts or a share of them, such as `3` or `25%`");
        let (digits, is_percent) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        match is_percent {
            true if number <= 100 => Ok(Share::Percent(number)),
            false if number <= COUNT_MAX => Ok(Share::Count(number)),
            true => Err(Fault::new(Code::InvalidArgument, "a share is at most `100%`")),
            false => Err(Fault::new(Code::InvalidArgument, format!("a number of hosts is at most {COUNT_MAX}"))),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|fault: Fault| serde::de::Error::custom(fault.message))
    }
}

/// What happens when more hosts fail than the budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Each host that fails goes back by itself to what it had, and the rollout is over.
    #[default]
    Rollback,
    /// Hosts stay as they are, and the rollout waits for an operator.
    Pause,
}

impl OnFailure {
    /// The word in a file and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OnFailure::Rollback => "rollback",
            OnFailure::Pause => "pause",
        }
    }

    /// The meaning of a word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [OnFailure::Rollback, OnFailure::Pause].into_iter().find(|on| on.as_str() == text)
    }
}

/// How a revision is to spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// So many hosts must be healthy with it before any other gets it.
    pub canary: Share,
    /// At most so many have got it and are not healthy yet.
    pub max_parallel: Share,
    /// How long a host has to be healthy without a break, in seconds.
    pub healthy_for_s: u64,
    /// What happens when more hosts fail than the budget allows.
    pub on_failure: OnFailure,
    /// So many may fail.
    pub failure_budget: Share,
    /// How long a host may take to become healthy, in seconds.
    pub deadline_s: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            canary: Share::Count(1),
            max_parallel: Share::Percent(25),
            healthy_for_s: 30,
            on_failure: OnFailure::Rollback,
            failure_budget: Share::Count(0),
            deadline_s: 600,
        }
    }
}

impl Plan {
    /// Checks what the fields must be together, wherever they come from.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`], with what is wrong.
    pub fn require_sound(&self) -> Result<(), Fault> {
        let wrong = |message: String| Err(Fault::new(Code::InvalidArgument, message));
        if self.max_parallel.is_none() {
            return wrong("`max_parallel` lets no host have it".to_owned());
        }
        if self.deadline_s == 0 || self.deadline_s > SPAN_MAX_S {
            return wrong(format!("`deadline` is from 1 second to {} hours", SPAN_MAX_S / 3600));
        }
        if self.healthy_for_s >= self.deadline_s {
            return wrong(format!(
                "`deadline` ({} s) leaves no time to become healthy and to be so for `healthy_for` ({} s)",
                self.deadline_s, self.healthy_for_s
            ));
        }
        Ok(())
    }

    /// How it spreads, in a line.
    #[must_use]
    pub fn words(&self) -> String {
        let hosts = |share: Share| match share {
            Share::Count(1) => "1 host".to_owned(),
            Share::Count(count) => format!("{count} hosts"),
            Share::Percent(percent) => format!("{percent}% of the hosts"),
        };
        let canary = if self.canary.is_none() { String::new() } else { format!("{} first, then ", hosts(self.canary)) };
        let stop = match (self.on_failure, self.failure_budget.is_none()) {
            (OnFailure::Rollback, true) => "the first failure ends it and the host goes back".to_owned(),
            (OnFailure::Pause, true) => "the first failure pauses it".to_owned(),
            (OnFailure::Rollback, false) => {
                format!("hosts that fail go back, and more than {} end it", hosts(self.failure_budget))
            }
            (OnFailure::Pause, false) => format!("more than {} that fail pause it", hosts(self.failure_budget)),
        };
        format!(
            "{canary}at most {} at once, each healthy for {} s within {} s; {stop}",
            hosts(self.max_parallel),
            self.healthy_for_s,
            self.deadline_s
        )
    }
}
