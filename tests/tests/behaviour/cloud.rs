//! Droplets, from nothing to a host that has its topology, and back to nothing: a hub, an operator's words, a simulated cloud whose
//! droplets run what their first boot is told, and a real agent on each.

use moorline_common::id::sha256_hex;
use moorline_do_sim::world::hand::Hand;
use moorline_tests::cloud::CloudSim;
use moorline_tests::fleet::{Fleet, text};
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::process::Output;
use moorline_tests::wait::{wait_for, wait_until};
use serde_json::Value;

use crate::setup::{assert_says, moorctl};

const NAME: &str = "web-1";

struct Sky {
    fleet: Fleet,
    cloud: CloudSim,
    agent: (String, String),
}

impl Sky {
    fn start(test: &str) -> Self {
        let mut fleet = Fleet::start(test).unwrap();
        let cloud = CloudSim::with_droplets(fleet.binaries(), &fleet.root().join("cloud")).unwrap();
        fleet.stop_hub().unwrap();
        cloud.connect(&fleet).unwrap();
        fleet.start_hub().unwrap();
        let program = &fleet.binaries().agent;
        let agent =
            (format!("agent-url=file://{}", program.display()), format!("agent-sha256={}", sha256_hex(&std::fs::read(program).unwrap())));
        Self { fleet, cloud, agent }
    }

    fn moorctl(&self, args: &[&str]) -> Output {
        moorctl(&self.fleet, args)
    }

    /// Has a droplet made; `more` as `saga start` takes it.
    fn provision(&self, more: &[&str]) -> Output {
        let set = ["region=fra1", "size=s-1vcpu-1gb", "image=debian-12-x64", "tags=web", "driver=sim", &self.agent.0, &self.agent.1];
        let set: Vec<&str> = set.into_iter().flat_map(|one| ["--set", one]).collect();
        self.moorctl(&[&["saga", "start", "provision-droplet", NAME][..], &set, more].concat())
    }

    /// The newest saga, once it stands so.
    fn until_status(&self, status: &str) -> Value {
        let find = || {
            let listed = self.moorctl(&["saga", "ls", "-o", "json"]).ok()?;
            let sagas: Vec<Value> = serde_json::from_str(&listed.stdout)?;
            Ok(sagas.into_iter().next().filter(|saga| saga["status"] == status))
        };
        wait_for(&format!("the saga is {status}"), 2 * APPLY, find)
            .unwrap_or_else(|e| panic!("{e:#}: {}", self.moorctl(&["saga", "ls", "-o", "yaml"]).ok().unwrap().stdout))
    }

    fn hosts(&self) -> String {
        self.moorctl(&["host", "ls"]).ok().unwrap().stdout
    }

    /// Nothing costs any more, no host is left, and no agent runs.
    fn is_clean(&self) {
        wait_until("nothing in the cloud costs any more", SOON, || Ok(self.cloud.alive()?.is_empty()))
            .unwrap_or_else(|e| panic!("{e:#}: {:#?}", self.cloud.alive().unwrap()));
        assert!(!self.hosts().contains(NAME), "{}", self.hosts());
        wait_until("no agent of a droplet runs", SOON, || Ok(self.cloud.agents() == 0)).unwrap();
        assert_eq!(self.cloud.wrong().unwrap(), Vec::<Value>::new());
    }
}

#[test]
fn a_droplet_boots_an_agent_that_joins_and_converges_and_is_torn_down_without_a_trace() {
    let t = Sky::start("droplet");
    let yaml = format!("topology: edge\nhosts:\n  {NAME}:\n    docker:\n      services:\n        site: {{ image: \"busybox:1\" }}\n");
    let dry = t.provision(&["--dry-run"]).ok().unwrap();
    assert_says(&dry, &["make droplet `web-1`", "delete what the step made", "web-1 has joined and is bound"]);
    assert!(t.cloud.bills().unwrap().is_empty(), "nothing was sent");
    let file = t.fleet.file("edge.yaml", &yaml).unwrap();
    // Before there is such a host: what it is to run waits for it.
    t.moorctl(&["push", "-f", text(&file).unwrap()]).ok().unwrap();
    t.provision(&["--wait"]).ok().unwrap();
    let saga = t.until_status("completed");
    assert_says(&t.moorctl(&["status"]), &[NAME]);
    let resources = t.moorctl(&["get", "resources", "-o", "json"]).ok().unwrap();
    let resources: Vec<Value> = serde_json::from_str(&resources.stdout).unwrap();
    let droplet = resources.iter().find(|one| one["name"] == NAME).unwrap();
    assert_eq!((&droplet["spec"]["version"], &droplet["spec"]["saga_id"]), (&1.into(), &saga["saga_id"]));
    assert_eq!(t.cloud.agents(), 1);
    // Somebody resizes it by hand: the inbox tells, and the saga that mends it is the decision.
    let number = droplet["number"].as_u64().unwrap();
    t.cloud.by_hand(&Hand::Resize { id: number, size: "s-1vcpu-2gb".to_owned() }).unwrap();
    assert_says(&t.moorctl(&["drift", "scan"]), &["digitalocean"]);
    assert_says(&t.moorctl(&["drift", "ls"]), &["size", "s-1vcpu-2gb"]);
    t.moorctl(&["saga", "start", "destroy-droplet", NAME, "--wait"]).ok().unwrap();
    t.is_clean();
}

#[test]
fn a_droplet_that_nobody_approves_in_time_goes_again() {
    let t = Sky::start("droplet-alone");
    t.provision(&["--set", "join-timeout=20s"]).ok().unwrap();
    let id = wait_for("the droplet waits for an operator", APPLY, || {
        let listed = t.moorctl(&["saga", "ls", "-o", "json"]).ok()?;
        let sagas: Vec<Value> = serde_json::from_str(&listed.stdout)?;
        let id = sagas[0]["saga_id"].as_str().unwrap_or_default().to_owned();
        Ok(t.moorctl(&["saga", "show", &id]).ok()?.stdout.contains("moorctl host approve web-1").then_some(id))
    });
    id.unwrap();
    t.until_status("rolled_back");
    t.is_clean();
}

#[test]
fn a_hub_that_is_killed_while_a_droplet_is_made_makes_one() {
    let mut t = Sky::start("droplet-killed");
    t.provision(&["--set", "converge=no"]).ok().unwrap();
    wait_until("a droplet is there", APPLY, || Ok(!t.cloud.alive()?.is_empty())).unwrap();
    t.fleet.kill_hub().unwrap();
    t.fleet.start_hub().unwrap();
    wait_until("the droplet has joined", 2 * APPLY, || Ok(t.hosts().contains(NAME))).unwrap();
    t.moorctl(&["host", "approve", NAME]).ok().unwrap();
    t.until_status("completed");
    assert_eq!(t.cloud.bills().unwrap().len(), 1, "one was made, and no other");
    t.moorctl(&["saga", "start", "destroy-droplet", NAME, "--wait"]).ok().unwrap();
    t.is_clean();
}
