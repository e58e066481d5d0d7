//! A thin client of Proxmox VE's API: paths and parameters in, data or a typed error out. It never repeats a call by itself.
//!
//! Source: the API viewer, and `PVE::APIServer::AnyEvent` for what is split and decoded where.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use moorline_common::fault::{Code, cut};
use moorline_common::pve::answer::{self, ApiError, ErrorKind};
use moorline_common::pve::{GuestKind, Vmid};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::super::{DriverError, DriverErrorKind};
use crate::limits::PVE_CALL_TIMEOUT;

/// Everything but what RFC 3986 calls unreserved. A host parts pairs at `;` as at `&`, and takes `+` for a space.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Before every path of the API.
const PREFIX: &str = "/api2/json";

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads.
    Get,
    /// Makes or begins something.
    Post,
    /// Changes something.
    Put,
    /// Removes something.
    Delete,
}

impl Verb {
    /// The word in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Delete => "DELETE",
        }
    }
}

/// A request, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// How.
    pub verb: Verb,
    /// Path and query.
    pub target: String,
    /// Its form, for what has one.
    pub form: Option<String>,
    /// Until when an answer must have come.
    pub limit: Duration,
}

/// An answer, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// The phrase behind the status.
    pub reason: String,
    /// Its body.
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

/// What carries requests to a host.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request, once.
    fn send(&self, call: Call) -> impl Future<Output = Result<Reply, NoReply>> + Send;
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The host said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// There was no answer.
    #[error(transparent)]
    NoReply(#[from] NoReply),
}

impl CallError {
    /// What the host said it is; nothing when it said nothing.
    #[must_use]
    pub const fn kind(&self) -> Option<ErrorKind> {
        match self {
            CallError::Api(error) => Some(error.kind),
            CallError::NoReply(_) => None,
        }
    }

    /// Whether what was asked for may have happened.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        match self {
            CallError::Api(error) => matches!(error.kind, ErrorKind::UnknownOutcome),
            CallError::NoReply(NoReply::Lost(_)) => true,
            CallError::NoReply(NoReply::NotSent(_)) => false,
        }
    }

    /// The same for who knows nothing of this API, while doing `what`. `code`: what a refusal is called.
    #[must_use]
    pub fn into_driver(self, code: Code, what: &str) -> DriverError {
        let (kind, code, words) = match self {
            CallError::NoReply(error) => (DriverErrorKind::Unreachable, Code::EngineUnreachable, error.to_string()),
            CallError::Api(error) => {
                let words = words(&error);
                match error.kind {
                    ErrorKind::NotFound => (DriverErrorKind::NotFound, code, words),
                    ErrorKind::Exists | ErrorKind::Conflict | ErrorKind::AlreadyRunning | ErrorKind::NotRunning => {
                        (DriverErrorKind::Conflict, code, words)
                    }
                    ErrorKind::Locked | ErrorKind::Busy | ErrorKind::Failed => (DriverErrorKind::Retryable, code, words),
                    ErrorKind::Protected | ErrorKind::Invalid => (DriverErrorKind::Permanent, code, words),
                    ErrorKind::Forbidden | ErrorKind::Unauthorized => (DriverErrorKind::Unauthorized, Code::PermissionDenied, words),
                    ErrorKind::UnknownOutcome => (DriverErrorKind::Unreachable, Code::EngineUnreachable, words),
                }
            }
        };
        DriverError { kind, code, message: cut(&format!("{what}: {words}")) }
    }
}

/// What the host said, with what is wrong with single parameters.
fn words(error: &ApiError) -> String {
    let parameters: Vec<String> = error.errors.iter().map(|(key, wrong)| format!("{key}: {wrong}")).collect();
    if parameters.is_empty() { error.message.clone() } else { format!("{} {}", error.message, parameters.join("; ")) }
}

/// A guest on its node, as paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestAt {
    /// Its kind.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: Vmid,
}

/// Parameters of a call.
pub type Params = BTreeMap<String, String>;

