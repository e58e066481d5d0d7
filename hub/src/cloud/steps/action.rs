//! Begins an action once, and follows it to its end.
//!
//! An action has no name of ours. One whose answer was lost is known by its kind and by its number, which is higher than all before it.

use moorline_common::fault::Code;

use super::super::budgets::{ACTION_RECHECK, Budget, CLOUD_SKEW, PENDING, POSTS, SEEN, SHOWN};
use super::super::types::{Action, ActionId, ActionStatus, Change, Droplet, DropletId};
use super::super::{CloudError, Provider};
use super::looks::Looks;
use super::{Attempt, StepError};

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    Errored,
}

/// The droplet as it now is. One that is not found, or a cloud that does not answer, is looked at a little longer.
pub(super) async fn see(provider: &dyn Provider, id: DropletId, what: &str) -> Result<Droplet, StepError> {
    let mut looks = Looks::of(SEEN);
    let mut last = CloudError::NotFound { message: format!("droplet {id}") };
    while looks.next().await {
        match provider.droplet(id).await {
            Ok(droplet) => return Ok(droplet),
            Err(error @ CloudError::NotFound { .. }) => last = error,
            Err(error) => {
                last = error.clone();
                looks.missed(error).map_err(|error| StepError::call(&error, what, false))?;
            }
        }
    }
    Err(StepError::call(&last, what, false))
}

/// The newest action of that kind which began with the step or later.
pub(super) async fn since(
    provider: &dyn Provider,
    id: DropletId,
    kind: &str,
    attempt: &Attempt,
    what: &str,
) -> Result<Option<Action>, StepError> {
    let all = provider.actions_of(id).await;
    let mut all = match all {
        Ok(all) => all,
        // It is not there, and so nothing of it is.
        Err(CloudError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(StepError::call(&error, what, attempt.tried_before)),
    };
    let is_ours = |action: &Action| action.kind == kind && action.started_at.plus(CLOUD_SKEW.as_secs()) >= attempt.began_at;
    all.retain(is_ours);
    Ok(all.into_iter().max_by_key(|action| action.id))
}

/// Begins a change; the number of its action. Waits until other events are over; after a lost answer it looks before it asks again.
pub(super) async fn begin(provider: &dyn Provider, id: DropletId, change: &Change, what: &str) -> Result<ActionId, StepError> {
    let before = provider.actions_of(id).await.map_err(|error| StepError::call(&error, what, false))?;
    let newest = before.iter().map(|action| action.id).max();
    let mut pending = Looks::of(PENDING);
    pending.next().await;
    let mut lost = 0;
    loop {
        let error = match provider.act(id, change).await {
            Ok(action) => return Ok(action.id),
            Err(error) => error,
        };
        if matches!(error, CloudError::Pending { .. }) {
            // The event may be the one whose answer was lost.
            if lost > 0
                && let Some(action) = begun(provider, id, change.kind(), newest).await
            {
                return Ok(action);
            }
            if !pending.next().await {
                let words = format!("{what}: another event is not over after {}", pending.words());
                return Err(StepError::new(Code::CloudPending, words, true, lost > 0));
            }
            continue;
        }
        if !error.maybe_done() {
            return Err(StepError::call(&error, what, lost > 0));
        }
        tracing::warn!(droplet = %id, kind = change.kind(), %error, "whether an action was begun is not known: it is looked for");
        lost += 1;
        let mut looks = Looks::of(ACTION_RECHECK);
        while looks.next().await {
            if let Some(action) = begun(provider, id, change.kind(), newest).await {
                return Ok(action);
            }
        }
        if lost >= POSTS {
            return Err(StepError::call(&error, what, true));
        }
    }
}

async fn begun(provider: &dyn Provider, id: DropletId, kind: &str, newest: Option<ActionId>) -> Option<ActionId> {
    let all = provider.actions_of(id).await.ok()?;
    all.into_iter().filter(|action| action.kind == kind && Some(action.id) > newest).map(|action| action.id).min()
}

/// Waits until an action is over.
pub(super) async fn follow(provider: &dyn Provider, action: ActionId, budget: Budget, what: &str) -> Result<Outcome, StepError> {
    let mut looks = Looks::of(budget);
    while looks.next().await {
        match provider.action(action).await.map(|action| action.status) {
            Ok(ActionStatus::Completed) => return Ok(Outcome::Completed),
            Ok(ActionStatus::Errored) => return Ok(Outcome::Errored),
            // It may be too new to be found.
            Ok(ActionStatus::InProgress) | Err(CloudError::NotFound { .. }) => {}
            Err(error) => looks.missed(error).map_err(|error| StepError::call(&error, what, true))?,
        }
    }
    Err(StepError::new(Code::CloudTimeout, format!("{what}: action {action} is not over after {}", looks.words()), true, true))
}

/// Brings a droplet to where `reached` holds, by one change. What an earlier try began is followed.
pub(super) async fn reach(
    provider: &dyn Provider,
    id: DropletId,
    change: &Change,
    reached: impl Fn(&Droplet) -> bool,
    budget: Budget,
    attempt: &Attempt,
    what: &str,
) -> Result<Droplet, StepError> {
    let droplet = see(provider, id, what).await?;
    if reached(&droplet) {
        return Ok(droplet);
    }
    let mut tried = false;
    if attempt.tried_before
        && let Some(action) = since(provider, id, change.kind(), attempt, what).await?
    {
        tried = true;
        follow(provider, action.id, budget, what).await?;
        if let Some(droplet) = shows(provider, id, &reached, SHOWN).await {
            return Ok(droplet);
        }
    }
    let action = match begin(provider, id, change, what).await {
        Ok(action) => action,
        // "It is off already": what an earlier try did shows late.
        Err(error) if error.fault.code == Code::CloudRefused => {
            let late = if attempt.tried_before { SHOWN } else { Budget { looks: 1, ..SHOWN } };
            return shows(provider, id, &reached, late).await.ok_or(StepError { effect: error.effect || tried, ..error });
        }
        Err(error) => return Err(error),
    };
    let outcome = follow(provider, action, budget, what).await?;
    if let Some(droplet) = shows(provider, id, &reached, SHOWN).await {
        return Ok(droplet);
    }
    Err(match outcome {
        Outcome::Completed => {
            let words = format!("{what}: action {action} is completed, and the droplet does not show it");
            StepError::new(Code::CloudNotFoundAfterCompletion, words, true, true)
        }
        Outcome::Errored => StepError::new(Code::CloudErrored, format!("{what}: the cloud says that action {action} failed"), true, true),
    })
}

async fn shows(provider: &dyn Provider, id: DropletId, reached: &impl Fn(&Droplet) -> bool, budget: Budget) -> Option<Droplet> {
    let mut looks = Looks::of(budget);
    while looks.next().await {
        if let Ok(droplet) = provider.droplet(id).await
            && reached(&droplet)
        {
            return Some(droplet);
        }
    }
    None
}
