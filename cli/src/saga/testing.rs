//! What the tests of sagas share.

use std::collections::BTreeMap;

use moorline_common::id::{HostName, SagaId, UnixSeconds};
use moorline_common::observe::{EngineState, Observed, ObservedPve};
use moorline_common::op::OpStatement;
use moorline_common::pve::Vmid;
use moorline_common::saga::{Act, NewHost, Plan, Side, State};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::topology::HostSpec;
use moorline_common::trust::TrustRoot;
use moorline_proto::v1 as pb;
use serde_json::json;

use super::given::{Given, Hosts, Known, Target};
use super::joining::Joining;
use super::push::Pushed;
use super::seal::{Sealed, Terms};
use super::{Draft, library};
use crate::client::clouds::ResourceFacts;
use crate::error::Failure;
use crate::revision;
use crate::revision::tests::{host_binding, keys, trust};
use crate::signers::Signers;

pub(crate) const ID: &str = "0197a2b4-1c3d-7e5f-8a6b-0123456789ab";
pub(crate) const MACHINE: &str = "vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e:0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e";
pub(crate) const CONTAINER: &str = "ct:local-zfs:subvol-205-disk-0@1795000000";

pub(crate) fn id() -> SagaId {
    SagaId::parse(ID).unwrap()
}

pub(crate) fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

/// A host with the key of that seed, a machine 101 that runs, and a container 205 that does not.
pub(crate) fn host(seed: u8, name: &str) -> Known {
    let guest = |value| serde_json::from_value(value).unwrap();
    let vmid = |number: &str| Vmid::parse(number).unwrap();
    let db = json!({ "type": "qemu", "name": "db", "status": "running", "is_marked": true, "incarnation": MACHINE });
    let cache = json!({ "type": "lxc", "name": "cache", "status": "stopped", "is_marked": true, "incarnation": CONTAINER });
    let theirs = json!({ "type": "qemu", "name": "theirs", "status": "running" });
    let guests = BTreeMap::from([(vmid("101"), guest(db)), (vmid("205"), guest(cache)), (vmid("900"), guest(theirs))]);
    let pve = ObservedPve { engine: EngineState::Ready, node: name.to_owned(), guests, ..ObservedPve::default() };
    let observed = Observed { engine: EngineState::Ready, pve: Some(pve), ..Observed::default() };
    Known { binding: host_binding(seed, name), observed: Some(observed) }
}

pub(crate) fn hosts() -> Hosts {
    Hosts::from([(name("pve-1"), host(10, "pve-1")), (name("pve-2"), host(11, "pve-2"))])
}

pub(crate) fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The draft of a definition of the library.
pub(crate) fn draft(definition: &str, targets: &[&str], pairs: &[(&str, &str)]) -> Result<Draft, Failure> {
    draft_with(definition, targets, pairs, None)
}

/// The same with a topology file.
pub(crate) fn draft_with(definition: &str, targets: &[&str], pairs: &[(&str, &str)], pushed: Option<&Pushed>) -> Result<Draft, Failure> {
    let targets: Vec<Target> = targets.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
    let (id, hosts, set) = (id(), hosts(), set(pairs));
    let (droplets, was_host, joining) = (droplets(), was_host(), joining());
    let mut given = Given::new(&id, &hosts, &targets, &set);
    given.pushed = pushed;
    given.droplets = &droplets;
    given.was_host = Some(&was_host).filter(|_| definition == "destroy-droplet");
    given.joining = Some(&joining).filter(|_| definition == "provision-droplet");
    library::find(definition)?.draft(&given)
}

/// A droplet that the hub knows.
fn droplets() -> Vec<ResourceFacts> {
    let value = json!({ "size": "s-1vcpu-1gb", "name": "shop", "tags": ["web", "old", "managed-by-moorline", "saga:x"] });
    let row = pb::Resource {
        cloud: "digitalocean".to_owned(),
        kind: "droplet".to_owned(),
        number: 524_000_001,
        name: "shop".to_owned(),
        value_json: value.to_string(),
        ..pb::Resource::default()
    };
    vec![ResourceFacts::try_from(row).unwrap()]
}

fn was_host() -> NewHost {
    NewHost { host: name("shop"), token: "ab".repeat(16), converged: false }
}

fn joining() -> Joining {
    Joining { host: name("web-1"), token_id: "cd".repeat(16), boot: "#cloud-config\n{}\n".to_owned() }
}

