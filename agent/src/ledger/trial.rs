//! The newest accepted slice as long as it may still be given up, and what comes back then.
//!
//! Two values, written in one transaction with what they belong to: how the slice stands (small, read for each heartbeat), and the
//! signed slice that was applied before it. They are replaced when another slice is accepted, and by nothing else.

use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId, UnixSeconds, VersionHash};
use moorline_common::statement::{ApplyReport, Fallback, RolledBack, Trial};
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Admission, Floor, FloorState, Ledger, read_accepted, read_current, to_sql};
use crate::clock::BootTime;
use crate::db::{DbError, meta, put_meta};

const TRIAL: &str = "trial";
const BASE: &str = "trial_base";

/// How a slice stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TrialState {
    /// It may still be given up; without a fallback, it has not been found healthy yet.
    Armed,
    /// It stays: it was healthy for long enough, or confirmed. There is no way from here to another state.
    Lapsed,
    /// It was given up, and its fallback is what the host works towards.
    Used {
        /// Why.
        reason: String,
        /// When, by the wall clock.
        at: UnixSeconds,
    },
    /// It was to be given up, and its fallback could not be used: it stays.
    Unusable {
        /// Why not.
        reason: String,
    },
}

/// An accepted slice with what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRow {
    /// Its topology.
    pub topology: TopologyId,
    /// Its generation.
    pub generation: Generation,
    /// What was signed into it; `None` for a slice that nothing comes back for.
    pub terms: Option<Fallback>,
    /// How it stands.
    #[serde(flatten)]
    pub state: TrialState,
    /// What was applied before: its generation and hash. 0 and the hash of empty content for nothing; no hash for something that
    /// nobody knows, such as a first slice that was never applied as a whole.
    pub base: (Generation, Option<VersionHash>),
    /// When its time is over, by the wall clock at its acceptance: for people.
    pub until: UnixSeconds,
    /// How long the host had run since its acceptance when this was saved.
    ran_s: u64,
    /// The boot in which that was.
    boot_id: String,
    /// The uptime then.
    uptime_s: u64,
}

/// What a `confirm` of a slice finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmed {
    /// The slice stays from now on, or did already.
    Stays,
    /// It was given up before.
    TooLate(RolledBack),
    /// It is not what this host has accepted last.
    Other(Option<(TopologyId, Generation)>),
}

impl TrialRow {
    /// How long the host has run since it accepted the slice. Time that it was off is not in it: no clock tells that for sure.
    #[must_use]
    pub fn elapsed(&self, boot: &BootTime) -> Duration {
        let same_boot = self.boot_id == boot.boot_id && self.uptime_s <= boot.uptime_s;
        let more = if same_boot { boot.uptime_s - self.uptime_s } else { boot.uptime_s };
        Duration::from_secs(self.ran_s.saturating_add(more))
    }

    /// Whether it is about this slice.
    #[must_use]
    pub fn is_of(&self, topology: &TopologyId, generation: Generation) -> bool {
        self.topology == *topology && self.generation == generation
    }

    /// Whether it is about the slice that `report` tells of.
    #[must_use]
    pub fn is_of_report(&self, report: &ApplyReport) -> bool {
        report.topology.as_ref() == Some(&self.topology) && report.generation == self.generation
    }

    /// Whether the slice was given up.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        matches!(self.state, TrialState::Used { .. })
    }

    /// What is on trial, for people and the hub.
    #[must_use]
    pub fn trial(&self) -> Option<Trial> {
        let terms = self.terms.as_ref().filter(|_| self.state == TrialState::Armed)?;
        let (to, needs_confirm) = (terms.generation, terms.needs_confirm);
        Some(Trial { generation: self.generation, to, until: self.until, needs_confirm })
    }

    /// What was given up, for people and the hub.
    #[must_use]
    pub fn rolled_back(&self) -> Option<RolledBack> {
        let TrialState::Used { reason, at } = &self.state else { return None };
        Some(RolledBack { generation: self.generation, to: self.base.0, reason: reason.clone(), at: *at })
    }

    /// Why the fallback does not come back, or will not when it should.
    #[must_use]
    pub fn unusable(&self) -> Option<Fault> {
        let terms = self.terms.as_ref()?;
        let why = match &self.state {
            TrialState::Unusable { reason } => reason.clone(),
            TrialState::Armed => self.misfit(terms)?,
            TrialState::Lapsed | TrialState::Used { .. } => return None,
        };
        Some(Fault::new(Code::FallbackUnusable, format!("nothing comes back if generation {} fails: {why}", self.generation)))
    }

    /// Why what was applied before is not what an operator signed as the fallback.
    #[must_use]
    pub fn misfit(&self, terms: &Fallback) -> Option<String> {
        let (generation, hash) = &self.base;
        if *generation == terms.generation && hash.as_ref() == Some(&terms.version_hash) {
            return None;
        }
        let had = match hash {
            Some(_) => format!("generation {generation}"),
            None => "what was never applied as a whole".to_owned(),
        };
        Some(format!("its fallback is generation {}, and this host had {had}", terms.generation))
    }
}

