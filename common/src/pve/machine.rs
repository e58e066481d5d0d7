//! Types of machines: `q35`, `pc-q35-9.0`.
//!
//! Source: the API page `PUT /nodes/{node}/qemu/{vmid}/config`, and `windows_get_pinned_machine_version` in `PVE::QemuServer::Machine`:
//! a guest with Windows gets a version when it is made, since Windows takes another one for other hardware.

use super::scalar::Wrong;

/// Names before a version, with the type that is named alone.
const FAMILIES: [(&str, &str); 4] = [("pc-i440fx", "pc"), ("pc-q35", "q35"), ("virt", "virt"), ("pc", "pc")];

/// A type of machine that there can be.
pub(super) fn read(text: &str) -> Result<String, Wrong> {
    let is_alone = FAMILIES.iter().any(|(_, alone)| *alone == text);
    if text.len() <= 40 && (is_alone || versioned(text).is_some()) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` is no type of machine: write `pc`, `q35` or `virt`, or one with its version, such as `pc-q35-9.0`")))
}

/// Whether a machine of the type `live` is a `wanted` one; no type is a `pc`.
pub(super) fn covers(wanted: Option<&str>, live: Option<&str>) -> bool {
    let (wanted, live) = (wanted.unwrap_or("pc"), live.unwrap_or("pc"));
    wanted == live || (versioned(wanted).is_none() && versioned(live) == Some(wanted))
}

/// The family of a type with a version, such as `9.0`, `9.2+pve1` or `2.9.pxe`.
fn versioned(text: &str) -> Option<&'static str> {
    FAMILIES.iter().find_map(|(name, alone)| {
        let version = text.strip_prefix(name)?.strip_prefix('-')?;
        let version = version.strip_suffix(".pxe").filter(|_| *alone != "virt").unwrap_or(version);
        let (version, revision) = version.split_once("+pve").map_or((version, None), |(version, revision)| (version, Some(revision)));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        (version.contains('.') && version.split('.').all(is_number) && revision.is_none_or(is_number)).then_some(*alone)
    })
}
