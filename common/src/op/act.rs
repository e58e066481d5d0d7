//! What an operation does: its kind and parameters, read strictly.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Class, GuestOp, HoldEffect, State};
use crate::fault::{Code, Fault};
use crate::id::{Generation, OpId, ResourceId, TopologyId};
use crate::pve::{self, Vmid};

/// The longest grace period that `stop` and `restart` take, in seconds.
pub const GRACE_MAX_S: u32 = 3600;
/// The most words of a command.
const ARGV_MAX: usize = 256;
/// The most bytes of a command's words, environment and input together.
const EXEC_BYTES_MAX: usize = 32 * 1024;
/// The most characters of a key of age's.
const RECIPIENT_MAX: usize = 128;
/// The most guests that `survey` names.
const SURVEY_GUESTS_MAX: usize = 256;
/// The most fields that `converge` names.
const CONVERGE_FIELDS_MAX: usize = 64;
/// The most bytes of their names.
const CONVERGE_BYTES_MAX: usize = 8 * 1024;
/// The longest that a command may run, in seconds.
const EXEC_TIMEOUT_MAX_S: u32 = 24 * 3600;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Starts a container.
    Start,
    /// Stops a container.
    Stop {
        /// Seconds before it is killed; the container's own when `None`.
        timeout_s: Option<u32>,
    },
    /// Stops and starts a container.
    Restart {
        /// As for `Stop`.
        timeout_s: Option<u32>,
    },
    /// Sends a signal to a container's first process.
    Kill {
        /// Its name, such as `SIGKILL`.
        signal: String,
    },
    /// Freezes a container.
    Pause,
    /// Lets a frozen container go on.
    Unpause,
    /// Runs a command in a container.
    Exec(Exec),
    /// Pulls an image.
    Pull,
    /// Removes a container or a volume for good.
    Destroy {
        /// Of a container: its anonymous volumes too.
        volumes: bool,
    },
    /// Removes what is ours and no longer wanted.
    Prune {
        /// Volumes too: their data is lost.
        volumes: bool,
    },
    /// Makes one resource as the slice says, and lifts its hold.
    Converge(Converge),
    /// Lifts the hold on a resource.
    Release,
    /// Sets the host's memory of time to its wall clock, which must lie in the order's window.
    TimeReset,
    /// Lets the newest slice stay: its fallback can never come back any more.
    Confirm(Confirm),
    /// Tells what is on the host besides Moorline's, to the one who asked alone.
    Survey(Survey),
    /// Does something with a guest of Proxmox VE.
    Guest(GuestOp),
    /// Takes an operation back that has not begun.
    Cancel {
        /// Which.
        op_id: OpId,
    },
    /// Says how an indeterminate operation ended.
    Resolve {
        /// Which.
        op_id: OpId,
        /// [`State::Succeeded`] or [`State::Failed`].
        outcome: State,
    },
}

/// A command in a container, without a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What it reads from its standard input, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Variables besides the container's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who runs it; the container's own user when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where it runs; the container's own folder when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// With every capability.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Whether who ordered it takes its output as it comes, and so may hold it up. Nobody else can: a hub that reads no more of what
    /// was not ordered so does not stop it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// So long it may run, in seconds; past it an operator must look.
    #[serde(default = "exec_timeout_default")]
    pub timeout_s: u32,
}

/// What of a resource is made as the slice says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Converge {
    /// These fields of it; all of them, if empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fields: BTreeSet<String>,
    /// Whether no other object may take its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
}

/// Which slice stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// Its topology.
    pub topology: TopologyId,
    /// Its generation: no other one is meant.
    pub generation: Generation,
}

/// For whom the host is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// The key that the answer is sealed to: an X25519 recipient of age, `age1…`.
    pub recipient: String,
    /// The container behind which it goes on, by name, or the guest, by number: an answer holds only so much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Guests of Proxmox VE instead of containers: these, or all when none is named. See [`crate::survey::Survey::guests`] for what the
    /// answer holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guests: Option<BTreeSet<Vmid>>,
}

