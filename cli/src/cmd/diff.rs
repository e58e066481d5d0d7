//! `moorctl diff`: what differs between two revisions, or between the newest and a file: the text, and what
//! each host gets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Env, deploy};
use crate::client::{Client, HostView};
use crate::desired;
use crate::error::Failure;
use crate::inputs::{self, InputArgs};
use crate::render::{Ui, diff, to_yaml};
use crate::revision::Previous;

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The topology
    pub topology: String,
    /// Two generations, such as 3..5; or one, to compare it with the newest [default: the newest two]
    #[arg(value_name = "GEN..GEN", value_parser = parse_range, conflicts_with = "file")]
    pub range: Option<(u64, u64)>,
    /// Compare the newest revision with this file
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What the file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
}

#[derive(Serialize)]
struct Outcome {
    topology: String,
    from: String,
    to: String,
    /// Unified difference of the files' text; empty when equal, or when a side has no text.
    source: String,
    /// Why the texts are not compared.
    notes: Vec<String>,
    /// Unified difference of the content in YAML, per host that differs.
    hosts: BTreeMap<String, String>,
}

/// Reads `3..5`, `3..` or `3`; 0 stands for the newest.
fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let wrong = |_| "write it as GEN..GEN, such as 3..5".to_owned();
    let number = |t: &str| if t.is_empty() { Ok(0) } else { t.parse().map_err(wrong) };
    match text.split_once("..") {
        Some((from, to)) => Ok((from.parse().map_err(wrong)?, number(to)?)),
        None => Ok((text.parse().map_err(wrong)?, 0)),
    }
}

/// One side: a name, the text and each host's content.
struct Side {
    name: String,
    /// `None` when the hub has none: the revision was recovered from what agents hold.
    source: Option<String>,
    hosts: BTreeMap<String, Value>,
}

/// Runs it.
///
/// # Errors
/// `not_found`; `bad_topology`; what calls can fail with.
pub async fn run(args: DiffArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = TopologyId::parse(args.topology)?;
    let client = env.client(ui).await?;
    let (old, new) = match args.file {
        Some(file) => {
            let mut source = desired::read(ui, &file, &args.inputs)?;
            against_file(&client, ui, &topology, &mut source).await?
        }
        None => revisions(&client, &topology, args.range).await?,
    };
    let hosts = old.hosts.keys().chain(new.hosts.keys()).collect::<std::collections::BTreeSet<_>>();
    let content =
        |side: &Side, host: &str| side.hosts.get(host).filter(|v| **v != Value::Object(Map::new())).map(to_yaml).unwrap_or_default();
    let hosts = hosts
        .into_iter()
        .map(|host| {
            let names = (format!("{host} {}", old.name), format!("{host} {}", new.name));
            (host.clone(), diff::unified(&content(&old, host), &content(&new, host), &names.0, &names.1))
        })
        .filter(|(_, difference)| !difference.is_empty())
        .collect();
    let outcome = Outcome {
        topology: topology.to_string(),
        source: match (&old.source, &new.source) {
            (Some(a), Some(b)) => diff::unified(a, b, &old.name, &new.name),
            (None, _) | (_, None) => String::new(),
        },
        notes: [&old, &new].into_iter().filter(|s| s.source.is_none()).map(|s| no_source(&s.name)).collect(),
        from: old.name,
        to: new.name,
        hosts,
    };
    ui.result(&outcome, || words(&outcome))?;
    Ok(0)
}

/// What is said of a revision whose text is not known.
pub(super) fn no_source(name: &str) -> String {
    format!(
        "{name} has no source that verifies (recovered from agents, or its signer left the trust root): only what hosts get is compared"
    )
}

fn words(outcome: &Outcome) -> String {
    let notes: String = outcome.notes.iter().map(|n| format!("{n}\n")).collect();
    if outcome.source.is_empty() && outcome.hosts.is_empty() {
        let what = if notes.is_empty() { "no difference" } else { "no difference on the hosts" };
        return format!("{notes}{what} between {} and {}\n", outcome.from, outcome.to);
    }
    let mut text = notes + &diff::coloured(&outcome.source);
    for difference in outcome.hosts.values() {
        text.push('\n');
        text.push_str(&diff::coloured(difference));
    }
    text
}

