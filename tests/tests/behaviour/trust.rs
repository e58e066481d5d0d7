//! Who is trusted changes only by the trust root's own rules.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::{HostBinding, SliceStatement};
use moorline_common::trust::{RootKey, TrustRoot, write_chain};
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::hub_message::Kind;
use moorline_tests::evil::EvilHub;
use moorline_tests::fleet::{Fleet, text};
use moorline_tests::limits::SOON;
use moorline_tests::operator::Operator;
use moorline_tests::process::Output;
use moorline_tests::wait::{holds_for, wait_until};

use crate::setup::{HOST, assert_says, services, sim_containers, sim_fleet, sim_world};

fn root(operator: &Operator) -> TrustRoot {
    let cluster = operator.call(|mut c| async move { c.get_cluster(pb::GetClusterRequest {}).await }).unwrap();
    let newest = Envelope::from_json(&cluster.roots.last().unwrap().json).unwrap();
    Signed::<TrustRoot>::new(newest).unwrap().peek().unwrap()
}

fn sealed(root: &TrustRoot, keys: &[&PrivateKey]) -> pb::Envelope {
    Signed::seal(root, keys).unwrap().envelope().into()
}

#[test]
fn a_hostile_hub_cannot_change_who_is_trusted_or_who_the_host_is() {
    let (mut fleet, operator) = sim_fleet("eviltrust");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let stranger = PrivateKey::from_seed(&[5; 32]);
    let next = TrustRoot { version: 2, ..root(&operator) };
    let mut own = next.clone();
    own.keys.insert(stranger.id(), RootKey { name: "stranger".to_owned(), public: stranger.public() });
    for role in own.roles.values_mut() {
        role.keys = BTreeSet::from([stranger.id()]);
        role.threshold = 1;
    }
    let host = operator.host(HOST).unwrap();
    let binding = Envelope::from_json(&host.binding.unwrap().json).unwrap();
    let binding = Signed::<HostBinding>::new(binding).unwrap().peek().unwrap();
    let renamed = HostBinding { serial: binding.serial + 1, name: "elsewhere".parse().unwrap(), ..binding };
    let tricks = [
        ("a root of the thief's own", Kind::Root(sealed(&own, &[&stranger])), "unknown_key"),
        ("a root by an operator's daily key", Kind::Root(sealed(&next, &[&fleet.operator_key().unwrap()])), "threshold_not_met"),
        (
            "a root that skips a version",
            Kind::Root(sealed(&TrustRoot { version: 3, ..next }, &[&fleet.recovery_key().unwrap()])),
            "bad_root",
        ),
        ("a binding by nobody", Kind::Binding(Signed::seal(&renamed, &[&stranger]).unwrap().envelope().into()), "unknown_key"),
    ];
    drop(operator);

    let evil = EvilHub::take_over(&mut fleet).unwrap();
    for (trick, message, code) in tricks {
        let refusal = evil.refusal_of(message).unwrap();
        assert_eq!(refusal.fault.unwrap_or_default().code, code, "{trick}");
    }
    let heartbeat = evil.heartbeat().unwrap();
    assert_eq!((heartbeat.root_version, heartbeat.binding_serial), (1, 1));
}

#[test]
fn a_revoked_operator_key_counts_no_more_and_nothing_is_torn_down() {
    let (fleet, operator) = sim_fleet("revoked");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let world = sim_world(&fleet, HOST);
    let (old, new) = (fleet.operator_key().unwrap(), PrivateKey::from_seed(&[6; 32]));
    let mut next = root(&operator);
    next.version = 2;
    next.keys.insert(new.id(), RootKey { name: "new".to_owned(), public: new.public() });
    next.revoked.insert(old.id());
    if let Some(role) = next.roles.get_mut("operator") {
        role.keys.insert(new.id());
    }
    let envelope = sealed(&next, &[&fleet.recovery_key().unwrap()]);
    operator.call(|mut c| async move { c.put_root(pb::PutRootRequest { root: Some(envelope) }).await }).unwrap();
    wait_until("the agent has walked to the new root", SOON, || Ok(operator.host(HOST)?.heartbeat.unwrap_or_default().root_version == 2))
        .unwrap();

    let pushed = fleet.push(&services("edge", &["site", "cache"], "two"), &["--wait", "--timeout", "10s"]).unwrap();
    assert_eq!(pushed.code, 1, "{}", pushed.text());
    holds_for("the host keeps what it has", Duration::from_secs(1), || Ok(sim_world(&fleet, HOST) == world)).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-site-1"]);
}

