//! Orders of sagas: a hub shows them when it likes, and with what it likes.

use std::collections::BTreeMap;

use moorline_common::id::{HostId, HostName, Nonce, SagaId};
use moorline_common::op::HoldEffect;
use moorline_common::saga::{Act, HostAct, HubAct, Kind, OfSaga, Plan, PublicKey, Side, Step, Task, Verb, Word};
use moorline_common::sign::{PrivateKey, Statement};
use moorline_common::trust::{EVIDENCE_MAX, Evidence, Role, RootKey};

use super::*;
use crate::testing::topology;

mod back;
mod bound;

const ID: &str = "0197a2b4-1c3d-7e5f-8a6b-0123456789ab";
/// Another host that the plan has steps on, and its resource.
const DEPOT: &str = "depot-1";
const BOX: &str = "docker/container/edge-box-1";

/// The key of the other host.
fn depot() -> PrivateKey {
    PrivateKey::from_seed(&[5; 32])
}

fn stranger() -> PrivateKey {
    PrivateKey::from_seed(&[7; 32])
}

/// One who may order restarts, and nothing else.
fn clerk() -> PrivateKey {
    PrivateKey::from_seed(&[9; 32])
}

fn with_clerk(root: &mut TrustRoot) {
    let clerk = clerk();
    root.keys.insert(clerk.id(), RootKey { name: "clerk".to_owned(), public: clerk.public() });
    let role = Role { keys: [clerk.id()].into(), kinds: ["op.restart".to_owned()].into(), ..root.roles["operator"].clone() };
    root.roles.insert("clerks".to_owned(), role);
}

/// What a step does on a host, before its orders are signed.
#[derive(Clone)]
struct Line {
    host: &'static str,
    kind: &'static str,
    resource: &'static str,
    attempts: u32,
    made_by: Option<&'static str>,
    incarnation: Option<&'static str>,
}

fn line(host: &'static str, kind: &'static str, resource: &'static str) -> Line {
    Line { host, kind, resource, attempts: 1, made_by: None, incarnation: None }
}

/// A step of a draft: its group, what it does and what undoes it; with no line it waits for a revision.
type Draft = (u32, Option<Line>, Option<Line>);

/// A signed plan with every order of it.
struct Saga {
    plan: Plan,
    orders: BTreeMap<(usize, Side, u32), (Vec<u8>, OpId)>,
}

impl Saga {
    fn of(bench: &Bench, drafts: &[Draft]) -> Self {
        let now = Clock.wall();
        let own = PublicKey(bench.operator.keys.host_key.public());
        let hosts = [("shop-1", own), (DEPOT, PublicKey(depot().public()))];
        let mut saga = Self {
            plan: Plan {
                cluster: bench.operator.cluster(),
                saga_id: SagaId::parse(ID).unwrap(),
                name: "try".to_owned(),
                kind: Kind::Test,
                deployment: String::new(),
                triggered_by: "operator".to_owned(),
                inputs: BTreeMap::new(),
                hosts: hosts.into_iter().map(|(name, key)| (HostName::parse(name).unwrap(), key)).collect(),
                steps: Vec::new(),
                not_before: now,
                expires_at: now.plus(900),
                undo_until: now.plus(900),
                root_version: 1,
                reason: String::new(),
            },
            orders: BTreeMap::new(),
        };
        for (number, (group, run, undo)) in drafts.iter().enumerate() {
            let run = saga.task(bench, number, Side::Do, run.as_ref());
            let undo = undo.as_ref().map(|undo| saga.task(bench, number, Side::Undo, Some(undo)));
            let name = format!("step-{number}");
            saga.plan.steps.push(Step { name, group: *group, run, undo, irreversible: false, when: Vec::new() });
        }
        saga
    }

