//! Ordering against a hub that shows what a test wants.

use moorline_common::fault::Code;
use moorline_common::id::{HostEpoch, HostId, UnixSeconds};
use moorline_common::op::{Act, OpStatement, Outcome, Receipt};
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::statement::{ApplyReport, ObservedReport};
use moorline_proto::v1 as pb;
use serde_json::{Value, json};

use super::{draft, saved, submit};
use crate::client::Client;
use crate::client::tests::{Shown, binding, client, shown_host};
use crate::home::write_key;
use crate::render::{Format, Ui};
use crate::revision::tests::keys;

fn host_key() -> PrivateKey {
    PrivateKey::from_seed(&[10; 32])
}

fn statement(client: &Client, act: &Act, on: &str) -> OpStatement {
    let resource = moorline_common::id::ResourceId::parse(on).unwrap();
    draft::statement(&client.root, &binding(1), act, (resource, None), &draft::tests::args(), crate::clock::now()).unwrap()
}

fn receipt(order: &OpStatement, outcome: Outcome, result: Value) -> Receipt {
    Receipt {
        cluster: order.cluster.clone(),
        host_id: HostId::of_key(&host_key().public()),
        host_epoch: order.host_epoch.clone(),
        op_id: order.op_id.clone(),
        payload_sha256: Signed::seal(order, &[]).unwrap().envelope().payload_sha256(),
        same_as: None,
        resource: order.resource.clone(),
        kind: order.kind.clone(),
        outcome,
        at: 1,
        fault: None,
        result,
        journal_seq: 3,
    }
}

fn op(order: &OpStatement, state: &str, receipt: Option<(&Receipt, &PrivateKey)>) -> pb::Op {
    pb::Op {
        op_id: order.op_id.to_string(),
        host_id: order.host_id.to_string(),
        state: state.to_owned(),
        has_receipt: receipt.is_some(),
        receipt: receipt.map(|(r, key)| Signed::seal(r, &[key]).unwrap().envelope().into()),
        ..pb::Op::default()
    }
}

/// Hands `order` in, and lets the hub show `last` at its end.
async fn hand_in(change: impl FnOnce(&OpStatement) -> pb::Op) -> Result<u8, crate::error::Failure> {
    let (client, shown, _dir) = client().await;
    shown.lock().unwrap().hosts = vec![shown_host(&binding(1), &keys().1)];
    let order = statement(&client, &Act::Start, "docker/container/c");
    shown.lock().unwrap().watched = vec![op(&order, "submitted", None), op(&order, "started", None), change(&order)];
    let host = client.hosts(None).await.unwrap().remove(0);
    let envelope = Signed::seal(&order, &[&keys().1]).unwrap().envelope().clone();
    let mut ui = Ui::new(Format::Json, false);
    let wait = draft::tests::args().wait;
    submit::hand_in(&client, &mut ui, &host, &order, moorline_common::op::Class::R2, &envelope, &wait).await
}

