//! Start-up and shutdown: everything is checked before a socket is opened, and on the way out sessions
//! are told, calls get a grace period, and the store is the last to go.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use moorline_common::fault::Fault;
use moorline_common::id::ClusterId;
use moorline_proto::FILE_DESCRIPTOR_SET;
use moorline_proto::v1::agent_gateway_server::AgentGatewayServer;
use moorline_proto::v1::operator_server::OperatorServer;
use nix::fcntl::{Flock, FlockArg};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Router;

use crate::auth::Peer;
use crate::clock::Clock;
use crate::cloud::Clouds;
use crate::cloud::digitalocean::Unusable;
use crate::config::{self, Config};
use crate::events::{Kind, NewEvent};
use crate::hub::{Hub, Parts};
use crate::pki::{Pki, PkiError};
use crate::rate::RateLimit;
use crate::service::agent::Gateway;
use crate::service::operator::OperatorService;
use crate::store::StoreError;
use crate::store::sqlite::{self, OpenError, SqliteStore};
use crate::tls::{self, Listener, TlsError};
use crate::{convergence, inventory, keeper, limits, ops, rollout, saga};

/// The lock file's name in the hub's folder.
pub const LOCK: &str = "hub.lock";

/// Why the hub does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder is in use, or cannot be locked.
    #[error("cannot lock {path}: {reason}")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store names a cluster that is none.
    #[error("the store is damaged: {0}")]
    Cluster(#[from] moorline_common::id::IdError),
    /// The store failed at the start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A cloud cannot be reached as it is configured.
    #[error("[cloud] in hub.toml: {0}")]
    Cloud(#[from] Unusable),
    /// The system lacks what a part needs.
    #[error(transparent)]
    System(#[from] Fault),
    /// The address is not free.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store's writer has ended; only a restart brings it back.
    #[error("the store stopped working; its last error is in the log")]
    StoreGone,
    /// One of the hub's own tasks has ended before its time, most likely by a panic.
    #[error("the hub's {0} stopped working; its last words are in the log")]
    TaskGone(&'static str),
    /// Serving ended by an error.
    #[error("serving failed: {0}")]
    Transport(#[source] tonic::transport::Error),
    /// The reflection service cannot be made.
    #[error("cannot make the reflection service: {0}")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Takes the lock of a hub's folder; it is held for as long as the value lives.
///
/// # Errors
/// [`ServeError::Locked`].
pub fn lock(dir: &Path) -> Result<Flock<File>, ServeError> {
    let path = dir.join(LOCK);
    let locked = |reason: String| ServeError::Locked { path: path.clone(), reason };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|e| locked(e.to_string()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let in_use = errno == nix::errno::Errno::EWOULDBLOCK;
        locked(if in_use { "another moorline-hub serves from this folder".to_owned() } else { errno.to_string() })
    })
}

/// A hub that is ready to serve: its folder is locked, its store open, its address bound.
pub struct Server {
    hub: Hub,
    tls: ServerConfig,
    tcp: TcpListener,
    address: SocketAddr,
    _lock: Flock<File>,
}

impl Server {
    /// Opens the folder and binds the address.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        let clouds = Clouds::new(config.digitalocean.as_ref())?;
        Self::bind_with(config, Clock::default(), clouds).await
    }

    pub(crate) async fn bind_with(config: Config, clock: Clock, clouds: Clouds) -> Result<Self, ServeError> {
        let lock = lock(&config.dir)?;
        let database = config.dir.join(sqlite::FILE);
        let cluster = ClusterId::parse(SqliteStore::cluster(&database)?)?;
        let store = SqliteStore::open(&database, clock.clone())?;
        let pki = Pki::load(&config.dir, &cluster)?;
        let tls = tls::server_config(&pki, SystemTime::now())?;
        let bind = |source| ServeError::Bind { address: config.listen, source };
        let tcp = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = tcp.local_addr().map_err(bind)?;
        let hub = Hub::start(Parts {
            cluster,
            store: Arc::new(store),
            pki,
            fleet: crate::fleet::Fleet::default(),
            clock,
            convergence: convergence::Handle::default(),
            rollouts: rollout::Handle::default(),
            sagas: saga::Handle::default(),
            clouds,
            inventory: inventory::Handle::default(),
            keeper: keeper::Handle::default(),
            ops: ops::Ops::default(),
            advertise: config::advertised(&config.advertise, address),
            heartbeat_interval_ms: config.heartbeat_interval_ms,
            stopping: CancellationToken::new(),
            root: crate::hub::RootRead::default(),
            loading: Mutex::new(()),
            joins: Arc::new(Semaphore::new(limits::JOINS_MAX)),
            changes: Arc::new(Semaphore::new(limits::CHANGES_MAX)),
            refusals: RateLimit::new(limits::REFUSALS_PER_MINUTE),
            denials: RateLimit::new(limits::DENIALS_PER_MINUTE),
            strangers: RateLimit::new(limits::STRANGERS_EVENTS_PER_MINUTE),
            alarms: RateLimit::new(limits::ALARMS_PER_MINUTE),
        })
        .await?;
        Ok(Self { hub, tls, tcp, address, _lock: lock })
    }

    /// The address that it is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The parts, for tests.
    #[cfg(test)]
    pub(crate) fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// Serves until `shutdown`, then drains.
    ///
    /// # Errors
    /// [`ServeError::Transport`] or [`ServeError::Reflection`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { hub, tls, tcp, address, _lock: lock } = self;
        tracing::info!(
            cluster = %hub.cluster,
            %address,
            ca_spki = hub.pki.ca_spki(),
            root_version = hub.fleet.root_version(),
            version = env!("CARGO_PKG_VERSION"),
            "the hub serves"
        );
        hub.record(NewEvent::hub(Kind::HubStarted, format!("moorline-hub {} on {address}", env!("CARGO_PKG_VERSION")))).await;
        let tasks = TaskTracker::new();
        let (connections, accepted) = mpsc::channel(limits::ACCEPTED_QUEUE);
        let stopping = || hub.stopping.clone();
        let sagas = saga::Service::new(hub.clone())?;
        let vital = [
            ("listener", tasks.spawn(Listener::new(hub.clone(), tcp, connections).run(tls, stopping()))),
            ("convergence driver", tasks.spawn(convergence::Service::new(hub.clone()).run(stopping()))),
            ("driver of rollouts", tasks.spawn(rollout::Service::new(hub.clone()).run(stopping()))),
            ("runner of sagas", tasks.spawn(sagas.run(stopping()))),
            ("keeper", tasks.spawn(keeper::Service::new(hub.clone()).run(stopping()))),
            ("inventory", tasks.spawn(inventory::Service::new(hub.clone()).run(stopping()))),
            ("operations' courier", tasks.spawn(ops::Service::new(hub.clone()).run(stopping()))),
        ];
        tasks.spawn(stopping().run_until_cancelled_owned(hub.clone().load_reports()));
        tasks.close();
        let (health, router) = router(&hub).await?;
        let closing = CancellationToken::new();
        let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), closing.clone().cancelled_owned());
        tokio::pin!(serving);
        let mut gone = None;
        let early = tokio::select! {
            () = shutdown.cancelled() => None,
            () = hub.store.ended().cancelled_owned() => {
                gone = Some(ServeError::StoreGone);
                None
            }
            name = first_end(vital) => {
                gone = Some(ServeError::TaskGone(name));
                None
            }
            ended = &mut serving => Some(ended),
        };
        if let Some(error) = &gone {
            tracing::error!(%error, "the hub cannot go on");
        }
        tracing::info!("the hub stops: sessions are told, calls may finish");
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        hub.stopping.cancel();
        closing.cancel();
        let draining = async {
            let ended = match early {
                Some(ended) => ended,
                None => serving.await,
            };
            tasks.wait().await;
            ended
        };
        let ended = tokio::time::timeout(limits::DRAIN_GRACE, draining).await;
        keeper::flush(&hub).await;
        let words = gone.as_ref().map_or_else(|| "stopped in order".to_owned(), ToString::to_string);
        hub.record(NewEvent::hub(Kind::HubStopped, words)).await;
        if let Err(error) = hub.store.close().await {
            tracing::warn!(%error, "the store did not close in order");
        }
        drop(lock);
        gone.map_or_else(|| drained(ended), Err)
    }
}

