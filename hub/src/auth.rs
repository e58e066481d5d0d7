//! Who is on the other end of a connection: the role in its client certificate.
//!
//! Every call and every stream message is checked against it. A role reaches only its own objects:
//! an agent its own host, an operator the operator service.

use std::net::SocketAddr;
use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ClusterId, HostId, SagaId};
use rustls_pki_types::CertificateDer;
use tonic::Status;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::pki::counter_of_serial;

/// The role of operators, as it stands in certificates.
const OPERATOR: &str = "operator";
/// The role of those among them who may decide about drift, too.
const ADMIN: &str = "admin";

/// What names an operator in a certificate of `cluster`.
#[must_use]
pub fn operator_subject(cluster: &ClusterId, name: &str, is_admin: bool) -> String {
    format!("moorline://{cluster}/{}/{name}", if is_admin { ADMIN } else { OPERATOR })
}

/// What a certificate lets its holder be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The agent of one host.
    Agent(HostId),
    /// An operator.
    Operator {
        /// The name.
        name: String,
        /// Whether it may decide about drift, too.
        is_admin: bool,
    },
}

/// One connection's other end; part of every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer(Arc<PeerInner>);

#[derive(Debug)]
struct PeerInner {
    address: SocketAddr,
    certificate: Option<PeerCertificate>,
}

/// What the certificate says.
#[derive(Debug, Clone)]
pub struct PeerCertificate {
    /// What it lets its holder be.
    pub role: Role,
    /// The host's certificate counter; 0 for operators.
    pub count: u64,
    /// From then on it is expired, in seconds since 1970.
    pub not_after_s: u64,
}

/// A certificate of our CA that names no role in this cluster.
#[derive(Debug, thiserror::Error)]
#[error("the client certificate names no role in cluster {0}")]
pub struct NoRole(ClusterId);

impl PeerCertificate {
    /// Reads the role from a certificate whose signature the handshake has checked.
    ///
    /// # Errors
    /// [`NoRole`] unless exactly one URI names a role in `cluster`.
    pub fn read(der: &CertificateDer<'_>, cluster: &ClusterId) -> Result<Self, NoRole> {
        let refused = || NoRole(cluster.clone());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| refused())?;
        let san = certificate.subject_alternative_name().ok().flatten().ok_or_else(refused)?;
        let uris: Vec<&str> =
            san.value.general_names.iter().filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None }).collect();
        let [uri] = uris.as_slice() else { return Err(refused()) };
        let role = parse_subject(uri, cluster).ok_or_else(refused)?;
        let count = match &role {
            Role::Agent(_) => counter_of_serial(certificate.raw_serial()),
            Role::Operator { .. } => 0,
        };
        let not_after_s = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self { role, count, not_after_s })
    }
}

fn parse_subject(uri: &str, cluster: &ClusterId) -> Option<Role> {
    let rest = uri.strip_prefix("moorline://")?.strip_prefix(cluster.as_str())?.strip_prefix('/')?;
    match rest.split_once('/')? {
        ("agent", id) => HostId::parse(id).ok().map(Role::Agent),
        (role @ (OPERATOR | ADMIN), name) if is_operator_name(name) => {
            Some(Role::Operator { name: name.to_owned(), is_admin: role == ADMIN })
        }
        _ => None,
    }
}

/// Whether `name` can name an operator: 1 to 63 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit.
#[must_use]
pub fn is_operator_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// Who did something, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `operator/NAME`, `agent/HOSTID`, `saga/SAGAID`, `hub`, or `unknown`.
    pub subject: String,
    /// The address that it came from; empty for the hub itself.
    pub origin: String,
}

impl Actor {
    /// The hub for a saga.
    #[must_use]
    pub fn saga(saga_id: &SagaId) -> Self {
        Self { subject: format!("saga/{saga_id}"), origin: String::new() }
    }

    /// The hub itself.
    #[must_use]
    pub fn hub() -> Self {
        Self { subject: "hub".to_owned(), origin: String::new() }
    }
}

impl Peer {
    /// The other end of a connection.
    #[must_use]
    pub fn new(address: SocketAddr, certificate: Option<PeerCertificate>) -> Self {
        Self(Arc::new(PeerInner { address, certificate }))
    }

