//! What must hold between the orders, the host's journal and the engine's events, wherever the agent was killed:
//!
//! - nothing is lost: every order has ended, or was refused, and the hub has the host's signed receipt of it;
//! - the operations of a lane ran one at a time, in the order of their submission;
//! - the engine did for each operation that succeeded what it takes, once, in that order, and nothing besides;
//! - nothing happened in a lane without a record that said before that it begins.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::events::Event;
use super::orders::Order;
use super::records::Record;

/// The engine may tell of something so much later than it answers, in milliseconds.
const TOLD_LATE_MS: u64 = 2_000;
/// An engine does so much later what an agent asked that was killed meanwhile, in milliseconds: as long as agents wait for it.
const DONE_LATE_MS: u64 = 30_000;
/// Events that are no effect of an order by themselves.
const EFFECTS: [&str; 7] = ["create", "start", "stop", "restart", "pause", "unpause", "destroy"];

/// Every order that was given, in the order of its submission, with how the hub says that it ended.
pub struct Given<'a> {
    /// The orders.
    pub orders: &'a [Order],
    /// Order → its stage, by a verified receipt.
    pub outcomes: &'a BTreeMap<String, String>,
}

impl Given<'_> {
    fn outcome(&self, id: &str) -> &str {
        self.outcomes.get(id).map_or("", String::as_str)
    }
}

/// Checks everything; without the engine's events, orders and journal alone.
///
/// # Errors
/// The first thing that does not hold, with what was seen.
pub fn check(given: &Given<'_>, records: &[Record], events: Option<&[Event]>) -> Result<()> {
    nothing_is_lost(given, records)?;
    lanes_in_order(given, records)?;
    let Some(events) = events else { return Ok(()) };
    let resources: BTreeSet<&str> = given.orders.iter().map(|o| o.wish.resource.as_str()).collect();
    for resource in resources {
        let Some(container) = resource.strip_prefix("docker/container/") else { continue };
        effects_once(given, records, events, resource, container)?;
    }
    nothing_unannounced(records, events)
}

/// Every order has ended, in the journal as the hub says; what was refused left no record, or never began.
fn nothing_is_lost(given: &Given<'_>, records: &[Record]) -> Result<()> {
    for order in given.orders {
        let (id, outcome) = (order.id.as_str(), given.outcome(&order.id));
        let own: Vec<&Record> = records.iter().filter(|r| r.op_id == id).collect();
        let states: Vec<&str> = own.iter().map(|r| r.state.as_str()).collect();
        if outcome == "refused" && own.is_empty() {
            continue;
        }
        let ended_as = if outcome == "refused" { "cancelled" } else { outcome };
        let accepted = own.iter().filter(|r| r.state == "accepted").count();
        ensure!(accepted == 1, "{id} ({}) was accepted {accepted} times: {states:?}", order.wish.kind);
        let ends: BTreeSet<&str> = own.iter().filter(|r| r.is_end() && !r.acknowledged).map(|r| r.state.as_str()).collect();
        ensure!(
            ends == BTreeSet::from([ended_as]),
            "{id} ({}) is {outcome:?} to the hub, and the journal says {states:?}",
            order.wish.kind
        );
        let ended = own.iter().filter(|r| r.is_end() && !r.acknowledged).count();
        ensure!(ended == 1, "{id} ended {ended} times: {states:?}");
    }
    Ok(())
}

/// In each lane acceptance and beginning are in the order of submission, and one ends before the next begins.
fn lanes_in_order(given: &Given<'_>, records: &[Record]) -> Result<()> {
    let known: BTreeMap<&str, usize> = given.orders.iter().enumerate().map(|(n, o)| (o.id.as_str(), n)).collect();
    let mut accepted: BTreeMap<&str, usize> = BTreeMap::new();
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    let mut open: BTreeMap<&str, &Record> = BTreeMap::new();
    for record in records.iter().filter(|r| !r.acknowledged && !matches!(r.kind.as_str(), "cancel" | "resolve")) {
        let lane = record.resource.as_str();
        if let Some(number) = known.get(record.op_id.as_str()).copied() {
            let newest = match record.state.as_str() {
                "accepted" => Some(&mut accepted),
                "started" => Some(&mut begun),
                _ => None,
            };
            if let Some(newest) = newest {
                let before = newest.insert(lane, number);
                // One that is proven absent begins again.
                ensure!(before.is_none_or(|b| b <= number), "{lane}: order {number} is {} after order {before:?}", record.state);
            }
        }
        match open.get(lane) {
            // The reconciler looks anew after a crash: what a step left is no longer its own.
            Some(other) if record.state == "started" && other.op_id != record.op_id && other.is_order => {
                bail!("{lane}: {} ({}) begins while {} ({}) has not ended", record.op_id, record.kind, other.op_id, other.kind);
            }
            _ => {}
        }
        if record.state == "started" {
            open.insert(lane, record);
        } else if record.is_end() && open.get(lane).is_some_and(|o| o.op_id == record.op_id) {
            open.remove(lane);
        }
    }
    Ok(())
}

