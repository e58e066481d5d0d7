//! What proves an operation: the state before it, noted by `prepare`, against the state after a crash.
//!
//! Pure, so that every driver judges alike: a driver brings facts, this decides. After `prepare` all goes by the engine's id,
//! never by the name again, so that nothing hits a successor. Volumes have no id but their time of creation, which engines tell
//! in whole seconds.
//!
//! # The table
//! *Same life* means that `StartedAt` is as it was. The margin is [`OP_MARGIN`]: by then a request that the engine had taken before
//! the crash is done with; `grace` comes on top where the engine waits for the container to stop. Before that the answer is
//! [`Found::NotYet`].
//!
//! | operation | the engine shows | so it is |
//! |---|---|---|
//! | `start` | runs, or another life | done |
//! | | does not run, same life | absent after the margin: one that ends at once would run twice |
//! | | is gone | unknown: it may have run before it was removed |
//! | `stop` | does not run, or is gone | done |
//! | | runs, same life | absent after grace and margin |
//! | | runs, another life | unknown: somebody may have started it again |
//! | `restart` | another life | done |
//! | | same life, running or not | absent after grace and margin: what was stopped is started by the same restart |
//! | | is gone | unknown |
//! | `kill` to end it | has ended since, or is gone | done |
//! | `kill` SIGKILL | runs on, same life | absent after the margin: nothing survives it |
//! | `kill`, all else | | unknown: a signal leaves no trace |
//! | `pause`, `unpause` | as ordered, same life | done |
//! | | as before, same life | absent |
//! | | all else | unknown |
//! | `exec` without a task | | absent: making a command starts nothing |
//! | `exec` with a task | the engine knows the task | the task: made, running or ended; running too long is unknown |
//! | | the engine does not know it | unknown: tasks live in the engine's memory |
//! | `destroy` | is gone; a volume of another time of creation | done |
//! | | is there | absent after grace (containers) and margin |
//! | `pull`, `prune` | | absent: to do it again is to do it once (`prune` removes only what its evidence lists) |

use std::time::Duration;

use moorline_common::fault::{Code, cut};
use moorline_common::id::ResourceId;
use moorline_common::observe::ContainerState;
use moorline_common::op::Act;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::prune::Debris;
use super::{DriverError, DriverErrorKind, Found, OpOrder, OpResult};
use crate::limits::{OP_LOOK, OP_MARGIN};

/// The engine's grace period for a container without one, in seconds.
pub(super) const DEFAULT_GRACE_S: u32 = 10;

/// What is noted before an operation begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub(super) enum Evidence {
    /// A container as it was.
    Container(Life),
    /// A volume as it was.
    Volume(Birth),
    /// An image as it was.
    Image {
        /// Its id; `None`: it was not here.
        id: Option<String>,
    },
    /// What is going to be removed.
    Debris(Debris),
    /// Nothing: the operation changes nothing.
    Nothing,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life {
    /// The engine's full id.
    pub id: String,
    /// Its state.
    pub state: ContainerState,
    /// When it was last started, in the engine's words.
    pub started_at: String,
    /// When it last ended, in the engine's words.
    pub finished_at: String,
    /// How often the engine has started it again by itself.
    pub restart_count: i64,
    /// How long it is given to stop, in seconds.
    pub grace_s: u32,
}

/// One volume among those that have borne its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Birth {
    /// Its name.
    pub name: String,
    /// When it was made, in the engine's words.
    pub created_at: String,
}

/// Something that is there, and whether it bears our labels.
pub(super) struct Live<T> {
    /// It does.
    pub ours: bool,
    /// What it is.
    pub is: T,
}

