//! The reconciler: makes the host match the accepted slice, and keeps it so.
//!
//! Level-triggered: whatever woke it (a slice, an engine event, a timer, a finished step), it looks at the
//! whole host, plans, and does what may be done now. Steps run through the lanes; each has a durable
//! `started` record before it begins. Without an accepted slice it only observes.
//!
//! - [`work`]: which steps may run now.
//! - [`retry`]: when a resource is tried again.
//! - `record`: what goes into journal and ledger.
//! - `notes`: what objects are beside their labels.
//! - `graves`: guests that were destroyed and are kept for a while.
//! - `steps`: steps on their way.
//! - `turns`: its place among the operations.
//! - `trial`: whether the host is healthy.
//! - `look`: one observation at a time.
//! - `publish`: what everyone else is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use moorline_common::drift::{Breaker, Drift};
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{Generation, ResourceId, UnixSeconds};
use moorline_common::maintenance;
use moorline_common::observe::{ContainerState, EngineState, Observed};
use moorline_common::plan::{Blocked, Fields, Given, Plan, Step, guest, plan_given, volume_key};
use moorline_common::pve::Vmid;
use moorline_common::topology::Policy;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::driver::{Driver, DriverError, DriverErrorKind};
use crate::intake::{Desired, Target};
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::{Lanes, Turn};
use crate::ledger::{Admission, Ledger};
use crate::limits::{DRAIN_TIMEOUT, ENGINE_RETRY, RESYNC_INTERVAL, WAITING_LOOK, WORKING_LOOK};
use crate::plant::planted;
use crate::report::HostState;

mod graves;
mod look;
mod notes;
mod publish;
mod record;
pub mod retry;
mod steps;
mod trial;
mod turns;
pub mod work;

use graves::Graves;
use look::{Look, finished, is_believed, listen};
pub(crate) use notes::Notes;
use record::{Bookkeeping, random};
use retry::Retries;
pub use trial::Health;
use turns::Turns;
use work::Work;

/// What a reconciler is made of.
pub struct Parts<D, J> {
    /// The engine.
    pub driver: Arc<D>,
    /// Where steps are recorded.
    pub journal: J,
    /// What was accepted and applied.
    pub ledger: Ledger,
    /// The lanes of the engine.
    pub lanes: Lanes,
    /// What to work towards.
    pub target: watch::Receiver<Target>,
}

/// Lets others see the host and ask for a look at it. Cloned freely.
#[derive(Clone)]
pub struct Handle {
    state: watch::Receiver<HostState>,
    look: Arc<Notify>,
}

impl Handle {
    /// The newest state of the host.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<HostState> {
        self.state.clone()
    }

    /// Asks for an observation now.
    pub fn look(&self) {
        self.look.notify_one();
    }
}

/// How a step ended.
struct Done {
    step: Step,
    op_id: Uuid,
    result: Result<(), DriverError>,
    /// Kept until the end is durable: the journal's order in a lane is the lane's.
    turn: Turn,
}

/// See the module.
pub struct Reconciler<D, J> {
    driver: Arc<D>,
    journal: J,
    target: watch::Receiver<Target>,
    look: Arc<Notify>,
    events: Arc<Notify>,
    state: watch::Sender<HostState>,
    books: Bookkeeping,
    notes: Notes,
    graves: Graves,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    turns: Turns,
    work: Work,
    retries: Retries,
    /// The slice that is worked on; kept until the next one is taken up.
    desired: Option<Arc<Desired>>,
    pushes: u64,
    /// What the newest plan could not bring further.
    blocked: Vec<Blocked>,
    /// What the newest plan would change, if nobody were at work on it.
    unsure: BTreeSet<ResourceId>,
    /// What the newest plan leaves as it is, though it differs.
    drift: Vec<Drift>,
    /// What is healed again and again.
    breaker: Breaker,
    /// Whether the host was as the slice says since that was taken up.
    was_settled: bool,
    /// Whether anything was compared with the slice yet.
    compared: bool,
    began: Instant,
    settled_push: Option<u64>,
    /// Whether the newest look found the host as wanted.
    is_settled: bool,
    engine_failures: u32,
    /// When to look without being told to.
    next_look: Instant,
    /// Something happened that the look under way may not have seen.
    wants_look: bool,
    /// The engine told of something that the look under way may not have seen. It waits while steps run: what they do
    /// themselves is told, too, and looking costs an engine that is busy.
    event_waits: bool,
    /// Resources that were worked on since the newest look began.
    touched: BTreeSet<ResourceId>,
    /// How steps ended that the journal has not taken yet.
    unrecorded: Vec<Entry>,
    /// Their turns.
    ended: Vec<Turn>,
    /// When they are handed to the journal again.
    record_again: Instant,
    /// The newest observation, until it is shown together with what came of it.
    unpublished: Option<(Observed, UnixSeconds)>,
    /// No step begins any more.
    stopping: CancellationToken,
}

