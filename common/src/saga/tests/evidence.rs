//! What hosts are shown is verified.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::op::{Class, Outcome, Receipt};
use crate::sign::{Envelope, PrivateKey, Signed, Statement};
use crate::testing::code;
use crate::trust::{EVIDENCE_MAX, Evidence, ROOT_ROLE, Role, RootKey, TrustRoot};

/// Key 3 orders anything, key 4 on host `a` only, key 5 signs slices, and key 6 is revoked.
fn root() -> TrustRoot {
    let role = |keys: &[u8], hosts: &str, kind: &str| Role {
        keys: keys.iter().map(|&k| key(k).id()).collect(),
        threshold: 1,
        hosts: vec![hosts.to_owned()],
        kinds: [kind.to_owned()].into(),
        max_class: Class::R4,
    };
    TrustRoot {
        cluster: ClusterId::parse("c").unwrap(),
        version: 1,
        issued_at: UnixSeconds(1),
        expires: UnixSeconds(2),
        keys: (1..=6).map(|k| (key(k).id(), RootKey { name: format!("k{k}"), public: key(k).public() })).collect(),
        roles: BTreeMap::from([
            (ROOT_ROLE.to_owned(), role(&[1], "*", "root")),
            ("operator".to_owned(), role(&[3, 6], "*", "op")),
            ("some".to_owned(), role(&[4], "a", "op")),
            ("slices".to_owned(), role(&[5], "*", "slice")),
        ]),
        hub_ca_spki: BTreeSet::new(),
        revoked: [key(6).id()].into(),
        class_thresholds: BTreeMap::new(),
    }
}

fn seal<T: Statement>(statement: &T, by: &PrivateKey) -> Envelope {
    Signed::seal(statement, &[by]).unwrap().envelope().clone()
}

/// `one` on host `a`, then `two` on host `b`.
fn two_steps() -> Plan {
    plan(vec![step("one", 0, "a"), step("two", 1, "b")])
}

fn done_on(plan: &Plan) -> Receipt {
    receipt(plan, 0, Side::Do, 1, Outcome::Succeeded, None)
}

/// All that host `b` has to be shown, and a word that does not matter.
fn good() -> Evidence {
    let plan = two_steps();
    let word = word(&plan, Verb::Skip { step: 1, side: Side::Do });
    Evidence { receipts: vec![seal(&done_on(&plan), &host_key("a"))], words: vec![seal(&word, &key(3))], plan: seal(&plan, &key(3)) }
}

fn verify(evidence: Evidence) -> Result<Shown, Fault> {
    root().verify_evidence(evidence, &order(&two_steps(), 1, Side::Do, 1), &host("b"))
}

#[test]
fn what_is_signed_by_those_who_may_is_believed() {
    let shown = verify(good()).unwrap();
    let judged = shown.judge(&order(&two_steps(), 1, Side::Do, 1), &order_hash(1, Side::Do, 1), |_| None);
    assert_eq!(judged, Ok(Turn::Go { incarnation: None }));
}

#[test]
fn a_plan_counts_if_its_signers_could_have_signed_the_order() {
    for (signer, expected) in
        [(4, Code::OutOfScope), (5, Code::OutOfScope), (1, Code::OutOfScope), (6, Code::RevokedKey), (9, Code::UnknownKey)]
    {
        assert_eq!(code(verify(Evidence { plan: seal(&two_steps(), &key(signer)), ..good() })), expected, "key {signer}");
    }
    let foreign = Plan { cluster: ClusterId::parse("d").unwrap(), ..two_steps() };
    assert_eq!(code(verify(Evidence { plan: seal(&foreign, &key(3)), ..good() })), Code::WrongCluster);
    let bad = Plan { steps: Vec::new(), ..two_steps() };
    assert_eq!(code(verify(Evidence { plan: seal(&bad, &key(3)), ..good() })), Code::BadSaga);
    let no_plan = seal(&word(&two_steps(), Verb::Abandon), &key(3));
    assert_eq!(code(verify(Evidence { plan: no_plan, ..good() })), Code::WrongType);
    let mut changed = seal(&two_steps(), &key(3));
    changed.payload = seal(&plan(vec![step("two", 0, "b")]), &key(3)).payload;
    assert_eq!(code(verify(Evidence { plan: changed, ..good() })), Code::BadSignature);
}

