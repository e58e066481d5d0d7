//! A changed container goes only when its successor is good: what the operator sees when it is not.

use moorline_tests::image;

use crate::setup::{EngineFleet, HOST};

fn topology(name: &str, more: &str) -> String {
    let image = image::IMAGE;
    format!(
        "topology: {name}\nhosts: {{ {HOST}: {{ docker: {{ services: {{ site: {{ image: {image}, stop_grace_period: 1s, {more} }} }} }} }} }}\n"
    )
}

#[test]
fn a_successor_that_is_never_healthy_gives_way_to_the_old_container_and_is_not_tried_again() {
    let Some(mut t) = EngineFleet::start("replaced") else { return };
    let name = t.topology();
    let site = format!("{name}-site-1");
    t.fleet.push(&topology(&name, "environment: { GREETING: one }"), &["--wait"]).unwrap().ok().unwrap();
    let before = t.containers();

    let failing = "healthcheck: { test: [CMD, /no/such/check], interval: 200ms, retries: 2 }";
    let pushed = t.fleet.push(&topology(&name, failing), &["--wait"]).unwrap();
    let (code, text) = (pushed.code, pushed.text());
    assert!(code == 1 && text.contains("rolled_back") && text.contains("its healthcheck fails"), "{code}: {text}");
    let now = t.containers();
    assert_eq!(now[&site].id, before[&site].id);
    assert!(now.len() == 1 && now[&site].running);

    // The engine's own word that nothing is stopped again: what is pushed anew in the meantime is not tried either.
    t.proxy.forget();
    let report = t.fleet.moorctl(&["status", "--output", "json"]).unwrap();
    assert!(report.text().contains("rolled_back"), "{}", report.text());
    t.fleet.push(&topology(&name, "environment: { GREETING: one }"), &["--wait"]).unwrap().ok().unwrap();
    assert_eq!((t.proxy.mutations(), t.containers()[&site].id.clone()), (vec![], before[&site].id.clone()), "it is as it was");

    let good = "environment: { GREETING: two }, deploy: { update_config: { order: start-first, monitor: 500ms } }";
    t.fleet.push(&topology(&name, good), &["--wait"]).unwrap().ok().unwrap();
    let after = t.containers();
    assert!(after.len() == 1 && after[&site].id != before[&site].id && after[&site].running, "{after:?}");
    t.fleet.stop_agent(HOST).unwrap();
}
