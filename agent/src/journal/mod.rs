//! The journal: what the agent is about to do, and how it ended, durable before anything follows.
//!
//! - A side effect starts only after its `started` record is durable; a result is reported only
//!   after its terminal record is.
//! - Appends that come together share one flush. The order of appends is the order in the file.
//! - A failed write or flush is final: the agent stops. It is never retried on the same descriptor.
//!
//! | module | what it does |
//! |---|---|
//! | `chain` | numbers, chains and checks what is appended |
//! | [`codec`] | lines, checksums, and what damage is: the core's, so that operators check by the same code |
//! | [`segment`] | the folder: torn tails, rotation, checkpoints, room on the disk |
//! | [`mod@file`] | the writer thread: many appends, one flush |
//! | [`reader`] | reads the files of a live or dead agent |
//! | [`mod@fs`] | what is asked of a file system |

use std::borrow::Cow;
use std::future::Future;
use std::path::PathBuf;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ResourceId, UnixSeconds};
use moorline_common::op::{Book, BookError, Event, Grant, HoldEffect, State};
use serde_json::Value;

pub use moorline_common::journal as codec;
pub use moorline_common::journal::Head;

mod chain;
pub mod file;
pub mod fs;
#[cfg(test)]
pub mod memory;
pub mod reader;
pub mod segment;
#[cfg(test)]
mod tests;

/// What a caller writes; the journal adds number, time, chain and checksum. See [`moorline_common::op::Record`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The operation's id; a fresh one for each step of a reconcile pass.
    pub op_id: uuid::Uuid,
    /// The resource, and so the lane.
    pub resource: ResourceId,
    /// What is done, such as `create-container`.
    pub kind: Cow<'static, str>,
    /// Details for people and for recovery. Never a secret.
    pub params: Value,
    /// The engine's name for the running work, if it has one.
    pub task: Option<String>,
    /// Where it is.
    pub state: State,
    /// Empty for the steps of a reconcile pass: they are never deduplicated.
    pub idempotency_key: String,
    /// What the order's signature grants; with `accepted` alone.
    pub grant: Option<Grant>,
    /// What its success means for the reconcile pass; with `started` alone.
    pub hold: Option<HoldEffect>,
    /// Why it did not succeed.
    pub fault: Option<Fault>,
    /// What came of it; with how it ended alone.
    pub result: Value,
    /// Says nothing new but that the hub has the receipt.
    pub acknowledged: bool,
}

impl Entry {
    /// An entry about a step of a reconcile pass.
    #[must_use]
    pub const fn step(op_id: uuid::Uuid, resource: ResourceId, kind: &'static str, state: State) -> Self {
        Self {
            op_id,
            resource,
            kind: Cow::Borrowed(kind),
            params: Value::Null,
            task: None,
            state,
            idempotency_key: String::new(),
            grant: None,
            hold: None,
            fault: None,
            result: Value::Null,
            acknowledged: false,
        }
    }

    /// Whether something new begins with it, rather than goes on or ends. What is accepted goes on when it is queued: an
    /// agent must be able to start on a full disk.
    #[must_use]
    pub const fn begins(&self) -> bool {
        !self.acknowledged && matches!(self.state.event(), Event::Accept | Event::Start)
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
    /// Too many appends wait.
    #[error("too many records wait for the journal; try again later")]
    Busy,
    /// The disk has no room for something new. What has begun can still be ended.
    #[error("the journal has no room for anything new: {0}; free the disk of the state folder")]
    Full(String),
    /// A record that cannot follow the ones before it.
    #[error("the journal refuses a record: {0}")]
    Refused(#[source] BookError),
}

/// What a refusal means to the operator.
impl From<&JournalError> for Fault {
    fn from(error: &JournalError) -> Self {
        let code = match error {
            JournalError::Full(_) => Code::DiskFull,
            JournalError::Busy => Code::Busy,
            JournalError::TooLarge(_) => Code::TooLarge,
            JournalError::Refused(BookError::NonceUsed { .. }) => Code::NonceUsed,
            JournalError::Refused(BookError::KeyUsed { .. }) => Code::Conflict,
            JournalError::Refused(_) => Code::TooLate,
            JournalError::Failed(_) | JournalError::Damaged { .. } | JournalError::Unreadable { .. } => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
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

    /// Looks at what all durable records say.
    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T;

    /// The time floor is `floor` now: nonces of orders that are past it may be forgotten.
    fn set_time_floor(&self, floor: UnixSeconds);

    /// Ends when the journal has failed, with the reason.
    fn failed(&self) -> impl Future<Output = JournalError> + Send;
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

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        match self {
            HostJournal::Sound(journal) => journal.read(look),
            HostJournal::Damaged(_) => look(&Book::default()),
        }
    }

    fn set_time_floor(&self, floor: UnixSeconds) {
        if let HostJournal::Sound(journal) = self {
            journal.set_time_floor(floor);
        }
    }

    async fn failed(&self) -> JournalError {
        match self {
            HostJournal::Sound(journal) => journal.failed().await,
            HostJournal::Damaged(_) => std::future::pending().await,
        }
    }
}
