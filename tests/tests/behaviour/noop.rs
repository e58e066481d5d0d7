//! Rest is empty: what is already so is not touched.

use moorline_tests::limits::SOON;
use moorline_tests::wait::{holds_for, wait_until};
use std::time::Duration;

use crate::setup::{EngineFleet, HOST, services, sim_fleet};

#[test]
fn pushing_the_same_content_again_makes_no_mutating_engine_call() {
    let Some(t) = EngineFleet::start("noop") else { return };
    let topology = t.topology();
    let yaml = services(&topology, &["site", "cache", "db"], "hello");
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    let first = t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let before = t.containers();
    t.proxy.forget();

    t.fleet.push(&yaml, &["--force", "--wait"]).unwrap().ok().unwrap();
    let second = t.fleet.wait_converged(&t.operator, HOST, &topology, 2).unwrap();

    assert_eq!(first.target_hash, second.target_hash, "equal content, equal hash");
    assert_eq!(t.proxy.mutations(), []);
    assert_eq!(t.containers(), before, "nothing was restarted");
}

#[test]
fn key_order_and_comments_do_not_change_the_hash() {
    let (fleet, operator) = sim_fleet("order");
    let push = |yaml: &str| fleet.push(yaml, &["--wait"]).unwrap().ok().unwrap();
    push(&format!(
        "topology: edge\nhosts:\n  {HOST}:\n    docker:\n      services:\n        site: {{ image: \"a:1\", restart: always, environment: {{ A: \"1\", B: \"2\" }} }}\n"
    ));
    let first = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    let said = push(&format!(
        "# a comment\nhosts:\n  {HOST}:\n    docker:\n      services:\n        site:\n          environment:\n            B: \"2\" # first now\n            A: \"1\"\n          restart: always\n          image: a:1\ntopology: edge\n"
    ));
    assert!(said.text().contains("nothing changed"), "{}", said.text());
    assert_eq!(operator.topologies().unwrap()[0].generation, 1);

    // Another spelling of the same is a new revision for the history, and the same for the host.
    push(&format!(
        "topology: edge\nhosts:\n  {HOST}:\n    docker:\n      services:\n        site: {{ environment: [\"B=2\", A=1], image: a:1, restart: always }}\n"
    ));
    let second = fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(first.target_hash, second.target_hash);
}

#[test]
fn an_agent_without_a_slice_heartbeats_and_changes_nothing() {
    let Some(t) = EngineFleet::start("noslice") else { return };
    wait_until("heartbeats come", SOON, || Ok(t.operator.host(HOST)?.heartbeat.is_some_and(|h| h.ready && h.sequence > 2))).unwrap();
    holds_for("no mutating call is made", Duration::from_secs(2), || Ok(t.proxy.mutations().is_empty())).unwrap();
    assert!(t.containers().is_empty());
}

#[test]
fn a_removed_container_is_healed_and_only_that_one_is_touched() {
    let Some(t) = EngineFleet::start("heal") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site", "cache"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let before = t.containers();
    let (site, cache) = (format!("{topology}-site-1"), format!("{topology}-cache-1"));
    t.engine.remove_container(&topology, &site).unwrap();
    wait_until("the removed container is back", SOON, || {
        Ok(t.engine.containers(&topology)?.get(&site).is_some_and(|c| c.running && c.id != before[&site].id))
    })
    .unwrap();
    t.engine.kill_container(&topology, &site).unwrap();
    wait_until("the killed container runs again", SOON, || Ok(t.engine.running(&topology)?.contains(&site))).unwrap();
    assert_eq!(t.containers()[&cache], before[&cache], "its neighbour was left alone");
}

#[test]
fn down_removes_containers_and_networks_and_keeps_volumes() {
    let Some(t) = EngineFleet::start("down") else { return };
    let topology = t.topology();
    let yaml = services(&topology, &["site"], "hello")
        .replace("networks: { front: {} }", "networks: { front: {} }\n      volumes: { data: {} }")
        .replace("networks: [front]", "networks: [front]\n          volumes: [\"data:/data\"]");
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    assert_eq!(t.engine.volumes(&topology).unwrap().len(), 1);
    t.fleet.moorctl(&["--yes", "down", &topology, "--wait"]).unwrap().ok().unwrap();
    assert!(t.containers().is_empty());
    assert!(t.engine.networks(&topology).unwrap().is_empty());
    assert_eq!(t.engine.volumes(&topology).unwrap().len(), 1, "volumes hold data: they stay");

    // The host is free for another topology now.
    let other = format!("{topology}-b");
    t.fleet.push(&services(&other, &["next"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &other, 1).unwrap();
}
