//! Measures what one connected agent costs a hub: starts a real hub, lets simulated agents join over
//! TLS of their own, binds them, pushes them a slice, keeps their sessions open, and reads the hub's
//! memory and CPU time from the kernel.
//!
//! The agents are simulated in this process; each has its own key, certificate and TLS connection.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use moorline_bench::fleet::{Agent, Hub, Operator, Quiet};
use tokio::task::JoinSet;

/// Measures the cost of connected agents to one hub.
#[derive(Parser)]
struct Args {
    /// How many agents to connect.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// The hub's program.
    #[arg(long, default_value = "target/release/moorline-hub")]
    hub: PathBuf,
    /// Milliseconds between two heartbeats of one agent.
    #[arg(long, default_value_t = 5000)]
    heartbeat_ms: u64,
    /// Seconds to measure the hub at rest, with all agents connected.
    #[arg(long, default_value_t = 20)]
    rest_s: u64,
    /// Most KiB of hub memory per agent; more is an error.
    #[arg(long, default_value_t = 60)]
    limit_kib: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let args = Args::parse();
    moorline_bench::fleet::init_tls();
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::start(&args.hub, folder.path()).await?;
    let operator = Operator::init(&hub).await?;

    let before_join = hub.usage()?;
    let agents: Vec<Agent> = stream::iter(0..args.agents)
        .map(|n| operator.enrol(&hub, n, std::collections::BTreeMap::new()))
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    operator.push(&agents).await?;
    let before = hub.usage()?;
    say(&format!("{} agents enrolled and bound; hub {} KiB (empty: {} KiB)", agents.len(), before.rss_kib, before_join.rss_kib))?;

    let settled = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    // Dropped before the hub, so that its end is no news to anybody.
    let mut sessions = JoinSet::new();
    for agent in agents {
        let (settled, address, pins) = (settled.clone(), hub.address.clone(), hub.pins.clone());
        let every = Duration::from_millis(args.heartbeat_ms);
        sessions.spawn(async move { agent.live(&address, pins, every, &settled, &Quiet).await });
    }
    let deadline = Instant::now() + Duration::from_secs(180);
    let all = u64::try_from(args.agents)?;
    while settled.load(Ordering::Relaxed) < all {
        let so_far = || format!("{} of {all} agents had got their slice", settled.load(Ordering::Relaxed));
        ensure!(Instant::now() < deadline, "after 180 s only {}", so_far());
        hub.check_alive().with_context(so_far)?;
        go_on(&mut sessions, Duration::from_millis(50)).await.with_context(so_far)?;
    }
    say(&format!("all connected and served with their slice in {:.1} s", started.elapsed().as_secs_f64()))?;

    let rest_from = hub.usage()?;
    go_on(&mut sessions, Duration::from_secs(args.rest_s)).await?;
    hub.check_alive()?;
    let rest_to = hub.usage()?;
    let per_agent = rest_to.rss_kib.saturating_sub(before.rss_kib) / all;
    let per_agent_all = rest_to.rss_kib.saturating_sub(before_join.rss_kib) / all;
    let cpu_ms = rest_to.cpu_ms - rest_from.cpu_ms;
    say(&format!(
        "hub with all connected: {} KiB, {per_agent} KiB per session, {per_agent_all} KiB per agent with its records (limit {})",
        rest_to.rss_kib, args.limit_kib
    ))?;
    let share = Duration::from_millis(cpu_ms).div_duration_f64(Duration::from_secs(args.rest_s));
    say(&format!("hub at rest: {cpu_ms} ms of CPU in {} s, {:.3} % of a core", args.rest_s, share * 100.0))?;
    if per_agent_all > args.limit_kib {
        bail!("{per_agent_all} KiB per agent is over the limit of {} KiB", args.limit_kib);
    }
    Ok(())
}

/// Lets `sessions` go on for `span`.
///
/// # Errors
/// When one of them ends meanwhile: fewer agents than were asked for would be measured.
async fn go_on(sessions: &mut JoinSet<Result<Infallible>>, span: Duration) -> Result<()> {
    let Ok(Some(ended)) = tokio::time::timeout(span, sessions.join_next()).await else { return Ok(()) };
    match ended.context("a session's task")?.context("an agent's session ended")? {}
}

fn say(line: &str) -> Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{line}").context("writing to standard output")
}
