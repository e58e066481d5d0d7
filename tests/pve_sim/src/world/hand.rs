//! What people do on the host, behind the API's back.

use serde::{Deserialize, Serialize};

use super::effects::{By, EffectKind};
use super::guest::{Config, Kind, Power};
use super::{Cause, World};
use crate::normal::drive::Drive;

/// One thing that somebody does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields say what the variants do")]
pub enum Hand {
    /// Start a guest.
    Start { vmid: u32 },
    /// Stop one.
    Stop { vmid: u32 },
    /// It stops by itself.
    Crash { vmid: u32 },
    /// Set a key of its config, as it is.
    Set { vmid: u32, key: String, value: String },
    /// Delete one.
    Delete { vmid: u32, key: String },
    /// Remove a guest with its disks.
    Destroy { vmid: u32 },
    /// Remove it and make another one of the same number.
    Recreate { vmid: u32, config: Config },
    /// Lock its config.
    Lock { vmid: u32, lock: String },
    /// Unlock it.
    Unlock { vmid: u32 },
    /// Protect it, or not.
    Protect { vmid: u32, on: bool },
    /// Let the cluster keep it available, or no longer.
    Ha { vmid: u32, on: bool },
    /// Make a snapshot.
    Snapshot { vmid: u32, name: String },
    /// Delete one.
    DeleteSnapshot { vmid: u32, name: String },
    /// Make a guest.
    Make { vmid: u32, kind: Kind, config: Config, running: bool },
    /// Take a tag off a guest.
    RemoveTag { vmid: u32, tag: String },
    /// Detach a disk.
    Detach { vmid: u32, disk: String },
    /// Grow one, in bytes.
    Grow { vmid: u32, disk: String, bytes: u64 },
    /// Move a guest to another node.
    Move { vmid: u32, node: String },
    /// It will take so long to shut down when asked; never when left out.
    Shuts { vmid: u32, ms: Option<u64> },
    /// Remove a volume.
    RemoveVolume { volid: String },
    /// The token has another secret.
    Secret { token: String, secret: String },
}

impl World {
    /// Does it, at a time.
    ///
    /// # Errors
    /// When there is no such guest, or nothing to do it to.
    pub fn hand(&mut self, now_ms: u64, hand: &Hand) -> Result<(), String> {
        self.settle(now_ms);
        let cause = self.enter(Cause { text: "hand".to_owned(), on_behalf: String::new(), by: By::Hand });
        let done = self.do_by_hand(hand);
        self.leave(cause);
        done
    }

    fn do_by_hand(&mut self, hand: &Hand) -> Result<(), String> {
        match hand {
            Hand::Start { vmid } => self.run(self.known(*vmid)?),
            Hand::Stop { vmid } => self.halt(self.known(*vmid)?),
            Hand::Crash { vmid } => self.crash(self.known(*vmid)?),
            Hand::Set { vmid, key, value } => self.set_by_hand(self.known(*vmid)?, key, value),
            Hand::Delete { vmid, key } => self.delete_by_hand(self.known(*vmid)?, key),
            Hand::Destroy { vmid } => self.destroy_by_hand(self.known(*vmid)?),
            Hand::Recreate { vmid, config } => {
                let vmid = self.known(*vmid)?;
                let (kind, node) = self.guests.get(&vmid).map(|guest| (guest.kind, guest.node.clone())).ok_or("it is gone")?;
                self.destroy_by_hand(vmid);
                self.place(kind, vmid, &node, config.clone());
                self.effect(vmid, EffectKind::Created, "");
            }
            Hand::Lock { vmid, lock } => {
                self.lock(self.known(*vmid)?, lock);
                self.effect(*vmid, EffectKind::LockSet, lock);
            }
            Hand::Unlock { vmid } => {
                self.unlock(self.known(*vmid)?);
                self.effect(*vmid, EffectKind::LockCleared, "");
            }
            Hand::Protect { vmid, on: true } => self.set_by_hand(self.known(*vmid)?, "protection", "1"),
            Hand::Protect { vmid, on: false } => self.delete_by_hand(self.known(*vmid)?, "protection"),
            Hand::Ha { vmid, on: true } => drop(self.setup.ha.insert(*vmid)),
            Hand::Ha { vmid, on: false } => drop(self.setup.ha.remove(vmid)),
            Hand::Snapshot { vmid, name } => self.snapshot_by_hand(self.known(*vmid)?, name)?,
            Hand::DeleteSnapshot { vmid, name } => self.delete_snapshot_by_hand(self.known(*vmid)?, name)?,
            Hand::Make { vmid, kind, config, running } => {
                let node = self.first_node();
                self.place(*kind, *vmid, &node, config.clone());
                self.effect(*vmid, EffectKind::Created, "");
                if *running {
                    self.run(*vmid);
                }
            }
            Hand::RemoveTag { vmid, tag } => {
                let vmid = self.known(*vmid)?;
                let tags = self.guests.get(&vmid).and_then(|guest| guest.conf.get("tags")).cloned().unwrap_or_default();
                let rest: Vec<&str> = tags.split(';').filter(|word| word != tag).collect();
                if rest.is_empty() { self.delete_by_hand(vmid, "tags") } else { self.set_by_hand(vmid, "tags", &rest.join(";")) }
            }
            Hand::Detach { vmid, disk } => {
                let vmid = self.known(*vmid)?;
                let value = self.edit(vmid, |guest| guest.conf.remove(disk)).flatten().ok_or("there is no such disk")?;
                if let Some(drive) = Drive::parse(&value) {
                    self.let_go(vmid, &drive);
                }
            }
            Hand::Grow { vmid, disk, bytes } => self.grow_by_hand(self.known(*vmid)?, disk, *bytes)?,
            Hand::Move { vmid, node } => {
                let vmid = self.known(*vmid)?;
                self.edit(vmid, |guest| guest.node.clone_from(node));
                self.effect(vmid, EffectKind::Migrated, node);
            }
            Hand::Shuts { vmid, ms } => drop(self.edit(*vmid, |guest| guest.shutdown_ms = *ms)),
            Hand::RemoveVolume { volid } => {
                if !self.free(0, volid) {
                    return Err(format!("there is no {volid}"));
                }
            }
            Hand::Secret { token, secret } => {
                for known in self.setup.tokens.iter_mut().filter(|known| known.id == *token) {
                    known.secret.clone_from(secret);
                }
            }
        }
        Ok(())
    }

