//! Snapshots.

use moorline_common::fault::Code;
use moorline_do_sim::{ActionFault, Fate};

use super::super::Provider as _;
use super::super::steps::{StepError, TakeSnapshot, delete_snapshot, snapshot, undo_snapshot};
use super::super::types::{Change, Snapshot, SnapshotId};
use super::*;

struct Scene {
    cloud: Cloud,
    input: TakeSnapshot,
}

async fn scene(setup: Setup) -> Scene {
    let cloud = Cloud::new(setup);
    let droplet = cloud.strangers("db", &[]).await;
    sleep(90).await;
    let input = TakeSnapshot { droplet, name: mark().name("before"), mark: mark(), deleted: [].into() };
    Scene { cloud, input }
}

impl Scene {
    async fn take(&self, attempt: Attempt) -> Result<Snapshot, StepError> {
        snapshot(&self.cloud.provider, &self.input, &attempt).await
    }

    fn fate(&self, next: u32, then: Fate) {
        self.cloud.faults(|faults| faults.actions.push(ActionFault { action: "snapshot".to_owned(), next: Some(next), then }));
    }

    async fn post(&self) {
        let change = Change::Snapshot { name: self.input.name.clone() };
        self.cloud.provider.act(self.input.droplet, &change).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_that_appears_late_is_found_by_the_name() {
    let scene = scene(Setup::default()).await;
    scene.fate(1, Fate::SeenAfterMs(45_000));
    let made = scene.take(scene.cloud.first()).await.unwrap();
    assert_eq!(scene.cloud.snapshots(), [made.id.0]);
    assert_eq!((made.name.as_str(), made.droplet), (scene.input.name.as_str(), Some(scene.input.droplet)));
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_action_was_posted_adopts_it() {
    // Under way, over, and seen.
    for pause in [1, 33, 60] {
        let scene = scene(Setup::default()).await;
        let first = scene.cloud.first();
        scene.post().await;
        sleep(pause).await;
        let made = scene.take(scene.cloud.again(first)).await.unwrap();
        assert_eq!((scene.cloud.snapshots(), scene.cloud.actions("snapshot")), (vec![made.id.0], 1), "after {pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_makes_no_second_snapshot() {
    for then in [Wrong::LoseReply, Wrong::StatusAfter(500), Wrong::Garbage, Wrong::Hang] {
        let scene = scene(Setup::default()).await;
        scene.cloud.fault("POST", "/actions$", 1, then);
        let made = scene.take(scene.cloud.first()).await.unwrap();
        assert_eq!((scene.cloud.snapshots(), scene.cloud.actions("snapshot")), (vec![made.id.0], 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_lost_is_sent_again() {
    let scene = scene(Setup::default()).await;
    scene.cloud.fault("POST", "/actions$", 1, Wrong::LoseRequest);
    scene.take(scene.cloud.first()).await.unwrap();
    assert_eq!(scene.cloud.actions("snapshot"), 1);
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_snapshot_is_waited_for_and_not_taken() {
    let scene = scene(Setup::default()).await;
    let first = scene.cloud.first();
    scene.cloud.provider.act(scene.input.droplet, &Change::Snapshot { name: "mine".to_owned() }).await.unwrap();
    let made = scene.take(scene.cloud.again(first)).await.unwrap();
    assert_eq!((made.name.as_str(), scene.cloud.snapshots().len()), (scene.input.name.as_str(), 2));
    undo_snapshot(&scene.cloud.provider, &scene.input, None, &scene.cloud.again(first)).await.unwrap();
    let left = scene.cloud.provider.snapshots_by_name("mine").await.unwrap();
    assert_eq!((left.len(), scene.cloud.snapshots().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn each_bad_end_has_its_own_code() {
    let ends =
        [(Fate::Errored, Code::CloudErrored), (Fate::NeverEnds, Code::CloudTimeout), (Fate::NoEffect, Code::CloudNotFoundAfterCompletion)];
    for (fate, code) in ends {
        let scene = scene(Setup::default()).await;
        scene.fate(1, fate);
        let error = scene.take(scene.cloud.first()).await.unwrap_err();
        assert_eq!((error.fault.code, error.again, error.effect), (code, true, true), "{error}");
        assert!(error.fault.message.contains(&scene.input.name), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_have_failed_and_is_there_is_taken() {
    let scene = scene(Setup::default()).await;
    scene.fate(1, Fate::ErroredAfterEffect);
    scene.take(scene.cloud.first()).await.unwrap();
    assert_eq!(scene.cloud.snapshots().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_try_after_a_failure_makes_one() {
    let scene = scene(Setup::default()).await;
    scene.fate(1, Fate::NoEffect);
    let first = scene.cloud.first();
    scene.take(first).await.unwrap_err();
    let made = scene.take(scene.cloud.again(first)).await.unwrap();
    assert_eq!(scene.cloud.snapshots(), [made.id.0]);
}

#[tokio::test(start_paused = true)]
async fn undoing_waits_for_what_is_under_way_and_deletes_all_of_the_name() {
    let scene = scene(Setup::default()).await;
    let first = scene.cloud.first();
    scene.post().await;
    let gone = undo_snapshot(&scene.cloud.provider, &scene.input, None, &scene.cloud.again(first)).await.unwrap();
    assert_eq!((gone.len(), scene.cloud.snapshots().len()), (1, 0));
    let known = gone.first().copied();
    undo_snapshot(&scene.cloud.provider, &scene.input, known, &scene.cloud.again(first)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_outlives_its_droplet_and_is_undone_nevertheless() {
    let scene = scene(Setup::default()).await;
    let first = scene.cloud.first();
    scene.take(first).await.unwrap();
    scene.cloud.provider.delete_droplet(scene.input.droplet).await.unwrap();
    undo_snapshot(&scene.cloud.provider, &scene.input, None, &scene.cloud.again(first)).await.unwrap();
    assert_eq!(scene.cloud.snapshots(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_snapshot_that_lingers_is_not_adopted() {
    let scene = scene(Setup::default()).await;
    let first = scene.cloud.first();
    let made = scene.take(first).await.unwrap();
    scene.cloud.faults(|faults| faults.lingers = true);
    delete_snapshot(&scene.cloud.provider, made.id, &first).await.unwrap();
    let input = TakeSnapshot { deleted: [made.id].into(), ..scene.input.clone() };
    let anew = snapshot(&scene.cloud.provider, &input, &scene.cloud.again(scene.cloud.first())).await.unwrap();
    assert_ne!(anew.id, made.id);
}

#[tokio::test(start_paused = true)]
async fn deleting_one_that_is_not_there_succeeds() {
    let cloud = Cloud::new(Setup::default());
    delete_snapshot(&cloud.provider, SnapshotId(7), &cloud.first()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_without_the_sagas_id_is_refused() {
    let scene = scene(Setup::default()).await;
    let input = TakeSnapshot { name: "nightly".to_owned(), ..scene.input.clone() };
    let error = snapshot(&scene.cloud.provider, &input, &scene.cloud.first()).await.unwrap_err();
    assert_eq!(error.fault.code, Code::CloudMissingInput);
    undo_snapshot(&scene.cloud.provider, &input, None, &scene.cloud.first()).await.unwrap_err();
    assert_eq!(scene.cloud.actions("snapshot"), 0);
}
