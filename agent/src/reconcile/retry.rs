//! When a resource is tried again: failures and changes that do not hold. Pure; time is an argument.

use std::collections::BTreeMap;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use tokio::time::Instant;

use crate::limits::{FOUGHT_RETRY_MAX, FREE_RELAPSES, HOLD_TIME, RESOURCE_RETRY};

/// What is remembered of one resource.
#[derive(Debug, Default)]
struct Track {
    /// Failures in a row.
    failures: u32,
    /// Changes in a row that did not hold.
    relapses: u32,
    /// When the last change succeeded.
    changed_at: Option<Instant>,
    /// Not before then.
    until: Option<Instant>,
    /// Why it waits.
    fault: Option<Fault>,
    /// The change was undone: the same one is not tried again while what was there before still runs.
    undone: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Retries {
    tracks: BTreeMap<ResourceId, Track>,
}

impl Retries {
    /// A new slice: every resource gets a fresh chance.
    pub fn reset(&mut self) {
        self.tracks.clear();
    }

    /// Takes note of a failure. `again_soon`: the object changed under the step, so that the first repeat
    /// follows at once.
    pub fn failed(&mut self, resource: &ResourceId, fault: &Fault, again_soon: bool, now: Instant, random: u64) {
        let track = self.tracks.entry(resource.clone()).or_default();
        track.failures = track.failures.saturating_add(1);
        track.changed_at = None;
        let waits = if again_soon { track.failures - 1 } else { track.failures };
        track.until = Some(now + RESOURCE_RETRY.wait(waits, random));
        track.fault = Some(fault.clone());
        track.undone = fault.code == Code::RolledBack;
    }

    /// Takes note of a success.
    pub fn succeeded(&mut self, resource: &ResourceId, now: Instant) {
        let track = self.tracks.entry(resource.clone()).or_default();
        track.failures = 0;
        track.changed_at = Some(now);
        track.until = None;
        track.fault = None;
        track.undone = false;
    }

    /// A plan wants to change `resource` because of `reason`; `runs`: what is to be changed runs now; `is_fought`: somebody has undone
    /// what was set right, so that its next try waits [`FOUGHT_RETRY_MAX`] at most. Returns why it must wait, if it must.
    pub fn planned(
        &mut self,
        resource: &ResourceId,
        reason: &str,
        runs: bool,
        is_fought: bool,
        now: Instant,
        random: u64,
    ) -> Option<Fault> {
        let track = self.tracks.get_mut(resource)?;
        if track.undone && runs {
            return track.fault.clone();
        }
        if let Some(changed_at) = track.changed_at.take() {
            if now.duration_since(changed_at) < HOLD_TIME {
                track.relapses = track.relapses.saturating_add(1);
            } else {
                track.relapses = 0;
            }
            let over = track.relapses.saturating_sub(FREE_RELAPSES);
            if over > 0 {
                let wait = RESOURCE_RETRY.wait(over, random);
                track.until = Some(now + if is_fought { wait.min(FOUGHT_RETRY_MAX) } else { wait });
                let text = format!("set right {} times, and never for long: {reason}; the next try comes after a wait", track.relapses);
                track.fault = Some(Fault::new(Code::StepFailed, text));
            }
        }
        if track.until.is_some_and(|until| until > now) { track.fault.clone() } else { None }
    }

    /// A plan found these resources wanting; what it says nothing of is well. Forgets those that have
    /// been well for long enough.
    pub fn retain_wanting(&mut self, wanting: impl Fn(&ResourceId) -> bool, now: Instant) {
        // What was undone is not wanted only for as long as something else is in its way.
        self.tracks.retain(|resource, track| {
            track.undone || wanting(resource) || track.changed_at.is_some_and(|at| now.duration_since(at) < HOLD_TIME)
        });
    }

    /// When the next waiting resource may be tried, after `now`.
    #[must_use]
    pub fn next_try(&self, now: Instant) -> Option<Instant> {
        self.tracks.values().filter_map(|t| t.until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_undone_is_not_tried_again_while_the_old_one_runs() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        let fault = Fault::new(Code::RolledBack, "its healthcheck fails");
        retries.failed(&resource(), &fault, false, now, 0);
        let later = now + Duration::from_secs(86_400);
        assert_eq!(retries.planned(&resource(), "", true, false, later, 0), Some(fault), "a day later");
        assert_eq!(retries.planned(&resource(), "", false, false, later, 0), None, "nothing runs in its place");
        retries.reset();
        assert_eq!(retries.planned(&resource(), "", true, false, now, 0), None, "a new slice");
    }

    fn resource() -> ResourceId {
        ResourceId::parse("docker/container/a").unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test]
    async fn a_failing_resource_waits_longer_each_time() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let fault = Fault::new(Code::ImageUnavailable, "no such image");
        let mut now = start;
        for ceiling in [1, 2, 4, 8] {
            retries.failed(&resource(), &fault, false, now, u64::MAX);
            assert_eq!(retries.planned(&resource(), "", false, false, now, 0), Some(fault.clone()));
            assert!(retries.next_try(now).unwrap() <= now + seconds(ceiling));
            now += seconds(ceiling) + seconds(1);
            assert_eq!(retries.planned(&resource(), "", false, false, now, 0), None);
        }
    }

    #[tokio::test]
    async fn a_crash_loop_is_mended_at_once_a_few_times_and_then_backs_off() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        for _ in 0..FREE_RELAPSES {
            retries.succeeded(&resource(), now);
            now += seconds(1);
            assert_eq!(retries.planned(&resource(), "it has exited", false, false, now, 0), None);
        }
        retries.succeeded(&resource(), now);
        let fault = retries.planned(&resource(), "it has exited", false, false, now, 0).unwrap();
        assert!(fault.message.contains("it has exited"), "{fault}");
        assert_eq!(retries.planned(&resource(), "it has exited", false, false, now + seconds(2), 0), None);
    }

    #[tokio::test]
    async fn a_change_that_held_starts_the_count_anew() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        for _ in 0..20 {
            retries.succeeded(&resource(), now);
            now += HOLD_TIME + seconds(1);
            assert_eq!(retries.planned(&resource(), "it was killed", false, false, now, 0), None);
        }
    }

    #[tokio::test]
    async fn an_object_that_changed_under_its_step_is_tried_again_at_once_but_only_once() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        let fault = Fault::new(Code::StepFailed, "conflict");
        retries.failed(&resource(), &fault, true, now, 0);
        assert_eq!(retries.planned(&resource(), "", false, false, now, 0), None);
        retries.failed(&resource(), &fault, true, now, 0);
        assert!(retries.planned(&resource(), "", false, false, now, 0).is_some());
    }

    #[tokio::test]
    async fn a_resource_that_is_well_is_forgotten_and_one_that_was_just_changed_is_not() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        retries.succeeded(&resource(), now);
        retries.retain_wanting(|_| false, now);
        assert_eq!(retries.tracks.len(), 1);
        retries.retain_wanting(|_| false, now + HOLD_TIME);
        assert!(retries.tracks.is_empty());
    }
}
