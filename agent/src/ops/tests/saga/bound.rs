//! What a step made is what is undone, and not what bears its name by then.

use super::*;

/// A guest is made of another one, and destroyed when the saga goes back.
fn made(bench: &Bench, named: Option<&'static str>) -> Saga {
    let undo = Line { made_by: Some("step-0"), incarnation: named, ..line("shop-1", "destroy", WEB) };
    Saga::of(bench, &[(0, Some(line("shop-1", "start", WEB)), Some(undo))])
}

/// The engine's name for what is there.
fn bears(bench: &Bench, incarnation: &str) {
    bench.driver.with(|fake| fake.incarnations.insert("edge-web-1".to_owned(), incarnation.to_owned()));
}

fn back(bench: &Bench, saga: &Saga) -> Evidence {
    saga.evidence(bench, &[], &[saga.word(bench, Verb::Abort { begun: 1 })])
}

async fn run(bench: &Bench, saga: &Saga) {
    bears(bench, "made-1");
    bench.done(saga.order(0, Side::Do, 1), saga.evidence(bench, &[], &[])).await;
}

#[tokio::test]
async fn what_the_step_made_is_destroyed_also_when_the_hub_has_heard_of_it_long_ago() {
    let bench = Bench::new().await;
    let saga = made(&bench, None);
    run(&bench, &saga).await;
    bench.heard(&saga.order(0, Side::Do, 1).1, "succeeded").await;
    bench.done(saga.order(0, Side::Undo, 1), back(&bench, &saga)).await;
    assert_eq!(bench.effects(), [format!("op:start:{WEB}"), format!("op:destroy:{WEB}")]);
    let bound = bench.records(&saga.order(0, Side::Undo, 1).1).into_iter().find_map(|record| record.grant).unwrap().bound;
    assert_eq!(bound.as_deref(), Some("made-1"));
}

#[tokio::test]
async fn another_one_that_bears_the_name_by_now_is_left_alone() {
    let bench = Bench::new().await;
    let saga = made(&bench, None);
    run(&bench, &saga).await;
    bears(&bench, "another-2");
    let (json, id) = saga.order(0, Side::Undo, 1);
    assert_eq!(bench.take_shown(json, back(&bench, &saga)).await, Answer::Known(id.clone()));
    bench.reached(id, State::Cancelled).await;
    assert_eq!(bench.receipt(id).fault.unwrap().code, Code::IncarnationChanged);
    assert_eq!(bench.effects(), [format!("op:start:{WEB}")]);
}

#[tokio::test]
async fn a_restart_between_acceptance_and_start_forgets_nothing_of_that() {
    for (is, state) in [("made-1", State::Succeeded), ("another-2", State::Cancelled)] {
        let mut bench = Bench::new().await;
        let saga = made(&bench, None);
        run(&bench, &saga).await;
        let turn = bench.in_the_way(WEB).await;
        let (json, id) = saga.order(0, Side::Undo, 1);
        assert_eq!(bench.take_shown(json, back(&bench, &saga)).await, Answer::Known(id.clone()));
        bench.kill().await;
        drop(turn);
        bears(&bench, is);
        bench.start().await;
        bench.reached(id, state).await;
        assert_eq!(bench.effects().len(), if state == State::Succeeded { 2 } else { 1 }, "{is}");
    }
}

#[tokio::test]
async fn one_that_had_begun_before_a_crash_begins_again_on_what_was_made_alone() {
    let mut bench = Bench::new().await;
    let saga = made(&bench, None);
    run(&bench, &saga).await;
    bench.driver.op_begun().await;
    bench.driver.hang_ops(true);
    let (json, id) = saga.order(0, Side::Undo, 1);
    assert_eq!(bench.take_shown(json, back(&bench, &saga)).await, Answer::Known(id.clone()));
    bench.driver.op_begun().await;
    bench.kill().await;
    bench.driver.hang_ops(false);
    bears(&bench, "another-2");
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Absent));
    bench.start().await;
    bench.reached(id, State::Failed).await;
    assert_eq!(bench.receipt(id).fault.unwrap().code, Code::IncarnationChanged);
}

#[tokio::test]
async fn an_order_that_names_one_itself_means_that_one() {
    for (named, state) in [("made-1", State::Succeeded), ("another-2", State::Cancelled)] {
        let bench = Bench::new().await;
        let saga = made(&bench, Some(named));
        run(&bench, &saga).await;
        let (json, id) = saga.order(0, Side::Undo, 1);
        assert_eq!(bench.take_shown(json, back(&bench, &saga)).await, Answer::Known(id.clone()));
        bench.reached(id, state).await;
        let code = bench.receipt(id).fault.map(|fault| fault.code);
        assert_eq!(code, (state == State::Cancelled).then_some(Code::IncarnationChanged));
    }
}

#[tokio::test]
async fn what_is_being_made_is_not_undone_before_it_is_known() {
    let bench = Bench::new().await;
    let saga = made(&bench, None);
    bears(&bench, "made-1");
    let turn = bench.in_the_way(WEB).await;
    let (json, id) = saga.order(0, Side::Do, 1);
    assert_eq!(bench.take_shown(json, saga.evidence(&bench, &[], &[])).await, Answer::Known(id.clone()));
    bench.unproven("while it is made", &saga.order(0, Side::Undo, 1).0, back(&bench, &saga), Code::SagaOutOfOrder).await;
    drop(turn);
    bench.reached(id, State::Succeeded).await;
    bench.done(saga.order(0, Side::Undo, 1), back(&bench, &saga)).await;
}

#[tokio::test]
async fn what_failed_to_be_made_gives_no_right_to_what_bears_its_name() {
    let bench = Bench::new().await;
    let saga = made(&bench, None);
    bears(&bench, "another-2");
    bench.driver.with(|fake| {
        fake.op_at_begin = Some(Box::new(|fake| {
            fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent);
        }));
    });
    let (json, id) = saga.order(0, Side::Do, 1);
    assert_eq!(bench.take_shown(json, saga.evidence(&bench, &[], &[])).await, Answer::Known(id.clone()));
    bench.reached(id, State::Failed).await;
    bench.driver.with(|fake| {
        fake.fail.clear();
        fake.op_at_begin = None;
    });
    let (json, id) = saga.order(0, Side::Undo, 1);
    assert_eq!(bench.take_shown(json, back(&bench, &saga)).await, Answer::Known(id.clone()));
    bench.reached(id, State::Cancelled).await;
    assert_eq!(bench.receipt(id).fault.unwrap().code, Code::IncarnationChanged);
}
