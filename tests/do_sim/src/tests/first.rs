//! What everybody does first: make droplets, look at them, do things to them, delete them.

use serde_json::json;

use super::{Client, wanted};
use crate::setup::Setup;

#[tokio::test(start_paused = true)]
async fn a_droplet_is_accepted_becomes_active_and_is_deleted() {
    let client = Client::new(Setup::default());
    let made = client.call("POST", "/v2/droplets", Some(&wanted("web-1", &["saga:1"])), 202).await;
    let (droplet, action) = (&made["droplet"], &made["links"]["actions"][0]);
    assert_eq!((droplet["status"].as_str(), droplet["locked"].as_bool()), (Some("new"), Some(false)));
    assert_eq!(droplet["networks"], json!({ "v4": [], "v6": [] }));
    assert!(droplet.get("user_data").is_none());
    assert_eq!(
        (action["rel"].as_str(), action["href"].as_str().unwrap().starts_with("https://api.digitalocean.com/v2/actions/")),
        (Some("create"), true)
    );
    let (id, action) = (droplet["id"].as_u64().unwrap(), action["id"].as_u64().unwrap());
    assert_eq!(client.get(&format!("/v2/actions/{action}")).await["action"]["status"], "in-progress");
    client.sim.advance(20_000);
    let droplet = client.get(&format!("/v2/droplets/{id}")).await["droplet"].clone();
    assert_eq!((droplet["status"].as_str(), droplet["tags"].clone()), (Some("active"), json!(["saga:1"])));
    assert!(droplet["networks"]["v4"].as_array().unwrap().iter().any(|network| network["type"] == "public"));
    assert_eq!(client.get(&format!("/v2/droplets/{id}/actions/{action}")).await["action"]["status"], "completed");
    assert!(client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await.is_null());
    client.call("GET", &format!("/v2/droplets/{id}"), None, 404).await;
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 404).await;
    assert!(client.sim.inspect(|world| world.ledger.alive().is_empty() && world.ledger.lines.len() == 1));
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn snapshots_appear_late_under_a_number_that_no_action_tells_and_outlive_their_droplet() {
    let client = Client::new(Setup::default());
    let id = client.active("db", &[]).await;
    let begun = client.call("POST", &format!("/v2/droplets/{id}/actions"), Some(&json!({ "type": "snapshot", "name": "one" })), 201).await;
    let action = begun["action"]["id"].as_u64().unwrap();
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["locked"], true);
    client.sim.advance(30_000);
    let ended = client.get(&format!("/v2/actions/{action}")).await["action"].clone();
    assert_eq!((ended["status"].as_str(), ended["resource_id"].as_u64()), (Some("completed"), Some(id)));
    assert_eq!(client.get(&format!("/v2/droplets/{id}/snapshots")).await["snapshots"], json!([]));
    client.sim.advance(6_000);
    let own = client.get(&format!("/v2/droplets/{id}/snapshots")).await["snapshots"][0].clone();
    let number = own["id"].as_u64().unwrap();
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["snapshot_ids"], json!([number]));
    let listed = client.get("/v2/snapshots?resource_type=droplet").await["snapshots"][0].clone();
    assert_eq!(
        (listed["id"].clone(), listed["resource_id"].clone(), listed["name"].clone()),
        (json!(number.to_string()), json!(id.to_string()), json!("one"))
    );
    assert_eq!(client.get("/v2/snapshots?resource_type=volume").await["snapshots"], json!([]));
    assert_eq!(client.get(&format!("/v2/images/{number}")).await["image"]["type"], "snapshot");
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    assert_eq!(client.get(&format!("/v2/snapshots/{number}")).await["snapshot"]["name"], "one");
    assert_eq!(client.sim.inspect(|world| world.ledger.alive().len()), 1);
    client.call("DELETE", &format!("/v2/snapshots/{number}"), None, 204).await;
    client.call("DELETE", &format!("/v2/snapshots/{number}"), None, 404).await;
    assert!(client.sim.inspect(|world| world.ledger.alive().is_empty()));
    client.all_right();
}
