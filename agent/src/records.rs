//! Opens the agent's database and journal at the start, and makes damage to them loud.
//!
//! With the floors of the one or the keys and nonces of the other gone or in doubt, the agent could be led back to what it
//! refused before. So a damaged, lost or foreign file is put aside and the host is quarantined: it heartbeats, changes nothing
//! and says why.

use crate::clock::Clock;
use crate::db::{self, Db, DbError};
use crate::identity::{HostKeys, IdentityError, StateDir};
use crate::journal::JournalError;
use crate::journal::file::{FileJournal, Opened};
use crate::ledger::Ledger;
use crate::trust::TrustStore;
use moorline_common::id::HostEpoch;

/// The journal's folder in the state folder.
pub const JOURNAL: &str = "journal";

/// Why the records can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The state folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Opens the journal of the host's life `epoch`. One that was begun in it and is gone is damaged.
///
/// # Errors
/// [`JournalError::Damaged`] when the records are at fault; other [`RecordsError`]s when the disk is.
pub fn open_journal(state_dir: &StateDir, epoch: &HostEpoch) -> Result<Opened, RecordsError> {
    let dir = state_dir.0.join(JOURNAL);
    let is_marked = state_dir.journal_mark()?.as_ref() == Some(epoch);
    if is_marked && !FileJournal::exists(&dir)? {
        return Err(JournalError::Damaged { path: dir, offset: 0, what: "it was lost".to_owned() }.into());
    }
    let opened = FileJournal::open(&dir, epoch.clone())?;
    if !is_marked {
        state_dir.put_journal_mark(epoch)?;
    }
    Ok(opened)
}

/// Opens the database of a joined host. When it is damaged, or not the one that was made for this host, the quarantine
/// begins first; then the file is put aside and an empty one is made.
///
/// # Errors
/// [`RecordsError`] when the disk or the folder is at fault, not the records.
pub fn open(state_dir: &StateDir, keys: &mut HostKeys, root_pin: &str) -> Result<Db, RecordsError> {
    let opened = Db::open_own(state_dir).and_then(|db| examine(&db, root_pin).map(|found| (db, found)));
    let reason = match opened {
        Ok((db, None)) => {
            if state_dir.ledger_mark()?.is_none() {
                mark(state_dir, &db)?;
            }
            return Ok(db);
        }
        Ok((_, Some(reason))) => reason,
        Err(error) if error.is_damage() => format!("the ledger {} is damaged: {}", db::FILE_NAME, error.damage()),
        Err(error) => return Err(error.into()),
    };
    let reason = format!("{reason}; it was put aside, and what this host had accepted is no longer known");
    state_dir.enter_quarantine(keys, &reason)?;
    state_dir.put_ledger_aside(Clock.wall())?;
    let db = Db::open(state_dir.as_ref())?;
    mark(state_dir, &db)?;
    Ok(db)
}

/// What is wrong with what the rows mean, if anything is.
fn examine(db: &Db, root_pin: &str) -> Result<Option<String>, DbError> {
    let (ledger, trust) = (Ledger::new(db.clone()), TrustStore::new(db.clone()));
    ledger.current()?;
    ledger.accepted()?;
    ledger.time_floor()?;
    ledger.time_reset()?;
    trust.binding_floor()?;
    let fault = trust.root_damage(root_pin)?;
    Ok(fault.map(|fault| format!("a stored trust root does not verify: {}", fault.message)))
}

/// Marks file and folder as belonging together: first the file, so that a crash in between does no harm.
fn mark(state_dir: &StateDir, db: &Db) -> Result<(), RecordsError> {
    let id = match db.id()? {
        Some(id) => id,
        None => {
            let id = HostEpoch::to_string(&HostKeys::fresh_epoch()?);
            db.put_id(&id)?;
            id
        }
    };
    Ok(state_dir.put_ledger_mark(&id)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Operator, enrol};

    /// Opens the records of a host that has accepted root and binding, after `damage` was done to its folder.
    async fn after(damage: impl FnOnce(&std::path::Path)) -> (bool, u64) {
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        enrol(dir.path(), &operator);
        let state_dir = StateDir(dir.path().to_owned());
        let mut keys = state_dir.keys().unwrap().unwrap();
        let db = open(&state_dir, &mut keys, &operator.pin()).unwrap();
        drop(operator.ready_intake(&db).await);
        drop(db);
        damage(dir.path());
        let before = keys.epoch.clone();
        for _ in 0..2 {
            open(&state_dir, &mut keys, &operator.pin()).unwrap();
        }
        let quarantine = state_dir.quarantine().unwrap();
        assert_eq!(quarantine.is_some(), keys.epoch != before);
        let trust = TrustStore::new(Db::open(dir.path()).unwrap()).load(&operator.pin(), &keys.host_id()).unwrap();
        (quarantine.is_some(), trust.root_version())
    }

    fn edit(dir: &std::path::Path, sql: &str) {
        rusqlite::Connection::open(dir.join(db::FILE_NAME)).unwrap().execute_batch(sql).unwrap();
    }

    #[tokio::test]
    async fn sound_records_are_opened_as_they_are() {
        assert_eq!(after(|_| {}).await, (false, 1));
    }

    #[tokio::test]
    async fn damaged_lost_or_exchanged_records_quarantine_the_host() {
        let file = |dir: &std::path::Path| dir.join(db::FILE_NAME);
        assert_eq!(after(|dir| std::fs::write(file(dir), vec![b'x'; 8192]).unwrap()).await, (true, 0), "garbage");
        assert_eq!(after(|dir| std::fs::remove_file(file(dir)).unwrap()).await, (true, 0), "lost");
        let renewed_elsewhere = |dir: &std::path::Path| {
            std::fs::remove_file(file(dir)).unwrap();
            drop(Db::open(dir).unwrap());
        };
        assert_eq!(after(renewed_elsewhere).await, (true, 0), "made anew by another verb");
        assert_eq!(after(|dir| edit(dir, "UPDATE meta SET value = 'x' WHERE key = 'binding_floor'")).await, (true, 0), "a floor");
        let root = "UPDATE roots SET envelope = CAST(replace(CAST(envelope AS TEXT), 'payload\":\"', 'payload\":\"AAAA') AS BLOB)";
        assert_eq!(after(|dir| edit(dir, root)).await, (true, 0), "a trust root");
    }
}
