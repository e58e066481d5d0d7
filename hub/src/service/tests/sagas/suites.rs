//! What every saga must stand, whatever its steps: after the model of the helpers of Oxide's Omicron.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::id::SagaId;
use moorline_common::saga::{Side, Verb};
use moorline_proto::v1 as pb;
use tokio_util::sync::CancellationToken;

use super::host::{Manner, SimHost};
use super::{Draft, Kit, Shape, resource};
use crate::limits;
use crate::saga::{Death, Service};

/// Plans of every form: in a row, side by side, over hosts, tried again, with what cannot be undone at the end.
fn shapes() -> Vec<(&'static str, Vec<Shape>)> {
    let twice = |host, group| Shape { attempts: 2, ..Shape::on(host, group) };
    let last = |host, group| Shape { undo: None, irreversible: true, ..Shape::on(host, group) };
    vec![
        ("one step", vec![Shape::on(0, 0)]),
        ("a row over hosts", vec![Shape::on(0, 0), Shape::on(1, 1), Shape::on(0, 2)]),
        ("side by side", vec![Shape::on(0, 0), Shape::on(1, 1), Shape::on(0, 1), Shape::on(1, 2)]),
        ("tried again", vec![twice(0, 0), twice(1, 1), twice(0, 2)]),
        ("with an end that stays", vec![Shape::on(0, 0), Shape::on(1, 1), last(0, 2)]),
    ]
}

pub async fn fleet(kit: &Kit) -> Vec<SimHost> {
    vec![SimHost::connect(kit, "shop", 1).await, SimHost::connect(kit, "mill", 2).await]
}

/// What is there of one saga.
pub fn there(hosts: &[SimHost], id: &SagaId, steps: usize) -> BTreeSet<usize> {
    (0..steps).filter(|step| hosts.iter().any(|host| host.there().contains(&resource(id, *step)))).collect()
}

/// How often each side of each of its steps had its effect.
fn effects(hosts: &[SimHost], id: &SagaId, step: usize, side: Side) -> usize {
    let on = resource(id, step);
    hosts.iter().flat_map(SimHost::effects).filter(|(what, which)| *what == on && *which == side).count()
}

