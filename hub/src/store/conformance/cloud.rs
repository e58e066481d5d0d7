//! What clouds have: registered, listed, deleted, compared with what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::SagaId;
use serde_json::{Value, json};

use super::super::{
    CloudKind, CloudSweep, DriftQuery, DriftRecord, DriftStatus, NewOp, NewProvisioned, NewRevision, ProvisionedRecord, Scope,
    SeenResource, ShownDrift,
};
use super::ops::new_op;
use super::{Case, bound, code, event, slice, sqlite, topology};
use crate::auth::Actor;
use crate::events::Kind;
use crate::limits;
use moorline_common::id::{Generation, ResourceId};

const DO: &str = "digitalocean";

fn saga() -> SagaId {
    SagaId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap()
}

fn cloud() -> String {
    DO.to_owned()
}

fn live(size: &str) -> Value {
    json!({ "name": "web-1", "size": size, "region": "fra1", "image": { "id": 1, "slug": "debian-12-x64" }, "tags": ["managed-by-moorline"] })
}

fn spec(size: &str) -> Value {
    json!({ "size": size, "region": "fra1", "image": "debian-12-x64" })
}

async fn register(case: &Case, number: u64, spec: Value, live: Value) -> u64 {
    let new = NewProvisioned { cloud: cloud(), number, name: "web-1".to_owned(), live, spec, by: "saga".to_owned(), saga_id: Some(saga()) };
    case.store.register_droplet(new).await.unwrap()
}

fn seen(number: u64, size: &str) -> SeenResource {
    SeenResource { number, name: "web-1".to_owned(), value: live(size) }
}

async fn sync(case: &Case, seen: Vec<SeenResource>) {
    case.store.sync_resources(cloud(), CloudKind::Droplet, seen).await.unwrap();
}

async fn sweep(case: &Case) -> [u64; 4] {
    let CloudSweep { checked, drifted_fields, new_drift, resolved_stale } = case.store.sweep_cloud(cloud()).await.unwrap();
    [checked, drifted_fields, new_drift, resolved_stale]
}

/// The numbers of what is there.
async fn there(case: &Case) -> Vec<u64> {
    case.store.resources(cloud(), false).await.unwrap().into_iter().map(|one| one.number).collect()
}

async fn wanted(case: &Case, number: u64) -> Option<ProvisionedRecord> {
    case.store.provisioned(cloud()).await.unwrap().into_iter().find(|one| one.number == number)
}

async fn happened(case: &Case, number: u64) -> Vec<String> {
    let events = case.store.resource_events(cloud(), CloudKind::Droplet, number).await.unwrap();
    events.into_iter().map(|one| one.what).collect()
}

async fn rows(case: &Case, all: bool) -> Vec<DriftRecord> {
    case.store.drifts(DriftQuery { all, limit: 99, ..DriftQuery::default() }).await.unwrap()
}

async fn told(case: &Case) -> Vec<String> {
    let rows = rows(case, true).await;
    rows.iter().map(|row| format!("{} {} {} {}", row.id, row.drift.field, row.drift.actual, row.status.as_str())).collect()
}

async fn accept(case: &Case, id: u64, actual: &str) -> super::super::Result<DriftRecord> {
    let by = Actor { subject: "operator/ann".to_owned(), origin: String::new() };
    let shown = ShownDrift { id, actual: actual.to_owned() };
    case.store.accept_cloud_drift(shown, by, "as it is".to_owned(), event(Kind::DriftClosed)).await
}

async fn bury(case: &Case, kind: CloudKind, number: u64) {
    case.store.bury(cloud(), kind, BTreeSet::from([number]), Some(saga())).await.unwrap();
}

