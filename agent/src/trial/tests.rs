//! Trials on an engine in memory, with clocks that the test sets.

use std::sync::Arc;

use moorline_common::canonical::version_hash;
use moorline_common::fault::Code;
use moorline_common::id::{Generation, TopologyId, UnixSeconds};
use moorline_common::observe::Health as Check;
use moorline_common::sign::PrivateKey;
use moorline_common::statement::{Fallback, SliceStatement, Trial};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::clock::set::Clocks;
use crate::db::Db;
use crate::journal::memory::MemoryJournal;
use crate::lane::Lanes;
use crate::ledger::Standing;
use crate::ledger::trial::{Confirmed, empty_hash};
use crate::reconcile::{Parts, Reconciler};
use crate::testing::{FakeDriver, NOW, Operator};

/// A host whose agent is started and killed as the test likes; no hub is anywhere.
struct Bench {
    clocks: Clocks,
    _dir: tempfile::TempDir,
    operator: Operator,
    db: Db,
    ledger: Ledger,
    intake: Intake,
    driver: FakeDriver,
    state: watch::Receiver<HostState>,
    tasks: Vec<JoinHandle<()>>,
}

impl Bench {
    async fn new() -> Self {
        let clocks = Clocks::new(UnixSeconds(NOW));
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::with_root(dir.path(), |root| {
            // A second operator, with another key.
            let of = root.clone();
            let other = moorline_common::trust::TrustRoot::first(
                of.cluster.clone(),
                &[("ann".to_owned(), PrivateKey::from_seed(&[1; 32]).public()), ("bob".to_owned(), bob().public())],
                &PrivateKey::from_seed(&[2; 32]).public(),
                UnixSeconds(NOW),
                of.expires,
            );
            *root = other;
        });
        let db = Db::open(dir.path()).unwrap();
        let intake = operator.ready_intake(&db).await;
        let state = watch::channel(HostState::default()).1;
        let ledger = Ledger::new(db.clone());
        let mut bench = Self { clocks, _dir: dir, operator, db, ledger, intake, driver: FakeDriver::default(), state, tasks: Vec::new() };
        bench.run();
        bench
    }

    fn run(&mut self) {
        let (reconciler, handle) = Reconciler::new(Parts {
            driver: Arc::new(self.driver.clone()),
            journal: MemoryJournal::default(),
            ledger: self.ledger.clone(),
            lanes: Lanes::new(8),
            target: self.intake.target(),
        });
        self.state = handle.state();
        let trials = Trials::new(self.intake.clone(), self.ledger.clone(), handle);
        let stop = CancellationToken::new();
        let reconcile_stop = stop.clone();
        self.tasks = vec![tokio::spawn(async move { reconciler.run(reconcile_stop).await.unwrap() }), tokio::spawn(trials.run(stop))];
    }

    /// The agent dies.
    async fn kill(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }

    /// The next one is started, and hears of no hub.
    async fn start(&mut self) {
        self.intake = self.operator.intake(&self.db);
        if self.ledger.is_on_trial().unwrap() {
            let _ = self.intake.enforce_stored().await;
        }
        self.run();
    }

    async fn push(&mut self, generation: u64, content: &Value, fallback: Option<Fallback>) {
        let json = self.operator.slice_with(generation, content.clone(), |slice| slice.fallback = fallback);
        self.intake.slice(json).await.unwrap();
        pass(3).await;
    }

    fn standing(&self) -> Standing {
        self.ledger.standing().unwrap()
    }

    /// The generations that were accepted, are applied, were found healthy, and were given up.
    fn stands(&self) -> [u64; 4] {
        let Standing { generation, applied_generation, healthy_generation, rolled_back_generation, .. } = self.standing();
        [generation, applied_generation, healthy_generation, rolled_back_generation].map(|g| g.0)
    }

    /// The images that run.
    fn images(&self) -> Vec<String> {
        self.driver.with(|fake| fake.engine.containers.values().map(|c| c.image.clone()).collect())
    }

    fn check_says(&self, health: Check) {
        self.driver.by_hand(|engine| engine.containers.values_mut().for_each(|c| c.health = health));
    }

    fn trouble(&self) -> Option<Code> {
        self.state.borrow().apply.troubles.first().map(|t| t.code)
    }
}

fn bob() -> PrivateKey {
    PrivateKey::from_seed(&[7; 32])
}

fn edge() -> TopologyId {
    TopologyId::parse("edge").unwrap()
}

