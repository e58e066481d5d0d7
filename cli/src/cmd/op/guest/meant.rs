//! Which guest is meant, and which one of those that have borne its number, by the host's verified report.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use moorline_common::observe::{EngineState, Observed, ObservedGuest, ObservedPve};
use moorline_common::op::guest::{CloneTo, Migrate, Restore};
use moorline_common::op::{Act, GuestOp};
use moorline_common::pve::{GuestKind, Vmid, incarnation};
use moorline_common::topology::nearest;

use super::kind_words;
use crate::client::{Client, HostView};
use crate::error::Failure;
use crate::limits::{GUEST_HOSTS_LOOKED, NAMES_SHOWN};
use crate::render::visible;

/// How a guest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By its number.
    Number(Vmid),
    /// By its name in the host's report.
    Name(String),
}

/// The guest that `text`, what stands behind a host's name, means: `101`, `guest/101`, `pve/guest/101`, or a name in the place of the
/// number behind `guest/`. `None` for what is no guest: bare digits out of the range of guests' numbers, too.
///
/// # Errors
/// A usage failure for a number behind `guest/` that no guest has.
pub fn named(text: &str) -> Result<Option<Named>, Failure> {
    let Some(guest) = text.strip_prefix("pve/guest/").or_else(|| text.strip_prefix("guest/")) else {
        return Ok(Vmid::parse(text).ok().map(Named::Number));
    };
    let is_number = !guest.is_empty() && guest.bytes().all(|b| b.is_ascii_digit());
    if !is_number && !guest.is_empty() {
        return Ok(Some(Named::Name(guest.to_owned())));
    }
    let vmid = Vmid::parse(guest).map_err(|e| Failure::usage(e.to_string(), "write HOST and the guest's number, such as pve-1/101"))?;
    Ok(Some(Named::Number(vmid)))
}

/// What Proxmox VE has by the host's report; `None` where the report had no room for it.
fn pve(observed: &Observed) -> Result<Option<&ObservedPve>, Failure> {
    match &observed.pve {
        Some(pve) => Ok(Some(pve)),
        None if observed.trimmed => Ok(None),
        None => Err(Failure::from(Fault::new(Code::NotFound, "the host's agent is not connected to Proxmox VE, by its last report"))
            .with_remedy("name the node's API and a token in its agent.toml, and run `moorline-agent doctor` there")),
    }
}

/// The guest in the host's report, if it is there.
#[must_use]
pub fn find(observed: Option<&Observed>, vmid: Vmid) -> Option<&ObservedGuest> {
    observed.and_then(|observed| observed.pve.as_ref()).and_then(|pve| pve.guests.get(&vmid))
}

/// The number of the guest that bears `name`.
///
/// # Errors
/// [`Code::NotFound`] with the nearest name; a usage failure when several bear it.
pub fn by_name(name: &str, observed: Option<&Observed>) -> Result<Vmid, Failure> {
    let pve = observed.map(pve).transpose()?.flatten();
    let Some(pve) = pve else {
        let message = format!("the host has sent no report by which to tell which guest is called `{name}`");
        return Err(Failure::from(Fault::new(Code::NotFound, message)).with_remedy("name the guest by its number"));
    };
    let all: Vec<Vmid> = pve.guests.iter().filter(|(_, guest)| guest.name.as_deref() == Some(name)).map(|(vmid, _)| *vmid).collect();
    match all.as_slice() {
        [one] => Ok(*one),
        [] => Err(no_such(&format!("called `{name}`"), name, pve, "")),
        several => {
            let numbers: Vec<String> = several.iter().map(Vmid::to_string).collect();
            Err(Failure::usage(
                format!("{} guests are called `{name}`", several.len()),
                format!("name one by its number: {}", numbers.join(", ")),
            ))
        }
    }
}

/// A guest for people: its number, and its name.
#[must_use]
pub fn title(vmid: Vmid, guest: Option<&ObservedGuest>) -> String {
    match guest.and_then(|guest| guest.name.as_deref()) {
        Some(name) => format!("{vmid} (`{}`)", visible(name)),
        None => vmid.to_string(),
    }
}