#[tokio::test]
async fn a_registered_droplet_is_in_the_inventory_at_once_with_what_it_should_be() {
    let case = sqlite();
    assert_eq!(register(&case, 7, spec("small"), live("small")).await, 1);
    let known = case.store.resource(cloud(), CloudKind::Droplet, 7).await.unwrap().unwrap();
    assert_eq!((known.name.as_str(), known.value, known.saga_id, known.deleted_ms), ("web-1", live("small"), Some(saga()), 0));
    let record = wanted(&case, 7).await.unwrap();
    assert_eq!((record.spec, record.spec_version, record.provisioned_by.as_str()), (spec("small"), 1, "saga"));
    // Done again it changes nothing; another spec is another version.
    assert_eq!(register(&case, 7, spec("small"), live("small")).await, 1);
    assert_eq!(happened(&case, 7).await.len(), 1);
    assert_eq!(register(&case, 7, spec("big"), live("big")).await, 2);
    assert_eq!((wanted(&case, 7).await.unwrap().spec, happened(&case, 7).await.len()), (spec("big"), 2));
}

#[tokio::test]
async fn undoing_a_registration_leaves_nothing_and_closes_its_drift() {
    let case = sqlite();
    let undo = || case.store.unregister_droplet(cloud(), 7, Some(saga()));
    undo().await.unwrap();
    register(&case, 7, spec("big"), live("small")).await;
    assert_eq!(sweep(&case).await, [1, 1, 1, 0]);
    for _ in 0..2 {
        undo().await.unwrap();
        assert_eq!((there(&case).await, wanted(&case, 7).await), (Vec::new(), None));
    }
    assert_eq!(told(&case).await, ["1 size \"small\" stale"]);
    // What was deleted meanwhile stays remembered.
    bury(&case, CloudKind::Droplet, 7).await;
    undo().await.unwrap();
    assert_eq!(case.store.buried(cloud(), CloudKind::Droplet).await.unwrap(), BTreeSet::from([7]));
}

#[tokio::test]
async fn what_was_deleted_never_comes_back_from_a_listing() {
    let case = sqlite();
    register(&case, 7, spec("big"), live("small")).await;
    sweep(&case).await;
    for _ in 0..2 {
        bury(&case, CloudKind::Droplet, 7).await;
        bury(&case, CloudKind::Droplet, 8).await;
    }
    assert_eq!((wanted(&case, 7).await, told(&case).await), (None, vec!["1 size \"small\" stale".to_owned()]));
    sync(&case, vec![seen(7, "small"), seen(8, "small"), seen(9, "small")]).await;
    assert_eq!((there(&case).await, sweep(&case).await), (vec![9], [0, 0, 0, 0]));
    assert_eq!(case.store.buried(cloud(), CloudKind::Droplet).await.unwrap(), BTreeSet::from([7, 8]));
    assert!(case.store.buried(cloud(), CloudKind::Snapshot).await.unwrap().is_empty(), "numbers of another kind are others");
    assert_eq!(happened(&case, 7).await.last().map(String::as_str), Some("deleted"));
    assert_eq!(happened(&case, 8).await.len(), 1, "again is no news");
    case.clock.advance(limits::BURIED_KEPT + Duration::from_secs(1));
    bury(&case, CloudKind::Snapshot, 1).await;
    assert!(case.store.buried(cloud(), CloudKind::Droplet).await.unwrap().is_empty(), "that has an end");
}

#[tokio::test]
async fn a_listing_brings_what_is_new_and_what_changed() {
    let case = sqlite();
    sync(&case, vec![seen(1, "small"), seen(2, "small")]).await;
    sync(&case, vec![seen(1, "small"), seen(2, "big")]).await;
    assert_eq!(there(&case).await, [1, 2]);
    assert_eq!((happened(&case, 1).await.len(), happened(&case, 2).await.len()), (1, 2));
    assert_eq!(case.store.resource(cloud(), CloudKind::Droplet, 2).await.unwrap().unwrap().value["size"], "big");
    assert_eq!((sweep(&case).await, rows(&case, true).await.len()), ([0, 0, 0, 0], 0), "strangers' droplets are nobody's drift");
    case.store.sync_resources(cloud(), CloudKind::Snapshot, Vec::new()).await.unwrap();
    assert_eq!(there(&case).await, [1, 2]);
}

