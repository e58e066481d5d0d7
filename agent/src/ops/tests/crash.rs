//! What goes on after a crash or a stop, and what does not.

use super::*;

#[tokio::test]
async fn after_a_crash_each_goes_on_where_its_evidence_says() {
    for (found, outcome, effects) in [
        (Found::Done(crate::driver::OpResult::default()), State::Succeeded, 1),
        (Found::Absent, State::Succeeded, 2),
        (Found::Unknown("nobody can tell".to_owned()), State::Indeterminate, 1),
    ] {
        let mut bench = Bench::new().await;
        let begun = bench.begun("restart", WEB, |_| {}).await;
        let waiting = bench.accepted("stop", WEB, |_| {}).await;
        bench.kill().await;
        bench.driver.hang_ops(false);
        bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), found.clone()));
        bench.start().await;
        bench.reached(&begun, outcome).await;
        if outcome == State::Succeeded {
            bench.reached(&waiting, State::Succeeded).await;
        }
        let restarts = bench.effects().iter().filter(|e| e.starts_with("op:restart")).count();
        assert_eq!(restarts, effects, "{found:?}");
        drop(bench.dir);
    }
}

#[tokio::test]
async fn what_is_proven_absent_after_its_window_is_not_begun_again() {
    let mut bench = Bench::new().await;
    let now = crate::clock::Clock.wall();
    let begun = bench.begun_and_killed(|o| (o.not_before, o.expires_at) = (UnixSeconds(now.0 - 60), now.plus(30))).await;
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Absent));
    // The floor is a verified statement's: here, one of a minute later.
    crate::ledger::Ledger::new(bench.db.clone()).advance_time_floor(now.plus(60), &crate::clock::Clock.boot()).unwrap();
    bench.start().await;
    bench.reached(&begun, State::Failed).await;
    assert_eq!(bench.receipt(&begun).fault.unwrap().code, Code::Expired);
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn what_begins_again_goes_by_what_is_wanted_now() {
    let mut bench = Bench::new().await;
    let first = |order: &mut OpStatement| order.precondition = Some(Precondition { generation: Some(Generation(1)), state: None });
    let restart = bench.begun("restart", WEB, first).await;
    bench.die().await;
    bench.driver.hang_ops(false);
    bench.start().await;
    bench.reached(&restart, State::Succeeded).await;
    bench.slice(1).await;

    let prune = bench.begun("prune", "host", |order| order.params = json!({ "volumes": true })).await;
    bench.die().await;
    bench.driver.hang_ops(false);
    let data = ResourceId::parse("docker/volume/edge_data").unwrap();
    assert!(!bench.driver.with(|fake| fake.wanted.contains(&data)));
    bench.start().await;
    let mut content = services(&["db", "web"], false);
    content["docker"]["volumes"] = json!({ "data": {} });
    bench.intake.slice(bench.operator.slice(2, content)).await.unwrap();
    bench.reached(&prune, State::Succeeded).await;
    assert!(bench.driver.with(|fake| fake.wanted.contains(&data)), "what is wanted by now is left");
}

#[tokio::test]
async fn a_revocation_before_a_crash_counts_for_what_waits_and_for_what_would_begin_again() {
    let mut bench = Bench::new().await;
    let begun = bench.begun("restart", WEB, |_| {}).await;
    let waiting = bench.accepted("stop", WEB, |_| {}).await;
    let key = bench.operator.key.id();
    bench.intake.root(bench.operator.next_root(|root| root.revoked = [key].into())).await.unwrap();
    bench.die().await;
    bench.driver.hang_ops(false);
    bench.start().await;
    bench.reached(&begun, State::Failed).await;
    bench.reached(&waiting, State::Cancelled).await;
    let (begun, waiting) = (bench.receipt(&begun), bench.receipt(&waiting));
    assert_eq!(waiting.outcome, Outcome::Refused);
    for receipt in [begun, waiting] {
        assert!(matches!(receipt.fault.unwrap().code, Code::RevokedKey | Code::NotApproved));
    }
    assert_eq!(bench.effects().len(), 1, "nothing by the revoked key after the start");
}

#[tokio::test(start_paused = true)]
async fn a_stop_begins_nothing_lets_what_runs_end_and_leaves_the_rest_to_the_next_start() {
    let mut bench = Bench::new().await;
    let running = bench.begun("restart", WEB, |_| {}).await;
    let behind = bench.accepted("stop", WEB, |_| {}).await;
    bench.driver.with(|fake| fake.unreachable = true);
    let untried = bench.accepted("restart", DB, |_| {}).await;
    bench.agent().stop.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    bench.driver.hang_ops(false);
    bench.stop().await;
    let states = [&running, &behind, &untried].map(|id| bench.state(id).unwrap());
    assert_eq!(states, [State::Succeeded, State::Queued, State::Queued]);
    assert_eq!(bench.effects().len(), 1);

    bench.driver.with(|fake| fake.unreachable = false);
    bench.driver.hang_ops(true);
    bench.start().await;
    while bench.effects().len() < 3 {
        bench.driver.op_begun().await;
    }
    // They do not end within their grace.
    bench.stop().await;
    bench.driver.hang_ops(false);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!([&behind, &untried].map(|id| bench.state(id).unwrap()), [State::Started; 2], "whoever still waits for it records nothing");
    for name in ["edge-web-1", "edge-db-1"] {
        bench.driver.with(|fake| fake.found.insert(name.to_owned(), Found::Done(crate::driver::OpResult::default())));
    }
    bench.start().await;
    for id in [&behind, &untried] {
        bench.reached(id, State::Succeeded).await;
    }
    assert_eq!(bench.effects().len(), 3, "each once");
}