#[test]
fn a_root_that_its_predecessor_has_not_signed_is_refused_by_the_hub_too() {
    let (_fleet, operator) = sim_fleet("badroot");
    let stranger = PrivateKey::from_seed(&[4; 32]);
    let envelope = sealed(&TrustRoot { version: 2, ..root(&operator) }, &[&stranger]);
    let status = operator.call(|mut c| async move { c.put_root(pb::PutRootRequest { root: Some(envelope) }).await }).unwrap_err();
    assert_eq!(from_status(&status).code.as_str(), "unknown_key", "{status:?}");
}

/// A root that somebody tries on a host, and the code that it is refused with.
type Trick = (&'static str, pb::Envelope, &'static str);

/// Every way to hand a wrong root to a host that holds version 2 of `roots`. `recovery` and `vault` are its two recovery keys,
/// of which one is enough; `daily` is an operator's key.
fn root_tricks(roots: &[pb::Envelope], recovery: &PrivateKey, vault: &PrivateKey, daily: &PrivateKey) -> Vec<Trick> {
    let read = |e: &pb::Envelope| Signed::<TrustRoot>::new(Envelope::from_json(&e.json).unwrap()).unwrap().peek().unwrap();
    let held = read(&roots[1]);
    let next = TrustRoot { version: 3, ..held.clone() };
    let two_of_two = |root: &TrustRoot| {
        let mut root = root.clone();
        root.roles.get_mut("root").unwrap().threshold = 2;
        root
    };
    let mut locked_out = next.clone();
    locked_out.roles.get_mut("root").unwrap().keys = BTreeSet::from([vault.id()]);
    let mut unmet = next.clone();
    unmet.class_thresholds.insert(moorline_common::op::Class::R4, 9);
    let foreign = TrustRoot { cluster: "elsewhere".parse().unwrap(), ..next.clone() };
    let stranger = PrivateKey::from_seed(&[5; 32]);
    let mut other_key = held;
    other_key.keys.insert(stranger.id(), RootKey { name: "stranger".to_owned(), public: stranger.public() });
    let mut twice = Signed::seal(&two_of_two(&next), &[recovery]).unwrap().envelope().clone();
    twice.signatures.push(twice.signatures[0].clone());
    let mut flipped = Signed::seal(&next, &[recovery]).unwrap().envelope().clone();
    let middle = flipped.payload.len() / 2;
    flipped.payload[middle] ^= 1;
    let mut typed = Signed::seal(&next, &[recovery]).unwrap().envelope().clone();
    typed.payload_type = "application/vnd.moorline.slice.v1+json".to_owned();
    vec![
        ("an old root again", roots[0].clone(), "generation_regressed"),
        ("the version in force with other bytes", sealed(&other_key, &[recovery]), "equivocation"),
        ("a version that skips the withheld one", sealed(&TrustRoot { version: 4, ..next.clone() }, &[recovery]), "bad_root"),
        ("one that a daily key signed", sealed(&next, &[daily]), "threshold_not_met"),
        ("one that nobody known signed", sealed(&next, &[&stranger]), "unknown_key"),
        ("one of another cluster", sealed(&foreign, &[recovery]), "wrong_cluster"),
        ("one key twice for a threshold of two", (&twice).into(), "threshold_not_met"),
        ("one that does not meet its own threshold", sealed(&two_of_two(&next), &[recovery]), "threshold_not_met"),
        ("one whose own recovery key has not signed", sealed(&locked_out, &[recovery]), "threshold_not_met"),
        ("one that asks for more keys than there are", sealed(&unmet, &[recovery]), "bad_root"),
        ("one with a flipped bit", (&flipped).into(), "bad_signature"),
        ("one under another type", (&typed).into(), "wrong_type"),
        ("no envelope at all", pb::Envelope { json: b"{}".to_vec() }, "bad_envelope"),
    ]
}