/// Something that the engine should have done, or may have done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    what: String,
    optional: bool,
}

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Up,
    Paused,
    Down,
    Gone,
}

/// What the engine did to `container` is what the lane's operations take, each once, in their order.
fn effects_once(given: &Given<'_>, records: &[Record], events: &[Event], resource: &str, container: &str) -> Result<()> {
    let expected = expected(given, records, resource);
    let orders: BTreeSet<&str> = given.orders.iter().map(|o| o.id.as_str()).collect();
    let Some(first) = records.iter().find(|r| orders.contains(r.op_id.as_str())) else { return Ok(()) };
    let own = events.iter().filter(|e| e.container == container && e.at >= first.at && is_effect(&e.what));
    let actual: Vec<&str> = own.map(|e| e.what.as_str()).collect();
    ensure!(explains(&expected, &actual), "{resource}: the journal says {expected:?}, the engine {actual:?}");
    Ok(())
}

fn expected(given: &Given<'_>, records: &[Record], resource: &str) -> Vec<Expected> {
    let orders: BTreeMap<&str, &Order> = given.orders.iter().map(|o| (o.id.as_str(), o)).collect();
    let first = records.iter().find(|r| orders.contains_key(r.op_id.as_str())).map_or(0, |r| r.seq);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut is = Container::Up;
    let mut all = Vec::new();
    for record in records.iter().filter(|r| r.seq >= first && r.resource == resource && r.state == "started") {
        if !seen.insert(record.op_id.as_str()) {
            continue;
        }
        let is_done = records.iter().any(|r| r.op_id == record.op_id && r.state == "succeeded");
        let was_in_doubt = records.iter().any(|r| r.op_id == record.op_id && r.state == "indeterminate");
        let (words, then) = match orders.get(record.op_id.as_str()) {
            Some(order) => words(&record.kind, order, is),
            None => (step_words(&record.kind), Container::Up),
        };
        // A step is repeated until the host is as wanted; only an operation is promised once.
        let optional = !is_done || was_in_doubt || !record.is_order || record.kind == "converge";
        all.extend(words.into_iter().map(|what| Expected { what, optional }));
        if is_done {
            is = then;
        }
    }
    all
}

/// What one operation makes the engine do to a container that is so, and how it is then.
fn words(kind: &str, order: &Order, is: Container) -> (Vec<String>, Container) {
    let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let signal = order.wish.params.get("signal").and_then(serde_json::Value::as_str).unwrap_or_default();
    match (kind, is) {
        ("start", Container::Down) => (list(&["start"]), Container::Up),
        ("stop", Container::Up) => (list(&["stop"]), Container::Down),
        ("restart", Container::Up) => (list(&["stop", "start", "restart"]), Container::Up),
        ("restart", Container::Down) => (list(&["start", "restart"]), Container::Up),
        ("kill", _) if signal == "SIGKILL" => (list(&["kill:9"]), Container::Down),
        ("kill", _) => (list(&["kill:10"]), is),
        ("pause", Container::Up) => (list(&["pause"]), Container::Paused),
        ("unpause", Container::Paused) => (list(&["unpause"]), Container::Up),
        ("exec", _) => (vec![format!("exec_start:{}", order.id)], is),
        ("destroy", Container::Up) => (list(&["stop", "destroy"]), Container::Gone),
        ("destroy", _) => (list(&["destroy"]), Container::Gone),
        ("converge", _) => (list(&["create", "start"]), Container::Up),
        _ => (Vec::new(), is),
    }
}

