//! The drivers that a configuration names.

use std::sync::Arc;

use crate::config::{Config, DriverKind, Proxmox};
use crate::driver::Ownership;
use crate::driver::docker::DockerDriver;
use crate::driver::engine::Engine;
use crate::driver::host::HostDriver;
use crate::driver::pve::https::{Https, Trust, parse_fingerprint};
use crate::driver::pve::{Client, PveDriver};
use crate::driver::sim::SimDriver;
use crate::files::{self, PrivateError};
use crate::limits::CREDENTIALS_MAX;
use crate::vault::Vault;

/// The driver of a host.
pub(super) type Driver = HostDriver<Engine, Https>;

/// The driver that `config` names; nothing is opened yet, and nobody need answer.
pub(super) fn driver(config: &Config, owned: Ownership, vault: Option<Arc<Vault>>) -> anyhow::Result<Driver> {
    let engine = match config.driver {
        DriverKind::Docker => {
            let docker = DockerDriver::new(config.docker_socket.clone(), owned.clone()).with_registries(config.registries.clone());
            Some(Engine::Docker(match vault {
                Some(vault) => docker.with_vault(vault),
                None => docker,
            }))
        }
        DriverKind::Sim => Some(Engine::Sim(SimDriver::new(&config.state, owned.clone()))),
        DriverKind::None => None,
    };
    let pve = config.proxmox.as_ref().map(|proxmox| pve(proxmox, owned.clone())).transpose()?;
    Ok(HostDriver::new(engine, pve, &owned))
}

fn pve(proxmox: &Proxmox, owned: Ownership) -> anyhow::Result<PveDriver<Https>> {
    let token = token(proxmox)?;
    // The user that tasks bear has the token's name with it.
    let user = token.split_once('=').map_or_else(|| token.clone(), |(user, _)| user.to_owned());
    let trust = match &proxmox.authorities {
        Some(path) => {
            let read = files::read_limited(path, CREDENTIALS_MAX);
            let pem = read.and_then(|pem| pem.ok_or_else(|| std::io::ErrorKind::NotFound.into()));
            Trust::Authorities(pem.map_err(|e| anyhow::anyhow!("proxmox: the authorities in {}: {e}", path.display()))?)
        }
        None => Trust::Pins(proxmox.fingerprints.iter().filter_map(|text| parse_fingerprint(text)).collect()),
    };
    let node = match &proxmox.node {
        Some(node) => node.clone(),
        None => own_name()?,
    };
    Ok(PveDriver::new(Client::new(Https::new(&proxmox.url, &token, trust)?, node, user), owned))
}

/// The API token. What stands in the file is never repeated.
fn token(proxmox: &Proxmox) -> anyhow::Result<String> {
    let path = proxmox.token_file.display();
    let bytes = match files::read_private(&proxmox.token_file, CREDENTIALS_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => anyhow::bail!("proxmox: there is no token file {path}; `pveum user token add` makes a token"),
        Err(PrivateError::Exposed(mode)) => {
            anyhow::bail!("proxmox: others may read the token file {path} (mode {mode:04o}); `chmod 600` it, and make another token")
        }
        Err(PrivateError::Io(error)) => anyhow::bail!("proxmox: the token file {path} cannot be read: {error}"),
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    let token = text.trim();
    let is_token = token.split_once('=').is_some_and(|(user, secret)| {
        let name = user.split_once('!').is_some_and(|(user, name)| user.contains('@') && !name.is_empty());
        name && !secret.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())
    });
    anyhow::ensure!(is_token, "proxmox: the token file {path} must hold one line, `user@realm!name=secret`");
    Ok(token.to_owned())
}

/// This machine's name without its domain, which is what a node is called.
fn own_name() -> anyhow::Result<String> {
    let name = nix::sys::utsname::uname()?.nodename().to_string_lossy().into_owned();
    let name = name.split('.').next().unwrap_or_default().to_owned();
    anyhow::ensure!(moorline_common::pve::upid::is_node(&name), "proxmox: this host has no name that a node can have; write `node`");
    Ok(name)
}