/// Which one of those that have borne the number is meant. `None`: any.
///
/// # Errors
/// [`Code::NotFound`] for a guest that the report does not have, with the nearest one; [`Code::NotOwned`] for a stranger;
/// [`Code::AlreadyExists`] for one that is to be made; a usage failure for what fits no guest.
pub fn incarnation(act: &Act, vmid: Vmid, wanted: Option<&str>, observed: Option<&Observed>) -> Result<Option<String>, Failure> {
    let op = if let Act::Guest(op) = act { Some(op) } else { None };
    let needed = op.is_some_and(GuestOp::needs_incarnation);
    if let Some(wanted) = wanted {
        return by_hand(act, wanted);
    }
    // What is about an operation, or lifts a hold, asks for no guest.
    let Some(op) = op else { return Ok(None) };
    let Some(pve) = observed.map(pve).transpose()?.flatten() else {
        return if needed {
            Err(unknown_incarnation("the host has sent no report by which to tell which guest is meant"))
        } else {
            Ok(None)
        };
    };
    let found = pve.guests.get(&vmid);
    if op.makes().is_some() {
        return found.map_or(Ok(None), |guest| Err(there_already(op, vmid, guest)));
    }
    let Some(guest) = found else {
        let or = if needed { "" } else { ", or, for one that is newer than the report, add `--incarnation any`" };
        return Err(missing(vmid, observed, or));
    };
    if !op.only_looks(guest.is_template) {
        require_ours(vmid, guest)?;
    }
    fits(op, vmid, guest, pve)?;
    if matches!(op, GuestOp::Start | GuestOp::Resume | GuestOp::Check(_)) {
        // It may be another one meanwhile, by a rollback, and nothing is lost by it.
        return Ok(None);
    }
    match &guest.incarnation {
        Some(incarnation) => Ok(Some(incarnation.clone())),
        None if needed => {
            let message = format!("the host's last report does not tell guest {} from others of its number", title(vmid, Some(guest)));
            Err(Failure::from(Fault::new(Code::PermissionDenied, message))
                .with_remedy("give the agent's token `Datastore.Audit` on the storage of its root volume, or add --incarnation ID"))
        }
        None => Ok(None),
    }
}

/// The incarnation that the operator names.
fn by_hand(act: &Act, wanted: &str) -> Result<Option<String>, Failure> {
    let op = if let Act::Guest(op) = act { Some(op) } else { None };
    let kind = act.kind();
    if wanted == "any" {
        if op.is_some_and(GuestOp::needs_incarnation) {
            let message = format!("`op {kind}` loses what a guest holds, and is never for any guest that bears the number");
            return Err(Failure::usage(message, "leave `--incarnation` out: then the guest in the host's last report is meant"));
        }
        return Ok(None);
    }
    if op.is_some_and(|op| op.makes().is_some()) {
        return Err(Failure::usage(
            format!("`op {kind}` makes a guest, and what is not there yet is no incarnation"),
            "leave `--incarnation` out",
        ));
    }
    if ![GuestKind::Qemu, GuestKind::Lxc].into_iter().any(|kind| incarnation::is_one(kind, wanted)) {
        let message = format!("`{wanted}` is no incarnation of a guest");
        return Err(Failure::usage(
            message,
            "write it as `moorctl get report HOST` shows it, such as vm:UUID:UUID or ct:STORAGE:VOLUME@SECONDS",
        ));
    }
    Ok(Some(wanted.to_owned()))
}

fn unknown_incarnation(message: &str) -> Failure {
    Failure::from(Fault::new(Code::NotFound, message)).with_remedy("wait for its report, or add --incarnation ID")
}

/// A guest that the report does not have; `or` what else there is to do.
#[must_use]
pub fn missing(vmid: Vmid, observed: Option<&Observed>, or: &str) -> Failure {
    let word = vmid.to_string();
    match observed.map(pve) {
        Some(Ok(Some(pve))) => no_such(&word, &word, pve, or),
        Some(Err(failure)) => failure,
        Some(Ok(None)) | None => {
            let message = format!("the host has sent no report that tells what guest {vmid} is");
            Failure::from(Fault::new(Code::NotFound, message)).with_remedy(format!("wait for its report{or}"))
        }
    }
}

/// The same failure; where it is that a host does not have a guest, with the host that has it.
pub async fn elsewhere(client: &Client, host: &HostView, resource: &ResourceId, failure: Failure) -> Failure {
    let Some(vmid) = Vmid::of(resource).filter(|_| failure.is(Code::NotFound)) else { return failure };
    let Ok(hosts) = client.hosts(None).await else { return failure };
    let others: Vec<&HostView> = hosts.iter().filter(|h| h.host_id != host.host_id && h.bound().is_some()).collect();
    if others.len() > GUEST_HOSTS_LOOKED {
        return failure;
    }
    let reports = client.reports(&others).await;
    let has = others.iter().zip(&reports).find_map(|(other, report)| {
        let report = report.as_ref().ok()?.as_ref()?;
        Some((&other.name, find(Some(&report.report.statement().observed), vmid)?))
    });
    match has {
        Some((name, guest)) => {
            let remedy = format!("host `{name}` has a guest {}: if that is meant, write {name}/{vmid}", title(vmid, Some(guest)));
            failure.with_remedy(remedy)
        }
        None => failure,
    }
}

