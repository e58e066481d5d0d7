//! `bench-apply`: see [`moorline_bench::apply`].

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use moorline_bench::apply::{agent::Agent, compose::Compose, raw::Raw, scene::Scene, table};
use moorline_tests::engine::Engine;
use moorline_tests::{image, proxy::Proxy};

/// Applies 3 networks and 20 containers, again and again, beside raw engine calls and docker-compose.
#[derive(Parser)]
struct Args {
    /// Rounds; medians of fewer than 7 say little.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Leave docker-compose out.
    #[arg(long)]
    no_compose: bool,
    /// The engine's socket.
    #[arg(long, default_value = moorline_tests::engine::SOCKET)]
    socket: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench-apply: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let engine = Engine::connect(&args.socket)?;
    image::ensure(&engine)?;
    // As the agent's own runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let proxy = Proxy::start(&folder.path().join("engine.sock"), &args.socket)?;
    let results = runtime.block_on(async {
        let results = measure(args, &engine, &proxy).await;
        for kind in ["a", "c", "p", "r"] {
            if let Err(error) = scene(kind).sweep(engine.docker()).await {
                // What went wrong in the rounds counts more.
                writeln!(std::io::stderr(), "cleaning up: {error:#}")?;
            }
        }
        results
    })?;
    table::print(&mut std::io::stdout().lock(), &results)
}

fn scene(kind: &str) -> Scene {
    Scene { name: format!("mb{kind}{}", std::process::id()), image: image::IMAGE.to_owned() }
}

async fn measure(args: &Args, engine: &Engine, proxy: &Proxy) -> Result<table::Results> {
    let docker = engine.docker();
    let compose = if args.no_compose { None } else { Compose::find(scene("c")).await? };
    let said = docker.version().await?.version.unwrap_or_default();
    let peer = compose.as_ref().map_or("left out", |c| c.version.as_str());
    writeln!(std::io::stderr(), "engine {said}, docker-compose {peer}, {} rounds", args.rounds)?;
    let mut results = table::Results { mutations: mutations(engine, proxy).await?, ..Default::default() };
    let mut agent = Agent::start(scene("a"), docker, &args.socket).await?;
    let raw = Raw::new(scene("r"), docker);
    for round in 0..args.rounds {
        let marker = round.to_string();
        for turn in 0..3 {
            match (turn + round) % 3 {
                0 => results.agent.push(agent.round(&marker).await.context("moorline")?),
                1 => results.raw.push(raw.round(&marker).await.context("raw calls")?),
                _ => {
                    if let Some(compose) = &compose {
                        results.compose.push(compose.round(&marker).await.context("docker-compose")?);
                    }
                }
            }
        }
        writeln!(std::io::stderr(), "round {} of {}", round + 1, args.rounds)?;
    }
    Ok(results)
}

/// Mutating engine calls that a re-application makes, counted between the agent and the engine.
async fn mutations(engine: &Engine, proxy: &Proxy) -> Result<usize> {
    let mut agent = Agent::start(scene("p"), engine.docker(), proxy.socket()).await?;
    let content = scene("p").content("0");
    agent.push(content).await?;
    proxy.forget();
    agent.push_again().await?;
    let made = proxy.mutations().len();
    agent.push(serde_json::json!({})).await?;
    Ok(made)
}