/// Time in which nothing else happens.
async fn pass(seconds: u64) {
    // Many short naps: what comes due in between is done in between.
    for _ in 0..4 * seconds {
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn content(image: &str) -> Value {
    json!({ "docker": { "services": { "web": { "image": image, "healthcheck": { "test": ["CMD", "true"] } } } } })
}

fn named(generation: u64, content: &Value) -> Fallback {
    let version_hash = version_hash(content).unwrap();
    Fallback { generation: Generation(generation), version_hash, within_s: 60, healthy_for_s: 0, needs_confirm: true }
}

fn by_health(generation: u64, content: &Value) -> Fallback {
    Fallback { healthy_for_s: 15, needs_confirm: false, ..named(generation, content) }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_confirms_is_given_up_for_what_was_there_before_and_stays_so() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 2, 0, 0], vec!["two:1".to_owned()]));
    let told = bench.state.borrow().apply.trial.clone();
    assert_eq!(told.map(|t| (t.generation.0, t.to.0, t.needs_confirm)), Some((2, 1, true)));
    pass(50).await;
    assert_eq!(bench.stands(), [2, 2, 0, 0], "healthy as it is, nobody has confirmed it");
    pass(10).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 1, 0, 2], vec!["one:1".to_owned()]));
    let back = bench.state.borrow().apply.rolled_back.clone().unwrap();
    assert_eq!((back.generation.0, back.to.0, back.reason.as_str()), (2, 1, "not confirmed within 60 s"));
    assert_eq!(bench.standing().last_error.unwrap().code, Code::RolledBack);
    // The hub repeats what it has, before and after a start: it is known, and never applied again.
    for restart in [false, true] {
        if restart {
            bench.kill().await;
            bench.start().await;
            pass(100).await;
            assert!(bench.intake.target().borrow().desired.is_none(), "all is done that was to be done without a hub");
        }
        bench.push(2, &two, Some(named(1, &one))).await;
        assert!(bench.intake.target().borrow().desired.is_some());
        assert_eq!((bench.stands(), bench.images()), ([2, 1, 0, 2], vec!["one:1".to_owned()]));
    }
    let earlier = bench.operator.slice(1, one.clone());
    assert_eq!(bench.intake.slice(earlier).await.unwrap_err().fault.code, Code::GenerationRegressed, "the floor has not fallen");
    // A confirmation comes too late; a mended revision does not.
    assert!(matches!(bench.ledger.confirm(&edge(), Generation(2)).unwrap(), Confirmed::TooLate(_)));
    bench.push(3, &content("three:1"), None).await;
    pass(15).await;
    assert_eq!((bench.stands(), bench.images()), ([3, 3, 3, 0], vec!["three:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_stays_whatever_happens_later() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    let other = bench.ledger.confirm(&edge(), Generation(1)).unwrap();
    assert_eq!(other, Confirmed::Other(Some((edge(), Generation(2)))), "no other generation is meant");
    assert_eq!(bench.stands(), [2, 2, 0, 0]);
    for _ in 0..2 {
        assert_eq!(bench.intake.gate().confirm(edge(), Generation(2)).await.unwrap(), Confirmed::Stays);
    }
    assert_eq!(bench.stands(), [2, 2, 2, 0]);
    let late = bench.ledger.go_back(Generation(2), &crate::testing::admission("edge", 1, "x"), String::new(), UnixSeconds(0));
    assert!(!late.unwrap(), "nothing comes back any more");
    for _ in 0..2 {
        pass(100).await;
        bench.clocks.reboot();
        bench.kill().await;
        bench.start().await;
        assert!(!bench.ledger.is_on_trial().unwrap());
    }
    bench.push(2, &two, Some(named(1, &one))).await;
    pass(100).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 2, 2, 0], vec!["two:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_trial_is_what_the_host_has_run_and_no_clock_changes_it() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    bench.clocks.set_wall(UnixSeconds(NOW + 10 * 365 * 24 * 3600));
    pass(15).await;
    assert_eq!(bench.stands(), [2, 2, 0, 0], "a clock set ahead ends nothing");
    bench.clocks.set_wall(UnixSeconds(1));
    pass(25).await;
    bench.kill().await;
    bench.clocks.reboot();
    bench.start().await;
    // 43 s are over, of which what came after the last save is forgotten.
    pass(10).await;
    assert_eq!(bench.stands(), [2, 2, 0, 0]);
    pass(35).await;
    assert_eq!(bench.stands(), [2, 1, 0, 2], "a clock set back draws nothing out, nor does a boot");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_killed_goes_back_when_the_time_is_over_hub_or_no_hub() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    bench.kill().await;
    pass(200).await;
    assert_eq!(bench.stands(), [2, 2, 0, 0]);
    bench.start().await;
    pass(3).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 1, 0, 2], vec!["one:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_killed_judges_what_is_on_trial_without_a_hub() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(by_health(1, &one))).await;
    bench.kill().await;
    pass(300).await;
    bench.start().await;
    assert!(bench.intake.target().borrow().desired.is_some(), "it heals what it judges");
    bench.driver.kill("edge-web-1");
    pass(25).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 2, 2, 0], vec!["two:1".to_owned()]), "what nobody saw counts for nothing");
}

