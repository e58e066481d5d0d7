//! Roots that follow each other, and what their roles let sign.

use serde_json::json;

use super::*;
use crate::canonical::version_hash;
use crate::id::{Generation, TopologyId};
use crate::sign::PrivateKey;
use crate::statement::Sealed;
use crate::testing::{binding, code, key};

fn role(keys: &[u8], threshold: u32, hosts: &[&str], kinds: &[PayloadType]) -> Role {
    Role {
        keys: keys.iter().map(|&k| key(k).id()).collect(),
        threshold,
        hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
        kinds: kinds.iter().map(|k| k.word().to_owned()).collect(),
        max_class: Class::R4,
    }
}

/// Keys 1 and 2 hold the root role, 3 is an operator for all hosts, 4 for `shop-*` only, 5 and 6
/// bind hosts together.
fn root(version: u64) -> TrustRoot {
    TrustRoot {
        cluster: ClusterId::parse("c").unwrap(),
        version,
        issued_at: UnixSeconds(1),
        expires: UnixSeconds(2),
        keys: (1..=6).map(|k| (key(k).id(), RootKey { name: format!("k{k}"), public: key(k).public() })).collect(),
        roles: BTreeMap::from([
            (ROOT_ROLE.to_owned(), role(&[1, 2], 1, &[], &[])),
            ("operator".to_owned(), role(&[3], 1, &["*"], &[PayloadType::Slice, PayloadType::Topology, PayloadType::HostBinding])),
            ("shops".to_owned(), role(&[4], 1, &["shop-*"], &[PayloadType::Slice, PayloadType::HostBinding])),
            ("binders".to_owned(), role(&[5, 6], 2, &["*"], &[PayloadType::HostBinding])),
        ]),
        hub_ca_spki: BTreeSet::new(),
        revoked: BTreeSet::new(),
        class_thresholds: BTreeMap::new(),
    }
}

fn seal<T: Statement>(statement: &T, keys: &[u8]) -> Signed<T> {
    let keys: Vec<PrivateKey> = keys.iter().map(|&k| key(k)).collect();
    Signed::seal(statement, &keys.iter().collect::<Vec<_>>()).unwrap()
}

fn slice() -> SliceStatement {
    let content = json!({});
    SliceStatement {
        cluster: ClusterId::parse("c").unwrap(),
        topology: TopologyId::parse("t").unwrap(),
        generation: Generation(1),
        host_id: HostId::of_key(&key(9).public()),
        version_hash: version_hash(&content).unwrap(),
        content,
        issued_at: UnixSeconds(1),
        deliver_by: UnixSeconds(2),
        sealed: Sealed::default(),
        fallback: None,
        at_once: false,
    }
}

#[test]
fn the_first_root_is_the_pinned_one_and_signed_by_its_own_root_role() {
    let envelope = seal(&root(1), &[1]).envelope().clone();
    let pin = TrustRoot::pin(&envelope);
    assert_eq!(TrustRoot::verify_first(envelope, &pin).unwrap().statement(), &root(1));
    let other = seal(&TrustRoot { expires: UnixSeconds(3), ..root(1) }, &[1]).envelope().clone();
    assert_eq!(code(TrustRoot::verify_first(other, &pin)), Code::BadRoot);
    for (root, keys, expected) in
        [(root(2), &[1][..], Code::BadRoot), (root(1), &[3], Code::ThresholdNotMet), (root(1), &[8], Code::UnknownKey)]
    {
        let envelope = seal(&root, keys).envelope().clone();
        let pin = TrustRoot::pin(&envelope);
        assert_eq!(code(TrustRoot::verify_first(envelope, &pin)), expected);
    }
}

#[test]
fn a_root_that_contradicts_itself_is_refused_although_it_is_signed() {
    let mut no_root_role = root(1);
    no_root_role.roles.remove(ROOT_ROLE);
    let mut unreachable = root(1);
    unreachable.roles.insert("x".to_owned(), role(&[3], 2, &["*"], &[]));
    let mut zero = root(1);
    zero.roles.insert("x".to_owned(), role(&[3], 0, &["*"], &[]));
    let mut unlisted = root(1);
    unlisted.roles.insert("x".to_owned(), role(&[8], 1, &["*"], &[]));
    let mut misnamed = root(1);
    misnamed.keys.insert(key(7).id(), RootKey { name: String::new(), public: key(8).public() });
    for bad in [no_root_role, unreachable, zero, unlisted, misnamed] {
        let envelope = seal(&bad, &[1]).envelope().clone();
        let pin = TrustRoot::pin(&envelope);
        assert_eq!(code(TrustRoot::verify_first(envelope, &pin)), Code::BadRoot, "{bad:?}");
    }
}

#[test]
fn the_next_root_needs_the_thresholds_of_both_and_no_version_is_skipped() {
    let mut both = root(1);
    both.roles.insert(ROOT_ROLE.to_owned(), role(&[1, 2], 2, &[], &[]));
    let mut next = root(2);
    next.roles.insert(ROOT_ROLE.to_owned(), role(&[3], 1, &[], &[]));
    let envelope = |next: &TrustRoot, keys: &[u8]| seal(next, keys).envelope().clone();
    assert_eq!(both.verify_next(envelope(&next, &[1, 2, 3])).unwrap().statement(), &next);
    assert_eq!(code(both.verify_next(envelope(&next, &[1, 3]))), Code::ThresholdNotMet, "one key of the old two");
    assert_eq!(code(both.verify_next(envelope(&next, &[1, 2]))), Code::ThresholdNotMet, "not the new one");
    assert_eq!(code(both.verify_next(envelope(&root(3), &[1, 2]))), Code::BadRoot, "a version is skipped");
    assert_eq!(code(both.verify_next(envelope(&root(1), &[1, 2]))), Code::Equivocation, "the same version");
    let foreign = TrustRoot { cluster: ClusterId::parse("d").unwrap(), ..root(2) };
    assert_eq!(code(both.verify_next(envelope(&foreign, &[1, 2]))), Code::WrongCluster, "another cluster's");
}

