//! The command line: one verb per file.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, LogFormat};

pub mod backup;
pub mod doctor;
pub mod init;
pub mod operator;
pub mod restore;
pub mod serve;

/// The exit code for wrong arguments or configuration (EX_USAGE).
pub const EXIT_USAGE: u8 = 64;
/// Where a hub lives when nothing else is said.
pub const DIR_DEFAULT: &str = "/var/lib/moorline-hub";

/// Moorline's hub: remembers what operators signed and delivers it to agents.
#[derive(Debug, Parser)]
#[command(name = "moorline-hub", version, max_term_width = 100)]
pub struct Args {
    /// The hub's folder.
    #[arg(long, global = true, env = "MOORLINE_HUB_DIR", default_value = DIR_DEFAULT, value_name = "DIR")]
    pub dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the hub can be told to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a new hub: its CA, its store, and the first operator's bundle.
    Init(init::InitArgs),
    /// Serve agents and operators.
    Serve(serve::ServeArgs),
    /// Check the folder, the store, the CA, the port and the disk.
    Doctor,
    /// Manage operators' transport certificates.
    Operator(operator::OperatorArgs),
    /// Write everything into one private file; works while the hub serves.
    Backup(backup::BackupArgs),
    /// Bring a folder back from such a file.
    Restore(restore::RestoreArgs),
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// The arguments or the configuration are wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

impl CmdError {
    fn failed(error: impl std::error::Error) -> Self {
        CmdError::Failed(moorline_proto::transport::error_chain(&error))
    }

    fn exit(&self) -> ExitCode {
        match self {
            CmdError::Usage(_) | CmdError::Config(_) => ExitCode::from(EXIT_USAGE),
            CmdError::Failed(_) => ExitCode::FAILURE,
        }
    }
}

/// Does what `args` say.
#[must_use]
pub fn main(args: Args) -> ExitCode {
    let dir = args.dir.as_path();
    let done = match args.verb {
        Verb::Init(verb) => init::run(dir, &verb),
        Verb::Serve(verb) => serve::run(dir, &verb),
        Verb::Doctor => doctor::run(dir),
        Verb::Operator(verb) => operator::run(dir, &verb),
        Verb::Backup(verb) => backup::run(dir, &verb),
        Verb::Restore(verb) => restore::run(dir, &verb),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "moorline-hub: {error}");
            error.exit()
        }
    }
}

/// Writes to standard output; a reader that went away is no error.
fn say(text: &str) -> Result<(), CmdError> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(CmdError::failed(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Sends the log to standard error; `MOORLINE_LOG` sets what is logged.
fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOORLINE_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a second start in one process fails, and the first log is as good.
    drop(started);
}