#[tokio::test]
async fn what_two_listings_in_a_row_lack_is_gone_unless_it_is_young() {
    let case = sqlite();
    register(&case, 7, spec("small"), live("small")).await;
    for _ in 0..4 {
        sync(&case, Vec::new()).await;
    }
    assert_eq!(there(&case).await, [7], "it may not be listed yet");
    case.clock.advance(limits::RESOURCE_YOUNG);
    sync(&case, Vec::new()).await;
    sync(&case, vec![seen(7, "small")]).await;
    sync(&case, Vec::new()).await;
    assert_eq!(there(&case).await, [7], "one listing proves nothing");
    sync(&case, Vec::new()).await;
    assert!(there(&case).await.is_empty());
}

#[tokio::test]
async fn a_droplet_that_somebody_deleted_is_drift_until_that_is_accepted() {
    let case = sqlite();
    register(&case, 7, spec("big"), live("small")).await;
    assert_eq!(sweep(&case).await, [1, 1, 1, 0]);
    case.clock.advance(limits::RESOURCE_YOUNG);
    for _ in 0..limits::RESOURCE_MISSES {
        sync(&case, Vec::new()).await;
    }
    assert_eq!(sweep(&case).await, [1, 1, 1, 1]);
    assert_eq!(told(&case).await, ["2 exists false open", "1 size \"small\" stale"]);
    assert_eq!(sweep(&case).await, [1, 1, 0, 0]);
    assert!(wanted(&case, 7).await.is_some(), "nobody has decided yet");
    assert_eq!(accept(&case, 2, "false").await.unwrap().status, DriftStatus::Accepted);
    assert_eq!((wanted(&case, 7).await, sweep(&case).await), (None, [0, 0, 0, 0]));
}

#[tokio::test]
async fn a_sweep_opens_one_row_for_a_field_follows_it_and_closes_it() {
    let case = sqlite();
    register(&case, 7, spec("big"), live("small")).await;
    register(&case, 8, json!("no map"), live("small")).await;
    assert_eq!(sweep(&case).await, [2, 1, 1, 0], "the region and the image are right");
    let row = rows(&case, false).await.pop().unwrap();
    assert_eq!((row.scope, row.drift.resource.as_str(), row.generation.0), (Scope::Cloud(cloud()), "digitalocean/droplet/7", 1));
    assert_eq!((row.drift.expected.as_str(), row.drift.actual.as_str()), ("\"big\"", "\"small\""));
    sync(&case, vec![seen(7, "tiny"), seen(8, "small")]).await;
    assert_eq!((sweep(&case).await, told(&case).await), ([2, 1, 0, 0], vec!["1 size \"tiny\" open".to_owned()]));
    sync(&case, vec![seen(7, "big"), seen(8, "small")]).await;
    assert_eq!((sweep(&case).await, told(&case).await), ([2, 0, 0, 1], vec!["1 size \"tiny\" stale".to_owned()]));
    assert_eq!(sweep(&case).await, [2, 0, 0, 0]);
}

#[tokio::test]
async fn an_ignored_drift_in_a_cloud_is_no_new_one_and_opens_again_after_its_time() {
    let case = sqlite();
    register(&case, 7, spec("big"), live("small")).await;
    sweep(&case).await;
    let by = Actor { subject: "operator/ann".to_owned(), origin: String::new() };
    case.store.ignore_drift(1, 5, String::new(), by, event(Kind::DriftIgnored)).await.unwrap();
    assert_eq!((sweep(&case).await, told(&case).await), ([1, 1, 0, 0], vec!["1 size \"small\" ignored".to_owned()]));
    assert_eq!(case.store.reopen_drift(9).await.unwrap(), 1);
    assert_eq!(told(&case).await, ["1 size \"small\" open"]);
}

