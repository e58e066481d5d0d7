//! `cargo xtask storm`: somebody rages on the engine for minutes. See [`moorline_tests::storm`].

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use moorline_tests::storm::{Options, run};
use moorline_tests::wait;

const USAGE: &str = "usage: cargo xtask storm [--minutes N] [--seed S]

  --minutes   how long each of the two storms lasts (10): one under `heal`, one under `inbox`
  --seed      of both (random)";

/// A host that heals is as wanted so soon after the last act.
const AIM: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((minutes, seed)) = options(&words) else {
        say(USAGE);
        return ExitCode::from(64);
    };
    wait::interrupt_on_ctrl_c();
    let mut reached = true;
    for inbox in [false, true] {
        let policy = if inbox { "inbox" } else { "heal" };
        say(&format!("{policy}: {minutes} min, seed {seed}"));
        match run(Options { span: Duration::from_secs_f64(minutes * 60.0), seed, inbox }) {
            Ok(None) => say("skipped: no Docker Engine answers"),
            Ok(Some(calm)) => {
                let after = calm.after.map(|after| {
                    reached &= after <= AIM;
                    let verdict = if after <= AIM { "reached" } else { "MISSED" };
                    format!(
                        "as wanted {:.2} s after the last (≤ {} s: {verdict}); nothing unowned was touched",
                        after.as_secs_f64(),
                        AIM.as_secs()
                    )
                });
                let rows = || format!("{} differences, each with exactly one open row; nothing was changed", calm.differences);
                say(&format!("{policy}: {} acts, {}", calm.acts, after.unwrap_or_else(rows)));
            }
            Err(error) => {
                say(&format!("\nThe storm under `{policy}` failed: {error:#}"));
                return ExitCode::FAILURE;
            }
        }
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options(words: &[String]) -> Option<(f64, u64)> {
    let mut options = (10.0, getrandom::u64().unwrap_or(1) >> 16);
    for pair in words.chunks(2) {
        let [name, value] = pair else { return None };
        match name.as_str() {
            "--minutes" => options.0 = value.parse().ok().filter(|minutes| (0.0..=1440.0).contains(minutes))?,
            "--seed" => options.1 = value.parse().ok()?,
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
