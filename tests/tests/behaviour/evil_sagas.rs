//! A hostile hub holds a saga's plan, its orders, and all that was ever signed of it. It can leave out what it likes, and make no
//! host do a step that was not signed, nor one before its turn, nor undo one without a cause.

use std::collections::BTreeMap;

use moorline_common::id::{HostEpoch, HostId, HostName, Nonce, OpId, ResourceId, SagaId, UnixSeconds};
use moorline_common::op::{OpStatement, Outcome, Receipt};
use moorline_common::saga::{Act, HostAct, Kind, OfSaga, PLAN_MAX, Plan, PublicKey, Side, Step, Task, Verb, Word};
use moorline_common::sign::{Envelope, PrivateKey, Signed, Statement};
use moorline_proto::v1 as pb;
use moorline_tests::evil::EvilHub;
use serde_json::{Value, json};

use crate::evil_orders::{Loot, SITE, effects, now, topology};
use crate::setup::{HOST, journal, sim_fleet};

/// Another host that the saga has steps on; the thief has none of its keys.
const DEPOT: &str = "depot-1";
const BOX: &str = "docker/container/edge-box-1";

fn depot() -> PrivateKey {
    PrivateKey::from_seed(&[5; 32])
}

fn stranger() -> PrivateKey {
    PrivateKey::from_seed(&[7; 32])
}

/// A plan of three steps, and every order that was signed with it: the depot stops its box, this host its site, the depot starts it
/// again.
struct Saga {
    plan: Plan,
    orders: BTreeMap<(usize, Side), OpStatement>,
}

impl Saga {
    fn draw_up(loot: &Loot) -> Self {
        let id = SagaId::parse(uuid::Uuid::now_v7().to_string()).unwrap();
        let lines = [(DEPOT, BOX, "stop", "start"), (HOST, SITE, "stop", "start"), (DEPOT, BOX, "start", "stop")];
        let (mut steps, mut orders) = (Vec::new(), BTreeMap::new());
        for (number, (host, resource, run, undo)) in lines.into_iter().enumerate() {
            let mut task = |side, kind: &str| {
                let of = OfSaga { saga_id: id.clone(), step: number, side, attempt: 1 };
                let mut order =
                    OpStatement { idempotency_key: of.key().unwrap(), saga: Some(of), ..loot.statement(kind, resource, json!({})) };
                if host == DEPOT {
                    order.host_id = HostId::of_key(&depot().public());
                }
                let act = HostAct {
                    host: HostName::parse(host).unwrap(),
                    resource: ResourceId::parse(resource).unwrap(),
                    kind: kind.to_owned(),
                    params: json!({}),
                    orders: vec![loot.signed(&order).payload_sha256()],
                    made_by: None,
                };
                orders.insert((number, side), order);
                Task { act: Act::Host(act), attempts: 1, backoff_s: 0, timeout_s: 60 }
            };
            let (run, undo) = (task(Side::Do, run), task(Side::Undo, undo));
            let group = u32::try_from(number).unwrap();
            steps.push(Step { name: format!("step-{number}"), group, run, undo: Some(undo), irreversible: false, when: Vec::new() });
        }
        let keys = [(HOST, loot.host_key), (DEPOT, depot().public())];
        let plan = Plan {
            cluster: orders[&(0, Side::Do)].cluster.clone(),
            saga_id: id,
            name: "try".to_owned(),
            kind: Kind::Test,
            deployment: String::new(),
            triggered_by: "operator".to_owned(),
            inputs: BTreeMap::new(),
            hosts: keys.into_iter().map(|(name, key)| (HostName::parse(name).unwrap(), PublicKey(key))).collect(),
            steps,
            not_before: UnixSeconds(now().0 - 60),
            expires_at: now().plus(900),
            undo_until: now().plus(900),
            root_version: loot.root.version,
            reason: String::new(),
        };
        plan.check().unwrap();
        Self { plan, orders }
    }

    /// What the depot says of a step of its own.
    fn says(&self, loot: &Loot, step: usize, side: Side, outcome: Outcome) -> Receipt {
        let order = &self.orders[&(step, side)];
        Receipt {
            cluster: order.cluster.clone(),
            host_id: order.host_id.clone(),
            host_epoch: HostEpoch::parse("e".repeat(32)).unwrap(),
            op_id: order.op_id.clone(),
            payload_sha256: loot.signed(order).payload_sha256(),
            same_as: None,
            resource: order.resource.clone(),
            kind: order.kind.clone(),
            outcome,
            at: 1,
            fault: None,
            result: Value::Null,
            journal_seq: 1,
        }
    }

