//! `moorline-agent run`.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::drivers;
use crate::config::Config;
use crate::run::{Ended, Host, run as run_agent};

pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut host = Host::open(&config)?;
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to stop (SIGTERM)"),
            _ = interrupt.recv() => tracing::info!("told to stop (SIGINT)"),
        }
        stop.cancel();
    });
    loop {
        let owned = host.ownership();
        let config = config.clone();
        let driver = drivers::driver(&config, owned, Some(host.vault()))?;
        let ended = run_agent(config.clone(), host, driver, shutdown.clone()).await?;
        match ended {
            Ended::Stopped => return Ok(ExitCode::SUCCESS),
            Ended::Released => host = Host::open(&config)?,
            Ended::Behind(reason) => {
                host = Host::open(&config)?;
                host.enter_quarantine(&reason)?;
            }
        }
    }
}
