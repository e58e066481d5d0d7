//! Disks that grow, move or become bases.
//!
//! Source: `resize_vm`, `move_vm_disk` and `template` in `PVE::API2::Qemu` and `PVE::API2::LXC`.

use super::Done;
use crate::api::{check_lock, make_volume};
use crate::normal::drive::{Drive, is_unused};
use crate::normal::text;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::Kind;
use crate::world::task::Span;

impl World {
    #[allow(clippy::too_many_arguments, reason = "they are the parameters of the call")]
    pub(super) fn resize(&mut self, vmid: u32, kind: Kind, node: &str, disk: &str, size: &str, digest: Option<&str>, who: &str) -> Done {
        let (volid, old, new) = self.check_resize(vmid, kind, node, disk, size, digest)?;
        let storage = volid.split(':').next().unwrap_or_default();
        self.check(who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"]).map_err(crate::api::Fail::words)?;
        if new == old {
            return Ok(());
        }
        if self.faults.storage_full.contains(storage) {
            return Err(format!("lvextend '{volid}' error: no space left"));
        }
        if let Some(volume) = self.volume_mut(&volid) {
            volume.bytes = new;
        }
        self.edit(vmid, |guest| {
            if let Some(mut drive) = guest.conf.get(disk).and_then(|value| Drive::parse(value)) {
                drive.set_size(new);
                guest.conf.insert(disk.to_owned(), drive.print());
            }
        });
        self.effect(vmid, EffectKind::VolumeGrown, &format!("{volid} {}", text::size(new)));
        Ok(())
    }

    /// What would grow, from how much to how much.
    pub(crate) fn check_resize(
        &self,
        vmid: u32,
        kind: Kind,
        node: &str,
        disk: &str,
        size: &str,
        digest: Option<&str>,
    ) -> Result<(String, u64, u64), String> {
        let guest = self.config_of(kind, node, vmid)?;
        if digest.is_some_and(|digest| !digest.is_empty() && digest != guest.digest()) {
            return Err(match kind {
                Kind::Qemu => "checksum mismatch (file change by other user?)",
                Kind::Lxc => "detected modified configuration - file changed by other user? Try again.",
            }
            .to_owned());
        }
        check_lock(guest)?;
        let value = guest.conf.get(disk).ok_or_else(|| format!("disk '{disk}' does not exist"))?;
        let drive = Drive::parse(value).ok_or_else(|| format!("disk '{disk}' has no associated volume"))?;
        if drive.is_cdrom() {
            return Err("you can't resize a cdrom".to_owned());
        }
        let old =
            crate::api::size_of(self, &drive.file).ok_or_else(|| format!("Could not determine current size of volume '{}'", drive.file))?;
        let given = text::bytes(size.trim_start_matches('+')).ok_or("internal error")?;
        let new = if size.starts_with('+') { old.saturating_add(given) } else { given };
        match kind {
            Kind::Qemu if new < old => Err("shrinking disks is not supported".to_owned()),
            Kind::Lxc if new < old => Err("unable to shrink disk size".to_owned()),
            Kind::Lxc if new == old => Err("disk is already at specified size".to_owned()),
            Kind::Qemu | Kind::Lxc => Ok((drive.file, old, new)),
        }
    }

    pub(super) fn move_disk(&mut self, vmid: u32, disk: &str, storage: &str, format: Option<&str>, delete: bool, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let kind = guest.kind;
        check_lock(guest)?;
        let mut drive =
            guest.conf.get(disk).and_then(|value| Drive::parse(value)).ok_or_else(|| format!("disk '{disk}' does not exist"))?;
        let old = drive.file.clone();
        let bytes = crate::api::size_of(self, &old).ok_or_else(|| format!("volume '{old}' does not exist"))?;
        let made = make_volume(self, vmid, kind, storage, bytes, format, None);
        drive.file = made.map_err(|words| format!("storage migration failed: {words}"))?;
        let new = drive.file.clone();
        self.edit(vmid, |guest| guest.conf.insert(disk.to_owned(), drive.print()));
        self.effect(vmid, EffectKind::VolumeMoved, &format!("{old} {new}"));
        if delete {
            self.log(task, &format!("removing source volume '{old}' after successful copy"));
            self.free(vmid, &old);
        } else if let Some(drive) = Drive::parse(&old) {
            self.let_go(vmid, &drive);
        }
        Ok(())
    }

    pub(super) fn reassign(&mut self, vmid: u32, disk: &str, target: u32, target_disk: &str, task: u64) -> Done {
        self.check_reassign(vmid, disk, target, target_disk)?;
        let Some(guest) = self.guests.get(&vmid) else { return Ok(()) };
        let kind = guest.kind;
        let mut drive = guest.conf.get(disk).and_then(|value| Drive::parse(value)).ok_or("failed to parse source disk")?;
        let old = drive.file.clone();
        let (storage, name) = old.split_once(':').ok_or_else(|| format!("Volume '{old}' not managed by PVE"))?;
        let renamed = self.storages.get_mut(storage).and_then(|known| {
            let mut volume = known.volumes.remove(name)?;
            let new = known.free_name(target, kind, &volume.format);
            volume.vmid = Some(target);
            known.volumes.insert(new.clone(), volume);
            Some(new)
        });
        drive.file = format!("{storage}:{}", renamed.ok_or_else(|| format!("volume '{old}' does not exist"))?);
        self.log(task, &format!("removing disk '{disk}' from VM '{vmid}' config"));
        self.edit(vmid, |guest| guest.conf.remove(disk));
        let value = if is_unused(target_disk) { drive.file.clone() } else { drive.print() };
        self.edit(target, |guest| guest.conf.insert(target_disk.to_owned(), value));
        self.effect(vmid, EffectKind::VolumeMoved, &format!("{old} {}", drive.file));
        Ok(())
    }

    /// What must hold for a disk that is to be another guest's.
    pub(crate) fn check_reassign(&self, vmid: u32, disk: &str, target: u32, target_disk: &str) -> Done {
        let guest = self.guests.get(&vmid).ok_or_else(|| format!("could not find VM {vmid}"))?;
        let other = self.guests.get(&target).ok_or_else(|| format!("could not find target VM {target}"))?;
        if guest.node != other.node {
            return Err(format!("Both VMs need to be on the same node ({} != {})", guest.node, other.node));
        }
        check_lock(guest)?;
        check_lock(other)?;
        if guest.is_template() || other.is_template() {
            return Err("Can't move disks from or to template VMs".to_owned());
        }
        let Some(value) = guest.conf.get(disk) else { return Err(format!("Disk '{disk}' for VM '{vmid}' does not exist")) };
        if other.conf.contains_key(target_disk) {
            return Err(format!("Target disk key '{target_disk}' is already in use for VM '{target}'"));
        }
        let drive = Drive::parse(value).ok_or("failed to parse source disk")?;
        if drive.is_cdrom() {
            return Err("CD drive contents can't be moved to another VM".to_owned());
        }
        if guest
            .snapshots
            .values()
            .any(|section| section.values().any(|value| Drive::parse(value).is_some_and(|other| other.file == drive.file)))
        {
            return Err("Can't move disk used by a snapshot to another VM".to_owned());
        }
        if guest.is_running() && !is_unused(disk) {
            return Err("Cannot move disk to another VM while the source VM is running - detach first".to_owned());
        }
        Ok(())
    }

    pub(crate) fn check_template(&self, vmid: u32, kind: Kind, node: &str, disk: Option<&str>) -> Done {
        let guest = self.config_of(kind, node, vmid)?;
        check_lock(guest)?;
        if !guest.snapshots.is_empty() {
            return Err(format!("unable to create template, because {} contains snapshots", kind.word()));
        }
        if guest.is_template() && disk.is_none() {
            return Err("you can't convert a template to a template".to_owned());
        }
        if guest.is_running() {
            return Err(match kind {
                Kind::Qemu => "you can't convert a VM to template if VM is running",
                Kind::Lxc => "you can't convert a CT to template if the CT is running",
            }
            .to_owned());
        }
        Ok(())
    }

    pub(super) fn begin_template(&mut self, vmid: u32, kind: Kind, node: &str, disk: Option<&str>) -> Result<Span, String> {
        self.check_template(vmid, kind, node, disk)?;
        Ok(Span::usual())
    }

    pub(super) fn finish_template(&mut self, vmid: u32, only: Option<&str>) -> Done {
        let Some(guest) = self.guests.get(&vmid) else { return Err(format!("no such VM ('{vmid}')")) };
        let kind = guest.kind;
        let drives: Vec<(String, Drive)> = guest
            .conf
            .iter()
            .filter(|(key, _)| kind.is_drive(key) && only.is_none_or(|only| only == *key))
            .filter_map(|(key, value)| Some((key.clone(), Drive::parse(value)?)))
            .filter(|(_, drive)| !drive.is_cdrom())
            .collect();
        for (key, mut drive) in drives {
            let Some((storage, name)) = drive.volume().map(|(s, n)| (s.to_owned(), n.to_owned())) else { continue };
            if let Some(base) = self.storages.get_mut(&storage).and_then(|storage| storage.make_base(&name)) {
                drive.file = format!("{storage}:{base}");
            }
            self.edit(vmid, |guest| guest.conf.insert(key, drive.print()));
        }
        self.edit(vmid, |guest| guest.conf.insert("template".to_owned(), "1".to_owned()));
        self.effect(vmid, EffectKind::Templated, "");
        Ok(())
    }
}
