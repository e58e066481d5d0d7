//! The simulated engine: the driver for tests, demonstrations and hosts without Docker.
//!
//! It lives in `sim/engine.json` of the state folder and so survives every crash of the agent. Each call reads the
//! file, and `next_event` notices edits by others: who removes a container from it has removed that container.
//! `sim/faults.json`, read at each call, makes it fail:
//!
//! ```json
//! {"unreachable": true, "fail": {"docker/container/edge-db-1": "no space left"}, "missing_images": ["nginx:1"],
//!  "delay_ms": {"apply": 50}, "silent": ["docker/container/edge-db-1"]}
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `world` | the file |
//! | `op` | operations: what they find and change |
//! | `command` | the programs in its containers |

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, cut};
use moorline_common::observe::Observed;
use moorline_common::op::Act;
use moorline_common::plan::Step;
use moorline_common::plan::model::ModelError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::output::Output;
use super::{Begun, Driver, DriverError, DriverErrorKind, Found, Known, OpOrder, Ownership, Taker};
use crate::clock::Clock;
use crate::lane::aside;
use crate::limits::{DOCKER_PARALLELISM, SIM_FILE_MAX, SIM_POLL};

mod command;
#[cfg(test)]
pub(crate) mod memory;
mod op;
mod world;

use world::World;

/// An engine that exists only in a file.
pub struct SimDriver {
    folder: PathBuf,
    known: Arc<Known>,
    /// The last version of the engine's file that this driver has written or told of. Held while the file is changed.
    seen: Mutex<Option<FileMark>>,
    poll: Mutex<Poll>,
}

/// The faults that are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Faults {
    /// Nothing answers.
    unreachable: bool,
    /// Resource → the words with which its steps fail.
    fail: BTreeMap<String, String>,
    /// Images that cannot be had.
    missing_images: BTreeSet<String>,
    /// `apply`, `observe`, `prepare`, `start`, `resume` or `adopt` → how long it takes before it does anything, in milliseconds;
    /// `answer` → how long an operation's effect takes to be told.
    delay_ms: BTreeMap<String, u64>,
    /// Resources whose operations are done, and the engine does not say so.
    silent: BTreeSet<String>,
}

/// Tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileMark {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

#[derive(Debug, Default)]
struct Poll {
    /// When to look next. Kept here, so that a cancelled wait does not begin anew.
    next: Option<Instant>,
    away: bool,
}

impl SimDriver {
    /// An engine kept in `state`/sim. What others own on it does not exist: of `owned` it needs only what is known beside labels.
    #[must_use]
    pub fn new(state: &Path, owned: Ownership) -> Self {
        Self { folder: state.join("sim"), known: owned.known, seen: Mutex::new(None), poll: Mutex::default() }
    }

    fn engine_file(&self) -> PathBuf {
        self.folder.join("engine.json")
    }

    async fn faults(&self, verb: &str) -> Result<Faults, DriverError> {
        let faults: Faults = read(&self.folder.join("faults.json")).await?;
        if let Some(delay) = faults.delay_ms.get(verb) {
            tokio::time::sleep(Duration::from_millis(*delay)).await;
        }
        if faults.unreachable {
            return Err(DriverError {
                kind: DriverErrorKind::Unreachable,
                code: Code::EngineUnreachable,
                message: "the simulated engine is unreachable".to_owned(),
            });
        }
        Ok(faults)
    }

