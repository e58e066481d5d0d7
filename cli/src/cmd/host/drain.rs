//! `moorctl host drain` and `uncordon`: a host is emptied for work on it, and put back into service.
//!
//! What stops and starts containers are signed operations like any others. A stop by `drain` is known by the reason that is signed with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{HostName, ResourceId};
use moorline_common::observe::ContainerState;
use moorline_common::op::Act;
use moorline_common::plan::Identity;
use moorline_common::plan::lower::{self, LoweredSpec};

use super::cordon::Stands;
use crate::client::facts::ReportView;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::cmd::op::submit::{self, Sent};
use crate::cmd::op::view::OpView;
use crate::cmd::op::{OpWait, OrderArgs};
use crate::error::{EXIT_INTERRUPTED, Failure, LocalCode};
use crate::limits::ORDERS_AT_ONCE;
use crate::render::Ui;
use crate::revision::Previous;
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
/// When the answer is no, the host is not connected, or a container does not stop; what was stopped stays so, and the host stays cordoned.
pub async fn drain(args: DrainArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    client.require_signable()?;
    let host = client.host(&name).await?;
    if !host.connected {
        let fault =
            Fault::new(Code::Waiting, format!("`{name}` is not connected: what runs on it is not known, and nothing there can be stopped"));
        return Err(
            Failure::from(fault).with_remedy(format!("when it is back; until then `moorctl host cordon {name}` keeps new revisions away"))
        );
    }
    let (_, steps) = running(&client, &host).await?;
    let shown: Vec<&str> = steps.iter().flatten().map(String::as_str).collect();
    if !shown.is_empty() {
        ui.confirm(&format!(
            "This cordons `{name}` and stops {} containers on it, in this order: {}. Go on?",
            shown.len(),
            shown.join(", ")
        ))?;
    }
    let signers = Signers::of(&client)?;
    client.cordon(&host.host_id, true, &args.reason).await?;
    let reason = if args.reason.is_empty() { DRAIN.to_owned() } else { cut(&format!("{DRAIN}: {}", args.reason)) };
    let order = OrderArgs::usual(&reason, OpWait { timeout_wait: args.timeout_wait, ..OpWait::usual() });
    let act = Act::Stop { timeout_s: args.timeout.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)) };
    let remedy = format!("`moorctl host drain {name}` goes on; `moorctl host uncordon {name}` takes it back");
    let stopped = unless_cut_off("drain", &host, &remedy, stop_all(&client, ui, &host, &act, &order, &signers)).await?;
    let stands = Stands { name: &name, cordoned: true, containers: stopped };
    ui.result(&stands, || {
        let what = match stands.containers.len() {
            0 => "nothing of ours runs on it".to_owned(),
            n => format!("{n} containers are stopped"),
        };
        format!("`{name}` is cordoned, and {what}. Back into service: moorctl host uncordon {name}\n")
    })?;
    Ok(0)
}

/// Stops what runs until nothing does: what was under way may have made more meanwhile.
async fn stop_all(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    act: &Act,
    order: &OrderArgs,
    signers: &Signers,
) -> Result<Vec<String>, Failure> {
    let mut stopped = Vec::new();
    for _ in 0..LOOKS {
        let looked = running(client, host).await;
        let (report, steps) = looked.map_err(|f| f.while_doing(format_args!("the look at `{}`, which stays cordoned", host.name)))?;
        if steps.is_empty() {
            return Ok(stopped);
        }
        for step in &steps {
            each(client, ui, host, (act, &report), step, order, signers).await?;
        }
        for container in steps.into_iter().flatten() {
            if !stopped.contains(&container) {
                stopped.push(container);
            }
        }
    }
    let fault = Fault::new(Code::Busy, format!("containers on `{}`, which stays cordoned, begin again and again", host.name));
    Err(Failure::from(fault)
        .with_remedy(format!("look with `moorctl status` and `moorctl events`, then `moorctl host drain {}` goes on", host.name)))
}

/// What `work` comes to, unless the operator cuts it off: then no further order goes out.
async fn unless_cut_off<T>(
    verb: &str,
    host: &HostView,
    remedy: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        Ok(()) = tokio::signal::ctrl_c() => {
            let message = format!("`{verb}` was cut off: what was ordered goes on, and `{}` stays cordoned", host.name);
            Err(Failure { exit: EXIT_INTERRUPTED, ..Failure::new(LocalCode::NotConverged, message, remedy) })
        }
        ended = work => ended,
    }
}