    fn task(&mut self, bench: &Bench, step: usize, side: Side, line: Option<&Line>) -> Task {
        let Some(line) = line else {
            let hosts = [HostName::parse("shop-1").unwrap()].into();
            let act = Act::Hub(HubAct::Applied { topology: topology("edge"), generation: Generation(1), hosts });
            return Task { act, attempts: 1, backoff_s: 0, timeout_s: 60 };
        };
        let mut orders = Vec::new();
        for attempt in 1..=line.attempts {
            let (json, id) = self.sign(bench, line, OfSaga { saga_id: self.plan.saga_id.clone(), step, side, attempt });
            orders.push(hash(&json));
            self.orders.insert((step, side, attempt), (json, id));
        }
        let act = Act::Host(HostAct {
            host: HostName::parse(line.host).unwrap(),
            resource: ResourceId::parse(line.resource).unwrap(),
            kind: line.kind.to_owned(),
            params: json!({}),
            orders,
            made_by: line.made_by.map(str::to_owned),
        });
        Task { act, attempts: line.attempts, backoff_s: 0, timeout_s: 60 }
    }

    fn sign(&self, bench: &Bench, line: &Line, of: OfSaga) -> (Vec<u8>, OpId) {
        bench.order(line.kind, line.resource, |order| {
            order.idempotency_key = of.key().unwrap();
            order.incarnation = line.incarnation.map(str::to_owned);
            order.saga = Some(of);
            if line.host == DEPOT {
                order.host_id = HostId::of_key(&depot().public());
            }
        })
    }

    fn order(&self, step: usize, side: Side, attempt: u32) -> &(Vec<u8>, OpId) {
        &self.orders[&(step, side, attempt)]
    }

    fn word(&self, bench: &Bench, verb: Verb) -> Envelope {
        sealed(&self.say(verb), &bench.operator.key)
    }

    fn say(&self, verb: Verb) -> Word {
        Word {
            cluster: self.plan.cluster.clone(),
            saga_id: self.plan.saga_id.clone(),
            verb,
            issued_at: self.plan.not_before,
            nonce: Nonce::parse("0".repeat(32)).unwrap(),
            root_version: 1,
            reason: String::new(),
        }
    }

    /// What the other host says of an order of its own.
    fn says(&self, bench: &Bench, step: usize, side: Side, outcome: Outcome) -> Receipt {
        let (json, id) = self.order(step, side, 1);
        Receipt {
            cluster: self.plan.cluster.clone(),
            host_id: HostId::of_key(&depot().public()),
            host_epoch: bench.operator.keys.epoch.clone(),
            op_id: id.clone(),
            payload_sha256: hash(json),
            same_as: None,
            resource: ResourceId::parse(BOX).unwrap(),
            kind: "stop".to_owned(),
            outcome,
            at: 1,
            fault: None,
            result: Value::Null,
            journal_seq: 1,
        }
    }

    fn receipt(&self, bench: &Bench, step: usize, side: Side, outcome: Outcome) -> Envelope {
        sealed(&self.says(bench, step, side, outcome), &depot())
    }

    fn evidence(&self, bench: &Bench, receipts: &[Envelope], words: &[Envelope]) -> Evidence {
        Evidence { plan: sealed(&self.plan, &bench.operator.key), receipts: receipts.to_vec(), words: words.to_vec() }
    }
}

fn sealed<T: Statement>(statement: &T, key: &PrivateKey) -> Envelope {
    Signed::seal(statement, &[key]).unwrap().envelope().clone()
}

fn hash(json: &[u8]) -> String {
    Envelope::from_json(json).unwrap().payload_sha256()
}

impl Bench {
    async fn take_shown(&self, json: &[u8], evidence: Evidence) -> Answer {
        tokio::time::timeout(DEADLINE, self.agent().ops.take(json.to_vec(), Some(evidence))).await.unwrap().unwrap()
    }

    /// Hands in what is refused, and not for good: nothing of it is recorded.
    async fn unproven(&self, what: &str, json: &[u8], evidence: Evidence, code: Code) {
        let records = self.journal.records().len();
        let Answer::Refused(fault) = self.take_shown(json, evidence).await else { panic!("{what}: it is taken, or refused by a receipt") };
        assert_eq!(fault.code, code, "{what}: {fault}");
        assert_eq!(self.journal.records().len(), records, "{what}");
    }

    /// Hands in an order whose turn has come, and waits until it is done.
    async fn done(&self, (json, id): &(Vec<u8>, OpId), evidence: Evidence) {
        assert_eq!(self.take_shown(json, evidence).await, Answer::Known(id.clone()));
        self.reached(id, State::Succeeded).await;
    }
}

