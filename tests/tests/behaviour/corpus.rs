//! Compose files mean here what they mean to `docker-compose`: every file of `tests/corpus` is applied by both to the real engine,
//! and the engine says the same of both, but for what stands in [`DIFFERENT`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};
use moorline_tests::engine::Engine;
use moorline_tests::fleet::{Drive, Fleet, text};
use moorline_tests::image;
use moorline_tests::inspect::{CHOSEN_PORTS, CHOSEN_SUBNETS, Labelled, Place, delete, differences};
use moorline_tests::limits::{COMMAND, SOON};
use moorline_tests::peer::Compose;
use moorline_tests::process::run;
use moorline_tests::proxy::Proxy;
use moorline_tests::wait::wait_until;
use serde_json::Value;

use crate::setup::engine_turn;

/// Where the engine says something else of a container, network or volume of ours than of one that `docker-compose` made, and why. A
/// star stands for any key. docs/compose.md lists exactly these.
const DIFFERENT: &[(&str, &str)] = &[
    ("container Config/Labels/com.docker.compose.*", "`docker-compose` finds its containers by these labels."),
    ("container Config/Labels/moorline.*", "Moorline finds its containers by these labels."),
    ("container Config/Volumes/*", "`docker-compose` names mounts here too; what is mounted (`Mounts`) is the same."),
    (
        "container HostConfig/Binds",
        "`docker-compose` asks for named volumes by the older of two ways; what is mounted (`Mounts`) is the same.",
    ),
    ("container HostConfig/Mounts", "Moorline asks for named volumes by the newer way; what is mounted (`Mounts`) is the same."),
    (
        "container Mounts/*/Mode",
        "The engine writes `z` for a volume that was asked for by the newer way; whether it can be written (`RW`) is the same.",
    ),
    ("container HostConfig/CapAdd", "Moorline writes capabilities with `CAP_`, as the engine's own tools do."),
    ("container HostConfig/CapDrop", "As `CapAdd`."),
    (
        "container HostConfig/SecurityOpt",
        "Moorline writes `no-new-privileges=true` and `seccomp=unconfined` where `docker-compose` hands on the older spelling with a colon.",
    ),
    (
        "network Attachable",
        "`docker-compose` says `true` of every network. It counts for overlay networks of a swarm alone, and there Moorline does what the file says.",
    ),
    ("network Labels/com.docker.compose.*", "`docker-compose` finds its networks by these labels."),
    ("network Labels/moorline.*", "Moorline finds its networks by these labels."),
    ("network only second", "Moorline makes every network of the file, `docker-compose` those that a service uses."),
    ("volume Labels/com.docker.compose.*", "`docker-compose` finds its volumes by these labels."),
    ("volume Labels/moorline.*", "Moorline finds its volumes by these labels."),
];

/// The network and the volume that files of the corpus name as external.
const OUTSIDE: &str = "moorline-corpus-outside";
/// How many files are tried at once, each on a host of its own.
const HOSTS: usize = 4;

/// What the files of the corpus want of a host.
fn policy(root: &Path) -> String {
    format!(
        "bind_roots = [\"{}\"]\nprivileged = true\ncapabilities = [\"NET_ADMIN\", \"SYS_TIME\", \"SYS_PTRACE\", \"SYS_RESOURCE\"]\n\
         devices = [\"/dev/zero\", \"/dev/null\", \"/dev/full\"]\nhost_namespaces = [\"network\", \"pid\", \"ipc\", \"uts\", \"user\", \"cgroup\"]\n\
         security_opts = [\"seccomp=unconfined\", \"label=disable\"]\nruntimes = [\"runc\"]\noutside = [\"{OUTSIDE}\"]\n",
        root.display()
    )
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The names of all files that are whole projects, without their endings.
fn corpus() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter_map(|name| Some(name.strip_suffix(".yml")?.to_owned())).collect();
    names.retain(|name| !name.ends_with("-common"));
    names.sort();
    names
}

