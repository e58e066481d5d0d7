//! Guests of Proxmox VE, on hosts of their own and beside containers on the real engine: a topology is pushed, planned, drifted from,
//! healed and rolled back, and operations are ordered, by an operator's own words.

use moorline_tests::fleet::{Drive, Fleet, text};
use moorline_tests::image::IMAGE;
use moorline_tests::limits::{APPLY, SOON};
use moorline_tests::operator::Operator;
use moorline_tests::process::Output;
use moorline_tests::pve::PveHost;
use moorline_tests::pve_sim::world::guest::Kind;
use moorline_tests::pve_sim::world::hand::Hand;
use moorline_tests::wait::{wait_for, wait_until};
use serde_json::{Value, json};

use crate::setup::{EngineFleet, HOST, assert_says, moorctl};

const TEMPLATE: &str = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";

fn guests(memory: u32) -> String {
    format!(
        "    proxmox:
      guests:
        101:
          type: qemu
          state: running
          config: {{ name: tills, cores: 2, memory: {memory}, scsi0: \"local-lvm:8\", net0: \"virtio,bridge=vmbr0\", tags: [prod] }}
          from: {{ clone: 9000, full: true, storage: local-lvm }}
        205:
          type: lxc
          state: running
          config: {{ hostname: \"dns-${{host.name}}\", memory: 256, rootfs: \"local-lvm:4\", net0: \"name=eth0,bridge=vmbr0,ip=dhcp\", unprivileged: true }}
          from: {{ ostemplate: \"{TEMPLATE}\" }}
"
    )
}

/// A host of Proxmox VE alone.
struct Alone {
    fleet: Fleet,
    operator: Operator,
    pve: PveHost,
}

impl Alone {
    fn start(test: &str, setup: &Value) -> Self {
        let mut fleet = Fleet::start(test).unwrap();
        let pve = PveHost::start(fleet.binaries(), &fleet.root().join("pve"), setup).unwrap();
        fleet.connect_to_proxmox(HOST, &pve).unwrap();
        fleet.add_host(HOST, Drive::Guests, &[]).unwrap();
        let operator = fleet.operator().unwrap();
        Self { fleet, operator, pve }
    }

    fn push(&self, yaml: &str, generation: u64) {
        self.fleet.push(yaml, &["--wait"]).unwrap().ok().unwrap();
        self.fleet.wait_converged(&self.operator, HOST, "edge", generation).unwrap();
    }

    fn moorctl(&self, args: &[&str]) -> Output {
        moorctl(&self.fleet, args)
    }
}

fn edge(memory: u32) -> String {
    format!("topology: edge\nhosts:\n  {HOST}:\n{}", guests(memory))
}

fn is(pve: &PveHost, vmid: u32, key: &str, wanted: &str) -> bool {
    let guest = pve.guest(vmid).unwrap();
    let has = guest.and_then(|guest| guest.get(key).cloned());
    has.is_some_and(|has| has.as_str().map_or_else(|| has.to_string(), str::to_owned) == wanted)
}

fn until(pve: &PveHost, vmid: u32, key: &str, wanted: &str) {
    wait_until(&format!("guest {vmid} has {key} {wanted}"), APPLY, || Ok(is(pve, vmid, key, wanted)))
        .unwrap_or_else(|e| panic!("{e:#}: {:#?}", pve.guest(vmid)));
}

/// Nothing that any agent asked was otherwise than the API's description says, where there is one.
fn all_right(pve: &PveHost) {
    assert_eq!(pve.wrong().unwrap(), Vec::<Value>::new());
}

#[test]
fn one_host_has_networks_containers_and_guests() {
    let Some(mut t) = EngineFleet::start("guests") else { return };
    let pve = PveHost::start(t.fleet.binaries(), &t.fleet.root().join("pve"), &json!({})).unwrap();
    t.fleet.stop_agent(HOST).unwrap();
    t.fleet.connect_to_proxmox(HOST, &pve).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    wait_until("the host tells of guests", SOON, || Ok(t.fleet.moorctl(&["get", "guests", HOST])?.ok().is_ok())).unwrap();
    let name = t.topology();
    let yaml = |memory: u32, greeting: &str| {
        format!(
            "topology: {name}\nhosts:\n  {HOST}:\n    docker:\n      networks: {{ front: {{}} }}\n      services:\n        \
             site: {{ image: \"{IMAGE}\", networks: [front], stop_grace_period: 1s, environment: {{ GREETING: {greeting} }} }}\n{}",
            guests(memory)
        )
    };
    let file = t.fleet.file("first.yaml", yaml(2048, "hello")).unwrap();
    let plan = t.fleet.moorctl(&["plan", "-f", text(&file).unwrap()]).unwrap().expect_code(2).unwrap();
    for line in [
        "+ create docker/container/",
        "+ create pve/guest/101",
        "from: clone=9000,full=true,storage=local-lvm",
        "+ create pve/guest/205",
        "config.hostname: dns-shop-1",
    ] {
        assert!(plan.stdout.contains(line), "`{line}` is missing in {}", plan.stdout);
    }
    t.fleet.moorctl(&["--yes", "push", "-f", text(&file).unwrap(), "--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &name, 1).unwrap();
    let container = format!("{name}-site-1");
    assert!(t.containers()[&container].running);
    for vmid in [101, 205] {
        until(&pve, vmid, "status", "running");
    }
    assert!(is(&pve, 101, "memory", "2048") && is(&pve, 205, "hostname", "dns-shop-1") && is(&pve, 101, "tags", "moorline;prod"));
    t.fleet.moorctl(&["plan", "-f", text(&file).unwrap()]).unwrap().expect_code(0).unwrap();

    // Both drift, and both are healed.
    t.engine.remove_container(t.fleet.cluster(), &container).unwrap();
    pve.by_hand(&Hand::Crash { vmid: 101 }).unwrap();
    pve.by_hand(&Hand::Set { vmid: 205, key: "memory".to_owned(), value: "128".to_owned() }).unwrap();
    wait_until("the container is back", SOON, || Ok(t.containers().get(&container).is_some_and(|c| c.running))).unwrap();
    until(&pve, 101, "status", "running");
    until(&pve, 205, "memory", "256");

    // A change, and back.
    let file = t.fleet.file("second.yaml", yaml(4096, "bye")).unwrap();
    let plan = t.fleet.moorctl(&["plan", "-f", text(&file).unwrap()]).unwrap().expect_code(2).unwrap();
    assert!(plan.stdout.contains("config.memory: 2048 → 4096"), "{}", plan.stdout);
    t.fleet.moorctl(&["--yes", "push", "-f", text(&file).unwrap(), "--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &name, 2).unwrap();
    assert!(is(&pve, 101, "memory", "4096"));
    let shown = || Ok(moorctl(&t.fleet, &["status"]).ok()?.stdout.contains("pve/guest/101: pending reboot: memory"));
    wait_until("that it waits for a reboot is shown", SOON, shown).unwrap();
    moorctl(&t.fleet, &["rollback", &name, "--to", "1", "--wait"]).ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &name, 3).unwrap();
    assert!(is(&pve, 101, "memory", "2048"));

    // Proxmox VE hangs: containers are healed all the same, and the operator hears of the other.
    pve.faults(&json!({ "connections": "half-open" })).unwrap();
    t.engine.remove_container(t.fleet.cluster(), &container).unwrap();
    wait_until("the container is back", APPLY, || Ok(t.containers().get(&container).is_some_and(|c| c.running))).unwrap();
    all_right(&pve);
    assert_eq!((pve.effects(101, "cloned").unwrap(), pve.effects(205, "created").unwrap()), (1, 1));
}

#[test]
fn a_guest_that_is_gone_waits_for_an_operator_who_may_have_it_made_anew() {
    let t = Alone::start("gone", &json!({}));
    t.push(&edge(2048), 1);
    t.pve.by_hand(&Hand::Stop { vmid: 205 }).unwrap();
    t.pve.by_hand(&Hand::Destroy { vmid: 205 }).unwrap();
    let row = wait_for("it is told", SOON, || {
        let said = t.moorctl(&["drift", "ls", "-o", "json"]).ok()?;
        let rows: Vec<Value> = serde_json::from_str(&said.stdout)?;
        Ok(rows.into_iter().find(|row| row["resource"] == "pve/guest/205" && row["field"] == "presence"))
    })
    .unwrap();
    let file = t.fleet.file("edge.yaml", edge(2048)).unwrap();
    let plan = t.fleet.moorctl(&["plan", "-f", text(&file).unwrap()]).unwrap().expect_code(0).unwrap();
    assert_says(&plan, &["pve/guest/205 presence: is missing, should be present"]);
    assert_eq!(t.pve.effects(205, "created").unwrap(), 1, "its data would not come back");
    t.moorctl(&["drift", "revert", &row["id"].to_string()]).ok().unwrap();
    until(&t.pve, 205, "status", "running");
    assert_eq!(t.pve.effects(205, "created").unwrap(), 2);
    all_right(&t.pve);
}

#[test]
fn operations_on_guests_are_done_once_told_truthfully_and_kept_apart_from_what_is_not_ours() {
    let t = Alone::start("guest-ops", &json!({}));
    t.pve
        .by_hand(&Hand::Make { vmid: 300, kind: Kind::Qemu, config: [("name".to_owned(), "theirs".to_owned())].into(), running: false })
        .unwrap();
    t.push(&edge(2048), 1);
    let target = |vmid: u32| format!("{HOST}/{vmid}");
    let made = t.moorctl(&["op", "snapshot", "create", &target(101), "before", "--key", "nightly"]).ok().unwrap();
    assert_says(&made, &["succeeded"]);
    t.moorctl(&["op", "snapshot", "create", &target(101), "before", "--key", "nightly"]).ok().unwrap();
    assert_eq!(t.pve.effects(101, "snapshot-made").unwrap(), 1, "by one key it is one operation");
    let listed = t.moorctl(&["op", "snapshot", "list", &target(101)]).ok().unwrap();
    assert_says(&listed, &["before"]);

    let stopped = t.moorctl(&["op", "shutdown", &target(205)]).ok().unwrap();
    assert_says(&stopped, &["succeeded"]);
    assert!(is(&t.pve, 205, "status", "stopped"));
    wait_until("it is shown as held", SOON, || Ok(t.moorctl(&["status"]).ok()?.stdout.contains("pve/guest/205: held by op"))).unwrap();
    t.moorctl(&["op", "start", &target(205)]).ok().unwrap();
    until(&t.pve, 205, "status", "running");

    let backup = t.moorctl(&["op", "backup", &target(101), "--storage", "local", "--protected"]).ok().unwrap();
    assert_says(&backup, &["vzdump-qemu-101"]);
    let log = backup.stderr + &backup.stdout;
    assert!(log.contains("  | "), "the task's log comes while it is waited for: {log}");

    // By its name, as the first number that there is.
    t.moorctl(&["op", "clone", &format!("{HOST}/guest/tills"), "--newid", "100"]).ok().unwrap();
    assert_eq!(t.pve.effects(100, "cloned").unwrap(), 1);

    let theirs = t.moorctl(&["op", "stop", &target(300)]);
    assert!(theirs.ok().is_err() && t.pve.effects(300, "stopped").unwrap() == 0);
    let shown = t.moorctl(&["get", "guests", HOST]).ok().unwrap();
    for words in ["theirs", "tills", "dns-shop-1"] {
        assert_says(&shown, &[words]);
    }

    // Destroyed is kept: not made anew, not started, and gone only when its time is over.
    assert!(t.moorctl(&["op", "destroy", &target(101)]).ok().is_err(), "it runs");
    t.moorctl(&["op", "destroy", &target(101), "--stop", "--backup-first", "local"]).ok().unwrap();
    assert!(is(&t.pve, 101, "name", "deleted-tills") && is(&t.pve, 101, "protection", "1") && is(&t.pve, 101, "status", "stopped"));
    t.moorctl(&["op", "destroy", &target(205), "--stop", "--now"]).ok().unwrap();
    assert_eq!(t.pve.guest(205).unwrap(), None);
    assert_eq!(t.pve.effects(205, "destroyed").unwrap(), 1);
    all_right(&t.pve);
}

#[test]
fn a_destroyed_guest_goes_when_its_time_is_over() {
    let t = Alone::start("purge", &json!({}));
    t.push(&edge(2048), 1);
    t.moorctl(&["op", "destroy", &format!("{HOST}/101"), "--stop", "--keep", "3s"]).ok().unwrap();
    wait_until("it is gone", APPLY, || Ok(t.pve.guest(101)?.is_none())).unwrap_or_else(|e| panic!("{e:#}: {:#?}", t.pve.guest(101)));
    assert_eq!(t.pve.effects(101, "cloned").unwrap(), 1, "and it is not made again");
    all_right(&t.pve);
}

#[test]
fn guests_that_are_there_are_imported_and_taken_over_as_they_are() {
    let t = Alone::start("guest-import", &json!({}));
    let config = [
        ("name", "files"),
        ("memory", "1024"),
        ("scsi0", "local-lvm:vm-110-disk-0,size=8G"),
        ("smbios1", "uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"),
        ("vmgenid", "0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e"),
    ];
    let config = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    t.pve.by_hand(&Hand::Make { vmid: 110, kind: Kind::Qemu, config, running: true }).unwrap();
    let imported = t.moorctl(&["import", "proxmox", "--host", HOST, "--vmid", "110"]).ok().unwrap();
    let before = t.pve.guest(110).unwrap().unwrap();
    let yaml = format!("topology: taken\n{}", imported.stdout);
    let refused = t.fleet.push(&yaml, &[]).unwrap();
    assert_says(&refused, &["pushed"]);
    wait_until("the host refuses it", SOON, || Ok(t.moorctl(&["status"]).ok()?.stdout.contains("policy_denied"))).unwrap();
    let mut t = t;
    t.fleet.stop_agent(HOST).unwrap();
    let policy = t.fleet.file("policy.toml", "outside = [\"guest/110\"]\n").unwrap();
    t.fleet.set_agent_config(HOST, &format!("policy = \"{}\"", policy.display())).unwrap();
    t.fleet.start_agent(HOST).unwrap();
    wait_until("it is taken over", SOON, || Ok(t.moorctl(&["get", "guests", HOST]).ok()?.stdout.contains("taken"))).unwrap();
    assert_eq!(t.pve.guest(110).unwrap().unwrap(), before, "nothing of it has changed");
    t.pve.by_hand(&Hand::Set { vmid: 110, key: "memory".to_owned(), value: "512".to_owned() }).unwrap();
    until(&t.pve, 110, "memory", "1024");
    all_right(&t.pve);
}
