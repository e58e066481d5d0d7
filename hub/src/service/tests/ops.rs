//! Operations: taken once, delivered in order and again, ended by the host's signed word alone.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ClusterId, HostEpoch, IdempotencyKey, Nonce, OpId, ResourceId};
use moorline_common::observe::Observed;
use moorline_common::op::{Class, OpStatement, Outcome, Receipt};
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::{ApplyReport, Held, ObservedReport};
use moorline_common::trust::TrustRoot;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Say;
use moorline_proto::v1::hub_message::Kind as Said;
use serde_json::{Value, json};

use super::{Agent, DEADLINE, Kit, Link, applied, epoch, ready, seed, web};

fn op_id(n: u64) -> String {
    format!("0197a2b4-1c3d-7e5f-8a6b-{n:012x}")
}

fn order(kit: &Kit, agent: &Agent, n: u64, kind: &str) -> OpStatement {
    let now = kit.now();
    OpStatement {
        cluster: ClusterId::parse("one").unwrap(),
        op_id: OpId::parse(op_id(n)).unwrap(),
        idempotency_key: IdempotencyKey::parse(format!("key-{n}")).unwrap(),
        host_id: agent.id(),
        host_epoch: epoch(),
        resource: ResourceId::parse("docker/container/edge-web-1").unwrap(),
        incarnation: None,
        kind: kind.to_owned(),
        params: json!({}),
        precondition: None,
        not_before: now,
        expires_at: now.plus(600),
        nonce: Nonce::parse(format!("{n:032x}")).unwrap(),
        root_version: 1,
        reason: "because".to_owned(),
        saga: None,
    }
}

fn sealed(order: &OpStatement, keys: &[&PrivateKey]) -> pb::Envelope {
    pb::Envelope::from(Signed::seal(order, keys).unwrap().envelope())
}

impl Kit {
    async fn submit(&self, order: &OpStatement) -> Result<pb::SubmitOpResponse, Fault> {
        self.submit_raw(sealed(order, &[&self.key])).await
    }

    async fn submit_raw(&self, op: pb::Envelope) -> Result<pb::SubmitOpResponse, Fault> {
        let answer = self.operator().await.submit_op(pb::SubmitOpRequest { op: Some(op) }).await;
        answer.map(tonic::Response::into_inner).map_err(|s| from_status(&s))
    }

    async fn op(&self, n: u64) -> pb::Op {
        self.operator().await.get_op(pb::GetOpRequest { op_id: op_id(n) }).await.unwrap().into_inner().op.unwrap()
    }

    async fn until_op(&self, n: u64, state: &str) -> pb::Op {
        let mut last = String::new();
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                let op = self.op(n).await;
                if op.state == state {
                    return op;
                }
                last = op.state;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let reached = waited.await;
        reached.unwrap_or_else(|_| panic!("operation {n} never became {state}; at last it was `{last}`"))
    }

    async fn list(&self, request: pb::ListOpsRequest) -> Vec<pb::Op> {
        self.operator().await.list_ops(request).await.unwrap().into_inner().ops
    }
}

impl Link {
    /// The next operation; anything else before it is a failure.
    async fn op(&mut self) -> OpStatement {
        let next = self.next().await;
        let Said::Op(envelope) = next else { panic!("expected an operation, got {next:?}") };
        Signed::<OpStatement>::from_json(&envelope.json).unwrap().peek().unwrap()
    }

    async fn ack(&mut self) -> (String, String) {
        let next = self.next().await;
        let Said::OpAck(ack) = next else { panic!("expected an acknowledgement, got {next:?}") };
        (ack.op_id, ack.outcome)
    }

    async fn at(&self, n: u64, state: &str) {
        let event =
            pb::OpEvent { op_id: op_id(n), state: state.to_owned(), at_unix_ms: 1, message: "words".to_owned(), same_as: String::new() };
        self.say(Say::OpEvent(event)).await;
    }

    async fn receipt(&self, receipt: &Receipt, key: &PrivateKey) {
        self.say(Say::Receipt(pb::Envelope::from(Signed::seal(receipt, &[key]).unwrap().envelope()))).await;
    }
}

