//! A host is kept out of what is pushed, emptied for work on it, and put back into service.

use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::image::IMAGE;
use moorline_tests::limits::{REDIAL, SOON};
use moorline_tests::operator::Operator;
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST, assert_says, event_kinds, moorctl, restart_emptied, sim_containers};

const OTHER: &str = "shop-2";

fn two_hosts(name: &str) -> (Fleet, Operator) {
    let mut fleet = Fleet::start(name).unwrap();
    for host in [HOST, OTHER] {
        fleet.add_host(host, Drive::Sim, &["on=sim"]).unwrap();
    }
    let operator = fleet.operator().unwrap();
    (fleet, operator)
}

fn topology(service: &str, more: &str) -> String {
    format!("topology: edge\n{more}hosts:\n  \"on=sim\": {{ docker: {{ services: {{ {service}: {{ image: {IMAGE} }} }} }} }}\n")
}

fn state(fleet: &Fleet, host: &str) -> String {
    let rows = moorctl(fleet, &["status", "-o", "json"]).json().unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["host"] == host).unwrap().clone();
    row["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_cordoned_host_keeps_what_it_has_and_gets_the_newest_when_that_is_lifted() {
    let (mut fleet, mut operator) = two_hosts("cordon");
    fleet.push(&topology("one", ""), &["--wait"]).unwrap().ok().unwrap();
    let cordon = moorctl(&fleet, &["host", "cordon", HOST, "--reason", "new disks"]).ok().unwrap();
    assert_says(&cordon, &["is cordoned", "moorctl host uncordon shop-1"]);
    let pushed = fleet.push(&topology("two", ""), &["--wait"]).unwrap().ok().unwrap();
    assert_says(&pushed, &["1 of 2 hosts have it", "cordoned, pending until `moorctl host uncordon`: shop-1"]);
    assert_eq!((state(&fleet, HOST), state(&fleet, OTHER)), ("cordoned".to_owned(), "converged".to_owned()));
    assert_eq!((sim_containers(&fleet, HOST), sim_containers(&fleet, OTHER)), (vec!["edge-one-1".into()], vec!["edge-two-1".into()]));
    assert_says(&moorctl(&fleet, &["host", "ls"]), &["shop-1: cordoned for", "by operator/admin: new disks"]);
    assert_says(
        &moorctl(&fleet, &["plan", "-f", fleet.file("e.yaml", topology("three", "")).unwrap().to_str().unwrap()]),
        &["cordoned by"],
    );

    // What it has is healed, and it is sent it again after a start, whatever becomes of the hub.
    fleet.kill_hub().unwrap();
    drop(operator);
    fleet.start_hub().unwrap();
    operator = fleet.operator().unwrap();
    restart_emptied(&mut fleet);
    wait_until("it is healed", REDIAL, || Ok(sim_containers(&fleet, HOST) == ["edge-one-1"])).unwrap();

    moorctl(&fleet, &["host", "uncordon", HOST]).ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-two-1"]);
    assert_eq!(state(&fleet, HOST), "converged");
    let kinds = event_kinds(&operator);
    assert!(kinds.contains(&"host_cordoned".to_owned()) && kinds.contains(&"host_uncordoned".to_owned()), "{kinds:?}");
    assert_says(&moorctl(&fleet, &["host", "cordon", "nobody"]), &["not_found"]);
}

#[test]
fn a_rollout_goes_on_without_a_cordoned_host_which_gets_it_later() {
    let (fleet, operator) = two_hosts("cordonroll");
    let plan = "rollout: { canary: 1, max_parallel: 1, healthy_for: 1s, deadline: 20s }\n";
    fleet.push(&topology("one", plan), &["--no-rollout", "--wait"]).unwrap().ok().unwrap();
    moorctl(&fleet, &["host", "cordon", HOST]).ok().unwrap();
    fleet.push(&topology("two", plan), &[]).unwrap().ok().unwrap();
    let waited = moorctl(&fleet, &["rollout", "status", "edge", "-w"]).ok().unwrap();
    assert_says(&waited, &["completed"]);
    let status = moorctl(&fleet, &["rollout", "status", "edge"]);
    assert_says(&status, &["offline, pending", "cordoned", "1 healthy"]);
    assert_eq!(sim_containers(&fleet, HOST), ["edge-one-1"]);
    moorctl(&fleet, &["host", "uncordon", HOST]).ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
}

#[test]
fn a_host_is_drained_in_order_and_comes_back_as_it_was() {
    let Some(mut t) = EngineFleet::start("drain") else { return };
    let name = t.topology();
    let service = |more: &str| format!("{{ image: {IMAGE}, stop_grace_period: 1s{more} }}");
    let yaml = format!(
        "topology: {name}\nhosts:\n  {HOST}:\n    docker:\n      services:\n        web: {}\n        db: {}\n        lone: {}\n",
        service(", depends_on: [db], scale: 2"),
        service(""),
        service(""),
    );
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    moorctl(&t.fleet, &["op", "stop", &format!("{HOST}/{name}-lone-1")]).ok().unwrap();
    let running = |t: &EngineFleet| t.engine.running(&name).unwrap().into_iter().collect::<Vec<_>>();
    let all = [format!("{name}-db-1"), format!("{name}-web-1"), format!("{name}-web-2")];
    wait_until("the one is stopped", SOON, || Ok(running(&t) == all)).unwrap();

    assert_says(&t.fleet.moorctl(&["host", "drain", HOST]).unwrap(), &["needs_confirmation", "stops 3 containers", "-db-1"]);
    assert_eq!(state(&t.fleet, HOST), "converged", "nobody said yes");
    assert_says(&moorctl(&t.fleet, &["host", "drain", HOST, "--reason", "memory"]).ok().unwrap(), &["3 containers are stopped"]);
    assert!(running(&t).is_empty());
    wait_until("it waits for nothing", SOON, || Ok(t.operator.host(HOST)?.converged)).unwrap();
    let status = moorctl(&t.fleet, &["status"]);
    assert!(!status.text().contains("waits for") && status.text().contains("cordoned, 4 held"), "{}", status.text());
    let ops = moorctl(&t.fleet, &["op", "ls", "-o", "json"]).json().unwrap();
    let stopped: Vec<&str> =
        ops.as_array().unwrap().iter().rev().filter(|op| op["kind"] == "stop").filter_map(|op| op["resource"].as_str()).collect();
    assert!(stopped.last().unwrap().ends_with("-db-1"), "what others depend on stops last: {stopped:?}");
    assert_says(&moorctl(&t.fleet, &["host", "drain", HOST]).ok().unwrap(), &["nothing of ours runs on it"]);

    // It stays so through a start of the agent, and gets nothing new.
    t.fleet.push(&yaml.replace("1s", "2s"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.kill_agent(HOST).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    wait_until("it is back", REDIAL, || Ok(t.operator.host(HOST)?.connected && state(&t.fleet, HOST) == "cordoned")).unwrap();
    assert!(running(&t).is_empty());

    let back = moorctl(&t.fleet, &["host", "uncordon", HOST]).ok().unwrap();
    assert_says(&back, &["3 containers are started again", "left as it is", "-lone-1"]);
    t.fleet.wait_converged(&t.operator, HOST, &name, 2).unwrap();
}
