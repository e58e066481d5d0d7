//! The reconciler on an engine in memory, with the real ledger and planner.

use std::path::PathBuf;
use std::sync::Mutex;

use moorline_common::fault::Code;
use moorline_common::id::{Generation, TopologyId};
use moorline_common::observe::ContainerState;
use moorline_common::statement::SliceStatement;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::db::{Db, put_meta};
use crate::intake::Intake;
use crate::journal::file::FileJournal;
use crate::journal::memory::MemoryJournal;
use crate::ledger::FloorState;
use crate::testing::{FakeDriver, Operator, services, until};
use moorline_common::op::{Book, State};

mod drift;

struct Bench {
    dir: tempfile::TempDir,
    operator: Operator,
    intake: Intake,
    ledger: Ledger,
    driver: FakeDriver,
    journal: MemoryJournal,
    handle: Handle,
    state: watch::Receiver<HostState>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), JournalError>>,
}

impl Bench {
    async fn new() -> Self {
        Self::on(FakeDriver::default()).await
    }

    async fn on(driver: FakeDriver) -> Self {
        Self::after(driver, |_| {}).await
    }

    /// One whose database was changed before it began.
    async fn after(driver: FakeDriver, prepare: impl FnOnce(&Db)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        let db = Db::open(dir.path()).unwrap();
        let intake = operator.ready_intake(&db).await;
        prepare(&db);
        let (ledger, journal) = (Ledger::new(db), MemoryJournal::default());
        let (handle, stop, task) = start(&driver, journal.clone(), &ledger, &intake);
        let state = handle.state();
        Self { dir, operator, intake, ledger, driver, journal, handle, state, stop, task }
    }

    async fn push(&mut self, generation: u64, content: Value) {
        self.intake.slice(self.operator.slice(generation, content)).await.unwrap();
    }

    async fn settled(&mut self) -> HostState {
        let pushes = self.intake.target().borrow().pushes;
        until(&mut self.state, "the host is as wanted", |s| s.settled_push == Some(pushes)).await
    }

    /// Pushes and waits until it is applied.
    async fn apply(&mut self, generation: u64, content: Value) {
        self.push(generation, content).await;
        self.settled().await;
    }

    /// A look at the host that began and ended after this call.
    async fn look(&mut self) {
        for _ in 0..2 {
            self.handle.look();
            self.driver.observed_again().await;
        }
    }

    fn troubles(&self) -> Vec<(String, Code)> {
        self.state.borrow().apply.troubles.iter().map(|t| (t.resource.name().to_owned(), t.code)).collect()
    }
}

fn start<J: Journal>(
    driver: &FakeDriver,
    journal: J,
    ledger: &Ledger,
    intake: &Intake,
) -> (Handle, CancellationToken, JoinHandle<Result<(), JournalError>>) {
    let (reconciler, handle) = Reconciler::new(Parts {
        driver: Arc::new(driver.clone()),
        journal,
        ledger: ledger.clone(),
        lanes: Lanes::new(driver.parallelism()),
        target: intake.target(),
    });
    let stop = CancellationToken::new();
    (handle, stop.clone(), tokio::spawn(reconciler.run(stop)))
}

fn edge() -> TopologyId {
    TopologyId::parse("edge").unwrap()
}

#[tokio::test]
async fn without_a_slice_it_observes_and_changes_nothing() {
    let mut bench = Bench::new().await;
    let state = until(&mut bench.state, "an observation", |s| !s.observed_digest.is_empty()).await;
    assert_eq!(state.engine(), EngineState::Ready);
    bench.look().await;
    assert!(bench.driver.calls().is_empty() && bench.journal.records().is_empty());
}

