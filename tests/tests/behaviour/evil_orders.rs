//! A hostile hub holds every byte that was ever sent, and the real hub's CA and address. It cannot make a host do what no
//! operator ordered, nor do again what one did.

use std::collections::BTreeSet;

use moorline_common::id::{ClusterId, Generation, HostEpoch, HostId, IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds};
use moorline_common::op::{Class, OP_ENVELOPE_MAX, OP_WINDOW_MAX_S, OpStatement, Precondition};
use moorline_common::sign::{Envelope, PayloadType, PrivateKey, SIGNATURES_MAX, Signature, Signed, pae};
use moorline_common::statement::{HostBinding, SliceStatement};
use moorline_common::trust::{Role, RootKey, TrustRoot};
use moorline_proto::v1 as pb;
use moorline_proto::v1::hub_message::Kind;
use moorline_tests::evil::EvilHub;
use moorline_tests::fleet::Fleet;
use moorline_tests::limits::SOON;
use moorline_tests::operator::Operator;
use moorline_tests::wait::wait_until;
use serde_json::{Value, json};

use crate::setup::{HOST, assert_says, journal, services, sim_fleet, sim_world};

/// What a thief of the hub has to work with.
pub struct Loot {
    pub operator: PrivateKey,
    pub recovery: PrivateKey,
    pub binding: Envelope,
    pub root: TrustRoot,
    pub host_key: [u8; 32],
    pub slices: Vec<Envelope>,
    pub source: Envelope,
}

pub fn envelope(of: Option<pb::Envelope>) -> Envelope {
    Envelope::from_json(&of.unwrap().json).unwrap()
}

impl Loot {
    pub fn take(fleet: &Fleet, operator: &Operator) -> Self {
        let host = operator.host(HOST).unwrap();
        let cluster = operator.call(|mut c| async move { c.get_cluster(pb::GetClusterRequest {}).await }).unwrap();
        let newest = host.target_generation;
        let slice = |generation| envelope(operator.revision("edge", generation).unwrap().slices.remove(0).slice);
        Self {
            operator: fleet.operator_key().unwrap(),
            recovery: fleet.recovery_key().unwrap(),
            host_key: host.host_key.clone().try_into().unwrap(),
            binding: envelope(host.binding),
            root: Signed::<TrustRoot>::new(envelope(cluster.roots.last().cloned())).unwrap().peek().unwrap(),
            slices: (1..=newest).map(slice).collect(),
            source: envelope(operator.revision("edge", newest).unwrap().source),
        }
    }

    fn bound(&self) -> HostBinding {
        Signed::<HostBinding>::new(self.binding.clone()).unwrap().peek().unwrap()
    }

    /// An order as an operator would give it at this moment: it is valid from a minute ago, for a quarter of an hour.
    pub fn statement(&self, kind: &str, resource: &str, params: Value) -> OpStatement {
        let (binding, now) = (self.bound(), now());
        let op_id = OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap();
        OpStatement {
            cluster: binding.cluster,
            idempotency_key: IdempotencyKey::parse(op_id.as_str()).unwrap(),
            op_id,
            host_id: binding.host_id,
            host_epoch: binding.host_epoch,
            resource: ResourceId::parse(resource).unwrap(),
            incarnation: None,
            kind: kind.to_owned(),
            params,
            precondition: None,
            not_before: UnixSeconds(now.0 - 60),
            expires_at: now.plus(900),
            nonce: Nonce::parse(uuid::Uuid::now_v7().simple().to_string()).unwrap(),
            root_version: self.root.version,
            reason: String::new(),
            saga: None,
        }
    }

    fn stop(&self) -> OpStatement {
        self.statement("stop", SITE, json!({}))
    }

    /// Asks for a generation that the host has no more: it is refused for good, which the journal records.
    fn outdated(&self) -> OpStatement {
        OpStatement { precondition: Some(Precondition { generation: Some(Generation(1)), state: None }), ..self.stop() }
    }

    pub fn signed(&self, statement: &OpStatement) -> Envelope {
        Signed::seal(statement, &[&self.operator]).unwrap().envelope().clone()
    }

