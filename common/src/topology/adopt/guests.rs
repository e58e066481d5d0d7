//! The part of a topology file that takes over guests of Proxmox VE as they are. Pure.
//!
//! What a guest has and a topology may name is named, so that nothing of it differs; what is not named, and which guests are left out,
//! stands there as comments.

use std::collections::{BTreeMap, BTreeSet};

use super::super::node::{Kind, Node, Value};
use super::super::write::yaml;
use super::super::{Position, Problem, load};
use super::{map, pair};
use crate::id::{HostName, TopologyId};
use crate::observe::{GuestStatus, ObservedGuest};
use crate::pve::guest::{Config, GuestConfig, check};
use crate::pve::keys::{self, Shape};
use crate::pve::{GuestKind, Vmid, incarnation, tags, value};

/// What is taken over.
#[derive(Debug)]
pub struct Adoption<'a> {
    /// The host.
    pub host: &'a HostName,
    /// The name of the topology, for a whole file; only the host's part is written, if `None`.
    pub topology: Option<&'a TopologyId>,
    /// Every guest of the host, with its config and its incarnation.
    pub guests: &'a BTreeMap<Vmid, ObservedGuest>,
    /// Guests by their numbers that cannot be told of, and why.
    pub left_out: &'a BTreeMap<String, String>,
    /// Which; all of them, if empty.
    pub only: &'a BTreeSet<Vmid>,
}

/// What came of it.
#[derive(Debug)]
pub struct Adopted {
    /// The file, or the host's part of it.
    pub text: String,
    /// How many guests are taken over.
    pub guests: usize,
    /// How many are left out.
    pub left_out: usize,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// A guest that was named is not there.
    #[error("there is no guest {0} on this host, or its agent's token may not see it")]
    NoGuest(Vmid),
    /// A guest that was named cannot be taken over.
    #[error("guest {vmid} cannot be taken over: {why}")]
    LeftOut {
        /// The guest.
        vmid: String,
        /// Why.
        why: String,
    },
    /// Nothing is there to be taken over. With why of each guest that is left out.
    #[error("this host has no guest that can be taken over")]
    Nothing(Vec<String>),
    /// The file would not be valid.
    #[error("what is there cannot be said in a topology file")]
    Bad(Vec<Problem>),
}

/// Writes the part.
///
/// # Errors
/// [`AdoptError`].
pub fn adopt(adoption: &Adoption<'_>) -> Result<Adopted, AdoptError> {
    let Adoption { host, topology, guests, only, .. } = adoption;
    let mut left_out = adoption.left_out.clone();
    let mut entries = Vec::new();
    for (vmid, guest) in guests.iter().filter(|(vmid, _)| only.is_empty() || only.contains(*vmid)) {
        match entry(*vmid, guest) {
            Ok(text) => entries.push(text),
            Err(why) => drop(left_out.insert(vmid.to_string(), why)),
        }
    }
    if let Some((vmid, why)) = only.iter().find_map(|vmid| left_out.remove_entry(&vmid.to_string())) {
        return Err(AdoptError::LeftOut { vmid, why });
    }
    if let Some(vmid) = only.iter().find(|vmid| !guests.contains_key(*vmid)) {
        return Err(AdoptError::NoGuest(*vmid));
    }
    if !only.is_empty() {
        // Others were not asked for.
        left_out.clear();
    }
    let words: Vec<String> = left_out.iter().map(|(vmid, why)| format!("guest {vmid} is left out: {why}")).collect();
    if entries.is_empty() {
        return Err(AdoptError::Nothing(words));
    }
    let mut text = format!(
        "# Takes over guests of {host} as they are: nothing of them is touched. Leave `adopt` in: it says which guests are meant.\n"
    );
    words.iter().for_each(|words| text.push_str(&comment(words)));
    if let Some(topology) = topology {
        text.push_str(&yaml(&map(vec![pair("topology", word(topology.as_str()))])));
    }
    let above = yaml(&map(vec![pair(host.as_str(), map(Vec::new()))]));
    text.push_str(&format!("hosts:\n  {}:\n    proxmox:\n      guests:\n", above.trim_end().trim_end_matches(" {}").trim_end_matches(':')));
    text.push_str(&entries.concat());
    let whole = if topology.is_some() { text.clone() } else { format!("topology: unnamed\n{text}") };
    load(&whole).map_err(AdoptError::Bad)?;
    Ok(Adopted { text, guests: entries.len(), left_out: words.len() })
}

