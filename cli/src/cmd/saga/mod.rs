//! `moorctl saga`: work of several steps that is signed whole, and ends, is undone, or stands still where everybody sees it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use moorline_common::id::SagaId;
use moorline_common::saga::{Kind, Status};

use super::Env;
use crate::clock;
use crate::error::Failure;
use crate::inputs::InputArgs;
use crate::limits::SAGAS_DEFAULT;
use crate::render::Ui;

mod act;
mod droplet;
mod follow;
mod list;
mod start;
#[cfg(test)]
mod tests;
mod view;

/// How a saga is started.
const START_EXAMPLE: &str = "A snapshot of two guests, or of none:\n  moorctl saga start snapshot-guest pve-1/101 pve-2/205 --wait\n\
    What a definition is about and takes with --set: moorctl saga library\n\
    One of your own, see docs/sagas.md: moorctl saga start -f move.yaml";

/// What `retry` and `skip` mean.
const STEP_NOTE: &str = "A step is named as `moorctl saga show` does: by its name or its number from 1.";

/// What to do with sagas.
#[derive(Debug, Subcommand)]
pub enum SagaVerb {
    /// Sign a saga and hand it in
    #[command(after_help = START_EXAMPLE)]
    Start(Box<StartArgs>),
    /// List the definitions that there are, or show one in full
    Library {
        /// Only this one
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// List sagas, newest first
    Ls(LsArgs),
    /// Show a saga with its steps, verified; exit 1 when it was undone, is stuck or was ended
    Show {
        /// The saga's whole id
        saga_id: SagaId,
        /// Show it as it goes on, until it has ended or is stuck
        #[arg(short, long)]
        watch: bool,
    },
    /// Sign further tries of a step that failed for good
    #[command(after_help = STEP_NOTE)]
    Retry {
        /// Which step
        #[command(flatten)]
        on: OnStep,
        /// How long they may wait before they begin [default: 24h, 7d for what undoes a step]
        #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
        expires: Option<Duration>,
    },
    /// Take a step out: it is not needed, or you have seen to it yourself
    #[command(after_help = STEP_NOTE)]
    Skip {
        /// Which step
        #[command(flatten)]
        on: OnStep,
    },
    /// Begin nothing further, and undo what was done
    Abort(OnSaga),
    /// Do nothing further, and leave what was done as it is
    Abandon(OnSaga),
}

/// Arguments of `saga start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The definition; `moorctl saga library` lists them
    #[arg(value_name = "NAME", required_unless_present = "file")]
    pub name: Option<String>,
    /// What it is about: guests, such as pve-1/101 or pve-1/guest/db, or a host
    #[arg(value_name = "HOST[/GUEST]", conflicts_with = "file")]
    pub targets: Vec<String>,
    /// Something that the definition takes; may be repeated. It is signed with the plan: never a secret
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// A definition of your own
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The topology file of which the saga pushes a revision
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub topology: Option<PathBuf>,
    /// What that file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
    /// What the saga belongs to, for `saga ls --deployment`
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub deployment: String,
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
    /// Show the plan with everything that would undo it, and send nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Fail on purpose once this step is done, to see the saga undone; what cannot be undone is not begun
    #[arg(long, value_name = "STEP")]
    pub fail_after: Option<String>,
    /// How long its steps may wait before they begin
    #[arg(long, default_value = "24h", value_name = "SPAN", value_parser = clock::parse_span)]
    pub expires: Duration,
    /// How long what undoes them may wait
    #[arg(long, default_value = "7d", value_name = "SPAN", value_parser = clock::parse_span)]
    pub undo_for: Duration,
    /// What makes two starts the same saga: with a key that was used before, that one is shown [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Wait until it has ended or is stuck; exit 0 only when all was done
    #[arg(short, long)]
    pub wait: bool,
    /// How long to wait [default: until then]
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span, requires = "wait")]
    pub timeout: Option<Duration>,
}

impl StartArgs {
    /// A definition of the library, about one thing, with what it is given.
    #[must_use]
    pub fn of(definition: &str, target: &str, set: (&str, String), reason: &str) -> Self {
        Self {
            name: Some(definition.to_owned()),
            targets: vec![target.to_owned()],
            set: vec![(set.0.to_owned(), set.1)],
            file: None,
            topology: None,
            inputs: InputArgs::default(),
            deployment: String::new(),
            reason: reason.to_owned(),
            dry_run: false,
            fail_after: None,
            expires: Duration::from_secs(crate::saga::seal::EXPIRES_DEFAULT_S),
            undo_for: Duration::from_secs(crate::saga::seal::UNDO_DEFAULT_S),
            key: None,
            wait: false,
            timeout: None,
        }
    }
}

/// Arguments of `saga ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only those that stand so: pending, running, compensating, completed, rolled_back, stuck, cancelled or abandoned
    #[arg(long, value_name = "STATUS", value_parser = status)]
    pub status: Option<Status>,
    /// Only those of this kind: provision, suspend, offboard, update, rollback or test
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<Kind>,
    /// Only those of this deployment
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub deployment: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = SAGAS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// A saga, and why something is said of it.
#[derive(Debug, Args)]
pub struct OnSaga {
    /// The saga's whole id
    pub saga_id: SagaId,
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
}

/// One side of a step of a saga.
#[derive(Debug, Args)]
pub struct OnStep {
    /// The saga
    #[command(flatten)]
    pub on: OnSaga,
    /// The step
    pub step: String,
    /// What undoes it, not what it does
    #[arg(long)]
    pub undo: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as memory=yes".to_owned()),
    }
}

fn status(text: &str) -> Result<Status, String> {
    Status::parse(text).ok_or_else(|| format!("write {}", Status::ALL.map(Status::as_str).join(", ")))
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).ok_or_else(|| format!("write {}", Kind::ALL.map(Kind::as_str).join(", ")))
}

/// Runs it.
///
/// # Errors
/// What calls can fail with; what the hub refuses.
pub async fn run(verb: SagaVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        SagaVerb::Start(args) => start::run(&args, env, ui).await,
        SagaVerb::Library { name } => list::library(ui, name.as_deref()),
        SagaVerb::Ls(args) => list::ls(args, env, ui).await,
        SagaVerb::Show { saga_id, watch } => view::show(&env.client(ui).await?, &saga_id, watch, ui).await,
        SagaVerb::Retry { on, expires } => act::retry(&on, expires, env.client(ui).await?, ui).await,
        SagaVerb::Skip { on } => act::skip(&on, env.client(ui).await?, ui).await,
        SagaVerb::Abort(on) => act::abort(&on, env.client(ui).await?, ui).await,
        SagaVerb::Abandon(on) => act::abandon(&on, env.client(ui).await?, ui).await,
    }
}