impl Evidence {
    /// As the `started` record holds it.
    pub fn written(&self) -> Value {
        // Structs of strings and numbers always serialise.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what [`Self::written`] wrote.
    pub fn read(order: &OpOrder, value: &Value) -> Result<Self, DriverError> {
        serde_json::from_value(value.clone()).map_err(|e| {
            let message = cut(&format!("what was noted before `{}` on {} cannot be read: {e}", order.act.kind(), order.resource));
            DriverError { kind: DriverErrorKind::Permanent, code: Code::Internal, message }
        })
    }
}

/// Whether the operation can begin on the container that is there now.
pub(super) fn admit_container(order: &OpOrder, live: Option<Live<Life>>) -> Result<Evidence, DriverError> {
    let mut life = ours(order, live)?;
    same_incarnation(order, &life.id)?;
    if let Some(state) = order.state.filter(|state| *state != life.state) {
        return Err(refused(order, &format!("it is {}, not {} as the order asks", word(life.state), word(state))));
    }
    if let Some(why) = unfit(&order.act, life.state) {
        return Err(refused(order, &format!("it is {}: {why}", word(life.state))));
    }
    if let Act::Stop { timeout_s: Some(s) } | Act::Restart { timeout_s: Some(s) } = order.act {
        life.grace_s = s;
    }
    Ok(Evidence::Container(life))
}

/// Whether the operation can begin on the volume that is there now.
pub(super) fn admit_volume(order: &OpOrder, live: Option<Live<Birth>>) -> Result<Evidence, DriverError> {
    let birth = ours(order, live)?;
    same_incarnation(order, &birth.created_at)?;
    stateless(order)?;
    Ok(Evidence::Volume(birth))
}

/// Whether the image can be pulled; it need not be there, nor be ours.
pub(super) fn admit_image(order: &OpOrder, id: Option<String>) -> Result<Evidence, DriverError> {
    if let Some(wanted) = &order.incarnation {
        if id.is_none() {
            return Err(DriverError { kind: DriverErrorKind::NotFound, ..refused(order, &format!("{wanted} is not here")) });
        }
        same_incarnation(order, id.as_deref().unwrap_or_default())?;
    }
    stateless(order)?;
    Ok(Evidence::Image { id })
}

/// Whether the host can be pruned.
pub(super) fn admit_debris(order: &OpOrder, debris: Debris) -> Result<Evidence, DriverError> {
    // A host has no incarnation here: its epoch is part of the order's address.
    same_incarnation(order, "")?;
    stateless(order)?;
    Ok(Evidence::Debris(debris))
}

/// What became of a container's operation that began `age` ago, save for a command with a task. `None`: it is gone.
pub(super) fn judge_container(act: &Act, was: &Life, is: Option<&Life>, age: Duration) -> Found {
    let margin = OP_MARGIN + Duration::from_secs(was.grace_s.into());
    let same_life = is.is_some_and(|is| is.started_at == was.started_at);
    let unknown = || {
        let now = is.map_or_else(|| "is gone".to_owned(), |is| format!("is {}, started at {}", word(is.state), is.started_at));
        Found::Unknown(format!("it was {}, started at {}; now it {now}", word(was.state), was.started_at))
    };
    match (act, is) {
        (Act::Exec(_), _) => Found::Absent,
        (Act::Stop { .. } | Act::Destroy { .. }, None) => Found::Done(OpResult::default()),
        (Act::Kill { signal }, None) if ends(signal) => Found::Done(OpResult::default()),
        (_, None) => unknown(),
        (Act::Start, Some(is)) if is_up(is.state) || !same_life => Found::Done(OpResult::default()),
        (Act::Start, Some(_)) => absent_after(OP_MARGIN, age),
        (Act::Stop { .. }, Some(is)) if !is_up(is.state) => Found::Done(OpResult::default()),
        (Act::Stop { .. }, Some(_)) if same_life => absent_after(margin, age),
        (Act::Restart { .. }, Some(_)) if same_life => absent_after(margin, age),
        (Act::Restart { .. }, Some(_)) => Found::Done(OpResult::default()),
        (Act::Kill { signal }, Some(is)) if ends(signal) && (!is_up(is.state) || is.finished_at != was.finished_at) => {
            Found::Done(OpResult::default())
        }
        (Act::Kill { signal }, Some(_)) if signal == "SIGKILL" && same_life => absent_after(OP_MARGIN, age),
        (Act::Pause, Some(is)) | (Act::Unpause, Some(is)) if same_life => match (act, is.state) {
            (Act::Pause, ContainerState::Paused) | (Act::Unpause, ContainerState::Running) => Found::Done(OpResult::default()),
            (Act::Pause, ContainerState::Running) | (Act::Unpause, ContainerState::Paused) => Found::Absent,
            _ => unknown(),
        },
        (Act::Destroy { .. }, Some(_)) => absent_after(margin, age),
        (Act::Stop { .. } | Act::Kill { .. } | Act::Pause | Act::Unpause, Some(_)) => unknown(),
        // Never a container's.
        (
            Act::Pull
            | Act::Prune { .. }
            | Act::Converge(_)
            | Act::Release
            | Act::TimeReset
            | Act::Confirm(_)
            | Act::Survey(_)
            | Act::Guest(_)
            | Act::Cancel { .. }
            | Act::Resolve { .. },
            Some(_),
        ) => unknown(),
    }
}

/// What became of a volume's removal that began `age` ago. `None`: it is gone.
pub(super) fn judge_volume(was: &Birth, is: Option<&Birth>, age: Duration) -> Found {
    if is == Some(was) { absent_after(OP_MARGIN, age) } else { Found::Done(OpResult::default()) }
}

fn absent_after(limit: Duration, age: Duration) -> Found {
    match limit.checked_sub(age) {
        Some(left) if !left.is_zero() => Found::NotYet(left.min(OP_LOOK)),
        Some(_) | None => Found::Absent,
    }
}

/// Whether a process gets the signal so that it ends.
fn ends(signal: &str) -> bool {
    !matches!(signal, "SIGHUP" | "SIGUSR1" | "SIGUSR2" | "SIGWINCH" | "SIGCONT" | "SIGSTOP" | "SIGTSTP")
}

/// Whether the engine counts it as running.
const fn is_up(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
}

/// Why the operation cannot be done in this state.
fn unfit(act: &Act, state: ContainerState) -> Option<&'static str> {
    use ContainerState as S;
    match (act, state) {
        (Act::Destroy { .. }, _) => None,
        (_, S::Removing) => Some("the engine is removing it"),
        (_, S::Dead) => Some("the engine could not remove it; `destroy` it"),
        (Act::Start, S::Paused) => Some("`unpause` it"),
        (Act::Pause | Act::Kill { .. } | Act::Exec(_), S::Created | S::Exited) => Some("nothing runs in it"),
        (Act::Unpause, S::Created | S::Exited) => Some("it is not frozen; `start` it"),
        (Act::Pause | Act::Unpause | Act::Exec(_), S::Restarting) => Some("the engine is about to start it again"),
        (Act::Kill { signal }, S::Restarting) if !ends(signal) => Some("the engine is about to start it again"),
        (Act::Exec(_), S::Paused) => Some("`unpause` it"),
        _ => None,
    }
}

