//! What the reconciler records: steps for the journal, outcomes for the ledger.

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::op::State;
use moorline_common::plan::{Action, Step};
use serde_json::json;
use uuid::Uuid;

use crate::clock::Clock;
use crate::db::{DbError, blocking};
use crate::driver::{DriverError, DriverErrorKind};
use crate::intake::Desired;
use crate::journal::Entry;
use crate::ledger::{Ledger, Standing};

/// An action's name in the journal and the log.
pub(super) const fn kind(action: &Action) -> &'static str {
    match action {
        Action::CreateNetwork(_) => "create-network",
        Action::ReplaceNetwork { .. } => "replace-network",
        Action::RemoveNetwork { .. } => "remove-network",
        Action::CreateVolume(_) => "create-volume",
        Action::CreateContainer(_) => "create-container",
        Action::StartContainer { .. } => "start-container",
        Action::UnpauseContainer { .. } => "unpause-container",
        Action::ReplaceContainer { .. } => "replace-container",
        Action::RemoveContainer { .. } => "remove-container",
        Action::UpdateContainer { .. } => "update-container",
        Action::AdoptContainer { .. } => "adopt-container",
        Action::AdoptNetwork { .. } => "adopt-network",
        Action::AdoptVolume(_) => "adopt-volume",
        Action::Guest(guest) => guest.act.kind(),
    }
}

/// The record that must be durable before the step begins. The spec stays out: it may hold what nobody
/// but the container should read.
pub(super) fn started(step: &Step, op_id: Uuid) -> Entry {
    Entry { params: json!({ "reason": cut(&step.reason) }), ..entry(step, op_id, State::Started) }
}

/// The record of how it ended.
pub(super) fn ended(step: &Step, op_id: Uuid, error: Option<&DriverError>) -> Entry {
    match error {
        None => entry(step, op_id, State::Succeeded),
        Some(error) => Entry { fault: Some(Fault::new(error.code, cut(&error.message))), ..entry(step, op_id, State::Failed) },
    }
}

fn entry(step: &Step, op_id: Uuid, state: State) -> Entry {
    Entry::step(op_id, step.resource.clone(), kind(&step.action), state)
}

/// Keeps the ledger's current row in step, and writes only what changed.
pub(super) struct Bookkeeping {
    ledger: Ledger,
    /// Whether the next settled look is to be recorded: after a push, a step or an error.
    expects_success: bool,
    last_failure: Option<Fault>,
}

impl Bookkeeping {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { ledger, expects_success: true, last_failure: None }
    }

    /// The next settled look is news.
    pub(super) fn expect_success(&mut self) {
        self.expects_success = true;
    }

    /// The host is as `desired` says. Returns whether that is recorded.
    pub(super) async fn settled(&mut self, desired: &Desired) -> bool {
        if !self.expects_success {
            return true;
        }
        let (ledger, admission, when_gone) = (self.ledger.clone(), desired.admission.clone(), desired.when_gone);
        let recorded = blocking(move || {
            if admission.is_empty { ledger.clear(&admission.topology, when_gone) } else { ledger.record_success(&admission, Clock.wall()) }
        })
        .await;
        match recorded {
            Ok(()) => {
                self.expects_success = false;
                self.last_failure = None;
                tracing::info!(topology = %desired.admission.topology, generation = %desired.admission.generation, "the host is as wanted");
                true
            }
            Err(error) => {
                log(&error);
                false
            }
        }
    }

    /// `desired` could not be applied, or not be looked at. Written once for each new fault.
    pub(super) async fn failed(&mut self, desired: &Desired, fault: &Fault) {
        self.expects_success = true;
        if self.last_failure.as_ref() == Some(fault) {
            return;
        }
        let (ledger, topology, copy) = (self.ledger.clone(), desired.admission.topology.clone(), fault.clone());
        match blocking(move || ledger.record_error(&topology, &copy)).await {
            Ok(()) => self.last_failure = Some(fault.clone()),
            Err(error) => log(&error),
        }
    }

    /// Where the ledger says that the host stands.
    pub(super) async fn standing(&self) -> Standing {
        let ledger = self.ledger.clone();
        blocking(move || ledger.standing()).await.unwrap_or_else(|error: DbError| {
            log(&error);
            Standing::default()
        })
    }
}

fn log(error: &DbError) {
    tracing::error!(%error, "the ledger failed");
}

/// An error after which a step is tried again.
pub(super) fn retryable(message: String) -> DriverError {
    DriverError { kind: DriverErrorKind::Retryable, code: Code::StepFailed, message }
}

/// Randomness for waits; its quality does not matter.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}