/// How deep a guest's number stands.
const MARGIN: &str = "        ";

/// A guest's entry, or why it is left out.
fn entry(vmid: Vmid, guest: &ObservedGuest) -> Result<String, String> {
    let incarnation = takeable(vmid, guest)?;
    let config = guest.config.as_deref().ok_or_else(|| unreadable(vmid))?;
    let (named, mut comments) = named(config);
    let mut pairs = vec![pair("type", word(guest.kind.as_str())), pair("adopt", word(incarnation))];
    match guest.status {
        _ if guest.is_ha_managed => comments.push("`state` is left out: the cluster's resource manager starts and stops it".to_owned()),
        GuestStatus::Running | GuestStatus::Stopped => pairs.push(pair("state", word(guest.status.as_str()))),
        GuestStatus::Paused => {
            comments.push("`state` is left out: it is paused, and a topology says that it runs or is stopped".to_owned())
        }
    }
    pairs.push(pair("config", map(named.iter().map(|(key, text)| pair(key, word(text))).collect())));
    let mut text = format!("{MARGIN}{vmid}:\n");
    comments.iter().for_each(|words| text.push_str(&format!("{MARGIN}  {}", comment(words))));
    for line in yaml(&map(pairs)).lines() {
        let margin = if line.is_empty() { String::new() } else { format!("{MARGIN}  ") };
        text.push_str(&format!("{margin}{line}\n"));
    }
    Ok(text)
}

/// Which one it is, or why it cannot be taken over.
fn takeable(vmid: Vmid, guest: &ObservedGuest) -> Result<&str, String> {
    if let Some(owner) = &guest.owner {
        return Err(format!("Moorline has it already, in the topology `{}`", owner.topology));
    }
    if guest.is_marked {
        return Err("Moorline is making it".to_owned());
    }
    if guest.is_template {
        return Err("it is a template, which never runs and never changes; guests can be clones of it".to_owned());
    }
    if let Some(lock) = &guest.lock {
        return Err(format!("it is locked ({lock}): import it when that has ended"));
    }
    if guest.config.is_none() {
        return Err(unreadable(vmid));
    }
    let found = guest.incarnation.as_deref().filter(|text| incarnation::is_one(guest.kind, text));
    found.ok_or_else(|| {
        match guest.kind {
            GuestKind::Qemu => "it bears no id by which it could be told from another one with its number: set a `uuid` in `smbios1`",
            GuestKind::Lxc => "when its root volume was made is not known, so it could not be told from another one with its number",
        }
        .to_owned()
    })
}

fn unreadable(vmid: Vmid) -> String {
    format!("its config cannot be read: give the agent's token `VM.Audit` on `/vms/{vmid}`")
}

/// What Proxmox VE keeps in every config for itself.
const OWN: &[&str] = &["digest", "meta"];

/// What of a config a topology names, and words about the rest.
fn named(live: &GuestConfig) -> (Config, Vec<String>) {
    let (mut named, mut comments) = (Config::new(), Vec::new());
    for (key, text) in live.set.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        match setting(live.kind, key, text) {
            Ok(text) => drop(named.insert(key.clone(), text)),
            Err(why) => comments.push(format!("`{key}` is left out: {why}")),
        }
    }
    (named, comments)
}