#[test]
fn a_threshold_counts_keys_not_signatures() {
    let root = root(1);
    let mut twice = seal(&binding("shop-1"), &[5]).envelope().clone();
    twice.signatures.push(twice.signatures[0].clone());
    assert_eq!(code(root.verify_binding(Signed::new(twice).unwrap(), None)), Code::ThresholdNotMet);
    assert!(root.verify_binding(seal(&binding("shop-1"), &[5, 6]), None).is_ok());
}

#[test]
fn a_revoked_key_no_longer_counts() {
    let mut root = root(1);
    root.revoked.insert(key(3).id());
    assert_eq!(code(root.verify_slice(seal(&slice(), &[3]), &binding("shop-1"))), Code::RevokedKey);
    root.revoked = BTreeSet::from([key(5).id()]);
    assert_eq!(code(root.verify_binding(seal(&binding("shop-1"), &[5, 6]), None)), Code::ThresholdNotMet);
    root.revoked = BTreeSet::from([key(1).id(), key(2).id()]);
    let next = seal(&TrustRoot { version: 2, ..root.clone() }, &[1, 2]).envelope().clone();
    assert_eq!(code(root.verify_next(next)), Code::RevokedKey);
}

#[test]
fn a_role_reaches_its_hosts_and_kinds_only() {
    let root = root(1);
    assert!(root.verify_slice(seal(&slice(), &[4]), &binding("shop-17")).is_ok());
    assert_eq!(code(root.verify_slice(seal(&slice(), &[4]), &binding("vault"))), Code::OutOfScope);
    assert_eq!(code(root.verify_binding(seal(&binding("vault"), &[4]), None)), Code::OutOfScope);
    assert_eq!(code(root.verify_slice(seal(&slice(), &[5, 6]), &binding("shop-17"))), Code::OutOfScope);
    // The root role signs roots and nothing else.
    assert_eq!(code(root.verify_slice(seal(&slice(), &[1, 2]), &binding("shop-17"))), Code::OutOfScope);
}

#[test]
fn a_host_is_not_taken_over_by_a_name_in_the_signers_reach() {
    let root = root(1);
    let (vault, shop) = (HostName::parse("vault").unwrap(), HostName::parse("shop-9").unwrap());
    let renamed = || HostBinding { serial: 2, ..binding("shop-1") };
    assert_eq!(code(root.verify_rebinding(seal(&renamed(), &[4]), None, Some(&vault))), Code::OutOfScope);
    assert!(root.verify_rebinding(seal(&renamed(), &[4]), None, Some(&shop)).is_ok());
    assert!(root.verify_rebinding(seal(&renamed(), &[4]), None, None).is_ok());
}

#[test]
fn a_slice_is_for_one_host_of_one_cluster_and_has_the_hash_that_it_names() {
    let root = root(1);
    let host = binding("shop-17");
    let refused = |slice: SliceStatement| code(root.verify_slice(seal(&slice, &[3]), &host));
    assert_eq!(refused(SliceStatement { cluster: ClusterId::parse("d").unwrap(), ..slice() }), Code::WrongCluster);
    assert_eq!(refused(SliceStatement { host_id: HostId::of_key(&[0; 32]), ..slice() }), Code::WrongHost);
    assert_eq!(refused(SliceStatement { version_hash: version_hash(&1).unwrap(), ..slice() }), Code::HashMismatch);
    let content = json!({ "docker": { "gpus": 1 } });
    assert_eq!(refused(SliceStatement { version_hash: version_hash(&content).unwrap(), content, ..slice() }), Code::BadContent);
    assert_eq!(code(root.verify_slice(seal(&slice(), &[8]), &host)), Code::UnknownKey);
}

#[test]
fn a_binding_is_of_the_key_that_it_names_and_for_the_host_that_asks() {
    let root = root(1);
    let own = HostId::of_key(&key(9).public());
    assert!(root.verify_binding(seal(&binding("shop-1"), &[3]), Some(&own)).is_ok());
    assert_eq!(code(root.verify_binding(seal(&binding("shop-1"), &[3]), Some(&HostId::of_key(&[0; 32])))), Code::WrongHost);
    let stolen = HostBinding { host_key: key(8).public(), ..binding("shop-1") };
    assert_eq!(code(root.verify_binding(seal(&stolen, &[3]), Some(&own))), Code::BadEnvelope);
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, text, expected) in [
        ("*", "anything", true),
        ("*", "", true),
        ("shop-*", "shop-17", true),
        ("shop-*", "my-shop-17", false),
        ("*.sydney", "shop.sydney", true),
        ("*.sydney", "shop.sydney.x", false),
        ("a*b*c", "a1b2c", true),
        ("a*b*c", "acb", false),
        ("a*a", "a", false),
        ("exact", "exact", true),
        ("exact", "exactly", false),
        ("", "x", false),
    ] {
        assert_eq!(glob_matches(pattern, text), expected, "{pattern} {text}");
    }
}
