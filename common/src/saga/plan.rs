//! The plan: what an operator signs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cloud::CloudAct;
use crate::fault::{Code, Fault};
use crate::id::{ClusterId, Generation, HostId, HostName, IdempotencyKey, ResourceId, SagaId, TopologyId, UnixSeconds};
use crate::sign::{PayloadType, Statement};
use crate::statement::hex_key;

/// The largest plan, in bytes of its envelope's JSON.
pub const PLAN_MAX: usize = 256 * 1024;
/// The most steps of a plan.
pub const STEPS_MAX: usize = 64;
/// The most tries of one side of a step that one signature allows.
pub const ATTEMPTS_MAX: u32 = 16;
/// The most tries of one side of a step, with all that words on the saga allow.
pub const TRIES_MAX: u32 = 64;
/// The longest time in which a plan may begin or be undone, in seconds: 30 days, as for an order.
pub const WINDOW_MAX_S: u64 = crate::op::OP_WINDOW_MAX_S;
/// The longest text in a plan that is for people, in bytes.
pub(super) const TEXT_MAX: usize = 512;
/// The most inputs of a plan.
pub(super) const INPUTS_MAX: usize = 64;

/// A step of a plan by its place, from 0.
pub type StepNumber = usize;

/// A saga as an operator signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub saga_id: SagaId,
    /// The definition that it was built from, such as `snapshot-guest`.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// What it belongs to, in the operator's words; may be empty.
    pub deployment: String,
    /// `operator`, or `system:` and a reason.
    pub triggered_by: String,
    /// What the definition was given, for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// The hosts that it has steps on, each with its ed25519 public key in hex: receipts by these keys alone count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<HostName, PublicKey>,
    /// Its steps, in their order.
    pub steps: Vec<Step>,
    /// When it was signed, by the operator's clock. Not valid before.
    pub not_before: UnixSeconds,
    /// The last moment at which a step may begin.
    pub expires_at: UnixSeconds,
    /// The last moment at which what undoes a step may begin: not before `expires_at`.
    pub undo_until: UnixSeconds,
    /// The trust root that the operator signed under.
    pub root_version: u64,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

impl Statement for Plan {
    const TYPE: PayloadType = PayloadType::SagaPlan;
}

/// An ed25519 public key, as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(#[serde(with = "hex_key")] pub [u8; 32]);

/// What a saga is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something new comes to be.
    Provision,
    /// Something stops for a while.
    Suspend,
    /// Something goes for good.
    Offboard,
    /// Something changes.
    Update,
    /// Something becomes what it was.
    Rollback,
    /// Somebody tries something out.
    Test,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] = [Kind::Provision, Kind::Suspend, Kind::Offboard, Kind::Update, Kind::Rollback, Kind::Test];

    /// The kind as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Provision => "provision",
            Kind::Suspend => "suspend",
            Kind::Offboard => "offboard",
            Kind::Update => "update",
            Kind::Rollback => "rollback",
            Kind::Test => "test",
        }
    }

    /// The kind behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique in the plan.
    pub name: String,
    /// Steps of one group run side by side; 0, and never less than the group of the step before, nor more than one more.
    pub group: u32,
    /// What it does.
    pub run: Task,
    /// What undoes it; `None` when there is nothing to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Task>,
    /// It cannot be undone: only such steps may follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub irreversible: bool,
    /// What must hold before it begins; it waits for that within its time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
}

/// One side of a step: what is done, and how often and how long it is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What is done.
    pub act: Act,
    /// How often it is tried at most, from 1.
    pub attempts: u32,
    /// How long to wait before the second try, in seconds; twice that before the third, and so on, up to an hour.
    pub backoff_s: u64,
    /// How long one try may be without an answer until an operator is told, in seconds.
    pub timeout_s: u64,
}

/// What a step does, or what undoes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// An operation on a host.
    Host(HostAct),
    /// Something that the hub does with what was signed.
    Hub(HubAct),
    /// Something that the hub does in a cloud.
    Cloud(CloudAct),
}

