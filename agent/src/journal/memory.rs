//! A journal in memory, for tests.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_common::id::{HostEpoch, UnixSeconds};
use moorline_common::op::{Book, Record};

use super::chain::Chain;
use super::{Entry, Head, Journal, JournalError};

/// See the module.
#[derive(Clone)]
pub struct MemoryJournal {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    records: Vec<Record>,
    chain: Chain,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        let epoch = HostEpoch::parse("0".repeat(32)).unwrap();
        let chain = Chain::new(epoch, Head::default(), String::new(), Book::default());
        Self { inner: Arc::new(Mutex::new(Inner { records: Vec::new(), chain })) }
    }
}

impl MemoryJournal {
    /// Every record so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// A journal that goes on from here. What is appended to this one no longer matters.
    #[must_use]
    pub fn cut(&self) -> Self {
        let inner = self.lock();
        Self { inner: Arc::new(Mutex::new(Inner { records: inner.records.clone(), chain: inner.chain.clone() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static {
        let mut inner = self.lock();
        let batch = inner.chain.head.seq + 1;
        let staged = inner.chain.draft(entries, batch, 0).and_then(|staged| inner.chain.take(&staged).map(|()| staged));
        let result = staged.map(|mut staged| {
            inner.records.append(&mut staged.records);
            staged.head
        });
        std::future::ready(result)
    }

    fn head(&self) -> Head {
        self.lock().chain.head.clone()
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.lock().chain.book)
    }

    fn set_time_floor(&self, floor: UnixSeconds) {
        self.lock().chain.book.forget_nonces(floor);
    }

    fn failed(&self) -> impl Future<Output = JournalError> + Send {
        std::future::pending()
    }
}
