//! What a host must be shown before it takes an order of a saga.
//!
//! The hub says when a step's turn has come; a host believes what operators and hosts have signed, and its own journal:
//!
//! - what a step does: that the steps of all groups before it are done, or that an operator took them out;
//! - what undoes a step: that a step has failed for good, or that an operator wants the saga to go back; and that what came
//!   after this step is undone.
//!
//! What the hub or a cloud says it did is nobody's signature: it lets operations up to [`HUB_CLAIM_MAX`] begin, and none above.

use serde_json::Value;

use super::plan::{Act, HostAct, OfSaga, Plan, Side, Step, StepNumber, TRIES_MAX};
use super::word::{Verb, Word};
use crate::fault::{Code, Fault};
use crate::id::HostId;
use crate::op::{Class, Order, Outcome, Receipt};

/// The greatest class of operation that may follow what is only the hub's word.
pub const HUB_CLAIM_MAX: Class = Class::R2;
/// An incarnation that nothing has.
const NO_INCARNATION: &str = "unknown";

/// What a host was shown with an order; every signature in it has been verified. Made by
/// [`crate::trust::TrustRoot::verify_evidence`] alone.
#[derive(Debug, Clone)]
pub struct Shown {
    pub(crate) plan: Plan,
    pub(crate) words: Vec<Word>,
    pub(crate) receipts: Vec<Receipt>,
}

/// What a host's own journal says of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// It was accepted and has not ended.
    Open,
    /// It is done.
    Succeeded {
        /// What came of it.
        result: Value,
    },
    /// It began and ended otherwise.
    Failed,
}

/// What an order whose turn has come amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It is done.
    Go {
        /// Only that incarnation of the resource is meant.
        incarnation: Option<String>,
    },
    /// It undoes what never began: there is nothing to do, and the step will not be done either.
    Nothing,
}

impl Shown {
    /// Judges whether it is the turn of `order`, whose payload has this hash; `own` reads the host's journal.
    ///
    /// # Errors
    /// [`Code::BadSaga`] when the plan has no such order, [`Code::SagaUnproven`] when something was not shown,
    /// [`Code::SagaOutOfOrder`] when it is shown not to be its turn.
    pub fn judge(&self, order: &Order, payload_sha256: &str, own: impl Fn(&OfSaga) -> Option<Own>) -> Result<Turn, Fault> {
        let judge = Judge { shown: self, own: &own, host: &order.statement.host_id };
        let Some(of) = &order.statement.saga else {
            return Err(Fault::new(Code::BadSaga, "the order is no saga's"));
        };
        let (step, act) = judge.planned(order, of, payload_sha256)?;
        match of.side {
            Side::Do => judge.may_begin(of, step, order.class)?,
            Side::Undo if judge.never_began(of.step) => return Ok(Turn::Nothing),
            Side::Undo => judge.may_be_undone(of, step)?,
        }
        let incarnation = act.made_by.as_ref().map(|by| judge.made(of, by)).transpose()?;
        Ok(Turn::Go { incarnation })
    }

    /// The receipts that say what became of one side of a step, by its orders in their order.
    fn receipts<'a>(&'a self, step: StepNumber, side: Side) -> impl Iterator<Item = &'a Receipt> {
        let act = self.plan.host_act(step, side);
        let host = act.and_then(|act| self.plan.host_id(&act.host));
        let is_order = move |receipt: &&Receipt| {
            act.is_some_and(|act| self.orders(step, side, act).any(|hash| hash == receipt.payload_sha256))
                && host.as_ref() == Some(&receipt.host_id)
        };
        self.receipts.iter().filter(is_order)
    }

    /// The hashes of all orders for one side of a step that operators have signed.
    fn orders<'a>(&'a self, step: StepNumber, side: Side, act: &'a HostAct) -> impl Iterator<Item = &'a str> {
        let later = self.words.iter().filter_map(move |word| match &word.verb {
            Verb::Retry { step: s, side: d, orders } if (*s, *d) == (step, side) => Some(orders),
            Verb::Retry { .. } | Verb::Skip { .. } | Verb::Abort { .. } | Verb::Abandon => None,
        });
        act.orders.iter().chain(later.flatten()).map(String::as_str)
    }

    fn is_skipped(&self, step: StepNumber, side: Side) -> bool {
        self.words.iter().any(|word| word.verb == Verb::Skip { step, side })
    }

    fn abort(&self) -> Option<u32> {
        self.words.iter().find_map(|word| match word.verb {
            Verb::Abort { begun } => Some(begun),
            Verb::Retry { .. } | Verb::Skip { .. } | Verb::Abandon => None,
        })
    }
}

