//! What undoes a step: with a cause, in reverse, and for good.

use super::*;

/// What this host and the depot did of [`four`], up to the last step.
async fn forward(bench: &Bench, saga: &Saga) -> Envelope {
    let first = saga.receipt(bench, 0, Side::Do, Outcome::Succeeded);
    for step in [1, 2] {
        bench.done(saga.order(step, Side::Do, 1), saga.evidence(bench, std::slice::from_ref(&first), &[])).await;
    }
    first
}

#[tokio::test]
async fn a_step_is_undone_for_a_signed_failure_and_after_what_came_later() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let first = forward(&bench, &saga).await;
    let (web, db) = (saga.order(1, Side::Undo, 1), saga.order(2, Side::Undo, 1));
    let shown = |outcome: Outcome| saga.evidence(&bench, &[first.clone(), saga.receipt(&bench, 3, Side::Do, outcome)], &[]);
    let forged = sealed(&saga.says(&bench, 3, Side::Do, Outcome::Failed), &stranger());
    for (what, evidence, code) in [
        ("nothing", saga.evidence(&bench, &[], &[]), Code::SagaUnproven),
        ("that all went well", shown(Outcome::Succeeded), Code::SagaUnproven),
        ("that nobody can tell", shown(Outcome::Indeterminate), Code::SagaUnproven),
        ("a failure by a stranger", saga.evidence(&bench, &[forged], &[]), Code::UnknownKey),
        ("that an undoing failed", saga.evidence(&bench, &[saga.receipt(&bench, 0, Side::Undo, Outcome::Failed)], &[]), Code::SagaUnproven),
        ("that it is abandoned", saga.evidence(&bench, &[], &[saga.word(&bench, Verb::Abandon)]), Code::SagaUnproven),
        ("a stranger's word", saga.evidence(&bench, &[], &[sealed(&saga.say(Verb::Abort { begun: 4 }), &stranger())]), Code::UnknownKey),
    ] {
        bench.unproven(what, &db.0, evidence, code).await;
    }
    bench.unproven("before what came later", &web.0, shown(Outcome::Failed), Code::SagaUnproven).await;
    bench.done(db, shown(Outcome::Failed)).await;
    bench.done(web, shown(Outcome::Failed)).await;
    let effects = ["stop", "stop", "start", "start"].into_iter().zip([WEB, DB, DB, WEB]);
    assert_eq!(bench.effects(), effects.map(|(kind, on)| format!("op:{kind}:{on}")).collect::<Vec<_>>());
    bench.unproven("forward again", &saga.order(1, Side::Do, 2).0, saga.evidence(&bench, &[first], &[]), Code::SagaOutOfOrder).await;
}

#[tokio::test]
async fn an_operator_sends_it_back_and_what_the_hub_hides_of_this_host_is_known_to_it() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let word = saga.word(&bench, Verb::Abort { begun: 1 });
    let early = saga.evidence(&bench, &[saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded)], &[word]);
    bench.unproven("what has not begun", &saga.order(1, Side::Do, 1).0, early, Code::SagaOutOfOrder).await;
    let first = forward(&bench, &saga).await;
    // As if the operator had been shown that only the first two groups had begun.
    let abort = |begun| saga.evidence(&bench, std::slice::from_ref(&first), &[saga.word(&bench, Verb::Abort { begun })]);
    bench.unproven("before what came later here", &saga.order(1, Side::Undo, 1).0, abort(2), Code::SagaUnproven).await;
    bench.unproven("forward", &saga.order(1, Side::Do, 2).0, abort(4), Code::SagaOutOfOrder).await;
    let skip = saga.word(&bench, Verb::Skip { step: 2, side: Side::Undo });
    let word = saga.word(&bench, Verb::Abort { begun: 4 });
    bench.done(saga.order(1, Side::Undo, 1), saga.evidence(&bench, &[first], &[word, skip])).await;
    assert_eq!(bench.effects().last(), Some(&format!("op:start:{WEB}")));
}

/// This host stops WEB, then the depot BOX.
async fn begun_here(bench: &Bench) -> Saga {
    let here = (0, Some(line("shop-1", "stop", WEB)), Some(line("shop-1", "start", WEB)));
    let saga = Saga::of(bench, &[here, (1, Some(line(DEPOT, "stop", BOX)), Some(line(DEPOT, "start", BOX)))]);
    bench.done(saga.order(0, Side::Do, 1), saga.evidence(bench, &[], &[])).await;
    saga
}

#[tokio::test]
async fn what_another_host_did_later_is_undone_first() {
    for (what, side, outcome, code, is_proof) in [
        ("that it was done", Side::Do, Outcome::Succeeded, None, false),
        ("that it failed", Side::Do, Outcome::Failed, None, false),
        ("that its undoing failed", Side::Undo, Outcome::Failed, None, false),
        ("that its undoing was refused", Side::Undo, Outcome::Refused, Some(Code::Busy), false),
        ("that it was not found", Side::Do, Outcome::Failed, Some(Code::NotFound), false),
        ("that it never began", Side::Do, Outcome::Expired, None, true),
        ("that it is undone", Side::Undo, Outcome::Succeeded, None, true),
        ("that there was nothing to undo", Side::Undo, Outcome::Refused, Some(Code::NotFound), true),
    ] {
        let bench = Bench::new().await;
        let saga = begun_here(&bench).await;
        let fault = code.map(|code| Fault::new(code, "so"));
        let receipt = sealed(&Receipt { fault, ..saga.says(&bench, 1, side, outcome) }, &depot());
        let shown = |receipts: &[Envelope]| saga.evidence(&bench, receipts, &[saga.word(&bench, Verb::Abort { begun: 2 })]);
        let undo = saga.order(0, Side::Undo, 1);
        bench.unproven("nothing", &undo.0, shown(&[]), Code::SagaUnproven).await;
        if is_proof {
            bench.done(undo, shown(&[receipt])).await;
        } else {
            bench.unproven(what, &undo.0, shown(&[receipt]), Code::SagaUnproven).await;
        }
    }
}

