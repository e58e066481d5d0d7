//! The driver for Proxmox VE, through its API.
//!
//! | module | what it does |
//! |---|---|
//! | `client` | calls and what their answers mean |
//! | `https` | the way there |
//! | `task` | what goes on after an answer |
//! | `observe` | what a node has |
//! | `apply` | steps |
//! | `op` | operations |

use std::future::Future;
use std::time::Duration;

use moorline_common::observe::ObservedPve;
use moorline_common::plan::guest::GuestAction;

use super::{DriverError, Ownership};
use crate::limits::OBSERVE_TIMEOUT;

mod apply;
pub mod client;
pub mod https;
mod observe;
mod task;

pub use client::{Client, Transport};

/// Talks to one node of Proxmox VE.
pub struct PveDriver<T> {
    client: Client<T>,
    owned: Ownership,
    seen: observe::Seen,
}

impl<T: Transport> PveDriver<T> {
    /// A driver for the node of `client`.
    #[must_use]
    pub fn new(client: Client<T>, owned: Ownership) -> Self {
        Self { client, owned, seen: observe::Seen::default() }
    }

    /// Looks at the node and its guests. Never mutates.
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn observe(&self) -> Result<ObservedPve, DriverError> {
        let observed = tokio::time::timeout(OBSERVE_TIMEOUT, observe::observe(&self.client, &self.owned, &self.seen)).await;
        observed.unwrap_or_else(|_| Err(DriverError::no_answer("observing Proxmox VE")))
    }

    /// Makes a change to a guest so.
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn apply(&self, action: &GuestAction) -> Result<(), DriverError> {
        apply::apply(&self.client, &self.owned, action).await
    }
}
