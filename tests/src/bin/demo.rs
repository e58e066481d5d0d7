//! `cargo demo`: the guided tour. See [`moorline_tests::demo`].

use std::io::Write as _;
use std::process::ExitCode;

use moorline_tests::demo::{Options, run};
use moorline_tests::wait;

const USAGE: &str = "usage: cargo demo [--keep]\n\n  --keep   leave everything running, and print the lines to try next\n";

fn main() -> ExitCode {
    let mut options = Options::default();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--keep" => options.keep = true,
            other => {
                let known = matches!(other, "--help" | "-h");
                let _ = std::io::stdout().lock().write_all(USAGE.as_bytes());
                return ExitCode::from(if known { 0 } else { 64 });
            }
        }
    }
    wait::interrupt_on_ctrl_c();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