/// One look at what was shown, and at the host's own journal.
struct Judge<'a, F> {
    shown: &'a Shown,
    own: &'a F,
    /// The host that judges.
    host: &'a HostId,
}

impl<'a, F: Fn(&OfSaga) -> Option<Own>> Judge<'a, F> {
    /// The step that the order is of, and what it does there: as it was signed with the plan.
    fn planned(&self, order: &Order, of: &OfSaga, payload_sha256: &str) -> Result<(&'a Step, &'a HostAct), Fault> {
        let plan = &self.shown.plan;
        let bad =
            |what: &str| Fault::new(Code::BadSaga, format!("saga {}, step {}, {}: {what}", of.saga_id, of.step.saturating_add(1), of.side));
        if plan.saga_id != of.saga_id {
            return Err(bad("the plan that was shown with the order is another saga's"));
        }
        let step = plan.steps.get(of.step).ok_or_else(|| bad("the plan has no such step"))?;
        let act = plan.host_act(of.step, of.side).ok_or_else(|| bad("the plan has no operation on a host there"))?;
        let statement = &order.statement;
        let is_same = act.resource == statement.resource && act.kind == statement.kind && act.params == statement.params;
        if plan.host_id(&act.host).as_ref() != Some(&statement.host_id) || !is_same {
            return Err(bad("the plan says something else to be done there"));
        }
        if of.attempt > TRIES_MAX {
            return Err(bad(&format!("nothing is tried more than {TRIES_MAX} times")));
        }
        let mut orders = self.shown.orders(of.step, of.side, act).enumerate();
        if !orders.any(|(at, hash)| hash == payload_sha256 && u32::try_from(at + 1) == Ok(of.attempt)) {
            return Err(bad("this order is none of those that were signed for it"));
        }
        Ok((step, act))
    }

    /// Whether one side of a step is done on the host that judges.
    fn is_here(&self, step: StepNumber, side: Side) -> bool {
        let plan = &self.shown.plan;
        plan.host_act(step, side).and_then(|act| plan.host_id(&act.host)).as_ref() == Some(self.host)
    }

    /// What the host itself knows of every try of one side of a step: also of those that a word allowed which is not shown.
    fn known(&self, step: StepNumber, side: Side) -> impl Iterator<Item = Own> {
        let tries = if self.is_here(step, side) { TRIES_MAX } else { 0 };
        let of = OfSaga { saga_id: self.shown.plan.saga_id.clone(), step, side, attempt: 0 };
        (1..=tries).filter_map(move |attempt| (self.own)(&OfSaga { attempt, ..of.clone() }))
    }

    fn may_begin(&self, of: &OfSaga, step: &Step, class: Class) -> Result<(), Fault> {
        let plan = &self.shown.plan;
        if self.shown.abort().is_some() {
            return Err(out_of_order(of, "an operator wants the saga to go back"));
        }
        if (0..plan.steps.len()).any(|number| self.known(number, Side::Undo).next().is_some()) {
            return Err(out_of_order(of, "this host has begun to undo the saga"));
        }
        // Whichever: the hub may show tries in another order than they were signed in.
        for other in self.known(of.step, Side::Do) {
            match other {
                Own::Succeeded { .. } => return Err(out_of_order(of, "another try has done it")),
                Own::Open => return Err(out_of_order(of, "another try is under way")),
                Own::Failed => {}
            }
        }
        for (number, earlier) in plan.steps.iter().enumerate().filter(|(_, earlier)| earlier.group < step.group) {
            if self.shown.is_skipped(number, Side::Do) || self.is_done(number, Side::Do) {
                continue;
            }
            match &earlier.run.act {
                Act::Host(_) => return Err(unproven(of, &format!("that step {} (`{}`) is done", number + 1, earlier.name))),
                Act::Hub(_) if class <= HUB_CLAIM_MAX => {}
                Act::Hub(_) => {
                    let what = format!(
                        "step {} (`{}`) is done, and the hub's word is not enough for an operation of class {class}",
                        number + 1,
                        earlier.name
                    );
                    return Err(unproven(of, &what));
                }
            }
        }
        Ok(())
    }

    /// Whether a signature, or the host's own journal, says that one side of a step is done.
    fn is_done(&self, step: StepNumber, side: Side) -> bool {
        let is_success = |receipt: &Receipt| {
            receipt.outcome == Outcome::Succeeded
                || side == Side::Undo && receipt.fault.as_ref().is_some_and(|fault| fault.code == Code::NotFound)
        };
        self.shown.receipts(step, side).any(is_success) || self.known(step, side).any(|own| matches!(own, Own::Succeeded { .. }))
    }

