//! `deploy` and `scale`: how many containers a service has, what each may use, and how it is replaced.

use super::super::keys;
use super::super::limits::{MONITOR_MAX, REPLICAS_MAX};
use super::super::node::{Node, shorten};
use super::super::options::Options;
use super::super::vars::Why;
use super::super::{RestartPolicy, ServiceSpec, UpdateOrder};
use super::options::{bytes, cpus, pids};
use super::service::span;
use super::walk::{Fields, Walker};

/// Reads them into `service`. What the service says itself by another key must be the same.
pub(super) fn deploy(w: &mut Walker<'_>, fields: &Fields<'_>, service: &mut ServiceSpec) {
    service.replicas = w.get(fields, "scale", count);
    let Some(node) = fields.get("deploy").filter(|node| !node.is_null()) else { return };
    w.within("deploy", |w| {
        let Some(fields) = w.object(node, &keys::DEPLOY) else { return };
        w.get(&fields, "mode", |w, n| w.one_of(n, &[("replicated", ())]));
        let replicas = w.get(&fields, "replicas", count);
        same(w, node, "replicas", "scale", &mut service.replicas, replicas);
        w.get(&fields, "resources", |w, n| resources(w, n, &mut service.options));
        if let Some(restart) = w.get(&fields, "restart_policy", restart_policy) {
            same(w, node, "restart_policy", "restart", &mut service.restart, Some(restart));
        }
        w.get(&fields, "update_config", |w, n| update_config(w, n, service));
    });
}

fn count(w: &mut Walker<'_>, node: &Node) -> Option<u32> {
    w.int(node, 0, REPLICAS_MAX).and_then(|n| u32::try_from(n).ok())
}

/// Takes in what `deploy` says; two keys for one thing must not contradict each other.
fn same<T: PartialEq>(w: &mut Walker<'_>, node: &Node, key: &str, own: &str, has: &mut Option<T>, says: Option<T>) {
    match (&has, says) {
        (_, None) => {}
        (None, says) => *has = says,
        (Some(has), Some(says)) if *has == says => {}
        (Some(_), Some(_)) => {
            w.within(key, |w| {
                w.report_why(
                    node.at,
                    Why::new(format!("it says another thing than `{own}` of the service")).help(format!("leave `{own}` out")),
                );
            });
        }
    }
}

fn resources(w: &mut Walker<'_>, node: &Node, options: &mut Options) -> Option<()> {
    let fields = w.object(node, &keys::RESOURCES)?;
    w.get(&fields, "limits", |w, node| {
        let fields = w.object(node, &keys::LIMITS)?;
        let (processors, memory) = (w.get(&fields, "cpus", cpus), w.get(&fields, "memory", bytes));
        same(w, node, "cpus", "cpus", &mut options.cpus, processors);
        same(w, node, "memory", "mem_limit", &mut options.mem_limit, memory);
        let processes = w.get(&fields, "pids", pids);
        same(w, node, "pids", "pids_limit", &mut options.pids_limit, processes);
        Some(())
    });
    w.get(&fields, "reservations", |w, node| {
        let fields = w.object(node, &keys::RESERVATIONS)?;
        let memory = w.get(&fields, "memory", bytes);
        same(w, node, "memory", "mem_reservation", &mut options.mem_reservation, memory);
        Some(())
    });
    Some(())
}

fn restart_policy(w: &mut Walker<'_>, node: &Node) -> Option<RestartPolicy> {
    let fields = w.object(node, &keys::RESTART_POLICY)?;
    let words = [("none", RestartPolicy::No), ("on-failure", RestartPolicy::OnFailure(0)), ("any", RestartPolicy::Always)];
    let condition = w.get(&fields, "condition", |w, n| w.one_of(n, &words)).unwrap_or(RestartPolicy::Always);
    let attempts = w.get(&fields, "max_attempts", |w, n| w.int(n, 0, 1_000_000)).and_then(|n| u32::try_from(n).ok());
    match (condition, attempts) {
        (RestartPolicy::OnFailure(_), Some(attempts)) => Some(RestartPolicy::OnFailure(attempts)),
        (condition, None | Some(0)) => Some(condition),
        (RestartPolicy::No | RestartPolicy::Always | RestartPolicy::UnlessStopped, Some(attempts)) => {
            let why = Why::new(format!("the engine counts attempts after failures alone, not {}", shorten(&attempts.to_string())));
            w.within("max_attempts", |w| w.report_why(fields.key_at("max_attempts"), why.help("write `condition: on-failure` beside it")));
            None
        }
    }
}

fn update_config(w: &mut Walker<'_>, node: &Node, service: &mut ServiceSpec) -> Option<()> {
    let fields = w.object(node, &keys::UPDATE_CONFIG)?;
    w.get(&fields, "failure_action", |w, n| w.one_of(n, &[("rollback", ())]));
    service.update.monitor = w.get(&fields, "monitor", |w, n| {
        let monitor = span(w, n)?;
        if monitor > MONITOR_MAX {
            w.report(n.at, "a successor is watched for at most 15m");
            return None;
        }
        Some(monitor)
    });
    let words = [("stop-first", UpdateOrder::StopFirst), ("start-first", UpdateOrder::StartFirst)];
    service.update.order = w.get(&fields, "order", |w, n| w.one_of(n, &words));
    Some(())
}
