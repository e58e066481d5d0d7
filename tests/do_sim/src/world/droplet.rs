//! Droplets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::World;
use super::billing::{Bill, Item};
use super::faults::Birth;

/// A droplet. Deleted ones are kept: listings may still show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Droplet {
    /// Its number.
    pub id: u64,
    /// Its name, which others may have as well.
    pub name: String,
    /// The slug of its region.
    pub region: String,
    /// The slug of its size.
    pub size: String,
    /// Its disk, in GiB: that of its size, or of an earlier and smaller one.
    pub disk: u64,
    /// The number of what it was made from.
    pub image: u64,
    /// Its tags, and from when on each is seen.
    pub tags: BTreeMap<String, u64>,
    /// What it does.
    pub status: Status,
    /// What it showed before, and until when it still does.
    pub showed: Option<(Status, u64)>,
    /// The numbers or fingerprints of the keys that it was made with.
    pub ssh_keys: Vec<String>,
    /// What its first boot is told. The API never gives it back.
    pub user_data: String,
    /// What its network is called.
    pub vpc: String,
    /// `monitoring`, `ipv6`, …
    pub features: Vec<String>,
    /// When it was made.
    pub created_ms: u64,
    /// Until when an action keeps it from being deleted, and the number of the action.
    pub pending: Option<Pending>,
    /// When it was deleted.
    pub deleted_ms: Option<u64>,
    /// How often it was switched on.
    pub boots: u32,
    /// The name of the token that made it.
    pub by: String,
}

/// An action that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its number.
    pub action: u64,
    /// When it should have ended: from then on the droplet can be deleted nevertheless.
    pub until_ms: u64,
}

/// What a droplet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It is being made.
    New,
    /// It is on.
    Active,
    /// It is off.
    Off,
}

impl Status {
    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::New => "new",
            Status::Active => "active",
            Status::Off => "off",
        }
    }
}

/// What somebody wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub name: String,
    pub region: String,
    pub size: String,
    pub disk: u64,
    pub image: u64,
    pub tags: Vec<String>,
    pub ssh_keys: Vec<String>,
    pub user_data: String,
    pub vpc: Option<String>,
    pub features: Vec<String>,
}

impl Droplet {
    /// What it shows.
    #[must_use]
    pub fn shows(&self, now_ms: u64) -> Status {
        self.showed.filter(|(_, until_ms)| now_ms < *until_ms).map_or(self.status, |(status, _)| status)
    }

    /// The tags that it shows.
    #[must_use]
    pub fn shown_tags(&self, now_ms: u64) -> Vec<&str> {
        self.tags.iter().filter(|(_, seen_ms)| **seen_ms <= now_ms).map(|(tag, _)| tag.as_str()).collect()
    }

    /// Its address on the network.
    #[must_use]
    pub fn ip(&self) -> String {
        let [.., a, b] = self.id.to_be_bytes();
        format!("203.0.{a}.{b}")
    }

    /// Its address on the network of its region.
    #[must_use]
    pub fn private_ip(&self) -> String {
        let [.., a, b] = self.id.to_be_bytes();
        format!("10.108.{a}.{b}")
    }

    /// Whether an action keeps it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.pending.is_some() && self.status != Status::New
    }

    pub(crate) fn turn(&mut self, status: Status, now_ms: u64, shown_ms: u64) {
        if shown_ms > 0 && self.status != status {
            self.showed = Some((self.status, now_ms.saturating_add(shown_ms)));
        }
        self.status = status;
    }
}

/// What a region's own network is called.
fn own_network(region: &str) -> String {
    let digits: String = region.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("5a4981aa-9653-4bd1-bef5-{:0>12}", digits.chars().take(12).collect::<String>())
}

impl World {
    /// Accepts a droplet: its number, and that of the action that makes it.
    pub(crate) fn begin_droplet(&mut self, wanted: Wanted, by: &str) -> (u64, u64) {
        self.last_droplet += 1;
        let (id, now_ms, latencies) = (self.last_droplet, self.now_ms, self.setup.latencies);
        let mut tags = BTreeMap::new();
        for tag in &wanted.tags {
            tags.insert(self.canonical_tag(tag), now_ms.saturating_add(latencies.tagged));
        }
        self.bill(Item::Droplet, id, &wanted.name, tags.keys().cloned().collect(), by);
        // Known of old: a first boot's words in other letters let the creation fail later.
        let is_foreign = !wanted.user_data.is_ascii();
        let birth =
            self.faults.birth(&wanted.name, &mut self.random).or_else(|| is_foreign.then_some(Birth::VanishesAfterMs(latencies.active)));
        let droplet = Droplet {
            id,
            name: wanted.name,
            vpc: wanted.vpc.unwrap_or_else(|| own_network(&wanted.region)),
            region: wanted.region,
            size: wanted.size,
            disk: wanted.disk,
            image: wanted.image,
            tags,
            status: Status::New,
            showed: None,
            ssh_keys: wanted.ssh_keys,
            user_data: wanted.user_data,
            features: wanted.features,
            created_ms: now_ms,
            pending: None,
            deleted_ms: None,
            boots: 0,
            by: by.to_owned(),
        };
        self.droplets.insert(id, droplet);
        (id, self.begin_creation(id, birth))
    }

    /// Deletes one that is there.
    pub(crate) fn end_droplet(&mut self, id: u64) {
        let now_ms = self.now_ms;
        let Some(droplet) = self.droplets.get_mut(&id).filter(|droplet| droplet.deleted_ms.is_none()) else { return };
        droplet.deleted_ms = Some(now_ms);
        let pending = droplet.pending.take();
        if let Some(pending) = pending {
            self.fail_action(pending.action);
        }
        self.ledger.end(Item::Droplet, id, now_ms);
        self.switched_off(id, false);
    }

    /// One that is found by its number.
    #[must_use]
    pub fn found_droplet(&self, id: u64) -> Option<&Droplet> {
        let latencies = self.setup.latencies;
        self.droplets.get(&id).filter(|droplet| {
            let is_born = self.now_ms >= droplet.created_ms.saturating_add(latencies.found);
            is_born && droplet.deleted_ms.is_none_or(|ms| self.now_ms < ms.saturating_add(latencies.remains))
        })
    }

    /// What listings show, the oldest first.
    #[must_use]
    pub fn listed_droplets(&self) -> Vec<&Droplet> {
        let latencies = self.setup.latencies;
        let is_shown = |droplet: &&Droplet| {
            let is_late = self.now_ms < droplet.created_ms.saturating_add(latencies.listed);
            !is_late && !self.faults.hide.contains(&droplet.id) && self.still_stands(droplet.deleted_ms)
        };
        self.droplets.values().filter(is_shown).collect()
    }

    /// Whether listings still show something.
    pub(crate) fn still_stands(&self, deleted_ms: Option<u64>) -> bool {
        let until = |ms: u64| ms.saturating_add(self.setup.latencies.lingers);
        deleted_ms.is_none_or(|ms| self.faults.lingers || self.now_ms < until(ms))
    }

    pub(crate) fn bill(&mut self, item: Item, id: u64, name: &str, tags: Vec<String>, by: &str) {
        let (name, by) = (name.to_owned(), by.to_owned());
        self.ledger.lines.push(Bill { item, id, name, tags, by, from_ms: self.now_ms, until_ms: None });
    }

    /// How a tag is written: as it was when it was first used.
    pub(crate) fn canonical_tag(&mut self, tag: &str) -> String {
        self.tags.entry(tag.to_lowercase()).or_insert_with(|| tag.to_owned()).clone()
    }
}
