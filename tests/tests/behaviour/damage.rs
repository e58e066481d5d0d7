//! Damage is loud, configuration is checked before anything is opened, and one agent runs at a time.

use std::path::Path;
use std::time::Duration;

use moorline_tests::limits::{REDIAL, SOON};
use moorline_tests::wait::{holds_for, wait_until};

use crate::setup::{HOST, assert_says, services, sim_containers, sim_fleet, sim_world};

#[test]
fn a_journal_damaged_in_its_middle_stops_all_mutation_until_an_operator_approves_the_host_anew() {
    quarantines("damage", "is damaged at byte", |state| {
        let journal = state.join("journal/00000000000000000001.jsonl");
        let mut bytes = std::fs::read(&journal).unwrap();
        let first_line = bytes.iter().position(|b| *b == b'\n').unwrap();
        assert!(bytes.len() > first_line + 1, "the journal has more than one line");
        bytes[first_line / 2] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
    });
}

#[test]
fn a_lost_journal_stops_all_mutation_until_an_operator_approves_the_host_anew() {
    quarantines("nojournal", "it was lost", |state| std::fs::remove_dir_all(state.join("journal")).unwrap());
}

#[test]
fn a_lost_ledger_stops_all_mutation_until_an_operator_approves_the_host_anew() {
    quarantines("lost", "was lost or exchanged", |state| std::fs::remove_file(state.join("ledger.sqlite")).unwrap());
}

#[test]
fn a_ledger_of_garbage_stops_all_mutation_until_an_operator_approves_the_host_anew() {
    quarantines("garbage", "is damaged", |state| std::fs::write(state.join("ledger.sqlite"), [b'x'; 8192]).unwrap());
}

#[test]
fn a_ledger_with_one_wrong_bit_stops_all_mutation_until_an_operator_approves_the_host_anew() {
    quarantines("flip", "of its table `current` is not what was written", |state| {
        let ledger = state.join("ledger.sqlite");
        let mut bytes = std::fs::read(&ledger).unwrap();
        // Inside a text, where SQLite has no check of its own: the value that GREETING has in what was applied.
        let at = bytes.windows(9).position(|w| w == b"GREETING\"").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&ledger, bytes).unwrap();
        let connection = rusqlite::Connection::open(&ledger).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(sound, "ok", "SQLite does not notice");
    });
}

