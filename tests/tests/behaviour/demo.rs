//! `cargo demo` is the first thing that a visitor runs: it works, and leaves nothing behind.

use std::path::Path;
use std::process::Command;

use moorline_tests::engine::Engine;
use moorline_tests::limits::COMMAND;
use moorline_tests::process::run;

use crate::setup::engine_turn;

#[test]
fn the_demo_shows_push_heal_change_and_re_push_and_leaves_nothing_behind() {
    let _turn = engine_turn();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let output = run(demo, b"", COMMAND).unwrap().ok().unwrap();
    for words in [
        "moorctl push",
        "moorctl status",
        "is back after",
        "moorctl plan",
        "pushes again by itself",
        "guest 101 runs again after",
        "1 pending reboot",
        "backup local:backup/vzdump-qemu-101",
        "moorctl down",
    ] {
        assert!(output.stdout.contains(words), "`{words}` is missing in:\n{}", output.stdout);
    }
    let folder = output.stdout.lines().find_map(|l| l.strip_prefix("Everything happens in ")).unwrap().trim_end_matches('.');
    assert!(!Path::new(folder).exists());
    if let Ok(Some(engine)) = Engine::system() {
        assert!(output.stdout.contains("real Docker Engine"), "{}", output.stdout);
        let cluster = output.stdout.lines().find_map(|l| l.split_once("--cluster ")).unwrap().1.split(' ').next().unwrap().to_owned();
        assert!(engine.containers(&cluster).unwrap().is_empty());
        assert!(engine.networks(&cluster).unwrap().is_empty());
        assert!(engine.volumes(&cluster).unwrap().is_empty());
    }
}

#[test]
fn the_demo_of_a_cloud_makes_a_droplet_that_joins_and_leaves_nothing_behind() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.arg("--cloud").current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let output = run(demo, b"", COMMAND).unwrap().ok().unwrap();
    for words in
        ["moorctl saga start provision-droplet", "bound `web-1`", "mine-now", "destroy-droplet", "Nothing in the cloud costs any more"]
    {
        assert!(output.stdout.contains(words), "`{words}` is missing in:\n{}", output.stdout);
    }
}
