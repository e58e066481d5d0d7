//! The admin socket: what `moorline-agent status` asks, and where `trust import` hands roots in. One JSON object a line,
//! each way.
//!
//! It gives no authority: a root from here passes the same door as one from the hub. Only the state folder's owner can
//! connect.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moorline_common::drift::Drift;
use moorline_common::fault::Fault;
use moorline_common::id::ResourceId;
use moorline_common::observe::{ContainerState, EngineState};
use moorline_common::plan::lower::lower;
use moorline_common::sign::Envelope;
use moorline_common::statement::Trouble;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::db::{DbError, blocking};
use crate::identity::Enrolment;
use crate::intake::{Intake, Target};
use crate::ledger::{Current, Ledger};
use crate::limits::{ADMIN_CLIENTS_MAX, ADMIN_LINE_MAX, ADMIN_TIMEOUT};
use crate::link::LinkState;
use crate::report::HostState;

/// The name of the socket in the state folder.
pub const SOCKET: &str = "admin.sock";

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Asks for a [`Status`].
    Status,
    /// Hands in a trust root.
    Root {
        /// The root.
        envelope: Envelope,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Root`]: the version in force, and whether it was new.
    Root {
        /// The version of the trust root in force now.
        version: u64,
        /// Whether the one that was handed in brought it.
        new: bool,
    },
    /// To [`Request::Root`]: why it was not accepted.
    Refused(Fault),
    /// The request was not understood, or could not be answered.
    Error(String),
}

/// How the agent and its host are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Whether the agent runs. When not, only what is on disk is filled in.
    pub running: bool,
    /// The cluster.
    pub cluster: String,
    /// The host's name.
    pub name: String,
    /// The host's id.
    pub host_id: String,
    /// The fingerprint of the host's keys, to compare with `moorctl host approve --fingerprint`.
    pub fingerprint: String,
    /// The hub that the agent is connected to.
    pub hub: Option<String>,
    /// Since when the link has been as it is, in Unix seconds.
    pub link_since: u64,
    /// Why there is no connection.
    pub link_error: Option<String>,
    /// The version of the accepted trust root; 0 without one.
    pub root_version: u64,
    /// When the trust root expires, in Unix seconds.
    pub root_expires: Option<u64>,
    /// The serial of the accepted host-binding; 0: awaiting approval.
    pub binding_serial: u64,
    /// The driver.
    pub driver: String,
    /// The engine.
    pub engine: EngineState,
    /// The engine's name and version.
    pub engine_version: Option<String>,
    /// Why the newest observation failed.
    pub observe_error: Option<String>,
    /// The topology of the accepted slice.
    pub topology: Option<String>,
    /// Its generation.
    pub generation: u64,
    /// The hash of what is applied.
    pub applied_hash: Option<String>,
    /// When it was applied, in Unix seconds; 0 when it never was.
    pub applied_at: u64,
    /// Whether the agent enforces its slice now.
    pub enforcing: bool,
    /// Whether an apply is under way.
    pub converging: bool,
    /// The last error since the last success.
    pub last_error: Option<Fault>,
    /// The last statement that was refused: its kind and why.
    pub last_refusal: Option<(String, Fault)>,
    /// Resources that failed, are skipped, or wait.
    pub troubles: Vec<Trouble>,
    /// What differs from the slice and is left as it is.
    #[serde(default)]
    pub drift: Vec<Drift>,
    /// How many containers the slice wants; `None` while none is acted on.
    #[serde(default)]
    pub containers_wanted: Option<u64>,
    /// How many of those run; of all of ours when no slice says which are wanted.
    pub containers_running: u64,
    /// How many containers of ours there are, wanted or not.
    pub containers: u64,
    /// Why nothing may be changed, if the agent's records are damaged.
    pub quarantine: Option<Fault>,
    /// Why the accepted slice is no longer acted on, when a newer trust root does not cover it.
    #[serde(default)]
    pub frozen: Option<Fault>,
}

/// What a status is made from while the agent runs.
#[derive(Clone)]
pub struct Sources {
    /// What was joined.
    pub enrolment: Enrolment,
    /// The host's id.
    pub host_id: String,
    /// The fingerprint of the host's keys.
    pub fingerprint: String,
    /// The driver's name.
    pub driver: &'static str,
    /// What was accepted and applied.
    pub ledger: Ledger,
    /// The host.
    pub state: watch::Receiver<HostState>,
    /// The door for roots by hand.
    pub intake: Intake,
    /// What is worked towards.
    pub target: watch::Receiver<Target>,
    /// The link.
    pub link: watch::Receiver<LinkState>,
    /// Why nothing may be changed.
    pub quarantine: Option<Fault>,
}

impl Status {
    /// What the disk alone tells.
    pub fn from_disk(&mut self, enrolment: &Enrolment, current: Option<&Current>) {
        self.version = env!("CARGO_PKG_VERSION").to_owned();
        self.cluster = enrolment.cluster.to_string();
        self.name = enrolment.name.to_string();
        if let Some(current) = current {
            self.topology = Some(current.topology.to_string());
            self.generation = current.generation.0;
            self.applied_hash = current.version_hash.as_ref().map(ToString::to_string);
            self.applied_at = current.applied_at.0;
            self.last_error = current.last_error.clone();
        }
    }
}

impl Sources {
    async fn status(&self) -> Result<Status, DbError> {
        let ledger = self.ledger.clone();
        let (current, standing) = blocking(move || Ok::<_, DbError>((ledger.current()?, ledger.standing()?))).await?;
        let state = self.state.borrow().clone();
        let trust = self.intake.trust().borrow().clone();
        let link = self.link.borrow().clone();
        let target = self.target.borrow().desired.clone();
        let wanted = target.as_ref().map(|desired| lower(&desired.identity, &desired.spec).containers);
        let owned: Vec<_> = state.observed.containers.values().filter_map(|c| Some((c, c.owner.as_ref()?))).collect();
        let is_wanted = |resource: &ResourceId| wanted.as_ref().is_none_or(|wanted| wanted.contains_key(resource));
        let running = owned.iter().filter(|(c, owner)| c.state == ContainerState::Running && is_wanted(&owner.resource)).count();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let mut status = Status {
            running: true,
            host_id: self.host_id.clone(),
            fingerprint: self.fingerprint.clone(),
            hub: link.hub,
            link_since: link.since.0,
            link_error: link.last_error,
            root_version: trust.root_version(),
            root_expires: trust.root.as_ref().map(|r| r.statement().expires.0),
            binding_serial: trust.binding_serial(),
            driver: self.driver.to_owned(),
            engine: state.engine(),
            engine_version: state.observed.engine_version.clone(),
            observe_error: state.observed.error.clone(),
            enforcing: target.is_some(),
            converging: state.apply.converging,
            last_refusal: link.last_refusal.map(|r| (r.kind.to_owned(), r.fault)),
            troubles: state.apply.troubles.clone(),
            drift: state.apply.drift.clone(),
            containers_wanted: wanted.as_ref().map(|wanted| count(wanted.len())),
            containers_running: count(running),
            containers: count(owned.len()),
            quarantine: self.quarantine.clone(),
            frozen: trust.frozen.clone(),
            ..Status::default()
        };
        status.from_disk(&self.enrolment, current.as_ref());
        status.topology = standing.topology.map(String::from);
        status.generation = standing.generation.0;
        status.applied_hash = standing.applied.map(String::from);
        Ok(status)
    }

    async fn import(&self, envelope: &Envelope) -> Response {
        let mut intake = self.intake.clone();
        match intake.import_root(envelope.to_json()).await {
            Ok(new) => Response::Root { version: intake.trust().borrow().root_version(), new },
            Err(refused) => Response::Refused(refused.fault),
        }
    }
}

/// Listens on `dir`/admin.sock, mode 0600. A socket that a dead agent left behind is replaced: the caller holds
/// the folder's lock.
///
/// # Errors
/// The system's.
pub fn bind(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) | Ok(()) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until `shutdown`.
pub async fn serve(listener: UnixListener, sources: Sources, shutdown: CancellationToken) {
    let clients = Arc::new(Semaphore::new(ADMIN_CLIENTS_MAX));
    let accept = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = clients.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let sources = sources.clone();
                    tokio::spawn(async move {
                        // A client that goes away is no fault.
                        let _ = tokio::time::timeout(ADMIN_TIMEOUT, answer(stream, &sources)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin socket failed");
                    tokio::time::sleep(ADMIN_TIMEOUT).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
}

async fn answer(stream: UnixStream, sources: &Sources) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let limit = u64::try_from(ADMIN_LINE_MAX).unwrap_or(u64::MAX);
    let mut line = String::new();
    BufReader::new(read.take(limit)).read_line(&mut line).await?;
    let response = match serde_json::from_str::<Request>(&line) {
        Ok(Request::Status) => match sources.status().await {
            Ok(status) => Response::Status(Box::new(status)),
            Err(error) => Response::Error(error.to_string()),
        },
        Ok(Request::Root { envelope }) => sources.import(&envelope).await,
        Err(error) => Response::Error(format!("not a request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&response).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// Asks the agent that runs on `dir`. `None` when none runs there.
///
/// # Errors
/// The system's, or the agent's own words.
pub async fn ask_status(dir: &Path) -> io::Result<Option<Status>> {
    match ask(dir, &Request::Status).await? {
        None => Ok(None),
        Some(Response::Status(status)) => Ok(Some(*status)),
        Some(other) => Err(unexpected(&other)),
    }
}

/// Hands a trust root to the agent that runs on `dir`; gives the version in force and whether it is new, or why it was
/// refused. `None` when no agent runs there.
///
/// # Errors
/// The system's, or the agent's own words.
pub async fn hand_in_root(dir: &Path, envelope: Envelope) -> io::Result<Option<Result<(u64, bool), Fault>>> {
    match ask(dir, &Request::Root { envelope }).await? {
        None => Ok(None),
        Some(Response::Root { version, new }) => Ok(Some(Ok((version, new)))),
        Some(Response::Refused(fault)) => Ok(Some(Err(fault))),
        Some(other) => Err(unexpected(&other)),
    }
}

fn unexpected(response: &Response) -> io::Error {
    match response {
        Response::Error(error) => io::Error::other(error.clone()),
        Response::Status(_) | Response::Root { .. } | Response::Refused(_) => io::Error::other("the agent answered something else"),
    }
}

async fn ask(dir: &Path, request: &Request) -> io::Result<Option<Response>> {
    let path: PathBuf = dir.join(SOCKET);
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e),
    };
    let exchange = async {
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        serde_json::from_slice(&answer).map(Some).map_err(io::Error::other)
    };
    tokio::time::timeout(ADMIN_TIMEOUT, exchange).await.map_err(|_| io::Error::other("the agent did not answer"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;
    use crate::testing::{Operator, enrolment};

    fn sources(dir: &Path) -> Sources {
        let operator = Operator::new(dir);
        let db = Db::open(dir).unwrap();
        let intake = operator.intake(&db);
        Sources {
            enrolment: enrolment(&operator),
            host_id: operator.keys.host_id().to_string(),
            fingerprint: String::new(),
            driver: "fake",
            ledger: Ledger::new(db),
            state: watch::channel(HostState::default()).1,
            target: intake.target(),
            intake,
            link: watch::channel(LinkState::default()).1,
            quarantine: None,
        }
    }

    #[tokio::test]
    async fn a_running_agent_tells_its_status_to_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask_status(dir.path()).await.unwrap().is_none(), "nobody runs here");
        let listener = bind(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, sources(dir.path()), stop.clone()));
        let status = ask_status(dir.path()).await.unwrap().unwrap();
        assert!(status.running && !status.enforcing);
        assert_eq!((status.name.as_str(), status.cluster.as_str(), status.binding_serial), ("shop-1", "home", 0));
        stop.cancel();
        server.await.unwrap();
        assert!(ask_status(dir.path()).await.unwrap().is_none(), "the socket of a dead agent is nobody");
        assert!(bind(dir.path()).is_ok());
    }

    #[tokio::test]
    async fn a_line_that_is_no_request_is_answered_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(dir.path()).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, sources(dir.path()), stop.clone()));
        let mut stream = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        stream.write_all(b"{\"verb\":\"destroy\"}\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("{\"error\":"), "{answer}");
        stop.cancel();
    }
}
