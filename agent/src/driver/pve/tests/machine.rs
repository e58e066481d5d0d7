//! The simulated host as the model test plays on it: it outlives the agents, is slow, loses answers, does what it was asked after nobody
//! waits for it any more, and tells of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::id::ResourceId;
use moorline_common::observe::Observed;
use moorline_common::plan::Step;
use moorline_pve_sim::setup::{CONTAINER_TEMPLATE, SECRET, TOKEN};
use moorline_pve_sim::sim::Cut;
use moorline_pve_sim::world::effects::EffectKind;
use moorline_pve_sim::world::faults::WorkerFault;
use moorline_pve_sim::{Request, Setup, Sim};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::client::{Call, NoReply, Reply, Transport, Verb};
use super::super::{Client, PveDriver};
use super::identity;
use crate::driver::host::HostDriver;
use crate::driver::sim::memory::{Event, Line};
use crate::driver::{Begun, Driver, DriverError, Found, Known, OpOrder, Ownership, Taker, Tasks};
use crate::ops::model::Draft;
use crate::ops::model::world::World;

/// A request that was taken is done by then, or never.
const LATE: Duration = Duration::from_secs(20);

type Watcher = Box<dyn FnMut(Event) + Send>;

/// See the module; with so many guests.
#[derive(Clone)]
pub struct Host<const GUESTS: u8 = 2> {
    pub sim: Sim,
    inner: Arc<Mutex<Inner>>,
    events: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    /// Agents of earlier lives get no answer: they are dead.
    life: u64,
    boot: u64,
    deaf: u32,
    late: u32,
    slow: u32,
    working: BTreeMap<ResourceId, String>,
    seen: Option<Watcher>,
    /// Effects that were looked at.
    looked: usize,
    /// Operations and causes that were told of.
    told: BTreeSet<(String, String)>,
}

tokio::task_local! {
    /// For which operation calls are made: its id and kind.
    static ORDER: (String, String);
}

/// The number of a guest.
fn number_of(guest: u8) -> u32 {
    101 + u32::from(guest)
}

/// Every fourth guest is a container.
fn is_container(guest: u8) -> bool {
    guest % 4 == 3
}

impl<const GUESTS: u8> Host<GUESTS> {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        if let Some(seen) = &mut self.lock().seen {
            seen(event);
        }
    }

    /// Tells of what operations have done since the last time. What a call or task does counts once.
    fn look(&self) {
        let from = self.lock().looked;
        let new = self.sim.inspect(|world| world.effects.get(from..).unwrap_or_default().to_vec());
        self.lock().looked += new.len();
        for effect in new {
            let Some((op_id, kind)) = effect.on_behalf.split_once(' ') else { continue };
            // What is made is marked afterwards.
            if kind == "clone" && effect.kind != EffectKind::Cloned {
                continue;
            }
            if self.lock().told.insert((op_id.to_owned(), effect.cause)) {
                self.tell(Event::Effect(op_id.to_owned()));
            }
        }
    }

    fn enter(&self, resource: &ResourceId, who: &str) -> AtWork<GUESTS> {
        let mut inner = self.lock();
        let other = inner.working.insert(resource.clone(), who.to_owned());
        let life = inner.life;
        drop(inner);
        if let Some(other) = other {
            self.tell(Event::Clash(format!("{who} meets {other} on {resource}")));
        }
        AtWork { host: self.clone(), life, resource: resource.clone() }
    }
}

struct AtWork<const GUESTS: u8> {
    host: Host<GUESTS>,
    life: u64,
    resource: ResourceId,
}

impl<const GUESTS: u8> Drop for AtWork<GUESTS> {
    fn drop(&mut self) {
        let mut inner = self.host.lock();
        if inner.life == self.life {
            inner.working.remove(&self.resource);
        }
    }
}

impl<const GUESTS: u8> World for Host<GUESTS> {
    type Line = PveLine<GUESTS>;

    fn new() -> Self {
        Self { sim: Sim::new(Setup::default()), inner: Arc::default(), events: Arc::default() }
    }