#[test]
fn a_hostile_hub_cannot_hand_a_host_a_wrong_root() {
    let (mut fleet, operator) = sim_fleet("evilroots");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let world = sim_world(&fleet, HOST);
    let vault = PrivateKey::from_seed(&[7; 32]);
    let public = format!("vault={}", hex::encode(vault.public()));
    fleet.moorctl(&["key", "add", &public, "--role", "root"]).unwrap().ok().unwrap();
    let walked = |version| {
        wait_until("the host has walked", SOON, || Ok(operator.host(HOST)?.heartbeat.unwrap_or_default().root_version == version))
    };
    walked(2).unwrap();
    let roots = operator.call(|mut c| async move { c.get_cluster(pb::GetClusterRequest {}).await }).unwrap().roots;
    drop(operator);

    let (recovery, daily) = (fleet.recovery_key().unwrap(), fleet.operator_key().unwrap());
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    let mut wrong = Vec::new();
    for (trick, envelope, code) in root_tricks(&roots, &recovery, &vault, &daily) {
        let fault = evil.refusal_of(Kind::Root(envelope)).unwrap().fault.unwrap_or_default();
        if fault.code != code {
            wrong.push(format!("{trick}: expected {code}, got {}: {}", fault.code, fault.message));
        }
        assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["refused", &fault.code]);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let heartbeat = evil.heartbeat().unwrap();
    assert_eq!((heartbeat.root_version, heartbeat.binding_serial, heartbeat.enforcing), (2, 1, true));
    assert_eq!(sim_world(&fleet, HOST), world, "the host is as it was");
}

#[test]
fn a_host_with_an_expired_root_takes_nothing_but_its_successor() {
    let (mut fleet, operator) = sim_fleet("expiredroot");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let (recovery, daily) = (fleet.recovery_key().unwrap(), fleet.operator_key().unwrap());
    let first = root(&operator);
    let slice = operator.revision("edge", 1).unwrap().slices.remove(0).slice.unwrap();
    let slice = Signed::<SliceStatement>::new(Envelope::from_json(&slice.json).unwrap()).unwrap().peek().unwrap();
    drop(operator);
    let evil = EvilHub::take_over(&mut fleet).unwrap();

    let expired = TrustRoot { version: 2, expires: first.issued_at, ..first.clone() };
    evil.send(Kind::Root(sealed(&expired, &[&recovery]))).unwrap();
    wait_until("the host has the expired root", SOON, || Ok(evil.heartbeat().is_some_and(|h| h.root_version == 2))).unwrap();
    assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["trust root expired"]);
    let next = SliceStatement { generation: slice.generation.next(), ..slice };
    let code = evil.refusal_of_slice(Signed::seal(&next, &[&daily]).unwrap().envelope().to_json()).unwrap();
    assert_eq!(code, "root_expired");
    assert!(evil.heartbeat().unwrap().enforcing, "what it has goes on");
    evil.send(Kind::Root(sealed(&TrustRoot { version: 3, ..first }, &[&recovery]))).unwrap();
    wait_until("the host has the successor", SOON, || Ok(evil.heartbeat().is_some_and(|h| h.root_version == 3))).unwrap();
    evil.send_slice(Signed::seal(&next, &[&daily]).unwrap().envelope()).unwrap();
    wait_until("new slices are taken again", SOON, || Ok(evil.heartbeat().is_some_and(|h| h.generation == 2))).unwrap();
}

