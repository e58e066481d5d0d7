//! Pulling an image: by whose credentials, how far it is, and why it failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE as BASE64URL;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use moorline_common::pulling::Pulling;
use moorline_common::registry::{Credentials, ImageName};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::super::pulls::Board;
use super::super::{DriverError, DriverErrorKind};
use super::error::{from_engine, image_unavailable, words};
use crate::limits::{PULL_IDLE_TIMEOUT, PULL_LAYERS_MAX, PULL_TIMEOUT, PULLS_MAX};
use crate::registries::{CredentialsError, Registries};

/// Pulls take turns; those that wait hold no lane permit.
static PULLS: Semaphore = Semaphore::const_new(PULLS_MAX);

/// What pulls need besides the engine.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) registries: Registries,
    pub(super) board: Board,
}

/// What is pulled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) image: &'a str,
    /// The engine's own when `None`.
    pub(super) platform: Option<&'a str>,
    /// It is on the host already, for the words of an error.
    pub(super) is_here: bool,
}

impl Wanted<'_> {
    fn failed(&self, kind: DriverErrorKind, words: &str) -> DriverError {
        image_unavailable(self.image, self.is_here, kind, words)
    }
}

/// Pulls an image; call it [`crate::lane::aside`].
pub(super) async fn pull(docker: &Docker, access: &Access, wanted: Wanted<'_>) -> Result<(), DriverError> {
    let shown = access.board.add(wanted.image);
    // Never closed.
    let _turn = PULLS.acquire().await.ok();
    let mut far = Far::new(wanted.image);
    shown.show(far.now());
    let pulling = pull_now(docker, access, wanted, |message| {
        far.take(message);
        shown.show(far.now());
    });
    let late = || wanted.failed(DriverErrorKind::Retryable, "it takes too long");
    tokio::time::timeout(PULL_TIMEOUT, pulling).await.unwrap_or_else(|_| Err(late()))
}

async fn pull_now(
    docker: &Docker,
    access: &Access,
    wanted: Wanted<'_>,
    mut progress: impl FnMut(&CreateImageInfo),
) -> Result<(), DriverError> {
    let name = ImageName::of(wanted.image);
    // Read for each pull: a password may have changed.
    let (registries, host) = (access.registries.clone(), name.registry.clone());
    let read = tokio::task::spawn_blocking(move || registries.read(&host)).await;
    let credentials = match read {
        Ok(Ok(credentials)) => credentials,
        Ok(Err(error)) => return Err(unusable(wanted, &error)),
        Err(error) => return Err(wanted.failed(DriverErrorKind::Retryable, &error.to_string())),
    };
    let options = CreateImageOptions {
        from_image: Some(name.familiar.clone()),
        // Without one the engine would pull every tag.
        tag: Some(name.reference().to_owned()),
        platform: wanted.platform.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    tracing::info!(image = wanted.image, as_user = credentials.is_some(), "pulling");
    // The engine's answer begins with the registry's.
    let patient = with_credentials(docker.clone().with_timeout(PULL_IDLE_TIMEOUT), &name.registry, credentials.as_ref());
    let mut stream = std::pin::pin!(patient.create_image(Some(options), None, None));
    loop {
        match tokio::time::timeout(PULL_IDLE_TIMEOUT, stream.next()).await {
            Err(_) | Ok(Some(Err(Error::RequestTimeoutError))) => {
                return Err(wanted.failed(DriverErrorKind::Retryable, &format!("the registry `{}` does not answer", name.registry)));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Ok(message))) => progress(&message),
            Ok(Some(Err(e))) => return Err(refused(wanted, &name, credentials.as_ref(), &e)),
        }
    }
}

/// The engine takes them in a header, in base64 for URLs; the client library writes another base64, which the engine takes for
/// none at all when a password has certain characters.
fn with_credentials(docker: Docker, registry: &str, credentials: Option<&Credentials>) -> Docker {
    let Some(credentials) = credentials else { return docker };
    let text = Arc::new(Zeroizing::new(BASE64URL.encode(credentials.engine_json(registry).as_bytes())));
    docker.with_request_modifier(move |mut request| {
        // Base64 is always a header's value.
        if let Ok(mut value) = http::HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            request.headers_mut().insert("X-Registry-Auth", value);
        }
        request
    })
}

