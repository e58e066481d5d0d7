//! What the agent says about its host: the state that every other part reads, and the signed report.

use std::collections::BTreeMap;
use std::sync::Arc;

use moorline_common::canonical::to_canonical;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, UnixSeconds, sha256_hex};
use moorline_common::observe::{EngineState, Observed, ObservedGuest, ObservedPve};
use moorline_common::pve::Vmid;
use moorline_common::sign::{ENVELOPE_MAX, PrivateKey, Signed};
use moorline_common::statement::{ApplyReport, ObservedReport};

use crate::limits::REPORT_BYTES_MAX;
use crate::reconcile::Health;

/// The newest known state of the host. Newest wins: it travels on a `watch`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// The newest observation.
    pub observed: Arc<Observed>,
    /// What of it fits into one report.
    pub reported: Arc<Observed>,
    /// The digest of `reported`; empty before the first.
    pub observed_digest: String,
    /// When it was taken.
    pub taken_at: UnixSeconds,
    /// How the newest apply went.
    pub apply: Arc<ApplyReport>,
    /// The digest of `apply`.
    pub apply_digest: String,
    /// The push (see [`crate::intake::Target::pushes`]) for which the host is as wanted.
    pub settled_push: Option<u64>,
    /// How the host is with the accepted slice, and since when.
    pub health: Health,
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
            self.observed = Arc::new(observed);
            let was_trimmed = self.reported.trimmed;
            self.reported = fitting(&self.observed, REPORT_BYTES_MAX);
            if self.reported.trimmed && !was_trimmed {
                tracing::warn!(
                    max = REPORT_BYTES_MAX,
                    "the observation is too large for a report and goes to the hub without what matters least"
                );
            }
            self.observed_digest = self.reported.digest();
        }
        self.taken_at = taken_at;
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
    /// A [`Fault`] when the report has no canonical form, or is larger than a hub takes.
    pub fn sign(&self, host_id: &HostId, key: &PrivateKey) -> Result<Signed<ObservedReport>, Fault> {
        let report = ObservedReport {
            host_id: host_id.clone(),
            taken_at: self.taken_at,
            observed: (*self.reported).clone(),
            apply: (*self.apply).clone(),
        };
        let signed = Signed::seal(&report, &[key])?;
        let size = signed.envelope().to_json().len();
        if size > ENVELOPE_MAX {
            return Err(Fault::new(Code::TooLarge, format!("a report of {size} bytes; a hub takes {ENVELOPE_MAX}")));
        }
        Ok(signed)
    }
}

/// What of `observed` fits into `max` bytes. What matters least goes first: what is not ours, then the configuration of
/// containers, then every object.
fn fitting(observed: &Arc<Observed>, max: usize) -> Arc<Observed> {
    let fits = |observed: &Observed| to_canonical(observed).is_ok_and(|bytes| bytes.len() <= max);
    if fits(observed) {
        return observed.clone();
    }
    let mut less = (**observed).clone();
    less.trimmed = true;
    less.networks.retain(|_, n| n.owner.is_some());
    less.volumes.retain(|_, v| v.owner.is_some());
    less.containers.retain(|_, c| c.owner.is_some());
    let guests = |less: &mut Observed, change: &mut dyn FnMut(&mut BTreeMap<Vmid, ObservedGuest>)| {
        less.pve.iter_mut().for_each(|pve| change(&mut pve.guests));
    };
    guests(&mut less, &mut |guests| guests.retain(|_, guest| guest.owner.is_some()));
    if !fits(&less) {
        less.containers.values_mut().for_each(|c| c.config = None);
        guests(&mut less, &mut |guests| guests.values_mut().for_each(|guest| guest.config = None));
    }
    if !fits(&less) {
        let Observed { engine, error, engine_version, engine_api, .. } = less;
        let pve = less.pve.map(|pve| ObservedPve { guests: BTreeMap::new(), ..pve });
        less = Observed { engine, error, engine_version, engine_api, pve, trimmed: true, ..Observed::default() };
    }
    Arc::new(less)
}

#[cfg(test)]
mod tests {
    use moorline_common::id::ResourceId;
    use moorline_common::observe::{ContainerConfig, ObservedContainer, Owner};

    use super::*;

    fn container(image: String, is_ours: bool) -> ObservedContainer {
        let resource = ResourceId::parse("docker/container/edge-web-1").unwrap();
        let owner = Owner { topology: "edge".to_owned(), resource, spec: String::new(), base: String::new(), adopted: false, hidden: None };
        let config = ContainerConfig { user: "x".repeat(600), ..ContainerConfig::default() };
        ObservedContainer { image, owner: is_ours.then_some(owner), config: is_ours.then(|| Box::new(config)), ..Default::default() }
    }

    #[test]
    fn what_is_too_large_loses_strangers_first_then_configurations_then_all_objects() {
        let mut observed = Observed { engine: EngineState::Ready, ..Observed::default() };
        observed.containers.insert("ours".to_owned(), container(String::new(), true));
        let small = Arc::new(observed.clone());
        observed.containers.insert("stranger".to_owned(), container("y".repeat(1000), false));
        let large = Arc::new(observed);
        let size = |o: &Observed| to_canonical(o).unwrap().len();
        assert!(Arc::ptr_eq(&fitting(&large, size(&large)), &large), "what fits goes as it is");

        let without_strangers = fitting(&large, size(&large) - 1);
        assert_eq!(*without_strangers, Observed { trimmed: true, ..(*small).clone() });
        let bare = fitting(&large, size(&without_strangers) - 1);
        assert!(bare.trimmed && bare.containers["ours"].config.is_none() && bare.containers["ours"].owner.is_some());
        let nothing = fitting(&large, size(&bare) - 1);
        assert_eq!(*nothing, Observed { engine: EngineState::Ready, trimmed: true, ..Observed::default() });
    }
}
