//! What `docker-compose` made is taken over as it is, and is then like everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveVolumeOptions};
use moorline_tests::inspect::{ask, delete};
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;
use moorline_tests::{image, peer::Compose};
use serde_json::Value;

use crate::setup::{EngineFleet, HOST};

/// The value of a variable that nobody but the operator is to read.
const MARKED: &str = "hunter2-of-the-shop-and-nobody-else";

fn file() -> String {
    let image = image::IMAGE;
    let net = format!("10.215.{}", std::process::id() % 250);
    format!(
        "version: '2.4'
volumes: {{ data: {{}} }}
networks: {{ back: {{ ipam: {{ config: [{{ subnet: {net}.0/24 }}] }} }} }}
x-all: &all {{ image: {image}, stop_grace_period: 1s }}
services:
  db:
    <<: *all
    environment: {{ DB_PASSWORD: {MARKED}, PRICE: 5$$ }}
    volumes: ['data:/var/lib/db', '/scratch']
    networks: {{ back: {{ ipv4_address: {net}.9, aliases: [database] }} }}
    restart: unless-stopped
    mem_limit: 64m
  cache: {{ <<: *all, networks: [back], tmpfs: ['/cache:size=4m'], read_only: true, cap_drop: [ALL] }}
  side: {{ <<: *all, network_mode: 'service:db', command: sleep 100000 }}
  web:
    <<: *all
    ports: ['80']
    labels: {{ team: shop }}
    ulimits: {{ nofile: 1000 }}
    logging: {{ driver: json-file, options: {{ max-size: 1m }} }}
  odd: {{ <<: *all, hostname: odd, user: '0', working_dir: /bin, init: true, pids_limit: 50, cpus: 0.5, extra_hosts: ['a.example:10.0.0.1'] }}
  checked: {{ <<: *all, healthcheck: {{ test: [CMD, /bin/true], interval: 3s, retries: 2 }}, depends_on: [odd] }}
  alone: {{ <<: *all, network_mode: none, command: sleep 100000, shm_size: 32m, sysctls: {{ net.ipv4.ip_unprivileged_port_start: '80' }} }}
"
    )
}

/// A fleet, and what `docker-compose` makes for it. That bears no label of the fleet before Moorline has replaced it, so it is removed by its
/// name when this goes, however the test ends.
struct Project {
    t: EngineFleet,
    /// Without the underscore that is behind it in every name.
    name: String,
    /// The volumes of its containers, those without a name, too.
    volumes: BTreeSet<String>,
}

impl Project {
    /// Of the engine's list at `path`, what bears the project's name: one of what `names` gives of it.
    fn list(&self, path: &str, names: impl Fn(&Value) -> Vec<&Value>) -> Result<Vec<Value>> {
        let (status, answer) = ask(self.t.engine.socket(), "GET", path)?;
        ensure!(status == 200, "GET {path}: {status} {answer}");
        let prefix = format!("{}_", self.name);
        let is_of_it = |object: &&Value| names(object).iter().any(|name| name.as_str().is_some_and(|name| name.contains(&prefix)));
        let list = answer.as_array().or_else(|| answer["Volumes"].as_array());
        Ok(list.into_iter().flatten().filter(is_of_it).cloned().collect())
    }

    fn containers(&self) -> Result<Vec<Value>> {
        self.list("/containers/json?all=true", |container| container["Names"].as_array().into_iter().flatten().collect())
    }

