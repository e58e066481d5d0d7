//! Whether a host has what it should, and when the hub sends its slice again. Pure.
//!
//! | caller (hub) does IO | this decides |
//! |---|---|
//! | keeps targets, heartbeats, refusals, push times | push now, wait until, raise an alarm, or rest |

use std::collections::BTreeSet;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::fault::Code;
use crate::id::{Generation, ResourceId, TopologyId, VersionHash};
use crate::observe::EngineState;

/// Between two pushes of the same slice to the same host: 1 s, doubling up to 5 min.
pub const PUSH_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };

/// How long an agent may take to report on a push, or to mend by itself what it enforces, before the hub sends the
/// slice (again).
pub const PUSH_GRACE: Duration = Duration::from_secs(10);

/// Between two pushes at most while a host waits for its maintenance window.
pub const WINDOW_LOOK: Duration = Duration::from_secs(30);

/// What the host should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The topology.
    pub topology: TopologyId,
    /// Its generation.
    pub generation: Generation,
    /// The hash of the host's slice.
    pub version_hash: VersionHash,
    /// The payload's SHA-256, by which a refusal names it.
    pub payload_sha256: String,
    /// What must be present once it is applied.
    pub resources: BTreeSet<ResourceId>,
}

/// What the host last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The topology that it follows (or has just torn down), if any.
    pub topology: Option<TopologyId>,
    /// The generation of the accepted slice; 0 without one.
    pub generation: Generation,
    /// The hash of what is applied; `None` when the first apply failed or nothing was accepted.
    pub applied: Option<VersionHash>,
    /// The generation whose apply last succeeded.
    pub applied_generation: Generation,
    /// The accepted generation once the host has found it healthy for long enough, or it was confirmed; 0 before.
    pub healthy_generation: Generation,
    /// The accepted generation if the host has gone back from it to its signed fallback; 0 otherwise.
    pub rolled_back_generation: Generation,
    /// Whether an apply is under way on the host.
    pub converging: bool,
    /// The state of its engine.
    pub engine: EngineState,
    /// Whether its last observation failed.
    pub observe_error: bool,
    /// What it has, if it has said so.
    pub present: Option<BTreeSet<ResourceId>>,
    /// What an operation keeps unlike the slice on it: to be missing is as ordered.
    pub held: BTreeSet<ResourceId>,
    /// Whether it is ready to accept slices (has a trust root and a binding).
    pub ready: bool,
    /// Whether it enforces its slice: false after a start until it was sent the slice again.
    pub enforcing: bool,
}

/// What the hub remembers of its pushes of the current target to this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Pushes so far in this session.
    pub pushes: u32,
    /// When the last one went out, in milliseconds of the hub's monotonic clock.
    pub last_push_ms: Option<u64>,
    /// The refusal of this very payload, if the agent gave one.
    pub refusal: Option<Code>,
    /// Since when the host is not as wanted, in milliseconds of the hub's monotonic clock.
    pub mismatch_since_ms: Option<u64>,
}

/// What the hub does next for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The host is as wanted.
    Converged,
    /// Send the slice now. The reason is for the log and the event.
    Push(&'static str),
    /// Ask again at this moment (milliseconds of the hub's monotonic clock).
    Wait(u64),
    /// The host is ahead of the hub (which was restored from a backup): ask for what it holds.
    Adopt,
    /// An operator must act: pushing again changes nothing.
    Alarm(Code),
}

/// Whether sending the same bytes again could end otherwise.
#[must_use]
pub fn is_definite(code: Code) -> bool {
    !matches!(
        code,
        Code::Busy
            | Code::Internal
            | Code::NotApproved
            | Code::NoTrustRoot
            | Code::EngineUnreachable
            | Code::RootExpired
            | Code::NotYetValid
            | Code::OutsideMaintenance
            | Code::Quarantined
    )
}

/// Whether a definite refusal may end when the host itself is changed: its policy file, its version, its clock. It is
/// tried once more in each session, as an agent is restarted for such a change.
#[must_use]
pub fn mends_on_host(code: Code) -> bool {
    matches!(code, Code::PolicyDenied | Code::BadContent | Code::Expired | Code::AlreadyApplied)
}