#[tokio::test]
async fn nothing_is_done_before_what_is_known_beside_labels_can_be_read() {
    let damage = |db: &Db| db.write(|tx| put_meta(tx, "note/0f", "{")).unwrap();
    let mut bench = Bench::after(FakeDriver::default(), damage).await;
    bench.push(1, services(&["a"], false)).await;
    let said = |s: &HostState| s.observed.error.as_ref().is_some_and(|error| error.contains("the ledger") && error.contains("0f"));
    until(&mut bench.state, "it says why", said).await;
    assert!(bench.driver.calls().is_empty(), "its own objects could be a stranger's to it");
    bench.ledger.forget(&["0f".to_owned()]).unwrap();
    bench.settled().await;
}

#[tokio::test]
async fn once_it_is_to_stop_no_step_begins() {
    let mut bench = Bench::new().await;
    bench.stop.cancel();
    bench.task.await.unwrap().unwrap();
    bench.intake.slice(bench.operator.slice(1, services(&["db", "web"], false))).await.unwrap();
    // What is ready at the same moment is taken up in any order.
    for _ in 0..50 {
        let (_handle, stop, task) = start(&bench.driver, bench.journal.clone(), &bench.ledger, &bench.intake);
        stop.cancel();
        task.await.unwrap().unwrap();
    }
    assert!(bench.driver.calls().is_empty() && bench.journal.records().is_empty());
}

#[tokio::test]
async fn without_a_slice_what_runs_is_left_as_it_is() {
    let mut former = Bench::new().await;
    former.apply(1, services(&["db", "web"], false)).await;
    former.stop.cancel();
    former.task.await.unwrap().unwrap();
    former.driver.kill("edge-web-1");
    let (engine, calls) = former.driver.with(|fake| (fake.engine.clone(), fake.calls.clone()));

    let mut bench = Bench::on(former.driver).await;
    until(&mut bench.state, "an observation", |s| s.observed.containers.len() == 2).await;
    bench.look().await;
    assert_eq!(bench.driver.with(|fake| (fake.engine.clone(), fake.calls.clone())), (engine, calls));
    assert!(bench.journal.records().is_empty());
}

#[tokio::test]
async fn a_slice_is_applied_in_order_and_recorded_as_applied() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["db", "web"], true)).await;
    assert_eq!(bench.driver.calls(), ["edge_default", "edge-db-1", "edge-web-1"]);
    let current = bench.ledger.current().unwrap().unwrap();
    assert_eq!((current.generation, current.last_error), (Generation(1), None));
    assert!(current.version_hash.is_some() && current.applied_at.0 > 0);
    let state = bench.state.borrow().clone();
    assert_eq!(state.apply.applied, current.version_hash);
    assert!(!state.apply.converging && state.apply.troubles.is_empty());
}

type Refuse = dyn FnMut(&[Entry]) -> Option<JournalError> + Send;

/// Does not take every append.
#[derive(Clone)]
struct Refusing {
    journal: MemoryJournal,
    refuse: Arc<Mutex<Refuse>>,
}

impl Refusing {
    fn new(refuse: impl FnMut(&[Entry]) -> Option<JournalError> + Send + 'static) -> Self {
        Self { journal: MemoryJournal::default(), refuse: Arc::new(Mutex::new(refuse)) }
    }
}

fn has(entries: &[Entry], state: State) -> bool {
    entries.iter().any(|e| e.state == state)
}

impl Journal for Refusing {
    fn append(&self, entries: Vec<Entry>) -> impl Future<Output = Result<crate::journal::Head, JournalError>> + Send + 'static {
        let refused = (self.refuse.lock().unwrap())(&entries);
        let journal = self.journal.clone();
        async move {
            match refused {
                Some(error) => Err(error),
                None => journal.append(entries).await,
            }
        }
    }

    fn head(&self) -> crate::journal::Head {
        self.journal.head()
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        self.journal.read(look)
    }

    fn set_time_floor(&self, floor: UnixSeconds) {
        self.journal.set_time_floor(floor);
    }

    fn failed(&self) -> impl Future<Output = JournalError> + Send {
        std::future::pending()
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_journal_was_too_busy_for_is_recorded_also_while_the_engine_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(dir.path());
    let db = Db::open(dir.path()).unwrap();
    let mut intake = operator.ready_intake(&db).await;
    let (driver, mut busy) = (FakeDriver::default(), 2);
    let away = driver.clone();
    let journal = Refusing::new(move |entries| {
        let refuse = has(entries, State::Succeeded) && busy > 0;
        busy -= i32::from(refuse);
        away.with(|fake| fake.unreachable |= refuse);
        refuse.then_some(JournalError::Busy)
    });
    let (_handle, stop, _task) = start(&driver, journal.clone(), &Ledger::new(db), &intake);
    intake.slice(operator.slice(1, services(&["a"], false))).await.unwrap();
    let recorded = async {
        while !journal.journal.records().iter().any(|r| r.state == State::Succeeded) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recorded).await.expect("the end of the step is recorded");
    assert!(driver.with(|fake| fake.unreachable));
    stop.cancel();
}

