//! Where two operators must sign, two can: at one machine, or each at their own, and one alone cannot.

use std::path::{Path, PathBuf};

use moorline_tests::fleet::{Fleet, text};
use moorline_tests::limits::COMMAND;
use moorline_tests::process::{Output, run};

use crate::keys::second_operator;
use crate::setup::{HOST, assert_says, moorctl, services, sim_containers, sim_fleet, sim_world};

/// `moorctl` on the second operator's machine.
fn as_bob(fleet: &Fleet, home: &Path, args: &[&str]) -> Output {
    run(fleet.moorctl_command_in(home, &[&["--yes"], args].concat()), b"", COMMAND).unwrap()
}

fn bobs_key(home: &Path) -> PathBuf {
    home.join("keys/bob.key")
}

#[test]
fn what_two_must_sign_is_pushed_by_two_and_by_none_alone() {
    let (fleet, operator) = sim_fleet("twopush");
    let bob = second_operator(&fleet, "bob");
    let key = bobs_key(&bob);
    let key = text(&key).unwrap();
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let before = sim_world(&fleet, HOST);

    // What one key has signed would stand no more: nothing happens until it can be signed anew.
    let short = moorctl(&fleet, &["key", "threshold", "operator", "2"]).expect_code(1).unwrap();
    assert_says(&short, &["threshold_not_met", "nothing was signed", "--sign-with FILE", "--no-resign"]);
    assert_says(&moorctl(&fleet, &["key", "threshold", "operator", "0"]).expect_code(64).unwrap(), &["nothing would need a signature"]);
    let said = moorctl(&fleet, &["--sign-with", key, "key", "threshold", "operator", "2"]).ok().unwrap();
    assert_says(&said, &["bound anew: shop-1", "signed anew: `edge`, now generation 2", "push with --sign-with FILE"]);
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(sim_world(&fleet, HOST), before, "nothing on the host noticed");

    let file = fleet.file("edge.yaml", services("edge", &["site", "db"], "one")).unwrap();
    let file = text(&file).unwrap();
    assert_says(&moorctl(&fleet, &["push", "-f", file]).expect_code(1).unwrap(), &["[threshold_not_met]", "--sign-with", "--save"]);
    moorctl(&fleet, &["--sign-with", key, "push", "-f", file, "--wait"]).ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 3).unwrap();

    // Each at their own machine; the second signer needs no hub.
    let saved = fleet.root().join("revision.json");
    let saved = text(&saved).unwrap();
    let file = fleet.file("edge.yaml", services("edge", &["site"], "two")).unwrap();
    let said = moorctl(&fleet, &["push", "-f", text(&file).unwrap(), "--message", "greet", "--save", saved]).ok().unwrap();
    assert_says(&said, &["needs 2 keys, 1 signed", "moorctl revision sign"]);
    let again = moorctl(&fleet, &["push", "-f", text(&file).unwrap(), "--save", saved]).expect_code(1).unwrap();
    assert_says(&again, &["[already_exists]", "another file with --save"]);
    let refused = as_bob(&fleet, &bob, &["revision", "submit", saved]).expect_code(1).unwrap();
    assert_says(&refused, &["[threshold_not_met]", "moorctl revision sign"]);
    let said = as_bob(&fleet, &bob, &["revision", "sign", saved]).ok().unwrap();
    assert_says(&said, &["message  greet", "signed   by admin", HOST, "-        db:", "hand it in with"]);
    refuse_other_slices(&fleet, &bob, saved);
    as_bob(&fleet, &bob, &["revision", "submit", saved, "--wait"]).ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 4).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-site-1"]);
    assert_says(&as_bob(&fleet, &bob, &["revision", "submit", saved]).ok().unwrap(), &["edge generation 4 was handed in before"]);

    // The rest of what one operator does goes on with two keys.
    assert_says(&moorctl(&fleet, &["key", "rotate"]).expect_code(1).unwrap(), &["[threshold_not_met]", "nothing was made"]);
    assert_says(&moorctl(&fleet, &["--sign-with", key, "key", "rotate", "--wait"]).ok().unwrap(), &["rotated", "generation 5"]);
    assert_says(&moorctl(&fleet, &["down", "edge"]).expect_code(1).unwrap(), &["[threshold_not_met]"]);
    moorctl(&fleet, &["--sign-with", key, "down", "edge", "--wait"]).ok().unwrap();
    assert_eq!(sim_containers(&fleet, HOST), Vec::<String>::new());
}

