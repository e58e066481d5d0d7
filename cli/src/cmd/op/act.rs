//! From the words of the command line to what is ordered.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use clap::Args;
use moorline_common::op::{Act, Converge, Exec, GuestOp};

use super::guest::act::{ConfigWish, destroy, guest_in, read as read_guest, refuse_on_guest};
use super::{OnOne, OpVerb};
use crate::clock;
use crate::error::Failure;
use crate::limits::STDIN_MAX;

/// Arguments of `op exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Where
    #[command(flatten)]
    pub on: OnOne,
    /// What to run
    #[command(flatten)]
    pub command: CommandArgs,
}

/// A command in a container.
#[derive(Debug, Args)]
pub struct CommandArgs {
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
    /// What it reads: a file, or `-` for standard input. It is signed with the order: never a secret
    #[arg(long, value_name = "FILE")]
    pub stdin: Option<PathBuf>,
    /// A variable besides the container's own; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Who runs it [default: the container's own user]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Where it runs [default: the container's own folder]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// With every capability; the host's local policy must allow it
    #[arg(long)]
    pub privileged: bool,
    /// How long it may run; past it an operator must look
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout: Duration,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

pub(super) fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

/// What is to be ordered, as far as the command line says it.
#[derive(Debug)]
pub enum Wish {
    /// All of it.
    Act(Act),
    /// A change of a guest's config, of which the host's report says the rest.
    Config(ConfigWish),
}

/// What is ordered, and where.
///
/// # Errors
/// A usage failure for what does not fit the kind of resource; when the input of a command cannot be read.
pub fn read(verb: OpVerb) -> Result<(Wish, OnOne), Failure> {
    let (act, on) = match verb {
        OpVerb::Start(on) => {
            let is_guest = guest_in(&on.target)?.is_some();
            (if is_guest { Act::Guest(GuestOp::Start) } else { Act::Start }, on)
        }
        OpVerb::Stop { on, timeout } => (stop(&on.target, timeout)?, on),
        OpVerb::Restart { on, timeout } => {
            refuse_on_guest("restart", &on.target, "say `moorctl op reboot`, which lets it end by itself and starts it")?;
            (Act::Restart { timeout_s: timeout.map(seconds) }, on)
        }
        OpVerb::Kill { on, signal } => {
            refuse_on_guest("kill", &on.target, "say `moorctl op stop`, which cuts its power")?;
            (Act::Kill { signal: full_name(&signal) }, on)
        }
        OpVerb::Pause(on) => {
            refuse_on_guest("pause", &on.target, "say `moorctl op suspend`, which freezes it")?;
            (Act::Pause, on)
        }
        OpVerb::Unpause(on) => {
            refuse_on_guest("unpause", &on.target, "say `moorctl op resume`, which lets a frozen one go on")?;
            (Act::Unpause, on)
        }
        OpVerb::Exec(args) => {
            refuse_on_guest("exec", &args.on.target, "log in to the guest: what runs in it is its own")?;
            (Act::Exec(args.command.read()?), args.on)
        }
        OpVerb::Pull(on) => (Act::Pull, on),
        OpVerb::Destroy { on, volumes, guest } => (destroy(&on.target, volumes, guest)?, on),
        OpVerb::Prune { on, volumes } => (Act::Prune { volumes }, on.into()),
        OpVerb::Converge(on) => (Act::Converge(Converge::default()), on),
        OpVerb::Release(on) => (Act::Release, on),
        OpVerb::TimeReset(on) => (Act::TimeReset, on.into()),
        OpVerb::Guest(verb) => return read_guest(verb),
        OpVerb::Cancel { .. }
        | OpVerb::Resolve { .. }
        | OpVerb::Sign { .. }
        | OpVerb::Submit { .. }
        | OpVerb::Ls { .. }
        | OpVerb::Show { .. } => return Err(Failure::local("this verb orders nothing on a resource")),
    };
    Ok((Wish::Act(act), on))
}

/// Of a container the end by itself, for so long; of a guest the end of its power.
fn stop(target: &str, timeout: Option<Duration>) -> Result<Act, Failure> {
    match (guest_in(target)?, timeout) {
        (None, timeout) => Ok(Act::Stop { timeout_s: timeout.map(seconds) }),
        (Some(_), None) => Ok(Act::Guest(GuestOp::Stop)),
        (Some(_), Some(span)) => {
            let shutdown = format!("moorctl op shutdown {target} --timeout {}s", span.as_secs());
            let remedy = format!("let it end by itself: `{shutdown}`, with `--force` to cut its power when that is over");
            Err(Failure::usage("`op stop` cuts the power of a guest at once, and takes no `--timeout`", remedy))
        }
    }
}

/// `term` and `TERM` mean `SIGTERM`.
fn full_name(signal: &str) -> String {
    let name = signal.to_ascii_uppercase();
    if name.starts_with("SIG") { name } else { format!("SIG{name}") }
}

impl CommandArgs {
    /// The command, with what it reads.
    ///
    /// # Errors
    /// When its input cannot be read.
    pub fn read(self) -> Result<Exec, Failure> {
        let stdin = match &self.stdin {
            None => None,
            Some(path) => {
                let mut bytes = Vec::new();
                let failed = |e: &std::io::Error| Failure::file("read", path, e);
                if path.as_os_str() == "-" {
                    std::io::stdin().lock().take(STDIN_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
                } else {
                    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
                    file.take(STDIN_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
                }
                Some(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
        };
        Ok(Exec {
            argv: self.argv,
            stdin,
            env: self.env.into_iter().collect::<BTreeMap<_, _>>(),
            user: self.user,
            workdir: self.workdir,
            privileged: self.privileged,
            stream: false,
            timeout_s: seconds(self.timeout),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Verb};

    fn act(line: &[&str]) -> (Act, OnOne) {
        let cli = Cli::try_parse_from(["moorctl", "op"].iter().chain(line)).unwrap();
        let Verb::Op(verb) = cli.verb else { panic!("not an operation") };
        let (Wish::Act(act), on) = read(*verb).unwrap() else { panic!("not said in full") };
        (act, on)
    }

    #[test]
    fn the_words_of_the_command_line_become_an_order() {
        for (line, kind, params) in [
            (&["start", "h/c"][..], "start", "{}"),
            (&["stop", "h/c", "--timeout", "1m"], "stop", r#"{"timeout_s":60}"#),
            (&["restart", "h/c"], "restart", "{}"),
            (&["kill", "h/c", "--signal", "term"], "kill", r#"{"signal":"SIGTERM"}"#),
            (&["destroy", "h/c", "--volumes"], "destroy", r#"{"volumes":true}"#),
            (&["prune", "h"], "prune", "{}"),
            (&["time-reset", "h"], "time-reset", "{}"),
            (
                &["exec", "h/c", "--env", "A=b=c", "--user", "me", "--", "sh", "-c", "--volumes"],
                "exec",
                r#"{"argv":["sh","-c","--volumes"],"env":{"A":"b=c"},"user":"me","timeout_s":600}"#,
            ),
        ] {
            let (act, on) = act(line);
            assert!(on.target.starts_with('h'));
            let params: serde_json::Value = serde_json::from_str(params).unwrap();
            assert_eq!((act.kind(), act.params()), (kind, params), "{line:?}");
        }
    }

    #[test]
    fn a_commands_input_comes_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        std::fs::write(&path, b"hello").unwrap();
        let (act, _) = act(&["exec", "h/c", "--stdin", path.to_str().unwrap(), "--", "cat"]);
        let Act::Exec(exec) = act else { panic!("no command") };
        assert_eq!(exec.stdin_bytes().unwrap(), b"hello");
    }

    #[test]
    fn waiting_is_the_default_and_can_be_left_out() {
        let limit = |line: &[&str]| act(line).1.order.wait.limit();
        assert_eq!(limit(&["start", "h/c"]), Some(Duration::from_secs(600)));
        assert_eq!(limit(&["start", "h/c", "--wait", "--timeout-wait", "5s"]), Some(Duration::from_secs(5)));
        assert_eq!(limit(&["start", "h/c", "--no-wait"]), None);
    }
}