#[tokio::test]
async fn what_is_accepted_is_what_should_be_from_then_on() {
    let case = sqlite();
    register(&case, 7, spec("big"), live("small")).await;
    sweep(&case).await;
    assert_eq!(code(accept(&case, 1, "\"tiny\"").await.unwrap_err()), Code::DriftMoved);
    assert_eq!(code(accept(&case, 9, "").await.unwrap_err()), Code::NotFound);
    // The inventory knows of another value, and the row does not yet.
    sync(&case, vec![seen(7, "tiny")]).await;
    assert_eq!(code(accept(&case, 1, "\"small\"").await.unwrap_err()), Code::DriftMoved);
    assert_eq!(wanted(&case, 7).await.unwrap().spec_version, 1, "nothing was stored");
    sweep(&case).await;
    let row = accept(&case, 1, "\"tiny\"").await.unwrap();
    assert_eq!((row.status, row.accepted_generation.0, row.resolved_by.as_str()), (DriftStatus::Accepted, 2, "operator/ann"));
    let record = wanted(&case, 7).await.unwrap();
    assert_eq!((record.spec, record.spec_version), (spec("tiny"), 2));
    assert_eq!(sweep(&case).await, [1, 0, 0, 0]);
    assert_eq!(code(accept(&case, 1, "\"tiny\"").await.unwrap_err()), Code::DriftResolved);
    let events = case.store.events(0, 99, false).await.unwrap();
    assert_eq!(events.iter().filter(|one| one.kind == Kind::DriftClosed.as_str()).count(), 1, "told once");
}

#[tokio::test]
async fn a_saga_that_changes_a_droplet_changes_what_it_should_be() {
    let case = sqlite();
    let amend = |size: &str| {
        let fields = BTreeMap::from([("size".to_owned(), json!(size))]);
        case.store.amend_spec(cloud(), 7, fields, "saga".to_owned(), Some(saga()))
    };
    assert_eq!(amend("big").await.unwrap(), 0, "nothing is expected of it");
    register(&case, 7, spec("small"), live("small")).await;
    assert_eq!((amend("big").await.unwrap(), amend("big").await.unwrap()), (2, 2));
    assert_eq!(wanted(&case, 7).await.unwrap().spec, spec("big"));
    let see = |number| case.store.see_droplet(cloud(), number, "web-1".to_owned(), live("big"));
    see(7).await.unwrap();
    see(8).await.unwrap();
    assert_eq!((sweep(&case).await, there(&case).await), ([1, 0, 0, 0], vec![7]));
}

#[tokio::test]
async fn what_is_in_a_cloud_and_what_is_on_a_host_are_decided_about_each_in_its_own_way() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    register(&case, 7, spec("big"), live("small")).await;
    sweep(&case).await;
    let shown = || vec![ShownDrift { id: 1, actual: "\"small\"".to_owned() }];
    let op = NewOp { resource: ResourceId::parse("digitalocean/droplet/7").unwrap(), kind: "converge".to_owned(), ..new_op(&host, 1) };
    assert_eq!(code(case.store.revert_drift(shown(), op, event(Kind::OpSubmitted)).await.unwrap_err()), Code::InvalidArgument);
    let revision = NewRevision {
        topology: topology("edge"),
        base: Generation(0),
        source: b"source".to_vec(),
        source_sha256: "s".to_owned(),
        down: false,
        message: String::new(),
        pushed_by: "operator/ann".to_owned(),
        slices: vec![slice(&host, "content")],
        rollout: None,
        accepts: shown(),
    };
    assert_eq!(code(case.store.push(revision, event(Kind::Pushed)).await.unwrap_err()), Code::InvalidArgument);
    let drift = moorline_common::drift::Drift {
        resource: ResourceId::parse("docker/container/edge-site-1").unwrap(),
        field: "restart".to_owned(),
        expected: "always".to_owned(),
        actual: "no".to_owned(),
    };
    let report = super::super::DriftReport { topology: topology("edge"), generation: Generation(1), drift: vec![drift], is_whole: true };
    case.store.report_drift(host.clone(), "h1".to_owned(), report, 8).await.unwrap();
    assert_eq!(code(accept(&case, 2, "no").await.unwrap_err()), Code::InvalidArgument);
    assert_eq!(rows(&case, false).await.len(), 2);
    let on_host = case.store.drifts(DriftQuery { host: Some(host), limit: 9, ..DriftQuery::default() }).await.unwrap();
    assert_eq!(on_host.len(), 1);
}
