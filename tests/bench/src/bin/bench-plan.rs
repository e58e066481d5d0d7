//! `bench-plan`: see [`moorline_bench::plan`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use moorline_bench::apply::scene::Scene;
use moorline_bench::fleet;
use moorline_bench::plan::command::Programs;
use moorline_bench::plan::{Row, command, guests, heal, planner, print};
use moorline_tests::binaries::Binaries;
use moorline_tests::engine::Engine;
use moorline_tests::image;

/// Measures the planner, a look at many guests, `moorctl plan` for a fleet, and how soon a dead container runs again.
#[derive(Parser)]
struct Args {
    /// Rounds; medians of fewer than 5 say little.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Hosts of the fleet.
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// Measure only these.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Planner, Part::Guests, Part::Command, Part::Heal])]
    only: Vec<Part>,
    /// The hub's program.
    #[arg(long, default_value = "target/release/moorline-hub")]
    hub: PathBuf,
    /// The operator's tool.
    #[arg(long, default_value = "target/release/moorctl")]
    moorctl: PathBuf,
    /// The simulated Proxmox VE.
    #[arg(long, default_value = "target/release/pve-sim")]
    pve_sim: PathBuf,
    /// The engine's socket.
    #[arg(long, default_value = moorline_tests::engine::SOCKET)]
    socket: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The planner alone.
    Planner,
    /// A host with 500 guests.
    Guests,
    /// `moorctl plan`.
    Command,
    /// Killed containers.
    Heal,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench-plan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    fleet::init_tls();
    let mut reached = true;
    let mut show = |rows: &[Row]| -> Result<()> {
        reached &= print(&mut std::io::stdout().lock(), rows)?;
        Ok(())
    };
    if args.only.contains(&Part::Planner) {
        show(&planner::measure(args.rounds, 500)?)?;
    }
    if args.only.contains(&Part::Guests) {
        let binaries = Binaries { pve_sim: args.pve_sim.clone(), ..Binaries::default() };
        show(&guests::measure(&binaries, args.rounds, 500)?)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if args.only.contains(&Part::Command) {
        let programs = Programs { hub: args.hub.clone(), moorctl: args.moorctl.clone() };
        show(&runtime.block_on(command::measure(&programs, args.rounds, args.hosts))?)?;
    }
    if args.only.contains(&Part::Heal) {
        let engine = Engine::connect(&args.socket)?;
        image::ensure(&engine)?;
        show(&runtime.block_on(heal(args, &engine))?)?;
    }
    writeln!(std::io::stdout(), "Medians (least – greatest) of {} rounds; ratios are within one round.", args.rounds)?;
    ensure!(reached, "an aim was missed");
    Ok(())
}

async fn heal(args: &Args, engine: &Engine) -> Result<Vec<Row>> {
    let scene = |kind: &str| Scene { name: format!("mb{kind}{}", std::process::id()), image: image::IMAGE.to_owned() };
    let (own, bare) = (scene("h"), scene("b"));
    let rows = heal::measure(&own, &bare, engine.docker(), &args.socket, args.rounds).await;
    for scene in [own, bare] {
        if let Err(error) = scene.sweep(engine.docker()).await {
            // What went wrong in the rounds counts more.
            writeln!(std::io::stderr(), "cleaning up: {error:#}")?;
        }
    }
    rows
}
