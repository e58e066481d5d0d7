//! Two networks of one name, as an agent that was killed and its successor can make them.

use bollard::query_parameters::InspectContainerOptions;
use moorline_common::plan::{Action, NetworkTarget};

use super::*;

/// The engine looks for the name and makes the network in two steps: requests at the same moment get two.
async fn make_twins(docker: &Docker, target: &NetworkTarget) {
    for _ in 0..50 {
        let request = || NetworkCreateRequest {
            name: target.name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(target.labels.clone().into_iter().collect()),
            ..Default::default()
        };
        futures_util::future::join_all((0..4).map(|_| docker.create_network(request()))).await;
        let made = named(docker, &target.name).await;
        if made.len() > 1 {
            return;
        }
        for id in made {
            docker.remove_network(&id).await.unwrap();
        }
    }
    panic!("this engine makes no two networks of one name; then nothing has to be mended");
}

async fn named(docker: &Docker, name: &str) -> Vec<String> {
    let all = docker.list_networks(None::<ListNetworksOptions>).await.unwrap();
    all.into_iter().filter(|n| n.name.as_deref() == Some(name)).filter_map(|n| n.id).collect()
}

#[tokio::test]
async fn two_networks_of_one_name_become_one_when_a_container_needs_it() {
    with_bench(|bench| async move {
        let desired: HostSpec = serde_json::from_value(serde_json::json!({ "docker": {
            "networks": { "more": {} },
            "services": { "s": { "image": bench.images()[0], "stop_signal": "KILL", "networks": { "more": {} } } } } }))
        .unwrap();
        let steps = |observed| plan(&bench.identity(), &desired, &observed).steps;
        let first = steps(bench.driver.observe().await.unwrap());
        let Some(Action::CreateNetwork(target)) = first.first().map(|s| s.action.clone()) else { panic!("the network comes first") };
        make_twins(&bench.docker, &target).await;
        for step in steps(bench.driver.observe().await.unwrap()) {
            bench.driver.apply(&step).await.unwrap();
        }
        assert_eq!(named(&bench.docker, &target.name).await.len(), 1);
        let name = format!("{}-s-1", bench.unique);
        let live = bench.docker.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
        assert_eq!(live.state.unwrap().running, Some(true));
    })
    .await;
}
