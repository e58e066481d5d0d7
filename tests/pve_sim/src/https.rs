//! The cluster over HTTPS, with a certificate of its own and connections that go wrong.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::control;
use crate::request::{Answer, Request};
use crate::sim::{Cut, Sim};
use crate::world::faults::Connections;

/// Bodies that are longer are not taken. pveproxy takes 512 KiB of parameters.
const BODY_MAX: usize = 512 << 10;
/// How long a byte of a slow answer takes.
const SLOW: Duration = Duration::from_millis(5);

/// A server that listens; it ends with its value.
pub struct Server {
    address: SocketAddr,
    sim: Sim,
    certificate: Arc<Mutex<Certificate>>,
    task: JoinHandle<()>,
}

struct Certificate {
    acceptor: TlsAcceptor,
    fingerprint: String,
    pem: String,
}

impl Certificate {
    fn make() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let fingerprint = Sha256::digest(made.cert.der()).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = config.with_single_cert(vec![made.cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint, pem: made.cert.pem() })
    }
}

impl Server {
    /// Listens at an address.
    ///
    /// # Errors
    /// When that cannot be had.
    pub async fn start(sim: Sim, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
        let address = listener.local_addr()?;
        let certificate = Arc::new(Mutex::new(Certificate::make()?));
        let task = tokio::spawn(serve(listener, sim.clone(), certificate.clone()));
        let server = Self { address, sim, certificate, task };
        let fingerprint = server.fingerprint();
        server.sim.change(|world| world.fingerprint = Some(fingerprint));
        Ok(server)
    }

    /// Where it is reached: `https://127.0.0.1:…`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The SHA-256 of its certificate, in the form of Proxmox VE: `AA:BB:…`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).fingerprint.clone()
    }

    /// Its certificate, which nobody else signed, in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).pem.clone()
    }

    /// The cluster behind it.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Takes another certificate, as a host does when it renews its own. Returns the new fingerprint. Connections that are open stay.
    ///
    /// # Errors
    /// When none can be made.
    pub fn swap_certificate(&self) -> Result<String> {
        let fingerprint = swap(&self.sim, &self.certificate)?;
        Ok(fingerprint)
    }
}

fn swap(sim: &Sim, certificate: &Mutex<Certificate>) -> Result<String> {
    let new = Certificate::make()?;
    let fingerprint = new.fingerprint.clone();
    *certificate.lock().unwrap_or_else(PoisonError::into_inner) = new;
    sim.change(|world| world.fingerprint = Some(fingerprint.clone()));
    Ok(fingerprint)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, sim: Sim, certificate: Arc<Mutex<Certificate>>) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        let acceptor = certificate.lock().unwrap_or_else(PoisonError::into_inner).acceptor.clone();
        let (sim, certificate) = (sim.clone(), certificate.clone());
        connections.spawn(async move {
            let fault = sim.inspect(|world| if world.faults.unreachable { Connections::Cut } else { world.faults.connections });
            match fault {
                Connections::Cut => {}
                Connections::HalfOpen => {
                    let _open = stream;
                    std::future::pending::<()>().await;
                }
                Connections::Good => connection(stream, acceptor, sim, certificate, false).await,
                Connections::Slow => connection(stream, acceptor, sim, certificate, true).await,
            }
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, sim: Sim, certificate: Arc<Mutex<Certificate>>, is_slow: bool) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| respond(sim.clone(), certificate.clone(), request));
    let io = TokioIo::new(Trickle { inner: stream, is_slow, pause: None });
    // Whatever ends a connection ends it.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

async fn respond(
    sim: Sim,
    certificate: Arc<Mutex<Certificate>>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, std::io::Error> {
    let header = |name: http::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let call = Request {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        authorization: header(http::header::AUTHORIZATION),
        cookie: header(http::header::COOKIE),
        csrf: request.headers().get("csrfpreventiontoken").and_then(|value| value.to_str().ok()).map(str::to_owned),
        content_type: header(http::header::CONTENT_TYPE),
        body: Vec::new(),
        on_behalf: String::new(),
    };
    let body = http_body_util::Limited::new(request.into_body(), BODY_MAX).collect().await;
    let Ok(body) = body else { return Ok(response(&Answer::plain(413, "request entity too large"))) };
    let call = Request { body: body.to_bytes().to_vec(), ..call };
    if call.path.starts_with("/sim/") {
        let swap = || swap(&sim, &certificate).map_err(|error| error.to_string());
        return Ok(response(&control::answer(&sim, &call, swap)));
    }
    match sim.answer(call).await {
        Ok(answer) => Ok(response(&answer)),
        Err(Cut::Closed) => Err(std::io::Error::other("the connection is cut")),
        Err(Cut::Hangs) => std::future::pending().await,
    }
}

fn response(answer: &Answer) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(Bytes::from(answer.body.clone())));
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(reason) = ReasonPhrase::try_from(answer.reason.as_bytes()) {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json;charset=UTF-8"));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("max-age=0"));
    headers.insert(http::header::PRAGMA, http::HeaderValue::from_static("no-cache"));
    headers.insert(http::header::SERVER, http::HeaderValue::from_static("pve-api-daemon/3.0"));
    response
}

/// A stream that writes as fast as it can, or a byte at a time.
struct Trickle<S> {
    inner: S,
    is_slow: bool,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Trickle<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Trickle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        if !self.is_slow {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(SLOW)));
        if pause.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.pause = None;
        Pin::new(&mut self.inner).poll_write(cx, buf.get(..1).unwrap_or(buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
