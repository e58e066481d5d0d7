//! What goes wrong when it is switched on.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Client, wanted};
use crate::request::{Request, Response};
use crate::setup::{Setup, TOKEN};
use crate::sim::Cut;
use crate::world::action::Fate;
use crate::world::faults::{ActionFault, Birth, CallFault, Chaos, CreateFault, Faults, Wrong};

fn next_call(client: &Client, then: Wrong) {
    let fault = CallFault { method: None, path: String::new(), spares: 0, next: Some(1), then };
    client.sim.change(|world| world.faults.calls.push(fault));
}

fn birth(client: &Client, then: Birth) {
    client.sim.change(|world| world.faults.creates = vec![CreateFault { name: "^ill".to_owned(), next: Some(1), then }]);
}

fn fate(client: &Client, action: &str, then: Fate) {
    client.sim.change(|world| world.faults.actions = vec![ActionFault { action: action.to_owned(), next: Some(1), then }]);
}

fn made(client: &Client) -> usize {
    client.sim.inspect(|world| world.ledger.lines.len())
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_lost_after_the_effect_or_the_call_before_it() {
    let client = Client::new(Setup::default());
    let body = wanted("x", &[]);
    next_call(&client, Wrong::LoseReply);
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await, Err(Cut::Closed));
    assert_eq!(made(&client), 1);
    next_call(&client, Wrong::LoseRequest);
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await, Err(Cut::Closed));
    assert_eq!(made(&client), 1);
    next_call(&client, Wrong::StatusAfter(502));
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await.unwrap().status, 502);
    assert_eq!(made(&client), 2);
    next_call(&client, Wrong::StatusBefore(503));
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await.unwrap().status, 503);
    assert_eq!(made(&client), 2);
    next_call(&client, Wrong::Hang);
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await, Err(Cut::Hangs));
    assert_eq!(made(&client), 3);
    next_call(&client, Wrong::Garbage);
    let garbage = client.ask("POST", "/v2/droplets", Some(&body)).await.unwrap();
    assert_eq!((garbage.status, garbage.read()), (202, Value::Null));
    assert_eq!(made(&client), 4);
    next_call(&client, Wrong::TooMany(Some(7)));
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await.unwrap().header("retry-after"), Some("7"));
    next_call(&client, Wrong::TooMany(None));
    assert_eq!(client.ask("POST", "/v2/droplets", Some(&body)).await.unwrap().header("retry-after"), None);
    assert_eq!(made(&client), 4);
    client.sim.change(|world| world.faults.unreachable = true);
    assert_eq!(client.ask("GET", "/v2/account", None).await, Err(Cut::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_listing_shows_nothing_though_there_is_something() {
    let client = Client::new(Setup::default());
    client.active("there", &[]).await;
    next_call(&client, Wrong::Empty);
    let list = client.get("/v2/droplets").await;
    assert_eq!((list["droplets"].clone(), list["meta"]["total"].as_u64(), list["links"].clone()), (json!([]), Some(0), json!({})));
    assert_eq!(client.names("").await, ["there"]);
}

/// Makes droplets and snapshots whatever is answered: how each call ended, and what was made.
async fn storm(seed: u64) -> (Vec<String>, usize) {
    let client = Client::new(Setup { seed, ..Setup::prompt() });
    client.sim.change(|world| world.faults.chaos = Chaos { calls: 300, creates: 300, actions: 300 });
    let mut ends = Vec::new();
    for number in 0..100_u64 {
        let made = client.ask("POST", "/v2/droplets", Some(&wanted(&format!("n{number}"), &[]))).await;
        let path = format!("/v2/droplets/{}/actions", 524_000_001 + number);
        let acted = client.ask("POST", &path, Some(&json!({ "type": "snapshot", "name": "s" }))).await;
        let word =
            |answer: &Result<Response, Cut>| answer.as_ref().map_or_else(|cut| format!("{cut:?}"), |answer| answer.status.to_string());
        ends.push(format!("{} {}", word(&made), word(&acted)));
    }
    client.sim.change(|world| world.faults = Faults::default());
    client.sim.advance(100_000);
    client.all_right();
    (ends, made(&client))
}

#[tokio::test(start_paused = true)]
async fn at_random_everything_goes_wrong_and_the_same_for_the_same_seed() {
    let (first, again, other) = (storm(1).await, storm(1).await, storm(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    for word in ["Closed", "Hangs", "500", "503", "504", "429", "202", "201", "422"] {
        assert!(first.0.iter().chain(&other.0).any(|end| end.contains(word)), "{word}: {:?}", first.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_meets_the_calls_that_it_names_after_those_that_it_spares() {
    let client = Client::new(Setup::default());
    let fault = CallFault {
        method: Some("POST".to_owned()),
        path: "^/v2/droplets$".to_owned(),
        spares: 1,
        next: Some(1),
        then: Wrong::StatusBefore(500),
    };
    client.sim.change(|world| world.faults.calls.push(fault));
    client.get("/v2/droplets").await;
    for status in [202, 500, 202] {
        client.call("POST", "/v2/droplets", Some(&wanted("x", &[])), status).await;
    }
    assert_eq!(client.sim.inspect(|world| world.requests.iter().map(|call| call.status).collect::<Vec<_>>()), [200, 202, 500, 202]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_long_on_its_way_arrives_though_its_caller_has_given_up() {
    let client = Client::new(Setup::default());
    next_call(&client, Wrong::DelayMs(45_000));
    let call = client.sim.answer(Request::new("POST", "/v2/droplets").by(TOKEN).json(&wanted("late", &[])));
    assert!(tokio::time::timeout(Duration::from_secs(30), call).await.is_err());
    assert_eq!(made(&client), 0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(made(&client), 1);
    next_call(&client, Wrong::DelayMs(10_000));
    assert_eq!(client.create("waited", &[]).await.0, client.sim.inspect(|world| *world.droplets.keys().last().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn droplets_never_become_active_fail_or_vanish() {
    let client = Client::new(Setup::default());
    birth(&client, Birth::NeverActive);
    let (id, action) = client.create("ill-1", &[]).await;
    client.sim.advance(3_600_000);
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["status"], "new");
    assert_eq!(client.get(&format!("/v2/actions/{action}")).await["action"]["status"], "in-progress");
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    assert_eq!(client.get(&format!("/v2/actions/{action}")).await["action"]["status"], "errored");

    birth(&client, Birth::Errored);
    let (id, action) = client.create("ill-2", &[]).await;
    client.sim.advance(60_000);
    assert_eq!(client.get(&format!("/v2/actions/{action}")).await["action"]["status"], "errored");
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["status"], "new");
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;

    birth(&client, Birth::VanishesAfterMs(10_000));
    let (id, action) = client.create("ill-3", &[]).await;
    client.sim.advance(5_000);
    client.get(&format!("/v2/droplets/{id}")).await;
    client.sim.advance(5_000);
    client.call("GET", &format!("/v2/droplets/{id}"), None, 404).await;
    assert_eq!(client.get(&format!("/v2/actions/{action}")).await["action"]["status"], "errored");
    assert!(client.sim.inspect(|world| world.ledger.alive().is_empty()));

    birth(&client, Birth::ActiveAfterMs(300_000));
    let (id, _) = client.create("ill-4", &[]).await;
    client.sim.advance(299_000);
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["status"], "new");
    client.sim.advance(1_000);
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["status"], "active");
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn words_for_the_first_boot_in_other_letters_let_a_creation_fail_later() {
    let client = Client::new(Setup::default());
    let mut body = wanted("umlaut", &[]);
    body["user_data"] = json!("#!/bin/sh\necho ü\n");
    let id = client.call("POST", "/v2/droplets", Some(&body), 202).await["droplet"]["id"].clone();
    client.sim.advance(60_000);
    client.call("GET", &format!("/v2/droplets/{id}"), None, 404).await;
}

#[tokio::test(start_paused = true)]
async fn actions_never_end_fail_or_say_that_they_did_what_they_did_not() {
    let client = Client::new(Setup::default());
    let id = client.active("x", &[]).await;
    let snapshot = json!({ "type": "snapshot", "name": "s" });
    let snapshots = || client.sim.inspect(|world| world.snapshots.len());
    fate(&client, "snapshot", Fate::Errored);
    assert_eq!((client.act(id, &snapshot).await["status"].as_str(), snapshots()), (Some("errored"), 0));
    fate(&client, "snapshot", Fate::NoEffect);
    assert_eq!((client.act(id, &snapshot).await["status"].as_str(), snapshots()), (Some("completed"), 0));
    fate(&client, "snapshot", Fate::ErroredAfterEffect);
    assert_eq!((client.act(id, &snapshot).await["status"].as_str(), snapshots()), (Some("errored"), 1));
    fate(&client, "snapshot", Fate::SeenAfterMs(1_000_000));
    assert_eq!((client.act(id, &snapshot).await["status"].as_str(), snapshots()), (Some("completed"), 2));
    assert_eq!(client.get("/v2/snapshots").await["meta"]["total"], 1);
    client.sim.advance(1_000_000);
    assert_eq!(client.get("/v2/snapshots").await["meta"]["total"], 2);
    fate(&client, "snapshot", Fate::TakesMs(500_000));
    assert_eq!(client.act(id, &snapshot).await["status"], "in-progress");
    client.sim.advance(500_000);
    // A droplet need not heed that it is asked to end.
    fate(&client, "shutdown", Fate::NoEffect);
    assert_eq!(client.act(id, &json!({ "type": "shutdown" })).await["status"], "completed");
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["status"], "active");
    fate(&client, "power_.*", Fate::NeverEnds);
    assert_eq!(client.act(id, &json!({ "type": "power_off" })).await["status"], "in-progress");
    client.call("POST", &format!("/v2/droplets/{id}/actions"), Some(&snapshot), 422).await;
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn a_deletion_just_after_the_creation_can_be_told_that_there_is_nothing() {
    let client = Client::new(Setup::default());
    client.sim.change(|world| world.setup.latencies.set("undeletable", 3_000)).unwrap();
    let (id, _) = client.create("unseen", &[]).await;
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 404).await;
    assert_eq!(client.sim.inspect(|world| world.living().len()), 1);
    client.sim.advance(20_000);
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    assert!(client.sim.change(|world| world.setup.latencies.set("nonsense", 1)).unwrap_err().contains("lingers"));
}
