//! The host's journal, as `moorline-agent journal export` gives it.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::site::{HOST, Site};

/// A record of the journal, as far as the checks need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The operation or step.
    pub op_id: String,
    /// The lane.
    pub resource: String,
    /// What is done.
    pub kind: String,
    /// Where it is.
    pub state: String,
    /// Whether it is an operator's order, not a step of the reconciler.
    pub is_order: bool,
    /// Whether it only says that the hub has the receipt.
    pub acknowledged: bool,
}

impl Record {
    /// Whether nothing follows but an acknowledgement.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "expired" | "cancelled")
    }
}

/// Reads the journal of the site's host. It must be sound.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub fn read(site: &Site) -> Result<Vec<Record>> {
    let exported = site.fleet.agent(HOST, &["journal", "export"])?.ok()?;
    exported.stdout.lines().map(parsed).collect()
}

fn parsed(line: &str) -> Result<Record> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("a line of the journal: {line}"))?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| value.get(key).and_then(Value::as_u64).with_context(|| format!("`{key}` in: {line}"));
    Ok(Record {
        seq: number("seq")?,
        at: number("at")?,
        op_id: text("op_id"),
        resource: text("resource"),
        kind: text("kind"),
        state: text("state"),
        is_order: !text("idempotency_key").is_empty(),
        acknowledged: value.get("acknowledged").and_then(Value::as_bool).unwrap_or_default(),
    })
}
