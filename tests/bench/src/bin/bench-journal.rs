//! `bench-journal`: see [`moorline_bench::journal`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use moorline_bench::journal::{self, order::Host};

/// Measures the agent's journal beside bare files in the same run, and says which aims it misses.
#[derive(Parser)]
struct Args {
    /// Where to write; a folder of its own is made there and removed.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Records that are replayed.
    #[arg(long, default_value_t = 1_000_000)]
    records: usize,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench-journal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The median of ratios, and the worst and best.
fn spread(mut ratios: Vec<f64>) -> (f64, String) {
    ratios.sort_by(f64::total_cmp);
    let at = |n: usize| ratios.get(n).copied().unwrap_or_default();
    let middle = at(ratios.len() / 2);
    (middle, format!("{middle:.2} ({:.2}-{:.2})", at(0), at(ratios.len().saturating_sub(1))))
}

fn run(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir_in(&args.dir)?;
    let dir = folder.path();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = std::io::stdout().lock();
    let mut missed = Vec::new();
    let mut aim = |name: &str, holds: bool| {
        if !holds {
            missed.push(name.to_owned())
        }
    };

    for (writers, each, least) in [(1, 400, 0.85), (8, 300, 0.0), (64, 150, 0.70)] {
        let mut ratios = Vec::new();
        let mut rate = Duration::ZERO;
        for round in 0..args.rounds {
            let place = dir.join(format!("{writers}-{round}"));
            std::fs::create_dir_all(&place)?;
            let (ours, theirs) = runtime.block_on(async {
                if writers == 1 {
                    return journal::alone(&place, each).await;
                }
                let theirs = journal::together_bare(&place.join("bare"), writers, each).await?;
                anyhow::Ok((journal::together(&place.join("journal"), writers, each).await?, theirs))
            })?;
            rate = ours;
            ratios.push(theirs.div_duration_f64(ours));
        }
        let (middle, text) = spread(ratios);
        let beside = if writers == 1 { "bare write + fdatasync" } else { "bare group commit" };
        let per = rate / u32::try_from(each)?;
        writeln!(out, "{writers:>3} writers: {text} x the speed of {beside}; an append takes {per:.1?}")?;
        aim(&format!("{writers} writers"), middle >= least);
    }

    let (walk, open, bytes) = runtime.block_on(journal::replay(&dir.join("replay"), args.records))?;
    writeln!(out, "replay: {} records of {bytes} bytes in {walk:.2?}; to open that journal takes {open:.1?}", args.records)?;
    aim("replay", walk <= Duration::from_secs(5) || args.records > 1_000_000);

    let host = Arc::new(runtime.block_on(Host::start(&dir.join("host")))?);
    let (check, signature) = host.check(2_000)?;
    let ratio = check.div_duration_f64(signature);
    writeln!(out, "an order's envelope is checked in {check:.1?}: {ratio:.2} x one bare ed25519 verification ({signature:.1?})")?;
    // A processor that is slowed down slows both: 60 µs are 1.36 verifications at the speed that the aim is meant for.
    aim("envelope", check <= Duration::from_micros(60) || ratio <= 1.36);

    let (mut ratios, mut taken) = (Vec::new(), Duration::ZERO);
    for _ in 0..args.rounds {
        // As a session does it: in a task of the runtime.
        let (host, bare) = (host.clone(), dir.join("flush"));
        let (order, flush) = runtime.block_on(async { tokio::spawn(async move { host.until_started(&bare, 50).await }).await })??;
        taken = order;
        ratios.push(taken.div_duration_f64(flush));
    }
    let (middle, text) = spread(ratios);
    writeln!(out, "an order is started {taken:.1?} after it came: {text} x one fdatasync")?;
    aim("start", middle <= 3.0);
    if !missed.is_empty() {
        bail!("aims missed: {}", missed.join(", "));
    }
    Ok(())
}
