//! The conformance suite against a real engine, and what only a real one can show.
//!
//! Skipped, and said so, when no engine answers, unless `MOORLINE_REQUIRE_DOCKER` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{ContainerCreateBody, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, InspectNetworkOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions,
    RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions, RenameContainerOptions, StartContainerOptions, TagImageOptions,
};
use futures_util::StreamExt;
use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, HostId, TopologyId};
use moorline_common::observe::Health;
use moorline_common::plan::plan;
use moorline_common::plan::{ContainerTarget, Identity};
use moorline_common::topology::{HostSpec, MountKind};

use super::super::conformance::{self, Bench, ByHand};
use super::body::{self, Carried};
use super::*;

mod options;
mod registry;
mod replace;
mod restarted;
mod twins;
mod update;

const SOCKET: &str = "/var/run/docker.sock";

struct DockerBench {
    driver: DockerDriver,
    docker: Docker,
    unique: String,
    folder: tempfile::TempDir,
    /// Volumes of our containers, those without a name, too.
    volumes: Mutex<BTreeSet<String>>,
}

/// Different for each run and each bench, and short.
fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("mt{:x}{:x}", std::process::id(), now.subsec_nanos())
}

fn owned(unique: &str) -> Ownership {
    Ownership { cluster: ClusterId::parse(unique).unwrap(), host_id: HostId::of_key(&[3; 32]), known: Default::default() }
}

impl DockerBench {
    /// A bench, or `None` when no engine answers and none is demanded.
    async fn new() -> Option<Self> {
        Self::at(Path::new(SOCKET)).await
    }

    /// The same with the engine behind `socket`.
    async fn at(socket: &Path) -> Option<Self> {
        let unique = unique();
        let driver = DockerDriver::new(socket.to_owned(), owned(&unique));
        if let Err(error) = driver.version().await {
            assert!(std::env::var_os("MOORLINE_REQUIRE_DOCKER").is_none(), "a Docker Engine is required: {error}");
            eprintln!("skipped: no Docker Engine answers ({error})");
            return None;
        }
        let docker = driver.engine().await.unwrap().docker.clone();
        let bench = Self { driver, docker, unique, folder: tempfile::tempdir().unwrap(), volumes: Mutex::default() };
        bench.import_image().await;
        Some(bench)
    }

    /// Imports an image with a static busybox in it: tests need no registry.
    async fn import_image(&self) {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in ["cat", "sh", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let tar = std::process::Command::new("tar").arg("-C").arg(folder.path()).args(["-c", "."]).output().unwrap();
        assert!(tar.status.success());
        let changes = ["ENV PATH=/bin", "CMD [\"/bin/sleep\",\"1000000\"]", "LABEL from=image", "VOLUME /declared"];
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(self.unique.clone()),
            tag: Some("1".to_owned()),
            changes: vec![changes.join("\n")],
            ..Default::default()
        };
        let mut progress = std::pin::pin!(self.docker.create_image(Some(options), Some(bollard::body_full(tar.stdout.into())), None));
        while let Some(message) = progress.next().await {
            message.unwrap();
        }
        let tag = TagImageOptions { repo: Some(self.unique.clone()), tag: Some("2".to_owned()) };
        self.docker.tag_image(&self.images()[0], Some(tag)).await.unwrap();
    }

    async fn make(&self, body: ContainerCreateBody, name: &str, start: bool) {
        let options = CreateContainerOptions { name: Some(name.to_owned()), platform: String::new() };
        let id = self.docker.create_container(Some(options), body).await.unwrap().id;
        if start {
            self.docker.start_container(&id, None::<StartContainerOptions>).await.unwrap();
        }
    }

    /// Removes everything that bears this bench's name.
    async fn clean_up(&self) {
        let docker = &self.docker;
        let all = ListContainersOptions { all: true, ..Default::default() };
        for container in docker.list_containers(Some(all)).await.unwrap() {
            if container.names.unwrap_or_default().iter().any(|n| n.contains(&self.unique)) {
                let force = RemoveContainerOptions { force: true, v: true, ..Default::default() };
                let _ = docker.remove_container(&container.id.unwrap(), Some(force)).await;
            }
        }
        for network in docker.list_networks(None::<ListNetworksOptions>).await.unwrap() {
            if network.name.unwrap_or_default().contains(&self.unique) {
                let _ = docker.remove_network(&network.id.unwrap()).await;
            }
        }
        let mut volumes = self.volumes.lock().unwrap().clone();
        let named = docker.list_volumes(None::<ListVolumesOptions>).await.unwrap().volumes.unwrap_or_default();
        volumes.extend(named.into_iter().map(|v| v.name).filter(|name| name.contains(&self.unique)));
        for volume in volumes {
            let _ = docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await;
        }
        for image in self.images() {
            let force = RemoveImageOptions { force: true, ..Default::default() };
            let _ = docker.remove_image(&image, Some(force), None).await;
        }
    }
}

