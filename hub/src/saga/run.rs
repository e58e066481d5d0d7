//! One saga, from its claim to its end.
//!
//! A runner remembers what it wrote last, and decides by that. Nobody else writes unseen: a write on anything but the newest revision, or
//! under a claim that is over, is refused. What others say wakes it; what nobody here is told of, it reads when its time comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{OpId, SagaId};
use moorline_common::saga::{Act, End, Event, Line, Phase, Plan, Side, State, Status, StepNumber};
use moorline_common::sign::Signed;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::act::{self, Job};
use super::{host, leftovers};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::limits;
use crate::ops::{self, Watch};
use crate::service;
use crate::store::{NewOp, SagaAdvance, SagaChange, StoreError};

/// A try of one side of a step.
type Try = (StepNumber, Side, u32);

/// Runs one saga under one claim.
pub(super) struct Runner {
    hub: Hub,
    saga_id: SagaId,
    fence: u64,
    /// The saga as it was written last, unless somebody else may have changed it since.
    known: Option<Known>,
    /// What the hub does itself, by try.
    own: JoinSet<(Try, End)>,
    /// How some of that ended, until it is stored.
    ended: Vec<(Try, End)>,
    /// Those of it that are under way here, or whose end is not stored.
    begun: BTreeMap<(StepNumber, Side), u32>,
    /// The last tries that were begun here: of others nobody knows what they did.
    fresh: BTreeMap<(StepNumber, Side), u32>,
    /// The operations that are waited for, by the hash of their order.
    watched: BTreeMap<String, Watched>,
}

/// A saga as the store has it.
struct Known {
    plan: Arc<Plan>,
    state: State,
    status: Status,
    revision: u64,
}

/// An operation that is waited for.
struct Watched {
    op_id: OpId,
    watch: Watch,
    /// Whether it may have ended since it was read.
    is_news: bool,
}

impl Watched {
    /// Waits until it may have ended.
    async fn end(&mut self) {
        self.watch.end().await;
        self.is_news = true;
    }
}

/// Why a saga is left alone.
enum Over {
    /// It has ended, or is somebody else's.
    Done,
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Over {
    fn from(error: StoreError) -> Self {
        Over::Store(error)
    }
}

/// What is to be stored together.
struct Draft {
    plan: Arc<Plan>,
    known: Known,
    state: State,
    facts: Vec<String>,
    submit: Vec<(NewOp, NewEvent)>,
}

impl From<Known> for Draft {
    fn from(known: Known) -> Self {
        Self { plan: known.plan.clone(), state: known.state.clone(), known, facts: Vec::new(), submit: Vec::new() }
    }
}

impl Runner {
    pub(super) fn new(hub: Hub, saga_id: SagaId, fence: u64) -> Self {
        Self {
            hub,
            saga_id,
            fence,
            known: None,
            own: JoinSet::new(),
            ended: Vec::new(),
            begun: BTreeMap::new(),
            fresh: BTreeMap::new(),
            watched: BTreeMap::new(),
        }
    }

    /// Runs until the saga has ended or is somebody else's.
    pub(super) async fn run(mut self) {
        loop {
            match self.go_on().await {
                Ok(()) => {}
                Err(Over::Done) => return,
                Err(Over::Store(error)) => {
                    self.forget();
                    tracing::error!(%error, saga_id = %self.saga_id, "a saga cannot go on; it is tried again");
                    tokio::time::sleep(limits::SAGA_STORE_RETRY).await;
                }
            }
        }
    }

    /// Does what is next, and waits for what changes that.
    async fn go_on(&mut self) -> Result<(), Over> {
        let Ok(mut words) = self.hub.sagas.follow(&self.saga_id) else {
            return Err(Over::Store(StoreError::Failed("too many sagas are followed".to_owned())));
        };
        loop {
            let known = match self.known.take() {
                Some(known) => known,
                None => self.read().await?,
            };
            let wake_ms = self.step(Draft::from(known)).await?;
            let Some(wake_ms) = wake_ms else { continue };
            self.wait(&mut words, wake_ms).await;
        }
    }

