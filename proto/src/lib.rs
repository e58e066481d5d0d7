//! Moorline's wire: the generated messages and services of `moorline.v1`, and [`convert`], the only
//! place where they turn into the core's types and back.

pub mod convert;
mod rollout;
pub mod transport;

/// The generated messages and services. Nothing past a service module should see these.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    clippy::as_conversions,
    clippy::too_many_lines
)]
pub mod v1 {
    tonic::include_proto!("moorline.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("moorline.v1");

/// The largest message that the Operator service takes, in bytes: a push with the slices of some 40,000 hosts.
/// Larger ones are refused before they are sent.
pub const OPERATOR_MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// The protocol version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest protocol version that this build understands. In a session both sides speak the lower of their two versions.
pub const PROTOCOL_MIN: u32 = 1;
