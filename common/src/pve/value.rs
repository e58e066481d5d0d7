//! When two values of a guest's config mean the same, and how a wanted one is written.
//!
//! A host gives many values back otherwise than it was given them: sorted, completed, decoded. Each kind of value has its normal form
//! here, so that what was written and is read back is never a difference.

use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::keys::{Key, Shape};
use super::property::{Format, Props, Whose};
use super::scalar::{self, Wrong};
use super::volume::Volume;
use super::{names, tags};

/// The normal form of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normal {
    /// A text.
    Text(String),
    /// A set of words.
    Set(BTreeSet<String>),
    /// Pairs.
    Props(Props),
    /// A volume with its options.
    Volume(Volume),
    /// Any value at all: the wanted one leaves it to the host, or the host does not show it.
    Any,
}

/// The normal form of `text`; `None` when it says what holds anyway.
///
/// # Errors
/// [`Wrong`] when `text` is an operator's and no value of this shape. What a host says is always taken, as it stands if need be.
pub fn normal(shape: Shape, text: &str, whose: Whose) -> Result<Option<Normal>, Wrong> {
    match (read(shape, text, whose), whose) {
        (Err(_), Whose::Theirs) => Ok(Some(Normal::Text(text.trim().to_owned()))),
        (read, _) => read,
    }
}

fn read(shape: Shape, text: &str, whose: Whose) -> Result<Option<Normal>, Wrong> {
    // Hosts strip quotes around values, and white space at their ends.
    let plain = text.trim();
    let but_for = |value: String, default: Option<&str>| (default != Some(value.as_str())).then_some(Normal::Text(value));
    Ok(match shape {
        Shape::Bool(default) => {
            let yes = scalar::boolean(plain)?;
            (default != Some(yes)).then(|| Normal::Text(scalar::flag(yes).to_owned()))
        }
        Shape::Int(from, to, default) => {
            let n = scalar::integer(plain, from, to)?;
            (default != Some(n)).then(|| Normal::Text(n.to_string()))
        }
        Shape::CpuUnits => Some(Normal::Text(scalar::integer(plain, 0, i64::MAX)?.clamp(1, 10_000).to_string())),
        Shape::Number(most, default) => {
            let value = scalar::number(plain)?;
            let whole = value.split('.').next().unwrap_or_default();
            if whole.parse::<u32>().map_or(true, |n| n > most || (n == most && value.contains('.'))) {
                return Err(Wrong::new(format!("{value} is out of bounds: it is at most {most}")));
            }
            but_for(value, default)
        }
        Shape::Word(words, default) => but_for(scalar::word(plain, words)?, default),
        Shape::Text(default) => {
            if plain.contains('\n') {
                return Err(Wrong::new("it has several lines, and one is all that a host keeps"));
            }
            (!plain.is_empty()).then(|| but_for(plain.to_owned(), default)).flatten()
        }
        Shape::DnsName => {
            if whose == Whose::Ours {
                names::dns(plain)?;
            }
            Some(Normal::Text(plain.to_owned()))
        }
        Shape::Description => {
            let text = text.replace("\r\n", "\n").replace('\r', "\n");
            let text = text.trim_end();
            // A host writes neither of them down.
            (!text.is_empty() && text != "0").then(|| Normal::Text(text.to_owned()))
        }
        Shape::Tags => tag_set(plain, whose)?,
        Shape::SshKeys => ssh_keys(plain, whose)?,
        Shape::PasswordHash => password_hash(plain, whose)?,
        Shape::Props(format) => pairs(format, plain, whose)?,
        Shape::Card(format, _) | Shape::Identity(format, _) => pairs(format, plain, whose)?,
        Shape::Volume(format) => Some(Normal::Volume(Volume::read(format, plain, whose)?)),
    })
}

fn pairs(format: &Format, text: &str, whose: Whose) -> Result<Option<Normal>, Wrong> {
    let props = format.read(text, whose)?;
    Ok((!props.is_empty()).then_some(Normal::Props(props)))
}

