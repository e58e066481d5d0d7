//! Snapshots, copies, backups, moves and ends.

use serde_json::{Value, json};

use super::Client;
use crate::setup::{CONTAINER_TEMPLATE, Setup};
use crate::{Hand, Kind};

const QEMU: &str = "/nodes/pve-1/qemu/101";
const LXC: &str = "/nodes/pve-1/lxc/205";

async fn machine(storage: &str) -> Client {
    let client = Client::new(Setup::default());
    let disk = format!("{storage}:8");
    client
        .done(
            "POST",
            "/nodes/pve-1/qemu",
            &[("vmid", "101"), ("name", "db"), ("scsi0", &disk), ("net0", "virtio,bridge=vmbr0"), ("memory", "512")],
        )
        .await;
    client
}

async fn names(client: &Client, guest: &str) -> Vec<(String, Option<String>)> {
    let list = client.get(&format!("{guest}/snapshot")).await;
    let item = |item: &Value| (item["name"].as_str().unwrap().to_owned(), item["parent"].as_str().map(str::to_owned));
    list.as_array().unwrap().iter().map(item).collect()
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_a_chain_that_ends_at_the_present() {
    let client = machine("local-lvm").await;
    for name in ["one", "two", "three"] {
        client.done("POST", &format!("{QEMU}/snapshot"), &[("snapname", name), ("description", "x\n")]).await;
    }
    let owned = |all: &[(&str, Option<&str>)]| all.iter().map(|(a, b)| ((*a).to_owned(), b.map(str::to_owned))).collect::<Vec<_>>();
    assert_eq!(
        names(&client, QEMU).await,
        owned(&[("one", None), ("three", Some("two")), ("two", Some("one")), ("current", Some("three"))])
    );
    client.done("DELETE", &format!("{QEMU}/snapshot/two"), &[]).await;
    assert_eq!(names(&client, QEMU).await, owned(&[("one", None), ("three", Some("one")), ("current", Some("three"))]));
    let now = client.get(&format!("{QEMU}/snapshot")).await.as_array().unwrap().last().cloned().unwrap();
    assert_eq!((now["description"].as_str(), now["running"].as_i64()), (Some("You are here!"), Some(0)));
    assert_eq!(now["digest"], client.get(&format!("{QEMU}/config")).await["digest"]);
    client.ok("PUT", &format!("{QEMU}/snapshot/one/config"), &[("description", "y ")]).await;
    assert_eq!(client.get(&format!("{QEMU}/snapshot/one/config")).await["description"], "y");
    assert_eq!(
        client.get(&format!("{QEMU}/config?snapshot=one")).await["snaptime"],
        client.get(&format!("{QEMU}/snapshot/one/config")).await["snaptime"]
    );
}

#[tokio::test(start_paused = true)]
async fn names_of_snapshots_are_taken_once_and_some_not_at_all() {
    let client = machine("local-lvm").await;
    let path = format!("{QEMU}/snapshot");
    client.done("POST", &path, &[("snapname", "one")]).await;
    assert_eq!(client.fails("POST", &path, &[("snapname", "one")]).await, "snapshot name 'one' already used");
    for name in ["current", "Pending"] {
        assert_eq!(
            client.no("POST", &path, &[("snapname", name)]).await,
            (500, format!("unable to use snapshot name '{name}' (reserved name)"))
        );
    }
    assert_eq!(client.no("POST", &path, &[("snapname", "1st")]).await.0, 400);
    assert_eq!(client.no("POST", &path, &[("snapname", &"x".repeat(41))]).await.0, 400);
    assert_eq!(client.fails("DELETE", &format!("{path}/none"), &[]).await, "snapshot 'none' does not exist");
    assert_eq!(client.fails("POST", &format!("{path}/none/rollback"), &[]).await, "snapshot 'none' does not exist");
    let plain = Client::new(Setup::default());
    plain.done("POST", "/nodes/pve-1/qemu", &[("vmid", "101"), ("scsi0", "local:1")]).await;
    assert_eq!(plain.fails("POST", &path, &[("snapname", "one")]).await, "snapshot feature is not available");
}

#[tokio::test(start_paused = true)]
async fn a_rollback_stops_the_machine_and_brings_back_its_config_but_not_its_generation() {
    let client = machine("local-lvm").await;
    client.done("POST", &format!("{QEMU}/snapshot"), &[("snapname", "one")]).await;
    let before = client.get(&format!("{QEMU}/config")).await;
    client.ok("PUT", &format!("{QEMU}/config"), &[("memory", "1024"), ("scsi1", "local-lvm:1"), ("description", "later")]).await;
    client.done("POST", &format!("{QEMU}/status/start"), &[]).await;
    client.done("POST", &format!("{QEMU}/snapshot/one/rollback"), &[]).await;
    let after = client.get(&format!("{QEMU}/config")).await;
    assert_eq!(
        (after["memory"].as_str(), after["scsi1"].is_null(), after["unused0"].as_str()),
        (Some("512"), true, Some("local-lvm:vm-101-disk-1"))
    );
    assert!(
        after["vmgenid"] != before["vmgenid"] && after["description"] == "later" && after["parent"] == "one" && after["lock"].is_null()
    );
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "stopped");
    client.done("POST", &format!("{QEMU}/snapshot/one/rollback"), &[("start", "1")]).await;
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "running");
    client.done("POST", &format!("{QEMU}/snapshot"), &[("snapname", "live"), ("vmstate", "1")]).await;
    assert!(client.sim.inspect(|world| world.storages["local-lvm"].volumes.contains_key("vm-101-state-live")));
    client.done("POST", &format!("{QEMU}/snapshot/live/rollback"), &[]).await;
    assert_eq!(client.get(&format!("{QEMU}/status/current")).await["status"], "running", "its memory is in the snapshot");
}

