//! The program `pve-sim`, as other languages' clients meet it.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path) -> Result<(Program, Value)> {
    let ready = folder.join("ready.json");
    let _ = std::fs::remove_file(&ready);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-sim"));
    command.args(["--listen", "127.0.0.1:0", "--setup"]).arg(folder.join("setup.json"));
    command.arg("--state").arg(folder.join("state.json")).arg("--ready").arg(&ready);
    let program = Program(command.spawn()?);
    for _ in 0..500 {
        if ready.exists() {
            return Ok((program, serde_json::from_slice(&std::fs::read(&ready)?)?));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the program does not say where it listens")
}

#[test]
fn it_says_where_it_listens_and_keeps_its_world_from_one_start_to_the_next() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let setup = json!({ "nodes": ["host-a"], "guests": [{ "vmid": 123, "kind": "lxc", "config": { "hostname": "kept" } }] });
    std::fs::write(folder.path().join("setup.json"), setup.to_string())?;
    let state = || -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(folder.path().join("state.json"))?)?) };
    let (program, ready) = start(folder.path())?;
    assert!(ready["url"].as_str().is_some_and(|url| url.starts_with("https://127.0.0.1:")), "{ready}");
    assert_eq!(ready["fingerprint"].as_str().map(str::len), Some(95));
    let mut kept = None;
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(20));
        kept = state().ok();
        if kept.is_some() {
            break;
        }
    }
    drop(program);
    let mut world = kept.context("no state was written")?;
    assert_eq!(world["guests"]["123"]["conf"]["hostname"], "kept");
    // What is changed while it is off is there when it is on again.
    world["guests"]["123"]["conf"]["hostname"] = json!("changed");
    std::fs::write(folder.path().join("state.json"), world.to_string())?;
    let (program, again) = start(folder.path())?;
    assert_ne!(again["fingerprint"], ready["fingerprint"], "its certificate is made at each start");
    drop(program);
    assert_eq!(state()?["guests"]["123"]["conf"]["hostname"], "changed");
    Ok(())
}
