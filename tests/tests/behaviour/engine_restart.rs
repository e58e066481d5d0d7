//! A whole Docker Engine goes away and comes back: one of the test's own, so that nobody else's
//! containers are stopped.

use std::path::{Path, PathBuf};
use std::process::Command;

use moorline_proto::v1 as pb;
use moorline_tests::engine::Engine;
use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::process::Process;
use moorline_tests::wait::wait_until;
use moorline_tests::{engine, image};

use crate::setup::{HOST, engine_turn, services};

/// A `dockerd` with all that it owns in one folder.
struct OwnEngine {
    folder: PathBuf,
    process: Option<Process>,
}

impl OwnEngine {
    fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// Starts it; `false` when this machine cannot run a second engine.
    fn start(&mut self) -> bool {
        let mut command = Command::new("dockerd");
        command.env("PATH", format!("{}:/usr/sbin:/usr/local/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        command.arg("--data-root").arg(self.folder.join("data")).arg("--exec-root").arg(self.folder.join("exec"));
        command.arg("--pidfile").arg(self.folder.join("pid")).arg("--host").arg(format!("unix://{}", self.socket().display()));
        command.args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
        let Ok(mut process) = Process::start("dockerd", command, &self.folder.join("dockerd.log")) else { return false };
        let up = wait_until("the engine answers", SOON, || {
            if process.check_alive().is_err() {
                return Ok(true);
            }
            Ok(Engine::connect(&self.socket()).is_ok())
        });
        let up = up.is_ok() && process.check_alive().is_ok();
        self.process = Some(process);
        up
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop().unwrap();
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Ok(engine) = Engine::connect(&self.socket())
            && let Ok(cluster) = std::fs::read_to_string(self.folder.join("cluster"))
        {
            let _ = engine.clean(&cluster);
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.stop();
        }
    }
}

fn own_engine(folder: &Path) -> Option<OwnEngine> {
    let mut own = OwnEngine { folder: folder.to_owned(), process: None };
    own.start().then_some(own)
}

#[test]
fn an_engine_that_is_restarted_finds_its_containers_started_again_and_not_made_anew() {
    // Sockets have short names: the folder stands right below the temporary one.
    let _turn = engine_turn();
    if Engine::connect(Path::new(engine::SOCKET)).is_err() {
        println!("skipped: no Docker Engine on this machine");
        return;
    }
    let folder = tempfile::Builder::new().prefix("moorline-engine-").tempdir().unwrap();
    let Some(mut own) = own_engine(folder.path()) else {
        println!("skipped: this machine cannot run a second dockerd");
        return;
    };
    let engine = Engine::connect(&own.socket()).unwrap();
    image::ensure(&engine).unwrap();
    let mut fleet = Fleet::start("restart").unwrap();
    std::fs::write(folder.path().join("cluster"), fleet.cluster()).unwrap();
    fleet.add_host(HOST, Drive::Docker(own.socket()), &[]).unwrap();
    let operator = fleet.operator().unwrap();
    let cluster = fleet.cluster().to_owned();
    fleet.push(&services(&cluster, &["site", "cache"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let ids =
        |engine: &Engine| -> Vec<(String, String)> { engine.containers(&cluster).unwrap().into_values().map(|c| (c.name, c.id)).collect() };
    let before = ids(&engine);
    assert_eq!(before.len(), 2);

    own.stop();
    wait_until("the agent says that its engine is unreachable", SOON, || {
        Ok(operator.host(HOST)?.heartbeat.unwrap_or_default().engine() == pb::EngineState::Unreachable)
    })
    .unwrap();
    assert!(own.start(), "the engine does not come up again");
    let engine = Engine::connect(&own.socket()).unwrap();
    wait_until("both containers run again", APPLY, || Ok(engine.running(&cluster)?.len() == 2)).unwrap();
    fleet.wait_converged(&operator, HOST, &cluster, 1).unwrap();
    assert_eq!(ids(&engine), before, "the same containers, not new ones");

    fleet.moorctl(&["--yes", "down", &cluster, "--wait"]).unwrap().ok().unwrap();
    own.stop();
}
