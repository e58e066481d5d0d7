//! Whose turn it is, by what is shown and what a host knows itself.

use super::*;
use crate::op::{Outcome, Receipt};

/// `one` and `two` side by side on hosts `a` and `b`; `three` on host `a` and `four` on `c`; `five` on `b`, that undoes nothing.
fn steps() -> Plan {
    let steps = vec![
        step("one", 0, "a"),
        tries(step("two", 0, "b"), 2, 2),
        step("three", 1, "a"),
        tries(step("four", 1, "c"), 2, 1),
        bare("five", 2, on_host("b", "start", 1)),
    ];
    plan(steps)
}

/// A step on host `a`, one of the hub's, a reversible and a disruptive one on `b`, and one on `d` that cannot be undone.
fn with_hub() -> Plan {
    let mut plan = plan(vec![
        step("one", 0, "a"),
        Step { undo: Some(on_hub(1)), ..bare("hub", 1, on_hub(1)) },
        step("two", 2, "b"),
        bare("rough", 2, on_host("b", "destroy", 1)),
        for_good("burn", 3),
        for_good("bury", 3),
    ]);
    plan.steps.iter_mut().filter(|step| step.name == "bury").for_each(|step| step.run = on_hub(1));
    plan
}

type Try = (StepNumber, Side, u32);
use Side::{Do, Undo};

/// What is shown and known, and what comes of it.
struct Case {
    plan: Plan,
    receipts: Vec<Receipt>,
    words: Vec<Verb>,
    own: Vec<(Try, Own)>,
}

impl Case {
    fn of(plan: Plan) -> Self {
        Self { plan, receipts: Vec::new(), words: Vec::new(), own: Vec::new() }
    }

    fn says(mut self, of: Try, outcome: Outcome, code: Option<Code>) -> Self {
        self.receipts.push(receipt(&self.plan, of.0, of.1, of.2, outcome, code));
        self
    }

    fn done(self, of: Try) -> Self {
        self.says(of, Outcome::Succeeded, None)
    }

    fn failed(self, of: Try) -> Self {
        self.says(of, Outcome::Failed, Some(Code::OpFailed))
    }

    fn refused(self, of: Try, code: Code) -> Self {
        self.says(of, Outcome::Refused, Some(code))
    }

    fn said(mut self, verb: Verb) -> Self {
        self.words.push(verb);
        self
    }

    fn knows(mut self, of: Try, own: Own) -> Self {
        self.own.push((of, own));
        self
    }

    fn knows_done(self, of: Try) -> Self {
        self.knows(of, Own::Succeeded { result: Value::Null })
    }

    fn judge(&self, of: Try) -> Result<Turn, Fault> {
        let shown = Shown {
            plan: self.plan.clone(),
            words: self.words.iter().map(|verb| word(&self.plan, verb.clone())).collect(),
            receipts: self.receipts.clone(),
        };
        let own = |of: &OfSaga| self.own.iter().find(|(t, _)| *t == (of.step, of.side, of.attempt)).map(|(_, own)| own.clone());
        shown.judge(&order(&self.plan, of.0, of.1, of.2), &order_hash(of.0, of.1, of.2), own)
    }

    #[track_caller]
    fn goes(self, of: Try) -> Self {
        assert_eq!(self.judge(of), Ok(Turn::Go { incarnation: None }));
        self
    }

    #[track_caller]
    fn unproven(self, of: Try, said: &str) -> Self {
        self.refuses(of, Code::SagaUnproven, said)
    }

    #[track_caller]
    fn out_of_order(self, of: Try, said: &str) -> Self {
        self.refuses(of, Code::SagaOutOfOrder, said)
    }

    #[track_caller]
    fn refuses(self, of: Try, code: Code, said: &str) -> Self {
        let refused = self.judge(of).unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.message.contains(said), "`{refused}` does not say `{said}`");
        self
    }
}

const THREE: Try = (2, Do, 1);

#[test]
fn steps_of_the_first_group_need_no_proof() {
    Case::of(steps()).goes((0, Do, 1)).goes((1, Do, 1)).goes((1, Do, 2));
}

