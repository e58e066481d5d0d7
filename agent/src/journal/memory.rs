//! A journal in memory, for tests. It may take its time until records are durable, and a crash loses those that are not.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_common::id::{HostEpoch, UnixSeconds, sha256_hex};
use moorline_common::op::{Book, Record};

use super::chain::Chain;
use super::{Entry, Head, Journal, JournalError, codec};
use crate::clock::Clock;

/// See the module.
#[derive(Clone)]
pub struct MemoryJournal {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    epoch: HostEpoch,
    records: Vec<Record>,
    /// What all durable records say.
    book: Book,
    head: Head,
    /// With those that are not durable yet.
    chain: Chain,
    waiting: VecDeque<(Arc<Record>, Head)>,
    /// So often others have their turn before an append is durable.
    delay: u32,
    full: bool,
    dead: bool,
    failed: bool,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self::new(HostEpoch::parse("0".repeat(32)).unwrap())
    }
}

impl MemoryJournal {
    /// An empty journal for the host's life `epoch`.
    pub fn new(epoch: HostEpoch) -> Self {
        Self::of(epoch, Vec::new(), Book::default(), Head::default())
    }

    fn of(epoch: HostEpoch, records: Vec<Record>, book: Book, head: Head) -> Self {
        let chain = Chain::new(epoch.clone(), head.clone(), head.hash.clone(), book.clone());
        let inner =
            Inner { epoch, records, book, head, chain, waiting: VecDeque::new(), delay: 0, full: false, dead: false, failed: false };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Every durable record so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// Looks at them without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.lock().records)
    }

    /// Whether both are the journal of one life of the agent.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// From now on others have so many turns before an append is durable.
    pub fn delay(&self, turns: u32) {
        self.lock().delay = turns;
    }

    /// How many records are not durable yet.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// From now on nothing new begins.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// From now on every append fails as that of a disk does.
    pub fn fail(&self) {
        self.lock().failed = true;
    }

    /// A journal that goes on from what is durable. What is appended to this one no longer matters.
    #[must_use]
    pub fn cut(&self) -> Self {
        self.crash(0)
    }

    /// The same, after a crash: of what waits only the first `kept` records came to the disk, and nobody hears of this
    /// journal any more. The new one begins with a checkpoint.
    #[must_use]
    pub fn crash(&self, kept: usize) -> Self {
        let mut inner = self.lock();
        for _ in 0..kept.min(inner.waiting.len()) {
            inner.flush_one();
        }
        inner.dead = true;
        let newest = inner.records.last().map(|record| Head { seq: record.seq, hash: sha256_hex(&codec::encode(record).unwrap()) });
        assert_eq!(newest.unwrap_or_default(), inner.head, "the head is the newest record's");
        let mut book = Book::default();
        inner.book.parts().into_iter().for_each(|part| book.restore(part));
        assert_eq!(book, inner.book, "a checkpoint says all");
        let next = Self::of(inner.epoch.clone(), inner.records.clone(), book, inner.head.clone());
        (next.lock().delay, next.lock().full) = (inner.delay, inner.full);
        next
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn flush_one(&mut self) {
        let Some((record, head)) = self.waiting.pop_front() else { return };
        self.book.fold(&record).unwrap();
        self.records.push(Record::clone(&record));
        self.head = head;
    }

    fn stage(&mut self, entries: Vec<Entry>) -> Result<Head, JournalError> {
        if self.failed {
            return Err(JournalError::Failed("input/output error".to_owned()));
        }
        if self.full && entries.iter().any(Entry::begins) {
            return Err(JournalError::Full("no space left on device".to_owned()));
        }
        let batch = self.chain.head.seq + 1;
        let staged = self.chain.draft(entries, batch, Clock.wall_ms())?;
        self.chain.take(&staged)?;
        // Each leads to the next one by its hash; the last one's is that of the append.
        let hashes = staged.records.iter().skip(1).map(|next| next.prev.clone()).chain([staged.head.hash.clone()]);
        for (record, hash) in staged.records.iter().zip(hashes) {
            self.waiting.push_back((record.clone(), Head { seq: record.seq, hash }));
        }
        Ok(staged.head)
    }
}

impl Journal for MemoryJournal {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static {
        let (staged, delay) = {
            let mut inner = self.lock();
            let staged = inner.stage(entries);
            if inner.delay == 0 && !inner.dead {
                while !inner.waiting.is_empty() {
                    inner.flush_one();
                }
            }
            (staged, inner.delay)
        };
        let journal = self.clone();
        async move {
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            if journal.lock().dead {
                std::future::pending::<()>().await;
            }
            let head = staged?;
            let mut inner = journal.lock();
            while inner.head.seq < head.seq {
                inner.flush_one();
            }
            Ok(head)
        }
    }

    fn head(&self) -> Head {
        self.lock().head.clone()
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.lock().book)
    }

    fn set_time_floor(&self, floor: UnixSeconds) {
        let mut inner = self.lock();
        inner.book.forget_nonces(floor);
        inner.chain.book.forget_nonces(floor);
    }

    fn failed(&self) -> impl Future<Output = JournalError> + Send {
        std::future::pending()
    }
}
