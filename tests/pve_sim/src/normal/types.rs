//! What a key's value is, and how it is written into JSON.
//!
//! Source: `PVE::QemuServer::check_type`, `PVE::LXC::Config::check_type`; which key is what: the API's description.

use serde_json::{Value, json};

use super::drive::split;
use super::property::flag;
use crate::world::guest::Kind;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Yes or no: 1 or 0, as numbers.
    Flag,
    /// A whole number.
    Int,
    /// A number that Perl never counts with, and that so stays a text.
    Number,
    /// A text.
    Text,
}

/// The type of a key; nothing for a key that no guest of this kind has.
#[must_use]
pub fn of(kind: Kind, key: &str) -> Option<Type> {
    let (stem, number) = split(key);
    let family = number.is_some().then_some(stem);
    match kind {
        Kind::Qemu => machine(key, family),
        Kind::Lxc => container(key, family),
    }
}

fn machine(key: &str, family: Option<&str>) -> Option<Type> {
    Some(match key {
        "acpi" | "allow-ksm" | "autostart" | "ciupgrade" | "freeze" | "keephugepages" | "kvm" | "localtime" | "numa" | "onboot"
        | "protection" | "reboot" | "tablet" | "tdf" | "template" => Type::Flag,
        "balloon" | "cores" | "cpuunits" | "migrate_speed" | "shares" | "smp" | "sockets" | "vcpus" | "snaptime" => Type::Int,
        "cpulimit" | "migrate_downtime" => Type::Number,
        "affinity"
        | "agent"
        | "amd-sev"
        | "arch"
        | "args"
        | "audio0"
        | "bios"
        | "boot"
        | "bootdisk"
        | "cdrom"
        | "cicustom"
        | "cipassword"
        | "citype"
        | "ciuser"
        | "cpu"
        | "description"
        | "efidisk0"
        | "hookscript"
        | "hotplug"
        | "hugepages"
        | "intel-tdx"
        | "ivshmem"
        | "keyboard"
        | "lock"
        | "machine"
        | "memory"
        | "meta"
        | "name"
        | "nameserver"
        | "ostype"
        | "parent"
        | "rng0"
        | "running-nets-host-mtu"
        | "runningcpu"
        | "runningmachine"
        | "scsihw"
        | "searchdomain"
        | "smbios1"
        | "snapstate"
        | "spice_enhancements"
        | "sshkeys"
        | "startdate"
        | "startup"
        | "tags"
        | "tpmstate0"
        | "vga"
        | "vmgenid"
        | "vmstate"
        | "vmstatestorage"
        | "watchdog" => Type::Text,
        _ => match family {
            Some(
                "hostpci" | "ide" | "ipconfig" | "net" | "numa" | "parallel" | "sata" | "scsi" | "serial" | "unused" | "usb" | "virtio"
                | "virtiofs",
            ) => Type::Text,
            Some(_) | None => return None,
        },
    })
}

fn container(key: &str, family: Option<&str>) -> Option<Type> {
    Some(match key {
        "console" | "debug" | "onboot" | "protection" | "template" | "unprivileged" => Type::Flag,
        "cores" | "cpuunits" | "memory" | "swap" | "tty" | "snaptime" => Type::Int,
        "cpulimit" => Type::Number,
        "arch" | "cmode" | "description" | "entrypoint" | "env" | "features" | "hookscript" | "hostname" | "lock" | "nameserver"
        | "ostype" | "parent" | "rootfs" | "searchdomain" | "snapstate" | "startup" | "tags" | "timezone" => Type::Text,
        _ => match family {
            Some("dev" | "mp" | "net" | "unused") => Type::Text,
            Some(_) | None => return None,
        },
    })
}

/// A value as the config's file has it: spellings of yes and no become 1 and 0, a text loses the quotes around it and the white space at
/// its end.
///
/// # Errors
/// When it is not of that type.
pub fn kept(kind: Kind, key: &str, value: &str) -> Result<String, String> {
    match of(kind, key) {
        Some(Type::Flag) => match flag(value).as_str() {
            flag @ ("0" | "1") => Ok(flag.to_owned()),
            _ => Err(format!("type check ('boolean') failed - got '{value}'")),
        },
        Some(Type::Int) => {
            value.parse::<i64>().map(|n| n.to_string()).map_err(|_| format!("type check ('integer') failed - got '{value}'"))
        }
        Some(Type::Number) => {
            let is_number = value.parse::<f64>().is_ok_and(f64::is_finite);
            if is_number { Ok(value.to_owned()) } else { Err(format!("type check ('number') failed - got '{value}'")) }
        }
        Some(Type::Text) if key == "description" => Ok(value.to_owned()),
        Some(Type::Text) => {
            let text = value.trim_end();
            // Only a value without a format of its own; those are all texts of which a person may think that they need quotes.
            let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            Ok(unquoted.filter(|_| kind == Kind::Qemu).unwrap_or(text).to_owned())
        }
        None => Err("property is not defined in schema and the schema does not allow additional properties".to_owned()),
    }
}

/// The same in JSON.
#[must_use]
pub fn json(kind: Kind, key: &str, value: &str) -> Value {
    match of(kind, key) {
        Some(Type::Flag | Type::Int) => value.parse::<i64>().map_or_else(|_| json!(value), |n| json!(n)),
        Some(Type::Number | Type::Text) | None => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_by_their_type() {
        assert_eq!(kept(Kind::Qemu, "onboot", "yes"), Ok("1".to_owned()));
        assert_eq!(kept(Kind::Qemu, "name", "\"db\"  "), Ok("db".to_owned()));
        assert_eq!(kept(Kind::Lxc, "memory", "0512"), Ok("512".to_owned()));
        assert!(kept(Kind::Qemu, "cores", "four").unwrap_err().contains("'integer'"));
        assert!(kept(Kind::Lxc, "bios", "ovmf").unwrap_err().contains("not defined"));
        assert!(kept(Kind::Qemu, "net7", "virtio").is_ok());
        assert_eq!(json(Kind::Qemu, "memory", "2048"), serde_json::json!("2048"));
        assert_eq!(json(Kind::Lxc, "memory", "2048"), serde_json::json!(2048));
        assert_eq!(json(Kind::Lxc, "cpulimit", "1.5"), serde_json::json!("1.5"));
    }
}
