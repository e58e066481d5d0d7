//! The journal on disk. One thread writes: it takes every append that waits, writes their lines with one call, flushes
//! once, and only then answers them all.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use moorline_common::id::{HostEpoch, UnixSeconds};
use moorline_common::op::{Book, Record};
use tokio::sync::{oneshot, watch};

use super::chain::{Chain, Staged};
use super::fs::{Fs, RealFs};
use super::segment::{self, Segments};
use super::{Entry, Head, Journal, JournalError};
use crate::clock::Clock;
use crate::limits::{JOURNAL_APPEND_MAX, JOURNAL_BATCH_MAX, JOURNAL_QUEUE};
use crate::plant::{self, planted};

/// A journal that was opened, and what was found.
pub struct Opened {
    /// The journal.
    pub journal: FileJournal,
    /// Where the remains of an interrupted write were put, if there were any.
    pub torn: Option<PathBuf>,
    /// What is wrong with history that nothing depends on any more.
    pub sealed_damage: Option<String>,
}

/// See the module. Cloned freely.
#[derive(Clone)]
pub struct FileJournal {
    requests: SyncSender<Request>,
    shared: Arc<Shared>,
    head: watch::Receiver<Head>,
    failure: watch::Receiver<Option<JournalError>>,
}

/// What others see: durable things alone.
struct Shared {
    book: Mutex<Book>,
    time_floor: Mutex<UnixSeconds>,
}

struct Request {
    entries: Vec<Entry>,
    reply: oneshot::Sender<Result<Head, JournalError>>,
}

impl FileJournal {
    /// Opens the journal in `dir`, which it makes if needed, to write records of the host's life `epoch`. Blocks.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when acknowledged history is damaged, [`JournalError::Unreadable`].
    pub fn open(dir: &Path, epoch: HostEpoch) -> Result<Opened, JournalError> {
        Self::open_on(RealFs, dir, epoch, crate::crash::rotate_bytes())
    }

    /// Whether there is a journal in `dir`.
    ///
    /// # Errors
    /// [`JournalError::Unreadable`].
    pub fn exists(dir: &Path) -> Result<bool, JournalError> {
        match segment::list(&RealFs, dir) {
            Ok(known) => Ok(!known.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(JournalError::Unreadable { path: dir.to_owned(), reason: error.to_string() }),
        }
    }

    /// As [`Self::open`], on any file system, with segments of `rotate_at` bytes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on<F: Fs>(fs: F, dir: &Path, epoch: HostEpoch, rotate_at: u64) -> Result<Opened, JournalError> {
        let found = segment::open(fs, dir, Clock.wall_ms(), rotate_at)?;
        let shared = Arc::new(Shared { book: Mutex::new(found.scan.book.clone()), time_floor: Mutex::default() });
        let chain = Chain::new(epoch, found.scan.head, found.scan.tail, found.scan.book);
        let journal = start(found.segments, chain, shared)
            .map_err(|e| JournalError::Unreadable { path: dir.to_owned(), reason: format!("its thread does not start: {e}") })?;
        Ok(Opened { journal, torn: found.torn, sealed_damage: found.sealed_damage })
    }

    /// The newest durable record, as it changes.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    fn last_failure(&self) -> JournalError {
        self.failure.borrow().clone().unwrap_or_else(|| JournalError::Failed("its writer has ended".to_owned()))
    }
}

fn start<F: Fs>(segments: Segments<F>, chain: Chain, shared: Arc<Shared>) -> io::Result<FileJournal> {
    let (requests, receiver) = sync_channel(JOURNAL_QUEUE);
    let (published, head) = watch::channel(chain.head.clone());
    let (failure_tx, failure) = watch::channel(None);
    let writer = Writer { segments, chain, shared: shared.clone(), published, failure: failure_tx };
    std::thread::Builder::new().name("journal".to_owned()).stack_size(512 * 1024).spawn(plant::along(move || writer.run(&receiver)))?;
    Ok(FileJournal { requests, shared, head, failure })
}

struct Writer<F: Fs> {
    segments: Segments<F>,
    chain: Chain,
    shared: Arc<Shared>,
    published: watch::Sender<Head>,
    failure: watch::Sender<Option<JournalError>>,
}

