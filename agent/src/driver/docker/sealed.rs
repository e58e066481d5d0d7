//! The files with secrets and configs that containers mount: there before an engine looks for them, gone when no container has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bollard::models::{ContainerInspectResponse, Mount, MountPoint, MountType};
use bollard::query_parameters::InspectContainerOptions;
use moorline_common::fault::{Code, cut};
use moorline_common::observe::Observed;
use moorline_common::plan::ContainerTarget;
use moorline_common::topology::SealedFile;

use super::super::{DriverError, DriverErrorKind};
use super::Engine;
use super::error::from_engine;
use crate::vault::{Hold, Mark, Vault, VaultError};

/// What `target` mounts, and what keeps it there until the container is made.
pub(super) struct Mounted {
    /// For the engine's request.
    pub(super) mounts: Vec<Mount>,
    _hold: Option<Hold>,
}

/// Puts every file that `target` mounts where the engine finds it.
pub(super) async fn mounted(engine: &Engine, target: &ContainerTarget) -> Result<Mounted, DriverError> {
    if target.sealed.is_empty() {
        return Ok(Mounted { mounts: Vec::new(), _hold: None });
    }
    let Some(vault) = &engine.vault else {
        return Err(failed(&target.name, "this agent has no folder for files with secrets"));
    };
    let hold = vault.hold();
    put(vault, target.sealed.values().cloned().collect(), &target.name).await?;
    let mounts = target.sealed.iter().map(|(path, file)| Mount {
        typ: Some(MountType::BIND),
        source: Some(vault.path(file).to_string_lossy().into_owned()),
        target: Some(path.clone()),
        read_only: Some(true),
        ..Default::default()
    });
    Ok(Mounted { mounts: mounts.collect(), _hold: Some(hold) })
}

/// Puts back what the container `id` mounts, before it is started: after a reboot the memory is empty.
pub(super) async fn put_back(engine: &Engine, id: &str, name: &str) -> Result<(), DriverError> {
    let Some(vault) = engine.vault.as_ref().filter(|vault| !vault.is_empty()) else { return Ok(()) };
    let live = engine.docker.inspect_container(id, None::<InspectContainerOptions>).await;
    let live = live.map_err(|e| from_engine(&e, "inspecting a container"))?;
    let files: BTreeSet<SealedFile> = sources(&live).filter_map(|path| vault.file_at(path)).collect();
    if files.is_empty() { Ok(()) } else { put(vault, files, name).await }
}

fn sources(live: &ContainerInspectResponse) -> impl Iterator<Item = &str> {
    live.mounts.iter().flatten().filter_map(|mount| mount.source.as_deref())
}

async fn put(vault: &Arc<Vault>, files: BTreeSet<SealedFile>, name: &str) -> Result<(), DriverError> {
    let vault = vault.clone();
    let done = tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| vault.put(file))).await;
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ VaultError::File { .. })) => {
            Err(DriverError { kind: DriverErrorKind::Retryable, ..failed(name, &error.to_string()) })
        }
        Ok(Err(error)) => Err(failed(name, &error.to_string())),
        Err(_) => Err(failed(name, "writing its files was cut short")),
    }
}

fn failed(name: &str, why: &str) -> DriverError {
    let message = cut(&format!("the secrets of `{name}`: {why}"));
    DriverError { kind: DriverErrorKind::Permanent, code: Code::SecretsUnreadable, message }
}

/// The file that `mount` is, if it is one of ours. A container may read it, and no more.
pub(super) fn file_of(engine: &Engine, mount: &MountPoint) -> Option<SealedFile> {
    let is_ours = mount.typ.as_deref() == Some("bind") && mount.rw == Some(false);
    engine.vault.as_ref().filter(|_| is_ours)?.file_at(mount.source.as_deref()?)
}

/// Removes the files that no container has.
pub(super) fn sweep(vault: &Vault, mark: Mark, observed: &Observed) {
    let ours = || observed.containers.values().filter(|container| container.owner.is_some());
    // One that could not be looked at may have any.
    if ours().all(|container| container.config.is_some()) {
        let used = ours().filter_map(|container| container.config.as_ref()).flat_map(|config| config.sealed.values().cloned()).collect();
        vault.sweep(mark, &used);
    }
}
