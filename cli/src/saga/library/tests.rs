//! What holds for every definition, and how each is shown before it is signed.
//! `MOORLINE_UPDATE=1 cargo test -p moorctl --lib saga` writes the shown plans anew.

use std::path::PathBuf;

use moorline_common::op::Class;
use moorline_common::saga::Side;

use super::*;
use crate::revision::tests::trust;
use crate::saga::testing::{self, assert_orders_are_the_plans, hosts, sealed, terms};
use crate::saga::words;

/// Each definition with what it is given in these tests.
type Case = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("snapshot-guest", "snapshot-guest", &["pve-1/101"], &[("memory", "yes")]),
    ("snapshot-guests", "snapshot-guest", &["pve-1/101", "pve-2/guest/cache"], &[]),
    ("suspend-guest", "suspend-guest", &["pve-1/101", "pve-1/205"], &[("timeout", "5m")]),
    ("destroy-guest", "destroy-guest", &["pve-1/101", "pve-2/205"], &[("backup", "pbs"), ("keep", "1d")]),
    ("change-with-snapshot", "change-with-snapshot", &["pve-1/101"], &[("config.memory", "4096"), ("delete", "balloon")]),
    ("change-with-snapshots", "change-with-snapshot", &["pve-1/101", "pve-1/205"], &[("config.cores", "2"), ("check-for", "1m")]),
    (
        "provision-guest",
        "provision-guest",
        &["pve-1/300"],
        &[("type", "lxc"), ("ostemplate", "local:vztmpl/debian-12.tar.zst"), ("config.hostname", "new"), ("config.rootfs", "local-lvm:8")],
    ),
    ("provision-guest-in-topology", "provision-guest", &["pve-1/301"], &[]),
    ("offboard-host", "offboard-host", &["pve-2"], &[]),
    (
        "provision-droplet",
        "provision-droplet",
        &["web-1"],
        &[("region", "fra1"), ("size", "s-1vcpu-1gb"), ("image", "debian-12-x64"), ("tags", "web, shop"), ("label.site", "fra")],
    ),
    ("snapshot-droplet", "snapshot-droplet", &["524000001"], &[("prefix", "nightly")]),
    ("resize-droplet", "resize-droplet", &["shop"], &[("size", "s-2vcpu-2gb")]),
    ("resize-droplet-for-good", "resize-droplet", &["shop"], &[("size", "s-2vcpu-2gb"), ("disk", "yes")]),
    ("rename-droplet", "rename-droplet", &["524000001"], &[("name", "shop-2")]),
    ("retag-droplet", "retag-droplet", &["shop"], &[("tags", "web,new")]),
    ("destroy-droplet", "destroy-droplet", &["shop"], &[]),
];

/// The draft of a case: those that push have the topology file of these tests.
fn draft(definition: &str, targets: &[&str], set: &[(&str, &str)]) -> Result<Draft, Failure> {
    let pushes = definition == "offboard-host" || targets == ["pve-1/301"];
    let pushed = pushes.then(testing::pushed);
    testing::draft_with(definition, targets, set, pushed.as_ref())
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sagas")).join(format!("{name}.txt"))
}

#[test]
fn each_plan_is_shown_with_everything_that_undoes_it() {
    let update = std::env::var_os("MOORLINE_UPDATE").is_some();
    let root = trust();
    for (name, definition, targets, set) in CASES {
        let draft = draft(definition, targets, set).unwrap();
        let plan = terms(&root).plan(&draft, &hosts(), |_, _| Ok("0".repeat(64))).unwrap();
        let text = words::plan(&plan, &draft);
        if update {
            std::fs::write(golden(name), &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden(name)).unwrap_or_default(), "{name}: run with MOORLINE_UPDATE=1 if this is meant");
    }
    assert!(ALL.iter().all(|definition| CASES.iter().any(|case| case.1 == definition.name)), "each has a case");
}

#[test]
fn each_plan_stands_and_names_exactly_its_orders() {
    for (name, definition, targets, set) in CASES {
        let draft = draft(definition, targets, set).unwrap();
        let sealed = sealed(&draft);
        assert_eq!(sealed.plan.check(), Ok(()), "{name}");
        assert_orders_are_the_plans(&sealed);
    }
}

#[test]
fn what_changes_something_is_undone_or_is_last() {
    for (name, definition, targets, set) in CASES {
        for step in draft(definition, targets, set).unwrap().steps {
            let Some(on) = step.run.host() else { continue };
            let looks = on.act.class(&on.resource) == Class::R0;
            // A backup is there to stay: nothing that was there before is another one after it.
            let only_adds = on.act.kind() == "backup";
            assert!(looks || only_adds || step.undo.is_some() || step.irreversible, "{name}: step {}", step.name);
        }
    }
}

#[test]
fn what_loses_something_is_for_the_very_guest_that_was_seen_or_made() {
    for (name, definition, targets, set) in CASES {
        for (step, side, on) in draft(definition, targets, set).unwrap().on_hosts() {
            let moorline_common::op::Act::Guest(op) = &on.act else { continue };
            assert!(!op.needs_incarnation() || on.incarnation.is_some() || on.made_by.is_some(), "{name}: step {step}, {side}");
        }
    }
}

