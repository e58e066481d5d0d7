//! What hosts are shown: all that there is, less than that, and what a hub makes up that wants it otherwise.

use super::ledger::Try;
use super::world::World;
use super::*;
use crate::fault::Fault;
use crate::op::{Outcome, Receipt};

impl World {
    fn judge_shown(&self, shown: &Shown, of: Try) -> Result<Turn, Fault> {
        let host = |step, side| self.saga.plan.host_act(step, side).map(|act| act.host.clone());
        let me = host(of.0, of.1);
        let is_mine = |of: &OfSaga| host(of.step, of.side) == me;
        let own = |of: &OfSaga| self.journal.get(&(of.step, of.side, of.attempt)).filter(|_| is_mine(of)).cloned();
        shown.judge(&order(&self.saga.plan, of.0, of.1, of.2), &order_hash(of.0, of.1, of.2), own)
    }

    fn shown(&self) -> Shown {
        Shown { plan: self.saga.plan.clone(), words: self.words.clone(), receipts: self.receipts.clone() }
    }

    pub fn judge(&self, of: Try) -> Result<Turn, Fault> {
        self.judge_shown(&self.shown(), of)
    }

    /// The host of a try whose turn has come believes that, and does not if anything that is needed for it is left out.
    pub fn check_shown(&mut self, of: Try) {
        match self.judge(of) {
            Ok(Turn::Go { .. }) => self.judged[0] += 1,
            Ok(Turn::Nothing) => {
                self.judged[1] += 1;
                return;
            }
            Err(refused) => panic!("{of:?} is refused: {refused}; {:?}", self.saga.state),
        }
        let plan = self.saga.plan.clone();
        let (group, host) = (plan.steps[of.0].group, &plan.host_act(of.0, of.1).unwrap().host);
        let begun = self.saga.state.groups_begun(&plan);
        let others = plan.steps.iter().enumerate().filter(|(_, step)| step.run.act.host().is_some_and(|act| act.host != *host));
        let is_needed = |step: &Step| match of.1 {
            Side::Do => step.group < group,
            Side::Undo => step.group > group && step.group < begun && step.undo.is_some(),
        };
        for (number, _) in others.filter(|(_, step)| is_needed(step)) {
            let mut shown = self.shown();
            let hashes: Vec<String> =
                [Side::Do, Side::Undo].into_iter().flat_map(|side| (1..=TRIES_MAX).map(move |n| order_hash(number, side, n))).collect();
            shown.receipts.retain(|receipt| !hashes.contains(&receipt.payload_sha256));
            shown.words.retain(|word| word.verb != Verb::Skip { step: number, side: of.1 });
            self.assert_refused(&shown, of, &format!("nothing of step {number}"));
        }
        if of.1 == Side::Undo {
            let mut shown = self.shown();
            shown.words.retain(|word| !matches!(word.verb, Verb::Abort { .. }));
            shown.receipts.retain(|receipt| matches!(receipt.outcome, Outcome::Succeeded | Outcome::Indeterminate));
            self.assert_refused(&shown, of, "neither failure nor abort");
        }
    }

    fn assert_refused(&mut self, shown: &Shown, of: Try, what: &str) {
        self.judged[2] += 1;
        let judged = self.judge_shown(shown, of);
        assert_eq!(judged.as_ref().map_err(|refused| refused.code), Err(Code::SagaUnproven), "{of:?} was shown {what}");
    }

    /// A hub gets whatever refusals it can, leaves out what it likes, and sends any order: none is taken whose turn cannot have come.
    pub fn deceive(&mut self) {
        let plan = self.saga.plan.clone();
        let orders: Vec<Try> = plan.tasks().filter(|(.., task)| task.act.host().is_some()).map(|(step, side, _)| (step, side, 1)).collect();
        let mut provoked: Vec<Receipt> = Vec::new();
        for code in
            [Code::SagaUnproven, Code::SagaOutOfOrder, Code::BadSaga, Code::BadSignature, Code::Expired, Code::NonceUsed, Code::NotYetValid]
        {
            for (step, side, _) in &orders {
                let last = plan.task(*step, *side).map_or(1, |task| task.attempts);
                provoked.push(receipt(&plan, *step, *side, last, Outcome::Refused, Some(code)));
            }
        }
        for _ in 0..6 {
            let Some((step, side, _)) = self.dice.pick(&orders) else { return };
            let attempt = 1 + u32::try_from(self.dice.below(3)).unwrap();
            if self.journal.contains_key(&(step, side, attempt)) {
                continue; // The host knows this order, and answers it as before.
            }
            let mut shown = self.shown();
            shown.receipts.extend(provoked.iter().cloned());
            let (leave_out, is_silent) = (1 + self.dice.below(8), self.dice.one_in(2));
            shown.receipts.retain(|_| !self.dice.one_in(leave_out + 1));
            shown.words.retain(|_| !is_silent);
            if let Ok(Turn::Go { .. }) = self.judge_shown(&shown, (step, side, attempt)) {
                self.judged[3] += 1;
                self.assert_may_go((step, side, attempt));
            }
        }
    }

    /// By all that the hosts themselves know.
    fn assert_may_go(&self, of: Try) {
        let plan = &self.saga.plan;
        let knows = |step: StepNumber, side: Side, what: fn(&Own) -> bool| {
            self.journal.iter().any(|((s, d, _), own)| (*s, *d) == (step, side) && what(own))
        };
        let is_done = |step, side| knows(step, side, |own| matches!(own, Own::Succeeded { .. }));
        let said = |verb: &Verb| self.words.iter().any(|word| word.verb == *verb);
        let hosts = || plan.steps.iter().enumerate().filter(|(_, step)| step.run.act.host().is_some());
        assert!(!is_done(of.0, of.1), "{of:?} is done twice");
        match of.1 {
            Side::Do => {
                for (step, _) in hosts().filter(|(_, step)| step.group < plan.steps[of.0].group) {
                    assert!(is_done(step, Side::Do) || said(&Verb::Skip { step, side: Side::Do }), "{of:?} is taken before step {step}");
                }
            }
            Side::Undo => {
                let is_aborted = self.words.iter().any(|word| matches!(word.verb, Verb::Abort { .. }));
                let is_lasting = |code: Code| matches!(code, Code::PolicyDenied | Code::PreconditionFailed);
                let has_failed = self.receipts.iter().any(|receipt| match receipt.outcome {
                    Outcome::Failed | Outcome::Expired => true,
                    Outcome::Refused => receipt.fault.as_ref().is_some_and(|fault| is_lasting(fault.code)),
                    Outcome::Succeeded | Outcome::Indeterminate | Outcome::Cancelled => false,
                });
                assert!(is_aborted || has_failed, "{of:?} is taken although nothing failed");
            }
        }
    }
}
