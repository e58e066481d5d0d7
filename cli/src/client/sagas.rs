//! Sagas as the hub shows them. Only the envelopes have authority.

use std::collections::BTreeMap;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::SagaId;
use moorline_common::saga::{Kind, Plan, Status};
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_proto::v1 as pb;
use prost::Message as _;
use serde::Serialize;

use super::{Client, Hub};
use crate::clock;
use crate::error::Failure;
use crate::render::visible;
use crate::revision::SignedRevision;
use crate::saga::seal::Sealed;

/// One saga as the hub shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SagaFacts {
    /// Its id.
    pub saga_id: SagaId,
    /// The definition that it was built from.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// What it belongs to.
    pub deployment: String,
    /// `operator`, or `system:` and a reason.
    pub triggered_by: String,
    /// Where it stands.
    pub status: Status,
    /// Who handed it in.
    pub started_by: String,
    /// When, by the hub's clock.
    pub started: String,
    /// When it last changed, by the hub's clock.
    pub changed: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// What the definition was given.
    pub inputs: BTreeMap<String, String>,
    /// What came of its steps.
    pub outputs: BTreeMap<String, String>,
    /// Why it goes on by itself no more; empty while it does.
    pub stuck: String,
    /// The command that resolves that.
    pub remedy: String,
    /// How many steps it has.
    pub step_count: u32,
    /// How many of them are done, undone or taken out.
    pub steps_over: u32,
    /// How many groups of steps have begun.
    pub groups_begun: u32,
    /// Its steps; not in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepFacts>,
    /// What happened to it, the oldest first; not in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<SagaFact>,
    /// When it was handed in, in milliseconds since 1970 by the hub's clock.
    pub started_unix_ms: u64,
    /// When it last changed.
    pub changed_unix_ms: u64,
    /// The signed plan; not in lists.
    #[serde(skip)]
    pub plan: Option<Envelope>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepFacts {
    /// Its name.
    pub name: String,
    /// Steps of one group run side by side.
    pub group: u32,
    /// `pending`, `running`, `completed`, `failed`, `compensated` or `skipped`.
    pub status: String,
    /// Whether it cannot be undone.
    pub irreversible: bool,
    /// What it does.
    #[serde(rename = "do")]
    pub run: LineFacts,
    /// What undoes it.
    pub undo: Option<LineFacts>,
}

/// One side of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LineFacts {
    /// What is done, for people.
    pub what: String,
    /// `idle`, `under`, `silent`, `doubt`, `again`, `done`, `failed` or `skipped`.
    pub phase: String,
    /// How many tries have begun.
    pub attempt: u32,
    /// How many are allowed.
    pub allowed: u32,
    /// When this last changed, in milliseconds since 1970; 0 before anything happened.
    pub at_unix_ms: u64,
    /// When the answer is late or the next try begins; 0 for never.
    pub due_unix_ms: u64,
    /// Why it did not succeed, or what it waits for.
    pub fault: Option<Fault>,
    /// What came of it, as JSON.
    pub output: String,
    /// The operation of the last try.
    pub op_id: String,
}

/// Something that happened to a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SagaFact {
    /// When, in milliseconds since 1970 by the hub's clock.
    pub at_unix_ms: u64,
    /// What, for people.
    pub what: String,
}

/// Which sagas are listed.
#[derive(Debug, Clone, Default)]
pub struct SagaFilter {
    /// Only those that stand so.
    pub status: Option<Status>,
    /// Only those of this kind.
    pub kind: Option<Kind>,
    /// Only those of this deployment.
    pub deployment: String,
    /// At most so many.
    pub limit: u32,
}

fn malformed(e: &dyn std::fmt::Display) -> Fault {
    Fault::new(Code::BadEnvelope, format!("the hub sent a malformed saga: {e}"))
}

fn newer(what: &str, word: &str) -> Fault {
    Fault::new(Code::UnsupportedVersion, format!("the hub calls {what} of a saga `{}`, which is not known here", visible(word)))
}

