//! A disk that is full, or that fails: what was acknowledged is kept, how things end is recorded, and the agent says what is wrong.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use moorline_tests::engine;
use moorline_tests::faults::Faults;
use moorline_tests::fleet::{Drive, Fleet, text};
use moorline_tests::limits::SOON;
use moorline_tests::operator::Operator;
use moorline_tests::wait::{wait_for, wait_until};
use nix::unistd::Uid;

use crate::ops::{done, op, stage};
use crate::setup::{HOST, assert_says, end_command, services, sim_containers, sim_fleet};

/// So large is the disk of the agent's state folder; the journal keeps 4 MiB of it free.
const DISK: &str = "size=16m,mode=0700";

/// A fleet whose agent has a small disk of its own, in memory; its simulated engine stands elsewhere.
struct SmallDisk {
    // Dropped first: its processes hold the disk.
    fleet: Option<Fleet>,
    operator: Operator,
    disk: PathBuf,
    root: PathBuf,
    rotate_bytes: &'static str,
}

impl SmallDisk {
    /// A segment of the journal is closed after `rotate_bytes`. `None`, with a line that says so, for whoever must not mount
    /// anything.
    fn start(name: &str, rotate_bytes: &'static str) -> Option<Self> {
        if !Uid::effective().is_root() {
            assert!(!engine::is_required(), "only root may mount a small disk; run the tests as root");
            println!("skipped: only root may mount a small disk");
            return None;
        }
        let fleet = Fleet::start(name).unwrap();
        let (disk, root) = (fleet.agent_dir(HOST), fleet.root().to_owned());
        std::fs::create_dir_all(&disk).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "moorline-test"]).arg(&disk).status().unwrap();
        assert!(mounted.success());
        let operator = fleet.operator().unwrap();
        let mut small = Self { fleet: Some(fleet), operator, disk, root, rotate_bytes };
        let elsewhere = small.root.join("engine");
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(elsewhere, small.disk.join("sim")).unwrap();
        small.fleet().add_host(HOST, Drive::Sim, &[]).unwrap();
        small.restart_agent();
        Some(small)
    }

    fn restart_agent(&mut self) {
        let rotate_bytes = self.rotate_bytes;
        self.fleet().kill_agent(HOST).unwrap();
        self.fleet().start_agent_with(HOST, &[("MOORLINE_JOURNAL_ROTATE_BYTES", rotate_bytes)]).unwrap();
    }

    fn fleet(&mut self) -> &mut Fleet {
        self.fleet.as_mut().unwrap()
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = std::fs::File::options().create(true).append(true).open(self.disk.join("filler")).unwrap();
        for size in [64 * 1024, 512, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.disk.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.fleet.take());
        let _ = Command::new("umount").arg(&self.disk).status();
        // The fleet could not remove what was mounted.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[test]
fn on_a_full_disk_nothing_new_begins_and_what_began_is_told_to_its_end() {
    fills_up("fulldisk", "16777216");
}

#[test]
fn a_new_segment_of_the_journal_has_room_for_how_things_end_too() {
    // Every write closes a segment: what is to be told to its end began in another one.
    fills_up("fullsegment", "1");
}

/// That an agent whose disk is full takes on nothing new, records and tells how what it had begun ends, and goes on when there
/// is room again.
fn fills_up(name: &str, rotate_bytes: &'static str) {
    let Some(mut small) = SmallDisk::start(name, rotate_bytes) else { return };
    small.fleet().push(&services("edge", &["site", "db"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = |name: &str| format!("{HOST}/edge-{name}-1");
    let large = small.fleet().file("large", "x".repeat(20_000)).unwrap();
    let large = text(&large).unwrap();
    // It says much, so that its end takes more room than the journal may happen to have beside its reserve.
    let chatter = ["exec", &on("site"), "--no-wait", "--stdin", large, "--", "sh", "-c", "cat; cat >&2; sleep 500"];
    let long = done(small.fleet(), &chatter);
    let long = long["op_id"].as_str().unwrap().to_owned();
    let fleet = small.fleet.as_ref().unwrap();
    let runs = || Ok(["started", "task_running"].contains(&stage(fleet, &long)?.as_str()));
    wait_until("it runs", SOON, runs).unwrap();

    small.fill();
    // What the journal had taken before lasts for a while: for large orders first, then for small ones.
    let refused = |fleet: &Fleet| {
        let until = |line: &[&str]| (0..60).map(|_| op(fleet, line)).find(|output| output.code != 0);
        until(&["exec", &on("db"), "--stdin", large, "--", "true"]).expect("the disk is full and all large orders are accepted");
        until(&["exec", &on("db"), "--", "true"]).expect("the disk is full and all is accepted")
    };
    assert_says(&refused(fleet), &["[disk_full]", "free the disk"]);
    assert!(fleet.logs().unwrap()[HOST].contains("free the disk"), "the log says what is wrong");

    // Only now it ends. That is recorded, and its receipt arrives and is verified.
    assert!(runs().unwrap(), "it still runs when the disk is full");
    end_command(fleet);
    wait_until("what began before ends", SOON, || Ok(stage(fleet, &long)? == "succeeded")).unwrap();
    let shown = op(fleet, &["show", &long, "-o", "json"]).ok().unwrap().json().unwrap();
    assert_eq!((shown["receipt"]["outcome"].as_str(), shown["receipt_doubt"].is_null()), (Some("succeeded"), true), "{shown}");
    // An agent starts on a full disk, too, and still says why it takes nothing on.
    small.restart_agent();
    wait_until("it is back", SOON, || Ok(small.operator.host(HOST)?.connected)).unwrap();
    let fleet = small.fleet.as_ref().unwrap();
    assert_says(&refused(fleet), &["[disk_full]"]);
    fleet.agent(HOST, &["journal", "verify"]).unwrap().ok().unwrap();

    small.free();
    done(fleet, &["restart", &on("db")]);
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    assert_eq!(sim_containers(fleet, HOST), ["edge-site-1"]);
}

/// That an agent whose journal cannot be written by `call` stops and says so, and that the next one knows all that was
/// acknowledged and does what was not.
fn stops_and_recovers(name: &str, call: &str) {
    let (mut fleet, operator) = sim_fleet(name);
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let on = format!("{HOST}/edge-site-1");
    let before = done(&fleet, &["restart", &on, "--key", "before"]);
    let journal = fleet.agent_dir(HOST).join("journal");
    let segment = journal.join("00000000000000000001.jsonl");
    let Some(faults) = Faults::inject(fleet.agent_id(HOST).unwrap(), call, "error=EIO", &segment).unwrap() else {
        return println!("skipped: there is no strace");
    };
    let during = done(&fleet, &["stop", &on, "--no-wait"]);
    let id = during["op_id"].as_str().unwrap().to_owned();
    let ended = wait_for("the agent stops by itself", SOON, || fleet.agent_ended(HOST)).unwrap();
    drop(faults);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let log = fleet.logs().unwrap()[HOST].clone();
    for words in ["the journal has failed; the agent stops", "Input/output error", "start the agent again"] {
        assert!(log.contains(words), "`{words}` is missing in:\n{log}");
    }
    assert!(journal.join("failed").exists(), "what the kernel shows is not believed");
    assert_eq!(sim_containers(&fleet, HOST), ["edge-site-1"]);

    fleet.start_agent(HOST).unwrap();
    wait_until("what was not acknowledged is done", SOON, || Ok(stage(&fleet, &id)? == "succeeded")).unwrap();
    assert!(!journal.join("failed").exists());
    fleet.agent(HOST, &["journal", "verify"]).unwrap().ok().unwrap();
    let shown = fleet.agent(HOST, &["journal", "show"]).unwrap().ok().unwrap();
    assert_says(&shown, &[before["op_id"].as_str().unwrap(), &id]);
    let again = done(&fleet, &["restart", &on, "--key", "before"]);
    assert_eq!(again["receipt"]["same_as"], before["op_id"], "what was done before is known: {again}");
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
}

#[test]
fn a_flush_that_fails_stops_the_agent_and_loses_nothing_that_was_acknowledged() {
    stops_and_recovers("eioflush", "fdatasync");
}

#[test]
fn a_write_that_fails_stops_the_agent_and_loses_nothing_that_was_acknowledged() {
    stops_and_recovers("eiowrite", "write");
}
