//! Defects that are planted one by one: the model test must notice each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::world::World;
use super::{Draft, Step, explore_steps, run};
use crate::driver::pve::tests::machine::Host;
use crate::driver::sim::memory::Machine;
use crate::plant::plant;

const PLAIN: Draft =
    Draft { kind: 0, resource: 0, key: None, nonce_of: None, window: 0, signers: 0, wrong_epoch: false, generation: 0, now: true };
const RESTART: Draft = PLAIN;
const STOP: Draft = Draft { kind: 2, ..PLAIN };

/// What to play for a defect; nothing: what comes by chance is enough.
fn script(bug: &str) -> Vec<Step> {
    use Step::{Cancel, Crash, Deafen, Deliver, Deny, Heard, Late, Pass, SetClock, Sign, Slice, Turns, Unreachable};
    match bug {
        "epoch not checked" => vec![Sign(Draft { wrong_epoch: true, ..RESTART }), Pass(5)],
        "hold until its own generation" => vec![Sign(STOP), Pass(40)],
        "no dedupe" | "dedupe by op id" => {
            vec![Sign(Draft { key: Some(0), ..RESTART }), Pass(1), Sign(Draft { key: Some(0), ..RESTART }), Pass(1)]
        }
        "any intent" => vec![Sign(Draft { key: Some(0), ..RESTART }), Pass(1), Sign(Draft { key: Some(0), ..STOP }), Pass(1)],
        "blind retry" => vec![Deafen, Sign(RESTART), Pass(20)],
        "no margin" => vec![Late, Sign(RESTART), Pass(40)],
        "policy only at the door" => {
            vec![Unreachable(true), Sign(RESTART), Turns(100), Deny(true), Crash(5), Turns(100), Pass(10), Unreachable(false), Pass(20)]
        }
        "no precondition" => vec![Sign(Draft { generation: 2, ..RESTART }), Pass(1)],
        "nonces by the wall clock" => vec![
            Unreachable(true),
            Sign(RESTART),
            Turns(100),
            Cancel(0),
            Pass(1),
            Heard(1, true),
            Pass(1),
            SetClock(73 * 365 * 86400),
            Sign(Draft { kind: 15, ..PLAIN }),
            Pass(1),
            Deliver(2),
            Pass(1),
        ],
        "time by the wall clock" => vec![
            Sign(Draft { window: 5, now: false, ..RESTART }),
            Pass(400),
            Sign(Draft { kind: 15, ..PLAIN }),
            Pass(1),
            SetClock(-400),
            Pass(1),
            Deliver(1),
            Pass(1),
        ],
        "reset forgotten" => {
            vec![Sign(Draft { now: false, ..RESTART }), Pass(5), Sign(Draft { kind: 14, ..PLAIN }), Pass(5), Turns(61), Deliver(1), Pass(5)]
        }
        "effect before its record" | "end without a record" | "receipt once" => vec![Sign(RESTART), Pass(5)],
        "no hold" => vec![Sign(STOP), Pass(40)],
        "hold for a generation" => vec![Sign(STOP), Pass(5), Slice(false), Pass(40)],
        "newest first" => vec![Unreachable(true), Sign(RESTART), Sign(STOP), Sign(RESTART), Turns(100), Unreachable(false), Pass(40)],
        "any order after a start" => {
            vec![Unreachable(true), Sign(RESTART), Sign(STOP), Turns(200), Crash(5), Turns(200), Unreachable(false), Pass(40)]
        }
        "no barrier" => vec![
            Unreachable(true),
            Sign(RESTART),
            Sign(Draft { kind: 13, ..PLAIN }),
            Sign(STOP),
            Turns(100),
            Slice(true),
            Unreachable(false),
            Pass(60),
        ],
        other => panic!("no script for `{other}`"),
    }
}

const BUGS: [&str; 22] = [
    "dedupe by op id",
    "epoch not checked",
    "hold until its own generation",
    "no dedupe",
    "any intent",
    "blind retry",
    "no margin",
    "no recheck",
    "policy only at the door",
    "no precondition",
    "nonces by the wall clock",
    "time by the wall clock",
    "reset forgotten",
    "effect before its record",
    "end without a record",
    "receipt once",
    "no hold",
    "hold for a generation",
    "newest first",
    "any order after a start",
    "no barrier",
    "doubt frees the lane",
];

/// A command that the engine forgets while it is begun: between which of its calls, the number of turns says.
fn forgotten(turns: u8) -> Vec<Step> {
    use Step::{Crash, Forget, Pass, Sign, Slow, Turns};
    vec![Slow(10), Sign(Draft { kind: 9, ..PLAIN }), Turns(turns), Crash(9), Forget, Sign(STOP), Slow(0), Pass(50)]
}

/// An agent that dies before the effect, and an order whose time is over when that is proven.
fn outdated(turns: u8) -> Vec<Step> {
    use Step::{Crash, Pass, Sign, Slow, Turns};
    vec![Slow(10), Sign(Draft { window: 5, ..RESTART }), Turns(turns), Crash(9), Slow(0), Pass(1), Pass(49)]
}

fn scripts(bug: &str) -> Vec<Vec<Step>> {
    match bug {
        "no recheck" => (10..160).step_by(5).map(outdated).collect(),
        "doubt frees the lane" => (10..160).step_by(5).map(forgotten).collect(),
        bug => vec![script(bug)],
    }
}

fn notices<W: World>(bug: &'static str, cases: u32) -> bool {
    let _planted = plant(bug);
    let played = |play: &dyn Fn() -> Result<(), String>| !matches!(catch_unwind(AssertUnwindSafe(play)), Ok(Ok(())));
    scripts(bug).iter().any(|steps| played(&|| run::<W>(steps))) || played(&|| explore_steps::<W>(1, cases, 0))
}

#[test]
fn each_planted_bug_is_caught() {
    let missed: Vec<&str> = BUGS.into_iter().filter(|bug| !notices::<Machine>(bug, 150)).collect();
    assert_eq!(missed, Vec::<&str>::new(), "nothing notices these");
}

#[test]
fn each_planted_bug_is_caught_on_guests() {
    // No operation is on all guests of a host at once: there is nothing that a barrier is needed for.
    let bugs = BUGS.into_iter().filter(|bug| *bug != "no barrier");
    let missed: Vec<&str> = bugs.filter(|bug| !notices::<Host>(bug, 60)).collect();
    assert_eq!(missed, Vec::<&str>::new(), "nothing notices these");
}

#[test]
fn without_a_planted_bug_the_same_is_right() {
    for bug in BUGS {
        for steps in scripts(bug) {
            assert_eq!(run::<Machine>(&steps), Ok(()), "{bug}");
            assert_eq!(run::<Host>(&steps), Ok(()), "{bug}, on guests");
        }
    }
}