    fn line(&self) -> PveLine<GUESTS> {
        World::hang_up(self);
        let (life, known) = (self.lock().life, Arc::<Known>::default());
        let owned = Ownership { cluster: identity().cluster, host_id: identity().host_id, known };
        let way = Way { host: self.clone(), life };
        let driver = PveDriver::new(Client::new(way, "pve-1".to_owned(), TOKEN.to_owned()), owned.clone());
        PveLine { host: self.clone(), life, driver: HostDriver::new(None, Some(driver), &owned) }
    }

    fn hang_up(&self) {
        let mut inner = self.lock();
        inner.life += 1;
        inner.working.clear();
    }

    fn watch(&self, watcher: impl FnMut(Event) + Send + 'static) {
        self.lock().seen = Some(Box::new(watcher));
    }

    fn unreachable(&self, so: bool) {
        self.sim.change(|world| world.faults.unreachable = so);
        self.events.notify_one();
    }

    fn deafen(&self, effects: u32) {
        self.lock().deaf = effects;
    }

    fn delay(&self, requests: u32) {
        self.lock().late = requests;
    }

    fn slow(&self, turns: u32) {
        self.lock().slow = turns;
    }

    fn reboot(&self) {
        World::hang_up(self);
        self.lock().boot += 1;
    }

    /// The next worker dies, and nobody knows how far it came.
    fn forget(&self) {
        let fault = WorkerFault { task: ".*".to_owned(), after_effect: false, next: Some(1) };
        self.sim.change(|world| world.faults.worker_dies = vec![fault]);
    }

    fn order(draft: &Draft, number: usize) -> (&'static str, String, Value) {
        let guest = draft.resource % GUESTS;
        let (kind, params) = match draft.kind {
            0 | 1 => ("reboot", json!({ "timeout_s": 60 })),
            2 | 3 => ("stop", json!({})),
            4 => ("start", json!({})),
            5 => ("shutdown", json!({ "timeout_s": 60 })),
            6 => ("suspend", json!({})),
            7 => ("resume", json!({})),
            8 | 9 => ("snapshot-create", json!({})),
            10 => {
                let kind = if is_container(guest) { "lxc" } else { "qemu" };
                ("set-config", json!({ "type": kind, "set": { "description": format!("number {number}") } }))
            }
            11 => ("clone", json!({ "newid": (1000 + number).to_string() })),
            12 => ("backup", json!({ "storage": "local" })),
            13 => ("reset", json!({})),
            14 if draft.resource == 0 => return ("time-reset", "host".to_owned(), json!({})),
            14 => ("converge", json!({})),
            _ => ("release", json!({})),
        };
        (kind, format!("pve/guest/{}", number_of(guest)), params)
    }

    fn content(contents: u64) -> Value {
        let wanted = |guest: u8| {
            let tags = format!("v{}", contents % 3);
            if is_container(guest) {
                let config = json!({ "hostname": format!("g{guest}"), "rootfs": "local-lvm:1", "tags": tags });
                json!({ "type": "lxc", "state": "running", "from": { "ostemplate": CONTAINER_TEMPLATE }, "config": config })
            } else {
                json!({ "type": "qemu", "state": "running", "config": { "name": format!("g{guest}"), "scsi0": "local-lvm:1", "tags": tags } })
            }
        };
        let guests: BTreeMap<String, Value> = (0..GUESTS).map(|guest| (number_of(guest).to_string(), wanted(guest))).collect();
        json!({ "proxmox": { "guests": guests } })
    }
}

/// An agent's way to the host.
struct Way<const GUESTS: u8> {
    host: Host<GUESTS>,
    life: u64,
}

impl<const GUESTS: u8> Way<GUESTS> {
    async fn alive(&self) {
        if self.host.lock().life != self.life {
            std::future::pending::<()>().await;
        }
    }

    async fn turns(&self) {
        let turns = self.host.lock().slow;
        for _ in 0..=turns {
            tokio::task::yield_now().await;
        }
        self.alive().await;
    }
}