/// That a host whose state folder suffered `damage` while its agent was stopped heartbeats and says so (with `why` on the host), changes nothing, and
/// goes on once it is approved anew.
fn quarantines(name: &str, why: &str, damage: impl FnOnce(&Path)) {
    let (mut fleet, operator) = sim_fleet(name);
    fleet.push(&services("edge", &["site", "cache"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.stop_agent(HOST).unwrap();
    damage(&fleet.agent_dir(HOST));
    let world = sim_world(&fleet, HOST);

    fleet.start_agent(HOST).unwrap();
    fleet.push(&services("edge", &["site"], "two"), &[]).unwrap().ok().unwrap();
    wait_until("heartbeats say `quarantined`", SOON, || {
        let host = operator.host(HOST)?;
        Ok(host.connected && host.heartbeat.is_some_and(|h| h.last_error_code == "quarantined"))
    })
    .unwrap();
    holds_for("nothing on the host changes", Duration::from_secs(2), || Ok(sim_world(&fleet, HOST) == world)).unwrap();
    assert_says(&fleet.moorctl(&["status"]).unwrap(), &["quarantined"]);
    assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["quarantined", why]);
    assert!(fleet.logs().unwrap()[HOST].contains(why), "the log says what is wrong");
    fleet.stop_agent(HOST).unwrap();
    assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &["not running", "quarantined"]);
    fleet.start_agent(HOST).unwrap();

    fleet.moorctl(&["--yes", "host", "approve", HOST]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-site-1"]);
}

#[test]
fn a_journal_cut_off_in_its_last_line_is_mended_and_work_goes_on() {
    let (mut fleet, operator) = sim_fleet("torn");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.kill_agent(HOST).unwrap();
    let journal = fleet.agent_dir(HOST).join("journal/00000000000000000001.jsonl");
    let bytes = std::fs::read(&journal).unwrap();
    // As a crash leaves it that came while a record was written: nobody was told of that one.
    let last = bytes.trim_ascii_end().rsplit(|b| *b == b'\n').next().unwrap();
    let half = &last[..last.len() / 2];
    std::fs::write(&journal, [bytes.as_slice(), half].concat()).unwrap();
    fleet.start_agent(HOST).unwrap();
    fleet.push(&services("edge", &["site", "cache"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    assert_eq!(sim_containers(&fleet, HOST).len(), 2);
}

#[test]
fn a_second_agent_on_the_same_state_folder_is_refused() {
    let (fleet, _operator) = sim_fleet("single");
    let second = fleet.agent(HOST, &["run"]).unwrap();
    assert_eq!(second.code, 1, "{}", second.text());
    assert_says(&second, &["another moorline-agent"]);
}

#[test]
fn wrong_configuration_is_said_with_exit_code_64_before_anything_is_opened() {
    let (mut fleet, _operator) = sim_fleet("config");
    fleet.set_hub_config("lisen", "\"127.0.0.1:1\"").unwrap();
    let hub = fleet.hub_command(&["serve", "--check-config"]).unwrap().expect_code(64).unwrap();
    assert_says(&hub, &["lisen"]);
    fleet.set_agent_config(HOST, "ofline = \"wait\"").unwrap();
    let agent = fleet.agent(HOST, &["run", "--check-config"]).unwrap().expect_code(64).unwrap();
    assert_says(&agent, &["ofline"]);
    fleet.moorctl(&["psh"]).unwrap().expect_code(64).unwrap();
    // What runs already goes on.
    fleet.stop_agent(HOST).unwrap();
    fleet.stop_hub().unwrap();
}

#[test]
fn with_offline_enforce_the_cached_signed_slice_is_enforced_without_a_hub() {
    let (mut fleet, _operator) = sim_fleet("offline");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.stop_agent(HOST).unwrap();
    fleet.stop_hub().unwrap();
    let path = fleet.agent_dir(HOST).join("sim/engine.json");
    let mut world: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    world["containers"].as_object_mut().unwrap().clear();
    std::fs::write(&path, serde_json::to_vec(&world).unwrap()).unwrap();

    fleet.start_agent(HOST).unwrap();
    holds_for("the agent waits for the hub by default", Duration::from_secs(2), || Ok(sim_containers(&fleet, HOST).is_empty())).unwrap();
    fleet.stop_agent(HOST).unwrap();
    fleet.set_agent_config(HOST, "offline = \"enforce\"").unwrap();
    fleet.start_agent(HOST).unwrap();
    wait_until("the slice is enforced", SOON, || Ok(sim_containers(&fleet, HOST) == ["edge-site-1"])).unwrap();
}

#[test]
fn doctors_find_nothing_wrong_with_a_healthy_fleet() {
    let (fleet, _operator) = sim_fleet("doctor");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.hub_command(&["doctor"]).unwrap().ok().unwrap();
    fleet.agent(HOST, &["doctor"]).unwrap().ok().unwrap();
}

#[test]
fn without_a_hub_every_verb_says_where_it_looked_and_the_agent_goes_on_trying() {
    let (mut fleet, _operator) = sim_fleet("nohubcli");
    let address = fleet.address();
    fleet.stop_hub().unwrap();
    for verb in [vec!["status"], vec!["host", "ls"], vec!["history", "edge"], vec!["events"]] {
        let output = fleet.moorctl(&verb).unwrap().expect_code(1).unwrap();
        assert_says(&output, &[&address, "help:"]);
    }
    assert_says(&fleet.agent(HOST, &["status"]).unwrap(), &[HOST]);
    fleet.start_hub().unwrap();
    let operator = fleet.operator().unwrap();
    wait_until("the agent is back", REDIAL, || Ok(operator.host(HOST)?.connected)).unwrap();
}
