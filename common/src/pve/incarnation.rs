//! Which one of those guests that have borne a number a guest is.
//!
//! A virtual machine bears a UUID in its SMBIOS, which stays, and a generation id, which is made anew whenever its content becomes
//! another one (a rollback, a restore, a clone). A container bears neither: it is told by its root volume and when that was made, or by a network card where storages do not tell that.
//! Source: `PVE::QemuServer`, on `smbios1` and `vmgenid`.

use super::formats;
use super::guest::Config;
use super::keys::GuestKind;
use super::property::Whose;

/// The incarnation of a virtual machine by its config; `None` when it bears no ids.
#[must_use]
pub fn of_machine(config: &Config) -> Option<String> {
    let smbios = config.get("smbios1").and_then(|text| formats::SMBIOS.read(text, Whose::Theirs).ok());
    let uuid = smbios.and_then(|props| props.get("uuid").cloned()).filter(|uuid| is_uuid(uuid));
    let generation = config.get("vmgenid").map(|text| text.trim().to_owned()).filter(|id| is_uuid(id));
    let part = |id: Option<&String>| id.map_or_else(|| NONE.to_owned(), |id| id.to_ascii_lowercase());
    let is_any = uuid.is_some() || generation.is_some();
    is_any.then(|| format!("vm:{}:{}", part(uuid.as_ref()), part(generation.as_ref())))
}

/// The incarnation of a container by its root volume, and when that was made, in seconds since 1970.
#[must_use]
pub fn of_container(root: &str, made_s: u64) -> String {
    format!("ct:{root}@{made_s}")
}

/// The incarnation of a container whose storage does not tell when a volume was made: by its root volume, and the hardware address of its
/// first network card. One that is made anew gets another address, unless somebody gives it the same.
#[must_use]
pub fn of_undated_container(root: &str, config: &Config) -> String {
    let cards = config.iter().filter(|(key, _)| key.strip_prefix("net").is_some_and(|n| n.parse::<u8>().is_ok()));
    let first = cards.filter_map(|(_, text)| formats::INTERFACES.read(text, Whose::Theirs).ok()?.get("hwaddr").cloned()).next();
    let address = first.map(|text| text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase());
    format!("ct:{root}@{MAC}{}", address.unwrap_or_default())
}

/// Before a hardware address, where another container has a time.
const MAC: &str = "mac-";
const NONE: &str = "-";

/// What of an incarnation stays as long as the guest is the same one, whatever its content.
#[must_use]
pub fn lasting(incarnation: &str) -> &str {
    let Some(rest) = incarnation.strip_prefix("vm:") else { return incarnation };
    match rest.split_once(':') {
        Some((uuid, _)) if uuid != NONE => incarnation.get(.."vm:".len() + uuid.len()).unwrap_or(incarnation),
        Some(_) | None => incarnation,
    }
}

/// Whether `text` is one that a guest of this kind can have.
#[must_use]
pub fn is_one(kind: GuestKind, text: &str) -> bool {
    match kind {
        GuestKind::Qemu => {
            let parts: Vec<&str> = text.strip_prefix("vm:").unwrap_or_default().split(':').collect();
            let id = |part: &str| part == NONE || is_uuid(part);
            match parts[..] {
                [uuid] => is_uuid(uuid),
                [uuid, generation] => id(uuid) && id(generation) && (uuid, generation) != (NONE, NONE),
                _ => false,
            }
        }
        GuestKind::Lxc => {
            let parts = text.strip_prefix("ct:").and_then(|rest| rest.rsplit_once('@'));
            let is_address = |text: &str| text.is_empty() || (text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit()));
            let is_made = |made: &str| made.strip_prefix(MAC).map_or_else(|| made.parse::<u64>().is_ok(), is_address);
            parts.is_some_and(|(root, made)| root.contains(':') && is_made(made))
        }
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e";
    const OTHER: &str = "0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e";

    fn config(pairs: &[(&str, String)]) -> Config {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), text.clone())).collect()
    }

    #[test]
    fn a_machine_stays_the_same_one_through_a_rollback_and_is_another_incarnation() {
        let smbios = ("smbios1", format!("base64=1,uuid={}", UUID.to_uppercase()));
        let before = of_machine(&config(&[smbios.clone(), ("vmgenid", UUID.to_owned())])).unwrap();
        let after = of_machine(&config(&[smbios, ("vmgenid", OTHER.to_owned())])).unwrap();
        assert_eq!(before, format!("vm:{UUID}:{UUID}"));
        assert_ne!(before, after);
        assert_eq!((lasting(&before), lasting(&after)), (format!("vm:{UUID}").as_str(), format!("vm:{UUID}").as_str()));
        let older = of_machine(&config(&[("vmgenid", UUID.to_owned())])).unwrap();
        assert_eq!(lasting(&older), older, "there is nothing else to tell it by");
        assert_eq!(of_machine(&config(&[("vmgenid", "0".to_owned())])), None);
    }

    #[test]
    fn a_container_is_told_by_its_root_volume() {
        let text = of_container("local-lvm:vm-205-disk-0", 1_732_351_234);
        assert_eq!(lasting(&text), text);
        assert!(is_one(GuestKind::Lxc, &text) && !is_one(GuestKind::Qemu, &text));
        let on_zfs = |net: &str| of_undated_container("local-zfs:subvol-205-disk-0", &config(&[("net0", net.to_owned())]));
        let undated = on_zfs("name=eth0,bridge=vmbr0,hwaddr=BC:24:11:C3:4D:0B,ip=dhcp");
        assert_eq!(undated, "ct:local-zfs:subvol-205-disk-0@mac-bc2411c34d0b");
        assert_ne!(undated, on_zfs("name=eth0,bridge=vmbr0,hwaddr=BC:24:11:C3:4D:0C,ip=dhcp"), "one that was made anew");
        let without = of_undated_container("local-zfs:subvol-205-disk-0", &Config::new());
        assert!([&undated, &without].into_iter().all(|text| is_one(GuestKind::Lxc, text) && lasting(text) == text));
        for good in [format!("vm:{UUID}"), format!("vm:{UUID}:{OTHER}"), format!("vm:-:{OTHER}"), format!("vm:{UUID}:-")] {
            assert!(is_one(GuestKind::Qemu, &good), "{good}");
        }
        for bad in ["", "vm:", "vm:-:-", "101", UUID, "ct:root@soon", "ct:@1", "ct:a:b@mac-xyz"] {
            assert!(!is_one(GuestKind::Qemu, bad) && !is_one(GuestKind::Lxc, bad), "{bad}");
        }
    }
}
