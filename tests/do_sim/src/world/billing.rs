//! What was ever made, and for how long it cost money.

use serde::{Deserialize, Serialize};

/// What costs money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// A droplet: by the hour, by its size, off or not.
    Droplet,
    /// A snapshot: by its gigabytes.
    Snapshot,
}

/// One line of the ledger. Lines are never removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// What it is.
    pub item: Item,
    /// Its number.
    pub id: u64,
    /// The name that it was made with.
    pub name: String,
    /// The tags that it was made with.
    pub tags: Vec<String>,
    /// The name of the token that made it; `hand` for people.
    pub by: String,
    /// Since when, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until when; nothing while it costs.
    pub until_ms: Option<u64>,
}

impl Bill {
    /// Whether it still costs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.until_ms.is_none()
    }
}

/// Everything that was ever made, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    /// Its lines.
    pub lines: Vec<Bill>,
}

impl Ledger {
    /// What still costs: what was not cleaned up when all should have been.
    #[must_use]
    pub fn alive(&self) -> Vec<&Bill> {
        self.lines.iter().filter(|bill| bill.is_alive()).collect()
    }

    pub(crate) fn end(&mut self, item: Item, id: u64, now_ms: u64) {
        for bill in self.lines.iter_mut().filter(|bill| bill.item == item && bill.id == id && bill.is_alive()) {
            bill.until_ms = Some(now_ms);
        }
    }
}
