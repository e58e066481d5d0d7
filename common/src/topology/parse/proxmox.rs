//! The `proxmox` section: guests and their configs.

use std::collections::BTreeMap;

use super::super::keys;
use super::super::node::{Kind, Node, Pair, Value, shorten};
use super::super::problem::nearest;
use super::super::vars::Why;
use super::super::{GuestSource, GuestSpec, Nanos, ObjectKind, Power, ProxmoxSpec, Reboot, Shutdown, Varying};
use super::docker::Extras;
use super::walk::{Fields, Filled, Walker};
use super::{Hydrated, drift, service};
use crate::pve::guest::{self, Config};
use crate::pve::keys::{self as settings, Shape};
use crate::pve::{GuestKind, Vmid, incarnation, names, scalar};

/// The longest that a guest may take to stop, in seconds.
const SHUTDOWN_MAX_S: u64 = 3600;

/// Reads a `proxmox` section.
pub(crate) fn proxmox(w: &mut Walker<'_>, node: &Node, extras: &mut Extras) -> Option<ProxmoxSpec> {
    if node.is_null() {
        return None;
    }
    let fields = w.object(node, &keys::PROXMOX)?;
    let guests = w.get(&fields, "guests", |w, node| (!node.is_null()).then(|| guests(w, node, extras)));
    Some(ProxmoxSpec { guests: guests.unwrap_or_default() })
}

fn guests(w: &mut Walker<'_>, node: &Node, extras: &mut Extras) -> BTreeMap<Vmid, GuestSpec> {
    let mut out = BTreeMap::new();
    for pair in w.map(node, "a map of guests by their numbers") {
        w.within(&pair.key, |w| {
            let vmid = match Vmid::parse(&pair.key) {
                Ok(vmid) => vmid,
                Err(wrong) => return w.report(pair.key_at, wrong.to_string()),
            };
            w.mark("", pair.key_at);
            w.varied = false;
            out.extend(guest(w, vmid, &pair.value).map(|guest| (vmid, guest)));
            if std::mem::take(&mut w.varied) {
                extras.varying.push(Varying { kind: ObjectKind::Guest, name: pair.key.clone(), node: pair.value.clone() });
            }
        });
    }
    out
}

/// Reads an entry under `guests` for one host.
pub(crate) fn hydrated(w: &mut Walker<'_>, number: &str, node: &Node) -> Option<Hydrated> {
    let vmid = Vmid::parse(number).ok()?;
    guest(w, vmid, node).map(|guest| Hydrated::Guest(vmid, Box::new(guest)))
}

/// Reads an entry under `guests`; `None` when it does not say what kind it is.
fn guest(w: &mut Walker<'_>, vmid: Vmid, node: &Node) -> Option<GuestSpec> {
    let fields = w.object(node, &keys::GUEST)?;
    for key in ["type", "from", "adopt", "reboot"].into_iter().filter(|key| fields.get(key).is_some()) {
        w.mark(key, fields.key_at(key));
    }
    let kind = w.get(&fields, "type", kind)?;
    Some(GuestSpec {
        kind,
        state: w.get(&fields, "state", |w, n| w.one_of(n, &[("running", Power::Running), ("stopped", Power::Stopped)])),
        config: w.get(&fields, "config", |w, n| (!n.is_null()).then(|| config(w, kind, n))).unwrap_or_default(),
        from: w.get(&fields, "from", |w, n| source(w, kind, vmid, n)),
        adopt: w.get(&fields, "adopt", |w, n| w.checked(n, |text| one_incarnation(kind, text))),
        drift: w.get(&fields, "drift", drift),
        shutdown: w.get(&fields, "shutdown", shutdown),
        reboot: w.get(&fields, "reboot", |w, n| w.one_of(n, &[("never", Reboot::Never), ("window", Reboot::Window), ("now", Reboot::Now)])),
    })
}

fn kind(w: &mut Walker<'_>, node: &Node) -> Option<GuestKind> {
    let before = w.problems.len();
    let kind = w.one_of(node, &[("qemu", GuestKind::Qemu), ("lxc", GuestKind::Lxc)]);
    if kind.is_none() && w.problems.len() == before && !node.is_wrong() {
        let why = Why::new("a guest's type is the same on every host: no variable of a host can stand here");
        w.report_why(node.at, why.help("write `qemu` or `lxc`"));
    }
    kind
}

