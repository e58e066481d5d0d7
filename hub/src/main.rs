//! `moorline-hub`: arguments, configuration, logging, runtime, exit code. All else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use moorline_hub::cmd::{self, Args};

fn main() -> ExitCode {
    // Everything that asks rustls for "the" provider gets ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cmd::EXIT_USAGE } else { 0 });
        }
    };
    cmd::main(args)
}
