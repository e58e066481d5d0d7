//! What a user sees when something goes wrong: a message, what to do about it, a stable code, an exit code.

use std::fmt;
use std::io;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::IdError;
use moorline_proto::transport::TransportError;

use crate::render::visible;

/// The verb failed.
pub const EXIT_ERROR: u8 = 1;
/// `plan` found changes.
pub const EXIT_CHANGES: u8 = 2;
/// A wait was broken off by Ctrl-C; what was waited for goes on.
pub const EXIT_INTERRUPTED: u8 = 130;
/// The command line is wrong (EX_USAGE).
pub const EXIT_USAGE: u8 = 64;

/// Codes of `moorctl` alone, next to those of [`Code`]; each has its section in docs/errors.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalCode {
    /// The hub does not answer.
    HubUnreachable,
    /// The topology file has problems.
    BadTopology,
    /// There is no usable context.
    NoContext,
    /// A private file can be read by others.
    UnsafeFile,
    /// A file cannot be read or written.
    LocalIo,
    /// Not every host got where it should within the time.
    NotConverged,
    /// The host that joined is not the one that got the token.
    ClaimMismatch,
    /// The command line is wrong.
    Usage,
    /// The question needs an answer and nobody is there to give it.
    NeedsConfirmation,
    /// This machine's clock and the hub's are too far apart.
    ClockSkew,
    /// A key file is sealed, and there is no passphrase for it.
    PassphraseNeeded,
    /// No passphrase that was given opens the key file.
    WrongPassphrase,
    /// A saved plan is not as it was written.
    PlanAltered,
    /// The hosts would not get what a saved plan says.
    PlanOutdated,
    /// A registry did not say which digest an image has.
    PinFailed,
    /// A host needs values of secrets that are not at hand.
    SecretsMissing,
    /// A command's output did not come whole.
    OutputLost,
}

impl LocalCode {
    /// Every one.
    pub const ALL: [LocalCode; 17] = [
        LocalCode::HubUnreachable,
        LocalCode::BadTopology,
        LocalCode::NoContext,
        LocalCode::UnsafeFile,
        LocalCode::LocalIo,
        LocalCode::NotConverged,
        LocalCode::ClaimMismatch,
        LocalCode::Usage,
        LocalCode::NeedsConfirmation,
        LocalCode::ClockSkew,
        LocalCode::PassphraseNeeded,
        LocalCode::WrongPassphrase,
        LocalCode::PlanAltered,
        LocalCode::PlanOutdated,
        LocalCode::PinFailed,
        LocalCode::SecretsMissing,
        LocalCode::OutputLost,
    ];

    /// The code as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LocalCode::HubUnreachable => "hub_unreachable",
            LocalCode::BadTopology => "bad_topology",
            LocalCode::NoContext => "no_context",
            LocalCode::UnsafeFile => "unsafe_file",
            LocalCode::LocalIo => "local_io",
            LocalCode::NotConverged => "not_converged",
            LocalCode::ClaimMismatch => "claim_mismatch",
            LocalCode::Usage => "usage",
            LocalCode::NeedsConfirmation => "needs_confirmation",
            LocalCode::ClockSkew => "clock_skew",
            LocalCode::PassphraseNeeded => "passphrase_needed",
            LocalCode::WrongPassphrase => "wrong_passphrase",
            LocalCode::PlanAltered => "plan_altered",
            LocalCode::PlanOutdated => "plan_outdated",
            LocalCode::PinFailed => "pin_failed",
            LocalCode::SecretsMissing => "secrets_missing",
            LocalCode::OutputLost => "output_lost",
        }
    }
}

/// Why a verb ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The stable code; empty for a closed pipe, which is not shown.
    pub code: &'static str,
    /// What was wrong, where.
    pub message: String,
    /// What to do next.
    pub remedy: String,
    /// Lines that belong to it: problems in a file, the difference to another revision.
    pub details: Vec<String>,
    /// The exit code.
    pub exit: u8,
}

impl Failure {
    /// A failure of `moorctl` itself.
    pub fn new(code: LocalCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let exit = if code == LocalCode::Usage { EXIT_USAGE } else { EXIT_ERROR };
        Self { code: code.as_str(), message: message.into(), remedy: remedy.into(), details: Vec::new(), exit }
    }

