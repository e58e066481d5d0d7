//! A recording proxy in front of the engine's socket: knows every request that an agent made, and can
//! take the engine away and give it back.
//!
//! It reads request heads and the length of request bodies; all else is passed on byte for byte, so
//! event streams and upgraded connections go through untouched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::limits::REQUEST_HEAD_MAX;

/// One request that went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query, the API version left out.
    pub path: String,
}

impl Request {
    /// Whether it asks the engine to change something.
    #[must_use]
    pub fn mutates(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

/// A running proxy; ends with its value.
pub struct Proxy {
    socket: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    open: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    _runtime: tokio::runtime::Runtime,
}

impl Proxy {
    /// Listens at `socket` and passes everything on to `engine`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, engine: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (open, opened) = watch::channel(true);
        let (listens, listening) = watch::channel(false);
        let shared = Shared { engine: engine.to_owned(), requests: requests.clone(), open: opened };
        runtime.spawn(serve(socket.to_owned(), shared, listens));
        let proxy = Self { socket: socket.to_owned(), requests, open, listening, _runtime: runtime };
        proxy.settle(true)?;
        Ok(proxy)
    }

    fn settle(&self, wanted: bool) -> Result<()> {
        let (listening, socket) = (&self.listening, &self.socket);
        crate::wait::wait_until("the proxy has opened or closed its socket", crate::limits::SOON, || Ok(*listening.borrow() == wanted))
            .with_context(|| format!("proxy at {}", socket.display()))
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes the engine away: cuts every connection and removes the socket.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn cut(&self) -> Result<()> {
        let _ = self.open.send(false);
        self.settle(false)
    }

    /// Gives the engine back.
    ///
    /// # Errors
    /// When the socket cannot be made again.
    pub fn restore(&self) -> Result<()> {
        let _ = self.open.send(true);
        self.settle(true)
    }

    /// Forgets what went through so far.
    pub fn forget(&self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Everything that went through since the start or [`Self::forget`], in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests among them that ask the engine to change something.
    #[must_use]
    pub fn mutations(&self) -> Vec<Request> {
        self.requests().into_iter().filter(Request::mutates).collect()
    }
}

#[derive(Clone)]
struct Shared {
    engine: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    open: watch::Receiver<bool>,
}

async fn serve(socket: PathBuf, shared: Shared, listens: watch::Sender<bool>) {
    let mut open = shared.open.clone();
    loop {
        let _ = std::fs::remove_file(&socket);
        let Ok(listener) = UnixListener::bind(&socket) else { return };
        let _ = listens.send(true);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((client, _)) = accepted {
                        let shared = shared.clone();
                        tokio::spawn(async move {
                            let mut open = shared.open.clone();
                            tokio::select! {
                                () = connection(client, &shared) => {}
                                _ = open.wait_for(|open| !open) => {}
                            }
                        });
                    }
                }
                gone = open.wait_for(|open| !open) => {
                    if gone.is_err() { return }
                    break;
                }
            }
        }
        drop(listener);
        let _ = std::fs::remove_file(&socket);
        let _ = listens.send(false);
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
    }
}

async fn connection(client: UnixStream, shared: &Shared) {
    let Ok(engine) = UnixStream::connect(&shared.engine).await else { return };
    let (client_read, mut client_write) = client.into_split();
    let (mut engine_read, engine_write) = engine.into_split();
    tokio::select! {
        _ = requests(client_read, engine_write, shared) => {}
        _ = tokio::io::copy(&mut engine_read, &mut client_write) => {}
    }
}

/// How the body of a request ends.
enum Body {
    Length(u64),
    Chunked,
    Upgrade,
}

