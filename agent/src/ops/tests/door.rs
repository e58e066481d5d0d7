//! Orders that come in: what is taken, and what is refused with which code.

use super::*;

#[tokio::test]
async fn one_key_is_one_order() {
    let bench = Bench::new().await;
    let key = |order: &mut OpStatement| order.idempotency_key = IdempotencyKey::parse("nightly").unwrap();
    let turn = bench.in_the_way(WEB).await;
    let first = bench.accepted("restart", WEB, key).await;
    let (second_json, second) = bench.order("restart", WEB, key);
    assert_eq!(bench.take(&second_json).await, Answer::Known(first.clone()), "the first one is done in its place");
    assert_eq!(bench.refused(&bench.order("stop", WEB, key).0).await, Code::Conflict);
    assert_eq!(bench.refused(&bench.order("restart", DB, key).0).await, Code::Conflict);
    drop(turn);
    bench.reached(&first, State::Succeeded).await;
    let told = bench.agent().ops.standing(&bench.journal, &bench.own(), &first);
    let Some(Standing::Over(follower)) = told.get(1) else { panic!("{told:?}") };
    assert_eq!((follower.op_id.clone(), follower.same_as.clone(), follower.outcome), (second, Some(first.clone()), Outcome::Succeeded));
    let Answer::Settled(third) = bench.take(&bench.order("restart", WEB, key).0).await else { panic!("it has ended") };
    assert_eq!((third.outcome, third.same_as.clone()), (Outcome::Succeeded, Some(first)));
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn a_failed_key_is_used_up_and_one_that_never_began_is_free() {
    let bench = Bench::new().await;
    let key = |order: &mut OpStatement| order.idempotency_key = IdempotencyKey::parse("k").unwrap();
    let turn = bench.in_the_way(WEB).await;
    let (json, first) = bench.order("restart", WEB, key);
    assert_eq!(bench.take(&json).await, Answer::Known(first.clone()));
    let cancel = bench.operator.order("cancel", WEB, json!({ "op_id": first }), |_| {});
    assert!(matches!(bench.take(&cancel).await, Answer::Known(_)));
    assert_eq!(bench.receipt(&first).outcome, Outcome::Cancelled);
    drop(turn);
    bench.driver.with(|fake| fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent));
    let second = bench.accepted("restart", WEB, key).await;
    bench.reached(&second, State::Cancelled).await;
    bench.driver.with(|fake| {
        fake.fail.clear();
        fake.op_at_begin = Some(Box::new(|fake| {
            fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent);
        }));
    });
    let third = bench.accepted("restart", WEB, key).await;
    bench.reached(&third, State::Failed).await;
    assert_eq!(bench.receipt(&third).fault.unwrap().code, Code::OpFailed);
    let Answer::Settled(again) = bench.take(&bench.order("restart", WEB, key).0).await else { panic!("its key has an end") };
    assert_eq!((again.outcome, again.same_as.clone()), (Outcome::Failed, Some(third)));
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn a_nonce_counts_once() {
    let bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let (json, first) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.take(&json).await, Answer::Known(first.clone()));
    let nonce = Signed::<OpStatement>::from_json(&json).unwrap().peek().unwrap().nonce;
    assert_eq!(bench.refused(&bench.order("restart", WEB, |o| o.nonce = nonce).0).await, Code::NonceUsed);
    let cancel = bench.operator.order("cancel", WEB, json!({ "op_id": first }), |_| {});
    bench.take(&cancel).await;
    bench.heard(&first, "cancelled").await;
    assert_eq!(bench.refused(&json).await, Code::NonceUsed, "a replay of what was taken back");
    drop(turn);
    assert_eq!(bench.effects(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_for_this_host_now_is_refused_each_with_its_code() {
    let mut bench = Bench::new().await;
    let now = crate::clock::Clock.wall();
    let past = |order: &mut OpStatement| (order.not_before, order.expires_at) = (UnixSeconds(now.0 - 1000), UnixSeconds(now.0 - 1));
    let future = |order: &mut OpStatement| (order.not_before, order.expires_at) = (now.plus(400), now.plus(500));
    let other = |order: &mut OpStatement| order.precondition = Some(Precondition { generation: Some(Generation(7)), state: None });
    for (json, code) in [
        (bench.order("restart", WEB, past).0, Code::Expired),
        (bench.order("restart", WEB, future).0, Code::NotYetValid),
        (bench.order("restart", WEB, other).0, Code::PreconditionFailed),
        (bench.order("restart", WEB, |o| o.root_version = 2).0, Code::RootBehind),
        (bench.order("explode", WEB, |_| {}).0, Code::UnknownKind),
        (bench.order("stop", WEB, |o| o.params = json!({ "x": 1 })).0, Code::BadParams),
        (bench.operator.order("exec", WEB, json!({ "argv": ["a"], "privileged": true }), |_| {}), Code::ClassDenied),
        (bench.operator.slice(1, json!({})), Code::WrongType),
        (b"{}".to_vec(), Code::BadEnvelope),
        (vec![b' '; OP_ENVELOPE_MAX + 1], Code::TooLarge),
    ] {
        assert_eq!(bench.refused(&json).await, code);
    }
    let records = bench.journal.records().len();
    bench.stop().await;
    assert_eq!((bench.journal.records().len(), bench.effects().len()), (records, 0));
}

#[tokio::test]
async fn only_what_has_not_begun_is_cancelled_and_only_what_is_in_doubt_is_resolved() {
    let bench = Bench::new().await;
    let done = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&done, State::Succeeded).await;
    let about = |kind: &str, resource: &str, params: Value| bench.operator.order(kind, resource, params, |_| {});
    assert_eq!(bench.refused(&about("cancel", WEB, json!({ "op_id": done }))).await, Code::TooLate);
    assert_eq!(bench.refused(&about("resolve", WEB, json!({ "op_id": done, "outcome": "failed" }))).await, Code::TooLate);
    assert_eq!(bench.refused(&about("cancel", DB, json!({ "op_id": done }))).await, Code::BadParams);
    let nobody = "0197a2b4-1c3d-7e5f-8a6b-0123456789ab";
    assert_eq!(bench.refused(&about("cancel", WEB, json!({ "op_id": nobody }))).await, Code::NotFound);
    bench.heard(&done, "succeeded").await;
    for word in [about("cancel", WEB, json!({ "op_id": done })), about("resolve", WEB, json!({ "op_id": done, "outcome": "failed" }))] {
        let Answer::Known(id) = bench.take(&word).await else { panic!("it is kept") };
        let fault = bench.receipt(&id).fault.unwrap();
        assert_eq!(fault.code, Code::TooLate);
        assert!(fault.message.contains("is succeeded"), "{}", fault.message);
    }
}

#[tokio::test]
async fn a_full_lane_refuses_before_it_promises() {
    let bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    for _ in 0..LANE_DEPTH_MAX {
        bench.accepted("restart", WEB, |_| {}).await;
    }
    let (json, id) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.refused(&json).await, Code::Busy);
    assert_eq!(bench.state(&id), None);
    drop(turn);
    let done = async {
        while bench.effects().len() < LANE_DEPTH_MAX {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.unwrap();
    assert_eq!(bench.take(&json).await, Answer::Known(id), "a refused key is free, and so is its nonce");
}

#[tokio::test]
async fn a_signed_refusal_stays_true_and_what_may_change_is_not_signed() {
    let mut bench = Bench::new().await;
    let for_two = |o: &mut OpStatement| o.precondition = Some(Precondition { generation: Some(Generation(2)), state: None });
    let (json, id) = bench.order("restart", WEB, for_two);
    assert_eq!(bench.refused(&json).await, Code::PreconditionFailed);
    assert_eq!(bench.receipt(&id).outcome, Outcome::Refused);
    bench.heard(&id, "refused").await;
    // Whoever has the bytes may hand them in again when it would fit.
    bench.slice(2).await;
    let Answer::Refused(fault) = bench.take(&json).await else { panic!("it was refused for good") };
    assert_eq!((fault.code, bench.effects().len()), (Code::NonceUsed, 0));
    // What a host does not know yet is no reason to sign that it will never be done.
    let (early, _) = bench.order("restart", WEB, |o| o.root_version = 2);
    assert!(matches!(bench.take(&early).await, Answer::Refused(Fault { code: Code::RootBehind, .. })));
}

#[tokio::test]
async fn a_refusal_after_the_end_is_never_signed() {
    let mut bench = Bench::new().await;
    let (json, id) = bench.order("restart", WEB, |_| {});
    bench.take(&json).await;
    bench.reached(&id, State::Succeeded).await;
    bench.heard(&id, "succeeded").await;
    let root = bench.operator.next_root(|root| root.expires = UnixSeconds(1));
    bench.intake.root(root).await.unwrap();
    let Answer::Refused(fault) = bench.take(&json).await else { panic!("a receipt about what was done") };
    assert_eq!(fault.code, Code::RootExpired);
}

#[tokio::test]
async fn a_host_does_no_more_than_its_policy_file_lets_it() {
    let all = |root: &mut TrustRoot| root.roles.get_mut("operator").unwrap().max_class = Class::P;
    for (op_class_max, ops_denied, kinds) in [
        (Class::R4, vec![], [None, None, Some(Code::PolicyDenied)]),
        (Class::P, vec![], [None, None, None]),
        (Class::R2, vec![], [None, Some(Code::PolicyDenied), Some(Code::PolicyDenied)]),
        (Class::P, vec!["exec".to_owned()], [None, Some(Code::PolicyDenied), Some(Code::PolicyDenied)]),
    ] {
        let bench = Bench::under(all, Policy { op_class_max, ops_denied, ..Policy::default() }).await;
        let exec = |privileged: bool| bench.operator.order("exec", WEB, json!({ "argv": ["a"], "privileged": privileged }), |_| {});
        for (json, refused) in [bench.order("stop", WEB, |_| {}).0, exec(false), exec(true)].into_iter().zip(kinds) {
            let Answer::Known(id) = bench.take(&json).await else { panic!("it is recorded either way") };
            let state = if refused.is_some() { State::Cancelled } else { State::Succeeded };
            bench.reached(&id, state).await;
            assert_eq!(bench.receipt(&id).fault.map(|f| f.code), refused, "{op_class_max}");
        }
    }
}

#[tokio::test]
async fn an_acceptance_that_is_not_recorded_has_no_effect_and_leaves_the_lane_free() {
    let bench = Bench::new().await;
    bench.journal.fill(true);
    let (json, id) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.refused(&json).await, Code::DiskFull);
    bench.journal.fill(false);
    let other = bench.accepted("stop", WEB, |_| {}).await;
    bench.reached(&other, State::Succeeded).await;
    assert_eq!((bench.state(&id), bench.effects()), (None, vec![format!("op:stop:{WEB}")]));
    assert_eq!(bench.take(&json).await, Answer::Known(id.clone()));
    bench.reached(&id, State::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_back_stays_so_also_when_a_restart_forgets_what_time_has_passed() {
    let clocks = set::Clocks::new(Clock.wall());
    let mut bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let now = Clock.wall();
    let (json, first) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.take(&json).await, Answer::Known(first.clone()));
    bench.take(&bench.operator.order("cancel", WEB, json!({ "op_id": first }), |_| {})).await;
    bench.heard(&first, "cancelled").await;
    drop(turn);
    tokio::time::sleep(Duration::from_secs(1500)).await;
    // Nothing of this is saved: the next order tells no later time than the first.
    let other = bench.accepted("restart", DB, |o| (o.not_before, o.expires_at) = (now, now.plus(3000))).await;
    bench.reached(&other, State::Succeeded).await;
    bench.kill().await;
    clocks.reboot();
    clocks.set_wall(now.plus(1));
    bench.start().await;
    assert_eq!(bench.refused(&json).await, Code::NonceUsed);
    assert_eq!(bench.effects(), [format!("op:restart:{DB}")]);
}

#[tokio::test]
async fn the_same_key_again_gets_no_signed_word_on_an_order_that_ended_before_it_began() {
    let bench = Bench::new().await;
    let key = |order: &mut OpStatement| order.idempotency_key = IdempotencyKey::parse("k").unwrap();
    let _turn = bench.in_the_way(WEB).await;
    let first = bench.accepted("restart", WEB, key).await;
    let (again, _) = bench.order("restart", WEB, key);
    assert_eq!(bench.take(&again).await, Answer::Known(first.clone()));
    bench.take(&bench.operator.order("cancel", WEB, json!({ "op_id": first }), |_| {})).await;
    let told = bench.agent().ops.standing(&bench.journal, &bench.own(), &first);
    let Some(Standing::Refused { payload_sha256, fault }) = told.get(1) else { panic!("{told:?}") };
    assert_eq!((payload_sha256, fault.code), (&Envelope::from_json(&again).unwrap().payload_sha256(), Code::Busy));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_fails_while_an_order_comes_in_does_not_keep_the_agent_from_stopping() {
    let mut bench = Bench::new().await;
    bench.journal.fail();
    let (json, id) = bench.order("restart", WEB, |_| {});
    let ops = bench.agent().ops.clone();
    let unanswered = tokio::spawn(async move { ops.take(json, None).await });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!unanswered.is_finished(), "nobody knows whether it is recorded");
    bench.stop().await;
    assert_eq!((unanswered.await.unwrap(), bench.state(&id)), (None, None));
}

#[tokio::test]
async fn an_order_whose_acceptance_failed_holds_no_lane_while_it_waits_for_the_engine() {
    let mut bench = Bench::new().await;
    bench.stop().await;
    bench.seats = 1;
    bench.start().await;
    bench.slice(1).await;
    bench.begun("restart", DB, |_| {}).await;
    bench.journal.fill(true);
    let (json, refused) = bench.order("restart", WEB, |_| {});
    assert_eq!(bench.refused(&json).await, Code::DiskFull);
    bench.journal.fill(false);
    let other = bench.accepted("stop", WEB, |_| {}).await;
    assert_eq!(bench.take(&json).await, Answer::Known(refused.clone()));
    bench.driver.hang_ops(false);
    bench.reached(&refused, State::Succeeded).await;
    assert_eq!(bench.effects(), [format!("op:restart:{DB}"), format!("op:stop:{WEB}"), format!("op:restart:{WEB}")]);
    assert_eq!(bench.state(&other), Some(State::Succeeded));
}
