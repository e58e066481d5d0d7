//! Hosts: how they join, who they are, and what is kept from them.

use moorline_common::id::{Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds};

use super::Witness;

/// A join token to be registered.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its public id.
    pub token_id: String,
    /// Lowercase hex SHA-256 of its join key.
    pub join_key_hash: String,
    /// The name that the host will have.
    pub name: HostName,
    /// When it becomes void.
    pub expires: UnixSeconds,
}

/// A host that asks to join; its signatures have been checked.
#[derive(Debug, Clone)]
pub struct JoinAttempt {
    /// The token's public id, as claimed.
    pub token_id: String,
    /// Lowercase hex SHA-256 of the join key that was shown.
    pub join_key_hash: String,
    /// The name, as claimed.
    pub name: HostName,
    /// Lowercase hex SHA-256 of the request's key.
    pub spki: String,
    /// The host's id.
    pub host_id: HostId,
    /// The host's key.
    pub host_key: [u8; 32],
    /// Its sealing key.
    pub sealing_key: [u8; 32],
    /// Its epoch.
    pub host_epoch: HostEpoch,
    /// The MAC that only the operator can check.
    pub claim_mac: Vec<u8>,
}

/// How a join ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The host is pending; its certificate gets this number.
    Joined {
        /// The number of the certificate to issue.
        certificate: u64,
        /// Whether it is the first answer to this key.
        first: bool,
    },
    /// Not accepted. Who asks is told nothing of the cause; the operator is.
    Refused {
        /// The cause.
        cause: &'static str,
        /// Whether a token was shown that another key had used: somebody copied it.
        alarm: bool,
    },
}

/// Where a host is in its enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// Joined, awaits the operator's binding.
    Pending,
    /// Bound by an operator.
    Bound,
}

/// A host as it is stored.
#[derive(Debug, Clone)]
pub struct HostRecord {
    /// Its id.
    pub host_id: HostId,
    /// Its name: in its binding, or in its token while pending.
    pub name: HostName,
    /// Where it is in its enrolment.
    pub state: HostState,
    /// Its ed25519 public key.
    pub host_key: [u8; 32],
    /// Its X25519 public key.
    pub sealing_key: [u8; 32],
    /// Its epoch.
    pub host_epoch: String,
    /// The MAC over its claim.
    pub claim_mac: Vec<u8>,
    /// The token that it joined by.
    pub token_id: String,
    /// When it joined, in milliseconds since 1970.
    pub joined_ms: u64,
    /// The signed binding's JSON, when bound.
    pub binding: Option<Vec<u8>>,
    /// The binding's serial; 0 while pending.
    pub binding_serial: u64,
    /// Whether its certificates no longer count (two holders of one identity).
    pub locked: bool,
    /// The agent's version, if it ever opened a session.
    pub agent_version: String,
    /// The last heartbeat that was worth keeping, as JSON, and when it came.
    pub heartbeat: Option<(Vec<u8>, u64)>,
    /// The newest revision that the host reported applied.
    pub done: Option<(TopologyId, Generation)>,
    /// The newest journal record that its heartbeats named.
    pub witness: Witness,
    /// Whether what is pushed is kept from it for now.
    pub cordon: Option<Cordon>,
}

/// What is pushed is kept from a host until an operator lifts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordon {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Who ordered it.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
}

/// A binding to be stored; its signatures have been checked.
#[derive(Debug, Clone)]
pub struct NewBinding {
    /// The host.
    pub host_id: HostId,
    /// The host's key in it.
    pub host_key: [u8; 32],
    /// The sealing key in it.
    pub sealing_key: [u8; 32],
    /// The epoch in it.
    pub host_epoch: HostEpoch,
    /// The name in it.
    pub name: HostName,
    /// Its serial.
    pub serial: u64,
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
    /// Its payload's hash.
    pub payload_sha256: String,
}

/// How a renewal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewOutcome {
    /// The next certificate gets this number.
    Next(u64),
    /// Two holders of one identity: the host is locked from now on.
    Conflict,
}