    /// Writes the engine whole or not at all.
    async fn write(&self, engine: &World) -> Result<FileMark, DriverError> {
        let text = serde_json::to_vec_pretty(engine).map_err(|e| broken("writing the simulated engine", &e))?;
        let (folder, target) = (self.folder.clone(), self.engine_file());
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            let part = folder.join("engine.json.part");
            std::fs::write(&part, text)?;
            let mark = FileMark::of(&std::fs::metadata(&part)?);
            std::fs::rename(&part, target)?;
            Ok::<_, std::io::Error>(mark)
        });
        match written.await {
            Ok(result) => result.map_err(|e| broken("writing the simulated engine", &e)),
            Err(e) => Err(broken("writing the simulated engine", &e)),
        }
    }

    /// Changes the engine by `change`. `told`: whoever changes it knows of it, and need not be told by an event; of what others
    /// changed before, an event still tells.
    async fn update<T>(&self, told: bool, change: impl FnOnce(&mut World) -> T) -> Result<T, DriverError> {
        let mut seen = self.seen.lock().await;
        let nobody_else = *seen == self.mark().await;
        let mut world: World = read(&self.engine_file()).await?;
        let before = world.clone();
        world.settle();
        let result = change(&mut world);
        world.settle();
        if world != before {
            let mark = self.write(&world).await?;
            if told && nobody_else {
                *seen = Some(mark);
            }
        }
        Ok(result)
    }

    async fn mark(&self) -> Option<FileMark> {
        tokio::fs::metadata(self.engine_file()).await.ok().map(|m| FileMark::of(&m))
    }

    /// The faults for one call about an operation.
    async fn op_faults(&self, verb: &str, order: &OpOrder) -> Result<Faults, DriverError> {
        let faults = self.faults(verb).await?;
        match faults.fail.get(order.resource.as_str()) {
            Some(words) => Err(failed(DriverErrorKind::Permanent, Code::OpFailed, words)),
            None => Ok(faults),
        }
    }

    /// One look at the files; whether something changed.
    async fn look(&self, away: &mut bool) -> bool {
        let unreachable = read::<Faults>(&self.folder.join("faults.json")).await.is_ok_and(|f| f.unreachable);
        let was_away = std::mem::replace(away, unreachable);
        if unreachable {
            return !was_away;
        }
        let mut seen = self.seen.lock().await;
        let mark = self.mark().await;
        let changed = *seen != mark;
        *seen = mark;
        changed || was_away
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn known(&self) -> Arc<Known> {
        self.known.clone()
    }

    fn parallelism(&self) -> usize {
        // As many as on a Docker Engine.
        DOCKER_PARALLELISM
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        self.faults("observe").await?;
        let world: World = read(&self.engine_file()).await?;
        let mut observed = world.engine.observed();
        self.known.show(&mut observed);
        Ok(observed)
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        let faults = self.faults("apply").await?;
        if let Some(words) = faults.fail.get(step.resource.as_str()) {
            return Err(failed(DriverErrorKind::Retryable, Code::StepFailed, words));
        }
        if let Some(target) = step.action.container_target() {
            faults.image(&target.spec.image)?;
        }
        let applied = self.update(true, |world| world.engine.apply(step)).await?;
        applied.map_err(|e| match &e {
            ModelError::NotFound(_) => failed(DriverErrorKind::NotFound, Code::StepFailed, &e.to_string()),
            ModelError::Conflict(_) => failed(DriverErrorKind::Conflict, Code::StepFailed, &e.to_string()),
        })
    }

    async fn next_event(&self) {
        let mut poll = self.poll.lock().await;
        loop {
            let next = *poll.next.get_or_insert_with(|| Instant::now() + SIM_POLL);
            tokio::time::sleep_until(next).await;
            let changed = self.look(&mut poll.away).await;
            poll.next = None;
            if changed {
                return;
            }
        }
    }

    fn capabilities(&self) -> &'static [&'static str] {
        super::op::KINDS
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        self.faults("prepare").await?;
        self.update(true, |world| op::prepare(world, order)).await?
    }

    async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        let faults = self.op_faults("start", order).await?;
        if matches!(order.act, Act::Pull) {
            faults.image(order.resource.name())?;
        }
        let begun = self.update(false, |world| op::start(world, order, evidence)).await??;
        faults.answer(order).await?;
        Ok(begun)
    }

    async fn resume(&self, order: &OpOrder, _evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        let Act::Exec(exec) = &order.act else { return Err(DriverError::no_such_operation(order)) };
        let faults = self.op_faults("resume", order).await?;
        let said = self.update(false, |world| op::start_command(world, order, exec, task, Clock.wall_ms())).await?;
        let heard = Output::hear(said, taker).await;
        faults.answer(order).await?;
        let deadline = Instant::now() + Duration::from_secs(exec.timeout_s.into());
        aside(async {
            loop {
                self.faults("").await?;
                let world: World = read(&self.engine_file()).await?;
                let Some(live) = world.commands.get(task) else { return Ok(Begun::Done(heard.unknown(op::FORGOTTEN))) };
                let left = Duration::from_millis(live.ends_at.saturating_sub(Clock.wall_ms()));
                if left.is_zero() {
                    return Ok(Begun::Done(heard.ended(live.exit_code)));
                }
                if Instant::now() >= deadline {
                    return Ok(Begun::Done(heard.unknown(op::late(exec))));
                }
                tokio::time::sleep(left.min(SIM_POLL)).await;
            }
        })
        .await
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        self.faults("adopt").await?;
        self.update(true, |world| op::adopt(world, order, evidence, task, age, Clock.wall_ms())).await?
    }
}

impl Faults {
    fn image(&self, image: &str) -> Result<(), DriverError> {
        if !self.missing_images.contains(image) {
            return Ok(());
        }
        let words = format!("the image `{image}` is not on this host and cannot be pulled: the simulated registry has no such image");
        Err(failed(DriverErrorKind::Permanent, Code::ImageUnavailable, &words))
    }

    /// After an effect, before anybody is told of it.
    async fn answer(&self, order: &OpOrder) -> Result<(), DriverError> {
        if let Some(delay) = self.delay_ms.get("answer") {
            tokio::time::sleep(Duration::from_millis(*delay)).await;
        }
        if self.silent.contains(order.resource.as_str()) {
            return Err(failed(DriverErrorKind::Unreachable, Code::EngineUnreachable, "the simulated engine does not answer"));
        }
        Ok(())
    }
}

impl FileMark {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self { inode: meta.ino(), length: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// Reads a file; one that is not there is the default.
async fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, DriverError> {
    let what = format!("reading {}", path.display());
    let length = match tokio::fs::metadata(path).await {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(T::default()),
        Err(e) => return Err(broken(&what, &e)),
    };
    if length > SIM_FILE_MAX {
        return Err(broken(&what, &format!("it is larger than {SIM_FILE_MAX} bytes")));
    }
    match tokio::fs::read(path).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| broken(&what, &e)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(T::default()),
        Err(e) => Err(broken(&what, &e)),
    }
}

fn failed(kind: DriverErrorKind, code: Code, words: &str) -> DriverError {
    DriverError { kind, code, message: cut(words) }
}

fn broken(what: &str, why: &dyn std::fmt::Display) -> DriverError {
    failed(DriverErrorKind::Retryable, Code::StepFailed, &format!("{what}: {why}"))
}

#[cfg(test)]
mod tests;
