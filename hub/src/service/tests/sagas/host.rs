//! A host that does what it is ordered, judges by what it is shown, and misbehaves as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostName;
use moorline_common::op::{OpStatement, Outcome, Receipt};
use moorline_common::saga::{Own, Side, Turn};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::trust::{Evidence, TrustRoot};
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Say;
use moorline_proto::v1::hub_message::Kind as Said;
use serde_json::{Value, json};

use super::super::{Agent, Kit, Link, epoch, ready};

/// How a host takes an order whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It does it.
    Do,
    /// It begins, fails, and has done nothing.
    FailBefore,
    /// It begins, does it, and fails.
    FailAfter,
    /// It refuses, for good.
    Refuse,
    /// It cannot tell whether it has done it; then an operator finds that it has.
    DoubtDone,
    /// The same, and it has not.
    DoubtNot,
    /// It does it and says so in its next session.
    Reconnect,
    /// It says nothing at all.
    Mute,
}

#[derive(Default)]
struct Inner {
    journal: BTreeMap<String, Own>,
    receipts: BTreeMap<String, Receipt>,
    /// Receipts that another one takes the place of, when an operator has looked.
    resolved: Vec<Receipt>,
    /// Nobody looks for now.
    is_unwatched: bool,
    manners: BTreeMap<(String, Side), VecDeque<Manner>>,
    /// What is there.
    there: BTreeSet<String>,
    /// Every effect, in order: on which resource, by which side.
    effects: Vec<(String, Side)>,
    refused: Vec<Fault>,
}

/// See the module. Clones are the same host.
#[derive(Clone)]
pub struct SimHost {
    pub name: String,
    pub agent: Arc<Agent>,
    inner: Arc<Mutex<Inner>>,
}

impl SimHost {
    /// A bound host that is connected as long as the test runs.
    pub async fn connect(kit: &Kit, name: &str, n: u8) -> Self {
        let agent = kit.bound(name, n).await;
        let host = Self { name: name.to_owned(), agent: Arc::new(agent), inner: Arc::default() };
        host.open(kit).await;
        kit.until_host(name, |host| host.connected).await;
        host
    }

    /// Opens a session; it is opened anew when it ends, for as long as the hub is there.
    pub async fn open(&self, kit: &Kit) {
        let mut link = self.link(kit).await;
        let root = kit.operator().await.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner().roots.remove(0);
        let root = Signed::<TrustRoot>::from_json(&root.json).unwrap().peek().unwrap();
        let binding = Signed::<HostBinding>::from_json(&kit.binding(&self.agent, &self.name, 1).json).unwrap().peek().unwrap();
        let host = self.clone();
        let (agent, dial) = (self.agent.clone(), kit.dial());
        tokio::spawn(async move {
            loop {
                host.serve(&mut link, &root, &binding).await;
                let Some(gateway) = dial.gateway(&agent).await else { return };
                let Ok((next, _)) = agent.open_by(gateway, &epoch()).await else { return };
                link = next;
                link.beat(ready()).await;
                host.tell_all(&link).await;
            }
        });
    }