impl From<pb::SagaLine> for LineFacts {
    fn from(line: pb::SagaLine) -> Self {
        Self {
            what: visible(&line.what),
            phase: visible(&line.phase),
            attempt: line.attempt,
            allowed: line.allowed,
            at_unix_ms: line.at_unix_ms,
            due_unix_ms: line.due_unix_ms,
            fault: line.fault.filter(|fault| !fault.code.is_empty()).map(Fault::from),
            output: visible(&line.output),
            op_id: visible(&line.op_id),
        }
    }
}

impl From<pb::SagaStep> for StepFacts {
    fn from(step: pb::SagaStep) -> Self {
        Self {
            name: visible(&step.name),
            group: step.group,
            status: visible(&step.status),
            irreversible: step.irreversible,
            run: step.run.map(LineFacts::from).unwrap_or_default(),
            undo: step.undo.map(LineFacts::from),
        }
    }
}

impl TryFrom<pb::Saga> for SagaFacts {
    type Error = Fault;

    fn try_from(saga: pb::Saga) -> Result<Self, Fault> {
        let shown = |map: BTreeMap<String, String>| map.into_iter().map(|(key, value)| (visible(&key), visible(&value))).collect();
        Ok(Self {
            saga_id: SagaId::parse(saga.saga_id).map_err(|e| malformed(&e))?,
            name: visible(&saga.name),
            kind: Kind::parse(&saga.kind).ok_or_else(|| newer("the kind", &saga.kind))?,
            deployment: visible(&saga.deployment),
            triggered_by: visible(&saga.triggered_by),
            status: Status::parse(&saga.status).ok_or_else(|| newer("the status", &saga.status))?,
            started_by: visible(&saga.started_by),
            started: clock::rfc3339(saga.started_unix_ms),
            changed: clock::rfc3339(saga.changed_unix_ms),
            reason: visible(&saga.reason),
            inputs: shown(saga.inputs.into_iter().collect()),
            outputs: shown(saga.outputs.into_iter().collect()),
            stuck: visible(&saga.stuck),
            remedy: visible(&saga.remedy),
            step_count: saga.step_count,
            steps_over: saga.steps_over,
            groups_begun: saga.groups_begun,
            steps: saga.steps.into_iter().map(StepFacts::from).collect(),
            timeline: saga.timeline.into_iter().map(|fact| SagaFact { at_unix_ms: fact.at_unix_ms, what: visible(&fact.what) }).collect(),
            started_unix_ms: saga.started_unix_ms,
            changed_unix_ms: saga.changed_unix_ms,
            plan: saga.plan.filter(|plan| !plan.json.is_empty()).map(Envelope::try_from).transpose()?,
        })
    }
}

impl SagaFacts {
    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.status.is_final() || matches!(self.status, Status::Stuck)
    }
}

