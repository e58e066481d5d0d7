//! A revision spreads with care, and comes back by itself where it fails: whatever happens to the hub meanwhile.

use std::path::Path;
use std::time::Duration;

use moorline_proto::v1 as pb;
use moorline_tests::engine::Engine;
use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::image;
use moorline_tests::limits::{APPLY, REDIAL, SOON};
use moorline_tests::operator::Operator;
use moorline_tests::wait::{holds_for, wait_for, wait_until};
use serde_json::{Value, json};

use crate::setup::{assert_says, engine_turn, event_kinds, moorctl};

/// One service on each simulated host and one with a health check on each real one; by the host's name, as the real ones share an engine.
fn topology(name: &str, rollout: &str, greeting: &str, check: &str) -> String {
    let image = image::IMAGE;
    format!(
        "topology: {name}
rollout: {rollout}
x-site: &site
  image: {image}
  container_name: \"{name}-${{host.name}}\"
  network_mode: none
  stop_grace_period: 1s
  environment: {{ GREETING: {greeting} }}
hosts:
  \"on=sim\": {{ docker: {{ services: {{ site: *site }} }} }}
  \"on=docker\":
    docker:
      services:
        site: {{ <<: *site, healthcheck: {{ test: [CMD, {check}], interval: 500ms, retries: 2 }} }}
"
    )
}

/// From now on nothing can be done to the service of a simulated host.
fn break_sim(fleet: &Fleet, topology: &str, host: &str) {
    let faults = json!({ "fail": { format!("docker/container/{topology}-{host}"): "the test broke it" } });
    std::fs::write(fleet.agent_dir(host).join("sim/faults.json"), faults.to_string()).unwrap();
}

fn status(fleet: &Fleet, topology: &str) -> Value {
    moorctl(fleet, &["rollout", "status", topology, "-o", "json"]).json().unwrap()
}

fn standing(status: &Value, host: &str) -> String {
    let hosts = status["hosts"].as_array().unwrap();
    hosts.iter().find(|h| h["host"] == host).unwrap()["standing"].as_str().unwrap().to_owned()
}

/// What each host says that it has: its newest accepted generation, and the one that is applied.
fn generations(operator: &Operator) -> Vec<(String, u64, u64)> {
    let beat = |h: &pb::Host| h.heartbeat.clone().unwrap_or_default();
    operator.hosts().unwrap().iter().map(|h| (h.name.clone(), beat(h).generation, beat(h).applied_generation)).collect()
}

/// Waits until the newest rollout is so, through whatever the hub is doing.
fn wait_status(fleet: &Fleet, topology: &str, what: &str, within: Duration, so: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, within, || {
        let now = status(fleet, topology);
        if so(&now) { Ok(Some(now)) } else { Err(anyhow::anyhow!("{now}")) }
    })
    .unwrap()
}

#[test]
fn over_twenty_hosts_a_broken_revision_stops_at_the_canaries_which_go_back_though_the_hub_dies() {
    let turn = engine_turn();
    let Some(engine) = Engine::system().unwrap() else {
        println!("skipped: no Docker Engine answers (set MOORLINE_REQUIRE_DOCKER=1 to make that a failure)");
        return;
    };
    image::ensure(&engine).unwrap();
    let mut fleet = Fleet::start("rollout").unwrap();
    let name = fleet.cluster().to_owned();
    let real = ["a1", "a2", "c3"];
    let simulated: Vec<String> = (1..=17).map(|n| format!("b{n:02}")).collect();
    for host in real {
        fleet.add_host(host, Drive::Docker(Path::new(engine.socket()).to_owned()), &["on=docker"]).unwrap();
    }
    for host in &simulated {
        fleet.add_host(host, Drive::Sim, &["on=sim"]).unwrap();
    }
    let plan = "{ canary: 3, max_parallel: 50%, healthy_for: 2s, deadline: 15s }";
    fleet.push(&topology(&name, plan, "one", "/bin/true"), &["--no-rollout", "--wait"]).unwrap().ok().unwrap();
    let operator = fleet.operator().unwrap();
    let before = engine.containers(&name).unwrap();
    assert_eq!(before.len(), 3);
    simulated.iter().for_each(|host| break_sim(&fleet, &name, host));

    let pushed = fleet.push(&topology(&name, plan, "two", "/no/such/check"), &[]).unwrap().ok().unwrap();
    assert_says(&pushed, &["rollout: 3 hosts first, then at most 50% of the hosts at once", "moorctl rollout status"]);
    let is_out = |h: &(String, u64, u64)| h.1 == 2;
    wait_until("the canaries have it", SOON, || Ok(generations(&operator).iter().filter(|h| is_out(h)).count() == 3)).unwrap();
    let waiting = moorctl(&fleet, &["status"]);
    assert_says(&waiting, &["waiting for the rollout", "1→2"]);
    fleet.kill_hub().unwrap();
    drop(operator);
    fleet.start_hub().unwrap();
    let operator = fleet.operator().unwrap();

    let failed = wait_status(&fleet, &name, "the canaries have gone back", REDIAL, |s| {
        s["state"] == "failed" && ["a1", "a2", "b01"].iter().all(|h| standing(s, h) == "rolled_back")
    });
    assert!(simulated[1..].iter().all(|h| standing(&failed, h) == "pending"), "{failed}");
    let told = moorctl(&fleet, &["rollout", "status", &name]);
    assert_eq!(told.code, 1, "{}", told.text());
    assert_says(&told, &["failed", "a1", "rolled back", "not healthy for 2 s within 15 s", "next: push a mended file"]);
    let has_first = || Ok(generations(&operator).iter().all(|(_, _, applied)| *applied == 1));
    wait_until("every host has the first revision", APPLY, has_first).unwrap();
    let now = engine.containers(&name).unwrap();
    assert!(now.len() == 3 && now.values().all(|c| c.running), "{now:?}");

    // Neither of these has the hub give it to anybody again.
    fleet.kill_hub().unwrap();
    drop(operator);
    fleet.kill_agent("a1").unwrap();
    fleet.start_hub().unwrap();
    fleet.start_agent("a1").unwrap();
    let operator = fleet.operator().unwrap();
    let all_back = || Ok(operator.hosts()?.iter().all(|h| h.connected && h.heartbeat.as_ref().is_some_and(|b| b.enforcing)));
    wait_until("all hosts are back and enforce", REDIAL, all_back).unwrap();
    holds_for("nobody has the broken one", Duration::from_secs(3), || {
        Ok(generations(&operator)
            .iter()
            .all(|(host, accepted, applied)| *applied == 1 && (*accepted == 1 || ["a1", "a2", "b01"].contains(&host.as_str()))))
    })
    .unwrap();
    assert_eq!(event_kinds(&operator).iter().filter(|k| *k == "rollout_failed").count(), 1, "one alarm");
    drop(fleet);
    drop(turn);
}

