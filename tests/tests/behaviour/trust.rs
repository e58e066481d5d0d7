//! Who is trusted changes only by the trust root's own rules.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::trust::{RootKey, TrustRoot};
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::hub_message::Kind;
use moorline_tests::evil::EvilHub;
use moorline_tests::limits::SOON;
use moorline_tests::operator::Operator;
use moorline_tests::wait::{holds_for, wait_until};

use crate::setup::{HOST, services, sim_containers, sim_fleet, sim_world};

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
    fleet.stop_hub().unwrap();

    let evil = EvilHub::start(&fleet.hub_dir(), &fleet.address()).unwrap();
    evil.wait_for_agent().unwrap();
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
