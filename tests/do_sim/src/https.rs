//! The account over HTTPS, with a certificate authority of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::control;
use crate::request::{Request, Response};
use crate::sim::{Cut, Sim};

/// Bodies that are longer are not taken.
const BODY_MAX: usize = 1 << 20;

/// A server that listens; it ends with its value.
pub struct Server {
    address: SocketAddr,
    sim: Sim,
    authority_pem: String,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// Listens at an address, and lets the account's time go by meanwhile.
    ///
    /// # Errors
    /// When that cannot be had.
    pub async fn start(sim: Sim, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
        let address = listener.local_addr()?;
        let (acceptor, authority_pem) = certificates(&address)?;
        let clock = sim.clone();
        let tasks = [tokio::spawn(serve(listener, sim.clone(), acceptor)), tokio::spawn(async move { clock.keep_time().await })];
        Ok(Self { address, sim, authority_pem, tasks })
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

    /// The certificate of the authority that signed its own, in PEM: who trusts that one trusts it.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The account behind it.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn certificates(address: &SocketAddr) -> Result<(TlsAcceptor, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "Simulated cloud");
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    names.extend(Some(address.ip().to_string()).filter(|ip| ip != "127.0.0.1"));
    let mut params = CertificateParams::new(names)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let own = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = config.with_single_cert(vec![own.der().clone(), authority.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem()))
}

async fn serve(listener: TcpListener, sim: Sim, acceptor: TlsAcceptor) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(connection(stream, acceptor.clone(), sim.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, sim: Sim) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| respond(sim.clone(), request));
    // Whatever ends a connection ends it.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(sim: Sim, request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, std::io::Error> {
    let header = |name: http::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let call = Request {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        authorization: header(http::header::AUTHORIZATION),
        body: Vec::new(),
        base: header(http::header::HOST).map(|host| format!("https://{host}")).unwrap_or_default(),
    };
    let body = http_body_util::Limited::new(request.into_body(), BODY_MAX).collect().await;
    let Ok(body) = body else { return Ok(written(Response::failure(413, "payload_too_large", "The request is too large."))) };
    let call = Request { body: body.to_bytes().to_vec(), ..call };
    if call.path.starts_with(control::PREFIX) {
        return Ok(written(control::answer(&sim, &call)));
    }
    match sim.answer(call).await {
        Ok(response) => Ok(written(response)),
        Err(Cut::Closed) => Err(std::io::Error::other("the connection is cut")),
        Err(Cut::Hangs) => std::future::pending().await,
    }
}

fn written(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut written = hyper::Response::new(Full::new(Bytes::from(response.body)));
    *written.status_mut() = http::StatusCode::from_u16(response.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in response.headers {
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::try_from(value)) {
            written.headers_mut().insert(name, value);
        }
    }
    written
}
