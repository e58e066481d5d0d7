//! Stable codes for every refusal and error that a user can see.
//!
//! A code never changes its meaning; messages may. `docs/errors.md` has a section for each.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The code as it is shown and sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Code::$variant => $text,)+
                }
            }

            /// The code behind its text; `None` for one that this version doesn't know.
            #[must_use]
            pub fn parse(text: &str) -> Option<Code> {
                match text {
                    $($text => Some(Code::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// A message or file is larger than its limit.
    TooLarge = "too_large",
    /// An envelope or its payload is not well-formed strict JSON of the expected shape.
    BadEnvelope = "bad_envelope",
    /// A signature does not match the bytes that it stands on.
    BadSignature = "bad_signature",
    /// No signature is by a key that the trust root knows.
    UnknownKey = "unknown_key",
    /// The signer's key has been revoked.
    RevokedKey = "revoked_key",
    /// Fewer distinct keys have signed than the role's threshold asks for.
    ThresholdNotMet = "threshold_not_met",
    /// The envelope carries another kind of statement than the one expected.
    WrongType = "wrong_type",
    /// The statement is for another cluster.
    WrongCluster = "wrong_cluster",
    /// The statement is for another host.
    WrongHost = "wrong_host",
    /// The statement is for an earlier life of this host.
    WrongEpoch = "wrong_epoch",
    /// The signer's role does not reach this host or kind of statement.
    OutOfScope = "out_of_scope",
    /// The statement was delivered after its last moment.
    Expired = "expired",
    /// The statement was signed further in the future than clocks may differ.
    NotYetValid = "not_yet_valid",
    /// The slice waits for the host's next maintenance window.
    OutsideMaintenance = "outside_maintenance",
    /// The trust root has expired: nothing new but a root update is accepted.
    RootExpired = "root_expired",
    /// The trust root is not the pinned one, or not the successor of the accepted one.
    BadRoot = "bad_root",
    /// The agent has no trust root yet.
    NoTrustRoot = "no_trust_root",
    /// The agent has no host-binding yet: it awaits the operator's approval.
    NotApproved = "not_approved",
    /// A lower generation than one accepted before.
    GenerationRegressed = "generation_regressed",
    /// Other payload bytes under a generation that was accepted before.
    Equivocation = "equivocation",
    /// Another topology is applied on this host; tear it down first.
    AlreadyApplied = "already_applied",
    /// The version hash in the statement is not that of its content.
    HashMismatch = "hash_mismatch",
    /// The content is not a host's desired state that this agent understands.
    BadContent = "bad_content",
    /// The values of secrets and configs in the slice are not all there, or this host cannot open them.
    SecretsUnreadable = "secrets_unreadable",
    /// The agent's local policy file does not allow this content.
    PolicyDenied = "policy_denied",
    /// The agent does not know this kind of operation, or not for this resource.
    UnknownKind = "unknown_kind",
    /// The operation's parameters are not what its kind takes.
    BadParams = "bad_params",
    /// No role of the signers reaches an operation of this class.
    ClassDenied = "class_denied",
    /// The order was signed under a newer trust root than the host has.
    RootBehind = "root_behind",
    /// The host's clock is too far from what it knows about time to do anything irreversible.
    ClockUnsound = "clock_unsound",
    /// The order's nonce was used before: a replay.
    NonceUsed = "nonce_used",
    /// The idempotency key belongs to an order with another intent.
    Conflict = "conflict",
    /// The resource is no longer the one that the order was signed for.
    IncarnationChanged = "incarnation_changed",
    /// The guest has no snapshot of that name to go back to.
    NoSnapshot = "no_snapshot",
    /// The host is not in the state that the order asks for.
    PreconditionFailed = "precondition_failed",
    /// It has begun, or has ended: it can no longer be taken back.
    TooLate = "too_late",
    /// It was taken back by an operator.
    Cancelled = "cancelled",
    /// The operation was done, and did not succeed.
    OpFailed = "op_failed",
    /// The guest did not run without a break for as long as was asked, within the time that it had.
    NotHealthy = "not_healthy",
    /// Nothing proves whether the operation happened: an operator must look.
    Indeterminate = "indeterminate",
    /// The disk of the state folder is full.
    DiskFull = "disk_full",
    /// The host's records are older than what the hub has seen of them.
    RecordsBehind = "records_behind",
    /// The agent's records are damaged; it changes nothing until an operator acts.
    Quarantined = "quarantined",
    /// The engine cannot be reached.
    EngineUnreachable = "engine_unreachable",
    /// The engine refused or failed a step.
    StepFailed = "step_failed",
    /// A key needs a newer engine than the host's.
    EngineTooOld = "engine_too_old",
    /// A container's successor failed, and the old one is back; or a host's slice did, and its fallback is.
    RolledBack = "rolled_back",
    /// Too many hosts failed with a revision: no other host is given it.
    RolloutFailed = "rollout_failed",
    /// The fallback in a slice cannot come back: it is not what the host had, or is no longer allowed.
    FallbackUnusable = "fallback_unusable",
    /// An image is not on the host and cannot be pulled.
    ImageUnavailable = "image_unavailable",
    /// A step was skipped because one that it needs failed.
    DependencyFailed = "dependency_failed",
    /// A resource waits for another one to be so far (its health, its end). Nothing is wrong yet.
    Waiting = "waiting",
    /// An object of that name exists that is not ours.
    NotOwned = "not_owned",
    /// An external network or volume does not exist.
    NotThere = "not_there",
    /// What shall be adopted is not as the topology says.
    AdoptDiffers = "adopt_differs",
    /// A queue or list is at its limit; try again later.
    Busy = "busy",
    /// The push was made from a revision that is no longer the newest.
    BaseMoved = "base_moved",
    /// The value of a drifted field is another one by now than the one that was shown.
    DriftMoved = "drift_moved",
    /// The drift is resolved already.
    DriftResolved = "drift_resolved",
    /// A saga's plan, or what belongs to it, does not hold in itself.
    BadSaga = "bad_saga",
    /// It is shown not to be the turn of a saga's step.
    SagaOutOfOrder = "saga_out_of_order",
    /// Nobody has shown the host that it is the turn of a saga's step.
    SagaUnproven = "saga_unproven",
    /// The join was not accepted. One answer for every cause.
    JoinRefused = "join_refused",
    /// The certificate's role or subject may not do this.
    PermissionDenied = "permission_denied",
    /// No such object.
    NotFound = "not_found",
    /// An object of that name exists already.
    AlreadyExists = "already_exists",
    /// A request or file is wrong; the message says where.
    InvalidArgument = "invalid_argument",
    /// A certificate renewal out of order: two holders of one identity.
    RenewalConflict = "renewal_conflict",
    /// The two sides speak protocol versions that do not overlap.
    UnsupportedVersion = "unsupported_version",
    /// The store or another part of the program failed; the log has more.
    Internal = "internal",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Code::parse(&text).ok_or_else(|| serde::de::Error::custom(format_args!("unknown error code `{text}`")))
    }
}

/// A code with its words: what was wrong, where, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Fault {
    /// A fault of `code` with `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The longest error text that an agent reports, in characters.
pub const ERROR_TEXT_MAX: usize = 200;

/// `text` cut to [`ERROR_TEXT_MAX`] characters, on one line.
#[must_use]
pub fn cut(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= ERROR_TEXT_MAX {
        return line;
    }
    let mut short: String = line.chars().take(ERROR_TEXT_MAX - 1).collect();
    short.push('…');
    short
}
