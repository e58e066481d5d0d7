//! What the promises share: a fleet with one host, topologies, and the engine for one test at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use moorline_tests::engine::{Container, Engine};
use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::image;
use moorline_tests::limits::SOON;
use moorline_tests::operator::Operator;
use moorline_tests::process::Output;
use moorline_tests::proxy::Proxy;
use moorline_tests::wait::wait_for;
use nix::fcntl::{Flock, FlockArg};

/// The host that most tests have.
pub const HOST: &str = "shop-1";

/// A fleet with [`HOST`] on the simulator.
pub fn sim_fleet(name: &str) -> (Fleet, Operator) {
    let mut fleet = Fleet::start(name).unwrap();
    fleet.add_host(HOST, Drive::Sim, &[]).unwrap();
    let operator = fleet.operator().unwrap();
    (fleet, operator)
}

/// A fleet with [`HOST`] on the real engine, behind a recording proxy.
pub struct EngineFleet {
    // Dropped in this order: the fleet cleans the engine before the next test may have it.
    pub fleet: Fleet,
    pub operator: Operator,
    pub proxy: Proxy,
    pub engine: Engine,
    _turn: Flock<File>,
}

impl EngineFleet {
    /// Waits for its turn with the engine. `None`, with a line that says so, when there is no engine and none is required.
    pub fn start(name: &str) -> Option<Self> {
        let turn = engine_turn();
        let Some(engine) = Engine::system().unwrap() else {
            println!("skipped: no Docker Engine answers (set MOORLINE_REQUIRE_DOCKER=1 to make that a failure)");
            return None;
        };
        image::ensure(&engine).unwrap();
        let mut fleet = Fleet::start(name).unwrap();
        let proxy = Proxy::start(&fleet.root().join("engine.sock"), engine.socket()).unwrap();
        fleet.add_host(HOST, Drive::Docker(proxy.socket().to_owned()), &[]).unwrap();
        let operator = fleet.operator().unwrap();
        Some(Self { fleet, operator, proxy, engine, _turn: turn })
    }

    /// A topology's name that no other test uses: it prefixes names on the engine.
    pub fn topology(&self) -> String {
        self.fleet.cluster().to_owned()
    }

    /// The containers of this fleet.
    pub fn containers(&self) -> BTreeMap<String, Container> {
        self.engine.containers(self.fleet.cluster()).unwrap()
    }
}

/// Waits until no other test uses the engine.
pub fn engine_turn() -> Flock<File> {
    let path = std::env::temp_dir().join("moorline-tests-engine.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap()
}

/// A topology of services that serve, all on one network, for [`HOST`].
pub fn services(topology: &str, names: &[&str], greeting: &str) -> String {
    let mut yaml = format!("topology: {topology}\nhosts:\n  {HOST}:\n    docker:\n      networks: {{ front: {{}} }}\n      services:\n");
    for name in names {
        yaml.push_str(&format!("        {name}:\n          image: {}\n          networks: [front]\n", image::IMAGE));
        yaml.push_str(&format!("          environment: {{ GREETING: \"{greeting}\", HOST: \"${{host.name}}\" }}\n"));
    }
    yaml
}

/// The world of a simulated host, as bytes.
pub fn sim_world(fleet: &Fleet, host: &str) -> Vec<u8> {
    std::fs::read(fleet.agent_dir(host).join("sim/engine.json")).unwrap()
}

/// The names of the containers in a simulated host's world.
pub fn sim_containers(fleet: &Fleet, host: &str) -> Vec<String> {
    let world: serde_json::Value = serde_json::from_slice(&sim_world(fleet, host)).unwrap();
    world["containers"].as_object().map(|c| c.keys().cloned().collect()).unwrap_or_default()
}

/// Kills the agent of the simulated host, takes all its containers away, and starts it again.
pub fn restart_emptied(fleet: &mut Fleet) {
    fleet.kill_agent(HOST).unwrap();
    let mut world: serde_json::Value = serde_json::from_slice(&sim_world(fleet, HOST)).unwrap();
    world["containers"].as_object_mut().unwrap().clear();
    std::fs::write(fleet.agent_dir(HOST).join("sim/engine.json"), world.to_string()).unwrap();
    fleet.start_agent(HOST).unwrap();
}

/// Ends the command that runs on the simulated host, once it has begun. Nothing else may change that world meanwhile: whoever
/// ends it knows that it ran until now, however long that took.
pub fn end_command(fleet: &Fleet) {
    let path = fleet.agent_dir(HOST).join("sim/engine.json");
    let ended = wait_for("the command runs", SOON, || {
        let mut world: serde_json::Value = serde_json::from_slice(&sim_world(fleet, HOST))?;
        let commands = world["commands"].as_object_mut().context("no commands")?;
        let Some(command) = commands.values_mut().find(|command| command["starts"] == 1) else { return Ok(None) };
        command["ends_at"] = 1.into();
        Ok(Some(serde_json::to_vec(&world)?))
    })
    .unwrap();
    // All at once: the agent reads it over and over.
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, ended).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
}

/// The journal of [`HOST`], oldest record first.
pub fn journal(fleet: &Fleet) -> Vec<serde_json::Value> {
    let exported = fleet.agent(HOST, &["journal", "export"]).unwrap().ok().unwrap();
    exported.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes one statement into a SQLite file that a program may have open; returns the changed rows.
pub fn sqlite(path: &Path, sql: &str) -> usize {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection.execute(sql, []).unwrap()
}

/// The kinds of all events, oldest first.
pub fn event_kinds(operator: &Operator) -> Vec<String> {
    operator.events().unwrap().into_iter().map(|e| e.kind).collect()
}

/// `moorctl` by an operator who confirms everything.
pub fn moorctl(fleet: &Fleet, args: &[&str]) -> Output {
    fleet.moorctl(&[&["--yes"], args].concat()).unwrap()
}

/// That a command said all of `words` somewhere.
#[track_caller]
pub fn assert_says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.text().contains(word), "`{word}` is missing in:\n{}", output.text());
    }
}