    /// The peer of a request.
    ///
    /// # Errors
    /// UNAUTHENTICATED for a request that came by no connection of ours.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::unauthenticated("the connection has no identity"))
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Who it is, for the record.
    #[must_use]
    pub fn actor(&self) -> Actor {
        let subject = match self.0.certificate.as_ref().map(|c| &c.role) {
            Some(Role::Agent(host)) => format!("agent/{host}"),
            Some(Role::Operator { name, .. }) => format!("operator/{name}"),
            None => "unknown".to_owned(),
        };
        Actor { subject, origin: self.0.address.to_string() }
    }

    fn certificate(&self) -> Result<&PeerCertificate, Status> {
        self.0.certificate.as_ref().ok_or_else(|| Status::unauthenticated("this call needs a client certificate"))
    }

    /// From then on its certificate is expired, in seconds since 1970; 0 without one.
    #[must_use]
    pub fn not_after_s(&self) -> u64 {
        self.0.certificate.as_ref().map_or(0, |c| c.not_after_s)
    }

    fn unexpired(&self, now_s: u64) -> Result<&PeerCertificate, Status> {
        let certificate = self.certificate()?;
        if certificate.not_after_s <= now_s {
            return Err(Status::unauthenticated("the client certificate has expired; renew it"));
        }
        Ok(certificate)
    }

    /// The host that this peer is the agent of, with its certificate's counter.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid certificate, PERMISSION_DENIED for another role.
    pub fn agent(&self, now_s: u64) -> Result<(HostId, u64), Status> {
        agent_role(self.unexpired(now_s)?)
    }

    /// As [`Peer::agent`], also by a certificate that has expired: enough to ask for a new one.
    ///
    /// # Errors
    /// As [`Peer::agent`].
    pub fn agent_to_renew(&self) -> Result<(HostId, u64), Status> {
        agent_role(self.certificate()?)
    }

    /// The operator that this peer is.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid certificate, PERMISSION_DENIED for another role.
    pub fn operator(&self, now_s: u64) -> Result<&str, Status> {
        match &self.unexpired(now_s)?.role {
            Role::Operator { name, .. } => Ok(name),
            Role::Agent(_) => Err(denied("agents may not call the operator service")),
        }
    }
}

impl Peer {
    /// Whether this peer is an operator who may decide about drift.
    ///
    /// # Errors
    /// As [`Peer::operator`]; PERMISSION_DENIED for one that is no admin.
    pub fn admin(&self, now_s: u64) -> Result<(), Status> {
        let name = self.operator(now_s)?;
        match &self.unexpired(now_s)?.role {
            Role::Operator { is_admin: true, .. } => Ok(()),
            Role::Operator { .. } | Role::Agent(_) => Err(denied(&format!(
                "only admins decide about drift; on the hub's machine `moorline-hub operator add {name} --admin` makes a bundle for one"
            ))),
        }
    }
}

fn agent_role(certificate: &PeerCertificate) -> Result<(HostId, u64), Status> {
    match &certificate.role {
        Role::Agent(host) => Ok((host.clone(), certificate.count)),
        Role::Operator { .. } => Err(denied("operators may not call the agents' gateway")),
    }
}

fn denied(message: &str) -> Status {
    moorline_proto::convert::to_status(&Fault::new(Code::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_clusters_subjects_name_a_role() {
        let cluster = ClusterId::parse("one").unwrap();
        let host = "a".repeat(64);
        assert!(matches!(parse_subject(&format!("moorline://one/agent/{host}"), &cluster), Some(Role::Agent(_))));
        for is_admin in [false, true] {
            let role = parse_subject(&operator_subject(&cluster, "ann", is_admin), &cluster);
            assert_eq!(role, Some(Role::Operator { name: "ann".to_owned(), is_admin }));
        }
        for bad in [
            format!("moorline://two/agent/{host}"),
            format!("moorline://onex/agent/{host}"),
            "moorline://one/agent/short".to_owned(),
            "moorline://one/operator/".to_owned(),
            "moorline://one/operator/a/b".to_owned(),
            "moorline://one/root/x".to_owned(),
            "https://one/operator/ann".to_owned(),
        ] {
            assert_eq!(parse_subject(&bad, &cluster), None, "{bad}");
        }
    }
}
