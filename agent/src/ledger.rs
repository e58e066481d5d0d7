//! The ledger: what was accepted and what was applied.
//!
//! It is a cache of the truth on the engine, never the truth itself: nothing is restored from it at
//! start. Its rules:
//! - One *current* row. A first apply that has not succeeded leaves a marker: empty hash, `applied_at`
//!   0, the hydrated content, so that its topology stays pinned and teardown can walk it.
//! - An error keeps hash, `applied_at` and any non-empty content. Success sets all and clears the error.
//! - Clearing is idempotent, and clearing another topology does nothing.
//! - The *floors* are kept apart: they outlive teardown and a lost current row.

use std::sync::{Arc, Mutex, PoisonError};

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{Generation, TopologyId, UnixSeconds, VersionHash};
use moorline_common::statement::Fallback;
use moorline_common::topology::HostSpec;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::clock::{BootTime, TimeFloor};
use crate::db::seal::{self, Table};
use crate::db::{Db, DbError, meta, put_meta};
use crate::limits::FLOOR_ENVELOPES_MAX;

pub use standing::Standing;

/// The current row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The topology that this host follows.
    pub topology: TopologyId,
    /// The generation of what is applied (of what was tried, for a marker).
    pub generation: Generation,
    /// The hash of what is applied; `None` for a marker, or when the stored text is no hash.
    pub version_hash: Option<VersionHash>,
    /// The slice's content as JSON.
    pub hydrated: String,
    /// The signed slice as JSON.
    pub envelope: Vec<u8>,
    /// When it was applied; 0 for a marker.
    pub applied_at: UnixSeconds,
    /// The last error since the last success.
    pub last_error: Option<Fault>,
}

impl Floor {
    /// Whether `current` has the content that was accepted.
    #[must_use]
    pub fn version_hash_is(&self, current: &Current) -> bool {
        current.version_hash.as_ref() == Some(&self.version_hash)
    }
}

impl Current {
    /// What is applied, as far as this agent can read it.
    #[must_use]
    pub fn applied(&self) -> Option<HostSpec> {
        self.version_hash.as_ref()?;
        serde_json::from_str(&self.hydrated).ok()
    }
}

/// How far the accepted slice of a topology has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloorState {
    /// It is in force.
    Active,
    /// It was empty, and everything has been removed.
    TornDown,
    /// It was taken down on the host itself, without an operator's slice.
    Cleared,
}

impl FloorState {
    const fn as_str(self) -> &'static str {
        match self {
            FloorState::Active => "active",
            FloorState::TornDown => "torn_down",
            FloorState::Cleared => "cleared",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [FloorState::Active, FloorState::TornDown, FloorState::Cleared].into_iter().find(|s| s.as_str() == text)
    }
}

/// The newest slice that was accepted for a topology: lower generations are refused for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    /// The topology.
    pub topology: TopologyId,
    /// Its generation.
    pub generation: Generation,
    /// The payload's SHA-256: the same generation with another one is refused.
    pub payload_sha256: String,
    /// The hash of its content.
    pub version_hash: VersionHash,
    /// How far it has come.
    pub state: FloorState,
    /// The signed slice as JSON; empty when it has been dropped to save space.
    pub envelope: Vec<u8>,
    /// The first generation of those accepted without a break that have this content.
    pub content_since: Generation,
}

impl Floor {
    /// Since when `content` is wanted if it is accepted next as `generation`: from that one on, unless it is in force now.
    #[must_use]
    pub fn content_since(before: Option<&Self>, content: &VersionHash, generation: Generation) -> Generation {
        let same = before.filter(|floor| floor.state == FloorState::Active && floor.version_hash == *content);
        same.map_or(generation, |floor| floor.content_since)
    }
}

/// A slice about to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The topology.
    pub topology: TopologyId,
    /// Its generation.
    pub generation: Generation,
    /// The payload's SHA-256.
    pub payload_sha256: String,
    /// The hash of its content.
    pub version_hash: VersionHash,
    /// See [`Floor::content_since`].
    pub content_since: Generation,
    /// The content as JSON.
    pub hydrated: String,
    /// The signed slice as JSON.
    pub envelope: Vec<u8>,
    /// Whether it asks for nothing to exist.
    pub is_empty: bool,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// What comes back if it fails.
    pub fallback: Option<Fallback>,
}

