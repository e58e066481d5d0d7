//! The Docker Engine driver: observes and changes one engine over its unix socket.
//!
//! It never decides, and never touches an object without our labels. The engine may be away at any time: each
//! call then fails fast as `Unreachable`, and the next one tries anew.
//!
//! | module | what it does |
//! |---|---|
//! | `observe` | lists and inspections → plain data |
//! | `apply` | one step → the engine's calls |
//! | `update` | what changes about a container while it runs |
//! | `body` | a container's target → the engine's creation request |
//! | `op` | one operation → the engine's calls, and the evidence of it |
//! | `logs` | what a container writes |
//! | `exec` | a command in a container, from its making to its end |
//! | `sealed` | the files with secrets that a container mounts |
//! | `survey` | what is there besides ours, told to the one who asked |
//! | `sweep` | what is ours and no longer wanted → found, removed |
//! | `pull` | an image from its registry |
//! | `events` | the engine's event stream → "something changed" |
//! | `error` | the engine's errors → what may be done about them |

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use moorline_common::fault::cut;
use moorline_common::observe::{LABEL_CLUSTER, LABEL_HOST, Observed, Owner};
use moorline_common::op::Act;
use moorline_common::plan::{Step, model};
use serde_json::Value;

use super::pulls::{Board, View};
use super::{Begun, Driver, DriverError, DriverErrorKind, Found, Known, OpOrder, Ownership, Taker};
use crate::lane::aside;
use crate::limits::{CONNECT_TIMEOUT, DOCKER_PARALLELISM, OBSERVE_TIMEOUT, REQUEST_TIMEOUT, STOP_ASIDE_AFTER};
use crate::registries::Registries;
use crate::vault::Vault;

mod apply;
mod body;
mod error;
mod events;
mod exec;
mod logs;
mod observe;
mod op;
mod options;
mod pull;
mod replace;
mod sealed;
#[cfg(test)]
mod stalls;
mod survey;
mod sweep;
#[cfg(test)]
mod tests;
mod twins;
mod update;

/// Talks to one Docker Engine.
pub struct DockerDriver {
    socket: PathBuf,
    owned: Ownership,
    access: Arc<pull::Access>,
    vault: Option<Arc<Vault>>,
    engine: Mutex<Option<Arc<Engine>>>,
    events: events::Events,
}

/// A connection to an engine that has said who it is.
struct Engine {
    docker: Docker,
    /// Its name and version, for people.
    version: String,
    /// The newest version of its API: `1.41`.
    api: String,
    /// Whether a container can join several networks when it is made (API 1.44).
    many_endpoints: bool,
    /// What pulls need besides.
    access: Arc<pull::Access>,
    /// Where containers have secrets from; without it none can have any.
    vault: Option<Arc<Vault>>,
}

impl DockerDriver {
    /// A driver for the engine behind `socket`; nothing is opened yet, and the engine may be away.
    #[must_use]
    pub fn new(socket: PathBuf, owned: Ownership) -> Self {
        Self { socket, owned, access: Arc::default(), vault: None, engine: Mutex::new(None), events: events::Events::default() }
    }

    /// The same, pulling by the credentials of `registries`.
    #[must_use]
    pub fn with_registries(self, registries: Registries) -> Self {
        Self { access: Arc::new(pull::Access { registries, board: Board::default() }), ..self }
    }

    /// The same, with what is sealed to this host.
    #[must_use]
    pub fn with_vault(self, vault: Arc<Vault>) -> Self {
        Self { vault: Some(vault), ..self }
    }

    /// The engine's name and version, such as `docker 20.10.24`.
    ///
    /// # Errors
    /// [`DriverError`] when no engine answers.
    pub async fn version(&self) -> Result<String, DriverError> {
        self.engine().await.map(|e| e.version.clone())
    }

    /// The engine, asked who it is when that is not known yet.
    async fn engine(&self) -> Result<Arc<Engine>, DriverError> {
        if let Some(engine) = self.connected() {
            return Ok(engine);
        }
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.socket, self.access.clone(), self.vault.clone())).await;
        let engine = Arc::new(asked.map_err(|_| DriverError::no_answer("the engine"))??);
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&engine));
        Ok(engine)
    }

    fn connected(&self) -> Option<Arc<Engine>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets an engine that went away: the next one may be another version.
    fn forget_if_away<T>(&self, result: Result<T, DriverError>) -> Result<T, DriverError> {
        if matches!(&result, Err(e) if e.kind == DriverErrorKind::Unreachable) {
            self.forget();
        }
        result
    }

    fn forget(&self) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn observe_now(&self) -> Result<Observed, DriverError> {
        let engine = self.engine().await?;
        let vault = self.vault.as_ref().map(|vault| (vault, vault.mark()));
        let observed = observe::observe(&engine, &self.owned).await?;
        if let Some((vault, mark)) = vault {
            sealed::sweep(vault, mark, &observed);
        }
        self.events.watch(&observed);
        Ok(observed)
    }
}