/// An operation on a host. Each try is an order that was signed with the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAct {
    /// The host, one of [`Plan::hosts`].
    pub host: HostName,
    /// The resource.
    pub resource: ResourceId,
    /// What is done; see [`crate::op::Act`].
    pub kind: String,
    /// How.
    pub params: Value,
    /// The payload hashes of the orders, one for each try.
    pub orders: Vec<String>,
    /// Only that of the resource's incarnations is meant which this step made: the host's own record of it says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// What the hub does itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HubAct {
    /// Takes in a revision that was signed with the plan. Another push in between makes it fail.
    Push {
        /// The topology.
        topology: TopologyId,
        /// The revision that it becomes.
        generation: Generation,
        /// The payload hash of its source.
        source: String,
    },
    /// Waits until hosts have applied a revision.
    Applied {
        /// The topology.
        topology: TopologyId,
        /// The revision; a newer one counts as well.
        generation: Generation,
        /// The hosts.
        hosts: BTreeSet<HostName>,
    },
    /// Makes sure that no other host has the name of one that is to join by a token. What undoes it removes that one.
    Expect {
        /// Its name.
        host: HostName,
        /// The public id of the token.
        token: String,
    },
    /// Notes that a host that was not known when this was signed is there; waiting for it is a condition's.
    Joined(NewHost),
    /// Removes the host that joined by a token, with what it left. One that never did needs no removal.
    Forget {
        /// Its name.
        host: HostName,
        /// The public id of the token; `None`: whichever host has the name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
}

/// A host that was not known when the plan was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    /// Its name.
    pub host: HostName,
    /// The public id of the token that it joins by.
    pub token: String,
    /// Whether it must have applied a slice of the newest revision as well, and there must be one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub converged: bool,
}

/// What must hold before a step begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// The host is connected to the hub.
    Connected(HostName),
    /// A host that was not known when this was signed has joined by a token, is bound by an operator, and is connected.
    Joined(NewHost),
    /// It is not before this moment.
    After(UnixSeconds),
    /// The newest revision of a topology is this one.
    Newest {
        /// The topology.
        topology: TopologyId,
        /// Its generation.
        generation: Generation,
    },
}

/// Which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What it does.
    Do,
    /// What undoes it.
    Undo,
}

impl Side {
    /// The side as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Do => "do",
            Side::Undo => "undo",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an order says of the saga that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfSaga {
    /// The saga.
    pub saga_id: SagaId,
    /// The step.
    pub step: StepNumber,
    /// Which side of it.
    pub side: Side,
    /// Which try, from 1.
    pub attempt: u32,
}

impl OfSaga {
    /// The idempotency key of the order: no other may have it.
    ///
    /// # Errors
    /// [`Code::BadParams`] never for what [`Plan::check`] took.
    pub fn key(&self) -> Result<IdempotencyKey, Fault> {
        let text = format!("saga:{}/{}/{}/{}", self.saga_id, self.step, self.side, self.attempt);
        IdempotencyKey::parse(text).map_err(|e| Fault::new(Code::BadParams, e.to_string()))
    }
}

impl Step {
    /// One side of it.
    #[must_use]
    pub fn task(&self, side: Side) -> Option<&Task> {
        match side {
            Side::Do => Some(&self.run),
            Side::Undo => self.undo.as_ref(),
        }
    }
}

impl Act {
    /// What is done on a host, if it is.
    #[must_use]
    pub const fn host(&self) -> Option<&HostAct> {
        match self {
            Act::Host(act) => Some(act),
            Act::Hub(_) | Act::Cloud(_) => None,
        }
    }
}

impl Plan {
    /// One side of a step.
    #[must_use]
    pub fn task(&self, step: StepNumber, side: Side) -> Option<&Task> {
        self.steps.get(step)?.task(side)
    }

    /// What that does on a host, if it does.
    #[must_use]
    pub fn host_act(&self, step: StepNumber, side: Side) -> Option<&HostAct> {
        self.task(step, side)?.act.host()
    }

    /// The id of one of its hosts.
    #[must_use]
    pub fn host_id(&self, host: &HostName) -> Option<HostId> {
        self.hosts.get(host).map(|key| HostId::of_key(&key.0))
    }

    /// The steps of a group with their numbers.
    pub fn group(&self, group: u32) -> impl Iterator<Item = (StepNumber, &Step)> {
        self.steps.iter().enumerate().filter(move |(_, step)| step.group == group)
    }

    /// How many groups there are.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.steps.last().map_or(0, |step| step.group.saturating_add(1))
    }

    /// The number of the step of that name.
    #[must_use]
    pub fn step_named(&self, name: &str) -> Option<StepNumber> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// Every side of every step, in order.
    pub fn tasks(&self) -> impl Iterator<Item = (StepNumber, Side, &Task)> {
        let both = |(number, step)| [Side::Do, Side::Undo].map(|side| (number, side, Step::task(step, side)));
        self.steps.iter().enumerate().flat_map(both).filter_map(|(number, side, task)| Some((number, side, task?)))
    }
}
