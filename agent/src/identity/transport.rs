//! The transport certificate: the one in use, and the renewed one beside it until it has been used.

use moorline_proto::transport::ClientIdentity;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::{IdentityError, StateDir};
use crate::files;

const TRANSPORT: &str = "transport.json";
const TRANSPORT_NEXT: &str = "transport.next.json";

/// A transport certificate with its key. Has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// Counts this host's certificates; 0 before the first.
    pub serial: u64,
    /// The certificate, then its CA, as hex DER; empty before the join was answered.
    pub chain: Vec<String>,
    /// The private key, PKCS#8 PEM.
    key_pem: String,
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

impl Transport {
    /// A fresh P-256 key without a certificate.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        Ok(Self { serial: 0, chain: Vec::new(), key_pem: key.serialize_pem() })
    }

    fn key(&self) -> Result<KeyPair, IdentityError> {
        KeyPair::from_pem(&self.key_pem).map_err(|e| IdentityError::Crypto(e.to_string()))
    }

    /// A PKCS#10 request for the key, in DER. It names nothing: the hub takes only the key from it.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.key()?);
        Ok(request.map_err(|e| IdentityError::Crypto(e.to_string()))?.der().to_vec())
    }

    /// This key with the certificate that the hub gave for it.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the certificate is for another key or unreadable.
    pub fn with_certificate(&self, chain: &[Vec<u8>], serial: u64) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or_else(|| IdentityError::Crypto("the hub sent no certificate".to_owned()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != self.key()?.public_key_raw() {
            return Err(IdentityError::Crypto("the hub's certificate is for another key".to_owned()));
        }
        Ok(Self { serial, chain: chain.iter().map(hex::encode).collect(), key_pem: self.key_pem.clone() })
    }

    /// The certificates in DER, leaf first.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the stored text is no hex.
    pub fn chain_der(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let decode = |text: &String| hex::decode(text).map(CertificateDer::from).map_err(|e| IdentityError::Crypto(e.to_string()));
        self.chain.iter().map(decode).collect()
    }

    /// What TLS needs.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn client_identity(&self) -> Result<ClientIdentity, IdentityError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key()?.serialize_der()));
        Ok(ClientIdentity { chain: self.chain_der()?, key })
    }

    /// From when until when the certificate is valid, in Unix seconds.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when there is none.
    pub fn validity(&self) -> Result<(u64, u64), IdentityError> {
        let chain = self.chain_der()?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Crypto("there is no certificate yet".to_owned()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        let seconds = |t: x509_parser::time::ASN1Time| u64::try_from(t.timestamp()).unwrap_or(0);
        Ok((seconds(parsed.validity().not_before), seconds(parsed.validity().not_after)))
    }
}

impl StateDir {
    /// The transport certificate in use.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn transport(&self) -> Result<Option<Transport>, IdentityError> {
        self.read(TRANSPORT)
    }

    /// Stores the transport certificate in use.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_transport(&self, transport: &Transport) -> Result<(), IdentityError> {
        self.write(TRANSPORT, transport)
    }

    /// A renewed certificate that has not been used yet.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn next_transport(&self) -> Result<Option<Transport>, IdentityError> {
        self.read(TRANSPORT_NEXT)
    }

    /// Stores a renewed certificate (or, before that, its key) beside the one in use.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_next_transport(&self, transport: &Transport) -> Result<(), IdentityError> {
        self.write(TRANSPORT_NEXT, transport)
    }

    /// Puts the renewed certificate in the place of the old one.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn promote_transport(&self) -> Result<(), IdentityError> {
        let path = self.0.join(TRANSPORT_NEXT);
        let renamed = std::fs::rename(&path, self.0.join(TRANSPORT)).and_then(|()| files::sync_dir(&self.0));
        renamed.map_err(|source| IdentityError::File { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let mine = Transport::generate().unwrap();
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let theirs = CertificateParams::default().self_signed(&other).unwrap();
        assert!(mine.with_certificate(&[theirs.der().to_vec()], 1).is_err());
        let own = CertificateParams::default().self_signed(&mine.key().unwrap()).unwrap();
        let with = mine.with_certificate(&[own.der().to_vec()], 1).unwrap();
        assert!(with.client_identity().is_ok() && with.validity().is_ok());
    }
}
