//! One call and one listing.

use std::io::Write;

use moorline_common::fault::Code;
use moorline_common::id::UnixSeconds;
use moorline_do_sim::Shifts;
use moorline_do_sim::setup::{Limits, READ_TOKEN};
use tracing_subscriber::fmt::MakeWriter;

use super::super::budgets::CALL_TRIES;
use super::super::{Change, CloudError, Provider as _};
use super::*;

/// An account with so many droplets.
fn crowd(count: usize) -> Cloud {
    let cloud = Cloud::new(Setup::prompt());
    let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
    for names in names.chunks(10) {
        let body = serde_json::json!({ "names": names, "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-12-x64" });
        let request = moorline_do_sim::Request::new("POST", "/v2/droplets").by(TOKEN).json(&body);
        assert_eq!(cloud.sim.change(|world| world.call(&request)).status, 202);
    }
    cloud
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_all_pages_and_each_droplet_once() {
    let cloud = crowd(450);
    assert_eq!(cloud.provider.inventory().await.unwrap().len(), 450);
    assert_eq!(cloud.calls("GET", "/v2/droplets?"), 3);
    cloud.faults(|faults| faults.shifts = Shifts::Repeats);
    let all = cloud.provider.inventory().await.unwrap();
    let ids: std::collections::BTreeSet<_> = all.iter().map(|droplet| droplet.id).collect();
    assert_eq!((all.len(), ids.len()), (450, 450));
}

#[tokio::test(start_paused = true)]
async fn a_link_to_another_host_is_not_followed() {
    let cloud = crowd(201);
    cloud.faults(|faults| faults.next_base = Some("https://evil.example".to_owned()));
    let error = cloud.provider.inventory().await.unwrap_err();
    assert_eq!(error.code(), Code::CloudGarbled);
    assert!(error.to_string().contains("evil.example"), "{error}");
    assert_eq!(*cloud.wire.hosts.lock().unwrap(), ["api.digitalocean.com"]);
}

#[tokio::test(start_paused = true)]
async fn each_token_is_used_for_its_own() {
    let cloud = Cloud::new(Setup::prompt());
    cloud.provider.inventory().await.unwrap();
    cloud.provider.snapshots().await.unwrap();
    cloud.provider.create_droplet(&web().wanted).await.unwrap();
    cloud.provider.droplets_by_tag("web").await.unwrap();
    let tokens: Vec<String> = cloud.sim.inspect(|world| world.requests.iter().map(|call| call.token.clone()).collect());
    assert_eq!(tokens, ["inventory", "inventory", "provisioning", "provisioning"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_is_sent_and_a_changed_one_counts_at_once() {
    let cloud = Cloud::new(Setup::prompt());
    std::fs::remove_file(cloud.dir.join("inventory")).unwrap();
    assert_eq!(cloud.provider.inventory().await.unwrap_err().code(), Code::CloudUnconfigured);
    assert!(cloud.wire.hosts.lock().unwrap().is_empty());
    crate::files::write_private(&cloud.dir.join("inventory"), b"dop_v1_wrong").unwrap();
    let error = cloud.provider.inventory().await.unwrap_err();
    assert!(matches!(error, CloudError::Unauthorized { role: "inventory", .. }), "{error:?}");
    crate::files::write_private(&cloud.dir.join("inventory"), READ_TOKEN.as_bytes()).unwrap();
    cloud.provider.inventory().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_scope_is_said_to_be_one() {
    let cloud = Cloud::new(Setup::prompt());
    crate::files::write_private(&cloud.dir.join("provisioning"), READ_TOKEN.as_bytes()).unwrap();
    let error = cloud.provider.create_droplet(&web().wanted).await.unwrap_err();
    assert!(matches!(error, CloudError::Forbidden { .. }), "{error:?}");
    assert!(!error.passes() && !error.maybe_done());
}

#[tokio::test(start_paused = true)]
async fn what_reads_and_deletes_is_repeated() {
    let cloud = Cloud::new(Setup::prompt());
    let id = cloud.strangers("x", &[]).await;
    for then in [Wrong::LoseReply, Wrong::LoseRequest, Wrong::StatusAfter(503), Wrong::Hang] {
        cloud.fault("GET", "^/v2/droplets/", 2, then);
        cloud.provider.droplet(id).await.unwrap();
    }
    cloud.fault("DELETE", "", 1, Wrong::StatusBefore(500));
    cloud.provider.delete_droplet(id).await.unwrap();
    cloud.fault("GET", "", 100, Wrong::LoseReply);
    let before = cloud.wire.hosts.lock().unwrap().len();
    let error = cloud.provider.inventory().await.unwrap_err();
    assert_eq!((error.code(), error.maybe_done()), (Code::CloudUnreachable, false));
    assert_eq!(cloud.wire.hosts.lock().unwrap().len() - before, usize::try_from(CALL_TRIES).unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_makes_something_is_sent_once_if_it_may_have_arrived() {
    for (then, made) in [
        (Wrong::LoseReply, 1),
        (Wrong::LoseRequest, 0),
        (Wrong::StatusAfter(502), 1),
        (Wrong::StatusBefore(503), 0),
        (Wrong::Hang, 1),
        (Wrong::Garbage, 1),
    ] {
        let cloud = Cloud::new(Setup::prompt());
        cloud.fault("POST", "", 1, then.clone());
        let error = cloud.provider.create_droplet(&web().wanted).await.unwrap_err();
        assert!(error.maybe_done(), "{then:?}: {error:?}");
        assert_eq!((cloud.wire.hosts.lock().unwrap().len(), cloud.living().len()), (1, made), "{then:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_did_not_leave_or_was_too_much_is_sent_again() {
    let cloud = Cloud::new(Setup::prompt());
    cloud.wire.unsent.store(2, Ordering::SeqCst);
    cloud.fault("POST", "", 2, Wrong::TooMany(Some(20)));
    let began = Instant::now();
    cloud.provider.create_droplet(&web().wanted).await.unwrap();
    assert_eq!(cloud.living().len(), 1);
    assert!(began.elapsed() >= Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn an_hour_is_not_waited_for_and_nobody_calls_meanwhile() {
    let cloud = Cloud::new(Setup::prompt());
    cloud.fault("GET", "", 1, Wrong::TooMany(None));
    let now_s = cloud.sim.now_ms() / 1000;
    for _ in 0..3 {
        let error = cloud.provider.inventory().await.unwrap_err();
        assert_eq!(error, CloudError::RateLimited { until: UnixSeconds(now_s + 600) });
        assert!(error.passes() && !error.maybe_done());
    }
    assert_eq!(cloud.wire.hosts.lock().unwrap().len(), 1);
    // The other token has a count of its own.
    cloud.provider.droplets_by_tag("web").await.unwrap();
    sleep(601).await;
    cloud.provider.inventory().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_spread_instead_of_refused() {
    let cloud = Cloud::new(Setup { limits: Limits { burst: 10, ..Limits::none() }, ..Setup::prompt() });
    for _ in 0..25 {
        cloud.provider.inventory().await.unwrap();
    }
    assert!(cloud.calls("GET", "/v2/droplets") >= 25);
}

#[tokio::test(start_paused = true)]
async fn another_event_is_told_from_other_refusals() {
    let cloud = Cloud::new(Setup::default());
    let id = cloud.strangers("x", &[]).await;
    sleep(60).await;
    cloud.provider.act(id, &Change::PowerOff).await.unwrap();
    assert_eq!(cloud.provider.act(id, &Change::PowerOn).await.unwrap_err().code(), Code::CloudPending);
    sleep(60).await;
    let error = cloud.provider.act(id, &Change::PowerOff).await.unwrap_err();
    assert!(matches!(&error, CloudError::Refused { status: 422, id, .. } if id == "unprocessable_entity"), "{error:?}");
}

/// Everything that was logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn no_token_and_no_first_boot_stands_in_a_log_or_an_error() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let cloud = Cloud::new(Setup::prompt());
    let mut said = String::new();
    for then in [
        Wrong::LoseReply,
        Wrong::StatusBefore(401),
        Wrong::StatusBefore(403),
        Wrong::StatusAfter(500),
        Wrong::Garbage,
        Wrong::TooMany(None),
    ] {
        cloud.fault("POST", "", 1, then);
        let error = cloud.provider.create_droplet(&web().wanted).await.unwrap_err();
        said.push_str(&format!("{error} {error:?} {}\n", error.fault("creating")));
    }
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("a call to the cloud"), "{logged}");
    for text in [said, logged] {
        assert!(!text.contains(TOKEN) && !text.contains("hush-hush"), "{text}");
    }
}

/// A server that says the same to everything.
struct Parrot(Reply);

impl Transport for Parrot {
    async fn send(&self, request: Request) -> Result<Reply, NoReply> {
        let body = String::from_utf8(self.0.body.clone()).unwrap().replace("TOKEN", request.token.expose());
        Ok(Reply { body: body.into_bytes(), ..self.0.clone() })
    }
}

async fn parrot(status: u16, body: &str) -> CloudError {
    let dir = tempfile::tempdir().unwrap();
    let reply = Reply { status, body: body.as_bytes().to_vec(), ..Reply::default() };
    let provider = DigitalOcean::over(Parrot(reply), &config(dir.path()), Arc::new(|| 0));
    provider.droplets_by_tag("x").await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_repeats_the_token_is_not_repeated() {
    let error = parrot(422, r#"{"id":"TOKEN","message":"Authorization: Bearer TOKEN"}"#).await;
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_of_the_api_is_garbled() {
    let circle = format!(r#"{{"droplets":[],"links":{{"pages":{{"next":"{BASE}/v2/droplets?page=2"}}}}}}"#);
    let large = format!("\"{}\"", "x".repeat(super::super::budgets::ANSWER_MAX));
    for (status, body) in [(200, "<html>"), (200, "{}"), (200, r#"{"droplets":[{"id":1}]}"#), (302, ""), (200, &circle), (200, &large)] {
        let error = parrot(status, body).await;
        assert_eq!(error.code(), Code::CloudGarbled, "{status}: {error:?}");
    }
}
