//! Sagas for operators. Plans, orders and words are signed: they are checked here so that nonsense is refused early; the agents
//! remain the judges.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{SagaId, sha256_hex};
use moorline_common::op::OP_SKEW_S;
use moorline_common::saga::{
    Act, Event, HostAct, HubAct, Kind as SagaKind, Line, OfSaga, PLAN_MAX, Phase, Plan, Side, State, Status as SagaStatus, Step,
    StepNumber, Task, Verb, Word,
};
use moorline_common::sign::Signed;
use moorline_common::statement::TopologyStatement;
use moorline_proto::v1 as pb;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{checks, fault_status, ops, store_status, wire};
use crate::auth::Actor;
use crate::cloud::budgets::USER_DATA_MAX;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::saga::act::request;
use crate::saga::news;
use crate::store::{NewSaga, SagaAdvance, SagaChange, SagaOrder, SagaQuery, SagaRecord, StoreError};

/// One saga's news for one caller.
pub type SagaStream = Pin<Box<dyn Stream<Item = Result<pb::Saga, Status>> + Send>>;

/// How often an operator's word is tried on a saga that moves on meanwhile.
const WORD_TRIES: u32 = 16;

/// A saga's id as a caller gave it.
pub(super) fn id(text: String) -> Result<SagaId, Status> {
    SagaId::parse(text).map_err(|e| fault_status(wire::invalid(e.to_string())))
}

fn bad(what: impl Into<String>) -> Fault {
    Fault::new(Code::BadSaga, what)
}

/// Stores a saga, and lets it begin.
pub(super) async fn start(hub: &Hub, actor: &Actor, wanted: pb::StartSagaRequest) -> Result<pb::StartSagaResponse, Fault> {
    let json = wire::json(wanted.plan, "plan")?;
    if json.len() > PLAN_MAX {
        return Err(Fault::new(Code::TooLarge, format!("the plan has {} bytes; at most {PLAN_MAX} are taken", json.len())));
    }
    let root = hub.newest_root().await?;
    let verified = root.verify_plan(Signed::<Plan>::from_json(&json)?)?;
    let plan = verified.statement();
    root.check_reach(verified.signers(), plan)?;
    let now = hub.clock.unix_s();
    if now > plan.expires_at.plus(OP_SKEW_S) {
        return Err(Fault::new(Code::Expired, "the plan's last moment has passed; start the saga anew"));
    }
    if plan.not_before > now.plus(OP_SKEW_S) {
        return Err(Fault::new(Code::NotYetValid, "the plan was signed in the future; check this machine's clock and the hub's"));
    }
    let mut planned = BTreeMap::new();
    for (step, side, task) in plan.tasks() {
        for (at, hash) in task.act.host().map_or(&[][..], |act| act.orders.as_slice()).iter().enumerate() {
            let of = OfSaga { saga_id: plan.saga_id.clone(), step, side, attempt: u32::try_from(at + 1).unwrap_or(u32::MAX) };
            if planned.insert(hash.clone(), of).is_some() {
                return Err(bad(format!("step {}, {side}: its order stands in the plan twice", step + 1)));
            }
        }
    }
    let orders = self::orders(hub, actor, plan, planned, wanted.orders).await?;
    let mut parts = self::revisions(hub, actor, plan, wanted.revisions).await?;
    parts.extend(boots(plan, wanted.boots)?);
    let reason = if plan.reason.is_empty() { String::new() } else { format!(": {}", plan.reason) };
    let words = format!("saga {} (`{}`, {}, {} steps){reason}", plan.saga_id, plan.name, plan.kind, plan.steps.len());
    let payload_sha256 = verified.envelope().payload_sha256();
    let event = NewEvent::new(Kind::SagaStarted, actor.clone(), words).body(&payload_sha256);
    let new = NewSaga {
        saga_id: plan.saga_id.clone(),
        name: plan.name.clone(),
        kind: plan.kind,
        deployment: plan.deployment.clone(),
        triggered_by: plan.triggered_by.clone(),
        reason: plan.reason.clone(),
        plan: verified.envelope().to_json(),
        payload_sha256,
        state: State::new(plan),
        started_by: actor.subject.clone(),
        orders,
        parts,
    };
    let (record, known) = hub.store.start_saga(new, event).await.map_err(StoreError::into_fault)?;
    if !known {
        tracing::info!(actor = actor.subject, saga_id = %record.saga_id, name = record.name, "saga started");
        hub.sagas.wake();
    }
    Ok(pb::StartSagaResponse { saga: Some(get(hub, &record.saga_id).await?), known })
}

