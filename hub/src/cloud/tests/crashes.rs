//! The hub dies after each call of each step, and another one goes on: the end is the same, and nothing is there twice.

use std::future::Future;

use super::super::Provider;
use super::super::steps::{
    Destroy, Resize, StepError, TakeSnapshot, WaitActive, alter, create, destroy, resize, snapshot, undo_create, undo_snapshot, wait_active,
};
use super::*;

/// More calls than any step makes.
const CALLS_MAX: usize = 200;

/// Runs `step` in hubs that die after its first call, its second, and so on, each in a cloud of its own, then once more in one that lives; then twice.
async fn dies_everywhere<F, O>(prepare: impl AsyncFn(&Cloud), step: impl Fn(Cloud, Attempt) -> F, check: impl Fn(&Cloud, &str))
where
    F: Future<Output = (Cloud, Result<O, StepError>)>,
{
    for dies_after in 0..CALLS_MAX {
        let sim = Sim::new(Setup::default());
        prepare(&Cloud::of(sim.clone(), usize::MAX)).await;
        let first = Cloud::of(sim.clone(), usize::MAX).first();
        let dying = Cloud::of(sim.clone(), dies_after);
        let died = dying.wire.died.clone();
        let survived = tokio::select! {
            (_, ended) = step(dying, first) => { drop(ended.unwrap()); true }
            () = died.notified() => false,
        };
        // The next hub is there soon, or much later.
        for pause in [2, 100] {
            sleep(pause).await;
            let next = Cloud::of(sim.clone(), usize::MAX);
            let again = next.again(first);
            let (next, ended) = step(next, again).await;
            drop(ended.unwrap());
            check(&next, &format!("died after call {dies_after}, {pause} s later"));
        }
        sleep(300).await;
        let end = Cloud::of(sim, usize::MAX);
        check(&end, &format!("died after call {dies_after}, at last"));
        assert!(end.is_at_rest());
        if survived {
            assert!(dies_after > 0);
            return;
        }
    }
    panic!("the step made more than {CALLS_MAX} calls");
}

async fn nothing(_: &Cloud) {}

/// The one droplet of a scene, which was there before.
async fn db(cloud: &Cloud) {
    cloud.strangers("db", &[]).await;
    sleep(120).await;
}

fn first_droplet(cloud: &Cloud) -> DropletId {
    DropletId(cloud.sim.inspect(|world| *world.droplets.keys().next().unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_creation_makes_one_droplet() {
    let step = async |cloud: Cloud, attempt: Attempt| {
        let ended = create(&cloud.provider, &web(), &attempt).await;
        (cloud, ended)
    };
    dies_everywhere(nothing, step, |cloud, when| assert_eq!(cloud.living().len(), 1, "{when}")).await;
}

#[tokio::test(start_paused = true)]
async fn an_undone_creation_leaves_nothing() {
    let step = async |cloud: Cloud, attempt: Attempt| {
        let ended = undo_create(&cloud.provider, &web(), None, &attempt).await;
        (cloud, ended)
    };
    let prepare = async |cloud: &Cloud| {
        cloud.strangers("other", &[]).await;
        // The answer is lost.
        let mut wanted = web().wanted;
        wanted.tags.extend([mark().saga_tag(), mark().step_tag()]);
        cloud.provider.create_droplet(&wanted).await.unwrap();
    };
    dies_everywhere(prepare, step, |cloud, when| assert_eq!(cloud.living().len(), 1, "{when}")).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_and_destroying_end_the_same() {
    let wait = async |cloud: Cloud, attempt: Attempt| {
        let id = first_droplet(&cloud);
        let ended = wait_active(&cloud.provider, WaitActive { id, action: None }, &attempt).await;
        (cloud, ended)
    };
    let fresh = async |cloud: &Cloud| {
        cloud.strangers("db", &[]).await;
    };
    dies_everywhere(fresh, wait, |cloud, when| assert_eq!(cloud.living().len(), 1, "{when}")).await;
    let end = async |cloud: Cloud, attempt: Attempt| {
        let id = first_droplet(&cloud);
        let ended = destroy(&cloud.provider, Destroy { id, created_at: None }, &attempt).await;
        (cloud, ended)
    };
    dies_everywhere(db, end, |cloud, when| assert_eq!(cloud.living(), [0; 0], "{when}")).await;
}

fn before(cloud: &Cloud) -> TakeSnapshot {
    TakeSnapshot { droplet: first_droplet(cloud), name: mark().name("before"), mark: mark(), deleted: [].into() }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_made_once() {
    let step = async |cloud: Cloud, attempt: Attempt| {
        let ended = snapshot(&cloud.provider, &before(&cloud), &attempt).await;
        (cloud, ended)
    };
    dies_everywhere(db, step, |cloud, when| assert_eq!((cloud.snapshots().len(), cloud.actions("snapshot")), (1, 1), "{when}")).await;
}

#[tokio::test(start_paused = true)]
async fn an_undone_snapshot_leaves_nothing() {
    let step = async |cloud: Cloud, attempt: Attempt| {
        let ended = undo_snapshot(&cloud.provider, &before(&cloud), None, &attempt).await;
        (cloud, ended)
    };
    let prepare = async |cloud: &Cloud| {
        db(cloud).await;
        let input = before(cloud);
        cloud.provider.act(input.droplet, &super::super::Change::Snapshot { name: input.name }).await.unwrap();
    };
    dies_everywhere(prepare, step, |cloud, when| assert_eq!(cloud.snapshots(), [0; 0], "{when}")).await;
}

#[tokio::test(start_paused = true)]
async fn a_resize_ends_with_the_droplet_on() {
    let step = async |cloud: Cloud, attempt: Attempt| {
        let input = Resize { droplet: first_droplet(&cloud), size: "s-2vcpu-2gb".to_owned(), disk: false, was_on: None };
        let ended = resize(&cloud.provider, &input, &attempt).await;
        (cloud, ended)
    };
    let check = |cloud: &Cloud, when: &str| {
        let id = first_droplet(cloud).0;
        let (size, status) = cloud.sim.inspect(|world| world.droplets.get(&id).map(|one| (one.size.clone(), one.status)).unwrap());
        assert_eq!((size.as_str(), status.as_str()), ("s-2vcpu-2gb", "active"), "{when}");
        assert_eq!((cloud.actions("resize"), cloud.actions("power_off"), cloud.actions("power_on")), (1, 1, 1), "{when}");
    };
    dies_everywhere(db, step, check).await;
}

#[tokio::test(start_paused = true)]
async fn names_and_tags_end_the_same() {
    let step = async |cloud: Cloud, attempt: Attempt| {
        let (id, provider): (DropletId, &dyn Provider) = (first_droplet(&cloud), &cloud.provider);
        let work = async {
            alter::rename(provider, id, "db-2", &attempt).await?;
            alter::tag(provider, id, "ops", &attempt).await?;
            alter::untag(provider, id, "never", &attempt).await
        };
        let ended = work.await;
        (cloud, ended)
    };
    dies_everywhere(db, step, |cloud, when| assert_eq!(cloud.actions("rename"), 1, "{when}")).await;
}
