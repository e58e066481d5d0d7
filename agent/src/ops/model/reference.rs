//! What must hold, as few words as possible: who signed what, when it may be done, and what was seen.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::Code;
use moorline_common::id::{Generation, OpId, ResourceId, UnixSeconds};
use moorline_common::op::{Class, HoldEffect, OP_SKEW_S, OpEntry, OpStatement, Outcome, Receipt, Record, State};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::driver::sim::memory::Event;
use crate::journal::Journal as _;
use crate::journal::memory::MemoryJournal;
use crate::ledger::Ledger;
use crate::limits::{CLOCK_SKEW_ALARM_S, FLOOR_RAISE_KEPT_S};
use crate::ops::Answer;

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signer {
    Ann,
    Bob,
    /// Whom nobody knows.
    Eve,
}

/// Something that was signed.
#[derive(Debug, Clone)]
pub struct Paper {
    pub statement: OpStatement,
    pub signers: Vec<Signer>,
    pub class: Class,
    pub intent: String,
    pub json: Vec<u8>,
}

/// What counts at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    wall: u64,
    /// The agent's floor: says only how far its clock can be believed.
    floor: u64,
    /// Below this no floor can be, by what was accepted.
    floor_min: u64,
    reset: u64,
    revoked: bool,
    denied: bool,
    generation: u64,
}

/// See the module.
pub struct Reference {
    pub papers: BTreeMap<String, Paper>,
    pub journal: MemoryJournal,
    pub ledger: Ledger,
    pub revoked: bool,
    pub denied: bool,
    pub full: bool,
    pub generation: u64,
    /// The first generation with the content of the newest.
    pub content_since: u64,
    /// How often it was another one than before.
    pub contents: u64,
    /// What counted before each change that an agent may not have seen yet.
    pub before: Vec<Facts>,
    /// The lowest that the time floor can be, and since when.
    floor: (u64, Instant),
    pub reset: u64,
    /// Key → how often something was done for it.
    effects: BTreeMap<String, u32>,
    began: Vec<(String, ResourceId)>,
    wrong: Vec<String>,
}

const DENIED: [&str; 2] = ["restart", "reboot"];

impl Reference {
    pub fn new(journal: MemoryJournal, ledger: Ledger) -> Self {
        Self {
            papers: BTreeMap::new(),
            journal,
            ledger,
            revoked: false,
            denied: false,
            full: false,
            generation: 0,
            content_since: 0,
            contents: 0,
            before: Vec::new(),
            floor: (0, Instant::now()),
            reset: 0,
            effects: BTreeMap::new(),
            began: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// The kinds that the host's own policy forbids while `denied`.
    pub const fn denied_kinds() -> [&'static str; 2] {
        DENIED
    }

    pub fn facts(&self) -> Facts {
        let boot = Clock.boot();
        Facts {
            wall: boot.wall.0,
            floor: self.ledger.time_floor().unwrap().now(&boot).0,
            floor_min: self.floor.0 + self.floor.1.elapsed().as_secs(),
            reset: self.reset,
            revoked: self.revoked,
            denied: self.denied,
            generation: self.generation,
        }
    }

    /// The machine boots: time that passed since the floor was saved is forgotten.
    pub fn rebooted(&mut self) {
        let saved = self.ledger.time_floor().unwrap().at.0;
        self.floor = (self.floor.0.min(saved), Instant::now());
    }

    /// Whether the paper may be acted on.
    fn is_valid(&self, paper: &Paper, facts: &Facts) -> Result<(), &'static str> {
        let s = &paper.statement;
        let live: BTreeSet<Signer> =
            paper.signers.iter().copied().filter(|s| *s == Signer::Ann || (*s == Signer::Bob && !facts.revoked)).collect();
        // The root without Bob asks for one.
        let needed = if paper.class >= Class::R3 && !facts.revoked { 2 } else { 1 };
        let skewed = |a: u64, b: u64| a.abs_diff(b) > CLOCK_SKEW_ALARM_S;
        let (from, until) = (s.not_before.0, s.expires_at.0);
        let believed = facts.floor.max(from);
        let is_sound = !skewed(facts.wall, believed) && !skewed(facts.wall, facts.floor_min);
        if live.len() < needed {
            return Err("too few signers");
        }
        if s.host_epoch.as_str().starts_with("bad") {
            return Err("another epoch");
        }
        if facts.denied && DENIED.contains(&s.kind.as_str()) {
            return Err("denied by the policy");
        }
        if s.precondition.as_ref().and_then(|p| p.generation).is_some_and(|g| g.0 != facts.generation) {
            return Err("another generation");
        }
        if s.kind == "time-reset" {
            let in_window = from.saturating_sub(OP_SKEW_S) <= facts.wall && facts.wall <= until && from > facts.reset;
            return if in_window { Ok(()) } else { Err("not in the window of a reset") };
        }
        if from < facts.reset {
            return Err("signed before the time was reset");
        }
        if until < facts.floor_min || (is_sound && until < facts.wall) {
            return Err("expired");
        }
        let ahead = if facts.wall + CLOCK_SKEW_ALARM_S < facts.floor { CLOCK_SKEW_ALARM_S } else { OP_SKEW_S };
        if from > facts.wall.max(facts.floor) + ahead {
            return Err("not valid yet");
        }
        if paper.class >= Class::R3 && skewed(facts.wall, believed) {
            return Err("too much for an unsound clock");
        }
        Ok(())
    }

    fn was_valid(&self, paper: &Paper) -> Result<(), &'static str> {
        let now = self.is_valid(paper, &self.facts());
        if self.before.iter().any(|facts| self.is_valid(paper, facts).is_ok()) { Ok(()) } else { now }
    }

