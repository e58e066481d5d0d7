//! Lanes: one FIFO per resource. In one lane everything has its turn in the order in which it took its place, one at a
//! time; lanes run side by side. Nothing in a lane waits for another lane, but for a turn of the whole host, which is
//! a barrier: it begins when all that came before it has ended, and what comes after waits for its end. The lanes of the
//! clock ([`ResourceId::clock`]) and of the trial ([`ResourceId::trial`]) stand apart from it, and from the driver's limit: the one may be what
//! mends what the barrier waits for, the other has little time.
//!
//! Reconcile and operations share the lanes, so two writers never meet on one resource. An operation takes a place; the
//! reconciler has at most one place in each lane, and plans anew when its turn comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use moorline_common::id::ResourceId;
use tokio::sync::{Semaphore, oneshot};

use crate::limits::{LANE_DEPTH_MAX, LANES_MAX, PLACES_MAX};
use crate::plant::planted;

mod seat;

pub use seat::{Panicked, Seat, aside, within};

/// The lane, or the set of lanes, is full. Nothing was taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lane of {resource} is full; try again later")]
pub struct Busy {
    /// The resource.
    pub resource: ResourceId,
}

/// All lanes of an engine. Cloned freely.
#[derive(Clone)]
pub struct Lanes {
    inner: Arc<Inner>,
}

struct Inner {
    queues: Mutex<Queues>,
    permits: Arc<Semaphore>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Op,
    Reconciler,
}

/// Someone who waits.
struct Waiting {
    /// Counts all places of all lanes.
    number: u64,
    who: Who,
    go: oneshot::Sender<Turn>,
}

#[derive(Default)]
struct Lane {
    running: Option<Who>,
    queue: VecDeque<Waiting>,
}

#[derive(Default)]
struct Queues {
    next: u64,
    lanes: BTreeMap<ResourceId, Lane>,
    /// Turns of the whole host.
    barriers: VecDeque<Waiting>,
    host_runs: bool,
    /// Places of operations that wait or run.
    places: usize,
    /// Resources that operations had their turn on since the newest look began.
    worked: BTreeSet<ResourceId>,
}

/// A place in a lane: becomes the turn when that comes. Dropped before that, it is given up.
pub struct Place {
    turn: oneshot::Receiver<Turn>,
    lanes: Lanes,
    resource: ResourceId,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.resource)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.turn.close();
        self.lanes.give_up(&self.resource);
    }
}

impl Future for Place {
    type Output = Option<Turn>;

    /// `None` only when the lanes are gone.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Turn>> {
        Pin::new(&mut self.turn).poll(context).map(Result::ok)
    }
}

/// What the reconciler gets when it asks for a lane.
#[derive(Debug)]
pub enum Slot {
    /// The lane is free: it has its turn at once.
    Now(Turn),
    /// It has its turn later.
    Later(Place),
    /// It has a place in this lane already.
    Taken,
}

/// The right to work on a resource, until it is dropped.
pub struct Turn {
    lanes: Lanes,
    resource: ResourceId,
    who: Who,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Turn({}, {:?})", self.resource, self.who)
    }
}

impl Turn {
    /// The resource.
    #[must_use]
    pub fn resource(&self) -> &ResourceId {
        &self.resource
    }

    /// Waits until the driver has room for one more.
    pub async fn seat(&self) -> Seat {
        // What stands apart asks nothing of the driver.
        let permits = if self.resource.is_apart() { Arc::new(Semaphore::new(1)) } else { self.lanes.inner.permits.clone() };
        Seat::take(permits, self.resource.clone()).await
    }

    /// Runs a part of the work when the driver has room for it; see [`Seat::work`].
    ///
    /// # Errors
    /// [`Panicked`].
    pub async fn work<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> Result<T, Panicked> {
        self.seat().await.work(job).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        crate::crash::point("lane.leave.before");
        self.lanes.leave(&self.resource, self.who);
        crate::crash::point("lane.leave.after");
    }
}

impl Lanes {
    /// Lanes in which `parallelism` (at least 1) jobs run at once.
    #[must_use]
    pub fn new(parallelism: usize) -> Self {
        let permits = Arc::new(Semaphore::new(parallelism.max(1)));
        Self { inner: Arc::new(Inner { queues: Mutex::default(), permits }) }
    }

    /// Takes the next place in the lane of `resource` for an operation.
    ///
    /// # Errors
    /// [`Busy`] when the lane, or the host, is full.
    pub fn place(&self, resource: &ResourceId) -> Result<Place, Busy> {
        let queues = self.lock();
        let depth = match queues.lanes.get(resource) {
            _ if resource.is_host() => Some(queues.barriers.len()),
            Some(lane) => Some(lane.queue.len()),
            None => None,
        };
        let is_full = match depth {
            Some(depth) => depth >= LANE_DEPTH_MAX,
            None => queues.lanes.len() >= LANES_MAX,
        };
        if is_full || queues.places >= PLACES_MAX {
            return Err(Busy { resource: resource.clone() });
        }
        Ok(self.enter(queues, resource, Who::Op))
    }

    /// Takes a place for an operation that was accepted before this start, however full the lane is.
    #[must_use]
    pub fn place_again(&self, resource: &ResourceId) -> Place {
        self.enter(self.lock(), resource, Who::Op)
    }