/// The hash of what tears down.
#[must_use]
pub fn empty_hash() -> VersionHash {
    VersionHash::of_bytes(b"{}")
}

impl Ledger {
    /// How the newest accepted slice stands; `None` when it was accepted by an agent that kept no account of that.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn trial(&self) -> Result<Option<TrialRow>, DbError> {
        self.db.read(read_trial)
    }

    /// The signed slice that was applied before it; empty when there was none.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn trial_base(&self) -> Result<Vec<u8>, DbError> {
        self.db.read(|connection| Ok(meta(connection, BASE)?.unwrap_or_default().into_bytes()))
    }

    /// Whether the host has to go on by itself after a start, hub or no hub: its slice may have to be given up, or was, and what
    /// comes back is not applied yet.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn is_on_trial(&self) -> Result<bool, DbError> {
        self.db.read(|connection| {
            let Some((row, floor)) = read_newest(connection)? else { return Ok(false) };
            let applied = read_current(connection)?.map(|c| (c.generation, c.version_hash));
            Ok(match row.state {
                TrialState::Armed => row.terms.is_some(),
                TrialState::Used { .. } => floor.state == FloorState::Active && applied.as_ref() != Some(&row.base),
                TrialState::Lapsed | TrialState::Unusable { .. } => false,
            })
        })
    }

    /// Saves how long the host has run since it accepted the slice: what a boot would forget.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn save_trial_time(&self, boot: &BootTime) -> Result<(), DbError> {
        self.db.write(|tx| {
            let Some(row) = read_trial(tx)? else { return Ok(()) };
            put_trial(tx, &TrialRow { ran_s: row.elapsed(boot).as_secs(), ..at(row, boot) })
        })
    }

    /// The slice stays for good. `false`: it is not on trial (any more), and nothing has changed.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn lapse(&self, topology: &TopologyId, generation: Generation) -> Result<bool, DbError> {
        self.end_trial(topology, generation, TrialState::Lapsed)
    }

    /// The slice's fallback could not be used. `false` as for [`Self::lapse`].
    ///
    /// # Errors
    /// [`DbError`].
    pub fn give_fallback_up(&self, topology: &TopologyId, generation: Generation, reason: String) -> Result<bool, DbError> {
        self.end_trial(topology, generation, TrialState::Unusable { reason })
    }

    fn end_trial(&self, topology: &TopologyId, generation: Generation, state: TrialState) -> Result<bool, DbError> {
        self.db.write(|tx| {
            let row = read_trial(tx)?.filter(|row| row.is_of(topology, generation) && row.state == TrialState::Armed);
            let Some(row) = row else { return Ok(false) };
            put_trial(tx, &TrialRow { state, ..row })?;
            crate::crash::point("ledger.trial-end.before");
            Ok(true)
        })
    }

    /// Takes an operator's word that the slice stays.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn confirm(&self, topology: &TopologyId, generation: Generation) -> Result<Confirmed, DbError> {
        self.db.write(|tx| {
            let accepted = read_accepted(tx)?.map(|floor| (floor.topology, floor.generation));
            if accepted.as_ref().is_none_or(|(t, g)| t != topology || *g != generation) {
                return Ok(Confirmed::Other(accepted));
            }
            let Some(row) = read_trial(tx)?.filter(|row| row.is_of(topology, generation)) else { return Ok(Confirmed::Stays) };
            if let Some(rolled_back) = row.rolled_back() {
                return Ok(Confirmed::TooLate(rolled_back));
            }
            if row.state != TrialState::Lapsed {
                put_trial(tx, &TrialRow { state: TrialState::Lapsed, ..row })?;
            }
            crate::crash::point("ledger.confirm.before");
            Ok(Confirmed::Stays)
        })
    }

    /// The slice of `generation` is given up: from now on `back`, its fallback, is what the host works towards. Its floor stays.
    /// `false`: it is not on trial (any more), and nothing has changed.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn go_back(&self, generation: Generation, back: &Admission, reason: String, at: UnixSeconds) -> Result<bool, DbError> {
        self.db.write(|tx| {
            let row = read_trial(tx)?.filter(|row| row.is_of(&back.topology, generation) && row.state == TrialState::Armed);
            let Some(row) = row else { return Ok(false) };
            put_trial(tx, &TrialRow { state: TrialState::Used { reason, at }, ..row })?;
            put_in_force(tx, back)?;
            crate::crash::point("ledger.back.before");
            Ok(true)
        })
    }

    /// What came back is in force again, after it was taken down on the host itself.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn keep_back(&self, back: &Admission) -> Result<(), DbError> {
        let floor = self.floor(&back.topology)?;
        if back.is_empty || (floor.is_some_and(|f| f.state == FloorState::Active) && self.current()?.is_some()) {
            return Ok(());
        }
        self.db.write(|tx| put_in_force(tx, back))
    }
}

