//! One program as a child process with its log in a file. It dies with its [`Process`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::limits::{LOG_TAIL, POLL, STOP};
use crate::wait::check_interrupt;

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
        // A group of its own: Ctrl-C on a terminal is ours to handle, in our order.
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would: SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended within [`STOP`]; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("process id")?);
        let _ = kill(pid, Signal::SIGTERM);
        let end = Instant::now() + STOP;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                self.kill()?;
                bail!("{} did not end within {} s after SIGTERM", self.name, STOP.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not know it.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("looking at {}", self.name))
    }

    /// An error with the end of the log when it has ended by itself.
    ///
    /// # Errors
    /// See above.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended by itself ({status}):\n{}", self.name, tail(&self.log)),
        }
    }

    /// All that it has logged, over all its starts.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last part of a log file, for failure messages.
#[must_use]
pub fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let start = bytes.len().saturating_sub(LOG_TAIL);
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
}

/// How a command ended and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// This output, if the command succeeded.
    ///
    /// # Errors
    /// When the exit code is not 0, with all that was said.
    pub fn ok(self) -> Result<Self> {
        self.expect_code(0)
    }

    /// This output, if the exit code is `code`.
    ///
    /// # Errors
    /// When it is another, with all that was said.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != code {
            bail!("exit code {}, expected {code}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }

    /// Both streams, for looking for words.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("expected JSON on standard output, got: {}\n{}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end, with `input` on its standard input, at most for `deadline`.
///
/// # Errors
/// When it cannot be started, or has not ended in time (it is killed then).
pub fn run(mut command: Command, input: &[u8], deadline: Duration) -> Result<Output> {
    let name = Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("program")).to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let stdin = child.stdin.take();
    let out = child.stdout.take().context("standard output")?;
    let err = child.stderr.take().context("standard error")?;
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut s| s.write_all(input)));
        let out = scope.spawn(move || std::io::read_to_string(out).unwrap_or_default());
        let err = scope.spawn(move || std::io::read_to_string(err).unwrap_or_default());
        let end = Instant::now() + deadline;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= end || check_interrupt().is_err() {
                child.kill()?;
                child.wait()?;
                let said = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
                bail!("{name} has not ended within {} s\nstdout: {}\nstderr: {}", deadline.as_secs(), said.0, said.1);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = out.join().unwrap_or_default();
        let stderr = err.join().unwrap_or_default();
        Ok(Output { code: status.code().unwrap_or(-1), stdout, stderr })
    })
}
