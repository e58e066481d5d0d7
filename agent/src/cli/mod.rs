//! The verbs of `moorline-agent`. Each verb is a file; this one reads the command line and says how it ended.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::config::{self, Config, DriverKind, LogFormat, Overrides};

mod doctor;
mod drivers;
mod join;
mod journal;
mod run;
mod status;
mod teardown;
mod trust;

/// Exit code for a wrong command line or configuration (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;

/// Makes one host match its operator-signed slice.
#[derive(Debug, Parser)]
#[command(name = "moorline-agent", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Shared {
    /// Configuration file [default: /etc/moorline/agent.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder [default: /var/lib/moorline-agent]
    #[arg(long, global = true, value_name = "DIR", env = "MOORLINE_AGENT_STATE")]
    state: Option<PathBuf>,
    /// The engine to manage [default: docker]
    #[arg(long, global = true, value_enum)]
    driver: Option<DriverKind>,
    /// Docker's socket [default: /var/run/docker.sock]
    #[arg(long, global = true, value_name = "PATH")]
    docker_socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a cluster with the token that `moorctl host add` printed
    Join {
        /// The token; `-` reads it from standard input
        token: String,
    },
    /// Run the agent
    Run {
        /// Check the configuration and exit
        #[arg(long)]
        check_config: bool,
    },
    /// Show how the agent and its host are
    Status {
        /// The form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Look at everything that the agent needs
    Doctor {
        /// The form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show and check what the agent has done, whether it runs or not
    Journal {
        #[command(subcommand)]
        verb: journal::JournalVerb,
    },
    /// Show whose signatures count on this host, and follow the trust root by hand
    Trust {
        #[command(subcommand)]
        verb: trust::TrustVerb,
    },
    /// Remove what the agent made on this host; volumes are kept
    Teardown {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Reads the command line.
///
/// # Errors
/// The exit code, when help was asked for or the command line is wrong; it has been explained then.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
    })
}

/// Does what the command line says.
#[must_use]
pub fn execute(cli: Cli) -> ExitCode {
    let Cli { shared: Shared { config, state, driver, docker_socket }, verb } = cli;
    let config = match config::load(&Overrides { config, state, driver, docker_socket }) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Verb::Run { check_config: true } = verb {
        say("the configuration is usable");
        return ExitCode::SUCCESS;
    }
    init_logging(&config, matches!(verb, Verb::Run { .. }));
    let runtime = match runtime(matches!(verb, Verb::Run { .. })) {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match verb {
            Verb::Join { token } => join::join(&config, &token).await,
            Verb::Run { .. } => run::run(config).await,
            Verb::Status { output } => status::status(&config, output).await,
            Verb::Doctor { output } => doctor::doctor(&config, output).await,
            Verb::Journal { verb } => journal::journal(&config, &verb),
            Verb::Trust { verb } => trust::trust(&config, &verb).await,
            Verb::Teardown { yes } => teardown::teardown(&config, yes).await,
        }
    });
    // Work that can't be interrupted, such as a blocked engine call, must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Two threads for the service: one may hash or parse while the other keeps the heartbeat.
fn runtime(service: bool) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = if service { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    builder.worker_threads(2).max_blocking_threads(16).thread_stack_size(crate::limits::THREAD_STACK).enable_all().build()
}

fn init_logging(config: &Config, service: bool) {
    // Verbs other than `run` speak by their output; only what goes wrong is logged.
    let level = if service { config.log_level.as_str() } else { "warn" };
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A logger that is there already serves as well.
    let _ = match config.log {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// A line on standard output. A reader that has gone away is no error.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// An error on standard error.
fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "error: {text}");
}
