//! The trust store: every root that the agent has walked, and its binding.
//!
//! Rows are verified again when they are loaded: a file that someone edited gives no authority. The
//! first root is pinned by the join token, each later one is signed by its predecessor.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, HostName};
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::HostBinding;
use moorline_common::trust::TrustRoot;
use rusqlite::{Connection, params};

use crate::db::seal::{self, Table};
use crate::db::{Db, DbError, meta, put_meta};
use crate::intake::judge::BindingFloor;
use crate::limits::ROOTS_MAX;

const BINDING_FLOOR: &str = "binding_floor";

/// What the agent believes: the newest root and its binding.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The newest root.
    pub root: Option<Verified<TrustRoot>>,
    /// The accepted binding.
    pub binding: Option<Verified<HostBinding>>,
    /// Why the accepted slice is no longer acted on, when a newer root does not cover it.
    pub frozen: Option<Fault>,
}

impl Trust {
    /// The version of the newest root; 0 without one.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.root.as_ref().map_or(0, |r| r.statement().version)
    }

    /// The serial of the binding; 0 without one.
    #[must_use]
    pub fn binding_serial(&self) -> u64 {
        self.binding.as_ref().map_or(0, |b| b.statement().serial)
    }

    /// Whether slices can be accepted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.root.is_some() && self.binding.is_some()
    }
}

/// The next root after `newest`, or the first one by its `pin`.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub fn next_root(newest: Option<&TrustRoot>, pin: &str, envelope: Envelope) -> Result<Verified<TrustRoot>, Fault> {
    match newest {
        None => TrustRoot::verify_first(envelope, pin),
        Some(root) if root.version >= ROOTS_MAX => Err(Fault::new(Code::BadRoot, format!("more than {ROOTS_MAX} trust roots"))),
        Some(root) => root.verify_next(envelope),
    }
}

/// The rows. All methods block for as long as the disk takes.
#[derive(Clone)]
pub struct TrustStore {
    db: Db,
}

impl TrustStore {
    /// The store in `db`.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Loads and verifies what is stored. A root or binding that does not verify is left out, with
    /// everything after it: the hub will send it again.
    ///
    /// # Errors
    /// [`DbError`] when the rows cannot be read.
    pub fn load(&self, pin: &str, own: &HostId) -> Result<Trust, DbError> {
        let mut trust = Trust::default();
        for json in self.root_rows()? {
            let newest = trust.root.as_ref().map(Verified::statement);
            match Envelope::from_json(&json).and_then(|envelope| next_root(newest, pin, envelope)) {
                Ok(root) => trust.root = Some(root),
                Err(fault) => {
                    tracing::error!(code = %fault.code, error = %fault.message, "a stored trust root does not verify; it is left out");
                    break;
                }
            }
        }
        if let (Some(root), Some(json)) = (&trust.root, self.binding_row()?) {
            match Signed::from_json(&json).and_then(|signed| root.statement().verify_binding(signed, Some(own))) {
                Ok(binding) => trust.binding = Some(binding),
                Err(fault) => {
                    tracing::error!(code = %fault.code, error = %fault.message, "the stored binding does not verify; it is left out");
                }
            }
        }
        Ok(trust)
    }

    /// Why the stored roots are not an unbroken chain from the pinned one, if they aren't.
    ///
    /// # Errors
    /// [`DbError`] when the rows cannot be read.
    pub fn root_damage(&self, pin: &str) -> Result<Option<Fault>, DbError> {
        let mut newest: Option<Verified<TrustRoot>> = None;
        for json in self.root_rows()? {
            match Envelope::from_json(&json).and_then(|e| next_root(newest.as_ref().map(Verified::statement), pin, e)) {
                Ok(root) => newest = Some(root),
                Err(fault) => return Ok(Some(fault)),
            }
        }
        Ok(None)
    }

