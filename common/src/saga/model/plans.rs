//! Any plan.

use super::super::tests::{bare, on_host, on_hub, plan};
use super::*;

/// Up to four groups of up to three steps, of hosts and of the hub; those of the last groups may be irreversible.
pub fn any_plan(dice: &mut Dice) -> Plan {
    let groups = 1 + dice.below(4);
    let past_return = if dice.one_in(2) { dice.below(groups) } else { groups };
    let mut steps = Vec::new();
    for group in 0..groups {
        for _ in 0..1 + dice.below(3) {
            steps.push(any_step(dice, steps.len(), group, group >= past_return));
        }
    }
    let mut plan = plan(steps);
    if plan.check().is_err() {
        // The hub's word before it is not enough for what disrupts.
        for step in &mut plan.steps {
            if let Act::Host(act) = &mut step.run.act {
                act.kind = "start".to_owned();
            }
        }
    }
    plan.check().unwrap();
    plan
}

fn any_step(dice: &mut Dice, number: usize, group: usize, irreversible: bool) -> Step {
    let (run, undo) = (attempts(dice), attempts(dice));
    let on = ["a", "b", "c"][dice.below(3)];
    let (run, undo) = if dice.one_in(4) {
        (on_hub(run), on_hub(undo))
    } else {
        (on_host(on, if dice.one_in(4) { "destroy" } else { "start" }, run), on_host(on, "stop", undo))
    };
    let undo = (!irreversible && !dice.one_in(4)).then_some(undo);
    Step { undo, irreversible, ..bare(&format!("s{number}"), u32::try_from(group).unwrap(), run) }
}

fn attempts(dice: &mut Dice) -> u32 {
    if dice.one_in(2) { 1 } else { 1 + u32::try_from(dice.below(3)).unwrap() }
}
