//! Why a saga stands still, and what brings it on.

use super::*;

/// A step that is done, then two side by side that are tried twice.
fn begun() -> Saga {
    let mut saga = Saga::new(vec![step("one", 0, "a"), step("two", 1, "b"), step("three", 1, "c")]);
    saga.tried(0, Side::Do, done());
    saga
}

/// Past the point of return: of two steps that cannot be undone the first is done.
fn past_return() -> Saga {
    let mut saga = Saga::new(vec![step("one", 0, "a"), for_good("burn", 1), for_good("bury", 2)]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, done());
    saga
}

/// What undoes the last step has failed for good.
fn undo_failed() -> Saga {
    let mut saga = Saga::new(vec![step("one", 0, "a"), step("two", 1, "b")]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, failed());
    saga.tried(1, Side::Undo, failed());
    saga
}

#[track_caller]
fn assert_stuck(saga: &Saga, why: StuckWhy, remedy: &str) {
    let stuck = saga.state.stuck(&saga.plan).expect("it is not stuck");
    assert_eq!((saga.status(), stuck.why), (Status::Stuck, why));
    assert_eq!(stuck.remedy(&saga.plan).replace(SAGA, "ID"), remedy);
    assert!(saga.begins().is_empty());
}

#[track_caller]
fn assert_resolves(saga: &mut Saga) {
    saga.say(saga.remedy());
    assert_eq!(saga.stuck(), None, "{:?}", saga.state);
}

#[test]
fn a_failure_that_no_host_signed_undoes_nothing_on_hosts_until_an_operator_aborts() {
    let mut saga = begun();
    saga.tried(1, Side::Do, claimed());
    assert_stuck(&saga, StuckWhy::Unproven, "moorctl saga abort ID");
}

#[test]
fn a_failure_that_was_signed_but_might_be_mended_by_another_try_undoes_nothing_on_hosts() {
    let mut saga = Saga::new(vec![step("one", 0, "a"), tries(step("two", 1, "b"), 2, 1)]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, End::Failed { fault: fault(Code::OpFailed), effect: true, signed: true, again: false });
    assert_stuck(&saga, StuckWhy::Unproven, "moorctl saga abort ID");
}

#[test]
fn what_the_hub_did_the_hub_undoes_without_any_signature() {
    let hub = Step { undo: Some(on_hub(1)), ..bare("hub", 1, on_hub(1)) };
    let mut saga = Saga::new(vec![step("one", 0, "a"), hub]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, claimed());
    assert_eq!((saga.status(), saga.begins()), (Status::Compensating, vec!["1 undo".to_owned()]));
    saga.tried(1, Side::Undo, done());
    assert_stuck(&saga, StuckWhy::Unproven, "moorctl saga abort ID");
    saga.try_apply(&Event::Said(saga.retry(1, Side::Do))).unwrap_err();
    assert_resolves(&mut saga);
    saga.tried(0, Side::Undo, done());
    assert_eq!(saga.status(), Status::RolledBack);
}

#[test]
fn a_saga_that_cannot_prove_its_failure_may_still_go_forward() {
    for skip in [false, true] {
        let mut saga = begun();
        saga.tried(1, Side::Do, claimed());
        saga.say(if skip { Verb::Skip { step: 1, side: Side::Do } } else { saga.retry(1, Side::Do) });
        assert_eq!((saga.status(), saga.state.cause), (Status::Running, None));
        if !skip {
            saga.tried(1, Side::Do, done());
        }
        saga.tried(2, Side::Do, done());
        assert_eq!(saga.status(), Status::Completed);
    }
}

#[test]
fn a_late_answer_brings_the_signature_that_was_missing() {
    let mut saga = begun();
    saga.begin(1, Side::Do);
    saga.begin(2, Side::Do);
    saga.ended(1, Side::Do, claimed());
    saga.late(2, Side::Do);
    assert_stuck(&saga, StuckWhy::Unproven, "moorctl saga abort ID");
    saga.ended(2, Side::Do, failed());
    assert_eq!((saga.status(), saga.begins()), (Status::Compensating, vec!["1 undo".to_owned(), "2 undo".to_owned()]));
}