    async fn link(&self, kit: &Kit) -> Link {
        let mut link = self.agent.open(kit).await.unwrap();
        link.beat(ready()).await;
        link
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// How it takes the orders for one side of `resource`, one after the other; those after that it does.
    pub fn takes(&self, resource: &str, side: Side, manners: &[Manner]) {
        self.lock().manners.insert((resource.to_owned(), side), manners.iter().copied().collect());
    }

    /// Whether an operator looks at what it cannot tell.
    pub fn is_watched(&self, is_watched: bool) {
        self.lock().is_unwatched = !is_watched;
    }

    fn resolved(&self) -> Vec<Receipt> {
        let mut inner = self.lock();
        if inner.is_unwatched { Vec::new() } else { std::mem::take(&mut inner.resolved) }
    }

    /// What is there.
    pub fn there(&self) -> BTreeSet<String> {
        self.lock().there.clone()
    }

    /// Every effect so far.
    pub fn effects(&self) -> Vec<(String, Side)> {
        self.lock().effects.clone()
    }

    /// What it refused because of what it was shown.
    pub fn refused(&self) -> Vec<Fault> {
        self.lock().refused.clone()
    }

    async fn serve(&self, link: &mut Link, root: &TrustRoot, binding: &HostBinding) {
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            let message = tokio::select! {
                message = link.inbound.message() => message,
                _ = beat.tick() => {
                    if !link.try_beat(ready()).await {
                        return;
                    }
                    let resolved = self.resolved();
                    for receipt in resolved {
                        self.tell(link, &receipt).await;
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return };
            if let Some(Said::SagaOrder(order)) = message.kind
                && !self.take(link, order, root, binding).await
            {
                return;
            }
        }
    }

    /// Takes an order; `false` when the session ends over it.
    async fn take(&self, link: &Link, given: pb::SagaOrder, root: &TrustRoot, binding: &HostBinding) -> bool {
        let envelope = Envelope::from_json(&given.op.unwrap().json).unwrap();
        let payload_sha256 = envelope.payload_sha256();
        let order = root.verify_op(Signed::new(envelope).unwrap(), binding).unwrap();
        let statement = order.statement.clone();
        let known = self.lock().receipts.get(statement.op_id.as_str()).cloned();
        if let Some(receipt) = known {
            self.tell(link, &receipt).await;
            return true;
        }
        let envelopes = |list: Vec<pb::Envelope>| list.into_iter().map(|e| Envelope::from_json(&e.json).unwrap()).collect();
        let evidence = Evidence {
            plan: Envelope::from_json(&given.plan.unwrap().json).unwrap(),
            receipts: envelopes(given.receipts),
            words: envelopes(given.words),
        };
        let own = |of: &moorline_common::saga::OfSaga| self.lock().journal.get(of.key().unwrap().as_str()).cloned();
        let judged = root
            .verify_evidence(evidence, &order, &HostName::parse(&self.name).unwrap())
            .and_then(|shown| shown.judge(&order, &payload_sha256, own));
        match judged {
            Ok(Turn::Nothing) => self.end(link, &statement, &payload_sha256, Outcome::Succeeded, json!({"nothing_to_undo": true})).await,
            Ok(Turn::Go { .. }) => return self.go(link, &statement, &payload_sha256).await,
            Err(fault) => {
                self.lock().refused.push(fault.clone());
                let refusal = pb::Refusal { fault: Some(fault.into()), payload_sha256, kind: "op".to_owned() };
                link.say(Say::Refusal(refusal)).await;
            }
        }
        true
    }

    async fn go(&self, link: &Link, order: &OpStatement, payload_sha256: &str) -> bool {
        let side = order.saga.as_ref().unwrap().side;
        let resource = order.resource.as_str().to_owned();
        let manner = self.lock().manners.get_mut(&(resource.clone(), side)).and_then(VecDeque::pop_front).unwrap_or(Manner::Do);
        let succeeded = Outcome::Succeeded;
        match manner {
            Manner::Do => {
                let outcome = self.effect(&resource, side);
                self.end(link, order, payload_sha256, outcome, json!({"made": resource})).await;
            }
            Manner::FailBefore => self.end(link, order, payload_sha256, Outcome::Failed, Value::Null).await,
            Manner::FailAfter => {
                self.effect(&resource, side);
                self.end(link, order, payload_sha256, Outcome::Failed, Value::Null).await;
            }
            Manner::Refuse => self.end(link, order, payload_sha256, Outcome::Refused, Value::Null).await,
            Manner::DoubtDone | Manner::DoubtNot => {
                let is_done = manner == Manner::DoubtDone;
                if is_done {
                    self.effect(&resource, side);
                }
                self.end(link, order, payload_sha256, Outcome::Indeterminate, Value::Null).await;
                let outcome = if is_done { succeeded } else { Outcome::Failed };
                let known = self.receipt(order, payload_sha256, outcome, Value::Null);
                let mut inner = self.lock();
                inner.journal.insert(order.idempotency_key.to_string(), own(outcome, Value::Null));
                inner.receipts.insert(order.op_id.to_string(), known.clone());
                inner.resolved.push(known);
            }
            Manner::Reconnect => {
                let outcome = self.effect(&resource, side);
                self.note(order, payload_sha256, outcome, Value::Null);
                return false;
            }
            Manner::Mute => {
                self.lock().journal.insert(order.idempotency_key.to_string(), Own::Open);
            }
        }
        true
    }

    /// Does it; what is to be undone and is not there is told as an engine tells it.
    fn effect(&self, resource: &str, side: Side) -> Outcome {
        let mut inner = self.lock();
        inner.effects.push((resource.to_owned(), side));
        match side {
            Side::Do => inner.there.insert(resource.to_owned()),
            Side::Undo => inner.there.remove(resource),
        };
        Outcome::Succeeded
    }

    fn receipt(&self, order: &OpStatement, payload_sha256: &str, outcome: Outcome, result: Value) -> Receipt {
        Receipt {
            cluster: order.cluster.clone(),
            host_id: order.host_id.clone(),
            host_epoch: order.host_epoch.clone(),
            op_id: order.op_id.clone(),
            payload_sha256: payload_sha256.to_owned(),
            same_as: None,
            resource: order.resource.clone(),
            kind: order.kind.clone(),
            outcome,
            at: 1,
            fault: match outcome {
                Outcome::Succeeded => None,
                Outcome::Refused => Some(Fault::new(Code::PreconditionFailed, "as it was told")),
                Outcome::Failed | Outcome::Expired | Outcome::Cancelled | Outcome::Indeterminate => {
                    Some(Fault::new(Code::OpFailed, "as it was told"))
                }
            },
            result,
            journal_seq: 1,
        }
    }

    fn note(&self, order: &OpStatement, payload_sha256: &str, outcome: Outcome, result: Value) -> Receipt {
        let receipt = self.receipt(order, payload_sha256, outcome, result.clone());
        let mut inner = self.lock();
        inner.receipts.insert(order.op_id.to_string(), receipt.clone());
        // What did not begin uses no key up.
        if outcome != Outcome::Refused {
            inner.journal.insert(order.idempotency_key.to_string(), own(outcome, result));
        }
        receipt
    }

    async fn end(&self, link: &Link, order: &OpStatement, payload_sha256: &str, outcome: Outcome, result: Value) {
        let receipt = self.note(order, payload_sha256, outcome, result);
        self.tell(link, &receipt).await;
    }

    async fn tell(&self, link: &Link, receipt: &Receipt) {
        let signed = Signed::seal(receipt, &[&self.agent.host]).unwrap();
        link.say_if_open(Say::Receipt(pb::Envelope::from(signed.envelope()))).await;
    }

    async fn tell_all(&self, link: &Link) {
        let receipts: Vec<Receipt> = self.lock().receipts.values().cloned().collect();
        for receipt in receipts {
            self.tell(link, &receipt).await;
        }
    }
}

fn own(outcome: Outcome, result: Value) -> Own {
    match outcome {
        Outcome::Succeeded => Own::Succeeded { result },
        Outcome::Indeterminate => Own::Open,
        Outcome::Failed | Outcome::Expired | Outcome::Cancelled | Outcome::Refused => Own::Failed,
    }
}
