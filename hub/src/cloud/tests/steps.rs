//! Resizing, switching, renaming and tagging.

use moorline_common::fault::Code;
use moorline_do_sim::world::droplet::Status;
use moorline_do_sim::{ActionFault, Fate};

use super::super::Provider as _;
use super::super::steps::{Resize, alter, resize};
use super::super::types::Change;
use super::*;

async fn scene() -> (Cloud, DropletId) {
    let cloud = Cloud::new(Setup::default());
    let id = cloud.strangers("db", &["old"]).await;
    sleep(90).await;
    (cloud, id)
}

fn to(droplet: DropletId, size: &str) -> Resize {
    Resize { droplet, size: size.to_owned(), disk: false, was_on: None }
}

/// Size and status, as they are and not as they are shown.
fn state(cloud: &Cloud, id: DropletId) -> (String, Status) {
    cloud.sim.inspect(|world| world.droplets.get(&id.0).map(|droplet| (droplet.size.clone(), droplet.status)).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_droplet_that_is_on_is_resized_and_on_again() {
    let (cloud, id) = scene().await;
    let resized = resize(&cloud.provider, &to(id, "s-2vcpu-2gb"), &cloud.first()).await.unwrap();
    assert_eq!((resized.from.as_str(), resized.was_on), ("s-1vcpu-1gb", true));
    assert_eq!(state(&cloud, id), ("s-2vcpu-2gb".to_owned(), Status::Active));
    resize(&cloud.provider, &to(id, "s-1vcpu-1gb"), &cloud.first()).await.unwrap();
    assert_eq!(state(&cloud, id), ("s-1vcpu-1gb".to_owned(), Status::Active));
}

#[tokio::test(start_paused = true)]
async fn a_droplet_that_is_off_stays_off() {
    let (cloud, id) = scene().await;
    alter::power(&cloud.provider, id, false, &cloud.first()).await.unwrap();
    sleep(300).await;
    let resized = resize(&cloud.provider, &to(id, "s-2vcpu-2gb"), &cloud.first()).await.unwrap();
    assert!(!resized.was_on);
    assert_eq!(state(&cloud, id), ("s-2vcpu-2gb".to_owned(), Status::Off));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_or_fails_is_on_again_as_it_was() {
    let (cloud, id) = scene().await;
    let error = resize(&cloud.provider, &to(id, "s-99vcpu"), &cloud.first()).await.unwrap_err();
    assert_eq!((error.fault.code, error.again), (Code::CloudRefused, false));
    assert_eq!(state(&cloud, id), ("s-1vcpu-1gb".to_owned(), Status::Active));
    cloud.faults(|faults| faults.actions.push(ActionFault { action: "resize".to_owned(), next: Some(1), then: Fate::Errored }));
    let error = resize(&cloud.provider, &to(id, "s-2vcpu-2gb"), &cloud.first()).await.unwrap_err();
    assert_eq!((error.fault.code, error.again, error.effect), (Code::CloudErrored, true, true));
    assert_eq!(state(&cloud, id), ("s-1vcpu-1gb".to_owned(), Status::Active));
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_do_not_stop_a_resize() {
    let (cloud, id) = scene().await;
    cloud.fault("POST", "/actions$", 2, Wrong::LoseReply);
    resize(&cloud.provider, &to(id, "s-2vcpu-2gb"), &cloud.first()).await.unwrap();
    assert_eq!(state(&cloud, id), ("s-2vcpu-2gb".to_owned(), Status::Active));
    assert_eq!((cloud.actions("resize"), cloud.actions("power_off")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn another_event_is_waited_out_and_has_a_code_when_it_never_ends() {
    let (cloud, id) = scene().await;
    cloud.provider.act(id, &Change::Snapshot { name: "mine".to_owned() }).await.unwrap();
    alter::rename(&cloud.provider, id, "db-2", &cloud.first()).await.unwrap();
    cloud.faults(|faults| faults.actions.push(ActionFault { action: "snapshot".to_owned(), next: None, then: Fate::NeverEnds }));
    cloud.provider.act(id, &Change::Snapshot { name: "mine".to_owned() }).await.unwrap();
    let error = alter::rename(&cloud.provider, id, "db-3", &cloud.first()).await.unwrap_err();
    assert_eq!((error.fault.code, error.again, error.effect), (Code::CloudPending, true, false));
}

#[tokio::test(start_paused = true)]
async fn switching_and_renaming_twice_is_done_once() {
    let (cloud, id) = scene().await;
    let first = cloud.first();
    for attempt in [first, cloud.again(first)] {
        alter::power(&cloud.provider, id, false, &attempt).await.unwrap();
        alter::rename(&cloud.provider, id, "db-2", &attempt).await.unwrap();
    }
    assert_eq!((cloud.actions("power_off"), cloud.actions("rename")), (1, 1));
    let error = alter::rename(&cloud.provider, id, "no_name", &first).await.unwrap_err();
    assert_eq!(error.fault.code, Code::CloudMissingInput);
}

#[tokio::test(start_paused = true)]
async fn what_was_done_and_shows_late_is_not_taken_for_a_refusal() {
    let mut setup = Setup::default();
    setup.latencies.shown = 40_000;
    let cloud = Cloud::new(setup);
    let id = cloud.strangers("db", &[]).await;
    sleep(120).await;
    let first = cloud.first();
    cloud.provider.act(id, &Change::PowerOff).await.unwrap();
    sleep(10).await;
    alter::power(&cloud.provider, id, false, &cloud.again(first)).await.unwrap();
    assert_eq!(cloud.actions("power_off"), 1);
}

#[tokio::test(start_paused = true)]
async fn tags_come_and_go_any_number_of_times() {
    let (cloud, id) = scene().await;
    let first = cloud.first();
    cloud.fault("POST", "/resources$", 1, Wrong::LoseReply);
    for attempt in [first, cloud.again(first)] {
        alter::tag(&cloud.provider, id, "team:ops", &attempt).await.unwrap();
    }
    sleep(30).await;
    assert!(cloud.provider.droplet(id).await.unwrap().has_tag("team:ops"));
    for tag in ["team:ops", "team:ops", "never-used", "old"] {
        alter::untag(&cloud.provider, id, tag, &first).await.unwrap();
    }
    assert!(cloud.provider.droplet(id).await.unwrap().tags.is_empty());
    alter::untag(&cloud.provider, DropletId(1), "old", &first).await.unwrap();
    let error = alter::tag(&cloud.provider, DropletId(1), "old", &first).await.unwrap_err();
    assert_eq!((error.fault.code, error.effect), (Code::CloudNotFound, false));
}
