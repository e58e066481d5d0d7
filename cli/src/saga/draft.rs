//! What is to be done and what undoes it, before it is signed.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::{HostName, ResourceId, SagaId};
use moorline_common::op;
use moorline_common::saga::{CloudAct, CloudWork, Condition, HubAct, Kind, Side, StepNumber};

/// What a snapshot says of itself, and a guest that a saga makes.
const MANAGED_BY: &str = "managed-by-moorline";

/// A saga before it is signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Its id: names of what it makes carry it.
    pub saga_id: SagaId,
    /// The definition.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// What the definition was given, for people.
    pub inputs: BTreeMap<String, String>,
    /// Its steps.
    pub steps: Vec<Step>,
    /// What the first boots of its droplets are told; the plan has their hashes.
    pub boots: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Steps of one group run side by side.
    pub group: u32,
    /// What it does.
    pub run: Task,
    /// What undoes it.
    pub undo: Option<Task>,
    /// It cannot be undone.
    pub irreversible: bool,
    /// What must hold before it begins.
    pub when: Vec<Condition>,
}

/// One side of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// What is done.
    pub what: What,
    /// How often and how long.
    pub patience: Patience,
}

/// How often something is tried, and how long each try may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often at most.
    pub attempts: u32,
    /// Seconds before the second try; twice that before the third, and so on.
    pub backoff_s: u64,
    /// How long one try may be without an answer, in seconds.
    pub timeout_s: u64,
}

/// What is done.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// An operation on a host.
    Host(Box<OnHost>),
    /// Something that the hub does.
    Hub(HubAct),
    /// Something that the hub does in a cloud.
    Cloud(Box<CloudAct>),
}

/// An operation on a host.
#[derive(Debug, Clone, PartialEq)]
pub struct OnHost {
    /// The host.
    pub host: HostName,
    /// The resource.
    pub resource: ResourceId,
    /// What is done.
    pub act: op::Act,
    /// Which one of those that have borne the resource's name.
    pub incarnation: Option<String>,
    /// Or the one that this step makes.
    pub made_by: Option<String>,
}

impl Patience {
    /// Tried three times, ten seconds apart, for so long each.
    #[must_use]
    pub const fn usual(timeout_s: u64) -> Self {
        Self { attempts: 3, backoff_s: 10, timeout_s }
    }

    /// Tried once: what failed half-way is not done again.
    #[must_use]
    pub const fn once(timeout_s: u64) -> Self {
        Self { attempts: 1, backoff_s: 0, timeout_s }
    }

    /// As long as what undoes a step is tried: it is what an operator would have to do by hand.
    #[must_use]
    pub const fn undo(timeout_s: u64) -> Self {
        Self { attempts: 5, backoff_s: 15, timeout_s }
    }
}

impl Task {
    /// An operation on a host.
    #[must_use]
    pub fn on_host(on: &OnHost, act: op::Act, patience: Patience) -> Self {
        Self { what: What::Host(Box::new(OnHost { act, ..on.clone() })), patience }
    }

    /// Something that the hub does.
    #[must_use]
    pub const fn of_hub(act: HubAct, patience: Patience) -> Self {
        Self { what: What::Hub(act), patience }
    }

    /// Something that the hub does in a cloud.
    #[must_use]
    pub fn in_cloud(cloud: &str, work: CloudWork, patience: Patience) -> Self {
        Self { what: What::Cloud(Box::new(CloudAct { cloud: cloud.to_owned(), work })), patience }
    }

    /// The same, on the guest that a step makes.
    #[must_use]
    pub fn made_by(mut self, step: &str) -> Self {
        if let What::Host(on) = &mut self.what {
            on.made_by = Some(step.to_owned());
        }
        self
    }

    /// What is done on a host, if it is.
    #[must_use]
    pub const fn host(&self) -> Option<&OnHost> {
        match &self.what {
            What::Host(on) => Some(on),
            What::Hub(_) | What::Cloud(_) => None,
        }
    }
}

