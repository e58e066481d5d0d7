//! What an operator does about an order that was refused or failed, by its code.

use moorline_common::fault::Code;
use moorline_common::op::OpStatement;
use moorline_common::pve::Vmid;

use super::guest::words;

/// What an operator does about a refused or failed order; `None` where that does not differ from what else the code is about.
#[expect(clippy::too_many_lines, reason = "a table: each code has its lines")]
pub fn of(code: Code, statement: &OpStatement) -> Option<String> {
    if let Some(remedy) = Vmid::of(&statement.resource).and_then(|_| words::remedy(code)) {
        return Some(remedy.to_owned());
    }
    let key = &statement.idempotency_key;
    let anew = format!("then sign it again with --key {key}: with the same key it is done at most once");
    let aimed = matches!(statement.kind.as_str(), "cancel" | "resolve");
    let text = match code {
        Code::Expired => "nothing was done: sign it again, with a longer --expires if the host may be away for long".to_owned(),
        Code::NotYetValid | Code::ClockUnsound => format!("set the clocks of the host and of this machine, {anew}"),
        Code::Busy => format!(
            "wait until others have ended (`moorctl op ls --open`), and resolve those that are indeterminate (`moorctl op resolve`), {anew}"
        ),
        Code::DiskFull => format!("free the disk of the agent's state folder, {anew}"),
        Code::EngineUnreachable => format!("start the engine on the host, {anew}"),
        Code::RootBehind | Code::Waiting => format!("wait until the host has caught up (`moorctl status`), {anew}"),
        Code::Quarantined | Code::RecordsBehind => {
            "run `moorline-agent doctor` on the host, mend the cause, `moorctl host approve NAME`, then sign the order anew".to_owned()
        }
        Code::NotOwned => {
            "operations touch only what Moorline made: act on it on the host itself, or name one of ours (`moorctl get report HOST`)"
                .to_owned()
        }
        Code::PolicyDenied => "let the host's administrator allow it in the agent's local policy file, or leave it".to_owned(),
        Code::WrongEpoch => {
            "the host began a new life since: `moorctl host approve NAME` if it asks for it, then sign the order anew".to_owned()
        }
        Code::NotFound | Code::TooLate if aimed => {
            "the operation has ended, or this host never had it: `moorctl op show` tells how it ended".to_owned()
        }
        Code::NotFound => "look at what the host has with `moorctl get report HOST`".to_owned(),
        Code::WrongType | Code::HashMismatch => {
            "sign it again; if it comes back, compare the versions of moorctl, hub and agents".to_owned()
        }
        Code::TooLate
        | Code::OutsideMaintenance
        | Code::TooLarge
        | Code::BadEnvelope
        | Code::BadSignature
        | Code::UnknownKey
        | Code::RevokedKey
        | Code::ThresholdNotMet
        | Code::WrongCluster
        | Code::WrongHost
        | Code::OutOfScope
        | Code::DriftMoved
        | Code::DriftResolved
        | Code::RootExpired
        | Code::BadRoot
        | Code::NoTrustRoot
        | Code::NotApproved
        | Code::GenerationRegressed
        | Code::Equivocation
        | Code::AlreadyApplied
        | Code::BadContent
        | Code::UnknownKind
        | Code::BadParams
        | Code::BadSaga
        | Code::SagaOutOfOrder
        | Code::SagaUnproven
        | Code::ClassDenied
        | Code::NonceUsed
        | Code::Conflict
        | Code::IncarnationChanged
        | Code::PreconditionFailed
        | Code::Cancelled
        | Code::OpFailed
        | Code::NotHealthy
        | Code::NoSnapshot
        | Code::Indeterminate
        | Code::StepFailed
        | Code::EngineTooOld
        | Code::NotThere
        | Code::AdoptDiffers
        | Code::RolledBack
        | Code::RolloutFailed
        | Code::FallbackUnusable
        | Code::ImageUnavailable
        | Code::DependencyFailed
        | Code::BaseMoved
        | Code::SecretsUnreadable
        | Code::JoinRefused
        | Code::PermissionDenied
        | Code::AlreadyExists
        | Code::InvalidArgument
        | Code::RenewalConflict
        | Code::UnsupportedVersion
        | Code::Internal => return None,
    };
    Some(text)
}
