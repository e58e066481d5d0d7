//! Many operations on many guests at once, on a host that does badly whatever it can do badly: each lane keeps its order, nothing is done
//! twice, and what the agent says of each is what the host knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use moorline_common::op::State;
use moorline_pve_sim::world::effects::{Effect, EffectKind};
use moorline_pve_sim::world::faults::{CallFault, Faults, TaskFails, TaskTakes, WorkerFault, Wrong};
use proptest::prelude::*;

use super::stage::Stage;
use super::steps::{Draft, Step};
use super::{asked_for, explore, in_a_runtime};
use crate::clock::Clock;
use crate::driver::pve::tests::machine::Host;
use crate::plant::plant;

const GUESTS: u8 = 16;
const OPERATIONS: usize = 64;
const CASES: u32 = 8;

/// What goes wrong.
#[derive(Debug, Clone)]
enum Mishap {
    /// A call that changes something, or one that asks.
    Call(Wrong, bool),
    /// The next worker dies, before or after its effect.
    WorkerDies(bool),
    /// The next task fails.
    TaskFails,
    /// Tasks take so many seconds.
    Slow(u64),
    /// Nothing more can be made.
    StorageFull,
    /// Somebody holds a guest's file.
    Held(u8),
    /// A lock is left on a guest.
    Locked(u8),
    /// The token may not see a guest.
    Hidden(u8),
    /// A guest does not shut down.
    Deaf(u8),
    NodeOff,
    Unreachable,
    /// The agent is killed.
    Crash(u8),
    /// All that lasts is over.
    Mended,
}

/// An operation, what goes wrong with it, and the seconds until the next.
type Turn = (u8, u8, Option<Mishap>, u32);

fn any_mishap() -> impl Strategy<Value = Mishap> {
    let wrong = prop_oneof![
        3 => Just(Wrong::LoseReply),
        1 => Just(Wrong::LoseRequest),
        2 => prop::sample::select(vec![502, 504, 595, 596, 597]).prop_map(Wrong::StatusAfter),
        1 => prop::sample::select(vec![500, 502, 503, 595]).prop_map(Wrong::StatusBefore),
        1 => (1_000..20_000u64).prop_map(Wrong::DelayMs),
        2 => (1_000..50_000u64).prop_map(Wrong::TakesMs),
        1 => Just(Wrong::Hang),
        1 => Just(Wrong::Garbage),
    ];
    let guest = || 0..GUESTS;
    prop_oneof![
        8 => (wrong, prop::bool::weighted(0.7)).prop_map(|(wrong, changes)| Mishap::Call(wrong, changes)),
        3 => any::<bool>().prop_map(Mishap::WorkerDies),
        2 => Just(Mishap::TaskFails),
        1 => (1..90u64).prop_map(Mishap::Slow),
        1 => Just(Mishap::StorageFull),
        1 => guest().prop_map(Mishap::Held),
        1 => guest().prop_map(Mishap::Locked),
        1 => guest().prop_map(Mishap::Hidden),
        1 => guest().prop_map(Mishap::Deaf),
        1 => Just(Mishap::NodeOff),
        1 => Just(Mishap::Unreachable),
        2 => (0..6u8).prop_map(Mishap::Crash),
        4 => Just(Mishap::Mended),
    ]
}

fn any_turn() -> impl Strategy<Value = Turn> {
    // All that has an effect of its own, see `World::order`.
    let wait = prop_oneof![4 => Just(0u32), 2 => 1..5u32, 1 => 5..45u32];
    (0..14u8, 0..GUESTS, prop::option::of(any_mishap()), wait)
}

