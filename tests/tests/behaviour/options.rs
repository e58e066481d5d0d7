//! What a container may do and use is as its file says, also after somebody has changed it, and no more than the host allows.

use bollard::models::ContainerUpdateBody;
use bollard::query_parameters::InspectContainerOptions;
use moorline_tests::image;
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST};

/// `site` with `options`, and `beside` in its network.
fn topology(name: &str, options: &str) -> String {
    let image = image::IMAGE;
    format!(
        "topology: {name}
hosts:
  {HOST}:
    docker:
      services:
        site:
          image: {image}
          <<: {options}
        beside: {{ image: {image}, command: sleep infinity, network_mode: \"service:site\", mem_limit: 64m, cap_drop: [ALL] }}
"
    )
}

#[test]
fn limits_and_rights_hold_as_the_file_says_and_no_more_than_the_host_allows() {
    let Some(t) = EngineFleet::start("options") else { return };
    let name = t.topology();
    let push = |keys: &str, args: &[&str]| t.fleet.push(&topology(&name, keys), args).unwrap().ok().unwrap();
    let limited = "{ read_only: true, init: true, pids_limit: 50, ulimits: { nofile: 1000 }, extra_hosts: [\"db.example:10.0.0.5\"] }";
    push(limited, &["--wait"]);
    t.fleet.wait_converged(&t.operator, HOST, &name, 1).unwrap();
    let before = t.containers();
    assert_eq!(before.len(), 2);

    t.proxy.forget();
    push(limited, &["--force", "--wait"]);
    t.fleet.wait_converged(&t.operator, HOST, &name, 2).unwrap();
    assert_eq!((t.proxy.mutations(), t.containers()), (vec![], before.clone()));

    let beside = format!("{name}-beside-1");
    let memory = || {
        let live = t.engine.block_on(t.engine.docker().inspect_container(&beside, None::<InspectContainerOptions>))?;
        anyhow::Ok(live.host_config.and_then(|host| host.memory))
    };
    let by_hand = ContainerUpdateBody { memory: Some(128 << 20), memory_swap: Some(-1), ..Default::default() };
    t.engine.block_on(t.engine.docker().update_container(&beside, by_hand)).unwrap();
    wait_until("the limit is as the file says again", SOON, || Ok(memory()? == Some(64 << 20))).unwrap();

    // Whoever shares the site's network is made anew with it.
    push("{ read_only: false, init: true }", &["--wait"]);
    t.fleet.wait_converged(&t.operator, HOST, &name, 3).unwrap();
    let after = t.containers();
    assert!(before.iter().all(|(service, container)| after[service].id != container.id), "{after:?}");

    push("{ privileged: true }", &[]);
    wait_until("the refusal is known", SOON, || {
        Ok(t.operator.host(HOST)?.last_error.is_some_and(|e| e.code == "policy_denied" && e.message.contains("privileged = true")))
    })
    .unwrap();
    assert_eq!(t.containers(), after, "what runs goes on");
}
