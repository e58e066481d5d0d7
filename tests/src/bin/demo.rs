//! `cargo demo`: the guided tour. See [`moorline_tests::demo`].

use std::io::Write as _;
use std::process::ExitCode;

use moorline_tests::demo::{self, Options};
use moorline_tests::wait;

const USAGE: &str = "usage: cargo demo [--keep | --cloud]\n\n  --keep    leave everything running, and print the lines to try next\n  --cloud   another tour: a droplet that becomes a host by itself, and goes without a trace\n";

fn main() -> ExitCode {
    let (mut options, mut is_cloud) = (Options::default(), false);
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--keep" => options.keep = true,
            "--cloud" => is_cloud = true,
            other => {
                let known = matches!(other, "--help" | "-h");
                let _ = std::io::stdout().lock().write_all(USAGE.as_bytes());
                return ExitCode::from(if known { 0 } else { 64 });
            }
        }
    }
    wait::interrupt_on_ctrl_c();
    match if is_cloud { demo::cloud::run() } else { demo::run(&options) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
