//! Operations, and what heartbeats witness.

use moorline_common::fault::Code;
use moorline_common::id::{HostEpoch, HostId, OpId, ResourceId, UnixSeconds, sha256_hex};
use moorline_common::op::{Class, Stage, State};

use super::super::{Advance, NewOp, OpChange, OpQuery, Witness};
use super::{bound, code, event, sqlite};
use crate::events::Kind;
use crate::limits;

pub(super) fn new_op(host: &HostId, n: u64) -> NewOp {
    NewOp {
        op_id: OpId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{n:012x}")).unwrap(),
        host_id: host.clone(),
        host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
        resource: ResourceId::host(),
        kind: "prune".to_owned(),
        class: Class::R3,
        envelope: format!("op {n}").into_bytes(),
        payload_sha256: sha256_hex(&n.to_be_bytes()),
        root_version: 1,
        expires_at: UnixSeconds(1000 + n),
        reason: String::new(),
        submitted_by: "operator/ann".to_owned(),
        is_remedy: false,
    }
}

pub(super) fn change(stage: Stage, receipt: Option<&str>) -> OpChange {
    OpChange { stage, message: String::new(), same_as: None, fault: None, receipt: receipt.map(|r| r.as_bytes().to_vec()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_so_many_open_operations_and_no_more() {
    let case = sqlite();
    let (host, other) = (bound(&case, 1).await, bound(&case, 2).await);
    let submits = (0..limits::OPS_OPEN_MAX).map(|n| case.store.submit_op(new_op(&host, n), event(Kind::OpSubmitted)));
    assert!(futures_util::future::join_all(submits).await.into_iter().all(|r| r.is_ok_and(|(_, known)| !known)));
    let more = new_op(&host, 10_000);
    assert_eq!(code(case.store.submit_op(more.clone(), event(Kind::OpSubmitted)).await.unwrap_err()), Code::Busy);
    // What makes room is taken, and another host's are its own.
    let remedy = NewOp { is_remedy: true, ..new_op(&host, 20_000) };
    case.store.submit_op(remedy, event(Kind::OpSubmitted)).await.unwrap();
    case.store.submit_op(new_op(&other, 30_000), event(Kind::OpSubmitted)).await.unwrap();
    for n in [0, 1] {
        let ended = change(Stage::At(State::Cancelled), Some("r"));
        case.store.advance_op(host.clone(), new_op(&host, n).op_id, ended, None).await.unwrap();
    }
    case.store.submit_op(more, event(Kind::OpSubmitted)).await.unwrap();
    let first = case.store.due_ops(host.clone(), 0, 2).await.unwrap();
    assert_eq!(first.iter().map(|op| op.envelope.as_slice()).collect::<Vec<_>>(), [b"op 2".as_slice(), b"op 3"]);
    let next = case.store.due_ops(host, first[1].sequence, 1).await.unwrap();
    assert_eq!(next[0].envelope, b"op 4");
}

#[tokio::test]
async fn an_operation_never_goes_back_and_its_event_is_recorded_once() {
    let case = sqlite();
    let (host, other) = (bound(&case, 1).await, bound(&case, 2).await);
    let op = new_op(&host, 1);
    case.store.submit_op(op.clone(), event(Kind::OpSubmitted)).await.unwrap();
    assert_eq!(case.store.ops_sent(vec![op.op_id.clone()]).await.unwrap(), std::slice::from_ref(&op.op_id));
    assert!(case.store.ops_sent(vec![op.op_id.clone()]).await.unwrap().is_empty());
    let advance = |host: &HostId, change| case.store.advance_op(host.clone(), op.op_id.clone(), change, Some(event(Kind::OpEnded)));
    let before = *case.store.newest_event().borrow();
    assert_eq!(advance(&other, change(Stage::Refused, Some("r"))).await.unwrap(), Advance::Unknown);
    assert_eq!(advance(&host, change(Stage::At(State::Succeeded), Some("r"))).await.unwrap(), Advance::Changed);
    assert_eq!(advance(&host, change(Stage::At(State::Succeeded), Some("again"))).await.unwrap(), Advance::Known);
    assert_eq!(advance(&host, change(Stage::At(State::Queued), None)).await.unwrap(), Advance::Known);
    let failed = advance(&host, change(Stage::At(State::Failed), Some("r"))).await.unwrap();
    assert_eq!(failed, Advance::Contradicts(Stage::At(State::Succeeded)));
    assert_eq!(*case.store.newest_event().borrow(), before + 1);
    let stored = case.store.op(op.op_id.clone()).await.unwrap().unwrap();
    assert_eq!((stored.stage, stored.receipt.as_deref()), (Stage::At(State::Succeeded), Some(b"r".as_slice())));
    let listed = case.store.ops(OpQuery { limit: 9, ..OpQuery::default() }).await.unwrap();
    assert!(listed[0].has_receipt && listed[0].receipt.is_none() && listed[0].envelope.is_none());
    assert!(case.store.ops(OpQuery { open: true, limit: 9, ..OpQuery::default() }).await.unwrap().is_empty());
    assert!(case.store.due_ops(host, 0, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn only_what_was_never_sent_expires_by_itself() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    for n in 1..=3 {
        case.store.submit_op(new_op(&host, n), event(Kind::OpSubmitted)).await.unwrap();
    }
    case.store.ops_sent(vec![new_op(&host, 1).op_id]).await.unwrap();
    assert!(!case.store.has_overdue_ops(UnixSeconds(1002)).await.unwrap());
    assert!(case.store.has_overdue_ops(UnixSeconds(1003)).await.unwrap());
    assert_eq!(case.store.expire_ops(UnixSeconds(1003), 9).await.unwrap(), [new_op(&host, 2).op_id]);
    assert_eq!(case.store.op(new_op(&host, 2).op_id).await.unwrap().unwrap().stage, Stage::At(State::Expired));
}

#[tokio::test]
async fn what_was_witnessed_never_goes_back_in_one_life() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    let keep = |epoch: &str, seq| {
        let witness = Witness { epoch: epoch.to_owned(), seq, head: vec![1] };
        case.store.keep_heartbeat(host.clone(), b"{}".to_vec(), 1, witness)
    };
    for (epoch, seq, expected) in [("a", 5, ("a", 5)), ("a", 3, ("a", 5)), ("a", 7, ("a", 7)), ("b", 1, ("b", 1)), ("b", 0, ("b", 1))] {
        keep(epoch, seq).await.unwrap();
        let kept = case.store.host(host.clone()).await.unwrap().unwrap().witness;
        assert_eq!((kept.epoch.as_str(), kept.seq), expected);
    }
}
