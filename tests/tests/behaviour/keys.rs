//! Operators' keys are replaced, revoked and counted, and what runs on the hosts does not notice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::TrustRoot;
use moorline_proto::v1 as pb;
use moorline_tests::fleet::{Fleet, text};
use moorline_tests::limits::{COMMAND, SOON};
use moorline_tests::operator::Operator;
use moorline_tests::process::{Output, run};
use moorline_tests::wait::{holds_for, wait_until};

use crate::setup::{EngineFleet, HOST, assert_says, services, sim_containers, sim_fleet, sim_world};

/// The trust roots that the hub has.
fn roots(operator: &Operator) -> Vec<TrustRoot> {
    let cluster = operator.call(|mut c| async move { c.get_cluster(pb::GetClusterRequest {}).await }).unwrap();
    let read = |e: &pb::Envelope| Signed::<TrustRoot>::new(Envelope::from_json(&e.json).unwrap()).unwrap().peek().unwrap();
    cluster.roots.iter().map(read).collect()
}

fn context(fleet: &Fleet) -> PathBuf {
    fleet.home().join("contexts").join(fleet.cluster())
}

/// `key rotate`, killed at `point`.
fn rotate_until(fleet: &Fleet, point: &str) -> Output {
    let mut command = fleet.moorctl_command(&["--yes", "key", "rotate"]);
    command.env("MOORLINE_CRASH_AT", point);
    run(command, b"", COMMAND).unwrap()
}

