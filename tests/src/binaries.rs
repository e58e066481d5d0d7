//! Where the built programs are. Never builds: `cargo xtask test` and `cargo demo` do that.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The environment variable that names the folder with the programs.
pub const BIN_DIR: &str = "MOORLINE_BIN_DIR";

/// The three programs, and the simulated Proxmox VE and DigitalOcean.
#[derive(Debug, Clone, Default)]
pub struct Binaries {
    /// `moorline-hub`.
    pub hub: PathBuf,
    /// `moorline-agent`.
    pub agent: PathBuf,
    /// `moorctl`.
    pub moorctl: PathBuf,
    /// `pve-sim`.
    pub pve_sim: PathBuf,
    /// `do-sim`.
    pub do_sim: PathBuf,
    /// `droplet`: what runs on one of its machines.
    pub droplet: PathBuf,
}

impl Binaries {
    /// The programs in `$MOORLINE_BIN_DIR`, or beside the running program.
    ///
    /// # Errors
    /// When one of them is not there; the message says how to build it.
    pub fn find() -> Result<Self> {
        let dir = folder()?;
        let one = |name: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            if !path.is_file() {
                bail!("`{name}` is not built (looked in {}); run `cargo xtask test`, or `cargo build` first", dir.display());
            }
            Ok(path)
        };
        Ok(Self {
            hub: one("moorline-hub")?,
            agent: one("moorline-agent")?,
            moorctl: one("moorctl")?,
            pve_sim: one("pve-sim")?,
            do_sim: one("do-sim")?,
            droplet: one("droplet")?,
        })
    }
}

/// The folder with the built programs.
///
/// # Errors
/// When the path of the running program cannot be found out.
pub fn folder() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().context("finding the running program")?;
    let dir = exe.parent().unwrap_or(Path::new("."));
    // Test programs stand in `deps/`, one folder below the others.
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() })
}
