//! Backups.
//!
//! Source: `PVE::VZDump`, `PVE::VZDump::QemuServer`, `PVE::VZDump::LXC`.

use serde::{Deserialize, Serialize};

use super::Done;
use crate::api::check_lock;
use crate::normal::drive::Drive;
use crate::world::World;
use crate::world::effects::EffectKind;
use crate::world::guest::{Config, Guest, Kind};
use crate::world::storage;
use crate::world::task::Span;

/// Backups that are to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the parameters of the call, under their names")]
pub struct Backup {
    pub vmids: Vec<u32>,
    pub node: String,
    pub storage: String,
    pub mode: String,
    pub compress: String,
    pub notes: Option<String>,
    pub protected: bool,
    pub remove: bool,
}

impl World {
    pub(super) fn begin_backup(&mut self, backup: &Backup, task: u64) -> Result<Span, String> {
        let vmids: Vec<String> = backup.vmids.iter().map(u32::to_string).collect();
        self.log(
            task,
            &format!("INFO: starting new backup job: vzdump {} --mode {} --storage {}", vmids.join(" "), backup.mode, backup.storage),
        );
        for vmid in &backup.vmids {
            match self.guests.get(vmid) {
                None => self.log(task, &format!("ERROR: Backup of VM {vmid} failed - unable to find VM '{vmid}'")),
                Some(guest) if guest.node != backup.node => self.log(task, &format!("INFO: skip external VMs: {vmid}")),
                Some(guest) => match check_lock(guest) {
                    Ok(()) => {
                        let kind = guest.kind.as_str();
                        self.log(task, &format!("INFO: Starting Backup of VM {vmid} ({kind})"));
                        self.lock(*vmid, "backup");
                    }
                    Err(words) => self.log(task, &format!("ERROR: Backup of VM {vmid} failed - {words}")),
                },
            }
        }
        Ok(Span::usual())
    }

    pub(super) fn undo_backup(&mut self, backup: &Backup) {
        for vmid in &backup.vmids {
            if self.guests.get(vmid).is_some_and(|guest| guest.lock() == Some("backup") && guest.node == backup.node) {
                self.unlock(*vmid);
            }
        }
    }

    pub(super) fn finish_backup(&mut self, backup: &Backup, task: u64) -> Done {
        let mut is_bad = false;
        for vmid in &backup.vmids {
            let is_elsewhere = self.guests.get(vmid).is_some_and(|guest| guest.node != backup.node);
            if is_elsewhere {
                continue;
            }
            let is_ours = self.guests.get(vmid).is_some_and(|guest| guest.lock() == Some("backup"));
            let result = if is_ours { self.back_up(*vmid, backup, task) } else { Err(String::new()) };
            if let Err(words) = result {
                is_bad = true;
                if !words.is_empty() {
                    self.log(task, &format!("ERROR: Backup of VM {vmid} failed - {words}"));
                }
            }
            if is_ours {
                self.unlock(*vmid);
            }
        }
        if is_bad {
            self.log(task, "INFO: Backup job finished with errors");
            return Err("job errors".to_owned());
        }
        self.log(task, "INFO: Backup job finished successfully");
        Ok(())
    }

