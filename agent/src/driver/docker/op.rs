//! One operation → the engine's calls, and the facts that tell what became of it.
//!
//! `prepare` looks the resource up by its name and notes the engine's id; everything after goes by that id. What the facts
//! prove is decided in [`super::super::evidence`].

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, RemoveContainerOptions, RemoveVolumeOptions, RestartContainerOptions,
    StartContainerOptions, StopContainerOptions,
};
use moorline_common::observe::ContainerState;
use moorline_common::op::{Act, GRACE_MAX_S};
use moorline_common::plan::volume_key;
use serde_json::{Value, json};

use super::super::evidence::{self, Birth, DEFAULT_GRACE_S, Evidence, Life, Live};
use super::super::{Begun, DriverError, Found, OpOrder, OpResult, Ownership};
use super::error::{from_engine_op, status, words};
use super::observe::inspected_state;
use super::pull::{Wanted, pull};
use super::{Engine, exec, patiently, sealed, survey, sweep};
use crate::lane::aside;
use crate::limits::{FREEZE_TIMEOUT, OP_LOOK, REQUEST_TIMEOUT};

/// Checks and notes; changes nothing.
pub(super) async fn prepare(docker: &Docker, owned: &Ownership, order: &OpOrder) -> Result<Value, DriverError> {
    crate::crash::point("docker.prepare.before");
    let name = order.resource.name();
    let evidence = match &order.act {
        Act::Pull => evidence::admit_image(order, image_id(docker, name).await?)?,
        Act::Prune { volumes } => evidence::admit_debris(order, sweep::find(docker, owned, &order.wanted, *volumes).await?)?,
        Act::Destroy { .. } if evidence::is_kind(&order.resource, "volume") => {
            evidence::admit_volume(order, volume(docker, owned, name).await?)?
        }
        Act::Survey(_) => Evidence::Nothing,
        Act::Start
        | Act::Stop { .. }
        | Act::Restart { .. }
        | Act::Kill { .. }
        | Act::Pause
        | Act::Unpause
        | Act::Exec(_)
        | Act::Destroy { .. } => {
            let live = inspect(docker, name).await?;
            // The engine takes the beginning of an id for a name, too.
            let named = live.filter(|live| live.name.as_deref().unwrap_or_default().trim_start_matches('/') == name);
            evidence::admit_container(order, named.map(|live| Live { ours: is_ours(owned, &live), is: life_of(&live) }))?
        }
        Act::Converge(_) | Act::Release | Act::TimeReset | Act::Confirm(_) | Act::Guest(_) | Act::Cancel { .. } | Act::Resolve { .. } => {
            return Err(DriverError::no_such_operation(order));
        }
    };
    crate::crash::point("docker.prepare.after");
    Ok(evidence.written())
}

/// Does it, or makes the engine's task for it.
pub(super) async fn start(engine: &Engine, owned: &Ownership, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
    let docker = &engine.docker;
    let what = format!("`{}` on {}", order.act.kind(), order.resource);
    let done = match (&order.act, Evidence::read(order, evidence)?) {
        (Act::Pull, Evidence::Image { id }) => pull_image(engine, order.resource.name(), id.is_some()).await?,
        (Act::Prune { volumes }, Evidence::Debris(debris)) => {
            sweep::remove(docker, owned, &debris.leaving(&order.wanted), *volumes).await?
        }
        (Act::Survey(asked), Evidence::Nothing) => survey::survey(engine, owned, asked).await?,
        (Act::Destroy { .. }, Evidence::Volume(was)) => destroy_volume(docker, owned, &was, &what).await?,
        (Act::Exec(command), Evidence::Container(was)) => return exec::create(docker, &was.id, command, &what).await.map(Begun::Task),
        (act, Evidence::Container(was)) => {
            if matches!(act, Act::Start | Act::Restart { .. }) {
                sealed::put_back(engine, &was.id, order.resource.name()).await?;
            }
            act_on(docker, act, &was, &what).await?;
            OpResult::default()
        }
        (_, Evidence::Image { .. } | Evidence::Volume(_) | Evidence::Debris(_) | Evidence::Nothing) => {
            return Err(evidence::mismatch(order));
        }
    };
    Ok(Begun::Done(done))
}

