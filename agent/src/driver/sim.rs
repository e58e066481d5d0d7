//! The simulated engine: the driver for tests, demonstrations and hosts without Docker.
//!
//! It lives in `sim/engine.json` of the state folder and so survives every crash of the agent. Each call reads the
//! file, and `next_event` notices edits by others: who removes a container from it has removed that container.
//! `sim/faults.json`, read at each call, makes it fail:
//!
//! ```json
//! {"unreachable": true, "fail": {"docker/container/edge-db-1": "no space left"}, "missing_images": ["nginx:1"], "delay_ms": {"apply": 50}}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_common::fault::{Code, cut};
use moorline_common::observe::Observed;
use moorline_common::plan::Step;
use moorline_common::plan::model::{Engine, ModelError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::limits::{SIM_FILE_MAX, SIM_POLL};
use super::{Driver, DriverError, DriverErrorKind, EngineEvent, Ownership};

/// Steps at once: as many as on a Docker Engine.
const PARALLELISM: usize = super::limits::DOCKER_PARALLELISM;

/// An engine that exists only in a file.
pub struct SimDriver {
    folder: PathBuf,
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
    /// `apply` or `observe` → how long it takes, in milliseconds.
    delay_ms: BTreeMap<String, u64>,
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
    /// An engine kept in `state`/sim. What others own on it does not exist, so `_owned` only documents whose it is.
    #[must_use]
    pub fn new(state: &Path, _owned: Ownership) -> Self {
        Self { folder: state.join("sim"), seen: Mutex::new(None), poll: Mutex::default() }
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
    async fn write(&self, engine: &Engine) -> Result<FileMark, DriverError> {
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

    /// One look at the files; `None` when nothing changed.
    async fn look(&self, away: &mut bool) -> Option<EngineEvent> {
        let unreachable = read::<Faults>(&self.folder.join("faults.json")).await.is_ok_and(|f| f.unreachable);
        let was_away = std::mem::replace(away, unreachable);
        if unreachable {
            return (!was_away).then_some(EngineEvent::Disconnected);
        }
        let mut seen = self.seen.lock().await;
        let mark = tokio::fs::metadata(self.engine_file()).await.ok().map(|m| FileMark::of(&m));
        let changed = *seen != mark;
        *seen = mark;
        (changed || was_away).then_some(EngineEvent::Changed)
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn parallelism(&self) -> usize {
        PARALLELISM
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        self.faults("observe").await?;
        let engine: Engine = read(&self.engine_file()).await?;
        Ok(engine.observed())
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        let faults = self.faults("apply").await?;
        if let Some(words) = faults.fail.get(step.resource.as_str()) {
            return Err(failed(DriverErrorKind::Retryable, Code::StepFailed, words));
        }
        if let Some(image) = step.action.container_target().map(|t| &t.spec.image).filter(|i| faults.missing_images.contains(*i)) {
            let words = format!("the image `{image}` is not on this host and cannot be pulled: the simulated registry has no such image");
            return Err(failed(DriverErrorKind::Permanent, Code::ImageUnavailable, &words));
        }
        let mut seen = self.seen.lock().await;
        let mut engine: Engine = read(&self.engine_file()).await?;
        let before = engine.clone();
        let applied = engine.apply(step);
        if engine != before {
            *seen = Some(self.write(&engine).await?);
        }
        applied.map_err(|e| match &e {
            ModelError::NotFound(_) => failed(DriverErrorKind::NotFound, Code::StepFailed, &e.to_string()),
            ModelError::Conflict(_) => failed(DriverErrorKind::Conflict, Code::StepFailed, &e.to_string()),
        })
    }

    async fn next_event(&self) -> EngineEvent {
        let mut poll = self.poll.lock().await;
        loop {
            let next = *poll.next.get_or_insert_with(|| Instant::now() + SIM_POLL);
            tokio::time::sleep_until(next).await;
            let event = self.look(&mut poll.away).await;
            poll.next = None;
            if let Some(event) = event {
                return event;
            }
        }
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
