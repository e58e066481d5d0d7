//! What may come back by itself: which fallback is signed into each slice of a new revision. Pure.

use std::collections::BTreeMap;

use moorline_common::id::{Generation, HostId};
use moorline_common::statement::{Fallback, SliceStatement};

use crate::client::HostView;
use crate::client::facts::Beat;
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
/// or, where the host says that it has given that up, the fallback that an operator signed into it. A hub that lies about
/// this gains nothing: an agent goes back only to what it really had.
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
    let beats: BTreeMap<&HostId, &Beat> = hosts.iter().filter_map(|h| Some((&h.host_id, h.heartbeat.as_ref()?))).collect();
    let mut fallbacks = BTreeMap::new();
    for change in changes.iter().filter(|c| c.change != ChangeKind::Unchanged) {
        let slice = previous.slices.get(&change.host_id).and_then(Option::as_ref);
        let has_rolled_back = |slice: &&SliceStatement| {
            let beat = beats.get(&change.host_id);
            beat.is_some_and(|b| b.topology.as_ref() == Some(&slice.topology) && b.rolled_back_generation == slice.generation)
        };
        let before = match slice.filter(has_rolled_back).and_then(|slice| slice.fallback.as_ref()) {
            Some(fallback) => Some((fallback.generation, fallback.version_hash.clone())),
            None => previous.content_of(&change.host_id).map(|slice| (slice.generation, slice.version_hash.clone())),
        };
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
}
