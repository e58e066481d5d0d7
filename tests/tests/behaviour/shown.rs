//! What an operator sees is what is: one form for one thing, no guess for a fact, and what to do next.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::Stdio;

use moorline_tests::fleet::{Fleet, text};
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::setup::{HOST, assert_says, moorctl, services, sim_fleet};

fn json(fleet: &Fleet, args: &[&str]) -> Value {
    moorctl(fleet, &[&["-o", "json"], args].concat()).ok().unwrap().json().unwrap()
}

fn keys(value: &Value) -> BTreeSet<&String> {
    value.as_object().unwrap().keys().collect()
}

#[test]
fn an_operation_has_one_form_and_its_output_is_text_for_people() {
    let (fleet, _) = sim_fleet("shownop");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let input = fleet.file("input", "a\u{1b}[2Jb\n").unwrap();
    let exec = ["op", "exec", &on, "--stdin", text(&input).unwrap(), "--", "cat"];
    let ordered = json(&fleet, &exec);
    assert_eq!(moorctl(&fleet, &exec).ok().unwrap().stdout, "a\u{1b}[2Jb\n", "off a terminal it is what the command wrote");
    let id = ordered["op_id"].as_str().unwrap();
    let shown = json(&fleet, &["op", "show", id]);
    assert_eq!(keys(&ordered), keys(&shown));
    for key in ["op_id", "state", "verified", "receipt", "order", "idempotency_key", "kind", "resource", "class", "host"] {
        assert_eq!(ordered[key], shown[key], "{key}");
    }
    let seen = moorctl(&fleet, &["op", "show", id]).ok().unwrap();
    let stdout = shown["receipt"]["result"]["stdout"].as_str().unwrap();
    assert!(!stdout.is_empty() && !seen.stdout.contains(stdout) && !seen.stdout.contains('\u{1b}'), "{}", seen.stdout);
    assert_says(&seen, &["u{1b}[2Jb"]);

    let pruned = moorctl(&fleet, &["op", "prune", HOST]).ok().unwrap();
    assert_says(&pruned, &["prune on shop-1: succeeded, receipt verified", "there was nothing to remove"]);
    let none = moorctl(&fleet, &["journal", HOST, "--op", "0197a2b4-1c3d-7e5f-8a6b-0123456789ab"]).ok().unwrap();
    assert_says(&none, &["no record of `0197a2b4-1c3d-7e5f-8a6b-0123456789ab`"]);
    let none = fleet.agent(HOST, &["journal", "show", "--op", "0197a2b4"]).unwrap();
    assert_says(&none, &["records is of that"]);
}

#[test]
fn a_plan_says_what_is_held_and_whether_a_push_lifts_it() {
    let (fleet, _) = sim_fleet("shownheld");
    let yaml = services("edge", &["site"], "hello");
    fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    let id = json(&fleet, &["op", "stop", &format!("{HOST}/edge-site-1")])["op_id"].as_str().unwrap().to_owned();
    let is_reported = || Ok(fleet.moorctl(&["status"])?.text().contains("1 held"));
    wait_until("the report says what is held", SOON, is_reported).unwrap();
    let (same, other) = (fleet.file("same.yaml", &yaml).unwrap(), fleet.file("other.yaml", services("edge", &["site"], "bye")).unwrap());
    let plan = |file: &std::path::Path| moorctl(&fleet, &["plan", "-f", file.to_str().unwrap()]);
    let held = plan(&same).ok().unwrap();
    assert_says(&held, &[&format!("docker/container/edge-site-1 is held by op {id}: it stays so until"), "moorctl op release"]);
    assert_says(&plan(&other).expect_code(2).unwrap(), &[&id, "the new content lifts that"]);
}

#[test]
fn a_wait_ends_with_the_orders_window_or_at_the_operators_word() {
    let (mut fleet, _) = sim_fleet("shownwait");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let mut command = fleet.moorctl_command(&["--yes", "op", "exec", &on, "--", "sleep", "15"]);
    let mut waiting = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let under_way = || {
        let listed = moorctl(&fleet, &["op", "ls", "--open"]).stdout;
        Ok(listed.contains("started") || listed.contains("task_running"))
    };
    wait_until("the command runs", SOON, under_way).unwrap();
    kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), Signal::SIGINT).unwrap();
    let code = waiting.wait().unwrap().code();
    let mut said = String::new();
    waiting.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the operation was not") && said.contains("moorctl op show"), "{said}");
    let ended = || Ok(moorctl(&fleet, &["op", "ls"]).stdout.contains("succeeded"));
    wait_until("it goes on without anybody waiting", SOON, ended).unwrap();

    fleet.stop_agent(HOST).unwrap();
    let away = moorctl(&fleet, &["op", "restart", &on, "--expires", "1s"]).expect_code(1).unwrap();
    assert_says(&away, &["[expired]", "never sent it", "--expires"]);
    assert_says(&moorctl(&fleet, &["op", "ls", "--open"]).ok().unwrap(), &["submitted, overdue", "was never sent it"]);
}

#[test]
fn a_hosts_status_counts_what_is_wanted_and_forgets_a_refusal_that_is_over() {
    let (fleet, _) = sim_fleet("shownstatus");
    fleet.push(&services("edge", &["site", "db"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let status = || fleet.agent(HOST, &["status"]).unwrap();
    assert_says(&status(), &["2 of 2 wanted containers run, 2 are there"]);
    let on = format!("{HOST}/edge-site-1");
    moorctl(&fleet, &["op", "destroy", &on]).ok().unwrap();
    wait_until("what is gone is counted as wanted", SOON, || Ok(status().text().contains("1 of 2 wanted containers run, 1 are there")))
        .unwrap();
    let refused = moorctl(&fleet, &["op", "start", &format!("{HOST}/edge-db-1"), "--if-generation", "9"]).expect_code(1).unwrap();
    assert_says(&refused, &["[precondition_failed]"]);
    wait_until("the refusal is told", SOON, || Ok(status().text().contains("precondition_failed"))).unwrap();
    moorctl(&fleet, &["op", "release", &on]).ok().unwrap();
    wait_until("what was taken since makes it old", SOON, || Ok(!status().text().contains("precondition_failed"))).unwrap();
}
