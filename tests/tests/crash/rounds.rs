//! A few rounds, always the same ones; `cargo xtask crash --rounds N` plays others.

use moorline_tests::crash::rounds::{Options, run};

/// What fails here fails again: the suite plays the same orders and places every time.
const SEED: u64 = 10;

#[test]
fn random_operations_survive_random_deaths() {
    run(Options { rounds: 3, seed: SEED }, |line| println!("{line}")).unwrap();
}