    /// Whatever is remembered may not be so any more.
    fn forget(&mut self) {
        self.known = None;
        self.watched.values_mut().for_each(|watched| watched.is_news = true);
    }

    async fn read(&self) -> Result<Known, Over> {
        let record = self.hub.store.saga(self.saga_id.clone()).await?.ok_or(Over::Done)?;
        if record.status.is_final() {
            return Err(Over::Done);
        }
        let plan = Signed::<Plan>::from_json(&record.plan).and_then(|signed| signed.peek());
        let plan = plan.map_err(|fault| StoreError::Failed(format!("the plan of saga {} cannot be read: {fault}", self.saga_id)))?;
        Ok(Known { plan: Arc::new(plan), state: record.state, status: record.status, revision: record.revision })
    }

    /// Takes in what is known, begins what is next, and stores both. Gives back when to look again, in milliseconds since 1970
    /// (`u64::MAX`: never by itself); `None` when the saga changed: there may be more.
    async fn step(&mut self, mut draft: Draft) -> Result<Option<u64>, Over> {
        for ((step, side, attempt), end) in self.ended.clone() {
            // A try that an operator's word has overtaken is none any more.
            let _ = self.take(&mut draft, &Event::Ended { step, side, attempt, end });
        }
        self.hear_hosts(&mut draft).await?;
        let now_ms = self.hub.clock.unix_ms();
        let next = draft.state.next(&draft.plan, now_ms);
        // What the hub does itself has its own patience.
        let is_hosts = |(step, side): &(StepNumber, Side)| {
            draft.state.line(*step, *side).is_some_and(|line| line.phase != Phase::Under) || draft.plan.host_act(*step, *side).is_some()
        };
        let late: Vec<_> = next.late.into_iter().filter(is_hosts).collect();
        for (step, side) in late {
            let _ = self.take(&mut draft, &Event::Late { step, side });
        }
        let mut looks = false;
        for (step, side) in draft.state.next(&draft.plan, now_ms).begin {
            looks |= self.begin(&mut draft, step, side).await?;
        }
        let wake_ms = draft.state.next(&draft.plan, now_ms).wake_ms.unwrap_or(u64::MAX);
        let is_news = draft.state != draft.known.state;
        if is_news && !self.store(&mut draft).await? {
            return Ok(None);
        }
        for ((step, side, _), _) in std::mem::take(&mut self.ended) {
            self.begun.remove(&(step, side));
        }
        for job in self.own_work(&draft) {
            self.perform(job);
        }
        self.known = Some(Known { state: draft.state, ..draft.known });
        let look_ms = if looks { now_ms.saturating_add(millis(limits::SAGA_LOOK)) } else { u64::MAX };
        Ok((!is_news).then_some(wake_ms.min(look_ms)))
    }

    /// Takes an event in, and tells of it.
    fn take(&self, draft: &mut Draft, event: &Event) -> Result<(), Fault> {
        draft.state.apply(&draft.plan, event, self.hub.clock.unix_ms()).map_err(Fault::from)?;
        draft.facts.push(event.words(&draft.plan, &draft.state));
        Ok(())
    }

    /// Takes in what hosts say of the tries that are under way, and follows those.
    async fn hear_hosts(&mut self, draft: &mut Draft) -> Result<(), Over> {
        let open = |phase: Phase| matches!(phase, Phase::Under | Phase::Silent | Phase::Doubt);
        let lines: Vec<Try> =
            draft.state.lines().filter(|(_, _, line)| open(line.phase)).map(|(step, side, line)| (step, side, line.attempt)).collect();
        let mut watched = BTreeMap::new();
        for (step, side, attempt) in lines {
            let (Some(task), Some(line)) = (draft.plan.task(step, side), draft.state.line(step, side)) else { continue };
            let was_doubt = line.phase == Phase::Doubt;
            let Some(hash) = line.order(task, attempt) else { continue };
            let Some(mut one) = self.watched(hash).await? else { continue };
            let found = if one.is_news { self.hub.store.op(one.op_id.clone()).await? } else { None };
            one.is_news = false;
            watched.insert(hash.to_owned(), one);
            match found.and_then(|op| host::end_of(&op, side)) {
                Some(End::Doubt { .. }) if was_doubt => {}
                Some(end) => {
                    let _ = self.take(draft, &Event::Ended { step, side, attempt, end });
                }
                None => {}
            }
        }
        self.watched = watched;
        Ok(())
    }