/// Looks at a host for what runs on it before `drain` gives up.
const LOOKS: usize = 5;

/// What of ours runs on a host now, in the order in which it stops.
async fn running(client: &Client, host: &HostView) -> Result<(ReportView, Vec<Vec<String>>), Failure> {
    let report = current(client, host).await?;
    let observed = &report.report.statement().observed;
    if observed.trimmed {
        let message = format!("the report of `{}` is too large and came cut: what runs on it is not known", host.name);
        return Err(Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("stop its containers one by one with `moorctl op stop`"));
    }
    let runs = |state| matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
    let running = observed.containers.iter().filter(|(_, c)| c.owner.is_some() && runs(c.state)).map(|(name, _)| name.clone()).collect();
    let mut steps = steps(client, host, &report, &running).await?;
    steps.reverse();
    Ok((report, steps))
}

/// What a host signed just now of what it has.
async fn current(client: &Client, host: &HostView) -> Result<ReportView, Failure> {
    let report = client.report_anew(host).await?;
    let doubt = report.as_ref().map_or_else(|| Some("it has sent no report yet".to_owned()), |report| report.doubt(clock::now()));
    match (report, doubt) {
        (Some(report), None) => Ok(report),
        (_, doubt) => {
            let message = format!("what runs on `{}` is not known: {}", host.name, doubt.unwrap_or_default());
            let remedy = "look with `moorctl status`: it has to be connected, and its engine has to answer";
            Err(Failure::from(Fault::new(Code::Waiting, message)).with_remedy(remedy))
        }
    }
}

