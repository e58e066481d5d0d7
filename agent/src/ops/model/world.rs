//! What the model plays on: an engine that outlives the agents, and what orders for it say.

use serde_json::{Value, json};

use super::steps::Draft;
use crate::driver::Driver;
use crate::driver::sim::memory::{Event, Line, Machine};
use crate::testing::services;

/// An engine, and what can go wrong with it. Clones are the same one.
pub trait World: Clone + Send + Sync + 'static {
    /// An agent's line to it.
    type Line: Driver;
    /// One with what the slices need.
    fn new() -> Self;
    /// A line for an agent that begins its life now; those before are dead.
    fn line(&self) -> Self::Line;
    /// The agent dies: nothing that it asks is heard any more.
    fn hang_up(&self);
    /// Who is told of all that happens.
    fn watch(&self, watcher: impl FnMut(Event) + Send + 'static);
    /// Whether it can be reached.
    fn unreachable(&self, so: bool);
    /// The next effects are not told.
    fn deafen(&self, effects: u32);
    /// The next requests are done later.
    fn delay(&self, requests: u32);
    /// Calls take so many turns of others.
    fn slow(&self, turns: u32);
    /// It ends with its machine.
    fn reboot(&self);
    /// It forgets what it keeps in memory alone.
    fn forget(&self);
    /// What a draft orders: the kind, the resource and the parameters. `number`: how many were signed before.
    fn order(draft: &Draft, number: usize) -> (&'static str, String, Value);
    /// What the host shall have; other content for each number.
    fn content(contents: u64) -> Value;
}

/// The resources that orders are about.
const CONTAINERS: [&str; 2] = ["docker/container/edge-db-1", "docker/container/edge-web-1"];

impl World for Machine {
    type Line = Line;

    fn new() -> Self {
        Self::default()
    }

    fn line(&self) -> Line {
        Machine::line(self)
    }

    fn hang_up(&self) {
        Machine::hang_up(self);
    }

    fn watch(&self, watcher: impl FnMut(Event) + Send + 'static) {
        Machine::watch(self, watcher);
    }

    fn unreachable(&self, so: bool) {
        Machine::unreachable(self, so);
    }

    fn deafen(&self, effects: u32) {
        Machine::deafen(self, effects);
    }

    fn delay(&self, requests: u32) {
        Machine::delay(self, requests);
    }

    fn slow(&self, turns: u32) {
        Machine::slow(self, turns);
    }

    fn reboot(&self) {
        Machine::reboot(self);
    }

    fn forget(&self) {
        Machine::forget(self);
    }

    fn order(draft: &Draft, _number: usize) -> (&'static str, String, Value) {
        let container = CONTAINERS[usize::from(draft.resource % 2)];
        let (kind, resource, params) = match draft.kind {
            0 | 1 => ("restart", container, json!({})),
            2 | 3 => ("stop", container, json!({})),
            4 => ("start", container, json!({})),
            5 | 6 => ("kill", container, json!({ "signal": "SIGKILL" })),
            7 => ("pause", container, json!({})),
            8 => ("unpause", container, json!({})),
            9 | 10 => ("exec", container, json!({ "argv": ["true"] })),
            11 => ("destroy", container, json!({})),
            12 => ("pull", "docker/image/demo:2", json!({})),
            13 => ("prune", "host", json!({})),
            14 if draft.resource == 0 => ("time-reset", "host", json!({})),
            14 => ("converge", container, json!({})),
            _ => ("release", container, json!({})),
        };
        (kind, resource.to_owned(), params)
    }

    fn content(contents: u64) -> Value {
        let mut content = services(&["db", "web"], false);
        // What was wanted once comes again.
        content["docker"]["volumes"] = json!({ format!("v{}", contents % 3): {} });
        content
    }
}
