//! The order: what an operator signs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Act, Class};
use crate::fault::{Code, Fault};
use crate::id::{ClusterId, Generation, HostEpoch, HostId, IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds, sha256_hex};
use crate::observe::ContainerState;
use crate::saga::OfSaga;
use crate::sign::{PayloadType, Statement};

/// The largest envelope of an order, in bytes of its JSON: it is kept in one line of the journal.
pub const OP_ENVELOPE_MAX: usize = 96 * 1024;
/// So far the clocks of operator and host may differ, in seconds.
pub const OP_SKEW_S: u64 = 300;
/// The longest window of an order, in seconds: 30 days. Its nonce is remembered until the window's end.
pub const OP_WINDOW_MAX_S: u64 = 30 * 24 * 3600;

/// One-shot work for one host, as an operator signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpStatement {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub op_id: OpId,
    /// It is started at most once for this key.
    pub idempotency_key: IdempotencyKey,
    /// The one host that may do it.
    pub host_id: HostId,
    /// The life of the host that may do it.
    pub host_epoch: HostEpoch,
    /// The resource, and so the lane; [`ResourceId::host`] for the whole host.
    pub resource: ResourceId,
    /// Which one of those that have borne the resource's name: a container's id, a volume's time of creation. `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// What to do; see [`Act`].
    pub kind: String,
    /// How; see [`Act`].
    pub params: Value,
    /// What must hold when it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<Precondition>,
    /// When it was signed, by the operator's clock. Not valid before.
    pub not_before: UnixSeconds,
    /// The last moment at which it may begin.
    pub expires_at: UnixSeconds,
    /// Used once.
    pub nonce: Nonce,
    /// The trust root that the operator signed under.
    pub root_version: u64,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// The saga that it is a step of: it is taken when the host was shown that its turn has come, see [`crate::saga::Shown`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<OfSaga>,
}

/// What must hold when an operation begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// The host has accepted exactly this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The container is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ContainerState>,
}

impl Statement for OpStatement {
    const TYPE: PayloadType = PayloadType::Op;
}

/// The longest reason, and the longest incarnation, in bytes.
const TEXT_MAX: usize = 512;

impl OpStatement {
    /// Reads what is to be done, and checks the bounds of the rest.
    ///
    /// # Errors
    /// [`Code::UnknownKind`] or [`Code::BadParams`].
    pub fn act(&self) -> Result<Act, Fault> {
        let act = Act::read(&self.kind, &self.params, &self.resource)?;
        let window = self.expires_at.0.checked_sub(self.not_before.0);
        if window.is_none_or(|window| window > OP_WINDOW_MAX_S) {
            return Err(Fault::new(
                Code::BadParams,
                format!("the order's window must end after it begins and be at most {} days long", OP_WINDOW_MAX_S / (24 * 3600)),
            ));
        }
        if self.reason.len() > TEXT_MAX || self.incarnation.as_ref().is_some_and(|i| i.is_empty() || i.len() > TEXT_MAX) {
            return Err(Fault::new(Code::BadParams, format!("reason and incarnation have at most {TEXT_MAX} bytes")));
        }
        if let Some(saga) = &self.saga
            && saga.key()? != self.idempotency_key
        {
            return Err(Fault::new(Code::BadParams, "the idempotency key of a saga's order is made of the saga, step, side and try"));
        }
        Ok(act)
    }

    /// Lowercase hex SHA-256 of what is to be done, in JSON with sorted keys: two orders of one key and one intent are the same
    /// order.
    ///
    /// # Errors
    /// [`Code::BadParams`] when the parameters cannot be written as JSON.
    pub fn intent(&self) -> Result<String, Fault> {
        let intent = Intent {
            host_id: &self.host_id,
            incarnation: self.incarnation.as_deref(),
            kind: &self.kind,
            params: &self.params,
            precondition: self.precondition.as_ref(),
            resource: &self.resource,
        };
        let bytes = serde_json::to_vec(&intent).map_err(|e| Fault::new(Code::BadParams, e.to_string()))?;
        Ok(sha256_hex(&bytes))
    }

    /// Until when the nonce must be remembered, by the time floor.
    #[must_use]
    pub fn nonce_until(&self) -> UnixSeconds {
        self.expires_at.plus(OP_SKEW_S)
    }
}

/// What is to be done, its fields in the order of the alphabet; those of a [`Value`] are sorted.
#[derive(Serialize)]
struct Intent<'a> {
    host_id: &'a HostId,
    incarnation: Option<&'a str>,
    kind: &'a str,
    params: &'a Value,
    precondition: Option<&'a Precondition>,
    resource: &'a ResourceId,
}

/// An order that was verified and understood; see [`crate::trust::TrustRoot::verify_op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What was signed.
    pub statement: OpStatement,
    /// What is to be done.
    pub act: Act,
    /// How much that can do.
    pub class: Class,
    /// See [`OpStatement::intent`].
    pub intent: String,
}
