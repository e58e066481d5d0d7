//! A simulated Proxmox VE as a program of its own. Ends at a signal, and then keeps its world if it was given a file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::Parser;
use moorline_pve_sim::https::Server;
use moorline_pve_sim::schema::Schema;
use moorline_pve_sim::{Setup, Sim, World};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "A simulated Proxmox VE API, as strict as the real one")]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The API's own description (`apidoc.json`); every call is checked against it.
    #[arg(long)]
    schema: Option<PathBuf>,
    /// What the cluster begins as, in JSON.
    #[arg(long)]
    setup: Option<PathBuf>,
    /// Where the world is kept from one start to the next.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Gets the address and the certificate's fingerprint once it listens.
    #[arg(long)]
    ready: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut world = load(&args)?;
    let schema = args.schema.as_deref().map(|path| Schema::parse(&read(path)?)).transpose()?;
    world.set_schema(schema.map(Arc::new));
    let sim = Sim::of(world);
    let server = Server::start(sim.clone(), args.listen).await?;
    if let Some(path) = &args.ready {
        let ready = json!({ "url": server.url(), "fingerprint": server.fingerprint() });
        write(path, ready.to_string().as_bytes())?;
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let mut saved = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            end = tokio::signal::ctrl_c() => { end?; break }
            // So that it also goes on after it was killed.
            _ = saved.tick() => keep(&args, &sim)?,
        }
    }
    keep(&args, &sim)
}

fn load(args: &Args) -> Result<World> {
    if let Some(path) = args.state.as_deref().filter(|path| path.exists()) {
        return serde_json::from_slice(&read(path)?).with_context(|| format!("{} is no world", path.display()));
    }
    let given = args.setup.as_deref().map(read).transpose()?.unwrap_or_else(|| b"{}".to_vec());
    let mut setup: Setup = serde_json::from_slice(&given).context("that is no setup")?;
    let says_when = serde_json::from_slice::<Value>(&given).is_ok_and(|setup| setup.get("begins_at_ms").is_some());
    if !says_when {
        // A host's clock is right.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        setup.begins_at_ms = u64::try_from(now.as_millis())?;
    }
    Ok(World::new(setup))
}

fn keep(args: &Args, sim: &Sim) -> Result<()> {
    let Some(path) = &args.state else { return Ok(()) };
    write(path, &sim.inspect(serde_json::to_vec)?)
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
