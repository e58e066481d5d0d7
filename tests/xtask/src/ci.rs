//! The commands themselves: build once, then test, check or show.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd::{cargo, find, root, run, say, succeeds, target};
use crate::{needs, tidy};

const PROGRAMS: [&str; 5] = ["moorline-hub", "moorline-agent", "moorctl", "moorline-pve-sim", "moorline-do-sim"];

/// Builds the programs and the demo in one go; returns the folder that they are in.
fn build() -> Result<PathBuf> {
    let mut command = cargo();
    command.current_dir(root()?).args(["build", "--locked", "--bins"]);
    PROGRAMS.iter().for_each(|p| {
        command.args(["--package", p]);
    });
    run(command.args(["--package", "moorline-tests"]))?;
    Ok(target()?.join("debug"))
}

/// `cargo xtask demo`.
pub fn demo(args: &[String]) -> Result<()> {
    let bins = build()?;
    let mut demo = Command::new(bins.join("demo"));
    let status = demo.args(args).env("MOORLINE_BIN_DIR", &bins).current_dir(root()?).status().context("starting the demo")?;
    anyhow::ensure!(status.success(), "the demo ended with {status}");
    Ok(())
}

/// `cargo xtask crash`.
pub fn crash(args: &[String]) -> Result<()> {
    program("rounds", args)
}

/// Runs one of the tests' own programs on the engine.
fn program(name: &str, args: &[String]) -> Result<()> {
    let _dockerd = needs::engine()?;
    let bins = build()?;
    let mut program = Command::new(bins.join(name));
    program.args(args).env("MOORLINE_BIN_DIR", &bins).env("MOORLINE_REQUIRE_DOCKER", "1").current_dir(root()?);
    let status = program.status().with_context(|| format!("starting `{name}`"))?;
    anyhow::ensure!(status.success(), "`{name}` ended with {status}");
    Ok(())
}

/// `cargo xtask storm`.
pub fn storm(args: &[String]) -> Result<()> {
    program("storm", args)
}

/// `cargo xtask test`.
pub fn test(args: &[String]) -> Result<()> {
    needs::programs()?;
    let python = needs::python()?;
    let _dockerd = needs::engine()?;
    let bins = build()?;
    let mut command = cargo();
    command.current_dir(root()?).args(["test", "--locked", "--workspace", "--no-fail-fast"]).args(args);
    command.env("MOORLINE_BIN_DIR", &bins).env("MOORLINE_PYTHON", python).env("MOORLINE_REQUIRE_DOCKER", "1");
    for (variable, file) in needs::SCHEMAS {
        if let Some(schema) = needs::schema(&root()?, variable, file) {
            command.env(variable, schema);
        }
    }
    run(&mut command)
}

/// `cargo xtask ci`.
pub fn all() -> Result<()> {
    let root = root()?;
    let within = || {
        let mut cargo = cargo();
        cargo.current_dir(&root);
        cargo
    };
    run(within().args(["fmt", "--all", "--check"]))?;
    tidy::check()?;
    deny()?;
    run(within().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    run(within().env("RUSTDOCFLAGS", "--deny warnings").args(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]))?;
    test(&[])?;
    say("\nall checks passed\n");
    Ok(())
}

/// Licences, bans and sources of every dependency; advisories where their database can be had.
fn deny() -> Result<()> {
    let root = root()?;
    let own = target()?.join("tools");
    let program = match find("cargo-deny") {
        Some(program) => program,
        None => {
            let program = own.join("bin/cargo-deny");
            if !program.is_file() {
                run(cargo().args(["install", "--quiet", "--locked", "cargo-deny", "--root"]).arg(&own))?;
            }
            program
        }
    };
    run(Command::new(&program).current_dir(&root).args(["--locked", "check", "bans", "licenses", "sources"]))?;
    let mut fetch = Command::new(&program);
    fetch.args(["--locked", "fetch", "db"]).current_dir(&root).env("GIT_TERMINAL_PROMPT", "0");
    if !succeeds(&mut fetch) {
        say("\nthe advisory database cannot be reached: advisories are not checked\n");
        return Ok(());
    }
    run(Command::new(&program).current_dir(&root).args(["--locked", "check", "advisories"]))
}
