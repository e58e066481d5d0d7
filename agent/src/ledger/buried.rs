//! Guests that were destroyed and are kept for a while, and when they go: what a signed order has decided, and nothing on the guest itself
//! can bring forward.

use moorline_common::id::{OpId, UnixSeconds};
use moorline_common::pve::Vmid;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::db::{DbError, meta, put_meta};

/// Before the numbers of guests.
const BURIED: &str = "buried/";

/// A guest that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buried {
    /// Its number.
    pub vmid: Vmid,
    /// What of its incarnation stays.
    pub lasting: String,
    /// The operation that ordered it.
    pub op_id: OpId,
    /// When it goes, by the time floor: no wrong clock brings that forward.
    pub purge_at: UnixSeconds,
}

impl Ledger {
    /// Notes that a guest goes.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn bury(&self, buried: &Buried) -> Result<(), DbError> {
        // Plain data of strings and numbers.
        let text = serde_json::to_string(buried).unwrap_or_default();
        self.db.write(|tx| put_meta(tx, &format!("{BURIED}{}", buried.vmid), &text))
    }

    /// The guests that go.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn buried(&self) -> Result<Vec<Buried>, DbError> {
        self.db.read(|connection| {
            let mut keys = connection.prepare_cached("SELECT key FROM meta WHERE substr(key, 1, length(?1)) = ?1")?;
            let keys: Vec<String> = keys.query_map([BURIED], |r| r.get(0))?.collect::<Result<_, _>>()?;
            let mut all = Vec::with_capacity(keys.len());
            for key in keys {
                let Some(text) = meta(connection, &key)? else { continue };
                all.push(serde_json::from_str(&text).map_err(|e| DbError::Damaged(format!("`{key}`: {e}")))?);
            }
            Ok(all)
        })
    }

    /// A guest has gone, or stays after all.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn unbury(&self, vmid: Vmid) -> Result<(), DbError> {
        self.db.write(|tx| {
            tx.execute("DELETE FROM meta WHERE key = ?1", params![format!("{BURIED}{vmid}")])?;
            Ok(())
        })
    }
}
