//! Lanes: one FIFO per resource. In one lane everything has its turn in the order in which it took its place, one at a
//! time; lanes run side by side. Nothing in a lane waits for another lane, but for a turn of the whole host, which is
//! a barrier: it begins when all that came before it has ended, and what comes after waits for its end.
//!
//! Reconcile and operations share the lanes, so two writers never meet on one resource. An operation takes a place; the
//! reconciler has at most one place in each lane, and plans anew when its turn comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use moorline_common::id::ResourceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::limits::{LANE_DEPTH_MAX, LANES_MAX, PLACES_MAX};
use crate::plant::planted;

/// The lane, or the set of lanes, is full. Nothing was taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lane of {resource} is full; try again later")]
pub struct Busy {
    /// The resource.
    pub resource: ResourceId,
}

/// A job panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it panicked")]
pub struct Panicked;

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
        let share = Share { permits: self.lanes.inner.permits.clone(), held: Mutex::default(), away: Mutex::default() };
        share.take().await;
        Seat { share: Arc::new(share), resource: self.resource.clone() }
    }

    /// Runs a part of the work when the driver has room for it; see [`Seat::work`].
    ///
    /// # Errors
    /// [`Panicked`].
    pub async fn work<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> Result<T, Panicked> {
        self.seat().await.work(job).await
    }
}

/// Room at the driver, until it is dropped: between two parts of the work that share it nobody is waited for.
pub struct Seat {
    share: Arc<Share>,
    resource: ResourceId,
}

impl Seat {
    /// Runs a part of the work as a task of its own: one that panics takes nobody with it.
    ///
    /// # Errors
    /// [`Panicked`].
    pub async fn work<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> Result<T, Panicked> {
        let done = tokio::spawn(SHARE.scope(self.share.clone(), job)).await;
        done.map_err(|_| {
            tracing::error!(resource = %self.resource, "a job panicked");
            Panicked
        })
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
        if self.host_runs {
            return turns;
        }
        let before = self.barriers.front().filter(|_| !planted("no barrier")).map_or(u64::MAX, |barrier| barrier.number);
        for resource in resources {
            let Some(lane) = self.lanes.get_mut(resource) else { continue };
            if lane.running.is_some() {
                continue;
            }
            if lane.queue.front().is_some_and(|w| w.number < before) {
                if let Some(next) = lane.queue.pop_front() {
                    lane.running = Some(next.who);
                    turns.extend([(resource.clone(), next)]);
                }
            } else if lane.queue.is_empty() {
                self.lanes.remove(resource);
            }
        }
        let is_waited_for = |lane: &Lane| lane.running.is_some() || lane.queue.front().is_some_and(|w| w.number < before);
        if !self.barriers.is_empty() && !self.lanes.values().any(is_waited_for) {
            self.host_runs = true;
            turns.extend(self.barriers.pop_front().map(|barrier| (ResourceId::host(), barrier)));
        }
        self.worked.extend(turns.iter().filter(|(_, w)| w.who == Who::Op).map(|(resource, _)| resource.clone()));
        turns
    }
}

/// A job's share of the driver's limit.
struct Share {
    permits: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    away: Mutex<Away>,
}

/// How long a job was aside.
#[derive(Debug, Clone, Copy, Default)]
struct Away {
    before: Duration,
    since: Option<Instant>,
}