#[test]
fn names_of_what_is_made_carry_the_whole_id_and_the_step() {
    let draft = draft("snapshot-guest", &["pve-1/101", "pve-2/101"], &[]).unwrap();
    let names: Vec<(usize, Side, String)> =
        draft.on_hosts().map(|(step, side, on)| (step, side, on.act.params()["name"].as_str().unwrap().to_owned())).collect();
    for (step, side, name) in &names {
        assert_eq!(*name, format!("m0197a2b41c3d7e5f8a6b0123456789ab_{step}"), "{side}");
    }
    let (_, _, on) = draft.on_hosts().next().unwrap();
    let said = on.act.params()["description"].as_str().unwrap().to_owned();
    assert!(said.contains("managed-by-moorline") && said.contains(crate::saga::testing::ID), "{said}");
}

#[test]
fn what_does_not_fit_is_told_before_anything_is_signed() {
    for (definition, targets, set, says) in [
        ("snapshot-gest", &["pve-1/101"][..], &[][..], "did you mean `snapshot-guest`?"),
        ("snapshot-guest", &[], &[], "name at least one"),
        ("snapshot-guest", &["pve-1"], &[], "pve-1/101"),
        ("snapshot-guest", &["pve-1/101", "pve-1/guest/db"], &[], "once"),
        ("snapshot-guest", &["pve-1/102"], &[], "did you mean 101"),
        ("snapshot-guest", &["pve-1/900"], &[], "take it over"),
        ("snapshot-guest", &["pve-1/101"], &[("memry", "yes")], "did you mean `memory`?"),
        ("snapshot-guest", &["pve-1/101"], &[("memory", "perhaps")], "memory=yes"),
        ("suspend-guest", &["pve-1/205"], &[], "nothing to do"),
        ("suspend-guest", &["pve-1/101"], &[("timeout", "2h")], "timeout=10m"),
        ("destroy-guest", &["pve-1/101"], &[("backup", "a b")], "correct"),
        ("change-with-snapshot", &["pve-1/101"], &[], "config.KEY=VALUE"),
        ("change-with-snapshot", &["pve-1/101"], &[("config.cores", "0")], "correct"),
        ("provision-guest", &["pve-1"], &[], "pve-1/101"),
        ("provision-guest", &["pve-1/300", "pve-1/301"], &[], "pve-1/205"),
        ("provision-guest", &["pve-1/300"], &[], "type=lxc"),
        ("provision-guest", &["pve-1/101"], &[("type", "qemu")], "free"),
        ("provision-guest", &["pve-1/301"], &[("archive", "pbs:backup/ct/301/2026-11-23T10:00:00Z")], "leave `config` out"),
        ("offboard-host", &["pve-1"], &[], "take the host out of the file"),
        ("offboard-host", &["pve-2/101"], &[], "write pve-2"),
        ("offboard-host", &[], &[], "shop-17"),
        ("provision-droplet", &["web-1"], &[("size", "s-1vcpu-1gb")], "region=…"),
        ("provision-droplet", &[], &[("size", "s-1vcpu-1gb")], "name it"),
        ("resize-droplet", &["shop"], &[], "size=…"),
        ("resize-droplet", &["7"], &[("size", "s-2vcpu-2gb")], "from=SIZE"),
        ("rename-droplet", &["nobody"], &[("name", "x")], "drift scan"),
        ("destroy-droplet", &[], &[], "moorctl get resources"),
    ] {
        let failure = draft(definition, targets, set).and_then(|draft| {
            let root = trust();
            let signers = crate::revision::tests::keys().1.into();
            terms(&root).seal(&draft, &hosts(), &signers)
        });
        let failure = failure.unwrap_err();
        assert!(failure.remedy.contains(says), "{definition} {targets:?} {set:?}: {failure:?}");
    }
}

#[test]
fn a_change_that_fails_goes_back_to_the_snapshot_before_that_is_removed() {
    let draft = draft("change-with-snapshot", &["pve-1/101", "pve-1/205"], &[("config.cores", "2")]).unwrap();
    let steps: Vec<(&str, u32)> = draft.steps.iter().map(|step| (step.name.as_str(), step.group)).collect();
    let expected =
        [("snapshot-1", 0), ("snapshot-2", 0), ("change-1", 1), ("change-2", 1), ("check-1", 2), ("forget-1", 3), ("forget-2", 3)];
    assert_eq!(steps, expected, "what does not run is not checked");
    let made = draft.steps[1].run.host().unwrap().act.params()["name"].clone();
    for (step, side, on) in draft.on_hosts().filter(|(_, _, on)| on.act.params().get("name") == Some(&made)) {
        assert_eq!(on.resource.to_string(), "pve/guest/205", "step {step}, {side}");
    }
    let back = draft.steps[2].undo.as_ref().unwrap().host().unwrap();
    assert_eq!((back.act.kind(), &back.act.params()["start"]), ("snapshot-rollback", &serde_json::json!(true)));
    let stays_off = draft.steps[3].undo.as_ref().unwrap().host().unwrap();
    assert_eq!(stays_off.act.params().get("start"), None, "what did not run is not started");
}

#[test]
fn a_guest_that_is_made_is_the_one_that_is_undone() {
    let draft = draft("provision-guest", &["pve-1/301"], &[]).unwrap();
    for (step, side, on) in draft.on_hosts().filter(|(step, side, _)| (*step, *side) != (0, Side::Do)) {
        assert_eq!((on.made_by.as_deref(), &on.incarnation), (Some("create"), &None), "step {step}, {side}");
    }
    let names: Vec<&str> = draft.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["create", "start", "check", "push", "applied"]);
    let made = draft.steps[0].run.host().unwrap().act.params();
    assert_eq!(made["config"]["hostname"], "cache", "as the topology file says");
}
