//! `moorline-agent`: see `moorline-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One TLS provider for the whole process; a second installation would only repeat the first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match moorline_agent::cli::parse() {
        Ok(args) => moorline_agent::cli::execute(args),
        Err(code) => code,
    }
}