    fn fail(&mut self, what: String) {
        self.wrong.push(what);
    }

    pub fn verdict(&self) -> Result<(), String> {
        self.wrong.first().map_or(Ok(()), |wrong| Err(wrong.clone()))
    }

    /// Something happened at the engine.
    pub fn seen(&mut self, event: Event) {
        match event {
            Event::Clash(what) => self.fail(format!("two at once: {what}")),
            Event::Asked(op_id) => {
                let Some(paper) = self.papers.get(&op_id).cloned() else { return self.fail(format!("nobody signed {op_id}")) };
                let state = self.journal.read(|b| b.ops().get(&op_id).map(|e| e.state()));
                // What has begun is looked at whenever it was signed.
                if state.is_some_and(State::has_begun) {
                    return;
                }
                if let Err(why) = self.was_valid(&paper) {
                    self.fail(format!("{} {op_id} is about to begin: {why}", paper.statement.kind));
                }
            }
            Event::Began(op_id, resource) => self.begins(op_id, resource),
            Event::Effect(op_id) => {
                let Some(paper) = self.papers.get(&op_id) else { return self.fail(format!("nobody signed {op_id}")) };
                let key = paper.statement.idempotency_key.to_string();
                let times = self.effects.entry(key.clone()).or_default();
                *times += 1;
                if *times > 1 {
                    let times = *times;
                    self.fail(format!("done {times} times for the key {key}, now by {op_id}"));
                }
            }
            Event::Step(resource) => {
                if let Some(hold) = self.held(&resource) {
                    self.fail(format!("a step on {resource}, which {hold} holds"));
                }
            }
        }
    }

