//! Whether a host has got where a revision wants it, and waiting until all have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId, VersionHash};
use moorline_common::observe::EngineState;
use moorline_common::statement::ApplyReport;
use serde::Serialize;

use crate::approve;
use crate::client::rollouts::RolloutFacts;
use crate::client::{Client, HostView, ReportView};
use crate::error::{Failure, LocalCode};
use crate::limits::{ERROR_LOOKS, OFFLINE_GRACE, POLL_INTERVAL, PULL_LINES_INTERVAL};
use crate::render::Ui;

/// What a wait is for.
#[derive(Debug, Clone)]
pub struct Goal {
    /// The topology.
    pub topology: TopologyId,
    /// The generation.
    pub generation: Generation,
    /// The hash per host.
    pub hosts: BTreeMap<HostId, VersionHash>,
}

/// How far one host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// It reports the generation and the hash.
    Done,
    /// It is on its way.
    Waiting {
        /// Where it is.
        why: String,
    },
    /// It is not connected: it gets its slice when it comes back.
    Offline,
    /// It is cordoned: it gets its slice when that is lifted.
    Cordoned,
    /// It takes its slice in its next maintenance window.
    OutsideMaintenance {
        /// When that opens.
        why: String,
    },
    /// It cannot get there without an operator.
    Failed {
        /// The stable code.
        code: String,
        /// Words for people.
        message: String,
    },
}

/// A host's standing with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStanding {
    /// The host's name.
    pub host: String,
    /// How far it is.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Whether a code is the intake's: it speaks of the payload, not of what runs.
#[expect(clippy::too_many_lines, reason = "a table: each code has its line")]
const fn is_refusal(code: Code) -> bool {
    match code {
        Code::TooLarge
        | Code::BadEnvelope
        | Code::BadSignature
        | Code::UnknownKey
        | Code::RevokedKey
        | Code::ThresholdNotMet
        | Code::WrongType
        | Code::WrongCluster
        | Code::WrongHost
        | Code::WrongEpoch
        | Code::OutOfScope
        | Code::Expired
        | Code::NotYetValid
        | Code::OutsideMaintenance
        | Code::RootExpired
        | Code::BadRoot
        | Code::GenerationRegressed
        | Code::Equivocation
        | Code::AlreadyApplied
        | Code::HashMismatch
        | Code::BadContent
        | Code::SecretsUnreadable
        | Code::PolicyDenied
        | Code::UnknownKind
        | Code::BadParams
        | Code::BadSaga
        | Code::SagaOutOfOrder
        | Code::SagaUnproven
        | Code::ClassDenied
        | Code::RootBehind
        | Code::ClockUnsound
        | Code::NonceUsed
        | Code::Conflict
        | Code::Quarantined
        | Code::UnsupportedVersion => true,
        Code::NoTrustRoot
        | Code::NotApproved
        | Code::EngineUnreachable
        | Code::IncarnationChanged
        | Code::PreconditionFailed
        | Code::DriftMoved
        | Code::DriftResolved
        | Code::TooLate
        | Code::Cancelled
        | Code::OpFailed
        | Code::NotHealthy
        | Code::NoSnapshot
        | Code::Indeterminate
        | Code::DiskFull
        | Code::RecordsBehind
        | Code::StepFailed
        | Code::EngineTooOld
        | Code::NotThere
        | Code::AdoptDiffers
        | Code::RolledBack
        | Code::RolloutFailed
        | Code::FallbackUnusable
        | Code::ImageUnavailable
        | Code::DependencyFailed
        | Code::Waiting
        | Code::NotOwned
        | Code::Busy
        | Code::BaseMoved
        | Code::JoinRefused
        | Code::PermissionDenied
        | Code::NotFound
        | Code::AlreadyExists
        | Code::InvalidArgument
        | Code::RenewalConflict
        | Code::CloudTimeout
        | Code::CloudErrored
        | Code::CloudNotFoundAfterCompletion
        | Code::CloudMissingInput
        | Code::CloudVanished
        | Code::CloudNotFound
        | Code::CloudDoubtful
        | Code::CloudPending
        | Code::CloudRefused
        | Code::CloudUnauthorized
        | Code::CloudRateLimited
        | Code::CloudUnreachable
        | Code::CloudGarbled
        | Code::CloudUnconfigured
        | Code::Internal => false,
    }
}

