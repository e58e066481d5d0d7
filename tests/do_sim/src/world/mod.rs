//! The account: plain data that changes when it is called, and when its time goes by.
//!
//! | module | what it holds |
//! |---|---|
//! | [`droplet`] | droplets |
//! | [`action`] | what is done to them, and how that ends |
//! | [`snapshot`] | snapshots |
//! | [`billing`] | what was ever made |
//! | [`limits`] | how often was called |
//! | [`faults`] | what goes wrong |
//! | [`hand`] | what people do behind the API's back |
//! | [`power`] | droplets that are switched on and off, for those who run them |
//! | [`random`] | made-up values |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::api;
use crate::request::{Request, Response};
use crate::schema::Schema;
use crate::setup::Setup;

pub mod action;
pub mod billing;
pub mod droplet;
pub mod faults;
pub mod hand;
pub mod limits;
pub mod power;
pub mod random;
pub mod snapshot;

use action::{Action, Progress};
use billing::Ledger;
use droplet::Droplet;
use faults::{Faults, Wrong};
use limits::Counters;
use power::Power;
use random::Random;
use snapshot::Snapshot;

/// Numbers begin where they no longer fit into 32 bits, or nearly so.
const FIRST_DROPLET: u64 = 524_000_000;
const FIRST_ACTION: u64 = 2_610_000_000;
const FIRST_SNAPSHOT: u64 = 198_000_000;

/// The account.
#[derive(Debug, Serialize, Deserialize)]
pub struct World {
    /// As what it began, and how it now is set.
    pub setup: Setup,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Its droplets, with those that were deleted.
    pub droplets: BTreeMap<u64, Droplet>,
    /// What was done to them.
    pub actions: BTreeMap<u64, Action>,
    /// Its snapshots, with those that were deleted.
    pub snapshots: BTreeMap<u64, Snapshot>,
    /// Its tags, as they are written, by the same in small letters.
    pub tags: BTreeMap<String, String>,
    /// What goes wrong.
    pub faults: Faults,
    /// What was ever made.
    pub ledger: Ledger,
    /// Every call.
    pub requests: Vec<Logged>,
    /// Tags by which droplets were deleted, which nobody should do.
    pub deleted_by_tag: Vec<String>,
    /// What was wrong with calls and answers, by the API's own description.
    pub wrong: Vec<String>,
    pub(crate) counters: Counters,
    pub(crate) random: Random,
    pub(crate) last_droplet: u64,
    pub(crate) last_action: u64,
    pub(crate) last_snapshot: u64,
    /// What comes, by its time and in order.
    planned: BTreeMap<u64, Vec<Event>>,
    last_call: u64,
    /// Calls that are still on their way.
    #[serde(skip)]
    under_way: BTreeMap<u64, Request>,
    /// Answers to those that have arrived.
    #[serde(skip)]
    arrived: BTreeMap<u64, Response>,
    #[serde(skip)]
    pub(crate) watchers: Vec<UnboundedSender<Power>>,
    #[serde(skip)]
    schema: Option<Arc<Schema>>,
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The name of the token; empty for who was not let in.
    pub token: String,
    /// The body; of `user_data` only its length.
    pub body: Value,
    /// The status of the answer.
    pub status: u16,
}

/// What comes when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// An action ends.
    Ends(u64),
    /// There was no place for a droplet.
    Vanishes(u64),
    /// A call arrives.
    Arrives(u64),
}

