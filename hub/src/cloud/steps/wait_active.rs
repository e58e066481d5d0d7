//! Waits until a droplet is active. That says nothing of what runs on it: only its agent does.

use std::net::IpAddr;

use moorline_common::fault::Code;

use super::super::budgets::{ACTIVE, ADDRESS, VANISHED_LOOKS};
use super::super::types::{ActionId, ActionStatus, Droplet, DropletId, DropletStatus};
use super::super::{CloudError, Provider};
use super::looks::Looks;
use super::{Attempt, StepError, within};

/// A droplet that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitActive {
    /// Its number.
    pub id: DropletId,
    /// The action that makes it, where that is known: it says when the creation failed.
    pub action: Option<ActionId>,
}

/// A droplet that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// The droplet.
    pub droplet: Droplet,
    /// Its first address that the world reaches, if it has one.
    pub public: Option<IpAddr>,
}

/// Waits until the droplet is active and has an address.
///
/// # Errors
/// [`Code::CloudTimeout`], [`Code::CloudErrored`], [`Code::CloudVanished`], or that of a call.
pub async fn wait_active(provider: &dyn Provider, input: WaitActive, attempt: &Attempt) -> Result<Active, StepError> {
    let what = format!("waiting until droplet {} is active", input.id);
    within(attempt, &what, wait(provider, input, &what)).await
}

async fn wait(provider: &dyn Provider, input: WaitActive, what: &str) -> Result<Active, StepError> {
    let (mut looks, mut missed, mut nameless) = (Looks::of(ACTIVE), 0, 0);
    let mut seen = String::new();
    while looks.next().await {
        match provider.droplet(input.id).await {
            Ok(droplet) => {
                missed = 0;
                match &droplet.status {
                    DropletStatus::Active if droplet.addresses.is_empty() && nameless < ADDRESS.looks => nameless += 1,
                    DropletStatus::Active => {
                        let public = droplet.addresses.iter().find(|address| address.public).map(|address| address.ip);
                        return Ok(Active { droplet, public });
                    }
                    DropletStatus::New => fails_if_errored(provider, input, what).await?,
                    DropletStatus::Archive => {
                        return Err(StepError::new(Code::CloudErrored, format!("{what}: it was put away"), false, true));
                    }
                    // Somebody switched it off, or tomorrow's word for something on the way.
                    DropletStatus::Off | DropletStatus::Other(_) => {}
                }
                seen = format!("{:?}", droplet.status).to_lowercase();
            }
            // A lone one proves nothing: it may be too new to be found.
            Err(CloudError::NotFound { .. }) => {
                missed += 1;
                seen = "not found".to_owned();
                if missed >= VANISHED_LOOKS {
                    let words =
                        format!("{what}: it is gone ({missed} looks in a row did not find it); the cloud may have had no place for it");
                    return Err(StepError::new(Code::CloudVanished, words, false, true));
                }
            }
            Err(error) => looks.missed(error).map_err(|error| StepError::call(&error, what, true))?,
        }
    }
    Err(StepError::new(Code::CloudTimeout, format!("{what}: it is {seen} after {}", looks.words()), true, true))
}

async fn fails_if_errored(provider: &dyn Provider, input: WaitActive, what: &str) -> Result<(), StepError> {
    let Some(action) = input.action else { return Ok(()) };
    match provider.action(action).await {
        Ok(action) if action.status == ActionStatus::Errored => Err(StepError::new(
            Code::CloudErrored,
            format!("{what}: the cloud says that its creation failed (action {})", action.id),
            false,
            true,
        )),
        // The droplet itself has the last word.
        Ok(_) | Err(_) => Ok(()),
    }
}