/// As an admission does it, but for the floor's generation and bytes: these are still of what was given up.
fn put_in_force(tx: &Transaction<'_>, back: &Admission) -> Result<(), DbError> {
    tx.execute("UPDATE floors SET state = 'active' WHERE topology = ?1", params![back.topology.as_str()])?;
    if back.is_empty {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO current (id, topology, generation, version_hash, hydrated, envelope, applied_at)
         VALUES (1, ?1, ?2, '', ?3, ?4, 0) ON CONFLICT (id) DO NOTHING",
        params![back.topology.as_str(), to_sql(back.generation.0), back.hydrated, back.envelope],
    )?;
    Ok(())
}

/// Puts a slice on trial that is about to be accepted; nothing for one that was before. To be called before floor and current row
/// are those of the new one.
pub(super) fn begin(tx: &Transaction<'_>, admission: &Admission, boot: &BootTime) -> Result<(), DbError> {
    let before = super::read_floor(tx, admission.topology.as_str())?;
    if before.as_ref().is_some_and(|floor| floor.payload_sha256 == admission.payload_sha256) {
        return Ok(());
    }
    let row = read_trial(tx)?;
    if let Some(row) = row.filter(|row| before.as_ref().is_some_and(|floor| is_signed_anew(row, floor, admission))) {
        // Its keys were rotated, say: it goes on as it stands, or a new signature would confirm what nobody has confirmed.
        return put_trial(tx, &TrialRow { generation: admission.generation, ..row });
    }
    let (base, envelope) = match read_current(tx)? {
        None => ((Generation(0), Some(empty_hash())), Vec::new()),
        Some(current) => ((current.generation, current.version_hash), current.envelope),
    };
    let terms = admission.fallback.clone();
    let within_s = terms.as_ref().map_or(0, |terms| terms.within_s);
    let envelope = if terms.is_some() { String::from_utf8_lossy(&envelope).into_owned() } else { String::new() };
    put_meta(tx, BASE, &envelope)?;
    let row = TrialRow {
        topology: admission.topology.clone(),
        generation: admission.generation,
        terms,
        state: TrialState::Armed,
        base,
        until: boot.wall.plus(within_s),
        ran_s: 0,
        boot_id: String::new(),
        uptime_s: 0,
    };
    put_trial(tx, &at(row, boot))
}

/// Whether `admission` says what `row`, of the slice in force, says, fallback and all.
fn is_signed_anew(row: &TrialRow, floor: &Floor, admission: &Admission) -> bool {
    row.is_of(&floor.topology, floor.generation)
        && floor.state != FloorState::Cleared
        && floor.version_hash == admission.version_hash
        && row.terms.is_some()
        && row.terms == admission.fallback
        && !row.is_used()
}

/// Forgets the trial of a topology that was taken down on the host itself. What was given up stays given up.
pub(super) fn forget(tx: &Transaction<'_>, topology: &TopologyId) -> Result<(), DbError> {
    if read_trial(tx)?.is_some_and(|row| row.topology == *topology && !row.is_used()) {
        tx.execute("DELETE FROM meta WHERE key IN (?1, ?2)", params![TRIAL, BASE])?;
    }
    Ok(())
}

/// The row, when it is about the newest accepted slice.
pub(super) fn read_newest(connection: &Connection) -> Result<Option<(TrialRow, Floor)>, DbError> {
    let Some(floor) = read_accepted(connection)? else { return Ok(None) };
    Ok(read_trial(connection)?.filter(|row| row.is_of(&floor.topology, floor.generation)).map(|row| (row, floor)))
}

fn read_trial(connection: &Connection) -> Result<Option<TrialRow>, DbError> {
    let Some(text) = meta(connection, TRIAL)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| DbError::Damaged(format!("trial: {e}")))
}

fn put_trial(tx: &Transaction<'_>, row: &TrialRow) -> Result<(), DbError> {
    // Plain data of strings and numbers.
    put_meta(tx, TRIAL, &serde_json::to_string(row).unwrap_or_default())
}

/// The row as saved in that moment.
fn at(row: TrialRow, boot: &BootTime) -> TrialRow {
    TrialRow { boot_id: boot.boot_id.clone(), uptime_s: boot.uptime_s, ..row }
}
