//! One call: waits its turn, sends it, reads how it ended, repeats what may be repeated.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::cut;
use reqwest::Url;
use serde_json::Value;

use super::super::budgets::{ANSWER_MAX, CALL_BACKOFF, CALL_TIMEOUT, CALL_TRIES, RATE_TRIES, RATE_WAIT_MAX, paced};
use super::super::{CloudError, Result, Secret, TokenSource};
use super::pages::Base;
use super::rate::Turns;

/// The wall clock, in seconds since 1970.
pub type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads.
    Get,
    /// Makes or begins something: sent once.
    Post,
    /// Removes something. Twice is as good as once.
    Delete,
}

impl Verb {
    /// The word in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }

    /// Whether a request may be sent again though it may have arrived.
    const fn is_repeatable(self) -> bool {
        match self {
            Verb::Get | Verb::Delete => true,
            Verb::Post => false,
        }
    }

    pub(super) const fn changes(self) -> bool {
        match self {
            Verb::Get => false,
            Verb::Post | Verb::Delete => true,
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug)]
pub struct Request {
    /// How.
    pub verb: Verb,
    /// Where to.
    pub url: Url,
    /// By whom.
    pub token: Secret,
    /// Its body, as JSON. It may hold a token to join by, so that it is shown nowhere.
    pub body: Option<Secret>,
}

/// An answer, unread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// `ratelimit-remaining`: how many calls are left.
    pub remaining: Option<u64>,
    /// `ratelimit-reset`: when there are more again, in seconds since 1970.
    pub reset: Option<u64>,
    /// `retry-after`, in seconds.
    pub retry_after: Option<u64>,
    /// Its body, of which nothing is missing.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// The request never left.
    #[error("{0}")]
    NotSent(String),
    /// The request may have been carried out.
    #[error("{0}")]
    Lost(String),
}

/// What carries requests to the API.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request, once.
    fn send(&self, request: Request) -> impl Future<Output = std::result::Result<Reply, NoReply>> + Send;
}

/// A token, and when it may be used.
pub(super) struct Access {
    source: TokenSource,
    role: &'static str,
    turns: Turns,
}

impl Access {
    pub(super) fn new(source: TokenSource, role: &'static str) -> Self {
        Self { source, role, turns: Turns::default() }
    }
}

pub(super) struct Client<T> {
    transport: T,
    pub(super) base: Base,
    wall: Wall,
}

/// How one sending ended, when not with an answer to give back.
enum Missed {
    /// It is over.
    For(CloudError),
    /// There were too many calls: it was not carried out.
    TooMany,
    /// It may be sent again.
    Again(CloudError),
}

impl<T: Transport> Client<T> {
    pub(super) fn new(transport: T, base: Base, wall: Wall) -> Self {
        Self { transport, base, wall }
    }

    /// Makes a call; its answer's body, or null where that is empty.
    pub(super) async fn call(&self, access: &Access, verb: Verb, url: Url, body: Option<&Value>) -> Result<Value> {
        let body = body.map(|body| Secret::new(body.to_string()));
        let (mut failures, mut refusals, mut patience) = (0, 0, RATE_WAIT_MAX);
        loop {
            self.turn(access, &mut patience).await?;
            let token = access.source.read()?;
            let request = Request { verb, url: url.clone(), token: token.clone(), body: body.clone() };
            match self.send(access, request).await {
                Ok(answer) => return Ok(answer),
                Err(Missed::For(error)) => return Err(scrub(error, &token)),
                Err(Missed::TooMany) => {
                    refusals += 1;
                    if refusals >= RATE_TRIES {
                        return Err(access.turns.limited((self.wall)()));
                    }
                }
                Err(Missed::Again(error)) => {
                    failures += 1;
                    if failures >= CALL_TRIES {
                        return Err(scrub(error, &token));
                    }
                    tracing::debug!(verb = verb.as_str(), path = url.path(), %error, "a call to the cloud is repeated");
                    tokio::time::sleep(paced(CALL_BACKOFF.wait(failures, getrandom::u64().unwrap_or(0)))).await;
                }
            }
        }
    }