impl Share {
    async fn take(&self) {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.ok();
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    fn give_back(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn away(&self) -> Duration {
        let away = *self.lock_away();
        away.before + away.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock_away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

tokio::task_local! {
    static SHARE: Arc<Share>;
}

/// Runs a part of a job that merely waits for something outside the engine, such as a registry: meanwhile it counts
/// against no limit of the lanes, so that others go on, and [`within`] does not count the time. Its lane stays taken.
pub async fn aside<T>(waiting: impl Future<Output = T>) -> T {
    let Ok(share) = SHARE.try_with(Arc::clone) else { return waiting.await };
    share.give_back();
    share.lock_away().since = Some(Instant::now());
    let result = waiting.await;
    share.take().await;
    let before = share.away();
    *share.lock_away() = Away { before, since: None };
    result
}

/// Runs a job's work for at most `limit`, without the time that it spends [`aside`]. `None`: it was given up.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (begun, away) = (Instant::now(), || SHARE.try_with(|share| share.away()).unwrap_or_default());
    let before = away();
    let over = async {
        loop {
            let end = begun + limit + away().saturating_sub(before);
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    };
    tokio::select! {
        biased;
        result = work => Some(result),
        () = over => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    fn resource(name: &str) -> ResourceId {
        ResourceId::parse(format!("docker/container/{name}")).unwrap()
    }

    /// Runs `job` when its turn comes.
    fn submit<T: Send + 'static>(lanes: &Lanes, name: &str, job: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        let place = lanes.place(&resource(name)).unwrap();
        tokio::spawn(async move { place.await.unwrap().work(job).await.unwrap() })
    }

    #[tokio::test]
    async fn nobody_comes_between_two_parts_of_the_work_at_one_seat() {
        let lanes = Lanes::new(1);
        let (a, b) = (lanes.place(&resource("a")).unwrap().await.unwrap(), lanes.place(&resource("b")).unwrap().await.unwrap());
        let order = Arc::new(Mutex::new(Vec::new()));
        let part = |what: &'static str| {
            let order = order.clone();
            async move { order.lock().unwrap().push(what) }
        };
        let seat = a.seat().await;
        seat.work(part("a prepares")).await.unwrap();
        let other = part("b");
        let other = tokio::spawn(async move { b.work(other).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        seat.work(part("a starts")).await.unwrap();
        drop(seat);
        other.await.unwrap().unwrap();
        assert_eq!(*order.lock().unwrap(), ["a prepares", "a starts", "b"]);
    }

    #[tokio::test]
    async fn jobs_that_wait_for_a_registry_do_not_hold_up_the_others() {
        let lanes = Lanes::new(2);
        let (release, held) = tokio::sync::watch::channel(false);
        let pulls: Vec<_> = (0..8)
            .map(|n| {
                let mut held = held.clone();
                let job = async move { aside(async move { held.wait_for(|go| *go).await.is_ok() }).await };
                submit(&lanes, &format!("pull-{n}"), job)
            })
            .collect();
        let other = submit(&lanes, "other", async { 7 });
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), other).await.unwrap().unwrap(), 7);
        release.send_replace(true);
        for pull in pulls {
            assert!(pull.await.unwrap());
        }
        assert_eq!(lanes.inner.permits.available_permits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_job_is_aside_counts_against_no_limit() {
        let (lanes, hour, day) = (Lanes::new(1), Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let patient = submit(&lanes, "a", within(hour, aside(tokio::time::sleep(day))));
        assert_eq!(patient.await.unwrap(), Some(()));
        let slow = async move {
            aside(tokio::time::sleep(day)).await;
            tokio::time::sleep(day).await;
        };
        let begun = Instant::now();
        assert_eq!(submit(&lanes, "a", within(hour, slow)).await.unwrap(), None);
        assert!(begun.elapsed() < day + 2 * hour);
    }

    #[tokio::test]
    async fn jobs_of_one_lane_run_one_at_a_time_in_order() {
        let lanes = Lanes::new(8);
        let log = Arc::new(Mutex::new(Vec::new()));
        let jobs: Vec<_> = (0..10)
            .map(|n| {
                let log = log.clone();
                let job = async move {
                    log.lock().unwrap().push(format!("begin {n}"));
                    tokio::task::yield_now().await;
                    log.lock().unwrap().push(format!("end {n}"));
                };
                submit(&lanes, "a", job)
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
        let expected: Vec<String> = (0..10).flat_map(|n| [format!("begin {n}"), format!("end {n}")]).collect();
        assert_eq!(*log.lock().unwrap(), expected);
        assert!(lanes.lock().lanes.is_empty() && lanes.lock().places == 0);
    }

    #[tokio::test]
    async fn lanes_run_side_by_side_up_to_the_limit() {
        let lanes = Lanes::new(3);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<_> = (0..12)
            .map(|n| {
                let (running, most) = (running.clone(), most.clone());
                let job = async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                submit(&lanes, &n.to_string(), job)
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_full_lane_says_busy_and_a_panic_does_not_stop_it() {
        let lanes = Lanes::new(1);
        let first = lanes.place(&resource("a")).unwrap().await.unwrap();
        let mut places: Vec<Place> = (0..LANE_DEPTH_MAX).map(|_| lanes.place(&resource("a")).unwrap()).collect();
        assert_eq!(lanes.place(&resource("a")).unwrap_err(), Busy { resource: resource("a") });
        assert!(lanes.place(&resource("b")).is_ok(), "one lane's crowd is not another's");
        let _again = lanes.place_again(&resource("a"));
        let panics: Result<(), Panicked> = first.work(async { panic!("on purpose") }).await;
        assert_eq!(panics, Err(Panicked));
        drop(first);
        let second = places.remove(0).await.unwrap();
        assert_eq!(second.work(async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn the_host_takes_only_so_many_operations_at_once() {
        let lanes = Lanes::new(1);
        let places: Vec<Place> = (0..PLACES_MAX).map(|n| lanes.place(&resource(&(n % 1000).to_string())).unwrap()).collect();
        assert!(lanes.place(&resource("a")).is_err());
        drop(places);
        assert!(lanes.place(&resource("a")).is_ok());
    }

    #[tokio::test]
    async fn a_turn_of_the_whole_host_waits_for_all_before_it_and_holds_up_all_after_it() {
        let lanes = Lanes::new(8);
        let (a, b) = (lanes.place(&resource("a")).unwrap().await.unwrap(), lanes.place(&resource("b")).unwrap().await.unwrap());
        let mut queued = lanes.place(&resource("a")).unwrap();
        let mut host = lanes.place(&ResourceId::host()).unwrap();
        let (mut after, mut fresh) = (lanes.place(&resource("b")).unwrap(), lanes.place(&resource("c")).unwrap());
        drop(b);
        assert!((&mut host).now_or_never().is_none() && (&mut after).now_or_never().is_none());
        drop(a);
        let queued = (&mut queued).now_or_never().unwrap().unwrap();
        assert!((&mut host).now_or_never().is_none());
        drop(queued);
        let host = (&mut host).now_or_never().unwrap().unwrap();
        assert!((&mut after).now_or_never().is_none() && (&mut fresh).now_or_never().is_none());
        assert!(matches!(lanes.slot(&resource("d")), Ok(Slot::Later(_))));
        drop(host);
        assert!((&mut after).now_or_never().is_some() && (&mut fresh).now_or_never().is_some());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_turn_of_the_whole_host_that_was_given_up() {
        let lanes = Lanes::new(8);
        let stuck = lanes.place(&resource("a")).unwrap().await.unwrap();
        let host = lanes.place(&ResourceId::host()).unwrap();
        let (mut after, mut later) = (lanes.place(&resource("b")).unwrap(), lanes.place(&ResourceId::host()).unwrap());
        assert!((&mut after).now_or_never().is_none());
        drop(host);
        let turn = (&mut after).now_or_never().unwrap();
        drop(stuck);
        assert!((&mut later).now_or_never().is_none());
        drop(turn);
        drop((&mut later).now_or_never().unwrap());
        assert_eq!(lanes.lock().places, 0);
    }

    /// Whether the reconciler's place comes after an operation's that waited before it.
    async fn slot_keeps_its_place() -> bool {
        let lanes = Lanes::new(8);
        let op = lanes.place(&resource("a")).unwrap().await.unwrap();
        let mut before = lanes.place(&resource("a")).unwrap();
        let Ok(Slot::Later(slot)) = lanes.slot(&resource("a")) else { panic!("the lane is taken") };
        drop(op);
        let turn = (&mut before).now_or_never();
        let waits = slot.now_or_never().is_none();
        turn.is_some() && waits
    }

    #[tokio::test]
    async fn the_reconciler_does_not_jump_the_queue() {
        assert!(slot_keeps_its_place().await);
        let _planted = crate::plant::plant("slot first");
        assert!(!slot_keeps_its_place().await, "nothing notices it");
    }

    #[tokio::test]
    async fn the_reconciler_has_one_place_in_a_lane_and_keeps_it() {
        let lanes = Lanes::new(8);
        let Ok(Slot::Now(turn)) = lanes.slot(&resource("a")) else { panic!("the lane is free") };
        drop(turn);
        let op = lanes.place(&resource("a")).unwrap().await.unwrap();
        let Ok(Slot::Later(mut slot)) = lanes.slot(&resource("a")) else { panic!("the lane is taken") };
        assert!(matches!(lanes.slot(&resource("a")), Ok(Slot::Taken)));
        let mut behind = lanes.place(&resource("a")).unwrap();
        drop(op);
        let turn = (&mut slot).now_or_never().unwrap().unwrap();
        assert!((&mut behind).now_or_never().is_none(), "it came after the reconciler's place");
        drop(turn);
        assert!((&mut behind).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_place_that_is_given_up_holds_up_nobody() {
        let lanes = Lanes::new(8);
        let op = lanes.place(&resource("a")).unwrap().await.unwrap();
        let (gone, mut next) = (lanes.place(&resource("a")).unwrap(), lanes.place(&resource("a")).unwrap());
        drop(gone);
        drop(op);
        assert!((&mut next).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_operations_worked_on_during_a_look_is_known() {
        let lanes = Lanes::new(8);
        let running = lanes.place(&resource("a")).unwrap().await.unwrap();
        lanes.look_begins();
        drop(lanes.place(&resource("b")).unwrap().await.unwrap());
        drop(running);
        assert_eq!(lanes.worked(), BTreeSet::from([resource("a"), resource("b")]));
        lanes.look_begins();
        assert_eq!(lanes.worked(), BTreeSet::new());
    }
}
