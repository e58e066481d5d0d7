//! What is only tried comes back by itself, hub or no hub; what was confirmed stays, and nothing comes back for it any more.

use std::time::{Duration, Instant};

use moorline_common::canonical::version_hash;
use moorline_common::id::Generation;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::{Fallback, SliceStatement};
use moorline_tests::evil::EvilHub;
use moorline_tests::fleet::{Fleet, text};
use moorline_tests::image;
use moorline_tests::limits::{APPLY, POLL, REDIAL, SOON};
use moorline_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::clock::library;
use crate::evil_orders::Loot;
use crate::setup::{EngineFleet, HOST, assert_says, event_kinds, moorctl, services, sim_fleet, sim_world};

/// What the simulated host's containers greet with.
fn greeting(fleet: &Fleet) -> String {
    let world: Value = serde_json::from_slice(&sim_world(fleet, HOST)).unwrap();
    let containers = world["containers"].as_object().cloned().unwrap_or_default();
    containers.values().filter_map(|c| c["config"]["environment"]["GREETING"].as_str()).collect()
}

fn wait_for_greeting(fleet: &Fleet, greets: &str, within: Duration) {
    wait_until(&format!("the host greets with `{greets}`"), within, || Ok(greeting(fleet) == greets)).unwrap();
}

/// That nothing changes for so long.
fn stays(fleet: &Fleet, greets: &str, span: Duration) {
    let over = Instant::now() + span;
    while Instant::now() < over {
        assert_eq!(greeting(fleet), greets);
        std::thread::sleep(POLL);
    }
}

#[test]
fn a_push_that_nobody_confirms_is_taken_back_by_the_host_itself_while_the_hub_is_gone() {
    let (mut fleet, operator) = sim_fleet("ttl");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let pushed = fleet.push(&services("edge", &["site"], "two"), &["--ttl", "30s", "--wait"]).unwrap().ok().unwrap();
    assert_says(&pushed, &["on trial: 1 of them go back by themselves 30s after they have it", "moorctl confirm edge"]);
    let status = moorctl(&fleet, &["status"]);
    assert_says(&status, &["converged, on trial", "goes back to generation 1, unless `moorctl confirm edge`"]);
    fleet.kill_hub().unwrap();
    drop(operator);
    fleet.kill_agent(HOST).unwrap();
    fleet.start_agent(HOST).unwrap();
    assert_eq!(greeting(&fleet), "two");
    wait_for_greeting(&fleet, "one", Duration::from_secs(60));

    fleet.start_hub().unwrap();
    let operator = fleet.operator().unwrap();
    let back = || Ok(operator.host(HOST)?.heartbeat.is_some_and(|b| b.rolled_back_generation == 2 && b.applied_generation == 1));
    wait_until("the host says that it went back", REDIAL, back).unwrap();
    let told =
        || Ok(operator.events()?.iter().any(|e| e.kind == "error" && e.code == "rolled_back" && e.message.contains("not confirmed")));
    wait_until("an alarm says why", SOON, told).unwrap();
    assert_says(&moorctl(&fleet, &["status"]), &["error", "rolled back to generation 1", "not confirmed within 30 s"]);
    assert_says(&moorctl(&fleet, &["history", "edge"]), &["(rolled back on 1 host)"]);
    let late = moorctl(&fleet, &["confirm", "edge"]);
    assert!(late.code == 1, "{}", late.text());
    assert_says(&late, &["too late", "given generation 2 up"]);

    // After its restart the agent enforced by itself: nothing was sent, and an agent that waits for the hub is sent the failed slice to
    // enforce its fallback, and nothing else.
    let sent = event_kinds(&operator).iter().filter(|kind| *kind == "slice_sent").count();
    fleet.stop_agent(HOST).unwrap();
    fleet.start_agent(HOST).unwrap();
    wait_until("the host enforces again", SOON, || Ok(operator.host(HOST)?.heartbeat.is_some_and(|b| b.enforcing))).unwrap();
    stays(&fleet, "one", Duration::from_secs(3));
    let host = operator.host(HOST).unwrap();
    assert!(!host.converged && host.heartbeat.unwrap().rolled_back_generation == 2);
    let again = event_kinds(&operator).iter().filter(|kind| *kind == "slice_sent").count();
    assert!(again <= sent + 1, "{again} after {sent}");
    fleet.push(&services("edge", &["site"], "three"), &["--wait"]).unwrap().ok().unwrap();
    assert_eq!(greeting(&fleet), "three");
}

