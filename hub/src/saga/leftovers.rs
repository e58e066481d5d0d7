//! What a saga that is over made and does not have: a request may arrive, or be found, long after its step has given it up.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::{SagaId, UnixSeconds};
use moorline_common::saga::{CloudWork, Phase, Plan, Side, State, Status, StepNumber};
use moorline_common::sign::Signed;
use tokio::time::Instant;

use crate::cloud::steps::mark::{Mark, SAGA};
use crate::cloud::steps::{Attempt, Destroy, StepError, delete_snapshot, destroy};
use crate::cloud::{CloudError, Droplet, Provider, Snapshot};
use crate::hub::Hub;
use crate::limits;
use crate::store::{CloudKind, StoreError};

/// Deletes, of what listings of a cloud show, what sagas that are over made and do not have. Gives back how much that was.
///
/// Nothing is deleted that does not bear the id of a saga that the hub knows, and the very name that its plan gives.
///
/// # Errors
/// [`StepError`] of the first deletion that failed; the next look goes on.
pub(crate) async fn sweep(hub: &Hub, provider: &dyn Provider, droplets: &[Droplet], snapshots: &[Snapshot]) -> Result<usize, StepError> {
    let mut sagas = Sagas { hub, cloud: provider.name(), known: BTreeMap::new() };
    let now = hub.clock.unix_s();
    let attempt = || Attempt { tried_before: false, began_at: now, now, deadline: Instant::now() + limits::CLOUD_SWEEP_TIME };
    let mut count = 0;
    let buried = sagas.buried(CloudKind::Droplet).await?;
    for droplet in droplets.iter().filter(|one| !buried.contains(&one.id.0)) {
        let Some((saga_id, step)) = droplet.tags.iter().find_map(|tag| of_tag(tag)) else { continue };
        let thing = Thing { kind: CloudKind::Droplet, name: &droplet.name, number: droplet.id.0, created_at: droplet.created_at };
        if sagas.has_lost(&saga_id, step, &thing).await? {
            tracing::warn!(id = %droplet.id, name = droplet.name, %saga_id, "a droplet that its saga does not have is deleted");
            destroy(provider, Destroy { id: droplet.id, created_at: Some(droplet.created_at) }, &attempt()).await?;
            sagas.bury(CloudKind::Droplet, droplet.id.0, saga_id).await?;
            count += 1;
        }
    }
    let buried = sagas.buried(CloudKind::Snapshot).await?;
    for snapshot in snapshots.iter().filter(|one| !buried.contains(&one.id.0)) {
        let Some((saga_id, step)) = of_name(&snapshot.name) else { continue };
        let thing = Thing { kind: CloudKind::Snapshot, name: &snapshot.name, number: snapshot.id.0, created_at: snapshot.created_at };
        if sagas.has_lost(&saga_id, step, &thing).await? {
            tracing::warn!(id = %snapshot.id, name = snapshot.name, %saga_id, "a snapshot that its saga does not have is deleted");
            delete_snapshot(provider, snapshot.id, &attempt()).await?;
            sagas.bury(CloudKind::Snapshot, snapshot.id.0, saga_id).await?;
            count += 1;
        }
    }
    Ok(count)
}

/// The same for one saga that has just ended: one look at what its own steps are known by.
///
/// # Errors
/// As [`sweep`].
pub(super) async fn sweep_of(hub: &Hub, plan: &Plan) -> Result<usize, StepError> {
    let failed = |error: CloudError| StepError::call(&error, "looking for what a saga has left", false);
    let mut count = 0;
    for number in 0..plan.steps.len() {
        let Some(act) = plan.cloud_act(number, Side::Do) else { continue };
        let (mut droplets, mut snapshots) = (Vec::new(), Vec::new());
        let provider = hub.clouds.get(&act.cloud).map_err(failed)?;
        if matches!(act.work, CloudWork::CreateDroplet(_)) {
            let mark = Mark { saga_id: plan.saga_id.to_string(), step: number };
            droplets = provider.droplets_by_tag(&mark.step_tag()).await.map_err(failed)?;
        } else if let CloudWork::Snapshot { name, .. } = &act.work {
            snapshots = provider.snapshots_by_name(name).await.map_err(failed)?;
        }
        count += sweep(hub, provider.as_ref(), &droplets, &snapshots).await?;
    }
    Ok(count)
}

/// The saga and step of a step's tag.
fn of_tag(tag: &str) -> Option<(SagaId, StepNumber)> {
    let (saga_id, step) = tag.get(SAGA.len()..).filter(|_| tag.starts_with(SAGA))?.split_once(':')?;
    Some((SagaId::parse(saga_id).ok()?, step.parse().ok()?))
}

