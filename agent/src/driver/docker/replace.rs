//! A container's replacement by its successor, and its way back when that fails.
//!
//! The successor is made beside the old one, so that an image that can't be had stops nothing, and bears another name until it is known
//! to be good. Until then the old one is only stopped (or runs on, when the successor goes first). At each moment one of the two bears our
//! labels and holds the volumes, whatever is cut short: the same call goes on from there.

use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum};
use bollard::query_parameters::RemoveContainerOptions;
use moorline_common::fault::{Code, cut};
use moorline_common::observe::LABEL_SPEC;
use moorline_common::plan::lower::beside_name;
use moorline_common::plan::{ContainerTarget, compare};
use moorline_common::topology::{MountKind, UpdateOrder};
use tokio::time::Instant;

use super::super::{DriverError, DriverErrorKind};
use super::apply::{Hands, gone};
use super::body::Carried;
use super::error::not_owned;
use crate::lane::aside;
use crate::limits::{HEALTH_WAIT_MAX, MONITOR_DEFAULT, OP_LOOK};

/// Hex digits of the name that the engine gives to a volume without one.
const ANONYMOUS_NAME: usize = 64;
/// What the engine takes for a healthcheck that does not say: between two checks, and for one.
const CHECK_DEFAULT: Duration = Duration::from_secs(30);
/// What every failure to start a check begins with, and says nothing.
const EXEC_PREFIX: &str = "OCI runtime exec failed: exec failed: unable to start container process: ";
/// Failures in a row that make a container unhealthy, unless its healthcheck says.
const CHECK_RETRIES: u32 = 3;

impl Hands<'_> {
    pub(super) async fn replace_container(&self, old_id: &str, target: &ContainerTarget) -> Result<(), DriverError> {
        let Some(old) = self.inspect(old_id).await? else {
            let id = self.make(target, &target.name, &Carried::new()).await?;
            return self.start(&id, &target.name).await;
        };
        let Some(owner) = self.owner(&old) else { return Err(not_owned(&format!("a container named `{}`", target.name))) };
        let old_name = old.name.as_deref().unwrap_or_default().trim_start_matches('/');
        let same_spec = target.labels.get(LABEL_SPEC).is_some_and(|spec| *spec == owner.spec);
        if old_name != target.name && same_spec {
            self.rename(old_id, &target.name).await?;
            return self.begin(old_id, target).await;
        }
        let new_id = self.make(target, &beside_name(&target.name, old_id), &carried(&old, target)).await?;
        crate::crash::point("docker.replace.made");
        if target.gives_way {
            return self.take_over(&new_id, old_id, &old, target).await;
        }
        if target.update.order != Some(UpdateOrder::StartFirst) {
            self.stop(old_id, &old, &target.name).await?;
            crate::crash::point("docker.replace.stopped");
        }
        match self.succeed(&new_id, target).await {
            Ok(()) => {}
            // Nothing is said about the successor: the next try goes on with it.
            Err(error) if error.code != Code::RolledBack => return Err(error),
            Err(error) => return Err(self.bring_back(&new_id, old_id, &old, target, error).await?),
        }
        crate::crash::point("docker.replace.good");
        self.take_over(&new_id, old_id, &old, target).await
    }

    /// The old one goes, and the successor takes its name.
    async fn take_over(
        &self,
        new_id: &str,
        old_id: &str,
        old: &ContainerInspectResponse,
        target: &ContainerTarget,
    ) -> Result<(), DriverError> {
        self.remove_container(old_id, old, &target.name).await?;
        crate::crash::point("docker.replace.removed");
        self.rename(new_id, &target.name).await?;
        crate::crash::point("docker.replace.named");
        self.begin(new_id, target).await
    }

    /// Starts it; one that may end is not started twice.
    async fn begin(&self, id: &str, target: &ContainerTarget) -> Result<(), DriverError> {
        let created = Some(ContainerStateStatusEnum::CREATED);
        let has_begun = target.ends && self.inspect(id).await?.is_some_and(|live| live.state.and_then(|s| s.status) != created);
        if has_begun { Ok(()) } else { self.start(id, &target.name).await }
    }

    /// Starts the successor and waits until it is known to be good. The error of one that is no good is `rolled_back`.
    async fn succeed(&self, id: &str, target: &ContainerTarget) -> Result<(), DriverError> {
        if let Err(error) = self.begin(id, target).await {
            let state = self.inspect(id).await?.and_then(|live| live.state).unwrap_or_default();
            let is_up = state.running == Some(true);
            // The engine notes why a container did not start. One that is slow at it, or away, has said nothing yet.
            let has_failed = state.error.is_some_and(|why| !why.is_empty());
            match () {
                () if is_up => {}
                () if has_failed => return Err(bad(error.message)),
                () => return Err(error),
            }
        }
        self.watch(id, target).await
    }

    /// Waits until the successor is known to be good. One that may end is when it has started.
    async fn watch(&self, id: &str, target: &ContainerTarget) -> Result<(), DriverError> {
        if target.ends {
            return Ok(());
        }
        let begun = Instant::now();
        let monitor = target.update.monitor.map_or(MONITOR_DEFAULT, |span| Duration::from_nanos(span.0)).min(HEALTH_WAIT_MAX);
        loop {
            let Some(live) = self.inspect(id).await? else { return Err(bad("it was removed meanwhile".to_owned())) };
            match verdict(&live) {
                Verdict::Good if begun.elapsed() >= monitor => return Ok(()),
                Verdict::Wait if begun.elapsed() >= patience(&live).max(monitor) => {
                    return Err(bad(format!("its healthcheck said nothing for {} s", begun.elapsed().as_secs())));
                }
                Verdict::Good | Verdict::Wait => aside(tokio::time::sleep(OP_LOOK)).await,
                Verdict::Bad(why) => return Err(bad(why)),
            }
        }
    }

    /// Removes the successor and lets the old one run again. Gives the error that says so.
    async fn bring_back(
        &self,
        new_id: &str,
        old_id: &str,
        old: &ContainerInspectResponse,
        target: &ContainerTarget,
        error: DriverError,
    ) -> Result<DriverError, DriverError> {
        let name = &target.name;
        crate::crash::point("docker.replace.failed");
        if let Some(live) = self.inspect(new_id).await? {
            self.stop(new_id, &live, name).await?;
            // Its own volumes without a name; not those that it took over from the old one.
            let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
            gone(self.docker.remove_container(new_id, Some(options)).await, &format!("removing the successor of `{name}`"))?;
        }
        crate::crash::point("docker.replace.undone");
        let was_up = old.state.as_ref().is_some_and(|s| s.running == Some(true));
        if was_up || !target.ends {
            self.start(old_id, name).await.map_err(|e| DriverError {
                message: cut(&format!("its successor failed: {}; and the old container does not come back: {}", error.message, e.message)),
                ..e
            })?;
        }
        crate::crash::point("docker.replace.back");
        let message = cut(&format!("the old container is back, for its successor failed: {}", error.message));
        Ok(DriverError { kind: DriverErrorKind::Permanent, code: Code::RolledBack, message })
    }
}

