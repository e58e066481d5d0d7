//! What is done to droplets, one thing at a time.

use serde_json::{Value, json};

use super::{Client, wanted};
use crate::setup::Setup;
use crate::world::hand::Hand;

async fn droplet(client: &Client, id: u64) -> Value {
    client.get(&format!("/v2/droplets/{id}")).await["droplet"].clone()
}

async fn refused(client: &Client, id: u64, body: &Value) -> String {
    let answer = client.call("POST", &format!("/v2/droplets/{id}/actions"), Some(body), 422).await;
    assert_eq!(answer["id"], "unprocessable_entity");
    answer["message"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_droplet_with_something_pending_takes_nothing_else_and_cannot_be_deleted() {
    let client = Client::new(Setup::default());
    let (id, _) = client.create("busy", &[]).await;
    client.sim.advance(2_000);
    let pending = "Droplet already has a pending event.";
    assert_eq!(refused(&client, id, &json!({ "type": "snapshot", "name": "x" })).await, pending);
    assert_eq!(client.call("DELETE", &format!("/v2/droplets/{id}"), None, 422).await["message"], pending);
    client.sim.advance(60_000);
    client.call("POST", &format!("/v2/droplets/{id}/actions"), Some(&json!({ "type": "snapshot", "name": "x" })), 201).await;
    assert_eq!(refused(&client, id, &json!({ "type": "power_off" })).await, pending);
    assert_eq!(client.call("DELETE", &format!("/v2/droplets/{id}"), None, 422).await["message"], pending);
    client.sim.advance(30_000);
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn a_resize_needs_a_droplet_that_is_off_and_never_makes_its_disk_smaller() {
    let client = Client::new(Setup::default());
    let id = client.active("grow", &[]).await;
    let resize = |size: &str, disk: bool| json!({ "type": "resize", "size": size, "disk": disk });
    assert!(refused(&client, id, &resize("s-2vcpu-2gb", true)).await.contains("powered off"));
    assert!(refused(&client, id, &resize("no-such", true)).await.contains("invalid size"));
    client.act(id, &json!({ "type": "power_off" })).await;
    // Without its disk: that can be undone.
    assert_eq!(client.act(id, &resize("s-2vcpu-2gb", false)).await["status"], "completed");
    let seen = droplet(&client, id).await;
    assert_eq!((seen["size_slug"].as_str(), seen["disk"].as_u64(), seen["memory"].as_u64()), (Some("s-2vcpu-2gb"), Some(25), Some(2048)));
    client.act(id, &resize("s-1vcpu-1gb", false)).await;
    client.act(id, &resize("s-1vcpu-2gb", true)).await;
    assert_eq!(droplet(&client, id).await["disk"], 50);
    assert!(refused(&client, id, &resize("s-1vcpu-1gb", false)).await.contains("can not decrease"));
    assert!(refused(&client, id, &resize("s-1vcpu-2gb", true)).await.contains("already"));
    client.act(id, &json!({ "type": "power_on" })).await;
    assert_eq!(droplet(&client, id).await["status"], "active");
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn a_droplet_shows_what_it_was_for_a_while_after_it_was_switched() {
    let client = Client::new(Setup::default());
    let id = client.active("switched", &[]).await;
    let begun = client.call("POST", &format!("/v2/droplets/{id}/actions"), Some(&json!({ "type": "power_off" })), 201).await;
    client.sim.advance(4_000);
    assert_eq!(client.get(&format!("/v2/actions/{}", begun["action"]["id"])).await["action"]["status"], "completed");
    assert_eq!(droplet(&client, id).await["status"], "active");
    client.sim.advance(2_000);
    assert_eq!(droplet(&client, id).await["status"], "off");
    assert!(refused(&client, id, &json!({ "type": "shutdown" })).await.contains("off"));
    client.act(id, &json!({ "type": "power_on" })).await;
    assert!(refused(&client, id, &json!({ "type": "power_on" })).await.contains("on"));
    assert_eq!(client.act(id, &json!({ "type": "reboot" })).await["status"], "completed");
    assert_eq!(droplet(&client, id).await["status"], "active");
    assert_eq!(client.act(id, &json!({ "type": "shutdown" })).await["status"], "completed");
    assert_eq!(droplet(&client, id).await["status"], "off");
    let all = client.get(&format!("/v2/droplets/{id}/actions")).await["actions"].clone();
    let kinds: Vec<&str> = all.as_array().unwrap().iter().map(|action| action["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["shutdown", "reboot", "power_on", "power_off", "create"]);
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn droplets_are_renamed_within_the_rules_for_names() {
    let client = Client::new(Setup::default());
    let id = client.active("old", &[]).await;
    assert!(refused(&client, id, &json!({ "type": "rename", "name": "no_good" })).await.contains("hostname"));
    client.act(id, &json!({ "type": "rename", "name": "new.example.com" })).await;
    assert_eq!(client.names("?name=new.example.com").await, ["new.example.com"]);
    refused(&client, id, &json!({ "type": "explode" })).await;
    client.call("POST", "/v2/droplets/7/actions", Some(&json!({ "type": "reboot" })), 404).await;
}

#[tokio::test(start_paused = true)]
async fn creation_is_refused_for_what_there_is_not() {
    let client = Client::new(Setup::default());
    let cases = [
        ("name", json!("under_score")),
        ("name", json!("-")),
        ("size", json!("s-9000")),
        ("image", json!("no-such")),
        ("image", json!(7)),
        ("region", json!("moon1")),
        ("tags", json!(["a b"])),
        ("ssh_keys", json!([7])),
        ("user_data", json!("x".repeat(65_537))),
        ("volumes", json!(["7"])),
    ];
    for (key, value) in cases {
        let mut body = wanted("fine", &[]);
        body[key] = value.clone();
        assert_eq!(client.call("POST", "/v2/droplets", Some(&body), 422).await["id"], "unprocessable_entity", "{key}: {value}");
    }
    client.call("POST", "/v2/droplets", None, 400).await;
    let mut small = wanted("fine", &[]);
    small["size"] = json!("s-1vcpu-512mb-10gb");
    small["image"] = json!("rockylinux-9-x64");
    client.call("POST", "/v2/droplets", Some(&small), 422).await;
    small["image"] = json!("debian-12-x64");
    small["region"] = json!("syd1");
    client.call("POST", "/v2/droplets", Some(&small), 422).await;
    client.sim.change(|world| world.setup.droplet_limit = 0);
    let full = client.call("POST", "/v2/droplets", Some(&wanted("fine", &[])), 422).await;
    assert!(full["message"].as_str().unwrap().contains("limit") && full["request_id"].is_string());
    assert!(client.sim.inspect(|world| world.ledger.lines.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn everything_that_a_creation_may_say_is_taken_and_its_user_data_never_given_back() {
    let client = Client::new(Setup::default());
    let body = json!({
        "names": ["a-1", "a-2"], "region": "fra1", "size": "s-1vcpu-1gb", "image": 159_651_797, "ssh_keys": [512_189], "backups": false,
        "ipv6": true, "monitoring": true, "tags": ["x"], "user_data": "x".repeat(65_536), "vpc_uuid": "760e09ef-dc84-11e8-981e-3cfdfeaae000",
        "with_droplet_agent": false, "volumes": [], "public_networking": true,
    });
    let made = client.call("POST", "/v2/droplets", Some(&body), 202).await;
    assert_eq!((made["droplets"].as_array().unwrap().len(), made["links"]["actions"].as_array().unwrap().len()), (2, 2));
    assert_eq!(made["droplets"][0]["features"], json!(["private_networking", "ipv6", "monitoring"]));
    client.sim.advance(60_000);
    let listed = client.get("/v2/droplets").await.to_string();
    assert!(!listed.contains("user_data") && !listed.contains("xxxx"));
    assert_eq!(client.sim.inspect(|world| world.requests[0].body["user_data"].clone()), json!(65_536));
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn a_droplet_is_made_from_a_snapshot_where_that_is() {
    let client = Client::new(Setup::default());
    let id = client.active("first", &[]).await;
    client.act(id, &json!({ "type": "snapshot", "name": "base" })).await;
    let snapshot = client.get("/v2/snapshots").await["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let mut body = wanted("second", &[]);
    body["image"] = json!(snapshot.parse::<u64>().unwrap());
    let made = client.call("POST", "/v2/droplets", Some(&body), 202).await;
    assert_eq!(made["droplet"]["image"]["name"], "base");
    body["region"] = json!("fra1");
    client.call("POST", "/v2/droplets", Some(&body), 422).await;
    // Deleting an image is deleting the snapshot.
    client.call("DELETE", &format!("/v2/images/{snapshot}"), None, 204).await;
    client.call("GET", &format!("/v2/snapshots/{snapshot}"), None, 404).await;
    client.call("DELETE", "/v2/snapshots/159651797", None, 400).await;
}

#[tokio::test(start_paused = true)]
async fn people_change_droplets_behind_the_api() {
    let client = Client::new(Setup::default());
    let id = client.active("theirs", &["a"]).await;
    let hand = |hand: Hand| client.sim.hand(&hand);
    hand(Hand::Rename { id, name: "ours".to_owned() }).unwrap();
    hand(Hand::Tag { id, tag: "b".to_owned() }).unwrap();
    hand(Hand::Untag { id, tag: "a".to_owned() }).unwrap();
    hand(Hand::Resize { id, size: "s-2vcpu-4gb".to_owned() }).unwrap();
    hand(Hand::PowerOff { id }).unwrap();
    client.sim.advance(10_000);
    let seen = droplet(&client, id).await;
    assert_eq!((seen["name"].as_str(), seen["tags"].clone(), seen["status"].as_str()), (Some("ours"), json!(["b"]), Some("off")));
    assert_eq!((seen["size_slug"].as_str(), seen["disk"].as_u64()), (Some("s-2vcpu-4gb"), Some(80)));
    hand(Hand::PowerOn { id }).unwrap();
    hand(Hand::Snapshot { id, name: "mine".to_owned() }).unwrap();
    let snapshot = client.sim.inspect(|world| *world.snapshots.keys().next().unwrap());
    hand(Hand::DeleteSnapshot { id: snapshot }).unwrap();
    hand(Hand::Delete { id }).unwrap();
    client.call("GET", &format!("/v2/droplets/{id}"), None, 404).await;
    assert!(hand(Hand::Delete { id }).is_err() && hand(Hand::Resize { id, size: "huge".to_owned() }).is_err());
    let (name, region, size, image) = ("extra".to_owned(), "fra1".to_owned(), "s-1vcpu-1gb".to_owned(), "debian-12-x64".to_owned());
    hand(Hand::Create { name, region, size, image, tags: vec!["b".to_owned()] }).unwrap();
    client.sim.advance(60_000);
    assert_eq!(client.names("?tag_name=b").await, ["extra"]);
    assert_eq!(client.sim.inspect(|world| world.ledger.alive().iter().map(|bill| bill.by.clone()).collect::<Vec<_>>()), ["hand"]);
    hand(Hand::Revoke { token: "provisioning".to_owned() }).unwrap();
    client.call("GET", "/v2/account", None, 401).await;
}
