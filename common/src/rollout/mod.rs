//! Which hosts get a new revision next, and when its rollout stops. Pure.
//!
//! | caller (hub) does IO | this decides |
//! |---|---|
//! | keeps the plan and where each host stands, looks at sessions and heartbeats | whom to release, who failed, what the rollout is now |
//!
//! The canaries come first, then as many hosts at once as the plan allows; a host makes place for the next one when it
//! is healthy or has failed. More failures than the budget stop it. A host that is away is waited for before its
//! release, and counts as failed when it is not back and healthy in time after it: a revision that takes hosts off the
//! network is what a rollout is there to notice.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::id::HostId;

mod plan;

pub use plan::{COUNT_MAX, OnFailure, Plan, SPAN_MAX_S, Share};

/// How long a host has to be away before it no longer holds up the end of a rollout: hosts come back from a restart of
/// the hub, or of their agent, in less.
pub const OFFLINE_AFTER: Duration = Duration::from_secs(20);

/// How much longer than the plan's deadline a host is waited for: it counts from when it has the revision, and its word takes
/// a while to get here.
pub const DEADLINE_GRACE: Duration = Duration::from_secs(10);

/// What a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Hosts are released as others become healthy.
    Running,
    /// None is released until an operator resumes it.
    Paused,
    /// Too many failed: none is released any more.
    Failed,
    /// Each host that was there has been judged. Those that come later are released under the same rules.
    Completed,
    /// An operator ended it: none is released any more.
    Aborted,
    /// A newer revision took its place.
    Superseded,
}

impl State {
    /// Every one.
    pub const ALL: [State; 6] = [State::Running, State::Paused, State::Failed, State::Completed, State::Aborted, State::Superseded];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::Failed => "failed",
            State::Completed => "completed",
            State::Aborted => "aborted",
            State::Superseded => "superseded",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether hosts may be released.
    #[must_use]
    pub const fn releases(self) -> bool {
        matches!(self, State::Running | State::Completed)
    }
}

/// Where one host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has not got the revision yet, and keeps what it has.
    Pending,
    /// The same, and it is away. It is never failed for that.
    Offline,
    /// It has got the revision and is not judged yet.
    Released,
    /// It has found itself healthy for long enough.
    Healthy,
    /// It refused the revision, or was not healthy in time.
    Failed,
    /// It has gone back to what it had.
    RolledBack,
}

impl Standing {
    /// Every one.
    pub const ALL: [Standing; 6] =
        [Standing::Pending, Standing::Offline, Standing::Released, Standing::Healthy, Standing::Failed, Standing::RolledBack];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::Pending => "pending",
            Standing::Offline => "offline",
            Standing::Released => "released",
            Standing::Healthy => "healthy",
            Standing::Failed => "failed",
            Standing::RolledBack => "rolled_back",
        }
    }

    /// The standing of a word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.as_str() == text)
    }

    /// Whether the host keeps what it had before.
    #[must_use]
    pub const fn waits(self) -> bool {
        matches!(self, Standing::Pending | Standing::Offline)
    }

    /// Whether the host counts against the budget.
    #[must_use]
    pub const fn failed(self) -> bool {
        matches!(self, Standing::Failed | Standing::RolledBack)
    }
}

/// What an operator may do to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Release none until it is resumed.
    Pause,
    /// Go on; what has failed so far is forgiven.
    Resume,
    /// Release none any more.
    Abort,
}

/// A rollout, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// How it spreads.
    pub plan: Plan,
    /// What it is.
    pub state: State,
    /// Failures that an operator has seen and forgiven.
    pub forgiven: u32,
    /// The hosts that take part, in the order of their release, and where each stands.
    pub members: Vec<(HostId, Standing)>,
}

/// What is seen of one host now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// Whether it is there and has spoken.
    pub connected: bool,
    /// For how long it has been away, while this hub was up, in milliseconds.
    pub away_ms: u64,
    /// For how long it has had the revision, while this hub was up, in milliseconds.
    pub released_ms: u64,
    /// Whether it says that it has accepted the revision.
    pub accepted: bool,
    /// Whether it says that it has been healthy with it for long enough.
    pub healthy: bool,
    /// Whether it says that it has gone back from it.
    pub rolled_back: bool,
    /// Whether it refused it for good.
    pub refused: bool,
}

/// What follows from what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Hosts that stand elsewhere now. [`Standing::Released`] is an order: the host gets the revision.
    pub moved: BTreeMap<HostId, Standing>,
    /// What the rollout is now.
    pub state: State,
    /// The failures that stay forgiven.
    pub forgiven: u32,
    /// In how many milliseconds to look again, whatever is heard until then.
    pub look_in_ms: Option<u64>,
}