/// How the hub stopped that was told to.
fn drained(ended: Result<Result<(), tonic::transport::Error>, tokio::time::error::Elapsed>) -> Result<(), ServeError> {
    match ended {
        Ok(ended) => {
            tracing::info!("drained");
            ended.map_err(ServeError::Transport)
        }
        Err(_) => {
            tracing::warn!(grace_s = limits::DRAIN_GRACE.as_secs(), "some calls did not end within the grace period and were cut");
            Ok(())
        }
    }
}

/// The name of the first task that ends.
async fn first_end<const N: usize>(tasks: [(&'static str, JoinHandle<()>); N]) -> &'static str {
    let ends = tasks.map(|(name, task)| {
        Box::pin(async move {
            if let Err(error) = task.await {
                tracing::error!(task = name, %error, "a task ended");
            }
            name
        })
    });
    futures_util::future::select_all(ends).await.0
}

/// All services on one router. Health is open to everyone, reflection to operators.
async fn router(hub: &Hub) -> Result<(tonic_health::server::HealthReporter, Router), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentGatewayServer<Gateway>>().await;
    health.set_serving::<OperatorServer<OperatorService>>().await;
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let clock = hub.clock.clone();
    let operators_only = move |request: tonic::Request<()>| {
        Peer::of(&request)?.operator(clock.unix_s().0)?;
        Ok(request)
    };
    let reflection = InterceptedService::new(descriptors().build_v1().map_err(ServeError::Reflection)?, operators_only.clone());
    // Most clients in the field still ask by the older name.
    let reflection_alpha = InterceptedService::new(descriptors().build_v1alpha().map_err(ServeError::Reflection)?, operators_only);
    let gateway = AgentGatewayServer::new(Gateway::new(hub.clone()))
        .max_decoding_message_size(limits::MESSAGE_MAX)
        .max_encoding_message_size(limits::MESSAGE_MAX);
    let operator = OperatorServer::new(OperatorService::new(hub.clone()))
        .max_decoding_message_size(moorline_proto::OPERATOR_MESSAGE_MAX)
        .max_encoding_message_size(limits::ANSWER_MAX);
    let router = tonic::transport::Server::builder()
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_concurrent_streams(limits::STREAMS_MAX)
        .http2_max_header_list_size(limits::HEADERS_MAX)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(gateway)
        .add_service(operator);
    Ok((health, router))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named() {
        let ends = first_end([("one", tokio::spawn(std::future::pending())), ("two", tokio::spawn(async { panic!("gone") }))]);
        assert_eq!(ends.await, "two");
    }
}
