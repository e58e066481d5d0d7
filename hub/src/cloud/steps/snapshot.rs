//! Makes a snapshot, once, and finds its number.
//!
//! Neither the request nor its action says the number: it is found by the snapshot's name, which nothing else has, some time after the action
//! is over.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::Code;

use super::super::budgets::{ACTION_RECHECK, Budget, SNAPSHOT_ACTION, SNAPSHOT_LOOKUP};
use super::super::types::{ActionStatus, Change, DropletId, Snapshot, SnapshotId};
use super::super::{CloudError, Provider};
use super::action::{Outcome, begin, follow, since};
use super::destroy::remove_snapshot;
use super::looks::Looks;
use super::mark::Mark;
use super::{Attempt, StepError, within};

/// A snapshot to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeSnapshot {
    /// The droplet.
    pub droplet: DropletId,
    /// Its name, made by [`Mark::name`].
    pub name: String,
    /// The step.
    pub mark: Mark,
    /// Snapshots that were deleted: listings may still show them, and they are never adopted.
    pub deleted: BTreeSet<SnapshotId>,
}

/// Makes the snapshot, or finds the one that an earlier try made.
///
/// # Errors
/// [`StepError`]; with `effect` there may be a snapshot, which [`undo_snapshot`] finds.
pub async fn snapshot(provider: &dyn Provider, input: &TakeSnapshot, attempt: &Attempt) -> Result<Snapshot, StepError> {
    if !input.mark.is_in(&input.name) {
        return Err(StepError::input(format!(
            "the snapshot's name `{}` does not bear its saga's id: it would not be found again",
            input.name
        )));
    }
    let take = Take { provider, input, attempt, what: format!("snapshot `{}` of droplet {}", input.name, input.droplet) };
    within(attempt, &take.what, take.run()).await
}

/// Deletes what [`snapshot`] made or may have made. Returns the numbers that were deleted.
///
/// # Errors
/// [`StepError`]; it can be tried again.
pub async fn undo_snapshot(
    provider: &dyn Provider,
    input: &TakeSnapshot,
    known: Option<SnapshotId>,
    attempt: &Attempt,
) -> Result<BTreeSet<SnapshotId>, StepError> {
    if !input.mark.is_in(&input.name) {
        return Err(StepError::input(format!(
            "the snapshot's name `{}` does not bear its saga's id: it may be somebody else's",
            input.name
        )));
    }
    let take = Take { provider, input, attempt, what: format!("undoing snapshot `{}`", input.name) };
    within(attempt, &take.what, take.undo(known)).await
}

struct Take<'a> {
    provider: &'a dyn Provider,
    input: &'a TakeSnapshot,
    attempt: &'a Attempt,
    what: String,
}

