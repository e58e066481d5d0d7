//! The driver for Proxmox VE, through its API.
//!
//! | module | what it does |
//! |---|---|
//! | `client` | calls and what their answers mean |
//! | `https` | the way there |
//! | `task` | what goes on after an answer |
//! | `observe` | what a node has |
//! | `doctor` | whether all that is possible |
//! | `poll` | noticing changes |
//! | `apply` | steps |
//! | `op` | operations: what must hold, and what proves them |
//! | `stage` | what they are made of |
//! | `calls` | and what each part asks of the host |
//! | `check` | watching a guest |

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::observe::ObservedPve;
use moorline_common::op::{Act, GuestOp, Survey as Asked};
use moorline_common::plan::guest::GuestAction;
use moorline_common::pve::Vmid;
use moorline_common::survey::Survey;
use serde_json::Value;

use super::{Begun, DriverError, Found, OpOrder, OpResult, Ownership, Taker, Tasks, survey};
use crate::limits::{OBSERVE_TIMEOUT, PVE_ANSWER_WITHIN};

mod apply;
mod calls;
mod check;
pub mod client;
mod doctor;
mod forms;
pub mod https;
mod observe;
mod op;
mod poll;
mod run;
mod stage;
mod task;
#[cfg(test)]
pub(crate) mod tests;

pub use client::{Client, Transport};
pub use doctor::Finding;

/// Talks to one node of Proxmox VE.
pub struct PveDriver<T> {
    client: Client<T>,
    owned: Ownership,
    seen: observe::Seen,
    doubts: op::Doubts,
    poll: poll::Poll,
}

impl<T: Transport> PveDriver<T> {
    /// A driver for the node of `client`.
    #[must_use]
    pub fn new(client: Client<T>, owned: Ownership) -> Self {
        Self { client, owned, seen: observe::Seen::default(), doubts: op::Doubts::default(), poll: poll::Poll::default() }
    }

    /// Looks at the node and its guests. Never mutates.
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn observe(&self) -> Result<ObservedPve, DriverError> {
        let observed = tokio::time::timeout(OBSERVE_TIMEOUT, observe::observe(&self.client, &self.owned, &self.seen)).await;
        observed.unwrap_or_else(|_| Err(DriverError::no_answer("observing Proxmox VE")))
    }

    /// Whether anybody answers soon.
    ///
    /// # Errors
    /// [`DriverError`] when nobody does.
    pub async fn answers(&self) -> Result<(), DriverError> {
        const WHAT: &str = "observing Proxmox VE";
        let nothing = client::Params::new();
        let asked = self.client.call(client::Verb::Get, &["version"], &nothing);
        match tokio::time::timeout(PVE_ANSWER_WITHIN, asked).await {
            Ok(answer) => answer.map(drop).map_err(|e| e.into_driver(Code::EngineUnreachable, WHAT)),
            Err(_) => Err(DriverError::no_answer(WHAT)),
        }
    }

    /// Makes a change to a guest so; `tasks` is told of those that it waits for.
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn apply(&self, action: &GuestAction, tasks: Tasks) -> Result<(), DriverError> {
        apply::apply(&self.client, &self.owned, action, tasks).await
    }

    /// Looks whether the agent can work with the node. Changes nothing.
    pub async fn examine(&self) -> Vec<Finding> {
        doctor::examine(&self.client).await
    }

    /// Waits until something on the node has changed. Cancel-safe.
    pub async fn next_event(&self) {
        self.poll.next(&self.client).await;
    }

    /// See [`super::Driver::prepare`].
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        op::prepare(&self.client, &self.owned, order, guest_op(order)?).await
    }

    /// See [`super::Driver::start`].
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        op::start(op::run(&self.client, order, guest_op(order)?, evidence)?).await
    }

    /// Tells of guests, to the one who asked alone.
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn survey(&self, asked: &Asked, wanted: &BTreeSet<Vmid>) -> Result<OpResult, DriverError> {
        let guests = observe::survey(&self.client, &self.owned, wanted).await?;
        survey::sealed(&Survey::of_guests(guests, wanted, asked.after.as_deref()), asked)
    }

    /// See [`super::Driver::resume`].
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn resume(&self, order: &OpOrder, evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        self.doubts.resolved(&order.op_id);
        op::resume(&op::run(&self.client, order, guest_op(order)?, evidence)?, task, taker).await
    }

    /// See [`super::Driver::adopt`].
    ///
    /// # Errors
    /// [`DriverError`].
    pub async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        op::adopt(&op::run(&self.client, order, guest_op(order)?, evidence)?, &self.doubts, task, age).await
    }
}

fn guest_op(order: &OpOrder) -> Result<&GuestOp, DriverError> {
    if let Act::Guest(op) = &order.act { Ok(op) } else { Err(DriverError::no_such_operation(order)) }
}
