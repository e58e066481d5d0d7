//! Every limit of the drivers.

use std::time::Duration;

use moorline_common::backoff::Backoff;

/// Steps and inspections at once on one Docker Engine.
pub const DOCKER_PARALLELISM: usize = 8;

/// For the engine to say who it is. A dead engine must be known as such within seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For one whole observation.
pub const OBSERVE_TIMEOUT: Duration = Duration::from_secs(30);

/// For the engine to begin its answer to a request, in seconds.
pub const REQUEST_TIMEOUT_SECONDS: u64 = 60;

/// For the engine to stop a container, in seconds: grace periods are the operator's to choose.
pub const STOP_TIMEOUT_SECONDS: u64 = 24 * 60 * 60;

/// Images that are pulled at once.
pub const PULLS_MAX: usize = 3;
/// Between two signs of life of an image pull.
pub const PULL_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Between two tries to open the event stream.
pub const EVENTS_BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// Between two looks of the simulated engine at its file.
pub const SIM_POLL: Duration = Duration::from_millis(200);

/// The largest file of the simulated engine that is read, in bytes.
pub const SIM_FILE_MAX: u64 = 64 * 1024 * 1024;
