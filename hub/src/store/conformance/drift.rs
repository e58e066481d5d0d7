//! The inbox: each transition, and that none happens twice.

use moorline_common::drift::Drift;
use moorline_common::fault::Code;
use moorline_common::id::{Generation, HostId, ResourceId};
use moorline_common::op::{Stage, State};

use super::super::{DriftQuery, DriftRecord, DriftReport, DriftStatus, NewOp, NewRevision, ShownDrift};
use super::ops::{change, new_op};
use super::{Case, bound, code, event, slice, sqlite, topology};
use crate::auth::Actor;
use crate::events::Kind;
use crate::limits;

fn site() -> ResourceId {
    ResourceId::parse("docker/container/edge-site-1").unwrap()
}

fn drift(field: &str, actual: &str) -> Drift {
    Drift { resource: site(), field: field.to_owned(), expected: "wanted".to_owned(), actual: actual.to_owned() }
}

async fn report(case: &Case, host: &HostId, drift: Vec<Drift>) {
    partly(case, host, drift, true).await;
}

async fn partly(case: &Case, host: &HostId, drift: Vec<Drift>, is_whole: bool) {
    let report = DriftReport { topology: topology("edge"), generation: Generation(1), drift, is_whole };
    case.store.report_drift(host.clone(), "h1".to_owned(), report, 8).await.unwrap();
}

async fn rows(case: &Case, all: bool) -> Vec<DriftRecord> {
    case.store.drifts(DriftQuery { all, limit: 99, ..DriftQuery::default() }).await.unwrap()
}

async fn told(case: &Case) -> Vec<String> {
    let rows = rows(case, true).await;
    rows.iter().map(|r| format!("{} {} {} {}", r.id, r.drift.field, r.drift.actual, r.status.as_str())).collect()
}

async fn events(case: &Case, kind: Kind) -> Vec<String> {
    let all = case.store.events(0, 999, false).await.unwrap();
    all.into_iter().filter(|e| e.kind == kind.as_str()).map(|e| e.message).collect()
}

fn shown(id: u64, actual: &str) -> ShownDrift {
    ShownDrift { id, actual: actual.to_owned() }
}

fn ann() -> Actor {
    Actor { subject: "operator/ann".to_owned(), origin: String::new() }
}

fn converge(host: &HostId, n: u64) -> NewOp {
    NewOp { resource: site(), kind: "converge".to_owned(), reason: "why".to_owned(), ..new_op(host, n) }
}

async fn push(case: &Case, host: &HostId, base: u64, accepts: Vec<ShownDrift>) -> super::super::Result<Generation> {
    let revision = NewRevision {
        topology: topology("edge"),
        base: Generation(base),
        source: b"source".to_vec(),
        source_sha256: "s".to_owned(),
        down: false,
        message: "as it is".to_owned(),
        pushed_by: "operator/ann".to_owned(),
        slices: vec![slice(host, &format!("content {base}"))],
        rollout: None,
        accepts,
    };
    case.store.push(revision, event(Kind::Pushed)).await
}

#[tokio::test]
async fn a_field_has_one_open_row_that_follows_it_and_closes_when_it_is_as_wanted() {
    let case = sqlite();
    let (host, other) = (bound(&case, 1).await, bound(&case, 2).await);
    for actual in ["1", "1", "2"] {
        report(&case, &host, vec![drift("a", actual), drift("b", "x")]).await;
    }
    report(&case, &other, vec![drift("a", "9")]).await;
    assert_eq!(told(&case).await, ["3 a 9 open", "2 b x open", "1 a 2 open"]);
    let detected = events(&case, Kind::DriftDetected).await;
    assert_eq!(detected.len(), 3, "{detected:?}");
    let words: serde_json::Value = serde_json::from_str(&detected[0]).unwrap();
    assert_eq!(
        (&words["before"]["expected"], &words["after"]["actual"], &words["source"]),
        (&"wanted".into(), &"1".into(), &"report".into())
    );
    // A report that was cut says nothing of what stands behind its end.
    partly(&case, &host, vec![drift("a", "2")], false).await;
    assert_eq!(rows(&case, false).await.len(), 3);
    report(&case, &host, vec![drift("b", "x")]).await;
    assert_eq!(told(&case).await, ["3 a 9 open", "2 b x open", "1 a 2 stale"]);
    report(&case, &host, vec![drift("a", "3"), drift("b", "x")]).await;
    assert_eq!(told(&case).await, ["4 a 3 open", "3 a 9 open", "2 b x open", "1 a 2 stale"]);
    assert_eq!(case.store.drifts(DriftQuery { host: Some(other), limit: 9, ..DriftQuery::default() }).await.unwrap().len(), 1);
    // Of a host that is gone nothing is kept.
    case.store.remove_host(host.clone(), event(Kind::HostRemoved)).await.unwrap();
    report(&case, &host, vec![drift("a", "3")]).await;
    assert_eq!(told(&case).await, ["3 a 9 open"]);
}

