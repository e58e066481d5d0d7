//! What any store must do, checked on every implementation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::{Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds, VersionHash, sha256_hex};

use super::sqlite::{self, SqliteStore};
use super::{
    Adoption, JoinAttempt, JoinOutcome, NewBinding, NewRevision, NewRoot, NewSlice, NewToken, RenewOutcome, ReportRecord, Store, StoreError,
};
use crate::clock::Clock;
use crate::events::{Kind, NewEvent};
use crate::limits;

mod cloud;
mod cordon;
mod drift;
mod ops;
mod rollouts;
mod sagas;

struct Case {
    store: Arc<dyn Store>,
    clock: Clock,
    _dir: tempfile::TempDir,
}

fn sqlite() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(sqlite::FILE);
    SqliteStore::create(&path, "one").unwrap();
    let clock = Clock::default();
    let store = Arc::new(SqliteStore::open(&path, clock.clone()).unwrap());
    Case { store, clock, _dir: dir }
}

fn event(kind: Kind) -> NewEvent {
    NewEvent::hub(kind, "test")
}

fn code(error: StoreError) -> Code {
    error.into_fault().code
}

fn topology(name: &str) -> TopologyId {
    TopologyId::parse(name).unwrap()
}

fn host_key(n: u8) -> [u8; 32] {
    [n; 32]
}

fn attempt(token: &str, n: u8) -> JoinAttempt {
    JoinAttempt {
        token_id: token.to_owned(),
        join_key_hash: sha256_hex(b"key"),
        name: HostName::parse("shop").unwrap(),
        spki: format!("spki-{n}"),
        host_id: HostId::of_key(&host_key(n)),
        host_key: host_key(n),
        sealing_key: [0; 32],
        host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
        claim_mac: vec![0; 32],
    }
}

async fn token(case: &Case, id: &str, name: &str) {
    let expires = UnixSeconds(case.clock.unix_s().0 + 3600);
    let name = HostName::parse(name).unwrap();
    let token = NewToken { token_id: id.to_owned(), join_key_hash: sha256_hex(b"key"), name, expires };
    case.store.create_token(token, event(Kind::TokenCreated)).await.unwrap();
}

fn binding(n: u8, name: &str, serial: u64) -> NewBinding {
    NewBinding {
        host_id: HostId::of_key(&host_key(n)),
        host_key: host_key(n),
        sealing_key: [0; 32],
        host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
        name: HostName::parse(name).unwrap(),
        serial,
        envelope: format!("binding {n} {serial}").into_bytes(),
        payload_sha256: format!("b{n}-{serial}"),
    }
}

/// A bound host by the name `h<n>`.
async fn bound(case: &Case, n: u8) -> HostId {
    let (id, name) = (format!("token-{n}"), format!("h{n}"));
    token(case, &id, &name).await;
    let attempt = JoinAttempt { name: HostName::parse(name.as_str()).unwrap(), ..attempt(&id, n) };
    case.store.join(attempt, event(Kind::HostJoined)).await.unwrap();
    case.store.put_binding(binding(n, &name, 1), event(Kind::HostBound)).await.unwrap();
    HostId::of_key(&host_key(n))
}

fn slice(host: &HostId, content: &str) -> NewSlice {
    NewSlice {
        host_id: host.clone(),
        version_hash: VersionHash::of_bytes(content.as_bytes()),
        payload_sha256: sha256_hex(content.as_bytes()),
        empty: content.is_empty(),
        resources: BTreeSet::new(),
        envelope: content.as_bytes().to_vec(),
    }
}

async fn push(case: &Case, name: &str, base: u64, slices: Vec<NewSlice>) -> super::Result<Generation> {
    let revision = NewRevision {
        topology: topology(name),
        base: Generation(base),
        source: b"source".to_vec(),
        source_sha256: "s".to_owned(),
        down: false,
        message: String::new(),
        pushed_by: "operator/ann".to_owned(),
        slices,
        rollout: None,
        accepts: Vec::new(),
    };
    case.store.push(revision, event(Kind::Pushed)).await
}