/// The saga and step of a snapshot's name: `PREFIX-SAGA-STEP`.
fn of_name(name: &str) -> Option<(SagaId, StepNumber)> {
    let (head, step) = name.rsplit_once('-')?;
    let saga_id = head.get(head.len().checked_sub(36)?..)?;
    Some((SagaId::parse(saga_id).ok()?, step.parse().ok()?))
}

/// Sagas that things are said to be of.
struct Sagas<'a> {
    hub: &'a Hub,
    cloud: &'a str,
    known: BTreeMap<SagaId, Option<Known>>,
}

/// What is known of one.
struct Known {
    plan: Plan,
    state: State,
    status: Status,
    /// When that was so first.
    over: UnixSeconds,
}

/// Something in a cloud.
struct Thing<'a> {
    kind: CloudKind,
    name: &'a str,
    number: u64,
    created_at: UnixSeconds,
}

impl Sagas<'_> {
    /// Whether a saga that is over made something of that name and does not have that number. Of an abandoned one all stays.
    async fn has_lost(&mut self, saga_id: &SagaId, step: StepNumber, thing: &Thing<'_>) -> Result<bool, StepError> {
        let cloud = self.cloud;
        let Some(Known { plan, state, status, over }) = self.saga(saga_id).await? else { return Ok(false) };
        match status {
            Status::Completed | Status::RolledBack | Status::Cancelled => {}
            Status::Pending | Status::Running | Status::Compensating | Status::Stuck | Status::Abandoned => return Ok(false),
        }
        let Some(act) = plan.cloud_act(step, Side::Do).filter(|act| act.cloud == cloud) else { return Ok(false) };
        let is_its_name = match (&act.work, thing.kind) {
            (CloudWork::CreateDroplet(new), CloudKind::Droplet) => new.name == thing.name,
            (CloudWork::Snapshot { name: own, .. }, CloudKind::Snapshot) => own == thing.name,
            _ => false,
        };
        let lines = state.line(step, Side::Do).zip(state.line(step, Side::Undo));
        let Some((run, undo)) = lines.filter(|_| is_its_name) else { return Ok(false) };
        let key = match thing.kind {
            CloudKind::Droplet => "droplet",
            CloudKind::Snapshot => "snapshot",
        };
        // What an operator took out was left to be as it is.
        let is_left = run.phase == Phase::Skipped || undo.phase == Phase::Skipped;
        let has = run.phase == Phase::Done
            && undo.phase != Phase::Done
            && run.output.get(key).and_then(serde_json::Value::as_u64) == Some(thing.number);
        // What somebody makes like it much later is theirs.
        let is_late = thing.created_at > over.plus(limits::CLOUD_LATE.as_secs());
        Ok(!is_left && !has && !is_late)
    }

    async fn saga(&mut self, saga_id: &SagaId) -> Result<Option<&Known>, StepError> {
        if !self.known.contains_key(saga_id) {
            let record = self.hub.store.saga(saga_id.clone()).await.map_err(failed)?;
            let read = record.and_then(|record| {
                let plan = Signed::<Plan>::from_json(&record.plan).and_then(|signed| signed.peek()).ok()?;
                Some(Known { plan, state: record.state, status: record.status, over: UnixSeconds(record.changed_ms / 1000) })
            });
            self.known.insert(saga_id.clone(), read);
        }
        Ok(self.known.get(saga_id).and_then(Option::as_ref))
    }

    async fn buried(&self, kind: CloudKind) -> Result<BTreeSet<u64>, StepError> {
        self.hub.store.buried(self.cloud.to_owned(), kind).await.map_err(failed)
    }

    async fn bury(&self, kind: CloudKind, number: u64, saga_id: SagaId) -> Result<(), StepError> {
        self.hub.store.bury(self.cloud.to_owned(), kind, [number].into(), Some(saga_id)).await.map_err(failed)
    }
}

fn failed(error: StoreError) -> StepError {
    let fault = error.into_fault();
    StepError::new(fault.code, fault.message, true, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_saga_made_is_known_by_its_tag_or_its_name() {
        let id = SagaId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap();
        let mark = Mark { saga_id: id.to_string(), step: 3 };
        assert_eq!(of_tag(&mark.step_tag()), Some((id.clone(), 3)));
        assert_eq!(of_tag(&mark.saga_tag()), None);
        assert_eq!(of_name(&mark.name("before")), Some((id, 3)));
        for other in ["web-1", "before-3", "-0197a2b4-1c3d-7e5f-8a6b-0123456789ab", "x-0197a2b4-1c3d-7e5f-8a6b-0123456789ab-y", "é-1"] {
            assert_eq!(of_name(other), None, "{other}");
        }
    }
}