impl Rollout {
    /// Hosts that take part.
    #[must_use]
    pub fn total(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Hosts that stand so.
    #[must_use]
    pub fn count(&self, is: impl Fn(Standing) -> bool) -> u32 {
        u32::try_from(self.members.iter().filter(|(_, standing)| is(*standing)).count()).unwrap_or(u32::MAX)
    }

    /// What follows from what is seen of each host; one that `sights` lacks has not been seen.
    #[must_use]
    pub fn step(&self, sights: &BTreeMap<HostId, Sight>) -> Step {
        let unseen = Sight::default();
        let sight = |host: &HostId| sights.get(host).unwrap_or(&unseen);
        let mut now = self.clone();
        for (host, standing) in &mut now.members {
            *standing = judged(&self.plan, *standing, sight(host));
        }
        let failures = now.count(Standing::failed);
        now.forgiven = self.forgiven.min(failures);
        if now.state.releases() && failures.saturating_sub(now.forgiven) > self.plan.failure_budget.at_most(self.total()) {
            now.state = match self.plan.on_failure {
                OnFailure::Rollback => State::Failed,
                OnFailure::Pause => State::Paused,
            };
        }
        if now.state.releases() {
            let mut places = now.places();
            for (host, standing) in &mut now.members {
                if places > 0 && *standing == Standing::Pending && sight(host).connected {
                    *standing = Standing::Released;
                    places -= 1;
                }
            }
        }
        if now.state == State::Running && now.is_through() {
            now.state = State::Completed;
        }
        let look_in_ms = now.members.iter().filter_map(|(host, standing)| patience(&self.plan, *standing, sight(host))).min();
        let moved = now.members.into_iter().zip(&self.members).filter(|(new, old)| new != *old).map(|(new, _)| new).collect();
        Step { moved, state: now.state, forgiven: now.forgiven, look_in_ms }
    }

    /// How many hosts may be released now.
    fn places(&self) -> u32 {
        let total = self.total();
        let healthy = self.count(|s| s == Standing::Healthy);
        let width = self.plan.max_parallel.at_least(total).max(1);
        let canaries = self.plan.canary.at_least(total).min(total).saturating_sub(healthy);
        let most = if canaries > 0 { canaries.min(width) } else { width };
        most.saturating_sub(self.count(|s| s == Standing::Released))
    }

    /// Whether each host that is there has been judged, and not all are away.
    fn is_through(&self) -> bool {
        let is_open = self.members.iter().any(|(_, s)| matches!(s, Standing::Pending | Standing::Released));
        let away = self.count(|s| s == Standing::Offline);
        !is_open && (away == 0 || self.count(|s| s == Standing::Healthy) > 0)
    }

    /// What an operator's act makes of it.
    ///
    /// # Errors
    /// [`Code::PreconditionFailed`] when there is nothing left to act on.
    pub fn act(&mut self, act: Act) -> Result<(), Fault> {
        let is_open = self.members.iter().any(|(_, s)| s.waits() || *s == Standing::Released);
        let next = match (act, self.state) {
            (Act::Pause, State::Running | State::Paused) => State::Paused,
            (Act::Resume, State::Running | State::Paused) => State::Running,
            (Act::Pause, State::Completed) if is_open => State::Paused,
            (Act::Abort, State::Running | State::Paused | State::Aborted) => State::Aborted,
            (Act::Abort, State::Completed) if is_open => State::Aborted,
            (_, State::Completed | State::Failed | State::Aborted | State::Superseded) => {
                return Err(Fault::new(
                    Code::PreconditionFailed,
                    format!("the rollout is {}: a new push is the way on", self.state.as_str()),
                ));
            }
        };
        if act == Act::Resume && self.state == State::Paused {
            self.forgiven = self.count(Standing::failed);
        }
        self.state = next;
        Ok(())
    }
}

/// Where a host stands by what is seen of it, release aside.
fn judged(plan: &Plan, standing: Standing, sight: &Sight) -> Standing {
    match standing {
        // It says so: it got the revision, also when this hub does not remember that it released it.
        Standing::Pending | Standing::Offline | Standing::Released | Standing::Failed if sight.rolled_back => Standing::RolledBack,
        Standing::Pending | Standing::Offline | Standing::Released | Standing::Failed if sight.healthy => Standing::Healthy,
        Standing::Pending | Standing::Offline if sight.accepted => Standing::Released,
        Standing::Pending | Standing::Offline if sight.connected => Standing::Pending,
        Standing::Pending if sight.away_ms >= millis(OFFLINE_AFTER) => Standing::Offline,
        Standing::Released if sight.refused || sight.released_ms >= deadline_ms(plan) => Standing::Failed,
        Standing::Pending | Standing::Offline | Standing::Released | Standing::Healthy | Standing::Failed | Standing::RolledBack => {
            standing
        }
    }
}

/// For how long nothing follows from silence alone.
fn patience(plan: &Plan, standing: Standing, sight: &Sight) -> Option<u64> {
    match standing {
        Standing::Pending if !sight.connected => Some(millis(OFFLINE_AFTER).saturating_sub(sight.away_ms)),
        Standing::Released => Some(deadline_ms(plan).saturating_sub(sight.released_ms)),
        Standing::Pending | Standing::Offline | Standing::Healthy | Standing::Failed | Standing::RolledBack => None,
    }
}

fn deadline_ms(plan: &Plan) -> u64 {
    plan.deadline_s.saturating_mul(1000).saturating_add(millis(DEADLINE_GRACE))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