async fn target(case: &Case, host: &HostId) -> Option<(String, u64)> {
    let targets = case.store.targets(vec![host.clone()]).await.unwrap();
    targets.into_iter().next().map(|(_, t)| (t.topology.to_string(), t.generation.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_frees_its_name_and_comes_back_by_a_new_token_only() {
    let case = sqlite();
    let (gone, stays) = (bound(&case, 1).await, bound(&case, 2).await);
    push(&case, "edge", 0, vec![slice(&gone, "a"), slice(&stays, "b")]).await.unwrap();
    let remove = |host: &HostId| case.store.remove_host(host.clone(), event(Kind::HostRemoved));
    remove(&gone).await.unwrap();
    assert_eq!(code(remove(&gone).await.unwrap_err()), Code::NotFound);
    assert!(case.store.host(gone.clone()).await.unwrap().is_none());
    assert_eq!((target(&case, &gone).await, target(&case, &stays).await), (None, Some(("edge".to_owned(), 1))));

    // Neither its certificate, nor what it holds, nor the token that it came by brings it back.
    let epoch = || HostEpoch::parse("0".repeat(32)).unwrap();
    let session = |host: &HostId| case.store.session_opened(host.clone(), "1".to_owned(), epoch(), 1, None);
    assert_eq!(code(session(&gone).await.unwrap_err()), Code::PermissionDenied);
    let held = Adoption { binding: Some(binding(1, "h1", 2)), ..Adoption::default() };
    assert_eq!(code(case.store.adopt(gone.clone(), held, event(Kind::Adopted)).await.unwrap_err()), Code::PermissionDenied);
    let used = JoinAttempt { name: HostName::parse("h1").unwrap(), ..attempt("token-1", 1) };
    assert!(matches!(case.store.join(used, event(Kind::HostJoined)).await.unwrap(), JoinOutcome::Refused { .. }));
    // What was on its way when it was removed disturbs nobody.
    let late = vec![
        (gone.clone(), topology("edge"), Generation(1), event(Kind::Applied)),
        (stays.clone(), topology("edge"), Generation(1), event(Kind::Applied)),
    ];
    case.store.applied(late).await.unwrap();
    let report = ReportRecord { envelope: Vec::new(), digest: String::new(), received_ms: 1 };
    case.store.keep_report(gone.clone(), report).await.unwrap();
    assert!(case.store.report(gone.clone()).await.unwrap().is_none());

    token(&case, "fresh", "h1").await;
    let anew = JoinAttempt { name: HostName::parse("h1").unwrap(), ..attempt("fresh", 1) };
    assert!(matches!(case.store.join(anew, event(Kind::HostJoined)).await.unwrap(), JoinOutcome::Joined { .. }));
    session(&gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_who_race_for_one_token_one_joins() {
    let case = sqlite();
    token(&case, "t", "shop").await;
    let racers = (0..50).map(|n| {
        let store = case.store.clone();
        tokio::spawn(async move { store.join(attempt("t", n), event(Kind::HostJoined)).await.unwrap() })
    });
    let mut outcomes = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        outcomes.push(racer.await.unwrap());
    }
    let joined = outcomes.iter().filter(|o| matches!(o, JoinOutcome::Joined { first: true, .. })).count();
    let alarms = outcomes.iter().filter(|o| matches!(o, JoinOutcome::Refused { alarm: true, .. })).count();
    assert_eq!((joined, alarms), (1, 49));
    assert_eq!(case.store.hosts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_key_that_used_a_token_may_ask_again_until_it_expires() {
    let case = sqlite();
    token(&case, "t", "shop").await;
    let first = case.store.join(attempt("t", 1), event(Kind::HostJoined)).await.unwrap();
    let again = case.store.join(attempt("t", 1), event(Kind::HostJoined)).await.unwrap();
    assert_eq!(first, JoinOutcome::Joined { certificate: 1, first: true });
    assert_eq!(again, JoinOutcome::Joined { certificate: 2, first: false });
    case.clock.advance(Duration::from_secs(3601));
    let late = case.store.join(attempt("t", 1), event(Kind::HostJoined)).await.unwrap();
    assert!(matches!(late, JoinOutcome::Refused { .. }), "{late:?}");
}

#[tokio::test]
async fn a_wrong_key_or_name_consumes_no_token() {
    let case = sqlite();
    token(&case, "t", "shop").await;
    let wrong_key = JoinAttempt { join_key_hash: sha256_hex(b"other"), ..attempt("t", 1) };
    let wrong_name = JoinAttempt { name: HostName::parse("other").unwrap(), ..attempt("t", 1) };
    for wrong in [wrong_key, wrong_name, attempt("unknown", 1)] {
        let outcome = case.store.join(wrong, event(Kind::HostJoined)).await.unwrap();
        assert!(matches!(outcome, JoinOutcome::Refused { alarm: false, .. }), "{outcome:?}");
    }
    let right = case.store.join(attempt("t", 2), event(Kind::HostJoined)).await.unwrap();
    assert!(matches!(right, JoinOutcome::Joined { .. }));
}

#[tokio::test]
async fn a_name_is_bound_once_and_a_binding_only_rises() {
    let case = sqlite();
    bound(&case, 1).await;
    let expires = UnixSeconds(case.clock.unix_s().0 + 60);
    let taken = NewToken { token_id: "x".to_owned(), join_key_hash: "k".to_owned(), name: HostName::parse("h1").unwrap(), expires };
    assert_eq!(code(case.store.create_token(taken, event(Kind::TokenCreated)).await.unwrap_err()), Code::AlreadyExists);
    bound(&case, 2).await;
    let error = case.store.put_binding(binding(2, "h1", 2), event(Kind::HostBound)).await.unwrap_err();
    assert_eq!(code(error), Code::AlreadyExists);
    let error = case.store.put_binding(binding(2, "h2", 1), event(Kind::HostBound)).await.unwrap_err();
    assert_eq!(code(error), Code::GenerationRegressed);
    let error = case.store.put_binding(binding(9, "h9", 1), event(Kind::HostBound)).await.unwrap_err();
    assert_eq!(code(error), Code::NotFound);
    case.store.put_binding(binding(2, "renamed", 2), event(Kind::HostBound)).await.unwrap();
}

#[tokio::test]
async fn of_two_pushes_from_one_base_the_second_is_told_that_it_moved() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    assert_eq!(push(&case, "edge", 0, vec![slice(&host, "a")]).await.unwrap(), Generation(1));
    let error = push(&case, "edge", 0, vec![slice(&host, "b")]).await.unwrap_err();
    assert!(error.to_string().contains("generation 1"), "{error}");
    assert_eq!(code(error), Code::BaseMoved);
    assert_eq!(push(&case, "edge", 1, vec![slice(&host, "b")]).await.unwrap(), Generation(2));
    let all = case.store.revisions(topology("edge"), 10).await.unwrap();
    assert_eq!(all.iter().map(|r| r.generation.0).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn a_push_that_forgets_a_host_is_refused_whole() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    push(&case, "edge", 0, vec![slice(&a, "a"), slice(&b, "b")]).await.unwrap();
    let error = push(&case, "edge", 1, vec![slice(&a, "a2")]).await.unwrap_err();
    assert!(error.to_string().contains("`h2`"), "{error}");
    assert_eq!(code(error), Code::BaseMoved);
    assert_eq!(target(&case, &a).await, Some(("edge".to_owned(), 1)));
    push(&case, "edge", 1, vec![slice(&a, "a2"), slice(&b, "")]).await.unwrap();
    // Gone hosts need no slice any more.
    push(&case, "edge", 2, vec![slice(&a, "a3")]).await.unwrap();
    assert_eq!(target(&case, &b).await, Some(("edge".to_owned(), 2)));
}

#[tokio::test]
async fn a_host_follows_one_topology_until_its_teardown_is_confirmed() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&host, "a")]).await.unwrap();
    let error = push(&case, "other", 0, vec![slice(&host, "x")]).await.unwrap_err();
    assert!(error.to_string().contains("`h1`") && error.to_string().contains("`edge`"), "{error}");
    assert_eq!(code(error), Code::AlreadyApplied);
    push(&case, "edge", 1, vec![slice(&host, "")]).await.unwrap();
    push(&case, "other", 0, vec![slice(&host, "x")]).await.unwrap();
    assert_eq!(target(&case, &host).await, Some(("edge".to_owned(), 2)), "the teardown comes first");
    let done = vec![(host.clone(), topology("edge"), Generation(2), event(Kind::Applied))];
    assert_eq!(case.store.applied(done).await.unwrap(), std::slice::from_ref(&host));
    assert_eq!(target(&case, &host).await, Some(("other".to_owned(), 1)));
}

#[tokio::test]
async fn late_slices_join_the_newest_revision_only() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    let add = |generation, slices| case.store.add_slices(topology("edge"), Generation(generation), slices, event(Kind::SlicesAdded));
    assert_eq!(code(add(1, vec![slice(&b, "b")]).await.unwrap_err()), Code::NotFound);
    push(&case, "edge", 0, vec![slice(&a, "a")]).await.unwrap();
    push(&case, "edge", 1, vec![slice(&a, "a")]).await.unwrap();
    assert_eq!(code(add(1, vec![slice(&b, "b")]).await.unwrap_err()), Code::BaseMoved);
    add(2, vec![slice(&b, "b")]).await.unwrap();
    add(2, vec![slice(&b, "b")]).await.unwrap();
    assert_eq!(code(add(2, vec![slice(&b, "c")]).await.unwrap_err()), Code::Equivocation);
    assert_eq!(target(&case, &b).await, Some(("edge".to_owned(), 2)));
    let unbound = HostId::of_key(&host_key(9));
    assert_eq!(code(add(2, vec![slice(&unbound, "x")]).await.unwrap_err()), Code::NotFound);
}

#[tokio::test]
async fn old_revisions_go_and_what_hosts_need_of_them_stays() {
    let case = sqlite();
    let (a, left, done) = (bound(&case, 1).await, bound(&case, 2).await, bound(&case, 3).await);
    push(&case, "edge", 0, vec![slice(&a, "1"), slice(&left, "1"), slice(&done, "1")]).await.unwrap();
    push(&case, "edge", 1, vec![slice(&a, "2"), slice(&left, ""), slice(&done, "2")]).await.unwrap();
    push(&case, "edge", 2, vec![slice(&a, "3"), slice(&done, "3")]).await.unwrap();
    let applied = (done.clone(), topology("edge"), Generation(3), event(Kind::Applied));
    case.store.applied(vec![applied]).await.unwrap();
    let last = limits::REVISIONS_KEPT + 4;
    for base in 3..last {
        push(&case, "edge", base, vec![slice(&a, &base.to_string()), slice(&done, "x")]).await.unwrap();
    }
    let kept: Vec<u64> = case.store.revisions(topology("edge"), 1000).await.unwrap().iter().rev().map(|r| r.generation.0).collect();
    assert_eq!(kept, [2, 3].into_iter().chain(5..=last).collect::<Vec<_>>());
    let stored = async |generation, host: &HostId| case.store.slice(topology("edge"), Generation(generation), host.clone()).await.unwrap();
    assert!(stored(2, &left).await.is_some() && stored(3, &done).await.is_some());
    assert!(stored(2, &a).await.is_none() && stored(3, &a).await.is_none());
    assert_eq!((target(&case, &left).await, target(&case, &a).await), (Some(("edge".to_owned(), 2)), Some(("edge".to_owned(), last))));
    // Who left is still known to have left, and who follows is still a member.
    assert_eq!(code(push(&case, "edge", last, vec![slice(&a, "z")]).await.unwrap_err()), Code::BaseMoved);
    push(&case, "edge", last, vec![slice(&a, "z"), slice(&done, "z")]).await.unwrap();
}

#[tokio::test]
async fn the_old_certificate_counts_until_the_new_one_is_used() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    let renew = |shown| case.store.renew(host.clone(), shown, Some(event(Kind::Renewed)));
    let open = |shown| {
        let epoch = HostEpoch::parse("0".repeat(32)).unwrap();
        case.store.session_opened(host.clone(), "0".to_owned(), epoch, shown, Some(event(Kind::Connected)))
    };
    open(1).await.unwrap();
    assert_eq!(renew(1).await.unwrap(), RenewOutcome::Next(2));
    // The answer was lost: the old one still counts.
    assert_eq!(renew(1).await.unwrap(), RenewOutcome::Next(3));
    open(1).await.unwrap();
    open(3).await.unwrap();
    assert_eq!(code(open(1).await.unwrap_err()), Code::RenewalConflict);
    assert_eq!(renew(1).await.unwrap(), RenewOutcome::Conflict);
    assert!(case.store.host(host.clone()).await.unwrap().unwrap().locked);
    assert_eq!(code(open(3).await.unwrap_err()), Code::RenewalConflict, "a locked host stays out");
    case.store.put_binding(binding(1, "h1", 2), event(Kind::HostBound)).await.unwrap();
    let told = case.store.events(0, 100, true).await.unwrap();
    assert!(told.iter().any(|e| e.kind == "host_bound" && e.message.contains("no longer")), "{told:?}");
    // The host may have lost its newer certificate: what it shows first counts from then on.
    open(1).await.unwrap();
    open(3).await.unwrap();
    assert_eq!(code(open(1).await.unwrap_err()), Code::RenewalConflict);
}