impl<D: Driver, J: Journal> Reconciler<D, J> {
    /// A reconciler that has not looked at its host yet.
    #[must_use]
    pub fn new(parts: Parts<D, J>) -> (Self, Handle) {
        let Parts { driver, journal, ledger, lanes, target } = parts;
        let (state, state_rx) = watch::channel(HostState::default());
        let look = Arc::new(Notify::new());
        let handle = Handle { state: state_rx, look: look.clone() };
        let known = driver.known();
        let reconciler = Self {
            driver,
            journal,
            target,
            look,
            events: Arc::new(Notify::new()),
            state,
            notes: Notes::new(ledger.clone(), known),
            graves: Graves::new(ledger.clone()),
            books: Bookkeeping::new(ledger),
            // Bounded by the steps in flight, which the lanes bound.
            done: mpsc::unbounded_channel(),
            turns: Turns::new(lanes),
            work: Work::default(),
            retries: Retries::default(),
            desired: None,
            pushes: 0,
            blocked: Vec::new(),
            unsure: BTreeSet::new(),
            drift: Vec::new(),
            breaker: Breaker::default(),
            was_settled: false,
            compared: false,
            began: Instant::now(),
            settled_push: None,
            is_settled: false,
            engine_failures: 0,
            next_look: Instant::now(),
            wants_look: false,
            event_waits: false,
            touched: BTreeSet::new(),
            unrecorded: Vec::new(),
            ended: Vec::new(),
            record_again: Instant::now(),
            unpublished: None,
            stopping: CancellationToken::new(),
        };
        (reconciler, handle)
    }

