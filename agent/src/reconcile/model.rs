//! Random histories on a model engine: whatever is pushed, killed by hand or cut short by a crash, the host ends
//! as the newest slice says, with nothing left over.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::db::Db;
use crate::journal::file::FileJournal;
use crate::ledger::FloorState;
use crate::testing::{FakeDriver, Operator, services, until};

/// What happens next to a host.
#[derive(Debug, Clone)]
enum Act {
    /// A slice with these services is pushed and applied.
    Push(Vec<u8>),
    /// A slice is pushed, and the agent dies when so many steps have begun.
    PushAndDie(Vec<u8>, usize),
    /// Somebody removes what is the n-th container.
    Remove(usize),
    /// Somebody kills what is the n-th container.
    Kill(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let some = || proptest::collection::vec(0u8..6, 0..5);
    let act = prop_oneof![
        some().prop_map(Act::Push),
        (some(), 1usize..8).prop_map(|(services, steps)| Act::PushAndDie(services, steps)),
        (0usize..5).prop_map(Act::Remove),
        (0usize..5).prop_map(Act::Kill),
    ];
    proptest::collection::vec(act, 1..6)
}

fn content(which: &[u8]) -> Value {
    let mut names: Vec<String> = which.iter().map(|n| format!("s{n}")).collect();
    names.sort();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() { json!({}) } else { services(&names, true) }
}

/// Runs the agent until `content` is applied, or until it dies at the given step.
async fn live(dir: &std::path::Path, operator: &Operator, driver: &FakeDriver, slice: Vec<u8>, die_at: Option<usize>) {
    let db = Db::open(dir).unwrap();
    let mut intake = operator.ready_intake(&db).await;
    let opened = FileJournal::open(&dir.join("journal"), operator.keys.epoch.clone()).unwrap();
    let (reconciler, handle) = Reconciler::new(Parts {
        driver: Arc::new(driver.clone()),
        journal: opened.journal,
        ledger: Ledger::new(db),
        lanes: Lanes::new(8),
        target: intake.target(),
    });
    let (dead, stop) = (CancellationToken::new(), CancellationToken::new());
    if let Some(steps) = die_at {
        let (mut begun, dead) = (0, dead.clone());
        driver.with(|fake| {
            fake.at_begin = Some(Box::new(move |_| {
                begun += 1;
                if begun == steps {
                    dead.cancel();
                }
            }));
        });
    }
    let task = tokio::spawn(reconciler.run(stop.clone()));
    intake.slice(slice).await.unwrap();
    let mut state = handle.state();
    tokio::select! {
        () = dead.cancelled() => task.abort(),
        _ = until(&mut state, "applied", |s| s.settled_push == Some(1)) => stop.cancel(),
    }
    let _ = task.await;
    driver.with(|fake| fake.at_begin = None);
}

async fn history(acts: Vec<Act>) {
    let dir = tempfile::tempdir().unwrap();
    let (operator, driver) = (Operator::new(dir.path()), FakeDriver::default());
    let (mut generation, mut newest) = (0, content(&[]));
    for act in acts {
        let nth = |n: usize| driver.with(|fake| fake.engine.containers.keys().nth(n).cloned());
        match act {
            Act::Push(which) => {
                (generation, newest) = (generation + 1, content(&which));
                live(dir.path(), &operator, &driver, operator.slice(generation, newest.clone()), None).await;
            }
            Act::PushAndDie(which, steps) => {
                (generation, newest) = (generation + 1, content(&which));
                live(dir.path(), &operator, &driver, operator.slice(generation, newest.clone()), Some(steps)).await;
            }
            Act::Remove(n) => {
                if let Some(name) = nth(n) {
                    driver.by_hand(|engine| drop(engine.containers.remove(&name)));
                }
            }
            Act::Kill(n) => {
                if let Some(name) = nth(n) {
                    driver.kill(&name);
                }
            }
        }
    }
    generation += 1;
    live(dir.path(), &operator, &driver, operator.slice(generation, newest.clone()), None).await;

    let spec = serde_json::from_value::<moorline_common::topology::HostSpec>(newest.clone()).unwrap();
    let wanted = spec.docker.map_or(0, |d| d.services.len());
    driver.with(|fake| {
        let running = fake.engine.containers.values().filter(|c| c.state.is_present()).count();
        assert_eq!((fake.engine.containers.len(), running), (wanted, wanted), "{newest}");
        assert_eq!(fake.engine.networks.len(), usize::from(wanted > 0));
    });
    let ledger = Ledger::new(Db::open(dir.path()).unwrap());
    let standing = ledger.standing().unwrap();
    assert_eq!(standing.applied, Some(moorline_common::canonical::version_hash(&newest).unwrap()));
    let floor = ledger.accepted().unwrap().unwrap();
    assert_eq!((floor.generation.0, floor.state == FloorState::TornDown), (generation, wanted == 0));
    // A life that was cut short left whole records behind.
    assert_eq!(FileJournal::open(&dir.path().join("journal"), operator.keys.epoch.clone()).unwrap().torn, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happened_the_host_ends_as_the_newest_slice_says(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(acts));
    }
}