#[tokio::test]
async fn a_root_that_only_an_agent_brought_gives_way_to_the_operators() {
    let case = sqlite();
    let root = |version: u64, text: &str| NewRoot { version, payload_sha256: text.to_owned(), envelope: text.as_bytes().to_vec() };
    let put = |root| case.store.put_root(root, event(Kind::RootStored));
    let host = bound(&case, 1).await;
    let held = Adoption { roots: vec![root(1, "theirs"), root(2, "theirs too")], ..Adoption::default() };
    case.store.adopt(host, held, event(Kind::Adopted)).await.unwrap();
    put(root(1, "ours")).await.unwrap();
    assert_eq!(case.store.roots().await.unwrap(), [b"ours".to_vec()]);
    assert_eq!(code(put(root(1, "another")).await.unwrap_err()), Code::AlreadyExists, "an operator's own stays");
}

#[tokio::test]
async fn a_root_that_an_operator_confirmed_stays() {
    let case = sqlite();
    let root = |text: &str| NewRoot { version: 1, payload_sha256: text.to_owned(), envelope: text.as_bytes().to_vec() };
    let put = |root| case.store.put_root(root, event(Kind::RootStored));
    let host = bound(&case, 1).await;
    case.store.adopt(host, Adoption { roots: vec![root("one")], ..Adoption::default() }, event(Kind::Adopted)).await.unwrap();
    put(root("one")).await.unwrap();
    assert_eq!(code(put(root("other")).await.unwrap_err()), Code::AlreadyExists);
}

