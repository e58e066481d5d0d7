//! Orders that wait for their turn and have it; what they hold.

use moorline_common::observe::Owner;
use moorline_common::plan::guest::note_key;
use moorline_common::pve::Vmid;

use super::*;

#[tokio::test]
async fn what_is_refused_at_its_turn_is_told_as_refused_until_the_hub_has_heard() {
    let bench = Bench::new().await;
    bench.driver.with(|fake| fake.fail.insert("edge-web-1".to_owned(), DriverErrorKind::Permanent));
    let refused = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&refused, State::Cancelled).await;
    let receipt = bench.receipt(&refused);
    assert_eq!((receipt.outcome, receipt.fault.unwrap().code), (Outcome::Refused, Code::StepFailed));
    bench.misheard(&refused, "cancelled").await;
    bench.heard(&refused, "refused").await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waits_past_its_last_moment_ends_before_its_turn() {
    let _clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    let _turn = bench.in_the_way(WEB).await;
    let late = bench.accepted("restart", WEB, |o| o.expires_at = o.not_before.plus(10)).await;
    bench.reached(&late, State::Expired).await;
    assert_eq!(bench.receipt(&late).fault.unwrap().code, Code::Expired);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_its_order_waits_no_longer_counts() {
    let mut bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let waiting = bench.accepted("restart", WEB, |_| {}).await;
    let key = bench.operator.key.id();
    let next = bench.operator.next_root(|root| root.revoked = [key].into());
    bench.intake.root(next).await.unwrap();
    drop(turn);
    bench.reached(&waiting, State::Cancelled).await;
    let receipt = bench.receipt(&waiting);
    assert_eq!(receipt.outcome, Outcome::Refused, "nobody has taken it back");
    assert!(matches!(receipt.fault.unwrap().code, Code::RevokedKey | Code::NotApproved));
    assert_eq!(bench.effects(), Vec::<String>::new());
}

#[tokio::test]
async fn a_time_reset_sets_the_floor_and_outdates_what_was_signed_before() {
    let bench = Bench::new().await;
    let ledger = crate::ledger::Ledger::new(bench.db.clone());
    let now = crate::clock::Clock.wall();
    let far = crate::clock::BootTime { wall: UnixSeconds(now.0 + 3000 * 86400), ..crate::clock::Clock.boot() };
    ledger.advance_time_floor(far.wall, &far).unwrap();
    let (early, _) = bench.order("start", WEB, |o| o.not_before = UnixSeconds(now.0 - 10));
    assert_eq!(bench.refused(&bench.order("kill", WEB, |o| o.params = json!({ "signal": "SIGKILL" })).0).await, Code::ClockUnsound);
    let reset = bench.accepted("time-reset", "host", |_| {}).await;
    bench.reached(&reset, State::Succeeded).await;
    let floor = ledger.time_floor().unwrap().now(&crate::clock::Clock.boot());
    assert!(floor.0.abs_diff(now.0) < 60, "{floor:?}");
    let kill = bench.accepted("kill", WEB, |o| {
        o.params = json!({ "signal": "SIGKILL" });
        o.not_before = o.not_before.plus(1);
    });
    let kill = kill.await;
    bench.reached(&kill, State::Succeeded).await;
    assert_eq!(bench.refused(&early).await, Code::Expired);
}

#[tokio::test]
async fn what_is_recorded_as_begun_waits_for_no_other_before_it_begins() {
    let mut bench = Bench::new().await;
    bench.stop().await;
    bench.seats = 1;
    bench.start().await;
    bench.driver.hang_ops(true);
    let turns = [bench.in_the_way(WEB).await, bench.in_the_way(DB).await];
    let orders = [bench.accepted("restart", WEB, |_| {}).await, bench.accepted("restart", DB, |_| {}).await];
    bench.journal.delay(300);
    drop(turns);
    bench.driver.op_begun().await;
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    let begun = orders.iter().filter(|id| bench.state(id) == Some(State::Started)).count();
    assert_eq!((begun, bench.effects().len()), (1, 1), "the other one has not begun, and does not look so");
    bench.driver.hang_ops(false);
    for id in &orders {
        bench.reached(id, State::Succeeded).await;
    }
}

#[tokio::test]
async fn a_stopped_container_stays_stopped_until_other_content_or_a_release() {
    let mut bench = Bench::new().await;
    let stop = async |bench: &Bench| {
        bench.driver.with(|fake| {
            fake.op_at_begin = Some(Box::new(|fake| {
                fake.engine.containers.get_mut("edge-web-1").unwrap().state = moorline_common::observe::ContainerState::Exited;
            }))
        });
        let id = bench.accepted("stop", WEB, |_| {}).await;
        bench.reached(&id, State::Succeeded).await;
        bench.driver.with(|fake| fake.op_at_begin = None);
        let held = id.clone();
        until(&mut bench.agent().state.clone(), "held", |s| s.apply.held.iter().any(|h| h.op_id == held) && s.settled_push.is_some()).await;
        id
    };
    let is_running = |bench: &Bench| bench.driver.with(|fake| fake.engine.containers["edge-web-1"].state.is_present());
    stop(&bench).await;
    assert!(!is_running(&bench));
    bench.stop().await;
    bench.start().await;
    let pushes = bench.intake.target().borrow().pushes;
    until(&mut bench.agent().state.clone(), "settled", |s| s.settled_push == Some(pushes) && !s.apply.held.is_empty()).await;
    assert!(!is_running(&bench), "nor does a restart undo it");
    let release = bench.accepted("release", WEB, |_| {}).await;
    bench.reached(&release, State::Succeeded).await;
    until(&mut bench.agent().state.clone(), "healed", |s| s.apply.held.is_empty() && s.settled_push.is_some() && is_running(&bench)).await;

    stop(&bench).await;
    bench.slice(2).await;
    assert!(!is_running(&bench), "what is merely signed anew orders nothing new");
    bench.die().await;
    bench.start().await;
    bench.slice(2).await;
    bench.slice(3).await;
    assert!(!is_running(&bench), "nor does a restart in between forget it");
    bench.slice_with(4, "other").await;
    assert!(is_running(&bench), "other content counts more");
    bench.driver.kill("edge-web-1");
    bench.slice(5).await;
    until(&mut bench.agent().state.clone(), "healed", |s| s.apply.held.is_empty() && is_running(&bench)).await;
}

#[tokio::test]
async fn converge_makes_one_resource_as_the_slice_says_and_lifts_its_hold() {
    let bench = Bench::new().await;
    bench.driver.with(|fake| {
        fake.op_at_begin = Some(Box::new(|fake| {
            fake.engine.containers.remove("edge-web-1");
        }))
    });
    let destroy = bench.accepted("destroy", WEB, |_| {}).await;
    bench.reached(&destroy, State::Succeeded).await;
    bench.driver.with(|fake| fake.op_at_begin = None);
    until(&mut bench.agent().state.clone(), "held", |s| !s.apply.held.is_empty() && !s.observed.containers.contains_key("edge-web-1"))
        .await;
    let converge = bench.accepted("converge", WEB, |_| {}).await;
    bench.reached(&converge, State::Succeeded).await;
    assert_eq!(bench.receipt(&converge).result, json!({ "steps": 1 }));
    until(&mut bench.agent().state.clone(), "released", |s| s.apply.held.is_empty() && s.observed.containers.contains_key("edge-web-1"))
        .await;
}

#[tokio::test]
async fn a_time_reset_waits_for_no_operation_in_doubt() {
    let bench = Bench::new().await;
    bench.driver.with(|fake| fake.found.insert("edge-web-1".to_owned(), Found::Unknown("nobody can tell".to_owned())));
    bench.driver.with(|fake| fake.lose_answer = true);
    let lost = bench.accepted("restart", WEB, |_| {}).await;
    bench.reached(&lost, State::Indeterminate).await;
    let reset = bench.accepted("time-reset", "host", |_| {}).await;
    bench.reached(&reset, State::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_far_ahead_ends_nothing_that_was_accepted() {
    let clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    let turn = bench.in_the_way(WEB).await;
    let kill = |order: &mut OpStatement| order.params = json!({ "signal": "SIGKILL" });
    let (now, disrupting, plain) = (Clock.wall(), bench.accepted("kill", WEB, kill).await, bench.accepted("start", DB, |_| {}).await);
    bench.reached(&plain, State::Succeeded).await;
    clocks.set_wall(now.plus(3000 * 86_400));
    let plain = bench.accepted("stop", DB, |o| (o.not_before, o.expires_at) = (now, now.plus(900))).await;
    bench.reached(&plain, State::Succeeded).await;
    drop(turn);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((bench.state(&disrupting), bench.effects().len()), (Some(State::Queued), 2), "it waits for the clock");
    clocks.set_wall(now.plus(130));
    bench.reached(&disrupting, State::Succeeded).await;

    clocks.set_wall(now.plus(3000 * 86_400));
    let late = bench.order("kill", WEB, |order| {
        kill(order);
        (order.not_before, order.expires_at) = (now.plus(130), now.plus(1000));
    });
    assert_eq!(bench.refused(&late.0).await, Code::ClockUnsound);
}

#[tokio::test(start_paused = true)]
async fn a_root_that_expires_while_an_order_waits_ends_it() {
    let _clocks = set::Clocks::new(Clock.wall());
    let expires = Clock.wall().plus(100);
    let bench = Bench::under(|root| root.expires = expires, Policy::default()).await;
    let turn = bench.in_the_way(WEB).await;
    let waiting = bench.accepted("restart", WEB, |_| {}).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    drop(turn);
    bench.reached(&waiting, State::Cancelled).await;
    assert_eq!((bench.receipt(&waiting).fault.unwrap().code, bench.effects().len()), (Code::RootExpired, 0));
}

#[tokio::test]
async fn an_order_that_expires_while_the_engine_is_asked_does_not_begin() {
    let bench = Bench::new().await;
    let (ledger, now) = (crate::ledger::Ledger::new(bench.db.clone()), Clock.wall());
    bench.driver.with(|fake| {
        fake.at_prepare = Some(Box::new(move || ledger.advance_time_floor(now.plus(600), &Clock.boot()).unwrap()));
    });
    let late = bench.accepted("restart", WEB, |o| o.expires_at = now.plus(300)).await;
    bench.reached(&late, State::Expired).await;
    assert_eq!(bench.effects().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_while_an_order_is_being_recorded_is_asked_again() {
    let _clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    bench.driver.with(|fake| fake.unreachable = true);
    bench.journal.delay(10_000);
    let (json, id) = bench.order("restart", WEB, |_| {});
    let ops = bench.agent().ops.clone();
    let taken = tokio::spawn(async move { ops.take(json, None).await });
    for _ in 0..10 {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert!(!taken.is_finished() && bench.driver.with(|fake| fake.prepared) > 0, "it has been looked at before it is on record");
    bench.driver.with(|fake| fake.unreachable = false);
    bench.journal.delay(0);
    assert_eq!(taken.await.unwrap(), Some(Answer::Known(id.clone())));
    bench.reached(&id, State::Succeeded).await;
}

#[tokio::test]
async fn a_time_reset_kills_what_expired_while_it_was_on_its_way() {
    let clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    let ledger = crate::ledger::Ledger::new(bench.db.clone());
    let now = Clock.wall();
    ledger.advance_time_floor(now.plus(86_000), &Clock.boot()).unwrap();
    let reset = bench.order("time-reset", "host", |_| {});
    clocks.set_wall(now.plus(800));
    assert_eq!(bench.take(&reset.0).await, Answer::Known(reset.1.clone()));
    bench.reached(&reset.1, State::Succeeded).await;
    let over = |order: &mut OpStatement| (order.not_before, order.expires_at) = (now.plus(10), now.plus(100));
    clocks.set_wall(now.plus(50));
    assert_eq!(bench.refused(&bench.order("restart", WEB, over).0).await, Code::Expired, "it was over when the time was set");
}

#[tokio::test]
async fn a_time_reset_waits_for_nothing_that_is_for_the_whole_host() {
    let bench = Bench::new().await;
    let _turn = bench.in_the_way(WEB).await;
    let prune = bench.accepted("prune", "host", |_| {}).await;
    let reset = bench.accepted("time-reset", "host", |_| {}).await;
    bench.reached(&reset, State::Succeeded).await;
    assert_eq!(bench.state(&prune), Some(State::Queued));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_wrong_clock_waits_no_longer_than_its_time() {
    let clocks = set::Clocks::new(Clock.wall());
    let bench = Bench::new().await;
    let _turn = bench.in_the_way(WEB).await;
    let prune = bench.accepted("prune", "host", |_| {}).await;
    let behind = bench.accepted("restart", DB, |o| o.expires_at = o.expires_at.plus(3600)).await;
    clocks.set_wall(Clock.wall().plus(3000 * 86_400));
    assert_eq!(bench.state(&behind), Some(State::Queued));
    tokio::time::sleep(Duration::from_secs(1000)).await;
    bench.reached(&prune, State::Cancelled).await;
    assert_eq!(bench.receipt(&prune).fault.unwrap().code, Code::ClockUnsound);
    bench.reached(&behind, State::Succeeded).await;
}

#[tokio::test]
async fn a_password_that_an_operation_may_have_changed_counts_as_not_written() {
    let bench = Bench::new().await;
    let ledger = crate::ledger::Ledger::new(bench.db.clone());
    let vmid = Vmid::parse("101").unwrap();
    let key = note_key(vmid);
    let hidden = Some("the hash of what was written".to_owned());
    let owner =
        Owner { topology: "edge".to_owned(), resource: vmid.resource(), spec: String::new(), base: String::new(), adopted: false, hidden };
    let set = |key: &'static str, text: &'static str| json!({ "type": "qemu", "set": { key: text } });
    for (params, is_kept) in [(set("onboot", "1"), true), (set("cipassword", "$6$salt$hash"), false)] {
        ledger.note(&key, &owner).unwrap();
        bench.driver.known().note(key.clone(), owner.clone());
        let id = bench.accepted("set-config", "pve/guest/101", |o| o.params = params).await;
        bench.reached(&id, State::Succeeded).await;
        let noted = ledger.notes().unwrap().into_iter().find(|(name, _)| *name == key).unwrap().1;
        assert_eq!(bench.driver.known().owner(&key), Some(noted.clone()));
        assert_eq!(noted.hidden.is_some(), is_kept);
    }
}
