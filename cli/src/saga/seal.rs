//! The plan, its orders, and what an operator says of a saga later: signed here, and verified as hub and hosts will.

use std::collections::BTreeMap;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, IdempotencyKey, Nonce, OpId, SagaId, UnixSeconds};
use moorline_common::op::OpStatement;
use moorline_common::saga::{Act, HostAct, OfSaga, PLAN_MAX, Plan, PublicKey, Side, Step, StepNumber, Task, Verb, WINDOW_MAX_S, Word};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::TrustRoot;

use super::draft::{self, Draft, OnHost};
use super::given::{Hosts, Known};
use crate::cmd::op::draft as order;
use crate::error::Failure;
use crate::limits::ORDER_BACKDATED_S;
use crate::signers::Signers;

/// How long a saga may take to begin its steps when nobody says otherwise, in seconds: a day.
pub const EXPIRES_DEFAULT_S: u64 = 24 * 3600;
/// How long what undoes a step may wait: a week.
pub const UNDO_DEFAULT_S: u64 = 7 * 24 * 3600;
/// What to do where one key does not do: nothing of a saga is signed piece by piece.
const SIGN_WITH: &str = "every order of a saga is signed at once: name the other operators' key files with --sign-with FILE";

/// By what a saga is signed.
pub struct Terms<'a> {
    /// The trust root.
    pub root: &'a TrustRoot,
    /// Now.
    pub now: UnixSeconds,
    /// How long its steps may wait before they begin, in seconds.
    pub expires_s: u64,
    /// The same for what undoes them.
    pub undo_s: u64,
    /// What it belongs to.
    pub deployment: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// A saga as it is handed in.
#[derive(Debug)]
pub struct Sealed {
    /// The plan.
    pub plan: Plan,
    /// The same, signed.
    pub envelope: Envelope,
    /// Every order that it names.
    pub orders: Vec<Envelope>,
    /// What first boots are told.
    pub boots: Vec<String>,
}

