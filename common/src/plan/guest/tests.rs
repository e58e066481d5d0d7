//! Guests, on the model engine.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::model::Engine;
use super::super::testing::{identity, settle, spec, verbs};
use super::super::{Given, Mend, Plan, plan, plan_given};
use super::*;
use crate::observe::{BURIED_TAG, GuestStatus, ObservedPve};
use crate::pve::GuestKind;
use crate::pve::guest::Config;
use crate::topology::HostSpec;

fn vmid(number: u32) -> Vmid {
    Vmid::parse(&number.to_string()).unwrap()
}

fn host() -> Engine {
    Engine { pve: Some(ObservedPve { node: "pve-1".to_owned(), ..ObservedPve::default() }), ..Engine::default() }
}

fn one(guest: serde_json::Value) -> HostSpec {
    spec(json!({ "proxmox": { "guests": { "101": guest } } }))
}

fn db() -> HostSpec {
    one(json!({ "type": "qemu", "state": "running", "config": { "name": "db", "memory": "4096", "tags": "prod" } }))
}

fn live(engine: &mut Engine) -> &mut ObservedGuest {
    engine.pve.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap()
}

fn set(engine: &mut Engine, key: &str, text: &str) {
    live(engine).config.as_mut().unwrap().set.insert(key.to_owned(), text.to_owned());
}

fn settled(desired: &HostSpec) -> Engine {
    let mut engine = host();
    settle(&mut engine, desired);
    engine
}

/// As on a host where `applied` was applied before.
fn again(engine: &Engine, desired: &HostSpec, applied: &HostSpec) -> Plan {
    plan_given(&identity(), desired, &engine.observed(), Given { applied: Some(applied), ..Given::default() })
}

fn rows(plan: &Plan) -> Vec<(String, String, String)> {
    plan.drift.iter().map(|d| (d.field.clone(), d.expected.clone(), d.actual.clone())).collect()
}

#[test]
fn a_guest_is_made_named_and_started_and_then_at_rest() {
    let mut engine = host();
    let steps: Vec<String> = settle(&mut engine, &db()).iter().flat_map(verbs).collect();
    assert_eq!(steps, ["create pve/guest/101", "update pve/guest/101", "start pve/guest/101"]);
    let guest = live(&mut engine).clone();
    let config = &guest.config.unwrap().set;
    assert_eq!((config["tags"].as_str(), config["memory"].as_str()), ("prod;moorline", "4096"));
    assert!(!config.contains_key("description"), "what it said of itself while it was made is gone");
    assert_eq!(guest.owner.unwrap().base, incarnation::lasting(guest.incarnation.as_ref().unwrap()));
    assert!(again(&engine, &db(), &db()).is_settled());
}

#[test]
fn what_a_crash_left_is_ours_by_what_it_says_of_itself() {
    let mut engine = host();
    let marker = marker(&identity().host_id, vmid(101));
    engine.make_guest(vmid(101), GuestKind::Qemu, Config::from([("description".to_owned(), marker)]));
    live(&mut engine).is_marked = true;
    let steps: Vec<String> = settle(&mut engine, &db()).iter().flat_map(verbs).collect();
    assert_eq!(steps, ["update pve/guest/101", "start pve/guest/101"]);
}

#[test]
fn strangers_templates_and_locked_guests_are_left_alone() {
    let mut engine = settled(&db());
    type Change = fn(&mut ObservedGuest);
    let cases: [(Change, Option<Code>); 6] = [
        (|live| (live.owner, live.is_marked) = (None, false), Some(Code::NotOwned)),
        (|live| live.kind = GuestKind::Lxc, Some(Code::PreconditionFailed)),
        (|live| live.is_template = true, Some(Code::PreconditionFailed)),
        (|live| live.lock = Some("backup".to_owned()), None),
        (|live| live.task = Some("qmshutdown".to_owned()), None),
        (|live| live.config = None, Some(Code::PermissionDenied)),
    ];
    for (change, code) in cases {
        let before = engine.clone();
        change(live(&mut engine));
        let plan = again(&engine, &one(json!({ "type": "qemu", "state": "stopped" })), &db());
        assert_eq!((plan.steps.len(), plan.blocked.len()), (0, 1), "{plan:?}");
        assert_eq!(plan.blocked[0].code, code, "{plan:?}");
        engine = before;
    }
}