#[tokio::test(start_paused = true)]
async fn what_had_begun_to_go_back_when_the_agent_died_goes_on() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    let before = bench.ledger.current().unwrap().unwrap();
    bench.push(2, &two, Some(named(1, &one))).await;
    bench.kill().await;
    // It was on record, and nothing was done yet.
    let back = crate::ledger::Admission {
        generation: Generation(1),
        version_hash: before.version_hash.unwrap(),
        hydrated: before.hydrated,
        envelope: before.envelope,
        ..crate::testing::admission("edge", 1, "")
    };
    assert!(bench.ledger.go_back(Generation(2), &back, "died".to_owned(), UnixSeconds(NOW)).unwrap());
    assert_eq!((bench.stands(), bench.images()), ([2, 2, 0, 2], vec!["two:1".to_owned()]));
    bench.start().await;
    pass(3).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 1, 0, 2], vec!["one:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_healthy_in_time_is_given_up_with_the_reason() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    pass(15).await;
    assert_eq!(bench.stands(), [1, 1, 1, 0], "without a fallback it is merely found healthy");
    bench.push(2, &two, Some(by_health(1, &one))).await;
    bench.check_says(Check::Unhealthy);
    pass(20).await;
    bench.check_says(Check::Healthy);
    pass(10).await;
    bench.check_says(Check::Starting);
    pass(20).await;
    assert_eq!(bench.stands(), [2, 2, 0, 0], "there is time left, and it was not healthy for long enough without a break");
    pass(10).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 1, 0, 2], vec!["one:1".to_owned()]));
    let reason = bench.state.borrow().apply.rolled_back.clone().unwrap().reason;
    assert_eq!(reason, "not healthy for 15 s within 60 s: docker/container/edge-web-1: its healthcheck has not passed yet");
}

