//! Plans for tests, and a saga that does what it is told.

use serde_json::{Value, json};

use super::*;
use crate::fault::{Code, Fault};
use crate::id::{ClusterId, Generation, HostName, ResourceId, SagaId, TopologyId, UnixSeconds, sha256_hex};
use crate::testing::key;

mod cloud;
mod evidence;
mod plan;
mod proof;
mod state;
mod stuck;

pub const SAGA: &str = "0197a2b4-1c3d-7e5f-8a6b-0123456789ab";

/// The payload hash of the order for a try.
pub fn order_hash(step: StepNumber, side: Side, attempt: u32) -> String {
    sha256_hex(format!("{step}/{side}/{attempt}").as_bytes())
}

pub fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

/// Of the host `a` to `d`.
pub fn host_key(name: &str) -> crate::sign::PrivateKey {
    key(name.as_bytes()[0])
}

/// An operation on a host: tried `attempts` times, 10 s apart, each with 60 s for an answer.
pub fn on_host(name: &str, kind: &str, attempts: u32) -> Task {
    let resource = ResourceId::parse("docker/container/c").unwrap();
    let act = HostAct { host: host(name), resource, kind: kind.to_owned(), params: json!({}), orders: Vec::new(), made_by: None };
    Task { act: Act::Host(act), attempts, backoff_s: 10, timeout_s: 60 }
}

/// The hub waits until host `a` has applied a revision.
pub fn on_hub(attempts: u32) -> Task {
    let act = HubAct::Applied { topology: TopologyId::parse("t").unwrap(), generation: Generation(1), hosts: [host("a")].into() };
    Task { act: Act::Hub(act), attempts, backoff_s: 10, timeout_s: 60 }
}

/// A step that starts something on a host and stops it to undo that, each tried once.
pub fn step(name: &str, group: u32, on: &str) -> Step {
    Step { run: on_host(on, "start", 1), undo: Some(on_host(on, "stop", 1)), ..bare(name, group, on_hub(1)) }
}

/// A step that leaves nothing to undo.
pub fn bare(name: &str, group: u32, run: Task) -> Step {
    Step { name: name.to_owned(), group, run, undo: None, irreversible: false, when: Vec::new() }
}

/// A step on host `d` that cannot be undone.
pub fn for_good(name: &str, group: u32) -> Step {
    Step { irreversible: true, ..bare(name, group, on_host("d", "start", 1)) }
}

/// The same, tried so often.
pub fn tries(mut step: Step, run: u32, undo: u32) -> Step {
    step.run.attempts = run;
    step.undo.iter_mut().for_each(|task| task.attempts = undo);
    step
}

/// A plan of these steps on the hosts `a` to `d`, with a hash for each order.
pub fn plan(mut steps: Vec<Step>) -> Plan {
    for (number, step) in steps.iter_mut().enumerate() {
        for (side, task) in [(Side::Do, Some(&mut step.run)), (Side::Undo, step.undo.as_mut())] {
            if let Some(Task { act: Act::Host(act), attempts, .. }) = task {
                act.orders = (1..=*attempts).map(|attempt| order_hash(number, side, attempt)).collect();
            }
        }
    }
    Plan {
        cluster: ClusterId::parse("c").unwrap(),
        saga_id: SagaId::parse(SAGA).unwrap(),
        name: "test-plan".to_owned(),
        kind: Kind::Test,
        deployment: String::new(),
        triggered_by: "operator".to_owned(),
        inputs: [("size".to_owned(), "2".to_owned())].into(),
        hosts: ["a", "b", "c", "d"].map(|name| (host(name), PublicKey(host_key(name).public()))).into(),
        steps,
        not_before: UnixSeconds(1000),
        expires_at: UnixSeconds(2000),
        undo_until: UnixSeconds(3000),
        root_version: 1,
        reason: String::new(),
    }
}

pub fn fault(code: Code) -> Fault {
    Fault::new(code, "so it is")
}

pub fn done() -> End {
    End::Succeeded { output: Value::Null }
}

/// It began and failed, and its host signed that.
pub fn failed() -> End {
    End::Failed { fault: fault(Code::OpFailed), effect: true, signed: true, again: true }
}

/// Its host signed that it will never begin.
pub fn refused() -> End {
    End::Failed { fault: fault(Code::PolicyDenied), effect: false, signed: true, again: false }
}

/// The hub says that it failed.
pub fn claimed() -> End {
    End::Failed { fault: fault(Code::Internal), effect: true, signed: false, again: true }
}

pub fn doubt() -> End {
    End::Doubt { fault: fault(Code::Indeterminate) }
}

/// A saga, and what time it is.
pub struct Saga {
    pub plan: Plan,
    pub state: State,
    pub now_ms: u64,
}

impl Saga {
    pub fn new(steps: Vec<Step>) -> Self {
        let plan = plan(steps);
        plan.check().unwrap();
        Self { state: State::new(&plan), plan, now_ms: 0 }
    }

    pub fn try_apply(&mut self, event: &Event) -> Result<(), Illegal> {
        self.state.apply(&self.plan, event, self.now_ms)
    }

