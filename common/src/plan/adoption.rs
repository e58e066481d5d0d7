//! Taking over what others made: only what is as the slice says, and never at the price of making it anew.

use super::compare::{self, Difference};
use super::draft::Draft;
use super::{Action, model};
use crate::fault::Code;
use crate::id::ResourceId;
use crate::observe::{Observed, Owner};

/// Takes over what is as the slice says, and nothing else: what differs would be made anew, and nobody has asked for that.
pub(super) fn plan(resource: &ResourceId, action: Action, differences: &[Difference], draft: &mut Draft) {
    if differences.is_empty() {
        draft.step(resource, action, "is taken over as it is".to_owned());
    } else {
        draft.block(resource, Some(Code::AdoptDiffers), differs(differences));
    }
}

/// Why something is not taken over.
pub(super) fn differs(differences: &[Difference]) -> String {
    format!(
        "it is to be taken over, and is not as the topology says: {}; import it again, or change it once it is taken over",
        compare::reasons(differences)
    )
}

/// Why an object is not taken over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdopted {
    /// It is gone, or another object bears its name now.
    #[error("it is gone, which was to be taken over")]
    Gone,
    /// The engine lists it, and said nothing more.
    #[error("it is to be taken over, and could not be compared with what the topology says")]
    Unseen,
    /// It belongs to another resource or topology.
    #[error("it is `{0}`")]
    Taken(ResourceId),
    /// It would be made anew.
    #[error("{0}")]
    Differs(String),
}

/// Whether what `action` takes over is in `observed` as the slice says. A plan may be made before everything was seen of an
/// object that nobody asked about until then; whoever carries it out asks once more.
///
/// # Errors
/// [`NotAdopted`].
pub fn check(action: &Action, observed: &Observed) -> Result<(), NotAdopted> {
    let (owner, labels, differences) = match action {
        Action::AdoptContainer { id, target } => {
            let live = observed.containers.get(&target.name).filter(|live| live.id == *id).ok_or(NotAdopted::Gone)?;
            (&live.owner, &target.labels, live.config.as_ref().map(|_| compare::container(target, live)))
        }
        Action::AdoptNetwork { id, target } => {
            let live = observed.networks.get(&target.name).filter(|live| live.id == *id).ok_or(NotAdopted::Gone)?;
            (&live.owner, &target.labels, (!live.driver.is_empty()).then(|| compare::network(&target.spec, live)))
        }
        Action::AdoptVolume(target) => {
            let live = observed.volumes.get(&target.name).ok_or(NotAdopted::Gone)?;
            (&live.owner, &target.labels, (!live.driver.is_empty()).then(|| compare::volume(&target.spec, live)))
        }
        Action::CreateNetwork(_)
        | Action::ReplaceNetwork { .. }
        | Action::RemoveNetwork { .. }
        | Action::CreateVolume(_)
        | Action::CreateContainer(_)
        | Action::StartContainer { .. }
        | Action::UnpauseContainer { .. }
        | Action::UpdateContainer { .. }
        | Action::ReplaceContainer { .. }
        | Action::RemoveContainer { .. }
        | Action::Guest(_) => return Ok(()),
    };
    let ours = model::owner_of(labels);
    let is_ours = |owner: &Owner| ours.as_ref().is_some_and(|ours| (&ours.topology, &ours.resource) == (&owner.topology, &owner.resource));
    if let Some(other) = owner.as_ref().filter(|owner| !is_ours(owner)) {
        return Err(NotAdopted::Taken(other.resource.clone()));
    }
    match differences.ok_or(NotAdopted::Unseen)? {
        differences if differences.is_empty() => Ok(()),
        differences => Err(NotAdopted::Differs(differs(&differences))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::Engine;
    use super::super::plan;
    use super::super::testing::{identity, settled, spec};
    use super::*;
    use crate::topology::HostSpec;

    fn shop(adopt: Option<(&str, &str)>) -> HostSpec {
        let mut docker = json!({ "networks": { "net": { "name": "net", "internal": false } }, "volumes": { "data": { "name": "data", "driver": "local" } },
            "services": { "db": { "container_name": "db", "image": "i", "networks": { "net": {} },
                "volumes": { "/data": { "type": "volume", "source": "data" } } } } });
        if let Some((network, container)) = adopt {
            docker["networks"]["net"]["adopt"] = json!(network);
            docker["volumes"]["data"]["adopt"] = json!("data");
            docker["services"]["db"]["adopt"] = json!(container);
        }
        spec(json!({ "docker": docker }))
    }

    /// A host where somebody else made all of [`shop`], and the steps that take it over.
    fn by_others() -> (Engine, Vec<Action>) {
        let mut engine = settled(&shop(None));
        engine.networks.values_mut().for_each(|live| live.owner = None);
        engine.volumes.values_mut().for_each(|live| live.owner = None);
        engine.containers.values_mut().for_each(|live| live.owner = None);
        let wanted = shop(Some((&engine.networks["net"].id, &engine.containers["db"].id)));
        let planned = plan(&identity(), &wanted, &engine.observed());
        assert!(planned.blocked.is_empty(), "{planned:?}");
        (engine, planned.steps.into_iter().map(|step| step.action).collect())
    }

    #[test]
    fn what_is_as_the_slice_says_is_taken_over() {
        let (engine, actions) = by_others();
        assert_eq!(actions.iter().map(Action::verb).collect::<Vec<_>>(), ["adopt"; 3]);
        assert!(actions.iter().all(|action| check(action, &engine.observed()) == Ok(())));
    }

    #[test]
    fn what_is_gone_unseen_or_other_than_it_was_planned_on_is_not() {
        type Change = fn(&mut Engine);
        let unseen: Change = |engine| {
            engine.networks.values_mut().for_each(|live| live.driver.clear());
            engine.volumes.values_mut().for_each(|live| live.driver.clear());
            engine.containers.values_mut().for_each(|live| live.config = None);
        };
        let gone: Change = |engine| *engine = Engine::default();
        let differs: Change = |engine| {
            engine.networks.values_mut().for_each(|live| live.internal = true);
            engine.volumes.values_mut().for_each(|live| live.driver = "nfs".to_owned());
            engine.containers.values_mut().for_each(|live| live.image = "other".to_owned());
        };
        let another: Change = |engine| {
            let other = Owner {
                topology: "other".to_owned(),
                resource: ResourceId::clock(),
                spec: String::new(),
                base: String::new(),
                adopted: false,
                hidden: None,
            };
            engine.networks.values_mut().for_each(|live| live.owner = Some(other.clone()));
            engine.volumes.values_mut().for_each(|live| live.owner = Some(other.clone()));
            engine.containers.values_mut().for_each(|live| live.owner = Some(other.clone()));
        };
        for (change, words) in
            [(unseen, "could not be compared"), (gone, "is gone"), (differs, "not as the topology says"), (another, "it is `clock`")]
        {
            let (mut engine, actions) = by_others();
            change(&mut engine);
            for action in &actions {
                let cause = check(action, &engine.observed()).unwrap_err().to_string();
                assert!(cause.contains(words), "{action:?}: {cause}");
            }
        }
        // Another object under the same name is not the one that was meant; a volume is its name.
        let (mut engine, actions) = by_others();
        engine.networks.values_mut().for_each(|live| live.id = "new".to_owned());
        engine.containers.values_mut().for_each(|live| live.id = "new".to_owned());
        let gone = actions.iter().filter(|action| check(action, &engine.observed()) == Err(NotAdopted::Gone));
        assert_eq!(gone.count(), 2);
    }
}
