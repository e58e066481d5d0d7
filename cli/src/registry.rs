//! Asks an image's registry which digest a tag has now. Knows nothing of topologies.
//!
//! It is the least of the registry's API that this takes: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>
//! and <https://distribution.github.io/distribution/spec/auth/token/>. Plain HTTP is spoken with this machine alone, as
//! Docker does.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use moorline_common::id::sha256_hex;
use moorline_common::registry::{Credentials, HUB, ImageName, is_digest};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::limits::{REGISTRY_ANSWER_MAX, REGISTRY_REDIRECTS_MAX, REGISTRY_TIMEOUT};

/// Where Docker Hub's images are asked for.
const HUB_HOST: &str = "registry-1.docker.io";
/// What a manifest may be: for one platform, or a list for several.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why a registry did not say which digest a tag has. Never repeats credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or none that can be trusted.
    #[error("`{host}` cannot be reached from this machine: {why}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// Why.
        why: String,
    },
    /// It wants credentials, or other ones.
    #[error("`{host}` does not let this machine in {}", if *.had_login { "by the credentials that it has" } else { "without credentials" })]
    Denied {
        /// Who was asked.
        host: String,
        /// Whether it was given any.
        had_login: bool,
    },
    /// No such image.
    #[error("`{host}` has no `{reference}` of `{repository}`")]
    Unknown {
        /// Who was asked.
        host: String,
        /// The name within the registry.
        repository: String,
        /// The tag.
        reference: String,
    },
    /// Anything else that is no digest.
    #[error("`{host}` gave no digest: {why}")]
    Answer {
        /// Who was asked.
        host: String,
        /// What it said instead.
        why: String,
    },
}