impl Terms<'_> {
    /// Refuses times that no order has.
    ///
    /// # Errors
    /// A usage failure.
    pub fn check(&self) -> Result<(), Failure> {
        let most = WINDOW_MAX_S - ORDER_BACKDATED_S;
        if self.expires_s == 0 || self.expires_s > most || self.undo_s > most {
            let message = "a saga has at least a second and less than 30 days to begin its steps, and less than 30 days to undo them";
            return Err(Failure::usage(message, "name shorter times with --expires and --undo-for"));
        }
        if self.undo_s < self.expires_s {
            let message = "what undoes a step would be over before the step itself";
            return Err(Failure::usage(message, "make --undo-for at least as long as --expires"));
        }
        Ok(())
    }

    fn not_before(&self) -> UnixSeconds {
        UnixSeconds(self.now.0.saturating_sub(ORDER_BACKDATED_S))
    }

    fn until(&self, side: Side) -> UnixSeconds {
        match side {
            Side::Do => self.now.plus(self.expires_s),
            Side::Undo => self.now.plus(self.undo_s),
        }
    }

    /// The plan of `draft`, with the hashes that `orders` gives for each try of an operation.
    ///
    /// # Errors
    /// [`Code::BadSaga`] for what is no plan.
    pub fn plan(
        &self,
        draft: &Draft,
        hosts: &Hosts,
        mut orders: impl FnMut(OfSaga, &OnHost) -> Result<String, Failure>,
    ) -> Result<Plan, Failure> {
        let mut steps = Vec::with_capacity(draft.steps.len());
        for (number, step) in draft.steps.iter().enumerate() {
            let mut side = |side: Side, task: &draft::Task| self.task(draft, (number, side), task, &mut orders);
            let run = side(Side::Do, &step.run)?;
            let undo = step.undo.as_ref().map(|task| side(Side::Undo, task)).transpose()?;
            let (name, when) = (step.name.clone(), step.when.clone());
            steps.push(Step { name, group: step.group, run, undo, irreversible: step.irreversible, when });
        }
        let mut keys = BTreeMap::new();
        for name in draft.hosts() {
            let key = PublicKey(known(hosts, &name)?.binding.host_key);
            keys.insert(name, key);
        }
        let plan = Plan {
            cluster: self.root.cluster.clone(),
            saga_id: draft.saga_id.clone(),
            name: draft.name.clone(),
            kind: draft.kind,
            deployment: self.deployment.to_owned(),
            triggered_by: "operator".to_owned(),
            inputs: draft.inputs.clone(),
            hosts: keys,
            steps,
            not_before: self.not_before(),
            expires_at: self.until(Side::Do),
            undo_until: self.until(Side::Undo),
            root_version: self.root.version,
            reason: self.reason.to_owned(),
        };
        plan.check()?;
        Ok(plan)
    }

    fn task(
        &self,
        draft: &Draft,
        (step, side): (StepNumber, Side),
        task: &draft::Task,
        orders: &mut impl FnMut(OfSaga, &OnHost) -> Result<String, Failure>,
    ) -> Result<Task, Failure> {
        let act = match &task.what {
            draft::What::Hub(act) => Act::Hub(act.clone()),
            draft::What::Cloud(act) => Act::Cloud(act.as_ref().clone()),
            draft::What::Host(on) => {
                let of = |attempt| OfSaga { saga_id: draft.saga_id.clone(), step, side, attempt };
                Act::Host(HostAct {
                    host: on.host.clone(),
                    resource: on.resource.clone(),
                    kind: on.act.kind().to_owned(),
                    params: on.act.params(),
                    orders: (1..=task.patience.attempts).map(|attempt| orders(of(attempt), on)).collect::<Result<_, _>>()?,
                    made_by: on.made_by.clone(),
                })
            }
        };
        let patience = task.patience;
        Ok(Task { act, attempts: patience.attempts, backoff_s: patience.backoff_s, timeout_s: patience.timeout_s })
    }

    /// The order for one try.
    ///
    /// # Errors
    /// What its host would refuse of its shape.
    pub fn order(&self, of: OfSaga, on: &OnHost, host: &Known) -> Result<OpStatement, Failure> {
        let statement = OpStatement {
            cluster: self.root.cluster.clone(),
            op_id: OpId::parse(uuid::Uuid::now_v7().to_string())?,
            idempotency_key: IdempotencyKey::parse(of.key()?.as_str().to_owned())?,
            host_id: host.binding.host_id.clone(),
            host_epoch: host.binding.host_epoch.clone(),
            resource: on.resource.clone(),
            incarnation: on.incarnation.clone(),
            kind: on.act.kind().to_owned(),
            params: on.act.params(),
            precondition: None,
            not_before: self.not_before(),
            expires_at: self.until(of.side),
            nonce: nonce()?,
            root_version: self.root.version,
            reason: self.reason.to_owned(),
            saga: Some(of),
        };
        statement.act()?;
        Ok(statement)
    }

    /// Signs the order for one try.
    ///
    /// # Errors
    /// What its host would refuse; [`Code::ThresholdNotMet`] when more keys must sign.
    pub fn seal_order(&self, of: OfSaga, on: &OnHost, hosts: &Hosts, signers: &Signers) -> Result<Envelope, Failure> {
        let host = known(hosts, &on.host)?;
        let (step, side) = (of.step, of.side);
        let statement = self.order(of, on, host)?;
        let sealed = order::seal(self.root, &host.binding, &statement, signers);
        sealed.and_then(|sealed| sealed.whole(SIGN_WITH)).map_err(|failure| {
            failure.while_doing(format_args!("signing step {}, {side} ({} {} on {})", step + 1, on.act.kind(), on.resource, on.host))
        })
    }

    /// Signs a saga: every order of it, then the plan that names them.
    ///
    /// # Errors
    /// [`Code::BadSaga`], [`Code::TooLarge`]; what a host would refuse.
    pub fn seal(&self, draft: &Draft, hosts: &Hosts, signers: &Signers) -> Result<Sealed, Failure> {
        self.check()?;
        let mut orders = Vec::new();
        let plan = self.plan(draft, hosts, |of, on| {
            let envelope = self.seal_order(of, on, hosts, signers)?;
            let hash = envelope.payload_sha256();
            orders.push(envelope);
            Ok(hash)
        })?;
        let envelope = signers.seal(&plan)?.envelope().clone();
        let bytes = envelope.to_json().len();
        if bytes > PLAN_MAX {
            let message = format!("the plan has {bytes} bytes, and may have {PLAN_MAX}; nothing was sent");
            return Err(Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("split it into several sagas"));
        }
        self.root.verify_plan(Signed::new(envelope.clone())?).map_err(|f| Failure::from(f).while_doing("signing the plan"))?;
        Ok(Sealed { plan, envelope, orders, boots: draft.boots.clone() })
    }

    /// Signs an operator's word on a saga.
    ///
    /// # Errors
    /// When it would not be taken.
    pub fn word(&self, saga_id: &SagaId, verb: Verb, signers: &Signers) -> Result<Envelope, Failure> {
        let word = Word {
            cluster: self.root.cluster.clone(),
            saga_id: saga_id.clone(),
            verb,
            issued_at: self.now,
            nonce: nonce()?,
            root_version: self.root.version,
            reason: self.reason.to_owned(),
        };
        let envelope = signers.seal(&word)?.envelope().clone();
        self.root.verify_word(Signed::new(envelope.clone())?).map_err(|f| Failure::from(f).while_doing("signing the word"))?;
        Ok(envelope)
    }
}

fn known<'h>(hosts: &'h Hosts, name: &HostName) -> Result<&'h Known, Failure> {
    hosts.get(name).ok_or_else(|| Failure::local(format!("host {name} was not looked at")))
}

fn nonce() -> Result<Nonce, Failure> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| Failure::local(format!("this machine gives no random numbers: {e}")))?;
    Ok(Nonce::parse(hex::encode(nonce))?)
}
