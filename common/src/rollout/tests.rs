//! The rules of a rollout, one by one and under every story.

use proptest::prelude::*;

use super::*;

fn hosts(count: u8) -> Vec<HostId> {
    (0..count).map(|n| HostId::of_key(&[n; 32])).collect()
}

fn rollout(plan: Plan, count: u8) -> Rollout {
    Rollout { plan, state: State::Running, forgiven: 0, members: hosts(count).into_iter().map(|h| (h, Standing::Pending)).collect() }
}

/// What happens in a world where each host says what it is told to say.
struct World {
    rollout: Rollout,
    sights: BTreeMap<HostId, Sight>,
}

impl World {
    fn new(plan: Plan, count: u8) -> Self {
        let here = || Sight { connected: true, ..Sight::default() };
        Self { rollout: rollout(plan, count), sights: hosts(count).into_iter().map(|h| (h, here())).collect() }
    }

    fn of(&mut self, n: usize) -> &mut Sight {
        self.sights.get_mut(&self.rollout.members[n].0).unwrap()
    }

    fn step(&mut self) -> Step {
        let step = self.rollout.step(&self.sights);
        for (host, standing) in &mut self.rollout.members {
            *standing = step.moved.get(host).copied().unwrap_or(*standing);
        }
        (self.rollout.state, self.rollout.forgiven) = (step.state, step.forgiven);
        step
    }

    fn standings(&self) -> Vec<Standing> {
        self.rollout.members.iter().map(|(_, s)| *s).collect()
    }

    /// Time passes for those to whom it matters.
    fn pass(&mut self, ms: u64) {
        for (host, standing) in &self.rollout.members {
            let sight = self.sights.get_mut(host).unwrap();
            sight.away_ms = if sight.connected { 0 } else { sight.away_ms + ms };
            sight.released_ms = if *standing == Standing::Released { sight.released_ms + ms } else { 0 };
        }
    }
}

fn plan(canary: u32, width: u32, budget: u32) -> Plan {
    Plan { canary: Share::Count(canary), max_parallel: Share::Count(width), failure_budget: Share::Count(budget), ..Plan::default() }
}

use Standing::{Failed, Healthy, Offline, Pending, Released, RolledBack};

#[test]
fn the_canary_goes_first_then_as_many_at_once_as_allowed() {
    let mut w = World::new(plan(1, 2, 0), 4);
    w.step();
    assert_eq!(w.standings(), [Released, Pending, Pending, Pending]);
    w.step();
    assert_eq!(w.standings(), [Released, Pending, Pending, Pending], "nothing before it is healthy");
    w.of(0).healthy = true;
    w.step();
    assert_eq!(w.standings(), [Healthy, Released, Released, Pending]);
    w.of(2).healthy = true;
    w.step();
    assert_eq!(w.standings(), [Healthy, Released, Healthy, Released]);
    for n in [1, 3] {
        w.of(n).healthy = true;
    }
    assert_eq!(w.step().state, State::Completed);
}

#[test]
fn a_failure_beyond_the_budget_ends_it_and_one_within_makes_place() {
    let mut w = World::new(plan(1, 4, 0), 3);
    w.step();
    w.of(0).rolled_back = true;
    assert_eq!((w.step().state, w.standings()), (State::Failed, vec![RolledBack, Pending, Pending]));
    w.step();
    assert_eq!(w.standings(), [RolledBack, Pending, Pending], "nothing more is released");

    let mut w = World::new(plan(1, 4, 1), 3);
    w.step();
    w.of(0).refused = true;
    assert_eq!((w.step().state, w.standings()), (State::Running, vec![Failed, Released, Pending]), "another canary");
    w.of(1).healthy = true;
    w.step();
    w.of(2).healthy = true;
    assert_eq!((w.step().state, w.standings()), (State::Completed, vec![Failed, Healthy, Healthy]));
}

#[test]
fn what_is_not_healthy_in_time_has_failed_also_when_it_is_away() {
    let mut w = World::new(Plan { on_failure: OnFailure::Pause, ..plan(0, 9, 0) }, 2);
    assert_eq!(w.step().look_in_ms, Some(610_000));
    w.of(0).connected = false;
    w.of(1).healthy = true;
    w.pass(609_999);
    assert_eq!(w.step().look_in_ms, Some(1));
    w.pass(1);
    assert_eq!((w.step().state, w.standings()), (State::Paused, vec![Failed, Healthy]));
    w.rollout.act(Act::Resume).unwrap();
    assert_eq!(w.step().state, State::Completed, "forgiven");
    w.of(0).healthy = true;
    w.step();
    assert_eq!(w.standings(), [Healthy, Healthy], "late, and healthy all the same");
}

