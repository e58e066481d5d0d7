//! The hub pushes again whenever a host does not report what it should have.

use moorline_proto::v1 as pb;
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST, event_kinds, services, sim_containers, sim_fleet, sqlite};

#[test]
fn a_change_made_while_the_agent_was_stopped_is_pushed_when_it_starts() {
    let (mut fleet, operator) = sim_fleet("away");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    fleet.stop_agent(HOST).unwrap();
    wait_until("the hub sees the agent gone", SOON, || Ok(!operator.host(HOST)?.connected)).unwrap();
    fleet.push(&services("edge", &["site", "cache"], "hello"), &[]).unwrap().ok().unwrap();
    fleet.start_agent(HOST).unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-cache-1", "edge-site-1"]);
}

#[test]
fn a_hash_corrupted_in_the_ledger_by_hand_leads_to_a_new_push() {
    let (fleet, operator) = sim_fleet("ledger");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    let sent = || event_kinds(&operator).iter().filter(|k| *k == "slice_sent").count();
    let before = sent();
    let ledger = fleet.agent_dir(HOST).join("ledger.sqlite");
    let wrong = format!("sha256:{}", "0".repeat(64));
    assert_eq!(sqlite(&ledger, &format!("UPDATE current SET version_hash = '{wrong}'")), 1);
    wait_until("the hub sends the slice again", SOON, || Ok(sent() > before)).unwrap();
    let host = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    assert_ne!(host.heartbeat.unwrap_or_default().applied_hash, wrong);
}

#[test]
fn an_engine_that_goes_away_is_unreachable_and_nothing_is_made_anew_when_it_returns() {
    let Some(t) = EngineFleet::start("engineaway") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site", "cache"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let before = t.containers();

    t.proxy.cut().unwrap();
    t.proxy.forget();
    wait_until("the agent says that its engine is unreachable", SOON, || {
        let heartbeat = t.operator.host(HOST)?.heartbeat.unwrap_or_default();
        Ok(heartbeat.engine() == pb::EngineState::Unreachable)
    })
    .unwrap();
    let host = t.operator.host(HOST).unwrap();
    assert!(host.connected, "heartbeats go on");
    assert!(!host.converged, "what cannot be seen is not taken for granted");
    let status = t.fleet.moorctl(&["status"]).unwrap().ok().unwrap();
    assert!(status.text().contains("unreachable"), "{}", status.text());
    let local = t.fleet.agent(HOST, &["status"]).unwrap();
    assert!(local.text().contains("unreachable"), "{}", local.text());

    t.proxy.restore().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    assert_eq!(t.containers(), before);
    assert_eq!(t.proxy.mutations(), []);
}

#[test]
fn a_change_pushed_while_the_engine_is_away_is_applied_when_it_returns() {
    let Some(t) = EngineFleet::start("enginechange") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.proxy.cut().unwrap();
    t.fleet.push(&services(&topology, &["site", "cache"], "hello"), &[]).unwrap().ok().unwrap();
    wait_until("the agent says that its engine is unreachable", SOON, || {
        Ok(t.operator.host(HOST)?.heartbeat.unwrap_or_default().engine() == pb::EngineState::Unreachable)
    })
    .unwrap();
    t.proxy.restore().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 2).unwrap();
    assert_eq!(t.containers().len(), 2);
}
