//! What may come back by itself: which fallback is signed into each slice of a new revision. Pure.

use std::collections::BTreeMap;

use moorline_common::fault::Code;
use moorline_common::id::{Generation, HostId, VersionHash};
use moorline_common::statement::{Fallback, SliceStatement};

use crate::client::HostView;
use crate::client::facts::{Beat, TargetFacts};
use crate::error::Failure;
use crate::revision::{ChangeKind, HostChange, Previous, empty_hash};

/// When a host goes back by itself from a new revision to what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// See [`Fallback::within_s`].
    pub within_s: u64,
    /// See [`Fallback::healthy_for_s`].
    pub healthy_for_s: u64,
    /// See [`Fallback::needs_confirm`]. Then hosts that had nothing are torn down again; without it they have no fallback.
    pub needs_confirm: bool,
}

/// The fallback of each host that `changes` change, by `terms`: what is in force there. That is the slice of the revision before,
/// or, where the host says that it has given that up, the fallback that an operator signed into it; where it has not come to
/// that revision at all, as its rollout or its maintenance window has not, what it says that it has. A hub that lies about this gains nothing: an
/// agent goes back only to what it really had.
///
/// # Errors
/// As [`empty_hash`].
pub fn fallbacks(
    terms: Terms,
    changes: &[HostChange],
    previous: &Previous,
    hosts: &[HostView],
) -> Result<BTreeMap<HostId, Fallback>, Failure> {
    let Terms { within_s, healthy_for_s, needs_confirm } = terms;
    let empty = empty_hash()?;
    let views: BTreeMap<&HostId, &HostView> = hosts.iter().map(|h| (&h.host_id, h)).collect();
    let mut fallbacks = BTreeMap::new();
    for change in changes {
        let slice = previous.slices.get(&change.host_id).and_then(Option::as_ref);
        let view = views.get(&change.host_id).copied();
        let has_rolled_back = |slice: &&SliceStatement| {
            let beat = view.and_then(|v| v.heartbeat.as_ref());
            beat.is_some_and(|b| b.topology.as_ref() == Some(&slice.topology) && b.rolled_back_generation == slice.generation)
        };
        let gave_up = slice.filter(has_rolled_back);
        let withheld = slice.zip(view).and_then(|(slice, view)| has_instead(slice, view));
        let before = match (withheld, gave_up.and_then(|slice| slice.fallback.as_ref())) {
            (Some(before), _) => Some(before),
            (None, Some(fallback)) => Some((fallback.generation, fallback.version_hash.clone())),
            (None, None) => previous.content_of(&change.host_id).map(|slice| (slice.generation, slice.version_hash.clone())),
        };
        if before.as_ref().is_some_and(|(_, hash)| *hash == change.to) {
            continue;
        }
        let before = before.filter(|(_, hash)| *hash != empty);
        let (generation, version_hash) = match before {
            Some(before) => before,
            None if needs_confirm && change.change != ChangeKind::Leaves => (Generation(0), empty.clone()),
            None => continue,
        };
        let fallback = Fallback { generation, version_hash, within_s, healthy_for_s, needs_confirm };
        fallbacks.insert(change.host_id.clone(), fallback);
    }
    Ok(fallbacks)
}

/// What a host has as a whole in the place of `slice`: it was not given that yet, or could not make it so.
fn has_instead(slice: &SliceStatement, host: &HostView) -> Option<(Generation, VersionHash)> {
    let beat = host.heartbeat.as_ref().filter(|b| b.topology.as_ref() == Some(&slice.topology) && b.applied_generation > Generation(0));
    let waits = host.last_error.as_ref().is_some_and(|fault| fault.code == Code::OutsideMaintenance);
    // It has accepted it, and what it could make of it is not the whole: it goes back to what it had as a whole.
    let is_stuck = |b: &&Beat| b.generation == slice.generation && !b.converging && b.applied_generation < slice.generation;
    let is_stuck = beat.as_ref().is_some_and(is_stuck) && beat.is_some_and(|b| b.rolled_back_generation != slice.generation);
    let is_behind = |t: &&TargetFacts| t.topology == slice.topology && (t.generation < slice.generation || waits || is_stuck);
    let target = host.target.as_ref().filter(is_behind)?;
    match beat.and_then(|b| Some((b.applied_generation, b.applied.clone()?))) {
        Some(applied) => Some(applied),
        None => Some((target.generation, target.hash.clone()?)),
    }
}

#[cfg(test)]
mod tests {
    use moorline_common::topology::HostSpec;
    use moorline_proto::v1 as pb;

    use super::*;
    use crate::revision::tests::{draft, host, keys, pen, previous, spec, trust};
    use crate::revision::{Draft, changes, content_hash};

