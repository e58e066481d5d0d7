//! Steps on their way: begun by a durable record in their lanes, and ended by one.

use futures_util::FutureExt as _;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::ResourceId;
use moorline_common::op::State;
use moorline_common::plan::Step;
use tokio::time::Instant;
use uuid::Uuid;

use super::record::{random, retryable};
use super::{Done, Reconciler, record};
use crate::driver::{Driver, DriverError, DriverErrorKind, Tasks};
use crate::journal::{Entry, Journal, JournalError};
use crate::lane::{self, Turn};
use crate::limits::{ENGINE_RETRY, STEP_TIMEOUT, STEPS_MAX, WORKING_LOOK};

impl<D: Driver, J: Journal> Reconciler<D, J> {
    /// Starts every step that may run: one durable append of what has ended and what begins, then the lanes.
    pub(super) async fn dispatch(&mut self, ended: Vec<Entry>) -> Result<(), JournalError> {
        self.unrecorded.extend(ended);
        let mut entries = self.unrecorded.clone();
        let ready = self.take_turns();
        entries.extend(ready.iter().map(|(step, op_id, _)| record::started(step, *op_id)));
        if entries.is_empty() {
            return Ok(());
        }
        crate::crash::point("reconcile.append.before");
        match self.journal.append(entries).await {
            Ok(_) => self.unrecorded.clear(),
            Err(error @ JournalError::Failed(_)) => return Err(error),
            Err(error) => {
                // Not recorded, so not begun. There is always room for how things end.
                self.record_ends().await?;
                let fault = Fault::from(&error);
                for (step, ..) in ready {
                    self.retries.failed(&step.resource, &fault, false, Instant::now(), random());
                    self.work.finish(&step.resource, Err(fault.clone()));
                }
                return Ok(());
            }
        }
        if !ready.is_empty() {
            self.books.expect_success();
            self.next_look = Instant::now() + WORKING_LOOK;
            self.publish().await;
        }
        crate::crash::point("reconcile.append.after");
        for (step, op_id, turn) in ready {
            self.submit(step, op_id, turn);
        }
        Ok(())
    }