    /// The operation for an order. Followed before it is read: no change falls in between.
    async fn watched(&mut self, hash: &str) -> Result<Option<Watched>, Over> {
        if let Some(watched) = self.watched.remove(hash) {
            return Ok(Some(watched));
        }
        let order = self.hub.store.saga_order(self.saga_id.clone(), hash.to_owned()).await?;
        Ok(order.map(|order| Watched { watch: self.hub.ops.watches.follow_own(&order.op_id), op_id: order.op_id, is_news: true }))
    }

    /// Begins one side of a step, unless a condition does not hold: `true` when that is to be looked at again.
    async fn begin(&mut self, draft: &mut Draft, step: StepNumber, side: Side) -> Result<bool, Over> {
        let conditions = draft.plan.steps.get(step).filter(|_| side == Side::Do).map(|step| step.when.clone()).unwrap_or_default();
        if let Some(fault) = act::unmet(&self.hub, &draft.plan, &conditions).await? {
            let is_known = draft.state.line(step, side).is_some_and(|line| line.fault.as_ref() == Some(&fault));
            if !is_known {
                let _ = self.take(draft, &Event::Wait { step, fault });
            }
            return Ok(true);
        }
        if self.take(draft, &Event::Begin { step, side }).is_err() {
            return Ok(false);
        }
        let Some((task, line)) = draft.plan.task(step, side).zip(draft.state.line(step, side)) else { return Ok(false) };
        let attempt = line.attempt;
        self.fresh.insert((step, side), attempt);
        if let Act::Host(_) = &task.act {
            match self.order(line.order(task, attempt)).await? {
                Ok(order) => {
                    let op_id = order.0.op_id.clone();
                    let watch = self.hub.ops.watches.follow_own(&op_id);
                    self.watched.insert(order.0.payload_sha256.clone(), Watched { op_id, watch, is_news: false });
                    draft.submit.push(order);
                }
                Err(fault) => {
                    let end = End::Failed { fault, effect: false, signed: false, again: true };
                    let _ = self.take(draft, &Event::Ended { step, side, attempt, end });
                }
            }
        }
        Ok(false)
    }

