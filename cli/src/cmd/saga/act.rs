//! What an operator says of a saga that is under way: signed here, about a plan that was verified here.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::op;
use moorline_common::saga::{HostAct, OfSaga, Plan, Side, StepNumber, Task, Verb, step_by_words};

use super::{OnSaga, OnStep, start, view};
use crate::client::Client;
use crate::client::sagas::SagaFacts;
use crate::clock;
use crate::cmd::op::submit;
use crate::error::Failure;
use crate::render::Ui;
use crate::saga::OnHost;
use crate::saga::given::{Known, incarnation};
use crate::saga::seal::{EXPIRES_DEFAULT_S, Terms, UNDO_DEFAULT_S};
use crate::signers::Signers;

/// A saga whose plan was verified.
struct Under {
    client: Client,
    facts: SagaFacts,
    plan: Plan,
}

impl Under {
    async fn find(on: &OnSaga, client: Client) -> Result<Self, Failure> {
        client.require_signable()?;
        let facts = client.saga(&on.saga_id).await?;
        let plan = client.plan_of(&facts).map_err(|fault| {
            let message = format!("THE PLAN OF SAGA {} IS NOT WHAT OPERATORS SIGNED: {}; nothing was signed", on.saga_id, fault.message);
            Failure::from(Fault { message, ..fault })
                .with_remedy("believe nothing that the hub says of this saga; look at its hosts themselves")
        })?;
        let plan = plan.into_statement();
        Ok(Self { client, facts, plan })
    }

    fn side(&self, on: &OnStep) -> Result<(StepNumber, Side, &Task), Failure> {
        let side = if on.undo { Side::Undo } else { Side::Do };
        let Some(step) = step_by_words(&self.plan, &on.step) else {
            let names: Vec<String> = self.plan.steps.iter().enumerate().map(|(n, step)| format!("{} ({})", n + 1, step.name)).collect();
            return Err(Failure::usage(format!("the saga has no step `{}`", on.step), format!("it has {}", names.join(", "))));
        };
        match self.plan.task(step, side) {
            Some(task) => Ok((step, side, task)),
            None => Err(Failure::usage(format!("nothing undoes step `{}`", on.step), "leave --undo out")),
        }
    }

    fn terms<'a>(&'a self, reason: &'a str, expires: Option<Duration>) -> Terms<'a> {
        let expires = expires.map(|span| span.as_secs());
        Terms {
            root: &self.client.root,
            now: clock::now(),
            expires_s: expires.unwrap_or(EXPIRES_DEFAULT_S),
            undo_s: expires.unwrap_or(UNDO_DEFAULT_S).max(expires.unwrap_or(EXPIRES_DEFAULT_S)),
            deployment: "",
            reason,
        }
    }

    /// Signs a word and hands it in.
    async fn say(self, ui: &mut Ui, on: &OnSaga, verb: Verb) -> Result<u8, Failure> {
        let said = verb.as_str();
        let word = self.terms(&on.reason, None).word(&self.facts.saga_id, verb, &Signers::of(&self.client)?)?;
        let facts = self.client.act_on_saga(&on.saga_id, &word, &[]).await.map_err(|failure| not_taken(failure, on))?;
        told(ui, &facts, said)
    }
}

/// What an operator does when a word comes too late.
fn not_taken(failure: Failure, on: &OnSaga) -> Failure {
    if failure.is(Code::Conflict) || failure.is(Code::PreconditionFailed) {
        return failure.with_remedy(format!("look at it again with `moorctl saga show {}`", on.saga_id));
    }
    failure
}

fn told(ui: &mut Ui, facts: &SagaFacts, said: &str) -> Result<u8, Failure> {
    ui.result(facts, || format!("{said}: {}\n", view::headline(facts)))?;
    Ok(0)
}

