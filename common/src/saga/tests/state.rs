//! What follows what, as a reader would want to see it.

use super::*;

/// Two side by side, then one, then one that cannot be undone.
fn fork() -> Saga {
    Saga::new(vec![step("left", 0, "a"), step("right", 0, "b"), step("join", 1, "c"), for_good("burn", 2)])
}

#[test]
fn steps_of_a_group_run_side_by_side_and_groups_one_after_the_other() {
    let mut saga = fork();
    assert_eq!((saga.status(), saga.begins()), (Status::Pending, vec!["0 do".to_owned(), "1 do".to_owned()]));
    saga.begin(0, Side::Do);
    saga.tried(1, Side::Do, done());
    assert_eq!(saga.begins(), [""; 0], "the other one of the group is under way");
    assert_eq!(saga.try_apply(&Event::Begin { step: 2, side: Side::Do }), Err(Illegal("it is not the turn of step 3, do".to_owned())));
    saga.ended(0, Side::Do, done());
    assert_eq!((saga.status(), saga.steps()), (Status::Running, vec!["completed", "completed", "pending", "pending"]));
    assert_eq!(saga.begins(), ["2 do"]);
    saga.tried(2, Side::Do, done());
    saga.begin(3, Side::Do);
    assert_eq!(saga.steps()[3], "running");
    saga.ended(3, Side::Do, done());
    assert_eq!((saga.status(), saga.steps()), (Status::Completed, vec!["completed"; 4]));
}

#[test]
fn after_a_failure_all_that_may_have_been_done_is_undone_in_reverse() {
    let mut saga = fork();
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, done());
    saga.tried(2, Side::Do, failed());
    assert_eq!((saga.status(), saga.begins()), (Status::Compensating, vec!["2 undo".to_owned()]));
    assert_eq!(saga.state.cause, Some(Cause::Failure { step: 2, signed: true }));
    saga.begin(2, Side::Undo);
    assert_eq!(saga.steps(), ["completed", "completed", "running", "pending"]);
    assert_eq!(saga.begins(), [""; 0]);
    saga.ended(2, Side::Undo, done());
    assert_eq!(saga.begins(), ["0 undo", "1 undo"]);
    saga.tried(1, Side::Undo, done());
    saga.tried(0, Side::Undo, done());
    assert_eq!((saga.status(), saga.steps()), (Status::RolledBack, vec!["compensated", "compensated", "compensated", "pending"]));
}

#[test]
fn what_surely_never_began_is_not_undone() {
    let mut saga = fork();
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, done());
    saga.tried(2, Side::Do, refused());
    assert_eq!(saga.begins(), ["0 undo", "1 undo"]);
    saga.tried(0, Side::Undo, done());
    saga.tried(1, Side::Undo, done());
    assert_eq!((saga.status(), saga.steps()), (Status::RolledBack, vec!["compensated", "compensated", "failed", "pending"]));
}

#[test]
fn a_step_whose_host_has_not_signed_for_each_try_that_it_never_began_is_asked_to_say_so_before_earlier_ones_are_undone() {
    // The second step of three has tries left, and the third one has not begun.
    let mut saga = Saga::new(vec![step("one", 0, "a"), tries(step("two", 1, "b"), 3, 1), step("three", 1, "c"), step("four", 2, "d")]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, refused());
    assert_eq!(saga.begins(), ["1 undo", "2 undo"]);
    saga.tried(1, Side::Undo, done());
    saga.tried(2, Side::Undo, done());
    assert_eq!(saga.steps(), ["completed", "failed", "pending", "pending"], "nothing of these was done, and nothing undone");
    saga.tried(0, Side::Undo, done());
    assert_eq!(saga.status(), Status::RolledBack);
}

#[test]
fn without_anything_earlier_to_undo_nobody_asks() {
    let mut saga = Saga::new(vec![tries(step("two", 0, "b"), 3, 1), step("three", 0, "c")]);
    saga.tried(0, Side::Do, refused());
    assert_eq!((saga.status(), saga.steps()), (Status::RolledBack, vec!["failed", "pending"]));
}

#[test]
fn a_failed_try_is_repeated_after_a_growing_wait() {
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 4, 1)]);
    for (attempt, wait_s) in [(1, 10), (2, 20), (3, 40)] {
        saga.tried(0, Side::Do, failed());
        assert_eq!((saga.status(), saga.steps()), (Status::Running, vec!["running"]));
        saga.now_ms += wait_s * 1000 - 1;
        let next = saga.state.next(&saga.plan, saga.now_ms);
        assert_eq!((next.begin.len(), next.wake_ms), (0, Some(saga.now_ms + 1)), "after try {attempt}");
        saga.try_apply(&Event::Begin { step: 0, side: Side::Do }).unwrap_err();
        saga.now_ms += 1;
        assert_eq!(saga.begins(), ["0 do"]);
    }
    saga.tried(0, Side::Do, failed());
    assert_eq!(saga.status(), Status::Compensating);
}