/// Starts what `drain` stopped, what others depend on first, and lets the host have what is pushed.
///
/// # Errors
/// When a container does not start: then the host stays cordoned.
pub async fn uncordon(args: UncordonArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    let (mut started, mut unknown) = (Vec::new(), Vec::new());
    if !args.no_start && host.bound().is_some() {
        let only = format!("when it is connected and its engine answers; or only lift the cordon: moorctl host uncordon {name} --no-start");
        let report = current(&client, &host).await.map_err(|f| if f.is(Code::Waiting) { f.with_remedy(only) } else { f })?;
        let drained = drained(&client, ui, &host, &report, &mut unknown).await?;
        if !drained.is_empty() {
            client.require_signable()?;
            let signers = Signers::of(&client)?;
            let order = OrderArgs::usual("uncordon", OpWait { timeout_wait: args.timeout_wait, ..OpWait::usual() });
            let work = async {
                for step in steps(&client, &host, &report, &drained).await? {
                    each(&client, ui, &host, (&Act::Start, &report), &step, &order, &signers).await?;
                    started.extend(step);
                }
                Ok(())
            };
            unless_cut_off("uncordon", &host, &format!("`moorctl host uncordon {name}` goes on"), work).await?;
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
    if unknown.is_empty() {
        return Ok(0);
    }
    let message = format!(
        "{} containers on `{name}` are held by operations whose orders do not verify any more: {}",
        unknown.len(),
        unknown.join(", ")
    );
    let remedy = format!("if they are to run: moorctl op start {name}/NAME");
    Err(Failure::from(Fault::new(Code::UnknownKey, message)).with_remedy(remedy))
}

/// The containers of a host that `drain` stopped, by the orders that operators signed. Others that are held are told of; `unknown` are those
/// of which nobody can tell.
async fn drained(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    report: &ReportView,
    unknown: &mut Vec<String>,
) -> Result<BTreeSet<String>, Failure> {
    let mut drained = BTreeSet::new();
    let is_drain = |reason: &str| reason == DRAIN || reason.starts_with(&format!("{DRAIN}: "));
    for held in &report.report.statement().apply.held {
        let (resource, op_id) = (&held.resource, &held.op_id);
        let order = match client.op(op_id).await {
            Ok(facts) => {
                let view = OpView::new(&client.root, facts, host.bound(), None)?;
                view.order.ok_or(()).and_then(|order| view.order_doubt.map_or(Ok(order), |_| Err(())))
            }
            Err(failure) if failure.is(Code::NotFound) => Err(()),
            Err(failure) => return Err(failure),
        };
        match order {
            Ok(order) if order.kind == "stop" && order.resource == *resource && is_drain(&order.reason) => {
                drained.insert(resource.name().to_owned());
            }
            Ok(_) => ui.note(&format!("left as it is: {resource}, held by operation {op_id}")),
            Err(()) => unknown.push(resource.name().to_owned()),
        }
    }
    Ok(drained)
}

/// `containers` of a host in the order of their start, those that may start together in one step.
async fn steps(client: &Client, host: &HostView, report: &ReportView, containers: &BTreeSet<String>) -> Result<Vec<Vec<String>>, Failure> {
    let apply = &report.report.statement().apply;
    let all_at_once = || Some(containers.iter().cloned().collect::<Vec<_>>()).filter(|all| !all.is_empty()).into_iter().collect();
    let Some(topology) = &apply.topology else { return Ok(all_at_once()) };
    // What it has, not what it will get.
    let generation = apply.rolled_back.as_ref().map_or(apply.generation, |back| back.to);
    let view = match client.revision(topology, generation, true).await {
        Ok(view) => view,
        Err(failure) if failure.is(Code::NotFound) => return Ok(all_at_once()),
        Err(failure) => return Err(failure),
    };
    let spec = Previous::of(Some(&view), std::slice::from_ref(host), &client.root).spec_of(&host.host_id).unwrap_or_default();
    let identity = Identity { cluster: client.root.cluster.clone(), host_id: host.host_id.clone(), topology: topology.clone() };
    Ok(in_order(&lower::lower(&identity, &spec), containers))
}

/// See [`steps`]. What no service has starts last.
fn in_order(spec: &LoweredSpec, containers: &BTreeSet<String>) -> Vec<Vec<String>> {
    let mut left: BTreeMap<&ResourceId, BTreeSet<&ResourceId>> = BTreeMap::new();
    for (resource, container) in &spec.containers {
        left.insert(resource, container.depends_on.keys().chain(&container.joins).collect());
    }
    let mut rest = containers.clone();
    let mut steps = Vec::new();
    while !left.is_empty() {
        let is_free = |needs: &BTreeSet<&ResourceId>| !needs.iter().any(|other| left.contains_key(other));
        let free: Vec<&ResourceId> = left.iter().filter(|(_, needs)| is_free(needs)).map(|(resource, _)| *resource).collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|resource| drop(left.remove(resource)));
        steps.push(free.into_iter().map(|resource| resource.name().to_owned()).filter(|name| rest.remove(name)).collect());
    }
    steps.push(rest.into_iter().collect());
    steps.retain(|step: &Vec<String>| !step.is_empty());
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
    let mut failures = failures.into_iter();
    let Some((container, first)) = failures.next() else { return Ok(()) };
    let others = failures.map(|(container, failure)| format!("{container}: {failure}")).collect();
    let verb = if *act == Act::Start { "uncordon" } else { "drain" };
    let remedy = format!("{}; then `moorctl host {verb} {}` goes on with what is left", first.remedy, host.name);
    Err(first
        .while_doing(format_args!("`{}` of `{container}` on `{}`, which stays cordoned", act.kind(), host.name))
        .with_details(others)
        .with_remedy(remedy))
}

#[cfg(test)]
mod tests {
    use moorline_common::id::{ClusterId, HostId, TopologyId};
    use moorline_common::topology::HostSpec;

    use super::*;

    #[test]
    fn what_others_depend_on_starts_first_and_what_no_service_has_last() {
        let needs = serde_json::json!({ "condition": "service_started" });
        let spec: HostSpec = serde_json::from_value(serde_json::json!({ "docker": { "services": {
            "web": { "image": "i:1", "replicas": 2, "depends_on": { "db": needs, "cache": needs } },
            "db": { "image": "i:1" }, "cache": { "image": "i:1", "depends_on": { "db": needs } }, "lone": { "image": "i:1" },
        } } }))
        .unwrap();
        let identity = Identity {
            cluster: ClusterId::parse("c").unwrap(),
            host_id: HostId::of_key(&[1; 32]),
            topology: TopologyId::parse("edge").unwrap(),
        };
        let spec = lower::lower(&identity, &spec);
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let all = names(&["edge-web-1", "edge-web-2", "edge-db-1", "edge-cache-1", "edge-lone-1", "left-over"]);
        let steps = in_order(&spec, &all);
        assert_eq!(steps, [vec!["edge-db-1", "edge-lone-1"], vec!["edge-cache-1"], vec!["edge-web-1", "edge-web-2"], vec!["left-over"]]);
        assert_eq!(in_order(&spec, &names(&["edge-web-2"])), [vec!["edge-web-2"]]);
        assert!(in_order(&spec, &BTreeSet::new()).is_empty());
    }
}
