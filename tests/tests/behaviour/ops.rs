//! One signed operation is done once, its receipt is the host's, and what it leaves is held.

use moorline_tests::fleet::{Fleet, text};
use moorline_tests::limits::SOON;
use moorline_tests::process::Output;
use moorline_tests::wait::wait_until;
use serde_json::Value;

use crate::setup::{HOST, assert_says, event_kinds, moorctl, services, sim_containers, sim_fleet};

pub fn op(fleet: &Fleet, line: &[&str]) -> Output {
    moorctl(fleet, &[&["op"], line].concat())
}

/// What an operation gives as JSON; it must succeed.
pub fn done(fleet: &Fleet, line: &[&str]) -> Value {
    op(fleet, &[&["-o", "json"], line].concat()).ok().unwrap().json().unwrap()
}

/// How far an operation is, as the hub knows.
pub fn stage(fleet: &Fleet, id: &str) -> anyhow::Result<String> {
    let shown = fleet.moorctl(&["op", "show", id, "-o", "json"])?.ok()?.json()?;
    Ok(shown["state"].as_str().unwrap_or_default().to_owned())
}

/// How a simulated container is.
fn state(fleet: &Fleet, name: &str) -> String {
    let world: Value = serde_json::from_slice(&crate::setup::sim_world(fleet, HOST)).unwrap();
    world["containers"][name]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_stopped_container_is_held_over_restarts_until_a_release_or_a_newer_generation() {
    let (mut fleet, _) = sim_fleet("ophold");
    fleet.push(&services("edge", &["site", "db"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = |name: &str| format!("{HOST}/edge-{name}-1");
    let held = done(&fleet, &["stop", &on("site"), "--reason", "maintenance"]);
    assert_eq!((held["state"].as_str(), held["verified"].as_bool()), (Some("succeeded"), Some(true)), "{held}");
    let id = held["op_id"].as_str().unwrap().to_owned();
    done(&fleet, &["stop", &on("db")]);
    let is_held =
        |fleet: &Fleet| Ok(fleet.moorctl(&["status"])?.text().contains(&format!("docker/container/edge-site-1: held by op {id}")));
    wait_until("the status says what is held", SOON, || is_held(&fleet)).unwrap();
    assert_eq!(state(&fleet, "edge-site-1"), "exited");

    fleet.stop_agent(HOST).unwrap();
    fleet.stop_hub().unwrap();
    fleet.start_hub().unwrap();
    fleet.start_agent(HOST).unwrap();
    let operator = fleet.operator().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    wait_until("it is still held", SOON, || is_held(&fleet)).unwrap();
    assert_eq!(state(&fleet, "edge-site-1"), "exited", "after a restart it is left as the operation left it");

    op(&fleet, &["release", &on("site")]).ok().unwrap();
    wait_until("a release lets the agent heal it", SOON, || Ok(state(&fleet, "edge-site-1") == "running")).unwrap();
    assert_eq!(state(&fleet, "edge-db-1"), "exited");
    fleet.push(&services("edge", &["site", "db"], "hello again"), &["--wait"]).unwrap().ok().unwrap();
    wait_until("a newer generation lifts the other", SOON, || Ok(state(&fleet, "edge-db-1") == "running")).unwrap();
    let kinds = event_kinds(&operator);
    assert!(kinds.iter().filter(|k| *k == "op_ended").count() == 3 && kinds.contains(&"op_submitted".to_owned()), "{kinds:?}");
}

#[test]
fn a_command_gets_its_input_and_gives_back_output_and_exit_code() {
    let (fleet, _) = sim_fleet("opexec");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let input = fleet.file("input", "from the operator\n").unwrap();
    let cat = op(&fleet, &["exec", &on, "--stdin", text(&input).unwrap(), "--", "cat"]).ok().unwrap();
    assert_eq!(cat.stdout, "from the operator\n");
    assert_says(&cat, &["exit code 0", "receipt verified"]);
    let failed = op(&fleet, &["exec", &on, "--", "sh", "-c", "echo no >&2; exit 3"]).expect_code(1).unwrap();
    assert_says(&failed, &["no\n", "exit code 3", "[op_failed]"]);
    let unasked = fleet.moorctl(&["op", "exec", &on, "--", "true"]).unwrap().expect_code(1).unwrap();
    assert_says(&unasked, &["needs_confirmation", "class R3"]);
}

#[test]
fn one_key_is_one_operation() {
    let (fleet, _) = sim_fleet("opkey");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let first = done(&fleet, &["restart", &on, "--key", "nightly"]);
    let second = done(&fleet, &["restart", &on, "--key", "nightly"]);
    assert_ne!(first["op_id"], second["op_id"]);
    assert_eq!(second["receipt"]["same_as"], first["op_id"], "{second}");
    let other = op(&fleet, &["stop", &on, "--key", "nightly"]).expect_code(1).unwrap();
    assert_says(&other, &["[conflict]"]);
    assert_eq!(state(&fleet, "edge-site-1"), "running");
    let typo = op(&fleet, &["stop", &format!("{HOST}/edge-sit-1")]).expect_code(1).unwrap();
    assert_says(&typo, &["[not_found]", "did you mean `edge-site-1`?"]);
}

#[test]
fn what_waits_its_turn_can_be_taken_back() {
    let (fleet, _) = sim_fleet("opcancel");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let busy = done(&fleet, &["exec", &on, "--no-wait", "--", "sleep", "8"]);
    let waiting = done(&fleet, &["stop", &on, "--no-wait"]);
    let id = waiting["op_id"].as_str().unwrap();
    let shown = |id: &str| op(&fleet, &["show", id, "-o", "json"]).ok().unwrap().json().unwrap();
    wait_until("it waits", SOON, || Ok(shown(id)["state"] == "queued")).unwrap();
    op(&fleet, &["cancel", id]).ok().unwrap();
    wait_until("it is cancelled", SOON, || Ok(shown(id)["state"] == "cancelled")).unwrap();
    wait_until("the other ends", SOON, || Ok(shown(busy["op_id"].as_str().unwrap())["state"] == "succeeded")).unwrap();
    assert_eq!(state(&fleet, "edge-site-1"), "running");
    let listed = op(&fleet, &["ls", HOST]).ok().unwrap();
    assert_says(&listed, &[id, "cancelled", "succeeded"]);
    assert_says(&op(&fleet, &["cancel", id]).expect_code(1).unwrap(), &["refused, receipt verified"]);
}

#[test]
fn a_saved_order_is_signed_without_a_hub_and_handed_in_later() {
    let (mut fleet, _) = sim_fleet("opsave");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let file = fleet.root().join("order.json");
    op(&fleet, &["kill", &on, "--save", text(&file).unwrap()]).ok().unwrap();
    fleet.stop_hub().unwrap();
    assert_says(&op(&fleet, &["sign", text(&file).unwrap()]).ok().unwrap(), &["docker/container/edge-site-1", "class R3", HOST]);
    fleet.start_hub().unwrap();
    assert_eq!(state(&fleet, "edge-site-1"), "running");
    op(&fleet, &["submit", text(&file).unwrap()]).ok().unwrap();
    assert_eq!(state(&fleet, "edge-site-1"), "exited");
    // The very same order again is the same operation.
    assert_says(&op(&fleet, &["submit", text(&file).unwrap()]).ok().unwrap(), &["nothing is done twice"]);
    assert_eq!(sim_containers(&fleet, HOST).len(), 1);
}

#[test]
fn a_journal_is_checked_against_what_the_hub_has_seen_of_it() {
    let (fleet, operator) = sim_fleet("opjournal");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let ended = done(&fleet, &["restart", &format!("{HOST}/edge-site-1")]);
    wait_until("a heartbeat names a record", SOON, || Ok(operator.host(HOST)?.witnessed_journal_seq > 0)).unwrap();
    let saved = fleet.root().join("journal.jsonl");
    let checked = fleet.moorctl(&["-o", "json", "journal", HOST, "--verify", "--save", text(&saved).unwrap()]).unwrap().ok().unwrap();
    let checked = checked.json().unwrap();
    assert_eq!((checked["verified"].as_bool(), checked["noted"][0]["found"].as_bool()), (Some(true), Some(true)), "{checked}");
    assert_eq!(
        Some(std::fs::read_to_string(&saved).unwrap().lines().count()),
        checked["records"].as_u64().map(|n| usize::try_from(n).unwrap() + 1)
    );
    let shown = fleet.moorctl(&["journal", HOST, "--op", ended["op_id"].as_str().unwrap()]).unwrap().ok().unwrap();
    assert_says(&shown, &["accepted", "started", "succeeded", "verified"]);
    let forged = format!("1:{}", "0".repeat(64));
    let forged = fleet.moorctl(&["journal", HOST, "--verify", "--head", &forged]).unwrap().expect_code(1).unwrap();
    assert_says(&forged, &["IS NOT THERE", "[hash_mismatch]"]);
}
