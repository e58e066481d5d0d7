//! The wire is not ours alone: a Python client finds its way by reflection, over mutual TLS.

use std::path::Path;
use std::process::Command;

use moorline_tests::limits::COMMAND;
use moorline_tests::process::run;

use crate::setup::{HOST, services, sim_fleet};

/// The interpreter that `cargo xtask test` has prepared, or the system's if it can import grpc.
fn python() -> Option<Command> {
    let program = std::env::var_os("MOORLINE_PYTHON").unwrap_or_else(|| "python3".into());
    let mut probe = Command::new(&program);
    probe.args(["-c", "import grpc, grpc_reflection, grpc_health"]);
    let there = run(probe, b"", COMMAND).is_ok_and(|o| o.code == 0);
    assert!(there || std::env::var_os("MOORLINE_PYTHON").is_none(), "the prepared Python cannot import grpc");
    there.then(|| Command::new(program))
}

#[test]
fn a_python_client_uses_reflection_health_and_the_operator_service() {
    let Some(mut python) = python() else {
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