/// The parameters of these pairs.
#[must_use]
pub fn params<const N: usize>(pairs: [(&str, &str); N]) -> Params {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Talks to one node.
pub struct Client<T> {
    transport: T,
    node: String,
    user: String,
}

impl<T: Transport> Client<T> {
    /// A client of `node` that is `user`, such as `moorline@pve!agent`, there.
    pub const fn new(transport: T, node: String, user: String) -> Self {
        Self { transport, node, user }
    }

    /// Whether `user` is who the host takes this client for.
    pub fn is_me(&self, user: &str) -> bool {
        user == self.user
    }

    /// The node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Makes a call by a path of these parts.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, verb: Verb, path: &[&str], params: &Params) -> Result<Value, CallError> {
        let encoded = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        let path: String = path.iter().map(|part| format!("/{}", encoded(part))).collect();
        let pairs = params.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect::<Vec<_>>().join("&");
        let (query, form) = match verb {
            // What is removed is said in the query: bodies of DELETE are not read.
            Verb::Get | Verb::Delete if pairs.is_empty() => (String::new(), None),
            Verb::Get | Verb::Delete => (format!("?{pairs}"), None),
            Verb::Post | Verb::Put => (String::new(), Some(pairs)),
        };
        let call = Call { verb, target: format!("{PREFIX}{path}{query}"), form, limit: PVE_CALL_TIMEOUT };
        let Reply { status, reason, body } = self.transport.send(call).await?;
        Ok(answer::read(status, &reason, &body)?)
    }

    /// Makes a call about the node.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn of_node(&self, verb: Verb, path: &[&str], params: &Params) -> Result<Value, CallError> {
        let path: Vec<&str> = ["nodes", self.node.as_str()].into_iter().chain(path.iter().copied()).collect();
        self.call(verb, &path, params).await
    }

    /// Makes a call about a guest of the node.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn of_guest(&self, verb: Verb, guest: GuestAt, path: &[&str], params: &Params) -> Result<Value, CallError> {
        let vmid = guest.vmid.to_string();
        let path: Vec<&str> = [guest.kind.as_str(), vmid.as_str()].into_iter().chain(path.iter().copied()).collect();
        self.of_node(verb, &path, params).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Recorded(Mutex<Vec<Call>>);

    impl Transport for Recorded {
        async fn send(&self, call: Call) -> Result<Reply, NoReply> {
            self.0.lock().unwrap().push(call);
            Ok(Reply { status: 200, reason: String::new(), body: br#"{"data":null}"#.to_vec() })
        }
    }

    #[tokio::test]
    async fn what_a_host_would_part_or_decode_otherwise_is_encoded() {
        let client = Client::new(Recorded(Mutex::default()), "pve-1".to_owned(), "a@pve!b".to_owned());
        let guest = GuestAt { kind: GuestKind::Qemu, vmid: Vmid::parse("101").unwrap() };
        let tags = params([("tags", "a;b"), ("description", "1 + 1 & ä/%")]);
        client.of_guest(Verb::Put, guest, &["config"], &tags).await.unwrap();
        client.of_guest(Verb::Delete, guest, &["snapshot", "a/b"], &params([("force", "1")])).await.unwrap();
        let upid = "UPID:pve-1:0003A1B2:01F2C3D4:6741A0B1:qmstart:101:root@pam!x:";
        client.of_node(Verb::Get, &["tasks", upid, "status"], &Params::new()).await.unwrap();
        let sent = client.transport.0.lock().unwrap();
        assert_eq!(sent[0].target, "/api2/json/nodes/pve-1/qemu/101/config");
        assert_eq!(sent[0].form.as_deref(), Some("description=1%20%2B%201%20%26%20%C3%A4%2F%25&tags=a%3Bb"));
        assert_eq!((sent[1].target.as_str(), &sent[1].form), ("/api2/json/nodes/pve-1/qemu/101/snapshot/a%2Fb?force=1", &None));
        assert!(sent[2].target.contains("/tasks/UPID%3Apve-1%3A0003A1B2%3A01F2C3D4%3A6741A0B1%3Aqmstart%3A101%3Aroot%40pam%21x%3A/status"));
    }

    #[test]
    fn only_what_may_have_happened_is_unknown() {
        let api = |status, words: &str| CallError::Api(ApiError::new(status, words, BTreeMap::new()));
        for (error, unknown, kind) in [
            (api(596, "timeout"), true, DriverErrorKind::Unreachable),
            (CallError::NoReply(NoReply::Lost("cut".to_owned())), true, DriverErrorKind::Unreachable),
            (CallError::NoReply(NoReply::NotSent("refused".to_owned())), false, DriverErrorKind::Unreachable),
            (api(500, "VM is locked (backup)"), false, DriverErrorKind::Retryable),
            (api(500, "checksum mismatch (file change by other user?)"), false, DriverErrorKind::Conflict),
            (api(403, "Permission check failed"), false, DriverErrorKind::Unauthorized),
            (api(400, "Parameter verification failed."), false, DriverErrorKind::Permanent),
        ] {
            assert_eq!((error.is_unknown(), error.into_driver(Code::StepFailed, "x").kind), (unknown, kind));
        }
    }
}
