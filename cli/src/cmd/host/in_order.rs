//! What `drain` and `uncordon` share: what a host has now, in which order its containers stop and start, and orders for many of them.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use moorline_common::op::Act;
use moorline_common::plan::Identity;
use moorline_common::plan::lower::{self, LoweredSpec};

use crate::client::facts::ReportView;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::op::OrderArgs;
use crate::cmd::op::submit::{self, Sent};
use crate::error::{EXIT_INTERRUPTED, Failure, LocalCode};
use crate::limits::ORDERS_AT_ONCE;
use crate::render::Ui;
use crate::revision::Previous;
use crate::signers::Signers;

/// What the signed reason of a stop by `drain` begins with.
pub(super) const DRAIN: &str = "drain";

/// What `work` comes to, unless the operator cuts it off: then no further order goes out.
pub(super) async fn unless_cut_off<T>(
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

/// What a host signed just now of what it has.
pub(super) async fn current(client: &Client, host: &HostView) -> Result<ReportView, Failure> {
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

/// `containers` of a host in the order of their start, those that may start together in one step.
pub(super) async fn steps(
    client: &Client,
    host: &HostView,
    report: &ReportView,
    containers: &BTreeSet<String>,
) -> Result<Vec<Vec<String>>, Failure> {
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
pub(super) async fn each(
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