    fn never_began(&self, step: StepNumber) -> bool {
        self.known(step, Side::Do).next().is_none()
    }

    fn may_be_undone(&self, of: &OfSaga, step: &Step) -> Result<(), Fault> {
        let told = match (self.shown.abort(), self.failed_group()) {
            (Some(begun), _) => begun,
            (None, Some(group)) => group.saturating_add(1),
            (None, None) => return Err(unproven(of, "that a step failed for good, or that an operator wants the saga to go back")),
        };
        // What is not shown may have begun after that: of its own steps the host knows.
        let reach = told.max(self.groups_begun_here());
        let plan = &self.shown.plan;
        let resource = |side: Side| plan.host_act(of.step, side).map(|act| &act.resource);
        // Of one resource the undoing waits in the lane. Of two it might come first, and find nothing yet.
        if resource(Side::Do) != resource(Side::Undo) && self.known(of.step, Side::Do).any(|own| own == Own::Open) {
            return Err(out_of_order(of, "what it undoes is under way"));
        }
        let later = self.shown.plan.steps.iter().enumerate().filter(|(_, later)| later.group > step.group && later.group < reach);
        for (number, later) in later {
            let is_hosts = later.undo.as_ref().is_some_and(|undo| undo.act.host().is_some());
            let is_over = !is_hosts
                || self.shown.is_skipped(number, Side::Undo)
                || self.is_done(number, Side::Undo)
                || self.had_no_effect(number)
                || self.is_here(number, Side::Do) && self.never_began(number);
            if !is_over {
                return Err(unproven(of, &format!("that step {} (`{}`), which comes later, is undone", number + 1, later.name)));
            }
        }
        Ok(())
    }

    /// How many groups have begun, by what the host knows of its own steps.
    fn groups_begun_here(&self) -> u32 {
        let steps = self.shown.plan.steps.iter().enumerate();
        let begun = steps.filter(|(number, _)| !self.never_began(*number));
        begun.map(|(_, step)| step.group.saturating_add(1)).max().unwrap_or(0)
    }

    /// The group of a step whose last planned try a host says to have failed.
    fn failed_group(&self) -> Option<u32> {
        let failed = |(number, step): (StepNumber, &Step)| {
            let last = step.run.act.host()?.orders.last()?;
            let receipt = self.shown.receipts(number, Side::Do).find(|receipt| receipt.payload_sha256 == *last);
            receipt.is_some_and(|receipt| is_failure(receipt.outcome)).then_some(step.group)
        };
        self.shown.plan.steps.iter().enumerate().filter_map(failed).max()
    }

    /// Whether its host has signed for every try of a step that it did not begin.
    fn had_no_effect(&self, step: StepNumber) -> bool {
        let Some(act) = self.shown.plan.host_act(step, Side::Do) else { return false };
        let unbegun = |outcome: Outcome| matches!(outcome, Outcome::Refused | Outcome::Expired | Outcome::Cancelled);
        self.shown
            .orders(step, Side::Do, act)
            .all(|hash| self.shown.receipts(step, Side::Do).any(|receipt| receipt.payload_sha256 == hash && unbegun(receipt.outcome)))
    }

    /// The incarnation that a step of this host made.
    fn made(&self, of: &OfSaga, by: &str) -> Result<String, Fault> {
        let step = self.shown.plan.step_named(by);
        let mut is_open = false;
        let mut made = step.into_iter().flat_map(|step| self.known(step, Side::Do)).filter_map(|own| match own {
            Own::Succeeded { result } => result.get("incarnation").and_then(Value::as_str).map(str::to_owned),
            Own::Open => {
                is_open = true;
                None
            }
            Own::Failed => None,
        });
        match made.next() {
            Some(incarnation) => Ok(incarnation),
            // Which one it makes is not known before it has ended.
            None if is_open => Err(out_of_order(of, &format!("step `{by}`, which makes what this is about, is under way"))),
            None => Ok(NO_INCARNATION.to_owned()),
        }
    }
}

const fn is_failure(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed | Outcome::Refused | Outcome::Expired | Outcome::Cancelled => true,
        Outcome::Succeeded | Outcome::Indeterminate => false,
    }
}

fn unproven(of: &OfSaga, what: &str) -> Fault {
    Fault::new(
        Code::SagaUnproven,
        format!("saga {}, step {}, {}: nobody has shown this host {what}", of.saga_id, of.step.saturating_add(1), of.side),
    )
}

fn out_of_order(of: &OfSaga, what: &str) -> Fault {
    Fault::new(Code::SagaOutOfOrder, format!("saga {}, step {}, {}: {what}", of.saga_id, of.step.saturating_add(1), of.side))
}
