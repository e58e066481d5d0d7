//! A Docker Engine of our own: a `dockerd` with all its files in one folder and all its interfaces in a network
//! namespace of its own. It can be stopped and started without touching anybody else's containers.
//!
//! It must never share the host's network namespace: a `dockerd` without a default bridge removes the
//! host's `docker0`, and one with it would fight over it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::engine::Engine;
use crate::limits::SOON;
use crate::process::{Process, tail};
use crate::wait::wait_until;

/// Folders in which they may stand besides those on the PATH.
const SYSTEM_FOLDERS: &str = "/usr/sbin:/usr/local/sbin:/sbin";

/// See the module. Ends with its value, and what it ran ends with it.
pub struct OwnEngine {
    folder: PathBuf,
    process: Option<Process>,
}

impl OwnEngine {
    /// Starts one in `folder`, whose path must be short (a socket's name is at most 107 bytes).
    ///
    /// # Errors
    /// When `dockerd`, `unshare` or `ip` is not installed, or cannot run here (it needs root).
    pub fn start(folder: &Path) -> Result<Self> {
        let mut engine = Self { folder: folder.to_owned(), process: None };
        engine.restart()?;
        Ok(engine)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// The process id of its `dockerd`, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Starts it again after [`Self::stop`].
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        let (log, socket) = (self.folder.join("dockerd.log"), self.socket());
        let dockerd = find("dockerd").context("`dockerd` is not installed")?;
        let ip = find("ip").context("`ip` is not installed")?;
        let mut command = Command::new(find("unshare").context("`unshare` is not installed")?);
        // Each word replaces the one before it: the process stays the same, and becomes dockerd.
        command.args(["--net", "--", "sh", "-ec", "\"$1\" link set lo up; shift; exec \"$@\"", "sh"]).arg(ip).arg(dockerd);
        command.env("PATH", format!("{}:{SYSTEM_FOLDERS}", std::env::var("PATH").unwrap_or_default()));
        command.arg("--data-root").arg(self.folder.join("data")).arg("--exec-root").arg(self.folder.join("exec"));
        command.arg("--pidfile").arg(self.folder.join("pid")).arg("--host").arg(format!("unix://{}", socket.display()));
        command.args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
        let mut process = Process::start("dockerd", command, &log)?;
        wait_until("our own Docker Engine answers or has ended", SOON, || {
            Ok(process.check_alive().is_err() || Engine::connect(&socket).is_ok())
        })?;
        if process.check_alive().is_err() {
            bail!("our own Docker Engine does not come up:\n{}", tail(&log));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.stop().map(drop))
    }

    /// Lets it live on without us; gives its process id.
    #[must_use]
    pub fn leave_running(mut self) -> Option<u32> {
        let process = self.process.take()?;
        let id = process.id();
        std::mem::forget(process);
        Some(id)
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // A clean end unmounts what it mounted; a kill would leave that in the folder.
        let _ = self.stop();
    }
}

/// Where a program of the system stands, if it does.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = format!("{}:{SYSTEM_FOLDERS}", std::env::var("PATH").unwrap_or_default());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