#[tokio::test]
async fn only_the_hosts_own_receipt_makes_a_success() {
    let good = |order: &OpStatement| receipt(order, Outcome::Succeeded, Value::Null);
    assert_eq!(hand_in(|order| op(order, "succeeded", Some((&good(order), &host_key())))).await, Ok(0));
    // Without one, by another key, about another order: nothing that the hub says counts.
    let without = hand_in(|order| op(order, "succeeded", None)).await.unwrap_err();
    assert!(without.message.contains("IS NOT THE HOST'S WORD"), "{without}");
    let forged = hand_in(|order| op(order, "succeeded", Some((&good(order), &keys().1)))).await.unwrap_err();
    assert!(forged.message.contains("IS NOT THE HOST'S WORD") && forged.code == "unknown_key", "{forged}");
    let other = |order: &OpStatement| Receipt { payload_sha256: "0".repeat(64), ..good(order) };
    let other = hand_in(|order| op(order, "succeeded", Some((&other(order), &host_key())))).await.unwrap_err();
    assert!(other.message.contains("IS NOT THE HOST'S WORD") && other.code == "hash_mismatch", "{other}");
    let earlier = |order: &OpStatement| Receipt { host_epoch: HostEpoch::parse("e".repeat(32)).unwrap(), ..good(order) };
    let earlier = hand_in(|order| op(order, "succeeded", Some((&earlier(order), &host_key())))).await.unwrap_err();
    assert_eq!(earlier.code, "wrong_epoch", "{earlier}");
    // Nor what the host says, genuinely, of another operation.
    let another = |order: &OpStatement| {
        let other =
            OpStatement { op_id: moorline_common::id::OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ff").unwrap(), ..order.clone() };
        op(&other, "succeeded", Some((&good(&other), &host_key())))
    };
    let another = hand_in(another).await.unwrap_err();
    assert!(another.code == "bad_envelope" && another.message.contains("0123456789ff"), "{another}");
}

#[tokio::test]
async fn the_receipt_counts_and_not_the_state_that_the_hub_shows_beside_it() {
    for outcome in [Outcome::Failed, Outcome::Refused] {
        let failed = |order: &OpStatement| receipt(order, outcome, Value::Null);
        let failure = hand_in(|order| op(order, "succeeded", Some((&failed(order), &host_key())))).await.unwrap_err();
        assert!(failure.is(moorline_common::fault::Code::OpFailed), "{failure}");
    }
}

#[tokio::test]
async fn what_is_refused_for_a_while_is_signed_again_with_the_same_key() {
    let busy = |order: &OpStatement| pb::Op {
        fault: Some(pb::Fault { code: "busy".to_owned(), message: "full".to_owned() }),
        ..op(order, "refused", None)
    };
    let failure = hand_in(busy).await.unwrap_err();
    assert!(failure.code == "busy" && failure.remedy.contains("sign it again with --key "), "{failure:?}");
    assert!(failure.remedy.contains("`moorctl op resolve`"), "what is indeterminate keeps the whole host waiting: {failure:?}");
    let late = hand_in(|order| op(order, "expired", None)).await.unwrap_err();
    assert!(late.code == "expired" && late.remedy.contains("sign it again") && !late.remedy.contains("push"), "{late:?}");
}

#[tokio::test]
async fn what_did_not_succeed_fails_with_its_code_and_what_to_do() {
    for (outcome, state, code) in [
        (Outcome::Failed, "failed", "op_failed"),
        (Outcome::Indeterminate, "indeterminate", "indeterminate"),
        (Outcome::Expired, "expired", "expired"),
    ] {
        let failure = hand_in(|order| op(order, state, Some((&receipt(order, outcome, Value::Null), &host_key())))).await.unwrap_err();
        assert_eq!((failure.code, failure.exit), (code, 1), "{failure}");
    }
    let refused = |order: &OpStatement| pb::Op {
        fault: Some(pb::Fault { code: "policy_denied".to_owned(), message: "no".to_owned() }),
        ..op(order, "refused", None)
    };
    assert_eq!(hand_in(refused).await.unwrap_err().code, "policy_denied");
}

#[tokio::test]
async fn an_operation_that_does_not_end_in_time_is_told_and_goes_on() {
    let failure = hand_in(|order| op(order, "queued", None)).await.unwrap_err();
    assert!(failure.code == "not_converged" && failure.remedy.contains("moorctl op cancel"), "{failure:?}");
}

/// A report with one container.
fn report(shown: &mut Shown) {
    let owner = moorline_common::observe::Owner {
        topology: "edge".to_owned(),
        resource: moorline_common::id::ResourceId::parse("docker/container/edge-web-1").unwrap(),
        spec: String::new(),
        base: String::new(),
        adopted: false,
        hidden: None,
    };
    let container = moorline_common::observe::ObservedContainer { id: "c".repeat(64), owner: Some(owner), ..Default::default() };
    let mut observed = moorline_common::observe::Observed::default();
    observed.containers.insert("edge-web-1".to_owned(), container);
    let report =
        ObservedReport { host_id: HostId::of_key(&host_key().public()), taken_at: UnixSeconds(1), observed, apply: ApplyReport::default() };
    shown.report = Some(Signed::seal(&report, &[&host_key()]).unwrap().envelope().clone());
}

#[tokio::test]
async fn what_disrupts_is_asked_about_and_names_the_container_in_the_verified_report() {
    let (client, shown, dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    {
        let mut shown = shown.lock().unwrap();
        shown.hosts = vec![shown_host(&binding(1), &keys().1)];
        report(&mut shown);
    }
    let host = client.hosts(None).await.unwrap().remove(0);
    let args = super::OrderArgs {
        save: Some(dir.path().join("order.json")),
        wait: super::OpWait { no_wait: true, ..draft::tests::args().wait },
        ..draft::tests::args()
    };
    let kill = || Act::Kill { signal: "SIGKILL".to_owned() };
    let resource = || moorline_common::id::ResourceId::parse("docker/container/edge-web-1").unwrap();
    let unasked = submit::order(&client, &mut Ui::new(Format::Json, false), &host, kill(), resource(), &args).await.unwrap_err();
    assert_eq!(unasked.code, "needs_confirmation");
    let mut ui = Ui::new(Format::Json, true);
    submit::order(&client, &mut ui, &host, kill(), resource(), &args).await.unwrap();
    assert!(shown.lock().unwrap().submitted.is_empty(), "it is in the file only");

    // Signed on a machine without a hub, by what it has verified before.
    saved::sign_by(&client.context, &client.root, &mut ui, &dir.path().join("order.json")).unwrap();
    let value: Value = serde_json::from_slice(&std::fs::read(dir.path().join("order.json")).unwrap()).unwrap();
    assert_eq!(value["order"]["signatures"].as_array().unwrap().len(), 1, "the same key counts once");
    let envelope: moorline_common::sign::Envelope = serde_json::from_value(value["order"].clone()).unwrap();
    let order = Signed::<OpStatement>::new(envelope).unwrap().peek().unwrap();
    assert_eq!((order.incarnation, order.params), (Some("c".repeat(64)), json!({ "signal": "SIGKILL" })));
    // A second order does not overwrite the first.
    let again = submit::order(&client, &mut ui, &host, kill(), resource(), &args).await.unwrap_err();
    assert!(again.code == "already_exists" && again.remedy.contains("--save"), "{again:?}");
}

#[tokio::test]
async fn a_host_whose_binding_is_in_doubt_gets_no_order_and_the_doubt_is_told() {
    let (client, shown, _dir) = client().await;
    shown.lock().unwrap().hosts = vec![shown_host(&binding(1), &host_key())];
    let host = client.hosts(None).await.unwrap().remove(0);
    assert_eq!(host.require_bound().unwrap_err().code, Code::UnknownKey);
    let unbound = crate::client::HostView { doubt: None, ..host };
    assert_eq!(unbound.require_bound().unwrap_err().code, Code::NotApproved);
}

#[tokio::test]
async fn a_saved_order_that_was_changed_is_not_signed() {
    let (client, _, dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    let path = dir.path().join("order.json");
    let order = statement(&client, &Act::Start, "docker/container/c");
    let mut envelope = Signed::seal(&order, &[&keys().1]).unwrap().envelope().clone();
    let binding = Signed::seal(&binding(1), &[&keys().1]).unwrap().envelope().clone();
    let write = |order: &moorline_common::sign::Envelope, binding: &moorline_common::sign::Envelope| {
        std::fs::write(&path, serde_json::to_vec(&json!({ "order": order, "binding": binding })).unwrap()).unwrap();
    };
    let mut ui = Ui::new(Format::Json, true);
    write(&envelope, &binding);
    saved::sign_by(&client.context, &client.root, &mut ui, &path).unwrap();
    envelope.payload = String::from_utf8(envelope.payload).unwrap().replace("start", "pause").into_bytes();
    write(&envelope, &binding);
    assert_eq!(saved::sign_by(&client.context, &client.root, &mut ui, &path).unwrap_err().code, "bad_signature");
    let stranger = Signed::seal(&crate::client::tests::binding(1), &[&host_key()]).unwrap().envelope().clone();
    write(&Signed::seal(&order, &[&keys().1]).unwrap().envelope().clone(), &stranger);
    assert_eq!(saved::sign_by(&client.context, &client.root, &mut ui, &path).unwrap_err().code, "unknown_key");
}

/// A host that reports guests.
async fn with_guests() -> (Client, std::sync::Arc<std::sync::Mutex<Shown>>, tempfile::TempDir) {
    let (client, shown, dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    let observed = super::guest::meant::tests::observed();
    let report =
        ObservedReport { host_id: HostId::of_key(&host_key().public()), taken_at: UnixSeconds(1), observed, apply: ApplyReport::default() };
    {
        let mut shown = shown.lock().unwrap();
        let heartbeat = Some(pb::Heartbeat::default());
        shown.hosts = vec![pb::Host { heartbeat, ..shown_host(&binding(1), &keys().1) }];
        shown.report = Some(Signed::seal(&report, &[&host_key()]).unwrap().envelope().clone());
    }
    (client, shown, dir)
}

#[tokio::test]
async fn what_destroys_a_guest_is_asked_about_in_plain_words_and_signed_for_the_one_in_the_verified_report() {
    let (client, _, dir) = with_guests().await;
    let host = client.hosts(None).await.unwrap().remove(0);
    let path = dir.path().join("order.json");
    let args = super::OrderArgs { save: Some(path.clone()), ..draft::tests::args() };
    let resource = || moorline_common::id::ResourceId::parse("pve/guest/101").unwrap();
    let destroy = || Act::read("destroy", &json!({ "stop": true }), &resource()).unwrap();
    let asked = submit::order(&client, &mut Ui::new(Format::Json, false), &host, destroy(), resource(), &args).await.unwrap_err();
    assert_eq!(asked.code, "needs_confirmation");
    for says in
        ["cannot be undone", "destroy guest 101 (`db`) [vm:6e3c4af2:0f6a1d6f] on host shop-17, class R4", "kept for 7d (until about "]
    {
        assert!(asked.message.contains(says), "{says}: {}", asked.message);
    }
    let mut ui = Ui::new(Format::Json, true);
    submit::order(&client, &mut ui, &host, destroy(), resource(), &args).await.unwrap();
    let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let envelope: moorline_common::sign::Envelope = serde_json::from_value(value["order"].clone()).unwrap();
    let order = Signed::<OpStatement>::new(envelope).unwrap().peek().unwrap();
    assert_eq!((order.kind.as_str(), order.params), ("destroy", json!({ "stop": true })));
    assert!(order.incarnation.unwrap().starts_with("vm:6e3c4af2-"), "in full");
}

#[tokio::test]
async fn a_guest_that_the_host_does_not_have_is_looked_for_on_the_others() {
    let (client, shown, _dir) = with_guests().await;
    let other = moorline_common::statement::HostBinding { serial: 1, ..crate::revision::tests::host_binding(11, "shop-18") };
    shown.lock().unwrap().hosts.push(shown_host(&other, &keys().1));
    // The report is of the first host: the second one has none that verifies.
    let host = client.hosts(None).await.unwrap().into_iter().find(|h| h.name.as_str() == "shop-18").unwrap();
    let resource = moorline_common::id::ResourceId::parse("pve/guest/101").unwrap();
    let missing = moorline_common::fault::Fault::new(Code::NotFound, "it is not here");
    let failure = super::guest::meant::elsewhere(&client, &host, &resource, missing.into()).await;
    assert!(failure.remedy.contains("host `shop-17` has a guest 101 (`db`): if that is meant, write shop-17/101"), "{failure:?}");
}
