//! `moorctl drift revert`: a signed `converge` for the fields of one resource.

use std::collections::BTreeSet;

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::observe::Observed;
use moorline_common::op::{Act, Converge};
use moorline_common::plan::fields::{self, FieldChange};
use moorline_common::plan::lower::LoweredSpec;
use moorline_common::plan::plan_given;
use moorline_common::plan::{Effect, Given, Identity, Mend};
use moorline_common::topology::HostSpec;

use super::Case;
use crate::client::drift::Shown;
use crate::clock;
use crate::cmd::Env;
use crate::cmd::op::{OpWait, OrderArgs, draft, submit};
use crate::error::Failure;
use crate::render::{Ui, visible};
use crate::revision::Previous;
use crate::signers::Signers;

/// What a revert does to its resource.
pub struct Reversion {
    /// What becomes of the object.
    pub effect: Effect,
    verb: &'static str,
    fields: Vec<FieldChange>,
}

impl Reversion {
    /// Whether what runs now does not go on running.
    fn ends_the_object(&self) -> bool {
        matches!(self.effect, Effect::Replace | Effect::Remove)
    }

    /// In one line.
    pub fn words(&self) -> String {
        match self.effect {
            Effect::Create => "it is made anew".to_owned(),
            Effect::InPlace => format!("{} while it stays the same object", self.verb),
            Effect::Replace => format!("it is REPLACED, which resets {}", self.names()),
            Effect::Remove => "it is REMOVED".to_owned(),
        }
    }

    fn names(&self) -> String {
        let names: BTreeSet<&str> = self.fields.iter().map(|f| f.field.as_str()).collect();
        if names.is_empty() { "all that was changed about it".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
    }

    /// Every field that is set back, line by line.
    fn lines(&self) -> String {
        let word = |text: &Option<String>| text.as_deref().map_or_else(|| "nothing".to_owned(), visible);
        self.fields.iter().map(|f| format!("  {}: {} -> {}\n", visible(&f.field), word(&f.live), word(&f.wanted))).collect()
    }
}

/// What reverting `drifts`, all of one resource, means on a host that has `observed` and shall have `spec`.
///
/// # Errors
/// [`Code::PreconditionFailed`] when nothing that may be done mends them.
pub fn effect(identity: &Identity, spec: &HostSpec, observed: &Observed, drifts: &[&Drift]) -> Result<Reversion, Failure> {
    let Some(first) = drifts.first() else { return Err(Failure::usage("no drift is named", "name at least one")) };
    let fields: BTreeSet<String> = drifts.iter().map(|d| d.field.clone()).collect();
    let mend = Mend { resource: first.resource.clone(), fields, replaces: true };
    let plan = plan_given(identity, spec, observed, Given { applied: Some(spec), mend: Some(&mend), ..Given::default() });
    let Some(step) = plan.steps.iter().find(|s| s.resource == first.resource) else {
        let why = plan.blocked.into_iter().find(|b| b.resource == first.resource).map(|b| b.reason);
        let why = why.unwrap_or_else(|| "nothing that Moorline may do changes it".to_owned());
        let failure = Failure::from(Fault::new(Code::PreconditionFailed, format!("{}: {why}", first.resource)));
        return Err(failure.with_remedy("see to it on the host itself, accept the value, or ignore the drift"));
    };
    let detail = fields::of(step, observed, &LoweredSpec::default());
    Ok(Reversion { effect: step.action.effect(), verb: step.action.verb(), fields: detail.fields })
}

/// Runs it.
///
/// # Errors
/// `drift_moved`, `drift_resolved`, `precondition_failed`; how the operation ended otherwise.
pub async fn run(ids: &[u64], reason: &str, wait: &OpWait, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    client.require_signable()?;
    let cases = Case::of_one_resource(&client, ids, "revert").await?;
    let Some(first) = cases.first() else { return Err(Failure::usage("no drift is named", "name at least one")) };
    let drifts = cases.iter().map(Case::signed).collect::<Result<Vec<_>, _>>()?;
    let identity = first.identity(&client)?;
    let current = client.current(&identity.topology, true).await?;
    let previous = Previous::of(current.as_ref(), std::slice::from_ref(&first.host), &client.root);
    let spec = previous.spec_of(&first.host.host_id);
    let spec = spec.ok_or_else(|| Fault::new(Code::NotFound, format!("no slice of host `{}` verifies", first.host.name)))?;
    let effect = effect(&identity, &spec, first.observed(), &drifts)?;
    let resource = first.facts.drift.resource.clone();
    ui.note(&format!("{resource} on `{}`, by its report of {} ago: {}", first.host.name, first.age(), effect.words()));
    ui.note(effect.lines().trim_end());
    if effect.ends_the_object() {
        ui.confirm(&format!("This {} {resource}. Go on?", if effect.effect == Effect::Replace { "replaces" } else { "removes" }))?;
    }
    let fields = drifts.iter().map(|d| d.field.clone()).collect();
    let act = Act::Converge(Converge { fields, in_place: !effect.ends_the_object() });
    let binding = first.host.require_bound()?;
    let args = OrderArgs::usual(reason, wait.clone());
    let class = act.class(&resource);
    let statement = draft::statement(&client.root, binding, &act, (resource, None), &args, clock::now())?;
    let sealed = draft::seal(&client.root, binding, &statement, &Signers::of(&client)?)?;
    let envelope = sealed.whole(submit::SIGN_WITH)?;
    let shown: Vec<Shown> = cases.iter().map(|c| Shown { id: c.facts.id, actual: c.facts.drift.actual.clone() }).collect();
    client.revert_drift(&shown, &envelope).await?;
    submit::follow(&client, ui, &first.host, &statement, class, &envelope, wait).await
}