impl World {
    /// An account as it begins.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            now_ms: setup.begins_at_ms,
            random: Random::new(setup.seed),
            setup,
            droplets: BTreeMap::new(),
            actions: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            tags: BTreeMap::new(),
            faults: Faults::default(),
            ledger: Ledger::default(),
            requests: Vec::new(),
            deleted_by_tag: Vec::new(),
            wrong: Vec::new(),
            counters: Counters::default(),
            last_droplet: FIRST_DROPLET,
            last_action: FIRST_ACTION,
            last_snapshot: FIRST_SNAPSHOT,
            planned: BTreeMap::new(),
            last_call: 0,
            under_way: BTreeMap::new(),
            arrived: BTreeMap::new(),
            watchers: Vec::new(),
            schema: None,
        }
    }

    /// Holds calls and answers to the API's own description from now on.
    pub fn set_schema(&mut self, schema: Option<Arc<Schema>>) {
        self.schema = schema;
    }

    /// The droplets that are there, whether or not listings show them.
    #[must_use]
    pub fn living(&self) -> Vec<&Droplet> {
        self.droplets.values().filter(|droplet| droplet.deleted_ms.is_none()).collect()
    }

    /// Lets time go by. It never goes back.
    pub fn settle(&mut self, now_ms: u64) {
        while let Some(entry) = self.planned.first_entry().filter(|entry| *entry.key() <= now_ms) {
            let (at_ms, events) = entry.remove_entry();
            self.now_ms = self.now_ms.max(at_ms);
            events.into_iter().for_each(|event| self.happen(event));
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// When something comes next.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.planned.keys().next().copied()
    }

    pub(crate) fn plan(&mut self, after_ms: u64, event: Event) {
        self.planned.entry(self.now_ms.saturating_add(after_ms)).or_default().push(event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ends(action) => self.end_action(action),
            Event::Vanishes(droplet) => self.end_droplet(droplet),
            Event::Arrives(number) => {
                if let Some(request) = self.under_way.remove(&number) {
                    let response = self.call(&request);
                    self.arrived.insert(number, response);
                }
            }
        }
        self.settle_now();
    }

    /// What takes no time is done at once.
    fn settle_now(&mut self) {
        let now_ms = self.now_ms;
        if self.next_ms().is_some_and(|ms| ms <= now_ms) {
            self.settle(now_ms);
        }
    }

    /// Serves a call.
    pub fn call(&mut self, request: &Request) -> Response {
        let at_ms = self.now_ms;
        let (mut response, token) = api::answer(self, request);
        self.settle_now();
        let id = self.random.uuid();
        if response.status >= 400
            && let Value::Object(mut body) = response.read()
            && body.contains_key("message")
        {
            body.insert("request_id".to_owned(), Value::String(id.clone()));
            response.body = Value::Object(body).to_string().into_bytes();
        }
        response.headers.push(("x-request-id".to_owned(), id));
        if let Some(schema) = self.schema.clone() {
            self.wrong.extend(schema.check(request, &response));
        }
        self.log(request, at_ms, token, response.status);
        response
    }

    /// What goes wrong with a call; counts it.
    pub(crate) fn take_faults(&mut self, request: &Request) -> Vec<Wrong> {
        self.faults.take(&request.method, &request.path, &mut self.random)
    }

    /// Answers a call without serving it.
    pub(crate) fn refuse(&mut self, request: &Request, response: Response) -> Response {
        let token = api::let_in(self, request).map(|token| token.name).unwrap_or_default();
        self.log(request, self.now_ms, token, response.status);
        response
    }

    fn log(&mut self, request: &Request, at_ms: u64, token: String, status: u16) {
        let (method, path, body) = (request.method.clone(), request.path.clone(), without_secrets(&request.body));
        self.requests.push(Logged { at_ms, method, path, token, body, status });
    }

    /// Lets a call arrive later. Returns its number, by which its answer is asked for.
    pub(crate) fn send(&mut self, request: Request, after_ms: u64) -> u64 {
        self.last_call += 1;
        self.under_way.insert(self.last_call, request);
        self.plan(after_ms, Event::Arrives(self.last_call));
        self.last_call
    }

    pub(crate) fn reply(&mut self, number: u64) -> Option<Response> {
        self.arrived.remove(&number)
    }

    /// Actions of a droplet that have not ended.
    #[must_use]
    pub fn running(&self, droplet: u64) -> Vec<&Action> {
        let is_its = |action: &&Action| action.droplet == droplet && action.progress == Progress::InProgress;
        self.actions.values().filter(is_its).collect()
    }
}

fn without_secrets(body: &[u8]) -> Value {
    let mut body = serde_json::from_slice(body).unwrap_or(Value::Null);
    if let Some(data) = body.get_mut("user_data") {
        *data = Value::from(data.as_str().map_or(0, str::len));
    }
    body
}
