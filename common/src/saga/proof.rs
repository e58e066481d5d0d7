//! What a host must be shown before it takes an order of a saga.
//!
//! The hub says when a step's turn has come; a host believes what operators and hosts have signed, and its own journal:
//!
//! - what a step does: that the steps of all groups before it are done, or that an operator took them out;
//! - what undoes a step: that a step has failed for good, and none that cannot be undone has begun, or that an operator wants the
//!   saga to go back; and that what came after this step is undone, or never began.
//!
//! A step has failed for good when the last try that one signature allows has failed, or one in a way that no other can mend.
//!
//! What the hub or a cloud says it did is nobody's signature: it lets operations up to [`HUB_CLAIM_MAX`] begin, and none above.

use serde_json::Value;

use super::answer::{is_beyond_mending, is_done, is_failure, is_unbegun};
use super::plan::{Act, HostAct, OfSaga, Plan, Side, Step, StepNumber, TRIES_MAX};
use super::word::{Verb, Word};
use crate::fault::{Code, Fault};
use crate::id::HostId;
use crate::op::{Class, Order, Receipt};

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
        judge.is_first(of)?;
        match of.side {
            Side::Do => judge.may_begin(of, step, order.class)?,
            Side::Undo if !judge.has_begun(of.step) => return Ok(Turn::Nothing),
            Side::Undo => judge.may_be_undone(of, step)?,
        }
        let incarnation = act.made_by.as_ref().map(|by| judge.made(of, by)).transpose()?;
        Ok(Turn::Go { incarnation })
    }

    /// The receipts that say what became of one side of a step, by its orders in their order.
    fn receipts(&self, step: StepNumber, side: Side) -> impl Iterator<Item = &Receipt> {
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
        let mut orders = self.shown.orders(of.step, of.side, act).enumerate();
        if !orders.any(|(at, hash)| hash == payload_sha256 && u32::try_from(at + 1) == Ok(of.attempt)) {
            return Err(bad("this order is none of those that were signed for it"));
        }
        Ok((step, act))
    }

    /// What the host itself knows of every order for one side of a step, whatever it is shown.
    fn known(&self, step: StepNumber, side: Side) -> impl Iterator<Item = (u32, Own)> {
        let mut of = OfSaga { saga_id: self.shown.plan.saga_id.clone(), step, side, attempt: 0 };
        let tries = if self.is_here(step, side) { TRIES_MAX } else { 0 };
        (1..=tries).filter_map(move |attempt| {
            of.attempt = attempt;
            Some((attempt, (self.own)(&of)?))
        })
    }

    /// Whether one side of a step is done on the host that judges.
    fn is_here(&self, step: StepNumber, side: Side) -> bool {
        let plan = &self.shown.plan;
        plan.host_act(step, side).and_then(|act| plan.host_id(&act.host)).as_ref() == Some(self.host)
    }

    fn has_begun(&self, step: StepNumber) -> bool {
        self.known(step, Side::Do).next().is_some()
    }

    /// No other try of the same is under way or has done it.
    fn is_first(&self, of: &OfSaga) -> Result<(), Fault> {
        for (_, own) in self.known(of.step, of.side).filter(|(attempt, _)| *attempt != of.attempt) {
            match own {
                Own::Succeeded { .. } => return Err(out_of_order(of, "another try has done it")),
                Own::Open => return Err(out_of_order(of, "another try is under way")),
                Own::Failed => {}
            }
        }
        Ok(())
    }

    fn may_begin(&self, of: &OfSaga, step: &Step, class: Class) -> Result<(), Fault> {
        let plan = &self.shown.plan;
        if self.shown.abort().is_some() {
            return Err(out_of_order(of, "an operator wants the saga to go back"));
        }
        if (0..plan.steps.len()).any(|number| self.known(number, Side::Undo).next().is_some()) {
            return Err(out_of_order(of, "this host has begun to undo the saga"));
        }
        for (number, earlier) in plan.steps.iter().enumerate().filter(|(_, earlier)| earlier.group < step.group) {
            if self.shown.is_skipped(number, Side::Do) || self.is_done(number, Side::Do) {
                continue;
            }
            match &earlier.run.act {
                Act::Host(_) => return Err(unproven(of, &format!("that step {} (`{}`) is done", number + 1, earlier.name))),
                Act::Hub(_) | Act::Cloud(_) if class <= HUB_CLAIM_MAX => {}
                Act::Hub(_) | Act::Cloud(_) => {
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
        self.shown.receipts(step, side).any(|receipt| is_done(receipt, side))
            || self.known(step, side).any(|(_, own)| matches!(own, Own::Succeeded { .. }))
    }

    fn may_be_undone(&self, of: &OfSaga, step: &Step) -> Result<(), Fault> {
        let plan = &self.shown.plan;
        let is_past_return = |(number, step): (StepNumber, &Step)| step.irreversible && self.is_known_to_have_begun(number);
        if plan.steps.iter().enumerate().any(is_past_return) {
            return Err(out_of_order(of, "a step that cannot be undone has begun"));
        }
        let reach = match (self.shown.abort(), self.failed_group()) {
            (Some(begun), _) => begun,
            (None, Some(group)) => group.saturating_add(1),
            (None, None) => return Err(unproven(of, "that a step failed for good, or that an operator wants the saga to go back")),
        };
        let resource = |side: Side| plan.host_act(of.step, side).map(|act| &act.resource);
        // Of one resource the undoing waits in the lane. Of two it might come first, and find nothing yet.
        if resource(Side::Do) != resource(Side::Undo) && self.known(of.step, Side::Do).any(|(_, own)| own == Own::Open) {
            return Err(out_of_order(of, "what it undoes is under way"));
        }
        // Whoever shows less than there is does not come by what this host knows better.
        let known = plan.steps.iter().enumerate().filter(|(number, _)| self.is_known_to_have_begun(*number));
        let reach = known.map(|(_, step)| step.group.saturating_add(1)).max().unwrap_or(0).max(reach);
        let later = plan.steps.iter().enumerate().filter(|(_, later)| later.group > step.group && later.group < reach);
        for (number, later) in later {
            let is_hosts = later.undo.as_ref().is_some_and(|undo| undo.act.host().is_some());
            let is_over = !is_hosts
                || self.shown.is_skipped(number, Side::Undo)
                || self.is_done(number, Side::Undo)
                || self.had_no_effect(number)
                || self.is_here(number, Side::Do) && !self.has_begun(number);
            if !is_over {
                return Err(unproven(of, &format!("that step {} (`{}`), which comes later, is undone", number + 1, later.name)));
            }
        }
        Ok(())
    }

    /// Whether this host's journal, or a receipt, says that a step began.
    fn is_known_to_have_begun(&self, step: StepNumber) -> bool {
        self.has_begun(step) || self.shown.receipts(step, Side::Do).any(|receipt| !is_unbegun(receipt.outcome))
    }

    /// The last group of a step that hosts say to have failed for good, if they also say that nothing was done that cannot be undone.
    fn failed_group(&self) -> Option<u32> {
        let steps = || self.shown.plan.steps.iter().enumerate();
        let failed = steps().filter(|(number, _)| self.has_failed(*number)).map(|(_, step)| step.group).max()?;
        let mut final_steps = steps().filter(|(_, step)| step.irreversible && step.group <= failed);
        final_steps.all(|(number, _)| self.had_no_effect(number)).then_some(failed)
    }

    fn has_failed(&self, step: StepNumber) -> bool {
        let Some(act) = self.shown.plan.host_act(step, Side::Do) else { return false };
        let last_of_words = self.shown.words.iter().filter_map(|word| match &word.verb {
            Verb::Retry { step: s, side: Side::Do, orders } if *s == step => orders.last(),
            Verb::Retry { .. } | Verb::Skip { .. } | Verb::Abort { .. } | Verb::Abandon => None,
        });
        let last: Vec<&String> = act.orders.last().into_iter().chain(last_of_words).collect();
        let for_good = |receipt: &Receipt| {
            let is_last = last.contains(&&receipt.payload_sha256);
            is_failure(receipt) && (is_last || receipt.fault.as_ref().is_some_and(|fault| is_beyond_mending(fault.code)))
        };
        !self.is_done(step, Side::Do) && self.shown.receipts(step, Side::Do).any(for_good)
    }

    /// Whether its host has signed for every try of a step that it did not begin.
    fn had_no_effect(&self, step: StepNumber) -> bool {
        let Some(act) = self.shown.plan.host_act(step, Side::Do) else { return false };
        let unbegun = |receipt: &Receipt| is_failure(receipt) && is_unbegun(receipt.outcome);
        !self.is_known_to_have_begun(step)
            && self
                .shown
                .orders(step, Side::Do, act)
                .all(|hash| self.shown.receipts(step, Side::Do).any(|receipt| receipt.payload_sha256 == hash && unbegun(receipt)))
    }

    /// The incarnation that a step of this host made.
    fn made(&self, of: &OfSaga, by: &str) -> Result<String, Fault> {
        let step = self.shown.plan.step_named(by);
        let mut is_open = false;
        let mut made = step.into_iter().flat_map(|step| self.known(step, Side::Do)).filter_map(|(_, own)| match own {
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

fn unproven(of: &OfSaga, what: &str) -> Fault {
    Fault::new(
        Code::SagaUnproven,
        format!("saga {}, step {}, {}: nobody has shown this host {what}", of.saga_id, of.step.saturating_add(1), of.side),
    )
}

fn out_of_order(of: &OfSaga, what: &str) -> Fault {
    Fault::new(Code::SagaOutOfOrder, format!("saga {}, step {}, {}: {what}", of.saga_id, of.step.saturating_add(1), of.side))
}
