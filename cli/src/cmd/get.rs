//! `moorctl get`: one thing in full, verified.

use clap::Subcommand;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostName, TopologyId};
use moorline_common::sign::Signed;
use serde_json::{Value, json};

use super::{Env, deploy};

mod guests;
mod resources;
use crate::args::parse_generation;
use crate::client::{Client, HostView};
use crate::clock;
use crate::error::Failure;
use crate::render::{Ui, to_yaml};

/// What to show.
#[derive(Debug, Subcommand)]
pub enum GetVerb {
    /// The file of a topology, as it was signed
    Topology {
        /// The topology
        name: String,
        /// A generation [default: the newest]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = parse_generation)]
        generation: u64,
    },
    /// What a host should have: the content of its slice, as it was signed
    Slice {
        /// The host
        name: String,
    },
    /// Who a host is: its binding, and what the hub knows
    Host {
        /// The host
        name: String,
    },
    /// What a host has: its last report, with its signature checked
    Report {
        /// The host
        name: String,
    },
    /// What the hub's clouds have, as they told it: droplets and snapshots, with what was wanted of them
    Resources {
        /// Only in this cloud [default: all of the hub's]
        #[arg(value_name = "CLOUD", default_value = "", hide_default_value = true)]
        cloud: String,
        /// Only of this kind
        #[arg(long, value_name = "KIND")]
        kind: Option<resources::Kind>,
        /// Also what is gone
        #[arg(long)]
        all: bool,
    },
    /// The guests of Proxmox VE on a host, or on all of them, also those that are nobody's
    Guests {
        /// The host [default: all]
        name: Option<String>,
    },
}

/// Runs one of them.
///
/// # Errors
/// `not_found`; a signature code when what the hub shows does not verify.
pub async fn run(verb: GetVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    match verb {
        GetVerb::Topology { name, generation } => topology(&client, ui, &TopologyId::parse(name)?, Generation(generation)).await?,
        GetVerb::Slice { name } => slice(&client, ui, &HostName::parse(name)?).await?,
        GetVerb::Host { name } => host(&client, ui, &HostName::parse(name)?).await?,
        GetVerb::Report { name } => report(&client, ui, &HostName::parse(name)?).await?,
        GetVerb::Resources { cloud, kind, all } => resources::list(&client, ui, &cloud, kind, all).await?,
        GetVerb::Guests { name } => guests::list(&client, ui, name).await?,
    }
    Ok(0)
}

async fn topology(client: &Client, ui: &mut Ui, name: &TopologyId, generation: Generation) -> Result<(), Failure> {
    let view = if generation == Generation(0) {
        let newest = client.current(name, false).await?;
        newest.ok_or_else(|| Fault::new(Code::NotFound, format!("there is no topology `{name}`")))?
    } else {
        client.revision(name, generation, false).await?
    };
    let signed_by = deploy::author(&view, &client.root);
    let Some(source) = view.source else {
        let missing = || Fault::new(Code::NotFound, format!("the hub has no source of `{name}` generation {}", view.facts.generation));
        return Err(view.doubt.unwrap_or_else(missing).into());
    };
    let statement = source.statement();
    if !statement.inputs.is_empty() {
        let (variables, files) = (statement.inputs.variables.len(), statement.inputs.files.len());
        ui.note(&format!("it was signed with {variables} variable(s) and {files} file(s) that it takes; `-o json` shows them"));
    }
    ui.result(&json!({ "signed_by": signed_by, "statement": statement }), || {
        let newline = if statement.source.ends_with('\n') { "" } else { "\n" };
        format!("{}{newline}", statement.source)
    })
}

async fn slice(client: &Client, ui: &mut Ui, name: &HostName) -> Result<(), Failure> {
    let host = client.host(name).await?;
    let binding = host.require_bound()?;
    let target = host.target.as_ref().ok_or_else(|| Fault::new(Code::NotFound, format!("no topology names host `{name}`")))?;
    let view = client.revision(&target.topology, target.generation, true).await?;
    let (_, envelope) = view
        .slices
        .into_iter()
        .find(|(id, _)| *id == host.host_id)
        .ok_or_else(|| Fault::new(Code::NotFound, format!("the hub shows no slice of host `{name}`")))?;
    let slice = client.root.verify_slice(Signed::new(envelope)?, binding)?.into_statement();
    ui.result(&slice, || {
        format!("# {} generation {} for {name}, {}\n{}", slice.topology, slice.generation, slice.version_hash, to_yaml(&slice.content))
    })
}

async fn host(client: &Client, ui: &mut Ui, name: &HostName) -> Result<(), Failure> {
    let value = host_value(&client.host(name).await?);
    ui.result(&value, || to_yaml(&value))
}

fn host_value(host: &HostView) -> Value {
    let beat = host.heartbeat.as_ref().map(|b| {
        json!({
            "topology": b.topology, "generation": b.generation, "applied_hash": b.applied, "engine": b.engine,
            "converging": b.converging, "observe_error": b.observe_error, "last_error_code": b.last_error_code,
            "ready": b.ready, "enforcing": b.enforcing, "at": clock::rfc3339(host.heartbeat_unix_ms),
        })
    });
    let target = host.target.as_ref().map(|t| json!({ "topology": t.topology, "generation": t.generation, "hash": t.hash }));
    json!({
        "name": host.name,
        "host_id": host.host_id,
        "state": host.enrolment(),
        "verified": host.binding.is_some(),
        "doubt": host.doubt,
        "fingerprint": host.fingerprint(),
        "binding": host.bound(),
        "connected": host.connected,
        "joined": clock::rfc3339(host.joined_unix_ms),
        "agent_version": host.agent_version,
        "target": target,
        "heartbeat": beat,
        "converged": host.converged,
        "error": host.last_error,
    })
}

async fn report(client: &Client, ui: &mut Ui, name: &HostName) -> Result<(), Failure> {
    let host = client.host(name).await?;
    let report = client
        .report(&host)
        .await?
        .ok_or_else(|| Failure::from(Fault::new(Code::NotFound, format!("host `{name}` has sent no report yet"))))?;
    let age = clock::span_words(report.age_s(clock::now()));
    let value = serde_json::to_value(report.report.statement()).map_err(|e| Failure::local(format!("cannot write the report: {e}")))?;
    let shown = json!({ "verified": true, "received": clock::rfc3339(report.received_unix_ms), "report": value });
    ui.result(&shown, || format!("# signed by {name}, {age} old\n{}", to_yaml(&value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::facts::Claim;
    use crate::revision::tests::host as bound_host;
    use moorline_common::enrol::HostClaim;

    #[test]
    fn a_bound_host_is_shown_by_its_binding_and_not_by_what_the_hub_says_it_claimed() {
        let mut host = bound_host(10, "shop-17");
        let fingerprint = host.fingerprint();
        let binding = host.bound().unwrap();
        let claim = HostClaim {
            host_key: binding.host_key,
            sealing_key: [99; 32],
            host_epoch: binding.host_epoch.clone(),
            name: binding.name.clone(),
        };
        host.claim = Some(Claim { claim, mac: Vec::new(), token_id: String::new() });
        assert_eq!((&host_value(&host)["state"], &host_value(&host)["fingerprint"]), (&json!("bound"), &json!(fingerprint)));
        host.locked = true;
        assert_eq!(host_value(&host)["state"], "locked");
        host.binding = None;
        assert_eq!(host_value(&host)["state"], "unverified");
        host.pending = true;
        assert_eq!(host_value(&host)["state"], "pending");
    }
}