#[test]
fn the_wait_between_tries_is_an_hour_at_most() {
    let mut long = tries(step("one", 0, "a"), 2, 1);
    long.run.backoff_s = 7200;
    let mut saga = Saga::new(vec![long]);
    saga.tried(0, Side::Do, failed());
    assert_eq!(saga.state.next(&saga.plan, 0).wake_ms, Some(3_600_000));
}

#[test]
fn a_failure_that_no_try_mends_is_not_tried_again() {
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 4, 1)]);
    saga.tried(0, Side::Do, End::Failed { fault: fault(Code::PolicyDenied), effect: true, signed: true, again: false });
    assert_eq!((saga.status(), saga.begins()), (Status::Compensating, vec!["0 undo".to_owned()]));
}

#[test]
fn an_earlier_try_that_may_have_had_an_effect_is_not_forgotten() {
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 2, 1)]);
    saga.tried(0, Side::Do, failed());
    saga.now_ms += 10_000;
    saga.tried(0, Side::Do, refused());
    assert_eq!(saga.begins(), ["0 undo"]);
}

#[test]
fn an_abort_before_anything_began_cancels() {
    let mut saga = fork();
    saga.say(Verb::Abort { begun: 0 });
    assert_eq!((saga.status(), saga.steps()), (Status::Cancelled, vec!["pending"; 4]));
}

#[test]
fn an_abort_waits_for_the_tries_that_are_under_way() {
    let mut saga = fork();
    saga.begin(0, Side::Do);
    saga.say(Verb::Abort { begun: 1 });
    assert_eq!((saga.status(), saga.begins()), (Status::Running, Vec::new()), "nothing further begins");
    saga.ended(0, Side::Do, done());
    assert_eq!((saga.status(), saga.state.cause), (Status::Compensating, Some(Cause::Abort)));
    assert_eq!(saga.begins(), ["0 undo"]);
    saga.try_apply(&Event::Said(saga.abort())).unwrap_err();
    saga.tried(0, Side::Undo, done());
    assert_eq!(saga.status(), Status::RolledBack);
}

#[test]
fn an_abort_names_as_many_groups_as_have_begun() {
    let mut saga = fork();
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, done());
    saga.begin(2, Side::Do);
    for begun in [0, 1, 3] {
        let refused = saga.try_apply(&Event::Said(Verb::Abort { begun })).unwrap_err();
        assert!(refused.0.starts_with("2 groups have begun by now"), "{refused}");
    }
    saga.say(Verb::Abort { begun: 2 });
}

#[test]
fn an_abandoned_saga_stays_as_it_is() {
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 2, 1), step("two", 1, "b")]);
    saga.tried(0, Side::Do, failed());
    saga.say(Verb::Abandon);
    assert_eq!((saga.status(), saga.steps()), (Status::Abandoned, vec!["failed", "pending"]), "what waited for its next try waits no more");
    assert_eq!(saga.state.next(&saga.plan, u64::MAX), Next::default());
}

#[test]
fn nothing_follows_an_end() {
    let end = |how: fn(&mut Saga)| {
        let mut saga = Saga::new(vec![step("one", 0, "a")]);
        how(&mut saga);
        saga
    };
    for mut saga in [
        end(|saga| saga.tried(0, Side::Do, done())),
        end(|saga| {
            saga.tried(0, Side::Do, failed());
            saga.tried(0, Side::Undo, done());
        }),
        end(|saga| saga.say(Verb::Abort { begun: 0 })),
        end(|saga| {
            saga.begin(0, Side::Do);
            saga.say(Verb::Abandon);
        }),
    ] {
        assert!(saga.status().is_final());
        let (step, side) = (0, Side::Do);
        let before = saga.state.clone();
        for event in [
            Event::Begin { step, side },
            Event::Ended { step, side, attempt: 1, end: done() },
            Event::Late { step, side },
            Event::Wait { step, fault: fault(Code::Waiting) },
            Event::Said(Verb::Abandon),
            Event::Said(saga.abort()),
            Event::Said(Verb::Skip { step, side }),
            Event::Said(saga.retry(step, side)),
        ] {
            let why = saga.try_apply(&event).unwrap_err();
            assert!(why.0.ends_with("nothing about it changes any more"), "{why}");
        }
        assert_eq!(saga.state, before);
    }
}

#[test]
fn a_step_waits_for_its_conditions_from_the_first_time_that_they_were_found_not_to_hold() {
    let mut saga = Saga::new(vec![step("one", 0, "a")]);
    let waits = |what: &str| Event::Wait { step: 0, fault: Fault::new(Code::Waiting, what) };
    saga.now_ms = 5000;
    saga.apply(&waits("for a"));
    assert_eq!((saga.status(), saga.steps()), (Status::Pending, vec!["pending"]));
    assert_eq!(saga.state.next(&saga.plan, 5000).wake_ms, Some(65_000));
    saga.now_ms = 64_999;
    saga.apply(&waits("for b"));
    assert!(saga.state.next(&saga.plan, 64_999).late.is_empty());
    saga.now_ms = 65_000;
    saga.apply(&waits("for b"));
    assert_eq!(saga.state.next(&saga.plan, 65_000).late, [(0, Side::Do)], "another note does not make its time longer");
    assert_eq!(saga.begins(), ["0 do"], "it begins should they hold at last");
    saga.late(0, Side::Do);
    assert_eq!((saga.status(), saga.steps()), (Status::RolledBack, vec!["failed"]));
}