    /// Asks for the reconciler's turn on `resource`.
    ///
    /// # Errors
    /// [`Busy`] when there are too many lanes.
    pub fn slot(&self, resource: &ResourceId) -> Result<Slot, Busy> {
        let queues = self.lock();
        match queues.lanes.get(resource) {
            Some(lane) if lane.running == Some(Who::Reconciler) || lane.queue.iter().any(|w| w.who == Who::Reconciler) => {
                return Ok(Slot::Taken);
            }
            None if queues.lanes.len() >= LANES_MAX => return Err(Busy { resource: resource.clone() }),
            Some(_) | None => {}
        }
        let mut place = self.enter(queues, resource, Who::Reconciler);
        Ok(match place.turn.try_recv() {
            Ok(turn) => Slot::Now(turn),
            Err(_) => Slot::Later(place),
        })
    }

    /// A look at the host begins: what operations work on from now on it may have seen in any state.
    pub fn look_begins(&self) {
        let mut queues = self.lock();
        let busy = queues.lanes.iter().filter(|(_, lane)| lane.running == Some(Who::Op)).map(|(resource, _)| resource.clone());
        let mut worked: BTreeSet<ResourceId> = busy.collect();
        worked.extend(queues.host_runs.then(ResourceId::host));
        queues.worked = worked;
    }

    /// What operations have worked on since the newest look began; the whole host is [`ResourceId::host`].
    #[must_use]
    pub fn worked(&self) -> BTreeSet<ResourceId> {
        self.lock().worked.clone()
    }

    fn enter(&self, mut queues: MutexGuard<'_, Queues>, resource: &ResourceId, who: Who) -> Place {
        crate::crash::point("lane.place.before");
        let (go, turn) = oneshot::channel();
        let number = queues.next;
        queues.next += 1;
        queues.places += usize::from(who == Who::Op);
        let waiting = Waiting { number, who, go };
        if resource.is_host() {
            queues.barriers.push_back(waiting);
        } else {
            let queue = &mut queues.lanes.entry(resource.clone()).or_default().queue;
            let is_first = planted("newest first") || (planted("slot first") && who == Who::Reconciler);
            if is_first { queue.push_front(waiting) } else { queue.push_back(waiting) }
        }
        let turns = queues.next_turns(std::slice::from_ref(resource));
        drop(queues);
        self.grant(turns);
        crate::crash::point("lane.place.after");
        Place { turn, lanes: self.clone(), resource: resource.clone() }
    }

    /// Takes places out of the line in which nobody waits any more: nobody shall wait for them.
    fn give_up(&self, resource: &ResourceId) {
        let mut queues = self.lock();
        let mut freed = 0;
        let mut sweep = |queue: &mut VecDeque<Waiting>| {
            freed += queue.iter().filter(|w| w.go.is_closed() && w.who == Who::Op).count();
            queue.retain(|w| !w.go.is_closed());
        };
        let concerned = if resource.is_host() {
            sweep(&mut queues.barriers);
            queues.lanes.keys().cloned().collect()
        } else {
            if let Some(lane) = queues.lanes.get_mut(resource) {
                sweep(&mut lane.queue);
            }
            vec![resource.clone()]
        };
        queues.places -= freed;
        let turns = queues.next_turns(&concerned);
        drop(queues);
        self.grant(turns);
    }

    fn leave(&self, resource: &ResourceId, who: Who) {
        let mut queues = self.lock();
        queues.places -= usize::from(who == Who::Op);
        let turns = if resource.is_host() {
            queues.host_runs = false;
            let waiting: Vec<ResourceId> = queues.lanes.keys().cloned().collect();
            queues.next_turns(&waiting)
        } else {
            if let Some(lane) = queues.lanes.get_mut(resource) {
                lane.running = None;
            }
            queues.next_turns(std::slice::from_ref(resource))
        };
        drop(queues);
        self.grant(turns);
    }

    /// Outside the lock: a turn that nobody waits for any more is dropped, and so leaves at once.
    fn grant(&self, turns: Vec<(ResourceId, Waiting)>) {
        for (resource, Waiting { who, go, .. }) in turns {
            crate::crash::point("lane.turn.before");
            let _ = go.send(Turn { lanes: self.clone(), resource, who });
            crate::crash::point("lane.turn.after");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Whose turn it is now in the lanes of `resources`, and whether the whole host's has come. They count as running.
    fn next_turns(&mut self, resources: &[ResourceId]) -> Vec<(ResourceId, Waiting)> {
        let mut turns = Vec::new();
        // What touches no resource of the engine is no part of the host that a barrier is about.
        let before = self.barriers.front().filter(|_| !planted("no barrier")).map_or(u64::MAX, |barrier| barrier.number);
        for resource in resources {
            let Some(lane) = self.lanes.get_mut(resource) else { continue };
            let is_apart = resource.is_apart();
            if lane.running.is_some() || (self.host_runs && !is_apart) {
                continue;
            }
            if lane.queue.front().is_some_and(|w| is_apart || w.number < before) {
                if let Some(next) = lane.queue.pop_front() {
                    lane.running = Some(next.who);
                    turns.extend([(resource.clone(), next)]);
                }
            } else if lane.queue.is_empty() {
                self.lanes.remove(resource);
            }
        }
        let is_waited_for = |lane: &Lane| lane.running.is_some() || lane.queue.front().is_some_and(|w| w.number < before);
        let stands_open = !self.lanes.iter().any(|(resource, lane)| !resource.is_apart() && is_waited_for(lane));
        if !self.host_runs && !self.barriers.is_empty() && stands_open {
            self.host_runs = true;
            turns.extend(self.barriers.pop_front().map(|barrier| (ResourceId::host(), barrier)));
        }
        self.worked.extend(turns.iter().filter(|(_, w)| w.who == Who::Op).map(|(resource, _)| resource.clone()));
        turns
    }
}

#[cfg(test)]
mod tests;