impl Bench for DockerBench {
    type D = DockerDriver;
    fn driver(&self) -> &DockerDriver {
        &self.driver
    }
    fn identity(&self) -> Identity {
        let owned = owned(&self.unique);
        Identity { cluster: owned.cluster, host_id: owned.host_id, topology: TopologyId::parse(self.unique.as_str()).unwrap() }
    }
    fn images(&self) -> [String; 2] {
        [format!("{}:1", self.unique), format!("{}:2", self.unique)]
    }
    fn subnet(&self) -> String {
        format!("10.214.{}.0/24", std::process::id() % 250)
    }
    fn folder(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }
    fn away(&self) -> DockerDriver {
        DockerDriver::new(self.folder.path().join("no.sock"), owned(&self.unique))
    }

    fn note(&self, observed: &Observed) {
        let configs = observed.containers.values().filter_map(|c| c.config.as_ref());
        let sources = configs.flat_map(|c| c.volumes.values()).filter(|m| m.kind == MountKind::Volume).filter_map(|m| m.source.clone());
        self.volumes.lock().unwrap().extend(sources);
    }

    async fn by_hand(&self, act: ByHand<'_>) {
        let docker = &self.docker;
        match act {
            ByHand::Kill(name) => docker.kill_container(name, None).await.unwrap(),
            ByHand::Remove(name) => {
                let force = RemoveContainerOptions { force: true, v: true, ..Default::default() };
                docker.remove_container(name, Some(force)).await.unwrap();
            }
            ByHand::Pause(name) => docker.pause_container(name).await.unwrap(),
            ByHand::Rename(from, to) => {
                docker.rename_container(from, RenameContainerOptions { name: to.to_owned() }).await.unwrap();
            }
            ByHand::DropNetwork(name) => {
                let attached = docker.inspect_network(name, None::<InspectNetworkOptions>).await.unwrap().containers;
                for container in attached.unwrap_or_default().into_keys() {
                    let request = NetworkDisconnectRequest { container, force: Some(true) };
                    docker.disconnect_network(name, request).await.unwrap();
                }
                docker.remove_network(name).await.unwrap();
            }
            ByHand::Stranger(name) => {
                let body = ContainerCreateBody { image: Some(self.images()[0].clone()), ..Default::default() };
                self.make(body, name, true).await;
            }
            ByHand::StrangeNetwork(name) => {
                let request = NetworkCreateRequest { name: name.to_owned(), ..Default::default() };
                docker.create_network(request).await.unwrap();
            }
            ByHand::StrangeVolume(name) => {
                let request = VolumeCreateRequest { name: Some(name.to_owned()), ..Default::default() };
                docker.create_volume(request).await.unwrap();
            }
            ByHand::HalfMade(target, name) => self.make(body::body(target, &Carried::new(), false), name, false).await,
        }
    }
}

/// Waits for an event that is to come.
async fn event(driver: &DockerDriver, what: &str) {
    tokio::time::timeout(Duration::from_secs(20), driver.next_event()).await.unwrap_or_else(|_| panic!("not told in time: {what}"));
}

/// Runs `check` on a bench and cleans up after it, whatever happens.
async fn with_bench<F, T>(check: F)
where
    F: FnOnce(std::sync::Arc<DockerBench>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let Some(bench) = DockerBench::new().await else { return };
    let bench = std::sync::Arc::new(bench);
    let outcome = tokio::spawn(check(std::sync::Arc::clone(&bench))).await;
    bench.clean_up().await;
    outcome.unwrap();
}

#[tokio::test]
async fn a_docker_engine_conforms() {
    with_bench(|bench| async move { conformance::all(&*bench).await }).await;
}

#[tokio::test]
async fn a_docker_engine_conforms_in_operations() {
    with_bench(|bench| async move { conformance::ops::all(&*bench).await }).await;
}

