//! Secrets and configs are files in containers with the values of the operator's machine, sealed on the whole way: nobody else sees them,
//! another value is another container, and what memory loses comes back.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use futures_util::StreamExt as _;
use moorline_agent::vault::{Standing, standing};
use moorline_common::sign::Envelope;
use moorline_common::statement::SliceStatement;
use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::image::IMAGE;
use moorline_tests::leaks::Leaks;
use moorline_tests::limits::{APPLY, COMMAND, SOON};
use moorline_tests::process::{Output, run};
use moorline_tests::wait::wait_until;

use crate::setup::{EngineFleet, HOST, assert_says, sim_fleet};

/// The values; each is looked for everywhere.
const PASSWORD: &str = "marked-password-1?~>";
const ROTATED: &str = "marked-rotated-2-value";
const TOKEN: &str = "marked-token-3-of-the-environment";
const CONFIG: &str = "marked-config-4-of-a-file";

/// A fleet whose agent writes files into a folder in memory of its own, and logs much.
struct Bench {
    t: EngineFleet,
    memory: tempfile::TempDir,
}

impl Bench {
    fn start(name: &str) -> Option<Self> {
        let t = EngineFleet::start(name)?;
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        t.fleet.set_agent_config(HOST, &format!("secrets_dir = \"{}\"", memory.path().display())).unwrap();
        t.fleet.set_agent_config(HOST, "log_level = \"trace\"").unwrap();
        let mut bench = Self { t, memory };
        bench.restart_agent();
        Some(bench)
    }

    fn restart_agent(&mut self) {
        self.t.fleet.kill_agent(HOST).unwrap();
        self.t.fleet.start_agent(HOST).unwrap();
    }

