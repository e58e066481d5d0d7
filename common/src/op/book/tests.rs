//! What a book must hold to, by hand-written and by random histories.

use proptest::prelude::*;

use super::*;
use crate::id::HostEpoch;
use crate::op::Grant;

fn record(op: u8, state: State) -> Record {
    Record {
        seq: 1,
        batch: 1,
        at: 0,
        epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
        op_id: format!("op-{op}"),
        resource: format!("docker/container/c{}", op % 2),
        kind: "stop".to_owned(),
        params: serde_json::Value::Null,
        task: None,
        state,
        idempotency_key: format!("key-{op}"),
        grant: (state == State::Accepted).then(|| grant(op)),
        hold: (state == State::Started).then_some(HoldEffect::Place(Generation(7))),
        fault: None,
        result: serde_json::Value::Null,
        acknowledged: false,
        prev: String::new(),
    }
}

fn grant(op: u8) -> Grant {
    Grant {
        envelope: String::new(),
        intent: format!("intent-{op}"),
        nonce: format!("nonce-{op}"),
        nonce_until: UnixSeconds(100 + u64::from(op)),
        bound: None,
        nothing: false,
    }
}

fn live(states: &[State]) -> Book {
    let mut book = Book::default();
    for state in states {
        book.fold(&Arc::new(record(1, *state))).unwrap();
    }
    book
}

const DONE: [State; 4] = [State::Accepted, State::Queued, State::Started, State::Succeeded];

#[test]
fn a_key_that_began_is_remembered_for_ever_and_one_that_did_not_is_free_again() {
    let mut book = live(&DONE);
    assert_eq!(book.key("key-1").unwrap().ended.as_ref().map(|e| e.state), Some(State::Succeeded));
    book.fold(&Arc::new(Record { acknowledged: true, ..record(1, State::Succeeded) })).unwrap();
    assert!(book.ops().is_empty());
    book.forget_nonces(UnixSeconds(u64::MAX));
    let again = Record { op_id: "op-2".to_owned(), ..record(1, State::Accepted) };
    assert_eq!(book.fold(&Arc::new(again)), Err(BookError::KeyUsed { op_id: "op-2".to_owned(), by: "op-1".to_owned() }));

    for unbegun in [State::Expired, State::Cancelled] {
        let mut book = live(&[State::Accepted, State::Queued, unbegun]);
        assert_eq!(book.key("key-1"), None);
        let same_order = Record { op_id: "op-2".to_owned(), ..record(1, State::Accepted) };
        assert!(matches!(book.fold(&Arc::new(same_order.clone())), Err(BookError::NonceUsed { .. })), "the order itself cannot come again");
        let new_order = Record { grant: Some(grant(9)), ..same_order };
        book.fold(&Arc::new(new_order)).unwrap();
    }
}

#[test]
fn nonces_are_kept_to_their_last_moment_by_the_floor() {
    let mut book = live(&DONE);
    book.forget_nonces(UnixSeconds(101));
    assert!(book.knows_nonce("nonce-1"));
    book.forget_nonces(UnixSeconds(102));
    assert!(!book.knows_nonce("nonce-1"));
}

#[test]
fn a_stop_holds_its_resource_until_a_newer_generation_or_a_release() {
    let mut book = live(&DONE);
    let resource = "docker/container/c1";
    assert_eq!(book.hold(resource, Generation(7)).unwrap().op_id, "op-1");
    assert_eq!(book.hold(resource, Generation(8)), None);
    for state in DONE {
        book.fold(&Arc::new(Record { hold: (state == State::Started).then_some(HoldEffect::Lift), ..record(3, state) })).unwrap();
    }
    assert_eq!(book.hold(resource, Generation(7)), None);

    let failed = live(&[State::Accepted, State::Queued, State::Started, State::Failed]);
    assert_eq!(failed.hold(resource, Generation(7)), None, "what failed holds nothing");
}

#[test]
fn steps_of_a_slice_leave_nothing_behind() {
    let mut book = Book::default();
    let step = |state| Record { idempotency_key: String::new(), grant: None, hold: None, ..record(1, state) };
    book.fold(&Arc::new(step(State::Started))).unwrap();
    assert_eq!(book.open().count(), 1);
    book.fold(&Arc::new(step(State::Succeeded))).unwrap();
    assert_eq!(book, Book::default());
}

#[test]
fn a_record_that_does_not_fit_changes_nothing() {
    let book = live(&[State::Accepted, State::Queued]);
    let other = |edit: fn(&mut Record)| {
        let mut wrong = record(1, State::Started);
        edit(&mut wrong);
        wrong
    };
    let wrong = [
        record(1, State::Succeeded),
        record(1, State::Accepted),
        record(2, State::Queued),
        Record { grant: None, ..record(2, State::Accepted) },
        other(|r| r.resource = "docker/container/other".to_owned()),
        other(|r| r.idempotency_key = "another".to_owned()),
        other(|r| r.grant = Some(grant(1))),
        Record { acknowledged: true, ..record(1, State::Succeeded) },
    ];
    for record in wrong {
        let mut copy = book.clone();
        copy.fold(&Arc::new(record.clone())).unwrap_err();
        assert_eq!(copy, book, "{record:?}");
    }
    let mut done = live(&DONE);
    assert!(done.fold(&Arc::new(Record { acknowledged: true, ..record(1, State::Failed) })).is_err(), "an end does not change");
}

fn any_record() -> impl Strategy<Value = Record> {
    (0u8..4, 0usize..State::ALL.len(), any::<bool>()).prop_map(|(op, state, acknowledged)| {
        let state = State::ALL[state];
        Record { acknowledged: acknowledged && state.is_terminal(), ..record(op, state) }
    })
}

proptest! {
    #[test]
    fn several_records_fold_together_or_not_at_all(before in prop::collection::vec(any_record().prop_map(Arc::new), 0..30), batch in prop::collection::vec(any_record().prop_map(Arc::new), 1..4)) {
        let mut book = Book::default();
        before.iter().for_each(|r| drop(book.fold(r)));
        let mut one_by_one = book.clone();
        let fits = batch.iter().all(|r| one_by_one.fold(r).is_ok());
        let mut together = book.clone();
        prop_assert_eq!(together.fold_all(&batch).is_ok(), fits);
        prop_assert_eq!(together, if fits { one_by_one } else { book });
    }

    #[test]
    fn a_checkpoint_says_all_that_the_records_said(records in prop::collection::vec(any_record().prop_map(Arc::new), 0..40)) {
        let mut book = Book::default();
        records.iter().for_each(|r| drop(book.fold(r)));
        let mut restored = Book::default();
        for part in book.parts() {
            let line = serde_json::to_vec(&part).unwrap();
            restored.restore(serde_json::from_slice(&line).unwrap());
        }
        prop_assert_eq!(restored, book);
    }

    #[test]
    fn an_effect_begins_once_for_each_key(records in prop::collection::vec(any_record().prop_map(Arc::new), 0..200)) {
        let mut book = Book::default();
        let mut begun = BTreeMap::<String, u32>::new();
        for record in records {
            let first = book.ops().get(&record.op_id).is_none_or(|e| !e.state().has_begun());
            if book.fold(&record).is_ok() && record.state == State::Started && first {
                *begun.entry(record.idempotency_key.clone()).or_default() += 1;
            }
        }
        prop_assert!(begun.values().all(|n| *n == 1), "{begun:?}");
    }
}
