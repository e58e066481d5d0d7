//! Authority is an operator's signature, and only the agent judges it: a fully hostile hub, with the
//! real hub's CA and address in its hands, cannot make a host do anything else.

use moorline_common::id::{Generation, HostId, TopologyId, UnixSeconds};
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::{Fallback, SliceStatement};
use moorline_tests::evil::EvilHub;
use moorline_tests::fleet::Fleet;
use moorline_tests::limits::SOON;
use moorline_tests::operator::Operator;
use moorline_tests::wait::wait_until;

use crate::setup::{HOST, assert_says, services, sim_fleet, sim_world, sqlite};

/// The host's signed slice of the newest revision, as the hub holds it.
fn slice(operator: &Operator, topology: &str, generation: u64) -> Envelope {
    let revision = operator.revision(topology, generation).unwrap();
    let slice = revision.slices.into_iter().next().unwrap().slice.unwrap();
    Envelope::from_json(&slice.json).unwrap()
}

fn statement(envelope: &Envelope) -> SliceStatement {
    Signed::<SliceStatement>::new(envelope.clone()).unwrap().peek().unwrap()
}

fn signed(statement: &SliceStatement, key: &PrivateKey) -> Vec<u8> {
    Signed::seal(statement, &[key]).unwrap().envelope().to_json()
}

/// Slices that must be refused, each with its code.
fn hostile(fleet: &Fleet, older: &Envelope, current: &Envelope) -> Vec<(&'static str, Vec<u8>)> {
    let key = fleet.operator_key().unwrap();
    let stranger = PrivateKey::from_seed(&[7; 32]);
    let good = statement(current);
    let next = SliceStatement { generation: good.generation.next(), ..good.clone() };
    let mut flipped = current.clone();
    let middle = flipped.payload.len() / 2;
    flipped.payload[middle] ^= 1;
    let mut other_content = good.clone();
    other_content.content["docker"]["services"]["site"]["image"] = "other:1".into();
    other_content.version_hash = moorline_common::canonical::version_hash(&other_content.content).unwrap();
    let mut wrong_hash = next.clone();
    wrong_hash.content["docker"]["services"]["site"]["image"] = "other:1".into();
    let late = SliceStatement { issued_at: UnixSeconds(1), deliver_by: UnixSeconds(2), ..next.clone() };
    let mut typed = current.clone();
    typed.payload_type = "application/vnd.moorline.topology.v1+json".to_owned();
    vec![
        ("bad_signature", flipped.to_json()),
        ("unknown_key", signed(&next, &stranger)),
        ("wrong_host", signed(&SliceStatement { host_id: HostId::of_key(&[1; 32]), ..next.clone() }, &key)),
        ("wrong_cluster", signed(&SliceStatement { cluster: "elsewhere".parse().unwrap(), ..next.clone() }, &key)),
        ("generation_regressed", older.to_json()),
        ("equivocation", signed(&other_content, &key)),
        ("expired", signed(&late, &key)),
        ("hash_mismatch", signed(&wrong_hash, &key)),
        (
            "already_applied",
            signed(&SliceStatement { topology: TopologyId::parse("second").unwrap(), generation: Generation(1), ..good }, &key),
        ),
        ("wrong_type", typed.to_json()),
        ("bad_envelope", b"{\"payloadType\":1}".to_vec()),
    ]
}