#[test]
fn a_root_that_the_hub_withholds_is_brought_by_hand_and_ends_a_stolen_key() {
    let (mut fleet, operator) = sim_fleet("byhand");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let world = sim_world(&fleet, HOST);
    let stolen = fleet.operator_key().unwrap();
    let slice = operator.revision("edge", 1).unwrap().slices.remove(0).slice.unwrap();
    let slice = Signed::<SliceStatement>::new(Envelope::from_json(&slice.json).unwrap()).unwrap().peek().unwrap();
    let before = fleet.root().join("before.json");
    fleet.moorctl(&["key", "export", "--root", text(&before).unwrap()]).unwrap().ok().unwrap();
    // The operator's key is replaced, and the hub that takes the new root is not the one that the host talks to.
    fleet.stop_agent(HOST).unwrap();
    fleet.moorctl(&["--yes", "key", "rotate"]).unwrap().ok().unwrap();
    let after = fleet.root().join("after.json");
    fleet.moorctl(&["key", "export", "--root", text(&after).unwrap()]).unwrap().ok().unwrap();
    drop(operator);
    fleet.stop_hub().unwrap();
    let evil = EvilHub::start(&fleet).unwrap();
    fleet.start_agent(HOST).unwrap();
    evil.wait_for_agent().unwrap();
    evil.send_slice(Signed::seal(&slice, &[&stolen]).unwrap().envelope()).unwrap();
    wait_until("the host enforces its slice", SOON, || Ok(evil.heartbeat().is_some_and(|h| h.enforcing))).unwrap();

    let import = |file: &std::path::Path| fleet.agent(HOST, &["trust", "import", text(file).unwrap()]).unwrap();
    assert_says(&import(&before).ok().unwrap(), &["nothing newer"]);
    assert_says(&import(&after).ok().unwrap(), &["accepted trust root version 2", "is in force"]);
    assert_says(&import(&after).ok().unwrap(), &["nothing newer"]);
    assert_says(&import(&before).ok().unwrap(), &["version 2 is in force"]);
    wait_until("the host is frozen", SOON, || Ok(evil.heartbeat().is_some_and(|h| h.root_version == 2 && !h.enforcing))).unwrap();
    let said = fleet.agent(HOST, &["status"]).unwrap();
    assert_says(&said, &["frozen", "revoked_key"]);
    let next = SliceStatement { generation: slice.generation.next(), ..slice };
    let refused = evil.refusal_of_slice(Signed::seal(&next, &[&stolen]).unwrap().envelope().to_json()).unwrap();
    assert!(["revoked_key", "not_approved"].contains(&refused.as_str()), "{refused}");
    assert_eq!(sim_world(&fleet, HOST), world, "frozen, and not torn down");
    assert_says(&fleet.agent(HOST, &["trust", "show"]).unwrap().ok().unwrap(), &["trust root version 2", "REVOKED", "role     operator"]);

    // The honest hub is back: it has the binding and the revision that the new key signed.
    drop(evil);
    fleet.start_hub().unwrap();
    fleet.wait_converged(&fleet.operator().unwrap(), HOST, "edge", 2).unwrap();
}

/// Imports a file with `envelopes` on the host.
fn import(fleet: &Fleet, envelopes: &[&pb::Envelope]) -> Output {
    let chain: Vec<Envelope> = envelopes.iter().map(|e| serde_json::from_slice(&e.json).unwrap()).collect();
    let file = fleet.file("chain.json", String::from_utf8(write_chain(&chain)).unwrap()).unwrap();
    fleet.agent(HOST, &["trust", "import", text(&file).unwrap()]).unwrap()
}

#[test]
fn roots_by_hand_are_walked_one_by_one_and_wrong_ones_are_refused_whether_the_agent_runs_or_not() {
    let (mut fleet, operator) = sim_fleet("import");
    let vault = PrivateKey::from_seed(&[7; 32]);
    fleet.stop_agent(HOST).unwrap();
    fleet.moorctl(&["key", "add", &format!("vault={}", hex::encode(vault.public())), "--role", "root"]).unwrap().ok().unwrap();
    let roots = operator.call(|mut c| async move { c.get_cluster(pb::GetClusterRequest {}).await }).unwrap().roots;
    let newest = root(&operator);
    let (recovery, daily) = (fleet.recovery_key().unwrap(), fleet.operator_key().unwrap());
    drop(operator);
    fleet.stop_hub().unwrap();

    let third = sealed(&TrustRoot { version: 3, ..newest }, &[&recovery]);
    assert_says(&import(&fleet, &[&roots[0], &third]).expect_code(1).unwrap(), &["bad_root", "version 2"]);
    let said = import(&fleet, &[&roots[0], &roots[1]]).ok().unwrap();
    assert_says(&said, &["accepted trust root version 2", "next start"]);
    assert_says(&import(&fleet, &[&roots[0], &roots[1]]).ok().unwrap(), &["nothing newer"]);
    assert_says(&fleet.agent(HOST, &["trust", "show"]).unwrap().ok().unwrap(), &["version 2", "vault"]);
    for running in [false, true] {
        if running {
            fleet.start_agent(HOST).unwrap();
            wait_until("the agent answers", SOON, || Ok(fleet.agent(HOST, &["status"])?.code == 0)).unwrap();
        }
        // An old root that the host has walked changes nothing, and what is no envelope is no file of roots.
        let tricks = root_tricks(&roots, &recovery, &vault, &daily);
        for (trick, envelope, code) in tricks.iter().filter(|t| !["generation_regressed", "bad_envelope"].contains(&t.2)) {
            let said = import(&fleet, &[envelope]);
            assert!(said.code == 1 && said.text().contains(code), "{trick}, running {running}: {}", said.text());
        }
        assert_says(&import(&fleet, &[&roots[0]]).ok().unwrap(), &["version 2 is in force"]);
    }
    assert_says(&fleet.agent(HOST, &["trust", "show"]).unwrap().ok().unwrap(), &["version 2"]);
}
