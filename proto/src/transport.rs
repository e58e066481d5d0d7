//! The client side of the wire's TLS, shared by the agent and `moorctl`: TLS 1.3 only, the hub's CA
//! pinned by its SubjectPublicKeyInfo. Certificates grant transport, never authority.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use moorline_common::id::sha256_hex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The DNS name in every hub certificate. Hubs are told apart by their CA, not by their address.
pub const HUB_SERVER_NAME: &str = "moorline-hub";
/// How long dialling and the TLS handshake may each take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A ping this often keeps the connection known to be alive.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// No answer to a ping within this ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client certificate with its key.
pub struct ClientIdentity {
    /// The leaf, then its CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// Why no TLS client could be made or no connection opened.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The certificate and key do not fit together or are malformed.
    #[error("the client certificate cannot be used: {0}")]
    Identity(#[source] rustls::Error),
    /// The address is no `host:port`.
    #[error("`{0}` is not an address of the form host:port")]
    Address(String),
    /// Nobody answers there, or not our hub.
    #[error("cannot reach the hub at {address}: {reason}")]
    Unreachable {
        /// The address that was dialled.
        address: String,
        /// The cause, with its own causes.
        reason: String,
    },
}

/// A TLS 1.3 client that accepts only a hub whose CA's SPKI hash is among `pins` (lowercase hex SHA-256).
///
/// # Errors
/// [`TransportError::Identity`] when the client certificate cannot be used.
pub fn client_config(pins: BTreeSet<String>, identity: Option<ClientIdentity>) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TransportError::Identity)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { pins, provider }));
    let mut config = match identity {
        Some(ClientIdentity { chain, key }) => builder.with_client_auth_cert(chain, key).map_err(TransportError::Identity)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Opens one HTTP/2 connection to the hub at `address` (`host:port`).
///
/// # Errors
/// [`TransportError::Address`] or [`TransportError::Unreachable`].
pub async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Channel, TransportError> {
    let uri: Uri = format!("https://{address}").parse().map_err(|_| TransportError::Address(address.to_owned()))?;
    if uri.port_u16().is_none() || uri.host().is_none() || uri.path() != "/" {
        return Err(TransportError::Address(address.to_owned()));
    }
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let dial = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (dial, connector) = (dial.clone(), TlsConnector::from(config.clone()));
        async move {
            let tcp = TcpStream::connect(&dial).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(HUB_SERVER_NAME).map_err(std::io::Error::other)?;
            let tls = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, tcp)).await??;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| TransportError::Unreachable { address: address.to_owned(), reason: error_chain(&e) })
}

/// An error and its causes on one line, repeats left out.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    // The transport's own outermost words say nothing.
    text.strip_prefix("transport error: ").map(str::to_owned).unwrap_or(text)
}

/// Lowercase hex SHA-256 of a certificate's SubjectPublicKeyInfo (as in RFC 7469, but hex); `None` when
/// it cannot be parsed.
#[must_use]
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(sha256_hex(parsed.public_key().raw))
}

/// Accepts a chain whose CA is pinned, and checks the leaf against that CA alone.
#[derive(Debug)]
struct PinnedCa {
    pins: BTreeSet<String>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|ca| spki_sha256(ca).is_some_and(|spki| self.pins.contains(&spki)));
        let Some(ca) = pinned else {
            return Err(rustls::Error::General("the hub's CA is not the pinned one".to_owned()));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