#[tokio::test(start_paused = true)]
async fn what_was_healthy_for_long_enough_stays_however_it_is_later() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(by_health(1, &one))).await;
    pass(10).await;
    assert_eq!(bench.stands(), [2, 2, 0, 0]);
    // A hub that repeats itself breaks nothing off.
    bench.push(2, &two, Some(by_health(1, &one))).await;
    pass(5).await;
    assert_eq!(bench.stands(), [2, 2, 2, 0]);
    bench.check_says(Check::Unhealthy);
    pass(200).await;
    bench.kill().await;
    bench.start().await;
    pass(200).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 2, 2, 0], vec!["two:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_was_before_nothing_is_left_and_where_all_was_to_go_it_comes_back() {
    let mut bench = Bench::new().await;
    let one = content("one:1");
    bench.push(1, &one, Some(Fallback { version_hash: empty_hash(), ..named(0, &json!({})) })).await;
    assert_eq!(bench.images(), ["one:1"]);
    pass(60).await;
    assert_eq!((bench.stands(), bench.images()), ([1, 0, 0, 1], Vec::new()));
    assert_eq!((bench.standing().applied, bench.ledger.pinned().unwrap()), (Some(empty_hash()), None));
    bench.push(1, &one, Some(Fallback { version_hash: empty_hash(), ..named(0, &json!({})) })).await;
    assert_eq!((bench.stands(), bench.images()), ([1, 0, 0, 1], Vec::new()), "not again");

    bench.push(2, &one, None).await;
    bench.push(3, &json!({}), Some(named(2, &one))).await;
    assert_eq!((bench.stands(), bench.images()), ([3, 3, 0, 0], Vec::new()));
    bench.kill().await;
    bench.start().await;
    pass(60).await;
    assert_eq!((bench.stands(), bench.images()), ([3, 2, 0, 3], vec!["one:1".to_owned()]));
    assert_eq!(bench.ledger.pinned().unwrap(), Some(edge()));
    bench.kill().await;
    bench.start().await;
    bench.push(3, &json!({}), Some(named(2, &one))).await;
    assert_eq!((bench.stands(), bench.images()), ([3, 2, 0, 3], vec!["one:1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_is_not_what_the_host_had_is_told_and_never_used() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(3, &one, None).await;
    for (generation, wrong) in [(4, named(2, &one)), (5, named(3, &content("other:1"))), (6, named(0, &json!({})))] {
        bench.push(generation, &two, Some(wrong)).await;
        assert_eq!(bench.trouble(), Some(Code::FallbackUnusable));
        assert_eq!(bench.standing().last_error, None, "the slice itself is well");
    }
    pass(100).await;
    assert_eq!((bench.stands(), bench.images()), ([6, 6, 0, 0], vec!["two:1".to_owned()]));
    assert_eq!(bench.trouble(), Some(Code::FallbackUnusable));
    assert_eq!(bench.ledger.confirm(&edge(), Generation(6)).unwrap(), Confirmed::Stays);
    bench.intake.tell_of_trial();
    bench.push(6, &two, Some(named(0, &json!({})))).await;
    assert_eq!((bench.trouble(), bench.stands()), (None, [6, 6, 6, 0]));
}

#[tokio::test(start_paused = true)]
async fn what_a_revoked_key_signed_does_not_come_back() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    let by_bob = |bench: &Bench, generation: u64, content: &Value, fallback: Option<Fallback>| {
        let json = bench.operator.slice_with(generation, content.clone(), |slice| slice.fallback = fallback);
        let statement = moorline_common::sign::Signed::<SliceStatement>::from_json(&json).unwrap().peek().unwrap();
        bench.operator.seal_with(&statement, &bob())
    };
    let signed = by_bob(&bench, 1, &one, None);
    bench.intake.slice(signed).await.unwrap();
    pass(3).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    let revoked = bob().id();
    bench.intake.root(bench.operator.next_root(|root| root.revoked.extend([revoked]))).await.unwrap();
    pass(100).await;
    assert_eq!((bench.stands(), bench.images()), ([2, 2, 0, 0], vec!["two:1".to_owned()]));
    let trouble = bench.state.borrow().apply.troubles.first().cloned().unwrap();
    assert!(trouble.code == Code::FallbackUnusable && trouble.message.contains("revoked"), "{trouble:?}");
}

#[tokio::test(start_paused = true)]
async fn a_later_slice_takes_the_place_of_a_trial_and_one_signed_anew_goes_on_with_it() {
    let mut bench = Bench::new().await;
    let (one, two, three) = (content("one:1"), content("two:1"), content("three:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    pass(40).await;
    // After a rotation of keys, say.
    bench.push(3, &two, Some(named(1, &one))).await;
    pass(30).await;
    assert_eq!((bench.stands(), bench.images()), ([3, 1, 0, 3], vec!["one:1".to_owned()]), "its time went on");

    bench.push(4, &two, Some(named(1, &one))).await;
    pass(40).await;
    bench.push(5, &three, Some(named(4, &two))).await;
    pass(40).await;
    assert_eq!(bench.stands(), [5, 5, 0, 0], "a time of its own");
    pass(20).await;
    assert_eq!((bench.stands(), bench.images()), ([5, 4, 0, 5], vec!["two:1".to_owned()]), "back to what was in force");
    let told: Option<Trial> = bench.state.borrow().apply.trial.clone();
    assert_eq!(told, None);
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_host_goes_nowhere() {
    let mut bench = Bench::new().await;
    let (one, two) = (content("one:1"), content("two:1"));
    bench.push(1, &one, None).await;
    bench.push(2, &two, Some(named(1, &one))).await;
    let row = bench.ledger.trial().unwrap().unwrap();
    let mut parts = bench.operator.intake_parts(&bench.db);
    parts.quarantine = Some(Fault::new(Code::Quarantined, "damaged"));
    let mut intake = Intake::open(parts).unwrap();
    let refused = intake.go_back(row, Reason::NotConfirmed { within_s: 1 }, None).await.unwrap_err();
    assert!(refused.code == Code::Quarantined && !is_definite(refused.code));
    assert_eq!(bench.stands(), [2, 2, 0, 0]);
}