#[test]
fn one_that_was_taken_over_gets_no_tag_and_nothing_of_it_changes() {
    let mut engine = host();
    engine.make_guest(vmid(101), GuestKind::Qemu, Config::from([("name".to_owned(), "old".to_owned())]));
    let guest = live(&mut engine);
    guest.is_marked = false;
    let incarnation = guest.incarnation.clone().unwrap();
    let desired = one(json!({ "type": "qemu", "adopt": incarnation, "config": { "name": "old" } }));
    let other = one(json!({ "type": "qemu", "adopt": "vm:00000000-0000-4000-8000-000000000099", "config": { "name": "old" } }));
    assert_eq!(plan(&identity(), &other, &engine.observed()).blocked[0].code, Some(Code::NotOwned));
    let mut unlike = desired.clone();
    unlike.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().config.insert("name".to_owned(), "new".to_owned());
    let plan = plan(&identity(), &unlike, &engine.observed());
    assert_eq!((plan.steps.len(), plan.blocked[0].code), (0, Some(Code::AdoptDiffers)));
    let steps: Vec<String> = settle(&mut engine, &desired).iter().flat_map(verbs).collect();
    assert_eq!(steps, ["adopt pve/guest/101"]);
    assert!(!live(&mut engine).config.as_ref().unwrap().set.contains_key("tags"));
    assert!(live(&mut engine).owner.as_ref().unwrap().adopted);
}

#[test]
fn one_that_is_gone_is_told_and_not_made_again_unless_somebody_asks_for_it() {
    let mut engine = settled(&db());
    engine.pve.as_mut().unwrap().guests.clear();
    let plan = again(&engine, &db(), &db());
    assert!(plan.steps.is_empty() && plan.blocked.is_empty());
    assert_eq!(rows(&plan), [("presence".to_owned(), "present".to_owned(), "missing".to_owned())]);
    let mend = Mend { resource: vmid(101).resource(), fields: ["presence".to_owned()].into(), replaces: false };
    let given = Given { applied: Some(&db()), mend: Some(&mend), ..Given::default() };
    assert_eq!(verbs(&plan_given(&identity(), &db(), &engine.observed(), given)), ["create pve/guest/101"]);
}

#[test]
fn what_has_drifted_is_mended_or_told_and_what_the_slice_changes_is_done() {
    let mut engine = settled(&db());
    set(&mut engine, "memory", "1024");
    set(&mut engine, "cores", "7");
    let healed = again(&engine, &db(), &db());
    assert_eq!(verbs(&healed), ["update pve/guest/101"]);
    assert_eq!(healed.steps[0].heals.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), ["config.memory"]);
    let mut inbox = db();
    inbox.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().drift = Some(crate::topology::DriftPolicy::Inbox);
    let told = again(&engine, &inbox, &inbox);
    assert!(told.is_settled());
    assert_eq!(rows(&told), [("config.memory".to_owned(), "4096".to_owned(), "1024".to_owned())]);
    let mut renamed = inbox.clone();
    renamed.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().config.insert("name".to_owned(), "db2".to_owned());
    let both = again(&engine, &renamed, &inbox);
    let Action::Guest(action) = &both.steps[0].action else { panic!("{both:?}") };
    let GuestAct::Update { change, .. } = &action.act else { panic!("{both:?}") };
    assert_eq!(change.keys(), ["name".to_owned()].into());
    assert_eq!(both.drift.len(), 1);
    live(&mut engine).status = GuestStatus::Stopped;
    assert_eq!(again(&engine, &inbox, &inbox).drift.len(), 2);
}

#[test]
fn what_a_slice_names_no_more_is_stopped_and_stays() {
    let mut engine = settled(&db());
    let none = HostSpec::default();
    let plan = again(&engine, &none, &db());
    assert_eq!(verbs(&plan), ["shutdown pve/guest/101"]);
    plan.steps.iter().for_each(|step| engine.apply(step).unwrap());
    assert!(again(&engine, &none, &db()).is_settled() && engine.pve.as_ref().unwrap().guests.len() == 1);
    live(&mut engine).status = GuestStatus::Running;
    assert!(again(&engine, &none, &none).is_settled(), "who starts it later has it");
}