fn receipt(order: &OpStatement, outcome: Outcome, result: Value) -> Receipt {
    let fault = (outcome != Outcome::Succeeded).then(|| Fault::new(Code::OpFailed, "no"));
    Receipt {
        cluster: order.cluster.clone(),
        host_id: order.host_id.clone(),
        host_epoch: order.host_epoch.clone(),
        op_id: order.op_id.clone(),
        payload_sha256: Signed::seal(order, &[]).unwrap().envelope().payload_sha256(),
        same_as: None,
        resource: order.resource.clone(),
        kind: order.kind.clone(),
        outcome,
        at: 1,
        fault,
        result,
        journal_seq: 7,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_goes_to_its_host_and_its_receipt_ends_it() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let stop = order(&kit, &agent, 1, "stop");
    let submitted = kit.submit(&stop).await.unwrap();
    let op = submitted.op.unwrap();
    assert_eq!((submitted.known, op.state.as_str(), op.class.as_str(), op.host.as_str()), (false, "submitted", "R2", "shop"));
    let mut watch = kit.operator().await.watch_op(pb::WatchOpRequest { op_id: op_id(1) }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().state, "submitted");

    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    assert_eq!(link.op().await, stop);
    assert_eq!(watch.message().await.unwrap().unwrap().state, "sent");
    for state in ["accepted", "queued", "started"] {
        link.at(1, state).await;
        assert_eq!(watch.message().await.unwrap().unwrap().state, state);
    }
    let said = receipt(&stop, Outcome::Succeeded, json!({ "was": "running" }));
    link.receipt(&said, &agent.host).await;
    assert_eq!(link.ack().await, (op_id(1), "succeeded".to_owned()));
    let last = watch.message().await.unwrap().unwrap();
    assert_eq!((last.state.as_str(), last.has_receipt), ("succeeded", true));
    assert_eq!(Envelope::from_json(&last.order.unwrap().json).unwrap().payload_sha256(), said.payload_sha256);
    let kept = Signed::<Receipt>::from_json(&last.receipt.unwrap().json).unwrap().verify_by_host(&agent.host.public()).unwrap();
    assert_eq!(*kept.statement(), said);
    assert!(watch.message().await.unwrap().is_none(), "nothing more is expected");

    // Whatever comes late changes nothing, and the receipt is acknowledged as often as it comes.
    link.at(1, "started").await;
    link.receipt(&said, &agent.host).await;
    link.ack().await;
    assert_eq!(kit.op(1).await.state, "succeeded");
    assert_eq!(kit.until_kinds("op_submitted", 1).await[0].actor, "operator/ann");
    kit.until_kinds("op_ended", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_ended_is_sent_again_in_each_session_in_order() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let orders: Vec<OpStatement> = (1..=150).map(|n| order(&kit, &agent, n, "start")).collect();
    for order in &orders {
        kit.submit(order).await.unwrap();
    }
    {
        let mut link = agent.open(&kit).await.unwrap();
        link.beat(ready()).await;
        for order in &orders {
            assert_eq!(link.op().await, *order);
        }
        link.receipt(&receipt(&orders[1], Outcome::Failed, Value::Null), &agent.host).await;
        link.ack().await;
        link.at(3, "task_running").await;
        kit.until_op(3, "task_running").await;
    }
    kit.stop().await;
    kit.start().await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    for order in orders.iter().filter(|o| o.op_id.as_str() != op_id(2)) {
        assert_eq!(link.op().await, *order);
    }
    // A new one follows at once.
    let next = order(&kit, &agent, 151, "stop");
    kit.submit(&next).await.unwrap();
    assert_eq!(link.op().await, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_are_the_same_operation_and_other_bytes_are_a_conflict() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let stop = order(&kit, &agent, 1, "stop");
    assert!(!kit.submit(&stop).await.unwrap().known);
    assert!(kit.submit(&stop).await.unwrap().known);
    let other = OpStatement { reason: "other".to_owned(), ..stop };
    assert_eq!(kit.submit(&other).await.unwrap_err().code, Code::Conflict);
    assert_eq!(kit.list(pb::ListOpsRequest::default()).await.len(), 1);
    kit.until_kinds("op_submitted", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_before_it_is_stored() {
    let kit = Kit::new().await;
    let (agent, pending) = (kit.bound("shop", 1).await, kit.joined("late", 2).await);
    let good = order(&kit, &agent, 1, "stop");
    let now = kit.now();
    let with = |change: &dyn Fn(&mut OpStatement)| {
        let mut order = good.clone();
        change(&mut order);
        order
    };
    for (bad, code) in [
        (with(&|o| o.kind = "explode".to_owned()), Code::UnknownKind),
        (with(&|o| o.params = json!({ "timeout": 1 })), Code::BadParams),
        (with(&|o| o.cluster = ClusterId::parse("two").unwrap()), Code::WrongCluster),
        (with(&|o| o.host_id = pending.id()), Code::NotFound),
        (with(&|o| o.host_epoch = HostEpoch::parse("f".repeat(32)).unwrap()), Code::WrongEpoch),
        (with(&|o| o.root_version = 2), Code::RootBehind),
        (
            with(&|o| (o.not_before, o.expires_at) = (moorline_common::id::UnixSeconds(1), moorline_common::id::UnixSeconds(2))),
            Code::Expired,
        ),
        (with(&|o| (o.not_before, o.expires_at) = (now.plus(1000), now.plus(2000))), Code::NotYetValid),
    ] {
        assert_eq!(kit.submit(&bad).await.unwrap_err().code, code, "{bad:?}");
    }
    assert_eq!(kit.submit_raw(sealed(&good, &[&seed(77)])).await.unwrap_err().code, Code::UnknownKey);
    let wrong_type = kit.trust_root_envelope();
    assert_eq!(kit.submit_raw(wrong_type).await.unwrap_err().code, Code::WrongType);
    assert_eq!(kit.submit_raw(pb::Envelope { json: vec![b' '; 97 * 1024] }).await.unwrap_err().code, Code::TooLarge);
    assert!(kit.list(pb::ListOpsRequest::default()).await.is_empty());
    assert_eq!(kit.kinds("op_refused").await.len(), 11);
    // An agent may call none of it.
    let mut as_agent = super::Operator::new(kit.channel(Some(agent.identity())).await);
    let refused = as_agent.submit_op(pb::SubmitOpRequest { op: Some(sealed(&good, &[&kit.key])) }).await.unwrap_err();
    assert_eq!(from_status(&refused).code, Code::PermissionDenied);
    let refused = as_agent.get_journal(pb::GetJournalRequest { host_id: agent.id().into(), from_seq: 0 }).await.unwrap_err();
    assert_eq!(from_status(&refused).code, Code::PermissionDenied);
}

impl Kit {
    fn trust_root_envelope(&self) -> pb::Envelope {
        self.sealed_root(1)
    }

    /// The next trust root, by which operations of `class` need two keys.
    async fn needs_two(&self, class: Class) -> PrivateKey {
        let second = seed(50);
        let stored = self.operator().await.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner().roots;
        let mut root = Signed::<TrustRoot>::from_json(&stored.last().unwrap().json).unwrap().peek().unwrap();
        root.version += 1;
        root.keys.insert(second.id(), moorline_common::trust::RootKey { name: "ben".to_owned(), public: second.public() });
        root.roles.get_mut("operator").unwrap().keys.insert(second.id());
        root.class_thresholds = BTreeMap::from([(class, 2)]);
        let root = Some(pb::Envelope::from(Signed::seal(&root, &[&self.recovery]).unwrap().envelope()));
        self.operator().await.put_root(pb::PutRootRequest { root }).await.unwrap();
        second
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_needs_more_keys_is_taken_when_they_have_signed_and_waits_for_the_root() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    let second = kit.needs_two(Class::R2).await;
    assert!(matches!(link.next().await, Said::Root(_)));
    let stop = OpStatement { root_version: 2, ..order(&kit, &agent, 1, "stop") };
    assert_eq!(kit.submit(&stop).await.unwrap_err().code, Code::ThresholdNotMet);
    kit.submit_raw(sealed(&stop, &[&kit.key, &second])).await.unwrap();
    // Not sent to a host that would judge it by an older root.
    assert_eq!(kit.op(1).await.state, "submitted");
    link.beat(pb::Heartbeat { root_version: 2, ..ready() }).await;
    assert_eq!(link.op().await, stop);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_is_not_the_hosts_is_neither_kept_nor_acknowledged() {
    let kit = Kit::new().await;
    let (agent, other) = (kit.bound("shop", 1).await, kit.bound("other", 2).await);
    let (stop, for_other) = (order(&kit, &agent, 1, "stop"), order(&kit, &other, 2, "stop"));
    kit.submit(&stop).await.unwrap();
    kit.submit(&for_other).await.unwrap();
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.op().await;
    let good = receipt(&stop, Outcome::Succeeded, Value::Null);
    link.receipt(&good, &other.host).await;
    link.receipt(&receipt(&for_other, Outcome::Succeeded, Value::Null), &agent.host).await;
    link.receipt(&Receipt { host_id: agent.id(), ..receipt(&for_other, Outcome::Succeeded, Value::Null) }, &agent.host).await;
    link.receipt(&Receipt { payload_sha256: "0".repeat(64), ..good.clone() }, &agent.host).await;
    link.receipt(&Receipt { cluster: ClusterId::parse("two").unwrap(), ..good.clone() }, &agent.host).await;
    link.say(Say::Receipt(pb::Envelope { json: b"rubbish".to_vec() })).await;
    let refused = kit.until_kinds("receipt_refused", 6).await;
    let codes: Vec<&str> = refused.iter().map(|e| e.code.as_str()).collect();
    assert_eq!(codes, ["unknown_key", "wrong_host", "wrong_host", "hash_mismatch", "wrong_cluster", "bad_envelope"]);
    assert_eq!((kit.op(1).await.state.as_str(), kit.op(2).await.state.as_str()), ("sent", "submitted"));
    link.receipt(&good, &agent.host).await;
    assert_eq!(link.ack().await, (op_id(1), "succeeded".to_owned()));
    // And no second thoughts.
    link.receipt(&receipt(&stop, Outcome::Failed, Value::Null), &agent.host).await;
    assert_eq!(kit.until_kinds("receipt_refused", 7).await[6].code, "conflict");
    assert_eq!(kit.op(1).await.state, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_end_an_order_and_doubt_is_an_alarm_until_it_is_resolved() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let orders: Vec<OpStatement> = (1..=3).map(|n| order(&kit, &agent, n, "stop")).collect();
    for order in &orders {
        kit.submit(order).await.unwrap();
    }
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    for _ in 0..3 {
        link.op().await;
    }
    link.receipt(&receipt(&orders[0], Outcome::Refused, Value::Null), &agent.host).await;
    assert_eq!(link.ack().await.1, "refused");
    let fault = Some(pb::Fault { code: "bad_envelope".to_owned(), message: "not readable".to_owned() });
    let payload_sha256 = receipt(&orders[1], Outcome::Refused, Value::Null).payload_sha256;
    link.say(Say::Refusal(pb::Refusal { fault, payload_sha256, kind: "op".to_owned() })).await;
    let unread = kit.until_op(2, "refused").await;
    assert_eq!((unread.fault.unwrap().code.as_str(), unread.has_receipt), ("bad_envelope", false));
    kit.until_kinds("op_refused", 2).await;
    link.receipt(&receipt(&orders[2], Outcome::Indeterminate, Value::Null), &agent.host).await;
    assert_eq!(link.ack().await.1, "indeterminate");
    assert!(kit.until_kinds("op_indeterminate", 1).await[0].message.starts_with("ALARM: "));
    let open = kit.list(pb::ListOpsRequest { open: true, ..Default::default() }).await;
    assert_eq!(open.iter().map(|o| o.op_id.as_str()).collect::<Vec<_>>(), [op_id(3)]);
    link.receipt(&receipt(&orders[2], Outcome::Succeeded, Value::Null), &agent.host).await;
    assert_eq!(link.ack().await.1, "succeeded");
    assert_eq!(kit.op(3).await.state, "succeeded");
    // None of them is sent again.
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    let next = order(&kit, &agent, 4, "stop");
    kit.submit(&next).await.unwrap();
    assert_eq!(link.op().await, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_sent_expires_by_the_hubs_word_and_what_was_sent_does_not() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    kit.submit(&order(&kit, &agent, 1, "stop")).await.unwrap();
    {
        let mut link = agent.open(&kit).await.unwrap();
        link.beat(ready()).await;
        link.op().await;
    }
    kit.until_host("shop", |h| !h.connected).await;
    kit.submit(&order(&kit, &agent, 2, "stop")).await.unwrap();
    kit.clock.advance(Duration::from_secs(600 + 301 + 2));
    let expired = kit.until_op(2, "expired").await;
    assert_eq!((expired.fault.unwrap().code.as_str(), expired.has_receipt), ("expired", false));
    assert_eq!(kit.op(1).await.state, "sent");
    assert_eq!(kit.until_kinds("op_ended", 1).await[0].actor, "hub");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_of_the_host_settles_what_was_ordered_for_the_old_one() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let sent = order(&kit, &agent, 1, "stop");
    kit.submit(&sent).await.unwrap();
    {
        let mut link = agent.open(&kit).await.unwrap();
        link.beat(pb::Heartbeat { journal_seq: 9, journal_head: vec![9; 16], ..ready() }).await;
        link.op().await;
    }
    kit.until_host("shop", |h| !h.connected && h.witnessed_journal_seq == 9).await;
    kit.submit(&order(&kit, &agent, 2, "stop")).await.unwrap();
    let new_epoch = HostEpoch::parse("f".repeat(32)).unwrap();
    let (mut link, welcome) = agent.open_as(&kit, &new_epoch).await.unwrap();
    assert_eq!(welcome.witnessed_journal_seq, 0, "that was of another life");
    link.beat(ready()).await;
    // Nothing is taken for a life that has ended, and nothing of it is sent into the new one.
    kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 0)).await;
    assert_eq!(kit.submit(&order(&kit, &agent, 3, "stop")).await.unwrap_err().code, Code::NotApproved);
    let binding = Some(kit.binding_of(&agent, "shop", 2, &new_epoch));
    kit.operator().await.put_binding(pb::PutBindingRequest { binding }).await.unwrap();
    let (lost, cancelled) = (kit.op(1).await, kit.op(2).await);
    assert_eq!((lost.state.as_str(), lost.fault.unwrap().code.as_str()), ("indeterminate", "indeterminate"));
    assert_eq!((cancelled.state.as_str(), cancelled.fault.unwrap().code.as_str()), ("cancelled", "wrong_epoch"));
    assert!(kit.until_kinds("op_indeterminate", 1).await[0].message.starts_with("ALARM: 1 "));
    assert!(matches!(link.next().await, Said::Binding(_)));
    // The host's own signed word is better than the hub's guess.
    link.receipt(&receipt(&sent, Outcome::Failed, Value::Null), &agent.host).await;
    link.ack().await;
    assert_eq!(kit.op(1).await.state, "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_for_an_order_that_a_restored_hub_lost_is_kept() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let lost = order(&kit, &agent, 1, "stop");
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.receipt(&receipt(&lost, Outcome::Succeeded, Value::Null), &agent.host).await;
    assert_eq!(link.ack().await, (op_id(1), "succeeded".to_owned()));
    let op = kit.op(1).await;
    assert_eq!((op.state.as_str(), op.order, op.has_receipt, op.host.as_str()), ("succeeded", None, true, "shop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_has_witnessed_of_a_journal_never_goes_back_and_outlives_it() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let beat = |seq: u64| pb::Heartbeat { journal_seq: seq, journal_head: vec![u8::try_from(seq).unwrap(); 16], ..ready() };
    let mut link = agent.open(&kit).await.unwrap();
    for seq in [3, 8, 5] {
        link.beat(beat(seq)).await;
    }
    let host = kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 5)).await;
    assert_eq!((host.witnessed_journal_seq, host.witnessed_epoch), (8, epoch().to_string()));
    kit.stop().await;
    kit.start().await;
    let (_link, welcome) = agent.open_as(&kit, &epoch()).await.unwrap();
    assert_eq!((welcome.witnessed_journal_seq, welcome.witnessed_journal_head), (8, vec![8; 16]));
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_listed_newest_first_in_pages() {
    let kit = Kit::new().await;
    let (agent, other) = (kit.bound("shop", 1).await, kit.bound("other", 2).await);
    for n in 1..=5 {
        kit.submit(&order(&kit, if n == 3 { &other } else { &agent }, n, "stop")).await.unwrap();
    }
    let first = kit.list(pb::ListOpsRequest { host_id: agent.id().into(), limit: 2, ..Default::default() }).await;
    let before = first.last().unwrap().sequence;
    let second = kit.list(pb::ListOpsRequest { host_id: agent.id().into(), before, ..Default::default() }).await;
    let ids: Vec<String> = first.into_iter().chain(second).map(|o| o.op_id).collect();
    assert_eq!(ids, [5, 4, 2, 1].map(op_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operation_holds_is_not_pushed_again() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let slice = kit.pushed(&agent, web("a")).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.slice().await;
    let observed = Observed::default();
    let digest = observed.digest();
    let beat = pb::Heartbeat { observed_digest: digest.clone(), ..applied(&slice) };
    let say = |held: Vec<Held>| {
        let apply = ApplyReport { generation: slice.generation, held, ..ApplyReport::default() };
        let report = ObservedReport { host_id: agent.id(), taken_at: kit.now(), observed: observed.clone(), apply };
        let report = Some(pb::Envelope::from(Signed::seal(&report, &[&agent.host]).unwrap().envelope()));
        Say::Observed(pb::Observed { report, digest: digest.clone(), apply_digest: String::new() })
    };
    link.say(say(Vec::new())).await;
    link.beat(beat.clone()).await;
    kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.observed_digest == digest) && !h.converged).await;
    let held = |resource: &str| Held { resource: ResourceId::parse(resource).unwrap(), op_id: OpId::parse(op_id(1)).unwrap() };
    link.say(say(vec![held("docker/container/edge-web-1"), held("docker/network/edge_default")])).await;
    let host = kit.until_host("shop", |h| h.converged).await;
    assert_eq!((host.held[0].resource.as_str(), host.held[0].op_id.clone()), ("docker/container/edge-web-1", op_id(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_comes_from_the_host_that_was_asked_and_from_no_other() {
    let kit = Kit::new().await;
    let (agent, other) = (kit.bound("shop", 1).await, kit.bound("other", 2).await);
    let ask = || pb::GetJournalRequest { host_id: agent.id().into(), from_seq: 5 };
    let absent = from_status(&kit.operator().await.get_journal(ask()).await.unwrap_err());
    assert!(absent.code == Code::Waiting && absent.message.contains("not connected"), "{absent}");
    let (mut link, mut stranger) = (agent.open(&kit).await.unwrap(), other.open(&kit).await.unwrap());
    link.beat(ready()).await;
    stranger.beat(ready()).await;
    kit.until_host("shop", |h| h.heartbeat.is_some()).await;
    kit.until_host("other", |h| h.heartbeat.is_some()).await;
    let mut journal = kit.operator().await.get_journal(ask()).await.unwrap().into_inner();
    let Said::Query(query) = link.next().await else { panic!("expected a query") };
    assert_eq!((query.what(), query.from_seq), (pb::query::What::Journal, 5));
    assert_eq!(from_status(&kit.operator().await.get_journal(ask()).await.unwrap_err()).code, Code::Busy, "one at a time");
    let part = |lines: &str, last| {
        Say::JournalPart(pb::JournalPart { request_id: query.request_id, lines: lines.as_bytes().to_vec(), last, fault: None })
    };
    stranger.say(part("forged\n", true)).await;
    stranger.beat(pb::Heartbeat { journal_seq: 1, ..ready() }).await;
    kit.until_host("other", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 1)).await;
    link.say(part("one\n", false)).await;
    link.say(part("two\n", true)).await;
    let mut lines = Vec::new();
    while let Some(part) = journal.message().await.unwrap() {
        lines.extend(part.lines);
    }
    assert_eq!(String::from_utf8(lines).unwrap(), "one\ntwo\n");
    // A session that ends in the middle is no end of the journal.
    let mut journal = kit.operator().await.get_journal(ask()).await.unwrap().into_inner();
    link.next().await;
    drop(link);
    assert_eq!(from_status(&journal.message().await.unwrap_err()).code, Code::Waiting);
}