    /// Two services: one that has all in every way, and one that has the password alone.
    fn topology(&self) -> String {
        format!(
            "topology: {}
hosts:
  {HOST}:
    docker:
      secrets: {{ password: {{ file: ./secret/password.txt }}, token: {{ environment: TOKEN }} }}
      configs: {{ site: {{ file: ./secret/site.conf }}, name: {{ content: \"on ${{host.name}}\" }} }}
      services:
        site:
          image: {IMAGE}
          user: \"33:34\"
          secrets: [password, {{ source: token, target: api, uid: \"33\", gid: \"34\", mode: 0400 }}]
          configs: [name, {{ source: site, target: /etc/site/site.conf }}]
        db:
          image: {IMAGE}
          restart: always
          secrets: [{{ source: password, target: /etc/db.password }}]
        beside:
          image: {IMAGE}
",
            self.t.topology()
        )
    }

    fn fill(&self, password: &str) {
        std::fs::create_dir_all(self.t.fleet.root().join("secret")).unwrap();
        self.t.fleet.file("secret/password.txt", password).unwrap();
        self.t.fleet.file("secret/site.conf", CONFIG).unwrap();
    }

    fn moorctl(&self, args: &[&str]) -> Output {
        let mut command = self.t.fleet.moorctl_command(&[&["--yes"], args].concat());
        command.env("TOKEN", TOKEN);
        run(command, b"", COMMAND).unwrap()
    }

    fn push(&self, args: &[&str]) -> Output {
        let file = self.t.fleet.file("edge.yaml", self.topology()).unwrap();
        self.moorctl(&[&["push", "-f", file.to_str().unwrap(), "--wait"], args].concat())
    }

    fn name(&self, service: &str) -> String {
        format!("{}-{service}-1", self.t.topology())
    }

    /// What a process in the container reads of a file; `None` when it may not.
    fn reads(&self, service: &str, path: &str, user: Option<&str>) -> Option<String> {
        let (engine, name) = (&self.t.engine, self.name(service));
        let cmd = vec!["/bin/cat".to_owned(), path.to_owned()];
        let options = CreateExecOptions { cmd: Some(cmd), attach_stdout: Some(true), user: user.map(str::to_owned), ..Default::default() };
        engine.block_on(async {
            let made = engine.docker().create_exec(&name, options).await.unwrap();
            let StartExecResults::Attached { mut output, .. } = engine.docker().start_exec(&made.id, None).await.unwrap() else {
                panic!("not attached");
            };
            let mut said = String::new();
            while let Some(Ok(part)) = output.next().await {
                said.push_str(&String::from_utf8_lossy(&part.into_bytes()));
            }
            let ended = engine.docker().inspect_exec(&made.id).await.unwrap();
            (ended.exit_code == Some(0)).then_some(said)
        })
    }

    fn ids(&self) -> BTreeMap<String, String> {
        self.t.containers().into_iter().map(|(name, container)| (name, container.id)).collect()
    }

    /// The files in memory.
    fn files(&self) -> Vec<PathBuf> {
        let hosts = std::fs::read_dir(self.memory.path()).unwrap().flatten();
        hosts.flat_map(|host| std::fs::read_dir(host.path()).unwrap().flatten()).map(|entry| entry.path()).collect()
    }

    /// Takes the files from memory. The agent may be removing one that no container needs.
    fn wipe(&self) {
        for path in self.files() {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", path.display()),
                _ => {}
            }
        }
    }

    fn inspected(&self) -> String {
        let inspect = |name: &String| {
            let live = self.t.engine.block_on(self.t.engine.docker().inspect_container(name, None::<InspectContainerOptions>));
            format!("{:?} {}", live, serde_json::to_string(&live.as_ref().unwrap()).unwrap())
        };
        self.t.containers().keys().map(inspect).collect()
    }

    /// All that the engine has told of since.
    fn events(&self, since: u64) -> String {
        let options = EventsOptionsBuilder::new().since(&since.to_string()).until(&(now_s() + 1).to_string()).build();
        let docker = self.t.engine.docker();
        let events: Vec<_> = self.t.engine.block_on(docker.events(Some(options)).collect());
        events.iter().map(|event| serde_json::to_string(event.as_ref().unwrap()).unwrap()).collect()
    }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn slice_of(bench: &Bench, generation: u64) -> SliceStatement {
    let revision = bench.t.operator.revision(&bench.t.topology(), generation).unwrap();
    let envelope = revision.slices.first().unwrap().slice.clone().unwrap();
    let envelope = Envelope::from_json(&envelope.json).unwrap();
    moorline_common::sign::Signed::<SliceStatement>::new(envelope).unwrap().peek().unwrap()
}

#[test]
fn containers_read_their_secrets_and_nobody_else_ever_does() {
    let Some(mut b) = Bench::start("secrets") else { return };
    let (began, mut said) = (now_s(), String::new());
    b.fill(PASSWORD);
    let mut note = |output: Output| {
        said.push_str(&output.text());
        output
    };
    note(b.push(&["-o", "json"]).ok().unwrap());
    assert_eq!(b.reads("site", "/run/secrets/password", None).as_deref(), Some(PASSWORD));
    assert_eq!(b.reads("site", "/run/secrets/api", None).as_deref(), Some(TOKEN));
    assert_eq!(b.reads("site", "/run/secrets/api", Some("35:34")), None, "it is its owner's alone");
    assert_eq!(b.reads("site", "/run/secrets/password", Some("35")).as_deref(), Some(PASSWORD));
    assert_eq!(b.reads("site", "/etc/site/site.conf", None).as_deref(), Some(CONFIG));
    assert_eq!(b.reads("site", "/name", None).as_deref(), Some("on shop-1"));
    assert_eq!(b.reads("db", "/etc/db.password", None).as_deref(), Some(PASSWORD));
    assert_eq!(b.reads("beside", "/run/secrets/password", Some("0")), None);
    let (before, files) = (b.ids(), b.files());
    assert_eq!(files.len(), 4, "one for each value and its rights: {files:?}");

    // The same again is nothing, also when it is made a revision of its own.
    b.t.proxy.forget();
    assert_says(&note(b.push(&[]).ok().unwrap()), &["nothing"]);
    note(b.push(&["--force"]).ok().unwrap());
    assert_eq!((b.t.proxy.mutations(), b.ids()), (vec![], before.clone()));
    let sealed = |generation| slice_of(&b, generation).sealed.values;
    assert_ne!(sealed(1), sealed(2), "it was sealed anew, and the content is the same all the same");

    // Another value replaces the containers that have it.
    b.fill(ROTATED);
    let edge = b.t.fleet.root().join("edge.yaml");
    let plan = note(b.moorctl(&["plan", "-f", edge.to_str().unwrap()]).expect_code(2).unwrap());
    assert_says(&plan, &["secret password: changed", "2 to replace"]);
    note(b.push(&[]).ok().unwrap());
    let after = b.ids();
    let changed: Vec<&String> = after.iter().filter(|(name, id)| before[*name] != **id).map(|(name, _)| name).collect();
    assert_eq!(changed, [&b.name("db"), &b.name("site")]);
    assert_eq!(b.reads("db", "/etc/db.password", None).as_deref(), Some(ROTATED));
    wait_until("what no container has is gone", APPLY, || Ok(b.files().len() == 4 && stale(&b, PASSWORD) == 0)).unwrap();

    // Back again without the files: what was sealed before is taken over.
    std::fs::rename(b.t.fleet.root().join("secret"), b.t.fleet.root().join("away")).unwrap();
    let topology = b.t.topology();
    note(b.moorctl(&["rollback", &topology, "--to", "1", "--wait"]).ok().unwrap());
    assert_eq!(b.reads("db", "/etc/db.password", None).as_deref(), Some(PASSWORD));
    assert_says(&note(b.push(&[]).expect_code(1).unwrap()), &["[secrets_missing]", "secret `password`", "secret/password.txt"]);
    std::fs::rename(b.t.fleet.root().join("away"), b.t.fleet.root().join("secret")).unwrap();
    note(b.moorctl(&["diff", &topology, "1..3"]).ok().unwrap());
    note(b.moorctl(&["get", "slice", HOST]).ok().unwrap());
    note(b.moorctl(&["get", "report", HOST]).ok().unwrap());
    note(b.t.fleet.agent(HOST, &["journal", "show"]).unwrap());
    note(b.t.fleet.agent(HOST, &["doctor"]).unwrap());

    let leaks = Leaks::of([PASSWORD, ROTATED, TOKEN, CONFIG]).unwrap();
    let (inspected, events) = (b.inspected(), b.events(began));
    assert!(events.contains(&b.name("db")) && inspected.contains("/etc/db.password"));
    for (what, text) in [("moorctl's words", &said), ("docker inspect", &inspected), ("the engine's events", &events)] {
        assert!(!leaks.is_in(text.as_bytes()), "{what}");
        assert!(leaks.is_in(format!("{text}{PASSWORD}{text}").as_bytes()), "{what}");
    }
    assert!(b.t.fleet.logs().unwrap()[HOST].contains("put a file into memory"), "the log is one that says much");
    let root = b.t.fleet.root();
    let own = ["secret/password.txt", "secret/site.conf"].map(|name| root.join(name));
    let places: Vec<PathBuf> = places(root, &b.t.fleet.agent_dir(HOST));
    leaks.check(root, &own, &places).unwrap();

    note_down(&mut b);
}

/// Files in memory that still have `value`.
fn stale(b: &Bench, value: &str) -> usize {
    b.files().iter().filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes == value.as_bytes())).count()
}

/// A place of every kind: the hub's store and folder, the agent's ledger, journal and sealed values, logs, and the operator's context.
fn places(root: &Path, agent: &Path) -> Vec<PathBuf> {
    let mut places = vec![root.join("hub"), root.join("logs"), root.join("operator"), agent.to_owned()];
    places.extend([agent.join("journal"), agent.join("sealed")]);
    for folder in [root.join("hub"), agent.to_owned()] {
        let files = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        places.extend(files.filter(|path| path.extension().is_some_and(|e| e == "sqlite")));
    }
    places.push(root.join(format!("logs/{HOST}.log")));
    assert!(places.iter().all(|place| place.exists()) && places.len() >= 9, "{places:?}");
    places
}

/// Nothing stays in memory, or sealed on the disk, when no container is left.
fn note_down(b: &mut Bench) {
    let topology = b.t.topology();
    b.moorctl(&["down", &topology, "--wait"]).ok().unwrap();
    let kept = b.t.fleet.agent_dir(HOST).join("sealed");
    wait_until("nothing is left", SOON, || Ok(b.files().is_empty() && std::fs::read_dir(&kept)?.next().is_none())).unwrap();
}

#[test]
fn what_memory_loses_comes_back_before_a_container_needs_it() {
    let Some(mut b) = Bench::start("wiped") else { return };
    b.fill(PASSWORD);
    b.push(&[]).ok().unwrap();
    let (before, count) = (b.ids(), b.files().len());
    let db = b.name("db");

    // As after a reboot: the agent is not there, nothing is in memory, and the engine fails to start what it should.
    b.t.fleet.kill_agent(HOST).unwrap();
    b.wipe();
    b.t.engine.kill_container(b.t.fleet.cluster(), &db).unwrap();
    // A hub that is away changes nothing about it.
    b.t.fleet.kill_hub().unwrap();
    b.t.fleet.start_agent(HOST).unwrap();
    wait_until("the files are back without a hub", SOON, || Ok(b.files().len() == count)).unwrap();
    b.t.fleet.start_hub().unwrap();
    wait_until("the container runs again", APPLY, || Ok(b.t.containers()[&db].running)).unwrap();
    assert_eq!((b.reads("db", "/etc/db.password", None).as_deref(), b.ids()), (Some(PASSWORD), before.clone()));

    // While the agent runs: it heals, and an order starts what an order stopped.
    b.wipe();
    b.t.engine.kill_container(b.t.fleet.cluster(), &b.name("site")).unwrap();
    wait_until("it is healed", APPLY, || Ok(b.t.containers()[&b.name("site")].running)).unwrap();
    assert_eq!(b.reads("site", "/run/secrets/api", None).as_deref(), Some(TOKEN));
    let order = format!("{HOST}/container/{db}");
    b.moorctl(&["op", "stop", &order]).ok().unwrap();
    b.wipe();
    b.moorctl(&["op", "start", &order]).ok().unwrap();
    assert_eq!(b.reads("db", "/etc/db.password", None).as_deref(), Some(PASSWORD));
    b.wipe();
    b.moorctl(&["op", "restart", &order]).ok().unwrap();
    assert_eq!((b.reads("db", "/etc/db.password", None).as_deref(), b.ids()), (Some(PASSWORD), before));
    note_down(&mut b);
}

#[test]
fn a_key_is_rotated_without_the_values_at_hand_and_no_container_notices() {
    let Some(mut b) = Bench::start("sealedkeys") else { return };
    b.fill(PASSWORD);
    b.push(&[]).ok().unwrap();
    let ids = b.ids();
    std::fs::remove_dir_all(b.t.fleet.root().join("secret")).unwrap();
    b.t.proxy.forget();
    b.moorctl(&["key", "rotate", "--wait"]).ok().unwrap();
    assert_eq!((b.t.proxy.mutations(), b.ids()), (vec![], ids));
    // What the new key has signed brings them to an agent that has lost its own.
    std::fs::remove_dir_all(b.t.fleet.agent_dir(HOST).join("sealed")).unwrap();
    b.wipe();
    b.restart_agent();
    let order = format!("{HOST}/container/{}", b.name("db"));
    let has_come = || b.t.operator.host(HOST).map(|host| host.connected && host.converged);
    wait_until("the slice has come again", APPLY, has_come).unwrap();
    b.moorctl(&["op", "restart", &order]).ok().unwrap();
    assert_eq!(b.reads("db", "/etc/db.password", None).as_deref(), Some(PASSWORD));
    note_down(&mut b);
}

/// A new folder on a disk. `None`, with a line that says so, when no place for one is: many systems have `/tmp` in memory.
fn folder_on_disk() -> Option<tempfile::TempDir> {
    let places = [std::env::temp_dir(), "/var/tmp".into(), env!("CARGO_TARGET_TMPDIR").into()];
    let own = nix::unistd::geteuid().as_raw();
    let mut disks = places.iter().filter(|place| matches!(standing(place, None, own), Standing::OnDisk(_)));
    let folder = disks.find_map(|place| tempfile::tempdir_in(place).ok());
    if folder.is_none() {
        eprintln!("skipped: no folder of {places:?} is on a disk");
    }
    folder
}

#[test]
fn a_host_has_no_secrets_where_memory_is_a_disk_and_what_runs_goes_on() {
    let Some(disk) = folder_on_disk() else { return };
    let Some(mut b) = Bench::start("ondisk") else { return };
    b.fill(PASSWORD);
    b.push(&[]).ok().unwrap();
    let before = b.ids();
    let on_disk = disk.path().join("no-memory");
    b.t.fleet.set_agent_config(HOST, "").unwrap();
    let config = b.t.fleet.root().join(format!("hosts/{HOST}.toml"));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(b.memory.path().to_str().unwrap(), on_disk.to_str().unwrap())).unwrap();
    b.restart_agent();
    let told = |words: &str| wait_until(words, APPLY, || Ok(b.t.fleet.moorctl(&["get", "report", HOST])?.text().contains(words)));
    told("is not in memory").unwrap();
    assert_says(&b.t.fleet.agent(HOST, &["doctor"]).unwrap(), &["secrets folder", "is not in memory", "mount a tmpfs there"]);
    assert_eq!((b.ids(), on_disk.exists()), (before, false), "what runs goes on, and nothing was written there");
    std::fs::write(&config, text).unwrap();
    b.restart_agent();
    b.t.fleet.wait_converged(&b.t.operator, HOST, &b.t.topology(), 1).unwrap();
    note_down(&mut b);
}

#[test]
fn a_late_host_gets_secrets_from_where_they_are_and_another_machine_says_which_are_missing() {
    let (mut fleet, operator) = sim_fleet("late");
    let topology = "topology: edge\nprofiles:\n  db:\n    docker:\n      secrets: { password: { file: password.txt } }\n      \
                    services: { db: { image: x, secrets: [password] } }\nhosts:\n  shop-1: { use: [db] }\n  \"site=sydney\": { use: [db] }\n";
    fleet.file("password.txt", PASSWORD).unwrap();
    let file = fleet.file("edge.yaml", topology).unwrap();
    let file = file.to_str().unwrap();
    let plan = fleet.root().join("plan.json");
    let plan = plan.to_str().unwrap();
    fleet.moorctl(&["plan", "-f", file, "--save", plan]).unwrap().expect_code(2).unwrap();
    // What was reviewed is what is pushed, or nothing.
    fleet.file("password.txt", ROTATED).unwrap();
    assert_says(
        &fleet.moorctl(&["--yes", "push", "--plan", plan]).unwrap().expect_code(1).unwrap(),
        &["[secrets_missing]", "secret `password`"],
    );
    fleet.file("password.txt", PASSWORD).unwrap();
    fleet.moorctl(&["--yes", "push", "--plan", plan, "--wait"]).unwrap().ok().unwrap();
    let first = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();

    let mut join = |name: &str| {
        let token = fleet.token(name, &["--label", "site=sydney"]).unwrap();
        fleet.join(name, &Drive::Sim, &token).unwrap().ok().unwrap();
        fleet.adopt_host(name, Drive::Sim);
        fleet.start_agent(name).unwrap();
    };
    join("shop-2");
    join("shop-3");
    let second = fleet.root().join("second");
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(fleet.home()).arg(&second);
    run(copy, b"", COMMAND).unwrap().ok().unwrap();
    std::fs::remove_file(second.join("contexts").join(fleet.cluster()).join("places.json")).unwrap();
    let elsewhere = |fleet: &Fleet, args: &[&str]| run(fleet.moorctl_command_in(&second, args), b"", COMMAND).unwrap();
    fleet.moorctl(&["--yes", "host", "approve", "shop-2"]).unwrap().ok().unwrap();
    assert_eq!(fleet.wait_converged(&operator, "shop-2", "edge", 1).unwrap().target_hash, first.target_hash);

    // A machine that has not pushed it knows no value; it rolls back and signs what it can take over.
    let missing = elsewhere(&fleet, &["--yes", "host", "approve", "shop-3"]);
    assert_says(&missing, &["secrets_missing", "secret `password` of host `shop-3`", "moorctl push -f FILE"]);
    let back = elsewhere(&fleet, &["--yes", "rollback", "edge", "--to", "1"]).expect_code(1).unwrap();
    assert_says(&back, &["secrets_missing", "shop-3"]);
    fleet.moorctl(&["--yes", "rollback", "edge", "--to", "1", "--wait"]).unwrap().ok().unwrap();
    let third = fleet.wait_converged(&operator, "shop-3", "edge", 2).unwrap();
    assert_eq!(third.target_hash, first.target_hash);
    let again = elsewhere(&fleet, &["--yes", "rollback", "edge", "--to", "2", "--wait"]);
    assert_says(&again.ok().unwrap(), &["nothing"]);
}
