//! The same over HTTPS, and against the API's own description.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::Client;
use crate::https::Server;
use crate::schema::Schema;
use crate::setup::{SECRET, Setup, TOKEN};
use crate::world::faults::Connections;

/// Takes one certificate, by its fingerprint, as nodes do among themselves.
#[derive(Debug)]
struct Pinned(String);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        if found == self.0 { Ok(ServerCertVerified::assertion()) } else { Err(rustls::Error::General("another certificate".to_owned())) }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// One call on a connection of its own: everything that comes back, as text.
async fn call(server: &Server, fingerprint: &str, head: &str, body: &str) -> std::io::Result<String> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(Pinned(fingerprint.to_owned()))).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.address()).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let text = format!(
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: PVEAPIToken={TOKEN}={SECRET}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn it_is_reached_over_https_by_its_certificate_which_can_change() {
    let client = Client::new(Setup::default());
    let server = Server::start(client.sim.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let pin = server.fingerprint();
    let answer = call(&server, &pin, "GET /api2/json/version", "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && body(&answer)["data"]["version"] == "9.1.3", "{answer}");
    let answer = call(&server, &pin, "GET /api2/json/nodes/pve-1/qemu/777/config", "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 Configuration file 'nodes/pve-1/qemu-server/777.conf' does not exist\r\n"), "{answer}");
    let upid = call(&server, &pin, "POST /api2/json/nodes/pve-1/qemu", "vmid=101&tags=a%3Bb").await.unwrap();
    assert!(body(&upid)["data"].as_str().unwrap().starts_with("UPID:pve-1:"), "{upid}");
    assert_eq!(client.get("/nodes").await[0]["ssl_fingerprint"], pin);
    let new = server.swap_certificate().unwrap();
    assert_eq!(client.get("/nodes").await[0]["ssl_fingerprint"], new);
    assert_ne!(new, pin);
    assert!(call(&server, &pin, "GET /api2/json/version", "").await.is_err());
    assert!(call(&server, &new, "GET /api2/json/version", "").await.is_ok());
}

#[tokio::test]
async fn connections_are_cut_hang_or_are_slow() {
    let client = Client::new(Setup::default());
    let server = Server::start(client.sim.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let pin = server.fingerprint();
    let set = |fault| client.sim.change(|world| world.faults.connections = fault);
    set(Connections::Cut);
    assert!(call(&server, &pin, "GET /api2/json/version", "").await.is_err());
    set(Connections::HalfOpen);
    assert!(tokio::time::timeout(Duration::from_millis(300), call(&server, &pin, "GET /api2/json/version", "")).await.is_err());
    set(Connections::Slow);
    let answer = tokio::time::timeout(Duration::from_secs(120), call(&server, &pin, "GET /api2/json/nodes/pve-1/lxc", "")).await.unwrap();
    assert_eq!(body(&answer.unwrap()), json!({ "data": [] }));
    set(Connections::Good);
    client.sim.change(|world| world.faults.unreachable = true);
    assert!(call(&server, &pin, "GET /api2/json/version", "").await.is_err());
}

#[tokio::test]
async fn it_is_controlled_beside_the_api() {
    let client = Client::new(Setup::default());
    let server = Server::start(client.sim.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let pin = server.fingerprint();
    let fault = json!({ "calls": [{ "path": "^/version$", "next": 1, "then": "lose-reply" }] }).to_string();
    assert!(call(&server, &pin, "PUT /sim/faults", &fault).await.unwrap().starts_with("HTTP/1.1 200"));
    // The connection ends without a word.
    let lost = call(&server, &pin, "GET /api2/json/version", "").await;
    assert!(lost.as_ref().map_or(true, String::is_empty), "{lost:?}");
    assert!(call(&server, &pin, "GET /api2/json/version", "").await.unwrap().starts_with("HTTP/1.1 200"));
    let hand = json!({ "set": { "vmid": 9000, "key": "cores", "value": "2" } }).to_string();
    assert!(call(&server, &pin, "POST /sim/hand", &hand).await.unwrap().starts_with("HTTP/1.1 200"));
    let effects = body(&call(&server, &pin, "GET /sim/effects", "").await.unwrap());
    assert_eq!((effects[0]["kind"].as_str(), effects[0]["by"].as_str()), (Some("config-set"), Some("hand")));
    let requests = body(&call(&server, &pin, "GET /sim/requests", "").await.unwrap());
    assert_eq!(
        (requests.as_array().unwrap().len(), requests[0]["path"].as_str(), requests[0]["status"].as_u64()),
        (2, Some("/version"), Some(200))
    );
    let world = body(&call(&server, &pin, "GET /sim/world", "").await.unwrap());
    assert_eq!(world["guests"]["9000"]["conf"]["cores"], "2");
    assert!(call(&server, &pin, "PUT /sim/faults", "{\"nonsense\":1}").await.unwrap().starts_with("HTTP/1.1 400"));
    let swapped = body(&call(&server, &pin, "POST /sim/certificate", "").await.unwrap());
    assert_eq!(swapped["fingerprint"], server.fingerprint());
}

#[tokio::test(start_paused = true)]
async fn with_the_official_description_every_call_is_checked_against_it() {
    let Some(path) = std::env::var_os("MOORLINE_PVE_SCHEMA") else {
        return println!("skipped: MOORLINE_PVE_SCHEMA names no apidoc.json");
    };
    let schema = Arc::new(Schema::parse(&std::fs::read(path).unwrap()).unwrap());
    let client = Client::new(Setup::two_nodes());
    client.sim.change(|world| world.set_schema(Some(schema)));
    let new = [("vmid", "101"), ("name", "db"), ("scsi0", "local-lvm:8,ssd=1"), ("net0", "virtio,bridge=vmbr0"), ("tags", "a;b")];
    client.done("POST", "/nodes/pve-1/qemu", &new).await;
    client.done("POST", "/nodes/pve-1/qemu/101/snapshot", &[("snapname", "one")]).await;
    client.done("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "102"), ("full", "1"), ("storage", "tank")]).await;
    client
        .done(
            "POST",
            "/nodes/pve-1/vzdump",
            &[("vmid", "101"), ("storage", "local"), ("remove", "0"), ("mode", "snapshot"), ("compress", "zstd")],
        )
        .await;
    client.done("DELETE", "/nodes/pve-1/qemu/102", &[("purge", "1"), ("destroy-unreferenced-disks", "0")]).await;
    let backups = client.get("/nodes/pve-1/storage/local/content?content=backup&vmid=101").await;
    let volid = crate::request::encode(backups[0]["volid"].as_str().unwrap());
    client.done("DELETE", &format!("/nodes/pve-1/storage/local/content/{volid}"), &[]).await;
    client.get("/nodes/pve-1/tasks?source=all&vmid=101&since=1").await;
    assert_eq!(client.sim.inspect(|world| world.wrong.clone()), Vec::<String>::new());
    let bad = [("net0", "virtio=01:24:11:00:00:01"), ("nonsense", "1"), ("cores", "0")];
    let (status, words) = client.no("PUT", "/nodes/pve-1/qemu/101/config", &bad).await;
    assert!(status == 400 && ["net0", "nonsense", "cores"].iter().all(|key| words.contains(key)), "{words}");
    assert_eq!(client.sim.inspect(|world| world.wrong.len()), 3);
}
