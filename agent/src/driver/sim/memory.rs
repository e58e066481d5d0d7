//! A simulated engine in memory, for the model test: it outlives the agents that talk to it, is slow, loses answers, does
//! what it was asked after nobody waits for it any more, and notes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::ResourceId;
use moorline_common::observe::Observed;
use moorline_common::op::Act;
use moorline_common::plan::Step;
use moorline_common::plan::model::ModelError;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::output::Output;
use super::super::{Begun, Driver, DriverError, DriverErrorKind, Found, Known, OpOrder, Taker};
use super::world::World;
use super::{failed, op};
use crate::clock::Clock;

/// What the engine was asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An agent checked an operation, or looked for its evidence: right before, it judged whether it may be done.
    Asked(String),
    /// An agent had an operation begun.
    Began(String, ResourceId),
    /// An operation changed something.
    Effect(String),
    /// The reconciler changes a resource.
    Step(ResourceId),
    /// Two were at work where one may be.
    Clash(String),
}

/// See the module.
#[derive(Clone, Default)]
pub struct Machine {
    inner: Arc<Mutex<Inner>>,
    events: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    world: World,
    /// Agents of earlier lives get no answer: they are dead.
    life: u64,
    unreachable: bool,
    /// So many effects more are done, and nobody hears of them.
    deaf: u32,
    /// So many requests more are taken, and done later.
    late: u32,
    /// So often others have their turn during one call.
    slow: u32,
    working: BTreeMap<ResourceId, String>,
    /// Requests that were taken: when they are done.
    taken: Vec<(Instant, OpOrder, Value)>,
    seen: Option<Watcher>,
}

/// Is told of each event when it happens.
type Watcher = Box<dyn FnMut(Event) + Send>;

/// An agent's line to the engine.
pub struct Line {
    machine: Machine,
    life: u64,
    known: Arc<Known>,
}

/// A request that was taken is done by then, or never.
const LATE: Duration = Duration::from_secs(20);

impl Machine {
    /// A line for an agent that begins its life now; those before are dead.
    pub fn line(&self) -> Line {
        self.hang_up();
        Line { machine: self.clone(), life: self.lock().life, known: Arc::default() }
    }

    /// The agent dies: nothing that it asks is heard any more.
    pub fn hang_up(&self) {
        let mut inner = self.lock();
        inner.life += 1;
        inner.working.clear();
    }

    /// Who is told of all that happens.
    pub fn watch(&self, watcher: impl FnMut(Event) + Send + 'static) {
        self.lock().seen = Some(Box::new(watcher));
    }

    /// Whether it can be reached.
    pub fn unreachable(&self, so: bool) {
        self.lock().unreachable = so;
        self.events.notify_one();
    }

    /// The next effects are not told.
    pub fn deafen(&self, effects: u32) {
        self.lock().deaf = effects;
    }

    /// The next requests are done later.
    pub fn delay(&self, requests: u32) {
        self.lock().late = requests;
    }

    /// Calls take so many turns of others.
    pub fn slow(&self, turns: u32) {
        self.lock().slow = turns;
    }

    /// It ends with its machine: what it has taken and not done is lost.
    pub fn reboot(&self) {
        self.hang_up();
        self.lock().taken.clear();
    }

    /// It forgets its commands, as an engine does that is started again.
    pub fn forget(&self) {
        self.lock().world.commands.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a taken request when its time has come.
    fn do_later(&self, order: &OpOrder, evidence: &Value) {
        let at = Instant::now() + LATE;
        self.lock().taken.push((at, order.clone(), evidence.clone()));
        let machine = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            machine.lock().do_taken(|due, _| due <= at);
            machine.events.notify_one();
        });
    }
}

impl Inner {
    fn tell(&mut self, event: Event) {
        if let Some(seen) = &mut self.seen {
            seen(event);
        }
    }

    fn do_taken(&mut self, is_due: impl Fn(Instant, &OpOrder) -> bool) {
        let (due, rest) = std::mem::take(&mut self.taken).into_iter().partition(|(at, order, _)| is_due(*at, order));
        self.taken = rest;
        let due: Vec<(Instant, OpOrder, Value)> = due;
        for (_, order, evidence) in due {
            let _ = self.act(&order, |world| op::start(world, &order, &evidence));
        }
    }

    /// Changes the world for an operation, and notes whether it did.
    fn act<T>(&mut self, order: &OpOrder, act: impl FnOnce(&mut World) -> T) -> T {
        self.world.settle();
        let before = World { effects: BTreeMap::new(), last_command: 0, ..self.world.clone() };
        let result = act(&mut self.world);
        self.world.settle();
        let mut after = World { effects: BTreeMap::new(), last_command: 0, ..self.world.clone() };
        // To make a command is no effect; to start it is.
        after.commands.retain(|id, command| command.starts > 0 || before.commands.contains_key(id));
        if after != before {
            self.tell(Event::Effect(order.op_id.to_string()));
        }
        result
    }

    fn enter(&mut self, resource: &ResourceId, who: &str) {
        let in_the_way: BTreeSet<String> = self
            .working
            .iter()
            .filter(|(other, _)| *other == resource || (other.is_host() || resource.is_host()))
            .map(|(_, who)| who.clone())
            .collect();
        for other in in_the_way {
            self.tell(Event::Clash(format!("{who} meets {other} on {resource}")));
        }
        self.working.insert(resource.clone(), who.to_owned());
    }
}

