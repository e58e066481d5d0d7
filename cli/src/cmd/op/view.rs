//! One operation as it is shown, in every verb alike: what was signed, how far it is, and the host's verified word on how it ended.

use base64::Engine as _;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{IdempotencyKey, UnixSeconds};
use moorline_common::op::{OpStatement, Receipt, Stage};
use moorline_common::pve::Vmid;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::trust::TrustRoot;
use serde::Serialize;
use serde_json::Value;

use super::guest::words;
use crate::client::ops::{OpFacts, verify_receipt};
use crate::render::{to_yaml, visible};

/// One operation in full, as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
pub struct OpView {
    /// How far it is.
    #[serde(flatten)]
    pub facts: OpFacts,
    /// What makes two orders the same one.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Whether the host's own signature stands under how it ended.
    pub verified: bool,
    /// What was signed.
    pub order: Option<OpStatement>,
    /// Keys that signed it, by the names in the trust root.
    pub signed_by: Vec<String>,
    /// Why the order does not count by the newest trust root.
    pub order_doubt: Option<Fault>,
    /// The receipt, if it is the host's.
    pub receipt: Option<Receipt>,
    /// Why the receipt does not count.
    pub receipt_doubt: Option<Fault>,
}

impl OpView {
    /// What `facts` are worth by `root` and the verified `binding` of the host. `signed` is the order as this machine knows it;
    /// else it is the one that the hub shows.
    pub fn new(root: &TrustRoot, mut facts: OpFacts, binding: Option<&HostBinding>, signed: Option<&Envelope>) -> Result<Self, Fault> {
        let order = signed.or(facts.order.as_ref()).cloned().map(Signed::<OpStatement>::new).transpose()?;
        // Another one's order, however genuine, says nothing about this one.
        let is_other = |order: &Signed<OpStatement>| order.peek().is_ok_and(|statement| statement.op_id != facts.op_id);
        let order_is_other = order.as_ref().is_some_and(is_other);
        if order_is_other && signed.is_some() {
            return Err(Fault::new(
                Code::Equivocation,
                format!("the hub shows operation {} in the place of the one that was ordered", facts.op_id),
            ));
        }
        let order = order.filter(|_| !order_is_other);
        let unbound = || Fault::new(Code::NotApproved, "its host has no verified binding");
        let signed_by = order.iter().flat_map(|o| &o.envelope().signatures);
        let signed_by = signed_by.map(|s| root.name_of(&s.keyid)).collect();
        let order_doubt = match (&order, binding) {
            (None, _) if order_is_other => Some(Fault::new(Code::Equivocation, "the hub shows another operation's order in its place")),
            (None, _) => Some(Fault::new(Code::NotFound, "the hub does not have the order: it was restored from a backup")),
            (Some(_), None) => Some(unbound()),
            (Some(order), Some(binding)) => root.verify_op(order.clone(), binding).err(),
        };
        let (receipt, receipt_doubt) = match (&facts.receipt, binding) {
            (None, _) => (None, None),
            (Some(_), None) => (None, Some(unbound())),
            (Some(receipt), Some(binding)) => match verify_receipt(receipt, &facts.op_id, order.as_ref().map(Signed::envelope), binding) {
                Ok(receipt) => (Some(receipt.into_statement()), None),
                Err(fault) => (None, Some(fault)),
            },
        };
        let order = order.map(|o| o.peek()).transpose()?;
        // What is signed counts, whatever the hub says beside it.
        if let Some(order) = &order {
            facts.kind.clone_from(&order.kind);
            facts.resource = order.resource.to_string();
            facts.reason.clone_from(&order.reason);
        }
        if let Some(receipt) = &receipt {
            facts.state = Stage::from(receipt.outcome);
            facts.fault.clone_from(&receipt.fault);
        }
        let idempotency_key = order.as_ref().map(|o| o.idempotency_key.clone());
        Ok(Self { facts, idempotency_key, verified: receipt.is_some(), order, signed_by, order_doubt, receipt, receipt_doubt })
    }

    /// The whole of it for people.
    pub fn in_full(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        for part in ["/order/params", "/receipt/result"] {
            if let Some(part) = value.pointer_mut(part) {
                *part = readable(std::mem::take(part));
            }
        }
        to_yaml(&value)
    }
}

/// Parameters or a result for people: what a command reads and writes as text, with its control characters written out.
pub fn readable(mut value: Value) -> Value {
    for name in ["stdin", "stdout", "stderr"] {
        if let Some(Value::String(text)) = value.get_mut(name) {
            *text = visible(&String::from_utf8_lossy(&decoded(text)));
        }
    }
    value
}

/// Output as receipts hold it.
pub fn decoded(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

/// What a `prune` or another operation with several effects did, line by line.
pub fn effects(receipt: &Receipt) -> String {
    let list = |name: &str| receipt.result.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for removed in list("removed") {
        text.push_str(&format!("  removed {}\n", visible(removed.as_str().unwrap_or_default())));
    }
    for left in list("left") {
        let part = |name: &str| visible(left.get(name).and_then(Value::as_str).unwrap_or_default());
        text.push_str(&format!("  LEFT {}: {}\n", part("resource"), part("why")));
    }
    match receipt.result.get("more").and_then(Value::as_u64) {
        Some(more) if more > 0 => text.push_str(&format!("  {more} more are left for another `op prune`\n")),
        Some(_) if text.is_empty() => text.push_str("  there was nothing to remove\n"),
        Some(_) | None => {}
    }
    if Vmid::of(&receipt.resource).is_some() {
        text.push_str(&words::of_result(receipt));
    }
    text
}

/// Where an operation is, in words: the hub's guess is told from the host's word, and what is late from what is not.
pub fn state_words(facts: &OpFacts, now: UnixSeconds) -> String {
    let word = facts.state.as_str();
    if facts.state.is_settled() {
        return if facts.has_receipt { word.to_owned() } else { format!("{word} (by the hub)") };
    }
    match facts.state {
        _ if !facts.is_overdue(now) => word.to_owned(),
        Stage::Sent => "unknown (sent, overdue)".to_owned(),
        Stage::Submitted | Stage::At(_) | Stage::Refused => format!("{word}, overdue"),
    }
}

/// What is worth knowing of an operation besides its state: why it did not succeed, what it waits for, that its time is over.
pub fn note(facts: &OpFacts, now: UnixSeconds) -> String {
    match (&facts.fault, facts.state) {
        (Some(fault), _) => fault.code.to_string(),
        (None, Stage::Submitted) if facts.is_overdue(now) => "its host was never sent it, and will not be".to_owned(),
        (None, Stage::Sent) if facts.is_overdue(now) => "only its host knows whether it began; the receipt tells".to_owned(),
        (None, state) if state.is_open() => visible(&facts.message),
        (None, _) => String::new(),
    }
}
