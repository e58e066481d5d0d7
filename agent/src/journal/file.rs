//! The journal on disk: `journal/journal.jsonl`, and the file before it after a rotation.
//!
//! One thread writes. It takes every append that waits, writes their lines with one call, flushes once,
//! and only then answers them all.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use moorline_common::id::sha256_hex;
use tokio::sync::{oneshot, watch};

use super::codec::{self, Rest, Scan};
use super::memory::next_record;
use super::{Entry, Head, Journal, JournalError, Open};
use crate::clock::Clock;
use crate::files;
use crate::limits::{JOURNAL_APPEND_MAX, JOURNAL_BATCH_MAX, JOURNAL_QUEUE, JOURNAL_READ_MAX, JOURNAL_ROTATE_BYTES};

const ACTIVE: &str = "journal.jsonl";
const SEALED: &str = "journal.1.jsonl";

/// A journal that was opened, and what its history says.
pub struct Opened {
    /// The journal.
    pub journal: FileJournal,
    /// Steps that had started and not ended when the agent stopped.
    pub open: Open,
    /// Where the remains of an interrupted write were put, if there were any.
    pub torn: Option<PathBuf>,
}

/// See the module. Cloned freely.
#[derive(Clone)]
pub struct FileJournal {
    requests: SyncSender<Request>,
    head: watch::Receiver<Head>,
    failure: watch::Receiver<Option<JournalError>>,
}

struct Request {
    entries: Vec<Entry>,
    reply: oneshot::Sender<Result<Head, JournalError>>,
}

/// What the writer needs of a disk.
trait Disk: Send + 'static {
    /// Writes all of `bytes` at the end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn flush(&mut self) -> io::Result<()>;
    /// Closes this file and begins a new one, if it is large.
    fn rotate_if_large(&mut self) -> io::Result<()>;
}

impl FileJournal {
    /// Opens the journal in `dir`, which it makes if needed. Blocks.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when acknowledged history is damaged, [`JournalError::Unreadable`].
    pub fn open(dir: &Path) -> Result<Opened, JournalError> {
        let path = dir.join(ACTIVE);
        let unreadable = |e: io::Error| JournalError::Unreadable { path: path.clone(), reason: e.to_string() };
        files::ensure_private_dir(dir).map_err(unreadable)?;
        let bytes = files::read_limited(&path, JOURNAL_READ_MAX).map_err(unreadable)?.unwrap_or_default();
        let scan = codec::scan(&bytes, sealed_head(dir, &bytes)?.as_ref());
        let torn = match &scan.rest {
            Rest::Clean => None,
            Rest::Torn => Some(put_aside(dir, &bytes, &scan).map_err(unreadable)?),
            Rest::Damaged(what) => {
                let offset = u64::try_from(scan.good_bytes).unwrap_or(u64::MAX);
                return Err(JournalError::Damaged { path, offset, what: what.clone() });
            }
        };
        let mut open = Open::default();
        scan.records.iter().for_each(|r| open.fold(r));
        let size = u64::try_from(scan.good_bytes).unwrap_or(u64::MAX);
        let file = open_append(&path).map_err(unreadable)?;
        files::sync_dir(dir).map_err(unreadable)?;
        let disk = FileDisk { dir: dir.to_owned(), file, size };
        let journal = start(disk, scan.head, open.clone()).map_err(unreadable)?;
        Ok(Opened { journal, open, torn })
    }
}

/// The head that the first record of the active file must follow. `None` when the file before it is not
/// there or is damaged: damage in sealed history is told, and stops nothing.
fn sealed_head(dir: &Path, active: &[u8]) -> Result<Option<Head>, JournalError> {
    let path = dir.join(SEALED);
    let bytes =
        files::read_limited(&path, JOURNAL_READ_MAX).map_err(|e| JournalError::Unreadable { path: path.clone(), reason: e.to_string() })?;
    let Some(bytes) = bytes else { return Ok(Some(Head::default())) };
    let scan = codec::scan(&bytes, None);
    if scan.rest == Rest::Clean {
        return Ok(Some(scan.head));
    }
    let offset = u64::try_from(scan.good_bytes).unwrap_or(u64::MAX);
    if active.is_empty() {
        return Err(JournalError::Damaged { path, offset, what: "the newest records are unreadable".to_owned() });
    }
    tracing::error!(path = %path.display(), offset, "a sealed journal file is damaged; newer history is intact");
    Ok(None)
}

