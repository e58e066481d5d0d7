//! A host whose clock is wrong: what was ordered for another time is not done, on a real process with a clock of its own.

use std::path::PathBuf;

use moorline_common::id::UnixSeconds;
use moorline_common::op::OpStatement;
use moorline_tests::engine;
use moorline_tests::evil::EvilHub;
use moorline_tests::fleet::{Fleet, text};
use serde_json::json;

use crate::evil_orders::{Loot, SITE, effects, now, topology};
use crate::setup::{HOST, sim_fleet};

const DAY: i64 = 24 * 3600;

/// The library that gives a program another time of day. `None` where it is not installed and nothing is required.
pub fn library() -> Option<PathBuf> {
    // Debian has it in the folder of its machine's kind, others have it in one of these.
    let own = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = own.chain(["/usr/lib64", "/usr/lib"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    assert!(found.is_some() || !engine::is_required(), "no clock is set without libfaketime; install faketime");
    found
}

/// Starts the host's agent, by whose clock it is so many seconds later.
pub fn with_clock(fleet: &mut Fleet, library: &std::path::Path, later: i64) {
    let (library, later) = (text(library).unwrap(), format!("{later:+}"));
    // Only the time of day: neither how long something takes, nor what files say.
    let clock = [("LD_PRELOAD", library), ("FAKETIME", &later), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("NO_FAKE_STAT", "1")];
    fleet.start_agent_with(HOST, &clock).unwrap();
}

/// The same; the evil hub repeats the slice.
fn start(fleet: &mut Fleet, evil: &EvilHub, library: &std::path::Path, later: i64, loot: &Loot) {
    evil.hang_up();
    with_clock(fleet, library, later);
    evil.wait_for_agent().unwrap();
    evil.send_slice(&loot.slices[0]).unwrap();
}

#[test]
fn a_clock_that_was_set_back_revives_no_order_and_one_set_ahead_ends_none() {
    let Some(library) = library() else { return println!("skipped: there is no libfaketime") };
    let (mut fleet, operator) = sim_fleet("evilclock");
    fleet.push(&topology("one"), &["--wait"]).unwrap().ok().unwrap();
    let loot = Loot::take(&fleet, &operator);
    drop(operator);
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    evil.send_slice(&loot.slices[0]).unwrap();

    let restart = || loot.statement("restart", SITE, json!({}));
    let command = || loot.statement("exec", SITE, json!({ "argv": ["true"] }));
    let until = |from: UnixSeconds, order: OpStatement| OpStatement { not_before: from, expires_at: from.plus(900), ..order };
    let ago = |seconds| UnixSeconds(now().0 - seconds);
    let answer = |order: &OpStatement| evil.answer_to_order(loot.signed(order).to_json(), &loot.host_key).unwrap();
    let done = restart();
    assert_eq!(answer(&done), "succeeded");
    // An operator's order that the hub has held back until its time was over.
    let held = until(ago(1000), restart());
    assert_eq!(answer(&held), "expired");
    let before = effects(&fleet);

    fleet.stop_agent(HOST).unwrap();
    start(&mut fleet, &evil, &library, -500, &loot);
    assert_eq!(answer(&until(ago(1000), restart())), "expired", "the clock says that its time is not over");
    assert_eq!(answer(&held), "expired");
    assert_eq!(answer(&done), "succeeded");

    fleet.stop_agent(HOST).unwrap();
    start(&mut fleet, &evil, &library, -3 * DAY, &loot);
    assert_eq!(answer(&until(ago(3 * 86_400 + 60), restart())), "expired", "by the clock it was signed a minute ago");
    assert_eq!(answer(&done), "succeeded");
    assert_eq!(answer(&command()), "clock_unsound", "nothing of class R3 by a clock that cannot be right");
    assert_eq!(effects(&fleet), before, "nothing was done, and nothing again");

    fleet.stop_agent(HOST).unwrap();
    start(&mut fleet, &evil, &library, 3 * DAY, &loot);
    assert_eq!(answer(&command()), "clock_unsound");
    assert_eq!(answer(&held), "expired");
    assert_eq!(effects(&fleet), before);
    let timely = restart();
    assert_eq!(answer(&timely), "succeeded", "by the clock its time has been over for days");
    let mut after = before;
    after[timely.op_id.as_str()] = after[done.op_id.as_str()].clone();
    assert_eq!(effects(&fleet), after, "it alone was done, as the first one was");
    fleet.stop_agent(HOST).unwrap();
}