/// Asks registries, by the roots of trust of this machine.
pub struct Asker {
    tls: TlsConnector,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// A scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    tls: bool,
    host: String,
    port: u16,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Asker {
    /// One that trusts what this machine trusts.
    ///
    /// # Errors
    /// Words, when TLS cannot be set up.
    pub fn new() -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        // Without any, each connection says that it trusts nobody.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The digest that `name`'s tag has now.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn digest(&self, name: &ImageName, credentials: Option<&Credentials>) -> Result<String, RegistryError> {
        let host = if name.registry == HUB { HUB_HOST } else { &name.registry };
        let late = || RegistryError::Unreachable { host: host.to_owned(), why: "it does not answer in time".to_owned() };
        tokio::time::timeout(REGISTRY_TIMEOUT, self.ask(host, name, credentials)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn ask(&self, host: &str, name: &ImageName, credentials: Option<&Credentials>) -> Result<String, RegistryError> {
        let bad = |why: &str| RegistryError::Answer { host: host.to_owned(), why: why.to_owned() };
        let site = self.site(host).await?;
        let path = format!("/v2/{}/manifests/{}", name.repository, name.reference());
        let mut login = None;
        let (mut reply, answered) = self.follow(Method::HEAD, &site, &path, None).await?;
        if reply.status == StatusCode::UNAUTHORIZED {
            // The credentials are the registry's: nobody whom it sends on to may ask for them.
            if answered != site {
                return Err(bad("it sends on to somebody who wants credentials"));
            }
            let challenge = reply.headers.get(WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            login = Some(self.login(host, &site, challenge, &name.repository, credentials).await?);
            (reply, _) = self.follow(Method::HEAD, &site, &path, login.as_ref()).await?;
        }
        if reply.status.is_success()
            && let Some(digest) = reply.headers.get("docker-content-digest").and_then(|v| v.to_str().ok())
        {
            return if is_digest(digest) { Ok(digest.to_owned()) } else { Err(bad("what it calls a digest is none")) };
        }
        // Registries need not answer HEAD, nor name the digest: it is that of the manifest's bytes.
        if reply.status.is_success() || reply.status == StatusCode::METHOD_NOT_ALLOWED {
            (reply, _) = self.follow(Method::GET, &site, &path, login.as_ref()).await?;
        }
        match reply.status {
            StatusCode::OK if !reply.body.is_empty() => Ok(format!("sha256:{}", sha256_hex(&reply.body))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::Denied { host: host.to_owned(), had_login: credentials.is_some() })
            }
            StatusCode::NOT_FOUND => Err(RegistryError::Unknown {
                host: host.to_owned(),
                repository: name.repository.clone(),
                reference: name.reference().to_owned(),
            }),
            StatusCode::TOO_MANY_REQUESTS => Err(bad("it limits how often it is asked; try again later, or with credentials")),
            status => Err(bad(&format!("it answers with HTTP {status}"))),
        }
    }

    /// Where `host` is asked. Only this machine's own registries may do without TLS.
    async fn site(&self, host: &str) -> Result<Site, RegistryError> {
        let parsed: Option<Uri> = format!("https://{host}/").parse().ok();
        let site = parsed.as_ref().and_then(Site::of).ok_or_else(|| unreachable(host, "its name is none"))?;
        if site.is_loopback() && self.connect(&site).await.is_err() {
            let port = if host.ends_with(&format!(":{}", site.port)) { site.port } else { 80 };
            return Ok(Site { tls: false, port, ..site });
        }
        Ok(site)
    }

    /// Asks, and goes where it is sent on to: without credentials, when that is somebody else. Says who answered.
    async fn follow(&self, method: Method, site: &Site, path: &str, login: Option<&HeaderValue>) -> Result<(Reply, Site), RegistryError> {
        let (mut at, mut path, mut login) = (site.clone(), path.to_owned(), login.cloned());
        for _ in 0..=REGISTRY_REDIRECTS_MAX {
            let reply = self.once(method.clone(), &at, &path, login.as_ref()).await?;
            if !reply.status.is_redirection() {
                return Ok((reply, at));
            }
            let to = reply.headers.get(LOCATION).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<Uri>().ok());
            let Some(to) = to else { return Err(unreachable(&at.host, "it sends on to nowhere")) };
            path = to.path_and_query().map_or("/", |p| p.as_str()).to_owned();
            if to.authority().is_some() {
                let next = Site::of(&to).filter(|next| next.tls || !at.tls && next.is_loopback());
                let next = next.ok_or_else(|| unreachable(&at.host, "it sends on to where there is no TLS"))?;
                login = login.filter(|_| next == at);
                at = next;
            }
        }
        Err(unreachable(&site.host, "it sends on again and again"))
    }

    async fn once(&self, method: Method, site: &Site, path: &str, login: Option<&HeaderValue>) -> Result<Reply, RegistryError> {
        let failed = |e: &dyn std::fmt::Display| unreachable(&site.host, &e.to_string());
        let stream = self.connect(site).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        let driven = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::builder().method(method).uri(path).header(HOST, site.authority()).header(ACCEPT, MANIFESTS);
        request = request.header(USER_AGENT, concat!("moorctl/", env!("CARGO_PKG_VERSION")));
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
        let (head, body) = sender.send_request(request).await.map_err(|e| failed(&e))?.into_parts();
        let body = Limited::new(body, REGISTRY_ANSWER_MAX).collect().await.map_err(|e| failed(&e))?.to_bytes();
        drop(driven);
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    async fn connect(&self, site: &Site) -> Result<Box<dyn Stream>, RegistryError> {
        let failed = |e: &dyn std::fmt::Display| unreachable(&site.host, &e.to_string());
        let bare = site.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, site.port)).await.map_err(|e| failed(&e))?;
        if !site.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|e| failed(&e))?;
        Ok(Box::new(self.tls.connect(name, stream).await.map_err(|e| failed(&e))?))
    }

    /// What to say in `Authorization`, as the registry's challenge asks for it.
    async fn login(
        &self,
        host: &str,
        site: &Site,
        challenge: &str,
        repository: &str,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue, RegistryError> {
        let denied = || RegistryError::Denied { host: host.to_owned(), had_login: credentials.is_some() };
        let bad = |why: &str| RegistryError::Answer { host: host.to_owned(), why: why.to_owned() };
        if matches!(credentials, Some(Credentials::IdentityToken(_))) {
            return Err(bad("the login for it is an identity token, which is not used here; log in with a password or an access token"));
        }
        let basic = credentials.and_then(Credentials::basic).map(|text| secret("Basic ", &text));
        let (scheme, words) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.flatten().ok_or_else(denied);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(denied());
        }
        let realm: Option<Uri> = parameter(words, "realm").and_then(|realm| realm.parse().ok());
        let realm = realm.ok_or_else(|| bad("it does not say where tokens are given"))?;
        let from = Site::of(&realm).filter(|from| from.tls || !site.tls && from.is_loopback());
        let from = from.ok_or_else(|| bad("it gives tokens where there is no TLS"))?;
        let mut query = format!("scope={}", encoded(&format!("repository:{repository}:pull")));
        if let Some(service) = parameter(words, "service") {
            query.push_str(&format!("&service={}", encoded(&service)));
        }
        let path = match realm.path_and_query() {
            Some(path) if path.query().is_some() => format!("{path}&{query}"),
            Some(path) => format!("{path}?{query}"),
            None => format!("/?{query}"),
        };
        let (reply, _) = self.follow(Method::GET, &from, &path, basic.flatten().as_ref()).await?;
        if reply.status == StatusCode::UNAUTHORIZED || reply.status == StatusCode::FORBIDDEN {
            return Err(denied());
        }
        let token: Token = serde_json::from_slice(&reply.body).map_err(|_| bad(&format!("no token came, but HTTP {}", reply.status)))?;
        let text = token.token.or(token.access_token).map(Zeroizing::new).ok_or_else(|| bad("no token came"))?;
        secret("Bearer ", &text).ok_or_else(|| bad("the token that came is none"))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Site {
    fn of(uri: &Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: uri.host()?.to_owned(), port })
    }

    fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

fn unreachable(host: &str, why: &str) -> RegistryError {
    RegistryError::Unreachable { host: host.to_owned(), why: why.to_owned() }
}

fn secret(scheme: &str, text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&Zeroizing::new(format!("{scheme}{text}"))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The value of `key` in `realm="…",service="…"`.
fn parameter(words: &str, key: &str) -> Option<String> {
    let mut rest = words;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if name.trim_matches([' ', ',']).eq_ignore_ascii_case(key) {
            return Some(value.to_owned());
        }
        rest = next;
    }
}

/// For a query: everything but letters, digits and a few signs as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