#[test]
fn past_the_point_of_return_there_is_no_way_but_on() {
    let mut saga = past_return();
    saga.tried(2, Side::Do, failed());
    assert_stuck(&saga, StuckWhy::PastReturn, "moorctl saga retry ID bury");
    let refused = saga.try_apply(&Event::Said(saga.abort())).unwrap_err();
    assert!(refused.0.starts_with("a step that cannot be undone may have been done"), "{refused}");
    assert_resolves(&mut saga);
    saga.tried(2, Side::Do, done());
    assert_eq!((saga.status(), saga.steps()), (Status::Completed, vec!["completed"; 3]));
}

#[test]
fn a_step_that_cannot_be_undone_and_never_began_does_not_hinder_the_way_back() {
    let mut saga = Saga::new(vec![step("one", 0, "a"), for_good("burn", 1)]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, refused());
    assert_eq!(saga.begins(), ["0 undo"]);
}

#[test]
fn where_nobody_signed_that_what_cannot_be_undone_never_began_an_operator_has_to_say_so() {
    let mut saga = Saga::new(vec![step("one", 0, "a"), for_good("burn", 1), for_good("bury", 1)]);
    saga.tried(0, Side::Do, done());
    saga.tried(1, Side::Do, refused());
    assert_stuck(&saga, StuckWhy::Unproven, "moorctl saga abort ID");
    assert_resolves(&mut saga);
}

#[test]
fn an_undo_that_fails_for_good_is_tried_again_or_taken_out_by_an_operator() {
    let mut saga = undo_failed();
    assert_stuck(&saga, StuckWhy::Undo, "moorctl saga retry ID two --undo");
    assert_eq!(saga.steps(), ["completed", "failed"]);
    assert_resolves(&mut saga);
    assert_eq!(saga.begins(), ["1 undo"]);
    let mut saga = undo_failed();
    saga.say(Verb::Skip { step: 1, side: Side::Undo });
    assert_eq!((saga.steps(), saga.begins()), (vec!["completed", "skipped"], vec!["0 undo".to_owned()]));
    saga.tried(0, Side::Undo, done());
    assert_eq!(saga.status(), Status::RolledBack);
}

#[test]
fn going_back_nothing_is_done_anew() {
    let mut saga = undo_failed();
    for verb in [saga.retry(1, Side::Do), Verb::Skip { step: 1, side: Side::Do }] {
        let refused = saga.try_apply(&Event::Said(verb)).unwrap_err();
        assert!(refused.0.starts_with("the saga goes back"), "{refused}");
    }
}

#[test]
fn who_is_silent_is_waited_for_and_a_late_answer_mends_it() {
    let mut saga = begun();
    saga.begin(1, Side::Do);
    saga.begin(2, Side::Do);
    saga.now_ms = 60_000;
    assert_eq!(saga.state.next(&saga.plan, saga.now_ms).late, [(1, Side::Do), (2, Side::Do)]);
    saga.late(1, Side::Do);
    assert_eq!(saga.status(), Status::Running, "the other one may answer yet");
    saga.ended(2, Side::Do, done());
    assert_stuck(&saga, StuckWhy::Silent, "moorctl saga abort ID");
    assert_eq!(saga.steps(), ["completed", "running", "completed"]);
    saga.ended(1, Side::Do, done());
    assert_eq!(saga.status(), Status::Completed);
}

