//! Conversions between the wire and the core. Unknown values are errors, not defaults.

use moorline_common::fault::{Code, Fault};
use moorline_common::observe::EngineState;
use moorline_common::pulling::Pulling;
use moorline_common::sign::Envelope;

use crate::v1 as pb;

/// The metadata key under which a gRPC status carries its stable code.
pub const CODE_METADATA: &str = "moorline-code";

impl From<&Envelope> for pb::Envelope {
    fn from(envelope: &Envelope) -> Self {
        pb::Envelope { json: envelope.to_json() }
    }
}

impl TryFrom<pb::Envelope> for Envelope {
    type Error = Fault;
    fn try_from(envelope: pb::Envelope) -> Result<Self, Fault> {
        Envelope::from_json(&envelope.json)
    }
}

/// An envelope that the message must carry.
///
/// # Errors
/// [`Code::InvalidArgument`] when `envelope` is absent, or as [`Envelope::from_json`].
pub fn required(envelope: Option<pb::Envelope>, what: &str) -> Result<Envelope, Fault> {
    envelope.ok_or_else(|| Fault::new(Code::InvalidArgument, format!("the message carries no {what}")))?.try_into()
}

impl From<Fault> for pb::Fault {
    fn from(fault: Fault) -> Self {
        pb::Fault { code: fault.code.as_str().to_owned(), message: fault.message }
    }
}

impl From<pb::Fault> for Fault {
    /// A code of a newer version reads as [`Code::Internal`], and stays visible in the message.
    fn from(fault: pb::Fault) -> Self {
        match Code::parse(&fault.code) {
            Some(code) => Fault::new(code, fault.message),
            None => Fault::new(Code::Internal, format!("{} [{}]", fault.message, fault.code)),
        }
    }
}

impl From<Pulling> for pb::Pull {
    fn from(pulling: Pulling) -> Self {
        let Pulling { image, layers_done, layers, bytes_done, bytes, waiting } = pulling;
        pb::Pull { image, layers_done, layers, bytes_done, bytes, waiting }
    }
}

impl From<pb::Pull> for Pulling {
    fn from(pull: pb::Pull) -> Self {
        let pb::Pull { image, layers_done, layers, bytes_done, bytes, waiting } = pull;
        Pulling { image, layers_done, layers, bytes_done, bytes, waiting }
    }
}

impl From<EngineState> for pb::EngineState {
    fn from(state: EngineState) -> Self {
        match state {
            EngineState::Unknown => pb::EngineState::Unspecified,
            EngineState::Ready => pb::EngineState::Ready,
            EngineState::Unreachable => pb::EngineState::Unreachable,
        }
    }
}

impl From<pb::EngineState> for EngineState {
    fn from(state: pb::EngineState) -> Self {
        match state {
            pb::EngineState::Unspecified => EngineState::Unknown,
            pb::EngineState::Ready => EngineState::Ready,
            pb::EngineState::Unreachable => EngineState::Unreachable,
        }
    }
}

/// The gRPC status for a fault; its stable code travels as metadata.
#[must_use]
pub fn to_status(fault: &Fault) -> tonic::Status {
    let grpc = match fault.code {
        Code::TooLarge | Code::Busy | Code::DiskFull => tonic::Code::ResourceExhausted,
        Code::AlreadyApplied
        | Code::RootExpired
        | Code::RootBehind
        | Code::NoTrustRoot
        | Code::NotApproved
        | Code::ClockUnsound
        | Code::IncarnationChanged
        | Code::PreconditionFailed
        | Code::SagaOutOfOrder
        | Code::SagaUnproven
        | Code::TooLate
        | Code::DriftResolved
        | Code::Cancelled
        | Code::OutsideMaintenance
        | Code::RecordsBehind
        | Code::Quarantined => tonic::Code::FailedPrecondition,
        Code::BaseMoved
        | Code::DriftMoved
        | Code::GenerationRegressed
        | Code::Equivocation
        | Code::RenewalConflict
        | Code::NonceUsed
        | Code::Conflict => tonic::Code::Aborted,
        Code::JoinRefused
        | Code::PermissionDenied
        | Code::UnknownKey
        | Code::RevokedKey
        | Code::BadSignature
        | Code::ThresholdNotMet
        | Code::OutOfScope
        | Code::ClassDenied
        | Code::PolicyDenied
        | Code::NotOwned => tonic::Code::PermissionDenied,
        Code::NotFound | Code::NoSnapshot => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::BadEnvelope
        | Code::WrongType
        | Code::WrongCluster
        | Code::WrongHost
        | Code::WrongEpoch
        | Code::Expired
        | Code::NotYetValid
        | Code::BadRoot
        | Code::HashMismatch
        | Code::BadContent
        | Code::SecretsUnreadable
        | Code::UnknownKind
        | Code::BadParams
        | Code::BadSaga
        | Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::UnsupportedVersion => tonic::Code::Unimplemented,
        Code::EngineUnreachable | Code::Waiting => tonic::Code::Unavailable,
        Code::OpFailed
        | Code::NotHealthy
        | Code::Indeterminate
        | Code::StepFailed
        | Code::ImageUnavailable
        | Code::EngineTooOld
        | Code::NotThere
        | Code::AdoptDiffers
        | Code::RolledBack
        | Code::RolloutFailed
        | Code::FallbackUnusable
        | Code::DependencyFailed
        | Code::Internal => tonic::Code::Internal,
    };
    let mut status = tonic::Status::new(grpc, fault.message.clone());
    if let Ok(value) = fault.code.as_str().parse() {
        status.metadata_mut().insert(CODE_METADATA, value);
    }
    status
}

/// The fault behind a gRPC status; a status that the hub did not make reads as [`Code::Internal`].
#[must_use]
pub fn from_status(status: &tonic::Status) -> Fault {
    let code = status.metadata().get(CODE_METADATA).and_then(|v| v.to_str().ok()).and_then(Code::parse);
    Fault::new(code.unwrap_or(Code::Internal), status.message())
}