    fn note_volumes(&mut self) -> Result<()> {
        let containers = self.containers()?;
        let mounts = containers.iter().filter_map(|container| container["Mounts"].as_array()).flatten();
        self.volumes.extend(mounts.filter_map(|mount| mount["Name"].as_str().map(str::to_owned)));
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        self.note_volumes()?;
        let id = |object: &Value| object["Id"].as_str().unwrap_or_default().to_owned();
        let mut paths: Vec<String> = self.containers()?.iter().map(|c| format!("/containers/{}?force=1&v=1", id(c))).collect();
        paths.extend(self.list("/networks", |network| vec![&network["Name"]])?.iter().map(|network| format!("/networks/{}", id(network))));
        let named = self.list("/volumes", |volume| vec![&volume["Name"]])?;
        self.volumes.extend(named.iter().filter_map(|volume| volume["Name"].as_str().map(str::to_owned)));
        paths.extend(self.volumes.iter().map(|name| format!("/volumes/{name}")));
        let mut trouble = Vec::new();
        for path in paths {
            if let Err(error) = delete(self.t.engine.socket(), &path) {
                trouble.push(format!("{error:#}"));
            }
        }
        ensure!(trouble.is_empty(), "{}", trouble.join("; "));
        Ok(())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // An agent would make anew what is removed.
        self.t.fleet.end_processes();
        if let Err(error) = self.remove() {
            eprintln!("what `docker-compose` made for {} is not all removed: {error:#}", self.name);
        }
    }
}

/// The engine's own word on the project's containers, by name.
fn look(t: &EngineFleet, project: &str) -> BTreeMap<String, ContainerInspectResponse> {
    let docker = t.engine.docker();
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let found = t.engine.block_on(docker.list_containers(Some(options))).unwrap();
    let mut containers = BTreeMap::new();
    for name in found.into_iter().filter_map(|c| c.names?.pop()).filter(|name| name.contains(project)) {
        let live = t.engine.block_on(docker.inspect_container(name.trim_start_matches('/'), None)).unwrap();
        containers.insert(name.trim_start_matches('/').to_owned(), live);
    }
    containers
}

/// What must not change: the container, when it was started, and its volumes.
fn identity(live: &ContainerInspectResponse) -> (String, String, Vec<String>) {
    let started = live.state.as_ref().and_then(|s| s.started_at.clone()).unwrap_or_default();
    (live.id.clone().unwrap_or_default(), started, volumes(live))
}

fn volumes(live: &ContainerInspectResponse) -> Vec<String> {
    let mut names: Vec<String> = live.mounts.iter().flatten().filter_map(|m| m.name.clone()).collect();
    names.sort();
    names
}