    fn known(&self, vmid: u32) -> Result<u32, String> {
        if self.guests.contains_key(&vmid) { Ok(vmid) } else { Err(format!("there is no guest {vmid}")) }
    }

    fn set_by_hand(&mut self, vmid: u32, key: &str, value: &str) {
        self.edit(vmid, |guest| guest.conf.insert(key.to_owned(), value.to_owned()));
        self.effect(vmid, EffectKind::ConfigSet, key);
    }

    fn delete_by_hand(&mut self, vmid: u32, key: &str) {
        self.edit(vmid, |guest| guest.conf.remove(key));
        self.effect(vmid, EffectKind::ConfigDeleted, key);
    }

    fn destroy_by_hand(&mut self, vmid: u32) {
        self.edit(vmid, |guest| guest.power = Power::Stopped);
        let volumes: Vec<String> =
            self.guests.get(&vmid).map(|guest| guest.volumes().map(|(_, volid)| volid).collect()).unwrap_or_default();
        for volid in volumes {
            self.free(vmid, &volid);
        }
        self.remove_guest(vmid, false);
    }

    fn snapshot_by_hand(&mut self, vmid: u32, name: &str) -> Result<(), String> {
        let guest = self.guests.get(&vmid).ok_or("it is gone")?;
        let (kind, node) = (guest.kind, guest.node.clone());
        let work = crate::work::Work::Snapshot { vmid, kind, node, name: name.to_owned(), description: None, vmstate: false };
        self.begin_work(&work, 0)?;
        self.finish_work(&work, 0)
    }

    fn delete_snapshot_by_hand(&mut self, vmid: u32, name: &str) -> Result<(), String> {
        let guest = self.guests.get(&vmid).ok_or("it is gone")?;
        let work =
            crate::work::Work::DeleteSnapshot { vmid, kind: guest.kind, node: guest.node.clone(), name: name.to_owned(), force: false };
        self.begin_work(&work, 0)?;
        self.finish_work(&work, 0)
    }

    fn grow_by_hand(&mut self, vmid: u32, disk: &str, bytes: u64) -> Result<(), String> {
        let value = self.guests.get(&vmid).and_then(|guest| guest.conf.get(disk)).ok_or("there is no such disk")?;
        let mut drive = Drive::parse(value).ok_or("it is no disk")?;
        if let Some(volume) = self.volume_mut(&drive.file.clone()) {
            volume.bytes = bytes;
        }
        drive.set_size(bytes);
        self.edit(vmid, |guest| guest.conf.insert(disk.to_owned(), drive.print()));
        self.effect(vmid, EffectKind::VolumeGrown, &drive.file);
        Ok(())
    }
}
