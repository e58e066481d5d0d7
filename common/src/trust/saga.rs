//! Whether what a host is shown of a saga counts, and who may sign a plan.

use std::collections::BTreeSet;

use super::TrustRoot;
use crate::fault::{Code, Fault};
use crate::id::{HostId, HostName, KeyId};
use crate::op::{Order, Receipt};
use crate::saga::{Act, Plan, Shown, Word};
use crate::sign::{Envelope, Signed, Statement, Verified};

/// The most receipts and words that are shown with one order.
pub const EVIDENCE_MAX: usize = 1024;

/// What is shown with an order of a saga, as it came.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The plan.
    pub plan: Envelope,
    /// What hosts said of its steps.
    pub receipts: Vec<Envelope>,
    /// What operators said of it.
    pub words: Vec<Envelope>,
}

impl TrustRoot {
    /// Verifies a plan, for the hub and for people: that keys of this root that may order something have signed it, and that it holds in
    /// itself. Each host judges by its own orders, see [`Self::verify_evidence`].
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_plan(&self, signed: Signed<Plan>) -> Result<Verified<Plan>, Fault> {
        let plan = self.by_those_who_order(signed)?;
        self.check_cluster(&plan.statement().cluster)?;
        plan.statement().check()?;
        Ok(plan)
    }

    /// Verifies a word on a saga in the same way.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_word(&self, signed: Signed<Word>) -> Result<Verified<Word>, Fault> {
        let word = self.by_those_who_order(signed)?;
        self.check_cluster(&word.statement().cluster)?;
        Ok(word)
    }

    /// Whether keys of `signers` may order all that a plan has done on hosts and in clouds. Whoever signs a plan, or a word on it, has to: each host takes
    /// either only from those who could have signed its own orders, and is shown all words.
    ///
    /// # Errors
    /// As for the first order that they may not sign, with its step. An operation that is not known here is its host's to judge.
    pub fn check_reach(&self, signers: &BTreeSet<KeyId>, plan: &Plan) -> Result<(), Fault> {
        for (number, side, task) in plan.tasks() {
            let reached = match &task.act {
                Act::Host(host_act) => match crate::op::Act::read(&host_act.kind, &host_act.params, &host_act.resource) {
                    Ok(act) => self.check_op_scope(signers, act.kind(), act.class(&host_act.resource), &host_act.host),
                    Err(_) => continue,
                },
                Act::Cloud(act) => {
                    let cloud = HostName::parse(act.cloud.as_str()).map_err(|e| Fault::new(Code::BadSaga, e.to_string()))?;
                    self.check_op_scope(signers, act.kind(), act.class(), &cloud)
                }
                Act::Hub(_) => continue,
            };
            reached.map_err(|fault| Fault::new(fault.code, format!("step {}, {side}: {}", number.saturating_add(1), fault.message)))?;
        }
        Ok(())
    }

    /// Verifies what was shown with `order`, which is verified: whoever signed the plan and the words could have signed the order, and
    /// the receipts are by the hosts that the plan names.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_evidence(&self, evidence: Evidence, order: &Order, host: &HostName) -> Result<Shown, Fault> {
        if evidence.receipts.len().saturating_add(evidence.words.len()) > EVIDENCE_MAX {
            return Err(Fault::new(Code::TooLarge, format!("more than {EVIDENCE_MAX} receipts and words were shown with the order")));
        }
        let plan = self.verify_plan(Signed::new(evidence.plan)?)?;
        self.check_op_scope(plan.signers(), order.act.kind(), order.class, host)?;
        let plan = plan.into_statement();
        let word = |envelope: Envelope| {
            let word = self.verify_word(Signed::new(envelope)?)?;
            self.check_op_scope(word.signers(), order.act.kind(), order.class, host)?;
            if word.statement().saga_id != plan.saga_id {
                return Err(Fault::new(Code::BadSaga, "a word that was shown is about another saga"));
            }
            Ok(word.into_statement())
        };
        let words = evidence.words.into_iter().map(word).collect::<Result<_, Fault>>()?;
        let receipts = evidence.receipts.into_iter().map(|envelope| self.receipt(&plan, envelope)).collect::<Result<_, Fault>>()?;
        Ok(Shown { plan, words, receipts })
    }

    fn receipt(&self, plan: &Plan, envelope: Envelope) -> Result<Receipt, Fault> {
        let signed = Signed::<Receipt>::new(envelope)?;
        let said_by = signed.peek()?.host_id;
        let key = plan.hosts.values().find(|key| HostId::of_key(&key.0) == said_by);
        let Some(key) = key else {
            return Err(Fault::new(
                Code::UnknownKey,
                format!("a receipt that was shown is by host {said_by}, which the plan does not name"),
            ));
        };
        let receipt = signed.verify_by_host(&key.0)?.into_statement();
        self.check_cluster(&receipt.cluster)?;
        Ok(receipt)
    }

    fn by_those_who_order<T: Statement>(&self, signed: Signed<T>) -> Result<Verified<T>, Fault> {
        let signers = self.live_signers(signed.envelope())?;
        let able: BTreeSet<&KeyId> = crate::op::Class::ALL.iter().flat_map(|class| self.op_keys(*class)).collect();
        if signers.iter().all(|signer| !able.contains(signer)) {
            return Err(Fault::new(
                Code::OutOfScope,
                format!("no role of the signers may order anything, and so sign a {}", T::TYPE.word()),
            ));
        }
        signed.into_verified(signers)
    }
}
