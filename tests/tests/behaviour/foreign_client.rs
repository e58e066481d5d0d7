//! The wires are not ours alone: a Python client finds its way by reflection, over mutual TLS; and a client of Proxmox VE's that knows nothing
//! of our simulator finds everything there as it is used to.

use std::path::Path;
use std::process::Command;

use moorline_tests::binaries::Binaries;
use moorline_tests::limits::COMMAND;
use moorline_tests::process::run;
use moorline_tests::pve::{NODE, PveHost};
use moorline_tests::pve_sim::setup::{CONTAINER_TEMPLATE, SECRET, TOKEN};
use serde_json::json;

use crate::setup::{HOST, services, sim_fleet};

/// The interpreter that `cargo xtask test` has prepared, or the system's if it can import `modules`.
fn python(modules: &str) -> Option<Command> {
    let program = std::env::var_os("MOORLINE_PYTHON").unwrap_or_else(|| "python3".into());
    let mut probe = Command::new(&program);
    probe.args(["-c", &format!("import {modules}")]);
    let there = run(probe, b"", COMMAND).is_ok_and(|o| o.code == 0);
    assert!(there || std::env::var_os("MOORLINE_PYTHON").is_none(), "the prepared Python cannot import {modules}");
    there.then(|| Command::new(program))
}

#[test]
fn a_python_client_uses_reflection_health_and_the_operator_service() {
    let Some(mut python) = python("grpc, grpc_reflection, grpc_health") else {
        println!("skipped: no Python with grpcio (`cargo xtask test` prepares one)");
        return;
    };
    let (fleet, operator) = sim_fleet("python");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/client.py")).arg(fleet.bundle_path("admin"));
    let answer = run(python, b"", COMMAND).unwrap().ok().unwrap().json().unwrap();
    assert_eq!(answer["health"], "SERVING");
    for service in ["moorline.v1.Operator", "moorline.v1.AgentGateway", "grpc.health.v1.Health"] {
        assert!(answer["services"].as_array().is_some_and(|s| s.iter().any(|s| s == service)), "{answer}");
    }
    assert_eq!(answer["cluster"], fleet.cluster());
    assert_eq!(answer["hosts"][0]["name"], HOST);
    assert_eq!(answer["hosts"][0]["converged"], true);
    assert!(answer["events"].as_array().is_some_and(|e| e.iter().any(|k| k == "pushed")), "{answer}");
    assert_eq!(answer["without_certificate"], "UNAUTHENTICATED");
}

#[test]
fn proxmoxer_makes_changes_snapshots_clones_and_destroys_guests_on_the_simulated_host() {
    let Some(mut python) = python("proxmoxer, requests") else {
        println!("skipped: no Python with proxmoxer (`cargo xtask test` prepares one)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let pve = PveHost::start(&Binaries::find().unwrap(), folder.path(), &json!({})).unwrap();
    let (host, port) = pve.address().rsplit_once(':').unwrap();
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/proxmox.py"));
    python.args([host, port, &format!("{TOKEN}={SECRET}"), NODE, CONTAINER_TEMPLATE]);
    let told = run(python, b"", COMMAND).unwrap().ok().unwrap().json().unwrap();
    let tasks =
        ["qmcreate", "qmstart", "qmsnapshot", "qmrollback", "qmclone", "qmdelsnapshot", "vzcreate", "qmdestroy", "qmdestroy", "vzdestroy"];
    assert_eq!(told["tasks"], json!(tasks));
    let config = json!({ "name": "made", "memory": "1024", "tags": "a;b", "description": "a line\nand 1 + 1; more", "scsi0": "local-lvm:vm-700-disk-0,size=1G" });
    assert_eq!(told["config"], config);
    assert_eq!((&told["status"], &told["snapshots"]), (&json!("running"), &json!(["before", "current"])));
    assert_eq!((&told["copy"], &told["container"]), (&json!("copy"), &json!("box")));
    assert_eq!(told["digest"], json!([500, "checksum mismatch (file change by other user?)"]));
    assert_eq!(told["unknown_key"], json!([400, ["nonsense"]]));
    assert_eq!(told["gone"][0], 500);
    assert!(told["gone"][1].as_str().is_some_and(|words| words.contains("qemu-server/700.conf' does not exist")), "{told}");
    // With the API's own description: nothing but what was to be wrong was.
    let wrong = pve.wrong().unwrap();
    assert!(wrong.iter().all(|words| words.as_str().is_some_and(|words| words.contains("nonsense"))), "{wrong:?}");
}