fn one_incarnation(kind: GuestKind, text: &str) -> Result<String, Why> {
    if !incarnation::is_one(kind, text) {
        let what = match kind {
            GuestKind::Qemu => "virtual machine: that is `vm:` with its UUID and generation id",
            GuestKind::Lxc => "container: that is `ct:` with its root volume, `@` and when that was made",
        };
        let why = Why::new(format!("`{}` is no incarnation of a {what}", shorten(text)));
        return Err(why.help("`moorctl import proxmox --host NAME` finds it"));
    }
    // Ids of machines are in lower case; names of volumes have a case.
    Ok(if kind == GuestKind::Qemu { text.to_ascii_lowercase() } else { text.to_owned() })
}

/// `shutdown`: a span of time, or an object.
fn shutdown(w: &mut Walker<'_>, node: &Node) -> Option<Shutdown> {
    let Value::Map(_) = &node.value else {
        return Some(Shutdown { timeout_s: timeout(w, node), force: false });
    };
    let fields = w.object(node, &keys::SHUTDOWN)?;
    let force = w.get(&fields, "force", Walker::truth).unwrap_or_default();
    Some(Shutdown { timeout_s: w.get(&fields, "timeout", timeout), force })
}

fn timeout(w: &mut Walker<'_>, node: &Node) -> Option<u32> {
    const SECOND: u64 = 1_000_000_000;
    let Nanos(nanos) = service::span(w, node)?;
    let seconds = nanos / SECOND;
    if nanos.is_multiple_of(SECOND) && (1..=SHUTDOWN_MAX_S).contains(&seconds) {
        return u32::try_from(seconds).ok();
    }
    w.report(node.at, "a guest has whole seconds to stop, from `1s` to `1h`");
    None
}

/// What a guest may be made of, each with the keys that say more of it.
const SOURCES: [(&str, &[&str]); 4] = [
    ("clone", &["full", "snapshot", "storage", "pool"]),
    ("ostemplate", &["storage", "pool"]),
    ("archive", &["unique", "storage", "pool"]),
    ("iso", &["pool"]),
];

fn source(w: &mut Walker<'_>, kind: GuestKind, vmid: Vmid, node: &Node) -> Option<GuestSource> {
    let before = w.problems.len();
    let fields = w.object(node, &keys::FROM)?;
    let named: Vec<_> = SOURCES.iter().filter(|(key, _)| fields.get(key).is_some()).collect();
    match named[..] {
        [] if w.problems.len() == before => {
            let help = match kind {
                GuestKind::Qemu => "name one of `clone`, `archive` and `iso`, or leave `from` out for an empty machine",
                GuestKind::Lxc => "name one of `ostemplate`, `clone` and `archive`",
            };
            w.report_why(node.at, Why::new("this says nothing that a guest is made of").help(help));
        }
        [] => {}
        [(source, more)] => source_keys(w, kind, &fields, source, more),
        [(first, _), (second, _), ..] => {
            let why = format!("`{first}` and `{second}` both say what the guest is made of; only one of them can be");
            w.within(*second, |w| w.report(fields.key_at(second), why));
        }
    }
    let word = |check: fn(&str) -> Result<String, Why>| move |w: &mut Walker<'_>, n: &Node| w.checked(n, check);
    let name = |check: fn(&str) -> Result<(), scalar::Wrong>| move |w: &mut Walker<'_>, n: &Node| w.checked(n, |text| a_name(text, check));
    Some(GuestSource {
        clone: w.get(&fields, "clone", |w, n| cloned(w, vmid, n)),
        full: w.get(&fields, "full", Walker::truth),
        snapshot: w.get(&fields, "snapshot", name(names::snapshot)),
        ostemplate: w.get(
            &fields,
            "ostemplate",
            word(|text| volume(text, "vztmpl", "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst")),
        ),
        archive: w.get(
            &fields,
            "archive",
            word(|text| volume(text, "backup", "backups:backup/vzdump-qemu-101-2026_01_31-02_00_00.vma.zst")),
        ),
        unique: w.get(&fields, "unique", Walker::truth),
        iso: w.get(&fields, "iso", word(|text| volume(text, "iso", "local:iso/debian-12.iso"))),
        storage: w.get(&fields, "storage", name(names::storage)),
        pool: w.get(&fields, "pool", name(names::pool)),
    })
}