#[tokio::test(start_paused = true)]
async fn on_zfs_only_the_latest_snapshot_can_be_gone_back_to() {
    let client = machine("tank").await;
    for name in ["one", "two"] {
        client.done("POST", &format!("{QEMU}/snapshot"), &[("snapname", name)]).await;
    }
    let end = client.fails("POST", &format!("{QEMU}/snapshot/one/rollback"), &[]).await;
    assert_eq!(end, "can't rollback, 'one' is not most recent snapshot on 'tank:vm-101-disk-0'");
    assert!(client.get(&format!("{QEMU}/config")).await["lock"].is_null());
    client.done("POST", &format!("{QEMU}/snapshot/two/rollback"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn when_a_volume_was_made_is_told_by_every_storage_but_zfs() {
    for (storage, tells) in [("tank", false), ("local-lvm", true)] {
        let client = machine(storage).await;
        let asked = [("vmid", "205"), ("ostemplate", CONTAINER_TEMPLATE), ("rootfs", &format!("{storage}:1"))];
        client.done("POST", "/nodes/pve-1/lxc", &asked).await;
        let list = client.get(&format!("/nodes/pve-1/storage/{storage}/content")).await;
        let volumes: Vec<_> = list.as_array().unwrap().iter().filter(|volume| !volume["vmid"].is_null()).collect();
        assert!(volumes.len() >= 2 && volumes.iter().all(|volume| volume.get("ctime").is_some() == tells), "{list}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_is_given_once_and_asking_for_the_next_one_reserves_nothing() {
    let client = machine("local-lvm").await;
    assert_eq!((client.get("/cluster/nextid").await, client.get("/cluster/nextid").await), (json!("100"), json!("100")));
    assert_eq!(
        client.no("GET", "/cluster/nextid", &[("vmid", "101")]).await,
        (400, "Parameter verification failed.{\"vmid\":\"VM 101 already exists\"}".to_owned())
    );
    let taken = client.no("POST", "/nodes/pve-1/qemu", &[("vmid", "101")]).await;
    assert_eq!(taken, (500, "unable to create VM 101 - VM 101 already exists on node 'pve-1'".to_owned()));
    let taken =
        client.no("POST", "/nodes/pve-1/lxc", &[("vmid", "101"), ("ostemplate", CONTAINER_TEMPLATE), ("rootfs", "local-lvm:1")]).await;
    assert_eq!(taken, (500, "unable to create CT 101 - VM 101 already exists on node 'pve-1'".to_owned()));
    let missing = client.no("POST", "/nodes/pve-1/lxc", &[("vmid", "102")]).await;
    assert_eq!(missing, (400, "Parameter verification failed.{\"ostemplate\":\"property is missing and it is not optional\"}".to_owned()));
    // While one is being made, its number is taken too, and it is seen.
    let upid = client.ok("POST", "/nodes/pve-1/qemu", &[("vmid", "102")]).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/102/config").await["lock"], "create");
    assert_eq!(client.no("POST", "/nodes/pve-1/qemu", &[("vmid", "102")]).await.0, 500);
    client.end(&upid).await;
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_nothing_is_left_behind() {
    let client = machine("local-lvm").await;
    client.sim.change(|world| world.faults.storage_full.extend(["local-lvm".to_owned(), "tank".to_owned()]));
    let end = client.fails("POST", "/nodes/pve-1/qemu", &[("vmid", "102"), ("scsi0", "local-lvm:1")]).await;
    let words = "lvcreate 'pve/vm-102-disk-0' error:   Cannot create new thin volume, free space in thin pool pve/data reached threshold.";
    assert_eq!(end, format!("unable to create VM 102 - {words}"));
    assert_eq!(client.no("GET", "/nodes/pve-1/qemu/102/config", &[]).await.0, 500);
    let end = client.fails("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "102"), ("full", "1"), ("storage", "tank")]).await;
    assert_eq!(end, "clone failed: zfs error: cannot create 'tank/vm-102-disk-0': out of space");
    assert_eq!(client.no("GET", "/nodes/pve-1/qemu/102/config", &[]).await.0, 500);
    let (status, words) = client.no("PUT", &format!("{QEMU}/config"), &[("scsi1", "tank:1")]).await;
    assert!(status == 500 && words.contains("out of space"), "{words}");
    client.sim.change(|world| world.faults = crate::Faults::default());
    let (status, words) = client.no("PUT", &format!("{QEMU}/config"), &[("scsi1", "tank:9999")]).await;
    assert!(status == 500 && words.contains("out of space"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_machine_becomes_a_template_and_is_linked_to_and_then_cannot_go() {
    let client = machine("tank").await;
    assert_eq!(
        client.no("POST", &format!("{QEMU}/clone"), &[("newid", "102"), ("full", "0")]).await,
        (500, "Linked clone feature is not supported for 'tank:vm-101-disk-0' (scsi0)".to_owned())
    );
    client.done("POST", &format!("{QEMU}/template"), &[]).await;
    let config = client.get(&format!("{QEMU}/config")).await;
    assert_eq!((config["template"].as_i64(), config["scsi0"].as_str()), (Some(1), Some("tank:base-101-disk-0,size=8G")));
    assert_eq!(client.fails("POST", &format!("{QEMU}/status/start"), &[]).await, "you can't start a vm if it's a template");
    assert_eq!(
        client.fails("POST", &format!("{QEMU}/snapshot"), &[("snapname", "xx")]).await,
        "you can't take a snapshot if it's a template"
    );
    assert_eq!(
        client.no("POST", &format!("{QEMU}/clone"), &[("newid", "102"), ("storage", "tank")]).await.1,
        "parameter 'storage' not allowed for linked clones"
    );
    client.done("POST", &format!("{QEMU}/clone"), &[("newid", "102")]).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/102/config").await["scsi0"], "tank:base-101-disk-0/vm-102-disk-0,size=8G");
    assert!(client.fails("DELETE", QEMU, &[]).await.starts_with("base volume 'tank:base-101-disk-0' is still in use by linked cloned"));
    client.done("DELETE", "/nodes/pve-1/qemu/102", &[]).await;
    client.done("DELETE", QEMU, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_stopped_template_are_made_at_once_and_each_is_locked_until_it_is_done() {
    let client = Client::new(Setup::default());
    let first = client.ok("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "101")]).await;
    let second = client.ok("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "102")]).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/101/config").await["lock"], "clone");
    assert_eq!((client.end(&first).await, client.end(&second).await), ("OK".to_owned(), "OK".to_owned()));
    assert!(client.get("/nodes/pve-1/qemu/101/config").await["lock"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_backup_locks_and_is_listed_and_brings_the_guest_back() {
    let client = machine("local-lvm").await;
    let backup = [
        ("vmid", "101"),
        ("storage", "local"),
        ("mode", "stop"),
        ("compress", "zstd"),
        ("remove", "0"),
        ("notes-template", "{{guestname}} by moorline"),
        ("protected", "1"),
    ];
    let upid = client.ok("POST", "/nodes/pve-1/vzdump", &backup).await;
    assert_eq!(client.get(&format!("{QEMU}/config")).await["lock"], "backup");
    assert_eq!(client.end(&upid).await, "OK");
    let list = client.get("/nodes/pve-1/storage/local/content?content=backup&vmid=101").await;
    let volid = list[0]["volid"].as_str().unwrap().to_owned();
    assert!(volid.starts_with("local:backup/vzdump-qemu-101-2026_11_23-10_00_") && volid.ends_with(".vma.zst"), "{volid}");
    assert_eq!(
        (list[0]["notes"].as_str(), list[0]["protected"].as_i64(), list[0]["subtype"].as_str()),
        (Some("db by moorline"), Some(1), Some("qemu"))
    );
    let content = format!("/nodes/pve-1/storage/local/content/{}", crate::request::encode(&volid));
    assert!(client.no("DELETE", &content, &[]).await.1.contains("protected"));
    let before = client.get(&format!("{QEMU}/config")).await;
    let taken = client.no("POST", "/nodes/pve-1/qemu", &[("vmid", "101"), ("archive", &volid)]).await;
    assert_eq!(taken, (500, "unable to restore VM 101 - VM 101 already exists on node 'pve-1'".to_owned()));
    client.done("POST", "/nodes/pve-1/qemu", &[("vmid", "101"), ("archive", &volid), ("force", "1")]).await;
    let after = client.get(&format!("{QEMU}/config")).await;
    assert!(after["net0"] == before["net0"] && after["vmgenid"] != before["vmgenid"] && after["smbios1"] == before["smbios1"]);
    client.done("POST", "/nodes/pve-1/qemu", &[("vmid", "102"), ("archive", &volid), ("unique", "1"), ("storage", "tank")]).await;
    let copy = client.get("/nodes/pve-1/qemu/102/config").await;
    assert!(copy["net0"] != before["net0"] && copy["scsi0"] == "tank:vm-102-disk-0,size=8G", "{copy}");
    // With its slash encoded or not.
    let raw = format!("/nodes/pve-1/storage/local/content/{volid}");
    assert_eq!(client.get(&raw).await["volid"], volid.as_str());
    client.ok("PUT", &content, &[("protected", "0")]).await;
    client.done("DELETE", &content, &[]).await;
    assert_eq!(client.get("/nodes/pve-1/storage/local/content?content=backup").await, json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_backup_of_a_locked_guest_fails_and_one_that_may_remove_removes() {
    let mut setup = Setup::default().with_guest(Kind::Lxc, 205, false, &[("rootfs", "local-lvm:vm-205-disk-0,size=4G")]);
    setup.storages[0].keep_last = Some(1);
    let client = Client::new(setup);
    client.sim.hand(&Hand::Lock { vmid: 205, lock: "snapshot".to_owned() }).unwrap();
    let upid = client.ok("POST", "/nodes/pve-1/vzdump", &[("vmid", "205")]).await;
    assert_eq!(client.end(&upid).await, "job errors");
    let log = client.get(&format!("/nodes/pve-1/tasks/{}/log", crate::request::encode(upid.as_str().unwrap()))).await.to_string();
    assert!(log.contains("ERROR: Backup of VM 205 failed - CT is locked (snapshot)"), "{log}");
    assert_eq!(client.get(&format!("{LXC}/config")).await["lock"], "snapshot");
    client.sim.hand(&Hand::Unlock { vmid: 205 }).unwrap();
    for remove in ["0", "0", "1"] {
        client.done("POST", "/nodes/pve-1/vzdump", &[("vmid", "205"), ("compress", "zstd"), ("remove", remove)]).await;
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    let left = client.get("/nodes/pve-1/storage/local/content?content=backup").await;
    assert_eq!(left.as_array().unwrap().len(), 1);
    let volid = left[0]["volid"].as_str().unwrap();
    client.done("POST", "/nodes/pve-1/lxc", &[("vmid", "206"), ("ostemplate", volid), ("restore", "1"), ("storage", "tank")]).await;
    assert_eq!(client.get("/nodes/pve-1/lxc/206/config").await["rootfs"], "tank:subvol-206-disk-0,size=4G");
}

#[tokio::test(start_paused = true)]
async fn guests_move_to_the_other_node_and_are_no_longer_found_on_the_first() {
    let client = Client::new(Setup::two_nodes().with_guest(Kind::Qemu, 101, true, &[("scsi0", "local-lvm:vm-101-disk-0,size=8G")]));
    let path = format!("{QEMU}/migrate");
    assert_eq!(client.no("POST", &path, &[("target", "pve-2")]).await, (500, "can't migrate running VM without --online".to_owned()));
    assert_eq!(client.no("POST", &path, &[("target", "pve-3")]).await, (500, "no such cluster node 'pve-3'".to_owned()));
    assert_eq!(client.no("POST", &path, &[("target", "pve-1")]).await.0, 400);
    let end = client.fails("POST", &path, &[("target", "pve-2"), ("online", "1")]).await;
    assert!(end.contains("can't live migrate attached local disks without with-local-disks option"), "{end}");
    client.done("POST", &path, &[("target", "pve-2"), ("online", "1"), ("with-local-disks", "1")]).await;
    assert_eq!(
        client.no("GET", &format!("{QEMU}/config"), &[]).await.1,
        "Configuration file 'nodes/pve-1/qemu-server/101.conf' does not exist"
    );
    assert_eq!(client.get("/nodes/pve-2/qemu/101/status/current").await["status"], "running");
    let resources = client.get("/cluster/resources?type=vm").await;
    assert_eq!(resources.as_array().unwrap().iter().find(|item| item["vmid"] == 101).unwrap()["node"], "pve-2");
    client.sim.change(|world| world.faults.nodes_off.insert("pve-2".to_owned()));
    assert_eq!(client.no("GET", "/nodes/pve-2/qemu/101/config", &[]).await.0, 595);
}

#[tokio::test(start_paused = true)]
async fn what_is_protected_or_runs_does_not_go() {
    let client = machine("local-lvm").await;
    client.ok("PUT", &format!("{QEMU}/config"), &[("protection", "1")]).await;
    assert_eq!(client.no("DELETE", QEMU, &[]).await, (500, "can't remove VM 101 - protection mode enabled".to_owned()));
    let disk = client.no("PUT", &format!("{QEMU}/config"), &[("delete", "scsi0")]).await;
    assert_eq!(disk, (500, "can't remove drive 'scsi0' - protection mode enabled".to_owned()));
    client
        .done("POST", "/nodes/pve-1/lxc", &[("vmid", "205"), ("ostemplate", CONTAINER_TEMPLATE), ("rootfs", "local-lvm:1"), ("start", "1")])
        .await;
    assert_eq!(client.no("DELETE", LXC, &[]).await, (500, "unable to destroy CT 205 - container is running".to_owned()));
    assert_eq!(client.no("POST", &format!("{LXC}/status/reboot"), &[("timeout", "x")]).await.0, 400);
    client.done("POST", &format!("{LXC}/status/stop"), &[]).await;
    assert_eq!(client.no("POST", &format!("{LXC}/status/stop"), &[]).await, (500, "CT 205 not running".to_owned()));
    assert_eq!(client.no("POST", &format!("{LXC}/status/shutdown"), &[]).await, (500, "CT 205 not running".to_owned()));
    assert_eq!(client.no("PUT", &format!("{LXC}/config"), &[("delete", "memory")]).await.1, "unable to delete required option 'memory'");
    assert_eq!(
        client.no("PUT", &format!("{LXC}/config"), &[("unprivileged", "0")]).await.1,
        "unable to modify read-only option: 'unprivileged'"
    );
    // A machine that does not run can be stopped as often as one likes.
    client.done("POST", &format!("{QEMU}/status/stop"), &[]).await;
    assert_eq!(client.no("POST", &format!("{QEMU}/status/reboot"), &[]).await, (500, "VM 101 not running".to_owned()));
    assert_eq!(client.no("POST", &format!("{QEMU}/status/suspend"), &[]).await, (500, "VM 101 not running".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn disks_move_between_storages_and_guests() {
    let client = machine("local-lvm").await;
    client.done("POST", &format!("{QEMU}/move_disk"), &[("disk", "scsi0"), ("storage", "tank")]).await;
    let config = client.get(&format!("{QEMU}/config")).await;
    assert_eq!(
        (config["scsi0"].as_str(), config["unused0"].as_str()),
        (Some("tank:vm-101-disk-0,size=8G"), Some("local-lvm:vm-101-disk-0"))
    );
    client.done("POST", &format!("{QEMU}/move_disk"), &[("disk", "scsi0"), ("storage", "local-lvm"), ("delete", "1")]).await;
    assert_eq!(
        client.no("POST", &format!("{QEMU}/move_disk"), &[("disk", "scsi0"), ("storage", "local-lvm")]).await.1,
        "you can't move to the same storage with same format"
    );
    client.done("POST", "/nodes/pve-1/qemu", &[("vmid", "102")]).await;
    client.done("POST", &format!("{QEMU}/move_disk"), &[("disk", "unused0"), ("target-vmid", "102"), ("target-disk", "scsi0")]).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/102/config").await["scsi0"], "local-lvm:vm-102-disk-0");
    client.ok("PUT", &format!("{QEMU}/unlink"), &[("idlist", "scsi0")]).await;
    assert!(client.get(&format!("{QEMU}/config")).await["scsi0"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_container_is_copied_with_its_source_locked_and_has_an_address_of_its_own() {
    let client = Client::new(Setup::default());
    let new = [
        ("vmid", "205"),
        ("ostemplate", CONTAINER_TEMPLATE),
        ("rootfs", "tank:4"),
        ("net0", "name=eth0,bridge=vmbr0"),
        ("description", "x"),
    ];
    client.done("POST", "/nodes/pve-1/lxc", &new).await;
    let upid = client.ok("POST", &format!("{LXC}/clone"), &[("newid", "206"), ("hostname", "copy")]).await;
    assert_eq!(client.get(&format!("{LXC}/config")).await["lock"], "disk");
    assert_eq!(client.get("/nodes/pve-1/lxc/206/config").await["lock"], "create");
    assert_eq!(client.end(&upid).await, "OK");
    let (from, copy) = (client.get(&format!("{LXC}/config")).await, client.get("/nodes/pve-1/lxc/206/config").await);
    assert!(from["lock"].is_null() && copy["lock"].is_null() && from["net0"] != copy["net0"]);
    assert_eq!((copy["hostname"].as_str(), copy["rootfs"].as_str()), (Some("copy"), Some("tank:subvol-206-disk-0,size=4G")));
    assert_eq!(copy["description"], "x\n");
    client.done("POST", &format!("{LXC}/status/start"), &[]).await;
    let running = client.no("POST", &format!("{LXC}/clone"), &[("newid", "207")]).await;
    assert_eq!(running, (500, "Cannot do full clones on a running container without snapshots".to_owned()));
    let taken = client.no("POST", &format!("{LXC}/clone"), &[("newid", "206")]).await;
    assert_eq!(taken.0, 500);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_said_to_be_missing_at_once_or_by_the_worker() {
    let client = Client::new(Setup::default());
    let missing = |kind: &str, vmid: u32| format!("Configuration file 'nodes/pve-1/{kind}/{vmid}.conf' does not exist");
    for (method, path) in [
        ("GET", "/nodes/pve-1/qemu/777/config"),
        ("GET", "/nodes/pve-1/qemu/777/status/current"),
        ("GET", "/nodes/pve-1/qemu/777/pending"),
        ("GET", "/nodes/pve-1/qemu/777/snapshot"),
        ("DELETE", "/nodes/pve-1/qemu/777"),
    ] {
        assert_eq!(client.no(method, path, &[]).await, (500, missing("qemu-server", 777)), "{method} {path}");
    }
    assert_eq!(client.no("PUT", "/nodes/pve-1/lxc/777/config", &[("cores", "1")]).await, (500, missing("lxc", 777)));
    // A machine is no container.
    assert_eq!(client.no("GET", "/nodes/pve-1/lxc/9000/config", &[]).await, (500, missing("lxc", 9000)));
    assert_eq!(client.fails("POST", "/nodes/pve-1/qemu/777/status/start", &[]).await, missing("qemu-server", 777));
    assert_eq!(client.fails("POST", "/nodes/pve-1/lxc/777/status/start", &[]).await, missing("lxc", 777));
    let no_file = "unable to find configuration file for VM 777 on node 'pve-1'".to_owned();
    assert_eq!(client.fails("POST", "/nodes/pve-1/qemu/777/status/stop", &[]).await, no_file);
    assert_eq!(client.no("POST", "/nodes/pve-1/qemu/777/status/reboot", &[]).await, (500, no_file));
    assert_eq!(client.no("POST", "/nodes/pve-1/lxc/777/status/stop", &[]).await, (500, "CT 777 not running".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn old_hosts_write_numbers_as_texts() {
    let client = Client::new(Setup { old_numbers: true, ..Setup::default() });
    let list = client.get("/nodes/pve-1/qemu").await;
    assert_eq!((list[0]["vmid"].as_str(), list[0]["maxdisk"].as_str()), (Some("9000"), Some("4294967296")));
}
