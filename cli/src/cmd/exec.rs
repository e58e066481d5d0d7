//! `moorctl exec`: a command in a service's container, signed as `op exec` is, with its output as it comes.

use clap::Args;
use moorline_common::plan::lower;

use super::Env;
use super::op::{CommandArgs, streamed};
use super::target::Target;
use crate::error::Failure;
use crate::render::Ui;

/// How a command is written down.
pub const EXAMPLE: &str = "The command stands after `--`: moorctl exec shop-17/db -- pg_dumpall -U app > all.sql\n\
    It is no shell: moorctl exec shop-17/db -- sh -c 'echo $HOME'\n\
    Exits with the command's own exit code. With `-o json` the output comes at the end, the first 16 KiB of it. `moorctl op exec` has a key, waits for a host that is away, and can be saved for others to sign.";

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// A service or a container on a host: shop-17/db, shop-17/edge-site-1
    #[arg(value_name = "HOST/SERVICE")]
    pub target: String,
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
    /// What to run
    #[command(flatten)]
    pub command: CommandArgs,
}

/// Runs it.
///
/// # Errors
/// When it does not run to its end, or its output did not come whole; what calls can fail with.
pub async fn run(args: ExecArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let target = Target::parse(&args.target)?;
    let client = env.client(ui).await?;
    let (host, mut containers) = target.containers(&client).await?;
    let container = match (containers.pop(), containers.is_empty()) {
        (Some(one), true) => one,
        (last, _) => {
            containers.extend(last);
            let each = containers.iter().map(|c| format!("{}/{c}", host.name)).collect::<Vec<_>>().join(", ");
            return Err(Failure::usage(format!("`{}` has {} containers", args.target, containers.len()), format!("name one: {each}")));
        }
    };
    let (command, resource) = (args.command.read()?, lower::container_resource(&container));
    streamed::run(&client, ui, &host, command, resource, &args.reason).await
}
