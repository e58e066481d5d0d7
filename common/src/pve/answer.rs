//! What an answer of Proxmox VE's API means. Nearly everything that goes wrong there is a 500: only its words tell what it is.
//!
//! Source: `PVE::APIServer::Formatter::Standard`, `PVE::Exception`, and the messages in `PVE::AbstractConfig`, `PVE::QemuServer`,
//! `PVE::LXC` and `PVE::Tools::lock_file`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fault::cut;

/// What a refusal or failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// There is no such guest, snapshot, volume or task.
    NotFound,
    /// There is one of this name or number already.
    Exists,
    /// The guest's config is locked: something works on it, or was cut short.
    Locked,
    /// Somebody else holds the guest's file for a moment: the same may do a little later.
    Busy,
    /// The config was changed since it was read.
    Conflict,
    /// It runs already.
    AlreadyRunning,
    /// It does not run.
    NotRunning,
    /// It is protected, or a template, or used by others.
    Protected,
    /// The token may not do that.
    Forbidden,
    /// The token is none.
    Unauthorized,
    /// What was asked is malformed, or there is no such call.
    Invalid,
    /// Nobody knows whether it happened: an inner connection broke, or took too long.
    UnknownOutcome,
    /// Anything else.
    Failed,
}

/// A refusal or failure, in the host's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What it is.
    pub kind: ErrorKind,
    /// The host's words, on one line.
    pub message: String,
    /// What is wrong with single parameters.
    pub errors: BTreeMap<String, String>,
}

impl ApiError {
    /// What `message` says of a call that ended with `status`.
    #[must_use]
    pub fn new(status: u16, message: &str, errors: BTreeMap<String, String>) -> Self {
        Self { kind: kind(status, message), message: cut(message), errors }
    }

    /// What the end of a task that failed says. A task has no status of its own; what it waited for in vain is no doubt about itself.
    #[must_use]
    pub fn of_task(exitstatus: &str) -> Self {
        let error = Self::new(500, exitstatus, BTreeMap::new());
        if error.kind == ErrorKind::UnknownOutcome { Self { kind: ErrorKind::Failed, ..error } } else { error }
    }

    /// Nobody knows how it ended, for this reason.
    #[must_use]
    pub fn unknown(why: &str) -> Self {
        Self { kind: ErrorKind::UnknownOutcome, message: cut(why), errors: BTreeMap::new() }
    }
}

/// What an answer holds: its `data`, or why there is none. `reason` is the phrase behind the status in its first line, which is where
/// hosts of before 2025 have the only words that there are.
///
/// # Errors
/// [`ApiError`] for every status but those of success; [`ErrorKind::UnknownOutcome`] for a success that cannot be read.
pub fn read(status: u16, reason: &str, body: &[u8]) -> Result<Value, ApiError> {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    if (200..300).contains(&status) {
        let data = json.as_ref().and_then(|answer| answer.get("data")).cloned();
        return data.ok_or_else(|| ApiError::unknown(&format!("the host answered {status} with something else than its API does")));
    }
    let text = |key: &str| json.as_ref().and_then(|answer| answer.get(key)).and_then(Value::as_str).map(str::trim);
    let message = text("message").filter(|text| !text.is_empty()).unwrap_or(reason.trim());
    let message = if message.is_empty() { format!("status {status} without words") } else { message.to_owned() };
    let errors = json.as_ref().and_then(|answer| answer.get("errors")).and_then(Value::as_object);
    let said = |value: &Value| cut(value.as_str().map_or_else(|| value.to_string(), str::to_owned).trim());
    let errors = errors.into_iter().flatten().take(ERRORS_MAX).map(|(key, value)| (cut(key), said(value))).collect();
    Err(ApiError::new(status, &message, errors))
}

/// Parameters of one answer whose faults are kept.
const ERRORS_MAX: usize = 64;

