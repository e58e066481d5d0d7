//! Looking at a node: its lists, and of the guests that matter their configs.
//!
//! A guest's file has a digest over all that it says, with its snapshots and with what waits for a start. While that stays nothing but
//! the config itself is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use moorline_common::fault::Code;
use moorline_common::observe::{EngineState, GuestStatus, ObservedGuest, ObservedPve, ObservedSnapshot, TAG};
use moorline_common::plan::guest::{marker, note_key};
use moorline_common::pve::answer::ErrorKind;
use moorline_common::pve::guest::{Config, GuestConfig};
use moorline_common::pve::keys::{self, Shape};
use moorline_common::pve::property::Whose;
use moorline_common::pve::value::{self, Normal};
use moorline_common::pve::volume::Source;
use moorline_common::pve::{GuestKind, Vmid, incarnation, lenient, scalar, tags};
use serde_json::Value;

use super::super::{DriverError, Ownership};
use super::client::{CallError, Client, GuestAt, Params, Transport, Verb, params};
use super::task;
use crate::limits::PVE_CALLS_AT_ONCE;

/// What a config says of a guest besides its settings.
const NO_SETTINGS: [&str; 12] = [
    "lock",
    "parent",
    "snapstate",
    "snaptime",
    "vmstate",
    "runningcpu",
    "runningmachine",
    "running-nets-host-mtu",
    "template",
    "meta",
    "digest",
    "pending",
];

/// What was seen of guests by their files, to be asked for again when those change. It is kept as it is read: a look that takes too long
/// leaves less for the next one.
#[derive(Default)]
pub(super) struct Seen(Mutex<BTreeMap<Vmid, Detail>>);

impl Seen {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vmid, Detail>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a guest's file says.
#[derive(Debug, Clone)]
struct Detail {
    digest: Option<String>,
    status: GuestStatus,
    config: GuestConfig,
    incarnation: Option<String>,
    snapshots: BTreeMap<String, ObservedSnapshot>,
}

/// Looks at the node.
///
/// # Errors
/// [`DriverError`] when its lists cannot be had. A single guest that cannot be read has no config.
pub(super) async fn observe<T: Transport>(client: &Client<T>, owned: &Ownership, seen: &Seen) -> Result<ObservedPve, DriverError> {
    let failed = |e: CallError| e.into_driver(Code::EngineUnreachable, OBSERVING);
    let version = client.call(Verb::Get, &["version"], &Params::new()).await.map_err(failed)?;
    let mut guests = all(client).await.map_err(failed)?;
    for (vmid, kind) in task::running(client).await.map_err(failed)? {
        guests.entry(vmid).and_modify(|guest| guest.task = Some(kind));
    }
    let details = details(client, &guests, |vmid, guest| matters(owned, vmid, guest), seen).await?;
    seen.lock().retain(|vmid, _| details.contains_key(vmid));
    for (vmid, detail) in details {
        guests.entry(vmid).and_modify(|guest| fill(owned, vmid, guest, detail));
    }
    Ok(ObservedPve {
        engine: EngineState::Ready,
        error: None,
        version: lenient::text(version.get("version")),
        node: client.node().to_owned(),
        guests,
    })
}

const OBSERVING: &str = "observing Proxmox VE";

/// The node's guests with their configs, also those of others: `wanted`, or all when that is empty. See [`moorline_common::survey::Survey`].
///
/// # Errors
/// As [`observe`].
pub(super) async fn survey<T: Transport>(
    client: &Client<T>,
    owned: &Ownership,
    wanted: &BTreeSet<Vmid>,
) -> Result<BTreeMap<Vmid, ObservedGuest>, DriverError> {
    let mut guests = all(client).await.map_err(|e| e.into_driver(Code::OpFailed, OBSERVING))?;
    guests.retain(|vmid, _| wanted.is_empty() || wanted.contains(vmid));
    for (vmid, detail) in details(client, &guests, |_, _| true, &Seen::default()).await? {
        guests.entry(vmid).and_modify(|guest| {
            fill(owned, vmid, guest, detail);
            (guest.snapshots, guest.digest) = (BTreeMap::new(), None);
        });
    }
    Ok(guests)
}

/// The node's guests as it lists them.
async fn all<T: Transport>(client: &Client<T>) -> Result<BTreeMap<Vmid, ObservedGuest>, CallError> {
    let mut guests = BTreeMap::new();
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        // Whether a machine is frozen is told by a full list alone.
        let asked = if kind == GuestKind::Qemu { params([("full", "1")]) } else { Params::new() };
        let list = client.of_node(Verb::Get, &[kind.as_str()], &asked).await?;
        guests.extend(list.as_array().into_iter().flatten().filter_map(|entry| listed(kind, entry)));
    }
    for vmid in managed_elsewhere(client).await? {
        guests.entry(vmid).and_modify(|guest| guest.is_ha_managed = true);
    }
    Ok(guests)
}

