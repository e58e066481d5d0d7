//! The engine's own record of what happened to the containers of one cluster, followed from the beginning: what the engine
//! keeps for later is short.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::exec::CreateExecOptions;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;
use moorline_common::observe::LABEL_CLUSTER;

use crate::engine::Engine;
use crate::limits::SOON;
use crate::wait::wait_until;

/// Something that the engine did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The container's name, without what a successor's has more.
    pub container: String,
    /// The engine's word; a signal and a command's last word behind a colon.
    pub what: String,
}

/// Follows the engine until it is dropped.
pub struct Watcher {
    seen: Arc<Mutex<Vec<Event>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Watcher {
    /// Follows the containers of `cluster`.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(engine: &Engine, cluster: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let socket = engine.socket().to_str().context("socket path")?.to_owned();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sink, label) = (seen.clone(), format!("{LABEL_CLUSTER}={cluster}"));
        runtime.spawn(async move {
            // A day: the stream ends with the test.
            let Ok(docker) = bollard::Docker::connect_with_unix(&socket, 24 * 3600, bollard::API_DEFAULT_VERSION) else { return };
            #[allow(clippy::disallowed_types)]
            let filters: std::collections::HashMap<String, Vec<String>> =
                [("type".to_owned(), vec!["container".to_owned()]), ("label".to_owned(), vec![label])].into_iter().collect();
            let mut stream = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
            while let Some(Ok(message)) = stream.next().await {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend(event(message));
            }
        });
        Ok(Self { seen, _runtime: runtime })
    }

    /// All that the engine did until now: it is asked for one thing more, and that is waited for.
    ///
    /// # Errors
    /// When `container` does not run, or the stream has ended.
    pub fn until_now(&self, engine: &Engine, container: &str) -> Result<Vec<Event>> {
        let mark = uuid::Uuid::now_v7().to_string();
        let options = CreateExecOptions { cmd: Some(vec!["/bin/true".to_owned(), mark.clone()]), ..Default::default() };
        wait_until("the engine tells of a command that was made", Duration::from_secs(10), || {
            engine.block_on(engine.docker().create_exec(container, options.clone()))?;
            Ok(self.all().iter().any(|e| e.what.ends_with(&mark)) || self.saw(&mark, SOON / 10))
        })?;
        Ok(self.all())
    }

    fn saw(&self, mark: &str, limit: Duration) -> bool {
        wait_until("it is told", limit, || Ok(self.all().iter().any(|e| e.what.ends_with(mark)))).is_ok()
    }

    fn all(&self) -> Vec<Event> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn event(message: EventMessage) -> Option<Event> {
    let attributes = message.actor.and_then(|a| a.attributes).unwrap_or_default();
    let name = attributes.get("name")?;
    // A successor bears the old one's name and more until that is gone.
    let container = name.split_once("-new-").map_or(name.as_str(), |(name, _)| name).to_owned();
    let action = message.action.unwrap_or_default();
    let (word, command) = action.split_once(": ").unwrap_or((&action, ""));
    let what = match word {
        "kill" => format!("kill:{}", attributes.get("signal").map(String::as_str).unwrap_or_default()),
        "exec_create" | "exec_start" => format!("{word}:{}", command.rsplit(' ').next().unwrap_or_default()),
        word => word.to_owned(),
    };
    let at = u64::try_from(message.time_nano.unwrap_or_default() / 1_000_000).unwrap_or_default();
    Some(Event { at, container, what })
}
