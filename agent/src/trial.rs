//! Keeps the time of the newest accepted slice, and ends its trial: it stays, or it is given up for its fallback.
//!
//! [`decide`] judges; this hands it what the ledger and the reconciler know, and does what it says. It asks no hub: neither its
//! absence nor its word shortens a trial or draws it out.

use std::time::Duration;

use moorline_common::convergence::is_definite;
use moorline_common::fallback::{Known, Reason, Verdict, decide};
use moorline_common::fault::Fault;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::db::{DbError, blocking};
use crate::intake::Intake;
use crate::ledger::Ledger;
use crate::ledger::trial::{TrialRow, TrialState};
use crate::limits::{TRIAL_RETRY, TRIAL_SAVE_INTERVAL};
use crate::reconcile::{self, Health};
use crate::report::HostState;

/// See the module.
pub struct Trials {
    intake: Intake,
    ledger: Ledger,
    reconciler: reconcile::Handle,
    state: watch::Receiver<HostState>,
    /// Since when the host is worked on towards which slice, in this run of the agent.
    watched: Option<(TrialKey, Instant)>,
    /// When the time that has passed is saved again.
    save_at: Instant,
}

/// Which slice.
type TrialKey = (moorline_common::id::TopologyId, moorline_common::id::Generation);

impl Trials {
    /// The trials of the host that `intake` and `reconciler` are of.
    #[must_use]
    pub fn new(intake: Intake, ledger: Ledger, reconciler: reconcile::Handle) -> Self {
        let state = reconciler.state();
        Self { intake, ledger, reconciler, state, watched: None, save_at: Instant::now() + TRIAL_SAVE_INTERVAL }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut news, mut trust, mut target) = (self.intake.trial_news(), self.intake.trust(), self.intake.target());
        loop {
            let wait = match self.look().await {
                Ok(wait) => wait,
                Err(fault) => {
                    tracing::error!(code = %fault.code, error = %fault.message, "how the slice stands is looked at again");
                    Some(TRIAL_RETRY)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = self.state.changed() => {}
                Ok(()) = news.changed() => {}
                Ok(()) = trust.changed() => {}
                Ok(()) = target.changed() => {}
                () = tokio::time::sleep(wait.unwrap_or(TRIAL_SAVE_INTERVAL)) => {}
            }
        }
    }

    /// Judges the newest slice, and acts on that; gives back when to look again.
    async fn look(&mut self) -> Result<Option<Duration>, Fault> {
        let ledger = self.ledger.clone();
        let row = blocking(move || Ok::<_, DbError>(ledger.standing()?.trial)).await.map_err(|e| failed(&e))?;
        let Some(row) = row.filter(|row| row.state == TrialState::Armed) else { return Ok(None) };
        let known = self.known(&row);
        match decide(row.terms.as_ref(), known) {
            Verdict::Keep(wait) => {
                self.save(&row).await?;
                Ok(wait.map(|wait| wait.min(TRIAL_SAVE_INTERVAL)))
            }
            Verdict::Lapse => {
                tracing::info!(topology = %row.topology, generation = %row.generation, "the host is healthy; the slice stays");
                self.intake.keep(&row, None).await?;
                self.reconciler.look();
                Ok(None)
            }
            Verdict::GoBack(reason) => self.go_back(row, reason).await,
        }
    }

    async fn go_back(&mut self, row: TrialRow, reason: Reason) -> Result<Option<Duration>, Fault> {
        let why = match (reason, &self.state.borrow().health) {
            (Reason::NotHealthy { .. }, Health::Ailing(why)) => why.clone(),
            (Reason::NotHealthy { .. } | Reason::NotConfirmed { .. }, _) => None,
        };
        match self.intake.go_back(row.clone(), reason, why).await {
            Ok(_) => Ok(None),
            // What may be over some time is waited for.
            Err(fault) if !is_definite(fault.code) => {
                tracing::error!(code = %fault.code, error = %fault.message, "the fallback cannot come back yet");
                Ok(Some(TRIAL_RETRY))
            }
            Err(fault) => {
                tracing::error!(code = %fault.code, error = %fault.message, "the fallback cannot come back; the slice stays");
                self.intake.keep(&row, Some(format!("{} [{}]", fault.message, fault.code))).await?;
                self.reconciler.look();
                Ok(None)
            }
        }
    }

    fn known(&mut self, row: &TrialRow) -> Known {
        let state = self.state.borrow_and_update();
        let is_of_it = row.is_of_report(&state.apply);
        let healthy = match &state.health {
            Health::Well(since) if is_of_it => Some(since.elapsed()),
            Health::Well(_) | Health::Ailing(_) | Health::Unknown => None,
        };
        let key = (row.topology.clone(), row.generation);
        let watched = match self.watched.take().filter(|(of, _)| is_of_it && *of == key) {
            Some(watched) => Some(watched),
            None => is_of_it.then(|| (key, Instant::now())),
        };
        let known = Known {
            elapsed: row.elapsed(&Clock.boot()),
            watched: watched.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed()),
            healthy,
            confirmed: false,
            held: is_of_it && !state.apply.held.is_empty(),
        };
        drop(state);
        self.watched = watched;
        known
    }

    /// Saves now and then how much time has passed: another boot forgets the rest.
    async fn save(&mut self, row: &TrialRow) -> Result<(), Fault> {
        if row.terms.is_none() || Instant::now() < self.save_at {
            return Ok(());
        }
        let (ledger, boot) = (self.ledger.clone(), Clock.boot());
        blocking(move || ledger.save_trial_time(&boot)).await.map_err(|e| failed(&e))?;
        self.save_at = Instant::now() + TRIAL_SAVE_INTERVAL;
        Ok(())
    }
}

fn failed(error: &DbError) -> Fault {
    Fault::new(moorline_common::fault::Code::Internal, error.to_string())
}

#[cfg(test)]
mod tests;
