//! The model test: anything may happen in any order (orders, repeats, crashes, set clocks, an engine that is slow, silent or
//! gone), and afterwards a small reference that knows nothing of the agent says whether that was right.
//!
//! `MOORLINE_MODEL_SEED=N` runs the cases of one seed, which a failure names.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{
    Config as ProptestConfig, FailurePersistence, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use crate::driver::pve::tests::machine::Host;
use crate::driver::sim::memory::Machine;

mod bugs;
mod fleet;
mod reference;
mod stage;
mod steps;
pub mod world;

use stage::Stage;
pub use steps::Draft;
use steps::{Step, any_step};
use world::World;

/// The seeds of the suite.
const SEEDS: [u64; 4] = [101, 205, 306, 508];

/// Cases of one seed.
const CASES: u32 = 510;
/// Cases of one seed on guests: each asks a host some hundred times.
const GUEST_CASES: u32 = 60;

/// Whether everything was right.
async fn play<W: World>(steps: &[Step]) -> Result<(), String> {
    let mut stage = Stage::<W>::new().await;
    for step in steps {
        stage.step(step).await;
        stage.known().verdict()?;
    }
    stage.come_to_rest().await?;
    stage.known().check_history();
    stage.known().verdict()?;
    stage.check_receipts()
}

/// By a clock that no one waits for.
fn in_a_runtime(played: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(played)
}

fn run<W: World>(steps: &[Step]) -> Result<(), String> {
    in_a_runtime(play::<W>(steps))
}

fn persistence() -> Box<dyn FailurePersistence> {
    Box::new(FileFailurePersistence::WithSource("regressions"))
}

/// Runs `cases` cases of `seed`, each a list of what happens. One that fails is made smaller in so many `shrinks`, and kept if there are any.
fn explore<S: Strategy<Value = Vec<T>>, T: Debug>(
    seed: u64,
    cases: u32,
    shrinks: u32,
    lists: S,
    run: impl Fn(&[T]) -> Result<(), String>,
) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases,
        max_shrink_iters: shrinks,
        source_file: Some(file!()),
        failure_persistence: (shrinks > 0).then(persistence),
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    runner.run(&lists, |list| run(&list).map_err(TestCaseError::fail)).map_err(|error| match error {
        TestError::Fail(why, list) => {
            let list: Vec<String> = list.iter().map(|what| format!("{what:?}")).collect();
            format!("seed {seed}: {why}\n{}", list.join("\n"))
        }
        TestError::Abort(why) => format!("seed {seed}: {why}"),
    })
}

/// Any steps.
fn explore_steps<W: World>(seed: u64, cases: u32, shrinks: u32) -> Result<(), String> {
    explore(seed, cases, shrinks, prop::collection::vec(any_step(), 1..60), run::<W>)
}

/// The same cases each time; `MOORLINE_MODEL_SEED=random` tries others.
fn asked_for(seed: u64) -> u64 {
    let seed = match std::env::var("MOORLINE_MODEL_SEED").as_deref() {
        Ok("random") => getrandom::u64().unwrap(),
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => seed,
    };
    println!("MOORLINE_MODEL_SEED={seed}");
    seed
}

/// Some of the cases: the tests of a program run side by side.
fn part<W: World>(seed: u64, cases: u32) {
    if let Err(why) = explore_steps::<W>(asked_for(seed), cases, 400) {
        panic!("{why}");
    }
}

#[test]
fn whatever_happens_nothing_is_done_twice_or_unasked_or_out_of_order_1() {
    part::<Machine>(SEEDS[0], CASES);
}

#[test]
fn whatever_happens_nothing_is_done_twice_or_unasked_or_out_of_order_2() {
    part::<Machine>(SEEDS[1], CASES);
}

#[test]
fn whatever_happens_nothing_is_done_twice_or_unasked_or_out_of_order_3() {
    part::<Machine>(SEEDS[2], CASES);
}

#[test]
fn whatever_happens_nothing_is_done_twice_or_unasked_or_out_of_order_4() {
    part::<Machine>(SEEDS[3], CASES);
}

#[test]
fn whatever_happens_nothing_is_done_to_a_guest_twice_or_unasked_or_out_of_order_1() {
    part::<Host>(SEEDS[0], GUEST_CASES);
}

#[test]
fn whatever_happens_nothing_is_done_to_a_guest_twice_or_unasked_or_out_of_order_2() {
    part::<Host>(SEEDS[1], GUEST_CASES);
}
