//! A guest as it shall be and as it is: what about its config has to change.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::keys::{self, GuestKind, Shape};
use super::property::Whose;
use super::scalar::Wrong;
use super::value::{self, Need};

/// A config: values by their keys, as Proxmox VE writes them.
pub type Config = BTreeMap<String, String>;

/// A guest as its host shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// What it is set to be, with what waits for its next start.
    pub set: Config,
    /// What it runs with, where that is otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub running: BTreeMap<String, Option<String>>,
}

/// What about a guest's config has to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigChange {
    /// Values to set, as they are sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: Config,
    /// Keys to take out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub delete: BTreeSet<String>,
    /// Disks to grow, with their sizes in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grow: BTreeMap<String, u64>,
    /// What differs and cannot be changed, with why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
}

impl ConfigChange {
    /// Every key that differs.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        self.set.keys().chain(&self.delete).chain(self.grow.keys()).chain(self.refused.keys()).cloned().collect()
    }

    /// Adds what a key needs.
    fn add(&mut self, key: &str, need: Need) {
        let key = key.to_owned();
        match need {
            Need::Nothing => {}
            Need::Set(text) => drop(self.set.insert(key, text)),
            Need::Delete => drop(self.delete.insert(key)),
            Need::Grow { bytes, set } => {
                self.set.extend(set.map(|text| (key.clone(), text)));
                self.grow.insert(key, bytes);
            }
            Need::Refused(why) => drop(self.refused.insert(key, why)),
        }
    }

    /// Leaves a key as it is.
    pub fn leave(&mut self, key: &str) {
        self.set.remove(key);
        self.delete.remove(key);
        self.grow.remove(key);
        self.refused.remove(key);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.delete.is_empty() && self.grow.is_empty()
    }
}

