//! What the agent says about its host: the state that every other part reads, and the signed report.

use std::sync::Arc;

use moorline_common::canonical::to_canonical;
use moorline_common::fault::Fault;
use moorline_common::id::{HostId, UnixSeconds, sha256_hex};
use moorline_common::observe::{EngineState, Observed};
use moorline_common::sign::{OperatorKey, Signed};
use moorline_common::statement::{ApplyReport, ObservedReport};

/// The newest known state of the host. Newest wins: it travels on a `watch`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// The newest observation.
    pub observed: Arc<Observed>,
    /// Its digest; empty before the first.
    pub observed_digest: String,
    /// When it was taken.
    pub taken_at: UnixSeconds,
    /// How the newest apply went.
    pub apply: Arc<ApplyReport>,
    /// The digest of `apply`.
    pub apply_digest: String,
    /// The push (see [`crate::intake::Target::pushes`]) for which the host is as wanted.
    pub settled_push: Option<u64>,
}

impl HostState {
    /// The state of the engine.
    #[must_use]
    pub fn engine(&self) -> EngineState {
        self.observed.engine
    }

    /// Whether the newest observation failed.
    #[must_use]
    pub fn observe_error(&self) -> bool {
        self.observed.error.is_some()
    }

    /// The same state with another observation.
    pub fn set_observed(&mut self, observed: Observed, taken_at: UnixSeconds) {
        if *self.observed != observed || self.observed_digest.is_empty() {
            self.observed_digest = observed.digest();
            self.observed = Arc::new(observed);
            self.taken_at = taken_at;
        }
    }

    /// The same state with another apply report.
    pub fn set_apply(&mut self, apply: ApplyReport) {
        if *self.apply != apply || self.apply_digest.is_empty() {
            self.apply_digest = to_canonical(&apply).map(|bytes| sha256_hex(&bytes)).unwrap_or_default();
            self.apply = Arc::new(apply);
        }
    }

    /// The report, signed by the host.
    ///
    /// # Errors
    /// A [`Fault`] when the report has no canonical form.
    pub fn sign(&self, host_id: &HostId, key: &OperatorKey) -> Result<Signed<ObservedReport>, Fault> {
        let report = ObservedReport {
            host_id: host_id.clone(),
            taken_at: self.taken_at,
            observed: (*self.observed).clone(),
            apply: (*self.apply).clone(),
        };
        Signed::seal(&report, &[key])
    }
}