#[test]
fn what_is_silent_is_undone_after_an_abort() {
    let mut saga = begun();
    saga.begin(1, Side::Do);
    saga.late(1, Side::Do);
    assert_resolves(&mut saga);
    assert_eq!(saga.begins(), ["1 undo", "2 undo"], "and `three` never began: its host says so");
    saga.begin(1, Side::Undo);
    saga.late(1, Side::Undo);
    saga.tried(2, Side::Undo, done());
    assert_stuck(&saga, StuckWhy::Silent, "moorctl saga skip ID two --undo");
    assert_resolves(&mut saga);
    assert_eq!(saga.begins(), ["0 undo"]);
}

#[test]
fn who_is_silent_past_the_point_of_return_can_only_be_taken_out() {
    let mut saga = past_return();
    saga.begin(2, Side::Do);
    saga.late(2, Side::Do);
    assert_stuck(&saga, StuckWhy::Silent, "moorctl saga skip ID bury");
    assert_resolves(&mut saga);
    assert_eq!(saga.status(), Status::Completed);
}

#[test]
fn a_doubt_is_an_operators_to_resolve() {
    let doubtful = || {
        let mut saga = begun();
        saga.begin(1, Side::Do);
        saga.begin(2, Side::Do);
        saga.ended(1, Side::Do, doubt());
        saga.ended(2, Side::Do, done());
        saga
    };
    let remedy = "moorctl op ls --open, then moorctl op resolve; or moorctl saga skip ID two";
    assert_stuck(&doubtful(), StuckWhy::Doubt, remedy);
    for (end, status) in [(done(), Status::Completed), (failed(), Status::Compensating)] {
        let mut saga = doubtful();
        saga.ended(1, Side::Do, end);
        assert_eq!(saga.status(), status);
    }
    let mut saga = doubtful();
    assert_resolves(&mut saga);
    assert_eq!(saga.status(), Status::Completed);
    let mut saga = doubtful();
    saga.say(saga.abort());
    assert_eq!(saga.begins(), ["1 undo", "2 undo"], "what may have been done is undone");
}

#[test]
fn an_undo_that_waits_for_a_doubt_to_be_resolved_says_so() {
    let mut saga = Saga::new(vec![step("one", 0, "a")]);
    saga.tried(0, Side::Do, doubt());
    saga.say(saga.abort());
    saga.begin(0, Side::Undo);
    saga.late(0, Side::Undo);
    assert_stuck(&saga, StuckWhy::Doubt, "moorctl op ls --open, then moorctl op resolve; or moorctl saga skip ID one --undo");
    assert_resolves(&mut saga);
    assert_eq!(saga.status(), Status::RolledBack);
}

#[test]
fn a_doubt_of_an_undo_is_resolved_in_the_same_way() {
    let mut saga = undo_failed();
    saga.say(saga.retry(1, Side::Undo));
    saga.tried(1, Side::Undo, doubt());
    assert_stuck(&saga, StuckWhy::Doubt, "moorctl op ls --open, then moorctl op resolve; or moorctl saga skip ID two --undo");
    saga.ended(1, Side::Undo, done());
    assert_eq!(saga.begins(), ["0 undo"]);
}

#[test]
fn what_is_stuck_is_told_with_its_step_and_what_is_left() {
    let words = |saga: &Saga| saga.state.stuck(&saga.plan).unwrap().words(&saga.plan, &saga.state);
    assert_eq!(
        words(&undo_failed()),
        "what undoes step 2 (`two`) failed for good: so it is [op_failed]; \
         left: `one` (start docker/container/c on a), `two` (start docker/container/c on b)"
    );
    let mut saga = begun();
    saga.tried(1, Side::Do, claimed());
    let said = words(&saga);
    assert!(said.starts_with("step `two` failed and no host signed that, so no host undoes anything; left: `one` ("), "{said}");
}

#[test]
fn what_is_under_way_is_not_taken_out() {
    let mut saga = begun();
    saga.begin(1, Side::Do);
    let refused = saga.try_apply(&Event::Said(Verb::Skip { step: 1, side: Side::Do })).unwrap_err();
    assert!(refused.0.ends_with("is under way: wait until it has ended"), "{refused}");
}
