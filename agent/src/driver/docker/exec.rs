//! A command in a container, from its making to its end.
//!
//! It is made first and started only when its id is durable. The engine starts each id once at most, so that a command whose
//! start was cut short is never run again.

use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::{Stream, StreamExt};
use moorline_common::op::Exec;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::output::Output;
use super::super::{DriverError, DriverErrorKind, Found, OpResult, Taker};
use super::error::{from_engine_op, status};
use super::patiently;
use crate::limits::{EXEC_DRAIN, EXEC_ENGINE_BUFFER, EXEC_LOOK, EXEC_STALL};

/// Why a command that the engine does not know is indeterminate.
const FORGOTTEN: &str = "the engine does not know the command any more: it, or the container, was started again since";

/// The exit code that the engine gives to a command whose output nobody took, whatever its own was.
const UNHEARD_CODE: i64 = 126;
/// Why such a command is indeterminate.
const UNHEARD: &str = "the command has ended, and the engine does not tell how, as its output could not be heard to the end";

/// Makes the command; nothing runs yet.
pub(super) async fn create(docker: &Docker, container: &str, command: &Exec, what: &str) -> Result<String, DriverError> {
    let options = CreateExecOptions {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(false),
        env: Some(command.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        cmd: Some(command.argv.clone()),
        privileged: Some(command.privileged),
        user: command.user.clone(),
        working_dir: command.workdir.clone(),
        ..Default::default()
    };
    crate::crash::point("docker.exec-make.before");
    docker.create_exec(container, options).await.map(|made| made.id).map_err(|e| from_engine_op(&e, what))
}

/// How far a command is.
enum Stage {
    Made,
    Running,
    Ended(i64),
}

async fn look(docker: &Docker, task: &str) -> Result<Option<Stage>, DriverError> {
    match docker.inspect_exec(task).await {
        Ok(live) if live.running == Some(true) => Ok(Some(Stage::Running)),
        Ok(live) => Ok(Some(live.exit_code.map_or(Stage::Made, Stage::Ended))),
        Err(e) if status(&e) == Some(404) => Ok(None),
        // It may well run: only its own end would tell.
        Err(e) => Err(DriverError { kind: DriverErrorKind::Unreachable, ..from_engine_op(&e, "looking at a command") }),
    }
}

/// Starts the command unless it was started before, and waits for its end.
pub(super) async fn resume(docker: &Docker, command: &Exec, task: &str, taker: Taker) -> Result<OpResult, DriverError> {
    patiently(async {
        let deadline = Instant::now() + Duration::from_secs(command.timeout_s.into());
        match look(docker, task).await? {
            None => Ok(Output::unheard().unknown(FORGOTTEN)),
            Some(Stage::Made) => run(docker, command, task, deadline, taker).await,
            Some(Stage::Running | Stage::Ended(_)) => end(docker, command, task, Output::unheard(), deadline).await,
        }
    })
    .await
}

/// What there is of a command after a crash.
pub(super) async fn adopt(docker: &Docker, command: &Exec, task: &str, age: Duration) -> Result<Found, DriverError> {
    Ok(match look(docker, task).await? {
        None => Found::Unknown(FORGOTTEN.to_owned()),
        Some(Stage::Running) if age > Duration::from_secs(command.timeout_s.into()) => Found::Unknown(late(command)),
        Some(Stage::Made) => Found::Made(task.to_owned()),
        Some(Stage::Running | Stage::Ended(_)) => Found::Task(task.to_owned()),
    })
}

async fn run(docker: &Docker, command: &Exec, task: &str, deadline: Instant, taker: Taker) -> Result<OpResult, DriverError> {
    // Checked when the order was read.
    let stdin = command.stdin_bytes().unwrap_or_default();
    crate::crash::point("docker.exec-start.before");
    let started = docker.start_exec(task, None).await.map_err(|e| from_engine_op(&e, "starting a command"))?;
    crate::crash::point("docker.exec-start.after");
    let mut heard = Output::default();
    if let StartExecResults::Attached { output, mut input } = started {
        let feed = async {
            // One that does not read has its reasons.
            let _ = input.write_all(&stdin).await;
            let _ = input.shutdown().await;
            std::future::pending::<()>().await;
        };
        let is_over = CancellationToken::new();
        let watch = async {
            loop {
                sleep(EXEC_LOOK).await;
                // An engine that does not answer for once may still be speaking.
                if matches!(look(docker, task).await, Ok(None | Some(Stage::Ended(_)))) {
                    is_over.cancel();
                    std::future::pending::<()>().await;
                }
            }
        };
        let ears = Ears { docker, task, is_over: &is_over };
        let in_time = tokio::select! {
            () = ears.listen(output, &mut heard, taker) => true,
            () = feed => true,
            () = watch => true,
            () = sleep_until(deadline) => false,
        };
        heard.lost |= !in_time;
    }
    end(docker, command, task, heard, deadline).await
}

/// What hears a command.
struct Ears<'a> {
    docker: &'a Docker,
    task: &'a str,
    is_over: &'a CancellationToken,
}

