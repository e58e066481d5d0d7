//! A fleet in one temporary folder: a hub, an operator's home and agents, all as real processes.
//!
//! When a fleet goes, its processes are killed by their ids, and every object on the engine that bears
//! the label of its cluster is removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use moorline_common::sign::PrivateKey;
use moorline_proto::v1 as pb;
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::engine::Engine;
use crate::limits::{APPLY, COMMAND, HEARTBEAT_MS, SOON};
use crate::operator::{Bundle, Operator};
use crate::process::{Output, Process, run, tail};
use crate::wait::{wait_for, wait_until};

mod hosts;

/// The name of the operator that `moorline-hub init` makes.
pub const OPERATOR: &str = "admin";
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What an agent drives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drive {
    /// The built-in simulator.
    Sim,
    /// The engine behind this socket.
    Docker(PathBuf),
    /// No engine of containers: guests of Proxmox VE alone.
    Guests,
}

struct Agent {
    drive: Drive,
    process: Option<Process>,
}

/// See the module.
pub struct Fleet {
    folder: Option<TempDir>,
    root: PathBuf,
    cluster: String,
    port: u16,
    binaries: Binaries,
    hub: Option<Process>,
    agents: BTreeMap<String, Agent>,
    used_engine: bool,
}

impl Fleet {
    /// A hub that serves and an operator who has made the trust root.
    ///
    /// # Errors
    /// When a program is missing or fails; the message has its words.
    pub fn start(name: &str) -> Result<Self> {
        let mut fleet = Self::prepare(name)?;
        fleet.hub_command(&["init", "--cluster", &fleet.cluster, "--listen", &fleet.address(), "--advertise", &fleet.address()])?.ok()?;
        fleet.set_hub_config("heartbeat_interval_ms", &HEARTBEAT_MS.to_string())?;
        fleet.start_hub()?;
        let bundle = fleet.bundle_path(OPERATOR);
        fleet.moorctl(&["init", "--bundle", text(&bundle)?])?.ok()?;
        Ok(fleet)
    }