fn ours<T>(order: &OpOrder, live: Option<Live<T>>) -> Result<T, DriverError> {
    match live {
        None => Err(DriverError { kind: DriverErrorKind::NotFound, ..refused(order, "there is no such object on this host") }),
        Some(Live { ours: false, .. }) => {
            let message = cut(&format!("`{}` on {}: an object of that name exists and is not ours", order.act.kind(), order.resource));
            Err(DriverError { kind: DriverErrorKind::Permanent, code: Code::NotOwned, message })
        }
        Some(Live { is, .. }) => Ok(is),
    }
}

fn same_incarnation(order: &OpOrder, id: &str) -> Result<(), DriverError> {
    match &order.incarnation {
        Some(wanted) if wanted != id && !crate::plant::planted("incarnation not checked") => {
            let why = format!("the order is for {wanted}; what bears the name now is {}", if id.is_empty() { "another" } else { id });
            Err(DriverError { code: Code::IncarnationChanged, ..refused(order, &why) })
        }
        Some(_) | None => Ok(()),
    }
}

fn stateless(order: &OpOrder) -> Result<(), DriverError> {
    if order.state.is_some() { Err(refused(order, "only a container is in a state")) } else { Ok(()) }
}

fn refused(order: &OpOrder, why: &str) -> DriverError {
    let message = cut(&format!("`{}` on {}: {why}", order.act.kind(), order.resource));
    DriverError { kind: DriverErrorKind::Conflict, code: Code::PreconditionFailed, message }
}

/// The evidence of an operation is of another kind than its resource.
pub(super) fn mismatch(order: &OpOrder) -> DriverError {
    let message = cut(&format!("what was noted before `{}` is not about {}", order.act.kind(), order.resource));
    DriverError { kind: DriverErrorKind::Permanent, code: Code::Internal, message }
}

