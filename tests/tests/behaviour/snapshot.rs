//! A state folder that was restored from a snapshot, and a hub that lies about what it has seen of a host: what was done is not
//! done again.

use std::path::PathBuf;
use std::process::Command;

use moorline_common::op::OpStatement;
use moorline_tests::evil::EvilHub;
use moorline_tests::faults::Faults;
use moorline_tests::fleet::Fleet;
use moorline_tests::limits::{REDIAL, SOON};
use moorline_tests::operator::Operator;
use moorline_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::evil_orders::{Loot, SITE, now, topology};
use crate::ops::{done, op, stage};
use crate::setup::{HOST, assert_says, end_command, journal, sim_fleet, sim_world};

/// A copy of the state folder of a stopped agent. The engine has none.
struct Snapshot(PathBuf);

impl Snapshot {
    fn take(fleet: &Fleet) -> Self {
        let kept = fleet.root().join("snapshot");
        copy(&fleet.agent_dir(HOST), &kept);
        Self(kept)
    }

    fn restore(&self, fleet: &Fleet) {
        let (state, world) = (fleet.agent_dir(HOST), sim_world(fleet, HOST));
        std::fs::remove_dir_all(&state).unwrap();
        copy(&self.0, &state);
        std::fs::write(state.join("sim/engine.json"), world).unwrap();
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// A host whose agent was killed while one operation had begun (its effect is there, its end is not recorded) and another one
/// waited for it.
fn interrupted(name: &str) -> (Fleet, Operator, [String; 2]) {
    let (mut fleet, operator) = sim_fleet(name);
    fleet.push(&topology("one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.kill_agent(HOST).unwrap();
    fleet.start_agent_with(HOST, &[("MOORLINE_CRASH_AT", "op.end.before")]).unwrap();
    let on = format!("{HOST}/{SITE}");
    let begun = id(&done(&fleet, &["exec", &on, "--no-wait", "--", "sleep", "500"]));
    let waits = id(&done(&fleet, &["stop", &on, "--no-wait"]));
    wait_until("the other one waits", SOON, || Ok(recorded(&fleet, &begun) == "task_running" && recorded(&fleet, &waits) == "queued"))
        .unwrap();
    end_command(&fleet);
    wait_until("the agent is killed", SOON, || Ok(fleet.agent_ended(HOST)?.is_some())).unwrap();
    assert_eq!((recorded(&fleet, &begun), recorded(&fleet, &waits)), ("task_running".to_owned(), "queued".to_owned()));
    (fleet, operator, [begun, waits])
}

fn id(shown: &Value) -> String {
    shown["op_id"].as_str().unwrap().to_owned()
}

/// How far an operation is by the host's own journal.
fn recorded(fleet: &Fleet, id: &str) -> String {
    let newest = journal(fleet).into_iter().rfind(|record| record["op_id"] == id);
    newest.and_then(|record| Some(record["state"].as_str()?.to_owned())).unwrap_or_default()
}

/// The number of the newest record of the host's journal.
fn head(fleet: &Fleet) -> u64 {
    journal(fleet).last().unwrap()["seq"].as_u64().unwrap()
}

/// What runs on the simulated host, and what operations did there. A command's output is handed out once: that is no effect.
fn done_there(fleet: &Fleet) -> (Value, Value) {
    let world: Value = serde_json::from_slice(&sim_world(fleet, HOST)).unwrap();
    (world["effects"].clone(), world["containers"].clone())
}

#[test]
fn a_state_folder_from_a_snapshot_is_refused_where_the_hub_has_seen_more() {
    let (mut fleet, operator, [begun, waits]) = interrupted("snapshot");
    let (snapshot, newest) = (Snapshot::take(&fleet), head(&fleet));
    fleet.start_agent(HOST).unwrap();
    wait_until("both have ended", SOON, || Ok(stage(&fleet, &begun)? == "succeeded" && stage(&fleet, &waits)? == "succeeded")).unwrap();
    wait_until("the hub has seen records of that", SOON, || Ok(operator.host(HOST)?.witnessed_journal_seq > newest)).unwrap();
    fleet.stop_agent(HOST).unwrap();
    let before = done_there(&fleet);
    assert_eq!(before.0.as_object().unwrap().len(), 2, "{before:?}");
    // The hub has it for when the host is back.
    let held = id(&done(&fleet, &["restart", &format!("{HOST}/{SITE}"), "--no-wait"]));

    snapshot.restore(&fleet);
    fleet.start_agent(HOST).unwrap();
    let is_quarantined = || Ok(operator.host(HOST)?.heartbeat.is_some_and(|beat| beat.last_error_code == "quarantined"));
    wait_until("the quarantine is known", SOON, is_quarantined).unwrap();
    assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["quarantined", "snapshot"]);
    assert_eq!(done_there(&fleet), before, "what was begun is not repeated, and what waited does not begin");
    let refused = op(&fleet, &["restart", &format!("{HOST}/{SITE}")]).expect_code(1).unwrap();
    assert_says(&refused, &["[not_approved]", "has begun a new life"]);
    let beats = || Ok::<_, anyhow::Error>(operator.host(HOST)?.heartbeat.unwrap_or_default().sequence);
    let seen = beats().unwrap();
    wait_until("the session goes on", SOON, || Ok(beats()? > seen + 2)).unwrap();
    assert_eq!(stage(&fleet, &held).unwrap(), "submitted", "the hub does not send what can only be refused");
    assert_eq!(done_there(&fleet), before, "the host is as it was");

    // In its next life nothing of the one before is done.
    fleet.moorctl(&["--yes", "host", "approve", HOST]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    wait_until("the hub ends what it held for the life before", SOON, || Ok(stage(&fleet, &held)? == "cancelled")).unwrap();
    assert_eq!([&begun, &waits].map(|id| stage(&fleet, id).unwrap()), ["succeeded", "succeeded"]);
    assert_eq!(done_there(&fleet).0, before.0);
}

#[test]
fn a_hub_that_claims_to_have_seen_other_records_stops_the_host_and_begins_nothing() {
    let (mut fleet, operator, [begun, waits]) = interrupted("evilwitness");
    let (snapshot, loot, before) = (Snapshot::take(&fleet), Loot::take(&fleet, &operator), done_there(&fleet));
    drop(operator);
    fleet.stop_hub().unwrap();
    assert_eq!(before.0.as_object().unwrap().keys().collect::<Vec<_>>(), [&begun]);
    let order = loot.signed(&loot.statement("restart", SITE, json!({}))).to_json();
    let stopped = |evil: &EvilHub, fleet: &Fleet| {
        let is_quarantined = || Ok(evil.heartbeat().is_some_and(|beat| beat.last_error_code == "quarantined"));
        wait_until("the host says that it is quarantined", REDIAL, is_quarantined).unwrap();
        assert_eq!(evil.answer_to_order(order.clone(), &loot.host_key).unwrap(), "quarantined");
        assert_eq!(evil.refusal_of_slice(loot.slices[0].to_json()).unwrap(), "quarantined");
        assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["quarantined", "snapshot"]);
        assert_eq!(done_there(fleet), before, "what waited does not begin");
    };

    // More records than there are.
    let evil = EvilHub::start_claiming(&fleet, head(&fleet) + 1000, &[7; 16]).unwrap();
    fleet.start_agent(HOST).unwrap();
    stopped(&evil, &fleet);
    fleet.stop_agent(HOST).unwrap();
    drop(evil);

    // Another record than there is. However long it takes to find that out, nothing begins meanwhile.
    snapshot.restore(&fleet);
    fleet.start_agent(HOST).unwrap();
    wait_until("the lane is free", SOON, || Ok(recorded(&fleet, &begun) == "succeeded")).unwrap();
    let segment = fleet.agent_dir(HOST).join("journal/00000000000000000001.jsonl");
    let slow = Faults::inject(fleet.agent_id(HOST).unwrap(), "openat", "delay_enter=3000000", &segment).unwrap();
    let evil = EvilHub::start_claiming(&fleet, 1, &[7; 16]).unwrap();
    stopped(&evil, &fleet);
    match slow {
        Some(slow) => assert!(slow.said("(DELAYED)").unwrap(), "the comparison took its time"),
        None => println!("the comparison was not slowed down: there is no strace"),
    }
    assert_eq!(recorded(&fleet, &waits), "queued");
}

#[test]
fn a_hub_that_keeps_silent_about_a_snapshot_repeats_no_order_after_its_time() {
    let (mut fleet, operator) = sim_fleet("evilsnapshot");
    fleet.push(&topology("one"), &["--wait"]).unwrap().ok().unwrap();
    let loot = Loot::take(&fleet, &operator);
    drop(operator);
    fleet.stop_agent(HOST).unwrap();
    let snapshot = Snapshot::take(&fleet);
    fleet.start_agent(HOST).unwrap();
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    evil.send_slice(&loot.slices[0]).unwrap();
    let long = loot.signed(&loot.statement("restart", SITE, json!({}))).to_json();
    assert_eq!(evil.answer_to_order(long.clone(), &loot.host_key).unwrap(), "succeeded");
    // Signed at the last moment: it is to be done within this span, also on a slow machine.
    let last = now().plus(SOON.as_secs());
    let brief = loot.signed(&OpStatement { expires_at: last, ..loot.statement("restart", SITE, json!({})) }).to_json();
    assert_eq!(evil.answer_to_order(brief.clone(), &loot.host_key).unwrap(), "succeeded");
    fleet.stop_agent(HOST).unwrap();
    let before = done_there(&fleet);

    snapshot.restore(&fleet);
    evil.hang_up();
    wait_until("the time of one order is over", 2 * SOON, || Ok(now() > last)).unwrap();
    fleet.start_agent(HOST).unwrap();
    evil.wait_for_agent().unwrap();
    evil.send_slice(&loot.slices[0]).unwrap();
    assert_eq!(evil.answer_to_order(brief, &loot.host_key).unwrap(), "expired");
    assert_eq!(done_there(&fleet), before, "nothing is done again");
    // What remains to a hub that hides what it has seen: an order whose time is not over. More is not promised, nor less.
    assert_eq!(evil.answer_to_order(long, &loot.host_key).unwrap(), "succeeded");
}
