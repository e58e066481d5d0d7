//! The client and the steps against the simulated cloud, in its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use moorline_common::id::UnixSeconds;
use moorline_do_sim::request::BASE;
use moorline_do_sim::schema::Schema;
use moorline_do_sim::setup::{READ_TOKEN, TOKEN};
use moorline_do_sim::world::action::Progress;
use moorline_do_sim::{CallFault, Cut, Faults, Setup, Sim, Wrong};
use reqwest::Url;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budgets::SYNC_DEFAULT_S;
use super::digitalocean::{NoReply, Reply, Request, Transport, Verb};
use super::steps::{Attempt, Create, Mark};
use super::types::{DropletId, NewDroplet};
use super::{CloudConfig, DigitalOcean, Provider, Secret, TokenSource};

mod client;
mod crashes;
mod create;
mod https;
mod snapshot;
mod steps;

/// The saga of all tests.
const SAGA_ID: &str = "01990000-aaaa-7bbb-8ccc-000000000001";

/// The simulator behind the client, with what was sent, and a hub that dies at a call.
#[derive(Clone)]
struct Wire {
    sim: Sim,
    hosts: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicUsize>,
    /// After the effect of the call of that number nothing comes back, and who waits for it is to be dropped.
    dies_after: usize,
    died: Arc<Notify>,
    /// So many calls do not leave.
    unsent: Arc<AtomicUsize>,
}

impl Transport for Wire {
    async fn send(&self, request: Request) -> Result<Reply, NoReply> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).push(request.url.host_str().unwrap_or_default().to_owned());
        if self.unsent.load(Ordering::SeqCst) > 0 {
            self.unsent.fetch_sub(1, Ordering::SeqCst);
            return Err(NoReply::NotSent("no way there".to_owned()));
        }
        let number = self.sent.fetch_add(1, Ordering::SeqCst);
        let path = request.url.as_str().trim_start_matches(BASE);
        let mut call = moorline_do_sim::Request::new(request.verb.as_str(), path).by(request.token.expose());
        call.body = request.body.map(|body| body.expose().as_bytes().to_vec()).unwrap_or_default();
        let answer = self.sim.answer(call).await;
        if number == self.dies_after {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        match answer {
            Ok(answer) => {
                let number = |name: &str| answer.header(name).and_then(|value| value.parse().ok());
                let (remaining, reset, retry_after) = (number("ratelimit-remaining"), number("ratelimit-reset"), number("retry-after"));
                Ok(Reply { status: answer.status, remaining, reset, retry_after, body: answer.body })
            }
            Err(Cut::Closed) => Err(NoReply::Lost("the connection was closed".to_owned())),
            Err(Cut::Hangs) => std::future::pending().await,
        }
    }
}

/// A cloud, and a hub that uses it.
struct Cloud {
    sim: Sim,
    wire: Wire,
    provider: DigitalOcean<Wire>,
    _dir: tempfile::TempDir,
    dir: std::path::PathBuf,
}

impl Cloud {
    fn new(setup: Setup) -> Self {
        Self::of(Sim::new(setup), usize::MAX)
    }

    /// A hub that dies after the call of that number, at a cloud that is there.
    fn of(sim: Sim, dies_after: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wire = Wire {
            sim: sim.clone(),
            hosts: Arc::default(),
            sent: Arc::default(),
            dies_after,
            died: Arc::default(),
            unsent: Arc::default(),
        };
        if let Some(schema) = schema() {
            sim.change(|world| world.set_schema(Some(schema)));
        }
        let clock = sim.clone();
        let provider = DigitalOcean::over(wire.clone(), &config(dir.path()), Arc::new(move || clock.now_ms() / 1000));
        Self { sim, wire, provider, dir: dir.path().to_owned(), _dir: dir }
    }

    fn fault(&self, method: &str, path: &str, next: u32, then: Wrong) {
        let fault = CallFault { method: Some(method.to_owned()), path: path.to_owned(), spares: 0, next: Some(next), then };
        self.sim.change(|world| world.faults.calls.push(fault));
    }

    fn faults(&self, change: impl FnOnce(&mut Faults)) {
        self.sim.change(|world| change(&mut world.faults));
    }

    /// The first try of a step.
    fn first(&self) -> Attempt {
        let now = UnixSeconds(self.sim.now_ms() / 1000);
        Attempt { tried_before: false, began_at: now, now, deadline: Instant::now() + Duration::from_secs(7200) }
    }

    /// A later try of the same step.
    fn again(&self, first: Attempt) -> Attempt {
        Attempt { tried_before: true, began_at: first.began_at, ..self.first() }
    }

