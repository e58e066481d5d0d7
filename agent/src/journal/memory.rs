//! A journal in memory, for tests and for runs that must not touch the disk.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use moorline_common::id::sha256_hex;

use super::{Entry, Head, Journal, JournalError, Record, codec};

/// See the module.
#[derive(Clone, Default)]
pub struct MemoryJournal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    records: Vec<Record>,
    head: Head,
}

impl MemoryJournal {
    /// Every record so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).records.clone()
    }
}

/// The record of `entry` after `head`, and its line.
pub(super) fn next_record(entry: Entry, head: &Head, batch: u64, at: u64) -> Result<(Record, Vec<u8>), JournalError> {
    let record = Record {
        seq: head.seq + 1,
        batch,
        at,
        op_id: entry.op_id.to_string(),
        resource: entry.resource.to_string(),
        kind: entry.kind.to_owned(),
        params: entry.params,
        task: entry.task,
        state: entry.state,
        idempotency_key: entry.idempotency_key,
        prev: head.hash.clone(),
    };
    match codec::encode(&record) {
        Some(line) => Ok((record, line)),
        None => Err(JournalError::TooLarge(format!("a record about {}", record.resource))),
    }
}

impl Journal for MemoryJournal {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = inner.head.seq + 1;
        let mut result = Ok(());
        for entry in entries {
            match next_record(entry, &inner.head, batch, 0) {
                Ok((record, line)) => {
                    inner.head = Head { seq: record.seq, hash: sha256_hex(&line) };
                    inner.records.push(record);
                }
                Err(error) => result = Err(error),
            }
        }
        std::future::ready(result.map(|()| inner.head.clone()))
    }

    fn head(&self) -> Head {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).head.clone()
    }

    fn failed(&self) -> impl Future<Output = JournalError> + Send {
        std::future::pending()
    }
}
