//! The journal: what the agent is about to do, and how it ended, durable before anything follows.
//!
//! - A side effect starts only after its `started` record is durable; a result is reported only
//!   after its terminal record is.
//! - Appends that come together share one flush. The order of appends is the order in the file.
//! - A failed write or flush is final: the agent stops. It is never retried on the same descriptor.
//!
//! [`codec`] is the pure part (lines, chain, damage); [`mod@file`] and [`memory`] keep the records.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;

use moorline_common::id::ResourceId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod codec;
pub mod file;
pub mod memory;

/// Where an operation or step is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its side effect may begin any moment.
    Started,
    /// It is done.
    Succeeded,
    /// It has ended otherwise.
    Failed,
}

impl State {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            State::Started => false,
            State::Succeeded | State::Failed => true,
        }
    }
}

/// What a caller writes; the journal adds number, time, chain and checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The operation's id; a fresh one for each step of a reconcile pass.
    pub op_id: uuid::Uuid,
    /// The resource, and so the lane.
    pub resource: ResourceId,
    /// What is done, such as `create-container`.
    pub kind: &'static str,
    /// Details for people. Never a secret.
    pub params: Value,
    /// The driver's running work, if it has a name.
    pub task: Option<String>,
    /// Where it is.
    pub state: State,
    /// Empty for the steps of a reconcile pass: they are never deduplicated.
    pub idempotency_key: String,
}

/// One record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts all records, from 1, without gaps.
    pub seq: u64,
    /// The first `seq` that was written by the same flush.
    pub batch: u64,
    /// When, in milliseconds since 1970 by the wall clock.
    pub at: u64,
    /// See [`Entry::op_id`].
    pub op_id: String,
    /// See [`Entry::resource`].
    pub resource: String,
    /// See [`Entry::kind`].
    pub kind: String,
    /// See [`Entry::params`].
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
    /// See [`Entry::task`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// See [`Entry::state`].
    pub state: State,
    /// See [`Entry::idempotency_key`].
    pub idempotency_key: String,
    /// Lowercase hex SHA-256 of the previous line, without its line feed; empty for the first.
    pub prev: String,
}

/// The newest durable record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 for an empty journal.
    pub seq: u64,
    /// Lowercase hex SHA-256 of its line; empty for an empty journal.
    pub hash: String,
}

impl Head {
    /// The first 16 bytes of the hash, for the heartbeat.
    #[must_use]
    pub fn short(&self) -> Vec<u8> {
        hex::decode(self.hash.get(..32).unwrap_or_default()).unwrap_or_default()
    }
}

/// Why the journal cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// A write or flush failed, now or earlier: the agent must stop.
    #[error("the journal could not be written: {0}; free the disk, then start the agent again")]
    Failed(String),
    /// Its history is damaged: nothing may be changed until an operator acts.
    #[error("the journal {path} is damaged at byte {offset}: {what}; nothing is changed on this host until an operator approves it again (`moorctl host approve`)", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file cannot be read at all.
    #[error("the journal {path} cannot be opened: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// An append is larger than the journal takes.
    #[error("a journal append of {0} is past the limit")]
    TooLarge(String),
}

/// A durable, ordered list of records.
pub trait Journal: Clone + Send + Sync + 'static {
    /// Appends all `entries` in order, and returns when they are durable. Takes its place in the order
    /// when it is called, not when it is awaited.
    ///
    /// # Errors
    /// [`JournalError`]; after [`JournalError::Failed`] every append fails.
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static;

    /// The newest durable record.
    fn head(&self) -> Head;

    /// Ends when the journal has failed, with the reason.
    fn failed(&self) -> impl Future<Output = JournalError> + Send;
}

/// Steps that have started and not ended, by operation id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open(pub BTreeMap<String, Record>);

impl Open {
    /// Takes one more record into account.
    pub fn fold(&mut self, record: &Record) {
        if record.state.is_terminal() {
            self.0.remove(&record.op_id);
        } else {
            self.0.insert(record.op_id.clone(), record.clone());
        }
    }
}

/// The journal of this host: sound, or so damaged that nothing may be recorded and so nothing done.
#[derive(Clone)]
pub enum HostJournal {
    /// In use.
    Sound(file::FileJournal),
    /// In quarantine, for this reason.
    Damaged(JournalError),
}

impl Journal for HostJournal {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static {
        let pending = match self {
            HostJournal::Sound(journal) => Ok(journal.append(entries)),
            HostJournal::Damaged(error) => Err(error.clone()),
        };
        async move { pending?.await }
    }

    fn head(&self) -> Head {
        match self {
            HostJournal::Sound(journal) => journal.head(),
            HostJournal::Damaged(_) => Head::default(),
        }
    }

    async fn failed(&self) -> JournalError {
        match self {
            HostJournal::Sound(journal) => journal.failed().await,
            HostJournal::Damaged(_) => std::future::pending().await,
        }
    }
}
