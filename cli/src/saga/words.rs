//! What people are shown of a saga before anything is signed.

use moorline_common::op::Class;
use moorline_common::saga::{Act, Condition, NewHost, Plan, Side, Step as Planned, Task as PlannedTask};
use serde::Serialize;

use super::draft::{Draft, OnHost};
use crate::clock;
use crate::render::visible;

/// A plan that nobody has signed, as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
pub struct Planning<'a> {
    /// The plan; its orders are not made yet.
    #[serde(flatten)]
    plan: &'a Plan,
    /// The greatest class of what it does.
    class: Option<Class>,
    /// Whether all of it can be undone.
    reversible: bool,
}

impl<'a> Planning<'a> {
    /// What is shown of it.
    #[must_use]
    pub fn new(plan: &'a Plan, draft: &Draft) -> Self {
        Self { plan, class: draft.class(), reversible: plan.steps.iter().all(|step| !step.irreversible) }
    }
}

/// A plan in full, with every compensation.
#[must_use]
pub fn plan(plan: &Plan, draft: &Draft) -> String {
    let mut text = format!("saga {} · {} · {}\n", plan.saga_id, plan.name, plan.kind);
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<12}{}\n", visible(value)));
        }
    };
    fact("deployment", &plan.deployment);
    fact("reason", &plan.reason);
    fact("steps begin", &format!("until {}", clock::rfc3339(plan.expires_at.0.saturating_mul(1000))));
    fact("undone", &format!("until {}", clock::rfc3339(plan.undo_until.0.saturating_mul(1000))));
    for (key, value) in &plan.inputs {
        fact("input", &format!("{key} = {value}"));
    }
    for group in 0..plan.groups() {
        let side_by_side = if plan.group(group).count() > 1 { ", side by side" } else { "" };
        text.push_str(&format!("\ngroup {}{side_by_side}\n", group + 1));
        for (number, step) in plan.group(group) {
            text.push_str(&self::step(number, step, draft));
        }
    }
    text
}

fn step(number: usize, step: &Planned, draft: &Draft) -> String {
    let mut text = format!("  {} {}\n", number + 1, step.name);
    for condition in &step.when {
        text.push_str(&format!("      when  {}\n", condition_words(condition)));
    }
    let on = |side: Side| draft.on_hosts().find(|(n, s, _)| (*n, *s) == (number, side)).map(|(_, _, on)| on);
    text.push_str(&format!("      do    {}\n", task(&step.run, on(Side::Do))));
    let undo = match &step.undo {
        Some(undo) => task(undo, on(Side::Undo)),
        None if step.irreversible => "CANNOT BE UNDONE: from here on the saga only goes forward".to_owned(),
        None => "there is nothing to undo".to_owned(),
    };
    text.push_str(&format!("      undo  {undo}\n"));
    text
}

fn task(task: &PlannedTask, on: Option<&OnHost>) -> String {
    let class = match (&task.act, on) {
        (Act::Cloud(act), _) => Some(act.class()),
        (_, on) => on.map(|on| on.act.class(&on.resource)),
    };
    let class = class.map(|class| format!(", class {class}")).unwrap_or_default();
    let which = match on {
        Some(OnHost { made_by: None, incarnation: Some(id), .. }) => format!("\n            only {}", visible(id)),
        Some(_) | None => String::new(),
    };
    format!("{}{class}{which}", visible(&task.words()))
}

/// What a condition asks for.
#[must_use]
pub fn condition_words(condition: &Condition) -> String {
    match condition {
        Condition::Connected(host) => format!("{host} is connected"),
        Condition::Joined(NewHost { host, converged: false, .. }) => format!("{host} has joined and is bound"),
        Condition::Joined(NewHost { host, converged: true, .. }) => format!("{host} has applied its topology"),
        Condition::After(at) => format!("it is {} or later", clock::rfc3339(at.0.saturating_mul(1000))),
        Condition::Newest { topology, generation } => format!("generation {generation} is the newest of {topology}"),
    }
}