    /// Something on this machine that should not happen.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(LocalCode::LocalIo, message, "check the path, its permissions and the free space")
    }

    /// Trouble with a file of this machine.
    pub fn file(doing: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::local(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// A wrong command line that only the verb could find.
    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(LocalCode::Usage, message, remedy)
    }

    /// The same with another remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The same with lines below it.
    #[must_use]
    pub fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// The same, saying first what was being done.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whether it is this code of the core's.
    #[must_use]
    pub fn is(&self, code: Code) -> bool {
        self.code == code.as_str()
    }

    /// Nobody reads what we write: end quietly.
    #[must_use]
    pub fn closed_pipe() -> Self {
        Self { code: "", message: String::new(), remedy: String::new(), details: Vec::new(), exit: 0 }
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.code.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", visible(&self.message), self.code)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self {
            code: fault.code.as_str(),
            message: fault.message,
            remedy: remedy(fault.code).to_owned(),
            details: Vec::new(),
            exit: EXIT_ERROR,
        }
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Fault::new(Code::InvalidArgument, error.to_string()).into()
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Failure::new(
            LocalCode::HubUnreachable,
            error.to_string(),
            "check that the hub runs (`moorline-hub doctor` there) and that this machine reaches its address",
        )
    }
}

impl From<io::Error> for Failure {
    /// For output: everything else names its file through [`Failure::file`].
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::closed_pipe();
        }
        Failure::local(format!("cannot write the output: {error}"))
    }
}