/// Checks an operator's config.
///
/// # Errors
/// Each wrong key with what is wrong.
pub fn check(kind: GuestKind, config: &Config) -> Result<(), BTreeMap<String, String>> {
    let wrong = config.iter().filter_map(|(key, text)| {
        let why = match keys::find(kind, key) {
            Ok(known) => value::check(known, text).err()?.to_string(),
            Err(why) => why,
        };
        Some((key.clone(), why))
    });
    let wrong: BTreeMap<String, String> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// The mount point of a new container whose root is not named, though that is made by itself only where no volume is.
/// Source: `PVE::API2::LXC::create_vm`.
#[must_use]
pub fn rootless(kind: GuestKind, config: &Config) -> Option<&str> {
    let is_mount = |key: &&String| key.strip_prefix("mp").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let mount = config.keys().find(is_mount).filter(|_| kind == GuestKind::Lxc && !config.contains_key("rootfs"));
    mount.map(String::as_str)
}

/// What has to change so that `live` has what `wanted` says. What only `applied`, the config that was applied last, names is taken out;
/// what neither names is not managed. What a host does not show counts as met.
///
/// # Errors
/// [`Wrong`] when `wanted` is no config; see [`check`].
pub fn change(wanted: &Config, applied: Option<&Config>, live: &GuestConfig) -> Result<ConfigChange, Wrong> {
    change_given(wanted, applied, live, true)
}

/// As [`change`]; `is_written`: whether what a host does not show is known to be as wanted.
///
/// # Errors
/// As [`change`].
pub fn change_given(wanted: &Config, applied: Option<&Config>, live: &GuestConfig, is_written: bool) -> Result<ConfigChange, Wrong> {
    let mut change = ConfigChange::default();
    for (key, text) in wanted {
        let known = keys::find(live.kind, key).map_err(Wrong::new)?;
        let is_rewritten = hides(known.shape) && !is_written;
        let need = value::need(known, text, live.set.get(key).map(String::as_str))?;
        change.add(key, if is_rewritten && need == Need::Nothing { Need::Set(text.trim().to_owned()) } else { need });
    }
    let dropped = applied.into_iter().flatten().filter(|(key, _)| !wanted.contains_key(*key));
    for (key, _) in dropped {
        // What only a host may say was never applied.
        if let (Ok(known), Some(has)) = (keys::find(live.kind, key), live.set.get(key)) {
            change.add(key, value::need_of_dropped(known, has));
        }
    }
    Ok(change)
}

/// The keys whose values count from the guest's next start on.
#[must_use]
pub fn pending(live: &GuestConfig) -> BTreeSet<&str> {
    let waits = |key: &str, running: Option<&str>| {
        let Ok(known) = keys::find(live.kind, key) else { return false };
        let normal = |text: Option<&str>| text.and_then(|text| value::normal(known.shape, text, Whose::Theirs).ok().flatten());
        normal(live.set.get(key).map(String::as_str)) != normal(running)
    };
    live.running.iter().filter(|(key, running)| waits(key, running.as_deref())).map(|(key, _)| key.as_str()).collect()
}

/// Whether a host does not show what was set.
const fn hides(shape: Shape) -> bool {
    matches!(shape, Shape::PasswordHash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    fn live(pairs: &[(&str, &str)]) -> GuestConfig {
        GuestConfig { kind: GuestKind::Qemu, set: config(pairs), running: BTreeMap::new() }
    }

    #[test]
    fn only_what_the_file_names_and_what_it_named_before_changes() {
        let has = live(&[("memory", "1024"), ("onboot", "1"), ("tags", "a;b"), ("cores", "2"), ("balloon", "512")]);
        let wanted = config(&[("memory", "2048"), ("tags", "b a"), ("name", "db")]);
        let applied = config(&[("memory", "1024"), ("onboot", "1"), ("sockets", "1")]);
        let found = change(&wanted, Some(&applied), &has).unwrap();
        assert_eq!(found.set, config(&[("memory", "2048"), ("name", "db")]));
        assert_eq!(found.delete, BTreeSet::from(["onboot".to_owned()]), "cores and balloon were never named, sockets is not there");
        assert!(found.grow.is_empty() && found.refused.is_empty());
        let default = change(&config(&[("onboot", "0")]), None, &has).unwrap();
        assert_eq!((default.set.len(), default.delete), (0, BTreeSet::from(["onboot".to_owned()])));
    }

    #[test]
    fn disks_grow_by_themselves_and_are_never_made_twice_moved_or_detached() {
        let has = live(&[("scsi0", "local-lvm:vm-101-disk-0,size=8G,ssd=1"), ("scsi1", "local-lvm:vm-101-disk-1,size=8G")]);
        let grown = change(&config(&[("scsi0", "local-lvm:16,ssd=1")]), None, &has).unwrap();
        assert_eq!(grown.grow, BTreeMap::from([("scsi0".to_owned(), 16 << 30)]));
        assert!(grown.set.is_empty(), "{grown:?}");
        let both = change(&config(&[("scsi0", "local-lvm:16,ssd=1,discard=on")]), None, &has).unwrap();
        assert_eq!(both.set, config(&[("scsi0", "local-lvm:vm-101-disk-0,discard=on,size=8G,ssd=1")]));
        assert_eq!(both.grow.len(), 1);
        let moved = change(&config(&[("scsi0", "other:8,ssd=1")]), None, &has).unwrap();
        assert!(moved.is_empty() && moved.refused["scsi0"].contains("another volume"), "{moved:?}");
        let dropped = change(&Config::new(), Some(&config(&[("scsi1", "local-lvm:8"), ("scsi2", "local-lvm:8")])), &has).unwrap();
        assert!(dropped.is_empty() && dropped.refused.keys().eq(["scsi1"]), "{dropped:?}");
        let new = change(&config(&[("scsi2", "local-lvm:4")]), None, &has).unwrap();
        assert_eq!(new.set, config(&[("scsi2", "local-lvm:4")]));
    }

    #[test]
    fn discs_are_put_in_and_taken_out_as_the_file_says_and_disks_never_become_discs() {
        let has = live(&[
            ("ide0", "local-lvm:vm-101-disk-0,size=8G"),
            ("ide2", "local:iso/a.iso,media=cdrom,size=600M"),
            ("ide3", "local-lvm:vm-101-cloudinit,media=cdrom,size=4M"),
        ]);
        for (key, wanted, sent) in [
            ("ide2", "none,media=cdrom", "none,media=cdrom"),
            ("ide2", "local:iso/b.iso,media=cdrom", "local:iso/b.iso,media=cdrom"),
            ("ide2", "local-lvm:cloudinit", "local-lvm:cloudinit"),
            ("ide3", "none", "none,media=cdrom"),
        ] {
            let found = change(&config(&[(key, wanted)]), None, &has).unwrap();
            assert_eq!(found, ConfigChange { set: config(&[(key, sent)]), ..ConfigChange::default() }, "{wanted}");
        }
        for met in ["local:iso/a.iso,media=cdrom", "local:iso/a.iso,media=cdrom,size=700M"] {
            assert_eq!(change(&config(&[("ide2", met)]), None, &has).unwrap(), ConfigChange::default(), "{met}");
        }
        let others =
            [("ide2", "local:8"), ("ide2", "local:iso/a.iso"), ("ide3", "local-lvm:4"), ("ide0", "none"), ("ide0", "local-lvm:cloudinit")];
        for (key, other) in others {
            let found = change(&config(&[(key, other)]), None, &has).unwrap();
            assert!(found.is_empty() && found.refused[key].contains("another volume"), "{key} {other}: {found:?}");
        }
        let applied = config(&[("ide0", "local-lvm:8"), ("ide2", "local:iso/a.iso,media=cdrom"), ("ide3", "local-lvm:cloudinit")]);
        let dropped = change(&Config::new(), Some(&applied), &has).unwrap();
        assert_eq!(dropped.delete, BTreeSet::from(["ide2".to_owned(), "ide3".to_owned()]));
        assert!(dropped.refused.keys().eq(["ide0"]) && dropped.set.is_empty(), "{dropped:?}");
    }

    #[test]
    fn what_every_container_has_is_set_to_its_default_and_never_taken_out() {
        let has = GuestConfig {
            kind: GuestKind::Lxc,
            ..live(&[("memory", "2048"), ("swap", "1024"), ("rootfs", "local-lvm:vm-1-disk-0,size=4G")])
        };
        let found = change(&config(&[("memory", "512"), ("swap", "512")]), None, &has).unwrap();
        assert_eq!((found.set, found.delete), (config(&[("memory", "512")]), BTreeSet::from(["swap".to_owned()])));
        let applied = config(&[("memory", "2048"), ("rootfs", "local-lvm:4")]);
        assert_eq!(change(&Config::new(), Some(&applied), &has).unwrap(), ConfigChange::default(), "what is named no more stays as it is");
    }

    #[test]
    fn what_a_host_sizes_itself_never_grows() {
        let has = live(&[
            ("efidisk0", "local-lvm:vm-101-disk-0,efitype=4m,ms-cert=2023k,pre-enrolled-keys=1,size=4M"),
            ("tpmstate0", "local-lvm:vm-101-disk-1,size=4M,version=v2.0"),
        ]);
        for (efi, tpm) in [
            ("local-lvm:1,efitype=4m,pre-enrolled-keys=1", "local-lvm:1,version=v2.0"),
            ("local-lvm:0,efitype=4m,pre-enrolled-keys=1", "local-lvm:vm-101-disk-1,version=v2.0,size=1G"),
        ] {
            let wanted = config(&[("efidisk0", efi), ("tpmstate0", tpm)]);
            assert_eq!(change(&wanted, None, &has).unwrap(), ConfigChange::default(), "{efi} {tpm}");
        }
        let other = change(&config(&[("efidisk0", "local-lvm:1,efitype=4m")]), None, &has).unwrap();
        let sent = config(&[("efidisk0", "local-lvm:vm-101-disk-0,efitype=4m,ms-cert=2023k,size=4M")]);
        assert_eq!(other, ConfigChange { set: sent, ..ConfigChange::default() });
    }

    #[test]
    fn who_a_guest_is_stays_whatever_the_file_says() {
        const UUID: &str = "uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e";
        let has = live(&[("smbios1", &format!("{UUID},serial=1")), ("vmgenid", "0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e")]);
        let named = config(&[("smbios1", "manufacturer=Shop")]);
        let sent = config(&[("smbios1", &format!("manufacturer=Shop,{UUID}"))]);
        assert_eq!(change(&named, None, &has).unwrap(), ConfigChange { set: sent, ..ConfigChange::default() });
        // Once named and dropped: what was said goes, the id stays; and what only the host says was never ours.
        let applied = config(&[("smbios1", "serial=1"), ("vmgenid", "1")]);
        let dropped = change(&Config::new(), Some(&applied), &has).unwrap();
        assert_eq!(dropped, ConfigChange { set: config(&[("smbios1", UUID)]), ..ConfigChange::default() });
        let plain = live(&[("smbios1", UUID)]);
        for (wanted, applied) in [(&Config::new(), Some(&applied)), (&config(&[("smbios1", "")]), None)] {
            assert_eq!(change(wanted, applied, &plain).unwrap(), ConfigChange::default());
        }
        let nameless = live(&[("smbios1", "serial=1")]);
        assert_eq!(change(&Config::new(), Some(&applied), &nameless).unwrap(), ConfigChange::default(), "it is never taken out");
        for (other, has) in [("uuid=6E3C4AF2-7D60-4C8E-8F2A-000000000000", &has), (UUID, &nameless)] {
            let refused = change(&config(&[("smbios1", other)]), None, has).unwrap();
            assert!(refused.is_empty() && refused.refused["smbios1"].contains("`uuid`, which can only be said"), "{refused:?}");
        }
        let same = config(&[("smbios1", "serial=1,uuid=6E3C4AF2-7D60-4C8E-8F2A-0F6A1D6F9B7E")]);
        assert_eq!(change(&same, None, &has).unwrap(), ConfigChange::default());
    }

    #[test]
    fn what_no_host_shows_is_sent_when_the_file_says_otherwise_than_before() {
        let has = live(&[("cipassword", "**********")]);
        let wanted = config(&[("cipassword", "$6$salt$new")]);
        assert!(change(&wanted, Some(&wanted), &has).unwrap().is_empty());
        assert_eq!(change_given(&wanted, Some(&wanted), &has, false).unwrap().set, wanted, "whatever the host shows");
        let container = GuestConfig { kind: GuestKind::Lxc, ..live(&[("unprivileged", "1")]) };
        let fixed = change(&config(&[("unprivileged", "0")]), None, &container).unwrap();
        assert!(fixed.is_empty() && fixed.refused["unprivileged"].contains("when the guest is made"));
        // A host keeps no line for a privileged one.
        let privileged = GuestConfig { kind: GuestKind::Lxc, ..live(&[("hostname", "cache")]) };
        assert_eq!(change(&config(&[("unprivileged", "0")]), None, &privileged).unwrap(), ConfigChange::default());
        assert!(change(&config(&[("unprivileged", "1")]), None, &privileged).unwrap().refused.contains_key("unprivileged"));
    }

    #[test]
    fn what_waits_for_a_start_is_told_apart_from_what_differs() {
        let mut has = live(&[("memory", "2048"), ("cores", "2"), ("tags", "a")]);
        has.running = BTreeMap::from([
            ("memory".to_owned(), Some("1024".to_owned())),
            ("cores".to_owned(), Some("2".to_owned())),
            ("kvm".to_owned(), None),
        ]);
        assert!(change(&config(&[("memory", "2048")]), None, &has).unwrap().is_empty());
        assert_eq!(pending(&has), BTreeSet::from(["memory"]));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let wrong = check(GuestKind::Qemu, &config(&[("cores", "0"), ("args", "-cpu host"), ("name", "db"), ("nett0", "x")])).unwrap_err();
        assert_eq!(wrong.keys().collect::<Vec<_>>(), ["args", "cores", "nett0"]);
        assert_eq!(check(GuestKind::Qemu, &config(&[("name", "db")])), Ok(()));
    }
}
