//! The model test: anything may happen to a saga in any order, and a ledger that knows nothing of the state machine says whether that
//! was right. The hosts are simulated: what the state machine lets begin, each host must believe from receipts and words alone.
//!
//! A failure names its seed; `MOORLINE_MODEL_SEED=N` plays that one alone.

use super::tests::{fault, order, order_hash, receipt, word};
use super::*;
use crate::fault::Code;
use world::World;

mod hostile;
mod ledger;
mod plans;
mod world;

/// Cases of one run.
const CASES: u64 = 1500;
/// Things that happen in one case before it is to come to rest.
const EVENTS: u64 = 50;

/// Numbers that look random (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 1).unwrap() % sides.max(1)
    }

    pub fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).cloned()
    }
}

/// One case: anything, then rest, then a hub that would have it otherwise.
fn play(seed: u64) -> World {
    let mut world = World::new(seed);
    let events = world.dice.below(usize::try_from(EVENTS).unwrap());
    for _ in 0..events {
        world.happen();
    }
    if world.dice.one_in(2) {
        world.deceive();
    }
    world.come_to_rest();
    world.check_replay();
    world.deceive();
    world
}

fn seeds() -> Vec<u64> {
    match std::env::var("MOORLINE_MODEL_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..CASES).collect(),
    }
}

#[test]
fn whatever_happens_a_saga_ends_as_its_ledger_says_and_hosts_believe_what_is_so_and_nothing_else() {
    let mut seen = std::collections::BTreeMap::<&str, u32>::new();
    let mut judged = [0; 4];
    for seed in seeds() {
        let played = std::panic::catch_unwind(|| play(seed)).unwrap_or_else(|_| panic!("play it again with MOORLINE_MODEL_SEED={seed}"));
        *seen.entry(played.saga.status().as_str()).or_default() += 1;
        for why in &played.stuck {
            *seen.entry(why.as_str()).or_default() += 1;
        }
        judged.iter_mut().zip(played.judged).for_each(|(sum, more)| *sum += more);
    }
    println!("{seen:?}; begun, nothing to undo, dropped and so refused, taken from a hostile hub: {judged:?}");
    if std::env::var("MOORLINE_MODEL_SEED").is_err() {
        let all = ["completed", "rolled_back", "cancelled", "abandoned", "doubt", "silent", "past_return", "undo", "unproven"];
        assert!(all.iter().all(|what| seen.get(what).is_some_and(|count| *count >= 20)), "too little happens: {seen:?}");
        assert!(judged.iter().all(|count| *count >= 30), "too little is judged: {judged:?}");
    }
}