    /// A folder, names and a port; nothing runs yet.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn prepare(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let binaries = Binaries::find()?;
        let folder = tempfile::Builder::new().prefix(&format!("moorline-{name}-")).tempdir()?;
        let cluster = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = folder.path().to_owned();
        std::fs::create_dir(root.join("logs"))?;
        Ok(Self {
            folder: Some(folder),
            root,
            cluster,
            port: free_port()?,
            binaries,
            hub: None,
            agents: BTreeMap::new(),
            used_engine: false,
        })
    }

    /// The cluster's name: unique to this fleet, on the engine too.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The programs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The folder with everything in it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The hub's folder.
    #[must_use]
    pub fn hub_dir(&self) -> PathBuf {
        self.root.join("hub")
    }

    /// The operator's home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.join("operator")
    }

    /// An agent's state folder.
    #[must_use]
    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.root.join("hosts").join(name)
    }

    /// Where the hub listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where an operator's bundle stands.
    #[must_use]
    pub fn bundle_path(&self, operator: &str) -> PathBuf {
        self.hub_dir().join("operators").join(format!("{operator}.json"))
    }

    /// Keeps processes, folder and objects on the engine alive; gives the process ids.
    #[must_use]
    pub fn leave_running(mut self) -> Vec<u32> {
        let mut ids = Vec::new();
        let processes = self.hub.take().into_iter().chain(std::mem::take(&mut self.agents).into_values().filter_map(|a| a.process));
        for process in processes {
            ids.push(process.id());
            std::mem::forget(process);
        }
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
        self.used_engine = false;
        ids
    }

    /// Kills the hub and every agent; the folder stays.
    pub fn end_processes(&mut self) {
        for agent in self.agents.values_mut() {
            drop(agent.process.take());
        }
        drop(self.hub.take());
    }

    /// Writes a file into the fleet's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.root.join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    // --- the hub

    /// Runs a verb of `moorline-hub` on this fleet's folder.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn hub_command(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binaries.hub);
        command.arg("--dir").arg(self.hub_dir()).args(args);
        run(command, b"", COMMAND)
    }

    /// Sets a key of `hub.toml`; `value` as TOML writes it.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn set_hub_config(&self, key: &str, value: &str) -> Result<()> {
        let path = self.hub_dir().join("hub.toml");
        let old = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let kept = old.lines().filter(|line| line.split('=').next().is_none_or(|k| k.trim() != key));
        let text: Vec<String> = std::iter::once(format!("{key} = {value}")).chain(kept.map(str::to_owned)).collect();
        std::fs::write(&path, text.join("\n") + "\n")?;
        Ok(())
    }

    /// Starts the hub and waits until it answers.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn start_hub(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binaries.hub);
        command.arg("--dir").arg(self.hub_dir()).arg("serve");
        let mut process = Process::start("moorline-hub", command, &self.log_path("hub"))?;
        let address = self.address();
        wait_until("the hub accepts connections", SOON, || {
            process.check_alive()?;
            Ok(std::net::TcpStream::connect(&address).is_ok())
        })
        .or_else(|error| bail!("{error:#}\n{}", tail(&self.log_path("hub"))))?;
        self.hub = Some(process);
        Ok(())
    }

    /// Ends the hub as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_hub(&mut self) -> Result<()> {
        self.hub.take().context("the hub does not run")?.kill()
    }

    /// Asks the hub to end.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn stop_hub(&mut self) -> Result<()> {
        let status = self.hub.take().context("the hub does not run")?.stop()?;
        if !status.success() {
            bail!("the hub ended with {status} after SIGTERM:\n{}", tail(&self.log_path("hub")));
        }
        Ok(())
    }

    /// The hub's process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn hub_id(&self) -> Result<u32> {
        Ok(self.hub.as_ref().context("the hub does not run")?.id())
    }

    /// The Operator service with the first operator's certificate.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn operator(&self) -> Result<Operator> {
        let bundle = Bundle::read(&self.bundle_path(OPERATOR))?;
        wait_for("the Operator service answers", SOON, || Operator::connect(&bundle).map(Some))
    }

    // --- the operator

    /// `moorctl` with this fleet's home, not yet run.
    #[must_use]
    pub fn moorctl_command(&self, args: &[&str]) -> Command {
        self.moorctl_command_in(&self.home(), args)
    }

    /// `moorctl` with another home, not yet run.
    #[must_use]
    pub fn moorctl_command_in(&self, home: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.moorctl);
        command.arg("--home").arg(home).args(args).env("NO_COLOR", "1").current_dir(&self.root);
        command
    }

    /// Runs `moorctl`.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn moorctl(&self, args: &[&str]) -> Result<Output> {
        run(self.moorctl_command(args), b"", COMMAND)
    }

    /// Writes `yaml` to a file and pushes it.
    ///
    /// # Errors
    /// As [`Self::moorctl`].
    pub fn push(&self, yaml: &str, more: &[&str]) -> Result<Output> {
        let path = self.file("topology.yaml", yaml)?;
        let mut args = vec!["--yes", "push", "-f", text(&path)?];
        args.extend(more);
        self.moorctl(&args)
    }

    /// The first operator's signing key, as `moorctl` keeps it.
    ///
    /// # Errors
    /// When its file is not where `moorctl` puts it.
    pub fn operator_key(&self) -> Result<PrivateKey> {
        self.key("operator.key")
    }

    /// The key that signs trust roots.
    ///
    /// # Errors
    /// When its file is not where `moorctl` puts it.
    pub fn recovery_key(&self) -> Result<PrivateKey> {
        self.key("recovery.key")
    }

    fn key(&self, file: &str) -> Result<PrivateKey> {
        let path = self.home().join("contexts").join(&self.cluster).join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim(), &mut seed).context("a key is 64 hex digits")?;
        Ok(PrivateKey::from_seed(&seed))
    }

    // --- what holds

    /// Waits until the hub says that `host` has what it should of `topology` at `generation`.
    ///
    /// # Errors
    /// When that does not come in time, with what the hub said last.
    pub fn wait_converged(&self, operator: &Operator, host: &str, topology: &str, generation: u64) -> Result<pb::Host> {
        let mut last = String::new();
        let found = wait_for(&format!("{host} follows {topology} generation {generation}"), APPLY, || {
            let seen = operator.host(host)?;
            let heartbeat = seen.heartbeat.clone().unwrap_or_default();
            last = format!("{:?} target {} {} error {:?}", heartbeat, seen.target_topology, seen.target_generation, seen.last_error);
            let there = heartbeat.topology == topology && heartbeat.generation == generation && heartbeat.applied_hash == seen.target_hash;
            Ok((seen.converged && seen.connected && there).then_some(seen))
        });
        found.with_context(|| format!("the hub said last: {last}"))
    }

    /// All logs of the hub and the agents, by name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn logs(&self) -> Result<BTreeMap<String, String>> {
        let mut logs = BTreeMap::new();
        for entry in std::fs::read_dir(self.root.join("logs"))? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            logs.insert(name, String::from_utf8_lossy(&std::fs::read(&path)?).into_owned());
        }
        Ok(logs)
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, _) in self.logs().unwrap_or_default() {
                // The test program's own output: shown only for a failed test.
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr().lock(),
                    format!("--- end of the log of {name}:\n{}\n", tail(&self.log_path(&name))).as_bytes(),
                );
            }
        }
        self.end_processes();
        if self.used_engine
            && let Ok(engine) = Engine::connect(Path::new(crate::engine::SOCKET))
        {
            let _ = engine.clean(&self.cluster);
        }
    }
}

/// A path as text.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A TCP port that nobody listens on, outside the range from which the kernel picks by itself. It is this process's for as long as that
/// lives: no other one that asks here gets it, also while nobody listens.
///
/// # Errors
/// When none is free, or the locks cannot be made.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join("moorline-tests-ports");
    std::fs::create_dir_all(&locks).with_context(|| format!("making {}", locks.display()))?;
    let span = PORTS.end - PORTS.start;
    let start = u16::try_from(std::process::id() % u32::from(span))?;
    for _ in 0..span {
        let port = PORTS.start + (start + NEXT.fetch_add(7, Ordering::Relaxed) % span) % span;
        let path = locks.join(port.to_string());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}
