//! What becomes of a container whose successor is no good, on a real engine.

use moorline_common::fault::Code;
use moorline_common::plan::Step;
use serde_json::{Value, json};

use super::*;

struct Stage {
    bench: std::sync::Arc<DockerBench>,
    name: String,
}

impl Stage {
    async fn with(bench: std::sync::Arc<DockerBench>, first: Value) -> Self {
        let stage = Self { name: format!("{}-web-1", bench.unique), bench };
        for step in stage.plan(&first).await {
            stage.bench.driver.apply(&step).await.unwrap();
        }
        assert!(stage.plan(&first).await.is_empty());
        stage
    }

    /// A service that is stopped at once, with what `more` says.
    fn spec(&self, more: &Value) -> HostSpec {
        let mut web = json!({ "image": self.bench.images()[0], "stop_signal": "KILL", "volumes": { "/kept": { "type": "volume" } } });
        web.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({ "docker": { "services": { "web": web } } })).unwrap()
    }

    async fn plan(&self, more: &Value) -> Vec<Step> {
        let observed = self.bench.driver.observe().await.unwrap();
        self.bench.note(&observed);
        plan(&self.bench.identity(), &self.spec(more), &observed).steps
    }

    async fn inspect(&self, name: &str) -> Option<bollard::models::ContainerInspectResponse> {
        self.bench.docker.inspect_container(name, None).await.ok()
    }

    async fn until_runs(&self, name: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.inspect(name).await.is_none_or(|live| live.state.and_then(|s| s.running) != Some(true)) {
            assert!(tokio::time::Instant::now() < deadline, "`{name}` does not run");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What tells whether it is the very same container with the very same volume, and runs.
    async fn is(&self) -> (String, String, bool) {
        let live = self.inspect(&self.name).await.unwrap();
        let volume = live
            .mounts
            .unwrap_or_default()
            .into_iter()
            .find(|m| m.destination.as_deref() == Some("/kept"))
            .and_then(|m| m.name)
            .unwrap_or_default();
        (live.id.unwrap_or_default(), volume, live.state.and_then(|s| s.running).unwrap_or_default())
    }
}

#[tokio::test]
async fn a_successor_that_is_no_good_goes_and_the_old_container_comes_back() {
    with_bench(|bench| async move {
        let stage = Stage::with(bench, json!({})).await;
        let before = stage.is().await;
        let failing = json!({ "test": ["CMD", "/bin/false"], "interval": 200_000_000, "retries": 2 });
        for (more, why) in [
            (json!({ "command": ["/bin/sh", "-c", "exit 1"] }), "exited with code 1"),
            (json!({ "command": ["/bin/sh", "-c", "exit 1"], "restart": "always" }), "exited"),
            (json!({ "command": ["/bin/nothing"] }), "/bin/nothing"),
            (json!({ "healthcheck": failing }), "its healthcheck fails"),
            (json!({ "healthcheck": failing, "update": { "order": "start-first" } }), "its healthcheck fails"),
        ] {
            let steps = stage.plan(&more).await;
            assert_eq!(steps.len(), 1, "{steps:?}");
            let error = stage.bench.driver.apply(&steps[0]).await.unwrap_err();
            assert!(error.code == Code::RolledBack && error.message.contains(why), "{error:?}");
            assert_eq!(stage.is().await, before, "{more}");
            let beside = moorline_common::plan::lower::beside_name(&stage.name, &before.0);
            assert!(stage.inspect(&beside).await.is_none(), "nothing is left beside it");
        }
        assert!(stage.plan(&json!({})).await.is_empty(), "it is as it was");
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_goes_first_runs_beside_the_old_container_until_it_is_healthy() {
    with_bench(|bench| async move {
        let stage = Stage::with(bench, json!({})).await;
        let before = stage.is().await;
        let check = json!({ "test": ["CMD-SHELL", "test -e /flags/ready"], "interval": 200_000_000, "retries": 500 });
        let volumes = json!({ "/kept": { "type": "volume" }, "/flags": { "type": "bind", "source": stage.bench.folder() } });
        let more = json!({ "healthcheck": check, "update": { "order": "start-first" }, "volumes": volumes });
        let step = stage.plan(&more).await.pop().unwrap();
        let beside = moorline_common::plan::lower::beside_name(&stage.name, &before.0);
        let driver = &stage.bench.driver;
        let make_it_ready = async {
            stage.until_runs(&beside).await;
            assert_eq!(stage.is().await, before, "the old one runs as long as the new one is not healthy");
            // A pass that begins now goes on with it.
            let again = stage.plan(&more).await;
            assert_eq!(again.iter().map(|s| s.action.verb()).collect::<Vec<_>>(), ["replace"]);
            std::fs::write(stage.bench.folder.path().join("ready"), "").unwrap();
        };
        let replaced = async { tokio::time::timeout(Duration::from_secs(60), driver.apply(&step)).await.expect("in time") };
        let (done, ()) = tokio::join!(replaced, make_it_ready);
        done.unwrap();
        let after = stage.is().await;
        assert!(after.0 != before.0 && after.1 == before.1 && after.2, "another container with the same volume runs: {after:?}");
        assert!(stage.inspect(&before.0).await.is_none() && stage.plan(&more).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_replacement_that_was_cut_short_goes_on_and_makes_no_third_container() {
    with_bench(|bench| async move {
        let stage = Stage::with(bench, json!({})).await;
        let before = stage.is().await;
        let more = json!({ "environment": { "GREETING": "two" }, "update": { "monitor": 60_000_000_000_u64 } });
        let step = stage.plan(&more).await.pop().unwrap();
        let beside = moorline_common::plan::lower::beside_name(&stage.name, &before.0);
        let driver = &stage.bench.driver;
        tokio::select! {
            done = driver.apply(&step) => panic!("it is watched for a minute: {done:?}"),
            () = stage.until_runs(&beside) => {}
        }
        let new_id = stage.inspect(&beside).await.unwrap().id;
        // The same content, and no longer watched for so long: how it is replaced is no part of what it is.
        let more = json!({ "environment": { "GREETING": "two" } });
        let steps = stage.plan(&more).await;
        assert_eq!(steps.iter().map(|s| s.action.verb()).collect::<Vec<_>>(), ["replace"]);
        driver.apply(&steps[0]).await.unwrap();
        assert_eq!(stage.inspect(&stage.name).await.unwrap().id, new_id);
        assert!(stage.inspect(&before.0).await.is_none() && stage.plan(&more).await.is_empty());

        // Another content does not go on with it.
        let other = json!({ "environment": { "GREETING": "three" } });
        let verbs: Vec<_> = stage.plan(&other).await.iter().map(|s| s.action.verb()).collect();
        assert_eq!(verbs, ["replace"]);
    })
    .await;
}
