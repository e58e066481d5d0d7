//! Watching a guest.

use moorline_common::fault::Code;
use moorline_pve_sim::world::faults::{CallFault, Wrong};
use moorline_pve_sim::world::guest::Kind;
use moorline_pve_sim::world::hand::Hand;

use super::ops::{MACHINE, setup};
use super::*;

/// Orders a check; `meanwhile` happens so many seconds later each.
async fn check<const N: usize>(bench: &Bench, number: u32, params: Value, meanwhile: [(u64, Hand); N]) -> (OpResult, Duration) {
    let began = tokio::time::Instant::now();
    let by_hand = async {
        for (at_s, hand) in meanwhile {
            tokio::time::sleep_until(began + Duration::from_millis(at_s * 1000 + 500)).await;
            bench.sim.hand(&hand).unwrap();
        }
    };
    let order = order(number, "check", params, 1);
    let ((result, took), ()) = tokio::join!(
        async {
            let result = bench.order(&order).await.unwrap();
            (result, began.elapsed())
        },
        by_hand
    );
    (result, took)
}

fn with_agent() -> Setup {
    Setup::two_nodes().with_guest(Kind::Qemu, 101, true, &[MACHINE, &[("agent", "1")]].concat())
}

fn usual() -> Value {
    json!({ "for_s": 30, "timeout_s": 300 })
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_well_once_it_was_seen_to_run_for_long_enough_and_nothing_is_changed() {
    let bench = Bench::new(setup(true));
    for number in [101, 205] {
        let (result, took) = check(&bench, number, usual(), []).await;
        assert_eq!((result.fault, &result.result["agent"]), (None, &json!(false)), "{number}");
        assert!((30..40).contains(&took.as_secs()) && result.result["uptime_s"].is_u64(), "{took:?}");
        let (result, took) = check(&bench, number, json!({ "for_s": 0, "timeout_s": 1 }), []).await;
        assert!(result.fault.is_none() && took < Duration::from_secs(1), "{result:?} {took:?}");
    }
    assert_eq!(bench.changes(), 0);
    let started = check(&Bench::new(setup(false)), 101, usual(), [(60, Hand::Start { vmid: 101 })]).await;
    assert!(started.0.fault.is_none() && (90..100).contains(&started.1.as_secs()), "{started:?}");
}

#[tokio::test(start_paused = true)]
async fn a_break_between_two_looks_is_noticed_by_how_long_it_runs() {
    let again = [(20, Hand::Stop { vmid: 101 }), (20, Hand::Start { vmid: 101 })];
    let (result, took) = check(&Bench::new(setup(true)), 101, usual(), again).await;
    assert!(result.fault.is_none() && (50..60).contains(&took.as_secs()), "{result:?} {took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_run_in_time_or_is_another_one_by_then_fails_with_a_code_of_its_own() {
    let config = MACHINE.iter().map(|(key, value)| ((*key).to_owned(), value.replace("6e3c4af2", "11111111"))).collect();
    for (hand, code, says) in [
        (Hand::Stop { vmid: 101 }, Code::NotHealthy, "it does not run"),
        (Hand::Destroy { vmid: 101 }, Code::NotFound, "it is gone"),
        (Hand::Recreate { vmid: 101, config }, Code::IncarnationChanged, "another one"),
        (Hand::Move { vmid: 101, node: "pve-2".to_owned() }, Code::NotHealthy, "on the node pve-2"),
    ] {
        let bench = Bench::new(setup(true));
        let (result, took) = check(&bench, 101, usual(), [(10, hand)]).await;
        let fault = result.fault.unwrap();
        assert!(fault.code == code && fault.message.contains(says), "{fault}");
        assert!(took <= Duration::from_secs(300) && bench.changes() == 0);
    }
    let bench = Bench::new(setup(true));
    assert_eq!(bench.order(&order(101, "suspend", json!({}), 2)).await.unwrap().fault, None);
    let (result, _) = check(&bench, 101, usual(), []).await;
    assert!(result.fault.unwrap().message.contains("it is frozen"));
    let short = check(
        &Bench::new(setup(true)),
        101,
        json!({ "for_s": 30, "timeout_s": 40 }),
        [(20, Hand::Stop { vmid: 101 }), (21, Hand::Start { vmid: 101 })],
    )
    .await;
    let fault = short.0.fault.unwrap();
    assert!(fault.code == Code::NotHealthy && fault.message.contains("s of 30"), "{fault}");
    let refused = Bench::new(setup(true)).order(&order(999, "check", usual(), 1)).await.unwrap_err();
    assert_eq!(refused.code, Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn the_guest_agent_of_a_machine_that_has_one_must_answer_where_the_token_may_ask_it() {
    let bench = Bench::new(with_agent());
    assert_eq!(check(&bench, 101, usual(), []).await.0.result["agent"], true);
    bench.sim.change(|world| world.faults.mute.insert(101));
    let fault = check(&bench, 101, usual(), []).await.0.fault.unwrap();
    assert!(fault.code == Code::NotHealthy && fault.message.contains("its guest agent does not answer"), "{fault}");
    let forbidden = CallFault { method: None, path: "/agent/ping$".to_owned(), next: None, then: Wrong::StatusBefore(403) };
    bench.sim.change(|world| world.faults.calls.push(forbidden));
    let (result, _) = check(&bench, 101, usual(), []).await;
    assert_eq!((result.fault, &result.result["agent"]), (None, &json!(false)));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_away_says_nothing_of_its_guest() {
    let bench = Bench::new(setup(true));
    let order = order(101, "check", usual(), 1);
    let evidence = bench.driver.prepare(&order).await.unwrap();
    let Begun::Task(task) = bench.driver.start(&order, &evidence).await.unwrap() else { panic!() };
    for (back_s, code) in [(20, None), (3000, Some(Code::EngineUnreachable))] {
        bench.sim.change(|world| world.faults.unreachable = false);
        let away = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            bench.sim.change(|world| world.faults.unreachable = true);
            tokio::time::sleep(Duration::from_secs(back_s)).await;
            bench.sim.change(|world| world.faults.unreachable = false);
        };
        let (ended, ()) = tokio::join!(bench.driver.resume(&order, &evidence, &task, Taker::nobody()), away);
        assert_eq!(ended.unwrap().done().fault.map(|fault| fault.code), code);
    }
}
