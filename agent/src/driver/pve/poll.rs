//! Noticing changes on a node: it tells of none by itself, so its lists are looked at again and again, more often while something works.

use std::collections::BTreeMap;

use moorline_common::pve::{GuestKind, lenient};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::client::{CallError, Client, Params, Transport, Verb};
use crate::limits::{PVE_POLL_BUSY, PVE_POLL_IDLE};

/// What of a list's entry is looked at besides its lock: the rest changes with every moment.
const TOLD: [&str; 6] = ["status", "name", "tags", "template", "maxmem", "cpus"];

/// A list's entry.
#[derive(PartialEq, Eq)]
struct Entry {
    lock: Option<String>,
    told: [Option<String>; 6],
}

/// The newest look.
#[derive(Default)]
pub(super) struct Poll(Mutex<Last>);

#[derive(Default)]
struct Last {
    /// When to look next. Kept here, so that a cancelled wait does not begin anew.
    next: Option<Instant>,
    /// Nothing when the node could not be asked.
    seen: Option<BTreeMap<String, Entry>>,
    looked: bool,
}

impl Poll {
    /// Waits until something is otherwise than at the last look. Cancel-safe.
    pub(super) async fn next<T: Transport>(&self, client: &Client<T>) {
        let mut last = self.0.lock().await;
        loop {
            let next = *last.next.get_or_insert_with(|| Instant::now() + PVE_POLL_BUSY);
            tokio::time::sleep_until(next).await;
            let seen = look(client).await.ok();
            let works = seen.iter().flat_map(BTreeMap::values).any(|entry| entry.lock.is_some());
            let changed = last.looked && seen != last.seen;
            (last.looked, last.seen) = (true, seen);
            last.next = Some(Instant::now() + if works || changed { PVE_POLL_BUSY } else { PVE_POLL_IDLE });
            if changed {
                return;
            }
        }
    }
}

async fn look<T: Transport>(client: &Client<T>) -> Result<BTreeMap<String, Entry>, CallError> {
    let mut seen = BTreeMap::new();
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        let list = client.of_node(Verb::Get, &[kind.as_str()], &Params::new()).await?;
        let told = |entry: &Value| Entry { lock: lenient::text(entry.get("lock")), told: TOLD.map(|key| lenient::text(entry.get(key))) };
        let entries = list.as_array().into_iter().flatten();
        seen.extend(entries.filter_map(|entry| Some((lenient::text(entry.get("vmid"))?, told(entry)))));
    }
    Ok(seen)
}
