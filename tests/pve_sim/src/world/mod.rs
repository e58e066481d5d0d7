//! The cluster: plain data that changes when it is called, and when its time goes by.
//!
//! | module | what it holds |
//! |---|---|
//! | [`guest`] | guests and their configs |
//! | [`storage`] | storages and volumes |
//! | [`task`] | tasks, and how they come to their end |
//! | [`access`] | who calls, and what each may do |
//! | [`faults`] | what goes wrong |
//! | [`effects`] | what happened |
//! | [`hand`] | what people do behind the API's back |
//! | [`random`] | made-up values |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{self, Fail};
use crate::normal::drive::Drive;
use crate::request::{Answer, Request};
use crate::schema::Schema;
use crate::setup::Setup;
use crate::work::Work;

pub mod access;
pub mod effects;
pub mod faults;
pub mod guest;
pub mod hand;
pub mod random;
pub mod storage;
pub mod task;

use access::Session;
use effects::{By, Effect};
use faults::Faults;
use guest::{Guest, Power};
use random::Random;
use storage::{Storage, Volume};
use task::Task;

/// How long pveproxy waits for the daemon behind it.
pub const PROXY_MS: u64 = 30_000;
/// How much later somebody who is not let in is answered.
const UNAUTHORIZED_MS: u64 = 3_000;

/// The cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct World {
    /// As what it began.
    pub setup: Setup,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Its guests.
    pub guests: BTreeMap<u32, Guest>,
    /// Its storages.
    pub storages: BTreeMap<String, Storage>,
    /// Its tasks, in order.
    pub tasks: BTreeMap<u64, Task>,
    /// What goes wrong.
    pub faults: Faults,
    /// What happened.
    pub effects: Vec<Effect>,
    /// Every call.
    pub requests: Vec<Logged>,
    /// What was wrong with calls, by the API's own description.
    pub wrong: Vec<String>,
    /// The fingerprint of the certificate with which it answers, where it is asked over a connection.
    pub fingerprint: Option<String>,
    /// What `/cluster/resources` says of guests.
    pub(crate) seen: BTreeMap<u32, (Power, String)>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) random: Random,
    pub(crate) next_task: u64,
    pub(crate) next_guest: u64,
    seen_tick: u64,
    /// Calls that come to their effect later.
    waiting: BTreeMap<u64, Waiting>,
    /// What the cluster will begin.
    planned: Vec<Planned>,
    /// Answers of those that have.
    answers: BTreeMap<u64, Answer>,
    #[serde(skip, default = "nobody")]
    pub(crate) cause: Cause,
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
    /// The path behind `/api2/json`, without its query.
    pub path: String,
    /// Who called; empty for who was not let in.
    pub who: String,
    /// The parameters, of the query and the body.
    pub params: BTreeMap<String, String>,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
}

/// A call that waits for something.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Waiting {
    /// The call that is made then; `None` when it was, and its task is waited for.
    request: Option<Request>,
    /// The task that is waited for.
    upid: String,
    at_ms: u64,
    until_ms: u64,
}

/// A task that the cluster begins by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Planned {
    at_ms: u64,
    node: String,
    kind: String,
    vmid: u32,
    work: Work,
}

/// Why something happens.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    pub text: String,
    pub on_behalf: String,
    pub by: By,
}

/// What is due, in the order in which it goes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Task(u64),
    Call(u64),
    Plan(usize),
}

