//! What goes wrong, when it is switched on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde::{Deserialize, Serialize};

/// Everything that can go wrong. By default nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Calls that go wrong. Of those that match one call, every one counts.
    pub calls: Vec<CallFault>,
    /// Workers that die: their task ends with `unexpected status`, and locks stay.
    pub worker_dies: Vec<WorkerFault>,
    /// How long tasks take.
    pub task_takes: Vec<TaskTakes>,
    /// Tasks that fail without an effect, and what they say.
    pub task_fails: Vec<TaskFails>,
    /// Storages on which nothing more can be made.
    pub storage_full: BTreeSet<String>,
    /// vmids whose config's file is held by somebody.
    pub flock_busy: BTreeSet<u32>,
    /// vmids that the token no longer sees: lists leave them out, and calls are forbidden.
    pub hide: BTreeSet<u32>,
    /// Nothing answers: every connection is cut.
    pub unreachable: bool,
    /// Guests that do not react when they are asked to shut down.
    pub deaf: BTreeSet<u32>,
    /// Guests whose guest agent does not answer.
    pub mute: BTreeSet<u32>,
    /// Names of nodes that are off. Calls for them end with 595.
    pub nodes_off: BTreeSet<String>,
    /// How long a call takes before it has its effect and is answered, by `METHOD path` as a regular expression: a slow storage.
    /// From 30 s on the proxy answers 596, and the effect comes nevertheless.
    pub call_takes: Vec<CallTakes>,
    /// Connections of [`crate::https`].
    pub connections: Connections,
}

/// What goes wrong with a connection before anything was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// Nothing.
    #[default]
    Good,
    /// It is taken, and then nothing comes, not even the handshake.
    HalfOpen,
    /// It is taken and cut.
    Cut,
    /// Answers come a byte at a time.
    Slow,
}

/// Calls that go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallFault {
    /// The method; every one when left out.
    #[serde(default)]
    pub method: Option<String>,
    /// A regular expression that matches some of the path behind `/api2/json`.
    #[serde(default)]
    pub path: String,
    /// How many more calls; all when left out.
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
    /// It takes so much longer until it begins, in milliseconds.
    DelayMs(u64),
    /// It has its effect after so many milliseconds more, and the answer waits for it.
    TakesMs(u64),
    /// It has its effect, and nothing ever comes back.
    Hang,
    /// It is no JSON that comes back, though the status is 200, after its effect.
    Garbage,
}

/// Workers that die.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerFault {
    /// A regular expression that matches the whole type.
    pub task: String,
    /// Whether what it was to do is done.
    #[serde(default)]
    pub after_effect: bool,
    /// How many more; all when left out.
    #[serde(default)]
    pub next: Option<u32>,
}

/// How long tasks take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskTakes {
    /// A regular expression that matches the whole type.
    pub task: String,
    /// In milliseconds.
    pub ms: u64,
}

/// How long calls take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallTakes {
    /// A regular expression that matches some of `METHOD path`.
    pub call: String,
    /// In milliseconds.
    pub ms: u64,
}

/// Tasks that fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFails {
    /// A regular expression that matches the whole type.
    pub task: String,
    /// Their exit status.
    pub words: String,
    /// How many more; all when left out.
    #[serde(default)]
    pub next: Option<u32>,
}

/// Stale locks to put on guests, for [`crate::World::set_locks`].
pub type Locks = BTreeMap<u32, String>;

impl Faults {
    /// What goes wrong with a call; counts it.
    pub fn take(&mut self, method: &str, path: &str) -> Vec<Wrong> {
        let mut found = Vec::new();
        self.calls.retain(|fault| fault.next != Some(0));
        for fault in &mut self.calls {
            let is_method = fault.method.as_ref().is_none_or(|word| word == method);
            if is_method && matches(&fault.path, path) && count(&mut fault.next) {
                found.push(fault.then.clone());
            }
        }
        found
    }

    /// Whether the worker of a task dies, and whether only after its effect; counts it.
    pub fn dies(&mut self, task: &str) -> Option<bool> {
        let fault = self.worker_dies.iter_mut().find(|fault| matches_all(&fault.task, task) && fault.next != Some(0))?;
        count(&mut fault.next).then_some(fault.after_effect)
    }

    /// The words with which a task fails; counts it.
    pub fn fails(&mut self, task: &str) -> Option<String> {
        let fault = self.task_fails.iter_mut().find(|fault| matches_all(&fault.task, task) && fault.next != Some(0))?;
        count(&mut fault.next).then(|| fault.words.clone())
    }

    /// How long a task takes, if that is set.
    #[must_use]
    pub fn takes(&self, task: &str) -> Option<u64> {
        self.task_takes.iter().find(|fault| matches_all(&fault.task, task)).map(|fault| fault.ms)
    }

    /// How long a call takes until its effect.
    #[must_use]
    pub fn call_ms(&self, method: &str, path: &str) -> u64 {
        let call = format!("{method} {path}");
        self.call_takes.iter().filter(|fault| matches(&fault.call, &call)).map(|fault| fault.ms).max().unwrap_or(0)
    }
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

fn matches_all(pattern: &str, text: &str) -> bool {
    matches(&format!("^(?:{pattern})$"), text)
}
