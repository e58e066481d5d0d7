//! What an operator signs for the site's host.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use moorline_common::id::{ClusterId, Generation, IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds};
use moorline_common::op::{OpStatement, Precondition};
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::HostBinding;
use serde_json::{Value, json};

/// How long each order may wait, in seconds.
const WINDOW_S: u64 = 3600;

/// Something to order: kind, parameters, resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What to do.
    pub kind: &'static str,
    /// How.
    pub params: Value,
    /// On what.
    pub resource: String,
    /// For a generation that the host does not have, so that the host refuses it.
    pub outdated: bool,
}

impl Wish {
    /// `kind` on `resource`.
    #[must_use]
    pub fn new(kind: &'static str, params: Value, resource: &str) -> Self {
        Self { kind, params, resource: resource.to_owned(), outdated: false }
    }

    /// A command that ends at once. Its second word is its order's id, so that the engine's events tell which it was.
    #[must_use]
    pub fn exec(resource: &str) -> Self {
        Self::new("exec", json!({ "argv": ["/bin/true", MARK], "timeout_s": 60 }), resource)
    }

    /// A signal to a container's first process.
    #[must_use]
    pub fn kill(signal: &str, resource: &str) -> Self {
        Self::new("kill", json!({ "signal": signal }), resource)
    }

    /// With a short grace period.
    #[must_use]
    pub fn brief(kind: &'static str, resource: &str) -> Self {
        Self::new(kind, json!({ "timeout_s": 1 }), resource)
    }

    /// Without parameters.
    #[must_use]
    pub fn plain(kind: &'static str, resource: &str) -> Self {
        Self::new(kind, json!({}), resource)
    }
}

/// In a command's words, it stands for the order's id.
pub const MARK: &str = "$ORDER";

/// A signed order.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// What is ordered.
    pub wish: Wish,
    /// As it is submitted.
    pub envelope: Envelope,
}

/// An operator's hand.
#[derive(Clone)]
pub struct Pen {
    key: Arc<PrivateKey>,
    cluster: ClusterId,
    binding: HostBinding,
}

impl Pen {
    /// Signs for the host of `binding`.
    #[must_use]
    pub fn new(key: PrivateKey, binding: HostBinding) -> Self {
        Self { key: Arc::new(key), cluster: binding.cluster.clone(), binding }
    }

    /// The host's binding.
    #[must_use]
    pub fn binding(&self) -> &HostBinding {
        &self.binding
    }

    /// Signs.
    ///
    /// # Errors
    /// When the wish cannot be written as an order.
    pub fn sign(&self, wish: Wish) -> Result<Order> {
        let id = uuid::Uuid::now_v7();
        let params: Value = serde_json::from_str(&wish.params.to_string().replace(MARK, &id.to_string()))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let statement = OpStatement {
            cluster: self.cluster.clone(),
            op_id: OpId::parse(id.to_string())?,
            idempotency_key: IdempotencyKey::parse(id.to_string())?,
            host_id: self.binding.host_id.clone(),
            host_epoch: self.binding.host_epoch.clone(),
            resource: ResourceId::parse(wish.resource.as_str())?,
            incarnation: None,
            kind: wish.kind.to_owned(),
            params,
            precondition: wish.outdated.then_some(Precondition { generation: Some(Generation(u32::MAX.into())), state: None }),
            not_before: UnixSeconds(now),
            expires_at: UnixSeconds(now + WINDOW_S),
            nonce: Nonce::parse(uuid::Uuid::now_v7().simple().to_string())?,
            root_version: 1,
            reason: String::new(),
            saga: None,
        };
        let signed = Signed::seal(&statement, &[&self.key]).map_err(|f| anyhow::anyhow!("{f}")).context("signing an order")?;
        Ok(Order { id: id.to_string(), wish, envelope: signed.envelope().clone() })
    }
}
