//! `moorctl push`: signs a topology file and hands it in.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use moorline_common::fallback::TTL_S;
use moorline_common::id::Generation;

use super::Env;
use super::deploy::{self, Aim, AtOnce, Base, Order, Verb};
use super::plan::saved::{Reviewed, SavedPlan};
use crate::args::parse_generation;
use crate::client::Client;
use crate::clock;
use crate::desired::{self, Source};
use crate::error::Failure;
use crate::fallback::Terms;
use crate::inputs::InputArgs;
use crate::pins::PinArgs;
use crate::render::Ui;

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The topology file; `-` reads standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "plan")]
    pub file: Option<PathBuf>,
    /// Instead of a file, a plan that `plan --save` wrote: pushed exactly as it was reviewed, or refused when the newest generation
    /// or what a host would get is another one by now
    #[arg(long, value_name = "PLAN", conflicts_with_all = ["pin", "file", "env_file", "base", "accept_older_hub"])]
    pub plan: Option<PathBuf>,
    /// What the file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Which images
    #[command(flatten)]
    pub pins: PinArgs,
    /// Why, for the history
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub message: String,
    /// The generation that the file was made from [default: the last one that this machine pushed]
    #[arg(long, value_name = "GENERATION", value_parser = parse_generation)]
    pub base: Option<u64>,
    /// Push although nothing changes
    #[arg(long)]
    pub force: bool,
    /// Go on from the hub's revision although this machine has seen a newer one: for a hub that was restored
    /// from a backup and cannot catch up because no host ever had the newest
    #[arg(long)]
    pub accept_older_hub: bool,
    /// Give it to all hosts at once although the file has `rollout`, and end the rollout that is under way
    #[arg(long)]
    pub no_rollout: bool,
    /// Do not wait for the maintenance windows in its `policy`
    #[arg(long)]
    pub now: bool,
    /// How long hosts may take to come and fetch it
    #[arg(long, default_value = "30d", value_name = "SPAN", value_parser = clock::parse_span)]
    pub deliver_within: Duration,
    /// Only try it: each host that it changes goes back by itself to what it had, hub or no hub, unless `moorctl confirm` lets it stay
    /// before this time is over; from 30s to 24h
    #[arg(long, value_name = "SPAN", value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    /// Write the signed revision to a file instead of pushing it: others sign it with `moorctl revision sign`
    #[arg(long, value_name = "FILE", conflicts_with = "wait")]
    pub save: Option<PathBuf>,
    /// How the wait goes
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Arguments of verbs that can wait.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until every host has it
    #[arg(short, long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, default_value = "2m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout: Duration,
}

impl WaitArgs {
    /// How long to wait, if at all.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.wait.then_some(self.timeout)
    }
}

/// Runs it.
///
/// # Errors
/// `bad_topology` and `pin_failed` before anything is sent; `base_moved`; `plan_altered` and `plan_outdated`; `not_converged` after a wait.
pub async fn run(args: PushArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let (client, made) = match (&args.plan, &args.file) {
        (Some(plan), _) => {
            let client = env.client(ui).await?;
            let (source, reviewed) = SavedPlan::open(plan, &client.root.cluster)?;
            (client, Made { verb: Verb::PushPlan, source, base: Base::Generation(reviewed.base), reviewed: Some(reviewed) })
        }
        (None, Some(file)) => {
            let mut source = desired::read(ui, file, &args.inputs)?;
            let client = env.client(ui).await?;
            if args.pins.pin {
                source.pin(ui, &args.pins, &client.hosts(None).await?).await?;
            }
            let base = base(&args, &client, &source)?;
            (client, Made { verb: Verb::Push, source, base, reviewed: None })
        }
        (None, None) => return Err(Failure::usage("nothing to push", "name a topology file with -f, or a saved plan with --plan")),
    };
    let Made { verb, source, base, reviewed } = made;
    let topology = source.file.topology.clone();
    let aim = Aim {
        verb,
        topology,
        source: Some(source),
        accept_older_hub: args.accept_older_hub,
        no_rollout: args.no_rollout,
        wait: args.wait.limit(),
        accepts: Vec::new(),
    };
    if args.ttl.is_some() && aim.plan().is_some() {
        let why = "what is only tried waits for a confirmation, and a rollout for hosts that have judged it healthy";
        return Err(Failure::usage(
            why,
            "try it on all hosts at once with --no-rollout, or leave --ttl out and let the rollout stop what fails",
        ));
    }
    let PushArgs { message, deliver_within, ttl, force, save, now, .. } = args;
    let at_once = if now { AtOnce::All } else { AtOnce::Nobody };
    let terms = ttl.map(|ttl| Terms { within_s: ttl.as_secs(), healthy_for_s: 0, needs_confirm: true });
    deploy::run(&client, ui, Order { aim, message, deliver_within, base, reviewed, earlier: None, terms, at_once, force, save }).await
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let span = clock::parse_span(text)?;
    if TTL_S.contains(&span.as_secs()) { Ok(span) } else { Err("a trial takes from 30s to 24h".to_owned()) }
}

/// What is pushed, and what it was made from.
struct Made {
    verb: Verb,
    source: Source,
    base: Base,
    reviewed: Option<Reviewed>,
}

fn base(args: &PushArgs, client: &Client, source: &Source) -> Result<Base, Failure> {
    let floors = client.context.floors()?;
    let pushed = floors.topologies.get(&source.file.topology).map(|f| f.pushed).filter(|g| g.0 > 0);
    Ok(match (args.base, pushed) {
        (Some(named), _) => Base::Generation(Generation(named)),
        // What this machine pushed last is of the generations that the older hub no longer has.
        (None, _) if args.accept_older_hub => Base::Newest,
        (None, Some(pushed)) => Base::Generation(pushed),
        (None, None) => Base::Unknown,
    })
}
