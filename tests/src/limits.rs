//! Every wait and size of the harness.

use std::time::Duration;

/// How long a condition may take that should hold within a second or two on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);
/// How long until an agent is back that may have dialled in vain for a while: it then waits half a minute between two tries.
pub const REDIAL: Duration = Duration::from_secs(90);
/// How long an apply of many containers may take on a busy machine with two cores.
pub const APPLY: Duration = Duration::from_secs(120);
/// How long many operations may take to end, some of them after an agent has waited for what a killed one asked.
pub const SETTLE: Duration = Duration::from_secs(300);
/// Between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(50);
/// How long a program may take to end after it was asked to.
pub const STOP: Duration = Duration::from_secs(15);
/// How long one `moorctl` call may take.
pub const COMMAND: Duration = Duration::from_secs(180);
/// How much of a log is shown when a test fails, in bytes.
pub const LOG_TAIL: usize = 6_000;
/// The hub's heartbeat interval in tests, so that the fleet is quick.
pub const HEARTBEAT_MS: u64 = 500;
/// The longest request head that the recording proxy reads.
pub const REQUEST_HEAD_MAX: usize = 64 * 1024;
