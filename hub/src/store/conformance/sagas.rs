//! Sagas: started with their work, run by one at a time, changed whole or not at all.

use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::{HostId, OpId, SagaId};
use moorline_common::op::{Stage, State as OpState};
use moorline_common::saga::{Kind as SagaKind, State, Status};

use super::super::{NewSaga, SagaAdvance, SagaChange, SagaOrder, SagaQuery, StoreError};
use super::ops::{change as op_change, new_op};
use super::{Case, bound, code, event, sqlite};
use crate::events::Kind;
use crate::limits;

fn id(n: u64) -> SagaId {
    SagaId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{n:012x}")).unwrap()
}

fn op_id(n: u64) -> OpId {
    new_op(&HostId::of_key(&[1; 32]), n).op_id
}

fn saga(n: u64, orders: &[u64]) -> NewSaga {
    let order = |order: &u64| SagaOrder { payload_sha256: format!("p{order}"), op_id: op_id(*order), envelope: b"order".to_vec() };
    NewSaga {
        saga_id: id(n),
        name: "try-out".to_owned(),
        kind: if n.is_multiple_of(2) { SagaKind::Test } else { SagaKind::Update },
        deployment: format!("d{}", n % 3),
        triggered_by: "operator".to_owned(),
        reason: String::new(),
        plan: format!("plan {n}").into_bytes(),
        payload_sha256: format!("hash {n}"),
        state: State::default(),
        started_by: "operator/ann".to_owned(),
        orders: orders.iter().map(order).collect(),
        parts: vec![("source".to_owned(), b"body".to_vec())],
    }
}

fn change(n: u64, fence: Option<u64>, seen: u64, status: Status) -> SagaChange {
    SagaChange {
        saga_id: id(n),
        fence,
        seen,
        state: State { aborted: true, ..State::default() },
        status,
        facts: vec!["something".to_owned()],
        submit: Vec::new(),
        word: Some(b"word".to_vec()),
        orders: Vec::new(),
        events: vec![event(Kind::SagaMoved)],
    }
}

async fn start(case: &Case, new: NewSaga) -> Result<bool, StoreError> {
    case.store.start_saga(new, event(Kind::SagaStarted)).await.map(|(_, known)| known)
}

async fn claim(case: &Case, runner: &str) -> Vec<(SagaId, u64)> {
    let until_ms = case.clock.unix_ms() + 6000;
    case.store.claim_sagas(runner.to_owned(), until_ms, 100).await.unwrap()
}

#[tokio::test]
async fn a_saga_is_started_once_with_its_orders_and_its_work() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    case.store.submit_op(new_op(&host, 9), event(Kind::OpSubmitted)).await.unwrap();
    assert!(!start(&case, saga(1, &[1, 2])).await.unwrap());
    assert!(start(&case, saga(1, &[1, 2])).await.unwrap(), "the same bytes");
    let other = NewSaga { payload_sha256: "else".to_owned(), ..saga(1, &[]) };
    assert_eq!(code(start(&case, other).await.unwrap_err()), Code::Conflict);
    for taken in [2, 9] {
        assert_eq!(code(start(&case, saga(2, &[5, taken])).await.unwrap_err()), Code::Conflict, "another's operation");
    }
    assert_eq!(case.store.saga(id(2)).await.unwrap(), None);
    assert_eq!(case.store.saga_order(id(2), "p5".to_owned()).await.unwrap(), None, "nothing of it");
    assert_eq!(case.store.saga_order(id(1), "p2".to_owned()).await.unwrap().unwrap().op_id, op_id(2));
    assert_eq!(case.store.saga_part(id(1), "source".to_owned()).await.unwrap(), Some(b"body".to_vec()));
    assert_eq!(claim(&case, "one").await, [(id(1), 1)]);
}

