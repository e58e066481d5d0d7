//! `moorline-hub operator add`: a transport certificate for an operator's machine.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use moorline_common::id::ClusterId;

use super::{CmdError, say};
use crate::auth::is_operator_name;
use crate::config::{self, Config};
use crate::files;
use crate::pki::Pki;
use crate::store::sqlite::{self, SqliteStore};

/// The folder of bundles inside the hub's.
pub const DIR: &str = "operators";

/// Arguments of `operator`.
#[derive(Debug, Args)]
pub struct OperatorArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: OperatorVerb,
}

/// What can be done with operators.
#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// Make a bundle for an operator's machine (again).
    Add {
        /// The operator's name.
        name: String,
        /// Let the operator decide about drift, too: accept, revert, ignore.
        #[arg(long)]
        admin: bool,
    },
}

/// Does what `args` say.
///
/// # Errors
/// [`CmdError`].
pub fn run(dir: &Path, args: &OperatorArgs) -> Result<(), CmdError> {
    let OperatorVerb::Add { name, admin } = &args.verb;
    check_name(name)?;
    let config = Config::load(dir, None)?;
    let cluster = SqliteStore::cluster(&dir.join(sqlite::FILE)).map_err(CmdError::failed)?;
    let cluster = ClusterId::parse(cluster).map_err(CmdError::failed)?;
    let pki = Pki::load(dir, &cluster).map_err(CmdError::failed)?;
    let bundle = write_bundle(dir, &pki, name, *admin, config::advertised(&config.advertise, config.listen))?;
    say(&format!(
        "Bundle for operator `{name}` written to {}.
Bring it to the operator's machine by a private way; it gives transport only. What the operator may sign
is for the trust root to say.",
        bundle.display()
    ))
}

/// Refuses a name that cannot stand in a certificate or file name.
pub(super) fn check_name(name: &str) -> Result<(), CmdError> {
    if is_operator_name(name) {
        return Ok(());
    }
    Err(CmdError::Usage(format!("`{name}` is not an operator's name: 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")))
}

/// Makes a bundle and writes it below `dir`.
pub(super) fn write_bundle(dir: &Path, pki: &Pki, name: &str, is_admin: bool, hubs: Vec<String>) -> Result<PathBuf, CmdError> {
    let bundle = pki.operator_bundle(name, is_admin, hubs, SystemTime::now()).map_err(CmdError::failed)?;
    let json = zeroize::Zeroizing::new(serde_json::to_vec_pretty(&bundle).map_err(CmdError::failed)?);
    let folder = dir.join(DIR);
    let path = folder.join(format!("{name}.json"));
    files::private_dir(&folder)
        .and_then(|()| files::write_private(&path, &json))
        .map_err(|e| CmdError::Failed(format!("cannot write {}: {e}", path.display())))?;
    Ok(path)
}
