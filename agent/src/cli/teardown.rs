//! `moorline-agent teardown`: removes from this host what the agent made, without hub and operator.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::{drivers, say};
use crate::config::Config;
use crate::run::Host;
use crate::teardown::{Removal, teardown as tear_down};

pub(super) async fn teardown(config: &Config, yes: bool) -> anyhow::Result<ExitCode> {
    let host = Host::open(config)?;
    let Some(removal) = Removal::of(config, &host)? else {
        say("nothing is applied on this host");
        return Ok(ExitCode::SUCCESS);
    };
    if !yes && !confirmed(&removal)? {
        say("nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    let owned = host.ownership();
    let topology = removal.topology().clone();
    let driver = drivers::driver(config, owned, Some(host.vault()))?;
    let report = tear_down(config, removal, driver).await?;
    if report.is_empty() {
        say(&format!("topology `{topology}` was removed from this host; its volumes are kept"));
        say("the hub does not know: while it has a slice for this host, the agent applies it again; `moorctl down` ends that");
        return Ok(ExitCode::SUCCESS);
    }
    for fault in report {
        say(&fault.to_string());
    }
    anyhow::bail!("topology `{topology}` could not be removed completely; run this again")
}

fn confirmed(removal: &Removal) -> anyhow::Result<bool> {
    anyhow::ensure!(io::stdin().is_terminal(), "this removes topology `{}` from the host; say --yes", removal.topology());
    let mut out = io::stdout().lock();
    write!(out, "Remove all containers and networks of topology `{}` from this host? Volumes are kept. [y/N] ", removal.topology())?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
