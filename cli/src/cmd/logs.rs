//! `moorctl logs`: what a service's containers write.

use std::time::Duration;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::plan::lower;
use moorline_common::topology::{HostSpec, nearest};
use serde::Serialize;
use tokio::sync::mpsc;

use super::Env;
use crate::client::logs::{LogPart, LogsWanted};
use crate::client::{Client, HostView};
use crate::clock;
use crate::error::Failure;
use crate::limits::LOGS_AT_ONCE;
use crate::render::{Format, Ui};
use crate::revision::Previous;

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
    let Some((host, what)) = args.target.split_once('/').filter(|(_, what)| !what.is_empty()) else {
        return Err(Failure::usage("`logs` needs to know of what", "write HOST/SERVICE, such as shop-17/site"));
    };
    let client = env.client(ui).await?;
    let host = client.host(&HostName::parse(host)?).await?;
    let mut containers = containers(&client, &host, what).await?;
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
    while let Some((n, part)) = parts.recv().await {
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

/// The containers that `what` means: those of a service by what the host shall have, or one by its own name.
pub(super) async fn containers(client: &Client, host: &HostView, what: &str) -> Result<Vec<String>, Failure> {
    let report = client.report(host).await?;
    let observed = report.as_ref().map(|r| &r.report.statement().observed);
    let ours: Vec<&String> = observed.iter().flat_map(|o| &o.containers).filter(|(_, c)| c.owner.is_some()).map(|(name, _)| name).collect();
    if ours.iter().any(|name| *name == what) {
        return Ok(vec![what.to_owned()]);
    }
    let mut services = Vec::new();
    if let Some(topology) = report.as_ref().and_then(|r| r.report.statement().apply.topology.clone()) {
        let spec = spec_of(client, host, &topology).await?;
        for (name, service) in spec.docker.iter().flat_map(|docker| &docker.services) {
            if name == what {
                return Ok(lower::container_names(&topology, name, service).collect());
            }
            services.push(name.clone());
        }
    }
    let known = services.iter().map(String::as_str).chain(ours.iter().map(|name| name.as_str()));
    let hint =
        nearest(what, known.clone()).map_or_else(|| format!("it has {}", services.join(", ")), |near| format!("did you mean `{near}`?"));
    let fault = Fault::new(Code::NotFound, format!("host `{}` has no service or container `{what}` of ours", host.name));
    Err(Failure::from(fault).with_remedy(hint))
}

pub(super) async fn spec_of(client: &Client, host: &HostView, topology: &TopologyId) -> Result<HostSpec, Failure> {
    let current = client.current(topology, true).await?;
    let previous = Previous::of(current.as_ref(), std::slice::from_ref(host), &client.root);
    Ok(previous.spec_of(&host.host_id).unwrap_or_default())
}

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
        let label = if self.is_labelled { format!("{} | ", self.container) } else { String::new() };
        let text: Vec<u8> = bytes.split_inclusive(|b| *b == b'\n').flat_map(|line| [label.as_bytes(), line].concat()).collect();
        if is_stderr { ui.error_output(&text) } else { ui.output(&text) }
    }
}

/// The longest line that is kept back until its end comes, in bytes.
const LINE_MAX: usize = 64 * 1024;
