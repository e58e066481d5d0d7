//! Seals: what SQLite's own checks miss in the bytes of a row, these find.
//!
//! Beside each row stands a SHA-256 of all its columns, and one more over all of these. Every transaction of the agent's checks
//! them first and renews them last, so that nothing is written on top of what was not written by it. A row is compared
//! with its seal whenever it is read.
//!
//! Triggers note what any program changes by SQL. What another program than the agent changed, an operator at a
//! prompt for one, is so told from damage: in `current`, which is a cache, it counts as not applied and the hub sends the
//! slice again; anywhere else it gives no authority and counts as damage.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};

use super::DbError;

/// A table of the ledger, in which each row bears a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// The row of what is applied.
    Current,
    /// The newest slice of each topology.
    Floors,
    /// Single values by name.
    Meta,
    /// The trust roots.
    Roots,
    /// The binding.
    Binding,
}

impl Table {
    const ALL: [Table; 5] = [Table::Current, Table::Floors, Table::Meta, Table::Roots, Table::Binding];

    const fn name(self) -> &'static str {
        match self {
            Table::Current => "current",
            Table::Floors => "floors",
            Table::Meta => "meta",
            Table::Roots => "roots",
            Table::Binding => "binding",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Table::Current | Table::Binding => "id",
            Table::Floors => "topology",
            Table::Meta => "key",
            Table::Roots => "version",
        }
    }

    fn damaged(self, key: &str, what: &str) -> DbError {
        DbError::Damaged(format!("row `{key}` of its table `{}` {what}", self.name()))
    }
}

macro_rules! note {
    ($table:literal, $when:literal, $row:literal, $key:literal) => {
        concat!(
            "CREATE TRIGGER ",
            $table,
            "_",
            $when,
            "_",
            $row,
            " AFTER ",
            $when,
            " ON ",
            $table,
            " BEGIN
                INSERT INTO seals (tbl, key, sum, changed) VALUES ('",
            $table,
            "', CAST(",
            $row,
            ".",
            $key,
            " AS TEXT), x'', 1)
                ON CONFLICT (tbl, key) DO UPDATE SET changed = 1;
             END;
             "
        )
    };
}

macro_rules! notes {
    ($table:literal, $key:literal) => {
        concat!(
            note!($table, "INSERT", "NEW", $key),
            note!($table, "UPDATE", "OLD", $key),
            note!($table, "UPDATE", "NEW", $key),
            note!($table, "DELETE", "OLD", $key)
        )
    };
}

/// Makes the seals' table. What is there already is sealed by [`renew_all`].
pub const SCHEMA: &str = concat!(
    "CREATE TABLE seals (
        tbl     TEXT    NOT NULL, -- empty: over all the others
        key     TEXT    NOT NULL,
        sum     BLOB    NOT NULL, -- empty: never sealed
        changed INTEGER NOT NULL, -- 1: the row is not what was sealed
        PRIMARY KEY (tbl, key)
     ) STRICT, WITHOUT ROWID;
     ",
    notes!("current", "id"),
    notes!("floors", "topology"),
    notes!("meta", "key"),
    notes!("roots", "version"),
    notes!("binding", "id")
);

type Sum = [u8; 32];

/// A row as it was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// What was made of it.
    pub value: T,
    /// Another program has changed it; in [`Table::Current`] alone.
    pub is_edited: bool,
}

