//! The command line. Each verb's own arguments stand in its file under [`crate::cmd`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cmd;
use crate::render::Format;

/// The operator's hands: signs what hosts shall run, and shows what they do.
#[derive(Debug, Parser)]
#[command(
    name = "moorctl",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 error, 2 changes pending (plan), 64 usage, 130 a wait that Ctrl-C broke off."
)]
pub struct Cli {
    /// What every verb understands.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Folder with contexts and keys [default: ~/.config/moorline]
    #[arg(long, global = true, env = "MOORLINE_HOME", hide_env_values = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// The context to use [default: the one that `init` made last]
    #[arg(long, global = true, env = "MOORLINE_CONTEXT", hide_env_values = true, value_name = "NAME")]
    pub context: Option<String>,
    /// How results are written
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Sign although this machine's clock and the hub's are more than 5 minutes apart
    #[arg(long, global = true)]
    pub accept_clock: bool,
    /// A file with the passphrases of sealed keys, one a line [default: ask on the terminal]
    #[arg(long, global = true, env = "MOORLINE_PASSPHRASE_FILE", hide_env_values = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Another operator's key file that signs besides yours, where more than one must; may be repeated
    #[arg(long, global = true, value_name = "FILE")]
    pub sign_with: Vec<PathBuf>,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make keys and the trust root of a new cluster, or join one as another operator
    Init(cmd::init::InitArgs),
    /// Make and show operator keys
    #[command(subcommand)]
    Key(cmd::key::KeyVerb),
    /// Add, approve, list and remove hosts
    #[command(subcommand)]
    Host(cmd::host::HostVerb),
    /// Check a topology file without a hub
    Validate(cmd::validate::ValidateArgs),
    /// Make topology files of what is there already
    #[command(subcommand)]
    Import(cmd::import::ImportVerb),
    /// Show what a topology file would change on each host; exit 2 when it would change something
    Plan(cmd::plan::PlanArgs),
    /// Sign a topology file and hand it to the hub
    Push(cmd::push::PushArgs),
    /// Let a revision stay that `push --ttl` put on trial
    Confirm(cmd::confirm::ConfirmArgs),
    /// Sign and hand in a revision that `push --save` wrote
    #[command(subcommand)]
    Revision(cmd::revision_file::RevisionVerb),
    /// Show every host: what it should have and what it has
    Status(cmd::status::StatusArgs),
    /// Show one thing in full
    #[command(subcommand)]
    Get(cmd::get::GetVerb),
    /// Show the revisions of a topology
    History(cmd::history::HistoryArgs),
    /// Show what differs between two revisions, or between the newest and a file
    Diff(cmd::diff::DiffArgs),
    /// Make an earlier revision the newest again
    Rollback(cmd::rollback::RollbackArgs),
    /// Show how far a revision has spread over its hosts; pause, resume or abort that
    #[command(subcommand)]
    Rollout(cmd::rollout::RolloutVerb),
    /// Tear a topology down on every host; volumes stay
    Down(cmd::down::DownArgs),
    /// Decide about what hosts have otherwise than their topology says
    #[command(subcommand)]
    Drift(cmd::drift::DriftVerb),
    /// Order one-shot operations, and see how they ended
    #[command(subcommand, after_help = cmd::op::TARGET_NOTE)]
    Op(Box<cmd::op::OpVerb>),
    /// Sign work of several steps that ends or is undone, and see how far it is
    #[command(subcommand)]
    Saga(cmd::saga::SagaVerb),
    /// Fetch a host's journal, and check it against what the hub has seen of it
    Journal(cmd::journal::JournalArgs),
    /// Run a command in a service's container, with its output as it comes
    #[command(after_help = cmd::exec::EXAMPLE)]
    Exec(Box<cmd::exec::ExecArgs>),
    /// Show what a service's containers write
    Logs(cmd::logs::LogsArgs),
    /// Show what happened
    Events(cmd::events::EventsArgs),
    /// Print the JSON Schema of the topology file, for editors
    Schema,
    /// Print a completion script
    Completion(cmd::completion::CompletionArgs),
}

/// Reads a generation's number.
///
/// # Errors
/// What was expected.
pub fn parse_generation(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write the number of a generation, such as 3; `moorctl history` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_no_generation_is_told_in_the_users_words() {
        for line in [
            &["moorctl", "rollback", "edge", "--to", "abc"][..],
            &["moorctl", "push", "-f", "edge.yaml", "--base", "abc"],
            &["moorctl", "get", "topology", "edge", "--generation", "abc"],
        ] {
            let said = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(said.contains("number of a generation") && !said.contains("digit found"), "{said}");
        }
    }

    #[test]
    fn what_is_only_saved_is_not_waited_for() {
        for line in
            [&["moorctl", "push", "-f", "edge.yaml"][..], &["moorctl", "rollback", "edge", "--to", "3"], &["moorctl", "down", "edge"]]
        {
            assert!(Cli::try_parse_from([line, &["--save", "edge.json"]].concat()).is_ok(), "{line:?}");
            let said = Cli::try_parse_from([line, &["--save", "edge.json", "--wait"]].concat()).unwrap_err().to_string();
            assert!(said.contains("--wait") && said.contains("cannot be used with"), "{said}");
        }
    }
}
