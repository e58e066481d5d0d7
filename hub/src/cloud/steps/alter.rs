//! Switches, renames and tags.

use super::super::budgets::{ACTION_RECHECK, POSTS, POWER_ACTION};
use super::super::types::{Change, Droplet, DropletId, DropletStatus};
use super::super::{CloudError, Provider};
use super::action::{reach, see};
use super::looks::Looks;
use super::mark::{is_droplet_name, is_tag};
use super::{Attempt, StepError, within};

/// Switches a droplet on or off.
///
/// # Errors
/// [`StepError`].
pub async fn power(provider: &dyn Provider, id: DropletId, on: bool, attempt: &Attempt) -> Result<Droplet, StepError> {
    let what = format!("switching droplet {id} {}", if on { "on" } else { "off" });
    let (change, wanted) = if on { (Change::PowerOn, DropletStatus::Active) } else { (Change::PowerOff, DropletStatus::Off) };
    let reached = |droplet: &Droplet| droplet.status == wanted;
    within(attempt, &what, reach(provider, id, &change, reached, POWER_ACTION, attempt, &what)).await
}

/// Gives a droplet another name.
///
/// # Errors
/// [`StepError`].
pub async fn rename(provider: &dyn Provider, id: DropletId, name: &str, attempt: &Attempt) -> Result<Droplet, StepError> {
    if !is_droplet_name(name) {
        return Err(StepError::input(format!("`{name}` is no name of a droplet: letters, digits, . and -, at most 255")));
    }
    let what = format!("renaming droplet {id} to `{name}`");
    let change = Change::Rename { name: name.to_owned() };
    within(attempt, &what, reach(provider, id, &change, |droplet| droplet.name == name, POWER_ACTION, attempt, &what)).await
}

/// Gives a droplet a tag. It may bear it already.
///
/// # Errors
/// [`StepError`].
pub async fn tag(provider: &dyn Provider, id: DropletId, tag: &str, attempt: &Attempt) -> Result<(), StepError> {
    if !is_tag(tag) {
        return Err(StepError::input(format!("`{tag}` is no tag: letters, digits, : - and _, at most 255")));
    }
    let what = format!("tagging droplet {id} with {tag}");
    let work = async {
        let mut lost = 0;
        loop {
            if see(provider, id, &what).await?.has_tag(tag) {
                return Ok(());
            }
            match provider.tag(id, tag).await {
                Ok(()) => return Ok(()),
                Err(error) if error.maybe_done() && lost + 1 < POSTS => {
                    lost += 1;
                    // Tags come late.
                    let mut looks = Looks::of(ACTION_RECHECK);
                    while looks.next().await {
                        if see(provider, id, &what).await?.has_tag(tag) {
                            return Ok(());
                        }
                    }
                }
                Err(error) => return Err(StepError::call(&error, &what, lost > 0)),
            }
        }
    };
    within(attempt, &what, work).await
}

/// Takes a tag from a droplet. It may not bear it, or not be there.
///
/// # Errors
/// [`StepError`].
pub async fn untag(provider: &dyn Provider, id: DropletId, tag: &str, attempt: &Attempt) -> Result<(), StepError> {
    if !is_tag(tag) {
        return Err(StepError::input(format!("`{tag}` is no tag: letters, digits, : - and _, at most 255")));
    }
    let what = format!("taking tag {tag} from droplet {id}");
    let work = async {
        match provider.untag(id, tag).await {
            // Neither the tag nor the droplet bears anything then.
            Ok(()) | Err(CloudError::NotFound { .. }) => Ok(()),
            Err(error) => Err(StepError::call(&error, &what, false)),
        }
    };
    within(attempt, &what, work).await
}
