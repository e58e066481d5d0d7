//! Whatever is done to a host's objects by hand, the agent brings them back to what was signed.

use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HostConfig, NetworkDisconnectRequest, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters as query;
use moorline_tests::fleet::free_port;
use moorline_tests::image::IMAGE;
use moorline_tests::limits::SOON;
use moorline_tests::wait::{holds_for, wait_until};

use crate::setup::{EngineFleet, HOST, assert_says, services};

#[test]
fn a_container_that_is_stopped_paused_or_cut_from_its_network_by_hand_is_mended() {
    let Some(t) = EngineFleet::start("byhand") else { return };
    let topology = t.topology();
    t.fleet.push(&services(&topology, &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let (docker, name, network) = (t.engine.docker(), format!("{topology}-site-1"), format!("{topology}_front"));
    let runs = |what: &str| {
        wait_until(&format!("the container runs again after {what}"), SOON, || {
            let inspected = t.engine.block_on(docker.inspect_container(&name, None::<query::InspectContainerOptions>));
            let Ok(container) = inspected else { return Ok(false) };
            let state = container.state.unwrap_or_default();
            let attached = container.network_settings.and_then(|s| s.networks).is_some_and(|n| n.contains_key(&network));
            Ok(state.running == Some(true) && state.paused == Some(false) && attached)
        })
        .unwrap();
    };

    t.engine.block_on(docker.stop_container(&name, None::<query::StopContainerOptions>)).unwrap();
    runs("a stop");
    t.engine.block_on(docker.pause_container(&name)).unwrap();
    runs("a pause");
    let disconnect = NetworkDisconnectRequest { container: name.clone(), force: Some(true) };
    t.engine.block_on(docker.disconnect_network(&network, disconnect)).unwrap();
    runs("a disconnect");
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    t.engine.remove_container(&topology, &name).unwrap();
    // With the container away its network may be removed too, if the agent has not been faster.
    let _ = t.engine.block_on(docker.remove_network(&network));
    runs("the loss of container and network");
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
}

#[test]
fn with_drift_inbox_a_difference_is_left_and_told() {
    let Some(t) = EngineFleet::start("inbox") else { return };
    let topology = t.topology();
    let yaml = services(&topology, &["site"], "hello")
        .replacen("        site:\n", "        site:\n          restart: always\n", 1)
        .replacen("hosts:\n", "policy: { drift: inbox }\nhosts:\n", 1);
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let before = t.containers();
    let status = || t.fleet.moorctl(&["status"]).unwrap().ok().unwrap().text();
    wait_until("nothing waits", SOON, || Ok(status().contains("verified") && !status().contains("wait"))).unwrap();

    t.proxy.forget();
    let (docker, name) = (t.engine.docker(), format!("{topology}-site-1"));
    let restart_policy = Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..Default::default() });
    t.engine.block_on(docker.update_container(&name, ContainerUpdateBody { restart_policy, ..Default::default() })).unwrap();
    wait_until("the difference is told", SOON, || Ok(status().contains("converged, 1 difference waits"))).unwrap();
    for said in [
        t.fleet.moorctl(&["status"]).unwrap(),
        t.fleet.agent(HOST, &["status"]).unwrap(),
        t.fleet.moorctl(&["get", "report", HOST]).unwrap(),
    ] {
        assert_says(&said, &[&format!("docker/container/{name}"), "restart"]);
    }
    assert_eq!(t.proxy.mutations(), []);
    assert_eq!(t.containers(), before, "it was left alone");
}

