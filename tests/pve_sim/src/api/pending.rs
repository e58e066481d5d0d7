//! Changes that wait: how they are taken back when they change nothing, and what becomes of volumes that are let go.
//!
//! Source: `PVE::AbstractConfig::cleanup_pending`, `add_unused_volume`, `PVE::QemuServer::vmconfig_register_unused_drive`.

use crate::normal::drive::Drive;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::Guest;

/// Drops pending changes that change nothing.
pub(crate) fn clean_up(guest: &mut Guest) {
    let conf = guest.conf.clone();
    guest.pending.retain(|key, value| key == "delete" || conf.get(key) != Some(value));
    let mut deletes = guest.pending_deletes();
    deletes.retain(|key, _| conf.contains_key(key));
    guest.set_pending_deletes(&deletes);
}

/// Notes that a key is to be deleted.
pub(crate) fn add_delete(guest: &mut Guest, key: &str, force: bool) {
    let mut deletes = guest.pending_deletes();
    deletes.insert(key.to_owned(), force);
    guest.set_pending_deletes(&deletes);
}

/// Notes that it is not.
pub(crate) fn drop_delete(guest: &mut Guest, key: &str) {
    let mut deletes = guest.pending_deletes();
    if deletes.remove(key).is_some() {
        guest.set_pending_deletes(&deletes);
    }
}

impl World {
    /// A drive is let go: a volume of the guest's own becomes `unusedN`, that of cloud-init goes.
    pub(crate) fn let_go(&mut self, vmid: u32, drive: &Drive) {
        let Some((storage, name)) = drive.volume() else { return };
        if drive.is_cloudinit() {
            self.free(vmid, &drive.file);
            return;
        }
        let owner = self.storages.get(storage).and_then(|storage| storage.volumes.get(name)).and_then(|volume| volume.vmid);
        if drive.is_cdrom() || owner != Some(vmid) {
            return;
        }
        let is_new = self.edit(vmid, |guest| {
            if guest.conf.iter().any(|(key, value)| key.starts_with("unused") && *value == drive.file) {
                return false;
            }
            let free = (0..256).map(|n| format!("unused{n}")).find(|key| !guest.conf.contains_key(key));
            free.map(|key| guest.conf.insert(key, drive.file.clone())).is_some()
        });
        if is_new == Some(true) {
            self.effect(vmid, EffectKind::VolumeDetached, &drive.file);
        }
    }

    /// Removes a volume.
    pub(crate) fn free(&mut self, vmid: u32, volid: &str) -> bool {
        let Some((storage, name)) = volid.split_once(':') else { return false };
        let gone = self.storages.get_mut(storage).and_then(|storage| storage.volumes.remove(name)).is_some();
        if gone {
            self.effect(vmid, EffectKind::VolumeFreed, volid);
        }
        gone
    }

    /// Whether a snapshot of the guest, or another key, needs a volume.
    pub(crate) fn is_in_use(&self, vmid: u32, key: &str, volid: &str) -> bool {
        let Some(guest) = self.guests.get(&vmid) else { return false };
        let names = |section: &crate::world::guest::Config, but: &str| {
            section.iter().any(|(other, value)| other != but && Drive::parse(value).is_some_and(|drive| drive.file == volid))
        };
        names(&guest.conf, key) || guest.snapshots.values().any(|section| names(section, ""))
    }
}
