//! A hub that lost everything is restored from an older backup, and learns from its agents.

use moorline_tests::fleet::text;
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST, event_kinds, services};

#[test]
fn a_hub_restored_from_an_older_backup_adopts_what_its_agents_hold_and_hosts_stay_untouched() {
    let Some(mut t) = EngineFleet::start("restore") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let backup = t.fleet.root().join("backup");
    t.fleet.hub_command(&["backup", text(&backup).unwrap()]).unwrap().ok().unwrap();
    t.fleet.push(&services(&topology, &["site", "cache"], "two"), &["--wait"]).unwrap().ok().unwrap();
    let newest = t.fleet.wait_converged(&t.operator, HOST, &topology, 2).unwrap();
    let before = t.containers();
    t.proxy.forget();

    t.fleet.kill_hub().unwrap();
    std::fs::remove_dir_all(t.fleet.hub_dir()).unwrap();
    t.fleet.hub_command(&["restore", text(&backup).unwrap()]).unwrap().ok().unwrap();
    t.fleet.start_hub().unwrap();
    let operator = t.fleet.operator().unwrap();
    let adopted = t.fleet.wait_converged(&operator, HOST, &topology, 2).unwrap();

    assert_eq!(adopted.target_hash, newest.target_hash);
    assert!(event_kinds(&operator).contains(&"adopted".to_owned()));
    assert_eq!(t.containers(), before);
    assert_eq!(t.proxy.mutations(), []);

    // The operator goes on from there.
    let path = t.fleet.file("third.yaml", services(&topology, &["site", "cache"], "three")).unwrap();
    let said = t.fleet.moorctl(&["--yes", "push", "-f", text(&path).unwrap(), "--wait"]).unwrap();
    assert_eq!(said.code, 0, "{}", said.text());
    t.fleet.wait_converged(&operator, HOST, &topology, 3).unwrap();
}

#[test]
fn a_host_that_was_bound_after_the_backup_is_known_again() {
    use moorline_tests::fleet::{Drive, Fleet};
    let mut fleet = Fleet::start("rebound").unwrap();
    let backup = fleet.root().join("backup");
    fleet.hub_command(&["backup", text(&backup).unwrap()]).unwrap().ok().unwrap();
    fleet.add_host(HOST, Drive::Sim, &[]).unwrap();
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.kill_hub().unwrap();
    std::fs::remove_dir_all(fleet.hub_dir()).unwrap();
    fleet.hub_command(&["restore", text(&backup).unwrap()]).unwrap().ok().unwrap();
    fleet.start_hub().unwrap();
    let operator = fleet.operator().unwrap();
    wait_until("the hub knows the host again", SOON, || Ok(operator.hosts()?.iter().any(|h| h.name == HOST && h.binding.is_some())))
        .unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
}
