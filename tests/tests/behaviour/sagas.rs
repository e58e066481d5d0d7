//! Sagas on guests of a real agent, by an operator's own words: what is done, what is undone, and a hub that dies in the middle.

use moorline_tests::fleet::{Drive, Fleet, text};
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::operator::Operator;
use moorline_tests::process::Output;
use moorline_tests::pve::PveHost;
use moorline_tests::wait::{wait_for, wait_until};
use serde_json::{Value, json};

use crate::setup::{HOST, assert_says, moorctl};

/// A host of Proxmox VE with one guest that runs.
struct Site {
    fleet: Fleet,
    operator: Operator,
    pve: PveHost,
}

impl Site {
    fn start(test: &str) -> Self {
        let mut fleet = Fleet::start(test).unwrap();
        let pve = PveHost::start(fleet.binaries(), &fleet.root().join("pve"), &json!({})).unwrap();
        fleet.connect_to_proxmox(HOST, &pve).unwrap();
        fleet.add_host(HOST, Drive::Guests, &[]).unwrap();
        let operator = fleet.operator().unwrap();
        let site = Self { fleet, operator, pve };
        let yaml = format!(
            "topology: edge\nhosts:\n  {HOST}:\n    proxmox:\n      guests:\n        101:\n          type: qemu\n          state: running\n          \
             config: {{ name: tills, cores: 2, memory: 2048, scsi0: \"local-lvm:8\", net0: \"virtio,bridge=vmbr0\" }}\n          \
             from: {{ clone: 9000, full: true, storage: local-lvm }}\n"
        );
        site.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
        site.fleet.wait_converged(&site.operator, HOST, "edge", 1).unwrap();
        site.until_running();
        wait_until("the host tells of its guest", SOON, || Ok(site.moorctl(&["get", "guests", HOST]).ok()?.stdout.contains("tills")))
            .unwrap();
        site
    }

    fn moorctl(&self, args: &[&str]) -> Output {
        moorctl(&self.fleet, args)
    }

    fn until_running(&self) {
        wait_until("the guest runs", APPLY, || Ok(self.has("status", "running")))
            .unwrap_or_else(|e| panic!("{e:#}: {:#?}", self.pve.guest(101)));
    }

    fn has(&self, key: &str, wanted: &str) -> bool {
        let guest = self.pve.guest(101).unwrap();
        let has = guest.and_then(|guest| guest.get(key).cloned());
        has.is_some_and(|has| has.as_str().map_or_else(|| has.to_string(), str::to_owned) == wanted)
    }

    /// The newest saga, once it stands so.
    fn until_status(&self, status: &str) -> Value {
        let find = || {
            let listed = self.moorctl(&["saga", "ls", "-o", "json"]).ok()?;
            let sagas: Vec<Value> = serde_json::from_str(&listed.stdout)?;
            Ok(sagas.into_iter().next().filter(|saga| saga["status"] == status))
        };
        wait_for(&format!("the saga is {status}"), APPLY, find)
            .unwrap_or_else(|e| panic!("{e:#}: {}", self.moorctl(&["saga", "ls", "-o", "yaml"]).ok().unwrap().stdout))
    }

    /// How many snapshots the guest has.
    fn snapshots(&self) -> usize {
        self.pve.effects(101, "snapshot-made").unwrap() - self.pve.effects(101, "snapshot-deleted").unwrap()
    }

    fn all_right(&self) {
        assert_eq!(self.pve.wrong().unwrap(), Vec::<Value>::new());
    }
}

#[test]
fn a_change_is_kept_when_the_guest_stays_well_and_leaves_no_snapshot() {
    let t = Site::start("saga-change");
    let target = format!("{HOST}/101");
    let args = ["saga", "start", "change-with-snapshot", &target, "--set", "config.memory=4096", "--set", "check-for=1s"];
    let dry = t.moorctl(&[&args[..], &["--dry-run"]].concat());
    if dry.ok().is_err() {
        panic!("{}", t.moorctl(&["saga", "library", "change-with-snapshot"]).ok().unwrap().stdout);
    }
    assert_eq!(t.pve.effects(101, "snapshot-made").unwrap(), 0, "nothing was sent");
    t.moorctl(&[&args[..], &["--wait"]].concat()).ok().unwrap();
    let saga = t.until_status("completed");
    assert!(t.has("memory", "4096"));
    assert_eq!((t.pve.effects(101, "snapshot-made").unwrap(), t.snapshots()), (1, 0));
    let shown = t.moorctl(&["saga", "show", saga["saga_id"].as_str().unwrap()]).ok().unwrap();
    assert_says(&shown, &["completed"]);
    t.all_right();
}

#[test]
fn what_fails_is_undone_and_nothing_is_left_also_when_the_hub_dies_in_the_middle() {
    let mut t = Site::start("saga-undo");
    let file = "name: grow\nkind: update\nsteps:\n  \
                - name: snapshot\n    on: HOST/101\n    op: snapshot-create\n    params: { name: \"${mark}\", description: \"${description}\" }\n    \
                undo: { op: snapshot-delete, params: { name: \"${mark}\" } }\n  \
                - name: grow\n    on: HOST/101\n    op: resize\n    params: { disk: scsi7, size: 64G }\n    \
                undo: { op: snapshot-rollback, params: { name: \"${mark:snapshot}\" } }\n";
    let file = t.fleet.file("grow.yaml", file.replace("HOST", HOST)).unwrap();
    t.moorctl(&["saga", "start", "-f", text(&file).unwrap()]).ok().unwrap();
    t.fleet.kill_hub().unwrap();
    t.fleet.start_hub().unwrap();
    t.until_status("rolled_back");
    assert_eq!((t.pve.effects(101, "snapshot-made").unwrap(), t.snapshots()), (1, 0));
    t.all_right();
}

#[test]
fn a_guest_is_provisioned_and_destroyed_and_what_cannot_be_made_leaves_nothing() {
    let t = Site::start("saga-provision");
    let set = [
        "--set",
        "type=qemu",
        "--set",
        "config.name=fresh",
        "--set",
        "config.memory=512",
        "--set",
        "config.scsi0=local-lvm:4",
        "--set",
        "check-for=1s",
    ];
    let target = format!("{HOST}/555");
    let start = [&["saga", "start", "provision-guest", &target][..], &set[..], &["--wait"]].concat();
    t.moorctl(&start).ok().unwrap();
    t.until_status("completed");
    assert!(t.pve.guest(555).unwrap().is_some());
    t.moorctl(&["saga", "start", "destroy-guest", &target, "--set", "keep=0s", "--wait"]).ok().unwrap();
    t.until_status("completed");
    t.all_right();
}