    /// Records the ends that the journal did not take, and gives their lanes back: nothing else has its turn on a resource before
    /// the end of the step is recorded, as the order in a lane is that of the journal.
    pub(super) async fn record_ends(&mut self) -> Result<(), JournalError> {
        if !self.unrecorded.is_empty() {
            match self.journal.append(self.unrecorded.clone()).await {
                Ok(_) => {
                    self.unrecorded.clear();
                    // Nobody was content while they were not.
                    self.wants_look = true;
                }
                Err(error @ JournalError::Failed(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the ends of steps are not recorded yet");
                    self.record_again = Instant::now() + ENGINE_RETRY.base;
                }
            }
        }
        self.leave_lanes();
        Ok(())
    }

    /// Every step that may run now, with its turn. A step whose lane is taken keeps a place there, and is planned anew
    /// when the turn comes.
    fn take_turns(&mut self) -> Vec<(Step, Uuid, Turn)> {
        let (mut ready, worked) = (Vec::new(), self.turns.worked());
        // Once it is to stop nothing begins, also not in a lane that an operation has just left in doubt.
        let at_once = if self.stopping.is_cancelled() { 0 } else { STEPS_MAX };
        for step in self.work.take_ready(at_once) {
            let is_held = !step.action.ends_an_operation() && self.desired.as_ref().is_some_and(|d| self.is_held(d, &step.resource));
            // An operation may have worked on it since the plan was made.
            let is_worked = worked.contains(&step.resource) || worked.contains(&ResourceId::host());
            self.wants_look |= is_held || is_worked;
            let waits = match () {
                () if is_held => "an operation left it as it is",
                () if is_worked => "an operation has worked on it, and it is looked at again",
                () => match self.turns.take(&step.resource) {
                    Some(turn) => {
                        ready.push((step, Uuid::now_v7(), turn));
                        continue;
                    }
                    None => "it waits for its turn",
                },
            };
            self.work.finish(&step.resource, Err(Fault::new(Code::Waiting, waits)));
        }
        ready
    }

    fn submit(&mut self, step: Step, op_id: Uuid, turn: Turn) {
        self.touched.insert(step.resource.clone());
        tracing::info!(op = %op_id, resource = %step.resource, kind = record::kind(&step.action), reason = %step.reason, "step");
        let (driver, notes, copy) = (self.driver.clone(), self.notes.clone(), step.clone());
        let tasks = self.tasks_of(&step, op_id);
        let job = async move {
            notes.begin(&copy.action).await?;
            crate::crash::point("reconcile.step.before");
            let applied = lane::within(STEP_TIMEOUT, driver.apply_told(&copy, tasks)).await;
            crate::crash::point("reconcile.step.after");
            applied.unwrap_or_else(|| Err(retryable(format!("the step did not end within {} s", STEP_TIMEOUT.as_secs()))))?;
            notes.end(&copy.action).await
        };
        let done = self.done.0.clone();
        tokio::spawn(async move {
            let result = turn.work(job).await.unwrap_or_else(|_| Err(retryable("the step panicked".to_owned())));
            // The reconciler is gone only when the agent stops.
            let _ = done.send(Done { step, op_id, result, turn });
        });
    }

    /// Records under which name a step goes on in the engine. What the journal does not take now is seen on the engine itself.
    fn tasks_of(&self, step: &Step, op_id: Uuid) -> Tasks {
        let (journal, resource, kind) = (self.journal.clone(), step.resource.clone(), record::kind(&step.action));
        Tasks::told(move |task| {
            let entry = Entry { task: Some(task), ..Entry::step(op_id, resource.clone(), kind, State::TaskRunning) };
            let recorded = journal.append(vec![entry]);
            async move {
                if let Err(error) = recorded.await {
                    tracing::warn!(%error, "the task of a step is not recorded");
                }
            }
            .boxed()
        })
    }

    /// Takes the ends of steps: this one and all that have come in the meantime.
    pub(super) async fn finish(&mut self, first: Done) -> Result<(), JournalError> {
        let mut ended = vec![first];
        while let Ok(done) = self.done.1.try_recv() {
            ended.push(done);
        }
        let now = Instant::now();
        let mut entries = Vec::with_capacity(ended.len());
        for Done { step, op_id, result, turn } in ended {
            self.ended.push(turn);
            entries.push(record::ended(&step, op_id, result.as_ref().err()));
            match result {
                Ok(()) => {
                    self.healed(&step);
                    self.retries.succeeded(&step.resource, now);
                    self.work.finish(&step.resource, Ok(()));
                }
                Err(error) => self.step_failed(&step, op_id, &error, now),
            }
        }
        crate::crash::point("reconcile.ended.before");
        self.dispatch(entries).await?;
        crate::crash::point("reconcile.ended.after");
        self.leave_lanes();
        if !self.work.failed().is_empty() {
            self.publish().await;
        }
        Ok(())
    }

    fn healed(&mut self, step: &Step) {
        for drift in &step.heals {
            tracing::info!(resource = %drift.resource, field = drift.field, "healed drift");
        }
        let now_s = self.now_s();
        self.breaker.healed(&step.heals, now_s);
    }

    /// Gives back the lanes of steps whose ends are recorded.
    pub(super) fn leave_lanes(&mut self) {
        if self.unrecorded.is_empty() {
            self.ended.clear();
        }
    }

    fn step_failed(&mut self, step: &Step, op_id: Uuid, error: &DriverError, now: Instant) {
        let fault = Fault::new(error.code, cut(&error.message));
        tracing::warn!(op = %op_id, resource = %step.resource, code = %fault.code, error = %fault.message, "a step failed");
        match error.kind {
            // No fault of the resource's: the next look tells, and everything waits for the engine.
            DriverErrorKind::Unreachable => {
                self.work.finish(&step.resource, Err(fault));
                self.work.stop();
            }
            DriverErrorKind::Conflict | DriverErrorKind::NotFound => {
                self.retries.failed(&step.resource, &fault, true, now, random());
                self.work.finish(&step.resource, Err(fault));
            }
            DriverErrorKind::Retryable | DriverErrorKind::Permanent | DriverErrorKind::Unauthorized => {
                self.retries.failed(&step.resource, &fault, false, now, random());
                self.work.finish(&step.resource, Err(fault));
            }
        }
    }
}