    #[test]
    fn a_fallback_names_what_an_operator_signed_and_the_host_has_in_force() {
        let mut hosts = vec![host(10, "a"), host(11, "b"), host(12, "c"), host(13, "d")];
        let id = |n: u8| host(10 + n, "x").host_id;
        let ttl = Terms { within_s: 60, healthy_for_s: 0, needs_confirm: true };
        let by_health = Terms { within_s: 60, healthy_for_s: 30, needs_confirm: false };
        let first = draft(1, BTreeMap::from([(id(0), spec("x")), (id(1), spec("x")), (id(2), spec("x"))]));
        let signed = pen(&trust(), &keys().1.into()).sign(&first, &hosts).unwrap();
        let before = previous(&signed, &hosts);
        let wanted = BTreeMap::from([(id(0), spec("x")), (id(1), spec("y")), (id(2), HostSpec::default()), (id(3), spec("x"))]);
        let named = |terms, wanted: &BTreeMap<HostId, HostSpec>, before: &Previous, hosts: &[HostView]| {
            let changes = changes(wanted, before, hosts).unwrap();
            let fallbacks = fallbacks(terms, &changes, before, hosts).unwrap();
            assert!(fallbacks.values().all(|f| (f.within_s, f.needs_confirm) == (60, terms.needs_confirm)));
            let names = fallbacks.iter().map(|(host, f)| (host.clone(), (f.generation.0, f.version_hash.clone())));
            names.collect::<BTreeMap<_, _>>()
        };
        let (had, nothing) = ((1, content_hash(&spec("x")).unwrap()), (0, empty_hash().unwrap()));
        let expected = BTreeMap::from([(id(1), had.clone()), (id(2), had.clone()), (id(3), nothing.clone())]);
        assert_eq!(named(ttl, &wanted, &before, &hosts), expected, "none for what does not change");
        let healthy = BTreeMap::from([(id(1), had.clone()), (id(2), had.clone())]);
        assert_eq!(named(by_health, &wanted, &before, &hosts), healthy, "a first slice that fails is looked at, not torn down");

        let second =
            Draft { fallbacks: fallbacks(ttl, &changes(&wanted, &before, &hosts).unwrap(), &before, &hosts).unwrap(), ..draft(2, wanted) };
        let signed = pen(&trust(), &keys().1.into()).sign(&second, &hosts).unwrap();
        let before = previous(&signed, &hosts);
        let mended: BTreeMap<_, _> = (0..4).map(|n| (id(n), spec("z"))).collect();
        let in_force = (2, content_hash(&spec("y")).unwrap());
        assert_eq!(named(ttl, &mended, &before, &hosts)[&id(1)], in_force);
        let gone_back = pb::Heartbeat { topology: "edge".into(), generation: 2, rolled_back_generation: 2, ..Default::default() };
        for host in &mut hosts {
            host.heartbeat = Some(Beat::try_from(gone_back.clone()).unwrap());
        }
        let names = named(ttl, &mended, &before, &hosts);
        assert_eq!((&names[&id(1)], &names[&id(3)]), (&had, &nothing), "what came back, by the slice that named it");
        hosts[1].heartbeat = Some(Beat::try_from(pb::Heartbeat { rolled_back_generation: 1, ..gone_back }).unwrap());
        assert_eq!(named(ttl, &mended, &before, &hosts)[&id(1)], in_force, "an earlier one's end is no matter");
    }

    #[test]
    fn a_host_to_which_the_revision_before_did_not_come_goes_back_to_what_it_has() {
        let mut hosts = vec![host(10, "a"), host(11, "b")];
        let id = |n: u8| host(10 + n, "x").host_id;
        let terms = Terms { within_s: 60, healthy_for_s: 30, needs_confirm: false };
        let failed = draft(2, BTreeMap::from([(id(0), spec("broken")), (id(1), spec("broken"))]));
        let signed = pen(&trust(), &keys().1.into()).sign(&failed, &hosts).unwrap();
        let before = previous(&signed, &hosts);
        let good = content_hash(&spec("good")).unwrap();
        let target = TargetFacts { topology: failed.topology, generation: Generation(1), hash: Some(good.clone()) };
        hosts[0].target = Some(target.clone());
        let named = |image: &str, hosts: &[HostView]| {
            let wanted = BTreeMap::from([(id(0), spec(image)), (id(1), spec(image))]);
            let fallbacks = fallbacks(terms, &changes(&wanted, &before, hosts).unwrap(), &before, hosts).unwrap();
            fallbacks.into_iter().map(|(host, f)| (host, (f.generation.0, f.version_hash))).collect::<BTreeMap<_, _>>()
        };
        let broken = content_hash(&spec("broken")).unwrap();
        assert_eq!(named("mended", &hosts), BTreeMap::from([(id(0), (1, good.clone())), (id(1), (2, broken))]));
        assert_eq!(named("broken", &hosts), BTreeMap::from([(id(0), (1, good.clone()))]), "to it, the same again is new");
        assert_eq!(named("good", &hosts).get(&id(0)), None, "it has that");
        // It accepted that revision, and never had it as a whole; while it is at it nobody knows.
        let mut stuck = hosts.clone();
        stuck[1].target = Some(TargetFacts { generation: Generation(2), ..target });
        let beat = |converging: bool| {
            let beat = pb::Heartbeat { topology: "edge".into(), generation: 2, applied_generation: 1, converging, ..Default::default() };
            Some(Beat::try_from(pb::Heartbeat { applied_hash: good.to_string(), ..beat }).unwrap())
        };
        for (converging, expected) in [(false, (1, good.clone())), (true, (2, content_hash(&spec("broken")).unwrap()))] {
            stuck[1].heartbeat = beat(converging);
            assert_eq!(named("mended", &stuck)[&id(1)], expected);
        }
        // It went back from generation 1 itself.
        let beat = pb::Heartbeat {
            topology: "edge".into(),
            generation: 1,
            rolled_back_generation: 1,
            applied_generation: 7,
            applied_hash: good.to_string(),
            ..Default::default()
        };
        hosts[0].heartbeat = Some(Beat::try_from(beat).unwrap());
        assert_eq!(named("mended", &hosts)[&id(0)], (7, good));
    }
}