#[tokio::test]
async fn how_a_step_ended_is_recorded_even_when_the_journal_was_full_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(dir.path());
    let db = Db::open(dir.path()).unwrap();
    let mut intake = operator.ready_intake(&db).await;
    let mut is_full = true;
    let journal = Refusing::new(move |entries| {
        let refuse = has(entries, State::Succeeded) && has(entries, State::Started) && std::mem::take(&mut is_full);
        refuse.then(|| JournalError::Full("no space".to_owned()))
    });
    let driver = FakeDriver::default();
    let (handle, stop, _task) = start(&driver, journal.clone(), &Ledger::new(db), &intake);
    intake.slice(operator.slice(1, services(&["a", "b"], true))).await.unwrap();
    until(&mut handle.state(), "the host is as wanted", |s| s.settled_push.is_some()).await;
    let records = journal.journal.records();
    for begun in records.iter().filter(|r| r.state == State::Started) {
        assert!(records.iter().any(|r| r.op_id == begun.op_id && r.state == State::Succeeded), "{}", begun.resource);
    }
    stop.cancel();
}

#[tokio::test]
async fn no_step_begins_before_its_record_is_durable() {
    let driver = FakeDriver::default();
    let journal: Arc<Mutex<Option<MemoryJournal>>> = Arc::default();
    let seen = journal.clone();
    driver.with(|fake| {
        fake.at_begin = Some(Box::new(move |step| {
            let records = seen.lock().unwrap().as_ref().unwrap().records();
            assert!(records.iter().any(|r| r.resource == step.resource.as_str() && r.state == State::Started));
            for needed in &step.after {
                assert!(records.iter().any(|r| r.resource == needed.as_str() && r.state == State::Succeeded), "{needed}");
            }
        }));
    });
    let mut bench = Bench::on(driver).await;
    *journal.lock().unwrap() = Some(bench.journal.clone());
    bench.apply(1, services(&["a", "b", "c"], true)).await;
    let records = bench.journal.records();
    assert_eq!(records.len(), 8);
    assert!(records.iter().all(|r| r.idempotency_key.is_empty()));
    assert_eq!(bench.journal.read(Book::clone), Book::default());
}

#[tokio::test]
async fn at_rest_a_look_makes_no_call_no_record_and_no_news() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["db", "web"], false)).await;
    bench.look().await;
    let (calls, records, current) = (bench.driver.calls(), bench.journal.records().len(), bench.ledger.current().unwrap());
    bench.state.mark_unchanged();
    bench.look().await;
    assert_eq!(bench.driver.calls(), calls);
    assert_eq!(bench.journal.records().len(), records);
    assert_eq!(bench.ledger.current().unwrap(), current);
    assert!(!bench.state.has_changed().unwrap());
    // The same slice again: recorded anew, and still no call.
    bench.push(1, services(&["db", "web"], false)).await;
    bench.settled().await;
    assert_eq!(bench.driver.calls(), calls);
}