/// The orders that were `planned`, each handed in once, and nothing else.
async fn orders(
    hub: &Hub,
    actor: &Actor,
    plan: &Plan,
    mut planned: BTreeMap<String, OfSaga>,
    given: Vec<pb::Envelope>,
) -> Result<Vec<SagaOrder>, Fault> {
    let mut orders = Vec::with_capacity(given.len());
    for envelope in given {
        let ops::Checked { op, order, .. } = ops::check(hub, actor, &envelope.json).await?;
        let Some(of) = planned.remove(&op.payload_sha256) else {
            return Err(bad(format!("operation {} was handed in and is not in the plan, or was handed in twice", op.op_id)));
        };
        let until = match of.side {
            Side::Do => plan.expires_at,
            Side::Undo => plan.undo_until,
        };
        let is_same = plan.host_act(of.step, of.side).is_some_and(|act| is_meant(hub, plan, act, &order.statement));
        if order.statement.saga.as_ref() != Some(&of) || !is_same || order.statement.expires_at > until {
            return Err(bad(format!("step {}, {}: operation {} is not what the plan says", of.step + 1, of.side, op.op_id)));
        }
        orders.push(SagaOrder { payload_sha256: op.payload_sha256, op_id: op.op_id, envelope: op.envelope });
    }
    match planned.into_values().next() {
        Some(of) => Err(bad(format!("step {}, {}: the order for try {} was not handed in", of.step + 1, of.side, of.attempt))),
        None => Ok(orders),
    }
}

fn is_meant(hub: &Hub, plan: &Plan, act: &HostAct, order: &moorline_common::op::OpStatement) -> bool {
    let (name, _) = hub.fleet.name(&order.host_id);
    plan.host_id(&act.host).as_ref() == Some(&order.host_id)
        && name == act.host.as_str()
        && act.resource == order.resource
        && act.kind == order.kind
        && act.params == order.params
}

/// The revisions that the plan names, each handed in once and well formed.
async fn revisions(hub: &Hub, actor: &Actor, plan: &Plan, given: Vec<pb::SagaRevision>) -> Result<Vec<(String, Vec<u8>)>, Fault> {
    let mut planned: BTreeMap<&str, (StepNumber, &HubAct)> = BTreeMap::new();
    for (step, _, task) in plan.tasks() {
        if let Act::Hub(act @ HubAct::Push { source, .. }) = &task.act
            && planned.insert(source, (step, act)).is_some()
        {
            return Err(bad(format!("step {}: its revision stands in the plan twice", step + 1)));
        }
    }
    let mut revisions = Vec::with_capacity(given.len());
    for revision in given {
        let body = revision.encode_to_vec();
        let push = request(revision)?;
        let source = push.source.as_ref().map(|source| Signed::<TopologyStatement>::from_json(&source.json)).transpose()?;
        let hash = source.map(|source| source.envelope().payload_sha256()).unwrap_or_default();
        let topology = wire::topology(&push.topology)?;
        let base = moorline_common::id::Generation(push.base_generation);
        let is_planned = match planned.remove(hash.as_str()) {
            Some((_, HubAct::Push { topology: t, generation, .. })) => *t == topology && *generation == base.next(),
            Some((_, HubAct::Applied { .. } | HubAct::Joined(_) | HubAct::Expect { .. } | HubAct::Forget { .. })) | None => false,
        };
        if !is_planned {
            return Err(bad(format!("a revision of `{topology}` was handed in that the plan does not name so")));
        }
        checks::revision(hub, &topology, base, push.source, push.slices, Vec::new(), actor).await?;
        revisions.push((hash, body));
    }
    match planned.into_values().next() {
        Some((step, _)) => Err(bad(format!("step {}: its revision was not handed in", step + 1))),
        None => Ok(revisions),
    }
}