fn nobody() -> Cause {
    Cause { text: String::new(), on_behalf: String::new(), by: By::Itself }
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is answered, so many milliseconds later.
    Now(Answer, u64),
    /// It has its effect later: ask [`World::outcome`] then.
    Later {
        /// Which call it was.
        number: u64,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
}

impl World {
    /// A cluster as it begins.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let now_ms = setup.begins_at_ms;
        let storages = setup.storages.iter().map(|storage| (storage.name.clone(), Storage::new(storage, now_ms / 1000))).collect();
        let mut world = Self {
            now_ms,
            guests: BTreeMap::new(),
            storages,
            tasks: BTreeMap::new(),
            faults: Faults::default(),
            effects: Vec::new(),
            requests: Vec::new(),
            wrong: Vec::new(),
            fingerprint: None,
            seen: BTreeMap::new(),
            sessions: BTreeMap::new(),
            random: Random::new(setup.seed),
            next_task: 1,
            next_guest: 1,
            seen_tick: 0,
            waiting: BTreeMap::new(),
            planned: Vec::new(),
            answers: BTreeMap::new(),
            cause: nobody(),
            schema: None,
            setup,
        };
        for guest in world.setup.guests.clone() {
            let node = guest.node.clone().unwrap_or_else(|| world.first_node());
            world.place(guest.kind, guest.vmid, &node, guest.config);
            if guest.running
                && let Some(placed) = world.guests.get_mut(&guest.vmid)
            {
                placed.power = Power::Running { since_ms: now_ms };
            }
        }
        world.note_seen();
        world
    }

    /// Checks every call against the API's own description from now on.
    pub fn set_schema(&mut self, schema: Option<Arc<Schema>>) {
        self.schema = schema;
    }

    pub(crate) fn schema(&self) -> Option<Arc<Schema>> {
        self.schema.clone()
    }

    /// The node that is asked.
    #[must_use]
    pub fn first_node(&self) -> String {
        self.setup.nodes.first().cloned().unwrap_or_else(|| "pve-1".to_owned())
    }

    /// Puts a guest there as it is, with the volumes that its config names.
    pub(crate) fn place(&mut self, kind: guest::Kind, vmid: u32, node: &str, conf: guest::Config) {
        let incarnation = self.next_guest;
        self.next_guest += 1;
        let guest = Guest {
            vmid,
            kind,
            node: node.to_owned(),
            conf,
            pending: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            power: Power::Stopped,
            shutdown_ms: Some(2_000),
            incarnation,
        };
        let now_s = self.now_ms / 1000;
        for (key, volid) in guest.volumes() {
            let bytes = guest.conf.get(&key).and_then(|text| Drive::parse(text)?.size()).unwrap_or(4 << 20);
            if let Some((storage, name)) = volid.split_once(':')
                && let Some(storage) = self.storages.get_mut(storage)
            {
                let format = name.rsplit_once('.').map_or(if name.starts_with("subvol") { "subvol" } else { "raw" }, |(_, end)| end);
                let volume = Volume::of_disk(kind, node, vmid, bytes, format, now_s);
                storage.volumes.entry(name.to_owned()).or_insert(volume);
            }
        }
        self.guests.insert(vmid, guest);
    }

    /// Makes a call at a time. What goes wrong on the wire is not its affair.
    pub fn call(&mut self, now_ms: u64, request: &Request) -> Reply {
        self.call_taking(now_ms, request, None)
    }

    /// The same, with what it takes until its effect, in milliseconds.
    pub fn call_taking(&mut self, now_ms: u64, request: &Request, takes_ms: Option<u64>) -> Reply {
        self.settle(now_ms);
        let number = u64::try_from(self.requests.len()).unwrap_or(u64::MAX);
        let (path, _) = crate::request::split_path(&request.path);
        let path = path.trim_start_matches("/api2/json").to_owned();
        self.requests.push(Logged {
            at_ms: self.now_ms,
            method: request.method.clone(),
            path: path.clone(),
            who: String::new(),
            params: BTreeMap::new(),
            status: 0,
        });
        let takes_ms = takes_ms.unwrap_or(0).max(self.faults.call_ms(&request.method, &path));
        if takes_ms > 0 {
            let at_ms = self.now_ms.saturating_add(takes_ms);
            let until_ms = at_ms.saturating_add(task::FLOCK_MS);
            self.waiting.insert(number, Waiting { request: Some(request.clone()), upid: String::new(), at_ms, until_ms });
            return Reply::Later { number, at_ms };
        }
        let until_ms = self.now_ms.saturating_add(task::FLOCK_MS);
        self.perform(number, request, until_ms)
    }

    /// What became of a call that came to its effect later.
    pub fn outcome(&mut self, now_ms: u64, number: u64) -> Reply {
        self.settle(now_ms);
        if let Some(answer) = self.answers.remove(&number) {
            return Reply::Now(answer, 0);
        }
        match self.waiting.get(&number) {
            Some(waiting) => Reply::Later { number, at_ms: waiting.at_ms },
            None => Reply::Now(Answer::plain(599, "the call is forgotten"), 0),
        }
    }

    fn perform(&mut self, number: u64, request: &Request, until_ms: u64) -> Reply {
        let cause = self.enter(Cause { text: format!("request {number}"), on_behalf: request.on_behalf.clone(), by: By::Api });
        let result = api::serve(self, number, request);
        self.leave(cause);
        let is_old = self.setup.old_errors;
        let (answer, after_ms) = match result {
            Ok(data) => (Answer::data(&data), 0),
            Err(Fail::Busy { vmid, free_ms }) => {
                if free_ms <= until_ms && self.now_ms < until_ms {
                    self.waiting.insert(number, Waiting { request: Some(request.clone()), upid: String::new(), at_ms: free_ms, until_ms });
                    return Reply::Later { number, at_ms: free_ms };
                }
                let words = self.flock_words(vmid);
                (Answer::failure(500, &words, &BTreeMap::new(), is_old), until_ms.saturating_sub(self.now_ms))
            }
            Err(Fail::Await { upid, until_ms }) => return self.wait_for(number, upid, until_ms),
            Err(Fail::Unauthorized(words)) => (Answer::plain(401, &words), UNAUTHORIZED_MS),
            Err(Fail::Plain(status, words)) => (Answer::plain(status, &words), 0),
            Err(Fail::Said { status, message, errors }) => (Answer::failure(status, &message, &errors, is_old), 0),
        };
        self.note_status(number, answer.status);
        Reply::Now(answer, after_ms)
    }

    fn note_status(&mut self, number: u64, status: u16) {
        if let Some(logged) = usize::try_from(number).ok().and_then(|number| self.requests.get_mut(number)) {
            logged.status = status;
        }
    }

    /// Answers nothing once a task has ended well, and its id when it has not ended in time.
    fn wait_for(&mut self, number: u64, upid: String, until_ms: u64) -> Reply {
        let ended = self.task(&upid).and_then(|(_, task)| task.exit.clone());
        let answer = match ended {
            Some(exit) if exit == "OK" || exit.starts_with("WARNINGS: ") => Answer::data(&Value::Null),
            Some(exit) => {
                let vmid = self.task(&upid).map(|(_, task)| task.id.clone()).unwrap_or_default();
                let words = format!("failed to update VM {vmid}: {exit}");
                Answer::failure(500, &words, &BTreeMap::new(), self.setup.old_errors)
            }
            None if self.now_ms >= until_ms => Answer::data(&Value::String(upid)),
            None => {
                let due = self.task(&upid).and_then(|(_, task)| task.due_ms()).unwrap_or(until_ms);
                // Just after the task, should both be due at the same time.
                let at_ms = due.saturating_add(1).min(until_ms);
                self.waiting.insert(number, Waiting { request: None, upid, at_ms, until_ms });
                return Reply::Later { number, at_ms };
            }
        };
        self.note_status(number, answer.status);
        Reply::Now(answer, 0)
    }

    /// Lets time go by: everything that was due comes to its end, in order.
    pub fn settle(&mut self, now_ms: u64) {
        let end = now_ms.max(self.now_ms);
        loop {
            let task = self.next_due().map(|(at, number)| (at, Due::Task(number)));
            let call = self.waiting.iter().map(|(number, waiting)| (waiting.at_ms, Due::Call(*number))).min();
            let plan = self.planned.iter().enumerate().map(|(index, plan)| (plan.at_ms, Due::Plan(index))).min();
            let Some((at_ms, due)) = [task, call, plan].into_iter().flatten().min().filter(|(at, _)| *at <= end) else { break };
            self.tick(at_ms);
            self.now_ms = self.now_ms.max(at_ms);
            match due {
                Due::Task(number) => self.advance(number),
                Due::Call(number) => self.resume(number),
                Due::Plan(index) => {
                    let plan = self.planned.remove(index);
                    self.spawn(&plan.node, &plan.kind, &plan.vmid.to_string(), "root@pam", plan.work);
                }
            }
        }
        self.tick(end);
        self.now_ms = end;
    }

    /// Begins a task of the cluster's own some time later.
    pub(crate) fn later(&mut self, ms: u64, node: &str, kind: &str, vmid: u32, work: Work) {
        let at_ms = self.now_ms.saturating_add(ms);
        self.planned.push(Planned { at_ms, node: node.to_owned(), kind: kind.to_owned(), vmid, work });
    }

    fn resume(&mut self, number: u64) {
        let Some(waiting) = self.waiting.remove(&number) else { return };
        let reply = match &waiting.request {
            Some(request) => self.perform(number, request, waiting.until_ms),
            None => self.wait_for(number, waiting.upid.clone(), waiting.until_ms),
        };
        if let Reply::Now(answer, _) = reply {
            self.answers.insert(number, answer);
        }
    }

    /// Renews what the cluster says of guests, if its time has come before `at_ms`.
    fn tick(&mut self, at_ms: u64) {
        let every = self.setup.resources_every_ms.max(1);
        let tick = at_ms / every;
        if tick > self.seen_tick {
            self.seen_tick = tick;
            self.note_seen();
        }
    }

    fn note_seen(&mut self) {
        self.seen = self.guests.values().map(|guest| (guest.vmid, (guest.power, guest.name()))).collect();
    }

    pub(crate) fn enter(&mut self, cause: Cause) -> Cause {
        std::mem::replace(&mut self.cause, cause)
    }

    pub(crate) fn leave(&mut self, before: Cause) {
        self.cause = before;
    }

    /// Puts locks on guests whose owners are gone, or takes every lock off that is not named.
    pub fn set_locks(&mut self, locks: &faults::Locks) {
        let vmids: BTreeSet<u32> = self.guests.keys().copied().collect();
        for vmid in vmids {
            let lock = locks.get(&vmid).cloned();
            if let Some(guest) = self.guests.get_mut(&vmid) {
                match lock {
                    Some(lock) => drop(guest.conf.insert("lock".to_owned(), lock)),
                    None => drop(guest.conf.remove("lock")),
                }
            }
        }
    }

    /// A guest's config by its number, for tests.
    #[must_use]
    pub fn guest(&self, vmid: u32) -> Option<&Guest> {
        self.guests.get(&vmid)
    }
}
