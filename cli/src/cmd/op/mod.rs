//! `moorctl op`: one-shot operations, signed here and done by the host at most once.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use moorline_common::id::OpId;
use moorline_common::op::State;

use super::Env;
use crate::clock;
use crate::error::Failure;
use crate::render::Ui;

mod act;
pub mod draft;
pub mod guest;
mod list;
mod remedy;
mod saved;
pub mod streamed;
pub mod submit;
#[cfg(test)]
mod tests;
pub mod view;
mod wait;

pub use act::{CommandArgs, ExecArgs};
pub use guest::GuestVerb;

/// How a command is written down.
const EXEC_EXAMPLE: &str = "The command stands after `--`: moorctl op exec shop-17/edge-db-1 -- pg_dumpall -U app\n\
    It is no shell: moorctl op exec shop-17/edge-db-1 -- sh -c 'echo $HOME'";

/// What `kill` does and does not hold.
const KILL_NOTE: &str = "The signal goes to the container's first process. SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH and SIGCONT hold nothing.";

/// How resources are named.
pub const TARGET_NOTE: &str = "A resource is named behind its host: edge-site-1 or container/edge-site-1, volume/edge_data, network/edge_front, \
    image/nginx:1.27, and a guest of Proxmox VE by its number, 101 or guest/101, or by its name, guest/db. Bare digits from 100 on are a guest: no container \
    that Moorline makes is called by digits alone (one that was taken over is container/101).";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum OpVerb {
    /// Start a container or a guest
    Start(OnOne),
    /// Stop a container, or cut the power of a guest; it is held until other content is pushed or `op release`
    Stop {
        /// Where
        #[command(flatten)]
        on: OnOne,
        /// Of a container: how long it may take to end by itself [default: the container's own]; of a guest see `op shutdown`
        #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
        timeout: Option<Duration>,
    },
    /// Stop and start a container
    Restart {
        /// Where
        #[command(flatten)]
        on: OnOne,
        /// How long it may take to end by itself [default: the container's own]
        #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
        timeout: Option<Duration>,
    },
    /// Send a signal to a container; it is held until other content is pushed or `op release`
    #[command(after_help = KILL_NOTE)]
    Kill {
        /// Where
        #[command(flatten)]
        on: OnOne,
        /// The signal
        #[arg(long, default_value = "SIGKILL", value_name = "NAME")]
        signal: String,
    },
    /// Freeze a container; it is held until other content is pushed or `op release`
    Pause(OnOne),
    /// Let a frozen container go on
    Unpause(OnOne),
    /// Run a command in a container, without a terminal
    #[command(after_help = EXEC_EXAMPLE)]
    Exec(ExecArgs),
    /// Pull an image
    Pull(OnOne),
    /// Remove a container, a volume or a guest for good; it is held until other content is pushed or `op release`
    #[command(after_help = guest::DESTROY_NOTE)]
    Destroy {
        /// Where
        #[command(flatten)]
        on: OnOne,
        /// Of a container: its anonymous volumes too
        #[arg(long)]
        volumes: bool,
        /// What is for guests alone
        #[command(flatten)]
        guest: guest::DestroyArgs,
    },
    /// What is for guests alone
    #[command(flatten)]
    Guest(GuestVerb),
    /// Remove what is ours on a host, no longer wanted and not running
    #[command(after_help = "For a whole host, by its name alone: moorctl op prune shop-17")]
    Prune {
        /// Where
        #[command(flatten)]
        on: OnHost,
        /// Volumes too: their data is lost
        #[arg(long)]
        volumes: bool,
    },
    /// Make one resource as the topology says, and lift its hold
    Converge(OnOne),
    /// Lift the hold on a resource
    Release(OnOne),
    /// Set a host's memory of time to now
    #[command(after_help = "For a whole host, by its name alone: moorctl op time-reset shop-17")]
    TimeReset(OnHost),
    /// Take an operation back that has not begun
    Cancel {
        /// The operation's whole id
        op_id: OpId,
        /// How it is ordered
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Say how an indeterminate operation ended
    Resolve {
        /// The operation's whole id
        op_id: OpId,
        /// How it ended
        #[arg(long = "as", value_name = "OUTCOME", value_parser = outcome)]
        outcome: State,
        /// How it is ordered
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Add your signature to a saved order; needs no hub
    Sign {
        /// A file that `--save` made
        file: PathBuf,
    },
    /// Hand in a saved order
    Submit {
        /// A file that `--save` made
        file: PathBuf,
        /// How the wait goes
        #[command(flatten)]
        wait: OpWait,
    },
    /// List operations, newest first
    Ls {
        /// Only those of this host
        #[arg(value_name = "HOST")]
        host: Option<String>,
        /// Only those that have not ended, or of which nobody knows how
        #[arg(long)]
        open: bool,
        /// How many
        #[arg(short = 'n', long, default_value_t = crate::limits::OPS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show an operation with its order and its receipt, verified
    Show {
        /// The operation's whole id
        op_id: OpId,
    },
}

/// One resource, and how it is ordered.
#[derive(Debug, Clone, Args)]
pub struct OnOne {
    /// A host, or a resource on one: shop-17/edge-site-1, shop-17/volume/edge_data, shop-17/image/nginx:1.27, pve-1/101
    #[arg(value_name = "HOST[/RESOURCE]")]
    pub target: String,
    /// How it is ordered
    #[command(flatten)]
    pub order: OrderArgs,
}

/// A whole host, and how it is ordered.
#[derive(Debug, Clone, Args)]
pub struct OnHost {
    /// The host's name
    #[arg(value_name = "HOST")]
    pub target: String,
    /// How it is ordered
    #[command(flatten)]
    pub order: OrderArgs,
}

impl From<OnHost> for OnOne {
    fn from(on: OnHost) -> Self {
        Self { target: on.target, order: on.order }
    }
}

/// How any operation is ordered.
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
    /// What makes two orders the same one: it is done at most once for a key [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// How long it may wait before it begins [default: 1h, 15m from class R3 on]
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
    pub expires: Option<Duration>,
    /// The one that is meant of those that have borne its name: a container's id, a guest's incarnation, or `any` [default: for
    /// what disrupts or destroys a container, and for a guest, the one in the host's last report]
    #[arg(long, value_name = "ID|any")]
    pub incarnation: Option<String>,
    /// Only if the container is in this state when it begins
    #[arg(long, value_name = "STATE", value_parser = draft::container_state)]
    pub if_state: Option<moorline_common::observe::ContainerState>,
    /// Only if the host follows this generation when it begins
    #[arg(long, value_name = "GENERATION", value_parser = crate::args::parse_generation)]
    pub if_generation: Option<u64>,
    /// Write the signed order to a file instead of handing it in
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// How the wait goes
    #[command(flatten)]
    pub wait: OpWait,
}

/// How verbs that hand in an operation wait for it.
#[derive(Debug, Clone, Args)]
pub struct OpWait {
    /// Wait for the receipt (this is the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Do not wait: `op show` tells how it ended
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout_wait: Duration,
}

impl OrderArgs {
    /// An order like any other, given out for `reason`.
    #[must_use]
    pub fn usual(reason: &str, wait: OpWait) -> Self {
        let reason = reason.to_owned();
        Self { reason, key: None, expires: None, incarnation: None, if_state: None, if_generation: None, save: None, wait }
    }

    /// Whether the answer would not be waited for, or be another order's.
    pub const fn no_answer(&self) -> bool {
        self.save.is_some() || self.key.is_some() || self.wait.no_wait
    }
}

impl OpWait {
    /// As an operator waits who says nothing of it.
    #[must_use]
    pub const fn usual() -> Self {
        Self { wait: true, no_wait: false, timeout_wait: crate::limits::OP_WAIT_DEFAULT }
    }

    fn limit(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.timeout_wait)
    }
}

fn outcome(text: &str) -> Result<State, String> {
    match text {
        "succeeded" => Ok(State::Succeeded),
        "failed" => Ok(State::Failed),
        _ => Err("write succeeded or failed".to_owned()),
    }
}

/// Runs one of them; exit 0 when the operation succeeded.
///
/// # Errors
/// How the operation ended otherwise; what calls can fail with.
pub async fn run(verb: OpVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        OpVerb::Ls { host, open, limit } => list::ls(env, ui, host.as_deref(), open, limit).await,
        OpVerb::Show { op_id } => list::show(env, ui, &op_id).await,
        OpVerb::Sign { file } => saved::sign(env, ui, &file),
        OpVerb::Submit { file, wait } => saved::submit(env, ui, &file, &wait).await,
        OpVerb::Cancel { op_id, order } => {
            let act = moorline_common::op::Act::Cancel { op_id: op_id.clone() };
            submit::about(env, ui, &op_id, act, &order).await
        }
        OpVerb::Resolve { op_id, outcome, order } => {
            let act = moorline_common::op::Act::Resolve { op_id: op_id.clone(), outcome };
            submit::about(env, ui, &op_id, act, &order).await
        }
        verb @ (OpVerb::Start(_)
        | OpVerb::Stop { .. }
        | OpVerb::Restart { .. }
        | OpVerb::Kill { .. }
        | OpVerb::Pause(_)
        | OpVerb::Unpause(_)
        | OpVerb::Exec(_)
        | OpVerb::Pull(_)
        | OpVerb::Destroy { .. }
        | OpVerb::Prune { .. }
        | OpVerb::Converge(_)
        | OpVerb::Release(_)
        | OpVerb::TimeReset(_)
        | OpVerb::Guest(_)) => {
            let (wish, on) = act::read(verb)?;
            submit::on_one(env, ui, wish, &on).await
        }
    }
}