/// What a file says of `docker-compose` in its first lines: `no` with the reason, or options that it needs.
fn said_of_compose(yaml: &str) -> Option<&str> {
    yaml.lines().take_while(|line| line.starts_with('#')).find_map(|line| line.strip_prefix("# docker-compose: "))
}

/// Whether a pattern of [`DIFFERENT`] is for a place.
fn is_for(pattern: &str, (kind, _, keys): &Place) -> bool {
    let Some((of, path)) = pattern.split_once(' ') else { return false };
    let wanted: Vec<&str> = path.split('/').collect();
    let fits = |(wanted, key): (&&str, &String)| wanted.strip_suffix('*').map_or(*wanted == key, |beginning| key.starts_with(beginning));
    of == *kind && wanted.len() == keys.len() && wanted.iter().zip(keys).all(fits)
}

/// A host, and what is at hand for it.
struct Host {
    name: String,
    proxy: Proxy,
    compose: Compose,
}

struct World<'a> {
    fleet: &'a Fleet,
    socket: &'a Path,
    folder: PathBuf,
}

impl World<'_> {
    fn compose(&self, compose: &mut Compose, project: &str, file: &str, options: &str) -> Result<BTreeMap<Place, Value>> {
        let label = format!("com.docker.compose.project={project}");
        let made = Labelled { socket: self.socket, label: &label, project };
        let arguments: Vec<&str> = options.split_whitespace().chain(["--ansi", "never", "-p", project, "-f", file, "up", "-d"]).collect();
        let facts = compose.run(&arguments).and_then(|()| made.settle()).and_then(|()| made.facts());
        let removed = made.remove();
        let facts = facts?;
        removed?;
        Ok(facts)
    }

    fn moorline(&self, host: &Host, project: &str, file: &str) -> Result<BTreeMap<Place, Value>> {
        let label = format!("moorline.topology={project}");
        let made = Labelled { socket: self.socket, label: &label, project };
        let facts = self.applied(host, &made, file);
        // Removing a topology leaves volumes alone, and these bear no label by which they could be found later.
        let unnamed = made.unnamed_volumes();
        let down = self.moorctl(&["--yes", "down", project, "--wait"]);
        let removed = made.remove();
        let facts = facts?;
        down?;
        removed?;
        for volume in unnamed? {
            delete(self.socket, &format!("/volumes/{volume}"))?;
        }
        Ok(facts)
    }

    fn applied(&self, host: &Host, made: &Labelled<'_>, file: &str) -> Result<BTreeMap<Place, Value>> {
        let out = format!("{}.topology.yaml", made.project);
        let root = text(&self.folder)?;
        self.moorctl(&["import", "compose", file, "--host", &host.name, "--topology", made.project, "--bind-root", root, "--out", &out])?;
        self.moorctl(&["--yes", "push", "-f", &out, "--wait"])?;
        made.settle()?;
        let (facts, starts) = (made.facts()?, made.starts()?);
        ensure!(!starts.is_empty(), "nothing was made");

        let planned = Mutex::new(String::new());
        wait_until("the plan is empty", SOON, || {
            let planned_now = self.fleet.moorctl(&["plan", "-f", text(&self.folder.join(&out))?, "--detailed-exitcode"])?;
            let is_empty = planned_now.code == 0;
            *planned.lock().unwrap() = planned_now.text();
            Ok(is_empty)
        })
        .with_context(|| planned.lock().unwrap().clone())?;
        let report = self.moorctl(&["get", "report", &host.name, "-o", "json"])?;
        let report: Value = serde_json::from_str(&report)?;
        let apply = report.pointer("/report/apply").with_context(|| format!("a report has what was applied: {report}"))?;
        for key in ["drift", "troubles"] {
            let list = apply.get(key).and_then(Value::as_array);
            ensure!(list.is_none_or(Vec::is_empty), "{key} at rest: {list:?}");
        }

        host.proxy.forget();
        self.moorctl(&["--yes", "push", "-f", &out, "--force", "--wait"])?;
        let mutations = host.proxy.mutations();
        ensure!(mutations.is_empty(), "the same content again changed the engine: {mutations:?}");
        ensure!(made.starts()? == starts, "the same content again restarted something");
        Ok(facts)
    }

    fn moorctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.fleet.moorctl_command(args);
        command.current_dir(&self.folder);
        Ok(run(command, b"", COMMAND)?.ok().with_context(|| format!("moorctl {}", args.join(" ")))?.stdout)
    }

    /// Tries one file, and once more, under another name, when the engine has lost count meanwhile.
    fn try_file(&self, host: &mut Host, name: &str) -> Result<BTreeSet<&'static str>> {
        let pid = std::process::id();
        match self.try_as(host, name, &format!("c{pid}-{name}")) {
            Err(error) if has_lost_count(&error) => {
                eprintln!("{name}.yml: the engine calls a network in use that nothing uses, and is tried once more: {error:#}");
                self.try_as(host, name, &format!("c{pid}-again-{name}"))
            }
            tried => tried,
        }
    }

    /// Tries one file as `project`; gives the entries of [`DIFFERENT`] that it needs.
    fn try_as(&self, host: &mut Host, name: &str, project: &str) -> Result<BTreeSet<&'static str>> {
        let file = format!("{name}.yml");
        let yaml = std::fs::read_to_string(self.folder.join(&file))?;
        let said = said_of_compose(&yaml).unwrap_or_default();
        let theirs = if said.starts_with("no, ") { None } else { Some(self.compose(&mut host.compose, project, &file, said)?) };
        let ours = self.moorline(host, project, &file)?;
        let Some(theirs) = theirs else { return Ok(BTreeSet::new()) };
        let (mut used, mut trouble) = (BTreeSet::new(), Vec::new());
        for (place, (theirs, ours)) in differences(&theirs, &ours) {
            let known: Vec<&str> = DIFFERENT.iter().map(|(pattern, _)| *pattern).filter(|pattern| is_for(pattern, &place)).collect();
            if known.is_empty() {
                trouble.push(format!("{} {}: {}: {theirs} → {ours}", place.0, place.1, place.2.join("/")));
            }
            used.extend(known);
        }
        if trouble.is_empty() { Ok(used) } else { bail!("docker-compose → Moorline:\n  {}", trouble.join("\n  ")) }
    }
}