/// The most characters of a description. Source: the API pages.
const DESCRIPTION_MAX: usize = 8192;
/// The most characters of who a machine is.
const IDENTITY_MAX: usize = 512;

/// Checks an operator's value of `known`.
///
/// # Errors
/// [`Wrong`], with what is wrong.
pub fn check(known: &Key, text: &str) -> Result<(), Wrong> {
    let read = normal(known.shape, text, Whose::Ours)?;
    (known.form)(text.trim())?;
    let most = match known.shape {
        Shape::Description => DESCRIPTION_MAX,
        Shape::Identity(..) => IDENTITY_MAX,
        Shape::Bool(_)
        | Shape::Int(..)
        | Shape::CpuUnits
        | Shape::Number(..)
        | Shape::Word(..)
        | Shape::Text(_)
        | Shape::DnsName
        | Shape::Tags
        | Shape::SshKeys
        | Shape::PasswordHash
        | Shape::Props(_)
        | Shape::Volume(_)
        | Shape::Card(..) => usize::MAX,
    };
    if text.chars().count() > most {
        return Err(Wrong::new(format!("it is too long: it has at most {most} characters")));
    }
    let Some(Normal::Volume(volume)) = read else { return Ok(()) };
    match volume.options.keys().find(|key| known.lacks.contains(&key.as_str())) {
        Some(key) => Err(Wrong::new(format!("`{key}` is nothing that `{}` has", known.name))),
        None => Ok(()),
    }
}

/// Whether a host that has `live` has what is wanted. `None` stands for a key that is not there.
///
/// # Errors
/// [`Wrong`] when `wanted` is no value of this shape.
pub fn is_met(shape: Shape, wanted: &str, live: Option<&str>) -> Result<bool, Wrong> {
    Ok(Both::read(shape, wanted, live)?.is_met())
}

/// What to write for `wanted` where `live` is there: with the address that the card has, and never as an allocation where there is a
/// volume already.
///
/// # Errors
/// [`Wrong`] when `wanted` is no value of this shape, or cannot be written over `live`.
pub fn written(shape: Shape, wanted: &str, live: Option<&str>) -> Result<String, Wrong> {
    Both::read(shape, wanted, live)?.written()
}

/// What it takes for a key to have a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it has it.
    Nothing,
    /// To be set to this.
    Set(String),
    /// To be taken out: what is wanted holds anyway, or nobody wants anything any more.
    Delete,
    /// A disk to be grown; and to be set to this, where its options differ, too.
    Grow {
        /// Its size then.
        bytes: u64,
        /// What to set it to.
        set: Option<String>,
    },
    /// What cannot be had, with why.
    Refused(String),
}

/// What it takes for `known` to be `wanted` where `live` is there.
///
/// # Errors
/// [`Wrong`] when `wanted` is no value of it.
pub fn need(known: &Key, wanted: &str, live: Option<&str>) -> Result<Need, Wrong> {
    let both = Both::read(known.shape, wanted, live)?;
    if both.is_met() {
        return Ok(Need::Nothing);
    }
    if known.is_fixed {
        let has = live.unwrap_or("nothing");
        return Ok(Need::Refused(format!("it is {has}, and can only be said when the guest is made")));
    }
    if let Shape::Identity(_, given) = known.shape {
        return Ok(both.identity(given));
    }
    Ok(if both.wanted.is_none() && !known.is_required { Need::Delete } else { both.set() })
}

