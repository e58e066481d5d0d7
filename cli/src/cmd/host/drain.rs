//! `moorctl host drain` and `uncordon`: a host is emptied for work on it, and put back into service.
//!
//! What stops and starts containers are signed operations like any others. A stop by `drain` is known by the reason that is signed with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::observe::ContainerState;
use moorline_common::op::Act;
use moorline_common::plan::lower;
use moorline_common::topology::HostSpec;

use super::cordon::Stands;
use crate::client::facts::ReportView;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::op::submit::{self, Sent};
use crate::cmd::op::view::OpView;
use crate::cmd::op::{OpWait, OrderArgs};
use crate::cmd::{Env, logs};
use crate::error::Failure;
use crate::limits::ORDERS_AT_ONCE;
use crate::render::Ui;
use crate::signers::Signers;

/// What the signed reason of a stop by `drain` begins with.
const DRAIN: &str = "drain";

/// Arguments of `host drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The host's name
    pub name: String,
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
    /// How long each container may take to end by itself [default: the container's own]
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout: Option<Duration>,
    /// How long to wait for each
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout_wait: Duration,
}

/// Arguments of `host uncordon`.
#[derive(Debug, Args)]
pub struct UncordonArgs {
    /// The host's name
    pub name: String,
    /// Leave stopped what `drain` stopped, until it is started or other content is pushed
    #[arg(long)]
    pub no_start: bool,
    /// How long to wait for each container
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout_wait: Duration,
}

/// Cordons a host and stops what runs on it: what depends on others before those.
///
/// # Errors
/// When the answer is no, or a container does not stop; what was stopped stays so, and the host stays cordoned.
pub async fn drain(args: DrainArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    client.require_signable()?;
    let host = client.host(&name).await?;
    let report = report(&client, &host).await?;
    let observed = &report.report.statement().observed;
    let runs = |state| matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
    let running: BTreeSet<String> =
        observed.containers.iter().filter(|(_, c)| c.owner.is_some() && runs(c.state)).map(|(name, _)| name.clone()).collect();
    let mut steps = steps(&client, &host, &report, &running).await?;
    steps.reverse();
    let shown: Vec<&str> = steps.iter().flatten().map(String::as_str).collect();
    if !shown.is_empty() {
        ui.confirm(&format!(
            "This cordons `{name}` and stops {} containers on it, in this order: {}. Go on?",
            shown.len(),
            shown.join(", ")
        ))?;
    }
    client.cordon(&host.host_id, true, &args.reason).await?;
    let reason = if args.reason.is_empty() { DRAIN.to_owned() } else { cut(&format!("{DRAIN}: {}", args.reason)) };
    let order = OrderArgs::usual(&reason, OpWait { timeout_wait: args.timeout_wait, ..OpWait::usual() });
    let act = Act::Stop { timeout_s: args.timeout.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)) };
    let signers = Signers::of(&client)?;
    for step in &steps {
        each(&client, ui, &host, (&act, &report), step, &order, &signers).await?;
    }
    let stands = Stands { name: &name, cordoned: true, containers: steps.into_iter().flatten().collect() };
    ui.result(&stands, || {
        let what = match stands.containers.len() {
            0 => "nothing of ours runs on it".to_owned(),
            n => format!("{n} containers are stopped"),
        };
        format!("`{name}` is cordoned, and {what}. Back into service: moorctl host uncordon {name}\n")
    })?;
    Ok(0)
}

/// Starts what `drain` stopped, what others depend on first, and lets the host have what is pushed.
///
/// # Errors
/// When a container does not start: then the host stays cordoned.
pub async fn uncordon(args: UncordonArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    let mut started = Vec::new();
    if !args.no_start
        && host.bound().is_some()
        && let Some(report) = client.report(&host).await?
    {
        let drained = drained(&client, ui, &host, &report).await?;
        if !drained.is_empty() && !host.connected {
            let message = format!("`{name}` is not connected, and {} containers on it are stopped by `drain`", drained.len());
            let remedy = format!("when it is back; or only lift the cordon: moorctl host uncordon {name} --no-start");
            return Err(Failure::from(Fault::new(Code::Waiting, message)).with_remedy(remedy));
        }
        if !drained.is_empty() {
            client.require_signable()?;
            let signers = Signers::of(&client)?;
            let order = OrderArgs::usual("uncordon", OpWait { timeout_wait: args.timeout_wait, ..OpWait::usual() });
            for step in steps(&client, &host, &report, &drained).await? {
                each(&client, ui, &host, (&Act::Start, &report), &step, &order, &signers).await?;
                started.extend(step);
            }
        }
    }
    client.cordon(&host.host_id, false, "").await?;
    let stands = Stands { name: &name, cordoned: false, containers: started };
    ui.result(&stands, || {
        let what = match stands.containers.len() {
            0 => String::new(),
            n => format!("{n} containers are started again, and "),
        };
        format!("{what}`{name}` gets what is pushed again\n")
    })?;
    Ok(0)
}

async fn report(client: &Client, host: &HostView) -> Result<ReportView, Failure> {
    let none = || Fault::new(Code::Waiting, format!("`{}` has sent no report yet that tells what runs on it", host.name));
    host.require_bound()?;
    Ok(client.report(host).await?.ok_or_else(none)?)
}