impl Driver for DockerDriver {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn known(&self) -> Arc<Known> {
        self.owned.known.clone()
    }

    fn parallelism(&self) -> usize {
        DOCKER_PARALLELISM
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        let observed = tokio::time::timeout(OBSERVE_TIMEOUT, self.observe_now()).await;
        self.forget_if_away(observed.unwrap_or_else(|_| Err(DriverError::no_answer("observing the engine"))))
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        let applied = match self.engine().await {
            Ok(engine) => apply::apply(&engine, &self.owned, step).await,
            Err(error) => Err(error),
        };
        self.forget_if_away(applied)
    }

    async fn logs(&self, wish: &super::logs::LogWish) -> Result<super::logs::LogStream, DriverError> {
        let opened = match self.engine().await {
            Ok(engine) => logs::open(&engine, &self.owned, wish).await,
            Err(error) => Err(error),
        };
        self.forget_if_away(opened)
    }

    async fn next_event(&self) {
        self.events.next(self).await;
    }

    fn pulls(&self) -> View {
        self.access.board.view()
    }

    fn capabilities(&self) -> &'static [&'static str] {
        super::op::KINDS
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        let prepared = match self.engine().await {
            Ok(engine) => op::prepare(&engine.docker, &self.owned, order).await,
            Err(error) => Err(error),
        };
        self.forget_if_away(prepared)
    }

    async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        let begun = match self.engine().await {
            Ok(engine) => op::start(&engine, &self.owned, order, evidence).await,
            Err(error) => Err(error),
        };
        self.forget_if_away(begun)
    }

    async fn resume(&self, order: &OpOrder, _evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        let Act::Exec(command) = &order.act else { return Err(DriverError::no_such_operation(order)) };
        let ended = match self.engine().await {
            Ok(engine) => exec::resume(&engine.docker, command, task, taker).await,
            Err(error) => Err(error),
        };
        self.forget_if_away(ended).map(Begun::Done)
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        let found = match self.engine().await {
            Ok(engine) => op::adopt(&engine.docker, order, evidence, task, age).await,
            Err(error) => Err(error),
        };
        self.forget_if_away(found)
    }
}

/// Waits for what may take its time, such as a container that stops; after a while without keeping a place of other steps.
async fn patiently<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(STOP_ASIDE_AFTER, &mut work).await {
        Ok(done) => done,
        Err(_) => aside(work).await,
    }
}

async fn connect(socket: &Path, access: Arc<pull::Access>, vault: Option<Arc<Vault>>) -> Result<Engine, DriverError> {
    let path = socket.to_string_lossy();
    let open = |version: &ClientVersion| {
        Docker::connect_with_unix(&path, REQUEST_TIMEOUT.as_secs(), version).map_err(|e| error::from_engine(&e, "connecting to the engine"))
    };
    let docker = open(API_DEFAULT_VERSION)?;
    let said = docker.version().await.map_err(|e| error::from_engine(&e, "asking the engine for its version"))?;
    let api = said.api_version.as_deref().and_then(parse_api).unwrap_or((1, 24));
    let ours = (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);
    let (major_version, minor_version) = api.min(ours);
    let docker = open(&ClientVersion { major_version, minor_version })?;
    let version = format!("docker {}", said.version.as_deref().unwrap_or("of an unknown version"));
    let (major, minor) = api;
    Ok(Engine { docker, version: cut(&version), api: format!("{major}.{minor}"), many_endpoints: api >= (1, 44), access, vault })
}

fn parse_api(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Ownership {
    /// The owner that is known of an object, or that its labels name, if it is ours.
    fn of<'a>(&self, key: &str, labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Option<Owner> {
        if let Some(owner) = self.known.owner(key) {
            return Some(owner);
        }
        let labels = labels.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect::<std::collections::BTreeMap<_, _>>();
        let is = |key: &str, value: &str| labels.get(key).is_some_and(|v| v == value);
        if is(LABEL_CLUSTER, self.cluster.as_str()) && is(LABEL_HOST, self.host_id.as_str()) { model::owner_of(&labels) } else { None }
    }
}
