//! Tags, and what bears them.

use serde_json::json;

use super::Client;
use crate::setup::Setup;

#[tokio::test(start_paused = true)]
async fn tags_are_made_put_on_and_taken_off() {
    let client = Client::new(Setup::default());
    let id = client.active("tagged", &[]).await;
    let resources = json!({ "resources": [{ "resource_id": id.to_string(), "resource_type": "droplet" }] });
    client.call("POST", "/v2/tags/Saga:1/resources", Some(&resources), 404).await;
    let made = client.call("POST", "/v2/tags", Some(&json!({ "name": "Saga:1" })), 201).await;
    assert_eq!(made["tag"]["name"], "Saga:1");
    client.call("POST", "/v2/tags/saga%3A1/resources", Some(&resources), 204).await;
    assert_eq!(client.names("?tag_name=saga:1").await, Vec::<String>::new());
    client.sim.advance(8_000);
    assert_eq!(client.names("?tag_name=saga:1").await, ["tagged"]);
    assert_eq!(client.get("/v2/tags/saga:1").await["tag"]["resources"]["droplets"]["count"], 1);
    client.call("DELETE", "/v2/tags/saga:1/resources", Some(&resources), 204).await;
    assert_eq!(client.names("?tag_name=saga:1").await, Vec::<String>::new());
    assert_eq!(client.get("/v2/tags").await["meta"]["total"], 1);
    client.call("DELETE", "/v2/tags/saga:1", None, 204).await;
    client.call("GET", "/v2/tags/saga:1", None, 404).await;
    client.all_right();
    let bad = client.call("POST", "/v2/tags", Some(&json!({ "name": "a b" })), 400).await;
    assert!(bad["error"].is_string());
    let stranger = json!({ "resources": [{ "resource_id": "7", "resource_type": "droplet" }] });
    client.call("POST", "/v2/tags", Some(&json!({ "name": "x" })), 201).await;
    client.call("POST", "/v2/tags/x/resources", Some(&stranger), 404).await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_bear_tags_as_images() {
    let client = Client::new(Setup::default());
    let id = client.active("source", &[]).await;
    client.act(id, &json!({ "type": "snapshot", "name": "one" })).await;
    let snapshot = client.get("/v2/snapshots").await["snapshots"][0]["id"].clone();
    client.call("POST", "/v2/tags", Some(&json!({ "name": "keep" })), 201).await;
    let resources = json!({ "resources": [{ "resource_id": snapshot, "resource_type": "image" }] });
    client.call("POST", "/v2/tags/keep/resources", Some(&resources), 204).await;
    assert_eq!(client.get("/v2/snapshots").await["snapshots"][0]["tags"], json!(["keep"]));
    assert_eq!(client.get("/v2/images?tag_name=keep").await["meta"]["total"], 1);
    client.call("DELETE", "/v2/tags/keep/resources", Some(&resources), 204).await;
    assert_eq!(client.get("/v2/images?private=true").await["images"][0]["tags"], json!([]));
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn deleting_by_a_tag_deletes_all_that_bear_it_and_is_remembered() {
    let client = Client::new(Setup::default());
    client.active("one", &["fleet"]).await;
    client.active("two", &["fleet"]).await;
    client.active("three", &[]).await;
    assert!(client.sim.inspect(|world| world.deleted_by_tag.is_empty()));
    client.call("DELETE", "/v2/droplets?tag_name=fleet", None, 204).await;
    let (left, told) = client
        .sim
        .inspect(|world| (world.living().iter().map(|droplet| droplet.name.clone()).collect::<Vec<_>>(), world.deleted_by_tag.clone()));
    assert_eq!((left, told), (vec!["three".to_owned()], vec!["fleet".to_owned()]));
    client.all_right();
    client.call("DELETE", "/v2/droplets", None, 400).await;
}