/// The ledger's rows in a [`Db`]. All methods block for as long as the disk takes.
#[derive(Clone)]
pub struct Ledger {
    db: Db,
    /// Floor and reset as they were at a version of the database.
    times: Arc<Mutex<Option<(u64, TimeFloor, UnixSeconds)>>>,
}

impl Ledger {
    /// The ledger in `db`.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, times: Arc::default() }
    }

    /// The current row.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn current(&self) -> Result<Option<Current>, DbError> {
        self.db.read(read_current)
    }

    /// The floor of `topology`.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn floor(&self, topology: &TopologyId) -> Result<Option<Floor>, DbError> {
        self.db.read(|connection| read_floor(connection, topology.as_str()))
    }

    /// The slice in force, or the one torn down last.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn accepted(&self) -> Result<Option<Floor>, DbError> {
        self.db.read(read_accepted)
    }

    /// The topology that this host is bound to: that of the current row, or of an accepted slice that
    /// has not got that far.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn pinned(&self) -> Result<Option<TopologyId>, DbError> {
        self.db.read(|connection| {
            if let Some(current) = read_current(connection)? {
                return Ok(Some(current.topology));
            }
            Ok(read_accepted(connection)?.filter(|f| f.state == FloorState::Active).map(|f| f.topology))
        })
    }

    /// Accepts a slice: floors, time floor and (for a first slice) the marker, in one transaction.
    /// Durable when it returns, so that nothing acts before.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn admit(&self, admission: &Admission, boot: &BootTime) -> Result<(), DbError> {
        self.db.write(|tx| {
            trial::begin(tx, admission, boot)?;
            // The last error is of another payload from now on.
            tx.execute(
                "UPDATE current SET last_error_code = NULL, last_error = NULL WHERE topology = ?1
                 AND NOT EXISTS (SELECT 1 FROM floors WHERE topology = ?1 AND payload_sha256 = ?2)",
                params![admission.topology.as_str(), admission.payload_sha256],
            )?;
            tx.execute(
                "INSERT INTO floors (topology, generation, payload_sha256, version_hash, state, envelope, content_since, accepted_order)
                 VALUES (?1, ?2, ?3, ?4, 'active', ?5, ?6, (SELECT COALESCE(MAX(accepted_order), 0) + 1 FROM floors))
                 ON CONFLICT (topology) DO UPDATE SET generation = excluded.generation, payload_sha256 = excluded.payload_sha256,
                    version_hash = excluded.version_hash, state = 'active', envelope = excluded.envelope, content_since = excluded.content_since,
                    accepted_order = excluded.accepted_order
                 WHERE excluded.generation >= floors.generation",
                params![
                    admission.topology.as_str(),
                    to_sql(admission.generation.0),
                    admission.payload_sha256,
                    admission.version_hash.as_str(),
                    admission.envelope,
                    to_sql(admission.content_since.0)
                ],
            )?;
            tx.execute(
                "UPDATE floors SET envelope = x'' WHERE accepted_order <= (SELECT MAX(accepted_order) FROM floors) - ?1 AND state <> 'active'",
                params![FLOOR_ENVELOPES_MAX],
            )?;
            if !admission.is_empty {
                tx.execute(
                    "INSERT INTO current (id, topology, generation, version_hash, hydrated, envelope, applied_at)
                     VALUES (1, ?1, ?2, '', ?3, ?4, 0) ON CONFLICT (id) DO NOTHING",
                    params![admission.topology.as_str(), to_sql(admission.generation.0), admission.hydrated, admission.envelope],
                )?;
            }
            let floor = read_time_floor(tx)?.advanced(admission.issued_at, boot);
            write_time_floor(tx, &floor)?;
            crate::crash::point("ledger.admit.before");
            Ok(())
        })?;
        crate::crash::point("ledger.admit.after");
        Ok(())
    }

    /// Records that the accepted slice could not be applied: keeps hash, time and content.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn record_error(&self, topology: &TopologyId, fault: &Fault) -> Result<(), DbError> {
        self.db.write(|tx| {
            tx.execute(
                "UPDATE current SET last_error_code = ?2, last_error = ?3 WHERE topology = ?1",
                params![topology.as_str(), fault.code.as_str(), cut(&fault.message)],
            )?;
            Ok(())
        })
    }

    /// Records that a slice is applied: sets everything, clears the error.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn record_success(&self, admission: &Admission, at: UnixSeconds) -> Result<(), DbError> {
        crate::crash::point("ledger.success.before");
        self.db.write(|tx| {
            tx.execute(
                "INSERT INTO current (id, topology, generation, version_hash, hydrated, envelope, applied_at, last_error_code, last_error)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, NULL, NULL)
                 ON CONFLICT (id) DO UPDATE SET topology = excluded.topology, generation = excluded.generation,
                    version_hash = excluded.version_hash, hydrated = excluded.hydrated, envelope = excluded.envelope,
                    applied_at = excluded.applied_at, last_error_code = NULL, last_error = NULL",
                params![
                    admission.topology.as_str(),
                    to_sql(admission.generation.0),
                    admission.version_hash.as_str(),
                    admission.hydrated,
                    admission.envelope,
                    to_sql(at.0)
                ],
            )?;
            Ok(())
        })?;
        crate::crash::point("ledger.success.after");
        Ok(())
    }

    /// Records that `topology` is gone from this host; its floor stays.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn clear(&self, topology: &TopologyId, state: FloorState) -> Result<(), DbError> {
        self.db.write(|tx| {
            tx.execute("DELETE FROM current WHERE topology = ?1", params![topology.as_str()])?;
            tx.execute("UPDATE floors SET state = ?2 WHERE topology = ?1", params![topology.as_str(), state.as_str()])?;
            if state == FloorState::Cleared {
                trial::forget(tx, topology)?;
            }
            Ok(())
        })
    }

    /// The time floor as it was saved.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn time_floor(&self) -> Result<TimeFloor, DbError> {
        self.db.read(read_time_floor)
    }

    /// Advances the time floor to `issued_at` (or merely by the time since boot, with 0).
    ///
    /// # Errors
    /// [`DbError`].
    pub fn advance_time_floor(&self, issued_at: UnixSeconds, boot: &BootTime) -> Result<(), DbError> {
        if issued_at.0 == 0 && self.time_floor()? == TimeFloor::default() {
            return Ok(());
        }
        self.db.write(|tx| {
            let floor = read_time_floor(tx)?.advanced(issued_at, boot);
            crate::crash::point("ledger.floor.before");
            write_time_floor(tx, &floor)
        })?;
        crate::crash::point("ledger.floor.after");
        Ok(())
    }

    /// When the order was signed by which the time floor was last set anew; 0 for never. Nothing that was signed before
    /// counts any more: its nonce may be forgotten.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn time_reset(&self) -> Result<UnixSeconds, DbError> {
        self.db.read(read_time_reset)
    }

    /// The time floor and the last reset, when they were read since the newest write of this process: every order asks for
    /// them, several times.
    #[must_use]
    pub fn times_known(&self) -> Option<(TimeFloor, UnixSeconds)> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.as_ref().filter(|(version, ..)| *version == self.db.version()).map(|(_, floor, reset)| (floor.clone(), *reset))
    }

    /// The time floor and the last reset. Blocks.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn times(&self) -> Result<(TimeFloor, UnixSeconds), DbError> {
        let version = self.db.version();
        // In one view: a reset sets both.
        let (floor, reset) = self.db.read(|connection| Ok((read_time_floor(connection)?, read_time_reset(connection)?)))?;
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, floor.clone(), reset));
        Ok((floor, reset))
    }

    /// Sets the time floor, even backwards, by an order that was signed at `to`: to the wall clock, which is in that order's
    /// window. The order may have been withheld for most of that, and what was signed since and is over stays so.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn reset_time(&self, to: UnixSeconds, boot: &BootTime) -> Result<(), DbError> {
        self.db.write(|tx| {
            write_time_floor(tx, &TimeFloor { at: to.max(boot.wall), boot_id: boot.boot_id.clone(), uptime_s: boot.uptime_s })?;
            put_meta(tx, TIME_RESET, &to.0.to_string())
        })
    }

    /// Ends when the database turns out to be damaged, with what it is.
    pub async fn damaged(&self) -> String {
        self.db.damaged().await
    }
}

fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn parse_topology(text: String) -> Result<TopologyId, DbError> {
    TopologyId::parse(text).map_err(|e| DbError::Damaged(e.to_string()))
}

fn read_current(connection: &Connection) -> Result<Option<Current>, DbError> {
    type Raw = (String, i64, String, String, Vec<u8>, i64, Option<String>, Option<String>);
    let found = seal::get(connection, Table::Current, "1", |r| -> rusqlite::Result<Raw> {
        Ok((
            r.get("topology")?,
            r.get("generation")?,
            r.get("version_hash")?,
            r.get("hydrated")?,
            r.get("envelope")?,
            r.get("applied_at")?,
            r.get("last_error_code")?,
            r.get("last_error")?,
        ))
    })?;
    let Some(found) = found else { return Ok(None) };
    let (topology, generation, hash, hydrated, envelope, applied_at, code, error) = found.value;
    Ok(Some(Current {
        topology: parse_topology(topology)?,
        generation: Generation(from_sql(generation)),
        version_hash: VersionHash::parse(hash).ok().filter(|_| !found.is_edited),
        hydrated,
        envelope,
        applied_at: UnixSeconds(from_sql(applied_at)),
        last_error: error.map(|message| Fault::new(code.as_deref().and_then(Code::parse).unwrap_or(Code::Internal), message)),
    }))
}

