//! The keys of guests' configs that a topology may name, and what their values are.
//!
//! Source: the API pages `PUT /nodes/{node}/qemu/{vmid}/config` and `PUT /nodes/{node}/lxc/{vmid}/config`.

use super::property::Format;
use super::scalar::Wrong;
use super::{formats, forms};

/// What kind of guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl GuestKind {
    /// The word in files and in paths of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            GuestKind::Qemu => "qemu",
            GuestKind::Lxc => "lxc",
        }
    }
}

/// What the values of a key are, and so when two of them mean the same.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Yes or no; what it is when it is left out.
    Bool(Option<bool>),
    /// A whole number from and to; what it is when it is left out.
    Int(i64, i64, Option<i64>),
    /// A share of the processor's time, which a host brings within 1 to 10000.
    CpuUnits,
    /// A number with a fraction up to a bound; what it is when it is left out.
    Number(u32, Option<&'static str>),
    /// One of these words; what it is when it is left out.
    Word(&'static [&'static str], Option<&'static str>),
    /// Any text on one line; what it is when it is left out.
    Text(Option<&'static str>),
    /// A name as in DNS.
    DnsName,
    /// A text of several lines.
    Description,
    /// A set of words.
    Tags,
    /// Public keys, one a line; hosts have them percent-encoded.
    SshKeys,
    /// A password's hash, which hosts never show.
    PasswordHash,
    /// Pairs.
    Props(&'static Format),
    /// A volume with options.
    Volume(&'static Format),
    /// A network card: pairs, and an address under this key that a host makes up where none is given.
    Card(&'static Format, &'static str),
    /// Who the guest is: pairs, of which the one under this key stays from its making on, and is made up where none is given.
    Identity(&'static Format, &'static str),
}

/// A key, or a family of them with a number behind.
#[derive(Debug)]
pub struct Key {
    /// Its name, without the number.
    pub name: &'static str,
    /// How many there are of it, numbered from 0; `None` for one without a number.
    pub count: Option<u16>,
    /// Its values.
    pub shape: Shape,
    /// Whether it can only be said when the guest is made.
    pub is_fixed: bool,
    /// Whether every guest has it: a host never takes it out.
    pub is_required: bool,
    /// Pairs of its format that it has not.
    pub lacks: &'static [&'static str],
    /// What else its values have to be.
    pub form: fn(&str) -> Result<(), Wrong>,
}

impl Key {
    const fn lacking(self, lacks: &'static [&'static str]) -> Self {
        Self { lacks, ..self }
    }

    const fn formed(self, form: fn(&str) -> Result<(), Wrong>) -> Self {
        Self { form, ..self }
    }

    /// Whether a guest keeps it, whatever its value.
    #[must_use]
    pub const fn stays(&self) -> bool {
        self.is_required || matches!(self.shape, Shape::Identity(..))
    }
}

const fn one(name: &'static str, shape: Shape) -> Key {
    Key { name, count: None, shape, is_fixed: false, is_required: false, lacks: &[], form: forms::any }
}

const fn many(name: &'static str, count: u16, shape: Shape) -> Key {
    Key { count: Some(count), ..one(name, shape) }
}

const fn fixed(name: &'static str, shape: Shape) -> Key {
    Key { is_fixed: true, ..one(name, shape) }
}

const fn required(name: &'static str, shape: Shape) -> Key {
    Key { is_required: true, ..one(name, shape) }
}

const YES: Shape = Shape::Bool(Some(true));
const NO: Shape = Shape::Bool(Some(false));
const ANY: Shape = Shape::Text(None);
const MOST: i64 = i64::MAX;

static QEMU: &[Key] = &[
    one("acpi", YES),
    one("agent", Shape::Props(&formats::AGENT)),
    one("allow-ksm", YES),
    one("audio0", Shape::Props(&formats::AUDIO)),
    one("autostart", NO),
    one("balloon", Shape::Int(0, MOST, None)),
    one("bios", Shape::Word(&["seabios", "ovmf"], Some("seabios"))),
    one("boot", Shape::Props(&formats::BOOT)),
    one("cicustom", ANY),
    one("cipassword", Shape::PasswordHash),
    one("citype", Shape::Word(&["configdrive2", "nocloud", "opennebula"], None)),
    one("ciupgrade", YES),
    one("ciuser", ANY),
    one("cores", Shape::Int(1, MOST, Some(1))),
    one("cpu", Shape::Props(&formats::CPU)),
    one("cpulimit", Shape::Number(128, Some("0"))),
    one("cpuunits", Shape::CpuUnits).formed(forms::machine_share),
    one("description", Shape::Description),
    one("efidisk0", Shape::Volume(&formats::EFI_DISK)),
    one("freeze", Shape::Bool(Some(false))),
    many("hostpci", 16, Shape::Props(&formats::HOST_PCI)),
    one("hotplug", Shape::Text(Some("network,disk,usb"))).formed(forms::hotplug),
    many("ide", 4, Shape::Volume(&formats::DRIVE)).lacking(&["iothread", "ro", "queues", "product", "vendor", "scsiblock"]),
    many("ipconfig", 32, Shape::Props(&formats::IP_CONFIG)),
    one(
        "keyboard",
        Shape::Word(
            &[
                "de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu", "is", "it", "ja", "lt", "mk",
                "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr",
            ],
            None,
        ),
    ),
    one("kvm", YES),
    one("localtime", Shape::Bool(None)),
    one("machine", Shape::Props(&formats::MACHINE)),
    one("memory", Shape::Props(&formats::MEMORY)),
    one("migrate_downtime", Shape::Number(u32::MAX, Some("0.1"))),
    one("migrate_speed", Shape::Int(0, MOST, Some(0))),
    one("name", Shape::DnsName),
    one("nameserver", ANY),
    many("net", 32, Shape::Card(&formats::CARDS, "macaddr")),
    one("numa", NO),
    many("numa", 8, Shape::Props(&formats::NUMA)),
    one("onboot", NO),
    one(
        "ostype",
        Shape::Word(
            &["other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26", "solaris"],
            Some("other"),
        ),
    ),
    one("protection", NO),
    one("reboot", YES),
    one("rng0", Shape::Props(&formats::RANDOM)),
    many("sata", 6, Shape::Volume(&formats::DRIVE)).lacking(&["model", "iothread", "ro", "queues", "product", "vendor", "scsiblock"]),
    many("scsi", 31, Shape::Volume(&formats::DRIVE)).lacking(&["model"]),
    one("scsihw", Shape::Word(&["lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"], Some("lsi"))),
    one("searchdomain", ANY),
    many("serial", 4, Shape::Word(&["socket"], None)),
    one("shares", Shape::Int(0, 50_000, Some(1000))),
    one("smbios1", Shape::Identity(&formats::SMBIOS, "uuid")),
    one("sockets", Shape::Int(1, MOST, Some(1))),
    one("sshkeys", Shape::SshKeys),
    one("startdate", Shape::Text(Some("now"))).formed(forms::start_date),
    one("startup", Shape::Props(&formats::STARTUP)),
    one("tablet", YES),
    one("tags", Shape::Tags),
    one("tdf", NO),
    one("tpmstate0", Shape::Volume(&formats::TPM_STATE)),
    many("usb", 14, Shape::Props(&formats::USB)),
    one("vcpus", Shape::Int(1, MOST, None)),
    one("vga", Shape::Props(&formats::DISPLAY)),
    many("virtio", 16, Shape::Volume(&formats::DRIVE)).lacking(&["model", "queues", "product", "vendor", "scsiblock", "ssd", "wwn"]),
    many("virtiofs", 10, Shape::Props(&formats::SHARED_FOLDER)),
    one("vmstatestorage", ANY).formed(forms::storage),
    one("watchdog", Shape::Props(&formats::WATCHDOG)),
];

static LXC: &[Key] = &[
    fixed("arch", Shape::Word(&["amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"], None)),
    one("cmode", Shape::Word(&["shell", "console", "tty"], Some("tty"))),
    one("console", YES),
    one("cores", Shape::Int(1, 8192, None)),
    one("cpulimit", Shape::Number(8192, Some("0"))),
    one("cpuunits", Shape::CpuUnits).formed(forms::container_share),
    one("debug", NO),
    one("description", Shape::Description),
    one("entrypoint", Shape::Text(Some("/sbin/init"))).formed(forms::command),
    one("features", Shape::Props(&formats::FEATURES)),
    one("hostname", Shape::DnsName),
    required("memory", Shape::Int(16, MOST, Some(512))),
    many("mp", 256, Shape::Volume(&formats::MOUNT)),
    one("nameserver", ANY).formed(forms::name_servers),
    many("net", 32, Shape::Card(&formats::INTERFACES, "hwaddr")),
    one("onboot", NO),
    fixed(
        "ostype",
        Shape::Word(
            &["debian", "devuan", "ubuntu", "centos", "fedora", "opensuse", "archlinux", "alpine", "gentoo", "nixos", "unmanaged"],
            None,
        ),
    ),
    one("protection", NO),
    required("rootfs", Shape::Volume(&formats::ROOT)),
    one("searchdomain", ANY).formed(forms::domains),
    one("startup", Shape::Props(&formats::STARTUP)),
    one("swap", Shape::Int(0, MOST, Some(512))),
    one("tags", Shape::Tags),
    one("timezone", ANY),
    one("tty", Shape::Int(0, 6, Some(2))),
    // Of a config that is there: the call that makes one has another default.
    fixed("unprivileged", NO),
];

/// Why a key of Proxmox VE's own is none of a topology's.
const ROOT: &str = "only root on the host itself may set it, and no API token";
const ELSEWHERE: &str = "it is no setting: operations and the state of the guest are ordered otherwise";
const BOTH: &[(&str, &str)] = &[
    ("lock", "Proxmox VE sets it while it works on the guest"),
    ("template", ELSEWHERE),
    ("digest", ELSEWHERE),
    ("delete", "leave the key out of the file instead"),
    ("revert", ELSEWHERE),
    ("unused", "Proxmox VE names so what was detached: attach it under another key, or remove it there"),
];
const QEMU_REFUSED: &[(&str, &str)] = &[
    ("affinity", ROOT),
    ("arch", ROOT),
    ("args", ROOT),
    ("hookscript", ROOT),
    ("hugepages", ROOT),
    ("ivshmem", ROOT),
    ("keephugepages", ROOT),
    ("parallel", ROOT),
    ("spice_enhancements", ROOT),
    ("vmgenid", "Proxmox VE makes it, and anew whenever the guest's content becomes another one"),
    ("skiplock", ROOT),
    ("amd-sev", "write it on the host itself: Moorline does not know its values"),
    ("intel-tdx", "write it on the host itself: Moorline does not know its values"),
    ("bootdisk", "write `boot: order=…`"),
    ("cdrom", "write `ide2: …,media=cdrom`"),
    ("smp", "write `cores` and `sockets`"),
    ("force", ELSEWHERE),
];
const LXC_REFUSED: &[(&str, &str)] = &[
    ("dev", ROOT),
    ("env", "write it on the host itself: its values are parted by bytes that no file shows"),
    ("hookscript", ROOT),
    ("lxc", ROOT),
];

/// What is known of a key.
///
/// # Errors
/// Why it is none of a topology's.
pub fn find(kind: GuestKind, key: &str) -> Result<&'static Key, String> {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = key.get(stem.len()..).filter(|digits| !digits.is_empty());
    let keys = match kind {
        GuestKind::Qemu => QEMU,
        GuestKind::Lxc => LXC,
    };
    if let Some(found) = keys.iter().find(|known| known.name == key && known.count.is_none()) {
        return Ok(found);
    }
    let family = keys.iter().find(|known| known.name == stem && known.count.is_some());
    if let (Some(found), Some(digits)) = (family, number) {
        let most = found.count.unwrap_or_default().saturating_sub(1);
        let is_plain = digits == "0" || !digits.starts_with('0');
        if is_plain && digits.parse::<u16>().is_ok_and(|n| n <= most) {
            return Ok(found);
        }
        return Err(format!("`{stem}` goes from {stem}0 to {stem}{most}"));
    }
    match refusal(kind, key) {
        Some(why) => Err(why.to_owned()),
        None => Err(match family {
            Some(_) => format!("it has a number: `{stem}0`"),
            None => format!("it is no key of a {}", if kind == GuestKind::Qemu { "virtual machine" } else { "container" }),
        }),
    }
}

