//! A changed container goes only when its successor is good: what the operator sees when it is not.

use moorline_tests::image;
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;

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

/// What of a container can be changed while it runs.
fn changeable(t: &EngineFleet, id: &str) -> (String, Vec<String>, i64, String) {
    let live = t.engine.block_on(t.engine.docker().inspect_container(id, None)).unwrap();
    let host = live.host_config.unwrap_or_default();
    let mut networks: Vec<String> = live.network_settings.and_then(|s| s.networks).unwrap_or_default().into_keys().collect();
    networks.sort();
    // Nothing and "no" are one policy.
    let restart =
        host.restart_policy.and_then(|policy| policy.name).map(|name| name.to_string()).filter(|name| name != "no").unwrap_or_default();
    (live.id.unwrap_or_default(), networks, host.memory.unwrap_or_default(), restart)
}

#[test]
fn a_change_that_was_cut_short_leaves_nothing_behind_when_it_is_taken_back() {
    let Some(mut t) = EngineFleet::start("halfway") else { return };
    let name = t.topology();
    let content = |site: &str| {
        let image = image::IMAGE;
        format!(
            "topology: {name}
hosts: {{ {HOST}: {{ docker: {{ networks: {{ front: {{}}, back: {{ internal: true }} }}, services: {{
  keeper: {{ image: {image}, networks: [back], stop_grace_period: 1s }},
  site: {{ image: {image}, stop_grace_period: 1s, {site} }} }} }} }} }}
"
        )
    };
    let first = content("networks: [front]");
    t.fleet.push(&first, &["--wait"]).unwrap().ok().unwrap();
    let id = t.containers()[&format!("{name}-site-1")].id.clone();
    let before = changeable(&t, &id);

    // The engine gives it the network and then refuses the limit.
    let pushed = t.fleet.push(&content("networks: [front, back], mem_limit: 1m"), &["--wait", "--timeout", "5s"]).unwrap();
    assert!(pushed.code == 1 && pushed.text().contains("memory limit"), "{}", pushed.text());
    assert_ne!(changeable(&t, &id), before, "the story is about what was begun");
    t.fleet.push(&first, &["--wait"]).unwrap().ok().unwrap();
    assert_eq!(changeable(&t, &id), before);

    // Killed where the engine has done everything and nobody has noted it; the old content comes before the agent is back.
    for place in ["docker.update.networks", "docker.update.after", "reconcile.note.before"] {
        t.fleet.kill_agent(HOST).unwrap();
        t.fleet.start_agent_with(HOST, &[("MOORLINE_CRASH_AT", place)]).unwrap();
        t.fleet.push(&content("networks: [front, back], restart: always"), &[]).unwrap().ok().unwrap();
        wait_until(&format!("it is killed at {place}"), SOON, || Ok(t.fleet.agent_ended(HOST)?.is_some())).unwrap();
        assert_ne!(changeable(&t, &id), before, "{place}");
        t.fleet.push(&first, &[]).unwrap().ok().unwrap();
        t.fleet.start_agent(HOST).unwrap();
        t.fleet.push(&first, &["--force", "--wait"]).unwrap().ok().unwrap();
        assert_eq!(changeable(&t, &id), before, "{place}");
    }
    t.fleet.stop_agent(HOST).unwrap();
}
