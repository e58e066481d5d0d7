//! Images come from a real registry: by the agent's own credentials, by tag or digest, with progress. What cannot be had is
//! told in its own words, and stops nothing that runs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::query_parameters as query;
use moorline_tests::engine::{self, Container, Engine};
use moorline_tests::fleet::{Drive, Fleet, free_port};
use moorline_tests::image::{self, IMAGE};
use moorline_tests::leaks::Leaks;
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::own_engine::OwnEngine;
use moorline_tests::registry::{PASSWORD, PASSWORD_AFTER, PULLER, Registry, SlowWay};
use moorline_tests::wait::wait_until;
use nix::unistd::Uid;

use crate::setup::{EngineFleet, HOST, assert_says, engine_turn, services};

/// A registry in the fleet's folder.
fn registry(fleet: &Fleet, asks: bool) -> Option<Registry> {
    let folder = fleet.root().join("registry");
    std::fs::create_dir_all(&folder).unwrap();
    Registry::start(&folder, free_port().unwrap(), asks).unwrap()
}

/// Takes what was pulled off the engine.
fn forget(t: &EngineFleet, images: &[&str]) {
    t.fleet.moorctl(&["--yes", "down", &t.topology(), "--wait"]).unwrap().ok().unwrap();
    for image in images {
        let _ = t.engine.block_on(t.engine.docker().remove_image(image, None::<query::RemoveImageOptions>, None));
    }
}

fn status_says(fleet: &Fleet, words: &[&str]) {
    let what = format!("the status says {words:?}");
    wait_until(&what, APPLY, || {
        let said = fleet.moorctl(&["get", "report", HOST])?.text();
        Ok(words.iter().all(|word| said.contains(word)))
    })
    .unwrap();
}