#[tokio::test]
async fn roots_come_one_by_one() {
    let case = sqlite();
    let root = |version: u64, text: &str| NewRoot { version, payload_sha256: text.to_owned(), envelope: text.as_bytes().to_vec() };
    let put = |root| case.store.put_root(root, event(Kind::RootStored));
    assert_eq!(code(put(root(2, "b")).await.unwrap_err()), Code::BadRoot);
    put(root(1, "a")).await.unwrap();
    put(root(1, "a")).await.unwrap();
    assert_eq!(code(put(root(1, "z")).await.unwrap_err()), Code::AlreadyExists);
    put(root(2, "b")).await.unwrap();
    assert_eq!(case.store.roots().await.unwrap(), [b"a".to_vec(), b"b".to_vec()]);
}

#[tokio::test]
async fn what_an_agent_held_becomes_a_revision_without_a_source() {
    let case = sqlite();
    let host = HostId::of_key(&host_key(7));
    let adoption = Adoption {
        roots: vec![NewRoot { version: 1, payload_sha256: "r".to_owned(), envelope: b"r".to_vec() }],
        binding: Some(binding(7, "h7", 3)),
        slice: Some((topology("edge"), Generation(5), slice(&host, "five"))),
    };
    case.store.adopt(host.clone(), adoption.clone(), event(Kind::Adopted)).await.unwrap();
    case.store.adopt(host.clone(), adoption, event(Kind::Adopted)).await.unwrap();
    let revision = case.store.revision(topology("edge"), Generation(0), true).await.unwrap().unwrap();
    assert_eq!((revision.record.generation, revision.source, revision.slices.len()), (Generation(5), None, 1));
    assert_eq!(target(&case, &host).await, Some(("edge".to_owned(), 5)));
    assert_eq!(case.store.host(host.clone()).await.unwrap().unwrap().binding_serial, 3);
    // The next push goes on from there.
    push(&case, "edge", 5, vec![slice(&host, "six")]).await.unwrap();
}