#[test]
fn a_disk_that_was_moved_is_told_and_one_that_is_wanted_elsewhere_is_refused() {
    let disk = |place: &str| one(json!({ "type": "qemu", "config": { "scsi0": format!("{place}:8") } }));
    let mut engine = settled(&disk("local-lvm"));
    set(&mut engine, "scsi0", "other:vm-101-disk-0,size=8G");
    let moved = again(&engine, &disk("local-lvm"), &disk("local-lvm"));
    assert!(moved.is_settled() && moved.drift[0].field == "config.scsi0", "{moved:?}");
    set(&mut engine, "scsi0", "local-lvm:vm-101-disk-0,size=8G");
    let wanted = again(&engine, &disk("other"), &disk("local-lvm"));
    assert_eq!((wanted.steps.len(), wanted.blocked[0].code), (0, Some(Code::PreconditionFailed)));
    let grown = again(&engine, &disk("local-lvm"), &disk("local-lvm"));
    assert!(grown.is_settled());
}

#[test]
fn changes_that_wait_for_a_start_get_one_only_when_that_may_be() {
    let mut engine = settled(&db());
    live(&mut engine).config.as_mut().unwrap().running.insert("memory".to_owned(), Some("1024".to_owned()));
    let with = |reboot: &str| {
        let mut spec = db();
        spec.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().reboot = serde_json::from_value(json!(reboot)).unwrap();
        spec
    };
    for (reboot, in_window, reboots) in [("never", true, false), ("window", false, false), ("window", true, true), ("now", false, true)] {
        let given = Given { applied: None, in_window, ..Given::default() };
        let plan = plan_given(&identity(), &with(reboot), &engine.observed(), given);
        assert_eq!(plan.steps.iter().any(|s| s.action.verb() == "reboot"), reboots, "{reboot} {in_window}");
    }
    assert!(again(&engine, &db(), &db()).is_settled(), "what waits is no drift");
}

#[test]
fn nothing_is_known_of_guests_where_nobody_can_be_asked() {
    let mut engine = settled(&db());
    let mut observed = engine.observed();
    observed.pve.as_mut().unwrap().engine = EngineState::Unreachable;
    observed.pve.as_mut().unwrap().guests.clear();
    let plan = plan_given(&identity(), &db(), &observed, Given { applied: Some(&db()), ..Given::default() });
    assert_eq!((plan.steps.len(), plan.drift.len(), plan.blocked[0].code), (0, 0, Some(Code::EngineUnreachable)));
    engine.pve = None;
    assert_eq!(super::super::plan(&identity(), &db(), &engine.observed()).blocked[0].code, Some(Code::NotThere));
}

#[test]
fn one_that_was_destroyed_goes_when_its_time_is_over_and_stays_when_its_tag_is_taken_away() {
    let mut engine = settled(&db());
    let lasting = live(&mut engine).lasting().unwrap().to_owned();
    let due = BTreeMap::from([(vmid(101), lasting)]);
    let none = HostSpec::default();
    let plan = |engine: &Engine| {
        let given = Given { applied: Some(&none), due: Some(&due), ..Given::default() };
        verbs(&plan_given(&identity(), &none, &engine.observed(), given))
    };
    assert!(plan(&engine).is_empty(), "it bears no such tag");
    set(&mut engine, "tags", "prod;moorline;moorline-deleted");
    live(&mut engine).status = GuestStatus::Stopped;
    assert_eq!(plan(&engine), ["purge pve/guest/101"]);
    live(&mut engine).incarnation = Some("vm:00000000-0000-4000-8000-000000000099:-".to_owned());
    assert!(plan(&engine).is_empty(), "it is another guest");
}

#[test]
fn a_password_is_never_shown() {
    let mut engine = settled(&one(json!({ "type": "qemu", "config": { "cipassword": "$6$salt$old" } })));
    set(&mut engine, "cipassword", "**********");
    let changed = one(json!({ "type": "qemu", "config": { "cipassword": "$6$salt$new" } }));
    let plan = again(&engine, &changed, &one(json!({ "type": "qemu", "config": { "cipassword": "$6$salt$old" } })));
    assert!(!format!("{:?}", plan.steps[0].reason).contains("salt"), "{}", plan.steps[0].reason);
}

/// One that was destroyed and is kept, and that the slice names.
fn buried() -> Engine {
    let mut engine = settled(&db());
    set(&mut engine, "tags", "prod;moorline;moorline-deleted");
    live(&mut engine).status = GuestStatus::Stopped;
    engine
}

