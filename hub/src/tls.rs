//! The listener: TCP and TLS up to connections whose peers are known.
//!
//! Handshakes run beside each other, bounded in number and time ([`crate::admission`] says whose turn it is). Who shows no certificate gets in only
//! to join and to ask for health, and such connections are few.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use moorline_common::id::ClusterId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::admission::{Admission, Anonymous, Arrival};
use crate::auth::{Peer, PeerCertificate};
use crate::hub::Hub;
use crate::limits;
use crate::pki::{Pki, PkiError};

/// Why no TLS server could be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA made no certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The pieces do not fit together.
    #[error("cannot set up TLS: {0}")]
    Setup(String),
}

/// A TLS 1.3 server with a fresh certificate of `pki`, for clients of the same CA and for anonymous ones.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(pki: &Pki, now: SystemTime) -> Result<ServerConfig, TlsError> {
    let setup = |e: &dyn std::fmt::Display| TlsError::Setup(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca().clone()).map_err(|e| setup(&e))?;
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| setup(&e))?;
    let (chain, key) = pki.server_certificate(now)?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| setup(&e))?
        .with_client_cert_verifier(Arc::new(Tolerant { inner, provider }))
        .with_single_cert(chain, key)
        .map_err(|e| setup(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Sessions live for days: resumption would only cost memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies client certificates, and lets one in that expired not too long ago: by it an agent that
/// was away may renew, and do nothing else ([`Peer`] refuses the rest).
#[derive(Debug)]
struct Tolerant {
    inner: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Tolerant {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = match self.inner.verify_client_cert(end_entity, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(e @ (CertificateError::Expired | CertificateError::ExpiredContext { .. }))) => {
                rustls::Error::InvalidCertificate(e)
            }
            other => return other,
        };
        let end = X509Certificate::from_der(end_entity).ok().and_then(|(_, c)| u64::try_from(c.validity().not_after.timestamp()).ok());
        match end {
            Some(end) if now.as_secs().saturating_sub(end) <= limits::EXPIRED_RENEWAL_MAX.as_secs() => {
                let last_valid = UnixTime::since_unix_epoch(Duration::from_secs(end.saturating_sub(1)));
                self.inner.verify_client_cert(end_entity, intermediates, last_valid)
            }
            Some(_) | None => Err(refused),
        }
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
        self.inner.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }
}

/// An accepted connection.
pub struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    /// What a connection without a certificate may still take.
    allowance: Option<Allowance>,
    /// Given back when the connection ends.
    _permits: (OwnedSemaphorePermit, Option<Anonymous>),
}

/// What a stranger may take of the hub on one connection.
struct Allowance {
    deadline: Pin<Box<Sleep>>,
    /// Bytes that it may still send.
    bytes: usize,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(allowance) = &mut this.allowance else { return Pin::new(&mut this.tls).poll_read(context, buffer) };
        if allowance.bytes == 0 || allowance.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "connections without a certificate are short")));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.tls).poll_read(context, buffer);
        allowance.bytes = allowance.bytes.saturating_sub(buffer.filled().len().saturating_sub(before));
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

/// Accepts connections until `shutdown` and hands them to `accepted`.
pub struct Listener {
    hub: Hub,
    tcp: TcpListener,
    accepted: mpsc::Sender<io::Result<Connection>>,
    admission: Admission,
    connections: Arc<Semaphore>,
}

impl Listener {
    /// A listener of `hub` on `tcp`.
    #[must_use]
    pub fn new(hub: Hub, tcp: TcpListener, accepted: mpsc::Sender<io::Result<Connection>>) -> Self {
        let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        Self { hub, tcp, accepted, admission: Admission::default(), connections }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, config: ServerConfig, shutdown: CancellationToken) {
        let mut acceptor = TlsAcceptor::from(Arc::new(config));
        let mut made_ms = self.hub.clock.monotonic_ms();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.accept() => accepted,
            };
            let Some((tcp, address, arrival, connection)) = accepted else { continue };
            let now_ms = self.hub.clock.monotonic_ms();
            if u128::from(now_ms.saturating_sub(made_ms)) >= limits::SERVER_CERT_RENEWAL.as_millis() {
                match server_config(&self.hub.pki, SystemTime::now()) {
                    Ok(config) => (acceptor, made_ms) = (TlsAcceptor::from(Arc::new(config)), now_ms),
                    Err(error) => tracing::error!(%error, "no fresh certificate for the hub; the old one stays in use"),
                }
            }
            let handshake = Handshake {
                acceptor: acceptor.clone(),
                cluster: self.hub.cluster.clone(),
                accepted: self.accepted.clone(),
                arrival,
                connection,
            };
            tokio::spawn(handshake.run(tcp, address));
        }
    }

    /// The next TCP connection; one without room for it is closed at once, so that it holds up nobody.
    async fn accept(&self) -> Option<(TcpStream, SocketAddr, Arrival, OwnedSemaphorePermit)> {
        let (tcp, address) = match self.tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                return None;
            }
        };
        let arrival = self.admission.arrive(address.ip());
        let Some((arrival, connection)) = arrival.zip(self.connections.clone().try_acquire_owned().ok()) else {
            tracing::debug!(%address, "no room for this connection");
            return None;
        };
        Some((tcp, address, arrival, connection))
    }
}

/// One handshake under way.
struct Handshake {
    acceptor: TlsAcceptor,
    cluster: ClusterId,
    accepted: mpsc::Sender<io::Result<Connection>>,
    arrival: Arrival,
    connection: OwnedSemaphorePermit,
}

impl Handshake {
    async fn run(self, tcp: TcpStream, address: SocketAddr) {
        let _ = tcp.set_nodelay(true);
        let turn = self.arrival.turn().await;
        let Some(tls) = self.shake(tcp, address).await else { return };
        drop(turn);
        let certificate = match tls.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            Some(der) => match PeerCertificate::read(der, &self.cluster) {
                Ok(certificate) => Some(certificate),
                Err(error) => return tracing::warn!(%address, %error, "connection refused"),
            },
            None => None,
        };
        let anonymous = match certificate {
            Some(_) => None,
            None => match self.arrival.anonymous() {
                Some(place) => Some(place),
                None => return tracing::warn!(%address, "too many connections without a certificate"),
            },
        };
        let allowance = anonymous
            .as_ref()
            .map(|_| Allowance { deadline: Box::pin(tokio::time::sleep(limits::ANONYMOUS_LIFE)), bytes: limits::ANONYMOUS_BYTES_MAX });
        let connection = Connection { tls, peer: Peer::new(address, certificate), allowance, _permits: (self.connection, anonymous) };
        drop(self.arrival);
        let _ = self.accepted.send(Ok(connection)).await;
    }

    /// Shakes hands. A slow peer has to go once others wait, and in any case at the end of its time.
    async fn shake(&self, tcp: TcpStream, address: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let begun = Instant::now();
        let mut shaking = std::pin::pin!(self.acceptor.accept(tcp));
        loop {
            match tokio::time::timeout(limits::HANDSHAKE_PATIENCE, &mut shaking).await {
                Ok(Ok(tls)) => return Some(tls),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "handshake failed");
                    return None;
                }
                Err(_) if begun.elapsed() >= limits::HANDSHAKE_TIMEOUT || self.arrival.is_pressed() => {
                    tracing::debug!(%address, "handshake timed out");
                    return None;
                }
                Err(_) => {}
            }
        }
    }
}
