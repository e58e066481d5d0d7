//! Gives a droplet another size: switches it off, resizes it, and switches it on again if it was on.

use moorline_common::fault::Code;

use super::super::Provider;
use super::super::budgets::{PENDING, POWER_ACTION, RESIZE_ACTION};
use super::super::types::{Change, Droplet, DropletId, DropletStatus};
use super::action::{reach, see, since};
use super::looks::Looks;
use super::{Attempt, StepError, within};

/// A droplet to be resized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    /// The droplet.
    pub droplet: DropletId,
    /// The size's slug.
    pub size: String,
    /// Whether its disk grows too, which cannot be undone.
    pub disk: bool,
    /// Whether it was on; nothing: as it is found, or as an earlier try found it.
    pub was_on: Option<bool>,
}

/// A droplet that was resized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resized {
    /// The droplet as it now is.
    pub droplet: Droplet,
    /// The size that it was found with; the new one where an earlier try had resized it.
    pub from: String,
    /// Whether it was on before.
    pub was_on: bool,
}

/// Resizes the droplet, and goes on where an earlier try stopped.
///
/// # Errors
/// [`StepError`]. When the resize itself is refused or fails, the droplet is switched on again if it was on.
pub async fn resize(provider: &dyn Provider, input: &Resize, attempt: &Attempt) -> Result<Resized, StepError> {
    if input.size.trim().is_empty() {
        return Err(StepError::input("a resize needs size"));
    }
    let what = format!("resizing droplet {} to {}", input.droplet, input.size);
    within(attempt, &what, run(provider, input, attempt, &what)).await
}

async fn run(provider: &dyn Provider, input: &Resize, attempt: &Attempt, what: &str) -> Result<Resized, StepError> {
    let id = input.droplet;
    let found = see(provider, id, what).await?;
    let was_on = match input.was_on {
        Some(was_on) => was_on,
        // Who switched it off since the step began was an earlier try of it.
        None if attempt.tried_before && found.status != DropletStatus::Active => {
            since(provider, id, Change::PowerOff.kind(), attempt, what).await?.is_some()
        }
        None => found.status == DropletStatus::Active,
    };
    let from = found.size.clone();
    let is_off = |droplet: &Droplet| droplet.status == DropletStatus::Off;
    let is_on = |droplet: &Droplet| droplet.status == DropletStatus::Active;
    let mut droplet = found;
    if droplet.size != input.size {
        reach(provider, id, &Change::PowerOff, is_off, POWER_ACTION, attempt, what).await?;
        let change = Change::Resize { size: input.size.clone(), disk: input.disk };
        let resized = reach(provider, id, &change, |droplet| droplet.size == input.size, RESIZE_ACTION, attempt, what).await;
        match resized {
            Ok(resized) => droplet = resized,
            Err(error) => {
                if was_on && let Err(other) = reach(provider, id, &Change::PowerOn, is_on, POWER_ACTION, attempt, what).await {
                    tracing::warn!(droplet = %id, error = %other, "a droplet that could not be resized could not be switched on again either");
                }
                // It was switched off and may be off now.
                return Err(StepError { effect: true, ..error });
            }
        }
    }
    droplet = at_rest(provider, droplet, what).await?;
    if was_on && !is_on(&droplet) {
        droplet = reach(provider, id, &Change::PowerOn, is_on, POWER_ACTION, attempt, what).await?;
    }
    Ok(Resized { droplet, from, was_on })
}

/// Waits until no event holds the droplet: it shows its new size before the action is over.
async fn at_rest(provider: &dyn Provider, mut droplet: Droplet, what: &str) -> Result<Droplet, StepError> {
    let mut looks = Looks::of(PENDING);
    while droplet.locked {
        if !looks.next().await {
            let words = format!("{what}: an event still holds the droplet after {}", looks.words());
            return Err(StepError::new(Code::CloudPending, words, true, true));
        }
        droplet = see(provider, droplet.id, what).await?;
    }
    Ok(droplet)
}