    /// Runs until `shutdown`, then lets running steps end for a while.
    ///
    /// # Errors
    /// [`JournalError::Failed`]: the journal cannot be written, so nothing may be done any more.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), JournalError> {
        self.stopping = shutdown.clone();
        let listener = tokio::spawn(listen(self.driver.clone(), self.events.clone()));
        let result = match self.load_notes(&shutdown).await {
            true => self.work_until(&shutdown).await,
            false => Ok(()),
        };
        listener.abort();
        result?;
        self.drain().await
    }

    /// Without them strangers and our own could not be told apart, so nothing is looked at before. Returns whether they came.
    async fn load_notes(&mut self, shutdown: &CancellationToken) -> bool {
        while let Err(error) = self.notes.load().await {
            tracing::error!(error = %error.message, "nothing is done before the ledger can be read");
            self.take_target();
            self.unobserved(&error).await;
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep_until(self.next_look) => {}
            }
        }
        self.engine_failures = 0;
        true
    }

    /// Stops only between two pieces of work, so that what was recorded as begun has begun.
    async fn work_until(&mut self, shutdown: &CancellationToken) -> Result<(), JournalError> {
        self.take_target();
        let mut look = Some(self.begin_look());
        loop {
            let running = self.work.is_running();
            let mut wanted = false;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = self.done.1.recv() => {
                    self.finish(done).await?;
                    wanted = self.work.is_idle();
                }
                seen = finished(&mut look) => {
                    look = None;
                    self.take_look(seen).await?;
                }
                Ok(()) = self.target.changed() => {
                    if self.take_target() {
                        // The look under way did not know what this slice takes over or calls by its name.
                        look = None;
                    }
                    wanted = true;
                }
                () = self.turns.came() => wanted = true,
                () = self.look.notified() => wanted = true,
                () = self.events.notified(), if !running => self.event_waits = true,
                () = tokio::time::sleep_until(self.next_look), if look.is_none() => wanted = true,
                () = tokio::time::sleep_until(self.record_again), if !self.unrecorded.is_empty() => self.record_ends().await?,
            }
            self.wants_look |= wanted;
            let due = self.wants_look || (self.event_waits && !self.work.is_running());
            if due && look.is_none() {
                look = Some(self.begin_look());
            }
        }
    }

    /// Takes up what to work towards; returns whether it is another slice.
    fn take_target(&mut self) -> bool {
        let target = self.target.borrow_and_update().clone();
        let is_new = self.desired.as_ref().map(|d| &d.admission) != target.desired.as_ref().map(|d| &d.admission);
        if is_new {
            self.is_settled = false;
            // Nothing more of the old slice begins; what runs ends.
            self.retries.reset();
            self.work.stop();
            self.blocked.clear();
            self.drift.clear();
            self.compared = false;
            self.breaker.reset();
            self.was_settled = false;
        }
        self.books.expect_success();
        self.settled_push = None;
        self.desired = target.desired;
        self.driver.known().look_for(self.desired.as_ref().map(|d| &d.spec));
        self.pushes = target.pushes;
        is_new
    }

    /// Begins a look at the host. Steps go on meanwhile: what it sees of their resources is not believed.
    fn begin_look(&mut self) -> Look {
        (self.wants_look, self.event_waits) = (false, false);
        self.touched = self.work.in_flight().clone();
        self.turns.look_begins();
        // What was announced before the look is seen by it.
        let _ = self.events.notified().now_or_never();
        look::look(self.driver.clone())
    }

    async fn take_look(&mut self, seen: Result<Observed, DriverError>) -> Result<(), JournalError> {
        match seen {
            Ok(observed) => self.observed(observed).await,
            Err(error) => {
                self.unobserved(&error).await;
                Ok(())
            }
        }
    }

    async fn observed(&mut self, observed: Observed) -> Result<(), JournalError> {
        if std::mem::take(&mut self.engine_failures) > 0 {
            tracing::info!(driver = self.driver.name(), "the engine answers again");
            self.books.expect_success();
        }
        let doubtful: BTreeSet<ResourceId> = self.touched.union(&self.turns.worked()).cloned().collect();
        let mut is_seen_whole = self.touched.is_empty();
        let due = self.graves.due(&observed).await;
        let plan = self.desired.clone().map(|d| {
            let left = self.left_fields(&d);
            // Who names a guest that was destroyed wants it back, unless it is held as the operation left it.
            let is_wanted = |vmid: &Vmid| d.spec.guests().any(|(named, _)| named == *vmid) && !self.is_held(&d, &vmid.resource());
            let due = due.iter().filter(|(vmid, _)| !is_wanted(vmid)).map(|(vmid, lasting)| (*vmid, lasting.clone())).collect();
            let mut plan = plan_given(&d.identity, &d.spec, &observed, Given { due: Some(&due), ..self.given(&d, &left) });
            plan.steps.retain(|step| step.action.ends_an_operation() || !self.is_held(&d, &step.resource));
            plan.drift.retain(|drift| !doubtful.contains(&drift.resource) && !self.is_held(&d, &drift.resource));
            // Of what is worked on the last word counts.
            plan.drift.extend(self.drift.iter().filter(|drift| doubtful.contains(&drift.resource)).cloned());
            plan.drift.sort();
            // What operations work on and the plan leaves as it is keeps nobody from being content.
            let unsure = plan.steps.extract_if(.., |step| !is_believed(step, &observed, &doubtful));
            self.unsure = unsure.map(|step| step.resource).collect();
            is_seen_whole &= self.unsure.is_empty();
            plan
        });
        self.touched = doubtful;
        self.unpublished = Some((observed, Clock.wall()));
        if let (Some(desired), Some(plan)) = (self.desired.clone(), plan) {
            self.take_plan(&desired, plan, is_seen_whole).await?;
        }
        self.turns.give_back();
        self.publish().await;
        self.plan_next_look();
        Ok(())
    }

    async fn take_plan(&mut self, desired: &Desired, plan: Plan, is_seen_whole: bool) -> Result<(), JournalError> {
        let settled = plan.is_settled() && !self.work.is_running() && is_seen_whole;
        self.is_settled = settled;
        let now = Instant::now();
        // What failed since the look began has still failed.
        let failed = self.work.failed().iter().filter(|(r, _)| self.touched.contains(*r));
        let mut held: BTreeMap<ResourceId, Fault> = failed.map(|(r, f)| (r.clone(), f.clone())).collect();
        for step in &plan.steps {
            let runs = step.action.container_id().is_some_and(|id| self.is_running(id));
            let is_fought = step.heals.iter().any(Drift::is_somebodys_doing);
            if let Some(fault) = self.retries.planned(&step.resource, &step.reason, runs, is_fought, now, random()) {
                held.insert(step.resource.clone(), fault);
            }
        }
        self.retries.retain_wanting(|r| self.touched.contains(r) || plan.steps.iter().any(|s| s.resource == *r), now);
        (self.blocked, self.drift, self.compared) = (plan.blocked, plan.drift, true);
        self.breaker.seen(&self.drift, self.now_s());
        self.work.replan(plan.steps, held);
        if !settled {
            self.settled_push = None;
        }
        self.dispatch(Vec::new()).await?;
        self.leave_lanes();
        if settled && self.unrecorded.is_empty() && self.books.settled(desired).await {
            self.settled_push = Some(self.pushes);
            self.was_settled = true;
            self.forget_what_is_gone().await;
        }
        Ok(())
    }

    /// What the planner goes by, with what is `left` to an operator.
    fn given<'a>(&self, desired: &'a Desired, left: &'a Fields) -> Given<'a> {
        let applied = if self.was_settled { Some(&desired.spec) } else { desired.applied.as_ref() };
        Given { applied, left: Some(left), mend: None, in_window: self.is_window_open(desired), due: None }
    }

    /// Whether one of the host's maintenance windows is open.
    fn is_window_open(&self, desired: &Desired) -> bool {
        let windows = desired.spec.policy.as_ref().map(|policy| policy.maintenance.as_slice()).unwrap_or_default();
        !windows.is_empty() && matches!(maintenance::opens_at(windows, Clock.wall()), Ok(None))
    }

    /// What was healed too often to be healed again.
    fn left_fields(&self, desired: &Desired) -> Fields {
        if desired.spec.policy.as_ref().is_none_or(Policy::breaks_loops) { self.breaker.left(self.now_s()) } else { Fields::new() }
    }

    /// Seconds since it began.
    fn now_s(&self) -> u64 {
        self.began.elapsed().as_secs()
    }

    /// Forgets what was known of objects that the host has no more.
    async fn forget_what_is_gone(&self) {
        let Some((observed, _)) = &self.unpublished else { return };
        let is_there = |key: &String| {
            observed.containers.values().any(|c| c.id == *key)
                || observed.networks.values().any(|n| n.id == *key)
                || observed.volumes.keys().any(|name| volume_key(name) == *key)
                // A list without a guest proves nothing.
                || guest::is_note(key)
        };
        self.notes.forget_unless(is_there).await;
    }

    /// Whether an operation left `resource` as it is, to stay so. Nothing stays so when all of a topology goes.
    fn is_held(&self, desired: &Desired, resource: &ResourceId) -> bool {
        let Admission { content_since, generation, is_empty, .. } = desired.admission;
        let since = if planted("hold for a generation") { generation } else { content_since };
        let since = if planted("hold until its own generation") { Generation(since.0 + 1) } else { since };
        !planted("no hold") && !is_empty && self.journal.read(|book| book.hold(resource.as_str(), since).is_some())
    }

    /// The engine could not be observed: what was known stays known, nothing counts as gone, nothing new
    /// begins.
    async fn unobserved(&mut self, error: &DriverError) {
        self.engine_failures = self.engine_failures.saturating_add(1);
        let fault = Fault::new(error.code, cut(&error.message));
        if self.engine_failures == 1 {
            tracing::warn!(driver = self.driver.name(), error = %fault.message, "the engine cannot be observed");
        }
        self.work.stop();
        self.turns.give_back();
        (self.settled_push, self.is_settled) = (None, false);
        let mut observed = (*self.state.borrow().observed).clone();
        if error.kind == DriverErrorKind::Unreachable {
            observed.engine = EngineState::Unreachable;
        }
        observed.error = Some(fault.message.clone());
        self.unpublished = Some((observed, Clock.wall()));
        if let Some(desired) = self.desired.clone() {
            self.books.failed(&desired, &fault).await;
        }
        self.publish().await;
        self.next_look = Instant::now() + ENGINE_RETRY.wait(self.engine_failures, random());
    }

    /// Whether the last look saw this container run.
    fn is_running(&self, id: &str) -> bool {
        let seen = self.unpublished.iter().flat_map(|(observed, _)| observed.containers.values());
        seen.into_iter().any(|live| live.id == id && live.state == ContainerState::Running)
    }

    fn plan_next_look(&mut self) {
        let now = Instant::now();
        let mut next = now + RESYNC_INTERVAL;
        if self.work.is_running() {
            next = now + WORKING_LOOK;
        } else if self.blocked.iter().any(|b| matches!(b.code, None | Some(Code::EngineUnreachable))) {
            next = now + WAITING_LOOK;
        }
        if let Some(at) = self.retries.next_try(now) {
            next = next.min(at + Duration::from_millis(1));
        }
        self.next_look = next;
    }

    /// Begins nothing more, and records how what runs ends.
    async fn drain(&mut self) -> Result<(), JournalError> {
        self.work.stop();
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.work.is_running() {
            let Ok(Some(done)) = tokio::time::timeout_at(deadline, self.done.1.recv()).await else {
                tracing::warn!("steps still run; they are looked at again after the next start");
                return Ok(());
            };
            self.finish(done).await?;
            self.work.stop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
