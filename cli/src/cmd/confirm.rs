//! `moorctl confirm`: what is on trial stays. Signs one order for each host whose newest slice has a fallback, and waits for the hosts' word.

use std::time::{Duration, Instant};

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostName, ResourceId, TopologyId};
use moorline_common::op::{Act, Confirm};
use serde::Serialize;

use super::Env;
use super::op::submit::{self, Sent};
use super::op::{OpWait, OrderArgs};
use crate::client::{Client, HostView};
use crate::clock;
use crate::error::{Failure, LocalCode};
use crate::render::{Table, Tone, Ui, plain, visible};
use crate::revision::Previous;
use crate::signers::Signers;

/// Arguments of `confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// The topology
    pub topology: String,
    /// Only on this host; may be repeated
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// How long to wait for the hosts
    #[arg(long, default_value = "30s", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout: Duration,
}

/// What a host said.
#[derive(Serialize)]
struct Row {
    host: String,
    /// Whether it has said that the revision stays.
    confirmed: bool,
    op_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs it.
///
/// # Errors
/// `not_found` when nothing is on trial; `not_converged` when not all hosts have said that it stays.
pub async fn run(args: ConfirmArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = TopologyId::parse(args.topology)?;
    let client = env.client(ui).await?;
    client.require_signable()?;
    let (generation, hosts) = on_trial(&client, &topology, &args.host).await?;
    let signers = Signers::of(&client)?;
    let act = Act::Confirm(Confirm { topology: topology.clone(), generation });
    let order = OrderArgs::usual("", OpWait::usual());
    // All are handed in before any is waited for: their times run.
    let mut sent: Vec<(&HostView, Result<Sent, Failure>)> = Vec::new();
    for host in &hosts {
        sent.push((host, submit::send(&client, host, &act, (ResourceId::host(), None), &order, &signers).await));
    }
    let over = Instant::now() + args.timeout;
    let mut rows = Vec::new();
    for (host, sent) in sent {
        let left = over.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let op_id = sent.as_ref().map(|s| s.op_id().to_string()).unwrap_or_default();
        let ended = match sent {
            Ok(sent) => submit::outcome(&client, ui, host, &sent, left).await,
            Err(failure) => Err(failure),
        };
        let error = ended.err().map(|f| f.to_string());
        rows.push(Row { host: host.name.to_string(), confirmed: error.is_none(), op_id, error });
    }
    tell(ui, &topology, generation, &rows)
}

/// The newest generation, and its hosts whose slices have a fallback; those that are named.
async fn on_trial(client: &Client, topology: &TopologyId, named: &[String]) -> Result<(Generation, Vec<HostView>), Failure> {
    let Some(current) = client.current(topology, true).await? else {
        return Err(Fault::new(Code::NotFound, format!("there is no topology `{topology}`")).into());
    };
    let hosts = client.hosts(None).await?;
    let previous = Previous::of(Some(&current), &hosts, &client.root);
    let generation = current.facts.generation;
    let named: Vec<HostName> = named.iter().map(|name| HostName::parse(name.as_str())).collect::<Result<_, _>>()?;
    let has_fallback = |h: &HostView| previous.slices.get(&h.host_id).and_then(Option::as_ref).is_some_and(|s| s.fallback.is_some());
    for name in &named {
        if !hosts.iter().any(|h| h.name == *name && has_fallback(h)) {
            let message = format!("generation {generation} of `{topology}` is not on trial on host `{name}`");
            return Err(Failure::from(Fault::new(Code::NotFound, message)).with_remedy("look at the hosts with `moorctl status`"));
        }
    }
    let hosts: Vec<HostView> = hosts.into_iter().filter(|h| has_fallback(h) && (named.is_empty() || named.contains(&h.name))).collect();
    if hosts.is_empty() {
        let message = format!("generation {generation} of `{topology}` is on trial nowhere: it stays as it is");
        return Err(Failure::from(Fault::new(Code::NotFound, message)).with_remedy("only what `push --ttl` pushed is to be confirmed"));
    }
    Ok((generation, hosts))
}

fn tell(ui: &mut Ui, topology: &TopologyId, generation: Generation, rows: &[Row]) -> Result<u8, Failure> {
    let confirmed = rows.iter().filter(|r| r.confirmed).count();
    ui.result(&rows, || {
        let mut table = Table::new(&["HOST", "RESULT"]);
        for row in rows {
            let (words, tone) = if row.confirmed { ("it stays", Tone::Good) } else { ("not confirmed", Tone::Bad) };
            table.row(vec![plain(&row.host), (words.to_owned(), tone)]);
        }
        format!("{}`{topology}` generation {generation} stays on {confirmed} of {} hosts\n", table.text(), rows.len())
    })?;
    let details: Vec<String> = rows.iter().filter_map(|r| Some(format!("{}: {}", r.host, visible(r.error.as_ref()?)))).collect();
    if details.is_empty() {
        return Ok(0);
    }
    let message = format!("{} of {} hosts have not said that generation {generation} stays", details.len(), rows.len());
    let remedy = "what they were sent counts if it reaches them in time; look with `moorctl status`, and push again what was given up";
    Err(Failure::new(LocalCode::NotConverged, message, remedy).with_details(details))
}