    /// `payload` as somebody with the operator's key would sign it, whatever it is.
    fn signed_bytes(&self, payload: &str) -> Envelope {
        let kind = PayloadType::Op.as_str();
        let sig = self.operator.sign_raw(&pae(kind, payload.as_bytes()));
        let signatures = vec![Signature { keyid: self.operator.id(), sig }];
        Envelope { payload_type: kind.to_owned(), payload: payload.as_bytes().to_vec(), signatures }
    }
}

pub fn now() -> UnixSeconds {
    UnixSeconds(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
}

pub const SITE: &str = "docker/container/edge-site-1";
const DATA: &str = "docker/volume/edge_data";

type Trick = (&'static str, &'static str, Vec<u8>);

/// Orders that no operator gave, or not to this host, now.
#[expect(clippy::too_many_lines, reason = "a table")]
fn forged(loot: &Loot) -> Vec<Trick> {
    let stranger = PrivateKey::from_seed(&[7; 32]);
    let good = loot.signed(&loot.stop());
    let with = |change: &dyn Fn(&mut OpStatement)| {
        let mut statement = loot.stop();
        change(&mut statement);
        loot.signed(&statement).to_json()
    };
    let edited = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = good.clone();
        change(&mut envelope);
        envelope.to_json()
    };
    let by = |keys: &[&PrivateKey]| Signed::seal(&loot.stop(), keys).unwrap().envelope().to_json();
    let text = |envelope: &Envelope| String::from_utf8(envelope.to_json()).unwrap();
    let payload = String::from_utf8(good.payload.clone()).unwrap();
    let past = UnixSeconds(now().0 - 90_000);
    vec![
        ("by a stranger", "unknown_key", by(&[&stranger])),
        ("by the recovery key", "out_of_scope", by(&[&loot.recovery])),
        ("by nobody", "unknown_key", edited(&|e| e.signatures.clear())),
        (
            "by a stranger in the operator's name",
            "bad_signature",
            edited(&|e| e.signatures[0].sig = stranger.sign_raw(&pae(&e.payload_type, &e.payload))),
        ),
        (
            "with a changed payload",
            "bad_signature",
            edited(&|e| {
                // A digit for a digit: the shape is looked at before the signatures.
                let nonce = b"\"nonce\":\"";
                let at = e.payload.windows(nonce.len()).position(|w| w == nonce).unwrap() + nonce.len();
                e.payload[at] = if e.payload[at] == b'0' { b'1' } else { b'0' };
            }),
        ),
        ("with a changed signature", "bad_signature", edited(&|e| e.signatures[0].sig[5] ^= 1)),
        ("with a cut signature", "bad_signature", edited(&|e| e.signatures[0].sig.truncate(63))),
        ("with too many signatures", "bad_envelope", edited(&|e| e.signatures = vec![e.signatures[0].clone(); SIGNATURES_MAX + 1])),
        ("as another type", "wrong_type", edited(&|e| e.payload_type = PayloadType::Slice.as_str().to_owned())),
        ("as a type that there is not", "wrong_type", edited(&|e| e.payload_type = "application/vnd.moorline.op.v2+json".to_owned())),
        ("that is a slice", "wrong_type", loot.slices[1].to_json()),
        ("that is a topology", "wrong_type", loot.source.to_json()),
        ("that is a binding", "wrong_type", loot.binding.to_json()),
        ("cut in the middle", "bad_envelope", good.to_json()[..200].to_vec()),
        ("with something behind it", "bad_envelope", format!("{} {{}}", text(&good)).into_bytes()),
        ("with a key twice", "bad_envelope", text(&good).replacen("{\"payloadType\"", "{\"payload\":\"\",\"payloadType\"", 1).into_bytes()),
        (
            "with a key that there is not",
            "bad_envelope",
            text(&good).replacen("{\"payloadType\"", "{\"x\":1,\"payloadType\"", 1).into_bytes(),
        ),
        ("in broken base64", "bad_envelope", text(&good).replacen("\"sig\":\"", "\"sig\":\" ", 1).into_bytes()),
        ("that is no JSON", "bad_envelope", b"\xff\xfe".to_vec()),
        ("that is empty", "bad_envelope", Vec::new()),
        ("that is huge", "too_large", vec![b' '; OP_ENVELOPE_MAX + 1]),
        (
            "whose payload has a key twice",
            "bad_envelope",
            loot.signed_bytes(&payload.replacen("{\"cluster\"", "{\"kind\":\"start\",\"cluster\"", 1)).to_json(),
        ),
        (
            "whose payload has a key that there is not",
            "bad_envelope",
            loot.signed_bytes(&payload.replacen("{\"cluster\"", "{\"force\":true,\"cluster\"", 1)).to_json(),
        ),
        ("whose payload has something behind it", "bad_envelope", loot.signed_bytes(&format!("{payload} 1")).to_json()),
        ("for another cluster", "wrong_cluster", with(&|s| s.cluster = ClusterId::parse("elsewhere").unwrap())),
        ("for another host", "wrong_host", with(&|s| s.host_id = HostId::of_key(&[1; 32]))),
        ("for an earlier life", "wrong_epoch", with(&|s| s.host_epoch = HostEpoch::parse("0".repeat(32)).unwrap())),
        ("under a root that the host has not", "root_behind", with(&|s| s.root_version += 1)),
        ("of a kind that there is not", "unknown_kind", with(&|s| s.kind = "format".to_owned())),
        ("of a kind that is not for this", "unknown_kind", with(&|s| s.resource = ResourceId::parse(DATA).unwrap())),
        ("with other parameters", "bad_params", with(&|s| s.params = json!({ "force": true }))),
        ("of class P", "class_denied", loot.signed(&loot.statement("exec", SITE, json!({ "argv": ["sh"], "privileged": true }))).to_json()),
        ("that is over", "expired", with(&|s| (s.not_before, s.expires_at) = (past, past.plus(900)))),
        ("that is not yet", "not_yet_valid", with(&|s| (s.not_before, s.expires_at) = (now().plus(4000), now().plus(5000)))),
        ("that is for ever", "bad_params", with(&|s| s.expires_at = s.not_before.plus(OP_WINDOW_MAX_S + 1))),
        ("for another generation", "precondition_failed", loot.signed(&loot.outdated()).to_json()),
        ("for another incarnation", "incarnation_changed", with(&|s| s.incarnation = Some("0".repeat(64)))),
        ("by one key twice where two are asked for", "threshold_not_met", {
            let mut envelope = loot.signed(&loot.statement("destroy", DATA, json!({})));
            let again = envelope.signatures[0].clone();
            envelope.signatures.push(again);
            envelope.to_json()
        }),
        ("by one key and a stranger where two are asked for", "threshold_not_met", {
            Signed::seal(&loot.statement("destroy", DATA, json!({})), &[&loot.operator, &stranger]).unwrap().envelope().to_json()
        }),
    ]
}

