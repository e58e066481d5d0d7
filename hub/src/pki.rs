//! The embedded certificate authority. Its certificates grant transport, never authority.
//!
//! Of a certificate request only the key is used. Subjects are URIs:
//! `moorline://<cluster>/agent/<host id>` and `moorline://<cluster>/operator/<name>`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use moorline_common::id::{ClusterId, HostId, sha256_hex};
use moorline_proto::transport::{HUB_SERVER_NAME, spki_sha256};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files;
use crate::limits;

/// The CA's folder inside the hub's.
pub const CA_DIR: &str = "ca";
/// The CA's certificate inside [`CA_DIR`].
pub const CA_CERT: &str = "ca.crt.pem";
/// The CA's key inside [`CA_DIR`].
pub const CA_KEY: &str = "ca.key.pem";

/// Why the CA cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the CA cannot be read or written.
    #[error("cannot access {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The CA's files are damaged.
    #[error("{path} is damaged: {reason}; restore it from a backup (`moorline-hub restore`)")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Issue(#[source] rcgen::Error),
    /// The request is not one that we sign.
    #[error("the certificate request is not usable: {0}")]
    Request(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// What an operator's machine needs to reach the hub: transport only, never authority.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorBundle {
    /// The cluster's name.
    pub cluster: ClusterId,
    /// The operator's name.
    pub name: String,
    /// Hub addresses, `host:port`.
    pub hubs: Vec<String>,
    /// Lowercase hex SHA-256 of the CA's SubjectPublicKeyInfo.
    pub ca_spki: String,
    /// The operator's certificate, then the CA's.
    pub certificate_chain_pem: String,
    /// The certificate's key.
    pub key_pem: String,
}

/// A checked certificate request: its key, and nothing else of it.
pub struct RequestedKey {
    params: CertificateSigningRequestParams,
    /// Lowercase hex SHA-256 of the key's SubjectPublicKeyInfo.
    pub spki: String,
}

impl RequestedKey {
    /// Reads a PKCS#10 request and checks that its sender holds the key.
    ///
    /// # Errors
    /// [`PkiError::Request`].
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        if der.len() > limits::CSR_MAX {
            return Err(PkiError::Request(format!("{} bytes; at most {} are read", der.len(), limits::CSR_MAX)));
        }
        let params = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|e| PkiError::Request(e.to_string()))?;
        let spki = sha256_hex(&params.public_key.subject_public_key_info());
        Ok(Self { params, spki })
    }
}

/// The CA with its key, in memory.
pub struct Pki {
    cluster: ClusterId,
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    ca_spki: String,
}