    fn back_up(&mut self, vmid: u32, backup: &Backup, task: u64) -> Done {
        let Some(guest) = self.guests.get(&vmid).cloned() else { return Err(format!("unable to find VM '{vmid}'")) };
        if self.faults.storage_full.contains(&backup.storage) {
            return Err("vma_queue_write: write error - No space left on device".to_owned());
        }
        if backup.mode == "stop" && guest.is_running() {
            // It is off for as long as it takes to begin, and runs again when the backup is over.
            self.halt(vmid);
            self.run(vmid);
        }
        let bytes = disks(&guest).unwrap_or(1 << 20);
        let conf: Config =
            guest.conf.iter().filter(|(key, _)| *key != "lock" && *key != "parent").map(|(k, v)| (k.clone(), v.clone())).collect();
        let now_s = self.now_ms / 1000;
        let format = format_of(guest.kind, &backup.compress);
        let name = format!("backup/vzdump-{}-{vmid}-{}.{format}", guest.kind.as_str(), stamp(now_s));
        let mut volume = storage::Volume::of_backup(storage::Backup { kind: guest.kind, conf }, vmid, bytes / 3, &format, now_s);
        volume.notes = backup.notes.as_deref().map(|template| notes(template, &guest));
        volume.protected = backup.protected;
        let storage = self.storages.get_mut(&backup.storage).ok_or_else(|| format!("storage '{}' does not exist", backup.storage))?;
        storage.volumes.insert(name.clone(), volume);
        let volid = format!("{}:{name}", backup.storage);
        self.log(task, &format!("INFO: creating vzdump archive '/var/lib/vz/dump/{}'", name.trim_start_matches("backup/")));
        self.effect(vmid, EffectKind::BackedUp, &volid);
        if backup.remove {
            self.prune(vmid, &backup.storage, task);
        }
        self.log(task, &format!("INFO: Finished Backup of VM {vmid} (00:00:01)"));
        Ok(())
    }

    /// Removes the oldest backups of a guest, as the storage says how many are to be kept.
    fn prune(&mut self, vmid: u32, name: &str, task: u64) {
        let Some(storage) = self.storages.get(name) else { return };
        let Some(keep) = storage.keep_last.and_then(|keep| usize::try_from(keep).ok()) else { return };
        let mut all: Vec<(u64, String)> = storage
            .volumes
            .iter()
            .filter(|(_, volume)| volume.content == "backup" && volume.vmid == Some(vmid) && !volume.protected)
            .map(|(name, volume)| (volume.ctime_s, name.clone()))
            .collect();
        all.sort();
        all.truncate(all.len().saturating_sub(keep));
        for (_, old) in all {
            let volid = format!("{name}:{old}");
            self.log(task, &format!("INFO: removing backup '{volid}'"));
            if let Some(storage) = self.storages.get_mut(name) {
                storage.volumes.remove(&old);
            }
            self.effect(vmid, EffectKind::BackupDeleted, &volid);
        }
    }

    pub(super) fn remove_volume(&mut self, volid: &str) -> Done {
        let (storage, name) = volid.split_once(':').unwrap_or_default();
        let volume = self.storages.get_mut(storage).and_then(|storage| storage.volumes.remove(name));
        let volume = volume.ok_or_else(|| format!("volume '{volid}' does not exist"))?;
        let kind = if volume.content == "backup" { EffectKind::BackupDeleted } else { EffectKind::VolumeFreed };
        self.effect(volume.vmid.unwrap_or(0), kind, volid);
        Ok(())
    }
}

fn disks(guest: &Guest) -> Option<u64> {
    let drives = guest.conf.iter().filter(|(key, _)| guest.kind.is_drive(key)).filter_map(|(_, value)| Drive::parse(value)?.size());
    drives.reduce(u64::saturating_add)
}

fn format_of(kind: Kind, compress: &str) -> String {
    let base = match kind {
        Kind::Qemu => "vma",
        Kind::Lxc => "tar",
    };
    match compress {
        "zstd" => format!("{base}.zst"),
        "gzip" | "1" => format!("{base}.gz"),
        "lzo" => format!("{base}.lzo"),
        _ => base.to_owned(),
    }
}

/// Source: `PVE::VZDump::generate_notes`.
fn notes(template: &str, guest: &Guest) -> String {
    let text = template.replace("\\n", "\n").replace("\\\\", "\\");
    text.replace("{{guestname}}", &guest.name())
        .replace("{{node}}", &guest.node)
        .replace("{{vmid}}", &guest.vmid.to_string())
        .replace("{{cluster}}", "")
}

/// A moment as it stands in a backup's name: `2026_11_23-10_00_00`.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The calendar of the proleptic Gregorian year, counted from March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}_{month:02}_{day:02}-{:02}_{:02}_{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_in_names_of_backups() {
        assert_eq!(stamp(1_795_428_000), "2026_11_23-10_00_00");
        assert_eq!(stamp(951_827_696), "2000_02_29-12_34_56");
    }
}