/// What else may be said of `source`, and of which kind of guest.
fn source_keys(w: &mut Walker<'_>, kind: GuestKind, fields: &Fields<'_>, source: &str, more: &[&str]) {
    match (source, kind) {
        ("ostemplate", GuestKind::Qemu) => {
            let why = Why::new("`ostemplate` is for containers: a virtual machine is not made of one");
            w.within(source, |w| w.report_why(fields.key_at(source), why.help("name a template's number as `clone`, or an `iso`")));
        }
        ("iso", GuestKind::Lxc) => {
            let why = Why::new("`iso` is for virtual machines: a container does not start from one");
            w.within(source, |w| w.report_why(fields.key_at(source), why.help("name an `ostemplate`")));
        }
        (_, GuestKind::Qemu | GuestKind::Lxc) => {}
    }
    let strange = fields.keys().filter(|key| *key != source && !more.contains(key) && keys::FROM.keys.iter().any(|k| k.name == *key));
    for key in strange.map(str::to_owned).collect::<Vec<_>>() {
        let of: Vec<String> = SOURCES.iter().filter(|(_, keys)| keys.contains(&key.as_str())).map(|(of, _)| format!("`{of}`")).collect();
        let why = Why::new(format!("`{key}` says nothing about `{source}`, but about {}", of.join(", "))).help("leave it out");
        w.within(&key, |w| w.report_why(fields.key_at(&key), why));
    }
    let is_linked = matches!(fields.get("full").map(|n| &n.value), Some(Value::Scalar { text, kind: Kind::Bool }) if text.eq_ignore_ascii_case("false"));
    if source == "clone" && is_linked && fields.get("storage").is_some() {
        let why = Why::new("a clone that shares the disks of its template has them where those are");
        w.within("storage", |w| w.report_why(fields.key_at("storage"), why.help("leave `storage` out, or write `full: true`")));
    }
}

fn cloned(w: &mut Walker<'_>, vmid: Vmid, node: &Node) -> Option<Vmid> {
    let filled = w.scalar(node, "a guest's number")?;
    w.understood(filled, node.at, |text| match Vmid::parse(text) {
        Ok(of) if of == vmid => Err(Why::new("a guest cannot be a clone of itself")),
        Ok(of) => Ok(of),
        Err(wrong) => Err(Why::new(wrong.to_string())),
    })
}

/// A volume of the kind `content` on a storage.
fn volume(text: &str, content: &str, example: &str) -> Result<String, Why> {
    a_name(text, |text| names::volume(text, content)).map_err(|why| why.help(format!("as in `{example}`")))
}

fn a_name(text: &str, check: impl FnOnce(&str) -> Result<(), scalar::Wrong>) -> Result<String, Why> {
    check(text).map(|()| text.to_owned()).map_err(|wrong| Why::new(wrong.to_string()))
}

fn config(w: &mut Walker<'_>, kind: GuestKind, node: &Node) -> Config {
    let mut out = Config::new();
    for pair in w.map(node, "a map of settings, in Proxmox VE's own keys") {
        let text = w.within(&pair.key, |w| {
            w.mark("", pair.key_at);
            setting(w, kind, pair)
        });
        out.extend(text.map(|text| (pair.key.clone(), text)));
    }
    out
}