    fn begins(&mut self, op_id: String, resource: ResourceId) {
        let Some(paper) = self.papers.get(&op_id).cloned() else { return self.fail(format!("nobody signed {op_id}")) };
        let entry = self.journal.read(|book| book.ops().get(&op_id).cloned());
        let Some(entry) = entry.filter(|e| matches!(e.state(), State::Started)) else {
            return self.fail(format!("{op_id} begins without a durable record"));
        };
        let in_doubt = self.journal.read(|book| {
            let shares = |r: &str| r == resource.as_str() || r == "host" || resource.is_host();
            let lost = |e: &&OpEntry| e.state() == State::Indeterminate && shares(&e.first.resource) && e.first.op_id != op_id;
            book.open().find(lost).map(|e| e.first.op_id.clone())
        });
        if let Some(other) = in_doubt {
            self.fail(format!("{op_id} begins on {resource}, and {other} is in doubt"));
        }
        let restarted = self.journal.look(|r| r.iter().filter(|r| r.op_id == op_id && r.state == State::Started).count() > 1);
        if let Err(why) = self.was_valid(&paper) {
            self.fail(format!("{op_id} begins: {why}"));
        }
        let wanted = match paper.statement.kind.as_str() {
            "stop" | "pause" | "destroy" | "kill" | "shutdown" | "suspend" | "set-config" | "snapshot-rollback" => Some(true),
            "start" | "restart" | "unpause" | "resume" => Some(false),
            _ => None,
        };
        let hold = entry.started.as_ref().and_then(|s| s.hold);
        let fits = match (wanted, hold) {
            // One that was accepted meanwhile may have come a moment later.
            (Some(true), Some(HoldEffect::Place(Generation(g)) | HoldEffect::PlacePower(Generation(g)))) => {
                g <= self.generation && g >= self.before.iter().map(|b| b.generation).min().unwrap_or(self.generation)
            }
            (Some(false), Some(HoldEffect::Lift | HoldEffect::LiftPower)) | (None, None) => true,
            _ => false,
        };
        // What begins again keeps what it was to be.
        if !fits && !restarted {
            self.fail(format!("{op_id} ({}) began with the hold {hold:?}", paper.statement.kind));
        }
        let seq = |id: &str| self.accepted_seq(id);
        let late = self.began.iter().find(|(other, r)| (*r == resource || r.is_host() || resource.is_host()) && seq(other) > seq(&op_id));
        if let Some((other, _)) = late.cloned() {
            self.fail(format!("{op_id} begins on {resource} after {other}, which was accepted later"));
        }
        self.began.push((op_id, resource));
    }

    fn accepted_seq(&self, op_id: &str) -> u64 {
        self.journal.look(|records| records.iter().find(|r| r.op_id == op_id && r.state == State::Accepted).map_or(0, |r| r.seq))
    }

    /// The operation that keeps reconcile off `resource`, by the records alone.
    fn held(&self, resource: &ResourceId) -> Option<String> {
        self.journal.look(|records| {
            let mut effects: BTreeMap<&str, HoldEffect> = BTreeMap::new();
            let mut hold: Option<(String, u64)> = None;
            // Whether more of it differs than whether it runs.
            let mut differs = false;
            for record in records.iter().filter(|r| r.resource == resource.as_str() && !r.acknowledged) {
                match (record.state, record.hold) {
                    (State::Started, Some(effect)) => drop(effects.insert(&record.op_id, effect)),
                    (State::Started, None) if record.kind == "converge" => (hold, differs) = (None, false),
                    (State::Succeeded, _) => match effects.get(record.op_id.as_str()) {
                        Some(HoldEffect::Place(generation)) => {
                            (hold, differs) = (Some((record.op_id.clone(), generation.0)), true);
                        }
                        Some(HoldEffect::PlacePower(generation)) => {
                            (hold, differs) = (Some((record.op_id.clone(), generation.0)), false);
                        }
                        Some(HoldEffect::LiftPower) if differs => {}
                        Some(HoldEffect::Lift | HoldEffect::LiftPower) => (hold, differs) = (None, false),
                        None => {}
                    },
                    _ => {}
                }
            }
            let converges = |id: &&&str| records.iter().any(|r| r.op_id == **id && r.kind == "converge");
            let by_order =
                effects.keys().collect::<Vec<_>>().iter().any(|id| {
                    converges(id) && records.iter().rfind(|r| r.op_id == ***id).is_some_and(|r| matches!(r.state, State::Started))
                });
            hold.filter(|(_, generation)| self.content_since <= *generation && !by_order).map(|(op_id, _)| op_id)
        })
    }

    /// Who has the key, by the records alone: the operation and its end.
    fn owner(&self, key: &str) -> Option<(String, Option<Record>)> {
        self.journal.look(|records| {
            let mut owner = None;
            for record in records.iter().filter(|r| r.idempotency_key == key && !r.acknowledged) {
                match record.state {
                    State::Accepted => owner = Some((record.op_id.clone(), None)),
                    State::Cancelled | State::Expired => owner = None,
                    State::Succeeded | State::Failed => owner = Some((record.op_id.clone(), Some(record.clone()))),
                    State::Queued | State::Started | State::TaskRunning | State::Indeterminate => {}
                }
            }
            owner
        })
    }

