//! Listings: their pages, what they are asked for, and how late they are.

use serde_json::json;

use super::Client;
use crate::setup::Setup;
use crate::world::faults::Shifts;

async fn many(client: &Client, count: usize) {
    for number in 0..count {
        client.create(&format!("n{number}"), &["all"]).await;
    }
    client.sim.advance(60_000);
}

/// Every name on every page, as who follows the links finds them.
async fn followed(client: &Client, first: &str) -> Vec<String> {
    let (mut path, mut names) = (first.to_owned(), Vec::new());
    loop {
        let page = client.get(&path).await;
        names.extend(page["droplets"].as_array().unwrap().iter().map(|droplet| droplet["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["links"]["pages"]["next"].as_str() else { return names };
        path = next.strip_prefix("https://api.digitalocean.com").unwrap().to_owned();
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_linked_by_whole_addresses_and_there_are_no_links_where_one_page_is_enough() {
    let client = Client::new(Setup::default());
    many(&client, 45).await;
    let first = client.get("/v2/droplets").await;
    assert_eq!((first["droplets"].as_array().unwrap().len(), first["meta"]["total"].as_u64()), (20, Some(45)));
    let last = client.get("/v2/droplets?page=3&per_page=20").await;
    assert_eq!(last["droplets"].as_array().unwrap().len(), 5);
    assert!(last["links"]["pages"].get("next").is_none() && last["links"]["pages"].get("prev").is_some());
    assert_eq!(client.get("/v2/droplets?per_page=200").await["links"], json!({}));
    // The next page is asked for the same.
    assert_eq!(followed(&client, "/v2/droplets?tag_name=all&per_page=10").await.len(), 45);
    assert_eq!(client.get("/v2/droplets?page=9").await["droplets"], json!([]));
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn listings_that_shift_repeat_some_or_skip_some() {
    let client = Client::new(Setup::default());
    many(&client, 10).await;
    let all = followed(&client, "/v2/droplets?per_page=4").await;
    client.sim.change(|world| world.faults.shifts = Shifts::Repeats);
    let repeated = followed(&client, "/v2/droplets?per_page=4").await;
    assert!(repeated.len() > 10 && all.iter().all(|name| repeated.contains(name)), "{repeated:?}");
    client.sim.change(|world| world.faults.shifts = Shifts::Skips);
    let skipped = followed(&client, "/v2/droplets?per_page=4").await;
    assert!(skipped.len() < 10 && skipped.iter().all(|name| all.contains(name)), "{skipped:?}");
}

#[tokio::test(start_paused = true)]
async fn links_can_point_at_another_host() {
    let client = Client::new(Setup::default());
    many(&client, 3).await;
    client.sim.change(|world| world.faults.next_base = Some("https://evil.example".to_owned()));
    let next = client.get("/v2/droplets?per_page=2").await["links"]["pages"]["next"].as_str().unwrap().to_owned();
    assert_eq!(next, "https://evil.example/v2/droplets?page=2&per_page=2");
}

#[tokio::test(start_paused = true)]
async fn a_new_droplet_is_missed_by_its_number_by_listings_and_by_its_tag_for_a_while() {
    let client = Client::new(Setup::default());
    let (id, _) = client.create("late", &["saga:1"]).await;
    client.call("GET", &format!("/v2/droplets/{id}"), None, 404).await;
    assert_eq!(client.names("").await, Vec::<String>::new());
    client.sim.advance(1_000);
    client.get(&format!("/v2/droplets/{id}")).await;
    assert_eq!(client.names("?name=late").await, Vec::<String>::new());
    client.sim.advance(4_000);
    assert_eq!(client.names("?name=late").await, ["late"]);
    assert_eq!(client.names("?tag_name=saga:1").await, Vec::<String>::new());
    assert_eq!(client.get(&format!("/v2/droplets/{id}")).await["droplet"]["tags"], json!([]));
    client.sim.advance(3_000);
    assert_eq!(client.names("?tag_name=saga%3A1").await, ["late"]);
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_lingers_in_listings_and_is_gone_by_its_number() {
    let client = Client::new(Setup::default());
    let id = client.active("gone", &["saga:1"]).await;
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 204).await;
    client.call("GET", &format!("/v2/droplets/{id}"), None, 404).await;
    assert_eq!(client.names("?tag_name=saga:1").await, ["gone"]);
    client.sim.advance(10_000);
    assert_eq!(client.names("").await, Vec::<String>::new());
    client.sim.change(|world| world.faults.lingers = true);
    assert_eq!(client.names("?name=gone").await, ["gone"]);
    let setup = |world: &mut crate::World| world.setup.latencies.remains = 1_000_000;
    client.sim.change(setup);
    client.get(&format!("/v2/droplets/{id}")).await;
    client.call("DELETE", &format!("/v2/droplets/{id}"), None, 404).await;
}

#[tokio::test(start_paused = true)]
async fn listings_can_miss_something_for_good() {
    let client = Client::new(Setup::default());
    let id = client.active("hidden", &[]).await;
    client.sim.change(|world| world.faults.hide.insert(id));
    assert_eq!(client.names("").await, Vec::<String>::new());
    client.get(&format!("/v2/droplets/{id}")).await;
}

#[tokio::test(start_paused = true)]
async fn names_may_be_the_same_and_are_asked_for_whole_in_any_case_but_not_with_a_tag() {
    let client = Client::new(Setup::default());
    client.create("Twin", &["a"]).await;
    client.create("twin", &["A"]).await;
    client.create("twins", &[]).await;
    client.sim.advance(60_000);
    assert_eq!(client.names("?name=TWIN").await, ["Twin", "twin"]);
    // A tag is written as it was at first, and found in any case.
    assert_eq!(client.names("?tag_name=A").await, ["Twin", "twin"]);
    assert_eq!(client.get("/v2/droplets?tag_name=a").await["droplets"][1]["tags"], json!(["a"]));
    client.call("GET", "/v2/droplets?tag_name=a&name=twin", None, 422).await;
    assert_eq!(client.names("?type=gpus").await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_catalog_is_listed() {
    let client = Client::new(Setup::default());
    assert_eq!(client.get("/v2/account").await["account"]["status"], "active");
    assert!(client.get("/v2/sizes").await["sizes"].as_array().unwrap().iter().any(|size| size["slug"] == "s-1vcpu-1gb"));
    assert!(client.get("/v2/regions?per_page=200").await["regions"].as_array().unwrap().iter().any(|region| region["slug"] == "nyc3"));
    assert_eq!(client.get("/v2/images/debian-12-x64").await["image"]["distribution"], "Debian");
    let id = client.get("/v2/images?type=distribution").await["images"][0]["id"].clone();
    assert_eq!(client.get(&format!("/v2/images/{id}")).await["image"]["id"], id);
    let key = client.get("/v2/account/keys").await["ssh_keys"][0].clone();
    assert_eq!(client.get(&format!("/v2/account/keys/{}", key["id"])).await["ssh_key"], key);
    client.call("GET", "/v2/images/no-such", None, 404).await;
    client.all_right();
}