/// Whether a network cannot be removed though nothing is on it. Engines before version 28 keep a count of a network's endpoints beside the
/// endpoints, and under load it sometimes stays above them for good: `local-kv.db` has the count and no endpoint.
fn has_lost_count(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("has active endpoints")
}

/// Makes what the files of the corpus call external, and removes it again.
struct Outside<'a>(&'a Path);

impl<'a> Outside<'a> {
    fn make(engine: &'a Engine) -> Self {
        let network = bollard::models::NetworkCreateRequest { name: OUTSIDE.to_owned(), ..Default::default() };
        let volume = bollard::models::VolumeCreateRequest { name: Some(OUTSIDE.to_owned()), ..Default::default() };
        let this = Self(engine.socket());
        this.remove();
        engine.block_on(engine.docker().create_network(network)).unwrap();
        engine.block_on(engine.docker().create_volume(volume)).unwrap();
        this
    }

    fn remove(&self) {
        for folder in ["networks", "volumes"] {
            let _ = delete(self.0, &format!("/{folder}/{OUTSIDE}"));
        }
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn compose_files_make_on_the_engine_what_docker_compose_makes_and_are_then_at_rest() {
    let _turn = engine_turn();
    let Some(engine) = Engine::system().unwrap() else {
        println!("skipped: no Docker Engine answers (set MOORLINE_REQUIRE_DOCKER=1 to make that a failure)");
        return;
    };
    image::ensure(&engine).unwrap();
    let mut fleet = Fleet::start("corpus").unwrap();
    let outside = Outside::make(&engine);
    let folder = fleet.root().join("corpus");
    let mut copy = Command::new("cp");
    copy.arg("-R").arg(self::folder()).arg(&folder);
    run(copy, b"", COMMAND).unwrap().ok().unwrap();
    let policy = fleet.file("policy.toml", policy(&folder)).unwrap();
    let mut hosts = Vec::new();
    for n in 1..=HOSTS {
        let name = format!("corpus-{n}");
        let Some(compose) = Compose::start(&folder, fleet.root().join("logs").join(format!("compose-{n}.log"))).unwrap() else {
            println!("skipped: `docker-compose` is not installed");
            return;
        };
        let proxy = Proxy::start(&fleet.root().join(format!("engine-{n}.sock")), engine.socket()).unwrap();
        fleet.set_agent_config(&name, &format!("policy = \"{}\"", policy.display())).unwrap();
        fleet.add_host(&name, Drive::Docker(proxy.socket().to_owned()), &[]).unwrap();
        hosts.push(Host { name, proxy, compose });
    }

    let only = std::env::var("MOORLINE_CORPUS_ONLY").ok();
    let mut names = corpus();
    names.retain(|name| only.as_ref().is_none_or(|only| only.split(',').any(|o| o == name)));
    let names = Mutex::new(names);
    let (used, trouble) = (Mutex::new(BTreeSet::new()), Mutex::new(Vec::new()));
    let world = World { fleet: &fleet, socket: engine.socket(), folder };
    std::thread::scope(|scope| {
        for mut host in hosts {
            let (names, used, trouble, world) = (&names, &used, &trouble, &world);
            scope.spawn(move || {
                loop {
                    let Some(name) = names.lock().unwrap().pop() else { break };
                    match world.try_file(&mut host, &name) {
                        Ok(needed) => used.lock().unwrap().extend(needed),
                        Err(error) => trouble.lock().unwrap().push(format!("{name}.yml: {error:#}")),
                    }
                }
            });
        }
    });
    drop(outside);
    let trouble = trouble.into_inner().unwrap();
    assert!(trouble.is_empty(), "{}", trouble.join("\n"));
    if only.is_none() {
        let used = used.into_inner().unwrap();
        let idle: Vec<&str> = DIFFERENT.iter().map(|(pattern, _)| *pattern).filter(|pattern| !used.contains(pattern)).collect();
        assert!(idle.is_empty(), "no file differs there: {idle:?}");
    }
}

/// Keys of Compose files that no file of the corpus has, each with the reason. docs/compose.md lists exactly these.
const NOT_TRIED: &[(&str, &str)] = &[
    ("healthcheck.start_interval", "needs API 1.44; the engine of the tests has 1.41"),
    ("volume_options.subpath", "needs API 1.45"),
    ("service.storage_opt", "needs a storage driver with quotas"),
    ("service.privileged", "a sandbox may not give all capabilities"),
    ("docker.secrets", "tried in `secrets.rs`"),
    ("docker.configs", "tried in `secrets.rs`"),
    ("service.secrets", "tried in `secrets.rs`"),
    ("service.configs", "tried in `secrets.rs`"),
    ("service.adopt", "Moorline's own; tried in `adopted.rs`"),
    ("network.adopt", "Moorline's own; tried in `adopted.rs`"),
    ("volume.adopt", "Moorline's own; tried in `adopted.rs`"),
    ("service.drift", "Moorline's own; tried in `inbox.rs`"),
    ("network.drift", "Moorline's own; tried in `inbox.rs`"),
    ("volume.drift", "Moorline's own; tried in `inbox.rs`"),
];

/// Adds the keys in `value`, each behind the name of the definition that it is a key of.
fn walk(value: &Value, schema: &Value, definitions: &Value, used: &mut BTreeSet<String>) {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    let schema = name.map_or(schema, |name| &definitions[name]);
    for alternative in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        walk(value, alternative, definitions, used);
    }
    if let (Some(list), Some(items)) = (value.as_array(), schema.get("items")) {
        list.iter().for_each(|one| walk(one, items, definitions, used));
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        if let Some(known) = schema.pointer("/properties").and_then(|keys| keys.get(key)) {
            used.insert(format!("{}.{key}", name.unwrap_or_default()));
            walk(inner, known, definitions, used);
        } else if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
            walk(inner, any, definitions, used);
        }
    }
}