impl Client {
    /// Hands in a saga; gives it back as it is now, and whether the hub had it before.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn start_saga(&self, sealed: &Sealed, revisions: &[&SignedRevision]) -> Result<(SagaFacts, bool), Failure> {
        let request = pb::StartSagaRequest {
            plan: Some((&sealed.envelope).into()),
            orders: sealed.orders.iter().map(Into::into).collect(),
            revisions: revisions.iter().map(|revision| wire(revision)).collect(),
            boots: sealed.boots.iter().map(|text| text.clone().into_bytes()).collect(),
        };
        let (bytes, most) = (request.encoded_len(), moorline_proto::OPERATOR_MESSAGE_MAX);
        if bytes > most {
            let message = format!("the saga with its orders and revisions has {bytes} bytes, the hub takes {most}; nothing was sent");
            return Err(Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("split it into several sagas"));
        }
        let answer = self.hub.call(|mut rpc| async move { rpc.start_saga(request).await }).await.map_err(unknown_to)?;
        Ok((asked_for(required(answer.saga)?, &sealed.plan.saga_id)?, answer.known))
    }

    /// Sagas, newest first, without their steps.
    ///
    /// # Errors
    /// When the call fails or the answer is malformed.
    pub async fn sagas(&self, filter: &SagaFilter) -> Result<Vec<SagaFacts>, Failure> {
        let request = pb::ListSagasRequest {
            status: filter.status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
            kind: filter.kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
            deployment: filter.deployment.clone(),
            limit: filter.limit,
        };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_sagas(request).await }).await.map_err(unknown_to)?;
        Ok(answer.sagas.into_iter().map(SagaFacts::try_from).collect::<Result<_, _>>()?)
    }

    /// One saga with its steps and its plan.
    ///
    /// # Errors
    /// [`Code::NotFound`] when the hub has none of this id.
    pub async fn saga(&self, saga_id: &SagaId) -> Result<SagaFacts, Failure> {
        let request = pb::GetSagaRequest { saga_id: saga_id.to_string() };
        let answer = self.hub.call(|mut rpc| async move { rpc.get_saga(request).await }).await.map_err(unknown_to)?;
        Ok(asked_for(required(answer.saga)?, saga_id)?)
    }

    /// One saga as it is now, then at each change until it has ended.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn watch_saga(&self, saga_id: &SagaId) -> Result<SagaWatch, Failure> {
        let request = pb::WatchSagaRequest { saga_id: saga_id.to_string() };
        let stream = self.hub.call(|mut rpc| async move { rpc.watch_saga(request).await }).await.map_err(unknown_to)?;
        Ok(SagaWatch { saga_id: saga_id.clone(), stream, hub: self.hub.clone() })
    }

    /// Hands in a signed word on a saga with the orders that it names.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn act_on_saga(&self, saga_id: &SagaId, word: &Envelope, orders: &[Envelope]) -> Result<SagaFacts, Failure> {
        let request = pb::ActOnSagaRequest { word: Some(word.into()), orders: orders.iter().map(Into::into).collect() };
        let answer = self.hub.call(|mut rpc| async move { rpc.act_on_saga(request).await }).await.map_err(unknown_to)?;
        Ok(asked_for(required(answer.saga)?, saga_id)?)
    }

    /// The plan of a saga that the hub shows, as operators of this trust root signed it.
    ///
    /// # Errors
    /// What is wrong with its signatures; [`Code::Equivocation`] for another saga's plan; [`Code::NotFound`] when none is shown.
    pub fn plan_of(&self, saga: &SagaFacts) -> Result<Verified<Plan>, Fault> {
        let Some(envelope) = &saga.plan else {
            return Err(Fault::new(Code::NotFound, "the hub shows no plan of it"));
        };
        let plan = self.root.verify_plan(Signed::<Plan>::new(envelope.clone())?)?;
        if plan.statement().saga_id != saga.saga_id {
            let message = format!("the hub shows the plan of saga {} in the place of {}'s", plan.statement().saga_id, saga.saga_id);
            return Err(Fault::new(Code::Equivocation, message));
        }
        Ok(plan)
    }
}

fn wire(revision: &SignedRevision) -> pb::SagaRevision {
    pb::SagaRevision {
        source: Some((&revision.source).into()),
        slices: revision.slices.values().map(|slice| (&slice.envelope).into()).collect(),
    }
}

fn unknown_to(failure: Failure) -> Failure {
    if failure.is(Code::UnsupportedVersion) {
        return failure.with_remedy("the hub is older than sagas: update it");
    }
    if failure.is(Code::NotFound) {
        return failure.with_remedy("list what there is with `moorctl saga ls`; ids are never shortened");
    }
    failure
}

fn required(saga: Option<pb::Saga>) -> Result<SagaFacts, Failure> {
    let saga = saga.ok_or_else(|| Fault::new(Code::BadEnvelope, "the hub answered without the saga"))?;
    Ok(SagaFacts::try_from(saga)?)
}

fn asked_for(saga: SagaFacts, saga_id: &SagaId) -> Result<SagaFacts, Fault> {
    if saga.saga_id == *saga_id {
        return Ok(saga);
    }
    Err(Fault::new(Code::BadEnvelope, format!("asked the hub for saga {saga_id}, got {}", saga.saga_id)))
}

/// A saga's news as they come.
pub struct SagaWatch {
    saga_id: SagaId,
    stream: tonic::Streaming<pb::Saga>,
    hub: Hub,
}

impl SagaWatch {
    /// The next; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<SagaFacts>, Failure> {
        match self.stream.message().await {
            Ok(Some(saga)) => Ok(Some(asked_for(SagaFacts::try_from(saga)?, &self.saga_id)?)),
            Ok(None) => Ok(None),
            Err(status) => Err(self.hub.failure(&status)),
        }
    }
}