#[test]
fn a_rotated_key_signs_on_and_no_container_notices() {
    let Some(set) = EngineFleet::start("rotate") else { return };
    let (fleet, topology) = (&set.fleet, set.topology());
    fleet.push(&services(&topology, &["site", "cache"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let started = |set: &EngineFleet| -> BTreeMap<String, String> {
        set.containers().into_iter().map(|(name, c)| (name, format!("{} {}", c.id, c.started_at))).collect()
    };
    let (before, old) = (started(&set), fleet.operator_key().unwrap().id());
    assert_eq!(before.len(), 2);

    let said = fleet.moorctl(&["--yes", "key", "rotate", "--wait"]).unwrap().ok().unwrap();
    assert_says(&said, &["rotated", "trust root version 2", "generation 2", HOST]);
    let new = fleet.operator_key().unwrap().id();
    assert_ne!(old, new);
    let host = fleet.wait_converged(&set.operator, HOST, &topology, 2).unwrap();
    let beat = host.heartbeat.unwrap();
    assert_eq!((beat.root_version, beat.binding_serial, beat.enforcing), (2, 2, true));
    assert_eq!(started(&set), before, "the same containers, never restarted");

    let root = roots(&set.operator).pop().unwrap();
    assert!(root.revoked.contains(&old) && root.keys[&new].name == root.keys[&old].name);
    assert!(!context(fleet).join("rotation.json").exists() && !context(fleet).join("operator.key.next").exists());
    fleet.push(&services(&topology, &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&set.operator, HOST, &topology, 3).unwrap();
}

#[test]
fn a_rotation_that_is_killed_anywhere_is_gone_on_with() {
    let (fleet, operator) = sim_fleet("rotatekill");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let containers = sim_containers(&fleet, HOST);
    let points = [
        "rotate.key",
        "rotate.begun",
        "rotate.root",
        "resign.binding",
        "resign.revision",
        "rotate.resigned",
        "rotate.aside",
        "rotate.swapped",
    ];
    for (number, point) in (1_u64..).zip(points) {
        let old = fleet.operator_key().unwrap().id();
        assert_eq!(rotate_until(&fleet, point).code, -1, "{point}: it was not killed");
        if point != "rotate.key" {
            let said = fleet.moorctl(&["key", "ls"]).unwrap().ok().unwrap();
            assert_says(&said, &["unfinished"]);
        }
        fleet.moorctl(&["--yes", "key", "rotate"]).unwrap().ok().unwrap();
        let root = roots(&operator).pop().unwrap();
        let new = fleet.operator_key().unwrap().id();
        assert_eq!(root.version, number + 1, "{point}: one root for one rotation");
        assert!(root.revoked.contains(&old) && new != old && root.roles["operator"].keys.contains(&new), "{point}");
        assert!(!context(&fleet).join("rotation.json").exists(), "{point}");
        fleet.wait_converged(&operator, HOST, "edge", number + 1).unwrap();
    }
    assert_eq!(sim_containers(&fleet, HOST), containers);
}

#[test]
fn a_sealed_key_is_rotated_into_a_sealed_key_and_a_wrong_passphrase_loses_nothing() {
    let (fleet, operator) = sim_fleet("sealed");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let (right, wrong) = (fleet.file("right", "correct horse battery\n").unwrap(), fleet.file("wrong", "battery horse correct\n").unwrap());
    for file in [&right, &wrong] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let with = |file: &PathBuf, args: &[&str]| {
        let mut all = vec!["--yes", "--passphrase-file", text(file).unwrap()];
        all.extend(args);
        fleet.moorctl(&all).unwrap()
    };
    let key = context(&fleet).join("operator.key");
    let public = fleet.moorctl(&["key", "show"]).unwrap().ok().unwrap().stdout;
    with(&right, &["key", "encrypt"]).ok().unwrap();
    let sealed = std::fs::read_to_string(&key).unwrap();
    assert!(sealed.contains("moorline_sealed_key"));
    assert_eq!(fleet.moorctl(&["key", "show"]).unwrap().ok().unwrap().stdout, public, "the public half needs no passphrase");

    let yaml = services("edge", &["site"], "two");
    assert_says(&fleet.push(&yaml, &[]).unwrap().expect_code(1).unwrap(), &["passphrase_needed", "--passphrase-file"]);
    assert_says(&with(&wrong, &["key", "rotate"]).expect_code(1).unwrap(), &["wrong_passphrase"]);
    assert_eq!(std::fs::read_to_string(&key).unwrap(), sealed);
    assert!(!context(&fleet).join("rotation.json").exists());

    with(&right, &["key", "rotate", "--wait"]).ok().unwrap();
    assert!(std::fs::read_to_string(&key).unwrap().contains("moorline_sealed_key"));
    assert_ne!(fleet.moorctl(&["key", "show"]).unwrap().ok().unwrap().stdout, public);
    with(&right, &["key", "decrypt"]).ok().unwrap();
    fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 3).unwrap();
}

/// A second operator with a key of her own on a machine of her own: gives her home.
pub fn second_operator(fleet: &Fleet, name: &str) -> PathBuf {
    let home = fleet.root().join(name);
    let moorctl = |home: &PathBuf, args: &[&str]| run(fleet.moorctl_command_in(home, args), b"", COMMAND).unwrap().ok().unwrap();
    let public = moorctl(&home, &["key", "new", name]).stdout;
    fleet.moorctl(&["key", "add", &format!("{name}={}", public.trim())]).unwrap().ok().unwrap();
    fleet.hub_command(&["operator", "add", name]).unwrap().ok().unwrap();
    let bundle = fleet.bundle_path(name);
    let facts = std::fs::read(context(fleet).join("context.json")).unwrap();
    let pin = serde_json::from_slice::<serde_json::Value>(&facts).unwrap()["root_pin"].as_str().unwrap().to_owned();
    let key = home.join("keys").join(format!("{name}.key"));
    moorctl(&home, &["init", "--bundle", text(&bundle).unwrap(), "--root-pin", &pin, "--key", text(&key).unwrap()]);
    home
}

#[test]
fn what_a_revoked_key_signed_freezes_until_somebody_signs_it_anew() {
    let (fleet, operator) = sim_fleet("revoke");
    let bob = second_operator(&fleet, "bob");
    let file = fleet.file("bob.yaml", services("edge", &["site"], "one")).unwrap();
    let as_bob = |args: &[&str]| run(fleet.moorctl_command_in(&bob, args), b"", COMMAND).unwrap();
    as_bob(&["--yes", "push", "-f", text(&file).unwrap(), "--wait"]).ok().unwrap();
    let world = sim_world(&fleet, HOST);

    let said = fleet.moorctl(&["--yes", "key", "revoke", "bob", "--no-resign"]).unwrap().ok().unwrap();
    assert_says(&said, &["`edge` generation 1", "stands still"]);
    let frozen = || Ok(operator.host(HOST)?.heartbeat.is_some_and(|h| h.root_version == 3 && !h.enforcing));
    wait_until("the host has the new root and is frozen", SOON, frozen).unwrap();
    holds_for("nothing is torn down", Duration::from_secs(1), || Ok(sim_world(&fleet, HOST) == world)).unwrap();
    assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["revoked_key"]);
    let refused = as_bob(&["--yes", "push", "-f", text(&file).unwrap(), "--force"]).expect_code(1).unwrap();
    assert_says(&refused, &["revoked_key"]);

    let said = fleet.moorctl(&["--yes", "key", "revoke", "bob", "--wait"]).unwrap().ok().unwrap();
    assert_says(&said, &["signed anew", "generation 2"]);
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(roots(&operator).len(), 3, "revoked once");
    assert_eq!(sim_containers(&fleet, HOST), ["edge-site-1"]);
    let last = fleet.moorctl(&["--yes", "key", "revoke", "admin"]).unwrap().expect_code(64).unwrap();
    assert_says(&last, &["key rotate"]);
}

#[test]
fn two_recovery_keys_sign_one_root_on_two_machines() {
    let (fleet, operator) = sim_fleet("twokeys");
    let vault = fleet.root().join("vault");
    let in_vault = |args: &[&str]| run(fleet.moorctl_command_in(&vault, args), b"", COMMAND).unwrap();
    let public = in_vault(&["key", "new", "vault"]).ok().unwrap().stdout;
    let vault_key = vault.join("keys/vault.key");
    fleet.moorctl(&["key", "add", &format!("vault={}", public.trim()), "--role", "root"]).unwrap().ok().unwrap();
    let saved = fleet.root().join("next.json");
    let saved = text(&saved).unwrap();

    // Two of two: the new threshold binds the root that brings it.
    let short = fleet.moorctl(&["key", "threshold", "root", "2"]).unwrap().expect_code(1).unwrap();
    assert_says(&short, &["threshold_not_met", "--save FILE"]);
    let said = fleet.moorctl(&["key", "threshold", "root", "2", "--save", saved]).unwrap().ok().unwrap();
    assert_says(&said, &["asks for 1 more of: vault"]);
    let again = fleet.moorctl(&["key", "threshold", "root", "2", "--save", saved]).unwrap().expect_code(1).unwrap();
    assert_says(&again, &["[already_exists]", "nothing was written"]);
    assert_says(&fleet.moorctl(&["key", "submit", saved]).unwrap().expect_code(1).unwrap(), &["threshold_not_met"]);
    let vault_key = text(&vault_key).unwrap();
    assert_says(&in_vault(&["key", "sign", saved, "--recovery-key", vault_key]).expect_code(1).unwrap(), &["needs_confirmation"]);
    let said = in_vault(&["--yes", "key", "sign", saved, "--recovery-key", vault_key]).ok().unwrap();
    assert_says(&said, &["2 of [", "it has all its signatures"]);
    fleet.moorctl(&["key", "submit", saved]).unwrap().ok().unwrap();
    assert_eq!(roots(&operator).pop().unwrap().roles["root"].threshold, 2);

    assert_says(&fleet.moorctl(&["key", "renew"]).unwrap().expect_code(1).unwrap(), &["threshold_not_met"]);
    fleet
        .moorctl(&["key", "renew", "--recovery-key", text(&context(&fleet).join("recovery.key")).unwrap(), "--recovery-key", vault_key])
        .unwrap()
        .ok()
        .unwrap();
    wait_until("the host has walked to it", SOON, || Ok(operator.host(HOST)?.heartbeat.unwrap_or_default().root_version == 4)).unwrap();
}

#[test]
fn roles_and_thresholds_are_made_and_kept_within_what_can_be_met() {
    let (fleet, operator) = sim_fleet("roles");
    let bob = second_operator(&fleet, "bob");
    let set = [
        "key",
        "role",
        "set",
        "shops",
        "--keys",
        "bob",
        "--hosts",
        "shop-*",
        "--kinds",
        "slice,topology,host-binding,op",
        "--max-class",
        "R2",
    ];
    fleet.moorctl(&set).unwrap().ok().unwrap();
    fleet.moorctl(&["key", "role", "set", "operator", "--keys", "admin"]).unwrap().ok().unwrap();
    let refused = fleet.moorctl(&["key", "threshold", "--class", "R4", "2"]).unwrap().expect_code(1).unwrap();
    assert_says(&refused, &["bad_root", "1 could sign"]);
    fleet.moorctl(&["key", "role", "set", "shops", "--max-class", "R4"]).unwrap().ok().unwrap();
    fleet.moorctl(&["key", "threshold", "--class", "R4", "2"]).unwrap().ok().unwrap();
    assert_says(&fleet.moorctl(&["key", "ls"]).unwrap().ok().unwrap(), &["shops: 1 of [bob]", "shop-*", "R4: operations need 2 keys"]);
    let root = roots(&operator).pop().unwrap();
    assert_eq!((root.version, root.class_thresholds.len()), (6, 1));

    // Bob's role reaches this host.
    let file = fleet.file("bob.yaml", services("edge", &["site"], "one")).unwrap();
    run(fleet.moorctl_command_in(&bob, &["--yes", "push", "-f", text(&file).unwrap(), "--wait"]), b"", COMMAND).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    // Without his role all that he signed is out of scope: it is signed anew.
    fleet.moorctl(&["key", "threshold", "--class", "R4", "1"]).unwrap().ok().unwrap();
    let said = fleet.moorctl(&["--yes", "key", "role", "rm", "shops"]).unwrap().ok().unwrap();
    assert_says(&said, &["too few keys that count", "signed anew: `edge`, now generation 2"]);
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    let refused =
        run(fleet.moorctl_command_in(&bob, &["--yes", "push", "-f", text(&file).unwrap(), "--base", "2", "--force"]), b"", COMMAND)
            .unwrap();
    assert_says(&refused.expect_code(1).unwrap(), &["out_of_scope"]);
}
