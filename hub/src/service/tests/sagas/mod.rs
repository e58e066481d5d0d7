//! Sagas on a hub, with hosts that judge by what they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_common::fault::Fault;
use moorline_common::id::{ClusterId, HostName, Nonce, OpId, ResourceId, SagaId};
use moorline_common::op::OpStatement;
use moorline_common::saga::{Act, HostAct, Kind, OfSaga, Plan, PublicKey, Side, Step, StepNumber, Task, Verb, Word, step_by_words};
use moorline_common::sign::Signed;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use serde_json::{Value, json};

use super::{Kit, epoch};
use host::SimHost;

mod acts;
mod cloud;
mod host;
mod suites;

/// How long a whole saga may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A step as tests write it.
#[derive(Clone)]
pub struct Shape {
    /// Its host, by its place in the list.
    pub host: usize,
    pub group: u32,
    pub attempts: u32,
    pub undo: Option<u32>,
    pub irreversible: bool,
    pub timeout_s: u64,
}

impl Shape {
    /// Of that host and group: tried once, and undone by up to three tries.
    pub fn on(host: usize, group: u32) -> Self {
        Self { host, group, attempts: 1, undo: Some(3), irreversible: false, timeout_s: 3600 }
    }
}

/// A saga that is about to be handed in.
pub struct Draft {
    pub plan: Plan,
    pub orders: Vec<pb::Envelope>,
}

/// Fresh ids for one test.
fn fresh() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn saga_id() -> SagaId {
    SagaId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{:012x}", fresh())).unwrap()
}

/// The container that a step of a saga starts.
pub fn resource(saga_id: &SagaId, step: StepNumber) -> String {
    format!("docker/container/s{}-{step}", saga_id.as_str().rsplit('-').next().unwrap())
}

/// An order for one try.
fn order(plan: &Plan, host: &SimHost, of: OfSaga, resource: &str) -> OpStatement {
    OpStatement {
        cluster: ClusterId::parse("one").unwrap(),
        op_id: OpId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{:012x}", fresh())).unwrap(),
        idempotency_key: of.key().unwrap(),
        host_id: host.agent.id(),
        host_epoch: epoch(),
        resource: ResourceId::parse(resource).unwrap(),
        incarnation: None,
        kind: if of.side == Side::Do { "start" } else { "stop" }.to_owned(),
        params: json!({}),
        precondition: None,
        not_before: plan.not_before,
        expires_at: if of.side == Side::Do { plan.expires_at } else { plan.undo_until },
        nonce: Nonce::parse(format!("{:032x}", fresh())).unwrap(),
        root_version: 1,
        reason: String::new(),
        saga: Some(of),
    }
}

impl Kit {
    /// A saga of these steps, signed.
    pub fn draft(&self, hosts: &[SimHost], shapes: &[Shape]) -> Draft {
        let now = self.now();
        let mut plan = Plan {
            cluster: ClusterId::parse("one").unwrap(),
            saga_id: saga_id(),
            name: "try-out".to_owned(),
            kind: Kind::Test,
            deployment: "d".to_owned(),
            triggered_by: "operator".to_owned(),
            inputs: BTreeMap::from([("guest".to_owned(), "101".to_owned())]),
            hosts: hosts.iter().map(|h| (HostName::parse(&h.name).unwrap(), PublicKey(h.agent.host.public()))).collect(),
            steps: Vec::new(),
            not_before: now,
            expires_at: now.plus(7 * 24 * 3600),
            undo_until: now.plus(14 * 24 * 3600),
            root_version: 1,
            reason: "because".to_owned(),
        };
        let mut orders = Vec::new();
        for (number, shape) in shapes.iter().enumerate() {
            let mut task = |side: Side, attempts: u32| {
                let host = &hosts[shape.host];
                let resource = resource(&plan.saga_id, number);
                let hashes = (1..=attempts).map(|attempt| {
                    let of = OfSaga { saga_id: plan.saga_id.clone(), step: number, side, attempt };
                    let signed = Signed::seal(&order(&plan, host, of, &resource), &[&self.key]).unwrap();
                    orders.push(pb::Envelope::from(signed.envelope()));
                    signed.envelope().payload_sha256()
                });
                let act = HostAct {
                    host: HostName::parse(&host.name).unwrap(),
                    resource: ResourceId::parse(&*resource).unwrap(),
                    kind: if side == Side::Do { "start" } else { "stop" }.to_owned(),
                    params: json!({}),
                    orders: hashes.collect(),
                    made_by: None,
                };
                Task { act: Act::Host(act), attempts, backoff_s: 0, timeout_s: shape.timeout_s }
            };
            let run = task(Side::Do, shape.attempts);
            let undo = shape.undo.map(|attempts| task(Side::Undo, attempts));
            let step =
                Step { name: format!("s{number}"), group: shape.group, run, undo, irreversible: shape.irreversible, when: Vec::new() };
            plan.steps.push(step);
        }
        Draft { plan, orders }
    }

