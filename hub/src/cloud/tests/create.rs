//! Creating droplets, waiting for them and taking them back.

use std::collections::BTreeSet;

use moorline_common::fault::Code;
use moorline_do_sim::{Birth, CreateFault};

use super::super::Provider as _;
use super::super::budgets::ACTIVE;
use super::super::steps::{Destroy, StepError, WaitActive, create, destroy, sweep, undo_create, wait_active};
use super::*;

fn code(error: &StepError) -> Code {
    error.fault.code
}

#[tokio::test(start_paused = true)]
async fn a_droplet_is_made_with_name_and_tags_and_becomes_active() {
    let cloud = Cloud::new(Setup::default());
    let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
    let wait = WaitActive { id: created.droplet.id, action: created.action };
    let active = wait_active(&cloud.provider, wait, &cloud.first()).await.unwrap();
    assert!(active.public.is_some() && created.action.is_some());
    assert_eq!(cloud.calls("POST", "/v2/droplets"), 1);
    let tags = ["managed-by-moorline".to_owned(), format!("saga:{SAGA_ID}"), format!("saga:{SAGA_ID}:0"), "web".to_owned()];
    assert_eq!(active.droplet.tags, BTreeSet::from(tags));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_makes_no_second_droplet() {
    for then in [Wrong::LoseReply, Wrong::StatusAfter(502), Wrong::Garbage, Wrong::Hang] {
        let cloud = Cloud::new(Setup::default());
        cloud.fault("POST", "^/v2/droplets$", 1, then);
        let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
        assert_eq!(cloud.living(), [created.droplet.id.0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_lost_is_sent_again_after_the_window() {
    let cloud = Cloud::new(Setup::default());
    cloud.fault("POST", "^/v2/droplets$", 1, Wrong::LoseRequest);
    let began = Instant::now();
    let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(60));
    assert_eq!(cloud.living(), [created.droplet.id.0]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_always_lost_end_and_say_that_there_may_be_one() {
    let cloud = Cloud::new(Setup::default());
    cloud.fault("POST", "^/v2/droplets$", 9, Wrong::LoseRequest);
    let error = create(&cloud.provider, &web(), &cloud.first()).await.unwrap_err();
    assert_eq!((code(&error), error.again, error.effect), (Code::CloudUnreachable, true, true));
    assert_eq!(cloud.living(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_later_try_adopts_what_an_earlier_one_made_though_listings_lag() {
    let mut setup = Setup::default();
    (setup.latencies.listed, setup.latencies.tagged, setup.latencies.found) = (40_000, 55_000, 20_000);
    let cloud = Cloud::new(setup);
    let first = cloud.first();
    let made = cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id;
    let created = create(&cloud.provider, &web(), &cloud.again(first)).await.unwrap();
    assert_eq!((created.droplet.id, cloud.living()), (made, vec![made.0]));
}

/// What the step asks for, as an earlier try did.
fn tagged() -> NewDroplet {
    let Create { mut wanted, mark, .. } = web();
    wanted.tags.extend([mark.saga_tag(), mark.step_tag()]);
    wanted
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_swept_and_the_lowest_number_stays() {
    let cloud = Cloud::new(Setup::default());
    let first = cloud.first();
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id);
    }
    sleep(30).await;
    let created = create(&cloud.provider, &web(), &cloud.again(first)).await.unwrap();
    assert_eq!((created.droplet.id, cloud.living()), (made[0], vec![made[0].0]));
    assert_eq!(created.swept, made[1..].iter().copied().collect());
    assert_eq!(cloud.sim.inspect(|world| world.deleted_by_tag.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_arrives_after_the_window_is_swept_before_the_step_ends() {
    let cloud = Cloud::new(Setup::default());
    cloud.fault("POST", "^/v2/droplets$", 1, Wrong::DelayMs(130_000));
    let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
    sleep(200).await;
    assert_eq!(cloud.living(), [created.droplet.id.0]);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_never_adopted_though_it_lingers() {
    let mut setup = Setup::default();
    setup.latencies.remains = 600_000;
    let cloud = Cloud::new(setup);
    cloud.faults(|faults| faults.lingers = true);
    let first = cloud.first();
    let gone = cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id;
    sleep(30).await;
    cloud.provider.delete_droplet(gone).await.unwrap();
    let input = Create { deleted: [gone].into(), ..web() };
    let created = create(&cloud.provider, &input, &cloud.again(first)).await.unwrap();
    assert_ne!(created.droplet.id, gone);
    assert_eq!(cloud.living(), [created.droplet.id.0]);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_and_is_not_found_is_not_adopted_though_nobody_remembers_it() {
    let cloud = Cloud::new(Setup::default());
    cloud.faults(|faults| faults.lingers = true);
    let first = cloud.first();
    let gone = cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id;
    sleep(30).await;
    cloud.provider.delete_droplet(gone).await.unwrap();
    let created = create(&cloud.provider, &web(), &cloud.again(first)).await.unwrap();
    assert_ne!(created.droplet.id, gone);
}

#[tokio::test(start_paused = true)]
async fn a_strangers_droplet_of_the_same_name_is_left_alone() {
    let cloud = Cloud::new(Setup::default());
    let stranger = cloud.strangers("web-1", &["web"]).await;
    let other = cloud.strangers("web-1", &["saga:another", "saga:another:0"]).await;
    sleep(300).await;
    let first = cloud.first();
    cloud.fault("POST", "^/v2/droplets$", 1, Wrong::LoseReply);
    let created = create(&cloud.provider, &web(), &first).await.unwrap();
    assert_eq!(cloud.living(), [stranger.0, other.0, created.droplet.id.0]);
    undo_create(&cloud.provider, &web(), None, &cloud.again(first)).await.unwrap();
    assert_eq!(cloud.living(), [stranger.0, other.0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_may_be_anybodys_is_neither_adopted_nor_deleted_nor_doubled() {
    let cloud = Cloud::new(Setup::default());
    let first = cloud.first();
    let stranger = cloud.strangers("web-1", &["web"]).await;
    let error = create(&cloud.provider, &web(), &cloud.again(first)).await.unwrap_err();
    assert_eq!((code(&error), error.again, error.effect), (Code::CloudDoubtful, true, true));
    assert!(error.fault.message.contains(&stranger.to_string()), "{error}");
    let error = undo_create(&cloud.provider, &web(), None, &cloud.again(first)).await.unwrap_err();
    assert_eq!((code(&error), cloud.living()), (Code::CloudDoubtful, vec![stranger.0]));
    cloud.provider.delete_droplet(stranger).await.unwrap();
    sleep(30).await;
    undo_create(&cloud.provider, &web(), None, &cloud.again(first)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undoing_finds_everything_that_bears_tag_and_name() {
    let cloud = Cloud::new(Setup::default());
    let first = cloud.first();
    for _ in 0..2 {
        cloud.provider.create_droplet(&tagged()).await.unwrap();
    }
    let known = DropletId(cloud.living()[0]);
    let gone = undo_create(&cloud.provider, &web(), None, &cloud.again(first)).await.unwrap();
    assert_eq!((gone.len(), cloud.living().len()), (2, 0));
    // Twice is as good as once, and nothing is as good as something.
    undo_create(&cloud.provider, &web(), Some(known), &cloud.again(first)).await.unwrap();
    undo_create(&Cloud::new(Setup::default()).provider, &web(), None, &cloud.again(first)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named_before_anything_is_sent() {
    let cloud = Cloud::new(Setup::default());
    let check = async |change: &dyn Fn(&mut NewDroplet)| {
        let mut input = web();
        change(&mut input.wanted);
        let error = create(&cloud.provider, &input, &cloud.first()).await.unwrap_err();
        assert_eq!((code(&error), error.again, error.effect), (Code::CloudMissingInput, false, false));
        error.fault.message
    };
    let all = check(&|wanted| *wanted = NewDroplet::default()).await;
    assert!(["name", "region", "size", "image"].iter().all(|key| all.contains(key)), "{all}");
    check(&|wanted| wanted.name = "web_1".to_owned()).await;
    check(&|wanted| {
        wanted.tags.insert("two words".to_owned());
    })
    .await;
    check(&|wanted| wanted.size = "gpu-h100x1-80gb".to_owned()).await;
    let words = check(&|wanted| wanted.user_data = Some(Secret::new("hüsh".to_owned()))).await;
    assert!(!words.contains("hüsh"), "{words}");
    assert_eq!(cloud.calls("", ""), 0);
    assert!(cloud.wire.hosts.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_no_effect_and_is_not_tried_again() {
    let cloud = Cloud::new(Setup::default());
    let mut input = web();
    input.wanted.size = "s-99vcpu".to_owned();
    let error = create(&cloud.provider, &input, &cloud.first()).await.unwrap_err();
    assert_eq!((code(&error), error.again, error.effect), (Code::CloudRefused, false, false));
}

async fn wait_for(birth: Birth) -> (Result<(), StepError>, Cloud) {
    let cloud = Cloud::new(Setup::default());
    cloud.faults(|faults| faults.creates.push(CreateFault { name: String::new(), next: None, then: birth }));
    let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
    let wait = WaitActive { id: created.droplet.id, action: created.action };
    let ended = wait_active(&cloud.provider, wait, &cloud.first()).await.map(drop);
    (ended, cloud)
}

#[tokio::test(start_paused = true)]
async fn one_that_never_becomes_active_ends_in_its_time() {
    let began = Instant::now();
    let (ended, _) = wait_for(Birth::NeverActive).await;
    assert_eq!(code(&ended.unwrap_err()), Code::CloudTimeout);
    assert!(began.elapsed() >= ACTIVE.every * (ACTIVE.looks - 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_failed_or_vanished_is_told_from_one_that_is_late() {
    let (errored, _) = wait_for(Birth::Errored).await;
    assert_eq!(code(&errored.unwrap_err()), Code::CloudErrored);
    let (vanished, cloud) = wait_for(Birth::VanishesAfterMs(40_000)).await;
    let error = vanished.unwrap_err();
    assert_eq!((code(&error), error.again), (Code::CloudVanished, false));
    assert_eq!(cloud.living(), [0; 0]);
    let (late, _) = wait_for(Birth::ActiveAfterMs(400_000)).await;
    late.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_404_just_after_its_creation_proves_nothing() {
    let mut setup = Setup::default();
    setup.latencies.found = 45_000;
    let cloud = Cloud::new(setup);
    let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
    cloud.fault("GET", "^/v2/droplets/", 3, Wrong::StatusBefore(404));
    let wait = WaitActive { id: created.droplet.id, action: None };
    wait_active(&cloud.provider, wait, &cloud.first()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deleting_is_by_number_and_trusts_the_answer() {
    let cloud = Cloud::new(Setup::default());
    let id = cloud.strangers("x", &[]).await;
    sleep(100).await;
    cloud.faults(|faults| faults.lingers = true);
    let input = Destroy { id, created_at: None };
    destroy(&cloud.provider, input, &cloud.first()).await.unwrap();
    destroy(&cloud.provider, input, &cloud.first()).await.unwrap();
    assert_eq!(cloud.living(), [0; 0]);
    assert_eq!((cloud.calls("GET", ""), cloud.calls("DELETE", "/v2/droplets")), (0, 2));
    assert_eq!(cloud.sim.inspect(|world| world.deleted_by_tag.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_young_droplet_that_is_not_found_is_deleted_nevertheless() {
    let mut setup = Setup::default();
    setup.latencies.undeletable = 20_000;
    let cloud = Cloud::new(setup);
    let first = cloud.first();
    let created = create(&cloud.provider, &web(), &first).await.unwrap();
    let input = Destroy { id: created.droplet.id, created_at: Some(created.droplet.created_at) };
    destroy(&cloud.provider, input, &first).await.unwrap();
    assert_eq!(cloud.living(), [0; 0]);
    // And where nobody knows when it was made, by the step's own time.
    let created = create(&cloud.provider, &web(), &cloud.first()).await.unwrap();
    undo_create(&cloud.provider, &web(), Some(created.droplet.id), &cloud.first()).await.unwrap();
    assert_eq!(cloud.living(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn deleting_waits_until_another_event_is_over() {
    let cloud = Cloud::new(Setup::default());
    let id = cloud.strangers("x", &[]).await;
    sleep(60).await;
    cloud.provider.act(id, &super::super::Change::PowerOff).await.unwrap();
    destroy(&cloud.provider, Destroy { id, created_at: None }, &cloud.first()).await.unwrap();
    assert_eq!(cloud.living(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_is_away_is_waited_for_within_the_window() {
    let cloud = Cloud::new(Setup::default());
    let first = cloud.first();
    let made = cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id;
    cloud.faults(|faults| faults.unreachable = true);
    let error = create(&cloud.provider, &web(), &cloud.again(first)).await.unwrap_err();
    assert_eq!((code(&error), error.again, error.effect), (Code::CloudUnreachable, true, true));
    cloud.faults(|faults| faults.unreachable = false);
    let created = create(&cloud.provider, &web(), &cloud.again(first)).await.unwrap();
    assert_eq!((created.droplet.id, cloud.living()), (made, vec![made.0]));
}

#[tokio::test(start_paused = true)]
async fn a_steps_own_time_ends_it_and_it_may_have_had_an_effect() {
    let cloud = Cloud::new(Setup::default());
    cloud.fault("POST", "", 1, Wrong::Hang);
    let short = Attempt { deadline: Instant::now() + Duration::from_secs(10), ..cloud.first() };
    let error = create(&cloud.provider, &web(), &short).await.unwrap_err();
    assert_eq!((code(&error), error.again, error.effect), (Code::CloudTimeout, true, true));
}

#[tokio::test(start_paused = true)]
async fn what_comes_long_after_is_swept_and_the_one_that_is_kept_stays() {
    let cloud = Cloud::new(Setup::default());
    let first = cloud.first();
    let early = cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id;
    let kept = cloud.provider.create_droplet(&tagged()).await.unwrap().droplet.id;
    let stranger = cloud.strangers("web-1", &[]).await;
    sleep(30).await;
    let gone = sweep(&cloud.provider, &web(), kept, &cloud.again(first)).await.unwrap();
    assert_eq!((gone, cloud.living()), ([early].into(), vec![kept.0, stranger.0]));
    assert!(sweep(&cloud.provider, &web(), kept, &cloud.again(first)).await.unwrap().len() < 2);
    assert_eq!(cloud.living(), [kept.0, stranger.0]);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_try_may_have_done_is_not_forgotten_when_a_later_one_is_refused() {
    let cloud = Cloud::new(Setup::default());
    let mut input = web();
    input.wanted.size = "s-99vcpu".to_owned();
    let error = create(&cloud.provider, &input, &cloud.again(cloud.first())).await.unwrap_err();
    assert_eq!((code(&error), error.again, error.effect), (Code::CloudRefused, false, true));
}