/// Looks for what it left behind.
pub(super) async fn adopt(
    docker: &Docker,
    order: &OpOrder,
    evidence: &Value,
    task: Option<&str>,
    age: Duration,
) -> Result<Found, DriverError> {
    match (&order.act, Evidence::read(order, evidence)?) {
        (Act::Pull, Evidence::Image { .. }) | (Act::Prune { .. }, Evidence::Debris(_)) | (Act::Survey(_), Evidence::Nothing) => {
            Ok(Found::Absent)
        }
        (Act::Destroy { .. }, Evidence::Volume(was)) => {
            let is = inspect_volume(docker, &was.name).await?.map(|v| birth_of(v.name, v.created_at));
            Ok(evidence::judge_volume(&was, is.as_ref(), age))
        }
        (Act::Exec(command), Evidence::Container(_)) if task.is_some() => exec::adopt(docker, command, task.unwrap_or_default(), age).await,
        (act, Evidence::Container(was)) => {
            let is = inspect(docker, &was.id).await?.map(|live| life_of(&live));
            Ok(evidence::judge_container(act, &was, is.as_ref(), age))
        }
        (_, Evidence::Image { .. } | Evidence::Volume(_) | Evidence::Debris(_) | Evidence::Nothing) => Err(evidence::mismatch(order)),
    }
}

/// One of a container's own operations, save for a command.
async fn act_on(docker: &Docker, act: &Act, was: &Life, what: &str) -> Result<(), DriverError> {
    let id = was.id.as_str();
    let patient = docker.clone().with_timeout(Duration::from_secs(was.grace_s.into()).saturating_add(REQUEST_TIMEOUT));
    // Only what the order names: without it the engine takes the container's own.
    let t = |timeout_s: &Option<u32>| timeout_s.and_then(|s| i32::try_from(s).ok());
    crate::crash::point("docker.act.before");
    let done = match act {
        Act::Start => patient.start_container(id, None::<StartContainerOptions>).await,
        Act::Stop { timeout_s } => {
            let options = StopContainerOptions { signal: None, t: t(timeout_s) };
            patiently(patient.stop_container(id, Some(options))).await
        }
        Act::Restart { timeout_s } => {
            let options = RestartContainerOptions { signal: None, t: t(timeout_s) };
            patiently(patient.restart_container(id, Some(options))).await
        }
        Act::Kill { signal } => docker.kill_container(id, Some(KillContainerOptions { signal: signal.clone() })).await,
        Act::Pause => unless_in(docker, id, ContainerState::Paused, pause(docker, id).await).await?,
        Act::Unpause => unless_in(docker, id, ContainerState::Running, docker.unpause_container(id).await).await?,
        Act::Destroy { volumes } => return destroy_container(docker, &patient, was, *volumes, what).await,
        Act::Exec(_)
        | Act::Pull
        | Act::Prune { .. }
        | Act::Converge(_)
        | Act::Release
        | Act::TimeReset
        | Act::Confirm(_)
        | Act::Survey(_)
        | Act::Guest(_)
        | Act::Cancel { .. }
        | Act::Resolve { .. } => Ok(()),
    };
    crate::crash::point("docker.act.after");
    done.map_err(|e| from_engine_op(&e, what))
}

/// On cgroup v1 the kernel does not freeze a process that waits for a slow disk. `runc` tries for a moment, thaws the rest, and leaves it to
/// its caller to go on (opencontainers/runc#4388).
async fn pause(docker: &Docker, id: &str) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + FREEZE_TIMEOUT;
    loop {
        match docker.pause_container(id).await {
            Err(e) if words(&e).contains("unable to freeze") && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(OP_LOOK).await;
            }
            done => return done,
        }
    }
}

/// A refusal is success when the container is in `state` already.
async fn unless_in(docker: &Docker, id: &str, state: ContainerState, done: Result<(), Error>) -> Result<Result<(), Error>, DriverError> {
    match &done {
        Err(e) if status(e).is_some() && inspect(docker, id).await?.is_some_and(|live| life_of(&live).state == state) => Ok(Ok(())),
        _ => Ok(done),
    }
}

/// It may stop by itself first, so that its data is whole.
async fn destroy_container(docker: &Docker, patient: &Docker, was: &Life, volumes: bool, what: &str) -> Result<(), DriverError> {
    crate::crash::point("docker.destroy.before");
    match patiently(patient.stop_container(&was.id, None::<StopContainerOptions>)).await {
        Err(e) if status(&e) == Some(404) => return Ok(()),
        Err(e) if status(&e).is_none() => return Err(from_engine_op(&e, what)),
        // One that cannot be stopped is removed by force.
        Ok(()) | Err(_) => {}
    }
    crate::crash::point("docker.destroy.stopped");
    let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
    loop {
        let options = RemoveContainerOptions { force: true, v: volumes, ..Default::default() };
        match docker.remove_container(&was.id, Some(options)).await {
            Ok(()) => return Ok(()),
            Err(e) if status(&e) == Some(404) => return Ok(()),
            // By a request from before a crash.
            Err(e) if words(&e).contains("already in progress") && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(OP_LOOK).await;
            }
            Err(e) => return Err(from_engine_op(&e, what)),
        }
    }
}