#[tokio::test]
async fn a_hash_edited_by_hand_stays_until_the_slice_is_sent_again() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["web"], false)).await;
    bench.look().await;
    let by_hand = rusqlite::Connection::open(bench.dir.path().join(crate::db::FILE_NAME)).unwrap();
    by_hand.execute("UPDATE current SET version_hash = 'sha256:00'", []).unwrap();
    bench.look().await;
    assert_eq!(bench.ledger.standing().unwrap().applied, None, "the hub must see the mismatch");
    bench.push(1, services(&["web"], false)).await;
    bench.settled().await;
    assert!(bench.ledger.standing().unwrap().applied.is_some());
}

#[tokio::test]
async fn a_container_killed_or_removed_by_hand_comes_back() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["db", "web"], false)).await;
    let mut seen = bench.state.clone();
    bench.driver.kill("edge-web-1");
    until(&mut seen, "the kill was noticed", |s| {
        !s.apply.converging && s.observed.containers["edge-web-1"].state == ContainerState::Running && s.settled_push.is_some()
    })
    .await;
    bench.driver.by_hand(|engine| drop(engine.containers.remove("edge-db-1")));
    until(&mut seen, "the removal was noticed", |s| {
        s.observed.containers.get("edge-db-1").is_none_or(|c| c.state != ContainerState::Running) || s.apply.converging
    })
    .await;
    until(&mut seen, "it is back", |s| {
        s.settled_push.is_some() && s.observed.containers.get("edge-db-1").is_some_and(|c| c.state == ContainerState::Running)
    })
    .await;
}

#[tokio::test]
async fn one_failure_stops_its_dependants_and_nothing_else() {
    let mut bench = Bench::new().await;
    bench.driver.with(|fake| fake.fail.extend([("edge-db-1".to_owned(), DriverErrorKind::Permanent)]));
    let content = json!({ "docker": { "services": {
        "db": { "image": "demo:1" },
        "other": { "image": "demo:1" },
        "web": { "image": "demo:1", "depends_on": { "db": { "condition": "service_started" } } },
    } } });
    bench.push(1, content).await;
    let state = until(&mut bench.state, "the failure is told", |s| s.apply.last_error.is_some() && !s.apply.converging).await;
    let mut calls = bench.driver.calls();
    calls.dedup();
    assert!(calls.contains(&"edge-other-1".to_owned()) && !calls.contains(&"edge-web-1".to_owned()), "{calls:?}");
    assert_eq!(bench.troubles(), [("edge-db-1".to_owned(), Code::StepFailed), ("edge-web-1".to_owned(), Code::DependencyFailed)]);
    assert!(state.apply.troubles[1].message.contains("no space left"), "{:?}", state.apply.troubles);
    let error = state.apply.last_error.clone().unwrap();
    assert!(error.message.contains("edge-db-1") && error.message.contains("no space left"), "{error}");
    let marker = bench.ledger.current().unwrap().unwrap();
    assert_eq!((marker.version_hash, marker.applied_at.0), (None, 0));
    assert_eq!(marker.last_error.unwrap().code, Code::StepFailed);

    // Mended from outside, it is applied by itself once its wait is over.
    bench.driver.with(|fake| fake.fail.clear());
    bench.settled().await;
    assert_eq!(bench.ledger.current().unwrap().unwrap().last_error, None);
    assert!(bench.troubles().is_empty());
}

#[tokio::test]
async fn what_can_do_without_another_service_begins_when_that_cannot_be_made() {
    let mut bench = Bench::new().await;
    bench.driver.with(|fake| fake.fail.extend([("edge-cache-1".to_owned(), DriverErrorKind::Permanent)]));
    let needs =
        |optional: bool| json!({ "image": "demo:1", "depends_on": { "cache": { "condition": "service_started", "optional": optional } } });
    bench
        .push(1, json!({ "docker": { "services": { "cache": { "image": "demo:1" }, "site": needs(true), "strict": needs(false) } } }))
        .await;
    let is_there = |s: &HostState| s.observed.containers.contains_key("edge-site-1");
    until(&mut bench.state, "the site runs without its cache", is_there).await;
    assert!(bench.troubles().contains(&("edge-cache-1".to_owned(), Code::StepFailed)), "{:?}", bench.troubles());
    assert!(!bench.state.borrow().observed.containers.contains_key("edge-strict-1"));
}