#[test]
fn a_push_that_was_confirmed_stays_and_what_was_there_before_comes_back_no_more() {
    let (mut fleet, operator) = sim_fleet("confirmed");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let nothing = moorctl(&fleet, &["confirm", "edge"]);
    assert_says(&nothing, &["on trial nowhere"]);
    let spread = format!("{}rollout: {{ canary: 1 }}\n", services("edge", &["site"], "two"));
    let both = fleet.push(&spread, &["--ttl", "30s"]).unwrap();
    assert!(both.code == 64, "{}", both.text());
    assert_says(&both, &["--no-rollout"]);
    let pushed = Instant::now();
    fleet.push(&services("edge", &["site"], "two"), &["--ttl", "30s", "--wait"]).unwrap().ok().unwrap();
    let confirmed = moorctl(&fleet, &["confirm", "edge", "--host", HOST]).ok().unwrap();
    assert_says(&confirmed, &["it stays", "generation 2 stays on 1 of 1 hosts"]);
    moorctl(&fleet, &["confirm", "edge"]).ok().unwrap();
    let healthy = || Ok(operator.host(HOST)?.heartbeat.is_some_and(|b| b.healthy_generation == 2 && b.rolled_back_generation == 0));
    wait_until("the host says that it stays", SOON, healthy).unwrap();
    drop(operator);
    fleet.kill_hub().unwrap();
    fleet.kill_agent(HOST).unwrap();
    fleet.start_agent(HOST).unwrap();
    stays(&fleet, "two", Duration::from_secs(40).saturating_sub(pushed.elapsed()));
}

/// The signed slice of `generation` with `greets`, which is given up after `within_s`.
fn on_trial(loot: &Loot, generation: u64, greets: &str, within_s: u64) -> Envelope {
    let base = Signed::<SliceStatement>::new(loot.slices[0].clone()).unwrap().peek().unwrap();
    let mut content = base.content.clone();
    content["docker"]["services"]["site"]["environment"]["GREETING"] = greets.into();
    let fallback =
        Fallback { generation: base.generation, version_hash: base.version_hash.clone(), within_s, healthy_for_s: 0, needs_confirm: true };
    let version_hash = version_hash(&content).unwrap();
    let slice = SliceStatement { generation: Generation(generation), content, version_hash, fallback: Some(fallback), ..base };
    Signed::seal(&slice, &[&loot.operator]).unwrap().envelope().clone()
}

fn confirm(loot: &Loot, generation: u64) -> Vec<u8> {
    loot.signed(&loot.statement("confirm", "host", json!({ "topology": "edge", "generation": generation }))).to_json()
}

#[test]
fn a_hostile_hub_neither_ends_nor_draws_out_a_trial_and_brings_back_nothing_else() {
    let (mut fleet, operator) = sim_fleet("eviltrial");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let loot = Loot::take(&fleet, &operator);
    drop(operator);
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    evil.send_slice(&loot.slices[0]).unwrap();
    let answer = |order: Vec<u8>| evil.answer_to_order(order, &loot.host_key).unwrap();
    let (earlier, tried) = (confirm(&loot, 1), on_trial(&loot, 2, "two", 8));
    assert_eq!(answer(earlier.clone()), "succeeded", "what is not on trial stays anyway");
    evil.send_slice(&tried).unwrap();
    wait_for_greeting(&fleet, "two", SOON);
    let begun = Instant::now();
    // What was said of another generation, and what nobody has signed.
    assert_eq!(answer(confirm(&loot, 1)), "precondition_failed");
    assert_eq!(answer(confirm(&loot, 3)), "precondition_failed");
    answer(earlier);
    assert_eq!(evil.refusal_of_slice(loot.slices[0].to_json()).unwrap(), "generation_regressed");
    assert_eq!(greeting(&fleet), "two");
    // Repeating the slice begins its time no more than once.
    while begun.elapsed() < Duration::from_secs(4) {
        evil.send_slice(&tried).unwrap();
        std::thread::sleep(10 * POLL);
    }
    wait_for_greeting(&fleet, "one", Duration::from_secs(15));
    // The confirmation was withheld for too long; neither it nor the slice brings the failed one back.
    assert_eq!(answer(confirm(&loot, 2)), "rolled_back");
    evil.send_slice(&tried).unwrap();
    stays(&fleet, "one", Duration::from_secs(2));
    let beat = evil.heartbeat().unwrap();
    assert_eq!((beat.generation, beat.rolled_back_generation, beat.applied_generation), (2, 2, 1));
    assert_eq!(evil.refusal_of_slice(loot.slices[0].to_json()).unwrap(), "generation_regressed", "no floor has fallen");
}

