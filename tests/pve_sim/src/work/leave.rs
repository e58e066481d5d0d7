//! Guests that move to another node, or go for good.
//!
//! Source: `destroy_vm` in `PVE::QemuServer` and `destroy_lxc_container` in `PVE::LXC`; `PVE::QemuMigrate`, `PVE::LXC::Migrate`.

use super::Done;
use crate::api::{check_destroy, check_lock};
use crate::normal::drive::Drive;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::{Guest, Kind};
use crate::world::task::Span;

impl World {
    pub(super) fn begin_destroy(
        &mut self,
        vmid: u32,
        kind: Kind,
        node: &str,
        purge: bool,
        force: bool,
        skiplock: bool,
    ) -> Result<Span, String> {
        check_destroy(self, kind, node, vmid, purge, force)?;
        let guest = self.config_of(kind, node, vmid)?;
        if !skiplock && guest.lock() != Some("suspended") {
            check_lock(guest)?;
        }
        for (_, volid) in guest.volumes() {
            let (storage, name) = volid.split_once(':').unwrap_or_default();
            if let Some(user) = self.storages.get(storage).and_then(|storage| storage.linked_to(name)) {
                let words = format!("base volume '{volid}' is still in use by linked cloned ({storage}:{user})");
                return Err(words);
            }
        }
        self.halt(vmid);
        Ok(Span::usual())
    }

    pub(super) fn finish_destroy(&mut self, vmid: u32, purge: bool, all_disks: bool, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let mut volumes: Vec<String> = guest.volumes().map(|(_, volid)| volid).collect();
        if all_disks {
            for storage in self.storages.values() {
                let disks = storage.volumes.iter().filter(|(_, volume)| volume.vmid == Some(vmid) && volume.content != "backup");
                volumes.extend(disks.map(|(name, _)| format!("{}:{name}", storage.name)));
            }
        }
        for volid in volumes {
            let (storage, name) = volid.split_once(':').unwrap_or_default();
            let owner = self.storages.get(storage).and_then(|storage| storage.volumes.get(name)).and_then(|volume| volume.vmid);
            if owner == Some(vmid) {
                self.free(vmid, &volid);
            }
        }
        self.remove_guest(vmid, purge);
        if purge {
            self.log(task, &format!("purging VM {vmid} from related configurations.."));
        }
        Ok(())
    }

    /// The config goes last.
    pub(crate) fn remove_guest(&mut self, vmid: u32, purge: bool) {
        self.guests.remove(&vmid);
        for guests in self.setup.pools.values_mut() {
            guests.remove(&vmid);
        }
        if purge {
            self.setup.ha.remove(&vmid);
            self.setup.replicated.remove(&vmid);
        }
        self.effect(vmid, EffectKind::Destroyed, "");
    }

    pub(super) fn begin_migrate(&mut self, vmid: u32, kind: Kind, node: &str, target: &str, local_disks: bool) -> Result<Span, String> {
        let guest = self.config_of(kind, node, vmid)?;
        check_lock(guest)?;
        if self.faults.nodes_off.contains(target) {
            return Err(format!("Can't connect to destination address of node '{target}'"));
        }
        if guest.is_running() && kind == Kind::Qemu && !local_disks && !self.is_shared(&guest.conf, kind) {
            let first = guest
                .conf
                .iter()
                .filter(|(key, _)| kind.is_drive(key))
                .filter_map(|(_, value)| Drive::parse(value))
                .find(|drive| !drive.is_cdrom());
            let volid = first.map(|drive| drive.file).unwrap_or_default();
            return Err(format!(
                "Problem found while scanning volumes - can't live migrate attached local disks without with-local-disks option ({volid})"
            ));
        }
        self.lock(vmid, "migrate");
        Ok(Span::usual())
    }

    pub(super) fn finish_migrate(&mut self, vmid: u32, target: &str, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let volumes: Vec<String> = guest.volumes().map(|(_, volid)| volid).collect();
        let is_restarted = guest.kind == Kind::Lxc && guest.is_running();
        for volid in volumes {
            if let Some(volume) = self.volume_mut(&volid).filter(|volume| volume.node.is_some()) {
                volume.node = Some(target.to_owned());
            }
        }
        if is_restarted {
            self.halt(vmid);
        }
        self.edit(vmid, |guest: &mut Guest| {
            guest.conf.remove("lock");
            guest.node = target.to_owned();
        });
        self.effect(vmid, EffectKind::Migrated, target);
        if is_restarted {
            self.run(vmid);
        }
        self.log(task, "migration finished successfully");
        Ok(())
    }
}