#[tokio::test]
async fn one_runner_has_a_saga_until_it_gives_no_sign_of_life() {
    let case = sqlite();
    start(&case, saga(1, &[])).await.unwrap();
    assert!(case.store.has_unclaimed_sagas(case.clock.unix_ms()).await.unwrap());
    assert_eq!(claim(&case, "one").await, [(id(1), 1)]);
    assert!(claim(&case, "two").await.is_empty());
    case.clock.advance(Duration::from_secs(5));
    case.store.renew_sagas("one".to_owned(), case.clock.unix_ms() + 6000).await.unwrap();
    case.clock.advance(Duration::from_secs(5));
    assert!(claim(&case, "two").await.is_empty(), "it is alive");
    case.clock.advance(Duration::from_secs(5));
    assert_eq!(claim(&case, "two").await, [(id(1), 2)]);
    case.store.renew_sagas("one".to_owned(), case.clock.unix_ms() + 60_000).await.unwrap();
    let advance = async |fence, seen| case.store.change_saga(change(1, fence, seen, Status::Running)).await.unwrap();
    assert_eq!(advance(Some(1), 1).await, SagaAdvance::Lost, "it was taken for dead");
    assert_eq!(advance(Some(2), 7).await, SagaAdvance::Moved);
    assert_eq!(advance(Some(2), 1).await, SagaAdvance::Done { revision: 2 });
    assert_eq!(advance(Some(2), 1).await, SagaAdvance::Moved);
    assert_eq!(advance(None, 2).await, SagaAdvance::Done { revision: 3 }, "an operator's word");
    let record = case.store.saga(id(1)).await.unwrap().unwrap();
    assert_eq!((record.status, record.revision, record.state.aborted), (Status::Running, 3, true));
    assert_eq!(case.store.saga_words(id(1)).await.unwrap().len(), 2);
    let facts = case.store.saga_facts(id(1)).await.unwrap();
    assert_eq!(facts.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>(), ["handed in by operator/ann", "something", "something"]);
    assert_eq!(case.store.change_saga(change(1, Some(2), 3, Status::Completed)).await.unwrap(), SagaAdvance::Done { revision: 4 });
    case.clock.advance(Duration::from_secs(3600));
    assert!(claim(&case, "two").await.is_empty(), "what has ended is nobody's work");
    assert_eq!(case.store.change_saga(change(1, None, 4, Status::Running)).await.unwrap(), SagaAdvance::Lost);
}

#[tokio::test]
async fn a_change_that_brings_orders_is_stored_with_them_or_not_at_all() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    start(&case, saga(1, &[1])).await.unwrap();
    claim(&case, "one").await;
    let stranger = HostId::of_key(&[7; 32]);
    let mut with = change(1, Some(1), 1, Status::Running);
    with.submit = vec![(new_op(&host, 1), event(Kind::OpSubmitted)), (new_op(&stranger, 2), event(Kind::OpSubmitted))];
    assert_eq!(code(case.store.change_saga(with.clone()).await.unwrap_err()), Code::NotFound);
    assert_eq!(case.store.saga(id(1)).await.unwrap().unwrap().revision, 1);
    assert!(case.store.op(op_id(1)).await.unwrap().is_none());
    with.submit.pop();
    case.store.change_saga(with).await.unwrap();
    let due = case.store.due_ops(host.clone(), 0, 10).await.unwrap();
    assert_eq!(due.into_iter().map(|op| op.saga_id).collect::<Vec<_>>(), [Some(id(1))]);
    assert!(case.store.saga_evidence(id(1)).await.unwrap().unwrap().receipts.is_empty());
    case.store.advance_op(host, op_id(1), op_change(Stage::At(OpState::Succeeded), Some("receipt")), None).await.unwrap();
    let evidence = case.store.saga_evidence(id(1)).await.unwrap().unwrap();
    assert_eq!((evidence.plan, evidence.receipts, evidence.words), (b"plan 1".to_vec(), vec![b"receipt".to_vec()], vec![b"word".to_vec()]));
}

#[tokio::test]
async fn sagas_are_listed_by_what_they_are_and_there_may_be_only_so_many() {
    let case = sqlite();
    let starts = (1..=limits::SAGAS_OPEN_MAX).map(|n| start(&case, saga(n, &[])));
    futures_util::future::try_join_all(starts).await.unwrap();
    assert_eq!(code(start(&case, saga(9_999_999, &[])).await.unwrap_err()), Code::Busy);
    let list = async |query: SagaQuery| {
        let found = case.store.sagas(query).await.unwrap();
        found.into_iter().map(|saga| saga.sequence).collect::<Vec<_>>()
    };
    let newest = list(SagaQuery { limit: 2, ..SagaQuery::default() }).await;
    assert_eq!(newest, [limits::SAGAS_OPEN_MAX, limits::SAGAS_OPEN_MAX - 1]);
    let some =
        list(SagaQuery { kind: Some(SagaKind::Update), deployment: Some("d1".to_owned()), limit: 100, status: Some(Status::Pending) })
            .await;
    assert!(some.len() == 100 && some.is_sorted_by(|a, b| a > b), "{some:?}");
    assert!(list(SagaQuery { status: Some(Status::Stuck), limit: 9, ..SagaQuery::default() }).await.is_empty());
}