async fn against_file(client: &Client, ui: &mut Ui, topology: &TopologyId, source: &mut desired::Source) -> Result<(Side, Side), Failure> {
    if source.file.topology != *topology {
        let message = format!("{} describes topology `{}`, not `{topology}`", source.name, source.file.topology);
        return Err(Fault::new(Code::InvalidArgument, message).into());
    }
    let current = client.current(topology, true).await?;
    let scene = deploy::scene(client, ui, topology, current).await?;
    source.read_secrets(&client.context, &deploy::bound(&scene.hosts))?;
    let wanted = deploy::wanted(ui, topology, Some(source), &scene)?;
    let mut hosts = BTreeMap::new();
    for (host_id, spec) in &wanted.hosts {
        let name = name_of(&scene.hosts, host_id);
        let content = serde_json::to_value(spec).map_err(|e| Fault::new(Code::InvalidArgument, e.to_string()))?;
        hosts.insert(name, content);
    }
    let new = Side { name: source.name.clone(), source: Some(inputs::shown(&source.text, &source.inputs)), hosts };
    Ok((side(&scene.previous, &scene.hosts), new))
}

async fn revisions(client: &Client, topology: &TopologyId, range: Option<(u64, u64)>) -> Result<(Side, Side), Failure> {
    let hosts = client.hosts(None).await?;
    let newest = client.current(topology, true).await?;
    let newest = newest.ok_or_else(|| Fault::new(Code::NotFound, format!("there is no topology `{topology}`")))?;
    let at = newest.facts.generation.0;
    let (from, to) = range.unwrap_or((at.saturating_sub(1), at));
    let to = if to == 0 { at } else { to };
    let fetch = async |generation: u64| -> Result<Side, Failure> {
        if generation == 0 {
            return Ok(Side { name: "nothing".to_owned(), source: Some(String::new()), hosts: BTreeMap::new() });
        }
        let view = client.revision(topology, Generation(generation), true).await?;
        Ok(side(&Previous::of(Some(&view), &hosts, &client.root), &hosts))
    };
    Ok((fetch(from).await?, fetch(to).await?))
}

fn side(revision: &Previous, hosts: &[HostView]) -> Side {
    let contents = revision.slices.iter().filter_map(|(id, slice)| Some((name_of(hosts, id), slice.as_ref()?.content.clone())));
    Side {
        name: match revision.generation.0 {
            0 => "nothing".to_owned(),
            generation => format!("generation {generation}"),
        },
        source: if revision.generation.0 == 0 {
            Some(String::new())
        } else {
            revision.source.as_ref().map(|text| inputs::shown(text, &revision.inputs))
        },
        hosts: contents.collect(),
    }
}

fn name_of(hosts: &[HostView], id: &moorline_common::id::HostId) -> String {
    hosts.iter().find(|h| h.host_id == *id).map_or_else(|| id.to_string(), |h| h.name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_people_write_them() {
        assert_eq!(parse_range("3..5"), Ok((3, 5)));
        assert_eq!(parse_range("3.."), Ok((3, 0)));
        assert_eq!(parse_range("3"), Ok((3, 0)));
        assert!(parse_range("x..5").is_err());
        assert!(parse_range("..5").is_err());
    }

    #[test]
    fn a_revision_without_a_source_is_not_shown_as_an_empty_file() {
        let recovered = side(&Previous { generation: Generation(4), ..Previous::default() }, &[]);
        assert!(recovered.source.is_none());
        assert_eq!(side(&Previous::default(), &[]).source.as_deref(), Some(""));
        let outcome = Outcome {
            topology: "edge".into(),
            from: "generation 4".into(),
            to: "edge.yaml".into(),
            source: String::new(),
            notes: vec![no_source(&recovered.name)],
            hosts: BTreeMap::new(),
        };
        assert!(words(&outcome).starts_with("generation 4 has no source"));
    }
}
