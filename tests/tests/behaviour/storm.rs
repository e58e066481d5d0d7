//! A short storm; `cargo xtask storm --minutes N` lets a long one go over the host.

use std::time::Duration;

use moorline_tests::storm::{Options, run};

use crate::setup::engine_turn;

#[test]
fn after_a_storm_a_host_that_heals_is_as_wanted_and_nothing_else_was_touched() {
    let _turn = engine_turn();
    if let Some(calm) = run(Options { span: Duration::from_secs(12), seed: 5, inbox: false }).unwrap() {
        assert!(calm.acts >= 20, "{calm:?}");
    }
}

#[test]
fn in_a_storm_under_inbox_nothing_is_changed_and_every_difference_has_one_open_row() {
    let _turn = engine_turn();
    if let Some(calm) = run(Options { span: Duration::from_secs(12), seed: 7, inbox: true }).unwrap() {
        assert!(calm.acts >= 20 && calm.differences >= 10, "{calm:?}");
    }
}
