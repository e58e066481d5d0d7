//! `cargo xtask crash`: random rounds of killing an agent. See [`moorline_tests::crash::rounds`].

use std::io::Write as _;
use std::process::ExitCode;

use moorline_tests::crash::rounds::{Options, run};
use moorline_tests::wait;

const USAGE: &str =
    "usage: cargo xtask crash [--rounds N] [--seed S]\n\n  --rounds   how many rounds (10)\n  --seed     of the first round (random)\n";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = options(&words) else {
        say(USAGE.trim_end());
        return ExitCode::from(64);
    };
    wait::interrupt_on_ctrl_c();
    say(&format!("seed {}", options.seed));
    match run(options, say) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nA round failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn options(words: &[String]) -> Option<Options> {
    let mut options = Options { rounds: 10, seed: getrandom::u64().unwrap_or(1) >> 16 };
    for pair in words.chunks(2) {
        let [name, value] = pair else { return None };
        match name.as_str() {
            "--rounds" => options.rounds = value.parse().ok()?,
            "--seed" => options.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(options)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
