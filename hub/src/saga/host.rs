//! What a host's word on an order means for its step.

use moorline_common::fault::{Code, Fault};
use moorline_common::op::{Receipt, Stage, State};
use moorline_common::saga::{End, Side};
use moorline_common::sign::Signed;

use crate::store::OpRecord;

/// How a try ended, as the operation for it says; `None` while it has not.
pub(super) fn end_of(op: &OpRecord, side: Side) -> Option<End> {
    if op.stage.is_open() {
        return None;
    }
    let receipt = op.receipt.as_deref().and_then(|json| Signed::<Receipt>::from_json(json).ok()?.peek().ok());
    if let Some(receipt) = receipt {
        return Some(End::of_receipt(&receipt, side));
    }
    // What follows is the hub's word, or what a host said in passing: it proves nothing to others.
    let fault = op.fault.clone().unwrap_or_else(|| Fault::new(Code::OpFailed, format!("the operation is {}", op.stage)));
    match op.stage {
        Stage::At(State::Indeterminate) => Some(End::Doubt { fault }),
        // Never sent, or not taken.
        Stage::At(State::Expired | State::Cancelled) | Stage::Refused => {
            Some(End::Failed { fault, effect: false, signed: false, again: true })
        }
        Stage::Submitted | Stage::Sent | Stage::At(_) => Some(End::Failed { fault, effect: true, signed: false, again: true }),
    }
}