/// A file that shows one source and has the slices of another one, all signed by the first operator, gets no second signature.
fn refuse_other_slices(fleet: &Fleet, bob: &Path, shown: &str) {
    let read = |path: &str| serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).unwrap()).unwrap();
    let file = fleet.file("evil.yaml", services("edge", &["site", "miner"], "two")).unwrap();
    let evil = fleet.root().join("evil.json");
    let evil = text(&evil).unwrap();
    moorctl(fleet, &["push", "-f", text(&file).unwrap(), "--save", evil]).ok().unwrap();
    let mut mixed = read(shown);
    mixed["slices"] = read(evil)["slices"].take();
    std::fs::write(evil, mixed.to_string()).unwrap();
    let refused = as_bob(fleet, bob, &["revision", "sign", evil]).expect_code(1).unwrap();
    assert_says(&refused, &["[hash_mismatch]", "`shop-1` is not what the source means", "do not sign it"]);
}

#[test]
fn a_raised_threshold_leaves_hosts_as_they_are_until_two_sign_anew() {
    let (fleet, operator) = sim_fleet("tworesign");
    let bob = second_operator(&fleet, "bob");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let before = sim_world(&fleet, HOST);
    let said = moorctl(&fleet, &["key", "threshold", "operator", "2", "--no-resign"]).ok().unwrap();
    assert_says(&said, &["stands still until `moorctl key resign`: the binding of host `shop-1`"]);
    assert_says(&moorctl(&fleet, &["key", "resign"]).expect_code(1).unwrap(), &["[threshold_not_met]", "--sign-with FILE"]);
    assert_eq!(sim_world(&fleet, HOST), before);
    let key = bobs_key(&bob);
    let said = moorctl(&fleet, &["--sign-with", text(&key).unwrap(), "key", "resign", "--wait"]).ok().unwrap();
    assert_says(&said, &["bound anew: shop-1", "now generation 2"]);
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(sim_world(&fleet, HOST), before);
    assert_says(&moorctl(&fleet, &["key", "resign"]).ok().unwrap(), &["stands"]);
}

#[test]
fn a_volume_is_destroyed_by_two_signatures_and_never_by_one() {
    let (fleet, _) = sim_fleet("twodestroy");
    let bob = second_operator(&fleet, "bob");
    let volumes = "topology: edge\nhosts:\n  shop-1: { docker: { volumes: { data: {} }, services: { site: { image: moorline-test, volumes: [\"data:/d\"] } } } }\n";
    fleet.push(volumes, &["--wait"]).unwrap().ok().unwrap();
    fleet.push("topology: edge\nhosts:\n  shop-1: { docker: {} }\n", &["--wait"]).unwrap().ok().unwrap();
    let has_volume = || {
        let world: serde_json::Value = serde_json::from_slice(&sim_world(&fleet, HOST)).unwrap();
        world["volumes"]["edge_data"].is_object()
    };
    assert!(has_volume(), "what is removed from a topology stays on its host");
    moorctl(&fleet, &["key", "threshold", "--class", "R4", "2"]).ok().unwrap();

    let on = format!("{HOST}/volume/edge_data");
    let refused = moorctl(&fleet, &["op", "destroy", &on]).expect_code(1).unwrap();
    assert_says(&refused, &["[threshold_not_met]", "needs 2 keys, 1 signed", "--save FILE"]);
    let order = fleet.root().join("order.json");
    let order = text(&order).unwrap();
    moorctl(&fleet, &["op", "destroy", &on, "--reason", "moved", "--save", order]).ok().unwrap();
    assert_says(&moorctl(&fleet, &["op", "submit", order]).expect_code(1).unwrap(), &["[threshold_not_met]", "moorctl op sign"]);
    assert!(has_volume());
    // Bob's machine has not asked the hub since the threshold was raised: the file brings the newer trust root along.
    let said = as_bob(&fleet, &bob, &["op", "sign", order]).ok().unwrap();
    assert_says(&said, &["destroy docker/volume/edge_data", "reason   moved", "needs    2 key(s)"]);
    assert_says(&as_bob(&fleet, &bob, &["op", "submit", order]).ok().unwrap(), &["succeeded, receipt verified"]);
    assert!(!has_volume());
}

#[test]
fn no_two_keys_that_count_bear_one_name() {
    let (fleet, _) = sim_fleet("twonames");
    let bob = second_operator(&fleet, "bob");
    let public = as_bob(&fleet, &bob, &["key", "show"]).ok().unwrap().stdout;
    let again = moorctl(&fleet, &["key", "add", &format!("eve={}", public.trim())]).expect_code(1).unwrap();
    assert_says(&again, &["[already_exists]", "as `bob`"]);
    let home = fleet.root().join("other");
    let other = as_bob(&fleet, &home, &["key", "new", "other"]).ok().unwrap().stdout;
    let twice = moorctl(&fleet, &["key", "add", &format!("bob={}", other.trim())]).expect_code(1).unwrap();
    assert_says(&twice, &["[already_exists]", "another key", "`bob`", "choose another name"]);
}