/// What it takes where a topology named `known`, which is `live`, and does no more.
#[must_use]
pub fn need_of_dropped(known: &Key, live: &str) -> Need {
    match known.shape {
        _ if known.is_fixed || known.is_required => Need::Nothing,
        // Nothing wanted is never wrong.
        Shape::Identity(..) => need(known, "", Some(live)).unwrap_or(Need::Nothing),
        // What a disc holds is not the guest's.
        Shape::Volume(format) if Volume::read(format, live, Whose::Theirs).is_ok_and(|live| live.is_disc()) => Need::Delete,
        Shape::Volume(_) => {
            let why = "the file names it no more; taking it out would detach a disk: do that by hand, or name it again";
            Need::Refused(why.to_owned())
        }
        Shape::Bool(_)
        | Shape::Int(..)
        | Shape::CpuUnits
        | Shape::Number(..)
        | Shape::Word(..)
        | Shape::Text(_)
        | Shape::DnsName
        | Shape::Description
        | Shape::Tags
        | Shape::SshKeys
        | Shape::PasswordHash
        | Shape::Props(_)
        | Shape::Card(..) => Need::Delete,
    }
}

/// A wanted value and the one that is there, each read once.
struct Both<'a> {
    shape: Shape,
    /// The wanted one, as it was given.
    text: &'a str,
    wanted: Option<Normal>,
    live: Option<Normal>,
}

impl<'a> Both<'a> {
    fn read(shape: Shape, text: &'a str, live: Option<&str>) -> Result<Self, Wrong> {
        let wanted = normal(shape, text, Whose::Ours)?;
        let live = live.map(|live| normal(shape, live, Whose::Theirs)).transpose()?.flatten();
        Ok(Self { shape, text, wanted, live })
    }

    fn is_met(&self) -> bool {
        match (self.shape, &self.wanted, &self.live) {
            (_, Some(Normal::Any), live) => live.is_some(),
            // Never shown: whether it is the same is told by what was applied.
            (Shape::PasswordHash, wanted, live) => wanted.is_some() == live.is_some(),
            (Shape::Card(format, given) | Shape::Identity(format, given), wanted, live) => match (pairs_of(wanted), pairs_of(live)) {
                (Some(wanted), Some(live)) => format.is_met(wanted, live, Some(given)),
                _ => false,
            },
            (Shape::Props(format), wanted, live) => match (pairs_of(wanted), pairs_of(live)) {
                (Some(wanted), Some(live)) => format.is_met(wanted, live, None),
                _ => false,
            },
            (_, Some(Normal::Volume(wanted)), Some(Normal::Volume(live))) => wanted.is_met_by(live),
            (_, wanted, live) => wanted == live,
        }
    }

    /// Its needs, if it is who the guest is.
    fn identity(&self, given: &str) -> Need {
        let one = |normal| pairs_of(normal).and_then(|pairs: &Props| pairs.get(given));
        if let Some(wanted) = one(&self.wanted)
            && Some(wanted) != one(&self.live)
        {
            return Need::Refused(staying(given));
        }
        match self.written() {
            // It is never taken out: who the guest is would go with it.
            Ok(sent) if sent.is_empty() => Need::Nothing,
            Ok(sent) => Need::Set(sent),
            Err(why) => Need::Refused(why.to_string()),
        }
    }

    /// What to set, and to grow.
    fn set(&self) -> Need {
        let sent = match self.written() {
            Ok(sent) => sent,
            Err(why) => return Need::Refused(why.to_string()),
        };
        if let (Some(Normal::Volume(wanted)), Some(Normal::Volume(live))) = (&self.wanted, &self.live)
            && let Some(bytes) = wanted.size.filter(|_| wanted.is_larger_than(live))
        {
            return Need::Grow { bytes, set: (!wanted.has_options_of(live)).then_some(sent) };
        }
        Need::Set(sent)
    }

