//! `moorctl validate`: everything that can be found in a topology file without hosts, at once.

use std::path::PathBuf;

use clap::Args;
use moorline_common::rollout::Plan;
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::desired;
use crate::error::Failure;
use crate::inputs::InputArgs;
use crate::render::Ui;

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The topology file; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// What the file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
}

#[derive(Serialize)]
struct Validated {
    topology: String,
    profiles: Vec<String>,
    hosts: Vec<String>,
    /// How a push of it spreads; absent when all hosts get it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<Plan>,
    /// The variables that it takes from this machine.
    variables: Vec<String>,
    /// The files that it takes from this machine.
    files: Vec<String>,
}

/// Reads the file and says what it holds.
///
/// # Errors
/// `bad_topology` with every problem at its line.
pub fn run(args: &ValidateArgs, ui: &mut Ui) -> Result<u8, Failure> {
    let source = desired::read(ui, &args.file, &args.inputs)?;
    let result = Validated {
        topology: source.file.topology.to_string(),
        profiles: source.file.profiles.keys().cloned().collect(),
        hosts: source.file.hosts.keys().cloned().collect(),
        rollout: source.file.rollout.clone(),
        variables: source.inputs.variables.keys().cloned().collect(),
        files: source.inputs.files.keys().cloned().collect(),
    };
    ui.result(&result, || {
        let rollout = result.rollout.as_ref().map(|plan| format!("  rollout: {}\n", plan.words())).unwrap_or_default();
        format!(
            "{} {}: topology `{}`, {}, {}\n{rollout}",
            "ok".green(),
            source.name,
            result.topology,
            counted(result.hosts.len(), "host entry", "host entries"),
            counted(result.profiles.len(), "profile", "profiles")
        )
    })?;
    Ok(0)
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
