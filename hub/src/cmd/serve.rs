//! `moorline-hub serve`: until SIGTERM or SIGINT.

use std::path::Path;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CmdError, say, start_log};
use crate::config::Config;
use crate::limits;
use crate::server::Server;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The address to listen on, instead of the one in hub.toml.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Only check the configuration.
    #[arg(long)]
    pub check_config: bool,
}

/// Serves.
///
/// # Errors
/// [`CmdError`].
pub fn run(dir: &Path, args: &ServeArgs) -> Result<(), CmdError> {
    let config = Config::load(dir, args.listen.as_deref())?;
    if args.check_config {
        return say("The configuration is valid.");
    }
    start_log(config.log);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(limits::WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().map_err(CmdError::failed)?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_timeout(limits::RUNTIME_GRACE);
    served
}

async fn serve(config: Config) -> Result<(), CmdError> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(CmdError::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CmdError::failed)?;
    let server = Server::bind(config).await.map_err(CmdError::failed)?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        stop.cancel();
    });
    server.run(shutdown).await.map_err(CmdError::failed)
}
