//! Who may call, how often, and how refusals are written.

use super::{Client, wanted};
use crate::request::Request;
use crate::setup::{Limits, READ_TOKEN, Setup};

#[tokio::test(start_paused = true)]
async fn strangers_are_not_let_in_and_readers_only_read() {
    let mut client = Client::new(Setup::default());
    let nobody = client.sim.answer(Request::new("GET", "/v2/account")).await.unwrap();
    assert_eq!((nobody.status, nobody.read()["id"].as_str()), (401, Some("unauthorized")));
    client.secret = "dop_v1_guessed".to_owned();
    client.call("GET", "/v2/droplets", None, 401).await;
    client.secret = READ_TOKEN.to_owned();
    client.get("/v2/droplets").await;
    assert_eq!(client.call("POST", "/v2/droplets", Some(&wanted("x", &[])), 403).await["id"], "forbidden");
    client.call("DELETE", "/v2/droplets/7", None, 403).await;
    assert!(client.sim.inspect(|world| world.ledger.lines.is_empty()));
    let tokens: Vec<String> = client.sim.inspect(|world| world.requests.iter().map(|call| call.token.clone()).collect());
    assert_eq!(tokens, ["", "", "inventory", "inventory", "inventory"]);
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn a_token_may_do_only_what_its_scopes_name() {
    let mut client = Client::new(Setup::default().with_token("narrow", "dop_v1_narrow", &["droplet:create", "tag:create"]));
    client.secret = "dop_v1_narrow".to_owned();
    client.call("POST", "/v2/droplets", Some(&wanted("x", &["t"])), 202).await;
    client.call("GET", "/v2/droplets", None, 403).await;
    client.call("DELETE", "/v2/droplets/7", None, 403).await;
}

#[tokio::test(start_paused = true)]
async fn too_many_calls_in_a_minute_say_how_long_to_wait_and_in_an_hour_only_when() {
    let limits = Limits { hourly: 8, burst: 5, keys: 2 };
    let client = Client::new(Setup { limits, ..Setup::default() });
    let first = client.ask("GET", "/v2/account", None).await.unwrap();
    let head = |name: &str| first.header(name).unwrap().parse::<u64>().unwrap();
    assert_eq!((head("ratelimit-limit"), head("ratelimit-remaining")), (8, 7));
    assert_eq!(head("ratelimit-reset"), crate::setup::BEGINS_AT_MS / 1000 + 3_600);
    for _ in 0..4 {
        client.get("/v2/account").await;
    }
    let burst = client.ask("GET", "/v2/account", None).await.unwrap();
    assert_eq!((burst.status, burst.read()["id"].as_str()), (429, Some("too_many_requests")));
    assert_eq!(burst.header("retry-after"), Some("60"));
    client.sim.advance(60_000);
    for _ in 0..3 {
        client.get("/v2/account").await;
    }
    let hour = client.ask("GET", "/v2/account", None).await.unwrap();
    assert_eq!((hour.status, hour.header("retry-after"), hour.header("ratelimit-remaining")), (429, None, Some("0")));
    // Others are not held up.
    let other = client.sim.answer(Request::new("GET", "/v2/account").by(READ_TOKEN)).await.unwrap();
    assert_eq!(other.status, 200);
    client.sim.advance(3_600_000);
    client.get("/v2/account/keys").await;
    client.get("/v2/account/keys").await;
    assert!(client.ask("GET", "/v2/account/keys", None).await.unwrap().header("retry-after").is_some());
    client.get("/v2/account").await;
    client.all_right();
}

#[tokio::test(start_paused = true)]
async fn refusals_bear_an_id_words_and_a_number_to_ask_for() {
    let client = Client::new(Setup::default());
    let missing = client.ask("GET", "/v2/droplets/7", None).await.unwrap();
    let body = missing.read();
    assert_eq!((missing.status, body["id"].as_str()), (404, Some("not_found")));
    assert_eq!(body["request_id"].as_str(), missing.header("x-request-id"));
    assert!(body["message"].is_string());
    client.all_right();
    client.call("GET", "/v2/nonsense", None, 404).await;
    client.call("GET", "/v1/droplets", None, 404).await;
}
