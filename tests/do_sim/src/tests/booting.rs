//! What droplets boot, for those who run it.

use std::time::Duration;

use serde_json::json;

use super::{Client, wanted};
use crate::boot::{Boot, Program, guard};
use crate::setup::{Latencies, Setup};
use crate::world::power::Power;

#[tokio::test(start_paused = true)]
async fn whoever_watches_is_told_of_every_droplet_that_is_switched() {
    let client = Client::new(Setup::default());
    let mut switched = client.sim.watch();
    let clock = client.sim.clone();
    let clock = tokio::spawn(async move { clock.keep_time().await });
    let mut body = wanted("web", &[]);
    body["user_data"] = json!("#!/bin/sh\n");
    let id = client.call("POST", "/v2/droplets", Some(&body), 202).await["droplet"]["id"].as_u64().unwrap();
    // It comes by itself, at its time.
    let Some(Power::On { name, user_data, boot, ip, .. }) = switched.recv().await else { panic!("it is switched on first") };
    assert_eq!((name.as_str(), user_data.as_str(), boot), ("web", "#!/bin/sh\n", 1));
    assert_eq!(ip, client.sim.inspect(|world| world.droplets[&id].ip()));
    client.act(id, &json!({ "type": "shutdown" })).await;
    client.act(id, &json!({ "type": "power_on" })).await;
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    assert_eq!(switched.recv().await, Some(Power::Off { id, is_asked: true }));
    assert!(matches!(switched.recv().await, Some(Power::On { boot: 2, .. })));
    assert_eq!(switched.recv().await, Some(Power::Off { id, is_asked: false }));
    clock.abort();
}

/// Waits for it.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{what} does not come"));
}

fn is_alive(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// Says what it was told, leaves its child's number behind, and stays.
const PROGRAM: &str =
    "#!/bin/sh\nread line\necho \"$line $DROPLET_ID $DROPLET_NAME $DROPLET_IP boot=$DROPLET_BOOT\"\nsleep 1000 & echo child=$!\nwait\n";

#[tokio::test]
async fn a_process_runs_for_every_droplet_that_is_on_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (program, logs) = (folder.path().join("first-boot"), folder.path().join("logs"));
    std::fs::write(&program, PROGRAM).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let client = Client::new(Setup { latencies: Latencies::none(), ..Setup::default() });
    let boot = Boot::start(&client.sim, Program { path: program, logs: Some(logs.clone()), guard: None }).unwrap();
    let mut body = wanted("web", &[]);
    body["user_data"] = json!("hello\n");
    let id = client.call("POST", "/v2/droplets", Some(&body), 202).await["droplet"]["id"].as_u64().unwrap();
    let log = || std::fs::read_to_string(logs.join(format!("{id}.log"))).unwrap_or_default();
    until("its first words", || log().contains("child=")).await;
    let ip = client.sim.inspect(|world| world.droplets[&id].ip());
    assert!(log().contains(&format!("hello {id} web {ip} boot=1")), "{}", log());
    let first = boot.running()[&id];
    let child: u32 = log().lines().last().unwrap().trim_start_matches("child=").parse().unwrap();
    client.act(id, &json!({ "type": "power_off" })).await;
    until("its end", || !is_alive(first) && !is_alive(child)).await;
    client.act(id, &json!({ "type": "power_on" })).await;
    until("its second boot", || log().contains("boot=2")).await;
    let second = boot.running()[&id];
    // Who is asked to end does so.
    client.act(id, &json!({ "type": "shutdown" })).await;
    until("its end", || !is_alive(second)).await;
    client.act(id, &json!({ "type": "power_on" })).await;
    until("its third boot", || log().contains("boot=3")).await;
    let third = boot.running()[&id];
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    until("its end", || !is_alive(third)).await;
    let id = client.create("last", &[]).await.0;
    until("its boot", || boot.running().contains_key(&id)).await;
    let last = boot.running()[&id];
    drop(boot);
    until("its end", || !is_alive(last)).await;
}

#[test]
fn the_guard_ends_the_groups_that_nobody_told_it_the_end_of() {
    use std::os::unix::process::CommandExt as _;
    let sleeper = || std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
    let (mut left, mut told) = (sleeper(), sleeper());
    guard(format!("+{}\nnonsense\n+{}\n-{}\n", left.id(), told.id(), told.id()).as_bytes());
    assert!(!left.wait().unwrap().success());
    assert!(told.try_wait().unwrap().is_none());
    told.kill().unwrap();
    told.wait().unwrap();
}