/// Copies the remains of an interrupted write to a file of their own, then cuts them off.
fn put_aside(dir: &Path, bytes: &[u8], scan: &Scan) -> io::Result<PathBuf> {
    let aside = dir.join(format!("torn-after-{}", scan.head.seq));
    files::write_private(&aside, bytes.get(scan.good_bytes..).unwrap_or_default())?;
    let file = OpenOptions::new().write(true).open(dir.join(ACTIVE))?;
    file.set_len(u64::try_from(scan.good_bytes).map_err(io::Error::other)?)?;
    file.sync_all()?;
    Ok(aside)
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

struct FileDisk {
    dir: PathBuf,
    file: File,
    size: u64,
}

impl Disk for FileDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rotate_if_large(&mut self) -> io::Result<()> {
        if self.size < JOURNAL_ROTATE_BYTES {
            return Ok(());
        }
        fs::rename(self.dir.join(ACTIVE), self.dir.join(SEALED))?;
        self.file = open_append(&self.dir.join(ACTIVE))?;
        self.size = 0;
        files::sync_dir(&self.dir)
    }
}

fn start(disk: impl Disk, head: Head, open: Open) -> io::Result<FileJournal> {
    let (requests, receiver) = sync_channel(JOURNAL_QUEUE);
    let (head_tx, head_rx) = watch::channel(head.clone());
    let (failure_tx, failure_rx) = watch::channel(None);
    let writer = Writer { disk, head, open, published: head_tx, failure: failure_tx };
    std::thread::Builder::new().name("journal".to_owned()).stack_size(256 * 1024).spawn(move || writer.run(&receiver))?;
    Ok(FileJournal { requests, head: head_rx, failure: failure_rx })
}

struct Writer<D> {
    disk: D,
    head: Head,
    open: Open,
    published: watch::Sender<Head>,
    failure: watch::Sender<Option<JournalError>>,
}

impl<D: Disk> Writer<D> {
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
                // Ends here: what waits in the queue is dropped, and its callers are told.
                self.failure.send_replace(Some(error));
                return;
            }
        }
    }

    /// Writes and flushes a batch, then answers it. No answer comes before the flush.
    fn commit(&mut self, batch: Vec<Request>) -> Result<(), JournalError> {
        let first = self.head.seq + 1;
        let at = Clock.wall_ms();
        let mut bytes = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Request { entries, reply } in batch {
            let result = self.encode(entries, first, at, &mut bytes);
            answers.push((reply, result));
        }
        let written = self.disk.write(&bytes).and_then(|()| self.disk.flush());
        if let Err(error) = written {
            let failed = JournalError::Failed(error.to_string());
            for (reply, _) in answers {
                let _ = reply.send(Err(failed.clone()));
            }
            return Err(failed);
        }
        self.published.send_replace(self.head.clone());
        for (reply, result) in answers {
            // A caller that no longer waits is no fault of the journal's.
            let _ = reply.send(result);
        }
        if self.open.0.is_empty() {
            self.disk.rotate_if_large().map_err(|e| JournalError::Failed(e.to_string()))?;
        }
        Ok(())
    }

    fn encode(&mut self, entries: Vec<Entry>, batch: u64, at: u64, bytes: &mut Vec<u8>) -> Result<Head, JournalError> {
        // All of an append or nothing: lines go to the file only when each could be made.
        let mut lines = Vec::new();
        let mut head = self.head.clone();
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            let (record, line) = next_record(entry, &head, batch, at)?;
            head = Head { seq: record.seq, hash: sha256_hex(&line) };
            lines.extend_from_slice(&line);
            lines.push(b'\n');
            records.push(record);
        }
        records.iter().for_each(|r| self.open.fold(r));
        self.head = head.clone();
        bytes.append(&mut lines);
        Ok(head)
    }
}

