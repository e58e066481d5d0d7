//! Places, turns and seats.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use futures_util::FutureExt as _;

fn resource(name: &str) -> ResourceId {
    ResourceId::parse(format!("docker/container/{name}")).unwrap()
}

/// Runs `job` when its turn comes.
fn submit<T: Send + 'static>(lanes: &Lanes, name: &str, job: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    let place = lanes.place(&resource(name)).unwrap();
    tokio::spawn(async move { place.await.unwrap().work(job).await.unwrap() })
}

#[tokio::test]
async fn nobody_comes_between_two_parts_of_the_work_at_one_seat() {
    let lanes = Lanes::new(1);
    let (a, b) = (lanes.place(&resource("a")).unwrap().await.unwrap(), lanes.place(&resource("b")).unwrap().await.unwrap());
    let order = Arc::new(Mutex::new(Vec::new()));
    let part = |what: &'static str| {
        let order = order.clone();
        async move { order.lock().unwrap().push(what) }
    };
    let seat = a.seat().await;
    seat.work(part("a prepares")).await.unwrap();
    let other = part("b");
    let other = tokio::spawn(async move { b.work(other).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    seat.work(part("a starts")).await.unwrap();
    drop(seat);
    other.await.unwrap().unwrap();
    assert_eq!(*order.lock().unwrap(), ["a prepares", "a starts", "b"]);
}

#[tokio::test]
async fn jobs_that_wait_for_a_registry_do_not_hold_up_the_others() {
    let lanes = Lanes::new(2);
    let (release, held) = tokio::sync::watch::channel(false);
    let pulls: Vec<_> = (0..8)
        .map(|n| {
            let mut held = held.clone();
            let job = async move { aside(async move { held.wait_for(|go| *go).await.is_ok() }).await };
            submit(&lanes, &format!("pull-{n}"), job)
        })
        .collect();
    let other = submit(&lanes, "other", async { 7 });
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), other).await.unwrap().unwrap(), 7);
    release.send_replace(true);
    for pull in pulls {
        assert!(pull.await.unwrap());
    }
    assert_eq!(lanes.inner.permits.available_permits(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_job_is_aside_counts_against_no_limit() {
    let (lanes, hour, day) = (Lanes::new(1), Duration::from_secs(3600), Duration::from_secs(24 * 3600));
    let patient = submit(&lanes, "a", within(hour, aside(tokio::time::sleep(day))));
    assert_eq!(patient.await.unwrap(), Some(()));
    let slow = async move {
        aside(tokio::time::sleep(day)).await;
        tokio::time::sleep(day).await;
    };
    let begun = Instant::now();
    assert_eq!(submit(&lanes, "a", within(hour, slow)).await.unwrap(), None);
    assert!(begun.elapsed() < day + 2 * hour);
}

#[tokio::test]
async fn jobs_of_one_lane_run_one_at_a_time_in_order() {
    let lanes = Lanes::new(8);
    let log = Arc::new(Mutex::new(Vec::new()));
    let jobs: Vec<_> = (0..10)
        .map(|n| {
            let log = log.clone();
            let job = async move {
                log.lock().unwrap().push(format!("begin {n}"));
                tokio::task::yield_now().await;
                log.lock().unwrap().push(format!("end {n}"));
            };
            submit(&lanes, "a", job)
        })
        .collect();
    for job in jobs {
        job.await.unwrap();
    }
    let expected: Vec<String> = (0..10).flat_map(|n| [format!("begin {n}"), format!("end {n}")]).collect();
    assert_eq!(*log.lock().unwrap(), expected);
    assert!(lanes.lock().lanes.is_empty() && lanes.lock().places == 0);
}

#[tokio::test]
async fn lanes_run_side_by_side_up_to_the_limit() {
    let lanes = Lanes::new(3);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let jobs: Vec<_> = (0..12)
        .map(|n| {
            let (running, most) = (running.clone(), most.clone());
            let job = async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
            };
            submit(&lanes, &n.to_string(), job)
        })
        .collect();
    for job in jobs {
        job.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_full_lane_says_busy_and_a_panic_does_not_stop_it() {
    let lanes = Lanes::new(1);
    let first = lanes.place(&resource("a")).unwrap().await.unwrap();
    let mut places: Vec<Place> = (0..LANE_DEPTH_MAX).map(|_| lanes.place(&resource("a")).unwrap()).collect();
    assert_eq!(lanes.place(&resource("a")).unwrap_err(), Busy { resource: resource("a") });
    assert!(lanes.place(&resource("b")).is_ok(), "one lane's crowd is not another's");
    let _again = lanes.place_again(&resource("a"));
    let panics: Result<(), Panicked> = first.work(async { panic!("on purpose") }).await;
    assert_eq!(panics, Err(Panicked));
    drop(first);
    let second = places.remove(0).await.unwrap();
    assert_eq!(second.work(async { 7 }).await, Ok(7));
}

#[tokio::test]
async fn the_host_takes_only_so_many_operations_at_once() {
    let lanes = Lanes::new(1);
    let places: Vec<Place> = (0..PLACES_MAX).map(|n| lanes.place(&resource(&(n % 1000).to_string())).unwrap()).collect();
    assert!(lanes.place(&resource("a")).is_err());
    drop(places);
    assert!(lanes.place(&resource("a")).is_ok());
}

#[tokio::test]
async fn a_turn_of_the_whole_host_waits_for_all_before_it_and_holds_up_all_after_it() {
    let lanes = Lanes::new(8);
    let (a, b) = (lanes.place(&resource("a")).unwrap().await.unwrap(), lanes.place(&resource("b")).unwrap().await.unwrap());
    let mut queued = lanes.place(&resource("a")).unwrap();
    let mut host = lanes.place(&ResourceId::host()).unwrap();
    let (mut after, mut fresh) = (lanes.place(&resource("b")).unwrap(), lanes.place(&resource("c")).unwrap());
    drop(b);
    assert!((&mut host).now_or_never().is_none() && (&mut after).now_or_never().is_none());
    drop(a);
    let queued = (&mut queued).now_or_never().unwrap().unwrap();
    assert!((&mut host).now_or_never().is_none());
    drop(queued);
    let host = (&mut host).now_or_never().unwrap().unwrap();
    assert!((&mut after).now_or_never().is_none() && (&mut fresh).now_or_never().is_none());
    assert!(matches!(lanes.slot(&resource("d")), Ok(Slot::Later(_))));
    drop(host);
    assert!((&mut after).now_or_never().is_some() && (&mut fresh).now_or_never().is_some());
}

#[tokio::test]
async fn nobody_waits_for_a_turn_of_the_whole_host_that_was_given_up() {
    let lanes = Lanes::new(8);
    let stuck = lanes.place(&resource("a")).unwrap().await.unwrap();
    let host = lanes.place(&ResourceId::host()).unwrap();
    let (mut after, mut later) = (lanes.place(&resource("b")).unwrap(), lanes.place(&ResourceId::host()).unwrap());
    assert!((&mut after).now_or_never().is_none());
    drop(host);
    let turn = (&mut after).now_or_never().unwrap();
    drop(stuck);
    assert!((&mut later).now_or_never().is_none());
    drop(turn);
    drop((&mut later).now_or_never().unwrap());
    assert_eq!(lanes.lock().places, 0);
}

/// Whether the reconciler's place comes after an operation's that waited before it.
async fn slot_keeps_its_place() -> bool {
    let lanes = Lanes::new(8);
    let op = lanes.place(&resource("a")).unwrap().await.unwrap();
    let mut before = lanes.place(&resource("a")).unwrap();
    let Ok(Slot::Later(slot)) = lanes.slot(&resource("a")) else { panic!("the lane is taken") };
    drop(op);
    let turn = (&mut before).now_or_never();
    let waits = slot.now_or_never().is_none();
    turn.is_some() && waits
}

#[tokio::test]
async fn the_reconciler_does_not_jump_the_queue() {
    assert!(slot_keeps_its_place().await);
    let _planted = crate::plant::plant("slot first");
    assert!(!slot_keeps_its_place().await, "nothing notices it");
}

#[tokio::test]
async fn the_reconciler_has_one_place_in_a_lane_and_keeps_it() {
    let lanes = Lanes::new(8);
    let Ok(Slot::Now(turn)) = lanes.slot(&resource("a")) else { panic!("the lane is free") };
    drop(turn);
    let op = lanes.place(&resource("a")).unwrap().await.unwrap();
    let Ok(Slot::Later(mut slot)) = lanes.slot(&resource("a")) else { panic!("the lane is taken") };
    assert!(matches!(lanes.slot(&resource("a")), Ok(Slot::Taken)));
    let mut behind = lanes.place(&resource("a")).unwrap();
    drop(op);
    let turn = (&mut slot).now_or_never().unwrap().unwrap();
    assert!((&mut behind).now_or_never().is_none(), "it came after the reconciler's place");
    drop(turn);
    assert!((&mut behind).now_or_never().is_some());
}

#[tokio::test]
async fn a_place_that_is_given_up_holds_up_nobody() {
    let lanes = Lanes::new(8);
    let op = lanes.place(&resource("a")).unwrap().await.unwrap();
    let (gone, mut next) = (lanes.place(&resource("a")).unwrap(), lanes.place(&resource("a")).unwrap());
    drop(gone);
    drop(op);
    assert!((&mut next).now_or_never().is_some());
}

#[tokio::test]
async fn what_operations_worked_on_during_a_look_is_known() {
    let lanes = Lanes::new(8);
    let running = lanes.place(&resource("a")).unwrap().await.unwrap();
    lanes.look_begins();
    drop(lanes.place(&resource("b")).unwrap().await.unwrap());
    drop(running);
    assert_eq!(lanes.worked(), BTreeSet::from([resource("a"), resource("b")]));
    lanes.look_begins();
    assert_eq!(lanes.worked(), BTreeSet::new());
}

#[tokio::test]
async fn the_clock_stands_apart_from_what_is_for_the_whole_host() {
    let lanes = Lanes::new(8);
    let slow = lanes.place(&resource("a")).unwrap().await.unwrap();
    let mut barrier = lanes.place(&ResourceId::host()).unwrap();
    let clock = lanes.place(&ResourceId::clock()).unwrap().now_or_never().expect("it waits for no barrier").unwrap();
    assert!((&mut barrier).now_or_never().is_none(), "the barrier waits for what came before it");
    drop(slow);
    let barrier = barrier.now_or_never().expect("it does not wait for the clock").unwrap();
    drop(clock);
    drop(lanes.place(&ResourceId::clock()).unwrap().now_or_never().expect("nor the clock for it").unwrap());
    drop(barrier);
    assert!(lanes.lock().lanes.is_empty() && lanes.lock().places == 0);
}

#[tokio::test]
async fn a_confirmation_waits_neither_for_a_barrier_nor_for_room_at_the_driver() {
    let lanes = Lanes::new(1);
    let slow = lanes.place(&resource("a")).unwrap().await.unwrap();
    let seat = slow.seat().await;
    let _barrier = lanes.place(&ResourceId::host()).unwrap();
    let turn = lanes.place(&ResourceId::trial()).unwrap().now_or_never().expect("it waits for no barrier").unwrap();
    assert!(turn.seat().now_or_never().is_some(), "all the room that there is at the driver is taken");
    drop(seat);
}
