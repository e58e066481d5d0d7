//! What holds for every definition, and how each is shown before it is signed.
//! `MOORLINE_UPDATE=1 cargo test -p moorctl --lib saga` writes the shown plans anew.

use std::path::PathBuf;

use moorline_common::op::Class;
use moorline_common::saga::Side;

use super::*;
use crate::revision::tests::trust;
use crate::saga::testing::{assert_orders_are_the_plans, draft, hosts, sealed, terms};
use crate::saga::words;

/// Each definition with what it is given in these tests.
type Case = (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("snapshot-guest", "snapshot-guest", &["pve-1/101"], &[("memory", "yes")]),
    ("snapshot-guests", "snapshot-guest", &["pve-1/101", "pve-2/guest/cache"], &[]),
    ("suspend-guest", "suspend-guest", &["pve-1/101", "pve-1/205"], &[("timeout", "5m")]),
    ("destroy-guest", "destroy-guest", &["pve-1/101", "pve-2/205"], &[("backup", "pbs"), ("keep", "1d")]),
];

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