fn holds(folder: &Path, text: &str) -> Option<String> {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let found = if path.is_dir() && !path.is_symlink() {
            holds(&path, text)
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes()).then(|| path.display().to_string())
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn what_docker_compose_made_is_taken_over_without_a_touch_and_changes_like_everything_else() {
    let Some(t) = EngineFleet::start("adopted") else { return };
    let Some(mut compose) = Compose::start(t.fleet.root(), t.fleet.root().join("compose.out")).unwrap() else { return };
    let mut project = Project { name: t.topology(), t, volumes: BTreeSet::new() };
    let fleet = &project.t.fleet;
    let policy = fleet.file("policy.toml", "outside = []\n").unwrap();
    fleet.set_agent_config(HOST, &format!("policy = \"{}\"", policy.display())).unwrap();
    let compose_file = fleet.file("compose.yml", file()).unwrap();
    compose.run(&["-p", &project.name, "-f", compose_file.to_str().unwrap(), "up", "-d", "--scale", "web=4"]).unwrap();
    project.note_volumes().unwrap();
    let name = project.name.clone();
    story(&mut project.t, &name, &policy);
}

fn story(t: &mut EngineFleet, name: &str, policy: &Path) {
    let before: BTreeMap<_, _> = look(t, name).iter().map(|(name, live)| (name.clone(), identity(live))).collect();
    assert_eq!(before.len(), 10, "{before:?}");
    let out = t.fleet.root().join("adopted.yaml");
    let imported =
        t.fleet.moorctl(&["import", "docker", "--host", HOST, "--project", name, "--out", out.to_str().unwrap()]).unwrap().ok().unwrap();
    assert!(imported.text().contains("10 containers of shop-1 can be taken over"), "{}", imported.text());
    let yaml = std::fs::read_to_string(&out).unwrap();
    assert!(yaml.contains(MARKED) && yaml.contains("adopt: "), "{yaml}");
    // The answer went through the hub and is kept by both; neither can read it.
    for folder in [t.fleet.hub_dir(), t.fleet.agent_dir(HOST)] {
        assert_eq!(holds(&folder, MARKED), None);
    }
    assert!(holds(t.fleet.root(), MARKED).is_some(), "the search finds what is there");

    // The host does not give away what it did not make unless it says so.
    t.fleet.push(&yaml, &[]).unwrap().ok().unwrap();
    wait_until("the refusal is known", SOON, || {
        Ok(t.operator.host(HOST)?.last_error.is_some_and(|e| e.code == "policy_denied" && e.message.contains("outside")))
    })
    .unwrap();
    // The line that the import told is what it takes.
    let told = imported.text();
    let line = told.lines().find(|line| line.trim().starts_with("outside = ")).unwrap();
    std::fs::write(policy, format!("{line}\n")).unwrap();
    t.fleet.stop_agent(HOST).unwrap();

    // Killed before it has noted the first one.
    t.proxy.forget();
    t.fleet.start_agent_with(HOST, &[("MOORLINE_CRASH_AT", "reconcile.note.before")]).unwrap();
    t.fleet.push(&yaml, &["--force"]).unwrap().ok().unwrap();
    wait_until("it is killed", SOON, || Ok(t.fleet.agent_ended(HOST)?.is_some())).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    let plan = t.fleet.push(&yaml, &["--force", "--wait"]).unwrap().ok().unwrap();
    assert_eq!(t.proxy.mutations(), vec![], "{}", plan.text());
    let same = |t: &EngineFleet| look(t, name).iter().map(|(name, live)| (name.clone(), identity(live))).collect::<BTreeMap<_, _>>();
    assert_eq!(same(t), before);
    let rest = t.fleet.moorctl(&["plan", "-f", out.to_str().unwrap()]).unwrap();
    assert!(rest.code == 0, "{}", rest.text());

    // Killed and started again it still knows what it took over.
    t.fleet.kill_agent(HOST).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    t.fleet.push(&yaml, &["--force", "--wait"]).unwrap().ok().unwrap();
    assert_eq!((t.proxy.mutations(), same(t)), (vec![], before.clone()));

    // A change of one, after `adopt` was taken out.
    let changed: String = yaml.lines().filter(|line| !line.contains("adopt:")).map(|line| format!("{line}\n")).collect();
    let changed = changed.replace(MARKED, "another");
    t.fleet.push(&changed, &["--wait"]).unwrap().ok().unwrap();
    let after = look(t, name);
    let db = format!("{name}_db_1");
    for (name, live) in &after {
        let shares = name.ends_with("_side_1");
        if *name == db || shares {
            assert_ne!(identity(live).0, before[name].0, "{name}");
        } else {
            assert_eq!(identity(live), before[name], "{name}");
        }
    }
    assert_eq!(volumes(&after[&db]), before[&db].2, "with its volumes, the one without a name, too");
    assert!(after[&db].state.as_ref().is_some_and(|s| s.running == Some(true)));

    // Once more, and then `down` removes all of it, what was never touched, too: it was taken over.
    let again = changed.replace("PRICE", "PRICES");
    t.fleet.push(&again, &["--wait"]).unwrap().ok().unwrap();
    t.fleet.moorctl(&["--yes", "down", name, "--wait"]).unwrap().ok().unwrap();
    assert!(look(t, name).is_empty(), "{:?}", look(t, name).keys());
    // Its data stays, that without a name, too; which nobody else would find to remove.
    let volumes: BTreeSet<String> = before.into_values().flat_map(|(_, _, volumes)| volumes).collect();
    assert!(volumes.contains(&format!("{name}_data")), "{volumes:?}");
    for volume in &volumes {
        t.engine.block_on(t.engine.docker().remove_volume(volume, None::<RemoveVolumeOptions>)).unwrap();
    }
}
