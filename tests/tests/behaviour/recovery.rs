//! A crash of the hub or the agent is a question of when, never of what.

use std::collections::BTreeSet;

use moorline_tests::engine::resources;
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST, services};

#[test]
fn a_killed_hub_comes_back_and_nothing_on_the_host_changes() {
    let Some(mut t) = EngineFleet::start("hubkill") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site", "cache"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let before = t.containers();
    assert_eq!(before.len(), 2);
    t.proxy.forget();

    t.fleet.kill_hub().unwrap();
    t.fleet.start_hub().unwrap();
    let operator = t.fleet.operator().unwrap();
    let host = t.fleet.wait_converged(&operator, HOST, &topology, 1).unwrap();

    assert_eq!(host.heartbeat.unwrap_or_default().applied_hash, host.target_hash);
    assert_eq!(t.containers(), before);
    assert_eq!(t.proxy.mutations(), []);
}

#[test]
fn an_agent_heals_while_the_hub_is_away() {
    let Some(mut t) = EngineFleet::start("nohub") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.kill_hub().unwrap();
    let name = format!("{topology}-site-1");
    let old = t.containers()[&name].clone();
    t.engine.remove_container(&topology, &name).unwrap();
    wait_until("the removed container is back", SOON, || {
        Ok(t.engine.containers(&topology)?.get(&name).is_some_and(|c| c.running && c.id != old.id))
    })
    .unwrap();
}

#[test]
fn an_agent_killed_in_the_middle_of_an_apply_ends_converged_without_duplicates_or_orphans() {
    let Some(mut t) = EngineFleet::start("agentkill") else { return };
    let topology = t.topology();
    let names: Vec<String> = (1..=20).map(|n| format!("web{n:02}")).collect();
    let yaml = services(&topology, &names.iter().map(String::as_str).collect::<Vec<_>>(), "hello");
    t.fleet.push(&yaml, &[]).unwrap().ok().unwrap();
    let creations = || t.proxy.mutations().iter().filter(|r| r.path.starts_with("/containers/create")).count();
    for kill_at in [2, 8, 14] {
        wait_until(&format!("{kill_at} containers are under way"), APPLY, || Ok(creations() >= kill_at)).unwrap();
        t.fleet.kill_agent(HOST).unwrap();
        assert!(t.containers().values().filter(|c| c.running).count() < 20, "the kill came too late to test anything");
        t.fleet.start_agent(HOST).unwrap();
    }
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();

    let containers = t.containers();
    let expected: BTreeSet<String> = names.iter().map(|n| format!("{topology}-{n}-1")).collect();
    assert_eq!(containers.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert!(containers.values().all(|c| c.running));
    let resources = resources(&containers);
    assert_eq!(resources.iter().collect::<BTreeSet<_>>().len(), resources.len(), "a resource exists twice: {resources:?}");
    assert_eq!(t.engine.networks(&topology).unwrap(), BTreeSet::from([format!("{topology}_front")]));
}