/// The depot stops BOX, then this host WEB (in two tries at most) and DB, then the depot goes on.
fn four(bench: &Bench) -> Saga {
    let twice = Line { attempts: 2, ..line("shop-1", "stop", WEB) };
    Saga::of(
        bench,
        &[
            (0, Some(line(DEPOT, "stop", BOX)), Some(line(DEPOT, "start", BOX))),
            (1, Some(twice), Some(line("shop-1", "start", WEB))),
            (2, Some(line("shop-1", "stop", DB)), Some(line("shop-1", "start", DB))),
            (3, Some(line(DEPOT, "restart", BOX)), None),
        ],
    )
}

#[tokio::test]
async fn each_step_is_taken_when_its_host_was_shown_what_came_before() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let first = saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded);
    let (json, id) = saga.order(1, Side::Do, 1);
    bench.done(saga.order(1, Side::Do, 1), saga.evidence(&bench, std::slice::from_ref(&first), &[])).await;
    assert_eq!(bench.take(json).await, Answer::Known(id.clone()), "a repeated order needs no proof");
    bench.heard(id, "succeeded").await;
    assert!(matches!(bench.take(json).await, Answer::Settled(receipt) if receipt.outcome == Outcome::Succeeded));
    // What this host has done itself it need not be shown.
    bench.done(saga.order(2, Side::Do, 1), saga.evidence(&bench, &[first], &[])).await;
    assert_eq!(bench.effects(), [format!("op:stop:{WEB}"), format!("op:stop:{DB}")]);
}

#[tokio::test]
async fn an_order_goes_with_its_plan_and_no_other() {
    let bench = Bench::under(with_clerk, Policy::default()).await;
    let saga = four(&bench);
    let (json, _) = saga.order(1, Side::Do, 1);
    let first = || vec![saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded)];
    let by = |key: &PrivateKey, change: &dyn Fn(&mut Plan)| {
        let mut plan = saga.plan.clone();
        change(&mut plan);
        Evidence { plan: sealed(&plan, key), receipts: first(), words: Vec::new() }
    };
    let key = &bench.operator.key;
    let edit = |plan: &mut Plan, change: &dyn Fn(&mut HostAct)| match &mut plan.steps[1].run.act {
        Act::Host(act) => change(act),
        Act::Hub(_) | Act::Cloud(_) => panic!("it is a host's"),
    };
    let other = SagaId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ff").unwrap();
    for (what, evidence, code) in [
        ("a stranger's plan", by(&stranger(), &|_| {}), Code::UnknownKey),
        ("a plan by one who may not order this", by(&clerk(), &|_| {}), Code::OutOfScope),
        ("another saga's plan", by(key, &|plan| plan.saga_id = other.clone()), Code::BadSaga),
        ("another cluster's plan", by(key, &|plan| plan.cluster = "elsewhere".parse().unwrap()), Code::WrongCluster),
        ("a plan without the order", by(key, &|plan| edit(plan, &|act| act.orders[0] = "0".repeat(64))), Code::BadSaga),
        ("a plan with the tries in another order", by(key, &|plan| edit(plan, &|act| act.orders.swap(0, 1))), Code::BadSaga),
        ("a plan of something else", by(key, &|plan| edit(plan, &|act| act.kind = "restart".to_owned())), Code::BadSaga),
        ("a plan without the step", by(key, &|plan| plan.steps.truncate(1)), Code::BadSaga),
        ("a receipt for a plan", Evidence { plan: first().remove(0), ..by(key, &|_| {}) }, Code::WrongType),
    ] {
        bench.unproven(what, json, evidence, code).await;
    }
    assert_eq!(bench.refused(json).await, Code::SagaUnproven, "nothing is shown");
    let (plain, _) = bench.order("stop", WEB, |_| {});
    bench.unproven("an order of no saga", &plain, by(key, &|_| {}), Code::BadSaga).await;
    assert_eq!(bench.effects(), Vec::<String>::new());
    // Nothing of that speaks against it.
    bench.done(saga.order(1, Side::Do, 1), by(key, &|_| {})).await;
}

