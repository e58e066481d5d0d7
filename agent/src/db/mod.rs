//! The agent's database file: one SQLite connection, every write durable before it returns, and every row that is read
//! what was written.
//!
//! Owns the schema. [`crate::ledger`] and [`crate::trust`] own what the rows mean. It keeps a rollback journal: of a
//! write-ahead log SQLite takes what is sound and forgets the rest without a word, and floors would fall.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, Transaction, TransactionBehavior, params};
use rusqlite_migration::{M, Migrations};
use tokio::sync::watch;

use crate::identity::{IdentityError, StateDir};
use crate::limits::LEDGER_BUSY_TIMEOUT;

pub mod seal;
#[cfg(test)]
mod tests;

/// The name of the file in the state folder.
pub const FILE_NAME: &str = "ledger.sqlite";

/// The version of the schema from which on there are seals.
const SEALED_SINCE: i64 = 3;
/// The name of the value that tells one ledger from another.
const ID: &str = "ledger_id";

static SCHEMA: LazyLock<Migrations<'static>> = LazyLock::new(|| {
    let seal = |tx: &Transaction<'_>| Ok(seal::renew_all(tx)?);
    Migrations::new(vec![M::up(TABLES), M::up(CONTENT_SINCE), M::up_with_hook(seal::SCHEMA, seal)])
});

const TABLES: &str = "CREATE TABLE current (
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
        accepted_order INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
     CREATE TABLE roots (version INTEGER PRIMARY KEY, envelope BLOB NOT NULL) STRICT;
     CREATE TABLE binding (
        id       INTEGER PRIMARY KEY CHECK (id = 1),
        serial   INTEGER NOT NULL,
        envelope BLOB    NOT NULL
     ) STRICT;";

/// The first generation of those up to this one that have the same content.
const CONTENT_SINCE: &str = "ALTER TABLE floors ADD COLUMN content_since INTEGER NOT NULL DEFAULT 0;
     UPDATE floors SET content_since = generation;";

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
    /// It is not what was written.
    #[error(
        "the ledger {FILE_NAME} is damaged: {0}; nothing is changed on this host until an operator approves it again (`moorctl host approve`)"
    )]
    Damaged(String),
    /// It is as an older version left it.
    #[error("the ledger {FILE_NAME} is of an older version; the agent brings it up to date when it starts")]
    Older,
    /// The disk has no room for what is to be written.
    #[error("the ledger {FILE_NAME} has no room for anything new; free the disk of the state folder")]
    Full,
    /// What belongs to the ledger in the state folder.
    #[error(transparent)]
    Folder(#[from] IdentityError),
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
        if source.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            return DbError::Full;
        }
        DbError::Sqlite { path: FILE_NAME.into(), source }
    }
}

impl DbError {
    /// Whether the bytes are at fault, and not the disk, its space or its permissions.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            DbError::Damaged(_) => true,
            DbError::Sqlite { source, .. } => is_of_bytes(source),
            DbError::Schema { source: rusqlite_migration::Error::RusqliteError { err, .. }, .. } => is_of_bytes(err),
            DbError::Schema { source: rusqlite_migration::Error::InvalidUserVersion, .. } => true,
            DbError::Schema { .. } | DbError::Older | DbError::Full | DbError::Folder(_) | DbError::File { .. } | DbError::Stopped => false,
        }
    }

    /// What is damaged.
    #[must_use]
    pub fn damage(&self) -> String {
        match self {
            DbError::Damaged(what) => what.clone(),
            DbError::Sqlite { .. }
            | DbError::Schema { .. }
            | DbError::Older
            | DbError::Full
            | DbError::Folder(_)
            | DbError::File { .. }
            | DbError::Stopped => self.to_string(),
        }
    }
}

/// All statements and what is bound to them are ours: what does not fit them was not written by us.
fn is_of_bytes(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                // SQLITE_ERROR: such as a table that is missing.
                | ErrorCode::Unknown
        ),
        // What was read has another type than was written.
        None => true,
    }
}

