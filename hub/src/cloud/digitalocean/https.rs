//! The way to the API: HTTPS, by the machine's authorities and those of one more file.

use std::sync::Arc;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::super::budgets::{ANSWER_MAX, CA_MAX, CALL_TIMEOUT, CONNECT_TIMEOUT, IDLE_TIMEOUT};
use super::super::config::CloudConfig;
use super::client::{NoReply, Reply, Request, Transport, Verb};

/// Why no connection can be made at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// The API over HTTPS. Redirects are not followed.
#[derive(Debug)]
pub struct Https {
    client: reqwest::Client,
}

impl Https {
    /// As the configuration says. Opens nothing yet.
    ///
    /// # Errors
    /// [`Unusable`] when the authorities' file cannot be read, or holds none.
    pub fn new(config: &CloudConfig) -> Result<Self, Unusable> {
        let mut roots = RootCertStore::empty();
        // Without any, each connection says that it trusts nobody.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &config.ca_file {
            add(&mut roots, path)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(|e| Unusable(e.to_string()))?.with_root_certificates(roots).with_no_client_auth();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT);
        // What listens on this machine is reached without a proxy.
        let builder = if is_loopback(&config.url) { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|e| Unusable(format!("no client for {} can be made: {e}", config.url)))?;
        Ok(Self { client })
    }

    async fn exchange(&self, request: Request) -> Result<Reply, reqwest::Error> {
        let builder = match request.verb {
            Verb::Get => self.client.get(request.url),
            Verb::Post => self.client.post(request.url),
            Verb::Delete => self.client.delete(request.url),
        };
        // Held to be visible ASCII when it was read.
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", request.token.expose())).unwrap_or(HeaderValue::from_static("Bearer"));
        bearer.set_sensitive(true);
        let builder = builder.header(AUTHORIZATION, bearer);
        let builder = match request.body {
            Some(body) => builder.header(CONTENT_TYPE, "application/json").body(body.expose().to_owned()),
            None => builder,
        };
        let mut response = builder.send().await?;
        let number = |headers: &HeaderMap, name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut reply = Reply {
            status: response.status().as_u16(),
            remaining: number(response.headers(), "ratelimit-remaining"),
            reset: number(response.headers(), "ratelimit-reset"),
            retry_after: number(response.headers(), "retry-after"),
            body: Vec::new(),
        };
        // One part too many is kept: it shows that there is more than is read.
        while reply.body.len() <= ANSWER_MAX
            && let Some(part) = response.chunk().await?
        {
            reply.body.extend_from_slice(&part);
        }
        Ok(reply)
    }
}

impl Transport for Https {
    async fn send(&self, request: Request) -> Result<Reply, NoReply> {
        let host = request.url.host_str().unwrap_or_default().to_owned();
        self.exchange(request).await.map_err(|error| {
            // Before a connection stands nothing is sent.
            let is_sent = !(error.is_connect() || error.is_builder());
            let words = no_answer(&host, &error);
            if is_sent { NoReply::Lost(words) } else { NoReply::NotSent(words) }
        })
    }
}

fn no_answer(host: &str, error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("{host} did not answer in time");
    }
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("{host} cannot be reached: {cause}")
}

fn add(roots: &mut RootCertStore, path: &std::path::Path) -> Result<(), Unusable> {
    let wrong = |why: String| Unusable(format!("ca_file {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if size > CA_MAX {
        return Err(wrong(format!("it has {size} bytes; at most {CA_MAX} are read")));
    }
    let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| wrong(format!("a certificate cannot be read: {e}")))?;
        roots.add(certificate).map_err(|e| wrong(format!("a certificate is none of an authority: {e}")))?;
        count += 1;
    }
    if count == 0 { Err(wrong("it holds no certificate in PEM".to_owned())) } else { Ok(()) }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}
