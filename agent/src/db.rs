//! The agent's database file: one SQLite connection, every write durable before it returns.
//!
//! Owns the schema. [`crate::ledger`] and [`crate::trust`] own what the rows mean.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use crate::limits::LEDGER_BUSY_TIMEOUT;

/// The name of the file in the state folder.
pub const FILE_NAME: &str = "ledger.sqlite";

const SCHEMA: &[M<'static>] = &[M::up(
    "CREATE TABLE current (
        id              INTEGER PRIMARY KEY CHECK (id = 1),
        topology        TEXT    NOT NULL,
        generation      INTEGER NOT NULL,
        version_hash    TEXT    NOT NULL, -- empty: the first apply has not succeeded (a marker)
        hydrated        TEXT    NOT NULL, -- the slice's content
        envelope        BLOB    NOT NULL, -- the signed slice
        applied_at      INTEGER NOT NULL, -- Unix seconds; 0 for a marker
        last_error_code TEXT,
        last_error      TEXT
     ) STRICT;
     CREATE TABLE floors (
        topology       TEXT    PRIMARY KEY,
        generation     INTEGER NOT NULL,
        payload_sha256 TEXT    NOT NULL,
        version_hash   TEXT    NOT NULL,
        state          TEXT    NOT NULL CHECK (state IN ('active', 'torn_down', 'cleared')),
        envelope       BLOB    NOT NULL,
        accepted_order INTEGER NOT NULL,
        content_since  INTEGER NOT NULL -- the first generation of those up to this one that have the same content
     ) STRICT;
     CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
     CREATE TABLE roots (version INTEGER PRIMARY KEY, envelope BLOB NOT NULL) STRICT;
     CREATE TABLE binding (
        id       INTEGER PRIMARY KEY CHECK (id = 1),
        serial   INTEGER NOT NULL,
        envelope BLOB    NOT NULL
     ) STRICT;",
)];

/// The database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite failed.
    #[error("the ledger {path} cannot be used: {source}", path = path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The schema could not be brought up to date.
    #[error("the ledger {path} has a schema that this version does not know: {source}", path = path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite_migration::Error,
    },
    /// A row does not mean anything.
    #[error("the ledger holds a damaged row: {0}; have the hub send the slice again or restore the state folder")]
    Damaged(String),
    /// The file cannot be made or read.
    #[error("the ledger {path} cannot be made or read: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The worker that talks to SQLite was stopped.
    #[error("the ledger's worker was stopped")]
    Stopped,
}

impl From<rusqlite::Error> for DbError {
    fn from(source: rusqlite::Error) -> Self {
        DbError::Sqlite { path: FILE_NAME.into(), source }
    }
}

/// The open database. Cloned freely; one statement runs at a time.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
}

impl Db {
    /// Opens (or makes) the database in `state_dir`, mode 0600.
    ///
    /// # Errors
    /// [`DbError`] when SQLite cannot open it or its schema is from a newer version.
    pub fn open(state_dir: &Path) -> Result<Self, DbError> {
        let path = state_dir.join(FILE_NAME);
        create_private(&path).map_err(|source| DbError::File { path: path.clone(), source })?;
        let wrap = |source| DbError::Sqlite { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_timeout(LEDGER_BUSY_TIMEOUT).map_err(wrap)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -256; PRAGMA journal_size_limit = 1048576;",
            )
            .map_err(wrap)?;
        Migrations::from_slice(SCHEMA).to_latest(&mut connection).map_err(|source| DbError::Schema { path: path.clone(), source })?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// A database that is nowhere but in memory.
    #[cfg(test)]
    pub fn in_memory() -> Self {
        let mut connection = Connection::open_in_memory().unwrap();
        Migrations::from_slice(SCHEMA).to_latest(&mut connection).unwrap();
        Self { connection: Arc::new(Mutex::new(connection)) }
    }

    /// Opens the database in `state_dir` to read it as it is; `None` when there is none.
    ///
    /// # Errors
    /// [`DbError`] when SQLite cannot open it.
    pub fn open_to_read(state_dir: &Path) -> Result<Option<Self>, DbError> {
        let path = state_dir.join(FILE_NAME);
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DbError::File { path, source }),
            Ok(_) => {}
        }
        let wrap = |source| DbError::Sqlite { path: path.clone(), source };
        // Not as read-only: that would leave SQLite's own files behind.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(wrap)?;
        connection.execute_batch("PRAGMA query_only = ON").map_err(wrap)?;
        connection.busy_timeout(LEDGER_BUSY_TIMEOUT).map_err(wrap)?;
        Ok(Some(Self { connection: Arc::new(Mutex::new(connection)) }))
    }

    /// The connection, for one piece of work that doesn't await.
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic inside leaves no half-done transaction: rusqlite rolls back on drop.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` where it may block.
///
/// # Errors
/// Those of `work`; [`DbError::Stopped`] when the runtime is going down.
pub async fn blocking<T, E, F>(work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<DbError> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    #[cfg(test)]
    if crate::clock::set::is_set() {
        // Its clocks are those of this thread.
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(DbError::Stopped.into()),
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_durable_before_it_returns() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let full: i64 = db.lock().query_row("PRAGMA synchronous", [], |r| r.get(0)).unwrap();
        assert_eq!(full, 2, "FULL: in WAL mode each commit is flushed");
    }
}
