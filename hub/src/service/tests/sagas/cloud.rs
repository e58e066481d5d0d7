//! Sagas in a simulated cloud, whose time and whose budgets are a hundred times as fast.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_common::id::{SagaId, sha256_hex};
use moorline_common::saga::{Act, CloudAct, CloudDroplet, CloudWork, DropletRef, Kind, Plan, Step, Task};
use moorline_common::sign::Signed;
use moorline_do_sim::world::faults::Chaos;
use moorline_do_sim::world::hand::Hand;
use moorline_do_sim::{CallFault, Setup, Sim, Wrong};
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use serde_json::{Value, json};

use super::host::SimHost;
use super::suites::{Random, fleet, number, random_shapes, resolve_all, there};
use super::{Draft, Fault, Kit, output};
use crate::cloud::Clouds;
use crate::limits;
use crate::saga::Death;
use crate::store::CloudKind;

/// How much faster than the real one the cloud is.
const PACE: u32 = 100;
/// What the first boot is told.
const BOOT: &str = "#cloud-config\n# hush-hush\n";

/// A hub with a cloud.
struct Sky {
    kit: Kit,
    sim: Sim,
}

impl Sky {
    async fn new() -> Self {
        Self::of(moorline_do_sim::Latencies::short()).await
    }

    async fn of(latencies: moorline_do_sim::Latencies) -> Self {
        let mut kit = Kit::new().await;
        let setup = Setup { latencies, begins_at_ms: kit.clock.unix_ms(), droplet_limit: 100_000, ..Setup::prompt() };
        let sim = Sim::new(setup);
        kit.stop().await;
        let mut clouds = Clouds::default();
        clouds.add(crate::cloud::tests::provider(&sim, kit.home.path()));
        kit.clouds = clouds;
        kit.start().await;
        kit.hub().sagas.set_pace(PACE);
        Self { kit, sim }
    }

    /// A saga of these steps, in a row.
    fn draft(&self, steps: Vec<(&str, Task, Option<Task>)>) -> Draft {
        let mut draft = self.kit.draft(&[], &[]);
        for (number, (name, run, undo)) in steps.into_iter().enumerate() {
            let group = u32::try_from(number).unwrap();
            let irreversible = undo.is_none() && is_final(&run);
            draft.plan.steps.push(Step { name: name.to_owned(), group, run, undo, irreversible, when: Vec::new() });
        }
        draft.plan.kind = Kind::Provision;
        draft
    }

    /// A droplet is made, registered, tagged, and a snapshot taken of it.
    fn provision(&self) -> Draft {
        let mut draft = self.draft(Vec::new());
        let name = droplet_name(&draft.plan);
        let snapshot = format!("before-{}-4", draft.plan.saga_id);
        let steps = vec![
            ("create", task(create(&name)), Some(task(CloudWork::Unmake))),
            ("active", task(CloudWork::WaitActive { droplet: made() }), None),
            ("register", task(CloudWork::Register { droplet: made(), spec: spec() }), Some(task(CloudWork::Unmake))),
            (
                "tag",
                task(CloudWork::Tag { droplet: made(), tag: "late".to_owned() }),
                Some(task(CloudWork::Untag { droplet: made(), tag: "late".to_owned() })),
            ),
            ("snapshot", task(CloudWork::Snapshot { droplet: made(), name: snapshot }), Some(task(CloudWork::Unmake))),
        ];
        draft.plan.steps = self.draft(steps).plan.steps;
        draft
    }