/// The definitions that no Compose file has anything of: a topology's own, those of guests of
/// Proxmox VE, and what only secrets and configs have.
const ELSEWHERE: [&str; 15] = [
    "policy",
    "maintenance-window",
    "rollout",
    "profile",
    "host",
    "proxmox",
    "guest",
    "guest-source",
    "guest-shutdown",
    "qemu-config",
    "lxc-config",
    "secret",
    "config",
    "secret_mount",
    "config_mount",
];

#[test]
fn every_key_of_a_compose_file_is_in_a_file_of_the_corpus() {
    let schema = moorline_common::topology::json_schema();
    let definitions = &schema["$defs"];
    let (mut used, mut all) = (BTreeSet::new(), BTreeSet::new());
    for name in corpus() {
        let yaml = std::fs::read_to_string(folder().join(format!("{name}.yml"))).unwrap();
        let file: Value = serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{name}.yml: {error}"));
        walk(&file, &serde_json::json!({ "$ref": "#/$defs/docker" }), definitions, &mut used);
    }
    for (definition, content) in definitions.as_object().unwrap() {
        let keys = content["properties"].as_object().into_iter().flatten().filter(|_| !ELSEWHERE.contains(&definition.as_str()));
        all.extend(keys.map(|(key, _)| format!("{definition}.{key}")));
    }
    let unused: Vec<&str> = all.difference(&used).map(String::as_str).collect();
    let mut excused: Vec<&str> = NOT_TRIED.iter().map(|(key, _)| *key).collect();
    excused.sort_unstable();
    assert_eq!(unused, excused);
}

