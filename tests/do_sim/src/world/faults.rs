//! What goes wrong, when it is switched on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::action::Fate;
use super::random::Random;

/// Everything that can go wrong. By default nothing does; what is merely late is in [`crate::setup::Latencies`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Calls that go wrong. Of those that match one call, every one counts.
    pub calls: Vec<CallFault>,
    /// Droplets that do not become what they should. The first one that matches counts.
    pub creates: Vec<CreateFault>,
    /// Actions that do not do what they should. The first one that matches counts.
    pub actions: Vec<ActionFault>,
    /// Numbers of droplets and snapshots that listings miss.
    pub hide: BTreeSet<u64>,
    /// What was deleted stands in listings for ever.
    pub lingers: bool,
    /// Links to further pages point there: `https://evil.example`.
    pub next_base: Option<String>,
    /// What happens to listings while somebody turns their pages.
    pub shifts: Shifts,
    /// Nothing answers: every connection is cut.
    pub unreachable: bool,
    /// Whatever of it, at random, besides.
    pub chaos: Chaos,
}

/// How much goes wrong at random, of a thousand. The same comes of the same seed and the same calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chaos {
    /// Calls.
    pub calls: u64,
    /// Droplets' creations.
    pub creates: u64,
    /// Actions.
    pub actions: u64,
}

/// Listings that change between one page and the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shifts {
    /// None.
    #[default]
    No,
    /// Something came before the page's end: the last of a page is also the first of the next.
    Repeats,
    /// Something before the page's end went: one between two pages is on neither.
    Skips,
}

/// Calls that go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallFault {
    /// The method; every one when left out.
    #[serde(default)]
    pub method: Option<String>,
    /// A regular expression that matches some of the path with its query: `^/v2/droplets$`.
    #[serde(default)]
    pub path: String,
    /// How many matching calls are spared first.
    #[serde(default)]
    pub spares: u32,
    /// How many more; all when left out.
    #[serde(default)]
    pub next: Option<u32>,
    /// What goes wrong.
    pub then: Wrong,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// It has its effect, and then the connection is cut.
    LoseReply,
    /// The connection is cut before it has an effect.
    LoseRequest,
    /// It has its effect, and this status is answered.
    StatusAfter(u16),
    /// It has no effect, and this status is answered.
    StatusBefore(u16),
    /// It is on its way for so many milliseconds before it begins, whether or not anybody still waits for its answer.
    DelayMs(u64),
    /// It has its effect, and nothing ever comes back.
    Hang,
    /// It is no JSON that comes back, though the status is right, after its effect.
    Garbage,
    /// A listing shows nothing at all.
    Empty,
    /// It has no effect, and there were too many calls, with as many seconds to wait as said: in a burst, or in an hour when nothing is said.
    TooMany(Option<u64>),
}

/// Droplets that do not become what they should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateFault {
    /// A regular expression that matches some of the name.
    #[serde(default)]
    pub name: String,
    /// How many more; all when left out.
    #[serde(default)]
    pub next: Option<u32>,
    /// What becomes of it.
    pub then: Birth,
}

/// What becomes of a droplet that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Birth {
    /// It stays `new`, and costs.
    NeverActive,
    /// Its creation is `errored`, it stays `new`, and costs.
    Errored,
    /// There was no place for it: after so many milliseconds it is gone, and its creation is `errored`.
    VanishesAfterMs(u64),
    /// It becomes active only after so many milliseconds.
    ActiveAfterMs(u64),
}

/// Actions that do not do what they should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionFault {
    /// A regular expression that matches the whole type: `snapshot`.
    pub action: String,
    /// How many more; all when left out.
    #[serde(default)]
    pub next: Option<u32>,
    /// What becomes of it.
    pub then: Fate,
}

impl Faults {
    /// What goes wrong with a call; counts it.
    pub fn take(&mut self, method: &str, path: &str, random: &mut Random) -> Vec<Wrong> {
        let mut found = Vec::new();
        self.calls.retain(|fault| fault.next != Some(0));
        for fault in &mut self.calls {
            if fault.method.as_ref().is_some_and(|word| word != method) || !matches(&fault.path, path) {
                continue;
            }
            if fault.spares > 0 {
                fault.spares -= 1;
            } else if count(&mut fault.next) {
                found.push(fault.then.clone());
            }
        }
        if found.is_empty() && happens(random, self.chaos.calls) {
            let ms = random.number() % CHAOS_LATE_MS;
            let any = [
                Wrong::LoseReply,
                Wrong::LoseRequest,
                Wrong::StatusAfter(500),
                Wrong::StatusAfter(504),
                Wrong::StatusBefore(503),
                Wrong::DelayMs(ms),
                Wrong::Hang,
                Wrong::Garbage,
                Wrong::Empty,
                Wrong::TooMany(Some(1)),
            ];
            found.extend(one_of(random, any));
        }
        found
    }

    /// What becomes of a new droplet, if anything special; counts it.
    pub fn birth(&mut self, name: &str, random: &mut Random) -> Option<Birth> {
        let fault = self.creates.iter_mut().find(|fault| matches(&fault.name, name) && fault.next != Some(0));
        let said = fault.and_then(|fault| count(&mut fault.next).then_some(fault.then));
        if said.is_some() || !happens(random, self.chaos.creates) {
            return said;
        }
        let ms = random.number() % CHAOS_LATE_MS;
        one_of(random, [Birth::NeverActive, Birth::Errored, Birth::VanishesAfterMs(ms), Birth::ActiveAfterMs(2 * ms)])
    }

    /// What becomes of an action; counts it.
    pub fn fate(&mut self, action: &str, random: &mut Random) -> Fate {
        let whole = |fault: &ActionFault| matches(&format!("^(?:{})$", fault.action), action);
        let fault = self.actions.iter_mut().find(|fault| whole(fault) && fault.next != Some(0));
        let said = fault.and_then(|fault| count(&mut fault.next).then_some(fault.then));
        if said.is_some() || !happens(random, self.chaos.actions) {
            return said.unwrap_or(Fate::Completes);
        }
        let ms = random.number() % CHAOS_LATE_MS;
        let any = [Fate::NeverEnds, Fate::Errored, Fate::ErroredAfterEffect, Fate::NoEffect, Fate::TakesMs(2 * ms), Fate::SeenAfterMs(ms)];
        one_of(random, any).unwrap_or(Fate::Completes)
    }
}

/// What is late at random is at most so late.
const CHAOS_LATE_MS: u64 = 20_000;

/// Whether so many of a thousand happen.
fn happens(random: &mut Random, of_a_thousand: u64) -> bool {
    of_a_thousand > 0 && random.number() % 1000 < of_a_thousand
}

fn one_of<T, const N: usize>(random: &mut Random, any: [T; N]) -> Option<T> {
    let count = u64::try_from(N).ok()?;
    any.into_iter().nth(usize::try_from(random.number().checked_rem(count)?).ok()?)
}

fn count(next: &mut Option<u32>) -> bool {
    match next {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

/// Patterns that were read: every call is held to some.
static READ: LazyLock<Mutex<BTreeMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);

/// A pattern that cannot be read matches nothing.
fn matches(pattern: &str, text: &str) -> bool {
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if !read.contains_key(pattern) {
        read.insert(pattern.to_owned(), Regex::new(pattern).ok());
    }
    read.get(pattern).is_some_and(|regex| regex.as_ref().is_some_and(|regex| regex.is_match(text)))
}