fn password_file(path: &Path, password: &str, mode: u32) {
    std::fs::write(path, format!("{password}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_private_image_is_pulled_by_the_agents_own_credentials_and_nobody_else_sees_them() {
    let Some(mut t) = EngineFleet::start("private") else { return };
    let Some(mut registry) = registry(&t.fleet, true) else { return };
    let (topology, address) = (t.topology(), registry.address());
    registry.give(&t.engine, IMAGE, "team/app", "1").unwrap();
    let image = format!("{address}/team/app:1");
    let before_yaml = services(&topology, &["site"], "hello");
    t.fleet.push(&before_yaml, &["--wait"]).unwrap().ok().unwrap();
    let before = t.containers();
    let yaml = before_yaml.replace(IMAGE, &image);

    // Without any, the wait ends with what to do, and what ran runs on.
    let refused = t.fleet.push(&yaml, &["--wait"]).unwrap().expect_code(1).unwrap();
    assert_says(&refused, &["[image_unavailable]", &image, "its registry wants credentials", &format!("[registry.\"{address}\"]")]);
    assert_eq!(t.containers(), before);

    let file = t.fleet.root().join("registry.password");
    let login = format!("[registry.\"{address}\"]\nusername = \"{PULLER}\"\npassword_file = \"{}\"", file.display());
    t.fleet.set_agent_config(HOST, &login).unwrap();
    t.fleet.set_agent_config(HOST, "log_level = \"trace\"").unwrap();
    password_file(&file, PASSWORD, 0o644);
    t.fleet.kill_agent(HOST).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    status_says(&t.fleet, &["others may read the credentials file", "chmod 600"]);
    assert_says(&t.fleet.agent(HOST, &["doctor"]).unwrap(), &["others may read the credentials file"]);
    // Read anew at each try: no restart from here on.
    password_file(&file, "wrong", 0o600);
    status_says(&t.fleet, &[&address, "refuses the agent's credentials"]);
    assert_eq!(t.containers(), before);
    password_file(&file, PASSWORD, 0o600);
    t.fleet.wait_converged(&t.operator, HOST, &topology, 2).unwrap();
    assert_ne!(t.containers(), before);

    let pull = || t.fleet.moorctl(&["--yes", "op", "pull", &format!("{HOST}/image/{image}")]).unwrap();
    pull().ok().unwrap();
    registry.change_password().unwrap();
    assert_says(&pull().expect_code(1).unwrap(), &["refuses the agent's credentials"]);
    password_file(&file, PASSWORD_AFTER, 0o600);
    pull().ok().unwrap();

    let pairs = [PASSWORD, PASSWORD_AFTER].map(|password| [password.to_owned(), format!("{PULLER}:{password}")]).concat();
    let leaks = Leaks::of(pairs.iter().map(String::as_str)).unwrap();
    let root = t.fleet.root();
    let places = [root.join("hub/hub.sqlite"), root.join("operator"), root.join("logs"), t.fleet.agent_dir(HOST)];
    leaks.check(root, &[file], &places).unwrap();
    assert!(t.fleet.logs().unwrap()[HOST].contains("pulling"), "the log is one that says much");
    forget(&t, &[&image]);
}

#[test]
fn what_cannot_be_pulled_stops_nothing_and_is_told_in_its_own_words() {
    let Some(t) = EngineFleet::start("nopull") else { return };
    let Some(mut registry) = registry(&t.fleet, false) else { return };
    let (topology, address) = (t.topology(), registry.address());
    let digest = registry.give(&t.engine, IMAGE, "app", "1").unwrap();
    let base = services(&topology, &["site"], "hello");
    t.fleet.push(&base, &["--wait"]).unwrap().ok().unwrap();
    let before = t.containers();
    let fails = |image: &str, words: &[&str]| {
        let refused = t.fleet.push(&base.replace(IMAGE, image), &["--wait"]).unwrap().expect_code(1).unwrap();
        assert_says(&refused, &["[image_unavailable]", image.split_at_checked(36).map_or(image, |(begin, _)| begin), &address]);
        assert_says(&refused, words);
        assert_eq!(t.containers(), before, "{image}");
    };
    fails(&format!("{address}/app:nowhere"), &["has no such name, tag or platform", "manifest unknown"]);
    let unknown = format!("{address}/app@sha256:{}", "0".repeat(64));
    fails(&unknown, &["has no such name, digest or platform"]);
    registry.stop().unwrap();
    fails(&format!("{address}/app:1"), &["this host does not reach the registry", "connection refused"]);

    // It comes back: the host gets there by itself. Pinned by a digest it stays there when the tag moves.
    registry.restart().unwrap();
    let pinned = format!("{address}/app:1@{digest}");
    let yaml = base.replace(IMAGE, &pinned);
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    let after = t.containers();
    let options = query::CommitContainerOptionsBuilder::new().container(&format!("{topology}-site-1")).repo(&topology).tag("2").build();
    let config = bollard::models::ContainerConfig { labels: Some([("other".to_owned(), "1".to_owned())].into()), ..Default::default() };
    t.engine.block_on(t.engine.docker().commit_container(options, config)).unwrap();
    let other = registry.give(&t.engine, &format!("{topology}:2"), "app", "1").unwrap();
    assert_ne!(other, digest, "the tag has moved");
    t.proxy.forget();
    assert_says(&t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap(), &["nothing"]);
    t.fleet.push(&yaml, &["--force", "--wait"]).unwrap().ok().unwrap();
    assert_eq!((t.containers(), t.proxy.mutations()), (after.clone(), Vec::new()));

    // Other bytes under the same digest are not taken.
    registry.spoil_blobs(2_000).unwrap();
    let _ = t.engine.block_on(t.engine.docker().remove_image(&format!("{topology}:2"), None::<query::RemoveImageOptions>, None));
    let refused = t.fleet.push(&base.replace(IMAGE, &format!("{address}/app@{other}")), &["--wait"]).unwrap().expect_code(1).unwrap();
    assert_says(&refused, &["sent other bytes than the digest names", "do not trust it"]);
    assert_eq!(t.containers(), after);
    forget(&t, &[&pinned, &format!("{topology}:2")]);
}

#[test]
fn a_push_that_pins_signs_the_digests_that_the_registry_has_then() {
    let Some(mut t) = EngineFleet::start("pins") else { return };
    let Some(registry) = registry(&t.fleet, true) else { return };
    let (topology, image) = (t.topology(), format!("{}/app:1", registry.address()));
    let digest = registry.give(&t.engine, IMAGE, "app", "1").unwrap();
    // The agent's login is another matter than the operator's: here both are the same file.
    t.fleet.set_agent_config(HOST, &format!("docker_config = \"{}\"", t.fleet.root().join("logins.json").display())).unwrap();
    t.fleet.kill_agent(HOST).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    let yaml = services(&topology, &["site"], "hello").replace(IMAGE, &image);
    let pin = ["--pin", "--registry-auth", "logins.json", "--wait"];
    let login = |password: &str| {
        let auths = serde_json::json!({ "auths": { registry.address(): { "auth": STANDARD.encode(format!("{PULLER}:{password}")) } } });
        let path = t.fleet.file("logins.json", auths.to_string()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    login("wrong");
    let refused = t.fleet.push(&yaml, &pin).unwrap().expect_code(1).unwrap();
    assert_says(&refused, &["[pin_failed]", &image, "by the credentials that it has", "nothing was signed"]);
    assert!(!refused.text().contains("wrong"), "{}", refused.text());
    login(PASSWORD);
    t.fleet.push(&yaml, &pin).unwrap().ok().unwrap();
    let before = t.containers();
    let slice = t.fleet.moorctl(&["get", "slice", HOST]).unwrap().ok().unwrap();
    assert_says(&slice, &[&format!("{image}@{digest}")]);

    // The tag moves: nothing happens, until it is pinned anew.
    let options = query::CommitContainerOptionsBuilder::new().container(&format!("{topology}-site-1")).repo(&topology).tag("2").build();
    let config = bollard::models::ContainerConfig { labels: Some([("other".to_owned(), "1".to_owned())].into()), ..Default::default() };
    t.engine.block_on(t.engine.docker().commit_container(options, config)).unwrap();
    let other = registry.give(&t.engine, &format!("{topology}:2"), "app", "1").unwrap();
    let again =
        t.fleet.moorctl(&["push", "-f", "topology.yaml", "--pin", "--registry-auth", "logins.json", "--force", "--save", "saved.json"]);
    assert_says(&again.unwrap().ok().unwrap(), &[&other]);
    let plan =
        t.fleet.moorctl(&["plan", "-f", "topology.yaml", "--pin", "--registry-auth", "logins.json"]).unwrap().expect_code(2).unwrap();
    assert_says(&plan, &["replace", other.get(..20).unwrap()]);
    // What was signed is sliced anew from the signed source alone: the old digest.
    t.fleet.moorctl(&["--yes", "down", &topology, "--wait"]).unwrap().ok().unwrap();
    t.fleet.moorctl(&["--yes", "rollback", &topology, "--to", "1", "--wait"]).unwrap().ok().unwrap();
    let after = t.containers();
    let specs = |of: &BTreeMap<String, Container>| of.values().map(|c| c.labels["moorline.spec"].clone()).collect::<Vec<_>>();
    assert_eq!(specs(&after), specs(&before));
    forget(&t, &[&format!("{image}@{digest}"), &format!("{topology}:2")]);
}

#[test]
fn how_far_a_pull_is_shows_while_one_waits() {
    let Some(t) = EngineFleet::start("slowpull") else { return };
    let Some(registry) = registry(&t.fleet, false) else { return };
    let topology = t.topology();
    let slow = SlowWay::start(&registry.address(), 8 * 1024, Duration::from_millis(300)).unwrap();
    // Layers that no image on this engine has: what is here already does not come again.
    let layer = t.fleet.root().join("layer");
    std::fs::create_dir_all(&layer).unwrap();
    for name in ["app", "more"] {
        std::fs::write(layer.join("filler"), noise(256 * 1024)).unwrap();
        make_image(&t.engine, &layer, &format!("{topology}:{name}"));
        registry.give(&t.engine, &format!("{topology}:{name}"), name, "1").unwrap();
        t.engine.block_on(t.engine.docker().remove_image(&format!("{topology}:{name}"), None::<query::RemoveImageOptions>, None)).unwrap();
    }
    let (image, more) = (format!("{}/app:1", slow.address()), format!("{}/more:1", slow.address()));
    let shown = |image: &str| [format!("pulling `{image}`"), "0 of 1 layers, 0.".to_owned(), " MiB".to_owned()];

    let yaml = services(&topology, &["site"], "hello").replace(IMAGE, &image).replace("image:", "command: [/bin/none]\n          image:");
    let output = t.fleet.push(&yaml, &["--wait", "--timeout", "20s"]).unwrap();
    assert_says(&output, &shown(&image).each_ref().map(String::as_str));
    let output = t.fleet.moorctl(&["--yes", "op", "pull", &format!("{HOST}/image/{more}")]).unwrap().ok().unwrap();
    assert_says(&output, &shown(&more).each_ref().map(String::as_str));
    let lines = output.text().matches("pulling").count();
    assert!(lines < 10, "a line now and then, not one for each word of the engine:\n{}", output.text());
    wait_until("it is not shown any more", SOON, || Ok(t.operator.host(HOST)?.pulls.is_empty())).unwrap();
    forget(&t, &[&image, &more]);
}

/// Bytes that do not shrink.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    getrandom::fill(&mut noise).unwrap();
    noise
}

/// Imports what is in `folder` as an image.
fn make_image(engine: &Engine, folder: &Path, name: &str) {
    use futures_util::StreamExt as _;
    let tar = Command::new("tar").arg("-C").arg(folder).args(["-c", "."]).output().unwrap();
    assert!(tar.status.success());
    let (repo, tag) = name.split_once(':').unwrap();
    let options = query::CreateImageOptionsBuilder::new().from_src("-").repo(repo).tag(tag).build();
    engine.block_on(async {
        let mut stream = std::pin::pin!(engine.docker().create_image(Some(options), Some(bollard::body_full(tar.stdout.into())), None));
        while let Some(progress) = stream.next().await {
            progress.unwrap();
        }
    });
}

/// An engine with a small disk of its own, in memory.
struct SmallEngine {
    own: Option<OwnEngine>,
    folder: tempfile::TempDir,
}

impl SmallEngine {
    fn start() -> Option<Self> {
        if !Uid::effective().is_root() {
            assert!(!engine::is_required(), "only root may mount a small disk; run the tests as root");
            println!("skipped: only root may mount a small disk");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("moorline-full-").tempdir().unwrap();
        let mut small = Self { own: None, folder };
        std::fs::create_dir(small.data()).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "moorline-test"]).arg(small.data()).status().unwrap();
        assert!(mounted.success());
        match OwnEngine::start(small.folder.path()) {
            Ok(own) => small.own = Some(own),
            Err(error) => {
                println!("skipped: this machine cannot run a second dockerd: {error:#}");
                return None;
            }
        }
        Some(small)
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn own(&self) -> &OwnEngine {
        self.own.as_ref().unwrap()
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::options().create(true).append(true).open(self.data().join("filler")).unwrap();
        for size in [64 * 1024, 512, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }
}

impl Drop for SmallEngine {
    fn drop(&mut self) {
        drop(self.own.take());
        let _ = Command::new("umount").args(["--recursive"]).arg(self.data()).status();
    }
}

#[test]
fn on_a_full_disk_a_pull_fails_in_plain_words_and_what_runs_goes_on() {
    let _turn = engine_turn();
    let Some(system) = Engine::system().unwrap() else { return println!("skipped: no Docker Engine answers") };
    let Some(small) = SmallEngine::start() else { return };
    let engine = Engine::connect(&small.own().socket()).unwrap();
    image::ensure(&engine).unwrap();
    image::ensure(&system).unwrap();
    // Before the hosts' engines are used: it ends after them.
    let mut fleet = Fleet::start("fullpull").unwrap();
    let Some(mut registry) = registry(&fleet, false) else { return };
    let cluster = fleet.cluster().to_owned();
    let layer = fleet.root().join("layer");
    std::fs::create_dir_all(&layer).unwrap();
    std::fs::write(layer.join("filler"), noise(4 * 1024 * 1024)).unwrap();
    make_image(&system, &layer, &format!("{cluster}:1"));
    registry.give(&system, &format!("{cluster}:1"), "app", "1").unwrap();
    system.block_on(system.docker().remove_image(&format!("{cluster}:1"), None::<query::RemoveImageOptions>, None)).unwrap();
    registry.restart_beside(small.own().id().unwrap()).unwrap();

    fleet.add_host(HOST, Drive::Docker(small.own().socket()), &[]).unwrap();
    let base = services(&cluster, &["site"], "hello");
    fleet.push(&base, &["--wait"]).unwrap().ok().unwrap();
    let containers = || -> BTreeMap<String, Container> { engine.containers(&cluster).unwrap() };
    let before = containers();
    small.fill();
    let image = format!("{}/app:1", registry.address());
    let refused = fleet.push(&base.replace(IMAGE, &image), &["--wait"]).unwrap().expect_code(1).unwrap();
    assert_says(&refused, &["[image_unavailable]", &image, "this host's disk is full", "no space left on device", "moorctl op prune"]);
    assert_eq!(containers(), before);
    std::fs::remove_file(small.data().join("filler")).unwrap();
    wait_until("the image comes when there is room", APPLY, || Ok(engine.block_on(engine.docker().inspect_image(&image)).is_ok())).unwrap();
}
