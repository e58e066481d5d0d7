//! The embedded store: SQLite with a write-ahead log, `synchronous=FULL`, and one writer.
//!
//! One thread owns the writing connection. It takes every job that waits, runs each in a savepoint of
//! one transaction and commits once, so that concurrent verbs share an fsync; nobody is answered
//! before the commit. Readers have their own threads and see only what was committed.

use std::path::{Path, PathBuf};
use std::thread;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Result, StoreError};
use crate::clock::Clock;
use crate::limits;

mod cloud;
mod cloud_drift;
mod drift;
mod enrol;
mod events;
mod live;
mod ops;
mod remove;
mod revisions;
mod rollouts;
mod sagas;
mod verbs;

/// The database's file name in the hub's folder.
pub const FILE: &str = "hub.sqlite";

const SCHEMA: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
    include_str!("schema_7.sql"),
    include_str!("schema_8.sql"),
    include_str!("schema_9.sql"),
    include_str!("schema_10.sql"),
];

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite does not open or migrate it.
    #[error("cannot open the store {path}: {reason}")]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// A newer hub wrote it.
    #[error("the store {path} was written by a newer moorline-hub (schema {found}, this one knows {known}); install that version")]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema's version.
        found: i64,
        /// The newest version that this build knows.
        known: usize,
    },
    /// The file is of no cluster.
    #[error("the store {path} names no cluster; it is not a hub's store")]
    NoCluster {
        /// The database file.
        path: PathBuf,
    },
}

/// What a job may do with the database.
pub(super) struct Tx<'t> {
    /// The savepoint that the job runs in.
    pub conn: &'t Connection,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

type Answer = Box<dyn FnOnce(std::result::Result<(), String>) + Send>;
type WriteJob = Box<dyn FnOnce(&mut Transaction<'_>, u64) -> Answer + Send>;
type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// What a thread is given to do; [`None`] is the last.
type Job<J> = Option<J>;

/// The embedded store. Clones share its threads, which end with the last of them or by
/// [`Store::close`](super::Store::close).
#[derive(Clone)]
pub struct SqliteStore {
    writer: mpsc::Sender<Job<WriteJob>>,
    readers: Vec<mpsc::Sender<Job<ReadJob>>>,
    next_reader: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    newest_event: watch::Receiver<u64>,
    ended: CancellationToken,
    writing: TaskTracker,
    reading: TaskTracker,
}

/// Tells that a thread ended, however it did.
struct Ended {
    any: CancellationToken,
    _this: TaskTrackerToken,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.any.cancel();
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::Failed(error.to_string())
    }
}