/// How far `host` is on its way to `hash` of `goal`.
#[must_use]
pub fn judge(goal: &Goal, hash: &VersionHash, host: &HostView) -> Standing {
    let accepted = host.heartbeat.as_ref().filter(|b| b.topology.as_ref() == Some(&goal.topology) && b.generation == goal.generation);
    if accepted.is_some_and(|b| {
        b.applied.as_ref() == Some(hash)
            && b.applied_generation == goal.generation
            && b.last_error_code.is_empty()
            && !b.converging
            && b.engine != EngineState::Unreachable
    }) && host.connected
    {
        return Standing::Done;
    }
    if let Some(fault) = approve::lock_fault(host) {
        return Standing::Failed { code: fault.code.to_string(), message: fault.message };
    }
    if host.cordon.is_some() && accepted.is_none() {
        return Standing::Cordoned;
    }
    if let Some(fault) = host.last_error.as_ref().filter(|f| f.code == Code::OutsideMaintenance) {
        return Standing::OutsideMaintenance { why: fault.message.clone() };
    }
    if let Some(fault) = host.last_error.as_ref().filter(|f| definite(f, accepted.is_some_and(|b| !b.converging))) {
        return Standing::Failed { code: fault.code.to_string(), message: fault.message.clone() };
    }
    if !host.connected {
        return Standing::Offline;
    }
    let why = match (&host.heartbeat, accepted) {
        (None, _) => "no heartbeat yet".to_owned(),
        (Some(beat), _) if !beat.ready => "the agent has no trust root or binding yet".to_owned(),
        (Some(beat), _) if beat.engine == EngineState::Unreachable => "its engine is unreachable".to_owned(),
        (Some(_), None) => "has not accepted the slice yet".to_owned(),
        (Some(_), Some(beat)) => match &host.last_error {
            Some(fault) => format!("{} [{}]", fault.message, fault.code),
            None if beat.converging => host.pull_words().unwrap_or_else(|| "applying".to_owned()),
            None => "accepted, not applied yet".to_owned(),
        },
    };
    Standing::Waiting { why }
}