    pub fn apply(&mut self, event: &Event) {
        self.try_apply(event).unwrap();
    }

    /// What may begin, in words such as `0 do`.
    pub fn begins(&self) -> Vec<String> {
        self.state.next(&self.plan, self.now_ms).begin.into_iter().map(|(step, side)| format!("{step} {side}")).collect()
    }

    pub fn begin(&mut self, step: StepNumber, side: Side) {
        self.apply(&Event::Begin { step, side });
    }

    pub fn ended(&mut self, step: StepNumber, side: Side, end: End) {
        let attempt = self.state.line(step, side).unwrap().attempt;
        self.apply(&Event::Ended { step, side, attempt, end });
    }

    /// A try from its beginning to its end.
    pub fn tried(&mut self, step: StepNumber, side: Side, end: End) {
        self.begin(step, side);
        self.ended(step, side, end);
    }

    pub fn late(&mut self, step: StepNumber, side: Side) {
        self.apply(&Event::Late { step, side });
    }

    pub fn say(&mut self, verb: Verb) {
        self.apply(&Event::Said(verb));
    }

    pub fn abort(&self) -> Verb {
        Verb::Abort { begun: self.state.groups_begun(&self.plan) }
    }

    /// One more try, with an order if it needs one.
    pub fn retry(&self, step: StepNumber, side: Side) -> Verb {
        let task = self.plan.task(step, side).unwrap();
        let attempt = self.state.line(step, side).unwrap().allowed(task) + 1;
        Verb::Retry { step, side, orders: task.act.host().map(|_| order_hash(step, side, attempt)).into_iter().collect() }
    }

    pub fn status(&self) -> Status {
        self.state.status(&self.plan)
    }

    pub fn stuck(&self) -> Option<StuckWhy> {
        self.state.stuck(&self.plan).map(|stuck| stuck.why)
    }

    /// Where each step stands.
    pub fn steps(&self) -> Vec<&'static str> {
        self.state.steps.iter().map(|step| step.status().as_str()).collect()
    }

    /// The word that a stuck saga's remedy names.
    pub fn remedy(&self) -> Verb {
        let stuck = self.state.stuck(&self.plan).unwrap();
        let text = stuck.remedy(&self.plan);
        let saga = text.rsplit("moorctl saga ").next().unwrap();
        let words: Vec<&str> = saga.split(' ').collect();
        assert_eq!(words[1], SAGA, "{text}");
        let side = if words.contains(&"--undo") { Side::Undo } else { Side::Do };
        let step = words.get(2).map_or(0, |name| step_by_words(&self.plan, name).unwrap());
        match words[0] {
            "abort" => self.abort(),
            "skip" => Verb::Skip { step, side },
            "retry" => self.retry(step, side),
            other => panic!("no such verb: {other}"),
        }
    }
}

/// The order for a try, as it was signed with the plan.
pub fn order(plan: &Plan, step: StepNumber, side: Side, attempt: u32) -> crate::op::Order {
    let act = plan.host_act(step, side).unwrap();
    let of = OfSaga { saga_id: plan.saga_id.clone(), step, side, attempt };
    let read = crate::op::Act::read(&act.kind, &act.params, &act.resource).unwrap();
    let statement = crate::op::OpStatement {
        cluster: plan.cluster.clone(),
        op_id: crate::id::OpId::parse(SAGA).unwrap(),
        idempotency_key: of.key().unwrap(),
        host_id: plan.host_id(&act.host).unwrap(),
        host_epoch: crate::id::HostEpoch::parse("0".repeat(32)).unwrap(),
        resource: act.resource.clone(),
        incarnation: None,
        kind: act.kind.clone(),
        params: act.params.clone(),
        precondition: None,
        not_before: plan.not_before,
        expires_at: plan.expires_at,
        nonce: crate::id::Nonce::parse("0".repeat(32)).unwrap(),
        root_version: 1,
        reason: String::new(),
        saga: Some(of),
    };
    crate::op::Order { class: read.class(&act.resource), act: read, statement, intent: String::new() }
}

/// What the host of a try says of it.
pub fn receipt(
    plan: &Plan,
    step: StepNumber,
    side: Side,
    attempt: u32,
    outcome: crate::op::Outcome,
    code: Option<Code>,
) -> crate::op::Receipt {
    let statement = order(plan, step, side, attempt).statement;
    crate::op::Receipt {
        cluster: statement.cluster,
        host_id: statement.host_id,
        host_epoch: statement.host_epoch,
        op_id: statement.op_id,
        payload_sha256: order_hash(step, side, attempt),
        same_as: None,
        resource: statement.resource,
        kind: statement.kind,
        outcome,
        at: 1,
        fault: code.map(fault),
        result: Value::Null,
        journal_seq: 1,
    }
}

/// An operator's word.
pub fn word(plan: &Plan, verb: Verb) -> Word {
    let nonce = crate::id::Nonce::parse("0".repeat(32)).unwrap();
    let (cluster, saga_id) = (plan.cluster.clone(), plan.saga_id.clone());
    Word { cluster, saga_id, verb, issued_at: UnixSeconds(1), nonce, root_version: 1, reason: String::new() }
}