#[tokio::test]
async fn only_the_host_itself_says_that_its_step_is_done() {
    let bench = Bench::under(with_clerk, Policy::default()).await;
    let saga = four(&bench);
    let (json, _) = saga.order(1, Side::Do, 1);
    let said = |change: &dyn Fn(&mut Receipt), key: &PrivateKey| {
        let mut receipt = saga.says(&bench, 0, Side::Do, Outcome::Succeeded);
        change(&mut receipt);
        vec![sealed(&receipt, key)]
    };
    let good = || said(&|_| {}, &depot()).remove(0);
    let mut forged = good();
    forged.signatures[0].sig[7] ^= 1;
    let own = &bench.operator.keys;
    let many = vec![good(); EVIDENCE_MAX + 1];
    for (what, receipts, code) in [
        ("none", vec![], Code::SagaUnproven),
        ("a forged one", vec![forged], Code::BadSignature),
        ("by another key", said(&|_| {}, &own.host_key), Code::UnknownKey),
        ("by another host of the plan", said(&|r| r.host_id = own.host_id(), &own.host_key), Code::SagaUnproven),
        ("by a host that the plan has not", said(&|r| r.host_id = HostId::of_key(&stranger().public()), &stranger()), Code::UnknownKey),
        ("of another order", said(&|r| r.payload_sha256 = hash(&saga.order(3, Side::Do, 1).0), &depot()), Code::SagaUnproven),
        ("of its undoing", vec![saga.receipt(&bench, 0, Side::Undo, Outcome::Succeeded)], Code::SagaUnproven),
        ("of another cluster", said(&|r| r.cluster = "elsewhere".parse().unwrap(), &depot()), Code::WrongCluster),
        ("of a failure", vec![saga.receipt(&bench, 0, Side::Do, Outcome::Failed)], Code::SagaUnproven),
        ("of a doubt", vec![saga.receipt(&bench, 0, Side::Do, Outcome::Indeterminate)], Code::SagaUnproven),
        ("too many", many, Code::TooLarge),
    ] {
        bench.unproven(what, json, saga.evidence(&bench, &receipts, &[]), code).await;
    }
    let skip = |step| saga.say(Verb::Skip { step, side: Side::Do });
    let elsewhere = Word { saga_id: SagaId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ff").unwrap(), ..skip(0) };
    for (what, word, code) in [
        ("a stranger takes the step out", sealed(&skip(0), &stranger()), Code::UnknownKey),
        ("one who may not order this does", sealed(&skip(0), &clerk()), Code::OutOfScope),
        ("another step is taken out", sealed(&skip(3), &bench.operator.key), Code::SagaUnproven),
        ("that of another saga is", sealed(&elsewhere, &bench.operator.key), Code::BadSaga),
        ("its undoing is", saga.word(&bench, Verb::Skip { step: 0, side: Side::Undo }), Code::SagaUnproven),
    ] {
        bench.unproven(what, json, saga.evidence(&bench, &[], &[word]), code).await;
    }
    assert_eq!(bench.effects(), Vec::<String>::new());
    bench.done(saga.order(1, Side::Do, 1), saga.evidence(&bench, &[], &[saga.word(&bench, Verb::Skip { step: 0, side: Side::Do })])).await;
}

#[tokio::test]
async fn a_step_is_begun_once_whatever_tries_were_signed() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let shown = || saga.evidence(&bench, &[saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded)], &[]);
    let (first, second) = (saga.order(1, Side::Do, 1), saga.order(1, Side::Do, 2));
    let turn = bench.in_the_way(WEB).await;
    assert_eq!(bench.take_shown(&second.0, shown()).await, Answer::Known(second.1.clone()));
    bench.unproven("while another try waits", &first.0, shown(), Code::SagaOutOfOrder).await;
    drop(turn);
    bench.reached(&second.1, State::Succeeded).await;
    bench.unproven("after another try has done it", &first.0, shown(), Code::SagaOutOfOrder).await;
    bench.heard(&second.1, "succeeded").await;
    bench.unproven("long after", &first.0, shown(), Code::SagaOutOfOrder).await;
    assert_eq!(bench.effects().len(), 1);
}