/// The open database. Cloned freely; one statement runs at a time.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
    /// The first damage that was met.
    damage: Arc<watch::Sender<Option<String>>>,
    /// Counts the writes of this process: what was read before the newest may have changed.
    writes: Arc<AtomicU64>,
}

impl Db {
    /// Opens (or makes) the database in `state_dir`, mode 0600, and checks all of it.
    ///
    /// # Errors
    /// [`DbError`] when SQLite cannot open it, its schema is from a newer version, or it is not what was written.
    pub fn open(state_dir: &Path) -> Result<Self, DbError> {
        let path = state_dir.join(FILE_NAME);
        create_private(&path).map_err(|source| DbError::File { path: path.clone(), source })?;
        let wrap = |source| DbError::Sqlite { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_timeout(LEDGER_BUSY_TIMEOUT).map_err(wrap)?;
        connection.execute_batch("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL; PRAGMA cache_size = -256;").map_err(wrap)?;
        SCHEMA.to_latest(&mut connection).map_err(|source| DbError::Schema { path, source })?;
        check(&connection)?;
        Ok(Self::new(connection))
    }

    /// Opens the database that was made for the host of `state_dir`.
    ///
    /// # Errors
    /// As [`Self::open`], and [`DbError::Damaged`] when it was lost or exchanged.
    pub fn open_own(state_dir: &StateDir) -> Result<Self, DbError> {
        let db = Self::open(state_dir.as_ref())?;
        db.check_own(state_dir)?;
        Ok(db)
    }

    /// A database that is nowhere but in memory.
    #[cfg(test)]
    pub fn in_memory() -> Self {
        let mut connection = Connection::open_in_memory().unwrap();
        SCHEMA.to_latest(&mut connection).unwrap();
        Self::new(connection)
    }

    /// Opens the database in `state_dir` to read it as it is; `None` when none was made yet.
    ///
    /// # Errors
    /// As [`Self::open_own`].
    pub fn open_to_read(state_dir: &Path) -> Result<Option<Self>, DbError> {
        let (folder, path) = (StateDir(state_dir.to_owned()), state_dir.join(FILE_NAME));
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return if folder.ledger_mark()?.is_some() { Err(lost()) } else { Ok(None) };
            }
            Err(source) => return Err(DbError::File { path, source }),
            Ok(_) => {}
        }
        let wrap = |source| DbError::Sqlite { path: path.clone(), source };
        // Not as read-only: what a crash has left could not be mended then.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(wrap)?;
        connection.execute_batch("PRAGMA query_only = ON").map_err(wrap)?;
        connection.busy_timeout(LEDGER_BUSY_TIMEOUT).map_err(wrap)?;
        check(&connection)?;
        let db = Self::new(connection);
        db.check_own(&folder)?;
        Ok(Some(db))
    }

    fn new(connection: Connection) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)), damage: Arc::new(watch::channel(None).0), writes: Arc::default() }
    }

    /// Reads. Blocks for as long as the disk takes, as [`Self::write`] does.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, DbError>) -> Result<T, DbError> {
        let mut connection = self.lock();
        // One view: another program's change comes before it or after it.
        self.noting(connection.transaction().map_err(DbError::from).and_then(|view| work(&view)))
    }

    /// Writes all that `work` does, or nothing; durable when it returns. Nothing is written on top of damage.
    ///
    /// # Errors
    /// Those of `work`, [`DbError`].
    pub fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, DbError>) -> Result<T, DbError> {
        let mut connection = self.lock();
        let done = Self::transact(&mut connection, work);
        // Before anybody can read it.
        self.writes.fetch_add(1, Ordering::SeqCst);
        drop(connection);
        self.noting(done)
    }

    /// Changes with every write of this process: as long as it stays, none of them has changed what was read after it was
    /// asked for. It does not tell what another program writes: our own verbs leave that to the agent that runs.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    fn transact<T>(connection: &mut Connection, work: impl FnOnce(&Transaction<'_>) -> Result<T, DbError>) -> Result<T, DbError> {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if seal::check_all(&tx)? {
            tracing::warn!("another program has changed what the ledger says is applied; it counts as not applied");
            seal::disown_current(&tx)?;
        }
        let done = work(&tx)?;
        seal::renew(&tx)?;
        tx.commit()?;
        Ok(done)
    }

    fn noting<T>(&self, result: Result<T, DbError>) -> Result<T, DbError> {
        if let Err(error) = &result
            && error.is_damage()
        {
            self.damage.send_if_modified(|known| {
                let is_first = known.is_none();
                known.get_or_insert_with(|| error.damage());
                is_first
            });
        }
        result
    }

    /// Ends when damage was met, with what it is.
    pub async fn damaged(&self) -> String {
        let mut damage = self.damage.subscribe();
        // It does not end before: we hold its sender.
        let met = damage.wait_for(Option::is_some).await.ok().and_then(|met| met.clone());
        met.unwrap_or_default()
    }

    /// What tells this ledger from any other; `None` before [`Self::put_id`].
    ///
    /// # Errors
    /// [`DbError`].
    pub fn id(&self) -> Result<Option<String>, DbError> {
        self.read(|connection| meta(connection, ID))
    }

    /// Stores what tells this ledger from any other.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn put_id(&self, id: &str) -> Result<(), DbError> {
        self.write(|tx| put_meta(tx, ID, id))
    }

    /// That this is the ledger which was made for the host.
    fn check_own(&self, state_dir: &StateDir) -> Result<(), DbError> {
        let mark = state_dir.ledger_mark()?;
        if mark.is_some() && self.id()? != mark { Err(lost()) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic inside leaves no half-done transaction: rusqlite rolls back on drop.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes rows as another program would; returns how many.
    #[cfg(test)]
    pub fn edit(&self, sql: &str) -> usize {
        self.lock().execute(sql, []).unwrap()
    }
}

fn lost() -> DbError {
    DbError::Damaged("it was lost or exchanged".to_owned())
}

/// Checks everything that is in the file.
fn check(connection: &Connection) -> Result<(), DbError> {
    // One view: an agent may be writing.
    let connection = &*connection.unchecked_transaction()?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if (1..SEALED_SINCE).contains(&version) {
        return Err(DbError::Older);
    }
    let sound: String = connection.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0))?;
    if sound != "ok" {
        return Err(DbError::Damaged(sound));
    }
    if schema_of(connection)? != *own_schema()? {
        return Err(DbError::Damaged("its schema is not that of this version".to_owned()));
    }
    // A bit in its first page forbids every change.
    if connection.is_readonly(MAIN_DB)? {
        return Err(DbError::Damaged("it is marked as not to be written".to_owned()));
    }
    if seal::check_all(connection)? {
        tracing::warn!("another program has changed what the ledger says is applied; it counts as not applied");
    }
    Ok(())
}

/// Type, name, table and text of all that SQLite knows of.
type Schema = Vec<[Option<String>; 4]>;

/// What this version makes.
fn own_schema() -> Result<&'static Schema, DbError> {
    static OWN: OnceLock<Schema> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let mut made = Connection::open_in_memory()?;
    SCHEMA.to_latest(&mut made).map_err(|source| DbError::Schema { path: FILE_NAME.into(), source })?;
    let own = schema_of(&made)?;
    Ok(OWN.get_or_init(|| own))
}

fn schema_of(connection: &Connection) -> rusqlite::Result<Schema> {
    let mut statement = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")?;
    let rows = statement.query_map([], |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?]))?;
    rows.collect()
}

/// A single value by its name.
///
/// # Errors
/// [`DbError`].
pub fn meta(connection: &Connection, key: &str) -> Result<Option<String>, DbError> {
    Ok(seal::get(connection, seal::Table::Meta, key, |r| r.get("value"))?.map(|found| found.value))
}

/// Stores a single value by its name.
///
/// # Errors
/// [`DbError`].
pub fn put_meta(tx: &Transaction<'_>, key: &str, value: &str) -> Result<(), DbError> {
    let put = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    tx.execute(put, params![key, value])?;
    Ok(())
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
