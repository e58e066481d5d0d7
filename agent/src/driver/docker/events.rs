//! The engine's event stream, as "something that may be ours changed".

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bollard::errors::Error;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptions;
use futures_util::{Stream, StreamExt};
use moorline_common::observe::{LABEL_CLUSTER, LABEL_HOST, Observed};
use tokio::time::Instant;

use super::super::Ownership;
use super::DockerDriver;
use crate::limits::EVENTS_BACKOFF;

/// What happens to containers and matters: the rest (exec, attach, top, copy, …) is noise.
const CONTAINER_ACTIONS: [&str; 9] = ["start", "die", "destroy", "pause", "unpause", "rename", "update", "oom", "health_status"];

/// What happens to networks and volumes and matters.
const OTHER_ACTIONS: [&str; 5] = ["connect", "create", "destroy", "disconnect", "remove"];

/// What frees the name of a stranger. The engine sends these anyway.
const FREEING_ACTIONS: [&str; 3] = ["destroy", "remove", "rename"];

type Messages = Pin<Box<dyn Stream<Item = Result<EventMessage, Error>> + Send>>;

/// The stream and what it is filtered by.
#[derive(Default)]
pub(super) struct Events {
    link: tokio::sync::Mutex<Link>,
    /// Ids of containers and networks and names of volumes, and whether they are ours: the events of networks and volumes bear no
    /// labels.
    known: Mutex<BTreeMap<String, bool>>,
}

#[derive(Default)]
struct Link {
    stream: Option<Messages>,
    failures: u32,
    /// Before this moment no new stream is opened. Kept here, so that a cancelled wait does not begin anew.
    not_before: Option<Instant>,
}

impl Events {
    /// From now on the events of the networks and volumes in `observed` count, also who joins and leaves those networks, what networks
    /// its containers join and leave, and the end of a stranger whose name may be wanted.
    pub fn watch(&self, observed: &Observed) {
        let containers = observed.containers.values().map(|c| (c.id.clone(), c.owner.is_some()));
        let networks = observed.networks.values().map(|n| (n.id.clone(), n.owner.is_some()));
        let volumes = observed.volumes.iter().map(|(name, v)| (name.clone(), v.owner.is_some()));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = containers.chain(networks).chain(volumes).collect();
    }

    /// See [`super::super::Driver::next_event`].
    pub async fn next(&self, driver: &DockerDriver) {
        let mut link = self.link.lock().await;
        loop {
            let Some(stream) = &mut link.stream else {
                if open(&mut link, driver).await {
                    // Whatever happened while nobody listened.
                    return;
                }
                continue;
            };
            match stream.next().await {
                Some(Ok(message)) if self.matters(&message, &driver.owned) => {
                    link.failures = 0;
                    return;
                }
                Some(Ok(_)) => {}
                // An event that this client cannot read says nothing about the stream.
                Some(Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. })) => return,
                Some(Err(_)) | None => {
                    link.stream = None;
                    failed(&mut link);
                    return;
                }
            }
        }
    }

    fn matters(&self, message: &EventMessage, owned: &Ownership) -> bool {
        let action = message.action.as_deref().unwrap_or_default();
        let actor = message.actor.as_ref();
        let attributes = actor.and_then(|a| a.attributes.as_ref());
        let id = actor.and_then(|a| a.id.as_deref()).unwrap_or_default();
        let attribute = |key: &str| attributes.and_then(|a| a.get(key)).map(String::as_str);
        let known = |id: &str| self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        let frees_a_name = || FREEING_ACTIONS.contains(&action) && known(id) == Some(false);
        match message.typ {
            Some(EventMessageTypeEnum::CONTAINER) => {
                let is = |key: &str, value: &str| attribute(key) == Some(value);
                let word = action.split(':').next().unwrap_or_default();
                let ours =
                    owned.known.owner(id).is_some() || is(LABEL_CLUSTER, owned.cluster.as_str()) && is(LABEL_HOST, owned.host_id.as_str());
                if ours { CONTAINER_ACTIONS.contains(&word) } else { frees_a_name() }
            }
            Some(EventMessageTypeEnum::NETWORK | EventMessageTypeEnum::VOLUME) => {
                let name = if message.typ == Some(EventMessageTypeEnum::NETWORK) { attribute("name") } else { Some(id) };
                // Something external that may be waited for.
                let comes = || action == "create" && name.is_some_and(|name| owned.known.is_named(name));
                let is_ours = || known(id) == Some(true) || attribute("container").and_then(known) == Some(true);
                (OTHER_ACTIONS.contains(&action) && is_ours()) || frees_a_name() || comes()
            }
            _ => false,
        }
    }
}

/// Tries to open the stream, after the backoff's wait.
async fn open(link: &mut Link, driver: &DockerDriver) -> bool {
    if let Some(moment) = link.not_before {
        tokio::time::sleep_until(moment).await;
    }
    // Events from before the subscription are replayed from here on: none is missed in between.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let answered = driver.engine().await;
    let Ok(engine) = driver.forget_if_away(answered) else {
        failed(link);
        return false;
    };
    // A cached engine may be gone by now; only an answer shows that it is there.
    if engine.docker.ping().await.is_err() {
        driver.forget();
        failed(link);
        return false;
    }
    // The engine filters, too: the checks of healthy containers must not wake the agent. Its event filter goes by
    // the beginning of the words.
    let types = ["container", "network", "volume"].map(str::to_owned).to_vec();
    let actions = CONTAINER_ACTIONS.iter().chain(&OTHER_ACTIONS).map(|a| (*a).to_owned()).collect();
    let filters = [("type".to_owned(), types), ("event".to_owned(), actions)];
    let since = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    let options = EventsOptions { since: Some(since), until: None, filters: Some(filters.into_iter().collect()) };
    link.stream = Some(Box::pin(engine.docker.events(Some(options))));
    link.not_before = None;
    true
}

fn failed(link: &mut Link) {
    link.failures = link.failures.saturating_add(1);
    link.not_before = Some(Instant::now() + EVENTS_BACKOFF.ceiling(link.failures));
}
