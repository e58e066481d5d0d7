//! Sagas against a hub that shows what a test wants.

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use moorline_common::fault::Code;
use moorline_common::id::{HostId, UnixSeconds};
use moorline_common::op::OpStatement;
use moorline_common::saga::{OfSaga, Plan, Side, Verb, Word};
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::statement::{ApplyReport, ObservedReport};
use moorline_proto::v1 as pb;

use super::{OnSaga, OnStep, SagaVerb, StartArgs, act, follow, list, start, view};
use crate::args::{Cli, Verb as Top};
use crate::client::Client;
use crate::client::sagas::{SagaFacts, SagaFilter};
use crate::client::tests::{Shown, client, shown_host};
use crate::error::Failure;
use crate::home::write_key;
use crate::render::{Format, Ui};
use crate::revision::tests::{host_binding, keys, trust};
use crate::saga::testing::{self, draft, id, sealed, terms};

type Hub = Arc<Mutex<Shown>>;

fn host_key() -> PrivateKey {
    PrivateKey::from_seed(&[10; 32])
}

/// A client whose operator can sign, and a hub with the host `pve-1` and its report.
async fn hub() -> (Client, Hub, tempfile::TempDir) {
    let (client, shown, dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    {
        let mut shown = shown.lock().unwrap();
        shown.hosts = vec![shown_host(&host_binding(10, "pve-1"), &keys().1)];
        let observed = testing::host(10, "pve-1").observed.unwrap();
        let host_id = HostId::of_key(&host_key().public());
        let report = ObservedReport { host_id, taken_at: UnixSeconds(1), observed, apply: ApplyReport::default() };
        shown.report = Some(Signed::seal(&report, &[&host_key()]).unwrap().envelope().clone());
    }
    (client, shown, dir)
}

fn ui() -> Ui {
    Ui::new(Format::Json, true)
}

fn args(line: &[&str]) -> StartArgs {
    let cli = Cli::try_parse_from(["moorctl", "saga", "start"].iter().chain(line)).unwrap();
    let Top::Saga(SagaVerb::Start(args)) = cli.verb else { panic!("no start of a saga") };
    *args
}

async fn started(line: &[&str]) -> (Result<u8, Failure>, Hub) {
    let (client, shown, _dir) = hub().await;
    let ended = start::tests::by(&client, &mut ui(), &args(line)).await;
    (ended, shown)
}

#[tokio::test]
async fn a_saga_is_handed_in_whole_and_a_dry_run_sends_nothing() {
    let (ended, shown) = started(&["snapshot-guest", "pve-1/101", "--deployment", "shop"]).await;
    assert_eq!(ended, Ok(0));
    let request = shown.lock().unwrap().sagas.pop().unwrap();
    let plan = Signed::<Plan>::from_json(&request.plan.unwrap().json).unwrap();
    let plan = trust().verify_plan(plan).unwrap().into_statement();
    assert_eq!((plan.name.as_str(), plan.deployment.as_str()), ("snapshot-guest", "shop"));
    let orders = plan.tasks().map(|(_, _, task)| task.act.host().map_or(0, |act| act.orders.len())).sum::<usize>();
    assert_eq!(request.orders.len(), orders);
    for order in &request.orders {
        trust().verify_op(Signed::from_json(&order.json).unwrap(), &host_binding(10, "pve-1")).unwrap();
    }
    let (ended, shown) = started(&["snapshot-guest", "pve-1/101", "--dry-run"]).await;
    assert_eq!(ended, Ok(0));
    assert!(shown.lock().unwrap().sagas.is_empty());
}

#[tokio::test]
async fn what_cannot_be_is_told_and_nothing_is_sent() {
    for (line, code) in [
        (&["snapshot-guest", "pve-1/999"][..], "not_found"),
        (&["snapshot-guest", "pve-1/101", "--expires", "40d"], "usage"),
        (&["snapshot-guest", "pve-1/101", "--expires", "8d"], "usage"),
        (&["snapshot-guest", "pve-1/101", "--topology", "edge.yaml"], "usage"),
        (&["offboard-host", "pve-1"], "usage"),
        (&["snapshot-guest", "pve-1/101", "--set", "memory=yes", "--set", "memory=no"], "usage"),
    ] {
        let (ended, shown) = started(line).await;
        assert_eq!(ended.unwrap_err().code, code, "{line:?}");
        assert!(shown.lock().unwrap().sagas.is_empty());
    }
}

#[tokio::test]
async fn what_one_key_may_not_order_is_refused_before_anything_is_sent() {
    let (mut client, shown, _dir) = hub().await;
    client.root.class_thresholds.insert(moorline_common::op::Class::R4, 2);
    let refused = start::tests::by(&client, &mut ui(), &args(&["snapshot-guest", "pve-1/101"])).await.unwrap_err();
    assert!(refused.is(Code::ThresholdNotMet) && refused.remedy.contains("--sign-with"), "{refused:?}");
    assert!(refused.message.contains("snapshot-delete"), "what undoes a step counts as well: {refused:?}");
    assert!(shown.lock().unwrap().sagas.is_empty());
}

#[tokio::test]
async fn what_disrupts_or_destroys_is_asked_about_first() {
    let (client, shown, _dir) = hub().await;
    let mut ui = Ui::new(Format::Json, false);
    let unasked = start::tests::by(&client, &mut ui, &args(&["destroy-guest", "pve-1/101"])).await.unwrap_err();
    assert_eq!(unasked.code, "needs_confirmation");
    assert!(shown.lock().unwrap().sagas.is_empty());
}

#[tokio::test]
async fn a_key_makes_two_starts_one_saga() {
    let (client, shown, _dir) = hub().await;
    let line = args(&["snapshot-guest", "pve-1/101", "--key", "nightly-2026-11-23"]);
    start::tests::by(&client, &mut ui(), &line).await.unwrap();
    let first = shown.lock().unwrap().sagas.pop().unwrap();
    shown.lock().unwrap().saga = Some(testing::taken(&first.plan.unwrap()));
    start::tests::by(&client, &mut ui(), &line).await.unwrap();
    assert!(shown.lock().unwrap().sagas.is_empty(), "it is there already");
    let other = args(&["suspend-guest", "pve-1/101", "--key", "nightly-2026-11-23"]);
    assert!(start::tests::by(&client, &mut ui(), &other).await.unwrap_err().is(Code::Conflict));
}

/// A saga of two snapshots as a hub shows it.
fn shown_saga() -> pb::Saga {
    let sealed = sealed(&draft("snapshot-guest", &["pve-1/101", "pve-1/205"], &[]).unwrap());
    testing::taken(&(&sealed.envelope).into())
}

fn facts(saga: pb::Saga) -> SagaFacts {
    SagaFacts::try_from(saga).unwrap()
}

fn on() -> OnSaga {
    OnSaga { saga_id: id(), reason: "a test".to_owned() }
}

fn on_step(step: &str, undo: bool) -> OnStep {
    OnStep { on: on(), step: step.to_owned(), undo }
}

fn said(shown: &Hub) -> (Word, Vec<OpStatement>) {
    let request = shown.lock().unwrap().saga_words.pop().unwrap();
    let word = trust().verify_word(Signed::from_json(&request.word.unwrap().json).unwrap()).unwrap().into_statement();
    let orders = request.orders.iter().map(|order| Signed::<OpStatement>::from_json(&order.json).unwrap().peek().unwrap());
    (word, orders.collect())
}

#[tokio::test]
async fn further_tries_are_numbered_behind_all_that_were_signed() {
    for (allowed, first) in [(5, 6), (8, 9)] {
        let (client, shown, _dir) = hub().await;
        let mut saga = shown_saga();
        saga.steps[1].undo.as_mut().unwrap().allowed = allowed;
        shown.lock().unwrap().saga = Some(saga);
        act::retry(&on_step("snapshot-2", true), None, client, &mut ui()).await.unwrap();
        let (word, orders) = said(&shown);
        let Verb::Retry { step: 1, side: Side::Undo, orders: hashes } = &word.verb else { panic!("{word:?}") };
        assert_eq!((hashes.len(), orders.len()), (5, 5));
        for (at, order) in orders.iter().enumerate() {
            let of = OfSaga { saga_id: id(), step: 1, side: Side::Undo, attempt: first + u32::try_from(at).unwrap() };
            assert_eq!((order.idempotency_key.clone(), order.saga.clone()), (of.key().unwrap(), Some(of)));
            assert_eq!((order.kind.as_str(), order.incarnation.as_deref()), ("snapshot-delete", Some(testing::CONTAINER)));
        }
    }
}

#[tokio::test]
async fn words_are_signed_about_what_is_shown() {
    let (client, shown, _dir) = hub().await;
    shown.lock().unwrap().saga = Some(pb::Saga { groups_begun: 1, ..shown_saga() });
    act::skip(&on_step("2", false), client.clone(), &mut ui()).await.unwrap();
    assert_eq!(said(&shown).0.verb, Verb::Skip { step: 1, side: Side::Do });
    act::abort(&on(), client.clone(), &mut ui()).await.unwrap();
    let (word, _) = said(&shown);
    assert_eq!((word.verb, word.reason.as_str()), (Verb::Abort { begun: 1 }, "a test"));
    let unasked = act::abandon(&on(), client.clone(), &mut Ui::new(Format::Json, false)).await.unwrap_err();
    assert_eq!(unasked.code, "needs_confirmation");
    act::abandon(&on(), client.clone(), &mut ui()).await.unwrap();
    assert_eq!(said(&shown).0.verb, Verb::Abandon);
    let strange = act::skip(&on_step("snapshot-3", false), client.clone(), &mut ui()).await.unwrap_err();
    assert!(strange.exit == 64 && strange.remedy.contains("2 (snapshot-2)"), "{strange:?}");
    shown.lock().unwrap().saga = Some(pb::Saga { groups_begun: 9, ..shown_saga() });
    assert!(act::abort(&on(), client, &mut ui()).await.unwrap_err().is(Code::BadEnvelope));
    assert!(shown.lock().unwrap().saga_words.is_empty());
}

#[tokio::test]
async fn nothing_is_signed_about_a_plan_that_operators_did_not_sign() {
    let (client, shown, _dir) = hub().await;
    let envelope = |plan: &Plan, key: &PrivateKey| Some(Signed::seal(plan, &[key]).unwrap().envelope().into());
    let plan = sealed(&draft("snapshot-guest", &["pve-1/101"], &[]).unwrap()).plan;
    let stranger = PrivateKey::from_seed(&[77; 32]);
    let other = Plan { saga_id: moorline_common::id::SagaId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ff").unwrap(), ..plan.clone() };
    for (shows, code) in [
        (None, Code::NotFound),
        (envelope(&plan, &stranger), Code::UnknownKey),
        (envelope(&plan, &keys().0), Code::OutOfScope),
        (envelope(&other, &keys().1), Code::Equivocation),
    ] {
        let saga = pb::Saga { plan: shows, ..shown_saga() };
        let doubted = view::tell(&client, &mut ui(), facts(saga.clone()), false);
        assert_eq!(doubted, Ok(1), "shown, and not as a success");
        shown.lock().unwrap().saga = Some(saga);
        let refused = act::abort(&on(), client.clone(), &mut ui()).await.unwrap_err();
        assert!(refused.is(code) && refused.message.contains("IS NOT WHAT OPERATORS SIGNED"), "{refused:?}");
    }
    assert!(shown.lock().unwrap().saga_words.is_empty());
}

fn text(client: &Client, saga: pb::Saga) -> String {
    let view = view::SagaView::new(client, facts(saga));
    anstream::adapter::strip_str(&view::in_full(&view, 1_795_000_090_000)).to_string()
}

#[tokio::test]
async fn a_stuck_saga_tells_what_is_left_and_the_command_that_resolves_it() {
    let (client, _, _dir) = hub().await;
    let mut saga = pb::Saga { status: "stuck".to_owned(), ..shown_saga() };
    saga.stuck = "what undoes step 1 (`snapshot-1`) failed for good".to_owned();
    saga.remedy = format!("moorctl saga retry {} snapshot-1 --undo", testing::ID);
    saga.timeline = vec![pb::SagaFact { at_unix_ms: 1_795_000_000_000, what: "step 1 (`snapshot-1`): try 1 begins".to_owned() }];
    let run = saga.steps[0].run.as_mut().unwrap();
    (run.phase, run.attempt, run.at_unix_ms) = ("done".to_owned(), 1, 1_795_000_030_000);
    let undo = saga.steps[0].undo.as_mut().unwrap();
    (undo.phase, undo.attempt, undo.at_unix_ms) = ("failed".to_owned(), 5, 1_795_000_060_000);
    undo.fault = Some(pb::Fault { code: "op_failed".to_owned(), message: "no space\u{1b}[2J".to_owned() });
    let text = text(&client, saga);
    for says in [
        "verified, signed by",
        "stuck: what undoes step 1",
        "next: moorctl saga retry 0197a2b4-1c3d-7e5f-8a6b-0123456789ab snapshot-1 --undo",
        "90s ago  step 1",
        "1 of 3",
        "5 of 5",
        "30s",
        "snapshot-delete pve/guest/101 on pve-1",
        "no space\\u{1b}[2J",
    ] {
        assert!(text.contains(says), "`{says}` in {text}");
    }
}

#[tokio::test]
async fn a_saga_is_followed_until_it_has_ended_or_is_stuck() {
    let (client, shown, _dir) = hub().await;
    for (last, exit) in [("completed", 0), ("rolled_back", 1), ("stuck", 1), ("abandoned", 1)] {
        let saga = |status: &str| pb::Saga { status: status.to_owned(), ..shown_saga() };
        shown.lock().unwrap().saga_news = vec![saga("running"), saga(last)];
        let ended = follow::until_over(&client, &mut ui(), facts(saga("pending")), std::time::Duration::from_secs(60)).await.unwrap();
        assert_eq!((ended.status.as_str(), view::exit(ended.status)), (last, exit));
    }
}

#[tokio::test]
async fn a_wait_that_ends_first_says_that_the_saga_goes_on() {
    let (client, shown, _dir) = hub().await;
    shown.lock().unwrap().saga_news = vec![shown_saga()];
    let first = facts(shown_saga());
    let failure = follow::until_over(&client, &mut ui(), first, std::time::Duration::from_millis(20)).await.unwrap_err();
    assert!(failure.code == "not_converged" && failure.remedy.contains("moorctl saga abort"), "{failure:?}");
}

#[tokio::test]
async fn a_list_shows_where_each_stands_and_what_a_newer_hub_says_is_told() {
    let (client, shown, _dir) = hub().await;
    shown.lock().unwrap().saga = Some(pb::Saga { reason: "nightly".to_owned(), ..shown_saga() });
    let sagas = client.sagas(&SagaFilter::default()).await.unwrap();
    let text = anstream::adapter::strip_str(&list::table(&sagas, 1_795_000_090_000)).to_string();
    for says in [testing::ID, "snapshot-guest", "update", "shop", "pending", "0 of 2", "90s", "nightly"] {
        assert!(text.contains(says), "`{says}` in {text}");
    }
    shown.lock().unwrap().saga = Some(pb::Saga { status: "pondering".to_owned(), ..shown_saga() });
    assert!(client.saga(&id()).await.unwrap_err().is(Code::UnsupportedVersion));
}

#[test]
fn news_are_what_stands_behind_what_was_shown() {
    let fact = |at: u64| crate::client::sagas::SagaFact { at_unix_ms: at, what: at.to_string() };
    let (one, two, three) = (fact(1), fact(2), fact(3));
    let all = [one.clone(), two.clone(), three.clone()];
    assert_eq!(follow::new_facts(&[one, two.clone()], &all), &all[2..]);
    assert_eq!(follow::new_facts(&[], &all), &all[..]);
    assert_eq!(follow::new_facts(&[fact(9)], &all), &all[..], "of what was cut off nothing is known");
    assert_eq!(follow::new_facts(&[two, three], &all), &[]);
}

#[test]
fn a_word_names_no_times_that_are_none() {
    let root = trust();
    let terms = |expires_s: u64, undo_s: u64| crate::saga::seal::Terms { expires_s, undo_s, ..terms(&root) };
    assert!(terms(60, 60).check().is_ok());
    for (expires_s, undo_s) in [(0, 60), (60, 59), (30 * 24 * 3600, 30 * 24 * 3600)] {
        assert_eq!(terms(expires_s, undo_s).check().unwrap_err().exit, 64);
    }
}