async fn destroy_volume(docker: &Docker, owned: &Ownership, was: &Birth, what: &str) -> Result<OpResult, DriverError> {
    remove_volume(docker, owned, was).await.map_err(|e| match e {
        VolumeError::Engine(e) => from_engine_op(&e, what),
        VolumeError::Driver(e) => e,
    })?;
    Ok(OpResult::default())
}

/// Why a volume was not removed.
pub(super) enum VolumeError {
    /// The engine said so.
    Engine(Error),
    /// It could not be looked at.
    Driver(DriverError),
}

/// Removes a volume if it is still the one that was meant.
pub(super) async fn remove_volume(docker: &Docker, owned: &Ownership, was: &Birth) -> Result<(), VolumeError> {
    match volume(docker, owned, &was.name).await.map_err(VolumeError::Driver)? {
        Some(Live { ours: true, is }) if is == *was => {}
        // The one that was meant is gone; what bears its name now is another one.
        Some(_) | None => return Ok(()),
    }
    crate::crash::point("docker.volume.before");
    match docker.remove_volume(&was.name, None::<RemoveVolumeOptions>).await {
        Ok(()) => Ok(()),
        Err(e) if status(&e) == Some(404) => Ok(()),
        Err(e) => Err(VolumeError::Engine(e)),
    }
}

async fn pull_image(engine: &Engine, name: &str, is_here: bool) -> Result<OpResult, DriverError> {
    crate::crash::point("docker.pull.before");
    let pulled = aside(pull(&engine.docker, &engine.access, Wanted { image: name, platform: None, is_here })).await;
    crate::crash::point("docker.pull.after");
    pulled?;
    Ok(OpResult { result: json!({ "id": image_id(&engine.docker, name).await? }), fault: None })
}

async fn image_id(docker: &Docker, name: &str) -> Result<Option<String>, DriverError> {
    match docker.inspect_image(name).await {
        Ok(image) => Ok(image.id),
        Err(e) if status(&e) == Some(404) => Ok(None),
        Err(e) => Err(from_engine_op(&e, "inspecting an image")),
    }
}

async fn inspect(docker: &Docker, id: &str) -> Result<Option<ContainerInspectResponse>, DriverError> {
    match docker.inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(live) => Ok(Some(live)),
        Err(e) if status(&e) == Some(404) => Ok(None),
        Err(e) => Err(from_engine_op(&e, "inspecting a container")),
    }
}

fn is_ours(owned: &Ownership, live: &ContainerInspectResponse) -> bool {
    let labels = live.config.as_ref().and_then(|c| c.labels.as_ref());
    owned.of(live.id.as_deref().unwrap_or_default(), labels.into_iter().flatten()).is_some()
}

fn life_of(live: &ContainerInspectResponse) -> Life {
    let state = live.state.clone().unwrap_or_default();
    let grace = live.config.as_ref().and_then(|c| c.stop_timeout);
    Life {
        id: live.id.clone().unwrap_or_default(),
        state: state.status.map_or_else(ContainerState::default, inspected_state),
        started_at: state.started_at.unwrap_or_default(),
        finished_at: state.finished_at.unwrap_or_default(),
        restart_count: live.restart_count.unwrap_or_default(),
        // Below 0 the engine waits forever; nobody else does.
        grace_s: grace.map_or(DEFAULT_GRACE_S, |s| u32::try_from(s).unwrap_or(GRACE_MAX_S).min(GRACE_MAX_S)),
    }
}

async fn volume(docker: &Docker, owned: &Ownership, name: &str) -> Result<Option<Live<Birth>>, DriverError> {
    let live = inspect_volume(docker, name).await?;
    Ok(live.map(|v| Live { ours: owned.of(&volume_key(&v.name), &v.labels).is_some(), is: birth_of(v.name, v.created_at) }))
}

async fn inspect_volume(docker: &Docker, name: &str) -> Result<Option<bollard::models::Volume>, DriverError> {
    match docker.inspect_volume(name).await {
        Ok(live) => Ok(Some(live)),
        Err(e) if status(&e) == Some(404) => Ok(None),
        Err(e) => Err(from_engine_op(&e, "inspecting a volume")),
    }
}

pub(super) fn birth_of(name: String, created_at: Option<String>) -> Birth {
    Birth { name, created_at: created_at.unwrap_or_default() }
}
