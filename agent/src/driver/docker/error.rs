//! What the engine's errors mean to the caller.

use std::io::ErrorKind;

use bollard::errors::Error;
use moorline_common::fault::{Code, cut};

use super::super::{DriverError, DriverErrorKind};

/// Digits of an image's digest that errors show.
const DIGEST_SHOWN: usize = 12;
/// What every failure to start a process begins with, and says nothing.
const RUNTIME_PREFIX: &str =
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";

/// An error of the engine while doing `what`.
#[allow(clippy::wildcard_enum_match_arm, reason = "the client library's enum: all else is a fault of the request")]
pub(super) fn from_engine(error: &Error, what: &str) -> DriverError {
    let (kind, code, words) = match error {
        Error::DockerResponseServerError { status_code, message } => {
            (kind_of_status(*status_code), Code::StepFailed, message.replace(RUNTIME_PREFIX, ""))
        }
        Error::DockerStreamError { error } => (DriverErrorKind::Retryable, Code::StepFailed, error.clone()),
        // It took the request: that it is away shows in the next look, which has a shorter limit.
        Error::RequestTimeoutError => (DriverErrorKind::Retryable, Code::StepFailed, "the engine did not answer in time".to_owned()),
        Error::SocketNotFoundError(path) => {
            (DriverErrorKind::Unreachable, Code::EngineUnreachable, format!("the engine's socket {path} does not exist"))
        }
        other if io_kind(other) == Some(ErrorKind::PermissionDenied) => {
            let words = "the engine's socket may not be opened; run the agent as root or in the group `docker`";
            (DriverErrorKind::Unauthorized, Code::EngineUnreachable, words.to_owned())
        }
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
            (DriverErrorKind::Unreachable, Code::EngineUnreachable, format!("the engine cannot be reached ({})", root_cause(error)))
        }
        other => (DriverErrorKind::Permanent, Code::StepFailed, other.to_string()),
    };
    DriverError { kind, code, message: cut(&format!("{what}: {words}")) }
}

fn kind_of_status(status: u16) -> DriverErrorKind {
    match status {
        401 => DriverErrorKind::Unauthorized,
        404 => DriverErrorKind::NotFound,
        409 => DriverErrorKind::Conflict,
        400..=499 => DriverErrorKind::Permanent,
        _ => DriverErrorKind::Retryable,
    }
}

fn io_kind(error: &Error) -> Option<ErrorKind> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = source {
        if let Some(io) = at.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = at.source();
    }
    None
}

fn root_cause(error: &Error) -> String {
    let mut at: &(dyn std::error::Error + 'static) = error;
    if let Error::HyperLegacyError { err } = error {
        at = err;
    }
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// The HTTP status of an answer that was an error.
pub(super) fn status(error: &Error) -> Option<u16> {
    if let Error::DockerResponseServerError { status_code, .. } = error { Some(*status_code) } else { None }
}

/// The engine's words, if it answered.
pub(super) fn words(error: &Error) -> &str {
    if let Error::DockerResponseServerError { message, .. } = error { message } else { "" }
}

/// Something of that name is there that is not ours.
pub(super) fn not_owned(what: &str) -> DriverError {
    DriverError { kind: DriverErrorKind::Conflict, code: Code::NotOwned, message: cut(&format!("{what} exists and is not ours")) }
}

/// The image cannot be had; `is_here`: a version of it is on the host.
pub(super) fn image_unavailable(image: &str, is_here: bool, kind: DriverErrorKind, words: &str) -> DriverError {
    // Seen at once whether something older goes on being used; the rest of the room is for the cause.
    let again = if is_here { " again" } else { "" };
    let image = shortened(image);
    let message = cut(&format!("the image `{image}` cannot be pulled{again}: {words}"));
    DriverError { kind, code: Code::ImageUnavailable, message }
}

/// An image's name with only the beginning of its digest: errors have little room, and the whole stands in the slice.
fn shortened(image: &str) -> String {
    match image.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@sha256:{}…", digest.chars().take(DIGEST_SHOWN).collect::<String>()),
        None => image.to_owned(),
    }
}

/// An error of the engine while doing an operation's part `what`. What is no answer of the engine tells nothing about what it did.
pub(super) fn from_engine_op(error: &Error, what: &str) -> DriverError {
    let mapped = from_engine(error, what);
    match (status(error), mapped.kind) {
        (Some(_), _) => DriverError { code: Code::OpFailed, ..mapped },
        // The socket could not be opened.
        (None, DriverErrorKind::Unauthorized) => mapped,
        (None, _) => DriverError { kind: DriverErrorKind::Unreachable, code: Code::EngineUnreachable, ..mapped },
    }
}