impl<F: Fs> Writer<F> {
    fn run(mut self, receiver: &Receiver<Request>) {
        while let Ok(first) = receiver.recv() {
            let mut batch = vec![first];
            let mut records = batch.iter().map(|r| r.entries.len()).sum::<usize>();
            while records < JOURNAL_BATCH_MAX {
                let Ok(next) = receiver.try_recv() else { break };
                records += next.entries.len();
                batch.push(next);
            }
            if let Err(error) = self.commit(batch) {
                tracing::error!(%error, "the journal has failed; the agent stops");
                self.segments.note_failure();
                // Ends here: what waits in the queue is dropped, and its callers are told.
                self.failure.send_replace(Some(error));
                return;
            }
        }
    }

    fn commit(&mut self, requests: Vec<Request>) -> Result<(), JournalError> {
        let (batch, at) = (self.chain.head.seq + 1, Clock.wall_ms());
        let mut bytes = Vec::new();
        let mut records = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for Request { entries, reply } in requests {
            let staged = self.stage(entries, batch, at, bytes.len());
            let result = staged.map(|mut staged| {
                bytes.append(&mut staged.bytes);
                records.append(&mut staged.records);
                staged.head
            });
            answers.push((reply, result));
        }
        if planted("answer before the flush") {
            for (reply, result) in std::mem::take(&mut answers) {
                let _ = reply.send(result);
            }
        }
        let written = if bytes.is_empty() { Ok(()) } else { self.segments.write(&bytes) };
        if let Err(error) = written {
            let failed = JournalError::Failed(error.to_string());
            for (reply, _) in answers {
                let _ = reply.send(Err(failed.clone()));
            }
            return Err(failed);
        }
        crate::crash::point("journal.publish.before");
        self.publish(&records);
        crate::crash::point("journal.publish.after");
        for (reply, result) in answers {
            // A caller that no longer waits is no fault of the journal's.
            let _ = reply.send(result);
        }
        crate::crash::point("journal.answer.after");
        self.rotate_if_large(at)
    }

    /// Makes the lines of one append. What begins something new is refused while there is no room for how it ends.
    fn stage(&mut self, entries: Vec<Entry>, batch: u64, at: u64, before: usize) -> Result<Staged, JournalError> {
        let begins = entries.iter().any(Entry::begins);
        let staged = self.chain.draft(entries, batch, at)?;
        if begins {
            self.segments.make_room(before + staged.bytes.len()).map_err(|e| JournalError::Full(e.to_string()))?;
        }
        self.chain.take(&staged)?;
        Ok(staged)
    }

    fn publish(&self, records: &[Arc<Record>]) {
        let mut book = self.shared.book.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            if let Err(error) = book.fold(record) {
                tracing::error!(%error, "a record that was written does not fit; this is a defect");
            }
        }
        drop(book);
        self.published.send_replace(self.chain.head.clone());
    }

    fn rotate_if_large(&mut self, at: u64) -> Result<(), JournalError> {
        if !self.segments.is_large() {
            return Ok(());
        }
        crate::crash::point("journal.rotate.before");
        let floor = *self.shared.time_floor.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a copy: only a checkpoint that was written tells by which floor they were forgotten.
        let mut book = self.chain.book.clone();
        book.forget_nonces(floor);
        let rotated = self.segments.rotate(&self.chain.head, &self.chain.tail, &book, floor, at);
        match rotated.map_err(|e| JournalError::Failed(e.to_string()))? {
            Some(tail) => {
                (self.chain.tail, self.chain.book) = (tail, book);
                self.shared.book.lock().unwrap_or_else(PoisonError::into_inner).forget_nonces(floor);
            }
            None => tracing::warn!("the disk is full; the journal goes on in its old segment"),
        }
        Ok(())
    }
}

impl Journal for FileJournal {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = if entries.len() > JOURNAL_APPEND_MAX {
            Err(JournalError::TooLarge(format!("{} records", entries.len())))
        } else {
            self.requests.try_send(Request { entries, reply }).map_err(|e| match e {
                TrySendError::Full(_) => JournalError::Busy,
                TrySendError::Disconnected(_) => self.last_failure(),
            })
        };
        let journal = self.clone();
        async move {
            sent?;
            match answer.await {
                Ok(result) => result,
                Err(_) => Err(journal.last_failure()),
            }
        }
    }

    fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.shared.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_time_floor(&self, floor: UnixSeconds) {
        *self.shared.time_floor.lock().unwrap_or_else(PoisonError::into_inner) = floor;
    }

    async fn failed(&self) -> JournalError {
        let mut failure = self.failure.clone();
        // An error here means that the writer is gone, which says the same.
        let _ = failure.wait_for(Option::is_some).await;
        self.last_failure()
    }
}
