//! What came of an operation on a guest, as far as later ones go by it.

use serde_json::Value;

use crate::op::{Outcome, Receipt};
use crate::pve::{GuestKind, Vmid, incarnation, names};

/// What a receipt's `result` tells besides what is for people. All of it is optional: hosts of before leave some out, and what a token may
/// not see, nobody tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The guest that was made: by `create`, `clone` and `restore`.
    pub vmid: Option<Vmid>,
    /// Which one of those it is that will have borne its number: what undoes that names it.
    pub incarnation: Option<String>,
    /// The snapshot that was made, removed or gone back to.
    pub snapshot: Option<String>,
    /// The backup that was made.
    pub archive: Option<String>,
}

impl Output {
    /// The key of [`Self::vmid`] in a result.
    pub const VMID: &str = "vmid";
    /// The key of [`Self::incarnation`].
    pub const INCARNATION: &str = "incarnation";
    /// The key of [`Self::snapshot`].
    pub const SNAPSHOT: &str = "snapshot";
    /// The key of [`Self::archive`].
    pub const ARCHIVE: &str = "archive";

    /// What `receipt` tells; nothing of what did not succeed. What is malformed is left out.
    #[must_use]
    pub fn of(receipt: &Receipt) -> Self {
        if receipt.outcome != Outcome::Succeeded {
            return Self::default();
        }
        let text = |key: &str| receipt.result.get(key).and_then(Value::as_str);
        let is_incarnation = |text: &&str| [GuestKind::Qemu, GuestKind::Lxc].into_iter().any(|kind| incarnation::is_one(kind, text));
        Self {
            vmid: text(Self::VMID).and_then(|text| Vmid::parse(text).ok()),
            incarnation: text(Self::INCARNATION).filter(is_incarnation).map(str::to_owned),
            snapshot: text(Self::SNAPSHOT).filter(|name| names::snapshot(name).is_ok()).map(str::to_owned),
            archive: text(Self::ARCHIVE).filter(|text| names::volume(text, "backup").is_ok()).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const IS: &str = "vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e:0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e";

    fn receipt(outcome: &str, result: &Value) -> Receipt {
        let mut receipt = json!({
            "cluster": "acme", "host_id": "a".repeat(64), "host_epoch": "e".repeat(32), "op_id": "0197a2b4-1c3d-7e5f-8a6b-0123456789ab",
            "payload_sha256": "b".repeat(64), "resource": "pve/guest/101", "kind": "clone", "outcome": outcome, "at": 1, "journal_seq": 7,
        });
        if !result.is_null() {
            receipt["result"] = result.clone();
        }
        serde_json::from_value(receipt).unwrap()
    }

    #[test]
    fn a_receipt_tells_which_guest_was_made_and_an_older_one_or_a_failure_does_not() {
        let task = "UPID:pve-1:000A1B2C:0123ABCD:674F2A00:qmclone:101:moorline@pve!agent:";
        let made = json!({ "task": task, "vmid": "400", "incarnation": IS });
        let told = Output::of(&receipt("succeeded", &made));
        assert_eq!((told.vmid, told.incarnation.as_deref()), (Vmid::parse("400").ok(), Some(IS)));
        let older = Output::of(&receipt("succeeded", &json!({ "task": task, "vmid": "400" })));
        assert_eq!(older, Output { vmid: Vmid::parse("400").ok(), ..Output::default() });
        for (outcome, result) in [("failed", made), ("succeeded", Value::Null), ("succeeded", json!({ "incarnation": "101", "vmid": 400 }))]
        {
            assert_eq!(Output::of(&receipt(outcome, &result)), Output::default(), "{outcome} {result}");
        }
        let snapshot = Output::of(&receipt("succeeded", &json!({ "snapshot": "before" })));
        assert_eq!(snapshot, Output { snapshot: Some("before".to_owned()), ..Output::default() });
    }
}
