//! The simulated engine: the driver for tests, demonstrations and hosts without Docker.

use std::path::{Path, PathBuf};

use moorline_common::observe::Observed;
use moorline_common::plan::Step;

use super::{Driver, DriverError, EngineEvent, Ownership};

/// An engine that exists only in a file.
pub struct SimDriver {
    _folder: PathBuf,
    _owned: Ownership,
}

impl SimDriver {
    /// An engine kept in `state`/sim.
    #[must_use]
    pub fn new(state: &Path, owned: Ownership) -> Self {
        Self { _folder: state.join("sim"), _owned: owned }
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn parallelism(&self) -> usize {
        8
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        std::future::ready(Ok(Observed::default())).await
    }

    async fn apply(&self, _step: &Step) -> Result<(), DriverError> {
        std::future::ready(Ok(())).await
    }

    async fn next_event(&self) -> EngineEvent {
        std::future::pending().await
    }
}