/// How a live setting stands in a file, or why it does not.
fn setting(kind: GuestKind, key: &str, live: &str) -> Result<String, String> {
    if key.starts_with("unused") {
        return Err(format!("{} is detached; attach it under another key, or remove it on the host", live.trim()));
    }
    let shape = keys::find(kind, key)?.shape;
    let text = match shape {
        Shape::PasswordHash => return Err("no host shows it; a hash that is named is set".to_owned()),
        // Named, a rollback would be undone in this one point.
        Shape::Tags => tags::joined(tags::words(live)),
        Shape::Bool(_)
        | Shape::Int(..)
        | Shape::CpuUnits
        | Shape::Number(..)
        | Shape::Word(..)
        | Shape::Text(_)
        | Shape::DnsName
        | Shape::Description
        | Shape::SshKeys
        | Shape::Props(_)
        | Shape::Volume(_)
        | Shape::Card(..)
        | Shape::Identity(..) => live.trim_end().to_owned(),
    };
    let wrong = check(kind, &Config::from([(key.to_owned(), text.clone())])).err();
    if let Some(why) = wrong.and_then(|mut wrong| wrong.remove(key)) {
        return Err(why);
    }
    match value::is_met(shape, &text, Some(live)) {
        Ok(true) => Ok(text),
        Ok(false) | Err(_) => Err("its value means nothing to this version of Moorline".to_owned()),
    }
}

/// A comment, on one line whatever a host says.
fn comment(words: &str) -> String {
    let plain: String =
        words.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') { ' ' } else { c }).collect();
    format!("# {plain}\n")
}