    fn written(&self) -> Result<String, Wrong> {
        if let (Shape::Card(format, given) | Shape::Identity(format, given), Some(wanted)) = (self.shape, pairs_of(&self.wanted)) {
            let (mut props, has) = (wanted.clone(), pairs_of(&self.live).and_then(|live| live.get(given)));
            let said = has.map(|has| props.entry(given.to_owned()).or_insert_with(|| has.clone()).clone());
            if matches!(self.shape, Shape::Identity(..)) && said.as_ref() != has {
                return Err(Wrong::new(staying(given)));
            }
            return Ok(format.write(&props));
        }
        Ok(match (self.shape, &self.wanted) {
            (Shape::Volume(format), Some(Normal::Volume(volume))) => match &self.live {
                Some(Normal::Volume(live)) => volume.over(live)?.write(format),
                Some(_) => return Err(Wrong::new("what is there is no volume that this version of Moorline knows: see to it on the host")),
                None => volume.write(format),
            },
            // Not every host takes every spelling: one without needless commas.
            (Shape::Props(format), Some(Normal::Props(wanted))) => {
                format.write(&pairs_of(&self.live).map_or_else(|| wanted.clone(), |live| format.chosen(wanted, live)))
            }
            (Shape::Tags, _) => tags::joined(tags::words(self.text)),
            (Shape::SshKeys, Some(Normal::Text(keys))) => encoded(keys),
            (Shape::Bool(_), _) => scalar::flag(scalar::boolean(self.text.trim())?).to_owned(),
            (Shape::Description, Some(Normal::Text(text))) => text.clone(),
            _ => self.text.trim().to_owned(),
        })
    }
}

/// The pairs of a value that has nothing else; none at all of one that says what holds anyway.
fn pairs_of(normal: &Option<Normal>) -> Option<&Props> {
    static NONE: Props = Props::new();
    match normal {
        None => Some(&NONE),
        Some(Normal::Props(pairs)) => Some(pairs),
        Some(Normal::Text(_) | Normal::Set(_) | Normal::Volume(_) | Normal::Any) => None,
    }
}

fn staying(given: &str) -> String {
    format!("the guest is known by its `{given}`, which can only be said when it is made: leave it out, or write the one that it has")
}

/// Tags mean the same in any order and case.
fn tag_set(text: &str, whose: Whose) -> Result<Option<Normal>, Wrong> {
    let mut set = BTreeSet::new();
    for word in tags::words(text) {
        let head = word.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.'));
        if whose == Whose::Ours && !(head && rest) {
            return Err(Wrong::new(format!(
                "`{word}` is no tag: letters, digits, `_`, `-`, `+` and `.`, beginning with one of the first three"
            )));
        }
        set.insert(word.to_ascii_lowercase());
    }
    Ok((!set.is_empty()).then_some(Normal::Set(set)))
}

/// Keys come percent-encoded from a host, and are written plain or so in a file. Source: the format `urlencoded` of the API.
fn ssh_keys(text: &str, whose: Whose) -> Result<Option<Normal>, Wrong> {
    let is_encoded = !text.contains(char::is_whitespace) && text.contains('%');
    let decoded = if is_encoded { decoded(text)? } else { text.to_owned() };
    let keys: Vec<&str> = decoded.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if whose == Whose::Ours
        && let Some(wrong) = keys.iter().find(|line| !line.starts_with('#') && line.split_whitespace().count() < 2)
    {
        return Err(Wrong::new(format!("`{wrong}` is no public key: `ssh-ed25519 AAAA… name`")));
    }
    Ok((!keys.is_empty()).then(|| Normal::Text(keys.join("\n"))))
}

/// Everything but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn decoded(text: &str) -> Result<String, Wrong> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| Wrong::new("it is percent-encoded, and no UTF-8"))?;
    Ok(decoded.into_owned())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A hash as of crypt(3): a password itself would stand in the file, the slice and the hub. Hosts take hashes as they are.
