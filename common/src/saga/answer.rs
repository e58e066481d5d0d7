//! What a host's receipt says of a try: the hub goes by it, and so do the hosts that are shown it.

use super::plan::Side;
use super::state::End;
use crate::fault::{Code, Fault};
use crate::op::{Outcome, Receipt};

impl End {
    /// How the try of an order ended, by its host's receipt.
    #[must_use]
    pub fn of_receipt(receipt: &Receipt, side: Side) -> Self {
        let fault = || receipt.fault.clone().unwrap_or_else(|| Fault::new(Code::OpFailed, "its host does not say why"));
        if is_done(receipt, side) {
            return End::Succeeded { output: receipt.result.clone() };
        }
        match receipt.outcome {
            Outcome::Indeterminate => End::Doubt { fault: fault() },
            Outcome::Succeeded | Outcome::Failed | Outcome::Refused | Outcome::Expired | Outcome::Cancelled => End::Failed {
                again: !is_beyond_mending(fault().code),
                effect: !is_unbegun(receipt.outcome),
                signed: is_failure(receipt),
                fault: fault(),
            },
        }
    }
}

/// Whether a receipt says that one side of a step is done. What is not there needs not be undone.
pub(super) fn is_done(receipt: &Receipt, side: Side) -> bool {
    receipt.outcome == Outcome::Succeeded || side == Side::Undo && receipt.fault.as_ref().is_some_and(|fault| fault.code == Code::NotFound)
}

/// Whether a receipt says, for whoever is shown it, that a try failed.
///
/// A refusal says so only if it is for what was ordered: whoever brings an order too early, too late, twice or without what has to be
/// shown with it gets a refusal as well, also of an order that was or will be done.
pub(super) fn is_failure(receipt: &Receipt) -> bool {
    match receipt.outcome {
        Outcome::Failed | Outcome::Expired | Outcome::Cancelled => true,
        Outcome::Refused => receipt.fault.as_ref().is_some_and(|fault| is_about_the_order(fault.code)),
        Outcome::Succeeded | Outcome::Indeterminate => false,
    }
}

/// Whether a try that ended so never began.
pub(super) const fn is_unbegun(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Refused | Outcome::Expired | Outcome::Cancelled => true,
        Outcome::Succeeded | Outcome::Failed | Outcome::Indeterminate => false,
    }
}

/// Whether no further try of the same can succeed.
pub(super) fn is_beyond_mending(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownKind
            | Code::BadParams
            | Code::PolicyDenied
            | Code::IncarnationChanged
            | Code::EngineTooOld
            | Code::Expired
            | Code::Cancelled
    )
}

/// Whether an order is refused so for what it says and how the host is, whoever brings it and when.
fn is_about_the_order(code: Code) -> bool {
    let is_lasting = is_beyond_mending(code) && code != Code::Expired;
    is_lasting
        || matches!(
            code,
            Code::PreconditionFailed
                | Code::NotFound
                | Code::NotThere
                | Code::NotOwned
                | Code::AlreadyExists
                | Code::EngineUnreachable
                | Code::DiskFull
        )
}
