//! What objects on the engine are, though their labels say otherwise or nothing: labels cannot be changed.

use moorline_common::observe::Owner;
use rusqlite::params;

use super::Ledger;
use crate::db::{DbError, meta, put_meta};

/// Before the keys of notes.
const NOTE: &str = "note/";

impl Ledger {
    /// What is known of the engine's objects beside their labels, by their keys.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn notes(&self) -> Result<Vec<(String, Owner)>, DbError> {
        self.db.read(|connection| {
            let mut keys = connection.prepare_cached("SELECT key FROM meta WHERE substr(key, 1, length(?1)) = ?1")?;
            let keys: Vec<String> = keys.query_map([NOTE], |r| r.get(0))?.collect::<Result<_, _>>()?;
            let mut notes = Vec::with_capacity(keys.len());
            for key in keys {
                let Some(text) = meta(connection, &key)? else { continue };
                let owner = serde_json::from_str(&text).map_err(|e| DbError::Damaged(format!("note `{key}`: {e}")))?;
                notes.push((key.strip_prefix(NOTE).unwrap_or(&key).to_owned(), owner));
            }
            Ok(notes)
        })
    }

    /// Notes what the object `key` is from now on, though its labels say otherwise or nothing.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn note(&self, key: &str, owner: &Owner) -> Result<(), DbError> {
        // Plain data of strings.
        let text = serde_json::to_string(owner).unwrap_or_default();
        self.db.write(|tx| put_meta(tx, &format!("{NOTE}{key}"), &text))
    }

    /// Forgets the notes of `keys`.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn forget(&self, keys: &[String]) -> Result<(), DbError> {
        self.db.write(|tx| {
            for key in keys {
                tx.execute("DELETE FROM meta WHERE key = ?1", params![format!("{NOTE}{key}")])?;
            }
            Ok(())
        })
    }
}
