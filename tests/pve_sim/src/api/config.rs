//! Reading and changing configs.
//!
//! Source: `PVE::API2::Qemu::update_vm_api`, `PVE::API2::LXC::Config`, `PVE::GuestHelpers::config_with_pending_array`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Call, Change, Fail, Outcome, lxc, permissions, qemu};
use crate::normal::drive::{Drive, is_machine_drive, split};
use crate::normal::net::Card;
use crate::normal::types;
use crate::work::Work;
use crate::world::World;
use crate::world::guest::{Config, Guest, Kind};

/// A config in JSON.
pub(crate) fn to_json(kind: Kind, config: &Config) -> Map<String, Value> {
    let masked = |key: &str, value: &str| if key == "cipassword" { json!("**********") } else { types::json(kind, key, value) };
    config.iter().map(|(key, value)| (key.clone(), masked(key, value))).collect()
}

/// `GET …/config`: merged with what is pending, as it runs, or as it was at a snapshot.
pub(crate) fn read(world: &mut World, call: &Call) -> Outcome {
    if call.get("snapshot").is_some() && call.is("current") {
        let words = "cannot use 'snapshot' parameter with 'current'".to_owned();
        return Err(Fail::bads(BTreeMap::from([("snapshot".to_owned(), words.clone()), ("current".to_owned(), words)])));
    }
    let guest = world.guest_of(call)?;
    let config = match call.get("snapshot") {
        Some(name) => guest.snapshots.get(name).cloned().ok_or_else(|| Fail::die(format!("snapshot '{name}' does not exist")))?,
        None if call.is("current") => guest.conf.clone(),
        None => guest.merged(),
    };
    let mut all = to_json(call.kind, &config);
    all.insert("digest".to_owned(), json!(guest.digest()));
    Ok(Value::Object(all))
}

/// `GET …/pending`
pub(crate) fn pending(world: &mut World, call: &Call) -> Outcome {
    let guest = world.guest_of(call)?;
    let shown = |config: &Config| to_json(call.kind, config);
    let (now, next, deleted) = (shown(&guest.conf), shown(&guest.pending), guest.pending_deletes());
    let mut all = vec![json!({ "key": "digest", "value": guest.digest() })];
    for (key, value) in &now {
        let mut item = json!({ "key": key, "value": value });
        if let Some(object) = item.as_object_mut() {
            if let Some(next) = next.get(key) {
                object.insert("pending".to_owned(), next.clone());
            }
            if let Some(force) = deleted.get(key) {
                object.insert("delete".to_owned(), json!(if *force { 2 } else { 1 }));
            }
        }
        all.push(item);
    }
    all.extend(
        next.iter()
            .filter(|(key, _)| *key != "delete" && !now.contains_key(*key))
            .map(|(key, value)| json!({ "key": key, "pending": value })),
    );
    Ok(Value::Array(all))
}

/// `GET …/cloudinit`
pub(crate) fn cloudinit(world: &mut World, call: &Call) -> Outcome {
    let guest = world.guest_of(call)?;
    let keys = ["cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys"];
    let all = to_json(Kind::Qemu, &guest.conf);
    Ok(keys.iter().filter_map(|key| all.get(*key).map(|value| json!({ "key": key, "value": value }))).collect())
}

/// `PUT …/cloudinit`
pub(crate) fn renew_cloudinit(world: &mut World, call: &Call) -> Outcome {
    world.take_file(call.vmid)?;
    super::check_lock(world.guest_of(call)?).map_err(Fail::die)?;
    Ok(Value::Null)
}

/// `PUT …/config`
pub(crate) fn change(world: &mut World, call: &Call) -> Outcome {
    let change = prepare(world, call)?;
    check_now(world, call, &change)?;
    world.take_file(call.vmid)?;
    match call.kind {
        Kind::Qemu => qemu::apply(world, call.vmid, &change)?,
        Kind::Lxc => lxc::apply(world, call.vmid, &change)?,
    }
    Ok(Value::Null)
}

/// `POST …/config`: by a worker. With `background_delay` the call waits for it, and answers nothing when it was done in that time.
pub(crate) fn change_later(world: &mut World, call: &Call) -> Outcome {
    let change = prepare(world, call)?;
    check_now(world, call, &change)?;
    let upid = world.spawn(&call.node, "qmconfig", &call.vmid.to_string(), &call.who, Work::Config { vmid: call.vmid, change });
    let Some(delay_s) = call.number("background_delay") else { return Ok(json!(upid)) };
    Err(Fail::Await { upid, until_ms: world.now_ms.saturating_add(delay_s.saturating_mul(1000)) })
}

/// `PUT …/unlink`
pub(crate) fn unlink(world: &mut World, call: &Call) -> Outcome {
    let mut params = call.params.clone();
    if let Some(list) = params.remove("idlist") {
        params.insert("delete".to_owned(), list);
    }
    let (who, node, names) = (call.who.clone(), call.node.clone(), call.names.clone());
    change(world, &Call { number: call.number, who, node, kind: call.kind, vmid: call.vmid, names, params })
}

/// What is checked before anything is locked or a worker is begun.
fn check_now(world: &World, call: &Call, change: &Change) -> Result<(), Fail> {
    let guest = world.guest_of(call)?;
    match call.kind {
        Kind::Qemu => qemu::check(guest, change),
        Kind::Lxc => lxc::check(guest, change),
    }
}

