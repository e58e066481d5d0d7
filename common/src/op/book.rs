//! What a journal says about all operations: the fold of its records.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Event, HoldEffect, Illegal, Origin, Record, State};
use crate::fault::Fault;
use crate::id::{Generation, UnixSeconds};

/// Why a record cannot follow the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// Not in its state.
    #[error("operation {op_id}: {illegal}")]
    Illegal {
        /// The operation.
        op_id: String,
        /// What cannot happen.
        illegal: Illegal,
    },
    /// Its nonce was used before.
    #[error("operation {op_id}: its nonce was used before; sign the order anew")]
    NonceUsed {
        /// The operation.
        op_id: String,
    },
    /// Its idempotency key is taken.
    #[error("operation {op_id}: its idempotency key belongs to operation {by}")]
    KeyUsed {
        /// The operation.
        op_id: String,
        /// The one that has the key.
        by: String,
    },
    /// A record that lacks what its state needs, or is about another resource than those before it.
    #[error("operation {op_id}: {what}")]
    Malformed {
        /// The operation.
        op_id: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// An operation that has not ended, or whose end the hub does not know yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpEntry {
    /// Its first record: `accepted`, or `started` for a step of a reconcile pass.
    pub first: Arc<Record>,
    /// Its newest `started` record: what was noted before the effect began is evidence after a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Arc<Record>>,
    /// Its newest record.
    pub last: Arc<Record>,
}

impl OpEntry {
    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.last.state
    }
}

/// Who has an idempotency key, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUse {
    /// The operation that has it.
    pub op_id: String,
    /// What it was to do; see [`super::Grant::intent`].
    pub intent: String,
    /// How it ended; `None` while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// How an operation ended: what a repeated order is answered with, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// [`State::Succeeded`] or [`State::Failed`].
    pub state: State,
    /// When, in milliseconds since 1970 by the host's clock.
    pub at: u64,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What came of it, if that is short.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
}

/// Keeps the reconcile pass off a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The operation that left the resource unlike its slice.
    pub op_id: String,
    /// The newest generation when it began: it stands for as long as that one's content is wanted.
    pub generation: Generation,
    /// Whether the resource differs in nothing but whether it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_power: bool,
}

/// One line of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// An operation that is still of interest.
    Op(Box<OpEntry>),
    /// Idempotency keys and who has them.
    Keys(BTreeMap<String, KeyUse>),
    /// Nonces and until when they count.
    Nonces(BTreeMap<String, UnixSeconds>),
    /// Held resources.
    Holds(BTreeMap<String, Hold>),
}

/// The fold of all records. Pure: the same records give the same book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    ops: BTreeMap<String, OpEntry>,
    keys: BTreeMap<String, KeyUse>,
    nonces: BTreeMap<String, UnixSeconds>,
    holds: BTreeMap<String, Hold>,
}

/// Entries of one map in one line of a checkpoint.
const PART_ENTRIES: usize = 128;
/// A result of more bytes of JSON is not kept beside its key once the hub has it.
const RESULT_KEPT_MAX: usize = 512;

