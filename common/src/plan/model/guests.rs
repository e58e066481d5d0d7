//! Guests of the simulated engine: it keeps what it is told, without a host's own forms.

use std::collections::BTreeMap;

use super::{Engine, ModelError};
use crate::observe::{GuestStatus, ObservedGuest, TAG};
use crate::plan::guest::{GuestAct, GuestAction, MAKING, note_key};
use crate::pve::guest::{Config, ConfigChange, GuestConfig};
use crate::pve::{GuestKind, Vmid, incarnation, tags};

impl Engine {
    /// Makes a change to a guest so.
    pub(super) fn apply_guest(&mut self, action: &GuestAction) -> Result<(), ModelError> {
        if self.pve.is_none() {
            return Err(ModelError::Conflict("this engine has no Proxmox VE".to_owned()));
        }
        match &action.act {
            GuestAct::Create { from, config, marker } => {
                if self.guest(action.vmid).is_some() {
                    return Err(ModelError::Conflict(format!("VM {} already exists", action.vmid)));
                }
                let is_whole = from.as_ref().is_none_or(|from| from.clone.is_none() && from.archive.is_none());
                let mut kept = if is_whole { config.clone() } else { Config::new() };
                kept.insert("description".to_owned(), marker.clone());
                self.make_guest(action.vmid, action.kind, kept);
                Ok(())
            }
            GuestAct::Adopt => self.own_guest(action),
            GuestAct::Update { change, digest } => {
                let live = self.guest_mut(action)?;
                if *digest != live.digest {
                    return Err(ModelError::Conflict("checksum mismatch (file change by other user?)".to_owned()));
                }
                update(live, change);
                self.own_guest(action)
            }
            GuestAct::Purge => {
                self.guest_mut(action)?;
                self.pve.iter_mut().for_each(|pve| drop(pve.guests.remove(&action.vmid)));
                Ok(())
            }
            GuestAct::Start | GuestAct::Resume => {
                let live = self.guest_mut(action)?;
                live.status = GuestStatus::Running;
                self.own_guest(action)
            }
            GuestAct::Shutdown { .. } => {
                let live = self.guest_mut(action)?;
                live.status = GuestStatus::Stopped;
                live.config.iter_mut().for_each(|config| config.running.clear());
                self.own_guest(action)
            }
            GuestAct::Reboot { .. } => {
                let live = self.guest_mut(action)?;
                live.config.iter_mut().for_each(|config| config.running.clear());
                self.own_guest(action)
            }
        }
    }

    fn guest(&self, vmid: Vmid) -> Option<&ObservedGuest> {
        self.pve.as_ref()?.guests.get(&vmid)
    }

    /// The guest that is meant, which is ours or is taken over by what is done.
    fn guest_mut(&mut self, action: &GuestAction) -> Result<&mut ObservedGuest, ModelError> {
        let live = self.pve.as_mut().and_then(|pve| pve.guests.get_mut(&action.vmid));
        let live = live.ok_or_else(|| ModelError::NotFound(note_key(action.vmid)))?;
        if live.incarnation != action.incarnation {
            return Err(ModelError::Conflict(format!("guest {} is another one", action.vmid)));
        }
        if live.owner.is_none() && !live.is_marked && !action.adopted {
            return Err(ModelError::Conflict(format!("guest {} is not ours", action.vmid)));
        }
        Ok(live)
    }

    fn own_guest(&mut self, action: &GuestAction) -> Result<(), ModelError> {
        let owner = action.note().map(|(_, owner)| owner);
        let live = self.guest_mut(action)?;
        live.owner = owner;
        Ok(())
    }

    /// Makes a guest of this config.
    pub fn make_guest(&mut self, vmid: Vmid, kind: GuestKind, config: Config) {
        self.last_id += 1;
        let id = format!("00000000-0000-4000-8000-{:012x}", self.last_id);
        let incarnation = match kind {
            GuestKind::Qemu => format!("vm:{id}:{id}"),
            GuestKind::Lxc => incarnation::of_container(&format!("local-lvm:vm-{vmid}-disk-0"), self.last_id),
        };
        let mut live = ObservedGuest {
            kind,
            name: None,
            status: GuestStatus::Stopped,
            owner: None,
            is_marked: true,
            incarnation: Some(incarnation),
            is_template: false,
            lock: None,
            task: None,
            is_ha_managed: false,
            snapshots: BTreeMap::new(),
            config: Some(Box::new(GuestConfig { kind, set: Config::new(), running: BTreeMap::new() })),
            digest: None,
        };
        update(&mut live, &ConfigChange { set: config, ..ConfigChange::default() });
        self.pve.get_or_insert_default().guests.insert(vmid, live);
    }
}

fn update(live: &mut ObservedGuest, change: &ConfigChange) {
    let Some(config) = &mut live.config else { return };
    config.set.extend(change.set.clone());
    config.set.retain(|key, text| !change.delete.contains(key) && !text.is_empty());
    for (key, bytes) in &change.grow {
        let grown = |text: &String| {
            let kept = text.split(',').filter(|part| !part.starts_with("size="));
            kept.map(str::to_owned).chain([format!("size={bytes}")]).collect::<Vec<_>>().join(",")
        };
        if let Some(text) = config.set.get_mut(key) {
            *text = grown(text);
        }
    }
    let is_being_made = config.set.get("description").is_some_and(|text| text.starts_with(MAKING));
    live.is_marked = is_being_made || config.set.get("tags").is_some_and(|text| tags::has(text, TAG));
    live.name = config.set.get("name").or_else(|| config.set.get("hostname")).cloned();
    let text: Vec<String> = config.set.iter().map(|(key, text)| format!("{key}: {text}")).collect();
    live.digest = Some(crate::id::sha256_hex(text.join("\n").as_bytes()));
}