/// Orders by keys that count, beyond what their roles have; see [`divided`].
fn beyond_a_role(loot: &Loot) -> Vec<Trick> {
    let by = |keys: &[&PrivateKey], kind: &str, resource: &str, params: Value| {
        Signed::seal(&loot.statement(kind, resource, params), keys).unwrap().envelope().to_json()
    };
    let (clerk, visitor) = (clerk(), visitor());
    let sleep = || json!({ "argv": ["sleep", "1"] });
    vec![
        ("of class R3 by a key whose role has R2", "class_denied", by(&[&clerk], "exec", SITE, sleep())),
        ("of class R4 by a key whose role has R2", "class_denied", by(&[&clerk], "destroy", DATA, json!({}))),
        ("of class R4 by one who may and one whose role has R2", "threshold_not_met", {
            by(&[&loot.operator, &clerk], "destroy", DATA, json!({}))
        }),
        ("of another kind than its role has", "out_of_scope", by(&[&clerk], "stop", SITE, json!({}))),
        ("for a host that its role does not reach", "out_of_scope", by(&[&visitor], "stop", SITE, json!({}))),
    ]
}

/// Has three kinds of operations in his role, and of those what is reversible.
fn clerk() -> PrivateKey {
    PrivateKey::from_seed(&[9; 32])
}