impl SqliteStore {
    /// Makes the database of a new cluster.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn create(path: &Path, cluster: &str) -> std::result::Result<(), OpenError> {
        let failed = |e: &dyn std::fmt::Display| OpenError::Open { path: path.to_owned(), reason: e.to_string() };
        crate::files::create_private(path).map_err(|e| failed(&e))?;
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.execute("INSERT INTO meta (key, value) VALUES ('cluster', ?1)", [cluster]).map_err(|e| failed(&e))?;
        Ok(())
    }

    /// The cluster that the database at `path` belongs to.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn cluster(path: &Path) -> std::result::Result<String, OpenError> {
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.query_row("SELECT value FROM meta WHERE key = 'cluster'", [], |row| row.get(0))
            .optional()
            .map_err(|e| OpenError::Open { path: path.to_owned(), reason: e.to_string() })?
            .ok_or_else(|| OpenError::NoCluster { path: path.to_owned() })
    }

    /// Records one event in a database that no hub serves from.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn record_offline(path: &Path, clock: &Clock, event: &crate::events::NewEvent) -> std::result::Result<(), OpenError> {
        let failed = |e: &dyn std::fmt::Display| OpenError::Open { path: path.to_owned(), reason: e.to_string() };
        let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let transaction = conn.transaction().map_err(|e| failed(&e))?;
        events::append(&Tx { conn: &transaction, now_ms: clock.unix_ms() }, event).map_err(|e| failed(&e))?;
        transaction.commit().map_err(|e| failed(&e))
    }

    /// Opens the database, migrates it and starts its threads.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, clock: Clock) -> std::result::Result<Self, OpenError> {
        let failed = |e: &dyn std::fmt::Display| OpenError::Open { path: path.to_owned(), reason: e.to_string() };
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let newest = events::newest(&conn).map_err(|e| failed(&e))?;
        let (newest_tx, newest_event) = watch::channel(newest);
        let (writer, jobs) = mpsc::channel(limits::WRITE_QUEUE);
        let ended = CancellationToken::new();
        let (writing, reading) = (TaskTracker::new(), TaskTracker::new());
        let guard = |threads: &TaskTracker| Ended { any: ended.clone(), _this: threads.token() };
        let guarded = guard(&writing);
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let _guard = guarded;
                write_loop(conn, jobs, &clock, &newest_tx);
            })
            .map_err(|e| failed(&e))?;
        let mut readers = Vec::new();
        for n in 0..limits::READERS {
            let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let (reader, jobs) = mpsc::channel(limits::READ_QUEUE);
            let guarded = guard(&reading);
            let read = move || {
                let _guard = guarded;
                read_loop(conn, jobs);
            };
            thread::Builder::new().name(format!("store-reader-{n}")).spawn(read).map_err(|e| failed(&e))?;
            readers.push(reader);
        }
        Ok(Self { writer, readers, next_reader: std::sync::Arc::default(), newest_event, ended, writing, reading })
    }

    /// Runs `verb` in its own savepoint; answers after the commit.
    pub(super) async fn write<T, F>(&self, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: WriteJob = Box::new(move |transaction, now_ms| {
            let result = in_savepoint(transaction, now_ms, verb);
            Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(reason) => Err(StoreError::Failed(reason)),
                };
                let _ = reply.send(result);
            })
        });
        self.writer.send(Some(job)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs `verb` on what is committed.
    pub(super) async fn read<T, F>(&self, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: ReadJob = Box::new(move |conn| {
            let _ = reply.send(verb(conn));
        });
        let turn = self.next_reader.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let reader = self.readers.get(turn % self.readers.len().max(1)).ok_or_else(gone)?;
        reader.send(Some(job)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Ends the threads behind what they were given before, and waits for them. The writer is the last: a connection that only reads
    /// cannot put what is in the log into the database and remove the log.
    async fn close_threads(&self) -> Result<()> {
        // A thread that has ended by itself takes nothing any more.
        for reader in &self.readers {
            let _ = reader.send(None).await;
        }
        self.reading.close();
        self.reading.wait().await;
        let _ = self.writer.send(None).await;
        self.writing.close();
        self.writing.wait().await;
        Ok(())
    }
}

fn gone() -> StoreError {
    StoreError::Failed("its thread has ended".to_owned())
}

fn in_savepoint<T>(transaction: &mut Transaction<'_>, now_ms: u64, verb: impl FnOnce(&Tx<'_>) -> Result<T>) -> Result<T> {
    let savepoint = transaction.savepoint()?;
    let result = verb(&Tx { conn: &savepoint, now_ms });
    match result {
        Ok(value) => {
            savepoint.commit()?;
            Ok(value)
        }
        Err(error) => {
            savepoint.finish()?;
            Err(error)
        }
    }
}

fn write_loop(mut conn: Connection, mut jobs: mpsc::Receiver<Job<WriteJob>>, clock: &Clock, newest: &watch::Sender<u64>) {
    let mut closing = false;
    while !closing && let Some(Some(first)) = jobs.blocking_recv() {
        let mut answers: Vec<Answer> = Vec::new();
        let committed = (|| {
            let mut transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let now_ms = clock.unix_ms();
            answers.push(first(&mut transaction, now_ms));
            // On a full disk or an I/O error SQLite may roll the whole transaction back by itself: what came
            // before is then lost, and what comes after belongs into another one.
            while answers.len() < limits::WRITE_BATCH
                && !transaction.is_autocommit()
                && let Ok(job) = jobs.try_recv()
            {
                let Some(job) = job else {
                    closing = true;
                    break;
                };
                answers.push(job(&mut transaction, now_ms));
            }
            let sequence = events::newest(&transaction)?;
            transaction.commit()?;
            Ok::<u64, rusqlite::Error>(sequence)
        })();
        let outcome = committed.map_err(|e| e.to_string());
        if let Ok(sequence) = outcome {
            newest.send_if_modified(|old| std::mem::replace(old, sequence) != sequence);
        }
        for answer in answers {
            answer(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
        }
    }
    // Leave one file behind: a folder that is copied by hand is then complete.
    let _ = conn.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

fn read_loop(conn: Connection, mut jobs: mpsc::Receiver<Job<ReadJob>>) {
    while let Some(Some(job)) = jobs.blocking_recv() {
        job(&conn);
    }
}

/// Opens one connection with the settings that every connection needs; a writable one migrates.
fn connect(path: &Path, mode: OpenFlags) -> std::result::Result<Connection, OpenError> {
    let failed = |e: &dyn std::fmt::Display| OpenError::Open { path: path.to_owned(), reason: e.to_string() };
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(|e| failed(&e))?;
    conn.busy_timeout(limits::STORE_PATIENCE).map_err(|e| failed(&e))?;
    conn.set_prepared_statement_cache_capacity(limits::STATEMENTS_KEPT);
    // What a reader has cached is worth nothing after the next commit, and the kernel caches the file anyway.
    let is_writer = mode.contains(OpenFlags::SQLITE_OPEN_READ_WRITE);
    let cache_kib = if is_writer { limits::WRITER_CACHE_KIB } else { limits::READER_CACHE_KIB };
    // Negative: in KiB.
    conn.pragma_update(None, "cache_size", cache_kib.wrapping_neg()).map_err(|e| failed(&e))?;
    if is_writer {
        for (pragma, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON"), ("secure_delete", "ON")] {
            conn.pragma_update(None, pragma, value).map_err(|e| failed(&e))?;
        }
        conn.pragma_update(None, "wal_autocheckpoint", limits::LOG_PAGES).map_err(|e| failed(&e))?;
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|e| failed(&e))?;
        if usize::try_from(found).unwrap_or(usize::MAX) > SCHEMA.len() {
            return Err(OpenError::Newer { path: path.to_owned(), found, known: SCHEMA.len() });
        }
        let migrations: Vec<M<'_>> = SCHEMA.iter().map(|sql| M::up(sql)).collect();
        Migrations::new(migrations).to_latest(&mut conn).map_err(|e| failed(&e))?;
    }
    Ok(conn)
}

/// `value` as SQLite's integer. Counters and times never come near its end.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// SQLite's integer as a counter.
fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A column that cannot be what we wrote.
fn damaged(what: &str) -> StoreError {
    StoreError::Failed(format!("the store holds a malformed {what}; check it with `moorline-hub doctor`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (SqliteStore, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        SqliteStore::create(&path, "one").unwrap();
        (SqliteStore::open(&path, Clock::default()).unwrap(), dir)
    }

    fn put(tx: &Tx<'_>, key: &str) -> Result<()> {
        tx.conn.execute("INSERT INTO meta (key, value) VALUES (?1, '')", [key])?;
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_said_to_have_failed_is_not_stored_and_the_rest_is() {
        let (store, _dir) = open();
        let (begun, begins) = oneshot::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        type Job = Box<dyn FnOnce(&Tx<'_>) -> Result<()> + Send>;
        let spawn = |store: &SqliteStore, job: Job| {
            let store = store.clone();
            tokio::spawn(async move { store.write(job).await })
        };
        let first = spawn(
            &store,
            Box::new(move |tx| {
                let _ = begun.send(());
                let _ = wait.recv();
                put(tx, "first")
            }),
        );
        begins.await.unwrap();
        // Queued behind the first, in this order: they would share its commit.
        let queued = |left: usize| {
            let writer = store.writer.clone();
            async move {
                while writer.capacity() != limits::WRITE_QUEUE - left {
                    tokio::task::yield_now().await;
                }
            }
        };
        // What SQLite does by itself on a full disk.
        let second = spawn(&store, Box::new(|tx| Ok(tx.conn.execute_batch("ROLLBACK")?)));
        queued(1).await;
        let third = spawn(&store, Box::new(|tx| put(tx, "third")));
        queued(2).await;
        go.send(()).unwrap();
        assert!(matches!(first.await.unwrap(), Err(StoreError::Failed(_))));
        assert!(matches!(second.await.unwrap(), Err(StoreError::Failed(_))));
        third.await.unwrap().unwrap();
        let stored = |conn: &Connection| {
            let mut statement = conn.prepare("SELECT key FROM meta WHERE key <> 'cluster'")?;
            Ok(statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?)
        };
        assert_eq!(store.read(stored).await.unwrap(), ["third"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_closed_store_has_done_what_it_was_given_and_has_let_go_of_its_files() {
        use crate::store::Store as _;
        let (store, dir) = open();
        let other = store.clone();
        let (begun, begins) = oneshot::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = tokio::spawn({
            let store = store.clone();
            async move {
                let last = move |tx: &Tx<'_>| {
                    let _ = begun.send(());
                    let _ = wait.recv();
                    put(tx, "last")
                };
                store.write(last).await
            }
        });
        begins.await.unwrap();
        let closing = tokio::spawn(async move { store.close().await });
        go.send(()).unwrap();
        closing.await.unwrap().unwrap();
        slow.await.unwrap().unwrap();
        // The log goes with the last connection, so what is left is one file.
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [FILE]);
        assert!(matches!(other.read(|_| Ok(())).await, Err(StoreError::Failed(_))));
    }

    #[tokio::test]
    async fn a_thread_that_dies_is_noticed() {
        use crate::store::Store as _;
        let (store, _dir) = open();
        assert!(!store.ended().is_cancelled());
        let died = store.read(|_| -> Result<()> { panic!("a damaged row") }).await;
        assert!(matches!(died, Err(StoreError::Failed(_))));
        store.ended().cancelled().await;
    }
}
