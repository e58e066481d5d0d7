//! A simulated DigitalOcean as a process of its own, reached over HTTPS like the real one, and what people do there by hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use moorline_do_sim::Faults;
use moorline_do_sim::setup::{READ_TOKEN, TOKEN};
use moorline_do_sim::world::hand::Hand;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::fleet::Fleet;
use crate::limits::{COMMAND, SOON};
use crate::process::Process;
use crate::wait::wait_for;

/// Where the API's official description stands, if anywhere: then every call of every hub is held to it.
const SCHEMA: &str = "MOORLINE_DO_SCHEMA";

/// An account at a cloud. It ends with its value.
pub struct CloudSim {
    process: Process,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
    folder: PathBuf,
}

impl CloudSim {
    /// Starts one with its files in `folder`; `more` as the program takes it.
    ///
    /// # Errors
    /// When the program is not built or does not start.
    pub fn start(binaries: &Binaries, folder: &Path, more: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (ready, certificate) = (folder.join("ready.json"), folder.join("ca.pem"));
        let mut command = Command::new(&binaries.do_sim);
        command.arg("--ready").arg(&ready).arg("--certificate").arg(&certificate).arg("--no-limits").args(more);
        if let Some(schema) = std::env::var_os(SCHEMA) {
            command.arg("--schema").arg(schema);
        }
        let mut process = Process::start("do-sim", command, &folder.join("do-sim.log"))?;
        let told = wait_for("the simulated cloud listens", SOON, || {
            process.check_alive()?;
            Ok(std::fs::read(&ready).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()))
        })?;
        let url = told.get("url").and_then(Value::as_str).context("do-sim tells no url")?.to_owned();
        for (name, token) in [("inventory.token", READ_TOKEN), ("provision.token", TOKEN)] {
            std::fs::write(folder.join(name), format!("{token}\n"))?;
            std::fs::set_permissions(folder.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = client(&std::fs::read(&certificate)?)?;
        Ok(Self { process, runtime, client, url, folder: folder.to_owned() })
    }

    /// What a hub's configuration says of it.
    #[must_use]
    pub fn config(&self) -> String {
        let (url, folder) = (&self.url, self.folder.display());
        format!(
            "[cloud.digitalocean]\nurl = \"{url}\"\nca_file = \"{folder}/ca.pem\"\ninventory_token_file = \"{folder}/inventory.token\"\n\
             provision_token_file = \"{folder}/provision.token\"\nsync_every_s = 30\n"
        )
    }

    /// Lets the hub of `fleet` use it from its next start on.
    ///
    /// # Errors
    /// When the hub's configuration cannot be written.
    pub fn connect(&self, fleet: &Fleet) -> Result<()> {
        let path = fleet.hub_dir().join("hub.toml");
        let old = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(&path, format!("{old}\n{}", self.config()))?)
    }

    fn ask(&self, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("{}/control/{path}", self.url);
        let request = match body {
            Some(body) => self.client.post(&url).body(body.to_string()),
            None => self.client.get(&url),
        };
        self.runtime.block_on(async {
            let answer = request.send().await.with_context(|| format!("asking for {path}"))?;
            let (status, text) = (answer.status(), answer.text().await?);
            if !status.is_success() {
                bail!("{path}: {status}: {text}");
            }
            if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).with_context(|| format!("reading {path}")) }
        })
    }

    /// What is there and costs: each with its `kind`, `id` and `name`.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn alive(&self) -> Result<Vec<Value>> {
        Ok(self.ask("billing", None)?.get("alive").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Everything that was ever made.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn bills(&self) -> Result<Vec<Value>> {
        Ok(self.ask("billing", None)?.get("lines").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Calls and answers that were not as the API's own description says.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn wrong(&self) -> Result<Vec<Value>> {
        Ok(self.ask("wrong", None)?.as_array().cloned().unwrap_or_default())
    }

    /// Does something behind the API's back.
    ///
    /// # Errors
    /// When that cannot be done there.
    pub fn by_hand(&self, hand: &Hand) -> Result<()> {
        self.ask("hand", Some(json!(hand))).map(drop)
    }

    /// Sets what goes wrong there.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn faults(&self, faults: &Faults) -> Result<()> {
        self.ask("faults", Some(json!(faults))).map(drop)
    }

    /// Lets the process live on; gives its id.
    #[must_use]
    pub fn leave_running(self) -> u32 {
        let id = self.process.id();
        std::mem::forget(self.process);
        id
    }
}

/// Who trusts the cloud's own authority, and nobody else.
fn client(authority: &[u8]) -> Result<reqwest::Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(COMMAND).build()?)
}
