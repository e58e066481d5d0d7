//! Snapshots.
//!
//! Source: `snapshot_create`, `snapshot_delete`, `snapshot_rollback` in `PVE::AbstractConfig`; the plugins' `volume_rollback_is_possible`.

use super::Done;
use crate::api::{check_lock, make_volume};
use crate::normal::drive::Drive;
use crate::normal::drive::is_unused;
use crate::setup::StorageKind;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::{Config, Kind, Power};
use crate::world::task::Span;

/// Keys that belong to a section and not to what it describes.
const OWN: [&str; 6] = ["snapstate", "snaptime", "vmstate", "lock", "digest", "description"];

fn copied(from: &Config) -> Config {
    let is_copied = |key: &String| !OWN.contains(&key.as_str()) && !is_unused(key);
    from.iter().filter(|(key, _)| is_copied(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl World {
    pub(super) fn begin_snapshot(
        &mut self,
        vmid: u32,
        kind: Kind,
        node: &str,
        name: &str,
        description: Option<&str>,
        vmstate: bool,
    ) -> Result<Span, String> {
        let guest = self.config_of(kind, node, vmid)?;
        if guest.is_template() {
            return Err("you can't take a snapshot if it's a template".to_owned());
        }
        check_lock(guest)?;
        if guest.snapshots.contains_key(name) {
            return Err(format!("snapshot name '{name}' already used"));
        }
        if !self.can_snapshot(&guest.conf, kind) {
            return Err("snapshot feature is not available".to_owned());
        }
        let is_running = guest.is_running();
        let mut section = copied(&guest.conf);
        section.insert("snapstate".to_owned(), "prepare".to_owned());
        section.insert("snaptime".to_owned(), (self.now_ms / 1000).to_string());
        if let Some(text) = description.and_then(|text| guest.described(text)) {
            section.insert("description".to_owned(), text);
        }
        if vmstate && is_running && kind == Kind::Qemu {
            let state = self.make_state(vmid, None, name)?;
            section.insert("vmstate".to_owned(), state);
        }
        self.lock(vmid, "snapshot");
        self.edit(vmid, |guest| {
            // Left behind by a section that was removed by hand: it would become its own ancestor.
            for other in guest.snapshots.values_mut().filter(|other| other.get("parent").is_some_and(|parent| parent == name)) {
                other.remove("parent");
            }
            guest.snapshots.insert(name.to_owned(), section);
        });
        Ok(Span::usual())
    }

    pub(super) fn finish_snapshot(&mut self, vmid: u32, name: &str, _vmstate: bool) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        if guest.lock() != Some("snapshot") {
            return Err("missing snapshot lock".to_owned());
        }
        if !guest.snapshots.contains_key(name) {
            return Err(format!("snapshot '{name}' does not exist"));
        }
        for volid in self.volumes_of(vmid, name) {
            if let Some(volume) = self.volume_mut(&volid) {
                volume.snapshots.push(name.to_owned());
            }
        }
        self.edit(vmid, |guest| {
            guest.conf.remove("lock");
            guest.conf.insert("parent".to_owned(), name.to_owned());
            guest.snapshots.get_mut(name).map(|section| section.remove("snapstate"))
        });
        self.effect(vmid, EffectKind::SnapshotMade, name);
        Ok(())
    }

    pub(super) fn undo_snapshot(&mut self, vmid: u32, name: &str) {
        self.unlock(vmid);
        let section = self.edit(vmid, |guest| guest.snapshots.remove(name)).flatten();
        if let Some(volid) = section.and_then(|mut section| section.remove("vmstate")) {
            self.free(vmid, &volid);
        }
    }

    pub(super) fn begin_delete_snapshot(&mut self, vmid: u32, kind: Kind, node: &str, name: &str) -> Result<Span, String> {
        let guest = self.config_of(kind, node, vmid)?;
        if !guest.snapshots.contains_key(name) {
            return Err(format!("snapshot '{name}' does not exist"));
        }
        check_lock(guest)?;
        if guest.is_template() {
            return Err("you can't delete a snapshot if vm is a template".to_owned());
        }
        self.lock(vmid, "snapshot-delete");
        self.edit(vmid, |guest| guest.snapshots.get_mut(name).map(|section| section.insert("snapstate".to_owned(), "delete".to_owned())));
        Ok(Span::usual())
    }

    pub(super) fn finish_delete_snapshot(&mut self, vmid: u32, name: &str) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        if guest.lock() != Some("snapshot-delete") {
            return Err("encountered invalid lock, expected 'snapshot-delete'".to_owned());
        }
        for volid in self.volumes_of(vmid, name) {
            if let Some(volume) = self.volume_mut(&volid) {
                volume.snapshots.retain(|known| known != name);
            }
        }
        let section = self.edit(vmid, |guest| {
            let section = guest.snapshots.remove(name)?;
            let parent = section.get("parent").cloned();
            let all = guest.snapshots.values_mut().chain(std::iter::once(&mut guest.conf));
            for other in all.filter(|other| other.get("parent").is_some_and(|parent| parent == name)) {
                match &parent {
                    Some(parent) => drop(other.insert("parent".to_owned(), parent.clone())),
                    None => drop(other.remove("parent")),
                }
            }
            guest.conf.remove("lock");
            Some(section)
        });
        let section = section.flatten().ok_or_else(|| format!("snapshot '{name}' does not exist"))?;
        if let Some(volid) = section.get("vmstate") {
            self.free(vmid, volid);
        }
        self.effect(vmid, EffectKind::SnapshotDeleted, name);
        Ok(())
    }

    pub(super) fn begin_rollback(&mut self, vmid: u32, kind: Kind, node: &str, name: &str, _task: u64) -> Result<Span, String> {
        let guest = self.config_of(kind, node, vmid)?;
        if guest.is_template() {
            return Err("you can't rollback if vm is a template".to_owned());
        }
        let section = guest.snapshots.get(name).ok_or_else(|| format!("snapshot '{name}' does not exist"))?;
        for volid in self.volumes_of(vmid, name) {
            self.can_roll_back(&volid, name)?;
        }
        if let Some(state) = section.get("snapstate") {
            return Err(format!("unable to rollback to incomplete snapshot (snapstate = {state})"));
        }
        check_lock(guest)?;
        // It is stopped without being asked.
        self.halt(vmid);
        self.lock(vmid, "rollback");
        Ok(Span::usual())
    }

    /// Of ZFS only the latest snapshot can be gone back to.
    fn can_roll_back(&self, volid: &str, name: &str) -> Done {
        let Some((storage, volname)) = volid.split_once(':') else { return Ok(()) };
        let Some(storage) = self.storages.get(storage) else { return Ok(()) };
        let Some(volume) = storage.volumes.get(volname) else { return Err(format!("volume '{volid}' does not exist")) };
        match storage.kind {
            StorageKind::ZfsPool if volume.snapshots.last().is_some_and(|last| last != name) => {
                Err(format!("can't rollback, '{name}' is not most recent snapshot on '{volid}'"))
            }
            StorageKind::ZfsPool | StorageKind::Dir | StorageKind::Lvm | StorageKind::LvmThin => Ok(()),
        }
    }

    pub(super) fn finish_rollback(&mut self, vmid: u32, name: &str, start: bool, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let section = guest.snapshots.get(name).cloned().ok_or_else(|| format!("snapshot '{name}' does not exist"))?;
        let before = guest.conf.clone();
        let kind = guest.kind;
        let mut conf = copied(&section);
        for (key, value) in before.iter().filter(|(key, _)| is_unused(key) || *key == "description") {
            conf.insert(key.clone(), value.clone());
        }
        conf.insert("parent".to_owned(), name.to_owned());
        // What is copied from before must look different to what counts generations.
        if conf.contains_key("vmgenid") {
            conf.insert("vmgenid".to_owned(), self.random.uuid());
        }
        let gone: Vec<Drive> = before
            .iter()
            .filter(|(key, _)| kind.is_drive(key))
            .filter_map(|(_, value)| Drive::parse(value))
            .filter(|drive| !section.values().any(|value| Drive::parse(value).is_some_and(|other| other.file == drive.file)))
            .collect();
        self.edit(vmid, |guest| {
            guest.conf = conf;
            guest.pending.clear();
        });
        for drive in gone {
            self.let_go(vmid, &drive);
        }
        self.effect(vmid, EffectKind::RolledBack, name);
        if section.contains_key("vmstate") {
            let since_ms = self.now_ms;
            self.edit(vmid, |guest| guest.power = Power::Running { since_ms });
            self.effect(vmid, EffectKind::Started, "vmstate");
        } else if start {
            self.log(task, "Starting after the rollback");
            self.run(vmid);
        }
        Ok(())
    }

    /// Makes a volume for a machine's memory.
    pub(crate) fn make_state(&mut self, vmid: u32, storage: Option<&str>, name: &str) -> Result<String, String> {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let memory: u64 = guest.conf.get("memory").and_then(|memory| memory.parse().ok()).unwrap_or(512);
        let first = guest.conf.iter().filter(|(key, _)| Kind::Qemu.is_drive(key)).find_map(|(_, value)| {
            let drive = Drive::parse(value).filter(|drive| !drive.is_cdrom())?;
            drive.volume().map(|(storage, _)| storage.to_owned())
        });
        let storage = storage
            .map(str::to_owned)
            .or_else(|| guest.conf.get("vmstatestorage").cloned())
            .or(first)
            .unwrap_or_else(|| "local".to_owned());
        let label = if name == "suspend" { format!("state-suspend-{}", self.now_ms / 1000) } else { format!("state-{name}") };
        make_volume(self, vmid, Kind::Qemu, &storage, (memory * 2 + 500) << 20, Some("raw"), Some(&label))
    }

    /// The volumes of a snapshot's drives.
    pub(crate) fn volumes_of(&self, vmid: u32, name: &str) -> Vec<String> {
        let Some(guest) = self.guests.get(&vmid) else { return Vec::new() };
        let section = guest.snapshots.get(name).into_iter().flatten();
        let drives = section.filter(|(key, _)| guest.kind.is_drive(key)).filter_map(|(_, value)| Drive::parse(value));
        drives.filter(|drive| !drive.is_cdrom() && drive.volume().is_some()).map(|drive| drive.file).collect()
    }

    pub(crate) fn volume_mut(&mut self, volid: &str) -> Option<&mut crate::world::storage::Volume> {
        let (storage, name) = volid.split_once(':')?;
        self.storages.get_mut(storage)?.volumes.get_mut(name)
    }

    /// Whether all disks of a config can be snapshot.
    pub(crate) fn can_snapshot(&self, config: &Config, kind: Kind) -> bool {
        config.iter().filter(|(key, _)| kind.is_drive(key)).all(|(_, value)| {
            let Some(drive) = Drive::parse(value).filter(|drive| !drive.is_cdrom()) else { return true };
            let Some((storage, name)) = drive.volume() else { return false };
            self.storages
                .get(storage)
                .is_some_and(|storage| storage.volumes.get(name).is_some_and(|volume| storage.can_snapshot(&volume.format)))
        })
    }
}