    /// The numbers of the droplets that are there, whatever listings show.
    fn living(&self) -> Vec<u64> {
        self.sim.inspect(|world| world.living().iter().map(|droplet| droplet.id).collect())
    }

    /// The numbers of the snapshots that are there.
    fn snapshots(&self) -> Vec<u64> {
        self.sim.inspect(|world| world.snapshots.values().filter(|one| one.deleted_ms.is_none()).map(|one| one.id).collect())
    }

    /// How often something was called, whatever came of it.
    fn calls(&self, method: &str, path: &str) -> usize {
        self.sim.inspect(|world| world.requests.iter().filter(|call| call.method == method && call.path.starts_with(path)).count())
    }

    /// How many actions of a kind there ever were.
    fn actions(&self, kind: &str) -> usize {
        self.sim.inspect(|world| world.actions.values().filter(|action| action.change.kind() == kind).count())
    }

    fn is_at_rest(&self) -> bool {
        self.sim.inspect(|world| world.actions.values().all(|action| action.progress != Progress::InProgress))
    }

    /// Makes a droplet by somebody else's hands, and waits until all is over.
    async fn strangers(&self, name: &str, tags: &[&str]) -> DropletId {
        let body = serde_json::json!({ "name": name, "region": "fra1", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "tags": tags });
        let answer = self.sim.answer(moorline_do_sim::Request::new("POST", "/v2/droplets").by(TOKEN).json(&body)).await.unwrap();
        assert_eq!(answer.status, 202, "{:?}", answer.read());
        DropletId(answer.read()["droplet"]["id"].as_u64().unwrap())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let wrong = self.sim.inspect(|world| world.wrong.clone());
            assert!(wrong.is_empty(), "against the API's own description: {wrong:#?}");
        }
    }
}

/// The API's own description, where `MOORLINE_DO_SCHEMA` names it.
fn schema() -> Option<Arc<Schema>> {
    static READ: OnceLock<Option<Arc<Schema>>> = OnceLock::new();
    let read = || {
        let path = std::env::var_os("MOORLINE_DO_SCHEMA")?;
        Some(Arc::new(Schema::parse(&std::fs::read(path).unwrap()).unwrap()))
    };
    READ.get_or_init(read).clone()
}

fn config(dir: &std::path::Path) -> CloudConfig {
    let source = |name: &str, token: &str| {
        let path = dir.join(name);
        crate::files::write_private(&path, format!("{token}\n").as_bytes()).unwrap();
        Some(TokenSource::File(path))
    };
    CloudConfig {
        inventory: source("inventory", READ_TOKEN),
        provisioning: source("provisioning", TOKEN),
        url: Url::parse(BASE).unwrap(),
        ca_file: None,
        sync_every_s: SYNC_DEFAULT_S,
    }
}

/// The simulated cloud as a hub knows it; its tokens lie in `dir`.
pub(crate) fn provider(sim: &Sim, dir: &std::path::Path) -> Arc<dyn Provider> {
    let wire = Wire {
        sim: sim.clone(),
        hosts: Arc::default(),
        sent: Arc::default(),
        dies_after: usize::MAX,
        died: Arc::default(),
        unsent: Arc::default(),
    };
    if let Some(schema) = schema() {
        sim.change(|world| world.set_schema(Some(schema)));
    }
    let clock = sim.clone();
    Arc::new(DigitalOcean::over(wire, &config(dir), Arc::new(move || clock.now_ms() / 1000)))
}

fn mark() -> Mark {
    Mark { saga_id: SAGA_ID.to_owned(), step: 0 }
}

fn web() -> Create {
    let wanted = NewDroplet {
        name: "web-1".to_owned(),
        region: "fra1".to_owned(),
        size: "s-1vcpu-1gb".to_owned(),
        image: "debian-12-x64".to_owned(),
        tags: ["web".to_owned()].into(),
        user_data: Some(Secret::new("#cloud-config\n# join: hush-hush\n".to_owned())),
        ..NewDroplet::default()
    };
    Create { wanted, mark: mark(), deleted: [].into() }
}

fn sleep(seconds: u64) -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_secs(seconds))
}

/// A request as it may stand in a log.
#[test]
fn a_request_has_no_words_for_its_token_and_body() {
    let url = Url::parse(BASE).unwrap();
    let (token, body) = (Secret::new("hush".to_owned()), Some(Secret::new("hush".to_owned())));
    let shown = format!("{:?} {:?}", Request { verb: Verb::Post, url, token, body }, web());
    assert!(!shown.contains("hush"), "{shown}");
}