impl<const GUESTS: u8> Transport for Way<GUESTS> {
    async fn send(&self, call: Call) -> Result<Reply, NoReply> {
        self.turns().await;
        let changes = call.verb != Verb::Get;
        let order = ORDER.try_with(Clone::clone).ok();
        let request = Request {
            method: call.verb.as_str().to_owned(),
            path: call.target,
            authorization: Some(format!("PVEAPIToken={TOKEN}={SECRET}")),
            content_type: call.form.as_ref().map(|_| "application/x-www-form-urlencoded".to_owned()),
            body: call.form.unwrap_or_default().into_bytes(),
            on_behalf: order.as_ref().map(|(op_id, kind)| format!("{op_id} {kind}")).unwrap_or_default(),
            ..Request::default()
        };
        let lost = || Err(NoReply::Lost("nobody answers".to_owned()));
        let is_late = changes && !request.on_behalf.is_empty() && std::mem::take(&mut self.host.lock().late) > 0;
        if is_late {
            let (host, boot) = (self.host.clone(), self.host.lock().boot);
            tokio::spawn(async move {
                tokio::time::sleep(LATE).await;
                // What was on its way when the machine ended is lost.
                if host.lock().boot == boot {
                    drop(host.sim.answer(request).await);
                    host.look();
                    host.events.notify_one();
                }
            });
            return lost();
        }
        let answer = async {
            match self.host.sim.answer(request).await {
                Err(Cut::Hangs) => std::future::pending().await,
                answered => answered,
            }
        };
        let answer = tokio::time::timeout(call.limit, answer).await;
        self.host.look();
        self.turns().await;
        if changes && self.host.lock().deaf > 0 {
            self.host.lock().deaf -= 1;
            return lost();
        }
        match answer {
            Ok(Ok(answer)) => Ok(Reply { status: answer.status, reason: answer.reason, body: answer.body }),
            Ok(Err(_)) | Err(_) => lost(),
        }
    }
}

/// An agent's driver of the host.
pub struct PveLine<const GUESTS: u8> {
    host: Host<GUESTS>,
    life: u64,
    driver: HostDriver<Line, Way<GUESTS>>,
}

impl<const GUESTS: u8> PveLine<GUESTS> {
    async fn alive(&self) {
        if self.host.lock().life != self.life {
            std::future::pending::<()>().await;
        }
    }
}

impl<const GUESTS: u8> Driver for PveLine<GUESTS> {
    fn name(&self) -> &'static str {
        "pve"
    }

    fn parallelism(&self) -> usize {
        4
    }

    fn known(&self) -> Arc<Known> {
        self.driver.known()
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        self.driver.observe().await
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        self.apply_told(step, Tasks::nobody()).await
    }

    async fn apply_told(&self, step: &Step, tasks: Tasks) -> Result<(), DriverError> {
        self.alive().await;
        let _at_work = self.host.enter(&step.resource, "a step");
        self.host.tell(Event::Step(step.resource.clone()));
        self.driver.apply_told(step, tasks).await
    }

    async fn next_event(&self) {
        tokio::select! {
            () = self.host.events.notified() => {}
            () = self.driver.next_event() => {}
        }
        self.alive().await;
    }

    fn capabilities(&self) -> &'static [&'static str] {
        self.driver.capabilities()
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        self.alive().await;
        self.host.tell(Event::Asked(order.op_id.to_string()));
        self.driver.prepare(order).await
    }

    async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        self.alive().await;
        let _at_work = self.host.enter(&order.resource, order.op_id.as_str());
        self.host.tell(Event::Began(order.op_id.to_string(), order.resource.clone()));
        let who = (order.op_id.to_string(), order.act.kind().to_owned());
        ORDER.scope(who, self.driver.start(order, evidence)).await
    }

    async fn resume(&self, order: &OpOrder, evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        self.alive().await;
        let _at_work = self.host.enter(&order.resource, order.op_id.as_str());
        let who = (order.op_id.to_string(), order.act.kind().to_owned());
        ORDER.scope(who, self.driver.resume(order, evidence, task, taker)).await
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        self.alive().await;
        self.host.tell(Event::Asked(order.op_id.to_string()));
        self.driver.adopt(order, evidence, task, age).await
    }
}
