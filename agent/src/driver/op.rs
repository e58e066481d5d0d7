//! Operations as a driver sees them: plain data in, plain data out.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{OpId, ResourceId};
use moorline_common::observe::ContainerState;
use moorline_common::op::Act;
use moorline_common::plan::Step;
use serde_json::Value;

use super::logs::LogWish;
use super::{DriverError, DriverErrorKind};

/// The kinds that an engine of containers does.
pub(crate) const KINDS: &[&str] = &["start", "stop", "restart", "kill", "pause", "unpause", "exec", "pull", "destroy", "prune", "survey"];

/// The kinds that are done on guests.
pub(crate) const GUEST_KINDS: &[&str] = &[
    "start",
    "stop",
    "destroy",
    "shutdown",
    "reboot",
    "suspend",
    "resume",
    "reset",
    "set-config",
    "resize",
    "snapshot-create",
    "snapshot-delete",
    "snapshot-rollback",
    "snapshot-list",
    "clone",
    "create",
    "backup",
    "restore",
    "migrate",
    "check",
    "survey",
];

/// Both.
pub(crate) const ALL_KINDS: &[&str] = &[
    "start",
    "stop",
    "restart",
    "kill",
    "pause",
    "unpause",
    "exec",
    "pull",
    "destroy",
    "prune",
    "survey",
    "shutdown",
    "reboot",
    "suspend",
    "resume",
    "reset",
    "set-config",
    "resize",
    "snapshot-create",
    "snapshot-delete",
    "snapshot-rollback",
    "snapshot-list",
    "clone",
    "create",
    "backup",
    "restore",
    "migrate",
    "check",
];

/// One-shot work on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpOrder {
    /// Its id.
    pub op_id: OpId,
    /// The resource.
    pub resource: ResourceId,
    /// Which one of those that have borne its name: a container's id, a volume's time of creation. `None`: any.
    pub incarnation: Option<String>,
    /// The state that the container must be in when it begins.
    pub state: Option<ContainerState>,
    /// What to do.
    pub act: Act,
    /// What the accepted slice wants: `prune` leaves it.
    pub wanted: BTreeSet<ResourceId>,
}

/// How an operation ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpResult {
    /// What came of it, such as an exit code and output; [`Value::Null`] for nothing.
    pub result: Value,
    /// Why it did not succeed. [`Code::Indeterminate`]: it runs on past its limit, or nobody knows how it ended.
    pub fault: Option<Fault>,
}

/// How far an operation came by one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It has ended.
    Done(OpResult),
    /// The engine knows it by this name. It goes on only by [`super::Driver::resume`], once the name is durable.
    Task(String),
}

#[cfg(test)]
impl Begun {
    /// How it ended.
    pub fn done(self) -> OpResult {
        match self {
            Begun::Done(result) => result,
            Begun::Task(task) => panic!("it goes on as {task}"),
        }
    }
}

/// What the engine shows of an operation that began before the agent or the engine stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It has ended.
    Done(OpResult),
    /// It is known by this name, and has begun there: to be resumed.
    Task(String),
    /// It is known by the name under which it was made, and has not begun: to be resumed if it still may.
    Made(String),
    /// It has not happened, and will not by itself: it may be started again.
    Absent,
    /// It may still be happening: to be asked again after so long.
    NotYet(Duration),
    /// Nothing proves whether it happened. Says what was looked at.
    Unknown(String),
}

impl DriverError {
    /// The driver `name` keeps no logs.
    #[must_use]
    pub fn no_logs(name: &str, wish: &LogWish) -> Self {
        let message = format!("`{name}` keeps no logs, and so none of {}", wish.container.name());
        Self { kind: DriverErrorKind::Permanent, code: Code::NotFound, message }
    }

    /// Nobody answered while `what` was done.
    #[must_use]
    pub fn no_answer(what: &str) -> Self {
        Self { kind: DriverErrorKind::Unreachable, code: Code::EngineUnreachable, message: format!("{what}: no answer in time") }
    }

    /// The driver `name` has no such resources.
    #[must_use]
    pub fn no_such_step(step: &Step, name: &str) -> Self {
        let message = format!("`{name}` has no {}: this host's agent is not connected to what has", step.resource.kind());
        Self { kind: DriverErrorKind::Permanent, code: Code::NotThere, message }
    }

    /// The driver does not do operations of this kind.
    #[must_use]
    pub fn no_such_operation(order: &OpOrder) -> Self {
        let message = format!("`{}` cannot be done here on {}", order.act.kind(), order.resource);
        Self { kind: DriverErrorKind::Permanent, code: Code::UnknownKind, message }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_host_with_both_does_what_either_does_and_every_kind_is_somebodys() {
        let set = |kinds: &[&'static str]| kinds.iter().copied().collect::<BTreeSet<_>>();
        let either = &set(KINDS) | &set(GUEST_KINDS);
        assert_eq!(set(ALL_KINDS), either);
        // What the agent does by itself needs no driver.
        let own = set(&["converge", "release", "resolve", "cancel", "time-reset", "confirm"]);
        assert_eq!(&either | &own, set(Act::KINDS.as_slice()));
    }
}
