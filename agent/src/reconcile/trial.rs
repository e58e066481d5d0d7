//! Whether the host is healthy with the accepted slice, and since when: what the judgement over a slice goes by.

use moorline_common::fallback::ailing;
use moorline_common::observe::Observed;
use moorline_common::statement::ApplyReport;
use tokio::time::Instant;

use super::Reconciler;
use crate::driver::Driver;
use crate::intake::Desired;
use crate::journal::Journal;

/// How a host is with the slice that it works towards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It works towards nothing.
    #[default]
    Unknown,
    /// It is not as wanted, or not well with it: what is amiss first, if that is known.
    Ailing(Option<String>),
    /// As wanted, and everything that has to run runs and passes its healthcheck, without a break since then.
    Well(Instant),
}

impl<D: Driver, J: Journal> Reconciler<D, J> {
    /// How the host is by what `report` tells and the newest look has seen.
    pub(super) fn health(&self, desired: &Desired, report: &ApplyReport) -> Health {
        if let Some(first) = report.troubles.first() {
            return Health::Ailing(Some(format!("{}: {}", first.resource, first.message)));
        }
        if !self.is_settled {
            return Health::Ailing(None);
        }
        let state = self.state.borrow();
        let observed: &Observed = self.unpublished.as_ref().map_or(&state.observed, |(observed, _)| observed);
        if let Some((resource, why)) = ailing(&desired.identity, &desired.spec, observed) {
            return Health::Ailing(Some(format!("{resource}: {why}")));
        }
        match (&state.health, state.apply.generation == report.generation) {
            (Health::Well(since), true) => Health::Well(*since),
            (Health::Well(_) | Health::Ailing(_) | Health::Unknown, _) => Health::Well(Instant::now()),
        }
    }
}
