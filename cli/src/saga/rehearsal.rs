//! A rehearsal: a saga that fails on purpose behind one of its steps, so that an operator sees how it is undone.

use moorline_common::id::HostName;
use moorline_common::op::Act;
use moorline_common::saga::{HubAct, Kind, NewHost, Side};
use serde_json::json;

use super::draft::{Draft, OnHost, Patience, Step, Task};
use crate::error::Failure;

/// The step that fails.
const STEP: &str = "fail-on-purpose";

/// Has `draft` fail when the step of that name, and those beside it, are done.
///
/// # Errors
/// A usage failure when there is no such step, or when what is done until then could not be undone.
pub fn fail_after(draft: &mut Draft, name: &str) -> Result<(), Failure> {
    let names: Vec<&str> = draft.steps.iter().map(|step| step.name.as_str()).collect();
    let Some(group) = draft.steps.iter().find(|step| step.name == name).map(|step| step.group) else {
        return Err(Failure::usage(format!("the saga has no step `{name}`"), format!("its steps are {}", names.join(", "))));
    };
    if let Some(step) = draft.steps.iter().find(|step| step.group <= group && step.irreversible) {
        let message = format!("`{}` cannot be undone: there is nothing to rehearse behind it", step.name);
        return Err(Failure::usage(message, "fail behind an earlier step"));
    }
    let run = match last_on_host(draft, group) {
        Some(on) => Task::on_host(&on, look_at(&on)?, Patience::once(300)),
        None => Task::of_hub(never_joins()?, Patience::once(60)),
    };
    let at = draft.steps.iter().take_while(|step| step.group <= group).count();
    for later in draft.steps.iter_mut().skip(at) {
        later.group = later.group.saturating_add(1);
    }
    draft.steps.insert(at, Step { group: group.saturating_add(1), ..Step::new(STEP, run) });
    draft.kind = Kind::Test;
    draft.inputs.insert("fail-after".to_owned(), name.to_owned());
    Ok(())
}

/// What the last step on a host up to a group is about, in a life that nothing has: a host undoes nothing before a host has signed a failure.
fn last_on_host(draft: &Draft, group: u32) -> Option<OnHost> {
    let of_steps = draft.on_hosts().filter(|(_, side, _)| *side == Side::Do);
    let (.., on) = of_steps.take_while(|(number, ..)| draft.steps.get(*number).is_some_and(|step| step.group <= group)).last()?;
    Some(OnHost { incarnation: Some(STEP.to_owned()), made_by: None, ..on.clone() })
}

/// A look at it, which changes nothing.
fn look_at(on: &OnHost) -> Result<Act, Failure> {
    Act::read("check", &json!({ "for_s": 1, "timeout_s": 2 }), &on.resource).map_err(|fault| {
        Failure::from(fault).with_remedy(format!("a failure is rehearsed on guests and in clouds, and {} is neither", on.resource))
    })
}

/// The same where no host does anything.
fn never_joins() -> Result<HubAct, Failure> {
    Ok(HubAct::Joined(NewHost { host: HostName::parse(STEP)?, token: "0".repeat(32), converged: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::testing;

    fn groups(draft: &Draft) -> Vec<(&str, u32)> {
        draft.steps.iter().map(|step| (step.name.as_str(), step.group)).collect()
    }

    #[test]
    fn a_rehearsal_fails_behind_the_step_that_is_named_and_before_what_cannot_be_undone() {
        let draft = || testing::draft("change-with-snapshot", &["pve-1/101"], &[("config.cores", "2")]).unwrap();
        let mut rehearsed = draft();
        fail_after(&mut rehearsed, "snapshot").unwrap();
        assert_eq!(groups(&rehearsed), [("snapshot", 0), (STEP, 1), ("change", 2), ("check", 3), ("forget", 4)]);
        let fails = rehearsed.steps[1].run.host().unwrap();
        assert_eq!((fails.act.kind(), fails.incarnation.as_deref()), ("check", Some(STEP)));
        let sealed = testing::sealed(&rehearsed);
        assert_eq!((sealed.plan.check(), sealed.plan.kind), (Ok(()), Kind::Test));
        let refused = fail_after(&mut draft(), "forget").unwrap_err();
        assert!(refused.message.contains("cannot be undone"), "{refused:?}");
        let refused = fail_after(&mut draft(), "snapsot").unwrap_err();
        assert!(refused.message.contains("no step `snapsot`"), "{refused:?}");
    }
}
