//! What a host's word on an order means for its step.

use moorline_common::fault::{Code, Fault};
use moorline_common::op::{Receipt, Stage, State};
use moorline_common::saga::{End, Side, Step};
use moorline_common::sign::Signed;
use serde_json::Value;

use crate::store::OpRecord;

/// How a try ended, as the operation for it says; `None` while it has not.
pub(super) fn end_of(op: &OpRecord, step: &Step, side: Side) -> Option<End> {
    let fault = || op.fault.clone().unwrap_or_else(|| Fault::new(Code::OpFailed, format!("the operation is {}", op.stage)));
    let failed = |has_begun: bool| {
        let is_absent = op.fault.as_ref().is_some_and(|fault| fault.code == Code::NotFound);
        if side == Side::Undo && is_absent && op.has_receipt {
            return End::Succeeded { output: Value::Null };
        }
        // What a host says not to have begun it also says when it is to undo it: then other hosts can be shown that. What cannot
        // be undone is believed at once.
        let effect = has_begun || !step.irreversible;
        End::Failed { fault: fault(), effect, signed: op.has_receipt, again: true }
    };
    match op.stage {
        Stage::At(State::Succeeded) => Some(End::Succeeded { output: result_of(op) }),
        Stage::At(State::Failed) => Some(failed(true)),
        Stage::At(State::Expired | State::Cancelled) | Stage::Refused => Some(failed(false)),
        Stage::At(State::Indeterminate) => Some(End::Doubt { fault: fault() }),
        Stage::Submitted | Stage::Sent | Stage::At(State::Accepted | State::Queued | State::Started | State::TaskRunning) => None,
    }
}

fn result_of(op: &OpRecord) -> Value {
    let receipt = op.receipt.as_deref().and_then(|json| Signed::<Receipt>::from_json(json).ok()?.peek().ok());
    receipt.map_or(Value::Null, |receipt| receipt.result)
}
