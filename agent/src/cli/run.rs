//! `moorline-agent run`.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DriverKind};
use crate::driver::docker::DockerDriver;
use crate::driver::sim::SimDriver;
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
        let ended = match config.driver {
            DriverKind::Docker => {
                let driver = DockerDriver::new(config.docker_socket.clone(), owned)
                    .with_registries(config.registries.clone())
                    .with_vault(host.vault());
                run_agent(config.clone(), host, driver, shutdown.clone()).await?
            }
            DriverKind::Sim => {
                let driver = SimDriver::new(&config.state, owned);
                run_agent(config.clone(), host, driver, shutdown.clone()).await?
            }
        };
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
