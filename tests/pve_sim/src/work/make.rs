//! New guests: from nothing, from others, from backups.
//!
//! Source: `create_vm` and `clone_vm` in `PVE::API2::Qemu` and `PVE::API2::LXC`, `restore_file_archive` in `PVE::QemuServer`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Done;
use crate::api::{check_lock, check_protection, default_boot, make_drive, make_volume};
use crate::normal::drive::{Drive, is_unused, split};
use crate::normal::net::{self, Card};
use crate::normal::property;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::{Config, Guest, Kind};
use crate::world::task::Span;

/// A guest that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the parameters of the call, under their names")]
pub struct Create {
    pub vmid: u32,
    pub kind: Kind,
    pub node: String,
    pub set: Config,
    pub storage: Option<String>,
    pub template: Option<String>,
    pub pool: Option<String>,
    pub start: bool,
    pub ha: bool,
}

/// A copy that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the parameters of the call, under their names")]
pub struct Clone {
    pub vmid: u32,
    pub newid: u32,
    pub kind: Kind,
    pub node: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub snapshot: Option<String>,
    pub storage: Option<String>,
    pub format: Option<String>,
    pub full: Option<bool>,
    pub pool: Option<String>,
    pub target: Option<String>,
    pub was_running: bool,
}

/// A guest that is to be made from a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the parameters of the call, under their names")]
pub struct Restore {
    pub vmid: u32,
    pub kind: Kind,
    pub archive: String,
    pub storage: Option<String>,
    pub unique: bool,
    pub set: Config,
    pub start: bool,
    pub force: bool,
}

/// Keys of a config that a copy has not.
fn is_left_behind(key: &str) -> bool {
    is_unused(key) || matches!(key, "parent" | "snaptime" | "vmstate" | "snapstate" | "runningcpu" | "runningmachine" | "lock" | "template")
}

impl World {
    pub(super) fn begin_create(&mut self, create: &Create) -> Result<Span, String> {
        if self.guests.contains_key(&create.vmid) { Ok(Span::usual()) } else { Err(format!("no such VM ('{}')", create.vmid)) }
    }

    pub(super) fn undo_create(&mut self, vmid: u32) {
        let volumes: Vec<String> =
            self.guests.get(&vmid).map(|guest| guest.volumes().map(|(_, volid)| volid).collect()).unwrap_or_default();
        for volid in volumes {
            self.free(vmid, &volid);
        }
        self.guests.remove(&vmid);
    }

    pub(super) fn finish_create(&mut self, create: &Create, task: u64) -> Done {
        let vmid = create.vmid;
        let made = match create.kind {
            Kind::Qemu => self.create_machine(create),
            Kind::Lxc => self.create_container(create),
        };
        if let Err(words) = made {
            self.undo_create(vmid);
            return Err(format!("unable to create {} {vmid} - {words}", create.kind.word()));
        }
        self.effect(vmid, EffectKind::Created, "");
        self.tidy(vmid);
        self.join(vmid, create.pool.as_deref());
        if create.ha {
            self.log(task, "Add as HA resource");
            self.setup.ha.insert(vmid);
        }
        if create.start {
            self.log(task, "Execute autostart");
            self.run(vmid);
        }
        Ok(())
    }

    fn create_machine(&mut self, create: &Create) -> Done {
        let vmid = create.vmid;
        self.edit(vmid, |guest| guest.conf = create.set.clone());
        for (key, value) in create.set.iter().filter(|(key, _)| Kind::Qemu.is_drive(key)) {
            // So that what was made before is found when this one fails.
            let kept = make_drive(self, vmid, Kind::Qemu, key, value, create.storage.as_deref())?;
            self.edit(vmid, |guest| guest.conf.insert(key.clone(), kept));
        }
        let (uuid, generation, now_s) = (self.random.uuid(), self.random.uuid(), self.now_ms / 1000);
        let tags = create.set.get("tags").map(|tags| self.tags(tags));
        self.edit(vmid, |guest| {
            if !guest.conf.contains_key("boot")
                && let Some(boot) = default_boot(&guest.conf)
            {
                guest.conf.insert("boot".to_owned(), boot);
            }
            guest.conf.entry("smbios1".to_owned()).or_insert_with(|| format!("uuid={uuid}"));
            guest.conf.entry("vmgenid".to_owned()).or_insert(generation);
            guest.conf.insert("meta".to_owned(), format!("creation-qemu=9.2.0,ctime={now_s}"));
            guest.pin_machine();
            if let Some(tags) = tags {
                guest.conf.insert("tags".to_owned(), tags);
            }
            describe(guest);
        });
        Ok(())
    }