#[test]
fn a_clock_that_is_set_neither_ends_nor_draws_out_a_trial() {
    let Some(library) = library() else { return println!("skipped: there is no libfaketime") };
    let (mut fleet, operator) = sim_fleet("trialclock");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let loot = Loot::take(&fleet, &operator);
    drop(operator);
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    let mut restart = |later: &str| {
        fleet.stop_agent(HOST).unwrap();
        evil.hang_up();
        let library = text(&library).unwrap();
        let clock = [("LD_PRELOAD", library), ("FAKETIME", later), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("NO_FAKE_STAT", "1")];
        fleet.start_agent_with(HOST, &clock).unwrap();
        evil.wait_for_agent().unwrap();
    };
    evil.send_slice(&on_trial(&loot, 2, "two", 20)).unwrap();
    let has_it = || Ok(evil.heartbeat().is_some_and(|b| b.applied_generation == 2));
    wait_until("the host has it", SOON, has_it).unwrap();
    let begun = Instant::now();
    restart("+3d");
    wait_until("the host still has it", SOON, has_it).unwrap();
    restart("-30d");
    let back = || Ok(evil.heartbeat().is_some_and(|b| b.applied_generation == 1 && b.rolled_back_generation == 2));
    wait_until("the host goes back", Duration::from_secs(40), back).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(15), "{:?}: too early", begun.elapsed());
    assert_eq!(greeting(&fleet), "one");
    fleet.stop_agent(HOST).unwrap();
}

#[test]
fn what_is_not_healthy_on_the_engine_in_time_goes_back_by_itself() {
    let Some(mut bench) = EngineFleet::start("health") else { return };
    let topology = bench.topology();
    bench.fleet.push(&services(&topology, &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let revision = bench.operator.revision(&topology, 1).unwrap();
    let slice = Envelope::from_json(&revision.slices[0].slice.clone().unwrap().json).unwrap();
    let base = Signed::<SliceStatement>::new(slice).unwrap().peek().unwrap();
    let mut content = base.content.clone();
    content["docker"]["services"]["bad"] =
        json!({ "image": image::IMAGE, "healthcheck": { "test": ["CMD", "/no/such/check"], "interval": 1_000_000_000, "retries": 1 } });
    content["docker"]["services"]["site"]["environment"]["GREETING"] = "two".into();
    let (named, version_hash) = (base.version_hash.clone(), version_hash(&content).unwrap());
    let fallback = Fallback { generation: Generation(1), version_hash: named, within_s: 12, healthy_for_s: 3, needs_confirm: false };
    let next = SliceStatement { generation: Generation(2), content, version_hash, fallback: Some(fallback), ..base };
    let next = Signed::seal(&next, &[&bench.fleet.operator_key().unwrap()]).unwrap().envelope().clone();
    let (bad, site) = (format!("{topology}-bad-1"), format!("{topology}-site-1"));

    let evil = EvilHub::take_over(&mut bench.fleet).unwrap();
    evil.send_slice(&next).unwrap();
    wait_until("it is tried", APPLY, || Ok(bench.engine.containers(bench.fleet.cluster())?.contains_key(&bad))).unwrap();
    evil.hang_up();
    let greets = |greeting: &str| {
        let containers = bench.engine.containers(bench.fleet.cluster())?;
        let said = format!("GREETING={greeting}");
        Ok(!containers.contains_key(&bad) && containers.get(&site).is_some_and(|c| c.running && c.environment.contains(&said)))
    };
    wait_until("the host is as before", APPLY, || greets("one")).unwrap();
    let beat = evil.wait_for_agent().unwrap();
    assert_eq!((beat.generation, beat.rolled_back_generation, beat.healthy_generation), (2, 2, 0));
}
