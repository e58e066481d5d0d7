//! Tasks, locks and files that are held.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Client;
use crate::setup::{Grant, Setup};
use crate::world::faults::{TaskTakes, WorkerFault};
use crate::{Hand, Kind};

const QEMU: &str = "/nodes/pve-1/qemu/101";

fn machine(running: bool) -> Client {
    let config = [("memory", "512"), ("scsi0", "local-lvm:vm-101-disk-0,size=8G"), ("name", "db")];
    Client::new(Setup::default().with_guest(Kind::Qemu, 101, running, &config))
}

fn takes(client: &Client, task: &str, ms: u64) {
    client.sim.change(|world| world.faults.task_takes.push(TaskTakes { task: task.into(), ms }));
}

#[tokio::test(start_paused = true)]
async fn a_task_has_an_id_of_the_known_form_a_status_and_a_log() {
    let client = machine(false);
    let upid = client.ok("POST", &format!("{QEMU}/status/start"), &[]).await;
    let text = upid.as_str().unwrap().to_owned();
    let form = regex::Regex::new(r"^UPID:pve-1:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:qmstart:101:moorline@pve!agent:$").unwrap();
    assert!(form.is_match(&text), "{text}");
    let path = format!("/nodes/pve-1/tasks/{}", crate::request::encode(&text));
    let running = client.get(&format!("{path}/status")).await;
    assert_eq!(
        (running["status"].as_str(), running["exitstatus"].is_null(), running["tokenid"].as_str()),
        (Some("running"), true, Some("agent"))
    );
    assert_eq!(client.get(&format!("{path}/log")).await, json!([{ "n": 1, "t": "no content" }]));
    assert_eq!(client.end(&upid).await, "OK");
    assert_eq!(client.get(&format!("{path}/log")).await, json!([{ "n": 1, "t": "TASK OK" }]));
    for (bad, words) in
        [("nonsense", "unable to parse worker upid"), ("UPID:pve-1:00000001:00000001:00000001:qmstart:101:a@b:", "no such task")]
    {
        let refused = client.no("GET", &format!("/nodes/pve-1/tasks/{}/status", crate::request::encode(bad)), &[]).await;
        assert_eq!(refused, (400, format!("Parameter verification failed.{{\"upid\":\"{words}\"}}")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_task_is_found_among_all_and_the_archive_knows_only_those_that_ended() {
    let client = machine(false);
    let upid = client.ok("POST", &format!("{QEMU}/status/start"), &[]).await;
    let since = client.sim.now_ms() / 1000 - 1;
    let list = |source: &'static str| {
        client.get(Box::leak(format!("/nodes/pve-1/tasks?source={source}&vmid=101&typefilter=qmstart&since={since}").into_boxed_str()))
    };
    assert_eq!(list("archive").await, json!([]));
    let (active, all) = (list("active").await, list("all").await);
    assert_eq!((active[0]["upid"].clone(), all[0]["status"].as_str()), (upid.clone(), Some("RUNNING")));
    client.end(&upid).await;
    let archive = list("archive").await;
    assert_eq!((archive[0]["upid"].clone(), archive[0]["status"].as_str()), (upid.clone(), Some("OK")));
    assert_eq!(client.get("/cluster/tasks").await[0]["upid"], upid);
    let other = Client { token: "other@pve!x".to_owned(), ..Client { sim: client.sim.clone(), token: String::new(), ticket: None } };
    client.sim.change(|world| world.setup = world.setup.clone().with_token("other@pve!x", &[Grant::new("/vms", &["VM.Audit"])]));
    assert_eq!(other.get("/cluster/tasks").await, json!([]), "tasks of others are not seen");
    let path = format!("/nodes/pve-1/tasks/{}/status", crate::request::encode(upid.as_str().unwrap()));
    assert_eq!(other.no("GET", &path, &[]).await, (403, "Permission check failed (/nodes/pve-1, Sys.Audit)".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn while_a_snapshot_is_made_the_guest_is_locked() {
    let client = machine(true);
    takes(&client, "qmsnapshot", 5_000);
    let upid = client.ok("POST", &format!("{QEMU}/snapshot"), &[("snapname", "one")]).await;
    assert_eq!(client.get(&format!("{QEMU}/config")).await["lock"], "snapshot");
    assert_eq!(client.get("/nodes/pve-1/qemu").await[0]["lock"], "snapshot");
    let locked = "VM is locked (snapshot)";
    assert_eq!(client.no("PUT", &format!("{QEMU}/config"), &[("cores", "2")]).await, (500, locked.to_owned()));
    assert_eq!(client.no("POST", &format!("{QEMU}/config"), &[("cores", "2")]).await, (500, locked.to_owned()));
    assert_eq!(client.fails("POST", &format!("{QEMU}/status/stop"), &[]).await, locked);
    assert_eq!(client.fails("POST", &format!("{QEMU}/snapshot"), &[("snapname", "two")]).await, locked);
    assert_eq!(client.no("POST", &format!("{QEMU}/clone"), &[("newid", "102")]).await, (500, locked.to_owned()));
    let prepared = client.get(&format!("{QEMU}/snapshot")).await;
    assert_eq!(prepared[0]["snapstate"], "prepare");
    assert_eq!(client.end(&upid).await, "OK");
    client.ok("PUT", &format!("{QEMU}/config"), &[("cores", "2")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_leaves_its_lock_and_nobody_knows_what_it_did() {
    let client = machine(false);
    let dies = |after_effect| WorkerFault { task: "qmsnapshot".into(), after_effect, next: Some(1) };
    client.sim.change(|world| world.faults.worker_dies.push(dies(false)));
    assert_eq!(client.fails("POST", &format!("{QEMU}/snapshot"), &[("snapname", "one")]).await, "unexpected status");
    assert_eq!(client.get(&format!("{QEMU}/config")).await["lock"], "snapshot");
    client.sim.hand(&Hand::Unlock { vmid: 101 }).unwrap();
    client.sim.change(|world| {
        world.faults.worker_dies = vec![dies(true)];
        world.guests.get_mut(&101).unwrap().snapshots.clear();
    });
    assert_eq!(client.fails("POST", &format!("{QEMU}/snapshot"), &[("snapname", "one")]).await, "unexpected status");
    let list = client.get(&format!("{QEMU}/snapshot")).await;
    assert_eq!((list[0]["name"].as_str(), list[0]["snapstate"].is_null()), (Some("one"), true));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_told_to_end_leaves_nothing_behind() {
    let client = machine(false);
    takes(&client, "qmclone", 60_000);
    let upid = client.ok("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "102")]).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/102/config").await["lock"], "clone");
    client.ok("DELETE", &format!("/nodes/pve-1/tasks/{}", crate::request::encode(upid.as_str().unwrap())), &[]).await;
    assert_eq!(client.end(&upid).await, "clone failed: interrupted by signal");
    assert_eq!(client.no("GET", "/nodes/pve-1/qemu/102/config", &[]).await.0, 500);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_file_gets_it_when_it_is_free_or_gives_up_after_ten_seconds() {
    let client = machine(true);
    client.sim.hand(&Hand::Shuts { vmid: 101, ms: Some(4_000) }).unwrap();
    client.ok("POST", &format!("{QEMU}/status/shutdown"), &[]).await;
    let began = Instant::now();
    client.ok("PUT", &format!("{QEMU}/config"), &[("cores", "2")]).await;
    assert_eq!(began.elapsed(), Duration::from_secs(4));
    client.done("POST", &format!("{QEMU}/status/start"), &[]).await;
    client.sim.hand(&Hand::Shuts { vmid: 101, ms: None }).unwrap();
    client.ok("POST", &format!("{QEMU}/status/shutdown"), &[]).await;
    let began = Instant::now();
    let busy = "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout";
    assert_eq!(client.no("PUT", &format!("{QEMU}/config"), &[("cores", "3")]).await, (500, busy.to_owned()));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert_eq!(client.fails("POST", &format!("{QEMU}/status/stop"), &[]).await, busy);
    // Unless the one that holds it is told to end.
    client.done("POST", &format!("{QEMU}/status/stop"), &[("overrule-shutdown", "1")]).await;
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "stopped");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_listen_runs_on_unless_it_is_forced() {
    let client = machine(true);
    client.sim.change(|world| world.faults.deaf.insert(101));
    let began = Instant::now();
    let end = client.fails("POST", &format!("{QEMU}/status/shutdown"), &[("timeout", "30")]).await;
    assert_eq!(end, "VM quit/powerdown failed - got timeout");
    assert!(began.elapsed() >= Duration::from_secs(30));
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "running");
    client.done("POST", &format!("{QEMU}/status/shutdown"), &[("timeout", "5"), ("forceStop", "1")]).await;
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "stopped");
    let kinds: Vec<Value> = client.sim.inspect(|world| world.effects.iter().map(|effect| json!(effect.kind)).collect());
    assert_eq!(kinds, [json!("stopped")]);
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_says_of_a_guest_is_a_little_old_but_not_whether_it_is_there() {
    let client = machine(false);
    tokio::time::advance(Duration::from_secs(10)).await;
    client.done("POST", &format!("{QEMU}/status/start"), &[]).await;
    client.done("POST", "/nodes/pve-1/qemu", &[("vmid", "150")]).await;
    let of = |list: &Value, vmid: u64| list.as_array().unwrap().iter().find(|item| item["vmid"] == vmid).cloned().unwrap();
    let list = client.get("/cluster/resources?type=vm").await;
    assert_eq!((of(&list, 101)["status"].as_str(), of(&list, 150)["status"].as_str()), (Some("stopped"), Some("unknown")));
    tokio::time::advance(Duration::from_secs(10)).await;
    let list = client.get("/cluster/resources?type=vm").await;
    assert_eq!((of(&list, 101)["status"].as_str(), of(&list, 150)["status"].as_str()), (Some("running"), Some("stopped")));
}

#[tokio::test(start_paused = true)]
async fn the_cluster_starts_what_it_keeps_available_some_time_after_it_was_asked() {
    let client = machine(false);
    client.sim.hand(&Hand::Ha { vmid: 101, on: true }).unwrap();
    let upid = client.ok("POST", &format!("{QEMU}/status/start"), &[]).await;
    assert!(upid.as_str().unwrap().contains(":hastart:101:"));
    assert_eq!(client.end(&upid).await, "OK");
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "stopped", "OK means no more than that it was asked");
    tokio::time::advance(Duration::from_secs(11)).await;
    let status = client.get(&format!("{QEMU}/status/current")).await;
    assert_eq!((status["status"].as_str(), status["ha"]["managed"].as_i64()), (Some("running"), Some(1)));
    assert!(client.get("/cluster/tasks").await[0]["user"] == "root@pam");
    client.done("POST", &format!("{QEMU}/status/stop"), &[]).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    let refused = client.no("DELETE", QEMU, &[]).await;
    assert_eq!(refused, (500, "unable to remove VM 101 - used in HA resources and purge parameter not set.".to_owned()));
    client.done("DELETE", QEMU, &[("purge", "1")]).await;
    assert_eq!(client.get("/cluster/ha/resources").await, json!([]));
}
