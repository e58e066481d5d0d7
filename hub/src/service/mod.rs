//! The gRPC services: wire messages in, the store's and fleet's verbs out. No message type goes
//! past this module, and every call checks its peer's role first.

use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_proto::convert::to_status;
use tokio::sync::Semaphore;
use tonic::Status;

pub mod agent;
pub mod operator;

mod adopt;
mod checks;
mod clouds;
mod drift;
mod ops;
mod push;
mod rollouts;
mod sagas;
mod session;
mod session_ops;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use ops::check as check_order;
pub(crate) use push::push;

use crate::auth::Peer;
use crate::events::{Kind, NewEvent};
use crate::hub::Hub;
use crate::store::StoreError;

/// The status for a store's error.
fn store_status(error: StoreError) -> Status {
    to_status(&error.into_fault())
}

/// The status for a fault.
fn fault_status(fault: Fault) -> Status {
    to_status(&fault)
}

/// What a peer's certificate lets it be, or the refusal; one by its role is recorded.
async fn permitted<T>(hub: &Hub, peer: &Peer, role: Result<T, Status>) -> Result<T, Status> {
    if let Err(status) = &role
        && status.code() == tonic::Code::PermissionDenied
    {
        let actor = peer.actor();
        tracing::warn!(actor = actor.subject, origin = actor.origin, reason = status.message(), "call refused");
        if hub.denials.admits(hub.clock.monotonic_ms()) {
            hub.record(NewEvent::new(Kind::CallRefused, actor, status.message()).code(Code::PermissionDenied)).await;
        }
    }
    role
}

/// Runs `work` to its end, in its own task, even when the caller goes away meanwhile: what the store has
/// taken must reach the fleet too. `places` bounds how many of its kind are under way.
async fn to_its_end<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let Ok(place) = places.clone().acquire_owned().await else {
        return Err(Status::unavailable("the hub is stopping"));
    };
    let task = tokio::spawn(async move {
        let _place = place;
        work.await
    });
    let interrupted = |_| Fault::new(Code::Internal, "the call was interrupted; look at what the hub has before you repeat it");
    task.await.map_err(|e| fault_status(interrupted(e)))?
}