#[tokio::test]
async fn an_unreachable_engine_is_a_state_of_its_own_and_nothing_counts_as_gone() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["web"], false)).await;
    bench.look().await;
    let (before, calls) = (bench.ledger.current().unwrap().unwrap(), bench.driver.calls());
    bench.driver.with(|fake| fake.unreachable = true);
    bench.handle.look();
    let state = until(&mut bench.state, "unreachable", |s| s.engine() == EngineState::Unreachable && s.apply.last_error.is_some()).await;
    assert!(state.observe_error());
    assert_eq!(state.observed.containers["edge-web-1"].state, ContainerState::Running, "the last that was known");
    let row = bench.ledger.current().unwrap().unwrap();
    assert_eq!((row.version_hash, row.applied_at), (before.version_hash.clone(), before.applied_at));
    assert_eq!(row.last_error.unwrap().code, Code::EngineUnreachable);

    bench.driver.with(|fake| fake.unreachable = false);
    bench.settled().await;
    assert_eq!(bench.driver.calls(), calls, "nothing was made anew");
    assert_eq!(bench.ledger.current().unwrap().unwrap().last_error, None);
}

#[tokio::test]
async fn an_empty_slice_removes_everything_and_clears_the_ledger() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["db", "web"], false)).await;
    bench.apply(2, json!({})).await;
    bench.driver.with(|fake| assert!(fake.engine.containers.is_empty() && fake.engine.networks.is_empty()));
    assert_eq!(bench.ledger.current().unwrap(), None);
    let floor = bench.ledger.floor(&edge()).unwrap().unwrap();
    assert_eq!((floor.generation, floor.state), (Generation(2), FloorState::TornDown));
    assert_eq!(bench.ledger.standing().unwrap().applied, Some(floor.version_hash));
    // Another topology may follow.
    let other =
        bench.operator.slice_with(1, services(&["web"], false), |s: &mut SliceStatement| s.topology = TopologyId::parse("other").unwrap());
    bench.intake.slice(other).await.unwrap();
    bench.settled().await;
    assert_eq!(bench.ledger.pinned().unwrap(), Some(TopologyId::parse("other").unwrap()));
}

#[tokio::test]
async fn a_crash_loop_is_reported_and_slowed_down() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["web"], false)).await;
    let driver = bench.driver.clone();
    let mut state = bench.state.clone();
    let mut kills = 0;
    while bench.troubles().is_empty() {
        kills += 1;
        assert!(kills < 50, "it is never slowed down");
        driver.kill("edge-web-1");
        bench.handle.look();
        until(&mut state, "healed or held", |s| {
            !s.apply.troubles.is_empty() || s.observed.containers["edge-web-1"].state == ContainerState::Running && s.settled_push.is_some()
        })
        .await;
        bench.look().await;
    }
    assert!(kills > 1, "the first is healed at once");
    let trouble = bench.state.borrow().apply.troubles[0].clone();
    assert!(trouble.message.contains("never for long"), "{trouble:?}");
}

#[tokio::test]
async fn a_step_that_hangs_does_not_keep_the_rest_waiting() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["db", "web"], false)).await;
    // The look at the engine hangs: the state that others read stays, and nothing is called.
    bench.driver.hang(true);
    bench.handle.look();
    bench.driver.observed_again().await;
    assert_eq!(bench.state.borrow().engine(), EngineState::Ready);
    bench.driver.hang(false);
    bench.apply(2, services(&["db", "web", "more"], false)).await;
}

#[tokio::test]
async fn more_steps_than_the_journal_takes_at_once_begin_as_others_end() {
    let mut bench = Bench::new().await;
    let count = crate::limits::JOURNAL_APPEND_MAX + 1;
    let volumes: serde_json::Map<String, Value> = (0..count).map(|n| (format!("v{n}"), json!({}))).collect();
    bench.push(1, json!({ "docker": { "volumes": volumes } })).await;
    bench.settled().await;
    assert_eq!(bench.driver.with(|fake| fake.engine.volumes.len()), count);
    assert_eq!(bench.driver.calls().len(), count, "each once");
    let (mut open, mut most) = (0, 0);
    for record in bench.journal.records() {
        open = if record.state == State::Started { open + 1 } else { open - 1 };
        most = most.max(open);
    }
    assert_eq!((open, most), (0, crate::limits::STEPS_MAX));
}