/// Passes requests on, one after the other, and records their heads.
async fn requests(client: OwnedReadHalf, mut engine: OwnedWriteHalf, shared: &Shared) -> Option<()> {
    let mut client = Buffered { from: client, bytes: Vec::new() };
    loop {
        let head = client.head().await?;
        let body = record(&head, shared)?;
        engine.write_all(&head).await.ok()?;
        match body {
            Body::Length(length) => client.pass(length, &mut engine).await?,
            Body::Chunked => loop {
                let line = client.line().await?;
                engine.write_all(&line).await.ok()?;
                let text = String::from_utf8_lossy(&line).into_owned();
                let size = u64::from_str_radix(text.trim().split(';').next()?, 16).ok()?;
                client.pass(size + 2, &mut engine).await?;
                if size == 0 {
                    break;
                }
            },
            Body::Upgrade => {
                engine.write_all(&client.bytes).await.ok()?;
                tokio::io::copy(&mut client.from, &mut engine).await.ok()?;
                engine.shutdown().await.ok()?;
                // The engine may go on talking: the other direction ends the connection.
                return std::future::pending().await;
            }
        }
    }
}

fn record(head: &[u8], shared: &Shared) -> Option<Body> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut body = Body::Length(0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => body = Body::Length(value.trim().parse().ok()?),
            "transfer-encoding" if value.to_ascii_lowercase().contains("chunked") => body = Body::Chunked,
            "upgrade" => {
                body = Body::Upgrade;
                break;
            }
            _ => {}
        }
    }
    let request = Request { method, path: without_version(&path).to_owned() };
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    Some(body)
}

/// `/v1.41/containers/json` → `/containers/json`.
fn without_version(path: &str) -> &str {
    match path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| rest.split_at(at).1)) {
        Some(rest) => rest,
        None => path,
    }
}

struct Buffered {
    from: OwnedReadHalf,
    bytes: Vec<u8>,
}

impl Buffered {
    async fn fill(&mut self) -> Option<()> {
        let read = self.from.read_buf(&mut self.bytes).await.ok()?;
        (read > 0 && self.bytes.len() <= REQUEST_HEAD_MAX * 16).then_some(())
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(end.len()).position(|w| w == end) {
                let rest = self.bytes.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.bytes, rest));
            }
            if self.bytes.len() > REQUEST_HEAD_MAX {
                return None;
            }
            self.fill().await?;
        }
    }

    async fn head(&mut self) -> Option<Vec<u8>> {
        self.until(b"\r\n\r\n").await
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        self.until(b"\r\n").await
    }

    async fn pass(&mut self, mut length: u64, to: &mut OwnedWriteHalf) -> Option<()> {
        while length > 0 {
            if self.bytes.is_empty() {
                self.fill().await?;
            }
            let take = self.bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let rest = self.bytes.split_off(take);
            let part = std::mem::replace(&mut self.bytes, rest);
            to.write_all(&part).await.ok()?;
            length -= u64::try_from(take).unwrap_or(0);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_version_is_left_out_of_a_recorded_path() {
        assert_eq!(without_version("/v1.41/containers/json?all=true"), "/containers/json?all=true");
        assert_eq!(without_version("/_ping"), "/_ping");
    }

    #[test]
    fn requests_on_one_connection_are_told_apart_by_their_bodies() {
        let folder = tempfile::tempdir().unwrap();
        let (engine, socket) = (folder.path().join("engine"), folder.path().join("proxy"));
        let upstream = std::os::unix::net::UnixListener::bind(&engine).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = upstream.accept().unwrap();
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut all).unwrap();
            all
        });
        let proxy = Proxy::start(&socket, &engine).unwrap();
        let sent = b"POST /v1.41/containers/create?name=a HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /GET /_ping HTTP/1.1\r\n\r\n\
            POST /images/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nDELETE /volumes/x HTTP/1.1\r\n\r\n";
        let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        std::io::Write::write_all(&mut client, sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(echo.join().unwrap(), sent);
        let seen: Vec<String> = proxy.requests().into_iter().map(|r| format!("{} {}", r.method, r.path)).collect();
        assert_eq!(seen, ["POST /containers/create?name=a", "GET /_ping", "POST /images/create", "DELETE /volumes/x"]);
        assert_eq!(proxy.mutations().len(), 3);
        proxy.cut().unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_err());
        proxy.restore().unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }
}
