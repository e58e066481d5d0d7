//! Lanes: one FIFO per resource. In one lane everything runs in the order it was handed in, one at a
//! time; lanes run side by side, up to the driver's limit. Nothing in a lane waits for another lane.
//!
//! A lane is a task that exists while it has work. Reconcile and operations share the lanes, so two
//! writers never meet on one resource.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline_common::id::ResourceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::limits::{LANE_DEPTH_MAX, LANES_MAX};

/// The lane, or the set of lanes, is full. Nothing was taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lane of {resource} is full; try again later")]
pub struct Busy {
    /// The resource.
    pub resource: ResourceId,
}

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All lanes of an engine. Cloned freely.
#[derive(Clone)]
pub struct Lanes {
    inner: Arc<Inner>,
}

struct Inner {
    /// Jobs that wait, by lane. A lane that runs its last job has an empty queue here.
    queues: Mutex<BTreeMap<ResourceId, VecDeque<Job>>>,
    permits: Arc<Semaphore>,
}

impl Lanes {
    /// Lanes of which `parallelism` (at least 1) run at once.
    #[must_use]
    pub fn new(parallelism: usize) -> Self {
        let permits = Arc::new(Semaphore::new(parallelism.max(1)));
        Self { inner: Arc::new(Inner { queues: Mutex::default(), permits }) }
    }

    /// Puts `job` at the end of the lane of `resource`. Its result comes through the receiver, which fails
    /// when the job panicked.
    ///
    /// # Errors
    /// [`Busy`] when the lane is full.
    pub fn submit<T, F>(&self, resource: &ResourceId, job: F) -> Result<oneshot::Receiver<T>, Busy>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::pin(async move {
            // A caller that no longer waits doesn't undo the work.
            let _ = sender.send(job.await);
        });
        let mut queues = self.inner.lock();
        let has_room = queues.len() < LANES_MAX;
        match queues.get_mut(resource) {
            Some(queue) if queue.len() >= LANE_DEPTH_MAX => return Err(Busy { resource: resource.clone() }),
            Some(queue) => queue.push_back(job),
            None if !has_room => return Err(Busy { resource: resource.clone() }),
            None => {
                queues.insert(resource.clone(), VecDeque::new());
                tokio::spawn(self.clone().run(resource.clone(), job));
            }
        }
        Ok(receiver)
    }

    async fn run(self, resource: ResourceId, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            let seat = Arc::new(Seat { permits: self.inner.permits.clone(), held: Mutex::default(), away: Mutex::default() });
            seat.take().await;
            // A task of its own: a job that panics must not take the lane with it.
            if tokio::spawn(SEAT.scope(seat.clone(), job)).await.is_err_and(|e| e.is_panic()) {
                tracing::error!(%resource, "a job panicked");
            }
            drop(seat);
            next = self.inner.next(&resource);
        }
    }
}