#[test]
fn a_word_counts_if_its_signers_could_have_signed_the_order_and_it_is_about_this_saga() {
    let said = |by: u8, word: Word| verify(Evidence { words: vec![seal(&word, &key(by))], ..good() });
    let abort = || word(&two_steps(), Verb::Abort { begun: 1 });
    assert!(said(3, abort()).is_ok());
    for (signer, expected) in [(4, Code::OutOfScope), (5, Code::OutOfScope), (6, Code::RevokedKey), (9, Code::UnknownKey)] {
        assert_eq!(code(said(signer, abort())), expected, "key {signer}");
    }
    assert_eq!(code(said(3, Word { cluster: ClusterId::parse("d").unwrap(), ..abort() })), Code::WrongCluster);
    let other = SagaId::parse(SAGA.replace("0197", "0198")).unwrap();
    assert_eq!(code(said(3, Word { saga_id: other, ..abort() })), Code::BadSaga);
}

#[test]
fn a_receipt_counts_if_the_host_that_speaks_is_named_by_the_plan_and_signed_it() {
    let signed = |receipt: &Receipt, by: &PrivateKey| verify(Evidence { receipts: vec![seal(receipt, by)], ..good() });
    let receipt = done_on(&two_steps());
    assert!(signed(&receipt, &host_key("a")).is_ok());
    for by in [host_key("b"), key(3)] {
        assert_eq!(code(signed(&receipt, &by)), Code::UnknownKey, "it says that it is of host `a`");
    }
    let stranger = Receipt { host_id: crate::id::HostId::of_key(&key(7).public()), ..receipt.clone() };
    assert_eq!(code(signed(&stranger, &key(7))), Code::UnknownKey);
    let foreign = Receipt { cluster: ClusterId::parse("d").unwrap(), ..receipt.clone() };
    assert_eq!(code(signed(&foreign, &host_key("a"))), Code::WrongCluster);
    // Another host's word on the same order is verified, and says nothing.
    let others = Receipt { host_id: crate::id::HostId::of_key(&host_key("c").public()), ..receipt };
    let shown = signed(&others, &host_key("c")).map(|shown| Shown { words: Vec::new(), ..shown }).unwrap();
    let judged = shown.judge(&order(&two_steps(), 1, Side::Do, 1), &order_hash(1, Side::Do, 1), |_| None);
    assert_eq!(judged.unwrap_err().code, Code::SagaUnproven);
}

#[test]
fn so_much_is_shown_at_most() {
    let one = seal(&done_on(&two_steps()), &host_key("a"));
    let many = Evidence { receipts: vec![one; EVIDENCE_MAX], ..good() };
    assert_eq!(code(verify(many)), Code::TooLarge);
}

#[test]
fn who_speaks_of_a_saga_may_order_all_of_it() {
    let reach = |signer: u8, plan: &Plan| root().check_reach(&[key(signer).id()].into(), plan);
    assert_eq!(reach(3, &two_steps()), Ok(()));
    let refused = reach(4, &two_steps()).unwrap_err();
    assert_eq!(refused.code, Code::OutOfScope);
    assert!(refused.message.starts_with("step 2, do: "), "{refused}");
    assert_eq!(reach(4, &plan(vec![step("one", 0, "a"), bare("hub", 0, on_hub(1))])), Ok(()));
    let power = CloudWork::Power { droplet: DropletRef::Number(1), on: false };
    let act = Act::Cloud(CloudAct { cloud: "digitalocean".to_owned(), work: power });
    let cloud = plan(vec![bare("off", 0, Task { act, ..on_hub(1) })]);
    assert_eq!(reach(3, &cloud), Ok(()));
    let refused = reach(4, &cloud).unwrap_err();
    assert_eq!(refused.code, Code::OutOfScope, "{refused}");
    assert!(refused.message.contains("`cloud-power` for host digitalocean"), "{refused}");
}