async fn befall(stage: &mut Stage<Host<GUESTS>>, mishap: &Mishap) {
    let number = |guest: u8| 101 + u32::from(guest);
    let sim = stage.machine().sim.clone();
    let faults = |change: &dyn Fn(&mut Faults)| sim.change(|world| change(&mut world.faults));
    match mishap {
        Mishap::Call(then, changes) => {
            let path = if *changes { "^/nodes/[^/]+/(qemu|lxc|vzdump)" } else { "^/nodes/" };
            for method in if *changes { &["POST", "PUT", "DELETE"][..] } else { &["GET"] } {
                let fault = CallFault { method: Some((*method).to_owned()), path: path.to_owned(), next: Some(1), then: then.clone() };
                faults(&|all| all.calls.push(fault.clone()));
            }
        }
        Mishap::WorkerDies(after_effect) => {
            faults(&|all| all.worker_dies = vec![WorkerFault { task: ".*".to_owned(), after_effect: *after_effect, next: Some(1) }]);
        }
        Mishap::TaskFails => {
            let fails = TaskFails { task: ".*".to_owned(), words: "command failed: got timeout".to_owned(), next: Some(1) };
            faults(&|all| all.task_fails = vec![fails.clone()]);
        }
        Mishap::Slow(s) => faults(&|all| all.task_takes = vec![TaskTakes { task: ".*".to_owned(), ms: s * 1000 }]),
        Mishap::StorageFull => faults(&|all| all.storage_full = ["local".to_owned(), "local-lvm".to_owned()].into()),
        Mishap::Held(guest) => faults(&|all| all.flock_busy = [number(*guest)].into()),
        Mishap::Locked(guest) => sim.change(|world| world.set_locks(&[(number(*guest), "backup".to_owned())].into())),
        Mishap::Hidden(guest) => faults(&|all| all.hide = [number(*guest)].into()),
        Mishap::Deaf(guest) => faults(&|all| all.deaf = [number(*guest)].into()),
        Mishap::NodeOff => faults(&|all| all.nodes_off = ["pve-1".to_owned()].into()),
        Mishap::Unreachable => faults(&|all| all.unreachable = true),
        Mishap::Crash(kept) => stage.step(&Step::Crash(*kept)).await,
        Mishap::Mended => mend(stage),
    }
}

fn mend(stage: &Stage<Host<GUESTS>>) {
    stage.machine().sim.change(|world| {
        world.faults = Faults::default();
        world.set_locks(&BTreeMap::new());
    });
}

async fn play(turns: &[Turn]) -> Result<(), String> {
    let mut stage = Stage::<Host<GUESTS>>::new().await;
    // The guests are made and run.
    stage.step(&Step::Pass(45)).await;
    for (kind, resource, mishap, wait) in turns {
        if let Some(mishap) = mishap {
            befall(&mut stage, mishap).await;
        }
        let draft = Draft {
            kind: *kind,
            resource: *resource,
            key: None,
            nonce_of: None,
            window: 0,
            signers: 0,
            wrong_epoch: false,
            generation: 0,
            now: true,
        };
        stage.step(&Step::Sign(draft)).await;
        stage.step(&Step::Pass(*wait)).await;
        stage.known().verdict()?;
    }
    mend(&stage);
    // What an agent had not heard when it died, the next one is told; the hub knows no better and sends all.
    for back in (0..u8::try_from(OPERATIONS).unwrap()).rev() {
        stage.step(&Step::Deliver(back)).await;
    }
    stage.come_to_rest().await?;
    stage.known().check_history();
    stage.known().verdict()?;
    stage.check_receipts()?;
    check_results(&stage)
}