/// A value: whole numbers without quotes, and `$` so that it begins no variable.
fn word(text: &str) -> Node {
    let is_number = text.len() < 16 && text.parse::<u64>().is_ok_and(|n| n.to_string() == text);
    let kind = if is_number { Kind::Int } else { Kind::Text };
    Node { value: Value::Scalar { text: text.replace('$', "$$"), kind }, at: Position::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::id::{ClusterId, HostId};
    use crate::observe::{EngineState, Observed, ObservedPve, Owner};
    use crate::plan::{Identity, plan};
    use crate::topology::{BoundHost, HostSpec};

    const UUID: &str = "6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e";

    fn vmid(number: u32) -> Vmid {
        Vmid::parse(&number.to_string()).unwrap()
    }

    fn guest(kind: GuestKind, set: &[(&str, &str)]) -> ObservedGuest {
        let incarnation = match kind {
            GuestKind::Qemu => format!("vm:{UUID}:{UUID}"),
            GuestKind::Lxc => incarnation::of_container("local-lvm:vm-101-disk-0", 1_732_351_234),
        };
        let set: Config = set.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let config = json!({ "type": kind, "set": set });
        serde_json::from_value(json!({ "type": kind, "status": "running", "incarnation": incarnation, "config": config })).unwrap()
    }

    fn take(guests: &BTreeMap<Vmid, ObservedGuest>, only: &[u32]) -> Result<Adopted, AdoptError> {
        let host = HostName::parse("pve-1").unwrap();
        let only = only.iter().map(|number| vmid(*number)).collect();
        adopt(&Adoption { host: &host, topology: None, guests, left_out: &BTreeMap::new(), only: &only })
    }

    fn spec(part: &str) -> HostSpec {
        let id = HostId::of_key(&[7; 32]);
        let host = BoundHost { host_id: id.clone(), name: HostName::parse("pve-1").unwrap(), labels: BTreeMap::new() };
        load(&format!("topology: shop\n{part}")).unwrap().slice(&[host]).unwrap().hosts.remove(&id).unwrap()
    }

    /// What a host with these guests would do with that part of a file.
    fn planned(part: &str, guests: &BTreeMap<Vmid, ObservedGuest>) -> crate::plan::Plan {
        let id = HostId::of_key(&[7; 32]);
        let identity = Identity { cluster: ClusterId::parse("home").unwrap(), host_id: id, topology: TopologyId::parse("shop").unwrap() };
        let pve = ObservedPve { engine: EngineState::Ready, guests: guests.clone(), ..ObservedPve::default() };
        plan(&identity, &spec(part), &Observed { pve: Some(pve), ..Observed::default() })
    }

    /// As when the guests have been taken over.
    fn owned(guests: &BTreeMap<Vmid, ObservedGuest>) -> BTreeMap<Vmid, ObservedGuest> {
        let mut guests = guests.clone();
        for (vmid, guest) in &mut guests {
            let base = guest.lasting().unwrap_or_default().to_owned();
            guest.owner = Some(Owner {
                topology: "shop".to_owned(),
                resource: vmid.resource(),
                spec: String::new(),
                base,
                adopted: true,
                hidden: None,
            });
        }
        guests
    }

    #[test]
    fn what_is_written_takes_over_exactly_what_is_there_and_says_what_it_leaves_out() {
        let machine = guest(
            GuestKind::Qemu,
            &[
                ("name", "db"),
                ("memory", "8192"),
                ("cores", "4"),
                ("description", "costs 5$\nsee ${HOME}: \"it\" # no comment\n"),
                ("tags", "prod;db"),
                ("scsi0", "local-lvm:vm-101-disk-0,discard=on,size=32G"),
                ("scsi1", "/dev/disk/by-id/ata-1,size=1T"),
                ("net0", "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1"),
                ("sshkeys", "ssh-ed25519%20AAAA%20a%40b%0A"),
                ("smbios1", "uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"),
                ("vmgenid", UUID),
                ("cipassword", "**********"),
                ("args", "-cpu host"),
                ("unused0", "local-lvm:vm-101-disk-3"),
                ("meta", "creation-qemu=9.0.2,ctime=1732351234"),
            ],
        );
        let container = guest(GuestKind::Lxc, &[("hostname", "dns"), ("rootfs", "local-lvm:vm-101-disk-0,size=8G"), ("arch", "amd64")]);
        let guests = BTreeMap::from([(vmid(101), machine), (vmid(205), container)]);
        let adopted = take(&guests, &[]).unwrap();
        let text = &adopted.text;
        let found = planned(text, &guests);
        assert!(found.blocked.is_empty() && found.drift.is_empty(), "{text}\n{found:#?}");
        assert_eq!(found.steps.iter().map(|step| step.action.verb()).collect::<Vec<_>>(), ["adopt", "adopt"], "{text}");
        assert!(planned(text, &owned(&guests)).is_settled());
        let (_, machine) = spec(text).guests().next().map(|(vmid, guest)| (vmid, guest.clone())).unwrap();
        let unnamed = ["args", "cipassword", "meta", "scsi1", "unused0", "vmgenid"];
        assert!(unnamed.iter().all(|key| !machine.config.contains_key(*key)) && machine.config.len() == 9, "{machine:?}");
        for words in [
            "          # `args` is left out: only root on the host itself may set it",
            "# `cipassword` is left out: no host shows it",
            "# `scsi1` is left out: `/dev/disk/by-id/ata-1` is of the host itself",
            "# `unused0` is left out: local-lvm:vm-101-disk-3 is detached",
            "# `vmgenid` is left out: Proxmox VE makes it, and anew",
            "            memory: 8192\n",
            "          state: running\n",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains("meta"), "{text}");
    }

    #[test]
    fn guests_that_cannot_be_taken_over_are_left_out_with_the_reason() {
        let plain = || guest(GuestKind::Qemu, &[("name", "db")]);
        let with = |change: &dyn Fn(&mut ObservedGuest)| {
            let mut guest = plain();
            change(&mut guest);
            guest
        };
        let owner = owned(&BTreeMap::from([(vmid(106), plain())])).remove(&vmid(106)).unwrap().owner;
        let guests = BTreeMap::from([
            (vmid(101), plain()),
            (vmid(102), with(&|guest| guest.is_template = true)),
            (vmid(103), with(&|guest| guest.lock = Some("backup\nhosts: {}".to_owned()))),
            (vmid(104), with(&|guest| guest.incarnation = None)),
            (vmid(105), with(&|guest| guest.config = None)),
            (vmid(106), with(&|guest| guest.owner.clone_from(&owner))),
            (vmid(107), with(&|guest| guest.status = GuestStatus::Paused)),
            (vmid(108), with(&|guest| guest.is_ha_managed = true)),
        ]);
        let adopted = take(&guests, &[]).unwrap();
        assert_eq!((adopted.guests, adopted.left_out), (3, 5), "{}", adopted.text);
        for words in [
            "# guest 102 is left out: it is a template",
            "# guest 103 is left out: it is locked (backup hosts: {})",
            "# guest 104 is left out: it bears no id",
            "# guest 105 is left out: its config cannot be read",
            "# guest 106 is left out: Moorline has it already, in the topology `shop`",
        ] {
            assert!(adopted.text.contains(words), "{words}\n{}", adopted.text);
        }
        assert_eq!(adopted.text.matches("`state` is left out").count(), 2);
        assert!(matches!(take(&guests, &[102]), Err(AdoptError::LeftOut { vmid, .. }) if vmid == "102"));
        assert!(matches!(take(&guests, &[999]), Err(AdoptError::NoGuest(missing)) if missing == vmid(999)));
        let one = take(&guests, &[107]).unwrap();
        assert!(one.guests == 1 && one.left_out == 0 && !one.text.contains("101:"), "{}", one.text);
        let templates = guests.into_iter().filter(|(number, _)| *number == vmid(102)).collect();
        assert!(matches!(take(&templates, &[]), Err(AdoptError::Nothing(why)) if why.len() == 1));
    }

    #[test]
    fn with_a_name_the_whole_file_is_written() {
        let host = HostName::parse("10").unwrap();
        let topology = TopologyId::parse("shop").unwrap();
        let guests = BTreeMap::from([(vmid(101), guest(GuestKind::Qemu, &[("name", "db")]))]);
        let adoption =
            Adoption { host: &host, topology: Some(&topology), guests: &guests, left_out: &BTreeMap::new(), only: &BTreeSet::new() };
        assert!(load(&adopt(&adoption).unwrap().text).unwrap().hosts.contains_key("10"));
    }

    /// Settings as hosts give them, of which some are not understood, and some are none of a topology's.
    const QEMU: &[(&str, &[&str])] = &[
        ("acpi", &["0", "1"]),
        ("agent", &["1", "1,fstrim_cloned_disks=1", "enabled=0"]),
        ("args", &["-cpu host"]),
        ("balloon", &["0", "512"]),
        ("boot", &["order=scsi0;net0", "cdn", "order="]),
        ("bios", &["ovmf", "seabios"]),
        ("cicustom", &["user=local:snippets/a.yaml"]),
        ("ciuser", &["admin", "$USER", " a "]),
        ("cores", &["1", "4", "0", "many"]),
        ("cpu", &["host", "x86-64-v2-AES,flags=+aes", "custom-mine"]),
        ("cpulimit", &["2.5", "0", "200"]),
        ("cpuunits", &["100", "50000"]),
        ("description", &["a\nb\n", "0", "# x", "a: b", "${x} $", "%0A", "\u{1}", "tab\there", "  indented\nmore"]),
        ("efidisk0", &["local-lvm:vm-101-disk-1,efitype=4m,pre-enrolled-keys=1,size=4M"]),
        ("freeze", &["1"]),
        ("hostpci0", &["0000:01:00.0,pcie=1", "mapping=gpu"]),
        ("hotplug", &["0", "1", "network,disk,usb", "disk"]),
        ("ide2", &["none,media=cdrom", "local:iso/a.iso,media=cdrom,size=600M", "local-lvm:vm-101-cloudinit,media=cdrom,size=4M"]),
        ("ipconfig0", &["ip=dhcp", "ip=10.0.0.2/24,gw=10.0.0.1"]),
        ("localtime", &["1"]),
        ("lock", &["backup"]),
        ("machine", &["q35", "pc-i440fx-9.0", "type=q35,viommu=intel"]),
        ("memory", &["512", "8192", "current=2048"]),
        ("name", &["db", "a_b", "1"]),
        ("net0", &["virtio=BC:24:11:AA:BB:CC,bridge=vmbr0", "e1000=BC:24:11:AA:BB:CC,bridge=vmbr0,speed=9"]),
        ("net1", &["virtio=bc:24:11:aa:bb:cd,bridge=vmbr0,tag=5,trunks=1;2"]),
        ("newer", &["1"]),
        ("numa", &["0", "1"]),
        ("onboot", &["0", "1"]),
        ("ostype", &["l26", "win11", "l28"]),
        ("protection", &["0", "1"]),
        ("scsi0", &["local-lvm:vm-101-disk-0,size=32G", "local:101/vm-101-disk-0.qcow2,size=32G,iothread=1", "/dev/sda", "new:x,later=1"]),
        ("scsihw", &["virtio-scsi-single", "lsi"]),
        ("serial0", &["socket", "/dev/ttyS0"]),
        ("smbios1", &["uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e,base64=1,serial=MQ=="]),
        ("sockets", &["1", "2"]),
        ("sshkeys", &["ssh-ed25519%20AAAA%20a%40b%0A", "%FF"]),
        ("startup", &["order=2,up=30", "1"]),
        ("tags", &["a;b", "B", "a;moorline", ""]),
        ("template", &["0"]),
        ("unused0", &["local-lvm:vm-101-disk-9"]),
        ("usb0", &["host=046d:c52b", "spice"]),
        ("vga", &["std", "virtio,memory=64", "qxl9"]),
        ("virtio0", &["local-lvm:vm-101-disk-2,backup=0,size=8G"]),
        ("vmgenid", &[UUID, "0"]),
    ];
    const LXC: &[(&str, &[&str])] = &[
        ("arch", &["amd64", "sparc"]),
        ("cores", &["2"]),
        ("description", &["a\n", "\n", "x\ny"]),
        ("dev0", &["/dev/fuse"]),
        ("features", &["nesting=1", "fuse=1,mount=nfs;cifs"]),
        ("hookscript", &["local:snippets/a.pl"]),
        ("hostname", &["dns", "a.b"]),
        ("lxc", &["lxc.apparmor.profile: unconfined"]),
        ("memory", &["512", "2048", "8"]),
        ("mp0", &["local-lvm:vm-101-disk-1,mp=/srv,size=8G", "/mnt/host,mp=/srv"]),
        ("nameserver", &["10.0.0.1 10.0.0.2"]),
        ("net0", &["name=eth0,bridge=vmbr0,hwaddr=BC:24:11:AA:BB:CC,ip=dhcp,type=veth"]),
        ("onboot", &["1"]),
        ("ostype", &["debian", "plan9"]),
        ("rootfs", &["local-lvm:vm-101-disk-0,size=8G", "local-zfs:subvol-101-disk-0,size=8G,mountoptions=noatime"]),
        ("searchdomain", &["example.org"]),
        ("startup", &["order=1"]),
        ("swap", &["512", "0"]),
        ("tags", &["infra"]),
        ("timezone", &["host", "Europe/Berlin"]),
        ("tty", &["2"]),
        ("unprivileged", &["1", "0"]),
        ("unused1", &["local-lvm:vm-101-disk-4"]),
    ];

    fn live() -> impl Strategy<Value = ObservedGuest> {
        let of = |kind: GuestKind, table: &'static [(&'static str, &'static [&'static str])]| {
            prop::sample::subsequence(table, 0..=table.len()).prop_flat_map(move |some| {
                let texts: Vec<_> = some.iter().map(|(key, texts)| (Just(*key), prop::sample::select(*texts))).collect();
                texts.prop_map(move |pairs| guest(kind, &pairs))
            })
        };
        prop_oneof![of(GuestKind::Qemu, QEMU), of(GuestKind::Lxc, LXC)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_a_guest_has_what_is_written_changes_nothing_of_it(live in live()) {
            let guests = BTreeMap::from([(vmid(101), live)]);
            let text = take(&guests, &[]).unwrap().text;
            let found = planned(&text, &guests);
            prop_assert!(found.blocked.is_empty() && found.drift.is_empty(), "{text}\n{found:#?}");
            prop_assert_eq!(found.steps.iter().map(|step| step.action.verb()).collect::<Vec<_>>(), ["adopt"], "{}", text);
            prop_assert!(planned(&text, &owned(&guests)).is_settled(), "{text}");
        }
    }
}