    fn abort(&self) -> Word {
        Word {
            cluster: self.plan.cluster.clone(),
            saga_id: self.plan.saga_id.clone(),
            verb: Verb::Abort { begun: 2 },
            issued_at: now(),
            nonce: Nonce::parse("0".repeat(32)).unwrap(),
            root_version: self.plan.root_version,
            reason: String::new(),
        }
    }

    fn shown(&self, loot: &Loot, (step, side): (usize, Side), receipts: &[Envelope], words: &[Envelope]) -> pb::SagaOrder {
        pb::SagaOrder {
            op: Some((&loot.signed(&self.orders[&(step, side)])).into()),
            plan: Some((&sealed(&self.plan, &loot.operator)).into()),
            receipts: receipts.iter().map(Into::into).collect(),
            words: words.iter().map(Into::into).collect(),
        }
    }
}

fn sealed<T: Statement>(statement: &T, key: &PrivateKey) -> Envelope {
    Signed::seal(statement, &[key]).unwrap().envelope().clone()
}

type Trick = (&'static str, &'static str, pb::SagaOrder);

const STEP: (usize, Side) = (1, Side::Do);
const BACK: (usize, Side) = (1, Side::Undo);

/// What no operator signed, or not so.
fn unsigned(loot: &Loot, saga: &Saga, first: &Envelope) -> Vec<Trick> {
    let good = || saga.shown(loot, STEP, std::slice::from_ref(first), &[]);
    let order = |change: &dyn Fn(&mut OpStatement), key: &PrivateKey| {
        let mut order = OpStatement {
            op_id: OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap(),
            nonce: Nonce::parse(uuid::Uuid::now_v7().simple().to_string()).unwrap(),
            ..saga.orders[&STEP].clone()
        };
        change(&mut order);
        pb::SagaOrder { op: Some((&sealed(&order, key)).into()), ..good() }
    };
    let plan = |change: &dyn Fn(&mut Plan), key: &PrivateKey| {
        let mut plan = saga.plan.clone();
        change(&mut plan);
        pb::SagaOrder { plan: Some((&sealed(&plan, key)).into()), ..good() }
    };
    let envelope = |json: &[u8]| Some(pb::Envelope { json: json.to_vec() });
    let other = Saga::draw_up(loot).plan;
    vec![
        ("by a stranger", "unknown_key", order(&|_| {}, &stranger())),
        ("that is not in the plan", "bad_saga", order(&|_| {}, &loot.operator)),
        ("of no saga", "bad_saga", order(&|order| order.saga = None, &loot.operator)),
        ("of a step that there is not", "bad_params", order(&|order| order.saga.as_mut().unwrap().step = 9, &loot.operator)),
        ("with a stranger's plan", "unknown_key", plan(&|_| {}, &stranger())),
        ("with a plan by the recovery key", "out_of_scope", plan(&|_| {}, &loot.recovery)),
        ("with another saga's plan", "bad_saga", plan(&|plan| *plan = other.clone(), &loot.operator)),
        ("with a plan whose keys are a stranger's", "unknown_key", {
            let swap = |plan: &mut Plan| plan.hosts.values_mut().for_each(|key| *key = PublicKey(stranger().public()));
            plan(&swap, &stranger())
        }),
        ("without its plan", "bad_envelope", pb::SagaOrder { plan: None, ..good() }),
        ("with a plan that is none", "bad_envelope", pb::SagaOrder { plan: envelope(b"{}"), ..good() }),
        ("with a plan that is huge", "too_large", pb::SagaOrder { plan: envelope(&vec![b' '; PLAN_MAX + 1]), ..good() }),
        ("with a receipt that is none", "bad_envelope", pb::SagaOrder { receipts: vec![pb::Envelope::default()], ..good() }),
        ("with more than anybody reads", "too_large", pb::SagaOrder { words: vec![pb::Envelope::default(); 2000], ..good() }),
        ("that is none", "bad_envelope", pb::SagaOrder { op: Some(pb::Envelope::default()), ..good() }),
        ("that is a binding", "wrong_type", pb::SagaOrder { op: Some((&loot.binding).into()), ..good() }),
    ]
}

/// What is not shown to have its turn.
fn out_of_order(loot: &Loot, saga: &Saga) -> Vec<Trick> {
    let shown = |receipt: &Receipt, key: &PrivateKey| saga.shown(loot, STEP, &[sealed(receipt, key)], &[]);
    let done = saga.says(loot, 0, Side::Do, Outcome::Succeeded);
    let as_of = |key: &PrivateKey| Receipt { host_id: HostId::of_key(&key.public()), ..done.clone() };
    vec![
        ("before the step before it", "saga_unproven", saga.shown(loot, STEP, &[], &[])),
        ("with a stranger's receipt", "unknown_key", shown(&as_of(&stranger()), &stranger())),
        ("with a receipt in another's name", "unknown_key", shown(&done, &stranger())),
        ("with an operator's receipt", "unknown_key", shown(&as_of(&loot.operator), &loot.operator)),
        ("after a failure", "saga_unproven", shown(&saga.says(loot, 0, Side::Do, Outcome::Failed), &depot())),
        ("after another step", "saga_unproven", shown(&saga.says(loot, 2, Side::Do, Outcome::Succeeded), &depot())),
    ]
}