/// What can be said of a successor by now.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Wait,
    Bad(String),
}

fn verdict(live: &ContainerInspectResponse) -> Verdict {
    let state = live.state.clone().unwrap_or_default();
    let exit = state.exit_code.unwrap_or_default();
    match state.status {
        Some(ContainerStateStatusEnum::RUNNING) => {}
        Some(ContainerStateStatusEnum::RESTARTING) => {
            return Verdict::Bad(format!("it exited with code {exit}, and is started again and again"));
        }
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => {
            let said = state.error.filter(|e| !e.is_empty()).map(|e| format!(": {e}")).unwrap_or_default();
            return Verdict::Bad(format!("it exited with code {exit}{said}"));
        }
        // Somebody has frozen it, or the engine is at it.
        Some(_) | None => return Verdict::Wait,
    }
    if live.restart_count.unwrap_or_default() > 0 {
        return Verdict::Bad("it exited, and the engine has started it again".to_owned());
    }
    let health = state.health.unwrap_or_default();
    match health.status {
        None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE | HealthStatusEnum::HEALTHY) => Verdict::Good,
        Some(HealthStatusEnum::STARTING) => Verdict::Wait,
        Some(HealthStatusEnum::UNHEALTHY) => {
            let said = health.log.unwrap_or_default().pop().and_then(|check| check.output).unwrap_or_default();
            let said = said.trim().replace(EXEC_PREFIX, "");
            Verdict::Bad(format!("its healthcheck fails{}{said}", if said.is_empty() { "" } else { ": " }))
        }
    }
}

/// For so long its healthcheck may take to say something.
fn patience(live: &ContainerInspectResponse) -> Duration {
    let check = live.config.as_ref().and_then(|c| c.healthcheck.clone()).unwrap_or_default();
    let span = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Duration::from_nanos);
    let each = span(check.interval).unwrap_or(CHECK_DEFAULT) + span(check.timeout).unwrap_or(CHECK_DEFAULT);
    let retries = check.retries.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(CHECK_RETRIES);
    let all = span(check.start_period).unwrap_or_default().saturating_add(each.saturating_mul(retries.saturating_add(1)));
    all.min(HEALTH_WAIT_MAX)
}

fn bad(why: String) -> DriverError {
    DriverError { kind: DriverErrorKind::Permanent, code: Code::RolledBack, message: cut(&why) }
}

/// The volumes without a name that the successor takes over: those that its spec asks for, and those of the image.
fn carried(old: &ContainerInspectResponse, target: &ContainerTarget) -> Carried {
    let declared = old.config.as_ref().and_then(|c| c.volumes.clone()).unwrap_or_default();
    let anonymous = |name: &str| name.len() == ANONYMOUS_NAME && name.bytes().all(|b| b.is_ascii_hexdigit());
    let mut carried = Carried::new();
    for mount in old.mounts.iter().flatten() {
        let (Some(path), Some(name)) = (&mount.destination, &mount.name) else { continue };
        let named = target.spec.volumes.iter().find(|(p, _)| compare::clean_path(p) == *path);
        let wanted = match named {
            Some((_, spec)) => spec.kind == MountKind::Volume && spec.source.is_none(),
            None => declared.contains(path),
        };
        if wanted && mount.typ.as_deref() == Some("volume") && anonymous(name) {
            carried.insert(named.map_or_else(|| path.clone(), |(p, _)| p.clone()), name.clone());
        }
    }
    carried
}