    pub fn accepted(&self, op_id: &str) -> bool {
        self.accepted_seq(op_id) > 0
    }

    /// Before an order is handed in: whether nothing speaks against it.
    pub fn must_be_taken(&self, paper: &Paper) -> bool {
        let facts = self.facts();
        let s = &paper.statement;
        let now = facts.wall.max(facts.floor);
        let alone = !paper.signers.contains(&Signer::Eve) && (!facts.revoked || !paper.signers.contains(&Signer::Bob));
        self.is_valid(paper, &facts).is_ok()
            && self.before.is_empty()
            && alone
            && !self.full
            && s.expires_at.0 > now + 60
            && s.kind != "cancel"
            && s.kind != "resolve"
            && s.kind != "time-reset"
    }

    fn nonce_used(&self, nonce: &str) -> bool {
        self.journal.look(|records| records.iter().any(|r| r.grant.as_ref().is_some_and(|g| g.nonce == nonce)))
    }

    /// Whether another order was ever accepted under the key.
    fn key_used(&self, paper: &Paper) -> bool {
        let key = paper.statement.idempotency_key.as_str();
        let others = |id: &str| self.papers.get(id).is_some_and(|p| p.intent != paper.intent);
        self.journal.look(|records| records.iter().any(|r| r.idempotency_key == key && others(&r.op_id)))
    }

    /// An order was answered. `known` before it was handed in; `due`: nothing spoke against it.
    pub fn answered(&mut self, paper: &Paper, answer: &Answer, known: bool, due: bool) {
        let s = &paper.statement;
        let id = s.op_id.to_string();
        match answer {
            Answer::Known(other) if *other == s.op_id => {
                if !self.accepted(&id) {
                    self.fail(format!("{id} was answered as known before it was durable"));
                } else if !known {
                    if let Some(code) = self.refused_for_good(&id) {
                        if due && matches!(code, Code::PolicyDenied | Code::UnknownKind) {
                            self.fail(format!("{} {id} was refused for good as {code}, and nothing speaks against it", s.kind));
                        }
                    } else if let Err(why) = self.was_valid(paper) {
                        let (now, before) = (self.facts(), &self.before);
                        self.fail(format!(
                            "{} {id} [{}, {}] was accepted: {why}; now {now:?}, before {before:?}",
                            s.kind, s.not_before.0, s.expires_at.0
                        ));
                    }
                    // A reset raises nothing before it is done.
                    if s.kind != "time-reset" {
                        self.raise_floor(s.not_before);
                    }
                }
            }
            Answer::Known(other) => {
                let twin = self.papers.get(other.as_str()).cloned();
                let is_twin = twin.is_some_and(|t| t.intent == paper.intent && t.statement.idempotency_key == s.idempotency_key);
                if !is_twin || !self.accepted(other.as_str()) {
                    self.fail(format!("{id} is to be answered by {other}, which is another order"));
                }
            }
            Answer::Settled(receipt) => self.settled(paper, receipt),
            Answer::Refused(fault) => {
                let is_taken = (fault.code == Code::Conflict && self.key_used(paper))
                    || (fault.code == Code::NonceUsed && self.nonce_used(s.nonce.as_str()));
                if due && !is_taken {
                    self.fail(format!("{} {id} was refused, and nothing speaks against it: {fault}", s.kind));
                }
            }
        }
    }

    /// Why an operation was refused that was recorded and not begun.
    fn refused_for_good(&self, op_id: &str) -> Option<Code> {
        self.journal.look(|records| {
            let end = records.iter().find(|r| r.op_id == op_id && r.state == State::Cancelled && !r.acknowledged)?;
            end.fault.as_ref().map(|f| f.code).filter(|code| *code != Code::Cancelled)
        })
    }

    fn settled(&mut self, paper: &Paper, receipt: &Receipt) {
        let s = &paper.statement;
        let Some((owner, Some(end))) = self.owner(s.idempotency_key.as_str()) else {
            return self.fail(format!("{} got a result, and its key has none", s.op_id));
        };
        let same_intent = self.papers.get(&owner).is_some_and(|p| p.intent == paper.intent);
        let outcome = if end.state == State::Succeeded { Outcome::Succeeded } else { Outcome::Failed };
        let same_as = receipt.same_as.as_ref().map_or(s.op_id.as_str(), OpId::as_str);
        if !same_intent || receipt.outcome != outcome || receipt.at != end.at || same_as != owner {
            self.fail(format!("{} got another result than its key has: {receipt:?}", s.op_id));
        }
    }