/// What is to be undone for no reason.
fn without_a_cause(loot: &Loot, saga: &Saga, first: &Envelope) -> Vec<Trick> {
    let failed = saga.says(loot, 2, Side::Do, Outcome::Failed);
    let shown = |receipts: &[Envelope], words: &[Envelope]| saga.shown(loot, BACK, receipts, words);
    let other = Word { saga_id: Saga::draw_up(loot).plan.saga_id, ..saga.abort() };
    vec![
        ("for nothing", "saga_unproven", shown(&[], &[])),
        ("when all goes well", "saga_unproven", shown(std::slice::from_ref(first), &[])),
        ("for a failure that the stranger signed", "unknown_key", shown(&[sealed(&failed, &stranger())], &[])),
        ("for a word that the stranger signed", "unknown_key", shown(&[], &[sealed(&saga.abort(), &stranger())])),
        ("for a word about another saga", "bad_saga", shown(&[], &[sealed(&other, &loot.operator)])),
        ("for a word that is a receipt", "wrong_type", shown(&[], std::slice::from_ref(first))),
    ]
}

#[test]
fn a_hostile_hub_does_no_step_that_was_not_signed_none_before_its_turn_and_undoes_none_without_a_cause() {
    let (mut fleet, operator) = sim_fleet("evilsagas");
    fleet.push(&topology("one"), &["--wait"]).unwrap().ok().unwrap();
    let loot = Loot::take(&fleet, &operator);
    drop(operator);
    let evil = EvilHub::take_over(&mut fleet).unwrap();
    evil.send_slice(&loot.slices[0]).unwrap();

    let saga = Saga::draw_up(&loot);
    let first = sealed(&saga.says(&loot, 0, Side::Do, Outcome::Succeeded), &depot());
    let answer = |shown: pb::SagaOrder| evil.answer_to_saga_order(shown, &loot.host_key).unwrap_or_else(|e| format!("{e:#}"));
    let attack = |tricks: Vec<Trick>| {
        let wrong =
            tricks.into_iter().filter_map(|(what, code, shown)| Some((what, code, answer(shown))).filter(|(_, code, got)| code != got));
        assert_eq!(wrong.collect::<Vec<_>>(), [], "an order, the code that it should get, and what it got");
    };
    let before = journal(&fleet).len();
    attack(unsigned(&loot, &saga, &first));
    attack(out_of_order(&loot, &saga));
    let plain = loot.signed(&saga.orders[&STEP]).to_json();
    assert_eq!(evil.answer_to_order(plain.clone(), &loot.host_key).unwrap(), "saga_unproven");
    assert_eq!(journal(&fleet).len(), before, "nothing of that is on record");

    // What was signed is done in its turn, once.
    assert_eq!(answer(saga.shown(&loot, STEP, std::slice::from_ref(&first), &[])), "succeeded");
    assert_eq!(evil.answer_to_order(plain, &loot.host_key).unwrap(), "succeeded", "it is told again, and not done");
    assert_eq!(effects(&fleet).as_object().unwrap().len(), 1);
    attack(without_a_cause(&loot, &saga, &first));
    fleet.kill_agent(HOST).unwrap();
    evil.hang_up();
    fleet.start_agent(HOST).unwrap();
    evil.wait_for_agent().unwrap();
    attack(without_a_cause(&loot, &saga, &first));
    assert_eq!(effects(&fleet).as_object().unwrap().len(), 1);
    assert_eq!(answer(saga.shown(&loot, BACK, &[], &[sealed(&saga.abort(), &loot.operator)])), "succeeded");
    assert_eq!(effects(&fleet).as_object().unwrap().len(), 2);

    // What is undone before it began does not begin any more.
    let late = Saga::draw_up(&loot);
    assert_eq!(answer(late.shown(&loot, BACK, &[], &[])), "succeeded");
    let first = sealed(&late.says(&loot, 0, Side::Do, Outcome::Succeeded), &depot());
    assert_eq!(answer(late.shown(&loot, STEP, &[first], &[])), "saga_out_of_order");
    assert_eq!(effects(&fleet).as_object().unwrap().len(), 2, "nothing was done for it");
}
