//! Deletes, by number only. The answer is trusted: listings go on showing what is gone.

use std::time::Duration;

use moorline_common::id::UnixSeconds;
use tokio::time::Instant;

use super::super::budgets::{PENDING, YOUNG, YOUNG_EVERY, paced};
use super::super::types::{DropletId, SnapshotId};
use super::super::{CloudError, Provider};
use super::looks::Looks;
use super::{Attempt, StepError, within};

/// A droplet to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destroy {
    /// Its number.
    pub id: DropletId,
    /// When it was made, where it is known to have been: a 404 says nothing while it is that young.
    pub created_at: Option<UnixSeconds>,
}

/// Deletes a droplet. One that is not there is deleted.
///
/// # Errors
/// [`StepError`]; it can be tried again.
pub async fn destroy(provider: &dyn Provider, input: Destroy, attempt: &Attempt) -> Result<(), StepError> {
    let what = format!("deleting droplet {}", input.id);
    let young_until =
        input.created_at.map(|at| Instant::now() + paced(YOUNG).saturating_sub(Duration::from_secs(attempt.now.0.saturating_sub(at.0))));
    within(attempt, &what, delete(provider, input.id, young_until, &what)).await
}

/// Deletes a snapshot. One that is not there is deleted.
///
/// # Errors
/// [`StepError`]; it can be tried again.
pub async fn delete_snapshot(provider: &dyn Provider, id: SnapshotId, attempt: &Attempt) -> Result<(), StepError> {
    let what = format!("deleting snapshot {id}");
    within(attempt, &what, remove_snapshot(provider, id, &what)).await
}

/// Deletes a droplet. Until `young_until` a 404 does not say that it is gone.
pub(super) async fn delete(provider: &dyn Provider, id: DropletId, young_until: Option<Instant>, what: &str) -> Result<(), StepError> {
    let mut looks = Looks::of(PENDING);
    looks.next().await;
    loop {
        match provider.delete_droplet(id).await {
            Ok(()) => return Ok(()),
            Err(CloudError::NotFound { .. }) if young_until.is_some_and(|until| Instant::now() < until) => {
                tokio::time::sleep(paced(YOUNG_EVERY)).await;
            }
            Err(CloudError::NotFound { .. }) => return Ok(()),
            Err(CloudError::Pending { .. }) if looks.next().await => {}
            Err(error) => return Err(StepError::call(&error, what, true)),
        }
    }
}

pub(super) async fn remove_snapshot(provider: &dyn Provider, id: SnapshotId, what: &str) -> Result<(), StepError> {
    let mut looks = Looks::of(PENDING);
    looks.next().await;
    loop {
        match provider.delete_snapshot(id).await {
            Ok(()) | Err(CloudError::NotFound { .. }) => return Ok(()),
            Err(CloudError::Pending { .. }) if looks.next().await => {}
            Err(error) => return Err(StepError::call(&error, what, true)),
        }
    }
}
