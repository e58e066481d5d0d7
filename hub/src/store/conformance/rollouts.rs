//! Rollouts: what is withheld, what is given, and what a change is made of.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::Code;
use moorline_common::id::{Generation, HostId};
use moorline_common::rollout::{Act, Plan, Standing, State};

use super::super::{Adoption, NewRevision, NewRollout, RolloutChange, RolloutRecord};
use super::{Case, bound, code, event, push, slice, sqlite, target, topology};
use crate::events::Kind;
use crate::limits;

/// Pushes with a rollout over `hosts`.
async fn spread(case: &Case, name: &str, base: u64, content: &str, hosts: &[HostId]) -> Generation {
    let revision = NewRevision {
        topology: topology(name),
        base: Generation(base),
        source: b"source".to_vec(),
        source_sha256: "s".to_owned(),
        down: false,
        message: String::new(),
        pushed_by: "operator/ann".to_owned(),
        slices: hosts.iter().map(|h| slice(h, content)).collect(),
        rollout: Some(NewRollout { plan: Plan::default(), hosts: hosts.iter().cloned().collect::<BTreeSet<_>>() }),
        accepts: Vec::new(),
    };
    case.store.push(revision, event(Kind::Pushed)).await.unwrap()
}

async fn rollout(case: &Case, generation: u64) -> RolloutRecord {
    case.store.rollout(topology("edge"), Generation(generation)).await.unwrap().unwrap()
}

fn moved(generation: u64, host: &HostId, standing: Standing) -> RolloutChange {
    RolloutChange {
        topology: topology("edge"),
        generation: Generation(generation),
        seen: (State::Running, 0),
        state: State::Running,
        reason: None,
        forgiven: 0,
        moved: vec![(host.clone(), standing, "why".to_owned())],
    }
}

fn act(case: &Case, act: Act) -> super::super::Verb<'_, RolloutRecord> {
    case.store.act_on_rollout(topology("edge"), Generation(0), act, event(Kind::RolloutPaused))
}

async fn kinds(case: &Case) -> Vec<String> {
    case.store.events(0, 1000, false).await.unwrap().into_iter().map(|e| e.kind).collect()
}

#[tokio::test]
async fn what_a_host_should_have_stays_what_it_was_until_its_turn() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    push(&case, "edge", 0, vec![slice(&a, "one"), slice(&b, "one")]).await.unwrap();
    spread(&case, "edge", 1, "two", &[a.clone(), b.clone()]).await;
    assert_eq!((target(&case, &a).await, target(&case, &b).await), (Some(("edge".into(), 1)), Some(("edge".into(), 1))));
    let record = rollout(&case, 0).await;
    assert_eq!((record.generation, record.state, record.started_by.as_str()), (Generation(2), State::Running, "hub"));
    assert_eq!(record.counts, BTreeMap::from([(Standing::Pending, 2)]));
    assert_eq!(record.hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["h1", "h2"]);

    let offline = moved(2, &b, Standing::Offline);
    assert!(case.store.change_rollout(offline, Vec::new()).await.unwrap());
    assert!(case.store.change_rollout(moved(2, &a, Standing::Released), vec![event(Kind::RolloutReleased)]).await.unwrap());
    assert_eq!((target(&case, &a).await, target(&case, &b).await), (Some(("edge".into(), 2)), Some(("edge".into(), 1))));
    let record = rollout(&case, 2).await;
    assert_eq!(
        record.hosts.iter().map(|h| (h.standing, h.released_ms > 0)).collect::<Vec<_>>(),
        [(Standing::Released, true), (Standing::Offline, false)]
    );
    assert_eq!(case.store.rollouts(None, 9).await.unwrap()[0].counts, BTreeMap::from([(Standing::Released, 1), (Standing::Offline, 1)]));
    // Given once, it stays given.
    assert!(case.store.change_rollout(moved(2, &a, Standing::RolledBack), Vec::new()).await.unwrap());
    assert_eq!(target(&case, &a).await, Some(("edge".into(), 2)));
}

#[tokio::test]
async fn a_change_that_was_decided_on_something_else_changes_nothing() {
    let case = sqlite();
    let a = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    spread(&case, "edge", 1, "two", std::slice::from_ref(&a)).await;
    act(&case, Act::Pause).await.unwrap();
    let before = kinds(&case).await;
    assert!(!case.store.change_rollout(moved(2, &a, Standing::Released), vec![event(Kind::RolloutReleased)]).await.unwrap());
    assert_eq!((target(&case, &a).await, kinds(&case).await), (Some(("edge".into(), 1)), before));
    assert!(!case.store.change_rollout(moved(7, &a, Standing::Released), Vec::new()).await.unwrap(), "there is no such rollout");
}