#[tokio::test]
async fn undoing_what_never_began_is_a_record_alone_and_then_it_does_not_begin() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let undo = saga.order(1, Side::Undo, 1);
    bench.done(undo, saga.evidence(&bench, &[], &[])).await;
    assert_eq!(bench.states(&undo.1), [State::Accepted, State::Queued, State::Started, State::Succeeded]);
    let receipt = bench.receipt(&undo.1);
    assert_eq!((receipt.outcome, receipt.result), (Outcome::Succeeded, json!({ "nothing_to_undo": true })));
    assert_eq!((bench.effects().len(), bench.driver.with(|fake| fake.prepared)), (0, 0));
    bench.heard(&undo.1, "succeeded").await;
    let first = saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded);
    let shown = || saga.evidence(&bench, std::slice::from_ref(&first), &[]);
    bench.unproven("what it would have undone", &saga.order(1, Side::Do, 1).0, shown(), Code::SagaOutOfOrder).await;
    let skip = saga.word(&bench, Verb::Skip { step: 1, side: Side::Do });
    let skipped = saga.evidence(&bench, std::slice::from_ref(&first), &[skip]);
    bench.unproven("any later step", &saga.order(2, Side::Do, 1).0, skipped, Code::SagaOutOfOrder).await;
    assert!(matches!(bench.take(&undo.0).await, Answer::Settled(receipt) if receipt.outcome == Outcome::Succeeded));
}

#[tokio::test]
async fn an_undoing_by_a_later_order_is_known_though_the_word_that_allowed_it_is_hidden() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let of = OfSaga { saga_id: saga.plan.saga_id.clone(), step: 1, side: Side::Undo, attempt: 2 };
    let second = saga.sign(&bench, &line("shop-1", "start", WEB), of);
    let word = saga.word(&bench, Verb::Retry { step: 1, side: Side::Undo, orders: vec![hash(&second.0)] });
    bench.done(&second, saga.evidence(&bench, &[], &[word])).await;
    let shown = saga.evidence(&bench, &[saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded)], &[]);
    bench.unproven("the word is hidden", &saga.order(1, Side::Do, 1).0, shown, Code::SagaOutOfOrder).await;
}

#[tokio::test]
async fn what_is_under_way_is_undone_after_it_in_its_lane_and_not_before_it_in_another() {
    let bench = Bench::new().await;
    let first = line("shop-1", "stop", WEB);
    let saga = Saga::of(
        &bench,
        &[(0, Some(first.clone()), Some(line("shop-1", "start", WEB))), (0, Some(first), Some(line("shop-1", "start", DB)))],
    );
    let abort = || saga.evidence(&bench, &[], &[saga.word(&bench, Verb::Abort { begun: 1 })]);
    let turn = bench.in_the_way(WEB).await;
    for step in [0, 1] {
        let (json, id) = saga.order(step, Side::Do, 1);
        assert_eq!(bench.take_shown(json, saga.evidence(&bench, &[], &[])).await, Answer::Known(id.clone()));
    }
    bench.unproven("in another lane", &saga.order(1, Side::Undo, 1).0, abort(), Code::SagaOutOfOrder).await;
    let (json, id) = saga.order(0, Side::Undo, 1);
    assert_eq!(bench.take_shown(json, abort()).await, Answer::Known(id.clone()));
    drop(turn);
    bench.reached(id, State::Succeeded).await;
    bench.done(saga.order(1, Side::Undo, 1), abort()).await;
    assert_eq!(bench.effects()[..3], [format!("op:stop:{WEB}"), format!("op:stop:{WEB}"), format!("op:start:{WEB}")]);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_that_record_leaves_it_whole_or_away() {
    for kept in 0..=4 {
        let mut bench = Bench::new().await;
        let saga = four(&bench);
        let (json, id) = saga.order(1, Side::Undo, 1).clone();
        bench.journal.delay(u32::MAX);
        let (ops, shown, bytes) = (bench.agent().ops.clone(), saga.evidence(&bench, &[], &[]), json.clone());
        let unanswered = tokio::spawn(async move { ops.take(bytes, Some(shown)).await });
        let staged = async {
            while bench.journal.waiting() < 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, staged).await.unwrap();
        assert!(!unanswered.is_finished());
        for task in bench.agent.take().unwrap().tasks {
            task.abort();
            let _ = task.await;
        }
        bench.journal = bench.journal.crash(kept);
        bench.journal.delay(0);
        bench.start().await;
        let state = bench.state(&id);
        assert_eq!(state, (kept > 0).then_some(State::Succeeded), "{kept} records");
        bench.done(&(json, id.clone()), saga.evidence(&bench, &[], &[])).await;
        assert_eq!(bench.receipt(&id).result, json!({ "nothing_to_undo": true }));
        assert_eq!(bench.states(&id), [State::Accepted, State::Queued, State::Started, State::Succeeded], "{kept} records");
        assert_eq!((bench.effects().len(), bench.driver.with(|fake| fake.prepared)), (0, 0));
    }
}