/// What the plan says that first boots are told, each handed in once.
fn boots(plan: &Plan, given: Vec<Vec<u8>>) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let mut planned = plan.boots();
    let mut boots = BTreeMap::new();
    for text in given {
        if text.len() > USER_DATA_MAX || !text.is_ascii() {
            return Err(bad(format!("what a first boot is told is at most {USER_DATA_MAX} bytes of plain ASCII")));
        }
        let hash = sha256_hex(&text);
        if !planned.remove(hash.as_str()) {
            return Err(bad("what a first boot is told was handed in and is not in the plan, or was handed in twice"));
        }
        boots.insert(hash, text);
    }
    if planned.is_empty() { Ok(boots) } else { Err(bad("what a first boot is told was not handed in")) }
}

/// Takes an operator's word.
pub(super) async fn act(hub: &Hub, actor: &Actor, wanted: pb::ActOnSagaRequest) -> Result<pb::ActOnSagaResponse, Fault> {
    let json = wire::json(wanted.word, "word")?;
    let root = hub.newest_root().await?;
    let verified = root.verify_word(Signed::<Word>::from_json(&json)?)?;
    let word = verified.statement();
    for _ in 0..WORD_TRIES {
        let record = hub.store.saga(word.saga_id.clone()).await.map_err(StoreError::into_fault)?;
        let record = record.ok_or_else(|| none(&word.saga_id))?;
        let plan = Signed::<Plan>::from_json(&record.plan)?.peek()?;
        root.check_reach(verified.signers(), &plan)?;
        let mut state = record.state.clone();
        let orders = further(hub, actor, &plan, &state, word, &wanted.orders).await?;
        let event = Event::Said(word.verb.clone());
        state.apply(&plan, &event, hub.clock.unix_ms())?;
        let status = state.status(&plan);
        let reason = if word.reason.is_empty() { String::new() } else { format!(": {}", word.reason) };
        let words = format!("saga {}: {}{reason}", word.saga_id, event.words(&plan, &state));
        let said = NewEvent::new(Kind::SagaActed, actor.clone(), words).body(verified.envelope().payload_sha256());
        let change = SagaChange {
            saga_id: word.saga_id.clone(),
            fence: None,
            seen: record.revision,
            status,
            facts: vec![format!("{} ({}){reason}", event.words(&plan, &state), actor.subject)],
            submit: Vec::new(),
            word: Some(verified.envelope().to_json()),
            orders,
            events: [vec![said], news(&plan, &state, record.status, status)].concat(),
            state,
        };
        match hub.store.change_saga(change).await.map_err(StoreError::into_fault)? {
            SagaAdvance::Done { revision } => {
                hub.sagas.changed(&word.saga_id, revision);
                return Ok(pb::ActOnSagaResponse { saga: Some(get(hub, &word.saga_id).await?) });
            }
            SagaAdvance::Moved => {}
            SagaAdvance::Lost => {
                return Err(Fault::new(
                    Code::PreconditionFailed,
                    format!("saga {} has ended; nothing about it changes any more", word.saga_id),
                ));
            }
        }
    }
    Err(Fault::new(Code::Busy, "the saga moves too fast; say it again"))
}

/// The orders that a `retry` names.
async fn further(
    hub: &Hub,
    actor: &Actor,
    plan: &Plan,
    state: &State,
    word: &Word,
    given: &[pb::Envelope],
) -> Result<Vec<SagaOrder>, Fault> {
    let mut planned = BTreeMap::new();
    if let Verb::Retry { step, side, orders } = &word.verb
        && let (Some(task), Some(line)) = (plan.task(*step, *side), state.line(*step, *side))
    {
        let first = line.allowed(task).saturating_add(1);
        for (at, hash) in orders.iter().enumerate() {
            let attempt = first.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
            planned.insert(hash.clone(), OfSaga { saga_id: plan.saga_id.clone(), step: *step, side: *side, attempt });
        }
    }
    orders(hub, actor, plan, planned, given.to_vec()).await
}