/// The files of those of `guests` that matter, as far as the token may read them.
async fn details<T: Transport>(
    client: &Client<T>,
    guests: &BTreeMap<Vmid, ObservedGuest>,
    matters: impl Fn(Vmid, &ObservedGuest) -> bool,
    seen: &Seen,
) -> Result<BTreeMap<Vmid, Detail>, DriverError> {
    let asked: Vec<(Vmid, GuestKind, GuestStatus)> =
        guests.iter().filter(|(vmid, guest)| matters(**vmid, guest)).map(|(vmid, guest)| (*vmid, guest.kind, guest.status)).collect();
    let read: Vec<(Vmid, Option<Detail>)> = stream::iter(asked)
        .map(|(vmid, kind, status)| async move {
            let before = seen.lock().get(&vmid).cloned();
            let read = detail(client, GuestAt { kind, vmid }, status, before).await?;
            if let Some(read) = &read {
                seen.lock().insert(vmid, read.clone());
            }
            Ok::<_, DriverError>((vmid, read))
        })
        .buffer_unordered(PVE_CALLS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(read.into_iter().filter_map(|(vmid, detail)| Some((vmid, detail?))).collect())
}

/// Whether more than the list tells of a guest is asked for: it is ours, or may be, or is named by the slice.
fn matters(owned: &Ownership, vmid: Vmid, guest: &ObservedGuest) -> bool {
    guest.is_marked || owned.known.owner(&note_key(vmid)).is_some() || owned.known.is_wanted(vmid)
}

/// Whether a config says yes to `key`.
pub(super) fn is_on(config: &Config, key: &str) -> bool {
    config.get(key).is_some_and(|text| scalar::boolean(text).unwrap_or(false))
}

/// Whether a guest runs, by its status.
pub(super) fn status_of(answer: &Value) -> GuestStatus {
    let text = |key: &str| lenient::text(answer.get(key)).unwrap_or_default();
    match (text("status").as_str(), text("qmpstatus").as_str()) {
        ("running", "paused" | "suspended" | "prelaunch") | ("paused" | "suspended", _) => GuestStatus::Paused,
        ("running", _) => GuestStatus::Running,
        (_, _) => GuestStatus::Stopped,
    }
}

/// A guest as its node lists it.
fn listed(kind: GuestKind, entry: &Value) -> Option<(Vmid, ObservedGuest)> {
    let vmid = Vmid::parse(&lenient::uint(entry.get("vmid")?)?.to_string()).ok()?;
    let text = |key: &str| lenient::text(entry.get(key));
    let guest = ObservedGuest {
        kind,
        name: text("name"),
        status: status_of(entry),
        owner: None,
        is_marked: text("tags").is_some_and(|text| tags::has(&text, TAG)),
        incarnation: None,
        is_template: lenient::flag(entry.get("template")),
        lock: text("lock"),
        task: None,
        is_ha_managed: false,
        snapshots: BTreeMap::new(),
        config: None,
        digest: None,
    };
    Some((vmid, guest))
}

/// The guests that the cluster's resource manager starts and stops, as far as the token may see.
async fn managed_elsewhere<T: Transport>(client: &Client<T>) -> Result<BTreeSet<Vmid>, CallError> {
    let all = client.call(Verb::Get, &["cluster", "resources"], &params([("type", "vm")])).await?;
    let is_managed = |entry: &&Value| lenient::text(entry.get("hastate")).is_some_and(|state| state != "unmanaged" && state != "ignored");
    let vmid = |entry: &Value| Vmid::parse(&lenient::uint(entry.get("vmid")?)?.to_string()).ok();
    Ok(all.as_array().into_iter().flatten().filter(is_managed).filter_map(vmid).collect())
}

fn fill(owned: &Ownership, vmid: Vmid, guest: &mut ObservedGuest, detail: Detail) {
    let said = detail.config.set.get("description").map(|text| text.trim_end());
    guest.is_marked |= said == Some(marker(&owned.host_id, vmid).as_str());
    guest.incarnation = detail.incarnation;
    let note = owned.known.owner(&note_key(vmid));
    guest.owner = note.filter(|owner| Some(owner.base.as_str()) == guest.lasting());
    guest.snapshots = detail.snapshots;
    guest.digest = detail.digest;
    guest.config = Some(Box::new(detail.config));
}

/// A guest's file; `None` when it, or what tells which guest it is, cannot be read, or it is gone by now.
///
/// # Errors
/// [`DriverError`] when the host does not answer at all.
async fn detail<T: Transport>(
    client: &Client<T>,
    guest: GuestAt,
    status: GuestStatus,
    before: Option<Detail>,
) -> Result<Option<Detail>, DriverError> {
    match read_detail(client, guest, status, before).await {
        Ok(detail) => Ok(Some(detail)),
        // What is wrong with one guest, its storage or the token's rights to it keeps the others from nothing.
        Err(CallError::Api(error)) => {
            tracing::debug!(vmid = %guest.vmid, %error, "a guest cannot be read");
            Ok(None)
        }
        Err(error @ CallError::NoReply(_)) => {
            Err(error.into_driver(Code::EngineUnreachable, &format!("reading the config of guest {}", guest.vmid)))
        }
    }
}

async fn read_detail<T: Transport>(
    client: &Client<T>,
    guest: GuestAt,
    status: GuestStatus,
    before: Option<Detail>,
) -> Result<Detail, CallError> {
    let (set, digest) = read_config(client, guest).await?;
    if let Some(before) = before.filter(|before| before.digest == digest && digest.is_some() && before.status == status) {
        // The right to see which one it is may have been given since.
        let incarnation = match before.incarnation {
            Some(incarnation) => Some(incarnation),
            None => incarnation_of(client, guest, &set).await?,
        };
        return Ok(Detail { incarnation, ..before });
    }
    let running = match status {
        GuestStatus::Stopped => BTreeMap::new(),
        GuestStatus::Running | GuestStatus::Paused => {
            let current = client.of_guest(Verb::Get, guest, &["config"], &params([("current", "1")])).await?;
            difference(&set, &settings(&current).0)
        }
    };
    let snapshots = snapshots(&client.of_guest(Verb::Get, guest, &["snapshot"], &Params::new()).await?);
    let incarnation = incarnation_of(client, guest, &set).await?;
    Ok(Detail { digest, status, config: GuestConfig { kind: guest.kind, set, running }, incarnation, snapshots })
}

fn is_hidden(error: &CallError) -> bool {
    matches!(error.kind(), Some(ErrorKind::NotFound | ErrorKind::Forbidden))
}

/// A guest's config with what waits for its next start, and the digest of its file.
pub(super) async fn read_config<T: Transport>(client: &Client<T>, guest: GuestAt) -> Result<(Config, Option<String>), CallError> {
    Ok(settings(&client.of_guest(Verb::Get, guest, &["config"], &Params::new()).await?))
}

/// A config without what is no setting.
fn settings(answer: &Value) -> (Config, Option<String>) {
    let (mut config, digest) = lenient::config(answer);
    let is_unused = |key: &str| key.starts_with("unused") && key.ends_with(|c: char| c.is_ascii_digit());
    config.retain(|key, _| !NO_SETTINGS.contains(&key.as_str()) && !is_unused(key));
    (config, digest)
}

/// What a guest runs with where that is otherwise than set.
fn difference(set: &Config, current: &Config) -> BTreeMap<String, Option<String>> {
    let keys: BTreeSet<&String> = set.keys().chain(current.keys()).collect();
    let differs = keys.into_iter().filter(|key| set.get(*key) != current.get(*key));
    differs.map(|key| (key.clone(), current.get(key).cloned())).collect()
}

/// The snapshots in a list, without the entry that stands for the present.
pub(super) fn snapshots(list: &Value) -> BTreeMap<String, ObservedSnapshot> {
    let one = |entry: &Value| {
        let name = lenient::text(entry.get("name")).filter(|name| name != "current")?;
        let at = entry.get("snaptime").and_then(lenient::uint).unwrap_or_default();
        let has_memory = lenient::flag(entry.get("vmstate"));
        Some((name, ObservedSnapshot { parent: lenient::text(entry.get("parent")), at, has_memory }))
    };
    list.as_array().into_iter().flatten().filter_map(one).collect()
}

/// Which one of those a guest is that have borne its number; `None` when the token may not see what tells it.
/// Storages that do not tell when a volume was made (ZFS, RBD) leave a container's first network card.
///
/// # Errors
/// [`CallError`] when nobody can say now.
pub(super) async fn incarnation_of<T: Transport>(client: &Client<T>, guest: GuestAt, config: &Config) -> Result<Option<String>, CallError> {
    if guest.kind == GuestKind::Qemu {
        return Ok(incarnation::of_machine(config));
    }
    let shape = keys::find(GuestKind::Lxc, "rootfs").map(|key| key.shape).unwrap_or(Shape::Text(None));
    let root = config.get("rootfs").and_then(|text| value::normal(shape, text, Whose::Theirs).ok().flatten());
    let Some(Normal::Volume(volume)) = root else { return Ok(None) };
    let Source::Existing { storage, name } = &volume.source else { return Ok(None) };
    let asked = params([("content", "rootdir"), ("vmid", guest.vmid.to_string().as_str())]);
    let contents = match client.of_node(Verb::Get, &["storage", storage, "content"], &asked).await {
        Ok(contents) => contents,
        Err(error) if is_hidden(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let volid = format!("{storage}:{name}");
    let found = contents.as_array().into_iter().flatten().find(|entry| lenient::text(entry.get("volid")).as_deref() == Some(&volid));
    Ok(found.map(|entry| match entry.get("ctime").and_then(lenient::uint) {
        Some(made_s) => incarnation::of_container(&volid, made_s),
        None => incarnation::of_undated_container(&volid, config),
    }))
}