/// The row of `table` by its key, when it is what was written.
///
/// # Errors
/// [`DbError::Damaged`] when it is not, or is gone; others when SQLite fails.
pub fn get<T>(
    connection: &Connection,
    table: Table,
    key: &str,
    parse: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<Found<T>>, DbError> {
    let seal: Option<(Vec<u8>, bool)> = connection
        .prepare_cached("SELECT sum, changed FROM seals WHERE tbl = ?1 AND key = ?2")?
        .query_row(params![table.name(), key], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let mut statement = connection.prepare_cached(&format!("SELECT * FROM {} WHERE {} = ?1", table.name(), table.key()))?;
    let mut rows = statement.query(params![key])?;
    let Some(row) = rows.next()? else {
        return match seal {
            None => Ok(None),
            Some((_, true)) if table == Table::Current => Ok(None),
            Some(_) => Err(table.damaged(key, "is gone")),
        };
    };
    let is_edited = compare(table, key, &sum_of(table, row)?, seal.as_ref())?;
    Ok(Some(Found { value: parse(row)?, is_edited }))
}

/// Whether a row was changed by another program, in the one table where that does no harm.
fn compare(table: Table, key: &str, sum: &Sum, seal: Option<&(Vec<u8>, bool)>) -> Result<bool, DbError> {
    match seal {
        None => Err(table.damaged(key, "was never written")),
        Some((_, true)) if table == Table::Current => Ok(true),
        Some((_, true)) => Err(table.damaged(key, "was changed by another program than the agent")),
        Some((sealed, false)) if sealed == sum => Ok(false),
        Some(_) => Err(table.damaged(key, "is not what was written")),
    }
}

/// Checks every row, and that none is missing. Gives whether another program has changed [`Table::Current`].
///
/// # Errors
/// As [`get`].
pub fn check_all(connection: &Connection) -> Result<bool, DbError> {
    let mut seals = read_seals(connection)?;
    let all = seals.remove(&(String::new(), String::new()));
    if all.is_none_or(|(sealed, _)| sealed != sum_of_all(&seals)) {
        return Err(DbError::Damaged("its seals are not those that were written".to_owned()));
    }
    let mut is_edited = false;
    for table in Table::ALL {
        let mut statement = connection.prepare_cached(&format!("SELECT * FROM {}", table.name()))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key = key_of(table, row)?;
            let seal = seals.remove(&(table.name().to_owned(), key.clone()));
            is_edited |= compare(table, &key, &sum_of(table, row)?, seal.as_ref())?;
        }
    }
    for ((table, key), (_, changed)) in seals {
        if !(changed && table == Table::Current.name()) {
            return Err(DbError::Damaged(format!("row `{key}` of its table `{table}` is gone")));
        }
    }
    Ok(is_edited)
}

/// Makes what another program has changed in [`Table::Current`] count as not applied, so that it can be sealed.
///
/// # Errors
/// SQLite's.
pub fn disown_current(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE current SET version_hash = '', applied_at = 0", []).map(drop)
}

/// Seals every row that has changed, and all seals.
///
/// # Errors
/// SQLite's.
pub fn renew(connection: &Connection) -> rusqlite::Result<()> {
    let mut seals = read_seals(connection)?;
    seals.remove(&(String::new(), String::new()));
    let changed: Vec<_> = seals.iter().filter(|(_, (_, changed))| *changed).map(|(key, _)| key.clone()).collect();
    if changed.is_empty() {
        return Ok(());
    }
    for (name, key) in changed {
        let Some(table) = Table::ALL.into_iter().find(|t| t.name() == name) else { continue };
        let select = format!("SELECT * FROM {} WHERE {} = ?1", table.name(), table.key());
        let sum = connection.prepare_cached(&select)?.query_row(params![key], |row| sum_of(table, row)).optional()?;
        match sum {
            Some(sum) => {
                put(connection, &name, &key, &sum)?;
                seals.insert((name, key), (sum.to_vec(), false));
            }
            None => {
                connection.prepare_cached("DELETE FROM seals WHERE tbl = ?1 AND key = ?2")?.execute(params![name, key])?;
                seals.remove(&(name, key));
            }
        }
    }
    put(connection, "", "", &sum_of_all(&seals))
}

/// Seals a ledger that had no seals, as it is.
///
/// # Errors
/// SQLite's.
pub fn renew_all(connection: &Connection) -> rusqlite::Result<()> {
    for table in Table::ALL {
        connection.execute(
            &format!(
                "INSERT INTO seals (tbl, key, sum, changed) SELECT '{}', CAST({} AS TEXT), x'', 1 FROM {}",
                table.name(),
                table.key(),
                table.name()
            ),
            [],
        )?;
    }
    put(connection, "", "", &sum_of_all(&BTreeMap::new()))?;
    renew(connection)
}

fn put(connection: &Connection, table: &str, key: &str, sum: &Sum) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO seals (tbl, key, sum, changed) VALUES (?1, ?2, ?3, 0)
             ON CONFLICT (tbl, key) DO UPDATE SET sum = excluded.sum, changed = 0",
        )?
        .execute(params![table, key, sum])
        .map(drop)
}

/// By table and key: the sum, and whether the row has changed since.
type Seals = BTreeMap<(String, String), (Vec<u8>, bool)>;

fn read_seals(connection: &Connection) -> rusqlite::Result<Seals> {
    let mut statement = connection.prepare_cached("SELECT tbl, key, sum, changed FROM seals")?;
    let rows = statement.query_map([], |r| Ok(((r.get(0)?, r.get(1)?), (r.get(2)?, r.get(3)?))))?;
    rows.collect()
}

/// Rows that were never sealed are not in it: only another program leaves such.
fn sum_of_all(seals: &Seals) -> Sum {
    let mut hash = Sha256::new();
    for ((table, key), (sum, _)) in seals.iter().filter(|(_, (sum, _))| !sum.is_empty()) {
        for part in [table.as_bytes(), key.as_bytes(), sum.as_slice()] {
            add(&mut hash, part);
        }
    }
    hash.finalize().into()
}

fn sum_of(table: Table, row: &Row<'_>) -> rusqlite::Result<Sum> {
    use rusqlite::types::ValueRef;
    let mut hash = Sha256::new();
    add(&mut hash, table.name().as_bytes());
    for column in 0..row.as_ref().column_count() {
        match row.get_ref(column)? {
            ValueRef::Null => hash.update([0]),
            ValueRef::Integer(n) => {
                hash.update([1]);
                hash.update(n.to_le_bytes());
            }
            ValueRef::Real(n) => {
                hash.update([2]);
                hash.update(n.to_le_bytes());
            }
            ValueRef::Text(text) => {
                hash.update([3]);
                add(&mut hash, text);
            }
            ValueRef::Blob(bytes) => {
                hash.update([4]);
                add(&mut hash, bytes);
            }
        }
    }
    Ok(hash.finalize().into())
}

fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
    hash.update(part);
}

fn key_of(table: Table, row: &Row<'_>) -> Result<String, DbError> {
    Ok(match table {
        Table::Current | Table::Roots | Table::Binding => row.get::<_, i64>(table.key())?.to_string(),
        Table::Floors | Table::Meta => row.get(table.key())?,
    })
}