    fn raise_floor(&mut self, not_before: UnixSeconds) {
        let now = self.floor.0 + self.floor.1.elapsed().as_secs();
        let raised = not_before.0.saturating_sub(FLOOR_RAISE_KEPT_S);
        if raised > now {
            // What was accepted a moment before it may be answered a moment after it.
            let facts = self.facts();
            self.before.push(facts);
            self.floor = (raised, Instant::now());
        }
    }

    /// A reset that has succeeded counts from then on.
    pub fn take_resets(&mut self) {
        let done: Vec<String> = self.journal.look(|records| {
            let ended = records.iter().filter(|r| r.kind == "time-reset" && r.state == State::Succeeded && !r.acknowledged);
            ended.map(|r| r.op_id.clone()).collect()
        });
        for op_id in done {
            let to = self.papers[&op_id].statement.not_before.0;
            if to > self.reset {
                self.reset = to;
                // It may have been done some time ago; it is a bound from below.
                self.floor = (to, Instant::now());
            }
        }
    }

    /// What every record says about each operation: its lane's order, and that each is accepted first.
    pub fn check_history(&mut self) {
        let records = self.journal.records();
        let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
        let mut started: Vec<(&str, &str)> = Vec::new();
        let mut wrong = Vec::new();
        for record in records.iter().filter(|r| !r.idempotency_key.is_empty()) {
            match record.state {
                State::Accepted if accepted.insert(&record.op_id, record.seq).is_some() => {
                    wrong.push(format!("{} was accepted twice", record.op_id));
                }
                // A reset of the time shares its lane with nobody.
                State::Started if !matches!(record.kind.as_str(), "cancel" | "resolve" | "time-reset") => {
                    let seq = accepted.get(record.op_id.as_str()).copied().unwrap_or(u64::MAX);
                    let shares = |r: &str| r == record.resource || r == "host" || record.resource == "host";
                    if let Some((other, _)) = started.iter().find(|(id, r)| shares(r) && accepted[id] > seq) {
                        wrong.push(format!("{} started on {} after {other}, which was accepted later", record.op_id, record.resource));
                    }
                    started.push((&record.op_id, &record.resource));
                }
                State::Accepted
                | State::Queued
                | State::Started
                | State::TaskRunning
                | State::Succeeded
                | State::Failed
                | State::Expired
                | State::Cancelled
                | State::Indeterminate => {}
            }
        }
        wrong.into_iter().for_each(|w| self.fail(w));
    }

    /// What a receipt says of an operation in `state`: what no operator has taken back was refused.
    pub fn outcome(&self, op_id: &str, state: State) -> &'static str {
        let takes_back =
            |r: &Record| r.kind == "cancel" && r.state == State::Succeeded && self.papers[&r.op_id].statement.params["op_id"] == op_id;
        let is_refused = state == State::Cancelled && !self.journal.look(|records| records.iter().any(takes_back));
        if is_refused { "refused" } else { state.as_str() }
    }

    /// Where each accepted operation stands, in the order of acceptance.
    pub fn ends(&self) -> Vec<(String, State, bool)> {
        self.journal.look(|records| {
            let mut ends: BTreeMap<&str, (u64, State, bool)> = BTreeMap::new();
            for record in records.iter().filter(|r| !r.idempotency_key.is_empty()) {
                let entry = ends.entry(&record.op_id).or_insert((record.seq, record.state, false));
                (entry.1, entry.2) = (record.state, record.acknowledged);
            }
            let mut ends: Vec<(u64, String, State, bool)> =
                ends.into_iter().map(|(id, (seq, state, heard))| (seq, id.to_owned(), state, heard)).collect();
            ends.sort_by_key(|(seq, ..)| *seq);
            ends.into_iter().map(|(_, id, state, heard)| (id, state, heard)).collect()
        })
    }
}
