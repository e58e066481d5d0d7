//! Requests over TLS to a host whose certificate is known: by the SHA-256 of the certificate itself, as Proxmox VE's nodes know each
//! other, or by the authority that signed it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::client::{Call, NoReply, Reply, Transport, Verb};
use crate::limits::{CONNECT_TIMEOUT, PVE_ANSWER_MAX};

/// By what a host's certificate is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Its SHA-256 is one of these. Several, since a certificate is renewed.
    Pins(Vec<[u8; 32]>),
    /// These authorities, in PEM, vouch for it.
    Authorities(Vec<u8>),
}

/// Why no connection can be made at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// A host over HTTPS.
pub struct Https {
    client: reqwest::Client,
    base: String,
    token: HeaderValue,
}

impl Https {
    /// Sends to `base`, such as `https://127.0.0.1:8006`, with an API token `user@realm!name=secret`. Opens nothing yet.
    ///
    /// # Errors
    /// [`Unusable`] when one of them is none.
    pub fn new(base: &str, token: &str, trust: Trust) -> Result<Self, Unusable> {
        let mut token = HeaderValue::from_str(&format!("PVEAPIToken={token}"))
            .map_err(|_| Unusable("the API token has characters that no token has".to_owned()))?;
        token.set_sensitive(true);
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(trust)?)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            // A host closes what is idle for five seconds: a request on such a connection would be lost.
            .pool_idle_timeout(Duration::from_secs(4))
            .build()
            .map_err(|e| Unusable(format!("no client for {base} can be made: {e}")))?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), token })
    }

    async fn exchange(&self, call: Call) -> Result<Reply, reqwest::Error> {
        let url = format!("{}{}", self.base, call.target);
        let request = match call.verb {
            Verb::Get => self.client.get(url),
            Verb::Post => self.client.post(url),
            Verb::Put => self.client.put(url),
            Verb::Delete => self.client.delete(url),
        };
        let request = request.header(AUTHORIZATION, self.token.clone()).timeout(call.limit);
        let request = match call.form {
            Some(form) => request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form),
            None => request,
        };
        let mut response = request.send().await?;
        let status = response.status();
        let said =
            response.extensions().get::<hyper::ext::ReasonPhrase>().map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
        let reason = said.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned());
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await? {
            body.extend_from_slice(&part);
            if body.len() > PVE_ANSWER_MAX {
                break;
            }
        }
        Ok(Reply { status: status.as_u16(), reason, body })
    }
}

impl Transport for Https {
    async fn send(&self, call: Call) -> Result<Reply, NoReply> {
        match self.exchange(call).await {
            Ok(reply) if reply.body.len() > PVE_ANSWER_MAX => {
                Err(NoReply::Lost(format!("{} answers with more than {PVE_ANSWER_MAX} bytes", self.base)))
            }
            Ok(reply) => Ok(reply),
            // Before a connection stands nothing is sent.
            Err(error) if error.is_connect() || error.is_builder() => Err(NoReply::NotSent(self.no_answer(&error))),
            Err(error) => Err(NoReply::Lost(self.no_answer(&error))),
        }
    }
}

impl Https {
    fn no_answer(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("{} did not answer in time", self.base);
        }
        let mut cause: &(dyn std::error::Error + 'static) = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        match unpinned(cause) {
            Some(other) => format!("{} {other}", self.base),
            None => format!("{} cannot be reached: {cause}", self.base),
        }
    }
}

/// What [`Pinned`] has against a certificate: rustls shows it to programmers only.
fn unpinned<'e>(mut cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e Unpinned> {
    // An error of input and output is no source of the one around it.
    while let Some(inner) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        cause = inner;
    }
    let rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(other))) = cause.downcast_ref()? else {
        return None;
    };
    other.downcast_ref()
}

fn tls(trust: Trust) -> Result<rustls::ClientConfig, Unusable> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let versions = versions.map_err(|e| Unusable(e.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pins(pins) => Arc::new(Pinned { pins, provider }),
        Trust::Authorities(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|e| Unusable(format!("the authorities' certificates cannot be read: {e}")))?;
                roots.add(certificate).map_err(|e| Unusable(format!("an authority's certificate is none: {e}")))?;
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            verifier.map_err(|e| Unusable(format!("the authorities' certificates are none: {e}")))?
        }
    };
    Ok(versions.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes a certificate for what it is itself, whoever signed it, and whatever names and dates it has: as nodes do among each other.
/// Source: `PVE::APIServer::AnyEvent::check_cert_fingerprint`.
#[derive(Debug)]
struct Pinned {
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found: [u8; 32] = Sha256::digest(end_entity).into();
        if self.pins.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        let other = Unpinned(fingerprint(&found));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(other)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The host shows another certificate.
#[derive(Debug, thiserror::Error)]
#[error("shows a certificate that is none of the `fingerprints`; if it was renewed, add {0}")]
struct Unpinned(String);

/// A fingerprint as Proxmox VE shows it: `AA:BB:…`.
#[must_use]
pub fn fingerprint(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// The digest behind a fingerprint, with or without colons.
#[must_use]
pub fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    hex::decode(digits).ok()?.try_into().ok()
}