/// Whether an error ends the wait: a refusal of the payload, or (once the slice was accepted and the agent
/// rests) one that only an operator can mend.
fn definite(fault: &Fault, accepted_and_resting: bool) -> bool {
    is_refusal(fault.code)
        || (accepted_and_resting
            && matches!(
                fault.code,
                Code::EngineTooOld | Code::RolledBack | Code::ImageUnavailable | Code::NotOwned | Code::NotThere | Code::AdoptDiffers
            ))
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub struct Waited {
    /// Where each host is, sorted by name.
    pub standings: Vec<HostStanding>,
    /// [`LocalCode::NotConverged`] with each host that failed or is late.
    pub failure: Option<Failure>,
}

/// Waits until every host of `goal` is there, or cannot get there. Offline hosts count as pending.
///
/// # Errors
/// What calls can fail with; that hosts did not get there is told by [`Waited::failure`].
pub async fn wait(client: &Client, ui: &mut Ui, goal: &Goal, timeout: Duration) -> Result<Waited, Failure> {
    let started = Instant::now();
    let bar = bar(ui, goal);
    let mut shown = Shown::default();
    let mut errors: BTreeMap<HostId, u32> = BTreeMap::new();
    let mut spreads = true;
    loop {
        let over = started.elapsed() >= timeout;
        let look = Instant::now();
        let hosts = match client.hosts(None).await {
            Ok(hosts) => hosts,
            // A hub that restarts is back in seconds; what was pushed is durable.
            Err(failure) if !over && failure.code == LocalCode::HubUnreachable.as_str() => {
                bar.set_message("the hub does not answer; trying again");
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let hosts: BTreeMap<&HostId, &HostView> = hosts.iter().map(|h| (&h.host_id, h)).collect();
        let told = errors_by_report(client, goal, &hosts).await;
        // What has no rollout at the first look gets none later.
        let rollout = if spreads { client.rollout(&goal.topology, goal.generation).await.unwrap_or_default() } else { None };
        spreads = rollout.is_some();
        let mut standings = Vec::with_capacity(goal.hosts.len());
        for (host_id, hash) in &goal.hosts {
            let (name, mut standing) = match hosts.get(host_id) {
                Some(host) => match told.get(host_id) {
                    Some(error) => (host.name.to_string(), judge(goal, hash, &HostView { last_error: error.clone(), ..(*host).clone() })),
                    None => (host.name.to_string(), judge(goal, hash, host)),
                },
                None => (host_id.to_string(), Standing::Waiting { why: "the hub does not show it".to_owned() }),
            };
            if let Some(rollout) = &rollout {
                standing = in_rollout(rollout, host_id, standing);
            }
            let looks = errors.entry(host_id.clone()).or_insert(0);
            if let Standing::Failed { code, message } = &standing {
                *looks += 1;
                if *looks < ERROR_LOOKS {
                    standing = Standing::Waiting { why: format!("{message} [{code}]") };
                }
            } else {
                *looks = 0;
            }
            standings.push(HostStanding { host: name, standing });
        }
        standings.sort_by(|a, b| a.host.cmp(&b.host));
        shown.pulling = hosts.values().filter(|h| !h.pulls.is_empty()).map(|h| h.name.to_string()).collect();
        show(ui, &bar, &standings, &mut shown);
        let moving = standings.iter().any(|s| matches!(s.standing, Standing::Waiting { .. }));
        let offline = standings.iter().any(|s| s.standing == Standing::Offline);
        if over || (!moving && (!offline || started.elapsed() >= OFFLINE_GRACE)) {
            bar.finish_and_clear();
            return Ok(finish(standings, over, timeout));
        }
        // A look at thousands of hosts costs the hub something: it is given twice that time to rest.
        tokio::time::sleep(POLL_INTERVAL.max(look.elapsed() * 2)).await;
    }
}

/// How far a host is that takes part in a rollout, and by itself is as far as `standing`.
fn in_rollout(rollout: &RolloutFacts, host: &HostId, standing: Standing) -> Standing {
    use moorline_common::rollout::{Standing as At, State};
    let Some(host) = rollout.hosts.iter().find(|h| h.host_id == *host) else { return standing };
    let failed = |code: Code, message: String| Standing::Failed { code: code.to_string(), message };
    match (host.standing, rollout.state) {
        (At::Pending | At::Offline, State::Running | State::Completed | State::Paused) if standing == Standing::Cordoned => standing,
        (At::Pending | At::Offline, State::Failed | State::Aborted | State::Superseded) => {
            failed(Code::RolloutFailed, format!("the rollout did not come to it: {}", rollout.reason))
        }
        (At::Pending, State::Paused) => failed(Code::RolloutFailed, format!("the rollout is paused: {}", rollout.reason)),
        (At::Pending, State::Running | State::Completed) => Standing::Waiting { why: "waiting for the rollout".to_owned() },
        (At::Offline, State::Running | State::Completed | State::Paused) => Standing::Offline,
        (At::Released, _) if standing == Standing::Done => {
            Standing::Waiting { why: format!("has it, and is to be healthy for {} s", rollout.plan.healthy_for_s) }
        }
        (At::Failed, _) => failed(Code::RolloutFailed, host.reason.clone()),
        (At::RolledBack, _) => failed(Code::RolledBack, host.reason.clone()),
        (At::Released | At::Healthy, _) => standing,
    }
}

/// The errors of applying as the hosts' own reports tell them: in full, none when it is about another revision
/// than the one that is waited for.
async fn errors_by_report(client: &Client, goal: &Goal, hosts: &BTreeMap<&HostId, &HostView>) -> BTreeMap<HostId, Option<Fault>> {
    let tells = |h: &HostView| h.last_error.as_ref().is_some_and(|f| !is_refusal(f.code));
    let asked: Vec<&HostView> = goal.hosts.keys().filter_map(|id| hosts.get(id)).copied().filter(|h| tells(h)).collect();
    let reports = client.reports(&asked).await;
    let told = |host: &HostView, report: &ReportView| {
        let error = host.last_error.clone().filter(|_| !is_about_another(goal, &report.report.statement().apply));
        error.map(|fault| report.in_full(fault))
    };
    let verified = asked.iter().zip(&reports).filter_map(|(host, report)| Some((*host, report.as_ref().ok()?.as_ref()?)));
    verified.map(|(host, report)| (host.host_id.clone(), told(host, report))).collect()
}

fn is_about_another(goal: &Goal, apply: &ApplyReport) -> bool {
    apply.generation != goal.generation || apply.topology.as_ref() != Some(&goal.topology)
}

fn bar(ui: &Ui, goal: &Goal) -> ProgressBar {
    if !ui.progress_bars() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(goal.hosts.len()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} hosts {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// What was said of each host, where nothing can move, with when and whether it pulled then.
#[derive(Default)]
struct Shown {
    said: BTreeMap<String, (Standing, Instant, bool)>,
    /// Hosts that pull: how far changes all the time.
    pulling: BTreeSet<String>,
}

impl Shown {
    /// Whether a line is due about `host`.
    fn is_due(&mut self, host: &str, standing: &Standing, now: Instant) -> bool {
        let pulls = self.pulling.contains(host);
        let may_wait = |at: &Instant, pulled: bool| pulls && pulled && now.duration_since(*at) < PULL_LINES_INTERVAL;
        let is_due = self.said.get(host).is_none_or(|(said, at, pulled)| said != standing && !may_wait(at, *pulled));
        if is_due {
            self.said.insert(host.to_owned(), (standing.clone(), now, pulls));
        }
        is_due
    }
}

/// Moves the bar, or (off a terminal) says a line for each host whose standing changed.
fn show(ui: &mut Ui, bar: &ProgressBar, standings: &[HostStanding], shown: &mut Shown) {
    let done = standings.iter().filter(|s| s.standing == Standing::Done).count();
    bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
    let waiting = standings.iter().find_map(|s| match &s.standing {
        Standing::Waiting { why } => Some(format!("{}: {why}", s.host)),
        Standing::Offline => Some(format!("{}: offline", s.host)),
        Standing::Cordoned => Some(format!("{}: cordoned", s.host)),
        Standing::OutsideMaintenance { why } => Some(format!("{}: {why}", s.host)),
        Standing::Done | Standing::Failed { .. } => None,
    });
    bar.set_message(waiting.unwrap_or_default());
    bar.tick();
    if !bar.is_hidden() {
        return;
    }
    for HostStanding { host, standing } in standings {
        if shown.is_due(host, standing, Instant::now()) {
            ui.note(&format!("{host}: {}", words(standing)));
        }
    }
}

/// A standing for people.
#[must_use]
pub fn words(standing: &Standing) -> String {
    match standing {
        Standing::Done => "done".to_owned(),
        Standing::Waiting { why } => format!("waiting: {why}"),
        Standing::Offline => "offline: pending until it connects".to_owned(),
        Standing::Cordoned => "cordoned: pending until `moorctl host uncordon`".to_owned(),
        Standing::OutsideMaintenance { why } => format!("pending: {why}"),
        Standing::Failed { code, message } => format!("failed: {message} [{code}]"),
    }
}

fn finish(standings: Vec<HostStanding>, over: bool, timeout: Duration) -> Waited {
    let bad = |s: &&HostStanding| match s.standing {
        // Hosts that are away, cordoned or outside of their windows are pending, not failed, however long one waits.
        Standing::Done | Standing::Offline | Standing::Cordoned | Standing::OutsideMaintenance { .. } => false,
        Standing::Failed { .. } => true,
        Standing::Waiting { .. } => over,
    };
    let details: Vec<String> = standings.iter().filter(bad).map(|s| format!("{}: {}", s.host, words(&s.standing))).collect();
    let late = if over { format!(" within {} s", timeout.as_secs()) } else { String::new() };
    let failure = (!details.is_empty()).then(|| {
        Failure::new(
            LocalCode::NotConverged,
            format!("{} of {} hosts did not get there{late}", details.len(), standings.len()),
            "the hub and the agents go on by themselves: look with `moorctl status`, mend what it names; `moorctl rollback` goes back",
        )
        .with_details(details)
    });
    Waited { standings, failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_common::pulling::Pulling;

    use crate::client::facts::Beat;
    use crate::revision::tests::host;

    fn setup() -> (Goal, VersionHash, HostView) {
        let view = host(10, "a");
        let hash = VersionHash::of_bytes(b"x");
        let goal = Goal {
            topology: TopologyId::parse("edge").unwrap(),
            generation: Generation(2),
            hosts: BTreeMap::from([(view.host_id.clone(), hash.clone())]),
        };
        (goal, hash, view)
    }

    fn beat(generation: u64, applied: Option<&VersionHash>, converging: bool) -> Beat {
        Beat {
            topology: Some(TopologyId::parse("edge").unwrap()),
            generation: Generation(generation),
            applied: applied.cloned(),
            applied_generation: Generation(generation),
            healthy_generation: Generation(0),
            rolled_back_generation: Generation(0),
            observed_digest: String::new(),
            engine: EngineState::Ready,
            converging,
            observe_error: false,
            last_error_code: String::new(),
            ready: true,
            enforcing: true,
        }
    }

    #[test]
    fn a_host_is_done_when_it_reports_generation_and_hash() {
        let (goal, hash, mut view) = setup();
        view.heartbeat = Some(beat(2, Some(&hash), false));
        assert_eq!(judge(&goal, &hash, &view), Standing::Done);
        view.heartbeat = Some(Beat { applied_generation: Generation(1), ..beat(2, Some(&hash), false) });
        assert!(matches!(judge(&goal, &hash, &view), Standing::Waiting { .. }), "the same content was applied earlier");
        view.heartbeat = Some(beat(1, Some(&hash), false));
        assert!(matches!(judge(&goal, &hash, &view), Standing::Waiting { .. }));
        view.connected = false;
        assert_eq!(judge(&goal, &hash, &view), Standing::Offline);
    }

    #[test]
    fn a_pull_is_shown_as_it_goes_and_as_lines_at_a_sane_rate() {
        let (goal, hash, mut view) = setup();
        view.heartbeat = Some(beat(2, None, true));
        view.pulls = vec![Pulling { image: "big:1\u{1b}[2J".into(), layers_done: 1, layers: 3, ..Pulling::default() }];
        let Standing::Waiting { why } = judge(&goal, &hash, &view) else { panic!("done") };
        assert!(why.contains("1 of 3 layers") && !why.contains('\u{1b}'), "{why}");
        let (mut shown, start) = (Shown { pulling: ["a".to_owned()].into(), ..Shown::default() }, Instant::now());
        let mut say = |why: &str, after| shown.is_due("a", &Standing::Waiting { why: why.into() }, start + after);
        assert!(say("1", Duration::ZERO) && !say("2", PULL_LINES_INTERVAL / 2) && say("3", PULL_LINES_INTERVAL));
        assert!(!say("3", PULL_LINES_INTERVAL * 3), "only what changed");
        shown.pulling.clear();
        assert!(shown.is_due("a", &Standing::Done, start + PULL_LINES_INTERVAL), "what is no pull is said at once");
    }

    #[test]
    fn an_error_of_the_revision_before_does_not_fail_the_new_one() {
        let (goal, hash, mut view) = setup();
        view.last_error = Some(Fault::new(Code::ImageUnavailable, "no such image"));
        view.heartbeat = Some(beat(1, None, false));
        assert!(matches!(judge(&goal, &hash, &view), Standing::Waiting { .. }));
        view.heartbeat = Some(beat(2, None, false));
        assert!(matches!(judge(&goal, &hash, &view), Standing::Failed { .. }));
    }

    #[test]
    fn a_host_with_an_error_is_not_done_and_an_error_counts_for_its_own_generation_only() {
        let (goal, hash, mut view) = setup();
        view.heartbeat = Some(Beat { last_error_code: "step_failed".into(), ..beat(2, Some(&hash), false) });
        assert!(matches!(judge(&goal, &hash, &view), Standing::Waiting { .. }));
        let of = |generation| ApplyReport {
            topology: Some(goal.topology.clone()),
            generation: Generation(generation),
            ..ApplyReport::default()
        };
        assert!(is_about_another(&goal, &of(1)) && !is_about_another(&goal, &of(2)));
    }

    #[test]
    fn a_locked_host_fails_the_wait_and_says_what_unlocks_it() {
        let (goal, hash, mut view) = setup();
        view.locked = true;
        view.connected = false;
        assert!(matches!(judge(&goal, &hash, &view), Standing::Failed { code, .. } if code == "renewal_conflict"));
    }

    #[test]
    fn a_refusal_ends_the_wait_whatever_the_host_runs() {
        let (goal, hash, mut view) = setup();
        view.heartbeat = Some(beat(1, Some(&hash), false));
        view.last_error = Some(Fault::new(Code::PolicyDenied, "bind mount"));
        assert!(matches!(judge(&goal, &hash, &view), Standing::Failed { .. }));
    }

    #[test]
    fn a_host_in_a_rollout_is_done_when_it_is_healthy_and_not_failed_while_it_waits() {
        use moorline_common::rollout::{Plan, Standing as At, State};
        let host = HostId::of_key(&[1; 32]);
        let standing = |at: At, state: State, own: Standing| {
            let one = crate::client::rollouts::RolloutHostFacts {
                host: "a".into(),
                host_id: host.clone(),
                standing: at,
                reason: "too late".into(),
                released_unix_ms: 0,
                changed_unix_ms: 0,
            };
            let rollout = RolloutFacts {
                topology: TopologyId::parse("edge").unwrap(),
                generation: Generation(2),
                state,
                reason: "1 failed".into(),
                plan: Plan::default(),
                started_by: String::new(),
                started_unix_ms: 0,
                changed_unix_ms: 0,
                counts: BTreeMap::new(),
                hosts: vec![one],
            };
            in_rollout(&rollout, &host, own)
        };
        let moving = || Standing::Waiting { why: "x".into() };
        assert_eq!(standing(At::Pending, State::Running, moving()), Standing::Waiting { why: "waiting for the rollout".into() });
        assert_eq!(standing(At::Offline, State::Completed, moving()), Standing::Offline);
        assert!(matches!(standing(At::Released, State::Running, Standing::Done), Standing::Waiting { .. }));
        assert_eq!(standing(At::Healthy, State::Running, Standing::Done), Standing::Done);
        for (at, state) in
            [(At::Pending, State::Failed), (At::Pending, State::Paused), (At::Offline, State::Aborted), (At::RolledBack, State::Failed)]
        {
            assert!(matches!(standing(at, state, moving()), Standing::Failed { .. }), "{at:?} {state:?}");
        }
    }

    #[test]
    fn offline_hosts_are_pending_and_late_ones_are_named() {
        let standing = |standing| HostStanding { host: "a".into(), standing };
        for over in [false, true] {
            assert!(finish(vec![standing(Standing::Offline)], over, Duration::from_secs(1)).failure.is_none());
        }
        let failure = finish(vec![standing(Standing::Waiting { why: "x".into() })], true, Duration::from_secs(1)).failure.unwrap();
        assert_eq!((failure.code, failure.details.len()), ("not_converged", 1));
    }
}
