//! What a guest's config needs.

use std::collections::BTreeMap;

use super::super::adoption;
use super::super::compare::{self, Difference};
use super::super::draft::Draft;
use super::{CONFIG, Case, GuestAct, GuestAction, marker};
use crate::canonical::version_hash;
use crate::drift::shown;
use crate::fault::Code;
use crate::observe::{BURIED_TAG, ObservedGuest, TAG};
use crate::op::guest::GuestOp;
use crate::pve::guest::{self, Config, GuestConfig};
use crate::pve::keys::{self, Shape};
use crate::pve::{GuestKind, tags};
use crate::topology::GuestSpec;

/// Drafts what its config needs; returns whether there is nothing more to be drafted before that is done.
pub(super) fn plan_config(case: &Case<'_>, live: &ObservedGuest, config: &GuestConfig, draft: &mut Draft) -> bool {
    let resource = &case.resource;
    let wanted = wanted(case, live, config);
    let applied = case.applied.map(|spec| &spec.config);
    // What its host does not show is compared with what was written last. What is taken over is as it is.
    let is_written = case.written() == hidden(case.spec) || (live.owner.is_none() && case.is_adopted(live));
    let mut change = match guest::change_given(&wanted, applied, config, is_written) {
        Ok(change) => change,
        Err(wrong) => {
            draft.block(resource, Some(Code::BadContent), format!("its config is none: {wrong}"));
            return false;
        }
    };
    let (mut healed, mut changed) = (Vec::new(), Vec::new());
    for key in change.keys() {
        let difference = difference(case.spec.kind, &key, &wanted, config);
        let is_making = key == "description" && is_made(case, config);
        let has_drifted = !is_making && case.had(|before| before.config.get(&key) == case.spec.config.get(&key));
        if has_drifted && (case.is_left(&difference.field) || change.refused.contains_key(&key)) {
            draft.drift(resource, vec![difference]);
            change.leave(&key);
        } else if let Some(why) = change.refused.get(&key) {
            draft.block(resource, Some(Code::PreconditionFailed), format!("{key}: {why}"));
            change.leave(&key);
        } else if !case.is_asked_for(&difference.field) {
            change.leave(&key);
        } else if has_drifted {
            healed.push(difference);
        } else {
            changed.push(difference);
        }
    }
    if change.is_empty() {
        return false;
    }
    let all: Vec<Difference> = changed.iter().chain(&healed).cloned().collect();
    if live.owner.is_none() && case.is_adopted(live) {
        draft.block(resource, Some(Code::AdoptDiffers), adoption::differs(&all));
        return true;
    }
    draft.step(resource, case.action(GuestAct::Update { change, digest: live.digest.clone() }), compare::reasons(&all));
    draft.heal(resource, healed);
    true
}

/// The hash of those values that hosts do not show; nothing when there are none.
pub(super) fn hidden(spec: &GuestSpec) -> Option<String> {
    let values: Config =
        spec.config.iter().filter(|(key, _)| is_hidden(spec.kind, key)).map(|(key, text)| (key.clone(), text.trim().to_owned())).collect();
    (!values.is_empty()).then(|| version_hash(&values).map(|hash| hash.as_str().to_owned()).unwrap_or_default())
}

/// Whether `act` writes them.
pub(super) fn writes_hidden(spec: &GuestSpec, act: &GuestAct) -> bool {
    if let GuestAct::Update { change, .. } = act { change.set.keys().any(|key| is_hidden(spec.kind, key)) } else { false }
}

/// Whether an operation may leave other values than were written last, of those that hosts do not show.
#[must_use]
pub fn may_change_hidden(op: &GuestOp) -> bool {
    match op {
        GuestOp::SetConfig(change) => change.set.keys().chain(&change.delete).any(|key| is_hidden(change.kind, key)),
        GuestOp::SnapshotRollback(_) | GuestOp::Restore(_) => true,
        GuestOp::Start
        | GuestOp::Stop
        | GuestOp::Shutdown(_)
        | GuestOp::Reboot(_)
        | GuestOp::Suspend(_)
        | GuestOp::Resume
        | GuestOp::Reset
        | GuestOp::Resize(_)
        | GuestOp::SnapshotCreate(_)
        | GuestOp::SnapshotDelete(_)
        | GuestOp::SnapshotList
        | GuestOp::Clone(_)
        | GuestOp::Create(_)
        | GuestOp::Destroy(_)
        | GuestOp::Backup(_)
        | GuestOp::Migrate(_)
        | GuestOp::Check(_) => false,
    }
}