/// An honest hub shows all that its hosts ask for. An order that an abort has overtaken on its way is rightly not taken.
fn nobody_refused(hosts: &[SimHost]) {
    let mut refused = hosts.iter().flat_map(SimHost::refused);
    let unfounded = refused.find(|fault| !fault.message.ends_with("an operator wants the saga to go back"));
    assert_eq!(unfounded, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_each_step_leaves_nothing_behind_also_when_what_undoes_it_runs_twice() {
    let kit = Kit::new().await;
    let hosts = fleet(&kit).await;
    let mut cases = Vec::new();
    for (form, shapes) in shapes() {
        for (step, shape) in shapes.iter().enumerate() {
            for fails in [Manner::FailBefore, Manner::FailAfter, Manner::Refuse, Manner::DoubtNot] {
                // What is past return is not undone: another test.
                if shape.irreversible && fails != Manner::Refuse {
                    continue;
                }
                for twice in [false, true] {
                    let draft = kit.draft(&hosts, &shapes);
                    let id = draft.plan.saga_id.clone();
                    hosts[shape.host].takes(&resource(&id, step), Side::Do, &vec![fails; usize::try_from(shape.attempts).unwrap()]);
                    for (number, shape) in shapes.iter().enumerate().filter(|_| twice) {
                        // It undoes, says that it failed, and is asked again.
                        hosts[shape.host].takes(&resource(&id, number), Side::Undo, &[Manner::FailAfter]);
                    }
                    kit.start_saga(&draft).await.unwrap();
                    cases.push((form, step, fails, twice, id, shapes.len()));
                }
            }
        }
    }
    for (form, step, fails, twice, id, steps) in cases {
        let saga = kit.until_saga(&id, |saga| matches!(saga.status.as_str(), "rolled_back" | "completed")).await;
        assert_eq!(saga.status, "rolled_back", "{form}, step {step} {fails:?}, twice: {twice}: {:#?}", saga.timeline);
        assert_eq!(there(&hosts, &id, steps), BTreeSet::new(), "{form}, step {step} {fails:?}, twice: {twice}");
    }
    nobody_refused(&hosts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_at_any_write_is_taken_over_to_the_same_end() {
    let kit = Kit::new().await;
    let hosts = fleet(&kit).await;
    let mut cases: Vec<(Draft, Option<usize>, Death)> = Vec::new();
    for (_, shapes) in shapes() {
        for fails in [None, Some(shapes.len() - 1)] {
            // Each step begins and ends, forward and back.
            for write in 0..u32::try_from(4 * shapes.len() + 2).unwrap() {
                for is_written in [false, true] {
                    let draft = kit.draft(&hosts, &shapes);
                    let id = draft.plan.saga_id.clone();
                    if let Some(step) = fails {
                        let shape = &shapes[step];
                        let fails = if shape.irreversible { Manner::Refuse } else { Manner::FailAfter };
                        hosts[shape.host].takes(&resource(&id, step), Side::Do, &vec![fails; usize::try_from(shape.attempts).unwrap()]);
                    }
                    let death = Death { write, is_written };
                    kit.hub().sagas.dies(&id, death);
                    kit.start_saga(&draft).await.unwrap();
                    cases.push((draft, fails, death));
                }
            }
        }
    }
    let is_over = async |id: &SagaId| matches!(kit.saga(id).await.status.as_str(), "rolled_back" | "completed");
    let mut open: Vec<SagaId> = cases.iter().map(|(draft, ..)| draft.plan.saga_id.clone()).collect();
    let patience = tokio::time::Instant::now() + super::PATIENCE;
    while let Some(id) = open.pop() {
        if !is_over(&id).await {
            assert!(tokio::time::Instant::now() < patience, "{:#?}", kit.saga(&id).await.timeline);
            open.insert(0, id);
            // Whoever gives no sign of life for so long is taken for dead.
            kit.clock.advance(limits::SAGA_LEASE);
            kit.hub().sagas.wake();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    for (draft, fails, death) in cases {
        let (id, steps) = (&draft.plan.saga_id, draft.plan.steps.len());
        let saga = kit.saga(id).await;
        let wanted = if fails.is_some() { ("rolled_back", BTreeSet::new()) } else { ("completed", (0..steps).collect()) };
        assert_eq!((saga.status.as_str(), there(&hosts, id, steps)), wanted, "{death:?}: {:#?}", saga.timeline);
        for step in 0..steps {
            let tries = usize::try_from(draft.plan.steps[step].run.attempts).unwrap();
            assert!(effects(&hosts, id, step, Side::Do) <= tries, "{death:?}: step {step} was done again");
        }
    }
    nobody_refused(&hosts);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runners_of_one_store_never_run_one_saga() {
    let kit = Kit::new().await;
    let hosts = fleet(&kit).await;
    let shutdown = CancellationToken::new();
    let other = tokio::spawn(Service::new(kit.hub().clone()).unwrap().run(shutdown.clone()));
    let drafts: Vec<Draft> = (0..40).flat_map(|_| shapes()).map(|(_, shapes)| kit.draft(&hosts, &shapes)).collect();
    for (n, draft) in drafts.iter().enumerate() {
        if n % 3 == 0 {
            let step = draft.plan.steps.len() - 1;
            hosts.iter().for_each(|host| host.takes(&resource(&draft.plan.saga_id, step), Side::Do, &[Manner::Refuse; 2]));
        }
        kit.start_saga(draft).await.unwrap();
        // Each takes the other for dead again and again.
        kit.clock.advance(limits::SAGA_LEASE);
        kit.hub().sagas.wake();
    }
    for (n, draft) in drafts.iter().enumerate() {
        let (id, steps) = (&draft.plan.saga_id, draft.plan.steps.len());
        kit.clock.advance(limits::SAGA_LEASE);
        kit.hub().sagas.wake();
        let wanted = if n % 3 == 0 { "rolled_back" } else { "completed" };
        let saga = kit.until_status(id, wanted).await;
        for step in 0..steps {
            assert!(effects(&hosts, id, step, Side::Do) <= 1, "step {step} was done twice: {:#?}", saga.timeline);
        }
        assert_eq!(there(&hosts, id, steps).is_empty(), n % 3 == 0);
    }
    nobody_refused(&hosts);
    shutdown.cancel();
    other.await.unwrap();
}

/// A small generator of its own: the same seed is the same run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.next(n) == 0
    }
}

pub fn random_shapes(random: &mut Random) -> Vec<Shape> {
    let (mut shapes, mut group, mut is_last) = (Vec::new(), 0, false);
    for number in 0..1 + random.next(5) {
        let opens = number > 0 && random.next(3) > 0;
        if opens {
            group += 1;
            is_last = is_last || random.one_in(6);
        }
        let host = usize::try_from(random.next(2)).unwrap();
        let attempts = 1 + u32::try_from(random.next(2)).unwrap();
        let undo = (!is_last).then(|| 1 + u32::try_from(random.next(3)).unwrap());
        shapes.push(Shape { host, group, attempts, undo, irreversible: is_last, timeout_s: 3600 });
    }
    shapes
}

/// Waits until all have ended; whoever is stuck gets what it names. So often every runner is taken for dead.
pub async fn resolve_all(kit: &Kit, hosts: &[SimHost], drafts: &[Draft], seed: u64, (every, pass): (Duration, impl Fn(Duration))) {
    let patience = tokio::time::Instant::now() + super::PATIENCE * 3 + every * 12;
    let mut open: Vec<&Draft> = drafts.iter().collect();
    let mut operator = kit.operator().await;
    let mut found_out = tokio::time::Instant::now();
    while !open.is_empty() {
        let mut left = Vec::new();
        for draft in open {
            let request = pb::GetSagaRequest { saga_id: draft.plan.saga_id.to_string() };
            let saga = operator.get_saga(request).await.unwrap().into_inner().saga.unwrap();
            match saga.status.as_str() {
                "completed" | "rolled_back" | "cancelled" => continue,
                // A host that cannot tell is about to hear of it from an operator.
                "stuck" if !saga.remedy.starts_with("moorctl saga") => {}
                // It may have moved meanwhile.
                "stuck" => drop(kit.remedy(&draft.plan, hosts).await),
                _ => {}
            }
            assert!(tokio::time::Instant::now() < patience, "seed {seed}: {} {} {:#?}", saga.status, saga.stuck, saga.timeline);
            left.push(draft);
        }
        open = left;
        if found_out.elapsed() >= every {
            found_out = tokio::time::Instant::now();
            kit.clock.advance(limits::SAGA_LEASE);
            pass(limits::SAGA_LEASE);
            kit.hub().sagas.wake();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A number that may be set from outside.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sagas_leave_nothing_behind_and_what_is_stuck_is_resolved_by_the_command_that_it_names() {
    let (count, seed) = (number("MOORLINE_SAGAS", 200), number("MOORLINE_SEED", 42));
    let mut random = Random(seed | 1);
    let kit = Kit::new().await;
    let hosts = fleet(&kit).await;
    let mut drafts = Vec::new();
    for _ in 0..count {
        let shapes = random_shapes(&mut random);
        let draft = kit.draft(&hosts, &shapes);
        let id = draft.plan.saga_id.clone();
        for (step, shape) in shapes.iter().enumerate() {
            for side in [Side::Do, Side::Undo] {
                let all = [
                    Manner::FailBefore,
                    Manner::FailAfter,
                    Manner::Refuse,
                    Manner::DoubtDone,
                    Manner::DoubtNot,
                    Manner::Reconnect,
                    Manner::Do,
                ];
                let manners: Vec<Manner> = (0..random.next(4))
                    .map(|_| if random.one_in(2) { Manner::Do } else { all[usize::try_from(random.next(7)).unwrap()] })
                    .collect();
                hosts[shape.host].takes(&resource(&id, step), side, &manners);
            }
        }
        if random.one_in(3) {
            let death = Death { write: u32::try_from(random.next(12)).unwrap(), is_written: random.one_in(2) };
            kit.hub().sagas.dies(&id, death);
        }
        kit.start_saga(&draft).await.unwrap();
        if random.one_in(10) {
            // It may have ended by now.
            let _ = kit.abort(&draft.plan, &hosts).await;
        }
        drafts.push(draft);
    }
    resolve_all(&kit, &hosts, &drafts, seed, (Duration::ZERO, |_| {})).await;
    let (mut completed, mut back) = (0, 0);
    for Draft { plan, .. } in &drafts {
        let saga = kit.saga(&plan.saga_id).await;
        let left = there(&hosts, &plan.saga_id, plan.steps.len());
        if saga.status == "completed" {
            completed += 1;
            assert_eq!(left, (0..plan.steps.len()).collect(), "seed {seed}: {:#?}", saga.timeline);
        } else {
            back += 1;
            assert_eq!(left, BTreeSet::new(), "seed {seed}: {:#?}", saga.timeline);
        }
    }
    assert!(completed > 0 && back > 0 || count < 20, "{completed} completed, {back} went back");
    nobody_refused(&hosts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_nothing_is_told_and_what_an_operator_takes_out_is_not_waited_for() {
    let kit = Kit::new().await;
    let hosts = fleet(&kit).await;
    let draft = kit.draft(&hosts, &[Shape::on(0, 0), Shape { timeout_s: 1, ..Shape::on(1, 1) }]);
    let (id, plan) = (draft.plan.saga_id.clone(), draft.plan.clone());
    hosts[1].takes(&resource(&id, 1), Side::Do, &[Manner::Mute]);
    hosts[1].takes(&resource(&id, 1), Side::Undo, &[Manner::Mute]);
    kit.start_saga(&draft).await.unwrap();
    let saga = kit.until_status(&id, "stuck").await;
    assert!(saga.stuck.contains("has not answered in time"), "{}", saga.stuck);
    kit.remedy(&plan, &hosts).await.unwrap();
    let saga = kit.until_saga(&id, |saga| saga.status == "stuck" && saga.remedy.contains("skip")).await;
    assert_eq!(saga.remedy, format!("moorctl saga skip {id} s1 --undo"));
    kit.say(&plan, &hosts, Verb::Skip { step: 1, side: Side::Undo }).await.unwrap();
    kit.until_status(&id, "rolled_back").await;
    assert!(hosts[0].there().is_empty());
}