const fn word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Restarting => "restarting",
        ContainerState::Removing => "removing",
        ContainerState::Exited => "exited",
        ContainerState::Dead => "dead",
    }
}

/// Whether the resource is one of the engine's `kind`.
pub(super) fn is_kind(resource: &ResourceId, kind: &str) -> bool {
    resource.kind().strip_prefix("docker/") == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerState::{Exited, Paused, Restarting, Running};

    fn life(state: ContainerState, started: &str, finished: &str) -> Life {
        Life { id: "a".to_owned(), state, started_at: started.to_owned(), finished_at: finished.to_owned(), restart_count: 0, grace_s: 10 }
    }

    fn kill(signal: &str) -> Act {
        Act::Kill { signal: signal.to_owned() }
    }

    /// One letter for each answer: Done, Absent, Unknown, Wait.
    fn judged(act: &Act, was: ContainerState, is: Option<&Life>, age_s: u64) -> char {
        match judge_container(act, &life(was, "1", "0"), is, Duration::from_secs(age_s)) {
            Found::Done(_) => 'D',
            Found::Absent => 'A',
            Found::Unknown(_) => 'U',
            Found::NotYet(_) => 'W',
            Found::Task(_) | Found::Made(_) => 'T',
        }
    }

    #[test]
    fn the_table_says_what_each_state_proves() {
        let (stop, restart, destroy) = (Act::Stop { timeout_s: None }, Act::Restart { timeout_s: None }, Act::Destroy { volumes: false });
        let mute = [kill("SIGHUP"), kill("SIGUSR1"), kill("SIGSTOP")];
        let now = [
            Some(life(Running, "1", "0")),
            Some(life(Paused, "1", "0")),
            Some(life(Restarting, "1", "2")),
            Some(life(Exited, "1", "2")),
            Some(life(Running, "3", "2")),
            Some(life(Paused, "3", "2")),
            Some(life(Exited, "3", "4")),
            None,
        ];
        let row =
            |act: &Act, was: ContainerState, age_s: u64| -> String { now.iter().map(|is| judged(act, was, is.as_ref(), age_s)).collect() };
        // What is there now: running, paused, restarting, exited; in another life running, paused, exited; gone.
        for (act, was, early, later) in [
            (&Act::Start, Exited, "DDDWDDDU", "DDDADDDU"),
            (&stop, Running, "WWWDUUDD", "AAADUUDD"),
            (&restart, Running, "WWWWDDDU", "AAAADDDU"),
            (&restart, Exited, "WWWWDDDU", "AAAADDDU"),
            (&kill("SIGKILL"), Running, "WWDDDDDD", "AADDDDDD"),
            (&kill("SIGTERM"), Running, "UUDDDDDD", "UUDDDDDD"),
            (&mute[0], Running, "UUUUUUUU", "UUUUUUUU"),
            (&mute[1], Running, "UUUUUUUU", "UUUUUUUU"),
            (&mute[2], Running, "UUUUUUUU", "UUUUUUUU"),
            (&Act::Pause, Running, "ADUUUUUU", "ADUUUUUU"),
            (&Act::Unpause, Paused, "DAUUUUUU", "DAUUUUUU"),
            (&destroy, Running, "WWWWWWWD", "AAAAAAAD"),
        ] {
            assert_eq!((row(act, was, 0), row(act, was, 41)), (early.to_owned(), later.to_owned()), "{act:?} when it was {was:?}");
        }
        assert_eq!(row(&stop, Running, 39), "WWWDUUDD", "grace and margin are 40 s");
    }

    #[test]
    fn a_volume_is_gone_when_another_one_bears_its_name() {
        let born = |at: &str| Birth { name: "v".to_owned(), created_at: at.to_owned() };
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(judge_volume(&born("1"), None, day), Found::Done(OpResult::default()));
        assert_eq!(judge_volume(&born("1"), Some(&born("2")), day), Found::Done(OpResult::default()));
        assert_eq!(judge_volume(&born("1"), Some(&born("1")), day), Found::Absent);
        assert_eq!(judge_volume(&born("1"), Some(&born("1")), Duration::ZERO), Found::NotYet(OP_LOOK));
    }
}