fn none(saga_id: &SagaId) -> Fault {
    Fault::new(Code::NotFound, format!("there is no saga {saga_id}"))
}

/// Lists sagas.
pub(super) async fn list(hub: &Hub, wanted: pb::ListSagasRequest) -> Result<pb::ListSagasResponse, Status> {
    let unknown = |what: &str, text: &str| fault_status(wire::invalid(format!("`{}` is no {what} of a saga", wire::short(text))));
    let status = match wanted.status.as_str() {
        "" => None,
        text => Some(SagaStatus::parse(text).ok_or_else(|| unknown("status", text))?),
    };
    let kind = match wanted.kind.as_str() {
        "" => None,
        text => Some(SagaKind::parse(text).ok_or_else(|| unknown("kind", text))?),
    };
    let query = SagaQuery {
        status,
        kind,
        deployment: Some(wanted.deployment).filter(|deployment| !deployment.is_empty()),
        limit: if wanted.limit == 0 { limits::SAGAS_DEFAULT } else { wanted.limit.min(limits::SAGAS_MAX) },
    };
    let records = hub.store.sagas(query).await.map_err(store_status)?;
    let sagas = records.iter().map(|record| {
        let plan = Signed::<Plan>::from_json(&record.plan).and_then(|signed| signed.peek());
        plan.map(|plan| brief(record, &plan)).map_err(fault_status)
    });
    Ok(pb::ListSagasResponse { sagas: sagas.collect::<Result<_, Status>>()? })
}

/// One saga with all that there is of it.
pub(super) async fn get(hub: &Hub, saga_id: &SagaId) -> Result<pb::Saga, Fault> {
    let record = hub.store.saga(saga_id.clone()).await.map_err(StoreError::into_fault)?.ok_or_else(|| none(saga_id))?;
    let plan = Signed::<Plan>::from_json(&record.plan)?.peek()?;
    let facts = hub.store.saga_facts(saga_id.clone()).await.map_err(StoreError::into_fault)?;
    let words = hub.store.saga_words(saga_id.clone()).await.map_err(StoreError::into_fault)?;
    let mut steps = Vec::with_capacity(plan.steps.len());
    for (number, step) in plan.steps.iter().enumerate() {
        steps.push(shown_step(hub, &record, number, step).await?);
    }
    let envelope = |json| pb::Envelope { json };
    Ok(pb::Saga {
        steps,
        timeline: facts.into_iter().map(|(at_unix_ms, what)| pb::SagaFact { at_unix_ms, what }).collect(),
        words: words.into_iter().map(envelope).collect(),
        plan: Some(envelope(record.plan.clone())),
        ..brief(&record, &plan)
    })
}

async fn shown_step(hub: &Hub, record: &SagaRecord, number: StepNumber, step: &Step) -> Result<pb::SagaStep, Fault> {
    let Some(state) = record.state.steps.get(number) else {
        return Err(Fault::new(Code::Internal, "the store holds a saga with fewer steps than its plan"));
    };
    let run = shown_line(hub, record, &step.run, &state.run).await?;
    let undo = match &step.undo {
        Some(task) => Some(shown_line(hub, record, task, &state.undo).await?),
        None => None,
    };
    Ok(pb::SagaStep {
        name: step.name.clone(),
        group: step.group,
        status: state.status().as_str().to_owned(),
        irreversible: step.irreversible,
        run: Some(run),
        undo,
    })
}

async fn shown_line(hub: &Hub, record: &SagaRecord, task: &Task, line: &Line) -> Result<pb::SagaLine, Fault> {
    let order = match line.order(task, line.attempt) {
        Some(hash) => hub.store.saga_order(record.saga_id.clone(), hash.to_owned()).await.map_err(StoreError::into_fault)?,
        None => None,
    };
    let waits = matches!(line.phase, Phase::Under | Phase::Again) || line.phase == Phase::Idle && line.fault.is_some();
    Ok(pb::SagaLine {
        what: task.words(),
        phase: line.phase.as_str().to_owned(),
        attempt: line.attempt,
        allowed: line.allowed(task),
        at_unix_ms: line.at_ms,
        due_unix_ms: if waits { line.due_ms } else { 0 },
        fault: line.fault.clone().map(pb::Fault::from),
        output: if line.output.is_null() { String::new() } else { line.output.to_string() },
        op_id: order.map(|order| order.op_id.into()).unwrap_or_default(),
    })
}