impl Pki {
    /// Makes a CA for `cluster` and writes it below `dir`.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn create(dir: &Path, cluster: &ClusterId, now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Issue)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("{cluster} moorline CA"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, now, limits::CA_LIFE);
        params.serial_number = Some(serial(0)?);
        let certificate = params.self_signed(&key).map_err(PkiError::Issue)?;
        let folder = dir.join(CA_DIR);
        files::private_dir(&folder).map_err(|source| PkiError::File { path: folder.clone(), source })?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        for (file, text) in [(CA_KEY, key_pem.as_bytes()), (CA_CERT, certificate.pem().as_bytes())] {
            let path = folder.join(file);
            files::write_private(&path, text).map_err(|source| PkiError::File { path, source })?;
        }
        Self::load(dir, cluster)
    }

    /// Reads the CA below `dir`.
    ///
    /// # Errors
    /// [`PkiError::File`] or [`PkiError::Damaged`].
    pub fn load(dir: &Path, cluster: &ClusterId) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (dir.join(CA_DIR).join(CA_CERT), dir.join(CA_DIR).join(CA_KEY));
        let read = |path: &Path| {
            std::fs::read_to_string(path).map(Zeroizing::new).map_err(|source| PkiError::File { path: path.to_owned(), source })
        };
        let (cert_pem, key_pem) = (read(&cert_path)?, read(&key_path)?);
        let damaged = |path: &Path, reason: String| PkiError::Damaged { path: path.to_owned(), reason };
        let ca = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| damaged(&cert_path, e.to_string()))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| damaged(&key_path, e.to_string()))?;
        let ca_spki = spki_sha256(&ca).ok_or_else(|| damaged(&cert_path, "it is no certificate".to_owned()))?;
        if ca_spki != sha256_hex(&key.subject_public_key_info()) {
            return Err(damaged(&key_path, "it is not the key of the certificate beside it".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&ca, key).map_err(|e| damaged(&cert_path, e.to_string()))?;
        Ok(Self { cluster: cluster.clone(), issuer, ca, ca_spki })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// Lowercase hex SHA-256 of the CA's SubjectPublicKeyInfo: what clients pin.
    #[must_use]
    pub fn ca_spki(&self) -> &str {
        &self.ca_spki
    }

    /// A certificate for the hub itself, with its key; both stay in memory.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn server_certificate(&self, now: SystemTime) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Issue)?;
        let mut params = leaf(&self.cluster, "hub", ExtendedKeyUsagePurpose::ServerAuth);
        let dns = HUB_SERVER_NAME.try_into().map_err(PkiError::Issue)?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        set_life(&mut params, now, limits::SERVER_CERT_LIFE);
        params.serial_number = Some(serial(0)?);
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Issue)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![certificate.der().clone(), self.ca.clone()], key))
    }

    /// A certificate for an agent: the leaf, then the CA. `count` is the host's certificate counter.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn agent_certificate(&self, host: &HostId, key: &RequestedKey, count: u64, now: SystemTime) -> Result<Vec<Vec<u8>>, PkiError> {
        let subject = format!("moorline://{}/agent/{host}", self.cluster);
        let mut params = leaf(&self.cluster, &format!("agent {host}"), ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names = vec![SanType::URI(subject.try_into().map_err(PkiError::Issue)?)];
        set_life(&mut params, now, limits::AGENT_CERT_LIFE);
        params.serial_number = Some(serial(count)?);
        let certificate = params.signed_by(&key.params.public_key, &self.issuer).map_err(PkiError::Issue)?;
        Ok(vec![certificate.der().to_vec(), self.ca.to_vec()])
    }

    /// A bundle for a (further) operator's machine.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn operator_bundle(&self, operator: &str, is_admin: bool, hubs: Vec<String>, now: SystemTime) -> Result<OperatorBundle, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(PkiError::Issue)?;
        let subject = crate::auth::operator_subject(&self.cluster, operator, is_admin);
        let mut params = leaf(&self.cluster, &format!("operator {operator}"), ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names = vec![SanType::URI(subject.try_into().map_err(PkiError::Issue)?)];
        set_life(&mut params, now, limits::OPERATOR_CERT_LIFE);
        params.serial_number = Some(serial(0)?);
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Issue)?;
        let ca_pem = files::pem("CERTIFICATE", &self.ca);
        Ok(OperatorBundle {
            cluster: self.cluster.clone(),
            name: operator.to_owned(),
            hubs,
            ca_spki: self.ca_spki.clone(),
            certificate_chain_pem: format!("{}{ca_pem}", certificate.pem()),
            key_pem: key.serialize_pem(),
        })
    }
}

fn leaf(cluster: &ClusterId, common_name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn set_life(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    params.not_before = (now - limits::CLOCK_SKEW).into();
    params.not_after = (now + life).into();
}

/// 20 bytes: a positive first one, 11 random ones, and the counter by which renewals are ordered.
fn serial(count: u64) -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|_| PkiError::Random)?;
    bytes[0] = 1;
    bytes[12..].copy_from_slice(&count.to_be_bytes());
    Ok(SerialNumber::from_slice(&bytes))
}

/// The counter in a certificate's serial number: its last 8 bytes.
#[must_use]
pub fn counter_of_serial(serial: &[u8]) -> u64 {
    let tail: Option<[u8; 8]> = serial.get(12..20).and_then(|t| t.try_into().ok());
    tail.map_or(0, u64::from_be_bytes)
}