#[test]
fn hosts_that_are_away_are_pending_and_get_it_when_they_come() {
    let mut w = World::new(plan(1, 9, 0), 3);
    w.of(2).connected = false;
    w.step();
    w.of(0).healthy = true;
    w.step();
    w.of(1).healthy = true;
    assert_eq!(w.step().state, State::Running, "it may only be restarting");
    w.pass(20_000);
    assert_eq!((w.step().state, w.standings()), (State::Completed, vec![Healthy, Healthy, Offline]));
    w.of(2).connected = true;
    w.step();
    assert_eq!(w.standings(), [Healthy, Healthy, Released]);
    w.of(2).rolled_back = true;
    assert_eq!(w.step().state, State::Failed, "what comes late may fail, too");

    let mut w = World::new(plan(1, 9, 0), 2);
    for n in [0, 1] {
        w.of(n).connected = false;
    }
    w.pass(60_000);
    assert_eq!((w.step().state, w.standings()), (State::Running, vec![Offline, Offline]), "nobody has it yet");
}

#[test]
fn a_host_that_has_it_already_is_judged_whoever_gave_it() {
    let mut w = World::new(plan(1, 1, 0), 3);
    w.rollout.state = State::Paused;
    w.of(0).accepted = true;
    w.of(1).healthy = true;
    w.step();
    assert_eq!(w.standings(), [Released, Healthy, Pending]);
}

#[test]
fn an_operator_pauses_resumes_and_aborts_what_is_not_over() {
    let mut r = rollout(plan(1, 1, 0), 2);
    for (act, then) in
        [(Act::Pause, State::Paused), (Act::Pause, State::Paused), (Act::Resume, State::Running), (Act::Abort, State::Aborted)]
    {
        r.act(act).unwrap();
        assert_eq!(r.state, then);
    }
    r.act(Act::Abort).unwrap();
    for (state, act) in [(State::Aborted, Act::Resume), (State::Failed, Act::Resume), (State::Superseded, Act::Abort)] {
        r.state = state;
        assert_eq!(r.act(act).unwrap_err().code, Code::PreconditionFailed);
        assert_eq!(r.state, state);
    }
    // Completed, but somebody is still to come.
    r.state = State::Completed;
    r.act(Act::Abort).unwrap();
    r.state = State::Completed;
    r.members.iter_mut().for_each(|(_, s)| *s = Healthy);
    assert_eq!(r.act(Act::Abort).unwrap_err().code, Code::PreconditionFailed);
}

#[test]
fn shares_are_read_and_counted() {
    for (text, share) in [("3", Share::Count(3)), ("0", Share::Count(0)), ("25%", Share::Percent(25)), ("100%", Share::Percent(100))] {
        assert_eq!(text.parse::<Share>().unwrap(), share);
        assert_eq!(share.to_string(), text);
    }
    for text in ["", "%", "-1", "1.5", "101%", "+1", "4294967296", "1000001", "1 %"] {
        assert_eq!(text.parse::<Share>().unwrap_err().code, Code::InvalidArgument, "{text}");
    }
    let quarter = Share::Percent(25);
    assert_eq!([1, 4, 5, 20].map(|n| quarter.at_least(n)), [1, 1, 2, 5]);
    assert_eq!([1, 4, 5, 20].map(|n| quarter.at_most(n)), [0, 1, 1, 5]);
    assert_eq!(Share::Percent(0).at_least(10), 0);
}

#[test]
fn plans_that_make_no_sense_are_refused_and_told_in_a_line() {
    let good = Plan::default();
    good.require_sound().unwrap();
    let line = "1 host first, then at most 25% of the hosts at once, each healthy for 30 s within 600 s; the first failure ends it and the host goes back";
    assert_eq!(good.words(), line);
    for (bad, words) in [
        (Plan { max_parallel: Share::Percent(0), ..good.clone() }, "max_parallel"),
        (Plan { deadline_s: 30, ..good.clone() }, "no time"),
        (Plan { deadline_s: 0, ..good.clone() }, "deadline"),
        (Plan { deadline_s: SPAN_MAX_S + 1, ..good }, "deadline"),
    ] {
        assert!(bad.require_sound().unwrap_err().message.contains(words), "{bad:?}");
    }
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), good);
}