impl Take<'_> {
    async fn run(&self) -> Result<Snapshot, StepError> {
        if let Some(found) = self.look().await.map_err(|error| StepError::call(&error, &self.what, self.attempt.tried_before))? {
            return self.only(found).await;
        }
        if self.attempt.tried_before
            && self.wait_for_earlier().await?
            && let Some(found) = self.lookup(SNAPSHOT_LOOKUP).await?
        {
            return self.only(found).await;
        }
        let change = Change::Snapshot { name: self.input.name.clone() };
        let action = begin(self.provider, self.input.droplet, &change, &self.what).await;
        let action = action.map_err(|error| StepError { effect: error.effect || self.attempt.tried_before, ..error })?;
        match follow(self.provider, action, SNAPSHOT_ACTION, &self.what).await? {
            Outcome::Completed => match self.lookup(SNAPSHOT_LOOKUP).await? {
                Some(found) => self.only(found).await,
                None => {
                    let words = format!("{}: action {action} is completed, and there is no snapshot of that name", self.what);
                    Err(StepError::new(Code::CloudNotFoundAfterCompletion, words, true, true))
                }
            },
            // It says so of some that were made.
            Outcome::Errored => match self.lookup(Budget { looks: 2, ..SNAPSHOT_LOOKUP }).await? {
                Some(found) => self.only(found).await,
                None => Err(StepError::new(
                    Code::CloudErrored,
                    format!("{}: the cloud says that action {action} failed", self.what),
                    true,
                    true,
                )),
            },
        }
    }

    /// Waits for a snapshot that an earlier try may have begun. Whether there was one.
    async fn wait_for_earlier(&self) -> Result<bool, StepError> {
        let mut looks = Looks::of(ACTION_RECHECK);
        while looks.next().await {
            let action = since(self.provider, self.input.droplet, "snapshot", self.attempt, &self.what).await?;
            match action.map(|action| (action.id, action.status)) {
                Some((id, ActionStatus::InProgress)) => {
                    follow(self.provider, id, SNAPSHOT_ACTION, &self.what).await?;
                    return Ok(true);
                }
                Some((_, ActionStatus::Completed | ActionStatus::Errored)) => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }

    /// All that listings show under the name, by number.
    async fn named(&self) -> Result<BTreeMap<SnapshotId, Snapshot>, CloudError> {
        let mut all = match self.provider.snapshots_of(self.input.droplet).await {
            Ok(all) => all,
            // Snapshots outlive their droplet.
            Err(CloudError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        all.extend(self.provider.snapshots_by_name(&self.input.name).await?);
        let is_ours = |one: &Snapshot| {
            one.name == self.input.name && one.droplet.is_none_or(|id| id == self.input.droplet) && !self.input.deleted.contains(&one.id)
        };
        Ok(all.into_iter().filter(is_ours).map(|one| (one.id, one)).collect())
    }

    /// What there is under the name and not only lingers in listings; nothing when that is nothing.
    async fn look(&self) -> Result<Option<BTreeMap<SnapshotId, Snapshot>>, CloudError> {
        let mut found = BTreeMap::new();
        for (id, snapshot) in self.named().await? {
            match self.provider.snapshot(id).await {
                Ok(_) => drop(found.insert(id, snapshot)),
                Err(CloudError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(found).filter(|found| !found.is_empty()))
    }

    async fn lookup(&self, budget: Budget) -> Result<Option<BTreeMap<SnapshotId, Snapshot>>, StepError> {
        let mut looks = Looks::of(budget);
        while looks.next().await {
            match self.look().await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => looks.missed(error).map_err(|error| StepError::call(&error, &self.what, true))?,
            }
        }
        Ok(None)
    }

    /// The one with the lowest number. The name is the saga's alone, so the others are its own duplicates.
    async fn only(&self, found: BTreeMap<SnapshotId, Snapshot>) -> Result<Snapshot, StepError> {
        let mut all = found.into_values();
        let lacks = || StepError::new(Code::Internal, format!("{}: it was found and is not known", self.what), true, true);
        let kept = all.next().ok_or_else(lacks)?;
        for duplicate in all {
            tracing::warn!(id = %duplicate.id, kept = %kept.id, name = kept.name, "a duplicate snapshot is deleted");
            remove_snapshot(self.provider, duplicate.id, &self.what).await?;
        }
        Ok(kept)
    }

    async fn undo(&self, known: Option<SnapshotId>) -> Result<BTreeSet<SnapshotId>, StepError> {
        let mut gone = BTreeSet::new();
        if let Some(id) = known {
            remove_snapshot(self.provider, id, &self.what).await?;
            gone.insert(id);
        } else {
            // What is under way becomes a snapshot.
            self.wait_for_earlier().await?;
        }
        let mut looks = Looks::of(if known.is_some() { Budget { looks: 1, ..SNAPSHOT_LOOKUP } } else { SNAPSHOT_LOOKUP });
        let mut has_looked = false;
        while looks.next().await {
            match self.named().await {
                Ok(found) => {
                    has_looked = true;
                    for id in found.into_keys().filter(|id| !gone.contains(id)).collect::<Vec<_>>() {
                        remove_snapshot(self.provider, id, &self.what).await?;
                        gone.insert(id);
                    }
                }
                Err(error) => looks.missed(error).map_err(|error| StepError::call(&error, &self.what, true))?,
            }
        }
        if has_looked {
            return Ok(gone);
        }
        Err(StepError::new(Code::CloudUnreachable, format!("{}: {}", self.what, looks.words()), true, true))
    }
}