impl Step {
    /// A step that changes nothing, or nothing that would have to be undone.
    #[must_use]
    pub fn new(name: impl Into<String>, run: Task) -> Self {
        Self { name: name.into(), group: 0, run, undo: None, irreversible: false, when: Vec::new() }
    }

    /// The same, undone by `undo`.
    #[must_use]
    pub fn undone_by(mut self, undo: Task) -> Self {
        self.undo = Some(undo);
        self
    }

    /// The same, for good.
    #[must_use]
    pub const fn irreversible(mut self) -> Self {
        self.irreversible = true;
        self
    }

    /// The same, not before `condition` holds.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.when.push(condition);
        self
    }

    /// Both sides.
    pub fn tasks(&self) -> impl Iterator<Item = (Side, &Task)> {
        [(Side::Do, Some(&self.run)), (Side::Undo, self.undo.as_ref())].into_iter().filter_map(|(side, task)| Some((side, task?)))
    }

    fn tasks_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        [Some(&mut self.run), self.undo.as_mut()].into_iter().flatten()
    }
}

impl Draft {
    /// Every operation on a host.
    pub fn on_hosts(&self) -> impl Iterator<Item = (StepNumber, Side, &OnHost)> {
        let of_step = |(number, step)| Step::tasks(step).filter_map(move |(side, task)| Some((number, side, task.host()?)));
        self.steps.iter().enumerate().flat_map(of_step)
    }

    /// The same, to be filled in.
    pub fn on_hosts_mut(&mut self) -> impl Iterator<Item = &mut OnHost> {
        self.steps.iter_mut().flat_map(Step::tasks_mut).filter_map(|task| match &mut task.what {
            What::Host(on) => Some(on.as_mut()),
            What::Hub(_) | What::Cloud(_) => None,
        })
    }

    /// The hosts that it has operations on.
    #[must_use]
    pub fn hosts(&self) -> BTreeSet<HostName> {
        self.on_hosts().map(|(_, _, on)| on.host.clone()).collect()
    }

    /// The greatest class of what it does, whatever undoes it.
    #[must_use]
    pub fn class(&self) -> Option<op::Class> {
        let of = |what: &What| match what {
            What::Host(on) => Some(on.act.class(&on.resource)),
            What::Cloud(act) => Some(act.class()),
            What::Hub(_) => None,
        };
        self.steps.iter().filter_map(|step| of(&step.run.what)).max()
    }
}

/// Steps in the making: numbers and groups as they are added.
#[derive(Debug, Default)]
pub struct Builder {
    steps: Vec<Step>,
    group: u32,
    is_new: bool,
}

impl Builder {
    /// What follows waits for what there is so far.
    pub fn then(&mut self) {
        self.is_new = !self.steps.is_empty();
    }

    /// The number of the step that is added next.
    #[must_use]
    pub fn next(&self) -> StepNumber {
        self.steps.len()
    }

    /// One more step.
    pub fn step(&mut self, step: Step) {
        if std::mem::take(&mut self.is_new) {
            self.group = self.group.saturating_add(1);
        }
        self.steps.push(Step { group: self.group, ..step });
    }

    /// The steps.
    #[must_use]
    pub fn steps(self) -> Vec<Step> {
        self.steps
    }
}

/// The name of what a step makes: the saga's whole id and the step's number, as short as Proxmox VE's names are.
#[must_use]
pub fn mark(saga_id: &SagaId, step: StepNumber) -> String {
    let id: String = saga_id.as_str().chars().filter(|c| *c != '-').collect();
    format!("m{id}_{step}")
}

/// What that says of itself.
#[must_use]
pub fn description(saga_id: &SagaId, step: StepNumber) -> String {
    format!("{MANAGED_BY} saga {saga_id} step {step}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_snapshots_name_with_the_whole_id() {
        let id = SagaId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap();
        let name = mark(&id, moorline_common::saga::STEPS_MAX - 1);
        assert_eq!(name, "m0197a2b41c3d7e5f8a6b0123456789ab_63");
        assert_eq!(moorline_common::pve::names::snapshot(&name), Ok(()));
        assert!(description(&id, 3).contains(id.as_str()));
    }
}
