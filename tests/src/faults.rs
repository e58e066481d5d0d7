//! System calls of a running program that fail or take long, by `strace`, for as long as a [`Faults`] lives.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::engine;
use crate::limits::SOON;
use crate::wait::wait_for;

/// See the module.
pub struct Faults {
    strace: Child,
    log: PathBuf,
}

impl Faults {
    /// From now on each system call `call` on `file` in the program of that process id does as `how` says, in strace's words
    /// (`error=EIO`, `delay_enter=1000000`). `None` when there is no strace and nothing is required.
    ///
    /// # Errors
    /// When strace is required and not there, or may not look into the program.
    pub fn inject(id: u32, call: &str, how: &str, file: &Path) -> Result<Option<Self>> {
        let log = file.with_extension("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", &format!("trace={call}"), "-e", &format!("inject={call}:{how}"), "-P"]).arg(file);
        strace.arg("-p").arg(id.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        match strace.stderr(std::fs::File::create(&log)?).spawn() {
            Err(error) if engine::is_required() => Err(error).context("no system call fails without strace; install it"),
            Err(_) => Ok(None),
            Ok(strace) => {
                let mut faults = Self { strace, log };
                let is_there = wait_for("strace has every thread", SOON, || {
                    let has_ended = faults.strace.try_wait()?.is_some();
                    Ok(if faults.said("attached")? { Some(true) } else { has_ended.then_some(false) })
                })?;
                ensure!(is_there, "strace ended at once; it said: {}", String::from_utf8_lossy(&std::fs::read(&faults.log)?));
                Ok(Some(faults))
            }
        }
    }

    /// Whether strace has said `words`: `(INJECTED)` of a call that failed, `(DELAYED)` of one that waited.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn said(&self, words: &str) -> Result<bool> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).contains(words))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // The program that it looked into goes on.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}