#[derive(Debug, Clone)]
enum Event {
    Away(usize),
    Back(usize),
    Healthy(usize),
    RolledBack(usize),
    Refused(usize),
    Pass(u64),
    Act(Act),
}

fn events(count: usize) -> impl Strategy<Value = Vec<Event>> {
    let host = 0..count;
    let one = prop_oneof![
        2 => host.clone().prop_map(Event::Away),
        3 => host.clone().prop_map(Event::Back),
        6 => host.clone().prop_map(Event::Healthy),
        1 => host.clone().prop_map(Event::RolledBack),
        1 => host.prop_map(Event::Refused),
        3 => (0_u64..700_000).prop_map(Event::Pass),
        1 => prop_oneof![Just(Act::Pause), Just(Act::Resume), Just(Act::Abort)].prop_map(Event::Act),
    ];
    proptest::collection::vec(one, 0..60)
}

/// Hosts speak only of what they have.
fn happen(w: &mut World, event: &Event) {
    let has_it = |w: &World, n: usize| matches!(w.rollout.members[n].1, Released | Failed);
    match event {
        Event::Away(n) => w.of(*n).connected = false,
        Event::Back(n) => w.of(*n).connected = true,
        Event::Healthy(n) if has_it(w, *n) && !w.of(*n).rolled_back => w.of(*n).healthy = true,
        Event::RolledBack(n) if has_it(w, *n) && !w.of(*n).healthy => w.of(*n).rolled_back = true,
        Event::Refused(n) if has_it(w, *n) => w.of(*n).refused = true,
        Event::Healthy(_) | Event::RolledBack(_) | Event::Refused(_) => {}
        Event::Pass(ms) => w.pass(*ms),
        Event::Act(act) => {
            let _ = w.rollout.act(*act);
        }
    }
}

proptest! {
    #[test]
    fn whatever_hosts_and_operators_do_the_rules_hold_and_it_ends(
        (canary, width, budget) in (0_u32..4, 1_u32..5, 0_u32..3),
        pause in any::<bool>(),
        story in events(8),
    ) {
        let on_failure = if pause { OnFailure::Pause } else { OnFailure::Rollback };
        let mut w = World::new(Plan { on_failure, ..plan(canary, width, budget) }, 8);
        for event in &story {
            happen(&mut w, event);
            let before = w.rollout.clone();
            let step = w.step();
            let released = step.moved.values().filter(|s| **s == Released).count();
            let in_flight = w.rollout.count(|s| s == Released);
            prop_assert!(in_flight <= width, "{in_flight} in flight");
            prop_assert!(before.state.releases() || released == 0, "released while {:?}", before.state);
            prop_assert!(step.state.releases() || released == 0, "released while it ends as {:?}", step.state);
            if w.rollout.count(|s| s == Healthy) < canary {
                prop_assert!(in_flight <= canary, "{in_flight} before the canaries are healthy");
            }
            for (host, standing) in &step.moved {
                let old = before.members.iter().find(|(h, _)| h == host).unwrap().1;
                prop_assert!(!(old.waits() && standing.failed()), "failed without ever having got it");
                prop_assert!(*standing != Released || w.sights[host].connected, "released while away");
            }
            prop_assert!(w.rollout.step(&w.sights).moved.is_empty(), "one look is enough");
        }
        // From here on all are there, and say nothing bad.
        if w.rollout.state == State::Paused {
            w.rollout.act(Act::Resume).unwrap();
        }
        for _ in 0..40 {
            for n in 0..8 {
                w.of(n).connected = true;
                let is_released = w.rollout.members[n].1 == Released;
                if is_released && !w.of(n).rolled_back {
                    w.of(n).healthy = true;
                }
            }
            w.step();
        }
        prop_assert!(w.rollout.state != State::Running, "{:?}", w.rollout);
        prop_assert!(!w.rollout.state.releases() || w.rollout.members.iter().all(|(_, s)| !s.waits() && *s != Released));
    }
}