/// Why a key that Proxmox VE has is none of a topology's; `None` for any other.
#[must_use]
pub fn refusal(kind: GuestKind, key: &str) -> Option<&'static str> {
    let refused = match kind {
        GuestKind::Qemu => QEMU_REFUSED,
        GuestKind::Lxc => LXC_REFUSED,
    };
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    BOTH.iter().chain(refused).find(|(name, _)| *name == key || *name == stem).map(|(_, why)| *why)
}

/// Whether a text of this key is a list of words with spaces between.
#[must_use]
pub fn is_list(key: &str) -> bool {
    matches!(key, "nameserver" | "searchdomain")
}

/// The key whose text may also be yes or no.
pub const HOTPLUG: &str = "hotplug";

/// Every key that a topology may name, with the first of each family.
pub fn all(kind: GuestKind) -> impl Iterator<Item = (String, &'static Key)> {
    let keys = match kind {
        GuestKind::Qemu => QEMU,
        GuestKind::Lxc => LXC,
    };
    keys.iter().map(|key| (if key.count.is_some() { format!("{}0", key.name) } else { key.name.to_owned() }, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_names_and_numbers() {
        for (kind, key) in [
            (GuestKind::Qemu, "scsi0"),
            (GuestKind::Qemu, "scsi30"),
            (GuestKind::Qemu, "numa"),
            (GuestKind::Qemu, "numa1"),
            (GuestKind::Qemu, "smbios1"),
            (GuestKind::Qemu, "efidisk0"),
            (GuestKind::Lxc, "mp255"),
            (GuestKind::Lxc, "rootfs"),
        ] {
            assert!(find(kind, key).is_ok(), "{key}");
        }
        for (kind, key, says) in [
            (GuestKind::Qemu, "scsi31", "scsi0 to scsi30"),
            (GuestKind::Qemu, "scsi01", "scsi0 to scsi30"),
            (GuestKind::Qemu, "net", "`net0`"),
            (GuestKind::Qemu, "args", "only root"),
            (GuestKind::Qemu, "unused0", "detached"),
            (GuestKind::Qemu, "hostname", "no key of a virtual machine"),
            (GuestKind::Qemu, "lock", "while it works"),
            (GuestKind::Lxc, "dev0", "only root"),
            (GuestKind::Lxc, "hookscript", "only root"),
            (GuestKind::Lxc, "scsi0", "no key of a container"),
        ] {
            let why = find(kind, key).unwrap_err();
            assert!(why.contains(says), "{key}: {why}");
        }
    }
}