/// What is not there is asked for; what there is of ours is told.
fn no_such(what: &str, word: &str, pve: &ObservedPve, or: &str) -> Failure {
    let node = if pve.node.is_empty() { String::new() } else { format!(" on node `{}`", visible(&pve.node)) };
    let message = format!("the host's last report has no guest {what}{node}");
    let ours = || pve.guests.iter().filter(|(vmid, guest)| require_ours(**vmid, guest).is_ok());
    let by_number: Vec<(String, Vmid)> = ours().map(|(vmid, _)| (vmid.to_string(), *vmid)).collect();
    let by_name = ours().filter_map(|(vmid, guest)| Some((guest.name.clone()?, *vmid)));
    let known: Vec<(String, Vmid)> = by_number.into_iter().chain(by_name).collect();
    let near = nearest(word, known.iter().map(|(word, _)| word.as_str()));
    let near = near.and_then(|near| known.iter().find(|(word, _)| word == near)).map(|(_, vmid)| *vmid);
    let hint = match near {
        Some(vmid) => format!("did you mean {}?", title(vmid, pve.guests.get(&vmid))),
        None => {
            let mut some: Vec<String> = ours().take(NAMES_SHOWN).map(|(vmid, guest)| title(*vmid, Some(guest))).collect();
            if ours().count() > NAMES_SHOWN {
                some.push("…".to_owned());
            }
            if some.is_empty() { "it has no guest of ours.".to_owned() } else { format!("it has {}.", some.join(", ")) }
        }
    };
    Failure::from(Fault::new(Code::NotFound, message)).with_remedy(format!("{hint} Look with `moorctl get guests`{or}"))
}

/// Whether Moorline may do anything with it.
///
/// # Errors
/// [`Code::NotOwned`]: what Moorline neither made nor took over is not touched.
pub fn require_ours(vmid: Vmid, guest: &ObservedGuest) -> Result<(), Failure> {
    if guest.owner.is_some() || guest.is_marked {
        return Ok(());
    }
    let message = format!(
        "guest {} is not one of ours by the host's last report: Moorline neither made it nor took it over",
        title(vmid, Some(guest))
    );
    let remedy = "take it over with `moorctl import proxmox`, or act on it in Proxmox VE itself";
    Err(Failure::from(Fault::new(Code::NotOwned, message)).with_remedy(remedy))
}

fn there_already(op: &GuestOp, vmid: Vmid, guest: &ObservedGuest) -> Failure {
    let message = format!("there is a guest {} already, by the host's last report", title(vmid, Some(guest)));
    let remedy = if matches!(op, GuestOp::Restore(_)) {
        "name a number that is free, or add `--over`: then what that guest holds is lost"
    } else {
        "name a number that is free; `moorctl get guests` lists those that are not"
    };
    Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy(remedy)
}

/// What the report tells already that the host would refuse.
fn fits(op: &GuestOp, vmid: Vmid, guest: &ObservedGuest, pve: &ObservedPve) -> Result<(), Failure> {
    if let GuestOp::Clone(CloneTo { newid, .. }) = op
        && let Some(there) = pve.guests.get(newid)
    {
        return Err(there_already(op, *newid, there));
    }
    if let GuestOp::Restore(Restore { kind, archive, .. }) = op
        && *kind != guest.kind
    {
        let (has, is) = (kind_words(*kind), kind_words(guest.kind));
        let message = format!("`{archive}` holds a {has}, and guest {} is a {is}", title(vmid, Some(guest)));
        return Err(Failure::usage(message, "restore it under a number that is free"));
    }
    if let GuestOp::Migrate(Migrate { target, .. }) = op
        && *target == pve.node
    {
        let message = format!("guest {} is on node `{target}` already", title(vmid, Some(guest)));
        return Err(Failure::usage(message, "name another node of its cluster"));
    }
    Ok(())
}

/// Why the report is not what there is now.
#[must_use]
pub fn doubt(observed: &Observed) -> Option<String> {
    let pve = observed.pve.as_ref()?;
    let why = pve.error.as_deref().map(|error| format!(": {}", visible(error))).unwrap_or_default();
    let is_seen = pve.engine == EngineState::Ready && pve.error.is_none();
    (!is_seen).then(|| format!("Proxmox VE could not be asked when the host reported{why}; its guests are as they were seen before"))
}

