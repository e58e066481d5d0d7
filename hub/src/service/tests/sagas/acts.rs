//! What operators do with sagas, and what hosts let the hub do.

use std::collections::BTreeSet;

use moorline_common::fault::Code;
use moorline_common::saga::{Act, Condition, HubAct, Side, Step, Task, Verb};
use moorline_common::sign::Signed;
use moorline_proto::v1 as pb;
use serde_json::json;

use super::host::{Manner, SimHost};
use super::{Kit, Shape, output, resource};

async fn two_hosts(kit: &Kit) -> Vec<SimHost> {
    vec![SimHost::connect(kit, "shop", 1).await, SimHost::connect(kit, "mill", 2).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_does_its_steps_in_their_order_and_tells_of_it() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let draft = kit.draft(&hosts, &[Shape::on(0, 0), Shape::on(1, 1), Shape::on(0, 1), Shape::on(1, 2)]);
    let id = draft.plan.saga_id.clone();
    let started = kit.start_saga(&draft).await.unwrap();
    assert!(!started.known);
    let saga = kit.until_status(&id, "completed").await;
    assert!(kit.start_saga(&draft).await.unwrap().known, "the same bytes are the same saga");
    assert_eq!((saga.name.as_str(), saga.kind.as_str(), saga.deployment.as_str()), ("try-out", "test", "d"));
    assert_eq!((saga.steps_over, saga.step_count, saga.groups_begun, saga.stuck.as_str()), (4, 4, 3, ""));
    assert_eq!(saga.inputs["guest"], "101");
    assert_eq!(saga.outputs["s0.made"], resource(&id, 0));
    assert_eq!(output(&saga, 1), json!({"made": resource(&id, 1)}));
    assert!(saga.steps.iter().all(|step| step.status == "completed" && !step.run.as_ref().unwrap().op_id.is_empty()));
    let shop: Vec<_> = hosts[0].effects().into_iter().map(|(on, _)| on).collect();
    assert_eq!(shop, [resource(&id, 0), resource(&id, 2)]);
    assert_eq!(hosts.iter().map(|host| host.refused().len()).sum::<usize>(), 0);
    let words: Vec<&str> = saga.timeline.iter().map(|fact| fact.what.as_str()).collect();
    assert!(words[0].starts_with("handed in by operator/ann") && words.contains(&"step 1 (`s0`): try 1 begins"), "{words:#?}");
    assert!(words.contains(&"step 4 (`s3`): done"), "{words:#?}");
    kit.until_kinds("saga_started", 1).await;
    kit.until_kinds("saga_ended", 1).await;
    let ops = kit.operator().await.list_ops(pb::ListOpsRequest::default()).await.unwrap().into_inner().ops;
    assert!(ops.iter().all(|op| op.submitted_by == format!("saga/{id}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_listed_newest_first_by_what_they_are() {
    let kit = Kit::new().await;
    let hosts = vec![SimHost::connect(&kit, "shop", 1).await];
    let mut ids = Vec::new();
    for n in 0..3 {
        let mut draft = kit.draft(&hosts, &[Shape::on(0, 0)]);
        draft.plan.deployment = if n == 1 { "blue" } else { "green" }.to_owned();
        hosts[0].takes(&resource(&draft.plan.saga_id, 0), Side::Do, if n == 2 { &[Manner::FailBefore] } else { &[] });
        kit.start_saga(&draft).await.unwrap();
        kit.until_saga(&draft.plan.saga_id, |saga| saga.status == if n == 2 { "rolled_back" } else { "completed" }).await;
        ids.push(draft.plan.saga_id.to_string());
    }
    let list = async |request: pb::ListSagasRequest| {
        let sagas = kit.operator().await.list_sagas(request).await.unwrap().into_inner().sagas;
        sagas.into_iter().map(|saga| saga.saga_id).collect::<Vec<_>>()
    };
    let all = pb::ListSagasRequest::default;
    assert_eq!(list(all()).await, [&*ids[2], &*ids[1], &*ids[0]]);
    assert_eq!(list(pb::ListSagasRequest { limit: 2, ..all() }).await, [&*ids[2], &*ids[1]]);
    assert_eq!(list(pb::ListSagasRequest { status: "completed".to_owned(), ..all() }).await, [&*ids[1], &*ids[0]]);
    assert_eq!(list(pb::ListSagasRequest { deployment: "green".to_owned(), ..all() }).await, [&*ids[2], &*ids[0]]);
    assert_eq!(list(pb::ListSagasRequest { kind: "offboard".to_owned(), ..all() }).await, Vec::<String>::new());
    let wrong = pb::ListSagasRequest { status: "asleep".to_owned(), ..all() };
    assert!(kit.operator().await.list_sagas(wrong).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plan_does_not_say_so_is_not_stored() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let code = |result: Result<pb::StartSagaResponse, moorline_common::fault::Fault>| result.unwrap_err().code;
    let shapes = [Shape::on(0, 0), Shape::on(1, 1)];
    let mut lacks = kit.draft(&hosts, &shapes);
    lacks.orders.pop();
    assert_eq!(code(kit.start_saga(&lacks).await), Code::BadSaga);
    let mut more = kit.draft(&hosts, &shapes);
    more.orders.push(kit.draft(&hosts, &shapes).orders.remove(0));
    assert_eq!(code(kit.start_saga(&more).await), Code::BadSaga);
    let mut twice = kit.draft(&hosts, &shapes);
    twice.orders.push(twice.orders[0].clone());
    assert_eq!(code(kit.start_saga(&twice).await), Code::BadSaga);
    let mut other = kit.draft(&hosts, &shapes);
    let Act::Host(act) = &mut other.plan.steps[0].run.act else { panic!("a step of a host") };
    act.kind = "restart".to_owned();
    assert_eq!(code(kit.start_saga(&other).await), Code::BadSaga);
    let mut elsewhere = kit.draft(&hosts, &shapes);
    elsewhere.plan.saga_id = kit.draft(&hosts, &shapes).plan.saga_id;
    assert_eq!(code(kit.start_saga(&elsewhere).await), Code::BadSaga);
    let mut over = kit.draft(&hosts, &shapes);
    over.plan.expires_at = over.plan.not_before.plus(60);
    assert_eq!(code(kit.start_saga(&over).await), Code::BadSaga, "an order outlives the plan");
    let mut stranger = kit.draft(&hosts, &shapes);
    stranger.plan.cluster = moorline_common::id::ClusterId::parse("two").unwrap();
    assert_eq!(code(kit.start_saga(&stranger).await), Code::WrongCluster);
    assert!(kit.operator().await.list_sagas(pb::ListSagasRequest::default()).await.unwrap().into_inner().sagas.is_empty());
    assert!(hosts.iter().all(|host| host.effects().is_empty()));
    kit.until_at_least("saga_refused", 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_a_saga_is_not_taken_on_its_own() {
    let kit = Kit::new().await;
    let hosts = vec![SimHost::connect(&kit, "shop", 1).await];
    let draft = kit.draft(&hosts, &[Shape::on(0, 0)]);
    let refused = kit.operator().await.submit_op(pb::SubmitOpRequest { op: Some(draft.orders[0].clone()) }).await.unwrap_err();
    assert_eq!(moorline_proto::convert::from_status(&refused).code, Code::BadSaga);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_for_good_has_what_was_done_undone_in_reverse() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let draft = kit.draft(&hosts, &[Shape::on(0, 0), Shape::on(1, 1), Shape { attempts: 2, ..Shape::on(0, 2) }, Shape::on(1, 3)]);
    let id = draft.plan.saga_id.clone();
    hosts[0].takes(&resource(&id, 2), Side::Do, &[Manner::FailBefore, Manner::FailAfter]);
    kit.start_saga(&draft).await.unwrap();
    let saga = kit.until_status(&id, "rolled_back").await;
    let statuses: Vec<&str> = saga.steps.iter().map(|step| step.status.as_str()).collect();
    assert_eq!(statuses, ["compensated", "compensated", "compensated", "pending"]);
    let of = |step: usize, side: Side| (resource(&id, step), side);
    assert_eq!(hosts[0].effects(), [of(0, Side::Do), of(2, Side::Do), of(2, Side::Undo), of(0, Side::Undo)]);
    assert_eq!(hosts[1].effects(), [of(1, Side::Do), of(1, Side::Undo)]);
    assert!(hosts.iter().all(|host| host.there().is_empty() && host.refused().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_honoured_between_steps_and_undoes_what_was_done() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let draft = kit.draft(&hosts, &[Shape::on(0, 0), Shape::on(1, 1), Shape::on(0, 2)]);
    let (id, plan) = (draft.plan.saga_id.clone(), draft.plan.clone());
    hosts[1].takes(&resource(&id, 1), Side::Do, &[Manner::DoubtDone]);
    hosts[1].is_watched(false);
    kit.start_saga(&draft).await.unwrap();
    kit.until_saga(&id, |saga| saga.groups_begun == 2).await;
    let stale = kit.say(&plan, &hosts, Verb::Abort { begun: 1 }).await;
    assert_eq!(stale.unwrap_err().code, Code::PreconditionFailed, "what was looked at is past");
    kit.abort(&plan, &hosts).await.unwrap();
    hosts[1].is_watched(true);
    let saga = kit.until_status(&id, "rolled_back").await;
    assert_eq!(saga.words.len(), 1);
    assert!(hosts.iter().all(|host| host.there().is_empty() && host.refused().is_empty()), "{:?}", hosts[0].refused());
    let over = kit.say(&plan, &hosts, Verb::Abandon).await.unwrap_err();
    assert_eq!(over.code, Code::PreconditionFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_what_cannot_be_undone_a_saga_stands_still_until_it_is_tried_again() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let last = |group| Shape { undo: None, irreversible: true, ..Shape::on(1, group) };
    let draft = kit.draft(&hosts, &[Shape::on(0, 0), last(1), last(2)]);
    let (id, plan) = (draft.plan.saga_id.clone(), draft.plan.clone());
    hosts[1].takes(&resource(&id, 2), Side::Do, &[Manner::FailBefore]);
    kit.start_saga(&draft).await.unwrap();
    let saga = kit.until_status(&id, "stuck").await;
    assert_eq!(saga.remedy, format!("moorctl saga retry {id} s2"));
    assert_eq!(kit.abort(&plan, &hosts).await.unwrap_err().code, Code::PreconditionFailed);
    kit.until_kinds("saga_stuck", 1).await;
    kit.remedy(&plan, &hosts).await.unwrap();
    kit.until_status(&id, "completed").await;
    assert_eq!(hosts[1].there().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_by_itself_is_told_with_the_command_that_resolves_it() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let draft = kit.draft(&hosts, &[Shape::on(0, 0), Shape::on(1, 1)]);
    let (id, plan) = (draft.plan.saga_id.clone(), draft.plan.clone());
    hosts[1].takes(&resource(&id, 1), Side::Do, &[Manner::FailBefore]);
    hosts[0].takes(&resource(&id, 0), Side::Undo, &[Manner::FailBefore; 3]);
    kit.start_saga(&draft).await.unwrap();
    let saga = kit.until_status(&id, "stuck").await;
    assert!(saga.stuck.contains("left: `s0` (start docker/container/"), "{}", saga.stuck);
    assert_eq!(saga.remedy, format!("moorctl saga retry {id} s0 --undo"));
    kit.remedy(&plan, &hosts).await.unwrap();
    kit.until_status(&id, "rolled_back").await;
    assert!(hosts[0].there().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_for_what_must_hold_and_fails_when_it_does_not_come_to_hold() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let conditioned = |timeout_s| {
        let mut draft = kit.draft(&hosts, &[Shape::on(0, 0), Shape { timeout_s, ..Shape::on(1, 1) }]);
        draft.plan.steps[1].when = vec![Condition::Newest {
            topology: moorline_common::id::TopologyId::parse("edge").unwrap(),
            generation: moorline_common::id::Generation(1),
        }];
        draft
    };
    let (waits, fails) = (conditioned(3600), conditioned(1));
    kit.start_saga(&waits).await.unwrap();
    kit.start_saga(&fails).await.unwrap();
    let saga = kit.until_status(&fails.plan.saga_id, "stuck").await;
    // No host signed that a condition did not come to hold.
    assert_eq!(saga.remedy, format!("moorctl saga abort {}", fails.plan.saga_id));
    kit.remedy(&fails.plan, &hosts).await.unwrap();
    kit.until_status(&fails.plan.saga_id, "rolled_back").await;
    let agent = kit.bound("third", 3).await;
    kit.pushed(&agent, super::super::web("a")).await;
    kit.until_status(&waits.plan.saga_id, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_pushed_as_it_was_signed_and_another_push_in_between_stays() {
    let kit = Kit::new().await;
    let hosts = two_hosts(&kit).await;
    let agent = kit.bound("third", 3).await;
    let pushing = |n: u64| {
        let push = kit.push_request("edge", n - 1, &[kit.slice(&agent, "edge", n, super::super::web(&format!("v{n}")))]);
        let source = push.source.clone().unwrap();
        let hash = Signed::<moorline_common::statement::TopologyStatement>::from_json(&source.json).unwrap().envelope().payload_sha256();
        let mut draft = kit.draft(&hosts, &[Shape::on(0, 0)]);
        let act = HubAct::Push {
            topology: moorline_common::id::TopologyId::parse("edge").unwrap(),
            generation: moorline_common::id::Generation(n),
            source: hash,
        };
        let run = Task { act: Act::Hub(act), attempts: 1, backoff_s: 0, timeout_s: 60 };
        draft.plan.steps.push(Step { name: "push".to_owned(), group: 1, run, undo: None, irreversible: false, when: Vec::new() });
        let revision = pb::SagaRevision { source: Some(source), slices: push.slices.into_iter().filter_map(|s| s.slice).collect() };
        (draft, revision)
    };
    let start = async |draft: &super::Draft, revision: pb::SagaRevision| {
        let plan = Signed::seal(&draft.plan, &[&kit.key]).unwrap();
        let request = pb::StartSagaRequest {
            plan: Some(pb::Envelope::from(plan.envelope())),
            orders: draft.orders.clone(),
            revisions: vec![revision],
            boots: Vec::new(),
        };
        kit.operator().await.start_saga(request).await.unwrap();
    };
    let (first, revision) = pushing(1);
    start(&first, revision).await;
    let saga = kit.until_status(&first.plan.saga_id, "completed").await;
    assert_eq!(saga.outputs["push.generation"], "1");
    let (second, revision) = pushing(2);
    hosts[0].takes(&resource(&second.plan.saga_id, 0), Side::Do, &[Manner::DoubtDone]);
    start(&second, revision).await;
    let slice = kit.slice(&agent, "edge", 2, super::super::web("else"));
    let _ = kit.push("edge", 1, &[slice]).await;
    let saga =
        kit.until_saga(&second.plan.saga_id, |saga| matches!(saga.status.as_str(), "stuck" | "completed") && saga.groups_begun == 2).await;
    if saga.status == "stuck" {
        assert!(saga.timeline.iter().any(|fact| fact.what.contains("has another revision by now")), "{:#?}", saga.timeline);
        kit.remedy(&second.plan, &hosts).await.unwrap();
        kit.until_status(&second.plan.saga_id, "rolled_back").await;
        assert!(!hosts[0].there().contains(&resource(&second.plan.saga_id, 0)));
    }
    let newest: BTreeSet<u64> = kit.kinds("pushed").await.into_iter().map(|event| event.generation).collect();
    assert_eq!(newest, BTreeSet::from([1, 2]));
}
