//! What changes about a container that goes on running, and what is taken over as it is, on a real engine.

use bollard::models::{ContainerInspectResponse, ContainerUpdateBody, HostConfig, NetworkCreateRequest, VolumeCreateRequest};
use moorline_common::fault::Code;
use moorline_common::plan::Plan;
use serde_json::{Value, json};

use super::*;
use crate::driver::conformance::carry_out;

struct Stage(std::sync::Arc<DockerBench>);

impl Stage {
    fn spec(&self, docker: Value) -> HostSpec {
        serde_json::from_value(json!({ "docker": docker })).unwrap()
    }

    async fn plan(&self, spec: &HostSpec) -> Plan {
        self.0.driver.known().look_for(Some(spec));
        let observed = self.0.driver.observe().await.unwrap();
        self.0.note(&observed);
        plan(&self.0.identity(), spec, &observed)
    }

    /// Makes the host so, as the reconciler does it; returns the verbs.
    async fn settle(&self, spec: &HostSpec) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..5 {
            let plan = self.plan(spec).await;
            if plan.steps.is_empty() {
                assert!(plan.blocked.is_empty() && plan.drift.is_empty(), "{plan:#?}");
                return done;
            }
            for step in plan.steps {
                carry_out(&self.0.driver, &step).await.unwrap_or_else(|e| panic!("{step}: {e}"));
                done.push(step.action.verb().to_owned());
            }
        }
        panic!("does not settle: {:#?}", self.plan(spec).await);
    }

    /// What was planned before it was changed, or before anybody had looked closely, is not done.
    async fn takes_nothing_over_unseen(&self, spec: &HostSpec, id: &str) {
        let planned = self.plan(spec).await.steps;
        let change = |memory: i64| ContainerUpdateBody { memory: Some(memory), memory_swap: Some(2 * memory), ..Default::default() };
        self.0.docker.update_container(id, change(48 << 20)).await.unwrap();
        let late = self.0.driver.apply(&planned[2]).await.unwrap_err();
        assert!(late.code == Code::AdoptDiffers && late.message.contains("mem_limit"), "{late:?}");
        self.0.docker.update_container(id, change(64 << 20)).await.unwrap();
        self.0.driver.known().look_for(None);
        let blind = self.0.driver.observe().await.unwrap();
        let mut internal = spec.clone();
        internal.docker.as_mut().unwrap().networks.get_mut("net").unwrap().internal = Some(true);
        let blind = super::plan(&self.0.identity(), &internal, &blind).steps;
        assert_eq!(blind[0].action.verb(), "adopt");
        assert!(self.0.driver.apply(&blind[0]).await.unwrap_err().message.contains("could not be compared"));
        self.0.driver.known().look_for(Some(&internal));
        assert_eq!(self.0.driver.apply(&blind[0]).await.unwrap_err().code, Code::AdoptDiffers);
    }

    async fn web(&self) -> ContainerInspectResponse {
        self.0.docker.inspect_container(&format!("{}-web-1", self.0.unique), None).await.unwrap()
    }

    fn service(&self, more: Value) -> HostSpec {
        let mut web = json!({ "image": self.0.images()[0], "stop_signal": "KILL" });
        web.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.spec(json!({ "networks": { "a": {}, "b": {} }, "services": { "web": web } }))
    }
}

