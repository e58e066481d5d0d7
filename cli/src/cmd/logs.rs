//! `moorctl logs`: what a service's containers write.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Env;
use super::target::Target;
use crate::client::logs::{LogPart, LogsWanted};
use crate::clock;
use crate::error::{EXIT_INTERRUPTED, Failure};
use crate::limits::LOGS_AT_ONCE;
use crate::render::{Format, Ui, whole_characters};

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A service or a container on a host: shop-17/site, shop-17/edge-site-1
    #[arg(value_name = "HOST/SERVICE")]
    pub target: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many of the last lines of each container [default: all, with --follow 10]
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<u32>,
    /// Only what was written within this time
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
    pub since: Option<Duration>,
}

/// Runs it.
///
/// # Errors
/// `not_found` for what the host does not have; what calls can fail with; when a log breaks off.
pub async fn run(args: LogsArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let target = Target::parse(&args.target)?;
    let client = env.client(ui).await?;
    let (host, mut containers) = target.containers(&client).await?;
    if let Some((_, rest)) = containers.split_at_checked(LOGS_AT_ONCE).filter(|(_, rest)| !rest.is_empty()) {
        ui.warn(&format!("only {LOGS_AT_ONCE} logs are read at once: name one of these for its own: {}", rest.join(", ")));
        containers.truncate(LOGS_AT_ONCE);
    }
    let since_unix_s = args.since.map_or(0, |span| (client.hub_now_ms() / 1000).saturating_sub(span.as_secs()));
    let tail = args.tail.or(args.follow.then_some(FOLLOWED_LINES));
    let (tx, mut parts) = mpsc::channel(1);
    for (n, container) in containers.iter().enumerate() {
        let wanted = LogsWanted { host: host.host_id.clone(), container: container.clone(), follow: args.follow, tail, since_unix_s };
        let mut stream = client.logs(wanted).await?;
        let tx = tx.clone();
        tokio::spawn(async move {
            loop {
                let part = stream.next().await.transpose();
                let is_over = !matches!(part, Some(Ok(_)));
                if tx.send((n, part)).await.is_err() || is_over {
                    return;
                }
            }
        });
    }
    drop(tx);
    let is_labelled = containers.len() > 1;
    let mut logs: Vec<Lines> = containers.into_iter().map(|container| Lines::new(container, is_labelled)).collect();
    let mut failed = None;
    loop {
        let next = tokio::select! {
            next = parts.recv() => next,
            Ok(()) = tokio::signal::ctrl_c() => {
                logs.iter_mut().try_for_each(|lines| lines.finish(ui))?;
                return Ok(EXIT_INTERRUPTED);
            }
        };
        let Some((n, part)) = next else { break };
        let Some(lines) = logs.get_mut(n) else { continue };
        match part {
            Some(Ok(part)) => lines.write(&part, ui)?,
            None => lines.finish(ui)?,
            Some(Err(failure)) => {
                lines.finish(ui)?;
                // The others go on.
                if let Some(earlier) = failed.replace(failure) {
                    ui.failure(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

/// Lines of the past that are shown to who follows and says nothing.
const FOLLOWED_LINES: u32 = 10;

/// What one container writes, in whole lines: several share one terminal.
struct Lines {
    container: String,
    is_labelled: bool,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// A line for programs.
#[derive(Serialize)]
struct Line<'a> {
    container: &'a str,
    stream: &'static str,
    line: &'a str,
}

impl Lines {
    fn new(container: String, is_labelled: bool) -> Self {
        Self { container, is_labelled, out: Vec::new(), err: Vec::new() }
    }

    fn write(&mut self, part: &LogPart, ui: &mut Ui) -> Result<(), Failure> {
        let rest = if part.is_stderr { &mut self.err } else { &mut self.out };
        rest.extend_from_slice(&part.data);
        // Alone on the terminal, it is shown as it comes: also a question that no line's end follows.
        if !self.is_labelled && ui.format == Format::Table {
            let whole = whole_characters(rest);
            return self.show(&whole, part.is_stderr, ui);
        }
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        // A line without an end is not waited for for ever.
        let whole = if whole == 0 && rest.len() > LINE_MAX { rest.len() } else { whole };
        let lines: Vec<u8> = rest.drain(..whole).collect();
        self.show(&lines, part.is_stderr, ui)
    }

    fn finish(&mut self, ui: &mut Ui) -> Result<(), Failure> {
        for is_stderr in [false, true] {
            let rest = std::mem::take(if is_stderr { &mut self.err } else { &mut self.out });
            self.show(&rest, is_stderr, ui)?;
        }
        Ok(())
    }

    fn show(&self, bytes: &[u8], is_stderr: bool, ui: &mut Ui) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        if ui.format != Format::Table {
            let stream = if is_stderr { "stderr" } else { "stdout" };
            return String::from_utf8_lossy(bytes).lines().try_for_each(|line| {
                let line = Line { container: &self.container, stream, line };
                ui.item(&line, String::new)
            });
        }
        if !self.is_labelled {
            return if is_stderr { ui.error_output(bytes) } else { ui.output(bytes) };
        }
        let label = format!("{} | ", self.container);
        let text: Vec<u8> = bytes.split_inclusive(|b| *b == b'\n').flat_map(|line| [label.as_bytes(), line].concat()).collect();
        if is_stderr { ui.error_output(&text) } else { ui.output(&text) }
    }
}

/// The longest line that is kept back until its end comes, in bytes.
const LINE_MAX: usize = 64 * 1024;
