//! What nobody knows the end of: it holds its lane, and nothing else.

use super::*;

/// The records of an order that only another version of the agent can read.
async fn foreign(bench: &Bench, resource: &str, begun: bool) -> OpId {
    let (json, id) = bench.order("start", resource, |order| order.kind = "levitate".to_owned());
    let statement = Signed::<OpStatement>::from_json(&json).unwrap().peek().unwrap();
    let grant = moorline_common::op::Grant {
        envelope: String::from_utf8(json).unwrap(),
        intent: statement.intent().unwrap(),
        nonce: statement.nonce.to_string(),
        nonce_until: statement.nonce_until(),
        bound: None,
        nothing: false,
    };
    let step = |state| Entry {
        kind: "levitate".into(),
        idempotency_key: statement.idempotency_key.to_string(),
        ..Entry::step(id.as_str().parse().unwrap(), statement.resource.clone(), "", state)
    };
    let mut entries = vec![Entry { grant: Some(grant), ..step(State::Accepted) }, step(State::Queued)];
    entries.extend(begun.then(|| step(State::Started)));
    bench.journal.append(entries).await.unwrap();
    id
}

#[tokio::test]
async fn an_open_operation_that_this_agent_cannot_read_lets_none_pass_before_an_operator_has_spoken() {
    let mut bench = Bench::new().await;
    bench.stop().await;
    let (begun, waiting) = (foreign(&bench, WEB, true).await, foreign(&bench, DB, false).await);
    bench.start().await;
    assert_eq!((bench.state(&begun), bench.state(&waiting)), (Some(State::Indeterminate), Some(State::Cancelled)));
    let refused = bench.receipt(&waiting);
    assert_eq!((refused.outcome, refused.fault.unwrap().code), (Outcome::Refused, Code::UnknownKind));
    assert_eq!(bench.receipt(&begun).outcome, Outcome::Indeterminate);
    bench.heard(&waiting, "refused").await;
    // Nor does the next start forget it.
    bench.kill().await;
    bench.start().await;
    let (behind, beside) = (bench.accepted("restart", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await);
    bench.reached(&beside, State::Succeeded).await;
    assert_eq!(bench.state(&behind), Some(State::Queued));
    let word = bench.operator.order("resolve", WEB, json!({ "op_id": begun, "outcome": "succeeded" }), |_| {});
    assert!(matches!(bench.take(&word).await, Answer::Known(_)));
    bench.reached(&behind, State::Succeeded).await;
    assert_eq!(bench.receipt(&begun).outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn what_is_in_doubt_holds_its_lane_alone_until_an_operator_has_spoken() {
    let mut bench = Bench::new().await;
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Unknown("nobody can tell".to_owned())));
    bench.driver.with(|fake| fake.lose_answer = true);
    let lost = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&lost, State::Indeterminate).await;
    let receipt = bench.receipt(&lost);
    assert_eq!((receipt.outcome, receipt.fault.unwrap().code), (Outcome::Indeterminate, Code::Indeterminate));
    let (behind, beside) = (bench.accepted("stop", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await);
    bench.reached(&beside, State::Succeeded).await;
    assert_eq!(bench.state(&behind), Some(State::Queued));
    // Nor does a restart of the agent forget it.
    bench.kill().await;
    bench.start().await;
    let (again, beside) = (bench.accepted("start", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await);
    bench.reached(&beside, State::Succeeded).await;
    assert_eq!((bench.state(&lost), bench.state(&behind)), (Some(State::Indeterminate), Some(State::Queued)));
    let word = bench.operator.order("resolve", WEB, json!({ "op_id": lost, "outcome": "failed" }), |_| {});
    assert!(matches!(bench.take(&word).await, Answer::Known(_)));
    bench.reached(&again, State::Succeeded).await;
    assert_eq!(bench.receipt(&lost).outcome, Outcome::Failed);
    let web: Vec<String> = bench.effects().into_iter().filter(|e| e.ends_with(WEB)).collect();
    assert_eq!(web, [format!("op:restart:{WEB}"), format!("op:stop:{WEB}"), format!("op:start:{WEB}")], "in the order of acceptance");
}

/// A restart of WEB whose end nobody will know, once the engine's answer is let go.
async fn to_be_lost(bench: &Bench) -> OpId {
    bench.driver.with(|fake| {
        fake.found.insert("edge-web-1".to_owned(), Found::Unknown("nobody can tell".to_owned()));
        fake.lose_answer = true;
    });
    bench.begun("restart", WEB, |_| {}).await
}

#[tokio::test]
async fn what_is_for_the_whole_host_waits_for_no_doubt_and_so_holds_up_no_other_lane() {
    let bench = Bench::new().await;
    let lost = to_be_lost(&bench).await;
    let prune = bench.accepted("prune", "host", |_| {}).await;
    let behind = bench.accepted("restart", DB, |_| {}).await;
    assert_eq!(bench.state(&behind), Some(State::Queued));
    bench.driver.hang_ops(false);
    bench.reached(&lost, State::Indeterminate).await;
    bench.reached(&behind, State::Succeeded).await;
    assert_eq!((bench.state(&prune), bench.receipt(&prune).fault.unwrap().code), (Some(State::Cancelled), Code::Busy));
    assert_eq!(bench.refused(&bench.order("prune", "host", |_| {}).0).await, Code::Busy);

    let mut bench = Bench::new().await;
    let lost = to_be_lost(&bench).await;
    let prune = bench.accepted("prune", "host", |_| {}).await;
    bench.kill().await;
    bench.driver.hang_ops(false);
    bench.start().await;
    bench.reached(&lost, State::Indeterminate).await;
    bench.reached(&prune, State::Cancelled).await;
    let beside = bench.accepted("stop", DB, |_| {}).await;
    bench.reached(&beside, State::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_lay_with_a_standing_engine_has_its_time_from_when_that_is_known() {
    let _clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Done(crate::driver::OpResult::default())));
    bench.driver.with(|fake| fake.lose_answer = true);
    let restart = bench.begun("restart", WEB, |_| {}).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    bench.driver.hang_ops(false);
    bench.reached(&restart, State::Succeeded).await;
    let ages = bench.driver.with(|fake| fake.ages.clone());
    assert!(!ages.is_empty() && ages.iter().all(|age| *age < crate::limits::OP_MARGIN), "{ages:?}");
}

#[tokio::test]
async fn an_engine_that_fails_to_tell_once_is_asked_again() {
    let mut bench = Bench::new().await;
    let restart = bench.begun_and_killed(|_| {}).await;
    bench.driver.with(|fake| {
        fake.found.insert("edge-web-1".to_owned(), Found::Done(crate::driver::OpResult::default()));
        fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Retryable);
    });
    bench.start().await;
    bench.driver.adopted().await;
    bench.driver.with(|fake| fake.fail.clear());
    bench.reached(&restart, State::Succeeded).await;
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_was_away_for_long_may_fail_to_tell_once() {
    let _clocks = set::Clocks::new(Clock.wall());
    let mut bench = Bench::new().await;
    let restart = bench.begun_and_killed(|_| {}).await;
    bench.driver.with(|fake| fake.unreachable = true);
    bench.start().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    bench.driver.with(|fake| {
        fake.found.insert("edge-web-1".to_owned(), Found::Done(crate::driver::OpResult::default()));
        fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Retryable);
        fake.unreachable = false;
    });
    let looks = || bench.driver.with(|fake| fake.ages.len());
    let before = looks();
    while looks() < before + 2 {
        bench.driver.adopted().await;
    }
    assert_eq!(bench.state(&restart), Some(State::Started));
    bench.driver.with(|fake| fake.fail.clear());
    bench.reached(&restart, State::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_late_is_looked_for_and_recorded_anew_before_it_begins() {
    let _clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let restart = bench.accepted("restart", WEB, |_| {}).await;
    bench.journal.delay(10_000);
    drop(turn);
    while bench.driver.with(|fake| fake.prepared) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(crate::limits::OP_MARGIN).await;
    // On a disk that has no room by now either: it has begun, and is not refused.
    bench.journal.fill(true);
    bench.journal.delay(0);
    bench.driver.adopted().await;
    assert_eq!((bench.states(&restart), bench.effects().len()), (vec![State::Accepted, State::Queued, State::Started], 0));
    bench.journal.fill(false);
    bench.reached(&restart, State::Succeeded).await;
    let states = [State::Accepted, State::Queued, State::Started, State::Started, State::Succeeded];
    assert_eq!((bench.states(&restart), bench.effects().len()), (states.to_vec(), 1));
}