/// Decides for one host. `random` spreads the waits: keep it for as long as `history` stays the same.
#[must_use]
pub fn decide(target: &Target, reported: &Reported, history: &History, now_ms: u64, random: u64) -> Decision {
    if reported.topology.as_ref() == Some(&target.topology) && reported.generation > target.generation {
        return Decision::Adopt;
    }
    let Some(reason) = mismatch(target, reported) else {
        return Decision::Converged;
    };
    // It failed there, and would again. What the same slice still does: after a start it lets the host enforce its fallback.
    if has_rolled_back(target, reported) && reported.enforcing {
        return Decision::Alarm(Code::RolledBack);
    }
    let stands = |code: &Code| is_definite(*code) && (history.pushes > 0 || !mends_on_host(*code));
    if let Some(code) = history.refusal.filter(stands) {
        return Decision::Alarm(code);
    }
    if !reported.ready {
        return Decision::Wait(now_ms.saturating_add(millis(PUSH_BACKOFF.max)));
    }
    let patience = if mends_itself(target, reported) { millis(PUSH_GRACE) } else { 0 };
    let Some(last) = history.last_push_ms else {
        let earliest = history.mismatch_since_ms.unwrap_or(now_ms).saturating_add(patience);
        return if now_ms >= earliest { Decision::Push(reason) } else { Decision::Wait(earliest) };
    };
    let mut wait = PUSH_BACKOFF.wait(history.pushes, random);
    if history.refusal == Some(Code::OutsideMaintenance) {
        // Its windows may be short.
        wait = wait.min(WINDOW_LOOK);
    }
    let mut earliest = last.saturating_add(millis(wait));
    if let Some(since) = history.mismatch_since_ms {
        // A new mismatch after earlier pushes: the agent gets the time to mend it, too.
        earliest = earliest.max(since.saturating_add(patience));
    }
    if reported.converging {
        // The agent is at it: a push would only repeat what it knows.
        earliest = earliest.max(last.saturating_add(millis(PUSH_GRACE)));
    }
    if now_ms >= earliest { Decision::Push(reason) } else { Decision::Wait(earliest) }
}

/// Why the host is not as wanted; `None` when it is.
#[must_use]
pub fn mismatch(target: &Target, reported: &Reported) -> Option<&'static str> {
    if reported.topology.as_ref() != Some(&target.topology) {
        return Some("the host follows another topology or none");
    }
    if reported.generation != target.generation {
        return Some("generation mismatch");
    }
    if has_rolled_back(target, reported) {
        let restarted = "the agent has restarted and does not enforce its fallback yet";
        return Some(if reported.enforcing { "the host has gone back to its fallback" } else { restarted });
    }
    match &reported.applied {
        None => return Some("nothing applied yet"),
        Some(applied) if *applied != target.version_hash => return Some("hash mismatch"),
        // The same content was applied before, and something else since.
        Some(_) if reported.applied_generation != target.generation => return Some("accepted, not applied yet"),
        Some(_) => {}
    }
    if reported.engine == EngineState::Unreachable {
        return Some("engine unreachable");
    }
    if reported.observe_error {
        return Some("observation failed");
    }
    if !reported.enforcing && !target.resources.is_empty() {
        return Some("the agent has restarted and does not enforce yet");
    }
    match &reported.present {
        Some(present) if target.resources.iter().any(|r| !present.contains(r) && !reported.held.contains(r)) => Some("resources missing"),
        Some(_) | None => None,
    }
}

/// Whether the host has tried the very target and given it up.
#[must_use]
pub fn has_rolled_back(target: &Target, reported: &Reported) -> bool {
    reported.topology.as_ref() == Some(&target.topology)
        && reported.generation == target.generation
        && reported.rolled_back_generation == target.generation
}