#[tokio::test]
async fn a_start_in_the_middle_of_an_apply_converges_without_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(dir.path());
    let db = Db::open(dir.path()).unwrap();
    let mut intake = operator.ready_intake(&db).await;
    let (ledger, driver) = (Ledger::new(db), FakeDriver::default());
    let path: PathBuf = dir.path().join("journal");
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();

    // The process dies while its tenth step runs.
    let (die, dead) = (CancellationToken::new(), CancellationToken::new());
    let (token, told) = (die.clone(), dead.clone());
    let mut steps = 0;
    driver.with(|fake| {
        fake.at_begin = Some(Box::new(move |_| {
            steps += 1;
            if steps == 10 {
                token.cancel();
                told.cancel();
            }
        }));
    });
    let epoch = operator.keys.epoch.clone();
    let journal = FileJournal::open(&path, epoch.clone()).unwrap().journal;
    let (_handle, _stop, task) = start(&driver, journal, &ledger, &intake);
    intake.slice(operator.slice(1, services(&names, false))).await.unwrap();
    dead.cancelled().await;
    task.abort();
    let _ = task.await;
    driver.with(|fake| fake.at_begin = None);

    // The next life: the same slice comes again.
    let mut intake = operator.intake(&Db::open(dir.path()).unwrap());
    let journal = FileJournal::open(&path, epoch).unwrap().journal;
    assert!(journal.read(|book| book.open().count()) > 0, "steps were open");
    let (handle, _stop, _task) = start(&driver, journal, &ledger, &intake);
    intake.slice(operator.slice(1, services(&names, false))).await.unwrap();
    until(&mut handle.state(), "converged", |s| s.settled_push == Some(1)).await;
    driver.with(|fake| assert_eq!((fake.engine.containers.len(), fake.engine.networks.len()), (20, 1)));
    assert!(ledger.current().unwrap().unwrap().version_hash.is_some());
}

#[tokio::test]
async fn a_newer_slice_leaves_the_successor_alone_that_a_running_step_makes() {
    let mut bench = Bench::new().await;
    let content = |value: &str| json!({ "docker": { "services": { "db": { "image": "demo:1", "environment": { "N": value } } } } });
    bench.apply(1, content("one")).await;
    bench.driver.stop_halfway(true);
    bench.push(2, content("two")).await;
    let has_two = || bench.driver.with(|fake| fake.engine.containers.len() == 2);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !has_two() {
        assert!(std::time::Instant::now() < deadline, "no replacement began");
        tokio::task::yield_now().await;
    }
    for content in [content("three"), json!({}), content("four")] {
        let generation = bench.intake.target().borrow().desired.as_ref().unwrap().admission.generation;
        bench.push(generation.0 + 1, content).await;
        bench.look().await;
        assert_eq!(bench.driver.with(|fake| fake.engine.containers.len()), 2, "nothing is removed while the step runs");
    }
    bench.driver.stop_halfway(false);
    bench.settled().await;
    let calls = bench.driver.calls();
    assert!(calls.iter().all(|c| !c.contains("-new-")), "{calls:?}");
    bench.driver.with(|fake| assert_eq!(fake.engine.containers.keys().collect::<Vec<_>>(), ["edge-db-1"]));
}

#[tokio::test]
async fn it_stops_when_told_and_leaves_workloads_alone() {
    let mut bench = Bench::new().await;
    bench.apply(1, services(&["web"], false)).await;
    let calls = bench.driver.calls();
    bench.stop.cancel();
    bench.task.await.unwrap().unwrap();
    assert_eq!(bench.driver.calls(), calls);
}
