//! `moorctl host uncordon`: a host is put back into service.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostName;
use moorline_common::op::Act;

use super::cordon::Stands;
use super::in_order::{DRAIN, current, each, steps, unless_cut_off};
use crate::client::facts::ReportView;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::cmd::op::view::OpView;
use crate::cmd::op::{OpWait, OrderArgs};
use crate::error::Failure;
use crate::render::Ui;
use crate::signers::Signers;

/// Arguments of `host uncordon`.
#[derive(Debug, Args)]
pub struct UncordonArgs {
    /// The host's name
    pub name: String,
    /// Leave stopped what `drain` stopped, until it is started or other content is pushed
    #[arg(long)]
    pub no_start: bool,
    /// How long to wait for each container
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout_wait: Duration,
}

/// Starts what `drain` stopped, what others depend on first, and lets the host have what is pushed.
///
/// # Errors
/// When a container does not start: then the host stays cordoned.
pub async fn run(args: UncordonArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    let (mut started, mut unknown) = (Vec::new(), Vec::new());
    if !args.no_start && host.bound().is_some() {
        let only = format!("when it is connected and its engine answers; or only lift the cordon: moorctl host uncordon {name} --no-start");
        let report = current(&client, &host).await.map_err(|f| if f.is(Code::Waiting) { f.with_remedy(only) } else { f })?;
        let drained = drained(&client, ui, &host, &report, &mut unknown).await?;
        if !drained.is_empty() {
            client.require_signable()?;
            let signers = Signers::of(&client)?;
            let order = OrderArgs::usual("uncordon", OpWait { timeout_wait: args.timeout_wait, ..OpWait::usual() });
            let work = async {
                for step in steps(&client, &host, &report, &drained).await? {
                    each(&client, ui, &host, (&Act::Start, &report), &step, &order, &signers).await?;
                    started.extend(step);
                }
                Ok(())
            };
            unless_cut_off("uncordon", &host, &format!("`moorctl host uncordon {name}` goes on"), work).await?;
        }
    }
    client.cordon(&host.host_id, false, "").await?;
    let stands = Stands { name: &name, cordoned: false, containers: started };
    ui.result(&stands, || {
        let what = match stands.containers.len() {
            0 => String::new(),
            n => format!("{n} containers are started again, and "),
        };
        format!("{what}`{name}` gets what is pushed again\n")
    })?;
    if unknown.is_empty() {
        return Ok(0);
    }
    let message = format!(
        "{} containers on `{name}` are held by operations whose orders do not verify any more: {}",
        unknown.len(),
        unknown.join(", ")
    );
    let remedy = format!("if they are to run: moorctl op start {name}/NAME");
    Err(Failure::from(Fault::new(Code::UnknownKey, message)).with_remedy(remedy))
}

/// The containers of a host that `drain` stopped, by the orders that operators signed. Others that are held are told of; `unknown` are those
/// of which nobody can tell.
async fn drained(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    report: &ReportView,
    unknown: &mut Vec<String>,
) -> Result<BTreeSet<String>, Failure> {
    let mut drained = BTreeSet::new();
    let is_drain = |reason: &str| reason == DRAIN || reason.starts_with(&format!("{DRAIN}: "));
    for held in &report.report.statement().apply.held {
        let (resource, op_id) = (&held.resource, &held.op_id);
        let order = match client.op(op_id).await {
            Ok(facts) => {
                let view = OpView::new(&client.root, facts, host.bound(), None)?;
                view.order.ok_or(()).and_then(|order| view.order_doubt.map_or(Ok(order), |_| Err(())))
            }
            Err(failure) if failure.is(Code::NotFound) => Err(()),
            Err(failure) => return Err(failure),
        };
        match order {
            Ok(order) if order.kind == "stop" && order.resource == *resource && is_drain(&order.reason) => {
                drained.insert(resource.name().to_owned());
            }
            Ok(_) => ui.note(&format!("left as it is: {resource}, held by operation {op_id}")),
            Err(()) => unknown.push(resource.name().to_owned()),
        }
    }
    Ok(drained)
}