/// One setting. While it is open, it is as written.
fn setting(w: &mut Walker<'_>, kind: GuestKind, pair: &Pair) -> Option<String> {
    let key = pair.key.as_str();
    let shape = match settings::find(kind, key) {
        Ok(known) => known.shape,
        Err(why) => {
            let mut problem = Why::new(format!("`{}` cannot stand here: {why}", shorten(key)));
            if settings::refusal(kind, key).is_none() {
                problem.suggestion = meant(kind, key);
            }
            w.report_why(pair.key_at, problem);
            return None;
        }
    };
    if pair.value.is_null() {
        let why = Why::new(format!("`{key}` has no value")).help("leave the key out: what is not named is not managed");
        w.report_why(pair.key_at, why);
        return None;
    }
    match text(w, key, shape, &pair.value)? {
        Filled::Open(text) => Some(text),
        Filled::Known(text) => match guest::check(kind, &Config::from([(key.to_owned(), text.clone())])) {
            Ok(()) => Some(text),
            Err(wrong) => {
                let why = wrong.get(key).map_or("it is no value of this key", String::as_str);
                w.report(pair.key_at, format!("`{key}`: {why}"));
                None
            }
        },
    }
}

/// What a setting's value says: yes and no as 1 and 0, and the items of a list with what parts them there.
fn text(w: &mut Walker<'_>, key: &str, shape: Shape, node: &Node) -> Option<Filled> {
    let (is_flag, between) = match shape {
        Shape::Bool(_) | Shape::Props(_) => (true, None),
        Shape::Text(_) => (key == settings::HOTPLUG, settings::is_list(key).then_some(" ")),
        Shape::Tags => (false, Some(";")),
        Shape::SshKeys => (false, Some("\n")),
        Shape::Int(..)
        | Shape::CpuUnits
        | Shape::Number(..)
        | Shape::Word(..)
        | Shape::DnsName
        | Shape::Description
        | Shape::PasswordHash
        | Shape::Volume(_)
        | Shape::Card(..)
        | Shape::Identity(..) => (false, None),
    };
    match (&node.value, between) {
        (Value::Scalar { text, kind: Kind::Bool }, _) if is_flag => {
            Some(Filled::Known(scalar::flag(text.eq_ignore_ascii_case("true")).to_owned()))
        }
        (Value::Scalar { kind: Kind::Bool, .. }, _) => {
            w.wanted(node, "text or a number");
            None
        }
        (Value::List(items), Some(between)) => listed(w, items, between),
        (Value::Scalar { .. } | Value::List(_) | Value::Map(_), _) => w.scalar(node, "text, a number, true or false"),
    }
}

fn listed(w: &mut Walker<'_>, items: &[Node], between: &str) -> Option<Filled> {
    let mut is_open = false;
    let mut words = Vec::new();
    for (n, item) in items.iter().enumerate() {
        let filled = w.within(format!("[{n}]"), |w| w.text(item))?;
        is_open |= matches!(filled, Filled::Open(_));
        words.push(filled.into_text());
    }
    let joined = words.join(between);
    Some(if is_open { Filled::Open(joined) } else { Filled::Known(joined) })
}