/// A fleet of simulated hosts `h1`, `h2`, … that have generation 1.
fn simulated(name: &str, count: usize, plan: &str) -> Fleet {
    let mut fleet = Fleet::start(name).unwrap();
    for n in 1..=count {
        fleet.add_host(&format!("h{n}"), Drive::Sim, &["on=sim"]).unwrap();
    }
    fleet.push(&topology("edge", plan, "one", "/bin/true"), &["--no-rollout", "--wait"]).unwrap().ok().unwrap();
    fleet
}

#[test]
fn a_good_revision_reaches_all_in_waves_and_a_host_that_was_away_when_it_comes() {
    let plan = "{ canary: 1, max_parallel: 2, healthy_for: 1s, deadline: 1m }";
    let mut fleet = simulated("waves", 5, plan);
    let operator = fleet.operator().unwrap();
    fleet.stop_agent("h2").unwrap();
    wait_until("the hub sees that it is away", SOON, || Ok(!operator.host("h2")?.connected)).unwrap();
    fleet.push(&topology("edge", plan, "two", "/bin/true"), &[]).unwrap().ok().unwrap();
    let watched = moorctl(&fleet, &["rollout", "status", "edge", "-w"]).ok().unwrap();
    assert_says(&watched, &["h1: healthy", "edge generation 2: completed: 4 of 5 hosts healthy, 0 failed, 1 away until they come"]);
    let released: Vec<String> =
        operator.events().unwrap().into_iter().filter(|e| e.kind == "rollout_released").map(|e| e.message).collect();
    assert!(released[0] == "released to 1 hosts: h1" && released.len() >= 3, "{released:?}");
    fleet.start_agent("h2").unwrap();
    let done = wait_status(&fleet, "edge", "the late one has it", SOON, |s| standing(s, "h2") == "healthy");
    assert_eq!(done["state"], "completed");
    let listed = moorctl(&fleet, &["rollout", "ls"]).ok().unwrap();
    assert_says(&listed, &["edge", "completed", "5 of 5"]);
}

#[test]
fn an_operator_pauses_resumes_and_aborts_it() {
    let plan = "{ canary: 1, max_parallel: 1, healthy_for: 2s, deadline: 1m }";
    let fleet = simulated("acts", 3, plan);
    let validated = moorctl(&fleet, &["validate", "-f", fleet.root().join("topology.yaml").to_str().unwrap()]).ok().unwrap();
    assert_says(&validated, &["rollout: 1 host first, then at most 1 host at once"]);
    let operator = fleet.operator().unwrap();
    fleet.push(&topology("edge", plan, "two", "/bin/true"), &[]).unwrap().ok().unwrap();
    assert_says(&moorctl(&fleet, &["rollout", "pause", "edge"]).ok().unwrap(), &["paused"]);
    wait_status(&fleet, "edge", "the canary is healthy all the same", SOON, |s| {
        standing(s, "h1") == "healthy" || standing(s, "h1") == "pending"
    });
    holds_for("no other gets it", Duration::from_secs(3), || {
        let now = status(&fleet, "edge");
        Ok(now["state"] == "paused" && ["h2", "h3"].iter().all(|h| standing(&now, h) == "pending"))
    })
    .unwrap();
    assert_says(&moorctl(&fleet, &["rollout", "resume", "edge"]).ok().unwrap(), &["running"]);
    wait_status(&fleet, "edge", "the second has it", SOON, |s| standing(s, "h2") != "pending");
    moorctl(&fleet, &["rollout", "abort", "edge"]).ok().unwrap();
    let over = wait_status(&fleet, "edge", "the second is judged", SOON, |s| standing(s, "h2") == "healthy");
    assert_eq!((over["state"].as_str(), standing(&over, "h3").as_str()), (Some("aborted"), "pending"));
    assert_eq!(generations(&operator).iter().map(|(_, _, applied)| *applied).collect::<Vec<_>>(), [2, 2, 1]);
    let refused = moorctl(&fleet, &["rollout", "resume", "edge"]).expect_code(1).unwrap();
    assert_says(&refused, &["precondition_failed", "moorctl rollout status edge"]);
    // Past it, in an emergency.
    fleet.push(&topology("edge", plan, "three", "/bin/true"), &["--no-rollout", "--wait"]).unwrap().ok().unwrap();
    assert!(generations(&operator).iter().all(|(_, _, applied)| *applied == 3));
    for kind in ["rollout_started", "rollout_paused", "rollout_resumed", "rollout_aborted"] {
        assert!(event_kinds(&operator).iter().any(|k| k == kind), "{kind}");
    }
}