    /// Waits until the token may be used, for `patience` at most.
    async fn turn(&self, access: &Access, patience: &mut Duration) -> Result<()> {
        // Who waits beside us may use up what there is.
        while let Some(wait) = access.turns.wait() {
            if wait > *patience {
                return Err(access.turns.limited((self.wall)()));
            }
            *patience = patience.saturating_sub(wait);
            tracing::info!(token = access.role, wait_s = wait.as_secs(), "too many calls to the cloud: the next one waits");
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    async fn send(&self, access: &Access, request: Request) -> std::result::Result<Value, Missed> {
        let (verb, url) = (request.verb, request.url.clone());
        let lost = |message: String| {
            let error = CloudError::Unreachable { message, maybe_done: verb.changes() };
            if verb.is_repeatable() { Missed::Again(error) } else { Missed::For(error) }
        };
        let host = url.host_str().unwrap_or_default();
        let reply = match tokio::time::timeout(paced(CALL_TIMEOUT), self.transport.send(request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(NoReply::NotSent(message))) => return Err(Missed::Again(CloudError::Unreachable { message, maybe_done: false })),
            Ok(Err(NoReply::Lost(message))) => return Err(lost(message)),
            Err(_) => return Err(lost(format!("{host} did not answer within {} s", CALL_TIMEOUT.as_secs()))),
        };
        tracing::debug!(verb = verb.as_str(), path = url.path(), status = reply.status, "a call to the cloud");
        access.turns.heard(&reply, (self.wall)());
        if reply.body.len() > ANSWER_MAX {
            return Err(Missed::For(CloudError::Garbled { message: format!("more than {ANSWER_MAX} bytes"), maybe_done: verb.changes() }));
        }
        match reply.status {
            429 => Err(Missed::TooMany),
            408 | 500..=599 => {
                Err(lost(format!("{host} answers {} to {} {}: {}", reply.status, verb.as_str(), url.path(), words(&reply.body).1)))
            }
            200..=299 if reply.body.iter().all(u8::is_ascii_whitespace) => Ok(Value::Null),
            200..=299 => serde_json::from_slice(&reply.body).map_err(|error| {
                let message = format!("the answer to {} {} is no JSON: {error}", verb.as_str(), url.path());
                Missed::For(CloudError::Garbled { message, maybe_done: verb.changes() })
            }),
            status => Err(Missed::For(refusal(status, access.role, verb, &url, &reply.body))),
        }
    }
}

fn refusal(status: u16, role: &'static str, verb: Verb, url: &Url, body: &[u8]) -> CloudError {
    let (id, said) = words(body);
    let message = format!("{} {}: {said}", verb.as_str(), url.path());
    match status {
        401 => CloudError::Unauthorized { role, message },
        403 => CloudError::Forbidden { role, message },
        404 => CloudError::NotFound { message },
        // The one thing that tells it from other refusals is its words.
        422 if said.to_ascii_lowercase().contains("pending event") => CloudError::Pending { message },
        400..=499 => CloudError::Refused { status, id, message },
        _ => CloudError::Garbled { message: format!("{message} (status {status})"), maybe_done: verb.changes() },
    }
}

/// The short word and the words of an error's body.
fn words(body: &[u8]) -> (String, String) {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    // Of tags it is said otherwise than of everything else.
    let said = text("message").or_else(|| body.pointer("/messages/0").and_then(Value::as_str));
    let id = text("id").or_else(|| text("error")).unwrap_or("unknown");
    (cut(id), cut(said.unwrap_or("it does not say why")))
}

/// Nothing that somebody may read says the token, not even when the other side repeats it.
fn scrub(error: CloudError, token: &Secret) -> CloudError {
    let clean = |text: String| text.replace(token.expose(), "…");
    match error {
        CloudError::Refused { status, id, message } => CloudError::Refused { status, id: clean(id), message: clean(message) },
        CloudError::NotFound { message } => CloudError::NotFound { message: clean(message) },
        CloudError::Pending { message } => CloudError::Pending { message: clean(message) },
        CloudError::Unauthorized { role, message } => CloudError::Unauthorized { role, message: clean(message) },
        CloudError::Forbidden { role, message } => CloudError::Forbidden { role, message: clean(message) },
        CloudError::Unreachable { message, maybe_done } => CloudError::Unreachable { message: clean(message), maybe_done },
        CloudError::Garbled { message, maybe_done } => CloudError::Garbled { message: clean(message), maybe_done },
        other @ (CloudError::RateLimited { .. } | CloudError::Unconfigured { .. }) => other,
    }
}