/// Holds what the agent says of each operation against what the host has seen.
fn check_results(stage: &Stage<Host<GUESTS>>) -> Result<(), String> {
    let records = stage.journal().records();
    let (effects, died) = stage.machine().sim.inspect(|world| {
        let died = world.tasks.values().filter(|task| task.dies.is_some() || task.doom.is_some());
        (world.effects.clone(), died.map(|task| task.on_behalf.clone()).collect::<BTreeSet<_>>())
    });
    // What an operator has decided is the operator's word.
    let papers: Vec<_> = stage.known().papers.values().map(|paper| paper.statement.clone()).collect();
    let decided: BTreeSet<&str> = papers.iter().filter(|p| p.kind == "resolve").filter_map(|p| p.params["op_id"].as_str()).collect();
    // Both clocks go alike.
    let sim_ahead = stage.machine().sim.now_ms() - Clock.boot().wall.0 * 1000;
    let began = |op_id: &str| records.iter().find(|r| r.op_id == op_id && r.state == State::Started).map_or(0, |r| r.at + sim_ahead);
    let mut ended = 0;
    for record in records.iter().filter(|r| r.state.is_terminal() && !r.idempotency_key.is_empty() && r.kind != "resolve") {
        ended += 1;
        let name = format!("{} {}", record.op_id, record.kind);
        if decided.contains(record.op_id.as_str()) {
            if !died.contains(&name) {
                return Err(format!("{name} was in doubt, though no worker of it has died"));
            }
            continue;
        }
        let count = |kind: EffectKind| effects.iter().filter(|e| e.on_behalf == name && e.kind == kind).count();
        let done = match record.kind.as_str() {
            "reboot" => count(EffectKind::Stopped).min(count(EffectKind::Started)),
            "stop" | "shutdown" => count(EffectKind::Stopped),
            "start" => count(EffectKind::Started),
            "suspend" => count(EffectKind::Suspended),
            "resume" => count(EffectKind::Resumed),
            "snapshot-create" => count(EffectKind::SnapshotMade),
            "set-config" => count(EffectKind::ConfigSet),
            "clone" => count(EffectKind::Cloned),
            "backup" => count(EffectKind::BackedUp),
            "reset" => count(EffectKind::Reset),
            kind => return Err(format!("what does a `{kind}`?")),
        };
        let is_true = match (record.state, done) {
            (State::Succeeded, 1) => true,
            // A guest that was so already needed nothing.
            (State::Succeeded, 0) => {
                let vmid: u32 = record.resource.rsplit('/').next().unwrap().parse().unwrap();
                let powers = powers(&effects, vmid, began(&record.op_id)..record.at + sim_ahead);
                match record.kind.as_str() {
                    "start" => powers.contains(&true),
                    "stop" | "shutdown" => powers.contains(&false),
                    _ => false,
                }
            }
            (State::Succeeded, _) => false,
            (_, done) => done == 0,
        };
        if !is_true {
            return Err(format!("{name} is {}, and was done {done} times: {:?}", record.state, record.fault));
        }
    }
    if ended == OPERATIONS { Ok(()) } else { Err(format!("{ended} operations have a result")) }
}

/// Whether a guest ran, at any time of `span` or a second beside it.
fn powers(effects: &[Effect], vmid: u32, span: Range<u64>) -> BTreeSet<bool> {
    let mut at_first = false;
    let mut powers = BTreeSet::new();
    let is_power = |effect: &&Effect| effect.vmid == vmid && matches!(effect.kind, EffectKind::Started | EffectKind::Stopped);
    for effect in effects.iter().filter(is_power).filter(|effect| effect.at_ms <= span.end + 1000) {
        let runs = effect.kind == EffectKind::Started;
        if effect.at_ms + 1000 < span.start {
            at_first = runs;
        } else {
            powers.insert(runs);
        }
    }
    powers.insert(at_first);
    powers
}

fn explored(cases: u32, shrinks: u32) -> Result<(), String> {
    let turns = prop::collection::vec(any_turn(), OPERATIONS);
    explore(asked_for(64), cases, shrinks, turns, |turns| in_a_runtime(play(turns)))
}

#[test]
fn an_agent_that_asks_again_blindly_is_noticed() {
    let _planted = plant("blind retry");
    let noticed = catch_unwind(AssertUnwindSafe(|| explored(8, 0)));
    assert!(!matches!(noticed, Ok(Ok(()))), "nothing was noticed");
}

#[test]
fn sixty_four_operations_on_sixteen_guests_are_told_as_they_were() {
    if let Err(why) = explored(CASES, 40) {
        panic!("{why}");
    }
}
