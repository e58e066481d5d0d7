//! `moorctl host drain`: a host is emptied for work on it.
//!
//! What stops containers are signed operations like any others. A stop by `drain` is known by the reason that is signed with it.

use std::time::Duration;

use clap::Args;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::HostName;
use moorline_common::observe::ContainerState;
use moorline_common::op::Act;

use super::cordon::Stands;
use super::in_order::{DRAIN, current, each, steps, unless_cut_off};
use crate::client::facts::ReportView;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::cmd::op::{OpWait, OrderArgs};
use crate::error::Failure;
use crate::render::Ui;
use crate::signers::Signers;

/// Arguments of `host drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The host's name
    pub name: String,
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
    /// How long each container may take to end by itself [default: the container's own]
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout: Option<Duration>,
    /// How long to wait for each
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout_wait: Duration,
}

/// Cordons a host and stops what runs on it: what depends on others before those.
///
/// # Errors
/// When the answer is no, the host is not connected, or a container does not stop; what was stopped stays so, and the host stays cordoned.
pub async fn run(args: DrainArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    client.require_signable()?;
    let host = client.host(&name).await?;
    if !host.connected {
        let fault =
            Fault::new(Code::Waiting, format!("`{name}` is not connected: what runs on it is not known, and nothing there can be stopped"));
        return Err(
            Failure::from(fault).with_remedy(format!("when it is back; until then `moorctl host cordon {name}` keeps new revisions away"))
        );
    }
    let (_, steps) = running(&client, &host).await?;
    let shown: Vec<&str> = steps.iter().flatten().map(String::as_str).collect();
    if !shown.is_empty() {
        ui.confirm(&format!(
            "This cordons `{name}` and stops {} containers on it, in this order: {}. Go on?",
            shown.len(),
            shown.join(", ")
        ))?;
    }
    let signers = Signers::of(&client)?;
    client.cordon(&host.host_id, true, &args.reason).await?;
    let reason = if args.reason.is_empty() { DRAIN.to_owned() } else { cut(&format!("{DRAIN}: {}", args.reason)) };
    let order = OrderArgs::usual(&reason, OpWait { timeout_wait: args.timeout_wait, ..OpWait::usual() });
    let act = Act::Stop { timeout_s: args.timeout.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)) };
    let remedy = format!("`moorctl host drain {name}` goes on; `moorctl host uncordon {name}` takes it back");
    let stopped = unless_cut_off("drain", &host, &remedy, stop_all(&client, ui, &host, &act, &order, &signers)).await?;
    let stands = Stands { name: &name, cordoned: true, containers: stopped };
    ui.result(&stands, || {
        let what = match stands.containers.len() {
            0 => "nothing of ours runs on it".to_owned(),
            n => format!("{n} containers are stopped"),
        };
        format!("`{name}` is cordoned, and {what}. Back into service: moorctl host uncordon {name}\n")
    })?;
    Ok(0)
}

/// Stops what runs until nothing does: what was under way may have made more meanwhile.
async fn stop_all(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    act: &Act,
    order: &OrderArgs,
    signers: &Signers,
) -> Result<Vec<String>, Failure> {
    let mut stopped = Vec::new();
    for _ in 0..LOOKS {
        let looked = running(client, host).await;
        let (report, steps) = looked.map_err(|f| f.while_doing(format_args!("the look at `{}`, which stays cordoned", host.name)))?;
        if steps.is_empty() {
            return Ok(stopped);
        }
        for step in &steps {
            each(client, ui, host, (act, &report), step, order, signers).await?;
        }
        for container in steps.into_iter().flatten() {
            if !stopped.contains(&container) {
                stopped.push(container);
            }
        }
    }
    let fault = Fault::new(Code::Busy, format!("containers on `{}`, which stays cordoned, begin again and again", host.name));
    Err(Failure::from(fault)
        .with_remedy(format!("look with `moorctl status` and `moorctl events`, then `moorctl host drain {}` goes on", host.name)))
}

/// Looks at a host for what runs on it before `drain` gives up.
const LOOKS: usize = 5;

/// What of ours runs on a host now, in the order in which it stops.
async fn running(client: &Client, host: &HostView) -> Result<(ReportView, Vec<Vec<String>>), Failure> {
    let report = current(client, host).await?;
    let observed = &report.report.statement().observed;
    if observed.trimmed {
        let message = format!("the report of `{}` is too large and came cut: what runs on it is not known", host.name);
        return Err(Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("stop its containers one by one with `moorctl op stop`"));
    }
    let runs = |state| matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
    let running = observed.containers.iter().filter(|(_, c)| c.owner.is_some() && runs(c.state)).map(|(name, _)| name.clone()).collect();
    let mut steps = steps(client, host, &report, &running).await?;
    steps.reverse();
    Ok((report, steps))
}
