//! `moorctl rollback`: a new generation with the content of an earlier one.

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use std::path::PathBuf;
use std::time::Duration;

use super::Env;
use super::deploy::{self, Aim, AtOnce, Order, Verb};
use super::push::WaitArgs;
use crate::args::parse_generation;
use crate::desired;
use crate::error::Failure;
use crate::render::Ui;
use crate::revision::Previous;

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The topology
    pub topology: String,
    /// The generation to go back to
    #[arg(long, value_name = "GENERATION", value_parser = parse_generation)]
    pub to: u64,
    /// Give it to all hosts at once although that revision has `rollout`, and end the rollout that is under way
    #[arg(long)]
    pub no_rollout: bool,
    /// Do not wait for the maintenance windows in its `policy`
    #[arg(long)]
    pub now: bool,
    /// Write the signed revision to a file instead of pushing it: others sign it with `moorctl revision sign`
    #[arg(long, value_name = "FILE", conflicts_with = "wait")]
    pub save: Option<PathBuf>,
    /// How the wait goes
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Runs it.
///
/// # Errors
/// When the old revision has no source that verifies; as `push`.
pub async fn run(args: RollbackArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = TopologyId::parse(args.topology)?;
    let to = Generation(args.to);
    if to == Generation(0) {
        return Err(Failure::usage("--to must name a generation", "list them with `moorctl history`"));
    }
    let client = env.client(ui).await?;
    let old = client.revision(&topology, to, true).await?;
    let earlier = Previous::of(Some(&old), &client.hosts(None).await?, &client.root);
    let Some(source) = old.source else {
        let fault =
            old.doubt.unwrap_or_else(|| Fault::new(Code::NotFound, format!("the hub has no source of `{topology}` generation {to}")));
        return Err(fault.into());
    };
    let statement = source.into_statement();
    if statement.down {
        let message = format!("generation {to} of `{topology}` tore it down");
        return Err(Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy("to tear it down again: `moorctl down`"));
    }
    let aim = Aim {
        verb: Verb::Rollback,
        source: Some(desired::parse(&format!("{topology}@{to}"), &statement.source, &statement.inputs)?),
        topology,
        accept_older_hub: false,
        no_rollout: args.no_rollout,
        wait: args.wait.limit(),
        accepts: Vec::new(),
    };
    let order = Order {
        deliver_within: Duration::from_secs(statement.deliver_within_s),
        earlier: Some(earlier),
        at_once: if args.now { AtOnce::All } else { AtOnce::Nobody },
        save: args.save,
        ..Order::plain(aim, format!("rollback to generation {to}"))
    };
    deploy::run(&client, ui, order).await
}