fn is_hidden(kind: GuestKind, key: &str) -> bool {
    keys::find(kind, key).is_ok_and(|known| matches!(known.shape, Shape::PasswordHash))
}

/// Its config with what Moorline needs beside what the slice says.
pub(super) fn wanted(case: &Case<'_>, live: &ObservedGuest, config: &GuestConfig) -> Config {
    let mut wanted = case.spec.config.clone();
    if !case.is_adopted(live) {
        let tags = wanted.get("tags").or_else(|| config.set.get("tags"));
        wanted.insert("tags".to_owned(), tags::with(tags.map_or("", String::as_str), TAG));
    }
    // Who names a guest that was destroyed and is kept wants it back; an operation that holds it as it is has its steps left out.
    if let Some(tags) = wanted.get("tags").or_else(|| config.set.get("tags")).filter(|tags| tags::has(tags, BURIED_TAG)) {
        wanted.insert("tags".to_owned(), tags::without(tags, BURIED_TAG));
    }
    if is_made(case, config) {
        wanted.entry("description".to_owned()).or_default();
    }
    wanted
}

/// Whether it still says that it is being made.
pub(super) fn is_made(case: &Case<'_>, config: &GuestConfig) -> bool {
    let said = config.set.get("description");
    said.is_some_and(|text| text.trim_end() == marker(&case.scene.identity.host_id, case.vmid))
}

/// A key that differs, in words. What nobody may see is not shown.
pub(super) fn difference(kind: GuestKind, key: &str, wanted: &Config, config: &GuestConfig) -> Difference {
    let is_hidden = is_hidden(kind, key);
    let word = |text: Option<&String>, hidden: &str| text.map(|text| if is_hidden { hidden.to_owned() } else { shown(text.trim_end()) });
    let expected = word(wanted.get(key).filter(|text| !text.is_empty()), compare::SEALED_CHANGED);
    let actual = word(config.set.get(key), compare::SEALED_BEFORE);
    Difference { field: format!("{CONFIG}{key}"), expected, actual }
}

/// The config of a guest as fields, for those who review a step.
pub(in crate::plan) fn fields(action: &GuestAction, live: Option<&ObservedGuest>) -> Vec<Difference> {
    let state = |wanted: &str| {
        let actual = live.map(|live| live.status.as_str().to_owned());
        vec![Difference { field: compare::STATE.to_owned(), expected: Some(wanted.to_owned()), actual }]
    };
    let nothing = GuestConfig { kind: action.kind, set: Config::new(), running: BTreeMap::new() };
    match &action.act {
        GuestAct::Create { from, config, .. } => {
            let keys = config.keys().map(|key| difference(action.kind, key, config, &nothing));
            let from = from.as_ref().map(|from| Difference { field: "from".to_owned(), expected: Some(from.to_string()), actual: None });
            keys.chain(from).collect()
        }
        GuestAct::Update { change, .. } => {
            let mut wanted = change.set.clone();
            for (key, bytes) in &change.grow {
                wanted.entry(key.clone()).or_insert_with(|| format!("size={}", crate::pve::scalar::size_text(*bytes)));
            }
            let config = live.and_then(|live| live.config.as_deref()).unwrap_or(&nothing);
            change.keys().into_iter().map(|key| difference(action.kind, &key, &wanted, config)).collect()
        }
        GuestAct::Start | GuestAct::Resume => state("running"),
        GuestAct::Shutdown { .. } => state("stopped"),
        GuestAct::Adopt | GuestAct::Reboot { .. } | GuestAct::Purge => Vec::new(),
    }
}