#[test]
fn a_step_begins_when_all_before_it_are_done_or_taken_out() {
    Case::of(steps())
        .unproven(THREE, "step 1 (`one`) is done")
        .done((0, Do, 1))
        .unproven(THREE, "step 2 (`two`) is done")
        .failed((1, Do, 1))
        .unproven(THREE, "step 2 (`two`) is done")
        .done((1, Do, 2))
        .goes(THREE);
    let skip = |step, side| Verb::Skip { step, side };
    Case::of(steps()).done((0, Do, 1)).said(skip(1, Undo)).unproven(THREE, "step 2").said(skip(1, Do)).goes(THREE);
    Case::of(steps()).knows_done((0, Do, 1)).done((1, Do, 1)).goes(THREE);
    Case::of(steps()).knows((0, Do, 1), Own::Failed).done((1, Do, 1)).unproven(THREE, "step 1");
    Case::of(steps()).knows((0, Do, 1), Own::Open).done((1, Do, 1)).unproven(THREE, "step 1");
}

#[test]
fn nothing_begins_after_an_abort_or_where_something_was_undone() {
    let ready = || Case::of(steps()).done((0, Do, 1)).done((1, Do, 1));
    ready().said(Verb::Abort { begun: 1 }).out_of_order(THREE, "an operator wants the saga to go back");
    ready().knows_done((0, Undo, 1)).out_of_order(THREE, "this host has begun to undo");
    ready().knows((0, Undo, 1), Own::Failed).out_of_order(THREE, "this host has begun to undo");
    // It also knows of tries whose word it is not shown.
    ready().knows_done((0, Undo, 9)).out_of_order(THREE, "this host has begun to undo");
}

#[test]
fn no_try_begins_beside_another_or_after_one_that_has_done_it() {
    let two = |attempt| (1, Do, attempt);
    Case::of(steps()).knows(two(1), Own::Failed).goes(two(2));
    Case::of(steps()).knows_done(two(1)).out_of_order(two(2), "another try has done it");
    Case::of(steps()).knows(two(1), Own::Open).out_of_order(two(2), "another try is under way");
    Case::of(steps()).knows_done(two(2)).out_of_order(two(1), "another try has done it");
    let undone = || Case::of(steps()).knows_done(two(1)).said(Verb::Abort { begun: 1 });
    undone().goes((1, Undo, 1)).knows((1, Undo, 1), Own::Failed).goes((1, Undo, 2));
    undone().knows_done((1, Undo, 1)).out_of_order((1, Undo, 2), "another try has done it");
}

#[test]
fn the_hubs_word_is_enough_for_what_can_be_undone() {
    let ready = || Case::of(with_hub()).done((0, Do, 1));
    ready().goes((2, Do, 1)).unproven((3, Do, 1), "the hub's word is not enough for an operation of class R3");
    ready().said(Verb::Skip { step: 1, side: Do }).goes((3, Do, 1));
}

#[test]
fn only_what_was_signed_is_done() {
    let bad = |spoil: fn(&mut Plan), of: Try, said: &str| {
        let case = Case::of(steps());
        let mut shown = Shown { plan: case.plan.clone(), words: Vec::new(), receipts: Vec::new() };
        spoil(&mut shown.plan);
        let refused = shown.judge(&order(&case.plan, of.0, of.1, of.2), &order_hash(of.0, of.1, of.2), |_| None).unwrap_err();
        assert_eq!(refused.code, Code::BadSaga);
        assert!(refused.message.contains(said), "{refused}");
    };
    let one = (0, Do, 1);
    bad(|plan| plan.saga_id = SagaId::parse(SAGA.replace("0197", "0198")).unwrap(), one, "is another saga's");
    bad(|plan| plan.steps.truncate(2), THREE, "has no such step");
    bad(|plan| plan.steps[0].run = on_hub(1), one, "has no operation on a host there");
    bad(|plan| plan.steps[0].undo = None, (0, Undo, 1), "has no operation on a host there");
    bad(|plan| plan.steps[0].run = on_host("a", "stop", 1), one, "says something else");
    bad(|plan| plan.steps[0].run = on_host("b", "start", 1), one, "says something else");
    bad(|_| (), (0, Do, 2), "none of those that were signed");
    let case = Case::of(steps());
    let judge = |order: &crate::op::Order, hash: &str| {
        let shown = Shown { plan: case.plan.clone(), words: Vec::new(), receipts: Vec::new() };
        shown.judge(order, hash, |_| None).unwrap_err().code
    };
    let mut order = order(&case.plan, 0, Do, 1);
    assert_eq!(judge(&order, &order_hash(1, Do, 1)), Code::BadSaga, "another step's order");
    order.statement.saga = None;
    assert_eq!(judge(&order, &order_hash(0, Do, 1)), Code::BadSaga, "no saga's order");
}

