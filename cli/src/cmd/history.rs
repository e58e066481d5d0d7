//! `moorctl history`: the revisions of a topology, with who signed each.

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use serde::Serialize;

use super::{Env, deploy};
use crate::client::HostView;
use crate::clock;
use crate::error::Failure;
use crate::limits::HISTORY_DEFAULT;
use crate::render::{Table, Tone, Ui, plain, shorten};

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The topology
    pub topology: String,
    /// How many revisions
    #[arg(short = 'n', long, default_value_t = HISTORY_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

#[derive(Serialize)]
struct Row {
    generation: u64,
    pushed: String,
    pushed_by: String,
    signed_by: String,
    /// Whether the source's signature stands.
    verified: bool,
    hosts: u32,
    down: bool,
    /// Hosts that have given it up for its fallback, by their heartbeats.
    rolled_back: Vec<String>,
    message: String,
}

/// Runs it.
///
/// # Errors
/// `not_found`; what calls can fail with.
pub async fn run(args: HistoryArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = TopologyId::parse(args.topology)?;
    let client = env.client(ui).await?;
    let revisions = client.revisions(&topology, args.limit).await?;
    if revisions.is_empty() {
        return Err(Fault::new(Code::NotFound, format!("there is no topology `{topology}`")).into());
    }
    let hosts = client.hosts(None).await?;
    let mut rows = Vec::with_capacity(revisions.len());
    let mut ages = Vec::with_capacity(revisions.len());
    for facts in revisions {
        let view = client.revision(&topology, facts.generation, false).await?;
        ages.push(clock::age(facts.pushed_unix_ms, client.hub_now_ms()));
        rows.push(Row {
            generation: facts.generation.0,
            pushed: clock::rfc3339(facts.pushed_unix_ms),
            signed_by: deploy::author(&view, &client.root),
            verified: view.source.is_some(),
            pushed_by: facts.pushed_by,
            hosts: facts.hosts,
            down: facts.down,
            rolled_back: given_up(&topology, facts.generation, &hosts),
            message: view.source.as_ref().map_or(facts.message, |s| s.statement().message.clone()),
        });
    }
    ui.result(&rows, || {
        let mut table = Table::new(&["GEN", "AGE", "SIGNED BY", "HOSTS", "MESSAGE"]);
        for (row, age) in rows.iter().zip(ages) {
            let back = match row.rolled_back.len() {
                0 => String::new(),
                1 => "(rolled back on 1 host) ".to_owned(),
                n => format!("(rolled back on {n} hosts) "),
            };
            let message = format!("{}{back}{}", if row.down { "(down) " } else { "" }, row.message);
            table.row(vec![
                plain(row.generation),
                (age, Tone::Dim),
                (row.signed_by.clone(), if row.verified { Tone::Plain } else { Tone::Warn }),
                plain(row.hosts),
                plain(shorten(&message, 60)),
            ]);
        }
        table.text()
    })?;
    Ok(0)
}

fn given_up(topology: &TopologyId, generation: Generation, hosts: &[HostView]) -> Vec<String> {
    let gave_up = |h: &&HostView| {
        h.heartbeat.as_ref().is_some_and(|b| b.topology.as_ref() == Some(topology) && b.rolled_back_generation == generation)
    };
    hosts.iter().filter(gave_up).map(|h| h.name.to_string()).collect()
}
