//! `moorctl logs`: what a service's containers write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::observe::Owner;
use moorline_common::plan::lower;
use moorline_common::topology::{HostSpec, nearest};
use serde::Serialize;
use tokio::sync::mpsc;

use super::Env;
use crate::client::logs::{LogPart, LogsWanted};
use crate::client::{Client, HostView};
use crate::clock;
use crate::error::{EXIT_INTERRUPTED, Failure};
use crate::limits::LOGS_AT_ONCE;
use crate::render::{Format, Ui, whole_characters};
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

/// The containers that `what` means, of those that the host has: a service's, or one by its own name.
pub(super) async fn containers(client: &Client, host: &HostView, what: &str) -> Result<Vec<String>, Failure> {
    let report = client.report(host).await?;
    let none = || Fault::new(Code::Waiting, format!("host `{}` has sent no report yet that tells what it has", host.name));
    let statement = report.as_ref().map(|r| r.report.statement()).ok_or_else(none)?;
    let ours: BTreeMap<&str, &Owner> =
        statement.observed.containers.iter().filter_map(|(name, c)| Some((name.as_str(), c.owner.as_ref()?))).collect();
    let mut services = BTreeMap::new();
    if let Some(topology) = &statement.apply.topology {
        let spec = spec_of(client, host, topology).await?;
        for (name, service) in spec.docker.iter().flat_map(|docker| &docker.services) {
            services.insert(name.clone(), lower::container_names(topology, name, service).collect::<Vec<_>>());
        }
    }
    // One that the newest revision has no more, or has in another number, is there until the host has that.
    let is_numbered = |name: &str, owner: &Owner| {
        name.strip_prefix(&format!("{}-{what}-", owner.topology)).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    let there = ours.iter().filter(|(name, owner)| is_numbered(name, owner)).map(|(name, _)| *name);
    let named = services.get(what).into_iter().flatten().map(String::as_str).filter(|name| ours.contains_key(name));
    let mut found: BTreeSet<&str> = named.chain(there).collect();
    if let Some((by_name, _)) = ours.get_key_value(what) {
        if found.iter().any(|container| container != by_name) {
            let each = found.iter().map(|c| format!("{}/{c}", host.name)).collect::<Vec<_>>().join(", ");
            let is_of = |containers: &Vec<String>| containers.iter().any(|container| container == by_name);
            let other = services.iter().find(|(_, containers)| is_of(containers)).map_or("?", |(name, _)| name.as_str());
            let message = format!("`{what}` on `{}` is a service, and the name of a container of another one", host.name);
            return Err(Failure::usage(message, format!("for the service name {each}; for the other one {}/{other}", host.name)));
        }
        found.insert(by_name);
    }
    if !found.is_empty() {
        return Ok(found.into_iter().map(str::to_owned).collect());
    }
    let known: Vec<&str> = services.keys().map(String::as_str).chain(ours.keys().copied()).collect();
    let hint = match nearest(what, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "it has nothing of ours yet: `moorctl status`".to_owned(),
        None => format!("it has {}", known.join(", ")),
    };
    let fault = if services.contains_key(what) {
        Fault::new(Code::NotFound, format!("host `{}` shall have service `{what}`, and has no container of it yet", host.name))
    } else {
        Fault::new(Code::NotFound, format!("host `{}` has no service or container `{what}` of ours", host.name))
    };
    let hint = if services.contains_key(what) { "`moorctl status` tells why".to_owned() } else { hint };
    Err(Failure::from(fault).with_remedy(hint))
}

async fn spec_of(client: &Client, host: &HostView, topology: &TopologyId) -> Result<HostSpec, Failure> {
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
