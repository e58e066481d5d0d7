//! The tour behind `cargo demo --cloud`: a droplet that becomes a host by itself, is changed behind everybody's back, and goes without a trace.
//! The cloud is simulated; what its droplet boots is a real agent.

use std::time::Instant;

use anyhow::{Result, bail};
use moorline_common::id::sha256_hex;
use moorline_do_sim::world::hand::Hand;
use serde_json::Value;

use super::{chapter, quote, say};
use crate::cloud::CloudSim;
use crate::fleet::{Fleet, text};
use crate::limits::COMMAND;

const NAME: &str = "web-1";
const EXAMPLE: &str = "topology: web\nhosts:\n  web-1:\n    docker:\n      services:\n        site: { image: \"busybox:1\" }\n";

/// Runs the tour.
///
/// # Errors
/// When anything is not as it should be; what was made is removed all the same.
pub fn run() -> Result<()> {
    let started = Instant::now();
    say("Moorline in a cloud: an operator signs a saga, the hub has a droplet made, and its agent joins by itself.")?;
    let mut fleet = Fleet::start("demo")?;
    let cloud = CloudSim::with_droplets(fleet.binaries(), &fleet.root().join("cloud"))?;
    fleet.stop_hub()?;
    cloud.connect(&fleet)?;
    fleet.start_hub()?;
    say("The cloud is a simulated DigitalOcean; on its droplet runs a real agent, which its first boot installs.")?;
    let tour = Tour { fleet, cloud };
    tour.walk()?;
    say(&format!("\nThat was a droplet from nothing to nothing, in {:.0} seconds. Next: docs/sagas.md.\n", started.elapsed().as_secs_f64()))
}

struct Tour {
    fleet: Fleet,
    cloud: CloudSim,
}

impl Tour {
    /// Runs `moorctl`, showing the line and what it says.
    fn show(&self, args: &[&str]) -> Result<()> {
        let shown: Vec<String> = args.iter().map(|arg| arg.replace(text(self.fleet.root()).unwrap_or_default(), ".")).collect();
        say(&format!(" $ moorctl {}", shown.join(" ")))?;
        let output = crate::process::run(self.fleet.moorctl_command(args), b"", COMMAND)?.ok()?;
        quote(output.stderr.trim_end())?;
        quote(output.stdout.trim_end())
    }

    fn walk(&self) -> Result<()> {
        chapter("What the host is to run is pushed before there is a host.")?;
        let file = self.fleet.file("web.yaml", EXAMPLE)?;
        self.show(&["push", "-f", text(&file)?])?;
        chapter(
            "A saga makes the droplet, waits until it is active, registers it, and waits until its agent heartbeats. This machine binds the host.",
        )?;
        let program = &self.fleet.binaries().agent;
        let (url, sha256) =
            (format!("agent-url=file://{}", program.display()), format!("agent-sha256={}", sha256_hex(&std::fs::read(program)?)));
        let set = ["region=fra1", "size=s-1vcpu-1gb", "image=debian-12-x64", "driver=sim", &url, &sha256];
        let set: Vec<&str> = set.into_iter().flat_map(|one| ["--set", one]).collect();
        self.show(&[&["saga", "start", "provision-droplet", NAME, "--wait"][..], &set].concat())?;
        self.show(&["status"])?;
        self.show(&["get", "resources"])?;
        chapter("Somebody renames it in the cloud's control panel. The inbox tells, and a saga takes it back.")?;
        let droplets = self.cloud.alive()?;
        let Some(id) = droplets.first().and_then(|one| one.get("id")).and_then(Value::as_u64) else {
            bail!("there is no droplet: {droplets:?}")
        };
        self.cloud.by_hand(&Hand::Rename { id, name: "mine-now".to_owned() })?;
        self.show(&["drift", "scan"])?;
        self.show(&["drift", "ls"])?;
        self.show(&["--yes", "drift", "revert", "1"])?;
        self.show(&["drift", "scan"])?;
        chapter("The droplet goes: for good, with its place in the inventory and the host that it was.")?;
        self.show(&["--yes", "saga", "start", "destroy-droplet", NAME, "--wait"])?;
        self.show(&["saga", "ls"])?;
        let left = self.cloud.alive()?;
        if !left.is_empty() {
            bail!("something is left in the cloud, and costs: {left:?}");
        }
        say("   Nothing in the cloud costs any more.")
    }
}
