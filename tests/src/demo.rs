//! The guided tour behind `cargo demo`: a hub, an operator and three hosts as real processes, a push, a
//! container removed and a guest stopped by hand, a change, operations, and the way down. Every command that it runs is shown.
//!
//! It touches nothing on the engine but what it made, and leaves nothing behind.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use moorline_pve_sim::world::hand::Hand;

use crate::engine::{Engine, SOCKET};
use crate::fleet::{Drive, Fleet, text};
use crate::image;
use crate::limits::{APPLY, SOON};
use crate::operator::Operator;
use crate::own_engine::OwnEngine;
use crate::pve::PveHost;
use crate::wait::wait_for;

pub mod cloud;

/// The hosts of the example topologies: two with containers, one with guests.
const HOSTS: [&str; 3] = ["shop-17", "shop-18", "pve-1"];
/// The guest on the last one.
const GUEST: u32 = 101;
const EXAMPLE: &str = "deploy/examples/edge.yaml";
const EXAMPLE_CHANGED: &str = "deploy/examples/edge-v2.yaml";
const TOPOLOGY: &str = "edge";

/// What the tour does differently.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Leave everything running at the end.
    pub keep: bool,
}

/// Runs the tour.
///
/// # Errors
/// When anything is not as it should be; what was made is removed all the same.
pub fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut tour = Tour::begin()?;
    let result = tour.walk();
    match result {
        Ok(()) if options.keep => tour.leave_running(),
        Ok(()) => {
            tour.take_down()?;
            tour.tidy()?;
            say(&format!("\nThat was Moorline, in {:.0} seconds. Next: README.md, docs/topology.md.\n", started.elapsed().as_secs_f64()))
        }
        Err(error) => {
            let logs = tour.log_tails();
            let tidied = tour.tidy();
            say(&logs)?;
            tidied.context("tidying up behind the failed demo")?;
            Err(error)
        }
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        // Whoever read along has left: go on and tidy up.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}

/// Names a part of a tour.
fn chapter(title: &str) -> Result<()> {
    say(&format!("\n── {title}"))
}

fn quote(output: &str) -> Result<()> {
    for line in output.lines() {
        say(&format!("   {line}"))?;
    }
    Ok(())
}

struct Tour {
    fleet: Fleet,
    engine: Option<Engine>,
    own: Option<OwnEngine>,
    made_image: bool,
    pve: PveHost,
    examples: PathBuf,
}

impl Tour {
    fn begin() -> Result<Self> {
        say("Moorline: an operator signs what hosts shall run, a hub delivers it, agents make it so.")?;
        let fleet = Fleet::prepare("demo")?;
        let examples = std::env::current_dir()?;
        for file in [EXAMPLE, EXAMPLE_CHANGED] {
            if !examples.join(file).is_file() {
                bail!("{file} is not here; run `cargo demo` in the project's folder");
            }
        }
        let (engine, own) = usable_engine(fleet.root())?;
        let mut made_image = false;
        match &engine {
            Some(engine) => {
                say(&format!("Host {} runs on the real Docker Engine {}.", HOSTS[0], engine.version()?))?;
                made_image = image::ensure(engine)?;
                if made_image {
                    say(&format!("Its image {} is made here, of one small static program: no registry is asked.", image::IMAGE))?;
                }
            }
            None => say(&format!("Host {} runs on the built-in simulator.", HOSTS[0]))?,
        }
        say(&format!("Host {} runs on the built-in simulator, so that there are two.", HOSTS[1]))?;
        let pve = PveHost::start(fleet.binaries(), &fleet.root().join("pve"), &serde_json::json!({}))?;
        say(&format!("Host {} is a Proxmox VE: a simulated one, which answers over HTTPS as the real API does.", HOSTS[2]))?;
        say(&format!("Everything happens in {}.", fleet.root().display()))?;
        Ok(Self { fleet, engine, own, made_image, pve, examples })
    }

    fn walk(&mut self) -> Result<()> {
        self.hub_and_operator()?;
        self.hosts()?;
        let operator = self.fleet.operator()?;
        self.push(&operator)?;
        self.break_and_heal(&operator)?;
        self.break_guest()?;
        self.change(&operator)?;
        self.operations()?;
        self.saga()
    }

    fn hub_and_operator(&mut self) -> Result<()> {
        chapter("A hub. It remembers and delivers; it holds no signing key.")?;
        let (address, cluster) = (self.fleet.address(), self.fleet.cluster().to_owned());
        say(&format!(" $ moorline-hub --dir hub init --cluster {cluster} --listen {address} --advertise {address}"))?;
        self.fleet.hub_command(&["init", "--cluster", &cluster, "--listen", &address, "--advertise", &address])?.ok()?;
        self.fleet.set_hub_config("heartbeat_interval_ms", "1000")?;
        say(" $ moorline-hub --dir hub serve &")?;
        self.fleet.start_hub()?;
        chapter("An operator. Keys are made here and stay here; the trust root says whose signatures count.")?;
        say(" $ moorctl init --bundle hub/operators/admin.json")?;
        let bundle = self.fleet.bundle_path(crate::fleet::OPERATOR);
        let said = self.fleet.moorctl(&["init", "--bundle", text(&bundle)?])?.ok()?;
        quote(said.stdout.trim_end())
    }

    fn hosts(&mut self) -> Result<()> {
        chapter("Three hosts. A one-time token lets each join; the operator signs who it is.")?;
        self.fleet.connect_to_proxmox(HOSTS[2], &self.pve)?;
        for (index, name) in HOSTS.iter().enumerate() {
            let (drive, driver) = match &self.engine {
                Some(engine) if index == 0 => (Drive::Docker(engine.socket().to_owned()), "docker"),
                Some(_) | None if index == 2 => (Drive::Guests, "none"),
                Some(_) | None => (Drive::Sim, "sim"),
            };
            say(&format!(" $ moorctl host add {name}                        (waits for the join, then signs the binding)"))?;
            say(&format!(" $ moorline-agent --driver {driver} join <token> && moorline-agent --driver {driver} run &"))?;
            self.fleet.add_host(name, drive, &[])?;
        }
        self.show(&["host", "ls"])
    }

    /// Runs `moorctl`, showing the line and what it says.
    fn show(&self, args: &[&str]) -> Result<()> {
        say(&format!(" $ moorctl {}", args.join(" ")))?;
        let mut command = self.fleet.moorctl_command(args);
        command.current_dir(&self.examples);
        let output = crate::process::run(command, b"", crate::limits::COMMAND)?.ok()?;
        quote(output.stdout.trim_end())
    }

    fn converged(&self, operator: &Operator, generation: u64) -> Result<()> {
        for host in HOSTS {
            self.fleet.wait_converged(operator, host, TOPOLOGY, generation)?;
        }
        Ok(())
    }

    fn push(&self, operator: &Operator) -> Result<()> {
        chapter("A push: parsed, checked, sliced, signed on the operator's machine; applied on the hosts.")?;
        self.show(&["push", "-f", EXAMPLE, "--wait"])?;
        self.converged(operator, 1)?;
        self.show(&["status"])?;
        self.show_containers()?;
        self.show(&["get", "guests"])
    }

    fn show_containers(&self) -> Result<()> {
        let Some(engine) = &self.engine else { return Ok(()) };
        say(&format!(" $ docker ps --filter label=moorline.cluster={}", self.fleet.cluster()))?;
        for container in engine.containers(self.fleet.cluster())?.values() {
            let short = container.id.get(..12).unwrap_or(&container.id);
            say(&format!("   {short}  {:<24} {}", container.name, if container.running { "running" } else { "stopped" }))?;
        }
        Ok(())
    }

    fn break_and_heal(&self, operator: &Operator) -> Result<()> {
        let (what, took) = match &self.engine {
            Some(engine) => self.break_docker(engine)?,
            None => self.break_sim()?,
        };
        self.converged(operator, 1)?;
        say(&format!("   {what} is back after {took:.2} s, and the hub never had to be asked."))?;
        self.show_containers()
    }

    fn break_docker(&self, engine: &Engine) -> Result<(String, f64)> {
        let cluster = self.fleet.cluster();
        let containers = engine.containers(cluster)?;
        let site = containers.values().find(|c| c.running && c.name.ends_with("-site-1"));
        let victim = site.context("the site does not run after the push")?.clone();
        chapter("A container is removed by hand. The agent hears of it from the engine and heals.")?;
        say(&format!(" $ docker rm --force {}", victim.name))?;
        engine.remove_container(cluster, &victim.name)?;
        let gone = Instant::now();
        wait_for(&format!("{} is healed", victim.name), SOON, || {
            let now = engine.containers(cluster)?;
            Ok(now.get(&victim.name).filter(|c| c.running && c.id != victim.id).map(|_| ()))
        })?;
        Ok((victim.name, gone.elapsed().as_secs_f64()))
    }

    fn break_sim(&self) -> Result<(String, f64)> {
        let path = self.fleet.agent_dir(HOSTS[0]).join("sim/engine.json");
        let mut world: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let containers = world.pointer_mut("/containers").and_then(|c| c.as_object_mut()).context("the simulator's containers")?;
        let victim = containers.keys().next().context("no container after the push")?.clone();
        chapter("A container is removed by hand. The agent notices and heals.")?;
        say(&format!(" (takes {victim} out of the simulator's world)"))?;
        containers.remove(&victim);
        std::fs::write(&path, serde_json::to_vec(&world)?)?;
        let gone = Instant::now();
        wait_for(&format!("{victim} is healed"), SOON, || {
            let world: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            Ok(world.pointer("/containers").and_then(|c| c.get(&victim)).map(|_| ()))
        })?;
        Ok((victim, gone.elapsed().as_secs_f64()))
    }

    fn break_guest(&self) -> Result<()> {
        chapter("A guest's power is cut on its host. Its agent looks, and starts it.")?;
        say(&format!(" $ qm stop {GUEST}                              (on {})", HOSTS[2]))?;
        self.pve.by_hand(&Hand::Stop { vmid: GUEST })?;
        let gone = Instant::now();
        wait_for(&format!("guest {GUEST} runs again"), SOON, || {
            Ok(self.pve.guest(GUEST)?.filter(|guest| guest.get("status").is_some_and(|status| status == "running")).map(drop))
        })?;
        say(&format!("   guest {GUEST} runs again after {:.1} s.", gone.elapsed().as_secs_f64()))
    }

    /// What is done once, by an operator's signed word.
    fn operations(&self) -> Result<()> {
        chapter("Operations: each is signed for the very guest, done at most once, and answered by the host's own signature.")?;
        let guest = format!("{}/{GUEST}", HOSTS[2]);
        self.show(&["--yes", "op", "snapshot", "create", &guest, "before-upgrade"])?;
        self.show(&["--yes", "op", "backup", &guest, "--storage", "local"])?;
        self.show(&["op", "ls", HOSTS[2]])
    }

    /// Work of several steps, signed whole.
    fn saga(&self) -> Result<()> {
        chapter("A saga: a snapshot, a change, a look whether the guest still runs. All of it is done, or all of it is undone.")?;
        let guest = format!("{}/{GUEST}", HOSTS[2]);
        let start = [
            "--yes",
            "saga",
            "start",
            "change-with-snapshot",
            &guest,
            "--set",
            "config.description=moved to rack 4",
            "--set",
            "check-for=1s",
        ];
        self.show(&[&start[..], &["--dry-run"]].concat())?;
        self.show(&[&start[..], &["-w"]].concat())?;
        self.show(&["saga", "ls"])
    }

    fn change(&mut self, operator: &Operator) -> Result<()> {
        chapter("A change. First what it would do, then the push of it.")?;
        say(&format!(" $ moorctl plan -f {EXAMPLE_CHANGED}"))?;
        let mut plan = self.fleet.moorctl_command(&["plan", "-f", EXAMPLE_CHANGED]);
        plan.current_dir(&self.examples);
        // Exit code 2 says that changes are pending.
        let plan = crate::process::run(plan, b"", crate::limits::COMMAND)?.expect_code(2)?;
        quote(plan.stdout.trim_end())?;
        say(&format!(" (the agent of {} is killed: kill -9)", HOSTS[1]))?;
        self.fleet.kill_agent(HOSTS[1])?;
        self.show(&["push", "-f", EXAMPLE_CHANGED])?;
        self.fleet.wait_converged(operator, HOSTS[0], TOPOLOGY, 2)?;
        self.show(&["status"])?;
        say(&format!("   {} follows the change; {} was away and does not know of it.", HOSTS[0], HOSTS[1]))?;
        chapter("It comes back, and the hub pushes again by itself.")?;
        say(&format!(" $ moorline-agent --driver sim run &              (on {})", HOSTS[1]))?;
        self.fleet.start_agent(HOSTS[1])?;
        self.converged(operator, 2)?;
        self.show(&["status"])?;
        self.show_containers()?;
        self.show(&["events", "--limit", "12"])
    }

    fn take_down(&self) -> Result<()> {
        chapter("And down again: a signed empty slice, so nobody else can do it.")?;
        self.show(&["down", TOPOLOGY, "--yes", "--wait"])?;
        say(&format!("   Guest {GUEST} is told to stop, and stays with its disks: a topology destroys none."))?;
        self.show(&["get", "guests"])?;
        let Some(engine) = &self.engine else { return Ok(()) };
        let cluster = self.fleet.cluster();
        wait_for("containers and networks are gone", APPLY, || {
            Ok((engine.containers(cluster)?.is_empty() && engine.networks(cluster)?.is_empty()).then_some(()))
        })?;
        let volumes = engine.volumes(cluster)?;
        if !volumes.is_empty() {
            say("   Containers and networks are gone. Volumes hold data, so they stay until somebody removes them:")?;
            for name in &volumes {
                say(&format!("   {name}"))?;
            }
        }
        Ok(())
    }

    fn log_tails(&self) -> String {
        let mut all = String::new();
        for (name, log) in self.fleet.logs().unwrap_or_default() {
            let start = log.char_indices().rev().nth(3000).map_or(0, |(at, _)| at);
            all.push_str(&format!("\n--- end of the log of {name}:\n{}", log.get(start..).unwrap_or_default()));
        }
        all
    }

    fn tidy(self) -> Result<()> {
        let Self { mut fleet, engine, own, made_image, pve, .. } = self;
        let (cluster, root) = (fleet.cluster().to_owned(), fleet.root().to_owned());
        fleet.end_processes();
        drop(pve);
        if let Some(engine) = engine {
            engine.clean(&cluster)?;
            if made_image && image::remove(&engine).is_err() {
                say(&format!("   The image {} stays: something else uses it by now.", image::IMAGE))?;
            }
            let left = (engine.containers(&cluster)?, engine.networks(&cluster)?, engine.volumes(&cluster)?);
            if !(left.0.is_empty() && left.1.is_empty() && left.2.is_empty()) {
                bail!("something was left behind: {left:?}");
            }
        }
        // Our own engine's data stands in the fleet's folder, which goes with the fleet.
        drop(own);
        drop(fleet);
        if root.exists() {
            bail!("{} was left behind", root.display());
        }
        say("   Everything that the demo made is gone: processes, folder, containers, networks, volumes, image.")
    }

    fn leave_running(self) -> Result<()> {
        let Self { fleet, engine, own, pve, .. } = self;
        let own = own.and_then(OwnEngine::leave_running);
        let pve = pve.leave_running();
        let (root, cluster, home) = (fleet.root().to_owned(), fleet.cluster().to_owned(), fleet.home());
        let moorctl = crate::binaries::Binaries::find()?.moorctl;
        let ids: Vec<String> = fleet.leave_running().iter().chain(&own).chain([&pve]).map(u32::to_string).collect();
        chapter("Left running. Lines to try next:")?;
        let line = format!("{} --home {}", shorten(&moorctl), home.display());
        for verb in [
            "status -w",
            "events -f",
            "get topology edge",
            "diff edge 1..2",
            "rollback edge --to 1 --wait",
            "get guests",
            "down edge --wait",
        ] {
            say(&format!("   {line} {verb}"))?;
        }
        say("\nTo end it all:")?;
        say(&format!("   {line} --yes down edge --wait"))?;
        say(&format!("   kill {}", ids.join(" ")))?;
        if engine.is_some() && own.is_none() {
            say(&format!("   docker volume rm $(docker volume ls -q --filter label=moorline.cluster={cluster})"))?;
            say(&format!("   docker image rm {}", image::IMAGE))?;
        }
        say(&format!("   rm -r {}", root.display()))
    }
}

fn shorten(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// The system's engine, if it answers and nothing on it has a name that the tour needs; otherwise one of
/// our own in `folder`, where that can be had.
fn usable_engine(folder: &Path) -> Result<(Option<Engine>, Option<OwnEngine>)> {
    match Engine::connect(Path::new(SOCKET)) {
        Ok(engine) => {
            let Some(name) = taken_name(&engine)? else { return Ok((Some(engine), None)) };
            say(&format!("The Docker Engine of this machine has a `{name}` already: it is left alone."))?;
        }
        Err(_) => say("No Docker Engine answers on this machine.")?,
    }
    let folder = folder.join("engine");
    std::fs::create_dir(&folder)?;
    match OwnEngine::start(&folder) {
        Ok(own) => {
            say("A dockerd of the demo's own is started, with everything in the demo's folder.")?;
            Ok((Some(Engine::connect(&own.socket())?), Some(own)))
        }
        Err(_) => Ok((None, None)),
    }
}

/// A container, network or volume with a name that the example's objects will have.
fn taken_name(engine: &Engine) -> Result<Option<String>> {
    let all = bollard::query_parameters::ListContainersOptionsBuilder::new().all(true).build();
    let docker = engine.docker();
    let containers = engine.block_on(docker.list_containers(Some(all)))?.into_iter().filter_map(|c| c.names).flatten();
    let networks = engine.block_on(docker.list_networks(None::<bollard::query_parameters::ListNetworksOptions>))?;
    let volumes = engine.block_on(docker.list_volumes(None::<bollard::query_parameters::ListVolumesOptions>))?;
    let containers = containers.map(|name| name.trim_start_matches('/').to_owned());
    let others = networks.into_iter().filter_map(|n| n.name).chain(volumes.volumes.unwrap_or_default().into_iter().map(|v| v.name));
    let (container, other) = (format!("{TOPOLOGY}-"), format!("{TOPOLOGY}_"));
    Ok(containers.filter(|n| n.starts_with(&container)).chain(others.filter(|n| n.starts_with(&other))).next())
}