#[test]
fn a_container_that_crashes_again_and_again_is_started_ever_more_rarely_and_said() {
    let Some(t) = EngineFleet::start("crashloop") else { return };
    let topology = t.topology();
    let yaml = services(&topology, &["site", "broken", "greedy"], "hello")
        .replacen("        broken:\n", "        broken:\n          command: exit 3\n", 1)
        .replacen("        greedy:\n", "        greedy:\n          command: eat\n          mem_limit: 16m\n", 1);
    t.fleet.push(&yaml, &[]).unwrap().ok().unwrap();
    wait_until("the crash is said", SOON, || Ok(t.operator.host(HOST)?.last_error.is_some_and(|e| e.message.contains("broken")))).unwrap();
    assert_says(&t.fleet.moorctl(&["status"]).unwrap(), &["broken"]);
    // By its exit code it was killed; that it was by nobody is seen.
    let report = || t.fleet.moorctl(&["get", "report", HOST]).unwrap().ok().unwrap().stdout;
    wait_until("the greedy one is out of memory", SOON, || Ok(report().contains("out_of_memory: true"))).unwrap();
    t.proxy.forget();
    let span = Duration::from_secs(8);
    holds_for("the site runs", span, || Ok(t.engine.running(&topology)?.contains(&format!("{topology}-site-1")))).unwrap();
    let starts = t.proxy.mutations().len();
    assert!(starts <= 16, "{starts} mutating calls within {} s of two crash loops", span.as_secs());

    // A repaired slice takes effect at once, whatever the backoff.
    t.fleet.push(&services(&topology, &["site", "broken"], "hello"), &["--wait"]).unwrap().ok().unwrap();
}

#[test]
fn a_service_that_runs_once_is_left_alone_when_it_is_done() {
    let Some(t) = EngineFleet::start("once") else { return };
    let topology = t.topology();
    let yaml = services(&topology, &["site", "task"], "hello").replacen(
        "        task:\n",
        "        task:\n          command: exit 0\n          restart: \"no\"\n",
        1,
    );
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    let name = format!("{topology}-task-1");
    wait_until("the task is done", SOON, || Ok(t.containers().get(&name).is_some_and(|c| !c.running))).unwrap();
    t.proxy.forget();
    holds_for("it is not started again", Duration::from_secs(3), || Ok(t.proxy.mutations().is_empty())).unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
}

#[test]
fn a_port_that_somebody_else_holds_is_said_and_taken_when_it_is_free() {
    let Some(t) = EngineFleet::start("porttaken") else { return };
    let topology = t.topology();
    let port = free_port().unwrap();
    let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(port.to_string()) };
    let host_config = HostConfig { port_bindings: Some([("8080/tcp".to_owned(), Some(vec![binding]))].into()), ..HostConfig::default() };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        host_config: Some(host_config),
        exposed_ports: Some(vec!["8080/tcp".to_owned()]),
        ..ContainerCreateBody::default()
    };
    let docker = t.engine.docker();
    let holder = t.engine.block_on(docker.create_container(None::<query::CreateContainerOptions>, body)).unwrap().id;
    let started = t.engine.block_on(docker.start_container(&holder, None::<query::StartContainerOptions>));
    let yaml = services(&topology, &["site", "cache"], "hello").replacen(
        "        site:\n",
        &format!("        site:\n          ports: [\"127.0.0.1:{port}:8080\"]\n"),
        1,
    );
    let pushed = t.fleet.push(&yaml, &[]);
    let said =
        wait_until("the taken port is said", SOON, || Ok(t.operator.host(HOST)?.last_error.is_some_and(|e| e.message.contains("site"))));
    let rest = wait_until("the rest runs", SOON, || Ok(t.engine.running(&topology)?.contains(&format!("{topology}-cache-1"))));
    let remove = query::RemoveContainerOptionsBuilder::new().force(true).build();
    t.engine.block_on(docker.remove_container(&holder, Some(remove))).unwrap();
    started.unwrap();
    pushed.unwrap().ok().unwrap();
    said.unwrap();
    rest.unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 1).unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "the site serves at its port");
}

#[test]
fn two_services_that_swap_their_ports_both_get_them() {
    let Some(t) = EngineFleet::start("portswap") else { return };
    let topology = t.topology();
    let (one, two) = (free_port().unwrap(), free_port().unwrap());
    let yaml = |site: u16, cache: u16| {
        let publish = |port: u16| format!("          ports: [\"127.0.0.1:{port}:8080\"]\n");
        services(&topology, &["site", "cache"], "hello")
            .replacen("        site:\n", &format!("        site:\n{}", publish(site)), 1)
            .replacen("        cache:\n", &format!("        cache:\n{}", publish(cache)), 1)
    };
    t.fleet.push(&yaml(one, two), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.push(&yaml(two, one), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &topology, 2).unwrap();
}
