//! The gRPC services: wire messages in, the store's and fleet's verbs out. No message type goes
//! past this module, and every call checks its peer's role first.

use moorline_common::fault::Fault;
use moorline_proto::convert::to_status;
use tonic::Status;

pub mod agent;
pub mod operator;

mod adopt;
mod checks;
mod session;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use crate::store::StoreError;

/// The status for a store's error.
fn store_status(error: StoreError) -> Status {
    to_status(&error.into_fault())
}

/// The status for a fault.
fn fault_status(fault: Fault) -> Status {
    to_status(&fault)
}