const fn exec_timeout_default() -> u32 {
    600
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grace {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signal {
    signal: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Volumes {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    volumes: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    op_id: OpId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolution {
    op_id: OpId,
    outcome: State,
}

impl Act {
    /// Every kind's word.
    pub const KINDS: [&'static str; 34] = [
        "start",
        "stop",
        "restart",
        "kill",
        "pause",
        "unpause",
        "exec",
        "pull",
        "destroy",
        "prune",
        "converge",
        "release",
        "time-reset",
        "confirm",
        "survey",
        "shutdown",
        "reboot",
        "suspend",
        "resume",
        "reset",
        "set-config",
        "resize",
        "snapshot-create",
        "snapshot-delete",
        "snapshot-rollback",
        "snapshot-list",
        "clone",
        "create",
        "backup",
        "restore",
        "migrate",
        "check",
        "cancel",
        "resolve",
    ];

    /// Reads kind and parameters, and whether they fit `resource`.
    ///
    /// # Errors
    /// [`Code::UnknownKind`] or [`Code::BadParams`].
    pub fn read(kind: &str, params: &Value, resource: &ResourceId) -> Result<Self, Fault> {
        if resource.kind() == pve::RESOURCE && !matches!(kind, "converge" | "release" | "cancel" | "resolve") {
            return GuestOp::read(kind, params, resource).map(Act::Guest);
        }
        let act = match kind {
            "start" => params_of::<Nothing>(kind, params).map(|_| Act::Start)?,
            "stop" => Act::Stop { timeout_s: grace(kind, params)? },
            "restart" => Act::Restart { timeout_s: grace(kind, params)? },
            "kill" => Act::Kill { signal: signal(params_of::<Signal>(kind, params)?.signal)? },
            "pause" => params_of::<Nothing>(kind, params).map(|_| Act::Pause)?,
            "unpause" => params_of::<Nothing>(kind, params).map(|_| Act::Unpause)?,
            "exec" => Act::Exec(exec(params_of(kind, params)?)?),
            "pull" => params_of::<Nothing>(kind, params).map(|_| Act::Pull)?,
            "destroy" => Act::Destroy { volumes: params_of::<Volumes>(kind, params)?.volumes },
            "prune" => Act::Prune { volumes: params_of::<Volumes>(kind, params)?.volumes },
            "converge" => Act::Converge(converge(params_of(kind, params)?)?),
            "release" => params_of::<Nothing>(kind, params).map(|_| Act::Release)?,
            "time-reset" => params_of::<Nothing>(kind, params).map(|_| Act::TimeReset)?,
            "confirm" => Act::Confirm(params_of(kind, params)?),
            "survey" => Act::Survey(survey(params_of(kind, params)?)?),
            "cancel" => Act::Cancel { op_id: params_of::<Target>(kind, params)?.op_id },
            "resolve" => {
                let Resolution { op_id, outcome } = params_of(kind, params)?;
                if !matches!(outcome, State::Succeeded | State::Failed) {
                    return Err(Fault::new(Code::BadParams, "an operation is resolved as `succeeded` or `failed`"));
                }
                Act::Resolve { op_id, outcome }
            }
            other => {
                return Err(Fault::new(Code::UnknownKind, format!("there is no operation `{}`", crate::fault::cut(other))));
            }
        };
        if !act.fits(resource) {
            return Err(Fault::new(Code::UnknownKind, format!("`{kind}` is no operation for {resource}")));
        }
        if matches!(act, Act::Destroy { volumes: true }) && resource.kind() != "docker/container" {
            return Err(Fault::new(Code::BadParams, "`volumes` is for containers only"));
        }
        Ok(act)
    }

    fn fits(&self, resource: &ResourceId) -> bool {
        let kind = resource.kind();
        match self {
            Act::Start | Act::Stop { .. } | Act::Restart { .. } | Act::Kill { .. } | Act::Pause | Act::Unpause | Act::Exec(_) => {
                kind == "docker/container"
            }
            Act::Pull => kind == "docker/image",
            Act::Destroy { .. } => matches!(kind, "docker/container" | "docker/volume"),
            Act::Converge(_) | Act::Release => matches!(kind, "docker/container" | "docker/volume" | "docker/network" | pve::RESOURCE),
            Act::Guest(_) => kind == pve::RESOURCE,
            Act::Prune { .. } | Act::TimeReset | Act::Confirm(_) | Act::Survey(_) => resource.is_host(),
            // In the name of the operation that they are about.
            Act::Cancel { .. } | Act::Resolve { .. } => true,
        }
    }

    /// The kind's word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Act::Start => "start",
            Act::Stop { .. } => "stop",
            Act::Restart { .. } => "restart",
            Act::Kill { .. } => "kill",
            Act::Pause => "pause",
            Act::Unpause => "unpause",
            Act::Exec(_) => "exec",
            Act::Pull => "pull",
            Act::Destroy { .. } => "destroy",
            Act::Prune { .. } => "prune",
            Act::Converge(_) => "converge",
            Act::Release => "release",
            Act::TimeReset => "time-reset",
            Act::Confirm(_) => "confirm",
            Act::Survey(_) => "survey",
            Act::Guest(op) => op.kind(),
            Act::Cancel { .. } => "cancel",
            Act::Resolve { .. } => "resolve",
        }
    }

    /// The parameters, as [`Act::read`] takes them.
    #[must_use]
    pub fn params(&self) -> Value {
        match self {
            Act::Start | Act::Pause | Act::Unpause | Act::Pull | Act::Release | Act::TimeReset => json!({}),
            Act::Converge(converge) => written(converge),
            Act::Stop { timeout_s } | Act::Restart { timeout_s } => written(&Grace { timeout_s: *timeout_s }),
            Act::Kill { signal } => written(&Signal { signal: signal.clone() }),
            Act::Exec(exec) => written(exec),
            Act::Confirm(confirm) => written(confirm),
            Act::Survey(survey) => written(survey),
            Act::Destroy { volumes } | Act::Prune { volumes } => written(&Volumes { volumes: *volumes }),
            Act::Guest(op) => op.params(),
            Act::Cancel { op_id } => written(&Target { op_id: op_id.clone() }),
            Act::Resolve { op_id, outcome } => written(&Resolution { op_id: op_id.clone(), outcome: *outcome }),
        }
    }

    /// How much it can do on `resource`.
    #[must_use]
    pub fn class(&self, resource: &ResourceId) -> Class {
        match self {
            Act::Converge(_) | Act::Release | Act::Confirm(_) | Act::Cancel { .. } => Class::R1,
            // Without a grace period it is a kill.
            Act::Stop { timeout_s: Some(0) } | Act::Restart { timeout_s: Some(0) } => Class::R3,
            Act::Start | Act::Stop { .. } | Act::Restart { .. } | Act::Pause | Act::Unpause | Act::Pull | Act::Resolve { .. } => Class::R2,
            // It changes nothing, and shows what others' containers were given.
            Act::Survey(_) => Class::R2,
            Act::Exec(exec) if exec.privileged => Class::P,
            Act::Destroy { volumes } if *volumes || resource.kind() == "docker/volume" => Class::R4,
            Act::Prune { volumes: true } => Class::R4,
            Act::Guest(op) => op.class(),
            Act::Kill { .. } | Act::Exec(_) | Act::Destroy { .. } | Act::Prune { .. } | Act::TimeReset => Class::R3,
        }
    }

    /// What its success means for the reconcile pass towards `generation`.
    #[must_use]
    pub fn hold(&self, generation: Generation) -> Option<HoldEffect> {
        match self {
            Act::Stop { .. } | Act::Pause | Act::Destroy { .. } => Some(HoldEffect::Place(generation)),
            Act::Kill { signal } if !matches!(signal.as_str(), "SIGHUP" | "SIGUSR1" | "SIGUSR2" | "SIGWINCH" | "SIGCONT") => {
                Some(HoldEffect::Place(generation))
            }
            Act::Start | Act::Restart { .. } | Act::Unpause | Act::Converge(_) | Act::Release => Some(HoldEffect::Lift),
            Act::Guest(op) => op.hold(generation),
            Act::Kill { .. }
            | Act::Exec(_)
            | Act::Pull
            | Act::Prune { .. }
            | Act::TimeReset
            | Act::Confirm(_)
            | Act::Survey(_)
            | Act::Cancel { .. }
            | Act::Resolve { .. } => None,
        }
    }

    /// Whether it takes its turn in a lane; the others are about operations, not about resources.
    #[must_use]
    pub const fn takes_a_lane(&self) -> bool {
        !matches!(self, Act::Cancel { .. } | Act::Resolve { .. })
    }
}

pub(super) fn params_of<T: DeserializeOwned>(kind: &str, params: &Value) -> Result<T, Fault> {
    serde_json::from_value(params.clone()).map_err(|e| Fault::new(Code::BadParams, format!("the parameters of `{kind}`: {e}")))
}

pub(super) fn written<T: Serialize>(params: &T) -> Value {
    // Structs of strings and numbers always serialise.
    serde_json::to_value(params).unwrap_or_default()
}

fn grace(kind: &str, params: &Value) -> Result<Option<u32>, Fault> {
    let timeout_s = params_of::<Grace>(kind, params)?.timeout_s;
    if timeout_s.is_some_and(|s| s > GRACE_MAX_S) {
        return Err(Fault::new(Code::BadParams, format!("`timeout_s` of `{kind}` is at most {GRACE_MAX_S}")));
    }
    Ok(timeout_s)
}

fn signal(name: String) -> Result<String, Fault> {
    const KNOWN: [&str; 14] = [
        "SIGABRT", "SIGALRM", "SIGCONT", "SIGHUP", "SIGINT", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTERM", "SIGTSTP", "SIGUSR1",
        "SIGUSR2", "SIGWINCH",
    ];
    if KNOWN.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(Fault::new(Code::BadParams, format!("`{}` is no signal; the known ones are {}", crate::fault::cut(&name), KNOWN.join(", "))))
}

fn converge(converge: Converge) -> Result<Converge, Fault> {
    let bytes = converge.fields.iter().map(String::len).fold(0_usize, usize::saturating_add);
    if converge.fields.len() > CONVERGE_FIELDS_MAX || bytes > CONVERGE_BYTES_MAX {
        let message = format!("`converge` names at most {CONVERGE_FIELDS_MAX} fields, of {CONVERGE_BYTES_MAX} bytes together");
        return Err(Fault::new(Code::BadParams, message));
    }
    Ok(converge)
}

fn survey(survey: Survey) -> Result<Survey, Fault> {
    let is_key = survey.recipient.strip_prefix("age1").is_some_and(|key| key.bytes().all(|b| b.is_ascii_alphanumeric()));
    if !is_key || survey.recipient.len() > RECIPIENT_MAX {
        return Err(Fault::new(Code::BadParams, "`recipient` of `survey` is no key of age's, `age1…`"));
    }
    if survey.guests.as_ref().is_some_and(|guests| guests.len() > SURVEY_GUESTS_MAX) {
        return Err(Fault::new(Code::BadParams, format!("`survey` names at most {SURVEY_GUESTS_MAX} guests; name none for all")));
    }
    Ok(survey)
}

fn exec(exec: Exec) -> Result<Exec, Fault> {
    let bad = |what: String| Err(Fault::new(Code::BadParams, what));
    if exec.argv.is_empty() || exec.argv.len() > ARGV_MAX || exec.argv.first().is_some_and(String::is_empty) {
        return bad(format!("`argv` of `exec` has 1 to {ARGV_MAX} words, and the first is a program"));
    }
    let bytes = exec.argv.iter().map(String::len).sum::<usize>()
        + exec.env.iter().map(|(k, v)| k.len() + v.len() + 1).sum::<usize>()
        + exec.stdin.as_ref().map_or(0, String::len);
    if bytes > EXEC_BYTES_MAX {
        return bad(format!("`exec` has {bytes} bytes of words, variables and input; at most {EXEC_BYTES_MAX} fit"));
    }
    if exec.env.keys().any(|k| k.is_empty() || k.contains(['=', '\0'])) || exec.argv.iter().any(|w| w.contains('\0')) {
        return bad("`exec` has a variable's name or a word that no program can be given".to_owned());
    }
    if exec.timeout_s == 0 || exec.timeout_s > EXEC_TIMEOUT_MAX_S {
        return bad(format!("`timeout_s` of `exec` is 1 to {EXEC_TIMEOUT_MAX_S}"));
    }
    exec.stdin_bytes()?;
    Ok(exec)
}

impl Exec {
    /// What it reads from its standard input.
    ///
    /// # Errors
    /// [`Code::BadParams`] when that is no base64.
    pub fn stdin_bytes(&self) -> Result<Vec<u8>, Fault> {
        use base64::Engine as _;
        let Some(text) = &self.stdin else { return Ok(Vec::new()) };
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        bytes.map_err(|e| Fault::new(Code::BadParams, format!("`stdin` of `exec` is no base64: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(text: &str) -> ResourceId {
        ResourceId::parse(text).unwrap()
    }

    fn read(kind: &str, params: Value, on: &str) -> Result<Act, Code> {
        Act::read(kind, &params, &resource(on)).map_err(|f| f.code)
    }

    #[test]
    fn each_kind_has_its_class_and_is_read_back_as_it_was_written() {
        let (container, volume, image, host) = ("docker/container/c", "docker/volume/v", "docker/image/i:1", "host");
        let op = json!({ "op_id": "0197a2b4-1c3d-7e5f-8a6b-0123456789ab" });
        let resolved = json!({ "op_id": "0197a2b4-1c3d-7e5f-8a6b-0123456789ab", "outcome": "failed" });
        let cases = [
            ("start", json!({}), container, Class::R2),
            ("stop", json!({}), container, Class::R2),
            ("stop", json!({ "timeout_s": 0 }), container, Class::R3),
            ("restart", json!({ "timeout_s": 5 }), container, Class::R2),
            ("kill", json!({ "signal": "SIGKILL" }), container, Class::R3),
            ("pause", json!({}), container, Class::R2),
            ("unpause", json!({}), container, Class::R2),
            ("exec", json!({ "argv": ["true"], "timeout_s": 5 }), container, Class::R3),
            ("exec", json!({ "argv": ["true"], "privileged": true, "timeout_s": 5 }), container, Class::P),
            ("pull", json!({}), image, Class::R2),
            ("destroy", json!({}), container, Class::R3),
            ("destroy", json!({ "volumes": true }), container, Class::R4),
            ("destroy", json!({}), volume, Class::R4),
            ("prune", json!({}), host, Class::R3),
            ("prune", json!({ "volumes": true }), host, Class::R4),
            ("converge", json!({}), volume, Class::R1),
            ("converge", json!({ "fields": ["mem_limit"], "in_place": true }), container, Class::R1),
            ("release", json!({}), container, Class::R1),
            ("time-reset", json!({}), host, Class::R3),
            ("confirm", json!({ "topology": "edge", "generation": 5 }), host, Class::R1),
            ("survey", json!({ "recipient": "age1xyz", "after": "a" }), host, Class::R2),
            ("survey", json!({ "recipient": "age1xyz", "guests": [] }), host, Class::R2),
            ("survey", json!({ "recipient": "age1xyz", "after": "101", "guests": ["101", "205"] }), host, Class::R2),
            ("cancel", op, container, Class::R1),
            ("resolve", resolved, container, Class::R2),
        ];
        for (kind, params, on, class) in cases {
            let act = read(kind, params.clone(), on).unwrap();
            assert_eq!((act.kind(), act.params(), act.class(&resource(on))), (kind, params, class), "{kind} {on}");
            assert!(Act::KINDS.contains(&kind));
        }
    }

    #[test]
    fn what_is_not_exactly_an_operation_is_refused() {
        for (kind, params, on, code) in [
            ("explode", json!({}), "host", Code::UnknownKind),
            ("stop", json!({}), "docker/volume/v", Code::UnknownKind),
            ("destroy", json!({}), "docker/network/n", Code::UnknownKind),
            ("prune", json!({}), "docker/container/c", Code::UnknownKind),
            ("stop", json!({ "timeout": 1 }), "docker/container/c", Code::BadParams),
            ("stop", json!({ "timeout_s": 3601 }), "docker/container/c", Code::BadParams),
            ("stop", Value::Null, "docker/container/c", Code::BadParams),
            ("start", json!({ "x": 1 }), "docker/container/c", Code::BadParams),
            ("kill", json!({ "signal": "9" }), "docker/container/c", Code::BadParams),
            ("destroy", json!({ "volumes": true }), "docker/volume/v", Code::BadParams),
            ("confirm", json!({ "topology": "edge" }), "host", Code::BadParams),
            ("confirm", json!({ "topology": "edge", "generation": 5 }), "docker/container/c", Code::UnknownKind),
            ("survey", json!({ "recipient": "ssh-ed25519 AAAA" }), "host", Code::BadParams),
            ("survey", json!({ "recipient": "age1x", "all": true }), "host", Code::BadParams),
            ("survey", json!({ "recipient": "age1x", "guests": ["99"] }), "host", Code::BadParams),
            ("survey", json!({ "recipient": "age1x" }), "docker/container/c", Code::UnknownKind),
            ("converge", json!({ "fields": "restart" }), "docker/container/c", Code::BadParams),
            ("converge", json!({ "fields": ["a".repeat(CONVERGE_BYTES_MAX + 1)] }), "docker/container/c", Code::BadParams),
            ("exec", json!({ "argv": [] }), "docker/container/c", Code::BadParams),
            ("exec", json!({ "argv": ["a"], "stdin": "!" }), "docker/container/c", Code::BadParams),
            ("exec", json!({ "argv": ["a".repeat(EXEC_BYTES_MAX + 1)] }), "docker/container/c", Code::BadParams),
            ("exec", json!({ "argv": ["a"], "env": { "A=B": "" } }), "docker/container/c", Code::BadParams),
            ("exec", json!({ "argv": ["a"], "timeout_s": 0 }), "docker/container/c", Code::BadParams),
            ("resolve", json!({ "op_id": "0197a2b4-1c3d-7e5f-8a6b-0123456789ab", "outcome": "queued" }), "host", Code::BadParams),
        ] {
            assert_eq!(read(kind, params.clone(), on), Err(code), "{kind} {params} {on}");
        }
    }
}