    /// The same, which fails at a step that is put in there.
    fn fails_at(&self, at: usize) -> Draft {
        let mut draft = self.provision();
        let fails = task(CloudWork::DeleteSnapshot { snapshot: 1 });
        let fails = Task { act: refused(&fails.act), ..fails };
        let step = Step { name: "fails".to_owned(), group: 0, run: fails, undo: None, irreversible: false, when: Vec::new() };
        draft.plan.steps.insert(at, step);
        for (number, step) in draft.plan.steps.iter_mut().enumerate() {
            step.group = u32::try_from(number).unwrap();
        }
        if at <= 4
            && let Act::Cloud(CloudAct { work: CloudWork::Snapshot { name, .. }, .. }) = &mut draft.plan.steps[5].run.act
        {
            *name = format!("before-{}-5", draft.plan.saga_id);
        }
        draft
    }

    async fn start(&self, draft: &Draft) -> Result<(), Fault> {
        let plan = Signed::seal(&draft.plan, &[&self.kit.key]).unwrap();
        let request = pb::StartSagaRequest {
            plan: Some(pb::Envelope::from(plan.envelope())),
            orders: draft.orders.clone(),
            revisions: Vec::new(),
            boots: draft.plan.boots().iter().map(|_| BOOT.as_bytes().to_vec()).collect(),
        };
        self.kit.operator().await.start_saga(request).await.map(drop).map_err(|s| from_status(&s))
    }

    async fn ends(&self, id: &SagaId, status: &str) -> pb::Saga {
        let saga = self.kit.until_saga(id, |saga| is_over(saga) || saga.status == "stuck").await;
        assert_eq!(saga.status, status, "{:#?} {:#?}", saga.stuck, saga.timeline);
        saga
    }

    /// What each sync of the inventory does about what came late.
    async fn inventory_sweep(&self) -> usize {
        let hub = self.kit.hub();
        let provider = hub.clouds.get("digitalocean").unwrap();
        let (droplets, snapshots) = (provider.inventory().await.unwrap(), provider.snapshots().await.unwrap());
        crate::saga::leftovers::sweep(hub, provider.as_ref(), &droplets, &snapshots).await.unwrap()
    }

    /// What is there of a saga, and costs.
    fn left(&self, plan: &Plan) -> (usize, usize) {
        let (name, id) = (droplet_name(plan), plan.saga_id.to_string());
        self.sim.inspect(|world| {
            let droplets = world.living().iter().filter(|droplet| droplet.name == name).count();
            let snapshots = world.snapshots.values().filter(|one| one.deleted_ms.is_none() && one.name.contains(&id)).count();
            (droplets, snapshots)
        })
    }

    async fn known(&self, number: u64) -> bool {
        let known = self.kit.hub().store.resource("digitalocean".to_owned(), CloudKind::Droplet, number).await.unwrap();
        known.is_some_and(|known| known.deleted_ms == 0)
    }

    fn fault(&self, method: &str, path: &str, next: u32, then: Wrong) {
        let fault = CallFault { method: Some(method.to_owned()), path: path.to_owned(), spares: 0, next: Some(next), then };
        self.sim.change(|world| world.faults.calls.push(fault));
    }