#[tokio::test]
async fn without_a_hub_what_waits_keeps_nobody_from_healing() {
    let mut bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let waiting = bench.accepted("prune", "host", |o| o.expires_at = o.not_before.plus(3600)).await;
    bench.kill().await;
    drop(turn);
    bench.start_apart().await;
    // The slice that it has is enforced by an operator's word, and nobody has seen a hub yet.
    bench.driver.kill("edge-web-1");
    bench.slice(2).await;
    let is_up = || bench.driver.with(|fake| fake.engine.containers["edge-web-1"].state.is_present());
    until(&mut bench.agent().state.clone(), "healed", |s| s.settled_push.is_some() && is_up()).await;
    assert_eq!(bench.state(&waiting), Some(State::Queued));
    bench.agent().ops.records_are_current();
    bench.reached(&waiting, State::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_again_before_the_hub_has_said_that_the_records_are_current() {
    for found in [Found::Absent, Found::Made("task".to_owned())] {
        let mut bench = Bench::new().await;
        let begun = bench.begun_and_killed(|_| {}).await;
        bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), found.clone()));
        bench.start_apart().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((bench.state(&begun), bench.effects().len()), (Some(State::Started), 1), "{found:?}");
        bench.agent().ops.records_are_current();
        bench.reached(&begun, State::Succeeded).await;
        assert_eq!(bench.effects().len(), 2, "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_and_not_begun_begins_only_while_it_still_counts() {
    let clocks = set::Clocks::new(Clock.wall());
    for is_revoked in [true, false] {
        let mut bench = Bench::new().await;
        let made = bench.begun("kill", WEB, |order| order.params = json!({ "signal": "SIGKILL" })).await;
        if is_revoked {
            let key = bench.operator.key.id();
            bench.intake.root(bench.operator.next_root(|root| root.revoked = [key].into())).await.unwrap();
        }
        bench.die().await;
        bench.driver.hang_ops(false);
        bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Made("task".to_owned())));
        let now = Clock.wall();
        clocks.set_wall(if is_revoked { now } else { now.plus(3000 * 86_400) });
        bench.start().await;
        if is_revoked {
            bench.reached(&made, State::Failed).await;
            assert_eq!(bench.effects().len(), 1);
            continue;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((bench.state(&made), bench.effects().len()), (Some(State::Started), 1), "it waits for the clock");
        clocks.set_wall(now.plus(60));
        bench.reached(&made, State::Succeeded).await;
    }
}

#[tokio::test]
async fn a_time_reset_that_was_cut_off_before_its_end_was_recorded_is_known_to_be_done() {
    let mut bench = Bench::new().await;
    let ledger = crate::ledger::Ledger::new(bench.db.clone());
    ledger.advance_time_floor(Clock.wall().plus(86_000), &Clock.boot()).unwrap();
    let (json, reset) = bench.order("time-reset", "host", |_| {});
    let not_before = Signed::<OpStatement>::from_json(&json).unwrap().peek().unwrap().not_before;
    bench.take(&json).await;
    bench.reached(&reset, State::Started).await;
    bench.journal.delay(u32::MAX);
    let done = async {
        while ledger.times().unwrap().1 != not_before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.unwrap();
    bench.kill().await;
    bench.journal.delay(0);
    assert_eq!(bench.state(&reset), Some(State::Started));
    bench.start().await;
    bench.reached(&reset, State::Succeeded).await;
}

#[tokio::test]
async fn what_is_taken_back_before_the_hub_was_heard_takes_no_place() {
    let mut bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let waiting = bench.accepted("restart", WEB, |_| {}).await;
    bench.kill().await;
    drop(turn);
    bench.start_apart().await;
    let cancel = bench.operator.order("cancel", WEB, json!({ "op_id": waiting }), |_| {});
    assert!(matches!(bench.take(&cancel).await, Answer::Known(_)));
    let asked = bench.driver.with(|fake| fake.prepared);
    bench.agent().ops.records_are_current();
    let next = bench.accepted("stop", WEB, |_| {}).await;
    bench.reached(&next, State::Succeeded).await;
    assert_eq!(bench.driver.with(|fake| fake.prepared), asked + 1, "the engine was asked for the second one alone");
}

#[tokio::test]
async fn what_expires_while_the_engine_is_asked_does_not_begin_again() {
    let mut bench = Bench::new().await;
    let now = Clock.wall();
    let restart = bench.begun_and_killed(|o| o.expires_at = now.plus(300)).await;
    let ledger = crate::ledger::Ledger::new(bench.db.clone());
    bench.driver.with(|fake| {
        fake.found.insert("edge-web-1".to_owned(), Found::Absent);
        fake.at_prepare = Some(Box::new(move || ledger.advance_time_floor(now.plus(600), &Clock.boot()).unwrap()));
    });
    bench.start().await;
    bench.reached(&restart, State::Failed).await;
    assert_eq!(bench.receipt(&restart).fault.unwrap().code, Code::Expired);
    assert_eq!(bench.effects().len(), 1, "that before the crash");
}
