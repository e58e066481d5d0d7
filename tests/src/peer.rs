//! Debian's `docker-compose`, the peer that Compose files are compared by, loaded once for many runs: that costs more than a second
//! of processor time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::engine;
use crate::own_engine::find;

/// The version whose differences are known.
pub const VERSION: &str = "1.29.2";
const PROGRAM: &str = include_str!("../python/compose.py");

/// A `docker-compose` that is loaded once and run often, in one folder. Ends with its value.
pub struct Compose {
    child: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    output: PathBuf,
}

impl Compose {
    /// Loads it; `output` is for what it says. `None`, with a line that says so, when it is not installed and nothing is required.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn start(folder: &Path, output: PathBuf) -> Result<Option<Self>> {
        let Some(interpreter) = interpreter() else {
            if engine::is_required() {
                bail!("`docker-compose` {VERSION} is not installed; on Debian: `apt-get install --no-install-recommends docker-compose`");
            }
            tracing::info!("skipped: `docker-compose` is not installed");
            return Ok(None);
        };
        let mut command = Command::new(interpreter);
        command.args(["-c", PROGRAM]).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("starting docker-compose's interpreter")?;
        let answers = BufReader::new(child.stdout.take().context("standard output")?);
        let mut this = Self { input: child.stdin.take(), child, answers, output };
        let version = this.answer().context("loading docker-compose")?;
        if version != VERSION {
            bail!("docker-compose is {version}, and what it makes otherwise is known of {VERSION}");
        }
        Ok(Some(this))
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&mut self, arguments: &[&str]) -> Result<()> {
        let line = std::iter::once(self.output.to_str().context("path")?).chain(arguments.iter().copied()).collect::<Vec<_>>().join("\t");
        let input = self.input.as_mut().context("standard input")?;
        writeln!(input, "{line}").and_then(|()| input.flush()).context("asking docker-compose")?;
        match self.answer()?.as_str() {
            "0" => Ok(()),
            code => {
                let said = std::fs::read_to_string(&self.output).unwrap_or_default();
                bail!("docker-compose {}: exit code {code}\n{said}", arguments.join(" "))
            }
        }
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() { bail!("docker-compose's interpreter has ended") } else { Ok(line.trim().to_owned()) }
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The Python that the script `docker-compose` names in its first line; a program of that name that is no script is another one.
fn interpreter() -> Option<PathBuf> {
    let script = std::fs::read(find("docker-compose")?).ok()?;
    let first = script.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let path = PathBuf::from(std::str::from_utf8(first).ok()?.trim());
    path.is_file().then_some(path)
}