#[tokio::test]
async fn becoming_healthy_is_told() {
    with_bench(|bench| async move {
        let desired: HostSpec = serde_json::from_value(serde_json::json!({ "docker": { "services": { "checked": {
            "image": bench.images()[0], "stop_signal": "KILL", "healthcheck": { "test": ["CMD", "/bin/true"], "interval": 1_000_000_000 } } } } }))
        .unwrap();
        let observed = bench.driver.observe().await.unwrap();
        for step in plan(&bench.identity(), &desired, &observed).steps {
            bench.driver.apply(&step).await.unwrap();
        }
        let name = format!("{}-checked-1", bench.unique);
        let healthy = async {
            // Nothing but events leads to another look.
            while bench.driver.observe().await.unwrap().containers[&name].health != Health::Healthy {
                bench.driver.next_event().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), healthy).await.expect("healthy in time");
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_stranger_in_the_way_is_told() {
    with_bench(|bench| async move {
        let name = format!("{}-taken-1", bench.unique);
        bench.by_hand(ByHand::Stranger(&name)).await;
        event(&bench.driver, "whatever happened before").await;
        assert!(bench.driver.observe().await.unwrap().containers.contains_key(&name));
        tokio::join!(bench.by_hand(ByHand::Remove(&name)), event(&bench.driver, "it was removed"));
    })
    .await;
}

#[tokio::test]
async fn who_joins_a_network_of_ours_is_told_and_what_networks_our_containers_join() {
    with_bench(|bench| async move {
        let desired: HostSpec = serde_json::from_value(serde_json::json!({ "docker": { "networks": { "net": {} }, "services": { "one": {
            "image": bench.images()[0], "stop_signal": "KILL", "networks": { "net": {} } } } } }))
        .unwrap();
        let observed = bench.driver.observe().await.unwrap();
        for step in plan(&bench.identity(), &desired, &observed).steps {
            bench.driver.apply(&step).await.unwrap();
        }
        let [ours, spy, net, strange] = ["one-1", "spy", "net", "strange"].map(|part| format!("{}-{part}", bench.unique));
        let net = net.replace("-net", "_net");
        bench.by_hand(ByHand::Stranger(&spy)).await;
        bench.by_hand(ByHand::StrangeNetwork(&strange)).await;
        bench.driver.observe().await.unwrap();
        for (network, container) in [(&net, &spy), (&strange, &ours)] {
            // What was told before.
            while tokio::time::timeout(Duration::from_millis(500), bench.driver.next_event()).await.is_ok() {}
            let request = NetworkConnectRequest { container: container.clone(), ..Default::default() };
            bench.docker.connect_network(network, request).await.unwrap();
            event(&bench.driver, container).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_events_go_on_after_the_engine_was_away() {
    with_bench(|bench| async move {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let driver = DockerDriver::new(path.clone(), owned(&bench.unique));
        let proxy = tokio::spawn(proxy(tokio::net::UnixListener::bind(&path).unwrap()));
        event(&driver, "whatever happened before").await;
        proxy.abort();
        std::fs::remove_file(&path).unwrap();
        event(&driver, "the engine is away").await;
        assert_eq!(driver.observe().await.unwrap_err().kind, DriverErrorKind::Unreachable);
        assert!(tokio::time::timeout(Duration::from_millis(300), driver.next_event()).await.is_err());
        let _proxy = tokio::spawn(super::tests::proxy(tokio::net::UnixListener::bind(&path).unwrap()));
        event(&driver, "whatever happened in between").await;
        driver.observe().await.unwrap();
    })
    .await;
}

/// Passes connections on to the engine; those that are open end with it.
async fn proxy(listener: tokio::net::UnixListener) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        open.spawn(async move {
            let mut far = tokio::net::UnixStream::connect(SOCKET).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

#[test]
fn labels_of_another_host_make_no_owner() {
    let owned = owned("home");
    let labels = |host: &str| -> BTreeMap<String, String> {
        [
            (LABEL_CLUSTER, "home"),
            (LABEL_HOST, host),
            ("moorline.topology", "edge"),
            ("moorline.resource", "docker/volume/edge_v"),
            ("moorline.spec", "x"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
    };
    assert!(owned.of("", &labels(owned.host_id.as_str())).is_some());
    assert!(owned.of("", &labels(&"0".repeat(64))).is_none());
}

#[test]
fn a_volume_of_the_file_replaces_a_carried_one() {
    let target: ContainerTarget = serde_json::from_value(serde_json::json!({
        "name": "a", "service": "a", "labels": {},
        "spec": { "image": "i", "networks": { "n": {}, "o": {} }, "volumes": { "/a": { "type": "volume", "source": "named" }, "/b": { "type": "volume" } } }
    }))
    .unwrap();
    let carried: Carried = [("/b", "bb"), ("/c", "cc")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mounts = body::body(&target, &carried, false).host_config.unwrap().mounts.unwrap();
    let sources: Vec<_> = mounts.iter().map(|m| (m.target.as_deref().unwrap(), m.source.as_deref().unwrap())).collect();
    assert_eq!(sources, [("/a", "named"), ("/b", "bb"), ("/c", "cc")]);
    assert_eq!(body::further_networks(&target, false).len(), 1);
    assert!(body::further_networks(&target, true).is_empty());
}