impl Book {
    /// Takes one more record into account.
    ///
    /// # Errors
    /// [`BookError`] when it cannot follow; then nothing changes.
    pub fn fold(&mut self, record: &Arc<Record>) -> Result<(), BookError> {
        let entry = self.ops.get(&record.op_id);
        self.check(record, entry)?;
        let is_known = entry.is_some();
        let origin = record.origin();
        match record.event() {
            Event::Accept => {
                if let Some(grant) = &record.grant {
                    self.nonces.insert(grant.nonce.clone(), grant.nonce_until);
                    let key = KeyUse { op_id: record.op_id.clone(), intent: grant.intent.clone(), ended: None };
                    self.keys.insert(record.idempotency_key.clone(), key);
                }
                self.insert(record);
            }
            Event::Start if !is_known => self.insert(record),
            Event::Acknowledge => drop(self.ops.remove(&record.op_id)),
            event @ (Event::Queue
            | Event::Start
            | Event::Run
            | Event::Succeed
            | Event::Fail
            | Event::Expire
            | Event::Cancel
            | Event::Lose) => {
                let Some(entry) = self.ops.get_mut(&record.op_id) else { return Ok(()) };
                entry.last = record.clone();
                if event == Event::Start {
                    entry.started = Some(record.clone());
                }
                let effect = entry.started.as_ref().and_then(|s| s.hold);
                if record.state.is_terminal() {
                    self.end(record, origin, effect);
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, record: &Arc<Record>) {
        let started = (record.state == State::Started).then(|| record.clone());
        self.ops.insert(record.op_id.clone(), OpEntry { first: record.clone(), started, last: record.clone() });
    }

    fn end(&mut self, record: &Record, origin: Origin, effect: Option<HoldEffect>) {
        if origin == Origin::Slice {
            // Nobody waits for word of it.
            self.ops.remove(&record.op_id);
            return;
        }
        if record.state.has_begun() {
            if let Some(key) = self.keys.get_mut(&record.idempotency_key) {
                let is_short = record.result.to_string().len() <= RESULT_KEPT_MAX;
                let result = if is_short { record.result.clone() } else { Value::Null };
                key.ended = Some(Ended { state: record.state, at: record.at, fault: record.fault.clone(), result });
            }
        } else {
            // What never began uses up no key.
            self.keys.remove(&record.idempotency_key);
        }
        if record.state == State::Succeeded {
            match effect {
                Some(HoldEffect::Place(generation)) => self.place(record, generation, false),
                Some(HoldEffect::PlacePower(generation)) => self.place(record, generation, true),
                Some(HoldEffect::Lift) => drop(self.holds.remove(&record.resource)),
                Some(HoldEffect::LiftPower) => self.holds.retain(|resource, hold| *resource != record.resource || !hold.is_power),
                None => {}
            }
        }
    }

    fn place(&mut self, record: &Record, generation: Generation, is_power: bool) {
        self.holds.insert(record.resource.clone(), Hold { op_id: record.op_id.clone(), generation, is_power });
    }

    fn check(&self, record: &Record, entry: Option<&OpEntry>) -> Result<(), BookError> {
        let op_id = || record.op_id.clone();
        let malformed = |what| Err(BookError::Malformed { op_id: op_id(), what });
        let state = State::after(entry.map(OpEntry::state), record.event(), record.origin())
            .map_err(|illegal| BookError::Illegal { op_id: op_id(), illegal })?;
        if state != record.state {
            return malformed("its end cannot change");
        }
        let first = entry.map(|e| &e.first);
        if first.is_some_and(|f| f.resource != record.resource || f.idempotency_key != record.idempotency_key) {
            return malformed("a record of it names another resource or key than its first one");
        }
        if record.event() != Event::Accept {
            return if record.grant.is_some() { malformed("only `accepted` carries a grant") } else { Ok(()) };
        }
        let Some(grant) = &record.grant else { return malformed("`accepted` without a grant") };
        if self.nonces.contains_key(&grant.nonce) {
            return Err(BookError::NonceUsed { op_id: op_id() });
        }
        match self.keys.get(&record.idempotency_key) {
            Some(key) => Err(BookError::KeyUsed { op_id: op_id(), by: key.op_id.clone() }),
            None => Ok(()),
        }
    }

    /// Takes all `records` into account, or none.
    ///
    /// # Errors
    /// [`BookError`] of the first that cannot follow; then nothing changes.
    pub fn fold_all(&mut self, records: &[Arc<Record>]) -> Result<(), BookError> {
        let mut undo = Vec::with_capacity(records.len());
        for (n, record) in records.iter().enumerate() {
            // What is refused has changed nothing, so nothing undoes the last one.
            if n + 1 < records.len() {
                undo.push(self.before(record));
            }
            if let Err(error) = self.fold(record) {
                undo.into_iter().rev().for_each(|before| self.undo(before));
                return Err(error);
            }
        }
        Ok(())
    }

    fn before(&self, record: &Record) -> Before {
        fn take<V: Clone>(map: &BTreeMap<String, V>, key: &str) -> (String, Option<V>) {
            (key.to_owned(), map.get(key).cloned())
        }
        let nonce = record.grant.as_ref().map(|g| g.nonce.as_str()).unwrap_or_default();
        Before {
            op: take(&self.ops, &record.op_id),
            key: take(&self.keys, &record.idempotency_key),
            nonce: take(&self.nonces, nonce),
            hold: take(&self.holds, &record.resource),
        }
    }

    fn undo(&mut self, before: Before) {
        fn put<V>(map: &mut BTreeMap<String, V>, (key, value): (String, Option<V>)) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        put(&mut self.ops, before.op);
        put(&mut self.keys, before.key);
        put(&mut self.nonces, before.nonce);
        put(&mut self.holds, before.hold);
    }

    /// Forgets nonces that no order can bear any more at the time `floor`.
    pub fn forget_nonces(&mut self, floor: UnixSeconds) {
        self.nonces.retain(|_, until| *until >= floor);
    }

    /// Operations that have not ended or whose end is not acknowledged, by id.
    #[must_use]
    pub const fn ops(&self) -> &BTreeMap<String, OpEntry> {
        &self.ops
    }

    /// Operations and steps that have not ended.
    pub fn open(&self) -> impl Iterator<Item = &OpEntry> {
        self.ops.values().filter(|e| !e.state().is_terminal())
    }

    /// Who has an idempotency key.
    #[must_use]
    pub fn key(&self, key: &str) -> Option<&KeyUse> {
        self.keys.get(key)
    }

    /// How an operation ended that had begun, however long ago; `None` for one that has not, or that nobody has heard of.
    #[must_use]
    pub fn ended(&self, op_id: &str) -> Option<&Ended> {
        self.keys.values().find(|key| key.op_id == op_id).and_then(|key| key.ended.as_ref())
    }

    /// Whether a nonce was used.
    #[must_use]
    pub fn knows_nonce(&self, nonce: &str) -> bool {
        self.nonces.contains_key(nonce)
    }

    /// What keeps a reconcile pass off `resource` whose content is wanted unchanged since generation `since`.
    #[must_use]
    pub fn hold(&self, resource: &str, since: Generation) -> Option<&Hold> {
        self.holds.get(resource).filter(|hold| since <= hold.generation)
    }

    /// All that keeps a reconcile pass off a resource whose content is wanted unchanged since generation `since`, by resource.
    pub fn holds(&self, since: Generation) -> impl Iterator<Item = (&str, &Hold)> {
        self.holds.iter().filter(move |(_, hold)| since <= hold.generation).map(|(resource, hold)| (resource.as_str(), hold))
    }

    /// How many idempotency keys and nonces are kept.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.keys.len() + self.nonces.len()
    }

    /// All of it, in pieces small enough for one line each.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        fn chunks<V: Clone>(map: &BTreeMap<String, V>, part: fn(BTreeMap<String, V>) -> Part) -> Vec<Part> {
            let entries: Vec<(&String, &V)> = map.iter().collect();
            let owned = |chunk: &[(&String, &V)]| chunk.iter().map(|(k, v)| ((*k).clone(), (*v).clone())).collect();
            entries.chunks(PART_ENTRIES).map(|chunk| part(owned(chunk))).collect()
        }
        let mut parts: Vec<Part> = self.ops.values().map(|e| Part::Op(Box::new(e.clone()))).collect();
        parts.extend(chunks(&self.keys, Part::Keys));
        parts.extend(chunks(&self.nonces, Part::Nonces));
        parts.extend(chunks(&self.holds, Part::Holds));
        parts
    }

    /// Takes one piece of a checkpoint back.
    pub fn restore(&mut self, part: Part) {
        match part {
            Part::Op(entry) => drop(self.ops.insert(entry.first.op_id.clone(), *entry)),
            Part::Keys(keys) => self.keys.extend(keys),
            Part::Nonces(nonces) => self.nonces.extend(nonces),
            Part::Holds(holds) => self.holds.extend(holds),
        }
    }
}

/// What a record may change, as it was.
struct Before {
    op: (String, Option<OpEntry>),
    key: (String, Option<KeyUse>),
    nonce: (String, Option<UnixSeconds>),
    hold: (String, Option<Hold>),
}

#[cfg(test)]
mod tests;