/// Has all that an operator has, on hosts that are elsewhere.
fn visitor() -> PrivateKey {
    PrivateKey::from_seed(&[10; 32])
}

/// A root under which two operators must order what cannot be undone, and others may less than they.
fn divided(operator: &Operator, fleet: &Fleet) {
    let cluster = operator.call(|mut c| async move { c.get_cluster(pb::GetClusterRequest {}).await }).unwrap();
    let mut root = Signed::<TrustRoot>::new(envelope(cluster.roots.last().cloned())).unwrap().peek().unwrap();
    let second = PrivateKey::from_seed(&[8; 32]);
    root.version += 1;
    for (name, key) in [("bob", &second), ("clerk", &clerk()), ("visitor", &visitor())] {
        root.keys.insert(key.id(), RootKey { name: name.to_owned(), public: key.public() });
    }
    let role = root.roles.get_mut("operator").unwrap();
    role.keys.insert(second.id());
    let kinds = ["op.restart", "op.exec", "op.destroy"].map(str::to_owned).into();
    let counter = Role { keys: BTreeSet::from([clerk().id()]), kinds, max_class: Class::R2, ..role.clone() };
    let elsewhere = Role { keys: BTreeSet::from([visitor().id()]), hosts: vec!["depot-*".to_owned()], ..role.clone() };
    root.roles.extend([("counter".to_owned(), counter), ("elsewhere".to_owned(), elsewhere)]);
    root.class_thresholds.insert(Class::R4, 2);
    let sealed: pb::Envelope = Signed::seal(&root, &[&fleet.recovery_key().unwrap()]).unwrap().envelope().into();
    operator.call(|mut c| async move { c.put_root(pb::PutRootRequest { root: Some(sealed) }).await }).unwrap();
    let version = root.version;
    wait_until("the agent has the root", SOON, || Ok(operator.host(HOST)?.heartbeat.unwrap_or_default().root_version == version)).unwrap();
}

pub fn topology(generation: &str) -> String {
    services("edge", &["site"], generation).replace("      services:\n", "      volumes: { data: {} }\n      services:\n")
}

/// What operations did to the simulated host, by operation.
pub fn effects(fleet: &Fleet) -> Value {
    let world: Value = serde_json::from_slice(&sim_world(fleet, HOST)).unwrap();
    world["effects"].clone()
}

/// Orders that were tried on a host, and what came of those that were not answered as they should be.
#[derive(Default)]
struct Attempts {
    made: usize,
    wrong: Vec<String>,
}

impl Attempts {
    fn make(&mut self, evil: &EvilHub, loot: &Loot, (what, code, bytes): Trick) {
        self.made += 1;
        let got = evil.answer_to_order(bytes, &loot.host_key).unwrap_or_else(|e| format!("{e:#}"));
        if got != code {
            self.wrong.push(format!("an order {what}: expected {code}, got {got}"));
        }
    }
}

/// What a thief makes of an order that was done.
fn repeated(loot: &Loot, done: &Envelope) -> Vec<Trick> {
    let ordered: OpStatement = Signed::new(done.clone()).unwrap().peek().unwrap();
    let fresh = || {
        let mut statement = ordered.clone();
        statement.op_id = OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap();
        statement.nonce = Nonce::parse(uuid::Uuid::now_v7().simple().to_string()).unwrap();
        statement
    };
    let another = || IdempotencyKey::parse("another").unwrap();
    let signed = |statement: OpStatement| loot.signed(&statement).to_json();
    let cancel = loot.statement("cancel", SITE, json!({ "op_id": ordered.op_id }));
    vec![
        ("that was done", "succeeded", done.to_json()),
        ("of a key that was done", "succeeded", signed(fresh())),
        ("of a key for something else", "conflict", signed(OpStatement { kind: "stop".to_owned(), ..fresh() })),
        (
            "of a nonce that was used",
            "nonce_used",
            signed(OpStatement { nonce: ordered.nonce.clone(), idempotency_key: another(), ..fresh() }),
        ),
        ("of an id that was used", "conflict", signed(OpStatement { op_id: ordered.op_id.clone(), idempotency_key: another(), ..fresh() })),
        ("that takes back what was done", "too_late", signed(cancel)),
    ]
}