/// Whether the agent holds the very slice, enforces it, and so is already at what is amiss.
fn mends_itself(target: &Target, reported: &Reported) -> bool {
    reported.enforcing && reported.generation == target.generation && reported.applied.as_ref() == Some(&target.version_hash)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str) -> ResourceId {
        ResourceId::parse(format!("docker/container/{name}")).unwrap()
    }

    fn target() -> Target {
        Target {
            topology: TopologyId::parse("edge").unwrap(),
            generation: Generation(3),
            version_hash: VersionHash::of_bytes(b"3"),
            payload_sha256: "0".repeat(64),
            resources: BTreeSet::from([resource("a"), resource("b")]),
        }
    }

    /// A host that is as it should be.
    fn good() -> Reported {
        let Target { topology, generation, version_hash, resources, .. } = target();
        Reported {
            topology: Some(topology),
            generation,
            applied: Some(version_hash),
            applied_generation: generation,
            healthy_generation: generation,
            rolled_back_generation: Generation(0),
            converging: false,
            engine: EngineState::Ready,
            observe_error: false,
            present: Some(resources),
            held: BTreeSet::new(),
            ready: true,
            enforcing: true,
        }
    }

    fn decide_now(reported: &Reported, history: &History) -> Decision {
        decide(&target(), reported, history, 1_000_000, 0)
    }

    #[test]
    fn a_host_as_wanted_is_left_alone() {
        assert_eq!(decide_now(&good(), &History::default()), Decision::Converged);
        let more = Reported { present: Some(BTreeSet::from([resource("a"), resource("b"), resource("stranger")])), ..good() };
        assert_eq!(decide_now(&more, &History::default()), Decision::Converged);
        let unknown = Reported { present: None, ..good() };
        assert_eq!(decide_now(&unknown, &History::default()), Decision::Converged);
    }

    #[test]
    fn what_an_operation_holds_is_not_missing() {
        let stopped = Reported { present: Some(BTreeSet::from([resource("a")])), ..good() };
        assert_ne!(decide_now(&stopped, &History::default()), Decision::Converged);
        let held = Reported { held: BTreeSet::from([resource("b")]), ..stopped };
        assert_eq!(decide_now(&held, &History::default()), Decision::Converged);
        let other = Reported { held: BTreeSet::from([resource("c")]), ..held };
        assert_ne!(decide_now(&other, &History::default()), Decision::Converged);
    }

    #[test]
    fn every_mismatch_is_a_reason_to_push() {
        for (reported, words) in [
            (Reported { topology: None, generation: Generation(0), applied: None, ..good() }, "another topology or none"),
            (Reported { topology: Some(TopologyId::parse("other").unwrap()), generation: Generation(9), ..good() }, "another topology"),
            (Reported { generation: Generation(2), ..good() }, "generation"),
            (Reported { applied: Some(VersionHash::of_bytes(b"edited by hand")), ..good() }, "hash mismatch"),
            (Reported { applied: None, ..good() }, "nothing applied"),
            (Reported { applied_generation: Generation(1), ..good() }, "not applied yet"),
            (Reported { engine: EngineState::Unreachable, ..good() }, "unreachable"),
            (Reported { observe_error: true, ..good() }, "observation failed"),
            (Reported { present: Some(BTreeSet::from([resource("a")])), ..good() }, "resources missing"),
            (Reported { enforcing: false, ..good() }, "restarted"),
        ] {
            let history = History { mismatch_since_ms: Some(0), ..History::default() };
            let Decision::Push(reason) = decide_now(&reported, &history) else { panic!("{reported:?}") };
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn an_agent_that_enforces_the_very_slice_is_given_time_to_mend() {
        let history = History { mismatch_since_ms: Some(1_000_000), ..History::default() };
        let until = 1_000_000 + millis(PUSH_GRACE);
        let mending = Reported { present: Some(BTreeSet::new()), ..good() };
        assert_eq!(decide_now(&mending, &history), Decision::Wait(until));
        assert!(matches!(decide(&target(), &mending, &history, until, 0), Decision::Push(_)));
        for other in [Reported { enforcing: false, ..good() }, Reported { generation: Generation(2), ..mending }] {
            assert!(matches!(decide_now(&other, &history), Decision::Push(_)), "{other:?}");
        }
    }

    #[test]
    fn a_host_that_was_torn_down_need_not_enforce_anything() {
        let empty = Target { resources: BTreeSet::new(), ..target() };
        let reported = Reported { enforcing: false, present: Some(BTreeSet::new()), ..good() };
        assert_eq!(decide(&empty, &reported, &History::default(), 0, 0), Decision::Converged);
    }

    #[test]
    fn pushes_of_one_slice_back_off() {
        let behind = Reported { generation: Generation(2), ..good() };
        let mut now = 0;
        let mut waits = Vec::new();
        for pushes in 1..=12 {
            let history = History { pushes, last_push_ms: Some(now), refusal: None, mismatch_since_ms: None };
            let Decision::Wait(until) = decide(&target(), &behind, &history, now, u64::MAX) else { panic!("pushed at once") };
            assert_eq!(decide(&target(), &behind, &history, until - 1, u64::MAX), Decision::Wait(until));
            assert!(matches!(decide(&target(), &behind, &history, until, u64::MAX), Decision::Push(_)));
            waits.push(until - now);
            now = until;
        }
        assert!(
            waits.iter().zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]).all(|(w, s)| (s * 500..=s * 1000).contains(w)),
            "{waits:?}"
        );
    }

    #[test]
    fn an_agent_that_is_at_it_is_not_hurried() {
        let busy = Reported { applied: None, converging: true, ..good() };
        let history = History { pushes: 1, last_push_ms: Some(1_000_000), refusal: None, mismatch_since_ms: None };
        let grace = u64::try_from(PUSH_GRACE.as_millis()).unwrap();
        assert_eq!(decide_now(&busy, &history), Decision::Wait(1_000_000 + grace));
        assert!(matches!(decide(&target(), &busy, &history, 1_000_000 + grace, 0), Decision::Push(_)));
    }

    #[test]
    fn a_definite_refusal_is_an_alarm_and_no_push() {
        let behind = Reported { generation: Generation(2), ..good() };
        for code in Code::ALL {
            let history = History { pushes: 1, last_push_ms: Some(0), refusal: Some(*code), mismatch_since_ms: None };
            match decide_now(&behind, &history) {
                Decision::Alarm(alarm) => assert!(alarm == *code && is_definite(*code)),
                Decision::Push(_) => assert!(!is_definite(*code), "{code}"),
                Decision::Converged | Decision::Wait(_) | Decision::Adopt => panic!("{code}"),
            }
        }
        assert!(is_definite(Code::BadSignature) && is_definite(Code::AlreadyApplied) && !is_definite(Code::Busy));
        // In a new session the host may have been mended; a forged slice stays forged.
        let anew = |code| decide_now(&behind, &History { refusal: Some(code), ..History::default() });
        assert!(matches!(anew(Code::PolicyDenied), Decision::Push(_)));
        assert_eq!(anew(Code::BadSignature), Decision::Alarm(Code::BadSignature));
        // Fulfilled all the same: nothing to raise.
        let history = History { refusal: Some(Code::BadSignature), ..History::default() };
        assert_eq!(decide_now(&good(), &history), Decision::Converged);
    }

    #[test]
    fn an_agent_gets_the_time_to_mend_whatever_was_pushed_before() {
        let missing = Reported { present: Some(BTreeSet::from([resource("a")])), ..good() };
        let history = History { pushes: 1, last_push_ms: Some(1), mismatch_since_ms: Some(1_000_000), ..History::default() };
        assert_eq!(decide_now(&missing, &history), Decision::Wait(1_000_000 + millis(PUSH_GRACE)));
    }

    #[test]
    fn what_a_host_went_back_from_is_not_sent_again_but_to_let_it_enforce_its_fallback() {
        let fallback = Reported {
            applied: Some(VersionHash::of_bytes(b"2")),
            applied_generation: Generation(2),
            healthy_generation: Generation(0),
            rolled_back_generation: Generation(3),
            ..good()
        };
        let nothing = Reported { applied: None, applied_generation: Generation(0), converging: true, ..fallback.clone() };
        let unreachable = Reported { engine: EngineState::Unreachable, ..fallback.clone() };
        for gone_back in [&fallback, &nothing, &unreachable] {
            for pushes in [0, 1, 9] {
                let history = History { pushes, last_push_ms: Some(0), refusal: None, mismatch_since_ms: Some(0) };
                assert_eq!(decide(&target(), gone_back, &history, u64::MAX, 0), Decision::Alarm(Code::RolledBack), "{gone_back:?}");
            }
            assert!(mismatch(&target(), gone_back).is_some());
        }
        let restarted = Reported { enforcing: false, ..fallback.clone() };
        let Decision::Push(reason) = decide_now(&restarted, &History::default()) else { panic!("it never enforces") };
        assert!(reason.contains("fallback"));
        let next = Target { generation: Generation(4), ..target() };
        assert!(matches!(decide(&next, &fallback, &History::default(), 0, 0), Decision::Push(_)), "what mends it is sent");
        let of_another = Reported { topology: Some(TopologyId::parse("other").unwrap()), ..fallback };
        assert!(matches!(decide_now(&of_another, &History::default()), Decision::Push(_)));
    }

    #[test]
    fn a_host_that_cannot_accept_yet_is_waited_for() {
        let pending = Reported { ready: false, topology: None, generation: Generation(0), applied: None, ..good() };
        assert!(matches!(decide_now(&pending, &History::default()), Decision::Wait(until) if until > 1_000_000));
    }

    #[test]
    fn a_host_ahead_of_the_hub_is_asked_for_what_it_holds() {
        let ahead = Reported { generation: Generation(4), ..good() };
        assert_eq!(decide_now(&ahead, &History::default()), Decision::Adopt);
        let refused = History { refusal: Some(Code::GenerationRegressed), ..History::default() };
        assert_eq!(decide_now(&ahead, &refused), Decision::Adopt);
    }
}
