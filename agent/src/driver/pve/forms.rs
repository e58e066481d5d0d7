//! What calls are given that make guests, for steps and for operations.

use moorline_common::fault::{Code, cut};
use moorline_common::pve::guest::Config;
use moorline_common::pve::{GuestKind, Vmid, keys, scalar, value};
use moorline_common::topology::GuestSource;

use super::super::{DriverError, DriverErrorKind};
use super::client::{Params, params};

/// Under which key a guest has its name.
pub(super) const fn name_key(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Qemu => "name",
        GuestKind::Lxc => "hostname",
    }
}

/// A size that a resize takes: whole units alone.
pub(super) fn resized(bytes: u64) -> String {
    scalar::size_text(bytes.next_multiple_of(1 << 10))
}

/// A clone that is to be `vmid`.
pub(super) fn clone_params(kind: GuestKind, vmid: Vmid, name: Option<&str>, from: &GuestSource, marker: &str) -> Params {
    let mut asked = params([("newid", vmid.to_string().as_str()), ("description", marker)]);
    asked.extend(name.map(|name| (name_key(kind).to_owned(), name.to_owned())));
    asked.extend(from.full.map(|full| ("full".to_owned(), scalar::flag(full).to_owned())));
    asked.extend(from.snapshot.iter().map(|name| ("snapname".to_owned(), name.clone())));
    asked.extend(from.storage.iter().map(|storage| ("storage".to_owned(), storage.clone())));
    asked.extend(from.pool.iter().map(|pool| ("pool".to_owned(), pool.clone())));
    asked
}

/// Of what a guest that is no clone is made.
pub(super) fn source_params(kind: GuestKind, vmid: Vmid, from: &GuestSource) -> Params {
    let mut asked = params([("vmid", vmid.to_string().as_str())]);
    asked.extend(from.storage.iter().map(|storage| ("storage".to_owned(), storage.clone())));
    asked.extend(from.pool.iter().map(|pool| ("pool".to_owned(), pool.clone())));
    asked.extend(from.ostemplate.iter().map(|template| ("ostemplate".to_owned(), template.clone())));
    asked.extend(from.unique.map(|unique| ("unique".to_owned(), scalar::flag(unique).to_owned())));
    if let Some(archive) = &from.archive {
        match kind {
            GuestKind::Qemu => drop(asked.insert("archive".to_owned(), archive.clone())),
            GuestKind::Lxc => asked.extend([("ostemplate".to_owned(), archive.clone()), ("restore".to_owned(), "1".to_owned())]),
        }
    }
    asked
}

/// What makes a guest that is no clone. Of a restored one everything but what it says of itself comes from the backup, and is changed
/// afterwards.
pub(super) fn create_params(kind: GuestKind, vmid: Vmid, from: &GuestSource, config: &Config, marker: &str) -> Result<Params, DriverError> {
    let mut asked = source_params(kind, vmid, from);
    asked.insert("description".to_owned(), marker.to_owned());
    if from.archive.is_some() {
        return Ok(asked);
    }
    for (key, text) in config.iter().filter(|(key, _)| *key != "description") {
        let wrong =
            |why: String| DriverError { kind: DriverErrorKind::Permanent, code: Code::BadContent, message: cut(&format!("{key}: {why}")) };
        let known = keys::find(kind, key).map_err(wrong)?;
        let written = value::written(known.shape, text, None).map_err(|e| wrong(e.to_string()))?;
        if !written.is_empty() {
            asked.insert(key.clone(), written);
        }
    }
    if let Some(iso) = &from.iso {
        asked.entry("ide2".to_owned()).or_insert_with(|| format!("{iso},media=cdrom"));
    }
    Ok(asked)
}