#[test]
fn a_hostile_hub_gives_no_order_and_repeats_none() {
    let (mut fleet, operator) = sim_fleet("evilorders");
    fleet.push(&topology("one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.push(&topology("two"), &["--wait"]).unwrap().ok().unwrap();
    divided(&operator, &fleet);
    let loot = Loot::take(&fleet, &operator);
    drop(operator);
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    // The slice that the hub has to repeat: the host enforces it.
    evil.send_slice(&loot.slices[1]).unwrap();

    // What one operator did order is done, once.
    let restart = loot.signed(&loot.statement("restart", SITE, json!({})));
    assert_eq!(evil.answer_to_order(restart.to_json(), &loot.host_key).unwrap(), "succeeded");
    let (before, done) = (sim_world(&fleet, HOST), effects(&fleet));
    assert_eq!(done.as_object().unwrap().len(), 1, "{done}");

    let mut attempts = Attempts::default();
    for trick in forged(&loot).into_iter().chain(beyond_a_role(&loot)).chain(repeated(&loot, &restart)) {
        attempts.make(&evil, &loot, trick);
    }
    let op_id = Signed::<OpStatement>::new(restart.clone()).unwrap().peek().unwrap().op_id.to_string();
    evil.send(Kind::OpAck(pb::OpAck { op_id: op_id.clone(), outcome: "failed".to_owned() })).unwrap();
    attempts.make(&evil, &loot, ("that was done, and acknowledged otherwise", "succeeded", restart.to_json()));
    let outdated = loot.outdated();
    attempts.make(&evil, &loot, ("for another generation, after that", "precondition_failed", loot.signed(&outdated).to_json()));
    // What is recorded of that comes after whatever the wrong word did.
    let records = journal(&fleet);
    assert!(records.iter().any(|record| record["op_id"] == outdated.op_id.as_str()), "{records:#?}");
    let is_acknowledged = |record: &Value| record["op_id"] == op_id && record["acknowledged"] == true;
    assert!(!records.iter().any(is_acknowledged), "a word about another end is taken for one about this");
    evil.send(Kind::OpAck(pb::OpAck { op_id: op_id.clone(), outcome: "succeeded".to_owned() })).unwrap();
    wait_until("the acknowledgement is recorded", SOON, || Ok(journal(&fleet).iter().any(is_acknowledged))).unwrap();
    attempts.make(&evil, &loot, ("that was done, and acknowledged", "succeeded", restart.to_json()));
    fleet.kill_agent(HOST).unwrap();
    evil.hang_up();
    fleet.start_agent(HOST).unwrap();
    evil.wait_for_agent().unwrap();
    attempts.make(&evil, &loot, ("that was done before a restart", "succeeded", restart.to_json()));

    // Nor by a slice.
    let statement: SliceStatement = Signed::new(loot.slices[1].clone()).unwrap().peek().unwrap();
    assert_eq!(statement.generation, Generation(2));
    for (code, bytes) in [("generation_regressed", loot.slices[0].to_json()), ("wrong_type", loot.signed(&loot.stop()).to_json())] {
        attempts.made += 1;
        assert_eq!(evil.refusal_of_slice(bytes).unwrap(), code);
    }
    assert!(attempts.wrong.is_empty(), "{:#?}", attempts.wrong);
    assert!(attempts.made >= 40, "{} attacks", attempts.made);
    assert_eq!((effects(&fleet), sim_world(&fleet, HOST)), (done, before), "the host is as it was");
    let shown = fleet.agent(HOST, &["status"]).unwrap();
    assert_says(&shown, &["wrong_type"]);
}