    pub async fn start_saga(&self, draft: &Draft) -> Result<pb::StartSagaResponse, Fault> {
        let plan = Signed::seal(&draft.plan, &[&self.key]).unwrap();
        let request = pb::StartSagaRequest {
            plan: Some(pb::Envelope::from(plan.envelope())),
            orders: draft.orders.clone(),
            revisions: Vec::new(),
            boots: Vec::new(),
        };
        self.operator().await.start_saga(request).await.map(tonic::Response::into_inner).map_err(|s| from_status(&s))
    }

    pub async fn saga(&self, saga_id: &SagaId) -> pb::Saga {
        let request = pb::GetSagaRequest { saga_id: saga_id.to_string() };
        self.operator().await.get_saga(request).await.unwrap().into_inner().saga.unwrap()
    }

    /// Waits until the saga looks so.
    pub async fn until_saga(&self, saga_id: &SagaId, so: impl Fn(&pb::Saga) -> bool) -> pb::Saga {
        let mut operator = self.operator().await;
        let request = pb::WatchSagaRequest { saga_id: saga_id.to_string() };
        let mut last = None;
        let waited = tokio::time::timeout(PATIENCE, async {
            let mut stream = operator.watch_saga(request).await.unwrap().into_inner();
            while let Ok(Some(saga)) = stream.message().await {
                if so(&saga) {
                    return Some(saga);
                }
                last = Some(saga);
            }
            None
        });
        let found = waited.await.ok().flatten();
        found.unwrap_or_else(|| panic!("the saga never looked so; it is {:#?}", last.map(|saga| (saga.status, saga.stuck, saga.timeline))))
    }

    pub async fn until_status(&self, saga_id: &SagaId, status: &str) -> pb::Saga {
        self.until_saga(saga_id, |saga| saga.status == status).await
    }

    /// An operator's word.
    pub async fn say(&self, plan: &Plan, hosts: &[SimHost], verb: Verb) -> Result<pb::Saga, Fault> {
        let (verb, orders) = match verb {
            Verb::Retry { step, side, .. } if plan.host_act(step, side).is_none() => {
                (Verb::Retry { step, side, orders: Vec::new() }, Vec::new())
            }
            Verb::Retry { step, side, .. } => {
                let saga = self.saga(&plan.saga_id).await;
                let shown = &saga.steps[step];
                let line = if side == Side::Do { shown.run.clone() } else { shown.undo.clone() }.unwrap();
                let task = plan.task(step, side).unwrap();
                let act = task.act.host().unwrap();
                let host = hosts.iter().find(|host| host.name == act.host.as_str()).unwrap();
                let of = OfSaga { saga_id: plan.saga_id.clone(), step, side, attempt: line.allowed + 1 };
                let signed = Signed::seal(&order(plan, host, of, act.resource.as_str()), &[&self.key]).unwrap();
                let verb = Verb::Retry { step, side, orders: vec![signed.envelope().payload_sha256()] };
                (verb, vec![pb::Envelope::from(signed.envelope())])
            }
            verb @ (Verb::Skip { .. } | Verb::Abort { .. } | Verb::Abandon) => (verb, Vec::new()),
        };
        let word = Word {
            cluster: plan.cluster.clone(),
            saga_id: plan.saga_id.clone(),
            verb,
            issued_at: self.now(),
            nonce: Nonce::parse(format!("{:032x}", fresh())).unwrap(),
            root_version: 1,
            reason: "said".to_owned(),
        };
        let word = Some(pb::Envelope::from(Signed::seal(&word, &[&self.key]).unwrap().envelope()));
        let answer = self.operator().await.act_on_saga(pb::ActOnSagaRequest { word, orders }).await;
        answer.map(|answer| answer.into_inner().saga.unwrap()).map_err(|s| from_status(&s))
    }

    pub async fn abort(&self, plan: &Plan, hosts: &[SimHost]) -> Result<pb::Saga, Fault> {
        let begun = self.saga(&plan.saga_id).await.groups_begun;
        self.say(plan, hosts, Verb::Abort { begun }).await
    }

    /// Does what the saga names as its remedy.
    pub async fn remedy(&self, plan: &Plan, hosts: &[SimHost]) -> Result<pb::Saga, Fault> {
        let remedy = self.saga(&plan.saga_id).await.remedy;
        let command = remedy.rsplit("moorctl saga ").next().unwrap().split_whitespace().collect::<Vec<_>>();
        let side = if command.contains(&"--undo") { Side::Undo } else { Side::Do };
        let step = || step_by_words(plan, command[2]).unwrap();
        match command[0] {
            "abort" => self.abort(plan, hosts).await,
            "retry" => self.say(plan, hosts, Verb::Retry { step: step(), side, orders: Vec::new() }).await,
            "skip" => self.say(plan, hosts, Verb::Skip { step: step(), side }).await,
            other => panic!("no such remedy: {other} in `{remedy}`"),
        }
    }
}

/// What came of a step, as JSON.
pub fn output(saga: &pb::Saga, step: usize) -> Value {
    serde_json::from_str(&saga.steps[step].run.as_ref().unwrap().output).unwrap_or(Value::Null)
}
