//! What must hold in any plan, whoever signed it.

use std::collections::BTreeSet;

use super::plan::{
    ATTEMPTS_MAX, Act, HostAct, HubAct, INPUTS_MAX, NewHost, Plan, STEPS_MAX, Side, Step, StepNumber, TEXT_MAX, Task, WINDOW_MAX_S,
};
use crate::fault::{Code, Fault};
use crate::id::{Generation, UnixSeconds};

impl Plan {
    /// What must hold in any plan, whoever signed it.
    ///
    /// # Errors
    /// [`Code::BadSaga`], with what and where.
    pub fn check(&self) -> Result<(), Fault> {
        let bad = |what: String| Err(Fault::new(Code::BadSaga, what));
        if self.steps.is_empty() || self.steps.len() > STEPS_MAX {
            return bad(format!("a plan has 1 to {STEPS_MAX} steps, this one has {}", self.steps.len()));
        }
        if !is_name(&self.name) {
            return bad(format!("`{}` is no name of a definition: 1 to 63 of a-z, 0-9 and -", crate::fault::cut(&self.name)));
        }
        let system = self.triggered_by.strip_prefix("system:").is_some_and(|reason| !reason.is_empty());
        if self.triggered_by != "operator" && !system {
            return bad("`triggered_by` is `operator` or `system:` with a reason".to_owned());
        }
        let texts = [&self.deployment, &self.triggered_by, &self.reason];
        if texts.into_iter().chain(self.inputs.values()).chain(self.inputs.keys()).any(|text| text.len() > TEXT_MAX)
            || self.inputs.len() > INPUTS_MAX
        {
            return bad(format!("texts of a plan have at most {TEXT_MAX} bytes, and it has at most {INPUTS_MAX} inputs"));
        }
        let window = |to: UnixSeconds| to.0.checked_sub(self.not_before.0).is_some_and(|window| window <= WINDOW_MAX_S);
        if !window(self.expires_at) || !window(self.undo_until) || self.undo_until < self.expires_at {
            return bad(format!(
                "a plan may begin until `expires_at` and be undone until `undo_until`, in this order and within {} days",
                WINDOW_MAX_S / (24 * 3600)
            ));
        }
        let elsewhere = |step: &&Step| match (step.run.act.host(), step.undo.as_ref().map(|undo| undo.act.host())) {
            (Some(run), Some(Some(undo))) => run.host != undo.host,
            (None, Some(Some(_))) => true,
            (_, None | Some(None)) => false,
        };
        if let Some(step) = self.steps.iter().find(elsewhere) {
            return bad(format!("step `{}`: what a host undoes was done on that host", crate::fault::cut(&step.name)));
        }
        self.check_order()?;
        self.tasks().try_for_each(|(number, side, task)| self.check_task(number, side, task))
    }

    /// The order of the steps.
    fn check_order(&self) -> Result<(), Fault> {
        let (mut names, mut group, mut past_return) = (BTreeSet::new(), 0, None);
        for (number, step) in self.steps.iter().enumerate() {
            let bad =
                |what: &str| Err(Fault::new(Code::BadSaga, format!("step {} (`{}`): {what}", number + 1, crate::fault::cut(&step.name))));
            if !is_name(&step.name) || !names.insert(&step.name) {
                return bad("the name of a step is 1 to 63 of a-z, 0-9 and -, and no other step has it");
            }
            let first = if number == 0 { 0 } else { group };
            if step.group != first && (number == 0 || step.group != group + 1) {
                return bad("groups count from 0 without gaps, in the order of the steps");
            }
            group = step.group;
            if step.irreversible && step.undo.is_some() {
                return bad("what can be undone is not irreversible");
            }
            match past_return {
                Some(_) if !step.irreversible => return bad("nothing but irreversible steps may follow one that is irreversible"),
                None if step.irreversible => past_return = Some(group),
                Some(_) | None => {}
            }
        }
        let mixed = |group: u32| self.group(group).any(|(_, step)| !step.irreversible);
        match past_return {
            Some(group) if mixed(group) => {
                Err(Fault::new(Code::BadSaga, format!("group {group}: an irreversible step runs beside one that can be undone")))
            }
            _ => Ok(()),
        }
    }