#[cfg(test)]
pub(in crate::cmd::op) mod tests {
    use std::collections::BTreeMap;

    use moorline_common::observe::{GuestStatus, Owner};
    use serde_json::json;

    use super::*;

    const MACHINE: &str = "vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e:0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e";

    fn vmid(number: u32) -> Vmid {
        Vmid::parse(&number.to_string()).unwrap()
    }

    fn guest(kind: GuestKind, name: &str) -> ObservedGuest {
        let value = json!({ "type": kind, "name": name, "status": GuestStatus::Running });
        serde_json::from_value(value).unwrap()
    }

    /// A host with a machine of a topology's, a marked container, a stranger, and a stranger's template.
    pub(in crate::cmd::op) fn observed() -> Observed {
        let owner = Owner {
            topology: "edge".to_owned(),
            resource: vmid(101).resource(),
            spec: String::new(),
            base: String::new(),
            adopted: false,
            hidden: None,
        };
        let db = ObservedGuest {
            owner: Some(owner),
            incarnation: Some(MACHINE.to_owned()),
            digest: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            ..guest(GuestKind::Qemu, "db")
        };
        let cache = ObservedGuest { is_marked: true, ..guest(GuestKind::Lxc, "cache") };
        let template = ObservedGuest { is_template: true, ..guest(GuestKind::Qemu, "template") };
        let guests = BTreeMap::from([
            (vmid(101), db),
            (vmid(205), cache),
            (vmid(900), guest(GuestKind::Qemu, "theirs")),
            (vmid(901), template),
            (vmid(902), guest(GuestKind::Qemu, "theirs")),
        ]);
        let pve = ObservedPve { engine: EngineState::Ready, node: "pve-1".to_owned(), guests, ..ObservedPve::default() };
        Observed { engine: EngineState::Ready, pve: Some(pve), ..Observed::default() }
    }

    fn act(kind: &str, params: &serde_json::Value) -> Act {
        Act::read(kind, params, &vmid(101).resource()).unwrap()
    }

    fn pick(kind: &str, params: &serde_json::Value, number: u32, wanted: Option<&str>) -> Result<Option<String>, Failure> {
        incarnation(&act(kind, params), vmid(number), wanted, Some(&observed()))
    }

    #[test]
    fn a_guest_is_named_by_its_number_or_behind_its_kind() {
        let number = |n| Some(Named::Number(vmid(n)));
        assert_eq!(named("101").unwrap(), number(101));
        assert_eq!(named("guest/101").unwrap(), number(101));
        assert_eq!(named("pve/guest/101").unwrap(), number(101));
        assert_eq!(named("guest/db").unwrap(), Some(Named::Name("db".to_owned())));
        for none in ["99", "0101", "edge-site-1", "container/101", "volume/101", "1000000000", ""] {
            assert_eq!(named(none).unwrap(), None, "{none}");
        }
        assert_eq!(named("guest/99").unwrap_err().exit, 64);
        assert_eq!(named("guest/").unwrap_err().exit, 64);
        assert_eq!(by_name("db", Some(&observed())).unwrap(), vmid(101));
        let several = by_name("theirs", Some(&observed())).unwrap_err();
        assert!(several.remedy.contains("900, 902"), "{several:?}");
        assert!(by_name("dbb", Some(&observed())).unwrap_err().remedy.contains("did you mean 101 (`db`)?"));
        assert!(by_name("db", None).unwrap_err().remedy.contains("number"));
    }

    #[test]
    fn what_loses_what_a_guest_holds_is_for_the_very_one_that_was_seen() {
        let archive = json!({ "type": "qemu", "archive": "nas:backup/vzdump-qemu-1.vma", "over": true });
        for (kind, params) in [
            ("destroy", json!({})),
            ("snapshot-delete", json!({ "name": "old" })),
            ("snapshot-rollback", json!({ "name": "old" })),
            ("restore", archive),
        ] {
            assert_eq!(pick(kind, &params, 101, None).unwrap().as_deref(), Some(MACHINE), "{kind}");
            assert_eq!(pick(kind, &params, 101, Some("any")).unwrap_err().exit, 64, "{kind}");
            assert_eq!(pick(kind, &params, 101, Some(MACHINE)).unwrap().as_deref(), Some(MACHINE), "{kind}");
            assert_eq!(pick(kind, &params, 101, Some("101")).unwrap_err().exit, 64, "{kind}");
            let unseen = incarnation(&act(kind, &params), vmid(101), None, None).unwrap_err();
            assert!(unseen.is(Code::NotFound) && unseen.remedy.contains("--incarnation ID"), "{unseen:?}");
        }
        let hidden = pick("destroy", &json!({}), 205, None).unwrap_err();
        assert!(hidden.is(Code::PermissionDenied) && hidden.remedy.contains("Datastore.Audit"), "{hidden:?}");
    }

