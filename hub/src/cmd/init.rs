//! `moorline-hub init`: a new hub in an empty folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use moorline_common::id::ClusterId;

use super::{CmdError, operator, say};
use crate::config::{self, ConfigFile, LISTEN_DEFAULT};
use crate::files;
use crate::pki::Pki;
use crate::store::sqlite::{self, SqliteStore};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The cluster's name: 1 to 63 of a-z, 0-9 and -.
    #[arg(long, value_name = "NAME")]
    pub cluster: ClusterId,
    /// The address to listen on.
    #[arg(long, value_name = "IP:PORT", default_value = LISTEN_DEFAULT)]
    pub listen: String,
    /// An address that agents and operators should dial; may be repeated. [default: this machine's name]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Vec<String>,
    /// The first operator's name.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub operator: String,
}

/// Makes the hub.
///
/// # Errors
/// [`CmdError`].
pub fn run(dir: &Path, args: &InitArgs) -> Result<(), CmdError> {
    let bundle = create(dir, args)?;
    say(&format!(
        "Hub for cluster `{cluster}` made in {dir}.

Next:
  1. Serve:         moorline-hub --dir {dir} serve
  2. On the operator's machine, with a copy of {bundle}:
                    moorctl init --bundle {file}
  3. Add a host:    moorctl host add NAME

The bundle is a secret: it lets its holder reach the hub, though it signs nothing.
Keep a backup: moorline-hub --dir {dir} backup FILE",
        cluster = args.cluster,
        dir = dir.display(),
        bundle = bundle.display(),
        file = bundle.file_name().map(|n| n.to_string_lossy()).unwrap_or_default(),
    ))
}

/// Makes the hub and gives back the path of the first operator's bundle.
///
/// # Errors
/// [`CmdError`].
pub fn create(dir: &Path, args: &InitArgs) -> Result<PathBuf, CmdError> {
    let file = ConfigFile { listen: args.listen.clone(), advertise: args.advertise.clone(), ..ConfigFile::default() };
    let config =
        file.clone().check(dir).map_err(|problems| CmdError::Usage(format!("the arguments are not valid:\n{}", problems.join("\n"))))?;
    operator::check_name(&args.operator)?;
    refuse_used(dir)?;
    let io_failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| CmdError::Failed(format!("cannot write {path}: {e}"))
    };
    files::private_dir(dir).map_err(io_failed(dir))?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(io_failed(dir))?;
    let pki = Pki::create(dir, &args.cluster, SystemTime::now()).map_err(CmdError::failed)?;
    SqliteStore::create(&dir.join(sqlite::FILE), args.cluster.as_str()).map_err(CmdError::failed)?;
    let bundle = operator::write_bundle(dir, &pki, &args.operator, true, config::advertised(&config.advertise, config.listen))?;
    // Last: a folder with this file is a whole hub.
    let path = dir.join(config::FILE);
    let text = toml::to_string(&file).map_err(CmdError::failed)?;
    files::write_private(&path, text.as_bytes()).map_err(io_failed(&path))?;
    Ok(bundle)
}

/// Refuses a folder that holds a hub already, or half of one.
fn refuse_used(dir: &Path) -> Result<(), CmdError> {
    for file in [config::FILE, sqlite::FILE, crate::pki::CA_DIR] {
        let path = dir.join(file);
        if path.exists() {
            return Err(CmdError::Failed(format!("{} exists: this folder holds a hub already; choose another with --dir", path.display())));
        }
    }
    Ok(())
}
