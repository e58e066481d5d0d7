//! `moorctl down`: an empty slice for every host of a topology. Containers and networks go, volumes stay.

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::TopologyId;
use std::path::PathBuf;

use super::Env;
use super::deploy::{self, Aim, Order, Verb};
use super::push::WaitArgs;
use crate::error::Failure;
use crate::render::Ui;

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// The topology
    pub topology: String,
    /// Why, for the history
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub message: String,
    /// Write the signed revision to a file instead of pushing it: others sign it with `moorctl revision sign`
    #[arg(long, value_name = "FILE", conflicts_with = "wait")]
    pub save: Option<PathBuf>,
    /// How the wait goes
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Runs it; asks first.
///
/// # Errors
/// When there is no such topology, or the answer is no; as `push`.
pub async fn run(args: DownArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = TopologyId::parse(args.topology)?;
    let client = env.client(ui).await?;
    let Some(current) = client.current(&topology, false).await? else {
        return Err(Fault::new(Code::NotFound, format!("there is no topology `{topology}`")).into());
    };
    if !current.facts.down {
        ui.confirm(&format!("Tear down `{topology}` on {} host(s)? Containers and networks go, volumes stay.", current.facts.hosts))?;
    }
    let aim = Aim {
        verb: Verb::Down,
        topology,
        source: None,
        accept_older_hub: false,
        no_rollout: true,
        wait: args.wait.limit(),
        accepts: Vec::new(),
    };
    let order = Order { save: args.save, ..Order::plain(aim, args.message) };
    deploy::run(&client, ui, order).await
}
