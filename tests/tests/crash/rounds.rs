//! A few random rounds; `cargo xtask crash --rounds N` plays more.

use moorline_tests::crash::rounds::{Options, run};

#[test]
fn random_operations_survive_random_deaths() {
    let seed = std::env::var("MOORLINE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| getrandom::u64().unwrap());
    println!("seed {seed}");
    run(Options { rounds: 3, seed }, |line| println!("{line}")).unwrap();
}
