//! A simulated Proxmox VE as a process of its own, reached over HTTPS like a real one, and what people do on it by hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use moorline_agent::driver::pve::client::{Call, Reply, Transport as _, Verb};
use moorline_agent::driver::pve::https::{Https, Trust, parse_fingerprint};
use moorline_common::pve::lenient;
use moorline_pve_sim::setup::{SECRET, TOKEN};
use moorline_pve_sim::world::hand::Hand;
use serde_json::Value;

use crate::binaries::Binaries;
use crate::limits::{COMMAND, SOON};
use crate::process::Process;
use crate::wait::wait_for;

/// The node that is asked.
pub const NODE: &str = "pve-1";
/// Where the API's official description stands, if anywhere: then every request of every agent is held to it.
const SCHEMA: &str = "MOORLINE_PVE_SCHEMA";

/// A host of Proxmox VE. It ends with its value.
pub struct PveHost {
    process: Process,
    runtime: tokio::runtime::Runtime,
    line: Https,
    url: String,
    fingerprint: String,
    token_file: PathBuf,
}

impl PveHost {
    /// Starts one with its files in `folder`; `setup` as the simulator reads it, `{}` for a small cluster with a template.
    ///
    /// # Errors
    /// When the program is not built or does not start.
    pub fn start(binaries: &Binaries, folder: &Path, setup: &Value) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (ready, log) = (folder.join("ready.json"), folder.join("pve-sim.log"));
        let mut command = Command::new(&binaries.pve_sim);
        std::fs::write(folder.join("setup.json"), setup.to_string())?;
        command.arg("--ready").arg(&ready).arg("--setup").arg(folder.join("setup.json"));
        if let Some(schema) = std::env::var_os(SCHEMA) {
            command.arg("--schema").arg(schema);
        }
        let mut process = Process::start("pve-sim", command, &log)?;
        let told = wait_for("the simulated Proxmox VE listens", SOON, || {
            process.check_alive()?;
            Ok(std::fs::read(&ready).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()))
        })?;
        let text = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("pve-sim tells no {key}"));
        let (url, fingerprint) = (text("url")?, text("fingerprint")?);
        let pin = parse_fingerprint(&fingerprint).context("pve-sim's fingerprint is none")?;
        let token = format!("{TOKEN}={SECRET}");
        let line = Https::new(&url, &token, Trust::Pins(vec![pin]))?;
        let token_file = folder.join("token");
        std::fs::write(&token_file, format!("{token}\n"))?;
        std::fs::set_permissions(&token_file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { process, runtime, line, url, fingerprint, token_file })
    }

    /// Another line to it, as an agent's.
    ///
    /// # Errors
    /// When none can be made.
    pub fn line(&self) -> Result<Https> {
        let pin = parse_fingerprint(&self.fingerprint).context("pve-sim's fingerprint is none")?;
        Ok(Https::new(&self.url, &format!("{TOKEN}={SECRET}"), Trust::Pins(vec![pin]))?)
    }

    /// How many calls of its API there were.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn requests(&self) -> Result<usize> {
        Ok(self.send(Verb::Get, "/sim/requests", None)?.as_array().map_or(0, Vec::len))
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("https://")
    }

    /// What an agent's configuration says of it.
    #[must_use]
    pub fn config(&self) -> String {
        let (url, file, pin) = (&self.url, self.token_file.display(), &self.fingerprint);
        format!("[proxmox]\nurl = \"{url}\"\nnode = \"{NODE}\"\ntoken_file = \"{file}\"\nfingerprints = [\"{pin}\"]\n")
    }

    fn send(&self, verb: Verb, path: &str, form: Option<String>) -> Result<Value> {
        let call = Call { verb, target: path.to_owned(), form, limit: COMMAND };
        let Reply { status, reason, body } = self.runtime.block_on(self.line.send(call)).with_context(|| format!("{verb:?} {path}"))?;
        if status != 200 {
            bail!("{verb:?} {path}: {status} {reason}: {}", String::from_utf8_lossy(&body));
        }
        serde_json::from_slice(&body).with_context(|| format!("{verb:?} {path}"))
    }

    /// Asks the API as the agent does.
    ///
    /// # Errors
    /// When it refuses.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.send(Verb::Get, &format!("/api2/json{path}"), None)?;
        answer.get("data").cloned().with_context(|| format!("{path} answers without data"))
    }

    /// Does something on the host behind the API's back.
    ///
    /// # Errors
    /// When that cannot be done there.
    pub fn by_hand(&self, hand: &Hand) -> Result<()> {
        self.send(Verb::Post, "/sim/hand", Some(serde_json::to_string(hand)?)).map(drop)
    }

    /// A guest: its config by the keys, and `status`; nothing when there is none.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn guest(&self, vmid: u32) -> Result<Option<Value>> {
        for kind in ["qemu", "lxc"] {
            let list = self.get(&format!("/nodes/{NODE}/{kind}"))?;
            // Containers' numbers are texts there.
            let is_it = |entry: &&Value| entry.get("vmid").and_then(lenient::uint) == Some(vmid.into());
            let Some(entry) = list.as_array().into_iter().flatten().find(is_it) else { continue };
            let mut guest = self.get(&format!("/nodes/{NODE}/{kind}/{vmid}/config"))?;
            if let (Some(guest), Some(status)) = (guest.as_object_mut(), entry.get("status")) {
                guest.insert("status".to_owned(), status.clone());
            }
            return Ok(Some(guest));
        }
        Ok(None)
    }

    /// What happened to a guest by the API, so often: `created`, `cloned`, `destroyed`, …
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn effects(&self, vmid: u32, kind: &str) -> Result<usize> {
        let all = self.all_effects()?;
        let is_it = |effect: &&Value| effect.get("vmid") == Some(&vmid.into()) && effect.get("kind") == Some(&kind.into());
        Ok(all.iter().filter(is_it).count())
    }

    /// All that happened to guests by the API, oldest first.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn all_effects(&self) -> Result<Vec<Value>> {
        Ok(self.send(Verb::Get, "/sim/effects", None)?.as_array().cloned().unwrap_or_default())
    }

    /// Requests that were not as the API's own description says.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn wrong(&self) -> Result<Vec<Value>> {
        Ok(self.send(Verb::Get, "/sim/wrong", None)?.as_array().cloned().unwrap_or_default())
    }

    /// Sets what goes wrong there, as the simulator reads it.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn faults(&self, faults: &Value) -> Result<()> {
        self.send(Verb::Put, "/sim/faults", Some(faults.to_string())).map(drop)
    }

    /// Lets the process live on; gives its id.
    #[must_use]
    pub fn leave_running(self) -> u32 {
        let id = self.process.id();
        std::mem::forget(self.process);
        id
    }
}