/// Source: `PVE::API2::Qemu`, which hashes what does not look like one.
fn password_hash(text: &str, whose: Whose) -> Result<Option<Normal>, Wrong> {
    if whose == Whose::Theirs {
        return Ok(Some(Normal::Any));
    }
    let mut parts = text.split('$');
    let is_hash = parts.next() == Some("") && parts.next().is_some_and(|id| matches!(id, "5" | "6")) && parts.count() >= 2;
    let is_plain = text.bytes().all(|b| b.is_ascii_graphic());
    if !is_hash || !is_plain {
        return Err(Wrong::new("write its hash, such as `openssl passwd -6` prints: a password would stand in the file, and at the hub"));
    }
    Ok(Some(Normal::Text(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::super::keys::{self, GuestKind};
    use super::*;

    fn shape(kind: GuestKind, key: &str) -> Shape {
        keys::find(kind, key).unwrap().shape
    }

    /// Each row: a key, how an operator writes it, and how a host gives it back.
    #[test]
    fn what_was_written_and_is_read_back_is_no_difference() {
        use GuestKind::{Lxc, Qemu};
        for (kind, key, wanted, live) in [
            // QemuServer.pm: white space at the end is lost.
            (Qemu, "description", "a\r\nb\n\n", Some("a\nb")),
            (Qemu, "description", "0", None),
            // LXC/Config.pm: a line's end is always added.
            (Lxc, "description", "a\nb", Some("a\nb\n")),
            // GuestHelpers.pm: sorted, in lower case, with `;` between.
            (Qemu, "tags", "Prod, db;web prod", Some("db;prod;web")),
            (Qemu, "tags", "", None),
            // Memory.pm: a number, a text, or a pair.
            (Qemu, "memory", "2048", Some("current=2048")),
            (Qemu, "memory", "512", None),
            (Lxc, "swap", "512", None),
            (Lxc, "memory", "512", Some("512")),
            // Network.pm: the model with its address first, and an address where none was given.
            (Qemu, "net0", "model=virtio,bridge=vmbr0,firewall=on", Some("virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1")),
            (Qemu, "net0", "virtio=bc:24:11:aa:bb:cc,bridge=vmbr0", Some("virtio=BC:24:11:AA:BB:CC,bridge=vmbr0")),
            (Lxc, "net0", "name=eth0,bridge=vmbr0,ip=dhcp", Some("name=eth0,bridge=vmbr0,hwaddr=BC:24:11:AA:BB:CC,ip=dhcp,type=veth")),
            // JSONSchema.pm: keys in another order, defaults left out or not, yes and no as 1 and 0.
            (Qemu, "agent", "enabled=yes,fstrim_cloned_disks=0", Some("1")),
            (Qemu, "agent", "0", None),
            (Qemu, "onboot", "off", None),
            (Qemu, "onboot", "0", Some("0")),
            (Qemu, "acpi", "yes", None),
            (Qemu, "cpulimit", "2.50", Some("2.5")),
            (Qemu, "cpulimit", "0", None),
            (Qemu, "startup", "up=30,order=2", Some("order=2,up=30")),
            (Qemu, "vga", "std", None),
            (Qemu, "watchdog", "action=reset,model=ib700", Some("ib700,action=reset")),
            // A new disk is a volume afterwards.
            (Qemu, "scsi0", "local-lvm:8,discard=on", Some("local-lvm:vm-101-disk-0,discard=on,size=8G")),
            (Qemu, "scsi0", "local:8,format=qcow2", Some("local:101/vm-101-disk-0.qcow2,size=8G")),
            (Qemu, "scsi0", "local-lvm:8", Some("local-lvm:vm-101-disk-0,backup=1,size=16G")),
            (Qemu, "virtio0", "local-lvm:0,import-from=local:import/a.qcow2", Some("local-lvm:vm-101-disk-0,size=3G")),
            (Qemu, "ide2", "local-lvm:cloudinit", Some("local-lvm:vm-101-cloudinit,media=cdrom,size=4M")),
            (Qemu, "ide2", "media=cdrom,file=none", Some("none,media=cdrom")),
            (Lxc, "rootfs", "local-zfs:8", Some("local-zfs:subvol-205-disk-0,size=8G")),
            (Qemu, "scsi1", "local-lvm:vm-101-disk-1,size=1024G", Some("local-lvm:vm-101-disk-1,size=1T")),
            // Qemu.pm: 1 is a new one.
            (Qemu, "boot", "order=scsi0; net0", Some("order=scsi0;net0")),
            (Qemu, "sshkeys", "ssh-ed25519 AAAA a@b\n", Some("ssh-ed25519%20AAAA%20a%40b%0A")),
            (Qemu, "cipassword", "$6$salt$hash", Some("**********")),
            // Cgroup version 2 has no more.
            (Lxc, "cpuunits", "50000", Some("10000")),
            (Lxc, "features", "nesting=1,fuse=0", Some("nesting=1")),
            // Machine.pm: the version of a Windows guest is pinned when it is made.
            (Qemu, "machine", "q35", Some("pc-q35-9.0")),
            (Qemu, "machine", "type=q35,viommu=intel", Some("pc-q35-9.2+pve1,viommu=intel")),
            (Qemu, "machine", "pc", Some("pc-i440fx-9.2+pve1")),
            (Qemu, "machine", "pc", None),
            (Qemu, "machine", "viommu=virtio", Some("pc-i440fx-8.1,viommu=virtio")),
            (Qemu, "machine", "virt", Some("virt-9.0")),
        ] {
            assert_eq!(is_met(shape(kind, key), wanted, live), Ok(true), "{key}: {wanted} and {live:?}");
        }
    }

    #[test]
    fn what_differs_is_a_difference() {
        use GuestKind::{Lxc, Qemu};
        for (kind, key, wanted, live) in [
            (Qemu, "memory", "2048", Some("1024")),
            (Qemu, "memory", "2048", None),
            (Qemu, "onboot", "1", None),
            (Qemu, "tags", "a;b", Some("a")),
            (Qemu, "net0", "virtio,bridge=vmbr0", Some("virtio=BC:24:11:AA:BB:CC,bridge=vmbr1")),
            (Qemu, "net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0", Some("virtio=BC:24:11:AA:BB:CC,bridge=vmbr0")),
            (Qemu, "net0", "virtio,bridge=vmbr0", Some("virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1")),
            (Qemu, "scsi0", "local-lvm:16", Some("local-lvm:vm-101-disk-0,size=8G")),
            (Qemu, "scsi0", "other:8", Some("local-lvm:vm-101-disk-0,size=8G")),
            (Qemu, "scsi0", "local-lvm:8,ssd=1", Some("local-lvm:vm-101-disk-0,size=8G")),
            (Qemu, "boot", "order=net0;scsi0", Some("order=scsi0;net0")),
            (Qemu, "cipassword", "$6$salt$hash", None),
            (Qemu, "agent", "1", Some("1,fstrim_cloned_disks=1")),
            (Lxc, "memory", "1024", Some("new words of a host")),
            (Qemu, "machine", "q35", Some("pc-i440fx-9.0")),
            (Qemu, "machine", "q35", None),
            (Qemu, "machine", "pc", Some("q35")),
            (Qemu, "machine", "pc-q35-9.0", Some("pc-q35-9.1")),
            (Qemu, "machine", "q35,viommu=intel", Some("pc-q35-9.0")),
            (Qemu, "machine", "q35", Some("new words of a host")),
        ] {
            assert_eq!(is_met(shape(kind, key), wanted, live), Ok(false), "{key}: {wanted} and {live:?}");
        }
    }

    #[test]
    fn what_is_written_keeps_addresses_and_volumes() {
        use GuestKind::{Lxc, Qemu};
        for (kind, key, wanted, live, sent) in [
            (Qemu, "net0", "virtio,bridge=b1", Some("virtio=BC:24:11:AA:BB:CC,bridge=b0"), "virtio,bridge=b1,macaddr=BC:24:11:AA:BB:CC"),
            (Qemu, "net0", "virtio,bridge=b1", None, "virtio,bridge=b1"),
            (
                Lxc,
                "net0",
                "name=eth0,bridge=b1",
                Some("name=eth0,hwaddr=BC:24:11:AA:BB:CC"),
                "bridge=b1,hwaddr=BC:24:11:AA:BB:CC,name=eth0",
            ),
            (
                Qemu,
                "scsi0",
                "local-lvm:8,ssd=1",
                Some("local-lvm:vm-1-disk-0,size=8G,cache=writeback"),
                "local-lvm:vm-1-disk-0,size=8G,ssd=1",
            ),
            (Qemu, "scsi0", "local-lvm:16", Some("local-lvm:vm-1-disk-0,size=8G,ssd=1"), "local-lvm:vm-1-disk-0,size=8G"),
            (Qemu, "scsi0", "local-lvm:1.5,ssd=1", None, "local-lvm:1.5,ssd=1"),
            (Qemu, "efidisk0", "local-lvm:1,efitype=4m", None, "local-lvm:1,efitype=4m"),
            (Qemu, "tags", "Prod, a prod", Some("c"), "Prod;a"),
            (Qemu, "tags", "Prod;moorline", Some("Prod"), "Prod;moorline"),
            (Qemu, "machine", "q35,viommu=intel", Some("pc-q35-9.0"), "pc-q35-9.0,viommu=intel"),
            (Qemu, "machine", "viommu=intel", Some("pc-i440fx-9.0"), "pc-i440fx-9.0,viommu=intel"),
            (Qemu, "machine", "q35,viommu=intel", Some("pc-i440fx-9.0"), "q35,viommu=intel"),
            (
                Qemu,
                "smbios1",
                "serial=1",
                Some("uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"),
                "serial=1,uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e",
            ),
            (Qemu, "onboot", "yes", None, "1"),
            (Qemu, "agent", "enabled=0,fstrim_cloned_disks=1", None, "0,fstrim_cloned_disks=1"),
            (Qemu, "sshkeys", "ssh-ed25519 AA+/= a@b", None, "ssh-ed25519%20AA%2B%2F%3D%20a%40b"),
            (Qemu, "memory", " 2048 ", None, "2048"),
        ] {
            assert_eq!(written(shape(kind, key), wanted, live).as_deref(), Ok(sent), "{key}: {wanted} over {live:?}");
        }
        let strange = written(shape(Qemu, "scsi0"), "local-lvm:8", Some("new words of a host"));
        assert!(strange.unwrap_err().to_string().contains("no volume that"), "nothing is made in its place");
        let other = written(shape(Qemu, "scsi0"), "local-lvm:vm-1-disk-1", Some("local-lvm:vm-1-disk-0,size=8G"));
        assert!(other.unwrap_err().to_string().contains("another volume"));
    }

    #[test]
    fn what_an_operator_writes_wrong_is_said() {
        use GuestKind::{Lxc, Qemu};
        for (kind, key, wanted, says) in [
            (Qemu, "cores", "0", "at least 1"),
            (Qemu, "cores", "four", "no whole number"),
            (Qemu, "onboot", "maybe", "neither yes nor no"),
            (Qemu, "ostype", "windows", "win11"),
            (Qemu, "name", "a_b", "as in DNS"),
            (Qemu, "machine", "foo", "no type of machine"),
            (Qemu, "machine", "pc-q35-", "no type of machine"),
            (Qemu, "tags", "a!;b", "`a!` is no tag"),
            (Qemu, "scsi0", "/dev/sda", "only root"),
            (Qemu, "scsi0", "8", "storage:8"),
            (Qemu, "scsi0", "local-lvm:8G", "without a unit, such as `local-lvm:8`"),
            (Qemu, "scsi0", "local-lvm:1.5 TiB", "without a unit"),
            (Lxc, "rootfs", "local-lvm:-8", "`-8` is no size"),
            (Qemu, "scsi0", "local-lvm:8,size=8G", "leave `size` out"),
            (Qemu, "net0", "bridge=vmbr0", "`model` is missing"),
            (Qemu, "ide2", "local:8,media=cdrom", "is one that is there"),
            (Lxc, "rootfs", "none", "name a volume"),
            (Lxc, "mp0", "local-lvm:8", "`mp` is missing"),
            (Lxc, "rootfs", "local-lvm:8,backup=1", "`backup` is no key"),
            (Qemu, "scsi0", "local-lvm:32,import-from=local:import/a.qcow2", "write `local-lvm:0`"),
            (Qemu, "scsi0", "local-lvm:vm-1-disk-0,import-from=local:import/a.qcow2", "a new disk"),
            (Qemu, "scsi0", "local-lvm:8,wwn=1", "world wide name"),
            (Qemu, "virtio0", "local-lvm:8,ssd=1", "`ssd` is nothing that `virtio` has"),
            (Qemu, "cpuunits", "0", "1 to 262144"),
            (Qemu, "cpuunits", "999999", "1 to 262144"),
            (Lxc, "cpuunits", "500001", "0 to 500000"),
            (Qemu, "keyboard", "xx", "en-us"),
            (Qemu, "startdate", "tomorrow", "no start date"),
            (Qemu, "startdate", "26-1-1", "no start date"),
            (Qemu, "hotplug", "disc", "plugged"),
            (Qemu, "smbios1", "uuid=foo", "no UUID"),
            (Qemu, "smbios1", "manufacturer=A & B", "base64"),
            (Qemu, "vmstatestorage", "a/b", "no storage's name"),
            (Qemu, "ipconfig0", "ip=10.0.0.2", "10.0.0.2/24"),
            (Qemu, "usb0", "mouse", "no device"),
            (Lxc, "net0", "name=eth0,gw=there", "no address"),
            (Lxc, "nameserver", "10.0.0.1 dns", "`dns` is no address"),
            (Lxc, "searchdomain", "a_b", "no domain"),
            (Qemu, "cipassword", "secret", "openssl passwd -6"),
            (Qemu, "sshkeys", "AAAA", "no public key"),
            (Qemu, "cpulimit", "128.5", "at most 128"),
            (Qemu, "ciuser", "a\nb", "several lines"),
            (Qemu, "serial0", "/dev/ttyS0", "socket"),
            (Lxc, "memory", "8", "at least 16"),
        ] {
            let wrong = check(keys::find(kind, key).unwrap(), wanted).unwrap_err().to_string();
            assert!(wrong.contains(says), "{key}: {wanted}: {wrong}");
        }
        let description = keys::find(Qemu, "description").unwrap();
        assert_eq!(check(description, &"ä".repeat(8192)), Ok(()));
        assert!(check(description, &"ä".repeat(8193)).unwrap_err().to_string().contains("at most 8192"));
        for (kind, key, good) in [
            (Qemu, "startdate", "2026-1-3T10:00:00"),
            (Qemu, "startdate", "now"),
            (Qemu, "cpuunits", "262144"),
            (Lxc, "cpuunits", "0"),
            (Qemu, "usb0", "0x1234:ABCD,usb3=1"),
            (Qemu, "usb1", "1-2.3"),
            (Qemu, "smbios1", "manufacturer=QSAmIEI=,base64=1"),
            (Qemu, "hotplug", "0"),
            (Qemu, "ipconfig0", "ip=10.0.0.2/24,gw=10.0.0.1,ip6=auto"),
            (Lxc, "net0", "name=eth0,ip=manual,ip6=fd00::2/64,gw6=fe80::1"),
            (Lxc, "nameserver", "fe80::1%eth0 10.0.0.1"),
        ] {
            assert_eq!(check(keys::find(kind, key).unwrap(), good), Ok(()), "{key}: {good}");
        }
    }
}