/// The containers of a host that `drain` stopped, by the orders that operators signed. Others that are held are told of.
async fn drained(client: &Client, ui: &mut Ui, host: &HostView, report: &ReportView) -> Result<BTreeSet<String>, Failure> {
    let mut drained = BTreeSet::new();
    let is_drain = |reason: &str| reason == DRAIN || reason.starts_with(&format!("{DRAIN}: "));
    for held in &report.report.statement().apply.held {
        let view = OpView::new(&client.root, client.op(&held.op_id).await?, host.bound(), None)?;
        let order = view.order.filter(|_| view.order_doubt.is_none());
        if order.is_some_and(|order| order.kind == "stop" && is_drain(&order.reason)) {
            drained.insert(held.resource.name().to_owned());
        } else {
            ui.note(&format!("left as it is: {}, held by operation {}", held.resource, held.op_id));
        }
    }
    Ok(drained)
}

/// `containers` of a host in the order of their start, those that may start together in one step.
async fn steps(client: &Client, host: &HostView, report: &ReportView, containers: &BTreeSet<String>) -> Result<Vec<Vec<String>>, Failure> {
    let Some(topology) = report.report.statement().apply.topology.clone() else {
        return Ok(Some(containers.iter().cloned().collect::<Vec<_>>()).filter(|all| !all.is_empty()).into_iter().collect());
    };
    let spec = logs::spec_of(client, host, &topology).await?;
    Ok(in_order(&topology, &spec, containers))
}

/// See [`steps`]. What no service has starts last.
fn in_order(topology: &TopologyId, spec: &HostSpec, containers: &BTreeSet<String>) -> Vec<Vec<String>> {
    let services = spec.docker.as_ref().map(|docker| &docker.services);
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, service) in services.into_iter().flatten() {
        left.insert(name, service.depends_on.keys().map(String::as_str).collect());
    }
    let mut rest = containers.clone();
    let mut steps = Vec::new();
    while !left.is_empty() {
        let is_free = |needs: &BTreeSet<&str>| !needs.iter().any(|other| left.contains_key(other));
        let free: Vec<&str> = left.iter().filter(|(_, needs)| is_free(needs)).map(|(name, _)| *name).collect();
        if free.is_empty() {
            break;
        }
        let mut step = Vec::new();
        for name in free {
            left.remove(name);
            let service = services.and_then(|all| all.get(name));
            step.extend(service.into_iter().flat_map(|s| lower::container_names(topology, name, s)).filter(|c| rest.remove(c)));
        }
        steps.push(step);
    }
    steps.push(rest.into_iter().collect());
    steps.retain(|step| !step.is_empty());
    steps
}

/// Orders the same of each container, and waits for all of them.
async fn each(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    (act, report): (&Act, &ReportView),
    containers: &[String],
    order: &OrderArgs,
    signers: &Signers,
) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for some in containers.chunks(ORDERS_AT_ONCE) {
        let mut sent: Vec<(&String, Result<Sent, Failure>)> = Vec::new();
        for container in some {
            let incarnation = report.report.statement().observed.containers.get(container).map(|c| c.id.clone());
            let on = (lower::container_resource(container), incarnation);
            sent.push((container, submit::send(client, host, act, on, order, signers).await));
        }
        for (container, sent) in sent {
            let ended = match sent {
                Ok(sent) => submit::outcome(client, ui, host, &sent, order.wait.timeout_wait).await,
                Err(failure) => Err(failure),
            };
            match ended {
                Ok(()) => ui.note(&format!("{} {container}: done", act.kind())),
                Err(failure) => failures.push((container, failure)),
            }
        }
    }
    let Some((container, first)) = failures.pop() else { return Ok(()) };
    let others = failures.into_iter().map(|(container, failure)| format!("{container}: {} [{}]", failure.message, failure.code)).collect();
    let verb = if *act == Act::Start { "uncordon" } else { "drain" };
    Err(first
        .while_doing(format_args!("`{}` of `{container}` on `{}`, which stays cordoned", act.kind(), host.name))
        .with_details(others)
        .with_remedy(format!("mend that, then `moorctl host {verb} {}` goes on with what is left", host.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_depend_on_starts_first_and_what_no_service_has_last() {
        let needs = serde_json::json!({ "condition": "service_started" });
        let spec: HostSpec = serde_json::from_value(serde_json::json!({ "docker": { "services": {
            "web": { "image": "i:1", "replicas": 2, "depends_on": { "db": needs, "cache": needs } },
            "db": { "image": "i:1" }, "cache": { "image": "i:1", "depends_on": { "db": needs } }, "lone": { "image": "i:1" },
        } } }))
        .unwrap();
        let edge = TopologyId::parse("edge").unwrap();
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let all = names(&["edge-web-1", "edge-web-2", "edge-db-1", "edge-cache-1", "edge-lone-1", "left-over"]);
        let steps = in_order(&edge, &spec, &all);
        assert_eq!(steps, [vec!["edge-db-1", "edge-lone-1"], vec!["edge-cache-1"], vec!["edge-web-1", "edge-web-2"], vec!["left-over"]]);
        assert_eq!(in_order(&edge, &spec, &names(&["edge-web-2"])), [vec!["edge-web-2"]]);
        assert!(in_order(&edge, &spec, &BTreeSet::new()).is_empty());
    }
}
