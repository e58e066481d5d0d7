//! The account over HTTPS, in this process and as a program of its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A panic here is a failed test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use moorline_do_sim::https::Server;
use moorline_do_sim::setup::TOKEN;
use moorline_do_sim::{CallFault, Faults, Setup, Sim, Wrong};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who trusts one authority.
struct Line {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Line {
    fn new(address: SocketAddr, authority: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Self { address, connector: TlsConnector::from(Arc::new(config)) }
    }

    /// The answer as it is sent: nothing when the connection ends without one.
    async fn send(&self, call: &str, body: &str) -> std::io::Result<String> {
        let stream = TcpStream::connect(self.address).await?;
        let mut stream = self.connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await?;
        let (host, length) = (self.address, body.len());
        let head = format!(
            "{call} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The body of an answer with this status.
    async fn call(&self, call: &str, body: &Value, status: u16) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(call, &body).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{call}: {answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or(Value::Null)
    }
}

fn wanted() -> Value {
    json!({ "name": "web", "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-12-x64", "user_data": "hello\n" })
}

#[tokio::test]
async fn it_is_reached_over_https_by_its_authority_and_links_lead_back_to_it() {
    let server = Server::start(Sim::new(Setup::prompt()), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let line = Line::new(server.address(), server.authority_pem());
    for _ in 0..3 {
        line.call("POST /v2/droplets", &wanted(), 202).await;
    }
    let list = line.call("GET /v2/droplets?per_page=2", &Value::Null, 200).await;
    assert_eq!(list["links"]["pages"]["next"], format!("{}/v2/droplets?page=2&per_page=2", server.url()));
    let answer = line.send("GET /v2/account", "").await.unwrap().to_lowercase();
    assert!(answer.contains("\r\nratelimit-remaining: ") && answer.contains("\r\ncontent-type: application/json"), "{answer}");
    let stranger = Server::start(Sim::new(Setup::prompt()), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert!(Line::new(stranger.address(), server.authority_pem()).send("GET /v2/account", "").await.is_err());
}

#[tokio::test]
async fn connections_are_cut_after_the_effect_or_hang() {
    let server = Server::start(Sim::new(Setup::prompt()), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let line = Line::new(server.address(), server.authority_pem());
    let next = |then| {
        let calls = vec![CallFault { method: None, path: String::new(), spares: 0, next: Some(1), then }];
        server.sim().change(|world| world.faults = Faults { calls, ..Faults::default() });
    };
    next(Wrong::LoseReply);
    let lost = line.send("POST /v2/droplets", &wanted().to_string()).await;
    assert!(lost.as_ref().map_or(true, String::is_empty), "{lost:?}");
    assert_eq!(server.sim().inspect(|world| world.living().len()), 1);
    next(Wrong::Hang);
    let body = wanted().to_string();
    let hung = tokio::time::timeout(Duration::from_millis(300), line.send("POST /v2/droplets", &body)).await;
    assert!(hung.is_err());
    assert_eq!(server.sim().inspect(|world| world.living().len()), 2);
}

#[tokio::test]
async fn it_is_controlled_beside_the_api() {
    let server = Server::start(Sim::new(Setup::default()), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let line = Line::new(server.address(), server.authority_pem());
    let faults = json!({ "calls": [{ "method": "POST", "next": 1, "then": { "status-before": 500 } }] });
    line.call("POST /control/faults", &faults, 200).await;
    assert_eq!(line.call("GET /control/faults", &Value::Null, 200).await["calls"][0]["then"], json!({ "status-before": 500 }));
    line.call("POST /v2/droplets", &wanted(), 500).await;
    let latencies = line.call("POST /control/latencies", &json!({ "active": 7 }), 200).await;
    assert_eq!((latencies["active"].as_u64(), latencies["listed"].as_u64()), (Some(7), Some(5_000)));
    line.call("POST /control/latencies", &json!({ "nonsense": 7 }), 400).await;
    let id = line.call("POST /v2/droplets", &wanted(), 202).await["droplet"]["id"].clone();
    line.call("POST /control/advance", &json!({ "ms": 60_000 }), 200).await;
    assert_eq!(line.call("GET /v2/droplets", &Value::Null, 200).await["droplets"][0]["status"], "active");
    line.call("POST /control/hand", &json!({ "rename": { "id": id, "name": "other" } }), 200).await;
    let world = line.call("GET /control/world", &Value::Null, 200).await;
    assert_eq!(world["droplets"][id.to_string()]["name"], "other");
    assert_eq!(line.call("GET /control/billing", &Value::Null, 200).await["alive"][0]["id"], id);
    line.call("POST /control/hand", &json!({ "delete": { "id": id } }), 200).await;
    let billing = line.call("GET /control/billing", &Value::Null, 200).await;
    assert_eq!((billing["alive"].clone(), billing["lines"].as_array().unwrap().len()), (json!([]), 1));
    let requests = line.call("GET /control/requests", &Value::Null, 200).await;
    let seen: Vec<u64> = requests.as_array().unwrap().iter().map(|call| call["status"].as_u64().unwrap()).collect();
    assert_eq!((seen, requests[0]["token"].as_str()), (vec![500, 202, 200], Some("provisioning")));
    assert_eq!(line.call("GET /control/wrong", &Value::Null, 200).await, json!([]));
    line.call("POST /control/hand", &json!({ "delete": { "id": 7 } }), 400).await;
    line.call("GET /control/nonsense", &Value::Null, 400).await;
}

/// Waits for it.
async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match found() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

fn is_alive(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// Says what it was told and who it is, and stays.
const PROGRAM: &str = "#!/bin/sh\nread line\necho \"$line $DROPLET_NAME $DROPLET_BOOT process=$$\"\nsleep 1000\n";

fn program(folder: &Path) -> PathBuf {
    let path = folder.join("first-boot");
    std::fs::write(&path, PROGRAM).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Starts the program, and a droplet that runs its first boot; the process of that.
async fn booted(folder: &Path) -> (tokio::process::Child, Line, u32) {
    let (ready, certificate, logs) = (folder.join("ready.json"), folder.join("ca.pem"), folder.join("logs"));
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_do-sim"));
    command.args(["--token", TOKEN, "--read-token", "dop_v1_reader", "--pace", "none", "--latency", "active=20", "--no-limits"]);
    command.arg("--ready").arg(&ready).arg("--certificate").arg(&certificate);
    command.arg("--boot").arg(program(folder)).arg("--boot-logs").arg(&logs);
    if let Some(schema) = std::env::var_os("MOORLINE_DO_SCHEMA") {
        command.arg("--schema").arg(schema);
    }
    let process = command.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let told: Value = until("that it listens", || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok()).await;
    let address = told["url"].as_str().unwrap().trim_start_matches("https://").parse().unwrap();
    let line = Line::new(address, &std::fs::read_to_string(&certificate).unwrap());
    let id = line.call("POST /v2/droplets", &wanted(), 202).await["droplet"]["id"].clone();
    // Nobody asks for it: it comes by itself.
    let log = || std::fs::read_to_string(logs.join(format!("{id}.log"))).ok().filter(|log| log.ends_with('\n'));
    let said = until("the first boot", log).await;
    let boot = said.trim().strip_prefix("hello web 1 process=").unwrap().parse().unwrap();
    assert!(is_alive(boot));
    (process, line, boot)
}

#[tokio::test]
async fn as_a_program_it_boots_processes_and_ends_them_with_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, line, boot) = booted(folder.path()).await;
    assert_eq!(line.call("GET /v2/droplets", &Value::Null, 200).await["droplets"][0]["name"], "web");
    assert_eq!(line.call("GET /control/wrong", &Value::Null, 200).await, json!([]));
    let id = i32::try_from(process.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(process.wait().await.unwrap().success());
    until("the end of what it booted", || (!is_alive(boot)).then_some(())).await;
}

#[tokio::test]
async fn what_it_boots_also_ends_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, _, boot) = booted(folder.path()).await;
    process.kill().await.unwrap();
    until("the end of what it booted", || (!is_alive(boot)).then_some(())).await;
}