    /// Lets whoever gives no sign of life be taken for dead, until all have ended.
    async fn until_all_over(&self, ids: &[SagaId]) {
        let mut open: Vec<SagaId> = ids.to_vec();
        let patience = tokio::time::Instant::now() + 3 * super::PATIENCE;
        while let Some(id) = open.pop() {
            let saga = self.kit.saga(&id).await;
            if !is_over(&saga) {
                assert!(tokio::time::Instant::now() < patience, "{:#?}", saga.timeline);
                open.insert(0, id);
                self.kit.clock.advance(limits::SAGA_LEASE);
                self.sim.advance(u64::try_from(limits::SAGA_LEASE.as_millis()).unwrap());
                self.kit.hub().sagas.wake();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn is_over(saga: &pb::Saga) -> bool {
    matches!(saga.status.as_str(), "completed" | "rolled_back" | "cancelled" | "abandoned")
}

fn is_final(task: &Task) -> bool {
    matches!(&task.act, Act::Cloud(CloudAct { work: CloudWork::Destroy { .. } | CloudWork::DeleteSnapshot { .. }, .. }))
}

/// In a cloud that the hub does not know: nothing is done.
fn refused(act: &Act) -> Act {
    match act {
        Act::Cloud(_) => {
            Act::Cloud(CloudAct { cloud: "nowhere".to_owned(), work: CloudWork::WaitActive { droplet: DropletRef::Number(1) } })
        }
        Act::Host(_) | Act::Hub(_) => act.clone(),
    }
}

fn droplet_name(plan: &Plan) -> String {
    format!("web-{}", plan.saga_id.as_str().rsplit('-').next().unwrap())
}

fn made() -> DropletRef {
    DropletRef::MadeBy("create".to_owned())
}

fn spec() -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("size".to_owned(), json!("s-1vcpu-1gb")),
        ("region".to_owned(), json!("fra1")),
        ("image".to_owned(), json!("debian-12-x64")),
    ])
}

fn create(name: &str) -> CloudWork {
    CloudWork::CreateDroplet(Box::new(CloudDroplet {
        name: name.to_owned(),
        region: "fra1".to_owned(),
        size: "s-1vcpu-1gb".to_owned(),
        image: "debian-12-x64".to_owned(),
        tags: BTreeSet::from(["web".to_owned()]),
        boot: Some(sha256_hex(BOOT.as_bytes())),
        ..CloudDroplet::default()
    }))
}

fn task(work: CloudWork) -> Task {
    Task { act: Act::Cloud(CloudAct { cloud: "digitalocean".to_owned(), work }), attempts: 3, backoff_s: 0, timeout_s: 60 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_droplet_is_made_registered_and_destroyed_without_a_trace() {
    let sky = Sky::new().await;
    let draft = sky.provision();
    sky.start(&draft).await.unwrap();
    let saga = sky.ends(&draft.plan.saga_id, "completed").await;
    let number = output(&saga, 0)["droplet"].as_u64().unwrap();
    assert!(sky.known(number).await);
    assert_eq!(output(&saga, 2)["spec_version"], 1);
    assert_eq!(sky.left(&draft.plan), (1, 1));
    let (tags, told) = sky.sim.inspect(|world| {
        let droplet = world.living().into_iter().find(|droplet| droplet.id == number).unwrap();
        (droplet.tags.clone(), droplet.user_data.clone())
    });
    let id = draft.plan.saga_id.to_string();
    for tag in ["web", "late", "managed-by-moorline", &format!("saga:{id}"), &format!("saga:{id}:0")] {
        assert!(tags.contains_key(tag), "{tag} in {tags:?}");
    }
    assert_eq!(told, BOOT);
    let snapshot = output(&saga, 4)["snapshot"].as_u64().unwrap();
    let destroy = sky.draft(vec![
        ("destroy", task(CloudWork::Destroy { droplet: DropletRef::Number(number) }), None),
        ("snapshot", task(CloudWork::DeleteSnapshot { snapshot }), None),
    ]);
    sky.start(&destroy).await.unwrap();
    sky.ends(&destroy.plan.saga_id, "completed").await;
    assert_eq!(sky.left(&draft.plan), (0, 0));
    assert!(!sky.known(number).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_each_step_leaves_nothing_in_the_cloud_also_when_what_undoes_it_runs_twice() {
    let sky = Sky::new().await;
    let mut cases = Vec::new();
    for at in 0..=5 {
        for twice in [false, true] {
            let draft = sky.fails_at(at);
            if twice {
                // What undoes a step has its effect, and its runner dies before that is stored.
                let begun = u32::try_from(2 * at + 2).unwrap();
                sky.kit.hub().sagas.dies(&draft.plan.saga_id, Death { write: begun + 1, is_written: false });
            }
            sky.start(&draft).await.unwrap();
            cases.push((at, twice, draft));
        }
    }
    sky.until_all_over(&cases.iter().map(|(.., draft)| draft.plan.saga_id.clone()).collect::<Vec<_>>()).await;
    for (at, twice, draft) in cases {
        let saga = sky.kit.saga(&draft.plan.saga_id).await;
        assert_eq!(saga.status, "rolled_back", "at {at}, twice: {twice}: {:#?}", saga.timeline);
        assert_eq!(sky.left(&draft.plan), (0, 0), "at {at}, twice: {twice}");
        if at > 0 {
            let number = saga.steps.iter().position(|step| step.name == "create").map(|step| output(&saga, step)["droplet"].as_u64());
            assert!(!sky.known(number.flatten().unwrap()).await, "at {at}: the inventory has it still");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_dies_at_any_write_makes_one_droplet_and_one_snapshot() {
    let sky = Sky::new().await;
    let mut cases = Vec::new();
    for fails in [None, Some(5)] {
        for write in 0..(if fails.is_some() { 20 } else { 11 }) {
            for is_written in [false, true] {
                let draft = fails.map_or_else(|| sky.provision(), |at| sky.fails_at(at));
                let death = Death { write, is_written };
                sky.kit.hub().sagas.dies(&draft.plan.saga_id, death);
                sky.start(&draft).await.unwrap();
                cases.push((fails, death, draft));
            }
        }
    }
    sky.until_all_over(&cases.iter().map(|(.., draft)| draft.plan.saga_id.clone()).collect::<Vec<_>>()).await;
    for (fails, death, draft) in cases {
        let saga = sky.kit.saga(&draft.plan.saga_id).await;
        let wanted = if fails.is_some() { ("rolled_back", (0, 0)) } else { ("completed", (1, 1)) };
        assert_eq!((saga.status.as_str(), sky.left(&draft.plan)), wanted, "{death:?}: {:#?}", saga.timeline);
        let made = sky.sim.inspect(|world| world.droplets.values().filter(|one| one.name == droplet_name(&draft.plan)).count());
        assert_eq!(made, 1, "{death:?}: another was made and deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_begun_and_not_noted_is_adopted_and_its_number_may_come_late() {
    let late = moorline_do_sim::Latencies { snapshot_seen: 300, ..moorline_do_sim::Latencies::short() };
    let sky = Sky::of(late).await;
    let draft = sky.provision();
    // The eighth write says that the snapshot begins; the next, that it is there.
    sky.kit.hub().sagas.dies(&draft.plan.saga_id, Death { write: 9, is_written: false });
    sky.start(&draft).await.unwrap();
    sky.until_all_over(std::slice::from_ref(&draft.plan.saga_id)).await;
    let saga = sky.ends(&draft.plan.saga_id, "completed").await;
    let begun = sky.sim.inspect(|world| world.actions.values().filter(|action| action.change.kind() == "snapshot").count());
    assert_eq!((begun, sky.left(&draft.plan)), (1, (1, 1)), "{:#?}", saga.timeline);
    assert!(output(&saga, 4)["snapshot"].as_u64().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_later_deletes_the_snapshot_also_when_somebody_did_that_already() {
    let sky = Sky::new().await;
    for by_hand in [false, true] {
        let mut draft = sky.fails_at(5);
        let last = draft.plan.steps.last_mut().unwrap();
        let later = draft.plan.not_before;
        last.when = vec![moorline_common::saga::Condition::After(moorline_common::id::UnixSeconds(later.0 + 3600))];
        sky.start(&draft).await.unwrap();
        let saga = sky.kit.until_saga(&draft.plan.saga_id, |saga| saga.steps[4].status == "completed").await;
        let snapshot = output(&saga, 4)["snapshot"].as_u64().unwrap();
        if by_hand {
            sky.sim.hand(&Hand::DeleteSnapshot { id: snapshot }).unwrap();
        }
        sky.kit.abort(&draft.plan, &[]).await.unwrap();
        sky.ends(&draft.plan.saga_id, "rolled_back").await;
        assert_eq!(sky.left(&draft.plan), (0, 0), "by hand: {by_hand}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_to_everything_that_changes_make_nothing_twice() {
    let sky = Sky::new().await;
    for (method, path) in [("POST", "^/v2/droplets$"), ("POST", "/actions$"), ("POST", "/v2/tags/"), ("DELETE", "^/v2/")] {
        sky.fault(method, path, 1, Wrong::LoseReply);
        let draft = sky.fails_at(5);
        sky.start(&draft).await.unwrap();
        let saga = sky.ends(&draft.plan.saga_id, "rolled_back").await;
        assert_eq!(sky.left(&draft.plan), (0, 0), "{method} {path}: {:#?}", saga.timeline);
        let made = sky.sim.inspect(|world| world.droplets.values().filter(|one| one.name == droplet_name(&draft.plan)).count());
        assert_eq!(made, 1, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_keeps_the_power_and_is_taken_back() {
    let sky = Sky::new().await;
    let draft = sky.provision();
    sky.start(&draft).await.unwrap();
    let saga = sky.ends(&draft.plan.saga_id, "completed").await;
    let number = output(&saga, 0)["droplet"].as_u64().unwrap();
    let resize = |size: &str| task(CloudWork::Resize { droplet: DropletRef::Number(number), size: size.to_owned(), disk: false });
    let want = |size: &str| {
        let spec = BTreeMap::from([("size".to_owned(), json!(size))]);
        task(CloudWork::Desire { droplet: DropletRef::Number(number), spec })
    };
    let (old, new) = ("s-1vcpu-1gb", "s-1vcpu-2gb");
    let fails = Task { act: refused(&want(new).act), ..want(new) };
    for (last, wanted) in [(Some(fails), (old, "rolled_back")), (None, (new, "completed"))] {
        let mut steps = vec![("resize", resize(new), Some(resize(old))), ("want", want(new), Some(want(old)))];
        steps.extend(last.map(|last| ("fails", last, None)));
        let draft = sky.draft(steps);
        sky.start(&draft).await.unwrap();
        sky.ends(&draft.plan.saga_id, wanted.1).await;
        let (size, is_on) = sky.sim.inspect(|world| {
            let droplet = world.living().into_iter().find(|droplet| droplet.id == number).unwrap();
            (droplet.size.clone(), droplet.status == moorline_do_sim::world::droplet::Status::Active)
        });
        assert_eq!((size.as_str(), is_on), (wanted.0, true));
    }
    let hub = sky.kit.hub();
    let spec = hub.store.provisioned("digitalocean".to_owned()).await.unwrap().into_iter().find(|one| one.number == number).unwrap();
    assert_eq!((spec.spec["size"].as_str(), spec.spec["region"].as_str()), (Some(new), Some("fra1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_sign_for_the_cloud_starts_nothing_there() {
    let sky = Sky::new().await;
    let mut draft = sky.provision();
    draft.plan.steps[0].run.act = Act::Cloud(CloudAct { cloud: "digitalocean".to_owned(), work: create("") });
    let refused = sky.start(&draft).await.unwrap_err();
    assert!(refused.message.contains("a droplet needs name"), "{refused}");
    let missing = Draft { orders: Vec::new(), ..sky.provision() };
    let plan = Signed::seal(&missing.plan, &[&sky.kit.key]).unwrap();
    let request = pb::StartSagaRequest { plan: Some(pb::Envelope::from(plan.envelope())), ..pb::StartSagaRequest::default() };
    let refused = from_status(&sky.kit.operator().await.start_saga(request).await.unwrap_err());
    assert!(refused.message.contains("first boot"), "{refused}");
}

/// On hosts first, and then in the cloud; what the operator started for good stays out of it.
fn random_draft(sky: &Sky, hosts: &[SimHost], random: &mut Random) -> Draft {
    let mut shapes = random_shapes(random);
    shapes.retain(|shape| !shape.irreversible);
    shapes.truncate(usize::try_from(random.next(4)).unwrap());
    let mut draft = sky.kit.draft(hosts, &shapes);
    let first = draft.plan.steps.len();
    let group = draft.plan.groups();
    let name = droplet_name(&draft.plan);
    let snapshot = format!("before-{}-{}", draft.plan.saga_id, first + 4);
    let mut steps = vec![
        ("create", task(create(&name)), Some(task(CloudWork::Unmake))),
        ("active", task(CloudWork::WaitActive { droplet: made() }), None),
        ("register", task(CloudWork::Register { droplet: made(), spec: spec() }), Some(task(CloudWork::Unmake))),
        ("size", resize_to("s-1vcpu-2gb"), Some(resize_to("s-1vcpu-1gb"))),
        ("snapshot", task(CloudWork::Snapshot { droplet: made(), name: snapshot }), Some(task(CloudWork::Unmake))),
    ];
    steps.truncate(1 + usize::try_from(random.next(5)).unwrap());
    for (number, (name, mut run, mut undo)) in steps.into_iter().enumerate() {
        if number > 0 && random.one_in(8) {
            (run.act, undo) = (refused(&run.act), None);
        }
        let group = group + u32::try_from(number).unwrap();
        draft.plan.steps.push(Step { name: name.to_owned(), group, run, undo, irreversible: false, when: Vec::new() });
    }
    draft
}

fn resize_to(size: &str) -> Task {
    task(CloudWork::Resize { droplet: made(), size: size.to_owned(), disk: false })
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sagas_leave_nothing_in_a_cloud_where_everything_goes_wrong() {
    let (count, seed) = (number("MOORLINE_CLOUD_SAGAS", 40), number("MOORLINE_SEED", 42));
    let mut random = Random(seed | 1);
    let sky = Sky::new().await;
    let hosts = fleet(&sky.kit).await;
    sky.sim.change(|world| world.faults.chaos = Chaos { calls: 60, creates: 100, actions: 100 });
    let mut drafts = Vec::new();
    for _ in 0..count {
        let draft = random_draft(&sky, &hosts, &mut random);
        let id = &draft.plan.saga_id;
        if random.one_in(3) {
            let death = Death { write: u32::try_from(random.next(14)).unwrap(), is_written: random.one_in(2) };
            sky.kit.hub().sagas.dies(id, death);
        }
        sky.start(&draft).await.unwrap();
        if random.one_in(10) {
            // It may have ended by now.
            let _ = sky.kit.abort(&draft.plan, &hosts).await;
        }
        drafts.push(draft);
    }
    let pass = |span: Duration| sky.sim.advance(u64::try_from(span.as_millis()).unwrap());
    resolve_all(&sky.kit, &hosts, &drafts, seed, (Duration::from_secs(20), pass)).await;
    sky.sim.change(|world| world.faults.chaos = Chaos::default());
    let strays = sky.inventory_sweep().await;
    let (mut completed, mut back) = (0, 0);
    for Draft { plan, .. } in &drafts {
        let saga = sky.kit.saga(&plan.saga_id).await;
        let on_hosts = plan.steps.iter().filter(|step| step.run.act.host().is_some()).count();
        let has_snapshot = plan.steps.iter().any(|step| step.name == "snapshot");
        let all = (there(&hosts, &plan.saga_id, on_hosts), sky.left(plan));
        let wanted = if saga.status == "completed" {
            completed += 1;
            ((0..on_hosts).collect(), (1, usize::from(has_snapshot)))
        } else {
            back += 1;
            (BTreeSet::new(), (0, 0))
        };
        assert_eq!(all, wanted, "seed {seed}: {} {:#?}", saga.status, saga.timeline);
    }
    println!("{completed} completed, {back} went back, {strays} things came later than their sagas\' end");
    assert!(completed > 0 && back > 0 || count < 20, "{completed} completed, {back} went back");
}