/// A job's share of the driver's limit.
struct Seat {
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

impl Seat {
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
    static SEAT: Arc<Seat>;
}

/// Runs a part of a job that merely waits for something outside the engine, such as a registry: meanwhile it counts
/// against no limit of the lanes, so that others go on, and [`within`] does not count the time. Its lane stays taken.
pub async fn aside<T>(waiting: impl Future<Output = T>) -> T {
    let Ok(seat) = SEAT.try_with(Arc::clone) else { return waiting.await };
    seat.give_back();
    seat.lock_away().since = Some(Instant::now());
    let result = waiting.await;
    seat.take().await;
    let before = seat.away();
    *seat.lock_away() = Away { before, since: None };
    result
}

/// Runs a job's work for at most `limit`, without the time that it spends [`aside`]. `None`: it was given up.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let begun = Instant::now();
    let over = async {
        loop {
            let away = SEAT.try_with(|seat| seat.away()).unwrap_or_default();
            let end = begun + limit + away;
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

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ResourceId, VecDeque<Job>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job of a lane; without one, the lane ends under the same lock.
    fn next(&self, resource: &ResourceId) -> Option<Job> {
        let mut queues = self.lock();
        let job = queues.get_mut(resource)?.pop_front();
        if job.is_none() {
            queues.remove(resource);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn resource(name: &str) -> ResourceId {
        ResourceId::parse(format!("docker/container/{name}")).unwrap()
    }

    #[tokio::test]
    async fn jobs_that_wait_for_a_registry_do_not_hold_up_the_others() {
        let lanes = Lanes::new(2);
        let (release, held) = tokio::sync::watch::channel(false);
        let pulls: Vec<_> = (0..8)
            .map(|n| {
                let mut held = held.clone();
                let job = async move { aside(async move { held.wait_for(|go| *go).await.is_ok() }).await };
                lanes.submit(&resource(&format!("pull-{n}")), job).unwrap()
            })
            .collect();
        let other = lanes.submit(&resource("other"), async { 7 }).unwrap();
        assert_eq!(tokio::time::timeout(std::time::Duration::from_secs(10), other).await.unwrap().unwrap(), 7);
        release.send_replace(true);
        for pull in pulls {
            assert!(pull.await.unwrap());
        }
        assert_eq!(lanes.inner.permits.available_permits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_job_is_aside_counts_against_no_limit() {
        let (lanes, hour, day) = (Lanes::new(1), Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let patient = lanes.submit(&resource("a"), within(hour, aside(tokio::time::sleep(day)))).unwrap();
        assert_eq!(patient.await.unwrap(), Some(()));
        let slow = async move {
            aside(tokio::time::sleep(day)).await;
            tokio::time::sleep(day).await;
        };
        let begun = Instant::now();
        assert_eq!(lanes.submit(&resource("a"), within(hour, slow)).unwrap().await.unwrap(), None);
        assert!(begun.elapsed() < day + 2 * hour);
    }

    #[tokio::test]
    async fn jobs_of_one_lane_run_one_at_a_time_in_order() {
        let lanes = Lanes::new(8);
        let log = Arc::new(Mutex::new(Vec::new()));
        let receivers: Vec<_> = (0..10)
            .map(|n| {
                let log = log.clone();
                let job = async move {
                    log.lock().unwrap().push(format!("begin {n}"));
                    tokio::task::yield_now().await;
                    log.lock().unwrap().push(format!("end {n}"));
                };
                lanes.submit(&resource("a"), job).unwrap()
            })
            .collect();
        for receiver in receivers {
            receiver.await.unwrap();
        }
        let expected: Vec<String> = (0..10).flat_map(|n| [format!("begin {n}"), format!("end {n}")]).collect();
        assert_eq!(*log.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn lanes_run_side_by_side_up_to_the_limit() {
        let lanes = Lanes::new(3);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let receivers: Vec<_> = (0..12)
            .map(|n| {
                let (running, most) = (running.clone(), most.clone());
                let job = async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                lanes.submit(&resource(&n.to_string()), job).unwrap()
            })
            .collect();
        for receiver in receivers {
            receiver.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_full_lane_says_busy_and_a_panic_does_not_stop_it() {
        let lanes = Lanes::new(1);
        let (open, gate) = oneshot::channel::<()>();
        let first = lanes
            .submit(&resource("a"), async move {
                gate.await.unwrap();
                panic!("on purpose");
            })
            .unwrap();
        let _: &oneshot::Receiver<()> = &first;
        let mut last = None;
        for n in 0..LANE_DEPTH_MAX {
            last = Some(lanes.submit(&resource("a"), async move { n }).unwrap());
        }
        assert_eq!(lanes.submit(&resource("a"), async {}).unwrap_err(), Busy { resource: resource("a") });
        open.send(()).unwrap();
        assert!(first.await.is_err());
        assert_eq!(last.unwrap().await.unwrap(), LANE_DEPTH_MAX - 1);
    }
}