fn brief(record: &SagaRecord, plan: &Plan) -> pb::Saga {
    let state = &record.state;
    let stuck = state.stuck(plan);
    let is_over = |step: &&moorline_common::saga::StepState| step.run.is_settled() || step.undo.is_settled();
    pb::Saga {
        saga_id: record.saga_id.clone().into(),
        name: record.name.clone(),
        kind: record.kind.as_str().to_owned(),
        deployment: record.deployment.clone(),
        triggered_by: record.triggered_by.clone(),
        status: record.status.as_str().to_owned(),
        started_by: record.started_by.clone(),
        started_unix_ms: record.started_ms,
        changed_unix_ms: record.changed_ms,
        reason: record.reason.clone(),
        inputs: plan.inputs.clone(),
        outputs: outputs(plan, state),
        stuck: stuck.map(|stuck| stuck.words(plan, state)).unwrap_or_default(),
        remedy: stuck.map(|stuck| stuck.remedy(plan)).unwrap_or_default(),
        groups_begun: state.groups_begun(plan),
        step_count: u32::try_from(plan.steps.len()).unwrap_or(u32::MAX),
        steps_over: u32::try_from(state.steps.iter().filter(is_over).count()).unwrap_or(u32::MAX),
        ..pb::Saga::default()
    }
}

/// What came of the steps that are done.
fn outputs(plan: &Plan, state: &State) -> BTreeMap<String, String> {
    let done = plan.steps.iter().zip(&state.steps).filter(|(_, state)| state.run.phase == Phase::Done);
    let values = done.filter_map(|(step, state)| Some((step, state.run.output.as_object()?)));
    let named = values.flat_map(|(step, object)| object.iter().map(move |(key, value)| (format!("{}.{key}", step.name), plain(value))));
    named.collect()
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Follows one saga.
pub(super) async fn watch(hub: &Hub, saga_id: SagaId, not_after_s: u64) -> Result<SagaStream, Status> {
    // Followed before it is read: no change falls in between.
    let changes = hub.sagas.follow(&saga_id).map_err(fault_status)?;
    let now = get(hub, &saga_id).await.map_err(fault_status)?;
    let (tx, rx) = mpsc::channel(1);
    tokio::spawn(follow(hub.clone(), saga_id, changes, now, not_after_s, tx));
    Ok(Box::pin(ReceiverStream::new(rx)))
}

/// Sends a saga as it is and at each change, until it has ended, the caller is gone or its certificate ends.
async fn follow(
    hub: Hub,
    saga_id: SagaId,
    mut changes: watch::Receiver<u64>,
    mut saga: pb::Saga,
    not_after_s: u64,
    tx: mpsc::Sender<Result<pb::Saga, Status>>,
) {
    loop {
        let is_final = SagaStatus::parse(&saga.status).is_none_or(SagaStatus::is_final);
        if tx.send(Ok(saga)).await.is_err() || is_final {
            return;
        }
        let next = tokio::select! {
            () = tx.closed() => return,
            () = hub.stopping.cancelled() => Err(Status::unavailable("the hub is stopping")),
            () = tokio::time::sleep(Duration::from_secs(not_after_s.saturating_sub(hub.clock.unix_s().0))) => {
                Err(Status::unauthenticated("the client certificate has expired; renew it"))
            }
            told = changes.changed() => match told {
                Ok(()) => get(&hub, &saga_id).await.map_err(fault_status),
                Err(_) => return,
            },
        };
        saga = match next {
            Ok(saga) => saga,
            Err(status) => {
                let _ = tx.send(Err(status)).await;
                return;
            }
        };
    }
}