impl Journal for FileJournal {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<Head, JournalError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = if entries.len() > JOURNAL_APPEND_MAX {
            Err(JournalError::TooLarge(format!("{} records", entries.len())))
        } else {
            self.requests.try_send(Request { entries, reply }).map_err(|e| match e {
                TrySendError::Full(_) => JournalError::TooLarge("a record while the queue is full".to_owned()),
                TrySendError::Disconnected(_) => self.failure_now(),
            })
        };
        let failure = self.failure.clone();
        async move {
            sent?;
            match answer.await {
                Ok(result) => result,
                Err(_) => Err(last_failure(&failure)),
            }
        }
    }

    fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    async fn failed(&self) -> JournalError {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or_else(|| last_failure(&self.failure)),
            Err(_) => last_failure(&self.failure),
        }
    }
}

impl FileJournal {
    fn failure_now(&self) -> JournalError {
        last_failure(&self.failure)
    }
}

fn last_failure(failure: &watch::Receiver<Option<JournalError>>) -> JournalError {
    failure.borrow().clone().unwrap_or_else(|| JournalError::Failed("its writer has ended".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::State;
    use crate::journal::memory::MemoryJournal;
    use moorline_common::id::ResourceId;
    use std::sync::{Arc, Mutex};

    fn entry(name: &str, state: State, id: u128) -> Entry {
        Entry {
            op_id: uuid::Uuid::from_u128(id),
            resource: ResourceId::parse(format!("docker/network/{name}")).unwrap(),
            kind: "create-network",
            params: serde_json::Value::Null,
            task: None,
            state,
            idempotency_key: String::new(),
        }
    }

    /// Every journal: numbers without gaps in call order, and a head that follows.
    async fn conformance(journal: impl Journal) {
        let first = journal.append(vec![entry("a", State::Started, 1), entry("b", State::Started, 2)]);
        let second = journal.append(vec![entry("a", State::Succeeded, 1)]);
        // Awaited the other way round: the order is that of the calls.
        let second = second.await.unwrap();
        let first = first.await.unwrap();
        assert_eq!((first.seq, second.seq), (2, 3));
        assert_eq!(journal.head(), second);
        assert_eq!(second.short().len(), 16);
    }

    #[tokio::test]
    async fn both_journals_keep_the_order_of_calls() {
        let dir = tempfile::tempdir().unwrap();
        conformance(FileJournal::open(dir.path()).unwrap().journal).await;
        conformance(MemoryJournal::default()).await;
    }

    #[tokio::test]
    async fn a_reopened_journal_goes_on_and_knows_what_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let journal = FileJournal::open(dir.path()).unwrap().journal;
        journal.append(vec![entry("a", State::Started, 1), entry("b", State::Started, 2)]).await.unwrap();
        journal.append(vec![entry("a", State::Succeeded, 1)]).await.unwrap();
        drop(journal);
        let opened = FileJournal::open(dir.path()).unwrap();
        assert_eq!(opened.torn, None);
        assert_eq!(opened.open.0.values().map(|r| r.resource.as_str()).collect::<Vec<_>>(), ["docker/network/b"]);
        assert_eq!(opened.journal.append(vec![entry("b", State::Failed, 2)]).await.unwrap().seq, 4);
    }

    #[tokio::test]
    async fn a_torn_tail_is_put_aside_and_the_journal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let journal = FileJournal::open(dir.path()).unwrap().journal;
        journal.append(vec![entry("a", State::Started, 1)]).await.unwrap();
        drop(journal);
        let path = dir.path().join(ACTIVE);
        let mut bytes = fs::read(&path).unwrap();
        let good = bytes.len();
        bytes.extend_from_slice(b"{\"seq\":2,\"ba");
        fs::write(&path, &bytes).unwrap();
        let opened = FileJournal::open(dir.path()).unwrap();
        assert_eq!(fs::read(opened.torn.unwrap()).unwrap(), b"{\"seq\":2,\"ba");
        assert_eq!(fs::metadata(&path).unwrap().len(), good as u64);
        assert_eq!(opened.journal.append(vec![entry("a", State::Failed, 1)]).await.unwrap().seq, 2);
    }

    #[tokio::test]
    async fn a_flipped_bit_is_damage_and_the_file_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let journal = FileJournal::open(dir.path()).unwrap().journal;
        journal.append(vec![entry("a", State::Started, 1)]).await.unwrap();
        journal.append(vec![entry("a", State::Succeeded, 1)]).await.unwrap();
        drop(journal);
        let path = dir.path().join(ACTIVE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 4;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(FileJournal::open(dir.path()), Err(JournalError::Damaged { offset: 0, .. })));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_large_journal_rotates_when_nothing_is_open_and_stays_chained() {
        let dir = tempfile::tempdir().unwrap();
        let journal = FileJournal::open(dir.path()).unwrap().journal;
        let big = |state, id| Entry { params: serde_json::Value::String("x".repeat(60_000)), ..entry("a", state, id) };
        journal.append(vec![big(State::Started, 1)]).await.unwrap();
        for id in 10..160 {
            journal.append(vec![big(State::Succeeded, id)]).await.unwrap();
        }
        assert!(!dir.path().join(SEALED).exists(), "a step is open");
        journal.append(vec![entry("a", State::Succeeded, 1)]).await.unwrap();
        let head = journal.append(vec![entry("a", State::Started, 2)]).await.unwrap();
        assert!(dir.path().join(SEALED).exists());
        drop(journal);
        let opened = FileJournal::open(dir.path()).unwrap();
        assert_eq!(opened.journal.head(), head);
        assert_eq!(opened.open.0.len(), 1);
    }

    /// A disk that notes what it is asked for and fails when told.
    #[derive(Clone, Default)]
    struct FakeDisk(Arc<Mutex<(Vec<String>, Option<&'static str>)>>);

    impl FakeDisk {
        fn note(&self, what: &'static str, detail: String) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.0.push(format!("{what}{detail}"));
            if inner.1 == Some(what) { Err(io::Error::other("no space")) } else { Ok(()) }
        }
    }

    impl Disk for FakeDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.note("write", format!(" {}", bytes.iter().filter(|b| **b == b'\n').count()))
        }
        fn flush(&mut self) -> io::Result<()> {
            self.note("flush", String::new())
        }
        fn rotate_if_large(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn waiting_appends_share_one_flush_and_none_is_answered_before_it() {
        let disk = FakeDisk::default();
        let (published, _head) = watch::channel(Head::default());
        let (failure, _failure) = watch::channel(None);
        let mut writer = Writer { disk: disk.clone(), head: Head::default(), open: Open::default(), published, failure };
        let (requests, mut answers): (Vec<_>, Vec<_>) = (1..=3)
            .map(|id| {
                let (reply, answer) = oneshot::channel();
                (Request { entries: vec![entry("a", State::Started, id)], reply }, answer)
            })
            .unzip();
        assert!(answers.iter_mut().all(|a| a.try_recv().is_err()));
        writer.commit(requests).unwrap();
        assert_eq!(disk.0.lock().unwrap().0, ["write 3", "flush"]);
        let seqs: Vec<u64> = answers.iter_mut().map(|a| a.try_recv().unwrap().unwrap().seq).collect();
        assert_eq!(seqs, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_failed_flush_fails_every_append_from_then_on() {
        let disk = FakeDisk::default();
        disk.0.lock().unwrap().1 = Some("flush");
        let journal = start(disk.clone(), Head::default(), Open::default()).unwrap();
        assert!(matches!(journal.append(vec![entry("a", State::Started, 1)]).await, Err(JournalError::Failed(_))));
        disk.0.lock().unwrap().1 = None;
        assert!(matches!(journal.failed().await, JournalError::Failed(_)));
        assert!(matches!(journal.append(vec![entry("a", State::Started, 2)]).await, Err(JournalError::Failed(_))));
        assert_eq!(disk.0.lock().unwrap().0, ["write 1", "flush"], "nothing is written after a failure");
        assert_eq!(journal.head(), Head::default());
    }
}