impl Line {
    /// Others have their turns. Nobody comes back from it whose life is over.
    async fn turns(&self) {
        let turns = self.machine.lock().slow;
        for _ in 0..=turns {
            tokio::task::yield_now().await;
        }
        self.alive().await;
    }

    async fn alive(&self) {
        if self.machine.lock().life != self.life {
            std::future::pending::<()>().await;
        }
    }

    fn reached(&self) -> Result<(), DriverError> {
        if self.machine.lock().unreachable { Err(unreachable()) } else { Ok(()) }
    }

    fn answered(&self) -> Result<(), DriverError> {
        let mut inner = self.machine.lock();
        if inner.deaf > 0 {
            inner.deaf -= 1;
            return Err(unreachable());
        }
        Ok(())
    }

    /// Someone is at work on `resource` until what is returned is dropped, be it that nobody waits for the end.
    fn enter(&self, resource: &ResourceId, who: &str) -> AtWork {
        self.machine.lock().enter(resource, who);
        AtWork { machine: self.machine.clone(), life: self.life, resource: resource.clone() }
    }
}

struct AtWork {
    machine: Machine,
    life: u64,
    resource: ResourceId,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut inner = self.machine.lock();
        // The dead leave nothing that is not forgotten already.
        if inner.life == self.life {
            inner.working.remove(&self.resource);
            self.machine.events.notify_one();
        }
    }
}

fn unreachable() -> DriverError {
    failed(DriverErrorKind::Unreachable, Code::EngineUnreachable, "nobody answers")
}

impl Driver for Line {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn parallelism(&self) -> usize {
        4
    }

    fn known(&self) -> Arc<Known> {
        self.known.clone()
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        self.turns().await;
        self.reached()?;
        let mut observed = self.machine.lock().world.engine.observed();
        self.known.show(&mut observed);
        Ok(observed)
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        self.alive().await;
        self.reached()?;
        let at_work = self.enter(&step.resource, "a step");
        self.machine.lock().tell(Event::Step(step.resource.clone()));
        self.turns().await;
        let applied = {
            let mut inner = self.machine.lock();
            let applied = inner.world.engine.apply(step);
            inner.world.settle();
            applied
        };
        self.turns().await;
        drop(at_work);
        applied.map_err(|e| match &e {
            ModelError::NotFound(_) => failed(DriverErrorKind::NotFound, Code::StepFailed, &e.to_string()),
            ModelError::Conflict(_) => failed(DriverErrorKind::Conflict, Code::StepFailed, &e.to_string()),
        })
    }

    async fn next_event(&self) {
        self.machine.events.notified().await;
        self.alive().await;
    }

    fn capabilities(&self) -> &'static [&'static str] {
        super::super::op::KINDS
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        self.alive().await;
        self.machine.lock().tell(Event::Asked(order.op_id.to_string()));
        self.turns().await;
        self.reached()?;
        let mut inner = self.machine.lock();
        inner.world.settle();
        op::prepare(&inner.world, order)
    }

    async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        self.alive().await;
        let at_work = self.enter(&order.resource, order.op_id.as_str());
        self.machine.lock().tell(Event::Began(order.op_id.to_string(), order.resource.clone()));
        self.turns().await;
        let result = self.begin(order, evidence).await;
        drop(at_work);
        result
    }

    async fn resume(&self, order: &OpOrder, _evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        let Act::Exec(exec) = &order.act else { return Err(DriverError::no_such_operation(order)) };
        self.alive().await;
        let at_work = self.enter(&order.resource, order.op_id.as_str());
        self.turns().await;
        let mut said = None;
        let result = self.reached().and_then(|()| {
            let now = Clock.wall_ms();
            said = self.machine.lock().act(order, |world| op::start_command(world, order, exec, task, now));
            self.answered()
        });
        let heard = Output::hear(said, taker).await;
        self.turns().await;
        drop(at_work);
        result?;
        let live = self.machine.lock().world.commands.get(task).cloned();
        Ok(Begun::Done(live.map_or_else(|| heard.unknown(op::FORGOTTEN), |live| heard.ended(live.exit_code))))
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        self.alive().await;
        self.machine.lock().tell(Event::Asked(order.op_id.to_string()));
        self.turns().await;
        self.reached()?;
        let mut inner = self.machine.lock();
        inner.world.settle();
        op::adopt(&inner.world, order, evidence, task, age, Clock.wall_ms())
    }
}

impl Line {
    async fn begin(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        self.reached()?;
        if !matches!(order.act, Act::Exec(_)) && std::mem::take(&mut self.machine.lock().late) > 0 {
            self.machine.do_later(order, evidence);
            return Err(unreachable());
        }
        let begun = {
            let mut inner = self.machine.lock();
            // An engine does one thing after the other to one object.
            inner.do_taken(|_, taken| taken.resource == order.resource || taken.resource.is_host() || order.resource.is_host());
            inner.act(order, |world| op::start(world, order, evidence))
        };
        self.turns().await;
        let begun = begun?;
        self.answered()?;
        Ok(begun)
    }
}
