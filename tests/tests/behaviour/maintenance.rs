//! Outside of its maintenance windows a host keeps what it has, and is healed; what is pushed waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_tests::fleet::Fleet;
use moorline_tests::image::IMAGE;
use moorline_tests::limits::{REDIAL, SOON};
use moorline_tests::wait::{holds_for, wait_until};
use serde_json::Value;

use crate::clock::{library, with_clock};
use crate::setup::{HOST, assert_says, moorctl, restart_emptied, sim_containers, sim_fleet};

/// A time of day so many seconds from now, in UTC.
fn time_of_day(ahead_s: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let minutes = (now + ahead_s) / 60 % (24 * 60);
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// With an hour of each day as its window, which opens in so many seconds.
fn topology(service: &str, opens_in_s: u64, more: &str) -> String {
    let start = time_of_day(opens_in_s);
    format!(
        "topology: edge\n{more}policy: {{ maintenance: [{{ start: \"{start}\", duration: 1h }}] }}\nhosts:\n  {HOST}: {{ docker: {{ \
         services: {{ {service}: {{ image: {IMAGE} }} }} }} }}\n"
    )
}

fn state(fleet: &Fleet) -> String {
    let rows: Value = moorctl(fleet, &["status", "-o", "json"]).json().unwrap();
    rows[0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_pushed_waits_for_the_window_and_what_is_there_is_healed() {
    const AHEAD: u64 = 2 * 3600;
    let Some(library) = library() else { return println!("skipped: there is no libfaketime") };
    let (mut fleet, operator) = sim_fleet("maintenance");
    fleet.push(&topology("one", AHEAD, ""), &["--wait"]).unwrap().ok().unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-one-1"], "what disturbs nothing waits for nothing");

    let file = fleet.file("two.yaml", topology("two", AHEAD, "")).unwrap();
    assert_says(&moorctl(&fleet, &["plan", "-f", file.to_str().unwrap()]), &["outside of its maintenance windows", "push --now"]);
    let late = fleet.push(&topology("two", AHEAD, ""), &["--deliver-within", "1h"]).unwrap();
    assert_says(&late, &["expires before", "--deliver-within", "--now"]);
    let pushed = fleet.push(&topology("two", AHEAD, ""), &["--wait"]).unwrap().ok().unwrap();
    assert_says(&pushed, &["0 of 1 hosts have it", "generation 2 waits for the maintenance window that opens at"]);
    assert_eq!(state(&fleet), "outside-maintenance");
    assert_says(&moorctl(&fleet, &["status"]), &["waiting for its window", "1→2"]);

    // Also through a start of the agent, which is sent the newest one.
    restart_emptied(&mut fleet);
    wait_until("it is healed", REDIAL, || Ok(sim_containers(&fleet, HOST) == ["edge-one-1"])).unwrap();

    // What waits already does so no longer, and is sent once only.
    let now = |fleet: &Fleet| fleet.push(&topology("two", AHEAD, ""), &["--wait", "--now"]).unwrap().ok().unwrap();
    assert_says(&now(&fleet), &["generation 3", "1 of 1 hosts have it"]);
    assert_eq!(sim_containers(&fleet, HOST), ["edge-two-1"]);
    assert_says(&now(&fleet), &["nothing changed"]);
    fleet.push(&topology("four", AHEAD, ""), &["--wait"]).unwrap().ok().unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-two-1"]);
    // By this clock the window is open.
    fleet.stop_agent(HOST).unwrap();
    with_clock(&mut fleet, &library, i64::try_from(AHEAD + 600).unwrap());
    fleet.wait_converged(&operator, HOST, "edge", 4).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-four-1"]);
}

#[test]
fn a_rollout_waits_for_the_windows_of_its_hosts_and_fails_none_for_that() {
    let (fleet, _operator) = sim_fleet("maintroll");
    let plan = "rollout: { healthy_for: 1s, deadline: 2s }\n";
    fleet.push(&topology("one", 7200, plan), &["--no-rollout", "--wait"]).unwrap().ok().unwrap();
    fleet.push(&topology("two", 7200, plan), &[]).unwrap().ok().unwrap();
    let status = || moorctl(&fleet, &["rollout", "status", "edge", "-o", "json"]).json().unwrap();
    let is_released = || Ok(status()["hosts"][0]["standing"] == "released");
    wait_until("its turn has come", SOON, || Ok(is_released()? && state(&fleet) == "outside-maintenance")).unwrap();
    // Longer than the deadline, with its grace.
    holds_for("the host is not judged", Duration::from_secs(14), is_released).unwrap();
    moorctl(&fleet, &["host", "cordon", HOST]).ok().unwrap();
    assert_eq!(state(&fleet), "cordoned");
    holds_for("nor is a cordoned one", Duration::from_secs(14), is_released).unwrap();
    moorctl(&fleet, &["host", "uncordon", HOST]).ok().unwrap();
    // Other windows are looked at by what they say themselves.
    let pushed = fleet.push(&topology("two", 0, plan), &[]).unwrap().ok().unwrap();
    assert_says(&pushed, &["rollout"]);
    wait_until("it is through", SOON, || Ok(status()["state"] == "completed")).unwrap();
    assert_eq!(sim_containers(&fleet, HOST), ["edge-two-1"]);
}