    fn check_task(&self, number: StepNumber, side: Side, task: &Task) -> Result<(), Fault> {
        let name = self.steps.get(number).map_or("", |step| step.name.as_str());
        let bad = |what: String| Err(Fault::new(Code::BadSaga, format!("step {} (`{name}`, {side}): {what}", number + 1)));
        if task.attempts == 0 || task.attempts > ATTEMPTS_MAX {
            return bad(format!("it is tried 1 to {ATTEMPTS_MAX} times"));
        }
        if task.timeout_s == 0 || task.timeout_s > WINDOW_MAX_S || task.backoff_s > WINDOW_MAX_S {
            return bad(format!("a time is at most {WINDOW_MAX_S} seconds, and the time for an answer at least 1"));
        }
        match &task.act {
            Act::Host(act) => {
                if !self.hosts.contains_key(&act.host) {
                    return bad(format!("host {} is not among the hosts of the plan", act.host));
                }
                if u32::try_from(act.orders.len()) != Ok(task.attempts) || !act.orders.iter().all(|hash| is_hash(hash)) {
                    return bad("each try on a host has an order of its own, named by its payload's hash".to_owned());
                }
                if side == Side::Do
                    && let Some(hub) = self.not_enough(number, act)
                {
                    return bad(format!(
                        "it follows step `{hub}`, and the hub's word is not enough for it: no signature says that it is done"
                    ));
                }
                let is_made = |by: &String| {
                    let by = self.step_named(by).filter(|by| self.comes_before(*by, number, side));
                    by.and_then(|by| self.host_act(by, Side::Do)).is_some_and(|by| by.host == act.host)
                };
                match &act.made_by {
                    Some(by) if !is_made(by) => bad("`made_by` names an earlier step on the same host".to_owned()),
                    Some(_) | None => Ok(()),
                }
            }
            Act::Hub(HubAct::Push { generation, .. }) if *generation == Generation(0) => {
                bad("a revision has a generation from 1".to_owned())
            }
            Act::Hub(HubAct::Applied { hosts, .. }) if hosts.is_empty() => bad("there is no host to wait for".to_owned()),
            Act::Hub(HubAct::Joined(NewHost { token, .. })) if !is_token_id(token) => bad("a token's id is 32 of 0-9 and a-f".to_owned()),
            Act::Hub(HubAct::Forget { token: Some(token), .. } | HubAct::Expect { token, .. }) if !is_token_id(token) => {
                bad("a token's id is 32 of 0-9 and a-f".to_owned())
            }
            Act::Hub(HubAct::Push { .. } | HubAct::Applied { .. } | HubAct::Joined(_) | HubAct::Expect { .. } | HubAct::Forget { .. }) => {
                Ok(())
            }
            Act::Cloud(act) => act.wrong(self, number, side).map_or(Ok(()), bad),
        }
    }

    /// The step of the hub's own, before this one, whose end no host believes for an operation of this class; an operation that is
    /// not known here is its host's to judge.
    fn not_enough(&self, number: StepNumber, act: &HostAct) -> Option<&str> {
        let class = crate::op::Act::read(&act.kind, &act.params, &act.resource).ok()?.class(&act.resource);
        let group = self.steps.get(number)?.group;
        let mut hubs = self.steps.iter().filter(|step| step.group < group && step.run.act.host().is_none());
        if class > super::proof::HUB_CLAIM_MAX { hubs.next().map(|step| step.name.as_str()) } else { None }
    }

    /// Whether what a step does is over when that side of another begins.
    pub(super) fn comes_before(&self, step: StepNumber, other: StepNumber, side: Side) -> bool {
        let group = |number: StepNumber| self.steps.get(number).map(|step| step.group);
        match side {
            Side::Do => group(step) < group(other),
            Side::Undo => group(step) <= group(other),
        }
    }
}

fn is_token_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Names of definitions and steps: they become parts of names and tags.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) && !text.starts_with('-')
}