/// What an operator does about a code; the long form is in docs/errors.md.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a table: each code has its line")]
pub const fn remedy(code: Code) -> &'static str {
    match code {
        Code::TooLarge => "make it smaller: split the topology, or move large values into files on the host",
        Code::BadEnvelope => "the statement was damaged or made by another version; update moorctl, hub and agents to one version",
        Code::BadSignature => "do not act on it: somebody or something changed signed bytes; check the hub and its backups",
        Code::UnknownKey => "ask an operator whose key is in the trust root to sign, or to add yours with `moorctl key add`",
        Code::RevokedKey => "use a key that is not revoked",
        Code::ThresholdNotMet => "more operators must sign: name their key files with --sign-with FILE, or collect them with --save FILE",
        Code::WrongType | Code::WrongEpoch | Code::HashMismatch => {
            "push the topology or sign the order again; if it comes back, compare the versions of moorctl, hub and agents"
        }
        Code::WrongCluster => "choose the right context with --context",
        Code::WrongHost => "check the name, and that no other hub answers at this address",
        Code::OutOfScope => "ask an operator whose role reaches this host and kind of statement",
        Code::Expired => "a slice: push again (--deliver-within gives slow hosts more time); an order: sign it again (--expires)",
        Code::NotYetValid => "set the clocks of the host and of the operator's machine, then push the topology or sign the order again",
        Code::OutsideMaintenance => "wait for the window, or push with --now",
        Code::RootExpired => "sign a new version of the trust root: `moorctl key renew --recovery-key FILE`",
        Code::BadRoot => "do not go on: the hub shows a trust root that this machine cannot follow; ask the operator who made it",
        Code::NoTrustRoot => "run `moorctl init` first",
        Code::NotApproved => "run `moorctl host approve NAME`",
        Code::GenerationRegressed => {
            "the hub is behind what this machine has seen; if it was restored from a backup, let its agents reconnect and try again"
        }
        Code::Equivocation => "two revisions bear one generation: push again to make a new one, and find out who signed the other",
        Code::AlreadyApplied => "a host follows one topology at a time; `moorctl status` shows which",
        Code::BadContent => "the agent does not understand the content; update it, or leave the new keys out",
        Code::SecretsUnreadable => "push the topology again with --force from where its secrets are: they are sealed anew",
        Code::PolicyDenied => "allow it in the agent's local policy file on that host, or take it out of the topology",
        Code::UnknownKind => "look at `moorctl op --help` for what there is, and update the agent if it is older than moorctl",
        Code::BadParams => "correct the parameters; `moorctl op --help` shows each kind's",
        Code::ClassDenied => "ask an operator whose role reaches this class of operation",
        Code::RootBehind => {
            "the host gets the newest trust root from the hub; if it stays behind, run `moorline-agent trust import FILE` there"
        }
        Code::ClockUnsound => "set the host's clock; if its time floor is what is wrong, sign `moorctl op time-reset HOST`",
        Code::NonceUsed => "sign the order anew",
        Code::Conflict => "use another idempotency key: this one belongs to another order",
        Code::IncarnationChanged => "look at what is there now, and sign the order anew if it is still meant",
        Code::NoSnapshot => "list the snapshots that there are with `moorctl op snapshot list HOST/GUEST`",
        Code::PreconditionFailed => "look at the host with `moorctl status`, and sign the order anew when it is as wanted",
        Code::BadSaga => "start the saga anew with `moorctl saga start`; a plan is never mended",
        Code::SagaOutOfOrder | Code::SagaUnproven => "look at the saga with `moorctl saga show`",
        Code::TooLate => "it can no longer be taken back; `moorctl op show` tells how it ended",
        Code::Cancelled => "sign it anew if it is wanted after all",
        Code::OpFailed => "read the message, mend the cause and sign a new order: a key whose operation failed is used up",
        Code::NotHealthy => "look at the guest with `moorctl get guests HOST` and at its console; nothing was changed by the check",
        Code::Indeterminate => "look at the resource on the host, then say how it ended with `moorctl op resolve`",
        Code::DiskFull => "free the disk of the agent's state folder",
        Code::RecordsBehind => {
            "do not use a state folder from a snapshot or backup; approve the host anew with `moorctl host approve NAME`"
        }
        Code::Quarantined => "run `moorline-agent doctor` on the host, mend the cause, then `moorctl host approve NAME`",
        Code::EngineUnreachable => "start the engine on the host, or fix its socket; nothing was changed there",
        Code::StepFailed => "read the message; the agent tries again by itself",
        Code::RolloutFailed => {
            "look at it with `moorctl rollout status`, push a mended file, or let a paused one go on with `moorctl rollout resume`"
        }
        Code::RolledBack => "mend the service and push it, or try the same once more with `moorctl op converge`",
        Code::FallbackUnusable => "look whether the revision does what it should, and keep it with `moorctl confirm`, or push another one",
        Code::EngineTooOld => "leave the key out for this host, or update its engine",
        Code::ImageUnavailable => "check the image's name and that the host reaches its registry, or load it there",
        Code::DependencyFailed => "fix what it depends on; the agent goes on by itself",
        Code::Waiting => "nothing is wrong yet: it goes on by itself when what it waits for is so far",
        Code::NotOwned => "it is never touched: rename or remove the object on the host, or choose another name in the topology",
        Code::NotThere => "make it on the host, or leave `external` out, so that the topology makes it",
        Code::AdoptDiffers => {
            "import the host again with `moorctl import docker` or `import proxmox`, or mend the file; change it once it is taken over"
        }
        Code::Busy => "try again in a moment",
        Code::BaseMoved => "look at the difference, merge it into your file, and push again",
        Code::DriftMoved => "look at it again with `moorctl drift show ID`, and decide anew",
        Code::DriftResolved => "look at what became of it with `moorctl drift show ID`",
        Code::JoinRefused => "make a new token with `moorctl host add`",
        Code::PermissionDenied => "use a certificate of the operator role: `moorline-hub operator add NAME` makes one",
        Code::NotFound => "list what there is with `moorctl status`, `moorctl host ls` or `moorctl get`",
        Code::AlreadyExists => "choose another name, or remove the other one first",
        Code::InvalidArgument => "correct what the message names",
        Code::RenewalConflict => {
            "two machines hold one identity: switch the copy off, then `moorctl host approve NAME --fingerprint FINGERPRINT`"
        }
        Code::UnsupportedVersion => "bring moorctl, hub and agents to versions that are at most one apart",
        Code::Internal => "read the hub's log, and try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_section_in_the_error_reference() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md")).unwrap();
        let codes = Code::ALL.iter().map(|c| c.as_str()).chain(LocalCode::ALL.iter().map(|c| c.as_str()));
        for code in codes {
            assert!(page.contains(&format!("\n### `{code}`\n")), "docs/errors.md has no section for `{code}`");
        }
    }

    #[test]
    fn every_code_has_a_remedy() {
        for code in Code::ALL {
            assert!(!remedy(*code).is_empty(), "{code}");
        }
    }

    #[test]
    fn a_closed_pipe_ends_quietly_with_success() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_quiet());
        assert_eq!(failure.exit, 0);
    }
}