#[tokio::test]
async fn what_is_ignored_opens_again_after_its_time_and_goes_stale_within_it() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    report(&case, &host, vec![drift("a", "1"), drift("b", "1")]).await;
    let ignore = |id, until| case.store.ignore_drift(id, until, "for now".to_owned(), ann(), event(Kind::DriftIgnored));
    let far = u64::from(u32::MAX) * 10_000;
    assert_eq!(ignore(1, 5).await.unwrap().status, DriftStatus::Ignored);
    ignore(2, far).await.unwrap();
    assert_eq!(code(ignore(9, far).await.unwrap_err()), Code::NotFound);
    report(&case, &host, vec![drift("a", "2"), drift("b", "1")]).await;
    assert_eq!(told(&case).await, ["2 b 1 ignored", "1 a 2 ignored"], "no new row while it is ignored");
    assert!(case.store.has_drift_to_reopen(5).await.unwrap() && !case.store.has_drift_to_reopen(4).await.unwrap());
    assert_eq!((case.store.reopen_drift(9).await.unwrap(), case.store.reopen_drift(9).await.unwrap()), (1, 0));
    assert_eq!(
        (told(&case).await, events(&case, Kind::DriftDetected).await.len()),
        (vec!["2 b 1 ignored".to_owned(), "1 a 2 open".to_owned()], 3)
    );
    report(&case, &host, Vec::new()).await;
    assert_eq!(told(&case).await, ["2 b 1 stale", "1 a 2 stale"]);
    assert_eq!(code(ignore(1, far).await.unwrap_err()), Code::DriftResolved);
}

#[tokio::test]
async fn a_push_closes_what_it_accepts_or_stores_nothing() {
    let case = sqlite();
    let (host, other) = (bound(&case, 1).await, bound(&case, 2).await);
    report(&case, &host, vec![drift("a", "1"), drift("b", "1")]).await;
    assert_eq!(code(push(&case, &other, 0, vec![shown(1, "1")]).await.unwrap_err()), Code::InvalidArgument, "it is on another host");
    push(&case, &host, 0, Vec::new()).await.unwrap();
    report(&case, &host, vec![drift("a", "2"), drift("b", "1")]).await;
    assert_eq!(code(push(&case, &host, 1, vec![shown(2, "1"), shown(1, "1")]).await.unwrap_err()), Code::DriftMoved);
    assert_eq!(case.store.topologies().await.unwrap()[0].generation, Generation(1));
    assert_eq!(rows(&case, false).await.len(), 2, "the other one is not closed either");
    assert_eq!(push(&case, &host, 1, vec![shown(1, "2")]).await.unwrap(), Generation(2));
    let row = case.store.drift(1).await.unwrap().unwrap();
    assert_eq!((row.status, row.accepted_generation, row.resolved_by.as_str()), (DriftStatus::Accepted, Generation(2), "operator/ann"));
    assert_eq!(code(push(&case, &host, 2, vec![shown(1, "2")]).await.unwrap_err()), Code::DriftResolved, "the second of two operators");
}

#[tokio::test]
async fn what_was_accepted_does_not_open_again_before_its_host_has_the_revision() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    report(&case, &host, vec![drift("a", "1")]).await;
    push(&case, &host, 0, Vec::new()).await.unwrap();
    push(&case, &host, 1, vec![shown(1, "1")]).await.unwrap();
    report(&case, &host, vec![drift("a", "1"), drift("b", "1")]).await;
    assert_eq!(told(&case).await, ["2 b 1 open", "1 a 1 accepted"]);
    report(&case, &host, vec![drift("a", "2"), drift("b", "1")]).await;
    assert_eq!(told(&case).await[0], "3 a 2 open", "another value is news");
}

#[tokio::test]
async fn a_host_that_floods_the_inbox_does_not_flood_the_record() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    report(&case, &host, (0..20).map(|n| drift(&format!("f{n}"), "1")).collect()).await;
    assert_eq!((rows(&case, false).await.len(), events(&case, Kind::DriftDetected).await.len()), (20, 8));
}

#[tokio::test]
async fn what_is_reverted_is_closed_when_a_report_confirms_it() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    report(&case, &host, vec![drift("a", "1"), drift("b", "1")]).await;
    let revert = |drifts, op| case.store.revert_drift(drifts, op, event(Kind::OpSubmitted));
    assert_eq!(code(revert(vec![shown(1, "other")], converge(&host, 1)).await.unwrap_err()), Code::DriftMoved);
    let elsewhere = NewOp { resource: ResourceId::host(), ..converge(&host, 1) };
    assert_eq!(code(revert(vec![shown(1, "1")], elsewhere).await.unwrap_err()), Code::InvalidArgument);
    assert!(case.store.op(converge(&host, 1).op_id).await.unwrap().is_none(), "nothing was ordered");
    revert(vec![shown(1, "1")], converge(&host, 1)).await.unwrap();
    assert_eq!(case.store.drift(1).await.unwrap().unwrap().status, DriftStatus::Open);
    report(&case, &host, vec![drift("b", "1")]).await;
    let row = case.store.drift(1).await.unwrap().unwrap();
    assert_eq!((row.status, row.resolved_by.as_str(), row.reason.as_str()), (DriftStatus::Reverted, "operator/ann", "why"));
    // An order that failed reverted nothing.
    revert(vec![shown(2, "1")], converge(&host, 2)).await.unwrap();
    let failed = change(Stage::At(State::Failed), Some("r"));
    case.store.advance_op(host.clone(), converge(&host, 2).op_id, failed, None).await.unwrap();
    report(&case, &host, Vec::new()).await;
    assert_eq!(case.store.drift(2).await.unwrap().unwrap().status, DriftStatus::Stale);
}

#[tokio::test]
async fn history_is_kept_and_has_an_end() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    for n in 0..limits::DRIFT_KEPT + 5 {
        report(&case, &host, vec![drift("a", &n.to_string())]).await;
        report(&case, &host, Vec::new()).await;
    }
    let rows = case.store.drifts(DriftQuery { all: true, limit: u32::MAX, ..DriftQuery::default() }).await.unwrap();
    assert_eq!((rows.len(), rows[0].id), (usize::try_from(limits::DRIFT_KEPT).unwrap(), u64::from(limits::DRIFT_KEPT) + 5));
}