    #[test]
    fn other_orders_name_it_where_the_report_does_and_what_starts_or_lifts_never_does() {
        for kind in ["stop", "shutdown", "reboot", "reset", "snapshot-list"] {
            assert_eq!(pick(kind, &json!({}), 101, None).unwrap().as_deref(), Some(MACHINE), "{kind}");
            assert_eq!(pick(kind, &json!({}), 205, None).unwrap(), None, "{kind}");
            assert_eq!(pick(kind, &json!({}), 101, Some("any")).unwrap(), None, "{kind}");
            assert_eq!(incarnation(&act(kind, &json!({})), vmid(300), None, None).unwrap(), None, "{kind}");
        }
        let check = json!({ "for_s": 1, "timeout_s": 2 });
        assert_eq!(pick("check", &check, 101, None).unwrap(), None, "it may have gone back to a snapshot since");
        for kind in ["start", "resume", "converge", "release"] {
            assert_eq!(pick(kind, &json!({}), 101, None).unwrap(), None, "{kind}");
        }
        assert_eq!(pick("release", &json!({}), 300, None).unwrap(), None, "a hold outlives its guest");
    }

    #[test]
    fn what_is_made_is_not_there_yet() {
        let create = json!({ "type": "qemu" });
        assert_eq!(pick("create", &create, 300, None).unwrap(), None);
        assert!(pick("create", &create, 101, None).unwrap_err().is(Code::AlreadyExists));
        assert_eq!(pick("create", &create, 300, Some(MACHINE)).unwrap_err().exit, 64);
        let restore = json!({ "type": "qemu", "archive": "nas:backup/vzdump-qemu-1.vma" });
        assert!(pick("restore", &restore, 900, None).unwrap_err().remedy.contains("--over"));
        assert!(pick("clone", &json!({ "newid": "205" }), 101, None).unwrap_err().is(Code::AlreadyExists));
        let other = json!({ "type": "lxc", "archive": "nas:backup/vzdump-lxc-1.tar", "over": true });
        assert!(pick("restore", &other, 101, None).unwrap_err().message.contains("holds a container"));
        assert!(pick("migrate", &json!({ "target": "pve-1" }), 101, None).unwrap_err().message.contains("already"));
        assert!(pick("migrate", &json!({ "target": "pve-2" }), 101, None).is_ok());
    }

    #[test]
    fn strangers_are_not_touched_and_unknown_numbers_get_the_nearest_known_one() {
        let stranger = pick("stop", &json!({}), 900, None).unwrap_err();
        assert!(stranger.is(Code::NotOwned) && stranger.remedy.contains("moorctl import proxmox"), "{stranger:?}");
        assert!(pick("snapshot-list", &json!({}), 900, None).is_ok(), "looking is no touch");
        assert!(pick("clone", &json!({ "newid": "300" }), 901, None).is_ok(), "nor is making a copy of a template");
        assert!(pick("clone", &json!({ "newid": "300" }), 900, None).unwrap_err().is(Code::NotOwned));
        for (number, says) in [(102, "did you mean 101 (`db`)?"), (777, "it has 101 (`db`), 205 (`cache`).")] {
            let unknown = pick("stop", &json!({}), number, None).unwrap_err();
            assert!(unknown.is(Code::NotFound) && unknown.remedy.contains(says) && unknown.message.contains("`pve-1`"), "{unknown:?}");
            assert!(!unknown.remedy.contains("theirs") && unknown.remedy.contains("--incarnation any"), "{unknown:?}");
        }
        assert!(!pick("destroy", &json!({}), 777, None).unwrap_err().remedy.contains("--incarnation any"));
        let none = Observed { pve: None, ..observed() };
        let stop = act("stop", &json!({}));
        assert!(incarnation(&stop, vmid(101), None, Some(&none)).unwrap_err().message.contains("not connected to Proxmox VE"));
        let cut = Observed { trimmed: true, ..none };
        assert_eq!(incarnation(&stop, vmid(101), None, Some(&cut)).unwrap(), None);
    }

    #[test]
    fn guests_that_could_not_be_asked_for_are_told_to_be_old() {
        let mut observed = observed();
        assert_eq!(doubt(&observed), None);
        observed.pve.as_mut().unwrap().error = Some("no route".to_owned());
        assert!(doubt(&observed).unwrap().contains("no route"));
    }
}