fn kind(status: u16, message: &str) -> ErrorKind {
    let text = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match status {
        401 => return ErrorKind::Unauthorized,
        403 => return ErrorKind::Forbidden,
        404 => return ErrorKind::NotFound,
        400 | 405 | 413 | 501 => {
            // A vmid or name that is taken is said as a wrong parameter by some calls.
            return if says(&["already exists"]) { ErrorKind::Exists } else { ErrorKind::Invalid };
        }
        // Of the proxy between nodes, and between it and the daemon: the call may have gone on.
        502..=504 | 595..=599 => return ErrorKind::UnknownOutcome,
        _ => {}
    }
    // From the most telling words to the least: a lock that was not got in time also says that it timed out.
    let table: [(ErrorKind, &[&str]); 9] = [
        (ErrorKind::Conflict, &["checksum mismatch (file change", "detected modified configuration"]),
        (ErrorKind::Busy, &["can't lock file", "cfs-locked", "trying to acquire lock", "got lock request timeout"]),
        (ErrorKind::Locked, &["is locked (", "ct is locked", "vm is locked"]),
        (ErrorKind::Protected, &["protection mode enabled", "you can't remove", "is a template", "base volume", "used by linked clone"]),
        (ErrorKind::AlreadyRunning, &["already running", "is running"]),
        (ErrorKind::NotRunning, &["not running", "is stopped"]),
        (ErrorKind::Exists, &["already exists", "already used", "already in use"]),
        (ErrorKind::NotFound, &["does not exist", "no such", "not found", "unable to find"]),
        (ErrorKind::UnknownOutcome, &["got timeout", "timed out"]),
    ];
    table.iter().find(|(_, words)| says(words)).map_or(ErrorKind::Failed, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_data() {
        assert_eq!(read(200, "OK", br#"{"data":{"vmid":101}}"#), Ok(serde_json::json!({ "vmid": 101 })));
        assert_eq!(read(200, "OK", br#"{"data":null}"#), Ok(Value::Null));
        for broken in [b"".as_slice(), b"<html>", b"{}"] {
            assert_eq!(read(200, "OK", broken).unwrap_err().kind, ErrorKind::UnknownOutcome);
        }
    }

    #[test]
    fn words_come_from_the_body_or_from_the_first_line() {
        let newer = read(500, "ignored", br#"{"data":null,"message":"VM is locked (backup)\n"}"#).unwrap_err();
        assert_eq!((newer.kind, newer.message.as_str()), (ErrorKind::Locked, "VM is locked (backup)"));
        let older = read(500, "Configuration file 'nodes/n/qemu-server/999.conf' does not exist", br#"{"data":null}"#).unwrap_err();
        assert_eq!(older.kind, ErrorKind::NotFound);
        let plain = read(401, "Authentication failed!", b"").unwrap_err();
        assert_eq!((plain.kind, plain.message.as_str()), (ErrorKind::Unauthorized, "Authentication failed!"));
        let wrong = br#"{"data":null,"message":"Parameter verification failed.\n","errors":{"cores":"value must be at least 1\n"}}"#;
        let wrong = read(400, "Parameter verification failed.", wrong).unwrap_err();
        assert_eq!((wrong.kind, wrong.errors["cores"].as_str()), (ErrorKind::Invalid, "value must be at least 1"));
        assert!(read(500, "", b"").unwrap_err().message.contains("500"));
    }

    #[test]
    fn what_a_500_means_is_told_by_its_words() {
        for (message, kind) in [
            ("Configuration file 'nodes/n/qemu-server/999.conf' does not exist", ErrorKind::NotFound),
            ("snapshot 'before' does not exist", ErrorKind::NotFound),
            ("no such VM ('101')", ErrorKind::NotFound),
            ("unable to create VM 101: VM 101 already exists on node 'n'", ErrorKind::Exists),
            ("snapshot name 'before' already used", ErrorKind::Exists),
            ("VM is locked (snapshot-delete)", ErrorKind::Locked),
            ("CT is locked (backup)", ErrorKind::Locked),
            ("can't lock file '/var/lock/qemu-server/lock-104.conf' - got timeout", ErrorKind::Busy),
            ("checksum mismatch (file change by other user?)", ErrorKind::Conflict),
            ("detected modified configuration - file changed by other user? Try again.", ErrorKind::Conflict),
            ("VM 101 already running", ErrorKind::AlreadyRunning),
            ("VM 101 is running - destroy failed", ErrorKind::AlreadyRunning),
            ("VM 101 not running", ErrorKind::NotRunning),
            ("CT 205 not running", ErrorKind::NotRunning),
            ("can't remove VM 101 - protection mode enabled", ErrorKind::Protected),
            ("you can't start a vm if it's a template", ErrorKind::Failed),
            ("lvcreate 'pve/vm-101-disk-0' error: insufficient free space", ErrorKind::Failed),
            ("VM quit/powerdown failed - got timeout", ErrorKind::UnknownOutcome),
        ] {
            assert_eq!(ApiError::new(500, message, BTreeMap::new()).kind, kind, "{message}");
            let of_task = if kind == ErrorKind::UnknownOutcome { ErrorKind::Failed } else { kind };
            assert_eq!(ApiError::of_task(message).kind, of_task, "a task that says how it ended has ended so: {message}");
        }
        for status in [502, 504, 595, 596, 597, 599] {
            assert_eq!(ApiError::new(status, "whatever", BTreeMap::new()).kind, ErrorKind::UnknownOutcome);
        }
        let denied = ApiError::new(403, "Permission check failed (/vms/100, VM.Config.Memory)", BTreeMap::new());
        assert_eq!(denied.kind, ErrorKind::Forbidden);
    }
}