/// Generation 5 of `edge`, in which `pve-1` has a guest 301 and `pve-2` has nothing any more.
pub(crate) fn pushed() -> Pushed {
    let guest = json!({ "type": "lxc", "state": "running", "config": { "hostname": "cache", "rootfs": "local-lvm:8" },
        "from": { "ostemplate": "local:vztmpl/debian-12.tar.zst" } });
    let spec: HostSpec = serde_json::from_value(json!({ "proxmox": { "guests": { "301": guest } } })).unwrap();
    let (root, signers) = (trust(), Signers::from(keys().1));
    let views = [revision::tests::host(10, "pve-1"), revision::tests::host(11, "pve-2")];
    let [first, second] = views.each_ref().map(|view| view.host_id.clone());
    let forward = revision::tests::draft(5, BTreeMap::from([(first, spec), (second, HostSpec::default())]));
    let hosts = forward.hosts.clone();
    let before = revision::tests::draft(6, hosts.keys().map(|host| (host.clone(), revision::tests::spec("nginx"))).collect());
    let pen = revision::tests::pen(&root, &signers);
    let topology = forward.topology.clone();
    let base = moorline_common::id::Generation(4);
    Pushed { topology, base, forward: pen.sign(&forward, &views).unwrap(), back: pen.sign(&before, &views).unwrap(), hosts }
}

pub(crate) fn terms(root: &TrustRoot) -> Terms<'_> {
    Terms { root, now: UnixSeconds(1_795_000_000), expires_s: 24 * 3600, undo_s: 7 * 24 * 3600, deployment: "shop", reason: "a test" }
}

pub(crate) fn sealed(draft: &Draft) -> Sealed {
    let signers: Signers = keys().1.into();
    terms(&trust()).seal(draft, &hosts(), &signers).unwrap()
}

/// Checks that every order is the one that the plan means, and that the plan has no others.
pub(crate) fn assert_orders_are_the_plans(sealed: &Sealed) {
    let orders: BTreeMap<String, OpStatement> = sealed
        .orders
        .iter()
        .map(|order| (order.payload_sha256(), Signed::<OpStatement>::new(order.clone()).unwrap().peek().unwrap()))
        .collect();
    let mut count = 0;
    for (step, side, task) in sealed.plan.tasks() {
        let Act::Host(act) = &task.act else { continue };
        for (at, hash) in act.orders.iter().enumerate() {
            count += 1;
            let order = orders.get(hash).unwrap();
            let of = order.saga.as_ref().unwrap();
            assert_eq!((of.step, of.side, of.attempt), (step, side, u32::try_from(at + 1).unwrap()));
            assert_eq!((&of.saga_id, &order.idempotency_key), (&sealed.plan.saga_id, &of.key().unwrap()));
            assert_eq!((&order.resource, &order.kind, &order.params), (&act.resource, &act.kind, &act.params));
            assert_eq!(sealed.plan.host_id(&act.host).as_ref(), Some(&order.host_id));
            let until = if side == Side::Do { sealed.plan.expires_at } else { sealed.plan.undo_until };
            assert_eq!((order.not_before, order.expires_at), (sealed.plan.not_before, until));
        }
    }
    assert_eq!(count, sealed.orders.len());
    let ids: std::collections::BTreeSet<_> = orders.values().map(|order| (&order.op_id, &order.nonce)).collect();
    assert_eq!(ids.len(), count, "no two orders share an id or a nonce");
}

/// What a hub shows that has just taken a plan.
pub(crate) fn taken(plan: &pb::Envelope) -> pb::Saga {
    let signed = Signed::<Plan>::new(Envelope::try_from(plan.clone()).unwrap()).unwrap();
    let statement = signed.peek().unwrap();
    let state = State::new(&statement);
    let line = |task: &moorline_common::saga::Task| pb::SagaLine {
        what: task.words(),
        phase: "idle".to_owned(),
        allowed: task.attempts,
        ..pb::SagaLine::default()
    };
    let steps = statement.steps.iter().zip(&state.steps).map(|(step, now)| pb::SagaStep {
        name: step.name.clone(),
        group: step.group,
        status: now.status().as_str().to_owned(),
        irreversible: step.irreversible,
        run: Some(line(&step.run)),
        undo: step.undo.as_ref().map(line),
    });
    pb::Saga {
        saga_id: statement.saga_id.to_string(),
        name: statement.name.clone(),
        kind: statement.kind.as_str().to_owned(),
        status: state.status(&statement).as_str().to_owned(),
        triggered_by: statement.triggered_by.clone(),
        deployment: statement.deployment.clone(),
        started_by: "operator/ann".to_owned(),
        started_unix_ms: 1_795_000_000_000,
        changed_unix_ms: 1_795_000_000_000,
        steps: steps.collect(),
        plan: Some(plan.clone()),
        step_count: u32::try_from(statement.steps.len()).unwrap(),
        ..pb::Saga::default()
    }
}
