//! The log of the tasks that an operation on a guest runs as, shown as it comes. Nothing hangs on it: the receipt tells how it ended.

use std::time::Duration;

use indicatif::ProgressBar;
use moorline_common::op::{Act, OpStatement};
use owo_colors::OwoColorize;

use crate::client::logs::LogStream;
use crate::client::{Client, HostView};
use crate::cmd::op::OpWait;
use crate::limits::{TASK_LINE_MAX, TASK_LOG_SILENCE, TASK_LOG_TAIL};
use crate::render::{Format, Ui, visible, whole_characters};

/// A log as it comes.
pub struct TaskLog {
    /// `None` when it has ended, or was lost.
    stream: Option<LogStream>,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    /// Why it was lost, until that was told.
    lost: Option<String>,
}

impl TaskLog {
    /// The log of what `statement` orders, if that is a guest's, and somebody waits and reads. To be asked for before the order is handed in.
    pub async fn open(client: &Client, ui: &Ui, host: &HostView, statement: &OpStatement, waiting: &OpWait) -> Option<Self> {
        let has_log = matches!(statement.act(), Ok(Act::Guest(_)));
        if !has_log || waiting.limit().is_none() || ui.format == Format::Json {
            return None;
        }
        // A host that is away has no log yet, and its operation is waited for all the same.
        let stream = client.output(&host.host_id, &statement.op_id).await.ok()?;
        Some(Self { stream: Some(stream), rest: Vec::new(), lost: None })
    }

    /// The next lines. Waits for ever once there are no more. What came is not lost when this is cut off.
    pub async fn lines(&mut self) -> Vec<String> {
        loop {
            let Some(stream) = &mut self.stream else { return std::future::pending().await };
            let lines = match stream.next().await {
                Ok(Some(part)) => self.whole_lines(&part.data),
                Ok(None) => self.end(None),
                Err(failure) => self.end(Some(failure.message)),
            };
            if !lines.is_empty() || self.lost.is_some() {
                return lines;
            }
        }
    }

    fn whole_lines(&mut self, data: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(data);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(text(&line));
        }
        // What never ends its line is shown in pieces.
        if self.rest.len() > TASK_LINE_MAX {
            lines.push(text(&whole_characters(&mut self.rest)));
        }
        lines
    }

    fn end(&mut self, lost: Option<String>) -> Vec<String> {
        self.stream = None;
        self.lost = lost;
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Vec::new() } else { vec![text(&rest)] }
    }

    /// Shows lines that came, besides a bar that moves.
    pub fn show(&mut self, ui: &mut Ui, bar: &ProgressBar, lines: &[String]) {
        let lost = self.lost.take().map(|why| format!("the log is shown no longer, and the operation goes on: {}", visible(&why)));
        let lines = lines.iter().map(|line| format!("  | {}", visible(line))).chain(lost);
        for line in lines {
            bar.suspend(|| ui.note(&line.dimmed().to_string()));
        }
    }

    /// Shows what is still on its way of an operation that has ended.
    pub async fn drain(&mut self, ui: &mut Ui, bar: &ProgressBar) {
        let rest = async {
            while self.stream.is_some() {
                let Ok(lines) = tokio::time::timeout(TASK_LOG_SILENCE, self.lines_or_end()).await else { return };
                // That it ends with its operation is no loss.
                self.lost = None;
                self.show(ui, bar, &lines);
            }
        };
        let limit: Duration = TASK_LOG_TAIL;
        let _ = tokio::time::timeout(limit, rest).await;
    }

    async fn lines_or_end(&mut self) -> Vec<String> {
        let Some(stream) = &mut self.stream else { return Vec::new() };
        match stream.next().await {
            Ok(Some(part)) => self.whole_lines(&part.data),
            Ok(None) | Err(_) => self.end(None),
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}