#[test]
fn a_guest_that_was_destroyed_and_is_named_again_is_dug_out() {
    let mut engine = buried();
    let plan = again(&engine, &db(), &db());
    assert_eq!(verbs(&plan), ["update pve/guest/101"]);
    engine.apply(&plan.steps[0]).unwrap();
    assert_eq!(live(&mut engine).config.as_ref().unwrap().set["tags"], "prod;moorline");
    let untagged = one(json!({ "type": "qemu", "config": { "name": "db" } }));
    let mut engine = settled(&untagged);
    set(&mut engine, "tags", "theirs;moorline;moorline-deleted");
    engine.apply(&again(&engine, &untagged, &untagged).steps[0]).unwrap();
    let tags = live(&mut engine).config.as_ref().unwrap().set["tags"].clone();
    assert!(tags::has(&tags, "theirs") && !tags::has(&tags, BURIED_TAG), "{tags}");
}

#[test]
fn what_runs_or_is_the_clusters_is_not_removed_when_its_time_is_over() {
    let plan = |engine: &mut Engine| {
        let due = BTreeMap::from([(vmid(101), live(engine).lasting().unwrap().to_owned())]);
        let none = HostSpec::default();
        plan_given(&identity(), &none, &engine.observed(), Given { applied: Some(&none), due: Some(&due), ..Given::default() })
    };
    let mut engine = buried();
    assert_eq!(verbs(&plan(&mut engine)), ["purge pve/guest/101"]);
    live(&mut engine).status = GuestStatus::Running;
    let told = plan(&mut engine);
    assert!(told.steps.is_empty() && told.blocked[0].reason.contains("it runs"), "{told:?}");
    let mut engine = buried();
    live(&mut engine).is_ha_managed = true;
    let told = plan(&mut engine);
    assert!(told.steps.is_empty() && told.blocked[0].reason.contains("resource manager"), "{told:?}");
}

#[test]
fn what_is_not_taken_over_yet_is_neither_started_nor_stopped() {
    for (wanted, status) in [("stopped", GuestStatus::Running), ("running", GuestStatus::Stopped), ("running", GuestStatus::Paused)] {
        let mut engine = host();
        engine.make_guest(vmid(101), GuestKind::Qemu, Config::from([("name".to_owned(), "old".to_owned())]));
        let guest = live(&mut engine);
        (guest.is_marked, guest.status) = (false, status);
        let adopt = guest.incarnation.clone();
        let desired = one(json!({ "type": "qemu", "adopt": adopt, "state": wanted, "config": { "name": "old" }, "reboot": "now" }));
        let told = plan(&identity(), &desired, &engine.observed());
        assert!(told.steps.is_empty() && told.blocked[0].code == Some(Code::AdoptDiffers), "{wanted} {status:?}: {told:?}");
    }
}

#[test]
fn a_reboot_brings_nothing_that_nobody_asked_for() {
    let desired =
        one(json!({ "type": "qemu", "state": "running", "reboot": "now", "drift": "inbox", "config": { "name": "db", "memory": "4096" } }));
    let mut engine = settled(&desired);
    let wait = |engine: &mut Engine, key: &str, set: &str, runs: &str| {
        let config = live(engine).config.as_mut().unwrap();
        config.set.insert(key.to_owned(), set.to_owned());
        config.running.insert(key.to_owned(), Some(runs.to_owned()));
    };
    wait(&mut engine, "memory", "4096", "2048");
    assert_eq!(verbs(&again(&engine, &desired, &desired)), ["reboot pve/guest/101"], "what the slice says");
    let mut other = engine.clone();
    wait(&mut other, "cores", "8", "2");
    assert!(verbs(&again(&other, &desired, &desired)).is_empty(), "what somebody else set");
    wait(&mut engine, "memory", "1024", "4096");
    let told = again(&engine, &desired, &desired);
    assert!(told.steps.is_empty() && told.drift.len() == 1, "what is left to an operator: {told:?}");
}

#[test]
fn a_machine_on_disk_is_started_or_left_and_never_said_to_be_unlocked() {
    let mut engine = settled(&db());
    let guest = live(&mut engine);
    (guest.status, guest.lock) = (GuestStatus::Stopped, Some("suspended".to_owned()));
    set(&mut engine, "memory", "512");
    assert_eq!(verbs(&again(&engine, &db(), &db())), ["start pve/guest/101"], "and its config waits for that");
    let stopped = one(json!({ "type": "qemu", "state": "stopped", "config": { "name": "db" } }));
    assert_eq!(again(&engine, &stopped, &stopped), Plan::default(), "its memory is worth more than its lock");
}

#[test]
fn one_that_was_taken_over_and_is_gone_is_told_like_any_other() {
    let adopted = one(json!({ "type": "qemu", "adopt": "vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e", "config": { "name": "db" } }));
    let told = again(&host(), &adopted, &adopted);
    assert!(told.blocked.is_empty() && rows(&told)[0].0 == compare::PRESENCE, "{told:?}");
    assert_eq!(plan(&identity(), &adopted, &host().observed()).blocked[0].code, Some(Code::NotThere), "it was never there");
}

