//! What is healed, what is left to an operator, and what of that survives a restart.

use super::*;

fn with_policy(names: &[&str], policy: Value) -> Value {
    let mut content = services(names, false);
    content["policy"] = policy;
    content
}

fn rows(state: &HostState) -> Vec<String> {
    state.apply.drift.iter().map(|d| format!("{} {}: {} -> {}", d.resource.name(), d.field, d.expected, d.actual)).collect()
}

/// Somebody pauses a container.
fn pause(driver: &FakeDriver, name: &str) {
    driver.by_hand(|engine| engine.containers.get_mut(name).unwrap().state = ContainerState::Paused);
}

#[tokio::test]
async fn in_inbox_nothing_is_done_about_what_somebody_did_also_after_a_restart() {
    let mut bench = Bench::new().await;
    let inbox = || with_policy(&["db", "web"], json!({ "drift": "inbox" }));
    bench.apply(1, inbox()).await;
    let calls = bench.driver.calls();
    bench.driver.kill("edge-web-1");
    bench.driver.by_hand(|engine| drop(engine.containers.remove("edge-db-1")));
    let expected = ["edge-db-1 presence: present -> missing", "edge-web-1 state: running -> exited (137)"];
    let state = until(&mut bench.state, "both are told", |s| s.apply.drift.len() == 2).await;
    assert_eq!(rows(&state), expected);
    bench.look().await;
    assert!(bench.driver.calls() == calls && bench.troubles().is_empty());

    bench.stop.cancel();
    (&mut bench.task).await.unwrap().unwrap();
    bench.intake = bench.operator.intake(&Db::open(bench.dir.path()).unwrap());
    let (handle, _stop, _task) = start(&bench.driver, bench.journal.clone(), &bench.ledger, &bench.intake);
    bench.state = handle.state();
    bench.push(1, inbox()).await;
    let state = bench.settled().await;
    assert_eq!((rows(&state), bench.driver.calls()), (expected.map(str::to_owned).to_vec(), calls.clone()));

    // Other content is made, and what it says as before is left as it is.
    bench.push(2, with_policy(&["db", "new", "web"], json!({ "drift": "inbox" }))).await;
    let state = bench.settled().await;
    assert_eq!(rows(&state), expected);
    assert_eq!(bench.driver.calls().len(), calls.len() + 1, "{:?}", bench.driver.calls());
}

#[tokio::test]
async fn what_somebody_undoes_again_and_again_is_left_to_an_operator_unless_the_policy_says_otherwise() {
    for (policy, breaks) in [(json!({ "drift": "heal" }), true), (json!({ "drift": "heal", "loop_breaker": false }), false)] {
        let mut bench = Bench::new().await;
        bench.apply(1, with_policy(&["web"], policy)).await;
        let runs = |driver: &FakeDriver| driver.with(|fake| fake.engine.containers["edge-web-1"].state) == ContainerState::Running;
        for _ in 0..3 {
            pause(&bench.driver, "edge-web-1");
            while !runs(&bench.driver) {
                bench.look().await;
            }
        }
        pause(&bench.driver, "edge-web-1");
        if breaks {
            until(&mut bench.state, "it is left", |s| s.apply.drift.len() == 1).await;
            bench.look().await;
            assert!(!runs(&bench.driver));
            assert_eq!(rows(&bench.state.borrow()), ["edge-web-1 state: running -> paused"]);
            // It is as wanted again: the next time it is healed.
            bench.driver.by_hand(|engine| engine.containers.get_mut("edge-web-1").unwrap().state = ContainerState::Running);
            until(&mut bench.state, "it is as wanted", |s| s.apply.drift.is_empty()).await;
            pause(&bench.driver, "edge-web-1");
        }
        while !runs(&bench.driver) {
            bench.look().await;
        }
    }
}