#[tokio::test]
async fn after_a_try_that_failed_comes_another_and_operators_may_add_to_them() {
    let bench = Bench::new().await;
    let saga = four(&bench);
    let first = saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded);
    let shown = |words: &[Envelope]| saga.evidence(&bench, std::slice::from_ref(&first), words);
    for attempt in [1, 2] {
        let (json, id) = saga.order(1, Side::Do, attempt);
        bench.driver.with(|fake| {
            fake.op_at_begin = Some(Box::new(|fake| {
                fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent);
            }))
        });
        assert_eq!(bench.take_shown(json, shown(&[])).await, Answer::Known(id.clone()));
        bench.reached(id, State::Failed).await;
        bench.driver.with(|fake| {
            fake.fail.clear();
            fake.op_at_begin = None;
        });
    }
    let of = OfSaga { saga_id: saga.plan.saga_id.clone(), step: 1, side: Side::Do, attempt: 3 };
    let third = saga.sign(&bench, &line("shop-1", "stop", WEB), of);
    bench.unproven("more tries than were signed", &third.0, shown(&[]), Code::BadSaga).await;
    let word = saga.word(&bench, Verb::Retry { step: 1, side: Side::Do, orders: vec![hash(&third.0)] });
    bench.done(&third, shown(&[word])).await;
}

#[tokio::test]
async fn what_only_the_hub_says_lets_nothing_begin_that_is_not_reversible() {
    let bench = Bench::new().await;
    let after = |what: Line| Saga::of(&bench, &[(0, None, None), (1, Some(what), None)]);
    let (stop, destroy) = (after(line("shop-1", "stop", WEB)), after(line("shop-1", "destroy", "docker/volume/edge_data")));
    // Nor does an operator's word that the hub need not show: such a plan does not hold in itself.
    let skip = destroy.word(&bench, Verb::Skip { step: 0, side: Side::Do });
    for words in [vec![], vec![skip]] {
        let shown = destroy.evidence(&bench, &[], &words);
        bench.unproven("of class R4", &destroy.order(1, Side::Do, 1).0, shown, Code::BadSaga).await;
    }
    bench.done(stop.order(1, Side::Do, 1), stop.evidence(&bench, &[], &[])).await;
    assert_eq!(bench.effects(), [format!("op:stop:{WEB}")]);
}

#[tokio::test]
async fn nothing_that_the_hub_does_too_early_makes_a_host_sign_a_refusal() {
    let bench = Bench::under(|_| {}, Policy { ops_denied: vec!["stop".to_owned()], ..Policy::default() }).await;
    let saga = four(&bench);
    let (json, id) = saga.order(1, Side::Do, 1);
    // The policy would refuse it for good, by a receipt that passes for a failure of the step.
    bench.unproven("before its turn", json, saga.evidence(&bench, &[], &[]), Code::SagaUnproven).await;
    let first = saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded);
    assert_eq!(bench.take_shown(json, saga.evidence(&bench, &[first], &[])).await, Answer::Known(id.clone()));
    assert_eq!(bench.receipt(id).fault.unwrap().code, Code::PolicyDenied);
}

#[tokio::test]
async fn what_was_accepted_begins_after_a_restart_without_being_shown_again() {
    let mut bench = Bench::new().await;
    let saga = four(&bench);
    let (json, id) = saga.order(1, Side::Do, 1);
    let shown = saga.evidence(&bench, &[saga.receipt(&bench, 0, Side::Do, Outcome::Succeeded)], &[]);
    let turn = bench.in_the_way(WEB).await;
    assert_eq!(bench.take_shown(json, shown.clone()).await, Answer::Known(id.clone()));
    bench.kill().await;
    drop(turn);
    bench.start_apart().await;
    bench.unproven("another try while it waits", &saga.order(1, Side::Do, 2).0, shown, Code::SagaOutOfOrder).await;
    assert_eq!(bench.take(json).await, Answer::Known(id.clone()));
    bench.agent().ops.records_are_current();
    bench.reached(id, State::Succeeded).await;
    assert_eq!(bench.effects(), [format!("op:stop:{WEB}")]);
    let hold = bench.records(id).iter().find_map(|record| record.hold);
    assert!(matches!(hold, Some(HoldEffect::Place(_))));
}