const NOT_CONFIG: [&str; 7] = ["delete", "revert", "digest", "force", "skiplock", "background_delay", "import-working-storage"];

fn words(call: &Call, key: &str) -> Vec<String> {
    let list = call.get(key).unwrap_or_default();
    list.split([',', ';', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn prepare(world: &mut World, call: &Call) -> Result<Change, Fail> {
    call.only_root(&["skiplock"])?;
    let given: Config =
        call.params.iter().filter(|(key, _)| !NOT_CONFIG.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    let (mut delete, revert) = (words(call, "delete"), words(call, "revert"));
    if given.is_empty() && delete.is_empty() && revert.is_empty() {
        return Err(Fail::die("no options specified"));
    }
    check_keys(&given)?;
    let mut set = kept(call.kind, &given)?;
    if call.kind == Kind::Qemu {
        alias_cdrom(&mut set);
        for key in delete.iter_mut().filter(|key| *key == "cdrom") {
            *key = "ide2".to_owned();
        }
    }
    for (name, keys, other) in [("revert", &revert, None), ("delete", &delete, Some(&revert))] {
        for key in keys {
            if types::of(call.kind, key).is_none() {
                return Err(Fail::bad(name, format!("unknown option '{key}'")));
            }
            if set.contains_key(key) {
                return Err(Fail::bad("delete", format!("you can't use '-{key}' and -{name} {key}' at the same time")));
            }
            if other.is_some_and(|other| other.contains(key)) {
                return Err(Fail::bad("revert", format!("you can't use '-delete {key}' and -revert {key}' at the same time")));
            }
        }
    }
    match call.kind {
        Kind::Qemu => {
            normalise_machine(world, &mut set)?;
            permissions::check_machine_keys(world, &call.who, call.vmid, None, delete.iter().chain(set.keys()))?;
            permissions::check_storages(world, call, Kind::Qemu, &set, None)?;
            permissions::check_bridges(world, &call.who, &set)?;
        }
        Kind::Lxc => {
            let is_unprivileged = world.guests.get(&call.vmid).is_none_or(|guest| guest.is_set("unprivileged"));
            permissions::check_container_keys(world, &call.who, call.vmid, None, &set, &delete, is_unprivileged)?;
            permissions::check_bridges(world, &call.who, &set)?;
        }
    }
    Ok(Change {
        set,
        delete,
        revert,
        force: call.is("force"),
        digest: call.get("digest").map(str::to_owned),
        skiplock: call.is("skiplock"),
        who: call.who.clone(),
    })
}

/// Values as the file keeps them.
pub(crate) fn kept(kind: Kind, given: &Config) -> Result<Config, Fail> {
    let mut set = Config::new();
    for (key, value) in given {
        let value = types::kept(kind, key, value).map_err(|words| Fail::bad(key, words))?;
        let value = if key == "cpuunits" { value.parse().map_or(value, |n: u32| n.clamp(1, 10_000).to_string()) } else { value };
        set.insert(key.clone(), value);
    }
    Ok(set)
}

/// Public keys are looked at before anything is kept. Source: `PVE::Tools::validate_ssh_public_keys`.
pub(crate) fn check_keys(given: &Config) -> Result<(), Fail> {
    let text = given.get("sshkeys").map(|text| crate::request::decode(text)).or_else(|| given.get("ssh-public-keys").cloned());
    let kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    let is_key = |line: &str| line.split_whitespace().count() > 1 && kinds.iter().any(|kind| line.contains(kind));
    let text = text.unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines.all(is_key) { Ok(()) } else { Err(Fail::die("SSH public key validation error")) }
}

/// `cdrom` is another name of `ide2`.
pub(crate) fn alias_cdrom(set: &mut Config) {
    if let Some(value) = set.remove("cdrom") {
        let value = if value.contains("media=") { value } else { format!("{value},media=cdrom") };
        set.insert("ide2".to_owned(), value);
    }
}

/// The form of a virtual machine's drives, cards and generation.
pub(crate) fn normalise_machine(world: &mut World, set: &mut Config) -> Result<(), Fail> {
    for (key, value) in set.iter_mut() {
        if is_machine_drive(key) {
            *value = Drive::parse(value).ok_or_else(|| Fail::bad(key, "unable to parse drive options"))?.print();
        } else if matches!(split(key), ("net", Some(_))) {
            let card = Card::parse(value)
                .ok_or_else(|| Fail::bad(key, "invalid format - format error\nmodel: property is missing and it is not optional"))?;
            *value = card.print(|| world.random.mac());
        } else if key == "vmgenid" && value == "1" {
            *value = world.random.uuid();
        }
    }
    Ok(())
}

impl World {
    /// Tags as this datacenter keeps them.
    pub(crate) fn tags(&self, text: &str) -> String {
        crate::normal::text::tags(text, self.setup.case_sensitive_tags, self.setup.tags_keep_order)
    }

    /// Changes a guest that is there.
    pub(crate) fn edit<T>(&mut self, vmid: u32, edit: impl FnOnce(&mut Guest) -> T) -> Option<T> {
        self.guests.get_mut(&vmid).map(edit)
    }
}
