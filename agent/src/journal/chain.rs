//! Turns entries into numbered, chained lines, and refuses what cannot follow. No disk here.

use std::sync::Arc;

use moorline_common::id::{HostEpoch, sha256_hex};
use moorline_common::op::{Book, Record};

use super::{Entry, Head, JournalError, codec};

/// Where a journal is, and what its records say so far.
#[derive(Debug, Clone)]
pub struct Chain {
    epoch: HostEpoch,
    /// The newest record.
    pub head: Head,
    /// The hash of the newest line: that of the newest record, or of what begins its segment.
    pub tail: String,
    /// The fold of all records up to the head.
    pub book: Book,
}

/// An append as lines.
#[derive(Debug)]
pub struct Staged {
    /// Its records.
    pub records: Vec<Arc<Record>>,
    /// Their lines, each with its line feed.
    pub bytes: Vec<u8>,
    /// The head after it.
    pub head: Head,
    /// The hash of its last line.
    tail: String,
}

impl Chain {
    /// A chain that goes on after `head`.
    #[must_use]
    pub const fn new(epoch: HostEpoch, head: Head, tail: String, book: Book) -> Self {
        Self { epoch, head, tail, book }
    }

    /// The lines of one append. Nothing is taken into account yet.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`].
    pub fn draft(&self, entries: Vec<Entry>, batch: u64, at: u64) -> Result<Staged, JournalError> {
        let (mut head, mut tail) = (self.head.clone(), self.tail.clone());
        let mut staged =
            Staged { records: Vec::with_capacity(entries.len()), bytes: Vec::new(), head: Head::default(), tail: String::new() };
        for entry in entries {
            let record = Record {
                seq: head.seq + 1,
                batch,
                at,
                epoch: self.epoch.clone(),
                op_id: entry.op_id.to_string(),
                resource: entry.resource.to_string(),
                kind: entry.kind.into_owned(),
                params: entry.params,
                task: entry.task,
                state: entry.state,
                idempotency_key: entry.idempotency_key,
                grant: entry.grant,
                hold: entry.hold,
                fault: entry.fault,
                result: entry.result,
                acknowledged: entry.acknowledged,
                prev: tail,
            };
            let line = codec::encode(&record).ok_or_else(|| JournalError::TooLarge(format!("a record about {}", record.resource)))?;
            tail = sha256_hex(&line);
            head = Head { seq: record.seq, hash: tail.clone() };
            staged.bytes.extend_from_slice(&line);
            staged.bytes.push(b'\n');
            staged.records.push(Arc::new(record));
        }
        (staged.head, staged.tail) = (head, tail);
        Ok(staged)
    }

    /// Goes on behind `staged`, which was drafted on this very chain: all of it, or nothing and an error.
    ///
    /// # Errors
    /// [`JournalError::Refused`].
    pub fn take(&mut self, staged: &Staged) -> Result<(), JournalError> {
        self.book.fold_all(&staged.records).map_err(JournalError::Refused)?;
        self.head.clone_from(&staged.head);
        self.tail.clone_from(&staged.tail);
        Ok(())
    }
}
