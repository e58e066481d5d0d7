//! Where the host stands: what was accepted, what of it is applied, and what becomes of it.

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{Generation, TopologyId, VersionHash};
use moorline_common::statement::RolledBack;
use rusqlite::Connection;

use super::trial::{self, TrialRow, TrialState};
use super::{FloorState, Ledger, read_accepted, read_current};
use crate::db::DbError;

/// Where the host stands, as the heartbeat tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The topology of the accepted slice, or of the one just torn down.
    pub topology: Option<TopologyId>,
    /// Its generation.
    pub generation: Generation,
    /// The hash of what is applied.
    pub applied: Option<VersionHash>,
    /// The generation whose apply last succeeded: what `applied` is the hash of.
    pub applied_generation: Generation,
    /// The accepted generation once this host has found it healthy for long enough, or it was confirmed; 0 before.
    pub healthy_generation: Generation,
    /// The accepted generation if this host has gone back from it; 0 otherwise.
    pub rolled_back_generation: Generation,
    /// The last error since the last success; without one, that the accepted slice was given up.
    pub last_error: Option<Fault>,
    /// How the accepted slice stands.
    pub trial: Option<TrialRow>,
}

impl Standing {
    fn with(self, row: TrialRow) -> Self {
        let back = row.rolled_back();
        let told = |b: &RolledBack| Fault::new(Code::RolledBack, cut(&format!("generation {} was given up: {}", b.generation, b.reason)));
        Self {
            healthy_generation: if row.state == TrialState::Lapsed { row.generation } else { Generation(0) },
            rolled_back_generation: back.as_ref().map_or(Generation(0), |b| b.generation),
            last_error: self.last_error.or_else(|| back.as_ref().map(told)),
            trial: Some(row),
            ..self
        }
    }
}

impl Ledger {
    /// What the heartbeat says, read afresh.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn standing(&self) -> Result<Standing, DbError> {
        let read = |connection: &Connection| Ok((read_current(connection)?, read_accepted(connection)?, trial::read_newest(connection)?));
        let (current, floor, trial) = self.db.read(read)?;
        let trial = trial.map(|(row, _)| row);
        let last_error = current.as_ref().and_then(|c| c.last_error.clone());
        let Some(floor) = floor else {
            return Ok(match current {
                Some(c) => Standing {
                    topology: Some(c.topology),
                    generation: c.generation,
                    applied: c.version_hash,
                    applied_generation: c.generation,
                    last_error,
                    ..Standing::default()
                },
                None => Standing::default(),
            });
        };
        let (applied, applied_generation) = match (&current, floor.state) {
            (Some(current), _) if current.topology == floor.topology => (current.version_hash.clone(), current.generation),
            (_, FloorState::TornDown) => match trial.as_ref().filter(|row| row.is_used()) {
                Some(row) => (row.base.1.clone(), row.base.0),
                None => (Some(floor.version_hash.clone()), floor.generation),
            },
            (_, FloorState::Active | FloorState::Cleared) => (None, Generation(0)),
        };
        let standing = Standing {
            topology: Some(floor.topology),
            generation: floor.generation,
            applied,
            applied_generation,
            last_error,
            ..Standing::default()
        };
        Ok(match trial {
            Some(row) => standing.with(row),
            None => standing,
        })
    }
}
