//! A whole Docker Engine goes away and comes back: one of the test's own, so that nobody else's
//! containers are stopped.

use std::path::Path;

use moorline_proto::v1 as pb;
use moorline_tests::engine::Engine;
use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::own_engine::OwnEngine;
use moorline_tests::wait::wait_until;
use moorline_tests::{engine, image};

use crate::setup::{HOST, engine_turn, services};

#[test]
fn an_engine_that_is_restarted_finds_its_containers_started_again_and_not_made_anew() {
    // Sockets have short names: the folder stands right below the temporary one.
    let _turn = engine_turn();
    if Engine::connect(Path::new(engine::SOCKET)).is_err() {
        println!("skipped: no Docker Engine on this machine");
        return;
    }
    let folder = tempfile::Builder::new().prefix("moorline-engine-").tempdir().unwrap();
    let mut own = match OwnEngine::start(folder.path()) {
        Ok(own) => own,
        Err(error) => return println!("skipped: this machine cannot run a second dockerd: {error:#}"),
    };
    let engine = Engine::connect(&own.socket()).unwrap();
    image::ensure(&engine).unwrap();
    let mut fleet = Fleet::start("restart").unwrap();
    fleet.add_host(HOST, Drive::Docker(own.socket()), &[]).unwrap();
    let operator = fleet.operator().unwrap();
    let cluster = fleet.cluster().to_owned();
    fleet.push(&services(&cluster, &["site", "cache"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let ids =
        |engine: &Engine| -> Vec<(String, String)> { engine.containers(&cluster).unwrap().into_values().map(|c| (c.name, c.id)).collect() };
    let before = ids(&engine);
    assert_eq!(before.len(), 2);

    own.stop().unwrap();
    wait_until("the agent says that its engine is unreachable", SOON, || {
        Ok(operator.host(HOST)?.heartbeat.unwrap_or_default().engine() == pb::EngineState::Unreachable)
    })
    .unwrap();
    own.restart().unwrap();
    let engine = Engine::connect(&own.socket()).unwrap();
    wait_until("both containers run again", APPLY, || Ok(engine.running(&cluster)?.len() == 2)).unwrap();
    fleet.wait_converged(&operator, HOST, &cluster, 1).unwrap();
    assert_eq!(ids(&engine), before, "the same containers, not new ones");

    fleet.moorctl(&["--yes", "down", &cluster, "--wait"]).unwrap().ok().unwrap();
}