fn read_floor(connection: &Connection, topology: &str) -> Result<Option<Floor>, DbError> {
    type Raw = (String, i64, String, String, String, Vec<u8>, i64);
    let found = seal::get(connection, Table::Floors, topology, |r| -> rusqlite::Result<Raw> {
        Ok((
            r.get("topology")?,
            r.get("generation")?,
            r.get("payload_sha256")?,
            r.get("version_hash")?,
            r.get("state")?,
            r.get("envelope")?,
            r.get("content_since")?,
        ))
    })?;
    let Some((topology, generation, payload_sha256, hash, state, envelope, since)) = found.map(|f| f.value) else { return Ok(None) };
    Ok(Some(Floor {
        topology: parse_topology(topology)?,
        generation: Generation(from_sql(generation)),
        payload_sha256,
        version_hash: VersionHash::parse(hash).map_err(|e| DbError::Damaged(e.to_string()))?,
        state: FloorState::parse(&state).ok_or_else(|| DbError::Damaged(format!("floor state `{state}`")))?,
        envelope,
        content_since: Generation(from_sql(since)),
    }))
}

fn read_accepted(connection: &Connection) -> Result<Option<Floor>, DbError> {
    let newest: Option<String> = connection
        .prepare_cached("SELECT topology FROM floors WHERE state <> 'cleared' ORDER BY state = 'active' DESC, accepted_order DESC LIMIT 1")?
        .query_row([], |r| r.get(0))
        .optional()?;
    newest.map_or(Ok(None), |topology| read_floor(connection, &topology))
}

const TIME_FLOOR: &str = "time_floor";
const TIME_RESET: &str = "time_reset";

fn read_time_floor(connection: &Connection) -> Result<TimeFloor, DbError> {
    let Some(text) = meta(connection, TIME_FLOOR)? else { return Ok(TimeFloor::default()) };
    let damaged = || DbError::Damaged(format!("time floor `{text}`"));
    let mut parts = text.splitn(3, ' ');
    let mut next = || parts.next().ok_or_else(damaged);
    let (at, uptime, boot_id) = (next()?, next()?, next()?);
    Ok(TimeFloor {
        at: UnixSeconds(at.parse().map_err(|_| damaged())?),
        uptime_s: uptime.parse().map_err(|_| damaged())?,
        boot_id: boot_id.to_owned(),
    })
}

fn read_time_reset(connection: &Connection) -> Result<UnixSeconds, DbError> {
    let Some(text) = meta(connection, TIME_RESET)? else { return Ok(UnixSeconds(0)) };
    text.parse().map(UnixSeconds).map_err(|_| DbError::Damaged(format!("time reset `{text}`")))
}

fn write_time_floor(tx: &Transaction<'_>, floor: &TimeFloor) -> Result<(), DbError> {
    put_meta(tx, TIME_FLOOR, &format!("{} {} {}", floor.at.0, floor.uptime_s, floor.boot_id))
}

pub mod buried;
mod notes;
mod standing;
#[cfg(test)]
mod tests;
pub mod trial;
