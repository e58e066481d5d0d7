//! How a command ended, and what it said: bounded, as data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_common::fault::{Code, Fault};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::logs::LogPart;
use super::{OpResult, Taker};
use crate::limits::EXEC_OUTPUT_MAX;

/// What a command wrote: the first [`EXEC_OUTPUT_MAX`] bytes of each stream, the rest counted.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Its standard output.
    pub stdout: Kept,
    /// Its standard error.
    pub stderr: Kept,
    /// Some of it was not seen.
    pub lost: bool,
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    total: u64,
    digest: Sha256,
}

impl Kept {
    /// Takes what comes next.
    pub fn take(&mut self, bytes: &[u8]) {
        let room = EXEC_OUTPUT_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
        self.digest.update(bytes);
        self.total = self.total.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
}

impl Output {
    /// Nobody listened.
    pub fn unheard() -> Self {
        Self { lost: true, ..Self::default() }
    }

    /// Hears all that was said at once; of `None` nobody hears anything.
    pub async fn hear(said: Option<Vec<LogPart>>, mut taker: Taker) -> Self {
        let Some(said) = said else { return Self::unheard() };
        let mut heard = Self::default();
        for part in said {
            if part.is_stderr {
                heard.stderr.take(&part.data)
            } else {
                heard.stdout.take(&part.data)
            }
            taker.give(&part.data, part.is_stderr).await;
        }
        heard
    }

    fn result(&self, exit_code: Option<i64>) -> Value {
        let mut result = json!({
            "exit_code": exit_code,
            "stdout": STANDARD.encode(&self.stdout.bytes), "stdout_bytes": self.stdout.total,
            "stderr": STANDARD.encode(&self.stderr.bytes), "stderr_bytes": self.stderr.total,
        });
        let Some(fields) = result.as_object_mut() else { return result };
        if self.lost {
            fields.insert("output_lost".to_owned(), Value::Bool(true));
        } else {
            // Of all of it: who took it as it came can tell that nothing is missing and nothing was put in between.
            for (name, stream) in [("stdout_sha256", &self.stdout), ("stderr_sha256", &self.stderr)] {
                fields.insert(name.to_owned(), hex::encode(stream.digest.clone().finalize()).into());
            }
        }
        result
    }

    /// The command has ended.
    pub fn ended(&self, exit_code: i64) -> OpResult {
        let fault = (exit_code != 0).then(|| Fault::new(Code::OpFailed, format!("the command ended with exit code {exit_code}")));
        OpResult { result: self.result(Some(exit_code)), fault }
    }

    /// The command runs on, or nobody knows.
    pub fn unknown(&self, why: impl Into<String>) -> OpResult {
        OpResult { result: self.result(None), fault: Some(Fault::new(Code::Indeterminate, why)) }
    }
}