#[test]
fn a_step_whose_conditions_come_to_hold_begins() {
    let mut saga = Saga::new(vec![step("one", 0, "a")]);
    saga.apply(&Event::Wait { step: 0, fault: fault(Code::Waiting) });
    saga.begin(0, Side::Do);
    assert_eq!(saga.state.line(0, Side::Do).unwrap().fault, None);
    saga.ended(0, Side::Do, done());
    assert_eq!(saga.status(), Status::Completed);
}

#[test]
fn a_further_try_waits_for_its_conditions_as_the_first_one_does() {
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 2, 1)]);
    saga.tried(0, Side::Do, failed());
    saga.now_ms = 10_000;
    saga.apply(&Event::Wait { step: 0, fault: fault(Code::Waiting) });
    assert_eq!(saga.begins(), ["0 do"], "its conditions are looked at again at any time");
    saga.now_ms = 70_000;
    assert_eq!(saga.state.next(&saga.plan, saga.now_ms).late, [(0, Side::Do)]);
    saga.late(0, Side::Do);
    // Nobody has signed that its time is over.
    assert_eq!((saga.state.cause, saga.stuck()), (Some(Cause::Failure { step: 0, signed: false }), Some(StuckWhy::Unproven)));
}

#[test]
fn a_step_that_an_operator_took_out_is_passed_over() {
    let mut saga = fork();
    saga.say(Verb::Skip { step: 0, side: Side::Do });
    saga.tried(1, Side::Do, done());
    saga.tried(2, Side::Do, done());
    saga.try_apply(&Event::Said(Verb::Skip { step: 2, side: Side::Do })).unwrap_err();
    saga.try_apply(&Event::Said(Verb::Skip { step: 2, side: Side::Undo })).unwrap_err();
    saga.tried(3, Side::Do, done());
    assert_eq!((saga.status(), saga.steps()), (Status::Completed, vec!["skipped", "completed", "completed", "completed"]));
}

#[test]
fn orders_of_a_second_word_count_behind_all_that_were_signed_before() {
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 2, 1), bare("two", 1, on_hub(1))]);
    saga.tried(0, Side::Do, refused());
    assert_eq!(saga.status(), Status::RolledBack);
    let mut saga = Saga::new(vec![step("zero", 0, "a"), tries(bare("one", 1, on_host("a", "start", 2)), 2, 1)]);
    saga.tried(0, Side::Do, done());
    let for_nobody = End::Failed { fault: fault(Code::Internal), effect: false, signed: false, again: false };
    saga.tried(1, Side::Do, for_nobody.clone());
    let orders = |names: &[&str]| names.iter().map(|name| sha256_hex(name.as_bytes())).collect::<Vec<_>>();
    saga.say(Verb::Retry { step: 1, side: Side::Do, orders: orders(&["x", "y"]) });
    saga.tried(1, Side::Do, for_nobody);
    saga.say(Verb::Retry { step: 1, side: Side::Do, orders: orders(&["z"]) });
    saga.begin(1, Side::Do);
    let line = saga.state.line(1, Side::Do).unwrap();
    let task = saga.plan.task(1, Side::Do).unwrap();
    assert_eq!((line.attempt, line.order(task, 5)), (5, orders(&["z"]).first().map(String::as_str)));
    assert_eq!(line.order(task, 4), orders(&["y"]).first().map(String::as_str));
}

#[test]
fn a_word_allows_so_many_tries_each_with_an_order() {
    let mut saga = Saga::new(vec![step("zero", 0, "a"), bare("host", 1, on_host("b", "start", 1)), bare("hub", 1, on_hub(2))]);
    saga.tried(0, Side::Do, done());
    saga.try_apply(&Event::Said(saga.retry(1, Side::Do))).unwrap_err();
    saga.begin(1, Side::Do);
    saga.begin(2, Side::Do);
    saga.ended(1, Side::Do, claimed());
    saga.ended(2, Side::Do, End::Failed { fault: fault(Code::Internal), effect: false, signed: false, again: false });
    let say = |saga: &mut Saga, step, orders: Vec<String>| saga.try_apply(&Event::Said(Verb::Retry { step, side: Side::Do, orders }));
    let many = |count: u32| (1..=count).map(|n| order_hash(1, Side::Do, n)).collect::<Vec<_>>();
    say(&mut saga, 1, Vec::new()).unwrap_err();
    say(&mut saga, 1, many(17)).unwrap_err();
    say(&mut saga, 1, vec!["no hash".to_owned()]).unwrap_err();
    say(&mut saga, 2, many(1)).unwrap_err();
    say(&mut saga, 9, Vec::new()).unwrap_err();
    say(&mut saga, 2, Vec::new()).unwrap();
    say(&mut saga, 1, many(16)).unwrap();
    assert_eq!(saga.begins(), ["1 do", "2 do"]);
}
