//! What goes wrong when it is switched on.

use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use crate::setup::{SECRET, Setup};
use crate::world::effects::{By, EffectKind};
use crate::world::faults::{CallFault, CallTakes, TaskFails, Wrong};
use crate::{Answer, Cut, Hand, Kind, Request, Sim};

const START: &str = "/api2/json/nodes/pve-1/qemu/101/status/start";
const CONFIG: &str = "/api2/json/nodes/pve-1/qemu/101/config";

fn machine() -> Client {
    Client::new(Setup::default().with_guest(Kind::Qemu, 101, false, &[("memory", "512"), ("tags", "a;b")]))
}

fn goes_wrong(client: &Client, path: &str, next: Option<u32>, then: Wrong) {
    client.sim.change(|world| world.faults.calls.push(CallFault { method: Some("POST".into()), path: path.into(), next, then }));
}

async fn start(client: &Client) -> Result<Answer, Cut> {
    client.sim.answer(Request::new("POST", START).by_token(&client.token, SECRET)).await
}

fn starts(client: &Client) -> usize {
    client.sim.inspect(|world| world.effects.iter().filter(|effect| effect.kind == EffectKind::Started).count())
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_lost_after_the_effect_and_a_request_before_it() {
    let client = machine();
    goes_wrong(&client, "status/start$", Some(1), Wrong::LoseRequest);
    assert_eq!(start(&client).await, Err(Cut::Closed));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(starts(&client), 0);
    goes_wrong(&client, "status/start$", Some(1), Wrong::LoseReply);
    assert_eq!(start(&client).await, Err(Cut::Closed));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(starts(&client), 1);
    assert_eq!(start(&client).await.unwrap().status, 200, "only the next one went wrong");
    let logged = client.sim.inspect(|world| world.requests.iter().filter(|request| request.path.ends_with("/start")).count());
    assert_eq!(logged, 2, "what was lost on its way never came");
}

#[tokio::test(start_paused = true)]
async fn a_status_of_the_proxy_says_nothing_of_the_effect() {
    let client = machine();
    for (then, count) in [(Wrong::StatusBefore(596), 0), (Wrong::StatusAfter(596), 1)] {
        goes_wrong(&client, "start", Some(1), then);
        let answer = start(&client).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (596, 0));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(starts(&client), count);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_slow_hang_or_answer_nonsense() {
    let client = machine();
    goes_wrong(&client, "start", Some(1), Wrong::DelayMs(7_000));
    let began = Instant::now();
    start(&client).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    goes_wrong(&client, "start", Some(1), Wrong::Hang);
    assert_eq!(start(&client).await, Err(Cut::Hangs));
    goes_wrong(&client, "start", Some(1), Wrong::Garbage);
    assert!(start(&client).await.unwrap().body.starts_with(b"<html>"));
    client.sim.change(|world| world.faults.unreachable = true);
    assert_eq!(start(&client).await, Err(Cut::Closed));
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_the_proxy_waits_happens_nevertheless() {
    let client = machine();
    client.sim.change(|world| world.faults.call_takes.push(CallTakes { call: "^PUT .*/config$".into(), ms: 45_000 }));
    let began = Instant::now();
    let put = Request::new("PUT", CONFIG).by_token(&client.token, SECRET).form(&[("cores", "2")]);
    let answer = client.sim.answer(put.clone()).await.unwrap();
    assert_eq!((answer.status, began.elapsed()), (596, Duration::from_secs(30)));
    assert!(client.get("/nodes/pve-1/qemu/101/config").await["cores"].is_null());
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/101/config").await["cores"], 2);
    // Below that, the answer is just late; and who leaves does not keep it from happening.
    client.sim.change(|world| world.faults.call_takes[0].ms = 5_000);
    let put = put.form(&[("cores", "3")]);
    assert!(tokio::time::timeout(Duration::from_secs(1), client.sim.answer(put)).await.is_err());
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/101/config").await["cores"], 3);
}

#[tokio::test(start_paused = true)]
async fn tasks_fail_with_any_words_and_take_their_locks_back() {
    let client = machine();
    client.sim.change(|world| {
        world.faults.task_fails.push(TaskFails { task: "qm(snapshot|start)".into(), words: "it is broken".into(), next: Some(1) })
    });
    assert_eq!(client.fails("POST", "/nodes/pve-1/qemu/101/snapshot", &[("snapname", "one")]).await, "it is broken");
    let config = client.get("/nodes/pve-1/qemu/101/config").await;
    assert!(config["lock"].is_null() && config["parent"].is_null());
    assert_eq!(client.get("/nodes/pve-1/qemu/101/snapshot").await.as_array().unwrap().len(), 1);
    client.done("POST", "/nodes/pve-1/qemu/101/snapshot", &[("snapname", "one")]).await;
}

#[tokio::test(start_paused = true)]
async fn files_are_held_guests_are_hidden_and_locks_are_stale() {
    let client = machine();
    client.sim.change(|world| world.faults.flock_busy.insert(101));
    let busy = client.no("PUT", "/nodes/pve-1/qemu/101/config", &[("cores", "2")]).await;
    assert_eq!(busy, (500, "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout".to_owned()));
    client.sim.change(|world| world.faults = crate::Faults::default());
    client.sim.change(|world| world.faults.hide.insert(101));
    assert_eq!(client.no("GET", "/nodes/pve-1/qemu/101/config", &[]).await.0, 403);
    assert_eq!(client.get("/nodes/pve-1/qemu").await.as_array().unwrap().len(), 1);
    client.sim.change(|world| world.faults = crate::Faults::default());
    client.sim.change(|world| world.set_locks(&[(101, "backup".to_owned())].into()));
    assert_eq!(client.fails("POST", "/nodes/pve-1/qemu/101/status/start", &[]).await, "VM is locked (backup)");
}

#[tokio::test(start_paused = true)]
async fn people_do_things_behind_the_api_and_every_effect_says_who_did_it() {
    let client = machine();
    client.done("POST", "/nodes/pve-1/qemu/101/status/start", &[]).await;
    for hand in [
        Hand::Crash { vmid: 101 },
        Hand::RemoveTag { vmid: 101, tag: "a".into() },
        Hand::Set { vmid: 101, key: "memory".into(), value: "768".into() },
        Hand::Snapshot { vmid: 101, name: "theirs".into() },
        Hand::Recreate { vmid: 101, config: [("name".to_owned(), "other".to_owned())].into() },
        Hand::Make {
            vmid: 300,
            kind: Kind::Lxc,
            config: [("rootfs".to_owned(), "tank:subvol-300-disk-0,size=1G".to_owned())].into(),
            running: true,
        },
        Hand::Grow { vmid: 300, disk: "rootfs".into(), bytes: 2 << 30 },
    ] {
        client.sim.hand(&hand).unwrap();
    }
    assert!(client.sim.hand(&Hand::Start { vmid: 999 }).is_err());
    let effects = client.sim.inspect(|world| world.effects.clone());
    let told: Vec<(EffectKind, By)> = effects.iter().map(|effect| (effect.kind, effect.by)).collect();
    assert_eq!(
        told,
        [
            (EffectKind::Started, By::Api),
            (EffectKind::Stopped, By::Itself),
            (EffectKind::ConfigSet, By::Hand),
            (EffectKind::ConfigSet, By::Hand),
            (EffectKind::SnapshotMade, By::Hand),
            (EffectKind::Destroyed, By::Hand),
            (EffectKind::Created, By::Hand),
            (EffectKind::Created, By::Hand),
            (EffectKind::Started, By::Hand),
            (EffectKind::VolumeGrown, By::Hand),
        ]
    );
    assert!(effects[0].cause.starts_with("UPID:pve-1:"), "{effects:?}");
    assert_eq!(client.get("/nodes/pve-1/lxc").await[0]["vmid"], "300");
}

#[tokio::test(start_paused = true)]
async fn a_world_goes_on_where_it_was_written_down() {
    let client = machine();
    let upid = client.ok("POST", "/nodes/pve-1/qemu/101/status/start", &[]).await;
    let text = client.sim.inspect(|world| serde_json::to_string(world).unwrap());
    let again = Client { sim: Sim::of(serde_json::from_str(&text).unwrap()), token: client.token.clone(), ticket: None };
    assert_eq!(again.end(&upid).await, "OK");
    assert_eq!(starts(&again), 1);
}
