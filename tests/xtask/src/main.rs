//! `cargo xtask`: the developer commands. Thin on purpose, so that it builds in seconds and everything
//! else is built in one go.

use std::process::ExitCode;

mod ci;
mod cmd;
mod needs;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask <command>

  test [FILTER] [-- ARGS]   install what tests need, build, run every test (or those whose name contains FILTER)
  ci                        what is checked before a change is taken: fmt, clippy, doc, deny, tidy, test
  demo [--keep | --cloud]   the guided tour: hub, operator and agents as real processes; or that of a droplet
  crash [--rounds N] [--seed S]
                            random operations on the real engine while the agent is killed at random
  storm [--minutes N] [--seed S]
                            somebody kills, removes, changes and renames at random what a host has, under `heal` and under `inbox`
  tidy                      only the project's own checks of its source
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let result = match args.first().map(String::as_str) {
        Some("test") => ci::test(rest),
        Some("ci") => ci::all(),
        Some("demo") => ci::demo(rest),
        Some("crash") => ci::crash(rest),
        Some("storm") => ci::storm(rest),
        Some("tidy") => tidy::check(),
        Some("help" | "--help" | "-h") => {
            cmd::say(USAGE);
            return ExitCode::SUCCESS;
        }
        Some(_) | None => {
            cmd::say(USAGE);
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cmd::say(&format!("\nerror: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}
