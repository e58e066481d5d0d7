//! Hosts from which an operator keeps what is pushed.

use moorline_common::fault::Code;
use moorline_common::id::{Generation, HostId};

use super::super::{Adoption, NewSlice};
use super::{Case, bound, code, event, push, slice, sqlite, target, topology};
use crate::events::Kind;
use crate::limits;

fn cordon<'c>(case: &'c Case, host: &HostId, reason: Option<&str>) -> super::super::Verb<'c, ()> {
    let kind = if reason.is_some() { Kind::HostCordoned } else { Kind::HostUncordoned };
    case.store.cordon(host.clone(), reason.map(str::to_owned), event(kind))
}

#[tokio::test]
async fn a_cordoned_host_stays_on_what_it_should_have_had_and_gets_the_newest_when_that_is_lifted() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    let both = |content: &str| -> Vec<NewSlice> { vec![slice(&a, content), slice(&b, content)] };
    let at = |generation: u64| Some(("edge".to_owned(), generation));
    push(&case, "edge", 0, both("one")).await.unwrap();
    cordon(&case, &a, Some("new disks")).await.unwrap();
    push(&case, "edge", 1, both("two")).await.unwrap();
    assert_eq!((target(&case, &a).await, target(&case, &b).await), (at(1), at(2)));
    cordon(&case, &a, Some("and memory")).await.unwrap();
    assert_eq!(target(&case, &a).await, at(1), "a second time it is the same");
    let shown = case.store.host(a.clone()).await.unwrap().unwrap().cordon.unwrap();
    assert_eq!((shown.reason.as_str(), shown.by.as_str(), shown.since_ms > 0), ("and memory", "hub", true));
    // However many come meanwhile, what it has is kept for it.
    for generation in 2..limits::REVISIONS_KEPT + 4 {
        push(&case, "edge", generation, both(&format!("{generation}"))).await.unwrap();
    }
    assert_eq!(target(&case, &a).await, at(1));
    assert!(case.store.slice(topology("edge"), Generation(1), a.clone()).await.unwrap().is_some());
    cordon(&case, &a, None).await.unwrap();
    assert_eq!(target(&case, &a).await, at(limits::REVISIONS_KEPT + 4));
    assert!(case.store.host(a.clone()).await.unwrap().unwrap().cordon.is_none());
    let nobody = HostId::of_key(&[9; 32]);
    assert_eq!(code(cordon(&case, &nobody, None).await.unwrap_err()), Code::NotFound);
}

#[tokio::test]
async fn a_host_that_has_not_what_it_was_given_stays_on_what_it_has() {
    let case = sqlite();
    let a = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    let applied = vec![(a.clone(), topology("edge"), Generation(1), event(Kind::Applied))];
    case.store.applied(applied).await.unwrap();
    push(&case, "edge", 1, vec![slice(&a, "two")]).await.unwrap();
    cordon(&case, &a, Some("")).await.unwrap();
    assert_eq!(target(&case, &a).await, Some(("edge".into(), 1)), "it waited for its window, or was away");
}

#[tokio::test]
async fn what_a_cordoned_host_is_promised_or_has_no_other_topology_takes() {
    let case = sqlite();
    let (a, b) = (bound(&case, 1).await, bound(&case, 2).await);
    cordon(&case, &a, Some("")).await.unwrap();
    push(&case, "edge", 0, vec![slice(&a, "one"), slice(&b, "one")]).await.unwrap();
    assert_eq!(target(&case, &a).await, None, "it had nothing");
    assert_eq!(code(push(&case, "other", 0, vec![slice(&a, "x")]).await.unwrap_err()), Code::AlreadyApplied);
    cordon(&case, &a, None).await.unwrap();
    assert_eq!(target(&case, &a).await, Some(("edge".into(), 1)));
    cordon(&case, &b, Some("")).await.unwrap();
    push(&case, "edge", 1, vec![slice(&a, ""), slice(&b, "")]).await.unwrap();
    let refused = push(&case, "other", 0, vec![slice(&b, "x")]).await.unwrap_err().into_fault();
    assert!(refused.code == Code::AlreadyApplied && refused.message.contains("moorctl host uncordon"), "{refused}");
}

#[tokio::test]
async fn a_host_that_turns_out_to_be_further_is_kept_there() {
    let case = sqlite();
    let a = bound(&case, 1).await;
    push(&case, "edge", 0, vec![slice(&a, "one")]).await.unwrap();
    cordon(&case, &a, Some("")).await.unwrap();
    let held = Adoption { slice: Some((topology("edge"), Generation(5), slice(&a, "five"))), ..Adoption::default() };
    case.store.adopt(a.clone(), held, event(Kind::Adopted)).await.unwrap();
    assert_eq!(target(&case, &a).await, Some(("edge".into(), 5)));
}