#[tokio::test]
async fn operators_act_on_what_is_not_over_and_each_act_is_an_event() {
    let case = sqlite();
    let a = bound(&case, 1).await;
    assert_eq!(code(act(&case, Act::Pause).await.unwrap_err()), Code::NotFound);
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    spread(&case, "edge", 1, "two", std::slice::from_ref(&a)).await;
    for (what, state) in
        [(Act::Pause, State::Paused), (Act::Pause, State::Paused), (Act::Resume, State::Running), (Act::Abort, State::Aborted)]
    {
        assert_eq!(act(&case, what).await.unwrap().state, state);
        assert_eq!(rollout(&case, 2).await.state, state);
    }
    assert_eq!(code(act(&case, Act::Resume).await.unwrap_err()), Code::PreconditionFailed);
    assert_eq!(kinds(&case).await.iter().filter(|k| *k == "rollout_paused").count(), 3, "pausing twice is one event");
    assert!(case.store.open_rollouts().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_newer_revision_takes_its_place_whether_it_spreads_or_not() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    push(&case, "edge", 0, vec![slice(&a, "one"), slice(&b, "one")]).await.unwrap();
    spread(&case, "edge", 1, "two", &[a.clone(), b.clone()]).await;
    case.store.change_rollout(moved(2, &a, Standing::Released), Vec::new()).await.unwrap();
    spread(&case, "edge", 2, "three", &[a.clone(), b.clone()]).await;
    assert_eq!((rollout(&case, 2).await.state, rollout(&case, 3).await.state), (State::Superseded, State::Running));
    assert_eq!((target(&case, &a).await, target(&case, &b).await), (Some(("edge".into(), 2)), Some(("edge".into(), 1))));
    assert!(!case.store.change_rollout(moved(2, &b, Standing::Released), Vec::new()).await.unwrap());
    let open: Vec<_> = case.store.open_rollouts().await.unwrap().into_iter().map(|r| r.generation).collect();
    assert_eq!(open, [Generation(3)]);
    push(&case, "edge", 3, vec![slice(&a, "four"), slice(&b, "four")]).await.unwrap();
    assert_eq!((target(&case, &a).await, target(&case, &b).await), (Some(("edge".into(), 4)), Some(("edge".into(), 4))));
    assert!(case.store.open_rollouts().await.unwrap().is_empty());
    assert_eq!(kinds(&case).await.iter().filter(|k| *k == "rollout_superseded").count(), 2);
}

#[tokio::test]
async fn a_host_that_comes_late_takes_part_and_one_that_is_removed_does_not() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    spread(&case, "edge", 1, "two", std::slice::from_ref(&a)).await;
    case.store.add_slices(topology("edge"), Generation(2), vec![slice(&b, "two")], event(Kind::SlicesAdded)).await.unwrap();
    assert_eq!((target(&case, &b).await, rollout(&case, 2).await.hosts.len()), (None, 2));
    // It is promised to that topology: no other gets it meanwhile.
    assert_eq!(code(push(&case, "other", 0, vec![slice(&b, "x")]).await.unwrap_err()), Code::AlreadyApplied);
    case.store.change_rollout(moved(2, &b, Standing::Released), Vec::new()).await.unwrap();
    assert_eq!(target(&case, &b).await, Some(("edge".into(), 2)));
    case.store.remove_host(b, event(Kind::HostRemoved)).await.unwrap();
    assert_eq!(rollout(&case, 2).await.hosts.len(), 1);
}

#[tokio::test]
async fn what_a_host_holds_is_not_withheld_from_it() {
    let case = sqlite();
    let a = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    spread(&case, "edge", 1, "two", std::slice::from_ref(&a)).await;
    assert_eq!(case.store.newest_slice(topology("edge"), a.clone()).await.unwrap(), Generation(1));
    let held = Adoption { slice: Some((topology("edge"), Generation(2), slice(&a, "two"))), ..Adoption::default() };
    case.store.adopt(a.clone(), held, event(Kind::Adopted)).await.unwrap();
    assert_eq!(
        (target(&case, &a).await, case.store.newest_slice(topology("edge"), a).await.unwrap()),
        (Some(("edge".into(), 2)), Generation(2))
    );
}

#[tokio::test]
async fn what_a_host_still_follows_is_kept_however_much_is_withheld_from_it() {
    let case = sqlite();
    let a = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    for base in 1..limits::REVISIONS_KEPT + 5 {
        spread(&case, "edge", base, &format!("{base}"), std::slice::from_ref(&a)).await;
    }
    assert_eq!(target(&case, &a).await, Some(("edge".into(), 1)));
    assert!(case.store.slice(topology("edge"), Generation(1), a).await.unwrap().is_some());
    assert!(case.store.rollout(topology("edge"), Generation(2)).await.unwrap().is_none(), "old rollouts go with their revisions");
}
