//! `rollout`: how a push spreads. No variables and nothing per host, as the hub reads it as it is.

use super::super::keys;
use super::super::node::Node;
use super::super::vars::Why;
use super::service;
use super::walk::Walker;
use crate::rollout::{OnFailure, Plan, SPAN_MAX_S, Share};

/// Reads the whole section; what is left out has its default.
pub(super) fn rollout(w: &mut Walker<'_>, node: &Node) -> Option<Plan> {
    let fields = w.object(node, &keys::ROLLOUT)?;
    let Plan { canary, max_parallel, healthy_for_s, on_failure, failure_budget, deadline_s } = Plan::default();
    let known = w.problems.len();
    let span = |w: &mut Walker<'_>, node: &Node| service::seconds(w, node, SPAN_MAX_S);
    let plan = Plan {
        canary: w.get(&fields, "canary", share).unwrap_or(canary),
        max_parallel: w.get(&fields, "max_parallel", share).unwrap_or(max_parallel),
        healthy_for_s: w.get(&fields, "healthy_for", span).unwrap_or(healthy_for_s),
        on_failure: w.get(&fields, "on_failure", on_failure_word).unwrap_or(on_failure),
        failure_budget: w.get(&fields, "failure_budget", share).unwrap_or(failure_budget),
        deadline_s: w.get(&fields, "deadline", span).unwrap_or(deadline_s),
    };
    if w.problems.len() == known
        && let Err(fault) = plan.require_sound()
    {
        let at = fields.key_at(if plan.max_parallel.is_none() { "max_parallel" } else { "deadline" });
        w.report(at, fault.message);
    }
    Some(plan)
}

fn share(w: &mut Walker<'_>, node: &Node) -> Option<Share> {
    let filled = w.scalar(node, "a number of hosts or a share of them, such as `3` or `25%`")?;
    w.understood(filled, node.at, |text| text.parse().map_err(|fault: crate::fault::Fault| Why::new(fault.message)))
}

fn on_failure_word(w: &mut Walker<'_>, node: &Node) -> Option<OnFailure> {
    w.one_of(node, &[OnFailure::Rollback, OnFailure::Pause].map(|on| (on.as_str(), on)))
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    #[test]
    fn a_plan_is_read_and_what_is_left_out_has_its_default() {
        let read = |rollout: &str| load(&format!("topology: edge\n{rollout}hosts: {{ a: {{}} }}\n")).unwrap().rollout;
        assert_eq!(read(""), None);
        assert_eq!(read("rollout: {}\n"), Some(Plan::default()));
        let all = "rollout: { canary: 10%, max_parallel: 3, healthy_for: 0, deadline: 1m30s, on_failure: pause, failure_budget: \"2\" }\n";
        let plan = Plan {
            canary: Share::Percent(10),
            max_parallel: Share::Count(3),
            healthy_for_s: 0,
            on_failure: OnFailure::Pause,
            failure_budget: Share::Count(2),
            deadline_s: 90,
        };
        assert_eq!(read(all), Some(plan));
    }
}