    fn create_container(&mut self, create: &Create) -> Done {
        let vmid = create.vmid;
        let mut conf = create.set.clone();
        let storage = create.storage.clone().unwrap_or_else(|| "local".to_owned());
        conf.entry("rootfs".to_owned()).or_insert_with(|| format!("{storage}:4"));
        self.edit(vmid, |guest| guest.conf.remove("rootfs"));
        for key in conf.keys().filter(|key| Kind::Lxc.is_drive(key)).cloned().collect::<Vec<_>>() {
            let Some(value) = conf.get(&key).cloned() else { continue };
            let kept = make_drive(self, vmid, Kind::Lxc, &key, &value, Some(&storage))?;
            self.edit(vmid, |guest| guest.conf.insert(key.clone(), kept.clone()));
            conf.insert(key, kept);
        }
        for (key, value) in conf.iter_mut().filter(|(key, _)| matches!(split(key), ("net", Some(_)))) {
            let _ = key;
            *value = net::interface(value, || self.random.mac());
        }
        if let Some(tags) = conf.get("tags").map(|tags| self.tags(tags)) {
            conf.insert("tags".to_owned(), tags);
        }
        // Found out from what is in the template.
        let template = create.template.clone().unwrap_or_default();
        let name = template.rsplit('/').next().unwrap_or_default().to_owned();
        let known = ["debian", "ubuntu", "alpine", "centos", "fedora", "opensuse", "archlinux", "gentoo", "devuan", "nixos"];
        let os = known.iter().find(|os| name.starts_with(*os)).copied().unwrap_or("unmanaged");
        let arch = if name.contains("arm64") { "arm64" } else { "amd64" };
        for (key, value) in [("ostype", os), ("arch", arch), ("memory", "512"), ("swap", "512"), ("unprivileged", "1")] {
            conf.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        if conf.get("unprivileged").is_some_and(|yes| yes == "0") {
            conf.remove("unprivileged");
        }
        conf.entry("hostname".to_owned()).or_insert_with(|| format!("CT{vmid}"));
        self.edit(vmid, |guest| {
            guest.conf = conf;
            describe(guest);
        });
        Ok(())
    }

    /// Checks what a copy needs; done twice, as everything before a worker is.
    pub(crate) fn check_clone(&self, clone: &Clone) -> Done {
        let guest = self.config_of(clone.kind, &clone.node, clone.vmid)?;
        check_lock(guest)?;
        if let Some(name) = &clone.snapshot
            && !guest.snapshots.contains_key(name)
        {
            return Err(format!("snapshot '{name}' does not exist"));
        }
        let full = clone.full.unwrap_or(!guest.is_template());
        if !full && clone.storage.is_some() {
            return Err("parameter 'storage' not allowed for linked clones".to_owned());
        }
        if !full && clone.format.is_some() {
            return Err("parameter 'format' not allowed for linked clones".to_owned());
        }
        if clone.target.is_some() && !self.is_shared(&guest.conf, clone.kind) {
            let target = clone.target.as_deref().unwrap_or_default();
            return Err(format!("can't clone VM to node '{target}' (VM uses local storage)"));
        }
        if full && clone.kind == Kind::Lxc && guest.is_running() && clone.snapshot.is_none() {
            return Err("Cannot do full clones on a running container without snapshots".to_owned());
        }
        if let Some(there) = self.guests.get(&clone.newid).filter(|there| there.lock() != Some("clone") && there.lock() != Some("create")) {
            let word = there.kind.word();
            return Err(match clone.kind {
                Kind::Qemu if there.kind == Kind::Qemu && there.node == clone.node => {
                    format!("unable to create VM {}: config file already exists", clone.newid)
                }
                Kind::Qemu => {
                    format!("unable to create VM {}: {word} {} already exists on node '{}'", clone.newid, clone.newid, there.node)
                }
                Kind::Lxc => format!("{word} {} already exists on node '{}'", clone.newid, there.node),
            });
        }
        if full { Ok(()) } else { self.check_linked(guest, clone) }
    }

    /// Only bases can be linked to, and snapshots where the storage can.
    fn check_linked(&self, guest: &Guest, clone: &Clone) -> Done {
        let config = clone.snapshot.as_ref().and_then(|name| guest.snapshots.get(name)).unwrap_or(&guest.conf);
        for (key, value) in config.iter().filter(|(key, _)| clone.kind.is_drive(key)) {
            let Some(drive) = Drive::parse(value).filter(|drive| !drive.is_cdrom()) else { continue };
            let is_base = drive.volume().is_some_and(|(_, name)| name.rsplit('/').next().is_some_and(|last| last.starts_with("base")));
            if !is_base {
                let of = if clone.snapshot.is_some() { " a snapshot of" } else { "" };
                return Err(format!("Linked clone feature is not supported for{of} '{}' ({key})", drive.file));
            }
        }
        Ok(())
    }

    /// Whether every node sees all disks of a config.
    pub(crate) fn is_shared(&self, config: &Config, kind: Kind) -> bool {
        let drives = config.iter().filter(|(key, _)| kind.is_drive(key)).filter_map(|(_, value)| Drive::parse(value));
        drives
            .filter(|drive| drive.file != "none")
            .all(|drive| drive.volume().and_then(|(storage, _)| self.storages.get(storage)).is_some_and(|storage| storage.shared))
    }

    pub(super) fn begin_clone(&mut self, clone: &Clone, task: u64) -> Result<Span, String> {
        if clone.kind == Kind::Lxc {
            return Ok(Span::usual());
        }
        if self.guests.get(&clone.vmid).is_some_and(Guest::is_running) != clone.was_running {
            return Err("unexpected state change".to_owned());
        }
        self.check_clone(clone)?;
        if let Some(there) = self.guests.get(&clone.newid) {
            return Err(format!(
                "unable to create VM {}: {} {} already exists on node '{}'",
                clone.newid,
                there.kind.word(),
                clone.newid,
                there.node
            ));
        }
        self.log(task, &format!("creating a clone of VM {} with ID {}", clone.vmid, clone.newid));
        self.place(Kind::Qemu, clone.newid, &clone.node, Config::from([("lock".to_owned(), "clone".to_owned())]));
        Ok(Span::usual())
    }

    pub(super) fn undo_clone(&mut self, clone: &Clone) {
        let is_made = self.guests.get(&clone.newid).is_some_and(|guest| guest.lock().is_some());
        if is_made {
            self.undo_create(clone.newid);
        }
        if clone.kind == Kind::Lxc && self.guests.get(&clone.vmid).is_some_and(|guest| guest.lock() == Some("disk")) {
            self.unlock(clone.vmid);
        }
    }

    pub(super) fn finish_clone(&mut self, clone: &Clone, task: u64) -> Done {
        let result = self.copy(clone);
        if let Err(words) = result {
            self.undo_clone(clone);
            return Err(format!("clone failed: {words}"));
        }
        if clone.kind == Kind::Lxc {
            self.unlock(clone.vmid);
        }
        let has_pending = self.guests.get(&clone.vmid).is_some_and(|guest| !guest.pending.is_empty());
        if has_pending {
            self.warn(task, "found pending changes, discarding for clone");
        }
        self.effect(clone.newid, EffectKind::Cloned, &clone.vmid.to_string());
        self.join(clone.newid, clone.pool.as_deref());
        if let Some(target) = clone.target.clone() {
            self.edit(clone.newid, |guest| guest.node = target);
        }
        Ok(())
    }

    fn copy(&mut self, clone: &Clone) -> Done {
        let guest = self.guests.get(&clone.vmid).cloned().ok_or_else(|| format!("no such VM ('{}')", clone.vmid))?;
        let full = clone.full.unwrap_or(!guest.is_template());
        let source = match &clone.snapshot {
            Some(name) => guest.snapshots.get(name).cloned().ok_or_else(|| format!("snapshot '{name}' does not exist"))?,
            None => guest.conf.clone(),
        };
        let mut conf: Config = source.into_iter().filter(|(key, _)| !is_left_behind(key)).collect();
        let keys: Vec<String> = conf.keys().cloned().collect();
        for key in keys {
            let Some(value) = conf.get(&key).cloned() else { continue };
            let kept = if matches!(split(&key), ("net", Some(_))) {
                self.copy_card(clone.kind, &value)
            } else if clone.kind.is_drive(&key) {
                self.copy_drive(clone, &value, full)?
            } else {
                value
            };
            conf.insert(key.clone(), kept.clone());
            self.edit(clone.newid, |new| new.conf.insert(key, kept));
        }
        self.renew(&mut conf);
        let name_key = if clone.kind == Kind::Qemu { "name" } else { "hostname" };
        match &clone.name {
            Some(name) => drop(conf.insert(name_key.to_owned(), name.clone())),
            None if clone.kind == Kind::Qemu => {
                let from = guest.conf.get("name").cloned().unwrap_or_else(|| clone.vmid.to_string());
                conf.insert("name".to_owned(), format!("Copy-of-VM-{from}"));
            }
            None => {}
        }
        if let Some(text) = &clone.description {
            conf.insert("description".to_owned(), text.clone());
        }
        self.edit(clone.newid, |new| {
            new.conf = conf;
            describe(new);
        });
        Ok(())
    }

    /// A copy's own identity.
    fn renew(&mut self, conf: &mut Config) {
        if let Some(text) = conf.get("smbios1") {
            let mut all = property::map(text, "");
            all.insert("uuid".to_owned(), self.random.uuid());
            conf.insert("smbios1".to_owned(), property::print("", &[], &all));
        }
        if conf.contains_key("vmgenid") {
            conf.insert("vmgenid".to_owned(), self.random.uuid());
        }
    }

    fn copy_card(&mut self, kind: Kind, value: &str) -> String {
        match (kind, Card::parse(value)) {
            (Kind::Qemu, Some(card)) => Card { mac: None, ..card }.print(|| self.random.mac()),
            (Kind::Qemu, None) => value.to_owned(),
            (Kind::Lxc, _) => {
                let mut all = property::map(value, "name");
                all.remove("hwaddr");
                net::interface(&property::print("", &["name"], &all), || self.random.mac())
            }
        }
    }

    fn copy_drive(&mut self, clone: &Clone, value: &str, full: bool) -> Result<String, String> {
        let Some(mut drive) = Drive::parse(value) else { return Ok(value.to_owned()) };
        let Some((storage, name)) = drive.volume().map(|(storage, name)| (storage.to_owned(), name.to_owned())) else {
            return Ok(value.to_owned());
        };
        if drive.is_cloudinit() {
            drive.file =
                make_volume(self, clone.newid, Kind::Qemu, clone.storage.as_deref().unwrap_or(&storage), 4 << 20, None, Some("cloudinit"))?;
            return Ok(drive.print());
        }
        if drive.is_cdrom() {
            return Ok(value.to_owned());
        }
        let known = self.storages.get_mut(&storage).ok_or_else(|| format!("storage '{storage}' does not exist"))?;
        let bytes = known.volumes.get(&name).map(|volume| volume.bytes).ok_or_else(|| format!("volume '{}' does not exist", drive.file))?;
        if full {
            let target = clone.storage.clone().unwrap_or(storage);
            drive.file = make_volume(self, clone.newid, clone.kind, &target, bytes, clone.format.as_deref(), None)?;
        } else {
            if self.faults.storage_full.contains(&storage) {
                return Err(self.storages.get(&storage).map(|known| known.full(&format!("vm-{}-disk-0", clone.newid))).unwrap_or_default());
            }
            let now_s = self.now_ms / 1000;
            let linked = self.storages.get_mut(&storage).and_then(|known| known.link(&name, clone.newid, clone.kind, now_s));
            drive.file = format!("{storage}:{}", linked.ok_or("volume does not exist")?);
            let volid = drive.file.clone();
            self.effect(clone.newid, EffectKind::VolumeMade, &volid);
        }
        drive.set_size(bytes);
        Ok(drive.print())
    }

    /// Into a pool.
    fn join(&mut self, vmid: u32, pool: Option<&str>) {
        if let Some(guests) = pool.and_then(|pool| self.setup.pools.get_mut(pool)) {
            guests.insert(vmid);
        }
    }

    pub(super) fn begin_restore(&mut self, restore: &Restore) -> Result<Span, String> {
        let emsg = format!("unable to restore {} {} -", restore.kind.word(), restore.vmid);
        let Some(guest) = self.guests.get(&restore.vmid) else { return Err(format!("{emsg} it is gone")) };
        if let Err(words) = check_protection(guest, &emsg) {
            self.unlock(restore.vmid);
            return Err(words);
        }
        if guest.is_running() {
            self.unlock(restore.vmid);
            return Err(format!("{emsg} vm is running"));
        }
        Ok(Span::usual())
    }

    pub(super) fn finish_restore(&mut self, restore: &Restore, task: u64) -> Done {
        let restored = self.restore(restore, task);
        if restored.is_err() {
            // The number stays taken, by what there is so far.
            self.unlock(restore.vmid);
        }
        restored
    }

    fn restore(&mut self, restore: &Restore, task: u64) -> Done {
        let vmid = restore.vmid;
        let (storage, name) = restore.archive.split_once(':').unwrap_or_default();
        let backup = self.storages.get(storage).and_then(|storage| storage.volumes.get(name)).and_then(|volume| volume.backup.clone());
        let Some(backup) = backup.filter(|backup| backup.kind == restore.kind) else {
            return Err(format!("ERROR: archive contains no configuration file, or none of this kind: {}", restore.archive));
        };
        let old: Vec<String> = self.guests.get(&vmid).map(|guest| guest.volumes().map(|(_, volid)| volid).collect()).unwrap_or_default();
        for volid in old {
            self.free(vmid, &volid);
        }
        let mut conf: Config = backup.conf.into_iter().filter(|(key, _)| !is_left_behind(key)).collect();
        for key in conf.keys().cloned().collect::<Vec<_>>() {
            let Some(value) = conf.get(&key).cloned() else { continue };
            let kept = if restore.kind.is_drive(&key) { self.restore_drive(restore, &key, &value)? } else { value };
            let kept = if restore.unique && matches!(split(&key), ("net", Some(_))) { self.copy_card(restore.kind, &kept) } else { kept };
            conf.insert(key, kept);
        }
        // Whoever restores goes back in time: what counts generations has to notice.
        if conf.contains_key("vmgenid") {
            conf.insert("vmgenid".to_owned(), self.random.uuid());
        }
        if restore.unique {
            self.renew(&mut conf);
        }
        conf.extend(restore.set.clone());
        self.edit(vmid, |guest| {
            guest.conf = conf;
            guest.pending = BTreeMap::new();
            guest.snapshots = BTreeMap::new();
            describe(guest);
        });
        self.effect(vmid, EffectKind::Restored, &restore.archive);
        if restore.start {
            self.log(task, "Execute autostart");
            self.run(vmid);
        }
        Ok(())
    }

    fn restore_drive(&mut self, restore: &Restore, key: &str, value: &str) -> Result<String, String> {
        let Some(mut drive) = Drive::parse(value) else { return Ok(value.to_owned()) };
        let is_left_out = restore.kind == Kind::Qemu && drive.rest.get("backup").is_some_and(|yes| yes == "0");
        let Some((storage, _)) = drive.volume().filter(|_| !is_left_out) else { return Ok(value.to_owned()) };
        if drive.is_cdrom() && !drive.is_cloudinit() {
            return Ok(value.to_owned());
        }
        let storage = restore.storage.clone().unwrap_or_else(|| storage.to_owned());
        let label = drive.is_cloudinit().then_some("cloudinit");
        let bytes = drive.size().unwrap_or(4 << 20);
        drive.file =
            make_volume(self, restore.vmid, restore.kind, &storage, bytes, None, label).map_err(|words| format!("{key}: {words}"))?;
        Ok(drive.print())
    }

    /// `unusedN` goes where the volume is used again. Source: `write_vm_config`, `write_pct_config`.
    pub(crate) fn tidy(&mut self, vmid: u32) {
        self.edit(vmid, |guest| {
            let kind = guest.kind;
            let sections = guest.conf.iter().chain(&guest.pending);
            let used: Vec<String> =
                sections.filter(|(key, _)| kind.is_drive(key)).filter_map(|(_, value)| Some(Drive::parse(value)?.file)).collect();
            guest.conf.retain(|key, value| !is_unused(key) || !used.contains(value));
        });
    }
}

/// The description as it is read back.
fn describe(guest: &mut Guest) {
    if let Some(text) = guest.conf.remove("description").and_then(|text| guest.described(&text)) {
        guest.conf.insert("description".to_owned(), text);
    }
}