#[test]
fn orders_of_words_count_behind_the_plans() {
    let more = |attempt| Verb::Retry { step: 0, side: Do, orders: vec![order_hash(0, Do, attempt)] };
    let third = (0, Do, 3);
    Case::of(steps()).refuses(third, Code::BadSaga, "none of those").said(more(3)).refuses(third, Code::BadSaga, "none of those");
    Case::of(steps()).said(more(2)).said(more(3)).goes(third).goes((0, Do, 2));
}

#[test]
fn what_never_began_needs_no_undoing_and_no_proof() {
    assert_eq!(Case::of(steps()).judge((0, Undo, 1)), Ok(Turn::Nothing));
    // An order of a word that is not shown is not forgotten.
    Case::of(steps()).knows_done((0, Do, 9)).unproven((0, Undo, 1), "that a step failed for good");
}

#[test]
fn a_step_is_undone_after_an_abort_or_a_failure_for_good() {
    let begun = || Case::of(steps()).knows_done((0, Do, 1));
    let one = (0, Undo, 1);
    begun().unproven(one, "that a step failed for good").said(Verb::Abort { begun: 1 }).goes(one);
    begun().said(Verb::Abandon).unproven(one, "that a step failed for good");
    begun().failed((1, Do, 1)).unproven(one, "failed for good").failed((1, Do, 2)).goes(one);
    begun().failed((1, Do, 2)).done((1, Do, 1)).unproven(one, "failed for good");
    for (outcome, code, is_proof) in [
        (Outcome::Failed, Code::PolicyDenied, true),
        (Outcome::Cancelled, Code::Cancelled, true),
        (Outcome::Expired, Code::Expired, true),
        (Outcome::Refused, Code::PolicyDenied, true),
        (Outcome::Refused, Code::UnknownKind, true),
        (Outcome::Failed, Code::OpFailed, false),
        (Outcome::Refused, Code::PreconditionFailed, false),
        (Outcome::Indeterminate, Code::Indeterminate, false),
    ] {
        let case = begun().says((1, Do, 1), outcome, Some(code));
        let case = if is_proof { case.goes(one) } else { case.unproven(one, "failed for good") };
        // The last try of what is signed proves more.
        if outcome != Outcome::Indeterminate {
            case.says((1, Do, 2), outcome, Some(code)).goes(one);
        }
    }
}

#[test]
fn a_refusal_that_anybody_can_have_proves_nothing() {
    for code in Code::ALL.iter().copied() {
        let is_of_the_turn =
            matches!(
                code,
                Code::SagaUnproven | Code::SagaOutOfOrder | Code::BadSaga | Code::BadSignature | Code::BadEnvelope | Code::UnknownKey
            ) || matches!(code, Code::Expired | Code::NotYetValid | Code::NonceUsed | Code::Busy | Code::TooLarge | Code::OutOfScope);
        if is_of_the_turn {
            let case = Case::of(steps()).knows_done((0, Do, 1)).refused((1, Do, 1), code).refused((1, Do, 2), code);
            case.unproven((0, Undo, 1), "failed for good");
        }
    }
}

#[test]
fn the_last_order_of_a_word_counts_as_the_last_of_the_plan_does() {
    let word = Verb::Retry { step: 1, side: Do, orders: vec![order_hash(1, Do, 3), order_hash(1, Do, 4)] };
    let case = || Case::of(steps()).knows_done((0, Do, 1)).said(word.clone());
    case().failed((1, Do, 3)).unproven((0, Undo, 1), "failed for good").failed((1, Do, 4)).goes((0, Undo, 1));
}

#[test]
fn a_step_is_undone_after_all_that_came_later() {
    let one = (0, Undo, 1);
    let aborted = |begun| Case::of(steps()).knows_done((0, Do, 1)).said(Verb::Abort { begun });
    aborted(1).goes(one);
    aborted(2)
        .knows_done(THREE)
        .unproven(one, "step 3 (`three`)")
        .done((2, Undo, 1))
        .unproven(one, "step 4 (`four`)")
        .done((3, Undo, 1))
        .goes(one);
    // What the host itself knows never to have begun needs no undoing.
    aborted(2).unproven(one, "step 4 (`four`)").done((3, Undo, 1)).goes(one);
    let rest = || aborted(2).knows_done((2, Undo, 1));
    rest().unproven(one, "step 4").said(Verb::Skip { step: 3, side: Do }).unproven(one, "step 4");
    rest().said(Verb::Skip { step: 3, side: Undo }).goes(one);
    rest().says((3, Undo, 1), Outcome::Failed, Some(Code::NotFound)).goes(one);
    rest().failed((3, Undo, 1)).unproven(one, "step 4");
    rest().refused((3, Do, 1), Code::PolicyDenied).unproven(one, "step 4").refused((3, Do, 2), Code::PolicyDenied).goes(one);
    rest().refused((3, Do, 1), Code::Busy).refused((3, Do, 2), Code::Busy).unproven(one, "step 4");
    rest().failed((3, Do, 1)).refused((3, Do, 2), Code::PolicyDenied).unproven(one, "step 4");
    // The step itself and those beside it are no matter.
    aborted(2).knows_done(THREE).goes((2, Undo, 1));
}

