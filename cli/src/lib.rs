//! The operator's hands.
//!
//! `moorctl` is where authority is made: it reads the topology file, expands it over host-bindings that
//! it has verified itself, signs, and hands the envelopes to the hub. The operator's key never leaves
//! this machine. Whatever the hub says is checked before it is acted on; what cannot be checked (who is
//! connected, ages) is only shown.
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`] | the command line |
//! | [`home`] | contexts, keys, roots and floors on disk |
//! | [`client`] | the hub's API, typed and verified |
//! | [`desired`] | from a file to one desired state per host |
//! | [`pins`], [`registry`] | which digests images have, and asking their registries |
//! | [`revision`] | from desired states to signed envelopes |
//! | [`fallback`] | what each of them lets come back by itself |
//! | [`approve`] | the checks between a claimed host and its binding |
//! | [`parallel`] | what costs processor time host by host, on all processors |
//! | [`progress`] | whether a host has got where a push wants it, and waiting for that |
//! | [`render`] | tables, JSON, YAML, colours, ages |
//! | [`saga`] | from what an operator asks for to a signed plan |
//! | [`saved`] | what is to be signed, in files that go from operator to operator |
//! | [`signers`] | the keys that sign |
//! | [`error`] | message, remedy, stable code, exit code |
//! | [`cmd`] | one verb per file |

pub mod approve;
pub mod args;
pub mod client;
pub mod clock;
pub mod cmd;
pub mod crash;
pub mod desired;
pub mod error;
pub mod fallback;
pub mod home;
pub mod inputs;
pub mod limits;
pub mod overrides;
pub mod parallel;
pub mod pins;
pub mod progress;
pub mod registry;
pub mod render;
pub mod resign;
pub mod revision;
pub mod saga;
pub mod saved;
pub mod secrets;
pub mod signers;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::error::{EXIT_USAGE, Failure};
use crate::render::Ui;

/// Runs the verb that `args` name (the program's own name first) and gives the exit code:
/// 0 done, 1 error, 2 changes pending, 64 usage, 130 interrupted while waiting.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // A closed pipe is no reason to fail differently.
            let _ = error.print();
            return if usage { EXIT_USAGE } else { 0 };
        }
    };
    let mut ui = Ui::new(cli.global.output, cli.global.yes);
    match cmd::run(cli, &mut ui).await {
        Ok(code) => code,
        Err(failure) => {
            ui.failure(&failure);
            failure.exit
        }
    }
}

/// Says why not even a runtime could be started.
#[must_use]
pub fn report_start_failure(error: &std::io::Error) -> ExitCode {
    let failure = Failure::local(format!("cannot start: {error}"));
    let _ = writeln!(std::io::stderr().lock(), "error: {failure}");
    ExitCode::from(failure.exit)
}
