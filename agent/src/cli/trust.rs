//! `moorline-agent trust`: shows the trust root, and follows it by hand when the hub is not to be trusted.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use moorline_common::id::UnixSeconds;
use moorline_common::sign::Envelope;
use moorline_common::trust::{CHAIN_BYTES_MAX, read_chain};

use super::status::when;
use super::{Output, say};
use crate::admin;
use crate::config::Config;
use crate::db::Db;
use crate::identity::StateDir;
use crate::intake::Intake;
use crate::run::{Host, open_intake};
use crate::trust::TrustStore;

#[derive(Debug, Subcommand)]
pub(super) enum TrustVerb {
    /// Show the trust root: whose signatures count here, for what, and until when
    Show {
        /// The form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Follow the trust roots in a file that `moorctl key export` wrote; works while the agent runs and while it doesn't
    Import {
        /// The file; `-` reads standard input
        file: PathBuf,
    },
}

pub(super) async fn trust(config: &Config, verb: &TrustVerb) -> anyhow::Result<ExitCode> {
    match verb {
        TrustVerb::Show { output } => show(config, *output),
        TrustVerb::Import { file } => import(config, file).await,
    }
}

fn show(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let state = StateDir(config.state.clone());
    let enrolment = state.joined()?;
    let host_id = state.keys()?.map(|keys| keys.host_id()).context("this host has no keys")?;
    let trust = match Db::open_to_read(&config.state)? {
        Some(db) => TrustStore::new(db).load(&enrolment.root_pin, &host_id)?,
        None => Default::default(),
    };
    let Some(root) = trust.root.as_ref().map(|r| r.statement()) else {
        say(&format!("this host has no trust root yet; the first one that it takes is pinned: {}", enrolment.root_pin));
        return Ok(ExitCode::FAILURE);
    };
    match output {
        Output::Json => say(&serde_json::to_string_pretty(root)?),
        Output::Text => root.describe(|at: UnixSeconds| when(at.0)).iter().for_each(|line| say(line)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The way that a root takes in: to the agent that runs, or to its folder.
enum Way {
    Running,
    Stopped(Box<Stopped>),
}

struct Stopped {
    intake: Intake,
    // Holds the folder's lock: no agent starts meanwhile.
    _host: Host,
}

async fn import(config: &Config, file: &Path) -> anyhow::Result<ExitCode> {
    let chain = read_chain(&read(file)?).map_err(|fault| anyhow::anyhow!("{}: {fault}", file.display()))?;
    let mut way = match admin::ask_status(&config.state).await? {
        Some(_) => Way::Running,
        None => {
            let mut host = Host::open(config)?;
            let intake = open_intake(config, &mut host)?;
            Way::Stopped(Box::new(Stopped { intake, _host: host }))
        }
    };
    let (mut accepted, mut version) = (0_u32, 0);
    for envelope in chain {
        let (now, new) = hand_in(config, &mut way, envelope).await?;
        version = now;
        if new {
            accepted += 1;
            say(&format!("accepted trust root version {now}"));
        }
    }
    match (accepted, &way) {
        (0, _) => say(&format!("trust root version {version} is in force, and the file has nothing newer")),
        (_, Way::Running) => say(&format!("trust root version {version} is in force")),
        (_, Way::Stopped(_)) => say(&format!("trust root version {version} is in force from the agent's next start")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn hand_in(config: &Config, way: &mut Way, envelope: Envelope) -> anyhow::Result<(u64, bool)> {
    let handed = match way {
        Way::Running => {
            let answer = admin::hand_in_root(&config.state, envelope).await?;
            answer.context("the agent stopped meanwhile; run this again")?
        }
        Way::Stopped(stopped) => {
            let intake = &mut stopped.intake;
            let new = intake.import_root(envelope.to_json()).await.map_err(|refused| refused.fault);
            new.map(|new| (intake.trust().borrow().root_version(), new))
        }
    };
    handed.map_err(|fault| anyhow::anyhow!("{fault}; the trust root stays as it is"))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = u64::try_from(CHAIN_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).context("reading standard input")?;
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("reading {}", file.display()))?;
        opened.take(limit).read_to_end(&mut bytes).with_context(|| format!("reading {}", file.display()))?;
    }
    Ok(bytes)
}