fn unusable(wanted: Wanted<'_>, error: &CredentialsError) -> DriverError {
    wanted.failed(DriverErrorKind::Permanent, &error.to_string())
}

/// Why the engine did not pull: what it means, what to do, and its own words.
fn refused(wanted: Wanted<'_>, name: &ImageName, credentials: Option<&Credentials>, error: &Error) -> DriverError {
    let mapped = from_engine(error, "pulling");
    if mapped.kind == DriverErrorKind::Unreachable {
        return mapped;
    }
    // The registry's words, without our own and the engine's wrapping.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the client library's enum")]
    let plain = match error {
        Error::DockerStreamError { error } => error.clone(),
        other if !words(other).is_empty() => words(other).to_owned(),
        _ => mapped.message,
    };
    let plain = credentials.map_or_else(|| plain.clone(), |c| c.scrub(&plain));
    match Cause::of(&plain) {
        Some(cause) => {
            tracing::debug!(image = wanted.image, words = plain, "the engine cannot pull");
            let short = plain.rsplit(": ").next().unwrap_or_default();
            wanted.failed(cause.kind(), &format!("{} ({short})", cause.words(name, credentials.is_some())))
        }
        None => wanted.failed(DriverErrorKind::Retryable, &plain),
    }
}

/// What an operator can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Unreachable,
    Untrusted,
    Denied,
    Unknown,
    Full,
    Corrupt,
    Busy,
}

impl Cause {
    /// By the engine's words: it gives the same status for most of them.
    fn of(words: &str) -> Option<Self> {
        let words = words.to_ascii_lowercase();
        let says = |any: &[&str]| any.iter().any(|w| words.contains(w));
        // Docker Hub says the same of what is private and of what is not there, in words of both.
        let cause = if says(&["no space left on device", "disk quota exceeded"]) {
            Self::Full
        } else if says(&["verification failed", "digest mismatch", "does not match digest", "unexpected commit digest", "invalid checksum"])
        {
            Self::Corrupt
        } else if says(&["toomanyrequests", "too many requests", "rate limit"]) {
            Self::Busy
        } else if says(&["unauthorized", "no basic auth credentials", "access denied", "authentication required", "denied:", "forbidden"]) {
            Self::Denied
        } else if says(&["manifest unknown", "name unknown", "not found", "no matching manifest", "does not exist"]) {
            Self::Unknown
        } else if says(&["x509:", "certificate", "http response to https client"]) {
            Self::Untrusted
        } else if says(&["connection refused", "no such host", "timeout", "no route to host", "network is unreachable", "dial tcp", "eof"])
        {
            Self::Unreachable
        } else {
            return None;
        };
        Some(cause)
    }

    /// Short, and what to do before the engine's own words: errors are cut for the heartbeat.
    fn words(self, name: &ImageName, by_login: bool) -> String {
        let registry = &name.registry;
        match self {
            Self::Unreachable => format!("this host does not reach the registry `{registry}`; it is tried again"),
            Self::Untrusted => format!("the engine does not trust the registry `{registry}`; see Docker's `certs.d`"),
            Self::Denied if by_login => format!("the registry `{registry}` refuses the agent's credentials; correct them"),
            Self::Denied => format!("its registry wants credentials; give the agent some: `[registry.\"{registry}\"]` in agent.toml"),
            Self::Unknown => {
                let what = if name.digest.is_some() { "digest" } else { "tag" };
                format!("the registry `{registry}` has no such name, {what} or platform; check them")
            }
            Self::Full => "this host's disk is full; free some of it for Docker, or try `moorctl op prune`".to_owned(),
            Self::Corrupt => format!("the registry `{registry}` sent other bytes than the digest names; do not trust it"),
            Self::Busy => format!("the registry `{registry}` limits how often it is asked; it is tried again"),
        }
    }

    const fn kind(self) -> DriverErrorKind {
        match self {
            Self::Unknown => DriverErrorKind::Permanent,
            Self::Unreachable | Self::Untrusted | Self::Denied | Self::Full | Self::Corrupt | Self::Busy => DriverErrorKind::Retryable,
        }
    }
}

/// How far one pull is, by what the engine says of each layer.
struct Far {
    image: String,
    layers: BTreeMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    is_done: bool,
    bytes_done: u64,
    bytes: u64,
}

impl Far {
    fn new(image: &str) -> Self {
        Self { image: image.to_owned(), layers: BTreeMap::new() }
    }

