//! A simulated DigitalOcean as a program of its own. Ends at a signal, with all that its droplets run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use moorline_do_sim::boot::{Boot, Program, guard};
use moorline_do_sim::https::Server;
use moorline_do_sim::schema::Schema;
use moorline_do_sim::setup::{EVERYTHING, Limits, READING};
use moorline_do_sim::{Latencies, Setup, Sim, Token};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "A simulated DigitalOcean API, as late, as forgetful and as strict as the real one")]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The token that may do everything; without one, a known one.
    #[arg(long)]
    token: Option<String>,
    /// The token that may only read; without one, a known one.
    #[arg(long)]
    read_token: Option<String>,
    /// What the account begins as, in JSON.
    #[arg(long)]
    setup: Option<PathBuf>,
    /// The API's own description (`openapi.json`); every call and every answer is checked against it.
    #[arg(long)]
    schema: Option<PathBuf>,
    /// How fast things go, where `--setup` does not say.
    #[arg(long, value_enum, default_value = "short")]
    pace: Pace,
    /// How long something takes, in milliseconds: `active=500`.
    #[arg(long, value_name = "NAME=MS", value_parser = latency)]
    latency: Vec<(String, u64)>,
    /// Lets everybody call as often as they like.
    #[arg(long)]
    no_limits: bool,
    /// What is run for every droplet that is on.
    #[arg(long)]
    boot: Option<PathBuf>,
    /// Where its output goes.
    #[arg(long)]
    boot_logs: Option<PathBuf>,
    /// Gets the certificate of the authority to trust, in PEM.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Gets the address once it listens, in JSON.
    #[arg(long)]
    ready: Option<PathBuf>,
    /// Ends the process groups named on standard input when that ends.
    #[arg(long, hide = true)]
    guard: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pace {
    /// As the real one.
    Real,
    /// A hundred times as fast.
    Short,
    /// At once.
    None,
}

fn latency(text: &str) -> Result<(String, u64), String> {
    let (name, ms) = text.split_once('=').ok_or("it has to be NAME=MS")?;
    let ms = ms.parse().map_err(|error| format!("{ms}: {error}"))?;
    Latencies::default().set(name, ms)?;
    Ok((name.to_owned(), ms))
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.guard {
        guard(std::io::stdin().lock());
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let schema = args.schema.as_deref().map(|path| Schema::parse(&read(path)?)).transpose()?;
    let sim = Sim::new(setup(&args)?);
    sim.change(|world| world.set_schema(schema.map(Arc::new)));
    let mut terminated = signal(SignalKind::terminate())?;
    let program =
        args.boot.map(|path| Ok::<_, std::io::Error>(Program { path, logs: args.boot_logs, guard: Some(std::env::current_exe()?) }));
    let _boot = program.transpose()?.map(|program| Boot::start(&sim, program)).transpose()?;
    let server = Server::start(sim, args.listen).await?;
    if let Some(path) = &args.certificate {
        write(path, server.authority_pem().as_bytes())?;
    }
    if let Some(path) = &args.ready {
        write(path, json!({ "url": server.url(), "certificate": args.certificate }).to_string().as_bytes())?;
    }
    tokio::select! {
        _ = terminated.recv() => {}
        end = tokio::signal::ctrl_c() => end?,
    }
    Ok(())
}

fn setup(args: &Args) -> Result<Setup> {
    let mut setup = match &args.setup {
        Some(path) => serde_json::from_slice(&read(path)?).with_context(|| format!("{} is no setup", path.display()))?,
        None => {
            let latencies = match args.pace {
                Pace::Real => Latencies::default(),
                Pace::Short => Latencies::short(),
                Pace::None => Latencies::none(),
            };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            Setup { latencies, begins_at_ms: u64::try_from(now.as_millis())?, ..Setup::default() }
        }
    };
    for (name, ms) in &args.latency {
        setup.latencies.set(name, *ms).map_err(anyhow::Error::msg)?;
    }
    if args.no_limits {
        setup.limits = Limits::none();
    }
    for (name, secret, scope) in [("provisioning", &args.token, EVERYTHING), ("inventory", &args.read_token, READING)] {
        if let Some(secret) = secret {
            setup.tokens.retain(|token| token.name != name);
            setup.tokens.push(Token { name: name.to_owned(), secret: secret.clone(), scopes: vec![scope.to_owned()] });
        }
    }
    Ok(setup)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Never leaves half a file.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    std::fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}