#[test]
fn a_guest_that_the_slice_names_no_more_is_not_forgotten_while_nobody_can_say_how_it_is() {
    let none = HostSpec::default();
    let mut engine = settled(&db());
    assert_eq!(verbs(&again(&engine, &none, &db())), ["shutdown pve/guest/101"]);
    let given = Given { applied: None, ..Given::default() };
    let mut observed = engine.observed();
    let pve = observed.pve.as_mut().unwrap();
    (pve.engine, pve.guests) = (EngineState::Unreachable, BTreeMap::new());
    let applied = db();
    let told = plan_given(&identity(), &none, &observed, Given { applied: Some(&applied), ..given });
    assert_eq!(told.blocked[0].code, Some(Code::EngineUnreachable));
    let guest = live(&mut engine);
    (guest.config, guest.owner) = (None, None);
    assert_eq!(again(&engine, &none, &db()).blocked[0].code, Some(Code::PermissionDenied));
}

#[test]
fn what_is_mended_is_what_was_asked_for_and_no_more() {
    let mut engine = settled(&db());
    set(&mut engine, "memory", "1024");
    set(&mut engine, "name", "theirs");
    let mend = Mend { resource: vmid(101).resource(), fields: ["config.memory".to_owned()].into(), replaces: false };
    let applied = db();
    let given = Given { applied: Some(&applied), mend: Some(&mend), ..Given::default() };
    engine.apply(&plan_given(&identity(), &db(), &engine.observed(), given).steps[0]).unwrap();
    let config = &live(&mut engine).config.as_ref().unwrap().set;
    assert_eq!((config["memory"].as_str(), config["name"].as_str()), ("4096", "theirs"));
}

#[test]
fn a_guests_own_policy_for_drift_goes_before_the_hosts() {
    let with = |policy: &str, own: serde_json::Value| {
        let mut guest = json!({ "type": "qemu", "config": { "name": "db", "memory": "4096" } });
        guest["drift"] = own;
        spec(json!({ "policy": { "drift": policy }, "proxmox": { "guests": { "101": guest } } }))
    };
    for (policy, own, heals) in [("inbox", json!("heal"), true), ("heal", json!("inbox"), false), ("inbox", json!(null), false)] {
        let desired = with(policy, own.clone());
        let mut engine = settled(&desired);
        set(&mut engine, "memory", "512");
        assert_eq!(!again(&engine, &desired, &desired).steps.is_empty(), heals, "{policy} {own}");
    }
}

/// Hosts show `**********` for what was set.
#[test]
fn a_password_is_written_once_when_it_is_another_one_and_also_into_a_clone_that_has_one() {
    let with = |hash: &str| one(json!({ "type": "qemu", "config": { "name": "db", "cipassword": hash }, "from": { "clone": "9000" } }));
    let hide = |engine: &mut Engine| set(engine, "cipassword", "**********");
    let (old, new) = (with("$6$salt$old"), with("$6$salt$new"));
    let mut engine = host();
    let create = plan(&identity(), &old, &engine.observed()).steps.remove(0);
    engine.apply(&create).unwrap();
    hide(&mut engine);
    let update = plan(&identity(), &old, &engine.observed()).steps.remove(0);
    assert!(update.reason.contains("cipassword"), "that of the template stands there: {}", update.reason);
    engine.apply(&update).unwrap();
    hide(&mut engine);
    assert!(plan(&identity(), &old, &engine.observed()).is_settled());

    // The agent has applied the old one, until the new one is applied.
    let told = again(&engine, &new, &old);
    assert_eq!(verbs(&told), ["update pve/guest/101"]);
    engine.apply(&told.steps[0]).unwrap();
    hide(&mut engine);
    assert!(again(&engine, &new, &old).is_settled());
    let other = one(json!({ "type": "qemu", "config": { "name": "db2", "cipassword": "$6$salt$new" } }));
    assert!(!again(&engine, &other, &new).steps[0].reason.contains("cipassword"), "another change does not write it again");
    let cleared = one(json!({ "type": "qemu", "config": { "name": "db" } }));
    let told = again(&engine, &cleared, &new);
    engine.apply(&told.steps[0]).unwrap();
    assert!(again(&engine, &cleared, &cleared).is_settled());
}