    /// An order as it goes to its host; what is in its way now, if anything is.
    async fn order(&self, hash: Option<&str>) -> Result<Result<(NewOp, NewEvent), Fault>, Over> {
        let Some(hash) = hash else { return Ok(Err(Fault::new(Code::BadSaga, "no order was signed for this try"))) };
        let order = self.hub.store.saga_order(self.saga_id.clone(), hash.to_owned()).await?;
        let Some(order) = order else { return Ok(Err(Fault::new(Code::Internal, "the store lacks an order of the saga"))) };
        match service::check_order(&self.hub, &Actor::saga(&self.saga_id), &order.envelope).await {
            Ok(checked) => Ok(Ok((checked.op, checked.event))),
            Err(fault) if fault.code == Code::Internal => Err(Over::Store(StoreError::Failed(fault.message))),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// What the hub is to do itself, and does not yet.
    fn own_work(&self, draft: &Draft) -> Vec<Job> {
        let under = draft.state.lines().filter(|(_, _, line)| line.phase == Phase::Under);
        let idle = under.filter(|(step, side, line)| self.begun.get(&(*step, *side)) != Some(&line.attempt));
        let own = idle.filter(|(step, side, _)| draft.plan.host_act(*step, *side).is_none());
        let job = |(step, side, line): (StepNumber, Side, &Line)| Job {
            plan: draft.plan.clone(),
            state: draft.state.clone(),
            step,
            side,
            attempt: line.attempt,
            is_resumed: self.fresh.get(&(step, side)) != Some(&line.attempt),
        };
        own.map(job).collect()
    }

    /// Does it beside everything else, within the step's time.
    fn perform(&mut self, job: Job) {
        let of @ (step, side, attempt) = (job.step, job.side, job.attempt);
        self.begun.insert((step, side), attempt);
        let hub = self.hub.clone();
        self.own.spawn(async move {
            let patience = job.patience();
            let late = || End::Failed {
                fault: Fault::new(Code::Waiting, format!("not so within {} s", patience.as_secs())),
                effect: job.plan.cloud_act(step, side).is_some(),
                signed: false,
                again: true,
            };
            let end = tokio::time::timeout(patience, job.perform(&hub)).await.unwrap_or_else(|_| late());
            (of, end)
        });
    }

    /// Stores what was decided: `false` when that is to be decided anew, as an operator has spoken meanwhile.
    async fn store(&mut self, draft: &mut Draft) -> Result<bool, Over> {
        let status = draft.state.status(&draft.plan);
        let submit = std::mem::take(&mut draft.submit);
        let hosts: Vec<_> = submit.iter().map(|(op, _)| op.host_id.clone()).collect();
        let change = SagaChange {
            saga_id: self.saga_id.clone(),
            fence: Some(self.fence),
            seen: draft.known.revision,
            state: draft.state.clone(),
            status,
            facts: std::mem::take(&mut draft.facts),
            submit,
            word: None,
            orders: Vec::new(),
            events: news(&draft.plan, &draft.state, draft.known.status, status),
        };
        #[cfg(test)]
        if let Some(is_written) = self.hub.sagas.death(&self.saga_id) {
            if is_written {
                self.hub.store.change_saga(change).await?;
            }
            return Err(Over::Done);
        }
        let revision = match self.hub.store.change_saga(change).await? {
            SagaAdvance::Done { revision } => revision,
            SagaAdvance::Moved => {
                self.forget();
                return Ok(false);
            }
            SagaAdvance::Lost => return Err(Over::Done),
        };
        (draft.known.status, draft.known.revision) = (status, revision);
        for host in hosts {
            ops::submitted(&self.hub, &host);
        }
        self.hub.sagas.changed(&self.saga_id, revision);
        if !status.is_final() {
            return Ok(true);
        }
        // What arrives still later, the next sync of the inventory finds.
        if let Err(error) = leftovers::sweep_of(&self.hub, &draft.plan).await {
            tracing::warn!(%error, saga_id = %self.saga_id, "whether a saga has left something in a cloud is not known yet");
        }
        Err(Over::Done)
    }

    /// Waits for whatever may change what is next, and notes what that is.
    async fn wait(&mut self, words: &mut watch::Receiver<u64>, wake_ms: u64) {
        let left = Duration::from_millis(wake_ms.saturating_sub(self.hub.clock.unix_ms()));
        let revision = self.known.as_ref().map_or(0, |known| known.revision);
        let timer = async {
            if wake_ms == u64::MAX {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(left).await;
        };
        let hosts = async {
            if self.watched.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(self.watched.values_mut().map(|watched| watched.end().boxed())).await;
        };
        let spoken = async {
            if words.wait_for(|newest| *newest > revision).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = hosts => {}
            Some(ended) = self.own.join_next() => self.ended.extend(ended),
            () = spoken => self.known = None,
            // What another hub was told, nobody here was.
            () = timer => self.forget(),
        }
    }
}

/// What is recorded of a saga that stands elsewhere now.
pub(crate) fn news(plan: &Plan, state: &State, before: Status, now: Status) -> Vec<NewEvent> {
    if before == now {
        return Vec::new();
    }
    let id = &plan.saga_id;
    let (kind, words) = match (now, state.stuck(plan)) {
        (Status::Stuck, Some(stuck)) => {
            (Kind::SagaStuck, format!("ALARM: saga {id} is stuck: {}; `{}`", stuck.words(plan, state), stuck.remedy(plan)))
        }
        (Status::Stuck | Status::Pending | Status::Running | Status::Compensating, _) => {
            (Kind::SagaMoved, format!("saga {id} (`{}`) is {now}", plan.name))
        }
        (Status::Completed | Status::RolledBack | Status::Cancelled | Status::Abandoned, _) => {
            (Kind::SagaEnded, format!("saga {id} (`{}`) is {now}", plan.name))
        }
    };
    vec![NewEvent::hub(kind, words)]
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