/// Signs further tries.
pub async fn retry(on: &OnStep, expires: Option<Duration>, client: Client, ui: &mut Ui) -> Result<u8, Failure> {
    let under = Under::find(&on.on, client).await?;
    let (step, side, task) = under.side(on)?;
    let signers = Signers::of(&under.client)?;
    let terms = under.terms(&on.on.reason, expires);
    terms.check()?;
    let mut orders = Vec::new();
    if let Some(act) = task.act.host() {
        let hosts = start::look(&under.client, ui, &BTreeSet::from([act.host.clone()])).await?;
        let host = hosts.get(&act.host).ok_or_else(|| Failure::local(format!("host {} was not looked at", act.host)))?;
        let aimed = aim(&under.plan, act, host).map_err(|failure| {
            if !failure.is(Code::NotFound) {
                return failure;
            }
            let flag = if on.undo { " --undo" } else { "" };
            failure.with_remedy(format!("if there is nothing left to do: `moorctl saga skip {} {}{flag}`", on.on.saga_id, on.step))
        })?;
        submit::confirm(ui, aimed.act.class(&aimed.resource), &format!("{} again, {side} of step `{}`", act.kind, on.step))?;
        let first = first_try(&under.facts, step, side, task);
        for attempt in first..first.saturating_add(task.attempts) {
            let of = OfSaga { saga_id: under.plan.saga_id.clone(), step, side, attempt };
            orders.push(terms.seal_order(of, &aimed, &hosts, &signers)?);
        }
    }
    let verb = Verb::Retry { step, side, orders: orders.iter().map(moorline_common::sign::Envelope::payload_sha256).collect() };
    let said = verb.as_str();
    let word = terms.word(&under.plan.saga_id, verb, &signers)?;
    let facts = under.client.act_on_saga(&on.on.saga_id, &word, &orders).await.map_err(|failure| not_taken(failure, &on.on))?;
    told(ui, &facts, said)
}

/// What a further order is for: as in the plan, and the very resource that is there now.
pub(super) fn aim(plan: &Plan, act: &HostAct, host: &Known) -> Result<OnHost, Failure> {
    if plan.host_id(&act.host).as_ref() != Some(&host.binding.host_id) {
        let message = format!("host {} is another one than when the saga was signed", act.host);
        return Err(Failure::from(Fault::new(Code::WrongHost, message)).with_remedy("`moorctl saga skip` or `moorctl saga abandon`"));
    }
    let wanted = op::Act::read(&act.kind, &act.params, &act.resource)?;
    let on =
        OnHost { host: act.host.clone(), resource: act.resource.clone(), act: wanted, incarnation: None, made_by: act.made_by.clone() };
    Ok(OnHost { incarnation: incarnation(&on, host.observed.as_ref())?, ..on })
}

/// The number of the first further try.
pub(super) fn first_try(facts: &SagaFacts, step: StepNumber, side: Side, task: &Task) -> u32 {
    let line = facts.steps.get(step).and_then(|step| match side {
        Side::Do => Some(&step.run),
        Side::Undo => step.undo.as_ref(),
    });
    line.map_or(task.attempts, |line| line.allowed).saturating_add(1)
}

/// Takes a step out.
pub async fn skip(on: &OnStep, client: Client, ui: &mut Ui) -> Result<u8, Failure> {
    let under = Under::find(&on.on, client).await?;
    let (step, side, _) = under.side(on)?;
    under.say(ui, &on.on, Verb::Skip { step, side }).await
}

/// Lets a saga go back.
pub async fn abort(on: &OnSaga, client: Client, ui: &mut Ui) -> Result<u8, Failure> {
    let under = Under::find(on, client).await?;
    let begun = under.facts.groups_begun;
    if begun > under.plan.groups() {
        let message = format!("the hub says that {begun} groups of the saga have begun, and it has {}", under.plan.groups());
        return Err(Fault::new(Code::BadEnvelope, message).into());
    }
    under.say(ui, on, Verb::Abort { begun }).await
}

/// Leaves a saga as it is.
pub async fn abandon(on: &OnSaga, client: Client, ui: &mut Ui) -> Result<u8, Failure> {
    let under = Under::find(on, client).await?;
    ui.confirm(&format!("What saga {} has done stays, and nobody undoes it. Go on?", on.saga_id))?;
    under.say(ui, on, Verb::Abandon).await
}
