//! What only the whole of a host's guests shows.

use std::collections::{BTreeMap, BTreeSet};

use super::super::problem::Problem;
use super::super::{GuestSpec, HostSpec, Reboot};
use super::Places;
use crate::pve::guest::rootless;
use crate::pve::keys::{self, Shape};
use crate::pve::property::Whose;
use crate::pve::{GuestKind, Vmid};

/// Checks a host's guests.
pub(super) fn check(spec: &HostSpec, places: &mut Places<'_>) {
    for (vmid, guest) in spec.guests() {
        kinds(vmid, places);
        making(vmid, guest, places);
        let has_windows = spec.policy.as_ref().is_some_and(|policy| !policy.maintenance.is_empty());
        if guest.reboot == Some(Reboot::Window) && !has_windows {
            let message = format!("guest {vmid} may be started anew in a maintenance window, and this host has none");
            let help = "name windows under `policy.maintenance`, or write `reboot: now` or `reboot: never`";
            places.report(&format!("{}.reboot", mark(vmid)), |p| Problem { message, ..p }.help(help));
        }
    }
    addresses(spec, places);
}

fn mark(vmid: Vmid) -> String {
    format!("proxmox.guests.{vmid}")
}

/// That all parts mean the same kind of guest.
fn kinds(vmid: Vmid, places: &mut Places<'_>) {
    let guest = |part: &&super::Entry| part.proxmox.as_ref()?.guests.get(&vmid).map(|guest| guest.kind);
    let kinds: BTreeSet<GuestKind> = places.parts.iter().filter_map(guest).collect();
    if kinds.len() > 1 {
        let message = format!("guest {vmid} is of the type qemu in one place and lxc in another");
        let help = "a host and the profiles that it uses speak of one guest by its number: give one of the two another number";
        places.report(&format!("{}.type", mark(vmid)), |p| Problem { message, ..p }.help(help));
    }
}

/// What it is made of, or that it is there.
fn making(vmid: Vmid, guest: &GuestSpec, places: &mut Places<'_>) {
    match (&guest.from, &guest.adopt) {
        (Some(_), Some(_)) => {
            let message = format!("guest {vmid} has both `from` and `adopt`: it is either made or taken over");
            places.report(&format!("{}.adopt", mark(vmid)), |p| Problem { message, ..p }.help("leave one of the two out"));
        }
        // What is wrong with one of them was told already.
        (None, None) if places.is_marked(&format!("{}.from", mark(vmid))) || places.is_marked(&format!("{}.adopt", mark(vmid))) => {}
        (None, None) if guest.kind == GuestKind::Lxc => {
            let message = format!("guest {vmid} is a container, and nothing says what it is made of");
            let help = "write `from: { ostemplate: … }`, `clone` or `archive`; or `adopt`, for one that is there";
            places.report(&mark(vmid), |p| Problem { message, ..p }.help(help));
        }
        (Some(from), None) if from.iso.is_some() && guest.config.contains_key("ide2") => {
            let message = format!("the disc of `iso` is put in `ide2`, and the config of guest {vmid} has something else there");
            let help = "give what stands there another key, or leave `iso` out";
            places.report(&format!("{}.config.ide2", mark(vmid)), |p| Problem { message, ..p }.help(help));
        }
        (Some(from), None) if from.ostemplate.is_some() => {
            let Some(mount) = rootless(guest.kind, &guest.config) else { return };
            let message = format!(
                "guest {vmid} has `{mount}` and no `rootfs`: Proxmox VE makes a root by itself only where no other volume is named"
            );
            let help = "name the root, too: `rootfs: \"local-lvm:8\"`";
            places.report(&format!("{}.config.{mount}", mark(vmid)), |p| Problem { message, ..p }.help(help));
        }
        (Some(_) | None, None) | (None, Some(_)) => {}
    }
}

/// Addresses that two network cards would have.
fn addresses(spec: &HostSpec, places: &mut Places<'_>) {
    let mut taken: BTreeMap<String, (Vmid, &str)> = BTreeMap::new();
    for (vmid, guest) in spec.guests() {
        for (key, text) in &guest.config {
            let Some(address) = address(guest.kind, key, text) else { continue };
            let Some((other, card)) = taken.insert(address.clone(), (vmid, key)) else { continue };
            let whose = if other == vmid {
                format!("`{card}` and `{key}` of guest {vmid}")
            } else {
                format!("`{card}` of guest {other} and `{key}` of guest {vmid}")
            };
            let message = format!("{whose} both have the address {address}");
            let help = "leave the address out of one of them, and Proxmox VE makes one up; it is kept from then on";
            places.report(&format!("{}.config.{key}", mark(vmid)), |p| Problem { message, ..p }.help(help));
        }
    }
}

/// The address that a network card shall have, in its one spelling. None is known yet where a variable stands.
fn address(kind: GuestKind, key: &str, text: &str) -> Option<String> {
    let Shape::Card(format, address) = keys::find(kind, key).ok()?.shape else { return None };
    format.read(text, Whose::Ours).ok()?.remove(address)
}