#[test]
fn a_hostile_hub_is_refused_with_a_code_of_its_own_for_each_trick_and_the_host_is_untouched() {
    let (mut fleet, operator) = sim_fleet("evil");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.push(&services("edge", &["site"], "two"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    let tricks = hostile(&fleet, &slice(&operator, "edge", 1), &slice(&operator, "edge", 2));
    let (world, before) = (sim_world(&fleet, HOST), operator.host(HOST).unwrap());
    drop(operator);

    let evil = EvilHub::take_over(&mut fleet).unwrap();
    let mut wrong = Vec::new();
    for (code, envelope) in tricks {
        let got = evil.refusal_of_slice(envelope).unwrap();
        if got != code {
            wrong.push(format!("expected {code}, got {got}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let heartbeat = evil.heartbeat().unwrap();
    assert_eq!((heartbeat.topology.as_str(), heartbeat.generation), ("edge", 2));
    assert_eq!(heartbeat.applied_hash, before.target_hash);
    assert_eq!(sim_world(&fleet, HOST), world, "the host is as it was");

    drop(evil);
    fleet.start_hub().unwrap();
    let operator = fleet.operator().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
}

/// When it comes back is the host's to judge.
#[test]
fn a_fallback_that_an_operator_named_brings_nothing_back_by_the_hubs_word() {
    let (mut fleet, operator) = sim_fleet("fallback");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.push(&services("edge", &["site"], "two"), &["--wait"]).unwrap().ok().unwrap();
    let (older, current) = (slice(&operator, "edge", 1), statement(&slice(&operator, "edge", 2)));
    let version_hash = statement(&older).version_hash;
    let fallback = Fallback { generation: Generation(1), version_hash, within_s: 3600, healthy_for_s: 60, needs_confirm: true };
    let next = SliceStatement { generation: Generation(3), fallback: Some(fallback), ..current };
    let next = Signed::seal(&next, &[&fleet.operator_key().unwrap()]).unwrap().envelope().clone();
    drop(operator);

    let evil = EvilHub::take_over(&mut fleet).unwrap();
    let world = sim_world(&fleet, HOST);
    evil.send_slice(&next).unwrap();
    wait_until("the host takes what an operator signed", SOON, || Ok(evil.heartbeat().is_some_and(|beat| beat.generation == 3))).unwrap();
    assert_eq!(evil.refusal_of_slice(older.to_json()).unwrap(), "generation_regressed");
    assert_eq!(evil.heartbeat().unwrap().generation, 3);
    assert_eq!(sim_world(&fleet, HOST), world, "the host is as it was");
}

#[test]
fn a_slice_that_was_tampered_with_in_the_hubs_store_shows_in_status_and_events() {
    let (mut fleet, operator) = sim_fleet("tamper");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    let world = sim_world(&fleet, HOST);
    fleet.stop_agent(HOST).unwrap();
    fleet.push(&services("edge", &["site"], "two"), &[]).unwrap().ok().unwrap();
    let mut envelope = slice(&operator, "edge", 2);
    drop(operator);
    fleet.stop_hub().unwrap();
    let middle = envelope.payload.len() / 2;
    envelope.payload[middle] ^= 1;
    let hex = hex::encode(envelope.to_json());
    let changed = sqlite(
        &fleet.hub_dir().join("hub.sqlite"),
        &format!("UPDATE slices SET envelope = CAST(x'{hex}' AS BLOB) WHERE topology = 'edge' AND generation = 2"),
    );
    assert_eq!(changed, 1);
    fleet.start_hub().unwrap();
    fleet.start_agent(HOST).unwrap();

    let operator = fleet.operator().unwrap();
    wait_until("the refusal is known", SOON, || Ok(operator.host(HOST)?.last_error.is_some_and(|e| e.code == "bad_signature"))).unwrap();
    let recorded = || Ok(operator.events()?.iter().any(|e| e.kind == "refused" && e.code == "bad_signature" && e.host == HOST));
    wait_until("the refusal is recorded", SOON, recorded).unwrap();
    assert_says(&fleet.moorctl(&["status"]).unwrap(), &["bad_signature"]);
    assert_says(&fleet.moorctl(&["events"]).unwrap(), &["refused", "bad_signature"]);
    assert_eq!(sim_world(&fleet, HOST), world, "the host is as it was");
}

#[test]
fn a_second_topology_for_a_host_that_has_one_is_refused_as_already_applied() {
    let (fleet, operator) = sim_fleet("second");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let said = fleet.push(&services("other", &["site"], "one"), &["--wait", "--timeout", "10s"]).unwrap();
    assert_eq!(said.code, 1, "{}", said.text());
    assert_says(&said, &["already_applied"]);
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
}

#[test]
fn no_push_reaches_a_host_from_an_operators_certificate_without_an_operators_key() {
    use moorline_proto::v1 as pb;
    let (fleet, operator) = sim_fleet("nokey");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let world = sim_world(&fleet, HOST);
    let revision = operator.revision("edge", 1).unwrap();
    let stranger = PrivateKey::from_seed(&[9; 32]);
    let mut next = statement(&slice(&operator, "edge", 1));
    next.generation = Generation(2);
    let source = Envelope::from_json(&revision.source.unwrap().json).unwrap();
    let mut source = Signed::<moorline_common::statement::TopologyStatement>::new(source).unwrap().peek().unwrap();
    source.generation = Generation(2);
    let request = pb::PushRequest {
        topology: "edge".to_owned(),
        base_generation: 1,
        source: Some(Signed::seal(&source, &[&stranger]).unwrap().envelope().into()),
        slices: vec![pb::HostSlice { host_id: next.host_id.to_string(), slice: Some(pb::Envelope { json: signed(&next, &stranger) }) }],
        rollout: None,
        accepts: Vec::new(),
    };
    let status = operator.call(|mut c| async move { c.push(request).await }).unwrap_err();
    assert_eq!(moorline_proto::convert::from_status(&status).code.as_str(), "unknown_key", "{status:?}");
    assert_eq!(sim_world(&fleet, HOST), world);
}