fn networks(live: &ContainerInspectResponse) -> Vec<String> {
    let mut names: Vec<String> = live.network_settings.iter().flat_map(|s| &s.networks).flatten().map(|(name, _)| name.clone()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn limits_networks_and_the_restart_policy_change_and_the_container_runs_on() {
    with_bench(|bench| async move {
        let stage = Stage(bench);
        stage.settle(&stage.service(json!({ "networks": { "a": {} } }))).await;
        let before = stage.web().await;
        let (mb, mine) = (1 << 20, |name: &str| format!("{}_{name}", stage.0.unique));
        let wide = json!({ "mem_limit": 64 * mb, "mem_reservation": 32 * mb, "cpus": 500_000_000, "cpu_shares": 512, "cpuset": "0",
            "pids_limit": 100, "memswap_limit": 96 * mb });
        for (more, check) in [
            (json!({ "networks": { "a": {} }, "options": { "mem_limit": 32 * mb } }), vec![mine("a")]),
            // Above the limit of memory and swap that came with the last one.
            (json!({ "networks": { "a": {} }, "options": { "mem_limit": 128 * mb } }), vec![mine("a")]),
            (json!({ "networks": { "a": {}, "b": { "aliases": ["www"] } }, "options": wide }), vec![mine("a"), mine("b")]),
            (json!({ "networks": { "b": { "aliases": ["site"] } }, "options": wide, "restart": "unless-stopped" }), vec![mine("b")]),
            (json!({ "networks": { "a": {}, "b": {} }, "options": wide }), vec![mine("a"), mine("b")]),
        ] {
            assert_eq!(stage.settle(&stage.service(more.clone())).await, ["update"], "{more}");
            let live = stage.web().await;
            assert_eq!((&live.id, networks(&live)), (&before.id, check), "{more}");
            let started = |live: &ContainerInspectResponse| live.state.clone().and_then(|s| s.started_at);
            assert_eq!(started(&live), started(&before), "{more}");
        }
        // A limit that is gone takes another container.
        assert_eq!(stage.settle(&stage.service(json!({ "networks": { "a": {}, "b": {} } }))).await, ["replace"]);
        assert_ne!(stage.web().await.id, before.id);
        // After a restart of the agent nothing but the ledger knows of the change.
        assert_eq!(stage.settle(&stage.service(json!({ "networks": { "b": {} } }))).await, ["update"]);
        let known = stage.0.driver.known();
        known.forget(&known.keys());
        assert_eq!(stage.settle(&stage.service(json!({ "networks": { "b": {} } }))).await, ["update"], "which changes nothing then");
        // It starts again with the networks that it has now, though it was made in another.
        stage.0.docker.restart_container(&stage.web().await.id.unwrap(), None).await.unwrap();
        assert!(stage.settle(&stage.service(json!({ "networks": { "b": {} } }))).await.is_empty());
        assert_eq!(networks(&stage.web().await), [mine("b")]);
    })
    .await;
}

#[tokio::test]
async fn what_others_made_is_used_or_taken_over_as_it_is_and_otherwise_left_alone() {
    with_bench(|bench| async move {
        let stage = Stage(bench);
        let (unique, docker) = (stage.0.unique.clone(), stage.0.docker.clone());
        let named = |name: &str| format!("x{unique}_{name}");
        let network = NetworkCreateRequest { name: named("net"), ..Default::default() };
        let network = docker.create_network(network).await.unwrap().id;
        docker.create_volume(VolumeCreateRequest { name: Some(named("data")), ..Default::default() }).await.unwrap();
        let host = HostConfig {
            network_mode: Some(named("net")),
            binds: Some(vec![format!("{}:/data", named("data")), "/scratch".to_owned()]),
            memory: Some(64 << 20),
            ..Default::default()
        };
        let body = ContainerCreateBody { image: Some(stage.0.images()[0].clone()), host_config: Some(host), ..Default::default() };
        stage.0.make(body, &named("db"), true).await;
        let was = docker.inspect_container(&named("db"), None).await.unwrap();
        let id = was.id.clone().unwrap();
        let wanted = |adopt: bool, memory: u64| {
            let mut spec = json!({
                "networks": { "net": { "name": named("net") } },
                "volumes": { "data": { "name": named("data") } },
                "services": { "db": { "container_name": named("db"), "image": stage.0.images()[0], "stop_signal": "KILL", "networks": { "net": {} },
                    "volumes": { "/data": { "type": "volume", "source": "data" }, "/scratch": { "type": "volume" } },
                    "options": { "mem_limit": memory } } },
            });
            if adopt {
                spec["networks"]["net"]["adopt"] = json!(network);
                spec["volumes"]["data"]["adopt"] = json!(named("data"));
                spec["services"]["db"]["adopt"] = json!(id);
            }
            stage.spec(spec)
        };
        let codes = |plan: &Plan| plan.blocked.iter().filter_map(|b| b.code).collect::<Vec<_>>();
        // Nobody said that it may be taken.
        let plan = stage.plan(&wanted(false, 64 << 20)).await;
        assert!(plan.steps.is_empty() && codes(&plan).contains(&Code::NotOwned), "{plan:#?}");
        // It is to be taken over, and is not as the slice says; it stops when it is told to as every container does, not by SIGKILL.
        let plan = stage.plan(&wanted(true, 64 << 20)).await;
        assert_eq!(plan.steps.iter().map(|s| s.action.verb()).collect::<Vec<_>>(), ["adopt", "adopt"], "{plan:#?}");
        assert!(codes(&plan) == [Code::AdoptDiffers] && plan.blocked[0].reason.contains("stop_signal"), "{plan:#?}");
        let as_is = |memory: u64| {
            let mut spec = wanted(true, memory);
            spec.docker.as_mut().unwrap().services.get_mut("db").unwrap().stop_signal = None;
            spec
        };
        let spec = as_is(64 << 20);
        stage.takes_nothing_over_unseen(&spec, &id).await;
        assert_eq!(stage.settle(&spec).await, ["adopt", "adopt", "adopt"]);
        let is = docker.inspect_container(&id, None).await.unwrap();
        assert_eq!((&is.created, is.state.and_then(|s| s.started_at)), (&was.created, was.state.clone().and_then(|s| s.started_at)));
        // It is ours now, also when the file no longer says where it came from.
        let mut forgotten = spec.clone();
        let parts = forgotten.docker.as_mut().unwrap();
        parts.services.get_mut("db").unwrap().adopt = None;
        (parts.networks.get_mut("net").unwrap().adopt, parts.volumes.get_mut("data").unwrap().adopt) = (None, None);
        assert!(stage.settle(&forgotten).await.is_empty());
        assert_eq!(stage.settle(&as_is(32 << 20)).await, ["update"]);
        assert!(stage.settle(&as_is(32 << 20)).await.is_empty());
        // Its successor has its volumes, those without a name, too, and our labels.
        assert_eq!(stage.settle(&wanted(true, 32 << 20)).await, ["replace"]);
        let next = docker.inspect_container(&named("db"), None).await.unwrap();
        let volumes = |live: &ContainerInspectResponse| {
            let mut names: Vec<_> = live.mounts.iter().flatten().map(|m| (m.destination.clone(), m.name.clone())).collect();
            names.retain(|(path, _)| path.as_deref() != Some("/declared"));
            names.sort();
            names
        };
        assert!(next.id != was.id && volumes(&next) == volumes(&was), "{:?}", volumes(&next));
        // What is no longer wanted goes, but for the data.
        assert_eq!(stage.settle(&stage.spec(json!({}))).await, ["remove", "remove"]);
        assert!(docker.inspect_volume(&named("data")).await.is_ok() && docker.inspect_network(&network, None).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn what_is_external_is_used_and_left() {
    with_bench(|bench| async move {
        let stage = Stage(bench);
        let (unique, docker) = (stage.0.unique.clone(), stage.0.docker.clone());
        let named = |name: &str| format!("x{unique}_{name}");
        let codes = |plan: &Plan| plan.blocked.iter().filter_map(|b| b.code).collect::<Vec<_>>();
        let external = |name: &str| {
            stage.spec(json!({ "networks": { "out": { "external": true, "name": name } },
            "services": { "web": { "image": stage.0.images()[0], "stop_signal": "KILL", "networks": { "out": {} } } } }))
        };
        let plan = stage.plan(&external(&named("other"))).await;
        assert!(plan.steps.is_empty() && codes(&plan) == [Code::DependencyFailed, Code::NotThere], "{plan:#?}");
        docker.create_network(NetworkCreateRequest { name: named("other"), ..Default::default() }).await.unwrap();
        assert_eq!(stage.settle(&external(&named("other"))).await, ["create"]);
        assert_eq!(stage.settle(&stage.spec(json!({}))).await, ["remove"]);
        assert!(docker.inspect_network(&named("other"), None).await.is_ok(), "it is not ours");
    })
    .await;
}

#[tokio::test]
async fn swap_without_limit_goes_back_to_what_a_new_container_has() {
    with_bench(|bench| async move {
        let stage = Stage(bench);
        let memory = 64_i64 << 20;
        stage.settle(&stage.service(json!({ "options": { "mem_limit": memory, "memswap_limit": -1 } }))).await;
        let before = stage.web().await;
        assert_eq!(stage.settle(&stage.service(json!({ "options": { "mem_limit": memory } }))).await, ["update"]);
        let after = stage.web().await;
        assert_eq!((after.id, after.host_config.and_then(|host| host.memory_swap)), (before.id, Some(2 * memory)));
    })
    .await;
}

#[tokio::test]
async fn a_network_that_a_stranger_uses_stays_and_keeps_our_containers() {
    with_bench(|bench| async move {
        let stage = Stage(bench);
        let wanted = |label: &str| {
            let mut spec = stage.service(json!({ "networks": { "a": {} } }));
            let networks = &mut spec.docker.as_mut().unwrap().networks;
            networks.get_mut("a").unwrap().labels.insert("for".to_owned(), label.to_owned());
            spec
        };
        stage.settle(&wanted("one")).await;
        let a = format!("{}_a", stage.0.unique);
        // Several, as the engine tells of them in any order.
        for n in 0..4 {
            let host = HostConfig { network_mode: Some(a.clone()), ..Default::default() };
            let body = ContainerCreateBody { image: Some(stage.0.images()[0].clone()), host_config: Some(host), ..Default::default() };
            stage.0.make(body, &format!("x{}_{n}", stage.0.unique), true).await;
        }
        let step = stage.plan(&wanted("two")).await.steps.into_iter().find(|step| step.action.verb() == "replace").unwrap();
        for _ in 0..3 {
            let error = stage.0.driver.apply(&step).await.unwrap_err();
            assert!(error.code == Code::NotOwned && error.message.contains("is not ours and still uses the network"), "{error:?}");
            assert_eq!(networks(&stage.web().await), std::slice::from_ref(&a));
        }
    })
    .await;
}