/// The key that was probably meant.
fn meant(kind: GuestKind, key: &str) -> Option<String> {
    match (kind, key) {
        (GuestKind::Qemu, "hostname") => return Some("name".to_owned()),
        (GuestKind::Lxc, "name") => return Some("hostname".to_owned()),
        (GuestKind::Qemu | GuestKind::Lxc, _) => {}
    }
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = key.get(stem.len()..).filter(|digits| !digits.is_empty()).unwrap_or("0");
    let found = nearest(stem, settings::all(kind).map(|(_, known)| known.name))?;
    let is_family = settings::all(kind).any(|(_, known)| known.name == found && known.count.is_some());
    let whole = if is_family { format!("{found}{number}") } else { found.to_owned() };
    settings::find(kind, &whole).is_ok().then_some(whole)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::id::{HostId, HostName};
    use crate::topology::{BoundHost, GuestSpec, Inputs, Shutdown, read, render_all};

    /// Guest 101 of a host with labels, by a file with these profiles and this guest of the host's own.
    fn guest(profile: &str, own: &str) -> GuestSpec {
        let text = format!(
            "topology: t\nprofiles: {{ p: {{ proxmox: {{ guests: {{ 101: {profile} }} }} }} }}\n\
             hosts: {{ pve-1: {{ use: [p], proxmox: {{ guests: {{ 101: {own} }} }} }} }}\n"
        );
        let variables = BTreeMap::from([("CORES".to_owned(), "4".to_owned()), ("KEY".to_owned(), "ssh-ed25519 AAAA $me".to_owned())]);
        let host = BoundHost {
            host_id: HostId::of_key(&[7; 32]),
            name: HostName::parse("pve-1").unwrap(),
            labels: BTreeMap::from([("vlan".to_owned(), "12".to_owned())]),
        };
        let file = read(text.as_bytes(), &Inputs { variables, ..Inputs::default() }).file;
        let slices = file.and_then(|file| file.slice(std::slice::from_ref(&host)));
        let slices = slices.unwrap_or_else(|problems| panic!("{}", render_all(&problems, "t.yaml")));
        slices.hosts[&host.host_id].guests().next().unwrap().1.clone()
    }

    fn config(own: &str) -> BTreeMap<String, String> {
        guest("{ type: qemu }", &format!("{{ type: qemu, config: {own} }}")).config
    }

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn settings_are_text_numbers_truth_values_and_lists() {
        let read = config(
            "{ cores: 4, cpulimit: 2.5, onboot: true, agent: true, kvm: false, name: \"true\", tags: [prod, db], \
               nameserver: [10.0.0.1, 10.0.0.2], sshkeys: [ssh-ed25519 AAAA a, ssh-ed25519 BBBB b] }",
        );
        let meant = pairs(&[
            ("cores", "4"),
            ("cpulimit", "2.5"),
            ("onboot", "1"),
            ("agent", "1"),
            ("kvm", "0"),
            ("name", "true"),
            ("tags", "prod;db"),
            ("nameserver", "10.0.0.1 10.0.0.2"),
            ("sshkeys", "ssh-ed25519 AAAA a\nssh-ed25519 BBBB b"),
        ]);
        assert_eq!(read, meant);
    }

    #[test]
    fn variables_of_the_host_and_of_the_operators_machine_are_filled_in_and_two_dollars_are_one() {
        let read = config(
            "{ name: \"db-${host.name}\", cores: \"${CORES}\", sockets: \"${SOCKETS:-2}\", cipassword: \"$$6$$salt$$hash\", \
               net0: \"virtio,bridge=vmbr0,tag=${host.labels.vlan}\", tags: [\"${host.name}\", db], sshkeys: [\"${KEY}\"] }",
        );
        let meant = pairs(&[
            ("name", "db-pve-1"),
            ("cores", "4"),
            ("sockets", "2"),
            ("cipassword", "$6$salt$hash"),
            ("net0", "virtio,bridge=vmbr0,tag=12"),
            ("tags", "pve-1;db"),
            ("sshkeys", "ssh-ed25519 AAAA $me"),
        ]);
        assert_eq!(read, meant);
    }

    #[test]
    fn what_a_host_says_of_a_guest_wins_setting_by_setting_and_sources_are_replaced_whole() {
        let merged = guest(
            "{ type: qemu, state: running, config: { cores: 2, memory: 2048 }, from: { clone: 9000, full: true }, shutdown: { force: true } }",
            "{ type: qemu, config: { memory: 4096 }, from: { iso: \"local:iso/a.iso\" }, shutdown: 90s }",
        );
        assert_eq!(merged.config, pairs(&[("cores", "2"), ("memory", "4096")]));
        let from = merged.from.unwrap();
        assert_eq!((from.clone, from.full, from.iso.as_deref()), (None, None, Some("local:iso/a.iso")));
        assert_eq!(merged.shutdown, Some(Shutdown { timeout_s: Some(90), force: false }));
        assert!(merged.state.is_some());
    }

    #[test]
    fn a_clone_may_be_named_by_text_and_an_incarnation_has_one_spelling() {
        let of = guest("{ type: qemu }", "{ type: qemu, from: { clone: \"9000\" } }").from.unwrap().clone.unwrap();
        assert_eq!(of.get(), 9000);
        let adopted = guest("{ type: qemu }", "{ type: qemu, adopt: \"vm:6E3C4AF2-7D60-4C8E-8F2A-0F6A1D6F9B7E\" }").adopt;
        assert_eq!(adopted.as_deref(), Some("vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"));
    }
}