    fn take(&mut self, message: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&message.id, &message.status) else { return };
        // The message before the layers has the tag for an id.
        if status.starts_with("Pulling from") || (self.layers.len() >= PULL_LAYERS_MAX && !self.layers.contains_key(id)) {
            return;
        }
        let layer = self.layers.entry(id.clone()).or_default();
        let bytes = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok());
        let detail = message.progress_detail.as_ref();
        match status.as_str() {
            "Downloading" => {
                layer.bytes_done = detail.and_then(|d| bytes(d.current)).unwrap_or(layer.bytes_done);
                layer.bytes = detail.and_then(|d| bytes(d.total)).unwrap_or(layer.bytes);
            }
            "Download complete" | "Extracting" => layer.bytes_done = layer.bytes,
            "Pull complete" | "Already exists" => {
                layer.is_done = true;
                layer.bytes_done = layer.bytes;
            }
            _ => {}
        }
    }

    fn now(&self) -> Pulling {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let sum = |part: fn(&Layer) -> u64| self.layers.values().map(part).fold(0, u64::saturating_add);
        Pulling {
            image: self.image.clone(),
            layers_done: count(self.layers.values().filter(|l| l.is_done).count()),
            layers: count(self.layers.len()),
            bytes_done: sum(|l| l.bytes_done),
            bytes: sum(|l| l.bytes),
            waiting: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn how_far_a_pull_is_follows_from_what_the_engine_says_of_its_layers() {
        let say = |far: &mut Far, id: &str, status: &str, bytes: Option<(i64, i64)>| {
            let detail = bytes.map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) });
            far.take(&CreateImageInfo { id: Some(id.into()), status: Some(status.into()), progress_detail: detail, ..Default::default() });
        };
        let mut far = Far::new("a:1");
        say(&mut far, "1", "Pulling from a", None);
        for layer in ["x", "y", "z"] {
            say(&mut far, layer, "Pulling fs layer", None);
        }
        say(&mut far, "x", "Already exists", None);
        say(&mut far, "y", "Downloading", Some((50, 100)));
        say(&mut far, "z", "Downloading", Some((-1, 10)));
        let now = far.now();
        assert_eq!((now.layers_done, now.layers, now.bytes_done, now.bytes), (1, 3, 50, 110));
        say(&mut far, "y", "Extracting", Some((1, 100)));
        say(&mut far, "y", "Pull complete", None);
        let now = far.now();
        assert_eq!((now.layers_done, now.bytes_done), (2, 100));
        for more in 0..2 * PULL_LAYERS_MAX {
            say(&mut far, &more.to_string(), "Waiting", None);
        }
        assert_eq!(far.layers.len(), PULL_LAYERS_MAX);
    }

    #[test]
    fn the_engines_words_tell_what_is_wrong() {
        // As Docker 20.10 and 28 say them.
        let words = [
            ("Get \"http://127.0.0.1:5/v2/\": dial tcp 127.0.0.1:5: connect: connection refused", Cause::Unreachable),
            ("Get \"https://r.example/v2/\": dial tcp: lookup r.example on 1.1.1.1:53: no such host", Cause::Unreachable),
            ("Get \"https://r.example/v2/\": x509: certificate signed by unknown authority", Cause::Untrusted),
            ("Get \"https://r:5/v2/\": http: server gave HTTP response to HTTPS client", Cause::Untrusted),
            ("Head \"http://r/v2/a/manifests/1\": no basic auth credentials", Cause::Denied),
            ("Head \"http://r/v2/a/manifests/1\": unauthorized: authentication required", Cause::Denied),
            ("pull access denied for a, repository does not exist or may require 'docker login': denied: requested", Cause::Denied),
            ("manifest for r/a:9 not found: manifest unknown: manifest unknown", Cause::Unknown),
            ("no matching manifest for linux/arm64 in the manifest list entries", Cause::Unknown),
            ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", Cause::Full),
            ("failed to register layer: Error processing tar file(exit status 1): write /x: no space left on device", Cause::Full),
            ("filesystem layer verification failed for digest sha256:00", Cause::Corrupt),
            ("toomanyrequests: You have reached your pull rate limit.", Cause::Busy),
        ];
        for (said, cause) in words {
            assert_eq!(Cause::of(said), Some(cause), "{said}");
        }
        assert_eq!(Cause::of("something else"), None);
    }
}
