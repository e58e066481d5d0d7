//! How often each token has called.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::setup::{Limits, UNLIMITED};

const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

/// The calls of the last hour, by token.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counters {
    calls: BTreeMap<String, Calls>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Calls {
    all: VecDeque<u64>,
    keys: VecDeque<u64>,
}

/// How a call stands to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many calls the hour allows.
    pub limit: usize,
    /// How many of them are left.
    pub remaining: usize,
    /// When the oldest one is forgotten, in seconds since 1970.
    pub reset: u64,
    /// Whether this one is too much.
    pub refused: Option<Refused>,
}

/// What a call is too much for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The hour. Nothing says how long to wait, but the time when the oldest call is forgotten.
    Hour,
    /// The minute.
    Burst {
        /// Seconds to wait.
        after: u64,
    },
}

impl Counters {
    /// Counts a call, unless it is too much.
    pub(crate) fn count(&mut self, token: &str, now_ms: u64, limits: Limits, lists_keys: bool) -> Standing {
        if limits.hourly >= UNLIMITED && limits.burst >= UNLIMITED && limits.keys >= UNLIMITED {
            return Standing { limit: UNLIMITED, remaining: UNLIMITED, reset: now_ms.saturating_add(HOUR_MS) / 1000, refused: None };
        }
        let calls = self.calls.entry(token.to_owned()).or_default();
        forget(&mut calls.all, now_ms, HOUR_MS);
        forget(&mut calls.keys, now_ms, MINUTE_MS);
        let minute = calls.all.iter().rev().take_while(|ms| ms.saturating_add(MINUTE_MS) > now_ms);
        let (in_minute, oldest) = minute.fold((0, now_ms), |(count, _), ms| (count + 1, *ms));
        let wait = |oldest: u64| (oldest.saturating_add(MINUTE_MS).saturating_sub(now_ms)).div_ceil(1000).max(1);
        let refused = if calls.all.len() >= limits.hourly {
            Some(Refused::Hour)
        } else if in_minute >= limits.burst {
            Some(Refused::Burst { after: wait(oldest) })
        } else if lists_keys && calls.keys.len() >= limits.keys {
            Some(Refused::Burst { after: wait(calls.keys.front().copied().unwrap_or(now_ms)) })
        } else {
            None
        };
        if refused.is_none() {
            calls.all.push_back(now_ms);
            if lists_keys {
                calls.keys.push_back(now_ms);
            }
        }
        let reset = calls.all.front().copied().unwrap_or(now_ms).saturating_add(HOUR_MS).div_ceil(1000);
        Standing { limit: limits.hourly, remaining: limits.hourly.saturating_sub(calls.all.len()), reset, refused }
    }
}

fn forget(calls: &mut VecDeque<u64>, now_ms: u64, after_ms: u64) {
    while calls.front().is_some_and(|ms| ms.saturating_add(after_ms) <= now_ms) {
        calls.pop_front();
    }
}