    /// Every stored root as JSON, version 1 first.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn root_rows(&self) -> Result<Vec<Vec<u8>>, DbError> {
        self.db.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT version FROM roots ORDER BY version")?;
            let versions = statement.query_map([], |r| r.get(0))?.collect::<Result<Vec<i64>, _>>()?;
            let rows = versions.into_iter().map(|version| read_root(connection, version));
            Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        })
    }

    /// The stored root of a version as JSON.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn root_row(&self, version: u64) -> Result<Option<Vec<u8>>, DbError> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        self.db.read(|connection| read_root(connection, version))
    }

    /// The stored binding as JSON.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn binding_row(&self) -> Result<Option<Vec<u8>>, DbError> {
        self.db.read(|connection| {
            let found = seal::get(connection, Table::Binding, "1", |r| r.get("envelope"))?;
            Ok(found.map(|row| row.value))
        })
    }

    /// Stores an accepted root. Roots of its version or above that did not verify at load give way.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn put_root(&self, root: &Verified<TrustRoot>) -> Result<(), DbError> {
        let version = i64::try_from(root.statement().version).unwrap_or(i64::MAX);
        self.db.write(|tx| {
            tx.execute("DELETE FROM roots WHERE version >= ?1", params![version])?;
            tx.execute("INSERT INTO roots (version, envelope) VALUES (?1, ?2)", params![version, root.envelope().to_json()])?;
            Ok(())
        })
    }

    /// The newest binding that was ever stored, whatever roots came since.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn binding_floor(&self) -> Result<Option<BindingFloor>, DbError> {
        let Some(text) = self.db.read(|connection| meta(connection, BINDING_FLOOR))? else { return Ok(None) };
        let parsed = match text.split(' ').collect::<Vec<_>>().as_slice() {
            [serial, sha, name] => serial.parse().ok().zip(HostName::parse(*name).ok()).map(|(serial, name)| BindingFloor {
                serial,
                payload_sha256: (*sha).to_owned(),
                name,
            }),
            _ => None,
        };
        parsed.map(Some).ok_or_else(|| DbError::Damaged(format!("binding floor `{text}`")))
    }

    /// Stores an accepted binding, and that nothing older counts from now on.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn put_binding(&self, binding: &Verified<HostBinding>) -> Result<(), DbError> {
        let statement = binding.statement();
        let serial = i64::try_from(statement.serial).unwrap_or(i64::MAX);
        let floor = format!("{} {} {}", statement.serial, binding.envelope().payload_sha256(), statement.name);
        self.db.write(|tx| {
            put_meta(tx, BINDING_FLOOR, &floor)?;
            tx.execute(
                "INSERT INTO binding (id, serial, envelope) VALUES (1, ?1, ?2)
                 ON CONFLICT (id) DO UPDATE SET serial = excluded.serial, envelope = excluded.envelope",
                params![serial, binding.envelope().to_json()],
            )?;
            Ok(())
        })
    }
}

fn read_root(connection: &Connection, version: i64) -> Result<Option<Vec<u8>>, DbError> {
    Ok(seal::get(connection, Table::Roots, &version.to_string(), |r| r.get("envelope"))?.map(|row| row.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Operator;

    #[tokio::test]
    async fn what_was_edited_on_disk_gives_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        let db = Db::open(dir.path()).unwrap();
        operator.ready_intake(&db).await;
        let store = TrustStore::new(db.clone());
        let load = || store.load(&operator.pin(), &operator.keys.host_id()).unwrap();
        assert!(load().is_ready());

        let edit = |table: &str| {
            let sql =
                format!("UPDATE {table} SET envelope = CAST(replace(CAST(envelope AS TEXT), 'payload\":\"', 'payload\":\"AAAA') AS BLOB)");
            // As if the seals had been forged, too.
            assert_eq!(db.write(|tx| Ok(tx.execute(&sql, [])?)).unwrap(), 1);
        };
        edit("binding");
        assert_eq!((load().root_version(), load().binding_serial()), (1, 0));
        edit("roots");
        assert_eq!(load().root_version(), 0);
        // The hub sends the root again, and it takes the place of the damaged row.
        let mut intake = operator.intake(&db);
        intake.root(operator.root.envelope().to_json()).await.unwrap();
        assert_eq!(load().root_version(), 1);
    }
}