impl Ears<'_> {
    /// Hears a command to the end of its streams. Something that it left running may keep them open: then it ends a while after `is_over`,
    /// or, for a taker who may be slow, once nothing has come for so long.
    async fn listen(&self, mut output: Said, heard: &mut Output, mut taker: Taker) {
        let silence = || async {
            self.is_over.cancelled().await;
            sleep(EXEC_DRAIN).await;
        };
        let mut enough = std::pin::pin!(silence());
        // Bytes heard since a taker kept the engine waiting beyond the command's end.
        let mut behind: Option<usize> = None;
        loop {
            if taker.is_somebody() {
                enough.set(silence());
            }
            let said = tokio::select! {
                biased;
                () = &mut enough => break,
                said = output.next() => said,
            };
            let (message, is_stderr) = match said {
                None => break,
                Some(Ok(LogOutput::StdErr { message })) => (message, true),
                Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message })) => (message, false),
                Some(Err(_)) => {
                    heard.lost = true;
                    return;
                }
            };
            if is_stderr {
                heard.stderr.take(&message)
            } else {
                heard.stdout.take(&message)
            }
            behind = behind.map(|bytes| bytes.saturating_add(message.len()));
            let began = Instant::now();
            taker.give(&message, is_stderr).await;
            if behind.is_none() && began.elapsed() >= EXEC_STALL && !matches!(look(self.docker, self.task).await, Ok(Some(Stage::Running)))
            {
                behind = Some(0);
            }
        }
        // An engine waits for its listener for two seconds after a command's end, then forgets what does not fit into its buffer.
        heard.lost |= behind.is_some_and(|bytes| bytes >= EXEC_ENGINE_BUFFER);
    }
}

/// What a command says, as the engine tells it.
type Said = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// Waits for the command's end.
async fn end(docker: &Docker, command: &Exec, task: &str, heard: Output, deadline: Instant) -> Result<OpResult, DriverError> {
    let mut pause = Duration::from_millis(10);
    loop {
        match look(docker, task).await? {
            None => return Ok(heard.unknown(FORGOTTEN)),
            // The engine also says so of one that could not be heard to its end.
            Some(Stage::Ended(UNHEARD_CODE)) if heard.lost => return Ok(heard.unknown(UNHEARD)),
            Some(Stage::Ended(code)) => return Ok(heard.ended(code)),
            Some(Stage::Made | Stage::Running) if Instant::now() >= deadline => return Ok(heard.unknown(late(command))),
            Some(Stage::Made | Stage::Running) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(EXEC_LOOK);
    }
}

fn late(command: &Exec) -> String {
    format!("the command still runs after its {} seconds; look at it in the container", command.timeout_s)
}