fn step_words(kind: &str) -> Vec<String> {
    let words: &[&str] = match kind {
        "create-container" => &["create", "start"],
        "start-container" => &["start"],
        "unpause-container" => &["unpause"],
        "replace-container" => &["create", "stop", "destroy", "start"],
        "remove-container" => &["stop", "destroy"],
        _ => &[],
    };
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Whether an event is the effect of something that was ordered. What the engine sends to stop a container (SIGTERM, and
/// SIGKILL when it does not) is told by the stop itself; SIGKILL alone is an operation's.
fn is_effect(what: &str) -> bool {
    EFFECTS.contains(&what) || what.starts_with("exec_start:") || matches!(what, "kill:9" | "kill:10")
}

/// Whether `actual` is all of `expected` in its order, without any of what is optional that did not happen.
fn explains(expected: &[Expected], actual: &[&str]) -> bool {
    // reached[n]: the first n events are explained by what was expected so far.
    let mut reached = vec![false; actual.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for one in expected {
        let mut next = vec![false; actual.len() + 1];
        for (n, _) in reached.iter().enumerate().filter(|(_, r)| **r) {
            if one.optional
                && let Some(slot) = next.get_mut(n)
            {
                *slot = true;
            }
            if actual.get(n).is_none_or(|what| *what != one.what) {
                continue;
            }
            if let Some(slot) = next.get_mut(n + 1) {
                *slot = true;
            }
            // An engine that hears from its runtime of a pause only when it has undone it tells of both once more.
            if one.what == "unpause"
                && actual.get(n + 1..).is_some_and(|rest| rest.starts_with(&["pause", "unpause"]))
                && let Some(slot) = next.get_mut(n + 3)
            {
                *slot = true;
            }
        }
        reached = next;
    }
    reached.last().copied().unwrap_or_default()
}

/// Whatever the engine did to a container lies between the record that it begins and the one of its end.
fn nothing_unannounced(records: &[Record], events: &[Event]) -> Result<()> {
    // A host keeps so many closed segments only: what is older than all of them was judged when it was new.
    let oldest = records.first().filter(|first| first.seq > 1).map_or(0, |first| first.at + DONE_LATE_MS);
    for event in events.iter().filter(|e| e.at >= oldest && is_effect(&e.what)) {
        let resource = format!("docker/container/{}", event.container);
        let begun = records.iter().filter(|r| r.resource == resource && r.state == "started" && r.at <= event.at);
        let covers = |begun: &Record| {
            let end = records.iter().find(|r| r.op_id == begun.op_id && r.is_end() && !r.acknowledged);
            let late = |end: &Record| if end.state == "succeeded" { TOLD_LATE_MS } else { DONE_LATE_MS };
            end.is_none_or(|end| end.at + late(end) >= event.at)
        };
        if !begun.into_iter().any(covers) {
            bail!("the engine did `{}` to {resource} at {}, and no record says that it begins", event.what, event.at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(words: &[&str]) -> Vec<Expected> {
        // A word with a question mark is optional.
        words.iter().map(|w| Expected { what: w.trim_end_matches('?').to_owned(), optional: w.ends_with('?') }).collect()
    }

    #[test]
    fn what_happened_twice_or_never_or_in_another_order_is_found() {
        let all = expected(&["pause", "unpause", "kill:10?", "exec_start:a"]);
        assert!(explains(&all, &["pause", "unpause", "exec_start:a"]));
        assert!(explains(&all, &["pause", "unpause", "kill:10", "exec_start:a"]));
        assert!(!explains(&all, &["pause", "unpause", "kill:10", "kill:10", "exec_start:a"]), "twice");
        assert!(!explains(&all, &["pause", "exec_start:a"]), "never");
        assert!(!explains(&all, &["unpause", "pause", "exec_start:a"]), "another order");
        assert!(!explains(&all, &["pause", "unpause", "exec_start:a", "start"]), "nobody ordered it");
        assert!(explains(&all, &["pause", "unpause", "pause", "unpause", "exec_start:a"]), "the engine's echo");
        assert!(!explains(&all, &["pause", "unpause", "pause", "unpause", "pause", "unpause", "exec_start:a"]), "no echo");
        assert!(!explains(&all, &["pause", "pause", "unpause", "exec_start:a"]), "twice");
        assert!(explains(&[], &[]) && !explains(&[], &["start"]));
    }

    fn record(seq: u64, at: u64, op_id: &str, state: &str) -> Record {
        Record {
            seq,
            at,
            op_id: op_id.to_owned(),
            resource: "docker/container/c".to_owned(),
            kind: "stop".to_owned(),
            state: state.to_owned(),
            is_order: true,
            acknowledged: false,
        }
    }

    #[test]
    fn an_effect_before_its_record_is_found() {
        let event = |at| Event { at, container: "c".to_owned(), what: "stop".to_owned() };
        let records = [record(1, 100, "a", "started"), record(2, 200, "a", "succeeded")];
        nothing_unannounced(&records, &[event(150)]).unwrap();
        nothing_unannounced(&records, &[event(99)]).unwrap_err();
        nothing_unannounced(&records, &[event(200 + TOLD_LATE_MS + 1)]).unwrap_err();

        let rest = [record(7, 100, "a", "started"), record(8, 40_000, "a", "succeeded")];
        nothing_unannounced(&rest, &[event(99)]).unwrap();
        nothing_unannounced(&rest, &[event(40_000 + TOLD_LATE_MS + 1)]).unwrap_err();
    }

    #[test]
    fn an_operation_that_begins_before_the_other_has_ended_is_found() {
        let given = Given { orders: &[], outcomes: &BTreeMap::new() };
        let one_by_one = [record(1, 1, "a", "started"), record(2, 2, "a", "succeeded"), record(3, 3, "b", "started")];
        lanes_in_order(&given, &one_by_one).unwrap();
        lanes_in_order(&given, &[record(1, 1, "a", "started"), record(2, 2, "b", "started")]).unwrap_err();
    }
}