#[tokio::test]
async fn events_are_numbered_chained_and_announced() {
    let case = sqlite();
    let mut newest = case.store.newest_event();
    case.store.record((0..5).map(|_| event(Kind::Error)).collect()).await.unwrap();
    newest.wait_for(|n| *n == 5).await.unwrap();
    let last_two = case.store.events(0, 2, true).await.unwrap();
    assert_eq!(last_two.iter().map(|e| e.sequence).collect::<Vec<_>>(), [4, 5]);
    let first_two = case.store.events(1, 2, false).await.unwrap();
    assert_eq!(first_two.iter().map(|e| e.sequence).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(case.store.verify_events().await.unwrap(), Ok(5));
}

#[tokio::test]
async fn an_event_that_was_changed_by_hand_is_found() {
    let case = sqlite();
    case.store.record((0..5).map(|_| event(Kind::Error)).collect()).await.unwrap();
    let conn = rusqlite::Connection::open(case._dir.path().join(sqlite::FILE)).unwrap();
    conn.execute("UPDATE events SET message = 'nothing' WHERE sequence = 3", []).unwrap();
    assert_eq!(case.store.verify_events().await.unwrap(), Err(3));
}

#[tokio::test]
async fn a_refused_verb_leaves_no_trace() {
    let case = sqlite();
    let host = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&host, "a")]).await.unwrap();
    let before = *case.store.newest_event().borrow();
    let unbound = HostId::of_key(&host_key(9));
    push(&case, "edge", 1, vec![slice(&host, "b"), slice(&unbound, "x")]).await.unwrap_err();
    assert_eq!(case.store.topologies().await.unwrap()[0].generation, Generation(1));
    assert_eq!(*case.store.newest_event().borrow(), before);
}