/// The rows of the table that stands under a heading.
fn rows<'g>(guide: &'g str, heading: &str) -> Vec<&'g str> {
    let under = guide.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    under.filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_guide_for_users_of_compose_lists_every_difference_and_what_is_not_compared() {
    let guide = std::fs::read_to_string(folder().join("../../docs/compose.md")).unwrap();
    let row = |(what, why): &(&str, &str)| format!("| `{what}` | {why} |");
    assert_eq!(rows(&guide, "## What the engine says otherwise"), DIFFERENT.iter().map(row).collect::<Vec<_>>());
    assert_eq!(rows(&guide, "## Keys that no file has"), NOT_TRIED.iter().map(row).collect::<Vec<_>>());

    let files: Vec<(String, String)> =
        corpus().into_iter().map(|name| (std::fs::read_to_string(folder().join(format!("{name}.yml"))).unwrap(), name)).collect();
    let alone = files.iter().filter_map(|(yaml, name)| Some((name, said_of_compose(yaml)?.strip_prefix("no, ")?)));
    let alone: Vec<String> = alone.map(|(name, why)| row(&(&format!("{name}.yml"), why))).collect();
    assert_eq!(rows(&guide, "## Files that `docker-compose` cannot apply"), alone);
    let (all, beyond) = (files.len(), alone.len());
    let ports = format!("from {} to {}", CHOSEN_PORTS.start(), CHOSEN_PORTS.end());
    let subnets = CHOSEN_SUBNETS.map(|subnet| format!("`{subnet}`")).join(" or ");
    for words in [format!("{all} Compose files"), format!("{} of them", all - beyond), format!("other {beyond} are"), ports, subnets] {
        assert!(guide.contains(&words), "{words}");
    }
}
