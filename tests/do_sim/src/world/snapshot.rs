//! Snapshots of droplets. They are images as well, and outlive what they were made of.

use serde::{Deserialize, Serialize};

use super::World;
use super::billing::Item;

/// A snapshot. Deleted ones are kept: listings may still show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number, which the action that made it does not tell.
    pub id: u64,
    /// Its name, which others may have as well.
    pub name: String,
    /// The number of the droplet.
    pub droplet: u64,
    /// The slug of its region.
    pub region: String,
    /// The disk that it needs, in GiB.
    pub min_disk: u64,
    /// The distribution of the image under it.
    pub distribution: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it was made.
    pub created_ms: u64,
    /// From when on it is seen.
    pub seen_ms: u64,
    /// When it was deleted.
    pub deleted_ms: Option<u64>,
}

impl World {
    pub(crate) fn make_snapshot(&mut self, droplet: u64, name: &str, late_ms: u64, by: &str) {
        let Some(source) = self.droplets.get(&droplet) else { return };
        let known = self.setup.images.iter().find(|image| image.id == source.image).map(|image| image.distribution.clone());
        let under = known.or_else(|| self.snapshots.get(&source.image).map(|snapshot| snapshot.distribution.clone()));
        self.last_snapshot += 1;
        let snapshot = Snapshot {
            id: self.last_snapshot,
            name: name.to_owned(),
            droplet,
            region: source.region.clone(),
            min_disk: source.disk,
            distribution: under.unwrap_or_else(|| "Unknown".to_owned()),
            tags: Vec::new(),
            created_ms: self.now_ms,
            seen_ms: self.now_ms.saturating_add(late_ms),
            deleted_ms: None,
        };
        self.bill(Item::Snapshot, snapshot.id, name, Vec::new(), by);
        self.snapshots.insert(snapshot.id, snapshot);
    }

    /// Deletes one that is there.
    pub(crate) fn end_snapshot(&mut self, id: u64) {
        let now_ms = self.now_ms;
        let Some(snapshot) = self.snapshots.get_mut(&id).filter(|snapshot| snapshot.deleted_ms.is_none()) else { return };
        snapshot.deleted_ms = Some(now_ms);
        self.ledger.end(Item::Snapshot, id, now_ms);
    }

    /// One that is found by its number.
    #[must_use]
    pub fn found_snapshot(&self, id: u64) -> Option<&Snapshot> {
        let remains = self.setup.latencies.remains;
        let is_there = |snapshot: &&Snapshot| {
            let is_gone = snapshot.deleted_ms.is_some_and(|ms| self.now_ms >= ms.saturating_add(remains));
            self.now_ms >= snapshot.seen_ms && !is_gone
        };
        self.snapshots.get(&id).filter(is_there)
    }

    /// What listings show, the oldest first.
    #[must_use]
    pub fn listed_snapshots(&self) -> Vec<&Snapshot> {
        let is_shown = |snapshot: &&Snapshot| {
            self.now_ms >= snapshot.seen_ms && !self.faults.hide.contains(&snapshot.id) && self.still_stands(snapshot.deleted_ms)
        };
        self.snapshots.values().filter(is_shown).collect()
    }
}