#[test]
fn who_shows_a_failure_reaches_as_far_as_its_group_and_what_is_known_to_have_begun() {
    let one = (0, Undo, 1);
    let failed = || Case::of(steps()).knows_done((0, Do, 1)).failed((1, Do, 2));
    failed().goes(one);
    failed().knows_done(THREE).unproven(one, "step 3 (`three`)");
    failed().done((3, Do, 1)).unproven(one, "step 4 (`four`)");
    Case::of(steps()).knows_done((0, Do, 1)).failed((4, Do, 1)).unproven(one, "step 4 (`four`)");
}

#[test]
fn nothing_is_undone_past_the_point_of_return() {
    let one = (0, Undo, 1);
    let aborted = || Case::of(with_hub()).knows_done((0, Do, 1)).done((2, Undo, 1)).said(Verb::Abort { begun: 4 });
    aborted().goes(one);
    aborted().done((4, Do, 1)).out_of_order(one, "a step that cannot be undone has begun");
    aborted().failed((4, Do, 1)).out_of_order(one, "a step that cannot be undone has begun");
    aborted().refused((4, Do, 1), Code::PolicyDenied).goes(one);
    // Nobody signs whether the hub has done what cannot be undone: an operator has to say that it goes back.
    let refused = |plan| Case::of(plan).knows_done((0, Do, 1)).done((2, Undo, 1)).refused((4, Do, 1), Code::PolicyDenied);
    refused(with_hub()).unproven(one, "failed for good");
    let mut alone = with_hub();
    alone.steps.pop();
    refused(alone).goes(one);
}

#[test]
fn what_a_step_made_is_meant_and_nothing_else_of_that_name() {
    let mut plan = steps();
    if let Some(Task { act: Act::Host(act), .. }) = &mut plan.steps[0].undo {
        act.made_by = Some("one".to_owned());
    }
    let judged = |own: Own| Case::of(plan.clone()).knows((0, Do, 1), own).said(Verb::Abort { begun: 1 }).judge((0, Undo, 1)).unwrap();
    let meant = |incarnation: &str| Turn::Go { incarnation: Some(incarnation.to_owned()) };
    assert_eq!(judged(Own::Succeeded { result: json!({ "incarnation": "x7" }) }), meant("x7"));
    assert_eq!(judged(Own::Succeeded { result: Value::Null }), meant("unknown"));
    assert_eq!(judged(Own::Failed), meant("unknown"));
}

#[test]
fn a_receipt_tells_the_hub_what_it_tells_hosts() {
    let plan = steps();
    let of = |side, outcome, code| End::of_receipt(&receipt(&plan, 0, side, 1, outcome, code), side);
    let failed = |code, effect, signed, again| End::Failed { fault: fault(code), effect, signed, again };
    for (side, outcome, code, end) in [
        (Do, Outcome::Succeeded, None, done()),
        (Do, Outcome::Failed, Some(Code::NotFound), failed(Code::NotFound, true, true, true)),
        (Undo, Outcome::Failed, Some(Code::NotFound), done()),
        (Do, Outcome::Failed, Some(Code::BadParams), failed(Code::BadParams, true, true, false)),
        (Do, Outcome::Refused, Some(Code::Busy), failed(Code::Busy, false, false, true)),
        (Do, Outcome::Refused, Some(Code::PolicyDenied), failed(Code::PolicyDenied, false, true, false)),
        (Do, Outcome::Refused, Some(Code::Expired), failed(Code::Expired, false, false, false)),
        (Do, Outcome::Expired, Some(Code::Expired), failed(Code::Expired, false, true, false)),
        (Do, Outcome::Cancelled, Some(Code::Cancelled), failed(Code::Cancelled, false, true, false)),
        (Undo, Outcome::Indeterminate, Some(Code::Indeterminate), doubt()),
    ] {
        assert_eq!(of(side, outcome, code), end, "{side} {outcome:?} {code:?}");
    }
}
